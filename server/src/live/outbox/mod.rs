//! The bounded queue in front of one socket: filled by the engine, emptied by the connection's task.

mod entry;
mod shorten;
#[cfg(test)]
mod tests;

pub(super) use entry::Entry;

use super::delivery::{Delivery, Millis};
use bytes::{BufMut, Bytes, BytesMut};
use entry::Waiting;
use futures_util::task::AtomicWaker;
use shorten::{coalesce, drop_events};
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use tidings_protocol::live::Addressee;

/// Has nothing that its task was not woken for.
const IDLE: u8 = 0;
/// Stands in the ring.
const WAITING: u8 = 1;
/// Its task was woken and has not run yet.
const WOKEN: u8 = 2;
/// Its task has ended.
const GONE: u8 = 3;

/// Why and how the server ends a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    pub code: u16,
    pub reason: &'static str,
}

/// The close code that says: come back and go on, you were too slow.
pub const TOO_SLOW: u16 = 4008;

#[derive(Debug)]
struct Queue {
    entries: VecDeque<Waiting>,
    bytes: usize,
    /// Whether the reader was found to be slower than the others; until its queue has run empty.
    slow: bool,
    last_slow: Option<Millis>,
    /// Size from which coalescing is tried again.
    coalesce_at: usize,
    closing: Option<Closing>,
    /// The task of the connection is gone: nothing is queued any more.
    gone: bool,
}

/// What the engine has to do after cutting down the queue of a slow reader.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Relief {
    /// Subscriptions whose queued events were dropped: they start afresh once the queue is empty.
    pub(super) resync: Vec<i64>,
    pub(super) coalesced: u64,
    pub(super) closed: bool,
}

/// What the connection's task learns from telling how its socket took the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Unchanged,
    /// The reader counts as slow from now on: the engine should look at the queue.
    BecameSlow,
    /// The slow reader has caught up.
    CaughtUp,
}

/// The queue of one connection.
pub struct Outbox {
    queue: Mutex<Queue>,
    waker: AtomicWaker,
    /// What stands between op and request id in every event frame of this connection.
    middle: Box<[u8]>,
    addressee: Addressee,
    delivery: Arc<Delivery>,
    next_ping: AtomicU64,
    /// Commands of this connection that the engine has not handled yet.
    unhandled: AtomicUsize,
    /// Where its task stands in the order of turns.
    turn: AtomicU8,
}

impl Outbox {
    pub(super) fn new(addressee: Addressee, delivery: Arc<Delivery>) -> Self {
        const OP: &str = "{\"op\":\"\"";
        let mut middle = addressee.head("", None).split_off(OP.len());
        middle.extend_from_slice(b",\"requestId\":");
        let queue = Queue {
            entries: VecDeque::new(),
            bytes: 0,
            slow: false,
            last_slow: None,
            coalesce_at: delivery.settings.coalesce_mark,
            closing: None,
            gone: false,
        };
        Self {
            queue: Mutex::new(queue),
            waker: AtomicWaker::new(),
            middle: middle.into(),
            addressee,
            delivery,
            next_ping: AtomicU64::new(1),
            unhandled: AtomicUsize::new(0),
            turn: AtomicU8::new(IDLE),
        }
    }

    pub fn addressee(&self) -> &Addressee {
        &self.addressee
    }

