//! The use cases: what can be done with objects, each in one file, told as a straight line.
//!
//! **Invariant:** every write passes here, whoever asks: REST, batch, cloud code, dashboard.

mod create;
mod delete;
mod find;
mod ids;
mod log_in;
mod prepared;
mod relations;
mod schemas;
mod sessions;
mod subscribe;
mod transaction;
mod update;
mod users;
mod view;

pub use create::Created;
pub use find::{Found, Page};
pub use log_in::LoggedIn;
pub use subscribe::Admission;
pub use transaction::{Done, Part};
pub(crate) use update::Change;
pub use update::Updated;
pub use view::View;

use crate::auth::{Auth, Credentials, KeyCheck, Keys, Passwords, Sessions};
use crate::error::{Failure, Result};
use crate::hooks::Hooks;
use crate::permissions::Operation;
use crate::schema::ClassSchema;
use crate::storage::{Answer, Refused, Storage, Write, Written};
use rand::Rng;
use regex::RegexSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidings_protocol::{ClassName, Code, Date, ObjectId};

/// The use cases over one store. Cheap to clone.
#[derive(Clone)]
pub struct Objects(Arc<Inner>);

struct Inner {
    storage: Arc<dyn Storage>,
    hooks: Hooks,
    keys: Keys,
    sessions: Sessions,
    passwords: Passwords,
    settings: Settings,
}

/// What an operator may set about the use cases.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether clients may make classes by writing to them.
    pub allow_client_class_creation: bool,
    pub session_length: Duration,
    /// Objects in an answer when the query does not say.
    pub default_limit: u64,
    /// Objects in an answer at most, without the master key.
    pub max_limit: u64,
    /// Classes that may be subscribed to; `None` is all.
    pub live_classes: Option<RegexSet>,
    /// Bytes of changes that live delivery may be behind before commits wait.
    pub max_lag_bytes: usize,
    /// How long live delivery may be behind before commits wait.
    pub max_lag: Duration,
}

/// A write whose place in the order is taken, and which is not done yet.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// A commit waits about this long at most for delivery to catch up; then it goes on, and delivery falls further behind.
const MAX_COMMIT_DELAY: Duration = Duration::from_secs(2);

/// Below this fraction of the allowed lag commits are not slowed: with the defaults, a quarter of a second.
const FREE_LAG: f64 = 0.05;

impl Settings {
    /// How much of the allowed lag is used up; 1 and more is too much.
    fn fraction_of_lag(&self, (bytes, time): (usize, Duration)) -> f64 {
        let of_bytes = bytes as f64 / self.max_lag_bytes as f64;
        of_bytes.max(time.as_secs_f64() / self.max_lag.as_secs_f64())
    }
}

impl Objects {
    pub fn new(
        storage: Arc<dyn Storage>,
        hooks: Hooks,
        keys: Keys,
        sessions: Sessions,
        passwords: Passwords,
        settings: Settings,
    ) -> Self {
        Self(Arc::new(Inner { storage, hooks, keys, sessions, passwords, settings }))
    }

    /// Finds out who is asking.
    ///
    /// # Errors
    /// [`Failure::Unauthorized`] for keys that do not let in; 209 for a session token that is no good.
    pub async fn authenticate(&self, credentials: &Credentials) -> Result<Auth> {
        let mut auth = Auth::anonymous(credentials.address);
        auth.installation_id = credentials.installation_id.clone();
        match self.0.keys.check(credentials) {
            KeyCheck::Refused => return Err(Failure::Unauthorized),
            // The master wins, and the token is not even looked at.
            KeyCheck::Master => auth.principals.master = true,
            KeyCheck::Client => {
                if let Some(token) = &credentials.session_token {
                    auth.identify(Some(self.0.sessions.resolve(&*self.0.storage, token, now()).await?));
                }
            }
        }
        Ok(auth)
    }

    /// Whether this caller must not learn which classes exist.
    pub fn hides_unknown_classes(&self, auth: &Auth) -> bool {
        !auth.is_master() && !self.0.settings.allow_client_class_creation
    }

    /// How a caller sees objects of a class that were not asked for by a query.
    pub fn plain_view(&self, auth: &Auth, class: ClassName) -> View {
        View::plain(auth, self.0.storage.schemas(), class)
    }

    /// Whether a read may be answered on its first poll.
    pub fn have_memory(&self) -> bool {
        self.0.storage.has_memory()
    }

    /// Commits all writes as one, after delivery has caught up where it lags too far.
    async fn commit(&self, writes: Vec<Write>) -> Answer<Result<Vec<Written>, Refused>> {
        self.wait_for_delivery().await;
        self.0.storage.commit(writes)
    }

    /// Slows commits down while live delivery is behind: the further, the longer, so that writers settle at the pace
    /// of delivery long before the bound. Beyond the bound a commit waits until it is reached again.
    async fn wait_for_delivery(&self) {
        let tail = self.0.storage.tail();
        let behind = || self.0.settings.fraction_of_lag(tail.lag());
        let fraction = behind();
        if fraction < FREE_LAG {
            return;
        }
        metrics::counter!("tidings_commits_delayed_total").increment(1);
        tokio::time::sleep(MAX_COMMIT_DELAY.mul_f64(fraction.min(1.0) / 2.0)).await;
        let give_up = tokio::time::Instant::now() + MAX_COMMIT_DELAY;
        while behind() >= 1.0 && tokio::time::Instant::now() < give_up {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A class whatever may be done with it, or `None` if it does not exist and that is no secret.
    fn class(&self, auth: &Auth, class: &ClassName) -> Result<Option<Arc<ClassSchema>>> {
        refuse_unsupported(class)?;
        match self.0.storage.schemas().get(class) {
            None if self.hides_unknown_classes(auth) => Err(Failure::forbidden()),
            known => Ok(known.cloned()),
        }
    }

    /// The class to read from, or `None` if it does not exist and that is no secret.
    fn class_to_read(&self, auth: &Auth, class: &ClassName, operation: Operation) -> Result<Option<Arc<ClassSchema>>> {
        let known = self.class(auth, class)?;
        if let Some(schema) = &known {
            schema.permissions.check(operation, &auth.principals)?;
        }
        Ok(known)
    }

    /// The class to write to; a new one where the caller may make classes.
    fn class_to_write(&self, auth: &Auth, class: &ClassName, operation: Operation) -> Result<Arc<ClassSchema>> {
        let known = self.class_to_read(auth, class, operation)?;
        Ok(known.unwrap_or_else(|| Arc::new(ClassSchema::new(class.clone()))))
    }
}

/// # Errors
/// [`Failure::MasterKeyRequired`] for anybody else.
fn require_master(auth: &Auth) -> Result<()> {
    if auth.is_master() { Ok(()) } else { Err(Failure::MasterKeyRequired) }
}

/// The classes that Parse has and Tidings does not yet.
fn refuse_unsupported(class: &ClassName) -> Result<()> {
    if class.is_system() && *class != ClassName::USER && *class != ClassName::SESSION {
        return Err(Failure::parse(Code::OperationForbidden, format!("The class {class} is not supported yet.")));
    }
    Ok(())
}

/// The server's clock, in the unit of the protocol.
pub fn now() -> Date {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Date::from_millis(since.as_millis() as i64).unwrap_or_default()
}

/// Ten letters and digits, as Parse makes them: 59 bits of chance. For what nobody asks for in order; see [`ids`].
fn new_object_id() -> ObjectId {
    ObjectId::new(random_text(10))
}

fn random_text(length: usize) -> compact_str::CompactString {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    (0..length).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
}
