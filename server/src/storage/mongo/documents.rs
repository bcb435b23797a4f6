//! Objects as Parse Server's documents, both ways.
//!
//! | in Parse | in a document |
//! | --- | --- |
//! | objectId, createdAt, updatedAt | `_id`, `_created_at`, `_updated_at` |
//! | ACL | `_rperm` and `_wperm`, who may read and write; `_acl`, the same as older clients wrote it |
//! | a pointer column `x` | `_p_x`: `"Class$id"` |
//! | a GeoPoint, Polygon or File column | `[longitude, latitude]`, GeoJSON, the file's name |
//! | Date and Bytes, anywhere | a date, a binary |
//! | the id of an anonymous guest | `{id}` in `_auth_data_anonymous` |
//! | any other Parse type inside an array or object | a document with `__type` |
//!
//! Only the schema tells a GeoPoint from an array or a file from a text, so decoding needs it.

use super::errors::Malformed;
use crate::schema::{ClassSchema, FieldType};
use crate::storage::limits::{MAX_ID, check_depth, too_large};
use compact_str::{CompactString, format_compact};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::borrow::Cow;
use tidings_protocol::acl::PUBLIC;
use tidings_protocol::names::is_internal_field;
use tidings_protocol::value::{File, GeoPoint, Map, Polygon, typed_value};
use tidings_protocol::{Acl, ClassName, Date, Error, Object, ObjectId, Value};

/// How pointer columns are called in documents.
const POINTER: &str = "_p_";
/// The internal field that holds the id of an anonymous guest: here a text, in a document `{id: "…"}`.
pub(super) const GUEST: &str = "_auth_data_anonymous";
/// Where a document holds that id.
pub(super) const GUEST_ID: &str = "_auth_data_anonymous.id";

/// What JavaScript's `encodeURIComponent` escapes, with which Parse Server makes the address of a file.
const RESERVED: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// The document of an object.
pub(super) fn encode(object: &Object, schema: Option<&ClassSchema>) -> Document {
    let mut document = doc! {
        "_id": object.id.as_str(),
        "_created_at": date(object.created_at),
        "_updated_at": date(object.updated_at),
    };
    for (name, permission) in acl(object.acl.as_ref()) {
        if let Some(permission) = permission {
            document.insert(name, permission);
        }
    }
    for (name, value) in object.fields.iter() {
        let column = schema.and_then(|schema| schema.fields.get(name.as_str()));
        if let Some(stored) = field(name, value) {
            document.insert(stored_name(name, value, column), stored);
        }
    }
    document
}

/// The document of an object that is to be stored.
///
/// # Errors
/// 107 or 116 for an object that must not be: it nests too deeply, has names that cannot be stored, or is too large.
pub(super) fn bounded(object: &Object, schema: Option<&ClassSchema>, bytes: usize) -> Result<RawDocumentBuf, Error> {
    check_depth(object)?;
    let document = RawDocumentBuf::try_from(&encode(object, schema))
        .map_err(|_| Error::invalid_json("The object holds a name that cannot be stored."))?;
    if document.as_bytes().len() > bytes { Err(too_large("object", bytes)) } else { Ok(document) }
}

/// The members that say who may read and write; `None` for those that a public object does not have.
pub(super) fn acl(acl: Option<&Acl>) -> [(&'static str, Option<Bson>); 3] {
    let Some(acl) = acl else { return [("_rperm", None), ("_wperm", None), ("_acl", None)] };
    let (mut readers, mut writers, mut legacy) = (Vec::new(), Vec::new(), Document::new());
    for grant in acl.grants() {
        let mut rights = Document::new();
        if grant.read {
            readers.push(Bson::from(grant.principal.as_str()));
            rights.insert("r", true);
        }
        if grant.write {
            writers.push(Bson::from(grant.principal.as_str()));
            rights.insert("w", true);
        }
        legacy.insert(grant.principal.as_str(), rights);
    }
    [("_rperm", Some(readers.into())), ("_wperm", Some(writers.into())), ("_acl", Some(legacy.into()))]
}

/// What a field is called in documents, given a value that it holds and its column.
pub(super) fn stored_name<'a>(name: &'a str, value: &Value, column: Option<&FieldType>) -> Cow<'a, str> {
    let is_pointer = matches!(value, Value::Pointer(_)) || matches!(column, Some(FieldType::Pointer(_)));
    if is_pointer && !is_internal_field(name) { pointer_name(name).into() } else { name.into() }
}

