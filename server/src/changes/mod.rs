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
    /// As in [`Point`].
    pub ordinal: u32,
}

/// Where a commit stands in its timeline: later ones have greater positions, with gaps between them.
///
/// The changes of one commit may share their position. Whoever follows them takes all of a position or none, so that a
/// position always lies between two commits.
pub type Position = u64;

/// A point right behind one change, or behind a whole position: how far somebody has heard.
///
/// A change is after a point exactly if its own is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    pub position: Position,
    /// Which change of that position, in their order.
    pub ordinal: u32,
}

/// Behind all changes of a position.
const WHOLE: u32 = u32::MAX;

impl Point {
    /// Behind all changes of a position.
    pub const fn behind(position: Position) -> Self {
        Self { position, ordinal: WHOLE }
    }

    /// Right in front of the change that this point is behind.
    pub fn before(self) -> Self {
        match self.ordinal.checked_sub(1) {
            Some(ordinal) => Self { ordinal, ..self },
            None => Self::behind(self.position.saturating_sub(1)),
        }
    }

    /// The last position that is heard as a whole.
    pub fn whole(self) -> Position {
        match self.ordinal {
            WHOLE => self.position,
            _ => self.position.saturating_sub(1),
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:x}", self.timeline, self.position)?;
        match self.ordinal {
            WHOLE => Ok(()),
            ordinal => write!(f, ".{ordinal:x}"),
        }
    }
}

/// A cursor is shorter than this.
const MAX_CURSOR: usize = 128;

impl Cursor {
    /// Behind all changes of a position.
    pub fn behind(timeline: CompactString, position: Position) -> Self {
        Self::at(timeline, Point::behind(position))
    }

    pub fn at(timeline: CompactString, Point { position, ordinal }: Point) -> Self {
        Self { timeline, position, ordinal }
    }

    /// Of a timeline that no store has: nobody can resume from it.
    pub fn of_nothing() -> Self {
        Self::behind(CompactString::const_new("merged"), 0)
    }

    pub fn point(&self) -> Point {
        Point { position: self.position, ordinal: self.ordinal }
    }

    /// Reads what [`Cursor`]'s `Display` wrote, and nothing else.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_CURSOR {
            return None;
        }
        let (timeline, point) = text.split_once('.')?;
        let (position, ordinal) = match point.split_once('.') {
            None => (point, WHOLE),
            Some((position, ordinal)) => (position, u32::from_str_radix(ordinal, 16).ok()?),
        };
        let position = Position::from_str_radix(position, 16).ok()?;
        let cursor = Self { timeline: timeline.into(), position, ordinal };
        let is_plain = !timeline.is_empty() && timeline.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (is_plain && cursor.to_string() == text).then_some(cursor)
    }
}

/// One committed change. Images carry no internal fields (password hashes, session tokens).
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Object(ObjectChange),
    /// A class was created, changed, or (`None`) deleted.
    Schema {
        class: ClassName,
        /// `None` for a new class.
        before: Option<Arc<ClassSchema>>,
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
    /// Which of the changes of its position this is: the same whoever reads them, and when.
    pub ordinal: u32,
    pub change: Change,
}

impl Committed {
    pub fn point(&self) -> Point {
        Point { position: self.position, ordinal: self.ordinal }
    }

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

    /// A position that nothing committed so far is behind, whoever committed it.
    ///
    /// # Errors
    /// [`SourceError::Unavailable`].
    async fn newest(&self) -> Result<Position, SourceError>;
}

#[derive(Clone, Debug, PartialEq)]
pub enum SourceError {
    Gone,
    Unavailable(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back_and_nothing_else_is_one() {
        let within = |position, ordinal| Cursor { timeline: "t".into(), position, ordinal };
        for (cursor, text) in [
            (Cursor::behind("t".into(), 0), "t.0"),
            (Cursor::behind("t".into(), 255), "t.ff"),
            (within(255, 0), "t.ff.0"),
            (within(Position::MAX, 17), "t.ffffffffffffffff.11"),
        ] {
            assert_eq!(cursor.to_string(), text);
            assert_eq!(Cursor::parse(text), Some(cursor));
        }
        let long = format!("{}.1", "t".repeat(MAX_CURSOR));
        for text in [
            "",
            "t",
            ".1",
            "t.",
            "t.x",
            "t.-1",
            "t.+1",
            "t.01",
            "t.F",
            "t.1.",
            "t.1.ffffffff",
            "t.1.2.3",
            "\".1",
            &long,
        ] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
        let [first, second] = [0, 1].map(|ordinal| within(2, ordinal).point());
        let mut points = [first, Point::behind(2), second, Point::behind(1)];
        points.sort_unstable();
        assert_eq!(points, [Point::behind(1), first, second, Point::behind(2)]);
        assert_eq!(points.map(Point::whole), [1, 1, 1, 2]);
    }
}
