//! What the embedded store does per second: `cargo bench --bench store [-- creates gets chat million]`.
//!
//! `fill FOLDER COUNT` and `open FOLDER` are the halves of the last one, for a profiler. Each part prints its numbers; `million` fills a store with a million objects in a process that then dies, and opens
//! it again. `SECONDS` (5) is how long each part runs, `STORE` where the files go (a temporary
//! folder), `FILLED` a store that `fill` made before.

// The numbers are the output.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use compact_str::format_compact;
use rand::Rng;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidings_protocol::query::{Constraint, Order};
use tidings_protocol::{ClassName, Date, Object, ObjectId, Predicate, Value, map};
use tidings_server::permissions::Principals;
use tidings_server::schema::FieldType;
use tidings_server::storage::embedded::{Embedded, EmbeddedOptions};
use tidings_server::storage::{Action, Guard, Selection, Storage, Write};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if let [role, folder, count] = arguments.as_slice()
        && role == "fill"
    {
        return fill(Path::new(folder), count.parse().unwrap());
    }
    if let [role, folder] = arguments.as_slice()
        && role == "open"
    {
        return println!("opened in {}", opening(|| Embedded::open(Path::new(folder), EmbeddedOptions::default())).1);
    }
    let runs = |part: &str| arguments.is_empty() || arguments.iter().any(|argument| argument == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if runs("creates") {
        for clients in [1, 16, 64, 1_000] {
            let folder = Folder::new();
            let store = folder.open();
            let rates = runtime.block_on(creates(&store, clients));
            println!("creates, {clients} clients: {rates}");
        }
    }
    if runs("gets") || runs("chat") {
        let folder = Folder::new();
        let store = folder.open();
        runtime.block_on(make_chat(&store));
        if runs("gets") {
            println!("gets, hot, 1 thread: {}", per_second(1, || get(&store, hot_id())));
        }
        if runs("chat") {
            println!("chat queries, hot, 1 thread: {}", per_second(1, || chat(&store)));
            println!("chat queries, hot, 2 threads: {}", per_second(2, || chat(&store)));
            let clients = runtime.spawn(background(store.clone()));
            println!("chat queries while others write, 1 thread: {}", per_second(1, || chat(&store)));
            clients.abort();
        }
    }
    if runs("million") {
        let count = 1_000_000_u64;
        let folder = Folder::filled(count);
        for _ in 0..3 {
            // Each time the same crash: a copy of the files as the dead process left them.
            let copy = folder.copy();
            let (store, times) = opening(|| copy.open());
            println!("opened in {times}");
            assert!(store.schemas().contains_key(&class()));
        }
        settle();
        let store = folder.open();
        println!("gets of {count}, 1 thread: {}", per_second(1, || get(&store, million_id(count))));
        println!("chat queries of {count}, 1 thread: {}", per_second(1, || chat(&store)));
        println!("creates on {count}, 10,000 a second: {}", runtime.block_on(paced(&store, 10_000)));
        println!("creates on {count}, 64 clients: {}", runtime.block_on(creates(&store, 64)));
        println!("creates on {count}, 16 clients: {}", runtime.block_on(creates(&store, 16)));
    }
}

fn opening<T>(open: impl FnOnce() -> T) -> (T, String) {
    let (started, before) = (Instant::now(), thread_nanos());
    let store = open();
    let busy = Duration::from_nanos(thread_nanos() - before);
    (store, format!("{:.0?}, {busy:.0?} of CPU", started.elapsed()))
}

