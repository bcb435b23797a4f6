//! What the operating system says to the process, and what the process asks of it.

use std::io;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Becomes true with SIGTERM or SIGINT. A second signal ends the process at once.
pub(super) fn shutdown() -> io::Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        for attempt in 0..2 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if attempt == 0 {
                tracing::info!("stopping; a second signal ends it at once");
                let _ = stop.send(true);
            }
        }
        std::process::exit(1);
    });
    Ok(stopped)
}

/// Every connection takes a file handle, and the usual limit of a shell is 1,024.
pub(super) fn raise_file_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
