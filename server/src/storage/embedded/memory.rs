//! When what the keyspaces gathered in memory goes to files.
//!
//! Left to itself, fjall decides this in each commit and asks its worker through a queue of a thousand, of which the
//! worker may find no place left for its own next request, and then both wait for ever. And when its journal is full it
//! writes out all keyspaces at once.

use fjall::{AbstractTree, Keyspace};

/// fjall makes every commit sleep a tenth of a second while four full memtables of one keyspace wait for it; it may add
/// one itself.
const MOST_WAITING: usize = 2;
/// So many limits full, memory is written out all the same: then writers have to wait for the disk.
const MOST_LIMITS: u64 = 4;
/// After so many looks a keyspace is written out however little it holds: the journal of what it holds can go then.
const OLD: u64 = 48;
/// So many looks lie between two that are written out: each costs commits some milliseconds.
const APART: u64 = 3;

#[derive(Default)]
pub(super) struct Memory {
    /// Looks so far at which more had come.
    looks: u64,
    /// When each keyspace was written out.
    written: [u64; 5],
    last: u64,
}

impl Memory {
    /// Writes out what is due. `has_grown` tells that another [`LOOK_AT_MEMORY`](super::writer) bytes came, and `may_clear`
    /// that everything may go at once.
    pub(super) fn look(&mut self, keyspaces: &[&Keyspace; 5], limit: u64, has_grown: bool, may_clear: bool) {
        self.looks += u64::from(has_grown);
        for (keyspace, written) in keyspaces.iter().zip(&mut self.written) {
            let size = keyspace.tree.active_memtable().size();
            let is_due = size > limit || size > 0 && (may_clear || self.looks - *written >= OLD);
            let is_good_moment =
                (may_clear || self.looks - self.last >= APART) && keyspace.tree.sealed_memtable_count() < MOST_WAITING;
            if !(is_due && is_good_moment || size > MOST_LIMITS * limit) {
                continue;
            }
            (*written, self.last) = (self.looks, self.looks);
            if let Err(error) = keyspace.rotate_memtable() {
                tracing::warn!(%error, "memory could not be written out; the next start will take longer");
            }
        }
    }
}
