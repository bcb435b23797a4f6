//! Where the servers under test keep their objects: in their folder, or in a MongoDB that `TIDINGS_TEST_DATABASE_URL`
//! names, each in a database of its own.

use mongodb::bson::doc;
use mongodb::options::ClientOptions;
use std::path::PathBuf;
use std::time::Duration;

/// A database that is not dropped by then stays: it goes with its server.
const PATIENCE: Duration = Duration::from_secs(5);
const PROGRAM: &str = "TIDINGS_TEST_MONGOD";
const URL: &str = "TIDINGS_TEST_DATABASE_URL";

/// Whether servers are started on MongoDB, for what only one of the stores promises or does quickly.
pub(crate) fn on_mongodb() -> bool {
    std::env::var_os(URL).is_some()
}

/// The program of a MongoDB, for stories that start one of their own; `None`, and a word about it, where none is named.
pub(crate) fn mongod() -> Option<PathBuf> {
    let program = std::env::var_os(PROGRAM);
    if program.is_none() {
        eprintln!("SKIPPED: {PROGRAM} names no mongod");
    }
    program.map(PathBuf::from)
}

/// A database that nobody else has; dropped with this.
pub(crate) struct Database {
    pub(crate) url: String,
    name: String,
}

impl Database {
    /// `None` where servers keep their objects in their folder.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let url = std::env::var(URL).ok()?;
        let (server, options) = url.split_once('?').unwrap_or((&url, ""));
        let url = format!("{}/{name}?{options}", server.trim_end_matches('/'));
        Some(Self { url, name: name.to_owned() })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (url, name) = (self.url.clone(), self.name.clone());
        // A runtime of its own, as the test's cannot be waited for here.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut options = ClientOptions::parse(url).await.map_err(std::io::Error::other)?;
                options.server_selection_timeout = Some(PATIENCE);
                let client = mongodb::Client::with_options(options).map_err(std::io::Error::other)?;
                let dropping = async { client.database(&name).run_command(doc! { "dropDatabase": 1 }).await };
                let dropped = tokio::time::timeout(PATIENCE, dropping).await.map_err(std::io::Error::other)?;
                dropped.map(drop).map_err(std::io::Error::other)
            })
        });
        if let Ok(Err(error)) = dropping.join() {
            eprintln!("the database {} was not dropped: {error}", self.name);
        }
    }
}
