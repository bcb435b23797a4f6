//! Live queries on the wire: which event, with which images, to whom, in which order, and until when.

use crate::harness::{Client, Launch, Live, Server, Value, date, fresh, json, members, on_mongodb, pointer};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

// ---- the event table

#[tokio::test]
async fn an_object_comes_changes_leaves_returns_and_goes() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let mut lobby = nobody.subscribe(&class, json!({"room": "lobby"})).await;

    let id = nobody.create(&class, json!({"room": "lobby", "text": "hi"})).await;
    let created = lobby.expect("create", &id).await;
    assert_eq!(members(&created), ["clientId", "cursor", "object", "op", "requestId"], "a create has no original");
    let object = &created["object"];
    assert_eq!(members(object), ["className", "createdAt", "objectId", "room", "text", "updatedAt"]);
    assert_eq!((&object["className"], &object["text"]), (&json!(class), &json!("hi")));
    assert!(object["createdAt"].is_string() && object["updatedAt"].is_string(), "{object}");

    nobody.update(&class, &id, json!({"text": "hello", "n": 1})).await;
    let updated = lobby.expect("update", &id).await;
    assert_eq!((&updated["object"]["text"], &updated["original"]["text"]), (&json!("hello"), &json!("hi")));
    assert_eq!((&updated["object"]["n"], updated["original"].get("n")), (&json!(1), None));
    assert_eq!(updated["original"]["className"], json!(class));

    nobody.update(&class, &id, json!({"room": "attic"})).await;
    let left = lobby.expect("leave", &id).await;
    assert_eq!((&left["object"]["room"], &left["original"]["room"]), (&json!("attic"), &json!("lobby")));

    nobody.update(&class, &id, json!({"text": "unseen"})).await;
    nobody.update(&class, &id, json!({"room": "lobby"})).await;
    let entered = lobby.expect("enter", &id).await;
    assert_eq!((&entered["object"]["room"], &entered["original"]["room"]), (&json!("lobby"), &json!("attic")));

    nobody.destroy(&class, &id).await;
    let deleted = lobby.expect("delete", &id).await;
    assert_eq!(
        (members(&deleted), &deleted["object"]["room"]),
        (vec!["clientId", "cursor", "object", "op", "requestId"], &json!("lobby"))
    );
}

#[tokio::test]
async fn what_never_matched_is_never_heard_of() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let mut lobby = nobody.subscribe(&class, json!({"room": "lobby"})).await;
    let attic = nobody.create(&class, json!({"room": "attic"})).await;
    nobody.update(&class, &attic, json!({"room": "cellar"})).await;
    nobody.destroy(&class, &attic).await;
    nobody.create(&fresh("Other"), json!({"room": "lobby"})).await;
    nobody.put(&format!("/classes/{class}/{attic}"), json!({"room": "lobby"})).await.refused(404, 101);
    nobody.post(&format!("/classes/{class}"), json!({"room": 5})).await.refused(400, 111);
    let sentinel = nobody.create(&class, json!({"room": "lobby"})).await;
    lobby.expect("create", &sentinel).await;
}

#[tokio::test]
async fn every_way_of_writing_is_heard() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let mut all = nobody.subscribe(&class, json!({})).await;
    let place = format!("/parse/classes/{class}");
    let part = |n: i64| json!({"method": "POST", "path": place, "body": {"n": n}});
    let results = nobody.post("/batch", json!({"requests": [part(1), part(2), part(3)]})).await.ok();
    let ids: Vec<_> =
        results.as_array().unwrap().iter().map(|part| part["success"]["objectId"].as_str().unwrap()).collect();
    for id in &ids {
        all.expect("create", id).await;
    }
    nobody.update(&class, ids[0], json!({"n": {"__op": "Increment", "amount": 5}, "o.deep": true})).await;
    let event = all.expect("update", ids[0]).await;
    assert_eq!(
        (&event["object"]["n"], &event["original"]["n"], &event["object"]["o"]),
        (&json!(6), &json!(1), &json!({"deep": true}))
    );
    nobody.update(&class, ids[1], json!({})).await;
    all.expect("update", ids[1]).await;
    let sdk = json!({"_method": "DELETE", "_ApplicationId": "app"});
    Client::new(&server.url).post(&format!("/classes/{class}/{}", ids[2]), sdk).await.ok();
    all.expect("delete", ids[2]).await;
}

