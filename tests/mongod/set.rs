//! MongoDB processes as a replica set.

use mongodb::Client;
use mongodb::bson::{Bson, doc};
use mongodb::options::ClientOptions;
use std::time::{Duration, Instant};

/// The name of every set.
pub(crate) const SET: &str = "rs0";

/// How long a primary may be silent before another is elected: half of MongoDB's own, as tests wait for it.
const ELECTION: Duration = Duration::from_secs(5);

/// How long a set may take until it has a primary.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes these servers a replica set, unless they are one, and waits until it takes writes. `options` are more of a URL's:
/// `&tls=true`.
///
/// # Errors
/// When it does not in a minute.
pub(crate) async fn initiate(ports: &[u16], options: &str) -> Result<(), mongodb::error::Error> {
    let host = |port: u16| format!("127.0.0.1:{port}");
    let members = ports.iter().zip(0..).map(|(port, id)| Bson::from(doc! { "_id": id, "host": host(*port) }));
    let settings = doc! { "electionTimeoutMillis": ELECTION.as_millis() as i64, "heartbeatIntervalMillis": 1_000 };
    let set = doc! { "_id": SET, "members": members.collect::<Vec<_>>(), "settings": settings };
    let mut options =
        ClientOptions::parse(format!("mongodb://{}/?directConnection=true{options}", host(ports[0]))).await?;
    options.server_selection_timeout = Some(PATIENCE);
    let admin = Client::with_options(options)?.database("admin");
    let started = Instant::now();
    loop {
        // Fails once it is one.
        let _ = admin.run_command(doc! { "replSetInitiate": set.clone() }).await;
        match admin.run_command(doc! { "hello": 1 }).await {
            Ok(hello) if hello.get_bool("isWritablePrimary").unwrap_or_default() => return Ok(()),
            Err(error) if started.elapsed() > PATIENCE => return Err(error),
            Ok(_) if started.elapsed() > PATIENCE => {
                return Err(mongodb::error::Error::custom("the replica set has no primary"));
            }
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Where a database of a set is found, with more options.
pub(crate) fn url(ports: &[u16], database: &str, options: &str) -> String {
    let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    format!("mongodb://{}/{database}?replicaSet={SET}{options}", hosts.join(","))
}
