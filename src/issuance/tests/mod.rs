//! Planner and budgets over weeks, with the time injected.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod budgets;
mod caa;
mod choices;
mod loops;
mod measures;
mod outlook;
mod renewals;
mod service;
mod troubles;
mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::account::ServerName;
use crate::config::{AcmeAccount, AcmeBudget, AcmeBudgets, AcmeConfig, KeyType};
use crate::issuance::budget::{Budgets, Kind, registered_domain};
use crate::issuance::schedule::{Goal, Load, Next, Present, Start, Subject, all_full_until, choose, defies_dns, next};
use crate::issuance::state::{NameState, OpenOrder, Renewal};
use crate::issuance::survey::{Class, Survey, urgency};
use crate::tls::Which;

/// A moment in November 2026, Unix milliseconds.
pub(super) const NOW_MS: i64 = 1_794_000_000_000;
const SECOND_MS: i64 = 1_000;
const HOUR_MS: i64 = 3_600 * SECOND_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
const HOUR: Duration = Duration::from_secs(3_600);
/// Orders at one time.
const SLOTS: usize = 8;

/// What is to be begun now, and when to ask again.
#[derive(Debug, Default)]
struct Plan {
    orders: Vec<Start>,
    next_ms: Option<i64>,
}

/// Decides as the service does, for names that are looked at all at once; what is begun is paid at once.
fn plan<'a>(
    subjects: impl Iterator<Item = Subject<'a>>,
    config: &AcmeConfig,
    budgets: &mut Budgets,
    slots: usize,
    now_ms: i64,
) -> Plan {
    let subjects: Vec<_> = subjects.collect();
    let (mut survey, mut orders) = (Survey::default(), Vec::new());
    subjects.iter().enumerate().for_each(|(index, subject)| survey.see(index, subject, config, budgets, now_ms));
    for (class, index) in survey.ranked() {
        if orders.len() >= slots {
            break;
        }
        if let (true, Some(at)) = (class.is_first(), all_full_until(config, budgets, now_ms)) {
            survey.wake(at);
            break;
        }
        match choose(&subjects[index], config, budgets, &Load::default(), now_ms) {
            Ok(start) => {
                if start.goal == Goal::Fresh {
                    budgets.take(&start.account, start.name.as_str(), start.kind, now_ms);
                }
                orders.push(start);
            }
            Err(at) => survey.wake(at),
        }
    }
    Plan { orders, next_ms: survey.next_ms }
}

pub(super) fn account(name: &str) -> Arc<AcmeAccount> {
    Arc::new(AcmeAccount {
        name: name.to_owned(),
        directory: format!("https://{name}.ca.example/dir"),
        email: "ops@agency.example".to_owned(),
        external_account: None,
        ca_file: None,
        profile: None,
        budgets: AcmeBudgets {
            new_orders: AcmeBudget { max: 300, window: 3 * HOUR },
            domain_certificates: AcmeBudget { max: 50, window: 7 * 24 * HOUR },
            duplicates: AcmeBudget { max: 5, window: 7 * 24 * HOUR },
            failures: AcmeBudget { max: 5, window: HOUR },
        },
    })
}

fn config(accounts: &[&str]) -> AcmeConfig {
    AcmeConfig {
        enabled: true,
        key_type: KeyType::Ecdsa,
        renew_before: None,
        on_demand: false,
        resolver: None,
        orders_in_flight_max: SLOTS,
        retry_min: Duration::from_secs(60),
        retry_max: 12 * HOUR,
        reissue_min: HOUR,
        renewal_info_interval_max: 24 * HOUR,
        accounts: accounts.iter().map(|name| account(name)).collect(),
    }
}

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

/// 90 days, begun so many days ago.
fn days_old(days: i64) -> Present {
    let not_before = NOW_MS / 1_000 - days * 86_400;
    Present::Issued { not_before, not_after: not_before + 90 * 86_400, which: Which::Only }
}

/// As after an order long ago.
fn issued_by(account: &AcmeAccount) -> NameState {
    let mut state = NameState::default();
    state.issued(account, None, NOW_MS - 60 * DAY_MS);
    state
}

