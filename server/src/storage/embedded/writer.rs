//! The one thread that writes: it takes all waiting commits, makes them one durable batch, publishes and answers.
//!
//! In between, a little at a time, it does the work that nobody waits for ([`super::chores`]).

use super::Shared;
use super::cache::Moment;
use super::catalog::{self, Dropped, Numbers};
use super::chores::Chores;
use super::group::{Group, Limits};
use super::keys;
use super::upkeep::Upkeep;
use super::view::{Published, View};
use crate::schema::{ClassSchema, SchemaEdit};
use crate::storage::{Refused, Unavailable, Write, WriteError, Written};
use fjall::{OwnedWriteBatch, PersistMode};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

/// A group is closed at this many commits: later ones wait for the next, so that the first do not wait for all.
const GROUP_COMMITS: usize = 1_024;
/// And at this many bytes.
const GROUP_BYTES: usize = 8 << 20;
/// Bytes between two looks at what has gathered in memory.
const LOOK_AT_MEMORY: usize = 512 << 10;
/// How often the thread looks for work when nobody writes.
const IDLE: Duration = Duration::from_secs(10);

pub(super) enum Request {
    Commit { writes: Vec<Write>, answer: Answer<Vec<Written>, Refused> },
    Edit { edit: SchemaEdit, answer: Answer<Option<Arc<ClassSchema>>, WriteError> },
    Close,
}

pub(super) type Answer<T, E> = oneshot::Sender<Result<T, E>>;

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) requests: Receiver<Request>,
    pub(super) numbers: Numbers,
    pub(super) log_bytes: u64,
    pub(super) chores: Chores,
    /// Bytes written since `upkeep` was last told to look.
    pub(super) unseen_bytes: usize,
    pub(super) upkeep: Sender<Upkeep>,
}

/// An answer that waits until its group is on disk.
enum Waiting {
    Commit(Answer<Vec<Written>, Refused>, Result<Vec<Written>, Refused>),
    Edit(Answer<Option<Arc<ClassSchema>>, WriteError>, Result<Option<Arc<ClassSchema>>, WriteError>),
}

impl Waiting {
    /// Whoever no longer listens does not mind.
    fn send(self) {
        match self {
            Self::Commit(answer, result) => drop(answer.send(result)),
            Self::Edit(answer, result) => drop(answer.send(result)),
        }
    }

    fn fail(self, why: &Unavailable) {
        match self {
            Self::Commit(answer, _) => drop(answer.send(Err(why.clone().into()))),
            Self::Edit(answer, _) => drop(answer.send(Err(why.clone().into()))),
        }
    }
}

