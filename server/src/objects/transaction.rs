//! Several writes in one commit: every part is prepared, its hook included, before any is written, and all are or none.

use super::create::AfterCreate;
use super::delete::AfterDelete;
use super::prepared::{AfterCommit, EndedSessions, Prepared, carried_through};
use super::update::{AfterUpdate, Change, MAX_HOOK_RUNS, rest_before};
use super::{Created, Objects, Updated, now};
use crate::auth::Auth;
use crate::error::{Failure, Result};
use crate::storage::{Action, Refused, Write, WriteError, Written};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tidings_protocol::{ClassName, Code, Error, Map, Object, ObjectId};

/// One write of a transaction.
#[derive(Clone, Debug)]
pub enum Part {
    Create { class: ClassName, body: Map },
    Update { class: ClassName, id: ObjectId, body: Map },
    Delete { class: ClassName, id: ObjectId },
}

impl Part {
    pub fn class(&self) -> &ClassName {
        match self {
            Self::Create { class, .. } | Self::Update { class, .. } | Self::Delete { class, .. } => class,
        }
    }
}

/// What one part tells its client.
#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    Created(Created),
    Updated(Updated),
    Deleted,
}

/// A part before the commit.
enum After {
    Create(AfterCreate),
    Update(AfterUpdate),
    Delete(AfterDelete),
}

/// How many writes one transaction makes at most, members of relations and ended sessions among them. A database keeps
/// all of them open until the last, and gives up on those that take a minute.
const MAX_WRITES: usize = 4_000;

impl Objects {
    /// Makes all these writes, in this order and in one commit, and waits until they are on disk.
    ///
    /// # Errors
    /// That of the first part that cannot be made, as if it were alone; nothing is written then. 107 for too many writes,
    /// 108 on a database that knows no transactions.
    pub async fn transaction(&self, auth: &Auth, parts: &[Part]) -> Result<Vec<Done>> {
        if !self.0.storage.commits_as_one() {
            let message = "Transactional batches need a MongoDB that is a replica set.";
            return Err(Failure::parse(Code::CommandUnavailable, message));
        }
        let mut run = 1;
        loop {
            let prepared = self.prepare_all(auth, parts).await?;
            let hook_expects = prepared.iter().any(|part| matches!(&part.after, After::Update(it) if it.hook_expects));
            let outcome = self.commit_all(prepared).await;
            let is_outrun = matches!(&outcome, Err(failure) if *failure == WriteError::Unexpected.into());
            if !hook_expects || !is_outrun || run >= MAX_HOOK_RUNS {
                return outcome;
            }
            // A hook decided on a value that changed before the commit: let all of them decide again.
            rest_before(run).await;
            run += 1;
        }
    }

    async fn prepare_all(&self, auth: &Auth, parts: &[Part]) -> Result<Vec<Prepared<After>>> {
        let mut all: Vec<Prepared<After>> = Vec::with_capacity(parts.len());
        let (mut left, mut count) = (Left::default(), 0);
        for part in parts {
            let prepared = match part.clone() {
                Part::Create { class, body } => self.prepare_create(auth, &class, body).await?.map(After::Create),
                Part::Update { class, id, body } => {
                    let change = Change::from_body(&id, body)?;
                    let known = self.as_left(&mut left, &all, &class, &id).await?;
                    self.prepare_update(auth, &class, &id, change, known).await?.map(After::Update)
                }
                Part::Delete { class, id } => {
                    let prepared = self.prepare_delete(auth, &class, &id).await?;
                    // The commit would find it out, too, but then the hooks of the parts behind have run.
                    let known = self.as_left(&mut left, &all, &class, &id).await;
                    let original = match known {
                        Ok(known) => self.original_to_write(auth, &class, &id, known).await,
                        Err(failure) => Err(failure),
                    };
                    match original {
                        Err(failure) if failure == Failure::object_not_found() => {
                            return Err(prepared.after.refused(WriteError::NotFound));
                        }
                        original => drop(original?),
                    }
                    prepared.map(After::Delete)
                }
            };
            count += prepared.writes.len();
            if count > MAX_WRITES {
                let message = format!("A transactional batch makes at most {MAX_WRITES} writes.");
                return Err(Error::invalid_json(message).into());
            }
            left.note(all.len(), &prepared.writes);
            all.push(prepared);
        }
        Ok(all)
    }

