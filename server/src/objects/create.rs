//! Creating an object.

use super::prepared::{AfterCommit, Prepared};
use super::{Objects, Pending, ids, relations, users};
use crate::auth::Auth;
use crate::error::{Failure, Result};
use crate::hooks::{Edits, SaveRequest, Trigger};
use crate::permissions::Operation;
use crate::schema::{ClassSchema, FieldType};
use crate::storage::{Action, Guard, Write, WriteError, Written};
use compact_str::CompactString;
use std::sync::Arc;
use tidings_protocol::names::{invalid_field_name, is_internal_field};
use tidings_protocol::update::{self, top_level};
use tidings_protocol::{ClassName, Date, Error, Map, Object, ObjectId, Update, Value};

/// What a create tells its client.
#[derive(Clone, Debug, PartialEq)]
pub struct Created {
    pub id: ObjectId,
    pub created_at: Date,
    /// Fields whose values the client did not send as they are now.
    pub changed: Map,
    /// Of a sign-up.
    pub session_token: Option<CompactString>,
}

/// A create before its commit.
pub(super) struct AfterCreate {
    auth: Auth,
    class: ClassName,
    created: Created,
}

impl Objects {
    /// Creates an object and waits until it is on disk.
    ///
    /// # Errors
    /// See [`Objects::begin_create`].
    pub async fn create(&self, auth: &Auth, class: &ClassName, body: Map) -> Result<Created> {
        self.begin_create(auth, class, body).await?.await
    }

    /// Everything up to the commit, which takes its place in the order before this returns.
    ///
    /// # Errors
    /// 119 where class-level permissions or the class policy forbid it, 105/107/111/121/123/142 for a bad body, 200–209
    /// for a user who cannot be, whatever the class's `before_save` throws, 137 for a value that must be unique.
    pub async fn begin_create(&self, auth: &Auth, class: &ClassName, body: Map) -> Result<Pending<Created>> {
        Ok(self.begin(self.prepare_create(auth, class, body).await?).await)
    }

    /// The same for what is decoded already.
    pub(crate) async fn begin_create_of(
        &self,
        auth: &Auth,
        class: &ClassName,
        sent: Update,
    ) -> Result<Pending<Created>> {
        Ok(self.begin(self.prepare_create_of(auth, class, sent).await?).await)
    }

    /// Everything up to the commit.
    pub(super) async fn prepare_create(
        &self,
        auth: &Auth,
        class: &ClassName,
        mut body: Map,
    ) -> Result<Prepared<AfterCreate>> {
        take_reserved(&mut body)?;
        self.prepare_create_of(auth, class, Update::from_map(body)?).await
    }

    async fn prepare_create_of(
        &self,
        auth: &Auth,
        class: &ClassName,
        mut sent: Update,
    ) -> Result<Prepared<AfterCreate>> {
        let schema = self.class_to_write(auth, class, Operation::Create)?;
        if *class == ClassName::SESSION {
            return Err(Failure::forbidden());
        }
        let sign_up = if *class == ClassName::USER { Some(users::SignUp::take(auth, &mut sent)?) } else { None };
        let computed: Vec<CompactString> = computed_fields(&sent);

        let (id, created_at) = ids::next();
        let mut object = Object { id, created_at, updated_at: created_at, ..Object::default() };
        sent = sent.for_create();
        sent.apply(&mut object)?;

        let mut edits = Edits::default();
        if self.0.hooks.has(class, Trigger::BeforeSave) {
            // A hook may count what it lets through, so what cannot be stored does not get to it.
            needed_fields(auth, &schema, &object)?;
            self.0.storage.check_size(&object)?;
            let request = SaveRequest::new(auth, class, Arc::new(object.clone()), None).changed_by(&sent);
            edits = self.0.hooks.before_save(request).await?;
            users::check_edits(class, &edits.update)?;
            edits.update.apply(&mut object)?;
        }

        let mut generated = schema.complete(&mut object.fields)?;
        drop_null_pointers(&schema, &mut object);
        let mut guard = Guard::default();
        let mut beside = Vec::new();
        let mut session_token = None;
        if let Some(sign_up) = sign_up {
            let prepared = users::prepare_sign_up(self, auth, sign_up, &mut object).await?;
            guard.unique = prepared.unique;
            beside = prepared.session.into_iter().collect();
            session_token = prepared.session_token;
            generated.extend(prepared.generated);
        }
        let fields = needed_fields(auth, &schema, &object)?;
        relations::drop_values(&schema, &mut object.fields);
        if relations::are_changed(&sent) {
            // A hook may have taken members out.
            sent.merge(edits.update.clone());
            beside.extend(relations::take(&schema, &object.id, &mut sent)?);
        }

        let mut changed = changed_fields(&edits.update, &object);
        for name in computed.iter().chain(&generated) {
            if let Some(value) = object.fields.get(name) {
                changed.insert(name.clone(), value.clone());
            }
        }
        let id = object.id.clone();
        let write = Write { class: class.clone(), id: id.clone(), action: Action::Create(object), guard, fields };
        let (mut auth, class) = (auth.clone(), class.clone());
        auth.context = edits.context.unwrap_or(auth.context);
        let created = Created { id, created_at, changed, session_token };
        Ok(Prepared::new(write, beside, AfterCreate { auth, class, created }))
    }

