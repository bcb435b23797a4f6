//! Changing an object.

use super::create::{changed_fields, check_fields, is_pointer};
use super::prepared::{AfterCommit, EndedSessions, Prepared};
use super::{Objects, Pending, now, relations, sessions, users};
use crate::auth::Auth;
use crate::error::{Failure, Result};
use crate::hooks::{Edits, SaveRequest, Trigger};
use crate::permissions::Operation;
use crate::schema::{ClassSchema, FieldType, infer};
use crate::storage::{Action, Guard, Write, WriteError, Written};
use compact_str::CompactString;
use std::sync::Arc;
use std::time::Duration;
use tidings_protocol::names::{invalid_field_name, is_internal_field};
use tidings_protocol::update::{self, top_level};
use tidings_protocol::{Access, ClassName, Date, Error, Map, Object, ObjectId, Predicate, Update, Value};

/// What an update tells its client.
#[derive(Clone, Debug, PartialEq)]
pub struct Updated {
    pub updated_at: Date,
    /// The results of operations, and what a hook changed.
    pub changed: Map,
    /// Of a user who changed the own password, which ended all sessions.
    pub session_token: Option<CompactString>,
}

/// What to change, and on which condition.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub sent: Update,
    /// What the object must be in the moment of the commit, or nothing is written.
    pub only_if: Option<Predicate>,
}

/// An update before its commit: one run of the hook and what came of it.
pub(super) struct AfterUpdate {
    auth: Auth,
    class: ClassName,
    id: ObjectId,
    schema: Arc<ClassSchema>,
    edits: Edits,
    computed: Vec<CompactString>,
    changes_password: bool,
    session_token: Option<CompactString>,
    /// Whether the hook decided on a value that must still be there in the commit.
    pub(super) hook_expects: bool,
}

/// How often a hook may decide anew because its object changed meanwhile.
pub(super) const MAX_HOOK_RUNS: u64 = 12;
/// The same where the caller has a condition of its own, which may be what does not hold.
const MAX_CONDITIONAL_RUNS: u64 = 3;

impl Objects {
    /// Changes an object and waits until the change is on disk.
    ///
    /// # Errors
    /// See [`Objects::begin_update`].
    pub async fn update(&self, auth: &Auth, class: &ClassName, id: &ObjectId, body: Map) -> Result<Updated> {
        self.begin_update(auth, class, id, body).await?.await
    }

    /// Everything up to the commit, which takes its place in the order before this returns.
    ///
    /// # Errors
    /// 101 for an object that is absent or may not be written, 206 for somebody else's user, 119 where class-level
    /// permissions forbid it, 105/107/111/121/123/142 for a bad body, whatever `before_save` throws.
    pub async fn begin_update(
        &self,
        auth: &Auth,
        class: &ClassName,
        id: &ObjectId,
        body: Map,
    ) -> Result<Pending<Updated>> {
        self.begin_update_of(auth, class, id, Change::from_body(id, body)?).await
    }

    /// The same for what is decoded already.
    pub(crate) async fn begin_update_of(
        &self,
        auth: &Auth,
        class: &ClassName,
        id: &ObjectId,
        change: Change,
    ) -> Result<Pending<Updated>> {
        let prepared = self.prepare_update(auth, class, id, change.clone(), None).await?;
        let hook_expects = prepared.after.hook_expects;
        let first = self.begin(prepared).await;
        if !hook_expects {
            return Ok(first);
        }
        let (objects, auth, class, id) = (self.clone(), auth.clone(), class.clone(), id.clone());
        Ok(Box::pin(async move {
            let mut outcome = first.await;
            // The hook decided on a value that changed before the commit: let it decide again.
            let runs = if change.only_if.is_some() { MAX_CONDITIONAL_RUNS } else { MAX_HOOK_RUNS };
            for run in 1..runs {
                if outcome != Err(WriteError::Unexpected.into()) {
                    break;
                }
                rest_before(run).await;
                let prepared = objects.prepare_update(&auth, &class, &id, change.clone(), None).await?;
                outcome = objects.begin(prepared).await.await;
            }
            outcome
        }))
    }

