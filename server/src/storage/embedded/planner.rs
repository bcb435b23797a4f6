//! Which way to the objects that a selection asks for: by id, through an index, or through all of the class.
//!
//! An access path may yield objects that do not match, never miss one that does: whoever reads it asks the predicate
//! again. So a constraint that an index cannot express exactly is left out here.

use super::catalog::ClassState;
use super::indexes::{Index, Kind};
use super::keys::after_prefix;
use crate::schema::FieldType;
use crate::storage::Selection;
use compact_str::CompactString;
use tidings_protocol::order::key;
use tidings_protocol::query::{Constraint, Order};
use tidings_protocol::{ObjectId, Predicate, Value};

/// How many separate ranges of one index a path may read.
const MAX_RANGES: usize = 1_000;
/// How many ordered ranges are merged; with more, sorting in memory is cheaper than that many open cursors.
const MAX_MERGED: usize = 32;

#[derive(Debug)]
pub(super) enum Access {
    /// At most these objects.
    Ids(Vec<ObjectId>),
    Index(IndexAccess),
    /// All of the class, as they were created.
    Scan,
}

#[derive(Debug)]
pub(super) struct IndexAccess {
    /// The fields of the index; of several, all of theirs.
    pub(super) fields: Vec<CompactString>,
    pub(super) ranges: Vec<Range>,
    /// Set if reading each range in this direction gives the order of the selection.
    pub(super) order: Option<Direction>,
    /// Whether different ranges may name the same object.
    pub(super) repeats: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Backward,
}

/// Keys of an index: from one on, up to another one. All begin with the same `fixed` bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Range {
    pub(super) from: Vec<u8>,
    pub(super) to: Vec<u8>,
    pub(super) fixed: usize,
}

/// The path to take. Where several indexes promise the same, `measure` tells how many entries each would read, up to
/// some number.
pub(super) fn plan(class: &ClassState, selection: &Selection, measure: impl Fn(&IndexAccess) -> usize) -> Access {
    let mut clauses = Vec::new();
    conjuncts(&selection.predicate, &mut clauses);
    if let Some(ids) = ids(&clauses) {
        return Access::Ids(ids);
    }
    let mut best = best_paths(class, &clauses, &selection.order);
    if best.len() > 1 {
        best.sort_by_cached_key(|access| measure(access));
    }
    match best.into_iter().next().or_else(|| union(class, &selection.predicate)) {
        Some(access) => Access::Index(access),
        None => Access::Scan,
    }
}

/// The paths through single indexes that are worth most.
fn best_paths(class: &ClassState, clauses: &[Clause], order: &[Order]) -> Vec<IndexAccess> {
    let mut most = 0;
    let mut best = Vec::new();
    for index in class.indexes.iter().filter(|index| index.building.is_none()) {
        let Some((worth, access)) = through(index, class, clauses, order) else { continue };
        if worth > most {
            best.clear();
            most = worth;
        }
        if worth == most {
            best.push(access);
        }
    }
    best
}

/// `$or`, where an index helps with each of its branches.
fn union(class: &ClassState, predicate: &Predicate) -> Option<IndexAccess> {
    match predicate {
        Predicate::And(parts) => parts.iter().find_map(|part| union(class, part)),
        Predicate::Or(branches) => {
            let mut all = IndexAccess { fields: Vec::new(), ranges: Vec::new(), order: None, repeats: true };
            for branch in branches {
                let mut clauses = Vec::new();
                conjuncts(branch, &mut clauses);
                let access = best_paths(class, &clauses, &[]).into_iter().next().or_else(|| union(class, branch))?;
                all.ranges.extend(access.ranges);
                all.fields.extend(access.fields);
            }
            (!all.ranges.is_empty() && all.ranges.len() <= MAX_RANGES).then_some(all)
        }
        Predicate::Nor(_) | Predicate::Field { .. } => None,
    }
}

type Clause<'a> = (&'a str, &'a Constraint);

fn conjuncts<'a>(predicate: &'a Predicate, out: &mut Vec<Clause<'a>>) {
    match predicate {
        Predicate::And(parts) => parts.iter().for_each(|part| conjuncts(part, out)),
        Predicate::Field { path, constraint } => out.push((path, constraint)),
        Predicate::Or(_) | Predicate::Nor(_) => {}
    }
}

fn ids(clauses: &[Clause]) -> Option<Vec<ObjectId>> {
    let id = |value: &Value| value.as_str().map(ObjectId::new);
    clauses.iter().filter(|(path, _)| *path == "objectId").find_map(|(_, constraint)| match constraint {
        Constraint::Eq(value) => Some(id(value).into_iter().collect()),
        Constraint::In(values) => Some(values.iter().filter_map(id).collect()),
        _ => None,
    })
}

