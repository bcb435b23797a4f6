//! How values compare: one byte encoding whose byte order is the order of values.
//!
//! Index keys, sort keys, the postings of live queries and the identity of filters all use it, so that they cannot
//! disagree. Types order as in MongoDB: null < numbers < strings < objects < arrays < bytes < booleans < dates. Numbers
//! that are equal encode equally; so do all values that `==` calls equal.

use crate::object::Object;
use crate::query::Order;
use crate::value::{Map, Value};
use std::borrow::Cow;
use std::cmp::Ordering;

/// An empty array sorts before everything, as in MongoDB.
const EMPTY_ARRAY: u8 = 0x03;
const NULL: u8 = 0x05;
const NUMBER: u8 = 0x10;
const STRING: u8 = 0x20;
const POINTER: u8 = 0x22;
const FILE: u8 = 0x24;
const OBJECT: u8 = 0x30;
const RELATION: u8 = 0x32;
const POLYGON: u8 = 0x34;
const GEO_POINT: u8 = 0x36;
const ARRAY: u8 = 0x40;
const BYTES: u8 = 0x50;
const BOOL: u8 = 0x60;
const DATE: u8 = 0x70;
/// Ends a list; lower than the first byte of every value.
const END: u8 = 0x01;

/// Appends the key of a value. Keys are self-delimiting: a key is never the prefix of another.
///
/// ```
/// use tidings_protocol::{order::key, Value};
/// assert!(key(&Value::from(1.5)) < key(&Value::from(2.0)));
/// assert!(key(&Value::from(1e9)) < key(&Value::from("a")));
/// ```
pub fn write_key(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(NULL),
        Value::Number(number) => {
            out.push(NUMBER);
            write_number(*number, out);
        }
        Value::String(text) => {
            out.push(STRING);
            write_text(text, out);
        }
        Value::Pointer(pointer) => {
            out.push(POINTER);
            write_text(&pointer.class, out);
            write_text(&pointer.id, out);
        }
        Value::File(file) => {
            out.push(FILE);
            write_text(&file.name, out);
            write_text(file.url.as_deref().unwrap_or_default(), out);
        }
        Value::Object(map) => {
            out.push(OBJECT);
            write_members(map, out, write_key);
        }
        Value::Relation(class) => {
            out.push(RELATION);
            write_text(class, out);
        }
        Value::Polygon(polygon) => {
            out.push(POLYGON);
            for corner in &polygon.0 {
                out.push(NUMBER);
                write_number(corner.longitude, out);
                write_number(corner.latitude, out);
            }
            out.push(END);
        }
        Value::GeoPoint(point) => {
            out.push(GEO_POINT);
            write_number(point.longitude, out);
            write_number(point.latitude, out);
        }
        Value::Array(items) => {
            out.push(ARRAY);
            items.iter().for_each(|item| write_key(item, out));
            out.push(END);
        }
        Value::Bytes(bytes) => {
            out.push(BYTES);
            out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
            out.extend_from_slice(bytes);
        }
        Value::Bool(flag) => out.extend_from_slice(&[BOOL, u8::from(*flag)]),
        Value::Date(date) => {
            out.push(DATE);
            out.extend_from_slice(&(date.millis() ^ i64::MIN).to_be_bytes());
        }
    }
}

pub fn key(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(24);
    write_key(value, &mut out);
    out
}

/// Appends the key of a value as MongoDB compares it inside arrays and objects, where pointers and their like are
/// documents among others.
fn write_inside_key(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Array(items) => {
            out.push(ARRAY);
            items.iter().for_each(|item| write_inside_key(item, out));
            out.push(END);
        }
        value => match value.as_document() {
            Some(document) => {
                out.push(OBJECT);
                write_members(&document, out, write_inside_key);
            }
            None => write_key(value, out),
        },
    }
}

fn inside_key(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(24);
    write_inside_key(value, &mut out);
    out
}