    pub(super) fn next_ping(&self) -> u64 {
        self.next_ping.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes entries in, and cuts the queue down if its reader is slow. Whether its task has to be given a turn.
    pub(super) fn append(&self, staged: &mut Vec<Entry>, now: Millis) -> (Relief, bool) {
        let mut queue = self.lock();
        self.push_locked(&mut queue, staged.drain(..), now);
        let relief = self.relieve_locked(&mut queue);
        drop(queue);
        // A task that was woken and has not run yet will find what was just put in.
        let is_idle = self.turn.compare_exchange(IDLE, WAITING, Ordering::AcqRel, Ordering::Acquire).is_ok();
        (relief, is_idle)
    }

    /// Wakes the task, if it still is there. Returns whether it was woken.
    pub(super) fn take_turn(&self) -> bool {
        let is_woken = self.turn.compare_exchange(WAITING, WOKEN, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if is_woken {
            self.waker.wake();
        }
        is_woken
    }

    /// Queues one whole frame of the connection's own task. Cutting down is the engine's, which knows what it costs.
    pub(crate) fn push_frame(&self, frame: Vec<u8>, now: Millis) {
        self.push_locked(&mut self.lock(), [Entry::Frame(frame.into())], now);
        self.waker.wake();
    }

    fn push_locked(&self, queue: &mut Queue, entries: impl IntoIterator<Item = Entry>, now: Millis) {
        let takes_more = !queue.gone && queue.closing.is_none();
        let mut added = 0;
        for entry in entries.into_iter().filter(|_| takes_more) {
            added += entry.weight();
            queue.entries.push_back(Waiting { since: now, entry });
        }
        queue.bytes += added;
        self.delivery.added(added, queue.slow);
    }

    /// Cuts the queue down if its reader is slow.
    pub(super) fn relieve(&self) -> Relief {
        let relief = self.relieve_locked(&mut self.lock());
        if relief.closed {
            self.waker.wake();
        }
        relief
    }

    fn relieve_locked(&self, queue: &mut Queue) -> Relief {
        let settings = &self.delivery.settings;
        let mut relief = Relief::default();
        if !queue.slow || queue.closing.is_some() {
            return relief;
        }
        if queue.bytes > queue.coalesce_at.min(settings.resync_mark) {
            relief.coalesced = self.rewrite(queue, coalesce);
            queue.coalesce_at = settings.coalesce_mark.max(queue.bytes * 2);
        }
        let crowded = self.delivery.slow_are_full() && queue.bytes > settings.coalesce_mark;
        if queue.bytes > settings.resync_mark || crowded {
            let resync = &mut relief.resync;
            self.rewrite(queue, |entries| drop_events(entries, resync));
            relief.resync.sort_unstable();
            relief.resync.dedup();
            queue.coalesce_at = settings.coalesce_mark;
        }
        if queue.bytes > settings.close_mark {
            self.rewrite(queue, |entries| {
                entries.clear();
                0
            });
            queue.closing = Some(Closing { code: TOO_SLOW, reason: "Too slow; reconnect to go on" });
            relief.closed = true;
        }
        relief
    }

    /// Changes the entries as a whole and puts the counts right.
    fn rewrite<T>(&self, queue: &mut Queue, change: impl FnOnce(&mut VecDeque<Waiting>) -> T) -> T {
        let result = change(&mut queue.entries);
        let bytes = queue.entries.iter().map(|waiting| waiting.entry.weight()).sum();
        self.delivery.removed(queue.bytes, queue.slow);
        self.delivery.added(bytes, queue.slow);
        queue.bytes = bytes;
        result
    }

    /// Moves entries of up to about `max` bytes into `out`, oldest first.
    pub(crate) fn take(&self, max: usize, out: &mut VecDeque<Outgoing>, now: Millis) {
        let mut queue = self.lock();
        let (mut taken, mut since) = (0, now);
        while taken < max
            && let Some(waiting) = queue.entries.pop_front()
        {
            taken += waiting.entry.weight();
            since = waiting.since;
            out.push_back(Outgoing(waiting.entry));
        }
        if taken == 0 {
            return;
        }
        queue.bytes -= taken;
        if queue.entries.is_empty() {
            // A queue that once was long gives its room back.
            queue.entries.shrink_to(64);
        }
        let slow = queue.slow;
        drop(queue);
        self.delivery.removed(taken, slow);
        if !slow {
            self.delivery.wrote(taken, now.saturating_sub(since));
        }
    }

    /// The task has just offered its socket everything it could: did the socket refuse some of it (`blocked`)?
    ///
    /// Deciding here, right after the offer, is what keeps our own delays from being taken for the reader's.
    pub(crate) fn offered(&self, blocked: bool, now: Millis) -> Verdict {
        let mut queue = self.lock();
        if !blocked {
            if !queue.slow || !queue.entries.is_empty() {
                return Verdict::Unchanged;
            }
            queue.slow = false;
            queue.coalesce_at = self.delivery.settings.coalesce_mark;
            return Verdict::CaughtUp;
        }
        let Some(oldest) = queue.entries.front() else { return Verdict::Unchanged };
        let waited = now.saturating_sub(oldest.since);
        if queue.slow || waited < self.delivery.patience(queue.bytes, now, queue.last_slow) {
            return Verdict::Unchanged;
        }
        queue.slow = true;
        queue.last_slow = Some(now);
        self.delivery.removed(queue.bytes, false);
        self.delivery.added(queue.bytes, true);
        Verdict::BecameSlow
    }

    /// The order to end the connection, once everything queued before it was taken.
    pub(crate) fn closing(&self) -> Option<Closing> {
        let queue = self.lock();
        queue.closing.clone().filter(|_| queue.entries.is_empty())
    }

    /// Ends the connection after what is queued; a later order does not replace an earlier one.
    pub(crate) fn close(&self, closing: Closing) {
        self.lock().closing.get_or_insert(closing);
        self.waker.wake();
    }

    /// The connection's task ends: what is queued is dropped.
    pub(crate) fn abandon(&self) {
        let mut queue = self.lock();
        queue.gone = true;
        self.rewrite(&mut queue, |entries| *entries = VecDeque::new());
        drop(queue);
        if self.turn.swap(GONE, Ordering::AcqRel) == WOKEN {
            self.delivery.turns.done();
        }
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.lock().bytes
    }

    /// The task runs, and wants to be woken when something is put in from now on.
    pub(crate) fn attend(&self, waker: &Waker) {
        self.waker.register(waker);
        self.ran();
    }

    fn ran(&self) {
        if self.turn.compare_exchange(WOKEN, IDLE, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.delivery.turns.done();
        }
    }

    pub(super) fn wake(&self) {
        self.waker.wake();
    }

    pub(super) fn commanded(&self) {
        self.unhandled.fetch_add(1, Ordering::Relaxed);
    }

    /// The engine has handled a command. Says whether the task may have been waiting for that.
    pub(super) fn handled(&self) {
        if self.unhandled.fetch_sub(1, Ordering::Relaxed) == MAX_UNHANDLED {
            self.wake();
        }
    }

    /// Whether the task should read no further frame until the engine has caught up with it.
    pub(crate) fn has_many_unhandled(&self) -> bool {
        self.unhandled.load(Ordering::Relaxed) >= MAX_UNHANDLED
    }

    /// Writes the payload of an entry; `None` stands for a ping with that number.
    pub(crate) fn compose(&self, outgoing: Outgoing, scratch: &mut BytesMut) -> Result<Bytes, u64> {
        match outgoing.0 {
            Entry::Frame(frame) | Entry::Checkpoint(frame) | Entry::Result { frame, .. } => Ok(frame),
            Entry::Ping(number) => Err(number),
            Entry::Event { request_id, body } => {
                let op = body.event.name();
                scratch.reserve(32 + op.len() + self.middle.len() + body.tail().len());
                scratch.put_slice(b"{\"op\":\"");
                scratch.put_slice(op.as_bytes());
                scratch.put_slice(b"\"");
                scratch.put_slice(&self.middle);
                // Writing a number into a buffer that grows cannot fail.
                let _ = write!(scratch, "{request_id}");
                scratch.put_slice(body.tail());
                Ok(scratch.split().freeze())
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code that runs under the lock can leave the queue half-changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// Something taken from the queue, on its way to the socket.
#[derive(Debug)]
pub(crate) struct Outgoing(Entry);

/// Commands of one connection that may wait for the engine; then its frames wait in its socket.
const MAX_UNHANDLED: usize = 64;