/// The path through one index, and how much it narrows. `None` if it does not help.
fn through(index: &Index, class: &ClassState, clauses: &[Clause], order: &[Order]) -> Option<(u32, IndexAccess)> {
    let fields = &index.shape.fields;
    // Behind a column of arrays, entries say nothing certain.
    let usable = 1 + fields.iter().skip(1).take_while(|field| !class.is_array(&field.name)).count();
    let mut prefixes = vec![index.prefix()];
    let mut worth = 0;
    // Components that one value each fixes.
    let mut fixed = 0;
    let mut bounded = 0;
    for (at, field) in fields.iter().enumerate().take(usable) {
        let on_field = clauses.iter().filter(|(path, _)| *path == field.name).map(|(_, constraint)| *constraint);
        let points = on_field.filter_map(|constraint| points(index, at, class, constraint));
        let Some(points) = points.min_by_key(Vec::len) else { break };
        if prefixes.len() * points.len() > MAX_RANGES {
            break;
        }
        worth += if points.len() <= 1 { 100 } else { 60 };
        if points.len() == 1 && prefixes.len() == 1 {
            fixed += 1;
        }
        prefixes =
            prefixes.iter().flat_map(|prefix| points.iter().map(|point| [prefix.as_slice(), point].concat())).collect();
        bounded += 1;
    }
    let bounds = match fields.get(bounded) {
        Some(field) if bounded < usable && index.shape.kind == Kind::Values => {
            bounds(index, bounded, clauses.iter().filter(|(path, _)| *path == field.name).map(|(_, limit)| *limit))
        }
        _ => None,
    };
    if index.shape.kind == Kind::Folded && bounded > 0 {
        // At most a handful of objects share a unique text.
        worth += 400;
    }
    if bounds.is_some() {
        worth += 45;
    }
    let ranges: Vec<Range> = prefixes.into_iter().filter_map(|prefix| range(prefix, bounds.as_ref())).collect();
    let order = direction(index, class, order, fixed, bounded, usable)
        .filter(|_| ranges.len() <= 1 || ranges.len() <= MAX_MERGED && !index.shape.kind.is_multiple());
    // Objects without a first component have no entry, so that an index in which nothing is bounded is read only for
    // an order by what every object has.
    let is_complete = matches!(index.shape.first(), "createdAt" | "updatedAt" | "objectId");
    if worth == 0 && !(is_complete && order.is_some()) {
        return None;
    }
    if order.is_some() {
        worth += 30;
    }
    // Of two that are worth the same, the one with fewer fields has the smaller keys.
    let worth = worth * 8 + (8 - fields.len().min(8)) as u32;
    // An object has several entries only with several elements, and meets them only in several ranges.
    let repeats = index.shape.kind.is_multiple() && ranges.len() > 1;
    Some((worth, IndexAccess { fields: index.field_names(), ranges, order, repeats }))
}

/// The components at which a constraint pins this place of an index. `None` if it does not.
fn points(index: &Index, at: usize, class: &ClassState, constraint: &Constraint) -> Option<Vec<Vec<u8>>> {
    let is_multiple = at == 0 && index.shape.kind.is_multiple();
    // Missing is null, an array equals another as a whole or by an element, a file all of its name: the evaluator knows.
    let pins = |value: &Value| match value {
        Value::Null | Value::Array(_) | Value::File(_) => false,
        _ => !(at == 0 && index.shape.kind == Kind::Pointers) || value.as_pointer().is_some(),
    };
    let component = |value: &Value| {
        let mut out = Vec::with_capacity(32);
        index.write_component(at, value, &mut out);
        out
    };
    let mut points = match constraint {
        Constraint::Eq(value) => vec![pins(value).then(|| component(value))?],
        Constraint::All(values) => vec![component(values.iter().find(|value| pins(value))?)],
        Constraint::In(values) => {
            let target = match class.schema.field_type(&index.shape.fields.get(at)?.name) {
                Some(FieldType::Pointer(target)) => Some(target),
                _ => None,
            };
            let mut points = Vec::with_capacity(values.len());
            for value in values {
                match value {
                    // A plain id stands for a pointer with that id, though not in an array.
                    Value::String(id) if !is_multiple => {
                        points.push(component(value));
                        if let Some(target) = &target {
                            points.push(component(&Value::pointer(target.clone(), ObjectId::new(id.as_str()))));
                        }
                    }
                    _ if !pins(value) => return None,
                    _ => points.push(component(value)),
                }
            }
            points
        }
        _ => return None,
    };
    points.sort_unstable();
    points.dedup();
    Some(points)
}

