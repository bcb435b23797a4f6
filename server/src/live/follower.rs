//! The thread that runs the engine: commands and changes in, wakes and reads out.

use super::Feed;
use super::delivery::{Delivery, Millis};
use super::engine::{Command, Counts, Engine};
use super::reads::{ReadRequest, Reads};
use crate::changes::{ChangeSource, ChangeTail, Read as TailRead, SourceError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tidings_protocol::{Code, Error};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Where connections leave their commands. Bounded by the connections: each has a bounded number of commands under way.
#[derive(Default)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    commands: Vec<Command>,
    /// Something happened since the thread last looked: a command, a change, or room in the queues.
    woken: bool,
    stopped: bool,
}

impl Inbox {
    pub(super) fn push(&self, command: Command) {
        let mut waiting = self.lock();
        waiting.commands.push(command);
        self.signal(waiting);
    }

    pub(super) fn wake(&self) {
        let waiting = self.lock();
        self.signal(waiting);
    }

    pub(super) fn stop(&self) {
        let mut waiting = self.lock();
        waiting.stopped = true;
        self.signal(waiting);
    }

    fn signal(&self, mut waiting: MutexGuard<'_, Waiting>) {
        let was_woken = std::mem::replace(&mut waiting.woken, true);
        drop(waiting);
        if !was_woken {
            self.changed.notify_one();
        }
    }