#[tokio::test]
async fn relations_are_shown_as_find_shows_them() {
    let server = Server::shared();
    let (nobody, class, readers) = (server.nobody(), fresh("Post"), fresh("Reader"));
    let relation = json!({"__type": "Relation", "className": readers});
    let mut open = nobody.subscribe(&class, json!({"open": true})).await;
    let mut live = nobody.connect().await;
    for (request_id, keys) in [(1, ["open"]), (2, ["likes"])] {
        live.subscribe(request_id, json!({"className": class, "where": {}, "keys": keys})).await;
    }
    let reader = nobody.create(&readers, json!({})).await;
    let add = json!({"__op": "AddRelation", "objects": [pointer(&readers, &reader)]});
    // The first object of the class makes the column, and the others have it, too.
    let first = nobody.create(&class, json!({"open": true, "likes": add})).await;
    assert_eq!(open.expect("create", &first).await["object"]["likes"], relation);
    let bare = nobody.create(&class, json!({"open": true})).await;
    assert_eq!(open.expect("create", &bare).await["object"]["likes"], relation);
    for (change, event) in
        [(json!({"n": 1}), "update"), (json!({"open": false}), "leave"), (json!({"open": true}), "enter")]
    {
        nobody.update(&class, &bare, change).await;
        let frame = open.expect(event, &bare).await;
        assert_eq!((&frame["object"]["likes"], &frame["original"]["likes"]), (&relation, &relation), "{frame}");
    }
    for row in open.results().await {
        assert_eq!(row["likes"], relation, "{row}");
    }
    nobody.destroy(&class, &bare).await;
    assert_eq!(open.expect("delete", &bare).await["object"]["likes"], relation);

    // Among chosen keys it is one like others. The two subscriptions hear of each change in either order.
    let mut seen = BTreeSet::new();
    for _ in 0..2 * 6 {
        let frame = live.next().await;
        let is_chosen = frame["requestId"] == 2;
        seen.insert((is_chosen, frame["op"].as_str().unwrap().to_owned()));
        for image in [&frame["object"], &frame["original"]].into_iter().filter(|image| image.is_object()) {
            assert_eq!(image.get("likes"), is_chosen.then_some(&relation), "{frame}");
        }
    }
    assert_eq!(seen.len(), 6, "{seen:?}");
}

// ---- permissions on both images

#[tokio::test]
async fn losing_the_right_to_read_is_a_leave_that_tells_nothing_new() {
    let server = Server::shared();
    let (alice, bob, class) = (server.sign_up("alice").await, server.sign_up("bob").await, fresh("Note"));
    let acl = |who: &[&Client]| {
        let grants = who.iter().map(|user| (user.id().to_owned(), json!({"read": true, "write": true})));
        Value::Object(grants.collect())
    };
    let mut seen = alice.subscribe(&class, json!({"room": "lobby"})).await;
    let id = bob.create(&class, json!({"room": "lobby", "text": "for both", "ACL": acl(&[&alice, &bob])})).await;
    seen.expect("create", &id).await;

    bob.update(&class, &id, json!({"text": "for bob alone", "ACL": acl(&[&bob])})).await;
    let left = seen.expect("leave", &id).await;
    assert_eq!(left["object"]["text"], "for both", "the last state that alice could read");
    assert!(!left.to_string().contains("alone"), "{left}");
    assert_eq!(left["object"]["ACL"], acl(&[&alice, &bob]), "not even who may read it now");

    bob.update(&class, &id, json!({"text": "still alone"})).await;
    bob.update(&class, &id, json!({"text": "again for both", "ACL": acl(&[&alice, &bob])})).await;
    let entered = seen.expect("enter", &id).await;
    assert_eq!((&entered["object"]["text"], entered.get("original")), (&json!("again for both"), None), "{entered}");
    assert!(!entered.to_string().contains("alone"), "{entered}");

    // Leaving the filter and the readers at once is a loss, too.
    bob.update(&class, &id, json!({"room": "a secret room", "ACL": acl(&[&bob])})).await;
    let left = seen.expect("leave", &id).await;
    assert_eq!(left["object"]["room"], "lobby", "{left}");
    assert!(!left.to_string().contains("secret"), "{left}");
}

#[tokio::test]
async fn what_may_not_be_read_is_not_heard_of() {
    let server = Server::shared();
    let (alice, bob, class) = (server.sign_up("alice").await, server.sign_up("bob").await, fresh("Note"));
    let mut of_alice = alice.subscribe(&class, json!({})).await;
    let mut of_bob = bob.subscribe(&class, json!({})).await;
    let mut of_nobody = server.nobody().subscribe(&class, json!({})).await;
    let mut of_master = server.master().subscribe(&class, json!({})).await;
    let id = bob.create(&class, json!({"n": 1, "ACL": {bob.id(): {"read": true, "write": true}}})).await;
    bob.update(&class, &id, json!({"n": 2})).await;
    bob.destroy(&class, &id).await;
    let sentinel = server.nobody().create(&class, json!({})).await;
    of_alice.expect("create", &sentinel).await;
    of_nobody.expect("create", &sentinel).await;
    for subscription in [&mut of_bob, &mut of_master] {
        subscription.expect("create", &id).await;
        subscription.expect("update", &id).await;
        subscription.expect("delete", &id).await;
        subscription.expect("create", &sentinel).await;
    }
}

