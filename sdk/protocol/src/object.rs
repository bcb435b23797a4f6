//! An object of a class: what is stored, sent and matched.

use crate::acl::Acl;
use crate::date::Date;
use crate::names::{ClassName, ObjectId, is_internal_field};
use crate::value::{Map, Value, write_json_string};
use std::borrow::Cow;

/// One object. Its class is known from where it stands.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Object {
    pub id: ObjectId,
    pub created_at: Date,
    pub updated_at: Date,
    /// `None` is public.
    pub acl: Option<Acl>,
    /// The class's own fields. Names that begin with `_` (a password hash, a session token) are the server's: no
    /// client sees them, and no change record carries them.
    pub fields: Map,
}

impl Object {
    /// A field by name, `objectId`, `createdAt` and `updatedAt` included.
    pub fn field(&self, name: &str) -> Option<Cow<'_, Value>> {
        match name {
            "objectId" => Some(Cow::Owned(Value::String(self.id.as_str().into()))),
            "createdAt" => Some(Cow::Owned(Value::Date(self.created_at))),
            "updatedAt" => Some(Cow::Owned(Value::Date(self.updated_at))),
            _ => self.fields.get(name).map(Cow::Borrowed),
        }
    }

    /// Appends the object as REST clients see it, with the fields that `shows` lets through.
    pub fn write_json(&self, out: &mut Vec<u8>, shows: impl Fn(&str) -> bool) {
        out.push(b'{');
        self.write_members(out, shows);
        out.push(b'}');
    }

    /// The members of [`Object::write_json`] without the braces, for envelopes that add some of their own.
    pub fn write_members(&self, out: &mut Vec<u8>, shows: impl Fn(&str) -> bool) {
        out.extend_from_slice(b"\"objectId\":");
        write_json_string(&self.id, out);
        for (name, value) in self.fields.iter() {
            if !is_internal_field(name) && shows(name) {
                out.push(b',');
                write_json_string(name, out);
                out.push(b':');
                value.write_json(out);
            }
        }
        for (name, date) in [("createdAt", self.created_at), ("updatedAt", self.updated_at)] {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":\"");
            date.write_iso(out);
            out.push(b'"');
        }
        if let Some(acl) = &self.acl {
            out.extend_from_slice(b",\"ACL\":");
            acl.write_json(out);
        }
    }

    /// Appends a relation of the object's class as one more member. Objects do not hold them, unless their store does it.
    pub fn write_relation(&self, name: &str, target: &ClassName, out: &mut Vec<u8>) {
        if !self.fields.contains(name) {
            out.push(b',');
            write_json_string(name, out);
            out.push(b':');
            Value::Relation(Box::new(target.clone())).write_json(out);
        }
    }

    /// The object without the server's own fields: what change records and live queries may hold.
    pub fn without_internal_fields(&self) -> Self {
        let mut public = self.clone();
        public.fields.retain(|name, _| !is_internal_field(name));
        public
    }

    pub fn has_internal_fields(&self) -> bool {
        self.fields.iter().any(|(name, _)| is_internal_field(name))
    }

    /// Bytes in memory, roughly.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.fields.weight() + self.acl.as_ref().map_or(0, |acl| acl.grants().len() * 40)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map;

    #[test]
    fn json_hides_internal_fields() {
        let object = Object {
            id: ObjectId::new("abc"),
            fields: map! { "a" => 1.0, "_hashed_password" => "secret", "b" => true },
            acl: Some(Acl::default().with("*", true, false)),
            ..Object::default()
        };
        let mut out = Vec::new();
        object.write_json(&mut out, |name| name != "b");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"objectId":"abc","a":1,"createdAt":"1970-01-01T00:00:00.000Z","updatedAt":"1970-01-01T00:00:00.000Z","ACL":{"*":{"read":true}}}"#
        );
        assert!(!object.without_internal_fields().has_internal_fields());
    }
}
