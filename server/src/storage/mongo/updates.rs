//! Parse's operations as one `findOneAndUpdate`, where MongoDB's operators do the same.
//!
//! Where an operator would do something else in some state of the row (a missing array, a pointer inside an object), the
//! filter asks for another state. A row that the filter does not find, that MongoDB refuses to update (a null to
//! increment), or an update that cannot be said so at all, is left to our own code in a transaction.

use super::documents::{self, acl, date, field, inner, stored_name};
use crate::schema::{ClassSchema, FieldType};
use mongodb::bson::{Bson, Document, doc};
use tidings_protocol::update::{Operation, top_level};
use tidings_protocol::{Date, Object, Update, Value};

/// An update that MongoDB can make by itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    /// The states of the row in which it does what our own code would do.
    pub(super) filter: Document,
    pub(super) update: Document,
}

/// Updates that bring more than this could make a small object too large; MongoDB must look.
const SMALL: usize = 512;

/// The same update, with its operations in the order in which MongoDB adds fields to a document: by their stored names.
/// So the image that we compute has its fields where the stored one has them.
pub(super) fn ordered(update: &Update, schema: &ClassSchema, files_url: Option<&str>) -> Update {
    let mut update = update.clone();
    let stored = |path: &str, operation: &Operation| {
        let name = top_level(path);
        let value = if let Operation::Set(value) = operation { value } else { &Value::Null };
        stored_name(name, value, schema.fields.get(name)).into_owned()
    };
    update.operations.sort_by_cached_key(|(path, operation)| stored(path, operation));
    for (path, operation) in &mut update.operations {
        if let Operation::Set(value) = operation
            && !path.contains('.')
        {
            as_stored(value, files_url);
        }
    }
    update
}

/// The value of a field as it is read again: a file's address belongs to the server that answers.
pub(super) fn as_stored(value: &mut Value, files_url: Option<&str>) {
    if let Value::File(file) = value {
        file.url = documents::address(&file.name, files_url);
    }
}

/// The plan for an update; `None` when our own code has to make it.
pub(super) fn plan(update: &Update, at: Date, schema: &ClassSchema, max_bytes: usize) -> Option<Plan> {
    let mut plan = Planner { schema, filter: Document::new(), sections: Document::new(), bytes: 0, grows: false };
    let mut heads: Vec<&str> = Vec::with_capacity(update.operations.len());
    for (path, operation) in &update.operations {
        // Operations on one field in one update would conflict.
        let head = top_level(path);
        if heads.contains(&head) {
            return None;
        }
        heads.push(head);
        plan.operation(path, operation)?;
    }
    if let Some(changed) = &update.acl {
        for (name, permission) in acl(changed.as_ref()) {
            match permission {
                Some(permission) => plan.add("$set", name, permission),
                None => plan.add("$unset", name, "".into()),
            }
        }
    }
    plan.add("$max", "_updated_at", date(at).into());
    let mut filter = plan.filter;
    if plan.grows || plan.bytes > SMALL {
        let room = i64::try_from(max_bytes.saturating_sub(plan.bytes)).unwrap_or(i64::MAX);
        filter.insert("$expr", doc! { "$lte": [{ "$bsonSize": "$$ROOT" }, room] });
    }
    Some(Plan { filter, update: plan.sections })
}

struct Planner<'a> {
    schema: &'a ClassSchema,
    filter: Document,
    sections: Document,
    /// Bytes that the update brings, at most.
    bytes: usize,
    /// Whether repeating it makes an object grow without end.
    grows: bool,
}

impl Planner<'_> {
    fn operation(&mut self, path: &str, operation: &Operation) -> Option<()> {
        if let Some((head, key)) = path.split_once('.') {
            return self.inside(head, key, operation);
        }
        let column = self.schema.fields.get(path);
        let is_pointer = matches!(column, Some(FieldType::Pointer(_)));
        match operation {
            Operation::Set(value) => {
                self.bytes += value.weight() + path.len();
                let stored = field(path, value)?;
                self.add("$set", &stored_name(path, value, column), stored);
            }
            Operation::SetOnInsert(_) => {}
            Operation::Delete => self.add("$unset", &stored_name(path, &Value::Null, column), "".into()),
            Operation::Increment(amount) if !is_pointer => {
                self.bytes += path.len() + 16;
                self.add("$inc", path, inner(&Value::Number(*amount)));
            }
            Operation::Add(items) if !is_pointer => {
                self.grow(items);
                self.add("$push", path, doc! { "$each": list(items) }.into());
            }
            Operation::AddUnique(items) if !is_pointer && !items.iter().any(documents::has_many_forms) => {
                self.grow(items);
                self.add("$addToSet", path, doc! { "$each": list(items) }.into());
            }
            Operation::Remove(items) if !is_pointer && !items.iter().any(documents::has_many_forms) => {
                // Where there is no array, ours leaves an empty one.
                self.filter.insert(path, doc! { "$type": "array" });
                self.add("$pullAll", path, list(items).into());
            }
            Operation::Increment(_)
            | Operation::Add(_)
            | Operation::AddUnique(_)
            | Operation::Remove(_)
            | Operation::Relate { .. } => return None,
        }
        Some(())
    }

    /// Something inside an object: only what sets or counts one of its members.
    fn inside(&mut self, head: &str, key: &str, operation: &Operation) -> Option<()> {
        let is_member = !key.contains('.') && !key.bytes().all(|byte| byte.is_ascii_digit());
        let is_object = matches!(self.schema.fields.get(head), Some(FieldType::Object));
        if !is_member || !is_object {
            return None;
        }
        let path = format!("{head}.{key}");
        self.grows = true;
        // To MongoDB a pointer is a document like any other.
        self.filter.insert(format!("{head}.__type"), doc! { "$exists": false });
        match operation {
            Operation::Set(value) if !value_is_deep(value) => {
                self.bytes += value.weight() + path.len();
                self.add("$set", &path, inner(value));
            }
            Operation::Increment(amount) => {
                self.bytes += path.len() + 16;
                self.add("$inc", &path, inner(&Value::Number(*amount)));
            }
            _ => return None,
        }
        Some(())
    }

    fn grow(&mut self, items: &[Value]) {
        self.bytes += items.iter().map(Value::weight).sum::<usize>();
        self.grows = true;
    }

    fn add(&mut self, operator: &str, path: &str, value: Bson) {
        if !self.sections.contains_key(operator) {
            self.sections.insert(operator, Document::new());
        }
        if let Ok(section) = self.sections.get_document_mut(operator) {
            section.insert(path, value);
        }
    }
}

