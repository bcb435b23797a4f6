//! How much memory the bodies of all requests take together.
//!
//! A body is read before its keys can be checked, as they may be in it. Each is bounded by the accept loop; this bounds
//! their sum, so that nobody fills the memory with connections that each send what one may send.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warp::http::{HeaderMap, header};

/// Bodies up to here are as good as no body: they are always let in.
const SMALL: usize = 64 << 10;
/// What all others take together, in KiB.
const ROOM: usize = 256 << 10;

#[derive(Clone)]
pub(super) struct Bodies {
    room: Arc<Semaphore>,
    /// The bound of one body, for those that do not say how long they are.
    largest: usize,
}

/// There is no room now; there will be when other requests are done.
#[derive(Debug)]
pub(super) struct NoRoom;

impl warp::reject::Reject for NoRoom {}

impl Bodies {
    pub(super) fn new(largest: usize) -> Self {
        Self { room: Arc::new(Semaphore::new(ROOM)), largest }
    }

    /// Takes room for a body before it is read, to be given back with the answer. A small one needs none.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<Option<OwnedSemaphorePermit>, NoRoom> {
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let bytes = match announced {
            // What is longer is not read.
            Some(bytes) => self.largest.min(bytes),
            None if headers.contains_key(header::TRANSFER_ENCODING) => self.largest,
            None => 0,
        };
        if bytes <= SMALL {
            return Ok(None);
        }
        let room = u32::try_from((bytes >> 10).min(ROOM)).unwrap_or(u32::MAX);
        match self.room.clone().try_acquire_many_owned(room) {
            Ok(permit) => Ok(Some(permit)),
            Err(_) => {
                metrics::counter!("tidings_bodies_refused_total").increment(1);
                Err(NoRoom)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_bodies_share_one_room() {
        let bodies = Bodies::new(100 << 20);
        let headers = |name: header::HeaderName, value: String| HeaderMap::from_iter([(name, value.parse().unwrap())]);
        let of_length = |bytes: usize| headers(header::CONTENT_LENGTH, bytes.to_string());
        let chunked = headers(header::TRANSFER_ENCODING, "chunked".to_owned());
        let two = [bodies.admit(&of_length(90 << 20)), bodies.admit(&chunked)];
        assert!(two.iter().all(|one| one.as_ref().is_ok_and(Option::is_some)));
        assert!(bodies.admit(&of_length(90 << 20)).is_err());
        assert!(bodies.admit(&of_length(64 << 10)).unwrap().is_none(), "small ones are let in");
        assert!(bodies.admit(&HeaderMap::new()).unwrap().is_none());
        drop(two);
        assert!(bodies.admit(&of_length(90 << 20)).unwrap().is_some());
    }
}
