//! What writers were answered: the least and the most that must be there afterwards.

use crate::harness::{Client, Value, id_of, json};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The class that everybody writes to and listens to.
pub(super) const CLASS: &str = "Count";

#[derive(Default)]
pub(super) struct Ledger {
    /// The increments of each object whose create was answered.
    objects: Mutex<BTreeMap<String, Increments>>,
    pub(super) acknowledged: AtomicU64,
    pub(super) in_doubt: AtomicU64,
    creates_in_doubt: AtomicU64,
    /// What was answered in place of a yes: how often with which status.
    refusals: Mutex<BTreeMap<u16, u64>>,
}

#[derive(Clone, Copy, Default, Debug)]
struct Increments {
    acknowledged: i64,
    in_doubt: i64,
}

impl Ledger {
    /// A new object's id, if the create was answered in time.
    pub(super) async fn create(&self, client: &Client, patience: Duration) -> Option<String> {
        let answer = self.send(client, "POST", &format!("/classes/{CLASS}"), json!({"n": 0}), patience).await;
        let id = answer.as_ref().map(id_of);
        match &id {
            Some(id) => drop(self.objects.lock().unwrap().insert(id.clone(), Increments::default())),
            None => drop(self.creates_in_doubt.fetch_add(1, Ordering::Relaxed)),
        }
        id
    }

    /// Whether an increment was answered in time.
    pub(super) async fn increment(&self, client: &Client, id: &str, patience: Duration) -> bool {
        let plus = json!({"n": {"__op": "Increment", "amount": 1}});
        let answer = self.send(client, "PUT", &format!("/classes/{CLASS}/{id}"), plus, patience).await;
        let mut objects = self.objects.lock().unwrap();
        let increments = objects.get_mut(id).unwrap();
        match &answer {
            Some(_) => increments.acknowledged += 1,
            None => increments.in_doubt += 1,
        }
        answer.is_some()
    }

    async fn send(&self, client: &Client, method: &str, path: &str, body: Value, patience: Duration) -> Option<Value> {
        let sent = tokio::time::timeout(patience, client.try_send(method, path, body.to_string())).await;
        if let Ok(Ok(answer)) = sent {
            if answer.status < 300 {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
                return Some(answer.body);
            }
            assert!(answer.status >= 500, "{method} {path} is no fault of ours: {}", answer.text);
            *self.refusals.lock().unwrap().entry(answer.status).or_default() += 1;
        }
        self.in_doubt.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Has every write that is in doubt come to its end. A node makes the writes of an object in the order of their
    /// calls, so whatever it had under way is done or gone when it answers another.
    pub(super) async fn settle(&self, nodes: &[Client], patience: Duration) {
        let objects = self.objects.lock().unwrap().clone();
        for (id, _) in objects.iter().filter(|(_, increments)| increments.in_doubt > 0) {
            for node in nodes {
                assert!(self.increment(node, id, patience).await, "{} answers nothing", node.url);
            }
        }
    }

    /// That all of what was acknowledged is among these objects, and nothing but what was asked for.
    pub(super) fn check(&self, found: &BTreeMap<String, i64>) {
        let objects = self.objects.lock().unwrap();
        for (id, increments) in objects.iter() {
            let n = *found.get(id).unwrap_or_else(|| panic!("{id} was acknowledged and is gone: {increments:?}"));
            let allowed = increments.acknowledged..=increments.acknowledged + increments.in_doubt;
            assert!(allowed.contains(&n), "{id} counts {n}: {increments:?}");
        }
        let unknown = found.keys().filter(|id| !objects.contains_key(*id)).count() as u64;
        let in_doubt = self.creates_in_doubt.load(Ordering::Relaxed);
        assert!(unknown <= in_doubt, "{unknown} objects that nobody knows; {in_doubt} creates are in doubt");
    }

    pub(super) fn refusals(&self) -> BTreeMap<u16, u64> {
        self.refusals.lock().unwrap().clone()
    }
}