pub(super) fn pointer_name(name: &str) -> String {
    format!("{POINTER}{name}")
}

pub(super) fn is_pointer_name(stored: &str) -> bool {
    stored.starts_with(POINTER)
}

/// The name that a field of a document has in Parse.
pub(super) fn parse_name(stored: &str) -> &str {
    match stored {
        "_id" => "objectId",
        "_created_at" => "createdAt",
        "_updated_at" => "updatedAt",
        GUEST_ID => GUEST,
        _ => stored.strip_prefix(POINTER).unwrap_or(stored),
    }
}

/// The value of a field as its document holds it; `None` for what documents do not hold (the members of a relation
/// have a collection of their own).
pub(super) fn field(name: &str, value: &Value) -> Option<Bson> {
    match value {
        Value::String(id) if name == GUEST => return Some(doc! { "id": id.as_str() }.into()),
        value if is_internal_field(name) => return Some(inner(value)),
        _ => {}
    }
    Some(match value {
        Value::Relation(_) => return None,
        Value::Pointer(pointer) => Bson::String(pointer_text(&pointer.class, &pointer.id)),
        Value::GeoPoint(point) => vec![number(point.longitude), number(point.latitude)].into(),
        Value::Polygon(polygon) => {
            let corner = |corner: &GeoPoint| Bson::from(vec![number(corner.longitude), number(corner.latitude)]);
            let ring: Vec<Bson> = polygon.0.iter().map(corner).collect();
            doc! { "type": "Polygon", "coordinates": [ring] }.into()
        }
        Value::File(file) => file.name.as_str().into(),
        other => inner(other),
    })
}

pub(super) fn pointer_text(class: &str, id: &str) -> String {
    format!("{class}${id}")
}

/// A value inside an array or an object.
pub(super) fn inner(value: &Value) -> Bson {
    match value {
        Value::Null => Bson::Null,
        Value::Bool(flag) => (*flag).into(),
        Value::Number(value) => number(*value),
        Value::String(text) => text.as_str().into(),
        Value::Date(value) => date(*value).into(),
        Value::Bytes(bytes) => Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() }.into(),
        Value::Array(items) => items.iter().map(inner).collect::<Vec<_>>().into(),
        Value::Object(map) => {
            let members = map.iter().map(|(name, value)| (name.to_string(), inner(value)));
            Document::from_iter(members).into()
        }
        Value::Pointer(pointer) => {
            doc! { "__type": "Pointer", "className": pointer.class.as_str(), "objectId": pointer.id.as_str() }.into()
        }
        Value::Relation(class) => doc! { "__type": "Relation", "className": class.as_str() }.into(),
        Value::GeoPoint(point) => {
            let (latitude, longitude) = (number(point.latitude), number(point.longitude));
            doc! { "__type": "GeoPoint", "latitude": latitude, "longitude": longitude }.into()
        }
        Value::Polygon(polygon) => {
            let corner = |corner: &GeoPoint| Bson::from(vec![number(corner.latitude), number(corner.longitude)]);
            let ring: Vec<Bson> = polygon.0.iter().map(corner).collect();
            doc! { "__type": "Polygon", "coordinates": ring }.into()
        }
        Value::File(file) => {
            let mut document = doc! { "__type": "File", "name": file.name.as_str() };
            if let Some(url) = &file.url {
                document.insert("url", url.as_str());
            }
            document.into()
        }
    }
}