impl Writer {
    pub(super) fn run(mut self) {
        loop {
            let request = if self.chores.is_busy() {
                match self.requests.try_recv() {
                    Ok(request) => Some(request),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => return,
                }
            } else {
                match self.requests.recv_timeout(IDLE) {
                    Ok(request) => Some(request),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            };
            if let Some(request) = request
                && !self.serve(request)
            {
                return;
            }
            if let Err(error) = self.chore() {
                // Without its chores the store only grows; what it says stays right.
                tracing::error!(error = error.0, "the store's clean-up failed and stops until the next start");
                self.chores.stop();
            }
        }
    }

    /// One group, or several where the schema changes in between. False when the store is to close.
    fn serve(&mut self, first: Request) -> bool {
        let mut group = self.open_group();
        let mut waiting = Vec::new();
        let mut next = Some(first);
        while let Some(request) = next.take() {
            match request {
                Request::Close => {
                    self.finish(group, waiting);
                    return false;
                }
                Request::Commit { writes, answer } => {
                    self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
                    waiting.push(Waiting::Commit(answer, group.commit(writes)));
                }
                Request::Edit { edit, answer } => {
                    self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
                    // What a removed field hides is told by positions on disk, not in a group half done.
                    self.finish(group, std::mem::take(&mut waiting));
                    let mut alone = self.open_group();
                    let result = alone.edit_schema(edit);
                    self.finish(alone, vec![Waiting::Edit(answer, result)]);
                    group = self.open_group();
                }
            }
            if waiting.len() < GROUP_COMMITS && group.bytes < GROUP_BYTES {
                next = self.requests.try_recv().ok();
            }
        }
        self.finish(group, waiting);
        true
    }

    fn open_group(&self) -> Group {
        let options = &self.shared.options;
        let limits = Limits { object_bytes: options.object_bytes, commit_bytes: options.commit_bytes };
        Group::new(self.shared.view(), self.numbers, self.log_bytes, now(), limits)
    }

    /// Makes a group durable, then visible, then answers.
    fn finish(&mut self, group: Group, waiting: Vec<Waiting>) {
        let outcome = match self.shared.stopped.get() {
            Some(why) => Err(why.clone()),
            None if group.is_empty() => Ok(()),
            None => self.write(group),
        };
        match outcome {
            Ok(()) => waiting.into_iter().for_each(Waiting::send),
            Err(why) => waiting.into_iter().for_each(|waiting| waiting.fail(&why)),
        }
    }

    fn write(&mut self, group: Group) -> Result<(), Unavailable> {
        let keyspaces = &self.shared.files.keyspaces;
        let before = group.view().published.clone();
        let items = group.rows.len() + group.ids.len() + group.entries.len() + group.records.len() + 8;
        let mut batch =
            OwnedWriteBatch::with_capacity(self.shared.db.clone(), items).durability(Some(PersistMode::SyncAll));
        for ((class, sequence), row) in &group.rows {
            match &row.object {
                Some((_, bytes)) => batch.insert(&keyspaces.rows, keys::row(*class, *sequence), bytes.as_slice()),
                None => batch.remove(&keyspaces.rows, keys::row(*class, *sequence)),
            }
        }
        for ((class, id), sequence) in &group.ids {
            match sequence {
                Some(sequence) if group.is_new(*sequence) => {
                    batch.insert(&keyspaces.ids, keys::id(*class, id), sequence.to_be_bytes());
                }
                Some(_) => {}
                None => batch.remove(&keyspaces.ids, keys::id(*class, id)),
            }
        }
        for (key, value) in &group.entries {
            match value {
                Some(value) => batch.insert(&keyspaces.indexes, key.as_slice(), value.to_bytes()),
                None => batch.remove(&keyspaces.indexes, key.as_slice()),
            }
        }
        for (position, record) in &group.records {
            batch.insert(&keyspaces.changes, keys::change(*position), record.as_slice());
        }
        let mut counts = before.counts.clone();
        if group.counts.values().any(|by| *by != 0) {
            let counts = Arc::make_mut(&mut counts);
            for (class, by) in group.counts.iter().filter(|(_, by)| **by != 0) {
                let count = counts.entry(*class).or_default();
                *count = count.saturating_add_signed(*by);
                batch.insert(&keyspaces.meta, catalog::count_key(*class), count.to_be_bytes());
            }
        }
        for (key, value) in &group.meta {
            match value {
                Some(value) => batch.insert(&keyspaces.meta, key.as_slice(), value.as_slice()),
                None => batch.remove(&keyspaces.meta, key.as_slice()),
            }
        }
        let started = Instant::now();
        if let Err(error) = batch.commit() {
            return Err(self.shared.stop(&error));
        }
        metrics::histogram!("tidings_store_group_seconds").record(started.elapsed().as_secs_f64());
        metrics::histogram!("tidings_store_group_changes").record(group.records.len() as f64);
        self.numbers = group.numbers;
        self.log_bytes = group.log_bytes;
        for ((class, _), row) in &group.rows {
            self.shared.files.cache.mark_written(*class, &row.id, group.position);
        }
        for ((class, sequence), row) in &group.rows {
            match &row.object {
                Some((object, _)) => {
                    let moment = Moment { at: group.position, generation: row.generation };
                    self.shared.files.cache.insert(*class, *sequence, object, moment);
                }
                None => self.shared.files.cache.remove(*class, &row.id),
            }
        }
        let schemas = if Arc::ptr_eq(&group.catalog, &before.catalog) {
            before.schemas.clone()
        } else {
            let dropped = group.meta.keys().filter_map(|key| Dropped::from_key(key));
            self.chores.look_at(&group.catalog, dropped);
            catalog::schemas(&group.catalog)
        };
        self.shared.publish(Published {
            disk: self.shared.db.snapshot(),
            position: group.position,
            floor: before.floor,
            catalog: group.catalog,
            schemas,
            counts,
        });
        self.chores.wrote(group.records.len());
        self.unseen_bytes += group.bytes;
        if self.unseen_bytes > LOOK_AT_MEMORY {
            self.unseen_bytes = 0;
            // Gone only when the store closes.
            let _ = self.upkeep.send(Upkeep::LookAtMemory);
        }
        self.shared.tail.push(group.changes);
        Ok(())
    }

    fn chore(&mut self) -> Result<(), Unavailable> {
        if self.shared.stopped.get().is_some() {
            self.chores.stop();
            return Ok(());
        }
        let view: View = self.shared.view();
        let Some(done) = self.chores.next(&view, &self.shared, self.log_bytes, now())? else { return Ok(()) };
        // Nobody waits for this, and the next group syncs it with its own writes.
        let batch = done.batch.durability(Some(PersistMode::Buffer));
        if let Err(error) = batch.commit() {
            return Err(self.shared.stop(&error));
        }
        let before = &view.published;
        self.shared.publish(Published {
            disk: self.shared.db.snapshot(),
            position: before.position,
            floor: done.floor,
            catalog: done.catalog,
            schemas: before.schemas.clone(),
            counts: before.counts.clone(),
        });
        Ok(())
    }
}

/// Milliseconds since 1970.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