fn subject<'a>(name: &'a ServerName, present: Present, state: &'a NameState) -> Subject<'a> {
    Subject { name, rank: 0, present, state, busy: false }
}

/// Names at CAs, worked off as the service would: each order takes a minute.
struct World {
    config: AcmeConfig,
    budgets: Budgets,
    names: BTreeMap<ServerName, (NameState, Present)>,
    running: Vec<(i64, ServerName, Arc<AcmeAccount>, Kind)>,
    now_ms: i64,
    /// Orders begun: when, name, account, kind.
    begun: Vec<(i64, ServerName, String, Kind)>,
}

impl World {
    fn new(config: AcmeConfig, names: impl IntoIterator<Item = ServerName>) -> Self {
        let names = names.into_iter().map(|name| (name, (NameState::default(), Present::Nothing))).collect();
        Self { config, budgets: Budgets::default(), names, running: Vec::new(), now_ms: NOW_MS, begun: Vec::new() }
    }

    /// Lets time pass until then; `answer` says what comes of an order.
    fn until(&mut self, end_ms: i64, mut answer: impl FnMut(&mut Self, &ServerName, &Arc<AcmeAccount>, Kind)) {
        while self.now_ms < end_ms {
            let ended = self.running.extract_if(.., |(at, ..)| *at <= self.now_ms).collect::<Vec<_>>();
            for (_, name, account, kind) in ended {
                answer(self, &name, &account, kind);
            }
            let plan = self.plan();
            for start in &plan.orders {
                assert!(self.running.iter().all(|(_, running, ..)| *running != start.name), "two orders for one name");
                self.begun.push((self.now_ms, start.name.clone(), start.account.name.clone(), start.kind));
                self.running.push((self.now_ms + 60_000, start.name.clone(), start.account.clone(), start.kind));
            }
            let ends = self.running.iter().map(|(at, ..)| *at).min();
            let next = [ends, plan.next_ms, Some(end_ms)].into_iter().flatten().min().unwrap();
            self.now_ms = next.max(self.now_ms + 30 * SECOND_MS);
        }
    }

    fn plan(&mut self) -> Plan {
        let subjects = self.names.iter().enumerate().map(|(rank, (name, (state, present)))| Subject {
            name,
            rank,
            present: *present,
            state,
            busy: self.running.iter().any(|(_, running, ..)| running == name),
        });
        let slots = SLOTS - self.running.len();
        plan(subjects, &self.config, &mut self.budgets, slots, self.now_ms)
    }

    fn issue(&mut self, name: &ServerName, account: &AcmeAccount) {
        let (state, present) = self.names.get_mut(name).unwrap();
        state.issued(account, None, self.now_ms);
        self.budgets.blames.reached(&account.name);
        let not_before = self.now_ms / 1_000;
        *present = Present::Issued { not_before, not_after: not_before + 90 * 86_400, which: Which::Only };
    }

    fn issued(&self) -> usize {
        self.names.values().filter(|(_, present)| *present != Present::Nothing).count()
    }

    /// The most orders of a kind that were begun in any stretch of this length.
    fn most_within(&self, kind: Kind, window_ms: i64, of: impl Fn(&ServerName) -> bool) -> usize {
        let times: Vec<_> =
            self.begun.iter().filter(|(_, name, _, k)| *k == kind && of(name)).map(|(at, ..)| *at).collect();
        let within = |from: usize| times[from..].iter().take_while(|at| **at < times[from] + window_ms).count();
        (0..times.len()).map(within).max().unwrap_or_default()
    }
}

#[test]
fn five_thousand_names_are_onboarded_within_the_limits() {
    let names = (0..5_000).map(|n| name(&format!("events.shop{n}.example")));
    let mut world = World::new(config(&["a"]), names);
    world.until(NOW_MS + 3 * DAY_MS, |world, name, account, _| world.issue(&name.clone(), &account.clone()));
    assert_eq!(world.issued(), 5_000);
    assert_eq!(world.begun.len(), 5_000, "each once");
    // A bucket of 300 that refills one each 36 s gives at most this in any 3 hours; Let's Encrypt counts the same way.
    assert!(world.most_within(Kind::New, 3 * HOUR_MS, |_| true) <= 600);
    let last = world.begun.last().unwrap().0 - NOW_MS;
    let refilled = 4_700 * 36 * SECOND_MS;
    assert!((refilled - HOUR_MS..refilled + HOUR_MS).contains(&last), "as fast as allowed: {} h", last / HOUR_MS);
}

