//! Stored bytes: BSON written and read directly, without a document tree in between.
//!
//! Dates are BSON dates, bytes are binaries; every other Parse type is a sub-document with `__type`, as Parse stores
//! values inside arrays and objects. Numbers are stored in the narrowest exact form. The format is
//! <https://bsonspec.org/spec.html>.

use crate::acl::Acl;
use crate::date::Date;
use crate::names::ObjectId;
use crate::object::Object;
use crate::value::{MAX_DEPTH, Map, Value};
use compact_str::CompactString;

const DOUBLE: u8 = 0x01;
const STRING: u8 = 0x02;
const DOCUMENT: u8 = 0x03;
const ARRAY: u8 = 0x04;
const BINARY: u8 = 0x05;
const BOOL: u8 = 0x08;
const DATE: u8 = 0x09;
const NULL: u8 = 0x0a;
const INT32: u8 = 0x10;
const INT64: u8 = 0x12;

/// Bytes that are not what this module writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("malformed BSON")
    }
}

impl std::error::Error for Malformed {}

/// Appends an object as one document: `_id`, `_created_at`, `_updated_at`, `_acl` if it has one, then its fields.
pub fn write_object(object: &Object, out: &mut Vec<u8>) {
    document(out, |out| {
        write_text(STRING, "_id", &object.id, out);
        for (name, date) in [("_created_at", object.created_at), ("_updated_at", object.updated_at)] {
            header(DATE, name, out);
            out.extend_from_slice(&date.millis().to_le_bytes());
        }
        if let Some(acl) = &object.acl {
            header(DOCUMENT, "_acl", out);
            document(out, |out| {
                for grant in acl.grants() {
                    header(INT32, &grant.principal, out);
                    let rights = i32::from(grant.read) | i32::from(grant.write) << 1;
                    out.extend_from_slice(&rights.to_le_bytes());
                }
            });
        }
        for (name, value) in object.fields.iter() {
            write_element(name, value, out);
        }
    });
}

/// # Errors
/// [`Malformed`] for bytes that [`write_object`] did not write.
pub fn read_object(bytes: &[u8]) -> Result<Object, Malformed> {
    let mut object = Object::default();
    let mut fields = Vec::with_capacity(12);
    let mut reader = Reader::document(bytes)?;
    while let Some((kind, name)) = reader.element()? {
        match (name, kind) {
            ("_id", STRING) => object.id = ObjectId::new(reader.text()?),
            ("_created_at", DATE) => object.created_at = reader.date()?,
            ("_updated_at", DATE) => object.updated_at = reader.date()?,
            ("_acl", DOCUMENT) => {
                let mut grants = Reader::document(reader.nested()?)?;
                let mut acl = Acl::default();
                while let Some((INT32, principal)) = grants.element()? {
                    let rights = i32::from_le_bytes(grants.array()?);
                    acl.grant(principal, rights & 1 != 0, rights & 2 != 0);
                }
                object.acl = Some(acl);
            }
            _ => fields.push((CompactString::from(name), reader.value(kind, 0)?)),
        }
    }
    object.fields = Map::from_pairs(fields);
    Ok(object)
}

/// Appends a map as one document.
pub fn write_map(map: &Map, out: &mut Vec<u8>) {
    document(out, |out| map.iter().for_each(|(name, value)| write_element(name, value, out)));
}

/// # Errors
/// [`Malformed`] for bytes that are not a document of Parse values.
pub fn read_map(bytes: &[u8]) -> Result<Map, Malformed> {
    let mut reader = Reader::document(bytes)?;
    reader.map(0)
}

