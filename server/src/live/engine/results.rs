//! Results, and what was missed: asking for them, and holding events back until the client has seen what comes before.

use super::super::class::SubscriptionId;
use super::super::event::{EventBody, write_cursor};
use super::super::outbox::{Closing, Entry};
use super::super::reads::{Read, ReadAnswer, ReadRequest, Reply, Ticket};
use super::super::replay::{Bounds, Interest, ReplayRequest};
use super::Engine;
use super::sending::held_bytes;
use super::state::{Purpose, Reading, Results, Sending};
use crate::changes::{Cursor, Point, Position};
use std::sync::Arc;
use tidings_protocol::{Code, Error};

impl Engine {
    pub(super) fn query(&mut self, connection: u64, request_id: i64) {
        let Some(&at) = self.by_connection.get(&connection) else { return };
        let Some(connection) = self.sending.connections.get(at) else { return };
        connection.outbox.handled();
        match connection.subscriptions.get(&request_id).copied() {
            Some(id) => self.ask(id, Purpose::Query),
            None => self.no_subscription(at, request_id),
        }
    }

    /// Drops what a subscription holds, and sends it its results as they are from here on.
    pub(super) fn start_afresh(&mut self, id: SubscriptionId) {
        let position = self.position;
        let Some(subscription) = self.sending.subscriptions.get_mut(id) else { return };
        let group = self.classes.get(subscription.class).and_then(|class| class.groups.get(subscription.place.group));
        let audience = group.and_then(|group| group.audience(&subscription.place.principals));
        // Who is told nothing has nothing to begin afresh with.
        if audience.is_some_and(|audience| audience.allowed)
            && let Some(connection) = self.sending.connections.get_mut(subscription.connection)
        {
            subscription.lose(connection, position);
            self.settle(id);
        }
    }

    /// Asks for the subscription's results, or for what it has missed; until the answer comes its events are held.
    pub(super) fn ask(&mut self, id: SubscriptionId, purpose: Purpose) {
        let Some(subscription) = self.sending.subscriptions.get_mut(id) else { return };
        if let Some(read) = &mut subscription.read {
            read.again = true;
            return;
        }
        self.next_token += 1;
        subscription.read = Some(Reading { token: self.next_token, purpose, again: false });
        let at = subscription.connection;
        let Some(connection) = self.sending.connections.get_mut(at) else { return };
        connection.to_read.push_back(id);
        self.start_reads(at);
    }

    /// Gives out as many reads of this connection as it may have at a time.
    pub(super) fn start_reads(&mut self, at: u32) {
        loop {
            let settings = &self.sending.delivery.settings;
            let Some(connection) = self.sending.connections.get_mut(at) else { return };
            if connection.reading >= settings.reads_per_connection {
                return;
            }
            let Some(id) = connection.to_read.pop_front() else { return };
            let Some(subscription) = self.sending.subscriptions.get_mut(id) else { continue };
            let Some(reading) = &mut subscription.read else { continue };
            let Some(class) = self.classes.get(subscription.class) else { continue };
            let Some(group) = class.groups.get(subscription.place.group) else { continue };
            let Some(audience) = group.audience(&subscription.place.principals) else { continue };
            if subscription.connection != at {
                continue;
            }
            // What was dropped up to now is in what is read; what comes from now on is held.
            if subscription.lost.take().is_some() && reading.purpose == Purpose::Query {
                reading.purpose = Purpose::Resync;
            }
            let ticket = Ticket {
                token: reading.token,
                connection: connection.id,
                subscription: id,
                schema_version: class.schema_version,
            };
            if !audience.allowed {
                let outcome = Err(Error::new(Code::OperationForbidden, "Permission denied"));
                self.take_answer(ticket, at, outcome);
                continue;
            }
            connection.reading += 1;
            let keys = class.keys.list(subscription.place.keys).cloned();
            let hidden = class.hidden.set(audience.hidden).clone();
            let timeline = self.timeline.clone();
            match reading.purpose {
                Purpose::Replay(from) => self.replays.push(ReplayRequest {
                    ticket,
                    timeline,
                    from,
                    until: self.position,
                    interest: Interest {
                        class: class.name.clone(),
                        relations: class.relations.clone(),
                        predicate: group.predicate.clone(),
                        fields: group.fields.clone(),
                        principals: audience.principals.clone(),
                        keys,
                        watch: subscription.place.watch.clone(),
                        hidden,
                    },
                    bounds: Bounds {
                        changes: settings.replay_changes,
                        log_bytes: settings.replay_log_bytes,
                        event_bytes: settings.replay_bytes,
                    },
                }),
                Purpose::Query | Purpose::Resync => self.reads.push(ReadRequest {
                    ticket,
                    timeline,
                    is_resync: reading.purpose == Purpose::Resync,
                    read: Read {
                        class: class.name.clone(),
                        predicate: group.predicate.clone(),
                        principals: audience.principals.clone(),
                        at_least: self.position.max(subscription.since.position),
                        limit: settings.result_limit as u64 + 1,
                    },
                    request_id: subscription.request_id,
                    addressee: connection.outbox.addressee().clone(),
                    keys,
                    hidden,
                    max_objects: settings.result_limit,
                    max_bytes: settings.result_bytes,
                }),
            }
        }
    }

