//! How a server process is started: arguments, environment, files beside it.

use super::database::Database;
use super::server::Server;
use super::turn;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

/// A process about to be started, in a folder of its own.
#[derive(Clone)]
pub(crate) struct Launch {
    folder: Arc<TempDir>,
    /// Where objects are kept, if not in the folder.
    database: Option<Arc<Database>>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

/// A process that ended by itself.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Launch {
    /// `tidings` and nothing else; its working directory is an empty folder.
    pub(crate) fn bare() -> Self {
        let folder = tempfile::Builder::new().prefix("tidings-test-").tempdir().unwrap();
        let name = folder.path().file_name().unwrap().to_string_lossy();
        let database = Database::named(&name.replace('.', "_")).map(Arc::new);
        Self { folder: Arc::new(folder), database, arguments: Vec::new(), environment: Vec::new() }
    }

    /// `serve` on a free port with known keys, and without cloud code.
    pub(crate) fn plain() -> Self {
        let arguments = ["serve", "--port", "0", "--app-id", "app", "--master-key", "master"];
        Self::bare().with(&arguments).file("cloud-code/main.rhai", "")
    }

    /// As [`Launch::plain`], with the chat's cloud code.
    pub(crate) fn chat() -> Self {
        let scripts = repository().join("cloud-code");
        let mut launch = Self::plain();
        launch.arguments.extend(["--cloud-code".into(), scripts.to_str().unwrap().into()]);
        launch
    }

    pub(crate) fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Writes a file into the working directory.
    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        let path = self.folder().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    /// The working directory. It is removed with the last launch and server that use it.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn start(self) -> Server {
        turn::together();
        Server::start(self)
    }

    /// Runs a process that should end by itself.
    pub(crate) fn run(&self) -> Ended {
        let mut child = self.command(None).spawn().unwrap();
        let pid = child.id();
        // Whoever does not end by itself is ended, so that the test says what happened instead of hanging.
        let (done, patience) = std::sync::mpsc::channel::<()>();
        let watch = std::thread::spawn(move || {
            if patience.recv_timeout(super::PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                super::server::signal(pid, "KILL");
            }
        });
        let mut texts = [String::new(), String::new()];
        let mut stderr = child.stderr.take().unwrap();
        let reader = std::thread::spawn(move || std::io::read_to_string(&mut stderr).unwrap());
        texts[0] = std::io::read_to_string(child.stdout.take().unwrap()).unwrap();
        texts[1] = reader.join().unwrap();
        let code = child.wait().unwrap().code();
        drop(done);
        watch.join().unwrap();
        let [stdout, stderr] = texts;
        Ended { code, stdout, stderr }
    }

    /// `port` overrides the one of the arguments: a restart asks for the port it had.
    pub(super) fn command(&self, port: Option<u16>) -> Command {
        let mut arguments = self.arguments.clone();
        if let (Some(port), Some(at)) = (port, arguments.iter().position(|argument| argument == "--port")) {
            arguments[at + 1] = port.to_string();
        }
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(self.folder()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(name)) {
            command.env_remove(name);
        }
        command.envs(self.database.iter().map(|database| ("TIDINGS_DATABASE_URL", &database.url)));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

fn is_setting(name: &OsString) -> bool {
    name.to_string_lossy().starts_with("TIDINGS_")
}

/// That a process did not start, and says why in words that name what is wrong.
#[track_caller]
pub(crate) fn refused(ended: &Ended, words: &[&str]) {
    assert!(ended.code.is_some_and(|code| code != 0), "{ended:?}");
    assert!(!ended.stdout.contains("ready "), "{ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "no {word} in {ended:?}");
    }
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
}

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn binary() -> PathBuf {
    let named = std::env::var_os("TIDINGS_BIN").map(PathBuf::from);
    let built = ["release", "debug"].map(|profile| repository().join("target").join(profile).join("tidings"));
    let cargos = option_env!("CARGO_BIN_EXE_tidings").map(PathBuf::from);
    let mut places = named.into_iter().chain(built).chain(cargos);
    places.find(|place| place.is_file()).expect("build the server first, or name it in TIDINGS_BIN")
}
