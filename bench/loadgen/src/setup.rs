//! `setup`: schema, users, conversations and pre-filled messages, remembered in a state file.

use crate::api::{Auth, Message, Target, epoch_ms, pointer, text};
use crate::http::{Client, Req};
use crate::stats::round;
use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

#[derive(Args, Clone)]
pub struct Opts {
    #[arg(long, default_value_t = 20)]
    users: usize,
    #[arg(long, default_value_t = 200)]
    conversations: usize,
    /// Messages to pre-fill, spread evenly over the conversations
    #[arg(long, default_value_t = 20_000)]
    rows: usize,
    #[arg(long, default_value_t = 4)]
    conns: usize,
    /// Do not touch /schemas
    #[arg(long)]
    no_schema: bool,
}

#[derive(Serialize, Deserialize, Clone)]
pub struct User {
    pub id: String,
    pub name: String,
    pub password: String,
    pub session: String,
}

#[derive(Serialize, Deserialize, Default)]
pub struct State {
    pub users: Vec<User>,
    pub conversations: Vec<String>,
    pub messages: Vec<String>,
    /// Clock before and after the pre-fill, ms
    pub filled: (i64, i64),
}

impl State {
    pub fn load(path: &Path) -> Result<Self> {
        let state: Self = serde_json::from_slice(&std::fs::read(path)?)?;
        if state.users.is_empty() || state.conversations.is_empty() {
            bail!("the state has no users or conversations");
        }
        Ok(state)
    }

    pub fn synthetic() -> Self {
        let ids = |p: &str, n: usize| (0..n).map(|i| format!("{p}{i:09}")).collect::<Vec<_>>();
        Self {
            users: ids("u", 20)
                .into_iter()
                .map(|id| User { name: id.clone(), password: "x".into(), session: format!("r:{id:0>32}"), id })
                .collect(),
            conversations: ids("c", 200),
            messages: ids("m", 1000),
            filled: (epoch_ms() - 1000, epoch_ms()),
        }
    }
}

async fn call(client: &mut Client, auth: Auth, method: &'static str, path: &str, body: &Value) -> Result<(u16, Value)> {
    let mut req = Req::default();
    req.reset(method, path, auth);
    req.body = body.to_string().into_bytes();
    let (status, body) = client.send(&req).await?;
    let value = serde_json::from_slice(body).unwrap_or_else(|_| json!(String::from_utf8_lossy(body)));
    Ok((status, value))
}

fn text_of<'a>(v: &'a Value, key: &str) -> Result<&'a str> {
    v[key].as_str().with_context(|| format!("no {key} in {v}"))
}

/// Creates a class; when it exists, adds what it lacks one member at a time.
async fn ensure_class(client: &mut Client, class: &str, fields: Value, indexes: Value) -> Result<()> {
    let path = format!("/schemas/{class}");
    let whole = json!({"className": class, "fields": fields, "indexes": indexes});
    let (status, reply) = call(client, Auth::Master, "POST", &path, &whole).await?;
    if status < 300 {
        return Ok(());
    }
    if reply["code"] != 103 {
        bail!("cannot create the class {class}: {status} {reply}");
    }
    for part in ["fields", "indexes"] {
        for (name, value) in whole[part].as_object().into_iter().flatten() {
            let one = json!({"className": class, part: {name: value}});
            call(client, Auth::Master, "PUT", &path, &one).await?; // an error means that it exists
        }
    }
    Ok(())
}

