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

#[derive(Default)]
pub(super) struct Turns {
    /// Connections that have something to send and were not woken for it yet.
    ring: Mutex<VecDeque<Arc<Outbox>>>,
    /// Tasks that were woken and have not run yet.
    woken: AtomicUsize,
}

/// Enough that no worker of the runtime runs dry between two turns; few enough that another task waits for little.
const WOKEN_AT_A_TIME: usize = 64;

impl Turns {
    /// Puts connections at the end of the ring, and wakes whose turn it is.
    pub(super) fn queue(&self, outboxes: &mut Vec<Arc<Outbox>>) {
        if !outboxes.is_empty() {
            self.lock().extend(outboxes.drain(..));
            self.go_on();
        }
    }

    /// A woken task has run, or will never run: it is the next one's turn.
    pub(super) fn done(&self) {
        self.woken.fetch_sub(1, Ordering::AcqRel);
        self.go_on();
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
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Outbox>>> {
        // No code that runs under the lock can leave the ring half-changed.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
