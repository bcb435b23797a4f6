//! The classes as the store keeps them: schema, number, indexes, and the work that is still to be done on their rows.
//!
//! Keys of the keyspace `meta`: `f` format, `t` timeline, `n` next free numbers, `l` position before the oldest change
//! kept, `c` + class name: a class, `r` + class number: how many rows, `d` + index number: entries that have to go.

use super::indexes::{Index, Kind, Shape, wanted};
use super::keys::{ClassId, IndexId, Sequence};
use super::rows::{Corrupt, Removal};
use crate::changes::Position;
use crate::schema::{ClassSchema, FieldType, IndexField, Schemas};
use compact_str::CompactString;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use tidings_protocol::bson::{read_map, write_map};
use tidings_protocol::{ClassName, Error, Map, Value};

pub(super) const FORMAT: &[u8] = b"f";
pub(super) const TIMELINE: &[u8] = b"t";
pub(super) const NUMBERS: &[u8] = b"n";
pub(super) const FLOOR: &[u8] = b"l";
pub(super) const CLASSES: &[u8] = b"c";
pub(super) const COUNTS: &[u8] = b"r";
pub(super) const DROPPED_INDEXES: &[u8] = b"d";
pub(super) const DROPPED_CLASSES: &[u8] = b"e";

/// All classes of one moment.
pub(super) type Catalog = Arc<FxHashMap<ClassName, Arc<ClassState>>>;

/// One class. Its number and those of its indexes are never used again, so that what is left over from a class or
/// index that was deleted is never taken for a new one's.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ClassState {
    pub(super) id: ClassId,
    pub(super) schema: Arc<ClassSchema>,
    pub(super) indexes: Vec<Arc<Index>>,
    /// Fields that were removed and whose bytes are still in some rows.
    pub(super) removals: Vec<Removal>,
    /// Rows before this sequence have been rid of them.
    pub(super) cleaned_to: Sequence,
    /// When a field was last removed. Objects that were decoded before are no longer what this class says.
    pub(super) generation: Position,
}

/// Numbers that were not given to anything yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) class: ClassId,
    pub(super) index: IndexId,
}

impl Numbers {
    pub(super) const FIRST: Self = Self { class: 1, index: 1 };

    pub(super) fn to_bytes(self) -> Vec<u8> {
        [self.class.to_be_bytes(), self.index.to_be_bytes()].concat()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (class, index) = bytes.split_at_checked(4)?;
        Some(Self {
            class: u32::from_be_bytes(class.try_into().ok()?),
            index: u32::from_be_bytes(index.try_into().ok()?),
        })
    }

    fn take_index(&mut self) -> IndexId {
        self.index += 1;
        self.index - 1
    }
}

impl ClassState {
    pub(super) fn new(schema: ClassSchema, numbers: &mut Numbers) -> Self {
        let id = numbers.class;
        numbers.class += 1;
        let indexes = wanted(&schema)
            .into_iter()
            .map(|shape| Arc::new(Index { id: numbers.take_index(), shape, building: None }))
            .collect();
        Self { id, schema: Arc::new(schema), indexes, removals: Vec::new(), cleaned_to: 0, generation: 0 }
    }

    /// The class with another schema, and the indexes that it no longer has.
    ///
    /// A new index on a column that no row has yet is complete at once; any other one is built in the background.
    pub(super) fn with_schema(
        &self,
        schema: ClassSchema,
        removed: &[CompactString],
        at: Position,
        is_empty: bool,
        numbers: &mut Numbers,
    ) -> (Self, Vec<IndexId>) {
        let is_removed = |name: &str| removed.iter().any(|field| field == name);
        let shapes = wanted(&schema);
        let keeps = |index: &&Arc<Index>| {
            let touched = index.shape.fields.iter().any(|field| is_removed(&field.name));
            // Somebody asked for these to be unique: that is not in the schema.
            let asked = index.shape.kind == Kind::Folded;
            !touched && (asked || shapes.contains(&index.shape))
        };
        let mut indexes: Vec<Arc<Index>> = self.indexes.iter().filter(keeps).cloned().collect();
        let dropped = self.indexes.iter().filter(|index| !keeps(index)).map(|index| index.id).collect();
        for shape in shapes {
            if !indexes.iter().any(|index| index.shape == shape) {
                let first = shape.first();
                let is_new = is_removed(first) || self.schema.field_type(first).is_none();
                let building = if is_new || is_empty { None } else { Some(0) };
                indexes.push(Arc::new(Index { id: numbers.take_index(), shape, building }));
            }
        }
        let mut class = Self { schema: Arc::new(schema), indexes, ..self.clone() };
        if !removed.is_empty() && !is_empty {
            class.removals.extend(removed.iter().map(|field| Removal { field: field.clone(), at }));
            class.cleaned_to = 0;
            class.generation = at;
        }
        (class, dropped)
    }

