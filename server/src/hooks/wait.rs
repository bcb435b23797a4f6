//! Waiting for async code on a thread that runs a script.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;
use tokio::runtime::Handle;

/// Drives a future on this thread until it is ready, or drops it at the deadline: then `None`.
///
/// This, and not `Handle::block_on`, is how a [`Host`](tidings_cloud_code::Host) waits: a save polled here runs its own
/// hooks on this thread, and those wait again, which tokio's `block_on` would refuse. It may only be called on a thread
/// that may block, which is what scripts on the pool run on.
pub fn wait<F: Future>(runtime: &Handle, deadline: Instant, future: F) -> Option<F::Output> {
    let _runtime = runtime.enter();
    let alarm = Arc::new(Alarm { thread: std::thread::current(), rung: AtomicBool::new(true) });
    let waker = Waker::from(alarm.clone());
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        // A wait within this one may have taken our wake-up from the thread, but never from the alarm.
        if alarm.rung.swap(false, Ordering::Acquire) {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return Some(output);
            }
            continue;
        }
        let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        std::thread::park_timeout(left);
    }
}

struct Alarm {
    thread: Thread,
    rung: AtomicBool,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.thread.unpark();
    }
}
