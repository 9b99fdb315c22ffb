//! Which account a name is ordered at, and as what.

use super::*;

/// What is begun for one name.
fn begun(
    config: &AcmeConfig,
    budgets: &Budgets,
    present: Present,
    state: &NameState,
) -> Result<(String, Kind, Goal), i64> {
    let a = name("a.example.com");
    let start = choose(&subject(&a, present, state), config, budgets, &Load::default(), NOW_MS);
    start.map(|start| (start.account.name.clone(), start.kind, start.goal))
}

/// Accounts at one CA.
fn at_one_ca(accounts: &[&str]) -> AcmeConfig {
    let mut config = config(accounts);
    for account in &mut config.accounts {
        Arc::make_mut(account).directory = "https://ca.example/dir".to_owned();
    }
    config
}

#[test]
fn only_the_ca_that_issued_a_certificate_renews_it() {
    let (apart, together) = (config(&["a", "b"]), at_one_ca(&["a", "b"]));
    let mut a_is_paused = Budgets::default();
    a_is_paused.pause("a", "", NOW_MS + HOUR_MS, NOW_MS);
    let free = Budgets::default();
    let Present::Issued { not_after, .. } = days_old(88) else { panic!() };
    let wanted = |mut state: NameState| {
        state.renewal = Some(Renewal { of: not_after, offered: true, at_ms: 0, window: (0, 0), look_ms: 0 });
        state
    };
    let of = |budgets, config: &AcmeConfig, state| begun(config, budgets, days_old(88), &state).unwrap();
    let fresh = |account: &str, kind| (account.to_owned(), kind, Goal::Fresh);
    assert_eq!(of(&free, &apart, issued_by(&apart.accounts[0])), fresh("a", Kind::Renewal));
    assert_eq!(of(&free, &apart, wanted(issued_by(&apart.accounts[0]))), fresh("a", Kind::Replacement));
    assert_eq!(of(&a_is_paused, &apart, wanted(issued_by(&apart.accounts[0]))), fresh("b", Kind::New));
    assert_eq!(of(&a_is_paused, &together, wanted(issued_by(&together.accounts[0]))), fresh("b", Kind::Renewal));
    assert_eq!(of(&free, &apart, NameState::default()), fresh("a", Kind::New), "an imported one");
    assert_eq!(of(&free, &apart, wanted(NameState::default())), fresh("a", Kind::New), "an imported one");
}

#[test]
fn a_domain_and_a_name_have_one_budget_at_a_ca_whichever_account_orders() {
    let config = at_one_ca(&["a", "b"]);
    let mut budgets = Budgets::default();
    for n in 0..50 {
        let account = &config.accounts[n % 2];
        let name = format!("n{n}.example.com");
        assert!(budgets.ready_at(account, &name, Kind::New, NOW_MS) <= NOW_MS, "{n}");
        budgets.take(account, &name, Kind::New, NOW_MS);
    }
    assert!(
        config.accounts.iter().all(|account| budgets.ready_at(account, "a.example.com", Kind::New, NOW_MS) > NOW_MS)
    );
    let mut budgets = Budgets::default();
    for n in 0..5 {
        budgets.take(&config.accounts[n % 2], "a.example.com", Kind::Renewal, NOW_MS);
    }
    for account in &config.accounts {
        assert!(budgets.ready_at(account, "a.example.com", Kind::Renewal, NOW_MS) > NOW_MS);
        assert!(budgets.ready_at(account, "b.example.com", Kind::Renewal, NOW_MS) <= NOW_MS);
    }
    // Another CA counts for itself.
    assert!(budgets.ready_at(&account("c"), "a.example.com", Kind::Renewal, NOW_MS) <= NOW_MS);
}

fn open_order(name: &str, part: bool, begun_ms: i64) -> NameState {
    let url = if part { "" } else { "https://a.ca.example/order/1" };
    let directory = account(name).directory.as_str().into();
    let order = OpenOrder { account: name.into(), directory, url: url.into(), part, begun_ms };
    NameState { order: Some(order), ..NameState::default() }
}

#[test]
fn an_order_that_was_begun_waits_for_its_ca_a_while_and_then_another_has_its_turn() {
    let two = config(&["a", "b"]);
    let mut budgets = Budgets::default();
    budgets.pause("a", "", NOW_MS + 8 * HOUR_MS, NOW_MS);
    let until =
        |config: &AcmeConfig, present, begun_ms| begun(config, &budgets, present, &open_order("a", false, begun_ms));
    let b = Ok(("b".to_owned(), Kind::New, Goal::Fresh));
    assert_eq!(until(&two, days_old(60), NOW_MS - HOUR_MS), Err(NOW_MS + 3 * HOUR_MS));
    assert_eq!(until(&two, days_old(60), NOW_MS - 5 * HOUR_MS), b);
    assert_eq!(until(&two, days_old(89), NOW_MS - HOUR_MS), b, "the end presses");
    assert_eq!(until(&two, Present::Nothing, NOW_MS - HOUR_MS), b, "visitors are refused");
    assert_eq!(until(&config(&["a"]), days_old(89), NOW_MS - 5 * HOUR_MS), Err(NOW_MS + 8 * HOUR_MS));
    // The first of two keys is served already: the second waits for its CA.
    let both = AcmeConfig { key_type: KeyType::Both, ..two.clone() };
    assert_eq!(begun(&both, &budgets, days_old(0), &open_order("a", true, NOW_MS - 5 * HOUR_MS)).ok(), None);
    // All came, and has only to be published.
    let published = begun(&two, &budgets, days_old(0), &open_order("a", true, NOW_MS));
    assert_eq!(published, Ok(("a".to_owned(), Kind::Renewal, Goal::Resume)));
}