#[tokio::test]
async fn a_subscription_stands_on_its_own_token_before_that_of_its_connection() {
    let server = Server::shared();
    let (alice, bob, class) = (server.sign_up("alice").await, server.sign_up("bob").await, fresh("Note"));
    let mut live = alice.connect().await;
    let query = json!({"className": class, "where": {}});
    live.subscribe(1, query.clone()).await;
    live.send(json!({"op": "subscribe", "requestId": 2, "query": query, "sessionToken": bob.token()})).await;
    assert_eq!(live.answer().await["op"], "subscribed");
    let of_bob = bob.create(&class, json!({"ACL": {bob.id(): {"read": true}}})).await;
    live.expect(2, "create", &of_bob).await;
    let of_alice = alice.create(&class, json!({"ACL": {alice.id(): {"read": true}}})).await;
    live.expect(1, "create", &of_alice).await;
    // Now both expectations of silence have been proved.
    let of_bob = bob.create(&class, json!({"ACL": {bob.id(): {"read": true}}})).await;
    live.expect(2, "create", &of_bob).await;
}

#[tokio::test]
async fn class_permissions_are_those_of_the_moment() {
    let server = Server::shared();
    let (nobody, master, class) = (server.nobody(), server.master(), fresh("Note"));
    let id = nobody.create(&class, json!({"n": 1})).await;
    let mut notes = nobody.subscribe(&class, json!({})).await;
    let permit = async |permissions: Value| {
        master.put(&format!("/schemas/{class}"), json!({"classLevelPermissions": permissions})).await.ok();
    };
    let (open, all) = (json!({"*": true}), ["get", "count", "create", "update", "delete", "addField"]);
    let rest: serde_json::Map<String, Value> = all.iter().map(|name| ((*name).to_owned(), open.clone())).collect();
    permit(Value::Object(rest.clone())).await;
    nobody.update(&class, &id, json!({"n": 2})).await;
    let mut opened = rest.clone();
    opened.insert("find".into(), open.clone());
    opened.insert("protectedFields".into(), json!({"*": ["n"]}));
    permit(Value::Object(opened)).await;
    nobody.update(&class, &id, json!({"n": 3, "m": 3})).await;
    // Who is let in again has missed something.
    let (results, _) = notes.live.expect_resync(1).await;
    assert_eq!((results.len(), results[0].get("n")), (1, None), "{results:?}");
    nobody.update(&class, &id, json!({"n": 4, "m": 4})).await;
    let event = loop {
        let event = notes.expect("update", &id).await;
        if event["object"]["m"] == 4 {
            break event;
        }
    };
    assert_eq!(event["object"].get("n"), None, "{event}");
}

// ---- what a subscription asks for

#[tokio::test]
async fn keys_choose_what_is_sent_and_watch_chooses_when() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let query = |name: &str, names: Value| json!({"className": class, "where": {"room": "lobby"}, name: names});
    let mut keys = nobody.subscribe_to(query("keys", json!(["text", "nothing"]))).await;
    let mut fields = nobody.subscribe_to(query("fields", json!(["text"]))).await;
    let mut watch = nobody.subscribe_to(query("watch", json!(["n"]))).await;
    let acl = json!({"*": {"read": true, "write": true}});
    let id = nobody.create(&class, json!({"room": "lobby", "text": "hi", "n": 1, "ACL": acl})).await;
    let unwatched = nobody.create(&class, json!({"room": "lobby", "text": "no number"})).await;
    let shown = ["ACL", "className", "createdAt", "objectId", "text", "updatedAt"];
    assert_eq!(members(&keys.expect("create", &id).await["object"]), shown);
    fields.expect("create", &id).await;
    keys.expect("create", &unwatched).await;
    let created = watch.expect("create", &id).await;
    assert_eq!(created["object"]["text"], "hi", "watching shows everything");

    nobody.update(&class, &id, json!({"text": "hello"})).await;
    let updated = keys.expect("update", &id).await;
    assert_eq!((members(&updated["object"]), members(&updated["original"])), (shown.to_vec(), shown.to_vec()));
    nobody.update(&class, &id, json!({"n": 1})).await;
    nobody.update(&class, &id, json!({"n": 2})).await;
    let seen = watch.expect("update", &id).await;
    assert_eq!((&seen["object"]["n"], &seen["original"]["n"]), (&json!(2), &json!(1)), "only what changes n");
    nobody.update(&class, &id, json!({"room": "attic"})).await;
    watch.expect("leave", &id).await;
    nobody.update(&class, &id, json!({"room": "lobby"})).await;
    watch.expect("enter", &id).await;
    nobody.destroy(&class, &unwatched).await;
    watch.expect("delete", &unwatched).await;
}

