//! The subscriptions of one class, arranged so that every question is asked once per change: each distinct filter, each
//! distinct identity under it, each distinct way of showing the object.

use super::event::{Relations, relations};
use super::predicate_index::{Access, GroupId, Lookup, PredicateIndex};
use super::slots::{IdList, Slots};
use crate::permissions::{Operation, Principals};
use crate::schema::ClassSchema;
use compact_str::CompactString;
use std::collections::HashMap;
use std::sync::Arc;
use tidings_protocol::acl::PUBLIC;
use tidings_protocol::matches::Matcher;
use tidings_protocol::update::top_level;
use tidings_protocol::{Acl, ClassName, ObjectId, Predicate};

/// Number of a subscription within the engine.
pub(super) type SubscriptionId = u32;

/// One class that is, or was, subscribed to.
pub(super) struct Class {
    pub(super) name: ClassName,
    /// As of the last change applied.
    schema: Arc<ClassSchema>,
    /// Those of the schema.
    pub(super) relations: Relations,
    /// Counts changes of the schema, so that an answer made under an older one is recognised.
    pub(super) schema_version: u64,
    pub(super) index: PredicateIndex,
    pub(super) lookup: Lookup,
    pub(super) groups: Slots<Group>,
    by_filter: HashMap<Arc<[u8]>, GroupId>,
    pub(super) keys: KeysPool,
    pub(super) hidden: HiddenPool,
}

/// All subscriptions with one filter.
pub(super) struct Group {
    pub(super) filter: Arc<[u8]>,
    pub(super) predicate: Arc<Predicate>,
    pub(super) matcher: Matcher,
    access: Access,
    /// What class-level permissions call it: a filter by nothing but one id is a `get`.
    operation: Operation,
    /// Top-level fields that the filter names.
    pub(super) fields: Vec<CompactString>,
    audiences: Vec<Audience>,
    by_principals: HashMap<Principals, u32>,
}

/// All subscriptions of a group whose clients have the same rights.
pub(super) struct Audience {
    pub(super) principals: Principals,
    /// Whether class-level permissions let them, and hide nothing that the filter asks about.
    pub(super) allowed: bool,
    pub(super) hidden: HiddenId,
    pub(super) views: Vec<View>,
}

/// All subscriptions of an audience that show the same of an object, at the same changes.
pub(super) struct View {
    pub(super) keys: KeysId,
    pub(super) watch: Option<Arc<[CompactString]>>,
    pub(super) members: IdList,
}

/// Number of a list of shown fields; 0 shows all.
pub(super) type KeysId = u32;

/// The distinct lists of `keys`, counted by use.
#[derive(Default)]
pub(super) struct KeysPool {
    lists: Slots<(Arc<[CompactString]>, usize)>,
    by_list: HashMap<Arc<[CompactString]>, u32>,
}

impl KeysPool {
    fn enter(&mut self, keys: Option<&Arc<[CompactString]>>) -> KeysId {
        let Some(keys) = keys else { return 0 };
        let id = match self.by_list.get(keys) {
            Some(id) => *id,
            None => {
                let id = self.lists.insert((keys.clone(), 0));
                self.by_list.insert(keys.clone(), id);
                id
            }
        };
        if let Some((_, uses)) = self.lists.get_mut(id) {
            *uses += 1;
        }
        id + 1
    }

    fn leave(&mut self, id: KeysId) {
        let Some(at) = id.checked_sub(1) else { return };
        let Some((keys, uses)) = self.lists.get_mut(at) else { return };
        *uses -= 1;
        if *uses == 0 {
            self.by_list.remove(keys);
            self.lists.remove(at);
        }
    }

    pub(super) fn list(&self, id: KeysId) -> Option<&Arc<[CompactString]>> {
        Some(&self.lists.get(id.checked_sub(1)?)?.0)
    }
}

/// Number of a set of hidden fields; 0 hides none.
pub(super) type HiddenId = u32;

pub(super) const HIDES_NOTHING: HiddenId = 0;

/// The distinct sets of fields that the class's schema hides from somebody.
pub(super) struct HiddenPool(Vec<Arc<[CompactString]>>);

