//! The engine as a whole: changes and commands in, frames as text out. No thread, no socket, no clock.

mod resuming;

use super::delivery::Delivery;
use super::engine::{Command, Engine, Prepared};
use super::outbox::Verdict;
use super::reads::ReadRequest;
use super::*;
use crate::changes::{Change, Committed, ObjectChange, Position};
use crate::permissions::ClassLevelPermissions;
use crate::schema::{ClassSchema, FieldType, Schemas};
use bytes::BytesMut;
use std::collections::{BTreeMap, VecDeque};
use tidings_protocol::value::Map;
use tidings_protocol::{Acl, Error, Object};

/// An engine with its connections, and the history that it is told.
struct World {
    engine: Engine,
    delivery: Arc<Delivery>,
    outboxes: BTreeMap<u64, Arc<Outbox>>,
    objects: BTreeMap<String, Arc<Object>>,
    position: Position,
    /// What was committed, for who resumes.
    tail: ChangeTail,
    now: Millis,
}

impl World {
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let delivery = Arc::new(Delivery::new(settings, Instant::now(), || {}));
        let engine = Engine::new(delivery.clone(), "t".into(), 0, &Schemas::default());
        Self {
            engine,
            delivery,
            outboxes: BTreeMap::new(),
            objects: BTreeMap::new(),
            position: 0,
            tail: ChangeTail::new(0, 1 << 20),
            now: 0,
        }
    }

    fn handle(&mut self, command: Command) {
        self.engine.handle(command, self.position, self.now);
    }

    fn connect(&mut self, connection: u64) {
        let addressee = Addressee { client_id: "c".into(), installation_id: None };
        let outbox = Arc::new(Outbox::new(addressee, self.delivery.clone()));
        self.outboxes.insert(connection, outbox.clone());
        self.handle(Command::Connect { connection, outbox });
    }

    /// Subscribes anonymously and lets the client answer the fence.
    fn subscribe(&mut self, connection: u64, request_id: i64, filter: &str) {
        self.subscribe_as(connection, request_id, filter, Principals::ANONYMOUS);
    }

    fn subscribe_as(&mut self, connection: u64, request_id: i64, filter: &str, principals: Principals) {
        self.ask(connection, request_id, new(filter, principals), false);
        self.answer_pings(connection);
    }

    fn ask(&mut self, connection: u64, request_id: i64, new: NewSubscription, is_update: bool) {
        if !self.outboxes.contains_key(&connection) {
            self.connect(connection);
        }
        self.outboxes[&connection].commanded();
        let new = Box::new(Prepared::new(new).unwrap());
        self.handle(Command::Subscribe { connection, request_id, new, is_update });
    }

    fn query(&mut self, connection: u64, request_id: i64) {
        self.outboxes[&connection].commanded();
        self.handle(Command::Query { connection, request_id });
    }

    /// Reads everything, as a client does that then sends the pongs.
    fn answer_pings(&mut self, connection: u64) -> Vec<String> {
        let frames = self.frames(connection);
        for frame in &frames {
            if let Some(number) = frame.strip_prefix("ping ") {
                self.handle(Command::Pong { connection, number: number.parse().unwrap() });
            }
        }
        frames
    }

    /// What was sent since the last look.
    fn frames(&mut self, connection: u64) -> Vec<String> {
        self.engine.flush(self.now);
        let outbox = &self.outboxes[&connection];
        let (mut taken, mut scratch) = (VecDeque::new(), BytesMut::new());
        outbox.take(usize::MAX, &mut taken, self.now);
        taken
            .into_iter()
            .map(|outgoing| match outbox.compose(outgoing, &mut scratch) {
                Ok(frame) => String::from_utf8(frame.to_vec()).unwrap(),
                Err(number) => format!("ping {number}"),
            })
            .collect()
    }

    /// The same, with what always is alike cut away: `update 1 {"n":2} < {"n":1}`.
    fn events(&mut self, connection: u64) -> Vec<String> {
        self.frames(connection).iter().map(|frame| short(frame)).collect()
    }

    #[track_caller]
    fn expect(&mut self, connection: u64, events: &[&str]) {
        assert_eq!(self.events(connection), events);
    }

    /// Commits an object as it then is; `None` deletes it. Later fields of the same id replace earlier ones.
    fn commit(&mut self, id: &str, object: Option<(&str, Option<Acl>)>) {
        self.commit_in("Note", id, object);
    }

    fn commit_in(&mut self, class: &str, id: &str, object: Option<(&str, Option<Acl>)>) {
        let key = format!("{class}/{id}");
        let before = self.objects.remove(&key);
        let after = object.map(|(fields, acl)| {
            let fields = Map::from_json(fields.as_bytes()).unwrap();
            Arc::new(Object { id: ObjectId::new(id), fields, acl, ..Object::default() })
        });
        if let Some(after) = &after {
            self.objects.insert(key, after.clone());
        }
        let class = ClassName::from_trusted(class);
        self.apply(Change::Object(ObjectChange { class, id: ObjectId::new(id), before, after }));
    }

    fn put(&mut self, id: &str, fields: &str) {
        self.commit(id, Some((fields, None)));
    }

    fn apply(&mut self, change: Change) {
        self.position += 1;
        let committed = Arc::new(Committed { position: self.position, ordinal: 0, change });
        self.tail.push([committed.clone()]);
        self.engine.apply(&committed, self.now);
    }

    fn set_permissions(&mut self, class: &str, permissions: &str) {
        let mut schema = ClassSchema::new(ClassName::from_trusted(class));
        schema.permissions = ClassLevelPermissions::from_map(&Map::from_json(permissions.as_bytes()).unwrap()).unwrap();
        self.apply(Change::Schema { class: schema.class.clone(), before: None, schema: Some(Arc::new(schema)) });
    }

    fn set_fields(&mut self, fields: &[(&str, FieldType)]) {
        let mut schema = ClassSchema::new(ClassName::from_trusted("Note"));
        schema.fields.extend(fields.iter().map(|(name, field_type)| ((*name).into(), field_type.clone())));
        self.apply(Change::Schema { class: schema.class.clone(), before: None, schema: Some(Arc::new(schema)) });
    }

    fn disconnect(&mut self, connection: u64) {
        self.outboxes.remove(&connection);
        self.handle(Command::Disconnect { connection });
    }

    /// The one read that was asked for.
    fn read(&mut self) -> ReadRequest {
        let mut reads = self.engine.take_reads();
        assert_eq!(reads.len(), 1);
        reads.remove(0)
    }

    fn answer(&mut self, request: &ReadRequest, position: Position, ids: &[&str]) {
        let objects = ids.iter().map(|id| self.objects[&format!("Note/{id}")].clone()).collect();
        self.handle(Command::Answer(request.answer(Ok((position, objects)), None)));
    }

    /// The client stops reading until its connection counts as slow.
    fn stop_reading(&mut self, connection: u64) {
        self.engine.flush(self.now);
        self.now += 60_000;
        assert_eq!(self.outboxes[&connection].offered(true, self.now), Verdict::BecameSlow);
        self.handle(Command::BecameSlow { connection });
    }

    fn read_on(&mut self, connection: u64) {
        assert_eq!(self.outboxes[&connection].offered(false, self.now), Verdict::CaughtUp);
        self.handle(Command::CaughtUp { connection });
    }
}

