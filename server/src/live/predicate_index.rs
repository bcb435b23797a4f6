//! Which filters could care about an object, without asking each of them.
//!
//! Each filter is posted under values of which an object that matches must hold at least one:
//!
//! | filter | posted under |
//! | --- | --- |
//! | `{room: "lobby"}`, `{members: "ann"}` (an array that contains it) | (`room`, "lobby"), (`members`, "ann") |
//! | `{room: {$in: ["a", "b"]}}` | both values; for a plain id also any pointer with that id |
//! | `{tags: {$all: ["x", "y"]}}` | one of the values |
//! | `{room: "lobby", rank: {$gt: 3}}` | the clause that promises the fewest candidates |
//! | `{$or: [{room: "a"}, {owner: p}]}` | each branch under its own value |
//! | `{rank: {$gt: 3, $lt: 9}}`, `{name: {$regex: "^ann"}}` | the interval of values, if there is no single one |
//! | `{x: null}`, `{}`, `$ne`, `$nor`, other expressions, whole arrays | nothing: the residual list |
//!
//! **The one law:** candidates may be too many, never too few. A test holds it against brute force. The cost of a
//! lookup grows with the fields of the object and with what it finds, not with what is posted elsewhere.

use super::intervals::{Interval, Intervals};
use super::prefix::literal_prefix;
use super::slots::IdList;
use compact_str::CompactString;
use std::collections::HashMap;
use tidings_protocol::order::write_key;
use tidings_protocol::query::{Constraint, visit_path};
use tidings_protocol::{Object, Predicate, Value};

/// Number of a filter within its class.
pub(super) type GroupId = u32;

/// Starts the key of "a pointer with this id, of whatever class": no key of a value starts with it.
const ANY_CLASS: u8 = 0;

/// Where one filter is posted; what is needed to take it out again.
#[derive(Debug, PartialEq)]
pub(super) enum Access {
    Postings(Vec<Posting>),
    Residual,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Posting {
    path: CompactString,
    at: At,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum At {
    Value(Box<[u8]>),
    Within(Interval),
}

#[derive(Debug, Default)]
pub(super) struct PredicateIndex {
    /// Indexed paths by the top-level field that they begin with: `o` holds `o.a` and `o.b.c`.
    by_field: HashMap<CompactString, Vec<PathIndex>>,
    /// Filters that have to be asked about every object of the class.
    residual: IdList,
}

#[derive(Debug)]
struct PathIndex {
    path: CompactString,
    filters: HashMap<Box<[u8]>, IdList>,
    /// How many of the keys name an id without a class; pointers are looked up by id only while there are any.
    any_class: usize,
    ranges: Intervals,
}

/// Room that lookups reuse, so that they do not allocate.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    pub(super) found: Vec<GroupId>,
    /// The lookup in which each filter was last found: one filter may be found under several values and images.
    stamps: Vec<u32>,
    stamp: u32,
    key: Vec<u8>,
}

impl Lookup {
    /// Begins a new lookup among filters with numbers below `bound`.
    pub(super) fn begin(&mut self, bound: usize) {
        self.found.clear();
        self.stamps.resize(bound, 0);
        self.stamp = self.stamp.wrapping_add(1);
        if self.stamp == 0 {
            self.stamps.fill(0);
            self.stamp = 1;
        }
    }

    fn add(&mut self, ids: &IdList) {
        ids.as_slice().iter().for_each(|id| self.add_one(*id));
    }

    fn add_one(&mut self, id: GroupId) {
        if let Some(stamp) = self.stamps.get_mut(id as usize)
            && *stamp != self.stamp
        {
            *stamp = self.stamp;
            self.found.push(id);
        }
    }
}

impl PredicateIndex {
    pub(super) fn insert(&mut self, group: GroupId, predicate: &Predicate) -> Access {
        let Some(mut postings) = self.plan(predicate) else {
            self.residual.insert(group);
            return Access::Residual;
        };
        postings.sort();
        postings.dedup();
        for posting in &postings {
            let paths = self.by_field.entry(head(&posting.path).into()).or_default();
            let at = paths.iter().position(|known| known.path == posting.path).unwrap_or_else(|| {
                paths.push(PathIndex::new(posting.path.clone()));
                paths.len() - 1
            });
            paths[at].insert(group, &posting.at);
        }
        Access::Postings(postings)
    }

