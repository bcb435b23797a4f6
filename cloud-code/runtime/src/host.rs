//! What a script may do to the server.

use crate::request::HookRequest;
use std::time::{Duration, Instant};
use tidings_protocol::{ClassName, Date, Object, ObjectId, Predicate, Query, Result, Update};

/// The server as cloud code sees it. Calls may block: the runtime makes them on pool threads only, except for
/// [`Host::get_from_memory`], [`Host::rate_limit`], [`Host::now`] and [`Host::log`], which must return at once.
///
/// Saves and deletes go through the server's full path: permissions (unless with the master key), hooks, schema.
/// A call that waits should give up at [`Call::deadline`]; the run is ended then whatever it answers.
pub trait Host: Send + Sync {
    fn find(&self, call: &Call<'_>, query: Query) -> Result<Vec<Object>>;

    /// How many objects match, whatever the query's limit and skip.
    fn count(&self, call: &Call<'_>, query: Query) -> Result<u64>;

    /// One object, or `None` if it does not exist or may not be read.
    fn get(&self, call: &Call<'_>, class: &ClassName, id: &ObjectId) -> Result<Option<Object>>;

    /// As [`Host::get`], if the answer is current and can be given without waiting, say from a cache; else `None`.
    /// What it answers keeps a hook inline that would otherwise move to the pool.
    fn get_from_memory(&self, _call: &Call<'_>, _class: &ClassName, _id: &ObjectId) -> Option<Result<Option<Object>>> {
        None
    }

    /// Creates or updates, and returns the object as it is then; `None` if [`Save::only_if`] did not hold.
    fn save(&self, call: &Call<'_>, save: Save) -> Result<Option<Object>>;

    fn delete(&self, call: &Call<'_>, class: &ClassName, id: &ObjectId) -> Result<()>;

    /// Takes one of `limit` slots per `window`, atomically: [`crate::RateLimiter::take`].
    fn rate_limit(&self, key: &str, limit: usize, window: Duration) -> bool;

    fn now(&self) -> Date;

    /// A line that a script logs, with the script's place (`main.rhai:12`).
    fn log(&self, level: Level, place: &str, text: &str);
}

/// On whose behalf a script calls the server.
pub struct Call<'a> {
    /// What the hook runs for. Without the master key a call has the rights of whoever made this request.
    pub request: &'a HookRequest,
    /// Whether the call has the rights of the master key. True for every call of a hook that runs for the master key.
    pub master: bool,
    /// How many hooks are running around this call, itself included: 1 for a hook that a client's request started.
    pub depth: usize,
    /// When the hook's time is over.
    pub deadline: Instant,
}

/// What a script saves.
#[derive(Clone, Debug, PartialEq)]
pub struct Save {
    pub class: ClassName,
    /// `None` creates.
    pub id: Option<ObjectId>,
    pub update: Update,
    /// What the object must be in the moment of the commit, or nothing is written. Only for updates.
    pub only_if: Option<Predicate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
    Error,
}
