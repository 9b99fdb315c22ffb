//! What a look at a hundred thousand names takes.

use super::*;
use crate::tls::{CertFolders, CertStore};

/// As the service looks at all names; the store that it asks what serves them has none.
#[test]
fn what_is_due_of_a_hundred_thousand_names_is_found() {
    let config = config(&["a"]);
    let states: Vec<_> = (0..100_000)
        .map(|n| {
            let renewal = Renewal { of: 0, offered: true, at_ms: NOW_MS, window: (0, 0), look_ms: NOW_MS + HOUR_MS };
            let state = NameState { renewal: Some(renewal), ..issued_by(&config.accounts[0]) };
            (name(&format!("n{n}.shop{}.example", n % 20_000)), state)
        })
        .collect();
    let store = CertStore::load(&CertFolders::default(), states.iter().map(|(name, _)| name), None, NOW_MS / 1_000);
    for (what, age_days, due) in [("none due", 1, 0), ("all due", 70, 100_000)] {
        let mut budgets = Budgets::default();
        let began = std::time::Instant::now();
        let mut survey = Survey::default();
        for (index, (name, state)) in states.iter().enumerate() {
            assert_eq!(std::hint::black_box(store.standing(name)).serving, None);
            survey.see(index, &subject(name, days_old(age_days), state), &config, &budgets, NOW_MS);
        }
        let ranked = survey.ranked();
        let looked = began.elapsed();
        assert_eq!(ranked.len(), due);
        for (_, index) in ranked.into_iter().take(1_000) {
            let (name, state) = &states[index];
            let subject = subject(name, days_old(age_days), state);
            let start = choose(&subject, &config, &budgets, &Load::default(), NOW_MS).unwrap();
            budgets.reserve(&start.account, name.as_str(), start.kind);
        }
        eprintln!("100,000 names, {what}: looked at in {looked:?}, 1,000 chosen after {:?}", began.elapsed());
    }
}
