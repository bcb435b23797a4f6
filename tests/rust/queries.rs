//! What an index finds is what a scan finds: the same question asked in two ways, of values that are easily confused.

use crate::harness::{Client, PATIENCE, Server, Value, date, fresh, json, on_mongodb, pointer};
use std::time::Instant;

/// The values of each column, those next to each other hard to tell apart in an index.
fn columns() -> Vec<(&'static str, Vec<Value>)> {
    let numbers = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        1.5,
        2.0,
        10.0,
        255.0,
        256.0,
        65_536.0,
        -256.0,
        9_007_199_254_740_991.0,
        -9_007_199_254_740_991.0,
        9_007_199_254_740_993.0,
        1e300,
        -1e300,
        5e-324,
        1e-7,
    ];
    let texts = [
        "", " ", "a", "A", "aa", "ab", "b", "a\u{0}", "a\u{0}b", "a\u{1}", "\u{0}", "\u{1}", "\u{ff}", "é", "e\u{301}",
        "z", "😀", "\u{ffff}", "10", "9", "null", "a.b", "$a", "100%", "\\Q", "^a",
    ];
    let dates = [
        "1969-12-31T23:59:59.999Z",
        "1970-01-01T00:00:00.000Z",
        "1970-01-01T00:00:00.001Z",
        "2020-01-01T00:00:00.000Z",
        "2020-01-01T00:00:00.001Z",
        "0001-01-01T00:00:00.000Z",
        "9999-12-31T23:59:59.999Z",
        "-271821-04-20T00:00:00.000Z",
        "-000001-12-31T23:59:59.999Z",
        "+010000-01-01T00:00:00.000Z",
        "+275760-09-13T00:00:00.000Z",
    ];
    let pointers = [
        ("A", "x"),
        ("A", "X"),
        ("A", "xx"),
        ("A", "x\u{0}"),
        ("A", "x\u{0}y"),
        ("A", "x$y"),
        ("A", "ü"),
        ("A", "\u{1}"),
        ("A", "AAA"),
    ];
    vec![
        ("number", numbers.into_iter().map(|number| json!(number)).collect()),
        ("text", texts.into_iter().map(|text| json!(text)).collect()),
        ("when", dates.into_iter().map(date).collect()),
        ("pointer", pointers.into_iter().map(|(class, id)| pointer(class, id)).collect()),
        ("flag", vec![json!(true), json!(false)]),
        (
            "list",
            vec![
                json!([]),
                json!([null]),
                json!([0]),
                json!([1, 2]),
                json!([2, 1]),
                json!(["a", 1]),
                json!([[1, 2]]),
                json!([true]),
                json!([pointer("A", "x")]),
                json!([pointer("A", "x"), pointer("A", "xx")]),
                json!([{"a": 1}]),
                json!(["a\u{0}"]),
            ],
        ),
        (
            "object",
            vec![
                json!({}),
                json!({"a": 1}),
                json!({"a": null}),
                json!({"a": [1, 2]}),
                json!({"a": {"b": 1}}),
                json!({"a": "1"}),
            ],
        ),
    ]
}

/// A row for each value, each twice, and a few without.
async fn fill(client: &Client, class: &str) {
    let columns = columns();
    let longest = columns.iter().map(|(_, values)| values.len()).max().unwrap();
    let mut rows: Vec<Value> = (0..longest * 2)
        .map(|at| {
            let cells = columns.iter().map(|(name, values)| ((*name).to_owned(), values[at % values.len()].clone()));
            Value::Object(cells.collect())
        })
        .collect();
    rows.push(json!({}));
    let nulls = columns.iter().map(|(name, _)| ((*name).to_owned(), Value::Null)).collect();
    rows.push(Value::Object(nulls));
    for (at, row) in rows.iter_mut().enumerate() {
        row["at"] = at.into();
    }
    for some in rows.chunks(25) {
        let path = format!("/parse/classes/{class}");
        let requests: Vec<_> = some.iter().map(|row| json!({"method": "POST", "path": path, "body": row})).collect();
        let results = client.post("/batch", json!({"requests": requests})).await.ok();
        assert!(results.as_array().unwrap().iter().all(|result| result["success"].is_object()), "{results}");
    }
}

/// The rows that a filter finds, in the order asked for.
async fn ask(client: &Client, class: &str, filter: &Value, order: &str) -> Result<Vec<i64>, String> {
    let body = json!({"_method": "GET", "where": filter, "order": order, "limit": 1_000, "keys": "at"});
    let answer = client.post(&format!("/classes/{class}"), body).await;
    match answer.body["results"].as_array() {
        Some(rows) => Ok(rows.iter().map(|row| row["at"].as_i64().unwrap()).collect()),
        None => Err(format!("{} {}", answer.status, answer.text)),
    }
}

/// The same rows by a filter that no index can answer.
fn by_scan(filter: &Value) -> Value {
    json!({"$nor": [{"$nor": [filter]}]})
}