#[test]
fn an_order_at_a_ca_that_left_the_configuration_does_not_go_on() {
    let mut moved = config(&["a"]);
    Arc::make_mut(&mut moved.accounts[0]).directory = "https://production.ca.example/dir".to_owned();
    let started = begun(&moved, &Budgets::default(), Present::Nothing, &open_order("a", false, NOW_MS));
    assert_eq!(started, Ok(("a".to_owned(), Kind::New, Goal::Fresh)), "another account has the same name");
}

#[test]
fn an_order_that_was_begun_goes_on_although_no_new_one_may_begin() {
    let config = config(&["a"]);
    let mut budgets = Budgets::default();
    budgets.use_up(&config.accounts[0], NOW_MS);
    let (a, b, order, nothing) =
        (name("a.example.com"), name("b.example.com"), open_order("a", false, NOW_MS), NameState::default());
    let subjects = [subject(&b, Present::Nothing, &nothing), subject(&a, Present::Nothing, &order)];
    let plan = plan(subjects.into_iter(), &config, &mut budgets, SLOTS, NOW_MS);
    assert_eq!(plan.orders.iter().map(|start| start.name.clone()).collect::<Vec<_>>(), [a]);
}

#[test]
fn of_a_ca_in_trouble_one_order_finds_out_and_the_others_go_elsewhere() {
    let config = config(&["a", "b"]);
    let mut budgets = Budgets::default();
    budgets.unreachable("a", NOW_MS);
    let later = NOW_MS + HOUR_MS;
    let a = name("a.example.com");
    let nothing = NameState::default();
    let at = |orders: &[&str]| {
        let load = Load { orders: orders.iter().map(|name| (*name).into()).collect(), ..Load::default() };
        let start = choose(&subject(&a, Present::Nothing, &nothing), &config, &budgets, &load, later);
        start.map(|start| start.account.name.clone()).unwrap()
    };
    assert_eq!((at(&[]).as_str(), at(&["a"]).as_str()), ("a", "b"));
}

#[test]
fn certificates_of_a_ca_that_left_the_configuration_are_ordered_anew_after_all_that_are_missing() {
    let config = config(&["a"]);
    let (staging, nothing) = (issued_by(&account("staging")), NameState::default());
    let names = ["moved.example.com", "new.example.com", "kept.example.com", "ends.example.com"].map(name);
    let subjects = [
        subject(&names[0], days_old(3), &staging),
        subject(&names[1], Present::Nothing, &nothing),
        subject(&names[2], days_old(3), &nothing),
        subject(&names[3], days_old(80), &staging),
    ];
    let plan = plan(subjects.into_iter(), &config, &mut Budgets::default(), SLOTS, NOW_MS);
    let orders: Vec<_> = plan.orders.iter().map(|start| (start.name.as_str(), start.kind)).collect();
    let first = Kind::New;
    assert_eq!(orders, [("ends.example.com", first), ("new.example.com", first), ("moved.example.com", first)]);
}

#[test]
fn an_order_that_was_begun_goes_on_at_its_account_and_costs_nothing() {
    let config = config(&["a", "b"]);
    let url = "https://b.ca.example/order/1".into();
    let directory = config.accounts[1].directory.as_str().into();
    let order = OpenOrder { account: "b".into(), directory, url, part: false, begun_ms: NOW_MS };
    let state = NameState { order: Some(order), ..NameState::default() };
    let a = name("a.example.com");
    let mut budgets = Budgets::default();
    for _ in 0..300 {
        budgets.take(&config.accounts[1], "x.example.net", Kind::New, NOW_MS);
    }
    let before = budgets.ready_at(&config.accounts[1], "y.example.org", Kind::New, NOW_MS);
    let plan = plan([subject(&a, Present::Nothing, &state)].into_iter(), &config, &mut budgets, SLOTS, NOW_MS);
    assert_eq!((plan.orders[0].account.name.as_str(), plan.orders[0].goal), ("b", Goal::Resume));
    assert_eq!(budgets.ready_at(&config.accounts[1], "y.example.org", Kind::New, NOW_MS), before);
}

