//! Who may do what: ACLs, class-level permissions, and fields that are hidden.

use crate::harness::{Client, Server, Value, fresh, json, members};
use std::sync::Arc;

struct Stage {
    server: Arc<Server>,
    class: String,
    master: Client,
    nobody: Client,
    alice: Client,
    bob: Client,
}

impl Stage {
    /// A class with these class-level permissions, and two users.
    async fn with(permissions: Value) -> Self {
        let stage = Self::open().await;
        let fields = json!({"n": {"type": "Number"}, "pin": {"type": "String"}});
        let schema = json!({"fields": fields, "classLevelPermissions": permissions});
        stage.master.post(&format!("/schemas/{}", stage.class), schema).await.ok();
        stage
    }

    async fn open() -> Self {
        let server = Server::shared();
        let (alice, bob) = (server.sign_up("alice").await, server.sign_up("bob").await);
        Self { class: fresh("Guarded"), master: server.master(), nobody: server.nobody(), alice, bob, server }
    }

    fn place(&self, id: &str) -> String {
        format!("/classes/{}/{id}", self.class)
    }

    fn places(&self) -> String {
        format!("/classes/{}", self.class)
    }

    async fn sees(&self, who: &Client, id: &str) -> bool {
        let found = who.find(&self.class, json!({"objectId": id})).await.len();
        let got = who.get(&self.place(id)).await;
        match got.status {
            200 => assert_eq!(found, 1, "find and get agree"),
            _ => {
                got.refused(404, 101);
                assert_eq!(found, 0, "find and get agree");
            }
        }
        found == 1
    }

    /// Whether an update is let through; denied ones look as if there were no object.
    async fn may_write(&self, who: &Client, id: &str) -> bool {
        let answer = who.put(&self.place(id), json!({"n": 2})).await;
        if answer.status != 200 {
            answer.refused(404, 101);
        }
        answer.status == 200
    }
}

// ---- ACLs

#[tokio::test]
async fn no_acl_is_public_and_an_empty_one_is_for_the_master() {
    let stage = Stage::open().await;
    for (acl, is_public) in [
        (None, true),
        (Some(json!(null)), true),
        (Some(json!({})), false),
        (Some(json!("text")), false),
        (Some(json!(5)), false),
        (Some(json!({"*": {}})), false),
        (Some(json!({"*": {"read": false, "write": false}})), false),
    ] {
        let mut fields = json!({"n": 1});
        if let Some(acl) = &acl {
            fields["ACL"] = acl.clone();
        }
        let id = stage.alice.create(&stage.class, fields).await;
        for who in [&stage.nobody, &stage.alice, &stage.bob] {
            assert_eq!(stage.sees(who, &id).await, is_public, "{acl:?}");
            assert_eq!(stage.may_write(who, &id).await, is_public, "{acl:?}");
        }
        assert!(stage.sees(&stage.master, &id).await && stage.may_write(&stage.master, &id).await);
        let stored = stage.master.fetch(&stage.class, &id).await;
        assert_eq!(stored.get("ACL").is_none(), is_public, "a public object shows no ACL: {stored}");
    }
}

#[tokio::test]
async fn rights_are_granted_one_by_one() {
    let stage = Stage::open().await;
    let acl = json!({stage.alice.id(): {"read": true, "write": true}, stage.bob.id(): {"read": true}});
    let id = stage.alice.create(&stage.class, json!({"n": 1, "ACL": acl})).await;
    assert_eq!(stage.alice.fetch(&stage.class, &id).await["ACL"], acl);
    for (who, sees, writes) in [(&stage.bob, true, false), (&stage.nobody, false, false), (&stage.alice, true, true)] {
        assert_eq!((stage.sees(who, &id).await, stage.may_write(who, &id).await), (sees, writes), "{}", who.name);
        let deleted = who.delete(&stage.place(&id)).await;
        if writes {
            deleted.ok();
        } else {
            deleted.refused(404, 101);
        }
    }
    assert_eq!(stage.master.get(&stage.place(&id)).await.status, 404, "who may write may delete");

    let written_only = json!({stage.alice.id(): {"write": true}});
    let id = stage.master.create(&stage.class, json!({"n": 1, "ACL": written_only})).await;
    assert!(!stage.sees(&stage.alice, &id).await, "writing is not reading");
    assert!(stage.may_write(&stage.alice, &id).await, "nor does it need it");

    let by_truth = json!({"*": {"read": "yes"}});
    let id = stage.master.create(&stage.class, json!({"ACL": by_truth})).await;
    assert!(stage.sees(&stage.nobody, &id).await && !stage.may_write(&stage.nobody, &id).await);
}

