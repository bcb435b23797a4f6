//! The rhai engine with its limits, and what belongs to the run that is going on on this thread.
//!
//! One engine serves all threads, so what a run owns cannot live in the functions that are registered with it. It lives
//! in a thread-local stack: a hook that saves may run another hook on the same thread.

use crate::api;
use crate::host::{Call, Host, Level};
use crate::loading::Resolver;
use crate::request::{HookRequest, Replay};
use rhai::{Dynamic, Engine, EvalAltResult, Position};
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Statements, expressions and calls of one run.
const MAX_OPERATIONS: u64 = 1_000_000;
/// Bytes of one text, texts within an array or map added up.
const MAX_STRING: usize = 1 << 20;
const MAX_ARRAY: usize = 10_000;
const MAX_MAP: usize = 10_000;
const MAX_VARIABLES: usize = 256;
const MAX_CALLS: usize = 32;
/// Bytes of values that one run may hand to objects and queries, or take from them.
const MAX_MEMORY: usize = 64 << 20;
/// Lines that one run may log.
const MAX_LINES: usize = 1_000;
/// How many hooks may run within each other.
pub const MAX_DEPTH: usize = 10;
/// The clock is read once in so many operations.
const CLOCK_EVERY: u64 = 16;

/// An error of a script, or of what it called.
pub(crate) type Raised<T> = Result<T, Box<EvalAltResult>>;

pub(crate) fn engine() -> Engine {
    let mut engine = Engine::new();
    engine
        .set_max_operations(MAX_OPERATIONS)
        .set_max_string_size(MAX_STRING)
        .set_max_array_size(MAX_ARRAY)
        .set_max_map_size(MAX_MAP)
        .set_max_variables(MAX_VARIABLES)
        .set_max_call_levels(MAX_CALLS)
        .set_max_expr_depths(64, 32)
        .set_max_functions(1_000)
        .set_max_modules(100)
        // Interning takes a lock that all threads share, for each text that a script puts into a variable.
        .set_max_strings_interned(0)
        // What makes code from text.
        .disable_symbol("eval")
        .set_module_resolver(Resolver)
        .on_progress(progress)
        .on_print(|text| log_line(Level::Info, Position::NONE, None, text))
        .on_debug(|text, source, at| log_line(Level::Info, at, source, text));
    api::register(&mut engine);
    engine
}

/// Why a run ended before its script did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// An inline run was about to wait, or took too long.
    NeedsPool,
    Deadline,
    Memory,
}

struct Running {
    host: Arc<dyn Host>,
    request: Arc<HookRequest>,
    /// The script that registered the hook: rhai does not know it while a handler runs.
    source: Arc<str>,
    may_wait: bool,
    deadline: Instant,
    end: Option<End>,
    waited: bool,
    memory: usize,
    /// Answers of `rate_limit` from an abandoned run, and those of this one.
    replay: std::vec::IntoIter<bool>,
    rate_limits: Vec<bool>,
    lines: usize,
    /// Lines of an inline run wait for its end: its restart would write them again.
    held: Vec<(Level, String, String)>,
}

