//! Closing and opening again.

use super::*;

pub async fn everything_is_there_after_reopening(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Reopened");
    let beginning = if stores.have_one_queue() { 0 } else { position(&*store).await };
    let pointer = r#""p":{"__type":"Pointer","className":"C","objectId":"c"}"#;
    let commits = (0..100).map(|n| {
        let json = format!(r#"{{"n":{n},"name":"N{n}",{pointer}}}"#);
        let write = create_at(&class, &format!("o{n:02}"), n, &json).unique("name", &format!("N{n}"));
        store.commit(vec![write])
    });
    in_order(stores, commits).await;
    done(&*store, update(&class, "o00", r#"{"n":1000}"#)).await;
    done(&*store, delete(&class, "o01")).await;
    store.edit_schema(edit_index(&class, "by_n", r#"{"n":-1}"#)).await.unwrap();
    let selections = ["", "-createdAt", "-n", "n,-createdAt"].map(|order| select(&class, "{}", order));
    let mut before = Vec::new();
    for selection in &selections {
        before.push(find(&*store, selection).await);
    }
    let cursor = store.snapshot().await.unwrap().cursor();
    let (schemas, changes) = (store.schemas(), changes_of(&*store, &class, beginning).await);
    store.close().await;
    let refused = store.commit(vec![create(&class, "late", "{}")]).await;
    assert!(matches!(refused, Err(Refused { error: WriteError::Unavailable(_), .. })));
    drop(store);

    let store = stores.open().await;
    let reopened = store.snapshot().await.unwrap().cursor();
    assert!(reopened.timeline == cursor.timeline && reopened.position >= cursor.position);
    for (selection, before) in selections.iter().zip(before) {
        assert_eq!(find(&*store, selection).await, before);
    }
    assert_eq!(store.schemas().get(&class), schemas.get(&class));
    assert_eq!(changes_of(&*store, &class, beginning).await, changes);
    assert_eq!(store.snapshot().await.unwrap().count(&select(&class, "{}", "")).await.unwrap(), 99);
    assert_eq!(failure(&*store, create(&class, "new", "{}").unique("name", "n50")).await, duplicate("name"));
    let written = done(&*store, create(&class, "new", "{}").unique("name", "n1")).await;
    assert!(written.cursor.position > cursor.position);
    assert_eq!(found(&*store, &Selection { limit: 2, ..select(&class, "{}", "-n") }).await, "o00 o99");
}