fn document(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    out.push(0);
    let length = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// A name with a zero byte cannot be said in BSON; requests that carry one are refused before.
fn header(kind: u8, name: &str, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend(name.bytes().filter(|byte| *byte != 0));
    out.push(0);
}

fn write_text(kind: u8, name: &str, text: &str, out: &mut Vec<u8>) {
    header(kind, name, out);
    out.extend_from_slice(&(text.len() as u32 + 1).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

fn write_number(name: &str, number: f64, out: &mut Vec<u8>) {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    // −0 is not an integer: it would come back as 0.
    let whole = number.fract() == 0.0 && number.abs() <= EXACT && !(number == 0.0 && number.is_sign_negative());
    if !whole {
        header(DOUBLE, name, out);
        out.extend_from_slice(&number.to_le_bytes());
    } else if let Ok(small) = i32::try_from(number as i64) {
        header(INT32, name, out);
        out.extend_from_slice(&small.to_le_bytes());
    } else {
        header(INT64, name, out);
        out.extend_from_slice(&(number as i64).to_le_bytes());
    }
}

fn write_element(name: &str, value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => header(NULL, name, out),
        Value::Bool(flag) => {
            header(BOOL, name, out);
            out.push(u8::from(*flag));
        }
        Value::Number(number) => write_number(name, *number, out),
        Value::String(text) => write_text(STRING, name, text, out),
        Value::Date(date) => {
            header(DATE, name, out);
            out.extend_from_slice(&date.millis().to_le_bytes());
        }
        Value::Bytes(bytes) => {
            header(BINARY, name, out);
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            out.push(0);
            out.extend_from_slice(bytes);
        }
        Value::Array(items) => {
            header(ARRAY, name, out);
            document(out, |out| {
                for (at, item) in items.iter().enumerate() {
                    write_element(itoa::Buffer::new().format(at), item, out);
                }
            });
        }
        Value::Object(map) => {
            header(DOCUMENT, name, out);
            write_map(map, out);
        }
        Value::Pointer(pointer) => typed(name, "Pointer", out, |out| {
            write_text(STRING, "className", &pointer.class, out);
            write_text(STRING, "objectId", &pointer.id, out);
        }),
        Value::Relation(class) => typed(name, "Relation", out, |out| write_text(STRING, "className", class, out)),
        Value::GeoPoint(point) => typed(name, "GeoPoint", out, |out| {
            write_number("latitude", point.latitude, out);
            write_number("longitude", point.longitude, out);
        }),
        Value::Polygon(polygon) => typed(name, "Polygon", out, |out| {
            let corners =
                polygon.0.iter().map(|corner| Value::Array(vec![corner.latitude.into(), corner.longitude.into()]));
            write_element("coordinates", &Value::Array(corners.collect()), out);
        }),
        Value::File(file) => typed(name, "File", out, |out| {
            write_text(STRING, "name", &file.name, out);
            if let Some(url) = &file.url {
                write_text(STRING, "url", url, out);
            }
        }),
    }
}

fn typed(name: &str, kind: &str, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    header(DOCUMENT, name, out);
    document(out, |out| {
        write_text(STRING, "__type", kind, out);
        write(out);
    });
}

/// A cursor over the elements of one document.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn document(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let length = u32::from_le_bytes(*bytes.first_chunk().ok_or(Malformed)?) as usize;
        if length != bytes.len() || length < 5 || bytes[length - 1] != 0 {
            return Err(Malformed);
        }
        Ok(Self { rest: &bytes[4..length - 1] })
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or(Malformed)?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    fn element(&mut self) -> Result<Option<(u8, &'a str)>, Malformed> {
        let Some((kind, rest)) = self.rest.split_first() else { return Ok(None) };
        let end = rest.iter().position(|byte| *byte == 0).ok_or(Malformed)?;
        let name = std::str::from_utf8(&rest[..end]).map_err(|_| Malformed)?;
        self.rest = &rest[end + 1..];
        Ok(Some((*kind, name)))
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = u32::from_le_bytes(self.array()?) as usize;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes.split_last().ok_or(Malformed)?.1).map_err(|_| Malformed)
    }

    fn date(&mut self) -> Result<Date, Malformed> {
        Date::from_millis(i64::from_le_bytes(self.array()?)).ok_or(Malformed)
    }

    fn nested(&mut self) -> Result<&'a [u8], Malformed> {
        let length = u32::from_le_bytes(*self.rest.first_chunk().ok_or(Malformed)?) as usize;
        self.take(length)
    }

    fn map(&mut self, depth: usize) -> Result<Map, Malformed> {
        if depth > MAX_DEPTH {
            return Err(Malformed);
        }
        let mut pairs = Vec::with_capacity(4);
        while let Some((kind, name)) = self.element()? {
            pairs.push((CompactString::from(name), self.value(kind, depth)?));
        }
        Ok(Map::from_pairs(pairs))
    }

    fn value(&mut self, kind: u8, depth: usize) -> Result<Value, Malformed> {
        Ok(match kind {
            DOUBLE => Value::Number(f64::from_le_bytes(self.array()?)),
            STRING => Value::String(self.text()?.into()),
            DOCUMENT => {
                let map = Self::document(self.nested()?)?.map(depth + 1)?;
                // A plain object that only looks like a typed value stays what it is: a row must always be readable.
                match map.contains("__type").then(|| crate::value::typed_value(&map)) {
                    Some(Ok(typed)) => typed,
                    Some(Err(_)) | None => Value::Object(map),
                }
            }
            ARRAY => {
                if depth >= MAX_DEPTH {
                    return Err(Malformed);
                }
                let mut items = Vec::new();
                let mut reader = Self::document(self.nested()?)?;
                while let Some((kind, _)) = reader.element()? {
                    items.push(reader.value(kind, depth + 1)?);
                }
                Value::Array(items)
            }
            BINARY => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                self.take(1)?;
                Value::Bytes(self.take(length)?.into())
            }
            BOOL => Value::Bool(self.take(1)? == [1]),
            DATE => Value::Date(self.date()?),
            NULL => Value::Null,
            INT32 => Value::Number(f64::from(i32::from_le_bytes(self.array()?))),
            INT64 => Value::Number(i64::from_le_bytes(self.array()?) as f64),
            _ => return Err(Malformed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> Object {
        let json = br#"{"t":"hi","n":1,"big":9007199254740991,"f":1.5,"no":null,"yes":true,"l":[1,[{"a":{}}],"x"],
            "d":{"__type":"Date","iso":"2026-01-02T03:04:05.678Z"},"early":{"__type":"Date","iso":"-271821-04-20"},
            "late":{"__type":"Date","iso":"+275760-09-13"},"b":{"__type":"Bytes","base64":"AAH/"},
            "p":{"__type":"Pointer","className":"C","objectId":"x"},"r":{"__type":"Relation","className":"C"},
            "g":{"__type":"GeoPoint","latitude":1.5,"longitude":2},"fi":{"__type":"File","name":"n","url":"u"},
            "po":{"__type":"Polygon","coordinates":[[0,0],[0,1],[1,1]]},"o":{"deep":{"p":{"__type":"Pointer","className":"C","objectId":"y"}}}}"#;
        Object {
            id: ObjectId::new("abcdefghij"),
            created_at: Date::parse("2026-01-01").unwrap(),
            updated_at: Date::parse("2026-01-02").unwrap(),
            acl: Some(Acl::default().with("*", true, false).with("u", true, true).with("role:R", false, true)),
            fields: Map::from_json(json).unwrap(),
        }
    }

    #[test]
    fn an_object_of_every_type_reads_back() {
        let mut bytes = Vec::new();
        write_object(&object(), &mut bytes);
        assert_eq!(read_object(&bytes), Ok(object()));
    }

    #[test]
    fn other_readers_understand_the_bytes() {
        let mut bytes = Vec::new();
        write_object(&object(), &mut bytes);
        let document: bson::Document = bson::Document::from_reader(bytes.as_slice()).unwrap();
        assert_eq!(document.get_str("t").unwrap(), "hi");
        assert_eq!(document.get_i32("n").unwrap(), 1);
        assert_eq!(document.get_i64("big").unwrap(), 9_007_199_254_740_991);
        assert_eq!(document.get_datetime("_created_at").unwrap().timestamp_millis(), object().created_at.millis());
        assert_eq!(document.get_document("p").unwrap().get_str("__type").unwrap(), "Pointer");
    }

    #[test]
    fn damaged_bytes_never_panic() {
        let mut bytes = Vec::new();
        write_object(&object(), &mut bytes);
        for end in 0..bytes.len() {
            assert_eq!(read_object(&bytes[..end]), Err(Malformed));
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            let _ = read_object(&damaged);
        }
    }
}
