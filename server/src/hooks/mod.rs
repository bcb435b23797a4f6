//! When cloud code runs, where, its deadline, and how its outcome becomes data or an error.
//!
//! **Where.** A hook begins on the async worker that asks for it. It moves to a bounded pool of threads while lately more
//! than 1 % of its runs took over 200 µs, or more than 10 % waited for the store; it comes back when that is over (a read
//! that is answered from memory does not wait). An inline run that reaches a call that would wait, or passes 2 ms, is
//! abandoned before it has had an effect and restarted on the pool: the client sees an error only at the hook's own
//! deadline.
//!
//! **Bounds.** The pool has two threads per core and a bounded queue; a full one answers 155. A hook has 5 s, its time in
//! the queue included. Hooks nest at most ten deep.
//!
//! **Nesting.** A script that saves waits on its pool thread, by [`wait()`]. Hooks of that save run on the very same
//! thread, inside that wait: they need no second thread of the pool, so a pool full of waiting hooks cannot block
//! itself.

mod pool;
mod wait;

pub use tidings_cloud_code::{Edits, Trigger};
pub use wait::wait;

use crate::auth::Auth;
use pool::{Full, Pool};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tidings_cloud_code::{
    CloudCode, Hook, HookRequest, Host, MAX_DEPTH, Mode, Outcome, Recent, Rejection, Replay, Run,
};
use tidings_protocol::{ClassName, Code, Error, Object, Update};
use tokio::sync::oneshot;

/// The hooks of the loaded scripts. Cheap to clone.
#[derive(Clone)]
pub struct Hooks(Arc<Inner>);

struct Inner {
    cloud_code: CloudCode,
    /// Plugged in by `app`: the host stands on the objects, which stand on the hooks.
    host: OnceLock<Arc<dyn Host>>,
    pool: Pool,
    settings: Settings,
}

/// What an operator may set about hooks.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long one hook may take, from the moment it is asked for.
    pub deadline: Duration,
    /// How long it may hold an async worker.
    pub inline_budget: Duration,
    /// Threads for hooks that wait or take long.
    pub threads: usize,
    /// Hooks that may wait for a thread; one more is answered 155.
    pub queue: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            inline_budget: Duration::from_millis(2),
            threads: 2 * std::thread::available_parallelism().map_or(1, usize::from),
            queue: 1_024,
        }
    }
}

/// A save, as its hooks see it.
#[derive(Clone, Debug)]
pub struct SaveRequest {
    request: HookRequest,
    /// How many hooks called each other to get here.
    depth: usize,
}

impl SaveRequest {
    /// `object` is the preview before the save, and the object as it is after it; `original` what it was before, if it
    /// was.
    pub fn new(auth: &Auth, class: &ClassName, object: Arc<Object>, original: Option<Arc<Object>>) -> Self {
        let request = HookRequest {
            class: class.clone(),
            object,
            original,
            changed: None,
            user: auth.user.clone(),
            master: auth.is_master(),
            installation_id: auth.installation_id.clone(),
            ip: Some(auth.address),
            headers: auth.headers.clone(),
            context: auth.context.clone(),
        };
        Self { request, depth: auth.depth }
    }

    /// Counts as changed what the client sent, also where it sent the value that was there.
    #[must_use]
    pub fn changed_by(mut self, update: &Update) -> Self {
        let fields = update.fields().map(Into::into);
        self.request.changed = Some(fields.chain(update.acl.is_some().then(|| "ACL".into())).collect());
        self
    }
}

impl Hooks {
    pub fn new(cloud_code: CloudCode, settings: Settings) -> Self {
        let pool = Pool::new(settings.threads, settings.queue);
        Self(Arc::new(Inner { cloud_code, host: OnceLock::new(), pool, settings }))
    }

    /// No scripts.
    pub fn none() -> Self {
        Self::new(CloudCode::none(), Settings::default())
    }

    /// Gives scripts their way to the server. Once; hooks that run before it fail.
    pub fn plug(&self, host: Arc<dyn Host>) {
        let _ = self.0.host.set(host);
    }

    /// Whether a class has such a hook: if not, a request for it need not be made.
    pub fn has(&self, class: &ClassName, trigger: Trigger) -> bool {
        self.0.cloud_code.has(class, trigger)
    }

    /// What the class's `before_save` wants changed.
    ///
    /// # Errors
    /// What the script throws; 141 if it fails or takes too long, with a line in the log that says where; 155 if too
    /// many hooks are waiting.
    pub async fn before_save(&self, request: SaveRequest) -> Result<Edits, Error> {
        self.run(Trigger::BeforeSave, request).await
    }

