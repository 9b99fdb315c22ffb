//! The filters of one account in their order, and a request's events on their way through them.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::vec;

use tokio::sync::oneshot;

use super::fault::{Fault, FaultKind};
use super::host::Shared;
use super::stage::{Decision, LoadedStage};
use super::{Context, Filtered};
use crate::account::AccountId;
use crate::event::{Event, OnFault};

/// Time that the filters of one request may take in all, in deadlines of a call…
const REQUEST_DEADLINES: u32 = 20;
/// …and one deadline more for so many calls: a large batch of a good filter is no overload.
const CALLS_PER_DEADLINE: u32 = 10;

/// The filters of an account, loaded. Cheap to clone.
#[derive(Clone)]
pub struct Chain {
    account: AccountId,
    stages: Arc<[LoadedStage]>,
    shared: Arc<Shared>,
}

/// The events of one request at the filters.
pub(super) struct Job {
    stages: Arc<[LoadedStage]>,
    context: Arc<Context>,
    events: vec::IntoIter<Event>,
    /// The one that is between two filters.
    begun: Option<Box<Begun>>,
    done: Vec<Filtered>,
    /// Time on a thread that is left.
    left: Duration,
    reply: oneshot::Sender<Vec<Filtered>>,
}

/// An event on its way through the filters.
struct Begun {
    /// As it was before the first one.
    event: Event,
    /// As they left it, if they changed it.
    edited: Option<Event>,
    /// The next one.
    next: usize,
}

// === impl Chain ===

impl Chain {
    pub(super) fn new(account: AccountId, stages: Vec<LoadedStage>, shared: Arc<Shared>) -> Self {
        Self { account, stages: stages.into(), shared }
    }

    /// Whether there is no filter at all.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// Sends events through the filters, on a thread of theirs, and says of each, in order, what became of it.
    ///
    /// What exceeds the request's budget of time has the fault [`FaultKind::Overloaded`], as has what waits longer than
    /// the host's waiting time for a thread: at first, and again each time that others are let in between two filters,
    /// which is after a deadline's time at the earliest. Dropping the future gives the rest of the events up.
    pub async fn run(&self, context: Arc<Context>, events: Vec<Event>) -> Vec<Filtered> {
        if self.is_empty() {
            return events.into_iter().map(Filtered::Pass).collect();
        }
        let (reply, answer) = oneshot::channel();
        let calls = u32::try_from(events.len() * self.stages.len()).unwrap_or(u32::MAX);
        let job = Job {
            stages: self.stages.clone(),
            context,
            done: Vec::with_capacity(events.len()),
            events: events.into_iter(),
            begun: None,
            left: self.shared.deadline * (REQUEST_DEADLINES + calls / CALLS_PER_DEADLINE),
            reply,
        };
        if let Err(refused) = self.shared.put(&self.account, job) {
            refused.give_up("too many requests of this account wait already");
        }
        match answer.await {
            Ok(filtered) => filtered,
            // Our own code panicked on that thread. What was not stored must not be answered as if it were: so does the
            // request.
            Err(_) => std::panic::resume_unwind(Box::new("a filter thread panicked")),
        }
    }
}

#[cfg(test)]
impl Chain {
    /// Whether the first filters of both run the same code.
    pub(super) fn shares_code_with(&self, other: &Self) -> bool {
        std::iter::zip(&*self.stages, &*other.stages).all(|(ours, theirs)| ours.shares_code_with(theirs))
    }

    /// Whether the lines of all its filters are counted together.
    pub(super) fn has_one_log(&self) -> bool {
        self.stages.iter().zip(self.stages.iter().skip(1)).all(|(one, next)| one.shares_lines_with(next))
    }
}

// === impl Job ===

impl Job {
    /// Filters events until all are done, or until a filter is done with one and `pause` says that others should have the
    /// thread. Gives back what is left to do.
    pub(super) fn advance(mut self, pause: impl Fn(Duration) -> bool) -> Option<Self> {
        let start = Instant::now();
        let mut before = start;
        while let Some(begun) = self.next() {
            if self.reply.is_closed() {
                return None;
            }
            let over = self.left.is_zero().then_some("the request's events took too long");
            self.step(begun, over);
            let now = Instant::now();
            self.left = self.left.saturating_sub(now - before);
            before = now;
            if (self.begun.is_some() || self.events.len() > 0) && pause(now - start) {
                return Some(self);
            }
        }
        self.answer();
        None
    }

    /// Treats all events that are left as overloaded.
    pub(super) fn give_up(mut self, why: &str) {
        while let Some(begun) = self.next() {
            self.step(begun, Some(why));
        }
        self.answer();
    }

    fn next(&mut self) -> Option<Box<Begun>> {
        let fresh = |event| Box::new(Begun { event, edited: None, next: 0 });
        self.begun.take().or_else(|| self.events.next().map(fresh))
    }

    fn answer(self) {
        // Nobody waits any more when the visitor hung up.
        let _ = self.reply.send(self.done);
    }

    /// One event through the next filter. With `over` it is not called, and has a fault.
    fn step(&mut self, begun: Box<Begun>, over: Option<&str>) {
        match self.pass(begun, over) {
            ControlFlow::Continue(begun) if begun.next < self.stages.len() => self.begun = Some(begun),
            ControlFlow::Continue(begun) => self.done.push(Filtered::Pass(begun.edited.unwrap_or(begun.event))),
            ControlFlow::Break(filtered) => self.done.push(filtered),
        }
    }

    /// The event behind the next filter, or what became of it there.
    fn pass(&self, mut begun: Box<Begun>, over: Option<&str>) -> ControlFlow<Filtered, Box<Begun>> {
        let Some(stage) = self.stages.get(begun.next) else { return ControlFlow::Continue(begun) };
        begun.next += 1;
        let decided = match over {
            None => stage.decide(&self.context, begun.edited.as_ref().unwrap_or(&begun.event)),
            Some(why) => Err(Fault::new(FaultKind::Overloaded, why)),
        };
        let Fault { kind, message } = match decided {
            Ok(Decision::Keep) => return ControlFlow::Continue(begun),
            Ok(Decision::Replace(edited)) => {
                begun.edited = Some(*edited);
                return ControlFlow::Continue(begun);
            }
            Ok(Decision::Drop(reason)) => {
                return ControlFlow::Break(Filtered::Drop { filter: stage.name().clone(), reason });
            }
            Err(fault) => fault,
        };
        stage.count(kind);
        let filter = stage.name().clone();
        match stage.on_fault {
            OnFault::Pass => ControlFlow::Continue(begun),
            OnFault::Drop => ControlFlow::Break(Filtered::Drop { filter, reason: format!("fault: {kind}") }),
            OnFault::Hold => {
                let reason = format!("filter:{filter}: {kind}");
                ControlFlow::Break(Filtered::Hold { event: begun.event, reason, message })
            }
        }
    }
}
