//! Classes as rows of Parse Server's `_SCHEMA` collection, both ways.
//!
//! A row has the class's name as `_id`, each field's type as a text (`string`, `*Class`, `relation<Class>`), and in
//! `_metadata` the class-level permissions, the declared indexes and the options of fields.

use super::documents::{GUEST, GUEST_ID, decode_map, inner, parse_name, pointer_name};
use super::indexes::is_automatic;
use crate::permissions::ClassLevelPermissions;
use crate::schema::{ClassSchema, FieldOptions, FieldType, Index};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use compact_str::CompactString;
use futures_util::TryStreamExt;
use mongodb::Database;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::error::Error;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidings_protocol::{ClassName, Map, Value};

/// Where the rows are.
pub(super) const COLLECTION: &str = "_SCHEMA";

/// What a row's metadata calls the options of fields.
pub(super) const OPTIONS: &str = "fields_options";

/// Members of a row that are no fields.
const NOT_FIELDS: [&str; 6] = ["_id", "_metadata", "_client_permissions", "objectId", "createdAt", "updatedAt"];

/// Every class as its row says it.
pub(super) async fn read(db: &Database) -> Result<BTreeMap<ClassName, Arc<ClassSchema>>, Error> {
    let rows: Vec<Document> = db.collection(COLLECTION).find(doc! {}).await?.try_collect().await?;
    Ok(rows.iter().filter_map(decode).map(|schema| (schema.class.clone(), Arc::new(schema))).collect())
}

pub(super) fn encode(schema: &ClassSchema) -> Document {
    let mut row = doc! {
        "_id": schema.class.as_str(), "objectId": "string", "updatedAt": "string", "createdAt": "string",
    };
    for (name, field_type) in &schema.fields {
        row.insert(name.as_str(), type_text(field_type));
    }
    let mut metadata = doc! { "class_permissions": permissions(&schema.permissions) };
    let mut indexes = doc! { "_id_": { "_id": 1 } };
    for (name, index) in &schema.indexes {
        indexes.insert(name.as_str(), index_keys(index, schema));
    }
    metadata.insert("indexes", indexes);
    if !schema.options.is_empty() {
        let options = schema.options.iter().map(|(name, options)| (name.to_string(), Bson::Document(members(options))));
        metadata.insert(OPTIONS, options.collect::<Document>());
    }
    row.insert("_metadata", metadata);
    row
}

/// The members of a field's options. Values are in the form in which clients send them.
pub(super) fn members(options: &FieldOptions) -> Document {
    options.to_map().iter().map(|(name, value)| (name.to_string(), as_sent(value))).collect()
}

fn as_sent(value: &Value) -> Bson {
    match value {
        Value::Date(date) => doc! { "__type": "Date", "iso": date.to_string() }.into(),
        Value::Bytes(bytes) => doc! { "__type": "Bytes", "base64": BASE64.encode(bytes) }.into(),
        Value::Array(items) => items.iter().map(as_sent).collect::<Vec<_>>().into(),
        Value::Object(map) => {
            map.iter().map(|(name, value)| (name.to_string(), as_sent(value))).collect::<Document>().into()
        }
        other => inner(other),
    }
}

pub(super) fn permissions(permissions: &ClassLevelPermissions) -> Document {
    match inner(&Value::Object(permissions.to_map())) {
        Bson::Document(document) => document,
        _ => Document::new(),
    }
}

/// The key of an index as MongoDB knows it.
pub(super) fn index_keys(index: &Index, schema: &ClassSchema) -> Document {
    let keys = index.fields.iter().map(|field| {
        let direction = if field.descending { -1 } else { 1 };
        (column_name(&field.name, schema), Bson::Int32(direction))
    });
    keys.collect()
}

/// What a field is called in the documents of its class.
pub(super) fn column_name(name: &str, schema: &ClassSchema) -> String {
    match (name, schema.fields.get(name)) {
        ("objectId", _) => "_id".to_owned(),
        ("createdAt", _) => "_created_at".to_owned(),
        ("updatedAt", _) => "_updated_at".to_owned(),
        (GUEST, _) => GUEST_ID.to_owned(),
        (_, Some(FieldType::Pointer(_))) => pointer_name(name),
        _ => name.to_owned(),
    }
}

