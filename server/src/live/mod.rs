//! Live queries: who wants to hear of which changes, and what each of them is told.
//!
//! [`LiveQueries`] is the room's handle. One thread follows the committed changes and runs the engine, which is
//! synchronous and knows no socket, no store and no clock. Each connection has an [`Outbox`], a bounded queue that its
//! task in [`crate::ws`] empties.
//!
//! What subscribers may rely on (G1 to G5 of the design):
//!
//! - **Once, in order.** Each committed change is evaluated once against each subscription; events come in commit order;
//!   none is lost or doubled while the connection lives and its reader is not slow.
//! - **No gap at the start.** `subscribed` names a cursor; every change after it is delivered. A `result` is atomic with
//!   the stream: it holds exactly the changes before the events that follow it. After the first `subscribed` of a
//!   request id its events wait for a pong (or a second), because the SDK drops what comes in the same burst.
//! - **No gap on reconnect.** Each event, `subscribed`, `result` and checkpoint names a cursor. Who subscribes with one
//!   gets exactly the events behind it, and then the stream; or, where the change log does not tell them, fresh results.
//! - **Permissions as of the change.** ACLs are those of the images, class-level permissions and hidden fields those of
//!   the schema at that position. Who loses access gets a `leave` that shows nothing new; the subscriptions of a deleted
//!   session end with error 209.
//! - **Bounded.** Only a reader that is slower than the others is cut down: its events are coalesced, then replaced by
//!   fresh results, then it is disconnected. When delivery as a whole lags, the engine stops taking changes and falls
//!   behind on the change log, in bounded memory; nobody loses anything, and [`ChangeTail::lag`] tells the writers.
//!
//! In reading order: `transition` (which event), `predicate_index` (which filters), `class` (which subscriptions),
//! `engine` (all of it in order: subscriptions, results, sending), `outbox` and `delivery` (what may wait, and for whom), `turns` (who is woken when),
//! `follower` (the thread), `reads` (results), `replay` (what was missed).

mod class;
mod delivery;
mod engine;
mod event;
mod follower;
mod intervals;
mod outbox;
mod predicate_index;
mod prefix;
mod reads;
mod render;
mod replay;
mod slots;
mod transition;
mod turns;

pub use delivery::Settings;
pub use outbox::{Closing, Outbox, TOO_SLOW};
pub use reads::{Answer, Found, Read, Reads};

pub(crate) use delivery::Millis;
pub(crate) use outbox::{Outgoing, Verdict};

use crate::changes::{ChangeSource, ChangeTail, Cursor};
use crate::permissions::Principals;
use compact_str::CompactString;
use delivery::Delivery;
use engine::{Command, Prepared};
use follower::{Follower, Inbox};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use tidings_protocol::live::{Addressee, FrameError};
use tidings_protocol::{ClassName, ObjectId, Predicate};

/// Where the committed changes come from.
pub struct Feed {
    pub tail: Arc<ChangeTail>,
    pub source: Arc<dyn ChangeSource>,
    /// The timeline of the store: the first part of every cursor.
    pub timeline: CompactString,
}

/// All live queries of this process. Cheap to clone.
#[derive(Clone)]
pub struct LiveQueries(Arc<Shared>);

