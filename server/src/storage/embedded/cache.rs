//! Decoded objects in memory, coherent with every snapshot without a lock between readers and the writer.
//!
//! Each object belongs to a slot that holds the position at which any object of that slot was last written. A cached
//! object that was current at position `as_of` is what a reader at position `at` must see exactly if its slot was not
//! written after either. The writer marks the slots before it publishes, and readers look at the slot *after* they took
//! the object out, so that an object of the future is never taken for one of the past.
//!
//! Several objects share a slot; a write to one makes the others look stale, which costs one read from disk.

use super::keys::{ClassId, Sequence};
use crate::changes::Position;
use quick_cache::{Equivalent, Weighter};
use rustc_hash::{FxBuildHasher, FxHasher};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidings_protocol::{Object, ObjectId};

/// Two megabytes. With 10,000 writes per second an object that nobody writes looks stale every 26 seconds.
const SLOTS: usize = 1 << 18;
/// What an entry costs beside its object: key, links, list nodes.
const OVERHEAD: usize = 160;

pub(super) struct Cache {
    entries: quick_cache::sync::Cache<Key, Entry, Weigh, FxBuildHasher>,
    slots: Box<[AtomicU64]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    class: ClassId,
    id: ObjectId,
}

#[derive(Hash)]
struct Borrowed<'a> {
    class: ClassId,
    id: &'a str,
}

impl Equivalent<Key> for Borrowed<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.class == key.class && self.id == key.id.as_str()
    }
}

#[derive(Clone)]
struct Entry {
    object: Arc<Object>,
    sequence: Sequence,
    as_of: Position,
    /// The class's generation when the object was decoded.
    generation: Position,
    /// Bytes, counted once: the object itself has long left the processor's cache when the entry is thrown out.
    weight: u64,
}

#[derive(Clone)]
struct Weigh;

impl Weighter<Key, Entry> for Weigh {
    fn weight(&self, _: &Key, entry: &Entry) -> u64 {
        entry.weight
    }
}

/// Where a reader stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) at: Position,
    pub(super) generation: Position,
}

impl Cache {
    pub(super) fn new(bytes: u64) -> Self {
        // An estimate of the number of objects only sizes the first tables.
        let estimated = usize::try_from(bytes / 1024).unwrap_or(usize::MAX).max(16);
        let entries = quick_cache::sync::Cache::with(
            estimated,
            bytes,
            Weigh,
            FxBuildHasher,
            quick_cache::sync::DefaultLifecycle::default(),
        );
        Self { entries, slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect() }
    }

    pub(super) fn get(&self, class: ClassId, id: &str, moment: Moment) -> Option<(Sequence, Arc<Object>)> {
        let entry = self.entries.get(&Borrowed { class, id })?;
        let written = self.slot(class, id).load(Ordering::Acquire);
        (written <= entry.as_of.min(moment.at) && entry.generation == moment.generation)
            .then_some((entry.sequence, entry.object))
    }

    /// Keeps what a reader found on disk, unless somebody wrote it meanwhile.
    pub(super) fn keep(&self, class: ClassId, sequence: Sequence, object: &Arc<Object>, moment: Moment) {
        if self.slot(class, &object.id).load(Ordering::Acquire) <= moment.at {
            self.insert(class, sequence, object, moment);
        }
    }

    /// The writer's turn, before it publishes: what is cached of this object is old for readers at `position`.
    pub(super) fn mark_written(&self, class: ClassId, id: &str, position: Position) {
        self.slot(class, id).store(position, Ordering::Release);
    }

    /// The writer's turn, after marking: the object as it was just written.
    pub(super) fn insert(&self, class: ClassId, sequence: Sequence, object: &Arc<Object>, moment: Moment) {
        let weight = (object.weight() + OVERHEAD) as u64;
        let entry = Entry { object: object.clone(), sequence, as_of: moment.at, generation: moment.generation, weight };
        self.entries.insert(Key { class, id: object.id.clone() }, entry);
    }

    pub(super) fn remove(&self, class: ClassId, id: &str) {
        self.entries.remove(&Borrowed { class, id });
    }

    fn slot(&self, class: ClassId, id: &str) -> &AtomicU64 {
        let mut hasher = FxHasher::default();
        Borrowed { class, id }.hash(&mut hasher);
        // The high bits of this hash are the better mixed ones.
        &self.slots[(hasher.finish() >> 32) as usize & (SLOTS - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_see_their_own_moment() {
        let cache = Cache::new(1 << 20);
        let object = |n: f64| {
            let fields = tidings_protocol::map! { "n" => n };
            Arc::new(Object { id: ObjectId::new("x"), fields, ..Object::default() })
        };
        let moment = |at| Moment { at, generation: 0 };
        let (first, second) = (object(1.0), object(2.0));
        cache.keep(1, 5, &first, moment(10));
        assert_eq!(cache.get(1, "x", moment(10)), Some((5, first.clone())));
        assert_eq!(cache.get(1, "x", moment(30)), Some((5, first.clone())), "nothing was written since");
        assert_eq!(cache.get(1, "x", Moment { at: 30, generation: 3 }), None);
        assert_eq!(cache.get(2, "x", moment(10)), None);
        cache.mark_written(1, "x", 20);
        assert_eq!(cache.get(1, "x", moment(30)), None, "stale");
        cache.insert(1, 5, &second, moment(20));
        assert_eq!(cache.get(1, "x", moment(20)), Some((5, second.clone())));
        assert_eq!(cache.get(1, "x", moment(19)), None, "not there yet at 19");
        // A slow reader of the past keeps nothing, and what it would keep is not believed.
        cache.keep(1, 5, &first, moment(19));
        assert_eq!(cache.get(1, "x", moment(20)), Some((5, second)));
        cache.insert(1, 5, &first, moment(19));
        assert_eq!(cache.get(1, "x", moment(20)), None);
    }
}
