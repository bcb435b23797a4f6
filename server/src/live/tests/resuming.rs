//! Clients that come back with a cursor.

use super::*;
use crate::changes::{Point, SourceError};
use crate::live::reads::{ReadAnswer, Reply};
use crate::live::replay::ReplayRequest;

/// A log that has nothing of its own.
struct Store {
    newest: Position,
}

#[async_trait::async_trait]
impl ChangeSource for Store {
    async fn read_after(&self, _: Position, _: usize) -> Result<Vec<Arc<Committed>>, SourceError> {
        Err(SourceError::Gone)
    }

    async fn newest(&self) -> Result<Position, SourceError> {
        Ok(self.newest)
    }
}

impl World {
    /// Comes back with this cursor, and reads the frames up to the fence.
    fn resume(&mut self, connection: u64, filter: &str, cursor: &str) -> Vec<String> {
        self.resume_as(connection, filter, cursor, Principals::ANONYMOUS)
    }

    fn resume_as(&mut self, connection: u64, filter: &str, cursor: &str, principals: Principals) -> Vec<String> {
        let resume_from = Some(Cursor::parse(cursor).unwrap());
        self.ask(connection, 1, NewSubscription { resume_from, ..new(filter, principals) }, false);
        self.answer_pings(connection).iter().map(|frame| short(frame)).collect()
    }

    /// The one replay that was asked for.
    fn replay(&mut self) -> ReplayRequest {
        let mut replays = self.engine.take_replays();
        assert_eq!(replays.len(), 1);
        replays.remove(0)
    }

    /// Reads it from what was committed so far.
    fn reply(&self, request: ReplayRequest) -> ReadAnswer {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(request.answer(&self.tail, &Store { newest: self.position }))
    }

    fn answer_replay(&mut self) {
        let request = self.replay();
        let answer = self.reply(request);
        self.handle(Command::Answer(answer));
    }

