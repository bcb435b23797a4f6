//! One moment of the database, for reading: the store's [`Snapshot`].

use super::errors::{has_gone_away, is_snapshot_unavailable, unavailable};
use super::filters::Sort;
use super::plan::Plan;
use super::reads::Reader;
use super::{Shared, documents, feed, reads};
use crate::changes::{Cursor, Position};
use crate::storage::limits::check_id;
use crate::storage::{Explanation, Selection, Snapshot, Unavailable};
use async_trait::async_trait;
use compact_str::CompactString;
use mongodb::bson::{Bson, Document, rawdoc};
use mongodb::error::Error;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tidings_protocol::update::top_level;
use tidings_protocol::{ClassName, Object, ObjectId, Value};

/// Which moment it is, the first question decides. Whoever reads first gets the newest state that the database has;
/// whoever asks for the cursor first, a state that has all that this process knows of.
pub(super) struct View {
    shared: Arc<Shared>,
    at: OnceLock<Position>,
    /// Held by a first read: those that come meanwhile are of the same moment.
    first: tokio::sync::Mutex<()>,
}

/// How long a read is tried again while a collection or an index is being made, or a new primary has no state yet that
/// most members have.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first wait between two tries, and the longest.
const REST: Duration = Duration::from_millis(5);
const LONGEST_REST: Duration = Duration::from_millis(100);

enum Read<'a> {
    Get(&'a ClassName, &'a ObjectId),
    Page(&'a Plan<'a>),
    Count(&'a Plan<'a>),
    Distinct(&'a Plan<'a>, &'a str),
}

#[derive(Default)]
struct Found {
    objects: Vec<Arc<Object>>,
    count: u64,
    /// `None` where they are too much.
    values: Option<Vec<Value>>,
}

impl View {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        // Where nothing can be read as of a moment, it is at least this one that is read.
        let at = match shared.standalone {
            Some(_) => OnceLock::from(shared.tail.newest()),
            None => OnceLock::new(),
        };
        Self { shared, at, first: tokio::sync::Mutex::new(()) }
    }

    /// Reads at this view's moment, or decides it.
    async fn read(&self, read: Read<'_>) -> Result<Found, Unavailable> {
        let _first = if self.at.get().is_none() { Some(self.first.lock().await) } else { None };
        let (begun, mut rest, mut is_again) = (Instant::now(), REST, false);
        loop {
            let at = self.at.get().copied();
            // A moment that is fixed only becomes older.
            let patience = if at.is_some() { LONGEST_REST } else { PATIENCE };
            match self.read_at(at, &read).await {
                Ok((found, seen)) => {
                    // What was once seen must not be unseen at a new primary.
                    self.shared.tail.reached(seen);
                    // Else somebody has asked for the cursor meanwhile.
                    if *self.at.get_or_init(|| seen) == seen {
                        return Ok(found);
                    }
                }
                Err(error) if is_snapshot_unavailable(&error) && begun.elapsed() < patience => {
                    tokio::time::sleep(rest).await;
                    rest = LONGEST_REST.min(rest * 2);
                }
                // As drivers read again: from whoever is the primary then.
                Err(error) if has_gone_away(&error) && !is_again => is_again = true,
                Err(error) => return Err(unavailable(error)),
            }
        }
    }

    /// What is found, and when.
    async fn read_at(&self, at: Option<Position>, read: &Read<'_>) -> Result<(Found, Position), Error> {
        if let (found, Some(seen)) = self.ask(at, read).await? {
            return Ok((found, seen));
        }
        // That a collection is not there is said of no moment. By now it may be; then this one is refused, and we begin again.
        let now = feed::newest(&self.shared).await?;
        Ok((self.ask(Some(now), read).await?.0, now))
    }

    /// What is found, and when if the answer says it.
    async fn ask(&self, at: Option<Position>, read: &Read<'_>) -> Result<(Found, Option<Position>), Error> {
        if let (Read::Get(class, id), None) = (read, at) {
            let (object, at) = reads::get(&self.shared, class, id).await?;
            return Ok((Found { objects: object.into_iter().collect(), ..Found::default() }, at));
        }
        let mut reader = Reader::new(&self.shared, at);
        let found = match read {
            Read::Get(class, id) => Found { objects: reader.get(class, &[id]).await?, ..Found::default() },
            Read::Page(plan) => Found { objects: reader.page(plan).await?, ..Found::default() },
            Read::Count(plan) => Found { count: reader.count(plan).await?, ..Found::default() },
            Read::Distinct(plan, field) => Found { values: reader.distinct(plan, field).await?, ..Found::default() },
        };
        Ok((found, reader.at))
    }
}

