//! MongoDBs for tests: one process for all of them, a replica set of one, and a database for each; and one process that
//! is no replica set.

use super::{Mongo, MongoOptions};
use mongodb::Client;
use mongodb::bson::doc;
use mongodb::options::ClientOptions;
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Names the program to start.
const PROGRAM: &str = "TIDINGS_TEST_MONGOD";
/// Names a server that runs already, instead.
const URL: &str = "TIDINGS_TEST_MONGODB_URL";

struct Server {
    port: u16,
    _guard: Child,
}

/// A database that no other test uses. `None`, and a word about it, where no MongoDB is at hand.
pub(crate) async fn url() -> Option<String> {
    let database = format!("tidings_test_{:08x}", rand::random::<u32>());
    if let Ok(url) = std::env::var(URL) {
        return Some(format!("{}/{database}?replicaSet=rs0", url.trim_end_matches('/')));
    }
    let program = program()?;
    static SERVER: OnceLock<Server> = OnceLock::new();
    let server = tokio::task::spawn_blocking(|| SERVER.get_or_init(|| start(program, true))).await.unwrap();
    initiate(server.port).await;
    Some(format!("mongodb://127.0.0.1:{}/{database}?replicaSet=rs0", server.port))
}

/// As [`url`], of a server that is no replica set.
pub(crate) async fn standalone_url() -> Option<String> {
    let program = program()?;
    static SERVER: OnceLock<Server> = OnceLock::new();
    let server = tokio::task::spawn_blocking(|| SERVER.get_or_init(|| start(program, false))).await.unwrap();
    Some(format!("mongodb://127.0.0.1:{}/tidings_test_{:08x}", server.port, rand::random::<u32>()))
}

fn program() -> Option<PathBuf> {
    let program = std::env::var_os(PROGRAM);
    if program.is_none() {
        // Not captured, so that it is seen although the test passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED: no MongoDB; name its program in {PROGRAM} (tests/run does)");
    }
    program.map(PathBuf::from)
}

/// Opens the store there.
pub(crate) async fn open(url: &str) -> Arc<Mongo> {
    Mongo::open(url, MongoOptions::default()).await.unwrap()
}

/// Statics are never dropped, so a small shell guards the server: it ends it, and removes its folder, when we end.
const GUARD: &str = r#"
us=$1 folder=$2; shift 2
"$@" & server=$!
while kill -0 "$us" 2>/dev/null; do sleep 0.2; done
kill "$server"; wait "$server"; rm -rf -- "$folder"
"#;

fn start(program: PathBuf, is_replicated: bool) -> Server {
    let folder = tempfile::tempdir().unwrap().keep();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut guard = Command::new("sh");
    guard.args(["-c", GUARD, "guard", &std::process::id().to_string()]).arg(&folder).arg(program);
    guard.args(["--bind_ip", "127.0.0.1", "--port", &port.to_string(), "--dbpath"]).arg(&folder);
    if is_replicated {
        guard.args(["--replSet", "rs0", "--oplogSize", "256"]);
    }
    guard.args(["--wiredTigerCacheSizeGB", "0.5", "--nounixsocket"]);
    guard.args(["--setParameter", "diagnosticDataCollectionEnabled=false", "--quiet"]);
    let guard = guard.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    Server { port, _guard: guard }
}

/// Makes it a replica set of one, unless it is, and waits until it takes writes.
async fn initiate(port: u16) {
    let host = format!("127.0.0.1:{port}");
    let options = ClientOptions::parse(format!("mongodb://{host}/?directConnection=true")).await.unwrap();
    let admin = Client::with_options(options).unwrap().database("admin");
    let set = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": host }] };
    let started = Instant::now();
    loop {
        // Fails once it is one, and while it starts.
        let _ = admin.run_command(doc! { "replSetInitiate": set.clone() }).await;
        let hello = admin.run_command(doc! { "hello": 1 }).await;
        if hello.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or_default()) {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "MongoDB does not start");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
