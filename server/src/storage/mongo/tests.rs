//! The contract of every store, on a replica set of one, or on the one that `TIDINGS_TEST_MONGODB_URL` names; and what
//! only a store has that others write to.

use super::{Mongo, MongoOptions, OpenError, schemas, testing};
use crate::changes::{Change, Committed, ObjectChange, Position, Read};
use crate::permissions::ClassLevelPermissions;
use crate::schema::{ClassSchema, FieldOptions, FieldType, Index, SchemaChanges, SchemaEdit};
use crate::storage::contract::{
    Stores, create, delete, done, find, fresh_class, get, select, storage_contract, update, update_at,
};
use crate::storage::{Action, Answer, Refused, Selection, Storage, Write, WriteError};
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidings_protocol::{Acl, ClassName, Map, Object, Value};

struct Database(String);

impl Stores for Database {
    fn open(&self) -> Answer<Arc<dyn Storage>> {
        let url = self.0.clone();
        Box::pin(async move {
            let store: Arc<dyn Storage> = testing::open(&url).await;
            store
        })
    }

    fn have_one_queue(&self) -> bool {
        false
    }
}

storage_contract!(match testing::url().await {
    Some(url) => Database(url),
    None => return,
});

/// What of the contract holds without a replica set: all that asks neither for commits that are made as a whole, nor for
/// reads of one moment, nor for changes from before the start.
mod standalone {
    use super::*;