#[tokio::test]
async fn an_acl_can_be_changed_and_taken_away() {
    let stage = Stage::open().await;
    let id = stage.alice.create(&stage.class, json!({"n": 1})).await;
    let only_alice = json!({stage.alice.id(): {"read": true, "write": true}});
    stage.bob.update(&stage.class, &id, json!({"ACL": only_alice})).await;
    assert!(!stage.sees(&stage.bob, &id).await && stage.sees(&stage.alice, &id).await);
    stage.alice.update(&stage.class, &id, json!({"n": 5})).await;
    assert!(!stage.sees(&stage.bob, &id).await, "an update that does not speak of it keeps it");
    for nothing in [json!(null), json!(false), json!(""), json!(0)] {
        stage.alice.update(&stage.class, &id, json!({"ACL": nothing})).await;
        assert!(!stage.sees(&stage.bob, &id).await, "{nothing} is no ACL, and changes none");
    }
    stage.alice.update(&stage.class, &id, json!({"ACL": {"*": {"read": true, "write": true}}})).await;
    assert!(stage.sees(&stage.nobody, &id).await && stage.may_write(&stage.nobody, &id).await);
    stage.alice.update(&stage.class, &id, json!({"ACL": {"__op": "Delete"}})).await;
    assert!(!stage.sees(&stage.alice, &id).await && stage.sees(&stage.master, &id).await, "deleted is nobody's");
}

#[tokio::test]
async fn what_is_hidden_is_not_counted_and_takes_no_place_on_a_page() {
    let stage = Stage::open().await;
    for n in 0..6 {
        let acl = if n % 2 == 0 { json!({stage.alice.id(): {"read": true}}) } else { json!({"*": {"read": true}}) };
        stage.master.create(&stage.class, json!({"n": n, "ACL": acl})).await;
    }
    let ask = [("order", "n"), ("limit", "3"), ("skip", "1"), ("count", "1")];
    let page = stage.bob.query(&stage.class, &ask).await.ok();
    let numbers: Vec<_> = page["results"].as_array().unwrap().iter().map(|row| row["n"].as_i64().unwrap()).collect();
    assert_eq!((numbers, &page["count"]), (vec![3, 5], &json!(3)));
    let all = stage.alice.query(&stage.class, &ask).await.ok();
    assert_eq!((all["results"].as_array().unwrap().len(), &all["count"]), (3, &json!(6)));
}

// ---- class-level permissions

#[tokio::test]
async fn an_operation_that_is_not_mentioned_is_closed() {
    let stage = Stage::with(json!({"find": {"*": true}, "create": {"*": true}})).await;
    let id = stage.nobody.create(&stage.class, json!({"n": 1})).await;
    assert_eq!(stage.nobody.find(&stage.class, json!({"n": 1})).await.len(), 1);
    stage.nobody.get(&stage.place(&id)).await.refused(400, 119);
    stage.nobody.query(&stage.class, &[("where", &json!({"objectId": id}).to_string())]).await.refused(400, 119);
    stage.nobody.query(&stage.class, &[("limit", "0"), ("count", "1")]).await.refused(400, 119);
    stage.alice.put(&stage.place(&id), json!({"n": 2})).await.refused(400, 119);
    stage.alice.delete(&stage.place(&id)).await.refused(400, 119);
    stage.nobody.post(&stage.places(), json!({"new": "column"})).await.refused(400, 119);
    // The master is asked nothing.
    stage.master.put(&stage.place(&id), json!({"new": "column"})).await.ok();
    stage.master.delete(&stage.place(&id)).await.ok();
}

