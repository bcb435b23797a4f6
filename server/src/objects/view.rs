//! What one caller sees of objects: without hidden fields, cut to the chosen keys, with included objects in place of
//! their pointers.

use super::users::{SECOND_FACTOR, has_second_factor, provider};
use crate::auth::Auth;
use crate::auth::session::TOKEN_FIELD;
use crate::error::Result;
use crate::permissions::{Operation, Principals};
use crate::schema::Schemas;
use crate::storage::Snapshot;
use compact_str::CompactString;
use std::collections::HashMap;
use std::sync::Arc;
use tidings_protocol::names::is_internal_field;
use tidings_protocol::query::Projection;
use tidings_protocol::value::{Map, Pointer, Value, write_json_string};
use tidings_protocol::{Access, ClassName, Error, Object};

/// The eyes of one caller. Never holds what the caller may not read.
pub struct View {
    reader: Principals,
    schemas: Schemas,
    class: ClassName,
    projection: Projection,
    included: Included,
    /// The class's relations: objects do not hold them, and show them all the same.
    relations: Vec<(CompactString, ClassName)>,
    /// The readable objects behind included pointers.
    expanded: HashMap<Pointer, Arc<Object>>,
}

/// The paths to include, as a tree: `a`, `a.b` and `c` are `{a: {b: {}}, c: {}}`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Included(Vec<(CompactString, Included)>);

impl Included {
    pub(super) fn tree(paths: &[CompactString]) -> Self {
        let mut root = Self::default();
        for path in paths {
            let mut node = &mut root;
            for segment in path.split('.') {
                let at = node.0.iter().position(|(name, _)| name == segment).unwrap_or_else(|| {
                    node.0.push((segment.into(), Self::default()));
                    node.0.len() - 1
                });
                node = &mut node.0[at].1;
            }
        }
        root
    }

    fn below(&self, name: &str) -> Option<&Self> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, below)| below)
    }
}

/// How many pointers one answer may expand, each occurrence counted.
const MAX_EXPANDED: usize = 10_000;
/// Memory that expanded objects may take, each occurrence counted.
const MAX_EXPANDED_BYTES: usize = 32 << 20;

impl View {
    pub(super) fn new(
        auth: &Auth,
        schemas: Schemas,
        class: ClassName,
        projection: Projection,
        included: Included,
    ) -> Self {
        let relations = relations(&schemas, &class).map(|(name, target)| (name.clone(), target.clone())).collect();
        let reader = auth.principals.clone();
        Self { reader, schemas, class, projection, included, relations, expanded: HashMap::new() }
    }

    /// A caller's plain view of one class.
    pub(super) fn plain(auth: &Auth, schemas: Schemas, class: ClassName) -> Self {
        Self::new(auth, schemas, class, Projection::default(), Included::default())
    }

    /// Loads what the included paths point to, level by level.
    pub(super) async fn expand(&mut self, snapshot: &dyn Snapshot, objects: &[Arc<Object>]) -> Result<()> {
        let mut level: Vec<(Arc<Object>, Included)> = Vec::new();
        if !self.included.0.is_empty() {
            level.extend(objects.iter().map(|object| (object.clone(), self.included.clone())));
        }
        let (mut count, mut bytes) = (0, 0);
        while !level.is_empty() {
            let mut wanted = Vec::new();
            for (object, included) in &level {
                for (name, below) in &included.0 {
                    if let Some(value) = object.fields.get(name) {
                        collect(value, below, &mut wanted);
                    }
                }
            }
            level.clear();
            for (pointer, below) in wanted {
                count += 1;
                if count > MAX_EXPANDED || bytes > MAX_EXPANDED_BYTES {
                    return Err(Error::invalid_query("The query includes too much; ask for fewer objects.").into());
                }
                let known = self.expanded.get(&pointer).cloned();
                let object = match known {
                    Some(object) => Some(object),
                    None => self.readable(snapshot, &pointer).await?,
                };
                let Some(object) = object else { continue };
                bytes += object.weight();
                self.expanded.insert(pointer, object.clone());
                if !below.0.is_empty() {
                    level.push((object, below));
                }
            }
        }
        Ok(())
    }

