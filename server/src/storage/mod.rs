//! Objects on disk, behind one trait that speaks Parse: objects, operations and predicates, never a database's dialect.
//!
//! [`embedded`] is the store of one machine, [`mongo`] the one of many. Callers may rely on this contract, which `contract` checks against every
//! store:
//!
//! - **Operations, not images, are committed.** They apply to the row as it is at that moment, in commit order, and the
//!   guard is checked in the same moment; nobody above reads, decides and writes.
//! - **An answered commit is on disk**, whole, with its change records: both images of each object, without internal
//!   fields, at positions that grow with each commit. A commit that failed left nothing, and harmed no other; only after
//!   [`Unavailable`] is its outcome open.
//! - **Reads see one published state.** A [`Snapshot`] never shows half a commit nor anything that is not yet durable,
//!   and a snapshot taken after a commit was answered shows it.
//! - **Order is total.** Objects come in the order of the query, equal ones by object id; without an order they come as
//!   they were created, to the millisecond. What a reader may not see is neither returned, skipped nor counted.
//! - **The way there does not show.** Whatever index is read or built, found is what [`tidings_protocol::matches`] calls
//!   a match.
//! - **Columns keep their type**, and new ones come with the commit that needs them, as a change of its own before the
//!   object's. A removed column's values are gone at once, also for a later column of that name.

mod access;
#[cfg(test)]
mod agreement;
#[cfg(test)]
pub mod contract;
mod distinct;
pub mod embedded;
mod limits;
pub mod mongo;

pub use access::{Explanation, Selection};

use crate::changes::{ChangeSource, ChangeTail, Cursor};
use crate::permissions::Principals;
use crate::schema::{ClassSchema, FieldType, OWNING_ID, RELATED_ID, SchemaEdit, Schemas};
use async_trait::async_trait;
use compact_str::{CompactString, format_compact};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tidings_protocol::{ClassName, Date, Object, ObjectId, Predicate, Update, Value};

/// A future that storage hands out: owned by the caller, whatever becomes of the store.
pub type Answer<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// A store of objects. Shared by every request; cheap to call.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// The newest published state, as of now or of the first question to it.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, Unavailable>;

    /// One object, whatever its ACL, for what is asked with each request: it shows every commit that was answered here, and
    /// those of other processes half a second later at the most.
    async fn recent(&self, class: &ClassName, id: &ObjectId) -> Result<Option<Arc<Object>>, Unavailable> {
        self.snapshot().await?.get(class, id).await
    }

    /// Commits all writes as one, or none; each sees the earlier ones. Commits that write one object, or bring columns
    /// to one class, take their place in the order of these *calls*, not of the awaits: the commit is under way when
    /// this returns, and dropping the answer does not stop it.
    fn commit(&self, writes: Vec<Write>) -> Answer<Result<Vec<Written>, Refused>>;

    /// Whether several writes really are one commit. Where the database cannot do that, each is made by itself: who needs
    /// all or none must not begin.
    fn commits_as_one(&self) -> bool;

    /// Creates, changes or deletes a class, in order with all commits that bring columns to it.
    fn edit_schema(&self, edit: SchemaEdit) -> Answer<Result<Option<Arc<ClassSchema>>, WriteError>>;

    /// Whether reads may be answered on the first poll, from memory. Where they never are, nobody should ask in passing:
    /// a question that is dropped has been asked all the same.
    fn has_memory(&self) -> bool;

    /// Whether an object is small enough: for who wants to know before the commit, which checks it again.
    ///
    /// # Errors
    /// 116 for one that is too large.
    fn check_size(&self, object: &Object) -> Result<(), tidings_protocol::Error>;

    /// All classes as of the newest published state.
    fn schemas(&self) -> Schemas;

    /// The newest changes, for one follower in this process.
    fn tail(&self) -> Arc<ChangeTail>;

    /// All retained changes.
    fn change_source(&self) -> Arc<dyn ChangeSource>;

    /// Stops accepting commits, finishes those under way and closes the files.
    async fn close(&self);
}

/// One state of the store, for reading.
#[async_trait]
pub trait Snapshot: Send + Sync {
    /// Every change up to here is in this state, and none after.
    fn cursor(&self) -> Cursor;

    /// One object, whatever its ACL; with its internal fields.
    async fn get(&self, class: &ClassName, id: &ObjectId) -> Result<Option<Arc<Object>>, Unavailable>;

    /// The objects that match and may be read, in order, cut to the page.
    async fn find(&self, selection: &Selection) -> Result<Vec<Arc<Object>>, Unavailable>;