    /// Waits until something happens, at most so long, and takes the commands. `None` when it is time to stop.
    fn take(&self, patience: Duration, into: &mut Vec<Command>) -> Option<()> {
        let waiting = self.lock();
        let (mut waiting, _) = self
            .changed
            .wait_timeout_while(waiting, patience, |waiting| !waiting.woken && !waiting.stopped)
            .unwrap_or_else(PoisonError::into_inner);
        waiting.woken = false;
        std::mem::swap(&mut waiting.commands, into);
        (!waiting.stopped).then_some(())
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No code that runs under the lock can leave the list half-changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Follower {
    tail: Arc<ChangeTail>,
    source: Arc<dyn ChangeSource>,
    reads: Arc<dyn Reads>,
    delivery: Arc<Delivery>,
    inbox: Arc<Inbox>,
    engine: Engine,
    runtime: Handle,
    /// Reads under way at a time.
    slots: Arc<Semaphore>,
    reported: Instant,
}

/// What following the changes has come to.
struct Batch {
    /// Weight of the changes that were applied.
    bytes: usize,
    next: Next,
}

/// When to look for changes again.
enum Next {
    AtOnce,
    /// When a change is pushed, or the queues have room again.
    WhenWoken,
    /// After a moment, because the change log could not be read.
    Retry,
}

/// How much of the change log is read at a time while the engine is behind.
const LOG_BYTES: usize = 1 << 20;
/// How long the thread sleeps when nothing happens: metrics stay fresh.
const IDLE: Duration = Duration::from_secs(1);
/// How soon a change log that could not be read is tried again.
const RETRY: Duration = Duration::from_millis(100);

impl Follower {
    pub(super) fn new(feed: Feed, reads: Arc<dyn Reads>, delivery: Arc<Delivery>, inbox: Arc<Inbox>) -> Self {
        let Feed { tail, source, timeline } = feed;
        let wake = inbox.clone();
        tail.follow(move || wake.wake());
        // The position first: what changes the schemas after it is then applied to them a second time, to no effect.
        let position = tail.position();
        let engine = Engine::new(delivery.clone(), timeline, position, &reads.schemas());
        let slots = Arc::new(Semaphore::new(delivery.settings.reads));
        Self {
            tail,
            source,
            reads,
            delivery,
            inbox,
            engine,
            runtime: Handle::current(),
            slots,
            reported: Instant::now(),
        }
    }

    pub(super) fn run(mut self) {
        let mut commands = Vec::new();
        let mut patience = IDLE;
        while self.inbox.take(patience, &mut commands).is_some() {
            let head = self.tail.position();
            for command in commands.drain(..) {
                let now = self.now();
                self.engine.handle(command, head, now);
            }
            let batch = self.follow();
            let now = self.now();
            let deadline = self.engine.tick(now);
            self.engine.flush(now);
            if batch.bytes > 0 {
                self.tail.applied(self.engine.position(), batch.bytes);
            }
            for request in self.engine.take_reads() {
                self.read(request);
            }
            if self.reported.elapsed() >= IDLE {
                self.report();
            }
            patience = match (batch.next, deadline) {
                (Next::AtOnce, _) => Duration::ZERO,
                (Next::Retry, _) => RETRY,
                (Next::WhenWoken, Some(deadline)) => {
                    Duration::from_millis(u64::from(deadline.saturating_sub(now)) + 1).min(IDLE)
                }
                (Next::WhenWoken, None) => IDLE,
            };
        }
    }

    /// Applies the next batch of changes, unless the queues are full.
    fn follow(&mut self) -> Batch {
        if self.engine.is_full() {
            return Batch { bytes: 0, next: Next::WhenWoken };
        }
        let max = self.delivery.settings.batch;
        let changes = match self.tail.read_after(self.engine.position(), max) {
            TailRead::Changes(changes) => changes,
            TailRead::Behind => match self.source.read_after(self.engine.position(), LOG_BYTES) {
                Ok(changes) => changes,
                Err(SourceError::Gone) => {
                    tracing::error!("the change log no longer holds what live queries have not seen; they start over");
                    let position = self.tail.position();
                    self.engine.start_over(position, &self.reads.schemas());
                    self.tail.applied(position, usize::MAX);
                    return Batch { bytes: 0, next: Next::AtOnce };
                }
                Err(SourceError::Unavailable(reason)) => {
                    tracing::error!(reason, "cannot read the change log");
                    return Batch { bytes: 0, next: Next::Retry };
                }
            },
        };
        let (mut bytes, now) = (0, self.now());
        for committed in &changes {
            self.engine.apply(committed, now);
            bytes += committed.weight();
            if self.engine.is_full() || self.engine.should_flush() {
                return Batch { bytes, next: Next::AtOnce };
            }
        }
        // A full batch says that there is probably more; else whoever pushes it wakes us.
        let next = if changes.is_empty() { Next::WhenWoken } else { Next::AtOnce };
        Batch { bytes, next }
    }

    /// Answers a read on the runtime and brings the answer back as a command.
    fn read(&self, request: ReadRequest) {
        let (reads, inbox, slots) = (self.reads.clone(), self.inbox.clone(), self.slots.clone());
        self.runtime.spawn(async move {
            // Never closed, so always granted.
            let _slot = slots.acquire().await;
            // In a task of its own: a panic there still is an answer here.
            let outcome = tokio::spawn(reads.results(request.read.clone())).await.unwrap_or_else(|panic| {
                tracing::error!(%panic, "a read for live queries has panicked");
                Err(Error::new(Code::InternalServerError, "Internal server error."))
            });
            inbox.push(Command::Answer(request.answer(outcome)));
        });
    }

    fn now(&self) -> Millis {
        self.delivery.millis(Instant::now())
    }

    fn report(&mut self) {
        self.reported = Instant::now();
        let Counts { changes, candidates, events, coalesced, resyncs, closes } =
            std::mem::take(&mut self.engine.counts);
        for (name, count) in [
            ("tidings_live_changes_total", changes),
            ("tidings_live_candidates_total", candidates),
            ("tidings_live_events_total", events),
            ("tidings_live_coalesced_total", coalesced),
            ("tidings_live_resyncs_total", resyncs),
            ("tidings_live_closes_total", closes),
        ] {
            metrics::counter!(name).increment(count);
        }
        let sizes = self.engine.sizes();
        let (lag_bytes, lag) = self.tail.lag();
        for (name, size) in [
            ("tidings_live_connections", sizes.connections as f64),
            ("tidings_live_subscriptions", sizes.subscriptions as f64),
            ("tidings_live_groups", sizes.groups as f64),
            ("tidings_live_residual_groups", sizes.residual_groups as f64),
            ("tidings_live_queue_bytes", self.delivery.keeping_bytes() as f64),
            ("tidings_live_slow_queue_bytes", self.delivery.slow_bytes() as f64),
            ("tidings_live_typical_wait_seconds", f64::from(self.delivery.typical_wait()) / 1_000.0),
            ("tidings_live_lag_bytes", lag_bytes as f64),
            ("tidings_live_lag_seconds", lag.as_secs_f64()),
        ] {
            metrics::gauge!(name).set(size);
        }
    }
}
