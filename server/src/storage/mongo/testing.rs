//! MongoDBs for tests: one process for all of them, a replica set of one, and a database for each; and one process that
//! is no replica set.

#[path = "../../../../tests/mongod/process.rs"]
mod process;
#[path = "../../../../tests/mongod/set.rs"]
mod set;

use super::{Mongo, MongoOptions};
use process::Mongod;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// Names the program to start.
const PROGRAM: &str = "TIDINGS_TEST_MONGOD";
/// Names a server that runs already, instead.
const URL: &str = "TIDINGS_TEST_MONGODB_URL";

/// A database that no other test uses. `None`, and a word about it, where no MongoDB is at hand.
pub(crate) async fn url() -> Option<String> {
    let database = database();
    if let Ok(url) = std::env::var(URL) {
        let (server, options) = url.split_once('?').unwrap_or((&url, ""));
        return Some(format!("{}/{database}?{options}", server.trim_end_matches('/')));
    }
    let program = program()?;
    static MONGOD: OnceLock<Mongod> = OnceLock::new();
    let port = started(&MONGOD, program, Some(set::SET)).await;
    set::initiate(&[port], "").await.unwrap();
    Some(set::url(&[port], &database, ""))
}

/// As [`url`], of a server that is no replica set.
pub(crate) async fn standalone_url() -> Option<String> {
    let program = program()?;
    static MONGOD: OnceLock<Mongod> = OnceLock::new();
    let port = started(&MONGOD, program, None).await;
    Some(format!("mongodb://127.0.0.1:{port}/{}", database()))
}

fn database() -> String {
    format!("tidings_test_{:08x}", rand::random::<u32>())
}

fn program() -> Option<PathBuf> {
    let program = std::env::var_os(PROGRAM);
    if program.is_none() {
        // Not captured, so that it is seen although the test passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED: no MongoDB; name its program in {PROGRAM} (tests/run does)");
    }
    program.map(PathBuf::from)
}

async fn started(mongod: &'static OnceLock<Mongod>, program: PathBuf, set: Option<&'static str>) -> u16 {
    let start = move || mongod.get_or_init(|| process::start(&program, set, &[]).unwrap()).port;
    tokio::task::spawn_blocking(start).await.unwrap()
}

/// Opens the store there.
pub(crate) async fn open(url: &str) -> Arc<Mongo> {
    Mongo::open(url, MongoOptions::default()).await.unwrap()
}
