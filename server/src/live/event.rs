//! The part of an event frame that its subscribers share: everything behind the request id.

use crate::changes::{Cursor, Point};
use crate::schema::ClassSchema;
use compact_str::CompactString;
use std::io::Write;
use std::sync::Arc;
use tidings_protocol::live::Event;
use tidings_protocol::names::is_internal_field;
use tidings_protocol::update::top_level;
use tidings_protocol::value::write_json_string;
use tidings_protocol::{ClassName, Object, ObjectId};

/// One event as everybody with the same rights and the same `keys` sees it, written once.
#[derive(Debug, PartialEq)]
pub(super) struct EventBody {
    pub(super) event: Event,
    pub(super) id: ObjectId,
    /// Right behind the change that it tells of.
    pub(super) point: Point,
    /// `,"cursor":"…","object":{…}` or `,"cursor":"…","object":{…},"original":{…}`, and the brace that closes the frame.
    tail: Box<[u8]>,
    /// Where the cursor's member ends in `tail`.
    cursor_end: usize,
    /// Where the object ends in `tail`.
    object_end: usize,
}

const OBJECT: &[u8] = b",\"object\":";
const ORIGINAL: &[u8] = b",\"original\":";
/// What the cursor's member takes as a rule.
const CURSOR_BYTES: usize = 56;

impl EventBody {
    pub(super) fn new(
        event: Event,
        id: &ObjectId,
        cursor: &Cursor,
        object: &[u8],
        original: Option<&[u8]>,
    ) -> Arc<Self> {
        let length = OBJECT.len() + object.len() + original.map_or(0, |json| ORIGINAL.len() + json.len()) + 1;
        let mut tail = Vec::with_capacity(CURSOR_BYTES + length);
        write_cursor(cursor, &mut tail);
        Self::behind(event, id, cursor.point(), tail, object, original)
    }

    /// `tail` holds the cursor's member.
    fn behind(
        event: Event,
        id: &ObjectId,
        point: Point,
        mut tail: Vec<u8>,
        object: &[u8],
        original: Option<&[u8]>,
    ) -> Arc<Self> {
        let cursor_end = tail.len();
        tail.extend_from_slice(OBJECT);
        tail.extend_from_slice(object);
        let object_end = tail.len();
        if let Some(original) = original {
            tail.extend_from_slice(ORIGINAL);
            tail.extend_from_slice(original);
        }
        tail.push(b'}');
        Arc::new(Self { event, id: id.clone(), point, tail: tail.into(), cursor_end, object_end })
    }

    /// Another event in the place of this one.
    pub(super) fn instead(&self, event: Event, object: &[u8], original: Option<&[u8]>) -> Arc<Self> {
        let cursor = self.tail[..self.cursor_end].to_vec();
        Self::behind(event, &self.id, self.point, cursor, object, original)
    }

    /// The same event, in front of which another is missing that comes merged with a later one: who resumes from here can
    /// only start afresh.
    pub(super) fn with_a_gap(&self) -> Arc<Self> {
        let mut cursor = Vec::with_capacity(CURSOR_BYTES);
        write_cursor(&Cursor::of_nothing(), &mut cursor);
        Self::behind(self.event, &self.id, self.point, cursor, self.object(), self.original())
    }

    pub(super) fn tail(&self) -> &[u8] {
        &self.tail
    }

    /// Bytes that it keeps while it waits, where nobody shares it.
    pub(super) fn weight(&self) -> usize {
        self.tail.len() + 64
    }

    pub(super) fn object(&self) -> &[u8] {
        &self.tail[self.cursor_end + OBJECT.len()..self.object_end]
    }

    pub(super) fn original(&self) -> Option<&[u8]> {
        self.tail[self.object_end..].strip_prefix(ORIGINAL)?.strip_suffix(b"}")
    }
}

/// What two events on one object, the second right behind the first, are together.
#[derive(Debug, PartialEq)]
pub(super) enum Merged {
    /// This one event, in the place of the second.
    One(Arc<EventBody>),
    /// The subscriber need not hear of either.
    Nothing,
    /// They stay two.
    Both,
}

/// Merges by the rules of G5. The table is complete: pairs that cannot follow each other stay as they are.
pub(super) fn merge(first: &Arc<EventBody>, second: &Arc<EventBody>) -> Merged {
    let with = |event, original| Merged::One(second.instead(event, second.object(), original));
    match (first.event, second.event) {
        (Event::Create, Event::Update) => with(Event::Create, None),
        (Event::Create | Event::Enter, Event::Leave | Event::Delete) => Merged::Nothing,
        (Event::Enter, Event::Update) => with(Event::Enter, first.original()),
        (Event::Update, Event::Update) => with(Event::Update, first.original()),
        (Event::Update, Event::Leave) => with(Event::Leave, first.original()),
        (Event::Update, Event::Delete) => Merged::One(second.clone()),
        // What the subscriber saw last is what the object was before it left.
        (Event::Leave, Event::Enter | Event::Create) => {
            with(Event::Update, Some(first.original().unwrap_or_else(|| first.object())))
        }
        // A new object with the id of a deleted one is not that object.
        (Event::Delete, _) => Merged::Both,
        (Event::Create | Event::Enter | Event::Update, Event::Create | Event::Enter)
        | (Event::Leave, Event::Update | Event::Leave | Event::Delete) => Merged::Both,
    }
}

/// Writes `,"cursor":"…"`, as every frame shows it that says how far its reader has heard.
pub(super) fn write_cursor(cursor: &Cursor, out: &mut Vec<u8>) {
    // Writing into memory cannot fail, and what a cursor is made of needs no escapes.
    let _ = write!(out, ",\"cursor\":\"{cursor}\"");
}

