//! A query as the parameters of a request say it.

use super::{Order, Predicate, Query};
use crate::error::{Error, Result};
use crate::names::{ClassName, invalid_field_name, is_field_path, shortened};
use crate::value::{Map, Value};
use compact_str::CompactString;

impl Query {
    /// Reads the parameters of a find. `where` may be an object or its JSON text; lists may be arrays or text with commas.
    ///
    /// # Errors
    /// 102 for an unknown parameter or an impossible value; 105 for a bad field name; 107 for a malformed constraint.
    pub fn from_parameters(class: ClassName, parameters: &Map) -> Result<Self> {
        let mut query = Self::all(class);
        for (name, value) in parameters.iter() {
            match name.as_str() {
                "where" => query.predicate = predicate_parameter(value)?,
                "order" => query.order = Order::parse(value)?,
                // Anything that is not a number means no limit, as in Parse.
                "limit" => query.limit = Some(whole(value).map_or(u64::MAX, i64::unsigned_abs)),
                "skip" => {
                    query.skip = whole(value)
                        .and_then(|skip| u64::try_from(skip).ok())
                        .ok_or_else(|| Error::invalid_query("skip must be a number that is not negative."))?;
                }
                "count" => query.count = is_set(value),
                "keys" => query.projection.keys = Some(names(name, value)?),
                "excludeKeys" => query.projection.exclude = names(name, value)?,
                "include" => query.include = includes(&names(name, value)?)?,
                "includeAll" if is_set(value) => query.include = vec!["*".into()],
                "explain" => query.explain = is_set(value),
                "redirectClassNameForKey" => query.redirect = value.as_str().map(CompactString::from),
                "includeAll" | "comment" => {}
                "hint" | "readPreference" | "includeReadPreference" | "subqueryReadPreference" if value.is_null() => {}
                "hint" | "readPreference" | "includeReadPreference" | "subqueryReadPreference" => {
                    return Err(Error::invalid_query(format!("{name} is not supported yet.")));
                }
                _ => return Err(Error::invalid_query(format!("Invalid parameter for query: {}", shortened(name)))),
            }
        }
        // `keys=author.name` shows the author's name, so it asks for the author.
        if let Some(keys) = &query.projection.keys {
            let parents: Vec<_> =
                keys.iter().filter_map(|key| key.rsplit_once('.')).map(|(parent, _)| parent.into()).collect();
            for path in includes(&parents)? {
                if !query.include.contains(&path) {
                    query.include.push(path);
                }
            }
        }
        Ok(query)
    }
}

fn predicate_parameter(value: &Value) -> Result<Predicate> {
    match value {
        Value::Object(map) => Predicate::from_map(map),
        Value::String(text) => match Value::from_json(text.as_bytes())? {
            Value::Object(map) => Predicate::from_map(&map),
            _ => Err(Error::invalid_json("where must be an object.")),
        },
        _ => Err(Error::invalid_json("where must be an object.")),
    }
}

fn whole(value: &Value) -> Option<i64> {
    let number = match value {
        Value::Number(number) => *number,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    (number.is_finite()).then_some(number as i64)
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => *number != 0.0,
        Value::String(text) => !matches!(text.as_str(), "" | "0" | "false"),
        _ => true,
    }
}

/// How many names `keys` and its like may list.
const MAX_NAMES: usize = 1_000;
/// How many fields a query may sort by.
const MAX_ORDER: usize = 32;

/// A list of names: text with commas, or an array of texts.
fn names(parameter: &str, value: &Value) -> Result<Vec<CompactString>> {
    let listed = match value {
        Value::String(text) => text.split(',').count(),
        Value::Array(items) => items.len(),
        _ => 0,
    };
    if listed > MAX_NAMES {
        return Err(Error::invalid_query(format!("{parameter} lists at most {MAX_NAMES} names.")));
    }
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => Ok(text.split(',').filter(|name| !name.is_empty()).map(CompactString::from).collect()),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map(CompactString::from))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| Error::invalid_query(format!("{parameter} must list names."))),
        _ => Err(Error::invalid_query(format!("{parameter} must list names."))),
    }
}

/// How many paths a query may include, and how many pointers deep.
const MAX_INCLUDES: usize = 100;
const MAX_INCLUDE_DEPTH: usize = 10;

