//! Who listens all the time, goes on at another node with its cursor when one fails, and misses nothing.

use super::NEVER;
use super::ledger::CLASS;
use crate::harness::{Client, Live, PATIENCE, Value, cursor_of, id_of, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(super) struct Listener {
    heard: Arc<Mutex<Heard>>,
    /// Changes with each event.
    news: watch::Receiver<u64>,
    following: JoinHandle<()>,
}

#[derive(Default)]
pub(super) struct Heard {
    /// The count of each object, as heard last.
    pub(super) counts: BTreeMap<String, i64>,
    pub(super) events: u64,
    pub(super) connections: u64,
    /// The node of the last one.
    pub(super) at: String,
}

impl Heard {
    /// Nothing may be missing, come twice or in another order.
    fn take(&mut self, frame: &Value) {
        let (id, n) = (id_of(&frame["object"]), frame["object"]["n"].as_i64());
        let before = self.counts.get(&id).copied();
        match frame["op"].as_str() {
            Some("create") => assert_eq!((before, n), (None, Some(0)), "{frame}"),
            Some("update") => {
                assert_eq!((before.map(|n| n + 1), frame["original"]["n"].as_i64()), (n, before), "{frame}")
            }
            _ => panic!("it is told nothing else: {frame}"),
        }
        self.counts.insert(id, n.unwrap());
        self.events += 1;
    }
}

impl Listener {
    /// Begins at the first of these nodes, and goes to the next one when that closes the connection or is silent for so
    /// long. Returns when it is subscribed.
    pub(super) async fn begin(nodes: Vec<Client>, silence: Duration) -> Self {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let (tell, mut news) = watch::channel(0);
        let following = tokio::spawn(follow(nodes, silence, heard.clone(), tell));
        tokio::time::timeout(PATIENCE, news.changed()).await.expect("it is subscribed in time").unwrap();
        Self { heard, news, following }
    }

    pub(super) fn heard(&self) -> MutexGuard<'_, Heard> {
        assert!(!self.following.is_finished(), "a listener has failed; see above");
        self.heard.lock().unwrap()
    }

    /// Waits until it has heard this.
    pub(super) async fn hears(&self, what: impl Fn(&Heard) -> bool) {
        let mut news = self.news.clone();
        while !what(&self.heard()) {
            let changed = tokio::time::timeout(NEVER, news.changed());
            changed.await.expect("it hears nothing more").expect("a listener has failed; see above");
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.following.abort();
    }
}

async fn follow(nodes: Vec<Client>, silence: Duration, heard: Arc<Mutex<Heard>>, tell: watch::Sender<u64>) {
    let mut cursor = None;
    for node in nodes.iter().cycle() {
        let _ = listen(node, silence, &mut cursor, &heard, &tell).await;
        // Where all of them refuse, not as fast as they can.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Hears what one node tells, until it tells nothing more: `None`.
async fn listen(
    node: &Client,
    silence: Duration,
    cursor: &mut Option<String>,
    heard: &Mutex<Heard>,
    tell: &watch::Sender<u64>,
) -> Option<()> {
    let mut live = tokio::time::timeout(silence, Live::try_open(&node.url)).await.ok()?.ok()?;
    live.send(json!({"op": "connect", "applicationId": "app"})).await;
    let connected = live.next_within(silence).await?;
    assert_eq!(connected["op"], "connected", "{connected}");
    let mut subscribe = json!({"op": "subscribe", "requestId": 1, "query": {"className": CLASS, "where": {}}});
    if let Some(cursor) = cursor {
        subscribe["resumeFrom"] = cursor.as_str().into();
    }
    live.send(subscribe).await;
    loop {
        let frame = live.next_within(silence).await?;
        match frame["op"].as_str() {
            Some("subscribed") => {
                let mut heard = heard.lock().unwrap();
                (heard.connections, heard.at) = (heard.connections + 1, node.url.clone());
                let named = cursor_of(&frame);
                assert_eq!(*cursor.get_or_insert_with(|| named.clone()), named, "what is behind it comes");
            }
            Some("checkpoint") => *cursor = Some(cursor_of(&frame)),
            Some("error") => return None,
            _ => {
                heard.lock().unwrap().take(&frame);
                *cursor = Some(cursor_of(&frame));
            }
        }
        tell.send_modify(|news| *news += 1);
    }
}
