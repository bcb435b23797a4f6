//! Runs a command beside a MongoDB of its own:
//!
//! ```sh
//! cargo run --example with-mongod -- [--members 3 | --standalone] cargo test --test end_to_end
//! ```
//!
//! `TIDINGS_TEST_MONGOD` names the program of MongoDB. The command finds a replica set, of one unless it asks for more, at
//! `TIDINGS_TEST_DATABASE_URL`, which has the servers under test keep their objects there, and at
//! `TIDINGS_TEST_MONGODB_URL`, where the tests of the store look for one. When the command ends, so does the set, and
//! nothing is left of it.

#![allow(clippy::print_stderr)]

mod process;
mod set;

use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

async fn run() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).peekable();
    let (mut members, mut is_replicated) = (1, true);
    if arguments.next_if_eq("--members").is_some() {
        members = arguments.next().ok_or("--members wants a number")?.parse()?;
    } else if arguments.next_if_eq("--standalone").is_some() {
        is_replicated = false;
    }
    let command = arguments.next().ok_or("with-mongod [--members N | --standalone] command…")?;
    let program = PathBuf::from(std::env::var_os("TIDINGS_TEST_MONGOD").ok_or("TIDINGS_TEST_MONGOD names no mongod")?);
    let set = is_replicated.then_some(set::SET);
    let started = (0..members.max(1)).map(|_| process::start(&program, set, &[])).collect::<Result<Vec<_>, _>>()?;
    let ports: Vec<_> = started.iter().map(|member| member.port).collect();
    let mut command = Command::new(command);
    command.args(arguments);
    if is_replicated {
        set::initiate(&ports, "").await?;
        let url = set::url(&ports, "", "");
        command.env("TIDINGS_TEST_DATABASE_URL", &url).env("TIDINGS_TEST_MONGODB_URL", &url);
    } else {
        command.env("TIDINGS_TEST_DATABASE_URL", format!("mongodb://127.0.0.1:{}/", ports[0]));
    }
    let status = command.status()?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
