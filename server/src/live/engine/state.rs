//! What the engine remembers of each connection and each subscription.

use super::super::class::{Place, SubscriptionId};
use super::super::delivery::Delivery;
use super::super::event::EventBody;
use super::super::outbox::{Entry, Outbox};
use super::super::slots::Slots;
use super::sending::held_bytes;
use crate::changes::{Point, Position};
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use tidings_protocol::ObjectId;

/// The part of the engine that hands events to connections.
pub(super) struct Sending {
    pub(super) delivery: Arc<Delivery>,
    pub(super) subscriptions: Slots<Subscription>,
    pub(super) connections: Slots<Connection>,
    /// Connections with something staged.
    pub(super) touched: Vec<u32>,
    /// Connections whose tasks the flush at hand gives a turn.
    pub(super) to_wake: Vec<Arc<Outbox>>,
    /// Bytes staged since the last flush.
    pub(super) staged: usize,
    pub(super) events: u64,
}

pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) outbox: Arc<Outbox>,
    pub(super) subscriptions: FxHashMap<i64, SubscriptionId>,
    /// Clients count up, so up to here a request id that has no subscription once had one, or was refused it.
    pub(super) highest_request_id: i64,
    pub(super) filter_bytes: usize,
    /// How much work the evaluation of its filters may be.
    pub(super) effort: usize,
    /// What goes to the outbox with the next flush.
    pub(super) staged: Vec<Entry>,
    pub(super) touched: bool,
    /// The ping that the next flush ends with, because a first `subscribed` was staged.
    pub(super) fencing: Option<u64>,
    /// Subscriptions behind a fence, with the number of their ping.
    pub(super) fenced: Vec<(u64, SubscriptionId)>,
    /// Bytes of events held by its subscriptions.
    pub(super) held_bytes: usize,
    /// Some of its queue was dropped, and the rest is not written yet.
    pub(super) is_cut: bool,
    pub(super) reading: usize,
    /// Subscriptions that wait for a read of this connection to end.
    pub(super) to_read: VecDeque<SubscriptionId>,
    /// Whether it is told cursors also where nothing happens.
    pub(super) checkpoints: bool,
    pub(super) closed: bool,
}

pub(super) struct Subscription {
    pub(super) connection: u32,
    pub(super) request_id: i64,
    pub(super) class: u32,
    pub(super) place: Place,
    pub(super) session: Option<ObjectId>,
    pub(super) filter_bytes: usize,
    pub(super) effort: usize,
    /// Changes up to here are not for it: they came before it, or its client has heard of them otherwise.
    pub(super) since: Point,
    /// The ping whose pong shows that the client has seen the first `subscribed`.
    pub(super) fence: Option<u64>,
    pub(super) read: Option<Reading>,
    /// A result that waits for the fence.
    pub(super) result: Option<Results>,
    /// Events that wait for the fence or a result.
    pub(super) held: Vec<Arc<EventBody>>,
    /// The position of the last event that was dropped, if its results are needed anew.
    pub(super) lost: Option<Position>,
}

pub(super) struct Reading {
    pub(super) token: u64,
    pub(super) purpose: Purpose,
    /// The client asked once more meanwhile.
    pub(super) again: bool,
}

/// What a subscription reads for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The client has asked for its results.
    Query,
    /// Results are sent in place of events that were dropped, and a `subscribed` follows them.
    Resync,
    /// The client comes back, and wants what happened behind this point.
    Replay(Point),
}

pub(super) struct Results {
    pub(super) frame: Bytes,
    pub(super) is_resync: bool,
}

impl Sending {
    pub(super) fn has_session(&self, id: SubscriptionId) -> bool {
        self.subscriptions.get(id).is_some_and(|subscription| subscription.session.is_some())
    }

    /// Whether a change at this point concerns a subscription.
    pub(super) fn is_before(&self, id: SubscriptionId, point: Point) -> bool {
        self.subscriptions.get(id).is_some_and(|subscription| subscription.since < point)
    }
}

impl Subscription {
    pub(super) fn is_held(&self) -> bool {
        self.fence.is_some() || self.read.is_some()
    }

    /// Up to where the client has heard everything that it was given, which is `otherwise` if it is owed nothing; `None`
    /// if it is owed results.
    pub(super) fn heard(&self, otherwise: Point) -> Option<Point> {
        let first_held = || self.held.first().map_or(otherwise, |next| next.point.before());
        match self.read.as_ref().map(|read| read.purpose) {
            Some(Purpose::Replay(from)) => Some(from),
            Some(Purpose::Resync) => None,
            _ if self.lost.is_some() || self.result.is_some() => None,
            Some(Purpose::Query) | None => Some(first_held()),
        }
    }

    /// Drops what is held: everything up to here is read instead.
    pub(super) fn lose(&mut self, connection: &mut Connection, position: Position) {
        connection.held_bytes -= held_bytes(&self.held);
        self.held = Vec::new();
        self.result = None;
        self.lost = Some(position);
    }
}
