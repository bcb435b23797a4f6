//! What a selection asks of the database, and what is left for our own code.

use super::Shared;
use super::documents::pointer_name;
use super::filters::{self, Filter, Sort, permitted};
use crate::schema::ClassSchema;
use crate::storage::{Selection, Unavailable};
use compact_str::CompactString;
use mongodb::bson::raw::cstr;
use mongodb::bson::{Bson, Document, RawDocument, RawDocumentBuf};
use std::borrow::Cow;
use std::sync::Arc;
use tidings_protocol::matches::Matcher;
use tidings_protocol::names::is_internal_field;
use tidings_protocol::query::Order;
use tidings_protocol::update::top_level;
use tidings_protocol::{ClassName, Object};

/// Pages up to here are read in the order of an index, and equal objects put right afterwards: what live queries ask for
/// is one more than a thousand.
const SETTLED_PAGE: u64 = 1_001;

/// What makes an object of a document, whatever is looked at.
const ALWAYS_READ: [&str; 6] = ["_id", "_created_at", "_updated_at", "_rperm", "_wperm", "_acl"];

/// How many documents an answer may hold.
const LARGEST_BATCH: i64 = 10_000;

/// A selection as it is asked of the database.
pub(super) struct Plan<'a> {
    pub(super) selection: &'a Selection,
    pub(super) schema: Arc<ClassSchema>,
    pub(super) filter: Filter,
    pub(super) order: Vec<Order>,
    pub(super) sort: Sort,
    /// Decides about what the filter lets through, where that may be too much.
    matcher: Option<Matcher>,
    /// What is read of each document; `None` is all of it.
    projection: Option<RawDocumentBuf>,
}

/// One question to the database.
pub(super) struct Question<'a> {
    pub(super) filter: &'a RawDocument,
    pub(super) projection: Option<&'a RawDocument>,
    pub(super) sort: Option<Cow<'a, RawDocument>>,
    pub(super) skip: u64,
    /// 0 is no limit.
    pub(super) limit: u64,
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
    pub(super) fn settles(&self) -> Option<u64> {
        let need = self.selection.skip.checked_add(self.selection.limit).filter(|need| *need <= SETTLED_PAGE)?;
        let is_dated = |order: &Order| matches!(order.path.as_str(), "createdAt" | "updatedAt");
        (self.filter.exact && self.order.iter().any(is_dated)).then_some(need)
    }

    pub(super) fn matches(&self, object: &Object) -> bool {
        self.matcher.as_ref().is_none_or(|matcher| matcher.matches(object))
    }

    /// What a page asks first.
    pub(super) fn first(&self) -> Question<'_> {
        match (&self.sort, self.settles()) {
            (Sort::Client, _) => self.everything(),
            (Sort::Server(keys), Some(need)) => {
                Question { sort: Some(Cow::Borrowed(keys)), limit: need + 1, ..self.everything() }
            }
            (Sort::Server(keys), None) => self.in_order(keys),
        }
    }

    /// In the order with its tie-break; cut to the page where the filter lets nothing else through.
    pub(super) fn in_order(&self, keys: &RawDocument) -> Question<'_> {
        let (skip, limit) = match self.filter.exact {
            // Beyond what MongoDB can count, there is no limit.
            true => (self.selection.skip, i64::try_from(self.selection.limit).map_or(0, i64::unsigned_abs)),
            false => (0, 0),
        };
        Question { sort: Some(Cow::Owned(total(keys))), skip, limit, ..self.everything() }
    }

    pub(super) fn everything(&self) -> Question<'_> {
        Question { projection: self.projection.as_deref(), ..Question::whole(&self.filter.document) }
    }

    /// The command of the first question, to be explained.
    pub(super) fn command(&self) -> RawDocumentBuf {
        self.first().command(&self.selection.class)
    }
}

impl<'a> Question<'a> {
    /// For all that a filter finds, and the whole of it.
    pub(super) fn whole(filter: &'a RawDocument) -> Self {
        Self { filter, projection: None, sort: None, skip: 0, limit: 0 }
    }

    pub(super) fn command(&self, class: &ClassName) -> RawDocumentBuf {
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
    use crate::schema::FieldType;
    use crate::storage::contract::select;
    use mongodb::bson::RawBsonRef;

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
