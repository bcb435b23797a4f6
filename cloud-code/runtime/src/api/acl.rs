//! `acl()`: who may read and write an object.

use super::{ObjectRef, PointerRef, misuse, never_unit};
use crate::engine::Raised;
use compact_str::CompactString;
use rhai::{Array, Dynamic, Engine, ImmutableString};
use tidings_protocol::acl::PUBLIC;
use tidings_protocol::{Access, Acl};

/// A value, not a view: give it to `object.set_acl(acl)`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AclRef(pub(crate) Acl);

/// A user, as object, pointer or id; `role:name`; or `*` for everybody.
fn principal(who: &Dynamic) -> Raised<CompactString> {
    if let Some(name) = who.read_lock::<ImmutableString>() {
        return if name.is_empty() || name.len() > 256 {
            Err(misuse("an ACL names users by their id, or roles as \"role:name\""))
        } else {
            Ok(name.as_str().into())
        };
    }
    let pointer = match (who.read_lock::<PointerRef>(), who.read_lock::<ObjectRef>()) {
        (Some(pointer), _) => pointer.0.clone(),
        (None, Some(object)) => object.pointer()?,
        (None, None) => return Err(misuse("an ACL names a user, an id or a role")),
    };
    if pointer.class.as_str() != "_User" {
        return Err(misuse(format!("an ACL names users, not a {}", pointer.class)));
    }
    // In an ACL these would not be a user's.
    if pointer.id.as_str() == PUBLIC || pointer.id.contains(':') {
        return Err(misuse("an ACL names users by their id"));
    }
    Ok(pointer.id.into_inner())
}

/// The rights of one principal replaced.
fn set(acl: &mut Acl, who: &str, change: impl Fn(&mut bool, &mut bool)) {
    let current = acl.grants().iter().find(|grant| grant.principal == who);
    let (mut read, mut write) = current.map_or((false, false), |grant| (grant.read, grant.write));
    let known = (read, write);
    change(&mut read, &mut write);
    // Granting more is the usual case, and needs no new list.
    if (read || !known.0) && (write || !known.1) {
        return acl.grant(who, read, write);
    }
    let mut changed = Acl::default();
    for grant in acl.grants() {
        if grant.principal == who {
            changed.grant(who, read, write);
        } else {
            changed.grant(grant.principal.clone(), grant.read, grant.write);
        }
    }
    *acl = changed;
}

fn set_read(acl: &mut AclRef, who: Dynamic, allowed: bool) -> Raised<()> {
    set(&mut acl.0, &principal(&who)?, |read, _| *read = allowed);
    Ok(())
}

fn set_write(acl: &mut AclRef, who: Dynamic, allowed: bool) -> Raised<()> {
    set(&mut acl.0, &principal(&who)?, |_, write| *write = allowed);
    Ok(())
}

fn may(acl: &AclRef, access: Access, who: &Dynamic) -> Raised<bool> {
    let who = principal(who)?;
    Ok(acl.0.allows(access, |principal| principal == who))
}

pub(crate) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<AclRef>("Acl")
        // Grants nothing: an object with it is for the master key only.
        .register_fn("acl", || AclRef(Acl::default()))
        .register_fn("set_read_access", set_read)
        .register_fn("set_write_access", set_write)
        .register_fn("set_public_read_access", |acl: &mut AclRef, allowed: bool| {
            set(&mut acl.0, PUBLIC, |read, _| *read = allowed);
        })
        .register_fn("set_public_write_access", |acl: &mut AclRef, allowed: bool| {
            set(&mut acl.0, PUBLIC, |_, write| *write = allowed);
        })
        // Whether this user, directly or as everybody, may. Roles are not expanded.
        .register_fn("get_read_access", |acl: &mut AclRef, who: Dynamic| may(acl, Access::Read, &who))
        .register_fn("get_write_access", |acl: &mut AclRef, who: Dynamic| may(acl, Access::Write, &who))
        // The same readers, no writers.
        .register_fn("read_only", |acl: &mut AclRef| {
            let mut readers = Acl::default();
            for grant in acl.0.grants() {
                readers.grant(grant.principal.clone(), grant.read, false);
            }
            AclRef(readers)
        })
        .register_get("readers", |acl: &mut AclRef| names(&acl.0, Access::Read))
        .register_get("writers", |acl: &mut AclRef| names(&acl.0, Access::Write))
        .register_fn("==", |a: AclRef, b: AclRef| a == b)
        .register_fn("!=", |a: AclRef, b: AclRef| a != b)
        .register_fn("to_string", |acl: &mut AclRef| acl.0.to_value().to_json())
        .register_fn("to_debug", |acl: &mut AclRef| acl.0.to_value().to_json());
    never_unit::<AclRef>(engine);
}

fn names(acl: &Acl, access: Access) -> Array {
    acl.grants()
        .iter()
        .filter(|grant| if access == Access::Read { grant.read } else { grant.write })
        .map(|grant| grant.principal.as_str().into())
        .collect()
}