/// As JavaScript drivers write it: an integer where it fits 32 bits, else a double.
fn number(value: f64) -> Bson {
    let is_negative_zero = value == 0.0 && value.is_sign_negative();
    match value as i32 {
        whole if f64::from(whole) == value && !is_negative_zero => Bson::Int32(whole),
        _ => Bson::Double(value),
    }
}

pub(super) fn date(date: Date) -> DateTime {
    DateTime::from_millis(date.millis())
}

/// The object of a document. The addresses of its files begin with `files_url`.
///
/// # Errors
/// [`Malformed`] for bytes that are no document, and for an `_id` that is no object's.
pub(super) fn decode(
    document: &RawDocument,
    schema: Option<&ClassSchema>,
    files_url: Option<&str>,
) -> Result<Object, Malformed> {
    let mut object = Object::default();
    let mut fields: Vec<(CompactString, Value)> = Vec::with_capacity(12);
    let (mut readers, mut writers, mut legacy) = (None, None, None);
    let (mut pointers, mut has_nulls) = (Vec::new(), false);
    for element in document.iter() {
        let (name, value) = element.map_err(|_| Malformed("a document cannot be read"))?;
        match (name.as_str(), value) {
            ("_id", value) => object.id = id(value)?,
            ("_created_at", RawBsonRef::DateTime(at)) => object.created_at = parse_date(at),
            ("_updated_at", RawBsonRef::DateTime(at)) => object.updated_at = parse_date(at),
            ("_rperm", RawBsonRef::Array(names)) => readers = Some(texts(names)),
            ("_wperm", RawBsonRef::Array(names)) => writers = Some(texts(names)),
            ("_acl", RawBsonRef::Document(grants)) => legacy = Some(grants),
            ("_rperm" | "_wperm" | "_acl" | "_created_at" | "_updated_at", _) => {}
            (GUEST, RawBsonRef::Document(guest)) => {
                let value = guest.get_str("id").map_or_else(|_| parse(value), |id| Value::String(id.into()));
                fields.push((GUEST.into(), value));
            }
            (name, value) => match name.strip_prefix(POINTER) {
                Some(name) => {
                    pointers.push(fields.len());
                    fields.push((name.into(), pointer(value)));
                }
                None => {
                    let column = schema.and_then(|schema| schema.fields.get(name));
                    has_nulls |= value == RawBsonRef::Null;
                    fields.push((name.into(), column_value(value, column, files_url)));
                }
            },
        }
    }
    // A null from before the column was a pointer's may stand beside the pointer.
    if !has_nulls {
        pointers.clear();
    }
    for at in pointers {
        let name = fields[at].0.clone();
        let mut index = 0;
        fields.retain(|(known, _)| {
            index += 1;
            *known != name || index == at + 1
        });
    }
    object.acl = parse_acl(readers, writers, legacy);
    object.fields = Map::from_pairs(fields);
    // The members of a relation are in a collection of their own; that there is one is said on every object of the class.
    for (name, class) in schema.into_iter().flat_map(ClassSchema::relation_fields) {
        object.fields.insert(name.clone(), Value::Relation(Box::new(class.clone())));
    }
    Ok(object)
}

fn id(value: RawBsonRef<'_>) -> Result<ObjectId, Malformed> {
    match value {
        RawBsonRef::String(id) if !id.is_empty() && id.len() <= MAX_ID => Ok(ObjectId::new(id)),
        RawBsonRef::ObjectId(id) => Ok(ObjectId::new(id.to_hex())),
        _ => Err(Malformed("a document has an _id that no object has")),
    }
}

fn texts(names: &mongodb::bson::RawArray) -> Vec<CompactString> {
    names.into_iter().flatten().filter_map(|name| name.as_str().map(CompactString::from)).collect()
}

