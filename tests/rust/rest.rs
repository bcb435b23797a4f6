//! Objects over REST, in the details that SDKs rely on: statuses, echoes, parameters, envelopes.

use crate::harness::{Client, Launch, Server, Value, date, fresh, id_of, json, members, on_mongodb, pointer};

// ---- create, read, update, delete

#[tokio::test]
async fn a_create_answers_201_with_the_place_of_the_object() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let answer = nobody.post(&format!("/classes/{class}"), json!({"text": "hi", "n": 1})).await;
    let location = answer.header("location").unwrap().to_owned();
    let created = answer.created();
    assert_eq!(members(&created), ["createdAt", "objectId"], "what was sent is not echoed");
    let id = id_of(&created);
    assert!(id.len() == 10 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
    assert!(location.ends_with(&format!("/parse/classes/{class}/{id}")), "{location}");
    let stamp = created["createdAt"].as_str().unwrap();
    assert!(stamp.len() == 24 && stamp.ends_with('Z') && &stamp[19..20] == ".", "{stamp}");

    let object = nobody.fetch(&class, &id).await;
    let expected = json!({"objectId": id, "text": "hi", "n": 1, "createdAt": stamp, "updatedAt": stamp});
    assert_eq!(object, expected, "no className, no __type, no ACL");
}

#[tokio::test]
async fn every_type_comes_back_as_it_was_sent() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Typed"));
    let fields = json!({
        "text": "ü 😀 \" \\ \n", "whole": 5, "half": 0.5, "large": 9_007_199_254_740_991_i64, "yes": true, "none": null,
        "date": date("2026-01-02T03:04:05.678Z"),
        "bytes": {"__type": "Bytes", "base64": "AAEC/w=="},
        "place": {"__type": "GeoPoint", "latitude": 40.5, "longitude": -30},
        "area": {"__type": "Polygon", "coordinates": [[0, 0], [0, 1], [1, 1], [0, 0]]},
        "pointer": pointer("Target", "abc"),
        "list": [1, "two", [3, null], {"four": 4}, date("2026-01-02T03:04:05.678Z"), pointer("Target", "abc")],
        "object": {"a": {"b": [pointer("Target", "abc")]}, "date": date("2026-01-02T03:04:05.678Z")},
    });
    let id = nobody.create(&class, fields.clone()).await;
    let object = nobody.fetch(&class, &id).await;
    for (name, value) in fields.as_object().unwrap() {
        assert_eq!(object[name], *value, "{name}");
    }
}

#[tokio::test]
async fn dates_become_utc_with_milliseconds_and_rings_are_closed() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Typed"));
    for (sent, stored) in [
        ("2020-01-01T02:00:00+02:00", "2020-01-01T00:00:00.000Z"),
        ("2020-01-01T00:00:00Z", "2020-01-01T00:00:00.000Z"),
        ("2020-01-01T00:00:00.1239Z", "2020-01-01T00:00:00.123Z"),
        ("-000001-12-31T23:59:59.999Z", "-000001-12-31T23:59:59.999Z"),
        ("9999-12-31T23:59:59.999-00:01", "+010000-01-01T00:00:59.999Z"),
        ("+275760-09-13T00:00:00.000Z", "+275760-09-13T00:00:00.000Z"),
    ] {
        let id = nobody.create(&class, json!({"at": date(sent)})).await;
        assert_eq!(nobody.fetch(&class, &id).await["at"], date(stored), "{sent}");
    }
    let millis = json!({"at": {"__type": "Date", "iso": 1_577_836_800_000_i64}});
    let id = nobody.create(&class, millis).await;
    assert_eq!(nobody.fetch(&class, &id).await["at"], date("2020-01-01T00:00:00.000Z"));
    let open = json!({"area": {"__type": "Polygon", "coordinates": [[0, 0], [0, 1], [1, 1]]}});
    let id = nobody.create(&class, open).await;
    let closed = json!({"__type": "Polygon", "coordinates": [[0, 0], [0, 1], [1, 1], [0, 0]]});
    assert_eq!(nobody.fetch(&class, &id).await["area"], closed);
}

#[tokio::test]
async fn what_a_client_must_not_set_is_ignored_or_refused() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let path = format!("/classes/{class}");
    for ignored in
        [json!({"objectId": null}), json!({"objectId": ""}), json!({"createdAt": date("2001-01-01T00:00:00Z")})]
    {
        let created = nobody.post(&path, ignored.clone()).await.created();
        assert!(!created["createdAt"].as_str().unwrap().starts_with("2001"), "{ignored}");
    }
    let id = nobody.create(&class, json!({"n": 1})).await;
    let before = nobody.fetch(&class, &id).await;
    nobody.update(&class, &id, json!({"createdAt": "2001-01-01T00:00:00.000Z", "updatedAt": "soon"})).await;
    let after = nobody.fetch(&class, &id).await;
    assert_eq!(after["createdAt"], before["createdAt"]);
    nobody.put(&format!("{path}/{id}"), json!({"objectId": "other"})).await.refused(400, 105);
}

