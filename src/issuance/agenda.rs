//! What is begun next: names in the order of their need, found by one look at all of them and worked off one by one.
//!
//! A look at 100,000 names is work, so it is made when something is due, not when something happened: what ended is
//! looked at alone. It is made on a thread where nobody waits for it, and takes the memory for a few names at a time.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::account::ServerName;
use crate::config::AcmeConfig;
use crate::issuance::Shared;
use crate::issuance::book::{Book, Doing, Look, Memory};
use crate::issuance::cause::of_look;
use crate::issuance::looks::is_ordered_anyway;
use crate::issuance::names::{Names, present};
use crate::issuance::schedule::{Goal, Load, Next, Start, Subject, all_full_until, choose, next};
use crate::issuance::state::NameState;
use crate::issuance::survey::{Class, Survey, in_company, look_at, urgency};
use crate::snapshot::Snapshot;
use crate::tls::CertStore;

/// Names that one look at all of them puts into a queue.
const QUEUE_MAX: usize = 1_000;
/// Names for which the memory is taken at one time.
pub(super) const NAMES_AT_ONCE: usize = 500;
/// Two looks at all names are so many times as far apart as one takes.
const REST: u32 = 50;
/// All names are looked at again after so long, whatever happened: the clock may have been set.
const GOOD_FOR: Duration = Duration::from_secs(10 * 60);
/// After certificates changed: somebody imported one, or we published one ourselves.
const GOOD_FOR_CHANGED: Duration = Duration::from_secs(60);
/// Renewal windows that are asked for at one time.
const WINDOWS_MAX: usize = 4;
/// Names whose DNS is asked for at one time, and beside them as many that failed the last time: where DNS servers are silent
/// a look takes its time.
const LOOK_UPS_MAX: usize = 8;
/// How long a name whose DNS was looked at, and that is ordered, may wait for its order.
const LOOKED_UP_FOR_MS: i64 = 10 * 60 * 1_000;

/// What is to be begun.
#[derive(Default)]
pub(super) struct Agenda {
    pub(super) names: Arc<Names>,
    /// Names that are due, the most urgent first.
    due: Queue,
    /// The same of those that failed the last time: however many there are, they keep nobody waiting but each other.
    again: Queue,
    /// Names whose renewal window is to be asked for.
    windows: Queue,
    /// When something is due next. Unix milliseconds.
    pub(super) next_ms: i64,
    /// The certificates that were looked at.
    certificates: Weak<CertStore>,
    /// When it was made, and when the next one may be.
    made: Option<(Instant, Instant)>,
}

/// Names in their order.
#[derive(Default)]
struct Queue {
    names: VecDeque<ServerName>,
    /// Whether there were more than it holds.
    more: bool,
}

/// What is to be begun now.
#[derive(Default)]
pub(super) struct Begun {
    pub(super) orders: Vec<Start>,
    /// Names whose DNS is to be asked for, for an order like this.
    pub(super) look_ups: Vec<Start>,
    pub(super) windows: Vec<ServerName>,
}

// === impl Agenda ===

impl Agenda {
    /// Looks at all names. Blocks.
    pub(super) fn make(shared: &Shared, names: Arc<Names>, now_ms: i64) -> Self {
        let began = Instant::now();
        let snapshot = shared.reloader.published().load_full();
        let config = &snapshot.gateway.acme;
        let is_new = names.revision != snapshot.revision;
        let names = if is_new { Arc::new(Names::of(&snapshot)) } else { names };
        let mut agenda = Self {
            next_ms: i64::MAX,
            certificates: Arc::downgrade(&snapshot.certificates),
            names: names.clone(),
            ..Self::default()
        };
        if is_new {
            shared.take_up(&snapshot.gateway, &names, now_ms);
        }
        if config.enabled {
            agenda.look(&shared.book, &snapshot, now_ms);
        }
        let took = began.elapsed();
        agenda.made = Some((began, Instant::now() + took * REST));
        tracing::debug!(
            ?took,
            due = agenda.due.names.len(),
            again = agenda.again.names.len(),
            windows = agenda.windows.names.len(),
            "looked at all names"
        );
        agenda
    }

