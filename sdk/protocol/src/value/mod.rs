//! One value of Parse's data model.
//!
//! [`map`] holds fields by name; [`json`] reads and writes values, and [`typed`] knows the `__type` notation.

mod json;
mod map;
mod typed;

pub(crate) use json::into_text;
pub use json::{write_json_number, write_json_string};
pub use map::Map;
pub use typed::typed_value;

use crate::date::Date;
use crate::names::{ClassName, ObjectId};
use compact_str::CompactString;

/// How deep arrays and objects may nest.
pub const MAX_DEPTH: usize = 64;

/// A value of any Parse type.
///
/// ```
/// use tidings_protocol::Value;
/// let value = Value::from_json(br#"{"at":{"__type":"Date","iso":"2026-01-02T03:04:05.678Z"}}"#).unwrap();
/// assert!(matches!(value.as_object().unwrap().get("at"), Some(Value::Date(_))));
/// ```
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Value {
    #[default]
    Null,
    Bool(bool),
    /// As in JavaScript, every number is a double.
    Number(f64),
    String(CompactString),
    Date(Date),
    Bytes(Box<[u8]>),
    Pointer(Box<Pointer>),
    /// The members of a relation are not part of the object; its value names only their class.
    Relation(Box<ClassName>),
    GeoPoint(Box<GeoPoint>),
    Polygon(Box<Polygon>),
    File(Box<File>),
    Array(Vec<Value>),
    Object(Map),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pointer {
    pub class: ClassName,
    pub id: ObjectId,
}

/// Degrees: latitude −90 to 90, longitude −180 to 180.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GeoPoint {
    pub latitude: f64,
    pub longitude: f64,
}

/// A closed ring: the last corner equals the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Polygon(pub Vec<GeoPoint>);

/// A stored file is known by its name; the address belongs to the server that answers.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    pub name: CompactString,
    pub url: Option<CompactString>,
}

impl Value {
    /// The name of the type as schemas write it; `None` for null, which fits every type.
    pub fn type_name(&self) -> Option<&'static str> {
        Some(match self {
            Self::Null => return None,
            Self::Bool(_) => "Boolean",
            Self::Number(_) => "Number",
            Self::String(_) => "String",
            Self::Date(_) => "Date",
            Self::Bytes(_) => "Bytes",
            Self::Pointer(_) => "Pointer",
            Self::Relation(_) => "Relation",
            Self::GeoPoint(_) => "GeoPoint",
            Self::Polygon(_) => "Polygon",
            Self::File(_) => "File",
            Self::Array(_) => "Array",
            Self::Object(_) => "Object",
        })
    }

    pub fn pointer(class: ClassName, id: ObjectId) -> Self {
        Self::Pointer(Box::new(Pointer { class, id }))
    }

    pub fn string(text: impl Into<CompactString>) -> Self {
        Self::String(text.into())
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(flag) = self { Some(*flag) } else { None }
    }

    pub fn as_number(&self) -> Option<f64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    pub fn as_array(&self) -> Option<&[Value]> {
        if let Self::Array(items) = self { Some(items) } else { None }
    }

    pub fn as_object(&self) -> Option<&Map> {
        if let Self::Object(map) = self { Some(map) } else { None }
    }

    pub fn as_pointer(&self) -> Option<&Pointer> {
        if let Self::Pointer(pointer) = self { Some(pointer) } else { None }
    }

    /// Bytes that this value holds in memory, roughly: what bounds and caches count.
    pub fn weight(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Null | Self::Bool(_) | Self::Number(_) | Self::Date(_) => 0,
                Self::String(text) => heap(text),
                Self::Bytes(bytes) => bytes.len(),
                Self::Pointer(pointer) => {
                    size_of::<Pointer>() + heap(pointer.class.as_str()) + heap(pointer.id.as_str())
                }
                Self::Relation(class) => size_of::<ClassName>() + heap(class.as_str()),
                Self::GeoPoint(_) => size_of::<GeoPoint>(),
                Self::Polygon(polygon) => polygon.0.len() * size_of::<GeoPoint>(),
                Self::File(file) => size_of::<File>() + file.name.len() + file.url.as_ref().map_or(0, |url| url.len()),
                Self::Array(items) => items.iter().map(Self::weight).sum(),
                Self::Object(map) => map.weight(),
            }
    }
}

/// Bytes of a text that do not fit into its 24.
fn heap(text: &str) -> usize {
    if text.len() > 24 { text.len() } else { 0 }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Bool(flag)
    }
}

impl From<Date> for Value {
    fn from(date: Date) -> Self {
        Self::Date(date)
    }
}

impl From<Map> for Value {
    fn from(map: Map) -> Self {
        Self::Object(map)
    }
}

impl GeoPoint {
    pub fn new(latitude: f64, longitude: f64) -> Option<Self> {
        ((-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude))
            .then_some(Self { latitude, longitude })
    }
}

impl Polygon {
    /// Closes the ring. `None` with fewer than three distinct corners.
    pub fn closed(mut corners: Vec<GeoPoint>) -> Option<Self> {
        if corners.first() != corners.last() {
            corners.push(*corners.first()?);
        }
        let distinct =
            corners.iter().enumerate().filter(|(at, corner)| !corners[..*at].contains(corner)).take(3).count();
        (distinct == 3).then_some(Self(corners))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_small() {
        assert!(size_of::<Value>() <= 32);
    }
}
