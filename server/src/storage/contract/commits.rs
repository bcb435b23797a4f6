//! Commits: several writes as one, and many at once.

use super::*;

pub async fn a_commit_is_all_or_nothing(stores: &dyn Stores) {
    let store = stores.open().await;
    let (class, other) = (fresh_class("Atomic"), fresh_class("Atomic"));
    done(&*store, create(&class, "a", r#"{"n":1}"#)).await;
    let before = position(&*store).await;
    let writes = vec![
        create(&other, "x", r#"{"n":1}"#),
        update(&class, "a", r#"{"n":2,"new":true}"#),
        delete(&class, "a"),
        update(&class, "missing", "{}"),
    ];
    assert_eq!(store.commit(writes).await.unwrap_err(), Refused { at: 3, error: WriteError::NotFound });
    assert_eq!(json(&*store, &class, "a").await, r#"{"n":1}"#);
    assert!(!store.schemas().contains_key(&other));
    assert!(!store.schemas()[&class].fields.contains_key("new"));
    assert!(changes_of(&*store, &class, before).await.is_empty());
    let written = store.commit(vec![update(&class, "a", r#"{"n":2}"#), create(&class, "b", "{}")]).await.unwrap();
    let [first, second] = [0, 1].map(|at| written[at].cursor.position);
    assert!(if stores.have_one_queue() { first + 1 == second } else { first <= second });
    assert!(store.commit(Vec::new()).await.unwrap().is_empty());
}

pub async fn a_write_sees_the_earlier_ones_of_its_commit(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Overlay");
    let plus = |n: i32| update(&class, "a", &format!(r#"{{"n":{{"__op":"Increment","amount":{n}}}}}"#));
    let writes = vec![create(&class, "a", r#"{"n":1}"#), plus(1), plus(2)];
    let written = store.commit(writes).await.unwrap();
    assert_eq!(written[2].before, written[1].after);
    assert_eq!(json(&*store, &class, "a").await, r#"{"n":4}"#);
    let writes = vec![delete(&class, "a"), create_at(&class, "a", 9_000, r#"{"n":7}"#), plus(1)];
    store.commit(writes).await.unwrap();
    assert_eq!(json(&*store, &class, "a").await, r#"{"n":8}"#);
    assert_eq!(found(&*store, &select(&class, "{}", "createdAt")).await, "a");
    store.commit(vec![create(&class, "b", "{}"), delete(&class, "b")]).await.unwrap();
    assert_eq!(get(&*store, &class, "b").await, None);
    assert_eq!(found(&*store, &select(&class, "{}", "")).await, "a");
}

pub async fn increments_are_atomic(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Counter");
    done(&*store, create(&class, "a", r#"{"n":0}"#)).await;
    let tasks = (0..64).map(|_| {
        let (store, class) = (store.clone(), class.clone());
        tokio::spawn(async move {
            for _ in 0..100 {
                done(&*store, update(&class, "a", r#"{"n":{"__op":"Increment","amount":1}}"#)).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(json(&*store, &class, "a").await, r#"{"n":6400}"#);
}

pub async fn a_failed_commit_harms_no_other(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Group");
    done(&*store, create(&class, "taken", "{}")).await;
    let commits = (0..200).map(|n| match n % 3 {
        0 => store.commit(vec![create(&class, &format!("o{n}"), r#"{"n":1}"#)]),
        1 => store.commit(vec![create(&class, &format!("o{n}"), r#"{"n":1}"#), create(&class, "taken", "{}")]),
        _ => store.commit(vec![update(&class, "missing", "{}")]),
    });
    let outcomes = join_all(commits).await;
    for (n, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.is_ok(), n % 3 == 0, "{n}: {outcome:?}");
        assert_eq!(get(&*store, &class, &format!("o{n}")).await.is_some(), n % 3 == 0);
    }
    let all = Selection::all(class, Principals::MASTER);
    assert_eq!(store.snapshot().await.unwrap().count(&all).await.unwrap(), 68);
}

pub async fn commits_take_their_place_when_they_are_called(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Calls");
    done(&*store, create(&class, "a", r#"{"list":[]}"#)).await;
    let add = |n: i32| update(&class, "a", &format!(r#"{{"list":{{"__op":"Add","objects":[{n}]}}}}"#));
    let mut answers: Vec<_> = (0..50).map(|n| store.commit(vec![add(n)])).collect();
    // Dropping the answer does not take the commit back.
    drop(answers.remove(20));
    answers.reverse();
    for answer in answers {
        answer.await.unwrap();
    }
    let object = get(&*store, &class, "a").await.unwrap();
    let expected = (0..50).map(|n| Value::Number(f64::from(n))).collect();
    assert_eq!(object.fields.get("list"), Some(&Value::Array(expected)));
}
