//! Access control lists: who may read and write one object.

use crate::error::{Code, Error, Result};
use crate::value::{Map, Value};
use compact_str::CompactString;

/// The key that stands for everybody.
pub const PUBLIC: &str = "*";

/// What somebody wants to do with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// Grants by `*`, user id or `role:name`. An object *without* an ACL is public; an empty ACL is for the master key only.
///
/// ```
/// use tidings_protocol::{Access, Acl};
/// let acl = Acl::default().with("alice", true, true).with("*", true, false);
/// assert!(acl.allows(Access::Write, |principal| principal == "alice"));
/// assert!(!acl.allows(Access::Write, |principal| principal == "bob"));
/// ```
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Acl {
    /// At most one entry per principal, each with at least one right.
    grants: Vec<Grant>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    pub principal: CompactString,
    pub read: bool,
    pub write: bool,
}

impl Acl {
    /// Adds rights to those that the principal has.
    #[must_use]
    pub fn with(mut self, principal: impl Into<CompactString>, read: bool, write: bool) -> Self {
        self.grant(principal, read, write);
        self
    }

    pub fn grant(&mut self, principal: impl Into<CompactString>, read: bool, write: bool) {
        let principal = principal.into();
        if !(read || write) {
            return;
        }
        match self.grants.iter_mut().find(|grant| grant.principal == principal) {
            Some(grant) => {
                grant.read |= read;
                grant.write |= write;
            }
            None => self.grants.push(Grant { principal, read, write }),
        }
    }

    /// Whether anyone for whom `is` holds, or everybody, has this right.
    pub fn allows(&self, access: Access, is: impl Fn(&str) -> bool) -> bool {
        self.grants.iter().any(|grant| {
            let granted = match access {
                Access::Read => grant.read,
                Access::Write => grant.write,
            };
            granted && (grant.principal == PUBLIC || is(&grant.principal))
        })
    }

    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }

    /// Reads the `ACL` of a request body. `Ok(None)` is public. Any truthy right counts as granted, and text or a
    /// number in place of an ACL means master only, as in Parse.
    ///
    /// # Errors
    /// 123 for a principal or a grant that cannot be.
    pub fn from_value(value: &Value) -> Result<Option<Self>> {
        let map = match value {
            Value::Null => return Ok(None),
            Value::Object(map) => map,
            Value::String(_) | Value::Number(_) => return Ok(Some(Self::default())),
            _ => return Err(invalid("ACL must be an object.")),
        };
        let mut acl = Self::default();
        for (principal, rights) in map.iter() {
            let unreadable = principal.chars().any(char::is_control);
            if principal.is_empty() || principal == "*unresolved" || principal.len() > 256 || unreadable {
                return Err(invalid("ACL names a user that has no id."));
            }
            let Value::Object(rights) = rights else {
                return Err(invalid("An ACL entry must be an object of rights."));
            };
            let right = |name| rights.get(name).is_some_and(is_truthy);
            acl.grant(principal.clone(), right("read"), right("write"));
        }
        Ok(Some(acl))
    }

    pub fn to_value(&self) -> Value {
        let grants = self.grants.iter().map(|grant| {
            let mut rights = Map::new();
            for (name, granted) in [("read", grant.read), ("write", grant.write)] {
                if granted {
                    rights.insert(name, Value::Bool(true));
                }
            }
            (grant.principal.clone(), Value::Object(rights))
        });
        Value::Object(grants.collect())
    }

    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (at, grant) in self.grants.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            crate::value::write_json_string(&grant.principal, out);
            out.extend_from_slice(match (grant.read, grant.write) {
                (true, true) => br#":{"read":true,"write":true}"#.as_slice(),
                (true, false) => br#":{"read":true}"#,
                (false, true) => br#":{"write":true}"#,
                (false, false) => b":{}",
            });
        }
        out.push(b'}');
    }
}

fn invalid(message: &'static str) -> Error {
    Error::new(Code::InvalidAcl, message)
}

pub(crate) fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => *number != 0.0,
        Value::String(text) => !text.is_empty(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Option<Acl>> {
        Acl::from_value(&Value::from_json(json.as_bytes()).unwrap())
    }

    #[test]
    fn null_is_public_and_empty_is_master_only() {
        assert_eq!(read("null"), Ok(None));
        for nobody in ["{}", "\"x\"", "5", r#"{"u":{"read":false}}"#] {
            let acl = read(nobody).unwrap().unwrap();
            assert!(!acl.allows(Access::Read, |_| true), "{nobody}");
        }
    }

    #[test]
    fn rights_are_per_principal() {
        let acl = read(r#"{"*":{"read":true},"u1":{"read":true,"write":true},"role:Admin":{"write":"yes"}}"#)
            .unwrap()
            .unwrap();
        assert!(acl.allows(Access::Read, |_| false));
        assert!(acl.allows(Access::Write, |principal| principal == "role:Admin"));
        assert!(!acl.allows(Access::Write, |principal| principal == "u2"));
        assert_eq!(
            acl.to_value().to_json(),
            r#"{"*":{"read":true},"u1":{"read":true,"write":true},"role:Admin":{"write":true}}"#
        );
        let mut json = Vec::new();
        acl.write_json(&mut json);
        assert_eq!(String::from_utf8(json).unwrap(), acl.to_value().to_json());
    }

    #[test]
    fn malformed_lists_are_123() {
        for bad in [
            "true",
            "[]",
            r#"{"*unresolved":{"read":true}}"#,
            r#"{"u":true}"#,
            r#"{"":{"read":true}}"#,
            r#"{"\u0000*":{"read":true}}"#,
        ] {
            assert_eq!(read(bad).unwrap_err().code, Code::InvalidAcl, "{bad}");
        }
    }
}
