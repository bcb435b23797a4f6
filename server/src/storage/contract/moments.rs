//! Snapshots, changes and cursors: what is of one moment, and what comes after it.

use super::*;

pub async fn a_snapshot_stays_as_it_is(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Snapshot");
    done(&*store, create(&class, "a", r#"{"n":1}"#)).await;
    done(&*store, create(&class, "b", r#"{"n":1}"#)).await;
    let snapshot = store.snapshot().await.unwrap();
    let cursor = snapshot.cursor();
    for _ in 0..3 {
        done(&*store, update(&class, "a", r#"{"n":{"__op":"Increment","amount":1}}"#)).await;
    }
    done(&*store, delete(&class, "b")).await;
    done(&*store, create(&class, "c", r#"{"n":1}"#)).await;
    // Read by others, so that whatever is cached is new.
    assert_eq!(json(&*store, &class, "a").await, r#"{"n":4}"#);
    for _ in 0..2 {
        assert_eq!(snapshot.get(&class, &id("a")).await.unwrap().unwrap().fields.to_json(), r#"{"n":1}"#);
        assert!(snapshot.get(&class, &id("b")).await.unwrap().is_some());
        assert!(snapshot.get(&class, &id("c")).await.unwrap().is_none());
        for order in ["", "createdAt", "-updatedAt"] {
            let all = snapshot.find(&select(&class, r#"{"n":1}"#, order)).await.unwrap();
            assert_eq!(ids(&all), "a b", "{order}");
        }
        assert_eq!(snapshot.count(&select(&class, "{}", "")).await.unwrap(), 2);
        assert_eq!(snapshot.distinct(&select(&class, "{}", ""), "n").await.unwrap(), Some(vec![Value::Number(1.0)]));
    }
    assert_eq!(snapshot.cursor(), cursor);
    assert_eq!(json(&*store, &class, "a").await, r#"{"n":4}"#);
    // A snapshot that begins with them is of the moment that they are of.
    let snapshot = store.snapshot().await.unwrap();
    let numbers = async || snapshot.distinct(&select(&class, "{}", ""), "n").await.unwrap();
    assert_eq!(numbers().await, Some(vec![Value::Number(1.0), Value::Number(4.0)]));
    done(&*store, create(&class, "d", r#"{"n":5}"#)).await;
    assert_eq!(numbers().await, Some(vec![Value::Number(1.0), Value::Number(4.0)]));
    assert_eq!(snapshot.count(&select(&class, "{}", "")).await.unwrap(), 2);
}

/// Whatever is asked first of a class that nobody has made, and what second.
pub async fn what_is_not_there_is_read_as_of_a_moment(stores: &dyn Stores) {
    let store = stores.open().await;
    let (class, other) = (fresh_class("Never"), fresh_class("There"));
    let written = done(&*store, create(&other, "a", r#"{"n":1}"#)).await;
    for first in ["get", "find", "count", "distinct", "cursor"] {
        let snapshot = store.snapshot().await.unwrap();
        let all = select(&class, "{}", "");
        for asked in [first, "find", "count", "get", "distinct", "cursor"] {
            match asked {
                "get" => assert_eq!(snapshot.get(&class, &id("a")).await.unwrap(), None),
                "find" => assert!(snapshot.find(&all).await.unwrap().is_empty()),
                "count" => assert_eq!(snapshot.count(&all).await.unwrap(), 0),
                "distinct" => assert_eq!(snapshot.distinct(&all, "n").await.unwrap(), Some(Vec::new())),
                _ => assert!(snapshot.cursor().position >= written.cursor.position),
            }
        }
        assert!(snapshot.get(&other, &id("a")).await.unwrap().is_some(), "asked {first} first");
    }
}

pub async fn a_class_is_read_while_it_is_made(stores: &dyn Stores) {
    let store = stores.open().await;
    for _ in 0..20 {
        let class = fresh_class("Begun");
        let made = store.commit(vec![create(&class, "a", r#"{"n":1}"#)]);
        let mut is_there = false;
        while !is_there {
            let snapshot = store.snapshot().await.unwrap();
            is_there = snapshot.get(&class, &id("a")).await.unwrap().is_some();
            let all = store.snapshot().await.unwrap().find(&select(&class, "{}", "")).await.unwrap();
            assert!(all.len() == 1 || !is_there);
        }
        made.await.unwrap();
    }
}

/// Several objects always hold the same number: whoever sees two numbers saw half a commit, or a stale cache.
pub async fn a_commit_is_seen_whole(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Whole");
    let all = ["a", "b", "c", "d", "e"];
    let tags = r#"{"p":{"__type":"Pointer","className":"C","objectId":"c"},"n":0}"#;
    store.commit(all.map(|id| create(&class, id, tags)).to_vec()).await.unwrap();
    let rounds = 400;
    let writer = {
        let (store, class) = (store.clone(), class.clone());
        tokio::spawn(async move {
            for n in 1..=rounds {
                let write = |id| update_at(&class, id, 2_000 + n, &format!(r#"{{"n":{n}}}"#));
                let mut writes = all.map(write).to_vec();
                if n % 3 == 0 {
                    writes.extend([delete(&class, "e"), create(&class, "e", &tags.replace(":0", &format!(":{n}")))]);
                }
                store.commit(writes).await.unwrap();
            }
        })
    };
    let readers = (0..4).map(|reader| {
        let (store, class) = (store.clone(), class.clone());
        tokio::spawn(async move {
            let mut last = 0.0;
            while last < rounds as f64 {
                let snapshot = store.snapshot().await.unwrap();
                let order = ["", "-updatedAt", "createdAt", "n"][reader];
                let found = match reader {
                    3 => {
                        let mut found = Vec::new();
                        for id in all {
                            found.extend(snapshot.get(&class, &ObjectId::new(id)).await.unwrap());
                        }
                        found
                    }
                    _ => snapshot.find(&select(&class, "{}", order)).await.unwrap(),
                };
                assert_eq!(found.len(), all.len());
                let numbers: Vec<_> = found.iter().filter_map(|object| object.fields.get("n")?.as_number()).collect();
                assert!(numbers.iter().all(|number| *number == numbers[0]), "{numbers:?}");
                assert!(numbers[0] >= last, "time does not go back");
                last = numbers[0];
                tokio::task::yield_now().await;
            }
        })
    });
    for task in readers.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    writer.await.unwrap();
}

pub async fn changes_are_what_was_committed(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Changes");
    done(&*store, create(&class, "first", r#"{"n":0}"#)).await;
    let before = position(&*store).await;
    let mut written = Vec::new();
    for n in 0..20 {
        written.push(done(&*store, create(&class, &format!("o{n}"), r#"{"n":1}"#)).await);
        written.push(done(&*store, update(&class, &format!("o{n}"), r#"{"n":2}"#)).await);
        written.push(done(&*store, delete(&class, &format!("o{n}"))).await);
    }
    let changes = changes_of(&*store, &class, before).await;
    assert_eq!(changes.len(), written.len());
    for (change, written) in changes.iter().zip(&written) {
        assert_eq!(change.position, written.cursor.position);
        let change = object_change(change).unwrap();
        assert_eq!((&change.before, &change.after), (&written.before, &written.after));
        let image = change.after.as_ref().or(change.before.as_ref()).unwrap();
        assert_eq!((&change.class, &change.id), (&class, &image.id));
    }
    assert!(store.change_source().read_after(position(&*store).await, 1_000).await.unwrap().is_empty());
}

pub async fn changes_hide_internal_fields(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Hidden");
    let before = position(&*store).await;
    done(&*store, create(&class, "a", r#"{"n":1,"_hashed_password":"secret"}"#)).await;
    let set = Update::default().set("_session_token", "secret").set("n", 2.0);
    let action = Action::Update { update: set, at: millis(5_000) };
    let written = done(&*store, Write { action, ..delete(&class, "a") }).await;
    assert_eq!(written.after.unwrap().fields.get("_session_token"), Some(&Value::from("secret")));
    assert!(get(&*store, &class, "a").await.unwrap().has_internal_fields());
    done(&*store, delete(&class, "a")).await;
    let log = changes_of(&*store, &class, before).await;
    assert!(!format!("{log:?}").contains("secret"));
    assert_eq!(log.len(), 4);
}

pub async fn the_tail_follows_the_log(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Tail");
    let before = position(&*store).await;
    let commits = (0..100).map(|n| {
        let twice = vec![create(&class, &format!("o{n}"), "{}"), update(&class, &format!("o{n}"), r#"{"n":1}"#)];
        store.commit(twice)
    });
    let written = join_all(commits).await;
    if !stores.have_one_queue() {
        let (newest, tail) = (position(&*store).await, store.tail());
        eventually(|| tail.position().max(tail.quiet_until()) >= newest).await;
    }
    let Read::Changes(tail) = store.tail().read_after(before, 10_000) else { panic!("behind") };
    let mut log = Vec::new();
    let mut at = before;
    while let Some(last) = { store.change_source().read_after(at, 10_000).await.unwrap().last().cloned() } {
        log.extend(store.change_source().read_after(at, 10_000).await.unwrap());
        at = last.position;
    }
    assert_eq!(tail, log[..tail.len()]);
    let follow = |[before, after]: [Position; 2]| match stores.have_one_queue() {
        true => before + 1 == after,
        false => before <= after,
    };
    assert!(tail.windows(2).all(|pair| follow([pair[0].position, pair[1].position])));
    let of_class: Vec<_> = changes_of(&*store, &class, before).await.iter().map(|change| change.position).collect();
    for written in written.into_iter().flat_map(Result::unwrap) {
        assert!(of_class.contains(&written.cursor.position));
    }
    assert!(store.tail().position() >= *of_class.last().unwrap());
}

pub async fn cursors_grow(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Cursor");
    let mut last = store.snapshot().await.unwrap().cursor();
    assert_eq!(Cursor::parse(&last.to_string()), Some(last.clone()));
    for n in 0..20 {
        let written = done(&*store, create(&class, &format!("o{n}"), "{}")).await;
        assert_eq!(written.cursor.timeline, last.timeline);
        assert!(written.cursor.position > last.position);
        let snapshot = store.snapshot().await.unwrap();
        assert!(snapshot.cursor().position >= written.cursor.position, "an answered commit is visible");
        last = written.cursor;
    }
}
