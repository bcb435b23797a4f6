//! What a client asks for: predicate, order, page, keys and include; read from JSON, checked, written back, and given
//! one canonical encoding.

use crate::error::{Error, Result};
use crate::names::{ClassName, invalid_field_name, is_field_path, shortened};
use crate::object::Object;
use crate::order;
use crate::value::{Map, Value, write_json_string};
use compact_str::CompactString;

/// How deep `$and`, `$or` and `$nor` may nest.
pub const MAX_PREDICATE_DEPTH: usize = 32;
/// How many constraints one predicate may hold.
pub const MAX_CLAUSES: usize = 1_000;
/// How many values one `$in`, `$nin` or `$all` may list.
pub const MAX_LIST: usize = 10_000;
/// How long the source of a regular expression may be, in bytes.
pub const MAX_REGEX: usize = 4_096;

/// A question about one class.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    pub class: ClassName,
    pub predicate: Predicate,
    pub order: Vec<Order>,
    /// `None` is the server's default.
    pub limit: Option<u64>,
    pub skip: u64,
    /// Whether the number of all matches is asked for, whatever limit and skip say.
    pub count: bool,
    pub projection: Projection,
    /// Paths of pointers to expand, parents before children; `["*"]` stands for all.
    pub include: Vec<CompactString>,
    /// Ask for the plan instead of the results.
    pub explain: bool,
}

/// Which fields an answer shows.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Projection {
    /// `None` shows all.
    pub keys: Option<Vec<CompactString>>,
    pub exclude: Vec<CompactString>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    pub path: CompactString,
    pub descending: bool,
}

/// Which objects match.
#[derive(Clone, Debug, PartialEq)]
pub enum Predicate {
    /// All of these; an empty list matches everything.
    And(Vec<Predicate>),
    Or(Vec<Predicate>),
    Nor(Vec<Predicate>),
    Field {
        path: CompactString,
        constraint: Constraint,
    },
}

/// What a field must be. Several constraints on one field are several [`Predicate::Field`]s.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    Eq(Value),
    Ne(Value),
    Lt(Value),
    Lte(Value),
    Gt(Value),
    Gte(Value),
    /// A plain id in the list also stands for a pointer with that id.
    In(Vec<Value>),
    Nin(Vec<Value>),
    All(Vec<Value>),
    /// Each expression matches some element.
    AllMatch(Vec<Regex>),
    Exists(bool),
    Matches(Regex),
}

/// A regular expression as the client wrote it; [`crate::matches`] compiles it.
#[derive(Clone, Debug, PartialEq)]
pub struct Regex {
    pub pattern: CompactString,
    /// Letters of `imxsu`.
    pub options: CompactString,
}

