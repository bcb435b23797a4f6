use super::*;
use std::net::IpAddr;
use std::sync::Weak;
use std::sync::atomic::{AtomicUsize, Ordering};
use tidings_cloud_code::{Call, Level, RateLimiter, Save};
use tidings_protocol::{Date, Map, ObjectId, Query};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Answers every call after a short sleep; saves run the hooks of their class, as the real host's do.
struct FakeHost {
    runtime: Handle,
    hooks: Hooks,
    limiter: RateLimiter,
    in_memory: bool,
    /// Gets wait until it is closed.
    gate: Semaphore,
    gets: AtomicUsize,
    saves: AtomicUsize,
    _this: Weak<()>,
}

impl FakeHost {
    fn plug(hooks: &Hooks, in_memory: bool) -> Arc<Self> {
        let host = Self::plug_held(hooks, in_memory);
        host.gate.close();
        host
    }

    /// As [`Self::plug`], but every get waits until the gate is closed for good.
    fn plug_held(hooks: &Hooks, in_memory: bool) -> Arc<Self> {
        let host = Arc::new(Self {
            runtime: Handle::current(),
            hooks: hooks.clone(),
            limiter: RateLimiter::default(),
            in_memory,
            gate: Semaphore::new(0),
            gets: AtomicUsize::new(0),
            saves: AtomicUsize::new(0),
            _this: Weak::new(),
        });
        hooks.plug(host.clone());
        host
    }

    fn waited<T>(&self, call: &Call<'_>, future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        wait(&self.runtime, call.deadline, future).unwrap_or_else(|| Err(Error::new(Code::Timeout, "too late")))
    }
}

impl Host for FakeHost {
    fn find(&self, call: &Call<'_>, _: Query) -> Result<Vec<Object>, Error> {
        self.waited(call, async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(Vec::new())
        })
    }

    fn count(&self, call: &Call<'_>, query: Query) -> Result<u64, Error> {
        self.find(call, query).map(|found| found.len() as u64)
    }

    fn get(&self, call: &Call<'_>, _: &ClassName, id: &ObjectId) -> Result<Option<Object>, Error> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.waited(call, async {
            let _ = self.gate.acquire().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(Some(Object { id: id.clone(), ..Object::default() }))
        })
    }

    fn get_from_memory(&self, _: &Call<'_>, _: &ClassName, id: &ObjectId) -> Option<Result<Option<Object>, Error>> {
        self.in_memory.then(|| Ok(Some(Object { id: id.clone(), ..Object::default() })))
    }

    fn save(&self, call: &Call<'_>, save: Save) -> Result<Option<Object>, Error> {
        self.saves.fetch_add(1, Ordering::Relaxed);
        let request = save_request(&save.class, "{}");
        self.waited(call, async {
            tokio::task::yield_now().await;
            self.hooks.before_save(request.clone()).await?;
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.hooks.after_save(request).await;
            Ok(Some(Object { id: ObjectId::new("saved"), ..Object::default() }))
        })
    }

    fn delete(&self, _: &Call<'_>, _: &ClassName, _: &ObjectId) -> Result<(), Error> {
        Ok(())
    }

    fn rate_limit(&self, key: &str, limit: usize, window: Duration) -> bool {
        self.limiter.take(key, limit, window, Instant::now())
    }

    fn now(&self) -> Date {
        Date::default()
    }

    fn log(&self, _: Level, _: &str, _: &str) {}
}

fn save_request(class: &str, fields: &str) -> SaveRequest {
    let auth = Auth::anonymous(IpAddr::from([127, 0, 0, 1]));
    let fields = Map::from_json(fields.as_bytes()).unwrap();
    let object = Object { id: ObjectId::new("a"), fields, ..Object::default() };
    SaveRequest::new(&auth, &ClassName::parse(class).unwrap(), Arc::new(object), None)
}

fn hooks(script: &str, settings: Settings) -> Hooks {
    Hooks::new(CloudCode::from_script(script).unwrap(), settings)
}

fn code(result: Result<Edits, Error>) -> i32 {
    result.err().map_or(0, |error| error.code.number())
}

