//! The accept loop: who may connect, how long they may take, and how it ends.
//!
//! The first request's head is read here. An upgrade to a WebSocket is answered and handed to [`crate::ws`] on the bare
//! socket, which is several times cheaper per connection and per frame than upgrading inside an HTTP library; anything
//! else is replayed to hyper, with warp behind it. A proxy may upgrade a connection that served requests before: then
//! hyper gives the bare socket back.

mod deadlines;
mod head;
mod replay;

use crate::http::{Api, Peer};
use crate::live::LiveQueries;
use crate::ws::{self, Gate};
use bytes::Bytes;
use deadlines::{Deadlines, Phase};
use futures_util::future::{Either, ready};
use head::{Head, Opening};
use http_body_util::Limited;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use replay::Replay;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

/// The bounds of the accept loop.
#[derive(Clone, Debug)]
pub struct Limits {
    pub max_connections: usize,
    /// Per address; loopback is free.
    pub max_connections_per_address: usize,
    /// For the whole head of a request.
    pub head_timeout: Duration,
    /// Between two pieces of a body, or of an answer.
    pub progress_timeout: Duration,
    /// Between two requests of a connection.
    pub idle_timeout: Duration,
    /// Bytes of a request's body.
    pub max_body: usize,
    /// How long connections may take to finish when the server stops.
    pub drain_timeout: Duration,
}

/// What upgraded connections are given.
#[derive(Clone)]
pub struct Live {
    pub live: LiveQueries,
    pub gate: Arc<dyn Gate>,
    pub settings: Arc<ws::Settings>,
    /// Bytes of a frame from a client.
    pub max_frame: usize,
}

/// How long to wait before accepting again when the process has run out of file handles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `shutdown` becomes true, then lets connections finish.
pub async fn serve(listener: TcpListener, api: Api, live: Live, limits: Limits, mut shutdown: watch::Receiver<bool>) {
    let limits = Arc::new(limits);
    let open = Arc::new(Open::default());
    // Live connections end after the requests under way: their events are still to be told.
    let (close_live, live_shutdown) = watch::channel(false);
    // Each connection holds a sender until it ends, or turns out to be a live one.
    let (request_guard, mut requests_done) = mpsc::channel::<()>(1);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.wait_for(|stop| *stop) => break,
        };
        // Forget connections that have ended, so that the set stays as small as what is open.
        while connections.try_join_next().is_some() {}
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections for a moment");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = open.take(peer.ip(), &limits) else {
            metrics::counter!("tidings_connections_refused_total").increment(1);
            continue;
        };
        let (api, live, limits) = (api.clone(), live.clone(), limits.clone());
        let stop = Stop { requests: shutdown.clone(), live: live_shutdown.clone(), guard: request_guard.clone() };
        connections.spawn(async move {
            let _place = place;
            connection(stream, peer, api, live, &limits, stop).await;
        });
    }
    drop(listener);
    drop(request_guard);
    api.begin_draining();
    let drained = tokio::time::timeout(limits.drain_timeout, async {
        let _ = tokio::time::timeout(limits.drain_timeout / 2, requests_done.recv()).await;
        let _ = close_live.send(true);
        while connections.join_next().await.is_some() {}
    });
    if drained.await.is_err() {
        tracing::warn!(left = connections.len(), "some connections did not finish in time");
    }
}

/// How one connection learns that the server stops.
struct Stop {
    requests: watch::Receiver<bool>,
    /// Turns true later: when the requests under way are answered.
    live: watch::Receiver<bool>,
    guard: mpsc::Sender<()>,
}

async fn connection(mut stream: TcpStream, peer: SocketAddr, api: Api, live: Live, limits: &Limits, stop: Stop) {
    let Stop { requests: mut shutdown, live: live_shutdown, guard } = stop;
    let _ = stream.set_nodelay(true);
    let opening = tokio::select! {
        opening = tokio::time::timeout(limits.head_timeout, Head::read(&mut stream)) => opening,
        _ = shutdown.wait_for(|stop| *stop) => return,
    };
    let upgraded = match opening {
        // Nothing came, or too slowly.
        Err(_) | Ok(Opening::Closed) => None,
        Ok(Opening::Http { read }) => http(Replay::new(read, stream), peer, api, limits, shutdown).await,
        Ok(Opening::Malformed { answer }) => {
            let _ = stream.write_all(&answer).await;
            None
        }
        Ok(Opening::WebSocket { answer, read }) => stream.write_all(&answer).await.is_ok().then_some((stream, read)),
    };
    if let Some((stream, read)) = upgraded {
        drop(guard);
        let config = ws::websocket_config(live.max_frame);
        let socket = WebSocketStream::from_partially_read(stream, read, Role::Server, Some(config)).await;
        ws::serve(socket, peer, live.live, live.gate, live.settings, live_shutdown).await;
    }
}

