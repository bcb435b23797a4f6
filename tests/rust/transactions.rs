//! Batches that are done whole or not at all: what they tell, and that a refused one leaves nothing behind.

use crate::harness::{Answer, Client, Launch, PATIENCE, Server, Value, fresh, id_of, json, members, pointer};
use std::time::Instant;

fn create(class: &str, body: Value) -> Value {
    json!({"method": "POST", "path": format!("/parse/classes/{class}"), "body": body})
}

fn update(class: &str, id: &str, body: Value) -> Value {
    json!({"method": "PUT", "path": format!("/parse/classes/{class}/{id}"), "body": body})
}

fn delete(class: &str, id: &str) -> Value {
    json!({"method": "DELETE", "path": format!("/parse/classes/{class}/{id}")})
}

fn sign_up(name: &str) -> Value {
    let body = json!({"username": name, "password": "secret", "email": format!("{name}@example.org")});
    json!({"method": "POST", "path": "/parse/users", "body": body})
}

fn plus_one() -> Value {
    json!({"n": {"__op": "Increment", "amount": 1}})
}

/// A user without a password, which would take long to hash.
fn guest(id: &str) -> Value {
    json!({"method": "POST", "path": "/parse/users", "body": {"authData": {"anonymous": {"id": id}}}})
}

/// Sends all parts as one.
async fn whole(client: &Client, parts: &[Value]) -> Answer {
    client.post("/batch", json!({"requests": parts, "transaction": true})).await
}

/// What each part says of its success.
async fn done(client: &Client, parts: &[Value]) -> Vec<Value> {
    let answer = whole(client, parts).await.ok();
    let results = answer.as_array().unwrap().iter().map(|result| {
        assert_eq!(members(result), ["success"], "{result}");
        result["success"].clone()
    });
    results.collect()
}

/// Everything that a write could have changed.
async fn state(server: &Server, classes: &[&str]) -> Value {
    let master = server.master();
    let mut state = vec![master.get("/schemas").await.ok()];
    for class in ["_User", "_Session"].iter().chain(classes) {
        state.push(master.find_by(class, &[("order", "objectId"), ("limit", "1000")]).await.into());
    }
    state.into()
}

#[tokio::test]
async fn every_part_is_done_and_told_in_its_place() {
    let server = Server::shared();
    let (nobody, class, name) = (server.nobody(), fresh("Note"), fresh("carol"));
    let (kept, gone) = (nobody.create(&class, json!({"n": 1})).await, nobody.create(&class, json!({"n": 1})).await);
    let mut notes = nobody.subscribe(&class, json!({})).await;
    let parts = [
        create(&class, json!({"n": 10, "new": true})),
        update(&class, &kept, plus_one()),
        sign_up(&name),
        delete(&class, &gone),
        update(&class, &kept, plus_one()),
        create(&class, json!({"n": 11})),
    ];
    let results = done(&nobody, &parts).await;
    assert_eq!(members(&results[0]), ["createdAt", "objectId"]);
    assert_eq!((&results[1]["n"], &results[4]["n"]), (&json!(2), &json!(3)), "the second sees the first");
    assert_eq!((members(&results[4]), &results[3]), (vec!["n", "updatedAt"], &json!({})));
    let carol = nobody.clone().session(&id_of(&results[2]), results[2]["sessionToken"].as_str().unwrap());
    assert_eq!(carol.get("/users/me").await.ok()["username"], name);

    let (first, last) = (id_of(&results[0]), id_of(&results[5]));
    notes.expect("create", &first).await;
    assert_eq!(notes.expect("update", &kept).await["object"]["n"], 2);
    notes.expect("delete", &gone).await;
    assert_eq!(notes.expect("update", &kept).await["object"]["n"], 3);
    notes.expect("create", &last).await;
    assert_eq!(nobody.fetch(&class, &kept).await["n"], 3);
    assert_eq!(nobody.find(&class, json!({"new": true})).await.len(), 1);
    assert_eq!(whole(&nobody, &[]).await.ok(), json!([]));
}

