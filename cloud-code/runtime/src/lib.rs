//! Cloud code: rhai scripts that see, change and refuse what is saved.
//!
//! - [`CloudCode`] loads `main.rhai`, and the modules below `lib/` that it imports, into [`Hook`]s;
//! - a [`Hook`] runs on a [`HookRequest`] and ends in an [`Outcome`];
//! - what a script may do to the server is the trait [`Host`].
//!
//! Everything here is synchronous, and nothing is known of the server. Where a hook runs is the caller's decision, with
//! one rule kept here: a run in [`Mode::Inline`] never waits, and an abandoned one has had no effect.
//!
//! Bounds of one run: 1,000,000 operations, 1 MiB per text, 32 calls deep, 64 MiB of values handed to or taken from the
//! server, 1,000 log lines, its deadline; and 10 hooks within each other ([`MAX_DEPTH`]).

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod api;
mod convert;
mod engine;
mod host;
mod loading;
mod pace;
mod rate_limit;
mod request;
mod strip_tags;

pub use engine::{MAX_DEPTH, deadline, depth, may_wait};
pub use host::{Call, Host, Level, Save};
pub use loading::LoadError;
pub use pace::{Pace, Recent};
pub use rate_limit::RateLimiter;
pub use request::{Edits, HookRequest, Mode, Outcome, Rejection, Replay, Run, Trigger};
pub use strip_tags::{is_blank, strip_tags};

use engine::{End, Raised, clipped, place};
use loading::{Fingerprint, Handler, Program, innermost};
use rhai::{Dynamic, EvalAltResult};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;
use tidings_protocol::{Code, Error};

/// The loaded scripts of one folder.
pub struct CloudCode {
    /// The folder and the script in it, unless there are no files.
    files: Option<(PathBuf, String)>,
    program: RwLock<Arc<Program>>,
    /// The files as last loaded, or as last found broken.
    seen: Mutex<Fingerprint>,
}

impl CloudCode {
    /// No scripts: no class has a hook.
    pub fn none() -> Self {
        Self { files: None, program: RwLock::new(Arc::new(Program::empty())), seen: Mutex::default() }
    }

    /// Loads `main.rhai` of a folder.
    ///
    /// # Errors
    /// A script that cannot be read, compiled or evaluated, or registers something that cannot be.
    pub fn load(folder: &Path) -> Result<Self, LoadError> {
        Self::load_script(folder, "main.rhai")
    }

    /// Loads another script of a folder in place of `main.rhai`.
    ///
    /// # Errors
    /// As [`CloudCode::load`].
    pub fn load_script(folder: &Path, name: &str) -> Result<Self, LoadError> {
        let main = folder.join(name);
        let seen = Fingerprint::of(folder, &main);
        let program = Self::program_of(&Program::empty(), folder, name)?;
        Ok(Self {
            files: Some((folder.to_path_buf(), name.to_owned())),
            program: RwLock::new(Arc::new(program)),
            seen: Mutex::new(seen),
        })
    }

    /// Loads a script that is in no file. It cannot import anything.
    ///
    /// # Errors
    /// As [`CloudCode::load`].
    pub fn from_script(script: &str) -> Result<Self, LoadError> {
        let program = Program::load(Program::empty().engine, None, "main.rhai", script)?;
        Ok(Self { files: None, program: RwLock::new(Arc::new(program)), seen: Mutex::default() })
    }

    fn program_of(current: &Program, folder: &Path, name: &str) -> Result<Program, LoadError> {
        let script = loading::read(&folder.join(name))
            .map_err(|message| LoadError { place: folder.join(name).display().to_string(), message })?;
        Program::load(current.engine.clone(), Some(folder), name, &script)
    }

    /// Loads the files again if one of them has changed since, and says whether it did. Runs that are going on end
    /// with the scripts that they began with.
    ///
    /// # Errors
    /// As [`CloudCode::load`]; then the scripts loaded before stay in force, and the same broken files are not tried
    /// (and reported) again.
    pub fn reload_if_changed(&self) -> Result<bool, LoadError> {
        let Some((folder, name)) = &self.files else { return Ok(false) };
        let now = Fingerprint::of(folder, &folder.join(name));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == now {
            return Ok(false);
        }
        *seen = now;
        let program = Self::program_of(&self.current(), folder, name)?;
        *self.program.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(program);
        Ok(true)
    }

