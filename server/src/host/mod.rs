//! What a script may do to the server: the runtime's [`Host`] over the use cases.
//!
//! Scripts call from threads that may wait; the use cases are async, so each call waits for its future there.

use crate::auth::Auth;
use crate::error::Failure;
use crate::hooks;
use crate::objects::{Change, Objects, now};
use crate::permissions::Principals;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tidings_cloud_code::{Call, Host, Level, RateLimiter, Save};
use tidings_protocol::{ClassName, Code, Date, Error, Object, ObjectId, Query, Result};
use tokio::runtime::Handle;

pub struct ObjectsHost {
    objects: Objects,
    runtime: Handle,
    limiter: RateLimiter,
}

impl ObjectsHost {
    pub fn new(objects: Objects, runtime: Handle) -> Self {
        Self { objects, runtime, limiter: RateLimiter::default() }
    }

    /// Waits for a use case, until the hook's time is over.
    fn wait<T>(&self, call: &Call<'_>, work: impl Future<Output = Result<T, Failure>>) -> Result<T> {
        match hooks::wait(&self.runtime, call.deadline, work) {
            Some(outcome) => outcome.map_err(|failure| told(&failure)),
            None => Err(Error::new(Code::Timeout, "The hook's time is over.")),
        }
    }
}

/// The script's rights and surroundings, as of a request.
fn auth(call: &Call<'_>) -> Auth {
    let request = call.request;
    Auth {
        principals: match (call.master, &request.user) {
            (true, _) => Principals::MASTER,
            (false, Some(user)) => Principals::user(user.id.clone()),
            (false, None) => Principals::ANONYMOUS,
        },
        user: request.user.clone(),
        installation_id: request.installation_id.clone(),
        headers: request.headers.clone(),
        context: request.context.clone(),
        depth: call.depth,
        ..Auth::anonymous(request.ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)))
    }
}

fn told(failure: &Failure) -> Error {
    if let Failure::Internal(reason) = failure {
        tracing::error!(reason, "a script's call failed on our side");
    }
    failure.to_error()
}

impl Host for ObjectsHost {
    fn find(&self, call: &Call<'_>, query: Query) -> Result<Vec<Object>> {
        let page = self.wait(call, self.objects.find(&auth(call), &query))?;
        Ok(page.objects.iter().map(|object| object.without_internal_fields()).collect())
    }

    fn count(&self, call: &Call<'_>, mut query: Query) -> Result<u64> {
        query.count = true;
        query.limit = Some(0);
        let page = self.wait(call, self.objects.find(&auth(call), &query))?;
        Ok(page.count.unwrap_or_default())
    }

    fn get(&self, call: &Call<'_>, class: &ClassName, id: &ObjectId) -> Result<Option<Object>> {
        let found = self.wait(call, self.objects.get(&auth(call), &Query::all(class.clone()), id));
        absent_is_none(found.map(|found| found.object.without_internal_fields()))
    }

    fn get_from_memory(&self, call: &Call<'_>, class: &ClassName, id: &ObjectId) -> Option<Result<Option<Object>>> {
        if !self.objects.have_memory() {
            return None;
        }
        let (auth, query) = (auth(call), Query::all(class.clone()));
        let get = std::pin::pin!(self.objects.get(&auth, &query, id));
        // A store that can answer at once does so on the first poll.
        match get.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(found) => {
                let found = found.map(|found| found.object.without_internal_fields());
                Some(absent_is_none(found.map_err(|failure| told(&failure))))
            }
            Poll::Pending => None,
        }
    }

    fn save(&self, call: &Call<'_>, save: Save) -> Result<Option<Object>> {
        let auth = auth(call);
        let Save { class, id, update, only_if } = save;
        let outcome = self.wait(call, async {
            match id {
                None => {
                    let created = self.objects.begin_create_of(&auth, &class, update).await?.await?;
                    Ok(created.id)
                }
                Some(id) => {
                    let change = Change { sent: update, only_if: only_if.clone() };
                    self.objects.begin_update_of(&auth, &class, &id, change).await?.await?;
                    Ok(id)
                }
            }
        });
        let id = match outcome {
            Err(error) if only_if.is_some() && error == Failure::unexpected().to_error() => return Ok(None),
            outcome => outcome?,
        };
        // The saver sees what it saved, whatever it may read otherwise.
        let master = auth.as_master();
        let found = self.wait(call, self.objects.get(&master, &Query::all(class), &id))?;
        Ok(Some(found.object.without_internal_fields()))
    }

    fn delete(&self, call: &Call<'_>, class: &ClassName, id: &ObjectId) -> Result<()> {
        self.wait(call, self.objects.delete(&auth(call), class, id))
    }

    fn rate_limit(&self, key: &str, limit: usize, window: Duration) -> bool {
        self.limiter.take(key, limit, window, Instant::now())
    }

    fn now(&self) -> Date {
        now()
    }

    fn log(&self, level: Level, place: &str, text: &str) {
        match level {
            Level::Info => tracing::info!(place, "{text}"),
            Level::Warn => tracing::warn!(place, "{text}"),
            Level::Error => tracing::error!(place, "{text}"),
        }
    }
}

fn absent_is_none(found: Result<Object>) -> Result<Option<Object>> {
    match found {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.code == Code::ObjectNotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The plug that `app` puts into hooks once the use cases exist.
pub fn plug(objects: Objects, runtime: Handle) -> Arc<dyn Host> {
    Arc::new(ObjectsHost::new(objects, runtime))
}
