//! Clients that hold a cursor: what they missed comes once, in order, whatever happened meanwhile.

use crate::harness::{
    Client, Database, Launch, Live, PATIENCE, Server, Value, cursor_of, fresh, id_of, json, on_mongodb, position_of,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// Somebody who subscribes again and again, each time from where they were.
struct Listener {
    client: Client,
    query: Value,
    live: Live,
    cursor: String,
}

impl Listener {
    async fn begin(client: &Client, class: &str, filter: Value) -> Self {
        let query = json!({"className": class, "where": filter});
        let mut live = client.connect().await;
        live.send(json!({"op": "subscribe", "requestId": 1, "query": query})).await;
        let cursor = cursor_of(&live.answer().await);
        Self { client: client.clone(), query, live, cursor }
    }

    /// Goes away without a word; whatever is under way is lost.
    fn leave(self) -> Absent {
        Absent { client: self.client, query: self.query, cursor: self.cursor }
    }

    #[track_caller]
    fn expect(&mut self, event: &str, id: &str) -> impl Future<Output = Value> {
        let place = std::panic::Location::caller();
        let (event, id) = (event.to_owned(), id.to_owned());
        async move {
            let frame = loop {
                let frame = self.live.next().await;
                self.cursor = cursor_of(&frame);
                if frame["op"] != "checkpoint" {
                    break frame;
                }
            };
            let found = (frame["op"].as_str(), frame["object"]["objectId"].as_str());
            assert_eq!(found, (Some(&*event), Some(&*id)), "at {place}: {frame}");
            frame
        }
    }

    async fn expect_resync(&mut self) -> Vec<Value> {
        let (results, cursor) = self.live.expect_resync(1).await;
        self.cursor = cursor;
        results
    }
}

struct Absent {
    client: Client,
    query: Value,
    cursor: String,
}

impl Absent {
    async fn back(self) -> Listener {
        let mut live = self.client.connect().await;
        live.resume(1, self.query.clone(), &self.cursor).await;
        Listener { client: self.client, query: self.query, live, cursor: self.cursor }
    }

    /// After a restart of the server.
    async fn back_again(self) -> Listener {
        Self { client: self.client.reconnected(), ..self }.back().await
    }
}

#[tokio::test]
async fn missed_events_come_once_and_in_order() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let [stays, leaves, goes] = [1, 2, 3].map(|n| {
        let (nobody, class) = (nobody.clone(), class.clone());
        async move { nobody.create(&class, json!({"room": "lobby", "n": n})).await }
    });
    let (stays, leaves, goes) = (stays.await, leaves.await, goes.await);
    let enters = nobody.create(&class, json!({"room": "attic"})).await;
    let lobby = Listener::begin(&nobody, &class, json!({"room": "lobby"})).await.leave();

    nobody.update(&class, &stays, json!({"n": 10})).await;
    nobody.update(&class, &leaves, json!({"room": "attic"})).await;
    nobody.update(&class, &leaves, json!({"n": 20})).await;
    nobody.update(&class, &enters, json!({"room": "lobby", "brand_new_column": true})).await;
    nobody.destroy(&class, &goes).await;
    let new = nobody.create(&class, json!({"room": "lobby"})).await;
    nobody.create(&fresh("Other"), json!({"room": "lobby"})).await;

    let mut lobby = lobby.back().await;
    let updated = lobby.expect("update", &stays).await;
    assert_eq!((&updated["object"]["n"], &updated["original"]["n"]), (&json!(10), &json!(1)));
    let left = lobby.expect("leave", &leaves).await;
    assert_eq!((&left["object"]["room"], &left["original"]["room"]), (&json!("attic"), &json!("lobby")));
    // In the middle of what was missed, once more.
    let mut lobby = lobby.leave().back().await;
    let entered = lobby.expect("enter", &enters).await;
    assert_eq!((&entered["object"]["room"], &entered["original"]["room"]), (&json!("lobby"), &json!("attic")));
    let gone = lobby.expect("delete", &goes).await;
    assert_eq!((&gone["object"]["n"], gone.get("original")), (&json!(3), None));
    lobby.expect("create", &new).await;
    // And the stream goes on.
    let last = nobody.create(&class, json!({"room": "lobby"})).await;
    lobby.expect("create", &last).await;
    let mut lobby = lobby.leave().back().await;
    nobody.destroy(&class, &last).await;
    lobby.expect("delete", &last).await;
}