/// The relations of a class, each with the class of its members: objects do not hold them, and show them all the same.
pub(super) type Relations = Arc<[(CompactString, ClassName)]>;

pub(super) fn relations(schema: Option<&ClassSchema>) -> Relations {
    let fields = schema.into_iter().flat_map(ClassSchema::relation_fields);
    fields.map(|(name, target)| (name.clone(), target.clone())).collect()
}

/// Writes an object as events and results show it: `className` first, then what REST shows.
pub(super) fn write_object(
    class: &ClassName,
    object: &Object,
    relations: &[(CompactString, ClassName)],
    keys: Option<&[CompactString]>,
    hidden: &[CompactString],
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"{\"className\":");
    write_json_string(class, out);
    out.push(b',');
    let shows = |name: &str| {
        keys.is_none_or(|keys| keys.iter().any(|key| top_level(key) == name))
            && !hidden.iter().any(|field| field == name)
            && !is_internal_field(name)
    };
    object.write_members(out, shows);
    for (name, target) in relations.iter().filter(|(name, _)| shows(name)) {
        object.write_relation(name, target, out);
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidings_protocol::{Value, map};

    fn body(event: Event, object: &str, original: Option<&str>) -> Arc<EventBody> {
        let cursor = Cursor::behind("t".into(), 7);
        EventBody::new(event, &ObjectId::new("x"), &cursor, object.as_bytes(), original.map(str::as_bytes))
    }

    #[test]
    fn a_body_knows_its_parts() {
        let both = body(Event::Update, r#"{"a":1}"#, Some(r#"{"a":0}"#));
        assert_eq!(both.tail(), br#","cursor":"t.7","object":{"a":1},"original":{"a":0}}"#);
        assert_eq!((both.object(), both.original()), (&br#"{"a":1}"#[..], Some(&br#"{"a":0}"#[..])));
        let one = body(Event::Create, "{}", None);
        assert_eq!(
            (one.tail(), one.object(), one.original()),
            (&br#","cursor":"t.7","object":{}}"#[..], &b"{}"[..], None)
        );
        let other = both.instead(Event::Leave, b"{}", None);
        assert_eq!((other.tail(), other.point), (&br#","cursor":"t.7","object":{}}"#[..], both.point));
    }

    /// One line per rule of G5: first event, second event, and what is left.
    #[test]
    fn pairs_of_events_on_one_object() {
        use Event::{Create, Delete, Enter, Leave, Update};
        for (first, second, event, original) in [
            (Create, Update, Some(Create), None),
            (Create, Leave, None, None),
            (Create, Delete, None, None),
            (Enter, Update, Some(Enter), Some("o1")),
            (Enter, Leave, None, None),
            (Enter, Delete, None, None),
            (Update, Update, Some(Update), Some("o1")),
            (Update, Leave, Some(Leave), Some("o1")),
            (Update, Delete, Some(Delete), None),
            (Leave, Enter, Some(Update), Some("o1")),
            (Leave, Create, Some(Update), Some("o1")),
        ] {
            let original_of = |event, text| (!matches!(event, Create | Delete)).then_some(text);
            let one = body(first, "n1", original_of(first, "o1"));
            let two = body(second, "n2", original_of(second, "o2"));
            let expected = event.map(|event| body(event, "n2", original));
            let merged = match merge(&one, &two) {
                Merged::One(merged) => Some(merged),
                Merged::Nothing => None,
                Merged::Both => panic!("{first:?} {second:?} stay two"),
            };
            assert_eq!(merged, expected, "{first:?} {second:?}");
        }
        for (first, second) in [(Delete, Create), (Delete, Enter), (Update, Create), (Leave, Delete), (Create, Create)]
        {
            assert_eq!(merge(&body(first, "1", None), &body(second, "2", None)), Merged::Both, "{first:?} {second:?}");
        }
    }

    #[test]
    fn an_object_shows_its_keys_and_hides_the_rest() {
        let object = Object {
            id: ObjectId::new("x"),
            fields: map! { "a" => 1.0, "b" => 2.0, "email" => "e", "_secret" => "s" },
            ..Object::default()
        };
        let write = |keys: Option<&[CompactString]>, hidden: &[CompactString]| {
            let mut out = Vec::new();
            write_object(&ClassName::USER, &object, &[], keys, hidden, &mut out);
            String::from_utf8(out).unwrap()
        };
        let times = r#""createdAt":"1970-01-01T00:00:00.000Z","updatedAt":"1970-01-01T00:00:00.000Z"}"#;
        assert_eq!(
            write(None, &["email".into()]),
            format!(r#"{{"className":"_User","objectId":"x","a":1,"b":2,{times}"#)
        );
        assert_eq!(
            write(Some(&["b.c".into(), "email".into()]), &["email".into()]),
            format!(r#"{{"className":"_User","objectId":"x","b":2,{times}"#)
        );
    }

    #[test]
    fn relations_are_shown_once_and_where_other_fields_are() {
        let relations = [("fans".into(), ClassName::USER)];
        let write = |object: &Object, keys: Option<&[CompactString]>, hidden: &[CompactString]| {
            let mut out = Vec::new();
            write_object(&ClassName::USER, object, &relations, keys, hidden, &mut out);
            String::from_utf8(out).unwrap().matches(r#""fans":{"__type":"Relation","className":"_User"}"#).count()
        };
        let bare = Object::default();
        let held = Value::Relation(Box::new(ClassName::USER));
        let holding = Object { fields: map! { "fans" => held }, ..Object::default() };
        for object in [&bare, &holding] {
            assert_eq!(write(object, None, &[]), 1);
            assert_eq!(write(object, Some(&["fans".into()]), &[]), 1);
            assert_eq!(write(object, Some(&["name".into()]), &[]), 0);
            assert_eq!(write(object, None, &["fans".into()]), 0);
        }
    }
}
