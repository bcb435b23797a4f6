//! One write: what it does, and when it is refused.

use super::*;

pub async fn created_objects_are_found(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Made");
    let json = r#"{"text":"hi","n":1.5,"list":[1,{"a":null}],"at":{"__type":"Date","iso":"2026-01-02T03:04:05.678Z"}}"#;
    let written = done(&*store, create_at(&class, "a", 7, json).with_acl(Acl::default().with("*", true, false))).await;
    assert_eq!(written.before, None);
    let object = get(&*store, &class, "a").await.unwrap();
    assert_eq!(Some(&object), written.after.as_ref());
    assert_eq!((object.created_at, object.fields.to_json()), (millis(7), json.to_owned()));
    assert_eq!(object.acl, Some(Acl::default().with("*", true, false)));
    assert_eq!(find(&*store, &select(&class, r#"{"text":"hi"}"#, "")).await, [object]);
    assert_eq!(get(&*store, &class, "b").await, None);
    assert_eq!(get(&*store, &fresh_class("None"), "a").await, None);
    assert!(find(&*store, &select(&fresh_class("None"), "{}", "")).await.is_empty());
}

pub async fn an_id_is_taken_once(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Taken");
    done(&*store, create(&class, "a", r#"{"n":1}"#)).await;
    assert_eq!(failure(&*store, create(&class, "a", r#"{"n":2}"#)).await, WriteError::Exists);
    assert_eq!(json(&*store, &class, "a").await, r#"{"n":1}"#);
    let both = store.commit(vec![create(&class, "b", "{}"), create(&class, "b", "{}")]).await;
    assert_eq!(both.unwrap_err(), Refused { at: 1, error: WriteError::Exists });
    done(&*store, delete(&class, "a")).await;
    done(&*store, create(&class, "a", r#"{"n":3}"#)).await;
    assert_eq!(json(&*store, &class, "a").await, r#"{"n":3}"#);
    assert_eq!(found(&*store, &select(&class, "{}", "")).await, "a");
}

pub async fn objects_made_at_the_same_time_are_refused_one_by_one(stores: &dyn Stores) {
    const OBJECTS: usize = 300;
    let store = stores.open().await;
    let class = fresh_class("Crowd");
    done(&*store, create(&class, "taken", r#"{"n":-1}"#)).await;
    let commits: Vec<_> = (0..OBJECTS)
        .map(|n| {
            let id = if n % 3 == 0 { "taken".to_owned() } else { format!("o{n}") };
            store.commit(vec![create(&class, &id, &format!(r#"{{"n":{n}}}"#))])
        })
        .collect();
    for (n, commit) in commits.into_iter().enumerate() {
        match (n % 3, commit.await) {
            (0, outcome) => assert_eq!(outcome.unwrap_err(), Refused { at: 0, error: WriteError::Exists }),
            (_, outcome) => {
                let [written] = &*outcome.unwrap() else { panic!("one write, one answer") };
                assert_eq!(written.after.as_ref().unwrap().fields.to_json(), format!(r#"{{"n":{n}}}"#));
                assert_eq!(json(&*store, &class, &format!("o{n}")).await, format!(r#"{{"n":{n}}}"#));
            }
        }
    }
    assert_eq!(find(&*store, &select(&class, "{}", "")).await.len(), 1 + OBJECTS / 3 * 2);
    assert_eq!(json(&*store, &class, "taken").await, r#"{"n":-1}"#);
}

pub async fn operations_apply_to_the_row_as_it_is(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Operations");
    done(&*store, create(&class, "a", r#"{"n":1,"list":[1],"gone":true}"#)).await;
    let operations = r#"{"n":{"__op":"Increment","amount":2},"list":{"__op":"Add","objects":[2]},
        "gone":{"__op":"Delete"},"new":"x"}"#;
    let written = done(&*store, update(&class, "a", operations)).await;
    assert_eq!(written.before.unwrap().fields.to_json(), r#"{"n":1,"list":[1],"gone":true}"#);
    assert_eq!(written.after.unwrap().fields.to_json(), r#"{"n":3,"list":[1,2],"new":"x"}"#);
    assert_eq!(json(&*store, &class, "a").await, r#"{"n":3,"list":[1,2],"new":"x"}"#);
    let misfit = Write { fields: Vec::new(), ..update(&class, "a", r#"{"new":{"__op":"Increment","amount":1}}"#) };
    match failure(&*store, misfit).await {
        WriteError::Rejected(error) => assert_eq!(error.code, Code::IncorrectType),
        other => panic!("{other:?}"),
    }
}

pub async fn updated_at_never_goes_back(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Updated");
    done(&*store, create_at(&class, "a", 5_000, "{}")).await;
    let after = |written: Written| written.after.unwrap().updated_at;
    assert_eq!(after(done(&*store, update_at(&class, "a", 6_000, r#"{"n":1}"#)).await), millis(6_000));
    assert_eq!(after(done(&*store, update_at(&class, "a", 5_500, r#"{"n":2}"#)).await), millis(6_000));
    assert_eq!(get(&*store, &class, "a").await.unwrap().created_at, millis(5_000));
}

pub async fn deleted_objects_are_gone(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Deleted");
    let conversation = r#"{"p":{"__type":"Pointer","className":"C","objectId":"c"}}"#;
    done(&*store, create(&class, "a", conversation)).await;
    done(&*store, create(&class, "b", conversation)).await;
    let written = done(&*store, delete(&class, "a")).await;
    assert_eq!(written.before.unwrap().id, id("a"));
    assert_eq!(written.after, None);
    assert_eq!(get(&*store, &class, "a").await, None);
    for (filter, order) in [("{}", ""), (conversation, ""), (conversation, "-createdAt"), ("{}", "updatedAt")] {
        assert_eq!(found(&*store, &select(&class, filter, order)).await, "b");
    }
    assert_eq!(failure(&*store, delete(&class, "a")).await, WriteError::NotFound);
}

pub async fn writes_to_what_is_not_there_or_not_writable_are_not_found(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Guarded");
    assert_eq!(failure(&*store, update(&class, "a", r#"{"n":1}"#)).await, WriteError::NotFound);
    assert_eq!(failure(&*store, delete(&class, "a")).await, WriteError::NotFound);
    assert!(!store.schemas().contains_key(&class), "an update makes no class");
    let acl = Acl::default().with("alice", true, true).with("*", true, false);
    done(&*store, create(&class, "a", r#"{"n":1}"#).with_acl(acl)).await;
    for stranger in [user("bob"), Principals::ANONYMOUS] {
        let write = update(&class, "a", r#"{"n":2}"#).by(stranger.clone());
        assert_eq!(failure(&*store, write).await, WriteError::NotFound);
        assert_eq!(failure(&*store, delete(&class, "a").by(stranger)).await, WriteError::NotFound);
    }
    for friend in [user("alice"), Principals::MASTER] {
        done(&*store, update(&class, "a", r#"{"n":{"__op":"Increment","amount":1}}"#).by(friend)).await;
    }
    assert_eq!(json(&*store, &class, "a").await, r#"{"n":3}"#);
}

pub async fn an_expectation_must_hold(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Expect");
    done(&*store, create(&class, "a", r#"{"state":"open"}"#)).await;
    let close = || update(&class, "a", r#"{"state":"closed"}"#).expecting(r#"{"state":"open"}"#);
    done(&*store, close()).await;
    assert_eq!(failure(&*store, close()).await, WriteError::Unexpected);
    assert_eq!(failure(&*store, delete(&class, "a").expecting(r#"{"state":"open"}"#)).await, WriteError::Unexpected);
    assert_eq!(failure(&*store, create(&class, "b", "{}").expecting("{}")).await, WriteError::Unexpected);
    done(&*store, delete(&class, "a").expecting(r#"{"state":"closed"}"#)).await;

    // What is expected of another object holds for the whole commit, and changes nothing.
    done(&*store, create(&class, "account", r#"{"state":"open"}"#)).await;
    let expect = |state: &str| Write { action: Action::Expect, ..delete(&class, "account") }.expecting(state);
    let before = store.snapshot().await.unwrap().cursor();
    let both = vec![expect(r#"{"state":"closed"}"#), create(&class, "c", "{}")];
    assert_eq!(store.commit(both).await.unwrap_err(), WriteError::Unexpected.into());
    assert_eq!(get(&*store, &class, "c").await, None);
    if stores.have_one_queue() {
        assert_eq!(store.snapshot().await.unwrap().cursor(), before);
    }
    let both = vec![expect(r#"{"state":"open"}"#), create(&class, "c", "{}")];
    let written = store.commit(both).await.unwrap();
    assert_eq!(written[0].before, written[0].after);
    assert!(get(&*store, &class, "c").await.is_some());
    let absent = Write { action: Action::Expect, ..delete(&class, "absent") };
    assert_eq!(failure(&*store, absent).await, WriteError::NotFound);
}

pub async fn unique_values_ignore_case(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Unique");
    let named = |id: &str, name: &str| create(&class, id, &format!(r#"{{"name":"{name}"}}"#)).unique("name", name);
    done(&*store, named("a", "Alice")).await;
    for taken in ["Alice", "ALICE", "alice"] {
        assert_eq!(failure(&*store, named("b", taken)).await, duplicate("name"));
    }
    done(&*store, named("b", "alice2")).await;
    done(&*store, named("c", "Ärger")).await;
    assert_eq!(failure(&*store, named("d", "äRGER")).await, duplicate("name"));
    let long = "x".repeat(2_000);
    done(&*store, named("e", &format!("{long}1"))).await;
    done(&*store, named("f", &format!("{long}2"))).await;
    assert_eq!(failure(&*store, named("g", &format!("{long}2"))).await, duplicate("name"));
    // Of many at once, one wins.
    let racing = (0..20).map(|n| store.commit(vec![named(&format!("r{n}"), "Racer")]));
    let outcomes = join_all(racing).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
}

pub async fn a_unique_value_is_free_again_after_change_and_delete(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Unique");
    let named = |id: &str, name: &str| create(&class, id, &format!(r#"{{"name":"{name}"}}"#)).unique("name", name);
    let renamed = |id: &str, name: &str| update(&class, id, &format!(r#"{{"name":"{name}"}}"#)).unique("name", name);
    done(&*store, named("a", "Alice")).await;
    done(&*store, renamed("a", "ALICE")).await;
    assert_eq!(failure(&*store, named("b", "alice")).await, duplicate("name"));
    done(&*store, renamed("a", "Alina")).await;
    done(&*store, named("b", "alice")).await;
    assert_eq!(failure(&*store, renamed("a", "Alice")).await, duplicate("name"));
    done(&*store, delete(&class, "b")).await;
    done(&*store, renamed("a", "Alice")).await;
    // Within one commit, a value passes from one to the other.
    let swap = vec![renamed("a", "Someone"), named("c", "Alice")];
    store.commit(swap).await.unwrap();
    let taken = store.commit(vec![renamed("c", "x"), named("d", "SOMEONE")]).await;
    assert_eq!(taken.unwrap_err(), Refused { at: 1, error: duplicate("name") });
    assert_eq!(json(&*store, &class, "c").await, r#"{"name":"Alice"}"#);
    assert_eq!(failure(&*store, named("d", "alice")).await, duplicate("name"));
}

pub async fn uniqueness_knows_objects_from_before_its_first_use(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Unique");
    done(&*store, create(&class, "a", r#"{"code":"One"}"#)).await;
    done(&*store, create(&class, "b", r#"{"code":"Two"}"#)).await;
    let coded = |id: &str, code: &str| create(&class, id, &format!(r#"{{"code":"{code}"}}"#)).unique("code", code);
    assert_eq!(failure(&*store, coded("c", "TWO")).await, duplicate("code"));
    done(&*store, coded("c", "three")).await;
    assert_eq!(failure(&*store, coded("d", "one")).await, duplicate("code"));
}

pub async fn members_join_and_leave(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Owner");
    let relation = ClassName::of_relation("members", &class);
    let write = |action: fn(Membership) -> Action, owner: &str, related: &str| {
        let membership = Membership { owner: ObjectId::new(owner), related: ObjectId::new(related) };
        let id = membership.id();
        let (class, action) = (relation.clone(), action(membership));
        Write { class, id, action, guard: Guard::default(), fields: Vec::new() }
    };
    let of = async |end: &str, id: &str, other: &str| {
        let filter = format!(r#"{{"{end}":"{id}"}}"#);
        let rows = find(&*store, &select(&relation, &filter, "")).await;
        let ids = rows.iter().map(|row| row.field(other).unwrap().as_str().unwrap().to_owned());
        ids.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" ")
    };
    let members = async |owner: &str| of(Membership::OWNER, owner, Membership::RELATED).await;
    // With an owner that comes in the same commit. Ids may be any text.
    let joins = [("a", "x"), ("a", "y"), ("a:", "x"), ("b", "x")].map(|(owner, id)| write(Action::Join, owner, id));
    store.commit([vec![create(&class, "a", "{}")], joins.to_vec()].concat()).await.unwrap();
    done(&*store, write(Action::Join, "a", "x")).await;
    assert_eq!((members("a").await, members("a:").await), ("x y".into(), "x".into()));
    assert_eq!(of(Membership::RELATED, "x", Membership::OWNER).await, "a a: b");
    for _ in 0..2 {
        done(&*store, write(Action::Leave, "a", "x")).await;
    }
    assert_eq!((members("a").await, members("b").await), ("y".into(), "x".into()));
    // Ids have bounds here, too: nothing is made that could not be found again.
    let long = "x".repeat(256);
    for action in [Action::Join as fn(Membership) -> Action, Action::Leave] {
        let refused = store.commit(vec![write(action, "a", &long)]).await.unwrap_err().error;
        assert!(matches!(refused, WriteError::Rejected(error) if error.code == Code::MissingObjectId));
    }
    // A refused owner keeps its members.
    let refused = store.commit(vec![write(Action::Leave, "a", "y"), create(&class, "a", "{}")]).await;
    assert_eq!(refused.unwrap_err(), Refused { at: 1, error: WriteError::Exists });
    assert_eq!(members("a").await, "y");
    // Members go with their column, and with their class.
    let field = [("members", FieldType::Relation(class.clone()))];
    store.edit_schema(edit_fields(&class, &field, &[])).await.unwrap();
    assert_eq!(members("a").await, "y");
    store.edit_schema(edit_fields(&class, &[], &["members"])).await.unwrap();
    assert_eq!(members("a").await, "");
    store.edit_schema(edit_fields(&class, &field, &[])).await.unwrap();
    done(&*store, write(Action::Join, "a", "z")).await;
    assert_eq!(members("a").await, "z");
    done(&*store, delete(&class, "a")).await;
    store.edit_schema(SchemaEdit::Delete(class.clone())).await.unwrap();
    assert_eq!((members("a").await, members("b").await), (String::new(), String::new()));
}
