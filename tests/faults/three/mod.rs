//! Three servers on a MongoDB of three members, and what happens to them while everybody writes and listens: each may die,
//! or stand still, at any moment.
//!
//! Nothing that was acknowledged is lost; who goes on with a cursor hears everything once, in order; and soon after
//! MongoDB takes writes again, so do we. `TIDINGS_FAULT_ROUNDS` asks for more rounds of all faults than one.

mod ledger;
mod listeners;
mod recovery;

use crate::harness::process::{self, Mongod};
use crate::harness::{Client, Launch, Server, alone, id_of, mongod, on_mongodb, set};
use ledger::{CLASS, Ledger};
use listeners::{Heard, Listener};
use recovery::{Recovery, is_member};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const WRITERS: usize = 16;
/// How many increments an object gets.
const INCREMENTS: usize = 50;
/// Between two writes of a writer: many, and no more than a small machine delivers to everybody.
const PACE: Duration = Duration::from_millis(20);
/// Who is impatient asks another node then, and leaves a write in doubt.
const IMPATIENT: Duration = Duration::from_secs(2);
/// Who is patient has an answer by then, whatever happens.
const PATIENT: Duration = Duration::from_secs(30);
/// Longer than anything takes, also on a busy machine: it will not happen any more.
const NEVER: Duration = Duration::from_secs(120);
/// How long a node stands still: longer than the impatient wait.
const STANDSTILL: Duration = Duration::from_secs(4);
/// So much later than MongoDB itself we may be.
const LATEST: Duration = Duration::from_secs(10);

struct World {
    members: Vec<Mongod>,
    nodes: Vec<Server>,
    clients: Vec<Client>,
    /// MongoDB itself, asked by nobody but the test.
    database: mongodb::Database,
    ledger: Arc<Ledger>,
    /// One per node who leaves it soon, and at last one of the first node who waits.
    listeners: Vec<Listener>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_nodes_and_members_fail() {
    let Some(program) = mongod() else { return };
    // Where the other stories are told on MongoDB, this one has been told already.
    if on_mongodb() {
        return;
    }
    alone();
    let mut world = World::begin(&program).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let writing = |writer| tokio::spawn(write(world.clients.clone(), writer, world.ledger.clone(), is_over.clone()));
    let writers: Vec<_> = (0..WRITERS).map(writing).collect();
    for _ in 0..super::faults::rounds(1) {
        world.round().await;
    }
    is_over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    world.end().await;
}

/// Counts in one object after the other, beginning at its own node, and going on at the next when one does not answer.
async fn write(nodes: Vec<Client>, writer: usize, ledger: Arc<Ledger>, is_over: Arc<AtomicBool>) {
    let patience = if writer.is_multiple_of(2) { IMPATIENT } else { PATIENT };
    while !is_over.load(Ordering::Relaxed) {
        let mut turns = nodes.iter().cycle().skip(writer);
        let mut node = turns.next().unwrap();
        let id = loop {
            match ledger.create(node, patience).await {
                Some(id) => break id,
                None => node = turns.next().unwrap(),
            }
        };
        for _ in 0..INCREMENTS {
            if !ledger.increment(node, &id, patience).await {
                node = turns.next().unwrap();
            }
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            tokio::time::sleep(PACE).await;
        }
    }
}

impl World {
    async fn begin(program: &std::path::Path) -> Self {
        let members = [0; 3].map(|_| process::start(program, Some(set::SET), &[]).unwrap());
        let ports = members.each_ref().map(|member| member.port);
        set::initiate(&ports, "").await.unwrap();
        let url = set::url(&ports, "faults", "");
        let nodes = [0; 3].map(|_| Launch::plain().with(&["--database-url", &url]).start());
        let clients: Vec<_> = nodes.iter().map(Server::nobody).collect();
        let ledger = Arc::new(Ledger::default());
        let mut listeners = Vec::new();
        for (first, silence) in [(0, IMPATIENT), (1, IMPATIENT), (2, IMPATIENT), (0, PATIENT)] {
            let nodes = clients.iter().cycle().skip(first).take(clients.len()).cloned().collect();
            listeners.push(Listener::begin(nodes, silence).await);
        }
        let database = recovery::database(&url).await;
        Self { members: members.into(), nodes: nodes.into(), clients, database, ledger, listeners }
    }

