//! Relations: members that are not part of an object, and the questions about them.
//!
//! Each member is a row of the relation's own class ([`ClassName::of_relation`]). Who changes members does so with the
//! owner's update, in one commit; who asks about them is answered from those rows first, and the store then looks for ids.

use super::Objects;
use super::find::{may_read, refuse_hidden};
use crate::auth::Auth;
use crate::error::Result;
use crate::permissions::{Operation, Principals};
use crate::schema::{ClassSchema, FieldType};
use crate::storage::{Action, Guard, Membership, Selection, Snapshot, Write, WriteError};
use compact_str::CompactString;
use std::collections::BTreeSet;
use tidings_protocol::query::{Constraint, Order, RelatedTo};
use tidings_protocol::value::Pointer;
use tidings_protocol::{ClassName, Code, Error, Map, ObjectId, Predicate, Update, Value, update};

/// How many members one write may change: all of them are one commit.
const MAX_CHANGES: usize = 10_000;
/// How many members a question may come upon.
const MAX_MEMBERS: u64 = 100_000;
/// How many rows are removed at once with their column.
const ROWS_AT_ONCE: u64 = 1_000;

/// Takes what changes members out of an update, as writes of their own.
///
/// # Errors
/// 102 for too many at once.
pub(super) fn take(class: &ClassName, owner: &ObjectId, update: &mut Update) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    for (key, operation) in &update.operations {
        if let update::Operation::Relate { add, remove } = operation {
            let relation = ClassName::of_relation(key, class);
            let membership = |member: &Pointer| Membership { owner: owner.clone(), related: member.id.clone() };
            writes.extend(remove.iter().map(|member| write(&relation, Action::Leave, membership(member))));
            writes.extend(add.iter().map(|member| write(&relation, Action::Join, membership(member))));
        }
    }
    if writes.len() > MAX_CHANGES {
        return Err(Error::invalid_query(format!("One write changes at most {MAX_CHANGES} members.")).into());
    }
    update.operations.retain(|(_, operation)| {
        !matches!(operation, update::Operation::Relate { .. } | update::Operation::Set(Value::Relation(_)))
    });
    Ok(writes)
}

fn write(relation: &ClassName, action: fn(Membership) -> Action, membership: Membership) -> Write {
    let id = membership.id();
    Write { class: relation.clone(), id, action: action(membership), guard: Guard::default(), fields: Vec::new() }
}

/// Objects do not hold their relations; that there is one is said on every object of the class.
pub(super) fn drop_values(fields: &mut Map) {
    fields.retain(|_, value| !matches!(value, Value::Relation(_)));
}

/// What a predicate asks about members.
enum Question {
    Members(RelatedTo),
    /// Those that have one of these members.
    Owners {
        key: CompactString,
        of: Vec<ObjectId>,
    },
}

impl Question {
    fn of(path: &str, constraint: &Constraint, schema: Option<&ClassSchema>) -> Option<Self> {
        if let Constraint::RelatedTo(relation) = constraint {
            return Some(Self::Members((**relation).clone()));
        }
        let Some(FieldType::Relation(_)) = schema?.fields.get(path) else { return None };
        let values = match constraint {
            Constraint::Eq(value) | Constraint::Ne(value) => std::slice::from_ref(value),
            Constraint::In(values) | Constraint::Nin(values) => values,
            _ => return None,
        };
        let ids = values.iter().filter_map(|value| match value {
            Value::Pointer(pointer) => Some(pointer.id.clone()),
            Value::String(id) => Some(ObjectId::new(id.as_str())),
            _ => None,
        });
        Some(Self::Owners { key: path.into(), of: ids.collect() })
    }
}

/// Whether a predicate asks about members.
pub(super) fn is_asked(predicate: &Predicate, schema: Option<&ClassSchema>) -> bool {
    match predicate {
        Predicate::And(parts) | Predicate::Or(parts) | Predicate::Nor(parts) => {
            parts.iter().any(|part| is_asked(part, schema))
        }
        Predicate::Field { path, constraint } => Question::of(path, constraint, schema).is_some(),
    }
}

