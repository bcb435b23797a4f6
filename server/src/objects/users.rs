//! What is special about rows of `_User`: passwords, unique names, and that a user belongs to itself.

use super::sessions::NewSession;
use super::{Objects, random_text};
use crate::auth::Auth;
use crate::error::{Failure, Result};
use crate::storage::{Unique, Write, WriteError};
use compact_str::{CompactString, format_compact};
use tidings_protocol::names::{invalid_field_name, is_internal_field};
use tidings_protocol::update::Operation;
use tidings_protocol::{ClassName, Code, Map, Object, ObjectId, Predicate, Update, Value};

/// The internal field of a `_User` row that holds the hash of its password.
pub(super) const PASSWORD_FIELD: &str = "_hashed_password";
/// The internal field that holds the id of an anonymous guest.
pub(super) const ANONYMOUS_FIELD: &str = "_auth_data_anonymous";
/// What the internal fields of all providers begin with.
const PROVIDER: &str = "_auth_data_";
/// Parse Server's own adapter for second factors.
pub(super) const SECOND_FACTOR: &str = "mfa";
pub(super) const SECOND_FACTOR_FIELD: &str = "_auth_data_mfa";
/// With which a Parse Server on the same database lets somebody set a new password.
const RESET_FIELDS: [&str; 2] = ["_perishable_token", "_perishable_token_expires_at"];

/// What a sign-up sends that is not simply stored.
pub(super) struct SignUp {
    username: Option<CompactString>,
    password: Option<CompactString>,
    anonymous_id: Option<CompactString>,
}

/// What becomes of a sign-up.
pub(super) struct PreparedSignUp {
    pub unique: Vec<Unique>,
    pub session: Option<Write>,
    pub session_token: Option<CompactString>,
    /// Fields that the server chose.
    pub generated: Vec<CompactString>,
}

impl SignUp {
    /// Takes the sensitive parts out of what is to be created.
    ///
    /// # Errors
    /// 200 and 201 for missing or unusable names and passwords, 119 for `emailVerified`, 252 for providers.
    pub(super) fn take(auth: &Auth, sent: &mut Update) -> Result<Self> {
        refuse_reserved(auth, sent)?;
        let anonymous_id = match sent.take("authData") {
            None => None,
            Some(auth_data) => Some(anonymous_id(&set_value(auth_data))?.ok_or_else(unsupported_provider)?),
        };
        let text = |value: Option<Value>| match value {
            Some(Value::String(text)) if !text.is_empty() => Some(text),
            _ => None,
        };
        let username = text(sent.operation("username").cloned().map(set_value));
        let password = text(sent.take("password").map(set_value));
        if anonymous_id.is_none() {
            if username.is_none() {
                return Err(Failure::parse(Code::UsernameMissing, "bad or missing username"));
            }
            if password.is_none() {
                return Err(Failure::parse(Code::PasswordMissing, "password is required"));
            }
        }
        Ok(Self { username, password, anonymous_id })
    }
}

/// Completes the user object, after `before_save` has seen it.
pub(super) async fn prepare_sign_up(
    objects: &Objects,
    auth: &Auth,
    sign_up: SignUp,
    user: &mut Object,
) -> Result<PreparedSignUp> {
    let mut generated = Vec::new();
    let mut unique = Vec::new();
    // A guest's name may come from the class's default.
    let is_named = user.fields.get("username").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
    if sign_up.username.is_none() && !is_named {
        user.fields.insert("username", Value::String(random_text(25)));
        generated.push("username".into());
    }
    unique.push(unique_text(&user.fields, "username")?);
    check_email(&user.fields)?;
    if user.fields.contains("email") {
        unique.push(unique_text(&user.fields, "email")?);
    }
    if let Some(password) = sign_up.password {
        let hash = objects.0.passwords.hash(password).await?;
        user.fields.insert(PASSWORD_FIELD, Value::String(hash));
    }
    // Parse calls the first session of a guest a log-in.
    let (action, provider) = match sign_up.anonymous_id {
        Some(id) => {
            user.fields.insert(ANONYMOUS_FIELD, Value::String(id.clone()));
            unique.push(Unique { field: ANONYMOUS_FIELD.into(), value: Value::String(id) });
            ("login", "anonymous")
        }
        None => ("signup", "password"),
    };
    // Private unless said otherwise; whatever is said, users keep their own rights.
    let acl = user.acl.take().unwrap_or_default();
    user.acl = Some(acl.with(user.id.as_str(), true, true));
    // A script, or the master by hand, signs up others; an SDK with the master key signs up whoever uses it.
    let signs_up_others = auth.depth > 0 || auth.is_master() && auth.installation_id.is_none();
    let session = match signs_up_others {
        true => None,
        false => Some(objects.new_session(auth, &user.id, action, provider)?),
    };
    let (session, session_token) = session.map(|NewSession { token, write }| (write, token)).unzip();
    Ok(PreparedSignUp { unique, session, session_token, generated })
}

