//! Changes to an object as field operations: what `{"__op": …}` means, how operations merge and how they apply.

use crate::acl::{Acl, is_truthy};
use crate::error::{Code, Error, Result};
use crate::names::{ClassName, invalid_field_name, is_field_path, shortened};
use crate::object::Object;
use crate::order::key;
use crate::value::{Map, Pointer, Value};
use compact_str::CompactString;
use std::collections::HashSet;

/// A list of operations, applied in order.
///
/// Operations, not images, are what is committed: each applies to the row as it is at that moment, so that two
/// increments never lose one.
///
/// ```
/// use tidings_protocol::{Map, Object, Update, Value};
/// let update = Update::from_map(Map::from_json(br#"{"n":{"__op":"Increment","amount":2}}"#).unwrap()).unwrap();
/// let mut object = Object { fields: Map::from_json(br#"{"n":1}"#).unwrap(), ..Object::default() };
/// update.apply(&mut object).unwrap();
/// assert_eq!(object.fields.get("n"), Some(&Value::Number(3.0)));
/// ```
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Update {
    /// A path is a field name, or a dotted path into an object or array field.
    pub operations: Vec<(CompactString, Operation)>,
    /// `Some(None)` makes the object public.
    pub acl: Option<Option<Acl>>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    Set(Value),
    /// Sets only while the object is being created.
    SetOnInsert(Value),
    Delete,
    Increment(f64),
    /// Appends to an array.
    Add(Vec<Value>),
    /// Appends what is not there yet.
    AddUnique(Vec<Value>),
    /// Takes out every equal element.
    Remove(Vec<Value>),
    /// Adds and removes members of a relation.
    Relate {
        add: Vec<Pointer>,
        remove: Vec<Pointer>,
    },
}

/// An array index in a dotted path may lie this far behind the end; the gap is filled with nulls.
const MAX_GAP: usize = 16;
/// How many operations one update may hold: each costs a search for its field.
const MAX_OPERATIONS: usize = 1_000;
/// How many members of a relation one operation may change: all of them are one commit.
const MAX_MEMBERS: usize = 1_000;
/// From this many items on, membership is asked of a hash table: a scan for each would cost their product.
const HASH_FROM: usize = 16;

impl Update {
    /// Reads the body of a create or update. Whether the class allows the fields is not decided here.
    ///
    /// # Errors
    /// 105 for a bad name, 107 for a malformed operation, 108 for one that does not exist on such a field, 111 for
    /// wrong members, 121 for a nested key with `$` or `.`, 123 for a malformed ACL.
    pub fn from_map(body: Map) -> Result<Self> {
        if body.len() > MAX_OPERATIONS {
            return Err(Error::invalid_json(format!("A request sets at most {MAX_OPERATIONS} fields.")));
        }
        let mut update = Self::default();
        for (path, value) in body {
            if path == "ACL" {
                // What is no ACL at all changes none, as in Parse: an update with null leaves a private object private.
                if !is_truthy(&value) {
                    continue;
                }
                update.acl = Some(match value.as_object().and_then(|map| map.get("__op")) {
                    // Parse: an object whose ACL is deleted is for the master key only.
                    Some(_) => Some(Acl::default()),
                    None => Acl::from_value(&value)?,
                });
                continue;
            }
            if !is_field_path(&path) {
                return Err(invalid_field_name(&path));
            }
            let operation = Operation::from_value(value)?;
            if path.contains('.') && matches!(operation, Operation::Relate { .. }) {
                return Err(Error::incorrect_type(format!("{}: a relation is a field by itself", shortened(&path))));
            }
            update.operations.push((path, operation));
        }
        Ok(update)
    }

    pub fn is_empty(&self) -> bool {
        self.operations.is_empty() && self.acl.is_none()
    }

    /// Sets one field: shorthand for the server's own writes.
    #[must_use]
    pub fn set(mut self, path: impl Into<CompactString>, value: impl Into<Value>) -> Self {
        self.operations.push((path.into(), Operation::Set(value.into())));
        self
    }

