//! What every store must do, one behaviour per function, written once and run against each.
//!
//! A store instantiates the suite with [`storage_contract!`], giving a function that makes [`Stores`]. The tests use
//! classes that nobody else uses, so that they can share one database.

mod commits;
mod filters;
mod limits;
mod moments;
mod random;
mod reads;
mod reopening;
mod schemas;
mod writes;

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

pub use commits::*;
pub use filters::*;
pub use limits::*;
pub use moments::*;
pub use reads::*;
pub use reopening::*;
pub use schemas::*;
pub use writes::*;

use random::{acl, all_fields, directed, filter, order, some_fields};

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
            objects_made_at_the_same_time_are_refused_one_by_one
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
            what_is_not_there_is_read_as_of_a_moment
            a_class_is_read_while_it_is_made
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

/// Waits for answers that are under way already, one after the other.
async fn join_all<F: Future>(answers: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut outcomes = Vec::new();
    for answer in answers.collect::<Vec<_>>() {
        outcomes.push(answer.await);
    }
    outcomes
}

/// Has commits made before anything else is asked; where they wait in one queue, that needs no waiting here.
async fn in_order<T>(stores: &dyn Stores, commits: impl Iterator<Item = Answer<T>>) {
    match stores.have_one_queue() {
        true => commits.for_each(drop),
        false => drop(join_all(commits).await),
    }
}

/// Waits for what a store does by itself, soon.
async fn eventually(mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "it never happens");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[track_caller]
fn rejected<T: std::fmt::Debug>(outcome: Result<T, impl Into<Refused>>) -> i32 {
    match outcome.map_err(Into::into) {
        Err(Refused { error: WriteError::Rejected(error), .. }) => error.code.number(),
        other => panic!("{other:?}"),
    }
}

fn duplicate(field: &str) -> WriteError {
    WriteError::Duplicate { field: field.into() }
}
