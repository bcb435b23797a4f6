//! Reading: order, pages, permissions, counts and distinct values.

use super::*;

pub async fn without_an_order_objects_come_as_they_were_created(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Natural");
    for (at, id) in [(1, "c"), (2, "a"), (3, "d"), (4, "b")] {
        let at = if stores.have_one_queue() { 1 } else { at };
        let json = r#"{"n":1,"p":{"__type":"Pointer","className":"C","objectId":"c"}}"#;
        done(&*store, create_at(&class, id, at, json)).await;
    }
    done(&*store, update(&class, "c", r#"{"n":2}"#)).await;
    assert_eq!(found(&*store, &select(&class, "{}", "")).await, "c a d b");
    let pointer = r#"{"p":{"__type":"Pointer","className":"C","objectId":"c"}}"#;
    assert_eq!(found(&*store, &select(&class, pointer, "")).await, "c a d b");
    assert_eq!(found(&*store, &select(&class, r#"{"objectId":{"$in":["a","b","c"]}}"#, "")).await, "c a b");
}

pub async fn equal_objects_come_by_id(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Ties");
    let pointer = r#""p":{"__type":"Pointer","className":"C","objectId":"c"}"#;
    for (id, at, n) in [("d", 2, "1"), ("b", 1, "2"), ("c", 2, "1"), ("a", 3, "null"), ("e", 1, "2"), ("f", 2, "2")] {
        done(&*store, create_at(&class, id, at, &format!(r#"{{"n":{n},{pointer}}}"#))).await;
    }
    done(&*store, create_at(&class, "g", 9, "{}")).await;
    let by_pointer = format!("{{{pointer}}}");
    for (filter, order, expected) in [
        ("{}", "createdAt", "b e c d f a g"),
        ("{}", "-createdAt", "g a c d f b e"),
        (by_pointer.as_str(), "createdAt", "b e c d f a"),
        (by_pointer.as_str(), "-createdAt", "a c d f b e"),
        ("{}", "n", "a g c d b e f"),
        ("{}", "-n", "b e f c d a g"),
        ("{}", "-n,createdAt", "b e f c d a g"),
        ("{}", "n,-createdAt", "g a c d f b e"),
        ("{}", "-objectId", "g f e d c b a"),
        ("{}", "p,-objectId", "g f e d c b a"),
    ] {
        assert_eq!(found(&*store, &select(&class, filter, order)).await, expected, "{filter} {order}");
        for limit in 1..5 {
            let page = Selection { skip: 1, limit, ..select(&class, filter, order) };
            let expected: Vec<_> = expected.split(' ').skip(1).take(limit as usize).collect();
            assert_eq!(found(&*store, &page).await, expected.join(" "), "{filter} {order} {limit}");
        }
    }
}

pub async fn reads_at_the_same_time_each_find_their_own(stores: &dyn Stores) {
    const READERS: usize = 300;
    let store = stores.open().await;
    let class = fresh_class("Crowd");
    let id = |n: usize| format!("o{n}");
    done(&*store, create(&class, "first", "{}")).await;
    let mut readers = Vec::new();
    for n in 0..READERS {
        let (store, class) = (store.clone(), class.clone());
        readers.push(tokio::spawn(async move {
            match n % 3 {
                // What was answered is seen, whoever reads meanwhile.
                0 => {
                    done(&*store, create(&class, &id(n), &format!(r#"{{"n":{n}}}"#))).await;
                    let found = get(&*store, &class, &id(n)).await.unwrap();
                    assert_eq!(found.field("n").as_deref(), Some(&Value::from(n as f64)));
                }
                1 => assert_eq!(get(&*store, &class, "none").await, None),
                _ => assert_eq!(get(&*store, &class, "first").await.unwrap().id.as_str(), "first"),
            }
        }));
    }
    // Who goes away takes nobody along.
    for gone in readers.iter().skip(1).step_by(6) {
        gone.abort();
    }
    for (n, reader) in readers.into_iter().enumerate() {
        let ended = reader.await;
        assert!(ended.is_ok() || n % 6 == 1, "{n}: {ended:?}");
    }
    assert!(get(&*store, &class, "first").await.is_some());
}

pub async fn pages_follow_each_other(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Pages");
    for n in 0..50 {
        let json = format!(r#"{{"n":{},"p":{{"__type":"Pointer","className":"C","objectId":"c"}}}}"#, n % 7);
        done(&*store, create_at(&class, &format!("o{n:02}"), n / 3, &json)).await;
    }
    let pointer = r#"{"p":{"__type":"Pointer","className":"C","objectId":"c"}}"#;
    for filter in ["{}", pointer, r#"{"n":{"$gt":2}}"#] {
        for order in ["", "createdAt", "-createdAt", "n", "-n,createdAt", "updatedAt"] {
            let all = found(&*store, &select(&class, filter, order)).await;
            let mut paged = Vec::new();
            for page in 0..20 {
                let selection = Selection { skip: page * 7, limit: 7, ..select(&class, filter, order) };
                paged.extend(find(&*store, &selection).await);
            }
            assert_eq!(ids(&paged), all, "{filter} {order}");
        }
    }
    let selection = Selection { limit: 0, ..select(&class, "{}", "") };
    assert!(find(&*store, &selection).await.is_empty());
    let selection = Selection { skip: u64::MAX, limit: u64::MAX, ..select(&class, "{}", "n") };
    assert!(find(&*store, &selection).await.is_empty());
}

pub async fn readers_see_what_they_may(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Readers");
    let of = |who: &str| Acl::default().with(who, true, true);
    for (id, acl) in [("a", of("alice")), ("b", of("bob")), ("c", of("*")), ("d", Acl::default())] {
        done(&*store, create(&class, id, "{}").with_acl(acl)).await;
    }
    done(&*store, create(&class, "e", "{}")).await;
    for (reader, expected) in [
        (user("alice"), "a c e"),
        (user("bob"), "b c e"),
        (Principals::ANONYMOUS, "c e"),
        (Principals::MASTER, "a b c d e"),
    ] {
        for order in ["", "createdAt", "objectId"] {
            let selection = Selection { reader: reader.clone(), ..select(&class, "{}", order) };
            assert_eq!(found(&*store, &selection).await, expected);
            let counted = store.snapshot().await.unwrap().count(&selection).await.unwrap();
            assert_eq!(counted, expected.split(' ').count() as u64);
            // What may not be read is not skipped either.
            let page = Selection { skip: 1, limit: 1, ..selection };
            assert_eq!(found(&*store, &page).await, expected.split(' ').nth(1).unwrap());
        }
    }
}

pub async fn what_is_looked_at_is_there(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Columns");
    let mut rng = StdRng::seed_from_u64(7);
    for at in 0..60 {
        let fields: Map = some_fields(&mut rng).into_iter().chain([("none".into(), Value::Null)]).collect();
        let write = create_at(&class, &format!("o{at}"), rng.random_range(0..20), &fields.to_json());
        done(&*store, write.with_acl(acl(&mut rng))).await;
    }
    let filters = [
        "{}",
        r#"{"n":0.5}"#,
        r#"{"o.x":1}"#,
        r#"{"o.x":{"$gte":1},"p":{"$exists":true}}"#,
        r#"{"n":{"$gt":0},"tags":{"$gte":[]}}"#,
    ];
    for filter in filters {
        for order in ["", "-n", "s,-createdAt", "updatedAt,p", "tags,members", "o.x,-tags", "d,o"] {
            for reader in [Principals::MASTER, user("u1")] {
                for columns in ["n", "p s", "tags.0 o.x", "none d", "members objectId", "unknown", ""] {
                    let whole =
                        Selection { reader: reader.clone(), skip: 1, limit: 25, ..select(&class, filter, order) };
                    let names: Vec<CompactString> = columns.split(' ').map(CompactString::from).collect();
                    let cut = Selection { columns: Some(names.clone()), ..whole.clone() };
                    let (whole, cut) = (find(&*store, &whole).await, find(&*store, &cut).await);
                    assert_eq!(ids(&cut), ids(&whole), "{filter} by {order} with {columns}");
                    for (cut, whole) in cut.iter().zip(&whole) {
                        let about = |object: &Object| (object.created_at, object.updated_at, object.acl.clone());
                        assert_eq!(about(cut), about(whole));
                        for name in names.iter().filter_map(|path| path.split('.').next()) {
                            assert_eq!(cut.field(name), whole.field(name), "{filter} by {order} with {columns}");
                        }
                    }
                }
            }
        }
    }
}

pub async fn counting_agrees_with_finding(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Counted");
    let count = async |filter: &str| {
        let selection = Selection { skip: 3, limit: 1, ..select(&class, filter, "n") };
        store.snapshot().await.unwrap().count(&selection).await.unwrap()
    };
    assert_eq!(count("{}").await, 0);
    for n in 0..30 {
        done(&*store, create(&class, &format!("o{n}"), &format!(r#"{{"n":{}}}"#, n % 3))).await;
    }
    done(&*store, delete(&class, "o0")).await;
    drop(store.commit(vec![create(&class, "x", "{}"), create(&class, "o1", "{}")]).await);
    assert_eq!(count("{}").await, 29);
    assert_eq!(count(r#"{"n":0}"#).await, 9);
    assert_eq!(count(r#"{"n":{"$gte":1}}"#).await, 20);
}

pub async fn distinct_values_are_told_once(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Distinct");
    let pointer = |id: &str| format!(r#"{{"__type":"Pointer","className":"C","objectId":"{id}"}}"#);
    let date = r#"{"__type":"Date","iso":"2026-01-02T03:04:05.678Z"}"#;
    let place = r#"{"__type":"GeoPoint","latitude":1,"longitude":2.5}"#;
    let file = r#"{"__type":"File","name":"a b.png"}"#;
    let bytes = r#"{"__type":"Bytes","base64":"AQI="}"#;
    let (c1, c2) = (pointer("c1"), pointer("c2"));
    let rows = [
        format!(
            r#"{{"n":1,"s":"b","flag":true,"at":{date},"g":{place},"f":{file},"y":{bytes},"p":{c1},
                "list":[1,"x",null,[1,2],{{"a":1}},{c1},{date}],"o":{{"x":1,"in":[1,2]}}}}"#
        ),
        format!(
            r#"{{"n":1,"s":"a","flag":false,"at":{date},"g":{place},"f":{file},"y":{bytes},"p":{c2},
            "list":[],"o":{{"x":"1","in":3}}}}"#
        ),
        format!(r#"{{"n":-2.5,"s":null,"flag":null,"at":null,"p":null,"list":["x",{c2},2],"o":{{"in":[{{"y":1}}]}}}}"#),
        r#"{"p":null,"s":"B","list":[[],[2,1],[1,2]],"o":{"x":1,"in":[1,2]}}"#.to_owned(),
        "{}".to_owned(),
    ];
    for (at, row) in rows.iter().enumerate() {
        done(&*store, create(&class, &format!("o{at}"), row)).await;
    }
    let distinct = async |selection: &Selection, field: &str| {
        let values = store.snapshot().await.unwrap().distinct(selection, field).await.unwrap();
        Value::Array(values.unwrap()).to_json()
    };
    let created = r#"{"__type":"Date","iso":"1970-01-01T00:00:01.000Z"}"#;
    let (one, other, third) = (r#"{"x":1,"in":[1,2]}"#, r#"{"x":"1","in":3}"#, r#"{"in":[{"y":1}]}"#);
    // Without indexes and with them, which know neither what is missing nor what an array is.
    for indexes in [&[][..], &["n", "s", "flag", "at", "p", "list", "o"][..]] {
        for name in indexes {
            let index = edit_index(&class, &format!("by_{name}"), &format!(r#"{{"{name}":1}}"#));
            store.edit_schema(index).await.unwrap();
        }
        for (filter, field, expected) in [
            ("{}", "n", "[-2.5,1]".to_owned()),
            ("{}", "s", r#"["B","a","b"]"#.to_owned()),
            ("{}", "flag", "[false,true]".to_owned()),
            ("{}", "at", format!("[{date}]")),
            ("{}", "g", format!("[{place}]")),
            ("{}", "f", format!("[{file}]")),
            ("{}", "y", format!("[{bytes}]")),
            ("{}", "p", format!("[{c1},{c2}]")),
            ("{}", "list", format!(r#"[1,2,"x",{c1},{c2},{{"a":1}},[],[1,2],[2,1],{date}]"#)),
            ("{}", "o", format!("[{one},{other},{third}]")),
            ("{}", "o.x", r#"[1,"1"]"#.to_owned()),
            ("{}", "o.in", r#"[1,2,3,{"y":1}]"#.to_owned()),
            ("{}", "o.in.y", "[1]".to_owned()),
            ("{}", "list.a", "[1]".to_owned()),
            ("{}", "n.x", "[]".to_owned()),
            ("{}", "objectId", r#"["o0","o1","o2","o3","o4"]"#.to_owned()),
            ("{}", "createdAt", format!("[{created}]")),
            ("{}", "unknown", "[]".to_owned()),
            (r#"{"n":1}"#, "s", r#"["a","b"]"#.to_owned()),
            (r#"{"s":{"$gt":"B"}}"#, "s", r#"["a","b"]"#.to_owned()),
            (r#"{"s":{"$regex":"^[a-z]$"}}"#, "s", r#"["a","b"]"#.to_owned()),
            (r#"{"list":{"$ne":2}}"#, "p", format!("[{c1},{c2}]")),
            (r#"{"list":2}"#, "list", format!(r#"[2,"x",{c2}]"#)),
            (r#"{"o.x":{"$exists":false}}"#, "n", "[-2.5]".to_owned()),
            (r#"{"o.x":1}"#, "list", format!(r#"[1,"x",{c1},{{"a":1}},[],[1,2],[2,1],{date}]"#)),
            (r#"{"g":{"$exists":true}}"#, "p", format!("[{c1},{c2}]")),
            (r#"{"n":7}"#, "n", "[]".to_owned()),
        ] {
            assert_eq!(distinct(&select(&class, filter, ""), field).await, expected, "{field} where {filter}");
            let page = Selection { skip: 1, limit: 1, ..select(&class, filter, "-n,s") };
            assert_eq!(distinct(&page, field).await, expected, "neither page nor order count");
        }
    }
    let own = create(&class, "own", r#"{"n":10,"s":"own"}"#).with_acl(Acl::default().with("alice", true, false));
    done(&*store, own).await;
    for (reader, expected) in
        [(user("alice"), "[-2.5,1,10]"), (user("bob"), "[-2.5,1]"), (Principals::MASTER, "[-2.5,1,10]")]
    {
        let selection = Selection { reader, ..select(&class, "{}", "") };
        assert_eq!(distinct(&selection, "n").await, expected);
    }
    assert_eq!(distinct(&select(&fresh_class("None"), "{}", ""), "n").await, "[]");
}

pub async fn distinct_values_may_be_many_and_large_but_not_without_end(stores: &dyn Stores) {
    let store = stores.open().await;
    let (many, large) = (fresh_class("Many"), fresh_class("Large"));
    for at in 0..4 {
        let numbers: Vec<String> = (at * 30_000..(at + 1) * 30_000).map(|number| number.to_string()).collect();
        let json = format!(r#"{{"at":{at},"list":[{}]}}"#, numbers.join(","));
        done(&*store, create(&many, &format!("o{at}"), &json)).await;
    }
    let distinct = async |selection: &Selection, field: &str| {
        store.snapshot().await.unwrap().distinct(selection, field).await.unwrap().map(|values| values.len())
    };
    for (filter, expected) in [
        (r#"{"at":{"$lt":3}}"#, Some(90_000)),
        ("{}", None),
        (r#"{"list":{"$regex":"^[a]"}}"#, Some(0)),
        (r#"{"at":{"$lt":3},"list":{"$gte":[]}}"#, Some(90_000)),
        (r#"{"list":{"$gte":[]}}"#, None),
    ] {
        assert_eq!(distinct(&select(&many, filter, ""), "list").await, expected, "{filter}");
    }
    // More than an answer of MongoDB's own may hold.
    for at in 0..20 {
        let json = format!(r#"{{"text":"{at}{}"}}"#, "x".repeat(900_000));
        done(&*store, create(&large, &format!("o{at}"), &json)).await;
    }
    assert_eq!(distinct(&select(&large, "{}", ""), "text").await, Some(20));
}
