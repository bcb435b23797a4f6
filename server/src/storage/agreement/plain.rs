//! MongoDB asked as Parse Server asks it, one to one, without what our store does about it. An independent translation,
//! so that the store and the matcher cannot be wrong together.
//!
//! It abstains where Parse Server's form of storing shows through and Parse's types say otherwise: inside GeoPoint,
//! Polygon and File columns, and where values of other types are compared with pointers.

use crate::permissions::Principals;
use crate::schema::{ClassSchema, FieldType};
use crate::storage::Selection;
use futures_util::TryStreamExt;
use mongodb::Database;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, Document, doc};
use mongodb::options::Hint;
use std::fmt;
use tidings_protocol::query::{Constraint, Order, Regex};
use tidings_protocol::{Predicate, Value};

pub(super) struct Question {
    class: String,
    filter: Document,
    /// `None` where MongoDB has no such order.
    pub(super) sort: Option<Document>,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.filter, self.sort.clone().unwrap_or_default())
    }
}

impl Question {
    /// The ids it finds; `None` if MongoDB refuses the question.
    pub(super) async fn ask(&self, database: &Database) -> Option<Vec<String>> {
        let objects = database.collection::<Document>(&self.class);
        // Without its indexes: one on a column of arrays loses what `$gt` with a nested array finds.
        let natural = Hint::Keys(doc! { "$natural": 1 });
        let mut find = objects.find(self.filter.clone()).hint(natural).projection(doc! { "_id": 1 });
        if let Some(sort) = &self.sort {
            find = find.sort(sort.clone());
        }
        let found: Vec<Document> = find.await.ok()?.try_collect().await.ok()?;
        Some(found.iter().map(|document| document.get_str("_id").unwrap().to_owned()).collect())
    }
}

pub(super) fn question(selection: &Selection, schema: &ClassSchema) -> Option<Question> {
    let filter = filter(&selection.predicate, schema)?;
    let filter = doc! { "$and": [filter, readable(&selection.reader)] };
    Some(Question { class: selection.class.to_string(), filter, sort: sort(&selection.order, schema) })
}

fn readable(reader: &Principals) -> Document {
    if reader.master {
        return Document::new();
    }
    let user = reader.user.iter().map(|user| Bson::from(user.as_str()));
    let names: Vec<Bson> = [Bson::Null, "*".into()].into_iter().chain(user).collect();
    doc! { "_rperm": { "$in": names } }
}

/// A value inside arrays and objects, and in columns whose values are stored as they are.
fn inner(value: &Value) -> Bson {
    match value {
        Value::Null => Bson::Null,
        Value::Bool(flag) => (*flag).into(),
        Value::Number(number) => (*number).into(),
        Value::String(text) => text.as_str().into(),
        Value::Date(date) => DateTime::from_millis(date.millis()).into(),
        Value::Bytes(bytes) => Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() }.into(),
        Value::Array(items) => items.iter().map(inner).collect::<Vec<_>>().into(),
        Value::Object(map) => {
            map.iter().map(|(name, value)| (name.to_string(), inner(value))).collect::<Document>().into()
        }
        // A document with the members of its JSON.
        Value::Pointer(_) | Value::Relation(_) | Value::GeoPoint(_) | Value::Polygon(_) | Value::File(_) => {
            let json: serde_json::Value = serde_json::from_str(&value.to_json()).unwrap();
            mongodb::bson::serialize_to_bson(&json).unwrap()
        }
    }
}

fn filter(predicate: &Predicate, schema: &ClassSchema) -> Option<Document> {
    let each = |parts: &[Predicate]| parts.iter().map(|part| filter(part, schema)).collect::<Option<Vec<_>>>();
    Some(match predicate {
        Predicate::And(parts) if parts.is_empty() => Document::new(),
        Predicate::And(parts) => doc! { "$and": each(parts)? },
        Predicate::Or(parts) => doc! { "$or": each(parts)? },
        Predicate::Nor(parts) => doc! { "$nor": each(parts)? },
        Predicate::Field { path, constraint } => field(path, constraint, schema)?,
    })
}

fn column(path: &str, schema: &ClassSchema) -> Option<FieldType> {
    match path {
        "objectId" => Some(FieldType::String),
        "createdAt" | "updatedAt" => Some(FieldType::Date),
        _ => schema.fields.get(path).cloned(),
    }
}

