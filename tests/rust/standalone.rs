//! On a MongoDB that is no replica set: it is said what is lost, and the rest works. Skipped where `TIDINGS_TEST_MONGOD`
//! names no program.

use crate::harness::{Launch, json, mongod, process};

#[tokio::test]
async fn a_standalone_mongodb_is_served_with_a_warning() {
    let Some(program) = mongod() else { return };
    let mongod = process::start(&program, None, &[]).unwrap();
    let url = format!("mongodb://127.0.0.1:{}/app", mongod.port);
    let mut server = Launch::plain().with(&["--database-url", &url]).start();
    for word in ["no replica set", "live queries", "one by one", "rs.initiate()"] {
        assert!(server.stderr().contains(word), "no {word} in {}", server.stderr());
    }

    // Accounts, whose writes belong together, and events of what this server writes.
    let user = server.sign_up("user").await;
    let mut notes = user.subscribe("Note", json!({"n": {"$gt": 0}})).await;
    let id = user.create("Note", json!({"n": 1})).await;
    notes.expect("create", &id).await;
    user.update("Note", &id, json!({"n": {"__op": "Increment", "amount": -1}})).await;
    notes.expect("leave", &id).await;
    let again = json!({"username": user.name.to_uppercase(), "password": "p"});
    server.nobody().post("/users", again).await.refused(400, 202);
    user.put(&format!("/users/{}", user.id()), json!({"password": "other"})).await.ok();
    let changed = json!({"username": user.name, "password": "other", "_method": "GET"});
    server.nobody().post("/login", changed).await.ok();

    // What must be whole is not begun.
    let note = json!({"method": "POST", "path": "/parse/classes/Note", "body": {}});
    let whole = json!({"requests": [note], "transaction": true});
    server.nobody().post("/batch", whole).await.refused(400, 108);
    assert_eq!(server.nobody().find("Note", json!({})).await.len(), 1);

    server.kill();
    server.start_again();
    let kept = server.master().fetch("Note", &id).await;
    assert_eq!(kept["n"], 0);
    assert!(server.stderr().contains("no replica set"), "said at each start");
}
