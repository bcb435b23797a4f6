//! What was committed, in order: the seam between storage, which writes it, and live queries, which follow it.

mod tail;

pub use tail::{ChangeTail, Read};

use crate::schema::ClassSchema;
use async_trait::async_trait;
use compact_str::CompactString;
use std::fmt;
use std::sync::Arc;
use tidings_protocol::{ClassName, Object, ObjectId};

/// A point in the history of one store: opaque to clients, ordered within its timeline.
///
/// A timeline is the unbroken history of one database. Restoring a backup starts a new one, because positions of the
/// old one then mean something else.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    pub timeline: CompactString,
    pub position: Position,
}

/// Where a commit stands in its timeline: later ones have greater positions, with gaps between them.
///
/// The changes of one commit may share their position. Whoever follows them takes all of a position or none, so that a
/// position always lies between two commits.
pub type Position = u64;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:x}", self.timeline, self.position)
    }
}

impl Cursor {
    /// Reads what [`Cursor`]'s `Display` wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let (timeline, position) = text.split_once('.')?;
        let position = Position::from_str_radix(position, 16).ok()?;
        Some(Self { timeline: timeline.into(), position })
    }
}

/// One committed change. Images carry no internal fields (password hashes, session tokens).
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Object(ObjectChange),
    /// A class was created, changed, or (`None`) deleted.
    Schema {
        class: ClassName,
        schema: Option<Arc<ClassSchema>>,
    },
    /// Something changed in a class, and the store cannot tell what: whoever follows it has to look again.
    Unseen {
        class: ClassName,
        /// The object that is gone, where at least that is known.
        gone: Option<ObjectId>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct ObjectChange {
    pub class: ClassName,
    pub id: ObjectId,
    /// `None` for a create.
    pub before: Option<Arc<Object>>,
    /// `None` for a delete.
    pub after: Option<Arc<Object>>,
}

/// A change and where it stands in the history.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    pub position: Position,
    pub change: Change,
}

impl Committed {
    /// Bytes in memory, roughly: what bounds count.
    pub fn weight(&self) -> usize {
        size_of::<Self>()
            + match &self.change {
                Change::Object(change) => {
                    change.before.as_ref().map_or(0, |object| object.weight())
                        + change.after.as_ref().map_or(0, |object| object.weight())
                }
                Change::Schema { .. } | Change::Unseen { .. } => 256,
            }
    }
}

/// Where committed changes can be read again, from any position that is still retained.
#[async_trait]
pub trait ChangeSource: Send + Sync {
    /// The changes after `position`, oldest first, about `max_bytes` of them and whole positions only; empty when there
    /// are none yet.
    ///
    /// # Errors
    /// [`SourceError::Gone`] when retention has passed that position.
    async fn read_after(&self, position: Position, max_bytes: usize) -> Result<Vec<Arc<Committed>>, SourceError>;
}

#[derive(Clone, Debug, PartialEq)]
pub enum SourceError {
    Gone,
    Unavailable(String),
}
