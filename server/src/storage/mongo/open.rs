//! Opening the store: what a database must have, and what is done so that it has it.

use super::catalog::Catalog;
use super::collections::{Collections, OWN, has_images};
use super::errors::in_words;
use super::gathering::Gathering;
use super::lanes::Lanes;
use super::recent::Recent;
use super::standalone::{self, Standalone};
use super::{LARGEST_DOCUMENT, Mongo, MongoOptions, Shared, feed, indexes, position, schemas};
use crate::changes::{ChangeTail, Position};
use compact_str::{CompactString, format_compact};
use futures_util::TryStreamExt;
use mongodb::bson::{Bson, doc};
use mongodb::options::{Acknowledgment, ClientOptions, WriteConcern};
use mongodb::{Client, Database};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidings_protocol::ClassName;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Why the store was not opened, in words for whoever runs the server.
#[derive(Debug)]
pub enum OpenError {
    /// The URL cannot be read, or names no database.
    Url(String),
    /// The database does not answer, or refuses.
    Database(mongodb::error::Error),
    /// It lacks what the store stands on.
    Unsuited(&'static str),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(why) => write!(f, "--database-url cannot be used: {why}"),
            Self::Database(error) => write!(f, "the database cannot be used: {}", in_words(error)),
            Self::Unsuited(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<mongodb::error::Error> for OpenError {
    fn from(error: mongodb::error::Error) -> Self {
        Self::Database(error)
    }
}

/// Connections to the database, unless the URL says otherwise: each carries one command at a time.
const POOL: u32 = 100;
/// A first answer that takes longer is waited for with a word about it.
const SOON: Duration = Duration::from_secs(1);
/// How long there may be nobody who takes a write: longer than an election, which begins when ten seconds have passed.
/// Whoever is patient then notices none.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often members say that they are well, and how long a connection may take. A member that stands still keeps its
/// connections, and whoever waits for it is cut off only when both have passed: with the driver's own values, twenty
/// seconds.
const HEARTBEAT: Duration = Duration::from_secs(5);
const CONNECTING: Duration = Duration::from_secs(5);

impl Mongo {
    /// Opens the store in the database that the URL names, `parse` if it names none.
    ///
    /// # Errors
    /// Why it was not opened.
    pub async fn open(url: &str, mut options: MongoOptions) -> Result<Arc<Self>, OpenError> {
        let client = connect(url).await?;
        let db = client.default_database().unwrap_or_else(|| client.database("parse"));
        let Server { now, is_router } = told_of(Server::behind(&db)).await?;
        let standalone = now.is_none().then(Standalone::default);
        if standalone.is_some() {
            tracing::warn!("{}", standalone::WARNING);
        }
        let largest = if standalone.is_some() { standalone::LARGEST_DOCUMENT } else { LARGEST_DOCUMENT };
        options.object_bytes = options.object_bytes.min(largest);
        let collections = Collections::new(now.is_some());
        collections.create(&db, OWN).await?;
        collections.create(&db, schemas::COLLECTION).await?;
        let timeline = match now {
            Some(_) => timeline(&db).await?,
            // What this process tells, no other knows of.
            None => format_compact!("{:016x}", rand::random::<u64>()),
        };
        let classes = schemas::read(&db).await?;
        prepare(&db, &collections, &classes).await?;
        let start = now.unwrap_or_default();
        let shared = Arc::new(Shared {
            tail: Arc::new(ChangeTail::new(start, options.tail_bytes)),
            catalog: Catalog::new(classes),
            collections,
            recent: Recent::default(),
            gets: Gathering::default(),
            inserts: Gathering::default(),
            lanes: Arc::new(Lanes::default()),
            timeline,
            standalone,
            is_router,
            commits: Arc::new(Semaphore::new(options.waiting_commits as usize)),
            runtime: Handle::current(),
            options,
            client,
            db,
        });
        let following = match now {
            Some(now) => tokio::spawn(feed::follow(shared.clone(), now)),
            None => tokio::spawn(std::future::ready(())),
        };
        Ok(Arc::new(Self { shared, following: Mutex::new(Some(following)) }))
    }
}

async fn connect(url: &str) -> Result<Client, OpenError> {
    let mut settings = ClientOptions::parse(url).await.map_err(|error| OpenError::Url(in_words(&error)))?;
    settings.app_name.get_or_insert_with(|| "tidings".to_owned());
    settings.max_pool_size.get_or_insert(POOL);
    settings.server_selection_timeout.get_or_insert(PATIENCE);
    settings.heartbeat_freq.get_or_insert(HEARTBEAT);
    settings.connect_timeout.get_or_insert(CONNECTING);
    // Who was answered reads what the answer told of, and hears of it at once: only the primary can do so.
    settings.selection_criteria = None;
    settings.read_concern = None;
    // An answered commit is on the disks of most.
    settings.write_concern = Some(WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build());
    Ok(Client::with_options(settings)?)
}

/// Says that there is something to wait for, if there is.
async fn told_of<T>(question: impl Future<Output = T>) -> T {
    let mut question = std::pin::pin!(question);
    match tokio::time::timeout(SOON, &mut question).await {
        Ok(answer) => answer,
        Err(_) => {
            tracing::warn!("the database does not answer yet; waiting for it");
            question.await
        }
    }
}

/// Who answers there.
struct Server {
    /// The database's own time, which only members of a replica set have, and routers.
    now: Option<Position>,
    is_router: bool,
}

impl Server {
    async fn behind(db: &Database) -> Result<Self, OpenError> {
        let hello = db.run_command(doc! { "hello": 1 }).await?;
        let is_router = hello.get_str("msg").is_ok_and(|message| message == "isdbgrid");
        let is_replicated = is_router || hello.contains_key("setName");
        match hello.get("operationTime") {
            Some(Bson::Timestamp(time)) if is_replicated => Ok(Self { now: Some(position(*time)), is_router }),
            _ if is_replicated || hello.contains_key("isreplicaset") => Err(OpenError::Unsuited(
                "this MongoDB was started as a member of a replica set that does not work yet: run rs.initiate()",
            )),
            _ => Ok(Self { now: None, is_router }),
        }
    }
}

/// The identity of our own collection: a restored copy of the database has another.
async fn timeline(db: &Database) -> Result<CompactString, OpenError> {
    let mut found = db.list_collections().filter(doc! { "name": OWN }).await?;
    let info = found.try_next().await?.and_then(|collection| collection.info.uuid);
    let uuid = info.ok_or(OpenError::Unsuited("the database does not say the identity of its collections"))?;
    let digits = uuid.bytes.iter().take(8).map(|byte| format!("{byte:02x}"));
    Ok(digits.collect::<String>().into())
}

/// Has the changes of every class carry both images, also where Parse Server made the collection, or would: it declares a
/// class without one, which comes with the first object. What the deletion of a class has left behind is cleared away.
async fn prepare(
    db: &Database,
    collections: &Collections,
    classes: &BTreeMap<ClassName, Arc<crate::schema::ClassSchema>>,
) -> Result<(), OpenError> {
    let mut found = db.list_collections().await?;
    let mut missing: BTreeSet<&str> = classes.keys().map(ClassName::as_str).collect();
    while let Some(collection) = found.try_next().await? {
        let name = collection.name.as_str();
        if let Err(error) = Collections::put_back(db, name).await {
            tracing::warn!(
                collection = name,
                error = in_words(&error),
                "a class that was deleted is not cleared away yet"
            );
        }
        if !missing.remove(name) {
            continue;
        }
        match has_images(&collection) {
            true => collections.set_ready(name),
            false => collections.adopt(db, name).await,
        }
        // The only indexes that are made unasked where others have made the collection. Nobody waits for them.
        if name == ClassName::SESSION.as_str() {
            let db = db.clone();
            tokio::spawn(async move {
                if let Err(error) = indexes::make(&db, &ClassName::SESSION, indexes::of_sessions()).await {
                    tracing::warn!(
                        error = in_words(&error),
                        "sessions of other servers, and those that have expired, are slow to find: they have no index"
                    );
                }
            });
        }
    }
    for class in missing {
        if let Err(error) = collections.create(db, class).await {
            tracing::warn!(class, error = in_words(&error), "its collection cannot be made yet");
        }
    }
    Ok(())
}