#[async_trait]
impl Snapshot for View {
    fn cursor(&self) -> Cursor {
        self.shared.cursor(*self.at.get_or_init(|| self.shared.tail.newest()))
    }

    async fn get(&self, class: &ClassName, id: &ObjectId) -> Result<Option<Arc<Object>>, Unavailable> {
        // Others go in the same command.
        if check_id(id).is_err() {
            return Ok(None);
        }
        Ok(self.read(Read::Get(class, id)).await?.objects.into_iter().next())
    }

    async fn find(&self, selection: &Selection) -> Result<Vec<Arc<Object>>, Unavailable> {
        if selection.limit == 0 || i64::try_from(selection.skip).is_err() {
            return Ok(Vec::new());
        }
        let plan = Plan::new(&self.shared, selection)?;
        Ok(self.read(Read::Page(&plan)).await?.objects)
    }

    async fn count(&self, selection: &Selection) -> Result<u64, Unavailable> {
        let plan = Plan::new(&self.shared, selection)?;
        Ok(self.read(Read::Count(&plan)).await?.count)
    }

    async fn distinct(&self, selection: &Selection, field: &str) -> Result<Option<Vec<Value>>, Unavailable> {
        // For where the objects themselves must be read.
        let columns = Some(vec![top_level(field).into()]);
        let selection = Selection { columns, order: Vec::new(), ..selection.clone() };
        let plan = Plan::new(&self.shared, &selection)?;
        Ok(self.read(Read::Distinct(&plan, field)).await?.values)
    }

    async fn explain(&self, selection: &Selection) -> Result<Explanation, Unavailable> {
        let returned = self.find(selection).await?.len() as u64;
        let plan = Plan::new(&self.shared, selection)?;
        let explain = rawdoc! { "explain": plan.command(), "verbosity": "executionStats" };
        let explained = self.shared.db.run_raw_command(explain).await.map_err(unavailable)?;
        let stages = explained.get_document("queryPlanner").and_then(|planner| planner.get_document("winningPlan"));
        let stages = stages.cloned().unwrap_or_default();
        let examined = explained.get_document("executionStats").ok().and_then(|stats| stats.get("totalDocsExamined"));
        let examined = examined.and_then(|count| count.as_i32().map(i64::from).or(count.as_i64())).unwrap_or_default();
        Ok(Explanation {
            index: index(&stages).unwrap_or_default(),
            ordered_by_index: matches!(plan.sort, Sort::Server(_)) && !has_stage(&stages, "SORT"),
            examined: u64::try_from(examined).unwrap_or_default(),
            returned,
        })
    }
}

/// The fields of the index that a plan reads.
fn index(stage: &Document) -> Option<Vec<CompactString>> {
    if let Ok(keys) = stage.get_document("keyPattern") {
        return Some(keys.keys().map(|name| documents::parse_name(name).into()).collect());
    }
    inputs(stage).find_map(index)
}

fn has_stage(stage: &Document, name: &str) -> bool {
    stage.get_str("stage").is_ok_and(|stage| stage == name) || inputs(stage).any(|input| has_stage(input, name))
}

fn inputs(stage: &Document) -> impl Iterator<Item = &Document> {
    let lists = stage.get_array("inputStages").into_iter().flatten().filter_map(Bson::as_document);
    ["inputStage", "queryPlan"].into_iter().filter_map(|name| stage.get_document(name).ok()).chain(lists)
}
