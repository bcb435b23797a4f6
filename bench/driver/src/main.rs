//! The bare loop: 64 tasks that each send one command after the other through MongoDB's driver. The commands are those
//! that Tidings sends for loadgen's `create`, `get` and `query` (MongoDB's profiler shows both), on the objects that
//! loadgen's `setup` made through Tidings. Answers are read as the driver's `Document`s.

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use futures_util::StreamExt;
use mongodb::bson::{DateTime, Document, RawDocumentBuf, doc, rawdoc};
use mongodb::error::ErrorKind;
use mongodb::options::{Acknowledgment, ClientOptions, SessionOptions, WriteConcern};
use mongodb::{Client, Collection, Database};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

#[derive(Parser)]
struct Options {
    /// With the database in its path
    #[arg(long)]
    url: String,
    /// What `loadgen setup` wrote
    #[arg(long, required_if_eq_any([("what", "create"), ("what", "get"), ("what", "query")]))]
    state: Option<PathBuf>,
    #[arg(long, default_value_t = 5.0)]
    secs: f64,
    #[arg(short, long, default_value_t = 64)]
    conns: usize,
    /// Leave the documents of answers as the bytes they came in: nobody who asks does, but it is the least there can be
    #[arg(long)]
    unread: bool,
    what: What,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum What {
    /// Makes a started `mongod --replSet` a set of one, unless it is one, and waits until it takes writes
    Initiate,
    Create,
    Get,
    Query,
}

struct State {
    users: Vec<String>,
    conversations: Vec<String>,
    messages: Vec<String>,
    filled: (i64, i64),
}

impl State {
    fn read(json: &Value) -> Result<Self> {
        let ids = |name: &str, of: fn(&Value) -> Option<&str>| -> Result<Vec<String>> {
            let list = json[name].as_array().with_context(|| format!("the state has no {name}"))?;
            Ok(list.iter().filter_map(of).map(ToOwned::to_owned).collect())
        };
        let time = |at: usize| json["filled"][at].as_i64().context("the state does not say when it was filled");
        Ok(Self {
            users: ids("users", |user| user["id"].as_str())?,
            conversations: ids("conversations", Value::as_str)?,
            messages: ids("messages", Value::as_str)?,
            filled: (time(0)?, time(1)?),
        })
    }
}

struct Worker {
    client: Client,
    messages: Collection<Document>,
    unread: bool,
    state: Arc<State>,
    rng: fastrand::Rng,
    seq: i64,
}

impl Worker {
    async fn send(&mut self, what: What) -> Result<()> {
        match what {
            What::Initiate => Ok(()),
            What::Create => self.create().await,
            What::Get => self.get().await,
            What::Query => self.query().await,
        }
    }

    async fn create(&mut self) -> Result<()> {
        let id: String = (0..10).map(|_| self.rng.alphanumeric()).collect();
        let (sender, conversation) = (self.one(|state| &state.users), self.one(|state| &state.conversations));
        let text: String = (0..100).map(|_| self.rng.lowercase()).collect();
        self.seq += 1;
        let now = DateTime::now();
        let document = rawdoc! {
            "_id": id, "_created_at": now, "_updated_at": now, "_p_conversation": format!("Conversation${conversation}"),
            "_p_sender": format!("_User${sender}"), "text": text, "lgSeq": self.seq as f64, "lgAt": now.timestamp_millis() as f64,
        };
        let mut session = self.client.start_session().with_options(plain()).await?;
        self.messages.clone_with_type::<RawDocumentBuf>().insert_one(document).session(&mut session).await?;
        Ok(())
    }

    async fn get(&mut self) -> Result<()> {
        let id = self.one(|state| &state.messages);
        self.find(doc! { "_id": id }, None, 1).await
    }

    async fn query(&mut self) -> Result<()> {
        let conversation = self.one(|state| &state.conversations);
        let user = self.one(|state| &state.users);
        let before = DateTime::from_millis(self.rng.i64(self.state.filled.0..=self.state.filled.1));
        let filter = doc! { "$and": [
            { "_p_conversation": format!("Conversation${conversation}") },
            { "_created_at": { "$lt": before } },
            { "_rperm": { "$in": [null, "*", user] } },
        ] };
        self.find(filter, Some(doc! { "_created_at": -1 }), 21).await
    }