#[tokio::test]
async fn empty_permissions_close_everything() {
    let stage = Stage::with(json!({})).await;
    let id = stage.master.create(&stage.class, json!({"n": 1})).await;
    stage.alice.get(&stage.places()).await.refused(400, 119);
    stage.alice.get(&stage.place(&id)).await.refused(400, 119);
    stage.alice.post(&stage.places(), json!({"n": 1})).await.refused(400, 119);
    stage.alice.put(&stage.place(&id), json!({"n": 1})).await.refused(400, 119);
    stage.alice.delete(&stage.place(&id)).await.refused(400, 119);
    assert_eq!(stage.master.fetch(&stage.class, &id).await["n"], 1);
}

#[tokio::test]
async fn operations_can_need_a_user_or_a_certain_one() {
    let stage = Stage::open().await;
    let for_users = json!({"requiresAuthentication": true});
    let permissions = json!({
        "find": for_users, "get": for_users, "count": for_users, "create": {stage.alice.id(): true},
        "update": for_users, "delete": {stage.alice.id(): true}, "addField": {},
    });
    let schema = json!({"fields": {"n": {"type": "Number"}}, "classLevelPermissions": permissions});
    stage.master.post(&format!("/schemas/{}", stage.class), schema).await.ok();

    let id = stage.alice.create(&stage.class, json!({"n": 1})).await;
    stage.bob.post(&stage.places(), json!({"n": 1})).await.refused(400, 119);
    stage.nobody.post(&stage.places(), json!({"n": 1})).await.refused(400, 119);
    // Anonymous callers are told that there is nothing.
    stage.nobody.get(&stage.places()).await.refused(404, 101);
    stage.nobody.get(&stage.place(&id)).await.refused(404, 101);
    stage.nobody.query(&stage.class, &[("limit", "0"), ("count", "1")]).await.refused(404, 101);
    stage.nobody.put(&stage.place(&id), json!({"n": 2})).await.refused(404, 101);
    assert!(stage.sees(&stage.bob, &id).await && stage.may_write(&stage.bob, &id).await);
    stage.bob.put(&stage.place(&id), json!({"new": 1})).await.refused(400, 119);
    stage.alice.post(&stage.places(), json!({"n": 1, "new": 1})).await.refused(400, 119);
    stage.bob.delete(&stage.place(&id)).await.refused(400, 119);
    stage.alice.delete(&stage.place(&id)).await.ok();
}

#[tokio::test]
async fn sign_up_can_be_closed() {
    // Class-level permissions of _User are everybody's, so this needs a server of its own.
    let server = crate::harness::Launch::plain().start();
    let permissions = json!({"classLevelPermissions": {"get": {"*": true}, "find": {"*": true}}});
    server.master().put("/schemas/_User", permissions).await.ok();
    let account = json!({"username": "alice", "password": "secret"});
    server.nobody().post("/users", account.clone()).await.refused(400, 119);
    server.master().post("/users", account.clone()).await.created();
    // Whether the name is taken is not told either.
    server.nobody().post("/users", account.clone()).await.refused(400, 119);
    server.nobody().post("/login", account).await.ok();
}

#[tokio::test]
async fn permissions_hold_inside_a_batch_and_for_what_is_included() {
    let stage = Stage::with(json!({"find": {"*": true}, "create": {"*": true}})).await;
    let id = stage.nobody.create(&stage.class, json!({"n": 1})).await;
    let part = |method: &str, path: &str| json!({"method": method, "path": format!("/parse{path}"), "body": {"n": 2}});
    let requests =
        json!([part("PUT", &stage.place(&id)), part("POST", &stage.places()), part("DELETE", &stage.place(&id))]);
    let results = stage.alice.post("/batch", json!({"requests": requests})).await.ok();
    assert_eq!((&results[0]["error"]["code"], &results[2]["error"]["code"]), (&json!(119), &json!(119)), "{results}");
    assert!(results[1]["success"]["objectId"].is_string(), "{results}");

    let book = fresh("Book");
    let fields = json!({"title": "T", "secret": crate::harness::pointer(&stage.class, &id)});
    let of = stage.nobody.create(&book, fields).await;
    let included = stage.alice.get(&format!("/classes/{book}/{of}?include=secret")).await.ok();
    assert_eq!(included.get("secret"), None, "who may not get it does not get it by the way: {included}");
    let included = stage.master.get(&format!("/classes/{book}/{of}?include=secret")).await.ok();
    assert_eq!(included["secret"]["n"], 1);
}

