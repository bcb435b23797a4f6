//! Work that nobody waits for, done by the writer in small chunks between groups: building new indexes, emptying dropped
//! ones and dropped classes, taking the bytes of removed fields out of rows, and forgetting old changes.
//!
//! Each chunk is one batch that also says how far it came, so that a restart goes on from there.

use super::Shared;
use super::catalog::{self, Catalog, ClassState, Dropped};
use super::indexes::Index;
use super::keys;
use super::log;
use super::rows;
use super::scan::Rows;
use super::view::{View, unavailable};
use crate::changes::Position;
use crate::storage::Unavailable;
use fjall::{Keyspace, OwnedWriteBatch, Readable};
use std::sync::Arc;
use tidings_protocol::ClassName;

/// Rows or entries in one chunk: about two milliseconds, for which commits wait.
const CHUNK: usize = 500;
/// Changes between two looks at how much is kept.
const LOOK_AFTER: usize = 2_000;
/// Milliseconds between two such looks when nobody writes.
const LOOK_EVERY: i64 = 10_000;

#[derive(Debug, Default)]
pub(super) struct Chores {
    dropped: Vec<Dropped>,
    classes: Vec<ClassName>,
    /// Changes written since the last look at retention.
    written: usize,
    /// When that was.
    looked_at: i64,
    stopped: bool,
}

/// A chunk that is ready to be written, and the state that follows from it.
pub(super) struct Done {
    pub(super) batch: OwnedWriteBatch,
    pub(super) catalog: Catalog,
    pub(super) floor: Position,
}

impl Chores {
    pub(super) fn new(catalog: &Catalog, dropped: Vec<Dropped>) -> Self {
        let mut chores = Self { dropped, ..Self::default() };
        chores.look_at(catalog, []);
        chores
    }

    /// The schema changed: what is there to do?
    pub(super) fn look_at(&mut self, catalog: &Catalog, dropped: impl IntoIterator<Item = Dropped>) {
        self.dropped.extend(dropped);
        self.classes = catalog.iter().filter(|(_, class)| class.has_work()).map(|(name, _)| name.clone()).collect();
    }

    pub(super) fn wrote(&mut self, changes: usize) {
        self.written += changes;
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.stopped && (!self.dropped.is_empty() || !self.classes.is_empty())
    }

    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    /// The next chunk. `None` if there is nothing to write now.
    pub(super) fn next(
        &mut self,
        view: &View,
        shared: &Shared,
        log_bytes: u64,
        now: i64,
    ) -> Result<Option<Done>, Unavailable> {
        if self.stopped {
            return Ok(None);
        }
        let mut done = Done {
            batch: OwnedWriteBatch::with_capacity(shared.db.clone(), CHUNK),
            catalog: view.published.catalog.clone(),
            floor: view.published.floor,
        };
        // Retention first: it keeps pace with the writes, the others only have to end.
        if self.written >= LOOK_AFTER || now.saturating_sub(self.looked_at) > LOOK_EVERY {
            self.written = 0;
            self.looked_at = now;
            forget(view, shared, log_bytes, now, &mut done)?;
        } else if let Some(dropped) = self.dropped.last().copied() {
            if empty(view, dropped, &mut done)? {
                self.dropped.pop();
            }
        } else if let Some(name) = self.classes.last() {
            let class = view.class(name).filter(|class| class.has_work());
            match class {
                Some(class) => work_on(view, name, class, &mut done)?,
                None => drop(self.classes.pop()),
            }
        }
        Ok((!done.batch.is_empty()).then_some(done))
    }
}

