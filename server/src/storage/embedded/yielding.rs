//! Merging files without being in the way of commits.
//!
//! fjall installs a merged file under a lock that every insert needs: there it writes and syncs what is left of the file,
//! and reads its index and filter. A thread of low priority would keep the lock for as long as others have work for its
//! processor. So a merge is of low priority until its last entry, syncs what it writes in small pieces, and ends at the
//! priority of everything else. fjall asks a compaction filter about each entry; ours keeps them all and sees to that.

use fjall::compaction::filter::{CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// After so many bytes of entries the file is synced: a commit that waits for the disk meanwhile waits for a few
/// milliseconds at most.
const SYNC_EVERY: usize = 2 << 20;

/// The folder of a keyspace's files; known once the keyspace is open.
pub(super) type Folder = Arc<OnceLock<PathBuf>>;

/// Makes the merges of one keyspace yield.
pub(super) struct Yielding(pub(super) Folder);

impl Factory for Yielding {
    fn name(&self) -> &str {
        "yielding"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        set_priority(LOW);
        Box::new(Merge { folder: self.0.clone(), unsynced: 0 })
    }
}

struct Merge {
    folder: Folder,
    unsynced: usize,
}

impl CompactionFilter for Merge {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        self.unsynced += item.key().len() + item.value()?.len();
        if self.unsynced > SYNC_EVERY {
            self.unsynced = 0;
            self.sync();
        }
        Ok(Verdict::Keep)
    }

    fn finish(self: Box<Self>) {
        self.sync();
        set_priority(NORMAL);
    }
}

impl Merge {
    /// Syncs the newest file, which is nearly always the one being written. fjall syncs it again in the end, so nothing is
    /// lost where this fails.
    fn sync(&self) {
        let Some(folder) = self.folder.get() else { return };
        let Ok(files) = std::fs::read_dir(folder) else { return };
        let numbers = files.filter_map(|file| file.ok()?.file_name().to_str()?.parse::<u64>().ok());
        if let Some(newest) = numbers.max() {
            let _ = File::open(folder.join(newest.to_string())).and_then(|file| file.sync_data());
        }
    }
}

/// A tenth of the processor time of everything else, where there is not enough for both.
const LOW: i32 = 10;
const NORMAL: i32 = 0;

/// Of this thread. Only a privileged process may return to normal; in others the thread stays at low priority.
#[cfg(target_os = "linux")]
fn set_priority(nice: i32) {
    if let Err(error) = rustix::process::setpriority_process(None, nice) {
        tracing::trace!(%error, nice, "the priority of merging could not be changed");
    }
}

#[cfg(not(target_os = "linux"))]
fn set_priority(_: i32) {}
