//! How files are merged, and help for fjall's worker where it falls behind with that.

use fjall::compaction::Leveled;
use fjall::{AbstractTree, Keyspace};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Sorted files are written in pieces of this size; while one is synced, commits wait for the same disk.
const FILE_BYTES: u64 = 16 << 20;

/// With so many files that overlap, fjall's worker gets help. It merges once for each file that it writes, which may not
/// be enough; at thirty it would make commits wait until they are fewer, and nothing more would be written or merged.
const MANY_RUNS: usize = 12;

/// How files are merged.
pub(super) fn strategy() -> Arc<Leveled> {
    Arc::new(Leveled::default().with_table_target_size(FILE_BYTES))
}

/// The thread that helps, while there is one.
#[derive(Default)]
pub(super) struct Merging(Option<JoinHandle<()>>);

impl Merging {
    /// Begins to help with a keyspace that needs it, unless that is under way with one.
    pub(super) fn help(&mut self, keyspaces: &[&Keyspace]) {
        if self.0.as_ref().is_none_or(JoinHandle::is_finished) {
            let crowded = keyspaces.iter().find(|keyspace| keyspace.tree.l0_run_count() >= MANY_RUNS);
            self.0 = crowded.and_then(|keyspace| merge_beside((*keyspace).clone()));
        }
    }

    /// Waits for the help that is under way.
    pub(super) fn end(self) {
        let _ = self.0.map(JoinHandle::join);
    }
}

/// Merges files of this keyspace until they overlap less.
fn merge_beside(keyspace: Keyspace) -> Option<JoinHandle<()>> {
    let work = move || {
        let mut runs = usize::MAX;
        // A step that made nothing better is the last one: another thread may be at the same files.
        while (MANY_RUNS / 2..runs).contains(&keyspace.tree.l0_run_count()) {
            runs = keyspace.tree.l0_run_count();
            for _ in 0..2 {
                if let Err(error) = keyspace.tree.compact(strategy(), 0) {
                    return tracing::warn!(%error, "files could not be merged");
                }
            }
        }
    };
    std::thread::Builder::new().name("tidings-merge".to_owned()).spawn(work).ok()
}
