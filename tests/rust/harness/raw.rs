//! Bytes on a socket, for what no client library would send.

use super::PATIENCE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) struct Raw(TcpStream);

impl Raw {
    pub(crate) async fn open(port: u16) -> Self {
        Self(TcpStream::connect(("127.0.0.1", port)).await.unwrap())
    }

    /// A server that has already closed is no failure: what it said can still be read.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let sending = tokio::time::timeout(PATIENCE, self.0.write_all(bytes));
        let _ = sending.await.expect("the server takes what we send");
    }

    /// Says that nothing more comes.
    pub(crate) async fn finish(&mut self) {
        let _ = self.0.shutdown().await;
    }

    /// Everything until the server closes.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        // A reset is an end, too.
        let reading = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut all));
        let _ = reading.await.expect("the server ends the connection");
        all
    }

    /// Everything up to these bytes and what came with them, or until the server closes.
    pub(crate) async fn until(&mut self, end: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        let reading = tokio::time::timeout(PATIENCE, async {
            while !all.windows(end.len()).any(|window| window == end) {
                match self.0.read_buf(&mut all).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        });
        reading.await.expect("an answer");
        all
    }

    /// One answer, whose body is not awaited: its status.
    pub(crate) async fn status(&mut self) -> u16 {
        let head = self.until(b"\r\n\r\n").await;
        status_of(&head).unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(&head)))
    }
}

/// The status of a first line, if there is one.
pub(crate) fn status_of(answer: &[u8]) -> Option<u16> {
    let line = answer.strip_prefix(b"HTTP/1.1 ").or_else(|| answer.strip_prefix(b"HTTP/1.0 "))?;
    std::str::from_utf8(line.get(..3)?).ok()?.parse().ok()
}
