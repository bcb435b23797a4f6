//! Objects that are asked for with each request, as a session and its user are: kept for a moment.
//!
//! What this process commits is forgotten before the commit is answered, and what others do as soon as the change stream
//! tells it, or after that moment at the latest.

use crate::changes::Change;
use quick_cache::sync::Cache;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidings_protocol::{ClassName, Object, ObjectId};

/// How long an object may be kept while the change stream says nothing. Users expect a log-out elsewhere within a second.
const MOMENT: Duration = Duration::from_millis(500);
const MOST_OBJECTS: usize = 20_000;

pub(super) struct Recent {
    objects: Cache<(ClassName, ObjectId), Kept>,
    /// Counts what was forgotten: a read that began before that must not be kept.
    forgotten: AtomicU64,
}

#[derive(Clone)]
struct Kept {
    since: Instant,
    object: Option<Arc<Object>>,
}

/// When a read began.
pub(super) struct Begun {
    forgotten: u64,
    since: Instant,
}

impl Default for Recent {
    fn default() -> Self {
        Self { objects: Cache::new(MOST_OBJECTS), forgotten: AtomicU64::default() }
    }
}

impl Recent {
    /// Whether objects of this class are kept: others are not asked for so often.
    pub(super) fn keeps(class: &ClassName) -> bool {
        *class == ClassName::SESSION || *class == ClassName::USER
    }

    /// The object as it was a moment ago, if that is known; `Some(None)` is one that did not exist.
    pub(super) fn get(&self, key: &(ClassName, ObjectId)) -> Option<Option<Arc<Object>>> {
        self.objects.get(key).filter(|kept| kept.since.elapsed() < MOMENT).map(|kept| kept.object)
    }

    pub(super) fn begin(&self) -> Begun {
        Begun { forgotten: self.forgotten.load(Ordering::SeqCst), since: Instant::now() }
    }

    /// Keeps what a read has found.
    pub(super) fn keep(&self, begun: &Begun, key: (ClassName, ObjectId), object: Option<Arc<Object>>) {
        self.objects.insert(key.clone(), Kept { since: begun.since, object });
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

    /// Forgets what a change tells of.
    pub(super) fn hear(&self, change: &Change) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_meanwhile_is_not_kept() {
        let recent = Recent::default();
        let key = (ClassName::SESSION, ObjectId::new("s"));
        let begun = recent.begin();
        recent.keep(&begun, key.clone(), None);
        assert_eq!(recent.get(&key), Some(None));
        let begun = recent.begin();
        recent.forget(&key.0, &key.1);
        assert_eq!(recent.get(&key), None);
        recent.keep(&begun, key.clone(), None);
        assert_eq!(recent.get(&key), None, "it was read before the change");
        let begun = recent.begin();
        recent.keep(&begun, key.clone(), None);
        recent.hear(&Change::Unseen { class: ClassName::SESSION, gone: None });
        assert_eq!(recent.get(&key), None, "nobody knows which one changed");
    }
}