/// Moves the floor over the oldest changes where retention allows. Their files go later, whole (`upkeep`): taking them
/// out one by one would make fjall merge the log's beginning with its end, over and over.
fn forget(view: &View, shared: &Shared, log_bytes: u64, now: i64, done: &mut Done) -> Result<(), Unavailable> {
    let published = &view.published;
    let options = &shared.options;
    let oldest_age = i64::try_from(options.retention_age.as_millis()).unwrap_or(i64::MAX);
    let is_over = |position: Position| -> Result<bool, Unavailable> {
        let Some(header) = log::header_at(view, position)? else { return Ok(true) };
        let is_old = now.saturating_sub(header.committed_at) > oldest_age;
        Ok(is_old || log_bytes.saturating_sub(header.bytes_before) > options.retention_bytes)
    };
    // Age and bytes only fall towards the newest record, which stays whatever its age: it tells how far the store has
    // come.
    let (mut first_kept, mut newest) = (published.floor + 1, published.position);
    if first_kept >= newest || !is_over(first_kept)? {
        return Ok(());
    }
    while first_kept < newest {
        let middle = first_kept + (newest - first_kept) / 2;
        if is_over(middle)? { first_kept = middle + 1 } else { newest = middle }
    }
    done.floor = first_kept - 1;
    done.batch.insert(&view.files.keyspaces.meta, catalog::FLOOR, done.floor.to_be_bytes());
    Ok(())
}

/// Takes out some of what was dropped. True when there is nothing left of it.
fn empty(view: &View, dropped: Dropped, done: &mut Done) -> Result<bool, Unavailable> {
    let keyspaces = &view.files.keyspaces;
    let mut room = 4 * CHUNK;
    let mut take = |keyspace: &Keyspace, prefix: &[u8]| -> Result<(), Unavailable> {
        for item in view.published.disk.prefix(keyspace, prefix).take(room) {
            done.batch.remove(keyspace, item.key().map_err(unavailable)?);
            room -= 1;
        }
        Ok(())
    };
    match dropped {
        Dropped::Index(index) => take(&keyspaces.indexes, &keys::index(index))?,
        Dropped::Class(class) => {
            take(&keyspaces.rows, &keys::class(class))?;
            take(&keyspaces.ids, &keys::class(class))?;
        }
    }
    let is_empty = room > 0;
    if is_empty {
        done.batch.remove(&keyspaces.meta, dropped.key());
    }
    Ok(is_empty)
}

/// Builds indexes of a class, then cleans its rows.
fn work_on(view: &View, name: &ClassName, class: &Arc<ClassState>, done: &mut Done) -> Result<(), Unavailable> {
    let mut changed = ClassState::clone(class);
    let keyspaces = &view.files.keyspaces;
    let building = class.indexes.iter().enumerate().find_map(|(at, index)| Some((at, index.building?)));
    match building {
        Some((at, from)) => {
            let index = &class.indexes[at];
            let mut rows = Rows::new(view, class, from);
            let mut next = None;
            for _ in 0..CHUNK {
                let Some((sequence, object)) = rows.next()? else {
                    next = None;
                    break;
                };
                for (key, value) in index.entries(&object, sequence) {
                    done.batch.insert(&keyspaces.indexes, key, value.to_bytes());
                }
                next = Some(sequence + 1);
            }
            changed.indexes[at] = Arc::new(Index { building: next, ..Index::clone(index) });
        }
        None => {
            let mut rows = Rows::new(view, class, class.cleaned_to);
            let mut next = None;
            for _ in 0..CHUNK {
                let Some((sequence, bytes)) = rows.next_bytes()? else {
                    next = None;
                    break;
                };
                if let Some(clean) = rows::cleaned(&bytes, &class.removals)? {
                    done.batch.insert(&keyspaces.rows, keys::row(class.id, sequence), clean);
                }
                next = Some(sequence + 1);
            }
            changed.cleaned_to = next.unwrap_or_default();
            if next.is_none() {
                changed.removals.clear();
            }
        }
    }
    done.batch.insert(&keyspaces.meta, catalog::class_key(name), changed.to_bytes());
    Arc::make_mut(&mut done.catalog).insert(name.clone(), Arc::new(changed));
    Ok(())
}
