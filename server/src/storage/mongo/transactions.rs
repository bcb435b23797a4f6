//! A commit that our own code decides, in a transaction: several writes, new columns, guards that MongoDB cannot say, and
//! operations whose meaning in this row is not MongoDB's.
//!
//! Everything that is decided on is read in the transaction. Who changes it meanwhile makes it fail, and it begins again.

use super::commit::{applied, insertion_error, nothing, session, written_at};
use super::errors::{Malformed, Refusal, duplicate_field, is_transient, refusal, unavailable};
use super::updates::{difference, ordered};
use super::{Shared, collections, documents, feed, schemas, unique};
use crate::schema::{ClassSchema, FieldType};
use crate::storage::limits::too_large;
use crate::storage::{Action, Guard, Unavailable, Write, WriteError, Written};
use compact_str::CompactString;
use mongodb::ClientSession;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::error::{Error, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use mongodb::options::ReadConcern;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidings_protocol::matches::Matcher;
use tidings_protocol::{Access, ClassName, Object};

/// How long a transaction is begun again.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest wait between two beginnings.
const LONGEST_REST: Duration = Duration::from_millis(50);

/// Why a transaction did not come to its end.
pub(super) enum Failure {
    /// It must not: our own code says so.
    Refused(WriteError),
    /// The database says so; perhaps it may be tried again.
    Database(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Database(error)
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        Self::Refused(error)
    }
}

impl From<tidings_protocol::Error> for Failure {
    fn from(error: tidings_protocol::Error) -> Self {
        Self::Refused(error.into())
    }
}

impl From<Malformed> for Failure {
    fn from(error: Malformed) -> Self {
        Self::Refused(error.into())
    }
}

/// One attempt at a commit.
struct Attempt<'a> {
    shared: &'a Shared,
    session: &'a mut ClientSession,
    /// Classes as this transaction leaves them, where it changed or read them.
    schemas: BTreeMap<ClassName, (Arc<ClassSchema>, bool)>,
    bytes: usize,
}

pub(super) async fn commit(shared: &Shared, writes: &[Write]) -> Result<Vec<Written>, WriteError> {
    for write in writes {
        for unique in write.guard.unique.iter().filter(|unique| unique.value.as_str().is_some()) {
            let made = shared.collections.make_folded(&shared.db, &write.class, &unique.field).await;
            made.map_err(unavailable)?;
        }
    }
    let mut session = session(shared).await.map_err(unavailable)?;
    let mut tries = Tries::begin();
    loop {
        start(&mut session).await.map_err(unavailable)?;
        let mut attempt = Attempt { shared, session: &mut session, schemas: BTreeMap::new(), bytes: 0 };
        let outcome = attempt.writes(writes).await;
        let changed = std::mem::take(&mut attempt.schemas);
        let outcome = finish(&mut session, outcome).await;
        let images = match outcome {
            Ok(images) => images,
            Err(Failure::Refused(error)) => return Err(error),
            Err(Failure::Database(error)) => {
                tries.rest(error).await?;
                continue;
            }
        };
        let cursor = written_at(shared, &session);
        for (class, schema) in changed.into_iter().filter_map(|(class, (schema, new))| new.then_some((class, schema))) {
            add_indexes(shared, &schema, writes);
            shared.catalog.put(&class, Some(schema), cursor.position);
        }
        let written = images.into_iter().map(|(before, after)| Written { cursor: cursor.clone(), before, after });
        return Ok(written.collect());
    }
}

/// New pointer columns get their index while the class goes on.
fn add_indexes(shared: &Shared, schema: &ClassSchema, writes: &[Write]) {
    let of_class = writes.iter().filter(|write| write.class == schema.class).flat_map(|write| &write.fields);
    let indexes: Vec<Document> =
        of_class.filter_map(|(name, field_type)| collections::pointer_index(name, field_type)).collect();
    if indexes.is_empty() {
        return;
    }
    let (db, class) = (shared.db.clone(), schema.class.clone());
    shared.runtime.spawn(async move {
        if let Err(error) = collections::create_indexes(&db, &class, indexes).await {
            tracing::warn!(%class, %error, "an index could not be made: finding by its pointer is slow");
        }
    });
}

pub(super) async fn start(session: &mut ClientSession) -> Result<(), Error> {
    session.start_transaction().read_concern(ReadConcern::snapshot()).await
}