    pub(super) fn remove(&mut self, group: GroupId, access: &Access) {
        let Access::Postings(postings) = access else { return self.residual.remove(group) };
        for posting in postings {
            let Some(paths) = self.by_field.get_mut(head(&posting.path)) else { continue };
            let Some(at) = paths.iter().position(|known| known.path == posting.path) else { continue };
            paths[at].remove(group, &posting.at);
            if paths[at].filters.is_empty() && paths[at].ranges.is_empty() {
                paths.swap_remove(at);
            }
            if paths.is_empty() {
                self.by_field.remove(head(&posting.path));
            }
        }
    }

    /// How many filters have to be asked about every object.
    pub(super) fn residual(&self) -> usize {
        self.residual.len()
    }

    /// Adds every filter that could match this object to the lookup's findings, once.
    pub(super) fn look_up(&self, object: &Object, lookup: &mut Lookup) {
        lookup.add(&self.residual);
        // Whichever is fewer: the fields of the object, or the fields that are indexed.
        if self.by_field.len() <= object.fields.len() + 3 {
            for paths in self.by_field.values() {
                paths.iter().for_each(|path| path.look_up(object, lookup));
            }
        } else {
            let own = object.fields.iter().map(|(name, _)| name.as_str());
            for name in own.chain(["objectId", "createdAt", "updatedAt"]) {
                if let Some(paths) = self.by_field.get(name) {
                    paths.iter().for_each(|path| path.look_up(object, lookup));
                }
            }
        }
    }

    /// Values of which a match must hold at least one; `None` when the filter promises none.
    fn plan(&self, predicate: &Predicate) -> Option<Vec<Posting>> {
        match predicate {
            Predicate::And(parts) => {
                let mut plans: Vec<_> = parts.iter().filter_map(|part| self.plan(part)).collect();
                narrow(&mut plans);
                plans.into_iter().min_by_key(|postings| self.cost(postings))
            }
            Predicate::Or(parts) => {
                let mut all = Vec::new();
                for part in parts {
                    all.append(&mut self.plan(part)?);
                }
                Some(all)
            }
            Predicate::Nor(_) => None,
            Predicate::Field { path, constraint } => match constraint {
                Constraint::Eq(value) => Some(vec![posting(path, value)?]),
                Constraint::In(values) => {
                    let mut all = Vec::with_capacity(values.len());
                    for value in values {
                        all.push(posting(path, value)?);
                        if let Value::String(id) = value {
                            all.push(Posting { path: path.clone(), at: At::Value(any_class_key(id).into()) });
                        }
                    }
                    Some(all)
                }
                // An empty list matches nothing, so it need not be found.
                Constraint::All(values) if values.is_empty() => Some(Vec::new()),
                Constraint::All(values) => values
                    .iter()
                    .filter_map(|value| Some(vec![posting(path, value)?]))
                    .min_by_key(|postings| self.cost(postings)),
                // What is a document compares with documents of every kind, whose keys are not next to each other.
                Constraint::Lt(value) | Constraint::Lte(value) | Constraint::Gt(value) | Constraint::Gte(value)
                    if value.as_document().is_some() =>
                {
                    None
                }
                Constraint::Lt(value) | Constraint::Lte(value) => {
                    let high = key_of(value)?;
                    Some(vec![within(path, vec![high[0]].into(), high)])
                }
                Constraint::Gt(value) | Constraint::Gte(value) => {
                    let low = key_of(value)?;
                    // The first byte is the type; no key begins with the one after it.
                    let high = vec![low[0] + 1];
                    Some(vec![within(path, low, high.into())])
                }
                Constraint::Matches(regex) => {
                    let mut low = key_of(&Value::string(literal_prefix(regex)?))?.into_vec();
                    // Without the two bytes that end a text; and behind it what is above every continuation.
                    low.truncate(low.len() - 2);
                    let mut high = low.clone();
                    high.push(0xff);
                    Some(vec![within(path, low.into(), high.into())])
                }
                Constraint::Ne(_)
                | Constraint::Nin(_)
                | Constraint::AllMatch(_)
                | Constraint::Exists(_)
                | Constraint::RelatedTo(_) => None,
            },
        }
    }

