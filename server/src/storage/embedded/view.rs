//! One published state and how rows are read from it: the store's [`Snapshot`].

use super::cache::{Cache, Moment};
use super::catalog::{Catalog, ClassState};
use super::find;
use super::keys::{self, ClassId, MAX_ID, Sequence};
use super::rows::{self, Corrupt};
use crate::changes::{Cursor, Position};
use crate::schema::Schemas;
use crate::storage::{Explanation, Selection, Snapshot, Unavailable};
use async_trait::async_trait;
use compact_str::CompactString;
use fjall::{Keyspace, Readable};
use rustc_hash::FxHashMap;
use std::sync::Arc;
use tidings_protocol::{ClassName, Object, ObjectId, Value};
use tokio::sync::Semaphore;

/// What is durable and visible: replaced as a whole after each group of commits.
pub(super) struct Published {
    pub(super) disk: fjall::Snapshot,
    pub(super) position: Position,
    /// Changes up to here are no longer kept.
    pub(super) floor: Position,
    pub(super) catalog: Catalog,
    pub(super) schemas: Schemas,
    /// How many rows each class has.
    pub(super) counts: Arc<FxHashMap<ClassId, u64>>,
}

impl Published {
    pub(super) fn count(&self, class: &ClassState) -> u64 {
        self.counts.get(&class.id).copied().unwrap_or_default()
    }
}

/// The fixed keyspaces. None is ever added for a class: each costs memory and files of its own.
#[derive(Clone)]
pub(super) struct Keyspaces {
    pub(super) meta: Keyspace,
    pub(super) rows: Keyspace,
    pub(super) ids: Keyspace,
    pub(super) indexes: Keyspace,
    pub(super) changes: Keyspace,
}

impl Keyspaces {
    pub(super) fn all(&self) -> [&Keyspace; 5] {
        [&self.changes, &self.rows, &self.indexes, &self.ids, &self.meta]
    }
}

/// What every reader needs, whatever the moment.
pub(super) struct Files {
    pub(super) keyspaces: Keyspaces,
    pub(super) cache: Cache,
    pub(super) timeline: CompactString,
    /// Reads that take long, at a time.
    pub(super) long_reads: Semaphore,
}

#[derive(Clone)]
pub(super) struct View {
    pub(super) files: Arc<Files>,
    pub(super) published: Arc<Published>,
}

/// A row as its readers know it.
pub(super) type Row = (Sequence, Arc<Object>);

impl View {
    pub(super) fn class(&self, name: &ClassName) -> Option<&Arc<ClassState>> {
        self.published.catalog.get(name)
    }

    pub(super) fn moment(&self, class: &ClassState) -> Moment {
        Moment { at: self.published.position, generation: class.generation }
    }

    /// The object with this id, from the cache or from disk.
    pub(super) fn row(&self, class: &ClassState, id: &str) -> Result<Option<Row>, Unavailable> {
        if id.is_empty() || id.len() > MAX_ID {
            return Ok(None);
        }
        if let Some(row) = self.files.cache.get(class.id, id, self.moment(class)) {
            return Ok(Some(row));
        }
        let keyspaces = &self.files.keyspaces;
        let Some(bytes) = self.published.disk.get(&keyspaces.ids, keys::id(class.id, id)).map_err(unavailable)? else {
            return Ok(None);
        };
        let sequence = keys::number(&bytes).ok_or(Corrupt("an id has no sequence"))?;
        let Some(object) = self.row_on_disk(class, sequence)? else { return Ok(None) };
        self.files.cache.keep(class.id, sequence, &object, self.moment(class));
        Ok(Some((sequence, object)))
    }

    /// The object that an index entry names. `keeps` puts it into the cache: not for long scans, which would flush it.
    pub(super) fn row_of_entry(
        &self,
        class: &ClassState,
        sequence: Sequence,
        id: &str,
        keeps: bool,
    ) -> Result<Option<Arc<Object>>, Unavailable> {
        if let Some((_, object)) = self.files.cache.get(class.id, id, self.moment(class)) {
            return Ok(Some(object));
        }
        let object = self.row_on_disk(class, sequence)?;
        if let Some(object) = object.as_ref().filter(|_| keeps) {
            self.files.cache.keep(class.id, sequence, object, self.moment(class));
        }
        Ok(object)
    }

    fn row_on_disk(&self, class: &ClassState, sequence: Sequence) -> Result<Option<Arc<Object>>, Unavailable> {
        let key = keys::row(class.id, sequence);
        let bytes = self.published.disk.get(&self.files.keyspaces.rows, key).map_err(unavailable)?;
        Ok(bytes.map(|bytes| rows::decode(&bytes, &class.removals)).transpose()?.map(Arc::new))
    }
}

#[async_trait]
impl Snapshot for View {
    fn cursor(&self) -> Cursor {
        Cursor::behind(self.files.timeline.clone(), self.published.position)
    }

    async fn get(&self, class: &ClassName, id: &ObjectId) -> Result<Option<Arc<Object>>, Unavailable> {
        let Some(class) = self.class(class) else { return Ok(None) };
        Ok(self.row(class, id)?.map(|(_, object)| object))
    }

    async fn find(&self, selection: &Selection) -> Result<Vec<Arc<Object>>, Unavailable> {
        find::find(self, selection).await.map(|found| found.objects)
    }

    async fn count(&self, selection: &Selection) -> Result<u64, Unavailable> {
        find::count(self, selection).await
    }

    async fn distinct(&self, selection: &Selection, field: &str) -> Result<Option<Vec<Value>>, Unavailable> {
        find::distinct(self, selection, field).await
    }

    async fn explain(&self, selection: &Selection) -> Result<Explanation, Unavailable> {
        find::find(self, selection).await.map(|found| found.explanation)
    }
}

pub(super) fn unavailable(error: fjall::Error) -> Unavailable {
    Unavailable(format!("the store on disk: {error}"))
}

impl From<Corrupt> for Unavailable {
    fn from(corrupt: Corrupt) -> Self {
        Self(format!("the store on disk is damaged: {}", corrupt.0))
    }
}
