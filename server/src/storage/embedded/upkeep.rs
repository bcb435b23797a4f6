//! The thread beside the writer, for what may wait for the disk without any commit waiting along: the high-water mark,
//! and deciding when what a keyspace gathered in memory goes to a file.

use super::Shared;
use super::deferred::Deferred;
use super::high_water::HighWater;
use fjall::{AbstractTree, Keyspace};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How often the high-water mark follows.
const MARK_EVERY: Duration = Duration::from_secs(1);

/// fjall makes every commit sleep a tenth of a second while four full memtables of one keyspace wait for it.
const MOST_WAITING: usize = 3;

pub(super) enum Upkeep {
    /// Some more has been written.
    LookAtMemory,
    Close,
}

/// Runs until the store closes; the last mark is exact.
pub(super) fn run(shared: &Shared, mut high_water: HighWater, requests: &Receiver<Upkeep>) {
    let keyspaces = shared.files.keyspaces.all();
    let mut deferred = Deferred::default();
    let mut next_mark = Instant::now() + MARK_EVERY;
    loop {
        let request = requests.recv_timeout(next_mark.saturating_duration_since(Instant::now()));
        if matches!(request, Ok(Upkeep::LookAtMemory) | Err(RecvTimeoutError::Timeout)) {
            deferred.renew(&keyspaces);
            keyspaces.iter().for_each(|keyspace| write_out(keyspace, shared.options.memtable_bytes));
        }
        let is_last = matches!(request, Ok(Upkeep::Close) | Err(RecvTimeoutError::Disconnected));
        if is_last || Instant::now() >= next_mark {
            next_mark = Instant::now() + MARK_EVERY;
            if let Err(error) = high_water.follow(shared.published.load().position) {
                tracing::error!(%error, "the high-water mark could not be written");
            }
        }
        if is_last {
            return;
        }
    }
}

/// Sends what a keyspace has gathered in memory to a file, if that is enough.
///
/// Left to itself, fjall decides this in each commit and asks its worker through a queue of a thousand, of which the
/// worker may find no place left for its own next request, and then both wait for ever.
fn write_out(keyspace: &Keyspace, limit: u64) {
    let is_due = keyspace.tree.active_memtable().size() > limit;
    if is_due
        && keyspace.tree.sealed_memtable_count() < MOST_WAITING
        && let Err(error) = keyspace.rotate_memtable()
    {
        tracing::warn!(%error, "memory could not be written out; the next start will take longer");
    }
}