#[tokio::test]
async fn an_update_answers_when_and_what_operations_gave() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let id = nobody.create(&class, json!({"n": 1, "tags": ["a"], "o": {"cnt": 1, "keep": true}, "gone": 1})).await;

    let plain = nobody.update(&class, &id, json!({"text": "new", "gone": {"__op": "Delete"}})).await;
    assert_eq!(members(&plain), ["updatedAt"], "plain sets and deletions are not echoed");

    let touched = nobody.update(&class, &id, json!({})).await;
    assert!(touched["updatedAt"].as_str() >= plain["updatedAt"].as_str(), "an empty update is one");

    let mut echoed = nobody
        .update(
            &class,
            &id,
            json!({
                "n": {"__op": "Increment", "amount": 4},
                "tags": {"__op": "AddUnique", "objects": ["a", "b"]},
                "more": {"__op": "Add", "objects": [1, 1]},
                "o.cnt": {"__op": "Increment", "amount": 2},
            }),
        )
        .await;
    echoed.as_object_mut().unwrap().remove("updatedAt").unwrap();
    assert_eq!(echoed, json!({"n": 5, "tags": ["a", "b"], "more": [1, 1], "o": {"cnt": 3}}), "dotted ones are nested");
    let bare = nobody.create(&class, json!({})).await;
    let into_nothing = nobody.put(&format!("/classes/{class}/{bare}"), json!({"tags.0": 1})).await;
    into_nothing.refused(400, 111);

    let removed = nobody.update(&class, &id, json!({"more": {"__op": "Remove", "objects": [1]}})).await;
    assert_eq!(removed["more"], json!([]));
    nobody.update(&class, &id, json!({"more": [1, {"n": 1}]})).await;
    let indexed = nobody.update(&class, &id, json!({"more.0": {"__op": "Increment", "amount": 1}})).await;
    assert_eq!(indexed["more"], json!([2, {"n": 1}]), "an element is echoed as its whole array");

    nobody.update(&class, &id, json!({"o.new.deep": 1})).await;
    let object = nobody.fetch(&class, &id).await;
    assert_eq!(object["o"], json!({"cnt": 3, "keep": true, "new": {"deep": 1}}), "siblings stay");
    assert_eq!((&object["text"], object.get("gone")), (&json!("new"), None));
}

#[tokio::test]
async fn operations_in_a_create_give_values() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let created = nobody
        .post(
            &format!("/classes/{class}"),
            json!({
                "n": {"__op": "Increment", "amount": 3},
                "list": {"__op": "Add", "objects": [1]},
                "unique": {"__op": "AddUnique", "objects": [1, 1]},
                "none": {"__op": "Remove", "objects": [1]},
                "gone": {"__op": "Delete"},
                "o.a": 1,
            }),
        )
        .await
        .created();
    let object = nobody.fetch(&class, &id_of(&created)).await;
    for of in [&created, &object] {
        assert_eq!((&of["n"], &of["list"]), (&json!(3), &json!([1])), "{of}");
        assert_eq!((&of["unique"], &of["none"]), (&json!([1, 1]), &json!([])), "repeats are kept: {of}");
        assert_eq!((of.get("gone"), &of["o"]), (None, &json!({"a": 1})), "dotted keys are expanded: {of}");
    }
}

#[tokio::test]
async fn null_is_a_value_except_for_a_pointer() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let id = nobody.create(&class, json!({"n": 1, "p": pointer("Target", "abc")})).await;
    nobody.update(&class, &id, json!({"n": null, "p": null})).await;
    let object = nobody.fetch(&class, &id).await;
    assert_eq!((object.get("n"), object.get("p")), (Some(&Value::Null), None), "{object}");
    let incremented = nobody.update(&class, &id, json!({"n": {"__op": "Increment", "amount": 2}})).await;
    assert_eq!(incremented["n"], 2, "null counts as nothing");
}

#[tokio::test]
async fn what_is_not_there_is_404_101() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let id = nobody.create(&class, json!({})).await;
    nobody.destroy(&class, &id).await;
    for path in
        [format!("/classes/{class}/{id}"), format!("/classes/{class}/none"), format!("/classes/{}/x", fresh("No"))]
    {
        nobody.get(&path).await.refused(404, 101);
        nobody.put(&path, json!({"n": 1})).await.refused(404, 101);
        nobody.delete(&path).await.refused(404, 101);
    }
}

// ---- transport

#[tokio::test]
async fn sdks_put_everything_into_the_body_of_a_post() {
    let server = Server::shared();
    let class = fresh("Note");
    let keyless = Client::new(&server.url).header("Content-Type", "text/plain");
    let about = json!({"_ApplicationId": "app", "_ClientVersion": "js8.6.2", "_InstallationId": fresh("device"), "_noBody": true});
    let say = |method: Option<&str>, path: String, fields: Value| {
        let mut body = about.clone();
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        if let Some(method) = method {
            body["_method"] = method.into();
        }
        let keyless = keyless.clone();
        async move { keyless.post(&path, body).await }
    };
    let created = say(None, format!("/classes/{class}"), json!({"n": 1})).await.created();
    let place = format!("/classes/{class}/{}", id_of(&created));
    assert_eq!(members(&say(Some("PUT"), place.clone(), json!({"n": 2})).await.ok()), ["updatedAt"]);
    let mut object = say(Some("get"), place.clone(), json!({})).await.ok();
    object.as_object_mut().unwrap().retain(|name, _| name == "n" || name.starts_with('_'));
    assert_eq!(object, json!({"n": 2}), "nothing about the request is stored; the method counts in any case");
    let query = json!({"where": {"n": {"$gt": 1}}, "limit": 5, "count": 1, "order": "-n"});
    let found = say(Some("GET"), format!("/classes/{class}"), query).await.ok();
    assert_eq!((&found["count"], found["results"].as_array().unwrap().len()), (&json!(1), 1));
    assert_eq!(say(Some("DELETE"), place.clone(), json!({})).await.ok(), json!({}));
    say(Some("GET"), place, json!({})).await.refused(404, 101);

    let with_master = json!({"_MasterKey": "master"});
    assert!(say(Some("GET"), "/schemas".into(), with_master).await.ok()["results"].is_array());
    // Body keys are taken off even when the headers say the same.
    let both = server.nobody().post(&format!("/classes/{class}"), json!({"_ApplicationId": "app", "n": 1})).await;
    both.created();
}

