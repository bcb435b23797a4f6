//! Values as JSON, read straight into [`Value`] and written straight from it; no generic tree stands between.

use super::typed::{base64_encode, typed_value};
use super::{MAX_DEPTH, Map, Value};
use crate::error::{Error, Result};
use compact_str::CompactString;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::cell::RefCell;
use std::fmt;

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
}

impl Map {
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

    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (at, (name, value)) in self.iter().enumerate() {
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
        if typed { typed_value(&map).map_err(|error| self.fail(error)) } else { Ok(Value::Object(map)) }
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
}
