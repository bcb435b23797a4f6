//! What happens in the database, whoever does it: its change stream, as changes.
//!
//! The stream tells the writes of this process like those of any other, in the order of the cluster's time, which is the
//! position. The writes of one transaction have the same time, and are handed on together.

use super::errors::code;
use super::{Shared, documents, position, schemas, timestamp};
use crate::changes::{Change, ChangeSource, Committed, ObjectChange, Position, SourceError};
use crate::schema::ClassSchema;
use async_trait::async_trait;
use futures_util::StreamExt;
use mongodb::bson::{Document, RawBsonRef, RawDocument, Timestamp, doc};
use mongodb::error::Error;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidings_protocol::{ClassName, Object, ObjectId};

/// A field that is set and taken away again in one transaction, by who holds a row: nothing happened to it.
pub(super) const HELD: &str = "_tidings_held";
/// How long the server waits for news before it says that there are none.
const AWAIT: Duration = Duration::from_millis(500);
/// How soon a stream that broke is opened again.
const REST: Duration = Duration::from_millis(100);
/// An answer that is larger may have been cut in the middle of a transaction; a smaller one ends where the news end.
const WHOLE_BYTES: usize = 1 << 20;
/// The stream's history has passed the point where it should begin.
const HISTORY_LOST: i32 = 286;

/// Follows the stream and feeds the tail, for ever.
pub(super) async fn follow(shared: Arc<Shared>, mut after: Position) {
    loop {
        let Err(error) = follow_once(&shared, &mut after).await else { continue };
        if code(&error) == Some(HISTORY_LOST) {
            tracing::error!(%error, "changes were missed: live queries start over");
            match newest(&shared).await {
                Ok(now) => {
                    after = now;
                    shared.tail.lose_until(now);
                }
                Err(error) => tracing::warn!(%error, "the database does not answer"),
            }
        } else {
            tracing::warn!(%error, "the change stream broke; it is opened again where it ended");
        }
        metrics::counter!("tidings_store_stream_restarts_total").increment(1);
        tokio::time::sleep(REST).await;
    }
}

async fn follow_once(shared: &Shared, after: &mut Position) -> Result<(), Error> {
    let mut stream = open(shared, *after, AWAIT).await?;
    let mut reader = Reader::new(shared);
    while let Some(batch) = stream.next().await {
        let changes = reader.read(&batch?)?;
        for committed in &changes {
            if let Change::Schema { class, schema } = &committed.change {
                shared.catalog.put(class, schema.clone(), committed.position);
            }
        }
        if let Some(last) = changes.last() {
            *after = last.position;
            shared.heard(last.position);
            shared.tail.push(changes);
        }
    }
    Ok(())
}

async fn open(shared: &Shared, after: Position, wait: Duration) -> Result<RawBatchCursor, Error> {
    let stream = doc! { "$changeStream": {
        "fullDocument": "whenAvailable",
        "fullDocumentBeforeChange": "whenAvailable",
        "startAtOperationTime": timestamp(after + 1),
    } };
    shared.db.aggregate([stream]).max_await_time(wait).batch().await
}

async fn newest(shared: &Shared) -> Result<Position, Error> {
    let answer = shared.db.run_command(doc! { "ping": 1 }).await?;
    Ok(answer.get_timestamp("operationTime").map_or_else(|_| shared.newest(), position))
}

/// All that the database still has of its history: as much as its oplog holds.
pub(super) struct Log(pub(super) Arc<Shared>);

#[async_trait]
impl ChangeSource for Log {
    async fn read_after(&self, after: Position, max_bytes: usize) -> Result<Vec<Arc<Committed>>, SourceError> {
        let failed = |error: Error| match code(&error) {
            Some(HISTORY_LOST) => SourceError::Gone,
            _ => SourceError::Unavailable(error.to_string()),
        };
        let end = newest(&self.0).await.map_err(failed)?;
        if end <= after {
            return Ok(Vec::new());
        }
        let mut stream = open(&self.0, after, Duration::from_millis(10)).await.map_err(failed)?;
        let mut reader = Reader::new(&self.0);
        let (mut found, mut bytes): (Vec<Arc<Committed>>, usize) = (Vec::new(), 0);
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(failed)?;
            for committed in reader.read(&batch).map_err(failed)? {
                let begins = found.last().is_some_and(|last| last.position < committed.position);
                if begins && bytes >= max_bytes {
                    return Ok(found);
                }
                bytes += committed.weight();
                found.push(committed);
            }
            if reader.held.is_empty() && seen(&batch).is_none_or(|seen| seen >= end) {
                break;
            }
        }
        Ok(found)
    }
}

