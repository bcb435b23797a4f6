//! Relations: members that are not part of an object, and the questions about them.
//!
//! Each member is a row of the relation's own class ([`ClassName::of_relation`]). Who changes members does so with the
//! owner's update, in one commit; who asks about them is answered from those rows first, and the store then looks for ids.

use super::Objects;
use super::find::{may_read, refuse_hidden};
use crate::auth::Auth;
use crate::error::{Failure, Result};
use crate::permissions::{Operation, Principals};
use crate::schema::{ClassSchema, FieldType};
use crate::storage::{Action, Guard, Membership, Selection, Snapshot, Write};
use compact_str::CompactString;
use std::collections::BTreeSet;
use tidings_protocol::query::{Constraint, Order, RelatedTo};
use tidings_protocol::value::Pointer;
use tidings_protocol::{ClassName, Code, Error, Map, ObjectId, Predicate, Update, Value, update};

/// How many members one write may change: all of them are one commit.
const MAX_CHANGES: usize = 2_000;
/// How many members the questions of one query may come upon.
const MAX_MEMBERS: usize = 100_000;
/// How many different questions one query may hold.
const MAX_QUESTIONS: usize = 100;

/// Takes what changes members out of an update, as writes of their own.
///
/// # Errors
/// 102 for too many at once.
pub(super) fn take(schema: &ClassSchema, owner: &ObjectId, update: &mut Update) -> Result<Vec<Write>> {
    let class = &schema.class;
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
    update.operations.retain(|(path, operation)| match operation {
        update::Operation::Relate { .. } => false,
        update::Operation::Set(value) => !is_relation(schema, path, value),
        _ => true,
    });
    Ok(writes)
}

fn is_relation(schema: &ClassSchema, name: &str, value: &Value) -> bool {
    matches!(value, Value::Relation(_)) || matches!(schema.fields.get(name), Some(FieldType::Relation(_)))
}

/// Whether an update changes members.
pub(super) fn are_changed(update: &Update) -> bool {
    update.operations.iter().any(|(_, operation)| matches!(operation, update::Operation::Relate { .. }))
}

fn write(relation: &ClassName, action: fn(Membership) -> Action, membership: Membership) -> Write {
    let id = membership.id();
    Write { class: relation.clone(), id, action: action(membership), guard: Guard::default(), fields: Vec::new() }
}

/// Rows do not hold their relations; that there is one is said on every object of the class.
pub(super) fn drop_values(schema: &ClassSchema, fields: &mut Map) {
    fields.retain(|name, value| !is_relation(schema, name, value));
}

/// What a predicate asks about members.
#[derive(PartialEq)]
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
            // As in Parse, whatever else is asked of a relation is true of nobody.
            _ => &[],
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
    let mut is_asked = false;
    predicate.fields(&mut |path, constraint| is_asked |= Question::of(path, constraint, schema).is_some());
    is_asked
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
        // Each is asked once, however often it stands there.
        let mut questions: Vec<Question> = Vec::new();
        predicate.fields(&mut |path, constraint| {
            let question = Question::of(path, constraint, schema);
            questions.extend(question.filter(|question| !questions.contains(question)));
        });
        if questions.is_empty() {
            return Ok(predicate);
        }
        if questions.len() > MAX_QUESTIONS {
            let message = format!("A query asks about at most {MAX_QUESTIONS} relations.");
            return Err(Error::invalid_query(message).into());
        }
        let mut answers: Vec<BTreeSet<CompactString>> = Vec::with_capacity(questions.len());
        for question in &questions {
            let room = MAX_MEMBERS - answers.iter().map(BTreeSet::len).sum::<usize>();
            answers.push(match question {
                Question::Members(relation) => self.members(auth, snapshot, relation, room).await?,
                Question::Owners { key, of } => {
                    let relation = ClassName::of_relation(key, class);
                    let members = of.iter().map(|id| Value::from(id.as_str())).collect();
                    let asked = Predicate::field(Membership::RELATED, Constraint::In(members));
                    rows(snapshot, relation, asked, Membership::OWNER, room).await?
                }
            });
        }
        // What stands there several times must not take the room of as many.
        let mut said = 0;
        predicate.fields_mut(&mut |path, constraint| {
            let Some(question) = Question::of(path, constraint, schema) else { return };
            let answer = questions.iter().position(|asked| *asked == question).and_then(|at| answers.get(at));
            let ids: Vec<Value> = answer.into_iter().flatten().cloned().map(Value::String).collect();
            said += ids.len();
            if said > MAX_MEMBERS {
                return;
            }
            *path = "objectId".into();
            *constraint = match constraint {
                Constraint::Ne(_) | Constraint::Nin(_) => Constraint::Nin(ids),
                _ => Constraint::In(ids),
            };
        });
        if said > MAX_MEMBERS {
            return Err(too_many());
        }
        Ok(predicate)
    }

    /// The members of a relation whose owner the caller may read; nobody's are told of any other.
    async fn members(
        &self,
        auth: &Auth,
        snapshot: &dyn Snapshot,
        relation: &RelatedTo,
        room: usize,
    ) -> Result<BTreeSet<CompactString>> {
        let RelatedTo { owner, key } = relation;
        let schema = self.class_to_read(auth, &owner.class, Operation::Get)?;
        // Users see all of themselves.
        if owner.class != ClassName::USER || auth.user_id() != Some(&owner.id) {
            let asked = Predicate::field(key.clone(), Constraint::Exists(true));
            refuse_hidden(auth, schema.as_deref(), &asked, std::iter::empty())?;
        }
        let found = snapshot.get(&owner.class, &owner.id).await?;
        if !found.is_some_and(|owner| may_read(auth, &relation.owner.class, &owner)) {
            return Ok(BTreeSet::new());
        }
        let asked = Predicate::equal(Membership::OWNER, owner.id.as_str());
        rows(snapshot, ClassName::of_relation(key, &owner.class), asked, Membership::RELATED, room).await
    }

    /// The class of a relation's members, for a client that knows no more than the relation; the class itself, as in
    /// Parse, where there is none.
    pub(super) fn redirected(&self, class: &ClassName, key: &str) -> ClassName {
        match self.0.storage.schemas().get(class).and_then(|schema| schema.fields.get(key).cloned()) {
            Some(FieldType::Relation(target)) => target,
            _ => class.clone(),
        }
    }
}

/// One end of the rows of a relation, each once.
async fn rows(
    snapshot: &dyn Snapshot,
    relation: ClassName,
    predicate: Predicate,
    end: &str,
    room: usize,
) -> Result<BTreeSet<CompactString>> {
    let selection = Selection {
        predicate,
        order: vec![Order { path: "objectId".into(), descending: false }],
        limit: room as u64 + 1,
        ..Selection::all(relation, Principals::MASTER)
    };
    let rows = snapshot.find(&selection).await?;
    if rows.len() > room {
        return Err(too_many());
    }
    let ids = rows.iter().filter_map(|row| row.fields.get(end)?.as_str().map(CompactString::from));
    Ok(ids.collect())
}

fn too_many() -> Failure {
    let message = format!("The relations of a query may have {MAX_MEMBERS} members in all.");
    Error::new(Code::InvalidQuery, message).into()
}
