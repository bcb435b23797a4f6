//! Cursors for connections on which nothing happens, so that they need not resume from long ago.

use super::super::delivery::Millis;
use super::super::event::write_cursor;
use super::super::outbox::Entry;
use super::Engine;
use super::state::{Connection, Sending};
use crate::changes::{Cursor, Point};

impl Engine {
    pub(super) fn want_checkpoints(&mut self, connection: u64, now: Millis) {
        let Some(&at) = self.by_connection.get(&connection) else { return };
        let Some(state) = self.sending.connections.get_mut(at) else { return };
        if !std::mem::replace(&mut state.checkpoints, true) {
            self.checkpoints.push_back((now + self.period(), connection));
        }
    }

    /// Gives each connection whose time has come the cursor that all its subscriptions have reached, if there is one.
    pub(super) fn send_checkpoints(&mut self, now: Millis) -> Option<Millis> {
        while let Some((due, connection)) = self.checkpoints.front().copied() {
            if due > now {
                return Some(due);
            }
            self.checkpoints.pop_front();
            let Some(&at) = self.by_connection.get(&connection) else { continue };
            self.checkpoints.push_back((now + self.period(), connection));
            let reached = Point::behind(self.position);
            let Some(state) = self.sending.connections.get(at) else { continue };
            if !self.sending.have_all_reached(state, reached) {
                continue;
            }
            let mut frame = state.outbox.addressee().head("checkpoint", None);
            write_cursor(&Cursor::at(self.timeline.clone(), reached), &mut frame);
            frame.push(b'}');
            self.sending.stage(at, Entry::Checkpoint(frame.into()));
        }
        None
    }

    fn period(&self) -> Millis {
        self.sending.delivery.settings.checkpoint.as_millis().max(1) as Millis
    }
}

impl Sending {
    /// Whether every subscription of a connection was given everything up to this point, and nothing behind it.
    fn have_all_reached(&self, connection: &Connection, point: Point) -> bool {
        !connection.is_cut
            && connection.subscriptions.values().all(|id| {
                self.subscriptions.get(*id).is_some_and(|subscription| {
                    !subscription.is_held() && subscription.lost.is_none() && subscription.since <= point
                })
            })
    }
}