    /// Everything up to the commit. `known` is the object as that commit will find it, where this is not what can be read.
    pub(super) async fn prepare_update(
        &self,
        auth: &Auth,
        class: &ClassName,
        id: &ObjectId,
        change: Change,
        known: Option<Arc<Object>>,
    ) -> Result<Prepared<AfterUpdate>> {
        let schema = self.class_to_write(auth, class, Operation::Update)?;
        let Change { sent: mut update, only_if } = change;
        let changes = match class {
            class if *class == ClassName::USER => Some(users::AccountChanges::take(auth, id, &mut update)?),
            class if *class == ClassName::SESSION => sessions::check_update(auth, &update).map(|()| None)?,
            _ => None,
        };
        let changes_password = changes.as_ref().is_some_and(users::AccountChanges::has_password);
        let computed = computed_paths(&update);

        // Checked here so that no hook runs for a write that cannot be, and again in the commit.
        let original = self.original_to_write(auth, class, id, known).await?;
        let mut edits = Edits::default();
        if self.0.hooks.has(class, Trigger::BeforeSave) {
            // A hook may count what it lets through, so what cannot be stored does not get to it.
            needed_fields(auth, &schema, &original, &update)?;
            let mut preview = Object::clone(&original);
            update.apply(&mut preview)?;
            self.0.storage.check_size(&preview)?;
            let request = SaveRequest::new(auth, class, Arc::new(preview), Some(original.clone())).changed_by(&update);
            edits = self.0.hooks.before_save(request).await?;
            users::check_edits(class, &edits.update)?;
            update.merge(edits.update.clone());
        }
        unset_null_pointers(&schema, &mut update);
        schema.check_required(&update)?;
        let fields = needed_fields(auth, &schema, &original, &update)?;

        let mut guard = Guard { writer: Some(auth.principals.clone()), ..Guard::default() };
        let hook_expects = edits.only_if.is_some();
        guard.expect = match (only_if, edits.only_if.take()) {
            (Some(one), Some(other)) => Some(one.and(other)),
            (one, other) => one.or(other),
        };
        let mut beside = Vec::new();
        let mut session_token = None;
        if let Some(changes) = changes {
            let prepared = users::prepare_changes(self, auth, changes, &original, &mut update).await?;
            guard.unique = prepared.unique;
            beside = prepared.sessions;
            session_token = prepared.session_token;
        }
        if *class == ClassName::SESSION {
            guard.writer = None;
        }
        beside.extend(relations::take(&schema, id, &mut update)?);
        let action = Action::Update { update, at: now() };
        let write = Write { class: class.clone(), id: id.clone(), action, guard, fields };
        let (auth, class, id) = (auth.clone(), class.clone(), id.clone());
        let after =
            AfterUpdate { auth, class, id, schema, edits, computed, changes_password, session_token, hook_expects };
        Ok(Prepared::new(write, beside, after))
    }

    /// The object as it is, or is known to be, if this caller may write it.
    pub(super) async fn original_to_write(
        &self,
        auth: &Auth,
        class: &ClassName,
        id: &ObjectId,
        known: Option<Arc<Object>>,
    ) -> Result<Arc<Object>> {
        if *class == ClassName::USER {
            users::check_own(auth, id)?;
        }
        let original = match known {
            Some(known) => known,
            None => self.0.storage.snapshot().await?.get(class, id).await?.ok_or_else(Failure::object_not_found)?,
        };
        let allowed = match *class == ClassName::SESSION {
            true => sessions::is_own(auth, &original),
            false => auth.principals.may(Access::Write, original.acl.as_ref()),
        };
        if allowed { Ok(original) } else { Err(Failure::object_not_found()) }
    }
}

impl Change {
    /// # Errors
    /// 105/107/111 for a bad body.
    pub(super) fn from_body(id: &ObjectId, mut body: Map) -> Result<Self> {
        take_reserved(id, &mut body)?;
        Ok(Self { sent: Update::from_map(body)?, only_if: None })
    }
}

impl AfterCommit for AfterUpdate {
    type Done = Updated;

    fn ended_sessions(&self) -> Option<EndedSessions> {
        self.changes_password.then(|| EndedSessions { user: self.id.clone(), kept: self.session_token.clone() })
    }

    fn has_more_to_do(&self, objects: &Objects) -> bool {
        self.changes_password || objects.0.hooks.has(&self.class, Trigger::AfterSave)
    }

    async fn finish(self, objects: &Objects, written: Vec<Written>) -> Result<Updated> {
        let Self { mut auth, class, schema, edits, computed, session_token, .. } = self;
        let Some((before, after)) = written.into_iter().next().and_then(|first| first.before.zip(first.after)) else {
            return Err(Failure::Internal("an update without its images".into()));
        };
        auth.context = edits.context.unwrap_or(auth.context);
        objects.after_save(&auth, &class, &after, Some(&before)).await;
        let mut changed = changed_fields(&edits.update, &after);
        // What a hook did to a field that its reader may not see stays unseen.
        let own = class == ClassName::USER && auth.user_id() == Some(&after.id);
        if !own {
            let hidden = schema.permissions.hidden_from(&auth.principals);
            changed.retain(|name, _| !hidden.contains(&name));
        }
        // What the client's own operations made is told, as in Parse: without it an SDK would keep its own guess.
        computed.iter().for_each(|path| echo(path, &after, &mut changed));
        Ok(Updated { updated_at: after.updated_at, changed, session_token })
    }

