//! Which indexes a class has, and the entries that an object has in each.
//!
//! Every index is sparse: an object whose first component is missing or null has no entry. Nobody asks for those by
//! index, and most columns of most classes are empty in many objects.

use super::keys::{self, EntryValue, IndexId, MAX_ID, Sequence};
use crate::schema::{ClassSchema, FieldType, IndexField};
use crate::storage::Membership;
use compact_str::CompactString;
use tidings_protocol::order::{write_key, write_text};
use tidings_protocol::{ClassName, Object, Value};

/// A component is cut behind this many bytes: a text of a megabyte is found by its beginning.
const MAX_COMPONENT: usize = 512;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Index {
    pub(super) id: IndexId,
    pub(super) shape: Shape,
    /// While the index is being built: rows from this sequence on may be missing. It then keeps up with every write
    /// already, but nobody reads it.
    pub(super) building: Option<Sequence>,
}

/// What an index holds. Two indexes of a class never have the same shape.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    pub(super) fields: Vec<IndexField>,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One entry per object: the values of its fields.
    Values,
    /// The first field is an array: one entry for each of its elements.
    Elements,
    /// As `Elements`, but only of the elements that are pointers.
    Pointers,
    /// Text without regard to case: where uniqueness is checked.
    Folded,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Values => "values",
            Self::Elements => "elements",
            Self::Pointers => "pointers",
            Self::Folded => "folded",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::Values, Self::Elements, Self::Pointers, Self::Folded].into_iter().find(|kind| kind.name() == name)
    }

    /// Whether one object may have several entries.
    pub(super) fn is_multiple(self) -> bool {
        matches!(self, Self::Elements | Self::Pointers)
    }
}

impl Shape {
    /// Timestamps are kept newest first, as they are mostly asked for: an LSM tree is read forwards at about half the
    /// price of backwards.
    fn automatic(fields: &[&str], kind: Kind) -> Self {
        let descending = |name: &str| matches!(name, "createdAt" | "updatedAt");
        let field = |name: &&str| IndexField { name: (*name).into(), descending: descending(name) };
        Self { fields: fields.iter().map(field).collect(), kind }
    }

    pub(super) fn folded(field: &str) -> Self {
        Self::automatic(&[field], Kind::Folded)
    }

    pub(super) fn first(&self) -> &str {
        self.fields.first().map_or("", |field| &field.name)
    }
}

/// The indexes that a class of this schema shall have: automatic ones for timestamps, pointers and dates, and those
/// that were declared.
pub(super) fn wanted(schema: &ClassSchema) -> Vec<Shape> {
    let mut shapes =
        vec![Shape::automatic(&["createdAt"], Kind::Values), Shape::automatic(&["updatedAt"], Kind::Values)];
    for (name, field_type) in &schema.fields {
        match field_type {
            FieldType::Pointer(_) => shapes.push(Shape::automatic(&[name, "createdAt"], Kind::Values)),
            FieldType::Array => shapes.push(Shape::automatic(&[name], Kind::Pointers)),
            _ if field_type.is_indexed_by_default() => shapes.push(Shape::automatic(&[name], Kind::Values)),
            _ => {}
        }
    }
    if schema.class.is_relation() {
        shapes.extend([Membership::OWNER, Membership::RELATED].map(|end| Shape::automatic(&[end], Kind::Values)));
    }
    if schema.class == ClassName::USER {
        shapes.extend(["username", "email"].map(Shape::folded));
    }
    for index in schema.indexes.values() {
        let first = index.fields.first().and_then(|field| schema.field_type(&field.name));
        let kind = if first == Some(FieldType::Array) { Kind::Elements } else { Kind::Values };
        let shape = Shape { fields: index.fields.clone(), kind };
        if !shapes.contains(&shape) {
            shapes.push(shape);
        }
    }
    shapes
}

impl Index {
    pub(super) fn field_names(&self) -> Vec<CompactString> {
        self.shape.fields.iter().map(|field| field.name.clone()).collect()
    }

    /// What every key of this index begins with.
    pub(super) fn prefix(&self) -> Vec<u8> {
        keys::index(self.id)
    }

    /// Appends a value as it stands in the keys of this index. True if it had to be cut.
    ///
    /// Of a pointer it is the id: a column's pointers are all to one class, and whoever reads entries compares the
    /// objects themselves.
    pub(super) fn write_component(&self, at: usize, value: &Value, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        match value {
            Value::String(text) if self.shape.kind == Kind::Folded => {
                write_key(&Value::from(text.to_lowercase().as_str()), out);
            }
            Value::Pointer(pointer) => {
                write_key(value, out);
                out.truncate(start + 1);
                write_text(&pointer.id, out);
            }
            _ => write_key(value, out),
        }
        let cut = out.len() - start > MAX_COMPONENT;
        if cut {
            out.truncate(start + MAX_COMPONENT);
            // No key continues like this, so that the cut one is not the beginning of another.
            out.push(0xff);
        }
        if self.shape.fields.get(at).is_some_and(|field| field.descending) {
            out[start..].iter_mut().for_each(|byte| *byte = !*byte);
        }
        cut
    }