    /// Runs the class's `after_save`. The save is done, so an error is only logged.
    pub async fn after_save(&self, request: SaveRequest) {
        let class = request.request.class.clone();
        if let Err(error) = self.run(Trigger::AfterSave, request).await {
            tracing::warn!(class = %class, code = error.code.number(), error = %error.message, "after_save failed");
        }
    }

    async fn run(&self, trigger: Trigger, request: SaveRequest) -> Result<Edits, Error> {
        let Some(hook) = self.0.cloud_code.hook(&request.request.class, trigger) else { return Ok(Edits::default()) };
        let Some(host) = self.0.host.get() else {
            return Err(Error::new(Code::InternalServerError, "The server is starting."));
        };
        if request.depth >= MAX_DEPTH {
            return Err(Error::new(Code::ScriptFailed, "Hooks are nested too deep."));
        }
        let deadline = Instant::now() + self.0.settings.deadline;
        let request = Arc::new(request.request);
        let mut replay = Replay::default();
        if tidings_cloud_code::may_wait() {
            // Inside `wait`, on a thread that belongs to the hook around this one.
            let run = hook.run(&request, host, Mode::Pool { deadline, replay });
            return settle("nested", run).unwrap_or_else(|_| Err(failed()));
        }
        if may_run_inline(hook.pace().recent()) {
            let run = hook.run(&request, host, Mode::Inline { budget: self.0.settings.inline_budget });
            match settle("inline", run) {
                Ok(outcome) => return outcome,
                Err(remembered) => replay = remembered,
            }
        }
        self.on_pool(hook, trigger, request, host.clone(), deadline, replay).await
    }

    async fn on_pool(
        &self,
        hook: Hook,
        trigger: Trigger,
        request: Arc<HookRequest>,
        host: Arc<dyn Host>,
        deadline: Instant,
        replay: Replay,
    ) -> Result<Edits, Error> {
        let (answer, answered) = oneshot::channel();
        let job = move || {
            // What comes after a save is due even if nobody waits for it any more.
            if trigger == Trigger::BeforeSave && answer.is_closed() {
                return;
            }
            if Instant::now() >= deadline {
                let _ = answer.send(Err(busy()));
                return;
            }
            let run = hook.run(&request, &host, Mode::Pool { deadline, replay });
            let _ = answer.send(settle("pool", run).unwrap_or_else(|_| Err(failed())));
        };
        if let Err(Full) = self.0.pool.submit(Box::new(job)) {
            metrics::counter!("tidings_hook_pool_full_total").increment(1);
            return Err(busy());
        }
        // A job that panicked drops its sender.
        answered.await.unwrap_or_else(|_| Err(failed()))
    }

    /// Loads scripts again whenever their files change, looking this often. Never returns.
    pub async fn watch(&self, every: Duration) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let hooks = self.clone();
            let reloaded = tokio::task::spawn_blocking(move || hooks.0.cloud_code.reload_if_changed()).await;
            match reloaded {
                Ok(Ok(true)) => tracing::info!("cloud code reloaded"),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::error!(%error, "cloud code is broken; the version before stays in force"),
                Err(error) => tracing::error!(%error, "cloud code could not be reloaded"),
            }
        }
    }

    /// Ends the pool's threads, after the hooks that are running. Blocks until they have ended.
    pub fn close(&self) {
        self.0.pool.close();
    }
}

/// Whether this thread is running a script, which waits for what is done on it.
pub fn is_nested() -> bool {
    tidings_cloud_code::depth() > 0
}

fn may_run_inline(recent: Recent) -> bool {
    let Recent { runs, slow, waited } = recent;
    waited * 10 <= runs && slow <= 2 + runs / 100
}

/// The end of a run, or what to remember for its restart. Counts it, and logs a failure of the script: once, here.
fn settle(place: &'static str, run: Run) -> Result<Result<Edits, Error>, Replay> {
    metrics::histogram!("tidings_hook_seconds", "where" => place).record(run.elapsed.as_secs_f64());
    Ok(match run.outcome {
        Outcome::Continue(edits) => Ok(edits),
        Outcome::NeedsPool(replay) => {
            metrics::counter!("tidings_hook_restarts_total").increment(1);
            return Err(replay);
        }
        Outcome::Rejected(Rejection { error, fault }) => {
            match fault {
                None => metrics::counter!("tidings_hook_refusals_total").increment(1),
                Some(fault) => {
                    metrics::counter!("tidings_hook_failures_total").increment(1);
                    tracing::error!(target: "cloud_code", "{fault}");
                }
            }
            Err(error)
        }
    })
}

fn busy() -> Error {
    Error::new(Code::RequestLimitExceeded, "Too many hooks are waiting, try again later.")
}

fn failed() -> Error {
    Error::new(Code::ScriptFailed, "The hook failed.")
}

#[cfg(test)]
mod tests;
