//! How soon all is well again: MongoDB itself, each node's writes, and what is heard of them.

use super::listeners::Heard;
use super::{IMPATIENT, LATEST, NEVER, World};
use futures_util::future::join_all;
use mongodb::bson::{Document, doc};
use mongodb::options::{Acknowledgment, ClientOptions, WriteConcern};
use mongodb::{Client, Database};
use std::fmt;
use std::time::{Duration, Instant};

pub(super) struct Recovery {
    /// The first write that MongoDB has on the disks of most.
    database: Duration,
    /// The first write that each node has acknowledged.
    written: Duration,
    /// When all listeners have heard of those.
    heard: Duration,
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { database, written, heard } = self;
        write!(f, "the database is back after {database:.2?}, writes after {written:.2?}, events after {heard:.2?}")
    }
}

impl Recovery {
    pub(super) fn check(&self, what: &str) {
        assert!(self.written.max(self.heard) <= self.database + LATEST, "{what}: {self}");
    }
}

/// A driver that notices at once what happens, so that it says when MongoDB itself is well.
pub(super) async fn database(url: &str) -> Database {
    let mut options = ClientOptions::parse(url).await.unwrap();
    options.heartbeat_freq = Some(Duration::from_millis(500));
    options.connect_timeout = Some(Duration::from_secs(1));
    options.server_selection_timeout = Some(Duration::from_secs(1));
    options.retry_writes = Some(false);
    options.write_concern = Some(WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build());
    Client::with_options(options).unwrap().database("bare")
}

/// Asks again and again.
async fn until<T>(attempt: impl AsyncFn() -> Option<T>) -> T {
    let trying = async {
        loop {
            match attempt().await {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(NEVER, trying).await.expect("it comes back")
}

/// Until a server is a member of its set that follows another.
pub(super) async fn is_member(port: u16) {
    let member = database(&format!("mongodb://127.0.0.1:{port}/?directConnection=true")).await;
    until(async || {
        let hello = member.run_command(doc! { "hello": 1 }).await.ok()?;
        hello.get_bool("secondary").is_ok_and(|it| it).then_some(())
    })
    .await;
}

impl World {
    /// Which member takes writes.
    pub(super) async fn primary(&self) -> usize {
        until(async || {
            let hello = self.database.run_command(doc! { "hello": 1 }).await.ok()?;
            let primary = hello.get_str("primary").ok()?;
            self.members.iter().position(|member| primary.ends_with(&format!(":{}", member.port)))
        })
        .await
    }

    /// Since then, waiting until all is well.
    pub(super) async fn recovery(&self, since: Instant) -> Recovery {
        let database = async {
            let rows = self.database.collection::<Document>("rows");
            until(async || tokio::time::timeout(IMPATIENT, rows.insert_one(doc! {})).await.ok()?.ok()).await;
            since.elapsed()
        };
        let nodes = join_all(self.clients.iter().map(|client| async {
            let id = until(async || self.ledger.create(client, IMPATIENT).await).await;
            let written = since.elapsed();
            (id, written)
        }));
        let (database, nodes) = tokio::join!(database, nodes);
        let (ids, written): (Vec<_>, Vec<_>) = nodes.into_iter().unzip();
        let has_all = |heard: &Heard| ids.iter().all(|id| heard.counts.contains_key(id));
        join_all(self.listeners.iter().map(|listener| listener.hears(has_all))).await;
        Recovery { database, written: written.into_iter().max().unwrap(), heard: since.elapsed() }
    }
}
