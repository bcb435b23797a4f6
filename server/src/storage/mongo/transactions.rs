//! A commit that our own code decides, in a transaction: several writes, new columns, guards that MongoDB cannot say, and
//! operations whose meaning in this row is not MongoDB's.
//!
//! Everything that is decided on is read in the transaction. Who changes it meanwhile makes it fail, and it begins again.
//! A standalone MongoDB has no transactions: there each write is made by itself, to the row as it was read and no other.

use super::commit::{Images, applied, knowing_session, written, written_at};
use super::errors::{
    Malformed, Refusal, duplicate_field, insertion_error, is_transient, refusal, unavailable, write_error,
};
use super::updates::{difference, ordered};
use super::{Shared, documents, feed, indexes, schemas, unique};
use crate::changes::Change;
use crate::schema::{ClassSchema, FieldType};
use crate::storage::limits::{check_id, too_large};
use crate::storage::{Action, Guard, Membership, Refused, Unavailable, Write, WriteError, Written};
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
    /// What was decided on is no longer what it was.
    Outrun,
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
    /// The write at hand.
    at: usize,
}

/// What a class lacks for a write.
struct Missing {
    /// The class as it will be.
    schema: ClassSchema,
    row: ClassRow,
}

enum ClassRow {
    New(Document),
    /// These columns, where nobody else has made them.
    Columns {
        filter: Document,
        columns: Document,
    },
}

pub(super) async fn commit(shared: &Shared, writes: &[Write]) -> Result<Vec<Written>, Refused> {
    for write in writes {
        for unique in write
            .guard
            .unique
            .iter()
            .filter(|unique| unique.value.as_str().is_some() && unique::is_folded(&unique.field))
        {
            let made = shared.collections.make_folded(&shared.db, &write.class, &unique.field).await;
            made.map_err(unavailable)?;
        }
    }
    let mut session = knowing_session(shared).await.map_err(unavailable)?;
    if shared.standalone.is_some() {
        return one_by_one(shared, &mut session, writes).await;
    }
    let mut tries = Tries::begin();
    loop {
        start(shared, &mut session).await.map_err(unavailable)?;
        let mut attempt = Attempt::new(shared, &mut session);
        let outcome = attempt.writes(writes).await;
        let at = attempt.at;
        let changed = attempt.changed_classes();
        match finish(shared, &mut session, outcome).await {
            Ok(images) => {
                let cursor = written_at(shared, &session);
                for schema in changed {
                    add_indexes(shared, &schema, writes);
                    shared.catalog.put(&schema.class, Some(schema.clone()), cursor.position);
                }
                let written = images.into_iter();
                return Ok(written.map(|(before, after)| Written { cursor: cursor.clone(), before, after }).collect());
            }
            Err(failure) => tries.rest(failure).await.map_err(|error| Refused { at, error })?,
        }
    }
}

/// Makes each write by itself: if one is refused, those before it stay.
async fn one_by_one(shared: &Shared, session: &mut ClientSession, writes: &[Write]) -> Result<Vec<Written>, Refused> {
    let mut all = Vec::with_capacity(writes.len());
    for (at, write) in writes.iter().enumerate() {
        let mut tries = Tries::begin();
        let images = loop {
            let mut attempt = Attempt::new(shared, session);
            let outcome = attempt.write(write).await;
            for schema in attempt.changed_classes() {
                add_indexes(shared, &schema, writes);
                let (class, before) = (schema.class.clone(), shared.catalog.get(&schema.class));
                shared.tell([Change::Schema { class, before, schema: Some(schema.clone()) }]);
                shared.catalog.put(&schema.class, Some(schema.clone()), shared.tail.newest());
            }
            match outcome {
                Ok(images) => break images,
                Err(failure) => tries.rest(failure).await.map_err(|error| Refused { at, error })?,
            }
        };
        all.push(written(shared, written_at(shared, session), write, images));
    }
    Ok(all)
}

/// New columns get their indexes while the class goes on.
fn add_indexes(shared: &Shared, schema: &ClassSchema, writes: &[Write]) {
    let of_class = writes.iter().filter(|write| write.class == schema.class).flat_map(|write| &write.fields);
    let columns: BTreeMap<CompactString, FieldType> = of_class.cloned().collect();
    let new = indexes::count(&columns);
    if new == 0 {
        return;
    }
    let before = indexes::count(&schema.fields).saturating_sub(new);
    let (db, class) = (shared.db.clone(), schema.class.clone());
    shared.runtime.spawn(async move {
        indexes::add(&db, &class, before, &columns).await;
    });
}