#[tokio::test]
async fn one_refused_part_leaves_nothing_of_all() {
    let script = r#"before_save("Hooked", |request| { if request.object.n == 13 { throw error(142, "unlucky"); } });"#;
    let server = Launch::plain().file("cloud-code/main.rhai", script).start();
    let (nobody, master, alice) = (server.nobody(), server.master(), server.sign_up("alice").await);
    master.post("/schemas/Locked", json!({"classLevelPermissions": {"find": {"*": true}}})).await.ok();
    let (note, gone) = (nobody.create("Note", json!({"n": 1})).await, nobody.create("Note", json!({"n": 1})).await);
    let mine = json!({"n": 1, "ACL": {alice.id(): {"read": true, "write": true}}});
    let private = alice.create("Note", mine).await;
    let session = master.find("_Session", json!({})).await[0]["objectId"].as_str().unwrap().to_owned();
    let mut notes = master.subscribe("Note", json!({})).await;
    let before = state(&server, &["Note"]).await;

    let part = |method: &str, path: &str| json!({"method": method, "path": format!("/parse{path}"), "body": {}});
    let taken_mail = json!({"username": "dave", "password": "p", "email": format!("{}@example.org", alice.name)});
    let words = |words: &'static str| Some(words);
    let refusals = vec![
        (vec![create("Locked", json!({}))], 400, 119, None),
        (vec![create("Note", json!({"n": "text"}))], 400, 111, None),
        (vec![create("Note", json!({"objectId": "own"}))], 400, 105, None),
        (vec![create("Note", json!({"n": {"__op": "Divide"}}))], 400, 107, None),
        (vec![create("Note", json!({"text": "x".repeat(1_100_000)}))], 400, 116, None),
        (vec![create("Hooked", json!({"n": 13}))], 400, 142, words("unlucky")),
        // The first failure is told, whatever comes behind it.
        (vec![create("Hooked", json!({"n": 13})), create("Note", json!({"n": "x"}))], 400, 142, words("unlucky")),
        (vec![update("Note", "nothing", json!({}))], 404, 101, words("Object not found.")),
        (vec![update("Note", &private, json!({"n": 2}))], 404, 101, words("Object not found.")),
        (vec![update("Note", &note, json!({"n": "text"}))], 400, 111, None),
        (vec![delete("Note", "nothing")], 404, 101, words("Object not found for delete.")),
        (vec![delete("Note", &private)], 404, 101, words("Object not found for delete.")),
        (vec![delete("Note", &gone), delete("Note", &gone)], 404, 101, words("Object not found for delete.")),
        (vec![delete("Note", &gone), update("Note", &gone, json!({"n": 2}))], 404, 101, words("Object not found.")),
        (vec![update("_User", alice.id(), json!({"nick": "Al"}))], 400, 206, None),
        (vec![delete("_User", alice.id())], 400, 206, None),
        (vec![sign_up(&alice.name.to_uppercase())], 400, 202, None),
        (vec![create("_User", taken_mail)], 400, 203, None),
        (vec![create("_User", json!({"username": "dave"}))], 400, 201, None),
        // What only the commit can know.
        (vec![sign_up("dave"), sign_up("DAVE")], 400, 202, None),
        (vec![create("Note", json!({"late": 1})), create("Note", json!({"late": "text"}))], 400, 111, None),
        (vec![create("Fresh", json!({"late": 1})), create("Fresh", json!({"late": "text"}))], 400, 111, None),
        (vec![create("_Session", json!({}))], 400, 119, None),
        (vec![update("_Session", &session, json!({"x": 1}))], 400, 209, None),
        (vec![delete("_Session", &session)], 404, 101, None),
        (vec![create("1bad", json!({}))], 400, 107, None),
        (vec![update("1bad", "x", json!({}))], 404, 101, None),
        // What is no write of an object.
        (vec![part("GET", "/classes/Note")], 400, 107, words("holds only")),
        (vec![part("GET", &format!("/classes/Note/{note}"))], 400, 107, words("holds only")),
        (vec![part("POST", "/login")], 400, 107, words("holds only")),
        (vec![part("POST", "/logout")], 400, 107, words("holds only")),
        (vec![part("POST", "/schemas/Other")], 400, 107, words("holds only")),
        (vec![part("POST", "/batch")], 400, 107, words("nested")),
        (vec![part("POST", "/nowhere")], 400, 107, words("cannot route")),
    ];
    for (bad, status, code, words) in refusals {
        let good = [
            create("Note", json!({"n": 2, "column": true})),
            create("NewClass", json!({"n": 2})),
            update("Note", &note, plus_one()),
            guest("erin"),
            create("Hooked", json!({"n": 1})),
        ];
        let after = [update("Note", &note, json!({"n": 9}))];
        let parts: Vec<Value> = good.iter().chain(&bad).chain(&after).cloned().collect();
        let answer = whole(&nobody, &parts).await;
        answer.refused(status, code);
        assert_eq!(members(&answer.body), ["code", "error"]);
        let told = answer.body["error"].as_str().unwrap();
        assert!(words.is_none_or(|words| told.contains(words)), "{told}: {bad:?}");
        assert_eq!(state(&server, &["Note"]).await, before, "{bad:?}");
    }
    // Nothing was heard either: the next event is of what is done now. The same parts without a bad one go through.
    let parts = [update("Note", &note, plus_one()), guest("erin"), create("NewClass", json!({"n": 2}))];
    let stranger = server.nobody().header("X-Parse-Session-Token", "r:nonsense");
    whole(&stranger, &parts).await.refused(400, 209);
    done(&nobody, &parts).await;
    assert_eq!(notes.expect("update", &note).await["object"]["n"], 2);
}

