//! The store of one machine: objects on an LSM tree ([`fjall`]), written by one thread, read by everybody.
//!
//! **Writing.** `writer` takes all commits that wait, applies each to the row as it is (`group`), makes them one
//! durable batch with their change records, publishes the new state and answers. **Reading.** A `view` is one
//! published state; `planner` finds the way to what a selection asks for, `find` goes it, `scan` reads along it,
//! and `cache` keeps decoded objects. **On disk.** `keys` has the layout, `rows` and `log` the values,
//! `catalog` the classes and `indexes` their indexes; `chores` builds and cleans up in the background.
//! `open` refuses a store that lost what `high_water` says it had; `upkeep` keeps that mark, and decides what goes
//! to files and which files go (`memory`, `merging`, `forgotten`, `deferred`).

mod cache;
mod catalog;
mod chores;
mod deferred;
mod find;
mod forgotten;
mod group;
mod high_water;
mod indexes;
mod keys;
mod log;
mod memory;
mod merging;
mod open;
mod planner;
mod retained;
mod rows;
mod scan;
mod shrinking;
#[cfg(test)]
mod tests;
mod upkeep;
mod view;
mod writer;
mod yielding;

pub use open::OpenError;

use super::{Answer, Refused, Snapshot, Storage, Unavailable, Write, WriteError, Written};
use crate::changes::{ChangeSource, ChangeTail};
use crate::schema::{ClassSchema, SchemaEdit, Schemas};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use chores::Chores;
use retained::Retained;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tidings_protocol::{Error, Object};
use tokio::sync::oneshot;
use upkeep::Upkeep;
use view::{Files, Published, View};
use writer::{Request, Writer};

/// The bounds of an embedded store. The defaults are those of a server that has its machine to itself.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// Memory for decoded objects.
    pub cache_bytes: u64,
    /// Memory for blocks of files.
    pub block_cache_bytes: u64,
    /// Writes gathered in memory, per keyspace, before they go to a sorted file. Much of it makes a start after a crash
    /// slow, as all of it is read from the journal again.
    pub memtable_bytes: u64,
    /// The largest object, as stored.
    pub object_bytes: usize,
    /// The largest commit: all its objects as stored.
    pub commit_bytes: usize,
    /// Reads at a time that take longer than a moment; more of them wait.
    pub long_reads: usize,
    /// How many commits may wait for the writer. Beyond that they are refused.
    pub waiting_commits: usize,
    /// Changes that the live-query engine finds in memory.
    pub tail_bytes: usize,
    /// Changes are kept this long, but not more of them than `retention_bytes`.
    pub retention_age: Duration,
    pub retention_bytes: u64,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            block_cache_bytes: 128 << 20,
            memtable_bytes: 16 << 20,
            object_bytes: 1 << 20,
            commit_bytes: 16 << 20,
            long_reads: std::thread::available_parallelism().map_or(1, usize::from),
            waiting_commits: 100_000,
            tail_bytes: 32 << 20,
            retention_age: Duration::from_secs(24 * 60 * 60),
            retention_bytes: 1 << 30,
        }
    }
}

/// A store in a folder of its own. See [`Storage`] for what it promises.
pub struct Embedded {
    shared: Arc<Shared>,
    /// Taken by `close`.
    threads: Mutex<Option<Threads>>,
    requests: Sender<Request>,
}

struct Threads {
    writer: JoinHandle<()>,
    upkeep: JoinHandle<()>,
    ends_upkeep: Sender<Upkeep>,
}

/// What the handle, its readers and the writer have in common.
pub(crate) struct Shared {
    db: fjall::Database,
    files: Arc<Files>,
    published: ArcSwap<Published>,
    tail: Arc<ChangeTail>,
    options: EmbeddedOptions,
    /// Commits that the writer has not taken yet.
    waiting: AtomicUsize,
    /// Set when nothing can be written any more, with the reason.
    stopped: OnceLock<Unavailable>,
    /// Held as long as the files are open.
    _lock: File,
}

impl Shared {
    fn view(&self) -> View {
        View { files: self.files.clone(), published: self.published.load_full() }
    }

    fn publish(&self, state: Published) {
        self.published.store(Arc::new(state));
    }

    /// Stops all writing after a failure that leaves open what is on disk. Reads go on.
    fn stop(&self, error: &fjall::Error) -> Unavailable {
        tracing::error!(%error, "writing to the store failed; writes are refused until the server is restarted");
        metrics::gauge!("tidings_store_stopped").set(1.0);
        let why = Unavailable(format!("writing to the store failed: {error}"));
        self.stopped.get_or_init(|| why).clone()
    }
}

