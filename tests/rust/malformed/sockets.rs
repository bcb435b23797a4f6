//! Connections that do not speak HTTP, or speak it too slowly or too much.

use crate::harness::{Launch, PATIENCE, Raw, json, status_of};
use tokio::time::Instant;

#[tokio::test]
async fn garbage_is_answered_below_500_or_not_at_all() {
    let mut server = Launch::plain().with(&["--head-timeout", "1"]).start();
    let upgrade = "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    let headers = (0..200).map(|n| format!("X-{n}: {n}\r\n")).collect::<String>();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 32) as u8
    })
    .take(4_096)
    .collect();
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("random bytes", noise),
        ("zeros", vec![0; 2_000]),
        ("line ends", b"\r\n\r\n\r\n\r\n".to_vec()),
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".iter().copied().chain([7; 512]).collect()),
        ("an HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec()),
        ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()),
        ("half a request line", b"GET /parse/hea".to_vec()),
        ("half a head", b"GET /parse/health HTTP/1.1\r\nHost: x\r\nX-Parse".to_vec()),
        ("no version", b"GET /parse/health\r\n\r\n".to_vec()),
        ("an unknown version", b"GET /parse/health HTTP/9.9\r\nHost: x\r\n\r\n".to_vec()),
        ("no method", b" /parse/health HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("a space in the path", b"GET /parse/he alth HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("bytes that are no text in the path", b"GET /parse/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("a zero byte in the path", b"GET /parse/\0 HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("an endless path", format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(100_000)).into_bytes()),
        ("a huge header", format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1_000_000)).into_bytes()),
        ("a huge head that does not end", format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(100_000)).into_bytes()),
        ("too many headers", format!("GET /parse/health HTTP/1.1\r\nHost: x\r\n{headers}\r\n").into_bytes()),
        ("a header without a colon", b"GET / HTTP/1.1\r\nnonsense\r\n\r\n".to_vec()),
        ("a header with a zero byte", b"GET / HTTP/1.1\r\nX: a\0b\r\n\r\n".to_vec()),
        ("a length that is no number", b"POST /parse/classes/Bad HTTP/1.1\r\nContent-Length: many\r\n\r\n{}".to_vec()),
        ("a negative length", b"POST /parse/classes/Bad HTTP/1.1\r\nContent-Length: -1\r\n\r\n{}".to_vec()),
        ("two lengths", b"POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\n{}".to_vec()),
        ("an endless length", b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n{}".to_vec()),
        (
            "length and chunks",
            b"POST /parse/classes/Bad HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_vec(),
        ),
        ("a chunk that is none", b"POST /parse/classes/Bad HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}".to_vec()),
        (
            "an endless chunk",
            b"POST /parse/classes/Bad HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}".to_vec(),
        ),
        ("a body that ends early", b"POST /parse/classes/Bad HTTP/1.1\r\nContent-Length: 10\r\n\r\n{}".to_vec()),
        ("an upgrade without a key", format!("GET / HTTP/1.1\r\n{upgrade}\r\n").into_bytes()),
        (
            "an upgrade to another version",
            format!("GET / HTTP/1.1\r\n{upgrade}Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: x\r\n\r\n").into_bytes(),
        ),
        ("an upgrade by POST", format!("POST / HTTP/1.1\r\n{upgrade}Sec-WebSocket-Key: x\r\n\r\n").into_bytes()),
        (
            "an upgrade with bytes that are no text",
            [b"GET /\xff HTTP/1.1\r\n", upgrade.as_bytes(), b"Sec-WebSocket-Key: \xff\r\n\r\n"].concat(),
        ),
        ("half an upgrade", format!("GET / HTTP/1.1\r\n{upgrade}").into_bytes()),
    ];
    let mut complaints = Vec::new();
    for (what, bytes) in &rows {
        let mut raw = Raw::open(server.port).await;
        raw.send(bytes).await;
        raw.finish().await;
        let answer = raw.rest().await;
        if status_of(&answer).is_some_and(|status| !(400..500).contains(&status)) {
            complaints.push(format!("{what}: {}", String::from_utf8_lossy(&answer)));
        }
    }
    super::report(rows.len(), &complaints);
    server.assert_well().await;
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_given_up() {
    let mut server = Launch::plain().with(&["--head-timeout", "1"]).start();
    let begin = Instant::now();
    let mut silent = Raw::open(server.port).await;
    let mut slow = Raw::open(server.port).await;
    slow.send(b"GET /parse/health HTTP/1.1\r\nHost: x\r\n").await;
    // The second head of a kept connection has no more time than the first.
    let mut kept = Raw::open(server.port).await;
    kept.send(b"GET /parse/health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(kept.status().await, 200);
    kept.send(b"GET /parse/hea").await;
    for (what, raw) in [("silent", &mut silent), ("slow", &mut slow), ("kept", &mut kept)] {
        let rest = raw.rest().await;
        assert!(!rest.starts_with(b"HTTP/1.1 2"), "{what}: {}", String::from_utf8_lossy(&rest));
    }
    let took = begin.elapsed();
    assert!(took.as_millis() >= 900 && took < PATIENCE / 2, "{took:?}");
    server.assert_well().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let mut server = Launch::plain().with(&["--body-timeout", "1"]).start();
    let mut raw = Raw::open(server.port).await;
    let begin = Instant::now();
    raw.send(
        b"POST /parse/classes/Bad HTTP/1.1\r\nHost: x\r\nX-Parse-Application-Id: app\r\nContent-Length: 100\r\n\r\n{",
    )
    .await;
    let rest = raw.rest().await;
    assert!(status_of(&rest).is_none_or(|status| (400..500).contains(&status)), "{}", String::from_utf8_lossy(&rest));
    assert!(begin.elapsed() < PATIENCE / 2, "{:?}", begin.elapsed());
    server.assert_well().await;
}

#[tokio::test]
async fn bodies_beyond_the_limit_are_413() {
    const LIMIT: usize = 20 << 20;
    let mut server = Launch::plain().start();
    let nobody = server.nobody();
    let head = "POST /parse/classes/Bad HTTP/1.1\r\nHost: x\r\nX-Parse-Application-Id: app\r\n";

    // By its length.
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(LIMIT));
    let mut raw = Raw::open(server.port).await;
    raw.send(format!("{head}Content-Length: {}\r\n\r\n", large.len()).as_bytes()).await;
    raw.send(large.as_bytes()).await;
    assert_eq!(raw.status().await, 413);

    // In chunks, where only counting tells.
    let mut raw = Raw::open(server.port).await;
    raw.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).await;
    let piece = [b"100000\r\n".as_slice(), &[b' '; 0x10_0000], b"\r\n"].concat();
    for _ in 0..=LIMIT / 0x10_0000 {
        raw.send(&piece).await;
    }
    raw.send(b"0\r\n\r\n").await;
    assert_eq!(raw.status().await, 413);

    // What fits is read, and its parts are judged on their own.
    let fitting = format!("{{\"n\":1,\"s\":\"{}\"}}", "x".repeat(LIMIT - 100));
    nobody.send("POST", "/classes/Bad", fitting).await.refused(400, 116);
    server.assert_well().await;
}

