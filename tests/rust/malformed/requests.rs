//! Malformed HTTP requests.

use super::{Row, check, flaw, report, row};
use crate::harness::{Client, Launch, PATIENCE, Server, date, json, pointer, query_string};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::Value;
use tokio::time::Instant;

fn plain_server() -> Server {
    Launch::plain().start()
}

fn create(body: impl Into<Vec<u8>>, code: i64) -> Row {
    row("POST", "/classes/Bad", body, 400, code)
}

fn find(filter: &str, code: i64) -> Row {
    row("GET", format!("/classes/Bad?{}", query_string(&[("where", filter)])), "", 400, code)
}

fn find_by(name: &str, value: &str, code: i64) -> Row {
    row("GET", format!("/classes/Bad?{}", query_string(&[(name, value)])), "", 400, code)
}

#[tokio::test]
async fn bodies() {
    let mut server = plain_server();
    let nested = |open: &str, close: &str| format!("{{\"a\":{}1{}}}", open.repeat(65), close.repeat(65));
    let very_deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let rows = vec![
        create("{", 107),
        create("nul", 107),
        create("{\"a\":1,}", 107),
        create("{\"a\":1} trailing", 107),
        create("{a:1}", 107),
        create("{'a':1}", 107),
        create("{\"a\":NaN}", 107),
        create("{\"a\":1e999}", 107),
        create("{\"a\":01}", 107),
        create("{\"a\":\"\u{1}\"}", 107),
        create("{\"a\":\"\\ud800\"}", 107),
        create("{\"a\":\"\\x\"}", 107),
        create(b"{\"a\":\"\xff\xfe\"}".to_vec(), 107),
        create(b"\x00\x01\x02\x03".to_vec(), 107),
        create(b"\xef\xbb\xbf{\"a\":".to_vec(), 107),
        create("\"text\"", 107),
        create("5", 107),
        create("null", 107),
        create("true", 107),
        create("[1]", 107),
        create("[{\"a\":1}]", 107),
        create(nested("[", "]"), 107),
        create(nested("{\"a\":", "}"), 107),
        create(very_deep, 107),
        create("{".repeat(100_000), 107),
        create("a=1&b=2", 107),
        create("--boundary\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--boundary--\r\n", 107),
    ];
    check(&server.nobody(), rows).await;
    server.assert_well().await;
}

