//! A server of a few lines: objects in memory, every save with the class's hooks, conditions checked at the commit.

#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tidings_cloud_code::{
    Call, CloudCode, HookRequest, Host, Level, Mode, Outcome, RateLimiter, Replay, Save, Trigger,
};
use tidings_protocol::matches::Matcher;
use tidings_protocol::{ClassName, Code, Date, Error, Map, Object, ObjectId, Predicate, Query, Result, Update, Value};

pub(crate) fn cloud_code() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) struct Server {
    pub(crate) cloud_code: CloudCode,
    pub(crate) rows: Mutex<BTreeMap<(String, String), Object>>,
    pub(crate) log: Mutex<Vec<String>>,
    pub(crate) limiter: RateLimiter,
    /// Whether `get` is answered from memory.
    pub(crate) cached: bool,
    /// How long each waiting call takes.
    pub(crate) delay: Duration,
    clock: AtomicI64,
    ids: AtomicUsize,
    this: std::sync::Weak<Server>,
}

impl Server {
    pub(crate) fn new(cloud_code: CloudCode) -> Arc<Self> {
        Self::with(cloud_code, |_| {})
    }

    pub(crate) fn with(cloud_code: CloudCode, change: impl FnOnce(&mut Self)) -> Arc<Self> {
        Arc::new_cyclic(|this| {
            let mut server = Self {
                cloud_code,
                rows: Mutex::default(),
                log: Mutex::default(),
                limiter: RateLimiter::default(),
                cached: false,
                delay: Duration::ZERO,
                clock: AtomicI64::new(1_700_000_000_000),
                ids: AtomicUsize::new(0),
                this: this.clone(),
            };
            change(&mut server);
            server
        })
    }

    pub(crate) fn chat() -> Arc<Self> {
        Self::new(CloudCode::load(&cloud_code()).unwrap())
    }

    pub(crate) fn script(script: &str) -> Arc<Self> {
        Self::new(CloudCode::from_script(script).unwrap())
    }

    fn host(&self) -> Arc<dyn Host> {
        self.this.upgrade().unwrap()
    }

    pub(crate) fn tick(&self) -> Date {
        Date::from_millis(self.clock.fetch_add(1, Ordering::Relaxed)).unwrap()
    }

    pub(crate) fn row(&self, class: &str, id: &str) -> Option<Object> {
        self.rows.lock().unwrap().get(&(class.to_owned(), id.to_owned())).cloned()
    }

    pub(crate) fn get_field(&self, class: &str, id: &str, field: &str) -> String {
        let row = self.row(class, id).unwrap();
        row.field(field).map_or("-".to_owned(), |value| value.to_json())
    }

    pub(crate) fn acl(&self, class: &str, id: &str) -> String {
        self.row(class, id).unwrap().acl.map_or("public".to_owned(), |acl| acl.to_value().to_json())
    }

    /// Saves as a client does, `who` being a user's id, `master`, or nobody.
    pub(crate) fn save(&self, who: &str, class: &str, id: Option<&str>, body: &str) -> Result<Object> {
        let update = Update::from_map(Map::from_json(body.as_bytes())?)?;
        let save = Save { class: ClassName::parse(class)?, id: id.map(ObjectId::new), update, only_if: None };
        let user = (!who.is_empty() && who != "master").then(|| Object { id: ObjectId::new(who), ..Object::default() });
        self.store(save, user.map(Arc::new), who == "master").map(|saved| saved.expect("no condition"))
    }

    pub(crate) fn create(&self, who: &str, class: &str, body: &str) -> Result<String> {
        self.save(who, class, None, body).map(|object| object.id.to_string())
    }

    /// The full path of a save.
    fn store(&self, save: Save, user: Option<Arc<Object>>, master: bool) -> Result<Option<Object>> {
        for _ in 0..3 {
            let original = match &save.id {
                Some(id) => Some(
                    self.row(&save.class, id).ok_or_else(|| Error::new(Code::ObjectNotFound, "Object not found."))?,
                ),
                None => None,
            };
            let mut update = if save.id.is_none() { save.update.clone().for_create() } else { save.update.clone() };
            let mut preview = original.clone().unwrap_or_default();
            update.apply(&mut preview)?;
            let mut changed: Vec<_> = update.fields().map(Into::into).collect();
            if update.acl.is_some() {
                changed.push("ACL".into());
            }
            let mut request = HookRequest {
                class: save.class.clone(),
                object: Arc::new(preview),
                original: original.map(Arc::new),
                changed: Some(changed),
                user: user.clone(),
                master,
                ..HookRequest::default()
            };
            let mut guard = save.only_if.clone();
            if let Some(outcome) = self.run(Trigger::BeforeSave, &request) {
                let edits = outcome?;
                update.merge(edits.update);
                if let Some(condition) = edits.only_if {
                    guard = Some(guard.unwrap_or_else(Predicate::everything).and(condition));
                }
                request.context = edits.context.unwrap_or(request.context);
            }
            let Some(stored) = self.commit(&save, &update, guard.as_ref())? else {
                if save.only_if.is_some() {
                    return Ok(None);
                }
                continue;
            };
            request.object = Arc::new(stored.clone());
            if let Some(Err(error)) = self.run(Trigger::AfterSave, &request) {
                self.log.lock().unwrap().push(format!("after_save: {error}"));
            }
            return Ok(Some(stored));
        }
        Err(Error::new(Code::ScriptFailed, "The object keeps changing."))
    }

