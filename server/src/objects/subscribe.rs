//! Who may open a live connection, and what a subscription may see.

use super::find::refuse_hidden;
use super::{Objects, now, refuse_unsupported, relations, sessions};
use crate::auth::{Auth, Credentials};
use crate::error::{Failure, Result};
use crate::permissions::Operation;
use std::net::IpAddr;
use tidings_protocol::live::{Connect, Subscribe};
use tidings_protocol::{ClassName, Code, Error, Predicate};

/// What a subscription was granted.
#[derive(Clone, Debug)]
pub struct Admission {
    /// In whose eyes changes are looked at.
    pub auth: Auth,
    /// The filter in force: narrowed to own rows where the class asks for that.
    pub predicate: Predicate,
}

impl Objects {
    /// Checks the keys of a live connection.
    ///
    /// # Errors
    /// Unauthorized keys. A dead session token counts as none: the SDK captures the token of a connection once, and
    /// would never recover from an error here.
    pub async fn live_connect(&self, connect: &Connect, address: IpAddr) -> Result<Auth> {
        let credentials = Credentials {
            application_id: Some(connect.application_id.clone()),
            master_key: connect.master_key.clone(),
            javascript_key: connect.javascript_key.clone(),
            rest_key: connect.rest_key.clone(),
            client_key: connect.client_key.clone(),
            session_token: connect.session_token.clone(),
            installation_id: connect.installation_id.clone(),
            address,
        };
        match self.authenticate(&credentials).await {
            Err(Failure::Parse(error)) if error.code == Code::InvalidSessionToken => {
                self.authenticate(&Credentials { session_token: None, ..credentials }).await
            }
            outcome => outcome,
        }
    }

    /// Checks a subscription. Its own session token goes before that of its connection.
    ///
    /// # Errors
    /// 209 for a dead token, or for sessions without a user; 119 or 101 where class-level permissions forbid it; 119
    /// for a filter on a hidden field.
    pub async fn live_subscribe(&self, connection: &Auth, subscribe: &Subscribe) -> Result<Admission> {
        refuse_unsupported(&subscribe.class)?;
        refuse_backtracking(&subscribe.predicate)?;
        let mut auth = connection.clone();
        if !auth.is_master() {
            let known = match (&subscribe.session_token, &connection.session) {
                (Some(token), _) => Some(self.0.sessions.resolve(&*self.0.storage, token, now()).await?),
                // It may have ended since the client connected; a dead token of a connection counts as none.
                (None, Some(session)) => match self.0.sessions.resolve(&*self.0.storage, &session.token, now()).await {
                    Err(Failure::Parse(error)) if error.code == Code::InvalidSessionToken => None,
                    outcome => Some(outcome?),
                },
                (None, None) => None,
            };
            auth.identify(known);
        }
        let schemas = self.0.storage.schemas();
        let schema = schemas.get(&subscribe.class);
        if let Some(schema) = schema {
            let operation = match subscribe.predicate.only_object_id() {
                Some(_) => Operation::Get,
                None => Operation::Find,
            };
            schema.permissions.check(operation, &auth.principals)?;
        }
        refuse_hidden(&auth, schema.map(|schema| &**schema), &subscribe.predicate, std::iter::empty())?;
        if relations::is_asked(&subscribe.predicate, schema.map(|schema| &**schema)) {
            return Err(Error::invalid_query("Relations cannot be subscribed to yet.").into());
        }
        refuse_auth_data(&subscribe.class, &subscribe.predicate)?;
        let mut predicate = sessions::own_only(&auth, &subscribe.class, subscribe.predicate.clone())?;
        // As in Parse: a class that is not live can be subscribed to, and stays silent.
        if !self.is_live(&subscribe.class) {
            predicate = Predicate::Or(Vec::new());
        }
        Ok(Admission { auth, predicate })
    }

    /// Whether subscriptions to this class are told anything.
    pub fn is_live(&self, class: &ClassName) -> bool {
        self.0.settings.live_classes.as_ref().is_none_or(|classes| classes.is_match(class.as_str()))
    }
}

/// Nobody who hears of changes is told who vouches for a user.
///
/// # Errors
/// 102 for a filter that asks for it.
fn refuse_auth_data(class: &ClassName, predicate: &Predicate) -> Result<()> {
    let mut asks = false;
    predicate.fields(&mut |path, _| asks |= path.split('.').next() == Some("authData"));
    match asks && *class == ClassName::USER {
        true => Err(Error::invalid_query("authData cannot be subscribed to.").into()),
        false => Ok(()),
    }
}

/// Every subscription waits for the evaluation of the others, so none may take its time.
///
/// # Errors
/// 102 for a regular expression that has to backtrack.
fn refuse_backtracking(predicate: &Predicate) -> Result<()> {
    let mut backtracks = false;
    predicate.expressions(&mut |regex| backtracks |= regex.compile().is_ok_and(|expression| expression.backtracks()));
    match backtracks {
        true => {
            let message = "Regular expressions that backtrack (look-around, back-references, atomic groups, possessive \
                           quantifiers, comments, \\K, \\N, \\R, \\e) cannot be subscribed to.";
            Err(Error::invalid_query(message).into())
        }
        false => Ok(()),
    }
}
