//! Bad input never gives a 5xx, a panic or a dropped server: tables of what is wrong, and what is said to it.
//!
//! Each row is one request, frame or connection. A table is run whole against a server of its own, and whatever was
//! answered otherwise is printed together; afterwards that server must be well.

mod frames;
mod requests;
mod sockets;

use crate::harness::{Answer, Client};

/// One request, and the status and Parse's code that it deserves; 0 where Parse gives no code.
struct Row {
    method: &'static str,
    path: String,
    body: Vec<u8>,
    status: u16,
    code: i64,
}

fn row(method: &'static str, path: impl Into<String>, body: impl Into<Vec<u8>>, status: u16, code: i64) -> Row {
    Row { method, path: path.into(), body: body.into(), status, code }
}

impl Row {
    async fn complaint(&self, client: &Client) -> Option<String> {
        let sent = String::from_utf8_lossy(&self.body[..self.body.len().min(200)]).into_owned();
        let sent = format!("{} {:.200} {sent}", self.method, self.path);
        match client.try_send(self.method, &self.path, self.body.clone()).await {
            Err(error) => Some(format!("{sent}\n    no answer: {error}")),
            Ok(answer) => flaw(&answer, self.status, self.code).map(|flaw| format!("{sent}\n    {flaw}")),
        }
    }
}

/// What is wrong with an answer, if anything is.
fn flaw(answer: &Answer, status: u16, code: i64) -> Option<String> {
    let found = answer.body["code"].as_i64().unwrap_or_default();
    if (answer.status, found) != (status, code) {
        let text = &answer.text;
        return Some(format!("got {}/{found}, expected {status}/{code}: {text:.300}", answer.status));
    }
    if status >= 400 && !answer.body["error"].is_string() {
        return Some(format!("the error is not told: {}", answer.text));
    }
    if answer.header("access-control-allow-origin").is_none() {
        return Some("browsers may not read this answer".into());
    }
    None
}

/// Runs every row and fails with all that were answered otherwise.
async fn check(client: &Client, rows: Vec<Row>) {
    assert!(!rows.is_empty());
    let mut complaints = Vec::new();
    for row in &rows {
        complaints.extend(row.complaint(client).await);
    }
    report(rows.len(), &complaints);
}

#[track_caller]
fn report(rows: usize, complaints: &[String]) {
    println!("{rows} rows");
    assert!(complaints.is_empty(), "{} of {rows} rows:\n{}", complaints.len(), complaints.join("\n"));
}