    storage_contract! {
        match testing::standalone_url().await {
            Some(url) => Database(url),
            None => return,
        };
        created_objects_are_found
        objects_made_at_the_same_time_are_refused_one_by_one
        operations_apply_to_the_row_as_it_is
        updated_at_never_goes_back
        deleted_objects_are_gone
        writes_to_what_is_not_there_or_not_writable_are_not_found
        an_expectation_must_hold
        unique_values_ignore_case
        uniqueness_knows_objects_from_before_its_first_use
        a_write_sees_the_earlier_ones_of_its_commit
        increments_are_atomic
        commits_take_their_place_when_they_are_called
        writes_bring_their_columns
        a_column_keeps_its_type
        a_failed_write_leaves_no_column
        schema_edits_are_checked
        a_class_with_objects_is_not_deleted
        without_an_order_objects_come_as_they_were_created
        equal_objects_come_by_id
        reads_at_the_same_time_each_find_their_own
        pages_follow_each_other
        readers_see_what_they_may
        what_is_looked_at_is_there
        distinct_values_are_told_once
        distinct_values_may_be_many_and_large_but_not_without_end
        what_is_not_there_is_read_as_of_a_moment
        changes_are_what_was_committed
        changes_hide_internal_fields
        the_tail_follows_the_log
        cursors_grow
        objects_have_a_largest_depth
        ids_of_any_text_work
        the_newest_messages_of_a_conversation_are_read_as_a_page
        filters_mean_what_the_matcher_says
        every_path_finds_the_same
    }
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn writes_are_made_to_the_row_as_it_is() {
        let Some(url) = testing::standalone_url().await else { return };
        let (one, other) = (testing::open(&url).await, testing::open(&url).await);
        let class = fresh_class("Raced");
        done(&*one, create(&class, "a", r#"{"o":{"a":{"b":0}}}"#)).await;
        // Nothing that MongoDB would do by itself as we do.
        let plus = || update(&class, "a", r#"{"o.a.b":{"__op":"Increment","amount":1}}"#);
        let named = |id: String| create(&class, &id, r#"{"name":"Racer"}"#).unique("name", "racer");
        let (mut counted, mut named_alike) = (Vec::new(), Vec::new());
        for n in 0..50 {
            counted.extend([one.commit(vec![plus()]), other.commit(vec![plus()])]);
            named_alike.push(one.commit(vec![named(format!("named{n}"))]));
        }
        for outcome in counted {
            outcome.await.unwrap();
        }
        assert_eq!(get(&*one, &class, "a").await.unwrap().fields.to_json(), r#"{"o":{"a":{"b":100}}}"#);
        let mut winners = 0;
        for outcome in named_alike {
            winners += usize::from(outcome.await.is_ok());
        }
        assert_eq!(winners, 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_was_told_ends_with_the_process() {
        let Some(url) = testing::standalone_url().await else { return };
        let store = testing::open(&url).await;
        let class = fresh_class("Told");
        let written = done(&*store, create(&class, "a", "{}")).await.cursor;
        // The second of two writes is refused; the first one stays, and is told.
        let both = vec![create(&class, "b", r#"{"n":1}"#), create(&class, "a", "{}")];
        assert_eq!(store.commit(both).await.unwrap_err(), Refused { at: 1, error: WriteError::Exists });
        let changes = heard(&store, &class, written.position, 2).await;
        assert_eq!(changes.iter().map(told).collect::<Vec<_>>(), ["class 1", r#"b - {"n":1}"#]);
        store.close().await;
        let store = testing::open(&url).await;
        assert!(get(&*store, &class, "b").await.is_some());
        assert_ne!(store.snapshot().await.unwrap().cursor().timeline, written.timeline);
    }
}

/// Two processes on one database.
async fn two_nodes() -> Option<(Arc<Mongo>, Arc<Mongo>, mongodb::Database)> {
    let url = testing::url().await?;
    let (one, other) = (testing::open(&url).await, testing::open(&url).await);
    let raw = mongodb::Client::with_uri_str(&url).await.unwrap().default_database().unwrap();
    Some((one, other, raw))
}

/// The next changes of a class, once there are as many.
async fn heard(store: &Mongo, class: &ClassName, after: Position, count: usize) -> Vec<Change> {
    let started = Instant::now();
    loop {
        let Read::Changes(changes) = store.tail().read_after(after, 10_000) else { panic!("behind") };
        let of_class = changes.into_iter().map(|committed| committed.change.clone()).filter(|change| match change {
            Change::Object(change) => change.class == *class,
            Change::Schema { class: changed, .. } | Change::Unseen { class: changed, .. } => changed == class,
        });
        let of_class: Vec<_> = of_class.collect();
        if of_class.len() >= count {
            return of_class;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "heard only {of_class:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn told(change: &Change) -> String {
    let image = |image: &Option<Arc<Object>>| image.as_ref().map_or("-".into(), |object| object.fields.to_json());
    match change {
        Change::Object(change) => format!("{} {} {}", change.id, image(&change.before), image(&change.after)),
        Change::Schema { schema, .. } => format!("class {}", schema.as_ref().map_or(0, |schema| schema.fields.len())),
        Change::Unseen { .. } => "unseen".into(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_hears_the_others_writes() {
    let Some((one, other, _)) = two_nodes().await else { return };
    let class = fresh_class("Heard");
    let after = other.tail().position();
    done(&*one, create(&class, "a", r#"{"n":1}"#)).await;
    assert!(get(&*other, &class, "a").await.is_some(), "what one was answered, the other reads");
    done(&*one, update(&class, "a", r#"{"n":2,"s":"x"}"#)).await;
    let cursor = done(&*one, delete(&class, "a")).await.cursor;
    let changes = heard(&other, &class, after, 5).await;
    assert_eq!(
        changes.iter().map(told).collect::<Vec<_>>(),
        ["class 1", r#"a - {"n":1}"#, "class 2", r#"a {"n":1} {"n":2,"s":"x"}"#, r#"a {"n":2,"s":"x"} -"#]
    );
    assert_eq!(other.schemas().get(&class), one.schemas().get(&class));
    // A cursor of one means the same to the other.
    assert_eq!(cursor.timeline, other.snapshot().await.unwrap().cursor().timeline);
    assert!(other.tail().position() >= cursor.position);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_race_agree() {
    let Some((one, other, _)) = two_nodes().await else { return };
    let class = fresh_class("Raced");
    done(&*one, create(&class, "counter", r#"{"n":0,"name":"Me"}"#)).await;
    // Of two types for one column one wins; different columns are both there.
    for round in 0..10 {
        let (number, text) = (format!(r#"{{"x{round}":1,"a{round}":1}}"#), format!(r#"{{"x{round}":"1"}}"#));
        let more = format!(r#"{{"b{round}":1}}"#);
        let ids = ["p", "q", "r"].map(|id| format!("{id}{round}"));
        let outcomes = [
            one.commit(vec![create(&class, &ids[0], &number)]),
            other.commit(vec![create(&class, &ids[1], &text)]),
            other.commit(vec![create(&class, &ids[2], &more)]),
        ];
        let [first, second, third] = outcomes;
        let (first, second, third) = (first.await, second.await, third.await);
        assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
        third.unwrap();
        let schema = [&one, &other].map(|store| store.schemas()[&class].field_type(&format!("b{round}")));
        assert!(schema.contains(&Some(FieldType::Number)));
    }
    let plus = || update(&class, "counter", r#"{"n":{"__op":"Increment","amount":1}}"#);
    let named = |id: String| create(&class, &id, r#"{"name":"Racer"}"#).unique("name", "racer");
    let (mut counted, mut signed_up) = (Vec::new(), Vec::new());
    for n in 0..50 {
        for (name, store) in [("one", &one), ("other", &other)] {
            counted.push(store.commit(vec![plus()]));
            // In a transaction, too.
            counted.push(store.commit(vec![plus(), create(&class, &format!("{name}{n}"), "{}")]));
            if n < 10 {
                signed_up.push(store.commit(vec![named(format!("{name}-named{n}"))]));
            }
        }
    }
    for outcome in counted {
        outcome.await.unwrap();
    }
    assert_eq!(get(&*one, &class, "counter").await.unwrap().fields.get("n"), Some(&Value::Number(200.0)));
    let mut winners = 0;
    for outcome in signed_up {
        winners += usize::from(outcome.await.is_ok());
    }
    assert_eq!(winners, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_expected_holds_until_the_commit() {
    let Some((one, other, raw)) = two_nodes().await else { return };
    let class = fresh_class("Account");
    done(&*one, create(&class, "first", r#"{"state":"open"}"#)).await;
    let state = doc! { "_id": "first" };
    let stored = raw.collection::<Document>(&class).find_one(state.clone()).await.unwrap();
    let expect = |id: &str| Write { action: Action::Expect, ..delete(&class, id) }.expecting(r#"{"state":"open"}"#);
    let after = other.tail().position();
    one.commit(vec![expect("first"), create(&class, "beside", "{}")]).await.unwrap();
    assert_eq!(raw.collection::<Document>(&class).find_one(state).await.unwrap(), stored);
    let changes = heard(&other, &class, after, 1).await;
    assert_eq!(changes.iter().map(told).collect::<Vec<_>>(), ["beside - {}"], "nothing happened to the other");
    for n in 0..40 {
        let account = format!("account{n}");
        done(&*one, create(&class, &account, r#"{"state":"open"}"#)).await;
        let used = one.commit(vec![expect(&account), create(&class, &format!("used{n}"), "{}")]);
        let closed = other.commit(vec![update(&class, &account, r#"{"state":"closed"}"#)]);
        let (used, closed) = tokio::join!(used, closed);
        let closed = closed.unwrap()[0].cursor.position;
        match used {
            Ok(used) => assert!(used[0].cursor.position < closed, "it was used when it had been closed"),
            Err(refused) => assert_eq!(refused.error, WriteError::Unexpected),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_of_another_program_are_served_and_heard() {
    let Some(url) = testing::url().await else { return };
    let raw = mongodb::Client::with_uri_str(&url).await.unwrap().default_database().unwrap();
    let row = doc! {
        "_id": "Post", "objectId": "string", "createdAt": "string", "updatedAt": "string",
        "text": "string", "author": "*_User", "place": "geopoint", "picture": "file",
    };
    raw.collection(schemas::COLLECTION).insert_one(row).await.unwrap();
    let posts = raw.collection::<Document>("Post");
    let at = mongodb::bson::DateTime::from_millis(1_000);
    let post = doc! {
        "_id": "one", "text": "hi", "_p_author": "_User$u1", "place": [2.5, 1.0], "picture": "a.png",
        "_rperm": ["u1"], "_wperm": ["u1"], "_acl": { "u1": { "r": true, "w": true } },
        "_created_at": at, "_updated_at": at,
    };
    posts.insert_one(post).await.unwrap();

    let store = testing::open(&url).await;
    let class = ClassName::from_trusted("Post");
    let author = r#"{"author":{"__type":"Pointer","className":"_User","objectId":"u1"}}"#;
    let found = find(&*store, &select(&class, author, "")).await;
    assert_eq!(
        found[0].fields.to_json(),
        r#"{"text":"hi","author":{"__type":"Pointer","className":"_User","objectId":"u1"},"place":{"__type":"GeoPoint","latitude":1,"longitude":2.5},"picture":{"__type":"File","name":"a.png"}}"#
    );
    assert_eq!(found[0].acl, Some(Acl::default().with("u1", true, true)));
    let after = store.tail().position();
    posts.update_one(doc! { "_id": "one" }, doc! { "$set": { "text": "ho" } }).await.unwrap();
    posts.delete_one(doc! { "_id": "one" }).await.unwrap();
    let changes = heard(&store, &class, after, 2).await;
    let Change::Object(ObjectChange { before: Some(before), after: Some(after), .. }) = &changes[0] else {
        panic!("{changes:?}");
    };
    assert_eq!((before, after.fields.get("text")), (&found[0], Some(&Value::from("ho"))));

    // And what we write has the other's form.
    let mut write = create(&class, "two", r#"{"text":"by us"}"#);
    if let Action::Create(object) = &mut write.action {
        object.acl = Some(Acl::default().with("*", true, false));
    }
    done(&*store, write).await;
    done(&*store, update_at(&class, "two", 3_000, author)).await;
    let stored = posts.find_one(doc! { "_id": "two" }).await.unwrap().unwrap();
    let expected = doc! {
        "_id": "two", "_created_at": at, "_updated_at": mongodb::bson::DateTime::from_millis(3_000),
        "_rperm": ["*"], "_wperm": [], "_acl": { "*": { "r": true } }, "text": "by us", "_p_author": "_User$u1",
    };
    assert_eq!(stored, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_without_its_images_is_unseen() {
    let Some((store, _, raw)) = two_nodes().await else { return };
    let class = fresh_class("Plain");
    let after = store.tail().position();
    // A collection that another program made after we had opened.
    let objects = raw.collection::<Document>(&class);
    objects.insert_one(doc! { "_id": "a", "n": 1 }).await.unwrap();
    objects.update_one(doc! { "_id": "a" }, doc! { "$set": { "n": 2 } }).await.unwrap();
    let changes = heard(&store, &class, after, 2).await;
    assert_eq!(changes.iter().map(told).collect::<Vec<_>>(), [r#"a - {"n":1}"#, "unseen"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classes_that_others_make_are_told_with_images() {
    let Some((store, _, raw)) = two_nodes().await else { return };
    let class = fresh_class("Adopted");
    let after = store.tail().position();
    let row = doc! { "_id": class.as_str(), "objectId": "string", "n": "number" };
    raw.collection(schemas::COLLECTION).insert_one(row).await.unwrap();
    heard(&store, &class, after, 1).await;
    let has_images = async || {
        let found =
            raw.list_collections().filter(doc! { "name": class.as_str() }).await.unwrap().try_next().await.unwrap();
        found.is_some_and(|it| it.options.change_stream_pre_and_post_images.is_some_and(|images| images.enabled))
    };
    let started = Instant::now();
    while !has_images().await {
        assert!(started.elapsed() < Duration::from_secs(20), "the class was not adopted");
    }
    let objects = raw.collection::<Document>(&class);
    objects.insert_one(doc! { "_id": "a", "n": 1 }).await.unwrap();
    objects.update_one(doc! { "_id": "a" }, doc! { "$set": { "n": 2 } }).await.unwrap();
    let changes = heard(&store, &class, after, 3).await;
    assert_eq!(changes.iter().map(told).collect::<Vec<_>>(), ["class 1", r#"a - {"n":1}"#, r#"a {"n":1} {"n":2}"#]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_looks_at_is_not_read() {
    let Some((store, _, _)) = two_nodes().await else { return };
    let class = fresh_class("Columns");
    done(&*store, create(&class, "a", r#"{"n":1,"text":"long","o":{"x":1}}"#)).await;
    for (filter, expected) in [(r#"{"text":"long"}"#, r#"{"n":1}"#), (r#"{"o.x":1}"#, r#"{"n":1,"o":{"x":1}}"#)] {
        let selection = Selection { columns: Some(vec!["n".into()]), ..select(&class, filter, "") };
        assert_eq!(find(&*store, &selection).await[0].fields.to_json(), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_to_be_told_is_unseen() {
    let Some((store, _, raw)) = two_nodes().await else { return };
    let class = fresh_class("Large");
    done(&*store, create(&class, "a", r#"{"text":""}"#)).await;
    let after = store.snapshot().await.unwrap().cursor().position;
    let objects = raw.collection::<Document>(&class);
    for letter in ["x", "y"] {
        let text = letter.repeat(7 << 20);
        objects.update_one(doc! { "_id": "a" }, doc! { "$set": { "text": text } }).await.unwrap();
    }
    let written = done(&*store, create(&class, "b", "{}")).await.cursor;
    let changes = heard(&store, &class, after, 3).await;
    assert!(matches!(changes[1], Change::Unseen { .. }), "it has two large images");
    assert_eq!(told(&changes[2]), "b - {}");
    // The log goes past it, too.
    let (mut at, mut seen) = (after, Vec::new());
    while at < written.position {
        let read = store.change_source().read_after(at, 1).await.unwrap();
        at = read.last().unwrap().position;
        seen.extend(read);
    }
    let unseen = seen.iter().filter(|committed| matches!(committed.change, Change::Unseen { .. }));
    assert!((1..=2).contains(&unseen.count()), "only what is large");
    assert_eq!(seen.last().unwrap().position, written.position);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_database_is_no_end() {
    let Some((store, other, raw)) = two_nodes().await else { return };
    let class = fresh_class("Dropped");
    done(&*store, create(&class, "a", r#"{"n":1}"#)).await;
    let after = store.snapshot().await.unwrap().cursor().position;
    raw.run_command(doc! { "dropDatabase": 1 }).await.unwrap();
    let changes = heard(&store, &class, after, 2).await;
    assert!(changes.iter().any(|change| matches!(change, Change::Unseen { .. })), "{changes:?}");
    assert!(changes.iter().any(|change| matches!(change, Change::Schema { schema: None, .. })), "{changes:?}");
    assert!(!store.schemas().contains_key(&class));
    let written = done(&*store, create(&class, "b", r#"{"n":1}"#)).await;
    done(&*store, update(&class, "b", r#"{"n":2}"#)).await;
    for store in [&store, &other] {
        let changes = heard(store, &class, written.cursor.position - 1, 3).await;
        assert_eq!(told(changes.last().unwrap()), r#"b {"n":1} {"n":2}"#);
    }
    let log = store.change_source().read_after(after, usize::MAX).await.unwrap();
    assert!(log.last().unwrap().position > written.cursor.position, "the log goes past it, too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_put_in_place_of_another_is_heard() {
    let Some((store, other, raw)) = two_nodes().await else { return };
    let class = fresh_class("Replaced");
    done(&*store, create(&class, "a", r#"{"n":1}"#)).await;
    let after = store.snapshot().await.unwrap().cursor().position;
    let spare = raw.collection::<Document>("Spare");
    let names = ["Spare", class.as_str()].map(|name| format!("{}.{name}", raw.name()));
    for (count, n) in [(1, 2), (3, 4)] {
        spare.insert_one(doc! { "_id": "b", "n": n }).await.unwrap();
        if count == 1 {
            let rename = doc! { "renameCollection": &names[0], "to": &names[1], "dropTarget": true };
            raw.client().database("admin").run_command(rename).await.unwrap();
        } else {
            // An aggregation does the same with its result.
            spare.aggregate([doc! { "$out": class.as_str() }]).await.unwrap();
        }
        for node in [&store, &other] {
            let changes = heard(node, &class, after, count).await;
            assert!(matches!(changes[count - 1], Change::Unseen { gone: None, .. }), "{changes:?}");
            assert_eq!(get(&**node, &class, "b").await.unwrap().fields.to_json(), format!(r#"{{"n":{n}}}"#));
        }
        let started = Instant::now();
        while [&store, &other].iter().any(|node| !node.shared.collections.is_ready(&class)) {
            assert!(started.elapsed() < Duration::from_secs(20), "the class was not adopted");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        done(&*store, update(&class, "b", r#"{"n":{"__op":"Increment","amount":1}}"#)).await;
        let changes = heard(&other, &class, after, count + 1).await;
        assert_eq!(told(&changes[count]), format!(r#"b {{"n":{n}}} {{"n":{}}}"#, n + 1));
    }
}

/// The names of a collection's indexes but that of its ids; `None` without a collection.
async fn eventually(what: &str, mut is_there: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_there().await {
        assert!(started.elapsed() < Duration::from_secs(20), "no {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn has_images(raw: &mongodb::Database, name: &str) -> bool {
    let found = raw.list_collections().filter(doc! { "name": name }).await.unwrap();
    let found: Vec<_> = found.try_collect().await.unwrap();
    found.iter().any(super::collections::has_images)
}

async fn indexes(raw: &mongodb::Database, class: &ClassName) -> Option<Vec<String>> {
    raw.list_collections().filter(doc! { "name": class.as_str() }).await.unwrap().try_next().await.unwrap()?;
    let mut names = raw.collection::<Document>(class).list_index_names().await.unwrap();
    names.retain(|name| name != "_id_");
    names.sort();
    Some(names)
}

fn class_of(name: &str, columns: &[(&str, FieldType)]) -> ClassSchema {
    let mut schema = ClassSchema::new(fresh_class(name));
    schema.fields.extend(columns.iter().map(|(name, field_type)| ((*name).into(), field_type.clone())));
    schema
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_come_and_go_with_what_they_are_for() {
    let Some((store, _, raw)) = two_nodes().await else { return };
    let friend = FieldType::Pointer(ClassName::USER);
    let schema = class_of("Indexed", &[("friend", friend.clone()), ("area", FieldType::Polygon)]);
    let class = schema.class.clone();
    store.edit_schema(SchemaEdit::Create(schema)).await.unwrap();
    let automatic = ["_created_at_1", "_p_friend_1__created_at_1", "area_2dsphere"];
    assert_eq!(indexes(&raw, &class).await.unwrap(), automatic);
    // One that is declared takes the place of one that came unasked, as long as it is there.
    let edit = async |changes: SchemaChanges| {
        store.edit_schema(SchemaEdit::Update(class.clone(), changes)).await.unwrap();
        indexes(&raw, &class).await.unwrap()
    };
    let declared = Index::from_map(&Map::from_json(br#"{"createdAt":1}"#).unwrap()).unwrap();
    let add = SchemaChanges { add_indexes: vec![("mine".into(), declared)], ..SchemaChanges::default() };
    assert_eq!(edit(add).await, ["_p_friend_1__created_at_1", "area_2dsphere", "mine"]);
    let remove = SchemaChanges { remove_indexes: vec!["mine".into()], ..SchemaChanges::default() };
    assert_eq!(edit(remove).await, automatic);
    let other = vec![("other".into(), friend, FieldOptions::default())];
    let columns =
        SchemaChanges { add_fields: other, remove_fields: vec!["area".into(), "friend".into()], ..Default::default() };
    assert_eq!(edit(columns).await, ["_created_at_1", "_p_other_1__created_at_1"]);
    // Those of others go with the class, too.
    raw.run_command(doc! { "createIndexes": class.as_str(), "indexes": [{ "key": { "x": 1 }, "name": "x" }] })
        .await
        .unwrap();
    store.edit_schema(SchemaEdit::Delete(class.clone())).await.unwrap();
    assert_eq!(indexes(&raw, &class).await, None);
    assert!(raw.list_collection_names().await.unwrap().iter().all(|name| !name.starts_with("_Tidings:")));
    done(&*store, create(&class, "a", r#"{"area":"text"}"#)).await;
    assert_eq!(indexes(&raw, &class).await.unwrap(), ["_created_at_1"]);
}

/// Who was ended while a class was deleted, and somebody else made it again, has left this behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_put_aside_is_put_back() {
    let Some(url) = testing::url().await else { return };
    let store = testing::open(&url).await;
    let raw = mongodb::Client::with_uri_str(&url).await.unwrap().default_database().unwrap();
    let class = fresh_class("Aside");
    done(&*store, create(&class, "a", "{}")).await;
    let names = [class.as_str(), &format!("_Tidings:{class}")].map(|name| format!("{}.{name}", raw.name()));
    let rename = doc! { "renameCollection": &names[0], "to": &names[1] };
    raw.client().database("admin").run_command(rename).await.unwrap();
    raw.collection::<Document>(&class).insert_one(doc! { "_id": "b" }).await.unwrap();
    let store = testing::open(&url).await;
    assert_eq!(store.snapshot().await.unwrap().count(&select(&class, "{}", "")).await.unwrap(), 2);
    assert!(raw.list_collection_names().await.unwrap().iter().all(|name| !name.starts_with("_Tidings:")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_was_broken_off_is_ended_by_the_next() {
    let Some((store, _, raw)) = two_nodes().await else { return };
    let class = fresh_class("Broken");
    done(&*store, create(&class, "a", "{}")).await;
    // The row goes first.
    raw.collection::<Document>(schemas::COLLECTION).delete_one(doc! { "_id": class.as_str() }).await.unwrap();
    let delete_class = || store.edit_schema(SchemaEdit::Delete(class.clone()));
    let refused = delete_class().await.unwrap_err();
    assert!(matches!(&refused, WriteError::Rejected(error) if error.code.number() == 255), "{refused:?}");
    raw.collection::<Document>(&class).delete_one(doc! { "_id": "a" }).await.unwrap();
    assert!(indexes(&raw, &class).await.is_some());
    delete_class().await.unwrap();
    assert_eq!(indexes(&raw, &class).await, None, "there is no such collection");
    // Broken off later: what was put aside comes back, and members go.
    let (aside, members) = (format!("_Tidings:{class}"), format!("_Join:likes:{class}"));
    raw.collection::<Document>(&aside).insert_one(doc! { "_id": "b" }).await.unwrap();
    raw.collection::<Document>(&members).insert_one(doc! { "owningId": "a", "relatedId": "b" }).await.unwrap();
    delete_class().await.unwrap();
    assert_eq!(raw.collection::<Document>(&class).distinct("_id", doc! {}).await.unwrap(), ["b".into()]);
    assert!(raw.list_collection_names().await.unwrap().iter().all(|name| *name != aside && *name != members));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_cannot_be_made_stops_no_other() {
    let Some((store, _, raw)) = two_nodes().await else { return };
    let class = fresh_class("Crossed");
    done(&*store, create(&class, "a", "{}")).await;
    let crossed = r#"{"area":{"__type":"Polygon","coordinates":[[0,0],[2,2],[0,2],[2,0]]},
        "friend":{"__type":"Pointer","className":"_User","objectId":"u"}}"#;
    done(&*store, update(&class, "a", crossed)).await;
    let has_both = async || indexes(&raw, &class).await.unwrap() == ["_created_at_1", "_p_friend_1__created_at_1"];
    eventually("the other index", has_both).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_that_are_switched_off_are_switched_on_again() {
    let Some(url) = testing::url().await else { return };
    // Another node would do it as soon as it hears of the class.
    let store = testing::open(&url).await;
    let raw = mongodb::Client::with_uri_str(&url).await.unwrap().default_database().unwrap();
    let class = fresh_class("Blinded");
    let written = done(&*store, create(&class, "a", r#"{"n":1}"#)).await;
    let off = doc! { "collMod": class.as_str(), "changeStreamPreAndPostImages": { "enabled": false } };
    raw.run_command(off).await.unwrap();
    done(&*store, update(&class, "a", r#"{"n":2}"#)).await;
    let unseen = Change::Unseen { class: class.clone(), gone: None };
    assert_eq!(heard(&store, &class, written.cursor.position, 1).await, [unseen]);
    eventually("images", async || has_images(&raw, &class).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_may_have_more_columns_than_indexes() {
    let Some((store, _, raw)) = two_nodes().await else { return };
    let names: Vec<String> = (0..70).map(|n| format!("p{n}")).collect();
    let columns: Vec<_> = names.iter().map(|name| (name.as_str(), FieldType::Pointer(ClassName::USER))).collect();
    let (class, rest) = (class_of("Wide", &columns[..20]), &columns[20..]);
    store.edit_schema(SchemaEdit::Create(class.clone())).await.unwrap();
    let add = rest.iter().map(|(name, column)| ((*name).into(), column.clone(), FieldOptions::default())).collect();
    let changes = SchemaChanges { add_fields: add, ..SchemaChanges::default() };
    store.edit_schema(SchemaEdit::Update(class.class.clone(), changes)).await.unwrap();
    assert_eq!(indexes(&raw, &class.class).await.unwrap().len(), 31, "others find room");
    let at_once = class_of("Wide", &columns);
    store.edit_schema(SchemaEdit::Create(at_once.clone())).await.unwrap();
    assert_eq!(indexes(&raw, &at_once.class).await.unwrap().len(), 31);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polygons_that_cross_themselves_are_refused() {
    let Some((store, _, _)) = two_nodes().await else { return };
    let class = fresh_class("Areas");
    let area = |corners: &str| format!(r#"{{"area":{{"__type":"Polygon","coordinates":{corners}}}}}"#);
    let (plain, crossed) = (area("[[0,0],[0,2],[2,2],[2,0]]"), area("[[0,0],[2,2],[0,2],[2,0]]"));
    done(&*store, create(&class, "a", &plain)).await;
    eventually("index of polygons", async || indexes(&store.shared.db, &class).await.unwrap().len() == 2).await;
    for write in [create(&class, "b", &crossed), update(&class, "a", &crossed)] {
        for writes in [vec![write.clone()], vec![write, create(&class, "c", "{}")]] {
            let refused = store.commit(writes).await.unwrap_err();
            assert!(matches!(&refused.error, WriteError::Rejected(error) if error.code.number() == 111), "{refused:?}");
        }
    }
    assert!(get(&*store, &class, "c").await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_no_index_holds_together_are_refused() {
    let Some((store, _, raw)) = two_nodes().await else { return };
    let class = fresh_class("Lists");
    done(&*store, create(&class, "a", r#"{"one":[1],"other":1}"#)).await;
    let both = doc! { "key": { "one": 1, "other": 1 }, "name": "both" };
    raw.run_command(doc! { "createIndexes": class.as_str(), "indexes": [both] }).await.unwrap();
    for write in [create(&class, "b", r#"{"one":[1],"other":[1]}"#), update(&class, "a", r#"{"other":[1]}"#)] {
        let write = Write { fields: Vec::new(), ..write };
        for writes in [vec![write.clone()], vec![write, create(&class, "c", "{}")]] {
            let refused = store.commit(writes).await.unwrap_err();
            assert!(matches!(&refused.error, WriteError::Rejected(error) if error.code.number() == 111), "{refused:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_classes_are_heard_without_images() {
    let Some((store, other, raw)) = two_nodes().await else { return };
    let class = fresh_class("Closing");
    done(&*store, create(&class, "a", r#"{"n":1}"#)).await;
    let change = doc! { "collMod": schemas::COLLECTION, "changeStreamPreAndPostImages": { "enabled": false } };
    raw.run_command(change).await.unwrap();
    let after = store.snapshot().await.unwrap().cursor().position;
    let edit = SchemaChanges { permissions: Some(ClassLevelPermissions::closed()), ..SchemaChanges::default() };
    store.edit_schema(SchemaEdit::Update(class.clone(), edit)).await.unwrap();
    let found = schemas::read(&raw).await.unwrap().remove(&class);
    assert_ne!(found.as_ref().unwrap().permissions, ClassLevelPermissions::public());
    for node in [&store, &other] {
        let changes = heard(node, &class, after, 1).await;
        let Change::Schema { before: Some(before), schema: Some(now), .. } = &changes[0] else { panic!("{changes:?}") };
        assert_eq!(Some(now), found.as_ref());
        assert!(before.fields.is_empty(), "what it was is not known");
        assert_eq!(node.schemas()[&class], *now);
    }
    // A new one has images again, whoever makes it.
    raw.collection::<Document>(schemas::COLLECTION).drop().await.unwrap();
    heard(&other, &class, after, 2).await;
    eventually("images", async || has_images(&raw, schemas::COLLECTION).await).await;
}

/// A moment of minutes ago cannot be read any more, and that is when the last change of a quiet database may have been.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_database_stays_readable() {
    let Some((store, _, raw)) = two_nodes().await else { return };
    let elsewhere = raw.client().database(&format!("{}_beside", raw.name()));
    elsewhere.collection("C").insert_one(doc! { "_id": "a" }).await.unwrap();
    let now = super::feed::newest(&store.shared).await.unwrap();
    let is_new = async || store.snapshot().await.unwrap().cursor().position >= now - 1;
    eventually("read of what is newer than the last change", is_new).await;
    elsewhere.drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transaction_is_heard_whole() {
    let Some((store, other, _)) = two_nodes().await else { return };
    // More than an answer holds, and more than MongoDB tells at first unless it is asked to.
    for (count, bytes) in [(30, 500_000), (1_000, 10)] {
        let class = fresh_class("Bulk");
        done(&*store, create(&class, "first", r#"{"text":""}"#)).await;
        let after = store.snapshot().await.unwrap().cursor().position;
        let text = "x".repeat(bytes);
        let write = |n: usize| create(&class, &format!("o{n}"), &format!(r#"{{"text":"{text}"}}"#));
        let written = store.commit((0..count).map(write).collect()).await.unwrap();
        assert!(written.iter().all(|one| one.cursor == written[0].cursor), "one commit, one position");
        let log = store.change_source().read_after(after, 1).await.unwrap();
        assert_eq!(log.len(), count, "positions are read whole");
        assert!(log.iter().all(|change| change.position == written[0].cursor.position));
        // Whoever reads it, and when: a client may go on from within it at another node.
        let points = |changes: &[Arc<Committed>]| changes.iter().map(|change| change.point()).collect::<Vec<_>>();
        assert!(points(&log).is_sorted_by(|one, next| one < next));
        for node in [&store, &other] {
            assert_eq!(heard(node, &class, after, count).await.len(), count);
            let Read::Changes(tail) = node.tail().read_after(after, count) else { panic!("behind") };
            assert_eq!(points(&tail), points(&log));
        }
    }
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let error = Mongo::open("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=50", MongoOptions::default()).await;
    assert!(matches!(error, Err(OpenError::Database(_))));
    let error = Mongo::open("postgres://x", MongoOptions::default()).await.err().unwrap();
    assert!(error.to_string().contains("--database-url"), "{error}");
}