/// What an update of a user sends that is not simply stored.
pub(super) struct AccountChanges {
    password: Option<CompactString>,
    /// What becomes of the anonymous id: `Some(None)` takes it away.
    anonymous_id: Option<Option<CompactString>>,
}

pub(super) struct PreparedChanges {
    pub unique: Vec<Unique>,
    /// The user's sessions to end, and the one that begins instead.
    pub sessions: Vec<Write>,
    pub session_token: Option<CompactString>,
}

impl AccountChanges {
    /// # Errors
    /// 206 for somebody else's account, 201 for an empty password, 119 for `emailVerified`, 252 for providers.
    pub(super) fn take(auth: &Auth, id: &ObjectId, sent: &mut Update) -> Result<Self> {
        check_own(auth, id)?;
        refuse_reserved(auth, sent)?;
        let password = match sent.take("password").map(set_value) {
            None => None,
            Some(Value::String(password)) if !password.is_empty() => Some(password),
            Some(_) => return Err(Failure::parse(Code::PasswordMissing, "password is required")),
        };
        let anonymous_id = match sent.take("authData") {
            None => None,
            Some(Operation::Delete) => Some(None),
            Some(auth_data) => Some(anonymous_id(&set_value(auth_data))?),
        };
        Ok(Self { password, anonymous_id })
    }

    pub(super) fn has_password(&self) -> bool {
        self.password.is_some()
    }
}

pub(super) async fn prepare_changes(
    objects: &Objects,
    auth: &Auth,
    changes: AccountChanges,
    original: &Object,
    update: &mut Update,
) -> Result<PreparedChanges> {
    // Who has the link in an old message must not undo a new password.
    if changes.has_password() || update.operation("email").is_some() {
        update.operations.extend(RESET_FIELDS.map(|field| (field.into(), Operation::Delete)));
    }
    let mut preview = original.clone();
    update.apply(&mut preview)?;
    let mut unique = Vec::new();
    if preview.fields.get("username") != original.fields.get("username") {
        unique.push(unique_text(&preview.fields, "username")?);
    }
    check_email(&preview.fields)?;
    if preview.fields.contains("email") && preview.fields.get("email") != original.fields.get("email") {
        unique.push(unique_text(&preview.fields, "email")?);
    }
    // Nobody locks oneself out; the master may lock others out.
    if let Some(acl) = &mut update.acl
        && !auth.is_master()
    {
        let said = acl.take().unwrap_or_default();
        *acl = Some(said.with(original.id.as_str(), true, true));
    }
    match changes.anonymous_id.map(|id| id.map(Value::String)) {
        None => {}
        Some(None) => update.operations.push((ANONYMOUS_FIELD.into(), Operation::Delete)),
        // Sending one's own id again changes nothing.
        Some(Some(id)) if original.fields.get(ANONYMOUS_FIELD) == Some(&id) => {}
        Some(Some(id)) => {
            unique.push(Unique { field: ANONYMOUS_FIELD.into(), value: id.clone() });
            update.operations.push((ANONYMOUS_FIELD.into(), Operation::Set(id)));
        }
    }
    let mut prepared = PreparedChanges { unique, sessions: Vec::new(), session_token: None };
    if let Some(password) = changes.password {
        let hash = objects.0.passwords.hash(password).await?;
        update.operations.push((PASSWORD_FIELD.into(), Operation::Set(Value::String(hash))));
        prepared.sessions = objects.session_deletions(&original.id, None).await?;
        // Only the user who changed the own password goes on without a new log-in.
        if auth.user_id() == Some(&original.id) {
            let session = objects.new_session(auth, &original.id, "login", "password")?;
            prepared.sessions.push(session.write);
            prepared.session_token = Some(session.token);
        }
    }
    Ok(prepared)
}

/// Users change only themselves.
///
/// # Errors
/// 206 for anybody else.
pub(super) fn check_own(auth: &Auth, id: &ObjectId) -> Result<()> {
    if auth.is_master() || auth.user_id() == Some(id) {
        return Ok(());
    }
    Err(Failure::parse(Code::SessionMissing, "Permission denied"))
}

/// What a hook must leave alone: it never sees these, and they are not simply stored.
///
/// # Errors
/// 141 for a hook that sets one.
pub(super) fn check_edits(class: &ClassName, edits: &Update) -> Result<()> {
    let sensitive = ["password", "authData", "sessionToken"];
    let is_user = *class == ClassName::USER;
    match edits.fields().find(|name| is_internal_field(name) || is_user && sensitive.contains(name)) {
        Some(name) => Err(Failure::parse(Code::ScriptFailed, format!("A hook cannot set {name}."))),
        None => Ok(()),
    }
}