#[tokio::test]
async fn connections_beyond_the_cap_are_refused_and_places_are_given_back() {
    let mut server = Launch::plain().with(&["--max-connections", "3"]).start();
    let ask = b"GET /parse/health HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut kept = Vec::new();
    for _ in 0..3 {
        let mut raw = Raw::open(server.port).await;
        raw.send(ask).await;
        assert_eq!(raw.status().await, 200);
        kept.push(raw);
    }
    let mut fourth = Raw::open(server.port).await;
    fourth.send(ask).await;
    let refusal = fourth.rest().await;
    assert!(!refusal.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&refusal));
    drop(kept);
    // The server notices in its own time that they went away.
    let deadline = Instant::now() + PATIENCE;
    while server.nobody().try_send("GET", "/health", "").await.is_err() {
        assert!(Instant::now() < deadline, "no place is given back");
    }
    assert_eq!(server.nobody().get("/health").await.ok(), json!({"status": "ok"}));
    server.assert_well().await;
}

#[tokio::test]
async fn frames_that_break_the_websocket_protocol_end_only_their_connection() {
    let mut server = Launch::plain().start();
    let bystander = server.nobody();
    let mut notes = bystander.subscribe("Note", json!({})).await;
    let upgrade = b"GET /parse HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let rows: [(&str, &[u8]); 9] = [
        ("an unmasked frame", b"\x81\x02{}"),
        ("a reserved opcode", b"\x83\x80\0\0\0\0"),
        ("reserved bits", b"\xf1\x80\0\0\0\0"),
        ("text that is no UTF-8", b"\x81\x82\0\0\0\0\xff\xfe"),
        ("a fragmented ping", b"\x09\x80\0\0\0\0"),
        ("a long ping", b"\x89\xfe\x00\x7e\0\0\0\0"),
        ("a continuation of nothing", b"\x80\x80\0\0\0\0"),
        ("a frame of 2^63 bytes", b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0"),
        ("a close without a reason", b"\x88\x81\0\0\0\0x"),
    ];
    for (what, frame) in rows {
        let mut raw = Raw::open(server.port).await;
        raw.send(upgrade).await;
        assert_eq!(raw.status().await, 101, "{what}");
        raw.send(frame).await;
        raw.finish().await;
        raw.rest().await;
    }
    let id = bystander.create("Note", json!({})).await;
    notes.expect("create", &id).await;
    server.assert_well().await;
}
