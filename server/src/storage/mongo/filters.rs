//! Parse's predicates and orders as MongoDB's.
//!
//! What a predicate means is [`tidings_protocol::matches`]' to say. Most of it MongoDB says in the same way, and a
//! filter here is exact; where it does not, the filter lets through at least what matches, and whoever reads asks the
//! matcher again. Which of the two it is depends on the column: a number is never an array, so that everything can be
//! said about it, while an array may hold pointers, which are documents to MongoDB.

use super::documents::{has_many_forms, inner, pointer_name, pointer_text};
use super::schemas::column_name;
use crate::permissions::Principals;
use crate::schema::{ClassSchema, FieldType};
use mongodb::bson::raw::{CStr, cstr};
use mongodb::bson::{RawArrayBuf, RawBson, RawDocument, RawDocumentBuf, rawdoc};
use tidings_protocol::acl::PUBLIC;
use tidings_protocol::names::is_internal_field;
use tidings_protocol::query::{Constraint, Order, Regex};
use tidings_protocol::{ClassName, Predicate, Value};

/// A predicate as far as MongoDB can say it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Filter {
    /// Finds every object that matches.
    pub(super) document: RawDocumentBuf,
    /// Finds no other.
    pub(super) exact: bool,
}

/// How results are brought into order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Sort {
    /// By the server.
    Server(RawDocumentBuf),
    /// By us, after reading all: MongoDB would compare the stored form, which is not the value's order.
    Client,
}

/// What the values of a column can be.
enum Column<'a> {
    /// Null or one plain value.
    Plain,
    Pointer(&'a ClassName),
    File,
    Object,
    /// Arrays, and columns that the schema does not know.
    Array,
    /// Stored in a form that has nothing to do with how Parse compares it.
    Opaque,
    /// Not in the class's documents at all.
    Elsewhere,
}

fn column<'a>(name: &str, schema: &'a ClassSchema) -> Column<'a> {
    if is_internal_field(name) || matches!(name, "objectId" | "createdAt" | "updatedAt") {
        return Column::Plain;
    }
    match schema.fields.get(name) {
        Some(FieldType::String | FieldType::Number | FieldType::Boolean | FieldType::Date | FieldType::Bytes) => {
            Column::Plain
        }
        Some(FieldType::Pointer(class)) => Column::Pointer(class),
        Some(FieldType::File) => Column::File,
        Some(FieldType::Object) => Column::Object,
        Some(FieldType::Array) | None => Column::Array,
        Some(FieldType::GeoPoint | FieldType::Polygon | FieldType::Acl) => Column::Opaque,
        Some(FieldType::Relation(_)) => Column::Elsewhere,
    }
}

impl Filter {
    fn exact(document: RawDocumentBuf) -> Self {
        Self { document, exact: true }
    }

    /// As what lets through more than it should.
    fn inexact(self) -> Self {
        Self { exact: false, ..self }
    }

    /// Whatever matches is among everything.
    fn unsaid() -> Self {
        Self::exact(RawDocumentBuf::new()).inexact()
    }

    fn nothing() -> Self {
        Self::exact(rawdoc! { "$nor": [{}] })
    }

    /// A condition on one field.
    fn on(name: &str, condition: RawDocumentBuf) -> Self {
        // No document has a name with a zero in it.
        <&CStr>::try_from(name).map_or_else(|_| Self::unsaid(), |name| Self::exact(rawdoc! { name: condition }))
    }

    pub(super) fn of(predicate: &Predicate, schema: &ClassSchema) -> Self {
        let filters = |parts: &[Predicate]| parts.iter().map(|part| Self::of(part, schema)).collect();
        match predicate {
            Predicate::And(parts) => Self::all(filters(parts)),
            Predicate::Or(parts) => Self::any(filters(parts)),
            Predicate::Nor(parts) => Self::any(filters(parts)).negated(),
            Predicate::Field { path, constraint } => field(path, constraint, schema),
        }
    }