    pub(super) fn answered(&mut self, answer: ReadAnswer) {
        let ReadAnswer { ticket, outcome } = answer;
        let Some(&at) = self.by_connection.get(&ticket.connection) else { return };
        let Some(connection) = self.sending.connections.get_mut(at) else { return };
        connection.reading -= 1;
        self.take_answer(ticket, at, outcome);
        self.start_reads(at);
    }

    fn take_answer(&mut self, ticket: Ticket, at: u32, outcome: Result<Reply, Error>) {
        let Ticket { token, subscription: id, schema_version, .. } = ticket;
        let Some(subscription) = self.sending.subscriptions.get_mut(id) else { return };
        let Some(Reading { purpose, again, .. }) = subscription.read.take_if(|read| read.token == token) else {
            return;
        };
        let is_stale = self.classes.get(subscription.class).is_some_and(|class| class.schema_version != schema_version);
        // Events that were dropped behind this position are missing from what was read.
        let is_short = |through| subscription.lost.is_some_and(|lost| lost > through);
        let held_bytes_now = self.sending.connections.get(at).map_or(0, |connection| connection.held_bytes);
        let bound = self.sending.delivery.settings.close_mark;
        let has_room = |events: &[_]| held_bytes_now + held_bytes(events) <= bound;
        match outcome {
            Err(error) => return self.read_failed(at, id, purpose, error),
            Ok(Reply::Results { position, .. }) if is_stale || is_short(position) => {
                self.ask(id, purpose);
                if again {
                    self.ask(id, Purpose::Query);
                }
                return;
            }
            Ok(Reply::Results { position, frame }) => {
                subscription.result = Some(Results { frame, is_resync: purpose == Purpose::Resync });
                self.sending.catch_up(id, position, Vec::new());
            }
            Ok(Reply::Missed { through, events }) if !is_stale && !is_short(through) && has_room(&events) => {
                self.sending.catch_up(id, through, events);
            }
            Ok(Reply::Missed { .. } | Reply::Untold) => {
                // The results take its place, wherever in history the client stood.
                subscription.since = Point::behind(self.position);
                if let Some(connection) = self.sending.connections.get_mut(at) {
                    subscription.lose(connection, self.position);
                }
            }
        }
        self.settle(id);
        if again {
            self.ask(id, Purpose::Query);
        }
    }

    fn read_failed(&mut self, at: u32, id: SubscriptionId, purpose: Purpose, error: Error) {
        let Some(subscription) = self.sending.subscriptions.get(id) else { return };
        let request_id = subscription.request_id;
        let is_lost = purpose != Purpose::Query || subscription.lost.is_some();
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
    pub(super) fn settle(&mut self, id: SubscriptionId) {
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
                self.ask(id, Purpose::Resync);
            }
            return;
        }
        let (request_id, since) = (subscription.request_id, subscription.since);
        if let Some(Results { frame, is_resync }) = subscription.result.take() {
            self.sending.stage(at, Entry::Result { request_id, frame });
            if is_resync {
                self.stage_subscribed(id, Some(since));
            }
        }
        for body in held {
            self.sending.stage_event(at, request_id, body);
        }
    }

    pub(super) fn lift_fences(&mut self, connection: u64, number: u64) {
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

    /// Stages `subscribed` with the cursor behind which every change is delivered. There is none while results are
    /// owed: until they come, the client's own is the right one.
    pub(super) fn stage_subscribed(&mut self, id: SubscriptionId, heard: Option<Point>) {
        let Some(subscription) = self.sending.subscriptions.get(id) else { return };
        let (at, request_id) = (subscription.connection, subscription.request_id);
        let Some(connection) = self.sending.connections.get(at) else { return };
        let mut frame = connection.outbox.addressee().head("subscribed", Some(request_id));
        if let Some(point) = heard {
            write_cursor(&Cursor::at(self.timeline.clone(), point), &mut frame);
        }
        frame.push(b'}');
        self.sending.stage(at, Entry::Frame(frame.into()));
    }
}

impl Sending {
    /// The client has heard, or is now told, everything up to this position.
    fn catch_up(&mut self, id: SubscriptionId, through: Position, mut events: Vec<Arc<EventBody>>) {
        let Some(subscription) = self.subscriptions.get_mut(id) else { return };
        let Some(connection) = self.connections.get_mut(subscription.connection) else { return };
        subscription.lost = None;
        subscription.since = subscription.since.max(Point::behind(through));
        connection.held_bytes -= held_bytes(&subscription.held);
        events.extend(subscription.held.drain(..).filter(|body| body.point > subscription.since));
        subscription.held = events;
        connection.held_bytes += held_bytes(&subscription.held);
    }
}