#[tokio::test]
async fn paths_are_read_in_any_case_with_a_slash_more_or_less() {
    let server = Server::shared();
    let (master, class) = (server.master(), fresh("Note"));
    let id = master.create(&class, json!({})).await;
    let root = server.url.strip_suffix("/parse").unwrap();
    for path in [
        format!("/Classes/{class}/{id}/"),
        format!("/CLASSES/{class}"),
        "/schemas/".into(),
        "/Health/".into(),
        "/serverinfo".into(),
        format!("{root}/PARSE/classes/{class}"),
        format!("{root}//parse/classes/{class}"),
    ] {
        assert_eq!(master.get(&path).await.status, 200, "{path}");
    }
    for path in ["/nowhere", "/classes", "", &format!("{root}/"), &format!("{root}/parser/health")] {
        assert_eq!(master.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn every_answer_lets_browsers_in() {
    let server = Server::shared();
    let nobody = server.nobody();
    let answers = [
        nobody.get("/health").await,
        nobody.get("/classes/_Nope/x").await,
        nobody.post("/login", json!({})).await,
        nobody.get("/nowhere").await,
        Client::new(&server.url).get("/classes/Note").await,
        nobody.send("POST", "/classes/Note", "{").await,
    ];
    for answer in answers {
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{answer:?}");
        assert!(answer.header("content-type").unwrap().starts_with("application/json"), "{answer:?}");
        let exposed = answer.header("access-control-expose-headers");
        assert_eq!(exposed, Some("X-Parse-Job-Status-Id, X-Parse-Push-Status-Id"), "{answer:?}");
    }
    let preflight = Client::new(&server.url).send("OPTIONS", "/classes/Note", "").await;
    assert_eq!(preflight.status, 200);
    assert_eq!(preflight.header("access-control-allow-methods"), Some("GET,PUT,POST,DELETE,OPTIONS"));
    let allowed = preflight.header("access-control-allow-headers").unwrap().to_lowercase();
    for name in [
        "X-Parse-Master-Key",
        "X-Parse-REST-API-Key",
        "X-Parse-Javascript-Key",
        "X-Parse-Application-Id",
        "X-Parse-Client-Version",
        "X-Parse-Session-Token",
        "X-Requested-With",
        "X-Parse-Revocable-Session",
        "X-Parse-Request-Id",
        "Content-Type",
        "Pragma",
        "Cache-Control",
        "X-Parse-Installation-Id",
        "X-Parse-Cloud-Context",
    ] {
        assert!(allowed.contains(&name.to_lowercase()), "{name}");
    }
}

#[tokio::test]
async fn keys_come_by_basic_authorization_too() {
    let server = Server::shared();
    // app:master
    let basic = Client::new(&server.url).header("Authorization", "Basic YXBwOm1hc3Rlcg==");
    assert!(basic.get("/schemas").await.ok()["results"].is_array());
}

#[tokio::test]
async fn head_answers_like_get_without_a_body() {
    let server = Server::shared();
    let answer = server.nobody().send("HEAD", "/classes/Note", "").await;
    assert_eq!((answer.status, answer.text.as_str()), (200, ""));
}

#[tokio::test]
async fn the_server_says_what_it_can_do_to_the_master_only() {
    let server = Server::shared();
    server.nobody().get("/serverInfo").await.refused(403, None);
    let told = server.master().get("/serverInfo").await.ok();
    assert!(told["parseServerVersion"].is_string(), "{told}");
    for area in ["globalConfig", "hooks", "cloudCode", "logs", "push", "schemas", "settings"] {
        assert!(told["features"][area].is_object(), "{area}: {told}");
    }
    assert_eq!(Client::new(&server.url).get("/health").await.ok(), json!({"status": "ok"}), "health needs no key");
}

#[tokio::test]
async fn metrics_are_there_for_scrapers_on_this_machine() {
    let server = Server::shared();
    let root = server.url.strip_suffix("/parse").unwrap();
    let metrics = Client::new(&server.url).get(&format!("{root}/metrics")).await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.text.lines().any(|line| line.starts_with("tidings_")), "{}", metrics.text);
}

#[tokio::test]
async fn the_api_can_be_mounted_anywhere() {
    for (mount, path) in [("/", ""), ("/api/v1", "/api/v1"), ("/api/", "/api")] {
        let server = Launch::plain().with(&["--mount", mount]).start();
        assert_eq!(server.url, format!("http://127.0.0.1:{}{path}", server.port));
        let nobody = server.nobody();
        let answer = nobody.post("/classes/Note", json!({"n": 1})).await;
        let location = answer.header("location").unwrap().to_owned();
        let id = id_of(&answer.created());
        assert!(location.ends_with(&format!("{path}/classes/Note/{id}")), "{location}");
        let mut notes = nobody.subscribe("Note", json!({})).await;
        let batch = json!({"requests": [{"method": "POST", "path": format!("{path}/classes/Note"), "body": {"n": 2}}]});
        let done = nobody.post("/batch", batch).await.ok();
        notes.expect("create", done[0]["success"]["objectId"].as_str().unwrap()).await;
    }
}

// ---- batch

#[tokio::test]
async fn a_batch_keeps_its_order_and_gives_each_part_its_own_result() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Note"));
    let id = nobody.create(&class, json!({"n": 1})).await;
    let place = format!("/parse/classes/{class}");
    let part = |method: &str, path: &str, body: Value| json!({"method": method, "path": path, "body": body});
    let requests = json!([
        part("POST", &place, json!({"n": 10})),
        part("PUT", &format!("{place}/{id}"), json!({"n": {"__op": "Increment", "amount": 1}})),
        part("PUT", &format!("{place}/{id}"), json!({"n": {"__op": "Increment", "amount": 1}})),
        part("GET", &format!("{place}/{id}"), json!({})),
        part("DELETE", &format!("{place}/nothing"), json!({})),
        part("POST", &place, json!({"n": "text"})),
        part("GET", &format!("{place}?where=%7B%22n%22%3A10%7D&limit=1"), json!({})),
        part("DELETE", &format!("{place}/{id}"), json!({})),
    ]);
    let results = nobody.post("/batch", json!({"requests": requests})).await.ok();
    assert_eq!(members(&results[0]["success"]), ["createdAt", "objectId"]);
    assert_eq!((&results[1]["success"]["n"], &results[2]["success"]["n"]), (&json!(2), &json!(3)));
    assert_eq!(results[3]["success"]["n"], 3, "a read sees what stands before it");
    assert_eq!(results[4]["error"]["code"], 101, "{}", results[4]);
    assert_eq!(results[5]["error"]["code"], 111, "{}", results[5]);
    assert_eq!(results[6]["success"]["results"][0]["objectId"], results[0]["success"]["objectId"], "{}", results[6]);
    assert_eq!((&results[7]["success"], results.as_array().unwrap().len()), (&json!({}), 8));
    assert_eq!(nobody.post("/batch", json!({"requests": []})).await.ok(), json!([]));
}

#[tokio::test]
async fn what_a_batch_creates_comes_back_as_it_was_sent() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Row"));
    let place = format!("/parse/classes/{class}");
    let sent: Vec<i64> = (0..50).collect();
    for is_transaction in [false, true] {
        let body = |n: &i64| json!({"n": n, "all": is_transaction});
        let requests: Vec<Value> =
            sent.iter().map(|n| json!({"method": "POST", "path": place, "body": body(n)})).collect();
        nobody.post("/batch", json!({"requests": requests, "transaction": is_transaction})).await.ok();
        let filter = json!({"all": is_transaction}).to_string();
        for order in ["", "createdAt", "createdAt,objectId"] {
            let parameters = [("where", filter.as_str()), ("order", order)];
            let found = nobody.find_by(&class, &parameters[..if order.is_empty() { 1 } else { 2 }]).await;
            let came: Vec<i64> = found.iter().map(|row| row["n"].as_i64().unwrap()).collect();
            assert_eq!(came, sent, "in one: {is_transaction}, by {order:?}");
        }
    }
}

