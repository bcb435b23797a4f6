//! All retained changes, read from disk: for a follower that fell behind, and for one that comes back.

use super::Shared;
use super::view::unavailable;
use super::{keys, log};
use crate::changes::{ChangeSource, Committed, Position, SourceError};
use crate::storage::Unavailable;
use async_trait::async_trait;
use fjall::Readable;
use std::sync::Arc;

pub(super) struct Retained(pub(super) Arc<Shared>);

#[async_trait]
impl ChangeSource for Retained {
    async fn read_after(&self, position: Position, max_bytes: usize) -> Result<Vec<Arc<Committed>>, SourceError> {
        let published = self.0.published.load_full();
        if position < published.floor {
            return Err(SourceError::Gone);
        }
        if position >= published.position {
            return Ok(Vec::new());
        }
        let range = keys::change(position + 1)..=keys::change(published.position);
        let mut changes = Vec::new();
        let mut bytes = 0;
        for item in published.disk.range(&self.0.files.keyspaces.changes, range) {
            let (key, record) =
                item.into_inner().map_err(unavailable).map_err(|Unavailable(why)| SourceError::Unavailable(why))?;
            bytes += record.len();
            // A record that cannot be read will not become readable: the follower starts over behind it.
            let committed = log::decode(keys::number(&key).unwrap_or_default(), &record).map_err(|_| {
                tracing::error!(position = position + 1 + changes.len() as u64, "a change record is damaged");
                SourceError::Gone
            })?;
            // A hole would be a lost event, which must not pass for silence.
            if committed.position != position + 1 + changes.len() as u64 {
                return Err(SourceError::Gone);
            }
            changes.push(Arc::new(committed));
            if bytes >= max_bytes {
                break;
            }
        }
        Ok(changes)
    }

    async fn newest(&self) -> Result<Position, SourceError> {
        Ok(self.0.published.load().position)
    }
}
