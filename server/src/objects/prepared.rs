//! A write between its two halves: all that comes before its commit is done, and it knows what comes after.

use super::{Objects, Pending, now};
use crate::error::{Failure, Result};
use crate::storage::{Refused, Write, WriteError, Written};
use compact_str::CompactString;
use tidings_protocol::ObjectId;

/// What is to be committed, and what then.
pub(super) struct Prepared<A> {
    /// The object's own write first, then what is written beside it.
    pub writes: Vec<Write>,
    pub after: A,
}

/// What comes after the commit of a write.
pub(super) trait AfterCommit: Send + Sized + 'static {
    type Done: Send + 'static;

    /// The sessions that end once the write is done.
    fn ended_sessions(&self) -> Option<EndedSessions> {
        None
    }

    /// Whether there is more to do than to answer.
    fn has_more_to_do(&self, objects: &Objects) -> bool;

    /// Does what is left, and tells what the client is told. `written` is what the writes did.
    fn finish(self, objects: &Objects, written: Vec<Written>) -> impl Future<Output = Result<Self::Done>> + Send;

    /// What the client is told of a write that the store refused.
    fn refused(&self, error: WriteError) -> Failure;
}

/// The sessions of a user that end, all but one.
pub(super) struct EndedSessions {
    pub user: ObjectId,
    /// The token of the one that goes on.
    pub kept: Option<CompactString>,
}

impl<A> Prepared<A> {
    pub(super) fn new(own: Write, beside: Vec<Write>, after: A) -> Self {
        let mut writes = vec![own];
        writes.extend(beside);
        Self { writes, after }
    }

    /// The same with a wider idea of what comes after it.
    pub(super) fn map<B>(self, wider: impl FnOnce(A) -> B) -> Prepared<B> {
        Prepared { writes: self.writes, after: wider(self.after) }
    }
}

impl Objects {
    /// Commits a write, which has its place in the order when this returns, and finishes it.
    pub(super) async fn begin<A: AfterCommit>(&self, prepared: Prepared<A>) -> Pending<A::Done> {
        let Prepared { writes, after } = prepared;
        let committed = self.commit(writes).await;
        // Its place in the order is taken: whoever logged in before, by the old password, began before now.
        let at = now();
        let has_more_to_do = after.has_more_to_do(self);
        let objects = self.clone();
        let pending = Box::pin(async move {
            let written = match committed.await {
                Ok(written) => written,
                Err(Refused { error, .. }) => return Err(after.refused(error)),
            };
            if let Some(EndedSessions { user, kept }) = after.ended_sessions() {
                objects.end_sessions_until(&user, at, kept.as_deref()).await;
            }
            after.finish(&objects, written).await
        });
        carried_through(has_more_to_do, pending)
    }
}

/// A write that has more to do after its commit is carried through even if its client goes away meanwhile. Inside a hook
/// it stays on the hook's own thread, which waits for it anyway.
pub(super) fn carried_through<T: Send + 'static>(has_more_to_do: bool, pending: Pending<T>) -> Pending<T> {
    if !has_more_to_do || crate::hooks::is_nested() {
        return pending;
    }
    let running = tokio::spawn(pending);
    Box::pin(
        async move { running.await.unwrap_or_else(|error| Err(Failure::Internal(format!("a write's task: {error}")))) },
    )
}