impl Query {
    /// Everything of a class, in its natural order.
    pub fn all(class: ClassName) -> Self {
        Self {
            class,
            predicate: Predicate::everything(),
            order: Vec::new(),
            limit: None,
            skip: 0,
            count: false,
            projection: Projection::default(),
            include: Vec::new(),
            explain: false,
        }
    }

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
                "includeAll" | "comment" => {}
                "hint" | "readPreference" | "includeReadPreference" | "subqueryReadPreference" if value.is_null() => {}
                "hint"
                | "readPreference"
                | "includeReadPreference"
                | "subqueryReadPreference"
                | "redirectClassNameForKey" => {
                    return Err(Error::invalid_query(format!("{name} is not supported yet.")));
                }
                _ => return Err(Error::invalid_query(format!("Invalid parameter for query: {}", shortened(name)))),
            }
        }
        // `keys=author.name` shows the author's name, so it asks for the author.
        if let Some(keys) = &query.projection.keys {
            let parents: Vec<_> =
                keys.iter().filter_map(|key| key.rsplit_once('.')).map(|(parent, _)| parent.into()).collect();
            for path in includes(&parents).unwrap_or_default() {
                if !query.include.contains(&path) {
                    query.include.push(path);
                }
            }
        }
        Ok(query)
    }

    /// The `objectId` that is the query's only constraint, if it is: such a find is a `get` to class-level permissions.
    pub fn only_object_id(&self) -> Option<&str> {
        self.predicate.only_object_id()
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

/// A list of names: text with commas, or an array of texts.
fn names(parameter: &str, value: &Value) -> Result<Vec<CompactString>> {
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

impl Projection {
    /// Whether a top-level field is shown. The id, the timestamps and the ACL always are.
    ///
    /// `a.b` shows the whole of `a`: what is inside an object is not cut.
    pub fn shows(&self, name: &str) -> bool {
        let listed = |path: &CompactString| path.split('.').next() == Some(name);
        self.keys.as_ref().is_none_or(|keys| keys.iter().any(listed)) && !self.exclude.iter().any(|path| path == name)
    }

    /// What is shown of the object to which the pointer `field` was expanded.
    pub fn inside(&self, field: &str) -> Self {
        let strip = |paths: &Vec<CompactString>| -> Vec<CompactString> {
            paths
                .iter()
                .filter_map(|path| path.strip_prefix(field)?.strip_prefix('.'))
                .map(CompactString::from)
                .collect()
        };
        // `keys=author,author.name` still asks for the whole author.
        let whole = self.keys.as_ref().is_none_or(|keys| keys.iter().any(|key| key == field));
        Self { keys: if whole { None } else { self.keys.as_ref().map(strip) }, exclude: strip(&self.exclude) }
    }
}

impl Order {
    /// Reads `a,-b`.
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
        text.split(',')
            .map(|name| {
                let name = name.trim();
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
                Ok(Self { path: path.into(), descending })
            })
            .collect()
    }
}

impl Predicate {
    pub fn everything() -> Self {
        Self::And(Vec::new())
    }

    pub fn field(path: impl Into<CompactString>, constraint: Constraint) -> Self {
        Self::Field { path: path.into(), constraint }
    }

    pub fn equal(path: impl Into<CompactString>, value: impl Into<Value>) -> Self {
        Self::field(path, Constraint::Eq(value.into()))
    }

    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::And(mut all), Self::And(more)) => {
                all.extend(more);
                Self::And(all)
            }
            (Self::And(mut all), other) | (other, Self::And(mut all)) => {
                all.push(other);
                Self::And(all)
            }
            (one, other) => Self::And(vec![one, other]),
        }
    }

    /// Reads a `where`.
    ///
    /// # Errors
    /// 102 for an operator that is not supported or misused, 105 for a bad name, 107 for a malformed constraint.
    pub fn from_map(map: &Map) -> Result<Self> {
        let mut clauses = 0;
        let predicate = read_map(map, 0, &mut clauses)?;
        Ok(predicate)
    }

    /// Every field path that the predicate names, with repeats.
    pub fn paths(&self, visit: &mut impl FnMut(&str)) {
        match self {
            Self::And(parts) | Self::Or(parts) | Self::Nor(parts) => parts.iter().for_each(|part| part.paths(visit)),
            Self::Field { path, .. } => visit(path),
        }
    }

    pub fn only_object_id(&self) -> Option<&str> {
        match self {
            Self::And(parts) => match parts.as_slice() {
                [only] => only.only_object_id(),
                _ => None,
            },
            Self::Field { path, constraint: Constraint::Eq(Value::String(id)) } if path == "objectId" => Some(id),
            _ => None,
        }
    }

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
                write_json_string(path, out);
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
        }
    }

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
            "$relatedTo" | "$live" => return Err(not_supported(name)),
            "ACL" => return Err(Error::invalid_query("Cannot query on ACL.")),
            path if is_field_path(path) => read_field(path, value, &mut parts)?,
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
        let regex = Self { pattern: pattern.into(), options: options.into() };
        #[cfg(feature = "eval")]
        regex.compile()?;
        Ok(regex)
    }
}

/// Visits what `a.b.c` finds in an object, until `visit` returns true. Inside an array a name goes into every element
/// that is an object, and a number also picks an element. `None` is a value that is missing.
pub fn visit_path(object: &Object, path: &str, visit: &mut dyn FnMut(Option<&Value>) -> bool) -> bool {
    match path.split_once('.') {
        None => visit(object.field(path).as_deref()),
        Some((head, rest)) => visit_inside(object.field(head).as_deref(), rest, visit),
    }
}

fn visit_inside(value: Option<&Value>, path: &str, visit: &mut dyn FnMut(Option<&Value>) -> bool) -> bool {
    let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
    let step = |found: Option<&Value>, visit: &mut dyn FnMut(Option<&Value>) -> bool| match rest {
        None => visit(found),
        Some(rest) => visit_inside(found, rest, visit),
    };
    match value {
        Some(Value::Object(map)) => step(map.get(head), visit),
        Some(Value::Array(items)) => {
            let picked = head.parse::<usize>().ok().and_then(|index| items.get(index));
            let found = match picked {
                // An array that was picked by its index counts as itself, not as each of its elements.
                Some(inner @ Value::Array(_)) if rest.is_none() => visit(Some(&Value::Array(vec![inner.clone()]))),
                Some(item) => step(Some(item), visit),
                None => false,
            };
            if found {
                return true;
            }
            items.iter().filter_map(Value::as_object).any(|map| step(map.get(head), visit))
        }
        _ => step(None, visit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

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
            r#"{"a":{"$options":"i"}}"#,
        ] {
            assert_eq!(code(json), 102, "{json}");
        }
        for json in [r#"{"_rperm":1}"#, r#"{"$foo":[]}"#, r#"{"a..b":1}"#, r#"{"":1}"#, r#"{"1a":1}"#] {
            assert_eq!(code(json), 105, "{json}");
        }
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
        ] {
            let once = predicate(json).unwrap();
            let again = predicate(&once.to_json()).unwrap();
            assert_eq!(once.canonical(), again.canonical(), "{json}");
        }
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
    }

    #[test]
    fn projection_of_an_included_object() {
        let projection =
            Projection { keys: Some(vec!["author.name".into(), "text".into()]), exclude: vec!["author.age".into()] };
        assert!(projection.shows("author") && projection.shows("text") && !projection.shows("x"));
        let inside = projection.inside("author");
        assert!(inside.shows("name") && !inside.shows("age") && !inside.shows("text"));
        assert!(Projection::default().inside("a").shows("anything"));
    }
}
