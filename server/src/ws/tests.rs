//! Over real loopback sockets, with a gate and a store that are fakes.

use super::*;
use crate::changes::{Change, ChangeTail, Committed, Cursor, ObjectChange, Position, SourceError};
use crate::live::{self, Answer, Audience, Feed, NewSubscription, Read, Reads};
use crate::permissions::Principals;
use crate::schema::Schemas;
use futures_util::{SinkExt, StreamExt};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Mutex;
use tidings_protocol::live::{Connect, Subscribe};
use tidings_protocol::value::Map;
use tidings_protocol::{ClassName, Code, Error, Object, ObjectId};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Lets everybody in who does not say otherwise, and answers reads from a list of objects.
#[derive(Default)]
struct World {
    /// How long the gate thinks about each subscription.
    think: Mutex<VecDeque<Duration>>,
    rows: Mutex<(Position, Vec<Arc<Object>>)>,
}

struct FakeGate(Arc<World>);
struct FakeGuest(Arc<World>);

impl Gate for FakeGate {
    fn connect(&self, connect: Connect, _: IpAddr) -> Answer<Result<Arc<dyn Guest>, Error>> {
        let world = self.0.clone();
        Box::pin(async move {
            if connect.application_id != "app" {
                return Err(Error::new(Code::Custom(4), "Key in request is not valid"));
            }
            Ok(Arc::new(FakeGuest(world)) as Arc<dyn Guest>)
        })
    }
}

impl Guest for FakeGuest {
    fn subscribe(self: Arc<Self>, subscribe: Subscribe) -> Answer<Result<NewSubscription, Error>> {
        Box::pin(async move {
            let think = self.0.think.lock().unwrap().pop_front();
            if let Some(think) = think {
                tokio::time::sleep(think).await;
            }
            let Subscribe { class, predicate, keys, watch, session_token, resume_from } = subscribe;
            let resume_from = resume_from.as_deref().and_then(Cursor::parse);
            if session_token.as_deref() == Some("dead") {
                return Err(Error::new(Code::InvalidSessionToken, "Invalid session token"));
            }
            let audience = Audience { principals: Principals::ANONYMOUS, session: session_token.map(ObjectId::new) };
            Ok(NewSubscription { class, predicate, keys, watch, audience, resume_from })
        })
    }
}

struct FakeReads(Arc<World>);

impl Reads for FakeReads {
    fn results(&self, _: Read) -> Answer<Result<(Position, Vec<Arc<Object>>), Error>> {
        let rows = self.0.rows.lock().unwrap().clone();
        Box::pin(async move { Ok(rows) })
    }

    fn ended_sessions(&self, sessions: Vec<ObjectId>) -> Answer<Result<Vec<ObjectId>, Error>> {
        Box::pin(async move { Ok(sessions) })
    }

    fn schemas(&self) -> Schemas {
        Schemas::default()
    }
}

struct NoLog;

#[async_trait::async_trait]
impl crate::changes::ChangeSource for NoLog {
    async fn read_after(&self, _: Position, _: usize) -> Result<Vec<Arc<Committed>>, SourceError> {
        Err(SourceError::Unavailable("a test".to_owned()))
    }

    async fn newest(&self) -> Result<Position, SourceError> {
        Err(SourceError::Unavailable("a test".to_owned()))
    }
}

struct Server {
    address: SocketAddr,
    tail: Arc<ChangeTail>,
    live: LiveQueries,
    world: Arc<World>,
    stop: watch::Sender<bool>,
}

