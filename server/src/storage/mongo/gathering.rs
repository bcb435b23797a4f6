//! Work on single objects that comes while others are at it goes to the database together, as one command.
//!
//! A command costs the database and us far more than one more object in it does. Nobody waits while few are at work; under
//! load, whoever comes waits for one of the commands that are under way, and then goes with all who wait.

use super::Shared;
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidings_protocol::ClassName;
use tokio::sync::oneshot;

/// What one command can do for many objects of a class.
pub(super) trait Gathered: Sized + Send + 'static {
    type Done: Send + 'static;
    /// How many commands of a class are under way before the next ones wait.
    const COMMANDS: usize;
    /// How many objects a command is for.
    const MOST: usize;

    /// Where those wait who want this.
    fn gathering(shared: &Shared) -> &Gathering<Self>;

    /// Does it for all of them; answers in their order.
    fn together(shared: &Shared, class: &ClassName, all: Vec<Self>) -> impl Future<Output = Vec<Self::Done>> + Send;
}

pub(super) struct Gathering<W: Gathered> {
    classes: Mutex<HashMap<ClassName, Line<W>>>,
}

/// Those who want something of one class.
struct Line<W: Gathered> {
    under_way: usize,
    waiting: Vec<Waiting<W>>,
}

struct Waiting<W: Gathered> {
    work: W,
    done: oneshot::Sender<W::Done>,
}

/// One of the commands that may be under way. Whoever ends it, or is ended in it, passes it on to those who wait.
struct Turn<W: Gathered> {
    shared: Arc<Shared>,
    class: ClassName,
    work: std::marker::PhantomData<fn(W)>,
}

/// Does this, perhaps together with others. `None` where nobody is left to do it, as the store is closed.
pub(super) async fn run<W: Gathered>(shared: &Arc<Shared>, class: &ClassName, work: W) -> Option<W::Done> {
    let turn = {
        let mut classes = W::gathering(shared).lock();
        let line = classes.entry(class.clone()).or_default();
        if line.under_way < W::COMMANDS {
            line.under_way += 1;
            Ok((Turn::<W>::new(shared, class), work))
        } else {
            let (done, answer) = oneshot::channel();
            line.waiting.push(Waiting { work, done });
            Err(answer)
        }
    };
    match turn {
        Ok((turn, work)) => W::together(&turn.shared, class, vec![work]).await.pop(),
        Err(answer) => answer.await.ok(),
    }
}

impl<W: Gathered> Default for Gathering<W> {
    fn default() -> Self {
        Self { classes: Mutex::default() }
    }
}

impl<W: Gathered> Default for Line<W> {
    fn default() -> Self {
        Self { under_way: 0, waiting: Vec::new() }
    }
}

impl<W: Gathered> Gathering<W> {
    fn lock(&self) -> MutexGuard<'_, HashMap<ClassName, Line<W>>> {
        // No code that runs under the lock can leave a line half-changed.
        self.classes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those who are next, or nobody: then one command less is under way.
    fn next(&self, class: &ClassName) -> Vec<Waiting<W>> {
        let mut classes = self.lock();
        let Some(line) = classes.get_mut(class) else { return Vec::new() };
        let rest = line.waiting.split_off(line.waiting.len().min(W::MOST));
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

impl<W: Gathered> Turn<W> {
    fn new(shared: &Arc<Shared>, class: &ClassName) -> Self {
        Self { shared: shared.clone(), class: class.clone(), work: std::marker::PhantomData }
    }

    async fn serve(self, waiting: Vec<Waiting<W>>) {
        let (work, answers): (Vec<_>, Vec<_>) = waiting.into_iter().map(|one| (one.work, one.done)).unzip();
        let done = W::together(&self.shared, &self.class, work).await;
        for (answer, done) in answers.into_iter().zip(done) {
            // Who has gone away meanwhile needs none.
            let _ = answer.send(done);
        }
    }
}

impl<W: Gathered> Drop for Turn<W> {
    fn drop(&mut self) {
        let next = W::gathering(&self.shared).next(&self.class);
        if !next.is_empty() {
            let turn = Self::new(&self.shared, &self.class);
            self.shared.runtime.spawn(turn.serve(next));
        }
    }
}
