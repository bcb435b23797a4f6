//! The store in a MongoDB database, in Parse Server's own format: an existing Parse database is served as it is.
//!
//! **Writing.** A commit waits in its `lanes`, then `commit` makes it: one command where MongoDB's operators do what
//! ours do (`updates`), else a transaction in which our own code decides. **Reading.** A `view` is one cluster time; a
//! `plan` asks for as much as MongoDB can say (`filters`), and `reads` looks at the rest itself. Under load single objects
//! are read together, and new ones inserted together (`gathering`). **Hearing.** `feed` follows the database's change
//! stream, so that the writes of other processes are heard like our own; a database without a replica set has none, nor
//! transactions, and `standalone` is what is left of the contract there. **In the database.** `documents` knows the form
//! of objects, `schemas` that of classes; `collections` prepares their collections, and `indexes` what they are searched
//! by; `catalog` holds the classes as this process knows them, and `errors` what the driver's failures mean.

mod catalog;
mod collections;
mod commit;
mod documents;
mod edits;
mod errors;
mod feed;
mod filters;
mod gathering;
mod indexes;
mod lanes;
mod open;
mod pages;
mod plan;
mod reads;
mod recent;
mod schemas;
mod standalone;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod transactions;
mod unique;
mod updates;
mod view;

pub use open::OpenError;

use super::{Answer, Refused, Snapshot, Storage, Unavailable, Write, WriteError, Written};
use crate::changes::{Change, ChangeSource, ChangeTail, Cursor, Position};
use crate::schema::{ClassSchema, SchemaEdit, Schemas};
use async_trait::async_trait;
use catalog::Catalog;
use collections::Collections;
use compact_str::CompactString;
use errors::Malformed;
use gathering::Gathering;
use lanes::{Lane, Lanes};
use mongodb::bson::{RawDocument, Timestamp};
use mongodb::{Client, Collection, Database};
use recent::Recent;
use standalone::Standalone;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidings_protocol::{ClassName, Object, ObjectId};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// The bounds of the store in MongoDB.
#[derive(Clone, Debug)]
pub struct MongoOptions {
    /// The largest object, as stored; never more than `LARGEST_DOCUMENT`.
    pub object_bytes: usize,
    /// The largest commit: all its objects as stored.
    pub commit_bytes: usize,
    /// How many commits may be under way. Beyond that they are refused.
    pub waiting_commits: u32,
    /// Changes that the live-query engine finds in memory.
    pub tail_bytes: usize,
    /// What the addresses of files begin with, if they are to have any: documents hold names only.
    pub files_url: Option<String>,
}

impl Default for MongoOptions {
    fn default() -> Self {
        Self {
            object_bytes: 1 << 20,
            commit_bytes: 16 << 20,
            waiting_commits: 100_000,
            tail_bytes: 32 << 20,
            files_url: None,
        }
    }
}

/// MongoDB takes documents of 16 MiB. A little room is left for what its commands and our edits put around an object.
const LARGEST_DOCUMENT: usize = (16 << 20) - (64 << 10);

/// How long the driver may take to say good-bye. Nothing is under way any more, but where it has its hosts from DNS, it sleeps
/// up to a minute before it notices.
const LEAVING: Duration = Duration::from_secs(1);

/// A store in a MongoDB database. See [`Storage`] for what it promises.
pub struct Mongo {
    shared: Arc<Shared>,
    /// Follows the change stream; ended by `close`.
    following: Mutex<Option<JoinHandle<()>>>,
}

/// What commits, readers and the change stream have in common.
struct Shared {
    client: Client,
    db: Database,
    options: MongoOptions,
    catalog: Catalog,
    collections: Collections,
    recent: Recent,
    gets: Gathering<reads::Get>,
    inserts: Gathering<commit::Insert>,
    lanes: Arc<Lanes>,
    tail: Arc<ChangeTail>,
    timeline: CompactString,
    /// Where the database tells nothing of what happens in it.
    standalone: Option<Standalone>,
    /// Whether a router answers: collections may be sharded.
    is_router: bool,
    /// One permit for each commit that may be under way; closed with the store.
    commits: Arc<Semaphore>,
    runtime: Handle,
}

impl Shared {
    /// The object of a document of this class.
    fn decode(&self, document: &RawDocument, schema: &ClassSchema) -> Result<Object, Malformed> {
        documents::decode(document, Some(schema), self.options.files_url.as_deref())
    }

    fn objects<T: Send + Sync>(&self, class: &str) -> Collection<T> {
        self.db.collection(class)
    }

    /// Tells what was just written, where nobody else does.
    fn tell(&self, changes: impl IntoIterator<Item = Change>) {
        if let Some(standalone) = &self.standalone {
            standalone.tell(&self.tail, changes);
        }
    }

