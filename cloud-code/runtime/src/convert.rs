//! Between Parse's values and rhai's.
//!
//! Whole numbers become integers, others floats; both become Parse's one number. Dates, pointers, ACLs and the rarer
//! types are host types, which cost less than maps and cannot be mistaken for them.

use crate::api::{AclRef, DateRef, ObjectRef, PointerRef, raise};
use crate::engine::{Raised, charge};
use compact_str::CompactString;
use rhai::{Array, Blob, Dynamic, FLOAT, INT, ImmutableString, Map as ScriptMap};
use tidings_protocol::value::MAX_DEPTH;
use tidings_protocol::{Code, Error, Map, Value};

/// A value that scripts only pass on: a relation, polygon, file or point.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Opaque(pub(crate) Value);

/// Whole numbers up to here are exact in a double.
const EXACT: f64 = 9_007_199_254_740_992.0;

pub(crate) fn to_dynamic(value: &Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(flag) => (*flag).into(),
        Value::Number(number) if number.fract() == 0.0 && number.abs() <= EXACT => (*number as INT).into(),
        Value::Number(number) => (*number as FLOAT).into(),
        Value::String(text) => text.as_str().into(),
        Value::Date(date) => Dynamic::from(DateRef(*date)),
        Value::Bytes(bytes) => Dynamic::from_blob(bytes.to_vec()),
        Value::Pointer(pointer) => Dynamic::from(PointerRef((**pointer).clone())),
        Value::Relation(_) | Value::GeoPoint(_) | Value::Polygon(_) | Value::File(_) => {
            Dynamic::from(Opaque(value.clone()))
        }
        Value::Array(items) => Dynamic::from_array(items.iter().map(to_dynamic).collect()),
        Value::Object(map) => to_map(map).into(),
    }
}

pub(crate) fn to_map(map: &Map) -> ScriptMap {
    map.iter().map(|(name, value)| (name.as_str().into(), to_dynamic(value))).collect()
}

/// # Errors
/// Raises 111 for what cannot be stored, 121 for a key that cannot be nested.
pub(crate) fn from_dynamic(value: &Dynamic) -> Raised<Value> {
    let value = read(value, 0)?;
    charge(value.weight())?;
    Ok(value)
}

fn read(value: &Dynamic, depth: usize) -> Raised<Value> {
    if depth > MAX_DEPTH {
        return Err(raise(Error::invalid_json("The value is nested too deep.")));
    }
    if value.is_unit() {
        return Ok(Value::Null);
    }
    if let Ok(flag) = value.as_bool() {
        return Ok(Value::Bool(flag));
    }
    if let Ok(number) = value.as_int() {
        return Ok(Value::Number(number as f64));
    }
    if let Ok(number) = value.as_float() {
        if !number.is_finite() {
            return Err(raise(Error::incorrect_type("A number must be finite.")));
        }
        return Ok(Value::Number(number));
    }
    if let Some(text) = value.read_lock::<ImmutableString>() {
        return Ok(Value::String(CompactString::from(text.as_str())));
    }
    if let Ok(letter) = value.as_char() {
        return Ok(Value::String(compact_str::format_compact!("{letter}")));
    }
    if let Some(items) = value.read_lock::<Array>() {
        return Ok(Value::Array(items.iter().map(|item| read(item, depth + 1)).collect::<Raised<_>>()?));
    }
    if let Some(map) = value.read_lock::<ScriptMap>() {
        return Ok(Value::Object(read_map(&map, depth)?));
    }
    if let Some(bytes) = value.read_lock::<Blob>() {
        return Ok(Value::Bytes(bytes.as_slice().into()));
    }
    if let Some(date) = value.read_lock::<DateRef>() {
        return Ok(Value::Date(date.0));
    }
    if let Some(pointer) = value.read_lock::<PointerRef>() {
        return Ok(Value::Pointer(Box::new(pointer.0.clone())));
    }
    if let Some(object) = value.read_lock::<ObjectRef>() {
        return Ok(Value::Pointer(Box::new(object.pointer()?)));
    }
    if let Some(opaque) = value.read_lock::<Opaque>() {
        return Ok(opaque.0.clone());
    }
    if let Some(acl) = value.read_lock::<AclRef>() {
        return Ok(acl.0.to_value());
    }
    Err(raise(Error::incorrect_type(format!("A {} cannot be stored.", short_type_name(value)))))
}

pub(crate) fn read_map(map: &ScriptMap, depth: usize) -> Raised<Map> {
    let mut pairs = Vec::with_capacity(map.len());
    for (name, value) in map {
        if name.contains(['$', '.', '\0']) {
            let text = "Nested keys should not contain the '$' or '.' characters";
            return Err(raise(Error::new(Code::InvalidNestedKey, text)));
        }
        if name.starts_with("__") {
            let text = "Keys that begin with __ are the protocol's: use pointer(), date() and the like.";
            return Err(raise(Error::new(Code::InvalidNestedKey, text)));
        }
        pairs.push((CompactString::from(name.as_str()), read(value, depth + 1)?));
    }
    Ok(Map::from_pairs(pairs))
}

/// `Date` for `tidings_cloud_code::api::DateRef`.
pub(crate) fn short_type_name(value: &Dynamic) -> &str {
    let name = value.type_name();
    name.rsplit("::").next().unwrap_or(name).trim_end_matches("Ref")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_went() {
        let json = br#"{"a":[1,2.5,null,true,"x",{"b":{"__type":"Date","iso":"2026-01-02T03:04:05.678Z"}}],
            "p":{"__type":"Pointer","className":"_User","objectId":"u1"},"n":-0.5,"big":1e300,
            "f":{"__type":"File","name":"a.png"},"g":{"__type":"GeoPoint","latitude":1,"longitude":2},
            "r":{"__type":"Relation","className":"Tag"},"y":{"__type":"Bytes","base64":"AAEC"}}"#;
        let value = Value::from_json(json).unwrap();
        let back = from_dynamic(&to_dynamic(&value)).unwrap();
        // Maps have no order in rhai.
        let (Value::Object(value), Value::Object(back)) = (value, back) else { panic!() };
        assert_eq!(value.len(), back.len());
        for (name, value) in value.iter() {
            assert_eq!(back.get(name), Some(value), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_stored_is_refused() {
        let mut deep = Dynamic::from(1_i64);
        for _ in 0..70 {
            deep = Dynamic::from_array(vec![deep]);
        }
        let mut key = ScriptMap::new();
        key.insert("a.b".into(), Dynamic::UNIT);
        let mut typed = ScriptMap::new();
        typed.insert("__type".into(), "Pointer".into());
        for bad in [deep, f64::NAN.into(), key.into(), typed.into(), Dynamic::from(std::time::Instant::now())] {
            assert!(from_dynamic(&bad).is_err());
        }
    }
}
