//! The head of a connection's first request: is it a WebSocket upgrade?

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_tungstenite::tungstenite::handshake::server::{create_response, write_response};

/// A longer head is refused, as hyper would.
const MAX_HEAD: usize = 32 * 1024;
const MAX_HEADERS: usize = 100;

pub(super) struct Head;

/// What a connection opens with.
#[derive(Debug, PartialEq)]
pub(super) enum Opening {
    /// The peer went away.
    Closed,
    /// Not an upgrade (or not recognisably one): these bytes were read already.
    Http { read: Vec<u8> },
    /// An upgrade to be answered so; `read` came behind its head.
    WebSocket { answer: Vec<u8>, read: Vec<u8> },
    /// An upgrade that cannot be.
    Malformed { answer: Vec<u8> },
}

impl Head {
    /// Reads until the head is whole, or it is clear that hyper must deal with it.
    pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Opening {
        let mut read = Vec::with_capacity(2048);
        loop {
            match stream.read_buf(&mut read).await {
                Ok(0) | Err(_) => return Opening::Closed,
                Ok(_) => {}
            }
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut request = httparse::Request::new(&mut headers);
            match request.parse(&read) {
                Ok(httparse::Status::Partial) if read.len() < MAX_HEAD => {}
                Ok(httparse::Status::Complete(length)) if is_upgrade(&request) => {
                    return upgrade(&request, &read[length..]);
                }
                _ => return Opening::Http { read },
            }
        }
    }
}

/// What an upgrade that came as a later request of its connection is answered with; `None` for any other request.
pub(super) fn handshake<B>(request: &http::Request<B>) -> Option<Result<http::Response<()>, http::Response<String>>> {
    let upgrade = request.headers().get(http::header::UPGRADE)?;
    if request.method() != http::Method::GET || !upgrade.as_bytes().eq_ignore_ascii_case(b"websocket") {
        return None;
    }
    let mut bare = http::Request::new(());
    *bare.method_mut() = request.method().clone();
    *bare.version_mut() = request.version();
    *bare.headers_mut() = request.headers().clone();
    Some(accept(&bare).map_err(|text| {
        let mut refusal = http::Response::new(text);
        *refusal.status_mut() = http::StatusCode::BAD_REQUEST;
        refusal
    }))
}

/// The answer to a handshake, or what is wrong with it.
fn accept(request: &http::Request<()>) -> Result<http::Response<()>, String> {
    create_response(request).map_err(|error| format!("Not a WebSocket handshake: {error}\n"))
}

fn is_upgrade(request: &httparse::Request<'_, '_>) -> bool {
    request
        .headers
        .iter()
        .any(|header| header.name.eq_ignore_ascii_case("upgrade") && header.value.eq_ignore_ascii_case(b"websocket"))
}

fn upgrade(request: &httparse::Request<'_, '_>, rest: &[u8]) -> Opening {
    let refusal = |status: &str, text: &str| {
        let length = text.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
        );
        Opening::Malformed { answer: answer.into_bytes() }
    };
    let mut built = http::Request::builder()
        .method(request.method.unwrap_or_default())
        .uri(request.path.unwrap_or_default())
        .version(if request.version == Some(1) { http::Version::HTTP_11 } else { http::Version::HTTP_10 });
    for header in request.headers.iter() {
        built = built.header(header.name, header.value);
    }
    let Ok(request) = built.body(()) else { return refusal("400 Bad Request", "Malformed upgrade.\n") };
    match accept(&request) {
        Ok(response) => {
            let mut answer = Vec::with_capacity(256);
            match write_response(&mut answer, &response) {
                Ok(()) => Opening::WebSocket { answer, read: rest.to_vec() },
                Err(_) => refusal("400 Bad Request", "Malformed upgrade.\n"),
            }
        }
        Err(text) => refusal("400 Bad Request", &text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open(mut bytes: &[u8]) -> Opening {
        Head::read(&mut bytes).await
    }

    #[tokio::test]
    async fn an_upgrade_is_answered_and_the_rest_replayed() {
        let upgrade = b"GET /parse HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nmore";
        let Opening::WebSocket { answer, read } = open(upgrade).await else { panic!() };
        assert!(answer.starts_with(b"HTTP/1.1 101"));
        assert!(answer.windows(28).any(|window| window == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(read, b"more");
        let without_key = b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        assert!(
            matches!(open(without_key).await, Opening::Malformed { answer } if answer.starts_with(b"HTTP/1.1 400"))
        );
        for plain in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\nbody"[..], b"\x16\x03\x01 not http at all"] {
            assert_eq!(open(plain).await, Opening::Http { read: plain.to_vec() });
        }
        assert_eq!(open(b"GET / HT").await, Opening::Closed);
    }
}