pub(super) async fn start(shared: &Shared, session: &mut ClientSession) -> Result<(), Error> {
    if shared.standalone.is_some() {
        return Ok(());
    }
    session.start_transaction().read_concern(ReadConcern::snapshot()).await
}

/// Commits, or takes everything back.
pub(super) async fn finish<T>(
    shared: &Shared,
    session: &mut ClientSession,
    outcome: Result<T, Failure>,
) -> Result<T, Failure> {
    if shared.standalone.is_some() {
        return outcome;
    }
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
    pub(super) async fn rest(&mut self, failure: Failure) -> Result<(), WriteError> {
        match failure {
            Failure::Refused(error) => return Err(error),
            Failure::Database(error) if !is_transient(&error) || !self.are_left() => return Err(write_error(error)),
            Failure::Outrun if !self.are_left() => {
                return Err(Unavailable("others change it without end".to_owned()).into());
            }
            Failure::Database(_) | Failure::Outrun => {}
        }
        metrics::counter!("tidings_store_transactions_retried_total").increment(1);
        self.pause().await;
        Ok(())
    }
}

impl<'a> Attempt<'a> {
    fn new(shared: &'a Shared, session: &'a mut ClientSession) -> Self {
        Self { shared, session, schemas: BTreeMap::new(), bytes: 0, at: 0 }
    }

    /// The classes that were made or given columns.
    fn changed_classes(self) -> Vec<Arc<ClassSchema>> {
        self.schemas.into_values().filter_map(|(schema, is_new)| is_new.then_some(schema)).collect()
    }

    async fn writes(&mut self, writes: &[Write]) -> Result<Vec<Images>, Failure> {
        let mut images = Vec::with_capacity(writes.len());
        for (at, write) in writes.iter().enumerate() {
            self.at = at;
            images.push(self.write(write).await?);
        }
        Ok(images)
    }