/// The class of a row; `None` for a row without a name.
///
/// What this version does not know never opens anything: unknown permissions close the class to all but the master key,
/// and unknown types and indexes are left alone.
pub(super) fn decode(row: &Document) -> Option<ClassSchema> {
    let class = ClassName::from_trusted(row.get_str("_id").ok()?);
    let mut schema = ClassSchema::new(class);
    for (name, value) in row {
        let is_field = !NOT_FIELDS.contains(&name.as_str()) && !name.starts_with('_') && name != "ACL";
        if let Some(field_type) = value.as_str().filter(|_| is_field).and_then(field_type) {
            schema.fields.insert(name.as_str().into(), field_type);
        }
    }
    let Ok(metadata) = row.get_document("_metadata") else { return Some(schema) };
    if let Ok(stored) = metadata.get_document("class_permissions") {
        schema.permissions = read_permissions(&schema.class, stored);
    }
    for (name, options) in metadata.get_document(OPTIONS).into_iter().flatten() {
        let options = options.as_document().map(|options| FieldOptions::from_stored(&map(options)));
        if let Some(options) =
            options.filter(|options| !options.is_empty() && schema.fields.contains_key(name.as_str()))
        {
            schema.options.insert(name.as_str().into(), options);
        }
    }
    for (name, keys) in metadata.get_document("indexes").into_iter().flatten() {
        let Some(keys) = keys.as_document().filter(|keys| !is_automatic(name, keys)) else { continue };
        let fields = keys.iter().map(|(name, direction)| {
            let direction = direction.as_i32().map(f64::from).or(direction.as_f64());
            (CompactString::from(parse_name(name)), direction.map_or(Value::Null, Value::Number))
        });
        match Index::from_map(&fields.collect::<Map>()) {
            Ok(index) if name != "_id_" => drop(schema.indexes.insert(name.as_str().into(), index)),
            _ => {}
        }
    }
    Some(schema)
}

fn read_permissions(class: &ClassName, stored: &Document) -> ClassLevelPermissions {
    let permissions = match ClassLevelPermissions::from_map(&map(stored)) {
        Ok(permissions) => permissions,
        Err(error) => {
            tracing::warn!(%class, %error, "these class-level permissions are not understood: the class is closed");
            ClassLevelPermissions::closed()
        }
    };
    if *class == ClassName::USER { permissions.protecting("*", "email") } else { permissions }
}

fn map(stored: &Document) -> Map {
    RawDocumentBuf::try_from(stored).map(|raw| decode_map(&raw)).unwrap_or_default()
}

pub(super) fn type_text(field_type: &FieldType) -> String {
    match field_type {
        FieldType::Pointer(class) => format!("*{class}"),
        FieldType::Relation(class) => format!("relation<{class}>"),
        FieldType::GeoPoint => "geopoint".to_owned(),
        other => other.name().to_lowercase(),
    }
}

