//! What no store keeps, whatever it could: the bounds of ids, objects and commits.

use tidings_protocol::value::{MAX_DEPTH, Value};
use tidings_protocol::{Code, Error, Object};

/// The longest object id, in bytes: ids are part of keys.
pub(super) const MAX_ID: usize = 255;

/// # Errors
/// 104 for an id that is empty or too long.
pub(super) fn check_id(id: &str) -> Result<(), Error> {
    if id.is_empty() || id.len() > MAX_ID {
        return Err(Error::new(Code::MissingObjectId, format!("An objectId has 1 to {MAX_ID} bytes.")));
    }
    Ok(())
}

pub(super) fn too_large(what: &str, limit: usize) -> Error {
    Error::new(Code::ObjectTooLarge, format!("The {what} is too large: at most {limit} bytes."))
}

/// # Errors
/// 107 for an object that nests deeper than it could be read again. Bodies are bounded by themselves, but an operation
/// can put one value deep into another.
pub(super) fn check_depth(object: &Object) -> Result<(), Error> {
    match is_too_deep(object) {
        true => Err(Error::invalid_json("The object nests too deeply.")),
        false => Ok(()),
    }
}

pub(super) fn is_too_deep(object: &Object) -> bool {
    object.fields.iter().any(|(_, value)| exceeds(value, MAX_DEPTH - 1))
}

fn exceeds(value: &Value, room: usize) -> bool {
    match value {
        Value::Array(items) => room == 0 || items.iter().any(|value| exceeds(value, room - 1)),
        Value::Object(map) => room == 0 || map.iter().any(|(_, value)| exceeds(value, room - 1)),
        // Documents themselves, when stored.
        Value::Pointer(_) | Value::Relation(_) | Value::GeoPoint(_) | Value::File(_) => room == 0,
        Value::Polygon(_) => room < 3,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Date(_) | Value::Bytes(_) => false,
    }
}