    fn cursor(&self, position: Position) -> Cursor {
        Cursor::behind(self.timeline.clone(), position)
    }
}

/// A position is a cluster time: seconds, and a count within the second.
fn position(time: Timestamp) -> Position {
    u64::from(time.time) << 32 | u64::from(time.increment)
}

fn timestamp(position: Position) -> Timestamp {
    Timestamp { time: (position >> 32) as u32, increment: position as u32 }
}

impl Mongo {
    /// Runs a commit or an edit to its end, in its place, whatever becomes of the answer.
    fn run<T, E, F>(&self, lanes: Vec<Lane>, work: impl FnOnce(Arc<Shared>) -> F) -> Answer<Result<T, E>>
    where
        T: Send + 'static,
        E: From<Unavailable> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let refuse = |why: &str| -> Answer<Result<T, E>> {
            Box::pin(std::future::ready(Err(Unavailable(why.to_owned()).into())))
        };
        let permit = match self.shared.commits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(tokio::sync::TryAcquireError::Closed) => return refuse("the store is closed"),
            Err(tokio::sync::TryAcquireError::NoPermits) => {
                metrics::counter!("tidings_store_commits_refused_total").increment(1);
                return refuse("too many commits are waiting");
            }
        };
        let mut place = self.shared.lanes.enter(lanes);
        let work = work(self.shared.clone());
        let task = self.shared.runtime.spawn(async move {
            place.reached().await;
            let outcome = work.await;
            drop((place, permit));
            outcome
        });
        Box::pin(async move {
            task.await.unwrap_or_else(|error| Err(Unavailable(format!("a commit ended early: {error}")).into()))
        })
    }
}

#[async_trait]
impl Storage for Mongo {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, Unavailable> {
        Ok(Box::new(view::View::new(self.shared.clone())))
    }

    async fn recent(&self, class: &ClassName, id: &ObjectId) -> Result<Option<Arc<Object>>, Unavailable> {
        let key = (class.clone(), id.clone());
        if let Some(kept) = self.shared.recent.get(&key) {
            return Ok(kept);
        }
        let begun = self.shared.recent.begin();
        let object = self.snapshot().await?.get(class, id).await?;
        if Recent::keeps(class) {
            self.shared.recent.keep(&begun, key, object.clone());
        }
        Ok(object)
    }

    fn commit(&self, writes: Vec<Write>) -> Answer<Result<Vec<Written>, Refused>> {
        let mut lanes = Vec::with_capacity(writes.len());
        // Members wait where their owners do.
        for write in writes.iter().filter(|write| !write.class.is_relation()) {
            lanes.push(Lane::Object(write.class.clone(), write.id.clone()));
            // Without transactions, who asks for a value that nobody holds must be the only one.
            let asks_alone = self.shared.standalone.is_some() && !write.guard.unique.is_empty();
            if asks_alone || commit::brings_columns(&self.shared, write) {
                lanes.push(Lane::Class(write.class.clone()));
            }
        }
        self.run(lanes, |shared| commit::commit(shared, writes))
    }

    fn commits_as_one(&self) -> bool {
        self.shared.standalone.is_none()
    }

    fn edit_schema(&self, edit: SchemaEdit) -> Answer<Result<Option<Arc<ClassSchema>>, WriteError>> {
        let class = match &edit {
            SchemaEdit::Create(schema) => &schema.class,
            SchemaEdit::Update(class, _) | SchemaEdit::Delete(class) => class,
        };
        let lane = Lane::Class(class.clone());
        self.run(vec![lane], |shared| edits::edit(shared, edit))
    }

    fn has_memory(&self) -> bool {
        false
    }

    fn check_size(&self, object: &Object) -> Result<(), tidings_protocol::Error> {
        // A stored value takes less than twice what it takes in memory: only large objects are worth encoding.
        let limit = self.shared.options.object_bytes;
        if object.weight() <= limit / 2 { Ok(()) } else { documents::bounded(object, None, limit).map(drop) }
    }

    fn schemas(&self) -> Schemas {
        self.shared.catalog.all()
    }

    fn tail(&self) -> Arc<ChangeTail> {
        self.shared.tail.clone()
    }

    fn change_source(&self) -> Arc<dyn ChangeSource> {
        match self.shared.standalone {
            Some(_) => Arc::new(standalone::Recent(self.shared.clone())),
            None => Arc::new(feed::Log(self.shared.clone())),
        }
    }

    async fn close(&self) {
        let following = self.following.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(following) = following else { return };
        // All permits are free when nothing is under way; none is given out from here on.
        if let Ok(all) = self.shared.commits.acquire_many(self.shared.options.waiting_commits).await {
            self.shared.commits.close();
            drop(all);
        }
        following.abort();
        let _ = tokio::time::timeout(LEAVING, self.shared.client.clone().shutdown()).await;
    }
}
