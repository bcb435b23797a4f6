//! Results: reading them, and holding events back until the client has seen what comes before them.

use super::super::class::SubscriptionId;
use super::super::outbox::{Closing, Entry};
use super::super::reads::{Read, ReadAnswer, ReadRequest};
use super::Engine;
use super::sending::held_bytes;
use super::state::{Reading, Results};
use crate::changes::{Cursor, Position};
use bytes::Bytes;
use tidings_protocol::{Code, Error};

impl Engine {
    pub(super) fn query(&mut self, connection: u64, request_id: i64) {
        let Some(&at) = self.by_connection.get(&connection) else { return };
        let Some(connection) = self.sending.connections.get(at) else { return };
        connection.outbox.handled();
        match connection.subscriptions.get(&request_id).copied() {
            Some(id) => self.query_subscription(id, false),
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

    /// Asks for the subscription's results; until they come its events are held.
    pub(super) fn query_subscription(&mut self, id: SubscriptionId, is_resync: bool) {
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
    pub(super) fn start_reads(&mut self, at: u32) {
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

    pub(super) fn answered(&mut self, answer: ReadAnswer) {
        let ReadAnswer { token, connection, subscription: id, schema_version, outcome } = answer;
        let Some(&at) = self.by_connection.get(&connection) else { return };
        let Some(connection) = self.sending.connections.get_mut(at) else { return };
        connection.reading -= 1;
        self.take_answer(token, at, id, schema_version, outcome);
        self.start_reads(at);
    }

    pub(super) fn take_answer(
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

    pub(super) fn read_failed(&mut self, at: u32, id: SubscriptionId, is_resync: bool, error: Error) {
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

    /// Stages `subscribed` with the position behind which every change is delivered.
    pub(super) fn stage_subscribed(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.sending.subscriptions.get(id) else { return };
        let (at, request_id, position) = (subscription.connection, subscription.request_id, subscription.since);
        let Some(connection) = self.sending.connections.get(at) else { return };
        let cursor = Cursor { timeline: self.timeline.clone(), position };
        let mut frame = connection.outbox.addressee().head("subscribed", Some(request_id));
        frame.extend_from_slice(format!(",\"cursor\":\"{cursor}\"}}").as_bytes());
        self.sending.stage(at, Entry::Frame(frame.into()));
    }
}
