//! The newest changes in memory: what the live-query engine reads while it keeps up.

use super::{Committed, Position};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The newest committed changes, bounded by bytes, and how far their one follower has come.
///
/// The store pushes in commit order. The follower reads what comes after its position; when it has fallen behind the
/// oldest change kept here it is told so, and reads the change log instead.
pub struct ChangeTail {
    recent: Mutex<Recent>,
    max_bytes: usize,
    /// Position of the newest change.
    published: AtomicU64,
    /// The newest position that somebody may know of.
    reached: AtomicU64,
    /// Everything up to here was pushed.
    told: AtomicU64,
    /// Called after each push; must not block.
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

struct Recent {
    changes: VecDeque<Kept>,
    bytes: usize,
    /// The position before the oldest change kept.
    floor: Position,
    /// The position that the follower has applied.
    followed: Position,
    /// Bytes of changes pushed that the follower has not applied.
    lag_bytes: usize,
    /// When the oldest change not applied was pushed, as far as known here.
    behind_since: Option<Instant>,
    /// Whether anybody follows: without live queries nothing lags.
    has_follower: bool,
}

impl Recent {
    fn is_same_position(&self, at: usize, other: &Kept) -> bool {
        self.changes.get(at).is_some_and(|kept| kept.change.position == other.change.position)
    }
}

struct Kept {
    change: Arc<Committed>,
    pushed: Instant,
    /// Counted once: when it is dropped, the change has long left the processor's cache.
    weight: usize,
}

/// What a follower finds after its position.
#[derive(Debug)]
pub enum Read {
    /// In order, none missing; empty when it has caught up.
    Changes(Vec<Arc<Committed>>),
    /// The next change is no longer here: read the change log.
    Behind,
}

impl ChangeTail {
    /// A tail that keeps about `max_bytes` and continues after `position`.
    pub fn new(position: Position, max_bytes: usize) -> Self {
        let recent = Recent {
            changes: VecDeque::new(),
            bytes: 0,
            floor: position,
            followed: position,
            lag_bytes: 0,
            behind_since: None,
            has_follower: false,
        };
        let [published, reached, told] = [(); 3].map(|()| AtomicU64::new(position));
        Self { recent: Mutex::new(recent), max_bytes, published, reached, told, wake: OnceLock::new() }
    }

    /// Registers the follower's wake-up call. Only the first one counts.
    pub fn follow(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.lock().has_follower = true;
        let _ = self.wake.set(Box::new(wake));
    }

    /// Appends changes in order, all of a position in one call.
    pub fn push(&self, changes: impl IntoIterator<Item = Arc<Committed>>) {
        let now = Instant::now();
        let mut recent = self.lock();
        for change in changes {
            let weight = change.weight();
            self.published.store(change.position, Ordering::Release);
            recent.bytes += weight;
            recent.lag_bytes += weight;
            recent.behind_since.get_or_insert(now);
            recent.changes.push_back(Kept { change, pushed: now, weight });
        }
        while recent.bytes > self.max_bytes {
            let Some(oldest) = recent.changes.pop_front() else { break };
            recent.bytes -= oldest.weight;
            recent.floor = oldest.change.position;
        }
        drop(recent);
        if let Some(wake) = self.wake.get() {
            wake();
        }
    }

    /// Somebody was told of this position. A change at it may be still to be pushed.
    pub fn reached(&self, position: Position) {
        self.reached.fetch_max(position, Ordering::AcqRel);
    }

    /// Nothing up to this position is still to be pushed: time passes also where nothing happens.
    pub fn told(&self, position: Position) {
        self.told.fetch_max(position, Ordering::AcqRel);
        self.reached(position);
    }

    /// How far one has heard who then finds nothing to read.
    pub fn quiet_until(&self) -> Position {
        self.told.load(Ordering::Acquire)
    }

    /// Position of the newest change.
    pub fn position(&self) -> Position {
        self.published.load(Ordering::Acquire)
    }

    /// The newest position that anybody can know of. A change at it may still be on its way here.
    pub fn newest(&self) -> Position {
        self.position().max(self.reached.load(Ordering::Acquire))
    }

