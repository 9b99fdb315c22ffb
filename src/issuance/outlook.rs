//! When each name's turn comes, and what it waits for: the plan played through in time, as if every order from now on
//! came to a certificate. Pure: nothing is taken from the budgets.
//!
//! Renewals hardly compete, so each is asked after by itself. Orders for names that no CA of the configuration knows are
//! many and share the CAs' budgets, those for names with a certificate of another CA too: they are begun one after the
//! other, in the order of [`urgency`], each at the moment at which [`choose`] lets it. Of the names of one registered domain
//! that has had its share only one waits for the next; the others stand behind it, or 10,000 of them would ask each time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use crate::config::{AcmeAccount, AcmeConfig};
use crate::issuance::budget::{Budgets, Kind, Limit, registered_domain};
use crate::issuance::schedule::{Goal, Load, Next, Subject, all_full_until, choose, kind, kind_at, next};
use crate::issuance::survey::{Class, urgency};

/// Questions for each order that competes, on average. Only accounts whose limits fill up in turn need more than a
/// few; what is not foreseen by then is told without a time.
const QUESTIONS: usize = 32;

/// What an order waits for, and until when.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outlook<'a> {
    /// When it begins; `None` = nobody can say. Unix milliseconds.
    pub(super) at_ms: Option<i64>,
    /// The CA account where it begins then.
    pub(super) account: Option<Arc<AcmeAccount>>,
    /// What it waits for at last; `None` = only its own time.
    pub(super) wait: Option<Wait<'a>>,
    /// Orders that begin before it.
    pub(super) before: usize,
}

/// What keeps an order waiting that is due.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wait<'a> {
    /// Until then, Unix milliseconds.
    pub(super) until_ms: i64,
    /// The CA account that is free first.
    pub(super) account: Arc<AcmeAccount>,
    pub(super) limit: Limit,
    /// Of what: a name, a registered domain, or nothing.
    pub(super) subject: &'a str,
}

/// Orders that compete, in time.
pub(super) struct Play<'q, 'a> {
    subjects: &'q [Subject<'a>],
    config: &'q AcmeConfig,
    budgets: Budgets,
    now_ms: i64,
    /// Those that wait for a time: when, and which.
    later: BinaryHeap<Reverse<(i64, usize)>>,
    /// Those that may begin.
    ready: BinaryHeap<Reverse<Turn>>,
    /// Those that stand behind another one of their registered domain, which waits for the domain's limit.
    behind: HashMap<&'a str, Behind>,
    pub(super) outlooks: Vec<Option<Outlook<'a>>>,
    begun: usize,
    /// Until then no account took first orders, and why.
    full: (i64, Limit),
}

struct Behind {
    /// Whom they stand behind.
    first: usize,
    others: BinaryHeap<Reverse<Turn>>,
}

/// Whose turn it is; the least goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    class: Class,
    by: i64,
    index: usize,
}

/// What is ahead for each of these names; `None` = it waits for no order.
pub(super) fn foresee<'a>(
    subjects: &[Subject<'a>],
    config: &AcmeConfig,
    budgets: &Budgets,
    now_ms: i64,
) -> Vec<Option<Outlook<'a>>> {
    let mut play = Play::of(subjects, config, budgets, now_ms);
    play.run();
    play.outlooks
}

/// Whether a name stands in a queue with others: no CA of this configuration knows it.
pub(super) fn competes(subject: &Subject<'_>, config: &AcmeConfig) -> bool {
    config.accounts.iter().all(|account| kind_at(subject, account) == Kind::New)
}

/// An order that no other one keeps waiting.
fn alone<'a>(subject: &Subject<'a>, at_ms: i64, config: &AcmeConfig, budgets: &Budgets) -> Outlook<'a> {
    let told = |at_ms: i64, account, wait| Outlook {
        at_ms: Some(at_ms).filter(|at| *at < i64::MAX),
        account,
        wait,
        before: 0,
    };
    match choose(subject, config, budgets, &Load::default(), at_ms) {
        Ok(start) => told(at_ms, Some(start.account), None),
        Err(until_ms) => {
            let wait = wait(subject, config, budgets, at_ms, until_ms);
            told(until_ms, wait.as_ref().map(|wait| wait.account.clone()), wait)
        }
    }
}

/// The limit that [`choose`] meant by this time.
fn wait<'a>(
    subject: &Subject<'a>,
    config: &AcmeConfig,
    budgets: &Budgets,
    now_ms: i64,
    until_ms: i64,
) -> Option<Wait<'a>> {
    let asked = config.accounts.iter().map(|account| (account, kind_at(subject, account)));
    let bounds = asked.map(|(account, kind)| (account, budgets.bound(account, subject.name.as_str(), kind, now_ms)));
    let (account, bound) = bounds.into_iter().find(|(_, bound)| bound.until_ms == until_ms)?;
    Some(Wait { until_ms, account: account.clone(), limit: bound.limit, subject: bound.subject })
}

