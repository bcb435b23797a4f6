//! What all connections share: the bounds of delivery, and how it goes as a whole.
//!
//! Two things can keep bytes waiting, and they are treated differently. A *slow reader* does not take what it is
//! offered: its queue alone is cut down, by the marks. *We* may be slow: then every queue waits, nobody is to blame, and
//! the engine stops taking changes until delivery has caught up. What tells them apart is how long the oldest entry of
//! a queue has waited although its socket was offered it just now, compared with how long entries wait as a rule.

use super::turns::Turns;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Bounds of live queries. The defaults are those of the design.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Queued bytes from which a slow reader's events are coalesced.
    pub coalesce_mark: usize,
    /// Queued bytes from which a slow reader's subscriptions start afresh.
    pub resync_mark: usize,
    /// Queued bytes from which a slow reader is disconnected.
    pub close_mark: usize,
    /// Queued bytes over all connections from which no further change is taken; and, apart, what all slow readers
    /// together may hold.
    pub global_mark: usize,
    /// How long the oldest entry of a queue may wait for a full socket before its reader counts as slow.
    pub slow_after: Duration,
    /// Subscriptions that one connection may have.
    pub max_subscriptions: usize,
    /// Bytes of filters that one connection may have, in their canonical encoding.
    pub max_filter_bytes: usize,
    /// Constraints that the filters of one connection may have; an expression counts for 16.
    pub max_effort: usize,
    /// Rows of one `result`.
    pub result_limit: usize,
    /// Bytes of rows from which one `result` takes no further row.
    pub result_bytes: usize,
    /// How long events wait for the pong behind the first `subscribed`.
    pub fence: Duration,
    /// How often a connection that wants it is told a cursor, whatever happens.
    pub checkpoint: Duration,
    /// Changes that are looked at for what one subscription has missed, and how many bytes of them; beyond, it starts
    /// afresh.
    pub replay_changes: usize,
    pub replay_log_bytes: usize,
    /// Bytes of the events that one subscription has missed; beyond, it starts afresh.
    pub replay_bytes: usize,
    /// Changes that are applied before the connections are woken.
    pub batch: usize,
    /// Reads for `result`s that run at a time; and how many of them one connection may have.
    pub reads: usize,
    pub reads_per_connection: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            coalesce_mark: 256 << 10,
            resync_mark: 1 << 20,
            close_mark: 4 << 20,
            global_mark: 64 << 20,
            slow_after: Duration::from_secs(3),
            max_subscriptions: 1_000,
            max_filter_bytes: 4 << 20,
            max_effort: 20_000,
            result_limit: 1_000,
            result_bytes: 4 << 20,
            fence: Duration::from_secs(1),
            checkpoint: Duration::from_secs(10),
            replay_changes: 100_000,
            replay_log_bytes: 128 << 20,
            replay_bytes: 4 << 20,
            batch: 256,
            reads: 64,
            reads_per_connection: 4,
        }
    }
}

/// Milliseconds since delivery began: small enough to stamp every queued frame with.
pub(crate) type Millis = u32;

/// How delivery goes, over all connections.
pub(super) struct Delivery {
    pub(super) settings: Settings,
    began: Instant,
    /// Bytes queued for readers that keep up.
    keeping: AtomicUsize,
    /// Bytes queued for slow readers.
    slow: AtomicUsize,
    pub(super) turns: Turns,
    /// How many milliseconds bytes wait in their queues as a rule: a running mean over bytes written, so that readers
    /// who take little hardly count.
    typical_wait: AtomicU32,
    /// Called when queued bytes fall below the mark again.
    resume: Box<dyn Fn() + Send + Sync>,
}

/// A reader that once was slow gets no long patience again for this long: else it could hold up everybody over and over.
const PROBATION: Millis = 60_000;
/// The patience with readers on probation, and with those whose queue alone has reached the last mark.
const SHORT_PATIENCE: Millis = 250;
/// How many typical waits a reader may take before it counts as slower than the others.
const TYPICAL_WAITS: Millis = 4;
/// Bytes over which the typical wait is averaged.
const AVERAGED_BYTES: f32 = 1_048_576.0;

impl Delivery {
    pub(super) fn new(settings: Settings, now: Instant, resume: impl Fn() + Send + Sync + 'static) -> Self {
        let resume = Arc::new(resume);
        let through = resume.clone();
        Self {
            settings,
            began: now,
            keeping: AtomicUsize::new(0),
            slow: AtomicUsize::new(0),
            turns: Turns::new(move || through()),
            typical_wait: AtomicU32::new(0),
            resume: Box::new(move || resume()),
        }
    }

    pub(super) fn millis(&self, now: Instant) -> Millis {
        now.saturating_duration_since(self.began).as_millis() as Millis
    }

    /// Whether so much waits for readers that keep up that no further change should be taken.
    pub(super) fn is_full(&self, staged: usize) -> bool {
        self.keeping_bytes() + staged >= self.settings.global_mark
    }

    /// Whether slow readers together hold more than they may.
    pub(super) fn slow_are_full(&self) -> bool {
        self.slow_bytes() > self.settings.global_mark
    }

    pub(super) fn keeping_bytes(&self) -> usize {
        self.keeping.load(Ordering::Relaxed)
    }

    pub(super) fn slow_bytes(&self) -> usize {
        self.slow.load(Ordering::Relaxed)
    }

    pub(super) fn typical_wait(&self) -> Millis {
        self.typical_wait.load(Ordering::Relaxed)
    }

    pub(super) fn added(&self, bytes: usize, slow: bool) {
        let count = if slow { &self.slow } else { &self.keeping };
        count.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn removed(&self, bytes: usize, slow: bool) {
        if slow {
            self.slow.fetch_sub(bytes, Ordering::Relaxed);
            return;
        }
        let before = self.keeping.fetch_sub(bytes, Ordering::Relaxed);
        // A little below the mark, so that the engine then has room for a whole batch.
        let enough = self.settings.global_mark / 4 * 3;
        if before >= enough && before - bytes < enough {
            (self.resume)();
        }
    }

    /// Bytes went to a socket after waiting so long in their queue.
    pub(super) fn wrote(&self, bytes: usize, waited: Millis) {
        let mean = self.typical_wait.load(Ordering::Relaxed) as f32;
        let share = (bytes as f32 / AVERAGED_BYTES).min(1.0);
        let next = mean + (waited as f32 - mean) * share;
        // Rounding away from the old mean lets small steps add up.
        let next = if next > mean { next.ceil() } else { next.floor() };
        self.typical_wait.store(next as u32, Ordering::Relaxed);
    }

    /// How long the oldest entry of this queue may wait on a full socket.
    pub(super) fn patience(&self, queued: usize, now: Millis, last_slow: Option<Millis>) -> Millis {
        let on_probation = last_slow.is_some_and(|last| now.saturating_sub(last) < PROBATION);
        let long = self.settings.slow_after.as_millis() as Millis;
        let patience = if on_probation || queued >= self.settings.close_mark { SHORT_PATIENCE.min(long) } else { long };
        patience.max(self.typical_wait().saturating_mul(TYPICAL_WAITS))
    }
}
