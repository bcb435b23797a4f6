//! Work on single objects that comes while others are at it goes to the database together, as one command.
//!
//! A command costs the database and us far more than one more object in it does. Nobody waits while few are at work; under
//! load, whoever comes waits for one of the commands that are under way, and then goes with all who wait.

use super::Shared;
use super::errors::has_no_server;
use mongodb::error::{Error, Result};
use std::collections::HashMap;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidings_protocol::ClassName;
use tokio::sync::oneshot;

/// What one command can do for many objects of a class.
pub(super) trait Gathered: Sized + Send + 'static {
    type Done: Send + 'static;
    /// How many commands of a class are under way before the next ones wait.
    const COMMANDS: usize;
    /// How many objects a command is for, and of how many bytes. One it is always for.
    const MOST: usize;
    const MOST_BYTES: usize;

    fn bytes(&self) -> usize;

    /// Where those wait who want this.
    fn gathering(shared: &Shared) -> &Gathering<Self>;

    /// Does it for all of them; answers in their order.
    ///
    /// # Errors
    /// When nothing can be said of any of them.
    fn together(
        shared: &Shared,
        class: &ClassName,
        all: Vec<Self>,
    ) -> impl Future<Output = Result<Vec<Self::Done>>> + Send;
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
    done: oneshot::Sender<Result<W::Done>>,
}

/// One of the commands that may be under way. Whoever ends it, or is ended in it, passes it on to those who wait.
struct Turn<W: Gathered> {
    shared: Arc<Shared>,
    class: ClassName,
    work: PhantomData<fn(W)>,
}

/// Does this, perhaps together with others.
///
/// # Errors
/// Where it is not known what was done.
pub(super) async fn run<W: Gathered>(shared: &Arc<Shared>, class: &ClassName, work: W) -> Result<W::Done> {
    let closed = || Error::custom("the store is closed");
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
        Ok((turn, work)) => turn.together(vec![work]).await?.pop().ok_or_else(closed),
        Err(answer) => answer.await.unwrap_or_else(|_| Err(closed())),
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
        // Who has gone away meanwhile wants nothing any more.
        line.waiting.retain(|waiting| !waiting.done.is_closed());
        let mut bytes = 0;
        let fits = |waiting: &Waiting<W>| {
            bytes += waiting.work.bytes();
            bytes <= W::MOST_BYTES
        };
        let fitting = line.waiting.iter().take(W::MOST).map(fits).take_while(|fits| *fits).count().max(1);
        let rest = line.waiting.split_off(fitting.min(line.waiting.len()));
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
        Self { shared: shared.clone(), class: class.clone(), work: PhantomData }
    }

    /// Where no server was to be had for as long as one may wait, those who wait for us are not to wait as long again.
    async fn together(&self, work: Vec<W>) -> Result<Vec<W::Done>> {
        let outcome = W::together(&self.shared, &self.class, work).await;
        if let Err(error) = &outcome
            && has_no_server(error)
        {
            let mut classes = W::gathering(&self.shared).lock();
            let waiting = classes.get_mut(&self.class).map(|line| std::mem::take(&mut line.waiting));
            for Waiting { done, .. } in waiting.into_iter().flatten() {
                let _ = done.send(Err(error.clone()));
            }
        }
        outcome
    }

    async fn serve(self, waiting: Vec<Waiting<W>>) {
        let (work, answers): (Vec<_>, Vec<_>) = waiting.into_iter().map(|one| (one.work, one.done)).unzip();
        match self.together(work).await {
            Ok(done) => {
                for (answer, done) in answers.into_iter().zip(done) {
                    // Who has gone away meanwhile needs none.
                    let _ = answer.send(Ok(done));
                }
            }
            Err(error) => {
                for answer in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
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
