//! What misbehaving scripts do to themselves, and to nobody else.

#![allow(clippy::unwrap_used)]

mod server;

use server::{Server, cloud_code, code};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidings_cloud_code::{CloudCode, HookRequest, Host, LoadError, Mode, Outcome, Replay, Trigger};
use tidings_protocol::{ClassName, Error, Object};

fn request(class: &str) -> Arc<HookRequest> {
    Arc::new(HookRequest { class: ClassName::parse(class).unwrap(), ..HookRequest::default() })
}

/// Runs the `before_save` of `A` with this much time, on a thread with the stack of a tokio worker.
fn run(script: CloudCode, time: Duration) -> (Result<(), Error>, Option<String>, Duration) {
    let server = Server::new(script);
    let host: Arc<dyn Host> = server.clone();
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    let ran = thread.spawn(move || {
        let hook = server.cloud_code.hook("A", Trigger::BeforeSave).unwrap();
        let started = Instant::now();
        let mode = Mode::Pool { deadline: started + time, replay: Replay::default() };
        let outcome = hook.run(&request("A"), &host, mode).outcome;
        (outcome, started.elapsed())
    });
    let (outcome, elapsed) = ran.unwrap().join().unwrap();
    match outcome {
        Outcome::Continue(_) => (Ok(()), None, elapsed),
        Outcome::Rejected(rejection) => (Err(rejection.error), rejection.fault, elapsed),
        Outcome::NeedsPool(_) => panic!("on the pool already"),
    }
}

fn inline(script: &str) -> CloudCode {
    CloudCode::from_script(script).unwrap()
}

fn load_error(script: &str) -> LoadError {
    CloudCode::from_script(script).err().unwrap_or_else(|| panic!("loaded: {script}"))
}

#[test]
fn every_misbehaving_script_ends_as_an_error_of_its_caller() {
    for (name, text, fault, seconds) in [
        ("endless_loop", "The hook took too long.", "tests/endless_loop.rhai:", 5),
        ("catches_everything", "The hook took too long.", "tests/catches_everything.rhai:", 5),
        ("string_bomb", "The hook used too much memory.", "tests/string_bomb.rhai:", 5),
        ("array_bomb", "The hook used too much memory.", "tests/array_bomb.rhai:", 20),
        ("object_bomb", "The hook used too much memory.", "tests/object_bomb.rhai:", 5),
        ("deep_recursion", "The hook called too deep.", "tests/deep_recursion.rhai:", 5),
    ] {
        let script = CloudCode::load_script(&cloud_code(), &format!("tests/{name}.rhai")).unwrap();
        let (result, found, elapsed) = run(script, Duration::from_secs(30));
        let error = result.unwrap_err();
        assert_eq!((error.code.number(), error.message.as_ref()), (141, text), "{name}");
        let found = found.unwrap();
        assert!(found.starts_with(fault), "{name}: {found}");
        assert!(elapsed.as_secs() < seconds, "{name}: {elapsed:?}");
    }
}

#[test]
fn the_deadline_ends_a_run_also_inside_try() {
    let script = inline(
        r#"before_save("A", |r| { loop { try { for i in 0..1000 { let t = "x"; t.pad(100000, "y"); } } catch {} } });"#,
    );
    let (result, fault, elapsed) = run(script, Duration::from_millis(30));
    assert_eq!(result.unwrap_err().message, "The hook took too long.");
    assert!(fault.unwrap().contains("deadline"));
    assert!(elapsed < Duration::from_millis(500), "{elapsed:?}");
}

