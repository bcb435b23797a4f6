//! Malformed LiveQuery frames, each on a connection of its own.

use crate::harness::{Client, Launch, Live, Server, Value, json, pointer};
use tokio_tungstenite::tungstenite::Message;

/// What is sent after `connect`, and the code and request id of the error that it deserves.
struct Row {
    frame: String,
    code: i64,
    request_id: Option<i64>,
    /// Whether the client is told to open another connection. This one is then closed.
    reconnect: bool,
}

/// A frame that breaks the protocol.
fn broken(frame: impl ToString, request_id: Option<i64>) -> Row {
    Row { frame: frame.to_string(), code: 1, request_id, reconnect: true }
}

/// A subscription that cannot be. The connection goes on.
fn refused(query: Value, code: i64) -> Row {
    let frame = json!({"op": "subscribe", "requestId": 7, "query": query}).to_string();
    Row { frame, code, request_id: Some(7), reconnect: false }
}

fn filter(filter: Value, code: i64) -> Row {
    refused(json!({"className": "Note", "where": filter}), code)
}

async fn check(client: &Client, rows: &[Row]) {
    let mut complaints = Vec::new();
    for row in rows {
        let mut live = client.connect().await;
        live.send_text(row.frame.as_str()).await;
        let expected =
            json!({"op": "error", "code": row.code, "reconnect": row.reconnect, "requestId": row.request_id});
        let mut told = live.next_if_open().await.unwrap_or_default();
        let text = told.as_object_mut().and_then(|frame| frame.remove("error"));
        if told != expected || !text.is_some_and(|text| text.is_string()) {
            complaints.push(format!("{:.200}\n    got {told}, expected {expected}", row.frame));
        } else if row.reconnect {
            live.expect_closed().await;
        } else {
            live.subscribe(8, json!({"className": "Note", "where": {}})).await;
        }
    }
    super::report(rows.len(), &complaints);
}

