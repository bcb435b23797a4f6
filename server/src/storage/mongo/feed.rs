//! What happens in the database, whoever does it: its change stream, as changes.
//!
//! The stream tells the writes of this process like those of any other, in the order of the cluster's time, which is the
//! position. The writes of one transaction have the same time, and are handed on together.

use super::errors::{code, in_words};
use super::{Shared, documents, position, schemas, timestamp};
use crate::changes::{Change, ChangeSource, Committed, ObjectChange, Position, SourceError};
use crate::permissions::ClassLevelPermissions;
use crate::schema::ClassSchema;
use async_trait::async_trait;
use futures_util::StreamExt;
use mongodb::bson::{Document, RawBsonRef, RawDocument, doc};
use mongodb::error::Error;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tidings_protocol::{ClassName, Object, ObjectId};

/// A field that is set and taken away again in one transaction, by who holds a row: nothing happened to it.
pub(super) const HELD: &str = "_tidings_held";
/// How long the server waits for news before it says that there are none.
const AWAIT: Duration = Duration::from_millis(500);
/// How soon a stream that broke is opened again.
const REST: Duration = Duration::from_millis(100);
/// No bound: else the first answer ends after 101 events, in the middle of a transaction.
const MOST_EVENTS: u32 = i32::MAX as u32;
/// An answer that is larger may have been cut in the middle of a position; a smaller one ends where the news end, unless a
/// single change of more than 15 MiB comes next.
const WHOLE_BYTES: usize = 1 << 20;
/// The stream's history has passed the point where it should begin.
const HISTORY_LOST: i32 = 286;
/// An event with its images is larger than an answer may be.
const TOO_LARGE: i32 = 10_334;
/// An answer of 16 MiB has room for three parts of an event that are smaller.
const LARGE_BYTES: i32 = 5 << 20;

/// What the stream tells of each event.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Telling {
    /// Everything.
    All,
    /// All but large images, for events that are larger than any answer with them.
    Small,
}

/// Follows the stream and feeds the tail, for ever.
pub(super) async fn follow(shared: Arc<Shared>, mut after: Position) {
    let mut telling = Telling::All;
    loop {
        let outcome = follow_once(&shared, &mut after, telling).await;
        let passed = telling == Telling::Small;
        telling = Telling::All;
        match outcome {
            // Past what was too large.
            Ok(()) if passed => continue,
            Ok(()) => tracing::warn!("the change stream ended, as the database was dropped; it is opened again"),
            Err(error) if code(&error) == Some(TOO_LARGE) => {
                tracing::warn!("a change is too large to be told: live queries of its class get fresh results");
                telling = Telling::Small;
                continue;
            }
            Err(error) if code(&error) == Some(HISTORY_LOST) => {
                tracing::error!(error = in_words(&error), "changes were missed: all live queries get fresh results");
                match begin_again(&shared).await {
                    Ok(now) => after = now,
                    Err(error) => tracing::warn!(error = in_words(&error), "the database does not answer"),
                }
            }
            Err(error) => {
                tracing::warn!(error = in_words(&error), "the change stream broke; it is opened again where it ended")
            }
        }
        metrics::counter!("tidings_store_stream_restarts_total").increment(1);
        tokio::time::sleep(REST).await;
    }
}

/// Goes on with the database as it is, as nobody tells what has happened to it: classes may be others, and of no class has
/// been seen what happened to its objects.
async fn begin_again(shared: &Arc<Shared>) -> Result<Position, Error> {
    let now = newest(shared).await?;
    let (known, found) = (shared.catalog.all(), schemas::read(&shared.db).await?);
    let classes: BTreeSet<&ClassName> = known.keys().chain(found.keys()).collect();
    let mut changes = Vec::new();
    for class in classes {
        let (before, schema) = (known.get(class).cloned(), found.get(class).cloned());
        if before != schema {
            changes.push(Change::Schema { class: class.clone(), before, schema: schema.clone() });
            shared.catalog.put(class, schema, now);
        }
        changes.push(Change::Unseen { class: class.clone(), gone: None });
        // It may be another collection by now.
        shared.collections.forget(class);
        adopt(shared, class.clone());
    }
    changes.iter().for_each(|change| shared.recent.hear(change));
    let committed = (0..).zip(changes).map(|(ordinal, change)| Arc::new(Committed { position: now, ordinal, change }));
    shared.tail.push(committed);
    Ok(now)
}