#[test]
fn names_of_one_domain_wait_for_its_limit_and_others_do_not_wait_for_them() {
    let many = (0..120).map(|n| name(&format!("n{n}.agency.example")));
    let others = (0..20).map(|n| name(&format!("zz.shop{n}.example")));
    let mut world = World::new(config(&["a"]), many.chain(others));
    world.until(NOW_MS + 12 * HOUR_MS, |world, name, account, _| world.issue(&name.clone(), &account.clone()));
    let of_agency = |name: &ServerName| registered_domain(name.as_str()) == "agency.example";
    let issued = |world: &World, agency: bool| {
        let done =
            world.names.iter().filter(|(name, (_, present))| of_agency(name) == agency && *present != Present::Nothing);
        done.count()
    };
    assert_eq!(issued(&world, false), 20);
    // 50 at once, and one more each 202 minutes.
    assert!((50..=54).contains(&issued(&world, true)), "{}", issued(&world, true));
    world.until(NOW_MS + 11 * DAY_MS, |world, name, account, _| world.issue(&name.clone(), &account.clone()));
    assert_eq!(issued(&world, true), 120);
    assert!(world.most_within(Kind::New, 7 * DAY_MS, of_agency) <= 100);
}

#[test]
fn a_second_account_takes_what_the_first_may_not() {
    let names = (0..900).map(|n| name(&format!("events.shop{n}.example")));
    let mut world = World::new(config(&["a", "b"]), names);
    world.until(NOW_MS + 6 * HOUR_MS, |world, name, account, _| world.issue(&name.clone(), &account.clone()));
    let at = |account: &str| world.begun.iter().filter(|(_, _, at, _)| at == account).count();
    assert_eq!(world.issued(), 900);
    assert!(at("a") >= 300 && at("b") >= 290, "{} and {}", at("a"), at("b"));
}

#[test]
fn a_ca_that_is_down_for_an_hour_is_left_alone_and_then_all_goes_on() {
    let names = (0..100).map(|n| name(&format!("events.shop{n}.example")));
    let mut world = World::new(config(&["a"]), names);
    let down_until = NOW_MS + HOUR_MS;
    world.until(NOW_MS + 3 * HOUR_MS, |world, name, account, kind| {
        if world.now_ms < down_until {
            world.budgets.unreachable(&account.name, world.now_ms);
            world.budgets.give_back(account, name.as_str(), kind);
        } else {
            world.issue(&name.clone(), &account.clone());
        }
    });
    let tried = world.begun.iter().filter(|(at, ..)| *at < down_until).count();
    // Waits of 5, 10, 20, … seconds, each with at most eight orders in flight.
    assert!(tried <= 8 * 12, "{tried} orders were tried in an hour");
    assert_eq!(world.issued(), 100);
    assert!(world.names.values().all(|(state, _)| state.failures == 0), "it was not the names' fault");
}

#[test]
fn what_the_ca_answers_of_limits_is_obeyed() {
    let names = ["a.one.example", "b.one.example", "a.two.example"].map(name);
    let mut world = World::new(config(&["a"]), names.clone());
    let until = NOW_MS + 5 * HOUR_MS;
    let directory = world.config.accounts[0].directory.clone();
    world.budgets.pause(&directory, "one.example", until, NOW_MS);
    world.until(NOW_MS + 4 * HOUR_MS, |world, name, account, _| world.issue(&name.clone(), &account.clone()));
    assert_eq!(world.begun.iter().map(|(_, name, ..)| name.clone()).collect::<Vec<_>>(), [names[2].clone()]);
    world.until(NOW_MS + 6 * HOUR_MS, |world, name, account, _| world.issue(&name.clone(), &account.clone()));
    assert_eq!(world.issued(), 3);
    assert!(world.begun.iter().skip(1).all(|(at, ..)| *at >= until));

    let mut world = World::new(config(&["a", "b"]), names);
    world.budgets.pause("a", "", until, NOW_MS);
    world.until(NOW_MS + HOUR_MS, |world, name, account, _| world.issue(&name.clone(), &account.clone()));
    assert!(world.begun.iter().all(|(_, _, account, _)| account == "b"), "another CA is asked meanwhile");
}