/// Appends a text so that it ends before any longer one: zero bytes are escaped, two zeros end it.
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    for &byte in text.as_bytes() {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

fn write_number(number: f64, out: &mut Vec<u8>) {
    // Adding zero turns −0 into 0. Flipping makes the bits of a double order like an unsigned number.
    let bits = (number + 0.0).to_bits();
    let flipped = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    out.extend_from_slice(&flipped.to_be_bytes());
}

/// As in MongoDB: field by field, first the type, then the name, then the value.
fn write_members(map: &Map, out: &mut Vec<u8>, write: impl Fn(&Value, &mut Vec<u8>)) {
    for (name, value) in map.iter() {
        let at = out.len();
        write(value, out);
        let kind = out[at];
        let encoded = out.split_off(at);
        out.push(kind);
        write_text(name, out);
        out.extend_from_slice(&encoded);
    }
    out.push(END);
}

/// How two values of one type compare; `None` for values of different types, which `$lt` and its kin never match.
pub fn compare_same_type(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.partial_cmp(b),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Date(a), Value::Date(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        (Value::Array(_), Value::Array(_)) | (Value::Object(_), Value::Object(_)) => {
            Some(inside_key(a).cmp(&inside_key(b)))
        }
        _ => (std::mem::discriminant(a) == std::mem::discriminant(b)).then(|| key(a).cmp(&key(b))),
    }
}

/// As [`compare_same_type`], for values inside arrays and objects: documents of all kinds are of one type there.
pub fn compare_inside(a: &Value, b: &Value) -> Option<Ordering> {
    match (a.as_document(), b.as_document()) {
        (Some(_), Some(_)) => Some(inside_key(a).cmp(&inside_key(b))),
        _ => compare_same_type(a, b),
    }
}

/// Appends the key by which a query's order sorts this object; equal objects of an order tie-break by id.
pub fn write_sort_key(object: &Object, order: &[Order], out: &mut Vec<u8>) {
    for Order { path, descending } in order {
        let at = out.len();
        write_sort_component(object, path, *descending, out);
        if *descending {
            out[at..].iter_mut().for_each(|byte| *byte = !*byte);
        }
    }
    write_text(&object.id, out);
}

/// An array sorts by its lowest element, or by its highest when descending.
fn write_sort_component(object: &Object, path: &str, descending: bool, out: &mut Vec<u8>) {
    let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
    let column = object.field(head);
    let mut best = Extreme { descending, key: None };
    match (column.as_deref(), rest) {
        (None, _) => best.consider(NULL_KEY),
        (Some(Value::Array(items)), rest) => best.consider_array(items, rest, None),
        (Some(Value::Object(map)), Some(rest)) => best.consider_path(Some(map), rest, None),
        // Columns of other types have no inside, whatever they are stored as.
        (Some(_), Some(_)) => best.consider(NULL_KEY),
        (Some(value @ Value::Object(_)), None) => best.consider(&inside_key(value)),
        (Some(value), None) => return write_key(value, out),
    }
    out.extend_from_slice(best.key.as_deref().unwrap_or(NULL_KEY));
}

const NULL_KEY: &[u8] = &[NULL];

/// The lowest or highest of what a path finds, by MongoDB's rules for keys of indexes, after which it sorts as well.
/// They are not those by which filters find: what is no object, and an element that lacks the member, counts as null.
struct Extreme {
    descending: bool,
    key: Option<Vec<u8>>,
}

/// What a number as the next part of a path picks from an array, and the path that remains behind it.
struct Picked<'a> {
    found: Found<'a>,
    rest: Option<&'a str>,
    /// Whether an array stands at that number itself: it counts as itself, not as its elements.
    is_array: bool,
}

/// What a path leads to before it ends or meets an array.
type Found<'a> = Option<Cow<'a, Value>>;

impl Extreme {
    fn consider(&mut self, key: &[u8]) {
        let is_better = |best: &Vec<u8>| if self.descending { key > best.as_slice() } else { key < best.as_slice() };
        if self.key.as_ref().is_none_or(is_better) {
            self.key = Some(key.to_vec());
        }
    }