type HttpStream = TokioIo<Deadlines<Replay<TcpStream>>>;

/// Serves requests until the connection ends, or one of them upgrades it: then what is left of it, and what came behind
/// the upgrade.
async fn http(
    stream: Replay<TcpStream>,
    peer: SocketAddr,
    api: Api,
    limits: &Limits,
    mut shutdown: watch::Receiver<bool>,
) -> Option<(TcpStream, Vec<u8>)> {
    let phase = Arc::new(Phase::default());
    let stream = Deadlines::new(stream, phase.clone(), limits);
    let max_body = limits.max_body;
    let routes = TowerToHyperService::new(warp::service(api.filter()));
    let upgrade = Arc::new(Mutex::new(None));
    let upgraded = upgrade.clone();
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        phase.begin_request();
        let mut request = request.map(|body| Limited::new(body, max_body));
        request.extensions_mut().insert(Peer(peer.ip()));
        let handshake = head::handshake(&request);
        if matches!(handshake, Some(Ok(_))) {
            *upgraded.lock().unwrap_or_else(PoisonError::into_inner) = Some(hyper::upgrade::on(&mut request));
        }
        let answer = match handshake {
            None => Either::Left(hyper::service::Service::call(&routes, request)),
            Some(Ok(accepted)) => Either::Right(ready(Ok(accepted.map(|()| Bytes::new().into())))),
            Some(Err(refusal)) => Either::Right(ready(Ok(refusal.map(|text| Bytes::from(text).into())))),
        };
        let phase = phase.clone();
        async move {
            let answer = answer.await;
            phase.end_request();
            answer
        }
    });
    let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
    {
        tokio::pin!(serving);
        let is_stopping = tokio::select! {
            // An error here is the client's: it went away, was too slow, or does not speak HTTP.
            _ = serving.as_mut() => false,
            _ = shutdown.wait_for(|stop| *stop) => true,
        };
        if is_stopping {
            serving.as_mut().graceful_shutdown();
            let _ = serving.await;
        }
    }
    let upgrade = upgrade.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    let parts = upgrade.await.ok()?.downcast::<HttpStream>().ok()?;
    let (stream, rest) = parts.io.into_inner().into_inner().into_inner();
    Some((stream, [&parts.read_buf[..], &rest].concat()))
}

/// How many connections are open, in all and per address.
#[derive(Default)]
struct Open {
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Open {
    /// A place for one connection, unless there is none left.
    fn take(self: &Arc<Self>, address: IpAddr, limits: &Limits) -> Option<Place> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = !address.to_canonical().is_loopback();
        let here = counts.by_address.get(&address).copied().unwrap_or_default();
        if counts.all >= limits.max_connections || counted && here >= limits.max_connections_per_address {
            return None;
        }
        counts.all += 1;
        if counted {
            counts.by_address.insert(address, here + 1);
        }
        metrics::gauge!("tidings_connections").set(counts.all as f64);
        Some(Place { open: self.clone(), address, counted })
    }
}

/// Given back when the connection ends.
struct Place {
    open: Arc<Open>,
    address: IpAddr,
    counted: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.open.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        metrics::gauge!("tidings_connections").set(counts.all as f64);
        if self.counted
            && let Some(here) = counts.by_address.get_mut(&self.address)
        {
            *here -= 1;
            if *here == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let limits = Limits {
            max_connections: 3,
            max_connections_per_address: 1,
            head_timeout: Duration::ZERO,
            progress_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            max_body: 0,
            drain_timeout: Duration::ZERO,
        };
        let open = Arc::new(Open::default());
        let (near, far) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([10, 0, 0, 1]));
        let first = open.take(far, &limits);
        assert!(first.is_some() && open.take(far, &limits).is_none());
        let others = [open.take(near, &limits), open.take(near, &limits)];
        assert!(others.iter().all(Option::is_some) && open.take(near, &limits).is_none());
        drop(first);
        assert!(open.take(far, &limits).is_some());
    }
}
