//! When a certificate is renewed.

use super::*;

/// When a certificate that is so many days old is renewed, in days after its beginning.
fn renewed_after(config: &AcmeConfig, present: Present, state: &NameState) -> f64 {
    let Present::Issued { not_before, .. } = present else { panic!() };
    let name = name("a.example.com");
    match next(&subject(&name, present, state), config, 0) {
        Next::Order { at_ms, .. } => (at_ms / 1_000 - not_before) as f64 / 86_400.0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_certificate_is_renewed_when_the_ca_says_else_after_two_thirds() {
    let nothing = NameState::default();
    let usual = renewed_after(&config(&["a"]), days_old(1), &nothing);
    assert!((55.5..=60.0).contains(&usual), "{usual}");
    let Present::Issued { not_before, not_after, .. } = days_old(1) else { panic!() };
    let six_days = Present::Issued { not_before, not_after: not_before + 6 * 86_400, which: Which::Only };
    let short = renewed_after(&config(&["a"]), six_days, &nothing);
    assert!((3.7..=4.0).contains(&short), "{short}");

    let at_ms = (not_before + 40 * 86_400) * 1_000;
    let renewal = Renewal { of: not_after, offered: true, at_ms, window: (0, 0), look_ms: 0 };
    let told = NameState { renewal: Some(renewal.clone()), ..NameState::default() };
    assert!((renewed_after(&config(&["a"]), days_old(1), &told) - 40.0).abs() < 0.01);
    // Of the certificate before, or of a CA that says nothing.
    for other in [Renewal { of: not_after - 1, ..renewal.clone() }, Renewal { offered: false, ..renewal.clone() }] {
        let state = NameState { renewal: Some(other), ..NameState::default() };
        assert!((renewed_after(&config(&["a"]), days_old(1), &state) - usual).abs() < 0.01);
    }

    let early = |days: u32| AcmeConfig { renew_before: Some(days * 24 * HOUR), ..config(&["a"]) };
    let at = renewed_after(&early(20), days_old(1), &nothing);
    assert!((65.5..=70.0).contains(&at), "{at}");
    assert!((renewed_after(&early(20), days_old(1), &told) - 40.0).abs() < 0.01, "the CA's wish is earlier");
    assert!(renewed_after(&early(30), six_days, &nothing) > 1.6, "not for ever at once");
}

#[test]
fn names_that_began_together_are_renewed_one_after_the_other() {
    let (config, nothing) = (config(&["a"]), NameState::default());
    let names = (0..100).map(|n| name(&format!("events.shop{n}.example")));
    let mut at: Vec<_> = names
        .map(|name| match next(&subject(&name, days_old(1), &nothing), &config, 0) {
            Next::Order { at_ms, .. } => at_ms - (NOW_MS - DAY_MS),
            other => panic!("{other:?}"),
        })
        .collect();
    at.sort_unstable();
    // A twentieth of ninety days before two thirds of them.
    assert!(at.iter().all(|at| (60 * DAY_MS - 108 * HOUR_MS..=60 * DAY_MS).contains(at)), "{at:?}");
    at.dedup();
    assert!(at.len() > 95 && at[at.len() - 1] - at[0] > 72 * HOUR_MS, "{at:?}");
}

#[test]
fn an_operators_certificate_and_a_name_without_visitors_are_left_alone() {
    let (a, nothing) = (name("a.example.com"), NameState::default());
    let on_demand = AcmeConfig { on_demand: true, ..config(&["a"]) };
    let of = |present, state: &NameState, config: &AcmeConfig| next(&subject(&a, present, state), config, NOW_MS);
    assert_eq!(of(Present::Operators, &nothing, &config(&["a"])), Next::Operator);
    assert_eq!(of(Present::Nothing, &nothing, &on_demand), Next::Visitor);
    let asked = NameState { asked: true, ..NameState::default() };
    assert_eq!(of(Present::Nothing, &asked, &on_demand), Next::Order { at_ms: 0, kind: Kind::New });
    // It was imported, or its account had left meanwhile: nobody knows who issued it.
    assert_eq!(of(Present::Ended, &nothing, &on_demand), Next::Order { at_ms: 0, kind: Kind::New });
    let forced = NameState { forced: true, ..NameState::default() };
    assert_eq!(of(Present::Operators, &forced, &config(&["a"])), Next::Operator, "it would not be served");
    assert_eq!(of(Present::OperatorsWildcard, &nothing, &config(&["a"])), Next::Operator);
    assert!(matches!(of(Present::OperatorsWildcard, &forced, &config(&["a"])), Next::Order { .. }));
}