fn new(filter: &str, principals: Principals) -> NewSubscription {
    new_in("Note", filter, principals)
}

fn new_in(class: &str, filter: &str, principals: Principals) -> NewSubscription {
    let predicate = Predicate::from_map(&Map::from_json(filter.as_bytes()).unwrap()).unwrap();
    let audience = Audience { principals, session: None };
    NewSubscription {
        class: ClassName::from_trusted(class),
        predicate,
        keys: None,
        watch: None,
        audience,
        resume_from: None,
    }
}

fn user(name: &str) -> Principals {
    Principals::user(ObjectId::new(name))
}

fn only(name: &str) -> Option<Acl> {
    Some(Acl::default().with(name, true, true))
}

fn short(frame: &str) -> String {
    if frame.starts_with("ping") {
        return frame.to_owned();
    }
    let json: serde_json::Value = serde_json::from_str(frame).expect(frame);
    let object = |value: &serde_json::Value| {
        let mut map = value.as_object().unwrap().clone();
        for name in ["className", "createdAt", "updatedAt", "ACL"] {
            map.remove(name);
        }
        serde_json::to_string(&map).unwrap().replace('"', "")
    };
    let mut text = format!("{} {}", json["op"].as_str().unwrap(), json["requestId"]);
    for (mark, name) in [("", "object"), ("< ", "original")] {
        if let Some(value) = json.get(name) {
            text += &format!(" {mark}{}", object(value));
        }
    }
    if let Some(results) = json.get("results") {
        let ids: Vec<_> = results.as_array().unwrap().iter().map(|row| row["objectId"].as_str().unwrap()).collect();
        text += &format!(" [{}]", ids.join(" "));
    }
    if let Some(cursor) = json.get("cursor").filter(|_| json.get("object").is_none() && json.get("results").is_none()) {
        text += &format!(" at {}", cursor.as_str().unwrap());
    }
    if let Some(code) = json.get("code") {
        text += &format!(" {code} {} {}", json["error"], json["reconnect"]);
    }
    text
}

