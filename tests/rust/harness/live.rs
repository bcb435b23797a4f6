//! The LiveQuery socket, frame by frame, and a subscription that says what should come next.

use super::{PATIENCE, Value, json};
use futures_util::{SinkExt, StreamExt};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config, tungstenite};

/// One connection to the live socket.
pub(crate) struct Live {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Frames that were passed over while another was awaited.
    early: VecDeque<Value>,
}

impl Live {
    /// Opens a socket and says nothing yet. `url` is the API's, or any of the same server.
    pub(crate) async fn open(url: &str) -> Self {
        let opening = tokio::time::timeout(PATIENCE, Self::try_open(url));
        opening.await.expect("the socket opens in time").unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    /// # Errors
    /// When nobody is there.
    pub(crate) async fn try_open(url: &str) -> Result<Self, tungstenite::Error> {
        let url = url.replacen("http://", "ws://", 1);
        // Nothing is masked away by the client's own limits.
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let (socket, _) = connect_async_with_config(&url, Some(config), true).await?;
        Ok(Self { socket, early: VecDeque::new() })
    }

    pub(crate) async fn send(&mut self, frame: Value) {
        self.send_text(frame.to_string()).await;
    }

    pub(crate) async fn send_text(&mut self, text: impl Into<String>) {
        self.send_message(Message::text(text.into())).await;
    }

    /// A server that closes meanwhile is noticed when its answer is awaited.
    pub(crate) async fn send_message(&mut self, message: Message) {
        let _ = tokio::time::timeout(PATIENCE, self.socket.send(message)).await.expect("the server takes what we send");
    }

    /// The next frame.
    pub(crate) async fn next(&mut self) -> Value {
        self.next_if_open().await.expect("the server closed the connection")
    }

    /// The next frame, or `None` when the server closed.
    pub(crate) async fn next_if_open(&mut self) -> Option<Value> {
        match self.early.pop_front() {
            Some(frame) => Some(frame),
            None => self.read().await,
        }
    }

    /// The next frame, or `None` when the server closed, or was silent for so long.
    pub(crate) async fn next_within(&mut self, silence: Duration) -> Option<Value> {
        tokio::time::timeout(silence, self.read_text()).await.ok()?
    }

    async fn read(&mut self) -> Option<Value> {
        // Pings come all the time, so the patience is with all of them together.
        tokio::time::timeout(PATIENCE, self.read_text()).await.expect("no frame came in time")
    }

    async fn read_text(&mut self) -> Option<Value> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    return Some(serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}")));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Binary(bytes))) => panic!("a binary frame: {bytes:?}"),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            }
        }
    }

    /// The next frame that answers a request; events that come before it are kept.
    pub(crate) async fn answer(&mut self) -> Value {
        loop {
            let frame = self.read().await.expect("the server closed the connection");
            if is_event(&frame) {
                self.early.push_back(frame);
            } else {
                return frame;
            }
        }
    }

    /// Subscribes and waits until the server says that it did.
    pub(crate) async fn subscribe(&mut self, request_id: i64, query: Value) {
        self.send(json!({"op": "subscribe", "requestId": request_id, "query": query})).await;
        let answer = self.answer().await;
        assert_eq!((&answer["op"], &answer["requestId"]), (&json!("subscribed"), &json!(request_id)), "{answer}");
    }

    /// Subscribes with a cursor and waits until the server says that it goes on from there.
    pub(crate) async fn resume(&mut self, request_id: i64, query: Value, cursor: &str) {
        let frame = json!({"op": "subscribe", "requestId": request_id, "query": query, "resumeFrom": cursor});
        self.send(frame).await;
        let answer = self.answer().await;
        assert_eq!((&answer["op"], &answer["requestId"]), (&json!("subscribed"), &json!(request_id)), "{answer}");
        if let Some(named) = answer.get("cursor") {
            assert_eq!(named, cursor, "what is behind it comes");
        }
    }

    /// The results and the cursor that come in place of what was missed.
    pub(crate) async fn expect_resync(&mut self, request_id: i64) -> (Vec<Value>, String) {
        let mut result = self.next().await;
        let head = (result["op"].as_str(), result["requestId"].as_i64(), result["resync"].as_bool());
        assert_eq!(head, (Some("result"), Some(request_id), Some(true)), "{result}");
        let subscribed = self.next().await;
        assert_eq!((&subscribed["op"], &subscribed["requestId"]), (&json!("subscribed"), &json!(request_id)));
        assert_eq!(subscribed["cursor"], result["cursor"]);
        match result["results"].take() {
            Value::Array(results) => (results, cursor_of(&subscribed)),
            other => panic!("results are {other}"),
        }
    }

    /// That the next event is this one; answers its frame.
    #[track_caller]
    pub(crate) fn expect(&mut self, request_id: i64, event: &str, id: &str) -> impl Future<Output = Value> {
        let place = std::panic::Location::caller();
        let (event, id) = (event.to_owned(), id.to_owned());
        async move {
            let frame = self.next().await;
            let found = (frame["op"].as_str(), frame["requestId"].as_i64(), frame["object"]["objectId"].as_str());
            assert_eq!(found, (Some(&*event), Some(request_id), Some(&*id)), "at {place}: {frame}");
            frame
        }
    }

    /// That the next frame is an error with this code; answers it.
    pub(crate) async fn expect_error(&mut self, code: i64) -> Value {
        let frame = self.next().await;
        assert_eq!((&frame["op"], &frame["code"]), (&json!("error"), &json!(code)), "{frame}");
        frame
    }

    /// That the server closes, perhaps after more frames.
    pub(crate) async fn expect_closed(&mut self) {
        while self.next_if_open().await.is_some() {}
    }
}

