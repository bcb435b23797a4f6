//! What must survive: kill -9 at any moment, and many writers of one field.
//!
//! `TIDINGS_FAULT_ROUNDS` asks for more rounds than the 20 of the suite.

use crate::harness::{Client, Launch, Value, alone, id_of, json, on_mongodb, pointer};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const WRITERS: usize = 64;

/// What a writer knows of one of its objects.
#[derive(Clone, Debug)]
struct Known {
    /// The last acknowledged version; 0 if not even the create was.
    version: u64,
    /// Whether an update to the next version was under way when the server died.
    in_doubt: bool,
}

/// What one writer knows after its server died: its pointer, and its objects by id.
struct Account {
    owner: Value,
    objects: HashMap<String, Known>,
}

/// An object that says in every part which version it is, so that a torn one shows.
fn content(version: u64) -> Value {
    json!({"version": version, "text": format!("version {version} ").repeat(20), "list": [version, {"again": version}]})
}

#[track_caller]
fn check_whole(object: &Value) -> u64 {
    let version = object["version"].as_u64().unwrap_or_else(|| panic!("no version in {object}"));
    for (name, value) in content(version).as_object().unwrap() {
        assert_eq!(object[name], *value, "{object}");
    }
    assert_eq!(object["count"].as_u64(), Some(version), "increments went with their update: {object}");
    version
}

async fn write_until_the_end(client: Client, owner: Value, stop: Arc<AtomicBool>) -> Account {
    let mut objects: HashMap<String, Known> = HashMap::new();
    let mut order: Vec<String> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        // Two updates follow each create, of the newest object and of an older one.
        let mut fields = content(1);
        fields["owner"] = owner.clone();
        fields["count"] = 1.into();
        let Ok(answer) = client.try_send("POST", "/classes/Thing", fields.to_string()).await else { break };
        let id = id_of(&answer.created());
        objects.insert(id.clone(), Known { version: 1, in_doubt: false });
        order.push(id);
        for at in [order.len() - 1, order.len() / 2] {
            let id = &order[at];
            let known = objects.get_mut(id).unwrap();
            let mut fields = content(known.version + 1);
            fields["count"] = json!({"__op": "Increment", "amount": 1});
            known.in_doubt = true;
            match client.try_send("PUT", &format!("/classes/Thing/{id}"), fields.to_string()).await {
                Ok(answer) => {
                    assert_eq!(answer.ok()["count"], known.version + 1);
                    *known = Known { version: known.version + 1, in_doubt: false };
                }
                Err(_) => return Account { owner, objects },
            }
        }
    }
    Account { owner, objects }
}

#[derive(Default, Debug)]
struct Tally {
    acknowledged: usize,
    in_doubt: usize,
    unacknowledged: usize,
}

/// Every acknowledged object is there and whole, and every query through an index finds exactly what gets find.
async fn verify(client: &Client, accounts: &[Account]) -> Tally {
    let mut tally = Tally::default();
    let mut everything = BTreeMap::new();
    for Account { owner, objects } in accounts {
        let filter = json!({"owner": owner}).to_string();
        let found = client.find_by("Thing", &[("where", &filter), ("order", "createdAt"), ("limit", "10000")]).await;
        let stamps: Vec<_> = found.iter().map(|object| object["createdAt"].as_str().unwrap().to_owned()).collect();
        assert!(stamps.is_sorted(), "{stamps:?}");
        let found: BTreeMap<String, Value> = found.into_iter().map(|object| (id_of(&object), object)).collect();
        assert_eq!(found.len(), stamps.len(), "one object twice in {stamps:?}");
        for (id, object) in &found {
            check_whole(object);
            assert_eq!(object["owner"], *owner);
            assert_eq!(client.fetch("Thing", id).await, *object, "find and get agree");
        }
        for (id, known) in objects {
            let object = found.get(id).unwrap_or_else(|| panic!("{id} was acknowledged and is gone: {known:?}"));
            let version = check_whole(object);
            let allowed = known.version..=known.version + u64::from(known.in_doubt);
            assert!(allowed.contains(&version), "{id} has version {version}, known is {known:?}");
            tally.acknowledged += 1;
            tally.in_doubt += usize::from(known.in_doubt);
        }
        tally.unacknowledged += found.len() - objects.len();
        let newest = client.find_by("Thing", &[("where", &filter), ("order", "-createdAt"), ("limit", "3")]).await;
        let newest: Vec<_> = newest.iter().map(|object| object["createdAt"].as_str().unwrap().to_owned()).collect();
        assert_eq!(newest, stamps.into_iter().rev().take(3).collect::<Vec<_>>());
        everything.extend(found);
    }
    // Many owners at once, many ids at once, and without any index.
    let owners: Vec<_> = accounts.iter().map(|account| &account.owner).collect();
    let ids: BTreeSet<_> = everything.into_keys().collect();
    let find = async |filter: Value| {
        let master = client.clone().header("X-Parse-Master-Key", "master");
        let body = json!({"_method": "GET", "where": filter, "limit": 1_000_000, "keys": "version"});
        let found = master.post("/classes/Thing", body).await.ok();
        found["results"].as_array().unwrap().iter().map(id_of).collect::<BTreeSet<_>>()
    };
    let mut by_id = BTreeSet::new();
    for some in ids.iter().collect::<Vec<_>>().chunks(5_000) {
        by_id.extend(find(json!({"objectId": {"$in": some}})).await);
    }
    assert_eq!(by_id, ids);
    let either: Vec<_> = owners.iter().map(|owner| json!({"owner": owner})).collect();
    for filter in [
        json!({"owner": {"$in": owners}}),
        json!({"$or": either, "version": {"$gte": 1}}),
        json!({"text": {"$regex": "^version"}, "$nor": [{"owner": {"$nin": owners}}]}),
    ] {
        assert_eq!(find(filter.clone()).await, ids, "{:.100}", filter.to_string());
    }
    tally
}

