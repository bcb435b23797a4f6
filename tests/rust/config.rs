//! How the process is started, configured, kept from starting, and stopped.

use crate::harness::{Client, Launch, Raw, json, members, on_mongodb, refused};
use std::os::unix::fs::PermissionsExt;

async fn knows(url: &str, app_id: &str) -> bool {
    Client::new(url).header("X-Parse-Application-Id", app_id).get("/classes/Note").await.status == 200
}

#[tokio::test]
async fn flags_go_before_variables_before_the_file_before_defaults() {
    let file = "port = 0\napp-id = \"from-file\"\n";
    let serve = || Launch::bare().with(&["serve"]).file("tidings.toml", file);
    for (launch, app_id) in [
        (serve(), "from-file"),
        (serve().variable("TIDINGS_APP_ID", "from-variable"), "from-variable"),
        (serve().variable("TIDINGS_APP_ID", "from-variable").with(&["--app-id", "from-flag"]), "from-flag"),
    ] {
        let server = launch.start();
        for known in ["from-file", "from-variable", "from-flag"] {
            assert_eq!(knows(&server.url, known).await, known == app_id, "{known}");
        }
        assert!(server.url.ends_with("/parse"), "{}", server.url);
    }
}

#[tokio::test]
async fn dotted_settings_have_a_name_everywhere() {
    let variable = Launch::plain().variable("TIDINGS_LIVE_QUERY__CLASS_NAMES", "Loud");
    let table = Launch::plain().file("tidings.toml", "[live-query]\nclass-names = [\"Loud\"]\n");
    let other_file =
        Launch::plain().file("other.toml", "live-query.class-names = \"Loud\"").with(&["--config", "other.toml"]);
    let flag = Launch::plain().with(&["--live-query.class-names", "Loud"]);
    for launch in [variable, table, other_file, flag] {
        let server = launch.start();
        let nobody = server.nobody();
        let mut live = nobody.connect().await;
        live.subscribe(1, json!({"className": "Quiet", "where": {}})).await;
        live.subscribe(2, json!({"className": "Loud", "where": {}})).await;
        nobody.create("Quiet", json!({})).await;
        let id = nobody.create("Loud", json!({})).await;
        live.expect(2, "create", &id).await;
        // Silence is no result.
        live.send(json!({"op": "query", "requestId": 1})).await;
        live.expect_error(119).await;
    }
    let server = Launch::plain().with(&["--live-query.class-names", "L.*"]).start();
    let mut loud = server.nobody().subscribe("Loud", json!({})).await;
    let id = server.nobody().create("Loud", json!({})).await;
    loud.expect("create", &id).await;
    refused(&Launch::plain().with(&["--live-query.class-names", "L("]).run(), &["live-query.class-names"]);
}

#[tokio::test]
async fn without_arguments_it_serves() {
    let server = Launch::bare().variable("TIDINGS_PORT", "0").start();
    assert_eq!(Client::new(&server.url).get("/health").await.ok(), json!({"status": "ok"}));
    assert!(server.folder().join("data").is_dir(), "data is beside it");
}

#[tokio::test]
async fn the_first_start_makes_keys_shows_them_once_and_keeps_them_private() {
    let launch = Launch::bare().with(&["serve", "--port", "0"]);
    let mut server = launch.start();
    let banner = server.stdout();
    let file = server.folder().join("data/keys.toml");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    let key = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().trim_matches('"').to_owned()
    };
    let (app_id, master_key) = (key("app-id"), key("master-key"));
    for shown in [&app_id, &master_key, &server.url, "/chat"] {
        assert!(banner.contains(shown), "no {shown} in {banner}");
    }
    assert!(!banner.contains(&key("session-secret")), "{banner}");
    let master =
        Client::new(&server.url).header("X-Parse-Application-Id", &app_id).header("X-Parse-Master-Key", &master_key);
    assert!(master.get("/schemas").await.ok()["results"].is_array());

    server.kill();
    server.start_again();
    master.reconnected().get("/schemas").await.ok();
    assert!(!server.stdout().contains(&master_key), "shown once, unless a person watches: {}", server.stdout());
    assert_eq!(server.stdout().lines().count(), 1, "one line: {}", server.stdout());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
}

#[tokio::test]
async fn given_keys_are_not_shown() {
    let server = Launch::plain().with(&["--javascript-key", "js-secret"]).start();
    assert_eq!(server.stdout(), format!("ready http://127.0.0.1:{}/parse\n", server.port));
    assert!(!server.stderr().contains("js-secret"));
}