    #[must_use]
    pub fn delete(mut self, path: impl Into<CompactString>) -> Self {
        self.operations.push((path.into(), Operation::Delete));
        self
    }

    /// The last operation on exactly this path.
    pub fn operation(&self, path: &str) -> Option<&Operation> {
        self.operations.iter().rev().find(|(known, _)| known == path).map(|(_, operation)| operation)
    }

    /// Takes out every operation on exactly this path, and returns the last.
    pub fn take(&mut self, path: &str) -> Option<Operation> {
        let last = self.operation(path).cloned();
        self.operations.retain(|(known, _)| known != path);
        last
    }

    /// The same operations as they act on an object that does not exist yet: repeats in `AddUnique` are kept and
    /// `Remove` leaves an empty array, as in Parse.
    #[must_use]
    pub fn for_create(mut self) -> Self {
        self.operations.retain(|(_, operation)| !matches!(operation, Operation::Delete));
        for (_, operation) in &mut self.operations {
            let creating = match std::mem::replace(operation, Operation::Delete) {
                Operation::SetOnInsert(value) => Operation::Set(value),
                Operation::Increment(amount) => Operation::Set(Value::Number(amount)),
                Operation::Add(items) | Operation::AddUnique(items) => Operation::Set(Value::Array(items)),
                Operation::Remove(_) => Operation::Set(Value::Array(Vec::new())),
                other => other,
            };
            *operation = creating;
        }
        self
    }

    /// Adds operations that come later. Operations on one path become one where that says the same.
    pub fn merge(&mut self, later: Self) {
        for (path, operation) in later.operations {
            self.merge_one(path, operation);
        }
        if later.acl.is_some() {
            self.acl = later.acl;
        }
    }

    fn merge_one(&mut self, path: CompactString, later: Operation) {
        let Some(at) = self.operations.iter().rposition(|(known, _)| overlap(known, &path)) else {
            self.operations.push((path, later));
            return;
        };
        let (known, earlier) = &mut self.operations[at];
        if *known != path {
            self.operations.push((path, later));
            return;
        }
        match earlier.merged_with(later) {
            Ok(merged) => *earlier = merged,
            Err(later) => self.operations.push((path, later)),
        }
    }

    /// Applies every operation in turn. After an error the object is half changed: drop it.
    ///
    /// # Errors
    /// 111 when an operation does not fit the value it meets.
    pub fn apply(&self, object: &mut Object) -> Result<()> {
        for (path, operation) in &self.operations {
            operation.apply(&mut object.fields, path)?;
        }
        if let Some(acl) = &self.acl {
            object.acl = acl.clone();
        }
        Ok(())
    }

    /// The top-level fields that are touched, with repeats.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.operations.iter().map(|(path, _)| top_level(path))
    }
}

/// `a` of `a.b.c`.
pub fn top_level(path: &str) -> &str {
    path.split_once('.').map_or(path, |(head, _)| head)
}

