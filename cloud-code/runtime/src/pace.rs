//! How a hook has behaved lately: what decides where it runs next.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// Counts of recent runs. They are halved from time to time, so that old runs fade; races between threads may lose a
/// count, which does no harm.
#[derive(Debug, Default)]
pub struct Pace {
    runs: AtomicU32,
    slow: AtomicU32,
    waited: AtomicU32,
}

/// What [`Pace`] knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recent {
    pub runs: u32,
    /// Runs that took longer than [`Pace::SLOW`] of a thread's time.
    pub slow: u32,
    /// Runs that waited for the host.
    pub waited: u32,
}

impl Pace {
    pub const SLOW: Duration = Duration::from_micros(200);
    const FADE_AFTER: u32 = 1_000;

    pub(crate) fn record(&self, elapsed: Duration, waited: bool) {
        if waited {
            self.waited.fetch_add(1, Relaxed);
        } else if elapsed > Self::SLOW {
            self.slow.fetch_add(1, Relaxed);
        }
        if self.runs.fetch_add(1, Relaxed) + 1 >= Self::FADE_AFTER {
            for count in [&self.runs, &self.slow, &self.waited] {
                count.store(count.load(Relaxed) / 2, Relaxed);
            }
        }
    }

    pub fn recent(&self) -> Recent {
        Recent { runs: self.runs.load(Relaxed), slow: self.slow.load(Relaxed), waited: self.waited.load(Relaxed) }
    }
}
