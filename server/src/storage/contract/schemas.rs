//! Classes: columns that come with writes, and edits.

use super::*;

pub async fn writes_bring_their_columns(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Columns");
    let before = position(&*store).await;
    done(&*store, create(&class, "a", r#"{"n":1}"#)).await;
    done(&*store, update(&class, "a", r#"{"s":"x"}"#)).await;
    done(&*store, update(&class, "a", r#"{"s":"y"}"#)).await;
    let schema = store.schemas()[&class].clone();
    assert_eq!(schema.field_type("n"), Some(FieldType::Number));
    assert_eq!(schema.field_type("s"), Some(FieldType::String));
    let changes = changes_of(&*store, &class, before).await;
    let kinds: Vec<_> = changes.iter().map(|change| object_change(change).is_some()).collect();
    assert_eq!(kinds, [false, true, false, true, true], "a new column is a change of its own, before its object's");
    match &changes[2].change {
        Change::Schema { schema: changed, .. } => assert_eq!(changed.as_ref(), Some(&schema)),
        Change::Object(_) | Change::Unseen { .. } => panic!(),
    }
}

pub async fn a_column_keeps_its_type(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Types");
    done(&*store, create(&class, "a", r#"{"n":1}"#)).await;
    for write in [create(&class, "b", r#"{"n":"text"}"#), update(&class, "a", r#"{"n":true}"#)] {
        match failure(&*store, write).await {
            WriteError::Rejected(error) => assert_eq!(error.code, Code::IncorrectType),
            other => panic!("{other:?}"),
        }
    }
    // Of two that come at once with different types, the first fixes it.
    let (number, text) = (create(&class, "c", r#"{"x":1}"#), create(&class, "d", r#"{"x":"1"}"#));
    let (first, second) = (store.commit(vec![number]), store.commit(vec![text]));
    assert!(first.await.is_ok());
    assert!(matches!(second.await, Err(Refused { error: WriteError::Rejected(_), .. })));
}

pub async fn a_failed_write_leaves_no_column(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Columns");
    done(&*store, create(&class, "a", "{}")).await;
    assert_eq!(failure(&*store, create(&class, "a", r#"{"n":1}"#)).await, WriteError::Exists);
    assert_eq!(failure(&*store, update(&class, "b", r#"{"n":1}"#)).await, WriteError::NotFound);
    assert_eq!(store.schemas()[&class].field_type("n"), None);
    done(&*store, update(&class, "a", r#"{"n":"text"}"#)).await;
}

/// An edit that adds and removes fields.
pub fn edit_fields(class: &ClassName, add: &[(&str, FieldType)], remove: &[&str]) -> SchemaEdit {
    let add = add.iter().map(|(name, field_type)| ((*name).into(), field_type.clone(), FieldOptions::default()));
    let remove_fields = remove.iter().map(|name| (*name).into()).collect();
    let changes = SchemaChanges { add_fields: add.collect(), remove_fields, ..SchemaChanges::default() };
    SchemaEdit::Update(class.clone(), changes)
}

/// An edit that adds an index, or with an empty text removes it.
pub fn edit_index(class: &ClassName, name: &str, json: &str) -> SchemaEdit {
    let mut changes = SchemaChanges::default();
    match json {
        "" => changes.remove_indexes.push(name.into()),
        json => changes.add_indexes.push((name.into(), Index::from_map(&fields(json)).unwrap())),
    }
    SchemaEdit::Update(class.clone(), changes)
}

pub async fn schema_edits_are_checked(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Edited");
    let before = position(&*store).await;
    assert_eq!(rejected(store.edit_schema(edit_fields(&class, &[("n", FieldType::Number)], &[])).await), 103);
    let made = store.edit_schema(SchemaEdit::Create(ClassSchema::new(class.clone()))).await.unwrap().unwrap();
    assert_eq!(made.class, class);
    assert_eq!(rejected(store.edit_schema(SchemaEdit::Create(ClassSchema::new(class.clone()))).await), 103);
    let edited = store.edit_schema(edit_fields(&class, &[("n", FieldType::Number)], &[])).await.unwrap().unwrap();
    assert_eq!(edited.field_type("n"), Some(FieldType::Number));
    assert_eq!(store.schemas()[&class], edited);
    let again = store.edit_schema(edit_fields(&class, &[("n", FieldType::Number)], &[])).await.unwrap().unwrap();
    assert_eq!(again, edited, "it is there already");
    assert_eq!(rejected(store.edit_schema(edit_fields(&class, &[("n", FieldType::String)], &[])).await), 255);
    assert_eq!(rejected(store.edit_schema(edit_fields(&class, &[], &["x"])).await), 255);
    assert_eq!(store.edit_schema(SchemaEdit::Delete(class.clone())).await.unwrap(), None);
    assert_eq!(store.edit_schema(SchemaEdit::Delete(class.clone())).await.unwrap(), None, "gone is gone");
    assert!(!store.schemas().contains_key(&class));
    let changes = changes_of(&*store, &class, before).await;
    let schemas: Vec<_> = changes
        .iter()
        .filter_map(|change| match &change.change {
            Change::Schema { schema, .. } => Some(schema.clone()),
            // What goes with a class, a store may tell as well.
            Change::Unseen { gone: None, .. } => None,
            Change::Object(_) | Change::Unseen { .. } => panic!(),
        })
        .collect();
    assert_eq!(schemas, [Some(made), Some(edited), None]);
}

pub async fn a_class_with_objects_is_not_deleted(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Full");
    done(&*store, create(&class, "a", r#"{"n":1}"#)).await;
    done(&*store, create(&class, "b", r#"{"n":1}"#)).await;
    match store.edit_schema(SchemaEdit::Delete(class.clone())).await {
        Err(WriteError::Rejected(error)) => {
            let message = format!("Class {class} is not empty, contains 2 objects, cannot drop schema.");
            assert_eq!((error.code.number(), error.message.as_ref()), (255, message.as_str()));
        }
        other => panic!("{other:?}"),
    }
    store.commit(vec![delete(&class, "a"), delete(&class, "b")]).await.unwrap();
    store.edit_schema(SchemaEdit::Delete(class.clone())).await.unwrap();
    // A class of the same name is another class.
    done(&*store, create(&class, "c", r#"{"n":"text"}"#)).await;
    assert_eq!(found(&*store, &select(&class, "{}", "-createdAt")).await, "c");
}

pub async fn a_removed_field_loses_its_values(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Removed");
    let commits = (0..1_200).map(|n| {
        let json = format!(
            r#"{{"n":{n},"keep":{n},"p":{{"__type":"Pointer","className":"C","objectId":"c"}},"_internal":1}}"#
        );
        store.commit(vec![create(&class, &format!("o{n:04}"), &json)])
    });
    in_order(stores, commits).await;
    done(&*store, update(&class, "o0001", r#"{"n":1}"#)).await;
    let held = store.snapshot().await.unwrap();
    if !stores.have_one_queue() {
        held.cursor();
    }
    store.edit_schema(edit_fields(&class, &[], &["n", "p"])).await.unwrap();
    let pointer = r#"{"p":{"__type":"Pointer","className":"C","objectId":"c"}}"#;
    assert_eq!(json(&*store, &class, "o0001").await, r#"{"keep":1,"_internal":1}"#);
    assert_eq!(found(&*store, &select(&class, pointer, "")).await, "");
    // Back again, with other types: no old value shows, neither in objects nor through an index.
    let back = [("n", FieldType::String), ("p", FieldType::Date)];
    store.edit_schema(edit_fields(&class, &back, &[])).await.unwrap();
    done(&*store, update(&class, "o0002", r#"{"n":"two","p":{"__type":"Date","iso":"2026-01-01T00:00:00.000Z"}}"#))
        .await;
    for _ in 0..50 {
        assert_eq!(found(&*store, &select(&class, r#"{"n":{"$exists":true}}"#, "")).await, "o0002");
        assert_eq!(found(&*store, &select(&class, r#"{"n":3}"#, "")).await, "");
        assert_eq!(found(&*store, &select(&class, pointer, "-createdAt")).await, "");
        let dated = r#"{"p":{"$gt":{"__type":"Date","iso":"2025-01-01T00:00:00.000Z"}}}"#;
        assert_eq!(found(&*store, &select(&class, dated, "p")).await, "o0002");
        let written = done(&*store, update(&class, "o0003", r#"{"keep":{"__op":"Increment","amount":1}}"#)).await;
        assert!(!written.before.unwrap().fields.contains("n"));
    }
    // Who looked before goes on seeing what was there.
    let first = held.get(&class, &id("o0005")).await.unwrap().unwrap();
    assert_eq!(first.fields.get("n"), Some(&Value::Number(5.0)));
    assert_eq!(held.find(&select(&class, r#"{"n":7}"#, "")).await.unwrap().len(), 1);
}