thread_local! {
    static RUNNING: RefCell<Vec<Running>> = const { RefCell::new(Vec::new()) };
    /// That of the innermost run, for `progress`.
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// What is left of a run.
pub(crate) struct Ended {
    pub(crate) end: Option<End>,
    pub(crate) waited: bool,
    pub(crate) replay: Replay,
}

/// How many hooks are running within each other on this thread.
pub fn depth() -> usize {
    RUNNING.with_borrow(Vec::len)
}

/// Whether a hook runs on this thread that may wait, and with it the hooks of whatever it waits for.
pub fn may_wait() -> bool {
    RUNNING.with_borrow(|stack| stack.last().is_some_and(|run| run.may_wait))
}

/// When the innermost hook that runs on this thread must end.
pub fn deadline() -> Option<Instant> {
    DEADLINE.get()
}

/// Runs `script` as the innermost run of this thread.
pub(crate) fn running<T>(
    host: &Arc<dyn Host>,
    request: &Arc<HookRequest>,
    source: &Arc<str>,
    may_wait: bool,
    deadline: Instant,
    replay: Replay,
    script: impl FnOnce() -> T,
) -> (T, Ended) {
    /// Takes the run off the stack even when a panic passes.
    struct Leave(Option<Instant>);
    impl Drop for Leave {
        fn drop(&mut self) {
            DEADLINE.set(self.0);
            RUNNING.with_borrow_mut(Vec::pop);
        }
    }

    // Nobody has more time than the hook that waits for it.
    let outer = DEADLINE.get();
    let deadline = outer.map_or(deadline, |outer| outer.min(deadline));
    RUNNING.with_borrow_mut(|stack| {
        stack.push(Running {
            host: host.clone(),
            request: request.clone(),
            source: source.clone(),
            may_wait,
            deadline,
            end: None,
            waited: false,
            memory: 0,
            replay: replay.rate_limits.into_iter(),
            rate_limits: Vec::new(),
            lines: 0,
            held: Vec::new(),
        });
    });
    DEADLINE.set(Some(deadline));
    let leave = Leave(outer);
    let result = script();
    let (ended, held) = RUNNING.with_borrow_mut(|stack| match stack.last_mut() {
        Some(run) => {
            let mut rate_limits = std::mem::take(&mut run.rate_limits);
            rate_limits.extend(run.replay.by_ref());
            let ended = Ended { end: run.end, waited: run.waited, replay: Replay { rate_limits } };
            (ended, std::mem::take(&mut run.held))
        }
        None => (Ended { end: None, waited: false, replay: Replay::default() }, Vec::new()),
    });
    drop(leave);
    if ended.end != Some(End::NeedsPool) {
        for (level, place, text) in held {
            host.log(level, &place, &text);
        }
    }
    (result, ended)
}

fn progress(operations: u64) -> Option<Dynamic> {
    if !operations.is_multiple_of(CLOCK_EVERY) || DEADLINE.get().is_none_or(|deadline| Instant::now() < deadline) {
        return None;
    }
    with_run(|run| run.end = Some(if run.may_wait { End::Deadline } else { End::NeedsPool }));
    Some(Dynamic::UNIT)
}

fn with_run<T>(work: impl FnOnce(&mut Running) -> T) -> Option<T> {
    RUNNING.with_borrow_mut(|stack| stack.last_mut().map(work))
}

/// The error that no script can catch.
fn terminated() -> Box<EvalAltResult> {
    Box::new(EvalAltResult::ErrorTerminated(Dynamic::UNIT, Position::NONE))
}

fn outside() -> Box<EvalAltResult> {
    "this can be called from a hook only, not while the script is loaded".into()
}

/// Calls the host, where it may wait: an inline run ends here.
///
/// `ready` answers from memory if it can.
pub(crate) fn call_host<T>(
    master: bool,
    ready: impl FnOnce(&dyn Host, &Call<'_>) -> Option<tidings_protocol::Result<T>>,
    wait: impl FnOnce(&dyn Host, &Call<'_>) -> tidings_protocol::Result<T>,
) -> Raised<T> {
    let (host, request, may_wait, deadline) =
        with_run(|run| (run.host.clone(), run.request.clone(), run.may_wait, run.deadline)).ok_or_else(outside)?;
    let call = Call { master: master || request.master, request: &request, depth: depth(), deadline };
    let answer = match ready(&*host, &call) {
        Some(answer) => answer,
        None => {
            with_run(|run| {
                run.waited = true;
                if !may_wait {
                    run.end = Some(End::NeedsPool);
                }
            });
            if !may_wait {
                return Err(terminated());
            }
            let answer = wait(&*host, &call);
            if Instant::now() >= deadline {
                with_run(|run| run.end = Some(End::Deadline));
                return Err(terminated());
            }
            answer
        }
    };
    answer.map_err(api::raise)
}

/// Calls what never waits.
pub(crate) fn ask_host<T>(work: impl FnOnce(&dyn Host) -> T) -> Raised<T> {
    let host = with_run(|run| run.host.clone()).ok_or_else(outside)?;
    Ok(work(&*host))
}

/// Takes a slot, or repeats what an abandoned run was told.
pub(crate) fn rate_limit(key: &str, limit: usize, window: Duration) -> Raised<bool> {
    let known = with_run(|run| run.replay.next()).ok_or_else(outside)?;
    let taken = match known {
        Some(known) => known,
        None => ask_host(|host| host.rate_limit(key, limit, window))?,
    };
    with_run(|run| run.rate_limits.push(taken));
    Ok(taken)
}

/// Counts bytes against the run's bound.
pub(crate) fn charge(bytes: usize) -> Raised<()> {
    let full = with_run(|run| {
        run.memory = run.memory.saturating_add(bytes);
        let full = run.memory > MAX_MEMORY;
        if full {
            run.end = Some(End::Memory);
        }
        full
    });
    if full == Some(true) { Err(terminated()) } else { Ok(()) }
}

pub(crate) fn log_line(level: Level, at: Position, source: Option<&str>, text: &str) {
    let text = clipped(text, 4_096);
    let now = with_run(|run| {
        run.lines += 1;
        if run.lines > MAX_LINES {
            return None;
        }
        let place = place(source.unwrap_or(&run.source), at);
        if !run.may_wait {
            run.held.push((level, place, text.to_owned()));
            return None;
        }
        Some((run.host.clone(), place))
    });
    if let Some(Some((host, place))) = now {
        host.log(level, &place, text);
    }
}

/// `main.rhai:12`
pub(crate) fn place(source: &str, at: Position) -> String {
    let source = if source.is_empty() { "cloud code" } else { source };
    at.line().map_or_else(|| source.to_owned(), |line| format!("{source}:{line}"))
}

pub(crate) fn clipped(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