    fn all(filters: Vec<Self>) -> Self {
        let exact = filters.iter().all(|filter| filter.exact);
        let mut documents: Vec<RawDocumentBuf> =
            filters.into_iter().map(|filter| filter.document).filter(|document| !document.is_empty()).collect();
        let document = if documents.len() > 1 {
            rawdoc! { "$and": RawArrayBuf::from_iter(documents) }
        } else {
            documents.pop().unwrap_or_default()
        };
        Self { document, exact }
    }

    fn any(filters: Vec<Self>) -> Self {
        if filters.is_empty() {
            return Self::nothing();
        }
        let exact = filters.iter().all(|filter| filter.exact);
        let mut documents: Vec<RawDocumentBuf> = filters.into_iter().map(|filter| filter.document).collect();
        // One that is everything makes the whole everything.
        if documents.iter().any(|document| document.is_empty()) {
            return Self { document: RawDocumentBuf::new(), exact };
        }
        let document = if documents.len() > 1 {
            rawdoc! { "$or": RawArrayBuf::from_iter(documents) }
        } else {
            documents.pop().unwrap_or_default()
        };
        Self { document, exact }
    }

    /// The complement of what is known exactly; of anything else nothing can be said.
    fn negated(self) -> Self {
        if self.exact { Self::exact(rawdoc! { "$nor": [self.document] }) } else { Self::unsaid() }
    }

    /// Narrows the filter by what is exact.
    pub(super) fn and(self, document: RawDocumentBuf) -> Self {
        Self::all(vec![self, Self::exact(document)])
    }
}

/// What objects must have for somebody to read or write them; empty for the master key.
pub(super) fn permitted(list: &CStr, who: &Principals) -> RawDocumentBuf {
    if who.master {
        return RawDocumentBuf::new();
    }
    let mut names = RawArrayBuf::new();
    names.push(RawBson::Null);
    names.push(PUBLIC);
    if let Some(user) = &who.user {
        names.push(user.as_str());
    }
    rawdoc! { list: { "$in": names } }
}

fn field(path: &str, constraint: &Constraint, schema: &ClassSchema) -> Filter {
    if let Some((head, rest)) = path.split_once('.') {
        return inside(&format!("{}.{rest}", column_name(head, schema)), constraint);
    }
    // Beyond these few forms, a negation is what its opposite is not.
    match constraint {
        Constraint::Ne(value) => return field(path, &Constraint::Eq(value.clone()), schema).negated(),
        Constraint::Nin(values) => return field(path, &Constraint::In(values.clone()), schema).negated(),
        Constraint::All(values) => {
            let each = values.iter().map(|value| field(path, &Constraint::Eq(value.clone()), schema)).collect();
            return if values.is_empty() { Filter::nothing() } else { Filter::all(each) };
        }
        Constraint::AllMatch(expressions) => {
            let each = expressions.iter().map(|regex| field(path, &Constraint::Matches(regex.clone()), schema));
            return Filter::all(each.collect());
        }
        _ => {}
    }
    let name = column_name(path, schema);
    match column(path, schema) {
        Column::Plain => plain(&name, constraint),
        Column::Pointer(class) => pointer(path, class, constraint),
        Column::File => file(&name, constraint),
        Column::Object | Column::Array => structured(&name, constraint),
        Column::Opaque => opaque(&name, constraint),
        Column::Elsewhere => Filter::unsaid(),
    }
}

/// What MongoDB says in the same way for every column whose values are what they are in Parse.
fn plain(name: &str, constraint: &Constraint) -> Filter {
    let (operator, operand) = match constraint {
        Constraint::Eq(value) => (cstr!("$eq"), stored(value)),
        Constraint::Lt(value) => (cstr!("$lt"), stored(value)),
        Constraint::Lte(value) => (cstr!("$lte"), stored(value)),
        Constraint::Gt(value) => (cstr!("$gt"), stored(value)),
        Constraint::Gte(value) => (cstr!("$gte"), stored(value)),
        Constraint::In(values) => (cstr!("$in"), values.iter().map(stored).collect::<Option<_>>().map(RawBson::Array)),
        Constraint::Exists(flag) => (cstr!("$exists"), Some(RawBson::Boolean(*flag))),
        Constraint::Matches(regex) => return matching(name, regex),
        Constraint::RelatedTo(_)
        | Constraint::Ne(_)
        | Constraint::Nin(_)
        | Constraint::All(_)
        | Constraint::AllMatch(_) => return Filter::unsaid(),
    };
    operand.map_or_else(Filter::unsaid, |operand| Filter::on(name, rawdoc! { operator: operand }))
}