/// Follows the stream to its end; one that leaves something out, to the end of its first news.
async fn follow_once(shared: &Arc<Shared>, after: &mut Position, telling: Telling) -> Result<(), Error> {
    let mut stream = open(shared, *after, AWAIT, telling).await?;
    let mut reader = Reader::new(shared);
    while let Some(batch) = stream.next().await {
        let batch = batch?;
        reader.found = classes_untold(shared, &batch).await?;
        let Told { changes, until } = reader.read(&batch)?;
        reader.dropped.drain(..).for_each(|class| shared.collections.forget(&class));
        for class in reader.unready.drain(..) {
            match shared.collections.is_ready(&class) {
                true if shared.collections.doubt(&class) => look_after(shared, class),
                true => {}
                false => adopt(shared, class),
            }
        }
        for committed in &changes {
            shared.recent.hear(&committed.change);
            if let Change::Schema { class, schema, .. } = &committed.change {
                shared.catalog.put(class, schema.clone(), committed.position);
                if schema.is_some() {
                    adopt(shared, class.clone());
                }
            }
        }
        *after = (*after).max(until);
        let is_news = !changes.is_empty();
        if is_news {
            shared.tail.push(changes);
        }
        // A moment of minutes ago can no longer be read, nor may a cursor grow old where nothing happens.
        shared.tail.told(until);
        if is_news && telling == Telling::Small {
            return Ok(());
        }
    }
    Ok(())
}

/// Has the changes of a class carry images, if that is still to be done. Nobody waits for it.
fn adopt(shared: &Arc<Shared>, class: ClassName) {
    if !shared.collections.is_ready(&class) {
        let shared = shared.clone();
        shared.runtime.clone().spawn(async move { shared.collections.adopt(&shared.db, &class).await });
    }
}

/// The same for a class that had them once.
fn look_after(shared: &Arc<Shared>, class: ClassName) {
    let shared = shared.clone();
    shared.runtime.clone().spawn(async move {
        if let Err(error) = shared.collections.create(&shared.db, &class).await {
            tracing::warn!(%class, error = in_words(&error), "its changes came without images");
        }
    });
}

async fn open(shared: &Shared, after: Position, wait: Duration, telling: Telling) -> Result<RawBatchCursor, Error> {
    let mut stages = vec![doc! { "$changeStream": {
        "fullDocument": "whenAvailable",
        "fullDocumentBeforeChange": "whenAvailable",
        "startAtOperationTime": timestamp(after + 1),
    } }];
    if telling == Telling::Small {
        let small = |part: &str| doc! { "$cond": [{ "$lt": [{ "$bsonSize": part }, LARGE_BYTES] }, part, "$$REMOVE"] };
        stages.push(doc! { "$set": {
            "fullDocument": small("$fullDocument"),
            "fullDocumentBeforeChange": small("$fullDocumentBeforeChange"),
            "updateDescription": small("$updateDescription"),
        } });
    }
    shared.db.aggregate(stages).max_await_time(wait).batch_size(MOST_EVENTS).batch().await
}

/// The newest moment of the database, which has all that this process has heard and written.
pub(super) async fn newest(shared: &Shared) -> Result<Position, Error> {
    let answer = shared.db.run_command(doc! { "ping": 1 }).await?;
    Ok(answer.get_timestamp("operationTime").map_or(0, position).max(shared.tail.newest()))
}

/// All that the database still has of its history: as much as its oplog holds.
pub(super) struct Log(pub(super) Arc<Shared>);