    /// About `max` changes after `position`: whole positions only.
    pub fn read_after(&self, position: Position, max: usize) -> Read {
        let recent = self.lock();
        if position < recent.floor {
            return Read::Behind;
        }
        let start = recent.changes.partition_point(|kept| kept.change.position <= position);
        let mut end = start.saturating_add(max).min(recent.changes.len());
        while end > start && recent.changes.get(end).is_some_and(|next| recent.is_same_position(end - 1, next)) {
            end += 1;
        }
        Read::Changes(recent.changes.range(start..end).map(|kept| kept.change.clone()).collect())
    }

    /// The follower has applied everything up to `position`, which weighed `bytes`.
    pub fn applied(&self, position: Position, bytes: usize) {
        let mut recent = self.lock();
        recent.followed = position;
        recent.lag_bytes = recent.lag_bytes.saturating_sub(bytes);
        let next = recent.changes.partition_point(|kept| kept.change.position <= position);
        recent.behind_since = match recent.changes.get(next) {
            // Without the entry at hand the old time still bounds it from above.
            Some(next) if recent.followed >= recent.floor => Some(next.pushed),
            Some(_) => recent.behind_since,
            None => {
                recent.lag_bytes = 0;
                None
            }
        };
    }

    /// How far the follower is behind: bytes of changes, and for how long.
    pub fn lag(&self) -> (usize, Duration) {
        let recent = self.lock();
        if !recent.has_follower {
            return (0, Duration::ZERO);
        }
        (recent.lag_bytes, recent.behind_since.map_or(Duration::ZERO, |since| since.elapsed()))
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        // No code that runs under the lock can leave the list half-changed.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changes::{Change, ObjectChange};
    use tidings_protocol::{ClassName, ObjectId};

    fn change(position: Position) -> Arc<Committed> {
        let change = ObjectChange {
            class: ClassName::from_trusted("C"),
            id: ObjectId::new("x"),
            before: None,
            after: Some(Arc::default()),
        };
        Arc::new(Committed { position, ordinal: 0, change: Change::Object(change) })
    }

    #[test]
    fn a_follower_reads_in_order_and_learns_when_it_is_behind() {
        let tail = ChangeTail::new(10, change(1).weight() * 3);
        tail.follow(|| {});
        tail.push((11..=13).map(change));
        let positions = |read| match read {
            Read::Changes(changes) => changes.iter().map(|change| change.position).collect::<Vec<_>>(),
            Read::Behind => panic!("behind"),
        };
        assert_eq!(positions(tail.read_after(10, 2)), [11, 12]);
        assert_eq!(positions(tail.read_after(12, 9)), [13]);
        assert!(positions(tail.read_after(13, 9)).is_empty());
        tail.push([change(14)]);
        assert!(matches!(tail.read_after(10, 9), Read::Behind));
        assert_eq!(positions(tail.read_after(11, 9)), [12, 13, 14]);
        assert_eq!(tail.position(), 14);
        // What shares a position is read together.
        tail.push([change(20), change(20)]);
        assert_eq!(positions(tail.read_after(13, 1)), [14]);
        assert_eq!(positions(tail.read_after(14, 1)), [20, 20]);
        tail.reached(25);
        tail.reached(22);
        assert_eq!((tail.position(), tail.newest(), tail.quiet_until()), (20, 25, 10));
        tail.told(24);
        assert_eq!((tail.position(), tail.newest(), tail.quiet_until()), (20, 25, 24));
    }

    #[test]
    fn lag_counts_what_was_not_applied() {
        let tail = ChangeTail::new(0, 1 << 20);
        tail.follow(|| {});
        tail.push([change(1), change(2)]);
        let weight = change(1).weight();
        assert_eq!(tail.lag().0, 2 * weight);
        tail.applied(1, weight);
        assert_eq!(tail.lag().0, weight);
        tail.applied(2, weight);
        assert_eq!(tail.lag(), (0, Duration::ZERO));
    }
}
