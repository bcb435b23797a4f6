//! The one evaluator of what a predicate means: find, live queries and tests all ask it.
//!
//! The meaning is MongoDB's as Parse exposes it: `null` also matches what is missing, an array matches when it or one
//! of its elements does, comparisons hold only within one type, and `$ne`/`$nin` are the exact complements of
//! equality and `$in`.

use crate::error::{Error, Result};
use crate::object::Object;
use crate::order::{compare_inside, compare_same_type, key};
use crate::pcre;
use crate::query::{Constraint, Found, Place, Predicate, Regex, visit_path};
use crate::value::Value;
use compact_str::CompactString;
use std::cmp::Ordering;
use std::collections::HashSet;

/// A predicate made ready to be asked often: expressions compiled, long lists hashed.
///
/// ```
/// use tidings_protocol::{matches::Matcher, Map, Object, Predicate};
/// let where_ = Map::from_json(br#"{"score":{"$gt":3}}"#).unwrap();
/// let matcher = Matcher::new(&Predicate::from_map(&where_).unwrap()).unwrap();
/// let object = Object { fields: Map::from_json(br#"{"score":5}"#).unwrap(), ..Object::default() };
/// assert!(matcher.matches(&object));
/// ```
#[derive(Debug)]
pub struct Matcher(Node);

#[derive(Debug)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    None(Vec<Node>),
    Field { path: CompactString, test: Test },
}

#[derive(Debug)]
enum Test {
    Eq(Value),
    Ne(Value),
    Compare { operand: Value, less: bool, equal: bool, greater: bool },
    In(List),
    Nin(List),
    All(Vec<Value>),
    AllMatch(Vec<Expression>),
    Exists(bool),
    Matches(Expression),
}

#[derive(Debug)]
struct List {
    values: Vec<Value>,
    /// Whether arrays as a whole are among them.
    arrays: bool,
    /// For long lists: the keys of all values.
    keys: Option<HashSet<Vec<u8>>>,
}

/// A condition on what a path finds.
type Holds<'a> = dyn Fn(Found<'_>) -> bool + 'a;

/// From this length on a list is hashed instead of scanned.
const HASH_FROM: usize = 16;

/// A regular expression made ready.
#[derive(Debug)]
pub enum Expression {
    /// Time grows with the text, whatever the expression.
    Linear(regex::Regex),
    /// Look-around and its like need backtracking, which is cut off.
    Backtracking(fancy_regex::Regex),
}

/// An expression that backtracks further than this holds for nothing.
const BACKTRACK_LIMIT: usize = 10_000;
/// An expression that backtracks holds for no longer text, in bytes: each step may look at all of it.
const BACKTRACK_TEXT: usize = 4_096;
/// Bytes that a compiled expression may take.
const COMPILED_LIMIT: usize = 1 << 20;

impl Expression {
    pub fn is_match(&self, text: &str) -> bool {
        match self {
            Self::Linear(regex) => regex.is_match(text),
            Self::Backtracking(regex) => text.len() <= BACKTRACK_TEXT && regex.is_match(text).unwrap_or(false),
        }
    }

    /// Whether its time is bounded by a limit and not by its nature.
    pub fn backtracks(&self) -> bool {
        matches!(self, Self::Backtracking(_))
    }
}

impl Matcher {
    /// # Errors
    /// 102 if a regular expression does not compile.
    pub fn new(predicate: &Predicate) -> Result<Self> {
        node(predicate).map(Self)
    }

    pub fn matches(&self, object: &Object) -> bool {
        self.0.matches(object)
    }
}

fn node(predicate: &Predicate) -> Result<Node> {
    let nodes = |parts: &[Predicate]| parts.iter().map(node).collect::<Result<Vec<_>>>();
    Ok(match predicate {
        Predicate::And(parts) => Node::All(nodes(parts)?),
        Predicate::Or(parts) => Node::Any(nodes(parts)?),
        Predicate::Nor(parts) => Node::None(nodes(parts)?),
        Predicate::Field { path, constraint } => Node::Field { path: path.clone(), test: test(constraint)? },
    })
}