/// Whether one path is the other or lies inside it.
fn overlap(a: &str, b: &str) -> bool {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Operation {
    /// Reads a field's value in a body: an `{"__op": …}`, or a value to set.
    ///
    /// # Errors
    /// See [`Update::from_map`].
    pub fn from_value(value: Value) -> Result<Self> {
        let Value::Object(map) = &value else {
            check_nested_keys(&value)?;
            return Ok(Self::Set(value));
        };
        let Some(name) = map.get("__op") else {
            check_nested_keys(&value)?;
            return Ok(Self::Set(value));
        };
        let Some(name) = name.as_str() else { return Err(Error::invalid_json("__op must be a string.")) };
        let objects = || -> Result<Vec<Value>> {
            let items = map.get("objects").and_then(Value::as_array);
            let items = items.ok_or_else(|| Error::invalid_json("objects to add must be an array"))?;
            items.iter().try_for_each(check_nested_keys)?;
            Ok(items.to_vec())
        };
        Ok(match name {
            "Delete" => Self::Delete,
            "Increment" => Self::Increment(
                map.get("amount")
                    .and_then(Value::as_number)
                    .ok_or_else(|| Error::invalid_json("incrementing must provide a number"))?,
            ),
            "SetOnInsert" => {
                let value = map.get("amount").cloned().unwrap_or_default();
                check_nested_keys(&value)?;
                Self::SetOnInsert(value)
            }
            "Add" => Self::Add(objects()?),
            "AddUnique" => Self::AddUnique(objects()?),
            "Remove" => Self::Remove(objects()?),
            "AddRelation" => Self::Relate { add: members(&objects()?)?, remove: Vec::new() },
            "RemoveRelation" => Self::Relate { add: Vec::new(), remove: members(&objects()?)? },
            "Batch" => {
                let ops = map.get("ops").and_then(Value::as_array).filter(|ops| !ops.is_empty());
                let ops = ops.ok_or_else(|| Error::invalid_json("Batch must provide an array of operations"))?;
                if ops.len() > MAX_MEMBERS {
                    return Err(too_many_members());
                }
                let mut all = Self::Relate { add: Vec::new(), remove: Vec::new() };
                for op in ops {
                    all = match Self::from_value(op.clone())? {
                        relate @ Self::Relate { .. } => all.merged_with(relate).unwrap_or_else(|relate| relate),
                        _ => return Err(Error::new(Code::CommandUnavailable, "Batch holds only relation operations.")),
                    };
                    if all.members() > MAX_MEMBERS {
                        return Err(too_many_members());
                    }
                }
                all
            }
            other => return Err(Error::invalid_json(format!("The {} operator is not supported.", shortened(other)))),
        })
    }

    /// The class whose objects a relation operation names.
    pub fn relation_class(&self) -> Option<&ClassName> {
        match self {
            Self::Relate { add, remove } => add.first().or(remove.first()).map(|pointer| &pointer.class),
            _ => None,
        }
    }

    fn members(&self) -> usize {
        if let Self::Relate { add, remove } = self { add.len() + remove.len() } else { 0 }
    }

    /// One operation that does what `self` and then `later` do, or `later` back if there is none.
    fn merged_with(&self, later: Self) -> std::result::Result<Self, Self> {
        Ok(match (self, later) {
            // Whoever sets a relation to itself means its members to stay as they are.
            (Self::Relate { .. }, Self::Set(Value::Relation(_))) => self.clone(),
            (_, later @ (Self::Set(_) | Self::Delete)) => later,
            (Self::Increment(first), Self::Increment(second)) => Self::Increment(first + second),
            (Self::Set(Value::Number(number)), Self::Increment(amount)) => Self::Set(Value::Number(number + amount)),
            (Self::Delete, Self::Increment(amount)) => Self::Set(Value::Number(amount)),
            (Self::Add(first), Self::Add(second)) => Self::Add([first.as_slice(), &second].concat()),
            (Self::AddUnique(first), Self::AddUnique(second)) => {
                let mut items = first.clone();
                add_unique(&mut items, &second);
                Self::AddUnique(items)
            }
            (Self::Remove(first), Self::Remove(second)) => {
                let mut items = first.clone();
                add_unique(&mut items, &second);
                Self::Remove(items)
            }
            (Self::Set(Value::Array(items)), Self::Add(more)) => {
                Self::Set(Value::Array([items.as_slice(), &more].concat()))
            }
            (Self::Set(Value::Array(items)), Self::AddUnique(more)) => {
                let mut items = items.clone();
                add_unique(&mut items, &more);
                Self::Set(Value::Array(items))
            }
            (Self::Set(Value::Array(items)), Self::Remove(gone)) => {
                let gone = Members::of(&gone);
                Self::Set(Value::Array(items.iter().filter(|item| !gone.contains(item)).cloned().collect()))
            }
            (Self::Delete, Self::Add(items)) => Self::Set(Value::Array(items)),
            (Self::Delete, Self::AddUnique(items)) => {
                let mut unique = Vec::new();
                add_unique(&mut unique, &items);
                Self::Set(Value::Array(unique))
            }
            (Self::Delete, Self::Remove(_)) => Self::Set(Value::Array(Vec::new())),
            (Self::Relate { add, remove }, Self::Relate { add: more, remove: fewer }) => {
                let without = |from: &[Pointer], gone: &[Pointer], plus: &[Pointer]| {
                    let mut kept: Vec<_> = from.iter().filter(|pointer| !gone.contains(pointer)).cloned().collect();
                    kept.extend(plus.iter().filter(|pointer| !from.contains(pointer)).cloned());
                    kept
                };
                Self::Relate { add: without(add, &fewer, &more), remove: without(remove, &more, &fewer) }
            }
            (_, later) => return Err(later),
        })
    }

    fn apply(&self, fields: &mut Map, path: &str) -> Result<()> {
        match path.split_once('.') {
            None => self.apply_to_field(fields, path, path),
            Some((head, rest)) => {
                if !fields.contains(head) {
                    if matches!(self, Self::Delete) {
                        return Ok(());
                    }
                    fields.insert(head, Value::Object(Map::new()));
                }
                fields.get_mut(head).map_or(Ok(()), |value| self.apply_inside(value, rest, path))
            }
        }
    }

    fn apply_inside(&self, value: &mut Value, rest: &str, path: &str) -> Result<()> {
        let (head, deeper) = rest.split_once('.').map_or((rest, None), |(head, deeper)| (head, Some(deeper)));
        if value.is_null() {
            *value = Value::Object(Map::new());
        }
        match value {
            Value::Object(map) => match deeper {
                None => self.apply_to_field(map, head, path),
                Some(_) => self.apply(map, rest),
            },
            Value::Array(items) => {
                let index: usize = head.parse().map_err(|_| mismatch(path, "an Object"))?;
                if index > items.len() + MAX_GAP {
                    return Err(Error::incorrect_type(format!(
                        "{}: the index lies too far behind the end",
                        shortened(path)
                    )));
                }
                if matches!(self, Self::Delete) && index >= items.len() {
                    return Ok(());
                }
                if index >= items.len() {
                    items.resize(index + 1, Value::Null);
                }
                match deeper {
                    Some(deeper) => self.apply_inside(&mut items[index], deeper, path),
                    None => {
                        let mut slot = Map::from_pairs(vec![("".into(), std::mem::take(&mut items[index]))]);
                        self.apply_to_field(&mut slot, "", path)?;
                        items[index] = slot.remove("").unwrap_or_default();
                        Ok(())
                    }
                }
            }
            _ => Err(mismatch(path, "an Object or an Array")),
        }
    }

    fn apply_to_field(&self, fields: &mut Map, name: &str, path: &str) -> Result<()> {
        match self {
            Self::Set(value) => {
                fields.insert(name, value.clone());
            }
            Self::SetOnInsert(_) => {}
            Self::Delete => {
                fields.remove(name);
            }
            Self::Increment(amount) => {
                let number = match fields.get(name) {
                    None | Some(Value::Null) => 0.0,
                    Some(Value::Number(number)) => *number,
                    Some(_) => return Err(mismatch(path, "a Number")),
                };
                let sum = number + amount;
                if !sum.is_finite() {
                    return Err(Error::incorrect_type(format!(
                        "{}: the sum is too large for a number",
                        shortened(path)
                    )));
                }
                fields.insert(name, Value::Number(sum));
            }
            Self::Add(items) => array(fields, name, path)?.extend_from_slice(items),
            Self::AddUnique(items) => add_unique(array(fields, name, path)?, items),
            Self::Remove(gone) => {
                let gone = Members::of(gone);
                array(fields, name, path)?.retain(|item| !gone.contains(item));
            }
            Self::Relate { .. } => {
                if let Some(class) = self.relation_class() {
                    fields.insert(name, Value::Relation(Box::new(class.clone())));
                }
            }
        }
        Ok(())
    }
}

/// The array in a field; a missing one begins empty.
fn array<'a>(fields: &'a mut Map, name: &str, path: &str) -> Result<&'a mut Vec<Value>> {
    if fields.get(name).is_none_or(Value::is_null) {
        fields.insert(name, Value::Array(Vec::new()));
    }
    match fields.get_mut(name) {
        Some(Value::Array(items)) => Ok(items),
        _ => Err(mismatch(path, "an Array")),
    }
}