    /// The object behind a pointer, if it exists and this caller may get it.
    async fn readable(&self, snapshot: &dyn Snapshot, pointer: &Pointer) -> Result<Option<Arc<Object>>> {
        let Some(schema) = self.schemas.get(&pointer.class) else { return Ok(None) };
        // Sessions are nobody's to include: they are their user's own, and have no ACL that would say so.
        let forbidden = pointer.class == ClassName::SESSION && !self.reader.master;
        if forbidden || schema.permissions.check(Operation::Get, &self.reader).is_err() {
            return Ok(None);
        }
        let object = snapshot.get(&pointer.class, &pointer.id).await?;
        Ok(object.filter(|object| self.reader.may(Access::Read, object.acl.as_ref())))
    }

    /// Whether the view is of this class.
    pub fn is_of(&self, class: &ClassName) -> bool {
        self.class == *class
    }

    /// Appends an object of the view's class as JSON.
    pub fn write_json(&self, object: &Object, out: &mut Vec<u8>) {
        out.push(b'{');
        self.write_members(object, out);
        out.push(b'}');
    }

    /// The members of [`View::write_json`], for envelopes that add some of their own.
    pub fn write_members(&self, object: &Object, out: &mut Vec<u8>) {
        let hidden = self.hidden(&self.class, object);
        if self.included.0.is_empty() {
            object.write_members(out, |name| self.projection.shows(name) && !hidden.contains(&name));
        } else {
            self.write_expanded(object, &hidden, &self.projection, &self.included, out);
        }
        for (name, target) in &self.relations {
            if self.projection.shows(name) && !hidden.contains(&name.as_str()) {
                object.write_relation(name, target, out);
            }
        }
        self.write_own(&self.class, object, out);
    }

    /// The fields of this object that the caller must not see. Users see all of themselves.
    fn hidden(&self, class: &ClassName, object: &Object) -> Vec<&str> {
        if *class == ClassName::USER && self.reader.user.as_ref() == Some(&object.id) {
            return Vec::new();
        }
        self.schemas.get(class).map(|schema| schema.permissions.hidden_from(&self.reader)).unwrap_or_default()
    }

    /// What only the owner and the master see, and what is stored in another form.
    fn write_own(&self, class: &ClassName, object: &Object, out: &mut Vec<u8>) {
        let owner = self.reader.master || self.reader.user.as_ref() == Some(&object.id);
        if *class == ClassName::SESSION
            && let Some(Value::String(token)) = object.fields.get(TOKEN_FIELD)
        {
            out.extend_from_slice(b",\"sessionToken\":");
            write_json_string(token, out);
        }
        if *class == ClassName::USER && owner {
            write_auth_data(object, self.reader.master, out);
        }
    }

    fn write_expanded(
        &self,
        object: &Object,
        hidden: &[&str],
        projection: &Projection,
        included: &Included,
        out: &mut Vec<u8>,
    ) {
        let shows = |name: &str| projection.shows(name) && !hidden.contains(&name);
        // What is included is written by hand; the rest as always.
        object.write_members(out, |name| shows(name) && included.below(name).is_none());
        for (name, below) in &included.0 {
            if is_internal_field(name) || !shows(name) {
                continue;
            }
            let Some(value) = object.fields.get(name) else { continue };
            let start = out.len();
            out.push(b',');
            write_json_string(name, out);
            out.push(b':');
            if !self.write_value(value, &projection.inside(name), below, out) {
                out.truncate(start);
            }
        }
    }