/// Whether a value nests, so that it could become too deep where it is put.
fn value_is_deep(value: &Value) -> bool {
    match value {
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => false,
    }
}

fn list(items: &[Value]) -> Vec<Bson> {
    items.iter().map(inner).collect()
}

/// The update that makes a document of `before` into one of `after`.
pub(super) fn difference(before: &Object, after: &Object, schema: &ClassSchema) -> Document {
    let (mut set, mut unset) = (doc! { "_updated_at": date(after.updated_at) }, Document::new());
    for (name, value) in after.fields.iter().filter(|(name, value)| before.fields.get(name) != Some(*value)) {
        if let Some(stored) = field(name, value) {
            set.insert(stored_name(name, value, schema.fields.get(name.as_str())), stored);
        }
    }
    for (name, value) in before.fields.iter().filter(|(name, _)| !after.fields.contains(name)) {
        unset.insert(stored_name(name, value, schema.fields.get(name.as_str())), "");
    }
    if before.acl != after.acl {
        for (name, permission) in acl(after.acl.as_ref()) {
            match permission {
                Some(permission) => drop(set.insert(name, permission)),
                None => drop(unset.insert(name, "")),
            }
        }
    }
    let mut update = doc! { "$set": set };
    if !unset.is_empty() {
        update.insert("$unset", unset);
    }
    update
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidings_protocol::{Acl, ClassName, Map};

    fn schema() -> ClassSchema {
        let mut schema = ClassSchema::new(ClassName::from_trusted("Note"));
        for (name, field_type) in [
            ("n", FieldType::Number),
            ("p", FieldType::Pointer(ClassName::from_trusted("C"))),
            ("list", FieldType::Array),
            ("o", FieldType::Object),
        ] {
            schema.fields.insert(name.into(), field_type);
        }
        schema
    }

    fn planned(json: &str) -> Option<Plan> {
        let update = Update::from_map(Map::from_json(json.as_bytes()).unwrap()).unwrap();
        plan(&update, Date::from_millis(7).unwrap(), &schema(), 1_000)
    }

    #[track_caller]
    fn check(json: &str, filter: Document, update: Document) {
        let mut plan = planned(json).unwrap();
        assert_eq!(
            plan.update.remove("$max"),
            Some(doc! { "_updated_at": date(Date::from_millis(7).unwrap()) }.into())
        );
        assert_eq!((plan.filter, plan.update), (filter, update), "{json}");
    }

    #[test]
    fn operations_become_operators() {
        check(r#"{"n":1,"s":{"__op":"Delete"}}"#, doc! {}, doc! { "$set": { "n": 1 }, "$unset": { "s": "" } });
        check(r#"{"p":null}"#, doc! {}, doc! { "$set": { "_p_p": null } });
        check(r#"{"p":{"__op":"Delete"}}"#, doc! {}, doc! { "$unset": { "_p_p": "" } });
        check(r#"{"n":{"__op":"Increment","amount":2}}"#, doc! {}, doc! { "$inc": { "n": 2 } });
        check(
            r#"{"list":{"__op":"Remove","objects":[1]}}"#,
            doc! { "list": { "$type": "array" } },
            doc! { "$pullAll": { "list": [1] } },
        );
        let plan = planned(r#"{"list":{"__op":"AddUnique","objects":[1,2]}}"#).unwrap();
        assert_eq!(plan.update.get_document("$addToSet").unwrap(), &doc! { "list": { "$each": [1, 2] } });
        assert!(plan.filter.contains_key("$expr"), "what grows is measured");
        let plan = planned(r#"{"o.x":5}"#).unwrap();
        assert_eq!(plan.update.get_document("$set").unwrap(), &doc! { "o.x": 5 });
    }

    #[test]
    fn an_acl_is_set_or_taken_away() {
        let set = Update { acl: Some(Some(Acl::default().with("u", true, false))), ..Update::default() };
        let update = plan(&set, Date::default(), &schema(), 1_000).unwrap().update;
        assert_eq!(
            update.get_document("$set").unwrap(),
            &doc! { "_rperm": ["u"], "_wperm": [], "_acl": { "u": { "r": true } } }
        );
        let public = Update { acl: Some(None), ..Update::default() };
        let update = plan(&public, Date::default(), &schema(), 1_000).unwrap().update;
        assert_eq!(update.get_document("$unset").unwrap().len(), 3);
    }

    #[test]
    fn what_mongodb_would_do_otherwise_is_left_to_us() {
        for json in [r#"{"o.a.b":1}"#, r#"{"list.0":1}"#, r#"{"o.x":{"__op":"Delete"}}"#, r#"{"o.x":1,"o.y":2}"#] {
            assert_eq!(planned(json), None, "{json}");
        }
    }
}
