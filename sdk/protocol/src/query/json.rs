//! The JSON of a `where`, both ways.

use super::{Constraint, Predicate, Regex, RelatedTo};
use crate::error::{Error, Result};
use crate::names::{invalid_field_name, is_field_name, is_field_path, is_too_long_path, shortened};
use crate::value::{Map, Value, write_json_string};

/// How deep `$and`, `$or` and `$nor` may nest.
pub const MAX_PREDICATE_DEPTH: usize = 32;
/// How many constraints one predicate may hold.
pub const MAX_CLAUSES: usize = 1_000;
/// How many values one `$in`, `$nin` or `$all` may list.
pub const MAX_LIST: usize = 10_000;
/// How many regular expressions one predicate may hold: each takes up to a megabyte when compiled.
pub const MAX_EXPRESSIONS: usize = 20;
/// How long the source of a regular expression may be, in bytes.
pub const MAX_REGEX: usize = 4_096;

impl Predicate {
    /// Reads a `where`.
    ///
    /// # Errors
    /// 102 for an operator that is not supported or misused, 105 for a bad name, 107 for a malformed constraint.
    pub fn from_map(map: &Map) -> Result<Self> {
        let mut clauses = 0;
        let predicate = read_map(map, 0, &mut clauses)?;
        let mut expressions = Vec::new();
        predicate.expressions(&mut |regex| expressions.push(regex));
        if expressions.len() > MAX_EXPRESSIONS {
            let message = format!("A query has at most {MAX_EXPRESSIONS} regular expressions.");
            return Err(Error::invalid_query(message));
        }
        #[cfg(feature = "eval")]
        expressions.into_iter().try_for_each(|regex| regex.compile().map(drop))?;
        Ok(predicate)
    }

    /// Appends the `where` that reads back as this predicate.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::And(parts) if parts.is_empty() => out.extend_from_slice(b"{}"),
            Self::And(parts) if parts.len() == 1 => parts[0].write_json(out),
            Self::And(parts) => write_json_parts("$and", parts, out),
            Self::Or(parts) => write_json_parts("$or", parts, out),
            Self::Nor(parts) => write_json_parts("$nor", parts, out),
            Self::Field { path, constraint } => {
                out.push(b'{');
                let name = if let Constraint::RelatedTo(_) = constraint { "$relatedTo" } else { path.as_str() };
                write_json_string(name, out);
                out.push(b':');
                constraint.write_json(out);
                out.push(b'}');
            }
        }
    }

    pub fn to_json(&self) -> String {
        let mut out = Vec::new();
        self.write_json(&mut out);
        crate::value::into_text(out)
    }
}

fn write_json_parts(operator: &str, parts: &[Predicate], out: &mut Vec<u8>) {
    out.push(b'{');
    write_json_string(operator, out);
    out.extend_from_slice(b":[");
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        part.write_json(out);
    }
    out.extend_from_slice(b"]}");
}

impl Constraint {
    fn write_json(&self, out: &mut Vec<u8>) {
        let (operator, value) = match self {
            // Bare equality cannot say an array or a plain object.
            Self::Eq(value @ (Value::Array(_) | Value::Object(_))) => ("$eq", value),
            Self::Eq(value) => return value.write_json(out),
            Self::Ne(value) => ("$ne", value),
            Self::Lt(value) => ("$lt", value),
            Self::Lte(value) => ("$lte", value),
            Self::Gt(value) => ("$gt", value),
            Self::Gte(value) => ("$gte", value),
            Self::In(values) => ("$in", &Value::Array(values.clone())),
            Self::Nin(values) => ("$nin", &Value::Array(values.clone())),
            Self::All(values) => ("$all", &Value::Array(values.clone())),
            Self::Exists(flag) => ("$exists", &Value::Bool(*flag)),
            Self::Matches(regex) => return regex.write_json(out),
            Self::RelatedTo(relation) => return relation.write_json(out),
            Self::AllMatch(regexes) => {
                out.extend_from_slice(b"{\"$all\":[");
                for (at, regex) in regexes.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    regex.write_json(out);
                }
                return out.extend_from_slice(b"]}");
            }
        };
        out.push(b'{');
        write_json_string(operator, out);
        out.push(b':');
        value.write_json(out);
        out.push(b'}');
    }
}

