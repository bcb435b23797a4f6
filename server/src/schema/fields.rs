//! The type of a field, and which type a value or an operation needs.

use compact_str::CompactString;
use tidings_protocol::names::{ClassName, shortened};
use tidings_protocol::update::Operation;
use tidings_protocol::value::{Map, Value};
use tidings_protocol::{Code, Error};

/// The type of one field, fixed by its first write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldType {
    String,
    Number,
    Boolean,
    Date,
    Bytes,
    File,
    GeoPoint,
    Polygon,
    Array,
    Object,
    Acl,
    Pointer(ClassName),
    Relation(ClassName),
}

impl FieldType {
    pub fn name(&self) -> &'static str {
        match self {
            Self::String => "String",
            Self::Number => "Number",
            Self::Boolean => "Boolean",
            Self::Date => "Date",
            Self::Bytes => "Bytes",
            Self::File => "File",
            Self::GeoPoint => "GeoPoint",
            Self::Polygon => "Polygon",
            Self::Array => "Array",
            Self::Object => "Object",
            Self::Acl => "ACL",
            Self::Pointer(_) => "Pointer",
            Self::Relation(_) => "Relation",
        }
    }

    /// As messages print it: `Pointer<_User>`.
    pub fn describe(&self) -> CompactString {
        match self {
            Self::Pointer(class) | Self::Relation(class) => compact_str::format_compact!("{}<{class}>", self.name()),
            _ => self.name().into(),
        }
    }

    /// Reads `{"type": "Pointer", "targetClass": "_User"}`.
    ///
    /// # Errors
    /// 111 for an unknown type, 135 for a pointer without its target, 103 for a bad target.
    pub fn from_map(map: &Map) -> Result<Self, Error> {
        let Some(name) = map.get("type").and_then(Value::as_str) else {
            return Err(Error::invalid_json("A field needs a type."));
        };
        let target = || match map.get("targetClass").and_then(Value::as_str) {
            Some(class) => ClassName::parse(class),
            None => Err(Error::new(Code::MissingField, format!("type {name} needs a class name"))),
        };
        Ok(match name {
            "String" => Self::String,
            "Number" => Self::Number,
            "Boolean" => Self::Boolean,
            "Date" => Self::Date,
            "Bytes" => Self::Bytes,
            "File" => Self::File,
            "GeoPoint" => Self::GeoPoint,
            "Polygon" => Self::Polygon,
            "Array" => Self::Array,
            "Object" => Self::Object,
            "ACL" => Self::Acl,
            "Pointer" => Self::Pointer(target()?),
            "Relation" => Self::Relation(target()?),
            other => return Err(Error::incorrect_type(format!("invalid field type: {}", shortened(other)))),
        })
    }

    pub fn to_map(&self) -> Map {
        let mut map = Map::new();
        map.insert("type", self.name().into());
        if let Self::Pointer(class) | Self::Relation(class) = self {
            map.insert("targetClass", class.as_str().into());
        }
        map
    }

    /// The type that a value has; `None` for null, which fits all.
    pub fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Null => return None,
            Value::Bool(_) => Self::Boolean,
            Value::Number(_) => Self::Number,
            Value::String(_) => Self::String,
            Value::Date(_) => Self::Date,
            Value::Bytes(_) => Self::Bytes,
            Value::Pointer(pointer) => Self::Pointer(pointer.class.clone()),
            Value::Relation(class) => Self::Relation((**class).clone()),
            Value::GeoPoint(_) => Self::GeoPoint,
            Value::Polygon(_) => Self::Polygon,
            Value::File(_) => Self::File,
            Value::Array(_) => Self::Array,
            Value::Object(_) => Self::Object,
        })
    }

    /// Whether a new column of this type gets an index by itself.
    pub fn is_indexed_by_default(&self) -> bool {
        matches!(self, Self::Pointer(_) | Self::Date)
    }
}

/// The type that an operation needs its field to have; `None` when any will do.
pub fn infer(path: &str, operation: &Operation) -> Option<FieldType> {
    if let Some((_, rest)) = path.split_once('.') {
        // `arr.0` may also be the key "0" of an object, so the value that is there decides.
        let is_index = rest.split('.').next().is_some_and(|head| head.bytes().all(|byte| byte.is_ascii_digit()));
        return (!is_index).then_some(FieldType::Object);
    }
    match operation {
        Operation::Set(value) | Operation::SetOnInsert(value) => FieldType::of(value),
        Operation::Delete => None,
        Operation::Increment(_) => Some(FieldType::Number),
        Operation::Add(_) | Operation::AddUnique(_) | Operation::Remove(_) => Some(FieldType::Array),
        Operation::Relate { .. } => operation.relation_class().cloned().map(FieldType::Relation),
    }
}
