//! How a selection is read: what the database is asked for, and what is done with its answer.

use super::filters::{self, Filter, Sort, permitted};
use super::{Shared, documents};
use crate::schema::ClassSchema;
use crate::storage::{Selection, Unavailable};
use futures_util::TryStreamExt;
use mongodb::ClientSession;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::error::Error;
use std::sync::Arc;
use tidings_protocol::matches::Matcher;
use tidings_protocol::order::{write_sort_key, write_text};
use tidings_protocol::query::Order;
use tidings_protocol::{ClassName, Object, ObjectId};

/// Pages up to here are read in the order of an index, and equal objects put right afterwards.
const SETTLED_PAGE: u64 = 1_000;

/// How many objects are gathered, beyond the page, before the worst are thrown away.
const SORTED_AT_ONCE: usize = 10_000;

/// A selection as it is asked of the database.
pub(super) struct Plan<'a> {
    selection: &'a Selection,
    schema: Arc<ClassSchema>,
    pub(super) filter: Filter,
    order: Vec<Order>,
    pub(super) sort: Sort,
    matcher: Matcher,
}

/// One question to the database.
#[derive(Default)]
struct Question {
    filter: Document,
    sort: Option<Document>,
    skip: u64,
    /// 0 is no limit.
    limit: u64,
}

/// A session that reads one class.
pub(super) struct Reader<'a> {
    pub(super) shared: &'a Shared,
    pub(super) session: &'a mut ClientSession,
}

impl<'a> Plan<'a> {
    /// # Errors
    /// For an expression that does not compile: whoever asks has compiled it before.
    pub(super) fn new(shared: &Shared, selection: &'a Selection) -> Result<Self, Unavailable> {
        let schema = shared.catalog.get_or_empty(&selection.class);
        let order = if selection.order.is_empty() { filters::natural() } else { selection.order.clone() };
        Ok(Self {
            filter: Filter::of(&selection.predicate, &schema).and(permitted("_rperm", &selection.reader)),
            sort: filters::sort(&order, &schema),
            matcher: Matcher::new(&selection.predicate).map_err(|error| Unavailable(error.message.into_owned()))?,
            order,
            schema,
            selection,
        })
    }

    /// How many objects the end of the page needs, if it is worth while to read them without the tie-break: an index has
    /// the order, but hardly ever the id behind it.
    fn settles(&self) -> Option<u64> {
        let need = self.selection.skip.checked_add(self.selection.limit).filter(|need| *need <= SETTLED_PAGE)?;
        let is_dated = |order: &Order| matches!(order.path.as_str(), "createdAt" | "updatedAt");
        (self.filter.exact && self.order.iter().any(is_dated)).then_some(need)
    }

    /// The command of the first question, to be explained.
    pub(super) fn command(&self) -> Document {
        let mut find = doc! { "find": self.selection.class.as_str(), "filter": &self.filter.document };
        if let Sort::Server(keys) = &self.sort {
            let settles = self.settles();
            find.insert("sort", if settles.is_some() { keys.clone() } else { total(keys) });
            let limit = settles.map(|need| need + 1).or(self.selection.skip.checked_add(self.selection.limit));
            if let Some(limit) = limit.and_then(|limit| i64::try_from(limit).ok()).filter(|_| self.filter.exact) {
                find.insert("limit", limit);
            }
        }
        find
    }
}

