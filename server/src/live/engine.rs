//! Changes and commands in, frames and read requests out.
//!
//! Pure: it knows neither sockets nor the store, and is told the time. Everything happens in the order of the calls.

use super::class::{Class, Filter, HIDES_NOTHING, Interest, Place, SubscriptionId};
use super::delivery::{Delivery, Millis};
use super::event::EventBody;
use super::outbox::{Closing, Entry, Outbox, Relief};
use super::reads::{Read, ReadAnswer, ReadRequest, is_own_row};
use super::render::Render;
use super::slots::{IdList, Slots};
use super::transition::{Sight, transition};
use super::{Audience, NewSubscription};
use crate::changes::{Change, Committed, Cursor, ObjectChange, Position};
use crate::permissions::Principals;
use crate::schema::{ClassSchema, Schemas};
use bytes::Bytes;
use compact_str::CompactString;
use rustc_hash::FxHashMap;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use tidings_protocol::live::{Event, FrameError};
use tidings_protocol::matches::Matcher;
use tidings_protocol::query::Constraint;
use tidings_protocol::update::top_level;
use tidings_protocol::{Access, ClassName, Code, Error, ObjectId, Predicate};

/// What a connection asks of the engine.
pub(super) enum Command {
    Connect {
        connection: u64,
        outbox: Arc<Outbox>,
    },
    Subscribe {
        connection: u64,
        request_id: i64,
        new: Box<Prepared>,
        is_update: bool,
    },
    Unsubscribe {
        connection: u64,
        request_id: i64,
    },
    Query {
        connection: u64,
        request_id: i64,
    },
    Pong {
        connection: u64,
        number: u64,
    },
    /// Its reader was found to be slow.
    BecameSlow {
        connection: u64,
    },
    CaughtUp {
        connection: u64,
    },
    Disconnect {
        connection: u64,
    },
    Answer(ReadAnswer),
}

/// A subscription with its filter made ready: what takes long is done before it comes to the engine's thread.
pub(super) struct Prepared {
    pub(super) new: NewSubscription,
    pub(super) filter: Arc<[u8]>,
    pub(super) matcher: Matcher,
    /// How much work its evaluation may be.
    pub(super) effort: usize,
}

/// What an expression may cost more than a comparison.
const EXPRESSION_EFFORT: usize = 16;

impl Prepared {
    /// # Errors
    /// An expression that cannot be compiled.
    pub(super) fn new(new: NewSubscription) -> Result<Self, Error> {
        let matcher = Matcher::new(&new.predicate)?;
        let filter = new.predicate.canonical().into();
        let effort = effort(&new.predicate);
        Ok(Self { new, filter, matcher, effort })
    }
}

fn effort(predicate: &Predicate) -> usize {
    match predicate {
        Predicate::And(parts) | Predicate::Or(parts) | Predicate::Nor(parts) => parts.iter().map(effort).sum(),
        Predicate::Field { constraint: Constraint::Matches(_), .. } => EXPRESSION_EFFORT,
        Predicate::Field { constraint: Constraint::AllMatch(expressions), .. } => expressions.len() * EXPRESSION_EFFORT,
        Predicate::Field { constraint: Constraint::All(values), .. } => values.len(),
        Predicate::Field { .. } => 1,
    }
}

pub(super) struct Engine {
    timeline: CompactString,
    /// Everything up to here was applied.
    position: Position,
    schemas: HashMap<ClassName, Arc<ClassSchema>>,
    classes: Slots<Class>,
    by_class: HashMap<ClassName, u32>,
    sending: Sending,
    by_connection: FxHashMap<u64, u32>,
    /// The subscriptions that stand on each session.
    sessions: HashMap<ObjectId, IdList>,
    ended_sessions: EndedSessions,
    /// When each fence lifts without its pong, in order.
    fences: VecDeque<(Millis, u64, u64)>,
    reads: Vec<ReadRequest>,
    next_token: u64,
    render: Render,
    pub(super) counts: Counts,
}

/// What happened since somebody last looked; for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) changes: u64,
    pub(super) candidates: u64,
    pub(super) events: u64,
    pub(super) coalesced: u64,
    pub(super) resyncs: u64,
    pub(super) closes: u64,
}

/// How much there is; for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sizes {
    pub(super) connections: usize,
    pub(super) subscriptions: usize,
    pub(super) groups: usize,
    pub(super) residual_groups: usize,
}

/// The part of the engine that hands events to connections.
struct Sending {
    delivery: Arc<Delivery>,
    subscriptions: Slots<Subscription>,
    connections: Slots<Connection>,
    /// Connections with something staged.
    touched: Vec<u32>,
    /// Connections whose tasks the flush at hand gives a turn.
    to_wake: Vec<Arc<Outbox>>,
    /// Bytes staged since the last flush.
    staged: usize,
    events: u64,
}