#[tokio::test]
async fn hooks_before_come_before_all_writes_and_hooks_after_come_after_them() {
    let script = r#"
        fn tell(hook, request) {
            let told = new_object("Told");
            told.hook = hook;
            told.n = request.object.n;
            told.was = if request.original == () { -1 } else { request.original.n };
            told.stored = query("Note").count();
            told.save_with_master_key();
        }
        before_save("Note", |request| {
            tell("before", request);
            if request.object.n == 13 { throw error(142, "unlucky"); }
            request.object.seen = true;
        });
        after_save("Note", |request| { tell("after", request); });
    "#;
    let server = Launch::plain().file("cloud-code/main.rhai", script).start();
    let (nobody, master) = (server.nobody(), server.master());
    let told = async || {
        // Those of one millisecond come by their ids, which increase.
        let told = master.find_by("Told", &[("order", "createdAt"), ("limit", "1000")]).await;
        let mut lines = Vec::new();
        for line in &told {
            let number = |name: &str| line[name].as_i64().unwrap();
            let what = (line["hook"].as_str().unwrap().to_owned(), number("n"), number("was"), number("stored"));
            lines.push(what);
            master.destroy("Told", &id_of(line)).await;
        }
        lines
    };
    let id = nobody.create("Note", json!({"n": 1})).await;
    told().await;
    let parts =
        [create("Note", json!({"n": 5})), update("Note", &id, json!({"n": 6})), update("Note", &id, json!({"n": 7}))];
    let results = done(&nobody, &parts).await;
    assert_eq!(members(&results[0]), ["createdAt", "objectId", "seen"], "what a hook set is told");
    let line = |hook: &str, n: i64, was: i64, stored: i64| (hook.to_owned(), n, was, stored);
    let expected = [
        line("before", 5, -1, 1),
        line("before", 6, 1, 1),
        line("before", 7, 6, 1),
        line("after", 5, -1, 2),
        line("after", 6, 1, 2),
        line("after", 7, 6, 2),
    ];
    assert_eq!(told().await, expected, "each sees what the one before leaves");

    // The hooks of what stands behind a refusal do not run, and none after it.
    let parts = [create("Note", json!({"n": 8})), create("Note", json!({"n": 13})), create("Note", json!({"n": 14}))];
    whole(&nobody, &parts).await.refused(400, 142);
    assert_eq!(told().await, [line("before", 8, -1, 2), line("before", 13, -1, 2)]);
    assert_eq!(nobody.find("Note", json!({})).await.len(), 2);
}

#[tokio::test]
async fn what_a_hook_expects_holds_for_the_whole_batch() {
    let script = r#"
        before_save("Product", |request| {
            let product = request.object;
            if product.stock < 0 { throw error(142, "Out of stock."); }
            if !product.is_new() { product.expect("stock", request.original.stock); }
        });
    "#;
    let server = Launch::plain().file("cloud-code/main.rhai", script).start();
    let nobody = server.nobody();
    let id = nobody.create("Product", json!({"stock": 13})).await;
    // Two of one product: the second is decided on what the first leaves.
    let take = |amount: i64| update("Product", &id, json!({"stock": {"__op": "Increment", "amount": -amount}}));
    let order = || create("Order", json!({}));
    done(&nobody, &[take(1), take(2), order()]).await;
    whole(&nobody, &[order(), take(6), take(5)]).await.refused(400, 142);
    let orders: Vec<_> = (0..8)
        .map(|_| {
            let (nobody, parts) = (nobody.clone(), [order(), take(1), take(2)]);
            tokio::spawn(async move { whole(&nobody, &parts).await })
        })
        .collect();
    // Each change of the stock makes the others decide again, and there is enough for three.
    let mut sold = 0;
    for answer in orders {
        match answer.await.unwrap() {
            answer if answer.status == 200 => sold += 1,
            answer => answer.refused(400, 142),
        }
    }
    assert_eq!(sold, 3);
    assert_eq!(nobody.fetch("Product", &id).await["stock"], 1);
    assert_eq!(nobody.find("Order", json!({})).await.len(), 4);
}

