//! Keeps fjall from freeing memory and deleting files under its locks, where every write would wait for it.
//!
//! A sorted file takes the place of a memtable, and a merged one that of several others, under a lock that each insert
//! needs; whoever lets go of the last reference then pays for a hundred thousand small frees, or for deleting a file: up
//! to a tenth of a second. So the upkeep thread holds one more reference, and lets go where nobody waits.

use super::shrinking::Shrinking;
use fjall::{AbstractTree, Keyspace};
use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
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
    replaced: VecDeque<Replaced>,
}

/// A version that another took the place of.
struct Replaced {
    since: Instant,
    /// What only it consists of.
    files: Vec<PathBuf>,
    version: Version,
}

/// Names the files that a keyspace consists of, and keeps them. (fjall does not name the type.)
type Version = Box<dyn Send>;

struct Current {
    memtable: u64,
    version: u64,
    tables: HashSet<u64>,
    held: Version,
}

impl Deferred {
    /// Takes hold of what these keyspaces (always the same) use now, and frees what nobody else uses any more.
    pub(super) fn renew(&mut self, keyspaces: &[&Keyspace], shrinking: &mut Shrinking) {
        for (at, keyspace) in keyspaces.iter().enumerate() {
            let (memtable, version) = (keyspace.tree.active_memtable(), keyspace.tree.current_version());
            let known = self.current.get(at).map(|known| (known.memtable, known.version));
            if known == Some((memtable.id(), version.id())) {
                continue;
            }
            let tables = version.iter_tables().map(|table| table.id()).collect();
            let now = Current { memtable: memtable.id(), version: version.id(), tables, held: Box::new(version) };
            if known.is_none_or(|(seen, _)| seen != now.memtable) {
                self.memtables.push(Box::new(move || Arc::strong_count(&memtable) == 1));
            }
            let Some(slot) = self.current.get_mut(at) else {
                self.current.push(now);
                continue;
            };
            let folder = keyspace.path().join("tables");
            let files = slot.tables.difference(&now.tables).map(|table| folder.join(table.to_string())).collect();
            let before = std::mem::replace(slot, now);
            self.replaced.push_back(Replaced { since: Instant::now(), files, version: before.held });
        }
        self.memtables.retain(|is_held_only_here| !is_held_only_here());
        while let Some(old) = self.replaced.pop_front_if(|old| old.since.elapsed() > HOLD_FILES) {
            old.files.iter().for_each(|file| shrinking.watch(file));
            drop(old.version);
        }
    }
}