    async fn find(&self, filter: Document, sort: Option<Document>, limit: u32) -> Result<()> {
        let options = SessionOptions::builder().snapshot(true).build();
        let mut session = self.client.start_session().with_options(options).await?;
        let mut find = self.messages.find(filter).skip(0).limit(i64::from(limit)).batch_size(limit);
        if let Some(sort) = sort {
            find = find.sort(sort);
        }
        let mut cursor = find.session(&mut session).await?;
        while cursor.advance(&mut session).await? {
            match self.unread {
                true => drop(std::hint::black_box(cursor.current())),
                false => drop(std::hint::black_box(cursor.deserialize_current()?)),
            }
        }
        Ok(())
    }

    fn one(&mut self, of: fn(&State) -> &Vec<String>) -> String {
        let ids = of(&self.state);
        ids[self.rng.usize(..ids.len())].clone()
    }
}

fn plain() -> SessionOptions {
    SessionOptions::builder().causal_consistency(false).build()
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let mut settings = ClientOptions::parse(&options.url).await?;
    if options.what == What::Initiate {
        return initiate(settings).await;
    }
    let state = options.state.context("--state is missing")?;
    let state = Arc::new(State::read(&serde_json::from_slice(&std::fs::read(state)?)?)?);
    settings.max_pool_size = Some(options.conns as u32);
    settings.write_concern = Some(WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build());
    let client = Client::with_options(settings)?;
    let database = client.default_database().context("the URL names no database")?;
    // What is written is heard, as at Tidings.
    let heard = hear(&database).await?;
    let begin = Instant::now() + Duration::from_secs(1);
    let end = begin + Duration::from_secs_f64(options.secs);
    let mut tasks = Vec::new();
    for at in 0..options.conns {
        let mut worker = Worker {
            client: client.clone(),
            messages: database.collection("Message"),
            unread: options.unread,
            state: state.clone(),
            rng: fastrand::Rng::new(),
            seq: (at as i64) << 32,
        };
        tasks.push(tokio::spawn(async move {
            let mut done = 0_u64;
            while Instant::now() < end {
                worker.send(options.what).await?;
                // The first second only warms up.
                done += u64::from((begin..end).contains(&Instant::now()));
            }
            anyhow::Ok(done)
        }));
    }
    let mut done = 0;
    for task in tasks {
        done += task.await??;
    }
    heard.abort();
    let what = options.what.to_possible_value().map_or_else(String::new, |what| what.get_name().to_owned());
    println!("{}", json!({ "cmd": what, "conns": options.conns, "ops": done, "ops_s": done as f64 / options.secs }));
    Ok(())
}

async fn hear(database: &Database) -> Result<JoinHandle<()>> {
    let stream = doc! { "$changeStream": { "fullDocument": "whenAvailable", "fullDocumentBeforeChange": "whenAvailable" } };
    let mut stream = database.aggregate([stream]).max_await_time(Duration::from_millis(500)).batch().await?;
    Ok(tokio::spawn(async move {
        while let Some(Ok(batch)) = stream.next().await {
            std::hint::black_box(batch.doc_slices().map(|events| events.into_iter().count()).ok());
        }
    }))
}

async fn initiate(mut settings: ClientOptions) -> Result<()> {
    settings.direct_connection = Some(true);
    let host = settings.hosts.first().context("the URL names no host")?.to_string();
    let admin = Client::with_options(settings)?.database("admin");
    let set = doc! { "_id": "bench", "members": [{ "_id": 0, "host": host }] };
    if let Err(error) = admin.run_command(doc! { "replSetInitiate": set }).await
        && !matches!(&*error.kind, ErrorKind::Command(why) if why.code_name == "AlreadyInitialized")
    {
        return Err(error.into());
    }
    for _ in 0..300 {
        if admin.run_command(doc! { "hello": 1 }).await?.get_bool("isWritablePrimary")? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the set has no primary")
}
