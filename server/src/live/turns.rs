//! Whose task is woken when: a bounded number at a time, the others in a ring.
//!
//! A change with many subscribers wakes many tasks. Woken all at once, they would stand in the runtime's queue before
//! the writers' own tasks, so that these wait for the whole round; and each would send the one event that there is. In
//! the ring a connection keeps its place while further events join those that it has to send. So the more there is to
//! do, the more events leave with one system call; and where there is little, everybody's turn comes at once.

use super::outbox::Outbox;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(super) struct Turns {
    /// Connections that have something to send and were not woken for it yet.
    ring: Mutex<VecDeque<Arc<Outbox>>>,
    /// Tasks that were woken and have not run yet.
    woken: AtomicUsize,
    /// These, and the connections in the ring.
    pending: AtomicUsize,
    /// Called when almost all have had their turn.
    through: Box<dyn Fn() + Send + Sync>,
}

/// Enough that no worker of the runtime runs dry between two turns; few enough that another task waits for little.
const WOKEN_AT_A_TIME: usize = 64;

/// With so few turns left, all have had theirs.
pub(super) const FEW_PENDING: usize = 16;

impl Turns {
    pub(super) fn new(through: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            ring: Mutex::default(),
            woken: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            through: Box::new(through),
        }
    }

    /// How many connections have not had the turn yet that they were promised.
    pub(super) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Puts connections at the end of the ring, and wakes whose turn it is.
    pub(super) fn queue(&self, outboxes: &mut Vec<Arc<Outbox>>) {
        if !outboxes.is_empty() {
            self.pending.fetch_add(outboxes.len(), Ordering::Relaxed);
            self.lock().extend(outboxes.drain(..));
            self.go_on();
        }
    }

    /// A woken task has run, or will never run: it is the next one's turn.
    pub(super) fn done(&self) {
        self.woken.fetch_sub(1, Ordering::AcqRel);
        self.count_off();
        self.go_on();
    }

    fn count_off(&self) {
        if self.pending.fetch_sub(1, Ordering::Relaxed) == FEW_PENDING + 1 {
            (self.through)();
        }
    }

    fn go_on(&self) {
        loop {
            // The place is taken first, so that `done` can never come before it.
            if self.woken.fetch_add(1, Ordering::AcqRel) >= WOKEN_AT_A_TIME {
                self.woken.fetch_sub(1, Ordering::AcqRel);
                return;
            }
            let next = self.lock().pop_front();
            let Some(next) = next else {
                self.woken.fetch_sub(1, Ordering::AcqRel);
                return;
            };
            if !next.take_turn() {
                self.woken.fetch_sub(1, Ordering::AcqRel);
                self.count_off();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Outbox>>> {
        // No code that runs under the lock can leave the ring half-changed.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::Settings;
    use crate::live::delivery::Delivery;
    use crate::live::outbox::Entry;
    use std::time::Instant;
    use tidings_protocol::live::Addressee;

    #[test]
    fn a_bounded_number_is_woken_and_everybody_has_a_turn() {
        let through = Arc::new(AtomicUsize::new(0));
        let counter = through.clone();
        let resume = move || {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        let delivery = Arc::new(Delivery::new(Settings::default(), Instant::now(), resume));
        let addressee = || Addressee { client_id: "c".into(), installation_id: None };
        let outboxes: Vec<_> = (0..500).map(|_| Arc::new(Outbox::new(addressee(), delivery.clone()))).collect();
        let turns = &delivery.turns;
        let give = |outboxes: &[Arc<Outbox>]| {
            let mut idle: Vec<_> =
                outboxes.iter().filter(|outbox| outbox.append(&mut vec![Entry::Ping(1)], 0).1).cloned().collect();
            turns.queue(&mut idle);
        };
        give(&outboxes);
        // Who waits already does not stand in the ring twice.
        give(&outboxes);
        assert_eq!((turns.pending(), turns.woken.load(Ordering::Relaxed)), (500, WOKEN_AT_A_TIME));
        // The second hundred ends its tasks instead, some in the ring, some woken.
        outboxes[100..200].iter().for_each(|outbox| outbox.abandon());
        for outbox in &outboxes {
            outbox.attend(std::task::Waker::noop());
        }
        assert_eq!((turns.pending(), turns.woken.load(Ordering::Relaxed)), (0, 0));
        assert_eq!(through.load(Ordering::Relaxed), 1);
        give(&outboxes[..10]);
        assert_eq!(turns.pending(), 10);
    }
}