/// Limits of one component: from (inclusive) and to (exclusive), in the byte order of the index.
struct Bounds {
    from: Vec<u8>,
    to: Vec<u8>,
}

fn bounds<'a>(index: &Index, at: usize, limits: impl Iterator<Item = &'a Constraint>) -> Option<Bounds> {
    let descending = index.shape.fields.get(at)?.descending;
    let mut bounds: Option<Bounds> = None;
    let mut first_type = None;
    for limit in limits {
        let (operand, above, inclusive) = match limit {
            Constraint::Lt(operand) => (operand, false, false),
            Constraint::Lte(operand) => (operand, false, true),
            Constraint::Gt(operand) => (operand, true, false),
            Constraint::Gte(operand) => (operand, true, true),
            _ => continue,
        };
        // Only values of the operand's own type compare with it, and all of those begin with the same byte.
        let kind = *key(operand).first()?;
        // An entry does not have the class of a pointer, by which pointers compare first.
        if matches!(operand, Value::Null | Value::Array(_) | Value::Object(_) | Value::Pointer(_))
            || *first_type.get_or_insert(kind) != kind
        {
            continue;
        }
        let kind = [if descending { !kind } else { kind }];
        let bounds = bounds.get_or_insert(Bounds { from: kind.to_vec(), to: after_prefix(&kind)? });
        let mut component = Vec::with_capacity(32);
        let cut = index.write_component(at, operand, &mut component);
        if cut {
            // What was cut stands for all that begin like it.
            component.pop();
        }
        let inclusive = inclusive || cut;
        let rises = above != descending;
        match (rises, inclusive) {
            (true, true) => bounds.from = component.max(std::mem::take(&mut bounds.from)),
            (true, false) => bounds.from = after_prefix(&component)?.max(std::mem::take(&mut bounds.from)),
            (false, true) => bounds.to = after_prefix(&component)?.min(std::mem::take(&mut bounds.to)),
            (false, false) => bounds.to = component.min(std::mem::take(&mut bounds.to)),
        }
    }
    bounds
}

/// `None` if nothing can lie in it.
fn range(prefix: Vec<u8>, bounds: Option<&Bounds>) -> Option<Range> {
    let fixed = prefix.len();
    let (from, to) = match bounds {
        Some(bounds) => ([&prefix, bounds.from.as_slice()].concat(), [&prefix, bounds.to.as_slice()].concat()),
        None => {
            let to = after_prefix(&prefix)?;
            (prefix, to)
        }
    };
    (from < to).then_some(Range { from, to, fixed })
}