/// No permissions at all are public. Where only one of the two is there, Parse Server's queries take the other as open.
fn parse_acl(
    readers: Option<Vec<CompactString>>,
    writers: Option<Vec<CompactString>>,
    legacy: Option<&RawDocument>,
) -> Option<Acl> {
    if readers.is_none() && writers.is_none() {
        return None;
    }
    let open = || vec![CompactString::from(PUBLIC)];
    let (readers, writers) = (readers.unwrap_or_else(open), writers.unwrap_or_else(open));
    let mut acl = Acl::default();
    // The lists do not say in which order the grants were made; the older notation does.
    let known = legacy.into_iter().flat_map(|legacy| legacy.iter().flatten()).map(|(name, _)| name.as_str());
    for name in known.chain(readers.iter().map(|name| &**name)).chain(writers.iter().map(|name| &**name)) {
        let among = |names: &[CompactString]| names.iter().any(|known| known == name);
        acl.grant(name, among(&readers), among(&writers));
    }
    Some(acl)
}

fn pointer(value: RawBsonRef<'_>) -> Value {
    let parts = value.as_str().and_then(|text| text.split_once('$'));
    parts.map_or(Value::Null, |(class, id)| Value::pointer(ClassName::from_trusted(class), ObjectId::new(id)))
}

fn column_value(value: RawBsonRef<'_>, column: Option<&FieldType>, files_url: Option<&str>) -> Value {
    let parsed = match (column, value) {
        (Some(FieldType::File), RawBsonRef::String(name)) => {
            Some(Value::File(Box::new(File { name: name.into(), url: address(name, files_url) })))
        }
        (Some(FieldType::GeoPoint), RawBsonRef::Array(_)) => geo_point(&parse(value)),
        (Some(FieldType::Polygon), RawBsonRef::Document(_)) => polygon(&parse(value)),
        _ => None,
    };
    parsed.unwrap_or_else(|| parse(value))
}

/// Where a file is found; `None` if that is not known.
pub(super) fn address(name: &str, files_url: Option<&str>) -> Option<CompactString> {
    files_url.map(|files| format_compact!("{files}{}", utf8_percent_encode(name, &RESERVED)))
}

/// A value that came without its document, out of this column.
pub(super) fn decode_value(value: RawBsonRef<'_>, column: &FieldType, files_url: Option<&str>) -> Value {
    match column {
        FieldType::Pointer(_) => pointer(value),
        column => column_value(value, Some(column), files_url),
    }
}

fn geo_point(value: &Value) -> Option<Value> {
    corner(value).map(|point| Value::GeoPoint(Box::new(point)))
}

fn corner(value: &Value) -> Option<GeoPoint> {
    match value.as_array()? {
        [Value::Number(longitude), Value::Number(latitude)] => GeoPoint::new(*latitude, *longitude),
        _ => None,
    }
}

fn polygon(value: &Value) -> Option<Value> {
    let rings = value.as_object()?.get("coordinates")?.as_array()?;
    let corners = rings.first()?.as_array()?.iter().map(corner).collect::<Option<Vec<_>>>()?;
    Polygon::closed(corners).map(|polygon| Value::Polygon(Box::new(polygon)))
}

/// A value as it stands in a document, whatever column it is in. What Parse cannot say becomes null, or a text.
fn parse(value: RawBsonRef<'_>) -> Value {
    match value {
        RawBsonRef::Boolean(flag) => Value::Bool(flag),
        RawBsonRef::Int32(number) => Value::Number(number.into()),
        RawBsonRef::Int64(number) => Value::Number(number as f64),
        RawBsonRef::Double(number) if number.is_finite() => Value::Number(number),
        RawBsonRef::Decimal128(number) => {
            let number = number.to_string().parse().ok().filter(|number: &f64| number.is_finite());
            number.map_or(Value::Null, Value::Number)
        }
        RawBsonRef::String(text) | RawBsonRef::Symbol(text) => Value::String(text.into()),
        RawBsonRef::ObjectId(id) => Value::String(id.to_hex().into()),
        RawBsonRef::DateTime(at) => Value::Date(parse_date(at)),
        RawBsonRef::Binary(binary) => Value::Bytes(binary.bytes.into()),
        RawBsonRef::Array(items) => Value::Array(items.into_iter().flatten().map(parse).collect()),
        RawBsonRef::Document(document) => {
            let map = decode_map(document);
            // A whole object that Parse Server was sent stays what it is: it is not found by its pointer either.
            let kind = map.get("__type").filter(|kind| kind.as_str() != Some("Object"));
            let typed = kind.and_then(|_| typed_value(&map).ok());
            typed.unwrap_or(Value::Object(map))
        }
        _ => Value::Null,
    }
}

