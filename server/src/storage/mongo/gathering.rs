//! Reads of single objects that come while others are under way go to the database together, as one command.
//!
//! A command costs the database and us far more than one more object in it does. Nobody waits while few are reading; under
//! load, whoever comes waits for one of the commands that are under way, and is then read with all who wait.

use super::Shared;
use super::reads::Reader;
use crate::changes::Position;
use mongodb::error::Error;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidings_protocol::{ClassName, Object, ObjectId};
use tokio::sync::oneshot;

/// How many commands of a class are under way before the next ones wait.
const COMMANDS: usize = 8;
/// How many objects a command asks for.
const MOST_OBJECTS: usize = 1_000;

/// An object as of a moment, if it was there.
type Answer = Result<(Option<Arc<Object>>, Option<Position>), Error>;

#[derive(Default)]
pub(super) struct Gathering {
    classes: Mutex<HashMap<ClassName, Line>>,
}

/// Those who want objects of one class.
#[derive(Default)]
struct Line {
    under_way: usize,
    waiting: Vec<Waiting>,
}

struct Waiting {
    id: ObjectId,
    answer: oneshot::Sender<Answer>,
}

/// One of the commands that may be under way. Whoever ends it, or is ended in it, passes it on to those who wait.
struct Turn {
    shared: Arc<Shared>,
    class: ClassName,
}

/// Reads an object of the newest state there is.
pub(super) async fn get(shared: &Arc<Shared>, class: &ClassName, id: &ObjectId) -> Answer {
    let answer = {
        let mut classes = shared.gathering.lock();
        let line = classes.entry(class.clone()).or_default();
        if line.under_way < COMMANDS {
            line.under_way += 1;
            None
        } else {
            let (answer, answered) = oneshot::channel();
            line.waiting.push(Waiting { id: id.clone(), answer });
            Some(answered)
        }
    };
    match answer {
        None => {
            let turn = Turn { shared: shared.clone(), class: class.clone() };
            let (objects, at) = turn.read(&[id]).await?;
            Ok((objects.into_iter().next(), at))
        }
        Some(answer) => answer.await.unwrap_or_else(|_| Err(Error::custom("the store is closed"))),
    }
}

impl Gathering {
    fn lock(&self) -> MutexGuard<'_, HashMap<ClassName, Line>> {
        // No code that runs under the lock can leave a line half-changed.
        self.classes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those who are next, or nobody: then one command less is under way.
    fn next(&self, class: &ClassName) -> Vec<Waiting> {
        let mut classes = self.lock();
        let Some(line) = classes.get_mut(class) else { return Vec::new() };
        let rest = line.waiting.split_off(line.waiting.len().min(MOST_OBJECTS));
        let next = std::mem::replace(&mut line.waiting, rest);
        if next.is_empty() {
            line.under_way -= 1;
            if line.under_way == 0 {
                classes.remove(class);
            }
        }
        next
    }
}

impl Turn {
    async fn read(&self, ids: &[&ObjectId]) -> Result<(Vec<Arc<Object>>, Option<Position>), Error> {
        let mut reader = Reader::new(&self.shared, None);
        Ok((reader.get(&self.class, ids).await?, reader.at))
    }

    async fn serve(self, waiting: Vec<Waiting>) {
        let mut ids: Vec<_> = waiting.iter().map(|waiting| &waiting.id).collect();
        ids.sort_unstable();
        ids.dedup();
        match self.read(&ids).await {
            Ok((objects, at)) => {
                let found: HashMap<_, _> = objects.iter().map(|object| (&object.id, object)).collect();
                for Waiting { id, answer } in waiting {
                    // Who has gone away meanwhile needs none.
                    let _ = answer.send(Ok((found.get(&id).copied().cloned(), at)));
                }
            }
            Err(error) => {
                for Waiting { answer, .. } in waiting {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = self.shared.gathering.next(&self.class);
        if !next.is_empty() {
            let turn = Self { shared: self.shared.clone(), class: self.class.clone() };
            self.shared.runtime.spawn(turn.serve(next));
        }
    }
}