/// A value as documents hold it, if they can: no name in one has a zero in it.
fn stored(value: &Value) -> Option<RawBson> {
    inner(value).try_into().ok()
}

fn exists(name: &str) -> Filter {
    Filter::on(name, rawdoc! { "$exists": true })
}

fn matching(name: &str, regex: &Regex) -> Filter {
    match portable(regex) {
        Some((pattern, options)) => Filter::on(name, rawdoc! { "$regex": pattern, "$options": options }),
        None => Filter::on(name, rawdoc! { "$type": "string" }).inexact(),
    }
}

/// An expression that means the same here and there: literal text, perhaps tied to the beginning or the end. The two
/// engines do not agree on much more (classes, Unicode, what `$` is before a line's end).
fn portable(regex: &Regex) -> Option<(String, &'static str)> {
    let options = match regex.options.as_str() {
        "" | "u" => "",
        "i" => "i",
        _ => return None,
    };
    let (mut out, mut rest) = (String::new(), regex.pattern.as_str());
    if let Some(tied) = rest.strip_prefix('^') {
        (out, rest) = ("^".to_owned(), tied);
    }
    while let Some(letter) = rest.chars().next() {
        let behind = &rest[letter.len_utf8()..];
        rest = match letter {
            '\\' if behind.starts_with('Q') => {
                let quoted = &behind[1..];
                let (literal, after) = quoted.split_once("\\E").unwrap_or((quoted, ""));
                literal.chars().for_each(|letter| write_literal(letter, &mut out));
                after
            }
            '\\' => {
                let escaped = behind.chars().next().filter(char::is_ascii_punctuation)?;
                write_literal(escaped, &mut out);
                &behind[1..]
            }
            '$' if behind.is_empty() => {
                out.push_str("\\z");
                behind
            }
            '^' | '$' | '.' | '|' | '?' | '*' | '+' | '(' | ')' | '[' | ']' | '{' | '}' | '\0' => return None,
            _ => {
                write_literal(letter, &mut out);
                behind
            }
        };
    }
    let is_portable = !out.contains('\0') && (options.is_empty() || out.is_ascii());
    is_portable.then_some((out, options))
}

fn write_literal(letter: char, out: &mut String) {
    if letter.is_ascii_punctuation() {
        out.push('\\');
    }
    out.push(letter);
}

fn pointer(path: &str, class: &ClassName, constraint: &Constraint) -> Filter {
    let name = &*pointer_name(path);
    let text = |value: &Value| value.as_pointer().map(|pointer| pointer_text(&pointer.class, &pointer.id));
    let compared = |operator: &CStr, value: &Value| match value {
        Value::Null => plain(name, constraint),
        value => text(value).map_or_else(Filter::nothing, |text| Filter::on(name, rawdoc! { operator: text })),
    };
    match constraint {
        // What Parse Server creates with null for a pointer has that under the plain name.
        Constraint::Exists(true) => Filter::any(vec![exists(name), exists(path)]),
        Constraint::Exists(false) => Filter::all(vec![plain(name, constraint), plain(path, constraint)]),
        Constraint::Eq(value) => compared(cstr!("$eq"), value),
        Constraint::Lt(value) => compared(cstr!("$lt"), value),
        Constraint::Lte(value) => compared(cstr!("$lte"), value),
        Constraint::Gt(value) => compared(cstr!("$gt"), value),
        Constraint::Gte(value) => compared(cstr!("$gte"), value),
        Constraint::In(values) => {
            let stored = values.iter().filter_map(|value| match value {
                Value::Null => Some(RawBson::Null),
                // A plain id stands for a pointer.
                Value::String(id) => Some(RawBson::String(pointer_text(class, id))),
                other => text(other).map(RawBson::String),
            });
            Filter::on(name, rawdoc! { "$in": stored.collect::<RawArrayBuf>() })
        }
        // Texts match expressions; a pointer is none.
        _ => Filter::nothing(),
    }
}

