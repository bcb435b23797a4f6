//! Real MongoDB processes, each in a folder that goes with it.

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A small shell guards a server: it ends it, and removes its folder, when we end without having done so.
const GUARD: &str = r#"
us=$1 folder=$2
while kill -0 "$us" 2>/dev/null; do sleep 0.2; done
server=$(cat "$folder/mongod.lock") && kill -KILL "$server" && while kill -0 "$server"; do sleep 0.1; done
rm -rf -- "$folder"
"#;

pub(crate) struct Mongod {
    pub(crate) port: u16,
    command: Command,
    server: Child,
    guard: Child,
    _folder: TempDir,
}

/// Starts a server, by itself or as a member of the set of this name, which is to be initiated, with `more` arguments.
/// It ends with this process.
///
/// # Errors
/// When there is no port, no folder, no shell or no such program.
pub(crate) fn start(program: &Path, set: Option<&str>, more: &[&str]) -> io::Result<Mongod> {
    let folder = tempfile::Builder::new().prefix("tidings-mongod-").tempdir()?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut guard = Command::new("sh");
    guard.args(["-c", GUARD, "guard", &std::process::id().to_string()]).arg(folder.path());
    let guard = guard.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut command = Command::new(program);
    command.args(["--bind_ip", "127.0.0.1", "--port", &port.to_string(), "--dbpath"]).arg(folder.path());
    if let Some(set) = set {
        command.args(["--replSet", set]);
        if !more.contains(&"--oplogSize") {
            command.args(["--oplogSize", "256"]);
        }
    }
    command.args(["--wiredTigerCacheSizeGB", "0.5", "--nounixsocket", "--quiet"]);
    command.args(["--setParameter", "diagnosticDataCollectionEnabled=false"]);
    // A member that is told to end waits so long before it does.
    command.args(["--setParameter", "shutdownTimeoutMillisForSignaledShutdown=500"]).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = command.spawn()?;
    Ok(Mongod { port, command, server, guard, _folder: folder })
}

#[allow(dead_code, reason = "only some tests do more with a server than to use it")]
impl Mongod {
    /// SIGKILL, as a power cut would.
    pub(crate) fn kill(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }

    /// SIGTERM; does not wait.
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    pub(crate) fn wait(&mut self) {
        let _ = self.server.wait();
    }

    /// SIGSTOP: it answers nobody, and keeps its connections.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub(crate) fn go_on(&self) {
        self.signal("CONT");
    }

    /// With the same port and data as before.
    ///
    /// # Errors
    /// When there is no such program any more.
    pub(crate) fn start_again(&mut self) -> io::Result<()> {
        self.server = self.command.spawn()?;
        Ok(())
    }

    fn signal(&self, name: &str) {
        let _ = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.server.id())]).status();
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        // A kill reaches also who is paused.
        for process in [&mut self.server, &mut self.guard] {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