#[test]
fn a_name_that_fails_is_tried_less_and_less() {
    let mut world = World::new(config(&["a"]), [name("a.example.com")]);
    world.until(NOW_MS + 7 * DAY_MS, |world, name, account, kind| {
        let now_ms = world.now_ms;
        world.budgets.give_back(account, name.as_str(), kind);
        world.budgets.validation_failed(account, name.as_str(), now_ms);
        let state = &mut world.names.get_mut(name).unwrap().0;
        state.failed("no", (Duration::from_secs(60), 12 * HOUR), 0.5, now_ms);
    });
    assert!(world.most_within(Kind::New, HOUR_MS, |_| true) <= 6);
    assert!((20..40).contains(&world.begun.len()), "{} in a week", world.begun.len());
}

#[test]
fn renewals_go_before_first_orders_and_the_nearest_end_first() {
    let (nothing, config) = (NameState::default(), config(&["a"]));
    let issued = issued_by(&config.accounts[0]);
    let names =
        ["new.example.com", "late.example.com", "later.example.com", "expired.example.com", "fresh.example.com"];
    let names = names.map(name);
    let asked = NameState { forced: true, ..issued.clone() };
    let subjects = [
        subject(&names[0], Present::Nothing, &nothing),
        subject(&names[1], days_old(70), &issued),
        subject(&names[2], days_old(85), &issued),
        subject(&names[3], Present::Nothing, &issued),
        subject(&names[4], days_old(3), &asked),
    ];
    let plan = plan(subjects.into_iter(), &config, &mut Budgets::default(), SLOTS, NOW_MS);
    let order: Vec<_> = plan.orders.iter().map(|start| start.name.as_str().split('.').next().unwrap()).collect();
    assert_eq!(order, ["fresh", "expired", "later", "late", "new"]);
}

#[test]
fn renewals_that_failed_go_after_all_others_and_by_rank_until_a_person_asks() {
    let config = config(&["a"]);
    let nothing = NameState::default();
    let issued = issued_by(&config.accounts[0]);
    let mut failed = issued.clone();
    failed.failed("no", (HOUR, HOUR), 0.0, NOW_MS - 2 * HOUR_MS);
    let mut forced = NameState { forced: true, ..failed.clone() };
    let names = ["expired.example.com", "ends.example.com", "late.example.com", "new.example.com"].map(name);
    let order = |forced: &NameState| {
        let subjects = [
            Subject { rank: 1, ..subject(&names[0], Present::Nothing, forced) },
            subject(&names[1], days_old(85), &failed),
            subject(&names[2], days_old(70), &issued),
            subject(&names[3], Present::Nothing, &nothing),
        ];
        let plan = plan(subjects.into_iter(), &config, &mut Budgets::default(), SLOTS, NOW_MS);
        let first = |start: &Start| start.name.as_str().split('.').next().unwrap().to_owned();
        plan.orders.iter().map(first).collect::<Vec<_>>()
    };
    assert_eq!(order(&forced), ["late", "ends", "expired", "new"]);
    // As `cert issue` does.
    forced.not_before_ms = 0;
    assert_eq!(order(&forced), ["expired", "late", "ends", "new"]);
}

#[test]
fn accounts_have_their_turn_by_rank() {
    let (nothing, config) = (NameState::default(), config(&["a"]));
    let many: Vec<_> = (0..20).map(|n| name(&format!("a{n}.many.example"))).collect();
    let single = name("z.single.example");
    let listed =
        many.iter().enumerate().map(|(rank, name)| Subject { rank, ..subject(name, Present::Nothing, &nothing) });
    let subjects = listed.chain([subject(&single, Present::Nothing, &nothing)]);
    let plan = plan(subjects, &config, &mut Budgets::default(), 2, NOW_MS);
    let order: Vec<_> = plan.orders.iter().map(|start| start.name.as_str()).collect();
    assert_eq!(order, ["a0.many.example", "z.single.example"]);
}