#[test]
fn frames_are_those_of_parse() {
    let mut world = World::new();
    world.ask(1, 7, new(r#"{"n":{"$gt":0}}"#, Principals::ANONYMOUS), false);
    assert_eq!(world.answer_pings(1), [r#"{"op":"subscribed","clientId":"c","requestId":7,"cursor":"t.0"}"#, "ping 1"]);
    world.commit("x", Some((r#"{"n":1}"#, Some(Acl::default().with("*", true, false)))));
    world.put("x", r#"{"n":2}"#);
    let times = r#""createdAt":"1970-01-01T00:00:00.000Z","updatedAt":"1970-01-01T00:00:00.000Z""#;
    let one = format!(r#"{{"className":"Note","objectId":"x","n":1,{times},"ACL":{{"*":{{"read":true}}}}}}"#);
    let two = format!(r#"{{"className":"Note","objectId":"x","n":2,{times}}}"#);
    assert_eq!(
        world.frames(1),
        [
            format!(r#"{{"op":"create","clientId":"c","requestId":7,"cursor":"t.1.0","object":{one}}}"#),
            format!(
                r#"{{"op":"update","clientId":"c","requestId":7,"cursor":"t.2.0","object":{two},"original":{one}}}"#
            ),
        ]
    );
}

#[test]
fn an_object_is_followed_through_its_life() {
    let mut world = World::new();
    world.subscribe(1, 1, r#"{"room":"a"}"#);
    world.put("x", r#"{"room":"b"}"#);
    world.put("x", r#"{"room":"a"}"#);
    world.put("x", r#"{"room":"a","n":1}"#);
    world.put("x", r#"{"room":"b"}"#);
    world.put("x", r#"{"room":"c"}"#);
    world.put("x", r#"{"room":"a"}"#);
    world.commit("x", None);
    world.expect(
        1,
        &[
            "enter 1 {objectId:x,room:a} < {objectId:x,room:b}",
            "update 1 {n:1,objectId:x,room:a} < {objectId:x,room:a}",
            "leave 1 {objectId:x,room:b} < {n:1,objectId:x,room:a}",
            "enter 1 {objectId:x,room:a} < {objectId:x,room:c}",
            "delete 1 {objectId:x,room:a}",
        ],
    );
}

#[test]
fn access_decides_like_the_filter_and_leaks_nothing() {
    let mut world = World::new();
    world.subscribe_as(1, 1, "{}", user("ann"));
    world.subscribe_as(2, 1, "{}", user("bob"));
    world.subscribe_as(3, 1, "{}", Principals::MASTER);
    world.commit("x", Some((r#"{"n":1}"#, only("ann"))));
    world.commit("x", Some((r#"{"n":2}"#, only("bob"))));
    world.commit("x", Some((r#"{"n":3}"#, None)));
    world.commit("x", Some((r#"{"n":4}"#, Some(Acl::default()))));
    world.commit("x", None);
    // Who lost access sees the last state that was theirs; who gained it, nothing from before.
    world.expect(
        1,
        &[
            "create 1 {n:1,objectId:x}",
            "leave 1 {n:1,objectId:x} < {n:1,objectId:x}",
            "enter 1 {n:3,objectId:x}",
            "leave 1 {n:3,objectId:x} < {n:3,objectId:x}",
        ],
    );
    world.expect(
        2,
        &[
            "enter 1 {n:2,objectId:x}",
            "update 1 {n:3,objectId:x} < {n:2,objectId:x}",
            "leave 1 {n:3,objectId:x} < {n:3,objectId:x}",
        ],
    );
    world.expect(
        3,
        &[
            "create 1 {n:1,objectId:x}",
            "update 1 {n:2,objectId:x} < {n:1,objectId:x}",
            "update 1 {n:3,objectId:x} < {n:2,objectId:x}",
            "update 1 {n:4,objectId:x} < {n:3,objectId:x}",
            "delete 1 {n:4,objectId:x}",
        ],
    );
}

#[test]
fn schema_changes_count_from_their_place_in_the_log() {
    let mut world = World::new();
    world.subscribe(1, 1, "{}");
    world.subscribe(1, 2, r#"{"objectId":"x"}"#);
    world.subscribe(1, 3, r#"{"secret":1}"#);
    world.put("x", r#"{"secret":1}"#);
    world.set_permissions("Note", r#"{"find":{"*":true},"protectedFields":{"*":["secret"]}}"#);
    world.put("x", r#"{"secret":1,"n":1}"#);
    world.set_permissions("Note", r#"{"get":{"*":true}}"#);
    // Who is let in again has missed something.
    let request = world.read();
    world.put("x", r#"{"secret":1,"n":2}"#);
    world.answer(&request, 4, &["x"]);
    let mut events = world.events(1);
    // Between subscriptions one change has no order.
    events[..3].sort();
    assert_eq!(
        events,
        [
            "create 1 {objectId:x,secret:1}",
            "create 2 {objectId:x,secret:1}",
            "create 3 {objectId:x,secret:1}",
            "update 1 {n:1,objectId:x} < {objectId:x}",
            "result 2 [x]",
            "subscribed 2 at t.4",
            "update 2 {n:2,objectId:x,secret:1} < {n:1,objectId:x,secret:1}",
        ]
    );
}

#[test]
fn an_email_is_for_its_owner() {
    let mut world = World::new();
    for (connection, principals) in [(1, user("u1")), (2, user("u2")), (3, Principals::MASTER)] {
        world.ask(connection, 1, new_in("_User", "{}", principals), false);
        world.answer_pings(connection);
    }
    world.commit_in("_User", "u1", Some((r#"{"email":"e","_hashed_password":"p"}"#, None)));
    world.expect(1, &["create 1 {email:e,objectId:u1}"]);
    world.expect(2, &["create 1 {objectId:u1}"]);
    world.expect(3, &["create 1 {email:e,objectId:u1}"]);
}

#[test]
fn keys_and_watch_choose() {
    let mut world = World::new();
    let with = |keys: Option<&str>, watch: Option<&str>| NewSubscription {
        keys: keys.map(|key| vec![key.into()]),
        watch: watch.map(|field| vec![field.into()]),
        ..new(r#"{"room":1}"#, Principals::ANONYMOUS)
    };
    world.ask(1, 1, with(Some("a"), None), false);
    world.ask(1, 2, with(None, Some("a")), false);
    world.answer_pings(1);
    world.put("x", r#"{"room":1,"b":1}"#);
    world.put("x", r#"{"room":1,"b":2}"#);
    world.put("x", r#"{"room":1,"b":2,"a":[1]}"#);
    world.put("x", r#"{"room":1,"b":3,"a":[1]}"#);
    world.put("x", r#"{"room":2,"b":3,"a":[1]}"#);
    world.put("y", r#"{"room":1,"a":0}"#);
    let events = world.events(1);
    let of = |id: &str| events.iter().filter(|event| event.split(' ').nth(1) == Some(id)).cloned().collect::<Vec<_>>();
    assert_eq!(
        of("1"),
        [
            "create 1 {objectId:x}",
            "update 1 {objectId:x} < {objectId:x}",
            "update 1 {a:[1],objectId:x} < {objectId:x}",
            "update 1 {a:[1],objectId:x} < {a:[1],objectId:x}",
            "leave 1 {a:[1],objectId:x} < {a:[1],objectId:x}",
            "create 1 {a:0,objectId:y}",
        ]
    );
    assert_eq!(
        of("2"),
        [
            "update 2 {a:[1],b:2,objectId:x,room:1} < {b:2,objectId:x,room:1}",
            "leave 2 {a:[1],b:3,objectId:x,room:2} < {a:[1],b:3,objectId:x,room:1}",
            "create 2 {a:0,objectId:y,room:1}",
        ]
    );
}

#[test]
fn only_filters_that_could_match_are_asked() {
    let mut world = World::new();
    for n in 0..500 {
        world.subscribe(1, n, &format!(r#"{{"room":"r{n}","kind":"message"}}"#));
    }
    for n in 500..510 {
        world.subscribe(1, n, r#"{"room":"r7","kind":"message"}"#);
    }
    let sizes = world.engine.sizes();
    assert_eq!((sizes.subscriptions, sizes.groups, sizes.residual_groups), (510, 500, 0));
    world.put("x", r#"{"room":"r7","kind":"message"}"#);
    assert_eq!(world.engine.counts.candidates, 1);
    assert_eq!(world.events(1).len(), 11);
    world.put("x", r#"{"room":"r8","kind":"message"}"#);
    assert_eq!(world.engine.counts.candidates, 3);
    world.subscribe(1, 900, r#"{"n":{"$gt":5}}"#);
    world.subscribe(1, 901, r#"{"n":{"$ne":5}}"#);
    assert_eq!(world.engine.sizes().residual_groups, 1);
    world.handle(Command::Disconnect { connection: 1 });
    assert_eq!(world.engine.sizes(), Default::default());
}

#[test]
fn relations_are_shown_as_of_the_class_then() {
    let mut world = World::new();
    world.subscribe(1, 1, r#"{"a":1}"#);
    world.put("x", r#"{"a":1}"#);
    world.expect(1, &["create 1 {a:1,objectId:x}"]);
    world.set_fields(&[("r", FieldType::Relation(ClassName::USER))]);
    world.put("x", r#"{"a":1,"b":1}"#);
    let r = "r:{__type:Relation,className:_User}";
    world.expect(1, &[&format!("update 1 {{a:1,b:1,objectId:x,{r}}} < {{a:1,objectId:x,{r}}}")]);
    // As a store does that holds them itself.
    world.put("x", r#"{"b":1,"r":{"__type":"Relation","className":"_User"}}"#);
    world.expect(1, &[&format!("leave 1 {{b:1,objectId:x,{r}}} < {{a:1,b:1,objectId:x,{r}}}")]);
    world.commit("x", None);
    world.expect(1, &[]);
    world.put("y", r#"{"a":1}"#);
    world.expect(1, &[&format!("create 1 {{a:1,objectId:y,{r}}}")]);
    world.set_fields(&[]);
    world.commit("y", None);
    world.expect(1, &["delete 1 {a:1,objectId:y}"]);
}

#[test]
fn the_first_subscribed_is_a_fence() {
    let mut world = World::new();
    world.ask(1, 1, new("{}", Principals::ANONYMOUS), false);
    world.expect(1, &["subscribed 1 at t.0", "ping 1"]);
    world.put("x", "{}");
    world.query(1, 1);
    let request = world.read();
    world.answer(&request, 1, &["x"]);
    world.put("y", "{}");
    world.expect(1, &[]);
    // A pong to another ping does not count.
    world.handle(Command::Pong { connection: 1, number: 0 });
    world.expect(1, &[]);
    world.handle(Command::Pong { connection: 1, number: 1 });
    world.expect(1, &["result 1 [x]", "create 1 {objectId:y}"]);
    // No pong: a second.
    world.ask(1, 2, new(r#"{"a":1}"#, Principals::ANONYMOUS), false);
    world.put("z", r#"{"a":1}"#);
    world.expect(1, &["subscribed 2 at t.2", "create 1 {a:1,objectId:z}", "ping 2"]);
    assert_eq!(world.engine.tick(999), Some(1_000));
    world.expect(1, &[]);
    assert_eq!(world.engine.tick(1_000), None);
    world.expect(1, &["create 2 {a:1,objectId:z}"]);
}

#[test]
fn the_same_request_id_replaces() {
    let mut world = World::new();
    world.subscribe(1, 1, r#"{"a":1}"#);
    world.ask(1, 1, new(r#"{"b":1}"#, Principals::ANONYMOUS), false);
    world.put("x", r#"{"a":1}"#);
    world.put("y", r#"{"b":1}"#);
    world.expect(1, &["subscribed 1 at t.0", "create 1 {b:1,objectId:y}"]);
    world.ask(1, 1, new(r#"{"c":1}"#, Principals::ANONYMOUS), true);
    world.put("z", r#"{"c":1}"#);
    world.expect(1, &["subscribed 1 at t.2", "create 1 {c:1,objectId:z}"]);
    assert_eq!((world.engine.sizes().subscriptions, world.engine.sizes().groups), (1, 1));
    // While the fence stands, what was held is still owed.
    world.ask(1, 2, new(r#"{"c":1}"#, Principals::ANONYMOUS), false);
    world.put("u", r#"{"c":1}"#);
    world.ask(1, 2, new(r#"{"c":1}"#, Principals::ANONYMOUS), false);
    world.put("v", r#"{"c":1}"#);
    let frames = world.answer_pings(1);
    assert_eq!(
        frames.iter().filter(|frame| frame.contains(r#""requestId":2,"#) && frame.contains(r#""object""#)).count(),
        0
    );
    world.expect(1, &["create 2 {c:1,objectId:u}", "create 2 {c:1,objectId:v}"]);
    world.outboxes[&1].commanded();
    world.handle(Command::Unsubscribe { connection: 1, request_id: 2 });
    world.put("w", r#"{"c":1}"#);
    world.expect(1, &["unsubscribed 2", "create 1 {c:1,objectId:w}"]);
}

#[test]
fn what_was_committed_before_is_no_news() {
    let mut world = World::new();
    world.connect(1);
    // Two changes are committed that the engine has not applied yet.
    world.outboxes[&1].commanded();
    let new = Box::new(Prepared::new(new("{}", Principals::ANONYMOUS)).unwrap());
    world.engine.handle(Command::Subscribe { connection: 1, request_id: 1, new, is_update: false }, 2, 0);
    world.answer_pings(1);
    world.put("x", "{}");
    world.put("y", "{}");
    world.put("z", "{}");
    world.expect(1, &["create 1 {objectId:z}"]);
}

#[test]
fn a_deleted_session_ends_its_subscriptions() {
    let mut world = World::new();
    let with_session = || NewSubscription {
        audience: Audience { principals: user("ann"), session: Some(ObjectId::new("s1")) },
        ..new("{}", Principals::ANONYMOUS)
    };
    world.ask(1, 1, with_session(), false);
    world.answer_pings(1);
    world.subscribe(1, 2, "{}");
    world.commit_in("_Session", "s1", Some(("{}", only("ann"))));
    world.commit_in("_Session", "s1", None);
    world.put("x", "{}");
    world.expect(1, &[r#"error 1 209 "Invalid session token" false"#, "create 2 {objectId:x}"]);
    // A subscription that was checked just before comes too late.
    world.ask(1, 3, with_session(), false);
    world.expect(1, &[r#"error 3 209 "Invalid session token" false"#]);
    // No more than the id has to be known of a session that ends.
    let other = Audience { principals: user("ann"), session: Some(ObjectId::new("s2")) };
    world.ask(1, 4, NewSubscription { audience: other, ..new("{}", Principals::ANONYMOUS) }, false);
    world.answer_pings(1);
    world.apply(Change::Unseen { class: ClassName::SESSION, gone: Some(ObjectId::new("s2")) });
    world.expect(1, &[r#"error 4 209 "Invalid session token" false"#]);
}

#[test]
fn sessions_that_may_have_ended_are_checked_before_anything_is_read() {
    let mut world = World::new();
    for session in ["s1", "s2"] {
        let request_id = if session == "s1" { 1 } else { 2 };
        let audience = Audience { principals: user("ann"), session: Some(ObjectId::new(session)) };
        world.ask(1, request_id, NewSubscription { audience, ..new("{}", Principals::ANONYMOUS) }, false);
    }
    world.answer_pings(1);
    let unseen = |class| Change::Unseen { class, gone: None };
    world.apply(unseen(ClassName::SESSION));
    world.apply(unseen(ClassName::from_trusted("Note")));
    let mut sessions = world.engine.take_session_check(world.now).unwrap();
    sessions.sort();
    assert_eq!(sessions, ["s1", "s2"].map(ObjectId::new));
    assert!(world.engine.take_reads().is_empty(), "who may have lost the session gets no result");
    // One at a time, and not all the time; what happens meanwhile is looked at afterwards, and holds up nothing older.
    world.apply(unseen(ClassName::SESSION));
    assert!(world.engine.take_session_check(world.now).is_none());
    world.handle(Command::SessionsChecked { ended: vec![ObjectId::new("s1")] });
    world.expect(1, &[r#"error 1 209 "Invalid session token" false"#]);
    assert!(world.engine.take_session_check(world.now).is_none());
    for request in world.engine.take_reads() {
        world.answer(&request, 3, &[]);
    }
    world.expect(1, &["result 2 []", "subscribed 2 at t.3"]);
    world.now += 1_000;
    assert_eq!(world.engine.take_session_check(world.now).unwrap(), [ObjectId::new("s2")]);
    world.handle(Command::SessionsChecked { ended: Vec::new() });
    // Who was let in before it ended, and subscribes now, is looked at as well; who has no session waits for nothing.
    let audience = Audience { principals: user("ann"), session: Some(ObjectId::new("s3")) };
    world.ask(1, 3, NewSubscription { audience, ..new("{}", Principals::ANONYMOUS) }, false);
    world.subscribe(1, 4, "{}");
    world.answer_pings(1);
    world.query(1, 3);
    world.query(1, 4);
    assert_eq!(world.read().request_id, 4);
    world.now += 1_000;
    assert_eq!(world.engine.take_session_check(world.now).unwrap().len(), 2);
    world.handle(Command::SessionsChecked { ended: Vec::new() });
    assert_eq!(world.read().request_id, 3);
}

#[test]
fn results_and_stream_fit_together() {
    let mut world = World::new();
    world.subscribe(1, 1, "{}");
    world.subscribe(1, 2, "{}");
    world.put("a", "{}");
    world.query(1, 1);
    let request = world.read();
    assert_eq!((request.read.at_least, request.read.limit), (1, 1_001));
    world.put("b", "{}");
    world.put("c", "{}");
    world.expect(
        1,
        &["create 1 {objectId:a}", "create 2 {objectId:a}", "create 2 {objectId:b}", "create 2 {objectId:c}"],
    );
    // The store had seen `b` already, but not `c`.
    world.answer(&request, 2, &["a", "b"]);
    world.expect(1, &["result 1 [a b]", "create 1 {objectId:c}"]);
    // The store was ahead of the engine: what it had seen does not come again.
    world.query(1, 1);
    let request = world.read();
    world.answer(&request, 5, &["a", "b", "c"]);
    world.put("d", "{}");
    world.put("e", "{}");
    world.put("f", "{}");
    let events = world.events(1);
    let mine: Vec<_> = events.iter().filter(|event| event.contains(" 1 ")).collect();
    assert_eq!(mine, ["result 1 [a b c]", "create 1 {objectId:f}"]);
}

#[test]
fn a_second_question_meanwhile_is_answered_too() {
    let mut world = World::new();
    world.subscribe(1, 1, "{}");
    world.query(1, 1);
    world.query(1, 1);
    let request = world.read();
    world.answer(&request, 0, &[]);
    let request = world.read();
    world.answer(&request, 0, &[]);
    world.expect(1, &["result 1 []", "result 1 []"]);
    // A failed read is an error, and the stream goes on.
    world.query(1, 1);
    let request = world.read();
    world.put("a", "{}");
    let failed = request.answer(Err(Error::new(tidings_protocol::Code::InternalServerError, "no")), None);
    world.handle(Command::Answer(failed));
    world.expect(1, &[r#"error 1 1 "no" false"#, "create 1 {objectId:a}"]);
    // An answer to a subscription that is gone is nobody's.
    world.query(1, 1);
    let request = world.read();
    world.ask(1, 1, new("{}", Principals::ANONYMOUS), false);
    world.answer(&request, 1, &["a"]);
    world.expect(1, &["subscribed 1 at t.1"]);
    let request = world.read();
    world.answer(&request, 1, &["a"]);
    world.expect(1, &["result 1 [a]"]);
}

#[test]
fn a_result_that_does_not_hold_all_says_so() {
    for (settings, partial) in [
        (Settings { result_limit: 2, ..Settings::default() }, [false, false, true]),
        (Settings { result_bytes: 1, ..Settings::default() }, [false, true, true]),
    ] {
        let mut world = World::with(settings);
        world.subscribe(1, 1, "{}");
        for id in ["a", "b", "c"] {
            world.put(id, "{}");
        }
        world.frames(1);
        for (count, expected) in [0, 2, 3].into_iter().zip(partial) {
            world.query(1, 1);
            let request = world.read();
            world.answer(&request, 3, &["a", "b", "c"][..count]);
            let frames = world.frames(1).concat();
            assert_eq!(frames.contains(r#"],"partial":true}"#), expected, "{frames}");
        }
    }
}

#[test]
fn results_obey_the_schema_of_their_time() {
    let mut world = World::new();
    world.subscribe(1, 1, "{}");
    world.put("a", r#"{"secret":1}"#);
    world.query(1, 1);
    let request = world.read();
    world.set_permissions("Note", r#"{"find":{"*":true},"protectedFields":{"*":["secret"]}}"#);
    world.answer(&request, 1, &["a"]);
    // Read under the old rules: read again.
    let request = world.read();
    world.answer(&request, 2, &["a"]);
    let frames = world.frames(1);
    assert!(frames[1].contains("result") && !frames[1].contains("secret"), "{frames:?}");
    world.set_permissions("Note", "{}");
    world.query(1, 1);
    assert!(world.engine.take_reads().is_empty());
    world.expect(1, &[r#"error 1 119 "Permission denied" false"#]);
}

#[test]
fn reads_of_one_connection_take_turns() {
    let mut world = World::with(Settings { reads_per_connection: 2, ..Settings::default() });
    for request_id in 0..5 {
        world.subscribe(1, request_id, "{}");
        world.query(1, request_id);
    }
    let mut reads = world.engine.take_reads();
    assert_eq!(reads.len(), 2);
    let mut answered = 0;
    while let Some(request) = reads.pop() {
        world.answer(&request, 0, &[]);
        answered += 1;
        reads.extend(world.engine.take_reads());
    }
    assert_eq!((answered, world.events(1).len()), (5, 5));
}

#[test]
fn too_many_held_events_are_read_instead() {
    let mut world = World::with(Settings { resync_mark: 2_000, ..Settings::default() });
    world.ask(1, 1, new("{}", Principals::ANONYMOUS), false);
    world.expect(1, &["subscribed 1 at t.0", "ping 1"]);
    for n in 0..50 {
        world.put(&format!("x{n}"), "{}");
    }
    world.handle(Command::Pong { connection: 1, number: 1 });
    world.expect(1, &[]);
    let request = world.read();
    assert_eq!(request.read.at_least, 50);
    world.put("y", "{}");
    world.answer(&request, 50, &["x1"]);
    world.expect(1, &["result 1 [x1]", "subscribed 1 at t.32", "create 1 {objectId:y}"]);
}

/// Small marks, so that a few events reach them.
fn small() -> Settings {
    Settings { coalesce_mark: 1_000, resync_mark: 4_000, close_mark: 8_000, ..Settings::default() }
}

#[test]
fn a_slow_reader_gets_less_but_nothing_wrong() {
    let mut world = World::with(small());
    world.subscribe(1, 1, "{}");
    world.subscribe(2, 1, "{}");
    world.put("x", r#"{"n":0}"#);
    world.stop_reading(1);
    for n in 1..=40 {
        world.put("x", &format!(r#"{{"n":{n}}}"#));
        world.engine.flush(world.now);
    }
    assert_eq!(world.events(2).len(), 41, "others are not concerned");
    let events = world.events(1);
    assert!(events.len() < 12, "{events:?}");
    assert!(events[0].starts_with("create") && events.last().unwrap().starts_with("update 1 {n:40"), "{events:?}");
    for pair in events.windows(2) {
        let (seen, original) = (pair[0].split(' ').nth(2), pair[1].split("< ").nth(1));
        assert_eq!(seen, original, "each event goes on where the one before it ended: {events:?}");
    }
    assert_eq!(world.engine.counts.coalesced as usize, 41 - events.len());
    world.read_on(1);
    world.put("x", r#"{"n":41}"#);
    world.expect(1, &["update 1 {n:41,objectId:x} < {n:40,objectId:x}"]);
    assert!(world.engine.take_reads().is_empty());
}

#[test]
fn past_the_second_mark_a_subscription_starts_afresh() {
    let mut world = World::with(small());
    world.subscribe(1, 1, "{}");
    world.subscribe(1, 2, r#"{"other":1}"#);
    world.put("x", "{}");
    world.stop_reading(1);
    for n in 0..40 {
        world.put(&format!("x{n}"), "{}");
        world.engine.flush(world.now);
    }
    // Nothing is queued any more, and nothing is read before the reader has caught up.
    assert!(world.engine.take_reads().is_empty());
    world.expect(1, &[]);
    world.read_on(1);
    world.put("later", "{}");
    world.put("other", r#"{"other":1}"#);
    let request = world.read();
    world.answer(&request, 42, &["x1", "later"]);
    world.expect(
        1,
        &[
            "create 2 {objectId:other,other:1}",
            "result 1 [x1 later]",
            "subscribed 1 at t.2a",
            "create 1 {objectId:other,other:1}",
        ],
    );
    assert_eq!(world.engine.counts.resyncs, 1);
}

#[test]
fn nothing_staged_comes_before_the_results_that_hold_it() {
    let mut world = World::with(small());
    world.subscribe(1, 1, "{}");
    for n in 0..40 {
        world.put(&format!("x{n}"), "{}");
    }
    world.engine.flush(world.now);
    world.put("staged", "{}");
    world.now += 60_000;
    assert_eq!(world.outboxes[&1].offered(true, world.now), Verdict::BecameSlow);
    world.handle(Command::BecameSlow { connection: 1 });
    world.expect(1, &[]);
    world.read_on(1);
    let request = world.read();
    world.answer(&request, 41, &["x1", "staged"]);
    world.expect(1, &["result 1 [x1 staged]", "subscribed 1 at t.29"]);
}

#[test]
fn slow_readers_together_are_bounded() {
    let mut world = World::with(Settings { global_mark: 8_000, coalesce_mark: 100, ..Settings::default() });
    for connection in 0..20 {
        world.subscribe(connection, 1, "{}");
    }
    world.put("x", "{}");
    for connection in 0..20 {
        world.stop_reading(connection);
    }
    for n in 0..200 {
        world.put(&format!("x{n}"), "{}");
        world.engine.flush(world.now);
        assert!(world.delivery.slow_bytes() < 16_000, "{}", world.delivery.slow_bytes());
    }
    assert_eq!(world.delivery.keeping_bytes(), 0);
    for connection in 0..20 {
        world.events(connection);
        world.read_on(connection);
    }
    assert!(!world.engine.take_reads().is_empty());
}

#[test]
fn when_all_lag_the_engine_stops_and_nobody_loses() {
    let mut world = World::with(Settings { global_mark: 100_000, ..small() });
    for connection in 0..10 {
        world.subscribe(connection, 1, "{}");
    }
    let mut written = 0;
    while !world.engine.is_full() {
        world.put(&format!("x{written}"), "{}");
        world.engine.flush(world.now);
        written += 1;
        // Nobody has been offered anything: that is our lag, not theirs, however much waits.
        world.now += 10_000;
    }
    assert!(written > 20 && world.delivery.keeping_bytes() >= 100_000);
    for connection in 0..10 {
        assert_eq!(world.events(connection).len(), written);
    }
    assert!(!world.engine.is_full());
    assert_eq!((world.engine.counts.coalesced, world.engine.counts.closes), (0, 0));
}

#[test]
fn a_connection_is_bounded() {
    let mut world = World::with(Settings { max_subscriptions: 2, max_filter_bytes: 1_000, ..Settings::default() });
    world.subscribe(1, 1, "{}");
    world.ask(1, 2, new(&format!(r#"{{"a":"{}"}}"#, "x".repeat(2_000)), Principals::ANONYMOUS), false);
    world.expect(1, &[r#"error 2 155 "The filters of a connection take at most 1000 bytes." false"#]);
    world.subscribe(1, 2, "{}");
    world.ask(1, 3, new("{}", Principals::ANONYMOUS), false);
    world.expect(1, &[r#"error 3 155 "A connection has at most 2 subscriptions." false"#]);
    // Replacing one is no new one, and what is replaced makes room.
    for letter in ["x", "y"] {
        world.ask(1, 2, new(&format!(r#"{{"a":"{}"}}"#, letter.repeat(900)), Principals::ANONYMOUS), false);
        world.expect(1, &["subscribed 2 at t.0"]);
    }
    let mut world = World::with(Settings { max_effort: 20, ..Settings::default() });
    world.subscribe(1, 1, r#"{"a":{"$regex":"x"},"b":1}"#);
    world.ask(1, 2, new(r#"{"a":{"$regex":"x"}}"#, Principals::ANONYMOUS), false);
    world.expect(1, &[r#"error 2 155 "The filters of a connection have too many constraints." false"#]);
    world.ask(1, 1, new("{}", Principals::ANONYMOUS), false);
    world.ask(1, 2, new(r#"{"a":{"$regex":"x"}}"#, Principals::ANONYMOUS), false);
    world.expect(1, &["subscribed 1 at t.0", "subscribed 2 at t.0", "ping 2"]);
}

#[test]
fn what_nobody_can_tell_is_looked_up() {
    let mut world = World::new();
    world.subscribe(1, 1, "{}");
    world.put("x", "{}");
    world.expect(1, &["create 1 {objectId:x}"]);
    let unseen = |class: &str| Change::Unseen { class: ClassName::from_trusted(class), gone: None };
    world.apply(unseen("Other"));
    assert!(world.engine.take_reads().is_empty(), "other classes are not concerned");
    world.apply(unseen("Note"));
    let request = world.read();
    world.put("y", "{}");
    world.apply(unseen("Note"));
    // The answer is of before the second one.
    world.answer(&request, 3, &["x"]);
    let request = world.read();
    world.answer(&request, 5, &["x", "y"]);
    world.expect(1, &["result 1 [x y]", "subscribed 1 at t.5"]);
}

#[test]
fn a_lost_change_log_ends_every_connection() {
    let mut world = World::new();
    world.subscribe(1, 1, "{}");
    world.engine.start_over(100, &Schemas::default());
    assert_eq!(world.outboxes[&1].closing().unwrap().code, 1012);
    assert_eq!(world.engine.position(), 100);
}

/// Random life of a few objects under many filters and readers, against the table applied by brute force.
#[test]
fn every_subscriber_gets_what_the_table_says() {
    let filters = [
        "{}",
        r#"{"room":1}"#,
        r#"{"room":{"$in":[1,2]}}"#,
        r#"{"room":{"$gt":1}}"#,
        r#"{"$or":[{"room":1},{"n":3}]}"#,
        r#"{"room":{"$ne":2}}"#,
        r#"{"objectId":"o1"}"#,
        r#"{"tags":"b"}"#,
    ];
    let people = [Principals::ANONYMOUS, Principals::MASTER, user("ann"), user("bob")];
    let mut world = World::new();
    let mut expected: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut subscribers = Vec::new();
    for filter in filters {
        for person in &people {
            let connection = subscribers.len() as u64;
            world.subscribe_as(connection, 1, filter, person.clone());
            let predicate = Predicate::from_map(&Map::from_json(filter.as_bytes()).unwrap()).unwrap();
            subscribers.push((tidings_protocol::matches::Matcher::new(&predicate).unwrap(), person.clone()));
        }
    }
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..2_000 {
        let id = format!("o{}", random(4));
        let before = world.objects.get(&format!("Note/{id}")).cloned();
        if random(5) == 0 {
            if before.is_none() {
                continue;
            }
            world.commit(&id, None);
        } else {
            let tags = ["[]", r#"["a"]"#, r#"["a","b"]"#][random(3) as usize];
            let fields = format!(r#"{{"room":{},"n":{},"tags":{tags}}}"#, random(4), random(5));
            let acl =
                [None, only("ann"), only("bob"), Some(Acl::default()), Some(Acl::default().with("*", true, false))]
                    [random(5) as usize]
                    .clone();
            world.commit(&id, Some((&fields, acl)));
        }
        let after = world.objects.get(&format!("Note/{id}")).cloned();
        for (connection, (matcher, person)) in subscribers.iter().enumerate() {
            let sees = |object: &Option<Arc<Object>>| {
                object.as_ref().is_some_and(|object| {
                    matcher.matches(object) && person.may(tidings_protocol::Access::Read, object.acl.as_ref())
                })
            };
            let event = match (sees(&before), sees(&after)) {
                (false, false) => continue,
                (true, true) => "update",
                (false, true) if before.is_none() => "create",
                (false, true) => "enter",
                (true, false) if after.is_none() => "delete",
                (true, false) => "leave",
            };
            expected.entry(connection as u64).or_default().push(format!("{event} {id}"));
        }
    }
    for connection in 0..subscribers.len() as u64 {
        let events: Vec<String> = world
            .frames(connection)
            .iter()
            .map(|frame| {
                let json: serde_json::Value = serde_json::from_str(frame).unwrap();
                format!("{} {}", json["op"].as_str().unwrap(), json["object"]["objectId"].as_str().unwrap())
            })
            .collect();
        assert_eq!(Some(&events), expected.get(&connection).or(Some(&Vec::new())), "{connection}");
    }
}