fn add_unique(items: &mut Vec<Value>, more: &[Value]) {
    if more.len() < 4 || items.len() + more.len() < HASH_FROM {
        for item in more {
            if !items.contains(item) {
                items.push(item.clone());
            }
        }
        return;
    }
    let mut known: HashSet<Vec<u8>> = items.iter().map(key).collect();
    items.extend(more.iter().filter(|item| known.insert(key(item))).cloned());
}

/// A list to ask for membership, however long it is.
enum Members<'a> {
    Few(&'a [Value]),
    Many(HashSet<Vec<u8>>),
}

impl<'a> Members<'a> {
    fn of(items: &'a [Value]) -> Self {
        if items.len() < HASH_FROM { Self::Few(items) } else { Self::Many(items.iter().map(key).collect()) }
    }

    fn contains(&self, item: &Value) -> bool {
        match self {
            Self::Few(items) => items.contains(item),
            Self::Many(keys) => keys.contains(&key(item)),
        }
    }
}

fn mismatch(path: &str, expected: &str) -> Error {
    Error::incorrect_type(format!("{}: the stored value is not {expected}", shortened(path)))
}

fn members(objects: &[Value]) -> Result<Vec<Pointer>> {
    let pointers: Option<Vec<Pointer>> = objects.iter().map(|object| object.as_pointer().cloned()).collect();
    let pointers = pointers.filter(|pointers| !pointers.is_empty());
    let pointers = pointers.ok_or_else(|| Error::invalid_json("relation operations must list pointers"))?;
    if pointers.len() > MAX_MEMBERS {
        return Err(too_many_members());
    }
    if pointers.iter().any(|pointer| pointer.class != pointers[0].class) {
        return Err(Error::incorrect_type("all objects of a relation must be of one class"));
    }
    Ok(pointers)
}

