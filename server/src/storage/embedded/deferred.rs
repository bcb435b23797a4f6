//! Keeps fjall from freeing memory and deleting files under its locks, where every write would wait for it.
//!
//! A sorted file takes the place of a memtable, and a merged one that of several others, under a lock that each insert
//! needs; whoever lets go of the last reference then pays for a hundred thousand small frees, or for deleting a file: up
//! to a tenth of a second. So the upkeep thread holds one more reference, and lets go where nobody waits.

use fjall::{AbstractTree, Keyspace};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Replaced files live this much longer: fjall has forgotten them by then, as it does with each memtable it writes out.
const HOLD_FILES: Duration = Duration::from_secs(20);

#[derive(Default)]
pub(super) struct Deferred {
    /// The memtable and the version that each keyspace used last time.
    seen: Vec<(u64, u64)>,
    /// One per memtable: tells whether it is held only here. (fjall does not name the type.)
    memtables: Vec<Box<dyn Fn() -> bool + Send>>,
    /// Versions name the files that a keyspace consists of.
    versions: VecDeque<(Instant, Box<dyn Send>)>,
}

impl Deferred {
    /// Takes hold of what these keyspaces (always the same) use now, and frees what nobody else uses any more.
    pub(super) fn renew(&mut self, keyspaces: &[&Keyspace]) {
        self.seen.resize(keyspaces.len(), (u64::MAX, u64::MAX));
        for (keyspace, (seen_memtable, seen_version)) in keyspaces.iter().zip(&mut self.seen) {
            let memtable = keyspace.tree.active_memtable();
            if *seen_memtable != memtable.id() {
                *seen_memtable = memtable.id();
                self.memtables.push(Box::new(move || Arc::strong_count(&memtable) == 1));
            }
            let version = keyspace.tree.current_version();
            if *seen_version != version.id() {
                *seen_version = version.id();
                self.versions.push_back((Instant::now(), Box::new(version)));
            }
        }
        self.memtables.retain(|is_held_only_here| !is_held_only_here());
        while self.versions.front().is_some_and(|(since, _)| since.elapsed() > HOLD_FILES) {
            self.versions.pop_front();
        }
    }
}
