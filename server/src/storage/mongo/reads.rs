//! How a selection is read: what the database is asked for, and what is done with its answer.

use super::documents::pointer_name;
use super::errors::is_too_large;
use super::filters::{self, Filter, Sort, permitted};
use super::schemas::column_name;
use super::{Shared, documents, position, timestamp};
use crate::changes::Position;
use crate::schema::{ClassSchema, FieldType};
use crate::storage::distinct::{Distinct, MOST_VALUES};
use crate::storage::{Selection, Unavailable};
use compact_str::CompactString;
use futures_util::TryStreamExt;
use mongodb::bson::raw::cstr;
use mongodb::bson::{Bson, Document, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};
use mongodb::error::Error;
use std::borrow::Cow;
use std::sync::Arc;
use tidings_protocol::matches::Matcher;
use tidings_protocol::names::is_internal_field;
use tidings_protocol::order::{write_sort_key, write_text};
use tidings_protocol::query::Order;
use tidings_protocol::update::top_level;
use tidings_protocol::{ClassName, Object, ObjectId, Value};

/// Pages up to here are read in the order of an index, and equal objects put right afterwards.
const SETTLED_PAGE: u64 = 1_000;

/// What makes an object of a document, whatever is looked at.
const ALWAYS_READ: [&str; 6] = ["_id", "_created_at", "_updated_at", "_rperm", "_wperm", "_acl"];

/// How many documents an answer may hold.
const LARGEST_BATCH: i64 = 10_000;

/// How many objects are gathered, beyond the page, before the worst are thrown away.
const SORTED_AT_ONCE: usize = 10_000;

/// A selection as it is asked of the database.
pub(super) struct Plan<'a> {
    selection: &'a Selection,
    schema: Arc<ClassSchema>,
    pub(super) filter: Filter,
    order: Vec<Order>,
    pub(super) sort: Sort,
    /// Decides about what the filter lets through, where that may be too much.
    matcher: Option<Matcher>,
    /// What is read of each document; `None` is all of it.
    projection: Option<RawDocumentBuf>,
}

/// One question to the database.
struct Question<'a> {
    filter: &'a RawDocument,
    projection: Option<&'a RawDocument>,
    sort: Option<Cow<'a, RawDocument>>,
    skip: u64,
    /// 0 is no limit.
    limit: u64,
}

/// Asks questions about one moment. Commands are sent as they are written here, and answers read where they were received:
/// the driver's own `find` copies filters, options and documents several times each.
pub(super) struct Reader<'a> {
    shared: &'a Shared,
    /// Which moment that is; the first answer says it, unless it was chosen.
    pub(super) at: Option<Position>,
}

impl<'a> Plan<'a> {
    /// # Errors
    /// For an expression that does not compile: whoever asks has compiled it before.
    pub(super) fn new(shared: &Shared, selection: &'a Selection) -> Result<Self, Unavailable> {
        Self::of(selection, shared.catalog.get_or_empty(&selection.class))
    }

    fn of(selection: &'a Selection, schema: Arc<ClassSchema>) -> Result<Self, Unavailable> {
        let order = if selection.order.is_empty() { filters::natural() } else { selection.order.clone() };
        let filter = Filter::of(&selection.predicate, &schema).and(permitted(cstr!("_rperm"), &selection.reader));
        let matcher = match filter.exact {
            true => None,
            false => Some(Matcher::new(&selection.predicate).map_err(|error| Unavailable(error.message.into_owned()))?),
        };
        let sort = filters::sort(&order, &schema);
        let mut plan = Self { filter, sort, matcher, projection: None, order, schema, selection };
        plan.projection = selection.columns.as_ref().and_then(|columns| plan.projection(columns));
        Ok(plan)
    }

    /// What must be read of documents for a caller who looks at these columns: also what our own code sifts and sorts by.
    /// Whole fields only, as MongoDB refuses a field beside its own inside.
    fn projection(&self, columns: &[CompactString]) -> Option<RawDocumentBuf> {
        // Their objects show what no column says.
        if [ClassName::USER, ClassName::SESSION].contains(&self.selection.class) {
            return None;
        }
        let mut names: Vec<CompactString> = columns.iter().map(|path| top_level(path).into()).collect();
        if self.matcher.is_some() {
            self.selection.predicate.paths(&mut |path| names.push(top_level(path).into()));
        }
        if self.sort == Sort::Client || self.settles().is_some() {
            names.extend(self.order.iter().map(|order| CompactString::from(top_level(&order.path))));
        }
        // A projection cannot say such names: then all is read.
        if names.iter().any(|name| name.is_empty() || name.starts_with('$') || name.contains('\0')) {
            return None;
        }
        let mut projection = ALWAYS_READ.iter().map(|name| ((*name).to_owned(), Bson::Int32(1))).collect::<Document>();
        for name in names.iter().filter(|name| !matches!(name.as_str(), "objectId" | "createdAt" | "updatedAt")) {
            // A document may hold both, whatever the column is.
            projection.insert(name.as_str(), 1);
            if !is_internal_field(name) {
                projection.insert(pointer_name(name), 1);
            }
        }
        RawDocumentBuf::try_from(projection).ok()
    }