#[test]
fn settings_that_cannot_be_are_named() {
    for (name, value) in [
        ("port", "x"),
        ("port", "70000"),
        ("host", "nowhere"),
        ("mode", "test"),
        ("mount", "parse"),
        ("mount", "/a b"),
        ("log-format", "xml"),
        ("session-length", "-1"),
        ("session-length", "soon"),
        ("max-upload-size", "much"),
        ("cloud-code", "/no/such/folder"),
        ("allow-client-class-creation", "maybe"),
        ("master-key", ""),
        ("app-id", ""),
        ("max-limit", "0"),
    ] {
        refused(&Launch::bare().with(&["serve", &format!("--{name}"), value]).run(), &[&format!("--{name}")]);
    }
    refused(&Launch::bare().with(&["serve", "--prot", "0"]).run(), &["--prot"]);
    refused(&Launch::bare().with(&["explode"]).run(), &["explode"]);
    refused(&Launch::bare().with(&["serve", "--config", "missing.toml"]).run(), &["missing.toml"]);
    refused(&Launch::bare().file("tidings.toml", "prot = 0").with(&["serve"]).run(), &["tidings.toml", "prot"]);
    refused(&Launch::bare().file("tidings.toml", "port = ").with(&["serve"]).run(), &["tidings.toml"]);
    refused(&Launch::bare().with(&["serve"]).variable("TIDINGS_PORT", "x").run(), &["TIDINGS_PORT"]);
}

#[test]
fn settings_of_features_that_come_later_are_refused_wherever_they_are_said() {
    for name in [
        "database-options",
        "webhook-key",
        "maintenance-key",
        "read-only-master-key",
        "file-key",
        "revoke-session-on-password-reset",
        "idempotency-options.paths",
        "verify-user-emails",
        "tls-cert",
        "trust-proxy",
    ] {
        let variable = format!("TIDINGS_{}", name.replace('.', "__").replace('-', "_").to_uppercase());
        let words = [&*format!("--{name}"), "not supported"];
        refused(&Launch::bare().with(&["serve", &format!("--{name}"), "x"]).run(), &words);
        refused(&Launch::bare().with(&["serve"]).variable(&variable, "x").run(), &words);
        refused(&Launch::bare().with(&["serve"]).file("tidings.toml", &format!("{name} = \"x\"")).run(), &words);
    }
}

#[test]
fn production_wants_decisions() {
    let production = |arguments: &[&str]| {
        let basis = ["serve", "--port", "0", "--mode", "production"];
        Launch::bare().with(&basis).with(arguments).run()
    };
    refused(&production(&[]), &["--app-id"]);
    refused(&production(&["--app-id", "app"]), &["--master-key"]);
    refused(&production(&["--app-id", "app", "--master-key", "m"]), &["--live-query.class-names"]);
    let decided = ["--app-id", "app", "--master-key", "m", "--live-query.class-names", "Note"];
    refused(&production(&[&decided[..], &["--host", "0.0.0.0"]].concat()), &["--host", "TLS"]);
    refused(&Launch::bare().with(&["serve", "--port", "0", "--host", "0.0.0.0"]).run(), &["--host"]);
    let checked = Launch::bare().with(&["check", "--mode", "production"]).with(&decided).run();
    assert_eq!(checked.code, Some(0), "{checked:?}");
    refused(&Launch::bare().with(&["check", "--mode", "production"]).run(), &["--app-id"]);
}

#[tokio::test]
async fn production_does_not_let_clients_make_classes_and_shows_no_keys() {
    let server = Launch::plain().with(&["--mode", "production", "--live-query.class-names", "Note"]).start();
    server.nobody().post("/classes/Note", json!({"n": 1})).await.refused(400, 119);
    server.nobody().get("/classes/Note").await.refused(400, 119);
    server.master().create("Note", json!({"n": 1})).await;
    assert_eq!(server.nobody().get("/classes/Note").await.status, 200);
    assert_eq!(server.stdout().lines().count(), 1, "{}", server.stdout());
}

#[tokio::test]
async fn the_master_key_counts_only_from_where_it_may() {
    let server = Launch::plain().with(&["--master-key-ips", "10.0.0.1,10.0.0.2"]).start();
    let refusal = server.master().get("/schemas").await;
    refusal.refused(403, None);
    assert_eq!(members(&refusal.body), ["error"]);
    server.nobody().get("/classes/Note").await.ok();
    let server = Launch::plain().with(&["--master-key-ips", "10.0.0.1, 127.0.0.1"]).start();
    server.master().get("/schemas").await.ok();
}