#[tokio::test]
async fn field_names() {
    let mut server = plain_server();
    let long = "x".repeat(129);
    let mut rows = Vec::new();
    for name in [
        "a-b",
        "1a",
        "_x",
        "$a",
        "length",
        "className",
        "",
        " ",
        "a b",
        "ä",
        "a..b",
        "a.",
        ".a",
        ".",
        "a.$b",
        "_hashed_password",
        "_rperm",
        "_wperm",
        "_session_token",
        "_ApplicationIdX",
        "constructor",
        "__proto__",
        "hasOwnProperty()",
        "a\u{0}b",
        long.as_str(),
    ] {
        rows.push(create(json!({name: 1}).to_string(), 105));
    }
    rows.extend([
        create(r#"{"o":{"constructor":1}}"#, 105),
        create(r#"{"o":[{"__proto__":{"polluted":true}}]}"#, 105),
        create(r#"{"o":{"_bsontype":"Code","code":"x"}}"#, 105),
        create(r#"{"a":{"__op":"Add","objects":[{"constructor":1}]}}"#, 105),
        create(r#"{"objectId":"mine"}"#, 105),
        create(r#"{"objectId":5}"#, 105),
        create(r#"{"id":"mine"}"#, 105),
        create(r#"{"createdAt":"2020-01-01T00:00:00.000Z"}"#, 111),
        create(r#"{"updatedAt":5}"#, 111),
        create(r#"{"o":{"$a":1}}"#, 121),
        create(r#"{"o":{"a.b":1}}"#, 121),
        create(r#"{"o":{"deep":[{"x":{"$where":"1"}}]}}"#, 121),
        create(r#"{"a":[{"$a":1}]}"#, 121),
        create(r#"{"a":{"__op":"Add","objects":[{"a.b":1}]}}"#, 121),
        create(r#"{"a":{"__op":"SetOnInsert","amount":{"$a":1}}}"#, 121),
        row("PUT", "/classes/Bad/x", r#"{"a-b":1}"#, 400, 105),
        row("PUT", "/classes/Bad/x", r#"{"objectId":"other"}"#, 400, 105),
    ]);
    check(&server.nobody(), rows).await;
    server.assert_well().await;
}

#[tokio::test]
async fn values_and_operations() {
    let mut server = plain_server();
    let nobody = server.nobody();
    let fields = json!({
        "n": 1, "s": "x", "b": true, "d": date("2020-01-01T00:00:00Z"), "arr": [1], "o": {"t": "x", "n": 1}, "p": pointer("A", "x"),
        "g": {"__type": "GeoPoint", "latitude": 1, "longitude": 1},
    });
    let id = nobody.create("Bad", fields).await;
    let update = |body: &str, code: i64| row("PUT", format!("/classes/Bad/{id}"), body, 400, code);
    let typed = |value: &str| create(format!("{{\"new\":{value}}}"), 111);
    let rows = vec![
        typed(r#"{"__type":"Wat"}"#),
        typed(r#"{"__type":7}"#),
        typed(r#"{"__type":null}"#),
        typed(r#"{"__type":"Date"}"#),
        typed(r#"{"__type":"Date","iso":"soon"}"#),
        typed(r#"{"__type":"Date","iso":"2020-13-45T99:99:99.000Z"}"#),
        typed(r#"{"__type":"Date","iso":{}}"#),
        typed(r#"{"__type":"Pointer","className":"A"}"#),
        typed(r#"{"__type":"Pointer","className":"A","objectId":""}"#),
        typed(r#"{"__type":"Pointer","className":"A","objectId":5}"#),
        typed(r#"{"__type":"Pointer","objectId":"x"}"#),
        typed(r#"{"__type":"Pointer","className":"1","objectId":"x"}"#),
        typed(r#"{"__type":"GeoPoint","latitude":"1","longitude":"2"}"#),
        typed(r#"{"__type":"GeoPoint","latitude":91,"longitude":2}"#),
        typed(r#"{"__type":"GeoPoint","latitude":1,"longitude":181}"#),
        typed(r#"{"__type":"GeoPoint"}"#),
        typed(r#"{"__type":"Bytes","base64":""}"#),
        typed(r#"{"__type":"Bytes","base64":"@@@"}"#),
        typed(r#"{"__type":"Polygon","coordinates":[[0,0],[1,1]]}"#),
        typed(r#"{"__type":"Polygon","coordinates":"here"}"#),
        typed(r#"{"__type":"File"}"#),
        typed(r#"{"__type":"Relation"}"#),
        // Wherever they stand.
        typed(r#"[{"__type":"Pointer","className":"A"}]"#),
        typed(r#"{"deep":{"__type":"Date","iso":"soon"}}"#),
        typed(r#"{"__op":"Add","objects":[{"__type":"File"}]}"#),
        // Another type than the column's.
        create(r#"{"n":"1"}"#, 111),
        create(r#"{"s":1}"#, 111),
        create(r#"{"b":"true"}"#, 111),
        create(r#"{"d":"2020-01-01T00:00:00.000Z"}"#, 111),
        create(r#"{"arr":{}}"#, 111),
        create(r#"{"o":[]}"#, 111),
        create(r#"{"p":"x"}"#, 111),
        create(json!({"p": pointer("B", "x")}).to_string(), 111),
        create(r#"{"g":[1,1]}"#, 111),
        create(r#"{"second":{"__type":"GeoPoint","latitude":1,"longitude":1}}"#, 111),
        create(r#"{"n":{"__op":"Add","objects":[1]}}"#, 111),
        create(r#"{"n.a":1}"#, 111),
        update(r#"{"n":"1"}"#, 111),
        update(r#"{"n":{"nested":1}}"#, 111),
        update(r#"{"s":{"__op":"Increment","amount":1}}"#, 111),
        update(r#"{"n":{"__op":"AddUnique","objects":[1]}}"#, 111),
        update(r#"{"s.a":1}"#, 111),
        update(r#"{"o.t":{"__op":"Increment","amount":1}}"#, 111),
        update(r#"{"o.n":{"__op":"Add","objects":[1]}}"#, 111),
        update(r#"{"arr.x":1}"#, 111),
        update(r#"{"arr.999999999":1}"#, 111),
        update(r#"{"arr.99999999999999999999999":1}"#, 111),
        update(r#"{"arr.-1":1}"#, 111),
        // Operations.
        create(r#"{"a":{"__op":"Explode"}}"#, 107),
        create(r#"{"a":{"__op":5}}"#, 107),
        create(r#"{"a":{"__op":null}}"#, 107),
        create(r#"{"a":{"__op":"Increment"}}"#, 107),
        create(r#"{"a":{"__op":"Increment","amount":"1"}}"#, 107),
        create(r#"{"a":{"__op":"Add","objects":5}}"#, 107),
        create(r#"{"a":{"__op":"AddUnique"}}"#, 107),
        create(r#"{"a":{"__op":"Remove","objects":{}}}"#, 107),
        create(r#"{"a":{"__op":"AddRelation","objects":[]}}"#, 107),
        create(r#"{"a":{"__op":"AddRelation","objects":["x"]}}"#, 107),
        create(r#"{"a":{"__op":"Batch","ops":[]}}"#, 107),
        create(r#"{"a":{"__op":"Batch","ops":[{"__op":"Increment","amount":1}]}}"#, 108),
        create(
            json!({"a": {"__op": "AddRelation", "objects": [pointer("A", "x"), pointer("B", "x")]}}).to_string(),
            111,
        ),
        update(r#"{"n":{"__op":"Explode"}}"#, 107),
        update(r#"{"n":{"__op":"Increment","amount":{}}}"#, 107),
        update(r#"{"n":{"__op":"Increment","amount":true}}"#, 107),
        // ACLs.
        create(r#"{"ACL":true}"#, 123),
        create(r#"{"ACL":[]}"#, 123),
        create(r#"{"ACL":{"*unresolved":{"read":true}}}"#, 123),
        create(r#"{"ACL":{"u":true}}"#, 123),
        update(r#"{"ACL":{"*unresolved":{"write":true}}}"#, 123),
        // Too large for one object.
        create(format!("{{\"s\":\"{}\"}}", "x".repeat(1_200_000)), 116),
        update(&format!("{{\"s\":\"{}\"}}", "x".repeat(1_200_000)), 116),
    ];
    check(&nobody, rows).await;
    let untouched = nobody.fetch("Bad", &id).await;
    assert_eq!((&untouched["n"], &untouched["s"], &untouched["arr"]), (&json!(1), &json!("x"), &json!([1])));
    assert_eq!(nobody.find("Bad", json!({})).await.len(), 1, "nothing that was refused is there");
    server.assert_well().await;
}

#[tokio::test]
async fn an_object_grown_too_large_by_operations_is_refused() {
    let mut server = plain_server();
    let nobody = server.nobody();
    let id = nobody.create("Bad", json!({"list": []})).await;
    let add = json!({"list": {"__op": "Add", "objects": ["x".repeat(300_000)]}}).to_string();
    let mut refusal = None;
    for _ in 0..8 {
        let answer = nobody.send("PUT", &format!("/classes/Bad/{id}"), add.clone()).await;
        if answer.status != 200 {
            refusal = Some(answer);
            break;
        }
    }
    refusal.expect("eight times 300 KB exceed an object").refused(400, 116);
    assert!(nobody.fetch("Bad", &id).await["list"].as_array().unwrap().len() >= 3);
    server.assert_well().await;
}

#[tokio::test]
async fn class_names() {
    let mut server = plain_server();
    let mut rows = Vec::new();
    let long = "x".repeat(129);
    for name in [
        "1a",
        "_Nope",
        "a-b",
        "a.b",
        "constructor",
        "__proto__",
        "a%20b",
        "%00",
        "%F0%9F%98%80",
        "_Join:users:_Role",
        &long,
    ] {
        let (class, object) = (format!("/classes/{name}"), format!("/classes/{name}/x"));
        rows.push(row("POST", class.as_str(), "{}", 400, 107));
        rows.push(row("GET", object.as_str(), "", 404, 101));
        rows.push(row("PUT", object.as_str(), "{\"n\":1}", 404, 101));
        rows.push(row("DELETE", object, "", 404, 101));
    }
    // Slashes make another path, not another name.
    rows.push(row("POST", "/classes/a%2Fb", "{}", 400, 107));
    rows.push(row("POST", "/classes/%2e%2e%2f%2e%2e", "{}", 400, 107));
    for path in ["/classes/hasOwnProperty/x", "/classes/toString/x"] {
        rows.push(row("GET", path, "", 404, 101));
    }
    check(&server.nobody(), rows).await;
    // Reading such a class finds nothing, as in Parse.
    assert_eq!(server.nobody().get("/classes/1a").await.ok(), json!({"results": []}));
    server.assert_well().await;
}

#[tokio::test]
async fn filters() {
    let mut server = plain_server();
    server.nobody().create("Bad", json!({"n": 1, "s": "x", "arr": [1], "o": {"a": 1}, "p": pointer("A", "x")})).await;
    let long = vec!["o"; 201].join(".");
    let deep_or = (0..40).fold(json!({"n": 1}), |inner, _| json!({"$or": [inner]})).to_string();
    let many: Value = (0..1_100).map(|n| json!({"n": n})).collect();
    let long_list: Value = (0..10_001).collect();
    let rows = vec![
        find("{", 107),
        find("", 107),
        find("null", 107),
        find("5", 107),
        find("[]", 107),
        find("\"text\"", 107),
        find("[{\"n\":1}]", 107),
        find(r#"{"n":{"$foo":1}}"#, 107),
        find(r#"{"n":{"$elemMatch":{"a":1}}}"#, 107),
        find(r#"{"n":{"$not":{"$gt":1}}}"#, 107),
        find(r#"{"n":{"$size":1}}"#, 107),
        find(r#"{"n":{"$mod":[2,0]}}"#, 107),
        find(r#"{"n":{"$type":1}}"#, 107),
        find(r#"{"n":{"$where":"sleep(1000)"}}"#, 107),
        find(r#"{"n":{"$gt":1,"x":1}}"#, 107),
        find(r#"{"n":{"$in":5}}"#, 107),
        find(r#"{"n":{"$in":{"0":1,"length":1}}}"#, 107),
        find(r#"{"n":{"$nin":null}}"#, 107),
        find(r#"{"arr":{"$all":5}}"#, 107),
        find(r#"{"o":{"a":1}}"#, 107),
        find(r#"{"o":{}}"#, 107),
        find(r#"{"arr":[1]}"#, 107),
        find(r#"{"$foo":1}"#, 105),
        find(r#"{"$where":"1"}"#, 105),
        find(r#"{"$expr":{}}"#, 105),
        find(r#"{"":1}"#, 105),
        find(r#"{"a-b":1}"#, 105),
        find(r#"{"a..b":1}"#, 105),
        find(r#"{"a.$b":1}"#, 105),
        find(&json!({&long: 1}).to_string(), 105),
        find(&json!({"$or": [{"n": 1}, {&long: {"$exists": false}}]}).to_string(), 105),
        find(r#"{"_rperm":"*"}"#, 105),
        find(r#"{"_wperm":{"$in":["x"]}}"#, 105),
        find(r#"{"_hashed_password":{"$regex":"^a"}}"#, 105),
        find(r#"{"$or":[{"_session_token":{"$gt":""}}]}"#, 105),
        find(r#"{"constructor":1}"#, 105),
        find(r#"{"n":{"__proto__":1}}"#, 105),
        find(r#"{"ACL":{}}"#, 102),
        find(r#"{"$or":[]}"#, 102),
        find(r#"{"$and":[]}"#, 102),
        find(r#"{"$nor":[]}"#, 102),
        find(r#"{"$or":5}"#, 102),
        find(r#"{"$or":null}"#, 102),
        find(r#"{"$or":{"0":{"n":1},"length":1}}"#, 102),
        find(r#"{"$and":{"n":1}}"#, 102),
        find(r#"{"$nor":"x"}"#, 102),
        find(r#"{"$or":[5]}"#, 102),
        find(r#"{"$or":[null]}"#, 102),
        find(r#"{"$or":[[{"n":1}]]}"#, 102),
        // The depth of JSON is bounded first.
        find(&deep_or, 107),
        find(&json!({"$or": many}).to_string(), 102),
        find(r#"{"s":{"$regex":5}}"#, 102),
        find(r#"{"s":{"$regex":{}}}"#, 102),
        find(r#"{"s":{"$regex":"("}}"#, 102),
        find(r#"{"s":{"$regex":"[a"}}"#, 102),
        find(r#"{"s":{"$regex":"*"}}"#, 102),
        find(r#"{"s":{"$regex":"(?R)a"}}"#, 102),
        find(r#"{"s":{"$regex":"a{,2}"}}"#, 102),
        find(r#"{"s":{"$regex":"[a&&b]"}}"#, 102),
        find(r#"{"s":{"$all":[{"$regex":"\\h"}]}}"#, 102),
        // The engine panics on such, where it gets to see it.
        find(r#"{"s":{"$regex":"(?(1)a)b"}}"#, 102),
        find(r#"{"s":{"$regex":"(?P<x"}}"#, 102),
        find(r#"{"s":{"$regex":"((a{1,1000}){1,1000}){1,1000}"}}"#, 102),
        find(r#"{"s":{"$regex":"a","$options":""}}"#, 102),
        find(r#"{"s":{"$regex":"a","$options":"q"}}"#, 102),
        find(r#"{"s":{"$regex":"a","$options":5}}"#, 102),
        find(r#"{"s":{"$options":"i"}}"#, 102),
        find(&json!({"s": {"$regex": "a".repeat(5_000)}}).to_string(), 102),
        find(r#"{"p":{"__type":"Pointer","className":"A"}}"#, 111),
        find(r#"{"n":{"$gt":{"__type":"Date","iso":"soon"}}}"#, 111),
        find(r#"{"n":{"__type":"Wat"}}"#, 111),
        // Not built yet, and never silently without effect.
        find(r#"{"p":{"$inQuery":{"className":"A","where":{}}}}"#, 102),
        find(r#"{"p":{"$notInQuery":{"className":"A","where":{}}}}"#, 102),
        find(r#"{"n":{"$select":{"key":"n","query":{"className":"A","where":{}}}}}"#, 102),
        find(r#"{"n":{"$dontSelect":{"key":"n","query":{"className":"A","where":{}}}}}"#, 102),
        find(r#"{"g":{"$nearSphere":{"__type":"GeoPoint","latitude":1,"longitude":1}}}"#, 102),
        find(r#"{"g":{"$within":{"$box":[]}}}"#, 102),
        find(r#"{"g":{"$geoWithin":{"$polygon":[]}}}"#, 102),
        find(r#"{"g":{"$geoIntersects":{"$point":{}}}}"#, 102),
        find(r#"{"s":{"$text":{"$search":{"$term":"x"}}}}"#, 102),
        find(r#"{"arr":{"$containedBy":[1,2]}}"#, 102),
        find(r#"{"createdAt":{"$lt":{"$relativeTime":"2 days ago"}}}"#, 102),
        find(r#"{"$relatedTo":{"object":"x","key":"k"}}"#, 102),
        find(r#"{"$relatedTo":{"object":{"__type":"Pointer","className":"A","objectId":"x"},"key":"a b"}}"#, 102),
        find(r#"{"$relatedTo":[]}"#, 102),
        find(r#"{"$live":{"limit":1}}"#, 102),
        // Too long for a path, so as SDKs send it.
        row(
            "POST",
            "/classes/Bad",
            json!({"_method": "GET", "where": {"n": {"$in": long_list}}}).to_string(),
            400,
            102,
        ),
        row("POST", "/classes/Bad", r#"{"_method":"GET","where":null}"#, 400, 107),
        row("POST", "/classes/Bad", r#"{"_method":"GET","where":[]}"#, 400, 107),
        row("POST", "/classes/Bad", r#"{"_method":"GET","where":5}"#, 400, 107),
    ];
    check(&server.nobody(), rows).await;
    server.assert_well().await;
}

#[tokio::test]
async fn expressions_that_backtrack_for_ever_end() {
    let mut server = plain_server();
    let nobody = server.nobody();
    nobody.create("Bad", json!({"s": format!("{}b", "a".repeat(30_000))})).await;
    let begin = Instant::now();
    for pattern in ["^(a+)+$", "^(a|aa)+$", "^(?=(a+)+$)", "(x+x+)+y", "^(?<!b)(a*)*c$"] {
        let filter = json!({"s": {"$regex": pattern}}).to_string();
        let answer = nobody.query("Bad", &[("where", &filter)]).await;
        assert_eq!((answer.status, &answer.body["results"]), (200, &json!([])), "{pattern}");
    }
    assert!(begin.elapsed() < PATIENCE / 4, "{:?}", begin.elapsed());
    server.assert_well().await;
}

#[tokio::test]
async fn query_parameters() {
    let mut server = plain_server();
    let long = vec!["o"; 201].join(".");
    let id = server.nobody().create("Bad", json!({"n": 1})).await;
    let rows = vec![
        find_by("skip", "-1", 102),
        find_by("skip", "many", 102),
        find_by("foo", "1", 102),
        find_by("wherre", "{}", 102),
        find_by("", "1", 102),
        find_by("where[n]", "1", 102),
        find_by("order", "", 105),
        find_by("order", "1a", 105),
        find_by("order", "-", 105),
        find_by("order", "n,,n", 105),
        find_by("order", "a-b", 105),
        find_by("order", &long, 105),
        find_by("keys", &long, 105),
        find_by("order", "_hashed_password", 105),
        find_by("order", "_rperm", 105),
        find_by("explain", "true", 102),
        find_by("readPreference", "NOWHERE", 102),
        find_by("hint", "no_such_index", 102),
        find_by("include", "[[1]]", 102),
        find_by("include", "a.b.c.d.e.f.g.h.i.j.k.l", 102),
        row("GET", format!("/classes/Bad/{id}?foo=1"), "", 400, 102),
        row("GET", format!("/classes/Bad/{id}?where=%7B%7D"), "", 400, 102),
        row("GET", format!("/classes/Bad/{id}?limit=1"), "", 400, 102),
        row("POST", "/classes/Bad", r#"{"_method":"GET","limit":1,"nonsense":true}"#, 400, 102),
        row("POST", "/classes/Bad", r#"{"_method":"GET","keys":5}"#, 400, 102),
        row("POST", "/classes/Bad", r#"{"_method":"GET","include":{}}"#, 400, 102),
        row("POST", "/classes/Bad", r#"{"_method":"GET","skip":-1}"#, 400, 102),
    ];
    check(&server.nobody(), rows).await;
    let longest = vec!["o"; 65].join(".");
    for (name, value) in [("order", longest.clone()), ("where", json!({&longest: {"$exists": true}}).to_string())] {
        server.nobody().query("Bad", &[(name, &value)]).await.ok();
    }
    server.assert_well().await;
}

#[tokio::test]
async fn keys_routes_and_methods() {
    let mut server = Launch::plain().with(&["--javascript-key", "js", "--rest-key", "rest"]).start();
    let bare = Client::new(&server.url);
    let app = server.nobody();
    let js = app.clone().header("X-Parse-Javascript-Key", "js");
    for (what, client) in [
        ("no application id", bare.clone().header("X-Parse-Javascript-Key", "js")),
        ("another application id", js.clone().header("X-Parse-Application-Id", "other")),
        ("no client key", app.clone()),
        ("a wrong client key", app.clone().header("X-Parse-Javascript-Key", "wrong")),
        ("an empty client key", app.clone().header("X-Parse-Javascript-Key", "")),
        ("the key of another kind", app.clone().header("X-Parse-REST-API-Key", "js")),
        ("a key of a kind that is not configured", app.clone().header("X-Parse-Client-Key", "js")),
        ("a wrong master key alone", app.clone().header("X-Parse-Master-Key", "wrong")),
        ("wrong basic credentials", bare.clone().header("Authorization", "Basic YXBwOndyb25n")),
        ("broken basic credentials", bare.clone().header("Authorization", "Basic %%%")),
    ] {
        let answer = client.get("/classes/Bad").await;
        assert_eq!(flaw(&answer, 403, 0), None, "{what}");
        assert_eq!(answer.body, json!({"error": "unauthorized"}), "{what}");
    }
    for client in [js.clone(), app.clone().header("X-Parse-REST-API-Key", "rest"), server.master()] {
        client.get("/classes/Bad").await.ok();
    }
    let rows = vec![
        row("POST", "/classes/Bad", r#"{"_ApplicationId":5}"#, 403, 0),
        row("POST", "/classes/Bad", r#"{"_MasterKey":5}"#, 403, 0),
        row("POST", "/classes/Bad", r#"{"_SessionToken":{}}"#, 403, 0),
        row("POST", "/classes/Bad", r#"{"_InstallationId":[]}"#, 403, 0),
        row("POST", "/classes/Bad", r#"{"_ContentType":7}"#, 403, 0),
        row("POST", "/classes/Bad", r#"{"_context":5}"#, 400, 107),
        row("POST", "/classes/Bad", r#"{"_context":"[1]"}"#, 400, 107),
        row("POST", "/classes/Bad", r#"{"_context":"{"}"#, 400, 107),
        row("POST", "/classes/Bad", r#"{"_method":"PATCH"}"#, 404, 0),
        row("POST", "/classes/Bad", r#"{"_method":""}"#, 404, 0),
        row("PATCH", "/classes/Bad/x", "{}", 404, 0),
        row("PUT", "/classes/Bad", "{}", 404, 0),
        row("DELETE", "/classes/Bad", "", 404, 0),
        row("POST", "/classes/Bad/x", "{}", 404, 0),
        row("GET", "/nowhere", "", 404, 0),
        row("GET", "/classes", "", 404, 0),
        row("GET", "/classes/Bad/x/y", "", 404, 0),
        row("GET", "/batch", "", 404, 0),
        row("TRACE", "/classes/Bad", "", 404, 0),
        row("GET", "/%2e%2e/%2e%2e/etc/passwd", "", 404, 0),
        row("GET", "/serverInfo", "", 403, 0),
        row("GET", "/schemas", "", 403, 0),
        row("GET", "/schemas/_User", "", 403, 0),
        row("POST", "/schemas/Bad", "{}", 403, 0),
        row("PUT", "/schemas/_User", "{}", 403, 0),
        row("DELETE", "/schemas/Bad", "", 403, 0),
    ];
    check(&js, rows).await;
    // A wrong master key beside a right client key makes an ordinary client.
    js.clone().header("X-Parse-Master-Key", "wrong").get("/schemas").await.refused(403, None);
    js.clone().header("X-Parse-Cloud-Context", "[1]").get("/classes/Bad").await.refused(400, 107);
    server.assert_well().await;
}

#[tokio::test]
async fn sessions_that_are_none() {
    let mut server = plain_server();
    let alice = server.sign_up("alice").await;
    let foreign = Launch::plain().start().sign_up("alice").await.token().to_owned();
    let genuine = alice.token().to_owned();
    let jwt = genuine.strip_prefix("r:").unwrap();
    let parts: Vec<&str> = jwt.split('.').collect();
    let [head, claims, signature] = parts.as_slice() else { panic!("not a JWT: {genuine}") };
    let read: Value = serde_json::from_slice(&unescape(claims)).unwrap();
    let forge = |algorithm, secret: &[u8]| {
        let token = encode(&Header::new(algorithm), &read, &EncodingKey::from_secret(secret)).unwrap();
        format!("r:{token}")
    };
    let gone = server.sign_up("bob").await;
    gone.post("/logout", json!({})).await.ok();
    // {"alg":"none","typ":"JWT"}, {"alg":"NONE"}
    let (none, shouted) = ("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0", "eyJhbGciOiJOT05FIn0");
    // The same user, another session's id: signed claims cannot be mended.
    let other_claims = claims.chars().rev().collect::<String>();
    let tokens = [
        "r:".to_owned(),
        "r:0123456789abcdef0123456789abcdef".into(),
        "nonsense".into(),
        jwt.to_owned(),
        format!("R:{jwt}"),
        format!("r:{none}.{claims}."),
        format!("r:{none}.{claims}.{signature}"),
        format!("r:{shouted}.{claims}."),
        format!("r:{head}.{claims}."),
        format!("r:{head}.{claims}"),
        format!("r:{head}.{other_claims}.{signature}"),
        format!("r:{head}..{signature}"),
        genuine[..genuine.len() - 1].to_owned(),
        format!("{genuine}x"),
        format!("{genuine} {genuine}"),
        forge(Algorithm::HS256, b"another secret"),
        forge(Algorithm::HS256, b""),
        forge(Algorithm::HS512, b"another secret"),
        foreign,
        gone.token().to_owned(),
        "x".repeat(20_000),
    ];
    let (mut complaints, mut rows) = (Vec::new(), 0);
    for token in tokens {
        let bearer = server.nobody().header("X-Parse-Session-Token", &token);
        for (method, path, body) in [
            ("GET", "/users/me", ""),
            ("GET", "/classes/Bad", ""),
            ("POST", "/classes/Bad", "{}"),
            ("POST", "/logout", "{}"),
            ("GET", "/sessions/me", ""),
            ("POST", "/batch", r#"{"requests":[]}"#),
            ("POST", "/users", r#"{"username":"new","password":"p"}"#),
        ] {
            rows += 1;
            complaints.extend(
                row(method, path, body, 400, 209).complaint(&bearer).await.map(|text| format!("{token}: {text}")),
            );
        }
    }
    for path in ["/users/me", "/sessions/me", "/sessions", "/sessions/x"] {
        rows += 1;
        complaints.extend(row("GET", path, "", 400, 209).complaint(&server.nobody()).await);
    }
    report(rows, &complaints);
    // Where a dead token does not matter: at the log-in, and beside the master key.
    let bearer = server.nobody().header("X-Parse-Session-Token", "r:dead");
    bearer.post("/login", json!({"username": alice.name, "password": "secret"})).await.ok();
    server.master().header("X-Parse-Session-Token", "r:dead").get("/classes/Bad").await.ok();
    alice.get("/users/me").await.ok();
    server.assert_well().await;
}

fn unescape(base64: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for byte in base64.bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => continue,
        };
        (bits, count) = (bits << 6 | u32::from(six), count + 6);
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xff) as u8);
        }
    }
    out
}

#[tokio::test]
async fn a_session_expires() {
    let mut server = Launch::plain().with(&["--session-length", "1"]).start();
    let alice = server.sign_up("alice").await;
    let deadline = Instant::now() + PATIENCE;
    // A second is soon over; until then the session is good.
    let refusal = loop {
        let answer = alice.get("/users/me").await;
        match answer.status {
            200 => assert!(Instant::now() < deadline, "the session does not end"),
            _ => break answer,
        }
    };
    refusal.refused(400, 209);
    alice.post("/classes/Bad", json!({})).await.refused(400, 209);
    server.assert_well().await;
}

#[tokio::test]
async fn batches() {
    let mut server = plain_server();
    let part = |method: &str, path: &str| json!({"method": method, "path": path, "body": {}});
    let batch =
        |requests: Value, code: i64| row("POST", "/batch", json!({"requests": requests}).to_string(), 400, code);
    let whole = |transaction: Value, requests: Value| {
        row("POST", "/batch", json!({"requests": requests, "transaction": transaction}).to_string(), 400, 107)
    };
    let good = part("POST", "/parse/classes/Bad");
    let rows = vec![
        row("POST", "/batch", "{}", 400, 107),
        row("POST", "/batch", r#"{"requests":5}"#, 400, 107),
        row("POST", "/batch", r#"{"requests":{"0":{}}}"#, 400, 107),
        batch(json!([5]), 107),
        batch(json!([null]), 107),
        batch(json!([{}]), 107),
        batch(json!([{"method": "POST"}]), 107),
        batch(json!([{"path": "/parse/classes/Bad"}]), 107),
        batch(json!([{"method": "POST", "path": 5}]), 107),
        batch(json!([{"method": 5, "path": "/parse/classes/Bad"}]), 107),
        batch(json!([part("post", "/parse/classes/Bad")]), 107),
        batch(json!([part("PATCH", "/parse/classes/Bad/x")]), 107),
        batch(json!([part("", "/parse/classes/Bad")]), 107),
        batch(json!([part("POST", "/classes/Bad")]), 107),
        batch(json!([part("POST", "/elsewhere/classes/Bad")]), 107),
        batch(json!([part("POST", "/parse/nowhere")]), 107),
        batch(json!([part("PUT", "/parse/classes/Bad")]), 107),
        batch(json!([part("POST", "")]), 107),
        batch(json!([part("POST", "http://127.0.0.1/parse/classes/Bad")]), 107),
        batch(json!([part("POST", "/parse/batch")]), 107),
        batch(json!([part("POST", "/parse/Batch/")]), 107),
        batch(json!([{"method": "POST", "path": "/parse/classes/Bad", "body": [1]}]), 107),
        batch(json!([{"method": "POST", "path": "/parse/classes/Bad", "body": "text"}]), 107),
        batch(json!(vec![good.clone(); 51]), 107),
        // One part that cannot be routed keeps all others from being done.
        batch(json!([good, part("POST", "/parse/nowhere")]), 107),
        whole(json!(true), json!([good, part("GET", "/parse/classes/Bad")])),
        whole(json!(true), json!([good, part("POST", "/parse/login")])),
        whole(json!(true), json!([good, part("POST", "/parse/batch")])),
        whole(json!(true), json!([good, part("POST", "/parse/nowhere")])),
        whole(json!(true), json!([good, 5])),
        whole(json!(true), json!([good, part("POST", "/parse/classes/1bad")])),
        whole(json!(true), json!([good, {"method": "POST", "path": "/parse/classes/Bad", "body": [1]}])),
        whole(
            json!(true),
            json!([good, {"method": "POST", "path": "/parse/classes/Bad", "body": {"a": {"__op": "?"}}}]),
        ),
        whole(json!(true), json!(vec![good.clone(); 51])),
        whole(json!(true), json!({"0": good})),
        whole(json!("true"), json!([good])),
        whole(json!(1), json!([good])),
        whole(json!({}), json!([good])),
        whole(json!([]), json!([good])),
    ];
    check(&server.nobody(), rows).await;
    assert_eq!(server.nobody().find("Bad", json!({})).await.len(), 0, "nothing of it was done");
    // The master's batches are not bounded in number.
    for transaction in [json!(false), Value::Null, json!(true)] {
        let batch = json!({"requests": vec![good.clone(); 60], "transaction": transaction});
        assert_eq!(server.master().post("/batch", batch).await.ok().as_array().unwrap().len(), 60);
    }
    // But what one transaction may write is.
    let whole = json!({"requests": vec![good; 4_001], "transaction": true});
    server.master().post("/batch", whole).await.refused(400, 107);
    assert_eq!(server.master().query("Bad", &[("limit", "0"), ("count", "1")]).await.ok()["count"], 180);
    server.assert_well().await;
}

#[tokio::test]
async fn users() {
    let mut server = plain_server();
    let nobody = server.nobody();
    let account = json!({"username": "Taken", "password": "p", "email": "Taken@example.org"});
    let taken = nobody.post("/users", account).await.created()["objectId"].as_str().unwrap().to_owned();
    let sign_up = |body: &str, code: i64| row("POST", "/users", body, 400, code);
    let log_in = |body: &str, status: u16, code: i64| row("POST", "/login", body, status, code);
    let users =
        |name: &str, value: &str| row("GET", format!("/users?{}", query_string(&[(name, value)])), "", 400, 119);
    let rows = vec![
        sign_up("{}", 200),
        sign_up(r#"{"password":"p"}"#, 200),
        sign_up(r#"{"username":"","password":"p"}"#, 200),
        sign_up(r#"{"username":5,"password":"p"}"#, 200),
        sign_up(r#"{"username":null,"password":"p"}"#, 200),
        sign_up(r#"{"username":["a"],"password":"p"}"#, 200),
        sign_up(r#"{"username":"a"}"#, 201),
        sign_up(r#"{"username":"a","password":""}"#, 201),
        sign_up(r#"{"username":"a","password":5}"#, 201),
        sign_up(r#"{"username":"a","password":{"__op":"Delete"}}"#, 201),
        sign_up(r#"{"username":"Taken","password":"p"}"#, 202),
        sign_up(r#"{"username":"tAKEN","password":"p"}"#, 202),
        sign_up(r#"{"username":"a","password":"p","email":"taken@EXAMPLE.org"}"#, 203),
        sign_up(r#"{"username":"a","password":"p","email":"nowhere"}"#, 125),
        sign_up(r#"{"username":"a","password":"p","email":5}"#, 125),
        sign_up(r#"{"username":"a","password":"p","email":{"a":1}}"#, 125),
        sign_up(r#"{"username":"a","password":"p","emailVerified":true}"#, 119),
        sign_up(r#"{"username":"a","password":"p","authData":null}"#, 252),
        sign_up(r#"{"username":"a","password":"p","authData":5}"#, 252),
        sign_up(r#"{"authData":{}}"#, 252),
        sign_up(r#"{"authData":{"facebook":{"id":"1","access_token":"x"}}}"#, 252),
        sign_up(r#"{"authData":{"anonymous":{"id":5}}}"#, 162),
        sign_up(r#"{"username":"a","password":"p","_hashed_password":"x"}"#, 105),
        sign_up(r#"{"username":"a","password":"p","_auth_data_anonymous":"x"}"#, 105),
        sign_up(r#"{"username":"a","password":"p","objectId":"mine"}"#, 105),
        sign_up(r#"{"username":"a","password":"p","ACL":{"*unresolved":{"read":true}}}"#, 123),
        row("POST", "/classes/_User", "{}", 400, 200),
        log_in("{}", 400, 200),
        log_in(r#"{"password":"p"}"#, 400, 200),
        log_in(r#"{"username":"Taken"}"#, 400, 201),
        log_in(r#"{"username":"Taken","password":"wrong"}"#, 404, 101),
        log_in(r#"{"username":"taken","password":"p"}"#, 404, 101),
        log_in(r#"{"username":"nobody","password":"p"}"#, 404, 101),
        log_in(r#"{"username":{"$gt":""},"password":"p"}"#, 404, 101),
        log_in(r#"{"username":"Taken","password":{"$ne":""}}"#, 404, 101),
        log_in(r#"{"username":["Taken"],"password":"p"}"#, 404, 101),
        log_in(r#"{"email":{"$regex":"."},"password":"p"}"#, 404, 101),
        row("PUT", format!("/users/{taken}"), r#"{"nick":"x"}"#, 400, 206),
        row("PUT", format!("/classes/_User/{taken}"), r#"{"nick":"x"}"#, 400, 206),
        row("DELETE", format!("/users/{taken}"), "", 400, 206),
        row("GET", format!("/users/{taken}"), "", 404, 101),
        row("PUT", "/users/me", "{}", 400, 206),
        users("where", r#"{"email":"taken@example.org"}"#),
        users("where", r#"{"email":{"$exists":true}}"#),
        users("where", r#"{"email":{"$regex":"^t"}}"#),
        users("where", r#"{"$or":[{"email":{"$gt":"a"}},{"username":"x"}]}"#),
        users("where", r#"{"$nor":[{"$and":[{"email":"x"}]}]}"#),
        users("where", r#"{"email.x":1}"#),
        users("order", "email"),
        users("order", "username,-email"),
        row("POST", "/classes/_Session", "{}", 400, 119),
    ];
    check(&nobody, rows).await;

    let alice = server.sign_up("alice").await;
    let own = |body: &str, code: i64| row("PUT", format!("/users/{}", alice.id()), body, 400, code);
    let session = alice.get("/sessions/me").await.ok()["objectId"].as_str().unwrap().to_owned();
    let of_session = |body: &str| row("PUT", format!("/sessions/{session}"), body, 400, 105);
    let rows = vec![
        own(r#"{"username":"TAKEN"}"#, 202),
        own(r#"{"email":"TAKEN@example.org"}"#, 203),
        own(r#"{"email":"nowhere"}"#, 125),
        own(r#"{"username":""}"#, 200),
        own(r#"{"username":{"__op":"Delete"}}"#, 200),
        own(r#"{"password":""}"#, 201),
        own(r#"{"password":5}"#, 201),
        own(r#"{"emailVerified":true}"#, 119),
        own(r#"{"authData":{"facebook":{"id":"1"}}}"#, 252),
        own(r#"{"_hashed_password":"x"}"#, 105),
        row("PUT", format!("/users/{taken}"), r#"{"nick":"x"}"#, 400, 206),
        row("DELETE", format!("/users/{taken}"), "", 400, 206),
        row("PUT", "/users/nobody", "{}", 400, 206),
        of_session(r#"{"user":null}"#),
        of_session(r#"{"installationId":"x"}"#),
        of_session(r#"{"sessionToken":"r:x"}"#),
        of_session(r#"{"expiresAt":null}"#),
        of_session(r#"{"createdWith":{}}"#),
        of_session(r#"{"ACL":{}}"#),
    ];
    check(&alice, rows).await;
    alice.get("/users/me").await.ok();
    server.assert_well().await;
}

#[tokio::test]
async fn what_comes_later_is_refused_clearly() {
    let mut server = plain_server();
    let nobody = server.nobody();
    let mut rows = Vec::new();
    for (method, path) in [
        ("POST", "/functions/hello"),
        ("POST", "/jobs/clean"),
        ("POST", "/files/a.txt"),
        ("DELETE", "/files/a.txt"),
        ("GET", "/hooks/functions"),
        ("POST", "/hooks/triggers"),
        ("POST", "/aggregate/Bad"),
        ("DELETE", "/purge/Bad"),
        ("GET", "/roles"),
        ("POST", "/roles"),
        ("GET", "/installations"),
        ("POST", "/installations"),
        ("GET", "/config"),
        ("PUT", "/config"),
        ("POST", "/push"),
        ("POST", "/requestPasswordReset"),
        ("POST", "/verificationEmailRequest"),
        ("POST", "/loginAs"),
        ("GET", "/scriptlog"),
        ("GET", "/cloud_code/jobs"),
    ] {
        rows.push(row(method, path, "{}", 400, 108));
    }
    check(&nobody, rows).await;
    // Classes that exist in Parse only with their features: refused, not made as ordinary ones.
    for name in ["_Role", "_Installation", "_PushStatus", "_Hooks", "_GlobalConfig", "_Audience"] {
        let answer = nobody.post(&format!("/classes/{name}"), json!({"name": "x"})).await;
        assert_eq!(answer.status, 400, "{name}: {}", answer.text);
        let code = answer.body["code"].as_i64().unwrap();
        assert!([102, 108, 119].contains(&code), "{name}: {}", answer.text);
    }
    server.assert_well().await;
}

#[tokio::test]
async fn schemas() {
    let mut server = plain_server();
    let master = server.master();
    master.post("/schemas/Known", json!({"fields": {"n": {"type": "Number"}}})).await.ok();
    master.create("Known", json!({"n": 1})).await;
    let make = |body: &str, code: i64| row("POST", "/schemas/New", body, 400, code);
    let change = |body: &str, code: i64| row("PUT", "/schemas/Known", body, 400, code);
    let permit = |body: &str, code: i64| change(&format!("{{\"classLevelPermissions\":{body}}}"), code);
    let rows = vec![
        row("POST", "/schemas", "{}", 400, 135),
        row("POST", "/schemas", r#"{"className":"Known"}"#, 400, 103),
        row("POST", "/schemas/Known", "{}", 400, 103),
        row("POST", "/schemas/_User", "{}", 400, 103),
        row("POST", "/schemas", r#"{"className":"1a"}"#, 400, 103),
        row("POST", "/schemas/a-b", "{}", 400, 103),
        row("POST", "/schemas/constructor", "{}", 400, 103),
        row("POST", "/schemas/_Nope", "{}", 400, 103),
        row("POST", "/schemas/New", r#"{"className":"Other"}"#, 400, 103),
        row("GET", "/schemas/Unknown", "", 400, 103),
        row("GET", "/schemas/1a", "", 400, 103),
        row("PUT", "/schemas/Unknown", "{}", 400, 103),
        row("PUT", "/schemas/Known", r#"{"className":"Other"}"#, 400, 103),
        row("DELETE", "/schemas/1a", "", 400, 103),
        row("DELETE", "/schemas/Known", "", 400, 255),
        make(r#"{"fields":5}"#, 107),
        make(r#"{"fields":{"a":"Number"}}"#, 107),
        make(r#"{"fields":{"a":{}}}"#, 107),
        make(r#"{"fields":{"a":{"type":"Wat"}}}"#, 111),
        make(r#"{"fields":{"a":{"type":5}}}"#, 107),
        make(r#"{"fields":{"a":{"type":"Pointer"}}}"#, 135),
        make(r#"{"fields":{"a":{"type":"Pointer","targetClass":"1a"}}}"#, 103),
        make(r#"{"fields":{"a-b":{"type":"Number"}}}"#, 105),
        make(r#"{"fields":{"_x":{"type":"Number"}}}"#, 105),
        make(r#"{"fields":{"length":{"type":"Number"}}}"#, 105),
        make(r#"{"fields":{"constructor":{"type":"Number"}}}"#, 105),
        make(r#"{"fields":{"a":{"type":"GeoPoint"},"b":{"type":"GeoPoint"}}}"#, 111),
        make(r#"{"indexes":{"i":{"nothing":1}}}"#, 102),
        make(r#"{"indexes":{"i":{}}}"#, 102),
        make(r#"{"indexes":5}"#, 107),
        make(r#"{"nonsense":true}"#, 107),
        change(r#"{"fields":{"n":{"type":"String"}}}"#, 255),
        change(r#"{"fields":{"n":{"type":"String"}}}"#, 255),
        change(r#"{"fields":{"x":{"type":"Number","required":1}}}"#, 111),
        change(r#"{"fields":{"x":{"type":"Number","defaultValue":"1"}}}"#, 111),
        change(r#"{"fields":{"n":{"type":"Number","defaultValue":[]}}}"#, 111),
        change(r#"{"fields":{"x":{"type":"Relation","targetClass":"A","required":true}}}"#, 111),
        change(r#"{"fields":{"x":{"type":"Object","defaultValue":{"a":{"$b":1}}}}}"#, 121),
        change(r#"{"fields":{"x":{"type":"Object","defaultValue":{"a\u0000":1}}}}"#, 121),
        change(r#"{"fields":{"x":{"type":"Object","defaultValue":{"__op":"Delete"}}}}"#, 111),
        change(r#"{"fields":{"nothing":{"__op":"Delete"}}}"#, 255),
        change(r#"{"fields":{"createdAt":{"__op":"Delete"}}}"#, 136),
        change(r#"{"fields":{"objectId":{"__op":"Delete"}}}"#, 136),
        change(r#"{"fields":{"a":{"type":"Wat"}}}"#, 111),
        change(r#"{"indexes":{"i":{"nothing":1}}}"#, 102),
        change(r#"{"indexes":{"i":{"__op":"Delete"}}}"#, 102),
        change(r#"{"indexes":{"i":{"n":"down"}}}"#, 102),
        row("PUT", "/schemas/_User", r#"{"fields":{"username":{"__op":"Delete"}}}"#, 400, 136),
        permit("5", 107),
        permit(r#"{"fly":{"*":true}}"#, 107),
        permit(r#"{"find":true}"#, 107),
        permit(r#"{"find":{"*":false}}"#, 107),
        permit(r#"{"find":{"*":"yes"}}"#, 107),
        permit(r#"{"find":{"a b":true}}"#, 107),
        permit(r#"{"protectedFields":{"*":["nothing"]}}"#, 107),
        permit(r#"{"protectedFields":{"*":["objectId"]}}"#, 107),
        permit(r#"{"protectedFields":{"*":"n"}}"#, 107),
        permit(r#"{"protectedFields":[]}"#, 107),
        permit(r#"{"find":{"role:Admin":true}}"#, 102),
        permit(r#"{"find":{"pointerFields":["owner"]}}"#, 102),
        permit(r#"{"readUserFields":["owner"]}"#, 102),
    ];
    check(&master, rows).await;
    let known = master.get("/schemas/Known").await.ok();
    assert_eq!(known["classLevelPermissions"]["find"], json!({"*": true}), "nothing of it was done");
    assert_eq!(known["fields"].as_object().unwrap().len(), 5, "{known}");
    master.get("/schemas/New").await.refused(400, 103);
    server.assert_well().await;
}

/// Every beginning of a good request, and every request with one byte of it changed, is answered below 500.
#[tokio::test]
async fn requests_that_are_cut_or_damaged() {
    let mut server = plain_server();
    let nobody = server.nobody();
    let good = json!({
        "p": pointer("A", "x"), "d": date("2020-01-01T00:00:00Z"), "n": {"__op": "Increment", "amount": 1},
        "l": [1, {"a": null}], "ACL": {"*": {"read": true}}, "o.x": -1.5e3,
    })
    .to_string();
    let filter = r#"{"$or":[{"n":{"$gt":1,"$in":[1]}},{"s":{"$regex":"a+","$options":"i"}}],"p":{"__type":"Pointer","className":"A","objectId":"x"}}"#;
    let mut answered = 0;
    let mut complaints = Vec::new();
    let mut tell = |answer: Result<crate::harness::Answer, String>, sent: String| match answer {
        Ok(answer) if answer.status < 500 => answered += 1,
        Ok(answer) => complaints.push(format!("{sent}\n    {} {}", answer.status, answer.text)),
        Err(error) => complaints.push(format!("{sent}\n    {error}")),
    };
    for at in 0..good.len() {
        let cut = &good[..at];
        tell(nobody.try_send("POST", "/classes/Cut", cut.to_owned()).await, cut.to_owned());
        for byte in [b'"', b'{', b'$', 0, 0xff] {
            let mut damaged = good.clone().into_bytes();
            damaged[at] = byte;
            let sent = String::from_utf8_lossy(&damaged).into_owned();
            // A class each: what one damaged request taught the schema is no matter of the next.
            tell(nobody.try_send("POST", &format!("/classes/Cut{}", at % 7), damaged).await, sent);
        }
    }
    for at in 0..filter.len() {
        for byte in ["", "\"", "$", "}", "1"] {
            let damaged = format!("{}{byte}{}", &filter[..at], &filter[at + 1..]);
            let path = format!("/classes/Cut?{}", query_string(&[("where", &damaged)]));
            tell(nobody.try_send("GET", &path, "").await, damaged);
        }
    }
    report(answered + complaints.len(), &complaints);
    server.assert_well().await;
}