    /// `document` is what stands here, `picked` what the enclosing array holds at the next part of the path.
    fn consider_path(&mut self, document: Option<&Map>, path: &str, picked: Option<&Picked<'_>>) {
        let (head, _) = split(path);
        let (found, rest, is_whole) = match (document.filter(|document| document.contains(head)), picked) {
            (Some(document), _) => {
                let (found, rest) = lead(document, path);
                (found, rest, false)
            }
            (None, Some(picked)) => (picked.found.clone(), picked.rest, picked.is_array),
            (None, None) => (None, None, false),
        };
        match found.as_deref() {
            None => self.consider(NULL_KEY),
            Some(Value::Array(items)) => {
                let whole = found.as_deref().filter(|_| is_whole && rest.is_none());
                self.consider_array(items, rest, whole);
            }
            Some(value) => self.consider(&inside_key(value)),
        }
    }

    /// An array behind which `rest` of the path remains.
    fn consider_array(&mut self, items: &[Value], rest: Option<&str>, whole: Option<&Value>) {
        match rest {
            None if items.is_empty() => self.consider(&[EMPTY_ARRAY]),
            Some(_) if items.is_empty() => self.consider(NULL_KEY),
            None => match whole {
                Some(whole) => self.consider(&inside_key(whole)),
                None => items.iter().for_each(|item| self.consider(&inside_key(item))),
            },
            Some(path) => {
                let picked = pick(items, path);
                for item in items {
                    self.consider_path(item.as_document().as_deref(), path, picked.as_ref());
                }
            }
        }
    }
}

fn split(path: &str) -> (&str, Option<&str>) {
    path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)))
}

fn pick<'a>(items: &'a [Value], path: &'a str) -> Option<Picked<'a>> {
    let (head, rest) = split(path);
    let item = items.get(crate::query::array_index(head)?)?;
    let is_array = matches!(item, Value::Array(_));
    match (rest, item) {
        (None, _) | (Some(_), Value::Array(_)) => Some(Picked { found: Some(Cow::Borrowed(item)), rest, is_array }),
        (Some(rest), item) => {
            let document = item.as_document();
            let (found, rest) = match &document {
                Some(document) => lead(document, rest),
                None => (None, None),
            };
            let found = found.map(|found| Cow::Owned(found.into_owned()));
            Some(Picked { found, rest, is_array })
        }
    }
}