fn test(constraint: &Constraint) -> Result<Test> {
    let compare =
        |operand: &Value, less, equal, greater| Test::Compare { operand: operand.clone(), less, equal, greater };
    Ok(match constraint {
        Constraint::Eq(value) => Test::Eq(value.clone()),
        Constraint::Ne(value) => Test::Ne(value.clone()),
        Constraint::Lt(value) => compare(value, true, false, false),
        Constraint::Lte(value) => compare(value, true, true, false),
        Constraint::Gt(value) => compare(value, false, false, true),
        Constraint::Gte(value) => compare(value, false, true, true),
        Constraint::In(values) => Test::In(List::new(values)),
        Constraint::Nin(values) => Test::Nin(List::new(values)),
        Constraint::All(values) => Test::All(values.clone()),
        Constraint::AllMatch(regexes) => Test::AllMatch(regexes.iter().map(Regex::compile).collect::<Result<_>>()?),
        Constraint::Exists(flag) => Test::Exists(*flag),
        Constraint::Matches(regex) => Test::Matches(regex.compile()?),
        Constraint::RelatedTo(_) => return Err(Error::invalid_query("An object does not show what it is related to.")),
    })
}

impl Node {
    fn matches(&self, object: &Object) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.matches(object)),
            Self::Any(parts) => parts.iter().any(|part| part.matches(object)),
            Self::None(parts) => !parts.iter().any(|part| part.matches(object)),
            Self::Field { path, test } => {
                test.matches(&|holds: &Holds<'_>| visit_path(object, path, &mut |found| holds(found)))
            }
        }
    }
}

impl Test {
    /// `any` says whether something that the path finds holds.
    fn matches(&self, any: &dyn Fn(&Holds<'_>) -> bool) -> bool {
        match self {
            Self::Eq(value) => any(&|found| equals(found, value)),
            Self::Ne(value) => !any(&|found| equals(found, value)),
            Self::Compare { operand, less, equal, greater } => any(&|found| {
                compares(found, operand, |ordering| match ordering {
                    Ordering::Less => *less,
                    Ordering::Equal => *equal,
                    Ordering::Greater => *greater,
                })
            }),
            Self::In(list) => any(&|found| list.holds(found)),
            Self::Nin(list) => !any(&|found| list.holds(found)),
            Self::All(values) => !values.is_empty() && values.iter().all(|value| any(&|found| equals(found, value))),
            Self::AllMatch(regexes) => regexes.iter().all(|regex| any(&|found| is_match(found, regex))),
            Self::Exists(expected) => any(&|found| found.value.is_some()) == *expected,
            Self::Matches(regex) => any(&|found| is_match(found, regex)),
        }
    }
}

impl List {
    fn new(values: &[Value]) -> Self {
        let keys = (values.len() >= HASH_FROM).then(|| values.iter().map(key).collect());
        let arrays = values.iter().any(|value| matches!(value, Value::Array(_)));
        Self { values: values.to_vec(), arrays, keys }
    }

    fn holds(&self, found: Found<'_>) -> bool {
        match (found.value, found.place) {
            (None, _) => self.holds_one(&Value::Null),
            (Some(Value::Array(items)), Place::Column | Place::Inside)
                if items.iter().any(|item| self.holds_one(item)) =>
            {
                true
            }
            (Some(whole @ Value::Array(_)), _) => self.arrays && self.holds_one(whole),
            (Some(value), Place::Column) => self.holds_one(value) || self.names(value),
            (Some(value), Place::Inside | Place::Picked) => self.holds_one(value),
        }
    }

    fn holds_one(&self, value: &Value) -> bool {
        match &self.keys {
            Some(keys) => keys.contains(&key(value)),
            None => self.values.contains(value),
        }
    }

