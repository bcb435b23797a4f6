//! What every store must do, one behaviour per function, written once and run against each.
//!
//! A store instantiates the suite with [`storage_contract!`], giving a function that makes [`Stores`]. The tests use
//! classes that nobody else uses, so that they can share one database.

use super::{Action, Answer, Guard, Membership, Refused, Selection, Storage, Unique, Write, WriteError, Written};
use crate::changes::{Change, Committed, Cursor, ObjectChange, Position, Read};
use crate::permissions::Principals;
use crate::schema::{ClassSchema, FieldOptions, FieldType, Index, SchemaChanges, SchemaEdit, infer};
use compact_str::{CompactString, format_compact};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidings_protocol::matches::Matcher;
use tidings_protocol::order::write_sort_key;
use tidings_protocol::query::Order;
use tidings_protocol::{Acl, ClassName, Code, Date, Map, Object, ObjectId, Predicate, Update, Value};

/// Where stores under test come from.
pub trait Stores: Send + Sync {
    /// Opens the store; a second time, after it was closed and dropped, the same one.
    fn open(&self) -> Answer<Arc<dyn Storage>>;

    /// Whether every commit passes one queue, because nobody else can write to the store. Such a store keeps more than the
    /// contract: each change has a position of its own, without gaps; whatever is asked finds all earlier calls done, and
    /// a snapshot is of the moment of its call; objects of one millisecond come in the order in which they were made.
    fn have_one_queue(&self) -> bool;
}

/// Makes a test of each behaviour: `storage_contract!(make_stores);`.
macro_rules! storage_contract {
    ($stores:expr) => {
        $crate::storage::contract::storage_contract! { $stores;
            created_objects_are_found
            an_id_is_taken_once
            operations_apply_to_the_row_as_it_is
            updated_at_never_goes_back
            deleted_objects_are_gone
            writes_to_what_is_not_there_or_not_writable_are_not_found
            an_expectation_must_hold
            unique_values_ignore_case
            a_unique_value_is_free_again_after_change_and_delete
            uniqueness_knows_objects_from_before_its_first_use
            members_join_and_leave
            a_commit_is_all_or_nothing
            a_write_sees_the_earlier_ones_of_its_commit
            increments_are_atomic
            a_failed_commit_harms_no_other
            commits_take_their_place_when_they_are_called
            writes_bring_their_columns
            a_column_keeps_its_type
            a_failed_write_leaves_no_column
            schema_edits_are_checked
            a_class_with_objects_is_not_deleted
            a_removed_field_loses_its_values
            without_an_order_objects_come_as_they_were_created
            equal_objects_come_by_id
            reads_at_the_same_time_each_find_their_own
            pages_follow_each_other
            readers_see_what_they_may
            what_is_looked_at_is_there
            counting_agrees_with_finding
            distinct_values_are_told_once
            distinct_values_may_be_many_and_large_but_not_without_end
            a_snapshot_stays_as_it_is
            a_commit_is_seen_whole
            changes_are_what_was_committed
            changes_hide_internal_fields
            the_tail_follows_the_log
            cursors_grow
            objects_have_a_largest_size
            objects_have_a_largest_depth
            ids_of_any_text_work
            the_newest_messages_of_a_conversation_are_read_as_a_page
            filters_mean_what_the_matcher_says
            every_path_finds_the_same
            everything_is_there_after_reopening
        }
    };
    ($stores:expr; $($behaviour:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                let stores = $stores;
                $crate::storage::contract::$behaviour(&stores).await;
            }
        )*
    };
}
pub(crate) use storage_contract;

/// A class that no other test uses.
pub fn fresh_class(name: &str) -> ClassName {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    ClassName::from_trusted(format_compact!("{name}_{next}_{:x}", rand::random::<u32>()))
}

pub fn id(text: &str) -> ObjectId {
    ObjectId::new(text)
}

pub fn fields(json: &str) -> Map {
    Map::from_json(json.as_bytes()).unwrap()
}

pub fn millis(millis: i64) -> Date {
    Date::from_millis(millis).unwrap()
}

/// An object to create, made at `at` milliseconds, with the columns that its fields need.
pub fn create_at(class: &ClassName, id: &str, at: i64, json: &str) -> Write {
    let fields = fields(json);
    let columns = fields.iter().filter_map(|(name, value)| Some((name.clone(), FieldType::of(value)?)));
    Write {
        class: class.clone(),
        id: ObjectId::new(id),
        guard: Guard::default(),
        fields: columns.filter(|(name, _)| !name.starts_with('_')).collect(),
        action: Action::Create(Object {
            id: ObjectId::new(id),
            created_at: millis(at),
            updated_at: millis(at),
            acl: None,
            fields,
        }),
    }
}

pub fn create(class: &ClassName, id: &str, json: &str) -> Write {
    create_at(class, id, 1_000, json)
}

pub fn update_at(class: &ClassName, id: &str, at: i64, json: &str) -> Write {
    let update = Update::from_map(fields(json)).unwrap();
    let columns = update
        .operations
        .iter()
        .filter_map(|(path, operation)| Some((CompactString::from(path.split('.').next()?), infer(path, operation)?)));
    Write {
        class: class.clone(),
        id: ObjectId::new(id),
        guard: Guard::default(),
        fields: columns.collect(),
        action: Action::Update { update, at: millis(at) },
    }
}

pub fn update(class: &ClassName, id: &str, json: &str) -> Write {
    update_at(class, id, 2_000, json)
}

pub fn delete(class: &ClassName, id: &str) -> Write {
    Write {
        class: class.clone(),
        id: ObjectId::new(id),
        guard: Guard::default(),
        fields: Vec::new(),
        action: Action::Delete,
    }
}

impl Write {
    fn with_acl(mut self, acl: Acl) -> Self {
        if let Action::Create(object) = &mut self.action {
            object.acl = Some(acl);
        }
        self
    }

    fn by(mut self, writer: Principals) -> Self {
        self.guard.writer = Some(writer);
        self
    }

    pub fn expecting(mut self, filter: &str) -> Self {
        self.guard.expect = Some(predicate(filter));
        self
    }

    pub fn unique(mut self, field: &str, value: &str) -> Self {
        self.guard.unique.push(Unique { field: field.into(), value: Value::from(value) });
        self
    }
}

pub fn predicate(json: &str) -> Predicate {
    Predicate::from_map(&fields(json)).unwrap()
}

fn user(id: &str) -> Principals {
    Principals::user(ObjectId::new(id))
}

/// One write that must succeed.
#[track_caller]
pub fn done(store: &dyn Storage, write: Write) -> impl Future<Output = Written> + use<> {
    let answer = store.commit(vec![write]);
    async move { answer.await.unwrap().remove(0) }
}

/// Why one write fails.
async fn failure(store: &dyn Storage, write: Write) -> WriteError {
    store.commit(vec![write]).await.unwrap_err().error
}

pub async fn get(store: &dyn Storage, class: &ClassName, id: &str) -> Option<Arc<Object>> {
    store.snapshot().await.unwrap().get(class, &ObjectId::new(id)).await.unwrap()
}

async fn json(store: &dyn Storage, class: &ClassName, id: &str) -> String {
    get(store, class, id).await.map_or("none".into(), |object| object.fields.to_json())
}

/// A selection by the master key.
pub fn select(class: &ClassName, filter: &str, order: &str) -> Selection {
    let order = if order.is_empty() { Vec::new() } else { Order::parse(&Value::from(order)).unwrap() };
    Selection { predicate: predicate(filter), order, ..Selection::all(class.clone(), Principals::MASTER) }
}

pub async fn find(store: &dyn Storage, selection: &Selection) -> Vec<Arc<Object>> {
    store.snapshot().await.unwrap().find(selection).await.unwrap()
}

/// The ids that a selection finds, joined by spaces.
async fn found(store: &dyn Storage, selection: &Selection) -> String {
    ids(&find(store, selection).await)
}

fn ids(objects: &[Arc<Object>]) -> String {
    objects.iter().map(|object| object.id.as_str()).collect::<Vec<_>>().join(" ")
}

/// The changes of one class after a position, from the log.
async fn changes_of(store: &dyn Storage, class: &ClassName, mut after: Position) -> Vec<Arc<Committed>> {
    let source = store.change_source();
    let mut changes = Vec::new();
    loop {
        // Small reads, so that going on from where one ended is tested along.
        let read = source.read_after(after, 1_000).await.unwrap();
        let Some(last) = read.last() else { return changes };
        after = last.position;
        changes.extend(read.into_iter().filter(|change| match &change.change {
            Change::Object(change) => change.class == *class,
            Change::Schema { class: changed, .. } | Change::Unseen { class: changed, .. } => changed == class,
        }));
    }
}

async fn position(store: &dyn Storage) -> Position {
    store.snapshot().await.unwrap().cursor().position
}