/// Where a store lives; removed at the end.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new() -> Self {
        let parent = std::env::var_os("STORE").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = parent.join(format!("tidings-bench-{}-{:x}", std::process::id(), rand::random::<u32>()));
        Self { path }
    }

    /// A store that a process filled and left by dying; `FILLED` names one from before.
    fn filled(count: u64) -> Self {
        let folder = Self::new();
        if let Some(before) = std::env::var_os("FILLED") {
            copy_folder(Path::new(&before), &folder.path);
            settle();
            return folder;
        }
        let program = std::env::current_exe().unwrap();
        let started = Instant::now();
        let status = std::process::Command::new(program).arg("fill").arg(&folder.path).arg(count.to_string()).status();
        println!("{count} objects in {:.1} s, then {}", started.elapsed().as_secs_f64(), status.unwrap());
        folder
    }

    fn open(&self) -> Arc<Embedded> {
        Embedded::open(&self.path, EmbeddedOptions::default()).unwrap()
    }

    fn copy(&self) -> Self {
        let copy = Self::new();
        copy_folder(&self.path, &copy.path);
        copy
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Waits until copied files are on disk: their writing would slow down every fsync that is measured.
fn settle() {
    std::process::Command::new("sync").status().unwrap();
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn seconds() -> Duration {
    Duration::from_secs(std::env::var("SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5))
}

fn class() -> ClassName {
    ClassName::from_trusted("Message")
}

fn conversation(n: u64) -> Value {
    Value::pointer(ClassName::from_trusted("Conversation"), ObjectId::new(format_compact!("conv{n:06}")))
}

fn message(id: ObjectId, conversation_number: u64, at: Date) -> Write {
    let sender = Value::pointer(ClassName::USER, ObjectId::new(format_compact!("user{:06}", conversation_number % 97)));
    let fields = map! {
        "text" => "Shall we meet at seven, at the usual place? I could bring the notes from last week.",
        "conversation" => conversation(conversation_number),
        "sender" => sender,
        "kind" => "text",
        "likes" => 0.0,
    };
    let columns = fields.iter().filter_map(|(name, value)| Some((name.clone(), FieldType::of(value)?))).collect();
    let object = Object { id: id.clone(), created_at: at, updated_at: at, acl: None, fields };
    Write { class: class(), id, action: Action::Create(object), guard: Guard::default(), fields: columns }
}

fn now() -> Date {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Date::from_millis(since.as_millis() as i64).unwrap()
}

fn random_id() -> ObjectId {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    ObjectId::new((0..10).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect::<String>())
}

/// Durable creates by so many clients, each waiting for its answer: rate and latencies.
async fn creates(store: &Arc<Embedded>, clients: usize) -> String {
    let until = Instant::now() + seconds();
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while Instant::now() < until {
                    let started = Instant::now();
                    let conversation = rand::rng().random_range(0..10_000);
                    store.commit(vec![message(random_id(), conversation, now())]).await.unwrap();
                    latencies.push(started.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    summary(latencies)
}

/// Creates that come at a fixed rate whatever the store does; latencies count from when each was due.
async fn paced(store: &Arc<Embedded>, rate: u32) -> String {
    let started = Instant::now();
    let mut answers = Vec::new();
    let count = rate * seconds().as_secs() as u32;
    for n in 0..count {
        let due = started + Duration::from_secs(1) * n / rate;
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        let answer = store.commit(vec![message(random_id(), u64::from(n) % 10_000, now())]);
        answers.push(tokio::spawn(async move {
            answer.await.unwrap();
            due.elapsed()
        }));
    }
    let mut latencies = Vec::new();
    for answer in answers {
        latencies.push(answer.await.unwrap());
    }
    summary(latencies)
}

fn summary(mut latencies: Vec<Duration>) -> String {
    latencies.sort_unstable();
    let rate = latencies.len() as f64 / seconds().as_secs_f64();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    format!("{rate:.0}/s, p50 {:.2} p99 {:.2} p99.9 {:.2} worst {:.1} ms", at(0.5), at(0.99), at(0.999), at(1.0))
}

/// 200 conversations of 100 messages, a second between messages.
async fn make_chat(store: &Arc<Embedded>) {
    let mut answers = Vec::new();
    for n in 0..20_000_u64 {
        let at = Date::from_millis(1_700_000_000_000 + n as i64 * 1_000).unwrap();
        answers.push(store.commit(vec![message(hot(n), n % 200, at)]));
    }
    for answer in answers {
        answer.await.unwrap();
    }
}

fn hot(n: u64) -> ObjectId {
    ObjectId::new(format_compact!("hot{n:07}"))
}

fn hot_id() -> ObjectId {
    hot(rand::rng().random_range(0..20_000))
}

fn million_id(count: u64) -> ObjectId {
    filled(rand::rng().random_range(0..count))
}

/// Ids in no order, which can be named again.
fn filled(n: u64) -> ObjectId {
    ObjectId::new(format_compact!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

fn get(store: &Embedded, id: ObjectId) {
    block(async { store.snapshot().await.unwrap().get(&class(), &id).await.unwrap().unwrap() });
}

/// The newest 20 messages of some conversation before some time.
fn chat(store: &Embedded) {
    let mut rng = rand::rng();
    let before = 1_700_000_000_000 + rng.random_range(5_000_000..20_000_000);
    let before = Value::Date(Date::from_millis(before).unwrap());
    let predicate = Predicate::equal("conversation", conversation(rng.random_range(0..200)))
        .and(Predicate::field("createdAt", Constraint::Lt(before)));
    let order = vec![Order { path: "createdAt".into(), descending: true }];
    let selection =
        Selection { predicate, order, limit: 20, ..Selection::all(class(), Principals::user(ObjectId::new("u"))) };
    let found = block(async { store.snapshot().await.unwrap().find(&selection).await.unwrap() });
    assert_eq!(found.len(), 20);
}

/// Reads of this store never wait, so that one poll is enough.
fn block<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("a read waited"),
    }
}

fn per_second(threads: usize, work: impl Fn() + Sync) -> String {
    let (done, busy) = (AtomicU64::new(0), AtomicU64::new(0));
    let until = Instant::now() + seconds();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut mine = 0;
                let before = thread_nanos();
                while Instant::now() < until {
                    work();
                    mine += 1;
                }
                done.fetch_add(mine, Ordering::Relaxed);
                busy.fetch_add(thread_nanos() - before, Ordering::Relaxed);
            });
        }
    });
    let (done, busy) = (done.into_inner() as f64, busy.into_inner() as f64);
    format!("{:.0}/s, {:.1} µs of CPU each", done / seconds().as_secs_f64(), busy / 1e3 / done)
}

/// Time this thread has been on a processor: what counts where the machine is shared with others.
fn thread_nanos() -> u64 {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    statistics.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or_default()
}

/// New messages in the conversations that are read, one after the other.
async fn background(store: Arc<Embedded>) {
    loop {
        let conversation = rand::rng().random_range(0..200);
        store.commit(vec![message(random_id(), conversation, now())]).await.unwrap();
    }
}

/// Fills a store and dies without a word to it.
fn fill(folder: &Path, count: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let store = Embedded::open(folder, EmbeddedOptions::default()).unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..256_u64)
            .map(|client| {
                let store = store.clone();
                tokio::spawn(async move {
                    for n in (client..count).step_by(256) {
                        let at = Date::from_millis(1_700_000_000_000 + n as i64 * 20).unwrap();
                        store.commit(vec![message(filled(n), n % 10_000, at)]).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    std::process::abort();
}