/// In which direction the index gives this order, if it does.
///
/// What remains of the index behind the components that are fixed must be what remains of the order, to the last
/// field: objects that are equal in the order come by their id, and so do entries that are equal in all components.
fn direction(
    index: &Index,
    class: &ClassState,
    order: &[Order],
    fixed: usize,
    bounded: usize,
    usable: usize,
) -> Option<Direction> {
    let fields = &index.shape.fields;
    if order.is_empty() || usable < fields.len() || index.shape.kind == Kind::Folded {
        return None;
    }
    let is_fixed =
        |path: &str| fields[..fixed].iter().any(|field| field.name == path) && !index.shape.kind.is_multiple();
    let mut asked: Vec<&Order> = Vec::with_capacity(order.len());
    for part in order {
        if part.path == "objectId" {
            // Ids are distinct, so that nothing behind one matters; ascending is how ties are broken anyhow.
            if part.descending {
                return None;
            }
            break;
        }
        if !is_fixed(&part.path) && !asked.iter().any(|known| known.path == part.path) {
            asked.push(part);
        }
    }
    let rest = fields.get(bounded..)?;
    if rest.len() != asked.len() || rest.iter().zip(&asked).any(|(field, part)| field.name != part.path) {
        return None;
    }
    // Pointers and their like compare otherwise inside an object than in the keys of an index.
    if rest.iter().any(|field| class.schema.field_type(&field.name) == Some(FieldType::Object)) {
        return None;
    }
    // The elements of an array are no order of its objects.
    if bounded == 0 && index.shape.kind.is_multiple() {
        return None;
    }
    let mut turned = rest.iter().zip(&asked).map(|(field, part)| field.descending != part.descending);
    match turned.next() {
        None | Some(false) => turned.all(|turned| !turned).then_some(Direction::Forward),
        Some(true) => turned.all(|turned| turned).then_some(Direction::Backward),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permissions::Principals;
    use crate::schema::{self, ClassSchema, IndexField};
    use crate::storage::embedded::catalog::Numbers;
    use tidings_protocol::{ClassName, Map};

    fn class() -> ClassState {
        let mut schema = ClassSchema::new(ClassName::from_trusted("Message"));
        schema.fields.insert("conversation".into(), FieldType::Pointer(ClassName::from_trusted("Conversation")));
        schema.fields.insert("readers".into(), FieldType::Array);
        schema.fields.insert("score".into(), FieldType::Number);
        schema.fields.insert("level".into(), FieldType::Number);
        let fields = [("level", false), ("score", true)];
        let fields = fields.map(|(name, descending)| IndexField { name: name.into(), descending });
        schema.indexes.insert("by_level".into(), schema::Index { fields: fields.to_vec() });
        ClassState::new(schema, &mut Numbers { class: 1, index: 1 })
    }

    /// `fields/ranges/direction`, or `ids` or `scan`.
    fn planned(filter: &str, order: &str) -> String {
        let filter = filter.replace("$C", r#"{"__type":"Pointer","className":"Conversation","objectId":"c"}"#);
        let filter = filter.replace("$D", r#"{"__type":"Date","iso":"2026-01-01T00:00:00.000Z"}"#);
        let predicate = Predicate::from_map(&Map::from_json(filter.as_bytes()).unwrap()).unwrap();
        let order = if order.is_empty() { Vec::new() } else { Order::parse(&Value::from(order)).unwrap() };
        let selection =
            Selection { predicate, order, ..Selection::all(ClassName::from_trusted("Message"), Principals::MASTER) };
        match plan(&class(), &selection, |access| access.ranges.len()) {
            Access::Ids(ids) => format!("ids {}", ids.len()),
            Access::Scan => "scan".into(),
            Access::Index(access) => {
                let fields = access.fields.join(",");
                let order = access.order.map_or("-".into(), |direction| format!("{direction:?}"));
                format!("{fields} {} {order}", access.ranges.len())
            }
        }
    }

    #[test]
    fn the_best_path_is_found() {
        for (filter, order, expected) in [
            ("{}", "", "scan"),
            ("{}", "-createdAt", "createdAt 1 Forward"),
            ("{}", "updatedAt,objectId", "updatedAt 1 Backward"),
            ("{}", "conversation", "scan"),
            (r#"{"objectId":"x"}"#, "-createdAt", "ids 1"),
            (r#"{"objectId":{"$in":["x","y",3]}}"#, "", "ids 2"),
            (r#"{"conversation":$C}"#, "-createdAt", "conversation,createdAt 1 Forward"),
            (r#"{"conversation":$C}"#, "conversation,createdAt", "conversation,createdAt 1 Backward"),
            (r#"{"conversation":$C}"#, "", "conversation,createdAt 1 -"),
            (r#"{"conversation":$C}"#, "text", "conversation,createdAt 1 -"),
            (r#"{"conversation":$C,"createdAt":{"$lt":$D}}"#, "-createdAt", "conversation,createdAt 1 Forward"),
            (r#"{"conversation":{"$in":[$C,"d"]}}"#, "-createdAt", "conversation,createdAt 3 Forward"),
            (r#"{"conversation":{"$in":[$C,null]}}"#, "", "scan"),
            (r#"{"conversation":null}"#, "", "scan"),
            (r#"{"createdAt":{"$gt":$D,"$lte":$D}}"#, "createdAt", "createdAt 0 Backward"),
            (r#"{"readers":$C}"#, "", "readers 1 -"),
            (r#"{"readers":{"$all":[$C,3]}}"#, "-createdAt", "readers 1 -"),
            (r#"{"readers":3}"#, "", "scan"),
            (r#"{"readers":{"$in":["c"]}}"#, "", "scan"),
            (r#"{"level":3}"#, "-score", "level,score 1 Forward"),
            (r#"{"level":3}"#, "score", "level,score 1 Backward"),
            (r#"{"level":3,"score":{"$gt":5}}"#, "score", "level,score 1 Backward"),
            (r#"{"level":{"$gt":3}}"#, "level,-score", "level,score 1 Forward"),
            (r#"{"level":{"$gt":3}}"#, "-level,score", "level,score 1 Backward"),
            (r#"{"level":{"$gt":3}}"#, "level", "level,score 1 -"),
            (r#"{"score":3}"#, "", "scan"),
            (r#"{"$or":[{"level":3},{"level":{"$gt":4}}]}"#, "", "level,score,level,score 2 -"),
            (r#"{"$or":[{"level":3},{"readers":$C}],"text":"x"}"#, "text", "level,score,readers 2 -"),
            (r#"{"$or":[{"level":3},{"score":4}]}"#, "", "scan"),
            (r#"{"$nor":[{"level":3}]}"#, "", "scan"),
        ] {
            assert_eq!(planned(filter, order), expected, "{filter} {order}");
        }
    }
}