#[tokio::test]
async fn limits_are_settings() {
    let limits = ["--default-limit", "2", "--max-limit", "3", "--max-upload-size", "4kb", "--batch-request-limit", "2"];
    let server = Launch::plain().with(&limits).start();
    let nobody = server.nobody();
    let id = nobody.create("Note", json!({})).await;
    for _ in 0..4 {
        nobody.create("Note", json!({})).await;
    }
    let count = async |client: &Client, limit: &str| client.find_by("Note", &[("limit", limit)]).await.len();
    assert_eq!(nobody.find("Note", json!({})).await.len(), 2);
    assert_eq!((count(&nobody, "100").await, count(&server.master(), "100").await), (3, 5));
    nobody.put(&format!("/classes/Note/{id}"), json!({"text": "x".repeat(5_000)})).await.refused(413, 107);
    let part = json!({"method": "POST", "path": "/parse/classes/Note", "body": {}});
    nobody.post("/batch", json!({"requests": [part, part, part]})).await.refused(400, 107);
}

#[tokio::test]
async fn json_logs_are_json() {
    let mut server = Launch::plain().with(&["--log-format", "json"]).start();
    server.terminate();
    assert!(server.wait().success());
    let log = server.stderr();
    assert!(!log.is_empty(), "stopping is worth a line");
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
    }
    let mut server = Launch::plain().start();
    server.terminate();
    assert!(server.wait().success());
    assert!(!server.stderr().contains('\u{1b}'), "colours are for terminals: {:?}", server.stderr());
}

#[tokio::test]
async fn one_data_folder_has_one_server() {
    if on_mongodb() {
        // Objects are not in the folder there, and any number of servers may share a database.
        return;
    }
    let mut server = Launch::plain().start();
    let data = server.folder().join("data").display().to_string();
    let id = server.nobody().create("Note", json!({})).await;
    let arguments = ["serve", "--port", "0", "--app-id", "app", "--master-key", "master", "--data-dir", &data];
    refused(&Launch::bare().with(&arguments).run(), &["data"]);
    server.nobody().fetch("Note", &id).await;
    server.assert_well().await;
    // A killed one holds nothing back.
    server.kill();
    let heir = Launch::bare().with(&arguments).start();
    heir.nobody().fetch("Note", &id).await;
}

#[tokio::test]
async fn one_port_has_one_server() {
    let server = Launch::plain().start();
    let port = server.port.to_string();
    refused(&Launch::bare().with(&["serve", "--port", &port]).run(), &["listen", &port]);
}

#[tokio::test]
async fn sigterm_lets_requests_finish_and_ends_with_0() {
    let mut server = Launch::plain().start();
    let nobody = server.nobody();
    let mut notes = nobody.subscribe("Note", json!({})).await;
    let body = br#"{"text":"half before, half after"}"#;
    let head = "POST /parse/classes/Note HTTP/1.1\r\nHost: x\r\nX-Parse-Application-Id: app\r\n";
    let mut raw = Raw::open(server.port).await;
    raw.send(format!("{head}Content-Length: {}\r\n\r\n", body.len()).as_bytes()).await;
    raw.send(&body[..10]).await;
    let mut idle = Raw::open(server.port).await;
    idle.send(b"GET /parse/health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(idle.status().await, 200);

    server.terminate();
    // The idle connection ends first: then the signal was heard.
    idle.rest().await;
    raw.send(&body[10..]).await;
    assert_eq!(raw.status().await, 201);
    notes.live.expect_closed().await;
    assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());

    server.start_again();
    let kept = nobody.reconnected().find("Note", json!({})).await;
    assert_eq!((kept.len(), &kept[0]["text"]), (1, &json!("half before, half after")));
    server.terminate();
    assert!(server.wait().success());
}

#[tokio::test]
async fn sigterm_does_not_wait_for_ever() {
    let mut server = Launch::plain().with(&["--drain-timeout", "1"]).start();
    let mut raw = Raw::open(server.port).await;
    raw.send(b"POST /parse/classes/Note HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{").await;
    server.terminate();
    let since = std::time::Instant::now();
    assert!(server.wait().success(), "{}", server.stderr());
    assert!(since.elapsed().as_secs() < 8, "{:?}", since.elapsed());
}