// === impl Play ===

impl<'q, 'a> Play<'q, 'a> {
    pub(super) fn of(subjects: &'q [Subject<'a>], config: &'q AcmeConfig, budgets: &Budgets, now_ms: i64) -> Self {
        let mut play = Self {
            subjects,
            config,
            budgets: budgets.clone().with_reserved_taken(now_ms),
            now_ms,
            later: BinaryHeap::new(),
            ready: BinaryHeap::new(),
            behind: HashMap::new(),
            outlooks: Vec::with_capacity(subjects.len()),
            begun: 0,
            full: (i64::MIN, Limit::NewOrders),
        };
        for (index, subject) in subjects.iter().enumerate() {
            let outlook = match next(subject, config, now_ms) {
                _ if subject.busy => None,
                Next::Operator | Next::Visitor => None,
                Next::Order { at_ms, .. } if competes(subject, config) => {
                    play.later.push(Reverse((at_ms.max(now_ms), index)));
                    Some(Outlook { at_ms: None, account: None, wait: None, before: 0 })
                }
                Next::Order { at_ms, .. } => Some(alone(subject, at_ms.max(now_ms), config, &play.budgets)),
            };
            play.outlooks.push(outlook);
        }
        play
    }

    /// Plays it to the end; says how often [`choose`] or the accounts were asked.
    pub(super) fn run(&mut self) -> usize {
        let questions = self.later.len().saturating_mul(QUESTIONS);
        for question in 0..questions {
            let now_ms = self.now_ms;
            while let Some(Reverse((_, index))) = self.later.peek().copied().filter(|Reverse((at, _))| *at <= now_ms) {
                self.later.pop();
                self.ready.extend(self.turn(index));
            }
            let Some(Reverse(turn)) = self.ready.peek().copied() else {
                match self.later.peek() {
                    Some(Reverse((at, _))) => self.now_ms = *at,
                    None => return question,
                }
                continue;
            };
            if turn.class.is_first()
                && let Some(at) = all_full_until(self.config, &self.budgets, now_ms)
            {
                let paused =
                    self.config.accounts.iter().any(|account| self.budgets.paused(account, now_ms) == Some(at));
                self.full = (at, if paused { Limit::Pause } else { Limit::NewOrders });
                self.now_ms = at;
                continue;
            }
            self.ready.pop();
            self.ask(turn.index);
        }
        questions
    }

    fn turn(&self, index: usize) -> Option<Reverse<Turn>> {
        let subject = self.subjects.get(index)?;
        let (class, by) = urgency(subject, self.config, kind(subject), self.now_ms);
        Some(Reverse(Turn { class, by, index }))
    }

    /// Begins an order, or puts it where it waits.
    fn ask(&mut self, index: usize) {
        let (Some(subject), turn, now_ms) = (self.subjects.get(index), self.turn(index), self.now_ms) else { return };
        let domain = registered_domain(subject.name.as_str());
        if let Some(behind) = self.behind.get_mut(domain).filter(|behind| behind.first != index) {
            behind.others.extend(turn);
            return;
        }
        let Some(outlook) = self.outlooks.get_mut(index).and_then(Option::as_mut) else { return };
        match choose(subject, self.config, &self.budgets, &Load::default(), now_ms) {
            Ok(start) => {
                outlook.at_ms = Some(now_ms);
                outlook.account = Some(start.account.clone());
                outlook.before = self.begun;
                self.begun += 1;
                let (full_until, limit) = self.full;
                if outlook.wait.is_none() && now_ms == full_until {
                    let account = start.account.clone();
                    outlook.wait = Some(Wait { until_ms: now_ms, account, limit, subject: "" });
                }
                if start.goal == Goal::Fresh {
                    self.budgets.take(&start.account, start.name.as_str(), start.kind, now_ms);
                    // Nobody writes them down.
                    self.budgets.take_changed(now_ms);
                }
                self.let_go(domain);
            }
            Err(i64::MAX) => self.let_go(domain),
            Err(until_ms) => {
                outlook.wait = wait(subject, self.config, &self.budgets, now_ms, until_ms);
                if outlook.wait.as_ref().is_some_and(|wait| wait.limit == Limit::Domain) {
                    self.behind.entry(domain).or_insert_with(|| Behind { first: index, others: BinaryHeap::new() });
                }
                self.later.push(Reverse((until_ms.max(now_ms + 1), index)));
            }
        }
    }

    /// The first of a domain's names has its turn: the next one stands there now.
    fn let_go(&mut self, domain: &'a str) {
        let Some(behind) = self.behind.get_mut(domain) else { return };
        match behind.others.pop() {
            Some(next) => {
                behind.first = next.0.index;
                self.ready.push(next);
            }
            None => drop(self.behind.remove(domain)),
        }
    }
}
