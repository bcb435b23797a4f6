//! The thread beside the writer, for what may wait for the disk without any commit waiting along.

use super::Shared;
use super::deferred::Deferred;
use super::forgotten::Forgotten;
use super::high_water::HighWater;
use super::memory::Memory;
use super::merging::Merging;
use super::shrinking::Shrinking;
use crate::storage::Unavailable;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How often the high-water mark follows.
const MARK_EVERY: Duration = Duration::from_secs(1);

pub(super) enum Upkeep {
    /// Some more has been written.
    LookAtMemory,
    Close,
}

/// Runs until the store closes; the last mark is exact.
pub(super) fn run(shared: &Shared, mut high_water: HighWater, mut shrinking: Shrinking, requests: &Receiver<Upkeep>) {
    let keyspaces = shared.files.keyspaces.all();
    let mut deferred = Deferred::default();
    let mut memory = Memory::default();
    let mut forgotten = Forgotten::default();
    let mut merging = Merging::default();
    let mut next_mark = Instant::now() + MARK_EVERY;
    loop {
        let request = requests.recv_timeout(next_mark.saturating_duration_since(Instant::now()));
        if matches!(request, Ok(Upkeep::LookAtMemory) | Err(RecvTimeoutError::Timeout)) {
            deferred.renew(&keyspaces, &mut shrinking);
            shrinking.shrink();
            // When nothing much is written, old journals need not wait for more.
            let may_clear = request.is_err() && shared.db.journal_count() > 1;
            memory.look(&keyspaces, shared.options.memtable_bytes, request.is_ok(), may_clear);
            merging.help(&keyspaces);
            if let Err(Unavailable(why)) = forgotten.delete(shared) {
                tracing::warn!(why, "the files of forgotten changes could not be deleted");
            }
        }
        let is_last = matches!(request, Ok(Upkeep::Close) | Err(RecvTimeoutError::Disconnected));
        if is_last || Instant::now() >= next_mark {
            next_mark = Instant::now() + MARK_EVERY;
            shrinking.watch_journals();
            if let Err(error) = high_water.follow(shared.published.load().position) {
                tracing::error!(%error, "the high-water mark could not be written");
            }
        }
        if is_last {
            return merging.end();
        }
    }
}