/// A file is stored as its name alone.
fn file(name: &str, constraint: &Constraint) -> Filter {
    match constraint {
        Constraint::Exists(_) | Constraint::Eq(Value::Null) => plain(name, constraint),
        Constraint::Eq(Value::File(file)) => Filter::on(name, rawdoc! { "$eq": file.name.as_str() }),
        _ => Filter::unsaid(),
    }
}

fn opaque(name: &str, constraint: &Constraint) -> Filter {
    match constraint {
        Constraint::Exists(_) | Constraint::Eq(Value::Null) => plain(name, constraint),
        _ => Filter::unsaid(),
    }
}

/// Whether equal documents may differ: see [`has_many_forms`], and what `inside` says.
fn is_ambiguous(value: &Value) -> bool {
    let is_typed = |value: &Value| matches!(value, Value::Date(_) | Value::Bytes(_));
    has_many_forms(value)
        || match value {
            Value::Array(items) => items.iter().any(is_ambiguous),
            Value::Object(map) => map.iter().any(|(_, value)| is_typed(value) || is_ambiguous(value)),
            _ => false,
        }
}

/// Values that are documents, or hold some.
fn structured(name: &str, constraint: &Constraint) -> Filter {
    match constraint {
        Constraint::Eq(value) if is_ambiguous(value) => exists(name).inexact(),
        Constraint::In(values) if values.iter().any(is_ambiguous) => Filter::unsaid(),
        _ if orders_documents(constraint) => exists(name).inexact(),
        _ => plain(name, constraint),
    }
}

/// Inside objects and arrays anything may stand, so that the filter only narrows: to what has the value somewhere
/// there. Where missing values match, nothing can be said.
fn inside(path: &str, constraint: &Constraint) -> Filter {
    let values = match constraint {
        Constraint::Eq(value)
        | Constraint::Lt(value)
        | Constraint::Lte(value)
        | Constraint::Gt(value)
        | Constraint::Gte(value) => std::slice::from_ref(value),
        Constraint::In(values) => values,
        _ => &[],
    };
    // What Parse Server puts there by such a path is named by its type.
    let named = |kind: &str| Filter::on(&format!("{path}.__type"), rawdoc! { "$eq": kind });
    let mut either = vec![narrowed(path, constraint)];
    if values.iter().any(|value| matches!(value, Value::Date(_))) {
        either.push(named("Date"));
    }
    if values.iter().any(|value| matches!(value, Value::Bytes(_))) {
        either.push(named("Bytes"));
    }
    Filter::any(either).inexact()
}

fn narrowed(path: &str, constraint: &Constraint) -> Filter {
    let narrows = |value: &Value| !value.is_null() && !is_ambiguous(value);
    match constraint {
        Constraint::Eq(value) if narrows(value) => plain(path, constraint).inexact(),
        Constraint::In(values) if values.iter().all(narrows) => plain(path, constraint).inexact(),
        Constraint::All(values) if values.iter().all(narrows) => {
            let each = values.iter().map(|value| inside(path, &Constraint::Eq(value.clone()))).collect();
            if values.is_empty() { Filter::nothing() } else { Filter::all(each) }
        }
        Constraint::Lt(value) | Constraint::Lte(value) | Constraint::Gt(value) | Constraint::Gte(value)
            if narrows(value) && !orders_documents(constraint) =>
        {
            plain(path, constraint).inexact()
        }
        Constraint::Matches(regex) => matching(path, regex).inexact(),
        _ => Filter::unsaid(),
    }
}

/// Whether a comparison is with something that is stored as a document or an array: those compare in Parse's order.
fn orders_documents(constraint: &Constraint) -> bool {
    match constraint {
        Constraint::Lt(value) | Constraint::Lte(value) | Constraint::Gt(value) | Constraint::Gte(value) => {
            matches!(value, Value::Array(_) | Value::Object(_) | Value::Pointer(_)) || has_many_forms(value)
        }
        _ => false,
    }
}

