//! What a client asks for: predicate, order, page, keys and include.
//!
//! The types are here; [`parameters`] reads them from a request, [`json`] reads and writes a `where`, and [`canonical`]
//! gives predicates their identity.

mod canonical;
mod json;
mod parameters;

pub use json::{MAX_CLAUSES, MAX_EXPRESSIONS, MAX_LIST, MAX_PREDICATE_DEPTH, MAX_REGEX};

use crate::names::ClassName;
use crate::object::Object;
use crate::value::{Map, Pointer, Value};
use compact_str::CompactString;

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
    /// Ask for the class that this relation's members are of instead: a client may know only the relation.
    pub redirect: Option<CompactString>,
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
    /// The object is a member of another object's relation; the path is `objectId`. An object alone does not show it: who
    /// knows the members says their ids instead.
    RelatedTo(Box<RelatedTo>),
}

/// A relation of one object: `{"$relatedTo":{"object":…,"key":…}}`.
#[derive(Clone, Debug, PartialEq)]
pub struct RelatedTo {
    pub owner: Pointer,
    pub key: CompactString,
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
            redirect: None,
        }
    }

    /// The `objectId` that is the query's only constraint, if it is: such a find is a `get` to class-level permissions.
    pub fn only_object_id(&self) -> Option<&str> {
        self.predicate.only_object_id()
    }
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

    /// Every constraint with its path.
    pub fn fields<'a>(&'a self, visit: &mut impl FnMut(&'a CompactString, &'a Constraint)) {
        match self {
            Self::And(parts) | Self::Or(parts) | Self::Nor(parts) => parts.iter().for_each(|part| part.fields(visit)),
            Self::Field { path, constraint } => visit(path, constraint),
        }
    }

    /// As [`Predicate::fields`], to be changed.
    pub fn fields_mut(&mut self, visit: &mut impl FnMut(&mut CompactString, &mut Constraint)) {
        match self {
            Self::And(parts) | Self::Or(parts) | Self::Nor(parts) => {
                parts.iter_mut().for_each(|part| part.fields_mut(visit));
            }
            Self::Field { path, constraint } => visit(path, constraint),
        }
    }

    /// Every field path that the predicate names, with repeats.
    pub fn paths(&self, visit: &mut impl FnMut(&str)) {
        self.fields(&mut |path, _| visit(path));
    }

    /// Lets a field be known by another name.
    pub fn rename_field(&mut self, from: &str, to: &str) {
        self.fields_mut(&mut |path, _| {
            if path == from {
                *path = to.into();
            }
        });
    }

    /// Every regular expression in the predicate.
    pub fn expressions<'a>(&'a self, visit: &mut impl FnMut(&'a Regex)) {
        self.fields(&mut |_, constraint| match constraint {
            Constraint::Matches(regex) => visit(regex),
            Constraint::AllMatch(regexes) => regexes.iter().for_each(&mut *visit),
            _ => {}
        });
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
}

/// What a path finds.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// `None` is missing.
    pub value: Option<&'a Value>,
    pub place: Place,
}

/// Where a path finds a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is a field of the object.
    Column,
    /// In an object or array, where pointers and their like are documents among others.
    Inside,
    /// In an array, picked by its number: if it is an array, it counts as itself, not as its elements.
    Picked,
}

/// Visits what `a.b.c` finds in an object, until `visit` returns true. Inside an array a name goes into every element
/// that is a document, and a number also picks an element.
pub fn visit_path(object: &Object, path: &str, visit: &mut dyn FnMut(Found<'_>) -> bool) -> bool {
    let Some((head, rest)) = path.split_once('.') else {
        return visit(Found { value: object.field(path).as_deref(), place: Place::Column });
    };
    match object.field(head).as_deref() {
        Some(value @ (Value::Object(_) | Value::Array(_))) => visit_inside(value, rest, visit),
        // Columns of other types have no inside, whatever they are stored as.
        _ => visit(MISSING),
    }
}

const MISSING: Found<'static> = Found { value: None, place: Place::Inside };

fn visit_inside(value: &Value, path: &str, visit: &mut dyn FnMut(Found<'_>) -> bool) -> bool {
    let Value::Array(items) = value else { return visit_document(value.as_document().as_deref(), path, visit) };
    let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
    let picked = array_index(head).and_then(|index| items.get(index));
    let found = match (picked, rest) {
        (Some(item), None) => visit(Found { value: Some(item), place: Place::Picked }),
        (Some(item @ Value::Array(_)), Some(rest)) => visit_inside(item, rest, visit),
        (Some(item), Some(rest)) => {
            item.as_document().is_some_and(|document| visit_document(Some(&document), rest, visit))
        }
        (None, _) => false,
    };
    found || items.iter().filter_map(Value::as_document).any(|document| visit_document(Some(&document), path, visit))
}

fn visit_document(document: Option<&Map>, path: &str, visit: &mut dyn FnMut(Found<'_>) -> bool) -> bool {
    let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
    match (document.and_then(|document| document.get(head)), rest) {
        (None, _) => visit(MISSING),
        (value, None) => visit(Found { value, place: Place::Inside }),
        (Some(value), Some(rest)) => visit_inside(value, rest, visit),
    }
}

/// The place in an array that a part of a path names: a number without leading zeros or signs.
pub(crate) fn array_index(part: &str) -> Option<usize> {
    let is_number = part.bytes().all(|byte| byte.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
    part.parse().ok().filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

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