struct Connection {
    id: u64,
    outbox: Arc<Outbox>,
    subscriptions: FxHashMap<i64, SubscriptionId>,
    /// Clients count up, so up to here a request id that has no subscription once had one, or was refused it.
    highest_request_id: i64,
    filter_bytes: usize,
    /// How much work the evaluation of its filters may be.
    effort: usize,
    /// What goes to the outbox with the next flush.
    staged: Vec<Entry>,
    touched: bool,
    /// The ping that the next flush ends with, because a first `subscribed` was staged.
    fencing: Option<u64>,
    /// Subscriptions behind a fence, with the number of their ping.
    fenced: Vec<(u64, SubscriptionId)>,
    /// Bytes of events held by its subscriptions.
    held_bytes: usize,
    /// Some of its queue was dropped, and the rest is not written yet.
    is_cut: bool,
    reading: usize,
    /// Subscriptions that wait for a read of this connection to end.
    to_read: VecDeque<SubscriptionId>,
    closed: bool,
}

struct Subscription {
    connection: u32,
    request_id: i64,
    class: u32,
    place: Place,
    session: Option<ObjectId>,
    filter_bytes: usize,
    effort: usize,
    /// Changes up to here are not for it: they came before it, or are in its last result.
    since: Position,
    /// The ping whose pong shows that the client has seen the first `subscribed`.
    fence: Option<u64>,
    read: Option<Reading>,
    /// A result that waits for the fence.
    result: Option<Results>,
    /// Events that wait for the fence or a result.
    held: Vec<Arc<EventBody>>,
    /// The position of the last event that was dropped, if its results are needed anew.
    lost: Option<Position>,
}

struct Reading {
    token: u64,
    /// The results are sent because events were dropped, and a `subscribed` follows them.
    is_resync: bool,
    /// The client asked once more meanwhile.
    again: bool,
}

struct Results {
    frame: Bytes,
    is_resync: bool,
}

impl Subscription {
    fn is_held(&self) -> bool {
        self.fence.is_some() || self.read.is_some()
    }
}