/// Up to where a batch has looked. Its token begins with the type of a timestamp, and the timestamp.
fn seen(batch: &RawBatch) -> Option<Position> {
    let cursor = batch.as_raw_document().get_document("cursor").ok()?;
    let token = cursor.get_document("postBatchResumeToken").ok()?.get_str("_data").ok()?;
    u64::from_str_radix(token.strip_prefix("82")?.get(..16)?, 16).ok()
}

/// Turns batches of events into changes, whole positions at a time.
struct Reader {
    /// Classes as of the event that is read: which form values have depends on them.
    schemas: BTreeMap<ClassName, Arc<ClassSchema>>,
    /// The beginning of a transaction whose end has not come yet.
    held: Vec<Arc<Committed>>,
}

impl Reader {
    fn new(shared: &Shared) -> Self {
        Self { schemas: BTreeMap::clone(&shared.catalog.all()), held: Vec::new() }
    }

    fn read(&mut self, batch: &RawBatch) -> Result<Vec<Arc<Committed>>, Error> {
        let mut changes = std::mem::take(&mut self.held);
        let mut is_open = false;
        for event in batch.doc_slices()? {
            let Some(event) = event.ok().and_then(RawBsonRef::as_document) else { continue };
            is_open = event.get("txnNumber").ok().flatten().is_some();
            let Ok(time) = event.get_timestamp("clusterTime") else { continue };
            changes.extend(self.change(event, time).map(Arc::new));
        }
        if is_open && batch.as_raw_document().as_bytes().len() > WHOLE_BYTES {
            let last = changes.last().map_or(0, |last| last.position);
            let whole = changes.partition_point(|change| change.position < last);
            self.held = changes.split_off(whole);
        }
        Ok(changes)
    }

    fn change(&mut self, event: &RawDocument, time: Timestamp) -> Option<Committed> {
        let name = event.get_document("ns").ok()?.get_str("coll").ok()?;
        let kind = event.get_str("operationType").ok()?;
        if !matches!(kind, "insert" | "update" | "replace" | "delete") {
            return None;
        }
        let change = match name {
            schemas::COLLECTION => self.class(event, kind)?,
            _ if name.starts_with("_Join:") || name == super::collections::OWN => return None,
            _ => self.object(event, kind, ClassName::from_trusted(name))?,
        };
        Some(Committed { position: position(time), change })
    }

    fn class(&mut self, event: &RawDocument, kind: &str) -> Option<Change> {
        let class = ClassName::from_trusted(event.get_document("documentKey").ok()?.get_str("_id").ok()?);
        let schema = match kind {
            "delete" => None,
            _ => {
                let row = event.get_document("fullDocument").ok()?;
                Some(Arc::new(schemas::decode(&Document::try_from(row).ok()?)?))
            }
        };
        if self.schemas.get(&class) == schema.as_ref() && schema.is_none() {
            return None;
        }
        match &schema {
            Some(schema) => self.schemas.insert(class.clone(), schema.clone()),
            None => self.schemas.remove(&class),
        };
        Some(Change::Schema { class, schema })
    }

    fn object(&self, event: &RawDocument, kind: &str, class: ClassName) -> Option<Change> {
        if is_only_held(event) {
            return None;
        }
        let schema = self.schemas.get(&class);
        let image = |name: &str| -> Option<Arc<Object>> {
            let document = event.get_document(name).ok()?;
            Some(Arc::new(documents::decode(document, schema.map(|schema| &**schema)).ok()?))
        };
        let (before, after) = (image("fullDocumentBeforeChange"), image("fullDocument"));
        let is_whole = match kind {
            "insert" => after.is_some(),
            "delete" => before.is_some(),
            _ => before.is_some() && after.is_some(),
        };
        if !is_whole {
            tracing::debug!(%class, kind, "a change came without its images");
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

fn is_only_held(event: &RawDocument) -> bool {
    let Ok(update) = event.get_document("updateDescription") else { return false };
    let set = update.get_document("updatedFields").into_iter().flat_map(RawDocument::iter).flatten();
    let unset = update.get_array("removedFields").into_iter().flatten().flatten().filter_map(RawBsonRef::as_str);
    let mut names = set.map(|(name, _)| name.as_str()).chain(unset).peekable();
    names.peek().is_some() && names.all(|name| name == HELD)
}
