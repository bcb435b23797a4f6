//! What a change costs the live queries, and how fast events leave through real sockets.
//!
//! `cargo bench --bench live` prints: nanoseconds per change that matches nothing, beside 1,000 and 100,000 distinct
//! equality subscriptions (and other kinds of filters); events per second to 1,000 connections with one query.
//! `cargo bench --bench live -- fanout 200` runs one part with that many connections.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidings_protocol::live::{Addressee, Connect, Subscribe};
use tidings_protocol::value::Map;
use tidings_protocol::{ClassName, Error, Object, ObjectId, Predicate};
use tidings_server::changes::{Change, ChangeSource, ChangeTail, Committed, ObjectChange, Position, SourceError};
use tidings_server::live::{Answer, Audience, Feed, LiveQueries, NewSubscription, Read, Reads, Settings};
use tidings_server::permissions::Principals;
use tidings_server::schema::Schemas;
use tidings_server::ws;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

struct Nothing;

impl Reads for Nothing {
    fn results(&self, read: Read) -> Answer<Result<(Position, Vec<Arc<Object>>), Error>> {
        Box::pin(async move { Ok((read.at_least, Vec::new())) })
    }

    fn ended_sessions(&self, _: Vec<ObjectId>) -> Answer<Result<Vec<ObjectId>, Error>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn schemas(&self) -> Schemas {
        Schemas::default()
    }
}

#[async_trait::async_trait]
impl ChangeSource for Nothing {
    async fn read_after(&self, _: Position, _: usize) -> Result<Vec<Arc<Committed>>, SourceError> {
        Err(SourceError::Unavailable("the tail of a benchmark is never short".to_owned()))
    }

    async fn newest(&self) -> Result<Position, SourceError> {
        Ok(0)
    }
}

struct Open;

impl ws::Gate for Open {
    fn connect(&self, _: Connect, _: IpAddr) -> Answer<Result<Arc<dyn ws::Guest>, Error>> {
        Box::pin(async { Ok(Arc::new(Self) as Arc<dyn ws::Guest>) })
    }
}

impl ws::Guest for Open {
    fn subscribe(self: Arc<Self>, subscribe: Subscribe) -> Answer<Result<NewSubscription, Error>> {
        let Subscribe { class, predicate, keys, watch, .. } = subscribe;
        let audience = Audience { principals: Principals::ANONYMOUS, session: None };
        Box::pin(async move { Ok(NewSubscription { class, predicate, keys, watch, audience, resume_from: None }) })
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let part = arguments.first().map_or("all", String::as_str);
    let connections = arguments.get(1).and_then(|count| count.parse().ok()).unwrap_or(1_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        if matches!(part, "all" | "match") {
            for kind in ["equality", "equality and range", "contains", "in 3", "or 2"] {
                for subscriptions in [1_000, 100_000] {
                    matching(kind, subscriptions).await;
                }
            }
        }
        if matches!(part, "all" | "fanout") {
            fan_out(connections).await;
        }
    });
}

fn start() -> (Arc<ChangeTail>, LiveQueries) {
    let tail = Arc::new(ChangeTail::new(0, 512 << 20));
    let feed = Feed { tail: tail.clone(), source: Arc::new(Nothing), timeline: "t".into() };
    let live = LiveQueries::start(feed, Arc::new(Nothing), Settings::default()).unwrap();
    (tail, live)
}

/// A message as the chat has it: some 450 bytes of event frame.
fn message(position: Position, room: &str) -> Arc<Committed> {
    let json = format!(
        r#"{{"conversation":{{"__type":"Pointer","className":"Conversation","objectId":"{room}"}},
        "sender":{{"__type":"Pointer","className":"_User","objectId":"abcdefghij"}},"rank":{position},
        "room":"{room}","members":["x1","x2","{room}"],"text":"{}"}}"#,
        "lorem ipsum ".repeat(8)
    );
    let object = Object {
        id: ObjectId::new(format!("m{position:09}")),
        fields: Map::from_json(json.as_bytes()).unwrap(),
        ..Object::default()
    };
    let change = ObjectChange {
        class: ClassName::from_trusted("Message"),
        id: object.id.clone(),
        before: None,
        after: Some(Arc::new(object)),
    };
    Arc::new(Committed { position, ordinal: 0, change: Change::Object(change) })
}

