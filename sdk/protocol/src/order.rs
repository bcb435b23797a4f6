//! How values compare: one byte encoding whose byte order is the order of values.
//!
//! Index keys, sort keys, the postings of live queries and the identity of filters all use it, so that they cannot
//! disagree. Types order as in MongoDB: null < numbers < strings < objects < arrays < bytes < booleans < dates. Numbers
//! that are equal encode equally; so do all values that `==` calls equal.

use crate::object::Object;
use crate::query::Order;
use crate::value::{Map, Value};
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
            write_map(map, out);
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
fn write_map(map: &Map, out: &mut Vec<u8>) {
    for (name, value) in map.iter() {
        let at = out.len();
        write_key(value, out);
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
        _ => (std::mem::discriminant(a) == std::mem::discriminant(b)).then(|| key(a).cmp(&key(b))),
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
    let mut best: Option<Vec<u8>> = None;
    let mut consider = |value: &Value| {
        let candidate = key(value);
        let better = best.as_ref().is_none_or(|best| if descending { candidate > *best } else { candidate < *best });
        if better {
            best = Some(candidate);
        }
    };
    let mut empty_array = false;
    crate::query::visit_path(object, path, &mut |found| {
        match found {
            Some(Value::Array(items)) if items.is_empty() => empty_array = true,
            Some(Value::Array(items)) => items.iter().for_each(&mut consider),
            Some(value) => consider(value),
            None => consider(&Value::Null),
        }
        false
    });
    match best {
        Some(best) => out.extend_from_slice(&best),
        None => out.push(if empty_array { EMPTY_ARRAY } else { NULL }),
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
            r#"{"__type":"Date","iso":"1960-01-01T00:00:00.000Z"}"#,
            r#"{"__type":"Date","iso":"2020-01-01T00:00:00.000Z"}"#,
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
}