impl Reader<'_> {
    pub(super) async fn get(&mut self, class: &ClassName, id: &ObjectId) -> Result<Option<Arc<Object>>, Error> {
        let schema = self.shared.catalog.get_or_empty(class);
        let question = Question { filter: doc! { "_id": id.as_str() }, limit: 1, ..Question::default() };
        let mut found = None;
        let mut take = |object| {
            found = Some(Arc::new(object));
            false
        };
        self.ask(class, &schema, &question, &mut take).await?;
        Ok(found)
    }

    pub(super) async fn page(&mut self, plan: &Plan<'_>) -> Result<Vec<Arc<Object>>, Error> {
        let (filter, skip, limit) = (plan.filter.document.clone(), plan.selection.skip, plan.selection.limit);
        let Sort::Server(keys) = &plan.sort else {
            return self.sort(plan, &Question { filter, ..Question::default() }).await;
        };
        if !plan.filter.exact {
            return self.sift(plan, &Question { filter, sort: Some(total(keys)), ..Question::default() }).await;
        }
        if let Some(need) = plan.settles() {
            let sort = Some(keys.clone());
            let question = Question { filter: filter.clone(), sort, skip: 0, limit: need + 1 };
            let found = self.all(plan, &question).await?;
            if let Some(page) = settled(found, &plan.order, skip, limit) {
                return Ok(page);
            }
        }
        let limit = if i64::try_from(limit).is_ok() { limit } else { 0 };
        self.all(plan, &Question { filter, sort: Some(total(keys)), skip, limit }).await
    }

    pub(super) async fn count(&mut self, plan: &Plan<'_>) -> Result<u64, Error> {
        let filter = plan.filter.document.clone();
        if !plan.filter.exact {
            let mut count = 0;
            let mut take = |object: Object| {
                count += u64::from(plan.matcher.matches(&object));
                true
            };
            let question = Question { filter, ..Question::default() };
            self.ask(&plan.selection.class, &plan.schema, &question, &mut take).await?;
            return Ok(count);
        }
        let stages = [doc! { "$match": filter }, doc! { "$count": "count" }];
        let objects = self.shared.objects::<Document>(&plan.selection.class);
        let mut counted = objects.aggregate(stages).session(&mut *self.session).await?;
        let counted = counted.stream(&mut *self.session).try_next().await?;
        Ok(match counted.as_ref().and_then(|counted| counted.get("count")) {
            Some(Bson::Int32(count)) => u64::try_from(*count).unwrap_or_default(),
            Some(Bson::Int64(count)) => u64::try_from(*count).unwrap_or_default(),
            _ => 0,
        })
    }

    async fn all(&mut self, plan: &Plan<'_>, question: &Question) -> Result<Vec<Arc<Object>>, Error> {
        let mut objects = Vec::new();
        let mut take = |object| {
            objects.push(Arc::new(object));
            true
        };
        self.ask(&plan.selection.class, &plan.schema, question, &mut take).await?;
        Ok(objects)
    }

    /// The page out of an answer in any order. Only what may be on it is kept.
    async fn sort(&mut self, plan: &Plan<'_>, question: &Question) -> Result<Vec<Arc<Object>>, Error> {
        let (skip, limit) = (plan.selection.skip, plan.selection.limit);
        let need = usize::try_from(skip.saturating_add(limit)).unwrap_or(usize::MAX);
        let mut best = Vec::new();
        let mut take = |object: Object| {
            if plan.filter.exact || plan.matcher.matches(&object) {
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
    async fn sift(&mut self, plan: &Plan<'_>, question: &Question) -> Result<Vec<Arc<Object>>, Error> {
        let (mut page, mut skipped) = (Vec::new(), 0);
        let mut take = |object: Object| {
            if plan.matcher.matches(&object) {
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
        question: &Question,
        take: &mut (dyn FnMut(Object) -> bool + Send),
    ) -> Result<(), Error> {
        let objects = self.shared.objects::<RawDocumentBuf>(class);
        let mut find = objects.find(question.filter.clone()).skip(question.skip);
        if let Some(sort) = &question.sort {
            find = find.sort(sort.clone());
        }
        if question.limit > 0 {
            let limit = i64::try_from(question.limit).unwrap_or(i64::MAX);
            // All of a page in one answer.
            find = find.limit(limit).batch_size(u32::try_from(limit).unwrap_or(u32::MAX).min(10_000));
        }
        let mut cursor = find.session(&mut *self.session).await?;
        while cursor.advance(&mut *self.session).await? {
            match documents::decode(cursor.current(), Some(schema)) {
                Ok(object) => {
                    if !take(object) {
                        break;
                    }
                }
                // One document that is no object must not hide all others.
                Err(malformed) => tracing::warn!(%class, reason = malformed.0, "a document is left out"),
            }
        }
        Ok(())
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
    is_whole.then(|| cut(sorted(found, order), skip, limit))
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
fn total(keys: &Document) -> Document {
    let mut keys = keys.clone();
    if !keys.contains_key("_id") {
        keys.insert("_id", 1);
    }
    keys
}
