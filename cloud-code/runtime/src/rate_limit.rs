//! Sliding-window rate limits in bounded memory.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const SHARDS: usize = 16;
/// How many slots one shard remembers, over all keys: 16 shards of these are about 20 MB at most.
const SLOTS_PER_SHARD: usize = 32_768;

/// Counts what happened per key within a window. Taking a slot is atomic: of any number of concurrent callers exactly
/// `limit` get one.
///
/// Memory is bounded: past about 500,000 slots the keys that were idle longest are forgotten, which can only let
/// somebody through, never keep somebody out.
#[derive(Debug)]
pub struct RateLimiter {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Shard {
    windows: HashMap<Box<str>, Window>,
    slots: usize,
}

#[derive(Debug)]
struct Window {
    taken: VecDeque<Instant>,
    length: Duration,
}

impl Default for RateLimiter {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }
}

impl RateLimiter {
    /// No more than this many slots may be asked for per window.
    pub const MAX_LIMIT: usize = 10_000;

    /// Takes one of `limit` slots for `key` if fewer were taken within the last `window`, and says whether it did.
    pub fn take(&self, key: &str, limit: usize, window: Duration, now: Instant) -> bool {
        let limit = limit.min(Self::MAX_LIMIT);
        if limit == 0 {
            return false;
        }
        let shard = &self.shards[self.hasher.hash_one(key) as usize % SHARDS];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let shard = &mut *shard;
        if shard.slots >= SLOTS_PER_SHARD {
            shard.forget_idle(now);
        }
        if !shard.windows.contains_key(key) {
            shard.windows.insert(key.into(), Window { taken: VecDeque::new(), length: window });
        }
        let Some(entry) = shard.windows.get_mut(key) else { return false };
        entry.length = window;
        shard.slots -= entry.expire(now);
        if entry.taken.len() >= limit {
            return false;
        }
        entry.taken.push_back(now);
        shard.slots += 1;
        true
    }
}

impl Window {
    fn expire(&mut self, now: Instant) -> usize {
        let before = self.taken.len();
        while self.taken.front().is_some_and(|taken| now.saturating_duration_since(*taken) >= self.length) {
            self.taken.pop_front();
        }
        before - self.taken.len()
    }
}

impl Shard {
    /// Drops what has expired; if that frees less than a quarter, the keys idle longest as well.
    fn forget_idle(&mut self, now: Instant) {
        let goal = SLOTS_PER_SHARD / 4 * 3;
        self.windows.retain(|_, window| {
            window.expire(now);
            !window.taken.is_empty()
        });
        self.slots = self.windows.values().map(|window| window.taken.len()).sum();
        if self.slots <= goal {
            return;
        }
        let mut by_idleness: Vec<(Instant, usize)> = self
            .windows
            .values()
            .filter_map(|window| window.taken.back().map(|last| (*last, window.taken.len())))
            .collect();
        by_idleness.sort_unstable();
        let mut excess = self.slots - goal;
        let mut forget_until = None;
        for (last, slots) in by_idleness {
            forget_until = Some(last);
            excess = excess.saturating_sub(slots);
            if excess == 0 {
                break;
            }
        }
        self.windows.retain(|_, window| window.taken.back().copied() > forget_until);
        self.slots = self.windows.values().map(|window| window.taken.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_window_slides() {
        let limiter = RateLimiter::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..10 {
            assert!(limiter.take("a", 10, MINUTE, at(second)));
        }
        assert!(!limiter.take("a", 10, MINUTE, at(59)));
        assert!(limiter.take("b", 10, MINUTE, at(59)));
        assert!(limiter.take("a", 10, MINUTE, at(60)));
        assert!(!limiter.take("a", 10, MINUTE, at(60)));
        assert!(limiter.take("a", 10, MINUTE, at(61)));
    }

    #[test]
    fn concurrent_callers_share_the_slots() {
        let limiter = RateLimiter::default();
        let taken: usize = std::thread::scope(|scope| {
            let limiter = &limiter;
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(move || (0..50).filter(|_| limiter.take("k", 10, MINUTE, Instant::now())).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 10);
    }

    #[test]
    fn memory_is_bounded() {
        let limiter = RateLimiter::default();
        let start = Instant::now();
        for n in 0..(SHARDS * SLOTS_PER_SHARD * 5 / 4) as u64 {
            limiter.take(&n.to_string(), 5, MINUTE, start + Duration::from_nanos(n));
        }
        let slots: usize = limiter.shards.iter().map(|shard| shard.lock().unwrap().slots).sum();
        assert!(slots <= SHARDS * SLOTS_PER_SHARD, "{slots}");
    }
}
