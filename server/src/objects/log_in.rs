//! Log-in and log-out: a proof is checked, and a session begins.

use super::Objects;
use super::sessions::deletion;
use super::users::{
    ANONYMOUS_FIELD, PASSWORD_FIELD, SECOND_FACTOR, SECOND_FACTOR_FIELD, anonymous_id, has_second_factor,
    unsupported_provider,
};
use crate::auth::Auth;
use crate::error::{Failure, Result};
use crate::permissions::Principals;
use crate::storage::{Action, Guard, Refused, Selection, Write, WriteError};
use compact_str::CompactString;
use std::sync::Arc;
use tidings_protocol::{ClassName, Code, Map, Object, Predicate, Value};

/// A user and the session that a log-in began.
#[derive(Clone, Debug)]
pub struct LoggedIn {
    pub user: Arc<Object>,
    pub session_token: CompactString,
}

impl Objects {
    /// Signs up a guest, or logs one in that is known already.
    ///
    /// # Errors
    /// As [`Objects::create`] of a `_User`.
    pub async fn known_guest(&self, auth: &Auth, body: &Map) -> Result<Option<LoggedIn>> {
        let Some(auth_data) = body.get("authData") else { return Ok(None) };
        let Some(id) = anonymous_id(auth_data)? else { return Ok(None) };
        match self.find_users(Predicate::equal(ANONYMOUS_FIELD, Value::String(id))).await?.into_iter().next() {
            Some(user) => Ok(Some(self.begin_log_in(auth, user, ANONYMOUS_FIELD).await?)),
            None => Ok(None),
        }
    }

    /// Checks a password and begins a session. `name` is a user name or an e-mail address.
    ///
    /// # Errors
    /// 101 when anything about it is wrong; Parse does not tell what. 200 and 201 for missing parts. -1 for a user of whom
    /// Parse Server asks a second factor.
    pub async fn log_in(&self, auth: &Auth, body: &Map) -> Result<LoggedIn> {
        let user = self.check_password(body).await?;
        // A user whom nobody may read, not even itself, is switched off.
        if user.acl.as_ref().is_some_and(|acl| acl.grants().is_empty()) {
            return Err(wrong_password());
        }
        self.begin_log_in(auth, user, PASSWORD_FIELD).await
    }

    /// Checks a password without beginning a session.
    ///
    /// # Errors
    /// As [`Objects::log_in`].
    pub async fn check_password(&self, body: &Map) -> Result<Arc<Object>> {
        if body.get("authData").is_some_and(|auth_data| !auth_data.is_null()) {
            // A second factor that nobody checks must not look like one.
            return Err(unsupported_provider());
        }
        let text = |name: &str| match body.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(_) => Err(wrong_password()),
        };
        let username = text("username")?;
        let predicate = match (username, text("email")?) {
            (None, None) => return Err(Failure::parse(Code::UsernameMissing, "username/email is required.")),
            (None, Some(email)) => Predicate::equal("email", email),
            (Some(name), Some(email)) => Predicate::equal("username", name).and(Predicate::equal("email", email)),
            (Some(name), None) => {
                Predicate::Or(["username", "email"].map(|field| Predicate::equal(field, name)).into())
            }
        };
        let password =
            text("password")?.ok_or_else(|| Failure::parse(Code::PasswordMissing, "password is required."))?;
        let mut found = self.find_users(predicate).await?;
        // One user's address may be another's name; the name counts.
        if found.len() > 1 {
            found.retain(|user| user.fields.get("username").and_then(Value::as_str) == username);
        }
        let user = found.into_iter().next();
        let hash = user.as_ref().and_then(|user| user.fields.get(PASSWORD_FIELD)).and_then(Value::as_str);
        let fits = self.0.passwords.verify(password.into(), hash.map(Into::into)).await?;
        user.filter(|_| fits).ok_or_else(wrong_password)
    }

    /// Ends the presented session, if there is one.
    ///
    /// # Errors
    /// Only if the store cannot answer.
    pub async fn log_out(&self, auth: &Auth) -> Result<()> {
        let Some(session) = &auth.session else { return Ok(()) };
        self.commit(vec![deletion(&session.id)]).await.await?;
        Ok(())
    }

    /// `proof` is the field that was checked. It must still be what it was when the session begins.
    async fn begin_log_in(&self, auth: &Auth, user: Arc<Object>, proof: &str) -> Result<LoggedIn> {
        if has_second_factor(&user) {
            let message = format!("Missing additional authData {SECOND_FACTOR}, which this server cannot check.");
            return Err(Failure::parse(Code::OtherCause, message));
        }
        let provider = if proof == ANONYMOUS_FIELD { "anonymous" } else { "password" };
        let session = self.new_session(auth, &user.id, "login", provider)?;
        // One session per user and installation.
        let mut writes = match &auth.installation_id {
            Some(installation_id) => self.session_deletions(&user.id, Some(installation_id)).await?,
            None => Vec::new(),
        };
        // Neither is another, nor has a second factor come.
        let unchanged = [proof, SECOND_FACTOR_FIELD]
            .map(|field| Predicate::equal(field, user.fields.get(field).cloned().unwrap_or(Value::Null)));
        writes.push(Write {
            class: ClassName::USER,
            id: user.id.clone(),
            action: Action::Expect,
            guard: Guard { expect: Some(Predicate::And(unchanged.into())), ..Guard::default() },
            fields: Vec::new(),
        });
        writes.push(session.write);
        match self.commit(writes).await.await {
            Ok(_) => {}
            Err(Refused { error: WriteError::Unexpected | WriteError::NotFound, .. }) => return Err(wrong_password()),
            Err(error) => return Err(error.into()),
        }
        Ok(LoggedIn { user, session_token: session.token })
    }

    /// The users who may be meant: hardly ever two.
    async fn find_users(&self, predicate: Predicate) -> Result<Vec<Arc<Object>>> {
        let selection = Selection { predicate, limit: 2, ..Selection::all(ClassName::USER, Principals::MASTER) };
        Ok(self.0.storage.snapshot().await?.find(&selection).await?)
    }
}

fn wrong_password() -> Failure {
    Failure::parse(Code::ObjectNotFound, "Invalid username/password.")
}
