//! A MongoDB without a replica set: it has no change stream, no transactions and no reads of one moment.
//!
//! So this process tells its own writes as it makes them, in positions of its own, and hears nobody else's. Commits of
//! several writes are made one write after the other (see `transactions`), each of them whole.

use super::Shared;
use crate::changes::{Change, ChangeSource, ChangeTail, Committed, Position, Read, SourceError};
use async_trait::async_trait;
use std::sync::{Arc, Mutex, PoisonError};

/// Said at each start.
pub(super) const WARNING: &str = "this MongoDB is no replica set, and that costs much: live queries tell only what \
    this server writes, and their results may already show what an event tells after them; no change is kept, so \
    subscriptions begin afresh after a restart; writes that belong together (a log-in, a new password) are made one by \
    one, so that the first ones stay if a later one is refused or cut off; and no other server or program may use this \
    database. A set of one member loses nothing of this: start mongod with --replSet and run rs.initiate()";

/// What a database may hold of one object: a write is made where the row is still what it was, and names it whole.
pub(super) const LARGEST_DOCUMENT: usize = 5 << 20;

/// What this process wrote, in the order in which it was done.
#[derive(Default)]
pub(super) struct Standalone {
    /// Held while changes are handed on, so that positions grow in the tail.
    newest: Mutex<Position>,
}

impl Standalone {
    /// Tells changes that were just made; returns the position of the last one.
    pub(super) fn tell(&self, tail: &ChangeTail, changes: impl IntoIterator<Item = Change>) -> Position {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = Vec::new();
        for change in changes {
            *newest += 1;
            told.push(Arc::new(Committed { position: *newest, ordinal: 0, change }));
        }
        if !told.is_empty() {
            tail.push(told);
        }
        *newest
    }
}

/// What can be read again is what memory still holds.
pub(super) struct Recent(pub(super) Arc<Shared>);

/// How many changes are read at a time.
const BATCH: usize = 1_000;

#[async_trait]
impl ChangeSource for Recent {
    async fn read_after(&self, position: Position, _max_bytes: usize) -> Result<Vec<Arc<Committed>>, SourceError> {
        match self.0.tail.read_after(position, BATCH) {
            Read::Changes(changes) => Ok(changes),
            Read::Behind => Err(SourceError::Gone),
        }
    }

    async fn newest(&self) -> Result<Position, SourceError> {
        Ok(self.0.tail.position())
    }
}