/// Follows a path through objects, until it ends or meets an array; and what of it remains.
fn lead<'a, 'p>(document: &'a Map, path: &'p str) -> (Found<'a>, Option<&'p str>) {
    let (head, rest) = split(path);
    match (document.get(head), rest) {
        (None, _) => (None, None),
        (Some(value @ Value::Array(_)), rest) => (Some(Cow::Borrowed(value)), rest),
        (Some(value), None) => (Some(Cow::Borrowed(value)), None),
        (Some(value), Some(rest)) => match value.as_document() {
            Some(Cow::Borrowed(document)) => lead(document, rest),
            Some(Cow::Owned(document)) => {
                let (found, rest) = lead(&document, rest);
                (found.map(|found| Cow::Owned(found.into_owned())), rest)
            }
            None => (None, None),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: &str) -> Value {
        Value::from_json(json.as_bytes()).unwrap()
    }

    #[test]
    fn byte_order_is_value_order() {
        let ascending = [
            "null",
            "-1e300",
            "-2",
            "-1.5",
            "0",
            "0.5",
            "1",
            "1e300",
            r#""""#,
            r#""\u0000""#,
            r#""\u0000a""#,
            r#""a""#,
            r#""a\u0000""#,
            r#""aa""#,
            r#""b""#,
            "{}",
            r#"{"a":1}"#,
            r#"{"a":2}"#,
            r#"{"b":1}"#,
            r#"{"a":"x"}"#,
            "[]",
            "[1]",
            "[1,2]",
            "[2]",
            "false",
            "true",
            r#"{"__type":"Date","iso":"-271821-04-20T00:00:00.000Z"}"#,
            r#"{"__type":"Date","iso":"-000001-12-31T23:59:59.999Z"}"#,
            r#"{"__type":"Date","iso":"0000-01-01T00:00:00.000Z"}"#,
            r#"{"__type":"Date","iso":"1960-01-01T00:00:00.000Z"}"#,
            r#"{"__type":"Date","iso":"2020-01-01T00:00:00.000Z"}"#,
            r#"{"__type":"Date","iso":"+010000-01-01T00:00:00.000Z"}"#,
            r#"{"__type":"Date","iso":"+275760-09-13T00:00:00.000Z"}"#,
        ];
        for pair in ascending.windows(2) {
            assert!(key(&value(pair[0])) < key(&value(pair[1])), "{} < {}", pair[0], pair[1]);
        }
        assert_eq!(key(&Value::Number(-0.0)), key(&Value::Number(0.0)));
    }

    #[test]
    fn arrays_sort_by_their_extreme_element() {
        let object = |json: &str| Object { fields: Map::from_json(json.as_bytes()).unwrap(), ..Object::default() };
        let sort_key = |json: &str, descending| {
            let mut out = Vec::new();
            write_sort_key(&object(json), &[Order { path: "n".into(), descending }], &mut out);
            out
        };
        assert!(sort_key(r#"{"n":[1,9]}"#, false) < sort_key(r#"{"n":2}"#, false));
        assert!(sort_key(r#"{"n":[1,9]}"#, true) < sort_key(r#"{"n":2}"#, true));
        assert!(sort_key(r#"{"n":[]}"#, false) < sort_key(r#"{}"#, false));
        assert_eq!(sort_key(r#"{"n":null}"#, false), sort_key("{}", false));
        assert!(sort_key(r#"{"n":1}"#, true) < sort_key("{}", true));
    }

    /// Measured on MongoDB 6.0: what of `json` sorts at `path`.
    #[test]
    fn paths_sort_by_what_mongodb_would_put_into_an_index() {
        for (json, path, expected) in [
            (r#"{"o":{"a":2}}"#, "o.a", "2"),
            (r#"{"o":{}}"#, "o.a", "null"),
            (r#"{"o":[{"a":2},{"a":1}]}"#, "o.a", "1"),
            (r#"{"o":[{"a":2},7]}"#, "o.a", "null"),
            (r#"{"o":[{"a":2},{}]}"#, "o.a", "null"),
            (r#"{"o":[]}"#, "o.a", "null"),
            (r#"{"o":[{"a":[]}]}"#, "o.a", "none"),
            (r#"{"o":[5,3]}"#, "o.1", "3"),
            (r#"{"o":[5]}"#, "o.1", "null"),
            (r#"{"o":[[4,3]]}"#, "o.0", "[4,3]"),
            (r#"{"o":[[4,3]]}"#, "o.0.1", "3"),
            (r#"{"o":[[]]}"#, "o.0", "none"),
            (r#"{"o":[{"a":9},{"a":8}]}"#, "o.0.a", "9"),
            (r#"{"o":{"a":{"__type":"Pointer","className":"C","objectId":"x"}}}"#, "o.a.objectId", r#""x""#),
            (r#"{"o":{"__type":"Pointer","className":"C","objectId":"x"}}"#, "o.objectId", "null"),
        ] {
            let object = Object { fields: Map::from_json(json.as_bytes()).unwrap(), ..Object::default() };
            let mut found = Vec::new();
            write_sort_component(&object, path, false, &mut found);
            let expected = if expected == "none" { vec![EMPTY_ARRAY] } else { key(&value(expected)) };
            assert_eq!(found, expected, "{json} {path}");
        }
        let pointer = value(r#"{"a":{"__type":"Pointer","className":"C","objectId":"x"}}"#);
        let later = value(r#"{"a":{"b":1}}"#);
        assert!(inside_key(&later) < inside_key(&pointer), "numbers are before texts");
        assert_eq!(compare_same_type(&later, &pointer), Some(Ordering::Less));
    }
}