#[tokio::test]
async fn what_comes_after_the_commit_is_done_although_the_client_has_gone() {
    let script = r#"
        after_save("Slow", |request| { while query("Go").count() == 0 { } });
        after_save("Last", |request| { new_object("Told").save_with_master_key(); });
    "#;
    let server = Launch::plain().file("cloud-code/main.rhai", script).start();
    let mut last = server.nobody().subscribe("Last", json!({})).await;
    let client = server.nobody();
    let going =
        tokio::spawn(async move { whole(&client, &[create("Slow", json!({})), create("Last", json!({}))]).await });
    // It is committed, and the first of two hooks waits.
    assert_eq!(last.live.next().await["op"], "create");
    going.abort();
    assert!(going.await.unwrap_err().is_cancelled());
    server.nobody().create("Go", json!({})).await;
    let deadline = Instant::now() + PATIENCE;
    while server.nobody().find("Told", json!({})).await.is_empty() {
        assert!(Instant::now() < deadline, "the second hook does not run");
    }
}

#[tokio::test]
async fn a_new_password_in_a_batch_ends_the_sessions() {
    let server = Launch::plain().start();
    let alice = server.sign_up("alice").await;
    let body = json!({"username": alice.name, "password": "secret"});
    let other = server.nobody().post("/login", body).await.ok();
    let other = alice.clone().session(alice.id(), other["sessionToken"].as_str().unwrap());
    let password = |password: &str| update("_User", alice.id(), json!({"password": password}));

    // Refused: everybody stays logged in.
    whole(&alice, &[password("new"), delete("Note", "nothing")]).await.refused(404, 101);
    for client in [&alice, &other] {
        client.get("/users/me").await.ok();
    }
    // The last of two counts, and its session is the one that goes on.
    let results = done(&alice, &[password("first"), create("Note", json!({})), password("second")]).await;
    let session = |at: usize| alice.clone().session(alice.id(), results[at]["sessionToken"].as_str().unwrap());
    for ended in [&alice, &other, &session(0)] {
        ended.get("/users/me").await.refused(400, 209);
    }
    session(2).get("/users/me").await.ok();
    let log_in = |password: &str| json!({"username": alice.name, "password": password});
    server.nobody().post("/login", log_in("first")).await.refused(404, 101);
    server.nobody().post("/login", log_in("second")).await.ok();

    // And whoever deletes the own account is gone with all sessions.
    let alice = session(2);
    done(&alice, &[password("third"), delete("_User", alice.id())]).await;
    alice.get("/users/me").await.refused(400, 209);
    assert_eq!(server.master().find("_Session", json!({})).await, [Value::Null; 0]);
}

#[tokio::test]
async fn a_guest_signs_up_in_a_batch_once() {
    let server = Launch::plain().start();
    let parts = [guest("someone"), create("Note", json!({}))];
    let results = done(&server.nobody(), &parts).await;
    assert!(results[0]["sessionToken"].is_string(), "{}", results[0]);
    whole(&server.nobody(), &parts).await.refused(400, 208);
    assert_eq!(server.master().find("Note", json!({})).await.len(), 1);
}

#[tokio::test]
async fn own_sessions_are_changed_and_ended_in_a_batch() {
    let server = Launch::plain().start();
    let alice = server.sign_up("alice").await;
    let session = id_of(&alice.get("/sessions/me").await.ok());
    let other = server.sign_up("bob").await;
    whole(&other, &[create("Note", json!({})), delete("_Session", &session)]).await.refused(404, 101);
    done(&alice, &[update("_Session", &session, json!({"device": "phone"})), create("Note", json!({}))]).await;
    assert_eq!(alice.get("/sessions/me").await.ok()["device"], "phone");
    done(&alice, &[create("Note", json!({})), delete("_Session", &session)]).await;
    alice.get("/users/me").await.refused(400, 209);
    assert_eq!(server.master().find("Note", json!({})).await.len(), 2);
}

