//! `request`, the one parameter of every handler.

use super::{LogRef, ObjectRef, misuse};
use crate::convert::{read_map, to_map};
use crate::engine::{Raised, charge};
use crate::request::{Edits, HookRequest, Trigger};
use rhai::{Dynamic, Engine, ImmutableString, Map as ScriptMap};
use std::sync::{Arc, Mutex, PoisonError};
use tidings_protocol::{ClassName, Map};

#[derive(Clone)]
pub(crate) struct RequestRef(Arc<State>);

struct State {
    request: Arc<HookRequest>,
    trigger: Trigger,
    object: ObjectRef,
    context: Mutex<Option<Map>>,
}

impl RequestRef {
    pub(crate) fn new(request: Arc<HookRequest>, trigger: Trigger) -> Self {
        let object = ObjectRef::subject(request.clone(), trigger == Trigger::BeforeSave);
        Self(Arc::new(State { request, trigger, object, context: Mutex::new(None) }))
    }

    pub(crate) fn into_edits(self) -> Edits {
        let context = self.0.context.lock().unwrap_or_else(PoisonError::into_inner).take();
        match self.0.trigger {
            Trigger::BeforeSave => {
                let (update, only_if) = self.0.object.take_edits();
                Edits { update, only_if, context }
            }
            Trigger::AfterSave => Edits { context, ..Edits::default() },
        }
    }

    fn context(&self) -> ScriptMap {
        let changed = self.0.context.lock().unwrap_or_else(PoisonError::into_inner);
        to_map(changed.as_ref().unwrap_or(&self.0.request.context))
    }

    fn set_context(&self, context: &ScriptMap) -> Raised<()> {
        let context = read_map(context, 0)?;
        charge(context.weight())?;
        *self.0.context.lock().unwrap_or_else(PoisonError::into_inner) = Some(context);
        Ok(())
    }
}

pub(crate) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<RequestRef>("Request")
        .register_get("object", |request: &mut RequestRef| request.0.object.clone())
        .register_get("original", |request: &mut RequestRef| {
            let original = request.0.request.original.as_ref();
            original.map_or(Dynamic::UNIT, |original| {
                Dynamic::from(ObjectRef::original(request.0.request.class.clone(), original.clone()))
            })
        })
        .register_get("user", |request: &mut RequestRef| {
            let user = request.0.request.user.as_ref();
            user.map_or(Dynamic::UNIT, |user| Dynamic::from(ObjectRef::known(ClassName::USER, user.clone())))
        })
        .register_get("master", |request: &mut RequestRef| request.0.request.master)
        .register_get("installation_id", |request: &mut RequestRef| {
            let id = request.0.request.installation_id.as_ref();
            id.map_or(Dynamic::UNIT, |id| id.as_str().into())
        })
        .register_get("ip", |request: &mut RequestRef| {
            request.0.request.ip.map_or(Dynamic::UNIT, |ip| ip.to_string().into())
        })
        .register_get("headers", |request: &mut RequestRef| -> ScriptMap { to_map(&request.0.request.headers) })
        .register_get("trigger_name", |request: &mut RequestRef| ImmutableString::from(request.0.trigger.name()))
        .register_get("class_name", |request: &mut RequestRef| ImmutableString::from(request.0.request.class.as_str()))
        .register_get("log", |_: &mut RequestRef| LogRef)
        .register_get("context", |request: &mut RequestRef| request.context())
        .register_set("context", |request: &mut RequestRef, context: ScriptMap| request.set_context(&context))
        .register_indexer_get(|_: &mut RequestRef, name: &str| -> Raised<Dynamic> {
            Err(misuse(format!("a request has no property `{name}`")))
        });
}