    /// How many useless candidates these postings threaten: filters that share a value are found together, and a flag
    /// is true of far more objects than a pointer to one conversation is.
    fn cost(&self, postings: &[Posting]) -> usize {
        postings.iter().map(|posting| (self.posted(posting) + 1) * commonness(&posting.at)).sum()
    }

    fn posted(&self, posting: &Posting) -> usize {
        let paths = self.by_field.get(head(&posting.path)).map_or(&[][..], Vec::as_slice);
        let path = paths.iter().find(|known| known.path == posting.path);
        path.map_or(0, |path| match &posting.at {
            At::Value(key) => path.filters.get(key).map_or(0, IdList::len),
            At::Within(_) => path.ranges.len(),
        })
    }
}

impl PathIndex {
    fn new(path: CompactString) -> Self {
        Self { path, filters: HashMap::new(), any_class: 0, ranges: Intervals::default() }
    }

    fn insert(&mut self, group: GroupId, at: &At) {
        match at {
            At::Value(key) => {
                let ids = self.filters.entry(key.clone()).or_default();
                self.any_class += usize::from(ids.is_empty() && key.first() == Some(&ANY_CLASS));
                ids.insert(group);
            }
            At::Within(interval) => self.ranges.insert(interval.clone(), group),
        }
    }

    fn remove(&mut self, group: GroupId, at: &At) {
        match at {
            At::Value(key) => {
                let Some(ids) = self.filters.get_mut(key) else { return };
                ids.remove(group);
                if ids.is_empty() {
                    self.filters.remove(key);
                    self.any_class -= usize::from(key.first() == Some(&ANY_CLASS));
                }
            }
            At::Within(interval) => self.ranges.remove(interval, group),
        }
    }

    fn look_up(&self, object: &Object, lookup: &mut Lookup) {
        let mut stretches: Vec<Interval> = Vec::new();
        let mut look_up_value = |value: &Value| {
            if !is_postable(value) {
                return;
            }
            self.look_up_value(value, lookup);
            if !self.ranges.is_empty() {
                widen(&mut stretches, &lookup.key);
            }
        };
        visit_path(object, &self.path, &mut |found| {
            match found.value {
                Some(Value::Array(items)) => items.iter().for_each(&mut look_up_value),
                Some(value) => look_up_value(value),
                None => {}
            }
            false
        });
        for Interval { low, high } in stretches {
            self.ranges.visit(&low, &high, &mut |id| lookup.add_one(id));
        }
    }

    /// Leaves the key of the value in the lookup.
    fn look_up_value(&self, value: &Value, lookup: &mut Lookup) {
        let mut key = std::mem::take(&mut lookup.key);
        key.clear();
        write_key(value, &mut key);
        if let Some(ids) = self.filters.get(key.as_slice()) {
            lookup.add(ids);
        }
        if self.any_class > 0
            && let Value::Pointer(pointer) = value
            && let Some(ids) = self.filters.get(any_class_key(&pointer.id).as_slice())
        {
            lookup.add(ids);
        }
        lookup.key = key;
    }
}

fn posting(path: &CompactString, value: &Value) -> Option<Posting> {
    Some(Posting { path: path.clone(), at: At::Value(key_of(value)?) })
}

fn within(path: &CompactString, low: Box<[u8]>, high: Box<[u8]>) -> Posting {
    Posting { path: path.clone(), at: At::Within(Interval { low, high }) }
}

fn key_of(value: &Value) -> Option<Box<[u8]>> {
    is_postable(value).then(|| tidings_protocol::order::key(value).into())
}

/// Several bounds on one field are one interval, as far as they are of one type.
fn narrow(plans: &mut Vec<Vec<Posting>>) {
    let mut at = 0;
    while at < plans.len() {
        let (done, rest) = plans.split_at_mut(at);
        let [Posting { path, at: At::Within(new) }] = rest[0].as_slice() else {
            at += 1;
            continue;
        };
        let same = done.iter_mut().find_map(|plan| match plan.as_mut_slice() {
            [Posting { path: known, at: At::Within(interval) }] if known == path => {
                (interval.low[0] == new.low[0]).then_some(interval)
            }
            _ => None,
        });
        match same {
            Some(interval) => {
                interval.low = interval.low.clone().max(new.low.clone());
                interval.high = interval.high.clone().min(new.high.clone());
                plans.remove(at);
            }
            None => at += 1,
        }
    }
}

/// Takes one more value of a field into the stretch of values of its type. All values of an array count as one stretch,
/// because each bound may be met by another element.
fn widen(stretches: &mut Vec<Interval>, key: &[u8]) {
    match stretches.iter_mut().find(|stretch| stretch.low[0] == key[0]) {
        Some(stretch) if *key < *stretch.low => stretch.low = key.into(),
        Some(stretch) if *key > *stretch.high => stretch.high = key.into(),
        Some(_) => {}
        None => stretches.push(Interval { low: key.into(), high: key.into() }),
    }
}

/// `null` also matches what is missing, an array matches as a whole or by element, and a file every one of its name: none
/// is one value to look up.
fn is_postable(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Array(_) | Value::File(_))
}

