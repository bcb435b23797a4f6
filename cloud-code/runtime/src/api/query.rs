//! `query("Message").equal_to("sender", user).descending("createdAt").limit(10).find()`

use super::{ObjectRef, misuse, never_unit, raise};
use crate::convert::from_dynamic;
use crate::engine::{Raised, call_host, charge};
use compact_str::CompactString;
use rhai::{Array, Dynamic, Engine, INT};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidings_protocol::names::{invalid_field_name, is_field_path};
use tidings_protocol::query::{Constraint, MAX_CLAUSES, MAX_REGEX, Order, Regex};
use tidings_protocol::{ClassName, Error, ObjectId, Predicate, Query, Value};

/// How many objects one `find` may bring into a script.
const MAX_RESULTS: u64 = 10_000;

/// A handle, as in Parse: each method changes the query and gives it back.
#[derive(Clone, Debug)]
pub(crate) struct QueryRef(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    query: Query,
    master: bool,
    clauses: usize,
}

/// All of these, if there is one.
pub(crate) fn combined(mut predicates: Vec<Predicate>) -> Option<Predicate> {
    match predicates.len() {
        0 => None,
        1 => predicates.pop(),
        _ => Some(Predicate::And(predicates)),
    }
}

impl QueryRef {
    fn new(query: Query, clauses: usize) -> Self {
        Self(Arc::new(Mutex::new(State { query, master: false, clauses })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn predicate(&self) -> Predicate {
        self.lock().query.predicate.clone()
    }

    fn changed(&self, change: impl FnOnce(&mut State)) -> Self {
        change(&mut self.lock());
        self.clone()
    }

    fn constrain(&self, path: &str, constraint: Constraint) -> Raised<Self> {
        check_path(path)?;
        {
            let mut state = self.lock();
            state.clauses += 1;
            if state.clauses > MAX_CLAUSES {
                return Err(raise(Error::invalid_query("The query has too many constraints.")));
            }
            let clause = Predicate::field(CompactString::from(path), constraint);
            match &mut state.query.predicate {
                Predicate::And(all) => all.push(clause),
                other => {
                    let first = std::mem::replace(other, Predicate::everything());
                    *other = first.and(clause);
                }
            }
        }
        Ok(self.clone())
    }

    fn order(&self, path: &str, descending: bool, append: bool) -> Raised<Self> {
        check_path(path)?;
        charge(path.len())?;
        Ok(self.changed(|state| {
            if !append {
                state.query.order.clear();
            }
            state.query.order.push(Order { path: path.into(), descending });
        }))
    }

    fn find(&self, limit: Option<u64>) -> Raised<Vec<ObjectRef>> {
        let (query, master) = {
            let state = self.lock();
            let mut query = state.query.clone();
            query.limit = limit.or(query.limit);
            (query, state.master)
        };
        let class = query.class.clone();
        let found = call_host(master, |_, _| None, |host, call| host.find(call, query))?;
        charge(found.iter().map(tidings_protocol::Object::weight).sum())?;
        Ok(found.into_iter().map(|object| ObjectRef::found(class.clone(), object)).collect())
    }

    fn count(&self) -> Raised<INT> {
        let (query, master) = {
            let state = self.lock();
            (state.query.clone(), state.master)
        };
        let count = call_host(master, |_, _| None, |host, call| host.count(call, query))?;
        Ok(INT::try_from(count).unwrap_or(INT::MAX))
    }

    fn get(&self, id: &str) -> Raised<Dynamic> {
        let (class, master) = {
            let state = self.lock();
            (state.query.class.clone(), state.master)
        };
        let id = ObjectId::new(id);
        let found = call_host(
            master,
            |host, call| host.get_from_memory(call, &class, &id),
            |host, call| host.get(call, &class, &id),
        )?;
        let Some(object) = found else { return Ok(Dynamic::UNIT) };
        charge(object.weight())?;
        Ok(Dynamic::from(ObjectRef::found(class, object)))
    }
}

fn check_path(path: &str) -> Raised<()> {
    if is_field_path(path) { Ok(()) } else { Err(raise(invalid_field_name(path))) }
}

fn list(values: Array) -> Raised<Vec<Value>> {
    match from_dynamic(&values.into())? {
        Value::Array(values) if values.len() <= tidings_protocol::query::MAX_LIST => Ok(values),
        _ => Err(raise(Error::invalid_query("The list has too many values."))),
    }
}

fn regex(pattern: &str, options: &str) -> Raised<Regex> {
    if pattern.len() > MAX_REGEX || !options.chars().all(|option| "imxsu".contains(option)) {
        return Err(misuse(format!("a regular expression has at most {MAX_REGEX} bytes, and options of imxsu")));
    }
    Ok(Regex { pattern: pattern.into(), options: options.into() })
}

/// Text that a regular expression takes as it is.
fn quoted(text: &str) -> String {
    format!("\\Q{}\\E", text.replace("\\E", "\\E\\\\E\\Q"))
}

/// Objects that match one of the queries, all of one class.
fn any_of(queries: &[QueryRef]) -> Raised<QueryRef> {
    let class = queries.first().map(|query| query.lock().query.class.clone());
    let class = class.ok_or_else(|| misuse("any_of needs queries"))?;
    let mut clauses = 1;
    let mut parts = Vec::with_capacity(queries.len());
    for query in queries {
        let state = query.lock();
        if state.query.class != class {
            return Err(misuse("the queries of any_of are of one class"));
        }
        clauses += state.clauses.max(1);
        parts.push(state.query.predicate.clone());
    }
    if clauses > MAX_CLAUSES {
        return Err(raise(Error::invalid_query("The query has too many constraints.")));
    }
    let mut query = Query::all(class);
    query.predicate = Predicate::And(vec![Predicate::Or(parts)]);
    Ok(QueryRef::new(query, clauses))
}

fn natural(number: INT, what: &str) -> Raised<u64> {
    u64::try_from(number).map_err(|_| misuse(format!("{what} cannot be negative")))
}

pub(crate) fn register(engine: &mut Engine) {
    engine.register_type_with_name::<QueryRef>("Query").register_fn("query", |class: &str| -> Raised<QueryRef> {
        Ok(QueryRef::new(Query::all(ClassName::parse(class).map_err(raise)?), 0))
    });
    register_constraints(engine);
    register_page(engine);
    engine
        .register_fn("any_of", |a: QueryRef, b: QueryRef| any_of(&[a, b]))
        .register_fn("any_of", |a: QueryRef, b: QueryRef, c: QueryRef| any_of(&[a, b, c]))
        .register_fn("any_of", |queries: Array| {
            let queries: Option<Vec<QueryRef>> = queries.into_iter().map(Dynamic::try_cast).collect();
            any_of(&queries.ok_or_else(|| misuse("any_of takes queries"))?)
        })
        .register_fn("with_master_key", |query: &mut QueryRef| query.changed(|state| state.master = true))
        .register_fn("find", |query: &mut QueryRef| -> Raised<Array> {
            Ok(query.find(None)?.into_iter().map(Dynamic::from).collect())
        })
        .register_fn("first", |query: &mut QueryRef| -> Raised<Dynamic> {
            Ok(query.find(Some(1))?.into_iter().next().map_or(Dynamic::UNIT, Dynamic::from))
        })
        .register_fn("count", |query: &mut QueryRef| query.count())
        .register_fn("get", |query: &mut QueryRef, id: &str| query.get(id));
    never_unit::<QueryRef>(engine);
}

fn register_constraints(engine: &mut Engine) {
    for (name, constraint) in [
        ("equal_to", Constraint::Eq as fn(Value) -> Constraint),
        ("not_equal_to", Constraint::Ne),
        ("less_than", Constraint::Lt),
        ("less_than_or_equal_to", Constraint::Lte),
        ("greater_than", Constraint::Gt),
        ("greater_than_or_equal_to", Constraint::Gte),
    ] {
        engine.register_fn(name, move |query: &mut QueryRef, path: &str, value: Dynamic| {
            query.constrain(path, constraint(from_dynamic(&value)?))
        });
    }
    for (name, constraint) in [
        ("contained_in", Constraint::In as fn(Vec<Value>) -> Constraint),
        ("not_contained_in", Constraint::Nin),
        ("contains_all", Constraint::All),
    ] {
        engine.register_fn(name, move |query: &mut QueryRef, path: &str, values: Array| {
            query.constrain(path, constraint(list(values)?))
        });
    }
    engine
        .register_fn("exists", |query: &mut QueryRef, path: &str| query.constrain(path, Constraint::Exists(true)))
        .register_fn("does_not_exist", |query: &mut QueryRef, path: &str| {
            query.constrain(path, Constraint::Exists(false))
        })
        .register_fn("matches", |query: &mut QueryRef, path: &str, pattern: &str| {
            query.constrain(path, Constraint::Matches(regex(pattern, "")?))
        })
        .register_fn("matches", |query: &mut QueryRef, path: &str, pattern: &str, options: &str| {
            query.constrain(path, Constraint::Matches(regex(pattern, options)?))
        })
        .register_fn("starts_with", |query: &mut QueryRef, path: &str, text: &str| {
            query.constrain(path, Constraint::Matches(regex(&format!("^{}", quoted(text)), "")?))
        });
}

fn register_page(engine: &mut Engine) {
    engine
        .register_fn("ascending", |query: &mut QueryRef, path: &str| query.order(path, false, false))
        .register_fn("descending", |query: &mut QueryRef, path: &str| query.order(path, true, false))
        .register_fn("add_ascending", |query: &mut QueryRef, path: &str| query.order(path, false, true))
        .register_fn("add_descending", |query: &mut QueryRef, path: &str| query.order(path, true, true))
        .register_fn("limit", |query: &mut QueryRef, limit: INT| -> Raised<QueryRef> {
            let limit = natural(limit, "a limit")?.min(MAX_RESULTS);
            Ok(query.changed(|state| state.query.limit = Some(limit)))
        })
        .register_fn("skip", |query: &mut QueryRef, skip: INT| -> Raised<QueryRef> {
            let skip = natural(skip, "skip")?;
            Ok(query.changed(|state| state.query.skip = skip))
        });
}