fn object_change(change: &Committed) -> Option<&ObjectChange> {
    match &change.change {
        Change::Object(change) => Some(change),
        Change::Schema { .. } | Change::Unseen { .. } => None,
    }
}

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
    assert_eq!(store.snapshot().await.unwrap().cursor(), before);
    let both = vec![expect(r#"{"state":"open"}"#), create(&class, "c", "{}")];
    let written = store.commit(both).await.unwrap();
    assert_eq!(written[0].before, written[0].after);
    assert!(get(&*store, &class, "c").await.is_some());
    let absent = Write { action: Action::Expect, ..delete(&class, "absent") };
    assert_eq!(failure(&*store, absent).await, WriteError::NotFound);
}

fn duplicate(field: &str) -> WriteError {
    WriteError::Duplicate { field: field.into() }
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

pub async fn a_commit_is_all_or_nothing(stores: &dyn Stores) {
    let store = stores.open().await;
    let (class, other) = (fresh_class("Atomic"), fresh_class("Atomic"));
    done(&*store, create(&class, "a", r#"{"n":1}"#)).await;
    let before = position(&*store).await;
    let writes = vec![
        create(&other, "x", r#"{"n":1}"#),
        update(&class, "a", r#"{"n":2,"new":true}"#),
        delete(&class, "a"),
        update(&class, "missing", "{}"),
    ];
    assert_eq!(store.commit(writes).await.unwrap_err(), Refused { at: 3, error: WriteError::NotFound });
    assert_eq!(json(&*store, &class, "a").await, r#"{"n":1}"#);
    assert!(!store.schemas().contains_key(&other));
    assert!(!store.schemas()[&class].fields.contains_key("new"));
    assert!(changes_of(&*store, &class, before).await.is_empty());
    let written = store.commit(vec![update(&class, "a", r#"{"n":2}"#), create(&class, "b", "{}")]).await.unwrap();
    let [first, second] = [0, 1].map(|at| written[at].cursor.position);
    assert!(if stores.have_one_queue() { first + 1 == second } else { first <= second });
    assert!(store.commit(Vec::new()).await.unwrap().is_empty());
}

pub async fn a_write_sees_the_earlier_ones_of_its_commit(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Overlay");
    let plus = |n: i32| update(&class, "a", &format!(r#"{{"n":{{"__op":"Increment","amount":{n}}}}}"#));
    let writes = vec![create(&class, "a", r#"{"n":1}"#), plus(1), plus(2)];
    let written = store.commit(writes).await.unwrap();
    assert_eq!(written[2].before, written[1].after);
    assert_eq!(json(&*store, &class, "a").await, r#"{"n":4}"#);
    let writes = vec![delete(&class, "a"), create_at(&class, "a", 9_000, r#"{"n":7}"#), plus(1)];
    store.commit(writes).await.unwrap();
    assert_eq!(json(&*store, &class, "a").await, r#"{"n":8}"#);
    assert_eq!(found(&*store, &select(&class, "{}", "createdAt")).await, "a");
    store.commit(vec![create(&class, "b", "{}"), delete(&class, "b")]).await.unwrap();
    assert_eq!(get(&*store, &class, "b").await, None);
    assert_eq!(found(&*store, &select(&class, "{}", "")).await, "a");
}

pub async fn increments_are_atomic(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Counter");
    done(&*store, create(&class, "a", r#"{"n":0}"#)).await;
    let tasks = (0..64).map(|_| {
        let (store, class) = (store.clone(), class.clone());
        tokio::spawn(async move {
            for _ in 0..100 {
                done(&*store, update(&class, "a", r#"{"n":{"__op":"Increment","amount":1}}"#)).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(json(&*store, &class, "a").await, r#"{"n":6400}"#);
}

pub async fn a_failed_commit_harms_no_other(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Group");
    done(&*store, create(&class, "taken", "{}")).await;
    let commits = (0..200).map(|n| match n % 3 {
        0 => store.commit(vec![create(&class, &format!("o{n}"), r#"{"n":1}"#)]),
        1 => store.commit(vec![create(&class, &format!("o{n}"), r#"{"n":1}"#), create(&class, "taken", "{}")]),
        _ => store.commit(vec![update(&class, "missing", "{}")]),
    });
    let outcomes = join_all(commits).await;
    for (n, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.is_ok(), n % 3 == 0, "{n}: {outcome:?}");
        assert_eq!(get(&*store, &class, &format!("o{n}")).await.is_some(), n % 3 == 0);
    }
    let all = Selection::all(class, Principals::MASTER);
    assert_eq!(store.snapshot().await.unwrap().count(&all).await.unwrap(), 68);
}

pub async fn commits_take_their_place_when_they_are_called(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Calls");
    done(&*store, create(&class, "a", r#"{"list":[]}"#)).await;
    let add = |n: i32| update(&class, "a", &format!(r#"{{"list":{{"__op":"Add","objects":[{n}]}}}}"#));
    let mut answers: Vec<_> = (0..50).map(|n| store.commit(vec![add(n)])).collect();
    // Dropping the answer does not take the commit back.
    drop(answers.remove(20));
    answers.reverse();
    for answer in answers {
        answer.await.unwrap();
    }
    let object = get(&*store, &class, "a").await.unwrap();
    let expected = (0..50).map(|n| Value::Number(f64::from(n))).collect();
    assert_eq!(object.fields.get("list"), Some(&Value::Array(expected)));
}

pub async fn writes_bring_their_columns(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Columns");
    let before = position(&*store).await;
    done(&*store, create(&class, "a", r#"{"n":1}"#)).await;
    done(&*store, update(&class, "a", r#"{"s":"x"}"#)).await;
    done(&*store, update(&class, "a", r#"{"s":"y"}"#)).await;
    let schema = store.schemas()[&class].clone();
    assert_eq!(schema.field_type("n"), Some(FieldType::Number));
    assert_eq!(schema.field_type("s"), Some(FieldType::String));
    let changes = changes_of(&*store, &class, before).await;
    let kinds: Vec<_> = changes.iter().map(|change| object_change(change).is_some()).collect();
    assert_eq!(kinds, [false, true, false, true, true], "a new column is a change of its own, before its object's");
    match &changes[2].change {
        Change::Schema { schema: changed, .. } => assert_eq!(changed.as_ref(), Some(&schema)),
        Change::Object(_) | Change::Unseen { .. } => panic!(),
    }
}

pub async fn a_column_keeps_its_type(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Types");
    done(&*store, create(&class, "a", r#"{"n":1}"#)).await;
    for write in [create(&class, "b", r#"{"n":"text"}"#), update(&class, "a", r#"{"n":true}"#)] {
        match failure(&*store, write).await {
            WriteError::Rejected(error) => assert_eq!(error.code, Code::IncorrectType),
            other => panic!("{other:?}"),
        }
    }
    // Of two that come at once with different types, the first fixes it.
    let (number, text) = (create(&class, "c", r#"{"x":1}"#), create(&class, "d", r#"{"x":"1"}"#));
    let (first, second) = (store.commit(vec![number]), store.commit(vec![text]));
    assert!(first.await.is_ok());
    assert!(matches!(second.await, Err(Refused { error: WriteError::Rejected(_), .. })));
}

pub async fn a_failed_write_leaves_no_column(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Columns");
    done(&*store, create(&class, "a", "{}")).await;
    assert_eq!(failure(&*store, create(&class, "a", r#"{"n":1}"#)).await, WriteError::Exists);
    assert_eq!(failure(&*store, update(&class, "b", r#"{"n":1}"#)).await, WriteError::NotFound);
    assert_eq!(store.schemas()[&class].field_type("n"), None);
    done(&*store, update(&class, "a", r#"{"n":"text"}"#)).await;
}

/// An edit that adds and removes fields.
pub fn edit_fields(class: &ClassName, add: &[(&str, FieldType)], remove: &[&str]) -> SchemaEdit {
    let add = add.iter().map(|(name, field_type)| ((*name).into(), field_type.clone(), FieldOptions::default()));
    let remove_fields = remove.iter().map(|name| (*name).into()).collect();
    let changes = SchemaChanges { add_fields: add.collect(), remove_fields, ..SchemaChanges::default() };
    SchemaEdit::Update(class.clone(), changes)
}

/// An edit that adds an index, or with an empty text removes it.
pub fn edit_index(class: &ClassName, name: &str, json: &str) -> SchemaEdit {
    let mut changes = SchemaChanges::default();
    match json {
        "" => changes.remove_indexes.push(name.into()),
        json => changes.add_indexes.push((name.into(), Index::from_map(&fields(json)).unwrap())),
    }
    SchemaEdit::Update(class.clone(), changes)
}

#[track_caller]
fn rejected<T: std::fmt::Debug>(outcome: Result<T, impl Into<Refused>>) -> i32 {
    match outcome.map_err(Into::into) {
        Err(Refused { error: WriteError::Rejected(error), .. }) => error.code.number(),
        other => panic!("{other:?}"),
    }
}

pub async fn schema_edits_are_checked(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Edited");
    let before = position(&*store).await;
    assert_eq!(rejected(store.edit_schema(edit_fields(&class, &[("n", FieldType::Number)], &[])).await), 103);
    let made = store.edit_schema(SchemaEdit::Create(ClassSchema::new(class.clone()))).await.unwrap().unwrap();
    assert_eq!(made.class, class);
    assert_eq!(rejected(store.edit_schema(SchemaEdit::Create(ClassSchema::new(class.clone()))).await), 103);
    let edited = store.edit_schema(edit_fields(&class, &[("n", FieldType::Number)], &[])).await.unwrap().unwrap();
    assert_eq!(edited.field_type("n"), Some(FieldType::Number));
    assert_eq!(store.schemas()[&class], edited);
    let again = store.edit_schema(edit_fields(&class, &[("n", FieldType::Number)], &[])).await.unwrap().unwrap();
    assert_eq!(again, edited, "it is there already");
    assert_eq!(rejected(store.edit_schema(edit_fields(&class, &[("n", FieldType::String)], &[])).await), 255);
    assert_eq!(rejected(store.edit_schema(edit_fields(&class, &[], &["x"])).await), 255);
    assert_eq!(store.edit_schema(SchemaEdit::Delete(class.clone())).await.unwrap(), None);
    assert_eq!(store.edit_schema(SchemaEdit::Delete(class.clone())).await.unwrap(), None, "gone is gone");
    assert!(!store.schemas().contains_key(&class));
    let changes = changes_of(&*store, &class, before).await;
    let schemas: Vec<_> = changes
        .iter()
        .map(|change| match &change.change {
            Change::Schema { schema, .. } => schema.clone(),
            Change::Object(_) | Change::Unseen { .. } => panic!(),
        })
        .collect();
    assert_eq!(schemas, [Some(made), Some(edited), None]);
}

pub async fn a_class_with_objects_is_not_deleted(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Full");
    done(&*store, create(&class, "a", r#"{"n":1}"#)).await;
    done(&*store, create(&class, "b", r#"{"n":1}"#)).await;
    match store.edit_schema(SchemaEdit::Delete(class.clone())).await {
        Err(WriteError::Rejected(error)) => {
            let message = format!("Class {class} is not empty, contains 2 objects, cannot drop schema.");
            assert_eq!((error.code.number(), error.message.as_ref()), (255, message.as_str()));
        }
        other => panic!("{other:?}"),
    }
    store.commit(vec![delete(&class, "a"), delete(&class, "b")]).await.unwrap();
    store.edit_schema(SchemaEdit::Delete(class.clone())).await.unwrap();
    // A class of the same name is another class.
    done(&*store, create(&class, "c", r#"{"n":"text"}"#)).await;
    assert_eq!(found(&*store, &select(&class, "{}", "-createdAt")).await, "c");
}

pub async fn a_removed_field_loses_its_values(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Removed");
    let commits = (0..1_200).map(|n| {
        let json = format!(
            r#"{{"n":{n},"keep":{n},"p":{{"__type":"Pointer","className":"C","objectId":"c"}},"_internal":1}}"#
        );
        store.commit(vec![create(&class, &format!("o{n:04}"), &json)])
    });
    in_order(stores, commits).await;
    done(&*store, update(&class, "o0001", r#"{"n":1}"#)).await;
    let held = store.snapshot().await.unwrap();
    if !stores.have_one_queue() {
        held.cursor();
    }
    store.edit_schema(edit_fields(&class, &[], &["n", "p"])).await.unwrap();
    let pointer = r#"{"p":{"__type":"Pointer","className":"C","objectId":"c"}}"#;
    assert_eq!(json(&*store, &class, "o0001").await, r#"{"keep":1,"_internal":1}"#);
    assert_eq!(found(&*store, &select(&class, pointer, "")).await, "");
    // Back again, with other types: no old value shows, neither in objects nor through an index.
    let back = [("n", FieldType::String), ("p", FieldType::Date)];
    store.edit_schema(edit_fields(&class, &back, &[])).await.unwrap();
    done(&*store, update(&class, "o0002", r#"{"n":"two","p":{"__type":"Date","iso":"2026-01-01T00:00:00.000Z"}}"#))
        .await;
    for _ in 0..50 {
        assert_eq!(found(&*store, &select(&class, r#"{"n":{"$exists":true}}"#, "")).await, "o0002");
        assert_eq!(found(&*store, &select(&class, r#"{"n":3}"#, "")).await, "");
        assert_eq!(found(&*store, &select(&class, pointer, "-createdAt")).await, "");
        let dated = r#"{"p":{"$gt":{"__type":"Date","iso":"2025-01-01T00:00:00.000Z"}}}"#;
        assert_eq!(found(&*store, &select(&class, dated, "p")).await, "o0002");
        let written = done(&*store, update(&class, "o0003", r#"{"keep":{"__op":"Increment","amount":1}}"#)).await;
        assert!(!written.before.unwrap().fields.contains("n"));
    }
    // Who looked before goes on seeing what was there.
    let first = held.get(&class, &id("o0005")).await.unwrap().unwrap();
    assert_eq!(first.fields.get("n"), Some(&Value::Number(5.0)));
    assert_eq!(held.find(&select(&class, r#"{"n":7}"#, "")).await.unwrap().len(), 1);
}

pub async fn without_an_order_objects_come_as_they_were_created(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Natural");
    for (at, id) in [(1, "c"), (2, "a"), (3, "d"), (4, "b")] {
        let at = if stores.have_one_queue() { 1 } else { at };
        let json = r#"{"n":1,"p":{"__type":"Pointer","className":"C","objectId":"c"}}"#;
        done(&*store, create_at(&class, id, at, json)).await;
    }
    done(&*store, update(&class, "c", r#"{"n":2}"#)).await;
    assert_eq!(found(&*store, &select(&class, "{}", "")).await, "c a d b");
    let pointer = r#"{"p":{"__type":"Pointer","className":"C","objectId":"c"}}"#;
    assert_eq!(found(&*store, &select(&class, pointer, "")).await, "c a d b");
    assert_eq!(found(&*store, &select(&class, r#"{"objectId":{"$in":["a","b","c"]}}"#, "")).await, "c a b");
}

pub async fn equal_objects_come_by_id(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Ties");
    let pointer = r#""p":{"__type":"Pointer","className":"C","objectId":"c"}"#;
    for (id, at, n) in [("d", 2, "1"), ("b", 1, "2"), ("c", 2, "1"), ("a", 3, "null"), ("e", 1, "2"), ("f", 2, "2")] {
        done(&*store, create_at(&class, id, at, &format!(r#"{{"n":{n},{pointer}}}"#))).await;
    }
    done(&*store, create_at(&class, "g", 9, "{}")).await;
    let by_pointer = format!("{{{pointer}}}");
    for (filter, order, expected) in [
        ("{}", "createdAt", "b e c d f a g"),
        ("{}", "-createdAt", "g a c d f b e"),
        (by_pointer.as_str(), "createdAt", "b e c d f a"),
        (by_pointer.as_str(), "-createdAt", "a c d f b e"),
        ("{}", "n", "a g c d b e f"),
        ("{}", "-n", "b e f c d a g"),
        ("{}", "-n,createdAt", "b e f c d a g"),
        ("{}", "n,-createdAt", "g a c d f b e"),
        ("{}", "-objectId", "g f e d c b a"),
        ("{}", "p,-objectId", "g f e d c b a"),
    ] {
        assert_eq!(found(&*store, &select(&class, filter, order)).await, expected, "{filter} {order}");
        for limit in 1..5 {
            let page = Selection { skip: 1, limit, ..select(&class, filter, order) };
            let expected: Vec<_> = expected.split(' ').skip(1).take(limit as usize).collect();
            assert_eq!(found(&*store, &page).await, expected.join(" "), "{filter} {order} {limit}");
        }
    }
}

pub async fn reads_at_the_same_time_each_find_their_own(stores: &dyn Stores) {
    const READERS: usize = 300;
    let store = stores.open().await;
    let class = fresh_class("Crowd");
    let id = |n: usize| format!("o{n}");
    done(&*store, create(&class, "first", "{}")).await;
    let mut readers = Vec::new();
    for n in 0..READERS {
        let (store, class) = (store.clone(), class.clone());
        readers.push(tokio::spawn(async move {
            match n % 3 {
                // What was answered is seen, whoever reads meanwhile.
                0 => {
                    done(&*store, create(&class, &id(n), &format!(r#"{{"n":{n}}}"#))).await;
                    let found = get(&*store, &class, &id(n)).await.unwrap();
                    assert_eq!(found.field("n").as_deref(), Some(&Value::from(n as f64)));
                }
                1 => assert_eq!(get(&*store, &class, "none").await, None),
                _ => assert_eq!(get(&*store, &class, "first").await.unwrap().id.as_str(), "first"),
            }
        }));
    }
    // Who goes away takes nobody along.
    for gone in readers.iter().skip(1).step_by(6) {
        gone.abort();
    }
    for (n, reader) in readers.into_iter().enumerate() {
        let ended = reader.await;
        assert!(ended.is_ok() || n % 6 == 1, "{n}: {ended:?}");
    }
    assert!(get(&*store, &class, "first").await.is_some());
}

pub async fn pages_follow_each_other(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Pages");
    for n in 0..50 {
        let json = format!(r#"{{"n":{},"p":{{"__type":"Pointer","className":"C","objectId":"c"}}}}"#, n % 7);
        done(&*store, create_at(&class, &format!("o{n:02}"), n / 3, &json)).await;
    }
    let pointer = r#"{"p":{"__type":"Pointer","className":"C","objectId":"c"}}"#;
    for filter in ["{}", pointer, r#"{"n":{"$gt":2}}"#] {
        for order in ["", "createdAt", "-createdAt", "n", "-n,createdAt", "updatedAt"] {
            let all = found(&*store, &select(&class, filter, order)).await;
            let mut paged = Vec::new();
            for page in 0..20 {
                let selection = Selection { skip: page * 7, limit: 7, ..select(&class, filter, order) };
                paged.extend(find(&*store, &selection).await);
            }
            assert_eq!(ids(&paged), all, "{filter} {order}");
        }
    }
    let selection = Selection { limit: 0, ..select(&class, "{}", "") };
    assert!(find(&*store, &selection).await.is_empty());
    let selection = Selection { skip: u64::MAX, limit: u64::MAX, ..select(&class, "{}", "n") };
    assert!(find(&*store, &selection).await.is_empty());
}

pub async fn readers_see_what_they_may(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Readers");
    let of = |who: &str| Acl::default().with(who, true, true);
    for (id, acl) in [("a", of("alice")), ("b", of("bob")), ("c", of("*")), ("d", Acl::default())] {
        done(&*store, create(&class, id, "{}").with_acl(acl)).await;
    }
    done(&*store, create(&class, "e", "{}")).await;
    for (reader, expected) in [
        (user("alice"), "a c e"),
        (user("bob"), "b c e"),
        (Principals::ANONYMOUS, "c e"),
        (Principals::MASTER, "a b c d e"),
    ] {
        for order in ["", "createdAt", "objectId"] {
            let selection = Selection { reader: reader.clone(), ..select(&class, "{}", order) };
            assert_eq!(found(&*store, &selection).await, expected);
            let counted = store.snapshot().await.unwrap().count(&selection).await.unwrap();
            assert_eq!(counted, expected.split(' ').count() as u64);
            // What may not be read is not skipped either.
            let page = Selection { skip: 1, limit: 1, ..selection };
            assert_eq!(found(&*store, &page).await, expected.split(' ').nth(1).unwrap());
        }
    }
}

pub async fn what_is_looked_at_is_there(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Columns");
    let mut rng = StdRng::seed_from_u64(7);
    for at in 0..60 {
        let fields: Map = some_fields(&mut rng).into_iter().chain([("none".into(), Value::Null)]).collect();
        let write = create_at(&class, &format!("o{at}"), rng.random_range(0..20), &fields.to_json());
        done(&*store, write.with_acl(acl(&mut rng))).await;
    }
    let filters = [
        "{}",
        r#"{"n":0.5}"#,
        r#"{"o.x":1}"#,
        r#"{"o.x":{"$gte":1},"p":{"$exists":true}}"#,
        r#"{"n":{"$gt":0},"tags":{"$gte":[]}}"#,
    ];
    for filter in filters {
        for order in ["", "-n", "s,-createdAt", "updatedAt,p", "tags,members", "o.x,-tags", "d,o"] {
            for reader in [Principals::MASTER, user("u1")] {
                for columns in ["n", "p s", "tags.0 o.x", "none d", "members objectId", "unknown", ""] {
                    let whole =
                        Selection { reader: reader.clone(), skip: 1, limit: 25, ..select(&class, filter, order) };
                    let names: Vec<CompactString> = columns.split(' ').map(CompactString::from).collect();
                    let cut = Selection { columns: Some(names.clone()), ..whole.clone() };
                    let (whole, cut) = (find(&*store, &whole).await, find(&*store, &cut).await);
                    assert_eq!(ids(&cut), ids(&whole), "{filter} by {order} with {columns}");
                    for (cut, whole) in cut.iter().zip(&whole) {
                        let about = |object: &Object| (object.created_at, object.updated_at, object.acl.clone());
                        assert_eq!(about(cut), about(whole));
                        for name in names.iter().filter_map(|path| path.split('.').next()) {
                            assert_eq!(cut.field(name), whole.field(name), "{filter} by {order} with {columns}");
                        }
                    }
                }
            }
        }
    }
}

pub async fn counting_agrees_with_finding(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Counted");
    let count = async |filter: &str| {
        let selection = Selection { skip: 3, limit: 1, ..select(&class, filter, "n") };
        store.snapshot().await.unwrap().count(&selection).await.unwrap()
    };
    assert_eq!(count("{}").await, 0);
    for n in 0..30 {
        done(&*store, create(&class, &format!("o{n}"), &format!(r#"{{"n":{}}}"#, n % 3))).await;
    }
    done(&*store, delete(&class, "o0")).await;
    drop(store.commit(vec![create(&class, "x", "{}"), create(&class, "o1", "{}")]).await);
    assert_eq!(count("{}").await, 29);
    assert_eq!(count(r#"{"n":0}"#).await, 9);
    assert_eq!(count(r#"{"n":{"$gte":1}}"#).await, 20);
}

pub async fn distinct_values_are_told_once(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Distinct");
    let pointer = |id: &str| format!(r#"{{"__type":"Pointer","className":"C","objectId":"{id}"}}"#);
    let date = r#"{"__type":"Date","iso":"2026-01-02T03:04:05.678Z"}"#;
    let place = r#"{"__type":"GeoPoint","latitude":1,"longitude":2.5}"#;
    let file = r#"{"__type":"File","name":"a b.png"}"#;
    let bytes = r#"{"__type":"Bytes","base64":"AQI="}"#;
    let (c1, c2) = (pointer("c1"), pointer("c2"));
    let rows = [
        format!(
            r#"{{"n":1,"s":"b","flag":true,"at":{date},"g":{place},"f":{file},"y":{bytes},"p":{c1},
                "list":[1,"x",null,[1,2],{{"a":1}},{c1},{date}],"o":{{"x":1,"in":[1,2]}}}}"#
        ),
        format!(
            r#"{{"n":1,"s":"a","flag":false,"at":{date},"g":{place},"f":{file},"y":{bytes},"p":{c2},
            "list":[],"o":{{"x":"1","in":3}}}}"#
        ),
        format!(r#"{{"n":-2.5,"s":null,"flag":null,"at":null,"p":null,"list":["x",{c2},2],"o":{{"in":[{{"y":1}}]}}}}"#),
        r#"{"p":null,"s":"B","list":[[],[2,1],[1,2]],"o":{"x":1,"in":[1,2]}}"#.to_owned(),
        "{}".to_owned(),
    ];
    for (at, row) in rows.iter().enumerate() {
        done(&*store, create(&class, &format!("o{at}"), row)).await;
    }
    let distinct = async |selection: &Selection, field: &str| {
        let values = store.snapshot().await.unwrap().distinct(selection, field).await.unwrap();
        Value::Array(values.unwrap()).to_json()
    };
    let created = r#"{"__type":"Date","iso":"1970-01-01T00:00:01.000Z"}"#;
    let (one, other, third) = (r#"{"x":1,"in":[1,2]}"#, r#"{"x":"1","in":3}"#, r#"{"in":[{"y":1}]}"#);
    // Without indexes and with them, which know neither what is missing nor what an array is.
    for indexes in [&[][..], &["n", "s", "flag", "at", "p", "list", "o"][..]] {
        for name in indexes {
            let index = edit_index(&class, &format!("by_{name}"), &format!(r#"{{"{name}":1}}"#));
            store.edit_schema(index).await.unwrap();
        }
        for (filter, field, expected) in [
            ("{}", "n", "[-2.5,1]".to_owned()),
            ("{}", "s", r#"["B","a","b"]"#.to_owned()),
            ("{}", "flag", "[false,true]".to_owned()),
            ("{}", "at", format!("[{date}]")),
            ("{}", "g", format!("[{place}]")),
            ("{}", "f", format!("[{file}]")),
            ("{}", "y", format!("[{bytes}]")),
            ("{}", "p", format!("[{c1},{c2}]")),
            ("{}", "list", format!(r#"[1,2,"x",{c1},{c2},{{"a":1}},[],[1,2],[2,1],{date}]"#)),
            ("{}", "o", format!("[{one},{other},{third}]")),
            ("{}", "o.x", r#"[1,"1"]"#.to_owned()),
            ("{}", "o.in", r#"[1,2,3,{"y":1}]"#.to_owned()),
            ("{}", "o.in.y", "[1]".to_owned()),
            ("{}", "list.a", "[1]".to_owned()),
            ("{}", "n.x", "[]".to_owned()),
            ("{}", "objectId", r#"["o0","o1","o2","o3","o4"]"#.to_owned()),
            ("{}", "createdAt", format!("[{created}]")),
            ("{}", "unknown", "[]".to_owned()),
            (r#"{"n":1}"#, "s", r#"["a","b"]"#.to_owned()),
            (r#"{"s":{"$gt":"B"}}"#, "s", r#"["a","b"]"#.to_owned()),
            (r#"{"s":{"$regex":"^[a-z]$"}}"#, "s", r#"["a","b"]"#.to_owned()),
            (r#"{"list":{"$ne":2}}"#, "p", format!("[{c1},{c2}]")),
            (r#"{"list":2}"#, "list", format!(r#"[2,"x",{c2}]"#)),
            (r#"{"o.x":{"$exists":false}}"#, "n", "[-2.5]".to_owned()),
            (r#"{"o.x":1}"#, "list", format!(r#"[1,"x",{c1},{{"a":1}},[],[1,2],[2,1],{date}]"#)),
            (r#"{"g":{"$exists":true}}"#, "p", format!("[{c1},{c2}]")),
            (r#"{"n":7}"#, "n", "[]".to_owned()),
        ] {
            assert_eq!(distinct(&select(&class, filter, ""), field).await, expected, "{field} where {filter}");
            let page = Selection { skip: 1, limit: 1, ..select(&class, filter, "-n,s") };
            assert_eq!(distinct(&page, field).await, expected, "neither page nor order count");
        }
    }
    let own = create(&class, "own", r#"{"n":10,"s":"own"}"#).with_acl(Acl::default().with("alice", true, false));
    done(&*store, own).await;
    for (reader, expected) in
        [(user("alice"), "[-2.5,1,10]"), (user("bob"), "[-2.5,1]"), (Principals::MASTER, "[-2.5,1,10]")]
    {
        let selection = Selection { reader, ..select(&class, "{}", "") };
        assert_eq!(distinct(&selection, "n").await, expected);
    }
    assert_eq!(distinct(&select(&fresh_class("None"), "{}", ""), "n").await, "[]");
}

pub async fn distinct_values_may_be_many_and_large_but_not_without_end(stores: &dyn Stores) {
    let store = stores.open().await;
    let (many, large) = (fresh_class("Many"), fresh_class("Large"));
    for at in 0..4 {
        let numbers: Vec<String> = (at * 30_000..(at + 1) * 30_000).map(|number| number.to_string()).collect();
        let json = format!(r#"{{"at":{at},"list":[{}]}}"#, numbers.join(","));
        done(&*store, create(&many, &format!("o{at}"), &json)).await;
    }
    let distinct = async |selection: &Selection, field: &str| {
        store.snapshot().await.unwrap().distinct(selection, field).await.unwrap().map(|values| values.len())
    };
    for (filter, expected) in [
        (r#"{"at":{"$lt":3}}"#, Some(90_000)),
        ("{}", None),
        (r#"{"list":{"$regex":"^[a]"}}"#, Some(0)),
        (r#"{"at":{"$lt":3},"list":{"$gte":[]}}"#, Some(90_000)),
        (r#"{"list":{"$gte":[]}}"#, None),
    ] {
        assert_eq!(distinct(&select(&many, filter, ""), "list").await, expected, "{filter}");
    }
    // More than an answer of MongoDB's own may hold.
    for at in 0..20 {
        let json = format!(r#"{{"text":"{at}{}"}}"#, "x".repeat(900_000));
        done(&*store, create(&large, &format!("o{at}"), &json)).await;
    }
    assert_eq!(distinct(&select(&large, "{}", ""), "text").await, Some(20));
}

pub async fn a_snapshot_stays_as_it_is(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Snapshot");
    done(&*store, create(&class, "a", r#"{"n":1}"#)).await;
    done(&*store, create(&class, "b", r#"{"n":1}"#)).await;
    let snapshot = store.snapshot().await.unwrap();
    let cursor = snapshot.cursor();
    for _ in 0..3 {
        done(&*store, update(&class, "a", r#"{"n":{"__op":"Increment","amount":1}}"#)).await;
    }
    done(&*store, delete(&class, "b")).await;
    done(&*store, create(&class, "c", r#"{"n":1}"#)).await;
    // Read by others, so that whatever is cached is new.
    assert_eq!(json(&*store, &class, "a").await, r#"{"n":4}"#);
    for _ in 0..2 {
        assert_eq!(snapshot.get(&class, &id("a")).await.unwrap().unwrap().fields.to_json(), r#"{"n":1}"#);
        assert!(snapshot.get(&class, &id("b")).await.unwrap().is_some());
        assert!(snapshot.get(&class, &id("c")).await.unwrap().is_none());
        for order in ["", "createdAt", "-updatedAt"] {
            let all = snapshot.find(&select(&class, r#"{"n":1}"#, order)).await.unwrap();
            assert_eq!(ids(&all), "a b", "{order}");
        }
        assert_eq!(snapshot.count(&select(&class, "{}", "")).await.unwrap(), 2);
        assert_eq!(snapshot.distinct(&select(&class, "{}", ""), "n").await.unwrap(), Some(vec![Value::Number(1.0)]));
    }
    assert_eq!(snapshot.cursor(), cursor);
    assert_eq!(json(&*store, &class, "a").await, r#"{"n":4}"#);
    // A snapshot that begins with them is of the moment that they are of.
    let snapshot = store.snapshot().await.unwrap();
    let numbers = async || snapshot.distinct(&select(&class, "{}", ""), "n").await.unwrap();
    assert_eq!(numbers().await, Some(vec![Value::Number(1.0), Value::Number(4.0)]));
    done(&*store, create(&class, "d", r#"{"n":5}"#)).await;
    assert_eq!(numbers().await, Some(vec![Value::Number(1.0), Value::Number(4.0)]));
    assert_eq!(snapshot.count(&select(&class, "{}", "")).await.unwrap(), 2);
}

/// Several objects always hold the same number: whoever sees two numbers saw half a commit, or a stale cache.
pub async fn a_commit_is_seen_whole(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Whole");
    let all = ["a", "b", "c", "d", "e"];
    let tags = r#"{"p":{"__type":"Pointer","className":"C","objectId":"c"},"n":0}"#;
    store.commit(all.map(|id| create(&class, id, tags)).to_vec()).await.unwrap();
    let rounds = 400;
    let writer = {
        let (store, class) = (store.clone(), class.clone());
        tokio::spawn(async move {
            for n in 1..=rounds {
                let write = |id| update_at(&class, id, 2_000 + n, &format!(r#"{{"n":{n}}}"#));
                let mut writes = all.map(write).to_vec();
                if n % 3 == 0 {
                    writes.extend([delete(&class, "e"), create(&class, "e", &tags.replace(":0", &format!(":{n}")))]);
                }
                store.commit(writes).await.unwrap();
            }
        })
    };
    let readers = (0..4).map(|reader| {
        let (store, class) = (store.clone(), class.clone());
        tokio::spawn(async move {
            let mut last = 0.0;
            while last < rounds as f64 {
                let snapshot = store.snapshot().await.unwrap();
                let order = ["", "-updatedAt", "createdAt", "n"][reader];
                let found = match reader {
                    3 => {
                        let mut found = Vec::new();
                        for id in all {
                            found.extend(snapshot.get(&class, &ObjectId::new(id)).await.unwrap());
                        }
                        found
                    }
                    _ => snapshot.find(&select(&class, "{}", order)).await.unwrap(),
                };
                assert_eq!(found.len(), all.len());
                let numbers: Vec<_> = found.iter().filter_map(|object| object.fields.get("n")?.as_number()).collect();
                assert!(numbers.iter().all(|number| *number == numbers[0]), "{numbers:?}");
                assert!(numbers[0] >= last, "time does not go back");
                last = numbers[0];
                tokio::task::yield_now().await;
            }
        })
    });
    for task in readers.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    writer.await.unwrap();
}

pub async fn changes_are_what_was_committed(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Changes");
    done(&*store, create(&class, "first", r#"{"n":0}"#)).await;
    let before = position(&*store).await;
    let mut written = Vec::new();
    for n in 0..20 {
        written.push(done(&*store, create(&class, &format!("o{n}"), r#"{"n":1}"#)).await);
        written.push(done(&*store, update(&class, &format!("o{n}"), r#"{"n":2}"#)).await);
        written.push(done(&*store, delete(&class, &format!("o{n}"))).await);
    }
    let changes = changes_of(&*store, &class, before).await;
    assert_eq!(changes.len(), written.len());
    for (change, written) in changes.iter().zip(&written) {
        assert_eq!(change.position, written.cursor.position);
        let change = object_change(change).unwrap();
        assert_eq!((&change.before, &change.after), (&written.before, &written.after));
        let image = change.after.as_ref().or(change.before.as_ref()).unwrap();
        assert_eq!((&change.class, &change.id), (&class, &image.id));
    }
    assert!(store.change_source().read_after(position(&*store).await, 1_000).await.unwrap().is_empty());
}

pub async fn changes_hide_internal_fields(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Hidden");
    let before = position(&*store).await;
    done(&*store, create(&class, "a", r#"{"n":1,"_hashed_password":"secret"}"#)).await;
    let set = Update::default().set("_session_token", "secret").set("n", 2.0);
    let action = Action::Update { update: set, at: millis(5_000) };
    let written = done(&*store, Write { action, ..delete(&class, "a") }).await;
    assert_eq!(written.after.unwrap().fields.get("_session_token"), Some(&Value::from("secret")));
    assert!(get(&*store, &class, "a").await.unwrap().has_internal_fields());
    done(&*store, delete(&class, "a")).await;
    let log = changes_of(&*store, &class, before).await;
    assert!(!format!("{log:?}").contains("secret"));
    assert_eq!(log.len(), 4);
}

pub async fn the_tail_follows_the_log(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Tail");
    let before = position(&*store).await;
    let commits = (0..100).map(|n| {
        let twice = vec![create(&class, &format!("o{n}"), "{}"), update(&class, &format!("o{n}"), r#"{"n":1}"#)];
        store.commit(twice)
    });
    let written = join_all(commits).await;
    if !stores.have_one_queue() {
        let newest = position(&*store).await;
        eventually(|| store.tail().position() >= newest).await;
    }
    let Read::Changes(tail) = store.tail().read_after(before, 10_000) else { panic!("behind") };
    let mut log = Vec::new();
    let mut at = before;
    while let Some(last) = { store.change_source().read_after(at, 10_000).await.unwrap().last().cloned() } {
        log.extend(store.change_source().read_after(at, 10_000).await.unwrap());
        at = last.position;
    }
    assert_eq!(tail, log[..tail.len()]);
    let follow = |[before, after]: [Position; 2]| match stores.have_one_queue() {
        true => before + 1 == after,
        false => before <= after,
    };
    assert!(tail.windows(2).all(|pair| follow([pair[0].position, pair[1].position])));
    let of_class: Vec<_> = changes_of(&*store, &class, before).await.iter().map(|change| change.position).collect();
    for written in written.into_iter().flat_map(Result::unwrap) {
        assert!(of_class.contains(&written.cursor.position));
    }
    assert!(store.tail().position() >= *of_class.last().unwrap());
}

pub async fn cursors_grow(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Cursor");
    let mut last = store.snapshot().await.unwrap().cursor();
    assert_eq!(Cursor::parse(&last.to_string()), Some(last.clone()));
    for n in 0..20 {
        let written = done(&*store, create(&class, &format!("o{n}"), "{}")).await;
        assert_eq!(written.cursor.timeline, last.timeline);
        assert!(written.cursor.position > last.position);
        let snapshot = store.snapshot().await.unwrap();
        assert!(snapshot.cursor().position >= written.cursor.position, "an answered commit is visible");
        last = written.cursor;
    }
}

pub async fn objects_have_a_largest_size(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Large");
    let text = |bytes: usize| format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes));
    done(&*store, create(&class, "a", &text((1 << 20) - 500))).await;
    let too_large = rejected(store.commit(vec![create(&class, "b", &text((1 << 20) + 1))]).await);
    assert_eq!(too_large, Code::ObjectTooLarge.number());
    let more = update(&class, "a", &format!(r#"{{"more":"{}"}}"#, "y".repeat(1_000)));
    assert_eq!(rejected(store.commit(vec![more]).await), Code::ObjectTooLarge.number());
    let many = (0..20).map(|n| create(&class, &format!("m{n}"), &text(900_000))).collect();
    assert_eq!(rejected(store.commit(many).await), Code::ObjectTooLarge.number());
    assert_eq!(found(&*store, &select(&class, "{}", "")).await, "a");
    assert_eq!(get(&*store, &class, "a").await.unwrap().fields.len(), 1);
}

pub async fn objects_have_a_largest_depth(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Deep");
    done(&*store, create(&class, "a", r#"{"o":{}}"#)).await;
    let nested = format!("{}1{}", r#"{"x":"#.repeat(40), "}".repeat(40));
    let path = ["x"; 39].join(".");
    done(&*store, update(&class, "a", &format!(r#"{{"o":{nested}}}"#))).await;
    let deeper = update(&class, "a", &format!(r#"{{"o.{path}":{nested}}}"#));
    assert_eq!(rejected(store.commit(vec![deeper]).await), Code::InvalidJson.number());
    assert_eq!(found(&*store, &select(&class, "{}", "")).await, "a");
}

pub async fn ids_of_any_text_work(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Ids");
    let texts = ["a", "aa", "a\u{0}", "é", "a b", "😀", "0", "a\u{0}b"];
    for text in texts {
        done(&*store, create(&class, text, r#"{"n":1}"#)).await;
    }
    for text in texts {
        assert_eq!(get(&*store, &class, text).await.unwrap().id.as_str(), text);
    }
    let mut sorted = texts;
    sorted.sort_unstable();
    assert_eq!(found(&*store, &select(&class, "{}", "createdAt")).await, sorted.join(" "));
    assert_eq!(found(&*store, &select(&class, "{}", "n")).await, sorted.join(" "));
    let long = "x".repeat(100_000);
    assert_eq!(get(&*store, &class, &long).await, None);
    assert_eq!(get(&*store, &class, "").await, None);
    for impossible in ["", &long] {
        assert!(matches!(failure(&*store, create(&class, impossible, "{}")).await, WriteError::Rejected(_)));
    }
}

pub async fn the_newest_messages_of_a_conversation_are_read_as_a_page(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Message");
    let conversation =
        |n: i32| format!(r#""conversation":{{"__type":"Pointer","className":"Conversation","objectId":"c{n}"}}"#);
    let commits = (0..300).map(|n| {
        let json = format!(r#"{{{},"text":"hello"}}"#, conversation(n % 3));
        store.commit(vec![create_at(&class, &format!("m{n:03}"), i64::from(n), &json)])
    });
    in_order(stores, commits).await;
    done(&*store, update(&class, "m000", r#"{"text":"first"}"#)).await;
    let before = r#""createdAt":{"$lt":{"__type":"Date","iso":"1970-01-01T00:00:00.100Z"}}"#;
    for (filter, order, expected) in [
        (format!("{{{}}}", conversation(1)), "-createdAt", "m298 m295 m292"),
        (format!("{{{},{before}}}", conversation(1)), "-createdAt", "m097 m094 m091"),
        (format!("{{{},{before}}}", conversation(1)), "createdAt", "m001 m004 m007"),
    ] {
        let selection = Selection { limit: 3, ..select(&class, &filter, order) };
        assert_eq!(found(&*store, &selection).await, expected);
        let explanation = store.snapshot().await.unwrap().explain(&selection).await.unwrap();
        assert_eq!(explanation.index, ["conversation", "createdAt"]);
        assert!(explanation.ordered_by_index && explanation.examined <= 5, "{explanation:?}");
        assert_eq!(explanation.returned, 3);
    }
}

/// Values of every type in every place, and filters that stores like to take for something else.
pub async fn filters_mean_what_the_matcher_says(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Meaning");
    let short = |text: &str| {
        text.replace("P1", r#"{"__type":"Pointer","className":"T","objectId":"t1"}"#)
            .replace("P2", r#"{"__type":"Pointer","className":"T","objectId":"t2"}"#)
            .replace("Q1", r#"{"__type":"Pointer","className":"U","objectId":"t1"}"#)
            .replace("D1", r#"{"__type":"Date","iso":"2020-01-01T00:00:00.000Z"}"#)
            .replace("D2", r#"{"__type":"Date","iso":"2021-01-01T00:00:00.000Z"}"#)
            .replace("B1", r#"{"__type":"Bytes","base64":"AQI="}"#)
            .replace("G1", r#"{"__type":"GeoPoint","latitude":1,"longitude":2}"#)
            .replace("G2", r#"{"__type":"GeoPoint","latitude":2,"longitude":-1}"#)
            .replace("F1", r#"{"__type":"File","name":"f1.png"}"#)
            .replace("A1", r#"{"__type":"Polygon","coordinates":[[0,0],[0,2],[2,0],[0,0]]}"#)
    };
    let rows = [
        r#"{"n":1,"s":"abc","arr":[1,2],"p":P1,"d":D1,"o":{"a":1,"l":[{"x":1},{"x":2}]},"pa":[P1],"f":F1,"g":G1,"b":B1,"area":A1,"t":true}"#,
        r#"{"n":5,"s":"ABC","arr":[2,3],"p":P2,"d":D2,"o":{"a":2,"p":P1},"pa":[P1,P2],"g":G2,"t":false}"#,
        r#"{"n":null,"s":null,"arr":null,"p":null,"d":null,"o":null,"pa":null,"f":null,"g":null,"b":null,"t":null}"#,
        "{}",
        r#"{"arr":[],"s":"","o":{},"pa":["t1",Q1]}"#,
        r#"{"arr":[null,1],"s":"a.b\nc","o":{"a":null,"l":[1,2]},"pa":[G1,F1,{"k":P1}]}"#,
        r#"{"arr":[[1,2]],"s":"Ärger","o":{"a":[1,{"b":2}],"p":{"x":1},"0":7},"pa":[[P1]]}"#,
        r#"{"arr":["x",{"a":1},D1],"s":"abcd$","o":{"l":[],"g":G1,"a":{"b":{"c":3}}},"n":-0.5}"#,
        r#"{"arr":[true,B1,1.5],"s":"x y#z","o":{"a":D1,"l":[[{"x":1}]],"s":"t1"},"n":1e12}"#,
    ];
    let mut objects = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let write = create_at(&class, &format!("r{at}"), at as i64, &short(row));
        objects.push(done(&*store, write).await.after.unwrap());
    }
    let operands = [
        "null",
        "1",
        "2",
        "5",
        "-0.5",
        r#""abc""#,
        r#""t1""#,
        r#""""#,
        "true",
        "P1",
        "Q1",
        "D1",
        "B1",
        "G1",
        "F1",
        "A1",
        "[1,2]",
        "[]",
        r#"{"a":1}"#,
        r#"{"x":1}"#,
        "[P1]",
    ];
    let paths = [
        "n",
        "s",
        "arr",
        "p",
        "d",
        "o",
        "pa",
        "f",
        "g",
        "b",
        "area",
        "t",
        "zzz",
        "o.a",
        "o.l",
        "o.l.x",
        "o.p",
        "o.p.objectId",
        "o.0",
        "o.a.b",
        "o.a.b.c",
        "arr.0",
        "arr.1",
        "arr.a",
        "pa.0",
        "pa.objectId",
        "p.objectId",
        "s.x",
        "objectId",
        "createdAt",
    ];
    let mut filters = Vec::new();
    for path in paths {
        for operand in operands {
            for operator in ["$eq", "$ne", "$lt", "$lte", "$gt", "$gte"] {
                filters.push(format!(r#"{{"{path}":{{"{operator}":{operand}}}}}"#));
            }
            for operator in ["$in", "$nin", "$all"] {
                filters.push(format!(r#"{{"{path}":{{"{operator}":[{operand}]}}}}"#));
                filters.push(format!(r#"{{"{path}":{{"{operator}":[{operand},2,null]}}}}"#));
            }
        }
        for constraint in [
            r#"{"$in":[]}"#,
            r#"{"$nin":[]}"#,
            r#"{"$all":[]}"#,
            r#"{"$exists":true}"#,
            r#"{"$exists":false}"#,
            r#"{"$in":["t1",P2]}"#,
            r#"{"$nin":["t1","t2"]}"#,
            r#"{"$in":[[[1,2]]]}"#,
            r#"{"$gt":0,"$lt":2}"#,
            r#"{"$regex":"^a"}"#,
            r#"{"$regex":"bc$"}"#,
            r#"{"$regex":"^\\Qa.b\\E"}"#,
            r#"{"$regex":"a.b"}"#,
            r#"{"$regex":"ABC","$options":"i"}"#,
            r#"{"$regex":"ärger","$options":"i"}"#,
            r#"{"$regex":"^c$","$options":"m"}"#,
            r#"{"$regex":"X Y # Z","$options":"ix"}"#,
            r#"{"$regex":"\\d"}"#,
            r#"{"$regex":"d\\$"}"#,
            r#"{"$regex":"(?=a)"}"#,
            r#"{"$regex":"png"}"#,
            r#"{"$all":[{"$regex":"^a"},{"$regex":"c"}]}"#,
        ] {
            filters.push(format!(r#"{{"{path}":{constraint}}}"#));
        }
    }
    let mut rng = StdRng::seed_from_u64(7);
    for _ in 0..300 {
        let [one, other, third] = std::array::from_fn(|_| filters.choose(&mut rng).unwrap());
        filters.push(format!(
            r#"{{"${}":[{one},{{"$nor":[{other},{third}]}}]}}"#,
            ["and", "or", "nor"].choose(&mut rng).unwrap()
        ));
    }
    let snapshot = store.snapshot().await.unwrap();
    for filter in filters {
        let Ok(predicate) = Predicate::from_map(&fields(&short(&filter))) else { continue };
        let selection = Selection { predicate, ..select(&class, "{}", "") };
        let (expected, count) = expected(&objects, &selection);
        let found = snapshot.find(&selection).await.unwrap();
        assert_eq!(ids(&found), ids(&expected), "{filter}");
        assert_eq!(found, expected, "{filter}");
        assert_eq!(snapshot.count(&selection).await.unwrap(), count, "{filter}");
    }
    for path in paths {
        for order in [path.to_owned(), format!("-{path}"), format!("{path},-n"), format!("o.a,-{path}")] {
            let selection = select(&class, "{}", &order);
            assert_eq!(
                ids(&snapshot.find(&selection).await.unwrap()),
                ids(&expected(&objects, &selection).0),
                "{order}"
            );
        }
    }
}

/// Random objects, filters and orders: whatever path the store takes, the evaluator's answer is the right one.
pub async fn every_path_finds_the_same(stores: &dyn Stores) {
    let store = stores.open().await;
    for seed in 0..12 {
        let class = fresh_class("Random");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut rows: Vec<Arc<Object>> = Vec::new();
        let declares_early = seed % 2 == 0;
        done(&*store, create(&class, "seed", &Map::from_iter(all_fields(&mut rng)).to_json())).await;
        done(&*store, delete(&class, "seed")).await;
        if declares_early {
            declare(&*store, &class).await;
        }
        for step in 0..300 {
            let existing = rows.choose(&mut rng).map(|row| row.id.to_string());
            match (rng.random_range(0..10), existing) {
                (0, Some(id)) => {
                    done(&*store, delete(&class, &id)).await;
                    rows.retain(|row| row.id.as_str() != id);
                }
                (1..4, Some(id)) => {
                    let json = Map::from_iter(some_fields(&mut rng)).to_json();
                    let write = update_at(&class, &id, rng.random_range(0..20), &json);
                    let after = done(&*store, write).await.after.unwrap();
                    let row = rows.iter_mut().find(|row| row.id == after.id).unwrap();
                    *row = after;
                }
                _ => {
                    let json = Map::from_iter(some_fields(&mut rng)).to_json();
                    let id = format!("{}{step}", ["x", "b", "m"].choose(&mut rng).unwrap());
                    let write = create_at(&class, &id, rng.random_range(0..20), &json).with_acl(acl(&mut rng));
                    rows.push(done(&*store, write).await.after.unwrap());
                }
            }
        }
        if !declares_early {
            declare(&*store, &class).await;
        }
        if !stores.have_one_queue() {
            rows.sort_by_cached_key(|row| (row.created_at, row.id.clone()));
        }
        for query in 0..250 {
            let (filter, order) = if query % 2 == 0 { directed(&mut rng) } else { (filter(&mut rng), order(&mut rng)) };
            let selection = Selection {
                class: class.clone(),
                predicate: predicate(&filter),
                reader: [Principals::MASTER, user("alice"), Principals::ANONYMOUS].choose(&mut rng).unwrap().clone(),
                order,
                skip: *[0, 0, 0, 1, 5].choose(&mut rng).unwrap(),
                limit: *[1, 3, 20, u64::MAX].choose(&mut rng).unwrap(),
                columns: None,
            };
            let (expected, count) = expected(&rows, &selection);
            let snapshot = store.snapshot().await.unwrap();
            let found = snapshot.find(&selection).await.unwrap();
            let told = || async { format!("seed {seed}.{query}: {selection:?}") };
            assert_eq!(ids(&found), ids(&expected), "{}", told().await);
            assert_eq!(found, expected, "{}", told().await);
            assert_eq!(snapshot.count(&selection).await.unwrap(), count, "{}", told().await);
        }
    }
}

async fn declare(store: &dyn Storage, class: &ClassName) {
    for (name, json) in [
        ("by_n_s", r#"{"n":1,"s":-1}"#),
        ("by_tags", r#"{"tags":1,"createdAt":-1}"#),
        ("by_s", r#"{"s":-1}"#),
        ("by_p_n", r#"{"p":1,"n":1,"d":-1}"#),
        ("by_o", r#"{"o":1,"tags":1}"#),
    ] {
        store.edit_schema(edit_index(class, name, json)).await.unwrap();
    }
}

fn expected(rows: &[Arc<Object>], selection: &Selection) -> (Vec<Arc<Object>>, u64) {
    let matcher = Matcher::new(&selection.predicate).unwrap();
    let may = |object: &Object| selection.reader.may(tidings_protocol::Access::Read, object.acl.as_ref());
    let mut matching: Vec<_> = rows.iter().filter(|row| may(row) && matcher.matches(row)).cloned().collect();
    let count = matching.len() as u64;
    if !selection.order.is_empty() {
        matching.sort_by_cached_key(|row| {
            let mut key = Vec::new();
            write_sort_key(row, &selection.order, &mut key);
            key
        });
    }
    let page = matching.into_iter().skip(selection.skip as usize).take(selection.limit.min(1 << 20) as usize);
    (page.collect(), count)
}

type Field = (CompactString, Value);

fn all_fields(rng: &mut StdRng) -> Vec<Field> {
    ["n", "s", "p", "d", "tags", "members", "o"]
        .map(|name| {
            loop {
                let value = value(rng, name);
                if !value.is_null() {
                    break (name.into(), value);
                }
            }
        })
        .to_vec()
}

fn some_fields(rng: &mut StdRng) -> Vec<Field> {
    let fields = ["n", "s", "p", "d", "tags", "members", "o"].map(|name| (name.into(), value(rng, name)));
    fields.into_iter().filter(|_| rng.random_bool(0.7)).collect()
}

fn pointer(rng: &mut StdRng) -> Value {
    Value::pointer(ClassName::from_trusted("C"), ObjectId::new(*["c1", "c2", "c3"].choose(rng).unwrap()))
}

/// A value that a field of this name may hold.
fn value(rng: &mut StdRng, name: &str) -> Value {
    if rng.random_bool(0.1) {
        return Value::Null;
    }
    match name {
        "n" => Value::Number(f64::from(rng.random_range(-2..4)) / 2.0),
        "s" => Value::from(*["", "a", "B", "b", "ab", "c\u{0}d", &"long".repeat(200)].choose(rng).unwrap()),
        "p" => pointer(rng),
        "d" | "createdAt" | "updatedAt" => Value::Date(millis(rng.random_range(0..20))),
        "o" => Value::Object([("x".into(), Value::Number(f64::from(rng.random_range(0..3))))].into_iter().collect()),
        "objectId" => Value::from(format!("x{}", rng.random_range(0..300)).as_str()),
        _ => {
            let item = |rng: &mut StdRng| match rng.random_range(0..5) {
                0 => Value::Number(1.0),
                1 => Value::from("c1"),
                2 if name == "tags" => Value::Array(vec![Value::Number(1.0)]),
                3 => Value::Null,
                _ => pointer(rng),
            };
            Value::Array((0..rng.random_range(0..4)).map(|_| item(rng)).collect())
        }
    }
}

fn acl(rng: &mut StdRng) -> Acl {
    Acl::default().with(*["*", "alice", "bob"].choose(rng).unwrap(), true, rng.random_bool(0.5))
}

const PATHS: [&str; 10] = ["n", "s", "p", "d", "tags", "members", "o", "createdAt", "updatedAt", "objectId"];

fn filter(rng: &mut StdRng) -> String {
    let clauses = (0..rng.random_range(0..4)).map(|_| clause(rng)).collect::<Vec<_>>();
    let all = format!(r#"{{"$and":[{}]}}"#, clauses.join(","));
    match (clauses.len(), rng.random_range(0..6)) {
        (0, _) => "{}".into(),
        (_, 0) => all.replace("$and", "$or"),
        (_, 1) => format!(r#"{{"$and":[{all},{}]}}"#, clause(rng)),
        _ => all,
    }
}

/// One constraint on one field, often one that an index can answer.
fn clause(rng: &mut StdRng) -> String {
    let path = *PATHS.choose(rng).unwrap();
    let one = |rng: &mut StdRng| match value(rng, path) {
        Value::Array(items) if !items.is_empty() => items.choose(rng).unwrap().clone(),
        value => value,
    };
    let list = |rng: &mut StdRng| Value::Array((0..rng.random_range(0..4)).map(|_| one(rng)).collect()).to_json();
    let constraint = match rng.random_range(0..12) {
        0..3 => format!(r#"{{"$eq":{}}}"#, one(rng).to_json()),
        3 => format!(r#"{{"$gt":{}}}"#, one(rng).to_json()),
        4 => format!(r#"{{"$gte":{},"$lt":{}}}"#, one(rng).to_json(), one(rng).to_json()),
        5 => format!(r#"{{"$lte":{}}}"#, one(rng).to_json()),
        6..8 => format!(r#"{{"$in":{}}}"#, list(rng)),
        8 => format!(r#"{{"$all":{}}}"#, list(rng)),
        9 => format!(r#"{{"$nin":{}}}"#, list(rng)),
        10 => format!(r#"{{"$ne":{}}}"#, one(rng).to_json()),
        // A plain id for a pointer.
        _ => r#"{"$in":["c1","c2"]}"#.to_owned(),
    };
    format!(r#"{{"{path}":{constraint}}}"#)
}

/// A filter and an order that go well with an index.
fn directed(rng: &mut StdRng) -> (String, Vec<Order>) {
    let pointer = |rng: &mut StdRng| pointer(rng).to_json();
    let one = |rng: &mut StdRng, name: &str| loop {
        let value = value(rng, name);
        if !value.is_null() {
            break value.to_json();
        }
    };
    let (filter, orders) = match rng.random_range(0..9) {
        0 => (format!(r#""p":{}"#, pointer(rng)), ["createdAt", "-createdAt"]),
        1 => (format!(r#""p":{{"$in":[{},"c2",{}]}}"#, pointer(rng), pointer(rng)), ["createdAt", "-createdAt"]),
        2 => {
            let range = format!(r#"{{"$lt":{},"$gte":{}}}"#, one(rng, "d"), one(rng, "d"));
            (format!(r#""p":{},"createdAt":{range}"#, pointer(rng)), ["createdAt", "-createdAt"])
        }
        3 => (format!(r#""p":{},"n":{}"#, pointer(rng), one(rng, "n")), ["d", "-d"]),
        4 => (format!(r#""n":{}"#, one(rng, "n")), ["s", "-s"]),
        5 => (format!(r#""tags":{}"#, pointer(rng)), ["createdAt", "-createdAt,objectId"]),
        6 => (format!(r#""d":{{"$gt":{}}}"#, one(rng, "d")), ["d", "-d"]),
        7 => (format!(r#""n":{{"$lte":{}}}"#, one(rng, "n")), ["n,-s", "-n,s"]),
        _ => {
            let either = format!(r#"[{{"p":{}}},{{"n":{}}}]"#, pointer(rng), one(rng, "n"));
            (format!(r#""$or":{either}"#), ["s,-createdAt", "createdAt"])
        }
    };
    let order = Order::parse(&Value::from(*orders.choose(rng).unwrap())).unwrap();
    (format!("{{{filter}}}"), order)
}

fn order(rng: &mut StdRng) -> Vec<Order> {
    let parts = (0..rng.random_range(0..3)).map(|_| {
        let sign = if rng.random_bool(0.5) { "-" } else { "" };
        format!("{sign}{}", PATHS.choose(rng).unwrap())
    });
    let parts = parts.collect::<Vec<_>>().join(",");
    // Orders that an index may have.
    let known = ["createdAt", "-createdAt", "n,-s", "-n,s", "n,-d", "d", "-s", "-createdAt,objectId"];
    let order = if rng.random_bool(0.5) { (*known.choose(rng).unwrap()).to_owned() } else { parts };
    if order.is_empty() { Vec::new() } else { Order::parse(&Value::from(order.as_str())).unwrap() }
}

pub async fn everything_is_there_after_reopening(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Reopened");
    let beginning = if stores.have_one_queue() { 0 } else { position(&*store).await };
    let pointer = r#""p":{"__type":"Pointer","className":"C","objectId":"c"}"#;
    let commits = (0..100).map(|n| {
        let json = format!(r#"{{"n":{n},"name":"N{n}",{pointer}}}"#);
        let write = create_at(&class, &format!("o{n:02}"), n, &json).unique("name", &format!("N{n}"));
        store.commit(vec![write])
    });
    in_order(stores, commits).await;
    done(&*store, update(&class, "o00", r#"{"n":1000}"#)).await;
    done(&*store, delete(&class, "o01")).await;
    store.edit_schema(edit_index(&class, "by_n", r#"{"n":-1}"#)).await.unwrap();
    let selections = ["", "-createdAt", "-n", "n,-createdAt"].map(|order| select(&class, "{}", order));
    let mut before = Vec::new();
    for selection in &selections {
        before.push(find(&*store, selection).await);
    }
    let cursor = store.snapshot().await.unwrap().cursor();
    let (schemas, changes) = (store.schemas(), changes_of(&*store, &class, beginning).await);
    store.close().await;
    let refused = store.commit(vec![create(&class, "late", "{}")]).await;
    assert!(matches!(refused, Err(Refused { error: WriteError::Unavailable(_), .. })));
    drop(store);

    let store = stores.open().await;
    let reopened = store.snapshot().await.unwrap().cursor();
    assert!(reopened.timeline == cursor.timeline && reopened.position >= cursor.position);
    for (selection, before) in selections.iter().zip(before) {
        assert_eq!(find(&*store, selection).await, before);
    }
    assert_eq!(store.schemas().get(&class), schemas.get(&class));
    assert_eq!(changes_of(&*store, &class, beginning).await, changes);
    assert_eq!(store.snapshot().await.unwrap().count(&select(&class, "{}", "")).await.unwrap(), 99);
    assert_eq!(failure(&*store, create(&class, "new", "{}").unique("name", "n50")).await, duplicate("name"));
    let written = done(&*store, create(&class, "new", "{}").unique("name", "n1")).await;
    assert!(written.cursor.position > cursor.position);
    assert_eq!(found(&*store, &Selection { limit: 2, ..select(&class, "{}", "-n") }).await, "o00 o99");
}

/// Waits for what a store does by itself, soon.
async fn eventually(mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "it never happens");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Has commits made before anything else is asked; where they wait in one queue, that needs no waiting here.
async fn in_order<T>(stores: &dyn Stores, commits: impl Iterator<Item = Answer<T>>) {
    match stores.have_one_queue() {
        true => commits.for_each(drop),
        false => drop(join_all(commits).await),
    }
}

/// Waits for answers that are under way already, one after the other.
async fn join_all<F: Future>(answers: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut outcomes = Vec::new();
    for answer in answers.collect::<Vec<_>>() {
        outcomes.push(answer.await);
    }
    outcomes
}
