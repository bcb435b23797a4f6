//! What waits in an outbox.

use crate::live::delivery::Millis;
use crate::live::event::EventBody;
use bytes::Bytes;
use std::sync::Arc;

/// What a queued entry takes beside the bytes of its frame.
const ENTRY_BYTES: usize = 64;

/// One thing to send.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::live) enum Entry {
    Event {
        request_id: i64,
        body: Arc<EventBody>,
    },
    /// A whole frame with the results of a subscription; a resync replaces it.
    Result {
        request_id: i64,
        frame: Bytes,
    },
    /// A whole frame that says how far all subscriptions have heard, which is untrue once anything was dropped.
    Checkpoint(Bytes),
    /// Any other whole frame.
    Frame(Bytes),
    /// A WebSocket ping with this number; its pong acknowledges everything in front of it.
    Ping(u64),
}

impl Entry {
    /// Whether this is an event or a result of that subscription.
    pub(in crate::live) fn is_of(&self, id: i64) -> bool {
        matches!(self, Self::Event { request_id, .. } | Self::Result { request_id, .. } if *request_id == id)
    }

    pub(in crate::live) fn is_checkpoint(&self) -> bool {
        matches!(self, Self::Checkpoint(_))
    }

    /// Bytes that count against the bounds.
    pub(in crate::live) fn weight(&self) -> usize {
        ENTRY_BYTES
            + match self {
                Self::Event { body, .. } => body.tail().len(),
                Self::Result { frame, .. } | Self::Checkpoint(frame) | Self::Frame(frame) => frame.len(),
                Self::Ping(_) => 0,
            }
    }
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) since: Millis,
    pub(super) entry: Entry,
}
