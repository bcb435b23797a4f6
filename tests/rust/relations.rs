//! Relations: members beside the object, changed with it and asked about by it.

use crate::harness::{Client, Launch, Server, Value, fresh, id_of, json, pointer};
use std::collections::BTreeSet;

/// A post and three readers, of classes that no other test uses.
struct Story {
    nobody: Client,
    posts: String,
    post: String,
    readers: String,
    ids: [String; 3],
}

impl Story {
    async fn begin(server: &Server) -> Self {
        let nobody = server.nobody();
        let (posts, readers) = (fresh("Post"), fresh("Reader"));
        let mut ids = Vec::new();
        for n in 0..3 {
            ids.push(nobody.create(&readers, json!({"n": n})).await);
        }
        let post = nobody.create(&posts, json!({"title": "Hello"})).await;
        Self { nobody, posts, post, readers, ids: ids.try_into().unwrap() }
    }

    fn members(&self, operation: &str, of: &[usize]) -> Value {
        let objects: Vec<_> = of.iter().map(|n| pointer(&self.readers, &self.ids[*n])).collect();
        json!({"likes": {"__op": operation, "objects": objects}})
    }

    async fn change(&self, operation: &str, of: &[usize]) {
        self.nobody.update(&self.posts, &self.post, self.members(operation, of)).await;
    }

    fn related(&self) -> Value {
        json!({"$relatedTo": {"object": pointer(&self.posts, &self.post), "key": "likes"}})
    }

    /// Who likes the post, as numbers.
    async fn likes(&self, who: &Client) -> BTreeSet<i64> {
        let found = who.find(&self.readers, self.related()).await;
        found.iter().map(|reader| reader["n"].as_i64().unwrap()).collect()
    }
}

#[tokio::test]
async fn every_object_of_the_class_shows_the_relation() {
    let server = Server::shared();
    let story = Story::begin(&server).await;
    let (nobody, comments) = (&story.nobody, fresh("Comment"));
    story.change("AddRelation", &[0]).await;
    let relation = json!({"__type": "Relation", "className": story.readers});
    let bare = nobody.create(&story.posts, json!({})).await;
    assert_eq!(nobody.fetch(&story.posts, &bare).await["likes"], relation);
    nobody.create(&comments, json!({"post": pointer(&story.posts, &bare), "n": 1})).await;
    let included = &nobody.find_by(&comments, &[("include", "post")]).await[0]["post"];
    assert_eq!((&included["objectId"], &included["likes"]), (&json!(bare), &relation));
    let chosen = &nobody.find_by(&comments, &[("include", "post"), ("keys", "post.title")]).await[0]["post"];
    assert_eq!((&chosen["objectId"], chosen.get("likes")), (&json!(bare), None));
}

#[tokio::test]
async fn members_come_and_go() {
    let server = Server::shared();
    let story = Story::begin(&server).await;
    let nobody = &story.nobody;
    story.change("AddRelation", &[0, 1]).await;
    story.change("AddRelation", &[1, 2]).await;
    assert_eq!(story.likes(nobody).await, BTreeSet::from([0, 1, 2]));
    story.change("RemoveRelation", &[0]).await;
    story.change("RemoveRelation", &[0]).await;
    assert_eq!(story.likes(nobody).await, BTreeSet::from([1, 2]));
    // As the SDK sends what was added and removed before one save.
    let both = ["AddRelation", "RemoveRelation"].map(|name| {
        let of = if name == "AddRelation" { [0] } else { [1] };
        story.members(name, &of)["likes"].clone()
    });
    nobody.update(&story.posts, &story.post, json!({"likes": {"__op": "Batch", "ops": both}})).await;
    assert_eq!(story.likes(nobody).await, BTreeSet::from([0, 2]));

    // The column is on every object, also on those that have no members and those from before it.
    let other = nobody.create(&story.posts, json!({})).await;
    for id in [&story.post, &other] {
        let shown = nobody.fetch(&story.posts, id).await;
        assert_eq!(shown["likes"], json!({"__type": "Relation", "className": story.readers}), "{shown}");
    }
    let keys = nobody.find_by(&story.posts, &[("keys", "title")]).await;
    assert!(keys.iter().all(|post| post.get("likes").is_none()), "{keys:?}");
    // With a create, too.
    let mut fields = story.members("AddRelation", &[1]);
    fields["title"] = "Second".into();
    let second = Story { post: nobody.create(&story.posts, fields).await, ..story };
    assert_eq!(second.likes(&second.nobody).await, BTreeSet::from([1]));
}

