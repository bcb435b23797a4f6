//! The identity of a filter: one complete encoding.

use super::{Constraint, Predicate, Regex};
use crate::order;
use crate::value::Value;

impl Predicate {
    /// Bytes that are equal exactly when two predicates are the same up to the order of clauses, of list members where
    /// order means nothing, and of repeats. The identity of a filter: complete, unlike a hash of some of its parts.
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_canonical(&mut out);
        out
    }

    fn write_canonical(&self, out: &mut Vec<u8>) {
        let (tag, parts) = match self {
            Self::And(parts) if parts.len() == 1 => return parts[0].write_canonical(out),
            Self::And(_) => (1, self.flat_and()),
            Self::Or(parts) => (2, parts.iter().collect()),
            Self::Nor(parts) => (3, parts.iter().collect()),
            Self::Field { path, constraint } => {
                out.push(4);
                order::write_text(path, out);
                return constraint.write_canonical(out);
            }
        };
        let mut encoded: Vec<Vec<u8>> = parts.into_iter().map(Self::canonical).collect();
        encoded.sort();
        encoded.dedup();
        if tag == 1 && encoded.len() == 1 {
            return out.extend_from_slice(&encoded[0]);
        }
        write_list(tag, &encoded, out);
    }

    fn flat_and(&self) -> Vec<&Self> {
        match self {
            Self::And(parts) => parts.iter().flat_map(Self::flat_and).collect(),
            other => vec![other],
        }
    }
}

fn write_list(tag: u8, encoded: &[Vec<u8>], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&(encoded.len() as u32).to_be_bytes());
    for part in encoded {
        out.extend_from_slice(&(part.len() as u32).to_be_bytes());
        out.extend_from_slice(part);
    }
}

impl Constraint {
    fn write_canonical(&self, out: &mut Vec<u8>) {
        let one = |tag, value: &Value, out: &mut Vec<u8>| {
            out.push(tag);
            order::write_key(value, out);
        };
        let list = |tag, values: &[Value], out: &mut Vec<u8>| {
            let mut keys: Vec<_> = values.iter().map(order::key).collect();
            keys.sort();
            keys.dedup();
            write_list(tag, &keys, out);
        };
        match self {
            Self::Eq(value) => one(10, value, out),
            Self::Ne(value) => one(11, value, out),
            Self::Lt(value) => one(12, value, out),
            Self::Lte(value) => one(13, value, out),
            Self::Gt(value) => one(14, value, out),
            Self::Gte(value) => one(15, value, out),
            Self::In(values) => list(16, values, out),
            Self::Nin(values) => list(17, values, out),
            Self::All(values) => list(18, values, out),
            Self::AllMatch(regexes) => {
                let mut encoded: Vec<_> = regexes.iter().map(Regex::canonical).collect();
                encoded.sort();
                write_list(19, &encoded, out);
            }
            Self::Exists(flag) => out.extend_from_slice(&[20, u8::from(*flag)]),
            Self::Matches(regex) => {
                out.push(21);
                out.extend_from_slice(&regex.canonical());
            }
            Self::RelatedTo(relation) => {
                out.push(22);
                order::write_text(&relation.owner.class, out);
                order::write_text(&relation.owner.id, out);
                order::write_text(&relation.key, out);
            }
        }
    }
}

impl Regex {
    fn canonical(&self) -> Vec<u8> {
        let mut options: Vec<u8> = self.options.bytes().collect();
        options.sort_unstable();
        options.dedup();
        let mut out = Vec::new();
        order::write_text(&self.pattern, &mut out);
        out.extend_from_slice(&options);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Result;
    use crate::value::Map;

    fn predicate(json: &str) -> Result<Predicate> {
        Predicate::from_map(&Map::from_json(json.as_bytes())?)
    }

    #[test]
    fn the_canonical_encoding_is_complete() {
        let different = [
            r#"{"a":1,"b":2}"#,
            r#"{"a":2,"b":1}"#,
            r#"{"r":"A","$or":[{"x":1},{"y":1}]}"#,
            r#"{"r":"B","$or":[{"x":1},{"y":1}]}"#,
            r#"{"a":{"$eq":[1,2]}}"#,
            r#"{"a":{"$eq":[2,1]}}"#,
            r#"{"a":{"$in":[1,2]}}"#,
            r#"{"a":{"$all":[1,2]}}"#,
            r#"{"a":"1"}"#,
            r#"{"a":1}"#,
            r#"{"a":{"$regex":"x"}}"#,
            r#"{"a":{"$regex":"x","$options":"i"}}"#,
            r#"{"a":null}"#,
            r#"{"a":{"$exists":false}}"#,
            "{}",
            r#"{"p":{"__type":"Pointer","className":"C","objectId":"x"}}"#,
            r#"{"p":{"__type":"Pointer","className":"D","objectId":"x"}}"#,
            r#"{"p":"x"}"#,
        ];
        for (at, one) in different.iter().enumerate() {
            for other in &different[at + 1..] {
                assert_ne!(predicate(one).unwrap().canonical(), predicate(other).unwrap().canonical(), "{one} {other}");
            }
        }
        for (one, other) in [
            (r#"{"a":1,"b":2}"#, r#"{"b":2.0,"a":1}"#),
            (r#"{"a":{"$in":[2,1,1]}}"#, r#"{"a":{"$in":[1,2]}}"#),
            (r#"{"$and":[{"a":1},{"b":2}]}"#, r#"{"a":1,"b":2}"#),
            (r#"{"$or":[{"a":1},{"b":2}]}"#, r#"{"$or":[{"b":2},{"a":1}]}"#),
        ] {
            assert_eq!(predicate(one).unwrap().canonical(), predicate(other).unwrap().canonical(), "{one} {other}");
        }
    }
}