    /// The class with an index for a field that has to be unique, complete as the caller builds it.
    pub(super) fn with_unique(&self, field: &str, numbers: &mut Numbers) -> (Self, Arc<Index>) {
        let index = Arc::new(Index { id: numbers.take_index(), shape: Shape::folded(field), building: None });
        let mut class = self.clone();
        class.indexes.push(index.clone());
        (class, index)
    }

    /// Whether the class has all these columns.
    ///
    /// # Errors
    /// 111 if one of them has another type.
    pub(super) fn has_all(&self, fields: &[(CompactString, FieldType)]) -> Result<bool, Error> {
        fields.iter().try_fold(true, |all, (name, field_type)| Ok(all & !self.schema.check_field(name, field_type)?))
    }

    pub(super) fn unique_index(&self, field: &str) -> Option<&Arc<Index>> {
        self.indexes.iter().find(|index| index.shape.kind == Kind::Folded && index.shape.first() == field)
    }

    pub(super) fn has_work(&self) -> bool {
        !self.removals.is_empty() || self.indexes.iter().any(|index| index.building.is_some())
    }

    pub(super) fn is_array(&self, field: &str) -> bool {
        self.schema.field_type(field) == Some(FieldType::Array)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let number = |number: u64| Value::Number(number as f64);
        let indexes = self.indexes.iter().map(|index| {
            let mut map = Map::new();
            map.insert("id", number(index.id.into()));
            map.insert("kind", index.shape.kind.name().into());
            let fields = index
                .shape
                .fields
                .iter()
                .map(|field| Value::Array(vec![Value::from(field.name.as_str()), Value::Bool(field.descending)]));
            map.insert("fields", Value::Array(fields.collect()));
            if let Some(next) = index.building {
                map.insert("building", number(next));
            }
            Value::Object(map)
        });
        let indexes = Value::Array(indexes.collect());
        let removals = self
            .removals
            .iter()
            .map(|removal| Value::Array(vec![Value::from(removal.field.as_str()), number(removal.at)]));
        let removals = Value::Array(removals.collect());
        let mut map = Map::new();
        map.insert("id", number(self.id.into()));
        map.insert("schema", Value::Object(self.schema.to_stored()));
        map.insert("indexes", indexes);
        map.insert("removals", removals);
        map.insert("cleanedTo", number(self.cleaned_to));
        map.insert("generation", number(self.generation));
        let mut out = Vec::with_capacity(1024);
        write_map(&map, &mut out);
        out
    }

    pub(super) fn from_bytes(class: ClassName, bytes: &[u8]) -> Result<Self, Corrupt> {
        const UNREADABLE: Corrupt = Corrupt("a class cannot be read");
        let map = read_map(bytes).map_err(|_| UNREADABLE)?;
        let number = |map: &Map, name: &str| map.get(name).and_then(Value::as_number).map(|number| number as u64);
        let list = |name: &str| map.get(name).and_then(Value::as_array).ok_or(UNREADABLE);
        let index = |value: &Value| -> Option<Arc<Index>> {
            let map = value.as_object()?;
            let fields = map.get("fields")?.as_array()?.iter().map(|field| match field.as_array()? {
                [Value::String(name), Value::Bool(descending)] => {
                    Some(IndexField { name: name.clone(), descending: *descending })
                }
                _ => None,
            });
            let shape =
                Shape { fields: fields.collect::<Option<_>>()?, kind: Kind::from_name(map.get("kind")?.as_str()?)? };
            Some(Arc::new(Index { id: number(map, "id")? as IndexId, shape, building: number(map, "building") }))
        };
        let removal = |value: &Value| match value.as_array()? {
            [Value::String(field), Value::Number(at)] => Some(Removal { field: field.clone(), at: *at as u64 }),
            _ => None,
        };
        let schema = map.get("schema").and_then(Value::as_object).ok_or(UNREADABLE)?;
        Ok(Self {
            id: number(&map, "id").ok_or(UNREADABLE)? as ClassId,
            schema: Arc::new(ClassSchema::from_stored(class, schema).map_err(|_| UNREADABLE)?),
            indexes: list("indexes")?.iter().map(index).collect::<Option<_>>().ok_or(UNREADABLE)?,
            removals: list("removals")?.iter().map(removal).collect::<Option<_>>().ok_or(UNREADABLE)?,
            cleaned_to: number(&map, "cleanedTo").ok_or(UNREADABLE)?,
            generation: number(&map, "generation").ok_or(UNREADABLE)?,
        })
    }
}