#[test]
fn a_slow_host_call_ends_at_the_deadline() {
    let script = inline(r#"before_save("A", |r| { try { pointer("B", "b").fetch(); } catch {} });"#);
    let server = Server::with(script, |server| server.delay = Duration::from_millis(50));
    let hook = server.cloud_code.hook("A", Trigger::BeforeSave).unwrap();
    let host: Arc<dyn Host> = server.clone();
    let deadline = Instant::now() + Duration::from_millis(20);
    let outcome = hook.run(&request("A"), &host, Mode::Pool { deadline, replay: Replay::default() }).outcome;
    assert!(matches!(outcome, Outcome::Rejected(_)));
}

#[test]
fn an_inline_run_ends_before_it_waits_or_takes_too_long() {
    let script = inline(
        r#"
        before_save("A", |r| { log.info("before"); new_object("B").save(); });
        before_save("C", |r| { let n = 0; while n < 100000 { n += 1; } });
        before_save("D", |r| { rate_limit("k", 1, 60); rate_limit("k", 1, 60); pointer("B", "b").fetch(); });
    "#,
    );
    let server = Server::new(script);
    let host: Arc<dyn Host> = server.clone();
    for class in ["A", "C", "D"] {
        let hook = server.cloud_code.hook(class, Trigger::BeforeSave).unwrap();
        let run = hook.run(&request(class), &host, Mode::Inline { budget: Duration::from_millis(2) });
        let Outcome::NeedsPool(replay) = run.outcome else { panic!("{class}: {:?}", run.outcome) };
        assert!(run.elapsed < Duration::from_millis(100), "{class}");
        if class == "D" {
            let expected = Replay::default();
            assert_ne!(replay, expected);
            assert!(!server.limiter.take("k", 1, Duration::from_secs(60), Instant::now()));
            let deadline = Instant::now() + Duration::from_secs(5);
            let again = hook.run(&request(class), &host, Mode::Pool { deadline, replay });
            assert!(matches!(again.outcome, Outcome::Continue(_)));
        }
    }
    assert!(server.rows.lock().unwrap().is_empty());
    assert!(server.log.lock().unwrap().is_empty(), "a restart would log the line again");
}

#[test]
fn hooks_nest_ten_deep() {
    let script = r#"
        before_save("A", |request| { new_object("A").save(); });
        after_save("B", |request| {
            try { new_object("B").save(); } catch (error) { log.warn(`${error.code}: ${error}`); }
        });
    "#;
    let server = Server::script(script);
    assert_eq!(code(server.create("", "A", "{}")), 141);
    assert!(server.rows.lock().unwrap().is_empty());
    assert_eq!(code(server.create("", "B", "{}")), 0);
    assert_eq!(server.rows.lock().unwrap().len(), 11);
}

#[test]
fn what_a_script_throws_is_what_the_client_gets() {
    for (throw, code, text) in [
        (r#"throw "no""#, 141, "no"),
        (r#"throw error(142, "bad")"#, 142, "bad"),
        (r#"throw #{ code: 4242, message: "own" }"#, 4242, "own"),
        (r#"throw #{ message: "own" }"#, 141, "own"),
        ("throw", 141, "Script failed. Unknown error."),
        ("throw 5", 141, "5"),
        (r#"try { throw error(155, "x") } catch (e) { throw error(e.code, `again: ${e.message}`) }"#, 155, "again: x"),
        (r#"pointer("B", "b").fetch(); object("B", "b").save()"#, 101, "Object not found."),
        (r#"query("1")"#, 103, ""),
        (r#"request.object.set("a b", 1)"#, 105, ""),
        (r#"request.object._hashed_password = "x""#, 105, ""),
        (r#"request.object.list = [#{ "a.b": 1 }]"#, 121, ""),
        // Mistakes: the client learns only that there was one.
        ("nonsense()", 141, "The hook failed."),
        ("request.object.frobnicate()", 141, "The hook failed."),
        ("request.nonsense", 141, "The hook failed."),
        ("1 / 0", 141, "The hook failed."),
        ("let a = [1]; a[5]", 141, "The hook failed."),
        (r#"before_save("B", |r| 1)"#, 141, ""),
        (r#"import "lib/conversations" as c;"#, 141, ""),
        ("request.object.save()", 141, "The hook failed."),
        (r#"request.object.objectId = "x""#, 141, "The hook failed."),
        (r#"rate_limit("k", -1, 60)"#, 141, "The hook failed."),
        (r#"rate_limit("k", 1, 0)"#, 141, "The hook failed."),
        (r#"acl().set_read_access(5, true)"#, 141, "The hook failed."),
        (r#"date("yesterday")"#, 111, ""),
        (r#"now() + 1e300"#, 111, ""),
        (r#"request.object.n = 0.0 / 0.0"#, 111, ""),
        (r#"request.object.increment("text")"#, 111, ""),
    ] {
        let server = Server::script(&format!(r#"before_save("A", |request| {{ {throw}; }});"#));
        let error = server.create("", "A", r#"{"text":"x"}"#).err().unwrap_or_else(|| panic!("passed: {throw}"));
        assert_eq!(error.code.number(), code, "{throw}: {error}");
        assert!(text.is_empty() || error.message == text, "{throw}: {error}");
    }
}

#[test]
fn a_failure_names_script_and_line() {
    let server = Server::script(
        "\nbefore_save(\"A\", |request| {\n  helper(request);\n});\nfn helper(r) {\n  r.object.nope();\n}",
    );
    assert_eq!(code(server.create("", "A", "{}")), 141);
    let log = server.log.lock().unwrap();
    assert!(log[0].starts_with("main.rhai:6: before_save of A: "), "{log:?}");
}

#[test]
fn captured_variables_are_refused_and_constants_are_not() {
    let error = load_error("let count = 0;\nbefore_save(\"A\", |request| { count += 1; });");
    assert_eq!(error.place, "main.rhai:2");
    assert!(error.message.contains("`count`"), "{error}");
    let script = r#"
        const LIMIT = 5;
        const NAMES = ["a", "b"];
        fn double(n) { n * 2 }
        before_save("A", |request| {
            request.object.limit = double(LIMIT);
            request.object.name = NAMES[1];
            let local = 3;
            request.object.sum = [1, 2].map(|n| n + local).reduce(|sum, n| sum + n, 0);
        });
    "#;
    let server = Server::script(script);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let id = server.create("", "A", "{}").unwrap();
                    assert_eq!(server.get_field("A", &id, "limit"), "10");
                    assert_eq!(server.get_field("A", &id, "name"), "\"b\"");
                    assert_eq!(server.get_field("A", &id, "sum"), "9");
                }
            });
        }
    });
}

#[test]
fn what_cannot_be_is_refused_while_loading() {
    for (script, place, text) in [
        ("before_save(", "main.rhai:1", ""),
        ("\n\nlet x = ;", "main.rhai:3", ""),
        ("\nbefore_delete(\"A\", |r| 1);", "main.rhai:2", "before_delete is not supported yet"),
        ("define(\"hello\", |r| 1);", "main.rhai:1", "define is not supported yet"),
        ("job(\"hello\", |r| 1);", "main.rhai:1", "job is not supported yet"),
        ("before_save(\"A\", |r| 1, #{});", "main.rhai:1", "before_save: validators are not supported yet"),
        ("before_save(\"1\", |r| 1);", "main.rhai:1", ""),
        ("before_save(\"_Session\", |r| 1);", "main.rhai:1", ""),
        ("before_save(\"A\", |r, s| 1);", "main.rhai:1", "before_save: a handler has one parameter, |request|"),
        ("before_save(\"A\", || 1);", "main.rhai:1", ""),
        ("before_safe(\"A\", |r| 1);", "main.rhai:1", ""),
        ("query(\"A\").find();", "main.rhai:1", ""),
        ("loop {}", "main.rhai:1", ""),
        ("eval(\"1\");", "main.rhai:1", ""),
        ("before_save(\"A\", |r| { nonsense });", "main.rhai:1", "Variable not found: nonsense"),
        ("sleep(1);", "main.rhai:1", "a hook cannot sleep: its client, and other hooks, would wait"),
        ("import \"lib/x\" as x;", "main.rhai:1", ""),
        ("import \"/etc/passwd\" as x;", "main.rhai:1", ""),
    ] {
        let error = load_error(script);
        assert_eq!(error.place, place, "{script}: {error}");
        assert!(text.is_empty() || error.message == text, "{script}: {error}");
    }
}

#[test]
fn a_script_may_register_in_modules_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    fs::create_dir(folder.path().join("lib")).unwrap();
    write("lib/a.rhai", "import \"lib/b\" as b;\nconst N = 2;\nbefore_save(\"A\", |r| { r.object.n = b::times(N); });");
    write("lib/b.rhai", "fn times(n) { n * other() }\nprivate fn other() { 10 }");
    write(
        "main.rhai",
        "import \"lib/a\" as a;\nbefore_save(\"B\", |r| 1);\nbefore_save(\"B\", |r| { throw \"second\"; });",
    );
    let server = Server::new(CloudCode::load(folder.path()).unwrap());
    let id = server.create("", "A", "{}").unwrap();
    assert_eq!(server.get_field("A", &id, "n"), "20");
    assert_eq!(server.create("", "B", "{}").unwrap_err().message, "second");

    write("lib/b.rhai", "import \"lib/a\" as a;");
    let error = CloudCode::load(folder.path()).err().unwrap();
    assert!(error.message.contains("imports itself"), "{error}");
    write("lib/b.rhai", "fn times(n) {");
    let error = CloudCode::load(folder.path()).err().unwrap();
    assert_eq!(error.place, "lib/b.rhai:1");
    for outside in ["lib/../main", "main", "../x", "lib"] {
        write("main.rhai", &format!("import \"{outside}\" as x;"));
        assert!(CloudCode::load(folder.path()).is_err(), "{outside}");
    }
}

#[test]
fn a_broken_file_keeps_the_old_version_running() {
    let folder = tempfile::tempdir().unwrap();
    let write = |text: &str| fs::write(folder.path().join("main.rhai"), text).unwrap();
    write("before_save(\"A\", |r| { throw \"one\"; });");
    let server = Server::new(CloudCode::load(folder.path()).unwrap());
    let said = || server.create("", "A", "{}").err().map(|error| error.message.into_owned());
    let reload = || server.cloud_code.reload_if_changed();
    assert_eq!(reload(), Ok(false));
    write("before_save(\"A\", |r| { throw \"twice\"; });");
    assert_eq!(reload(), Ok(true));
    assert_eq!(said().as_deref(), Some("twice"));
    write("before_save(\"A\", |r| { throw");
    assert_eq!(reload().unwrap_err().place, "main.rhai:1");
    assert_eq!(reload(), Ok(false), "reported once");
    assert_eq!(said().as_deref(), Some("twice"));
    write("// nothing any more");
    assert_eq!(reload(), Ok(true));
    assert_eq!(said(), None);
    fs::remove_file(folder.path().join("main.rhai")).unwrap();
    assert!(reload().is_err());
    assert!(CloudCode::load(folder.path()).is_err());
}

#[test]
fn a_run_ends_with_the_scripts_it_began_with() {
    let hook = {
        let script = inline(r#"before_save("A", |r| { r.object.n = 1; });"#);
        script.hook("A", Trigger::BeforeSave).unwrap()
    };
    let server = Server::script("");
    let host: Arc<dyn Host> = server.clone();
    let run = hook.run(&request("A"), &host, Mode::Inline { budget: Duration::from_secs(1) });
    assert!(matches!(run.outcome, Outcome::Continue(_)));
}

#[test]
fn the_server_s_own_fields_are_not_there() {
    let script = r#"
        before_save("_User", |request| {
            let user = request.object;
            if user.get("_hashed_password") != () || user["_hashed_password"] != () { throw "seen"; }
            if user.has("_hashed_password") || user.keys().contains("_hashed_password") { throw "listed"; }
            if "_hashed_password" in user.to_map() { throw "mapped"; }
        });
    "#;
    let server = Server::script(script);
    let fields = tidings_protocol::map! { "_hashed_password" => "secret" };
    let object = Arc::new(Object { fields, ..Object::default() });
    let request = Arc::new(HookRequest { class: ClassName::USER, object, ..HookRequest::default() });
    let host: Arc<dyn Host> = server.clone();
    let hook = server.cloud_code.hook("_User", Trigger::BeforeSave).unwrap();
    let run = hook.run(&request, &host, Mode::Inline { budget: Duration::from_secs(1) });
    assert!(matches!(run.outcome, Outcome::Continue(_)), "{:?}", run.outcome);
}
