//! What the live-query engine asks of the store, answered from snapshots.

use crate::changes::Position;
use crate::live::{Answer, Read, Reads};
use crate::objects::Objects;
use crate::permissions::Principals;
use crate::schema::Schemas;
use crate::storage::{Selection, Storage, Unavailable};
use std::collections::HashSet;
use std::sync::Arc;
use tidings_protocol::query::Constraint;
use tidings_protocol::{ClassName, Code, Error, Object, ObjectId, Predicate, Value};

/// How many sessions are looked for in one question.
const SESSIONS_AT_ONCE: usize = 1_000;

pub(super) struct StorageReads {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) objects: Objects,
}

impl Reads for StorageReads {
    fn results(&self, read: Read) -> Answer<Result<(Position, Vec<Arc<Object>>), Error>> {
        let (storage, is_live) = (self.storage.clone(), self.objects.is_live(&read.class));
        Box::pin(async move {
            if !is_live {
                // The subscription is silent, but silence is no result.
                let message = format!("{} is not a live class.", read.class);
                return Err(Error::new(Code::OperationForbidden, message));
            }
            // The engine only knows what was published, so the newest state holds at least that.
            let snapshot = storage.snapshot().await.map_err(told)?;
            let position = snapshot.cursor().position;
            debug_assert!(position >= read.at_least);
            let predicate = Arc::unwrap_or_clone(read.predicate);
            let selection = Selection { predicate, limit: read.limit, ..Selection::all(read.class, read.principals) };
            Ok((position, snapshot.find(&selection).await.map_err(told)?))
        })
    }

    fn ended_sessions(&self, sessions: Vec<ObjectId>) -> Answer<Result<Vec<ObjectId>, Error>> {
        let storage = self.storage.clone();
        Box::pin(async move {
            let snapshot = storage.snapshot().await.map_err(told)?;
            let mut ended: HashSet<ObjectId> = sessions.iter().cloned().collect();
            for some in sessions.chunks(SESSIONS_AT_ONCE) {
                let ids = some.iter().map(|id| Value::string(id.as_str())).collect();
                let selection = Selection {
                    predicate: Predicate::field("objectId", Constraint::In(ids)),
                    limit: some.len() as u64,
                    ..Selection::all(ClassName::SESSION, Principals::MASTER)
                };
                for session in snapshot.find(&selection).await.map_err(told)? {
                    ended.remove(&session.id);
                }
            }
            Ok(ended.into_iter().collect())
        })
    }

    fn schemas(&self) -> Schemas {
        self.storage.schemas()
    }
}

fn told(Unavailable(reason): Unavailable) -> Error {
    tracing::error!(reason, "the store cannot answer a live query");
    Error::new(Code::InternalServerError, "Internal server error.")
}
