//! Random objects and random questions about them, from few enough values that answers are neither all nor nothing.
//!
//! Left out on purpose, because no answer is right for all: members named `__type` (they make an object into something
//! else), names with `$` or `.` (Parse refuses them), relations (their members are not in the object), and expressions and
//! texts on which engines differ (Unicode classes, `$` before a last line break: ours has no such exception).

use crate::permissions::Principals;
use crate::schema::FieldType;
use compact_str::CompactString;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use std::fmt;
use tidings_protocol::query::Order;
use tidings_protocol::value::{File, GeoPoint, Polygon};
use tidings_protocol::{Acl, ClassName, Date, Map, Object, ObjectId, Predicate, Value};

/// Makes a type, as constants cannot.
type MakeType = fn() -> FieldType;

/// The columns of the class: one of each type, and two of arrays.
pub(super) const COLUMNS: [(&str, MakeType); 13] = [
    ("n", || FieldType::Number),
    ("m", || FieldType::Number),
    ("s", || FieldType::String),
    ("t", || FieldType::Boolean),
    ("d", || FieldType::Date),
    ("y", || FieldType::Bytes),
    ("p", || FieldType::Pointer(ClassName::from_trusted("T"))),
    ("f", || FieldType::File),
    ("g", || FieldType::GeoPoint),
    ("area", || FieldType::Polygon),
    ("o", || FieldType::Object),
    ("arr", || FieldType::Array),
    ("tags", || FieldType::Array),
];

