//! One task per live connection: read its frames in order, write its outbox, stop.
//!
//! The task decides nothing about live queries: who may connect and subscribe is asked of a [`Gate`], everything else
//! goes to [`crate::live`]. It never holds more than one frame of a client, and reads no further one while that is
//! being answered, while the engine has many of its commands to do, or while the client does not read what it is sent.

mod gate;
mod outlet;
mod task;

pub use gate::{Gate, Guest};

use crate::live::LiveQueries;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Bounds of one live connection. The defaults are those of the design.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How often the client is pinged.
    pub ping: Duration,
    /// A connection that shows no sign of life for so long is dropped.
    pub alive: Duration,
    /// How long a client may take to send `connect`.
    pub handshake: Duration,
    /// How long what is queued is still written when the server stops.
    pub drain: Duration,
    /// How many frames that are not even JSON, or binary, are answered before the connection is closed.
    pub garbage: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ping: Duration::from_secs(10),
            alive: Duration::from_secs(30),
            handshake: Duration::from_secs(10),
            drain: Duration::from_secs(5),
            garbage: 3,
        }
    }
}

/// Bytes that are written to a socket at a time.
pub(crate) const WRITE_BYTES: usize = 16 << 10;

/// What a socket's kernel buffer should hold at most, for the listener to set (`TcpSocket::set_send_buffer_size`):
/// what is in there can be neither coalesced nor taken back, and there may be 50,000 of them.
pub const SEND_BUFFER_BYTES: u32 = 128 << 10;

/// The settings of the WebSocket itself: small buffers, because there are many connections.
pub fn websocket_config(max_frame: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4 << 10)
        .write_buffer_size(WRITE_BYTES)
        .max_frame_size(Some(max_frame))
        .max_message_size(Some(max_frame))
}

/// Serves one upgraded connection until either side ends it, or `shutdown` turns true.
pub async fn serve(
    socket: WebSocketStream<TcpStream>,
    peer: SocketAddr,
    live: LiveQueries,
    gate: Arc<dyn Gate>,
    settings: Arc<Settings>,
    shutdown: watch::Receiver<bool>,
) {
    task::Task::new(socket, peer.ip(), live, gate, settings, shutdown).run().await;
}

#[cfg(test)]
mod tests;