    /// How many objects the end of the page needs, if it is worth while to read them without the tie-break: an index has
    /// the order, but hardly ever the id behind it.
    fn settles(&self) -> Option<u64> {
        let need = self.selection.skip.checked_add(self.selection.limit).filter(|need| *need <= SETTLED_PAGE)?;
        let is_dated = |order: &Order| matches!(order.path.as_str(), "createdAt" | "updatedAt");
        (self.filter.exact && self.order.iter().any(is_dated)).then_some(need)
    }

    fn matches(&self, object: &Object) -> bool {
        self.matcher.as_ref().is_none_or(|matcher| matcher.matches(object))
    }

    /// What a page asks first.
    fn first(&self) -> Question<'_> {
        match (&self.sort, self.settles()) {
            (Sort::Client, _) => self.everything(),
            (Sort::Server(keys), Some(need)) => {
                Question { sort: Some(Cow::Borrowed(keys)), limit: need + 1, ..self.everything() }
            }
            (Sort::Server(keys), None) => self.in_order(keys),
        }
    }

    /// In the order with its tie-break; cut to the page where the filter lets nothing else through.
    fn in_order(&self, keys: &RawDocument) -> Question<'_> {
        let (skip, limit) = match self.filter.exact {
            // Beyond what MongoDB can count, there is no limit.
            true => (self.selection.skip, i64::try_from(self.selection.limit).map_or(0, i64::unsigned_abs)),
            false => (0, 0),
        };
        Question { sort: Some(Cow::Owned(total(keys))), skip, limit, ..self.everything() }
    }

    fn everything(&self) -> Question<'_> {
        Question { projection: self.projection.as_deref(), ..Question::whole(&self.filter.document) }
    }

    /// The command of the first question, to be explained.
    pub(super) fn command(&self) -> RawDocumentBuf {
        self.first().command(&self.selection.class)
    }
}

impl<'a> Question<'a> {
    /// For all that a filter finds, and the whole of it.
    fn whole(filter: &'a RawDocument) -> Self {
        Self { filter, projection: None, sort: None, skip: 0, limit: 0 }
    }

