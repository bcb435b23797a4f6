//! Who may connect and subscribe: asked by the connection's task, answered by the objects.

use crate::live::{Answer, NewSubscription};
use std::net::IpAddr;
use std::sync::Arc;
use tidings_protocol::Error;
use tidings_protocol::live::{Connect, Subscribe};

pub trait Gate: Send + Sync + 'static {
    /// Whether this client may connect; who it then is.
    ///
    /// # Errors
    /// Code 4 for keys that are not valid. The client is told and disconnected.
    fn connect(&self, connect: Connect, address: IpAddr) -> Answer<Result<Arc<dyn Guest>, Error>>;
}

/// A client that was let in.
pub trait Guest: Send + Sync + 'static {
    /// Whether it may subscribe so: the subscription as it then is, with the identity that it stands on.
    ///
    /// # Errors
    /// Why not; the client is told, and the connection goes on.
    fn subscribe(self: Arc<Self>, subscribe: Subscribe) -> Answer<Result<NewSubscription, Error>>;
}