async fn plan(client: &Client, class: &str, filter: &Value, order: &str) -> Value {
    let mut body = json!({"_method": "GET", "where": filter, "explain": true});
    if !order.is_empty() {
        body["order"] = order.into();
    }
    client.post(&format!("/classes/{class}"), body).await.ok()["results"].take()
}

/// Indexes are built beside other work; until then questions are answered without.
async fn until_planned(client: &Client, class: &str, filter: &Value, order: &str, is_so: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let plan = plan(client, class, filter, order).await;
        if is_so(&plan) {
            return;
        }
        assert!(Instant::now() < deadline, "{filter} by {order} is still answered so: {plan}");
    }
}

#[tokio::test]
async fn indexes_find_what_scans_find() {
    let server = Server::shared();
    let (master, class) = (server.master(), fresh("Indexed"));
    fill(&master, &class).await;
    // Pointers and dates have theirs by themselves.
    let indexes: Value = ["number", "text", "flag", "list", "object"]
        .into_iter()
        .map(|name| (format!("by_{name}"), json!({name: 1})))
        .collect::<serde_json::Map<_, _>>()
        .into();
    master.put(&format!("/schemas/{class}"), json!({"indexes": indexes})).await.ok();
    let mut filters = Vec::new();
    for (name, values) in columns() {
        let filter = json!({name: {"$eq": values[1]}});
        // Which index MongoDB takes is its own affair: there only the answers count.
        let is_planned_by_us = !on_mongodb();
        if is_planned_by_us {
            let plan = plan(&master, &class, &by_scan(&filter), "").await;
            assert_eq!(plan["index"], json!([]), "{name} is to be scanned");
        }
        if is_planned_by_us && name != "list" && name != "object" {
            until_planned(&master, &class, &filter, "", |plan| plan["index"] != json!([])).await;
        }
        for (at, value) in values.iter().enumerate() {
            let next = &values[(at + 1) % values.len()];
            filters.push(json!({name: {"$eq": value}}));
            filters.push(json!({name: {"$ne": value}}));
            filters.push(json!({name: {"$in": [value, next]}}));
            filters.push(json!({name: {"$nin": [value, null]}}));
            for operator in ["$lt", "$lte", "$gt", "$gte"] {
                filters.push(json!({name: {operator: value}}));
            }
            filters.push(json!({name: {"$gte": value, "$lt": next}}));
            filters.push(json!({name: {"$gt": value, "$ne": next}}));
            filters.push(json!({name: {"$all": [value]}}));
            filters.push(json!({"$or": [{name: {"$eq": value}}, {"at": {"$lt": 3}}]}));
            filters.push(json!({"$and": [{name: {"$eq": value}}, {"number": {"$exists": true}}]}));
        }
        filters.push(json!({name: null}));
        filters.push(json!({name: {"$exists": true}}));
        filters.push(json!({name: {"$exists": false}}));
        filters.push(json!({name: {"$in": []}}));
        filters.push(json!({name: {"$nin": []}}));
        filters.push(json!({name: {"$gte": null}}));
    }
    for prefix in ["^a", "^\\Qa\\E", "^", "^😀", "a$", "^é", "^\\Q\\E", "^a\\.", "(?i)^a", "^a|b"] {
        filters.push(json!({"text": {"$regex": prefix}}));
        filters.push(json!({"text": {"$regex": prefix, "$options": "i"}}));
    }
    let mut wrong = Vec::new();
    for filter in &filters {
        let (found, scanned) =
            (ask(&master, &class, filter, "at").await, ask(&master, &class, &by_scan(filter), "at").await);
        if found != scanned || found.is_err() {
            wrong.push(format!("{filter}\n    by index {found:?}\n    by scan  {scanned:?}"));
        }
    }
    println!("{} filters", filters.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), filters.len(), wrong.join("\n"));
}