    fn look(&mut self, book: &Book, snapshot: &Snapshot, now_ms: i64) {
        let (config, names) = (&snapshot.gateway.acme, self.names.clone());
        let (mut survey, nothing) = (Survey::default(), NameState::default());
        let mut seen = 0;
        for some in names.listed.chunks(NAMES_AT_ONCE) {
            book.with(|memory| {
                for (index, listed) in (seen..).zip(some) {
                    let subject = Subject {
                        name: &listed.name,
                        rank: listed.rank,
                        present: present(snapshot, &listed.name, now_ms),
                        state: memory.names.get(&listed.name).unwrap_or(&nothing),
                        busy: memory.is_busy(&listed.name),
                    };
                    survey.see(index, &subject, config, &memory.budgets, now_ms);
                }
            });
            seen += some.len();
        }
        let name = |index: usize| names.listed.get(index).map(|listed| &listed.name);
        let (forgiven, in_vain) = (std::mem::take(&mut survey.forgiven), std::mem::take(&mut survey.in_vain));
        book.with(|memory| {
            forgiven.into_iter().filter_map(name).for_each(|name| memory.change(name).forgive());
            in_vain.into_iter().filter_map(name).for_each(|name| memory.change(name).forced = false);
        });
        survey.looks.iter().filter_map(|index| name(*index)).for_each(|name| self.windows.put(name));
        for some in survey.ranked().chunks(NAMES_AT_ONCE) {
            book.with(|memory| {
                let (full, load) = (all_full_until(config, &memory.budgets, now_ms), memory.load());
                for (class, index) in some {
                    let Some(name) = name(*index) else { continue };
                    if let (true, Some(at)) = (class.is_first(), full) {
                        survey.wake(at);
                        continue;
                    }
                    let state = memory.names.get(name).unwrap_or(&nothing);
                    let is_looked_up = last_look(memory, name, now_ms).is_some();
                    let queue = if is_again(*class, state) && !is_looked_up { &mut self.again } else { &mut self.due };
                    if queue.is_full() {
                        queue.more = true;
                        continue;
                    }
                    let subject =
                        Subject { name, rank: 0, present: present(snapshot, name, now_ms), state, busy: false };
                    match choose(&subject, config, &memory.budgets, &load, now_ms) {
                        Ok(_) => queue.put(name),
                        Err(at) => survey.wake(at),
                    }
                }
            });
        }
        self.next_ms = survey.next_ms.unwrap_or(i64::MAX);
    }

    /// Whether all names are to be looked at again, and if not yet, when.
    pub(super) fn is_spent(&self, snapshot: &Snapshot, now_ms: i64) -> Result<(), Instant> {
        let Some((made, may_be)) = self.made else { return Ok(()) };
        if self.names.revision != snapshot.revision {
            return Ok(());
        }
        let now = Instant::now();
        let changed = !std::ptr::eq(self.certificates.as_ptr(), Arc::as_ptr(&snapshot.certificates));
        let old = made + if changed { GOOD_FOR_CHANGED } else { GOOD_FOR };
        let spent = [&self.due, &self.again, &self.windows].into_iter().any(Queue::is_spent);
        let wanted = snapshot.gateway.acme.enabled && (spent || self.next_ms <= now_ms || old <= now);
        match wanted {
            true if may_be <= now => Ok(()),
            true => Err(may_be),
            false => Err(old),
        }
    }

    /// All names are to be looked at as soon as may be.
    pub(super) fn spend(&mut self) {
        self.next_ms = 0;
    }

    /// Something is due then.
    fn wake(&mut self, at_ms: i64) {
        self.next_ms = self.next_ms.min(at_ms);
    }

    /// A name is to be begun before all others.
    pub(super) fn hurry(&mut self, name: ServerName) {
        self.due.names.push_front(name);
    }

    /// What was under way for a name ended: it is looked at alone.
    pub(super) fn ended(&mut self, name: ServerName, memory: &Memory, snapshot: &Snapshot, now_ms: i64) {
        let (config, nothing) = (&snapshot.gateway.acme, NameState::default());
        if self.names.get(&name).is_none() || memory.is_busy(&name) {
            return;
        }
        let state = memory.names.get(&name).unwrap_or(&nothing);
        let subject = Subject { name: &name, rank: 0, present: present(snapshot, &name, now_ms), state, busy: false };
        if let Some(at) = look_at(&subject, config, &memory.budgets, now_ms) {
            // A window is asked for soon after a certificate came; later with others.
            if at <= now_ms { self.windows.names.push_back(name.clone()) } else { self.wake(in_company(at, config)) }
        }
        match next(&subject, config, now_ms) {
            Next::Order { at_ms, kind } if at_ms <= now_ms => {
                let (class, _) = urgency(&subject, config, kind, now_ms);
                let queue = if is_again(class, state) { &mut self.again } else { &mut self.due };
                queue.names.push_front(name);
            }
            Next::Order { at_ms, .. } => self.wake(at_ms),
            Next::Operator | Next::Visitor => {}
        }
    }

    /// Takes what may begin now, and notes in the memory that it did.
    pub(super) fn take(&mut self, memory: &mut Memory, snapshot: &Snapshot, now_ms: i64) -> Begun {
        let mut begun = Begun::default();
        let config = &snapshot.gateway.acme;
        if !config.enabled {
            return begun;
        }
        let mut load = memory.load();
        for again in [false, true] {
            self.take_orders(again, &mut begun, &mut load, memory, snapshot, now_ms);
        }
        while load.windows < WINDOWS_MAX {
            let Some(name) = self.windows.names.pop_front() else { break };
            if self.is_to_be_asked(&name, memory, snapshot, config, now_ms) {
                load.windows += 1;
                memory.begin(name.clone(), Doing::Window);
                begun.windows.push(name);
            }
        }
        begun
    }

