//! The contract on the embedded store, and what is this store's alone: files, crashes, indexes built online, retention.

use super::view::View;
use super::{Embedded, EmbeddedOptions, OpenError};
use crate::changes::SourceError;
use crate::schema::FieldType;
use crate::storage::contract::*;
use crate::storage::{Action, Answer, Explanation, Guard, Membership, Refused, Selection, Storage, WriteError};
use fjall::Readable;
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tidings_protocol::{ClassName, ObjectId};

/// A folder of its own, gone with the test.
struct Folder(TempDir);

impl Stores for Folder {
    fn open(&self) -> Answer<Arc<dyn Storage>> {
        let store: Arc<dyn Storage> = open(self.0.path());
        Box::pin(std::future::ready(store))
    }

    fn have_one_queue(&self) -> bool {
        true
    }
}

fn folder() -> Folder {
    Folder(tempfile::tempdir().unwrap())
}

fn open(folder: &Path) -> Arc<Embedded> {
    Embedded::open(folder, EmbeddedOptions::default()).unwrap()
}

storage_contract!(folder());

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

async fn explain(store: &dyn Storage, selection: &Selection) -> Explanation {
    store.snapshot().await.unwrap().explain(selection).await.unwrap()
}

/// Waits for what the store does by itself.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn class() -> ClassName {
    ClassName::from_trusted("Message")
}

