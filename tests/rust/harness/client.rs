//! Somebody who talks HTTP to the server, as curl would: Parse's headers, JSON, and the keys of one caller.

use super::live::{Live, Subscription};
use super::{PATIENCE, Value, id_of, json, pointer};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{HeaderMap, Method, Request};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// One caller: nobody, a user, or the master. A clone shares the connections.
#[derive(Clone)]
pub(crate) struct Client {
    http: legacy::Client<HttpConnector, Full<Bytes>>,
    /// Of the API.
    pub(crate) url: String,
    headers: Vec<(String, String)>,
    account: Option<Account>,
    pub(crate) name: String,
}

#[derive(Clone)]
struct Account {
    id: String,
    token: String,
}

impl Client {
    /// Without any key.
    pub(crate) fn new(url: &str) -> Self {
        let http = legacy::Client::builder(TokioExecutor::new()).build_http();
        Self { http, url: url.to_owned(), headers: Vec::new(), account: None, name: String::new() }
    }

    /// Replaces a header of the same name.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self = self.without_header(name);
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn without_header(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self
    }

    /// The same caller on connections of its own: those of before a restart are dead.
    pub(crate) fn reconnected(&self) -> Self {
        Self { http: Self::new(&self.url).http, ..self.clone() }
    }

    pub(super) fn name(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// The same caller with a user's session.
    pub(crate) fn session(mut self, id: &str, token: &str) -> Self {
        self.account = Some(Account { id: id.into(), token: token.into() });
        self.header("X-Parse-Session-Token", token)
    }

    pub(crate) fn id(&self) -> &str {
        &self.account.as_ref().expect("nobody has no id").id
    }

    pub(crate) fn token(&self) -> &str {
        &self.account.as_ref().expect("nobody has no token").token
    }

    pub(crate) fn pointer(&self) -> Value {
        pointer("_User", self.id())
    }

    // ---- requests

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "").await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, "").await
    }

    /// `path` is below the mount, or a whole URL.
    pub(crate) async fn send(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Answer {
        let what = format!("{method} {path}");
        self.try_send(method, path, body).await.unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// # Errors
    /// When no answer came.
    pub(crate) async fn try_send(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Result<Answer, String> {
        let url = if path.starts_with("http://") { path.to_owned() } else { format!("{}{path}", self.url) };
        let mut request = Request::builder().method(method.parse::<Method>().unwrap()).uri(&url);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body.into())).map_err(|error| format!("{url}: {error}"))?;
        let answering = async {
            let (head, body) = self.http.request(request).await.map_err(|error| format!("{error:?}"))?.into_parts();
            let body = body.collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
            Ok::<_, String>((head, body))
        };
        let (head, body) = tokio::time::timeout(PATIENCE, answering).await.map_err(|_| "no answer".to_owned())??;
        let text = String::from_utf8_lossy(&body).into_owned();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        let what = format!("{method} {path}");
        Ok(Answer { what, status: head.status.as_u16(), headers: head.headers, text, body })
    }

    // ---- Parse's verbs

    /// Creates an object and answers its id.
    pub(crate) async fn create(&self, class: &str, fields: Value) -> String {
        id_of(&self.post(&format!("/classes/{class}"), fields).await.created())
    }

    pub(crate) async fn update(&self, class: &str, id: &str, fields: Value) -> Value {
        self.put(&format!("/classes/{class}/{id}"), fields).await.ok()
    }

    pub(crate) async fn destroy(&self, class: &str, id: &str) {
        assert_eq!(self.delete(&format!("/classes/{class}/{id}")).await.ok(), json!({}));
    }

    pub(crate) async fn fetch(&self, class: &str, id: &str) -> Value {
        self.get(&format!("/classes/{class}/{id}")).await.ok()
    }

    /// A find by a real GET; answers the whole body.
    pub(crate) async fn query(&self, class: &str, parameters: &[(&str, &str)]) -> Answer {
        self.get(&format!("/classes/{class}?{}", query_string(parameters))).await
    }

    /// The results of a find.
    pub(crate) async fn find(&self, class: &str, filter: Value) -> Vec<Value> {
        self.find_by(class, &[("where", &filter.to_string())]).await
    }

    pub(crate) async fn find_by(&self, class: &str, parameters: &[(&str, &str)]) -> Vec<Value> {
        let mut answer = self.query(class, parameters).await.ok();
        match answer["results"].take() {
            Value::Array(results) => results,
            other => panic!("results are {other}"),
        }
    }

    // ---- live queries

    /// A live connection in this caller's name.
    pub(crate) async fn connect(&self) -> Live {
        let mut live = Live::open(&self.url).await;
        let mut frame = json!({"op": "connect", "applicationId": "app"});
        if let Some(account) = &self.account {
            frame["sessionToken"] = account.token.as_str().into();
        }
        if self.headers.iter().any(|(name, _)| name == "X-Parse-Master-Key") {
            frame["masterKey"] = "master".into();
        }
        live.send(frame).await;
        let connected = live.next().await;
        assert_eq!(connected["op"], "connected", "{connected}");
        live
    }

    /// A subscription on a connection of its own.
    pub(crate) async fn subscribe(&self, class: &str, filter: Value) -> Subscription {
        self.subscribe_to(json!({"className": class, "where": filter})).await
    }

    /// As [`Client::subscribe`], with `keys` or `watch` in the query.
    pub(crate) async fn subscribe_to(&self, query: Value) -> Subscription {
        Subscription::begin(self.connect().await, query).await
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    what: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    /// Null if the text is no JSON.
    pub(crate) body: Value,
}

impl Answer {
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        self.with_status(200)
    }

    #[track_caller]
    pub(crate) fn created(self) -> Value {
        self.with_status(201)
    }

    #[track_caller]
    fn with_status(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{} answered {}", self.what, self.text);
        self.body
    }

    /// The status and Parse's code of a refusal; no code where Parse gives none.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: impl Into<Option<i64>>) {
        let refusal = (self.status, self.body["code"].as_i64());
        assert_eq!(refusal, (status, code.into()), "{} answered {}", self.what, self.text);
        assert!(self.body["error"].is_string(), "{} answered {}", self.what, self.text);
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// `a=1&where=%7B%7D`
pub(crate) fn query_string(parameters: &[(&str, &str)]) -> String {
    let pairs = parameters.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value)));
    pairs.collect::<Vec<_>>().join("&")
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