#[tokio::test]
async fn asking_for_nothing_needs_no_permission() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    server.master().post(&format!("/schemas/{class}"), json!({"classLevelPermissions": {}})).await.ok();
    nobody.query(&class, &[]).await.refused(400, 119);
    assert_eq!(nobody.query(&class, &[("limit", "0")]).await.ok(), json!({"results": []}));
    nobody.query(&class, &[("limit", "0"), ("count", "1")]).await.refused(400, 119);
}

#[tokio::test]
async fn what_an_operation_made_of_a_hidden_field_is_told_to_who_sent_it() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let id = nobody.create(&class, json!({"n": 1})).await;
    let open = json!({"*": true});
    let permissions = json!({"get": open, "update": open, "protectedFields": {"*": ["n"]}});
    server.master().put(&format!("/schemas/{class}"), json!({"classLevelPermissions": permissions})).await.ok();
    let updated = nobody.update(&class, &id, json!({"n": {"__op": "Increment", "amount": 2}})).await;
    assert_eq!(updated["n"], 3, "an SDK would keep its own guess");
    assert_eq!(nobody.fetch(&class, &id).await.get("n"), None);
}

// ---- hidden fields

#[tokio::test]
async fn protected_fields_are_shown_to_nobody_of_the_group() {
    let open = json!({"*": true});
    let permissions = json!({
        "find": open, "get": open, "count": open, "create": open, "update": open, "delete": open, "addField": open,
        "protectedFields": {"*": ["pin", "n"], "authenticated": ["pin"]},
    });
    let stage = Stage::with(permissions).await;
    let id = stage.alice.create(&stage.class, json!({"n": 1, "pin": "1234", "open": true})).await;
    let shown = async |who: &Client| {
        let one = who.fetch(&stage.class, &id).await;
        let found = who.find(&stage.class, json!({"open": true})).await;
        assert_eq!(one, found[0], "get and find agree");
        members(&one).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(shown(&stage.nobody).await, ["createdAt", "objectId", "open", "updatedAt"]);
    assert_eq!(shown(&stage.alice).await, ["createdAt", "n", "objectId", "open", "updatedAt"], "what both groups hide");
    assert!(shown(&stage.master).await.contains(&"pin".to_owned()));

    // Nor can they be found out.
    for filter in [
        json!({"pin": "1234"}),
        json!({"pin": {"$regex": "^1"}}),
        json!({"pin": {"$exists": true}}),
        json!({"$or": [{"open": true}, {"pin": {"$gt": "1"}}]}),
        json!({"$nor": [{"$and": [{"pin": {"$in": ["1234"]}}]}]}),
        json!({"pin.0": "1"}),
    ] {
        stage.alice.query(&stage.class, &[("where", &filter.to_string())]).await.refused(400, 119);
        stage
            .alice
            .query(&stage.class, &[("where", &filter.to_string()), ("limit", "0"), ("count", "1")])
            .await
            .refused(400, 119);
    }
    for order in ["pin", "-pin", "open,pin"] {
        stage.alice.query(&stage.class, &[("order", order)]).await.refused(400, 119);
    }
    stage.nobody.query(&stage.class, &[("where", r#"{"n":1}"#)]).await.refused(400, 119);
    let asked = stage.alice.find_by(&stage.class, &[("keys", "pin,open")]).await;
    assert_eq!(asked[0].get("pin"), None, "asking for it by name does not help");
    assert_eq!(stage.master.find(&stage.class, json!({"pin": "1234"})).await.len(), 1);

    // Nor by a live query.
    let mut live = stage.alice.subscribe(&stage.class, json!({"open": true})).await;
    stage.master.update(&stage.class, &id, json!({"pin": "5678", "n": 2})).await;
    let event = live.expect("update", &id).await;
    for image in ["object", "original"] {
        assert_eq!((event[image].get("pin"), event[image]["n"].is_number()), (None, true), "{image}: {event}");
    }
}

#[tokio::test]
async fn an_address_is_hidden_in_every_way() {
    let stage = Stage::open().await;
    // The chat's hooks make profiles readable, the address stays hidden.
    let profile = stage.bob.fetch("_User", stage.alice.id()).await;
    assert_eq!((&profile["username"], profile.get("email")), (&json!(stage.alice.name), None), "{profile}");
    let note = stage.bob.create(&stage.class, json!({"of": stage.alice.pointer()})).await;
    let included = stage.bob.get(&format!("{}?include=of", stage.place(&note))).await.ok();
    assert_eq!((&included["of"]["username"], included["of"].get("email")), (&json!(stage.alice.name), None));
    let own = stage.alice.get(&format!("{}?include=of", stage.place(&note))).await.ok();
    assert!(own["of"]["email"].is_string(), "owners see their own: {own}");

    let filter = json!({"objectId": stage.alice.id()});
    let mut others = stage.bob.subscribe("_User", filter.clone()).await;
    let mut mine = stage.alice.subscribe("_User", filter).await;
    stage.alice.put(&format!("/users/{}", stage.alice.id()), json!({"nick": "Al"})).await.ok();
    let seen = others.expect("update", stage.alice.id()).await;
    for image in ["object", "original"] {
        assert!(seen[image].get("email").is_none() && seen[image]["username"].is_string(), "{seen}");
        assert!(!seen.to_string().contains("_hashed_password"), "{seen}");
    }
    let seen = mine.expect("update", stage.alice.id()).await;
    assert!(seen["object"]["email"].is_string(), "{seen}");
    let results = others.results().await;
    assert!(results[0].get("email").is_none() && results[0]["username"].is_string(), "{results:?}");
    drop(stage.server);
}

#[tokio::test]
async fn a_subscription_does_not_find_out_what_was_hidden_meanwhile() {
    let stage = Stage::open().await;
    let id = stage.nobody.create(&stage.class, json!({"pin": "none", "n": 1})).await;
    let mut probe = stage.alice.subscribe(&stage.class, json!({"$or": [{"pin": {"$regex": "^1"}}, {"n": 7}]})).await;
    let mut of_master = stage.master.subscribe(&stage.class, json!({"pin": {"$regex": "^1"}})).await;
    let open = json!({"*": true});
    let names = ["find", "get", "count", "create", "update", "delete", "addField"];
    let mut permissions: serde_json::Map<_, _> = names.iter().map(|name| ((*name).to_owned(), open.clone())).collect();
    permissions.insert("protectedFields".into(), json!({"*": ["pin"]}));
    let schema = json!({"classLevelPermissions": permissions});
    stage.master.put(&format!("/schemas/{}", stage.class), schema).await.ok();
    stage.master.update(&stage.class, &id, json!({"pin": "1234"})).await;
    of_master.expect("enter", &id).await;
    stage.master.update(&stage.class, &id, json!({"pin": "none"})).await;
    of_master.expect("leave", &id).await;
    // Ended with an error or silent, but not telling.
    let mut other = stage.alice.subscribe(&stage.class, json!({"n": 8})).await;
    let sentinel = stage.nobody.create(&stage.class, json!({"n": 8})).await;
    other.expect("create", &sentinel).await;
    probe.live.send(json!({"op": "unsubscribe", "requestId": 1})).await;
    loop {
        let frame = probe.live.next().await;
        assert!(frame.get("object").is_none(), "{frame}");
        if frame["op"] == "unsubscribed" || frame["code"] == 2 {
            break;
        }
    }
}

#[tokio::test]
async fn a_subscription_to_one_object_is_a_get() {
    let open = json!({"*": true});
    let stage = Stage::with(json!({"find": open, "create": open, "update": open})).await;
    let id = stage.nobody.create(&stage.class, json!({"n": 1})).await;
    let query = |filter: Value| json!({"op": "subscribe", "requestId": 1, "query": {"className": stage.class, "where": filter}});
    let mut live = stage.alice.connect().await;
    live.send(query(json!({"objectId": id}))).await;
    live.expect_error(119).await;
    live.send(query(json!({"n": {"$gt": 0}}))).await;
    assert_eq!(live.answer().await["op"], "subscribed");
    let mut of_master = stage.master.subscribe(&stage.class, json!({"objectId": id})).await;
    stage.nobody.update(&stage.class, &id, json!({"n": 2})).await;
    live.expect(1, "update", &id).await;
    of_master.expect("update", &id).await;
}