#[tokio::test]
async fn members_are_found_counted_ordered_and_narrowed() {
    let server = Server::shared();
    let story = Story::begin(&server).await;
    let nobody = &story.nobody;
    story.change("AddRelation", &[0, 1, 2]).await;
    let narrowed = json!({"n": {"$gte": 1}, "$relatedTo": story.related()["$relatedTo"]}).to_string();
    let parameters = [("where", &*narrowed), ("order", "-n"), ("limit", "1"), ("count", "1")];
    let answer = nobody.query(&story.readers, &parameters).await.ok();
    assert_eq!((&answer["results"][0]["n"], &answer["count"]), (&json!(2), &json!(2)), "{answer}");
    let either = json!({"$or": [story.related(), {"n": 7}]});
    assert_eq!(nobody.find(&story.readers, either).await.len(), 3);
    let neither = json!({"$nor": [story.related()]});
    assert_eq!(nobody.find(&story.readers, neither).await, Vec::<Value>::new());

    // The other way: which posts somebody likes.
    let other = nobody.create(&story.posts, json!({})).await;
    let liked_by = |n: usize| json!({"likes": pointer(&story.readers, &story.ids[n])});
    let ids = |found: Vec<Value>| found.iter().map(id_of).collect::<Vec<_>>();
    assert_eq!(ids(nobody.find(&story.posts, liked_by(1)).await), [story.post.as_str()]);
    let not = json!({"likes": {"$ne": pointer(&story.readers, &story.ids[1])}});
    assert_eq!(ids(nobody.find(&story.posts, not).await), [other.as_str()]);
    let one_of = json!({"likes": {"$in": [pointer(&story.readers, &story.ids[0]), pointer(&story.readers, "none")]}});
    assert_eq!(ids(nobody.find(&story.posts, one_of).await), [story.post.as_str()]);

    // A client that knows only the relation asks for the class of its members.
    let (related, posts) = (story.related().to_string(), format!("/classes/{}", story.posts));
    let query = json!({"_method": "GET", "where": story.related(), "redirectClassNameForKey": "likes"});
    let answer = nobody.post(&posts, query).await.ok();
    assert_eq!(
        (answer["results"].as_array().unwrap().len(), &answer["className"]),
        (3, &json!(story.readers)),
        "{related}"
    );
}

#[tokio::test]
async fn who_may_not_read_the_owner_learns_of_no_members() {
    let server = Server::shared();
    let story = Story::begin(&server).await;
    let (alice, bob) = (server.sign_up("alice").await, server.sign_up("bob").await);
    story.change("AddRelation", &[0]).await;
    let only_alice = json!({"ACL": {alice.id(): {"read": true, "write": true}}});
    story.nobody.update(&story.posts, &story.post, only_alice).await;
    assert_eq!(story.likes(&alice).await, BTreeSet::from([0]));
    assert_eq!(story.likes(&bob).await, BTreeSet::new());
    // Nor does anybody change them who may not write the owner, not even by half.
    let mut fields = story.members("AddRelation", &[1]);
    fields["title"] = "Mine".into();
    bob.put(&format!("/classes/{}/{}", story.posts, story.post), fields).await.refused(404, 101);
    assert_eq!(story.likes(&alice).await, BTreeSet::from([0]));
    // A relation that is hidden tells nothing either.
    let open = json!({"*": true});
    let permissions = json!({"get": open, "find": open, "update": open, "protectedFields": {"*": ["likes"]}});
    let schema = json!({"classLevelPermissions": permissions});
    server.master().put(&format!("/schemas/{}", story.posts), schema).await.ok();
    let related = story.related().to_string();
    alice.query(&story.readers, &[("where", &related)]).await.refused(400, 119);
    assert_eq!(alice.fetch(&story.posts, &story.post).await.get("likes"), None);
    // Members that may not be read are not shown.
    let secret = json!({"ACL": {bob.id(): {"read": true}}});
    story.nobody.update(&story.readers, &story.ids[0], secret).await;
    assert_eq!(server.master().find(&story.readers, story.related()).await.len(), 1);
    server
        .master()
        .put(&format!("/schemas/{}", story.posts), json!({"classLevelPermissions": {"get": open}}))
        .await
        .ok();
    assert_eq!(story.likes(&alice).await, BTreeSet::new());
}

#[tokio::test]
async fn what_is_no_relation_is_refused_and_changes_nothing() {
    let server = Server::shared();
    let story = Story::begin(&server).await;
    let (nobody, path) = (&story.nobody, format!("/classes/{}/{}", story.posts, story.post));
    story.change("AddRelation", &[0]).await;
    let other = json!({"likes": {"__op": "AddRelation", "objects": [pointer("Other", "x")]}});
    nobody.put(&path, other).await.refused(400, 111);
    nobody.put(&path, json!({"likes": 1})).await.refused(400, 111);
    nobody.put(&path, json!({"title": story.members("AddRelation", &[1])["likes"]})).await.refused(400, 111);
    nobody.put(&path, json!({"a.b": story.members("AddRelation", &[1])["likes"]})).await.refused(400, 111);
    // The rows are nobody's to read: to clients there is no such class.
    let rows = format!("/classes/_Join:likes:{}", story.posts);
    for anybody in [nobody, &server.master()] {
        assert_eq!(anybody.get(&rows).await.ok(), json!({"results": []}));
    }
    nobody.post(&rows, json!({"owningId": story.post, "relatedId": story.ids[1]})).await.refused(400, 107);
    let owners = json!({"where": {"likes": pointer(&story.readers, &story.ids[0])}, "className": story.posts});
    let mut live = nobody.connect().await;
    live.send(json!({"op": "subscribe", "requestId": 1, "query": owners})).await;
    live.expect_error(102).await;
    assert_eq!(story.likes(nobody).await, BTreeSet::from([0]));
    // Of nothing there are no members.
    let gone = json!({"$relatedTo": {"object": pointer(&story.posts, "none"), "key": "likes"}});
    assert_eq!(nobody.find(&story.readers, gone).await, Vec::<Value>::new());
    let no_key = json!({"$relatedTo": {"object": pointer(&story.posts, &story.post), "key": "none"}});
    assert_eq!(nobody.find(&story.readers, no_key).await, Vec::<Value>::new());
}

