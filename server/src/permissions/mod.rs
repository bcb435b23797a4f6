//! Pure decisions: may these principals do that? Given an ACL, class-level permissions, and who is asking.
//!
//! Nothing here reads storage or knows of sessions; [`crate::auth`] finds out who is asking.

mod class_level;

pub use class_level::{ClassLevelPermissions, Denied, Operation};

use tidings_protocol::{Access, Acl, ObjectId};

/// Who is asking, as ACLs and class-level permissions see it.
///
/// Equal principals may share every decision: live queries check each distinct value once per change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Principals {
    /// The master key: every check passes.
    pub master: bool,
    /// The logged-in user; `None` is anonymous.
    pub user: Option<ObjectId>,
}

impl Principals {
    pub const ANONYMOUS: Self = Self { master: false, user: None };
    pub const MASTER: Self = Self { master: true, user: None };

    pub fn user(id: ObjectId) -> Self {
        Self { master: false, user: Some(id) }
    }

    /// Whether an ACL entry with this name is about us.
    pub fn is(&self, principal: &str) -> bool {
        self.user.as_ref().is_some_and(|user| user.as_str() == principal)
    }

    /// Whether an object with this ACL may be read or written. No ACL is public.
    pub fn may(&self, access: Access, acl: Option<&Acl>) -> bool {
        self.master || acl.is_none_or(|acl| acl.allows(access, |principal| self.is(principal)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acl_decisions() {
        let alice = Principals::user(ObjectId::new("alice"));
        let private = Acl::default().with("alice", true, true);
        assert!(alice.may(Access::Write, Some(&private)));
        assert!(!Principals::ANONYMOUS.may(Access::Read, Some(&private)));
        assert!(Principals::MASTER.may(Access::Write, Some(&Acl::default())));
        assert!(Principals::ANONYMOUS.may(Access::Write, None));
    }
}