impl HiddenPool {
    fn enter(&mut self, mut hidden: Vec<&str>) -> HiddenId {
        hidden.sort_unstable();
        let known = self.0.iter().position(|set| set.iter().map(CompactString::as_str).eq(hidden.iter().copied()));
        known.unwrap_or_else(|| {
            self.0.push(hidden.into_iter().map(CompactString::from).collect());
            self.0.len() - 1
        }) as HiddenId
    }

    pub(super) fn set(&self, id: HiddenId) -> &Arc<[CompactString]> {
        self.0.get(id as usize).unwrap_or(&self.0[0])
    }
}

/// A filter, made ready to be asked.
pub(super) struct Filter {
    pub(super) predicate: Predicate,
    /// Its identity.
    pub(super) canonical: Arc<[u8]>,
    pub(super) matcher: Matcher,
}

/// What one subscription asks of its class.
pub(super) struct Interest {
    pub(super) principals: Principals,
    pub(super) keys: Option<Arc<[CompactString]>>,
    pub(super) watch: Option<Arc<[CompactString]>>,
}

/// Where a subscription stands in its class; what is needed to take it out.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) group: GroupId,
    pub(super) principals: Principals,
    pub(super) keys: KeysId,
    pub(super) watch: Option<Arc<[CompactString]>>,
}

impl Class {
    pub(super) fn new(name: ClassName, schema: Option<Arc<ClassSchema>>) -> Self {
        let schema = schema.unwrap_or_else(|| Arc::new(ClassSchema::new(name.clone())));
        Self {
            name,
            relations: relations(Some(&schema)),
            schema,
            schema_version: 0,
            index: PredicateIndex::default(),
            lookup: Lookup::default(),
            groups: Slots::default(),
            by_filter: HashMap::new(),
            keys: KeysPool::default(),
            hidden: HiddenPool(vec![Arc::default()]),
        }
    }

    pub(super) fn insert(&mut self, id: SubscriptionId, filter: Filter, interest: Interest) -> Place {
        let Filter { predicate, canonical: filter, matcher } = filter;
        let group = match self.by_filter.get(&filter) {
            Some(group) => *group,
            None => {
                let group = Group {
                    matcher,
                    operation: operation_of(&predicate),
                    fields: fields_of(&predicate),
                    predicate: Arc::new(predicate),
                    filter: filter.clone(),
                    access: Access::Residual,
                    audiences: Vec::new(),
                    by_principals: HashMap::new(),
                };
                let predicate = group.predicate.clone();
                let id = self.groups.insert(group);
                let access = self.index.insert(id, &predicate);
                if let Some(group) = self.groups.get_mut(id) {
                    group.access = access;
                }
                self.by_filter.insert(filter, id);
                id
            }
        };
        let Interest { principals, keys, watch } = interest;
        let keys = self.keys.enter(keys.as_ref());
        if let Some(group) = self.groups.get_mut(group) {
            group.insert(id, &principals, keys, &watch, &self.schema, &mut self.hidden);
        }
        Place { group, principals, keys, watch }
    }

    pub(super) fn remove(&mut self, id: SubscriptionId, place: &Place) {
        self.keys.leave(place.keys);
        let Some(group) = self.groups.get_mut(place.group) else { return };
        group.remove(id, place);
        if group.audiences.is_empty()
            && let Some(group) = self.groups.remove(place.group)
        {
            self.index.remove(place.group, &group.access);
            self.by_filter.remove(&group.filter);
        }
    }

    /// Takes a new schema and decides anew who may see what. Returns the subscriptions that may hear now and might not
    /// before: they have missed what happened meanwhile.
    pub(super) fn set_schema(&mut self, schema: Option<Arc<ClassSchema>>) -> Vec<SubscriptionId> {
        let schema = schema.unwrap_or_else(|| Arc::new(ClassSchema::new(self.name.clone())));
        self.relations = relations(Some(&schema));
        // Most changes of a schema add fields.
        if schema.permissions == self.schema.permissions {
            self.schema = schema;
            return Vec::new();
        }
        self.schema = schema;
        self.schema_version += 1;
        self.hidden = HiddenPool(vec![Arc::default()]);
        let mut let_in = Vec::new();
        for (_, group) in self.groups.iter_mut() {
            for audience in &mut group.audiences {
                let was_allowed = audience.allowed;
                (audience.allowed, audience.hidden) =
                    rights(&self.schema, group.operation, &group.fields, &audience.principals, &mut self.hidden);
                if audience.allowed && !was_allowed {
                    let_in.extend(audience.views.iter().flat_map(|view| view.members.as_slice()));
                }
            }
        }
        let_in
    }
}

