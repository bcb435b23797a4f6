//! The thread beside the writer, for what may wait for the disk without any commit waiting along: the high-water mark,
//! deciding when what a keyspace gathered in memory goes to a file, and deleting files of forgotten changes.

use super::Shared;
use super::deferred::Deferred;
use super::high_water::HighWater;
use super::open::{give_way, merging};
use super::{keys, log};
use crate::changes::Position;
use crate::storage::Unavailable;
use fjall::{AbstractTree, Keyspace};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the high-water mark follows.
const MARK_EVERY: Duration = Duration::from_secs(1);

/// fjall makes every commit sleep a tenth of a second while four full memtables of one keyspace wait for it; it may add
/// one itself.
const MOST_WAITING: usize = 2;
/// So many limits full, memory is written out all the same: then writers have to wait for the disk.
const MOST_LIMITS: u64 = 4;
/// With so many files that overlap, fjall's worker gets help. It merges once for each file that it writes, which may not
/// be enough; at thirty it would make commits wait until they are fewer, and nothing more would be written or merged.
const MANY_RUNS: usize = 12;

/// Bytes of forgotten changes that are worth deleting.
const DELETE_BYTES: u64 = 32 << 20;

pub(super) enum Upkeep {
    /// Some more has been written.
    LookAtMemory,
    Close,
}

/// Runs until the store closes; the last mark is exact.
pub(super) fn run(shared: &Shared, mut high_water: HighWater, requests: &Receiver<Upkeep>) {
    give_way();
    let keyspaces = shared.files.keyspaces.all();
    let mut deferred = Deferred::default();
    let mut memory = Memory::default();
    let mut forgotten = Forgotten::default();
    let mut helper: Option<JoinHandle<()>> = None;
    let mut next_mark = Instant::now() + MARK_EVERY;
    loop {
        let request = requests.recv_timeout(next_mark.saturating_duration_since(Instant::now()));
        if matches!(request, Ok(Upkeep::LookAtMemory) | Err(RecvTimeoutError::Timeout)) {
            deferred.renew(&keyspaces);
            memory.looks += u64::from(request.is_ok());
            // When nothing much is written, old journals need not wait for more.
            let may_clear = request.is_err() && shared.db.journal_count() > 1;
            memory.write_out(&keyspaces, shared.options.memtable_bytes, may_clear);
            if helper.as_ref().is_none_or(JoinHandle::is_finished) {
                let crowded = keyspaces.iter().find(|keyspace| keyspace.tree.l0_run_count() >= MANY_RUNS);
                helper = crowded.and_then(|keyspace| merge_beside((*keyspace).clone()));
            }
            if let Err(Unavailable(why)) = forgotten.delete(shared) {
                tracing::warn!(why, "the files of forgotten changes could not be deleted");
            }
        }
        let is_last = matches!(request, Ok(Upkeep::Close) | Err(RecvTimeoutError::Disconnected));
        if is_last || Instant::now() >= next_mark {
            next_mark = Instant::now() + MARK_EVERY;
            if let Err(error) = high_water.follow(shared.published.load().position) {
                tracing::error!(%error, "the high-water mark could not be written");
            }
        }
        if is_last {
            let _ = helper.map(JoinHandle::join);
            return;
        }
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
                if let Err(error) = keyspace.tree.compact(merging(), 0) {
                    return tracing::warn!(%error, "files could not be merged");
                }
            }
        }
    };
    std::thread::Builder::new().name("tidings-merge".to_owned()).spawn(work).ok()
}

/// How far the files of forgotten changes are deleted.
#[derive(Default)]
struct Forgotten {
    floor: Position,
    /// Bytes of the log up to the floor of the last deletion.
    deleted: u64,
}

impl Forgotten {
    /// Deletes the files that hold nothing but forgotten changes, once that is worth it.
    fn delete(&mut self, shared: &Shared) -> Result<(), Unavailable> {
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

/// After so many looks a keyspace is written out however little it holds: the journal of what it holds can go then.
const OLD: u64 = 48;
/// So many looks lie between two that are written out: each costs commits some milliseconds.
const APART: u64 = 3;

/// When what the keyspaces gathered in memory goes to files.
///
/// Left to itself, fjall decides this in each commit and asks its worker through a queue of a thousand, of which the
/// worker may find no place left for its own next request, and then both wait for ever. And when its journal is full it
/// writes out all keyspaces at once.
#[derive(Default)]
struct Memory {
    /// Looks so far, each after another [`LOOK_AT_MEMORY`](super::writer) bytes.
    looks: u64,
    /// When each keyspace was written out.
    written: [u64; 5],
    last: u64,
}

impl Memory {
    fn write_out(&mut self, keyspaces: &[&Keyspace; 5], limit: u64, may_clear: bool) {
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
