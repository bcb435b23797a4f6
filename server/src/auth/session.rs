//! Sessions: tokens that a forger cannot make, backed by rows of `_Session` that decide.
//!
//! A token is Parse's opaque `r:` followed by a JSON Web Token that names the session's row. The signature turns
//! forgeries away without a read; the row says whether the session still lives, so that a revoked one ends at once.
//! Where others keep their sessions in the same store, their tokens are found by the row alone.

use crate::error::{Failure, Result};
use crate::permissions::Principals;
use crate::storage::{Selection, Snapshot, Storage};
use compact_str::CompactString;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tidings_protocol::{ClassName, Date, Object, ObjectId, Predicate, Value};

/// The internal field of a `_Session` row that holds its token.
pub const TOKEN_FIELD: &str = "_session_token";

/// A session that was presented and lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The id of its `_Session` row.
    pub id: ObjectId,
    pub token: CompactString,
}

#[derive(Clone)]
pub struct Sessions {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    /// The rows of tokens whose signature was found good, or that were found in the store; most requests carry one of a few.
    verified: Arc<quick_cache::sync::Cache<CompactString, ObjectId>>,
    /// Whether others, who sign otherwise or not at all, begin sessions in the store, too.
    shared: bool,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    /// The id of the session's row.
    sid: String,
    /// The user's id.
    sub: String,
    /// Seconds since 1970.
    iat: i64,
}

/// Longer tokens are not ours.
const MAX_TOKEN: usize = 1_024;
const VERIFIED_TOKENS: usize = 20_000;

impl Sessions {
    pub fn new(secret: &[u8]) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        // The row knows when the session ends; the token does not say.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        Self {
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            validation,
            verified: Arc::new(quick_cache::sync::Cache::new(VERIFIED_TOKENS)),
            shared: false,
        }
    }

    /// Sessions in a store that Parse Server, or other nodes with secrets of their own, may share.
    #[must_use]
    pub fn in_shared_store(self) -> Self {
        Self { shared: true, ..self }
    }

    /// Makes the token of a new session.
    pub fn issue(&self, session: &ObjectId, user: &ObjectId, now: Date) -> Result<CompactString> {
        let claims = Claims { sid: session.to_string(), sub: user.to_string(), iat: now.millis() / 1000 };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding);
        let token = token.map_err(|error| Failure::Internal(format!("session token: {error}")))?;
        Ok(compact_str::format_compact!("r:{token}"))
    }

    /// The session and the user that a token stands for.
    ///
    /// # Errors
    /// 209 for a token that is forged, unknown, revoked or expired, or whose user is gone.
    pub async fn resolve(&self, storage: &dyn Storage, token: &str, now: Date) -> Result<(Session, Arc<Object>)> {
        let id = self.row_id(token);
        if id.is_none() && !(self.shared && bare(token).is_some()) {
            return Err(Failure::invalid_session());
        }
        let row = match id {
            Some(id) => storage.recent(&ClassName::SESSION, &id).await?,
            None => self.row_of_others(&*storage.snapshot().await?, token).await?,
        };
        let row = row.ok_or_else(Failure::invalid_session)?;
        if row.fields.get(TOKEN_FIELD).and_then(Value::as_str) != Some(token) {
            return Err(Failure::invalid_session());
        }
        if matches!(row.fields.get("expiresAt"), Some(Value::Date(ends)) if *ends <= now) {
            let message = "Session token is expired.";
            return Err(Failure::parse(tidings_protocol::Code::InvalidSessionToken, message));
        }
        let user = row.fields.get("user").and_then(Value::as_pointer).ok_or_else(Failure::invalid_session)?;
        let user = storage.recent(&ClassName::USER, &user.id).await?.ok_or_else(Failure::invalid_session)?;
        Ok((Session { id: row.id.clone(), token: token.into() }, user))
    }

    /// The row of a token that says nothing by itself.
    async fn row_of_others(&self, snapshot: &dyn Snapshot, token: &str) -> Result<Option<Arc<Object>>> {
        let predicate = Predicate::equal(TOKEN_FIELD, token);
        let selection = Selection { predicate, limit: 1, ..Selection::all(ClassName::SESSION, Principals::MASTER) };
        let row = snapshot.find(&selection).await?.into_iter().next();
        if let Some(row) = &row {
            self.verified.insert(token.into(), row.id.clone());
        }
        Ok(row)
    }

    fn row_id(&self, token: &str) -> Option<ObjectId> {
        if let Some(id) = self.verified.get(token) {
            return Some(id);
        }
        let signed = bare(token)?;
        let claims = jsonwebtoken::decode::<Claims>(signed, &self.decoding, &self.validation).ok()?.claims;
        let id = ObjectId::new(claims.sid);
        self.verified.insert(token.into(), id.clone());
        Some(id)
    }
}

/// What follows the `r:` of a token.
fn bare(token: &str) -> Option<&str> {
    token.strip_prefix("r:").filter(|bare| !bare.is_empty() && bare.len() <= MAX_TOKEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_tokens_name_a_row() {
        let sessions = Sessions::new(b"secret");
        let token = sessions.issue(&ObjectId::new("row"), &ObjectId::new("user"), Date::default()).unwrap();
        assert!(token.starts_with("r:"));
        assert_eq!(sessions.row_id(&token), Some(ObjectId::new("row")));
        let other = Sessions::new(b"other").issue(&ObjectId::new("row"), &ObjectId::new("u"), Date::default()).unwrap();
        // Unsigned tokens ("alg": "none") are refused as well.
        let unsigned = "r:eyJhbGciOiJub25lIn0.eyJzaWQiOiJyb3ciLCJzdWIiOiJ1IiwiaWF0IjowfQ.";
        for forged in [other.as_str(), unsigned, "", "r:", "r:x.y.z", &token[2..], &format!("{token}x")] {
            assert_eq!(sessions.row_id(forged), None, "{forged}");
        }
    }
}
