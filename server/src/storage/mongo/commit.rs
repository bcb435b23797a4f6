//! One commit: one command where MongoDB can do it alone, else a transaction.

use super::errors::{Refusal, duplicate_field, not_inserted, refusal, write_error};
use super::filters::{Filter, permitted};
use super::gathering::{self, Gathered, Gathering};
use super::updates::{as_stored, ordered, plan};
use super::{Shared, documents, feed, position, timestamp, transactions};
use crate::changes::{Change, Cursor};
use crate::schema::ClassSchema;
use crate::storage::limits::check_id;
use crate::storage::{Action, Guard, Refused, Write, WriteError, Written};
use mongodb::ClientSession;
use mongodb::bson::raw::cstr;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::error::{Error, ErrorKind, InsertManyError};
use mongodb::options::{ReturnDocument, SessionOptions};
use std::sync::Arc;
use tidings_protocol::{ClassName, Date, Object, ObjectId, Update};

/// Whether a write needs columns, or a class, that this process does not know.
pub(super) fn brings_columns(shared: &Shared, write: &Write) -> bool {
    let Some(schema) = shared.catalog.get(&write.class) else { return true };
    write.fields.iter().any(|(name, field_type)| schema.field_type(name).as_ref() != Some(field_type))
}

pub(super) async fn commit(shared: Arc<Shared>, mut writes: Vec<Write>) -> Result<Vec<Written>, Refused> {
    let outcome = make(&shared, &mut writes).await;
    writes.iter().for_each(|write| shared.recent.forget(&write.class, &write.id));
    if let Err(Refused { error: WriteError::Unavailable(_), .. }) = outcome {
        // Perhaps it was made; whoever follows has to look, if nobody else tells.
        shared.tell(writes.into_iter().map(|write| Change::Unseen { class: write.class, gone: None }));
    }
    outcome
}

async fn make(shared: &Arc<Shared>, writes: &mut [Write]) -> Result<Vec<Written>, Refused> {
    for (at, write) in writes.iter_mut().enumerate() {
        if let Action::Create(object) = &mut write.action {
            check_id(&write.id).map_err(|error| Refused { at, error: error.into() })?;
            object.id = write.id.clone();
            let files_url = shared.options.files_url.as_deref();
            object.fields.values_mut().for_each(|value| as_stored(value, files_url));
        }
        if write.action.creates() || brings_columns(shared, write) {
            shared.collections.make(&shared.db, &write.class, &write.fields).await.map_err(write_error)?;
        }
    }
    match &*writes {
        [] => return Ok(Vec::new()),
        [write] if write.guard.unique.is_empty() && !brings_columns(shared, write) => {
            if let Some(written) = alone(shared, write).await? {
                return Ok(vec![written]);
            }
        }
        _ => {}
    }
    transactions::commit(shared, writes).await
}

/// Makes a write with one command. `None` when nothing was written: either the command cannot say it, or the row is not
/// as it must be, and a transaction will tell why.
async fn alone(shared: &Arc<Shared>, write: &Write) -> Result<Option<Written>, WriteError> {
    let schema = shared.catalog.get_or_empty(&write.class);
    match &write.action {
        Action::Create(object) if write.guard.expect.is_none() => {
            create(shared, write, object, &schema).await.map(Some)
        }
        Action::Create(_) | Action::Join(_) | Action::Leave(_) => Ok(None),
        Action::Update { update, at } => self::update(shared, write, update, *at, &schema).await,
        // On its own a question, not a write.
        Action::Expect => Ok(None),
        Action::Delete => delete(shared, write, &schema).await,
        Action::DeleteIfPresent => {
            let deleted = delete(shared, write, &schema).await?;
            // A guard may be what kept it.
            let is_gone = write.guard == Guard::default();
            Ok(deleted.or_else(|| is_gone.then(|| nothing(shared.cursor(shared.tail.newest())))))
        }
    }
}

pub(super) fn nothing(cursor: Cursor) -> Written {
    Written { cursor, before: None, after: None }
}

async fn create(
    shared: &Arc<Shared>,
    write: &Write,
    object: &Object,
    schema: &ClassSchema,
) -> Result<Written, WriteError> {
    let document = documents::bounded(object, Some(schema), shared.options.object_bytes)?;
    let inserted = gathering::run(shared, &write.class, Insert(document)).await;
    let at = inserted.map_err(write_error)??;
    Ok(written(shared, at, write, (None, Some(Arc::new(object.clone())))))
}

/// New objects are inserted together under load. Each is a commit of its own: one that is refused stops no other.
pub(super) struct Insert(RawDocumentBuf);

impl Gathered for Insert {
    /// When it was made.
    type Done = Result<Cursor, WriteError>;
    const COMMANDS: usize = 8;
    const MOST: usize = 100;
    /// Far less than where the driver would make two commands of it.
    const MOST_BYTES: usize = 4 << 20;

    fn bytes(&self) -> usize {
        self.0.as_bytes().len()
    }

    fn gathering(shared: &Shared) -> &Gathering<Self> {
        &shared.inserts
    }