/// The order of creation: what objects come in when nobody asks for another.
pub(super) fn natural() -> Vec<Order> {
    vec![Order { path: "createdAt".into(), descending: false }]
}

/// The order without its tie-break.
pub(super) fn sort(order: &[Order], schema: &ClassSchema) -> Sort {
    let (mut keys, mut through_arrays) = (RawDocumentBuf::new(), 0);
    for Order { path, descending } in order {
        let (head, rest) = path.split_once('.').map_or((path.as_str(), None), |(head, rest)| (head, Some(rest)));
        let mut name = column_name(head, schema);
        match (column(head, schema), rest) {
            // A number may name a member as well as an element; where both are there, MongoDB refuses to sort.
            (_, Some(rest)) if rest.split('.').any(|part| part.bytes().all(|byte| byte.is_ascii_digit())) => {
                return Sort::Client;
            }
            (Column::Opaque | Column::Elsewhere, _) | (Column::Pointer(_) | Column::File, Some(_)) => {
                return Sort::Client;
            }
            (Column::Array, _) | (Column::Object, Some(_)) => through_arrays += 1,
            (Column::Plain | Column::Pointer(_) | Column::File | Column::Object, _) => {}
        }
        if let Some(rest) = rest {
            name = format!("{name}.{rest}");
        }
        // No document has a name with a zero in it.
        let Ok(key) = <&CStr>::try_from(name.as_str()) else { return Sort::Client };
        if !has(&keys, &name) {
            keys.append(key, if *descending { -1 } else { 1 });
        }
    }
    // MongoDB does not sort by two arrays.
    if through_arrays > 1 { Sort::Client } else { Sort::Server(keys) }
}

