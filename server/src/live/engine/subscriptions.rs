//! Subscriptions: how they begin, are replaced, and end with their session.

use super::super::class::{Class, Filter, Interest, Place, SubscriptionId};
use super::super::delivery::Millis;
use super::super::outbox::Entry;
use super::super::{Audience, NewSubscription};
use super::sending::held_bytes;
use super::state::{Purpose, Subscription};
use super::{Engine, Prepared};
use crate::changes::{Point, Position};
use crate::permissions::Principals;
use compact_str::CompactString;
use std::sync::Arc;
use tidings_protocol::{Code, Error, ObjectId};

impl Engine {
    pub(super) fn subscribe(
        &mut self,
        connection: u64,
        request_id: i64,
        new: Prepared,
        is_update: bool,
        head: Position,
        now: Millis,
    ) {
        let Some(&at) = self.by_connection.get(&connection) else { return };
        let Some(connection) = self.sending.connections.get_mut(at) else { return };
        connection.outbox.handled();
        connection.highest_request_id = connection.highest_request_id.max(request_id);
        let Prepared { new, filter, matcher, effort } = new;
        let NewSubscription { class, predicate, keys, watch, audience, resume_from } = new;
        let Audience { principals, session } = audience;
        let filter_bytes = filter.len();
        let old = connection.subscriptions.get(&request_id).copied();
        // What is replaced makes room.
        let replaced = old.and_then(|old| self.sending.subscriptions.get(old));
        let (old_bytes, old_effort) = replaced.map_or((0, 0), |old| (old.filter_bytes, old.effort));
        let settings = &self.sending.delivery.settings;
        let refusal = if session.as_ref().is_some_and(|session| self.ended_sessions.contains(session)) {
            Some(invalid_session())
        } else if old.is_none() && connection.subscriptions.len() >= settings.max_subscriptions {
            let message = format!("A connection has at most {} subscriptions.", settings.max_subscriptions);
            Some(Error::new(Code::RequestLimitExceeded, message))
        } else if connection.filter_bytes - old_bytes + filter_bytes > settings.max_filter_bytes {
            let message = format!("The filters of a connection take at most {} bytes.", settings.max_filter_bytes);
            Some(Error::new(Code::RequestLimitExceeded, message))
        } else if connection.effort - old_effort + effort > settings.max_effort {
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
        // Whoever names a cursor says what it has heard, and is owed nothing else.
        let resume = resume_from.map(|cursor| (cursor.timeline == self.timeline).then_some(cursor.point()));
        let newest = Point::behind(head.max(self.position));
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
            since: match (resume, &old) {
                (Some(point), _) => point.unwrap_or(newest),
                (None, Some(old)) => old.since.max(Point::behind(self.position)),
                (None, None) => newest,
            },
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
            self.session_check.meet(now);
            self.sessions.entry(session).or_default().insert(id);
        }
        let Some(connection) = self.sending.connections.get_mut(at) else { return };
        connection.subscriptions.insert(request_id, id);
        connection.filter_bytes += filter_bytes;
        connection.effort += effort;
        let fence = match &old {
            Some(old) => old.fence,
            None if is_update => None,
            None => Some(*connection.fencing.get_or_insert_with(|| connection.outbox.next_ping())),
        };
        subscription.fence = fence;
        connection.fenced.extend(fence.map(|number| (number, id)));
        match (resume, old) {
            (Some(Some(point)), _) => {
                self.stage_subscribed(id, Some(point));
                self.ask(id, Purpose::Replay(point));
            }
            (Some(None), _) => {
                // Its history is not ours: nothing of it can be told.
                subscription.lost = Some(self.position);
                self.stage_subscribed(id, None);
                self.settle(id);
            }
            (None, None) => {
                self.stage_subscribed(id, Some(newest));
                self.settle(id);
            }
            (None, Some(old)) => self.take_over(id, old),
        }
    }

    /// What the old subscription held is still owed: the client has not seen it, or it would have been dropped there.
    fn take_over(&mut self, id: SubscriptionId, mut old: Subscription) {
        let Some(subscription) = self.sending.subscriptions.get_mut(id) else { return };
        let Some(connection) = self.sending.connections.get_mut(subscription.connection) else { return };
        let heard = old.heard(subscription.since);
        if old.fence.is_some() || old.lost.is_some() {
            subscription.lost = old.lost;
            subscription.held = std::mem::take(&mut old.held);
            connection.held_bytes += held_bytes(&subscription.held);
        }
        self.stage_subscribed(id, heard);
        match old.read.map(|read| read.purpose) {
            Some(Purpose::Replay(point)) => self.ask(id, Purpose::Replay(point)),
            // A result that was asked for, or waits behind the fence, stands for events that were dropped for it.
            Some(Purpose::Query | Purpose::Resync) => self.ask(id, Purpose::Query),
            None if old.result.is_some() => self.ask(id, Purpose::Query),
            None => self.settle(id),
        }
    }

    /// Ending what does not exist succeeds: it may just have been ended with its session, and the SDK waits for this
    /// answer before its own `unsubscribe()` returns.
    pub(super) fn unsubscribe(&mut self, connection: u64, request_id: i64) {
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

    /// Parse asks the client to reconnect here. That would not bring the subscription back, and would end all others of
    /// the connection, again and again if the client repeats its question.
    pub(super) fn no_subscription(&mut self, at: u32, request_id: i64) {
        let error = Error::new(Code::Custom(2), "Cannot find the subscription of this requestId.");
        self.sending.stage_error(at, error, request_id);
    }

    pub(super) fn end_session(&mut self, session: &ObjectId, now: Millis) {
        self.ended_sessions.insert(session.clone(), now);
        let Some(ids) = self.sessions.get(session) else { return };
        for id in ids.as_slice().to_vec() {
            if let Some(subscription) = self.remove_subscription(id) {
                self.sending.stage_error(subscription.connection, invalid_session(), subscription.request_id);
            }
        }
    }

    pub(super) fn remove_subscription(&mut self, id: SubscriptionId) -> Option<Subscription> {
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

    pub(super) fn forget_class_if_unused(&mut self, id: u32) {
        if self.classes.get(id).is_some_and(|class| class.groups.len() == 0)
            && let Some(class) = self.classes.remove(id)
        {
            self.by_class.remove(&class.name);
        }
    }
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
impl Place {
    /// Before a class has given a place.
    pub(super) fn nowhere() -> Self {
        Self { group: u32::MAX, principals: Principals::ANONYMOUS, keys: 0, watch: None }
    }
}
