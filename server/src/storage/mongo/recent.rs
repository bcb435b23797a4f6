//! Objects that are asked for with each request, as a session and its user are: kept until they change.
//!
//! What this process commits is forgotten before the commit is answered, and what others do as soon as the change stream
//! tells it. While the stream is silent for longer than it may be, or where there is none, nothing is kept for longer than
//! a moment.

use crate::changes::{Change, Position};
use quick_cache::sync::Cache;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidings_protocol::{ClassName, Object, ObjectId};

/// How old an object may be at the most. Users expect a log-out elsewhere within a second.
const MOMENT: Duration = Duration::from_millis(500);
const MOST_OBJECTS: usize = 20_000;

pub(super) struct Recent {
    objects: Cache<(ClassName, ObjectId), Kept>,
    /// Counts what was forgotten: a read that began before that must not be kept.
    forgotten: AtomicU64,
    /// Everything up to here was heard.
    heard: AtomicU64,
    /// The stream was asked then what it has answered since, in milliseconds after `born`.
    asked: AtomicU64,
    born: Instant,
}

#[derive(Clone)]
struct Kept {
    since: Instant,
    /// The stream tells of each change after it.
    is_followed: bool,
    object: Option<Arc<Object>>,
}

/// When a read began.
pub(super) struct Begun {
    forgotten: u64,
    heard: Position,
    since: Instant,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            objects: Cache::new(MOST_OBJECTS),
            forgotten: AtomicU64::default(),
            heard: AtomicU64::default(),
            asked: AtomicU64::default(),
            born: Instant::now(),
        }
    }
}

impl Recent {
    /// Whether objects of this class are kept: others are not asked for so often.
    pub(super) fn keeps(class: &ClassName) -> bool {
        *class == ClassName::SESSION || *class == ClassName::USER
    }

    /// The object as it was a moment ago, if that is known; `Some(None)` is one that did not exist.
    pub(super) fn get(&self, key: &(ClassName, ObjectId)) -> Option<Option<Arc<Object>>> {
        self.get_at(key, Instant::now())
    }

    fn get_at(&self, key: &(ClassName, ObjectId), now: Instant) -> Option<Option<Arc<Object>>> {
        let asked = self.born + Duration::from_millis(self.asked.load(Ordering::SeqCst));
        let is_current = |kept: &Kept| kept.since + MOMENT > now || kept.is_followed && asked + MOMENT > now;
        self.objects.get(key).filter(is_current).map(|kept| kept.object)
    }

    pub(super) fn begin(&self) -> Begun {
        Begun {
            forgotten: self.forgotten.load(Ordering::SeqCst),
            heard: self.heard.load(Ordering::SeqCst),
            since: Instant::now(),
        }
    }

    /// Keeps what a read has found as of a position. A member that lags behind may answer with what has passed: of that
    /// the stream tells nothing any more.
    pub(super) fn keep(&self, begun: &Begun, key: (ClassName, ObjectId), object: Option<Arc<Object>>, at: Position) {
        self.objects.insert(key.clone(), Kept { since: begun.since, is_followed: at >= begun.heard, object });
        if self.forgotten.load(Ordering::SeqCst) != begun.forgotten {
            self.objects.remove(&key);
        }
    }

    pub(super) fn forget(&self, class: &ClassName, id: &ObjectId) {
        if Self::keeps(class) {
            self.forgotten.fetch_add(1, Ordering::SeqCst);
            self.objects.remove(&(class.clone(), id.clone()));
        }
    }

    /// Forgets what these changes tell of, which are all up to this position.
    pub(super) fn hear<'a>(&self, changes: impl IntoIterator<Item = &'a Change>, until: Position) {
        // First, so that whoever begins to read now either counts what is forgotten below or is held to be behind it.
        self.heard.fetch_max(until, Ordering::SeqCst);
        for change in changes {
            match change {
                Change::Object(change) => self.forget(&change.class, &change.id),
                Change::Unseen { class, .. } if Self::keeps(class) => {
                    self.forgotten.fetch_add(1, Ordering::SeqCst);
                    self.objects.clear();
                }
                Change::Unseen { .. } | Change::Schema { .. } => {}
            }
        }
    }

    /// What the stream answered to a question of this time was heard: it told all that had happened before.
    pub(super) fn is_told(&self, asked: Instant) {
        let millis = asked.saturating_duration_since(self.born).as_millis();
        self.asked.store(u64::try_from(millis).unwrap_or_default(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> (ClassName, ObjectId) {
        (ClassName::SESSION, ObjectId::new("s"))
    }

    #[test]
    fn what_changed_meanwhile_is_not_kept() {
        let (recent, key) = (Recent::default(), key());
        let begun = recent.begin();
        recent.keep(&begun, key.clone(), None, 1);
        assert_eq!(recent.get(&key), Some(None));
        let begun = recent.begin();
        recent.forget(&key.0, &key.1);
        assert_eq!(recent.get(&key), None);
        recent.keep(&begun, key.clone(), None, 1);
        assert_eq!(recent.get(&key), None, "it was read before the change");
        let begun = recent.begin();
        recent.keep(&begun, key.clone(), None, 1);
        recent.hear([&Change::Unseen { class: ClassName::SESSION, gone: None }], 2);
        assert_eq!(recent.get(&key), None, "nobody knows which one changed");
    }

    #[test]
    fn an_object_is_kept_while_the_stream_is_heard() {
        let (recent, key) = (Recent::default(), key());
        let long_after = |age: Duration| recent.get_at(&key, recent.born + age);
        recent.hear([], 7);
        recent.keep(&recent.begin(), key.clone(), None, 7);
        assert_eq!(long_after(2 * MOMENT), None, "nobody has told anything");
        recent.is_told(recent.born + 2 * MOMENT);
        assert_eq!(long_after(2 * MOMENT), Some(None));
        assert_eq!(long_after(3 * MOMENT), None, "the stream is silent");
        recent.is_told(recent.born + 3 * MOMENT);
        assert_eq!(long_after(3 * MOMENT), Some(None), "it has told that nothing happened meanwhile");
        recent.keep(&recent.begin(), key.clone(), None, 6);
        assert_eq!(long_after(3 * MOMENT), None, "what was told already may be lacking");
    }
}