#[tokio::test]
async fn too_much_at_once_is_refused_and_harms_nobody() {
    let server = Server::shared();
    let story = Story::begin(&server).await;
    let (nobody, path) = (&story.nobody, format!("/classes/{}/{}", story.posts, story.post));
    story.change("AddRelation", &[0]).await;
    let add = |ids: Vec<String>| {
        let objects: Vec<_> = ids.iter().map(|id| pointer(&story.readers, id)).collect();
        json!({"likes": {"__op": "AddRelation", "objects": objects}})
    };
    for long in [256, 70_000] {
        nobody.put(&path, add(vec!["x".repeat(long)])).await.refused(400, 104);
    }
    nobody.put(&path, add((0..1_001).map(|n| n.to_string()).collect())).await.refused(400, 107);
    nobody.put(&path, json!({"likes": null})).await.ok();
    let many = vec![story.related(); 200];
    assert_eq!(nobody.find(&story.readers, json!({"$or": many})).await.len(), 1, "asked once");
    let many: Vec<_> = (0..200)
        .map(|n| json!({"$relatedTo": {"object": pointer(&story.posts, &n.to_string()), "key": "likes"}}))
        .collect();
    let body = json!({"_method": "GET", "where": {"$or": many}});
    nobody.post(&format!("/classes/{}", story.readers), body).await.refused(400, 102);
    let long = json!({"$relatedTo": {"object": pointer(&story.posts, &"x".repeat(1_000_000)), "key": "likes"}});
    let body = json!({"_method": "GET", "where": long});
    assert_eq!(nobody.post(&format!("/classes/{}", story.readers), body).await.ok()["results"], json!([]));
    // Nothing else is true of a relation.
    for constraint in [json!({"$exists": true}), json!({"$exists": false}), json!(1)] {
        assert_eq!(nobody.find(&story.posts, json!({"likes": constraint})).await, Vec::<Value>::new());
    }
    assert_eq!(story.likes(nobody).await, BTreeSet::from([0]));
    assert_eq!(nobody.fetch(&story.posts, &story.post).await["likes"]["__type"], "Relation");
}

#[tokio::test]
async fn a_hook_decides_about_members() {
    let script = r#"before_save("Team", |request| {
        if request.object.closed == true { request.object.unset("admins"); }
        if request.object.kept == true { request.object.admins = request.object.admins; }
    });"#;
    let server = Launch::plain().file("cloud-code/main.rhai", script).start();
    let nobody = server.nobody();
    let admin = nobody.create("Admin", json!({})).await;
    let add = json!({"__op": "AddRelation", "objects": [pointer("Admin", &admin)]});
    let admins = async |team: &str| {
        let related = json!({"$relatedTo": {"object": pointer("Team", team), "key": "admins"}});
        nobody.find("Admin", related).await.len()
    };
    let open = nobody.create("Team", json!({"admins": add})).await;
    let closed = nobody.create("Team", json!({"admins": add, "closed": true})).await;
    assert_eq!((admins(&open).await, admins(&closed).await), (1, 0));
    nobody.update("Team", &closed, json!({"admins": add})).await;
    assert_eq!(admins(&closed).await, 0);
    nobody.update("Team", &closed, json!({"admins": add, "closed": false, "kept": true})).await;
    assert_eq!(admins(&closed).await, 1);
}

#[tokio::test]
async fn members_go_with_their_column() {
    let server = Server::shared();
    let story = Story::begin(&server).await;
    story.change("AddRelation", &[0, 1]).await;
    let (master, path) = (server.master(), format!("/schemas/{}", story.posts));
    master.put(&path, json!({"fields": {"likes": {"__op": "Delete"}}})).await.ok();
    assert_eq!(story.nobody.fetch(&story.posts, &story.post).await.get("likes"), None);
    story.change("AddRelation", &[2]).await;
    assert_eq!(story.likes(&story.nobody).await, BTreeSet::from([2]));
    let listed = master.get("/schemas").await.ok().to_string();
    assert!(listed.contains(&story.posts) && !listed.contains("_Join"), "{listed}");
}

#[tokio::test]
async fn a_new_member_is_an_update_of_the_owner() {
    let server = Server::shared();
    let story = Story::begin(&server).await;
    let mut posts = story.nobody.subscribe(&story.posts, json!({})).await;
    story.change("AddRelation", &[0]).await;
    let event = posts.expect("update", &story.post).await;
    assert_eq!(event["object"]["title"], "Hello", "{event}");
}