    async fn write(&mut self, write: &Write) -> Result<Images, Failure> {
        let (schema, missing) = self.class_for(write).await?;
        let found = self.row(write).await?;
        let row = self.as_found(write, found.as_ref())?;
        let found = found.map(|document| self.shared.decode(&document, &schema)).transpose()?;
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
                self.bring(missing).await?;
                let objects = self.shared.objects::<RawDocumentBuf>(&write.class);
                let inserted = objects.insert_one(&document).session(&mut *self.session).await;
                inserted.map_err(refused_or(insertion_error))?;
                Ok((None, Some(Arc::new(object.clone()))))
            }
            Action::Update { update, at } => {
                let before = guarded(found, &write.guard)?;
                unique::check(self.shared, self.session, write).await?;
                let after = applied(&before, &ordered(update, &schema, self.shared.options.files_url.as_deref()), *at)?;
                self.document(&after, &schema)?;
                self.bring(missing).await?;
                let objects = self.shared.objects::<RawDocumentBuf>(&write.class);
                let change = difference(&before, &after, &schema);
                let updated = objects.update_one(row, change).session(&mut *self.session).await;
                reached(updated.map_err(refused_or(update_error))?.matched_count)?;
                Ok((Some(Arc::new(before)), Some(Arc::new(after))))
            }
            Action::Expect => {
                let object = Arc::new(guarded(found, &write.guard)?);
                self.hold(write).await?;
                Ok((Some(object.clone()), Some(object)))
            }
            Action::DeleteIfPresent if found.is_none() => Ok((None, None)),
            Action::Join(membership) | Action::Leave(membership) => self.relate(write, membership).await,
            Action::Delete | Action::DeleteIfPresent => {
                let before = guarded(found, &write.guard)?;
                let objects = self.shared.objects::<RawDocumentBuf>(&write.class);
                reached(objects.delete_one(row).session(&mut *self.session).await?.deleted_count)?;
                Ok((Some(Arc::new(before)), None))
            }
        }
    }

    /// Here a pair has the id that the database gives it, as with Parse Server; or several, where two made it at once.
    async fn relate(&mut self, write: &Write, Membership { owner, related }: &Membership) -> Result<Images, Failure> {
        check_id(&write.id)?;
        let rows = self.shared.objects::<Document>(&write.class);
        let pair = doc! { Membership::RELATED: related.as_str(), Membership::OWNER: owner.as_str() };
        if let Action::Join(_) = write.action {
            let join = rows.update_one(pair.clone(), doc! { "$setOnInsert": pair }).upsert(true);
            join.session(&mut *self.session).await?;
        } else {
            rows.delete_many(pair).session(&mut *self.session).await?;
        }
        Ok((None, None))
    }

    async fn row(&mut self, write: &Write) -> Result<Option<RawDocumentBuf>, Error> {
        if write.class.is_relation() {
            return Ok(None);
        }
        let objects = self.shared.objects::<RawDocumentBuf>(&write.class);
        objects.find_one(doc! { "_id": write.id.as_str() }).session(&mut *self.session).await
    }

    /// What finds a row again, if it is still as it was found; a transaction sees to that by itself.
    fn as_found(&self, write: &Write, found: Option<&RawDocumentBuf>) -> Result<Document, Failure> {
        let mut row = doc! { "_id": write.id.as_str() };
        if let Some(found) = found.filter(|_| self.shared.standalone.is_some()) {
            row.extend(still(&Document::try_from(&**found).map_err(|_| Malformed("a document cannot be read"))?));
        }
        Ok(row)
    }

    /// Leaves a row as it is, and keeps others from changing it before this transaction ends: to have read it would not,
    /// but who has written to it conflicts with them. What is written is taken back at once, and not told.
    async fn hold(&mut self, write: &Write) -> Result<(), Failure> {
        if self.shared.standalone.is_some() {
            return Ok(());
        }
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

    /// The class as this write needs it, and what it lacks for that.
    async fn class_for(&mut self, write: &Write) -> Result<(Arc<ClassSchema>, Option<Missing>), Failure> {
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
            return Ok((schema, None));
        }
        // The row itself decides, as others may have changed it.
        let rows = self.shared.db.collection::<Document>(schemas::COLLECTION);
        let row = rows.find_one(doc! { "_id": write.class.as_str() }).session(&mut *self.session).await?;
        let Some(mut schema) = row.as_ref().and_then(schemas::decode) else {
            if !write.action.creates() {
                return Err(WriteError::NotFound.into());
            }
            let mut schema = ClassSchema::new(write.class.clone());
            for (name, field_type) in &write.fields {
                schema.check_field(name, field_type)?;
                schema.fields.insert(name.clone(), field_type.clone());
            }
            let row = ClassRow::New(schemas::encode(&schema));
            return Ok((Arc::new(schema.clone()), Some(Missing { schema, row })));
        };
        let lacking = lacks(&schema)?;
        if lacking.is_empty() {
            let schema = Arc::new(schema);
            self.schemas.insert(write.class.clone(), (schema.clone(), false));
            return Ok((schema, None));
        }
        let mut filter = doc! { "_id": write.class.as_str() };
        let mut columns = Document::new();
        for (name, field_type) in lacking {
            filter.insert(name.as_str(), doc! { "$exists": false });
            columns.insert(name.as_str(), schemas::type_text(&field_type));
            schema.fields.insert(name, field_type);
        }
        let row = ClassRow::Columns { filter, columns };
        Ok((Arc::new(schema.clone()), Some(Missing { schema, row })))
    }

    /// Makes what a class lacks, once nothing but the database can refuse the write.
    async fn bring(&mut self, missing: Option<Missing>) -> Result<(), Failure> {
        let Some(Missing { schema, row }) = missing else { return Ok(()) };
        let rows = self.shared.db.collection::<Document>(schemas::COLLECTION);
        match row {
            ClassRow::New(row) => {
                let inserted = rows.insert_one(row).session(&mut *self.session).await;
                inserted.map_err(|error| match refusal(&error) {
                    Refusal::DuplicateKey => Failure::Outrun,
                    Refusal::Misfit | Refusal::Other => Failure::Database(error),
                })?;
            }
            ClassRow::Columns { filter, columns } => {
                let set = doc! { "$set": columns };
                reached(rows.update_one(filter, set).session(&mut *self.session).await?.matched_count)?;
            }
        }
        self.schemas.insert(schema.class.clone(), (Arc::new(schema), true));
        Ok(())
    }
}

/// A filter for a document that is still the same, to the last byte.
pub(super) fn still(document: &Document) -> Document {
    doc! { "$expr": { "$eq": ["$$ROOT", { "$literal": document }] } }
}

/// Whether a write found the row for which it was decided.
pub(super) fn reached(count: u64) -> Result<(), Failure> {
    if count == 0 { Err(Failure::Outrun) } else { Ok(()) }
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
