//! Accounts share code, threads and memory, and don't notice each other.

use super::*;

#[test]
fn accounts_with_the_same_file_share_code_but_no_instance() {
    let fixture = Fixture::new();
    let stages = |settings: &str| vec![stage("first", settings, OnFault::Hold)];
    let one = fixture.compile("one", stages("\"of one\"")).unwrap();
    let two = fixture.compile("two", stages("\"of two\"")).unwrap();
    assert_eq!(dropped(run_one(&one, "count")), "0001");
    assert_eq!(dropped(run_one(&one, "count")), "0002");
    assert_eq!(dropped(run_one(&two, "count")), "0001");
    assert_eq!(dropped(run_one(&one, "echo")), "\"of one\"");
    assert_eq!(dropped(run_one(&two, "echo")), "\"of two\"");
    assert!(one.shares_code_with(&two));
    let again = fixture.compile("one", stages("\"of one\"")).unwrap();
    assert_eq!(dropped(run_one(&again, "count")), "0001", "a new configuration begins anew");
}

#[test]
fn a_component_that_compiles_slowly_is_compiled_once_and_holds_up_no_other() {
    let slow = guest();
    let quick: Arc<[u8]> = guest_with("(func)").into();
    let fixture = Fixture::with(|options| {
        let child = options.script_runner.with_file_name("child");
        // The slow one waits until it may go on; then each is refused.
        let script = format!(
            "#!/bin/sh\ncat > \"$0.in.$$\"\nif [ $(wc -c < \"$0.in.$$\") -eq {} ]; then\n\
             echo >> \"$0.begun\"\nwhile [ ! -e \"$0.go\" ]; do sleep 0.02; done\nfi\nprintf '\\001no'\n",
            slow.len()
        );
        std::fs::write(&child, script).unwrap();
        std::fs::set_permissions(&child, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        options.compiler = Compiler::Child(child);
    });
    let begun =
        || std::fs::read_to_string(fixture.dir.path().join("child.begun")).map_or(0, |text| text.lines().count());
    let load = |account: &str, bytes: &Arc<[u8]>| {
        let stage = Stage { program: Program::Component(bytes.clone()), ..stage("first", "\"\"", OnFault::Hold) };
        fixture.compile(account, vec![stage]).map(drop).unwrap_err()[0].to_string()
    };
    std::thread::scope(|scope| {
        let (load, slow) = (&load, &slow);
        let waiting = ["one", "two"].map(|account| scope.spawn(move || load(account, slow)));
        let since = Instant::now();
        while begun() == 0 {
            assert!(since.elapsed() < PATIENCE);
            std::thread::yield_now();
        }
        assert!(load("three", &quick).ends_with("no"));
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
        std::fs::write(fixture.dir.path().join("child.go"), "").unwrap();
        assert!(waiting.into_iter().all(|waiting| waiting.join().unwrap().ends_with("no")));
    });
    assert_eq!(begun(), 1);
}

#[test]
fn an_instance_serves_its_time_and_is_replaced() {
    let fixture = Fixture::new();
    let chain = fixture.chain("shop", OnFault::Hold);
    let answers: Vec<_> = run(&chain, &["count"; 1_003]).into_iter().map(dropped).collect();
    assert_eq!(answers[999], "1000");
    assert_eq!(answers[1_000..], ["0001", "0002", "0003"]);
    run_one(&chain, "trap");
    assert_eq!(dropped(run_one(&chain, "count")), "0001", "after a trap");
    run_one(&chain, "hoard");
    assert_eq!(dropped(run_one(&chain, "count")), "0001", "after growing past what is kept");
}

#[test]
fn an_account_that_loops_does_not_hold_up_another() {
    let fixture = Fixture::with(|options| options.deadline = SHORT);
    let bad: Vec<Chain> = (0..40).map(|_| fixture.chain("bad", OnFault::Drop)).collect();
    let good = fixture.chain("good", OnFault::Hold);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let slowest = runtime.block_on(async {
        // Forty chains: as many breakers, so that the loops go on for 40 × 5 × 2 deadlines.
        let mut loops = tokio::task::JoinSet::new();
        for chain in bad {
            loops.spawn(async move { chain.run(context(), vec![event("loop"); 5]).await });
        }
        tokio::task::yield_now().await;
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let begun = Instant::now();
            assert_eq!(good.run(context(), vec![event("pass")]).await, [Filtered::Pass(event("pass"))]);
            slowest = slowest.max(begun.elapsed());
        }
        let unfinished = !loops.is_empty() && loops.try_join_next().is_none();
        assert!(unfinished, "the loops were meant to last longer than the good account's calls");
        slowest
    });
    // Behind the loops it would have waited for eight seconds. A stalled machine may take its time.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

#[test]
fn a_long_batch_makes_room_for_others() {
    let fixture = Fixture::with(|options| {
        options.threads = 1;
        options.deadline = SHORT;
    });
    let (long, short) = (fixture.chain("long", OnFault::Hold), fixture.chain("short", OnFault::Hold));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let batch = tokio::spawn(async move { long.run(context(), vec![event("spin"); 400]).await });
        tokio::task::yield_now().await;
        assert_eq!(short.run(context(), vec![event("pass")]).await, [Filtered::Pass(event("pass"))]);
        assert!(!batch.is_finished(), "the batch was meant to take longer");
        assert_eq!(batch.await.unwrap().len(), 400);
    });
}