impl RelatedTo {
    fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"object\":");
        Value::Pointer(Box::new(self.owner.clone())).write_json(out);
        out.extend_from_slice(b",\"key\":");
        write_json_string(&self.key, out);
        out.push(b'}');
    }
}

impl Regex {
    fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"$regex\":");
        write_json_string(&self.pattern, out);
        if !self.options.is_empty() {
            out.extend_from_slice(b",\"$options\":");
            write_json_string(&self.options, out);
        }
        out.push(b'}');
    }
}

fn read_map(map: &Map, depth: usize, clauses: &mut usize) -> Result<Predicate> {
    if depth > MAX_PREDICATE_DEPTH {
        return Err(Error::invalid_query(format!("Queries nest at most {MAX_PREDICATE_DEPTH} levels deep.")));
    }
    let mut parts = Vec::with_capacity(map.len());
    for (name, value) in map.iter() {
        match name.as_str() {
            "$or" => parts.push(Predicate::Or(read_parts(name, value, depth, clauses)?)),
            "$and" => parts.push(Predicate::And(read_parts(name, value, depth, clauses)?)),
            "$nor" => parts.push(Predicate::Nor(read_parts(name, value, depth, clauses)?)),
            "$relatedTo" => parts.push(related_to(value)?),
            "$live" => return Err(not_supported(name)),
            "ACL" => return Err(Error::invalid_query("Cannot query on ACL.")),
            path if is_field_path(path) => read_field(path, value, &mut parts)?,
            path if is_too_long_path(path) => return Err(invalid_field_name(path)),
            other => return Err(Error::invalid_key_name(format!("Invalid key name: {}", shortened(other)))),
        }
        *clauses += 1;
    }
    *clauses += parts.len().saturating_sub(map.len());
    if *clauses > MAX_CLAUSES {
        return Err(Error::invalid_query(format!("A query has at most {MAX_CLAUSES} constraints.")));
    }
    Ok(if parts.len() == 1 { parts.remove(0) } else { Predicate::And(parts) })
}

fn read_parts(operator: &str, value: &Value, depth: usize, clauses: &mut usize) -> Result<Vec<Predicate>> {
    let malformed =
        || Error::invalid_query(format!("Bad {operator} format - use an array of queries that is not empty."));
    let items = value.as_array().filter(|items| !items.is_empty()).ok_or_else(malformed)?;
    items.iter().map(|item| read_map(item.as_object().ok_or_else(malformed)?, depth + 1, clauses)).collect()
}

fn related_to(value: &Value) -> Result<Predicate> {
    let part = |name| value.as_object().and_then(|map| map.get(name));
    match (part("object"), part("key").and_then(Value::as_str)) {
        (Some(Value::Pointer(owner)), Some(key)) if is_field_name(key) => {
            let relation = RelatedTo { owner: (**owner).clone(), key: key.into() };
            Ok(Predicate::field("objectId", Constraint::RelatedTo(Box::new(relation))))
        }
        _ => Err(Error::invalid_query("$relatedTo names an object by its pointer and a relation by its key.")),
    }
}

fn not_supported(operator: &str) -> Error {
    Error::invalid_query(format!("{operator} is not supported yet."))
}

fn read_field(path: &str, value: &Value, parts: &mut Vec<Predicate>) -> Result<()> {
    let mut add = |constraint| parts.push(Predicate::field(path, constraint));
    match value {
        Value::Object(map) if map.iter().any(|(name, _)| name.starts_with('$')) => {
            let options = map.get("$options");
            if options.is_some() && !map.contains("$regex") {
                return Err(Error::invalid_query("$options goes with $regex."));
            }
            for (operator, operand) in map.iter().filter(|(operator, _)| *operator != "$options") {
                add(read_constraint(operator, operand, options)?);
            }
            Ok(())
        }
        Value::Object(_) => Err(Error::invalid_json("You cannot use an object as a query parameter.")),
        Value::Array(_) => Err(Error::invalid_json("You cannot use an array as a query parameter.")),
        // Timestamps may be given as plain text, but only for equality.
        Value::String(text) if matches!(path, "createdAt" | "updatedAt") => {
            add(Constraint::Eq(crate::Date::parse(text).map_or_else(|| value.clone(), Value::Date)));
            Ok(())
        }
        _ => {
            add(Constraint::Eq(value.clone()));
            Ok(())
        }
    }
}