fn too_many_members() -> Error {
    Error::invalid_json(format!("An operation changes at most {MAX_MEMBERS} members of a relation."))
}

/// # Errors
/// 121 for a key with `$` or `.`, or one that could not be stored.
fn check_nested_keys(value: &Value) -> Result<()> {
    match value {
        Value::Object(map) => map.iter().try_for_each(|(name, value)| {
            if name.contains(['$', '.', '\0']) {
                return Err(Error::new(
                    Code::InvalidNestedKey,
                    "Nested keys should not contain the '$' or '.' characters",
                ));
            }
            check_nested_keys(value)
        }),
        Value::Array(items) => items.iter().try_for_each(check_nested_keys),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(json: &str) -> Result<Update> {
        Update::from_map(Map::from_json(json.as_bytes())?)
    }

    fn object(json: &str) -> Object {
        Object { fields: Map::from_json(json.as_bytes()).unwrap(), ..Object::default() }
    }

    #[track_caller]
    fn check(before: &str, body: &str, after: &str) {
        let mut object = object(before);
        update(body).unwrap().apply(&mut object).unwrap();
        assert_eq!(object.fields.to_json(), after);
    }

    #[test]
    fn operations_apply_to_what_is_there() {
        check(r#"{"a":1}"#, r#"{"a":2,"b":null}"#, r#"{"a":2,"b":null}"#);
        check(r#"{"a":1,"b":2}"#, r#"{"a":{"__op":"Delete"}}"#, r#"{"b":2}"#);
        check(
            r#"{"a":1}"#,
            r#"{"a":{"__op":"Increment","amount":-2.5},"c":{"__op":"Increment","amount":1}}"#,
            r#"{"a":-1.5,"c":1}"#,
        );
        check(r#"{"a":null}"#, r#"{"a":{"__op":"Increment","amount":1}}"#, r#"{"a":1}"#);
        check(r#"{"a":[1]}"#, r#"{"a":{"__op":"Add","objects":[1,2]}}"#, r#"{"a":[1,1,2]}"#);
        check(r#"{"a":[1]}"#, r#"{"a":{"__op":"AddUnique","objects":[1,2,2]}}"#, r#"{"a":[1,2]}"#);
        check(r#"{"a":[1,2,1,{"x":1}]}"#, r#"{"a":{"__op":"Remove","objects":[1,{"x":1}]}}"#, r#"{"a":[2]}"#);
        check("{}", r#"{"a":{"__op":"Remove","objects":[1]}}"#, r#"{"a":[]}"#);
        check(
            "{}",
            r#"{"r":{"__op":"AddRelation","objects":[{"__type":"Pointer","className":"C","objectId":"x"}]}}"#,
            r#"{"r":{"__type":"Relation","className":"C"}}"#,
        );
    }

    #[test]
    fn dotted_paths_reach_into_objects_and_arrays() {
        check(r#"{"o":{"a":1}}"#, r#"{"o.b":2,"o.c.d":3}"#, r#"{"o":{"a":1,"b":2,"c":{"d":3}}}"#);
        check("{}", r#"{"o.n":{"__op":"Increment","amount":2}}"#, r#"{"o":{"n":2}}"#);
        check(
            r#"{"l":[1,{"x":1}]}"#,
            r#"{"l.0":9,"l.1.x":{"__op":"Increment","amount":1},"l.3":5}"#,
            r#"{"l":[9,{"x":2},null,5]}"#,
        );
        check(r#"{"o":{"a":1}}"#, r#"{"o.a":{"__op":"Delete"},"z.a":{"__op":"Delete"}}"#, r#"{"o":{}}"#);
        assert!(update(r#"{"s.a":1}"#).unwrap().apply(&mut object(r#"{"s":"text"}"#)).is_err());
        assert!(update(r#"{"l.99999":1}"#).unwrap().apply(&mut object(r#"{"l":[]}"#)).is_err());
    }

    #[test]
    fn long_lists_are_as_quick_as_they_are_right() {
        let numbers: Vec<String> = (0..100_000).map(|n| (n % 60_000).to_string()).collect();
        let list = numbers.join(",");
        let mut object = object(r#"{"a":[-1]}"#);
        let body = format!(r#"{{"a":{{"__op":"AddUnique","objects":[{list}]}}}}"#);
        update(&body).unwrap().apply(&mut object).unwrap();
        assert_eq!(object.fields.get("a").and_then(Value::as_array).map(<[_]>::len), Some(60_001));
        update(&body.replace("AddUnique", "Remove")).unwrap().apply(&mut object).unwrap();
        assert_eq!(object.fields.to_json(), r#"{"a":[-1]}"#);
    }

    #[test]
    fn an_operation_that_does_not_fit_is_111() {
        for (before, body) in [
            (r#"{"a":"x"}"#, r#"{"a":{"__op":"Increment","amount":1}}"#),
            (r#"{"a":1}"#, r#"{"a":{"__op":"Add","objects":[1]}}"#),
            (r#"{"a":1e308}"#, r#"{"a":{"__op":"Increment","amount":1.7e308}}"#),
        ] {
            assert_eq!(
                update(body).unwrap().apply(&mut object(before)).unwrap_err().code,
                Code::IncorrectType,
                "{body}"
            );
        }
    }

    #[test]
    fn malformed_bodies_are_refused() {
        for (body, code) in [
            (r#"{"a":{"__op":"Nope"}}"#, 107),
            (r#"{"a":{"__op":"Increment"}}"#, 107),
            (r#"{"a":{"__op":"Increment","amount":"1"}}"#, 107),
            (r#"{"a":{"__op":"Add","objects":1}}"#, 107),
            (r#"{"a":{"__op":7}}"#, 107),
            (r#"{"r":{"__op":"AddRelation","objects":[]}}"#, 107),
            (r#"{"a":{"__op":"Batch","ops":[{"__op":"Increment","amount":1}]}}"#, 108),
            (r#"{"_a":1}"#, 105),
            (r#"{"a-b":1}"#, 105),
            (r#"{"a":{"$x":1}}"#, 121),
            (r#"{"a":[{"x.y":1}]}"#, 121),
            (r#"{"a":{"__op":"Add","objects":[{"$x":1}]}}"#, 121),
            (r#"{"ACL":true}"#, 123),
        ] {
            assert_eq!(update(body).unwrap_err().code.number(), code, "{body}");
        }
    }

    #[test]
    fn merged_operations_do_what_both_do_in_turn() {
        let bodies = [
            r#"{"a":5}"#,
            r#"{"a":[1,2]}"#,
            r#"{"a":{"__op":"Delete"}}"#,
            r#"{"a":{"__op":"Increment","amount":2}}"#,
            r#"{"a":{"__op":"Add","objects":[1,3]}}"#,
            r#"{"a":{"__op":"AddUnique","objects":[1,4,4]}}"#,
            r#"{"a":{"__op":"Remove","objects":[1]}}"#,
            r#"{"a":{"b":1}}"#,
            r#"{"a.b":7}"#,
            r#"{"a.b":{"__op":"Increment","amount":1}}"#,
        ];
        let befores = ["{}", r#"{"a":1}"#, r#"{"a":[1,1,2]}"#, r#"{"a":{"b":2}}"#];
        for first in bodies {
            for second in bodies {
                for third in bodies {
                    let parts = [first, second, third].map(|body| update(body).unwrap());
                    let mut merged = Update::default();
                    parts.iter().for_each(|part| merged.merge(part.clone()));
                    for before in befores {
                        let mut in_turn = object(before);
                        let outcome = parts.iter().try_for_each(|part| part.apply(&mut in_turn));
                        let mut at_once = object(before);
                        if outcome.is_ok() {
                            merged.apply(&mut at_once).unwrap();
                            assert_eq!(at_once.fields, in_turn.fields, "{before}: {first} then {second} then {third}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn relation_operations_merge() {
        let pointer = |id: &str| format!(r#"{{"__type":"Pointer","className":"C","objectId":"{id}"}}"#);
        let body = format!(
            r#"{{"r":{{"__op":"Batch","ops":[{{"__op":"AddRelation","objects":[{},{}]}},{{"__op":"RemoveRelation","objects":[{}]}}]}}}}"#,
            pointer("a"),
            pointer("b"),
            pointer("a")
        );
        let update = update(&body).unwrap();
        let Operation::Relate { add, remove } = &update.operations[0].1 else { panic!() };
        assert_eq!(add.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(remove.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn creating_flattens_operations() {
        let mut object = Object::default();
        update(r#"{"a":{"__op":"AddUnique","objects":[1,1]},"b":{"__op":"Remove","objects":[1]},"c":{"__op":"Delete"},"d":{"__op":"SetOnInsert","amount":4},"e.f":{"__op":"Increment","amount":2}}"#)
            .unwrap()
            .for_create()
            .apply(&mut object)
            .unwrap();
        assert_eq!(object.fields.to_json(), r#"{"a":[1,1],"b":[],"d":4,"e":{"f":2}}"#);
    }
}