impl Group {
    fn insert(
        &mut self,
        id: SubscriptionId,
        principals: &Principals,
        keys: KeysId,
        watch: &Option<Arc<[CompactString]>>,
        schema: &ClassSchema,
        hidden: &mut HiddenPool,
    ) {
        let at = match self.by_principals.get(principals) {
            Some(at) => *at as usize,
            None => {
                let (allowed, hidden) = rights(schema, self.operation, &self.fields, principals, hidden);
                self.audiences.push(Audience { principals: principals.clone(), allowed, hidden, views: Vec::new() });
                self.by_principals.insert(principals.clone(), (self.audiences.len() - 1) as u32);
                self.audiences.len() - 1
            }
        };
        let views = &mut self.audiences[at].views;
        let view = views.iter().position(|view| view.keys == keys && view.watch == *watch).unwrap_or_else(|| {
            views.push(View { keys, watch: watch.clone(), members: IdList::default() });
            views.len() - 1
        });
        views[view].members.insert(id);
    }

    fn remove(&mut self, id: SubscriptionId, place: &Place) {
        let Some(at) = self.by_principals.get(&place.principals).map(|at| *at as usize) else { return };
        let views = &mut self.audiences[at].views;
        if let Some(view) = views.iter().position(|view| view.keys == place.keys && view.watch == place.watch) {
            views[view].members.remove(id);
            if views[view].members.is_empty() {
                views.swap_remove(view);
            }
        }
        if views.is_empty() {
            self.audiences.swap_remove(at);
            self.by_principals.remove(&place.principals);
            if let Some(moved) = self.audiences.get(at) {
                self.by_principals.insert(moved.principals.clone(), at as u32);
            }
        }
    }

    pub(super) fn audience(&self, principals: &Principals) -> Option<&Audience> {
        self.audiences.get(*self.by_principals.get(principals)? as usize)
    }

    /// Visits the audiences that could read an image with one of these ACLs: where nobody but a few may read, only
    /// these few are looked at, however many others share the filter.
    pub(super) fn readers<'a>(&'a self, acls: [Option<Option<&Acl>>; 2], mut visit: impl FnMut(&'a Audience)) {
        let is_public = |acl: &Option<&Acl>| {
            acl.is_none_or(|acl| acl.grants().iter().any(|grant| grant.read && grant.principal == PUBLIC))
        };
        let named = || acls.iter().flatten().flatten().flat_map(|acl| acl.grants()).filter(|grant| grant.read);
        if acls.iter().flatten().any(is_public) || named().count() >= self.audiences.len() {
            return self.audiences.iter().for_each(visit);
        }
        let mut names: Vec<&CompactString> = named().map(|grant| &grant.principal).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            if let Some(audience) = self.audience(&Principals::user(ObjectId::new(name.clone()))) {
                visit(audience);
            }
        }
        if let Some(audience) = self.audience(&Principals::MASTER) {
            visit(audience);
        }
    }
}

impl Class {
    /// The subscriptions whose filters name one of these fields.
    pub(super) fn asking_for(&self, fields: &[CompactString]) -> Vec<SubscriptionId> {
        self.members(|group| group.fields.iter().any(|field| fields.contains(field)))
    }

    pub(super) fn everybody(&self) -> Vec<SubscriptionId> {
        self.members(|_| true)
    }

    fn members(&self, is_meant: impl Fn(&Group) -> bool) -> Vec<SubscriptionId> {
        let groups = self.groups.iter().map(|(_, group)| group).filter(|group| is_meant(group));
        let views = groups.flat_map(|group| &group.audiences).flat_map(|audience| &audience.views);
        views.flat_map(|view| view.members.as_slice()).copied().collect()
    }
}

fn operation_of(predicate: &Predicate) -> Operation {
    if predicate.only_object_id().is_some() { Operation::Get } else { Operation::Find }
}

fn fields_of(predicate: &Predicate) -> Vec<CompactString> {
    let mut fields: Vec<CompactString> = Vec::new();
    predicate.paths(&mut |path| {
        let field = top_level(path);
        if !fields.iter().any(|known| known == field) {
            fields.push(field.into());
        }
    });
    fields
}