/// How far a client has heard that got this frame.
pub(crate) fn cursor_of(frame: &Value) -> String {
    frame["cursor"].as_str().unwrap_or_else(|| panic!("no cursor in {frame}")).to_owned()
}

/// Where in the history a cursor is.
pub(crate) fn position_of(cursor: &str) -> u64 {
    let position = cursor.split('.').nth(1).unwrap_or_else(|| panic!("no position in {cursor}"));
    u64::from_str_radix(position, 16).unwrap_or_else(|_| panic!("no position in {cursor}"))
}

fn is_event(frame: &Value) -> bool {
    frame["object"].is_object()
}

/// The subscription 1 of a connection of its own.
pub(crate) struct Subscription {
    pub(crate) live: Live,
}

impl Subscription {
    pub(super) async fn begin(mut live: Live, query: Value) -> Self {
        live.subscribe(1, query).await;
        Self { live }
    }

    /// That the next event is this one; answers its frame.
    #[track_caller]
    pub(crate) fn expect(&mut self, event: &str, id: &str) -> impl Future<Output = Value> {
        self.live.expect(1, event, id)
    }

    pub(crate) async fn expect_error(&mut self, code: i64) -> Value {
        self.live.expect_error(code).await
    }

    /// The protocol's `update`: another query under the same request.
    pub(crate) async fn change(&mut self, query: Value) {
        self.live.send(json!({"op": "update", "requestId": 1, "query": query})).await;
        let answer = self.live.answer().await;
        assert_eq!(answer["op"], "subscribed", "{answer}");
    }

    pub(crate) async fn unsubscribe(&mut self) {
        self.live.send(json!({"op": "unsubscribe", "requestId": 1})).await;
        let answer = self.live.answer().await;
        assert_eq!(answer["op"], "unsubscribed", "{answer}");
    }

    /// The next frame that is no event.
    pub(crate) async fn answer(&mut self) -> Value {
        self.live.answer().await
    }

    /// What the subscription's query finds now.
    pub(crate) async fn results(&mut self) -> Vec<Value> {
        self.live.send(json!({"op": "query", "requestId": 1})).await;
        let mut answer = self.live.answer().await;
        assert_eq!(answer["op"], "result", "{answer}");
        match answer["results"].take() {
            Value::Array(results) => results,
            other => panic!("results are {other}"),
        }
    }
}
