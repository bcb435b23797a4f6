//! A stream that ends when its peer is too slow: for a head, a body, an answer, or with the next request.

use super::Limits;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Where a connection stands, as the HTTP service tells its stream.
pub(super) struct Phase(AtomicU8);

/// The next head is awaited or being read.
const BETWEEN: u8 = 0;
/// A request's body is read, or its answer is made.
const REQUEST: u8 = 1;

impl Default for Phase {
    /// A connection begins in the middle of its first head, which was read before.
    fn default() -> Self {
        Self(AtomicU8::new(REQUEST))
    }
}

impl Phase {
    pub(super) fn begin_request(&self) {
        self.0.store(REQUEST, Ordering::Relaxed);
    }

    pub(super) fn end_request(&self) {
        self.0.store(BETWEEN, Ordering::Relaxed);
    }
}

pub(super) struct Deadlines<S> {
    stream: S,
    phase: std::sync::Arc<Phase>,
    head: Duration,
    progress: Duration,
    idle: Duration,
    reading: Timer,
    /// For what `reading` runs.
    awaited: Awaited,
    writing: Timer,
    /// Whether a part of the next head has come.
    in_head: bool,
}

/// What a peer may take its time for.
#[derive(Clone, Copy, PartialEq)]
enum Awaited {
    NextRequest,
    RestOfHead,
    /// Of a body, or, where nothing is asked of the peer, of the answer.
    Progress,
}

impl<S> Deadlines<S> {
    /// The stream without deadlines.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    pub(super) fn new(stream: S, phase: std::sync::Arc<Phase>, limits: &Limits) -> Self {
        Self {
            stream,
            phase,
            head: limits.head_timeout,
            progress: limits.progress_timeout,
            idle: limits.idle_timeout,
            reading: Timer::default(),
            awaited: Awaited::Progress,
            writing: Timer::default(),
            in_head: false,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Deadlines<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let between = this.phase.0.load(Ordering::Relaxed) == BETWEEN;
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(result) => {
                // The head's own time runs on from its first byte; everything else begins anew with each piece.
                let begins_head = between && !this.in_head && buf.filled().len() > before;
                if begins_head || !between {
                    this.reading.stop();
                }
                this.in_head = between;
                if begins_head {
                    this.awaited = Awaited::RestOfHead;
                    this.reading.start(this.head);
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                let (awaited, limit) = match (between, this.in_head) {
                    (true, true) => (Awaited::RestOfHead, this.head),
                    (true, false) => (Awaited::NextRequest, this.idle),
                    (false, _) => (Awaited::Progress, this.progress),
                };
                this.in_head &= between;
                // A request may have come whole, or been answered, since the last piece.
                if awaited != this.awaited {
                    this.awaited = awaited;
                    this.reading.stop();
                }
                this.reading.poll(limit, cx)
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Deadlines<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.after_write(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.after_write(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S> Deadlines<S> {
    fn after_write(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(written) => {
                self.writing.stop();
                // Who takes an answer piece by piece is not idle.
                if self.awaited != Awaited::RestOfHead {
                    self.reading.stop();
                }
                Poll::Ready(written)
            }
            Poll::Pending => match self.writing.poll(self.progress, cx) {
                Poll::Ready(timed_out) => Poll::Ready(timed_out.map(|()| 0)),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

/// A timer that is armed only while something is awaited.
#[derive(Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl Timer {
    fn start(&mut self, limit: Duration) {
        let at = Instant::now() + limit;
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(at),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(at))),
        }
        self.armed = true;
    }

    fn stop(&mut self) {
        self.armed = false;
    }

    /// Ready with an error once the time is over.
    fn poll(&mut self, limit: Duration, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.armed {
            self.start(limit);
        }
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    fn limits() -> Limits {
        Limits {
            max_connections: 1,
            max_connections_per_address: 1,
            head_timeout: Duration::from_secs(10),
            progress_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            max_body: 1,
            drain_timeout: Duration::ZERO,
        }
    }

    async fn seconds_until_timeout(stream: &mut Deadlines<tokio::io::DuplexStream>) -> u64 {
        let start = Instant::now();
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        start.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_has_its_own_patience() {
        let (mut near, far) = duplex(64);
        let phase = Arc::new(Phase::default());
        let mut stream = Deadlines::new(far, phase.clone(), &limits());
        assert_eq!(seconds_until_timeout(&mut stream).await, 30, "a body that stops");

        let (_near, far) = duplex(64);
        let mut stream = Deadlines::new(far, phase.clone(), &limits());
        phase.end_request();
        assert_eq!(seconds_until_timeout(&mut stream).await, 75, "no further request");

        let (mut near_too, far) = duplex(64);
        let mut stream = Deadlines::new(far, phase, &limits());
        near_too.write_all(b"GE").await.unwrap();
        stream.read_u16().await.unwrap();
        assert_eq!(seconds_until_timeout(&mut stream).await, 10, "a head that stops");
        near.write_all(b"x").await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_came_whole_is_not_timed_as_a_head() {
        let (mut near, far) = duplex(64);
        let phase = Arc::new(Phase::default());
        let mut stream = Deadlines::new(far, phase.clone(), &limits());
        phase.end_request();
        near.write_all(b"GE").await.unwrap();
        stream.read_u16().await.unwrap();
        phase.begin_request();
        let waiting = tokio::time::timeout(Duration::from_secs(25), stream.read_u8()).await;
        assert!(waiting.is_err(), "the answer takes its time: {waiting:?}");
        phase.end_request();
        assert_eq!(seconds_until_timeout(&mut stream).await, 75, "no further request");
    }
}