fn clause(kind: &str, n: usize) -> String {
    match kind {
        "equality" => format!(r#"{{"room":"r{n}"}}"#),
        "equality and range" => format!(r#"{{"room":"r{n}","rank":{{"$gt":5}}}}"#),
        "contains" => format!(r#"{{"members":"r{n}"}}"#),
        "in 3" => format!(r#"{{"room":{{"$in":["r{n}","s{n}","t{n}"]}}}}"#),
        _ => format!(r#"{{"$or":[{{"room":"r{n}"}},{{"members":"r{n}"}}]}}"#),
    }
}

async fn caught_up(tail: &ChangeTail) {
    while tail.lag().0 > 0 {
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

async fn matching(kind: &str, subscriptions: usize) {
    const CHANGES: u64 = 200_000;
    let (tail, live) = start();
    let mut connections = Vec::new();
    for n in 0..subscriptions {
        if n % 1_000 == 0 {
            connections.push(live.connect(Addressee { client_id: "c".into(), installation_id: None }));
        }
        let predicate = Predicate::from_map(&Map::from_json(clause(kind, n).as_bytes()).unwrap()).unwrap();
        let audience = Audience { principals: Principals::ANONYMOUS, session: None };
        let class = ClassName::from_trusted("Message");
        let new = NewSubscription { class, predicate, keys: None, watch: None, audience, resume_from: None };
        connections.last().unwrap().subscribe(n as i64, new, false);
    }
    let changes: Vec<_> =
        (1..=CHANGES).map(|position| message(position, &format!("none{}", position % 1_000))).collect();
    // Lets the engine take the subscriptions in first.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let started = Instant::now();
    for chunk in changes.chunks(256) {
        tail.push(chunk.iter().cloned());
    }
    caught_up(&tail).await;
    let nanos = started.elapsed().as_nanos() / u128::from(CHANGES);
    println!("{kind}, {subscriptions} distinct subscriptions: {nanos} ns per change that matches none");
    live.stop();
}

async fn fan_out(count: usize) {
    let (tail, live) = start();
    let listener = TcpSocket::new_v4().unwrap();
    listener.set_send_buffer_size(ws::SEND_BUFFER_BYTES).unwrap();
    listener.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listener = listener.listen(4_096).unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let (handle, settings) = (live.clone(), Arc::new(ws::Settings::default()));
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let (live, settings, stopped) = (handle.clone(), settings.clone(), stopped.clone());
            tokio::spawn(async move {
                let config = Some(ws::websocket_config(1 << 20));
                let socket = WebSocketStream::from_partially_read(stream, Vec::new(), Role::Server, config).await;
                ws::serve(socket, peer, live, Arc::new(Open), settings, stopped).await;
            });
        }
    });
    // Readers in threads of their own, as another program would be.
    let received = Arc::new(AtomicU64::new(0));
    let (ready, mut all_ready) = tokio::sync::mpsc::channel(count);
    let counter = received.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for _ in 0..count {
                let (counter, ready) = (counter.clone(), ready.clone());
                tokio::spawn(reader(address, counter, ready));
            }
            std::future::pending::<()>().await;
        });
    });
    for _ in 0..count {
        all_ready.recv().await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    for writers in [1, 4, 32] {
        let (from, started, cpu) = (received.load(Ordering::Relaxed), Instant::now(), cpu_seconds());
        let written = write(&tail, writers, Duration::from_secs(4)).await;
        let expected = from + written * count as u64;
        while received.load(Ordering::Relaxed) < expected && started.elapsed() < Duration::from_secs(30) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (events, seconds) = ((received.load(Ordering::Relaxed) - from) as f64, started.elapsed().as_secs_f64());
        println!(
            "{count} connections, {writers} writers: {:.0} events/s, {:.2} µs of CPU per event (server and readers), \
             {:.0} changes/s, {} lost",
            events / seconds,
            (cpu_seconds() - cpu) / events * 1e6,
            written as f64 / seconds,
            expected.saturating_sub(received.load(Ordering::Relaxed))
        );
    }
    live.stop();
}

/// Writers that each wait for their answer, over sockets of the same server: what they wait for is what delivery
/// leaves them of the machine. Returns how much was written.
async fn write(tail: &Arc<ChangeTail>, writers: usize, time: Duration) -> u64 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tail = tail.clone();
    let order = Arc::new(std::sync::Mutex::new(()));
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let (tail, order) = (tail.clone(), order.clone());
            tokio::spawn(async move {
                let mut byte = [0];
                while stream.read_exact(&mut byte).await.is_ok() {
                    while tail.lag().0 > 1 << 20 {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    let (tail, order) = (tail.clone(), order.clone());
                    // A durable commit, on a thread of its own.
                    let commit = tokio::task::spawn_blocking(move || {
                        std::thread::sleep(Duration::from_micros(300));
                        let _in_order = order.lock().unwrap();
                        tail.push([message(tail.position() + 1, "room")]);
                    });
                    commit.await.unwrap();
                    stream.write_all(&byte).await.unwrap();
                }
            });
        }
    });
    let clients = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let started = Instant::now();
            let clients: Vec<_> = (0..writers)
                .map(|_| {
                    tokio::spawn(async move {
                        let mut stream = TcpStream::connect(address).await.unwrap();
                        stream.set_nodelay(true).unwrap();
                        let (mut written, mut byte) = (0, [7]);
                        while started.elapsed() < time {
                            stream.write_all(&byte).await.unwrap();
                            stream.read_exact(&mut byte).await.unwrap();
                            written += 1;
                        }
                        written
                    })
                })
                .collect();
            let mut written: u64 = 0;
            for client in clients {
                written += client.await.unwrap();
            }
            written
        })
    });
    let written = tokio::task::spawn_blocking(move || clients.join().unwrap()).await.unwrap();
    serving.abort();
    written
}