fn read_constraint(operator: &str, operand: &Value, options: Option<&Value>) -> Result<Constraint> {
    Ok(match operator {
        // As with `$in`, a plain id also stands for a pointer with that id.
        "$eq" if matches!(operand, Value::String(_)) => Constraint::In(vec![operand.clone()]),
        "$ne" if matches!(operand, Value::String(_)) => Constraint::Nin(vec![operand.clone()]),
        "$eq" => Constraint::Eq(data(operator, operand)?),
        "$ne" => Constraint::Ne(data(operator, operand)?),
        "$lt" => Constraint::Lt(comparable(operator, operand)?),
        "$lte" => Constraint::Lte(comparable(operator, operand)?),
        "$gt" => Constraint::Gt(comparable(operator, operand)?),
        "$gte" => Constraint::Gte(comparable(operator, operand)?),
        "$in" => Constraint::In(flat_list(operator, operand)?),
        "$nin" => Constraint::Nin(flat_list(operator, operand)?),
        "$all" => {
            let items = list(operator, operand)?;
            let patterns =
                items.iter().filter(|item| item.as_object().is_some_and(|map| map.contains("$regex"))).count();
            if patterns == 0 {
                Constraint::All(items.iter().map(|item| data(operator, item)).collect::<Result<_>>()?)
            } else if patterns == items.len() {
                let read = |item: &Value| {
                    let map = item.as_object().cloned().unwrap_or_default();
                    Regex::read(map.get("$regex").unwrap_or(&Value::Null), map.get("$options"))
                };
                Constraint::AllMatch(items.iter().map(read).collect::<Result<_>>()?)
            } else {
                return Err(Error::invalid_json("All $all values must be of regex type or none: bad $all value"));
            }
        }
        "$exists" => match operand {
            Value::Bool(flag) => Constraint::Exists(*flag),
            Value::Number(number) => Constraint::Exists(*number != 0.0),
            _ => return Err(Error::invalid_json("bad $exists value, should be a boolean")),
        },
        "$regex" => Constraint::Matches(Regex::read(operand, options)?),
        "$containedBy"
        | "$nearSphere"
        | "$within"
        | "$geoWithin"
        | "$geoIntersects"
        | "$maxDistance"
        | "$maxDistanceInMiles"
        | "$maxDistanceInKilometers"
        | "$text"
        | "$select"
        | "$dontSelect"
        | "$inQuery"
        | "$notInQuery" => {
            return Err(not_supported(operator));
        }
        other => return Err(Error::invalid_json(format!("bad constraint: {}", shortened(other)))),
    })
}

/// An operand that is data: no operator may hide in it.
fn data(operator: &str, operand: &Value) -> Result<Value> {
    match operand {
        Value::Object(map) if map.iter().any(|(name, _)| name.starts_with('$')) => {
            Err(Error::invalid_json(format!("bad {operator} value")))
        }
        _ => Ok(operand.clone()),
    }
}

fn comparable(operator: &str, operand: &Value) -> Result<Value> {
    match operand {
        Value::Object(map) if map.contains("$relativeTime") => Err(not_supported("$relativeTime")),
        _ => data(operator, operand),
    }
}

fn list<'a>(operator: &str, operand: &'a Value) -> Result<&'a [Value]> {
    let items = operand.as_array().ok_or_else(|| Error::invalid_json(format!("bad {operator} value")))?;
    if items.len() > MAX_LIST {
        return Err(Error::invalid_query(format!("{operator} lists at most {MAX_LIST} values.")));
    }
    Ok(items)
}

/// `$in` and `$nin` are flattened one level, as in Parse.
fn flat_list(operator: &str, operand: &Value) -> Result<Vec<Value>> {
    let mut flat = Vec::new();
    for item in list(operator, operand)? {
        match item {
            Value::Array(inner) => flat.extend_from_slice(inner),
            _ => flat.push(data(operator, item)?),
        }
    }
    Ok(flat)
}