impl Server {
    async fn start(live_settings: live::Settings, settings: Settings) -> Self {
        let world = Arc::new(World::default());
        let tail = Arc::new(ChangeTail::new(0, 256 << 20));
        let feed = Feed { tail: tail.clone(), source: Arc::new(NoLog), timeline: "t".into() };
        let live = LiveQueries::start(feed, Arc::new(FakeReads(world.clone())), live_settings).unwrap();
        let listen = TcpSocket::new_v4().unwrap();
        listen.set_send_buffer_size(64 << 10).unwrap();
        listen.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener: TcpListener = listen.listen(1024).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let (handle, gate) = (live.clone(), Arc::new(FakeGate(world.clone())));
        let settings = Arc::new(settings);
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let (live, gate, settings, stopped) = (handle.clone(), gate.clone(), settings.clone(), stopped.clone());
                tokio::spawn(async move {
                    let config = Some(websocket_config(1 << 20));
                    let socket = WebSocketStream::from_partially_read(stream, Vec::new(), Role::Server, config).await;
                    serve(socket, peer, live, gate, settings, stopped).await;
                });
            }
        });
        Self { address, tail, live, world, stop }
    }

    async fn defaults() -> Self {
        Self::start(live::Settings::default(), Settings::default()).await
    }

    async fn open(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Client(WebSocketStream::from_raw_socket(stream, Role::Client, None).await)
    }

    async fn connect(&self) -> Client {
        let mut client = self.open().await;
        client.send(r#"{"op":"connect","applicationId":"app"}"#).await;
        assert!(client.text().await.starts_with(r#"{"op":"connected","clientId":""#));
        client
    }

    /// Commits the creation of an object at the next position.
    fn create(&self, id: &str, fields: &str) {
        self.commit(id, None, Some(fields));
    }

    fn commit(&self, id: &str, before: Option<&str>, after: Option<&str>) {
        let object = |fields: &str| {
            let fields = Map::from_json(fields.as_bytes()).unwrap();
            Arc::new(Object { id: ObjectId::new(id), fields, ..Object::default() })
        };
        let change = Change::Object(ObjectChange {
            class: ClassName::from_trusted("Note"),
            id: ObjectId::new(id),
            before: before.map(object),
            after: after.map(object),
        });
        self.tail.push([Arc::new(Committed { position: self.tail.position() + 1, ordinal: 0, change })]);
    }
}

struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn send(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    async fn next(&mut self) -> Message {
        timeout(Duration::from_secs(10), self.0.next()).await.expect("a frame in time").expect("open").unwrap()
    }

    /// The next text frame. Pings are answered by the library.
    async fn text(&mut self) -> String {
        loop {
            match self.next().await {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn close_code(&mut self) -> u16 {
        loop {
            match self.next().await {
                Message::Close(frame) => return frame.unwrap().code.into(),
                Message::Text(_) | Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn subscribe(&mut self, request_id: i64, filter: &str) {
        self.send(&subscribe(request_id, filter)).await;
        let answer = self.text().await;
        assert!(answer.contains(r#""op":"subscribed""#), "{answer}");
    }
}

fn subscribe(request_id: i64, filter: &str) -> String {
    format!(r#"{{"op":"subscribe","requestId":{request_id},"query":{{"className":"Note","where":{filter}}}}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_hears_of_its_changes_in_order() {
    let server = Server::defaults().await;
    let mut client = server.connect().await;
    client.subscribe(1, r#"{"room":"a"}"#).await;
    for n in 0..500 {
        server.create(&format!("n{n}"), r#"{"room":"b"}"#);
        server.create(&format!("m{n}"), r#"{"room":"a"}"#);
    }
    for n in 0..500 {
        let text = client.text().await;
        assert!(text.starts_with(r#"{"op":"create","#) && text.contains(&format!(r#""objectId":"m{n}""#)), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_wait_for_the_pong_behind_the_first_subscribed() {
    let server = Server::defaults().await;
    let mut client = server.connect().await;
    client.send(&subscribe(1, "{}")).await;
    assert!(client.text().await.contains("subscribed"));
    server.create("a", "{}");
    // The library answers the ping while it is read; before that, nothing else comes.
    assert_eq!(client.next().await, Message::Ping("1".into()));
    assert!(client.text().await.contains(r#""op":"create""#));
    // A client that never answers gets its events after a second.
    let mut raw = server.connect().await;
    raw.send(&subscribe(1, "{}")).await;
    let started = std::time::Instant::now();
    read_until(raw.0.get_mut(), "subscribed").await;
    server.create("b", "{}");
    read_until(raw.0.get_mut(), "\"create\"").await;
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
}

/// Reads raw bytes, answering no ping.
async fn read_until(stream: &mut TcpStream, text: &str) {
    let mut bytes = Vec::new();
    let found = async {
        while !String::from_utf8_lossy(&bytes).contains(text) {
            assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "closed");
        }
    };
    timeout(Duration::from_secs(5), found).await.expect(text);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_are_answered_in_order() {
    let server = Server::defaults().await;
    let mut client = server.connect().await;
    server.world.think.lock().unwrap().push_back(Duration::from_millis(200));
    client.send(&subscribe(1, "{}")).await;
    client.send(r#"{"op":"unsubscribe","requestId":1}"#).await;
    client.send(&subscribe(2, "{}")).await;
    for (op, id) in [("subscribed", 1), ("unsubscribed", 1), ("subscribed", 2)] {
        let text = client.text().await;
        assert!(
            text.starts_with(&format!(r#"{{"op":"{op}""#)) && text.contains(&format!(r#""requestId":{id}"#)),
            "{text}"
        );
    }
    server.create("a", "{}");
    assert!(client.text().await.contains(r#""requestId":2"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_answered_and_hurts_nobody() {
    let server = Server::defaults().await;
    let mut client = server.connect().await;
    for (frame, expected) in [
        (
            "nonsense",
            r#"{"op":"error","error":"A frame must be a JSON object","code":1,"reconnect":false,"requestId":null}"#,
        ),
        (r#"{"op":"query","requestId":77}"#, r#""code":2,"reconnect":false,"requestId":77}"#),
        (r#"{"op":"unsubscribe","requestId":77}"#, r#""code":2,"reconnect":false,"requestId":77}"#),
        (r#"{"op":"connect","applicationId":"app"}"#, r#""code":1,"reconnect":false"#),
        (
            r#"{"op":"subscribe","requestId":1,"query":{"className":"Note","where":{"a":{"$x":1}}}}"#,
            r#""code":107,"reconnect":false,"requestId":1}"#,
        ),
        (
            r#"{"op":"subscribe","requestId":1,"query":{"className":"Note","where":{}},"sessionToken":"dead"}"#,
            r#""error":"Invalid session token","code":209,"reconnect":false,"requestId":1}"#,
        ),
    ] {
        client.send(frame).await;
        let text = client.text().await;
        assert!(text.contains(expected), "{frame}: {text}");
    }
    client.subscribe(1, "{}").await;
    // Breaking the protocol says `reconnect`, and then the connection is closed.
    client.send(r#"{"op":"dance"}"#).await;
    assert!(client.text().await.contains(r#""code":1,"reconnect":true"#));
    assert_eq!(client.close_code().await, 1008);

    let mut early = server.open().await;
    early.send(&subscribe(1, "{}")).await;
    assert!(early.text().await.contains(r#""code":2,"reconnect":true,"requestId":null}"#));
    assert_eq!(early.close_code().await, 1008);

    let mut stranger = server.open().await;
    stranger.send(r#"{"op":"connect","applicationId":"other"}"#).await;
    assert!(stranger.text().await.contains(r#""code":4,"reconnect":true"#));
    assert_eq!(stranger.close_code().await, 1008);

    let mut binary = server.connect().await;
    for _ in 0..3 {
        binary.0.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    }
    assert_eq!(binary.close_code().await, 1003);

    let mut huge = server.connect().await;
    let _ = huge.0.send(Message::text(" ".repeat((1 << 20) + 1))).await;
    assert_eq!(huge.close_code().await, 1009);

    let mut fine = server.connect().await;
    fine.subscribe(1, "{}").await;
    server.create("a", "{}");
    assert!(fine.text().await.contains(r#""op":"create""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn results_come_before_what_follows_them() {
    let server = Server::defaults().await;
    let mut client = server.connect().await;
    client.subscribe(1, "{}").await;
    let row = Object { id: ObjectId::new("old"), ..Object::default() };
    *server.world.rows.lock().unwrap() = (0, vec![Arc::new(row)]);
    client.send(r#"{"op":"query","requestId":1}"#).await;
    let text = client.text().await;
    assert!(
        text.contains(r#""op":"result""#) && text.contains(r#""results":[{"className":"Note","objectId":"old","#),
        "{text}"
    );
    server.create("new", "{}");
    assert!(client.text().await.contains(r#""objectId":"new""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_frame_arrives_whole() {
    let server = Server::defaults().await;
    let mut client = server.connect().await;
    client.subscribe(1, "{}").await;
    let text = "ü".repeat(400_000);
    server.create("big", &format!(r#"{{"text":"{text}"}}"#));
    assert!(client.text().await.contains(&text));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_says_good_bye() {
    let server = Server::defaults().await;
    let mut client = server.connect().await;
    client.subscribe(1, "{}").await;
    server.create("a", "{}");
    assert!(client.text().await.contains(r#""op":"create""#));
    server.stop.send(true).unwrap();
    assert_eq!(client.close_code().await, 1001);
    server.live.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_a_connection() {
    let settings = Settings {
        ping: Duration::from_millis(100),
        alive: Duration::from_millis(400),
        handshake: Duration::from_millis(200),
        ..Settings::default()
    };
    let server = Server::start(live::Settings::default(), settings).await;
    let mut mute = server.open().await;
    assert_eq!(mute.close_code().await, 1008, "no connect came");
    // Reading answers pings, so this one lives.
    let mut alive = server.connect().await;
    let lives = timeout(Duration::from_millis(1_000), alive.text()).await;
    assert!(lives.is_err(), "{lives:?}");
    // This one does not.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let ended = timeout(Duration::from_secs(5), async {
        while let Some(Ok(message)) = alive.0.next().await {
            assert!(message.is_ping(), "{message:?}");
        }
    });
    ended.await.expect("ended");
}

impl Server {
    /// A connection whose client takes little at a time.
    async fn connect_narrow(&self) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 << 10).unwrap();
        let stream = socket.connect(self.address).await.unwrap();
        let mut client = Client(WebSocketStream::from_raw_socket(stream, Role::Client, None).await);
        client.send(r#"{"op":"connect","applicationId":"app"}"#).await;
        assert!(client.text().await.contains("connected"));
        client.subscribe(1, "{}").await;
        client
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_pauses_starts_afresh_and_slows_nobody() {
    let live_settings = live::Settings {
        coalesce_mark: 32 << 10,
        resync_mark: 128 << 10,
        slow_after: Duration::from_millis(300),
        ..live::Settings::default()
    };
    let server = Server::start(live_settings, Settings::default()).await;
    let mut slow = server.connect_narrow().await;
    let mut fast = server.connect().await;
    fast.subscribe(1, "{}").await;
    server.create("first", "{}");
    assert!(slow.text().await.contains("first"));
    assert!(fast.text().await.contains("first"));
    let text = "x".repeat(2_000);
    let mut written = 0;
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_millis(1_500) {
        for _ in 0..5 {
            server.create(&format!("n{written}"), &format!(r#"{{"text":"{text}"}}"#));
            written += 1;
        }
        for n in written - 5..written {
            assert!(fast.text().await.contains(&format!(r#""objectId":"n{n}""#)));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let row = Object { id: ObjectId::new("fresh"), ..Object::default() };
    *server.world.rows.lock().unwrap() = (server.tail.position(), vec![Arc::new(row)]);
    let mut events = 0;
    let result = loop {
        let frame = slow.text().await;
        if frame.contains(r#""op":"result""#) {
            break frame;
        }
        assert!(frame.contains(&format!(r#""objectId":"n{events}""#)), "no hole before the result: {frame}");
        events += 1;
    };
    assert!(events < written, "{events} of {written}");
    assert!(result.contains("fresh"));
    assert!(slow.text().await.contains(r#""op":"subscribed""#));
    server.create("last", "{}");
    assert!(slow.text().await.contains("last"));
    assert!(fast.text().await.contains("last"));
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_read_lose_nothing_however_far_delivery_lags() {
    const CHANGES: usize = 4_000;
    let live_settings = live::Settings {
        global_mark: 1 << 20,
        coalesce_mark: 1 << 10,
        resync_mark: 2 << 10,
        close_mark: 4 << 20,
        ..live::Settings::default()
    };
    let server = Server::start(live_settings, Settings::default()).await;
    let mut readers = Vec::new();
    for _ in 0..30 {
        let mut client = server.connect().await;
        client.subscribe(1, "{}").await;
        readers.push(tokio::spawn(async move {
            for n in 0..CHANGES {
                let frame = client.text().await;
                assert!(frame.contains(r#""op":"create","#), "{frame}");
                assert!(frame.contains(&format!(r#""objectId":"n{n}""#)), "{n}: {frame}");
            }
        }));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let text = "x".repeat(500);
    for n in 0..CHANGES {
        server.create(&format!("n{n}"), &format!(r#"{{"text":"{text}"}}"#));
    }
    for reader in readers {
        reader.await.unwrap();
    }
}