#[tokio::test]
async fn a_result_is_a_place_to_go_on_from() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let before = nobody.create(&class, json!({})).await;
    let mut notes = Listener::begin(&nobody, &class, json!({})).await;
    let heard = nobody.create(&class, json!({})).await;
    notes.expect("create", &heard).await;
    notes.live.send(json!({"op": "query", "requestId": 1})).await;
    let result = notes.live.answer().await;
    let found: Vec<_> = result["results"].as_array().unwrap().iter().map(id_of).collect();
    assert_eq!((found, result.get("resync")), (vec![before, heard], None), "{result}");
    notes.cursor = cursor_of(&result);
    let away = notes.leave();
    let missed = nobody.create(&class, json!({})).await;
    away.back().await.expect("create", &missed).await;
}

#[tokio::test]
async fn what_was_lost_meanwhile_leaves_and_tells_nothing_new() {
    let server = Server::shared();
    let (alice, bob, class) = (server.sign_up("alice").await, server.sign_up("bob").await, fresh("Note"));
    let acl = |who: &[&Client]| {
        let grants = who.iter().map(|user| (user.id().to_owned(), json!({"read": true, "write": true})));
        Value::Object(grants.collect())
    };
    let both = acl(&[&alice, &bob]);
    let known = bob.create(&class, json!({"text": "seen", "ACL": both})).await;
    let unknown = bob.create(&class, json!({"text": "a secret", "ACL": acl(&[&bob])})).await;
    let away = Listener::begin(&alice, &class, json!({})).await.leave();
    bob.update(&class, &known, json!({"text": "a secret", "ACL": acl(&[&bob])})).await;
    let fleeting = bob.create(&class, json!({"text": "for both", "ACL": both})).await;
    bob.update(&class, &fleeting, json!({"text": "a secret", "ACL": acl(&[&bob])})).await;
    bob.update(&class, &unknown, json!({"text": "for both", "ACL": both})).await;
    let mut back = away.back().await;
    let left = back.expect("leave", &known).await;
    assert_eq!(left["object"]["text"], "seen", "{left}");
    let entered = back.expect("enter", &unknown).await;
    assert_eq!(entered.get("original"), None, "{entered}");
    assert!(!left.to_string().contains("secret") && !entered.to_string().contains("secret"));
    let sentinel = bob.create(&class, json!({})).await;
    back.expect("create", &sentinel).await;
}

#[tokio::test]
async fn who_may_not_come_back_is_told() {
    let server = Launch::plain().start();
    let (alice, nobody) = (server.sign_up("alice").await, server.nobody());
    let away = Listener::begin(&alice, "Note", json!({})).await.leave();
    alice.create("Note", json!({"ACL": {alice.id(): {"read": true}}})).await;
    alice.post("/logout", json!({})).await.ok();
    let frame = json!({
        "op": "subscribe", "requestId": 1, "query": away.query, "resumeFrom": away.cursor, "sessionToken": alice.token(),
    });
    let mut live = nobody.connect().await;
    live.send(frame).await;
    live.expect_error(209).await;
    // As nobody, with the cursor of a user: nothing that was the user's alone.
    live.resume(2, away.query, &away.cursor).await;
    let public = nobody.create("Note", json!({})).await;
    live.expect(2, "create", &public).await;
}

#[tokio::test]
async fn a_class_that_permits_otherwise_gives_a_fresh_result() {
    let server = Server::shared();
    let (nobody, master, class) = (server.nobody(), server.master(), fresh("Note"));
    let id = nobody.create(&class, json!({"n": 1, "secret": 1})).await;
    let notes = Listener::begin(&nobody, &class, json!({})).await.leave();
    nobody.update(&class, &id, json!({"n": 2})).await;
    let open = json!({"*": true});
    let permissions = json!({
        "get": open, "find": open, "create": open, "update": open, "delete": open, "protectedFields": {"*": ["secret"]},
    });
    master.put(&format!("/schemas/{class}"), json!({"classLevelPermissions": permissions})).await.ok();
    nobody.update(&class, &id, json!({"n": 3})).await;
    let mut notes = notes.back().await;
    let results = notes.expect_resync().await;
    assert_eq!((results.len(), &results[0]["n"], results[0].get("secret")), (1, &json!(3), None), "{results:?}");
    nobody.update(&class, &id, json!({"n": 4})).await;
    notes.expect("update", &id).await;
    // From the fresh result on all is told again.
    let away = notes.leave();
    nobody.update(&class, &id, json!({"n": 5})).await;
    assert_eq!(away.back().await.expect("update", &id).await["object"]["n"], 5);
}