/// The provider whose internal field this is.
pub(super) fn provider(field: &str) -> Option<&str> {
    field.strip_prefix(PROVIDER)
}

/// Whether a second factor is asked of this user: one that Parse Server has set up, and only it can check.
pub(super) fn has_second_factor(user: &Object) -> bool {
    let Some(Value::Object(factor)) = user.fields.get(SECOND_FACTOR_FIELD) else { return false };
    ["secret", "mobile"].iter().any(|kind| factor.get(kind).is_some_and(|value| !value.is_null()))
}

/// Has a query of the master on `authData` look where that is stored. One on another class stays as it is.
pub(super) fn by_provider(auth: &Auth, class: &ClassName, mut predicate: Predicate) -> Predicate {
    if *class == ClassName::USER && auth.is_master() {
        predicate.fields_mut(&mut |path, _| match path.strip_prefix("authData.") {
            None => {}
            Some("anonymous" | "anonymous.id") => *path = ANONYMOUS_FIELD.into(),
            Some(rest) => *path = format_compact!("{PROVIDER}{rest}"),
        });
    }
    predicate
}

/// A write's failure, with Parse's own codes for taken names of users.
pub(super) fn named(class: &ClassName, error: WriteError) -> Failure {
    match &error {
        WriteError::Duplicate { field } if *class == ClassName::USER => match field.as_str() {
            "username" => Failure::parse(Code::UsernameTaken, "Account already exists for this username."),
            "email" => Failure::parse(Code::EmailTaken, "Account already exists for this email address."),
            _ => Failure::parse(Code::AccountAlreadyLinked, "this auth is already used"),
        },
        _ => error.into(),
    }
}

/// What users must not set, or what is not stored.
fn refuse_reserved(auth: &Auth, sent: &mut Update) -> Result<()> {
    if sent.operation("emailVerified").is_some() && !auth.is_master() {
        return Err(Failure::forbidden());
    }
    // These are not stored as they are sent, so nothing inside them can be addressed.
    let inside = |path: &str| {
        path.split_once('.')
            .is_some_and(|(name, _)| ["authData", "password", "sessionToken", "emailVerified"].contains(&name))
    };
    if let Some((path, _)) = sent.operations.iter().find(|(path, _)| inside(path)) {
        return Err(invalid_field_name(path).into());
    }
    sent.take("sessionToken");
    // No address is no address.
    if let Some(Operation::Set(Value::Null)) = sent.operation("email") {
        sent.take("email");
        sent.operations.push(("email".into(), Operation::Delete));
    }
    Ok(())
}

/// The value that an operation sets; null for any other operation.
fn set_value(operation: Operation) -> Value {
    match operation {
        Operation::Set(value) | Operation::SetOnInsert(value) => value,
        _ => Value::Null,
    }
}

/// The id of the anonymous guest that `authData` names; `None` where it names none.
pub(super) fn anonymous_id(auth_data: &Value) -> Result<Option<CompactString>> {
    let Some(providers) = auth_data.as_object() else { return Err(unsupported_provider()) };
    if providers.iter().any(|(name, value)| name != "anonymous" && !value.is_null()) {
        return Err(unsupported_provider());
    }
    match providers.get("anonymous") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(anonymous)) => match anonymous.get("id") {
            Some(Value::String(id)) if !id.is_empty() && id.len() <= 256 => Ok(Some(id.clone())),
            _ => Err(Failure::parse(Code::InvalidValue, "authData needs an id that is a string")),
        },
        Some(_) => Err(unsupported_provider()),
    }
}

pub(super) fn unsupported_provider() -> Failure {
    Failure::parse(Code::UnsupportedService, "This authentication method is unsupported.")
}

fn unique_text(fields: &Map, name: &str) -> Result<Unique> {
    match fields.get(name) {
        Some(Value::String(text)) if !text.is_empty() => {
            Ok(Unique { field: name.into(), value: Value::String(text.clone()) })
        }
        _ if name == "username" => Err(Failure::parse(Code::UsernameMissing, "bad or missing username")),
        _ => Err(Failure::parse(Code::InvalidEmailAddress, "Email address format is invalid.")),
    }
}

/// # Errors
/// 125 for anything that has not an `@` with something on both sides.
fn check_email(fields: &Map) -> Result<()> {
    let valid = match fields.get("email") {
        None => true,
        Some(Value::String(email)) => {
            email.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
        }
        Some(_) => false,
    };
    if valid { Ok(()) } else { Err(Failure::parse(Code::InvalidEmailAddress, "Email address format is invalid.")) }
}