/// Whether an order has this key.
pub(super) fn has(keys: &RawDocument, name: &str) -> bool {
    keys.get(name).is_ok_and(|key| key.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidings_protocol::Map;

    fn schema() -> ClassSchema {
        let mut schema = ClassSchema::new(ClassName::from_trusted("Note"));
        for (name, field_type) in [
            ("n", FieldType::Number),
            ("s", FieldType::String),
            ("p", FieldType::Pointer(ClassName::from_trusted("C"))),
            ("tags", FieldType::Array),
            ("more", FieldType::Array),
            ("o", FieldType::Object),
            ("g", FieldType::GeoPoint),
            ("f", FieldType::File),
        ] {
            schema.fields.insert(name.into(), field_type);
        }
        schema
    }

    fn filter(json: &str) -> Filter {
        Filter::of(&Predicate::from_map(&Map::from_json(json.as_bytes()).unwrap()).unwrap(), &schema())
    }

    #[track_caller]
    fn exactly(json: &str, expected: RawDocumentBuf) {
        assert_eq!(filter(json), Filter::exact(expected), "{json}");
    }

    #[track_caller]
    fn at_least(json: &str, expected: RawDocumentBuf) {
        assert_eq!(filter(json), Filter::exact(expected).inexact(), "{json}");
    }

    #[test]
    fn plain_columns_are_said_exactly() {
        exactly("{}", rawdoc! {});
        exactly(r#"{"n":1}"#, rawdoc! { "n": { "$eq": 1 } });
        exactly(r#"{"objectId":"x"}"#, rawdoc! { "_id": { "$eq": "x" } });
        exactly(r#"{"n":{"$ne":1}}"#, rawdoc! { "$nor": [{ "n": { "$eq": 1 } }] });
        exactly(r#"{"n":{"$gt":1,"$lt":5}}"#, rawdoc! { "$and": [{ "n": { "$gt": 1 } }, { "n": { "$lt": 5 } }] });
        exactly(
            r#"{"$or":[{"n":1},{"s":null}]}"#,
            rawdoc! { "$or": [{ "n": { "$eq": 1 } }, { "s": { "$eq": null } }] },
        );
        exactly(r#"{"n":{"$all":[]}}"#, rawdoc! { "$nor": [{}] });
        exactly(r#"{"n":{"$nin":[]}}"#, rawdoc! { "$nor": [{ "n": { "$in": [] } }] });
    }

    #[test]
    fn pointers_are_texts() {
        exactly(r#"{"p":{"__type":"Pointer","className":"C","objectId":"x"}}"#, rawdoc! { "_p_p": { "$eq": "C$x" } });
        exactly(r#"{"p":{"$in":["x",null]}}"#, rawdoc! { "_p_p": { "$in": ["C$x", null] } });
        exactly(r#"{"p":"x"}"#, rawdoc! { "$nor": [{}] });
        let (named, plain) = (rawdoc! { "_p_p": { "$exists": false } }, rawdoc! { "p": { "$exists": false } });
        exactly(r#"{"p":{"$exists":false}}"#, rawdoc! { "$and": [named, plain] });
        exactly(r#"{"tags":{"$in":["x"]}}"#, rawdoc! { "tags": { "$in": ["x"] } });
    }

    #[test]
    fn the_rest_is_narrowed() {
        at_least(r#"{"o.a":1}"#, rawdoc! { "o.a": { "$eq": 1 } });
        at_least(r#"{"o.a":{"$ne":1}}"#, rawdoc! {});
        let bytes = mongodb::bson::Binary { subtype: mongodb::bson::spec::BinarySubtype::Generic, bytes: vec![1] };
        at_least(
            r#"{"o.a":{"__type":"Bytes","base64":"AQ=="}}"#,
            rawdoc! { "$or": [{ "o.a": { "$eq": bytes } }, { "o.a.__type": { "$eq": "Bytes" } }] },
        );
        at_least(r#"{"g":{"$ne":1},"n":1}"#, rawdoc! { "n": { "$eq": 1 } });
        at_least(r#"{"$or":[{"o.a":null},{"n":1}]}"#, rawdoc! {});
        at_least(r#"{"$nor":[{"o.a":1}]}"#, rawdoc! {});
        at_least(r#"{"tags":{"$gt":[1]}}"#, rawdoc! { "tags": { "$exists": true } });
        at_least(r#"{"s":{"$regex":"a.*b"}}"#, rawdoc! { "s": { "$type": "string" } });
    }

    #[test]
    fn literal_expressions_are_said_exactly() {
        for (pattern, expected) in [
            ("^\\\\Qa.b\\\\E", Some("^a\\.b")),
            ("a\\\\.b$", Some("a\\.b\\z")),
            ("äb", Some("äb")),
            ("a|b", None),
            ("\\\\d", None),
            ("a$b", None),
        ] {
            let found = filter(&format!(r#"{{"s":{{"$regex":"{pattern}"}}}}"#));
            match expected {
                Some(expected) => {
                    assert_eq!(found, Filter::exact(rawdoc! { "s": { "$regex": expected, "$options": "" } }));
                }
                None => assert!(!found.exact, "{pattern}"),
            }
        }
        assert!(filter(r#"{"s":{"$regex":"ab","$options":"i"}}"#).exact);
        assert!(!filter(r#"{"s":{"$regex":"äb","$options":"i"}}"#).exact);
    }

    #[test]
    fn orders_are_the_servers_where_it_compares_alike() {
        let order = |text: &str| sort(&Order::parse(&Value::from(text)).unwrap(), &schema());
        assert_eq!(order("-p,createdAt,p"), Sort::Server(rawdoc! { "_p_p": 1, "_created_at": 1 }));
        assert_eq!(order("o.a,n"), Sort::Server(rawdoc! { "o.a": 1, "n": 1 }));
        assert_eq!(order("o.a,o.b"), Sort::Client);
        assert_eq!(order("tags,o"), Sort::Server(rawdoc! { "tags": 1, "o": 1 }));
        assert_eq!(order("tags,o.a"), Sort::Client);
        assert_eq!(order("o.a.0"), Sort::Client);
        assert_eq!(order("g"), Sort::Client);
    }
}