#[tokio::test]
async fn cursors_outlive_restarts_and_kills() {
    let mut server = Launch::plain().start();
    let mut nobody = server.nobody();
    let mut away = Listener::begin(&nobody, "Note", json!({})).await.leave();
    for round in 0..4 {
        let before = nobody.create("Note", json!({"round": round})).await;
        nobody.update("Note", &before, json!({"n": 1})).await;
        if round % 2 == 0 {
            server.kill();
        } else {
            server.terminate();
            assert!(server.wait().success());
        }
        server.start_again();
        nobody = nobody.reconnected();
        let after = nobody.create("Note", json!({"round": round})).await;
        let mut back = away.back_again().await;
        back.expect("create", &before).await;
        back.expect("update", &before).await;
        back.expect("create", &after).await;
        away = back.leave();
    }
}

#[tokio::test]
async fn a_cursor_of_another_history_gives_a_fresh_result() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let id = nobody.create(&class, json!({})).await;
    let away = Listener::begin(&nobody, &class, json!({})).await.leave();
    let timeline = away.cursor.split('.').next().unwrap().to_owned();
    // Another store's, and one that this store has not come to.
    for cursor in ["0123456789abcdef.5".to_owned(), format!("{timeline}.fffffffffffffff0")] {
        let away = Absent { client: nobody.clone(), query: away.query.clone(), cursor };
        let mut back = away.back().await;
        let results = back.expect_resync().await;
        assert_eq!(results.iter().map(id_of).collect::<Vec<_>>(), [id.as_str()]);
        nobody.update(&class, &id, json!({})).await;
        back.expect("update", &id).await;
    }
}

#[tokio::test]
async fn a_history_that_is_gone_gives_a_fresh_result() {
    // MongoDB decides itself what it keeps.
    if on_mongodb() {
        return;
    }
    let mut server = Launch::plain().with(&["--change-retention-size", "1kb"]).start();
    let mut nobody = server.nobody();
    let mut away = Listener::begin(&nobody, "Note", json!({})).await.leave();
    let first = nobody.create("Note", json!({"n": 0})).await;
    for n in 1..20 {
        nobody.create("Note", json!({"n": n})).await;
    }
    // What is only in memory goes with the process.
    server.terminate();
    assert!(server.wait().success());
    server.start_again();
    nobody = nobody.reconnected();
    // The store looks now and then at what it keeps.
    let deadline = Instant::now() + PATIENCE * 2;
    loop {
        assert!(Instant::now() < deadline, "the changes never go");
        let cursor = away.cursor.clone();
        let mut back = away.back_again().await;
        let frame = back.live.next().await;
        if frame["op"] == "result" {
            assert_eq!((frame["results"].as_array().unwrap().len(), &frame["resync"]), (20, &json!(true)), "{frame}");
            assert_eq!(back.live.next().await["op"], "subscribed");
            nobody.update("Note", &first, json!({})).await;
            back.expect("update", &first).await;
            return;
        }
        assert_eq!((&frame["op"], &frame["object"]["objectId"]), (&json!("create"), &json!(first)), "{frame}");
        away = Absent { cursor, ..back.leave() };
    }
}

#[tokio::test]
async fn too_much_to_look_at_gives_a_fresh_result() {
    let server = Launch::plain().with(&["--live-query.resume-changes", "10"]).start();
    let nobody = server.nobody();
    let mut notes = Listener::begin(&nobody, "Note", json!({})).await;
    let id = nobody.create("Note", json!({"n": 0})).await;
    notes.expect("create", &id).await;
    let away = notes.leave();
    for n in 1..=10 {
        nobody.update("Note", &id, json!({"n": n})).await;
    }
    let mut back = away.back().await;
    for n in 1..=10 {
        assert_eq!(back.expect("update", &id).await["object"]["n"], n);
    }
    let away = back.leave();
    // What the server has not heard of yet is not missed, but comes as it is heard.
    let mut witness = Listener::begin(&nobody, "Note", json!({})).await;
    for n in 1..=11 {
        nobody.update("Note", &id, json!({"n": n})).await;
        witness.expect("update", &id).await;
    }
    assert_eq!(away.back().await.expect_resync().await[0]["n"], 11);
}

#[tokio::test]
async fn what_is_no_cursor_is_refused_and_nothing_else_suffers() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let query = json!({"className": class, "where": {}});
    let mut live = nobody.connect().await;
    live.subscribe(1, query.clone()).await;
    let long = "x".repeat(100_000);
    for cursor in ["", "x", "x.", ".1", "x.y", "x.1.2.3", "x.-1", "\u{0}.1", "ä.1", &long] {
        live.send(json!({"op": "subscribe", "requestId": 2, "query": query, "resumeFrom": cursor})).await;
        let error = live.expect_error(107).await;
        assert_eq!((&error["requestId"], &error["reconnect"]), (&json!(2), &json!(false)), "{error}");
    }
    for cursor in [json!(1), json!(["x.1"]), json!({}), json!(true)] {
        live.send(json!({"op": "subscribe", "requestId": 2, "query": query, "resumeFrom": cursor})).await;
        live.expect_error(107).await;
    }
    let id = nobody.create(&class, json!({})).await;
    live.expect(1, "create", &id).await;
}

