//! LiveQuery load: fan-out, selectivity of subscriptions, idle connections.

use crate::api::{Auth, AuthMode, Message, Target, pointer, text};
use crate::http::{Client, Req};
use crate::proc::{Sample, rss_kib, rss_mib};
use crate::rest::Pace;
use crate::setup::{State, conversation_pointer, fake_conversation};
use crate::stats::{Errors, Latency, now_us, round, to_us};
use crate::{Acl, Run};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use futures_util::{SinkExt, StreamExt, stream};
use memchr::memmem;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

#[derive(Args, Clone)]
pub struct FanoutOpts {
    /// Subscribers, each on its own connection
    #[arg(long, short = 'k', default_value_t = 100)]
    subs: usize,
    #[arg(long, short = 'p', default_value_t = 1)]
    writers: usize,
    #[arg(long, value_enum, default_value = "none")]
    acl: Acl,
    #[command(flatten)]
    common: LiveOpts,
}

#[derive(Args, Clone)]
pub struct SelectivityOpts {
    /// Subscriptions
    #[arg(long, short = 'm', default_value_t = 1000)]
    subs: usize,
    /// Connections they are spread over
    #[arg(long, short = 'w', default_value_t = 100)]
    sockets: usize,
    #[arg(long, short = 'p', default_value_t = 4)]
    writers: usize,
    #[arg(long, value_enum, default_value = "eq")]
    predicate: Predicate,
    /// Write messages that match no subscription
    #[arg(long)]
    no_match: bool,
    #[command(flatten)]
    common: LiveOpts,
}

#[derive(Args, Clone)]
pub struct IdleOpts {
    #[arg(long, short = 'n', default_value_t = 1000)]
    conns: usize,
    /// All connections subscribe to the same query instead of one each
    #[arg(long)]
    same: bool,
    /// Seconds between the last subscription and the memory reading
    #[arg(long, default_value_t = 3.0)]
    settle: f64,
    #[command(flatten)]
    common: LiveOpts,
}

#[derive(Args, Clone)]
struct LiveOpts {
    /// Subscribe with the users' session tokens
    #[arg(long)]
    sub_sessions: bool,
    /// Give up on outstanding events when none came for this many seconds
    #[arg(long, default_value_t = 5.0)]
    drain: f64,
    /// Connections being opened at a time
    #[arg(long, default_value_t = 32)]
    opening: usize,
}

#[derive(Clone, Copy, PartialEq, Debug, ValueEnum)]
enum Predicate {
    /// conversation = P
    Eq,
    /// conversation = P and rank > 0
    EqGt,
    /// low < rank < high, disjoint intervals
    Range,
    /// rank > n for n = 0, 1, ...; only the first matches
    Gt,
    /// conversation in 10 pointers, disjoint lists
    In,
    /// text matches ^prefix
    Regex,
    /// the array participants contains a string
    Contains,
    /// the array participantPtrs contains a pointer
    ContainsPtr,
}

impl Predicate {
    const IN_LEN: usize = 10;