#[async_trait]
impl ChangeSource for Log {
    async fn read_after(&self, after: Position, max_bytes: usize) -> Result<Vec<Arc<Committed>>, SourceError> {
        let mut read = self.read(after, max_bytes, Telling::All).await;
        if read.as_ref().is_err_and(|error| code(error) == Some(TOO_LARGE)) {
            read = self.read(after, max_bytes, Telling::Small).await;
        }
        read.map_err(|error| match code(&error) {
            Some(HISTORY_LOST) => SourceError::Gone,
            _ => SourceError::Unavailable(in_words(&error)),
        })
    }

    async fn newest(&self) -> Result<Position, SourceError> {
        newest(&self.0).await.map_err(|error| SourceError::Unavailable(in_words(&error)))
    }
}

impl Log {
    async fn read(&self, after: Position, max_bytes: usize, telling: Telling) -> Result<Vec<Arc<Committed>>, Error> {
        let end = newest(&self.0).await?;
        let mut reader = Reader::new(&self.0);
        let (mut found, mut bytes): (Vec<Arc<Committed>>, usize) = (Vec::new(), 0);
        let mut at = after;
        // The stream ends where the database was dropped, and goes on behind it.
        while at < end {
            let mut stream = open(&self.0, at, Duration::from_millis(10), telling).await?;
            while let Some(batch) = stream.next().await {
                let batch = batch?;
                reader.found = classes_untold(&self.0, &batch).await?;
                let Told { changes, until } = reader.read(&batch)?;
                for committed in changes {
                    let begins = found.last().is_some_and(|last| last.position < committed.position);
                    if begins && bytes >= max_bytes {
                        return Ok(found);
                    }
                    bytes += committed.weight();
                    found.push(committed);
                }
                at = at.max(until);
                // What is held beyond is for whoever asks next.
                if at >= end || reader.held.is_empty() && seen(&batch).is_none_or(|seen| seen >= end) {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }
}

/// All classes as they are now, if a batch tells that one has changed and not how: without images nothing else can say so.
async fn classes_untold(shared: &Shared, batch: &RawBatch) -> Result<Classes, Error> {
    let is_untold = |event: &RawDocument| {
        let space = event.get_document("ns").and_then(|space| space.get_str("coll"));
        space.is_ok_and(|name| name == schemas::COLLECTION)
            && event.get_str("operationType").is_ok_and(|kind| kind == "update")
            && event.get_document("fullDocument").is_err()
    };
    let mut events = batch.doc_slices()?.into_iter().flatten().filter_map(RawBsonRef::as_document);
    if events.any(is_untold) { schemas::read(&shared.db).await } else { Ok(Classes::new()) }
}

/// Up to where a batch has looked. Its token begins with the type of a timestamp, and the timestamp.
fn seen(batch: &RawBatch) -> Option<Position> {
    let cursor = batch.as_raw_document().get_document("cursor").ok()?;
    let token = cursor.get_document("postBatchResumeToken").ok()?.get_str("_data").ok()?;
    u64::from_str_radix(token.strip_prefix("82")?.get(..16)?, 16).ok()
}

/// Up to where all is told by an answer whose newest event is of this time, and which has looked up to `seen`.
fn told_until(newest: Position, seen: Option<Position>, may_go_on: bool) -> Position {
    match seen.map(|seen| seen.saturating_sub(1)) {
        Some(before) if may_go_on => before,
        before => before.unwrap_or_default().max(newest),
    }
}

/// What a batch tells.
struct Told {
    changes: Vec<Arc<Committed>>,
    /// Everything up to here is told.
    until: Position,
}

type Classes = BTreeMap<ClassName, Arc<ClassSchema>>;

/// Turns batches of events into changes, whole positions at a time.
struct Reader {
    /// Classes as of the event that is read: which form values have depends on them.
    schemas: Classes,
    /// Classes of which this batch does not tell how they have changed.
    found: Classes,
    /// The beginning of a position whose end has not come yet.
    held: Vec<Arc<Committed>>,
    /// Collections that are not what they were: dropped, renamed, or another has their name now.
    dropped: Vec<ClassName>,
    /// Classes whose collection may lack images: it was another's, or a change came without them.
    unready: Vec<ClassName>,
    /// Where the next event of this time comes in the order of all events of that time.
    next: (Position, u32),
    files_url: Option<String>,
    is_router: bool,
}

impl Reader {
    fn new(shared: &Shared) -> Self {
        Self {
            schemas: BTreeMap::clone(&shared.catalog.all()),
            found: Classes::new(),
            held: Vec::new(),
            dropped: Vec::new(),
            unready: Vec::new(),
            next: (0, 0),
            files_url: shared.options.files_url.clone(),
            is_router: shared.is_router,
        }
    }

    /// Takes a batch. Of the time of its last event more may come if that is one of several and the answer may have been cut,
    /// and from a router: it hears of several shards, whose clocks may say the same. Then that is told when the token is past
    /// it.
    fn read(&mut self, batch: &RawBatch) -> Result<Told, Error> {
        let mut changes = std::mem::take(&mut self.held);
        let mut newest = changes.last().map_or(0, |last| last.position);
        let (mut is_over, mut is_part) = (false, false);
        for event in batch.doc_slices()? {
            let Some(event) = event.ok().and_then(RawBsonRef::as_document) else { continue };
            let Ok(time) = event.get_timestamp("clusterTime").map(position) else { continue };
            is_over |= event.get_str("operationType").is_ok_and(|kind| kind == "invalidate");
            is_part = time == newest || event.get("txnNumber").ok().flatten().is_some();
            newest = newest.max(time);
            let ordinal = self.ordinal(time);
            let committed = |change| Arc::new(Committed { position: time, ordinal, change });
            changes.extend(self.changes(event).into_iter().map(committed));
        }
        let is_large = batch.as_raw_document().as_bytes().len() > WHOLE_BYTES;
        let may_go_on = self.is_router || is_large && is_part;
        // The stream ends with the database, and begins again behind that.
        let until = if is_over { newest } else { told_until(newest, seen(batch), may_go_on) };
        let whole = changes.partition_point(|change| change.position <= until);
        self.held = changes.split_off(whole);
        Ok(Told { changes, until })
    }

    /// Counts every event, also those that are not handed on, which may be others elsewhere.
    fn ordinal(&mut self, time: Position) -> u32 {
        if self.next.0 != time {
            self.next = (time, 0);
        }
        self.next.1 += 1;
        self.next.1 - 1
    }

    fn changes(&mut self, event: &RawDocument) -> Vec<Change> {
        let (Ok(kind), Ok(space)) = (event.get_str("operationType"), event.get_document("ns")) else {
            return Vec::new();
        };
        let Ok(name) = space.get_str("coll") else { return Vec::new() };
        let is_write = matches!(kind, "insert" | "update" | "replace" | "delete");
        let is_end = matches!(kind, "drop" | "rename");
        let class = ClassName::from_trusted(name);
        match name {
            schemas::COLLECTION if is_write => self.class(event, kind).into_iter().collect(),
            schemas::COLLECTION if is_end => {
                self.dropped.push(class.clone());
                self.unready.push(class);
                let gone = |(class, before)| Change::Schema { class, before: Some(before), schema: None };
                std::mem::take(&mut self.schemas).into_iter().map(gone).collect()
            }
            super::collections::OWN => Vec::new(),
            _ if is_end => {
                let to = event.get_document("to").and_then(|to| to.get_str("coll")).map(ClassName::from_trusted);
                self.unready.extend(to.clone().into_iter().filter(|to| self.schemas.contains_key(to)));
                [class].into_iter().chain(to).filter_map(|class| self.ended(class)).collect()
            }
            // Nobody hears of members.
            _ if is_write && !class.is_relation() => self.object(event, kind, class).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    /// A collection has gone, or has come in place of another: what was made ready for the class went with it.
    fn ended(&mut self, class: ClassName) -> Option<Change> {
        self.dropped.push(class.clone());
        (!class.is_relation()).then_some(Change::Unseen { class, gone: None })
    }

    fn class(&mut self, event: &RawDocument, kind: &str) -> Option<Change> {
        let class = ClassName::from_trusted(event.get_document("documentKey").ok()?.get_str("_id").ok()?);
        let image = |name: &str| {
            let row = event.get_document(name).ok()?;
            Some(Arc::new(schemas::decode(&Document::try_from(row).ok()?)?))
        };
        let schema = match kind {
            "delete" => None,
            // Of what is gone by now, more is told later.
            _ => Some(
                image("fullDocument").or_else(|| self.found.get(&class).cloned()).unwrap_or_else(|| closed(&class)),
            ),
        };
        let before = match kind {
            "insert" => None,
            // A class that was we know not how permitted nothing: whoever compares finds that it has changed.
            _ => Some(image("fullDocumentBeforeChange").unwrap_or_else(|| closed(&class))),
        };
        if self.schemas.get(&class) == schema.as_ref() && schema.is_none() {
            return None;
        }
        match &schema {
            Some(schema) => self.schemas.insert(class.clone(), schema.clone()),
            None => self.schemas.remove(&class),
        };
        Some(Change::Schema { class, before, schema })
    }

    fn object(&mut self, event: &RawDocument, kind: &str, class: ClassName) -> Option<Change> {
        if is_only_held(event) {
            return None;
        }
        let schema = self.schemas.get(&class);
        let image = |name: &str| -> Option<Arc<Object>> {
            let document = event.get_document(name).ok()?;
            Some(Arc::new(documents::decode(document, schema.map(|schema| &**schema), self.files_url.as_deref()).ok()?))
        };
        let (before, after) = (image("fullDocumentBeforeChange"), image("fullDocument"));
        let is_whole = match kind {
            "insert" => after.is_some(),
            "delete" => before.is_some(),
            _ => before.is_some() && after.is_some(),
        };
        if !is_whole {
            tracing::debug!(%class, kind, "a change came without its images");
            if self.schemas.contains_key(&class) && !self.unready.contains(&class) {
                self.unready.push(class.clone());
            }
            metrics::counter!("tidings_store_images_missing_total").increment(1);
            let gone = event.get_document("documentKey").and_then(|key| key.get_str("_id"));
            return Some(Change::Unseen { class, gone: gone.ok().filter(|_| kind == "delete").map(ObjectId::new) });
        }
        let id = after.as_ref().or(before.as_ref())?.id.clone();
        Some(told(&class, &id, before.filter(|_| kind != "insert"), after))
    }
}

/// A change as it is told, without internal fields.
pub(super) fn told(
    class: &ClassName,
    id: &ObjectId,
    before: Option<Arc<Object>>,
    after: Option<Arc<Object>>,
) -> Change {
    let public = |object: Arc<Object>| {
        if object.has_internal_fields() { Arc::new(object.without_internal_fields()) } else { object }
    };
    let (before, after) = (before.map(public), after.map(public));
    Change::Object(ObjectChange { class: class.clone(), id: id.clone(), before, after })
}

fn closed(class: &ClassName) -> Arc<ClassSchema> {
    Arc::new(ClassSchema { permissions: ClassLevelPermissions::closed(), ..ClassSchema::new(class.clone()) })
}

fn is_only_held(event: &RawDocument) -> bool {
    let Ok(update) = event.get_document("updateDescription") else { return false };
    let set = update.get_document("updatedFields").into_iter().flat_map(RawDocument::iter).flatten();
    let unset = update.get_array("removedFields").into_iter().flatten().flatten().filter_map(RawBsonRef::as_str);
    let mut names = set.map(|(name, _)| name.as_str()).chain(unset).peekable();
    names.peek().is_some() && names.all(|name| name == HELD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_when_nothing_more_can_come_of_it() {
        for (newest, seen, may_go_on, until) in [
            (7, Some(7), false, 7),
            (7, Some(9), false, 8),
            (0, Some(9), false, 8),
            (7, None, false, 7),
            (7, Some(7), true, 6),
            (7, Some(8), true, 7),
            (0, Some(9), true, 8),
        ] {
            assert_eq!(told_until(newest, seen, may_go_on), until, "{newest} {seen:?} {may_go_on}");
        }
    }
}
