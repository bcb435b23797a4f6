//! Keeps fjall from freeing memory and deleting files under its locks, where every write would wait for it.
//!
//! A sorted file takes the place of a memtable, and a merged one that of several others, under a lock that each insert
//! needs; whoever lets go of the last reference then pays for a hundred thousand small frees, or for deleting a file: up
//! to a tenth of a second. So the upkeep thread holds one more reference, and lets go where nobody waits.

use fjall::{AbstractTree, Keyspace};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Replaced files live this much longer. By then fjall has forgotten them, as it does with each memtable it writes out.
const HOLD_FILES: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Deferred {
    /// What each keyspace used last time.
    current: Vec<Current>,
    /// One per memtable: tells whether it is held only here. (fjall does not name the type.)
    memtables: Vec<Box<dyn Fn() -> bool + Send>>,
    /// Versions that were replaced, and when.
    replaced: VecDeque<(Instant, Version)>,
}

/// Names the files that a keyspace consists of, and keeps them. (fjall does not name the type.)
type Version = Box<dyn Send>;

struct Current {
    memtable: u64,
    version: u64,
    held: Version,
}

impl Deferred {
    /// Takes hold of what these keyspaces (always the same) use now, and frees what nobody else uses any more.
    pub(super) fn renew(&mut self, keyspaces: &[&Keyspace]) {
        for (at, keyspace) in keyspaces.iter().enumerate() {
            let (memtable, version) = (keyspace.tree.active_memtable(), keyspace.tree.current_version());
            let known = self.current.get(at).map(|known| (known.memtable, known.version));
            if known == Some((memtable.id(), version.id())) {
                continue;
            }
            let now = Current { memtable: memtable.id(), version: version.id(), held: Box::new(version) };
            if known.is_none_or(|(seen, _)| seen != now.memtable) {
                self.memtables.push(Box::new(move || Arc::strong_count(&memtable) == 1));
            }
            match self.current.get_mut(at) {
                Some(slot) => self.replaced.push_back((Instant::now(), std::mem::replace(slot, now).held)),
                None => self.current.push(now),
            }
        }
        self.memtables.retain(|is_held_only_here| !is_held_only_here());
        while self.replaced.front().is_some_and(|(since, _)| since.elapsed() > HOLD_FILES) {
            self.replaced.pop_front();
        }
    }
}
