//! REST load: a weighted mix of operations over keep-alive connections.

use crate::Run;
use crate::api::{Auth, AuthMode, Message, Target, iso, percent_encode, pointer, text};
use crate::http::{Client, Req};
use crate::proc::{Sample, rss_mib};
use crate::setup::{State, User, batch_body};
use crate::stats::{Errors, Latency, now_us, round};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, PartialEq)]
pub enum Op {
    Create,
    Get,
    /// with this limit
    Query(usize),
    Update,
    /// of this many creates
    Batch(usize),
    Login,
}

impl Op {
    fn name(self) -> &'static str {
        match self {
            Op::Create => "create",
            Op::Get => "get",
            Op::Query(_) => "query",
            Op::Update => "update",
            Op::Batch(_) => "batch",
            Op::Login => "login",
        }
    }
}

pub fn parse_mix(s: &str) -> Result<Vec<(Op, f64)>> {
    s.split(',')
        .map(|part| {
            let (name, weight) = part.split_once('=').context("a mix is name=weight,...")?;
            let op = match name.trim() {
                "create" => Op::Create,
                "get" => Op::Get,
                "query" => Op::Query(20),
                "update" => Op::Update,
                "batch" => Op::Batch(50),
                "login" => Op::Login,
                other => bail!("unknown operation {other}"),
            };
            Ok((op, weight.trim().parse()?))
        })
        .collect()
}

/// Builds requests for one connection.
pub struct Builder {
    target: Arc<Target>,
    state: Arc<State>,
    auth: AuthMode,
    text_len: usize,
    rng: fastrand::Rng,
    seq: u64,
}

impl Builder {
    pub fn new(run: &Run, worker: usize) -> Self {
        Self {
            target: run.target.clone(),
            state: run.state.clone(),
            auth: run.auth,
            text_len: run.text_len,
            rng: fastrand::Rng::with_seed(1 + worker as u64),
            seq: (worker as u64) << 32,
        }
    }

    fn auth_of(&self, user: &User) -> Auth {
        match self.auth {
            AuthMode::Session => Auth::Session(user.session.clone()),
            AuthMode::Master => Auth::Master,
            AuthMode::None => Auth::None,
        }
    }

