//! What must never go on for ever: orders that bring no rest, whatever a CA says.

use super::*;

/// Orders of a day for a name whose CA always wants another certificate, and how many it got.
fn orders_in_a_day(mut told: impl FnMut(&mut NameState, Present)) -> usize {
    let mut world = World::new(config(&["a"]), [name("a.example.com")]);
    world.until(NOW_MS + DAY_MS, |world, name, account, _| {
        world.issue(&name.clone(), &account.clone());
        let (state, present) = world.names.get_mut(name).unwrap();
        told(state, *present);
    });
    world.begun.len()
}

#[test]
fn a_ca_that_never_has_enough_gets_no_more_than_an_order_an_hour_and_five_a_week() {
    let orders = orders_in_a_day(|state, present| {
        let Present::Issued { not_after, .. } = present else { panic!() };
        state.renewal = Some(Renewal { of: not_after, offered: true, at_ms: 0, window: (0, 0), look_ms: i64::MAX });
    });
    // The first certificate, five at once but for an hour between them, and what flows back in a day.
    assert!((5..=7).contains(&orders), "{orders}");

    let config = config(&["a"]);
    let mut state = NameState::default();
    state.issued(&config.accounts[0], None, NOW_MS);
    let Present::Issued { not_after, .. } = days_old(0) else { panic!() };
    state.renewal = Some(Renewal { of: not_after, offered: true, at_ms: 0, window: (0, 0), look_ms: 0 });
    let a = name("a.example.com");
    let due = |state: &NameState| match next(&subject(&a, days_old(0), state), &config, NOW_MS + 60_000) {
        Next::Order { at_ms, .. } => at_ms,
        other => panic!("{other:?}"),
    };
    assert_eq!(due(&state), NOW_MS + HOUR_MS, "a certificate that is a minute old");
    state.forced = true;
    assert_eq!(due(&state), 0, "a person does not wait");
}

#[test]
fn a_window_after_the_end_is_not_believed() {
    let Present::Issued { not_before, not_after, .. } = days_old(1) else { panic!() };
    let late = (not_after + 30 * 86_400) * 1_000;
    let renewal = Renewal { of: not_after, offered: true, at_ms: late, window: (late, late), look_ms: 0 };
    let state = NameState { renewal: Some(renewal), ..NameState::default() };
    let a = name("a.example.com");
    let Next::Order { at_ms, .. } = next(&subject(&a, days_old(1), &state), &config(&["a"]), NOW_MS) else { panic!() };
    assert_eq!(at_ms, (not_before + 75 * 86_400) * 1_000, "the last sixth of ninety days");
}

#[test]
fn what_was_issued_and_not_seen_is_looked_at_again_and_never_ordered_again() {
    let config = config(&["a"]);
    let mut state = NameState::default();
    state.issued(&config.accounts[0], None, NOW_MS);
    state.unseen = true;
    let a = name("a.example.com");
    for present in [days_old(0), Present::Nothing] {
        let plan = plan([subject(&a, present, &state)].into_iter(), &config, &mut Budgets::default(), SLOTS, NOW_MS);
        assert_eq!(plan.orders[0].goal, Goal::Show, "{present:?}");
    }
    // An hour later there is still nothing to be seen: it is broken.
    let later = NOW_MS + HOUR_MS;
    let plan =
        plan([subject(&a, Present::Nothing, &state)].into_iter(), &config, &mut Budgets::default(), SLOTS, later);
    assert_eq!((plan.orders[0].goal, plan.orders[0].kind), (Goal::Fresh, Kind::Renewal));
}

#[test]
fn nothing_waits_for_a_clock_that_went_back() {
    let config = config(&["a"]);
    let mut state = issued_by(&config.accounts[0]);
    let Present::Issued { not_after, .. } = days_old(70) else { panic!() };
    state.renewal =
        Some(Renewal { of: not_after, offered: false, at_ms: 0, window: (0, 0), look_ms: NOW_MS + 400 * DAY_MS });
    state.not_before_ms = NOW_MS + 400 * DAY_MS;
    state.issued_ms = NOW_MS + 400 * DAY_MS;
    let a = name("a.example.com");
    let mut survey = Survey::default();
    survey.see(0, &subject(&a, days_old(70), &state), &config, &Budgets::default(), NOW_MS);
    assert_eq!((survey.looks.len(), survey.ranked().len()), (1, 1));
    let mut budgets = Budgets::default();
    budgets.pause("a", "", NOW_MS + 400 * DAY_MS, NOW_MS);
    let ready = budgets.account_ready_at(&config.accounts[0], Kind::New, NOW_MS);
    assert_eq!(ready, NOW_MS + DAY_MS, "whatever Retry-After says");
}

#[test]
fn no_window_is_asked_for_at_an_account_that_is_left_alone_or_at_no_ca() {
    let config = config(&["a", "b"]);
    let (a, until) = (name("a.example.com"), NOW_MS + HOUR_MS);
    let mut budgets = Budgets::default();
    budgets.pause("a", "", until, NOW_MS);
    let seen = |state: &NameState| {
        let mut survey = Survey::default();
        survey.see(0, &subject(&a, days_old(5), state), &config, &budgets, NOW_MS);
        (survey.looks.len(), survey.next_ms)
    };
    let renewal = NOW_MS + 50 * DAY_MS;
    for state in [issued_by(&config.accounts[0]), NameState::default()] {
        let (looks, next_ms) = seen(&state);
        assert!(looks == 0 && (until..renewal).contains(&next_ms.unwrap()), "{state:?}");
    }
    assert_eq!(seen(&issued_by(&config.accounts[1])).0, 1);
    // A name of a CA that left the configuration would be looked at for ever.
    assert_eq!(seen(&issued_by(&account("staging"))).0, 0);
}

#[test]
fn an_error_of_an_earlier_certificate_is_forgiven() {
    let config = config(&["a"]);
    let Present::Issued { not_after, .. } = days_old(5) else { panic!() };
    let failed = |of| NameState { error: Some("why".into()), failed_of: of, ..NameState::default() };
    let a = name("a.example.com");
    for (present, state, forgiven) in [
        (Present::Nothing, failed(0), false),
        (days_old(5), failed(0), true),
        (days_old(5), failed(not_after), false),
        (Present::Operators, failed(not_after), true),
        (Present::OperatorsWildcard, failed(not_after), true),
        (Present::OperatorsWildcard, NameState { forced: true, ..failed(0) }, false),
        (days_old(5), NameState { unseen: true, ..failed(0) }, false),
        (Present::Operators, NameState { unseen: true, ..failed(0) }, true),
    ] {
        let mut survey = Survey::default();
        survey.see(0, &subject(&a, present, &state), &config, &Budgets::default(), NOW_MS);
        assert_eq!(survey.forgiven.len(), usize::from(forgiven), "{present:?} {state:?}");
    }
}
