//! Whatever a filter does to an event, only that event sees it, and the account's rule applies.

use super::*;

#[test]
fn verdicts_are_carried_out() {
    let fixture = Fixture::new();
    let chain = fixture.chain("shop", OnFault::Hold);
    let before = event("edit");
    let mut after = before.clone();
    after.custom_data.insert("touched".to_owned(), true.into());
    let filtered = run(&chain, &["pass", "drop", "edit"]);
    let told_to = Filtered::Drop { filter: "first".into(), reason: "told to".to_owned() };
    assert_eq!(filtered, [Filtered::Pass(event("pass")), told_to, Filtered::Pass(after)]);
    assert_eq!(*fixture.seen.calls.lock().unwrap(), [CallEnd::Pass, CallEnd::Drop, CallEnd::Modify]);
    assert!(fixture.seen.faults.lock().unwrap().is_empty());
}

#[test]
fn no_filters_cost_nothing() {
    let fixture = Fixture::new();
    let chain = fixture.compile("shop", vec![]).unwrap();
    assert!(chain.is_empty());
    assert_eq!(run_one(&chain, "loop"), Filtered::Pass(event("loop")));
}

#[test]
fn whatever_a_filter_does_the_event_is_held_and_the_next_one_served() {
    let fixture = Fixture::new();
    for (name, kind, said) in [
        ("loop", "deadline", "took longer than 250ms, [filters] deadline: wasm trap: interrupt"),
        ("trap", "trap", "unreachable"),
        ("recursion", "trap", "stack"),
        ("eats", "out of memory", "wanted more than 16777216 bytes, [filters] memory_bytes_max: "),
        ("fail", "error", "told to fail"),
        ("says", "trap", "it had logged: told to fail"),
        ("many", "bad verdict", "edits"),
        ("huge", "bad verdict", "more than 524288 bytes in one call"),
        ("garbage", "bad verdict", "utf-8"),
    ] {
        let chain = fixture.chain("shop", OnFault::Hold);
        let begun = Instant::now();
        let filtered = run_one(&chain, name);
        assert!(begun.elapsed() < PATIENCE / 2, "{name}");
        assert!(matches!(&filtered, Filtered::Hold { event: held, .. } if *held == event(name)), "{filtered:?}");
        let (found, message) = held(filtered);
        assert_eq!(found, kind, "{name}: {message}");
        assert!(message.to_lowercase().contains(said), "{name}: {message}");
        assert_eq!(run_one(&chain, "pass"), Filtered::Pass(event("pass")), "after {name}");
    }
}

#[test]
fn an_endless_loop_is_tried_twice_and_counted_once() {
    let fixture = Fixture::new();
    let chain = fixture.chain("shop", OnFault::Hold);
    let begun = Instant::now();
    run_one(&chain, "loop");
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
    assert_eq!(*fixture.seen.calls.lock().unwrap(), [CallEnd::Fault(FaultKind::Deadline)]);
    assert_eq!(*fixture.seen.faults.lock().unwrap(), [FaultKind::Deadline]);
}

#[test]
fn a_flood_of_lines_is_no_fault() {
    let fixture = Fixture::new();
    assert_eq!(run_one(&fixture.chain("shop", OnFault::Hold), "flood"), Filtered::Pass(event("flood")));
}

#[test]
fn the_lines_of_an_accounts_filters_are_counted_together() {
    let stages = ["one", "two", "three"].map(|name| stage(name, "\"\"", OnFault::Hold));
    assert!(Fixture::new().compile("shop", stages.into()).unwrap().has_one_log());
}

#[test]
fn each_rule_for_faults_applies() {
    let fixture = Fixture::new();
    let chain = |first, second| {
        let stages = vec![stage("first", "\"\"", first), stage("second", "\"\"", second)];
        fixture.compile("shop", stages).unwrap()
    };
    assert_eq!(run_one(&chain(OnFault::Pass, OnFault::Pass), "trap"), Filtered::Pass(event("trap")));
    let by_second = Filtered::Drop { filter: "second".into(), reason: "fault: trap".to_owned() };
    assert_eq!(run_one(&chain(OnFault::Pass, OnFault::Drop), "trap"), by_second);
    let Filtered::Hold { reason, .. } = run_one(&chain(OnFault::Hold, OnFault::Drop), "trap") else { panic!() };
    assert_eq!(reason, "filter:first: trap");
}

#[test]
fn what_is_held_is_the_event_before_the_first_filter() {
    // A name that the first filter edits and that the second, with other code, traps on.
    let trapping = GUEST.replace("0x74696465 (; edit ;)", "0x74696466").replace("0x70617274", "0x74696465");
    let second =
        Stage { program: Program::Component(component(&trapping).into()), ..stage("second", "\"\"", OnFault::Hold) };
    let fixture = Fixture::new();
    let chain = fixture.compile("shop", vec![stage("first", "\"\"", OnFault::Hold), second]).unwrap();
    let Filtered::Hold { event: held, reason, .. } = run_one(&chain, "edit") else { panic!() };
    assert_eq!(held, event("edit"));
    assert_eq!(reason, "filter:second: trap");
}

#[test]
fn five_faults_open_the_breaker() {
    let fixture = Fixture::new();
    let chain = fixture.chain("shop", OnFault::Hold);
    let kinds: Vec<_> = run(&chain, &["trap"; 7]).into_iter().map(|filtered| held(filtered).0).collect();
    assert_eq!(kinds, ["trap", "trap", "trap", "trap", "trap", "breaker open", "breaker open"]);
    assert_eq!(held(run_one(&chain, "pass")).0, "breaker open");
    assert_eq!(fixture.seen.calls.lock().unwrap().len(), 5);
    assert_eq!(fixture.seen.faults.lock().unwrap().len(), 8);
    let other = fixture.chain("other", OnFault::Hold);
    assert_eq!(run_one(&other, "pass"), Filtered::Pass(event("pass")), "of that filter only");
}