fn field_type(text: &str) -> Option<FieldType> {
    if let Some(class) = text.strip_prefix('*') {
        return Some(FieldType::Pointer(ClassName::from_trusted(class)));
    }
    if let Some(class) = text.strip_prefix("relation<").and_then(|rest| rest.strip_suffix('>')) {
        return Some(FieldType::Relation(ClassName::from_trusted(class)));
    }
    Some(match text {
        "string" => FieldType::String,
        "number" => FieldType::Number,
        "boolean" => FieldType::Boolean,
        "date" => FieldType::Date,
        "bytes" => FieldType::Bytes,
        "file" => FieldType::File,
        "geopoint" => FieldType::GeoPoint,
        "polygon" => FieldType::Polygon,
        "array" => FieldType::Array,
        "object" | "map" => FieldType::Object,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str) -> ClassName {
        ClassName::from_trusted(name)
    }

    fn schema() -> ClassSchema {
        let mut schema = ClassSchema::new(class("Message"));
        for (name, field_type) in [
            ("text", FieldType::String),
            ("n", FieldType::Number),
            ("flag", FieldType::Boolean),
            ("at", FieldType::Date),
            ("bytes", FieldType::Bytes),
            ("file", FieldType::File),
            ("place", FieldType::GeoPoint),
            ("area", FieldType::Polygon),
            ("list", FieldType::Array),
            ("o", FieldType::Object),
            ("sender", FieldType::Pointer(ClassName::USER)),
            ("likes", FieldType::Relation(ClassName::USER)),
        ] {
            schema.fields.insert(name.into(), field_type);
        }
        let index = Index::from_map(&tidings_protocol::map! { "sender" => 1.0, "createdAt" => -1.0 }).unwrap();
        schema.indexes.insert("by_sender".into(), index);
        for (name, options) in [
            ("text", r#"{"required":true,"defaultValue":"?"}"#),
            ("at", r#"{"defaultValue":{"__type":"Date","iso":"2026-01-02T03:04:05.678Z"}}"#),
            ("bytes", r#"{"defaultValue":{"__type":"Bytes","base64":"AQI="}}"#),
            ("place", r#"{"defaultValue":{"__type":"GeoPoint","latitude":1,"longitude":2}}"#),
            ("list", r#"{"defaultValue":[1,{"__type":"Date","iso":"2026-01-02T03:04:05.678Z"}]}"#),
            ("sender", r#"{"defaultValue":{"__type":"Pointer","className":"_User","objectId":"u"}}"#),
        ] {
            let options = FieldOptions::from_map(&Map::from_json(options.as_bytes()).unwrap()).unwrap();
            schema.options.insert(name.into(), options);
        }
        schema
    }

    #[test]
    fn a_row_reads_back_as_its_class() {
        let row = encode(&schema());
        assert_eq!(row.get_str("sender").unwrap(), "*_User");
        assert_eq!(row.get_str("likes").unwrap(), "relation<_User>");
        assert_eq!(row.get_str("place").unwrap(), "geopoint");
        let indexes = row.get_document("_metadata").unwrap().get_document("indexes").unwrap();
        assert_eq!(indexes.get_document("by_sender").unwrap(), &doc! { "_p_sender": 1, "_created_at": -1 });
        let options = row.get_document("_metadata").unwrap().get_document(OPTIONS).unwrap();
        assert_eq!(options.get_document("text").unwrap(), &doc! { "required": true, "defaultValue": "?" });
        let sent = doc! { "__type": "Date", "iso": "2026-01-02T03:04:05.678Z" };
        assert_eq!(options.get_document("at").unwrap(), &doc! { "defaultValue": sent });
        assert_eq!(decode(&row), Some(schema()));
        let user = ClassSchema::new(ClassName::USER);
        assert_eq!(decode(&encode(&user)), Some(user));
    }

    #[test]
    fn permissions_that_are_not_understood_close_the_class() {
        use crate::permissions::{Operation, Principals};
        let mut row = encode(&schema());
        let find = |row: &Document| decode(row).unwrap().permissions.check(Operation::Find, &Principals::ANONYMOUS);
        assert!(find(&row).is_ok());
        row.get_document_mut("_metadata").unwrap().remove("class_permissions");
        assert!(find(&row).is_ok(), "nothing stored is public, as in Parse");
        let unknown = doc! { "find": { "*": true, "pointerFields": ["owner"] } };
        row.get_document_mut("_metadata").unwrap().insert("class_permissions", unknown);
        assert!(find(&row).is_err());
    }

    #[test]
    fn what_parse_server_writes_is_read() {
        let row = doc! {
            "_id": "Old", "objectId": "string", "updatedAt": "string", "createdAt": "string", "m": "map", "odd": "wat",
            "_metadata": {
                "fields_options": { "m": { "required": false } },
                "indexes": {
                    "_id_": { "_id": 1 }, "t": { "text": "text" }, "by_m": { "m": 1.0 },
                    // Parse Server lists all that it finds when it starts.
                    "_created_at_1": { "_created_at": 1 }, "_p_m_1__created_at_1": { "_p_m": 1, "_created_at": 1 },
                },
            },
        };
        let schema = decode(&row).unwrap();
        assert_eq!(schema.fields.len(), 1);
        assert_eq!(schema.fields.get("m"), Some(&FieldType::Object));
        assert_eq!(schema.indexes.keys().collect::<Vec<_>>(), ["by_m"]);
    }
}
