//! Several servers on one MongoDB: what happens at one holds at the others soon, also at one that missed how it came.
//! Skipped where `TIDINGS_TEST_MONGOD` names no program.

use crate::harness::{
    Client, Launch, Live, PATIENCE, Value, cursor_of, id_of, json, mongod, position_of, process, set,
};
use mongodb::bson::{Document, Timestamp, doc};
use std::time::{Duration, Instant};

/// What is changed elsewhere holds after a second.
const SOON: Duration = Duration::from_secs(1);

/// A set of one with these arguments, and where to find a database in it.
async fn database(more: &[&str]) -> Option<(process::Mongod, String)> {
    let mongod = process::start(&mongod()?, Some(set::SET), more).unwrap();
    set::initiate(&[mongod.port], "").await.unwrap();
    let url = set::url(&[mongod.port], "app", "");
    Some((mongod, url))
}

/// How long it takes until `look` is true.
async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !look().await {
        assert!(begun.elapsed() < PATIENCE, "{what} never");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    begun.elapsed()
}

async fn status(client: &Client, method: &str, path: &str, body: Value) -> (u16, i64) {
    let answer = client.send(method, path, body.to_string()).await;
    (answer.status, answer.body["code"].as_i64().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_changed_at_one_node_holds_at_the_other_within_a_second() {
    let Some((_mongod, url)) = database(&[]).await else { return };
    let [one, other] = [0, 1].map(|_| Launch::plain().with(&["--database-url", &url]).start());
    let (master, open) = (one.master(), json!({"*": true}));
    let mut took = Vec::new();

    // A session ends; its user has just been served at the other node, which keeps sessions for a moment.
    for _ in 0..5 {
        let alice = one.sign_up("alice").await;
        let there = other.nobody().session(alice.id(), alice.token());
        until("the session begins", async || status(&there, "GET", "/users/me", json!({})).await.0 == 200).await;
        alice.post("/logout", json!({})).await.ok();
        let ended = async || status(&there, "GET", "/users/me", json!({})).await == (400, 209);
        took.push(("a log-out", until("the session ends", ended).await));
    }
    // A new password ends the other sessions.
    let bob = one.sign_up("bob").await;
    let login = json!({"username": bob.name, "password": "secret"});
    let second = other.nobody().post("/login", login).await.ok();
    let there = other.nobody().session(bob.id(), second["sessionToken"].as_str().unwrap());
    assert_eq!(status(&there, "GET", "/users/me", json!({})).await.0, 200);
    bob.put(&format!("/users/{}", bob.id()), json!({"password": "new"})).await.ok();
    let ended = async || status(&there, "GET", "/users/me", json!({})).await == (400, 209);
    took.push(("a new password", until("the session ends", ended).await));

    // A class, a column, permissions, and their end.
    let nobody = other.nobody();
    master.post("/schemas/Note", json!({"fields": {"n": {"type": "Number"}}})).await.ok();
    let known = async || other.master().get("/schemas/Note").await.status == 200;
    took.push(("a class", until("the class is known", known).await));
    nobody.create("Note", json!({"n": 1})).await;
    one.nobody().create("Note", json!({"text": "x"})).await;
    let typed = async || status(&nobody, "POST", "/classes/Note", json!({"text": 1})).await == (400, 111);
    took.push(("a column", until("the column has its type", typed).await));
    let closed = json!({"classLevelPermissions": {"get": open, "create": open}});
    master.put("/schemas/Note", closed).await.ok();
    let refused = async || status(&nobody, "GET", "/classes/Note", json!({})).await == (400, 119);
    took.push(("permissions", until("the class is closed", refused).await));

    for (what, time) in &took {
        assert!(*time < SOON, "{what} took {time:?}");
    }
    println!("after a change at one node it held at the other: {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_two_nodes_that_meet_in_opposite_orders_all_come_through() {
    let Some((_mongod, url)) = database(&[]).await else { return };
    let [one, other] = [0, 1].map(|_| Launch::plain().with(&["--database-url", &url]).start());
    let (here, there) = (one.nobody(), other.nobody());
    for _ in 0..3 {
        crate::transactions::meet_in_opposite_orders([&here, &there]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_missed_more_than_the_database_remembers_begins_again() {
    // MongoDB forgets only what its last checkpoint holds.
    let Some((_mongod, url)) = database(&["--oplogSize", "1", "--syncdelay", "1"]).await else { return };
    let [asleep, awake] = [0, 1].map(|_| Launch::plain().with(&["--database-url", &url]).start());
    let (nobody, there) = (awake.nobody(), asleep.nobody());
    let note = nobody.create("Note", json!({"n": 0})).await;
    nobody.create("Bulk", json!({"text": ""})).await;
    let query = json!({"className": "Note", "where": {}});
    let mut listening = there.connect().await;
    listening.send(json!({"op": "subscribe", "requestId": 1, "query": query})).await;
    let cursor = cursor_of(&listening.answer().await);
    let alice = awake.sign_up("alice").await;
    let alice_there = there.clone().session(alice.id(), alice.token());
    until("the session begins", async || status(&alice_there, "GET", "/users/me", json!({})).await.0 == 200).await;
    let mut alice_listening = alice_there.connect().await;
    alice_listening.send(json!({"op": "subscribe", "requestId": 1, "query": query})).await;
    assert_eq!(alice_listening.answer().await["op"], "subscribed");

    asleep.pause();
    nobody.update("Note", &note, json!({"n": 1})).await;
    nobody.create("Fresh", json!({"text": "x"})).await;
    alice.post("/logout", json!({})).await.ok();
    awake.master().put("/schemas/Bulk", json!({"fields": {"gone": {"type": "String"}}})).await.ok();
    let missed = cursor_of(&{
        let mut live = nobody.connect().await;
        live.send(json!({"op": "subscribe", "requestId": 1, "query": query})).await;
        live.answer().await
    });
    let oplog = mongodb::Client::with_uri_str(&url).await.unwrap().database("local").collection::<Document>("oplog.rs");
    let text = "x".repeat(200_000);
    let passed = Timestamp { time: seconds(&missed), increment: u32::MAX };
    let forgotten = async || {
        nobody.create("Bulk", json!({"text": text})).await;
        let oldest = oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).await.unwrap().unwrap();
        oldest.get_timestamp("ts").unwrap() > passed
    };
    until("the database forgets", forgotten).await;
    asleep.go_on();

    // Who listened there gets a fresh result, perhaps behind what was on its way already; as does who comes back with a
    // cursor from before.
    let result = loop {
        let frame = listening.next().await;
        if frame["op"] == "result" {
            break frame;
        }
        assert_eq!((&frame["op"], &frame["object"]["n"]), (&json!("update"), &json!(1)), "{frame}");
    };
    let found = result["results"].as_array().unwrap().iter().map(|note| (id_of(note), note["n"].clone()));
    assert_eq!((found.collect::<Vec<_>>(), &result["resync"]), (vec![(note.clone(), json!(1))], &json!(true)));
    assert_eq!(listening.next().await["op"], "subscribed");
    let mut back = there.reconnected().connect().await;
    back.resume(1, query, &cursor).await;
    assert_eq!(back.expect_resync(1).await.0[0]["n"], 1);
    nobody.update("Note", &note, json!({"n": 2})).await;
    for live in [&mut listening, &mut back] {
        live.expect(1, "update", &note).await;
    }
    // A session that ended gets no result any more.
    let told = loop {
        let frame = alice_listening.next().await;
        if frame["op"] != "update" {
            break frame;
        }
    };
    assert_eq!((&told["op"], &told["code"]), (&json!("error"), &json!(209)), "{told}");
    // Classes, columns and sessions are as the database has them.
    let there = there.reconnected();
    assert_eq!(status(&there, "POST", "/classes/Fresh", json!({"text": 1})).await, (400, 111));
    assert_eq!(status(&there, "POST", "/classes/Bulk", json!({"gone": 1})).await, (400, 111));
    let alice_there = alice_there.reconnected();
    assert_eq!(status(&alice_there, "GET", "/users/me", json!({})).await, (400, 209));
}

#[tokio::test]
async fn a_cursor_grows_no_older_than_the_database_where_nothing_happens() {
    let Some((_mongod, url)) = database(&[]).await else { return };
    let server = Launch::plain().with(&["--database-url", &url, "--live-query.checkpoint-interval", "1"]).start();
    server.nobody().create("Note", json!({})).await;
    let mut live = Live::open(&server.url).await;
    live.send(json!({"op": "connect", "applicationId": "app", "checkpoints": true})).await;
    assert_eq!(live.next().await["op"], "connected");
    live.subscribe(1, json!({"className": "Note", "where": {}})).await;
    // Others fill the history that all databases share.
    let elsewhere = mongodb::Client::with_uri_str(&url).await.unwrap().database("elsewhere");
    let insert = async || elsewhere.run_command(doc! { "insert": "things", "documents": [{}] }).await.unwrap();
    let made = insert().await;
    // What is the newest may still have more that is as new.
    insert().await;
    let Timestamp { time, increment } = made.get_timestamp("operationTime").unwrap();
    let made = u64::from(time) << 32 | u64::from(increment);
    let heard = async || {
        let frame = live.next().await;
        assert_eq!(frame["op"], "checkpoint", "{frame}");
        position_of(&cursor_of(&frame)) >= made
    };
    until("the cursor gets so far", heard).await;
}

/// The time in a cursor.
fn seconds(cursor: &str) -> u32 {
    (position_of(cursor) >> 32) as u32
}