#[tokio::test]
async fn members_change_with_the_batch_or_not_at_all() {
    let server = Server::shared();
    let (nobody, posts, readers) = (server.nobody(), fresh("Post"), fresh("Reader"));
    let (one, two) = (nobody.create(&readers, json!({})).await, nobody.create(&readers, json!({})).await);
    let post = nobody.create(&posts, json!({"n": 1})).await;
    let change = |name: &str, id: &str| json!({"likes": {"__op": name, "objects": [pointer(&readers, id)]}});
    let likes = async || {
        let related = json!({"$relatedTo": {"object": pointer(&posts, &post), "key": "likes"}});
        let found = nobody.find(&readers, related).await;
        found.iter().map(id_of).collect::<Vec<_>>()
    };
    let add = [update(&posts, &post, change("AddRelation", &one)), update(&posts, &post, change("AddRelation", &two))];
    let refused: Vec<Value> = add.iter().cloned().chain([delete(&posts, "nothing")]).collect();
    whole(&nobody, &refused).await.refused(404, 101);
    assert!(nobody.fetch(&posts, &post).await.get("likes").is_none(), "no column is left");
    done(&nobody, &add).await;
    assert_eq!(likes().await.len(), 2);
    let swap = [update(&posts, &post, change("RemoveRelation", &one)), create(&posts, change("AddRelation", &one))];
    let results = done(&nobody, &swap).await;
    assert_eq!(likes().await, [two]);
    let liked = nobody.find(&posts, json!({"likes": pointer(&readers, &one)})).await;
    assert_eq!(liked.iter().map(id_of).collect::<Vec<_>>(), [id_of(&results[1])]);
}

#[tokio::test]
async fn batches_that_meet_in_opposite_orders_all_come_through() {
    let server = Server::shared();
    let nobody = server.nobody();
    meet_in_opposite_orders([&nobody, &nobody]).await;
}

/// Sends batches that change the same two objects, each client in its order and all at once.
pub(crate) async fn meet_in_opposite_orders(clients: [&Client; 2]) {
    let class = fresh("Counter");
    let mut listeners = [clients[0].subscribe(&class, json!({})).await, clients[1].subscribe(&class, json!({})).await];
    let (one, other) =
        (clients[0].create(&class, json!({"n": 0})).await, clients[0].create(&class, json!({"n": 0})).await);
    for counters in &mut listeners {
        for id in [&one, &other] {
            counters.expect("create", id).await;
        }
    }
    let batches: Vec<_> = (0..32)
        .map(|n| {
            let mut parts = [update(&class, &one, plus_one()), update(&class, &other, plus_one())];
            if n % 2 == 1 {
                parts.reverse();
            }
            let client = clients[n % 2].clone();
            tokio::spawn(async move { done(&client, &parts).await })
        })
        .collect();
    for batch in batches {
        let results = batch.await.unwrap();
        assert_eq!(results[0]["n"], results[1]["n"], "nobody sees half of another");
    }
    for id in [&one, &other] {
        assert_eq!(clients[1].fetch(&class, id).await["n"], 32);
    }
    // Both events of each batch follow one another.
    for counters in &mut listeners {
        for n in 1..=32 {
            for _ in 0..2 {
                assert_eq!(counters.live.next().await["object"]["n"], n);
            }
        }
    }
}

#[tokio::test]
async fn the_first_part_that_cannot_be_done_is_the_one_that_is_told() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("First"));
    let id = nobody.create(&class, json!({"n": 1})).await;
    let bad = update(&class, &id, json!({"1bad": 1}));
    whole(&nobody, &[delete(&class, "absent"), bad.clone()]).await.refused(404, 101);
    whole(&nobody, &[bad, delete(&class, "absent")]).await.refused(400, 105);
    // What an earlier part deletes is gone for a later one.
    whole(&nobody, &[delete(&class, &id), delete(&class, &id)]).await.refused(404, 101);
    assert_eq!(nobody.fetch(&class, &id).await["n"], json!(1));
}