#[tokio::test]
async fn indexes_put_into_the_order_that_sorting_puts_into() {
    let server = Server::shared();
    let (master, class) = (server.master(), fresh("Ordered"));
    fill(&master, &class).await;
    let least = [("number", json!(-1e300)), ("text", json!("")), ("when", date("-271821-04-20T00:00:00.000Z"))];
    // `json!` sorts names: the first of an index must be the first in the alphabet, too.
    let indexes = least.iter().map(|(name, _)| (format!("by_{name}"), json!({"flag": 1, *name: 1})));
    let indexes: serde_json::Map<String, Value> = indexes.collect();
    master.put(&format!("/schemas/{class}"), json!({"indexes": indexes})).await.ok();
    let mut wrong = Vec::new();
    for (name, least) in least {
        for (order, filter) in [
            (name.to_owned(), json!({"flag": true, name: {"$gte": least}})),
            (format!("-{name}"), json!({"flag": true, name: {"$gte": least}})),
            (name.to_owned(), json!({"flag": {"$in": [true, false]}, name: {"$gte": least}})),
            (format!("-{name}"), json!({"flag": {"$in": [true, false]}, name: {"$gt": least}})),
        ] {
            if !on_mongodb() {
                until_planned(&master, &class, &filter, &order, |plan| plan["orderedByIndex"] == true).await;
            }
            let read = ask(&master, &class, &filter, &order).await.unwrap();
            let sorted = ask(&master, &class, &by_scan(&filter), &order).await.unwrap();
            assert!(sorted.len() > 15, "{filter} by {order} has only {} rows", sorted.len());
            if read != sorted {
                wrong.push(format!("{filter} by {order}\n    by index {read:?}\n    sorted   {sorted:?}"));
            }
            // Pages put together are the whole.
            let mut paged = Vec::new();
            while paged.len() < sorted.len() {
                let (skip, filter) = (paged.len().to_string(), filter.to_string());
                let parameters =
                    [("where", filter.as_str()), ("order", &order), ("skip", &skip), ("limit", "7"), ("keys", "at")];
                let page = master.find_by(&class, &parameters).await;
                assert!(!page.is_empty(), "{order} from {skip}");
                paged.extend(page.iter().map(|row| row["at"].as_i64().unwrap()));
            }
            if paged != sorted {
                wrong.push(format!("{filter} by {order}\n    in pages {paged:?}\n    at once  {sorted:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn distinct_values_are_for_the_master_key() {
    let server = Server::shared();
    let (master, nobody, class) = (server.master(), server.nobody(), fresh("Distinct"));
    let path = format!("/aggregate/{class}");
    let (moment, friend) = (date("2026-01-02T03:04:05.678Z"), pointer("Friend", "f1"));
    let first = master
        .create(
            &class,
            json!({"city": "Rome", "tags": ["a", "b"], "at": moment, "friend": friend, "n": 1, "o": {"x": 1}}),
        )
        .await;
    master.create(&class, json!({"city": "Bonn", "tags": ["b", ["c"]], "at": null, "friend": null, "n": 2})).await;
    master.create(&class, json!({"city": "Rome", "n": 3, "ACL": {}})).await;
    let group = master.create("Group", json!({})).await;
    let add = json!({"__op": "AddRelation", "objects": [pointer(&class, &first)]});
    master.update("Group", &group, json!({fresh("members"): add, "members": add})).await;
    let related = json!({"$relatedTo": {"object": pointer("Group", &group), "key": "members"}});
    for (parameters, expected) in [
        (json!({"distinct": "city"}), json!(["Bonn", "Rome"])),
        (json!({"distinct": "tags"}), json!(["a", "b", ["c"]])),
        (json!({"distinct": "at"}), json!([moment])),
        (json!({"distinct": "friend"}), json!([friend])),
        (json!({"distinct": "o.x"}), json!([1])),
        (json!({"distinct": "never"}), json!([])),
        (json!({"distinct": "city", "where": {"n": {"$gt": 1}}, "readPreference": null}), json!(["Bonn", "Rome"])),
        (json!({"distinct": "n", "where": {"tags": "b"}, "hint": null, "pipeline": null}), json!([1, 2])),
        (json!({"distinct": "n", "where": related}), json!([1])),
    ] {
        let mut body = parameters.clone();
        body["_method"] = "GET".into();
        let answer = master.post(&path, body).await.ok();
        assert_eq!(answer, json!({"results": expected}), "{parameters}");
    }
    let by_url = master.get(&format!("{path}?distinct=n&where=%7B%22n%22%3A3%7D&readPreference=null")).await;
    assert_eq!(by_url.ok(), json!({"results": [3]}));
    let batch = json!({"requests": [{"method": "GET", "path": format!("/parse{path}"), "body": {"distinct": "city"}}]});
    assert_eq!(master.post("/batch", batch).await.ok(), json!([{"success": {"results": ["Bonn", "Rome"]}}]));

    nobody.get(&format!("{path}?distinct=n")).await.refused(403, None);
    nobody.get(&path).await.refused(403, None);
    for (parameters, code) in [
        ("", 108),
        ("?pipeline=%5B%5D", 108),
        ("?distinct=n&pipeline=%5B%5D", 108),
        ("?distinct=n&%24match=%7B%7D", 108),
        ("?distinct=n&rawValues=true", 108),
        ("?distinct=n&hint=by_n", 102),
        ("?distinct=5", 102),
        ("?distinct=ACL", 102),
        ("?distinct=_rperm", 105),
        ("?distinct=a..b", 105),
        ("?distinct=n&where=%5B%5D", 107),
        ("?distinct=n&where=%7B%22n%22%3A%7B%22%24odd%22%3A1%7D%7D", 107),
    ] {
        let answer = master.get(&format!("{path}{parameters}")).await;
        println!("{parameters} {}", answer.text);
        answer.refused(400, code);
    }
    master.get("/aggregate/_User?distinct=_hashed_password").await.refused(400, 105);
    master.get("/aggregate/1bad?distinct=n").await.refused(400, 103);
    master.post(&path, json!({"distinct": "n"})).await.refused(400, 108);
}