#[tokio::test]
async fn filters_that_look_alike_are_not_the_same() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let either = json!([{"kind": "x"}, {"kind": "y"}]);
    let filters = [
        json!({"room": "A", "$or": either}),
        json!({"room": "B", "$or": either}),
        json!({"a": 1, "b": 2}),
        json!({"a": 2, "b": 1}),
        json!({"l": {"$eq": [1, 2]}}),
        json!({"l": {"$eq": [2, 1]}}),
        json!({"o": {"$eq": {"x": 1, "y": 2}}}),
        json!({"o": {"$eq": {"x": 2, "y": 1}}}),
        json!({"v": 1}),
        json!({"v": "1"}),
        json!({"v": {"$ne": 1}, "marked": true}),
        json!({"$nor": [{"v": 2}], "marked": true}),
        json!({"s": {"$regex": "^a"}}),
        json!({"s": {"$regex": "^a", "$options": "i"}}),
        json!({"p": pointer("A", "x")}),
        json!({"p": pointer("A", "y")}),
    ];
    let mut live = nobody.connect().await;
    for (at, filter) in filters.iter().enumerate() {
        live.subscribe(at as i64, json!({"className": class, "where": filter})).await;
    }
    // Each object matches the filters at these places, and no other.
    for (object, expected) in [
        (json!({"room": "A", "kind": "x"}), vec![0]),
        (json!({"room": "B", "kind": "y"}), vec![1]),
        (json!({"a": 1, "b": 2}), vec![2]),
        (json!({"a": 2, "b": 1}), vec![3]),
        (json!({"l": [1, 2]}), vec![4]),
        (json!({"l": [2, 1]}), vec![5]),
        (json!({"o": {"x": 1, "y": 2}}), vec![6]),
        (json!({"o": {"x": 2, "y": 1}}), vec![7]),
        (json!({"v": 1}), vec![8]),
        (json!({"v": 3, "marked": true}), vec![10, 11]),
        (json!({"v": 2, "marked": true}), vec![10]),
        (json!({"s": "Ab"}), vec![13]),
        (json!({"s": "ab"}), vec![12, 13]),
        (json!({"p": pointer("A", "x")}), vec![14]),
        (json!({"p": pointer("A", "y")}), vec![15]),
    ] {
        let id = nobody.create(&class, object.clone()).await;
        let mut heard = BTreeSet::new();
        for _ in &expected {
            let frame = live.next().await;
            assert_eq!(
                (&frame["op"], &frame["object"]["objectId"]),
                (&json!("create"), &json!(id)),
                "{object}: {frame}"
            );
            heard.insert(frame["requestId"].as_i64().unwrap());
        }
        assert_eq!(heard, expected.into_iter().collect(), "{object}");
    }
}

