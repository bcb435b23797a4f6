//! Passwords: hashed and verified on a bounded number of blocking threads, because both are slow on purpose.

use crate::error::{Failure, Result};
use argon2::Argon2;
use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use compact_str::CompactString;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Makes hashes of one kind, and understands both.
#[derive(Clone, Debug)]
pub struct Passwords {
    hashing: Hashing,
    /// As many at once as there are cores: more would only take memory.
    slots: Arc<Semaphore>,
}

/// How new passwords are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashing {
    /// argon2id with the crate's defaults: 19 MiB, two passes. OWASP's first choice.
    Argon2,
    /// As Parse Server does it, which understands nothing else: for a database that it may share.
    Bcrypt,
}

/// What Parse Server has each hash cost.
const BCRYPT_COST: u32 = 10;

impl Hashing {
    fn hash(self, password: &[u8]) -> std::result::Result<String, String> {
        match self {
            Self::Argon2 => {
                let salt = SaltString::generate(&mut OsRng);
                let hash = Argon2::default().hash_password(password, &salt).map_err(|error| error.to_string())?;
                Ok(hash.to_string())
            }
            Self::Bcrypt => bcrypt::hash(password, BCRYPT_COST).map_err(|error| error.to_string()),
        }
    }

    /// A hash of nothing that anybody knows: verified when there is no such user, so that both answers take as long.
    fn dummy(self) -> &'static str {
        match self {
            Self::Argon2 => {
                "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$3Yz4xCPlBLJXVtHzpF3xJkTJVOeQTXmDSjJBJwZUEfY"
            }
            Self::Bcrypt => "$2b$10$7BoZ/.5lvoP5KQGqvvcjg.nhWM0LE8jJ6PN4wR/l0M2R1W7KpUVlK",
        }
    }
}

impl Passwords {
    pub fn new(hashing: Hashing) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self { hashing, slots: Arc::new(Semaphore::new(cores)) }
    }

    pub async fn hash(&self, password: CompactString) -> Result<CompactString> {
        let hashing = self.hashing;
        let hash = self.run(move || hashing.hash(password.as_bytes())).await?;
        hash.map(Into::into).map_err(|error| Failure::Internal(format!("password hash: {error}")))
    }

    /// Whether the password fits the hash; without a hash it takes the same time and never fits.
    pub async fn verify(&self, password: CompactString, hash: Option<CompactString>) -> Result<bool> {
        let dummy = self.hashing.dummy();
        self.run(move || {
            let known = hash.is_some();
            let hash = hash.unwrap_or_else(|| dummy.into());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_fits_only_its_own_hash() {
        for (hashing, beginning, other) in
            [(Hashing::Argon2, "$argon2id$", Hashing::Bcrypt), (Hashing::Bcrypt, "$2b$10$", Hashing::Argon2)]
        {
            let passwords = Passwords::new(hashing);
            let hash = passwords.hash("secret".into()).await.unwrap();
            assert!(hash.starts_with(beginning), "{hash}");
            assert!(passwords.verify("secret".into(), Some(hash.clone())).await.unwrap());
            assert!(Passwords::new(other).verify("secret".into(), Some(hash.clone())).await.unwrap());
            assert!(!passwords.verify("Secret".into(), Some(hash)).await.unwrap());
            assert!(!passwords.verify("secret".into(), None).await.unwrap());
            assert!(!passwords.verify("secret".into(), Some("garbage".into())).await.unwrap());
        }
    }

    #[test]
    fn the_dummies_are_real_hashes() {
        assert!(PasswordHash::new(Hashing::Argon2.dummy()).is_ok_and(|hash| hash.hash.is_some()));
        assert_eq!(bcrypt::verify("secret", Hashing::Bcrypt.dummy()).ok(), Some(false));
    }
}
