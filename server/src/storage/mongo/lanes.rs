//! Who waits for whom: commits that touch the same thing run one after the other, in the order of their calls.
//!
//! Other processes write to the same database, so this is no lock: what must hold is checked there. It keeps the promise
//! about order, and this process from getting in its own way.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidings_protocol::{ClassName, ObjectId};
use tokio::sync::oneshot;

/// What a commit touches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    Object(ClassName, ObjectId),
    /// The columns, indexes and permissions of a class.
    Class(ClassName),
}

#[derive(Default)]
pub(super) struct Lanes {
    /// The last one in each lane: whoever comes next waits until its sender is dropped.
    last: Mutex<HashMap<Lane, Last>>,
}

struct Last {
    ticket: u64,
    done: oneshot::Receiver<()>,
}

/// A place in one or more lanes. Dropping it lets the next ones go.
pub(super) struct Place {
    lanes: Arc<Lanes>,
    mine: Vec<(Lane, u64, oneshot::Sender<()>)>,
    before: Vec<oneshot::Receiver<()>>,
}

impl Lanes {
    /// Takes a place at the end of these lanes, in all of them at once: so nobody waits in a circle.
    pub(super) fn enter(self: &Arc<Self>, lanes: impl IntoIterator<Item = Lane>) -> Place {
        let mut place = Place { lanes: self.clone(), mine: Vec::new(), before: Vec::new() };
        let lanes: HashSet<Lane> = lanes.into_iter().collect();
        let mut last = self.lock();
        for lane in lanes {
            let (sender, done) = oneshot::channel();
            let previous = last.remove(&lane);
            let ticket = previous.as_ref().map_or(0, |previous| previous.ticket + 1);
            place.before.extend(previous.map(|previous| previous.done));
            last.insert(lane.clone(), Last { ticket, done });
            place.mine.push((lane, ticket, sender));
        }
        drop(last);
        place
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Lane, Last>> {
        // No code that runs under the lock can leave the map half-changed.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits until everybody before is done.
    pub(super) async fn reached(&mut self) {
        for before in self.before.drain(..) {
            // It is never sent, only dropped.
            let _ = before.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut last = self.lanes.lock();
        for (lane, ticket, _) in &self.mine {
            if last.get(lane).is_some_and(|last| last.ticket == *ticket) {
                last.remove(lane);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(id: &str) -> Lane {
        Lane::Object(ClassName::from_trusted("C"), ObjectId::new(id))
    }

    #[tokio::test]
    async fn each_lane_is_first_come_first_served() {
        let lanes = Arc::new(Lanes::default());
        let mut first = lanes.enter([lane("a"), lane("b")]);
        let mut second = lanes.enter([lane("b"), lane("b"), lane("c")]);
        let mut other = lanes.enter([lane("d")]);
        first.reached().await;
        other.reached().await;
        let waiting = tokio::spawn(async move {
            second.reached().await;
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
        drop(other);
        assert!(lanes.lock().is_empty(), "nothing is kept of those who are done");
    }
}
