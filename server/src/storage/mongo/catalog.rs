//! The classes as this process knows them: read when it opens, then kept by its own commits and by the change stream.

use crate::changes::Position;
use crate::schema::{ClassSchema, Schemas};
use arc_swap::ArcSwap;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tidings_protocol::ClassName;

pub(super) struct Catalog {
    schemas: ArcSwap<BTreeMap<ClassName, Arc<ClassSchema>>>,
    /// When each class was last changed. News come from two sides, and the older one may come later.
    changed: Mutex<HashMap<ClassName, Position>>,
}

impl Catalog {
    pub(super) fn new(schemas: BTreeMap<ClassName, Arc<ClassSchema>>) -> Self {
        Self { schemas: ArcSwap::from_pointee(schemas), changed: Mutex::default() }
    }

    pub(super) fn all(&self) -> Schemas {
        self.schemas.load_full()
    }

    pub(super) fn get(&self, class: &ClassName) -> Option<Arc<ClassSchema>> {
        // Relations are alike, and have no rows in `_SCHEMA`.
        let relation = || class.is_relation().then(|| Arc::new(ClassSchema::new(class.clone())));
        self.schemas.load().get(class).cloned().or_else(relation)
    }

    /// The class, or an empty one: objects may be there before their class was heard of.
    pub(super) fn get_or_empty(&self, class: &ClassName) -> Arc<ClassSchema> {
        self.get(class).unwrap_or_else(|| Arc::new(ClassSchema::new(class.clone())))
    }

    pub(super) fn put(&self, class: &ClassName, schema: Option<Arc<ClassSchema>>, at: Position) {
        // No code that runs under the lock can leave the map half-changed.
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        let last = changed.entry(class.clone()).or_default();
        if at < *last {
            return;
        }
        *last = at;
        let mut schemas = BTreeMap::clone(&self.schemas.load());
        match schema {
            Some(schema) => schemas.insert(class.clone(), schema),
            None => schemas.remove(class),
        };
        self.schemas.store(Arc::new(schemas));
    }
}
