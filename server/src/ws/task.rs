//! The task of one live connection, polled as one state machine so that a single wake serves reading and writing.

use super::Settings;
use super::gate::{Gate, Guest};
use super::outlet::Outlet;
use crate::live::{Answer, Closing, Connection, LiveQueries, NewSubscription, Verdict};
use compact_str::CompactString;
use futures_util::Stream;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tidings_protocol::live::{Addressee, ClientFrame, FrameError};
use tidings_protocol::{Code, Error};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

pub(super) struct Task {
    socket: WebSocketStream<TcpStream>,
    outlet: Outlet,
    address: IpAddr,
    live: LiveQueries,
    gate: Arc<dyn Gate>,
    settings: Arc<Settings>,
    /// Ends when the server stops.
    shutdown: Answer<()>,
    /// From `connect` on.
    client: Option<Client>,
    /// What the gate is being asked; until it answers no further frame is read.
    asking: Option<Answer<Asked>>,
    phase: Phase,
    /// When the connection last showed that somebody is there.
    last_alive: Instant,
    /// When to ping next; before `connect`, when to give up.
    beat: Pin<Box<Sleep>>,
    /// Looks again at a socket that is full: nothing else might, while the engine waits for it.
    nudge: Option<Pin<Box<Sleep>>>,
    last_pong: u64,
    garbage: u32,
    /// What the client sent was no WebSocket frame; nothing more can be understood.
    is_broken: bool,
}

struct Client {
    connection: Connection,
    guest: Arc<dyn Guest>,
    /// As its outbox last said.
    is_slow: bool,
}

enum Asked {
    Connect { outcome: Result<Arc<dyn Guest>, Error>, installation_id: Option<CompactString>, checkpoints: bool },
    Subscribe { request_id: i64, is_update: bool, outcome: Result<NewSubscription, Error> },
}

enum Phase {
    Open,
    /// What is queued is still written, until the deadline; then the close frame.
    Draining(Closing, Instant),
    /// The close frame is sent, and the client may answer it for a while.
    Closing,
}

/// How long a client may take to answer our close frame.
const FAREWELL: Duration = Duration::from_secs(2);
/// Frames that are read before other tasks get their turn.
const TURN_FRAMES: usize = 32;
/// Queued bytes from which a client that does not read is not read either.
const DEAF_BYTES: usize = 256 << 10;
/// How often a full socket is looked at.
const NUDGE: Duration = Duration::from_millis(250);

const GOING_AWAY: Closing = Closing { code: 1001, reason: "The server is stopping" };
const REFUSED: Closing = Closing { code: 1008, reason: "See the error" };
const GARBAGE: Closing = Closing { code: 1003, reason: "Not a LiveQuery client" };
const NO_CONNECT: Closing = Closing { code: 1008, reason: "No connect frame came" };
const NOT_CHECKED: Closing = Closing { code: 1011, reason: "Cannot check who connects; reconnect" };

/// The connection is over.
struct Over;

impl From<SocketError> for Over {
    fn from(error: SocketError) -> Self {
        tracing::debug!(%error, "a live connection broke");
        Self
    }
}