#[tokio::test]
async fn a_quick_hook_runs_inline_and_a_waiting_one_on_the_pool() {
    let script = r#"
        before_save("Quick", |request| { request.object.n = 1; });
        before_save("Waits", |request| { pointer("A", "b").fetch(); request.object.n = 2; });
    "#;
    let hooks = hooks(script, Settings::default());
    let host = FakeHost::plug(&hooks, false);
    let recent = |class: &str| hooks.0.cloud_code.hook(class, Trigger::BeforeSave).unwrap().pace().recent();
    for _ in 0..5 {
        assert_eq!(
            hooks.before_save(save_request("Quick", "{}")).await.unwrap().update,
            Update::default().set("n", 1.0)
        );
        assert_eq!(
            hooks.before_save(save_request("Waits", "{}")).await.unwrap().update,
            Update::default().set("n", 2.0)
        );
    }
    assert_eq!(recent("Quick").runs, 5);
    // The first was tried inline, and begun again.
    assert_eq!(recent("Waits"), Recent { runs: 6, slow: 0, waited: 6 });
    assert_eq!(host.gets.load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn a_read_from_memory_stays_inline() {
    let hooks = hooks(r#"before_save("A", |request| { pointer("A", "b").fetch(); });"#, Settings::default());
    let host = FakeHost::plug(&hooks, true);
    for _ in 0..5 {
        hooks.before_save(save_request("A", "{}")).await.unwrap();
    }
    let recent = hooks.0.cloud_code.hook("A", Trigger::BeforeSave).unwrap().pace().recent();
    assert_eq!((recent.runs, recent.waited, host.gets.load(Ordering::Relaxed)), (5, 0, 0));
}

#[tokio::test]
async fn a_slow_hook_is_restarted_and_ends_at_its_deadline_only() {
    let script = r#"
        before_save("Slow", |request| { let n = 0; while n < 20000 { n += 1; } request.object.n = n; });
        before_save("Endless", |request| { loop { pointer("A", "b").fetch(); } });
    "#;
    let hooks = hooks(script, Settings { deadline: Duration::from_millis(800), ..Settings::default() });
    FakeHost::plug(&hooks, false);
    assert_eq!(
        hooks.before_save(save_request("Slow", "{}")).await.unwrap().update,
        Update::default().set("n", 20000.0)
    );
    let started = Instant::now();
    assert_eq!(code(hooks.before_save(save_request("Endless", "{}")).await), 141);
    assert!((800..3_000).contains(&started.elapsed().as_millis()));
}

#[tokio::test]
async fn a_full_pool_answers_155() {
    let settings = Settings { threads: 1, queue: 1, ..Settings::default() };
    let hooks = hooks(r#"before_save("A", |request| { pointer("A", "b").fetch(); });"#, settings);
    let host = FakeHost::plug_held(&hooks, false);
    let begin = || {
        let hooks = hooks.clone();
        tokio::spawn(async move { code(hooks.before_save(save_request("A", "{}")).await) })
    };
    let running = begin();
    while host.gets.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    // The only thread is busy until the gate opens: the next one waits, and then there is no room.
    let waiting = begin();
    assert_eq!(begin().await.unwrap(), 155);
    assert_eq!(begin().await.unwrap(), 155);
    host.gate.close();
    assert_eq!((running.await.unwrap(), waiting.await.unwrap()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nested_hooks_need_no_thread_of_their_own() {
    let script = r#"
        before_save("A", |request| { new_object("B").save(); });
        before_save("B", |request| { new_object("C").save(); });
        after_save("B", |request| { new_object("C").save(); });
        before_save("C", |request| { pointer("D", "d").fetch(); });
    "#;
    let settings = Settings { threads: 1, queue: 64, ..Settings::default() };
    let hooks = hooks(script, settings);
    let host = FakeHost::plug(&hooks, false);
    let runs: Vec<_> = (0..8)
        .map(|_| {
            let hooks = hooks.clone();
            tokio::spawn(async move { code(hooks.before_save(save_request("A", "{}")).await) })
        })
        .collect();
    for run in runs {
        assert_eq!(run.await.unwrap(), 0);
    }
    assert_eq!(host.saves.load(Ordering::Relaxed), 24);
    assert_eq!(host.gets.load(Ordering::Relaxed), 16);
}

#[tokio::test]
async fn endless_nesting_ends() {
    let hooks = hooks(r#"before_save("A", |request| { new_object("A").save(); });"#, Settings::default());
    let host = FakeHost::plug(&hooks, false);
    assert_eq!(code(hooks.before_save(save_request("A", "{}")).await), 141);
    assert_eq!(host.saves.load(Ordering::Relaxed), MAX_DEPTH);
}

#[tokio::test]
async fn a_restart_takes_no_second_slot() {
    let script = r#"
        before_save("A", |request| {
            if !rate_limit("k", 3, 60) { throw error(155, "too many"); }
            pointer("A", "b").fetch();
        });
    "#;
    let hooks = hooks(script, Settings::default());
    FakeHost::plug(&hooks, false);
    let mut codes = Vec::new();
    for _ in 0..4 {
        codes.push(code(hooks.before_save(save_request("A", "{}")).await));
    }
    assert_eq!(codes, [0, 0, 0, 155]);
}

#[tokio::test]
async fn the_pool_closes_after_its_jobs() {
    let hooks = hooks(r#"after_save("A", |request| { new_object("B").save(); });"#, Settings::default());
    let host = FakeHost::plug(&hooks, false);
    hooks.after_save(save_request("A", "{}")).await;
    tokio::task::spawn_blocking({
        let hooks = hooks.clone();
        move || hooks.close()
    })
    .await
    .unwrap();
    assert_eq!(host.saves.load(Ordering::Relaxed), 1);
    hooks.after_save(save_request("A", "{}")).await;
    assert_eq!(host.saves.load(Ordering::Relaxed), 1);
}