/// Commits, or takes everything back.
pub(super) async fn finish<T>(session: &mut ClientSession, outcome: Result<T, Failure>) -> Result<T, Failure> {
    let value = match outcome {
        Ok(value) => value,
        Err(failure) => {
            // What cannot be taken back now, the server takes back by itself.
            let _ = session.abort_transaction().await;
            return Err(failure);
        }
    };
    let mut tries = Tries::begin();
    loop {
        match session.commit_transaction().await {
            Ok(()) => return Ok(value),
            // To commit again is harmless: it is the same transaction.
            Err(error) if error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) && tries.are_left() => {
                tries.pause().await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Beginning again, with growing rests.
pub(super) struct Tries {
    since: Instant,
    rest: Duration,
}

impl Tries {
    pub(super) fn begin() -> Self {
        Self { since: Instant::now(), rest: Duration::from_millis(1) }
    }

    fn are_left(&self) -> bool {
        self.since.elapsed() < PATIENCE
    }

    async fn pause(&mut self) {
        tokio::time::sleep(self.rest.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
        self.rest = (self.rest * 2).min(LONGEST_REST);
    }

    /// Rests, if trying again can help.
    pub(super) async fn rest(&mut self, error: Error) -> Result<(), Unavailable> {
        if !is_transient(&error) || !self.are_left() {
            return Err(unavailable(error));
        }
        metrics::counter!("tidings_store_transactions_retried_total").increment(1);
        self.pause().await;
        Ok(())
    }
}

type Images = (Option<Arc<Object>>, Option<Arc<Object>>);

impl Attempt<'_> {
    async fn writes(&mut self, writes: &[Write]) -> Result<Vec<Images>, Failure> {
        let mut images = Vec::with_capacity(writes.len());
        for write in writes {
            images.push(self.write(write).await?);
        }
        Ok(images)
    }

    async fn write(&mut self, write: &Write) -> Result<Images, Failure> {
        let schema = self.class_for(write).await?;
        let found = self.row(write, &schema).await?;
        match &write.action {
            Action::Create(object) => {
                if found.is_some() {
                    return Err(WriteError::Exists.into());
                }
                if write.guard.expect.is_some() {
                    return Err(WriteError::Unexpected.into());
                }
                unique::check(self.shared, self.session, write).await?;
                let document = self.document(object, &schema)?;
                let objects = self.shared.objects::<RawDocumentBuf>(&write.class);
                let inserted = objects.insert_one(&document).session(&mut *self.session).await;
                inserted.map_err(refused_or(insertion_error))?;
                Ok((None, Some(Arc::new(object.clone()))))
            }
            Action::Update { update, at } => {
                let before = guarded(found, &write.guard)?;
                unique::check(self.shared, self.session, write).await?;
                let after = applied(&before, &ordered(update, &schema), *at)?;
                self.document(&after, &schema)?;
                let objects = self.shared.objects::<RawDocumentBuf>(&write.class);
                let change = difference(&before, &after, &schema);
                let updated =
                    objects.update_one(doc! { "_id": write.id.as_str() }, change).session(&mut *self.session).await;
                updated.map_err(refused_or(update_error))?;
                Ok((Some(Arc::new(before)), Some(Arc::new(after))))
            }
            Action::Expect => {
                let object = Arc::new(guarded(found, &write.guard)?);
                self.hold(write).await?;
                Ok((Some(object.clone()), Some(object)))
            }
            Action::DeleteIfPresent if found.is_none() => {
                let Written { before, after, .. } = nothing(self.shared.cursor(0));
                Ok((before, after))
            }
            Action::Delete | Action::DeleteIfPresent => {
                let before = guarded(found, &write.guard)?;
                let objects = self.shared.objects::<RawDocumentBuf>(&write.class);
                objects.delete_one(doc! { "_id": write.id.as_str() }).session(&mut *self.session).await?;
                Ok((Some(Arc::new(before)), None))
            }
        }
    }

    async fn row(&mut self, write: &Write, schema: &ClassSchema) -> Result<Option<Object>, Failure> {
        let objects = self.shared.objects::<RawDocumentBuf>(&write.class);
        let found = objects.find_one(doc! { "_id": write.id.as_str() }).session(&mut *self.session).await?;
        Ok(found.map(|document| documents::decode(&document, Some(schema))).transpose()?)
    }

    /// Leaves a row as it is, and keeps others from changing it before this transaction ends: to have read it would not,
    /// but who has written to it conflicts with them. What is written is taken back at once, and not told.
    async fn hold(&mut self, write: &Write) -> Result<(), Failure> {
        let objects = self.shared.objects::<RawDocumentBuf>(&write.class);
        for operator in ["$set", "$unset"] {
            let row = doc! { "_id": write.id.as_str() };
            objects.update_one(row, doc! { operator: { feed::HELD: true } }).session(&mut *self.session).await?;
        }
        Ok(())
    }

    fn document(&mut self, object: &Object, schema: &ClassSchema) -> Result<RawDocumentBuf, Failure> {
        let document = documents::bounded(object, Some(schema), self.shared.options.object_bytes)?;
        self.bytes += document.as_bytes().len();
        if self.bytes > self.shared.options.commit_bytes {
            return Err(too_large("commit", self.shared.options.commit_bytes).into());
        }
        Ok(document)
    }

    /// The class as this write needs it: made, or given further columns.
    async fn class_for(&mut self, write: &Write) -> Result<Arc<ClassSchema>, Failure> {
        let lacks = |schema: &ClassSchema| -> Result<Vec<(CompactString, FieldType)>, tidings_protocol::Error> {
            let mut lacking = Vec::new();
            for (name, field_type) in &write.fields {
                if schema.check_field(name, field_type)? {
                    lacking.push((name.clone(), field_type.clone()));
                }
            }
            Ok(lacking)
        };
        let known = self.schemas.get(&write.class).map(|(schema, _)| schema.clone());
        let known = known.or_else(|| self.shared.catalog.get(&write.class));
        if let Some(schema) = known
            && lacks(&schema).is_ok_and(|lacking| lacking.is_empty())
        {
            return Ok(schema);
        }
        // The row itself decides, as others may have changed it.
        let rows = self.shared.db.collection::<Document>(schemas::COLLECTION);
        let row = rows.find_one(doc! { "_id": write.class.as_str() }).session(&mut *self.session).await?;
        let Some(mut schema) = row.as_ref().and_then(schemas::decode) else {
            if !matches!(write.action, Action::Create(_)) {
                return Err(WriteError::NotFound.into());
            }
            let mut schema = ClassSchema::new(write.class.clone());
            for (name, field_type) in &write.fields {
                schema.check_field(name, field_type)?;
                schema.fields.insert(name.clone(), field_type.clone());
            }
            rows.insert_one(schemas::encode(&schema)).session(&mut *self.session).await?;
            return Ok(self.changed(schema));
        };
        let lacking = lacks(&schema)?;
        if lacking.is_empty() {
            let schema = Arc::new(schema);
            self.schemas.insert(write.class.clone(), (schema.clone(), false));
            return Ok(schema);
        }
        // Only where nobody else has made them; in a transaction, whoever is second begins again.
        let mut filter = doc! { "_id": write.class.as_str() };
        let mut columns = Document::new();
        for (name, field_type) in lacking {
            filter.insert(name.as_str(), doc! { "$exists": false });
            columns.insert(name.as_str(), schemas::type_text(&field_type));
            schema.fields.insert(name, field_type);
        }
        rows.update_one(filter, doc! { "$set": columns }).session(&mut *self.session).await?;
        Ok(self.changed(schema))
    }

    fn changed(&mut self, schema: ClassSchema) -> Arc<ClassSchema> {
        let schema = Arc::new(schema);
        self.schemas.insert(schema.class.clone(), (schema.clone(), true));
        schema
    }
}

/// The row that an update or delete is about, if the guard holds.
fn guarded(found: Option<Object>, guard: &Guard) -> Result<Object, Failure> {
    let Some(object) = found else { return Err(WriteError::NotFound.into()) };
    if guard.writer.as_ref().is_some_and(|writer| !writer.may(Access::Write, object.acl.as_ref())) {
        return Err(WriteError::NotFound.into());
    }
    if let Some(expected) = &guard.expect
        && !Matcher::new(expected)?.matches(&object)
    {
        return Err(WriteError::Unexpected.into());
    }
    Ok(object)
}

/// What an error means, unless it only says to begin again.
fn refused_or(meaning: impl Fn(&Error) -> WriteError) -> impl Fn(Error) -> Failure {
    move |error| match refusal(&error) {
        Refusal::DuplicateKey => Failure::Refused(meaning(&error)),
        Refusal::Misfit | Refusal::Other => Failure::Database(error),
    }
}

fn update_error(error: &Error) -> WriteError {
    match duplicate_field(error) {
        Some(field) => WriteError::Duplicate { field: field.into() },
        None => unavailable(error.clone()).into(),
    }
}