    async fn together(shared: &Shared, class: &ClassName, all: Vec<Self>) -> Result<Vec<Self::Done>, Error> {
        let mut session = session(shared).await?;
        let documents = all.iter().map(|Self(document)| document);
        let objects = shared.objects::<RawDocumentBuf>(class);
        let refused = match objects.insert_many(documents).ordered(false).session(&mut session).await {
            Ok(_) => Vec::new(),
            Err(error) => match *error.kind {
                ErrorKind::InsertMany(InsertManyError { write_errors, write_concern_error: None, .. }) => {
                    write_errors.unwrap_or_default()
                }
                // Perhaps some were inserted, and perhaps not for good.
                _ => return Err(error),
            },
        };
        let mut done = vec![Ok(written_at(shared, &session)); all.len()];
        for refused in refused {
            if let Some(done) = done.get_mut(refused.index) {
                *done = Err(not_inserted(&refused));
            }
        }
        Ok(done)
    }
}

async fn update(
    shared: &Shared,
    write: &Write,
    update: &Update,
    at: Date,
    schema: &ClassSchema,
) -> Result<Option<Written>, WriteError> {
    let update = ordered(update, schema, shared.options.files_url.as_deref());
    let Some(plan) = plan(&update, at, schema, shared.options.object_bytes) else { return Ok(None) };
    let Some(mut filter) = guarded(&write.id, &write.guard, schema) else { return Ok(None) };
    filter.push(plan.filter);
    let mut session = session(shared).await.map_err(write_error)?;
    let before = shared
        .objects::<RawDocumentBuf>(&write.class)
        .find_one_and_update(all(filter), plan.update)
        .return_document(ReturnDocument::Before)
        .session(&mut session)
        .await;
    let before = match before {
        Ok(Some(before)) => shared.decode(&before, schema)?,
        Ok(None) => return Ok(None),
        Err(error) => match (refusal(&error), duplicate_field(&error)) {
            (Refusal::Misfit, _) => return Ok(None),
            (Refusal::DuplicateKey, Some(field)) => return Err(WriteError::Duplicate { field: field.into() }),
            (Refusal::DuplicateKey, None) | (Refusal::Other, _) => return Err(write_error(error)),
        },
    };
    let after = applied(&before, &update, at)?;
    Ok(Some(written(shared, written_at(shared, &session), write, (Some(Arc::new(before)), Some(Arc::new(after))))))
}

/// The object with the operations applied.
pub(super) fn applied(before: &Object, update: &Update, at: Date) -> Result<Object, WriteError> {
    let mut after = before.clone();
    update.apply(&mut after)?;
    after.updated_at = at.max(before.updated_at);
    Ok(after)
}

async fn delete(shared: &Shared, write: &Write, schema: &ClassSchema) -> Result<Option<Written>, WriteError> {
    let Some(filter) = guarded(&write.id, &write.guard, schema) else { return Ok(None) };
    let mut session = session(shared).await.map_err(write_error)?;
    let objects = shared.objects::<RawDocumentBuf>(&write.class);
    let before = objects.find_one_and_delete(all(filter)).session(&mut session).await.map_err(write_error)?;
    let Some(before) = before else { return Ok(None) };
    let before = shared.decode(&before, schema)?;
    Ok(Some(written(shared, written_at(shared, &session), write, (Some(Arc::new(before)), None))))
}

/// What finds the row if the guard holds; `None` if MongoDB cannot say the guard.
fn guarded(id: &ObjectId, guard: &Guard, schema: &ClassSchema) -> Option<Vec<Document>> {
    let mut filter = vec![doc! { "_id": id.as_str() }];
    if let Some(writer) = &guard.writer {
        filter.push(permitted(cstr!("_wperm"), writer).try_into().ok()?);
    }
    if let Some(expect) = &guard.expect {
        filter.push(Some(Filter::of(expect, schema)).filter(|filter| filter.exact)?.document.try_into().ok()?);
    }
    Some(filter)
}

/// One filter of several. The id stays outside of `$and`, where MongoDB takes its shortest way.
fn all(filters: Vec<Document>) -> Document {
    let mut filters = filters.into_iter().filter(|filter| !filter.is_empty());
    let mut document = filters.next().unwrap_or_default();
    let rest: Vec<Document> = filters.collect();
    if !rest.is_empty() {
        document.insert("$and", rest);
    }
    document
}

/// A session for one write, which learns when it was made.
pub(super) async fn session(shared: &Shared) -> Result<ClientSession, Error> {
    let options = SessionOptions::builder().causal_consistency(false).build();
    shared.client.start_session().with_options(options).await
}

/// One whose reads see what we know of, also on a new primary, whose view of what most members have may be older.
pub(super) async fn knowing_session(shared: &Shared) -> Result<ClientSession, Error> {
    if shared.standalone.is_some() {
        return session(shared).await;
    }
    let mut session = shared.client.start_session().await?;
    session.advance_operation_time(timestamp(shared.tail.newest()));
    Ok(session)
}

/// An object before and after a write.
pub(super) type Images = (Option<Arc<Object>>, Option<Arc<Object>>);

/// What a write has done, told where nobody else tells it.
pub(super) fn written(shared: &Shared, at: Cursor, write: &Write, (before, after): Images) -> Written {
    let cursor = match &shared.standalone {
        Some(standalone) => {
            let is_change = !matches!(write.action, Action::Expect) && (before.is_some() || after.is_some());
            let change = is_change.then(|| feed::told(&write.class, &write.id, before.clone(), after.clone()));
            shared.cursor(standalone.tell(&shared.tail, change))
        }
        None => at,
    };
    Written { cursor, before, after }
}

/// When the session's last write was made.
pub(super) fn written_at(shared: &Shared, session: &ClientSession) -> Cursor {
    let at = session.operation_time().map_or_else(|| shared.tail.newest(), position);
    shared.tail.reached(at);
    shared.cursor(at)
}