/// How many rounds are asked for, else so many.
pub(crate) fn rounds(otherwise: usize) -> usize {
    std::env::var("TIDINGS_FAULT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(otherwise)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9() {
    alone();
    let mut server = Launch::plain().start();
    let mut random = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos() | 1;
    println!("the moments of death follow from {random}");
    let (mut all, mut ready) = (Vec::new(), Vec::new());
    let mut sum = Tally::default();
    for round in 0..rounds(20) {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        let life = Duration::from_millis(u64::from(random % 900));
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let owner = pointer("Owner", &format!("r{round}w{writer}"));
                tokio::spawn(write_until_the_end(server.nobody(), owner, stop.clone()))
            })
            .collect();
        tokio::time::sleep(life).await;
        server.kill();
        stop.store(true, Ordering::Relaxed);
        let mut accounts = Vec::new();
        for writer in writers {
            accounts.push(writer.await.unwrap());
        }
        server.start_again();
        ready.push(server.ready_after);
        let tally = verify(&server.nobody(), &accounts).await;
        println!("round {round}: killed after {life:?}, ready after {:?}, {tally:?}", server.ready_after);
        sum.acknowledged += tally.acknowledged;
        sum.in_doubt += tally.in_doubt;
        sum.unacknowledged += tally.unacknowledged;
        all.extend(accounts);
    }
    // What was good in its round is good after all others: nothing more, nothing less.
    let count = server.master().query("Thing", &[("limit", "0"), ("count", "1")]).await.ok();
    assert_eq!(count["count"].as_u64(), Some((sum.acknowledged + sum.unacknowledged) as u64));
    let known: HashMap<&String, &Known> = all.iter().flat_map(|account| &account.objects).collect();
    let (mut after, mut seen) = (String::new(), 0);
    loop {
        let filter = json!({"objectId": {"$gt": after}}).to_string();
        let page =
            server.master().find_by("Thing", &[("where", &filter), ("order", "objectId"), ("limit", "5000")]).await;
        let Some(last) = page.last() else { break };
        after = id_of(last);
        for object in &page {
            let version = check_whole(object);
            if let Some(known) = known.get(&id_of(object)) {
                assert!((known.version..=known.version + 1).contains(&version), "{object}");
                seen += 1;
            }
        }
    }
    assert_eq!(seen, sum.acknowledged);
    ready.sort_unstable();
    println!("{} rounds: {sum:?}; ready again after {:?} (median)", rounds(20), ready[ready.len() / 2]);
    assert!(sum.acknowledged > rounds(20) * WRITERS, "hardly anything was written");
    server.assert_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_increment_is_lost() {
    // On MongoDB each waits for a journal's write of its own.
    let increments = if on_mongodb() { 50 } else { 1_000 };
    alone();
    let mut server = Launch::plain().start();
    let id = server.nobody().create("Counter", json!({"n": 0})).await;
    let begin = Instant::now();
    let sum = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..WRITERS)
        .map(|_| {
            // A client each, so each has a connection of its own and keeps it.
            let (client, id, sum) = (server.nobody(), id.clone(), sum.clone());
            tokio::spawn(async move {
                for _ in 0..increments {
                    let answer = client.update("Counter", &id, json!({"n": {"__op": "Increment", "amount": 1}})).await;
                    sum.fetch_add(answer["n"].as_u64().unwrap(), Ordering::Relaxed);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let took = begin.elapsed();
    let total = WRITERS as u64 * increments;
    assert_eq!(server.nobody().fetch("Counter", &id).await["n"], total);
    assert_eq!(sum.load(Ordering::Relaxed), total * (total + 1) / 2, "each client was told a number of its own");
    println!("{total} increments in {took:?}: {:.0} a second", total as f64 / took.as_secs_f64());
    server.kill();
    server.start_again();
    assert_eq!(server.nobody().fetch("Counter", &id).await["n"], total);
}

#[test]
fn an_empty_store_is_ready_soon() {
    alone();
    let mut times: Vec<_> = (0..5).map(|_| Launch::plain().start().ready_after).collect();
    times.sort_unstable();
    println!("ready on an empty store after {times:?}");
    assert!(times[2] < Duration::from_millis(1_500), "{times:?}");
}
