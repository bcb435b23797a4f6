//! Sessions that may have ended unseen: somebody looks which of them are left, and nothing is read for them before.

use super::ended_sessions::REMEMBERED;
use crate::live::delivery::Millis;
use crate::live::reads::ReadRequest;
use crate::live::replay::ReplayRequest;

/// From the end of a check to the beginning of the next at the soonest: where nobody can tell how sessions change, each
/// use of one may be such a change.
const REST: Millis = 1_000;

#[derive(Default)]
pub(super) struct SessionCheck {
    is_due: bool,
    is_under_way: bool,
    not_before: Millis,
    /// Until then new subscriptions are checked, too.
    doubted_until: Millis,
    pub(super) reads: Waiting<ReadRequest>,
    pub(super) replays: Waiting<ReplayRequest>,
}

/// Requests for subscriptions with a session.
pub(super) struct Waiting<T> {
    /// For a check that has not begun.
    later: Vec<T>,
    /// For the one that is under way.
    now: Vec<T>,
    ready: Vec<T>,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { later: Vec::new(), now: Vec::new(), ready: Vec::new() }
    }
}

impl<T> Waiting<T> {
    fn begin(&mut self) {
        self.now.append(&mut self.later);
    }

    fn end(&mut self) {
        self.ready.append(&mut self.now);
    }
}

impl SessionCheck {
    /// Something has happened to sessions that nobody can tell.
    pub(super) fn ask(&mut self, now: Millis) {
        self.is_due = true;
        self.doubted_until = now.saturating_add(REMEMBERED);
    }

    /// A session is used that a check may not have known.
    pub(super) fn meet(&mut self, now: Millis) {
        self.is_due |= now < self.doubted_until;
    }

    /// Whether a check begins now; where there are no sessions, there is nothing to look at.
    pub(super) fn begin(&mut self, now: Millis, are_any: bool) -> bool {
        if !self.is_due || self.is_under_way || now < self.not_before {
            return false;
        }
        (self.is_due, self.is_under_way) = (false, true);
        self.reads.begin();
        self.replays.begin();
        if !are_any {
            self.end(now);
        }
        are_any
    }

    /// When the next one may begin, if one is to.
    pub(super) fn due(&self) -> Option<Millis> {
        (self.is_due && !self.is_under_way).then_some(self.not_before)
    }

    pub(super) fn end(&mut self, now: Millis) {
        self.is_under_way = false;
        self.not_before = now.saturating_add(REST);
        self.reads.end();
        self.replays.end();
    }

    /// Which of these requests, or of those that have waited, can go on.
    pub(super) fn pass<T>(
        &mut self,
        requests: Vec<T>,
        waiting: impl Fn(&mut Self) -> &mut Waiting<T>,
        has_session: impl Fn(&T) -> bool,
    ) -> Vec<T> {
        let (is_due, is_under_way) = (self.is_due, self.is_under_way);
        let waiting = waiting(self);
        let mut ready = std::mem::take(&mut waiting.ready);
        for request in requests {
            match has_session(&request) {
                true if is_due => waiting.later.push(request),
                true if is_under_way => waiting.now.push(request),
                _ => ready.push(request),
            }
        }
        ready
    }
}