impl Task {
    pub(super) fn new(
        socket: WebSocketStream<TcpStream>,
        address: IpAddr,
        live: LiveQueries,
        gate: Arc<dyn Gate>,
        settings: Arc<Settings>,
        mut shutdown: watch::Receiver<bool>,
    ) -> Self {
        let shutdown = Box::pin(async move {
            // An error says that nobody can stop us any more; then nobody does.
            if shutdown.wait_for(|stopped| *stopped).await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        let beat = Box::pin(sleep(settings.handshake));
        Self {
            socket,
            outlet: Outlet::default(),
            address,
            live,
            gate,
            settings,
            shutdown,
            client: None,
            asking: None,
            phase: Phase::Open,
            last_alive: Instant::now(),
            beat,
            nudge: None,
            last_pong: 0,
            garbage: 0,
            is_broken: false,
        }
    }

    pub(super) async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(client) = &self.client {
            // Before anything is taken, so that what comes afterwards wakes us.
            client.connection.outbox().attend(cx.waker());
        }
        match self.step(cx) {
            Ok(()) => Poll::Pending,
            Err(Over) => Poll::Ready(()),
        }
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Result<(), Over> {
        if matches!(self.phase, Phase::Open) && self.shutdown.as_mut().poll(cx).is_ready() {
            self.close(GOING_AWAY);
        }
        self.ask(cx);
        // Reading may produce answers, and writing may make room to read again.
        self.read(cx)?;
        self.write(cx)?;
        self.read(cx)?;
        self.keep_time(cx)
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Over> {
        let now = self.live.now();
        if matches!(self.phase, Phase::Closing) {
            // Only the close frame is left; its answer ends the connection.
            self.outlet.poll(cx, &mut self.socket, None, now)?;
            return Ok(());
        }
        let outbox = self.client.as_ref().map(|client| &**client.connection.outbox());
        let written = self.outlet.poll(cx, &mut self.socket, outbox, now)?;
        if written.unblocked {
            self.last_alive = Instant::now();
        }
        if let Some(client) = &mut self.client {
            if self.outlet.is_blocked || client.is_slow {
                match client.connection.offered(self.outlet.is_blocked, now) {
                    Verdict::Unchanged => {}
                    Verdict::BecameSlow => client.is_slow = true,
                    Verdict::CaughtUp => client.is_slow = false,
                }
            }
            if let Some(closing) = client.connection.outbox().closing() {
                self.close(closing);
            }
        }
        let is_slow = self.client.as_ref().is_some_and(|client| client.is_slow);
        if self.outlet.is_blocked && !is_slow && self.nudge.is_none() {
            self.nudge = Some(Box::pin(sleep(NUDGE)));
        }
        if let Phase::Draining(closing, deadline) = &self.phase
            && (written.is_empty || Instant::now() >= *deadline)
        {
            let frame = CloseFrame { code: closing.code.into(), reason: closing.reason.into() };
            metrics::counter!("tidings_live_closed_total", "code" => closing.code.to_string()).increment(1);
            // Events that come from now on have nowhere to go.
            self.client = None;
            self.asking = None;
            self.phase = Phase::Closing;
            self.beat = Box::pin(sleep(FAREWELL));
            self.outlet = Outlet::default();
            self.outlet.push(Message::Close(Some(frame)));
            self.outlet.poll(cx, &mut self.socket, None, now)?;
        }
        Ok(())
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), Over> {
        if self.is_broken && matches!(self.phase, Phase::Closing) {
            return self.discard(cx);
        }
        for _ in 0..TURN_FRAMES {
            if !self.may_read() {
                return Ok(());
            }
            let message = match Pin::new(&mut self.socket).poll_next(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => return Err(Over),
                Poll::Ready(Some(Ok(message))) => message,
                Poll::Ready(Some(Err(error))) => match close_for(&error) {
                    // Nothing more can be read, but the client may still be told why.
                    Some(closing) if matches!(self.phase, Phase::Open) => {
                        self.is_broken = true;
                        self.close(closing);
                        return Ok(());
                    }
                    _ => return Err(error.into()),
                },
            };
            self.last_alive = Instant::now();
            match message {
                Message::Text(text) if matches!(self.phase, Phase::Open) => self.frame(text.as_bytes()),
                Message::Binary(_) if matches!(self.phase, Phase::Open) => {
                    self.refuse_garbage("Binary frames are not understood");
                }
                Message::Pong(payload) => self.pong(&payload),
                // The library answers pings, and a close frame when it is read from again.
                Message::Text(_) | Message::Binary(_) | Message::Ping(_) | Message::Close(_) | Message::Frame(_) => {}
            }
            self.ask(cx);
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Reads bytes that mean nothing any more: closing a socket with unread bytes would take back what we sent last.
    fn discard(&mut self, cx: &mut Context<'_>) -> Result<(), Over> {
        let mut bytes = [0; 4_096];
        for _ in 0..TURN_FRAMES {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(self.socket.get_mut()).poll_read(cx, &mut buffer) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Err(Over),
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Frames are taken in order and one at a time, and only from a client that also listens.
    fn may_read(&self) -> bool {
        if self.asking.is_some() || self.is_broken || matches!(self.phase, Phase::Draining(..)) {
            return false;
        }
        self.client.as_ref().is_none_or(|client| {
            let outbox = client.connection.outbox();
            let is_deaf = self.outlet.is_blocked && outbox.queued_bytes() > DEAF_BYTES;
            !is_deaf && !outbox.has_many_unhandled()
        })
    }

    fn frame(&mut self, text: &[u8]) {
        let frame = match ClientFrame::parse(text) {
            Ok(frame) => frame,
            Err(error) if error.error.code == Code::InvalidJson && error.request_id.is_none() => {
                return self.refuse_garbage("A frame must be a JSON object");
            }
            Err(error) => return self.refuse(&error),
        };
        match (frame, &self.client) {
            (ClientFrame::Connect(connect), None) => {
                let (installation_id, checkpoints) = (connect.installation_id.clone(), connect.checkpoints);
                let answer = self.gate.connect(connect, self.address);
                self.asking =
                    Some(Box::pin(
                        async move { Asked::Connect { outcome: answer.await, installation_id, checkpoints } },
                    ));
            }
            (ClientFrame::Connect(_), Some(_)) => {
                let error = Error::new(Code::InternalServerError, "This connection is connected already");
                self.refuse(&FrameError::new(error, None));
            }
            (_, None) => {
                let error = Error::new(
                    Code::Custom(2),
                    "Can not find this client, make sure you connect to server before subscribing",
                );
                self.refuse(&FrameError { error, request_id: None, reconnect: true });
            }
            (ClientFrame::Subscribe { request_id, subscribe }, Some(client)) => {
                let answer = client.guest.clone().subscribe(subscribe);
                self.asking = Some(asked(request_id, false, answer));
            }
            (ClientFrame::Update { request_id, subscribe }, Some(client)) => {
                let answer = client.guest.clone().subscribe(subscribe);
                self.asking = Some(asked(request_id, true, answer));
            }
            (ClientFrame::Unsubscribe { request_id }, Some(client)) => client.connection.unsubscribe(request_id),
            (ClientFrame::Query { request_id }, Some(client)) => client.connection.query(request_id),
        }
    }

    /// Takes the gate's answer, if there is one.
    fn ask(&mut self, cx: &mut Context<'_>) {
        let Some(asking) = &mut self.asking else { return };
        let Poll::Ready(answer) = asking.as_mut().poll(cx) else { return };
        self.asking = None;
        match answer {
            Asked::Connect { outcome: Ok(guest), installation_id, checkpoints } => {
                let addressee = Addressee { client_id: new_client_id(), installation_id };
                let connected = addressee.plain("connected", None);
                let connection = self.live.connect(addressee);
                connection.outbox().attend(cx.waker());
                connection.outbox().push_frame(connected, self.live.now());
                if checkpoints {
                    connection.want_checkpoints();
                }
                self.client = Some(Client { connection, guest, is_slow: false });
                self.beat = Box::pin(sleep(self.settings.ping));
            }
            Asked::Connect { outcome: Err(error), .. } => {
                self.refuse(&FrameError { error, request_id: None, reconnect: true });
            }
            Asked::Subscribe { request_id, is_update, outcome } => match (outcome, &self.client) {
                (Ok(new), Some(client)) => client.connection.subscribe(request_id, new, is_update),
                (Err(error), _) => self.refuse(&FrameError::new(error, Some(request_id))),
                (Ok(_), None) => {}
            },
        }
    }

    /// Sends an error. A client that is told to reconnect would otherwise keep this connection as well.
    fn refuse(&mut self, error: &FrameError) {
        let frame = error.to_json();
        match &self.client {
            Some(client) => client.connection.outbox().push_frame(frame, self.live.now()),
            None => self.outlet.push_frame(frame.into()),
        }
        if error.reconnect {
            self.close(REFUSED);
        }
    }

    fn refuse_garbage(&mut self, message: &'static str) {
        self.refuse(&FrameError::new(Error::new(Code::InternalServerError, message), None));
        self.garbage += 1;
        if self.garbage >= self.settings.garbage {
            self.close(GARBAGE);
        }
    }

    /// Ends the connection once what is queued was written.
    fn close(&mut self, closing: Closing) {
        if matches!(self.phase, Phase::Open) {
            let deadline = Instant::now() + self.settings.drain;
            self.beat = Box::pin(sleep_until(deadline));
            self.phase = Phase::Draining(closing, deadline);
        }
    }

    fn pong(&mut self, payload: &[u8]) {
        let number = std::str::from_utf8(payload).ok().and_then(|text| text.parse::<u64>().ok());
        let Some(number) = number.filter(|number| (self.last_pong + 1..=self.outlet.last_ping).contains(number)) else {
            return;
        };
        self.last_pong = number;
        if let Some(client) = &self.client {
            client.connection.pong(number);
        }
    }

    fn keep_time(&mut self, cx: &mut Context<'_>) -> Result<(), Over> {
        if let Some(nudge) = &mut self.nudge
            && nudge.as_mut().poll(cx).is_ready()
        {
            self.nudge = None;
            if self.outlet.is_blocked {
                // The next poll offers again what is left.
                cx.waker().wake_by_ref();
            }
        }
        while self.beat.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            match &self.phase {
                Phase::Closing => return Err(Over),
                Phase::Draining(..) => {
                    // The deadline is handled where it is written.
                    self.beat = Box::pin(sleep(FAREWELL));
                    self.write(cx)?;
                }
                Phase::Open if self.client.is_none() => {
                    self.close(if self.asking.is_some() { NOT_CHECKED } else { NO_CONNECT });
                    self.write(cx)?;
                }
                Phase::Open => {
                    if now.duration_since(self.last_alive) >= self.settings.alive {
                        metrics::counter!("tidings_live_terminated_total").increment(1);
                        return Err(Over);
                    }
                    self.beat.as_mut().reset(now + self.settings.ping);
                    // Behind a full socket a ping would only be one more thing to wait for.
                    if !self.outlet.is_blocked {
                        self.outlet.push(Message::Ping(bytes::Bytes::new()));
                        self.write(cx)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn asked(request_id: i64, is_update: bool, answer: Answer<Result<NewSubscription, Error>>) -> Answer<Asked> {
    Box::pin(async move { Asked::Subscribe { request_id, is_update, outcome: answer.await } })
}

/// How to tell a client what was wrong with its bytes; `None` when there is nobody to tell.
fn close_for(error: &SocketError) -> Option<Closing> {
    let (code, reason) = match error {
        SocketError::Capacity(_) => (1009, "The frame is too big"),
        SocketError::Utf8(_) => (1007, "A text frame must be UTF-8"),
        SocketError::Protocol(problem) => match problem {
            tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake => return None,
            _ => (1002, "Not the WebSocket protocol"),
        },
        _ => return None,
    };
    Some(Closing { code, reason })
}

/// A random UUID: Parse clients get one, and some read it as such.
fn new_client_id() -> CompactString {
    let bits: u128 = rand::random();
    // The fixed bits say: version 4, variant 1.
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    compact_str::format_compact!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