/// Whether these principals get events at all, and which fields they do not see.
fn rights(
    schema: &ClassSchema,
    operation: Operation,
    fields: &[CompactString],
    principals: &Principals,
    pool: &mut HiddenPool,
) -> (bool, HiddenId) {
    let permissions = &schema.permissions;
    let hidden = permissions.hidden_from(principals);
    // A filter on a hidden field would tell its value by which events come.
    let probes = fields.iter().any(|field| hidden.contains(&field.as_str()));
    (!probes && permissions.check(operation, principals).is_ok(), pool.enter(hidden))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidings_protocol::value::Map;

    fn class() -> Class {
        Class::new(ClassName::from_trusted("Note"), None)
    }

    fn user(name: &str) -> Principals {
        Principals::user(ObjectId::new(name))
    }

    fn add(class: &mut Class, id: SubscriptionId, filter: &str, principals: &Principals) -> Place {
        let predicate = Predicate::from_map(&Map::from_json(filter.as_bytes()).unwrap()).unwrap();
        let (canonical, matcher) = (predicate.canonical().into(), Matcher::new(&predicate).unwrap());
        let interest = Interest { principals: principals.clone(), keys: Some(vec!["a".into()].into()), watch: None };
        class.insert(id, Filter { predicate, canonical, matcher }, interest)
    }

    fn readers(class: &Class, place: &Place, acl: Option<&Acl>) -> Vec<String> {
        let mut names = Vec::new();
        class.groups.get(place.group).unwrap().readers([None, Some(acl)], |audience| {
            names.push(audience.principals.user.as_ref().map_or("-".into(), |user| user.to_string()));
        });
        names.sort();
        names
    }

    #[test]
    fn a_class_forgets_what_left() {
        let mut class = class();
        let places: Vec<_> = (0..100)
            .map(|id| {
                let filter = if id % 2 == 0 { r#"{"a":1}"# } else { r#"{"$and":[{"a":1.0}]}"# };
                (id, add(&mut class, id, filter, &user(&format!("u{}", id % 7))))
            })
            .collect();
        assert_eq!(class.groups.len(), 1, "equal filters share a group");
        for (id, place) in &places {
            class.remove(*id, place);
        }
        assert_eq!((class.groups.len(), class.by_filter.len(), class.keys.by_list.len()), (0, 0, 0));
        assert_eq!(class.keys.lists.len(), 0);
    }

    #[test]
    fn only_those_that_an_acl_names_are_looked_at() {
        let mut class = class();
        let mut place = None;
        for id in 0..50 {
            place = Some(add(&mut class, id, "{}", &user(&format!("u{id}"))));
        }
        add(&mut class, 50, "{}", &Principals::MASTER);
        let place = place.unwrap();
        let two = Acl::default().with("u3", true, false).with("u9", true, true).with("u4", false, true);
        assert_eq!(readers(&class, &place, Some(&two)), ["-", "u3", "u9"]);
        assert_eq!(readers(&class, &place, None).len(), 51);
        assert_eq!(readers(&class, &place, Some(&two.with("*", true, false))).len(), 51);
        assert_eq!(readers(&class, &place, Some(&Acl::default())), ["-"]);
    }

    #[test]
    fn a_schema_decides_who_sees_what() {
        let mut class = Class::new(ClassName::USER, None);
        let by_name = add(&mut class, 1, r#"{"username":"x"}"#, &Principals::ANONYMOUS);
        let by_email = add(&mut class, 2, r#"{"email":"x"}"#, &Principals::ANONYMOUS);
        let allowed = |class: &Class, place: &Place| {
            let audience = class.groups.get(place.group).unwrap().audience(&place.principals).unwrap();
            (audience.allowed, class.hidden.set(audience.hidden).to_vec())
        };
        assert_eq!(allowed(&class, &by_name), (true, vec!["email".into()]));
        assert!(!allowed(&class, &by_email).0, "a hidden field cannot be probed");
        let mut schema = ClassSchema::new(ClassName::USER);
        let permissions = Map::from_json(br#"{"get":{"*":true}}"#).unwrap();
        schema.permissions = crate::permissions::ClassLevelPermissions::from_map(&permissions).unwrap();
        class.set_schema(Some(Arc::new(schema)));
        assert_eq!(allowed(&class, &by_name), (false, vec![]));
        class.set_schema(None);
        assert_eq!(allowed(&class, &by_name), (true, vec!["email".into()]));
    }
}
