//! Objects and pointers. What a script changes on an object becomes operations, so that what it did not touch is not
//! written, and increments are never lost.

use super::query::{QueryRef, combined};
use super::{AclRef, DateRef, misuse, never_unit, raise};
use crate::convert::{from_dynamic, to_dynamic};
use crate::engine::{Raised, call_host, charge};
use crate::host::Save;
use crate::request::HookRequest;
use compact_str::CompactString;
use rhai::{Array, Dynamic, Engine, FLOAT, INT, ImmutableString, Map as ScriptMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidings_protocol::names::{invalid_field_name, is_field_path, is_internal_field};
use tidings_protocol::update::top_level;
use tidings_protocol::value::Pointer;
use tidings_protocol::{ClassName, Object, ObjectId, Operation, Predicate, Update, Value};

/// How many changes one object may collect.
const MAX_EDITS: usize = 1_000;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PointerRef(pub(crate) Pointer);

/// A handle: copies are the same object.
#[derive(Clone, Debug)]
pub(crate) struct ObjectRef(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    class: ClassName,
    held: Held,
    role: Role,
    /// What the object is the subject of: it knows what the client changed.
    request: Option<Arc<HookRequest>>,
    is_new: bool,
    edits: Update,
    conditions: Vec<Predicate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// What a `before_save` hook is about: it is saved by the request, not by the script.
    Subject,
    ReadOnly,
    Other,
}

/// Shared with the request until the script changes it.
#[derive(Debug)]
enum Held {
    Shared(Arc<Object>),
    Owned(Box<Object>),
}

impl State {
    fn object(&self) -> &Object {
        match &self.held {
            Held::Shared(object) => object,
            Held::Owned(object) => object,
        }
    }

    fn object_mut(&mut self) -> &mut Object {
        if !matches!(self.held, Held::Owned(_)) {
            self.held = Held::Owned(Box::new(self.object().clone()));
        }
        match &mut self.held {
            Held::Owned(object) => object,
            _ => unreachable!("made owned above"),
        }
    }

    fn edited(&self, name: &str) -> bool {
        match name {
            "ACL" => self.edits.acl.is_some(),
            _ => self.edits.fields().any(|field| field == name),
        }
    }

    fn may_change(&self) -> Raised<()> {
        match self.role {
            Role::ReadOnly => Err(misuse("request.original cannot be changed")),
            _ if self.edits.operations.len() >= MAX_EDITS => Err(misuse("too many changes of one object")),
            _ => Ok(()),
        }
    }
}

impl ObjectRef {
    fn new(class: ClassName, held: Held, role: Role, is_new: bool) -> Self {
        let (edits, conditions) = (Update::default(), Vec::new());
        Self(Arc::new(Mutex::new(State { class, held, role, request: None, is_new, edits, conditions })))
    }

    /// `request.object`; before a save the script's changes go to the request, after it they need a `save()`.
    pub(crate) fn subject(request: Arc<HookRequest>, before: bool) -> Self {
        let role = if before { Role::Subject } else { Role::Other };
        let object = Self::new(request.class.clone(), Held::Shared(request.object.clone()), role, request.is_new());
        object.lock().request = Some(request);
        object
    }

    pub(crate) fn original(class: ClassName, object: Arc<Object>) -> Self {
        Self::new(class, Held::Shared(object), Role::ReadOnly, false)
    }

    pub(crate) fn known(class: ClassName, object: Arc<Object>) -> Self {
        Self::new(class, Held::Shared(object), Role::Other, false)
    }

    pub(crate) fn found(class: ClassName, object: Object) -> Self {
        Self::new(class, Held::Owned(Box::new(object)), Role::Other, false)
    }

    /// One that is known only by its id.
    fn named(pointer: Pointer) -> Self {
        let object = Object { id: pointer.id, ..Object::default() };
        Self::found(pointer.class, object)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take_edits(&self) -> (Update, Option<Predicate>) {
        let mut state = self.lock();
        (std::mem::take(&mut state.edits), combined(std::mem::take(&mut state.conditions)))
    }

    pub(crate) fn pointer(&self) -> Raised<Pointer> {
        let state = self.lock();
        match state.object().id.clone() {
            id if id.is_empty() => Err(misuse(format!("this {} has no id before it is saved", state.class))),
            id => Ok(Pointer { class: state.class.clone(), id }),
        }
    }

    fn get(&mut self, name: &str) -> Raised<Dynamic> {
        let state = self.lock();
        if name == "ACL" {
            return Ok(acl_of(&state));
        }
        if is_internal_field(name) || (name == "objectId" && state.object().id.is_empty()) {
            return Ok(Dynamic::UNIT);
        }
        let found = state.object().field(name).map_or(Dynamic::UNIT, |value| to_dynamic(&value));
        drop(state);
        Ok(found)
    }

    fn operate(&mut self, path: &str, operation: Operation) -> Raised<()> {
        if !is_field_path(path) {
            return Err(raise(invalid_field_name(path)));
        }
        if matches!(top_level(path), "objectId" | "createdAt" | "updatedAt" | "ACL") {
            return Err(misuse(format!("{path} cannot be set so; an ACL is set by set_acl")));
        }
        let mut state = self.lock();
        state.may_change()?;
        let update = Update { operations: vec![(path.into(), operation)], acl: None };
        update.apply(state.object_mut()).map_err(raise)?;
        state.edits.merge(update);
        Ok(())
    }

    fn set(&mut self, name: &str, value: Dynamic) -> Raised<()> {
        match name {
            "ACL" | "acl" => self.set_acl(&value),
            _ => self.operate(name, Operation::Set(from_dynamic(&value)?)),
        }
    }

    fn set_acl(&mut self, value: &Dynamic) -> Raised<()> {
        let acl = match value.read_lock::<AclRef>() {
            Some(acl) => Some(acl.0.clone()),
            None if value.is_unit() => None,
            None => return Err(misuse("an ACL is made by acl()")),
        };
        charge(acl.as_ref().map_or(0, |acl| acl.grants().len() * 40))?;
        let mut state = self.lock();
        state.may_change()?;
        state.object_mut().acl.clone_from(&acl);
        state.edits.acl = Some(acl);
        Ok(())
    }

    /// Whether the field is an array with this item; cheaper than reading the array into the script.
    fn contains(&mut self, name: &str, item: &Dynamic) -> Raised<bool> {
        let item = from_dynamic(item)?;
        let state = self.lock();
        let items = state.object().fields.get(name).and_then(Value::as_array);
        Ok(!is_internal_field(name) && items.is_some_and(|items| items.contains(&item)))
    }

    fn dirty(&mut self, name: &str) -> bool {
        let state = self.lock();
        state.request.as_ref().is_some_and(|request| has_changed(request, name)) || state.edited(name)
    }

    fn dirty_keys(&mut self) -> Array {
        let state = self.lock();
        let mut names: Vec<CompactString> = match &state.request {
            Some(request) => match (&request.changed, &request.original) {
                (Some(changed), _) => changed.clone(),
                (None, original) => {
                    let before = original.iter().flat_map(|original| original.fields.iter());
                    let names = request.object.fields.iter().chain(before).map(|(name, _)| name);
                    names.filter(|name| has_changed(request, name)).cloned().collect()
                }
            },
            None => Vec::new(),
        };
        names.extend(state.edits.fields().map(CompactString::from));
        names.sort();
        names.dedup();
        names.iter().filter(|name| !is_internal_field(name)).map(|name| name.as_str().into()).collect()
    }

    fn save(&mut self, master: bool) -> Raised<bool> {
        let (save, is_new) = {
            let state = self.lock();
            match state.role {
                Role::Subject => {
                    return Err(misuse("request.object is saved by the request; a before_save hook only changes it"));
                }
                Role::ReadOnly => return Err(misuse("request.original cannot be saved")),
                Role::Other => {}
            }
            let id = Some(state.object().id.clone()).filter(|id| !id.is_empty());
            let only_if = combined(state.conditions.clone());
            let is_new = id.is_none();
            (Save { class: state.class.clone(), id, update: state.edits.clone(), only_if }, is_new)
        };
        if is_new && save.only_if.is_some() {
            return Err(misuse("a new object has nothing to compare a condition with"));
        }
        let saved = call_host(master, |_, _| None, |host, call| host.save(call, save))?;
        let Some(object) = saved else { return Ok(false) };
        charge(object.weight())?;
        let mut state = self.lock();
        state.held = Held::Owned(Box::new(object));
        state.is_new = is_new;
        state.request = None;
        state.edits = Update::default();
        state.conditions.clear();
        Ok(true)
    }

    fn delete(&mut self, master: bool) -> Raised<()> {
        let pointer = self.pointer()?;
        call_host(master, |_, _| None, |host, call| host.delete(call, &pointer.class, &pointer.id))
    }
}

fn has_changed(request: &HookRequest, name: &str) -> bool {
    match (&request.changed, &request.original) {
        (Some(changed), _) => changed.iter().any(|changed| changed == name),
        (None, Some(original)) if name == "ACL" => original.acl != request.object.acl,
        (None, Some(original)) => original.fields.get(name) != request.object.fields.get(name),
        (None, None) if name == "ACL" => request.object.acl.is_some(),
        (None, None) => request.object.fields.contains(name),
    }
}

fn acl_of(state: &State) -> Dynamic {
    state.object().acl.as_ref().map_or(Dynamic::UNIT, |acl| Dynamic::from(AclRef(acl.clone())))
}

/// The object, or the unit if it does not exist or may not be read.
fn fetch(pointer: &Pointer, master: bool) -> Raised<Dynamic> {
    let found = call_host(
        master,
        |host, call| host.get_from_memory(call, &pointer.class, &pointer.id),
        |host, call| host.get(call, &pointer.class, &pointer.id),
    )?;
    let Some(object) = found else { return Ok(Dynamic::UNIT) };
    charge(object.weight())?;
    Ok(Dynamic::from(ObjectRef::found(pointer.class.clone(), object)))
}

fn pointer(class: &str, id: &str) -> Raised<Pointer> {
    if id.is_empty() {
        return Err(misuse("a pointer needs an id"));
    }
    Ok(Pointer { class: ClassName::parse(class).map_err(raise)?, id: ObjectId::new(id) })
}

/// One item, or the items of an array.
fn items(value: &Dynamic) -> Raised<Vec<Value>> {
    Ok(match from_dynamic(value)? {
        Value::Array(items) => items,
        item => vec![item],
    })
}

pub(crate) fn register(engine: &mut Engine) {
    register_pointers(engine);
    register_reading(engine);
    register_changes(engine);

    // Two handles are equal if they name the same object, whatever they know of it.
    engine
        .register_fn("==", |a: PointerRef, b: PointerRef| a == b)
        .register_fn("!=", |a: PointerRef, b: PointerRef| a != b)
        .register_fn("==", |a: PointerRef, b: ObjectRef| names(&b, &a))
        .register_fn("!=", |a: PointerRef, b: ObjectRef| !names(&b, &a))
        .register_fn("==", |a: ObjectRef, b: PointerRef| names(&a, &b))
        .register_fn("!=", |a: ObjectRef, b: PointerRef| !names(&a, &b))
        .register_fn("==", |a: ObjectRef, b: ObjectRef| same(&a, &b))
        .register_fn("!=", |a: ObjectRef, b: ObjectRef| !same(&a, &b));
    never_unit::<PointerRef>(engine);
    never_unit::<ObjectRef>(engine);
}

fn names(object: &ObjectRef, pointer: &PointerRef) -> bool {
    let state = object.lock();
    state.object().id == pointer.0.id && state.class == pointer.0.class
}

fn same(a: &ObjectRef, b: &ObjectRef) -> bool {
    Arc::ptr_eq(&a.0, &b.0) || b.pointer().is_ok_and(|pointer| names(a, &PointerRef(pointer)))
}

fn register_pointers(engine: &mut Engine) {
    engine
        .register_type_with_name::<PointerRef>("Pointer")
        .register_fn("pointer", |class: &str, id: &str| pointer(class, id).map(PointerRef))
        .register_fn("pointer", |object: ObjectRef| object.pointer().map(PointerRef))
        .register_get("id", |pointer: &mut PointerRef| ImmutableString::from(pointer.0.id.as_str()))
        .register_get("class_name", |pointer: &mut PointerRef| ImmutableString::from(pointer.0.class.as_str()))
        .register_fn("fetch", |pointer: &mut PointerRef| fetch(&pointer.0, false))
        .register_fn("fetch_with_master_key", |pointer: &mut PointerRef| fetch(&pointer.0, true))
        .register_fn("to_string", |pointer: &mut PointerRef| format!("{}:{}", pointer.0.class, pointer.0.id))
        .register_fn("to_debug", |pointer: &mut PointerRef| format!("{}:{}", pointer.0.class, pointer.0.id))
        .register_fn("new_object", |class: &str| -> Raised<ObjectRef> {
            let class = ClassName::parse(class).map_err(raise)?;
            Ok(ObjectRef::new(class, Held::Owned(Box::default()), Role::Other, true))
        })
        .register_fn("object", |class: &str, id: &str| pointer(class, id).map(ObjectRef::named))
        .register_fn("object", |pointer: PointerRef| ObjectRef::named(pointer.0));
}

fn register_reading(engine: &mut Engine) {
    let id = |object: &mut ObjectRef| match &object.lock().object().id {
        id if id.is_empty() => Dynamic::UNIT,
        id => id.as_str().into(),
    };
    engine
        .register_type_with_name::<ObjectRef>("Object")
        .register_get("id", id)
        .register_get("class_name", |object: &mut ObjectRef| ImmutableString::from(object.lock().class.as_str()))
        .register_get("created_at", |object: &mut ObjectRef| DateRef(object.lock().object().created_at))
        .register_get("updated_at", |object: &mut ObjectRef| DateRef(object.lock().object().updated_at))
        .register_get("acl", |object: &mut ObjectRef| acl_of(&object.lock()))
        .register_indexer_get(|object: &mut ObjectRef, name: &str| object.get(name))
        .register_fn("get", |object: &mut ObjectRef, name: &str| object.get(name))
        .register_fn("has", |object: &mut ObjectRef, name: &str| {
            !is_internal_field(name) && object.lock().object().field(name).is_some_and(|value| !value.is_null())
        })
        .register_fn("contains", |object: &mut ObjectRef, name: &str, item: Dynamic| object.contains(name, &item))
        .register_fn("keys", |object: &mut ObjectRef| -> Array {
            let state = object.lock();
            let names = state.object().fields.iter().map(|(name, _)| name.as_str());
            names.filter(|name| !is_internal_field(name)).map(|name| name.to_owned().into()).collect()
        })
        .register_fn("to_map", |object: &mut ObjectRef| -> ScriptMap {
            let state = object.lock();
            let fields = state.object().fields.iter().filter(|(name, _)| !is_internal_field(name));
            fields.map(|(name, value)| (name.as_str().into(), to_dynamic(value))).collect()
        })
        .register_fn("is_new", |object: &mut ObjectRef| object.lock().is_new)
        .register_fn("existed", |object: &mut ObjectRef| !object.lock().is_new)
        .register_fn("dirty", |object: &mut ObjectRef, name: &str| object.dirty(name))
        .register_fn("dirty_keys", |object: &mut ObjectRef| object.dirty_keys())
        .register_fn("fetch", |object: &mut ObjectRef| fetch(&object.pointer()?, false))
        .register_fn("fetch_with_master_key", |object: &mut ObjectRef| fetch(&object.pointer()?, true))
        .register_fn("to_string", described)
        .register_fn("to_debug", described);
}

fn described(object: &mut ObjectRef) -> String {
    let state = object.lock();
    format!("{}:{}", state.class, state.object().id)
}

fn register_changes(engine: &mut Engine) {
    engine
        .register_indexer_set(|object: &mut ObjectRef, name: &str, value: Dynamic| object.set(name, value))
        .register_fn("set", |object: &mut ObjectRef, name: &str, value: Dynamic| object.set(name, value))
        .register_fn("unset", |object: &mut ObjectRef, name: &str| object.operate(name, Operation::Delete))
        .register_fn("increment", |object: &mut ObjectRef, name: &str| object.operate(name, Operation::Increment(1.0)))
        .register_fn("increment", |object: &mut ObjectRef, name: &str, by: INT| {
            object.operate(name, Operation::Increment(by as f64))
        })
        .register_fn("increment", |object: &mut ObjectRef, name: &str, by: FLOAT| {
            object.operate(name, Operation::Increment(by))
        })
        .register_fn("add", |object: &mut ObjectRef, name: &str, item: Dynamic| {
            object.operate(name, Operation::Add(items(&item)?))
        })
        .register_fn("add_unique", |object: &mut ObjectRef, name: &str, item: Dynamic| {
            object.operate(name, Operation::AddUnique(items(&item)?))
        })
        .register_fn("remove", |object: &mut ObjectRef, name: &str, item: Dynamic| {
            object.operate(name, Operation::Remove(items(&item)?))
        })
        .register_set("acl", |object: &mut ObjectRef, acl: Dynamic| object.set_acl(&acl))
        .register_fn("set_acl", |object: &mut ObjectRef, acl: Dynamic| object.set_acl(&acl))
        // What must still hold in the moment of the commit: a field's value, or what a query asks for.
        .register_fn("expect", |object: &mut ObjectRef, name: &str, value: Dynamic| {
            object.condition(Predicate::equal(CompactString::from(name), from_dynamic(&value)?))
        })
        .register_fn("only_if", |object: &mut ObjectRef, query: QueryRef| object.condition(query.predicate()))
        .register_fn("save", |object: &mut ObjectRef| object.save(false))
        .register_fn("save_with_master_key", |object: &mut ObjectRef| object.save(true))
        .register_fn("destroy", |object: &mut ObjectRef| object.delete(false))
        .register_fn("destroy_with_master_key", |object: &mut ObjectRef| object.delete(true));
}

impl ObjectRef {
    fn condition(&mut self, predicate: Predicate) -> Raised<()> {
        let mut state = self.lock();
        state.may_change()?;
        if state.is_new {
            return Err(misuse("a new object has nothing to compare a condition with"));
        }
        if state.conditions.len() >= 100 {
            return Err(misuse("too many conditions"));
        }
        state.conditions.push(predicate);
        Ok(())
    }
}