/// So many objects with `n`, and a pointer to one of ten conversations.
async fn fill(store: &dyn Storage, count: usize) {
    let mut answers = Vec::new();
    for n in 0..count {
        let json =
            format!(r#"{{"n":{n},"p":{{"__type":"Pointer","className":"C","objectId":"c{}"}},"gone":"x{n}"}}"#, n % 10);
        answers.push(store.commit(vec![create_at(&class(), &format!("o{n:06}"), n as i64, &json)]));
    }
    for answer in answers {
        answer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_cannot_open_one_folder() {
    let folder = folder();
    let store = open(folder.0.path());
    let refused = Embedded::open(folder.0.path(), EmbeddedOptions::default()).err().unwrap();
    assert_eq!(refused, OpenError::InUse(folder.0.path().to_owned()));
    assert!(refused.to_string().contains("in use by another process"));
    drop(store);
    open(folder.0.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lost_acknowledged_commits_is_not_opened() {
    let (folder, older) = (folder(), tempfile::tempdir().unwrap());
    let store = open(folder.0.path());
    fill(&*store, 10).await;
    drop(store);
    copy(&folder.0.path().join("store"), older.path());
    let store = open(folder.0.path());
    done(&*store, create(&class(), "new", "{}")).await;
    store.close().await;
    drop(store);
    std::fs::remove_dir_all(folder.0.path().join("store")).unwrap();
    copy(older.path(), &folder.0.path().join("store"));
    match Embedded::open(folder.0.path(), EmbeddedOptions::default()).err().unwrap() {
        lost @ OpenError::Lost { found: 11, acknowledged: 12, .. } => {
            assert!(lost.to_string().contains("Restore the folder from a backup"), "{lost}");
        }
        other => panic!("{other:?}"),
    }
    // Nor is one of which nothing is left.
    std::fs::remove_dir_all(folder.0.path().join("store")).unwrap();
    let refused = Embedded::open(folder.0.path(), EmbeddedOptions::default()).err().unwrap();
    assert!(matches!(refused, OpenError::Lost { found: 0, .. }), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_damaged_in_the_middle_is_noticed() {
    let folder = folder();
    let store = open(folder.0.path());
    fill(&*store, 200).await;
    store.close().await;
    drop(store);
    let journals = std::fs::read_dir(folder.0.path().join("store")).unwrap().map(|entry| entry.unwrap().path());
    let journal = journals.max_by_key(|path| path.extension().is_some_and(|extension| extension == "jnl")).unwrap();
    let whole = std::fs::read(&journal).unwrap();
    let written = whole.iter().rposition(|byte| *byte != 0).unwrap();
    let mut refused = 0;
    for part in 1..16 {
        let damaged = tempfile::tempdir().unwrap();
        copy(folder.0.path(), damaged.path());
        let mut bytes = whole.clone();
        bytes[written * part / 16] ^= 0x55;
        std::fs::write(damaged.path().join("store").join(journal.file_name().unwrap()), bytes).unwrap();
        match Embedded::open(damaged.path(), EmbeddedOptions::default()) {
            Err(OpenError::Lost { .. } | OpenError::Damaged { .. }) => refused += 1,
            Err(other) => panic!("{part}: {other:?}"),
            // Some bytes of the journal say what others say too: then nothing is lost.
            Ok(store) => {
                let view = store.shared.view();
                assert_eq!(view.published.count(view.class(&class()).unwrap()), 200, "{part}");
                agrees(&view).await;
            }
        }
    }
    assert!(refused > 8, "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_mark_a_store_starts_a_new_timeline() {
    let folder = folder();
    let store = open(folder.0.path());
    fill(&*store, 3).await;
    let before = store.snapshot().await.unwrap().cursor();
    drop(store);
    let mark = folder.0.path().join("high-water");
    std::fs::write(&mark, "rubbish").unwrap();
    let refused = Embedded::open(folder.0.path(), EmbeddedOptions::default()).err().unwrap();
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused:?}");
    std::fs::remove_file(&mark).unwrap();
    let store = open(folder.0.path());
    let after = store.snapshot().await.unwrap().cursor();
    assert_ne!(after.timeline, before.timeline);
    assert_eq!(after.position, before.position);
    // The mark of one store does not speak for another.
    drop(store);
    let other = tempfile::tempdir().unwrap();
    drop(open(other.path()));
    std::fs::copy(other.path().join("high-water"), &mark).unwrap();
    let refused = Embedded::open(folder.0.path(), EmbeddedOptions::default()).err().unwrap();
    assert!(matches!(refused, OpenError::Foreign { .. }), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_format_is_not_opened() {
    let folder = folder();
    let store = open(folder.0.path());
    store.shared.files.keyspaces.meta.insert(super::catalog::FORMAT, [99]).unwrap();
    drop(store);
    let refused = Embedded::open(folder.0.path(), EmbeddedOptions::default()).err().unwrap();
    assert!(refused.to_string().contains("use the newer program"), "{refused}");
}

/// Not a test by itself: the process that the next one kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os("TIDINGS_TEST_CHILD_STORE") else { return };
    // Small, so that files are written and merged all the time.
    let options = EmbeddedOptions { memtable_bytes: 128 << 10, ..EmbeddedOptions::default() };
    let store = Embedded::open(Path::new(&folder), options).unwrap();
    let first = store.snapshot().await.unwrap().cursor().position;
    let writers = (0..16).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0.. {
                let id = format!("k{first}x{writer}x{n}");
                let pointer = r#""p":{"__type":"Pointer","className":"C","objectId":"c1"}"#;
                let twin = format!("{id}twin");
                let json = format!(r#"{{"twin":"{twin}",{pointer}}}"#);
                let writes = vec![
                    create(&class(), &id, &json),
                    create(&class(), &twin, &json),
                    update(&class(), &id, r#"{"n":{"__op":"Increment","amount":1}}"#),
                ];
                store.commit(writes).await.unwrap();
                if n % 3 == 0 && n > 0 {
                    let earlier = format!("k{first}x{writer}x{}twin", n - 1);
                    done(&*store, delete(&class(), &earlier)).await;
                }
                let mut out = std::io::stdout().lock();
                writeln!(out, "acknowledged {id}").unwrap();
                out.flush().unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_killing_the_process() {
    let folder = folder();
    let mut acknowledged = HashSet::new();
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "storage::embedded::tests::child_that_writes_until_it_is_killed", "--nocapture"])
            .env("TIDINGS_TEST_CHILD_STORE", folder.0.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines.map_while(Result::ok) {
            // Lines after the signal were still acknowledged before it.
            if let Some((_, id)) = line.split_once("acknowledged ") {
                acknowledged.insert(id.to_owned());
                seen += 1;
                if seen == 150 + round * 70 {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        let store = open(folder.0.path());
        let snapshot = store.snapshot().await.unwrap();
        for id in &acknowledged {
            let object = snapshot.get(&class(), &ObjectId::new(id.as_str())).await.unwrap();
            let fields = object.unwrap_or_else(|| panic!("{id} is lost")).fields.clone();
            assert!(fields.contains("twin") && fields.contains("n"), "{id} is not whole");
        }
        agrees(&store.shared.view()).await;
    }
}

/// Every index, count and id of the class says what its rows say.
async fn agrees(view: &View) {
    let state = view.class(&class()).unwrap().clone();
    let mut rows = super::scan::Rows::new(view, &state, 0);
    let (mut count, mut entries) = (0, HashSet::new());
    while let Some((sequence, object)) = rows.next().unwrap() {
        count += 1;
        assert_eq!(view.row(&state, &object.id).unwrap(), Some((sequence, object.clone())));
        for index in state.indexes.iter().filter(|index| index.building.is_none()) {
            entries.extend(index.entries(&object, sequence).into_iter().map(|(key, value)| (key, value.to_bytes())));
        }
    }
    assert_eq!(view.published.count(&state), count);
    let prefixes = state.indexes.iter().filter(|index| index.building.is_none()).map(|index| index.prefix());
    let mut on_disk = HashSet::new();
    for prefix in prefixes {
        for item in view.published.disk.prefix(&view.files.keyspaces.indexes, prefix) {
            let (key, value) = item.into_inner().unwrap();
            on_disk.insert((key.to_vec(), <[u8; 10]>::try_from(&*value).unwrap()));
        }
    }
    assert!(on_disk == entries, "{} entries on disk, {} expected", on_disk.len(), entries.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_is_built_while_the_store_is_used() {
    let folder = folder();
    let store = open(folder.0.path());
    fill(&*store, 4_000).await;
    store.edit_schema(edit_index(&class(), "by_n", r#"{"n":1}"#)).await.unwrap();
    let wanted = select(&class(), r#"{"n":{"$gte":100,"$lt":110}}"#, "n");
    assert_eq!(find(&*store, &wanted).await.len(), 10, "while it is built, others answer");
    // Rows change behind and before the builder.
    for n in 0..400 {
        let id = format!("o{:06}", n * 10);
        match n % 3 {
            0 => drop(done(&*store, update(&class(), &id, r#"{"n":105.5}"#)).await),
            1 => drop(done(&*store, delete(&class(), &id)).await),
            _ => drop(done(&*store, create(&class(), &format!("new{n}"), r#"{"n":-1}"#)).await),
        }
        if n == 50 {
            assert!(!find(&*store, &wanted).await.is_empty());
        }
    }
    eventually("the index is used", async || explain(&*store, &wanted).await.index == ["n"]).await;
    agrees(&store.shared.view()).await;
    assert_eq!(find(&*store, &wanted).await.len(), 10 - 1 + 134, "one of three in ten was changed");
    store.edit_schema(edit_index(&class(), "by_n", "")).await.unwrap();
    assert_ne!(explain(&*store, &wanted).await.index, ["n"]);
    eventually("its entries are gone", async || {
        let view = store.shared.view();
        let all = view.published.disk.iter(&view.files.keyspaces.indexes).count();
        let state = view.class(&class()).unwrap().clone();
        let prefixes = state.indexes.iter().map(|index| index.prefix());
        let owned = prefixes.map(|prefix| view.published.disk.prefix(&view.files.keyspaces.indexes, prefix).count());
        all == owned.sum::<usize>()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rows_of_a_removed_relation_are_taken_out_also_after_a_restart() {
    let folder = folder();
    let mut store = open(folder.0.path());
    let (owner, relation) = (class(), ClassName::of_relation("members", &class()));
    let field = [("members", FieldType::Relation(class()))];
    done(&*store, create(&owner, "a", "{}")).await;
    store.edit_schema(edit_fields(&owner, &field, &[])).await.unwrap();
    let join = |n: usize| {
        let membership = Membership { owner: ObjectId::new("a"), related: ObjectId::new(n.to_string()) };
        let id = membership.id();
        crate::storage::Write {
            class: relation.clone(),
            id,
            action: Action::Join(membership),
            guard: Guard::default(),
            fields: Vec::new(),
        }
    };
    for thousand in 0..6 {
        store.commit((0..1_000).map(|n| join(thousand * 1_000 + n)).collect()).await.unwrap();
    }
    store.edit_schema(edit_fields(&owner, &[], &["members"])).await.unwrap();
    assert_eq!(find(&*store, &select(&relation, "{}", "")).await.len(), 0);
    store.close().await;
    drop(store);
    store = open(folder.0.path());
    eventually("nothing is left", async || {
        let view = store.shared.view();
        let (disk, keyspaces) = (&view.published.disk, &view.files.keyspaces);
        disk.iter(&keyspaces.rows).count() == 1 && disk.iter(&keyspaces.ids).count() == 1
    })
    .await;
    agrees(&store.shared.view()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_in_the_background_survives_a_restart() {
    let folder = folder();
    let mut store = open(folder.0.path());
    fill(&*store, 6_000).await;
    store.edit_schema(edit_index(&class(), "by_n", r#"{"n":-1,"createdAt":1}"#)).await.unwrap();
    store.edit_schema(edit_fields(&class(), &[], &["gone"])).await.unwrap();
    let mut interrupted = 0;
    for _ in 0..30 {
        interrupted += usize::from(store.shared.view().class(&class()).unwrap().has_work());
        store.close().await;
        drop(store);
        store = open(folder.0.path());
        done(&*store, update(&class(), "o000003", r#"{"n":{"__op":"Increment","amount":1}}"#)).await;
    }
    assert!(interrupted > 0, "the test did not interrupt anything");
    eventually("all is done", async || !store.shared.view().class(&class()).unwrap().has_work()).await;
    let view = store.shared.view();
    agrees(&view).await;
    let state = view.class(&class()).unwrap().clone();
    let mut rows = super::scan::Rows::new(&view, &state, 0);
    while let Some((_, bytes)) = rows.next_bytes().unwrap() {
        assert!(!bytes.windows(5).any(|window| window == b"gone\0"), "a removed field is still on disk");
    }
    let newest = Selection { limit: 2, ..select(&class(), r#"{"n":{"$gt":0}}"#, "-n,createdAt") };
    assert_eq!(explain(&*store, &newest).await.index, ["n", "createdAt"]);
    assert_eq!(find(&*store, &newest).await[0].id.as_str(), "o005999");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_changes_are_forgotten() {
    let folder = folder();
    let options =
        || EmbeddedOptions { retention_bytes: 200_000, memtable_bytes: 64 << 10, ..EmbeddedOptions::default() };
    let store = Embedded::open(folder.0.path(), options()).unwrap();
    fill(&*store, 5_000).await;
    let source = store.change_source();
    eventually("the beginning is gone", async || source.read_after(0, 1).await == Err(SourceError::Gone)).await;
    eventually("only what fits is kept", async || {
        let view = store.shared.view();
        let kept = super::keys::change(view.published.floor + 1)..;
        let kept =
            view.published.disk.range(&view.files.keyspaces.changes, kept).map(|item| item.into_inner().unwrap());
        kept.map(|(_, record)| record.len()).sum::<usize>() < 250_000
    })
    .await;
    // Files go as a whole, once newer ones follow.
    let text = "x".repeat(500);
    eventually("the files of the others are gone", async || {
        let changes = (0..100).map(|n| update(&class(), "o000001", &format!(r#"{{"text":"{text}{n}"}}"#)));
        store.commit(changes.collect()).await.unwrap();
        let view = store.shared.view();
        let kept = view.published.disk.iter(&view.files.keyspaces.changes).map(|item| item.into_inner().unwrap());
        kept.map(|(_, record)| record.len()).sum::<usize>() < 900_000
    })
    .await;
    let newest = store.snapshot().await.unwrap().cursor().position;
    let recent = source.read_after(newest - 100, usize::MAX).await.unwrap();
    assert_eq!(recent.len(), 100);
    let floor = store.shared.published.load().floor;
    assert_eq!(source.read_after(floor, 1).await.unwrap()[0].position, floor + 1);
    assert_eq!(source.read_after(floor - 1, 1).await, Err(SourceError::Gone));
    drop((source, store));
    let store = Embedded::open(folder.0.path(), options()).unwrap();
    assert_eq!(store.snapshot().await.unwrap().cursor().position, newest);
    assert!(store.shared.published.load().floor >= floor);
    drop(store);
    // By age, everything goes but the newest, which says how far the store has come.
    let options = EmbeddedOptions { retention_age: Duration::ZERO, ..options() };
    let store = Embedded::open(folder.0.path(), options).unwrap();
    eventually("all old changes are gone", async || store.shared.published.load().floor + 1 == newest).await;
    drop(store);
    assert_eq!(open(folder.0.path()).snapshot().await.unwrap().cursor().position, newest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_write_only_reads_go_on() {
    let folder = folder();
    let store = open(folder.0.path());
    done(&*store, create(&class(), "a", r#"{"n":1}"#)).await;
    store.shared.stop(&fjall::Error::Poisoned);
    for _ in 0..2 {
        let refused = store.commit(vec![create(&class(), "b", "{}")]).await;
        assert!(matches!(refused, Err(Refused { error: WriteError::Unavailable(_), .. })), "{refused:?}");
        let refused = store.edit_schema(edit_fields(&class(), &[], &["n"])).await;
        assert!(matches!(refused, Err(WriteError::Unavailable(_))), "{refused:?}");
    }
    assert!(get(&*store, &class(), "a").await.is_some());
    assert!(get(&*store, &class(), "b").await.is_none());
    assert!(store.schemas()[&class()].field_type("n").is_some());
    drop(store);
    let store = open(folder.0.path());
    assert!(get(&*store, &class(), "a").await.is_some() && get(&*store, &class(), "b").await.is_none());
}

/// The fields of an object of 720 KB that cannot be compressed.
fn large() -> String {
    let text: String = (0..90_000).map(|_| format!("{:08x}", rand::random::<u32>())).collect();
    format!(r#"{{"text":"{text}"}}"#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_stays_short() {
    let folder = folder();
    let store = open(folder.0.path());
    let large = large();
    // Ids and indexes gather next to nothing, rows and changes less than fills their memory.
    for n in 0..55 {
        done(&*store, create(&class(), &format!("o{n}"), &large)).await;
    }
    let journal = || (store.shared.db.journal_count(), store.shared.db.journal_disk_space().unwrap());
    eventually("the first journal is gone", async || {
        let (count, bytes) = journal();
        count == 1 && bytes < 70 << 20
    })
    .await;
    drop(store);
    let store = open(folder.0.path());
    assert_eq!(store.snapshot().await.unwrap().count(&select(&class(), "{}", "")).await.unwrap(), 55);
}

/// Not a test by itself: the process whose files may not grow any further.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_writes_until_the_disk_refuses() {
    let Some(folder) = std::env::var_os("TIDINGS_TEST_CHILD_FULL") else { return };
    // Nothing is flushed, so that it is the journal that grows.
    let options = EmbeddedOptions { memtable_bytes: 1 << 30, ..EmbeddedOptions::default() };
    let store = Embedded::open(Path::new(&folder), options).unwrap();
    let large = large();
    let mut acknowledged = 0;
    let refused = loop {
        let write = create(&class(), &format!("o{acknowledged}"), &large);
        match store.commit(vec![write]).await {
            Ok(_) => acknowledged += 1,
            Err(refused) => break refused.error,
        }
        assert!(acknowledged < 1_000, "the limit on file sizes is not in force");
    };
    assert!(matches!(refused, WriteError::Unavailable(_)), "{refused:?}");
    let refused = store.commit(vec![create(&class(), "small", "{}")]).await;
    assert!(matches!(refused, Err(Refused { error: WriteError::Unavailable(_), .. })), "{refused:?}");
    for n in 0..acknowledged {
        assert!(get(&*store, &class(), &format!("o{n}")).await.is_some());
    }
    assert!(get(&*store, &class(), &format!("o{acknowledged}")).await.is_none());
    writeln!(std::io::stdout().lock(), "acknowledged {acknowledged}").unwrap();
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_refuses_stops_writing_but_not_reading() {
    let folder = folder();
    // An ignored signal stays ignored in the test program, and the write fails instead.
    let limited = r#"trap '' XFSZ; ulimit -f 140000; exec "$0" "$@""#;
    let child = Command::new("sh")
        .args(["-c", limited])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "storage::embedded::tests::child_that_writes_until_the_disk_refuses", "--nocapture"])
        .env("TIDINGS_TEST_CHILD_FULL", folder.0.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(child.status.success(), "{told}{}", String::from_utf8_lossy(&child.stderr));
    let (_, acknowledged) = told.split_once("acknowledged ").unwrap();
    let acknowledged: usize = acknowledged.split_whitespace().next().unwrap().parse().unwrap();
    let store = open(folder.0.path());
    assert!(acknowledged > 10);
    for n in 0..acknowledged {
        assert!(get(&*store, &class(), &format!("o{n}")).await.is_some());
    }
    done(&*store, create(&class(), "afterwards", "{}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_of_commits_is_bounded() {
    let folder = folder();
    let options = EmbeddedOptions { waiting_commits: 10, ..EmbeddedOptions::default() };
    let store = Embedded::open(folder.0.path(), options).unwrap();
    let answers: Vec<_> = (0..500).map(|n| store.commit(vec![create(&class(), &format!("o{n}"), "{}")])).collect();
    let (mut made, mut refused) = (0, 0);
    for answer in answers {
        match answer.await {
            Ok(_) => made += 1,
            Err(Refused { error: WriteError::Unavailable(_), .. }) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(made >= 10 && refused > 0);
    assert_eq!(store.snapshot().await.unwrap().count(&select(&class(), "{}", "")).await.unwrap(), made);
    done(&*store, create(&class(), "afterwards", "{}")).await;
}

#[tokio::test]
async fn long_reads_work_on_a_runtime_of_one_thread() {
    let folder = folder();
    let store = open(folder.0.path());
    fill(&*store, 3_000).await;
    assert_eq!(find(&*store, &select(&class(), r#"{"n":{"$gte":0}}"#, "-n")).await.len(), 3_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_does_not_pay_is_left_for_a_scan() {
    let folder = folder();
    let store = open(folder.0.path());
    fill(&*store, 6_000).await;
    let rare = Selection { limit: 1, ..select(&class(), r#"{"gone":"x10"}"#, "-createdAt") };
    let explanation = explain(&*store, &rare).await;
    assert_eq!((explanation.index.len(), explanation.returned), (0, 1), "{explanation:?}");
    let common = Selection { limit: 1, ..select(&class(), r#"{"n":{"$gt":5000}}"#, "-createdAt") };
    let explanation = explain(&*store, &common).await;
    assert_eq!((explanation.index.len(), explanation.examined), (1, 1), "{explanation:?}");
    let all = select(&class(), r#"{"createdAt":{"$gt":{"__type":"Date","iso":"1970-01-01T00:00:00.000Z"}}}"#, "");
    assert_eq!(explain(&*store, &all).await.index.len(), 0);
    assert_eq!(find(&*store, &all).await.len(), 5_999);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn system_classes_keep_names_unique_from_the_beginning() {
    let folder = folder();
    let store = open(folder.0.path());
    done(&*store, create(&ClassName::USER, "a", r#"{"username":"Alice","email":"a@x.org"}"#)).await;
    let by_name = select(&ClassName::USER, r#"{"username":"Alice"}"#, "");
    let explanation = explain(&*store, &by_name).await;
    assert_eq!((explanation.index, explanation.examined), (vec!["username".into()], 1));
    assert_eq!(find(&*store, &by_name).await.len(), 1);
    assert!(find(&*store, &select(&ClassName::USER, r#"{"username":"alice"}"#, "")).await.is_empty());
}