#[tokio::test]
async fn frames_that_break_the_protocol() {
    let mut server = Launch::plain().start();
    let subscribe = |query: Value| json!({"op": "subscribe", "requestId": 7, "query": query});
    let whole = json!({"className": "Note", "where": {}});
    let extended = |name: &str, value: Value| {
        let mut query = whole.clone();
        query[name] = value;
        subscribe(query)
    };
    let rows = [
        broken("[]", None),
        broken("5", None),
        broken("null", None),
        broken("\"connect\"", None),
        broken("{}", None),
        broken(r#"{"op":5}"#, None),
        broken(r#"{"op":null,"requestId":7}"#, Some(7)),
        broken(r#"{"op":"explode","requestId":7}"#, Some(7)),
        broken(r#"{"op":"SUBSCRIBE","requestId":7}"#, Some(7)),
        broken(r#"{"op":"subscribe"}"#, None),
        broken(json!({"op": "subscribe", "query": whole}), None),
        broken(json!({"op": "subscribe", "requestId": "7", "query": whole}), None),
        broken(json!({"op": "subscribe", "requestId": null, "query": whole}), None),
        broken(json!({"op": "subscribe", "requestId": {}, "query": whole}), None),
        broken(json!({"op": "subscribe", "requestId": 1.5, "query": whole}), None),
        broken(json!({"op": "subscribe", "requestId": 7}), Some(7)),
        broken(subscribe(json!(5)), Some(7)),
        broken(subscribe(json!([])), Some(7)),
        broken(subscribe(json!({"where": {}})), Some(7)),
        broken(subscribe(json!({"className": 5, "where": {}})), Some(7)),
        broken(subscribe(json!({"className": "Note"})), Some(7)),
        broken(subscribe(json!({"className": "Note", "where": []})), Some(7)),
        broken(subscribe(json!({"className": "Note", "where": "{}"})), Some(7)),
        broken(subscribe(json!({"className": "Note", "where": null})), Some(7)),
        broken(extended("keys", json!([])), Some(7)),
        broken(extended("keys", json!("a")), Some(7)),
        broken(extended("keys", json!([5])), Some(7)),
        broken(extended("keys", json!(["a", "a"])), Some(7)),
        broken(extended("watch", json!([])), Some(7)),
        broken(extended("watch", json!({})), Some(7)),
        broken(extended("limit", json!(5)), Some(7)),
        broken(extended("order", json!("a")), Some(7)),
        broken(json!({"op": "subscribe", "requestId": 7, "query": whole, "sessionToken": 5}), Some(7)),
        broken(json!({"op": "subscribe", "requestId": 7, "query": whole, "extra": true}), Some(7)),
        broken(r#"{"op":"unsubscribe"}"#, None),
        broken(r#"{"op":"unsubscribe","requestId":"7"}"#, None),
        broken(r#"{"op":"unsubscribe","requestId":7,"query":{}}"#, Some(7)),
        broken(r#"{"op":"query"}"#, None),
        broken(r#"{"op":"query","requestId":7,"extra":true}"#, Some(7)),
        broken(r#"{"op":"update","requestId":7}"#, Some(7)),
    ];
    check(&server.nobody(), &rows).await;
    server.assert_well().await;
}

#[tokio::test]
async fn extra_properties_are_refused_in_the_words_that_the_sdk_compares() {
    let server = Launch::plain().start();
    for frame in [
        json!({"op": "unsubscribe", "requestId": 1, "extra": true}),
        json!({"op": "subscribe", "requestId": 1, "query": {"className": "Note", "where": {}, "limit": 1}}),
    ] {
        let mut live = server.nobody().connect().await;
        live.send(frame.clone()).await;
        assert_eq!(live.expect_error(1).await["error"], "Additional properties not allowed", "{frame}");
    }
    let mut live = Live::open(&server.url).await;
    live.send(json!({"op": "connect", "applicationId": "app", "extra": true})).await;
    assert_eq!(live.expect_error(1).await["error"], "Additional properties not allowed");
}

#[tokio::test]
async fn frames_that_are_not_json() {
    let mut server = Launch::plain().start();
    let rows: Vec<Row> =
        ["", " ", "{", "not json", "{\"op\":\"subscribe\"", "{\"op\":\"query\",\"requestId\":1}}", "\u{0}"]
            .into_iter()
            .map(|frame| Row { frame: frame.into(), code: 1, request_id: None, reconnect: false })
            .chain([
                Row { frame: "[".repeat(100_000), code: 1, request_id: None, reconnect: false },
                Row { frame: "{\"a\":".repeat(100_000), code: 1, request_id: None, reconnect: false },
            ])
            .collect();
    check(&server.nobody(), &rows).await;
    // Whoever says nothing else is no client.
    let mut live = Live::open(&server.url).await;
    for _ in 0..1_000 {
        live.send_text("GET / HTTP/1.1").await;
    }
    live.expect_closed().await;
    server.assert_well().await;
}

#[tokio::test]
async fn queries_that_cannot_be() {
    let mut server = Launch::plain().start();
    server.master().post("/schemas/Closed", json!({"classLevelPermissions": {}})).await.ok();
    let for_users = json!({"classLevelPermissions": {"find": {"requiresAuthentication": true}}});
    server.master().post("/schemas/ForUsers", for_users).await.ok();
    let secret = json!({
        "fields": {"pin": {"type": "String"}},
        "classLevelPermissions": {"find": {"*": true}, "get": {"*": true}, "protectedFields": {"*": ["pin"]}},
    });
    server.master().post("/schemas/Secret", secret).await.ok();
    let many: Value = (0..1_100).map(|n| json!({"n": n})).collect();
    let rows = [
        filter(json!({"n": {"$foo": 1}}), 107),
        filter(json!({"n": {"$not": {}}}), 107),
        filter(json!({"n": {"a": 1}}), 107),
        filter(json!({"n": [1]}), 107),
        filter(json!({"n": {"$in": 5}}), 107),
        filter(json!({"$foo": 1}), 105),
        filter(json!({"a-b": 1}), 105),
        filter(json!({"_rperm": 1}), 105),
        filter(json!({"_hashed_password": {"$regex": "^a"}}), 105),
        filter(json!({"ACL": {}}), 102),
        filter(json!({"$or": []}), 102),
        filter(json!({"$or": {"0": {"n": 1}, "length": 1}}), 102),
        filter(json!({"$and": 5}), 102),
        filter(json!({"$nor": [5]}), 102),
        filter(json!({"$or": many}), 102),
        filter(json!({"s": {"$regex": "("}}), 102),
        filter(json!({"s": {"$regex": "[a--b]"}}), 102),
        filter(json!({"s": {"$regex": "a(?=b)"}}), 102),
        filter(json!({"s": {"$regex": "(a)\\1"}}), 102),
        filter(json!({"s": {"$regex": "a++b"}}), 102),
        filter(json!({"s": {"$regex": 5}}), 102),
        filter(json!({"s": {"$regex": "a", "$options": "q"}}), 102),
        filter(json!({"p": {"__type": "Pointer", "className": "A"}}), 111),
        filter(json!({"p": {"__type": "Wat"}}), 111),
        filter(json!({"constructor": 1}), 105),
        filter(json!({"p": {"$inQuery": {"className": "A", "where": {}}}}), 102),
        filter(json!({"n": {"$select": {"key": "n", "query": {"className": "A", "where": {}}}}}), 102),
        filter(json!({"g": {"$nearSphere": {"__type": "GeoPoint", "latitude": 1, "longitude": 1}}}), 102),
        filter(json!({"s": {"$text": {"$search": {"$term": "x"}}}}), 102),
        filter(json!({"d": {"$lt": {"$relativeTime": "now"}}}), 102),
        filter(json!({"$relatedTo": {"object": pointer("A", "x"), "key": "k"}}), 102),
        refused(json!({"className": "Note", "where": {}, "watch": ["_hashed_password"]}), 105),
        refused(json!({"className": "Note", "where": {}, "watch": ["$n", "n"]}), 105),
        refused(json!({"className": "1a", "where": {}}), 103),
        refused(json!({"className": "_Nope", "where": {}}), 103),
        refused(json!({"className": "", "where": {}}), 103),
        refused(json!({"className": "constructor", "where": {}}), 103),
        refused(json!({"className": "Closed", "where": {}}), 119),
        refused(json!({"className": "ForUsers", "where": {}}), 101),
        refused(json!({"className": "Secret", "where": {"pin": "1234"}}), 119),
        refused(json!({"className": "Secret", "where": {"$or": [{"n": 1}, {"pin": {"$gt": ""}}]}}), 119),
        refused(json!({"className": "_User", "where": {"email": "a@b"}}), 119),
        refused(json!({"className": "_User", "where": {"$nor": [{"authData.anonymous.id": "x"}]}}), 102),
        refused(json!({"className": "_User", "where": {"$nor": [{"email": {"$regex": "a"}}]}}), 119),
        refused(json!({"className": "_Session", "where": {}}), 209),
    ];
    check(&server.nobody(), &rows).await;
    let dead = Row {
        frame: json!({"op": "subscribe", "requestId": 7, "query": {"className": "Note", "where": {}}, "sessionToken": "r:dead"})
            .to_string(),
        code: 209,
        request_id: Some(7),
        reconnect: false,
    };
    check(&server.nobody(), &[dead]).await;
    server.assert_well().await;
}

#[tokio::test]
async fn nothing_goes_before_connect() {
    let mut server = Launch::plain().start();
    let query = json!({"className": "Note", "where": {}});
    for frame in [
        json!({"op": "subscribe", "requestId": 1, "query": query}),
        json!({"op": "update", "requestId": 1, "query": query}),
        json!({"op": "unsubscribe", "requestId": 1}),
        json!({"op": "query", "requestId": 1}),
    ] {
        let mut live = Live::open(&server.url).await;
        live.send(frame.clone()).await;
        let error = live.expect_error(2).await;
        assert_eq!((&error["reconnect"], &error["requestId"]), (&json!(true), &Value::Null), "{frame}: {error}");
        live.expect_closed().await;
    }
    server.assert_well().await;
}

#[tokio::test]
async fn requests_about_no_subscription() {
    let mut server = Launch::plain().start();
    for op in ["unsubscribe", "query"] {
        let mut live = server.nobody().connect().await;
        live.send(json!({"op": op, "requestId": 99})).await;
        live.expect_error(2).await;
    }
    server.assert_well().await;
}

#[tokio::test]
async fn connects_that_are_not_let_in() {
    let mut server = Launch::plain().with(&["--javascript-key", "js"]).start();
    for frame in [
        json!({"op": "connect", "applicationId": "other", "javascriptKey": "js"}),
        json!({"op": "connect", "applicationId": "app"}),
        json!({"op": "connect", "applicationId": "app", "javascriptKey": "wrong"}),
        json!({"op": "connect", "applicationId": "app", "clientKey": "js"}),
        json!({"op": "connect", "applicationId": "app", "masterKey": "wrong"}),
    ] {
        let mut live = Live::open(&server.url).await;
        live.send(frame.clone()).await;
        let error = live.expect_error(4).await;
        assert!(error["error"].is_string(), "{frame}: {error}");
        live.expect_closed().await;
    }
    for frame in [
        json!({"op": "connect"}),
        json!({"op": "connect", "applicationId": 5}),
        json!({"op": "connect", "applicationId": ""}),
        json!({"op": "connect", "applicationId": "app", "javascriptKey": 5}),
        json!({"op": "connect", "applicationId": "app", "javascriptKey": "js", "sessionToken": {}}),
    ] {
        let mut live = Live::open(&server.url).await;
        live.send(frame.clone()).await;
        live.expect_error(1).await;
    }
    for frame in [
        json!({"op": "connect", "applicationId": "app", "javascriptKey": "js"}),
        json!({"op": "connect", "applicationId": "app", "masterKey": "master"}),
        // A dead token counts as none here: the SDK captures it once and would never recover.
        json!({"op": "connect", "applicationId": "app", "javascriptKey": "js", "sessionToken": "r:dead", "installationId": "i"}),
    ] {
        let mut live = Live::open(&server.url).await;
        live.send(frame.clone()).await;
        let connected = live.next().await;
        assert_eq!(
            (&connected["op"], connected.get("installationId")),
            (&json!("connected"), frame.get("installationId"))
        );
        assert!(connected["clientId"].is_string(), "{connected}");
    }
    server.assert_well().await;
}

#[tokio::test]
async fn frames_beyond_the_limit_close_their_connection() {
    let mut server = Launch::plain().start();
    let mut live = server.nobody().connect().await;
    // What fits is judged for what it is.
    live.send_text(format!("{{\"op\":\"{}\"}}", "x".repeat(1_000_000))).await;
    live.expect_error(1).await;
    let mut live = server.nobody().connect().await;
    live.send_text("x".repeat(1_100_000)).await;
    live.expect_closed().await;
    server.assert_well().await;
}

#[tokio::test]
async fn binary_frames_are_refused_and_control_frames_are_not() {
    let mut server = Launch::plain().start();
    let mut live = server.nobody().connect().await;
    live.send_message(Message::binary(b"{\"op\":\"subscribe\"}".to_vec())).await;
    let refusal = live.expect_error(1).await;
    assert_eq!((&refusal["reconnect"], &refusal["requestId"]), (&json!(false), &Value::Null), "{refusal}");
    live.send_message(Message::Ping(vec![1, 2, 3].into())).await;
    live.send_message(Message::Pong(vec![9; 100].into())).await;
    live.send_message(Message::Pong(b"18446744073709551616".to_vec().into())).await;
    live.subscribe(1, json!({"className": "Note", "where": {}})).await;
    let mut live = server.nobody().connect().await;
    for _ in 0..20 {
        live.send_message(Message::binary(vec![0xff; 1_000])).await;
    }
    live.expect_closed().await;
    server.assert_well().await;
}

#[tokio::test]
async fn a_second_connect_changes_nothing() {
    let mut server = Launch::plain().start();
    let nobody = server.nobody();
    let mut live = nobody.connect().await;
    live.subscribe(1, json!({"className": "Note", "where": {}})).await;
    live.send(json!({"op": "connect", "applicationId": "app", "masterKey": "master"})).await;
    let refusal = live.answer().await;
    assert_eq!(refusal["op"], "error", "{refusal}");
    let hidden = server.master().create("Note", json!({"ACL": {}})).await;
    let id = nobody.create("Note", json!({})).await;
    assert_ne!(hidden, id);
    live.expect(1, "create", &id).await;
    server.assert_well().await;
}

#[tokio::test]
async fn a_connection_holds_so_many_subscriptions_and_no_more() {
    let mut server = Launch::plain().with(&["--live-query.max-subscriptions", "20"]).start();
    let nobody = server.nobody();
    let mut live = nobody.connect().await;
    let subscribe = |request_id: i64| json!({"op": "subscribe", "requestId": request_id, "query": {"className": "Note", "where": {"n": request_id}}});
    for request_id in 1..=20 {
        live.send(subscribe(request_id)).await;
        assert_eq!(live.answer().await["op"], "subscribed");
    }
    live.send(subscribe(21)).await;
    let refusal = live.answer().await;
    assert_eq!((&refusal["op"], &refusal["requestId"]), (&json!("error"), &json!(21)), "{refusal}");
    // The same request again replaces, so it needs no place.
    live.send(subscribe(20)).await;
    assert_eq!(live.answer().await["op"], "subscribed");
    let id = nobody.create("Note", json!({"n": 20})).await;
    live.expect(20, "create", &id).await;
    server.assert_well().await;
}

/// Deep nesting and malformed values in objects of live classes never reach the event path.
#[tokio::test]
async fn objects_that_cannot_be_do_not_end_delivery() {
    let mut server: Server = Launch::plain().start();
    let nobody = server.nobody();
    let mut notes = nobody.subscribe("Note", json!({"p": {"$ne": pointer("A", "none")}, "l.0.a": {"$ne": 5}})).await;
    for body in [
        r#"{"f":{"__type":"File"}}"#.to_owned(),
        r#"{"p":{"__type":"Pointer","objectId":"x"}}"#.into(),
        r#"{"d":{"__type":"Date"}}"#.into(),
        format!("{{\"deep\":{}{}}}", "[".repeat(80), "]".repeat(80)),
    ] {
        assert_eq!(nobody.send("POST", "/classes/Note", body.clone()).await.status, 400, "{body:.100}");
    }
    let deep = format!("{{\"l\":{}{}}}", "[".repeat(60), "]".repeat(60));
    let id = nobody.send("POST", "/classes/Note", deep).await.created()["objectId"].as_str().unwrap().to_owned();
    notes.expect("create", &id).await;
    let id = nobody.create("Note", json!({"p": null, "l": null})).await;
    notes.expect("create", &id).await;
    server.assert_well().await;
}