pub async fn run(target: Arc<Target>, opts: &Opts, text_len: usize, path: &Path) -> Result<Value> {
    let begun = Instant::now();
    let mut client = Client::new(target.clone());
    if !opts.no_schema {
        let pointer_to = |class: &str| json!({"type": "Pointer", "targetClass": class});
        ensure_class(&mut client, "Conversation", json!({"title": {"type": "String"}}), json!({})).await?;
        let fields = json!({
            "conversation": pointer_to("Conversation"), "sender": pointer_to("_User"), "text": {"type": "String"},
            "lgSeq": {"type": "Number"}, "lgAt": {"type": "Number"}, "lgTo": {"type": "Number"},
            "rank": {"type": "Number"}, "participants": {"type": "Array"}, "participantPtrs": {"type": "Array"},
        });
        let indexes = json!({
            "lg_conv_created": {"conversation": 1, "createdAt": -1},
            "lg_sender_created": {"sender": 1, "createdAt": -1},
        });
        ensure_class(&mut client, "Message", fields, indexes).await?;
    }

    let mut state = State::default();
    for i in 0..opts.users {
        let (name, password) = (format!("lguser{i}"), format!("lg-Pass-{i}"));
        let body = json!({"username": name, "password": password});
        // Without the master key: with it the server makes no session.
        let (mut status, mut reply) = call(&mut client, Auth::None, "POST", "/users", &body).await?;
        if reply["code"] == 202 {
            (status, reply) = call(&mut client, Auth::None, "POST", "/login", &body).await?;
        }
        if status >= 300 {
            bail!("cannot sign up {name}: {status} {reply}");
        }
        let id = text_of(&reply, "objectId")?.to_owned();
        state.users.push(User { id, name, password, session: text_of(&reply, "sessionToken")?.to_owned() });
    }
    for i in 0..opts.conversations {
        let body = json!({"title": format!("c{i}")});
        let (_, reply) = call(&mut client, Auth::Master, "POST", "/classes/Conversation", &body).await?;
        state.conversations.push(text_of(&reply, "objectId")?.to_owned());
    }
    state.filled.0 = epoch_ms();

    let fill_begun = Instant::now();
    let shared = Arc::new(state);
    let next = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> =
        (0..opts.conns).map(|_| tokio::spawn(fill(target.clone(), shared.clone(), next.clone(), opts.rows, text_len))).collect();
    let mut messages = Vec::with_capacity(opts.rows);
    for task in tasks {
        messages.extend(task.await??);
    }
    let fill_s = fill_begun.elapsed().as_secs_f64();

    let mut state = Arc::into_inner(shared).expect("fillers are done");
    state.messages = messages;
    state.filled.1 = epoch_ms();
    std::fs::write(path, serde_json::to_vec(&state)?)?;
    Ok(json!({
        "cmd": "setup", "users": state.users.len(), "conversations": state.conversations.len(),
        "rows": state.messages.len(), "rows_s": round(state.messages.len() as f64 / fill_s, 0),
        "secs": round(begun.elapsed().as_secs_f64(), 1), "state": path.display().to_string(),
    }))
}

async fn fill(
    target: Arc<Target>,
    state: Arc<State>,
    next: Arc<AtomicUsize>,
    rows: usize,
    text_len: usize,
) -> Result<Vec<String>> {
    const BATCH: usize = 50;
    let (mut client, mut req, mut rng) = (Client::new(target.clone()), Req::default(), fastrand::Rng::with_seed(7));
    let mut ids = Vec::new();
    loop {
        let from = next.fetch_add(BATCH, Ordering::Relaxed);
        if from >= rows {
            return Ok(ids);
        }
        req.reset("POST", "/batch", Auth::Master);
        batch_body(&mut req.body, &target.mount, from..rows.min(from + BATCH), |i, out| {
            let text = text(&mut rng, "", text_len);
            Message {
                conversation: &state.conversations[i % state.conversations.len()],
                sender: &state.users[i % state.users.len()].id,
                text: &text,
                seq: i as u64,
                at: 0,
                extra: "",
            }
            .write(out);
        });
        let (status, body) = client.send(&req).await?;
        let reply: Value = serde_json::from_slice(body).with_context(|| format!("status {status}"))?;
        for item in reply.as_array().with_context(|| format!("batch answered {status} {reply}"))? {
            ids.push(text_of(&item["success"], "objectId").with_context(|| format!("{item}"))?.to_owned());
        }
    }
}

/// The body of POST /batch that creates messages.
pub fn batch_body(out: &mut Vec<u8>, mount: &str, items: std::ops::Range<usize>, mut write: impl FnMut(usize, &mut Vec<u8>)) {
    out.extend_from_slice(br#"{"requests":["#);
    for i in items.clone() {
        if i > items.start {
            out.push(b',');
        }
        out.extend_from_slice(format!(r#"{{"method":"POST","path":"{mount}/classes/Message","body":"#).as_bytes());
        write(i, out);
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
}

/// The pointer that conversation `i` of a subscription test has; such conversations need not exist as objects.
pub fn fake_conversation(i: usize) -> String {
    format!("lg{i:08}")
}

pub fn conversation_pointer(i: usize) -> String {
    pointer("Conversation", &fake_conversation(i))
}