impl Engine {
    pub(super) fn new(delivery: Arc<Delivery>, timeline: CompactString, position: Position, schemas: &Schemas) -> Self {
        Self {
            timeline,
            position,
            schemas: schemas.iter().map(|(class, schema)| (class.clone(), schema.clone())).collect(),
            classes: Slots::default(),
            by_class: HashMap::new(),
            sending: Sending {
                delivery,
                subscriptions: Slots::default(),
                connections: Slots::default(),
                touched: Vec::new(),
                to_wake: Vec::new(),
                staged: 0,
                events: 0,
            },
            by_connection: FxHashMap::default(),
            sessions: HashMap::new(),
            ended_sessions: EndedSessions::default(),
            fences: VecDeque::new(),
            reads: Vec::new(),
            next_token: 0,
            render: Render::default(),
            counts: Counts::default(),
        }
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Whether no further change should be taken before the connections have sent more.
    pub(super) fn is_full(&self) -> bool {
        self.sending.delivery.is_full(self.sending.staged)
    }

    /// Whether enough is staged to be worth waking the connections.
    pub(super) fn should_flush(&self) -> bool {
        self.sending.staged >= self.sending.delivery.settings.global_mark / 4
    }

    /// Does what a connection asks. `head` is the position of the newest published change.
    pub(super) fn handle(&mut self, command: Command, head: Position, now: Millis) {
        match command {
            Command::Connect { connection, outbox } => self.connect(connection, outbox),
            Command::Subscribe { connection, request_id, new, is_update } => {
                self.subscribe(connection, request_id, *new, is_update, head);
            }
            Command::Unsubscribe { connection, request_id } => self.unsubscribe(connection, request_id),
            Command::Query { connection, request_id } => self.query(connection, request_id),
            Command::Pong { connection, number } => self.lift_fences(connection, number),
            Command::BecameSlow { connection } => {
                if let Some(at) = self.by_connection.get(&connection).copied()
                    && let Some(connection) = self.sending.connections.get(at)
                {
                    let relief = connection.outbox.relieve();
                    self.relieved(at, relief);
                }
            }
            Command::CaughtUp { connection } => self.caught_up(connection),
            Command::Disconnect { connection } => self.disconnect(connection),
            Command::Answer(answer) => self.answered(answer),
        }
        self.ended_sessions.forget(now);
    }

    /// Applies the next change of the log.
    pub(super) fn apply(&mut self, committed: &Committed, now: Millis) {
        match &committed.change {
            Change::Object(change) => {
                self.apply_object(change, committed.position);
                if change.class == ClassName::SESSION && change.after.is_none() {
                    self.end_session(&change.id, now);
                }
            }
            Change::Schema { class, schema } => {
                match schema {
                    Some(schema) => self.schemas.insert(class.clone(), schema.clone()),
                    None => self.schemas.remove(class),
                };
                if let Some(known) = self.by_class.get(class).and_then(|id| self.classes.get_mut(*id)) {
                    known.set_schema(schema.clone());
                }
            }
        }
        self.position = committed.position;
        self.counts.changes += 1;
    }

    fn apply_object(&mut self, change: &ObjectChange, position: Position) {
        let Some(class) = self.by_class.get(&change.class).and_then(|id| self.classes.get_mut(*id)) else { return };
        let (before, after) = (change.before.as_deref(), change.after.as_deref());
        class.lookup.begin(class.groups.bound());
        for image in [before, after].into_iter().flatten() {
            class.index.look_up(image, &mut class.lookup);
        }
        self.counts.candidates += class.lookup.found.len() as u64;
        self.render.begin();
        for &group in &class.lookup.found {
            let Some(group) = class.groups.get(group) else { continue };
            let matched = |image: Option<_>| image.is_some_and(|object| group.matcher.matches(object));
            let (matched_before, matched_after) = (matched(before), matched(after));
            let acls = [
                before.filter(|_| matched_before).map(|object| object.acl.as_ref()),
                after.filter(|_| matched_after).map(|object| object.acl.as_ref()),
            ];
            if !(matched_before || matched_after) {
                continue;
            }
            group.readers(acls, |audience| {
                if !audience.allowed {
                    return;
                }
                let who = &audience.principals;
                let may_read = |image: Option<&tidings_protocol::Object>| {
                    image.is_some_and(|object| who.may(Access::Read, object.acl.as_ref()))
                };
                let (reads_before, reads_after) = (may_read(before), may_read(after));
                let sight = |exists: bool, visible: bool| match (exists, visible) {
                    (false, _) => Sight::Absent,
                    (true, true) => Sight::Visible,
                    (true, false) => Sight::Hidden,
                };
                let saw = sight(before.is_some(), matched_before && reads_before);
                let sees = sight(after.is_some(), matched_after && reads_after);
                let Some(event) = transition(saw, sees) else { return };
                let owns = before.or(after).is_some_and(|object| is_own_row(&class.name, object, who));
                let hidden = if owns { HIDES_NOTHING } else { audience.hidden };
                let hidden_names = class.hidden.set(hidden);
                for view in &audience.views {
                    if let Some(watch) = &view.watch
                        && matches!(event, Event::Create | Event::Update)
                        && !is_watched_change(before, after, watch, hidden_names)
                    {
                        continue;
                    }
                    let keys = class.keys.list(view.keys).map(|keys| &**keys);
                    let shown = super::render::Shown {
                        class: &class.name,
                        change,
                        position,
                        event,
                        reads_before,
                        reads_after,
                        keys_id: view.keys,
                        keys,
                        hidden_id: hidden,
                        hidden: hidden_names,
                    };
                    let body = self.render.body(&shown);
                    for &id in view.members.as_slice() {
                        self.sending.deliver(id, &body);
                    }
                }
            });
        }
    }

    fn connect(&mut self, id: u64, outbox: Arc<Outbox>) {
        let at = self.sending.connections.insert(Connection {
            id,
            outbox,
            subscriptions: FxHashMap::default(),
            highest_request_id: i64::MIN,
            filter_bytes: 0,
            effort: 0,
            staged: Vec::new(),
            touched: false,
            fencing: None,
            fenced: Vec::new(),
            held_bytes: 0,
            is_cut: false,
            reading: 0,
            to_read: VecDeque::new(),
            closed: false,
        });
        self.by_connection.insert(id, at);
    }

    fn subscribe(&mut self, connection: u64, request_id: i64, new: Prepared, is_update: bool, head: Position) {
        let Some(&at) = self.by_connection.get(&connection) else { return };
        let Some(connection) = self.sending.connections.get_mut(at) else { return };
        connection.outbox.handled();
        connection.highest_request_id = connection.highest_request_id.max(request_id);
        let Prepared { new, filter, matcher, effort } = new;
        let NewSubscription { class, predicate, keys, watch, audience: Audience { principals, session } } = new;
        let filter_bytes = filter.len();
        let old = connection.subscriptions.get(&request_id).copied();
        let settings = &self.sending.delivery.settings;
        let refusal = if session.as_ref().is_some_and(|session| self.ended_sessions.contains(session)) {
            Some(invalid_session())
        } else if old.is_none() && connection.subscriptions.len() >= settings.max_subscriptions {
            let message = format!("A connection has at most {} subscriptions.", settings.max_subscriptions);
            Some(Error::new(Code::RequestLimitExceeded, message))
        } else if connection.filter_bytes + filter_bytes > settings.max_filter_bytes {
            let message = format!("The filters of a connection take at most {} bytes.", settings.max_filter_bytes);
            Some(Error::new(Code::RequestLimitExceeded, message))
        } else if connection.effort + effort > settings.max_effort {
            Some(Error::new(Code::RequestLimitExceeded, "The filters of a connection have too many constraints."))
        } else {
            None
        };
        if let Some(error) = refusal {
            return self.sending.stage_error(at, error, request_id);
        }
        let old = old.and_then(|old| self.remove_subscription(old));

        let class_id = match self.by_class.get(&class) {
            Some(id) => *id,
            None => {
                let id = self.classes.insert(Class::new(class.clone(), self.schemas.get(&class).cloned()));
                self.by_class.insert(class, id);
                id
            }
        };
        let id = self.sending.subscriptions.insert(Subscription {
            connection: at,
            request_id,
            class: class_id,
            place: Place::nowhere(),
            session: session.clone(),
            filter_bytes,
            effort,
            // What was committed before the client asked is not news to it. A replacement goes on where the old one
            // stood, so that nothing falls between the two.
            since: old.as_ref().map_or(head.max(self.position), |old| old.since.max(self.position)),
            fence: None,
            read: None,
            result: None,
            held: Vec::new(),
            lost: None,
        });
        let interest = Interest { principals, keys: keys.map(sorted), watch: watch.map(sorted) };
        let Some(class) = self.classes.get_mut(class_id) else { return };
        let place = class.insert(id, Filter { predicate, canonical: filter, matcher }, interest);
        let Some(subscription) = self.sending.subscriptions.get_mut(id) else { return };
        subscription.place = place;
        if let Some(session) = session {
            self.sessions.entry(session).or_default().insert(id);
        }
        let Some(connection) = self.sending.connections.get_mut(at) else { return };
        connection.subscriptions.insert(request_id, id);
        connection.filter_bytes += filter_bytes;
        connection.effort += effort;
        let mut asked = false;
        match old {
            // What the old one held is still owed: the client has not seen it, or it would have been dropped there.
            Some(mut old) => {
                // A result that was asked for, or waits behind the fence, stands for events that were dropped for it.
                asked = old.read.is_some() || old.result.is_some();
                if let Some(number) = old.fence {
                    connection.fenced.push((number, id));
                }
                subscription.fence = old.fence;
                subscription.lost = old.lost;
                if old.fence.is_some() || old.lost.is_some() {
                    subscription.held = std::mem::take(&mut old.held);
                    connection.held_bytes += held_bytes(&subscription.held);
                }
            }
            None if is_update => {}
            None => {
                let number = *connection.fencing.get_or_insert_with(|| connection.outbox.next_ping());
                connection.fenced.push((number, id));
                subscription.fence = Some(number);
            }
        }
        self.stage_subscribed(id);
        if asked {
            self.query_subscription(id, false);
        } else {
            self.settle(id);
        }
    }

    /// Stages `subscribed` with the position behind which every change is delivered.
    fn stage_subscribed(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.sending.subscriptions.get(id) else { return };
        let (at, request_id, position) = (subscription.connection, subscription.request_id, subscription.since);
        let Some(connection) = self.sending.connections.get(at) else { return };
        let cursor = Cursor { timeline: self.timeline.clone(), position };
        let mut frame = connection.outbox.addressee().head("subscribed", Some(request_id));
        frame.extend_from_slice(format!(",\"cursor\":\"{cursor}\"}}").as_bytes());
        self.sending.stage(at, Entry::Frame(frame.into()));
    }

    /// Ending what does not exist succeeds: it may just have been ended with its session, and the SDK waits for this
    /// answer before its own `unsubscribe()` returns.
    fn unsubscribe(&mut self, connection: u64, request_id: i64) {
        let Some(&at) = self.by_connection.get(&connection) else { return };
        let Some(connection) = self.sending.connections.get(at) else { return };
        connection.outbox.handled();
        let frame = connection.outbox.addressee().plain("unsubscribed", Some(request_id));
        match connection.subscriptions.get(&request_id).copied() {
            Some(id) => drop(self.remove_subscription(id)),
            // One that has ended is unsubscribed: the SDK waits for exactly this answer.
            None if request_id <= connection.highest_request_id => {}
            None => return self.no_subscription(at, request_id),
        }
        self.sending.stage(at, Entry::Frame(frame.into()));
    }

    fn query(&mut self, connection: u64, request_id: i64) {
        let Some(&at) = self.by_connection.get(&connection) else { return };
        let Some(connection) = self.sending.connections.get(at) else { return };
        connection.outbox.handled();
        match connection.subscriptions.get(&request_id).copied() {
            Some(id) => self.query_subscription(id, false),
            None => self.no_subscription(at, request_id),
        }
    }

    /// Parse asks the client to reconnect here. That would not bring the subscription back, and would end all others of
    /// the connection, again and again if the client repeats its question.
    fn no_subscription(&mut self, at: u32, request_id: i64) {
        let error = Error::new(Code::Custom(2), "Cannot find the subscription of this requestId.");
        self.sending.stage_error(at, error, request_id);
    }

    /// Asks for the subscription's results; until they come its events are held.
    fn query_subscription(&mut self, id: SubscriptionId, is_resync: bool) {
        let Some(subscription) = self.sending.subscriptions.get_mut(id) else { return };
        if let Some(read) = &mut subscription.read {
            read.again = true;
            return;
        }
        self.next_token += 1;
        subscription.read = Some(Reading { token: self.next_token, is_resync, again: false });
        let at = subscription.connection;
        let Some(connection) = self.sending.connections.get_mut(at) else { return };
        connection.to_read.push_back(id);
        self.start_reads(at);
    }

    /// Gives out as many reads of this connection as it may have at a time.
    fn start_reads(&mut self, at: u32) {
        loop {
            let settings = &self.sending.delivery.settings;
            let Some(connection) = self.sending.connections.get_mut(at) else { return };
            if connection.reading >= settings.reads_per_connection {
                return;
            }
            let Some(id) = connection.to_read.pop_front() else { return };
            let Some(subscription) = self.sending.subscriptions.get_mut(id) else { continue };
            let Some(reading) = &subscription.read else { continue };
            let Some(class) = self.classes.get(subscription.class) else { continue };
            let Some(group) = class.groups.get(subscription.place.group) else { continue };
            let Some(audience) = group.audience(&subscription.place.principals) else { continue };
            if subscription.connection != at {
                continue;
            }
            let request = ReadRequest {
                token: reading.token,
                connection: connection.id,
                subscription: id,
                read: Read {
                    class: class.name.clone(),
                    predicate: group.predicate.clone(),
                    principals: audience.principals.clone(),
                    at_least: self.position.max(subscription.since),
                    limit: settings.result_limit,
                },
                request_id: subscription.request_id,
                addressee: connection.outbox.addressee().clone(),
                keys: class.keys.list(subscription.place.keys).cloned(),
                hidden: class.hidden.set(audience.hidden).clone(),
                schema_version: class.schema_version,
                max_bytes: settings.result_bytes,
            };
            // What was dropped up to now is in these results; what comes from now on is held.
            if subscription.lost.take().is_some()
                && let Some(reading) = &mut subscription.read
            {
                reading.is_resync = true;
            }
            if audience.allowed {
                connection.reading += 1;
                self.reads.push(request);
            } else {
                let outcome = Err(Error::new(Code::OperationForbidden, "Permission denied"));
                self.take_answer(request.token, at, id, request.schema_version, outcome);
            }
        }
    }

    fn answered(&mut self, answer: ReadAnswer) {
        let ReadAnswer { token, connection, subscription: id, schema_version, outcome } = answer;
        let Some(&at) = self.by_connection.get(&connection) else { return };
        let Some(connection) = self.sending.connections.get_mut(at) else { return };
        connection.reading -= 1;
        self.take_answer(token, at, id, schema_version, outcome);
        self.start_reads(at);
    }

    fn take_answer(
        &mut self,
        token: u64,
        at: u32,
        id: SubscriptionId,
        schema_version: u64,
        outcome: Result<(Position, Bytes), Error>,
    ) {
        let Some(subscription) = self.sending.subscriptions.get_mut(id) else { return };
        let Some(Reading { is_resync, again, .. }) = subscription.read.take_if(|read| read.token == token) else {
            return;
        };
        let (position, frame) = match outcome {
            Ok(found) => found,
            Err(error) => return self.read_failed(at, id, is_resync, error),
        };
        let is_stale = self.classes.get(subscription.class).is_some_and(|class| class.schema_version != schema_version);
        // Events that were dropped behind this state are missing from it.
        let is_short = subscription.lost.is_some_and(|lost| lost > position);
        if is_stale || is_short {
            self.query_subscription(id, is_resync);
            if again && let Some(read) = self.sending.subscriptions.get_mut(id).and_then(|it| it.read.as_mut()) {
                read.again = true;
            }
            return;
        }
        subscription.lost = None;
        subscription.since = subscription.since.max(position);
        subscription.result = Some(Results { frame, is_resync });
        let bytes_before = held_bytes(&subscription.held);
        subscription.held.retain(|body| body.position > position);
        let freed = bytes_before - held_bytes(&subscription.held);
        if let Some(connection) = self.sending.connections.get_mut(at) {
            connection.held_bytes -= freed;
        }
        self.settle(id);
        if again {
            self.query_subscription(id, false);
        }
    }

    fn read_failed(&mut self, at: u32, id: SubscriptionId, is_resync: bool, error: Error) {
        let Some(subscription) = self.sending.subscriptions.get(id) else { return };
        let request_id = subscription.request_id;
        let is_lost = is_resync || subscription.lost.is_some();
        if !is_lost {
            self.sending.stage_error(at, error, request_id);
            return self.settle(id);
        }
        // Its events were dropped and cannot be made up for: it must not go on as if nothing had happened.
        if error.code == Code::InternalServerError {
            return self.close(at, Closing { code: 1011, reason: "Cannot read; reconnect" });
        }
        self.remove_subscription(id);
        self.sending.stage_error(at, error, request_id);
    }

    /// Sends what a subscription held back, unless something still holds it.
    fn settle(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.sending.subscriptions.get_mut(id) else { return };
        if subscription.is_held() {
            return;
        }
        let at = subscription.connection;
        let Some(connection) = self.sending.connections.get_mut(at) else { return };
        let held = std::mem::take(&mut subscription.held);
        connection.held_bytes -= held_bytes(&held);
        if subscription.lost.is_some() {
            if !connection.is_cut {
                self.counts.resyncs += 1;
                self.query_subscription(id, true);
            }
            return;
        }
        let request_id = subscription.request_id;
        if let Some(Results { frame, is_resync }) = subscription.result.take() {
            self.sending.stage(at, Entry::Result { request_id, frame });
            if is_resync {
                self.stage_subscribed(id);
            }
        }
        for body in held {
            self.sending.stage_event(at, request_id, body);
        }
    }

    fn lift_fences(&mut self, connection: u64, number: u64) {
        let Some(&at) = self.by_connection.get(&connection) else { return };
        let Some(connection) = self.sending.connections.get_mut(at) else { return };
        let lifted: Vec<_> = connection.fenced.extract_if(.., |(fence, _)| *fence <= number).collect();
        for (fence, id) in lifted {
            let Some(subscription) = self.sending.subscriptions.get_mut(id) else { continue };
            if subscription.connection == at && subscription.fence == Some(fence) {
                subscription.fence = None;
                self.settle(id);
            }
        }
    }

    fn end_session(&mut self, session: &ObjectId, now: Millis) {
        self.ended_sessions.insert(session.clone(), now);
        let Some(ids) = self.sessions.get(session) else { return };
        for id in ids.as_slice().to_vec() {
            if let Some(subscription) = self.remove_subscription(id) {
                self.sending.stage_error(subscription.connection, invalid_session(), subscription.request_id);
            }
        }
    }

    fn remove_subscription(&mut self, id: SubscriptionId) -> Option<Subscription> {
        let subscription = self.sending.subscriptions.remove(id)?;
        if let Some(connection) = self.sending.connections.get_mut(subscription.connection) {
            connection.subscriptions.remove(&subscription.request_id);
            connection.filter_bytes -= subscription.filter_bytes;
            connection.effort -= subscription.effort;
            connection.held_bytes -= held_bytes(&subscription.held);
            connection.fenced.retain(|(_, fenced)| *fenced != id);
            connection.to_read.retain(|waiting| *waiting != id);
        }
        if let Some(session) = &subscription.session
            && let Some(ids) = self.sessions.get_mut(session)
        {
            ids.remove(id);
            if ids.is_empty() {
                self.sessions.remove(session);
            }
        }
        if let Some(class) = self.classes.get_mut(subscription.class) {
            class.remove(id, &subscription.place);
        }
        self.forget_class_if_unused(subscription.class);
        Some(subscription)
    }

    fn forget_class_if_unused(&mut self, id: u32) {
        if self.classes.get(id).is_some_and(|class| class.groups.len() == 0)
            && let Some(class) = self.classes.remove(id)
        {
            self.by_class.remove(&class.name);
        }
    }

    fn disconnect(&mut self, connection: u64) {
        let Some(at) = self.by_connection.remove(&connection) else { return };
        let Some(connection) = self.sending.connections.get(at) else { return };
        let ids: Vec<_> = connection.subscriptions.values().copied().collect();
        for id in ids {
            self.remove_subscription(id);
        }
        self.sending.connections.remove(at);
    }

    /// Ends a connection from our side; its task then disconnects it.
    fn close(&mut self, at: u32, closing: Closing) {
        let Some(connection) = self.sending.connections.get_mut(at) else { return };
        connection.closed = true;
        connection.outbox.close(closing);
        self.counts.closes += 1;
    }

    /// Does what follows from cutting down a slow reader's queue.
    fn relieved(&mut self, at: u32, relief: Relief) {
        let Relief { resync, coalesced, closed } = relief;
        self.counts.coalesced += coalesced;
        self.counts.closes += u64::from(closed);
        let position = self.position;
        let Some(connection) = self.sending.connections.get_mut(at) else { return };
        connection.closed |= closed;
        connection.is_cut |= !resync.is_empty();
        for request_id in resync {
            let id = connection.subscriptions.get(&request_id);
            let Some(subscription) = id.and_then(|id| self.sending.subscriptions.get_mut(*id)) else { continue };
            subscription.lost = Some(position);
            connection.held_bytes -= held_bytes(&subscription.held);
            subscription.held = Vec::new();
            subscription.result = None;
        }
    }

    /// A slow reader has taken everything: subscriptions that lost events start afresh.
    fn caught_up(&mut self, connection: u64) {
        let Some(&at) = self.by_connection.get(&connection) else { return };
        let Some(connection) = self.sending.connections.get_mut(at) else { return };
        connection.is_cut = false;
        let ids: Vec<_> = connection.subscriptions.values().copied().collect();
        for id in ids {
            if self.sending.subscriptions.get(id).is_some_and(|subscription| subscription.lost.is_some()) {
                self.settle(id);
            }
        }
    }

    /// Hands everything staged to the outboxes and gives each touched connection one turn.
    /// Returns how many that were.
    pub(super) fn flush(&mut self, now: Millis) -> usize {
        let fence = self.sending.delivery.settings.fence.as_millis() as Millis;
        for at in std::mem::take(&mut self.sending.touched) {
            let Some(connection) = self.sending.connections.get_mut(at) else { continue };
            connection.touched = false;
            if let Some(number) = connection.fencing.take() {
                connection.staged.push(Entry::Ping(number));
                self.fences.push_back((now + fence, connection.id, number));
            }
            let (relief, is_idle) = connection.outbox.append(&mut connection.staged, now);
            if is_idle {
                self.sending.to_wake.push(connection.outbox.clone());
            }
            if connection.staged.capacity() > KEPT_ENTRIES {
                connection.staged = Vec::new();
            }
            if relief != Relief::default() {
                self.relieved(at, relief);
            }
        }
        let turns = self.sending.to_wake.len();
        self.sending.delivery.turns.queue(&mut self.sending.to_wake);
        self.sending.staged = 0;
        self.counts.events += std::mem::take(&mut self.sending.events);
        turns
    }

    /// Lifts fences whose pong did not come. Returns when it wants to be called again.
    pub(super) fn tick(&mut self, now: Millis) -> Option<Millis> {
        while let Some((deadline, connection, number)) = self.fences.front().copied() {
            if deadline > now {
                return Some(deadline);
            }
            self.fences.pop_front();
            self.lift_fences(connection, number);
        }
        None
    }

    /// The reads that were asked for since the last call.
    pub(super) fn take_reads(&mut self) -> Vec<ReadRequest> {
        std::mem::take(&mut self.reads)
    }

    pub(super) fn close_all(&mut self, closing: Closing) {
        let all: Vec<u32> = self.by_connection.values().copied().collect();
        for at in all {
            self.close(at, closing.clone());
        }
    }

    /// The change log no longer holds what comes next: every connection has to begin again.
    pub(super) fn start_over(&mut self, position: Position, schemas: &Schemas) {
        self.close_all(Closing { code: 1012, reason: "Too far behind; reconnect" });
        self.position = position;
        self.schemas = schemas.iter().map(|(class, schema)| (class.clone(), schema.clone())).collect();
        for (_, class) in self.classes.iter_mut() {
            class.set_schema(self.schemas.get(&class.name).cloned());
        }
    }

    pub(super) fn sizes(&mut self) -> Sizes {
        let mut sizes = Sizes {
            connections: self.sending.connections.len(),
            subscriptions: self.sending.subscriptions.len(),
            ..Sizes::default()
        };
        for (_, class) in self.classes.iter_mut() {
            sizes.groups += class.groups.len();
            sizes.residual_groups += class.index.residual();
        }
        sizes
    }
}

/// A connection keeps room for so many staged entries; there may be many connections.
const KEPT_ENTRIES: usize = 8;

impl Sending {
    /// Gives an event to one subscription.
    fn deliver(&mut self, id: SubscriptionId, body: &Arc<EventBody>) {
        let Some(subscription) = self.subscriptions.get_mut(id) else { return };
        if body.position <= subscription.since {
            return;
        }
        if subscription.is_held() {
            let Some(connection) = self.connections.get_mut(subscription.connection) else { return };
            return hold(subscription, connection, body, self.delivery.settings.resync_mark);
        }
        if let Some(lost) = &mut subscription.lost {
            *lost = body.position;
            return;
        }
        let (at, request_id) = (subscription.connection, subscription.request_id);
        self.stage_event(at, request_id, body.clone());
    }