/// Indexes that half of the questions find; pointers, dates and arrays of pointers have some anyhow.
pub(super) const INDEXES: [(&str, &str); 8] = [
    ("by_n_s", r#"{"n":1,"s":-1}"#),
    ("by_s", r#"{"s":-1}"#),
    ("by_t_m", r#"{"t":1,"m":1,"updatedAt":-1}"#),
    ("by_y", r#"{"y":1}"#),
    ("by_p_n", r#"{"p":1,"n":-1}"#),
    ("by_o", r#"{"o":1}"#),
    ("by_arr", r#"{"arr":1,"createdAt":-1}"#),
    ("by_tags", r#"{"tags":-1,"n":1}"#),
];

/// Names inside objects, some of them numbers.
const NAMES: [&str; 7] = ["a", "b", "x", "l", "é", "0", "1"];

/// Paths into objects and arrays, and into what has no inside.
const PATHS: [&str; 37] = [
    "o.a",
    "o.b",
    "o.x",
    "o.l",
    "o.é",
    "o.0",
    "o.1",
    "o.a.b",
    "o.a.0",
    "o.a.a",
    "o.l.x",
    "o.l.0",
    "o.l.1.a",
    "o.a.b.x",
    "o.b.0.0",
    "o.a.objectId",
    "o.b.latitude",
    "o.x.name",
    "arr.0",
    "arr.1",
    "arr.a",
    "arr.b",
    "arr.0.a",
    "arr.a.b",
    "arr.a.0",
    "arr.0.0",
    "arr.1.0.a",
    "arr.objectId",
    "arr.longitude",
    "tags.0",
    "tags.x",
    "p.objectId",
    "f.name",
    "s.a",
    "d.0",
    "zzz.a",
    "arr.9",
];

pub(super) struct Case {
    pub(super) objects: Vec<Object>,
    pub(super) asked: Asked,
}

/// A question as a client puts it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) filter: Map,
    /// Names, with a minus in front of those that descend.
    pub(super) order: Vec<String>,
    pub(super) reader: Principals,
    pub(super) skip: u64,
    pub(super) limit: u64,
}

impl Asked {
    /// `None` for a question that is refused.
    pub(super) fn predicate(&self) -> Option<Predicate> {
        Predicate::from_map(&self.filter).ok()
    }

    pub(super) fn order(&self) -> Vec<Order> {
        match self.order.is_empty() {
            true => Vec::new(),
            false => Order::parse(&Value::from(self.order.join(",").as_str())).unwrap(),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for object in &self.objects {
            let mut out = Vec::new();
            object.write_json(&mut out, |_| true);
            writeln!(f, "  object {}", String::from_utf8_lossy(&out))?;
        }
        let Asked { filter, order, reader, skip, limit } = &self.asked;
        writeln!(f, "  where  {}", filter.to_json())?;
        writeln!(f, "  order  {}", order.join(","))?;
        writeln!(f, "  skip   {skip}, limit {limit}, reader {reader:?}")
    }
}

fn chance(rng: &mut StdRng, percent: u32) -> bool {
    rng.random_range(0..100) < percent
}

fn one<T: Clone>(rng: &mut StdRng, of: &[T]) -> T {
    of.choose(rng).expect("there is something to choose from").clone()
}

/// Objects as they are created, one after the other: by time, then by id.
pub(super) fn objects(rng: &mut StdRng) -> Vec<Object> {
    let count = rng.random_range(1..30);
    let mut objects: Vec<Object> = (0..count).map(|at| object(rng, at)).collect();
    objects.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    objects
}

fn object(rng: &mut StdRng, at: usize) -> Object {
    let mut fields: Vec<(CompactString, Value)> = Vec::new();
    for (name, field_type) in COLUMNS {
        if chance(rng, 65) {
            let value = if chance(rng, 10) { Value::Null } else { typed(rng, &field_type()) };
            fields.push((name.into(), value));
        }
    }
    let created = rng.random_range(0..12);
    let acl = match rng.random_range(0..6) {
        0 => Some(Acl::default().with(one(rng, &["*", "alice", "bob"]), true, true)),
        1 => Some(Acl::default().with("alice", chance(rng, 50), true)),
        _ => None,
    };
    Object {
        id: ObjectId::new(format!("{}{at}", one(rng, &["a", "b", "c", "A", "é"]))),
        created_at: date(created),
        updated_at: date(created + rng.random_range(0..3)),
        acl,
        fields: fields.into_iter().collect(),
    }
}

fn date(millis: i64) -> Date {
    Date::from_millis(millis).unwrap()
}

/// A value that a column of this type may hold.
fn typed(rng: &mut StdRng, field_type: &FieldType) -> Value {
    match field_type {
        FieldType::Number => number(rng),
        FieldType::String => text(rng),
        FieldType::Boolean => Value::Bool(chance(rng, 50)),
        FieldType::Date => day(rng),
        FieldType::Bytes => bytes(rng),
        FieldType::Pointer(_) => pointer(&["T"], rng),
        FieldType::File => Value::File(Box::new(File { name: one(rng, &["f1.png", "f2.png"]).into(), url: None })),
        FieldType::GeoPoint => geo_point(rng),
        FieldType::Polygon => polygon(rng),
        FieldType::Object => Value::Object(map(rng, 3)),
        FieldType::Array => Value::Array(items(rng, 3)),
        FieldType::Relation(_) | FieldType::Acl => Value::Null,
    }
}

fn number(rng: &mut StdRng) -> Value {
    const NUMBERS: [f64; 20] = [
        0.0,
        -0.0,
        1.0,
        1.0,
        2.0,
        3.0,
        -1.0,
        0.5,
        -1.5,
        10.0,
        2_147_483_647.0,
        2_147_483_648.0,
        -2_147_483_649.0,
        9_007_199_254_740_992.0,
        9_007_199_254_740_994.0,
        1e12,
        1e300,
        -1e300,
        f64::MAX,
        5e-324,
    ];
    Value::Number(one(rng, &NUMBERS))
}

fn text(rng: &mut StdRng) -> Value {
    const TEXTS: [&str; 25] = [
        "", "a", "a", "A", "ab", "abc", "b", "B", "a.b", "t1", "t2", "T$t1", "0", "1", "é", "e\u{301}", "É", "ß", "😀",
        "\u{ffff}", "a\u{0}b", "a b", "x\ny", "null", "zz",
    ];
    // Keys of indexes hold only the beginning of a long one.
    if chance(rng, 3) {
        return Value::from(format!("{}{}", "long".repeat(150), one(rng, &["", "a", "b"])).as_str());
    }
    Value::from(one(rng, &TEXTS))
}

fn day(rng: &mut StdRng) -> Value {
    const MILLIS: [i64; 11] = [
        0,
        1,
        3,
        5,
        8,
        -1,
        1_577_836_800_000,
        1_609_459_200_000,
        253_402_300_799_999,
        Date::MIN.millis(),
        Date::MAX.millis(),
    ];
    Value::Date(date(one(rng, &MILLIS)))
}

fn bytes(rng: &mut StdRng) -> Value {
    const BYTES: [&[u8]; 5] = [&[0], &[1, 2], &[255], &[1, 1, 1], b"abc"];
    Value::Bytes(one(rng, &BYTES).into())
}

fn pointer(classes: &[&str], rng: &mut StdRng) -> Value {
    let class = ClassName::from_trusted(one(rng, classes));
    Value::pointer(class, ObjectId::new(one(rng, &["t1", "t1", "t2", "a", "abc"])))
}

fn geo_point(rng: &mut StdRng) -> Value {
    let degrees: [f64; 5] = [0.0, 1.0, 2.0, -1.5, 60.25];
    let point = GeoPoint::new(one(rng, &degrees), one(rng, &degrees));
    Value::GeoPoint(Box::new(point.unwrap()))
}

fn polygon(rng: &mut StdRng) -> Value {
    let corner = |latitude, longitude| GeoPoint { latitude, longitude };
    let far = one(rng, &[2.0, 3.0]);
    Value::Polygon(Box::new(Polygon::closed(vec![corner(0.0, 0.0), corner(0.0, far), corner(far, 0.0)]).unwrap()))
}

/// A value as it may stand inside an array or an object.
fn nested(rng: &mut StdRng, depth: usize) -> Value {
    match rng.random_range(0..20) {
        0..4 => number(rng),
        4..7 => text(rng),
        7 => Value::Null,
        8 => Value::Bool(chance(rng, 50)),
        9 => day(rng),
        10 => bytes(rng),
        11..13 => pointer(&["T", "T", "U"], rng),
        13 => match rng.random_range(0..4) {
            0 => polygon(rng),
            1 => Value::File(Box::new(File {
                name: "f1.png".into(),
                url: one(rng, &[None, Some("http://x/f1.png".into())]),
            })),
            _ => geo_point(rng),
        },
        14..17 if depth > 0 => Value::Array(items(rng, depth - 1)),
        17.. if depth > 0 => Value::Object(map(rng, depth - 1)),
        _ => number(rng),
    }
}

fn items(rng: &mut StdRng, depth: usize) -> Vec<Value> {
    (0..one(rng, &[0, 1, 1, 2, 2, 3])).map(|_| nested(rng, depth)).collect()
}

fn map(rng: &mut StdRng, depth: usize) -> Map {
    (0..one(rng, &[0, 1, 1, 2, 2, 3])).map(|_| (one(rng, &NAMES).into(), nested(rng, depth))).collect()
}

/// A question about these objects.
pub(super) fn asked(rng: &mut StdRng, objects: &[Object]) -> Asked {
    Asked {
        filter: filter(rng, objects, 2),
        order: order(rng),
        reader: match rng.random_range(0..6) {
            0 => Principals::ANONYMOUS,
            1 => Principals::user(ObjectId::new("alice")),
            _ => Principals::MASTER,
        },
        skip: one(rng, &[0, 0, 0, 1, 2, 5]),
        limit: one(rng, &[0, 1, 2, 3, 10, u64::MAX, u64::MAX]),
    }
}

fn order(rng: &mut StdRng) -> Vec<String> {
    let name = |rng: &mut StdRng| -> &str {
        match rng.random_range(0..6) {
            0 => one(rng, &["objectId", "createdAt", "updatedAt"]),
            1 | 2 => one(rng, &PATHS),
            _ => one(rng, &COLUMNS).0,
        }
    };
    let signed = |rng: &mut StdRng| format!("{}{}", one(rng, &["", "-"]), name(rng));
    match rng.random_range(0..5) {
        0 => one(rng, &["n,-s", "-n,s", "-s", "s", "t,m,-updatedAt", "p,-n", "-p,n", "p,-createdAt", "-d", "o", "-y"])
            .split(',')
            .map(str::to_owned)
            .collect(),
        1 => Vec::new(),
        count => (1..count).map(|_| signed(rng)).collect(),
    }
}

fn filter(rng: &mut StdRng, objects: &[Object], depth: usize) -> Map {
    let mut filter = Map::new();
    for _ in 0..one(rng, &[0, 1, 1, 1, 1, 2, 2, 3]) {
        if depth > 0 && chance(rng, 20) {
            let operator = one(rng, &["$or", "$or", "$and", "$nor"]);
            let count = rng.random_range(1..4);
            let parts = (0..count).map(|_| Value::Object(self::filter(rng, objects, depth - 1)));
            filter.insert(operator, Value::Array(parts.collect()));
        } else {
            let path = path(rng);
            filter.insert(path, constraint(rng, objects, path));
        }
    }
    filter
}

fn path(rng: &mut StdRng) -> &'static str {
    match rng.random_range(0..10) {
        0 => one(rng, &["objectId", "createdAt", "updatedAt", "zzz"]),
        1..5 => one(rng, &PATHS),
        _ => one(rng, &COLUMNS).0,
    }
}

/// What to compare with: mostly something that stands there in one of the objects.
fn operand(rng: &mut StdRng, objects: &[Object], path: &str) -> Value {
    if chance(rng, 20) {
        return nested(rng, 1);
    }
    let head = path.split('.').next().unwrap_or_default();
    let object = objects.choose(rng);
    let Some(mut value) = object.and_then(|object| object.field(head)).map(|found| found.into_owned()) else {
        return match COLUMNS.iter().find(|(name, _)| *name == head) {
            Some((_, field_type)) => typed(rng, &field_type()),
            None => nested(rng, 1),
        };
    };
    for _ in 0..rng.random_range(0..4) {
        let inside: Vec<Value> = match &value {
            Value::Array(items) => items.clone(),
            Value::Object(map) => map.iter().map(|(_, value)| value.clone()).collect(),
            _ => break,
        };
        if inside.is_empty() {
            break;
        }
        value = one(rng, &inside);
    }
    value
}

fn constraint(rng: &mut StdRng, objects: &[Object], path: &str) -> Value {
    if chance(rng, 15) {
        // Plain equality cannot say arrays and objects.
        match operand(rng, objects, path) {
            Value::Array(_) | Value::Object(_) => {}
            value => return value,
        }
    }
    let mut constraint = Map::new();
    for _ in 0..one(rng, &[1, 1, 1, 2]) {
        let list = |rng: &mut StdRng| {
            let mut list: Vec<Value> = (0..one(rng, &[0, 1, 1, 2, 3])).map(|_| operand(rng, objects, path)).collect();
            if chance(rng, 15) {
                list.push(Value::Null);
            }
            // Long lists are looked up in another way.
            if chance(rng, 10) {
                list.extend((100..120).map(|number| Value::Number(f64::from(number))));
            }
            Value::Array(list)
        };
        match rng.random_range(0..20) {
            0..2 => constraint.insert("$eq", operand(rng, objects, path)),
            2..4 => constraint.insert("$ne", operand(rng, objects, path)),
            4..10 => {
                let operator = one(rng, &["$lt", "$lte", "$gt", "$gte"]);
                constraint.insert(operator, operand(rng, objects, path))
            }
            10..13 => constraint.insert("$in", list(rng)),
            13 | 14 => constraint.insert("$nin", list(rng)),
            15 | 16 => constraint.insert("$all", list(rng)),
            17 => constraint.insert("$exists", Value::Bool(chance(rng, 50))),
            18 => {
                let patterns = (0..rng.random_range(1..3)).map(|_| Value::Object(regex(rng)));
                constraint.insert("$all", Value::Array(patterns.collect()))
            }
            _ => {
                regex(rng).into_iter().for_each(|(name, value)| drop(constraint.insert(name, value)));
                None
            }
        };
    }
    Value::Object(constraint)
}

fn regex(rng: &mut StdRng) -> Map {
    const PATTERNS: [&str; 16] = [
        "a",
        "^a",
        "b$",
        "^a$",
        "^\\Qa.b\\E",
        "a.b",
        "^[a-c]+$",
        "A|B",
        "(a)(b)?",
        "\\d",
        "^$",
        "t[12]",
        "é",
        "É",
        "a\\.b",
        "^T\\$",
    ];
    let mut map = Map::new();
    map.insert("$regex", Value::from(one(rng, &PATTERNS)));
    let options = one(rng, &["", "", "", "i", "i", "m", "s", "x", "im"]);
    if !options.is_empty() {
        map.insert("$options", Value::from(options));
    }
    map
}