#[tokio::test]
async fn who_asks_is_told_cursors_where_nothing_happens() {
    let server = Launch::plain().with(&["--live-query.checkpoint-interval", "1"]).start();
    let nobody = server.nobody();
    let mut live = Live::open(&server.url).await;
    live.send(json!({"op": "connect", "applicationId": "app", "checkpoints": true})).await;
    assert_eq!(live.next().await["op"], "connected");
    live.subscribe(1, json!({"className": "Note", "where": {}})).await;
    let other = nobody.create("Other", json!({})).await;
    let query = json!({"className": "Other", "where": {}});
    let others = Listener::begin(&nobody, "Other", json!({})).await;
    // It has heard of what happened beside its query, and says so.
    let begun = Instant::now();
    let cursor = loop {
        let frame = live.next().await;
        assert_eq!((&frame["op"], frame.get("requestId")), (&json!("checkpoint"), None), "{frame}");
        let cursor = cursor_of(&frame);
        if position_of(&cursor) >= position_of(&others.cursor) {
            break cursor;
        }
        assert!(begun.elapsed() < PATIENCE, "{cursor} is before {}", others.cursor);
    };
    live.resume(2, query, &cursor).await;
    nobody.update("Other", &other, json!({})).await;
    let event = loop {
        let frame = live.next().await;
        if frame["op"] != "checkpoint" {
            break frame;
        }
    };
    assert_eq!((&event["op"], &event["requestId"]), (&json!("update"), &json!(2)), "{event}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_while_everybody_writes() {
    const WRITERS: usize = 64;
    const ABSENCES: usize = 50;
    /// Who misses many more gets a fresh result.
    const MOST_MISSED: i64 = 2_000;
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let unheard = Arc::new(AtomicI64::new(0));
    let mut listener = Listener::begin(&nobody, &class, json!({"n": {"$gte": 0}})).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (nobody, class, is_over) = (nobody.clone(), class.clone(), is_over.clone());
            let unheard = unheard.clone();
            tokio::spawn(async move {
                let id = nobody.create(&class, json!({"n": 0, "writer": writer})).await;
                let mut n = 0;
                while !is_over.load(Ordering::Relaxed) {
                    if unheard.load(Ordering::Relaxed) > MOST_MISSED {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        continue;
                    }
                    n += 1;
                    unheard.fetch_add(1, Ordering::Relaxed);
                    nobody.update(&class, &id, json!({"n": n})).await;
                }
                // Out of sight, so that the end is seen.
                nobody.update(&class, &id, json!({"n": -1})).await;
                (id, n)
            })
        })
        .collect();
    // Of each object the number heard last: the next event must be of the next one.
    let mut heard: BTreeMap<String, i64> = BTreeMap::new();
    let (mut absences, mut left) = (0, 0);
    let mut events: u64 = 0;
    let begun = Instant::now();
    while left < WRITERS {
        // Some take a few events, some many, some none.
        let patience = [0, 1, 7, 40, 200][absences % 5];
        for _ in 0..if absences < ABSENCES { patience } else { usize::MAX } {
            let frame = listener.live.next().await;
            listener.cursor = cursor_of(&frame);
            if frame["op"] == "checkpoint" {
                assert!(begun.elapsed() < PATIENCE * 8, "{left} of {WRITERS} writers have ended");
                continue;
            }
            events += 1;
            let id = id_of(&frame["object"]);
            match frame["op"].as_str().unwrap() {
                "create" => assert_eq!(heard.insert(id, 0), None, "{frame}"),
                "update" => {
                    let last = heard.get_mut(&id).unwrap_or_else(|| panic!("no create before {frame}"));
                    assert_eq!(frame["object"]["n"], *last + 1, "{frame}");
                    *last += 1;
                    unheard.fetch_sub(1, Ordering::Relaxed);
                }
                "leave" => {
                    assert_eq!(frame["original"]["n"], heard[&id], "{frame}");
                    left += 1;
                }
                other => panic!("{other} was not expected: {frame}"),
            }
            if left == WRITERS {
                break;
            }
        }
        if absences < ABSENCES {
            absences += 1;
            listener = listener.leave().back().await;
            is_over.store(absences == ABSENCES, Ordering::Relaxed);
        }
    }
    for writer in writers {
        let (id, n) = writer.await.unwrap();
        assert_eq!(heard.remove(&id), Some(n), "the last one of {id}");
    }
    assert!(heard.is_empty(), "{heard:?}");
    println!("{events} events of {WRITERS} writers over {ABSENCES} absences: none lost, none twice");
}

