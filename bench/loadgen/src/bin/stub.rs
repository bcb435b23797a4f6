//! A Parse-shaped server without a database or matching: POST answers a constant 201 and broadcasts the body to every
//! LiveQuery connection. Usage: stub PORT [THREADS]. The ceiling of `loadgen fanout` (and, hand-rolled, of `create`).
use futures_util::{SinkExt, StreamExt};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

type Subs = Arc<Mutex<Vec<mpsc::UnboundedSender<Utf8Bytes>>>>;

fn main() {
    let a: Vec<String> = std::env::args().collect();
    let port: u16 = a[1].parse().unwrap();
    let threads: usize = a.get(2).map_or(1, |t| t.parse().unwrap());
    let rt = if threads == 1 {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    } else {
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap()
    };
    rt.block_on(async {
        let subs = Subs::default();
        let sock = tokio::net::TcpSocket::new_v4().unwrap();
        sock.set_reuseaddr(true).unwrap();
        sock.bind(([127, 0, 0, 1], port).into()).unwrap();
        let l: TcpListener = sock.listen(4096).unwrap();
        println!("stub ready");
        loop {
            let (s, _) = l.accept().await.unwrap();
            s.set_nodelay(true).unwrap();
            tokio::spawn(conn(s, subs.clone()));
        }
    });
}

async fn conn(mut s: TcpStream, subs: Subs) {
    let mut buf = vec![0; 65536];
    let n = s.peek(&mut buf).await.unwrap_or(0);
    if buf[..n].windows(10).any(|w| w.eq_ignore_ascii_case(b"upgrade: w")) {
        return ws(s, subs).await;
    }
    let mut have = 0;
    loop {
        let head = loop {
            if let Some(i) = buf[..have].windows(4).position(|w| w == b"\r\n\r\n") {
                break i + 4;
            }
            match s.read(&mut buf[have..]).await {
                Ok(0) | Err(_) => return,
                Ok(n) => have += n,
            }
        };
        let text = String::from_utf8_lossy(&buf[..head]).to_ascii_lowercase();
        let len: usize = text.lines().find_map(|l| l.strip_prefix("content-length: ")).map_or(0, |v| v.trim().parse().unwrap());
        while have < head + len {
            match s.read(&mut buf[have..]).await {
                Ok(0) | Err(_) => return,
                Ok(n) => have += n,
            }
        }
        if len > 0 {
            let body = std::str::from_utf8(&buf[head..head + len]).unwrap();
            let mut subs = subs.lock().unwrap();
            if !subs.is_empty() {
                let frame = Utf8Bytes::from(format!(
                    r#"{{"op":"create","clientId":"0123456789abcdef0123456789abcdef","requestId":1,"object":{{"className":"Message","objectId":"abcdefghij","createdAt":"2026-01-01T00:00:00.000Z","updatedAt":"2026-01-01T00:00:00.000Z",{}}}"#,
                    &body[1..]
                ));
                subs.retain(|tx| tx.send(frame.clone()).is_ok());
            }
        }
        const OUT: &[u8] = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 64\r\n\r\n{\"objectId\":\"abcdefghij\",\"createdAt\":\"2026-01-01T00:00:00.000Z\"}";
        if s.write_all(OUT).await.is_err() {
            return;
        }
        buf.copy_within(head + len..have, 0);
        have -= head + len;
    }
}

async fn ws(s: TcpStream, subs: Subs) {
    let mut cfg = tokio_tungstenite::tungstenite::protocol::WebSocketConfig::default();
    cfg.read_buffer_size = 4096;
    cfg.write_buffer_size = 16 * 1024;
    let Ok(ws) = tokio_tungstenite::accept_async_with_config(s, Some(cfg)).await else { return };
    let (mut tx, mut rx) = ws.split();
    let (send, mut recv) = mpsc::unbounded_channel::<Utf8Bytes>();
    loop {
        tokio::select! {
            m = rx.next() => match m {
                Some(Ok(Message::Text(t))) => {
                    let reply = if t.contains("\"connect\"") { r#"{"op":"connected","clientId":"x"}"#.to_owned() } else {
                        subs.lock().unwrap().push(send.clone());
                        r#"{"op":"subscribed","requestId":1}"#.to_owned()
                    };
                    if tx.send(Message::text(reply)).await.is_err() { return; }
                }
                Some(Ok(_)) => {}
                _ => return,
            },
            Some(f) = recv.recv() => {
                if tx.feed(Message::Text(f)).await.is_err() { return; }
                // everything queued goes out in one write
                while let Ok(f) = recv.try_recv() { if tx.feed(Message::Text(f)).await.is_err() { return; } }
                if tx.flush().await.is_err() { return; }
            }
        }
    }
}