    fn refused(&self, error: WriteError) -> Failure {
        users::named(&self.class, error)
    }
}

/// Waits a moment before a hook decides again, so that it does not keep step with those who changed its object.
pub(super) async fn rest_before(run: u64) {
    tokio::time::sleep(Duration::from_micros(rand::random_range(0..1_000 * run))).await;
}

/// Takes out what clients send along and cannot change.
///
/// # Errors
/// 105 for another id than the object's.
fn take_reserved(id: &ObjectId, body: &mut Map) -> Result<()> {
    for name in ["objectId", "id"] {
        match body.remove(name) {
            None | Some(Value::Null) => {}
            Some(Value::String(sent)) if sent == id.as_str() => {}
            Some(_) => return Err(invalid_field_name(name).into()),
        }
    }
    for name in ["createdAt", "updatedAt"] {
        body.remove(name);
    }
    Ok(())
}

/// The paths whose results the client cannot know.
fn computed_paths(update: &Update) -> Vec<CompactString> {
    let computed = update.operations.iter().filter(|(_, operation)| {
        use update::Operation;
        !matches!(
            operation,
            Operation::Set(_) | Operation::SetOnInsert(_) | Operation::Delete | Operation::Relate { .. }
        )
    });
    computed.map(|(path, _)| path.clone()).collect()
}

/// Puts the value at `a.b` into the answer as `{"a":{"b":…}}`; an element of an array as the whole array.
fn echo(path: &str, object: &Object, changed: &mut Map) {
    let name = top_level(path);
    let Some(value) = object.fields.get(name) else { return };
    let mut segments = path.split('.').skip(1).peekable();
    if segments.peek().is_none() || !matches!(value, Value::Object(_)) {
        changed.insert(name, value.clone());
        return;
    }
    if !matches!(changed.get(name), Some(Value::Object(_))) {
        changed.insert(name, Value::Object(Map::new()));
    }
    let (mut value, mut slot) = (value, changed.get_mut(name));
    while let (Some(segment), Value::Object(map), Some(Value::Object(answer))) = (segments.next(), value, slot.take()) {
        let Some(inner) = map.get(segment) else { return };
        let is_leaf = segments.peek().is_none() || !matches!(inner, Value::Object(_));
        if is_leaf {
            answer.insert(segment, inner.clone());
            return;
        }
        if !matches!(answer.get(segment), Some(Value::Object(_))) {
            answer.insert(segment, Value::Object(Map::new()));
        }
        slot = answer.get_mut(segment);
        value = inner;
    }
}

/// Setting a pointer to null takes it away.
fn unset_null_pointers(schema: &ClassSchema, update: &mut Update) {
    for (path, operation) in &mut update.operations {
        if matches!(operation, update::Operation::Set(Value::Null)) && is_pointer(schema, path) {
            *operation = update::Operation::Delete;
        }
    }
}

/// # Errors
/// 111 where an operation does not fit its column, 119 where the caller may not add columns.
fn needed_fields(
    auth: &Auth,
    schema: &ClassSchema,
    original: &Object,
    update: &Update,
) -> Result<Vec<(CompactString, FieldType)>> {
    let mut wanted = Vec::new();
    for (path, operation) in &update.operations {
        let name = top_level(path);
        if is_internal_field(name) {
            continue;
        }
        let known = schema.field_type(name);
        match infer(path, operation) {
            // `a.b` also fits when the column is an array and `b` an index; a new column is an object.
            None if path.contains('.') => match known {
                // Where there is no array yet, an index would make an object.
                Some(FieldType::Array) if !matches!(original.fields.get(name), Some(Value::Array(_))) => {
                    return Err(Error::incorrect_type(format!("{path}: there is no array yet")).into());
                }
                Some(FieldType::Array | FieldType::Object) => {}
                Some(other) => {
                    let message = format!("{path}: the column is of type {}", other.describe());
                    return Err(Error::incorrect_type(message).into());
                }
                None => wanted.push((name.into(), FieldType::Object)),
            },
            None => {}
            Some(field_type) => wanted.push((name.into(), field_type)),
        }
    }
    check_fields(auth, schema, wanted.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_operations_are_told_where_they_are() {
        let fields = Map::from_json(br#"{"n":5,"o":{"c":{"d":2},"e":1},"l":[1,2]}"#).unwrap();
        let object = Object { fields, ..Object::default() };
        let mut changed = Map::new();
        for path in ["n", "o.c.d", "l.1", "gone", "o.nope"] {
            echo(path, &object, &mut changed);
        }
        assert_eq!(changed.to_json(), r#"{"n":5,"o":{"c":{"d":2}},"l":[1,2]}"#);
    }
}
