//! Handing events to connections, and what follows when a connection cannot take them.

use super::super::class::SubscriptionId;
use super::super::delivery::Millis;
use super::super::event::EventBody;
use super::super::outbox::{Closing, Entry, Outbox, Relief};
use super::Engine;
use super::state::{Connection, Sending, Subscription};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use tidings_protocol::Error;
use tidings_protocol::live::FrameError;

/// A connection keeps room for so many staged entries; there may be many connections.
const KEPT_ENTRIES: usize = 8;

impl Sending {
    /// Gives an event to one subscription.
    pub(super) fn deliver(&mut self, id: SubscriptionId, body: &Arc<EventBody>) {
        let Some(subscription) = self.subscriptions.get_mut(id) else { return };
        if body.point <= subscription.since {
            return;
        }
        if subscription.is_held() {
            let Some(connection) = self.connections.get_mut(subscription.connection) else { return };
            return hold(subscription, connection, body, self.delivery.settings.resync_mark);
        }
        if let Some(lost) = &mut subscription.lost {
            *lost = body.point.position;
            return;
        }
        let (at, request_id) = (subscription.connection, subscription.request_id);
        self.stage_event(at, request_id, body.clone());
    }

    pub(super) fn stage_event(&mut self, at: u32, request_id: i64, body: Arc<EventBody>) {
        self.events += 1;
        self.stage(at, Entry::Event { request_id, body });
    }

    pub(super) fn stage_error(&mut self, at: u32, error: Error, request_id: i64) {
        self.stage(at, Entry::Frame(FrameError::new(error, Some(request_id)).to_json().into()));
    }

    pub(super) fn stage(&mut self, at: u32, entry: Entry) {
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
    if subscription.lost.is_none() && connection.held_bytes + body.weight() <= bound {
        connection.held_bytes += body.weight();
        return subscription.held.push(body.clone());
    }
    subscription.lose(connection, body.point.position);
}

pub(super) fn held_bytes(held: &[Arc<EventBody>]) -> usize {
    held.iter().map(|body| body.weight()).sum()
}
impl Engine {
    pub(super) fn connect(&mut self, id: u64, outbox: Arc<Outbox>) {
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
            checkpoints: false,
            closed: false,
        });
        self.by_connection.insert(id, at);
    }

    pub(super) fn disconnect(&mut self, connection: u64) {
        let Some(at) = self.by_connection.remove(&connection) else { return };
        let Some(connection) = self.sending.connections.get(at) else { return };
        let ids: Vec<_> = connection.subscriptions.values().copied().collect();
        for id in ids {
            self.remove_subscription(id);
        }
        self.sending.connections.remove(at);
    }

    /// Ends a connection from our side; its task then disconnects it.
    pub(super) fn close(&mut self, at: u32, closing: Closing) {
        let Some(connection) = self.sending.connections.get_mut(at) else { return };
        connection.closed = true;
        connection.outbox.close(closing);
        self.counts.closes += 1;
    }

    /// Does what follows from cutting down a slow reader's queue.
    pub(super) fn relieved(&mut self, at: u32, relief: Relief) {
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
            subscription.lose(connection, position);
            // What is staged is later than what was dropped, and in the results that make up for it.
            connection.staged.retain(|entry| !entry.is_of(request_id) && !entry.is_checkpoint());
        }
    }

    /// A slow reader has taken everything: subscriptions that lost events start afresh.
    pub(super) fn caught_up(&mut self, connection: u64) {
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
    pub(in crate::live) fn flush(&mut self, now: Millis) -> usize {
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

    pub(in crate::live) fn close_all(&mut self, closing: Closing) {
        let all: Vec<u32> = self.by_connection.values().copied().collect();
        for at in all {
            self.close(at, closing.clone());
        }
    }
}
