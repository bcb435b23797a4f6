//! HTTP and WebSocket as clients really send them: in pieces, pipelined, over old versions; and the same afterwards.

use crate::harness::{Launch, Raw, Server, Value, fresh, json, status_of};

const UPGRADE: &str = "GET /parse HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

/// A frame of a client whose mask is zero.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len();
    assert!(length < 126);
    [&[first, 0x80 | length as u8, 0, 0, 0, 0][..], payload].concat()
}

const TEXT: u8 = 0x81;

#[tokio::test]
async fn a_request_may_come_in_pieces() {
    let server = Server::shared();
    let body = r#"{"n":1}"#;
    let class = fresh("Note");
    let request = format!(
        "POST /parse/classes/{class} HTTP/1.1\r\nHost: x\r\nX-Parse-Application-Id: app\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut raw = Raw::open(server.port).await;
    for byte in request.as_bytes() {
        raw.send(&[*byte]).await;
    }
    assert_eq!(raw.status().await, 201);
    let (head, tail) = request.split_at(request.len() - 3);
    let mut raw = Raw::open(server.port).await;
    raw.send(head.as_bytes()).await;
    raw.send(tail.as_bytes()).await;
    assert_eq!(raw.status().await, 201);
    assert_eq!(server.nobody().find(&class, json!({"n": 1})).await.len(), 2);
}

#[tokio::test]
async fn requests_may_be_pipelined_and_of_an_old_version() {
    let server = Server::shared();
    let mut raw = Raw::open(server.port).await;
    let ask = "GET /parse/health HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = "GET /parse/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    raw.send(format!("{ask}{ask}{last}").as_bytes()).await;
    let answers = String::from_utf8(raw.rest().await).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 3, "{answers}");

    let mut raw = Raw::open(server.port).await;
    raw.send(b"GET /parse/health HTTP/1.0\r\n\r\n").await;
    let answer = raw.rest().await;
    assert_eq!(status_of(&answer), Some(200), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_client_that_waits_to_be_told_to_continue_is_told() {
    let server = Server::shared();
    let head = format!("POST /parse/classes/{} HTTP/1.1\r\nHost: x\r\nX-Parse-Application-Id: app\r\n", fresh("Note"));
    let mut raw = Raw::open(server.port).await;
    raw.send(format!("{head}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n").as_bytes()).await;
    assert_eq!(raw.status().await, 100);
    raw.send(b"{}").await;
    assert_eq!(raw.status().await, 201);
}

#[tokio::test]
async fn what_is_only_announced_takes_no_room() {
    let server = Launch::plain().start();
    let head = "POST /parse/classes/Note HTTP/1.1\r\nHost: x\r\nX-Parse-Application-Id: app\r\n\
        Content-Length: 20000000\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..40 {
        let mut raw = Raw::open(server.port).await;
        raw.send(head.as_bytes()).await;
        held.push(raw);
    }
    server.nobody().post("/classes/Note", json!({"text": "x".repeat(900_000)})).await.created();
}

#[tokio::test]
async fn frames_may_follow_the_upgrade_at_once_and_come_in_fragments() {
    let server = Server::shared();
    let connect = br#"{"op":"connect","applicationId":"app"}"#;
    let (half, rest) = connect.split_at(10);
    let whole = frame(TEXT, connect);
    let fragments = [frame(0x01, half), frame(0x89, b"ping"), frame(0x80, rest)].concat();
    for frames in [whole, fragments] {
        let mut raw = Raw::open(server.port).await;
        raw.send(&[UPGRADE.as_bytes(), &frames].concat()).await;
        let answer = raw.until(br#""op":"connected""#).await;
        assert_eq!(status_of(&answer), Some(101));
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{text}");
        assert!(text.contains(r#""op":"connected""#), "{text}");
        assert!(!text.to_lowercase().contains("sec-websocket-extensions"), "nothing is compressed: {text}");
    }
}

#[tokio::test]
async fn a_connection_may_be_upgraded_after_it_spoke_http() {
    let server = Server::shared();
    let ask = || async {
        let mut raw = Raw::open(server.port).await;
        raw.send(b"GET /parse/health HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(raw.until(b"ok\"}").await.starts_with(b"HTTP/1.1 200"));
        raw
    };
    let connect = frame(TEXT, br#"{"op":"connect","applicationId":"app"}"#);
    let mut raw = ask().await;
    raw.send(&[UPGRADE.as_bytes(), &connect].concat()).await;
    let answer = String::from_utf8_lossy(&raw.until(b"\"connected\"").await).into_owned();
    assert!(answer.starts_with("HTTP/1.1 101") && answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    assert!(answer.contains(r#"{"op":"connected","clientId":""#), "{answer}");
    // The head alone, and the frame when it was answered.
    let mut raw = ask().await;
    raw.send(UPGRADE.as_bytes()).await;
    assert_eq!(raw.status().await, 101);
    raw.send(&connect).await;
    raw.until(b"\"connected\"").await;
    let mut raw = ask().await;
    raw.send(b"GET /parse HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(raw.status().await, 400);
}

#[tokio::test]
async fn chunks_are_put_together() {
    let server = Server::shared();
    let class = fresh("Note");
    let head = format!("POST /parse/classes/{class} HTTP/1.1\r\nHost: x\r\nX-Parse-Application-Id: app\r\n");
    let mut raw = Raw::open(server.port).await;
    raw.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n3\r\n{{\"n\r\n4\r\n\":1}}\r\n0\r\n\r\n").as_bytes())
        .await;
    assert_eq!(raw.status().await, 201);
    assert_eq!(server.nobody().find(&class, json!({"n": 1})).await.len(), 1);
}

/// The first of many writers decides what a column is; the others are told, whoever comes when.
#[tokio::test]
async fn writers_who_disagree_about_a_new_class_are_told() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Race"));
    let writers: Vec<_> = (0..40)
        .map(|n| {
            let (nobody, class) = (nobody.clone(), class.clone());
            let value = if n % 2 == 0 { json!(n) } else { json!(format!("text {n}")) };
            tokio::spawn(async move { nobody.post(&format!("/classes/{class}"), json!({"v": value, "n": n})).await })
        })
        .collect();
    let mut created = 0;
    for writer in writers {
        let answer = writer.await.unwrap();
        match answer.status {
            201 => created += 1,
            _ => answer.refused(400, 111),
        }
    }
    let schema = server.master().get(&format!("/schemas/{class}")).await.ok();
    let is_number = schema["fields"]["v"]["type"] == "Number";
    let stored = nobody.find(&class, json!({})).await;
    assert!(created > 0 && stored.len() == created, "{created} created, {} there", stored.len());
    assert!(stored.iter().all(|object| object["v"].is_number() == is_number), "{stored:?}");
}

#[tokio::test]
async fn operations_of_many_clients_are_atomic() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Set"));
    let id = nobody.create(&class, json!({"n": 0})).await;
    let writers: Vec<_> = (0..16)
        .map(|n| {
            let (nobody, class, id) = (nobody.clone(), class.clone(), id.clone());
            tokio::spawn(async move {
                for round in 0..10 {
                    let change = json!({
                        "unique": {"__op": "AddUnique", "objects": [round, "same"]},
                        "all": {"__op": "Add", "objects": [n]},
                        "o.sum": {"__op": "Increment", "amount": 1},
                        format!("own{n}"): round,
                    });
                    nobody.update(&class, &id, change).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let object = nobody.fetch(&class, &id).await;
    let length = |name: &str| object[name].as_array().unwrap().len();
    assert_eq!((length("unique"), length("all"), &object["o"]["sum"]), (11, 160, &json!(160)), "{object}");
    assert!((0..16).all(|n| object[format!("own{n}")] == 9), "nobody's own field was overwritten: {object}");
}

#[tokio::test]
async fn what_is_deleted_does_not_come_back() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Gone"));
    for _ in 0..10 {
        let id = nobody.create(&class, json!({"n": 0})).await;
        let place = format!("/classes/{class}/{id}");
        let writers: Vec<_> = (0..8)
            .map(|_| {
                let (nobody, place) = (nobody.clone(), place.clone());
                tokio::spawn(async move {
                    let change = json!({"n": {"__op": "Increment", "amount": 1}});
                    while nobody.put(&place, change.clone()).await.status == 200 {}
                })
            })
            .collect();
        nobody.delete(&place).await.ok();
        nobody.get(&place).await.refused(404, 101);
        for writer in writers {
            writer.await.unwrap();
        }
        nobody.get(&place).await.refused(404, 101);
    }
    assert_eq!(nobody.find(&class, json!({})).await, [Value::Null; 0]);
}

#[tokio::test]
async fn everything_is_as_it_was_after_kill_9() {
    let mut server = Launch::plain().start();
    let (alice, master) = (server.sign_up("alice").await, server.master());
    let schema = json!({
        "fields": {"n": {"type": "Number"}, "pin": {"type": "String"}},
        "indexes": {"by_n": {"n": 1}},
        "classLevelPermissions": {"find": {"*": true}, "get": {"*": true}, "create": {"*": true}, "protectedFields": {"*": ["pin"]}},
    });
    master.post("/schemas/Note", schema).await.ok();
    let public = alice.create("Note", json!({"n": 1, "pin": "1234"})).await;
    let own = alice.create("Note", json!({"n": 2, "ACL": {alice.id(): {"read": true}}})).await;
    let gone = master.create("Note", json!({"n": 3})).await;
    master.destroy("Note", &gone).await;
    let before = (
        master.get("/schemas").await.ok(),
        master.find_by("Note", &[("order", "-n")]).await,
        alice.find("Note", json!({"n": {"$gte": 1}})).await,
        alice.get("/users/me").await.ok(),
    );
    server.kill();
    server.start_again();
    let (alice, master) = (alice.reconnected(), master.reconnected());
    let after = (
        master.get("/schemas").await.ok(),
        master.find_by("Note", &[("order", "-n")]).await,
        alice.find("Note", json!({"n": {"$gte": 1}})).await,
        alice.get("/users/me").await.ok(),
    );
    assert_eq!(before, after);
    assert_eq!((after.1.len(), after.2.len()), (2, 2));
    let nobody = server.nobody();
    assert_eq!(nobody.fetch("Note", &public).await.get("pin"), None);
    nobody.get(&format!("/classes/Note/{own}")).await.refused(404, 101);
    nobody.put(&format!("/classes/Note/{public}"), json!({"n": 5})).await.refused(400, 119);
    nobody.post("/classes/Note", json!({"n": "text"})).await.refused(400, 111);
}
