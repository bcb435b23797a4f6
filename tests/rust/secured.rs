//! On a MongoDB that asks for TLS and a password: what its user needs, and what is said where something lacks. Skipped
//! where `TIDINGS_TEST_MONGOD` names no program.

use crate::harness::process::{self, Mongod};
use crate::harness::{Launch, json, mongod, refused, set};
use mongodb::bson::{Document, doc};
use mongodb::options::ClientOptions;
use mongodb::{Client, Database};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::os::unix::fs::OpenOptionsExt;
use tempfile::TempDir;

/// In need of escapes, so that these are tried, too.
const PASSWORD: &str = "p@ss/word";
const ESCAPED: &str = "p%40ss%2Fword";

/// A set of one with TLS, keys and users.
struct Secured {
    mongod: Mongod,
    /// Certificates and keys.
    folder: TempDir,
}

impl Secured {
    async fn start() -> Option<Self> {
        let program = mongod()?;
        let folder = tempfile::Builder::new().prefix("tidings-tls-").tempdir().unwrap();
        let issuer = authority("The tests' authority");
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            // MongoDB takes no key that others can read.
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
            std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let known = file("known.pem", &issuer.pem());
        file("unknown.pem", &authority("Somebody else").pem());
        let server = file("server.pem", &format!("{}{}", certificate.pem(), key.serialize_pem()));
        let members = file("members.key", &"key".repeat(20));
        let tls = ["--tlsMode", "requireTLS", "--tlsCAFile", &known, "--tlsCertificateKeyFile", &server];
        let more = ["--tlsAllowConnectionsWithoutCertificates", "--auth", "--keyFile", &members];
        let mongod = process::start(&program, Some(set::SET), &[&tls[..], &more].concat()).unwrap();
        let secured = Self { mongod, folder };
        set::initiate(&[secured.mongod.port], &secured.tls("known.pem")).await.unwrap();
        // Whoever comes from this machine may make the first user.
        let nobody = client(&set::url(&[secured.mongod.port], "admin", &secured.tls("known.pem"))).await;
        nobody.run_command(doc! { "createUser": "root", "pwd": PASSWORD, "roles": ["root"] }).await.unwrap();
        Some(secured)
    }

    fn tls(&self, authority: &str) -> String {
        let Self { folder, .. } = self;
        format!("&tls=true&tlsCAFile={}", folder.path().join(authority).to_str().unwrap())
    }

    /// The database `app`, as this user.
    fn url(&self, user: &str, password: &str, authority: &str) -> String {
        let options = format!("{}&authSource=admin", self.tls(authority));
        set::url(&[self.mongod.port], "app", &options).replace("://", &format!("://{user}:{password}@"))
    }

    /// A user who has this role, there and nowhere else.
    async fn user(&self, name: &str, role: &str) -> String {
        let roles = [doc! { "role": role, "db": "app" }];
        let create = doc! { "createUser": name, "pwd": PASSWORD, "roles": roles.as_slice() };
        let admin = client(&self.url("root", ESCAPED, "known.pem")).await.client().database("admin");
        admin.run_command(create).await.unwrap();
        self.url(name, ESCAPED, "known.pem")
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

async fn client(url: &str) -> Database {
    let client = Client::with_options(ClientOptions::parse(url).await.unwrap()).unwrap();
    client.default_database().unwrap()
}

fn on(url: &str) -> Launch {
    Launch::plain().with(&["--database-url", url])
}

#[tokio::test]
async fn who_may_read_and_write_serves_a_database_of_its_own() {
    let Some(secured) = Secured::start().await else { return };
    let url = secured.user("app", "readWrite").await;
    let mut server = on(&url).start();
    for start in 0..2 {
        let user = server.sign_up("user").await;
        let mut notes = user.subscribe("Note", json!({"n": {"$gt": 0}})).await;
        let id = user.create("Note", json!({"n": 1})).await;
        notes.expect("create", &id).await;
        user.update("Note", &id, json!({"n": {"__op": "Increment", "amount": 1}})).await;
        notes.expect("update", &id).await;
        user.destroy("Note", &id).await;
        notes.expect("delete", &id).await;
        server.master().delete("/schemas/Note").await.ok();
        let said = server.stdout() + &server.stderr();
        assert!(!said.contains("WARN") && !said.contains("ERROR"), "in start {start}: {said}");
        assert!(!said.contains(PASSWORD) && !said.contains(ESCAPED), "{said}");
        server.kill();
        server.start_again();
    }
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why() {
    let Some(secured) = Secured::start().await else { return };
    let reader = secured.user("reader", "read").await;
    let wrong = secured.url("reader", "wrong-password", "known.pem");
    // Nobody knows whether an authority will be known later, so it is tried for a while.
    let unknown = secured.url("reader", ESCAPED, "unknown.pem") + "&serverSelectionTimeoutMS=2000";
    let missing = secured.url("reader", ESCAPED, "missing.pem");
    let unescaped = secured.url("reader", PASSWORD, "known.pem");
    for (url, words) in [
        (reader, &["the database cannot be used", "not authorized on app"][..]),
        (wrong, &["the database cannot be used", "Authentication failed"]),
        (unknown, &["the database cannot be used", "certificate"]),
        (missing, &["the database cannot be used", "missing.pem"]),
        (unescaped, &["--database-url"]),
    ] {
        let ended = on(&url).run();
        refused(&ended, words);
        for password in [PASSWORD, ESCAPED, "wrong-password", "ss/word"] {
            assert!(!ended.stderr.contains(password), "{ended:?}");
        }
        assert!(ended.stderr.lines().count() <= 3 && ended.stderr.len() < 1_000, "{ended:?}");
    }
}

#[tokio::test]
async fn without_images_live_queries_begin_afresh() {
    let Some(secured) = Secured::start().await else { return };
    let url = secured.user("app", "readWrite").await;
    // As another program makes a class: without images. To switch them on takes a right that `readWrite` lacks.
    let database = client(&url).await;
    let class = doc! { "_id": "Note", "objectId": "string", "n": "number" };
    database.collection::<Document>("_SCHEMA").insert_one(class).await.unwrap();
    database.create_collection("Note").await.unwrap();

    let server = on(&url).start();
    for word in ["WARN", "Note", "collMod", "fresh results instead of events"] {
        assert!(server.stderr().contains(word), "no {word} in {}", server.stderr());
    }
    let nobody = server.nobody();
    let mut notes = nobody.subscribe("Note", json!({"n": {"$gt": 0}})).await;
    let id = nobody.create("Note", json!({"n": 1})).await;
    notes.expect("create", &id).await;
    for (n, found) in [(2, 1), (0, 0), (3, 1)] {
        nobody.update("Note", &id, json!({"n": n})).await;
        let (results, _) = notes.live.expect_resync(1).await;
        assert_eq!(results.len(), found, "{results:?}");
        assert!(results.iter().all(|note| note["n"] == n), "{results:?}");
    }
    nobody.destroy("Note", &id).await;
    assert!(notes.live.expect_resync(1).await.0.is_empty());

    // Whoever has the right switches them on, once.
    drop(server);
    let server = on(&secured.user("owner", "dbOwner").await).start();
    assert!(!server.stderr().contains("WARN"), "{}", server.stderr());
    let nobody = server.nobody();
    let mut notes = nobody.subscribe("Note", json!({"n": {"$gt": 0}})).await;
    let id = nobody.create("Note", json!({"n": 1})).await;
    notes.expect("create", &id).await;
    nobody.update("Note", &id, json!({"n": 0})).await;
    notes.expect("leave", &id).await;
}
