//! What is special about `_Session`: rows are their user's own, and only custom fields can be changed.

use super::{Objects, new_object_id, now};
use crate::auth::Auth;
use crate::auth::session::TOKEN_FIELD;
use crate::error::{Failure, Result};
use crate::permissions::Principals;
use crate::storage::{Action, Guard, Selection, Write};
use compact_str::CompactString;
use std::sync::Arc;
use tidings_protocol::query::{Constraint, Order};
use tidings_protocol::{ClassName, Date, Error, Object, ObjectId, Predicate, Update, Value};

/// Expired sessions deleted in one commit.
const MAX_EXPIRED_AT_ONCE: u64 = 500;

/// A session to be written with the sign-up or log-in that begins it.
pub(super) struct NewSession {
    pub token: CompactString,
    pub write: Write,
}

impl Objects {
    /// Prepares a session of `user`. `action` and `provider` say how it came about.
    pub(super) fn new_session(&self, auth: &Auth, user: &ObjectId, action: &str, provider: &str) -> Result<NewSession> {
        let created_at = now();
        let id = new_object_id();
        let token = self.0.sessions.issue(&id, user, created_at)?;
        let length = self.0.settings.session_length.as_millis() as i64;
        let expires_at = Date::from_millis(created_at.millis().saturating_add(length)).unwrap_or(Date::MAX);
        let mut fields = tidings_protocol::map! {
            "user" => Value::pointer(ClassName::USER, user.clone()),
            "createdWith" => tidings_protocol::map! { "action" => action, "authProvider" => provider },
            "expiresAt" => expires_at,
        };
        if let Some(installation_id) = &auth.installation_id {
            fields.insert("installationId", Value::String(installation_id.clone()));
        }
        fields.insert(TOKEN_FIELD, Value::String(token.clone()));
        let object = Object { id: id.clone(), created_at, updated_at: created_at, acl: None, fields };
        let write = Write {
            class: ClassName::SESSION,
            id,
            action: Action::Create(object),
            guard: Guard::default(),
            fields: Vec::new(),
        };
        Ok(NewSession { token, write })
    }

    /// Deletions of a user's sessions: of all, or of those of one installation.
    pub(super) async fn session_deletions(&self, user: &ObjectId, installation_id: Option<&str>) -> Result<Vec<Write>> {
        let here = match installation_id {
            Some(installation_id) => Predicate::equal("installationId", installation_id),
            None => Predicate::everything(),
        };
        let sessions = self.sessions_of(user, here).await?;
        Ok(sessions.iter().map(|session| deletion(&session.id)).collect())
    }

    async fn sessions_of(&self, user: &ObjectId, narrowed: Predicate) -> Result<Vec<Arc<Object>>> {
        let predicate = Predicate::equal("user", Value::pointer(ClassName::USER, user.clone())).and(narrowed);
        let selection = Selection { predicate, ..Selection::all(ClassName::SESSION, Principals::MASTER) };
        Ok(self.0.storage.snapshot().await?.find(&selection).await?)
    }

    /// Ends the sessions that began until `at`, all but the one with this token: also those whose log-in committed while a
    /// new password, or the user's deletion, was on its way. Later ones know the new password. The change itself is done,
    /// so a failure here is only logged.
    pub(super) async fn end_sessions_until(&self, user: &ObjectId, at: Date, kept: Option<&str>) {
        if let Err(failure) = self.try_end_sessions_until(user, at, kept).await {
            tracing::error!(user = %user, error = %failure.to_error().message, "sessions may have outlived a password");
        }
    }

    async fn try_end_sessions_until(&self, user: &ObjectId, at: Date, kept: Option<&str>) -> Result<()> {
        let sessions = self.sessions_of(user, Predicate::field("createdAt", Constraint::Lte(Value::Date(at)))).await?;
        let is_kept = |session: &Object| session.fields.get(TOKEN_FIELD).and_then(Value::as_str) == kept;
        let ended: Vec<_> = sessions.iter().filter(|session| !is_kept(session)).map(|one| deletion(&one.id)).collect();
        if !ended.is_empty() {
            self.commit(ended).await.await?;
        }
        Ok(())
    }

    /// Deletes sessions whose time is over, and with them their live subscriptions. Returns how many there were.
    ///
    /// # Errors
    /// Only if the store cannot answer.
    pub async fn end_expired_sessions(&self) -> Result<usize> {
        let predicate = Predicate::field("expiresAt", Constraint::Lte(Value::Date(now())));
        let selection = Selection {
            predicate,
            order: vec![Order { path: "expiresAt".into(), descending: false }],
            limit: MAX_EXPIRED_AT_ONCE,
            ..Selection::all(ClassName::SESSION, Principals::MASTER)
        };
        let expired = self.0.storage.snapshot().await?.find(&selection).await?;
        if !expired.is_empty() {
            self.commit(expired.iter().map(|session| deletion(&session.id)).collect()).await.await?;
        }
        Ok(expired.len())
    }

    /// The presented session as an object.
    ///
    /// # Errors
    /// 209 without a session.
    pub async fn own_session(&self, auth: &Auth) -> Result<Arc<Object>> {
        let session = auth.session.as_ref().ok_or_else(Failure::invalid_session)?;
        let snapshot = self.0.storage.snapshot().await?;
        snapshot.get(&ClassName::SESSION, &session.id).await?.ok_or_else(Failure::invalid_session)
    }
}

/// The deletion of a session beside another write, or instead of one: a session that is gone is what was wanted.
pub(super) fn deletion(id: &ObjectId) -> Write {
    Write {
        class: ClassName::SESSION,
        id: id.clone(),
        action: Action::DeleteIfPresent,
        guard: Guard::default(),
        fields: Vec::new(),
    }
}

/// Narrows a query on sessions to those of the caller. One on another class stays as it is.
///
/// # Errors
/// 209 for a caller who is nobody.
pub(super) fn own_only(auth: &Auth, class: &ClassName, mut predicate: Predicate) -> Result<Predicate> {
    if *class != ClassName::SESSION {
        return Ok(predicate);
    }
    predicate.rename_field("sessionToken", TOKEN_FIELD);
    match auth.user_id() {
        _ if auth.is_master() => Ok(predicate),
        Some(user) => {
            let own = Constraint::Eq(Value::pointer(ClassName::USER, user.clone()));
            Ok(predicate.and(Predicate::field("user", own)))
        }
        None => Err(Failure::invalid_session()),
    }
}

pub(super) fn is_own(auth: &Auth, session: &Object) -> bool {
    let owner = session.fields.get("user").and_then(Value::as_pointer).map(|user| &user.id);
    auth.is_master() || owner.is_some() && owner == auth.user_id()
}

/// # Errors
/// 209 for a caller who is nobody, 105 for a field that is the server's.
pub(super) fn check_update(auth: &Auth, sent: &Update) -> Result<()> {
    if auth.user_id().is_none() && !auth.is_master() {
        return Err(Failure::invalid_session());
    }
    let reserved = ["user", "installationId", "sessionToken", "expiresAt", "createdWith"];
    if sent.acl.is_some() {
        return Err(Error::invalid_key_name("Cannot set ACL on a Session.").into());
    }
    match sent.fields().find(|name| reserved.contains(name)) {
        Some(name) => Err(Error::invalid_key_name(format!("Cannot set {name} on a Session.")).into()),
        None => Ok(()),
    }
}