    /// A plain id in a list stands for a pointer with that id, where a column holds it; and a file for all of its name.
    fn names(&self, value: &Value) -> bool {
        if let Value::File(file) = value {
            return self.values.iter().any(|listed| is_named(listed, &file.name));
        }
        let Some(pointer) = value.as_pointer() else { return false };
        match &self.keys {
            Some(keys) => keys.contains(&key(&Value::from(pointer.id.as_str()))),
            None => self.values.iter().any(|listed| listed.as_str() == Some(pointer.id.as_str())),
        }
    }
}

fn equals(found: Found<'_>, value: &Value) -> bool {
    match (found.value, found.place) {
        (None, _) => value.is_null(),
        (Some(found), _) if found == value => true,
        (Some(Value::File(file)), Place::Column) => is_named(value, &file.name),
        (Some(Value::Array(items)), Place::Column | Place::Inside) => items.contains(value),
        (Some(_), _) => false,
    }
}

/// A column holds the name of a file; where it is found, each server says for itself.
fn is_named(value: &Value, name: &str) -> bool {
    matches!(value, Value::File(file) if file.name == name)
}

fn compares(found: Found<'_>, operand: &Value, holds: impl Fn(Ordering) -> bool) -> bool {
    let one = |value: &Value| compare_inside(value, operand).is_some_and(&holds);
    match (found.value, found.place) {
        (None, _) => one(&Value::Null),
        (Some(whole @ Value::Array(items)), Place::Column | Place::Inside) => one(whole) || items.iter().any(one),
        (Some(value), Place::Column) => compare_same_type(value, operand).is_some_and(&holds),
        (Some(value), Place::Inside | Place::Picked) => one(value),
    }
}

fn is_match(found: Found<'_>, expression: &Expression) -> bool {
    let one = |value: &Value| value.as_str().is_some_and(|text| expression.is_match(text));
    match (found.value, found.place) {
        (Some(Value::Array(items)), Place::Column | Place::Inside) => items.iter().any(one),
        (Some(value), _) => one(value),
        (None, _) => false,
    }
}

impl Regex {
    /// Expressions run in linear time; only those that need look-around, back-references, atomic groups or possessive
    /// quantifiers backtrack, within a limit.
    ///
    /// # Errors
    /// 102 for an expression that cannot be read, grows too large, or would mean something else in MongoDB.
    pub fn compile(&self) -> Result<Expression> {
        let mut unquoted = String::with_capacity(self.pattern.len());
        write_unquoted(&self.pattern, &mut unquoted);
        let traits = pcre::check(&unquoted, self.options.contains('x'))?;
        let mut source = String::with_capacity(unquoted.len() + 8);
        let flags: String = self.options.chars().filter(|letter| "imsx".contains(*letter)).collect();
        if !flags.is_empty() {
            source.push_str("(?");
            source.push_str(&flags);
            source.push(')');
        }
        traits.write(&unquoted, &mut source);
        if !traits.is_possessive
            && let Ok(linear) = regex::RegexBuilder::new(&source).size_limit(COMPILED_LIMIT).build()
        {
            return Ok(Expression::Linear(linear));
        }
        if traits.sets_options_in_groups {
            let message = "Invalid regular expression: set options for a group as in (?i:a), not within it.";
            return Err(Error::invalid_query(message));
        }
        fancy_regex::RegexBuilder::new(&source)
            .backtrack_limit(BACKTRACK_LIMIT)
            .delegate_size_limit(COMPILED_LIMIT)
            .build()
            .map(Expression::Backtracking)
            .map_err(|error| Error::invalid_query(format!("Invalid regular expression: {error}")))
    }
}

/// Parse SDKs quote literal text as `\Q…\E`, which the engine does not know; and it reads `\<` and `\>`, anywhere else
/// letters like others, as the ends of words.
fn write_unquoted(pattern: &str, out: &mut String) {
    let mut rest = pattern;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let mut after = rest[at + 1..].chars();
        match after.next() {
            Some('Q') => {
                let quoted = after.as_str();
                let end = quoted.find("\\E");
                write_literal(&quoted[..end.unwrap_or(quoted.len())], out);
                rest = end.map_or("", |end| &quoted[end + 2..]);
                continue;
            }
            // A closing `\E` without an opening one says nothing.
            Some('E') => {}
            Some(letter @ ('<' | '>')) => out.push(letter),
            Some(letter) => out.extend(['\\', letter]),
            None => out.push('\\'),
        }
        rest = after.as_str();
    }
    out.push_str(rest);
}