impl Objects {
    /// Says the ids that a predicate asks for by their relations.
    ///
    /// # Errors
    /// 119 where the owner's class or the relation is closed to the caller, 102 where there are too many members.
    pub(super) async fn resolve_relations(
        &self,
        auth: &Auth,
        class: &ClassName,
        schema: Option<&ClassSchema>,
        snapshot: &dyn Snapshot,
        mut predicate: Predicate,
    ) -> Result<Predicate> {
        if !is_asked(&predicate, schema) {
            return Ok(predicate);
        }
        let mut questions = Vec::new();
        predicate.fields_mut(&mut |path, constraint| questions.extend(Question::of(path, constraint, schema)));
        let mut answers = Vec::with_capacity(questions.len());
        for question in questions {
            answers.push(match question {
                Question::Members(relation) => self.members(auth, snapshot, &relation).await?,
                Question::Owners { key, of } => {
                    let relation = ClassName::of_relation(&key, class);
                    let members = of.iter().map(|id| Value::from(id.as_str())).collect();
                    let asked = Predicate::field(Membership::RELATED, Constraint::In(members));
                    rows(snapshot, relation, asked, Membership::OWNER).await?
                }
            });
        }
        let mut answers = answers.into_iter();
        predicate.fields_mut(&mut |path, constraint| {
            if Question::of(path, constraint, schema).is_some() {
                let ids = answers.next().unwrap_or_default().into_iter().map(Value::String).collect();
                *path = "objectId".into();
                *constraint = match constraint {
                    Constraint::Ne(_) | Constraint::Nin(_) => Constraint::Nin(ids),
                    _ => Constraint::In(ids),
                };
            }
        });
        Ok(predicate)
    }

    /// The members of a relation whose owner the caller may read; nobody's are told of any other.
    async fn members(
        &self,
        auth: &Auth,
        snapshot: &dyn Snapshot,
        relation: &RelatedTo,
    ) -> Result<BTreeSet<CompactString>> {
        let RelatedTo { owner, key } = relation;
        let schema = self.class_to_read(auth, &owner.class, Operation::Get)?;
        let asked = Predicate::field(key.clone(), Constraint::Exists(true));
        refuse_hidden(auth, schema.as_deref(), &asked, std::iter::empty())?;
        let found = snapshot.get(&owner.class, &owner.id).await?;
        if !found.is_some_and(|owner| may_read(auth, &relation.owner.class, &owner)) {
            return Ok(BTreeSet::new());
        }
        let asked = Predicate::equal(Membership::OWNER, owner.id.as_str());
        rows(snapshot, ClassName::of_relation(key, &owner.class), asked, Membership::RELATED).await
    }

    /// The class of a relation's members, for a client that knows no more than the relation; the class itself, as in
    /// Parse, where there is none.
    pub(super) fn redirected(&self, class: &ClassName, key: &str) -> ClassName {
        match self.0.storage.schemas().get(class).and_then(|schema| schema.fields.get(key).cloned()) {
            Some(FieldType::Relation(target)) => target,
            _ => class.clone(),
        }
    }

    /// Removes the members of relations whose columns are gone.
    pub(super) async fn forget_members(&self, relation: &ClassName) -> Result<()> {
        loop {
            let snapshot = self.0.storage.snapshot().await?;
            let everything = Selection { limit: ROWS_AT_ONCE, ..Selection::all(relation.clone(), Principals::MASTER) };
            let found = snapshot.find(&everything).await?;
            let writes: Vec<_> = found
                .iter()
                .filter_map(|row| {
                    let end = |name| row.fields.get(name).and_then(Value::as_str).map(ObjectId::new);
                    let membership = Membership { owner: end(Membership::OWNER)?, related: end(Membership::RELATED)? };
                    Some(write(relation, Action::Leave, membership))
                })
                .collect();
            if writes.is_empty() {
                return Ok(());
            }
            match self.0.storage.commit(writes).await {
                Ok(_) | Err(WriteError::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// One end of the rows of a relation, each once.
async fn rows(
    snapshot: &dyn Snapshot,
    relation: ClassName,
    predicate: Predicate,
    end: &str,
) -> Result<BTreeSet<CompactString>> {
    let selection = Selection {
        predicate,
        order: vec![Order { path: "objectId".into(), descending: false }],
        limit: MAX_MEMBERS + 1,
        ..Selection::all(relation, Principals::MASTER)
    };
    let rows = snapshot.find(&selection).await?;
    if rows.len() as u64 > MAX_MEMBERS {
        let message = format!("A relation that is asked about has at most {MAX_MEMBERS} members.");
        return Err(Error::new(Code::InvalidQuery, message).into());
    }
    let ids = rows.iter().filter_map(|row| row.fields.get(end)?.as_str().map(CompactString::from));
    Ok(ids.collect())
}
