//! Deleting an object.

use super::prepared::{AfterCommit, EndedSessions, Prepared};
use super::{Objects, Pending, users};
use crate::auth::Auth;
use crate::error::{Failure, Result};
use crate::permissions::Operation;
use crate::storage::{Action, Guard, Write, WriteError, Written};
use tidings_protocol::{ClassName, Code, ObjectId};

/// A delete before its commit.
pub(super) struct AfterDelete {
    /// The user who is deleted, if it is one.
    user: Option<ObjectId>,
}

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
        Ok(self.begin(self.prepare_delete(auth, class, id).await?).await)
    }

    /// Everything up to the commit.
    pub(super) async fn prepare_delete(
        &self,
        auth: &Auth,
        class: &ClassName,
        id: &ObjectId,
    ) -> Result<Prepared<AfterDelete>> {
        self.class_to_write(auth, class, Operation::Delete)?;
        let mut guard = Guard { writer: Some(auth.principals.clone()), ..Guard::default() };
        let mut beside = Vec::new();
        if *class == ClassName::SESSION {
            self.original_to_write(auth, class, id, None).await?;
            guard.writer = None;
        }
        let mut user = None;
        if *class == ClassName::USER {
            users::check_own(auth, id)?;
            // A user's sessions end with the user.
            beside = self.session_deletions(id, None).await?;
            user = Some(id.clone());
        }
        let write = Write { class: class.clone(), id: id.clone(), action: Action::Delete, guard, fields: Vec::new() };
        Ok(Prepared::new(write, beside, AfterDelete { user }))
    }
}

impl AfterCommit for AfterDelete {
    type Done = ();

    fn ended_sessions(&self) -> Option<EndedSessions> {
        Some(EndedSessions { user: self.user.clone()?, kept: None })
    }

    fn has_more_to_do(&self, _objects: &Objects) -> bool {
        self.user.is_some()
    }

    async fn finish(self, _objects: &Objects, _written: Vec<Written>) -> Result<()> {
        Ok(())
    }

    fn refused(&self, error: WriteError) -> Failure {
        match error {
            WriteError::NotFound => Failure::parse(Code::ObjectNotFound, "Object not found for delete."),
            error => error.into(),
        }
    }
}
