//! The thread beside the writer, for what may wait for the disk without any commit waiting along: the high-water mark and
//! the length of the journal.

use super::Shared;
use super::high_water::HighWater;
use super::open::LEAST_JOURNAL;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How often the high-water mark follows.
const MARK_EVERY: Duration = Duration::from_secs(1);

/// How long fjall's threads take to begin a new journal, once asked; asking twice would flush next to nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub(super) enum Upkeep {
    /// The journal has grown by some more.
    LookAtJournal,
    Close,
}

/// Runs until the store closes; the last mark is exact.
pub(super) fn run(shared: &Shared, mut high_water: HighWater, requests: &Receiver<Upkeep>) {
    let mut marked = shared.published.load().position;
    let mut next_mark = Instant::now() + MARK_EVERY;
    let mut next_look = Instant::now();
    loop {
        let request = requests.recv_timeout(next_mark.saturating_duration_since(Instant::now()));
        if matches!(request, Ok(Upkeep::LookAtJournal)) && Instant::now() >= next_look && shorten_journal(shared) {
            next_look = Instant::now() + LOOK_AGAIN;
        }
        let is_last = matches!(request, Ok(Upkeep::Close) | Err(RecvTimeoutError::Disconnected));
        if is_last || Instant::now() >= next_mark {
            next_mark = Instant::now() + MARK_EVERY;
            let position = shared.published.load().position;
            if position != marked {
                match high_water.write(position) {
                    Ok(()) => marked = position,
                    Err(error) => tracing::error!(%error, "the high-water mark could not be written"),
                }
            }
        }
        if is_last {
            return;
        }
    }
}

/// Keeps the journal at its limit. True if it was too long.
///
/// By itself, fjall looks at the journal only when some keyspace has filled its memory, and by then the journal can be
/// three times as long: three seconds of reading after a crash. Making one keyspace write out what it has in memory
/// makes fjall begin a new journal, and all others follow. That also deletes old files, which takes a tenth of a second
/// on a busy disk: nothing for the writer's thread.
fn shorten_journal(shared: &Shared) -> bool {
    let limit = shared.options.journal_bytes.max(LEAST_JOURNAL);
    // While an older journal waits for its keyspaces, this has just happened.
    let is_over = shared.db.journal_count() == 1 && shared.db.journal_disk_space().is_ok_and(|bytes| bytes > limit);
    if is_over && let Err(error) = shared.files.keyspaces.changes.rotate_memtable() {
        tracing::warn!(%error, "the journal could not be shortened; the next start will take longer");
    }
    is_over
}
