//! Sessions that ended a short while ago: a subscription that was let in just before must not outlive its session.

use super::super::delivery::Millis;
use std::collections::{HashSet, VecDeque};
use tidings_protocol::ObjectId;

#[derive(Default)]
pub(super) struct EndedSessions {
    ids: HashSet<ObjectId>,
    order: VecDeque<(Millis, ObjectId)>,
}

/// Longer than anybody takes from checking a session to subscribing with it.
pub(super) const REMEMBERED: Millis = 60_000;
/// How many ended sessions are remembered at most.
const MAX_REMEMBERED: usize = 65_536;

impl EndedSessions {
    pub(super) fn insert(&mut self, id: ObjectId, now: Millis) {
        if self.ids.insert(id.clone()) {
            self.order.push_back((now, id));
        }
        if self.order.len() > MAX_REMEMBERED {
            self.forget_oldest();
        }
    }

    pub(super) fn contains(&self, id: &ObjectId) -> bool {
        self.ids.contains(id)
    }

    pub(super) fn forget(&mut self, now: Millis) {
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
