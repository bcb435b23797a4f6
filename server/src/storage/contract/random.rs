//! Objects and questions made at random, with few values, so that they often meet.

use super::*;

pub(super) type Field = (CompactString, Value);

pub(super) fn all_fields(rng: &mut StdRng) -> Vec<Field> {
    ["n", "s", "p", "d", "tags", "members", "o"]
        .map(|name| {
            loop {
                let value = value(rng, name);
                if !value.is_null() {
                    break (name.into(), value);
                }
            }
        })
        .to_vec()
}

pub(super) fn some_fields(rng: &mut StdRng) -> Vec<Field> {
    let fields = ["n", "s", "p", "d", "tags", "members", "o"].map(|name| (name.into(), value(rng, name)));
    fields.into_iter().filter(|_| rng.random_bool(0.7)).collect()
}

pub(super) fn pointer(rng: &mut StdRng) -> Value {
    Value::pointer(ClassName::from_trusted("C"), ObjectId::new(*["c1", "c2", "c3"].choose(rng).unwrap()))
}

/// A value that a field of this name may hold.
pub(super) fn value(rng: &mut StdRng, name: &str) -> Value {
    if rng.random_bool(0.1) {
        return Value::Null;
    }
    match name {
        "n" => Value::Number(f64::from(rng.random_range(-2..4)) / 2.0),
        "s" => Value::from(*["", "a", "B", "b", "ab", "c\u{0}d", &"long".repeat(200)].choose(rng).unwrap()),
        "p" => pointer(rng),
        "d" | "createdAt" | "updatedAt" => Value::Date(millis(rng.random_range(0..20))),
        "o" => Value::Object([("x".into(), Value::Number(f64::from(rng.random_range(0..3))))].into_iter().collect()),
        "objectId" => Value::from(format!("x{}", rng.random_range(0..300)).as_str()),
        _ => {
            let item = |rng: &mut StdRng| match rng.random_range(0..5) {
                0 => Value::Number(1.0),
                1 => Value::from("c1"),
                2 if name == "tags" => Value::Array(vec![Value::Number(1.0)]),
                3 => Value::Null,
                _ => pointer(rng),
            };
            Value::Array((0..rng.random_range(0..4)).map(|_| item(rng)).collect())
        }
    }
}

pub(super) fn acl(rng: &mut StdRng) -> Acl {
    Acl::default().with(*["*", "alice", "bob"].choose(rng).unwrap(), true, rng.random_bool(0.5))
}

const PATHS: [&str; 10] = ["n", "s", "p", "d", "tags", "members", "o", "createdAt", "updatedAt", "objectId"];

pub(super) fn filter(rng: &mut StdRng) -> String {
    let clauses = (0..rng.random_range(0..4)).map(|_| clause(rng)).collect::<Vec<_>>();
    let all = format!(r#"{{"$and":[{}]}}"#, clauses.join(","));
    match (clauses.len(), rng.random_range(0..6)) {
        (0, _) => "{}".into(),
        (_, 0) => all.replace("$and", "$or"),
        (_, 1) => format!(r#"{{"$and":[{all},{}]}}"#, clause(rng)),
        _ => all,
    }
}

/// One constraint on one field, often one that an index can answer.
pub(super) fn clause(rng: &mut StdRng) -> String {
    let path = *PATHS.choose(rng).unwrap();
    let one = |rng: &mut StdRng| match value(rng, path) {
        Value::Array(items) if !items.is_empty() => items.choose(rng).unwrap().clone(),
        value => value,
    };
    let list = |rng: &mut StdRng| Value::Array((0..rng.random_range(0..4)).map(|_| one(rng)).collect()).to_json();
    let constraint = match rng.random_range(0..12) {
        0..3 => format!(r#"{{"$eq":{}}}"#, one(rng).to_json()),
        3 => format!(r#"{{"$gt":{}}}"#, one(rng).to_json()),
        4 => format!(r#"{{"$gte":{},"$lt":{}}}"#, one(rng).to_json(), one(rng).to_json()),
        5 => format!(r#"{{"$lte":{}}}"#, one(rng).to_json()),
        6..8 => format!(r#"{{"$in":{}}}"#, list(rng)),
        8 => format!(r#"{{"$all":{}}}"#, list(rng)),
        9 => format!(r#"{{"$nin":{}}}"#, list(rng)),
        10 => format!(r#"{{"$ne":{}}}"#, one(rng).to_json()),
        // A plain id for a pointer.
        _ => r#"{"$in":["c1","c2"]}"#.to_owned(),
    };
    format!(r#"{{"{path}":{constraint}}}"#)
}

/// A filter and an order that go well with an index.
pub(super) fn directed(rng: &mut StdRng) -> (String, Vec<Order>) {
    let pointer = |rng: &mut StdRng| pointer(rng).to_json();
    let one = |rng: &mut StdRng, name: &str| loop {
        let value = value(rng, name);
        if !value.is_null() {
            break value.to_json();
        }
    };
    let (filter, orders) = match rng.random_range(0..9) {
        0 => (format!(r#""p":{}"#, pointer(rng)), ["createdAt", "-createdAt"]),
        1 => (format!(r#""p":{{"$in":[{},"c2",{}]}}"#, pointer(rng), pointer(rng)), ["createdAt", "-createdAt"]),
        2 => {
            let range = format!(r#"{{"$lt":{},"$gte":{}}}"#, one(rng, "d"), one(rng, "d"));
            (format!(r#""p":{},"createdAt":{range}"#, pointer(rng)), ["createdAt", "-createdAt"])
        }
        3 => (format!(r#""p":{},"n":{}"#, pointer(rng), one(rng, "n")), ["d", "-d"]),
        4 => (format!(r#""n":{}"#, one(rng, "n")), ["s", "-s"]),
        5 => (format!(r#""tags":{}"#, pointer(rng)), ["createdAt", "-createdAt,objectId"]),
        6 => (format!(r#""d":{{"$gt":{}}}"#, one(rng, "d")), ["d", "-d"]),
        7 => (format!(r#""n":{{"$lte":{}}}"#, one(rng, "n")), ["n,-s", "-n,s"]),
        _ => {
            let either = format!(r#"[{{"p":{}}},{{"n":{}}}]"#, pointer(rng), one(rng, "n"));
            (format!(r#""$or":{either}"#), ["s,-createdAt", "createdAt"])
        }
    };
    let order = Order::parse(&Value::from(*orders.choose(rng).unwrap())).unwrap();
    (format!("{{{filter}}}"), order)
}

pub(super) fn order(rng: &mut StdRng) -> Vec<Order> {
    let parts = (0..rng.random_range(0..3)).map(|_| {
        let sign = if rng.random_bool(0.5) { "-" } else { "" };
        format!("{sign}{}", PATHS.choose(rng).unwrap())
    });
    let parts = parts.collect::<Vec<_>>().join(",");
    // Orders that an index may have.
    let known = ["createdAt", "-createdAt", "n,-s", "-n,s", "n,-d", "d", "-s", "-createdAt,objectId"];
    let order = if rng.random_bool(0.5) { (*known.choose(rng).unwrap()).to_owned() } else { parts };
    if order.is_empty() { Vec::new() } else { Order::parse(&Value::from(order.as_str())).unwrap() }
}
