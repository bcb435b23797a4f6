//! What the engine asks the store for: the objects of a subscription as of a position. What it asks of the change log is
//! in `replay`.
//!
//! The engine itself reads nothing. It gives out [`ReadRequest`]s; a task answers each through [`Reads`], which `app`
//! wires to the objects, and hands the whole `result` frame back.

use super::event::{EventBody, relations, write_cursor, write_object};
use crate::changes::{Cursor, Position};
use crate::permissions::Principals;
use crate::schema::{ClassSchema, Schemas};
use bytes::Bytes;
use compact_str::CompactString;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tidings_protocol::live::Addressee;
use tidings_protocol::{ClassName, Error, Object, ObjectId, Predicate};

/// What live queries need from the rooms that know the store.
pub trait Reads: Send + Sync + 'static {
    /// The objects that match and may be read, in their natural order, at most `limit`; from one state of the store
    /// that holds every change up to `at_least`, and the position of that state.
    fn results(&self, read: Read) -> Answer<Result<Found, Error>>;

    /// Those of these sessions that have ended, in a state that holds every published change.
    fn ended_sessions(&self, sessions: Vec<ObjectId>) -> Answer<Result<Vec<ObjectId>, Error>>;

    /// All classes, as new as the newest published change.
    fn schemas(&self) -> Schemas;
}

/// The position of a state of the store, and objects as they are in it.
pub type Found = (Position, Vec<Arc<Object>>);

pub type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

#[derive(Clone, Debug)]
pub struct Read {
    pub class: ClassName,
    pub predicate: Arc<Predicate>,
    pub principals: Principals,
    pub at_least: Position,
    pub limit: u64,
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    /// Names the request; an answer to an older one is not wanted any more.
    pub(super) token: u64,
    pub(super) connection: u64,
    pub(super) subscription: u32,
    /// Of the class when the request was made.
    pub(super) schema_version: u64,
}

/// A read that a subscription waits for.
#[derive(Clone, Debug)]
pub(super) struct ReadRequest {
    pub(super) ticket: Ticket,
    pub(super) read: Read,
    pub(super) timeline: CompactString,
    /// Whether the client is to be told that these results stand for events that it does not get.
    pub(super) is_resync: bool,
    pub(super) request_id: i64,
    pub(super) addressee: Addressee,
    pub(super) keys: Option<Arc<[CompactString]>>,
    pub(super) hidden: Arc<[CompactString]>,
    /// One object more is read, to tell whether there are more.
    pub(super) max_objects: usize,
    pub(super) max_bytes: usize,
}

/// The answer to a [`ReadRequest`] or a replay.
#[derive(Debug)]
pub(super) struct ReadAnswer {
    pub(super) ticket: Ticket,
    pub(super) outcome: Result<Reply, Error>,
}

#[derive(Debug)]
pub(super) enum Reply {
    /// The `result` frame, and the position of the state that was read.
    Results { position: Position, frame: Bytes },
    /// All events up to a position, in order.
    Missed { through: Position, events: Vec<Arc<EventBody>> },
    /// The log cannot tell what was missed.
    Untold,
}

impl ReadRequest {
    /// Writes the `result` frame. Rows beyond the bound of bytes are left out. `schema` is the class's, as far as this
    /// process has heard.
    pub(super) fn answer(&self, outcome: Result<Found, Error>, schema: Option<&ClassSchema>) -> ReadAnswer {
        let relations = relations(schema);
        let outcome = outcome.map(|(position, objects)| {
            let mut frame = self.addressee.head("result", Some(self.request_id));
            write_cursor(&Cursor::behind(self.timeline.clone(), position), &mut frame);
            if self.is_resync {
                frame.extend_from_slice(b",\"resync\":true");
            }
            frame.extend_from_slice(b",\"results\":[");
            let mut is_partial = false;
            for (at, object) in objects.iter().enumerate() {
                is_partial = at >= self.max_objects || frame.len() >= self.max_bytes;
                if is_partial {
                    break;
                }
                if at > 0 {
                    frame.push(b',');
                }
                let class = &self.read.class;
                let own = is_own_row(class, object, &self.read.principals);
                let hidden = if own { &[][..] } else { &self.hidden };
                write_object(class, object, &relations, self.keys.as_deref(), hidden, &mut frame);
            }
            frame.extend_from_slice(if is_partial { b"],\"partial\":true}" } else { b"]}" });
            Reply::Results { position, frame: frame.into() }
        });
        ReadAnswer { ticket: self.ticket, outcome }
    }
}

/// Nothing of a user's own row is hidden from them.
pub(super) fn is_own_row(class: &ClassName, object: &Object, principals: &Principals) -> bool {
    *class == ClassName::USER && principals.user.as_ref() == Some(&object.id)
}
