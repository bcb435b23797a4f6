//! Deleting an object.

use super::create::carried_through;
use super::{Objects, Pending, now, users};
use crate::auth::Auth;
use crate::error::{Failure, Result};
use crate::permissions::Operation;
use crate::storage::{Action, Guard, Write, WriteError};
use tidings_protocol::{ClassName, Code, ObjectId};

impl Objects {
    /// Deletes an object and waits until that is on disk.
    ///
    /// # Errors
    /// See [`Objects::begin_delete`].
    pub async fn delete(&self, auth: &Auth, class: &ClassName, id: &ObjectId) -> Result<()> {
        self.begin_delete(auth, class, id).await?.await
    }

    /// Everything up to the commit, which takes its place in the order before this returns.
    ///
    /// # Errors
    /// 101 for an object that is absent or may not be written, 206 for somebody else's user, 119 where class-level
    /// permissions forbid it.
    pub async fn begin_delete(&self, auth: &Auth, class: &ClassName, id: &ObjectId) -> Result<Pending<()>> {
        self.class_to_write(auth, class, Operation::Delete)?;
        let mut guard = Guard { writer: Some(auth.principals.clone()), ..Guard::default() };
        let mut beside = Vec::new();
        if *class == ClassName::SESSION {
            self.original_to_write(auth, class, id).await?;
            guard.writer = None;
        }
        if *class == ClassName::USER {
            users::check_own(auth, id)?;
            // A user's sessions end with the user.
            beside = self.session_deletions(id, None).await?;
        }
        let write = Write { class: class.clone(), id: id.clone(), action: Action::Delete, guard, fields: Vec::new() };
        let committed = self.commit([vec![write], beside].concat()).await;
        let at = now();
        let is_user = *class == ClassName::USER;
        let (objects, id) = (self.clone(), id.clone());
        let pending = Box::pin(async move {
            match committed.await {
                Ok(_) => {
                    if is_user {
                        objects.end_sessions_until(&id, at, None).await;
                    }
                    Ok(())
                }
                Err(WriteError::NotFound) => Err(Failure::parse(Code::ObjectNotFound, "Object not found for delete.")),
                Err(error) => Err(error.into()),
            }
        });
        Ok(carried_through(is_user, pending))
    }
}
