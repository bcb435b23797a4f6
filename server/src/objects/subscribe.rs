//! Who may open a live connection, and what a subscription may see.

use super::find::refuse_hidden;
use super::{Objects, now, sessions};
use crate::auth::{Auth, Credentials};
use crate::error::{Failure, Result};
use crate::permissions::Operation;
use std::net::IpAddr;
use tidings_protocol::live::{Connect, Subscribe};
use tidings_protocol::{ClassName, Code, Predicate};

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
        let mut auth = connection.clone();
        if let Some(token) = &subscribe.session_token
            && !auth.is_master()
        {
            let (session, user) = self.0.sessions.resolve(&*self.0.storage, token, now()).await?;
            auth.principals.user = Some(user.id.clone());
            auth.user = Some(user);
            auth.session = Some(session);
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
        let mut predicate = subscribe.predicate.clone();
        if subscribe.class == ClassName::SESSION {
            predicate = sessions::own_only(&auth, predicate)?;
        }
        // As in Parse: a class that is not live can be subscribed to, and stays silent.
        if !self.is_live(&subscribe.class) {
            predicate = Predicate::Or(Vec::new());
        }
        Ok(Admission { auth, predicate })
    }

    fn is_live(&self, class: &ClassName) -> bool {
        self.0.settings.live_classes.as_ref().is_none_or(|classes| classes.iter().any(|live| live == class.as_str()))
    }
}
