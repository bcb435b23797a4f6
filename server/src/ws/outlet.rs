//! Writing to one socket: what is queued leaves together, and a full socket is noticed.

use super::WRITE_BYTES;
use crate::live::{Millis, Outbox, Outgoing};
use bytes::{Bytes, BytesMut};
use futures_util::Sink;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::Context;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};

/// What is on its way from an outbox to its socket.
#[derive(Default)]
pub(super) struct Outlet {
    /// Ready to be written, in this order, before anything else.
    messages: VecDeque<Message>,
    taken: VecDeque<Outgoing>,
    scratch: BytesMut,
    /// The largest number that a written ping carried.
    pub(super) last_ping: u64,
    /// The socket did not take everything when it was last offered something.
    pub(super) is_blocked: bool,
}

/// What came of writing.
#[derive(Debug, PartialEq)]
pub(super) struct Written {
    /// A socket that was full has taken bytes: its client has acknowledged earlier ones.
    pub(super) unblocked: bool,
    /// Nothing is left to write.
    pub(super) is_empty: bool,
}

/// After so many bytes other tasks get their turn.
const TURN_BYTES: usize = 16 * WRITE_BYTES;
/// A frame longer than this goes out in fragments, because the socket's buffer keeps the size that it once had.
const FRAGMENT_FROM: usize = 4 * WRITE_BYTES;

impl Outlet {
    pub(super) fn push(&mut self, message: Message) {
        self.messages.push_back(message);
    }

    pub(super) fn push_frame(&mut self, frame: Bytes) {
        if frame.len() <= FRAGMENT_FROM {
            return self.messages.push_back(text(frame, Data::Text, true));
        }
        let mut rest = frame;
        let mut kind = Data::Text;
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(WRITE_BYTES));
            self.messages.push_back(text(part, kind, rest.is_empty()));
            kind = Data::Continue;
        }
    }

    /// Writes as much as the socket takes, in pieces of the socket's buffer.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut WebSocketStream<TcpStream>,
        outbox: Option<&Outbox>,
        now: Millis,
    ) -> Result<Written, Error> {
        let was_blocked = std::mem::take(&mut self.is_blocked);
        let mut socket = Pin::new(socket);
        let mut offered = 0;
        loop {
            if socket.as_mut().poll_ready(cx)?.is_pending() {
                self.is_blocked = true;
                break;
            }
            if offered >= TURN_BYTES {
                cx.waker().wake_by_ref();
                break;
            }
            let Some(message) = self.next(outbox, now) else {
                self.is_blocked = socket.as_mut().poll_flush(cx)?.is_pending();
                break;
            };
            offered += message.len();
            socket.as_mut().start_send(message)?;
        }
        let is_empty = !self.is_blocked && offered < TURN_BYTES;
        Ok(Written { unblocked: was_blocked && (!self.is_blocked || offered > 0), is_empty })
    }

    fn next(&mut self, outbox: Option<&Outbox>, now: Millis) -> Option<Message> {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Some(message);
            }
            let outbox = outbox?;
            if self.taken.is_empty() {
                outbox.take(WRITE_BYTES, &mut self.taken, now);
            }
            match outbox.compose(self.taken.pop_front()?, &mut self.scratch) {
                Ok(frame) => self.push_frame(frame),
                Err(number) => {
                    self.last_ping = number;
                    self.push(Message::Ping(number.to_string().into()));
                }
            }
        }
    }
}

/// A text frame without checking its UTF-8 again: we wrote it.
fn text(bytes: Bytes, kind: Data, is_final: bool) -> Message {
    Message::Frame(Frame::message(bytes, OpCode::Data(kind), is_final))
}