    /// Runs the class's `after_save`, if it has one. The write is done; an error is only logged.
    pub(super) async fn after_save(
        &self,
        auth: &Auth,
        class: &ClassName,
        after: &Arc<Object>,
        before: Option<&Arc<Object>>,
    ) {
        if self.0.hooks.has(class, Trigger::AfterSave) {
            self.0.hooks.after_save(SaveRequest::new(auth, class, after.clone(), before.cloned())).await;
        }
    }
}

impl AfterCommit for AfterCreate {
    type Done = Created;

    fn has_more_to_do(&self, objects: &Objects) -> bool {
        objects.0.hooks.has(&self.class, Trigger::AfterSave)
    }

    async fn finish(self, objects: &Objects, written: Vec<Written>) -> Result<Created> {
        if let Some(after) = written.into_iter().next().and_then(|first| first.after) {
            objects.after_save(&self.auth, &self.class, &after, None).await;
        }
        Ok(self.created)
    }

    fn refused(&self, error: WriteError) -> Failure {
        users::named(&self.class, error)
    }
}

/// Takes out what a client may send and must not set.
///
/// # Errors
/// 105 for an id of the client's own, 111 for a timestamp as plain text.
fn take_reserved(body: &mut Map) -> Result<()> {
    if body.contains("id") {
        return Err(invalid_field_name("id").into());
    }
    match body.remove("objectId") {
        None | Some(Value::Null) => {}
        Some(Value::String(id)) if id.is_empty() => {}
        Some(_) => return Err(Error::invalid_key_name("objectId is an invalid field name.").into()),
    }
    for name in ["createdAt", "updatedAt"] {
        if let Some(value) = body.remove(name)
            && !matches!(value, Value::Date(_) | Value::Null)
        {
            return Err(Error::incorrect_type(format!("schema mismatch for {name}; expected Date")).into());
        }
    }
    Ok(())
}

/// Fields whose value the client cannot know, because it sent an operation.
fn computed_fields(sent: &Update) -> Vec<CompactString> {
    let computed = sent.operations.iter().filter(|(path, operation)| {
        path.contains('.') || !matches!(operation, update::Operation::Set(_) | update::Operation::Delete)
    });
    computed.map(|(path, _)| top_level(path).into()).collect()
}

/// What a hook did to an object, as the answer tells it: final values, and `{"__op":"Delete"}` for what it unset.
pub(super) fn changed_fields(edits: &Update, object: &Object) -> Map {
    let mut changed = Map::new();
    for name in edits.fields().filter(|name| !is_internal_field(name)) {
        let value = object.fields.get(name).cloned();
        changed.insert(name, value.unwrap_or_else(|| Value::Object(tidings_protocol::map! { "__op" => "Delete" })));
    }
    if edits.acl.is_some()
        && let Some(acl) = &object.acl
    {
        changed.insert("ACL", acl.to_value());
    }
    changed
}

/// A pointer that is null is a pointer that is not there.
pub(super) fn drop_null_pointers(schema: &ClassSchema, object: &mut Object) {
    object.fields.retain(|name, value| !(value.is_null() && is_pointer(schema, name)));
}

pub(super) fn is_pointer(schema: &ClassSchema, name: &str) -> bool {
    matches!(schema.fields.get(name), Some(FieldType::Pointer(_)))
}

/// The columns that this object needs and the class does not have.
///
/// # Errors
/// 111 where a column has another type, 119 where the caller may not add columns.
fn needed_fields(auth: &Auth, schema: &ClassSchema, object: &Object) -> Result<Vec<(CompactString, FieldType)>> {
    let typed = object.fields.iter().filter(|(name, _)| !is_internal_field(name));
    let typed = typed.filter_map(|(name, value)| Some((name.clone(), FieldType::of(value)?)));
    check_fields(auth, schema, typed)
}

/// See [`needed_fields`].
pub(super) fn check_fields(
    auth: &Auth,
    schema: &ClassSchema,
    wanted: impl Iterator<Item = (CompactString, FieldType)>,
) -> Result<Vec<(CompactString, FieldType)>> {
    let mut new: Vec<(CompactString, FieldType)> = Vec::new();
    for (name, field_type) in wanted {
        if schema.check_field(&name, &field_type)? && !new.iter().any(|(known, _)| *known == name) {
            schema.permissions.check(Operation::AddField, &auth.principals)?;
            new.push((name, field_type));
        }
    }
    Ok(new)
}