/// A filter with so many parts, each of which takes two deadlines of an event that loops.
fn long_chain(fixture: &Fixture) -> Chain {
    let stages = (0..16).map(|n| stage(&format!("part-{n}"), "\"\"", OnFault::Pass));
    fixture.compile("long", stages.collect()).unwrap()
}

#[test]
fn a_long_chain_makes_room_for_others() {
    let fixture = Fixture::with(|options| {
        options.threads = 1;
        options.deadline = SHORT;
    });
    let (long, short) = (long_chain(&fixture), fixture.chain("short", OnFault::Hold));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let event_of_many = tokio::spawn(async move { long.run(context(), vec![event("loop")]).await });
        tokio::task::yield_now().await;
        assert_eq!(short.run(context(), vec![event("pass")]).await, [Filtered::Pass(event("pass"))]);
        assert!(!event_of_many.is_finished(), "its filters were meant to take longer");
        assert_eq!(event_of_many.await.unwrap(), [Filtered::Pass(event("loop"))]);
    });
}

#[test]
fn a_request_has_its_budget_between_filters_too() {
    let fixture = Fixture::with(|options| options.deadline = SHORT);
    // 20 deadlines and 16 / 10 more; all loops together take 32.
    assert_eq!(run_one(&long_chain(&fixture), "loop"), Filtered::Pass(event("loop")));
    let faults = fixture.seen.faults.lock().unwrap().clone();
    assert_eq!(faults.len(), 16);
    assert_eq!((faults[0], faults[15]), (FaultKind::Deadline, FaultKind::Overloaded));
}

#[test]
fn a_filter_that_starts_slowly_for_every_call_is_left_out() {
    let fixture = Fixture::with(|options| options.deadline = SHORT);
    let slow = |length: usize| {
        let settings = format!("\"slow{}\"", "!".repeat(length));
        fixture.compile("shop", vec![stage("first", &settings, OnFault::Hold)]).unwrap()
    };
    // Two deadlines are not slow, and twenty are all that a start may take.
    fixture.chain("shop", OnFault::Hold);
    let length = || {
        let mut starts = [(); 5].map(|()| {
            let begun = Instant::now();
            slow(200);
            begun.elapsed()
        });
        starts.sort();
        (200 * 6 * SHORT.as_micros() / starts[2].as_micros()).min(3_500) as usize
    };
    // A busy machine is slower or quicker at times: so it need not be the fifth call in a row, and the next length is
    // measured anew.
    let is_left_out = |filtered| matches!(filtered, Filtered::Hold { reason, .. } if reason.ends_with("breaker open"));

    let left_out = (0..5).any(|_| {
        let large = slow(length());
        assert_eq!(run_one(&large, "hoard"), Filtered::Pass(event("hoard")), "started at the reload");
        (0..30).any(|_| is_left_out(run_one(&large, "hoard")))
    });
    assert!(left_out, "each was started for one call");

    let left_out = (0..5).any(|_| {
        let trapping = slow(length());
        ["trap", "pass"].into_iter().cycle().take(60).any(|name| is_left_out(run_one(&trapping, name)))
    });
    assert!(left_out, "a call makes up for no fault if it took a start");

    let kept = slow(length());
    run_one(&kept, "trap");
    assert!(!(0..20).any(|_| is_left_out(run_one(&kept, "pass"))), "a slow start alone is none");
}

#[test]
fn who_finds_no_thread_in_time_has_a_fault_of_its_own() {
    let fixture = Fixture::with(|options| {
        options.threads = 1;
        options.deadline = SHORT;
        options.wait_max = Duration::from_millis(1);
    });
    let chains: Vec<Chain> = ["one", "two", "three"].iter().map(|id| fixture.chain(id, OnFault::Hold)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let filtered = runtime.block_on(async {
        let mut all = tokio::task::JoinSet::new();
        for chain in chains {
            all.spawn(async move { chain.run(context(), vec![event("loop"); 2]).await });
        }
        all.join_all().await.concat()
    });
    let faults: Vec<_> = filtered.into_iter().map(held).collect();
    let no_thread = ("overloaded".to_owned(), "no thread was free within 1ms, [filters] wait_max".to_owned());
    assert!(faults.contains(&no_thread), "{faults:?}");
}

#[test]
fn a_request_has_a_budget() {
    let fixture = Fixture::with(|options| options.deadline = SHORT);
    let chain = fixture.chain("shop", OnFault::Hold);
    // Alternating, so that the breaker stays closed. Budget: 20 deadlines and 400 / 10 more; the loops alone take 400.
    let names: Vec<&str> = std::iter::repeat_n(["loop", "pass"], 200).flatten().collect();
    let filtered = run(&chain, &names);
    assert_eq!(filtered.len(), 400);
    assert_eq!(held(filtered.into_iter().next_back().unwrap()).0, "overloaded");
    assert_eq!(run_one(&chain, "pass"), Filtered::Pass(event("pass")), "of that request only");
}

#[test]
fn a_chain_outlives_its_host_and_refuses() {
    let fixture = Fixture::new();
    let chain = fixture.chain("shop", OnFault::Hold);
    drop(fixture.host);
    assert_eq!(held(run_one(&chain, "pass")).0, "overloaded");
}
