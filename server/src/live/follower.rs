//! The thread that runs the engine: commands and changes in, wakes and reads out.

use super::Feed;
use super::delivery::{Delivery, Millis};

use super::engine::{Command, Counts, Engine};
use super::outbox::Closing;
use super::reads::{ReadAnswer, ReadRequest, Reads, Ticket};
use super::replay::ReplayRequest;
use super::turns::FEW_PENDING;
use crate::changes::{ChangeSource, ChangeTail, Committed, Read as TailRead, SourceError};
use compact_str::CompactString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tidings_protocol::{Code, Error, ObjectId};
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
    fn take(&self, patience: Duration) -> Option<Vec<Command>> {
        let waiting = self.lock();
        let (mut waiting, _) = self
            .changed
            .wait_timeout_while(waiting, patience, |waiting| !waiting.woken && !waiting.stopped)
            .unwrap_or_else(PoisonError::into_inner);
        waiting.woken = false;
        let commands = std::mem::take(&mut waiting.commands);
        (!waiting.stopped).then_some(commands)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No code that runs under the lock can leave the list half-changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Follower {
    tail: Arc<ChangeTail>,
    source: Arc<dyn ChangeSource>,
    timeline: CompactString,
    reads: Arc<dyn Reads>,
    delivery: Arc<Delivery>,
    inbox: Arc<Inbox>,
    engine: Engine,
    /// What is left of the turn at hand.
    commands: std::vec::IntoIter<Command>,
    runtime: Handle,
    /// Reads under way at a time.
    slots: Arc<Semaphore>,
    round: Round,
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
    /// When the last round of wakes is through; at the latest after this time.
    Within(Duration),
    /// After a moment, because the change log could not be read.
    Retry,
}

/// Giving many connections a turn, and then leaving them and the writers some time.
///
/// A system call per connection is most of what delivery costs, and it costs the same with one event as with ten. So
/// where a change wakes many connections, those that come while these run, and a moment longer, make up the next round
/// together: events come a little later and far more of them do. A change that comes alone never waits.
enum Round {
    Over,
    Running { since: Instant },
    Resting { until: Instant },
}

/// From so many connections on, waking them is a round.
const LARGE_ROUND: usize = 64;
/// So long changes wait at most for a round to end. Beyond, they join what is queued for those who still wait their turn.
const LONGEST_ROUND: Duration = Duration::from_millis(25);
/// Bounds of the moment after a round, which otherwise is as long as the round was.
const SHORTEST_REST: Duration = Duration::from_millis(1);
const LONGEST_REST: Duration = Duration::from_millis(10);

impl Round {
    fn begin(turns: usize, now: Instant) -> Self {
        if turns < LARGE_ROUND { Self::Over } else { Self::Running { since: now } }
    }

    /// How long changes have to wait for the next round; `None` when it may begin.
    fn rest(&mut self, pending: usize, now: Instant) -> Option<Duration> {
        if let Self::Running { since } = *self {
            let elapsed = now.duration_since(since);
            if pending > FEW_PENDING && elapsed < LONGEST_ROUND {
                return Some(LONGEST_ROUND - elapsed);
            }
            *self = Self::Resting { until: now + elapsed.clamp(SHORTEST_REST, LONGEST_REST) };
        }
        if let Self::Resting { until } = *self {
            if now < until {
                return Some(until - now);
            }
            *self = Self::Over;
        }
        None
    }
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
        let engine = Engine::new(delivery.clone(), timeline.clone(), position, &reads.schemas());
        let slots = Arc::new(Semaphore::new(delivery.settings.reads));
        Self {
            tail,
            source,
            timeline,
            reads,
            delivery,
            inbox,
            engine,
            commands: Vec::new().into_iter(),
            runtime: Handle::current(),
            slots,
            round: Round::Over,
            reported: Instant::now(),
        }
    }

    /// Runs until it is stopped. A fault of the engine costs its clients their connections, not the server its live
    /// queries: they come back and find an engine without history.
    pub(super) fn run(mut self) {
        while catch_unwind(AssertUnwindSafe(|| self.run_engine())).is_err() {
            tracing::error!("the live-query engine has panicked; every live connection is closed");
            let closing = Closing { code: 1011, reason: "Internal error; reconnect" };
            self.engine.close_all(closing.clone());
            // Also those of which the engine has not heard yet.
            for command in self.commands.by_ref() {
                if let Command::Connect { outbox, .. } = command {
                    outbox.close(closing.clone());
                }
            }
            let position = self.tail.position();
            self.engine = Engine::new(self.delivery.clone(), self.timeline.clone(), position, &self.reads.schemas());
            self.tail.applied(position, usize::MAX);
        }
    }

    fn run_engine(&mut self) {
        let mut patience = IDLE;
        while let Some(commands) = self.inbox.take(patience) {
            self.commands = commands.into_iter();
            let head = self.tail.newest();
            while let Some(command) = self.commands.next() {
                let now = self.now();
                self.engine.handle(command, head, now);
            }
            let batch = self.follow();
            let now = self.now();
            let deadline = self.engine.tick(now);
            let turns = self.engine.flush(now);
            if batch.bytes > 0 {
                self.round = Round::begin(turns, Instant::now());
                self.tail.applied(self.engine.position(), batch.bytes);
            }
            if let Some(sessions) = self.engine.take_session_check(now) {
                self.check(sessions);
            }
            for request in self.engine.take_reads() {
                self.read(request);
            }
            for request in self.engine.take_replays() {
                self.replay(request);
            }
            if self.reported.elapsed() >= IDLE {
                self.report();
            }
            patience = match (batch.next, deadline) {
                (Next::AtOnce, _) => Duration::ZERO,
                (Next::Retry, _) => RETRY,
                (Next::Within(rest), _) => rest,
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
        if let Some(rest) = self.round.rest(self.delivery.turns.pending(), Instant::now()) {
            return Batch { bytes: 0, next: Next::Within(rest) };
        }
        let max = self.delivery.settings.batch;
        // Looked up first: what is pushed meanwhile is read.
        let quiet_until = self.tail.quiet_until();
        let changes = match self.tail.read_after(self.engine.position(), max) {
            TailRead::Changes(changes) => changes,
            TailRead::Behind => match self.log() {
                // Nobody pushes what is in the log already, so nobody would wake us for it.
                Ok(changes) if changes.is_empty() => return Batch { bytes: 0, next: Next::Retry },
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
        for (at, committed) in changes.iter().enumerate() {
            self.engine.apply(committed, now);
            bytes += committed.weight();
            // The rest of a position could not be read on its own.
            let is_whole = changes.get(at + 1).is_none_or(|next| next.position != committed.position);
            if is_whole && (self.engine.is_full() || self.engine.should_flush()) {
                return Batch { bytes, next: Next::AtOnce };
            }
        }
        if changes.is_empty() {
            self.engine.pass(quiet_until);
            // Whoever pushes more wakes us.
            return Batch { bytes, next: Next::WhenWoken };
        }
        Batch { bytes, next: Next::AtOnce }
    }

    fn log(&self) -> Result<Vec<Arc<Committed>>, SourceError> {
        self.runtime.block_on(self.source.read_after(self.engine.position(), LOG_BYTES))
    }

    fn read(&self, request: ReadRequest) {
        let reads = self.reads.clone();
        self.answer(request.ticket, async move {
            let outcome = reads.results(request.read.clone()).await;
            request.answer(outcome, reads.schemas().get(&request.read.class).map(|schema| &**schema))
        });
    }

    /// Asks until there is an answer, as no result is read before.
    fn check(&self, sessions: Vec<ObjectId>) {
        let (reads, inbox) = (self.reads.clone(), self.inbox.clone());
        self.runtime.spawn(async move {
            let ended = loop {
                let (reads, sessions) = (reads.clone(), sessions.clone());
                // In a task of its own: a panic there is no answer either.
                match tokio::spawn(async move { reads.ended_sessions(sessions).await }).await {
                    Ok(Ok(ended)) => break ended,
                    Ok(Err(_)) => {}
                    Err(panic) => tracing::error!(%panic, "a look for sessions that have ended has panicked"),
                }
                tokio::time::sleep(IDLE).await;
            };
            inbox.push(Command::SessionsChecked { ended });
        });
    }

    fn replay(&self, request: ReplayRequest) {
        let (tail, source) = (self.tail.clone(), self.source.clone());
        self.answer(request.ticket, async move { request.answer(&tail, &*source).await });
    }

    /// Finds an answer on the runtime and brings it back as a command.
    fn answer(&self, ticket: Ticket, answer: impl Future<Output = ReadAnswer> + Send + 'static) {
        let (inbox, slots) = (self.inbox.clone(), self.slots.clone());
        self.runtime.spawn(async move {
            // Never closed, so always granted.
            let _slot = slots.acquire().await;
            // In a task of its own: a panic there still is an answer here.
            let answer = tokio::spawn(answer).await.unwrap_or_else(|panic| {
                tracing::error!(%panic, "a read for live queries has panicked");
                let error = Error::new(Code::InternalServerError, "Internal server error.");
                ReadAnswer { ticket, outcome: Err(error) }
            });
            inbox.push(Command::Answer(answer));
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

#[cfg(test)]
mod tests {
    use super::Round;
    use crate::changes::{Change, ChangeSource, ChangeTail, Committed, ObjectChange, Position, SourceError};
    use crate::live::{Answer, Audience, Connection, Feed, Found, LiveQueries, NewSubscription, Read, Reads, Settings};
    use crate::permissions::Principals;
    use crate::schema::Schemas;
    use bytes::BytesMut;
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};
    use tidings_protocol::live::Addressee;
    use tidings_protocol::{ClassName, Error, Object, ObjectId, Predicate};

    /// Every change ever made; can be told to fail.
    #[derive(Default)]
    struct Log {
        changes: Mutex<Vec<Arc<Committed>>>,
        failing: Mutex<Option<SourceError>>,
        read: Mutex<usize>,
    }

    #[async_trait::async_trait]
    impl ChangeSource for Log {
        async fn read_after(&self, position: Position, max_bytes: usize) -> Result<Vec<Arc<Committed>>, SourceError> {
            if let Some(error) = self.failing.lock().unwrap().take() {
                return Err(error);
            }
            *self.read.lock().unwrap() += 1;
            let changes = self.changes.lock().unwrap();
            let mut bytes = 0;
            let after = changes.iter().skip(position as usize);
            Ok(after
                .take_while(|change| {
                    bytes += change.weight();
                    bytes <= max_bytes
                })
                .cloned()
                .collect())
        }

        async fn newest(&self) -> Result<Position, SourceError> {
            Ok(self.changes.lock().unwrap().len() as Position)
        }
    }

    struct Panics;

    impl Reads for Panics {
        fn results(&self, _: Read) -> Answer<Result<Found, Error>> {
            Box::pin(async { panic!("a broken store") })
        }

        fn ended_sessions(&self, _: Vec<ObjectId>) -> Answer<Result<Vec<ObjectId>, Error>> {
            Box::pin(async { panic!("a broken store") })
        }

        fn schemas(&self) -> Schemas {
            Schemas::default()
        }
    }

    struct World {
        tail: Arc<ChangeTail>,
        log: Arc<Log>,
        live: LiveQueries,
    }

    fn start(tail_bytes: usize, settings: Settings) -> World {
        let (tail, log) = (Arc::new(ChangeTail::new(0, tail_bytes)), Arc::new(Log::default()));
        let feed = Feed { tail: tail.clone(), source: log.clone(), timeline: "t".into() };
        World { tail, log, live: LiveQueries::start(feed, Arc::new(Panics), settings).unwrap() }
    }

    impl World {
        fn create(&self) {
            let position = self.tail.position() + 1;
            let id = ObjectId::new(format!("{position}"));
            let object = Object { id: id.clone(), ..Object::default() };
            let class = ClassName::from_trusted("Note");
            let change = ObjectChange { class, id, before: None, after: Some(Arc::new(object)) };
            let committed = Arc::new(Committed { position, ordinal: 0, change: Change::Object(change) });
            self.log.changes.lock().unwrap().push(committed.clone());
            self.tail.push([committed]);
        }

        fn subscriber(&self) -> Connection {
            let connection = self.live.connect(Addressee { client_id: "c".into(), installation_id: None });
            let audience = Audience { principals: Principals::ANONYMOUS, session: None };
            let predicate = Predicate::everything();
            let class = ClassName::from_trusted("Note");
            let (keys, watch, resume_from) = (None, None, None);
            connection.subscribe(1, NewSubscription { class, predicate, keys, watch, audience, resume_from }, false);
            wait(|| frames(&connection).iter().any(|frame| frame.contains("subscribed")));
            connection.pong(1);
            connection
        }
    }

    fn wait(mut done: impl FnMut() -> bool) {
        let started = Instant::now();
        while !done() {
            assert!(started.elapsed() < Duration::from_secs(20), "it never happens");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Takes a little of what is queued, as a socket does.
    fn frames(connection: &Connection) -> Vec<String> {
        let outbox = connection.outbox();
        let (mut taken, mut scratch) = (VecDeque::new(), BytesMut::new());
        outbox.take(4 << 10, &mut taken, connection.live.now());
        let texts = taken.into_iter().filter_map(|outgoing| outbox.compose(outgoing, &mut scratch).ok());
        texts.map(|frame| String::from_utf8(frame.to_vec()).unwrap()).collect()
    }

    #[test]
    fn a_round_lasts_until_all_have_run_and_then_rests() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let left = |round: &mut Round, woken, millis| round.rest(woken, at(millis)).map(|rest| rest.as_millis());
        // A few connections are no round.
        assert_eq!(left(&mut Round::begin(50, start), 50, 0), None);
        let mut round = Round::begin(1_000, start);
        assert_eq!(left(&mut round, 500, 3), Some(22));
        assert_eq!(left(&mut round, 10, 6), Some(6));
        assert_eq!(left(&mut round, 0, 11), Some(1));
        assert_eq!(left(&mut round, 0, 12), None);
        assert_eq!(left(&mut round, 0, 13), None);
        // Who does not run in time is not waited for.
        let mut round = Round::begin(1_000, start);
        assert_eq!(left(&mut round, 500, 25), Some(10));
        assert_eq!(left(&mut round, 500, 35), None);
    }

    #[tokio::test]
    async fn a_lagging_engine_catches_up_from_the_log_and_loses_nothing() {
        let settings = Settings { global_mark: 64 << 10, ..Settings::default() };
        let world = start(16 << 10, settings);
        let connection = world.subscriber();
        for _ in 0..3_000 {
            world.create();
        }
        // The queue is full: the engine waits, and says how far behind it is.
        wait(|| connection.outbox().queued_bytes() >= 64 << 10);
        std::thread::sleep(Duration::from_millis(20));
        assert!(connection.outbox().queued_bytes() < 128 << 10);
        assert!(world.tail.lag().0 > 0);
        let mut seen = 0;
        wait(|| {
            for frame in frames(&connection) {
                seen += 1;
                assert!(frame.contains(&format!(r#""objectId":"{seen}""#)), "{seen}: {frame}");
            }
            seen == 3_000
        });
        assert!(*world.log.read.lock().unwrap() > 0, "the tail was too short");
        wait(|| world.tail.lag() == (0, Duration::ZERO));
        world.live.stop();
    }

    #[tokio::test]
    async fn a_change_log_that_fails_is_tried_again_and_a_lost_one_ends_connections() {
        let settings = Settings { global_mark: 4 << 10, ..Settings::default() };
        let world = start(1 << 10, settings);
        let connection = world.subscriber();
        *world.log.failing.lock().unwrap() = Some(SourceError::Unavailable("disk".to_owned()));
        (0..100).for_each(|_| world.create());
        let mut seen = 0;
        wait(|| {
            seen += frames(&connection).len();
            seen == 100
        });
        *world.log.failing.lock().unwrap() = Some(SourceError::Gone);
        (0..100).for_each(|_| world.create());
        wait(|| {
            frames(&connection);
            connection.outbox().closing().is_some_and(|closing| closing.code == 1012)
        });
        wait(|| world.tail.lag() == (0, Duration::ZERO));
        world.live.stop();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_read_that_panics_is_an_error_for_its_client_alone() {
        let world = start(1 << 20, Settings::default());
        let connection = world.subscriber();
        connection.query(1);
        wait(|| frames(&connection).iter().any(|frame| frame.contains(r#""error":"Internal server error.","code":1"#)));
        world.create();
        wait(|| frames(&connection).iter().any(|frame| frame.contains("create")));
        world.live.stop();
    }
}