    fn commit(&self, save: &Save, update: &Update, guard: Option<&Predicate>) -> Result<Option<Object>> {
        let now = self.tick();
        let mut rows = self.rows.lock().unwrap();
        let id = match &save.id {
            Some(id) => id.clone(),
            None => ObjectId::new(format!("{}{}", save.class, self.ids.fetch_add(1, Ordering::Relaxed))),
        };
        let key = (save.class.to_string(), id.to_string());
        let mut object = match (rows.get(&key), &save.id) {
            (Some(row), _) => row.clone(),
            (None, None) => Object { id, created_at: now, ..Object::default() },
            (None, Some(_)) => return Err(Error::new(Code::ObjectNotFound, "Object not found.")),
        };
        if let Some(guard) = guard
            && !Matcher::new(guard)?.matches(&object)
        {
            return Ok(None);
        }
        update.apply(&mut object)?;
        object.updated_at = now;
        rows.insert(key, object.clone());
        Ok(Some(object))
    }

    /// Inline first, then as on the pool: as the server does it.
    fn run(&self, trigger: Trigger, request: &HookRequest) -> Option<Result<tidings_cloud_code::Edits>> {
        let hook = self.cloud_code.hook(&request.class, trigger)?;
        let request = Arc::new(request.clone());
        let mut outcome = Outcome::NeedsPool(Replay::default());
        if tidings_cloud_code::depth() == 0 {
            outcome = hook.run(&request, &self.host(), Mode::Inline { budget: Duration::from_millis(20) }).outcome;
        }
        if let Outcome::NeedsPool(replay) = outcome {
            let deadline = Instant::now() + Duration::from_secs(5);
            outcome = hook.run(&request, &self.host(), Mode::Pool { deadline, replay }).outcome;
        }
        Some(match outcome {
            Outcome::Continue(edits) => Ok(edits),
            Outcome::Rejected(rejection) => {
                if let Some(fault) = rejection.fault {
                    self.log.lock().unwrap().push(fault);
                }
                Err(rejection.error)
            }
            Outcome::NeedsPool(_) => panic!("a run on the pool asks for the pool"),
        })
    }
}

impl Host for Server {
    fn find(&self, _: &Call<'_>, query: Query) -> Result<Vec<Object>> {
        std::thread::sleep(self.delay);
        let matcher = Matcher::new(&query.predicate)?;
        let rows = self.rows.lock().unwrap();
        let found = rows.iter().filter(|((class, _), row)| *class == *query.class && matcher.matches(row));
        let mut found: Vec<Object> = found.map(|(_, row)| row.clone()).collect();
        found.sort_by_key(|row| row.created_at);
        if query.order.first().is_some_and(|order| order.descending) {
            found.reverse();
        }
        found.truncate(query.limit.unwrap_or(100) as usize);
        Ok(found)
    }

    fn count(&self, call: &Call<'_>, mut query: Query) -> Result<u64> {
        query.limit = Some(u64::MAX);
        self.find(call, query).map(|found| found.len() as u64)
    }

    fn get(&self, _: &Call<'_>, class: &ClassName, id: &ObjectId) -> Result<Option<Object>> {
        std::thread::sleep(self.delay);
        Ok(self.row(class, id))
    }

    fn get_from_memory(&self, _: &Call<'_>, class: &ClassName, id: &ObjectId) -> Option<Result<Option<Object>>> {
        self.cached.then(|| Ok(self.row(class, id)))
    }

    fn save(&self, call: &Call<'_>, save: Save) -> Result<Option<Object>> {
        self.store(save, call.request.user.clone(), call.master)
    }

    fn delete(&self, _: &Call<'_>, class: &ClassName, id: &ObjectId) -> Result<()> {
        let removed = self.rows.lock().unwrap().remove(&(class.to_string(), id.to_string()));
        removed.map(|_| ()).ok_or_else(|| Error::new(Code::ObjectNotFound, "Object not found."))
    }

    fn rate_limit(&self, key: &str, limit: usize, window: Duration) -> bool {
        self.limiter.take(key, limit, window, Instant::now())
    }

    fn now(&self) -> Date {
        self.tick()
    }

    fn log(&self, level: Level, place: &str, text: &str) {
        self.log.lock().unwrap().push(format!("{level:?} {place} {text}"));
    }
}

pub(crate) fn code(result: Result<impl Sized>) -> i32 {
    result.err().map_or(0, |error| error.code.number())
}

pub(crate) fn user(id: &str) -> String {
    Value::pointer(ClassName::USER, ObjectId::new(id)).to_json()
}
