//! Cloud code as clients meet it: what a hook changes, what it refuses, and that a runaway one hurts nobody else.

use crate::harness::{Launch, PATIENCE, Server, Value, id_of, json, members, refused};
use std::time::Instant;

fn with_script(script: &str) -> Server {
    Launch::plain().file("cloud-code/main.rhai", script).start()
}

#[test]
fn a_broken_script_keeps_it_from_starting_and_is_named() {
    let script = "before_save(\"Note\", |request| { let x = ; });";
    refused(&Launch::plain().file("cloud-code/main.rhai", script).run(), &["main.rhai"]);
}

#[tokio::test]
async fn what_a_hook_changes_is_told_and_what_it_throws_is_the_answer() {
    let server = with_script(
        r#"
        before_save("Note", |request| {
            let note = request.object;
            if note.n > 10 { throw error(142, "too large"); }
            if note.n < 0 { throw "negative"; }
            if note.n == 7 { note.unset("draft"); }
            note.seen = true;
        });
        after_save("Note", |request| { if request.object.n == 5 { throw error(142, "too late"); } });
        "#,
    );
    let nobody = server.nobody();
    let created = nobody.post("/classes/Note", json!({"n": 1, "draft": "x"})).await.created();
    assert_eq!(members(&created), ["createdAt", "objectId", "seen"], "what a hook set is told");
    nobody.post("/classes/Note", json!({"n": 11})).await.refused(400, 142);
    let plain = nobody.post("/classes/Note", json!({"n": -1})).await;
    plain.refused(400, 141);
    assert_eq!(plain.body["error"], "negative");
    let id = id_of(&created);
    let updated = nobody.update("Note", &id, json!({"n": 7})).await;
    assert_eq!(updated["draft"], json!({"__op": "Delete"}), "what a hook unset is told");
    nobody.put(&format!("/classes/Note/{id}"), json!({"n": 12})).await.refused(400, 142);
    assert_eq!(nobody.fetch("Note", &id).await["n"], 7);
    // What is done is done.
    nobody.create("Note", json!({"n": 5})).await;
    assert_eq!(nobody.find("Note", json!({})).await.len(), 2, "refused objects are not there");
}

#[tokio::test]
async fn hooks_see_who_asks_and_what_was_before() {
    let server = with_script(
        r#"
        before_save("Note", |request| {
            request.object.by = if request.user == () { "nobody" } else { request.user.username };
            request.object.master = request.master;
            request.object.was = if request.original == () { "nothing" } else { request.original.text };
        });
        "#,
    );
    let alice = server.sign_up("alice").await;
    let id = alice.create("Note", json!({"text": "one"})).await;
    let note = alice.fetch("Note", &id).await;
    assert_eq!((&note["by"], &note["was"], &note["master"]), (&json!(alice.name), &json!("nothing"), &json!(false)));
    server.nobody().update("Note", &id, json!({"text": "two"})).await;
    let note = alice.fetch("Note", &id).await;
    assert_eq!((&note["by"], &note["was"], &note["master"]), (&json!("nobody"), &json!("one"), &json!(false)));
    server.master().update("Note", &id, json!({"text": "three"})).await;
    assert_eq!(alice.fetch("Note", &id).await["master"], true);
}

#[tokio::test]
async fn what_is_too_large_takes_no_slot() {
    let server = with_script(
        r#"before_save("Note", |request| { if !rate_limit("notes", 1, 60) { throw error(155, "one a minute"); } });"#,
    );
    let nobody = server.nobody();
    let large = json!({"text": "x".repeat(1_100_000)});
    nobody.post("/classes/Note", large.clone()).await.refused(400, 116);
    let id = nobody.create("Note", json!({})).await;
    nobody.put(&format!("/classes/Note/{id}"), large).await.refused(400, 116);
    nobody.put(&format!("/classes/Note/{id}"), json!({"text": "x"})).await.refused(400, 155);
}

