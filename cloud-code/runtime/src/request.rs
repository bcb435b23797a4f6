//! What goes into a hook and what comes out of it.

use compact_str::CompactString;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidings_protocol::{ClassName, Error, Map, Object, Predicate, Update};

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trigger {
    BeforeSave,
    AfterSave,
}

impl Trigger {
    pub(crate) const ALL: [Self; 2] = [Self::BeforeSave, Self::AfterSave];

    /// As scripts write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::BeforeSave => "before_save",
            Self::AfterSave => "after_save",
        }
    }
}

/// What a hook sees.
#[derive(Clone, Debug, Default)]
pub struct HookRequest {
    pub class: ClassName,
    /// Before a save: the preview, what the object will be. After it: the object as it is. An empty id is no id.
    pub object: Arc<Object>,
    /// The object before the save; `None` while it is being created.
    pub original: Option<Arc<Object>>,
    /// The top-level fields that the request touches, `ACL` included: what `request.object.dirty(field)` answers.
    /// `None` stands for those in which `object` and `original` differ.
    pub changed: Option<Vec<CompactString>>,
    /// The user whose session it is. Only the id is needed; other fields are there for scripts that ask.
    pub user: Option<Arc<Object>>,
    /// Whether the request has the rights of the master key.
    pub master: bool,
    pub installation_id: Option<CompactString>,
    pub ip: Option<IpAddr>,
    /// Names in lower case. Secrets (keys, session tokens) are for the server to leave out.
    pub headers: Arc<Map>,
    /// What the client sent along (`_context`), or an earlier hook of the same save left.
    pub context: Map,
}

impl HookRequest {
    pub fn is_new(&self) -> bool {
        self.original.is_none()
    }
}

/// Where a run stands, and how long it may take.
#[derive(Clone, Debug)]
pub enum Mode {
    /// On a thread that must not wait: a run that takes longer than the budget, or would wait, ends as
    /// [`Outcome::NeedsPool`], before it has had any effect but those that [`Replay`] remembers.
    Inline { budget: Duration },
    /// On a thread that may wait.
    Pool { deadline: Instant, replay: Replay },
}

/// What an abandoned inline run has already been granted, so that its restart is not charged twice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Replay {
    pub(crate) rate_limits: Vec<bool>,
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    Continue(Edits),
    /// The script refused, or it failed.
    Rejected(Rejection),
    /// Only from [`Mode::Inline`]: run it again, in [`Mode::Pool`].
    NeedsPool(Replay),
}

/// What a `before_save` hook wants changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edits {
    /// Operations that come after those of the request.
    pub update: Update,
    /// What the object must still be in the moment of the commit; if it is not, load it anew and run the hook again.
    pub only_if: Option<Predicate>,
    /// The context for the hooks that follow, if the script changed it.
    pub context: Option<Map>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Rejection {
    /// What the client is told.
    pub error: Error,
    /// For the log, if the script did not refuse but failed: what happened, in which script and line.
    pub fault: Option<String>,
}

/// An outcome, and what it took.
#[derive(Debug)]
pub struct Run {
    pub outcome: Outcome,
    /// Time on this thread.
    pub elapsed: Duration,
    /// Whether it called the host for something that is not in memory.
    pub waited: bool,
}
