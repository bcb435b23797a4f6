//! Changes and commands in, frames and read requests out.
//!
//! Pure: it knows neither sockets nor the store, and is told the time. Everything happens in the order of the calls.

mod checkpoints;
mod ended_sessions;
mod prepared;
mod results;
mod sending;
mod session_check;
mod state;
mod subscriptions;

pub(super) use prepared::Prepared;

use super::class::{Class, HIDES_NOTHING};
use super::delivery::{Delivery, Millis};
use super::outbox::{Closing, Outbox};
use super::reads::{ReadAnswer, ReadRequest, is_own_row};
use super::render::Render;
use super::replay::ReplayRequest;
use super::slots::{IdList, Slots};
use super::transition::{Seen, is_watched, seen};
use crate::changes::{Change, Committed, Cursor, ObjectChange, Point, Position};
use crate::schema::{ClassSchema, Schemas};
use compact_str::CompactString;
use ended_sessions::EndedSessions;
use rustc_hash::FxHashMap;
use session_check::SessionCheck;
use state::Sending;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tidings_protocol::{ClassName, ObjectId};

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
    /// It wants a cursor now and then also where nothing happens.
    WantCheckpoints {
        connection: u64,
    },
    Disconnect {
        connection: u64,
    },
    Answer(ReadAnswer),
    /// Those that have ended of the sessions that were to be checked.
    SessionsChecked {
        ended: Vec<ObjectId>,
    },
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
    session_check: SessionCheck,
    /// When each fence lifts without its pong, in order.
    fences: VecDeque<(Millis, u64, u64)>,
    /// When each connection that wants checkpoints gets its next one, in order.
    checkpoints: VecDeque<(Millis, u64)>,
    reads: Vec<ReadRequest>,
    replays: Vec<ReplayRequest>,
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
            session_check: SessionCheck::default(),
            fences: VecDeque::new(),
            checkpoints: VecDeque::new(),
            reads: Vec::new(),
            replays: Vec::new(),
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

    /// Does what a connection asks. `head` is the position of the newest change that anybody knows of.
    pub(super) fn handle(&mut self, command: Command, head: Position, now: Millis) {
        match command {
            Command::Connect { connection, outbox } => self.connect(connection, outbox),
            Command::Subscribe { connection, request_id, new, is_update } => {
                if new.new.resume_from.is_some() {
                    self.want_checkpoints(connection, now);
                }
                self.subscribe(connection, request_id, *new, is_update, head, now);
            }
            Command::WantCheckpoints { connection } => self.want_checkpoints(connection, now),
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
            Command::SessionsChecked { ended } => {
                self.session_check.end(now);
                ended.iter().for_each(|session| self.end_session(session, now));
            }
        }
        self.ended_sessions.forget(now);
    }

    /// Applies the next change of the log.
    pub(super) fn apply(&mut self, committed: &Committed, now: Millis) {
        let mut stale = Vec::new();
        match &committed.change {
            Change::Object(change) => {
                self.apply_object(change, committed.point());
                if change.class == ClassName::SESSION && change.after.is_none() {
                    self.end_session(&change.id, now);
                }
            }
            Change::Schema { class, schema, .. } => {
                let removed =
                    self.schemas.get(class).map(|old| old.fields_gone_from(schema.as_deref())).unwrap_or_default();
                match schema {
                    Some(schema) => self.schemas.insert(class.clone(), schema.clone()),
                    None => self.schemas.remove(class),
                };
                if let Some(known) = self.by_class.get(class).and_then(|id| self.classes.get_mut(*id)) {
                    stale = known.set_schema(schema.clone());
                    stale.retain(|id| self.sending.is_before(*id, committed.point()));
                    if !removed.is_empty() {
                        stale.extend(known.asking_for(&removed));
                        stale.sort_unstable();
                        stale.dedup();
                    }
                }
            }
            Change::Unseen { class, gone } => {
                match gone {
                    Some(id) if *class == ClassName::SESSION => self.end_session(id, now),
                    None if *class == ClassName::SESSION => self.session_check.ask(now),
                    _ => {}
                }
                if let Some(known) = self.by_class.get(class).and_then(|id| self.classes.get_mut(*id)) {
                    stale = known.everybody();
                    stale.retain(|id| self.sending.is_before(*id, committed.point()));
                }
            }
        }
        self.position = committed.position;
        self.counts.changes += 1;
        // Their objects changed without a change of their own, or one that they did not hear.
        for id in stale {
            self.start_afresh(id);
        }
    }

    /// Nothing happens up to this position.
    pub(super) fn pass(&mut self, position: Position) {
        self.position = self.position.max(position);
    }

    fn apply_object(&mut self, change: &ObjectChange, point: Point) {
        let Some(class) = self.by_class.get(&change.class).and_then(|id| self.classes.get_mut(*id)) else { return };
        let (before, after) = (change.before.as_deref(), change.after.as_deref());
        class.lookup.begin(class.groups.bound());
        for image in [before, after].into_iter().flatten() {
            class.index.look_up(image, &mut class.lookup);
        }
        self.counts.candidates += class.lookup.found.len() as u64;
        let cursor = Cursor::at(self.timeline.clone(), point);
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
                let Some(Seen { event, reads_before, reads_after }) = seen(change, matched_before, matched_after, who)
                else {
                    return;
                };
                let owns = before.or(after).is_some_and(|object| is_own_row(&class.name, object, who));
                let hidden = if owns { HIDES_NOTHING } else { audience.hidden };
                let hidden_names = class.hidden.set(hidden);
                for view in &audience.views {
                    if view.watch.as_ref().is_some_and(|watch| !is_watched(change, event, watch, hidden_names)) {
                        continue;
                    }
                    let keys = class.keys.list(view.keys).map(|keys| &**keys);
                    let shown = super::render::Shown {
                        class: &class.name,
                        relations: &class.relations,
                        change,
                        cursor: &cursor,
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

    /// Does what is due by now. Returns when it wants to be called again.
    pub(super) fn tick(&mut self, now: Millis) -> Option<Millis> {
        let (fence, checkpoint) = (self.lift_old_fences(now), self.send_checkpoints(now));
        [fence, checkpoint, self.session_check.due()].into_iter().flatten().min()
    }

    /// Lifts fences whose pong did not come.
    fn lift_old_fences(&mut self, now: Millis) -> Option<Millis> {
        while let Some((deadline, connection, number)) = self.fences.front().copied() {
            if deadline > now {
                return Some(deadline);
            }
            self.fences.pop_front();
            self.lift_fences(connection, number);
        }
        None
    }

    /// All sessions in use, when nobody has told which of them have ended.
    pub(super) fn take_session_check(&mut self, now: Millis) -> Option<Vec<ObjectId>> {
        self.session_check.begin(now, !self.sessions.is_empty()).then(|| self.sessions.keys().cloned().collect())
    }

    /// The reads that were asked for since the last call; for a session that may have ended, once it was checked.
    pub(super) fn take_reads(&mut self) -> Vec<ReadRequest> {
        let (requests, sending) = (std::mem::take(&mut self.reads), &self.sending);
        let has_session = |request: &ReadRequest| sending.has_session(request.ticket.subscription);
        self.session_check.pass(requests, |check| &mut check.reads, has_session)
    }

    /// The same of replays.
    pub(super) fn take_replays(&mut self) -> Vec<ReplayRequest> {
        let (requests, sending) = (std::mem::take(&mut self.replays), &self.sending);
        let has_session = |request: &ReplayRequest| sending.has_session(request.ticket.subscription);
        self.session_check.pass(requests, |check| &mut check.replays, has_session)
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
