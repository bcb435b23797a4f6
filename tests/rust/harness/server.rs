//! A running server process: started, stopped and killed by its id, its output kept.

use super::client::Client;
use super::launch::Launch;
use super::turn;
use super::{PATIENCE, json};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

pub(crate) struct Server {
    launch: Launch,
    process: Child,
    warden: Warden,
    /// Of the API: `http://127.0.0.1:1337/parse`.
    pub(crate) url: String,
    pub(crate) port: u16,
    /// From the start of the process to its `ready` line.
    pub(crate) ready_after: Duration,
    stdout: Text,
    stderr: Text,
}

type Text = Arc<Mutex<String>>;

impl Server {
    /// The server that tests share which neither stop nor break it. It has the chat's cloud code.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        turn::together();
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Launch::chat().start());
            *shared = Arc::downgrade(&server);
            server
        })
    }

    pub(super) fn start(launch: Launch) -> Self {
        let (process, url, ready_after, stdout, stderr) = spawn(&launch, None);
        let port = port_of(&url);
        let warden = Warden::of(process.id());
        Self { launch, process, warden, url, port, ready_after, stdout, stderr }
    }

    /// Somebody without a session.
    pub(crate) fn nobody(&self) -> Client {
        Client::new(&self.url).header("X-Parse-Application-Id", "app")
    }

    pub(crate) fn master(&self) -> Client {
        self.nobody().header("X-Parse-Master-Key", "master")
    }

    /// A new user, whose name begins so.
    pub(crate) async fn sign_up(&self, stem: &str) -> Client {
        let name = super::fresh(stem);
        let email = format!("{name}@example.org");
        let account = json!({"username": name, "password": "secret", "email": email});
        let user = self.nobody().post("/users", account).await.created();
        self.nobody().name(&name).session(user["objectId"].as_str().unwrap(), user["sessionToken"].as_str().unwrap())
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.launch.folder()
    }

    /// Everything that the process printed, over all its restarts.
    pub(crate) fn stdout(&self) -> String {
        self.stdout.lock().unwrap().clone()
    }

    /// The log.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// SIGTERM; does not wait.
    pub(crate) fn terminate(&self) {
        signal(self.process.id(), "TERM");
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                self.warden.dismiss();
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end; its log:\n{}", self.stderr());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// SIGKILL, as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.warden.dismiss();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// SIGSTOP: it answers nobody, and keeps its connections.
    pub(crate) fn pause(&self) {
        signal(self.process.id(), "STOP");
    }

    /// SIGCONT.
    pub(crate) fn go_on(&self) {
        signal(self.process.id(), "CONT");
    }

    /// Starts the same again: port, data, everything.
    pub(crate) fn start_again(&mut self) {
        let (process, url, ready_after, stdout, stderr) = spawn(&self.launch, Some(self.port));
        assert_eq!(url, self.url, "a restart serves at the same place");
        self.warden = Warden::of(process.id());
        (self.process, self.ready_after) = (process, ready_after);
        (self.stdout, self.stderr) = (stdout, stderr);
    }

    /// That it is well after what a test did to it.
    pub(crate) async fn assert_well(&mut self) {
        assert!(self.is_running(), "the server ended; its log:\n{}", self.stderr());
        assert_eq!(self.nobody().get("/health").await.ok(), json!({"status": "ok"}));
        let log = self.stderr();
        assert!(!log.contains("panicked"), "there is a panic in the log:\n{log}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.stderr();
            let end = log.lines().rev().take(40).collect::<Vec<_>>();
            eprintln!("the end of the server's log:\n{}", end.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}

fn spawn(launch: &Launch, port: Option<u16>) -> (Child, String, Duration, Text, Text) {
    let start = Instant::now();
    let mut process = launch.command(port).spawn().unwrap();
    let (tell, lines) = mpsc::channel();
    let stdout = keep(process.stdout.take().unwrap(), move |line| drop(tell.send(line.to_owned())));
    let stderr = keep(process.stderr.take().unwrap(), |_| {});
    let url = loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => match line.strip_prefix("ready ") {
                Some(url) => break url.trim().to_owned(),
                None => continue,
            },
            Err(_) => {
                let _ = process.kill();
                let status = process.wait();
                panic!("the server did not become ready ({status:?}); its log:\n{}", stderr.lock().unwrap());
            }
        }
    };
    (process, url, start.elapsed(), stdout, stderr)
}

/// Collects what a pipe says, line by line.
fn keep(pipe: impl Read + Send + 'static, tell: impl Fn(&str) + Send + 'static) -> Text {
    let text = Text::default();
    let kept = text.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            {
                let mut kept = kept.lock().unwrap();
                kept.push_str(&line);
                kept.push('\n');
            }
            tell(&line);
        }
    });
    text
}

fn port_of(url: &str) -> u16 {
    let authority = url.strip_prefix("http://").and_then(|rest| rest.split('/').next());
    let port = authority.and_then(|authority| authority.rsplit(':').next()?.parse().ok());
    port.unwrap_or_else(|| panic!("no port in the ready line: {url}"))
}

pub(super) fn signal(pid: u32, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
    assert!(status.success(), "no process {pid}");
}

/// Ends a server whose test process went away without saying so: it waits for the end of a pipe from us.
struct Warden {
    process: Child,
    pipe: Option<ChildStdin>,
}

impl Warden {
    fn of(pid: u32) -> Self {
        let script = format!("cat >/dev/null; kill -KILL {pid}");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let pipe = process.stdin.take();
        Self { process, pipe }
    }

    /// The server is stopped in an orderly way.
    fn dismiss(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.pipe = None;
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        self.dismiss();
    }
}