    /// The where clause of subscription `i`.
    fn clause(self, i: usize) -> String {
        match self {
            Self::Eq => format!(r#"{{"conversation":{}}}"#, conversation_pointer(i)),
            Self::EqGt => format!(r#"{{"conversation":{},"rank":{{"$gt":0}}}}"#, conversation_pointer(i)),
            Self::Range => format!(r#"{{"rank":{{"$gt":{},"$lt":{}}}}}"#, 10 * i, 10 * i + 10),
            Self::Gt => format!(r#"{{"rank":{{"$gt":{i}}}}}"#),
            Self::In => {
                let list: Vec<_> = (0..Self::IN_LEN).map(|j| conversation_pointer(i * Self::IN_LEN + j)).collect();
                format!(r#"{{"conversation":{{"$in":[{}]}}}}"#, list.join(","))
            }
            Self::Regex => format!(r#"{{"text":{{"$regex":"^lg{i}-"}}}}"#),
            Self::Contains => format!(r#"{{"participants":"u{i}"}}"#),
            Self::ContainsPtr => format!(r#"{{"participantPtrs":{}}}"#, pointer("_User", &format!("u{i}"))),
        }
    }

    /// Conversation, text prefix and extra members of a message that matches subscription `i` alone,
    /// or none when `i` is past the last one.
    fn message(self, i: usize, rng: &mut fastrand::Rng) -> (String, String, String) {
        let conversation = match self {
            Self::In => fake_conversation(i * Self::IN_LEN + rng.usize(..Self::IN_LEN)),
            _ => fake_conversation(i),
        };
        let prefix = if self == Self::Regex { format!("lg{i}-") } else { String::new() };
        let extra = match self {
            Self::EqGt => r#","rank":1"#.to_owned(),
            Self::Range => format!(r#","rank":{}"#, 10 * i + 5),
            Self::Gt => format!(r#","rank":{}"#, if i == 0 { 0.5 } else { 0.0 }),
            Self::Contains => format!(r#","participants":["x1","x2","u{i}","x3"]"#),
            Self::ContainsPtr => {
                let users = ["x1", "x2", &format!("u{i}"), "x3"].map(|u| pointer("_User", u));
                format!(r#","participantPtrs":[{}]"#, users.join(","))
            }
            _ => String::new(),
        };
        (conversation, prefix, format!(r#"{extra},"lgTo":{i}"#))
    }
}

// ---------------------------------------------------------------- connections

type Socket = WebSocketStream<TcpStream>;

/// Opens connection `i` and performs the LiveQuery handshake.
async fn open(target: &Target, i: usize) -> Result<Socket> {
    let socket = TcpSocket::new_v4()?;
    // One source address has about 28,000 ports; loopback has many addresses.
    if target.ws_addr.ip().is_loopback() && i >= 20_000 {
        socket.bind(([127, 0, 0, (2 + i / 20_000) as u8], 0).into())?;
    }
    let stream = socket.connect(target.ws_addr).await.context("connect")?;
    stream.set_nodelay(true)?;
    let mut config = WebSocketConfig::default();
    config.read_buffer_size = 8 * 1024;
    config.write_buffer_size = 4 * 1024;
    let (mut ws, _) = client_async_with_config(&target.ws_url, stream, Some(config)).await.context("websocket handshake")?;
    send(&mut ws, json!({"op": "connect", "applicationId": target.app_id}).to_string()).await?;
    let reply = next_text(&mut ws).await?;
    if op_of(reply.as_bytes()) != b"connected" {
        bail!("connect was answered {reply}");
    }
    Ok(ws)
}

async fn send(ws: &mut Socket, text: String) -> Result<()> {
    ws.send(Frame::text(text)).await.context("websocket write")
}

async fn next_text(ws: &mut Socket) -> Result<String> {
    loop {
        match ws.next().await.context("websocket closed")?.context("websocket read")? {
            Frame::Text(text) => return Ok(text.as_str().to_owned()),
            Frame::Close(frame) => bail!("websocket closed by the server: {frame:?}"),
            _ => {}
        }
    }
}

/// Subscribes to `clauses` under the request ids 1, 2, ..., a few at a time.
async fn subscribe(ws: &mut Socket, session: Option<&str>, clauses: impl Iterator<Item = String>) -> Result<()> {
    const IN_FLIGHT: usize = 32;
    let mut waiting = 0;
    for (i, clause) in clauses.enumerate() {
        let token = session.map_or(String::new(), |s| format!(r#","sessionToken":"{s}""#));
        let id = i + 1;
        send(ws, format!(r#"{{"op":"subscribe","requestId":{id},"query":{{"className":"Message","where":{clause}}}{token}}}"#))
            .await?;
        waiting += 1;
        if waiting == IN_FLIGHT {
            confirm(ws).await?;
            waiting -= 1;
        }
    }
    for _ in 0..waiting {
        confirm(ws).await?;
    }
    Ok(())
}

async fn confirm(ws: &mut Socket) -> Result<()> {
    let reply = next_text(ws).await?;
    if op_of(reply.as_bytes()) != b"subscribed" {
        bail!("subscribe was answered {reply}");
    }
    Ok(())
}

/// Opens `n` connections, `opening` at a time, each with the subscriptions `clauses(i)`, and starts reading them.
/// With `per_socket`, subscription r of connection i is the global number i * per_socket + r.
async fn open_all<C, I>(
    run: &Run,
    n: usize,
    opts: &LiveOpts,
    shared: &Arc<Shared>,
    per_socket: Option<usize>,
    clauses: C,
) -> Result<Vec<Receiver>>
where
    C: Fn(usize) -> I + Copy,
    I: Iterator<Item = String>,
{
    let results: Vec<Result<Receiver>> = stream::iter(0..n)
        .map(|i| async move {
            let mut ws = open(&run.target, i).await?;
            let session = opts.sub_sessions.then(|| &*run.state.users[i % run.state.users.len()].session);
            subscribe(&mut ws, session, clauses(i)).await?;
            // Read at once: servers drop connections that do not answer pings.
            Ok(receive(ws, shared.clone(), i, per_socket.map(|p| (i * p) as u64)))
        })
        .buffered(opts.opening.max(1))
        .collect()
        .await;
    results.into_iter().collect()
}

// ---------------------------------------------------------------- events

fn op_of(frame: &[u8]) -> &[u8] {
    let value = after(frame, br#""op":"#).unwrap_or_default();
    let value = &value[value.iter().take_while(|b| **b == b'"').count()..];
    &value[..memchr::memchr(b'"', value).unwrap_or(value.len())]
}

/// What follows `"key":` and spaces.
fn after<'a>(frame: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let rest = &frame[memmem::find(frame, key)? + key.len()..];
    Some(&rest[rest.iter().take_while(|b| **b == b' ').count()..])
}

fn number(frame: &[u8], key: &[u8]) -> Option<u64> {
    let rest = after(frame, key)?;
    let end = rest.iter().position(|b| matches!(b, b',' | b'}' | b' ')).unwrap_or(rest.len());
    let digits = std::str::from_utf8(&rest[..end]).ok()?;
    digits.parse().ok().or_else(|| digits.parse::<f64>().ok().map(|x| x as u64))
}

/// A set of small integers.
#[derive(Default, Clone)]
struct Bits(Vec<u64>);

impl Bits {
    /// False when it was there already.
    fn insert(&mut self, i: u64) -> bool {
        let (word, bit) = (i as usize / 64, 1 << (i % 64));
        if self.0.len() <= word {
            self.0.resize((word + 1).next_power_of_two(), 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    fn len(&self) -> u64 {
        self.0.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    fn minus(&self, other: &Self) -> u64 {
        let other = other.0.iter().chain(std::iter::repeat(&0));
        self.0.iter().zip(other).map(|(a, b)| u64::from((a & !b).count_ones())).sum()
    }

    fn union(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }
}

/// What all receivers of a run share.
struct Shared {
    /// Messages sent before this are warm-up
    measured_us: AtomicU64,
    received: AtomicU64,
    shards: [Mutex<Shard>; 8],
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self { measured_us: AtomicU64::new(u64::MAX), received: AtomicU64::new(0), shards: Default::default() })
    }
}

#[derive(Default)]
struct Shard {
    latency: Latency,
    last_us: u64,
    bytes: u64,
    errors: Errors,
}

/// What one receiver saw.
#[derive(Default)]
struct Seen {
    seqs: Bits,
    last_seq: u64,
    duplicates: u64,
    reordered: u64,
    misdelivered: u64,
    closed: bool,
}

struct Receiver {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

/// Reads events from connection `index`, whose subscriptions are the global numbers `first..`
/// (`None`: the target of an event is not checked).
fn receive(mut ws: Socket, shared: Arc<Shared>, index: usize, first: Option<u64>) -> Receiver {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mine = seen.clone();
    let task = tokio::spawn(async move {
        let shard = &shared.shards[index % shared.shards.len()];
        loop {
            match ws.next().await {
                Some(Ok(Frame::Text(text))) => {
                    let frame = text.as_str().as_bytes();
                    let (Some(seq), Some(at)) = (number(frame, br#""lgSeq":"#), number(frame, br#""lgAt":"#)) else {
                        shard.lock().unwrap().errors.add(|| text.as_str().chars().take(300).collect());
                        continue;
                    };
                    let now = now_us();
                    let op = op_of(frame);
                    let mut seen = mine.lock().unwrap();
                    if op != b"create" {
                        shard.lock().unwrap().errors.add(|| format!("unexpected {}", String::from_utf8_lossy(op)));
                    }
                    if !seen.seqs.insert(seq) {
                        seen.duplicates += 1;
                    }
                    if seq < seen.last_seq {
                        seen.reordered += 1;
                    }
                    seen.last_seq = seq;
                    if let Some(first) = first {
                        let to = number(frame, br#""requestId":"#).map(|id| first + id - 1);
                        seen.misdelivered += u64::from(to != number(frame, br#""lgTo":"#));
                    }
                    if at >= shared.measured_us.load(Ordering::Relaxed) {
                        let mut shard = shard.lock().unwrap();
                        shard.latency.record_us(now.saturating_sub(at));
                        shard.last_us = now;
                        shard.bytes += frame.len() as u64;
                    }
                    shared.received.fetch_add(1, Ordering::Relaxed);
                }
                Some(Ok(Frame::Close(_)) | Err(_)) | None => {
                    mine.lock().unwrap().closed = true;
                    return;
                }
                Some(Ok(_)) => {} // a ping: the library answers
            }
        }
    });
    Receiver { seen, task }
}

// ---------------------------------------------------------------- writers

/// Writes one message: conversation, text and extra members for message number `seq`.
type Compose = dyn Fn(&mut fastrand::Rng) -> (String, String, String) + Send + Sync;

#[derive(Default)]
struct Written {
    acked: Bits,
    /// Sent, but the outcome is unknown or an error
    failed: HashSet<u64>,
    latency: Latency,
    count: u64,
    errors: Errors,
}

struct WriterCfg {
    target: Arc<Target>,
    state: Arc<State>,
    auth: AuthMode,
    text_len: usize,
    next_seq: AtomicU64,
    compose: Box<Compose>,
    measured: Instant,
    end: Instant,
}

async fn writer(cfg: Arc<WriterCfg>, index: usize, mut pace: Option<Pace>) -> Written {
    let (mut client, mut req) = (Client::new(cfg.target.clone()), Req::default());
    let mut rng = fastrand::Rng::with_seed(100 + index as u64);
    let mut out = Written::default();
    let user = &cfg.state.users[index % cfg.state.users.len()];
    loop {
        let due = match &mut pace {
            Some(pace) => pace.wait().await,
            None => Instant::now(),
        };
        if Instant::now() >= cfg.end {
            return out;
        }
        let auth = match cfg.auth {
            AuthMode::Session => Auth::Session(user.session.clone()),
            AuthMode::Master => Auth::Master,
            AuthMode::None => Auth::None,
        };
        req.reset("POST", "/classes/Message", auth);
        let (conversation, prefix, extra) = (cfg.compose)(&mut rng);
        let text = text(&mut rng, &prefix, cfg.text_len);
        let seq = cfg.next_seq.fetch_add(1, Ordering::Relaxed);
        let sent = Instant::now();
        Message { conversation: &conversation, sender: &user.id, text: &text, seq, at: to_us(sent), extra: &extra }
            .write(&mut req.body);
        let reply = client.send(&req).await;
        let done = Instant::now();
        match reply {
            Ok((200..=299, _)) => {
                out.acked.insert(seq);
                if sent >= cfg.measured {
                    out.latency.record(done - due);
                    out.count += 1;
                }
            }
            Ok((status, body)) => {
                out.failed.insert(seq);
                out.errors.http(status, body);
            }
            Err(e) => {
                out.failed.insert(seq);
                out.errors.add(|| format!("{e:#}"));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// The subscribers of a run and what each write must cause.
struct Audience {
    shared: Arc<Shared>,
    receivers: Vec<Receiver>,
    /// Every write reaches all receivers, else one of them
    to_all: bool,
    /// Events per acknowledged write
    per_write: u64,
    drain: f64,
}

/// Runs writers against open subscribers and accounts for every event.
async fn measure(run: &Run, audience: Audience, writers: usize, compose: Box<Compose>) -> Result<Value> {
    let Audience { shared, receivers, to_all, per_write, drain } = audience;
    let start = Instant::now();
    let measured = start + Duration::from_secs_f64(run.warmup);
    let end = measured + Duration::from_secs_f64(run.secs);
    shared.measured_us.store(to_us(measured), Ordering::Relaxed);
    let cfg = Arc::new(WriterCfg {
        target: run.target.clone(),
        state: run.state.clone(),
        auth: run.auth,
        text_len: run.text_len,
        next_seq: AtomicU64::new(1),
        compose,
        measured,
        end,
    });
    let tasks: Vec<_> =
        (0..writers).map(|i| tokio::spawn(writer(cfg.clone(), i, Pace::new(run.rate, i, writers, start)))).collect();
    tokio::time::sleep_until(measured.into()).await;
    let before = Sample::take(&run.watch);

    let mut written = Written::default();
    for task in tasks {
        let w = task.await?;
        written.acked.union(&w.acked);
        written.failed.extend(w.failed);
        written.latency.merge(&w.latency);
        written.count += w.count;
        written.errors.merge(w.errors);
    }
    let writes_end_us = now_us();
    let expected = written.acked.len() * per_write;
    let (mut last, mut idle_since) = (u64::MAX, Instant::now());
    loop {
        let received = shared.received.load(Ordering::Relaxed);
        if received >= expected || idle_since.elapsed().as_secs_f64() > drain {
            break;
        }
        if received != last {
            (last, idle_since) = (received, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let after = Sample::take(&run.watch);
    tokio::time::sleep(Duration::from_millis(200)).await; // duplicates would come now

    let mut total = Shard::default();
    for shard in &shared.shards {
        let shard = std::mem::take(&mut *shard.lock().unwrap());
        total.latency.merge(&shard.latency);
        total.last_us = total.last_us.max(shard.last_us);
        total.bytes += shard.bytes;
        total.errors.merge(shard.errors);
    }
    let (mut lost, mut duplicates, mut reordered, mut misdelivered, mut closed) = (0, 0, 0, 0, 0);
    let (mut union, mut distinct) = (Bits::default(), 0);
    for r in &receivers {
        r.task.abort();
        let seen = r.seen.lock().unwrap();
        duplicates += seen.duplicates;
        reordered += seen.reordered;
        misdelivered += seen.misdelivered;
        closed += u64::from(seen.closed);
        if to_all {
            lost += written.acked.minus(&seen.seqs);
        } else {
            distinct += seen.seqs.len();
            union.union(&seen.seqs);
        }
    }
    if !to_all {
        duplicates += distinct - union.len();
        lost = if per_write == 0 { 0 } else { written.acked.minus(&union) };
    }
    let measured_us = to_us(measured);
    let secs = (total.last_us.saturating_sub(measured_us) as f64 / 1e6).max(run.secs);
    let mut out = json!({
        "secs": run.secs, "rate": run.rate, "writers": writers, "writes": written.count,
        "writes_s": round(written.count as f64 / ((writes_end_us.saturating_sub(measured_us)) as f64 / 1e6), 1),
        "write_ms": written.latency.to_json(),
        "events": total.latency.count(), "events_s": round(total.latency.count() as f64 / secs, 1),
        "event_ms": total.latency.to_json(), "event_bytes_avg": total.bytes / total.latency.count().max(1),
        "lost": lost, "duplicates": duplicates, "misdelivered": misdelivered, "closed": closed,
        "behind_s": round(total.last_us.saturating_sub(writes_end_us) as f64 / 1e6, 2),
        "write_errors": written.errors.count, "write_error_samples": written.errors.samples,
        "frame_errors": total.errors.count, "frame_error_samples": total.errors.samples,
        "cpu": after.cores_since(&before), "cpu_us_per_write": after.us_per(&before, written.count),
        "cpu_us_per_event": after.us_per(&before, total.latency.count()), "rss_mib": rss_mib(&run.watch),
    });
    if writers == 1 {
        out["reordered"] = json!(reordered); // with several writers the order of acknowledgements is not that of `lgSeq`
    }
    Ok(out)
}

// ---------------------------------------------------------------- commands

/// Puts the results of `measure` after the parameters.
fn join(mut head: Value, tail: Value) -> Value {
    if let (Some(head), Value::Object(tail)) = (head.as_object_mut(), tail) {
        head.extend(tail);
    }
    head
}

pub async fn fanout(run: Run, opts: FanoutOpts) -> Result<Value> {
    let conversation = format!("f{}", now_us() % 1_000_000_000);
    let clause = format!(r#"{{"conversation":{}}}"#, pointer("Conversation", &conversation));
    let extra = match opts.acl {
        Acl::None => String::new(),
        Acl::Public => r#","ACL":{"*":{"read":true}}"#.to_owned(),
        Acl::Users => {
            let entries: Vec<_> = run.state.users.iter().map(|u| format!(r#""{}":{{"read":true}}"#, u.id)).collect();
            format!(r#","ACL":{{{}}}"#, entries.join(","))
        }
    };
    let begun = Instant::now();
    let shared = Shared::new();
    let receivers = open_all(&run, opts.subs, &opts.common, &shared, None, |_| std::iter::once(clause.clone())).await?;
    let head = json!({"cmd": "fanout", "subs": opts.subs, "subscribe_s": round(begun.elapsed().as_secs_f64(), 2)});
    let compose = Box::new(move |_: &mut fastrand::Rng| (conversation.clone(), String::new(), extra.clone()));
    let audience = Audience { shared, receivers, to_all: true, per_write: opts.subs as u64, drain: opts.common.drain };
    let tail = measure(&run, audience, opts.writers, compose).await?;
    Ok(join(head, tail))
}

pub async fn selectivity(run: Run, opts: SelectivityOpts) -> Result<Value> {
    let sockets = opts.sockets.min(opts.subs);
    let per_socket = opts.subs.div_ceil(sockets);
    let (total, predicate) = (opts.subs, opts.predicate);
    let rss_before = rss_mib(&run.watch);
    let begun = Instant::now();
    let shared = Shared::new();
    let receivers = open_all(&run, sockets, &opts.common, &shared, Some(per_socket), |i| {
        (i * per_socket..total.min((i + 1) * per_socket)).map(move |j| predicate.clause(j))
    })
    .await?;
    let head = json!({
        "cmd": "selectivity", "predicate": format!("{predicate:?}"), "no_match": opts.no_match, "subs": total, "sockets": sockets,
        "subscribe_s": round(begun.elapsed().as_secs_f64(), 2), "rss_before_mib": rss_before,
    });
    let no_match = opts.no_match;
    let compose = Box::new(move |rng: &mut fastrand::Rng| {
        let to = match predicate {
            _ if no_match => total + rng.usize(..total.max(1)),
            Predicate::Gt => 0,
            _ => rng.usize(..total),
        };
        predicate.message(to, rng)
    });
    let audience = Audience { shared, receivers, to_all: false, per_write: u64::from(!no_match), drain: opts.common.drain };
    let tail = measure(&run, audience, opts.writers, compose).await?;
    Ok(join(head, tail))
}

pub async fn idle(run: Run, opts: IdleOpts) -> Result<Value> {
    let server = run.watch.iter().find(|w| w.name == "server").context("idle needs --watch server=PID")?.pid;
    let before = rss_kib(server).context("no such process")?;
    let begun = Instant::now();
    let same = opts.same;
    let shared = Shared::new();
    let clauses = |i| std::iter::once(Predicate::Eq.clause(if same { 0 } else { i }));
    let receivers = open_all(&run, opts.conns, &opts.common, &shared, None, clauses).await?;
    let open_s = begun.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs_f64(opts.settle)).await;
    let after = rss_kib(server).context("the server is gone")?;
    let sample = Sample::take(&run.watch);
    tokio::time::sleep(Duration::from_secs_f64(run.secs)).await;
    let cpu = Sample::take(&run.watch).cores_since(&sample);
    let end = rss_kib(server).context("the server is gone")?;
    let closed = receivers.iter().filter(|r| r.seen.lock().unwrap().closed).count();
    receivers.iter().for_each(|r| r.task.abort());
    Ok(json!({
        "cmd": "idle", "conns": opts.conns, "same_query": same, "open_s": round(open_s, 2),
        "opens_s": round(opts.conns as f64 / open_s, 0), "closed": closed,
        "rss_before_kib": before, "rss_after_kib": after, "rss_end_kib": end,
        "kib_per_conn": round((after as f64 - before as f64) / opts.conns as f64, 2),
        "kib_per_conn_end": round((end as f64 - before as f64) / opts.conns as f64, 2),
        "cpu": cpu,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_fields() {
        let frame = br#"{"op":"create","clientId":"a","requestId":12,"object":{"lgSeq":7,"lgAt":1.79e15,"lgTo": 3}}"#;
        assert_eq!(op_of(frame), b"create");
        assert_eq!(number(frame, br#""requestId":"#), Some(12));
        assert_eq!(number(frame, br#""lgSeq":"#), Some(7));
        assert_eq!(number(frame, br#""lgAt":"#), Some(1_790_000_000_000_000));
        assert_eq!(number(frame, br#""lgTo":"#), Some(3));
        assert_eq!(number(frame, br#""none":"#), None);
    }

    #[test]
    fn bits() {
        let (mut a, mut b) = (Bits::default(), Bits::default());
        assert!(a.insert(3) && a.insert(200) && !a.insert(3));
        assert!(b.insert(200));
        assert_eq!((a.len(), a.minus(&b), b.minus(&a)), (2, 1, 0));
        b.union(&a);
        assert_eq!(b.len(), 2);
    }

    #[test]
    fn clauses_are_json() {
        for p in Predicate::value_variants() {
            serde_json::from_str::<Value>(&p.clause(12)).unwrap();
            let (_, _, extra) = p.message(12, &mut fastrand::Rng::with_seed(1));
            serde_json::from_str::<Value>(&format!(r#"{{"x":1{extra}}}"#)).unwrap();
        }
    }
}