    /// The entries of an object: keys and what they hold, each key once.
    pub(super) fn entries(&self, object: &Object, sequence: Sequence) -> Vec<(Vec<u8>, EntryValue)> {
        let Some(first) = object.field(self.shape.first()) else { return Vec::new() };
        let mut tail = Vec::new();
        let mut tail_cut = false;
        for (at, field) in self.shape.fields.iter().enumerate().skip(1) {
            let value = object.field(&field.name);
            // An array has no single place in an order, so that the planner does not ask for one here.
            let value = value.as_deref().filter(|value| value.as_array().is_none()).unwrap_or(&Value::Null);
            tail_cut |= self.write_component(at, value, &mut tail);
        }
        debug_assert!(object.id.len() <= MAX_ID);
        let prefix = self.prefix();
        let entry = |value: &Value| {
            let mut key = Vec::with_capacity(32 + tail.len() + object.id.len());
            key.extend_from_slice(&prefix);
            let cut = self.write_component(0, value, &mut key) | tail_cut;
            key.extend_from_slice(&tail);
            key.extend_from_slice(object.id.as_bytes());
            (key, EntryValue { sequence, id_length: object.id.len() as u8, cut })
        };
        match (first.as_ref(), self.shape.kind) {
            (Value::Null, _) => Vec::new(),
            (Value::Array(items), kind) if kind.is_multiple() => {
                let listed = |item: &&Value| match kind {
                    Kind::Pointers => item.as_pointer().is_some(),
                    _ => !item.is_null(),
                };
                let mut entries: Vec<_> = items.iter().filter(listed).map(entry).collect();
                entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
                entries.dedup_by(|a, b| a.0 == b.0);
                entries
            }
            (_, Kind::Pointers) => Vec::new(),
            (value, _) => vec![entry(value)],
        }
    }

    /// Whether a change of an object may change its entries.
    pub(super) fn is_touched(&self, before: &Object, after: &Object) -> bool {
        self.shape.fields.iter().any(|field| before.field(&field.name) != after.field(&field.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidings_protocol::{Map, ObjectId};

    fn object(json: &str) -> Object {
        Object { id: ObjectId::new("id1"), fields: Map::from_json(json.as_bytes()).unwrap(), ..Object::default() }
    }

    fn index(fields: &[(&str, bool)], kind: Kind) -> Index {
        let fields =
            fields.iter().map(|(name, descending)| IndexField { name: (*name).into(), descending: *descending });
        Index { id: 7, shape: Shape { fields: fields.collect(), kind }, building: None }
    }

    fn count(index: &Index, json: &str) -> usize {
        index.entries(&object(json), 1).len()
    }

    #[test]
    fn objects_without_a_first_component_have_no_entry() {
        let index = index(&[("a", false), ("b", true)], Kind::Values);
        assert_eq!(count(&index, r#"{"b":1}"#), 0);
        assert_eq!(count(&index, r#"{"a":null}"#), 0);
        assert_eq!(count(&index, r#"{"a":1}"#), 1);
    }

    #[test]
    fn arrays_have_an_entry_for_each_distinct_element() {
        let pointer = r#"{"__type":"Pointer","className":"C","objectId":"x"}"#;
        let json = format!(r#"{{"a":[{pointer},{pointer},1,"x",null]}}"#);
        assert_eq!(count(&index(&[("a", false)], Kind::Pointers), &json), 1);
        assert_eq!(count(&index(&[("a", false)], Kind::Elements), &json), 3);
    }

    #[test]
    fn descending_components_sort_the_other_way() {
        let index = index(&[("a", false), ("b", true)], Kind::Values);
        let key = |json: &str| index.entries(&object(json), 1).remove(0).0;
        assert!(key(r#"{"a":1,"b":2}"#) < key(r#"{"a":1,"b":1}"#));
        assert!(key(r#"{"a":1,"b":1}"#) < key(r#"{"a":1}"#));
        assert!(key(r#"{"a":1}"#) < key(r#"{"a":2,"b":9}"#));
    }

    #[test]
    fn long_texts_are_cut_and_say_so() {
        let index = index(&[("a", false)], Kind::Values);
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(100_000));
        let (key, value) = index.entries(&object(&long), 1).remove(0);
        assert!(key.len() < 600 && value.cut);
    }
}
