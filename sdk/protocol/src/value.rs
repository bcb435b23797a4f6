//! One value of Parse's data model, and its JSON with the `__type` notation.
//!
//! JSON is read straight into [`Value`] and written straight from it; no generic JSON tree stands between.

use crate::date::Date;
use crate::error::{Error, Result};
use crate::names::{ClassName, ObjectId, shortened};
use compact_str::CompactString;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::cell::RefCell;
use std::fmt;

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
    /// Reads one JSON text.
    ///
    /// # Errors
    /// 107 for text that is not JSON or too deep, 111 for a malformed typed value, 105 for a denied key.
    pub fn from_json(text: &[u8]) -> Result<Self> {
        let failure = RefCell::new(None);
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let seed = ValueSeed { depth: 0, failure: &failure };
        let read = seed.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
        read.map_err(|syntax| {
            failure.into_inner().unwrap_or_else(|| Error::invalid_json(format!("Invalid JSON: {syntax}")))
        })
    }

    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(true) => out.extend_from_slice(b"true"),
            Self::Bool(false) => out.extend_from_slice(b"false"),
            Self::Number(number) => write_json_number(*number, out),
            Self::String(text) => write_json_string(text, out),
            Self::Date(date) => {
                out.extend_from_slice(br#"{"__type":"Date","iso":""#);
                date.write_iso(out);
                out.extend_from_slice(b"\"}");
            }
            Self::Bytes(bytes) => {
                out.extend_from_slice(br#"{"__type":"Bytes","base64":""#);
                out.extend_from_slice(base64_encode(bytes).as_bytes());
                out.extend_from_slice(b"\"}");
            }
            Self::Pointer(pointer) => {
                out.extend_from_slice(br#"{"__type":"Pointer","className":"#);
                write_json_string(&pointer.class, out);
                out.extend_from_slice(br#","objectId":"#);
                write_json_string(&pointer.id, out);
                out.push(b'}');
            }
            Self::Relation(class) => {
                out.extend_from_slice(br#"{"__type":"Relation","className":"#);
                write_json_string(class, out);
                out.push(b'}');
            }
            Self::GeoPoint(point) => {
                out.extend_from_slice(br#"{"__type":"GeoPoint","latitude":"#);
                write_json_number(point.latitude, out);
                out.extend_from_slice(br#","longitude":"#);
                write_json_number(point.longitude, out);
                out.push(b'}');
            }
            Self::Polygon(polygon) => {
                out.extend_from_slice(br#"{"__type":"Polygon","coordinates":["#);
                for (at, point) in polygon.0.iter().enumerate() {
                    out.extend_from_slice(if at == 0 { b"[" } else { b",[" });
                    write_json_number(point.latitude, out);
                    out.push(b',');
                    write_json_number(point.longitude, out);
                    out.push(b']');
                }
                out.extend_from_slice(b"]}");
            }
            Self::File(file) => {
                out.extend_from_slice(br#"{"__type":"File","name":"#);
                write_json_string(&file.name, out);
                if let Some(url) = &file.url {
                    out.extend_from_slice(br#","url":"#);
                    write_json_string(url, out);
                }
                out.push(b'}');
            }
            Self::Array(items) => {
                out.push(b'[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    item.write_json(out);
                }
                out.push(b']');
            }
            Self::Object(map) => map.write_json(out),
        }
    }

    pub fn to_json(&self) -> String {
        let mut out = Vec::new();
        self.write_json(&mut out);
        into_text(out)
    }

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

/// Fields in the order in which they were set. Few enough that a scan beats hashing.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Map(Vec<(CompactString, Value)>);

impl Map {
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads one JSON text that must be an object.
    ///
    /// # Errors
    /// As [`Value::from_json`], and 107 for any other JSON value.
    pub fn from_json(text: &[u8]) -> Result<Self> {
        match Value::from_json(text)? {
            Value::Object(map) => Ok(map),
            _ => Err(Error::invalid_json("The body must be a JSON object.")),
        }
    }

    /// Takes pairs as they came; of equal names the last one counts.
    pub fn from_pairs(mut pairs: Vec<(CompactString, Value)>) -> Self {
        remove_shadowed(&mut pairs);
        Self(pairs)
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        self.0.iter_mut().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Sets a field and returns its former value.
    pub fn insert(&mut self, name: impl Into<CompactString> + AsRef<str>, value: Value) -> Option<Value> {
        match self.get_mut(name.as_ref()) {
            Some(slot) => Some(std::mem::replace(slot, value)),
            None => {
                self.0.push((name.into(), value));
                None
            }
        }
    }

    pub fn remove(&mut self, name: &str) -> Option<Value> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(at).1)
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&str, &Value) -> bool) {
        self.0.retain(|(name, value)| keep(name, value));
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&CompactString, &Value)> + Clone {
        self.0.iter().map(|(name, value)| (name, value))
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Value> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (at, (name, value)) in self.0.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            write_json_string(name, out);
            out.push(b':');
            value.write_json(out);
        }
        out.push(b'}');
    }

    pub fn to_json(&self) -> String {
        let mut out = Vec::new();
        self.write_json(&mut out);
        into_text(out)
    }

    pub fn weight(&self) -> usize {
        self.0.iter().map(|(name, value)| size_of::<CompactString>() + heap(name) + value.weight()).sum()
    }
}

impl IntoIterator for Map {
    type Item = (CompactString, Value);
    type IntoIter = std::vec::IntoIter<Self::Item>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(CompactString, Value)> for Map {
    fn from_iter<I: IntoIterator<Item = (CompactString, Value)>>(pairs: I) -> Self {
        Self::from_pairs(pairs.into_iter().collect())
    }
}

/// Builds a [`Map`]: `map! { "text" => "hi", "count" => 2.0 }`.
#[macro_export]
macro_rules! map {
    ($($name:expr => $value:expr),* $(,)?) => {
        $crate::value::Map::from_pairs(vec![$(($name.into(), $crate::value::Value::from($value))),*])
    };
}

/// Keeps the last of each name. A scan for a few fields, sorting for many: a hostile body must not cost its square.
fn remove_shadowed(pairs: &mut Vec<(CompactString, Value)>) {
    let count = pairs.len();
    let mut shadowed = vec![false; if count > 16 { count } else { 0 }];
    if count > 16 {
        let mut by_name: Vec<usize> = (0..count).collect();
        by_name.sort_by(|a, b| pairs[*a].0.cmp(&pairs[*b].0).then(a.cmp(b)));
        for pair in by_name.windows(2) {
            shadowed[pair[0]] = pairs[pair[0]].0 == pairs[pair[1]].0;
        }
        if shadowed.contains(&true) {
            let mut flags = shadowed.into_iter();
            pairs.retain(|_| !flags.next().unwrap_or(false));
        }
        return;
    }
    let mut at = 0;
    while at < pairs.len() {
        if pairs[at + 1..].iter().any(|(name, _)| *name == pairs[at].0) {
            pairs.remove(at);
        } else {
            at += 1;
        }
    }
}

pub(crate) fn into_text(json: Vec<u8>) -> String {
    String::from_utf8(json).unwrap_or_default()
}

/// Whole numbers within ±2⁵³ print without a fraction, as JavaScript prints them.
pub fn write_json_number(number: f64, out: &mut Vec<u8>) {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        out.extend_from_slice(itoa::Buffer::new().format(number as i64).as_bytes());
    } else if number.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format(number).as_bytes());
    } else {
        out.extend_from_slice(b"null");
    }
}

/// Appends the text in quotes, escaped.
pub fn write_json_string(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    let mut from = 0;
    while let Some(plain) = plain_prefix(&bytes[from..]) {
        out.extend_from_slice(&bytes[from..from + plain]);
        from += plain + 1;
        match bytes[from - 1] {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(control >> 4)]);
                out.push(HEX[usize::from(control & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

/// How many bytes stand before the first that must be escaped; `None` if none must. Eight bytes at a time, by the
/// "has zero byte" trick of <https://graphics.stanford.edu/~seander/bithacks.html#ZeroInWord>.
fn plain_prefix(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGHS: u64 = ONES << 7;
    let below_32 = |word: u64| word.wrapping_sub(ONES * 0x20) & !word;
    let equal_to = |word: u64, byte: u8| {
        let difference = word ^ (ONES * u64::from(byte));
        difference.wrapping_sub(ONES) & !difference
    };
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let found = (below_32(word) | equal_to(word, b'"') | equal_to(word, b'\\')) & HIGHS;
        if found != 0 {
            // A borrow can only mark bytes above the first real one, so the lowest mark is right.
            return Some(at * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let found = rest.iter().position(|byte| *byte < 0x20 || matches!(byte, b'"' | b'\\'));
    found.map(|at| words.len() * 8 + at)
}

fn base64_encode(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn base64_decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    LENIENT.decode(text).ok()
}

/// Reads a value, remembering in `failure` a Parse error that serde's own error type cannot carry.
struct ValueSeed<'a> {
    depth: usize,
    failure: &'a RefCell<Option<Error>>,
}

impl ValueSeed<'_> {
    fn fail<E: serde::de::Error>(&self, error: Error) -> E {
        *self.failure.borrow_mut() = Some(error);
        E::custom("")
    }

    fn deeper<E: serde::de::Error>(&self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(self.fail(Error::invalid_json(format!("JSON nested deeper than {MAX_DEPTH} levels."))));
        }
        Ok(Self { depth: self.depth + 1, failure: self.failure })
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(ValueSeed { ..inner })? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut pairs = Vec::with_capacity(8);
        let mut typed = false;
        while let Some(name) = fields.next_key::<CompactString>()? {
            if crate::names::DENIED_WORDS.contains(&name.as_str()) {
                return Err(self.fail(Error::invalid_key_name(format!("Prohibited keyword in request data: {name}."))));
            }
            typed |= name == "__type";
            let value = fields.next_value_seed(ValueSeed { ..inner })?;
            if name == "_bsontype" && value.as_str() == Some("Code") {
                let message = "Prohibited keyword in request data: _bsontype.";
                return Err(self.fail(Error::invalid_key_name(message)));
            }
            pairs.push((name, value));
        }
        let map = Map::from_pairs(pairs);
        if typed { typed_value(map).map_err(|error| self.fail(error)) } else { Ok(Value::Object(map)) }
    }
}

/// The value that an object with `__type` stands for.
///
/// # Errors
/// 111 for an unknown type or missing, wrong or impossible parts.
pub fn typed_value(map: Map) -> Result<Value> {
    let invalid = |kind: &str| Error::incorrect_type(format!("This is not a valid {}", shortened(kind)));
    let text = |name: &str| map.get(name).and_then(Value::as_str);
    let Some(kind) = text("__type") else { return Err(Error::incorrect_type("__type must be a string")) };
    let number = |name: &str| map.get(name).and_then(Value::as_number);
    let class = || ClassName::parse(text("className").unwrap_or_default()).map_err(|_| invalid(kind));
    match kind {
        "Date" => match map.get("iso") {
            Some(Value::String(iso)) => Date::parse(iso),
            Some(Value::Number(millis)) if millis.is_finite() => Date::from_millis(*millis as i64),
            _ => None,
        }
        .map(Value::Date)
        .ok_or_else(|| invalid(kind)),
        "Bytes" => text("base64")
            .filter(|encoded| !encoded.is_empty())
            .and_then(base64_decode)
            .map(|bytes| Value::Bytes(bytes.into()))
            .ok_or_else(|| invalid(kind)),
        // An included object that comes back stands for its pointer.
        "Pointer" | "Object" => {
            let id = text("objectId").filter(|id| !id.is_empty()).ok_or_else(|| invalid(kind))?;
            Ok(Value::pointer(class()?, ObjectId::new(id)))
        }
        "Relation" => Ok(Value::Relation(Box::new(class()?))),
        "GeoPoint" => number("latitude")
            .zip(number("longitude"))
            .and_then(|(latitude, longitude)| GeoPoint::new(latitude, longitude))
            .map(|point| Value::GeoPoint(Box::new(point)))
            .ok_or_else(|| invalid(kind)),
        "Polygon" => map
            .get("coordinates")
            .and_then(Value::as_array)
            .and_then(|corners| corners.iter().map(corner).collect())
            .and_then(Polygon::closed)
            .map(|polygon| Value::Polygon(Box::new(polygon)))
            .ok_or_else(|| invalid(kind)),
        "File" => {
            let name = text("name").filter(|name| !name.is_empty()).ok_or_else(|| invalid(kind))?;
            Ok(Value::File(Box::new(File { name: name.into(), url: text("url").map(Into::into) })))
        }
        other => Err(invalid(other)),
    }
}

fn corner(value: &Value) -> Option<GeoPoint> {
    match value {
        Value::GeoPoint(point) => Some(**point),
        Value::Array(pair) => match pair.as_slice() {
            [Value::Number(latitude), Value::Number(longitude)] => GeoPoint::new(*latitude, *longitude),
            _ => None,
        },
        _ => None,
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
    use crate::error::Code;

    #[track_caller]
    fn check_round_trip(json: &str) {
        assert_eq!(Value::from_json(json.as_bytes()).unwrap().to_json(), json);
    }

    #[test]
    fn every_type_reads_back_as_it_was_written() {
        for json in [
            "null",
            "true",
            "false",
            "0",
            "-1",
            "1.5",
            "9007199254740992",
            "1e+300",
            "\"\"",
            r#""a\"\\\n\t\u0001ü😀""#,
            "[]",
            "{}",
            r#"[1,[2,{"a":null}]]"#,
            r#"{"__type":"Date","iso":"2026-01-02T03:04:05.678Z"}"#,
            r#"{"__type":"Bytes","base64":"AAEC/w=="}"#,
            r#"{"__type":"Pointer","className":"_User","objectId":"abc"}"#,
            r#"{"__type":"Relation","className":"Post"}"#,
            r#"{"__type":"GeoPoint","latitude":40.5,"longitude":-30}"#,
            r#"{"__type":"Polygon","coordinates":[[0,0],[0,1],[1,1],[0,0]]}"#,
            r#"{"__type":"File","name":"a.png","url":"http://h/a.png"}"#,
            r#"{"z":1,"a":{"__type":"Pointer","className":"C","objectId":"x"}}"#,
        ] {
            check_round_trip(json);
        }
    }

    #[test]
    fn malformed_typed_values_are_refused() {
        for json in [
            r#"{"__type":"Wat"}"#,
            r#"{"__type":7}"#,
            r#"{"__type":"Date"}"#,
            r#"{"__type":"Date","iso":"soon"}"#,
            r#"{"__type":"Pointer","className":"C"}"#,
            r#"{"__type":"Pointer","objectId":"x"}"#,
            r#"{"__type":"Pointer","className":"1","objectId":"x"}"#,
            r#"{"__type":"GeoPoint","latitude":"1","longitude":2}"#,
            r#"{"__type":"GeoPoint","latitude":91,"longitude":2}"#,
            r#"{"__type":"Bytes","base64":""}"#,
            r#"{"__type":"Bytes","base64":"@"}"#,
            r#"{"__type":"Polygon","coordinates":[[0,0],[1,1],[0,0]]}"#,
            r#"{"__type":"Polygon"}"#,
            r#"{"__type":"File"}"#,
            r#"{"__type":"Relation"}"#,
        ] {
            assert_eq!(Value::from_json(json.as_bytes()).unwrap_err().code, Code::IncorrectType, "{json}");
        }
    }

    #[test]
    fn text_that_is_not_json_is_107() {
        for text in ["", "{", "{]", "nul", "1 2", "{\"a\":1e999}", "\"\u{1}\"", "{a:1}"] {
            assert_eq!(Value::from_json(text.as_bytes()).unwrap_err().code, Code::InvalidJson, "{text}");
        }
        assert_eq!(Value::from_json(b"\"\xff\"").unwrap_err().code, Code::InvalidJson);
        let deep = "[".repeat(65) + &"]".repeat(65);
        assert_eq!(Value::from_json(deep.as_bytes()).unwrap_err().code, Code::InvalidJson);
        assert!(Value::from_json(("[".repeat(64) + &"]".repeat(64)).as_bytes()).is_ok());
        assert_eq!(Value::from_json(br#"{"a":{"constructor":1}}"#).unwrap_err().code, Code::InvalidKeyName);
    }

    #[test]
    fn of_equal_keys_the_last_counts() {
        let many: String = (0..40).map(|n| format!("\"k{n}\":{n},")).collect();
        for json in [r#"{"a":1,"b":2,"a":3}"#.to_owned(), format!("{{\"a\":1,{many}\"a\":3}}")] {
            let Value::Object(map) = Value::from_json(json.as_bytes()).unwrap() else { panic!() };
            assert_eq!(map.get("a"), Some(&Value::Number(3.0)));
            assert_eq!(map.iter().filter(|(name, _)| *name == "a").count(), 1);
        }
    }

    #[test]
    fn text_is_escaped_wherever_it_must_be() {
        let letters = ['a', '"', '\\', '\n', '\u{1f}', ' ', 'ü', '\u{7f}', '\u{0}'];
        for length in 0..20 {
            for at in 0..length.max(1) {
                for letter in letters {
                    let text: String = (0..length).map(|place| if place == at { letter } else { 'x' }).collect();
                    let mut out = Vec::new();
                    write_json_string(&text, &mut out);
                    assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
                }
            }
        }
    }

    #[test]
    fn a_value_stays_small() {
        assert!(size_of::<Value>() <= 32);
    }
}