#[tokio::test]
async fn live_queries_mean_what_find_means() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Vector"));
    let (t1, t2) = (pointer("T", "t1"), pointer("T", "t2"));
    let filters = [
        json!({"n": null}),
        json!({"n": {"$eq": null}}),
        json!({"n": {"$ne": 1}}),
        json!({"n": {"$ne": null}}),
        json!({"n": {"$lt": 3}}),
        json!({"n": {"$lte": 1}}),
        json!({"n": {"$gt": 3}}),
        json!({"n": {"$gte": null}}),
        json!({"n": {"$gt": 0, "$lt": 5}}),
        json!({"n": {"$in": [1, null]}}),
        json!({"n": {"$in": []}}),
        json!({"n": {"$nin": []}}),
        json!({"n": {"$nin": [1]}}),
        json!({"n": {"$nin": [1, null]}}),
        json!({"n": {"$exists": true}}),
        json!({"n": {"$exists": false}}),
        json!({"n": "1"}),
        json!({"arr": 2}),
        json!({"arr": {"$eq": [1, 2]}}),
        json!({"arr": {"$ne": 2}}),
        json!({"arr": {"$in": [3, 9]}}),
        json!({"arr": {"$nin": [3]}}),
        json!({"arr": {"$in": [[1, 2]]}}),
        json!({"arr": {"$all": [1, 2]}}),
        json!({"arr": {"$all": []}}),
        json!({"arr": {"$gt": 2}}),
        json!({"arr": null}),
        json!({"arr.0": 1}),
        json!({"o.a": 1}),
        json!({"o.l.x": 2}),
        json!({"p": t1}),
        json!({"p": "t1"}),
        json!({"p": {"$eq": "t1"}}),
        json!({"p": {"$ne": t1}}),
        json!({"p": {"$in": [t1, t2]}}),
        json!({"p": {"$in": ["t1"]}}),
        json!({"p": {"$exists": true}}),
        json!({"p": {"$exists": false}}),
        json!({"pa": t1}),
        json!({"pa": {"$all": [t1, t2]}}),
        json!({"d": {"$gt": date("2020-06-01T00:00:00.000Z")}}),
        json!({"d": {"$in": [date("2020-01-01T00:00:00.000Z")]}}),
        json!({"d": "2020-01-01T00:00:00.000Z"}),
        json!({"createdAt": {"$gt": date("2020-01-01T00:00:00.000Z")}}),
        json!({"s": {"$regex": "^a"}}),
        json!({"s": {"$regex": "^a", "$options": "i"}}),
        json!({"s": {"$regex": "n"}}),
        json!({"$or": [{"n": 1}, {"s": "ABC"}]}),
        json!({"$and": [{"n": {"$gt": 0}}, {"arr": 3}]}),
        json!({"$nor": [{"n": 1}, {"n": 5}]}),
        json!({"zzz": 1}),
        json!({"$or": [{"p": t1, "n": 1}, {"pa": t2, "$nor": [{"n": 1}]}], "s": {"$exists": true}}),
        json!({}),
    ];
    let mut live = nobody.connect().await;
    for (at, filter) in filters.iter().enumerate() {
        live.subscribe(at as i64, json!({"className": class, "where": filter})).await;
    }
    // A subscription may be held back until its client answers a ping; the last one is open when all others are.
    let everything = filters.len() as i64 - 1;
    let first = nobody.create(&class, json!({})).await;
    while live.next().await["requestId"] != everything {}
    let rows = [
        json!({"n": 1, "s": "abc", "arr": [1, 2], "p": t1, "d": date("2020-01-01T00:00:00.000Z"), "o": {"a": 1, "l": [{"x": 1}, {"x": 2}]}, "pa": [t1]}),
        json!({"n": 5, "s": "ABC", "arr": [2, 3], "p": t2, "d": date("2021-01-01T00:00:00.000Z"), "o": {"a": 2}, "pa": [t1, t2]}),
        json!({"n": null, "s": null, "arr": null, "p": null}),
        json!({}),
        json!({"arr": [], "s": ""}),
        json!({"arr": [null, 1]}),
        json!({"arr": [[1, 2]]}),
    ];
    let mut ids = Vec::new();
    for row in rows {
        ids.push(nobody.create(&class, row).await);
    }
    // Events come in the order of the commits, so the events of one more object end those of all others.
    let last = nobody.create(&class, json!({"n": 5})).await;
    let mut heard: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
    loop {
        let frame = live.next().await;
        let (request, id) =
            (frame["requestId"].as_i64().unwrap(), frame["object"]["objectId"].as_str().unwrap().to_owned());
        assert_eq!(frame["op"], "create", "{frame}");
        if id == last && request == everything {
            break;
        }
        if id != last && id != first {
            assert!(heard.entry(request).or_default().insert(id), "twice: {frame}");
        }
    }
    let mut wrong = Vec::new();
    for (at, filter) in filters.iter().enumerate() {
        let found = nobody.find(&class, filter.clone()).await;
        let found: BTreeSet<_> = found
            .iter()
            .map(|row| row["objectId"].as_str().unwrap().to_owned())
            .filter(|id| *id != first && *id != last)
            .collect();
        let heard = heard.remove(&(at as i64)).unwrap_or_default();
        if heard != found {
            let rows = |set: &BTreeSet<String>| {
                ids.iter().enumerate().filter(|(_, id)| set.contains(*id)).map(|(at, _)| at).collect::<Vec<_>>()
            };
            wrong.push(format!("{filter}: find gives {:?}, live {:?}", rows(&found), rows(&heard)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

// ---- the life of a subscription

#[tokio::test]
async fn subscriptions_are_changed_replaced_and_ended() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let query = |room: &str| json!({"className": class, "where": {"room": room}});
    let mut rooms = nobody.subscribe_to(query("A")).await;
    let create = async |room: &str| nobody.create(&class, json!({"room": room})).await;

    rooms.change(query("B")).await;
    create("A").await;
    let id = create("B").await;
    rooms.expect("create", &id).await;

    rooms.live.subscribe(1, query("C")).await;
    create("B").await;
    let id = create("C").await;
    rooms.expect("create", &id).await;

    rooms.live.subscribe(1, query("C")).await;
    let id = create("C").await;
    rooms.expect("create", &id).await;
    let id = create("C").await;
    rooms.expect("create", &id).await;

    rooms.unsubscribe().await;
    create("C").await;
    rooms.live.subscribe(2, query("D")).await;
    let id = create("D").await;
    rooms.live.expect(2, "create", &id).await;
}

#[tokio::test]
async fn a_request_id_that_is_used_again_leaves_nothing_behind() {
    let server = Launch::plain().start();
    let nobody = server.nobody();
    let root = server.url.strip_suffix("/parse").unwrap();
    let subscriptions = async || {
        let metrics = nobody.get(&format!("{root}/metrics")).await.text;
        let count =
            metrics.lines().find_map(|line| line.strip_prefix("tidings_live_subscriptions ")?.parse::<f64>().ok());
        count.map(|count| count as usize)
    };
    let mut live = nobody.connect().await;
    for n in 0..50 {
        live.subscribe(1, json!({"className": "Note", "where": {"n": n}})).await;
        live.subscribe(2, json!({"className": "Note", "where": {"n": 49}})).await;
    }
    let id = nobody.create("Note", json!({"n": 49})).await;
    let heard = [live.next().await, live.next().await];
    let requests: BTreeSet<_> = heard.iter().map(|frame| frame["requestId"].as_i64().unwrap()).collect();
    assert_eq!(requests, BTreeSet::from([1, 2]), "{heard:?}");
    nobody.create("Note", json!({"n": 3})).await;
    nobody.destroy("Note", &id).await;
    assert_eq!((&live.next().await["op"], &live.next().await["op"]), (&json!("delete"), &json!("delete")));
    // The count is taken now and then.
    let deadline = Instant::now() + crate::harness::PATIENCE;
    while subscriptions().await != Some(2) {
        assert!(Instant::now() < deadline, "{:?} subscriptions", subscriptions().await);
    }
    drop(live);
    while subscriptions().await != Some(0) {
        assert!(Instant::now() < deadline, "{:?} subscriptions", subscriptions().await);
    }
}

#[tokio::test]
async fn a_refused_change_leaves_other_subscriptions_alone() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let mut live = nobody.connect().await;
    live.subscribe(1, json!({"className": class, "where": {"room": "A"}})).await;
    live.send(json!({"op": "subscribe", "requestId": 2, "query": {"className": class, "where": {"n": {"$foo": 1}}}}))
        .await;
    live.expect_error(107).await;
    let id = nobody.create(&class, json!({"room": "A"})).await;
    live.expect(1, "create", &id).await;
}

#[tokio::test]
async fn results_are_found_with_the_rights_of_the_subscription() {
    let server = Server::shared();
    let (alice, nobody, class) = (server.sign_up("alice").await, server.nobody(), fresh("Note"));
    let public = nobody.create(&class, json!({"room": "A", "n": 1})).await;
    let own = alice.create(&class, json!({"room": "A", "n": 2, "ACL": {alice.id(): {"read": true}}})).await;
    nobody.create(&class, json!({"room": "B"})).await;
    let query = json!({"className": class, "where": {"room": "A"}, "keys": ["n"]});
    let ids = |results: Vec<Value>| {
        for result in &results {
            assert_eq!((&result["className"], result.get("room")), (&json!(class), None), "{result}");
        }
        results.iter().map(|result| result["objectId"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    let mut of_alice = alice.subscribe_to(query.clone()).await;
    let mut of_nobody = nobody.subscribe_to(query).await;
    assert_eq!(ids(of_alice.results().await), BTreeSet::from([public.clone(), own]));
    assert_eq!(ids(of_nobody.results().await), BTreeSet::from([public]));
    let id = nobody.create(&class, json!({"room": "A"})).await;
    of_nobody.expect("create", &id).await;
}

#[tokio::test]
async fn nothing_is_lost_between_subscribed_and_the_first_event() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    // Another client writes all the time, so that each subscription begins in the middle.
    let writing = {
        let (nobody, class) = (nobody.clone(), class.clone());
        tokio::spawn(async move {
            for n in 0.. {
                nobody.create(&class, json!({"noise": n})).await;
            }
        })
    };
    for n in 0..10 {
        let mut notes = nobody.subscribe(&class, json!({"n": n})).await;
        let id = nobody.create(&class, json!({"n": n})).await;
        notes.expect("create", &id).await;
        nobody.destroy(&class, &id).await;
        notes.expect("delete", &id).await;
    }
    writing.abort();
}

#[tokio::test]
async fn each_event_comes_once_and_in_order() {
    const WRITERS: usize = 8;
    const UPDATES: i64 = 50;
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Counter"));
    let shared = nobody.create(&class, json!({"n": 0})).await;
    let mut counters = nobody.subscribe(&class, json!({})).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (nobody, class, shared) = (nobody.clone(), class.clone(), shared.clone());
            tokio::spawn(async move {
                for _ in 0..UPDATES {
                    nobody.update(&class, &shared, json!({"n": {"__op": "Increment", "amount": 1}})).await;
                }
            })
        })
        .collect();
    for n in 1..=WRITERS as i64 * UPDATES {
        let event = counters.expect("update", &shared).await;
        assert_eq!((&event["object"]["n"], &event["original"]["n"]), (&json!(n), &json!(n - 1)));
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn a_crowd_hears_each_its_own_room_in_order() {
    const ROOMS: usize = 20;
    const WRITERS: usize = 4;
    const MESSAGES: usize = 40;
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let mut listeners = Vec::new();
    for at in 0..ROOMS * 5 {
        let room = at % ROOMS;
        // Five kinds of filters that mean the same, found through five kinds of postings.
        let filter = match at / ROOMS {
            0 => json!({"room": room}),
            1 => json!({"room": {"$in": [room, ROOMS + room]}}),
            2 => json!({"tags": format!("r{room}")}),
            3 => json!({"$or": [{"room": room, "n": {"$gte": 0}}, {"room": "nowhere"}]}),
            _ => json!({"room": {"$gte": room, "$lt": room + 1}}),
        };
        listeners.push((room, nobody.subscribe(&class, filter).await));
    }
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (nobody, class) = (nobody.clone(), class.clone());
            tokio::spawn(async move {
                for n in 0..MESSAGES {
                    for room in (writer..ROOMS).step_by(WRITERS) {
                        let tags = json!(["any", format!("r{room}")]);
                        nobody.create(&class, json!({"room": room, "n": n, "tags": tags})).await;
                    }
                }
            })
        })
        .collect();
    for (room, listener) in &mut listeners {
        for n in 0..MESSAGES {
            let event = listener.live.next().await;
            let heard = (event["op"].as_str(), event["object"]["room"].as_u64(), event["object"]["n"].as_u64());
            assert_eq!(heard, (Some("create"), Some(*room as u64), Some(n as u64)), "{event}");
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn a_log_out_ends_the_sessions_subscriptions_within_a_second() {
    let server = Launch::plain().start();
    let (alice, bob) = (server.sign_up("alice").await, server.sign_up("bob").await);
    let mut live = alice.connect().await;
    let query = json!({"className": "Note", "where": {}});
    live.subscribe(1, query.clone()).await;
    live.send(json!({"op": "subscribe", "requestId": 2, "query": query, "sessionToken": bob.token()})).await;
    live.answer().await;
    alice.post("/logout", json!({})).await.ok();
    let since = Instant::now();
    let ended = live.expect_error(209).await;
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    assert_eq!((&ended["requestId"], &ended["reconnect"]), (&json!(1), &json!(false)), "{ended}");

    let id = bob.create("Note", json!({"ACL": {bob.id(): {"read": true}}})).await;
    live.expect(2, "create", &id).await;
    let id = bob.create("Note", json!({})).await;
    live.expect(2, "create", &id).await;

    // The same where a session ends otherwise.
    bob.put(&format!("/users/{}", bob.id()), json!({"password": "new"})).await.ok();
    assert_eq!(live.expect_error(209).await["requestId"], 2);
    let carol = server.sign_up("carol").await;
    let mut notes = carol.subscribe("Note", json!({})).await;
    server.master().delete(&format!("/users/{}", carol.id())).await.ok();
    notes.expect_error(209).await;
    server.nobody().create("Note", json!({})).await;
}

#[tokio::test]
async fn an_expired_session_ends_its_subscriptions() {
    let server = Launch::plain().with(&["--session-length", "1"]).start();
    let alice = server.sign_up("alice").await;
    let mut notes = alice.subscribe("Note", json!({})).await;
    while alice.get("/users/me").await.status == 200 {}
    let since = Instant::now();
    notes.expect_error(209).await;
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

#[tokio::test]
async fn who_logged_out_is_nobody_on_the_same_connection() {
    let server = Launch::plain().start();
    let (alice, nobody) = (server.sign_up("alice").await, server.nobody());
    let mut live = alice.connect().await;
    let query = json!({"className": "Note", "where": {}});
    live.subscribe(1, query.clone()).await;
    alice.post("/logout", json!({})).await.ok();
    live.expect_error(209).await;
    // The SDK keeps the connection and sends no token any more. The one of its `connect` counts as none, as it would
    // if it had been dead from the beginning.
    live.subscribe(2, query).await;
    server.master().create("Note", json!({"ACL": {alice.id(): {"read": true}}})).await;
    let id = nobody.create("Note", json!({})).await;
    live.expect(2, "create", &id).await;
}

#[tokio::test]
async fn sessions_are_live_to_their_user_only() {
    let server = Launch::plain().start();
    let (alice, bob) = (server.sign_up("alice").await, server.sign_up("bob").await);
    let mut sessions = alice.subscribe("_Session", json!({})).await;
    server.nobody().post("/login", json!({"username": bob.name, "password": "secret"})).await.ok();
    let login = server.nobody().post("/login", json!({"username": alice.name, "password": "secret"})).await.ok();
    let event = sessions.live.next().await;
    assert_eq!((&event["op"], &event["object"]["user"]), (&json!("create"), &alice.pointer()), "{event}");
    let text = event.to_string();
    assert!(!text.contains("_session_token") && !text.contains(bob.id()), "{text}");
    drop(login);
}

#[tokio::test]
async fn live_queries_go_on_after_a_restart() {
    let mut server = Launch::plain().start();
    let mut alice = server.sign_up("alice").await;
    let mut notes = alice.subscribe("Note", json!({"room": "A"})).await;
    let before = alice.create("Note", json!({"room": "A"})).await;
    notes.expect("create", &before).await;
    for round in 0..2 {
        if round == 0 {
            server.kill();
        } else {
            server.terminate();
            assert!(server.wait().success());
        }
        notes.live.expect_closed().await;
        server.start_again();
        alice = alice.reconnected();
        notes = alice.subscribe("Note", json!({"room": "A"})).await;
        let id = alice.create("Note", json!({"room": "A"})).await;
        notes.expect("create", &id).await;
        alice.update("Note", &before, json!({"round": round})).await;
        notes.expect("update", &before).await;
    }
}

#[tokio::test]
async fn the_socket_is_at_the_root_and_at_the_mount() {
    let server = Server::shared();
    let root = server.url.strip_suffix("/parse").unwrap();
    for place in [format!("{root}/"), format!("{root}/parse"), format!("{root}/parse/"), format!("{root}/parse?x=1")] {
        let mut live = Live::open(&place).await;
        live.send(json!({"op": "connect", "applicationId": "app", "installationId": "device"})).await;
        let connected = live.next().await;
        assert_eq!(
            (&connected["op"], &connected["installationId"]),
            (&json!("connected"), &json!("device")),
            "{place}"
        );
        let class = fresh("Note");
        live.subscribe(1, json!({"className": class, "where": {}})).await;
        let id = server.nobody().create(&class, json!({})).await;
        let event = live.expect(1, "create", &id).await;
        assert_eq!((&event["installationId"], &event["clientId"]), (&json!("device"), &connected["clientId"]));
    }
}

#[tokio::test]
async fn a_reader_who_fell_behind_starts_afresh_and_nobody_else_notices() {
    let marks = [
        "--live-query.outbox-coalesce",
        "512kb",
        "--live-query.outbox-resync",
        "1mb",
        "--live-query.outbox-close",
        "64mb",
    ];
    let mut server = Launch::plain().with(&marks).start();
    let nobody = server.nobody();
    let mut slow = nobody.subscribe("Note", json!({})).await;
    let mut quick = nobody.subscribe("Note", json!({})).await;
    // More than the kernel's buffers hold on both sides.
    let text = "x".repeat(400_000);
    for n in 0..90 {
        let id = nobody.create("Note", json!({"n": n, "text": text})).await;
        let event = quick.expect("create", &id).await;
        assert_eq!(event["object"]["n"], n);
    }
    // Whoever reads again is told that something was missed, by a fresh result and a second `subscribed`; from then on
    // nothing is.
    let (mut results, mut sentinel) = (0, None);
    loop {
        let frame = slow.live.next().await;
        match frame["op"].as_str().unwrap() {
            "create" if sentinel.is_some() && frame["object"]["objectId"].as_str() == sentinel.as_deref() => break,
            "create" => {}
            "result" => (results, sentinel) = (results + 1, None),
            "subscribed" => {
                assert!(results > 0, "the result comes first");
                sentinel = Some(nobody.create("Note", json!({})).await);
            }
            other => panic!("{other} was not expected"),
        }
    }
    server.assert_well().await;
}

#[tokio::test]
async fn a_removed_field_changes_what_is_found() {
    let server = Server::shared();
    let (nobody, master, class) = (server.nobody(), server.master(), fresh("Note"));
    let id = nobody.create(&class, json!({"room": "lobby", "n": 1})).await;
    let mut lobby = nobody.subscribe(&class, json!({"room": "lobby"})).await;
    let mut ones = nobody.subscribe(&class, json!({"n": 1})).await;
    master.put(&format!("/schemas/{class}"), json!({"fields": {"room": {"__op": "Delete"}}})).await.ok();
    let told = lobby.answer().await;
    assert_eq!(told["op"], "result", "{told}");
    assert_eq!(lobby.answer().await["op"], "subscribed");
    // From MongoDB's documents the values go behind the column: who still found one is told when it goes.
    if on_mongodb() && told["results"] != json!([]) {
        lobby.expect("leave", &id).await;
    } else {
        assert_eq!(told["results"], json!([]), "{told}");
    }
    // Who did not ask for it goes on.
    nobody.update(&class, &id, json!({"m": 2})).await;
    ones.expect("update", &id).await;
    let id = nobody.create(&class, json!({"room": "lobby"})).await;
    lobby.expect("create", &id).await;
}