    fn build(&mut self, op: Op, req: &mut Req) {
        let state = self.state.clone();
        let user = &state.users[self.rng.usize(..state.users.len())];
        let auth = self.auth_of(user);
        let conversation = &state.conversations[self.rng.usize(..state.conversations.len())];
        let message_id = |rng: &mut fastrand::Rng| &state.messages[rng.usize(..state.messages.len())];
        match op {
            Op::Create => {
                req.reset("POST", "/classes/Message", auth);
                self.message(conversation, &user.id, &mut req.body);
            }
            Op::Get => {
                req.reset("GET", "/classes/Message/", auth);
                req.path.push_str(message_id(&mut self.rng));
            }
            Op::Query(limit) => {
                let before = iso(self.rng.i64(state.filled.0..=state.filled.1));
                let r#where = format!(
                    r#"{{"conversation":{},"createdAt":{{"$lt":{{"__type":"Date","iso":"{before}"}}}}}}"#,
                    pointer("Conversation", conversation)
                );
                req.reset("GET", "/classes/Message?where=", auth);
                req.path.push_str(&percent_encode(&r#where));
                req.path.push_str(&format!("&order=-createdAt&limit={limit}"));
            }
            Op::Update => {
                req.reset("PUT", "/classes/Message/", auth);
                req.path.push_str(message_id(&mut self.rng));
                req.body.extend_from_slice(format!(r#"{{"text":"{}"}}"#, text(&mut self.rng, "edit ", self.text_len)).as_bytes());
            }
            Op::Batch(size) => {
                req.reset("POST", "/batch", auth);
                let mount = self.target.mount.clone();
                batch_body(&mut req.body, &mount, 0..size, |_, out| self.message(conversation, &user.id, out));
            }
            Op::Login => {
                req.reset("POST", "/login", Auth::None);
                req.body.extend_from_slice(json!({"username": user.name, "password": user.password}).to_string().as_bytes());
            }
        }
    }

    fn message(&mut self, conversation: &str, sender: &str, out: &mut Vec<u8>) {
        self.seq += 1;
        let text = text(&mut self.rng, "", self.text_len);
        Message { conversation, sender, text: &text, seq: self.seq, at: now_us(), extra: "" }.write(out);
    }
}

#[derive(Default)]
struct Tally {
    latency: Vec<Latency>,
    errors: Errors,
    body_bytes: u64,
}

/// When one worker of `n` sends, in an open loop of `rate` operations per second in total.
pub struct Pace {
    next: Instant,
    step: Duration,
}

impl Pace {
    pub fn new(rate: f64, worker: usize, n: usize, start: Instant) -> Option<Self> {
        (rate > 0.0).then(|| {
            let step = Duration::from_secs_f64(n as f64 / rate);
            Self { next: start + step.mul_f64(worker as f64 / n as f64), step }
        })
    }

    /// Waits for the next slot and returns the time at which it was due.
    pub async fn wait(&mut self) -> Instant {
        let due = self.next;
        self.next += self.step;
        tokio::time::sleep_until(due.into()).await;
        due
    }
}

pub async fn run(run: Run, name: &str, mix: Vec<(Op, f64)>, conns: usize) -> Result<Value> {
    if run.state.messages.is_empty() && mix.iter().any(|(op, _)| matches!(op, Op::Get | Op::Update)) {
        bail!("the state has no messages: run setup with --rows");
    }
    let start = Instant::now();
    let measured = start + Duration::from_secs_f64(run.warmup);
    let end = measured + Duration::from_secs_f64(run.secs);
    let mix = Arc::new(mix);
    let tasks: Vec<_> = (0..conns)
        .map(|i| {
            let pace = Pace::new(run.rate, i, conns, start);
            let client = Client::new(run.target.clone());
            tokio::spawn(worker(client, Builder::new(&run, i), mix.clone(), pace, measured, end))
        })
        .collect();

    tokio::time::sleep_until(measured.into()).await;
    let before = Sample::take(&run.watch);
    tokio::time::sleep_until(end.into()).await;
    let after = Sample::take(&run.watch);

    let mut total = Tally { latency: mix.iter().map(|_| Latency::default()).collect(), ..Default::default() };
    for task in tasks {
        let tally = task.await?;
        total.errors.merge(tally.errors);
        total.body_bytes += tally.body_bytes;
        total.latency.iter_mut().zip(&tally.latency).for_each(|(a, b)| a.merge(b));
    }
    let mut all = Latency::default();
    let mut by_op = Map::new();
    for ((op, _), latency) in mix.iter().zip(&total.latency) {
        all.merge(latency);
        by_op.insert(op.name().into(), json!({"per_s": round(latency.count() as f64 / run.secs, 1), "ms": latency.to_json()}));
    }
    let mut out = json!({
        "cmd": name, "conns": conns, "rate": run.rate, "secs": run.secs, "ops": all.count(),
        "ops_s": round(all.count() as f64 / run.secs, 1), "ms": all.to_json(),
        "errors": total.errors.count, "error_samples": total.errors.samples,
        "body_bytes_avg": total.body_bytes / all.count().max(1),
        "cpu": after.cores_since(&before), "cpu_us_per_op": after.us_per(&before, all.count()), "rss_mib": rss_mib(&run.watch),
    });
    if let [(Op::Batch(size), _)] = mix[..] {
        out["objects_s"] = json!(round((all.count() * size as u64) as f64 / run.secs, 1));
    }
    if mix.len() > 1 {
        out["by_op"] = by_op.into();
    }
    Ok(out)
}

async fn worker(
    mut client: Client,
    mut builder: Builder,
    mix: Arc<Vec<(Op, f64)>>,
    mut pace: Option<Pace>,
    measured: Instant,
    end: Instant,
) -> Tally {
    let mut tally = Tally { latency: mix.iter().map(|_| Latency::default()).collect(), ..Default::default() };
    let weight: f64 = mix.iter().map(|(_, w)| w).sum();
    let mut req = Req::default();
    loop {
        let mut pick = builder.rng.f64() * weight;
        let which = mix
            .iter()
            .position(|(_, w)| {
                pick -= w;
                pick < 0.0
            })
            .unwrap_or(mix.len() - 1);
        let due = match &mut pace {
            Some(pace) => pace.wait().await,
            None => Instant::now(),
        };
        if Instant::now() >= end {
            return tally;
        }
        builder.build(mix[which].0, &mut req);
        let reply = client.send(&req).await;
        let done = Instant::now();
        let counted = done >= measured && done < end;
        match reply {
            // the parts of a batch fail one by one
            Ok((200..=299, body))
                if !(matches!(mix[which].0, Op::Batch(_)) && memchr::memmem::find(body, b"{\"error\"").is_some()) =>
            {
                if counted {
                    tally.latency[which].record(done - due);
                    tally.body_bytes += body.len() as u64;
                }
            }
            Ok((status, body)) => tally.errors.http(status, body),
            Err(e) => {
                tally.errors.add(|| format!("{e:#}"));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