// ---- several nodes on one MongoDB

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_a_node_goes_on_at_another() {
    const WRITERS: usize = 8;
    const LOSSES: usize = 12;
    let Some(database) = Database::named(&format!("{}_{}", fresh("resume"), std::process::id())) else { return };
    let mut nodes = [0, 1].map(|_| Launch::plain().with(&["--database-url", &database.url]).start());
    let master = nodes[1].master();
    let id = master.create("Note", json!({"n": 0})).await;
    // A new password ends all sessions of its user in one commit.
    let user = nodes[0].sign_up("alice").await;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let login = json!({"username": user.name, "password": "secret"});
        nodes[1].nobody().post("/login", login).await.ok();
    }
    for session in master.find("_Session", json!({"user": user.pointer()})).await {
        sessions.push(id_of(&session));
    }
    let mut listener = Listener::begin(&nodes[0].master(), "_Session", json!({"user": user.pointer()})).await;
    master.put(&format!("/users/{}", user.id()), json!({"password": "new"})).await.ok();
    // One event after the other at the other node each: most cursors lie within the commit.
    let mut ended = Vec::new();
    let mut positions = BTreeSet::new();
    for at in 0..sessions.len() {
        let frame = listener.live.next().await;
        assert_eq!(frame["op"], "delete", "{frame}");
        ended.push(id_of(&frame["object"]));
        listener.cursor = cursor_of(&frame);
        positions.insert(listener.cursor.rsplit_once('.').unwrap().0.to_owned());
        let client = nodes[(at + 1) % 2].master();
        listener = Absent { client, ..listener.leave() }.back().await;
    }
    ended.sort_unstable();
    sessions.sort_unstable();
    assert_eq!((ended, positions.len(), sessions.len()), (sessions, 1, 5));
    let login = json!({"username": user.name, "password": "new"});
    master.post("/login", login).await.ok();
    assert_eq!(listener.live.next().await["op"], "create", "and nothing twice");

    let mut listener = Listener::begin(&nodes[0].nobody(), "Note", json!({})).await;
    // Writers write at whichever node is there, and know what they were answered.
    let is_over = Arc::new(AtomicBool::new(false));
    let clients = [nodes[0].nobody(), nodes[1].nobody()];
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (clients, id, is_over) = (clients.clone(), id.clone(), is_over.clone());
            tokio::spawn(async move {
                let (mut answered, mut turn) = (0, writer);
                let body = json!({"n": {"__op": "Increment", "amount": 1}}).to_string();
                while !is_over.load(Ordering::Relaxed) {
                    // Whether a write whose answer was lost is there does not matter: the count says what is.
                    let path = format!("/classes/Note/{id}");
                    match clients[turn % 2].try_send("PUT", &path, body.clone()).await {
                        Ok(answer) if answer.status == 200 => answered += 1,
                        _ => turn += 1,
                    }
                }
                answered
            })
        })
        .collect();
    let mut n = 0;
    for loss in 0..LOSSES {
        for _ in 0..5 {
            let event = listener.expect("update", &id).await;
            n += 1;
            assert_eq!((&event["object"]["n"], &event["original"]["n"]), (&json!(n), &json!(n - 1)), "loss {loss}");
        }
        let (lost, other) = (loss % 2, (loss + 1) % 2);
        nodes[lost].kill();
        let client = nodes[other].nobody();
        listener = Absent { client, ..listener.leave() }.back().await;
        nodes[lost].start_again();
    }
    is_over.store(true, Ordering::Relaxed);
    let mut answered = 0;
    for writer in writers {
        answered += writer.await.unwrap();
    }
    let committed = master.reconnected().fetch("Note", &id).await["n"].as_i64().unwrap();
    while n < committed {
        n += 1;
        assert_eq!(listener.expect("update", &id).await["object"]["n"], n);
    }
    assert!(committed >= answered, "{committed} of {answered} answered writes");
    let last = master.reconnected().create("Note", json!({})).await;
    listener.expect("create", &last).await;
    println!("{committed} events over {LOSSES} killed nodes: none lost, none twice; {answered} writes were answered");
}
