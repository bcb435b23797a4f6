//! Real MongoDB processes, each in a folder that goes with it.

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A small shell guards a server: it ends it, and removes its folder, when we end, however that comes.
const GUARD: &str = r#"
us=$1 folder=$2; shift 2
"$@" & server=$!
while kill -0 "$us" 2>/dev/null; do sleep 0.2; done
kill "$server"; wait "$server"; rm -rf -- "$folder"
"#;

pub(crate) struct Mongod {
    pub(crate) port: u16,
    _guard: Child,
}

/// Starts a server: by itself, or as a member of the set of this name, which is to be initiated. It ends with this
/// process.
///
/// # Errors
/// When there is no port, no folder or no shell.
pub(crate) fn start(program: &Path, set: Option<&str>) -> io::Result<Mongod> {
    let folder = tempfile::Builder::new().prefix("tidings-mongod-").tempdir()?.keep();
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut guard = Command::new("sh");
    guard.args(["-c", GUARD, "guard", &std::process::id().to_string()]).arg(&folder).arg(program);
    guard.args(["--bind_ip", "127.0.0.1", "--port", &port.to_string(), "--dbpath"]).arg(&folder);
    if let Some(set) = set {
        guard.args(["--replSet", set, "--oplogSize", "256"]);
    }
    guard.args(["--wiredTigerCacheSizeGB", "0.5", "--nounixsocket", "--quiet"]);
    guard.args(["--setParameter", "diagnosticDataCollectionEnabled=false"]);
    let guard = guard.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    Ok(Mongod { port, _guard: guard })
}