pub(super) fn class_key(class: &ClassName) -> Vec<u8> {
    [CLASSES, class.as_bytes()].concat()
}

pub(super) fn count_key(class: ClassId) -> Vec<u8> {
    [COUNTS, &class.to_be_bytes()].concat()
}

/// What nobody reads any more, and still takes room.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dropped {
    Index(IndexId),
    Class(ClassId),
}

impl Dropped {
    pub(super) fn key(self) -> Vec<u8> {
        let (tag, number) = match self {
            Self::Index(index) => (DROPPED_INDEXES, index),
            Self::Class(class) => (DROPPED_CLASSES, class),
        };
        [tag, &number.to_be_bytes()].concat()
    }

    pub(super) fn from_key(key: &[u8]) -> Option<Self> {
        let number = |tag| key.strip_prefix(tag)?.try_into().ok().map(u32::from_be_bytes);
        number(DROPPED_INDEXES).map(Self::Index).or_else(|| number(DROPPED_CLASSES).map(Self::Class))
    }
}

/// The schemas alone, as other rooms see them.
pub(super) fn schemas(catalog: &Catalog) -> Schemas {
    Arc::new(catalog.iter().map(|(name, class)| (name.clone(), class.schema.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> ClassSchema {
        let mut schema = ClassSchema::new(ClassName::from_trusted("Message"));
        schema.fields.insert("sender".into(), FieldType::Pointer(ClassName::USER));
        schema.fields.insert("tags".into(), FieldType::Array);
        schema
    }

    #[test]
    fn a_class_reads_back() {
        let mut numbers = Numbers::FIRST;
        let class = ClassState::new(message(), &mut numbers);
        let (mut class, _) = class.with_schema(message(), &["gone".into()], 17, false, &mut numbers);
        let building = Index { building: Some(5), ..(*class.indexes[0]).clone() };
        class.indexes[0] = Arc::new(building);
        let name = ClassName::from_trusted("Message");
        assert_eq!(ClassState::from_bytes(name.clone(), &class.to_bytes()), Ok(class));
        assert!(ClassState::from_bytes(name, b"\x05\0\0\0\0").is_err());
        assert_eq!(Numbers::from_bytes(&numbers.to_bytes()), Some(numbers));
    }

    #[test]
    fn indexes_follow_the_schema() {
        let mut numbers = Numbers::FIRST;
        let class = ClassState::new(message(), &mut numbers);
        assert_eq!(class.indexes.len(), 4);
        // A column that changed its type is another column: its old index goes, the new one starts empty and complete.
        let mut changed = message();
        changed.fields.insert("sender".into(), FieldType::Date);
        let (class, dropped) = class.with_schema(changed.clone(), &["sender".into()], 9, false, &mut numbers);
        assert_eq!(dropped.len(), 1);
        assert!(class.indexes.iter().all(|index| index.building.is_none()));
        let declared = crate::schema::Index { fields: vec![IndexField { name: "tags".into(), descending: true }] };
        changed.indexes.insert("by_tags".into(), declared);
        let (class, dropped) = class.with_schema(changed, &[], 10, false, &mut numbers);
        assert!(dropped.is_empty());
        let built: Vec<_> = class.indexes.iter().filter(|index| index.building == Some(0)).collect();
        assert_eq!(built.len(), 1);
        assert_eq!(built[0].shape.kind, Kind::Elements);
    }
}