#[test]
fn a_renewal_waits_for_its_ca_unless_its_end_is_near() {
    let config = config(&["a", "b"]);
    let issued = issued_by(&config.accounts[0]);
    let a = name("a.example.com");
    let begins_at = |present, until_ms| {
        let mut budgets = Budgets::default();
        budgets.pause("a", "", until_ms, NOW_MS);
        let plan = plan([subject(&a, present, &issued)].into_iter(), &config, &mut budgets, SLOTS, NOW_MS);
        (plan.orders.first().map(|start| start.account.name.clone()), plan.next_ms)
    };
    assert_eq!(begins_at(days_old(65), NOW_MS + HOUR_MS), (None, Some(NOW_MS + HOUR_MS)));
    assert_eq!(begins_at(days_old(88), NOW_MS + HOUR_MS).0.as_deref(), Some("b"));
}

#[test]
fn an_order_for_the_twin_goes_on_when_the_twin_is_due_and_waits_for_the_limits() {
    let (config, free) = (config(&["a"]), Budgets::default());
    let aged = |days, which| match days_old(days) {
        Present::Issued { not_before, not_after, .. } => Present::Issued { not_before, not_after, which },
        other => other,
    };
    let published = NameState { issued_ms: NOW_MS, ..open_order("a", true, NOW_MS) };
    let of = |present, budgets: &Budgets| begun(&config, budgets, present, &published);
    let goal = |present| of(present, &free).unwrap().2;
    assert_eq!(goal(aged(70, Which::Twin)), Goal::Resume);
    assert_eq!(goal(aged(1, Which::First)), Goal::Resume);
    assert_eq!(goal(aged(70, Which::First)), Goal::Fresh, "both are due again");
    let unpublished = NameState { issued_ms: NOW_MS - 70 * DAY_MS, ..published.clone() };
    for present in [aged(70, Which::Only), aged(70, Which::First), Present::Nothing] {
        assert_eq!(begun(&config, &free, present, &unpublished).unwrap().2, Goal::Resume, "it came, and is not served");
    }
    let mut used_up = Budgets::default();
    (0..5).for_each(|_| used_up.take(&config.accounts[0], "a.example.com", Kind::Renewal, NOW_MS));
    assert!(of(aged(70, Which::Twin), &used_up).is_err());
    assert!(of(aged(1, Which::Only), &used_up).is_ok(), "it has only to be published");
}

#[test]
fn a_name_below_an_imported_wildcard_gets_a_first_certificate_when_that_comes_to_its_end() {
    let (a, nothing, config) = (name("a.example.com"), NameState::default(), config(&["a"]));
    let below = |days| match days_old(days) {
        Present::Issued { not_before, not_after, .. } => Present::Wildcard { not_before, not_after },
        other => other,
    };
    let plan = |days| {
        let subjects = [subject(&a, below(days), &nothing)];
        plan(subjects.into_iter(), &config, &mut Budgets::default(), SLOTS, NOW_MS)
    };
    let orders: Vec<_> = plan(65).orders.iter().map(|start| (start.kind, start.goal)).collect();
    assert_eq!(orders, [(Kind::New, Goal::Fresh)], "counted as the CA counts it");
    let turn = |days, state| urgency(&subject(&a, below(days), state), &config, Kind::New, NOW_MS);
    assert_eq!(turn(65, &nothing), (Class::New, 0), "names without any have their turn beside it");
    assert_eq!(turn(80, &nothing).0, Class::Renewal, "its end is near");
    let early = plan(1);
    let at = early.next_ms.map(|at| (at - NOW_MS) / DAY_MS);
    assert!(early.orders.is_empty() && at.is_some_and(|days| (54..60).contains(&days)), "{at:?}");
    let moved = issued_by(&account("staging"));
    let mut survey = Survey::default();
    survey.see(0, &subject(&a, below(1), &moved), &config, &Budgets::default(), NOW_MS);
    assert_eq!((survey.ranked().len(), survey.looks.len()), (0, 0), "no CA knows the wildcard");
}

#[test]
fn an_order_defies_dns_when_the_end_is_near_or_a_person_has_just_asked() {
    let (a, nothing) = (name("a.example.com"), NameState::default());
    let defies = |present, state: &NameState| defies_dns(&subject(&a, present, state), NOW_MS);
    let lives = |lifetime: i64, left: i64| {
        let not_after = NOW_MS / 1_000 + left * 86_400;
        Present::Issued { not_before: not_after - lifetime * 86_400, not_after, which: Which::Only }
    };
    for (lifetime, from) in [(90, 15), (47, 10), (6, 2), (360, 60)] {
        assert!(!defies(lives(lifetime, from + 1), &nothing), "{lifetime}");
        assert!(defies(lives(lifetime, from - 1), &nothing), "{lifetime}");
    }
    assert!(!defies(Present::Nothing, &nothing) && !defies(Present::Operators, &nothing));
    let mut forced = NameState { forced: true, ..NameState::default() };
    assert!(defies(Present::Nothing, &forced));
    forced.failed("no", (HOUR, HOUR), 0.0, NOW_MS);
    assert!(!defies(Present::Nothing, &forced), "the CA has seen it too");
}
