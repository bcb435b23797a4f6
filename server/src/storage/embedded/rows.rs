//! One stored row: the position that wrote it last, and the object in BSON.

use crate::changes::Position;
use compact_str::CompactString;
use tidings_protocol::bson::{read_object, write_object};
use tidings_protocol::{Object, names};

/// A field that was taken out of its class: rows written before do not have it, whatever their bytes say.
///
/// Removing a field is one small write; the bytes go later, in chunks, and until then every reader hides them here.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Removal {
    pub(super) field: CompactString,
    /// Rows last written at or before this position are concerned.
    pub(super) at: Position,
}

/// Bytes on disk that this program did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Corrupt(pub(super) &'static str);

pub(super) fn encode(object: &Object, written: Position) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(&written.to_be_bytes());
    write_object(object, &mut out);
    out
}

/// The object, without the fields that were removed since it was written.
pub(super) fn decode(bytes: &[u8], removals: &[Removal]) -> Result<Object, Corrupt> {
    let (written, document) = split(bytes)?;
    let mut object = read_object(document).map_err(|_| Corrupt("a row is not an object"))?;
    strip(&mut object, written, removals);
    Ok(object)
}

/// The row without removed fields, if it has any: what the clean-up writes back.
pub(super) fn cleaned(bytes: &[u8], removals: &[Removal]) -> Result<Option<Vec<u8>>, Corrupt> {
    let (written, document) = split(bytes)?;
    let mut object = read_object(document).map_err(|_| Corrupt("a row is not an object"))?;
    Ok(strip(&mut object, written, removals).then(|| encode(&object, written)))
}

fn split(bytes: &[u8]) -> Result<(Position, &[u8]), Corrupt> {
    let (written, document) = bytes.split_first_chunk().ok_or(Corrupt("a row is too short"))?;
    Ok((Position::from_be_bytes(*written), document))
}

fn strip(object: &mut Object, written: Position, removals: &[Removal]) -> bool {
    let gone = |name: &str| removals.iter().any(|removal| removal.field == name && written <= removal.at);
    if removals.is_empty() || !object.fields.iter().any(|(name, _)| gone(name)) {
        return false;
    }
    object.fields.retain(|name, _| names::is_internal_field(name) || !gone(name));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::limits::is_too_deep;
    use tidings_protocol::Value;
    use tidings_protocol::map;

    #[test]
    fn what_is_not_too_deep_can_be_read_again() {
        for leaf in
            [Value::Null, Value::pointer(tidings_protocol::ClassName::USER, tidings_protocol::ObjectId::new("x"))]
        {
            for arrays in [true, false] {
                let mut value = leaf.clone();
                for depth in 0..80 {
                    let fields = [("a".into(), value.clone())].into_iter().collect();
                    let object = Object { fields, ..Object::default() };
                    let is_read = decode(&encode(&object, 1), &[]).is_ok_and(|read| read == object);
                    assert!(is_read || is_too_deep(&object), "{depth}");
                    assert!(depth > 60 || !is_too_deep(&object), "{depth}");
                    value = match arrays {
                        true => Value::Array(vec![value]),
                        false => Value::Object([("b".into(), value)].into_iter().collect()),
                    };
                }
            }
        }
    }

    #[test]
    fn removed_fields_are_hidden_in_older_rows_only() {
        let object = Object { fields: map! { "a" => 1.0, "b" => 2.0 }, ..Object::default() };
        let removals = [Removal { field: "a".into(), at: 10 }];
        let fields = |written| decode(&encode(&object, written), &removals).unwrap().fields.to_json();
        assert_eq!(fields(10), r#"{"b":2}"#);
        assert_eq!(fields(11), r#"{"a":1,"b":2}"#);
        let clean = cleaned(&encode(&object, 10), &removals).unwrap().unwrap();
        assert_eq!(decode(&clean, &[]).unwrap().fields.to_json(), r#"{"b":2}"#);
        assert_eq!(cleaned(&clean, &removals).unwrap(), None);
        assert!(decode(&[1, 2], &[]).is_err());
    }
}
