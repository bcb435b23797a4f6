//! How much memory the bodies of all requests take together.
//!
//! A body is read before its keys can be checked, as they may be in it. Each is bounded by the accept loop; this bounds
//! their sum, so that nobody fills the memory with connections that each send what one may send.

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The first bytes of each body need no room: small requests are always let in.
const FREE: usize = 64 << 10;
/// What all that is beyond takes together.
const ROOM: usize = 256 << 20;
/// How long a body may take as a whole, however steadily it comes: it keeps its room meanwhile.
const LONGEST: Duration = Duration::from_secs(300);

#[derive(Clone)]
pub(super) struct Bodies(Arc<Semaphore>);

/// A body, and the room that it takes until its request is answered.
pub(super) struct Body {
    pub(super) bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Unread {
    /// There is no room now; there will be when other requests are done.
    NoRoom,
    /// It broke off, took too long, or is too long.
    Broken,
}

impl warp::reject::Reject for Unread {}

impl Bodies {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(ROOM)))
    }

    /// Reads a body, taking room as its bytes come: what is only announced takes none.
    pub(super) async fn read<B: Buf, E>(self, body: impl Stream<Item = Result<B, E>>) -> Result<Body, Unread> {
        let read = tokio::time::timeout(LONGEST, self.collect(body));
        read.await.unwrap_or(Err(Unread::Broken))
    }

    async fn collect<B: Buf, E>(self, body: impl Stream<Item = Result<B, E>>) -> Result<Body, Unread> {
        let mut body = pin!(body);
        // Almost every body comes as one piece, and is not copied then.
        let (mut first, mut joined) = (Bytes::new(), BytesMut::new());
        let mut length = 0_usize;
        let mut room: Option<OwnedSemaphorePermit> = None;
        while let Some(piece) = body.next().await {
            let mut piece = piece.map_err(|_| Unread::Broken)?;
            let piece = piece.copy_to_bytes(piece.remaining());
            let beyond = (length + piece.len()).saturating_sub(FREE.max(length));
            if beyond > 0 {
                let more = self.take(beyond)?;
                match &mut room {
                    Some(room) => room.merge(more),
                    None => room = Some(more),
                }
            }
            if length == 0 {
                first = piece.clone();
            } else {
                if joined.is_empty() {
                    joined.extend_from_slice(&first);
                }
                joined.extend_from_slice(&piece);
            }
            length += piece.len();
        }
        let bytes = if joined.is_empty() { first } else { joined.freeze() };
        Ok(Body { bytes, _room: room })
    }

    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Unread> {
        let bytes = u32::try_from(bytes).map_err(|_| Unread::NoRoom)?;
        self.0.clone().try_acquire_many_owned(bytes).map_err(|_| {
            metrics::counter!("tidings_bodies_refused_total").increment(1);
            Unread::NoRoom
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    async fn read(bodies: &Bodies, pieces: &[usize]) -> Result<Body, Unread> {
        let pieces: Vec<_> = pieces.iter().map(|length| Ok::<_, ()>(Bytes::from(vec![b'x'; *length]))).collect();
        bodies.clone().read(stream::iter(pieces)).await
    }

    #[tokio::test]
    async fn large_bodies_share_one_room() {
        let bodies = Bodies::new();
        assert_eq!(read(&bodies, &[]).await.unwrap().bytes.len(), 0);
        assert_eq!(read(&bodies, &[10, 70_000, 5]).await.unwrap().bytes.len(), 70_015);
        let held = [read(&bodies, &[150 << 20]).await.unwrap(), read(&bodies, &[50 << 20, 50 << 20]).await.unwrap()];
        assert_eq!(read(&bodies, &[10 << 20]).await.err(), Some(Unread::NoRoom));
        assert_eq!(read(&bodies, &[FREE]).await.unwrap().bytes.len(), FREE, "small ones are let in");
        drop(held);
        assert!(read(&bodies, &[10 << 20]).await.is_ok());
    }
}