    fn command(&self, class: &ClassName) -> RawDocumentBuf {
        let mut find = RawDocumentBuf::new();
        find.append(cstr!("find"), class.as_str());
        find.append(cstr!("filter"), self.filter);
        if let Some(projection) = self.projection {
            find.append(cstr!("projection"), projection);
        }
        if let Some(sort) = &self.sort {
            find.append(cstr!("sort"), sort.as_ref());
        }
        if self.skip > 0 {
            find.append(cstr!("skip"), i64::try_from(self.skip).unwrap_or(i64::MAX));
        }
        if self.limit > 0 {
            let limit = i64::try_from(self.limit).unwrap_or(i64::MAX);
            find.append(cstr!("limit"), limit);
            // All of a page in one answer; a batch that it does not fill says that there is no more.
            find.append(cstr!("batchSize"), limit.saturating_add(1).min(LARGEST_BATCH));
        }
        find
    }
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
        // With an index on it, the database's own command would take the arrays in an array apart, too.
        if *column == FieldType::Array {
            let name = format!("${field}");
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
        let mut command = rawdoc! { "distinct": class, "key": column_name(field, &plan.schema), "query": filter };
        self.as_of_our_moment(&mut command);
        let answer = RawDocumentBuf::try_from(self.shared.db.run_raw_command(command).await?)?;
        if self.at.is_none() {
            self.at = answer.get_timestamp("atClusterTime").ok().map(position);
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
        mut command: RawDocumentBuf,
        take: &mut (dyn FnMut(&RawDocument) -> bool + Send),
    ) -> Result<(), Error> {
        self.as_of_our_moment(&mut command);
        let mut batches = self.shared.db.run_raw_cursor_command(command).batch().await?;
        while let Some(batch) = batches.try_next().await? {
            if self.at.is_none() {
                let cursor = batch.as_raw_document().get_document("cursor");
                self.at = cursor.and_then(|cursor| cursor.get_timestamp("atClusterTime")).ok().map(position);
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

    fn as_of_our_moment(&self, command: &mut RawDocumentBuf) {
        if self.shared.standalone.is_none() {
            let mut concern = rawdoc! { "level": "snapshot" };
            if let Some(at) = self.at {
                concern.append(cstr!("atClusterTime"), timestamp(at));
            }
            command.append(cstr!("readConcern"), concern);
        }
    }
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

/// The page out of the first objects of an order, one more than it needs; `None` if those that are equal to the last one
/// may not all be among them.
fn settled(found: Vec<Arc<Object>>, order: &[Order], skip: u64, limit: u64) -> Option<Vec<Arc<Object>>> {
    let need = usize::try_from(skip + limit).ok()?;
    let is_whole = match (need.checked_sub(1).and_then(|last| found.get(last)), found.get(need)) {
        (Some(last), Some(next)) => rank(last, order) != rank(next, order),
        _ => true,
    };
    is_whole.then(|| cut(settle(found, order), skip, limit))
}

/// Brings equal objects into their order; hardly ever there are any.
fn settle(found: Vec<Arc<Object>>, order: &[Order]) -> Vec<Arc<Object>> {
    let (mut last, mut key) = (Vec::new(), Vec::new());
    let is_sorted = found.iter().all(|object| {
        key.clear();
        write_sort_key(object, order, &mut key);
        std::mem::swap(&mut last, &mut key);
        key <= last
    });
    if is_sorted { found } else { sorted(found, order) }
}

/// Where an object stands, without the tie-break.
fn rank(object: &Object, order: &[Order]) -> Vec<u8> {
    let (mut key, mut id) = (Vec::new(), Vec::new());
    write_sort_key(object, order, &mut key);
    write_text(&object.id, &mut id);
    key.truncate(key.len() - id.len());
    key
}

fn sorted(mut objects: Vec<Arc<Object>>, order: &[Order]) -> Vec<Arc<Object>> {
    objects.sort_by_cached_key(|object| {
        let mut key = Vec::new();
        write_sort_key(object, order, &mut key);
        key
    });
    objects
}

fn cut(objects: Vec<Arc<Object>>, skip: u64, limit: u64) -> Vec<Arc<Object>> {
    let bound = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    objects.into_iter().skip(bound(skip)).take(bound(limit)).collect()
}

/// The order with its tie-break.
fn total(keys: &RawDocument) -> RawDocumentBuf {
    let mut keys = keys.to_owned();
    if !filters::has(&keys, "_id") {
        keys.append(cstr!("_id"), 1);
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::contract::select;

    /// What is read of each document for somebody who looks at `columns`, beyond what always is.
    #[track_caller]
    fn check(class: &ClassName, columns: Option<&str>, filter: &str, order: &str, expected: Option<&str>) {
        let mut schema = ClassSchema::new(class.clone());
        for (name, field_type) in [
            ("n", FieldType::Number),
            ("p", FieldType::Pointer(ClassName::USER)),
            ("o", FieldType::Object),
            ("g", FieldType::GeoPoint),
        ] {
            schema.fields.insert(name.into(), field_type);
        }
        let columns = columns.map(|names| names.split(' ').map(CompactString::from).collect());
        let selection = Selection { columns, limit: 10, ..select(class, filter, order) };
        let plan = Plan::of(&selection, Arc::new(schema)).unwrap();
        let command = plan.everything().command(class);
        let projection = command.get("projection").unwrap().and_then(RawBsonRef::as_document);
        let names = projection.map(|projection| {
            let names: Vec<&str> = projection.iter().map(|element| element.unwrap().0.as_str()).collect();
            let (always, more) = names.split_at(ALWAYS_READ.len());
            assert_eq!(always, ALWAYS_READ);
            more.join(" ")
        });
        assert_eq!(names.as_deref(), expected);
        assert_eq!(plan.command().get_document("projection").is_ok(), expected.is_some());
    }

    #[test]
    fn of_documents_is_read_what_is_looked_at() {
        let note = ClassName::from_trusted("Note");
        let some = |columns, filter, order, expected| check(&note, Some(columns), filter, order, Some(expected));
        check(&note, None, "{}", "", None);
        some("n", "{}", "", "n _p_n");
        some("n o.a o.b n", "{}", "", "n _p_n o _p_o");
        some("p unknown", "{}", "", "p _p_p unknown _p_unknown");
        some("objectId createdAt updatedAt", "{}", "", "");
        some("_rperm _hidden", "{}", "", "_hidden");
        // The database filters and sorts by itself.
        some("p", r#"{"n":1}"#, "n,o", "p _p_p");
        // It lets too much through.
        some("p", r#"{"n":1,"o.x":2}"#, "n", "p _p_p n _p_n o _p_o");
        some("p", r#"{"o":{"$gte":{}},"p":null}"#, "n", "p _p_p o _p_o");
        // It does not sort, or only nearly.
        some("p", "{}", "g,n", "p _p_p g _p_g n _p_n");
        some("p", "{}", "-n,createdAt", "p _p_p n _p_n");
        // It cannot be told.
        for name in ["$score", "n .a", "n a\0"] {
            check(&note, Some(&name.replace("\\0", "\0")), "{}", "", None);
        }
        check(&ClassName::USER, Some("n"), "{}", "", None);
        check(&ClassName::SESSION, Some("n"), "{}", "", None);
    }
}
