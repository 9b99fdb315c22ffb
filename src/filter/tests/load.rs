//! What is wrong with a filter is said when it is loaded, never on a request.

use super::*;

fn errors(fixture: &Fixture, stages: Vec<Stage>) -> Vec<StageError> {
    fixture.compile("shop", stages).err().unwrap()
}

#[test]
fn every_bad_stage_is_reported() {
    let fixture = Fixture::with(|options| {
        options.file_bytes_max = 60_000;
        options.deadline = SHORT;
    });
    let bytes = |bytes: &[u8]| Program::Component(bytes.into());
    let with = |name: &str, program: Program| Stage { program, ..stage(name, "\"\"", OnFault::Hold) };
    let found = errors(
        &fixture,
        vec![
            stage("good", "\"\"", OnFault::Hold),
            with("garbage", bytes(b"\x7fELF")),
            with("module", bytes(&wat::parse_str("(module)").unwrap())),
            with("large", bytes(&[0; 60_001])),
            with("script", Program::Script("let x".into())),
            stage("refuses", "\"fail\"", OnFault::Hold),
            stage("traps", "\"trap\"", OnFault::Hold),
            stage("loops", "\"loop\"", OnFault::Hold),
            stage("eats", "\"eats\"", OnFault::Hold),
        ],
    );
    let said: Vec<_> = found.iter().map(|error| (error.stage.as_str(), error.error.to_string())).collect();
    for ((stage, text), (expected, part)) in said.iter().zip([
        ("garbage", "not a Wasm file"),
        ("module", "a core module"),
        ("large", "60001 bytes, but a filter may have 60000"),
        ("script", "script-runner.wasm cannot be read"),
        ("refuses", "told to fail"),
        ("traps", "failed in `init`: trap"),
        ("loops", "failed in `init`: deadline"),
        ("eats", "failed in `init`: out of memory"),
    ]) {
        assert_eq!(*stage, expected);
        assert!(text.contains(part), "{stage}: {text}");
    }
    assert_eq!(found.len(), 8);
    assert!(found.iter().all(|error| !error.error.remedy().is_empty()));
}

#[test]
fn a_memory_that_never_fits_is_refused_at_once() {
    let fixture = Fixture::new();
    let large = GUEST.replace("(memory (export \"memory\") 2)", "(memory (export \"memory\") 400)");
    let large =
        Stage { program: Program::Component(component(&large).into()), ..stage("large", "\"\"", OnFault::Hold) };
    let found = errors(&fixture, vec![large]);
    assert!(matches!(&found[0].error, LoadError::Invalid(text) if text.contains("memory")), "{}", found[0]);
}

#[test]
fn a_component_of_the_wrong_shape_is_refused() {
    let fixture = Fixture::new();
    let wrong = r#"(component
        (core module $m (func (export "f") (result i32) (i32.const 0)))
        (core instance $i (instantiate $m))
        (func $f (result u32) (canon lift (core func $i "f")))
        (instance $h (export "init" (func $f)) (export "filter" (func $f)))
        (export "pixelgate:filter/handler@0.1.0" (instance $h)))"#;
    let wrong = Program::Component(wat::parse_str(wrong).unwrap().into());
    let found = errors(&fixture, vec![Stage { program: wrong, ..stage("wrong", "\"\"", OnFault::Hold) }]);
    assert_eq!(found[0].stage, "wrong");
}