    /// Writes a value with its pointers expanded; false if it points to nothing readable.
    fn write_value(&self, value: &Value, projection: &Projection, included: &Included, out: &mut Vec<u8>) -> bool {
        match value {
            Value::Pointer(pointer) => {
                let Some(object) = self.expanded.get(&**pointer) else { return false };
                out.extend_from_slice(b"{\"__type\":\"Object\",\"className\":");
                write_json_string(&pointer.class, out);
                out.push(b',');
                let hidden = self.hidden(&pointer.class, object);
                self.write_expanded(object, &hidden, projection, included, out);
                for (name, target) in relations(&self.schemas, &pointer.class) {
                    if projection.shows(name) && !hidden.contains(&name.as_str()) {
                        object.write_relation(name, target, out);
                    }
                }
                out.push(b'}');
            }
            Value::Array(items) => {
                out.push(b'[');
                let mut first = true;
                for item in items {
                    let start = out.len();
                    if !first {
                        out.push(b',');
                    }
                    if self.write_value(item, projection, included, out) {
                        first = false;
                    } else {
                        out.truncate(start);
                    }
                }
                out.push(b']');
            }
            Value::Object(map) if !included.0.is_empty() => self.write_map(map, projection, included, out),
            other => other.write_json(out),
        }
        true
    }

    /// A plain object on the way of an included path.
    fn write_map(&self, map: &Map, projection: &Projection, included: &Included, out: &mut Vec<u8>) {
        out.push(b'{');
        let mut first = true;
        for (name, value) in map.iter() {
            let start = out.len();
            if !first {
                out.push(b',');
            }
            write_json_string(name, out);
            out.push(b':');
            let written = match included.below(name) {
                Some(below) => self.write_value(value, projection, below, out),
                None => {
                    value.write_json(out);
                    true
                }
            };
            if written {
                first = false;
            } else {
                out.truncate(start);
            }
        }
        out.push(b'}');
    }
}

/// The relations of a class, each with the class of its members.
fn relations<'a>(
    schemas: &'a Schemas,
    class: &ClassName,
) -> impl Iterator<Item = (&'a CompactString, &'a ClassName)> + use<'a> {
    schemas.get(class).into_iter().flat_map(|schema| schema.relation_fields())
}

/// By which providers a user may be known: those of a Parse Server on the same database as it has stored them, but the
/// secrets of a second factor only for the master.
fn write_auth_data(user: &Object, is_master: bool, out: &mut Vec<u8>) {
    let known = user.fields.iter().filter(|(_, value)| !value.is_null());
    let providers: Vec<(&str, &Value)> = known.filter_map(|(name, value)| Some((provider(name)?, value))).collect();
    for (at, (provider, value)) in providers.iter().enumerate() {
        out.extend_from_slice(if at == 0 { b",\"authData\":{" } else { b"," });
        write_json_string(provider, out);
        out.push(b':');
        match value {
            _ if *provider == SECOND_FACTOR && !is_master => {
                let status = if has_second_factor(user) { "enabled" } else { "disabled" };
                tidings_protocol::map! { "status" => status }.write_json(out);
            }
            // All that is kept of a guest.
            Value::String(id) => tidings_protocol::map! { "id" => id.as_str() }.write_json(out),
            other => other.write_json(out),
        }
    }
    if !providers.is_empty() {
        out.push(b'}');
    }
}

/// The pointers in a value, each with what to include below it.
fn collect(value: &Value, below: &Included, wanted: &mut Vec<(Pointer, Included)>) {
    match value {
        Value::Pointer(pointer) => wanted.push(((**pointer).clone(), below.clone())),
        Value::Array(items) => items.iter().for_each(|item| collect(item, below, wanted)),
        Value::Object(map) => {
            for (name, deeper) in &below.0 {
                if let Some(value) = map.get(name) {
                    collect(value, deeper, wanted);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_a_tree() {
        let tree = Included::tree(&["a".into(), "a.b".into(), "c".into()]);
        assert!(tree.below("a").and_then(|a| a.below("b")).is_some());
        assert_eq!(tree.below("c"), Some(&Included::default()));
        assert_eq!(tree.below("b"), None);
    }
}