    /// That the log does not tell, and fresh results come instead.
    #[track_caller]
    fn expect_resync(&mut self, connection: u64, ids: &[&str]) {
        self.expect(connection, &[]);
        let request = self.read();
        let position = self.position;
        self.answer(&request, position, ids);
        let frames = self.frames(connection);
        assert!(frames[0].contains(r#""resync":true"#) && frames[0].contains(r#""cursor":"t."#), "{frames:?}");
        let events: Vec<_> = frames.iter().map(|frame| short(frame)).collect();
        assert_eq!(events, [format!("result 1 [{}]", ids.join(" ")), format!("subscribed 1 at t.{position:x}")]);
    }
}

/// What may be read by everybody from now on.
const OPEN: &str = r#"{"find":{"*":true},"get":{"*":true}}"#;

#[test]
fn who_comes_back_hears_what_it_missed_once_and_goes_on() {
    let mut world = World::new();
    world.put("x", r#"{"room":"a"}"#);
    world.put("y", r#"{"room":"b"}"#);
    world.put("x", r#"{"room":"a","n":1}"#);
    world.put("x", r#"{"room":"b"}"#);
    world.put("y", r#"{"room":"a"}"#);
    world.commit("y", None);
    // Behind the first change.
    assert_eq!(world.resume(1, r#"{"room":"a"}"#, "t.1.0"), ["subscribed 1 at t.1.0", "ping 1"]);
    let request = world.replay();
    // Before the log is read, and after: neither lost nor doubled.
    world.put("v", r#"{"room":"a"}"#);
    let answer = world.reply(request);
    world.put("w", r#"{"room":"a"}"#);
    world.expect(1, &[]);
    world.handle(Command::Answer(answer));
    world.expect(
        1,
        &[
            "update 1 {n:1,objectId:x,room:a} < {objectId:x,room:a}",
            "leave 1 {objectId:x,room:b} < {n:1,objectId:x,room:a}",
            "enter 1 {objectId:y,room:a} < {objectId:y,room:b}",
            "delete 1 {objectId:y,room:a}",
            "create 1 {objectId:v,room:a}",
            "create 1 {objectId:w,room:a}",
        ],
    );
    world.put("z", r#"{"room":"a"}"#);
    world.expect(1, &["create 1 {objectId:z,room:a}"]);
}

#[test]
fn every_cursor_is_a_place_to_go_on_from() {
    let mut world = World::new();
    world.subscribe(1, 1, "{}");
    for n in 0..4 {
        world.put("x", &format!("{{\"n\":{n}}}"));
    }
    let frames = world.frames(1);
    let cursor_of = |frame: &String| {
        let frame: serde_json::Value = serde_json::from_str(frame).unwrap();
        frame["cursor"].as_str().unwrap().to_owned()
    };
    for (at, frame) in frames.iter().enumerate() {
        world.resume(2, "{}", &cursor_of(frame));
        world.answer_replay();
        let tails = |frames: &[String]| -> Vec<String> {
            frames.iter().map(|frame| frame[frame.find("cursor").unwrap()..].to_owned()).collect()
        };
        assert_eq!(tails(&world.frames(2)), tails(&frames[at + 1..]), "the same bytes");
    }
}

#[test]
fn what_was_missed_shows_relations_as_find_does() {
    let mut world = World::new();
    world.put("x", "{}");
    world.put("x", r#"{"a":1}"#);
    world.set_fields(&[("r", FieldType::Relation(ClassName::USER))]);
    world.resume(1, "{}", "t.1.0");
    world.answer_replay();
    let r = "r:{__type:Relation,className:_User}";
    world.expect(1, &[&format!("update 1 {{a:1,objectId:x,{r}}} < {{objectId:x,{r}}}")]);
}

#[test]
fn a_cursor_may_lie_within_a_commit() {
    let mut world = World::new();
    let create = |id: &str| {
        let after = Some(Arc::new(Object { id: ObjectId::new(id), ..Object::default() }));
        Change::Object(ObjectChange {
            class: ClassName::from_trusted("Note"),
            id: ObjectId::new(id),
            before: None,
            after,
        })
    };
    let commit: Vec<_> = [(0, "a"), (2, "b"), (3, "c")]
        .map(|(ordinal, id)| Arc::new(Committed { position: 5, ordinal, change: create(id) }))
        .into();
    world.tail.push(commit.clone());
    world.position = 5;
    world.subscribe(1, 1, "{}");
    // This process has not heard of it yet: what the client had comes no more, what it had not comes from either side.
    world.resume(2, "{}", "t.5.2");
    world.answer_replay();
    world.expect(2, &["create 1 {objectId:c}"]);
    for committed in &commit {
        world.engine.apply(committed, 0);
    }
    world.expect(2, &[]);
    world.resume(2, "{}", "t.5.0");
    world.answer_replay();
    world.expect(2, &["create 1 {objectId:b}", "create 1 {objectId:c}"]);
    world.expect(1, &[]);
}

#[test]
fn a_cursor_ahead_of_this_process_is_waited_for() {
    let mut world = World::new();
    world.put("x", "{}");
    // Committed elsewhere, and not heard of here yet.
    world.position = 3;
    world.resume(1, "{}", "t.3");
    world.answer_replay();
    world.position = 1;
    for id in ["a", "b", "c", "d"] {
        world.put(id, "{}");
    }
    world.expect(1, &["create 1 {objectId:c}", "create 1 {objectId:d}"]);
    // Nobody has committed that.
    world.resume(1, "{}", "t.77");
    world.answer_replay();
    world.expect_resync(1, &["x", "d"]);
    world.put("e", "{}");
    world.expect(1, &["create 1 {objectId:e}"]);
}

#[test]
fn what_the_log_cannot_tell_starts_afresh() {
    // Another timeline.
    let mut world = World::new();
    world.put("x", "{}");
    assert_eq!(world.resume(1, "{}", "other.1"), ["subscribed 1", "ping 1"]);
    assert!(world.engine.take_replays().is_empty());
    world.expect_resync(1, &["x"]);
    // Passed retention.
    world.tail = ChangeTail::new(1, 1 << 20);
    world.resume(1, "{}", "t.0");
    world.answer_replay();
    world.expect_resync(1, &["x"]);
    // Something that nobody can tell.
    world.apply(Change::Unseen { class: ClassName::from_trusted("Other"), gone: None });
    world.put("y", "{}");
    world.resume(1, "{}", "t.1");
    world.answer_replay();
    world.expect(1, &["create 1 {objectId:y}"]);
    world.disconnect(1);
    world.apply(Change::Unseen { class: ClassName::from_trusted("Note"), gone: None });
    world.resume(1, "{}", "t.1");
    world.answer_replay();
    world.expect_resync(1, &["x", "y"]);
    // Too much of it: changes, or events.
    for bounds in [
        Settings { replay_changes: 3, ..Settings::default() },
        Settings { replay_log_bytes: 600, ..Settings::default() },
        Settings { replay_bytes: 300, ..Settings::default() },
        Settings { close_mark: 300, ..Settings::default() },
    ] {
        let mut world = World::with(bounds);
        for n in 0..4 {
            world.put(&format!("x{n}"), "{}");
        }
        world.resume(1, "{}", "t.0");
        world.answer_replay();
        world.expect_resync(1, &["x3"]);
        world.resume(1, "{}", "t.3");
        world.answer_replay();
        world.expect(1, &["create 1 {objectId:x3}"]);
    }
}

#[test]
fn a_class_that_permits_otherwise_starts_afresh() {
    let class = || ClassName::from_trusted("Note");
    let schema = |permissions: &str, field: Option<&str>| {
        let mut schema = ClassSchema::new(class());
        schema.permissions = ClassLevelPermissions::from_map(&Map::from_json(permissions.as_bytes()).unwrap()).unwrap();
        schema.fields.extend(field.map(|name| (name.into(), crate::schema::FieldType::Number)));
        Arc::new(schema)
    };
    let (open, wide) = (schema(OPEN, None), schema(OPEN, Some("n")));
    let closed = schema(r#"{"find":{"*":true},"get":{"*":true},"protectedFields":{"*":["secret"]}}"#, Some("n"));
    let made = Arc::new(ClassSchema::new(class()));
    for (before, after, filter, is_told) in [
        (Some(&open), Some(&wide), "{}", true),
        (Some(&wide), Some(&open), "{}", true),
        (Some(&wide), Some(&open), r#"{"n":null}"#, false),
        (Some(&wide), Some(&closed), "{}", false),
        (Some(&closed), Some(&wide), "{}", false),
        (None, Some(&made), "{}", true),
        (None, Some(&closed), "{}", false),
        (Some(&made), None, "{}", true),
    ] {
        let mut world = World::new();
        world.put("x", "{}");
        world.apply(Change::Schema { class: class(), before: before.cloned(), schema: after.cloned() });
        world.put("y", "{}");
        world.resume(1, filter, "t.1");
        world.answer_replay();
        match is_told {
            true => world.expect(1, &["create 1 {objectId:y}"]),
            false => world.expect_resync(1, &["x", "y"]),
        }
    }
    // While the log is read.
    let mut world = World::new();
    world.put("x", "{}");
    world.resume(1, "{}", "t.0");
    let request = world.replay();
    let answer = world.reply(request);
    world.set_permissions("Note", OPEN);
    world.handle(Command::Answer(answer));
    world.expect_resync(1, &["x"]);
}

#[test]
fn what_may_not_be_read_any_more_is_not_told_late() {
    let mut world = World::new();
    for id in ["known", "gone"] {
        world.commit(id, Some((r#"{"n":0}"#, only("ann"))));
    }
    let cursor = "t.2";
    world.commit("known", Some((r#"{"n":1}"#, only("ann"))));
    world.commit("new", Some((r#"{"n":2}"#, only("ann"))));
    world.commit("back", Some((r#"{"n":3}"#, only("bob"))));
    world.commit("gone", None);
    world.commit("known", Some((r#"{"n":4}"#, only("bob"))));
    world.commit("new", Some((r#"{"n":5}"#, only("bob"))));
    world.commit("back", Some((r#"{"n":6}"#, only("ann"))));
    world.commit("known", Some((r#"{"n":7}"#, only("bob"))));
    world.resume_as(1, "{}", cursor, user("ann"));
    world.answer_replay();
    world.expect(
        1,
        &[
            "delete 1 {n:0,objectId:gone}",
            "leave 1 {n:0,objectId:known} < {n:0,objectId:known}",
            "enter 1 {n:6,objectId:back}",
        ],
    );
}

#[test]
fn a_replacement_takes_over_what_is_owed() {
    let mut world = World::new();
    for n in 0..3 {
        world.put(&format!("x{n}"), "{}");
    }
    world.resume(1, "{}", "t.1");
    let late = world.replay();
    world.put("y", "{}");
    // The same request without a cursor goes on with what the first one had asked for.
    world.ask(1, 1, new("{}", Principals::ANONYMOUS), false);
    let late = world.reply(late);
    world.handle(Command::Answer(late));
    world.expect(1, &["subscribed 1 at t.1"]);
    world.answer_replay();
    world.expect(1, &["create 1 {objectId:x1}", "create 1 {objectId:x2}", "create 1 {objectId:y}"]);
    // With another cursor it begins there.
    world.resume(1, "{}", "t.3");
    world.answer_replay();
    world.expect(1, &["create 1 {objectId:y}"]);
    // Asking for results meanwhile brings them afterwards.
    world.resume(1, "{}", "t.3");
    world.query(1, 1);
    world.answer_replay();
    let request = world.read();
    world.answer(&request, 4, &["y"]);
    world.expect(1, &["create 1 {objectId:y}", "result 1 [y]"]);
}

#[test]
fn a_cursor_is_only_named_for_what_was_sent() {
    let mut world = World::with(Settings { resync_mark: 2_000, ..Settings::default() });
    world.ask(1, 1, new("{}", Principals::ANONYMOUS), false);
    assert_eq!(world.events(1), ["subscribed 1 at t.0", "ping 1"]);
    // Behind the fence an event waits: the replacement has heard of nothing yet.
    world.put("x", "{}");
    world.ask(1, 1, new("{}", Principals::ANONYMOUS), false);
    world.expect(1, &["subscribed 1 at t.0"]);
    for n in 0..50 {
        world.put(&format!("x{n}"), "{}");
    }
    world.ask(1, 1, new("{}", Principals::ANONYMOUS), false);
    world.expect(1, &["subscribed 1"]);
}

#[test]
fn a_log_that_cannot_be_read_ends_the_connection() {
    let mut world = World::new();
    world.put("x", "{}");
    world.resume(1, "{}", "t.0");
    let ticket = world.replay().ticket;
    let outcome: Result<Reply, _> = Err(Error::new(tidings_protocol::Code::InternalServerError, "no"));
    world.handle(Command::Answer(ReadAnswer { ticket, outcome }));
    assert_eq!(world.outboxes[&1].closing().unwrap().code, 1011);
}

#[test]
fn checkpoints_tell_how_far_all_subscriptions_are() {
    let mut world = World::new();
    world.subscribe(1, 1, r#"{"a":1}"#);
    world.subscribe(2, 1, "{}");
    world.handle(Command::WantCheckpoints { connection: 1 });
    world.handle(Command::WantCheckpoints { connection: 1 });
    world.put("x", "{}");
    world.frames(2);
    let later = |world: &mut World| {
        world.now += 10_000;
        let now = world.now;
        assert_eq!(world.engine.tick(now), Some(now + 10_000));
        world.frames(1)
    };
    assert_eq!(world.engine.tick(9_999), Some(10_000));
    world.expect(1, &[]);
    assert_eq!(later(&mut world), [r#"{"op":"checkpoint","clientId":"c","cursor":"t.1"}"#]);
    // Not while a subscription is owed something.
    world.query(1, 1);
    assert!(later(&mut world).is_empty());
    let request = world.read();
    world.answer(&request, 1, &[]);
    world.frames(1);
    // Nor while one is ahead of what was applied.
    world.put("y", "{}");
    world.query(1, 1);
    let request = world.read();
    world.answer(&request, 9, &[]);
    world.frames(1);
    assert!(later(&mut world).is_empty());
    // Who resumes wants them, too; nobody else gets them.
    world.resume(3, "{}", "t.2");
    world.answer_replay();
    world.now += 10_000;
    world.engine.tick(world.now);
    world.expect(3, &["checkpoint null at t.2"]);
    world.expect(2, &["create 1 {objectId:y}"]);
    world.disconnect(1);
    world.disconnect(3);
    assert_eq!(world.engine.tick(world.now + 60_000), None);
}

#[test]
fn a_checkpoint_goes_with_what_was_dropped_in_front_of_it() {
    let mut world = World::with(Settings { coalesce_mark: 100, resync_mark: 1_000, ..Settings::default() });
    world.subscribe(1, 1, "{}");
    world.handle(Command::WantCheckpoints { connection: 1 });
    world.put("x", "{}");
    world.now += 10_000;
    world.engine.tick(world.now);
    world.stop_reading(1);
    for n in 0..20 {
        world.put(&format!("x{n}"), "{}");
        world.engine.flush(world.now);
    }
    world.expect(1, &[]);
}

#[test]
fn points_are_those_of_the_changes() {
    assert_eq!(Point { position: 5, ordinal: 0 }.before(), Point::behind(4));
    assert_eq!(Point { position: 5, ordinal: 2 }.before(), Point { position: 5, ordinal: 1 });
}