#[tokio::test]
async fn no_hook_runs_for_a_write_that_may_not_be() {
    let server = with_script(r#"before_save("Note", |request| { throw error(999, "the hook ran"); });"#);
    let (alice, master) = (server.sign_up("alice").await, server.master());
    let schema = json!({"classLevelPermissions": {"find": {"*": true}, "update": {"*": true}}});
    master.post("/schemas/Note", schema).await.ok();
    alice.post("/classes/Note", json!({})).await.refused(400, 119);
    alice.put("/classes/Note/nothing", json!({})).await.refused(404, 101);
    master.post("/classes/Note", json!({})).await.refused(400, 999);
}

#[tokio::test]
async fn a_hook_may_give_what_is_required() {
    let server = with_script(
        r#"
        before_save("Note", |request| {
            request.object.had_default = request.object.n != ();
            if request.object.text != () { request.object.title = request.object.text; }
            if request.object.title == "gone" { request.object.unset("title"); }
        });
        "#,
    );
    let (master, nobody) = (server.master(), server.nobody());
    let fields = json!({"title": {"type": "String", "required": true}, "n": {"type": "Number", "defaultValue": 7}});
    master.post("/schemas/Note", json!({"fields": fields})).await.ok();
    nobody.post("/classes/Note", json!({"title": "gone"})).await.refused(400, 142);
    let id = nobody.create("Note", json!({"text": "x"})).await;
    let note = nobody.fetch("Note", &id).await;
    let expected = (&json!("x"), &json!(7), &json!(false));
    assert_eq!(
        (&note["title"], &note["n"], &note["had_default"]),
        expected,
        "defaults come after the hook, as in Parse"
    );
}

#[tokio::test]
async fn a_runaway_hook_is_an_error_for_its_caller_only() {
    let server = with_script(
        r#"
        before_save("Loop", |request| { loop { } });
        before_save("Bomb", |request| { let s = "x"; loop { s += s; } });
        before_save("List", |request| { let l = []; loop { l.push(l.len()); } });
        fn deep(n) { deep(n + 1) }
        before_save("Deep", |request| { deep(0); });
        before_save("Calm", |request| { request.object.calm = true; });
        "#,
    );
    let nobody = server.nobody();
    let begin = Instant::now();
    let runaways: Vec<_> = ["Loop", "Bomb", "List", "Deep"]
        .into_iter()
        .flat_map(|class| [class; 4])
        .map(|class| {
            let nobody = nobody.clone();
            tokio::spawn(async move { (class, nobody.post(&format!("/classes/{class}"), json!({})).await) })
        })
        .collect();
    for _ in 0..50 {
        let calm = nobody.post("/classes/Calm", json!({})).await.created();
        assert_eq!(calm["calm"], true);
    }
    for runaway in runaways {
        let (class, answer) = runaway.await.unwrap();
        assert_eq!((answer.status, answer.body["code"].as_i64()), (400, Some(141)), "{class}: {}", answer.text);
    }
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
    for class in ["Loop", "Bomb", "List", "Deep"] {
        assert_eq!(nobody.find(class, json!({})).await, [Value::Null; 0], "{class}");
    }
}

#[tokio::test]
async fn hooks_that_call_each_other_for_ever_end() {
    let mut server = with_script(
        r#"
        after_save("Echo", |request| { let echo = new_object("Echo"); echo.n = 1; echo.save_with_master_key(); });
        before_save("Ping", |request| { let pong = new_object("Pong"); pong.save_with_master_key(); });
        before_save("Pong", |request| { let ping = new_object("Ping"); ping.save_with_master_key(); });
        "#,
    );
    let nobody = server.nobody();
    nobody.post("/classes/Echo", json!({})).await.created();
    let echoes = nobody.find("Echo", json!({})).await.len();
    assert!((2..=12).contains(&echoes), "{echoes}");
    nobody.post("/classes/Ping", json!({})).await.refused(400, 141);
    assert_eq!(nobody.find("Ping", json!({})).await.len() + nobody.find("Pong", json!({})).await.len(), 0);
    server.assert_well().await;
}

#[tokio::test]
async fn a_changed_script_is_taken_up_and_a_broken_one_is_not() {
    let script =
        |answer: &str| format!("before_save(\"Note\", |request| {{ request.object.answer = \"{answer}\"; }});");
    let server = with_script(&script("one"));
    let nobody = server.nobody();
    let file = server.folder().join("cloud-code/main.rhai");
    let deadline = Instant::now() + PATIENCE;
    let answers = async |expected: &str| loop {
        let created = nobody.post("/classes/Note", json!({})).await.created();
        if created["answer"] == expected {
            break;
        }
        assert!(Instant::now() < deadline, "{created}");
    };
    answers("one").await;
    std::fs::write(&file, script("two")).unwrap();
    answers("two").await;
    std::fs::write(&file, "before_save(\"Note\", |request| { let x = ; });").unwrap();
    while !server.stderr().contains("main.rhai") {
        answers("two").await;
    }
    answers("two").await;
    std::fs::write(&file, script("three")).unwrap();
    answers("three").await;
}