    /// How many objects match and may be read, whatever the page.
    async fn count(&self, selection: &Selection) -> Result<u64, Unavailable>;

    /// The values that a field has in the objects that match and may be read, whatever the page: each once, of an array each
    /// element, no nulls, and in the order of [`tidings_protocol::order`]. `None` where they are more than 100,000 or 64 MiB.
    async fn distinct(&self, selection: &Selection, field: &str) -> Result<Option<Vec<Value>>, Unavailable>;

    /// How [`Snapshot::find`] would go about it, and what it read.
    async fn explain(&self, selection: &Selection) -> Result<Explanation, Unavailable>;
}

/// One object to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    pub class: ClassName,
    pub id: ObjectId,
    pub action: Action,
    pub guard: Guard,
    /// Columns that this write needs: each field that it gives a value. They are made in the same commit if they are
    /// missing, and by a create the class with them. A column that exists with another type fails the write with 111.
    /// Internal fields (`_…`) are no columns.
    pub fields: Vec<(CompactString, FieldType)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The object as it shall be. Fails if the id exists.
    Create(Object),
    /// `at` becomes `updatedAt`, unless the object is already newer.
    Update {
        update: Update,
        at: Date,
    },
    Delete,
    /// As [`Action::Delete`], but an object that is gone already is no failure: that was wanted.
    DeleteIfPresent,
    /// Makes an object a member of the relation that the class is ([`ClassName::of_relation`]), unless it is one. Such a
    /// write has neither guard nor fields, and does not say what it did.
    Join(Membership),
    /// Makes it a member no more, if it is one.
    Leave(Membership),
    /// Changes nothing, and fails the commit where the guard does not hold: for a write that rests on another object.
    Expect,
}

/// One member of one object's relation. In the relation's class the fields [`Membership::OWNER`] and
/// [`Membership::RELATED`] say their ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Membership {
    pub owner: ObjectId,
    pub related: ObjectId,
}

impl Membership {
    pub const OWNER: &str = OWNING_ID;
    pub const RELATED: &str = RELATED_ID;

    /// The id of its write: no other pair has it.
    pub fn id(&self) -> ObjectId {
        ObjectId::new(format_compact!("{}:{}{}", self.owner.len(), self.owner, self.related))
    }
}

impl Action {
    /// Whether it makes an object, and where there is none yet, its class.
    fn creates(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Join(_))
    }
}

/// What must hold at the moment of the commit.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Guard {
    /// An existing object must be writable for these; `None` asks nobody (the server's own writes).
    pub writer: Option<Principals>,
    /// The object as it is must match (for a decision that was made on a value). A create has none, and fails.
    pub expect: Option<Predicate>,
    /// No other object of the class may hold this value in this field, upper and lower case alike. Asked by creates and
    /// updates, whatever their operations are; null is nobody's.
    pub unique: Vec<Unique>,
}

/// A value that only one object of its class may hold, ignoring case. The store keeps an index for each such field.
#[derive(Clone, Debug, PartialEq)]
pub struct Unique {
    pub field: CompactString,
    pub value: Value,
}

/// What a write did.
#[derive(Clone, Debug)]
pub struct Written {
    pub cursor: Cursor,
    pub before: Option<Arc<Object>>,
    pub after: Option<Arc<Object>>,
}

/// A commit that left nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// Which of its writes could not be made; the first one where it was none in particular.
    pub at: usize,
    pub error: WriteError,
}

/// Why a write was not made.
#[derive(Clone, Debug, PartialEq)]
pub enum WriteError {
    /// The object does not exist, or its ACL does not let this writer.
    NotFound,
    /// An object with this id exists already.
    Exists,
    /// Another object holds the unique value of this field.
    Duplicate {
        field: CompactString,
    },
    /// [`Guard::expect`] does not match.
    Unexpected,
    /// The write itself cannot be: Parse's error says why.
    Rejected(tidings_protocol::Error),
    Unavailable(Unavailable),
}

/// The store cannot answer: a failed disk, a lost connection, a shutdown. The text is for the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Unavailable(pub String);

impl From<Unavailable> for WriteError {
    fn from(unavailable: Unavailable) -> Self {
        Self::Unavailable(unavailable)
    }
}

impl<E: Into<WriteError>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self { at: 0, error: error.into() }
    }
}

impl From<tidings_protocol::Error> for WriteError {
    fn from(error: tidings_protocol::Error) -> Self {
        Self::Rejected(error)
    }
}