    /// Takes orders, and questions after DNS, of names of one queue.
    fn take_orders(
        &mut self,
        again: bool,
        begun: &mut Begun,
        load: &mut Load,
        memory: &mut Memory,
        snapshot: &Snapshot,
        now_ms: i64,
    ) {
        while load.orders.len() < snapshot.gateway.acme.orders_in_flight_max {
            let queue = if again { &mut self.again } else { &mut self.due };
            let Some(name) = queue.names.pop_front() else { break };
            let Some(start) = self.decide(&name, memory, snapshot, load, now_ms) else { continue };
            let resolver = memory.silence.free_at(now_ms);
            let is_judged = last_look(memory, &name, now_ms)
                .is_some_and(|look| *look.of == *of_look(&start.account, &snapshot.gateway))
                || (resolver > now_ms && is_ordered_anyway(memory, snapshot, &name, false, now_ms));
            if start.goal == Goal::Fresh && !is_judged {
                let look_ups = if again { &mut load.look_ups_again } else { &mut load.look_ups };
                if resolver > now_ms {
                    self.wake(resolver);
                } else if *look_ups < LOOK_UPS_MAX {
                    *look_ups += 1;
                    memory.begin(name, Doing::Dns { again });
                    begun.look_ups.push(start);
                } else {
                    let queue = if again { &mut self.again } else { &mut self.due };
                    queue.names.push_front(name);
                    break;
                }
                continue;
            }
            memory.looked_up.remove(&name);
            load.orders.push(start.account.name.as_str().into());
            memory.begin_order(name, start.account.clone(), (start.goal == Goal::Fresh).then_some(start.kind));
            begun.orders.push(start);
        }
    }

    /// Whether and where a name is ordered now; much may have happened since it was put into the queue.
    fn decide(
        &mut self,
        name: &ServerName,
        memory: &Memory,
        snapshot: &Snapshot,
        load: &Load,
        now_ms: i64,
    ) -> Option<Start> {
        let (config, nothing) = (&snapshot.gateway.acme, NameState::default());
        if self.names.get(name).is_none() || memory.is_busy(name) {
            return None;
        }
        let state = memory.names.get(name).unwrap_or(&nothing);
        let subject = Subject { name, rank: 0, present: present(snapshot, name, now_ms), state, busy: false };
        match next(&subject, config, now_ms) {
            Next::Order { at_ms, .. } if at_ms > now_ms => {
                self.wake(at_ms);
                None
            }
            Next::Order { .. } => {
                choose(&subject, config, &memory.budgets, load, now_ms).map_err(|at| self.wake(at)).ok()
            }
            Next::Operator | Next::Visitor => None,
        }
    }

    /// Whether a name's renewal window is asked for now.
    fn is_to_be_asked(
        &mut self,
        name: &ServerName,
        memory: &Memory,
        snapshot: &Snapshot,
        config: &AcmeConfig,
        now_ms: i64,
    ) -> bool {
        let nothing = NameState::default();
        let state = memory.names.get(name).unwrap_or(&nothing);
        let subject = Subject { name, rank: 0, present: present(snapshot, name, now_ms), state, busy: false };
        if self.names.get(name).is_none() || memory.is_busy(name) {
            return false;
        }
        let at = look_at(&subject, config, &memory.budgets, now_ms);
        if let Some(at) = at.filter(|at| *at > now_ms) {
            self.wake(in_company(at, config));
        }
        at.is_some_and(|at| at <= now_ms)
    }
}

// === impl Queue ===

impl Queue {
    /// Puts a name at the end, as long as there is room.
    fn put(&mut self, name: &ServerName) {
        if self.is_full() {
            self.more = true;
        } else {
            self.names.push_back(name.clone());
        }
    }

    fn is_full(&self) -> bool {
        self.names.len() >= QUEUE_MAX
    }

    /// Whether it is worked off, and there were more.
    fn is_spent(&self) -> bool {
        self.more && self.names.is_empty()
    }
}

/// Whether a name failed the last time: it keeps nobody waiting but others of the kind, unless it has something in the making.
fn is_again(class: Class, state: &NameState) -> bool {
    class != Class::Begun && state.is_tried_again()
}

/// The look at a name's DNS for the order that comes now, at whichever CA.
fn last_look<'a>(memory: &'a Memory, name: &ServerName, now_ms: i64) -> Option<&'a Look> {
    memory.looked_up.get(name).filter(|look| (0..LOOKED_UP_FOR_MS).contains(&(now_ms - look.at_ms)))
}