/// A document as plain values.
pub(super) fn decode_map(document: &RawDocument) -> Map {
    document.iter().flatten().map(|(name, value)| (name.as_str().into(), parse(value))).collect()
}

/// Dates beyond those of JavaScript come as the nearest of them.
fn parse_date(at: DateTime) -> Date {
    let millis = at.timestamp_millis().clamp(Date::MIN.millis(), Date::MAX.millis());
    Date::from_millis(millis).unwrap_or_default()
}

/// Whether a value holds what can be stored with its members in more than one order.
pub(super) fn has_many_forms(value: &Value) -> bool {
    match value {
        Value::GeoPoint(_) | Value::Polygon(_) | Value::File(_) | Value::Relation(_) => true,
        Value::Array(items) => items.iter().any(has_many_forms),
        Value::Object(map) => map.iter().any(|(_, value)| has_many_forms(value)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: Option<&str> = Some("http://here/files/app/");

    fn schema() -> ClassSchema {
        let mut schema = ClassSchema::new(ClassName::from_trusted("Note"));
        for (name, field_type) in [
            ("p", FieldType::Pointer(ClassName::from_trusted("C"))),
            ("g", FieldType::GeoPoint),
            ("area", FieldType::Polygon),
            ("f", FieldType::File),
            ("text", FieldType::String),
            ("list", FieldType::Array),
        ] {
            schema.fields.insert(name.into(), field_type);
        }
        schema
    }

    fn object(json: &str) -> Object {
        Object { id: ObjectId::new("x"), fields: Map::from_json(json.as_bytes()).unwrap(), ..Object::default() }
    }

    fn read(document: &Document) -> Object {
        decode(&RawDocumentBuf::try_from(document).unwrap(), Some(&schema()), FILES).unwrap()
    }

    /// What an object is in a document, and that it reads back.
    #[track_caller]
    fn check(json: &str, expected: Document) {
        let object = object(json);
        let mut document = encode(&object, Some(&schema()));
        assert_eq!(read(&document), object, "{document}");
        for name in ["_id", "_created_at", "_updated_at"] {
            document.remove(name);
        }
        assert_eq!(document, expected);
    }

    #[test]
    fn every_type_has_parses_form_and_reads_back() {
        check(
            r#"{"text":"a","n":1,"x":1.5,"big":3000000000,"b":true,"z":null}"#,
            doc! { "text": "a", "n": 1, "x": 1.5, "big": 3e9, "b": true, "z": null },
        );
        check(
            r#"{"d":{"__type":"Date","iso":"2026-01-02T03:04:05.678Z"}}"#,
            doc! { "d": DateTime::from_millis(1_767_323_045_678) },
        );
        check(
            r#"{"d":{"__type":"Date","iso":"-271821-04-20T00:00:00.000Z"}}"#,
            doc! { "d": DateTime::from_millis(-8_640_000_000_000_000) },
        );
        check(
            r#"{"d":{"__type":"Date","iso":"+275760-09-13T00:00:00.000Z"}}"#,
            doc! { "d": DateTime::from_millis(8_640_000_000_000_000) },
        );
        check(
            r#"{"y":{"__type":"Bytes","base64":"AQI="}}"#,
            doc! { "y": Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2] } },
        );
        check(r#"{"p":{"__type":"Pointer","className":"C","objectId":"c$1"}}"#, doc! { "_p_p": "C$c$1" });
        check(r#"{"p":null}"#, doc! { "_p_p": null });
        check(r#"{"g":{"__type":"GeoPoint","latitude":1,"longitude":2.5}}"#, doc! { "g": [2.5, 1] });
        check(
            r#"{"f":{"__type":"File","name":"a b (1).png","url":"http://here/files/app/a%20b%20(1).png"}}"#,
            doc! { "f": "a b (1).png" },
        );
        check(
            r#"{"area":{"__type":"Polygon","coordinates":[[0,1],[2,3],[4,0],[0,1]]}}"#,
            doc! { "area": { "type": "Polygon", "coordinates": [[[1, 0], [3, 2], [0, 4], [1, 0]]] } },
        );
        check(r#"{"_hashed_password":"$2b$"}"#, doc! { "_hashed_password": "$2b$" });
        check(r#"{"_auth_data_anonymous":"1"}"#, doc! { "_auth_data_anonymous": { "id": "1" } });
        check(r#"{"_auth_data_other":{"id":"1","x":2}}"#, doc! { "_auth_data_other": { "id": "1", "x": 2 } });
    }

    #[test]
    fn inside_arrays_and_objects_types_are_named() {
        check(
            r#"{"list":[{"__type":"Pointer","className":"C","objectId":"c"},{"__type":"GeoPoint","latitude":1,"longitude":2},{"__type":"Date","iso":"1970-01-01T00:00:00.001Z"},{"__type":"Bytes","base64":"AQ=="},[null]]}"#,
            doc! { "list": [
                { "__type": "Pointer", "className": "C", "objectId": "c" },
                { "__type": "GeoPoint", "latitude": 1, "longitude": 2 },
                DateTime::from_millis(1),
                Binary { subtype: BinarySubtype::Generic, bytes: vec![1] },
                [null],
            ] },
        );
        check(
            r#"{"o":{"f":{"__type":"File","name":"a","url":"http://x/a"},"deep":{"r":{"__type":"Relation","className":"C"}}}}"#,
            doc! { "o": {
                "f": { "__type": "File", "name": "a", "url": "http://x/a" },
                "deep": { "r": { "__type": "Relation", "className": "C" } },
            } },
        );
    }

    #[test]
    fn relations_are_on_every_object() {
        let mut schema = schema();
        schema.fields.insert("fans".into(), FieldType::Relation(ClassName::USER));
        let document = RawDocumentBuf::try_from(&doc! { "_id": "x", "text": "a", "fans": 5 }).unwrap();
        let object = decode(&document, Some(&schema), FILES).unwrap();
        let expected = r#"{"text":"a","fans":{"__type":"Relation","className":"_User"}}"#;
        assert_eq!(object.fields.to_json(), expected);
        assert!(!encode(&object, Some(&schema)).contains_key("fans"));
    }

    #[test]
    fn access_is_in_two_lists() {
        let acl = Acl::default().with("role:A", false, true).with("*", true, false).with("u", true, true);
        let object = Object { acl: Some(acl), ..object("{}") };
        let document = encode(&object, None);
        assert_eq!(document.get_array("_rperm").unwrap(), &vec![Bson::from("*"), "u".into()]);
        assert_eq!(document.get_array("_wperm").unwrap(), &vec![Bson::from("role:A"), "u".into()]);
        assert_eq!(read(&document), object, "the order of the grants survives");
        let nobody = Object { acl: Some(Acl::default()), ..self::object("{}") };
        assert_eq!(read(&encode(&nobody, None)).acl, Some(Acl::default()));
        let half = read(&doc! { "_id": "x", "_rperm": ["u"] }).acl.unwrap();
        assert_eq!(half, Acl::default().with("u", true, false).with("*", false, true));
    }

    #[test]
    fn what_others_wrote_is_read_as_well_as_it_goes() {
        let object = read(&doc! { "_id": "x", "p": null, "_p_p": "C$c", "n": 5_i64, "f": 7, "odd": f64::NAN });
        assert_eq!(
            object.fields.to_json(),
            r#"{"p":{"__type":"Pointer","className":"C","objectId":"c"},"n":5,"f":7,"odd":null}"#
        );
        let strange = RawDocumentBuf::try_from(&doc! { "_id": 1 }).unwrap();
        assert!(decode(&strange, None, FILES).is_err());
    }
}
