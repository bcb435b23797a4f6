//! Deleting files of changes that retention has let go.

use super::{Shared, keys, log};
use crate::changes::Position;
use crate::storage::Unavailable;
use fjall::AbstractTree;

/// Bytes of forgotten changes that are worth deleting.
const DELETE_BYTES: u64 = 32 << 20;

/// How far the files of forgotten changes are deleted.
#[derive(Default)]
pub(super) struct Forgotten {
    floor: Position,
    /// Bytes of the log up to the floor of the last deletion.
    deleted: u64,
}

impl Forgotten {
    /// Deletes the files that hold nothing but forgotten changes, once that is worth it.
    pub(super) fn delete(&mut self, shared: &Shared) -> Result<(), Unavailable> {
        let view = shared.view();
        let floor = view.published.floor;
        if floor == self.floor {
            return Ok(());
        }
        self.floor = floor;
        let bytes = log::header_at(&view, floor + 1)?.map_or(0, |header| header.bytes_before);
        if bytes.saturating_sub(self.deleted) > DELETE_BYTES.min(shared.options.retention_bytes / 4) {
            self.deleted = bytes;
            let changes = &view.files.keyspaces.changes;
            changes.tree.drop_range(..=keys::change(floor)).map_err(|error| Unavailable(error.to_string()))?;
        }
        Ok(())
    }
}
