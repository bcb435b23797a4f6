//! Reading: one object, a page of a query, a count.

use super::view::{Included, View};
use super::{Objects, require_master, sessions, users};
use crate::auth::Auth;
use crate::error::{Failure, Result};
use crate::permissions::Operation;
use crate::schema::{ClassSchema, FieldType};
use crate::storage::{Explanation, Selection, Snapshot};
use compact_str::CompactString;
use std::sync::Arc;
use tidings_protocol::names::{invalid_field_name, is_field_path};
use tidings_protocol::update::top_level;
use tidings_protocol::{ClassName, Error, Object, ObjectId, Predicate, Query, Value};

/// Without the master key a query skips at most so many objects: each costs as much as one that is shown.
const MAX_SKIP: u64 = 100_000;
/// Memory that the objects of one answer may take, those that they include not counted.
const MAX_PAGE_BYTES: usize = 64 << 20;

/// One object, and how the caller sees it.
pub struct Found {
    pub object: Arc<Object>,
    pub view: View,
}

/// The answer to a find.
pub struct Page {
    pub objects: Vec<Arc<Object>>,
    pub view: View,
    /// Of all matches, where the query asked.
    pub count: Option<u64>,
    /// The class of the objects, where the query asked for that of a relation.
    pub redirected: Option<ClassName>,
    /// Instead of objects, where the query asked.
    pub explanation: Option<Explanation>,
}

impl Objects {
    /// Reads one object. Of the query only keys and include count.
    ///
    /// # Errors
    /// 101 for an object that is absent or may not be read; 119 where class-level permissions forbid it.
    pub async fn get(&self, auth: &Auth, query: &Query, id: &ObjectId) -> Result<Found> {
        let schema = self.class_to_read(auth, &query.class, Operation::Get)?;
        if query.class == ClassName::SESSION && auth.user_id().is_none() && !auth.is_master() {
            return Err(Failure::invalid_session());
        }
        let snapshot = self.0.storage.snapshot().await?;
        let object = snapshot.get(&query.class, id).await?.filter(|object| may_read(auth, &query.class, object));
        let object = object.ok_or_else(Failure::object_not_found)?;
        let objects = [object];
        let view = self.view(auth, query, schema.as_deref(), &*snapshot, &objects).await?;
        let [object] = objects;
        Ok(Found { object, view })
    }

    /// Answers a query.
    ///
    /// # Errors
    /// 119 where class-level permissions forbid it or a hidden field would be probed; 102 for `explain` without the
    /// master key.
    pub async fn find(&self, auth: &Auth, query: &Query) -> Result<Page> {
        let Some(key) = &query.redirect else { return self.page(auth, query).await };
        let class = self.redirected(&query.class, key);
        let query = Query { class: class.clone(), redirect: None, ..query.clone() };
        Ok(Page { redirected: Some(class), ..self.page(auth, &query).await? })
    }

    async fn page(&self, auth: &Auth, query: &Query) -> Result<Page> {
        let settings = &self.0.settings;
        let limit = query.limit.unwrap_or(settings.default_limit);
        let limit = if auth.is_master() { limit } else { limit.min(settings.max_limit) };
        // Nothing is looked for, so nothing is checked but what is asked of everybody.
        if limit == 0 && !query.count && !query.explain {
            self.class(auth, &query.class)?;
            sessions::own_only(auth, &query.class, query.predicate.clone())?;
            let view = self.plain_view(auth, query.class.clone());
            return Ok(Page { objects: Vec::new(), view, count: None, redirected: None, explanation: None });
        }
        let operation = match query.only_object_id() {
            _ if limit == 0 => Operation::Count,
            Some(_) => Operation::Get,
            None => Operation::Find,
        };
        let schema = self.class_to_read(auth, &query.class, operation)?;
        if query.count
            && let Some(schema) = &schema
        {
            schema.permissions.check(Operation::Count, &auth.principals)?;
        }
        if !auth.is_master() && query.skip > MAX_SKIP {
            let message = format!("skip is at most {MAX_SKIP}; go on from the last object of a page instead.");
            return Err(Error::invalid_query(message).into());
        }
        if query.explain && !auth.is_master() {
            return Err(Error::invalid_query("Using the explain query parameter requires the master key").into());
        }
        let paths = query.order.iter().map(|order| order.path.as_str());
        refuse_hidden(auth, schema.as_deref(), &query.predicate, paths)?;
        let predicate = sessions::own_only(auth, &query.class, query.predicate.clone())?;
        let predicate = users::by_provider(auth, &query.class, predicate);
        let snapshot = self.0.storage.snapshot().await?;
        let known = schema.as_deref();
        let selection = Selection {
            class: query.class.clone(),
            predicate: self.resolve_relations(auth, &query.class, known, &*snapshot, predicate).await?,
            reader: auth.principals.clone(),
            order: query.order.clone(),
            skip: query.skip,
            limit,
            columns: looked_at(query),
        };
        let explanation = match query.explain {
            true => Some(snapshot.explain(&selection).await?),
            false => None,
        };
        let objects = match limit == 0 || query.explain {
            true => Vec::new(),
            false => snapshot.find(&selection).await?,
        };
        let bytes: usize = objects.iter().map(|object| object.weight()).sum();
        if bytes > MAX_PAGE_BYTES {
            return Err(Error::invalid_query("The answer would be too large; ask for fewer objects.").into());
        }
        let count = match query.count {
            true => Some(snapshot.count(&selection).await?),
            false => None,
        };
        let view = self.view(auth, query, schema.as_deref(), &*snapshot, &objects).await?;
        Ok(Page { objects, view, count, redirected: None, explanation })
    }

