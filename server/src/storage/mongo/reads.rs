//! Asks the database as a plan says, as of one moment, and makes objects of its answers.

use super::errors::is_too_large;
use super::filters::Sort;
use super::gathering::{self, Gathered, Gathering};
use super::pages::{cut, settled, sorted};
use super::plan::{Plan, Question};
use super::schemas::column_name;
use super::{Shared, documents, position, timestamp};
use crate::changes::Position;
use crate::schema::{ClassSchema, FieldType};
use crate::storage::distinct::{Distinct, MOST_VALUES};
use futures_util::TryStreamExt;
use mongodb::bson::raw::cstr;
use mongodb::bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};
use mongodb::error::Error;
use std::collections::HashMap;
use std::sync::Arc;
use tidings_protocol::{ClassName, Object, ObjectId, Value};

/// How many objects are sorted, beyond the page, before the worst are thrown away.
const SORTED_AT_ONCE: usize = 10_000;

/// Asks questions about one moment. Commands are sent as they are written here, and answers read where they were received:
/// the driver's own `find` copies filters, options and documents several times each.
pub(super) struct Reader<'a> {
    shared: &'a Shared,
    /// Which moment that is; the first answer says it, unless it was chosen.
    pub(super) at: Option<Position>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(shared: &'a Shared, at: Option<Position>) -> Self {
        Self { shared, at }
    }

    /// Those of these objects that are there, in any order.
    pub(super) async fn get(&mut self, class: &ClassName, ids: &[&ObjectId]) -> Result<Vec<Arc<Object>>, Error> {
        let schema = self.shared.catalog.get_or_empty(class);
        let filter = match ids {
            [id] => rawdoc! { "_id": id.as_str() },
            ids => rawdoc! { "_id": { "$in": RawArrayBuf::from_iter(ids.iter().map(|id| id.as_str())) } },
        };
        self.all(class, &schema, &Question { limit: ids.len() as u64, ..Question::whole(&filter) }).await
    }

    pub(super) async fn page(&mut self, plan: &Plan<'_>) -> Result<Vec<Arc<Object>>, Error> {
        let (skip, limit) = (plan.selection.skip, plan.selection.limit);
        let mut question = plan.first();
        let Sort::Server(keys) = &plan.sort else { return self.sort(plan, &question).await };
        let (class, schema) = (&plan.selection.class, &plan.schema);
        if plan.settles().is_some() {
            let found = self.all(class, schema, &question).await?;
            if let Some(page) = settled(found, &plan.order, skip, limit) {
                return Ok(page);
            }
            question = plan.in_order(keys);
        }
        match plan.filter.exact {
            true => self.all(class, schema, &question).await,
            false => self.sift(plan, &question).await,
        }
    }

    pub(super) async fn count(&mut self, plan: &Plan<'_>) -> Result<u64, Error> {
        let (class, filter) = (&plan.selection.class, &plan.filter.document);
        let mut count = 0;
        if !plan.filter.exact {
            let question = Question::whole(filter);
            let mut take = |object: Object| {
                count += u64::from(plan.matches(&object));
                true
            };
            self.ask(class, &plan.schema, &question, &mut take).await?;
            return Ok(count);
        }
        let command = rawdoc! {
            "aggregate": class.as_str(),
            "pipeline": [{ "$match": filter.clone() }, { "$count": "count" }],
            "cursor": {},
        };
        let mut take = |counted: &RawDocument| {
            count = match counted.get("count") {
                Ok(Some(RawBsonRef::Int32(count))) => u64::try_from(count).unwrap_or_default(),
                Ok(Some(RawBsonRef::Int64(count))) => u64::try_from(count).unwrap_or_default(),
                _ => 0,
            };
            false
        };
        self.run(command, &mut take).await?;
        Ok(count)
    }

    /// The values of a field, each once and in order; `None` where they are too much.
    pub(super) async fn distinct(&mut self, plan: &Plan<'_>, field: &str) -> Result<Option<Vec<Value>>, Error> {
        let column = plan.schema.fields.get(field).filter(|column| are_values_stored(column) && plan.filter.exact);
        if let Some(column) = column {
            match self.stored_values(plan, field, column).await {
                // What fits no document is read object by object.
                Err(error) if is_too_large(&error) => {}
                values => return Ok(values?.finish()),
            }
        }
        let question = plan.everything();
        let mut distinct = Distinct::of(field);
        let mut take = |object: Object| !plan.matches(&object) || distinct.add(&object);
        self.ask(&plan.selection.class, &plan.schema, &question, &mut take).await?;
        Ok(distinct.finish())
    }

    /// The values of a column as the database tells them apart, which is how we do.
    async fn stored_values(&mut self, plan: &Plan<'_>, field: &str, column: &FieldType) -> Result<Distinct, Error> {
        let (class, filter) = (plan.selection.class.as_str(), plan.filter.document.clone());
        let files_url = self.shared.options.files_url.as_deref();
        let mut distinct = Distinct::of(field);
        let mut add = |value: RawBsonRef<'_>| distinct.add_value(&documents::decode_value(value, column, files_url));
        // With an index on it, the database's own command would take the arrays in an array apart, too; and of a collection
        // that is sharded it reads no one moment.
        let stored = column_name(field, &plan.schema);
        if *column == FieldType::Array || self.shared.is_router {
            let name = format!("${stored}");
            let command = rawdoc! {
                "aggregate": class,
                "pipeline": [
                    { "$match": filter },
                    { "$unwind": name.as_str() },
                    { "$group": { "_id": name.as_str() } },
                    // One of them may be null.
                    { "$limit": MOST_VALUES as i64 + 2 },
                ],
                "cursor": {},
            };
            self.run(command, &mut |group| group.get("_id").ok().flatten().is_none_or(&mut add)).await?;
            return Ok(distinct);
        }
        let command = rawdoc! { "distinct": class, "key": stored.as_str(), "query": filter };
        let (shared, known) = (self.shared, self.shared.tail.newest());
        let ask = async |command| Ok::<_, Error>(RawDocumentBuf::try_from(shared.db.run_raw_command(command).await?)?);
        let mut answer = ask(self.as_of_our_moment(&command)).await?;
        if self.is_too_old(moment(&answer), known) {
            answer = ask(self.as_of_our_moment(&command)).await?;
        }
        for value in answer.get_array("values")? {
            if !add(value?) {
                break;
            }
        }
        Ok(distinct)
    }

    async fn all(
        &mut self,
        class: &ClassName,
        schema: &ClassSchema,
        question: &Question<'_>,
    ) -> Result<Vec<Arc<Object>>, Error> {
        let mut objects = Vec::new();
        let mut take = |object| {
            objects.push(Arc::new(object));
            true
        };
        self.ask(class, schema, question, &mut take).await?;
        Ok(objects)
    }

    /// The page out of an answer in any order. Only what may be on it is kept.
    async fn sort(&mut self, plan: &Plan<'_>, question: &Question<'_>) -> Result<Vec<Arc<Object>>, Error> {
        let (skip, limit) = (plan.selection.skip, plan.selection.limit);
        let need = usize::try_from(skip.saturating_add(limit)).unwrap_or(usize::MAX);
        let mut best = Vec::new();
        let mut take = |object: Object| {
            if plan.matches(&object) {
                best.push(Arc::new(object));
            }
            if best.len() >= need.saturating_mul(2).saturating_add(SORTED_AT_ONCE) {
                best = cut(sorted(std::mem::take(&mut best), &plan.order), 0, need as u64);
            }
            true
        };
        self.ask(&plan.selection.class, &plan.schema, question, &mut take).await?;
        Ok(cut(sorted(best, &plan.order), skip, limit))
    }

    /// The page out of an answer that holds more than what matches.
    async fn sift(&mut self, plan: &Plan<'_>, question: &Question<'_>) -> Result<Vec<Arc<Object>>, Error> {
        let (mut page, mut skipped) = (Vec::new(), 0);
        let mut take = |object: Object| {
            if plan.matches(&object) {
                if skipped < plan.selection.skip {
                    skipped += 1;
                } else {
                    page.push(Arc::new(object));
                }
            }
            (page.len() as u64) < plan.selection.limit
        };
        self.ask(&plan.selection.class, &plan.schema, question, &mut take).await?;
        Ok(page)
    }

    /// Asks, and hands each object to `take` until it returns false.
    async fn ask(
        &mut self,
        class: &ClassName,
        schema: &ClassSchema,
        question: &Question<'_>,
        take: &mut (dyn FnMut(Object) -> bool + Send),
    ) -> Result<(), Error> {
        let find = question.command(class);
        let shared = self.shared;
        let mut read = |document: &RawDocument| match shared.decode(document, schema) {
            Ok(object) => take(object),
            // One document that is no object must not hide all others.
            Err(malformed) => {
                tracing::warn!(%class, reason = malformed.0, "a document is left out");
                true
            }
        };
        self.run(find, &mut read).await
    }

    /// Runs a command that answers with documents, as of our moment, and hands each to `take` until it returns false.
    async fn run(
        &mut self,
        command: RawDocumentBuf,
        take: &mut (dyn FnMut(&RawDocument) -> bool + Send),
    ) -> Result<(), Error> {
        let (shared, known) = (self.shared, self.shared.tail.newest());
        let ask = async |command| shared.db.run_raw_cursor_command(command).batch().await;
        let mut batches = ask(self.as_of_our_moment(&command)).await?;
        while let Some(batch) = batches.try_next().await? {
            if self.is_too_old(batch.as_raw_document().get_document("cursor").ok().and_then(moment), known) {
                batches = ask(self.as_of_our_moment(&command)).await?;
                continue;
            }
            for document in batch.doc_slices()? {
                let document =
                    document?.as_document().ok_or_else(|| Error::custom("a batch holds what is no document"))?;
                if !take(document) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Whether to ask again, as of what was known before: a new primary has all that was answered, but may not know yet that
    /// most members have it. It waits until it does if it is asked for that very moment.
    fn is_too_old(&mut self, seen: Option<Position>, known: Position) -> bool {
        if self.at.is_some() {
            return false;
        }
        self.at = seen.map(|seen| seen.max(known));
        self.at != seen
    }

    fn as_of_our_moment(&self, command: &RawDocument) -> RawDocumentBuf {
        let mut command = command.to_owned();
        if self.shared.standalone.is_none() {
            let mut concern = rawdoc! { "level": "snapshot" };
            if let Some(at) = self.at {
                concern.append(cstr!("atClusterTime"), timestamp(at));
            }
            command.append(cstr!("readConcern"), concern);
        }
        command
    }
}

/// Reads an object as of now: the newest state that there is.
pub(super) async fn get(shared: &Arc<Shared>, class: &ClassName, id: &ObjectId) -> Result<GotAt, Error> {
    gathering::run(shared, class, Get(id.clone())).await
}

/// An object as of a moment, if it was there.
pub(super) type GotAt = (Option<Arc<Object>>, Option<Position>);

/// Single objects are read together under load.
pub(super) struct Get(ObjectId);

impl Gathered for Get {
    type Done = GotAt;
    const COMMANDS: usize = 8;
    const MOST: usize = 1_000;
    const MOST_BYTES: usize = 1 << 20;

    fn bytes(&self) -> usize {
        self.0.len()
    }

    fn gathering(shared: &Shared) -> &Gathering<Self> {
        &shared.gets
    }

    async fn together(shared: &Shared, class: &ClassName, all: Vec<Self>) -> Result<Vec<GotAt>, Error> {
        let mut ids: Vec<_> = all.iter().map(|Self(id)| id).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut reader = Reader::new(shared, None);
        let objects = reader.get(class, &ids).await?;
        let found: HashMap<_, _> = objects.iter().map(|object| (&object.id, object)).collect();
        Ok(all.iter().map(|Self(id)| (found.get(id).copied().cloned(), reader.at)).collect())
    }
}

/// When something was read, where there was something to read.
fn moment(answer: &RawDocument) -> Option<Position> {
    answer.get_timestamp("atClusterTime").ok().map(position).filter(|at| *at > 0)
}

/// Whether documents hold a column's values, if in another form: of a place there are two numbers, of a relation nothing.
fn are_values_stored(column: &FieldType) -> bool {
    match column {
        FieldType::String
        | FieldType::Number
        | FieldType::Boolean
        | FieldType::Date
        | FieldType::Bytes
        | FieldType::Pointer(_)
        | FieldType::File
        | FieldType::Object
        | FieldType::Array => true,
        FieldType::GeoPoint | FieldType::Polygon | FieldType::Acl | FieldType::Relation(_) => false,
    }
}