/// User and system time of this process, from /proc.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}

/// A client that counts frames and does nothing else, so that the server is what is measured.
async fn reader(address: SocketAddr, events: Arc<AtomicU64>, ready: tokio::sync::mpsc::Sender<()>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let send = |text: &str| {
        // Masked with zeros: a text frame of less than 126 bytes, or with two bytes of length.
        let mut frame = vec![0x81];
        match text.len() {
            length @ 0..126 => frame.push(0x80 | length as u8),
            length => {
                frame.push(0x80 | 126);
                frame.extend((length as u16).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        frame
    };
    stream.write_all(&send(r#"{"op":"connect","applicationId":"app"}"#)).await.unwrap();
    let subscribe = r#"{"op":"subscribe","requestId":1,"query":{"className":"Message","where":{"room":"room"}}}"#;
    stream.write_all(&send(subscribe)).await.unwrap();
    let mut buffer = vec![0; 16 << 10];
    let mut scan = Scan::default();
    let mut frames = 0;
    loop {
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            return;
        }
        let texts = scan.count(&buffer[..read]);
        // `connected` and `subscribed` are no events.
        let before: u64 = frames;
        frames += texts;
        events.fetch_add(frames.saturating_sub(2) - before.saturating_sub(2), Ordering::Relaxed);
        if before < 2 && frames >= 2 {
            let _ = ready.send(()).await;
        }
    }
}

/// Counts whole text frames in a stream of bytes.
#[derive(Default)]
struct Scan {
    head: Vec<u8>,
    /// Bytes of the frame at hand that are still to come.
    rest: usize,
}

impl Scan {
    fn count(&mut self, mut bytes: &[u8]) -> u64 {
        let mut texts = 0;
        while !bytes.is_empty() {
            if self.rest > 0 {
                let skipped = self.rest.min(bytes.len());
                self.rest -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            self.head.push(bytes[0]);
            bytes = &bytes[1..];
            let length = match self.head.as_slice() {
                [_, length @ 0..126] => usize::from(*length),
                [_, 126, high, low] => usize::from(u16::from_be_bytes([*high, *low])),
                _ => continue,
            };
            texts += u64::from(self.head[0] & 0xf == 1);
            self.head.clear();
            self.rest = length;
        }
        texts
    }
}