    /// The values that a field has in the objects of a query, each once. Of the query only class and predicate count.
    ///
    /// # Errors
    /// [`Failure::MasterKeyRequired`] for anybody else; 102 where they are too many, and for the ACL, which is no field;
    /// 105 for a name that no field has.
    pub async fn distinct(&self, auth: &Auth, query: &Query, field: &str) -> Result<Vec<Value>> {
        require_master(auth)?;
        if top_level(field) == "ACL" {
            return Err(Error::invalid_query("Cannot query on ACL.").into());
        }
        // Nor does the master see the server's own fields.
        if !is_field_path(field) {
            return Err(invalid_field_name(field).into());
        }
        let schema = self.class(auth, &query.class)?;
        let predicate = sessions::own_only(auth, &query.class, query.predicate.clone())?;
        let predicate = users::by_provider(auth, &query.class, predicate);
        let snapshot = self.0.storage.snapshot().await?;
        let known = schema.as_deref();
        let predicate = self.resolve_relations(auth, &query.class, known, &*snapshot, predicate).await?;
        let selection = Selection { predicate, ..Selection::all(query.class.clone(), auth.principals.clone()) };
        let values = snapshot.distinct(&selection, field).await?;
        let too_many = || Error::invalid_query("The field has too many distinct values; narrow the query.");
        Ok(values.ok_or_else(too_many)?)
    }

    /// How the caller sees these objects: hidden fields, chosen keys, and the objects that their pointers include.
    async fn view(
        &self,
        auth: &Auth,
        query: &Query,
        schema: Option<&ClassSchema>,
        snapshot: &dyn Snapshot,
        objects: &[Arc<Object>],
    ) -> Result<View> {
        let schemas = self.0.storage.schemas();
        let everything = query.include.iter().any(|path| path == "*");
        let paths = match (everything, schema) {
            (true, Some(schema)) => all_references(schema),
            (true, None) => Vec::new(),
            (false, _) => query.include.clone(),
        };
        let mut view = View::new(auth, schemas, query.class.clone(), query.projection.clone(), Included::tree(&paths));
        view.expand(snapshot, objects).await?;
        Ok(view)
    }
}

/// Sessions have no ACL: they are their user's own.
pub(super) fn may_read(auth: &Auth, class: &ClassName, object: &Object) -> bool {
    match *class == ClassName::SESSION {
        true => sessions::is_own(auth, object),
        false => auth.principals.may(tidings_protocol::Access::Read, object.acl.as_ref()),
    }
}

/// A hidden field must not be found out by filtering or sorting either.
///
/// # Errors
/// 119 if a path leads into a field that is hidden from the caller.
pub(super) fn refuse_hidden<'a>(
    auth: &Auth,
    schema: Option<&ClassSchema>,
    predicate: &Predicate,
    order: impl Iterator<Item = &'a str>,
) -> Result<()> {
    let hidden = schema.map(|schema| schema.permissions.hidden_from(&auth.principals)).unwrap_or_default();
    if hidden.is_empty() {
        return Ok(());
    }
    let mut probed = false;
    let mut check = |path: &str| probed |= hidden.contains(&top_level(path));
    predicate.paths(&mut check);
    order.for_each(&mut check);
    if probed { Err(Failure::forbidden()) } else { Ok(()) }
}

/// The columns that a caller's view of the found objects looks at; `None` is all.
fn looked_at(query: &Query) -> Option<Vec<CompactString>> {
    let keys = query.projection.keys.as_ref()?;
    let paths = || keys.iter().chain(&query.include);
    (!query.include.iter().any(|path| path == "*")).then(|| paths().map(|path| top_level(path).into()).collect())
}

/// What `include=*` means: every column that can hold pointers.
fn all_references(schema: &ClassSchema) -> Vec<CompactString> {
    let references =
        schema.fields.iter().filter(|(_, field)| matches!(field, FieldType::Pointer(_) | FieldType::Array));
    references.map(|(name, _)| name.clone()).collect()
}