    async fn round(&mut self) {
        for node in 0..self.nodes.len() {
            self.fault(&format!("kill -9 of node {node}"), async |world| {
                world.nodes[node].kill();
                // By then everybody has gone elsewhere.
                world.hears_more().await;
                let mended = Instant::now();
                world.nodes[node].start_again();
                world.recovery(mended).await
            })
            .await;
        }

        self.fault("kill -9 of the primary", async |world| {
            let primary = world.primary().await;
            let since = Instant::now();
            world.members[primary].kill();
            let recovery = world.recovery(since).await;
            world.members[primary].start_again().unwrap();
            is_member(world.members[primary].port).await;
            recovery
        })
        .await;

        self.fault("a node stands still", async |world| {
            let (node, connections) = world.patient(|heard| (heard.at.clone(), heard.connections));
            let node = world.nodes.iter().position(|it| it.url == node).unwrap();
            world.nodes[node].pause();
            tokio::time::sleep(STANDSTILL).await;
            world.hears_more().await;
            let since = Instant::now();
            world.nodes[node].go_on();
            let recovery = world.recovery(since).await;
            // Who has waited hears what it has missed, on the connection that it had.
            assert_eq!(world.patient(|heard| heard.connections), connections);
            recovery
        })
        .await;

        self.fault("the primary stands still", async |world| {
            let primary = world.primary().await;
            let since = Instant::now();
            world.members[primary].pause();
            // Until another is elected, and all go on with that one.
            let recovery = world.recovery(since).await;
            world.members[primary].go_on();
            is_member(world.members[primary].port).await;
            recovery
        })
        .await;

        for (how, end) in [("kill -9", Mongod::kill as fn(&mut Mongod)), ("end", |member| member.terminate())] {
            self.fault(&format!("{how} of the whole database"), async |world| {
                world.members.iter_mut().for_each(end);
                world.members.iter_mut().for_each(Mongod::wait);
                let since = Instant::now();
                world.members.iter_mut().for_each(|member| member.start_again().unwrap());
                world.recovery(since).await
            })
            .await;
        }
    }

    /// Does this to the world, waits until all is well again, and tells how it was.
    async fn fault(&mut self, what: &str, fault: impl AsyncFnOnce(&mut Self) -> Recovery) {
        let (acknowledged, in_doubt, events) = self.counts();
        let recovery = fault(self).await;
        let now = self.counts();
        println!(
            "{what}: {} writes acknowledged, {} in doubt, {} events heard; {recovery}",
            now.0 - acknowledged,
            now.1 - in_doubt,
            now.2 - events,
        );
        recovery.check(what);
    }

    fn counts(&self) -> (u64, u64, u64) {
        let events = self.listeners.iter().map(|listener| listener.heard().events).sum();
        (self.ledger.acknowledged.load(Ordering::Relaxed), self.ledger.in_doubt.load(Ordering::Relaxed), events)
    }

    /// Of the listener who waits.
    fn patient<T>(&self, what: impl Fn(&Heard) -> T) -> T {
        what(&self.listeners[self.nodes.len()].heard())
    }

    /// Until those who do not wait hear what is new.
    async fn hears_more(&self) {
        for listener in &self.listeners[..self.nodes.len()] {
            let events = listener.heard().events;
            listener.hears(|heard| heard.events > events).await;
        }
    }

    /// All that is in the database was asked for, all that was acknowledged is there, and all of it was heard.
    async fn end(mut self) {
        self.ledger.settle(&self.clients, PATIENT).await;
        let mut all = Vec::new();
        for node in &mut self.nodes {
            node.assert_well().await;
            let master = node.master();
            let found = master.find_by(CLASS, &[("limit", "1000000")]).await;
            all.push(found.iter().map(|it| (id_of(it), it["n"].as_i64().unwrap())).collect::<BTreeMap<_, _>>());
        }
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "all nodes find the same");
        self.ledger.check(&all[0]);
        let changes = all[0].values().map(|n| n + 1).sum::<i64>();
        for listener in &self.listeners {
            let hears = listener.hears(|heard| heard.events >= changes as u64);
            tokio::time::timeout(PATIENT, hears).await.expect("everything is heard in time");
        }
        // And nothing more, before one more.
        let last = self.ledger.create(&self.clients[0], PATIENT).await.unwrap();
        all[0].insert(last.clone(), 0);
        for listener in &self.listeners {
            listener.hears(|heard| heard.counts.contains_key(&last)).await;
            assert_eq!(listener.heard().counts, all[0]);
        }
        let (acknowledged, in_doubt, events) = self.counts();
        let connections: Vec<_> = self.listeners.iter().map(|listener| listener.heard().connections).collect();
        println!(
            "{acknowledged} writes acknowledged, {in_doubt} in doubt, {changes} made; refused with {:?}; {events} events \
             heard over {connections:?} connections: none lost, none twice, no fresh result",
            self.ledger.refusals()
        );
        assert!(acknowledged > 1_000, "hardly anything was written");
    }
}