fn any_class_key(id: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(id.len() + 1);
    key.push(ANY_CLASS);
    key.extend_from_slice(id.as_bytes());
    key
}

fn head(path: &str) -> &str {
    path.split_once('.').map_or(path, |(head, _)| head)
}

/// A guess how many objects share such a value, from the kind that its key begins with.
fn commonness(at: &At) -> usize {
    let At::Value(key) = at else { return 256 };
    match key.first() {
        // Ids and pointers.
        Some(&ANY_CLASS | 0x22) => 1,
        // Strings.
        Some(0x20) => 4,
        // Booleans.
        Some(0x60) => 64,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidings_protocol::matches::Matcher;
    use tidings_protocol::value::Map;
    use tidings_protocol::{ClassName, ObjectId};

    fn predicate(json: &str) -> Predicate {
        Predicate::from_map(&Map::from_json(json.as_bytes()).unwrap()).unwrap()
    }

    fn object(json: &str) -> Object {
        Object { id: ObjectId::new("o1"), fields: Map::from_json(json.as_bytes()).unwrap(), ..Object::default() }
    }

    fn found(index: &PredicateIndex, objects: &[&Object]) -> Vec<GroupId> {
        let mut lookup = Lookup::default();
        lookup.begin(10_000);
        objects.iter().for_each(|object| index.look_up(object, &mut lookup));
        lookup.found.sort_unstable();
        lookup.found.clone()
    }

    #[track_caller]
    fn check(filter: &str, candidate_of: &str, expected: bool) {
        let mut index = PredicateIndex::default();
        let access = index.insert(7, &predicate(filter));
        let object = object(candidate_of);
        assert_eq!(found(&index, &[&object]) == [7], expected, "{filter} {candidate_of}");
        index.remove(7, &access);
        assert!(found(&index, &[&object]).is_empty());
        assert!(index.by_field.is_empty() && index.residual.is_empty());
    }

    const POINTER: &str = r#"{"__type":"Pointer","className":"C","objectId":"x"}"#;

    #[test]
    fn filters_are_found_under_their_values_only() {
        check(r#"{"a":1}"#, r#"{"a":1.0}"#, true);
        check(r#"{"a":1}"#, r#"{"a":2}"#, false);
        check(r#"{"a":1}"#, r#"{"a":[3,1]}"#, true);
        check(r#"{"a":"x"}"#, r#"{"b":"x"}"#, false);
        check(r#"{"objectId":"o1"}"#, "{}", true);
        check(r#"{"objectId":"o2"}"#, "{}", false);
        check(r#"{"o.a":1}"#, r#"{"o":{"a":1}}"#, true);
        check(r#"{"o.a":1}"#, r#"{"o":[{"b":1},{"a":1}]}"#, true);
        check(r#"{"o.a":1}"#, r#"{"o":{"a":2}}"#, false);
        check(r#"{"a":{"$in":[1,"x"]}}"#, r#"{"a":"x"}"#, true);
        check(r#"{"a":{"$in":[1,"x"]}}"#, r#"{"a":3}"#, false);
        check(r#"{"a":{"$all":[1,2]}}"#, r#"{"a":[5]}"#, false);
        check(r#"{"a":{"$all":[1,2]}}"#, r#"{"a":[2,1]}"#, true);
        check(r#"{"$or":[{"a":1},{"b":2}]}"#, r#"{"b":2}"#, true);
        check(r#"{"$or":[{"a":1},{"b":2}]}"#, r#"{"a":2,"b":1}"#, false);
        check(r#"{"$or":[{"a":1},{"b":{"$gt":2}}]}"#, r#"{"b":3}"#, true);
        check(r#"{"$or":[{"a":1},{"b":{"$gt":2}}]}"#, r#"{"b":1}"#, false);
        check(r#"{"$or":[{"a":1},{"b":{"$ne":2}}]}"#, "{}", true);
        check(r#"{"a":{"$gt":1,"$lt":5}}"#, r#"{"a":3}"#, true);
        check(r#"{"a":{"$gt":1,"$lt":5}}"#, r#"{"a":6}"#, false);
        check(r#"{"a":{"$gt":1,"$lt":5}}"#, r#"{"a":"3"}"#, false);
        check(r#"{"a":{"$gt":1,"$lt":5}}"#, r#"{"a":[0,9]}"#, true);
        check(r#"{"a":{"$gte":"m"}}"#, r#"{"a":"z"}"#, true);
        check(r#"{"a":{"$gte":"m"}}"#, r#"{"a":1}"#, false);
        check(r#"{"a":{"$regex":"^ab"}}"#, r#"{"a":"abc"}"#, true);
        check(r#"{"a":{"$regex":"^ab"}}"#, r#"{"a":["x","ab"]}"#, true);
        check(r#"{"a":{"$regex":"^\\Qa.b\\E"}}"#, r#"{"a":"a.bc"}"#, true);
        check(r#"{"a":{"$regex":"^ab"}}"#, r#"{"a":"aac"}"#, false);
        check(r#"{"a":{"$regex":"^ab"}}"#, r#"{"a":"ac"}"#, false);
        check(r#"{"a":1,"n":{"$gt":5}}"#, r#"{"n":9}"#, false);
        check(&format!(r#"{{"p":{POINTER}}}"#), &format!(r#"{{"p":{POINTER}}}"#), true);
        check(r#"{"p":{"$in":["x"]}}"#, &format!(r#"{{"p":{POINTER}}}"#), true);
        check(r#"{"p":{"$in":["y"]}}"#, &format!(r#"{{"p":{POINTER}}}"#), false);
        check(r#"{"p":"x"}"#, &format!(r#"{{"p":{POINTER}}}"#), false);
    }

    #[test]
    fn what_promises_no_value_is_residual() {
        for filter in [
            "{}",
            r#"{"a":null}"#,
            r#"{"a":{"$in":[1,null]}}"#,
            r#"{"a":{"$gte":null}}"#,
            r#"{"a":{"$ne":1}}"#,
            r#"{"a":{"$exists":true}}"#,
            r#"{"a":{"$regex":"x"}}"#,
            r#"{"a":{"$eq":[1,2]}}"#,
            r#"{"$nor":[{"a":1}]}"#,
        ] {
            let mut index = PredicateIndex::default();
            assert_eq!(index.insert(0, &predicate(filter)), Access::Residual, "{filter}");
            assert_eq!(index.residual(), 1);
        }
    }

    #[test]
    fn a_shared_clause_is_avoided() {
        let mut index = PredicateIndex::default();
        for room in 0..1_000 {
            index.insert(room, &predicate(&format!(r#"{{"kind":"message","live":true,"room":"r{room}"}}"#)));
        }
        let message = object(r#"{"kind":"message","live":true,"room":"r77"}"#);
        let candidates = found(&index, &[&message]);
        assert!(candidates.contains(&77) && candidates.len() < 8, "{}", candidates.len());
    }

    #[test]
    fn a_filter_found_in_both_images_counts_once() {
        let mut index = PredicateIndex::default();
        index.insert(3, &predicate(r#"{"a":{"$in":[1,2]}}"#));
        assert_eq!(found(&index, &[&object(r#"{"a":[1,2]}"#), &object(r#"{"a":2}"#)]), [3]);
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            3 => (0..4_i32).prop_map(|n| Value::Number(f64::from(n))),
            2 => prop::sample::select(vec!["x", "y", "t1"]).prop_map(Value::from),
            1 => any::<bool>().prop_map(Value::Bool),
            1 => Just(Value::Null),
            2 => prop::sample::select(vec!["t1", "t2"])
                .prop_map(|id| Value::pointer(ClassName::from_trusted("T"), ObjectId::new(id))),
        ];
        scalar.prop_recursive(2, 6, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
                prop::collection::vec((prop::sample::select(vec!["a", "b"]), inner), 0..3).prop_map(|pairs| {
                    Value::Object(Map::from_pairs(
                        pairs.into_iter().map(|(name, value)| (name.into(), value)).collect(),
                    ))
                }),
            ]
        })
    }

    fn any_path() -> impl Strategy<Value = CompactString> {
        prop::sample::select(vec!["a", "b", "c", "a.a", "a.b", "b.0", "objectId"]).prop_map(CompactString::from)
    }

    fn any_predicate() -> impl Strategy<Value = Predicate> {
        let constraint = prop_oneof![
            4 => any_value().prop_map(Constraint::Eq),
            3 => prop::collection::vec(any_value(), 0..4).prop_map(Constraint::In),
            2 => prop::collection::vec(any_value(), 0..3).prop_map(Constraint::All),
            1 => any_value().prop_map(Constraint::Ne),
            1 => any_value().prop_map(Constraint::Gt),
            1 => any_value().prop_map(Constraint::Gte),
            1 => any_value().prop_map(Constraint::Lt),
            1 => any_value().prop_map(Constraint::Lte),
            1 => prop::sample::select(vec!["^x", "^t1", "^t.", "^(x|y)", "x", "^", "^tx?", "^\\Qt1\\E"]).prop_map(|pattern| {
                Constraint::Matches(tidings_protocol::query::Regex { pattern: pattern.into(), options: "".into() })
            }),
            1 => prop::collection::vec(any_value(), 0..3).prop_map(Constraint::Nin),
            1 => any::<bool>().prop_map(Constraint::Exists),
        ];
        let field = (any_path(), constraint).prop_map(|(path, constraint)| Predicate::Field { path, constraint });
        field.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                3 => prop::collection::vec(inner.clone(), 0..3).prop_map(Predicate::And),
                2 => prop::collection::vec(inner.clone(), 1..3).prop_map(Predicate::Or),
                1 => prop::collection::vec(inner, 1..3).prop_map(Predicate::Nor),
            ]
        })
    }

    fn any_object() -> impl Strategy<Value = Object> {
        prop::collection::vec((prop::sample::select(vec!["a", "b", "c"]), any_value()), 0..4).prop_map(|pairs| {
            let fields = Map::from_pairs(pairs.into_iter().map(|(name, value)| (name.into(), value)).collect());
            Object { id: ObjectId::new("t1"), fields, ..Object::default() }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]
        #[test]
        fn candidates_are_never_too_few(
            predicates in prop::collection::vec(any_predicate(), 1..24),
            removed in prop::collection::vec(any::<bool>(), 24),
            objects in prop::collection::vec(any_object(), 1..6),
        ) {
            let mut index = PredicateIndex::default();
            let accesses: Vec<_> =
                predicates.iter().enumerate().map(|(id, predicate)| index.insert(id as u32, predicate)).collect();
            for (id, access) in accesses.iter().enumerate() {
                if removed[id] {
                    index.remove(id as u32, access);
                }
            }
            for object in &objects {
                let candidates = found(&index, &[object]);
                for (id, predicate) in predicates.iter().enumerate() {
                    let is_candidate = candidates.contains(&(id as u32));
                    prop_assert!(!(removed[id] && is_candidate), "removed {predicate:?}");
                    if !removed[id] && Matcher::new(predicate).unwrap().matches(object) {
                        prop_assert!(is_candidate, "{predicate:?} {object:?}");
                    }
                }
            }
        }
    }
}
