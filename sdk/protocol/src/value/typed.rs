//! The `__type` notation: which value an object with that key stands for.

use super::{File, GeoPoint, Map, Polygon, Value};
use crate::date::Date;
use crate::error::{Error, Result};
use crate::names::{ClassName, ObjectId, shortened};
use std::borrow::Cow;

/// The value that an object with `__type` stands for.
///
/// # Errors
/// 111 for an unknown type or missing, wrong or impossible parts.
pub fn typed_value(map: &Map) -> Result<Value> {
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
            // Anything else a page might run when somebody clicks it.
            let is_address = |url: &&str| url.starts_with("https://") || url.starts_with("http://");
            Ok(Value::File(Box::new(File { name: name.into(), url: text("url").filter(is_address).map(Into::into) })))
        }
        other => Err(invalid(other)),
    }
}

impl Value {
    /// An object, or what the `__type` notation makes of a value that has one: as such MongoDB stores it inside arrays
    /// and objects, finds its parts by their paths and compares it. Dates and bytes have types of their own there.
    pub fn as_document(&self) -> Option<Cow<'_, Map>> {
        let typed = |kind: &str, parts: Vec<(&str, Value)>| {
            let kind = std::iter::once(("__type", Value::from(kind)));
            Some(Cow::Owned(kind.chain(parts).map(|(name, value)| (name.into(), value)).collect()))
        };
        let text = |text: &str| Value::from(text);
        match self {
            Self::Object(map) => Some(Cow::Borrowed(map)),
            Self::Pointer(pointer) => {
                let (class, id) = (text(&pointer.class), text(&pointer.id));
                typed("Pointer", vec![("className", class), ("objectId", id)])
            }
            Self::Relation(class) => typed("Relation", vec![("className", text(class))]),
            Self::GeoPoint(point) => {
                let (latitude, longitude) = (point.latitude.into(), point.longitude.into());
                typed("GeoPoint", vec![("latitude", latitude), ("longitude", longitude)])
            }
            Self::Polygon(polygon) => {
                let corner = |corner: &GeoPoint| Value::Array(vec![corner.latitude.into(), corner.longitude.into()]);
                typed("Polygon", vec![("coordinates", Value::Array(polygon.0.iter().map(corner).collect()))])
            }
            Self::File(file) => {
                let url = file.url.iter().map(|url| ("url", text(url)));
                typed("File", std::iter::once(("name", text(&file.name))).chain(url).collect())
            }
            Self::Null
            | Self::Bool(_)
            | Self::Number(_)
            | Self::String(_)
            | Self::Date(_)
            | Self::Bytes(_)
            | Self::Array(_) => None,
        }
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

pub(super) fn base64_encode(bytes: &[u8]) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

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
}