#[test]
fn compiled_code_outlives_the_host_and_is_made_again_where_it_is_damaged() {
    let first = Fixture::new();
    let dir = first.dir.path().join("compiled");
    let before_the_first = std::fs::read_dir(&dir).unwrap().count();
    first.chain("shop", OnFault::Hold);
    let code = || {
        std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().unwrap() == "cwasm")
    };
    assert_eq!(before_the_first, 0);
    let code = code().unwrap();

    // A compiler that can't be started shows that it isn't needed.
    let without_compiler = |options: &mut Options| {
        options.cache_dir = Some(dir.clone());
        options.compiler = Compiler::Child("/nonexistent/pixelgate".into());
    };
    let second = Fixture::with(without_compiler);
    assert_eq!(run_one(&second.chain("shop", OnFault::Hold), "pass"), Filtered::Pass(event("pass")));

    let mut damaged = std::fs::read(&code).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    // By rename, as the mapped file of the hosts that run must not change.
    std::fs::write(code.with_extension("new"), &damaged).unwrap();
    std::fs::rename(code.with_extension("new"), &code).unwrap();
    let third = Fixture::with(without_compiler);
    let found = errors(&third, vec![stage("first", "\"\"", OnFault::Hold)]);
    assert!(matches!(found[0].error, LoadError::CompilerMissing(_)), "{}", found[0]);
    let fourth = Fixture::with(|options| options.cache_dir = Some(dir.clone()));
    assert_eq!(run_one(&fourth.chain("shop", OnFault::Hold), "pass"), Filtered::Pass(event("pass")));
    assert_ne!(std::fs::read(&code).unwrap(), damaged);
}

#[test]
fn what_failed_to_compile_is_not_tried_at_every_reload() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = tempfile::tempdir().unwrap();
    let (compiler, runs) = (scratch.path().join("compiler"), scratch.path().join("runs"));
    std::fs::write(&compiler, format!("#!/bin/sh\necho run >> {}\nexit 1\n", runs.display())).unwrap();
    std::fs::set_permissions(&compiler, std::fs::Permissions::from_mode(0o700)).unwrap();
    let fixture = Fixture::with(|options| options.compiler = Compiler::Child(compiler));
    for account in ["shop", "shop", "other"] {
        let found = fixture.compile(account, vec![stage("first", "\"\"", OnFault::Hold)]).err().unwrap();
        assert!(matches!(found[0].error, LoadError::CompilerFailed(_)), "{}", found[0]);
    }
    assert_eq!(std::fs::read_to_string(runs).unwrap(), "run\n");
}

#[test]
fn an_account_has_one_time_for_all_that_it_has_compiled() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = tempfile::tempdir().unwrap();
    let compiler = scratch.path().join("compiler");
    std::fs::write(&compiler, "#!/bin/sh\nexec /bin/sleep 600\n").unwrap();
    std::fs::set_permissions(&compiler, std::fs::Permissions::from_mode(0o700)).unwrap();
    let fixture = Fixture::with(|options| {
        options.compiler = Compiler::Child(compiler);
        options.compile_timeout = Duration::from_millis(50);
    });
    let with_functions = |count: usize| {
        let core = include_str!("guest.wat").trim_end().strip_suffix(')').unwrap();
        let program = Program::Component(component(&format!("{core} {})", "(func)".repeat(count))).into());
        Stage { program, ..stage("first", "\"\"", OnFault::Hold) }
    };
    let found = errors(&fixture, (1..=8).map(with_functions).collect());
    let tried = found.iter().take_while(|found| matches!(found.error, LoadError::CompileTimeout { .. })).count();
    assert!((1..=4).contains(&tried), "{tried}");
    assert!(found[tried..].iter().all(|found| matches!(found.error, LoadError::NoTimeLeft { .. })));
    assert_eq!(found.len(), 8);
    let other = fixture.compile("other", vec![with_functions(8)]).err().unwrap();
    assert!(matches!(other[0].error, LoadError::CompileTimeout { .. }), "{}", other[0]);
}

#[test]
fn without_a_folder_nothing_is_kept() {
    let fixture = Fixture::with(|options| options.cache_dir = None);
    assert_eq!(run_one(&fixture.chain("shop", OnFault::Hold), "pass"), Filtered::Pass(event("pass")));
    assert_eq!(std::fs::read_dir(fixture.dir.path()).unwrap().count(), 0);
}
