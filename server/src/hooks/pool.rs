//! A bounded pool of threads that may block, with a bounded queue.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

pub(super) type Job = Box<dyn FnOnce() + Send>;

/// The queue is full, or the pool closed.
#[derive(Debug)]
pub(super) struct Full;

/// Threads are started as they are needed, and stay.
pub(super) struct Pool(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    max_threads: usize,
    max_queue: usize,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    idle: usize,
    threads: Vec<JoinHandle<()>>,
    closed: bool,
}

/// Room for ten nested hooks, each as deep as a script may go.
const STACK: usize = 32 << 20;

impl Pool {
    pub(super) fn new(threads: usize, queue: usize) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            max_threads: threads.max(1),
            max_queue: queue,
        }))
    }

    pub(super) fn submit(&self, job: Job) -> Result<(), Full> {
        let mut state = self.0.lock();
        if state.closed || state.queue.len() >= self.0.max_queue {
            return Err(Full);
        }
        state.queue.push_back(job);
        if state.queue.len() <= state.idle {
            drop(state);
            self.0.work.notify_one();
            return Ok(());
        }
        if state.threads.len() < self.0.max_threads {
            let shared = self.0.clone();
            let name = format!("hook-{}", state.threads.len());
            match std::thread::Builder::new().name(name).stack_size(STACK).spawn(move || shared.work()) {
                Ok(thread) => state.threads.push(thread),
                Err(error) if state.threads.is_empty() => {
                    tracing::error!(%error, "no thread for hooks");
                    state.queue.pop_back();
                    return Err(Full);
                }
                Err(error) => tracing::warn!(%error, "no further thread for hooks"),
            }
        }
        Ok(())
    }

    /// Lets the queued jobs end, and the threads with them.
    pub(super) fn close(&self) {
        let threads = {
            let mut state = self.0.lock();
            state.closed = true;
            std::mem::take(&mut state.threads)
        };
        self.0.work.notify_all();
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                // Whoever waits for the job learns of a panic by its silence.
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    tracing::error!("a hook panicked");
                }
                state = self.lock();
            } else if state.closed {
                return;
            } else {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}
