//! Builds the web pages that the binary carries. A page that cannot be built never fails the build: without node there
//! is a page that says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longer than a cold `npm ci` of a small project takes on a slow line.
const PATIENCE: Duration = Duration::from_secs(180);

fn main() {
    println!("cargo::rerun-if-env-changed=TIDINGS_SKIP_WEB");
    println!("cargo::rerun-if-changed=build.rs");
    let root = PathBuf::from(env("CARGO_MANIFEST_DIR")).join("..");
    let out = PathBuf::from(env("OUT_DIR"));
    build_page("chat", &root.join("examples/chat"), &out);
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn build_page(name: &str, source: &Path, out: &Path) {
    for part in ["package.json", "package-lock.json", "index.html", "vite.config.ts", "tsconfig.json", "src", "public"]
    {
        let path = source.join(part);
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    let target = out.join(name);
    let result = if env("TIDINGS_SKIP_WEB").is_empty() {
        bundle(source, &out.join(format!("{name}-build")))
    } else {
        Err("TIDINGS_SKIP_WEB is set".to_owned())
    };
    let _ = fs::remove_dir_all(&target);
    match result {
        Ok(dist) if fs::rename(&dist, &target).is_ok() => {}
        Ok(_) => placeholder(name, &target, "the built page could not be moved"),
        Err(reason) => {
            println!("cargo::warning=/{name} is left out of this build: {reason}");
            placeholder(name, &target, &reason);
        }
    }
}

/// Copies the sources and builds the copy, so that nothing is written beside them.
fn bundle(source: &Path, work: &Path) -> Result<PathBuf, String> {
    for part in ["src", "public", "dist"] {
        let _ = fs::remove_dir_all(work.join(part));
    }
    copy(source, work).map_err(|error| format!("cannot copy the sources: {error}"))?;
    let lock = fs::read(work.join("package-lock.json")).unwrap_or_default();
    let installed = work.join("installed-lock.json");
    if fs::read(&installed).ok().as_deref() != Some(&lock) {
        npm(work, &["ci", "--no-audit", "--no-fund", "--ignore-scripts"])?;
        fs::write(&installed, &lock).map_err(|error| error.to_string())?;
    }
    npm(work, &["run", "build"])?;
    let dist = work.join("dist");
    if dist.join("index.html").exists() { Ok(dist) } else { Err("npm run build made no index.html".to_owned()) }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if ["node_modules", "dist"].iter().any(|skipped| name == *skipped) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to.join(name))?;
        } else {
            fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}

fn npm(folder: &Path, arguments: &[&str]) -> Result<(), String> {
    let log = folder.join("npm.log");
    let output = fs::File::create(&log).map_err(|error| error.to_string())?;
    let errors = output.try_clone().map_err(|error| error.to_string())?;
    let mut child = Command::new("npm")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(|error| format!("npm cannot be started ({error}); install node to get it"))?;
    let end = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(_)) => return Err(format!("npm {} failed; see {}", arguments.join(" "), log.display())),
            Ok(None) if Instant::now() < end => sleep(Duration::from_millis(100)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("npm {} took longer than {} s", arguments.join(" "), PATIENCE.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn placeholder(name: &str, target: &Path, reason: &str) {
    let page = format!(
        "<!doctype html><meta charset=utf-8><title>Tidings</title><p>The {name} page is not in this build: {reason}.\
         <p>Install node and npm, then build again.\n"
    );
    if let Err(error) = fs::create_dir_all(target).and_then(|()| fs::write(target.join("index.html"), page)) {
        println!("cargo::warning=the placeholder of /{name} cannot be written: {error}");
    }
}