    fn stage_event(&mut self, at: u32, request_id: i64, body: Arc<EventBody>) {
        self.events += 1;
        self.stage(at, Entry::Event { request_id, body });
    }

    fn stage_error(&mut self, at: u32, error: Error, request_id: i64) {
        self.stage(at, Entry::Frame(FrameError::new(error, Some(request_id)).to_json().into()));
    }

    fn stage(&mut self, at: u32, entry: Entry) {
        let Some(connection) = self.connections.get_mut(at) else { return };
        if connection.closed {
            return;
        }
        self.staged += entry.weight();
        connection.staged.push(entry);
        if !connection.touched {
            connection.touched = true;
            self.touched.push(at);
        }
    }
}

/// Keeps an event until the fence is lifted or the result is there. What would be too much is dropped and read later.
fn hold(subscription: &mut Subscription, connection: &mut Connection, body: &Arc<EventBody>, bound: usize) {
    if subscription.lost.is_none() && connection.held_bytes + held_weight(body) <= bound {
        connection.held_bytes += held_weight(body);
        return subscription.held.push(body.clone());
    }
    connection.held_bytes -= held_bytes(&subscription.held);
    subscription.held = Vec::new();
    subscription.result = None;
    subscription.lost = Some(body.position);
}

fn held_weight(body: &EventBody) -> usize {
    body.tail().len() + 64
}

fn held_bytes(held: &[Arc<EventBody>]) -> usize {
    held.iter().map(|body| held_weight(body)).sum()
}

fn invalid_session() -> Error {
    Error::new(Code::InvalidSessionToken, "Invalid session token")
}

/// Equal lists become equal values, whatever the order in which a client writes them.
fn sorted(mut names: Vec<CompactString>) -> Arc<[CompactString]> {
    names.sort_unstable();
    names.dedup();
    names.into()
}

/// Whether one of the watched fields differs; on a create, whether one is there. What is hidden is not watched.
fn is_watched_change(
    before: Option<&tidings_protocol::Object>,
    after: Option<&tidings_protocol::Object>,
    watch: &[CompactString],
    hidden: &[CompactString],
) -> bool {
    watch.iter().filter(|path| !hidden.iter().any(|field| field == top_level(path))).any(|path| {
        let values = |object: Option<&tidings_protocol::Object>| {
            let mut values = Vec::new();
            if let Some(object) = object {
                tidings_protocol::query::visit_path(object, path, &mut |found| {
                    values.extend(found.cloned());
                    false
                });
            }
            values
        };
        values(before) != values(after)
    })
}

/// Sessions that ended a short while ago: a subscription that was let in just before must not outlive its session.
#[derive(Default)]
struct EndedSessions {
    ids: HashSet<ObjectId>,
    order: VecDeque<(Millis, ObjectId)>,
}

/// Longer than anybody takes from checking a session to subscribing with it.
const REMEMBERED: Millis = 60_000;
/// How many ended sessions are remembered at most.
const MAX_REMEMBERED: usize = 65_536;

impl EndedSessions {
    fn insert(&mut self, id: ObjectId, now: Millis) {
        if self.ids.insert(id.clone()) {
            self.order.push_back((now, id));
        }
        if self.order.len() > MAX_REMEMBERED {
            self.forget_oldest();
        }
    }

    fn contains(&self, id: &ObjectId) -> bool {
        self.ids.contains(id)
    }

    fn forget(&mut self, now: Millis) {
        while self.order.front().is_some_and(|(ended, _)| now.saturating_sub(*ended) > REMEMBERED) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.order.pop_front() {
            self.ids.remove(&id);
        }
    }
}

impl Place {
    /// Before a class has given a place.
    fn nowhere() -> Self {
        Self { group: u32::MAX, principals: Principals::ANONYMOUS, keys: 0, watch: None }
    }
}