    /// An object as the parts before will leave it; `None` where they leave it alone.
    ///
    /// # Errors
    /// 101 where they delete it.
    async fn as_left(
        &self,
        left: &mut Left,
        parts: &[Prepared<After>],
        class: &ClassName,
        id: &ObjectId,
    ) -> Result<Option<Arc<Object>>> {
        let Some(touched) = left.0.get_mut(&(class.clone(), id.clone())) else { return Ok(None) };
        if !touched.is_read {
            touched.object = self.0.storage.snapshot().await?.get(class, id).await?;
            touched.is_read = true;
        }
        for (part, write) in touched.since.drain(..) {
            touched.object = after(touched.object.take(), &parts[part].writes[write].action)?;
        }
        touched.object.clone().map(Some).ok_or_else(Failure::object_not_found)
    }

    async fn commit_all(&self, prepared: Vec<Prepared<After>>) -> Result<Vec<Done>> {
        let mut writes = Vec::new();
        let mut parts = Vec::with_capacity(prepared.len());
        for mut part in prepared {
            parts.push((part.writes.len(), part.after));
            writes.append(&mut part.writes);
        }
        let committed = self.commit(writes).await;
        let at = now();
        let has_more_to_do = parts.iter().any(|(_, after)| after.has_more_to_do(self));
        let objects = self.clone();
        let pending = Box::pin(async move {
            let written = match committed.await {
                Ok(written) => written,
                Err(refused) => return Err(told(&parts, refused)),
            };
            // Of a user whose password changes twice the last session goes on.
            let ended = parts.iter().filter_map(|(_, after)| after.ended_sessions());
            let ended: BTreeMap<_, _> = ended.map(|EndedSessions { user, kept }| (user, kept)).collect();
            for (user, kept) in ended {
                objects.end_sessions_until(&user, at, kept.as_deref()).await;
            }
            let mut written = written.into_iter();
            let mut done = Vec::with_capacity(parts.len());
            for (count, after) in parts {
                // What is left of the other parts is due whatever becomes of one.
                done.push(after.finish(&objects, written.by_ref().take(count).collect()).await);
            }
            done.into_iter().collect()
        });
        carried_through(has_more_to_do, pending).await
    }
}

/// What the parts so far leave of the objects that they write.
#[derive(Default)]
struct Left(HashMap<(ClassName, ObjectId), Touched>);

#[derive(Default)]
struct Touched {
    /// As of the writes that are no longer in `since`, once it is read.
    object: Option<Arc<Object>>,
    is_read: bool,
    /// The number of a part, and of one of its writes.
    since: Vec<(usize, usize)>,
}

impl Left {
    fn note(&mut self, part: usize, writes: &[Write]) {
        for (at, write) in writes.iter().enumerate() {
            self.0.entry((write.class.clone(), write.id.clone())).or_default().since.push((part, at));
        }
    }
}

/// What an action leaves of an object.
fn after(object: Option<Arc<Object>>, action: &Action) -> Result<Option<Arc<Object>>> {
    Ok(match (action, object) {
        (Action::Update { update, at }, Some(mut object)) => {
            let changed = Arc::make_mut(&mut object);
            update.apply(changed)?;
            changed.updated_at = changed.updated_at.max(*at);
            Some(object)
        }
        (Action::Create(created), _) => Some(Arc::new(created.clone())),
        (Action::Delete | Action::DeleteIfPresent, _) => None,
        (Action::Update { .. } | Action::Join(_) | Action::Leave(_) | Action::Expect, object) => object,
    })
}

/// The failure of the part to which the refused write belongs. `parts` says how many are each part's.
fn told(parts: &[(usize, After)], Refused { at, error }: Refused) -> Failure {
    let mut end = 0;
    for (count, after) in parts {
        end += count;
        if at < end {
            return after.refused(error);
        }
    }
    error.into()
}

impl AfterCommit for After {
    type Done = Done;

    fn ended_sessions(&self) -> Option<EndedSessions> {
        match self {
            Self::Create(after) => after.ended_sessions(),
            Self::Update(after) => after.ended_sessions(),
            Self::Delete(after) => after.ended_sessions(),
        }
    }

    fn has_more_to_do(&self, objects: &Objects) -> bool {
        match self {
            Self::Create(after) => after.has_more_to_do(objects),
            Self::Update(after) => after.has_more_to_do(objects),
            Self::Delete(after) => after.has_more_to_do(objects),
        }
    }

    async fn finish(self, objects: &Objects, written: Vec<Written>) -> Result<Done> {
        Ok(match self {
            Self::Create(after) => Done::Created(after.finish(objects, written).await?),
            Self::Update(after) => Done::Updated(after.finish(objects, written).await?),
            Self::Delete(after) => {
                after.finish(objects, written).await?;
                Done::Deleted
            }
        })
    }

    fn refused(&self, error: WriteError) -> Failure {
        match self {
            Self::Create(after) => after.refused(error),
            Self::Update(after) => after.refused(error),
            Self::Delete(after) => after.refused(error),
        }
    }
}