    fn current(&self) -> Arc<Program> {
        self.program.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The hook of a class, if it has one.
    pub fn hook(&self, class: &str, trigger: Trigger) -> Option<Hook> {
        let program = self.program.read().unwrap_or_else(PoisonError::into_inner);
        let handler = program.handler(class, trigger)?.clone();
        Some(Hook { program: program.clone(), handler })
    }

    pub fn has(&self, class: &str, trigger: Trigger) -> bool {
        self.program.read().unwrap_or_else(PoisonError::into_inner).handler(class, trigger).is_some()
    }

    /// Every class and trigger that has a hook, in no order.
    pub fn hooks(&self) -> Vec<(String, Trigger)> {
        self.current().handlers().map(|handler| (handler.class.to_string(), handler.trigger)).collect()
    }
}

/// A handler that a script registered, as of one loading.
#[derive(Clone)]
pub struct Hook {
    program: Arc<Program>,
    handler: Arc<Handler>,
}

impl Hook {
    /// How it has behaved since it was loaded.
    pub fn pace(&self) -> &Pace {
        &self.handler.pace
    }

    /// Calls the handler on this thread.
    pub fn run(&self, request: &Arc<HookRequest>, host: &Arc<dyn Host>, mode: Mode) -> Run {
        let started = Instant::now();
        let name = self.handler.trigger.name();
        if depth() >= MAX_DEPTH {
            let error = Error::new(Code::ScriptFailed, "Hooks are nested too deep.");
            let fault = format!("{}: {name} of {}: nested deeper than {MAX_DEPTH}", self.handler.source, request.class);
            return Run {
                outcome: Outcome::Rejected(Rejection { error, fault: Some(fault) }),
                elapsed: started.elapsed(),
                waited: false,
            };
        }
        let (may_wait, deadline, replay) = match mode {
            Mode::Inline { budget } => (false, started + budget, Replay::default()),
            Mode::Pool { deadline, replay } => (true, deadline, replay),
        };
        let argument = api::RequestRef::new(request.clone(), self.handler.trigger);
        let (result, ended) =
            engine::running(host, request, &self.handler.source, may_wait, deadline, replay, || -> Raised<Dynamic> {
                self.handler.function.call(&self.program.engine, &self.handler.functions, (argument.clone(),))
            });
        let outcome = match (result, ended.end) {
            (_, Some(End::NeedsPool)) => Outcome::NeedsPool(ended.replay),
            (Err(error), end) if !matches!(*error, EvalAltResult::Exit(..)) || end.is_some() => {
                Outcome::Rejected(self.rejection(&error, end))
            }
            _ => Outcome::Continue(argument.into_edits()),
        };
        let elapsed = started.elapsed();
        self.handler.pace.record(elapsed, ended.waited);
        Run { outcome, elapsed, waited: ended.waited }
    }

    fn rejection(&self, error: &EvalAltResult, end: Option<End>) -> Rejection {
        let (source, at, inner) = innermost(&self.handler.source, error);
        // An operation too many may be one without a place: then that of the hook will do.
        let (source, at) = if at.is_none() { (self.handler.source.to_string(), self.handler.at) } else { (source, at) };
        let sober = match (end, inner) {
            (Some(End::Deadline), _) | (_, EvalAltResult::ErrorTooManyOperations(_)) => "The hook took too long.",
            (Some(End::Memory), _) | (_, EvalAltResult::ErrorDataTooLarge(..)) => "The hook used too much memory.",
            (_, EvalAltResult::ErrorStackOverflow(_)) => "The hook called too deep.",
            (_, EvalAltResult::ErrorRuntime(value, _)) => match api::thrown(value) {
                Some(error) => return Rejection { error, fault: None },
                None => "The hook failed.",
            },
            _ => "The hook failed.",
        };
        let what = match (end, inner) {
            (Some(End::Deadline), _) => "deadline exceeded".to_owned(),
            (Some(End::Memory), _) => "too many bytes of values".to_owned(),
            (_, EvalAltResult::ErrorRuntime(value, _)) => api::thrown_text(value),
            (_, other) => other.to_string(),
        };
        let fault = format!(
            "{}: {} of {}: {}",
            place(&source, at),
            self.handler.trigger.name(),
            self.handler.class,
            clipped(&what, 1_000)
        );
        Rejection { error: Error::new(Code::ScriptFailed, sober), fault: Some(fault) }
    }
}