impl Embedded {
    /// Opens the store in this folder, or makes one there.
    ///
    /// # Errors
    /// Why it was not opened, in words for whoever runs the server.
    pub fn open(folder: &Path, options: EmbeddedOptions) -> Result<Arc<Self>, OpenError> {
        let opened = open::open(folder, &options)?;
        let chores = Chores::new(&opened.published.catalog, opened.dropped);
        let shared = Arc::new(Shared {
            db: opened.db,
            files: Arc::new(opened.files),
            tail: Arc::new(ChangeTail::new(opened.published.position, options.tail_bytes)),
            published: ArcSwap::from_pointee(opened.published),
            options,
            waiting: AtomicUsize::new(0),
            stopped: OnceLock::new(),
            _lock: opened.lock,
        });
        // Commits wait here in the order of their calls; `waiting_commits` bounds how many.
        let (requests, taken) = mpsc::channel();
        // One short message for each half megabyte that is written.
        let (ends_upkeep, looked_after) = mpsc::channel();
        let writer = Writer {
            shared: shared.clone(),
            requests: taken,
            numbers: opened.numbers,
            log_bytes: opened.log_bytes,
            chores,
            unseen_bytes: 0,
            upkeep: ends_upkeep.clone(),
        };
        let for_upkeep = shared.clone();
        let shrinking = shrinking::Shrinking::new(folder.join("store"));
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
            thread.map_err(|error| OpenError::Io { path: folder.to_owned(), why: error.to_string() })
        };
        let writer = spawn("tidings-store", Box::new(move || writer.run()))?;
        let upkeep = spawn(
            "tidings-upkeep",
            Box::new(move || upkeep::run(&for_upkeep, opened.high_water, shrinking, &looked_after)),
        )?;
        let threads = Threads { writer, upkeep, ends_upkeep };
        Ok(Arc::new(Self { shared, threads: Mutex::new(Some(threads)), requests }))
    }

    /// Puts a request into the queue, in the order of the calls.
    fn request<T: Send + 'static, E: From<Unavailable> + Send + 'static>(
        &self,
        request: impl FnOnce(writer::Answer<T, E>) -> Request,
    ) -> Answer<Result<T, E>> {
        let waiting = self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        if waiting >= self.shared.options.waiting_commits {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            metrics::counter!("tidings_store_commits_refused_total").increment(1);
            let why = Unavailable("too many commits are waiting".to_owned());
            return Box::pin(std::future::ready(Err(why.into())));
        }
        let (answer, answered) = oneshot::channel();
        let closed = || E::from(Unavailable("the store is closed".to_owned()));
        if self.requests.send(request(answer)).is_err() {
            return Box::pin(std::future::ready(Err(closed())));
        }
        Box::pin(async move { answered.await.unwrap_or_else(|_| Err(closed())) })
    }

    fn stop_threads(&self) {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Threads { writer, upkeep, ends_upkeep }) = threads else { return };
        // Everything that was enqueued before is finished first.
        let _ = self.requests.send(Request::Close);
        if writer.join().is_err() {
            tracing::error!("the store's writer had panicked");
        }
        let _ = ends_upkeep.send(Upkeep::Close);
        if upkeep.join().is_err() {
            tracing::error!("the store's upkeep had panicked");
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

#[async_trait]
impl Storage for Embedded {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, Unavailable> {
        Ok(Box::new(self.shared.view()))
    }

    fn commit(&self, writes: Vec<Write>) -> Answer<Result<Vec<Written>, Refused>> {
        self.request(|answer| Request::Commit { writes, answer })
    }

    fn commits_as_one(&self) -> bool {
        true
    }

    fn edit_schema(&self, edit: SchemaEdit) -> Answer<Result<Option<Arc<ClassSchema>>, WriteError>> {
        self.request(|answer| Request::Edit { edit, answer })
    }

    fn has_memory(&self) -> bool {
        true
    }

    fn check_size(&self, object: &Object) -> Result<(), Error> {
        group::check_size(object, self.shared.options.object_bytes)
    }

    fn schemas(&self) -> Schemas {
        self.shared.published.load().schemas.clone()
    }

    fn tail(&self) -> Arc<ChangeTail> {
        self.shared.tail.clone()
    }

    fn change_source(&self) -> Arc<dyn ChangeSource> {
        Arc::new(Retained(self.shared.clone()))
    }

    async fn close(&self) {
        self.stop_threads();
    }
}