struct Shared {
    inbox: Arc<Inbox>,
    delivery: Arc<Delivery>,
    next_connection: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// One subscription as its client asked for it, checked.
#[derive(Clone, Debug)]
pub struct NewSubscription {
    pub class: ClassName,
    pub predicate: Predicate,
    /// The fields to show; `None` shows all.
    pub keys: Option<Vec<CompactString>>,
    /// `create` and `update` come only if one of these fields changed; `None` lets all come.
    pub watch: Option<Vec<CompactString>>,
    pub audience: Audience,
    /// The client has heard everything up to here.
    pub resume_from: Option<Cursor>,
}

/// Who gets the events.
#[derive(Clone, Debug, PartialEq)]
pub struct Audience {
    pub principals: Principals,
    /// The `_Session` object that the identity stands on: the subscription ends when it is deleted.
    pub session: Option<ObjectId>,
}

/// One live connection, as its task holds it. Dropping it ends all its subscriptions.
pub struct Connection {
    id: u64,
    outbox: Arc<Outbox>,
    live: LiveQueries,
}

impl LiveQueries {
    /// Starts the engine's thread, from the newest published change. Reads run on the current tokio runtime.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(feed: Feed, reads: Arc<dyn Reads>, settings: Settings) -> io::Result<Self> {
        let inbox = Arc::new(Inbox::default());
        let resume = inbox.clone();
        let delivery = Arc::new(Delivery::new(settings, Instant::now(), move || resume.wake()));
        let follower = Follower::new(feed, reads, delivery.clone(), inbox.clone());
        let thread = std::thread::Builder::new().name("live-queries".into()).spawn(move || follower.run())?;
        let thread = Mutex::new(Some(thread));
        Ok(Self(Arc::new(Shared { inbox, delivery, next_connection: AtomicU64::new(1), thread })))
    }

    /// Opens a connection. Its outbox is there at once; nothing is subscribed yet.
    pub fn connect(&self, addressee: Addressee) -> Connection {
        let id = self.0.next_connection.fetch_add(1, Ordering::Relaxed);
        let outbox = Arc::new(Outbox::new(addressee, self.0.delivery.clone()));
        self.0.inbox.push(Command::Connect { connection: id, outbox: outbox.clone() });
        Connection { id, outbox, live: self.clone() }
    }

    /// Ends the engine's thread and waits for it: a moment, as it never waits for anybody else.
    pub fn stop(&self) {
        self.0.inbox.stop();
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the live-query thread has panicked");
        }
    }

    /// The time as queues and fences count it.
    pub(crate) fn now(&self) -> Millis {
        self.0.delivery.millis(Instant::now())
    }
}

impl Connection {
    pub fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Subscribes under this request id, in place of what was there; `is_update` for the op `update`. The answer comes
    /// through the outbox.
    pub fn subscribe(&self, request_id: i64, new: NewSubscription, is_update: bool) {
        match Prepared::new(new) {
            Ok(new) => {
                self.command(Command::Subscribe { connection: self.id, request_id, new: Box::new(new), is_update });
            }
            Err(error) => {
                let frame = FrameError::new(error, Some(request_id)).to_json();
                self.outbox.push_frame(frame, self.live.now());
            }
        }
    }

    pub fn unsubscribe(&self, request_id: i64) {
        self.command(Command::Unsubscribe { connection: self.id, request_id });
    }

    /// Asks for the current results of a subscription.
    pub fn query(&self, request_id: i64) {
        self.command(Command::Query { connection: self.id, request_id });
    }

    /// The client wants to be told cursors also where nothing happens.
    pub(crate) fn want_checkpoints(&self) {
        self.live.0.inbox.push(Command::WantCheckpoints { connection: self.id });
    }

    /// The client has answered the ping with this number.
    pub(crate) fn pong(&self, number: u64) {
        self.live.0.inbox.push(Command::Pong { connection: self.id, number });
    }

    /// Tells how the socket took what it was offered just now.
    pub(crate) fn offered(&self, blocked: bool, now: Millis) -> Verdict {
        let verdict = self.outbox.offered(blocked, now);
        match verdict {
            Verdict::Unchanged => {}
            Verdict::BecameSlow => self.live.0.inbox.push(Command::BecameSlow { connection: self.id }),
            Verdict::CaughtUp => self.live.0.inbox.push(Command::CaughtUp { connection: self.id }),
        }
        verdict
    }

    fn command(&self, command: Command) {
        self.outbox.commanded();
        self.live.0.inbox.push(command);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.outbox.abandon();
        self.live.0.inbox.push(Command::Disconnect { connection: self.id });
    }
}

#[cfg(test)]
mod tests;