fn name(path: &str, schema: &ClassSchema) -> String {
    match (path, column(path, schema)) {
        ("objectId", _) => "_id".into(),
        ("createdAt", _) => "_created_at".into(),
        ("updatedAt", _) => "_updated_at".into(),
        (_, Some(FieldType::Pointer(_))) => format!("_p_{path}"),
        _ => path.to_owned(),
    }
}

fn field(path: &str, constraint: &Constraint, schema: &ClassSchema) -> Option<Document> {
    let name = name(path, schema);
    let head = path.split('.').next().unwrap_or_default();
    let stored = column(head, schema);
    let atom = |value: &Value| match (&stored, value) {
        (_, Value::Null) => Some(Bson::Null),
        (Some(FieldType::GeoPoint | FieldType::Polygon | FieldType::File), _) => None,
        (None | Some(FieldType::Array), _) => Some(inner(value)),
        _ if path != head => Some(inner(value)),
        (Some(FieldType::Pointer(class)), value) => match (value, constraint) {
            (Value::Pointer(pointer), _) => Some(format!("{}${}", pointer.class, pointer.id).into()),
            (Value::String(id), Constraint::In(_) | Constraint::Nin(_)) => Some(format!("{class}${id}").into()),
            // Texts beside what is stored as a text.
            _ => None,
        },
        // Parse Server makes a text of a pointer here, and of the others what a column of theirs would hold.
        (Some(_), value) if !matches!(value, Value::Object(_)) && value.as_document().is_some() => None,
        (Some(_), value) => Some(inner(value)),
    };
    let list = |values: &[Value]| values.iter().map(atom).collect::<Option<Vec<_>>>();
    let condition = match constraint {
        Constraint::Eq(value) => doc! { "$eq": atom(value)? },
        Constraint::Ne(value) => doc! { "$ne": atom(value)? },
        Constraint::Lt(value) => doc! { "$lt": atom(value)? },
        Constraint::Lte(value) => doc! { "$lte": atom(value)? },
        Constraint::Gt(value) => doc! { "$gt": atom(value)? },
        Constraint::Gte(value) => doc! { "$gte": atom(value)? },
        Constraint::RelatedTo(_) => return None,
        Constraint::In(values) => doc! { "$in": list(values)? },
        Constraint::Nin(values) => doc! { "$nin": list(values)? },
        Constraint::All(values) => doc! { "$all": list(values)? },
        Constraint::AllMatch(expressions) => {
            let each =
                expressions.iter().map(|one| Some(doc! { &name: matching(one)? })).collect::<Option<Vec<_>>>()?;
            return atom(&Value::from("x")).map(|_| doc! { "$and": each });
        }
        Constraint::Exists(flag) => doc! { "$exists": flag },
        Constraint::Matches(regex) => {
            atom(&Value::from("x"))?;
            matching(regex)?
        }
    };
    Some(doc! { name: condition })
}

/// The engines disagree about letters beyond ASCII regardless of case.
fn matching(regex: &Regex) -> Option<Document> {
    let is_same = !regex.options.contains('i') || regex.pattern.is_ascii();
    is_same.then(|| doc! { "$regex": regex.pattern.as_str(), "$options": regex.options.as_str() })
}

fn sort(order: &[Order], schema: &ClassSchema) -> Option<Document> {
    let mut keys = Document::new();
    let mut through_arrays = 0;
    for Order { path, descending } in order {
        let name = name(path, schema);
        if keys.contains_key(&name) {
            continue;
        }
        let head = path.split('.').next().unwrap_or_default();
        match column(head, schema) {
            // Sorted by how they are stored.
            Some(FieldType::GeoPoint | FieldType::Polygon) => return None,
            Some(FieldType::Array | FieldType::Object) => through_arrays += 1,
            _ => {}
        }
        keys.insert(name, if *descending { -1 } else { 1 });
    }
    // MongoDB does not sort by two arrays, and of one array sorts by whole elements.
    if through_arrays > 1 {
        return None;
    }
    if order.is_empty() {
        keys.insert("_created_at", 1);
    }
    if !keys.contains_key("_id") {
        keys.insert("_id", 1);
    }
    Some(keys)
}
