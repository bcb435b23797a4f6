//! Passwords: hashed and verified on a bounded number of blocking threads, because both are slow on purpose.

use crate::error::{Failure, Result};
use argon2::Argon2;
use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use compact_str::CompactString;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// New hashes are argon2id with the crate's defaults (19 MiB, two passes: OWASP's first choice). bcrypt hashes, as
/// Parse makes them, are verified too.
#[derive(Clone, Debug)]
pub struct Passwords {
    /// As many at once as there are cores: more would only take memory.
    slots: Arc<Semaphore>,
}

/// A hash of nothing that anybody knows: verified when there is no such user, so that both answers take as long.
const DUMMY: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$3Yz4xCPlBLJXVtHzpF3xJkTJVOeQTXmDSjJBJwZUEfY";

impl Passwords {
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self { slots: Arc::new(Semaphore::new(cores)) }
    }

    pub async fn hash(&self, password: CompactString) -> Result<CompactString> {
        self.run(move || {
            let salt = SaltString::generate(&mut OsRng);
            Argon2::default()
                .hash_password(password.as_bytes(), &salt)
                .map(|hash| hash.to_string().into())
                .map_err(|error| Failure::Internal(format!("password hash: {error}")))
        })
        .await?
    }

    /// Whether the password fits the hash; without a hash it takes the same time and never fits.
    pub async fn verify(&self, password: CompactString, hash: Option<CompactString>) -> Result<bool> {
        self.run(move || {
            let known = hash.is_some();
            let hash = hash.unwrap_or_else(|| DUMMY.into());
            let fits = if hash.starts_with("$2") {
                bcrypt::verify(password.as_bytes(), &hash).unwrap_or(false)
            } else {
                PasswordHash::new(&hash)
                    .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
            };
            known && fits
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let closed = |_| Failure::Internal("password threads are gone".into());
        let _slot = self.slots.acquire().await.map_err(closed)?;
        tokio::task::spawn_blocking(work).await.map_err(|error| Failure::Internal(format!("password thread: {error}")))
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_fits_only_its_own_hash() {
        let passwords = Passwords::new();
        let hash = passwords.hash("secret".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$"));
        assert!(passwords.verify("secret".into(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify("Secret".into(), Some(hash)).await.unwrap());
        assert!(!passwords.verify("secret".into(), None).await.unwrap());
        assert!(!passwords.verify("secret".into(), Some("garbage".into())).await.unwrap());
    }

    #[tokio::test]
    async fn hashes_of_parse_server_are_understood() {
        let hash = bcrypt::hash("secret", 4).unwrap();
        assert!(Passwords::new().verify("secret".into(), Some(hash.into())).await.unwrap());
    }

    #[test]
    fn the_dummy_is_a_real_hash() {
        assert!(PasswordHash::new(DUMMY).is_ok_and(|hash| hash.hash.is_some()));
    }
}