impl Regex {
    /// # Errors
    /// 102 for a pattern or options of the wrong type, unknown options, or too long a pattern.
    fn read(pattern: &Value, options: Option<&Value>) -> Result<Self> {
        let Some(pattern) = pattern.as_str() else { return Err(Error::invalid_query("$regex value must be a string")) };
        let options = match options {
            None => "",
            Some(Value::String(options))
                if !options.is_empty() && options.bytes().all(|letter| b"imxsu".contains(&letter)) =>
            {
                options
            }
            Some(_) => return Err(Error::invalid_query("bad $options value for $regex")),
        };
        if pattern.len() > MAX_REGEX {
            return Err(Error::invalid_query(format!("A regular expression is at most {MAX_REGEX} bytes long.")));
        }
        Ok(Self { pattern: pattern.into(), options: options.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predicate(json: &str) -> Result<Predicate> {
        Predicate::from_map(&Map::from_json(json.as_bytes())?)
    }

    fn code(json: &str) -> i32 {
        predicate(json).unwrap_err().code.number()
    }

    #[test]
    fn malformed_queries_are_refused_with_parses_codes() {
        for json in [
            r#"{"a":{"$foo":1}}"#,
            r#"{"a":{"$elemMatch":{}}}"#,
            r#"{"a":{"$not":{}}}"#,
            r#"{"a":{"b":1}}"#,
            r#"{"a":{}}"#,
            r#"{"a":[1]}"#,
            r#"{"a":{"$in":1}}"#,
            r#"{"a":{"$all":"x"}}"#,
            r#"{"a":{"$exists":"yes"}}"#,
            r#"{"a":{"$gt":1,"b":2}}"#,
            r#"{"a":{"$in":[{"$x":1}]}}"#,
            r#"{"a":{"$all":[{"$regex":"a"},1]}}"#,
        ] {
            assert_eq!(code(json), 107, "{json}");
        }
        for json in [
            r#"{"$or":[]}"#,
            r#"{"$or":{}}"#,
            r#"{"$and":[1]}"#,
            r#"{"$nor":[]}"#,
            r#"{"ACL":1}"#,
            r#"{"a":{"$regex":5}}"#,
            r#"{"a":{"$regex":"a","$options":"q"}}"#,
            r#"{"a":{"$regex":"a","$options":""}}"#,
            r#"{"a":{"$regex":"("}}"#,
            r#"{"a":{"$inQuery":{}}}"#,
            r#"{"a":{"$lt":{"$relativeTime":"now"}}}"#,
            r#"{"$relatedTo":{}}"#,
            r#"{"$relatedTo":{"object":"x","key":"likes"}}"#,
            r#"{"$relatedTo":{"object":{"__type":"Pointer","className":"C","objectId":"x"},"key":"a b"}}"#,
            r#"{"a":{"$options":"i"}}"#,
        ] {
            assert_eq!(code(json), 102, "{json}");
        }
        for json in [r#"{"_rperm":1}"#, r#"{"$foo":[]}"#, r#"{"a..b":1}"#, r#"{"":1}"#, r#"{"1a":1}"#] {
            assert_eq!(code(json), 105, "{json}");
        }
        let long = vec!["a"; 181].join(".");
        assert_eq!(code(&format!(r#"{{"$or":[{{"{long}":{{"$gt":1}}}}]}}"#)), 105);
        let deep = "{\"$or\":[".repeat(33) + "{}" + &"]}".repeat(33);
        assert!(predicate(&deep).is_err());
        let wide = format!("{{\"$or\":[{}]}}", vec!["{\"a\":1}"; 1001].join(","));
        assert_eq!(code(&wide), 102);
    }

    #[test]
    fn json_reads_back_as_the_same_predicate() {
        for json in [
            "{}",
            r#"{"a":1}"#,
            r#"{"a":{"$gt":1,"$lt":5},"b":null}"#,
            r#"{"$or":[{"a":1},{"b":{"$in":[1,"x"]}}],"c":{"$exists":false}}"#,
            r#"{"a":{"$regex":"^x","$options":"i"}}"#,
            r#"{"a":{"$all":[{"$regex":"^x"},{"$regex":"y"}]}}"#,
            r#"{"a":{"$eq":[1,2]}}"#,
            r#"{"p":{"__type":"Pointer","className":"C","objectId":"x"}}"#,
            r#"{"$nor":[{"a":{"$ne":"x"}}]}"#,
            r#"{"$relatedTo":{"object":{"__type":"Pointer","className":"C","objectId":"x"},"key":"likes"}}"#,
        ] {
            let once = predicate(json).unwrap();
            let again = predicate(&once.to_json()).unwrap();
            assert_eq!(once.canonical(), again.canonical(), "{json}");
        }
    }
}
