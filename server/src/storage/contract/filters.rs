//! Filters and orders: whatever path answers them, the matcher decides.

use super::*;

pub async fn the_newest_messages_of_a_conversation_are_read_as_a_page(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Message");
    let conversation =
        |n: i32| format!(r#""conversation":{{"__type":"Pointer","className":"Conversation","objectId":"c{n}"}}"#);
    let commits = (0..300).map(|n| {
        let json = format!(r#"{{{},"text":"hello"}}"#, conversation(n % 3));
        store.commit(vec![create_at(&class, &format!("m{n:03}"), i64::from(n), &json)])
    });
    in_order(stores, commits).await;
    done(&*store, update(&class, "m000", r#"{"text":"first"}"#)).await;
    let before = r#""createdAt":{"$lt":{"__type":"Date","iso":"1970-01-01T00:00:00.100Z"}}"#;
    for (filter, order, expected) in [
        (format!("{{{}}}", conversation(1)), "-createdAt", "m298 m295 m292"),
        (format!("{{{},{before}}}", conversation(1)), "-createdAt", "m097 m094 m091"),
        (format!("{{{},{before}}}", conversation(1)), "createdAt", "m001 m004 m007"),
    ] {
        let selection = Selection { limit: 3, ..select(&class, &filter, order) };
        assert_eq!(found(&*store, &selection).await, expected);
        let explanation = store.snapshot().await.unwrap().explain(&selection).await.unwrap();
        assert_eq!(explanation.index, ["conversation", "createdAt"]);
        assert!(explanation.ordered_by_index && explanation.examined <= 5, "{explanation:?}");
        assert_eq!(explanation.returned, 3);
    }
}

/// Values of every type in every place, and filters that stores like to take for something else.
pub async fn filters_mean_what_the_matcher_says(stores: &dyn Stores) {
    let store = stores.open().await;
    let class = fresh_class("Meaning");
    let short = |text: &str| {
        text.replace("P1", r#"{"__type":"Pointer","className":"T","objectId":"t1"}"#)
            .replace("P2", r#"{"__type":"Pointer","className":"T","objectId":"t2"}"#)
            .replace("Q1", r#"{"__type":"Pointer","className":"U","objectId":"t1"}"#)
            .replace("D1", r#"{"__type":"Date","iso":"2020-01-01T00:00:00.000Z"}"#)
            .replace("D2", r#"{"__type":"Date","iso":"2021-01-01T00:00:00.000Z"}"#)
            .replace("B1", r#"{"__type":"Bytes","base64":"AQI="}"#)
            .replace("G1", r#"{"__type":"GeoPoint","latitude":1,"longitude":2}"#)
            .replace("G2", r#"{"__type":"GeoPoint","latitude":2,"longitude":-1}"#)
            .replace("F1", r#"{"__type":"File","name":"f1.png"}"#)
            .replace("A1", r#"{"__type":"Polygon","coordinates":[[0,0],[0,2],[2,0],[0,0]]}"#)
    };
    let rows = [
        r#"{"n":1,"s":"abc","arr":[1,2],"p":P1,"d":D1,"o":{"a":1,"l":[{"x":1},{"x":2}]},"pa":[P1],"f":F1,"g":G1,"b":B1,"area":A1,"t":true}"#,
        r#"{"n":5,"s":"ABC","arr":[2,3],"p":P2,"d":D2,"o":{"a":2,"p":P1},"pa":[P1,P2],"g":G2,"t":false}"#,
        r#"{"n":null,"s":null,"arr":null,"p":null,"d":null,"o":null,"pa":null,"f":null,"g":null,"b":null,"t":null}"#,
        "{}",
        r#"{"arr":[],"s":"","o":{},"pa":["t1",Q1]}"#,
        r#"{"arr":[null,1],"s":"a.b\nc","o":{"a":null,"l":[1,2]},"pa":[G1,F1,{"k":P1}]}"#,
        r#"{"arr":[[1,2]],"s":"Ärger","o":{"a":[1,{"b":2}],"p":{"x":1},"0":7},"pa":[[P1]]}"#,
        r#"{"arr":["x",{"a":1},D1],"s":"abcd$","o":{"l":[],"g":G1,"a":{"b":{"c":3}}},"n":-0.5}"#,
        r#"{"arr":[true,B1,1.5],"s":"x y#z","o":{"a":D1,"l":[[{"x":1}]],"s":"t1"},"n":1e12}"#,
    ];
    let mut objects = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let write = create_at(&class, &format!("r{at}"), at as i64, &short(row));
        objects.push(done(&*store, write).await.after.unwrap());
    }
    let operands = [
        "null",
        "1",
        "2",
        "5",
        "-0.5",
        r#""abc""#,
        r#""t1""#,
        r#""""#,
        "true",
        "P1",
        "Q1",
        "D1",
        "B1",
        "G1",
        "F1",
        "A1",
        "[1,2]",
        "[]",
        r#"{"a":1}"#,
        r#"{"x":1}"#,
        "[P1]",
    ];
    let paths = [
        "n",
        "s",
        "arr",
        "p",
        "d",
        "o",
        "pa",
        "f",
        "g",
        "b",
        "area",
        "t",
        "zzz",
        "o.a",
        "o.l",
        "o.l.x",
        "o.p",
        "o.p.objectId",
        "o.0",
        "o.a.b",
        "o.a.b.c",
        "arr.0",
        "arr.1",
        "arr.a",
        "pa.0",
        "pa.objectId",
        "p.objectId",
        "s.x",
        "objectId",
        "createdAt",
    ];
    let mut filters = Vec::new();
    for path in paths {
        for operand in operands {
            for operator in ["$eq", "$ne", "$lt", "$lte", "$gt", "$gte"] {
                filters.push(format!(r#"{{"{path}":{{"{operator}":{operand}}}}}"#));
            }
            for operator in ["$in", "$nin", "$all"] {
                filters.push(format!(r#"{{"{path}":{{"{operator}":[{operand}]}}}}"#));
                filters.push(format!(r#"{{"{path}":{{"{operator}":[{operand},2,null]}}}}"#));
            }
        }
        for constraint in [
            r#"{"$in":[]}"#,
            r#"{"$nin":[]}"#,
            r#"{"$all":[]}"#,
            r#"{"$exists":true}"#,
            r#"{"$exists":false}"#,
            r#"{"$in":["t1",P2]}"#,
            r#"{"$nin":["t1","t2"]}"#,
            r#"{"$in":[[[1,2]]]}"#,
            r#"{"$gt":0,"$lt":2}"#,
            r#"{"$regex":"^a"}"#,
            r#"{"$regex":"bc$"}"#,
            r#"{"$regex":"^\\Qa.b\\E"}"#,
            r#"{"$regex":"a.b"}"#,
            r#"{"$regex":"ABC","$options":"i"}"#,
            r#"{"$regex":"ärger","$options":"i"}"#,
            r#"{"$regex":"^c$","$options":"m"}"#,
            r#"{"$regex":"X Y # Z","$options":"ix"}"#,
            r#"{"$regex":"\\d"}"#,
            r#"{"$regex":"d\\$"}"#,
            r#"{"$regex":"(?=a)"}"#,
            r#"{"$regex":"png"}"#,
            r#"{"$all":[{"$regex":"^a"},{"$regex":"c"}]}"#,
        ] {
            filters.push(format!(r#"{{"{path}":{constraint}}}"#));
        }
    }
    let mut rng = StdRng::seed_from_u64(7);
    for _ in 0..300 {
        let [one, other, third] = std::array::from_fn(|_| filters.choose(&mut rng).unwrap());
        filters.push(format!(
            r#"{{"${}":[{one},{{"$nor":[{other},{third}]}}]}}"#,
            ["and", "or", "nor"].choose(&mut rng).unwrap()
        ));
    }
    let snapshot = store.snapshot().await.unwrap();
    for filter in filters {
        let Ok(predicate) = Predicate::from_map(&fields(&short(&filter))) else { continue };
        let selection = Selection { predicate, ..select(&class, "{}", "") };
        let (expected, count) = expected(&objects, &selection);
        let found = snapshot.find(&selection).await.unwrap();
        assert_eq!(ids(&found), ids(&expected), "{filter}");
        assert_eq!(found, expected, "{filter}");
        assert_eq!(snapshot.count(&selection).await.unwrap(), count, "{filter}");
    }
    for path in paths {
        for order in [path.to_owned(), format!("-{path}"), format!("{path},-n"), format!("o.a,-{path}")] {
            let selection = select(&class, "{}", &order);
            assert_eq!(
                ids(&snapshot.find(&selection).await.unwrap()),
                ids(&expected(&objects, &selection).0),
                "{order}"
            );
        }
    }
}

/// Random objects, filters and orders: whatever path the store takes, the evaluator's answer is the right one.
pub async fn every_path_finds_the_same(stores: &dyn Stores) {
    let store = stores.open().await;
    for seed in 0..12 {
        let class = fresh_class("Random");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut rows: Vec<Arc<Object>> = Vec::new();
        let declares_early = seed % 2 == 0;
        done(&*store, create(&class, "seed", &Map::from_iter(all_fields(&mut rng)).to_json())).await;
        done(&*store, delete(&class, "seed")).await;
        if declares_early {
            declare(&*store, &class).await;
        }
        for step in 0..300 {
            let existing = rows.choose(&mut rng).map(|row| row.id.to_string());
            match (rng.random_range(0..10), existing) {
                (0, Some(id)) => {
                    done(&*store, delete(&class, &id)).await;
                    rows.retain(|row| row.id.as_str() != id);
                }
                (1..4, Some(id)) => {
                    let json = Map::from_iter(some_fields(&mut rng)).to_json();
                    let write = update_at(&class, &id, rng.random_range(0..20), &json);
                    let after = done(&*store, write).await.after.unwrap();
                    let row = rows.iter_mut().find(|row| row.id == after.id).unwrap();
                    *row = after;
                }
                _ => {
                    let json = Map::from_iter(some_fields(&mut rng)).to_json();
                    let id = format!("{}{step}", ["x", "b", "m"].choose(&mut rng).unwrap());
                    let write = create_at(&class, &id, rng.random_range(0..20), &json).with_acl(acl(&mut rng));
                    rows.push(done(&*store, write).await.after.unwrap());
                }
            }
        }
        if !declares_early {
            declare(&*store, &class).await;
        }
        if !stores.have_one_queue() {
            rows.sort_by_cached_key(|row| (row.created_at, row.id.clone()));
        }
        for query in 0..250 {
            let (filter, order) = if query % 2 == 0 { directed(&mut rng) } else { (filter(&mut rng), order(&mut rng)) };
            let selection = Selection {
                class: class.clone(),
                predicate: predicate(&filter),
                reader: [Principals::MASTER, user("alice"), Principals::ANONYMOUS].choose(&mut rng).unwrap().clone(),
                order,
                skip: *[0, 0, 0, 1, 5].choose(&mut rng).unwrap(),
                limit: *[1, 3, 20, u64::MAX].choose(&mut rng).unwrap(),
                columns: None,
            };
            let (expected, count) = expected(&rows, &selection);
            let snapshot = store.snapshot().await.unwrap();
            let found = snapshot.find(&selection).await.unwrap();
            let told = || async { format!("seed {seed}.{query}: {selection:?}") };
            assert_eq!(ids(&found), ids(&expected), "{}", told().await);
            assert_eq!(found, expected, "{}", told().await);
            assert_eq!(snapshot.count(&selection).await.unwrap(), count, "{}", told().await);
        }
    }
}

async fn declare(store: &dyn Storage, class: &ClassName) {
    for (name, json) in [
        ("by_n_s", r#"{"n":1,"s":-1}"#),
        ("by_tags", r#"{"tags":1,"createdAt":-1}"#),
        ("by_s", r#"{"s":-1}"#),
        ("by_p_n", r#"{"p":1,"n":1,"d":-1}"#),
        ("by_o", r#"{"o":1,"tags":1}"#),
    ] {
        store.edit_schema(edit_index(class, name, json)).await.unwrap();
    }
}

fn expected(rows: &[Arc<Object>], selection: &Selection) -> (Vec<Arc<Object>>, u64) {
    let matcher = Matcher::new(&selection.predicate).unwrap();
    let may = |object: &Object| selection.reader.may(tidings_protocol::Access::Read, object.acl.as_ref());
    let mut matching: Vec<_> = rows.iter().filter(|row| may(row) && matcher.matches(row)).cloned().collect();
    let count = matching.len() as u64;
    if !selection.order.is_empty() {
        matching.sort_by_cached_key(|row| {
            let mut key = Vec::new();
            write_sort_key(row, &selection.order, &mut key);
            key
        });
    }
    let page = matching.into_iter().skip(selection.skip as usize).take(selection.limit.min(1 << 20) as usize);
    (page.collect(), count)
}