// ---- queries

#[tokio::test]
async fn limit_skip_order_and_count() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Row"));
    let row = |n: i64| json!({"method": "POST", "path": format!("/parse/classes/{class}"), "body": {"n": n, "even": n % 2 == 0}});
    for from in [0, 40, 80] {
        let requests: Vec<Value> = (from..from + 40).map(row).collect();
        nobody.post("/batch", json!({"requests": requests})).await.ok();
    }
    let find = async |parameters: &[(&str, &str)]| {
        let found = nobody.query(&class, parameters).await.ok();
        let numbers = found["results"].as_array().unwrap().iter().map(|row| row["n"].as_i64().unwrap());
        (numbers.collect::<Vec<_>>(), found["count"].as_i64())
    };
    let natural = find(&[("limit", "1000")]).await.0;
    let stamps = nobody.find_by(&class, &[("limit", "1000"), ("keys", "createdAt")]).await;
    assert!(stamps.is_sorted_by_key(|row| row["createdAt"].as_str().unwrap().to_owned()), "as they were created");
    if !on_mongodb() {
        // MongoDB cannot tell those of one millisecond apart.
        assert_eq!(natural, (0..120).collect::<Vec<_>>());
    }
    assert_eq!(find(&[]).await, (natural[..100].to_vec(), None), "100 by default");
    assert_eq!(find(&[("limit", "1000"), ("order", "-n")]).await.0, (0..120).rev().collect::<Vec<_>>());
    assert_eq!(find(&[("limit", "3"), ("skip", "2"), ("order", "n")]).await.0, [2, 3, 4]);
    assert_eq!(find(&[("order", "-even,-n"), ("limit", "3")]).await.0, [118, 116, 114]);
    assert_eq!(find(&[("order", "even, -n"), ("limit", "2")]).await.0, [119, 117], "spaces do not matter");
    assert_eq!(find(&[("order", "-createdAt,-n"), ("limit", "1")]).await.0, [119]);
    assert_eq!(find(&[("order", "nothing"), ("limit", "1")]).await.0.len(), 1, "an unknown field sorts nothing");
    assert_eq!(find(&[("limit", "0")]).await, (vec![], None));
    assert_eq!(find(&[("limit", "0"), ("count", "1")]).await, (vec![], Some(120)));
    assert_eq!(
        find(&[("limit", "2"), ("skip", "5"), ("count", "true"), ("where", r#"{"even":true}"#)]).await.1,
        Some(60)
    );
    assert_eq!(find(&[("limit", "2"), ("count", "0")]).await.1, None);
    assert_eq!(find(&[("limit", "-1")]).await.0.len(), 1, "its absolute value");
    assert_eq!(find(&[("limit", "abc")]).await.0.len(), 120, "no limit");
    assert_eq!(find(&[("skip", "119")]).await.0, natural[119..]);
    assert_eq!(find(&[("skip", "500")]).await.0, [0; 0]);
}

#[tokio::test]
async fn keys_and_exclude_keys_choose_what_is_shown() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Row"));
    let acl = json!({"*": {"read": true}});
    let id = nobody.create(&class, json!({"a": 1, "b": 2, "o": {"x": 1, "y": 2}, "ACL": acl})).await;
    let shown = async |parameters: &[(&str, &str)]| {
        let all = nobody.find_by(&class, parameters).await;
        members(&all[0]).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let with = |names: &[&str]| {
        let always = ["ACL", "createdAt", "objectId", "updatedAt"];
        let mut all: Vec<String> = names.iter().chain(&always).map(|name| (*name).to_owned()).collect();
        all.sort_unstable();
        all
    };
    assert_eq!(shown(&[]).await, with(&["a", "b", "o"]));
    assert_eq!(shown(&[("keys", "a")]).await, with(&["a"]));
    assert_eq!(shown(&[("keys", "a,nothing")]).await, with(&["a"]));
    assert_eq!(shown(&[("keys", r#"["a","b"]"#)]).await, with(&["a", "b"]));
    assert_eq!(shown(&[("excludeKeys", "a,objectId")]).await, with(&["b", "o"]), "the four defaults stay");
    let whole = nobody.find_by(&class, &[("keys", "o.x")]).await;
    assert_eq!(whole[0]["o"], json!({"x": 1, "y": 2}), "what is inside an object is not cut");
    let one = nobody.get(&format!("/classes/{class}/{id}?keys=b")).await.ok();
    assert_eq!(members(&one), with(&["b"]));
}

#[tokio::test]
async fn include_puts_objects_in_the_place_of_their_pointers() {
    let server = Server::shared();
    let nobody = server.nobody();
    let (city, person, book) = (fresh("City"), fresh("Person"), fresh("Book"));
    let paris = nobody.create(&city, json!({"name": "Paris"})).await;
    let ada = nobody.create(&person, json!({"name": "Ada", "home": pointer(&city, &paris)})).await;
    let bob = nobody.create(&person, json!({"name": "Bob"})).await;
    let secret = server.master().create(&person, json!({"name": "Eve", "ACL": {}})).await;
    let id = nobody
        .create(
            &book,
            json!({
                "title": "T", "author": pointer(&person, &ada), "again": pointer(&person, &ada),
                "readers": [pointer(&person, &bob), pointer(&person, "gone"), pointer(&person, &secret), pointer(&person, &ada)],
                "editor": pointer(&person, "gone"), "censor": pointer(&person, &secret),
            }),
        )
        .await;
    let find = async |parameters: &[(&str, &str)]| nobody.find_by(&book, parameters).await.remove(0);

    let bare = find(&[]).await;
    assert_eq!((&bare["author"], &bare["editor"]), (&pointer(&person, &ada), &pointer(&person, "gone")));

    let included = find(&[("include", "author.home,again")]).await;
    let author = &included["author"];
    assert_eq!((&author["__type"], &author["className"]), (&json!("Object"), &json!(person)));
    assert_eq!((&author["objectId"], &author["name"]), (&json!(ada), &json!("Ada")));
    assert!(author["createdAt"].is_string() && author["updatedAt"].is_string(), "{author}");
    assert_eq!(author["home"]["name"], "Paris", "parents come along");
    assert_eq!((&included["again"]["name"], &included["again"]["home"]), (&json!("Ada"), &pointer(&city, &paris)));

    let hidden = find(&[("include", "readers,editor,censor")]).await;
    let readers: Vec<_> = hidden["readers"].as_array().unwrap().iter().map(|reader| &reader["name"]).collect();
    assert_eq!(readers, ["Bob", "Ada"], "who is gone or hidden is not listed");
    assert_eq!((hidden.get("editor"), hidden.get("censor")), (None, None), "{hidden}");

    let all = find(&[("include", "*")]).await;
    assert_eq!((&all["author"]["name"], &all["readers"][0]["name"]), (&json!("Ada"), &json!("Bob")));
    assert_eq!(find(&[("includeAll", "true")]).await["author"]["name"], "Ada");
    assert_eq!(find(&[("include", "title,nothing")]).await["title"], "T", "what is no pointer stays");

    let trimmed = find(&[("keys", "author.name")]).await;
    assert_eq!(members(&trimmed), ["author", "createdAt", "objectId", "updatedAt"]);
    let names = members(&trimmed["author"]);
    assert!(names.contains(&"name") && !names.contains(&"home"), "{names:?}");

    let one = nobody.get(&format!("/classes/{book}/{id}?include=author")).await.ok();
    assert_eq!(one["author"]["name"], "Ada");
    // What comes back as an object is stored as a pointer.
    nobody.update(&book, &id, json!({"again": one["author"].clone()})).await;
    assert_eq!(nobody.fetch(&book, &id).await["again"], pointer(&person, &ada));
}

#[tokio::test]
async fn the_measured_vectors_hold_over_rest() {
    let server = Server::shared();
    let (nobody, class) = (server.nobody(), fresh("Vector"));
    let (t1, t2) = (pointer("T", "t1"), pointer("T", "t2"));
    let rows = [
        json!({
            "k": "num1", "n": 1, "s": "abc", "arr": [1, 2], "p": t1, "d": date("2020-01-01T00:00:00.000Z"),
            "o": {"a": 1, "l": [{"x": 1}, {"x": 2}]}, "pa": [t1],
        }),
        json!({
            "k": "num5", "n": 5, "s": "ABC", "arr": [2, 3], "p": t2, "d": date("2021-01-01T00:00:00.000Z"), "o": {"a": 2}, "pa": [t1, t2],
        }),
        json!({"k": "null", "n": null, "s": null, "arr": null, "p": null}),
        json!({"k": "missing"}),
        json!({"k": "empty", "arr": [], "s": ""}),
        json!({"k": "arrnull", "arr": [null, 1]}),
        json!({"k": "arrarr", "arr": [[1, 2]]}),
    ];
    for row in rows {
        nobody.create(&class, row).await;
    }
    let rest = "null missing empty arrnull arrarr";
    let all = "num1 num5 null missing empty arrnull arrarr";
    let mut wrong = Vec::new();
    for (filter, expected) in [
        (json!({"n": null}), rest),
        (json!({"n": {"$eq": null}}), rest),
        (json!({"n": {"$ne": 1}}), "num5 null missing empty arrnull arrarr"),
        (json!({"n": {"$ne": null}}), "num1 num5"),
        (json!({"n": {"$lt": 3}}), "num1"),
        (json!({"n": {"$gt": 3}}), "num5"),
        (json!({"n": {"$gte": null}}), rest),
        (json!({"n": {"$lt": "zzz"}}), ""),
        (json!({"n": {"$in": [1, null]}}), "num1 null missing empty arrnull arrarr"),
        (json!({"n": {"$in": []}}), ""),
        (json!({"n": {"$nin": []}}), all),
        (json!({"n": {"$nin": [1]}}), "num5 null missing empty arrnull arrarr"),
        (json!({"n": {"$nin": [1, null]}}), "num5"),
        (json!({"n": {"$exists": true}}), "num1 num5 null"),
        (json!({"n": {"$exists": false}}), "missing empty arrnull arrarr"),
        (json!({"n": "1"}), ""),
        (json!({"arr": 2}), "num1 num5"),
        (json!({"arr": {"$eq": 2}}), "num1 num5"),
        (json!({"arr": {"$eq": [1, 2]}}), "num1 arrarr"),
        (json!({"arr": {"$ne": 2}}), rest),
        (json!({"arr": {"$in": [3]}}), "num5"),
        (json!({"arr": {"$nin": [3]}}), "num1 null missing empty arrnull arrarr"),
        (json!({"arr": {"$in": [[1, 2]]}}), "num1 num5 arrnull"),
        (json!({"arr": {"$all": [1, 2]}}), "num1"),
        (json!({"arr": {"$all": []}}), ""),
        (json!({"arr": {"$gt": 2}}), "num5"),
        (json!({"arr": null}), "null missing arrnull"),
        (json!({"arr.0": 1}), "num1"),
        (json!({"o.a": 1}), "num1"),
        (json!({"o.l.x": 2}), "num1"),
        (json!({"p": t1}), "num1"),
        (json!({"p": "t1"}), ""),
        (json!({"p": {"$eq": "t1"}}), "num1"),
        (json!({"p": {"$eq": t1}}), "num1"),
        (json!({"p": {"$ne": t1}}), "num5 null missing empty arrnull arrarr"),
        (json!({"p": {"$in": [t1, t2]}}), "num1 num5"),
        (json!({"p": {"$in": ["t1"]}}), "num1"),
        (json!({"p": {"$exists": true}}), "num1 num5"),
        (json!({"p": {"$exists": false}}), rest),
        (json!({"pa": t1}), "num1 num5"),
        (json!({"pa": {"$all": [t1, t2]}}), "num5"),
        (json!({"d": {"$gt": date("2020-06-01T00:00:00.000Z")}}), "num5"),
        (json!({"d": {"$in": [date("2020-01-01T00:00:00.000Z")]}}), "num1"),
        (json!({"d": "2020-01-01T00:00:00.000Z"}), ""),
        (json!({"createdAt": {"$gt": "2020-01-01T00:00:00.000Z"}}), ""),
        (json!({"createdAt": {"$gt": date("2020-01-01T00:00:00.000Z")}}), all),
        (json!({"s": {"$regex": "^a"}}), "num1"),
        (json!({"s": {"$regex": "^a", "$options": "i"}}), "num1 num5"),
        (json!({"s": {"$regex": "^\\Qa\\E"}}), "num1"),
        (json!({"s": {"$regex": "n"}}), ""),
        (json!({"s": {"$regex": "^a", "$options": "x"}}), "num1"),
        (json!({"s": {"$regex": "(?i)^A(?=b)\\p{L}+"}}), "num1 num5"),
        (json!({"$or": [{"n": 1}, {"s": "ABC"}]}), "num1 num5"),
        (json!({"$and": [{"n": {"$gt": 0}}, {"arr": 3}]}), "num5"),
        (json!({"$nor": [{"n": 1}, {"n": 5}]}), rest),
        (json!({"s": "abc", "$or": [{"n": 1}, {"n": 5}]}), "num1"),
        (json!({"objectId": 5}), ""),
        (json!({"zzz": 1}), ""),
    ] {
        let parameters = [("where", filter.to_string()), ("order", "createdAt".into())];
        let parameters = parameters.each_ref().map(|(name, value)| (*name, value.as_str()));
        let answer = nobody.query(&class, &parameters).await;
        let results = answer.body["results"].as_array().cloned().unwrap_or_default();
        let mut found: Vec<_> = results.iter().map(|row| row["k"].as_str().unwrap()).collect();
        found.sort_by_key(|name| all.split(' ').position(|known| known == *name));
        if answer.status != 200 || found.join(" ") != expected {
            wrong.push(format!("{filter}: {} {found:?}, expected [{expected}]", answer.status));
        }
    }
    for (filter, code) in [
        (json!({"arr": [1, 2]}), 107),
        (json!({"o": {"a": 2}}), 107),
        (json!({"n": {"$foo": 1}}), 107),
        (json!({"n": {"$elemMatch": {}}}), 107),
        (json!({"n": {"$not": {"$gt": 1}}}), 107),
    ] {
        nobody.query(&class, &[("where", &filter.to_string())]).await.refused(400, code);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn explain_shows_the_master_which_index_answers() {
    let server = Server::shared();
    let class = fresh("Row");
    server.nobody().create(&class, json!({"p": pointer("T", "t1")})).await;
    let filter = json!({"p": pointer("T", "t1")}).to_string();
    let parameters = [("where", filter.as_str()), ("order", "-createdAt"), ("limit", "1"), ("explain", "true")];
    let plan = server.master().query(&class, &parameters).await.ok();
    assert!(plan["results"].is_object(), "{plan}");
    server.nobody().query(&class, &parameters).await.refused(400, 102);
}

// ---- classes and schemas

#[tokio::test]
async fn unknown_classes_are_empty_in_development() {
    let server = Server::shared();
    let nobody = server.nobody();
    let unknown = fresh("Unknown");
    for name in [unknown.as_str(), "1bad", "_Nope"] {
        assert_eq!(nobody.get(&format!("/classes/{name}")).await.ok(), json!({"results": []}), "{name}");
        nobody.get(&format!("/classes/{name}/x")).await.refused(404, 101);
        nobody.put(&format!("/classes/{name}/x"), json!({})).await.refused(404, 101);
        nobody.delete(&format!("/classes/{name}/x")).await.refused(404, 101);
    }
    nobody.post("/classes/1bad", json!({})).await.refused(400, 107);
}

#[tokio::test]
async fn without_class_creation_unknown_classes_are_forbidden() {
    let server = Launch::plain().with(&["--allow-client-class-creation", "false"]).start();
    let (nobody, master) = (server.nobody(), server.master());
    for name in ["Unknown", "1bad", "_Nope"] {
        let (class, object) = (format!("/classes/{name}"), format!("/classes/{name}/x"));
        nobody.get(&class).await.refused(400, 119);
        nobody.get(&format!("{class}?limit=0")).await.refused(400, 119);
        nobody.get(&object).await.refused(400, 119);
        nobody.post(&class, json!({"n": 1})).await.refused(400, 119);
        nobody.put(&object, json!({"n": 1})).await.refused(400, 119);
    }
    assert_eq!(master.get("/classes/Unknown").await.ok(), json!({"results": []}));
    let id = master.create("Known", json!({"n": 1})).await;
    assert_eq!(nobody.fetch("Known", &id).await["n"], 1);
    nobody.create("Known", json!({"new": "column"})).await;
}

#[tokio::test]
async fn the_first_write_of_a_column_fixes_its_type() {
    let server = Server::shared();
    let (nobody, master, class) = (server.nobody(), server.master(), fresh("Row"));
    let fields = json!({
        "n": 1, "s": "x", "b": true, "d": date("2020-01-01T00:00:00Z"), "a": [], "o": {}, "none": null,
        "p": pointer("Target", "x"), "g": {"__type": "GeoPoint", "latitude": 1, "longitude": 1},
        "inc": {"__op": "Increment", "amount": 1}, "add": {"__op": "Add", "objects": []},
    });
    nobody.create(&class, fields).await;
    let schema = master.get(&format!("/schemas/{class}")).await.ok();
    assert_eq!(schema["className"], class);
    for (name, expected) in [
        ("n", "Number"),
        ("s", "String"),
        ("b", "Boolean"),
        ("d", "Date"),
        ("a", "Array"),
        ("o", "Object"),
        ("g", "GeoPoint"),
        ("inc", "Number"),
        ("add", "Array"),
        ("objectId", "String"),
        ("createdAt", "Date"),
        ("updatedAt", "Date"),
        ("ACL", "ACL"),
    ] {
        assert_eq!(schema["fields"][name]["type"], expected, "{name}");
    }
    assert_eq!(schema["fields"]["p"], json!({"type": "Pointer", "targetClass": "Target"}));
    assert_eq!(schema["fields"].get("none"), None, "null has no type");
    let public = json!({"*": true});
    for operation in ["find", "count", "get", "create", "update", "delete", "addField"] {
        assert_eq!(schema["classLevelPermissions"][operation], public, "{operation}");
    }
}

#[tokio::test]
async fn a_schema_is_made_changed_and_removed() {
    let server = Server::shared();
    let (master, class) = (server.master(), fresh("Made"));
    let place = format!("/schemas/{class}");
    let asked = json!({
        "className": class,
        "fields": {"n": {"type": "Number"}, "p": {"type": "Pointer", "targetClass": "Target"}},
        "indexes": {"by_n": {"n": 1}},
    });
    let made = master.post("/schemas", asked).await.ok();
    assert_eq!((&made["className"], &made["fields"]["n"]["type"]), (&json!(class), &json!("Number")));
    assert_eq!(made["indexes"]["by_n"], json!({"n": 1}), "{made}");
    let change = json!({
        "fields": {"n": {"__op": "Delete"}, "s": {"type": "String"}},
        "indexes": {"by_n": {"__op": "Delete"}, "by_s": {"s": -1}},
        "classLevelPermissions": {"find": {"*": true}, "get": {"requiresAuthentication": true}},
    });
    let changed = master.put(&place, change).await.ok();
    assert_eq!((changed["fields"].get("n"), &changed["fields"]["s"]["type"]), (None, &json!("String")));
    assert_eq!((changed["indexes"].get("by_n"), &changed["indexes"]["by_s"]), (None, &json!({"s": -1})));
    let permissions = &changed["classLevelPermissions"];
    assert_eq!(
        (&permissions["find"], &permissions["create"]),
        (&json!({"*": true}), &json!({})),
        "what is not said is closed"
    );
    assert_eq!(master.get(&place).await.ok(), changed);
    let all = master.get("/schemas").await.ok();
    let names: Vec<_> = all["results"].as_array().unwrap().iter().map(|schema| &schema["className"]).collect();
    for name in ["_User", "_Session", &class] {
        assert!(names.contains(&&json!(name)), "{name}: {names:?}");
    }

    let id = master.create(&class, json!({"s": "x"})).await;
    master.delete(&place).await.refused(400, 255);
    master.destroy(&class, &id).await;
    assert_eq!(master.delete(&place).await.ok(), json!({}));
    assert_eq!(master.delete(&place).await.ok(), json!({}), "gone is gone");
    master.get(&place).await.refused(400, 103);
}

#[tokio::test]
async fn a_removed_column_takes_its_values_along() {
    let server = Server::shared();
    let (master, class) = (server.master(), fresh("Row"));
    let id = master.create(&class, json!({"n": 1, "keep": 2})).await;
    master.put(&format!("/schemas/{class}"), json!({"fields": {"n": {"__op": "Delete"}}})).await.ok();
    let object = master.fetch(&class, &id).await;
    assert_eq!((object.get("n"), &object["keep"]), (None, &json!(2)), "{object}");
    master.update(&class, &id, json!({"n": "text now"})).await;
    assert_eq!(master.find(&class, json!({"n": "text now"})).await.len(), 1);
}

#[tokio::test]
async fn an_index_declared_late_finds_what_was_there_before() {
    let server = Server::shared();
    let (master, class) = (server.master(), fresh("Row"));
    for n in 0..30 {
        master.create(&class, json!({"n": n % 3, "s": format!("s{n}")})).await;
    }
    let before = master.find_by(&class, &[("where", r#"{"n":1}"#), ("order", "s")]).await;
    master.put(&format!("/schemas/{class}"), json!({"indexes": {"both": {"n": 1, "s": 1}}})).await.ok();
    let after = master.find_by(&class, &[("where", r#"{"n":1}"#), ("order", "s")]).await;
    assert_eq!((before.len(), before), (10, after));
}

#[tokio::test]
async fn a_field_may_be_required_and_have_a_default() {
    let server = Server::shared();
    let (master, nobody, class) = (server.master(), server.nobody(), fresh("Options"));
    let place = format!("/schemas/{class}");
    let day = json!({"__type": "Date", "iso": "2026-01-02T03:04:05.678Z"});
    let fields = json!({
        "title": {"type": "String", "required": true},
        "state": {"type": "String", "required": true, "defaultValue": "new"},
        "n": {"type": "Number", "defaultValue": 0},
        "day": {"type": "Date", "defaultValue": day},
        "to": {"type": "Pointer", "targetClass": "_User", "defaultValue": pointer("_User", "somebody")},
    });
    master.post(&place, json!({"fields": fields})).await.ok();
    let shown = master.get(&place).await.ok();
    for (name, field) in fields.as_object().unwrap() {
        assert_eq!(shown["fields"][name], *field);
    }

    let objects = format!("/classes/{class}");
    for body in [json!({}), json!({"title": ""}), json!({"title": null}), json!({"title": "x", "state": null})] {
        nobody.post(&objects, body).await.refused(400, 142);
    }
    assert!(nobody.find(&class, json!({})).await.is_empty());
    let made = nobody.post(&objects, json!({"title": "x", "n": 5})).await.created();
    assert_eq!(
        (&made["state"], &made["day"], made.get("n")),
        (&json!("new"), &day, None),
        "what the client did not say"
    );
    let id = id_of(&made);
    let object = nobody.fetch(&class, &id).await;
    assert_eq!((&object["state"], &object["n"], &object["day"]), (&json!("new"), &json!(5), &day));

    assert_eq!(object["to"], pointer("_User", "somebody"));
    let without = nobody.create(&class, json!({"title": "x", "to": null})).await;
    assert_eq!(nobody.fetch(&class, &without).await.get("to"), None, "null is no missing value");

    let place_of = format!("{objects}/{id}");
    for body in [json!({"title": {"__op": "Delete"}}), json!({"state": ""}), json!({"title": null, "n": 1})] {
        nobody.put(&place_of, body).await.refused(400, 142);
    }
    nobody.put(&place_of, json!({"n": {"__op": "Delete"}, "state": "old"})).await.ok();
    assert_eq!(nobody.fetch(&class, &id).await.get("n"), None, "a default is for new objects");

    // What is listed again has the options that stand there.
    let changed = json!({"fields": {"title": {"type": "String"}, "n": {"type": "Number", "required": true}}});
    let fields = master.put(&place, changed).await.ok()["fields"].clone();
    assert_eq!(
        (&fields["title"], &fields["n"]),
        (&json!({"type": "String"}), &json!({"type": "Number", "required": true}))
    );
    nobody.post(&objects, json!({})).await.refused(400, 142);
    nobody.post(&objects, json!({"n": 1})).await.created();

    for field in [
        json!({"type": "Number", "defaultValue": "1"}),
        json!({"type": "Relation", "targetClass": "_User", "required": true}),
        json!({"type": "String", "required": "yes"}),
    ] {
        master.put(&place, json!({"fields": {"odd": field}})).await.refused(400, 111);
    }
    master.put(&place, json!({"fields": {"n": {"type": "String"}}})).await.refused(400, 255);
}

#[tokio::test]
async fn a_default_is_checked_as_if_it_were_sent() {
    let server = Launch::plain().start();
    let (master, nobody) = (server.master(), server.nobody());
    let email = json!({"fields": {"email": {"type": "String", "defaultValue": "all@example.org"}}});
    master.put("/schemas/_User", email).await.ok();
    nobody.post("/users", json!({"username": "alice", "password": "x"})).await.created();
    nobody.post("/users", json!({"username": "bob", "password": "x"})).await.refused(400, 203);
    nobody.post("/users", json!({"username": "bob", "password": "x", "email": "bob@example.org"})).await.created();
    let required = json!({"fields": {"email": {"type": "String", "required": true}}});
    master.put("/schemas/_User", required).await.ok();
    nobody.post("/users", json!({"username": "carol", "password": "x"})).await.refused(400, 142);
}