/// Adds the parents of each path, in front of it.
fn includes(paths: &[CompactString]) -> Result<Vec<CompactString>> {
    let mut all: Vec<CompactString> = Vec::new();
    for path in paths {
        if path == "*" {
            return Ok(vec!["*".into()]);
        }
        if !is_field_path(path) {
            return Err(invalid_field_name(path));
        }
        if all.len() > MAX_INCLUDES {
            break;
        }
        let ends = path.match_indices('.').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            if !all.iter().any(|known| known == &path[..end]) {
                all.push(path[..end].into());
            }
        }
    }
    let deep = all.iter().any(|path| path.split('.').count() > MAX_INCLUDE_DEPTH);
    if deep || all.len() > MAX_INCLUDES {
        return Err(Error::invalid_query(format!(
            "A query includes at most {MAX_INCLUDES} paths, each at most {MAX_INCLUDE_DEPTH} deep."
        )));
    }
    Ok(all)
}

impl Order {
    /// Reads `a,-b`. A field that is named again keeps its place and takes the new direction, as in Parse.
    ///
    /// # Errors
    /// 105 for a name that no field can have, and for an empty list.
    pub fn parse(value: &Value) -> Result<Vec<Self>> {
        let text = match value {
            Value::Null => return Ok(Vec::new()),
            Value::String(text) => text.clone(),
            Value::Array(items) => {
                items.iter().map(|item| item.as_str().unwrap_or_default()).collect::<Vec<_>>().join(",").into()
            }
            _ => return Err(Error::invalid_key_name("order must list field names.")),
        };
        if text.split(',').count() > MAX_ORDER {
            return Err(Error::invalid_query(format!("A query sorts by at most {MAX_ORDER} fields.")));
        }
        let mut orders: Vec<Self> = Vec::new();
        for name in text.split(',').map(str::trim) {
            let (name, descending) = name.strip_prefix('-').map_or((name, false), |name| (name, true));
            let path = match name.trim_start_matches('+') {
                "_created_at" => "createdAt",
                "_updated_at" => "updatedAt",
                "_id" => "objectId",
                name => name,
            };
            if path == "ACL" || !is_field_path(path) {
                return Err(invalid_field_name(path));
            }
            match orders.iter_mut().find(|order| order.path == path) {
                Some(known) => known.descending = descending,
                None => orders.push(Self { path: path.into(), descending }),
            }
        }
        Ok(orders)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn parameters() {
        let read = |json: &str| {
            Query::from_parameters(ClassName::from_trusted("C"), &Map::from_json(json.as_bytes()).unwrap())
        };
        let query = read(r#"{"where":"{\"a\":1}","order":"a, -b","limit":"5","skip":2,"keys":"x,author.name","include":"p.q","count":1}"#).unwrap();
        assert_eq!((query.limit, query.skip, query.count), (Some(5), 2, true));
        assert_eq!(query.order[1], Order { path: "b".into(), descending: true });
        assert_eq!(query.include, ["p", "p.q", "author"]);
        assert_eq!(read(r#"{"limit":-1}"#).unwrap().limit, Some(1));
        assert_eq!(read(r#"{"limit":"abc"}"#).unwrap().limit, Some(u64::MAX));
        for (json, code) in [
            (r#"{"foo":1}"#, Code::InvalidQuery),
            (r#"{"skip":-1}"#, Code::InvalidQuery),
            (r#"{"order":""}"#, Code::InvalidKeyName),
            (r#"{"where":null}"#, Code::InvalidJson),
            (r#"{"where":""}"#, Code::InvalidJson),
            (r#"{"where":"[]"}"#, Code::InvalidJson),
            (r#"{"order":"$x"}"#, Code::InvalidKeyName),
        ] {
            assert_eq!(read(json).unwrap_err().code, code, "{json}");
        }
        let long = vec!["a"; 201].join(".");
        for name in ["order", "keys", "include"] {
            let error = read(&format!(r#"{{"{name}":"b,{long}"}}"#)).unwrap_err();
            assert!(
                error.code == Code::InvalidKeyName && error.message.contains("at most 65 parts"),
                "{name} {error:?}"
            );
        }
    }
}