/// White space is written by its number, as option `x` would drop it.
fn write_literal(text: &str, out: &mut String) {
    for letter in text.chars() {
        match letter {
            '<' | '>' => out.push(letter),
            letter if letter.is_ascii_punctuation() => out.extend(['\\', letter]),
            letter if letter.is_whitespace() => out.push_str(&format!("\\x{{{:x}}}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map;
    use crate::value::Map;

    fn matches(object: &str, filter: &str) -> bool {
        let predicate = Predicate::from_map(&Map::from_json(filter.as_bytes()).unwrap()).unwrap();
        let object = Object { fields: Map::from_json(object.as_bytes()).unwrap(), ..Object::default() };
        Matcher::new(&predicate).unwrap().matches(&object)
    }

    /// The rows and vectors that were measured on Parse Server with MongoDB (parse-protocol.md, appendix A).
    const ROWS: [(&str, &str); 7] = [
        ("num1", r#"{"n":1,"s":"abc","arr":[1,2],"p":P1,"d":D20,"o":{"a":1,"l":[{"x":1},{"x":2}]},"pa":[P1]}"#),
        ("num5", r#"{"n":5,"s":"ABC","arr":[2,3],"p":P2,"d":D21,"o":{"a":2},"pa":[P1,P2]}"#),
        ("null", r#"{"n":null,"s":null,"arr":null}"#),
        ("missing", "{}"),
        ("empty", r#"{"arr":[],"s":""}"#),
        ("arrnull", r#"{"arr":[null,1]}"#),
        ("arrarr", r#"{"arr":[[1,2]]}"#),
    ];

    fn expand(json: &str) -> String {
        json.replace("P1", r#"{"__type":"Pointer","className":"T","objectId":"t1"}"#)
            .replace("P2", r#"{"__type":"Pointer","className":"T","objectId":"t2"}"#)
            .replace("D20", r#"{"__type":"Date","iso":"2020-01-01T00:00:00.000Z"}"#)
            .replace("D206", r#"{"__type":"Date","iso":"2020-06-01T00:00:00.000Z"}"#)
            .replace("D21", r#"{"__type":"Date","iso":"2021-01-01T00:00:00.000Z"}"#)
    }

    #[track_caller]
    fn check(filter: &str, expected: &str) {
        let expected = expected.replace("rest", "null missing empty arrnull arrarr");
        let expected = expected.replace("all", "num1 num5 null missing empty arrnull arrarr");
        let found: Vec<_> =
            ROWS.iter().filter(|(_, row)| matches(&expand(row), &expand(filter))).map(|(name, _)| *name).collect();
        assert_eq!(found.join(" "), expected, "{filter}");
    }

    #[test]
    fn a_column_holds_the_name_of_a_file() {
        let file = |url: &str| format!(r#"{{"__type":"File","name":"a.png","url":"{url}"}}"#);
        let here = format!(r#"{{"f":{0},"list":[{0}]}}"#, file("http://here/a.png"));
        let many = "0,".repeat(HASH_FROM);
        for (filter, expected) in [
            (format!(r#"{{"f":{}}}"#, file("http://there/a.png")), true),
            (format!(r#"{{"f":{{"$in":[{}]}}}}"#, file("http://there/a.png")), true),
            (format!(r#"{{"f":{{"$nin":[{many}{}]}}}}"#, file("http://there/a.png")), false),
            (r#"{"f":{"__type":"File","name":"b.png"}}"#.to_owned(), false),
            (format!(r#"{{"list":{}}}"#, file("http://there/a.png")), false),
            (format!(r#"{{"list":{}}}"#, file("http://here/a.png")), true),
        ] {
            assert_eq!(matches(&here, &filter), expected, "{filter}");
        }
    }

    #[test]
    fn measured_vectors_hold() {
        check(r#"{"n":null}"#, "rest");
        check(r#"{"n":{"$eq":null}}"#, "rest");
        check(r#"{"n":{"$ne":1}}"#, "num5 rest");
        check(r#"{"n":{"$ne":null}}"#, "num1 num5");
        check(r#"{"n":{"$lt":3}}"#, "num1");
        check(r#"{"n":{"$gt":3}}"#, "num5");
        check(r#"{"n":{"$gte":null}}"#, "rest");
        check(r#"{"n":{"$lt":"zzz"}}"#, "");
        check(r#"{"n":{"$in":[1,null]}}"#, "num1 rest");
        check(r#"{"n":{"$in":[]}}"#, "");
        check(r#"{"n":{"$nin":[]}}"#, "all");
        check(r#"{"n":{"$nin":[1]}}"#, "num5 rest");
        check(r#"{"n":{"$nin":[1,null]}}"#, "num5");
        check(r#"{"n":{"$exists":true}}"#, "num1 num5 null");
        check(r#"{"n":{"$exists":false}}"#, "missing empty arrnull arrarr");
        check(r#"{"n":"1"}"#, "");
        check(r#"{"arr":2}"#, "num1 num5");
        check(r#"{"arr":{"$eq":2}}"#, "num1 num5");
        check(r#"{"arr":{"$eq":[1,2]}}"#, "num1 arrarr");
        check(r#"{"arr":{"$ne":2}}"#, "rest");
        check(r#"{"arr":{"$in":[3]}}"#, "num5");
        check(r#"{"arr":{"$nin":[3]}}"#, "num1 rest");
        check(r#"{"arr":{"$in":[[1,2]]}}"#, "num1 num5 arrnull");
        check(r#"{"arr":{"$all":[1,2]}}"#, "num1");
        check(r#"{"arr":{"$all":[]}}"#, "");
        check(r#"{"arr":{"$gt":2}}"#, "num5");
        check(r#"{"arr":null}"#, "null missing arrnull");
        check(r#"{"arr.0":1}"#, "num1");
        check(r#"{"o.a":1}"#, "num1");
        check(r#"{"o.l.x":2}"#, "num1");
        check(r#"{"p":P1}"#, "num1");
        check(r#"{"p":"t1"}"#, "");
        check(r#"{"p":{"$eq":"t1"}}"#, "num1");
        check(r#"{"p":{"$eq":P1}}"#, "num1");
        check(r#"{"p":{"$ne":P1}}"#, "num5 rest");
        check(r#"{"p":{"$in":[P1,P2]}}"#, "num1 num5");
        check(r#"{"p":{"$in":["t1"]}}"#, "num1");
        check(r#"{"p":{"$exists":true}}"#, "num1 num5");
        check(r#"{"pa":P1}"#, "num1 num5");
        check(r#"{"pa":{"$all":[P1,P2]}}"#, "num5");
        check(r#"{"d":{"$gt":D20}}"#, "num5");
        check(r#"{"d":{"$in":[D20]}}"#, "num1");
        check(r#"{"d":"2020-01-01T00:00:00.000Z"}"#, "");
        check(r#"{"s":{"$regex":"^a"}}"#, "num1");
        check(r#"{"s":{"$regex":"^a","$options":"i"}}"#, "num1 num5");
        check(r#"{"s":{"$regex":"^\\Qa\\E"}}"#, "num1");
        check(r#"{"s":{"$regex":"n"}}"#, "");
        check(r#"{"s":{"$regex":"^a","$options":"x"}}"#, "num1");
        check(r#"{"$or":[{"n":1},{"n":5}]}"#, "num1 num5");
        check(r#"{"$nor":[{"n":1},{"n":5}]}"#, "rest");
        check(r#"{"$and":[{"n":1},{"n":5}]}"#, "");
        check(r#"{"objectId":5}"#, "");
        check(r#"{"zzz":1}"#, "");
        check("{}", "all");
    }

    /// Measured on MongoDB 6.0 as well.
    #[test]
    fn pointers_and_their_like_are_documents_inside() {
        let object = expand(r#"{"pa":[P1,{"x":1}],"o":{"p":P1},"p":P1,"nested":[[1,2],[]]}"#);
        for (filter, expected) in [
            (r#"{"pa.objectId":"t1"}"#, true),
            (r#"{"o.p.className":"T"}"#, true),
            (r#"{"p.objectId":"t1"}"#, false),
            (r#"{"pa":{"$in":["t1"]}}"#, false),
            (r#"{"o.p":{"$in":["t1"]}}"#, false),
            (r#"{"p":{"$in":["t1"]}}"#, true),
            (r#"{"pa":{"$lt":{"x":2}}}"#, true),
            (r#"{"o.p":{"$gt":{"x":2}}}"#, true),
            (r#"{"p":{"$gt":{"x":2}}}"#, false),
            (r#"{"nested":{"$in":[[[1,2]]]}}"#, true),
            (r#"{"nested.0":{"$eq":1}}"#, false),
            (r#"{"nested.0":{"$eq":[1,2]}}"#, true),
            (r#"{"nested.0":{"$eq":[[1,2]]}}"#, false),
            (r#"{"nested.0.1":2}"#, true),
            (r#"{"nested.0.1.0":null}"#, false),
        ] {
            assert_eq!(matches(&object, &expand(filter)), expected, "{filter}");
        }
    }

    #[test]
    fn long_lists_mean_the_same_as_short_ones() {
        let numbers: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        check(&format!(r#"{{"n":{{"$in":[{},null]}}}}"#, numbers.join(",")), "all");
        check(&format!(r#"{{"p":{{"$in":[{},"t1"]}}}}"#, numbers.join(",")), "num1");
    }

    #[test]
    fn quoted_text_is_literal() {
        assert!(matches(r#"{"s":"a.b*c"}"#, r#"{"s":{"$regex":"^\\Qa.b*c\\E$"}}"#));
        assert!(!matches(r#"{"s":"axb*c"}"#, r#"{"s":{"$regex":"\\Qa.b\\E"}}"#));
        assert!(matches(r#"{"s":"a b#c"}"#, r#"{"s":{"$regex":"\\Qa b#c\\E","$options":"x"}}"#));
        let spaces = Value::string("\\Qa\u{a0}b\u{b}\\E");
        let spaces = map! { "s" => map! { "$regex" => spaces, "$options" => "x" } }.to_json();
        assert!(matches("{\"s\":\"a\u{a0}b\\u000b\"}", &spaces) && !matches(r#"{"s":"ab"}"#, &spaces));
        assert!(matches(r#"{"s":"a\\Eb"}"#, r#"{"s":{"$regex":"\\Qa\\E\\\\E\\Qb\\E"}}"#));
        // Every printable letter is only itself in quotes, also those that mean something behind a backslash.
        let printable: String = (b' '..=b'~').map(char::from).collect();
        let object = map! { "s" => Value::string(format!("x{printable}y")) }.to_json();
        for option in ["s", "x", "i"] {
            let quoted = map! { "$regex" => Value::string(format!("^x\\Q{printable}\\Ey$")), "$options" => option };
            assert!(matches(&object, &map! { "s" => quoted }.to_json()), "{option}");
        }
        assert!(matches(r#"{"s":"<3 you"}"#, r#"{"s":{"$regex":"^\\Q<3\\E"}}"#));
        assert!(
            !matches(r#"{"s":"you"}"#, r#"{"s":{"$regex":"\\<you"}}"#)
                && matches(r#"{"s":"<you>"}"#, r#"{"s":{"$regex":"\\<you\\>"}}"#)
        );
        assert!(matches(r#"{"s":"foo\\E"}"#, r#"{"s":{"$regex":"foo\\\\E"}}"#));
        assert!(matches(r#"{"s":"a\tb"}"#, r#"{"s":{"$regex":"\\Qa\tb\\E","$options":"x"}}"#));
    }

    #[test]
    fn look_around_works_within_its_limit() {
        assert!(matches(r#"{"s":"foobar"}"#, r#"{"s":{"$regex":"foo(?=bar)"}}"#));
        let hard = format!(r#"{{"s":"{}!"}}"#, "a".repeat(60));
        assert!(!matches(&hard, r#"{"s":{"$regex":"^(?=(a+)+$)(a+)+$"}}"#));
    }
}
