//! Every example script, and the words of the interface.

#![allow(clippy::unwrap_used)]

mod server;

use server::{Server, cloud_code, code, user};
use std::sync::Arc;
use tidings_cloud_code::CloudCode;

fn example(name: &str) -> Arc<Server> {
    Server::new(CloudCode::load_script(&cloud_code(), &format!("examples/{name}.rhai")).unwrap())
}

#[test]
fn every_example_is_tested_here() {
    let mut names: Vec<String> = cloud_code()
        .join("examples")
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["audit", "counting_rate_limit", "defaults", "stock"]);
}

#[test]
fn counting_rate_limit() {
    let server = example("counting_rate_limit");
    let body = format!(r#"{{"text":"x","sender":{}}}"#, user("alice"));
    for _ in 0..10 {
        server.create("alice", "Message", &body).unwrap();
    }
    assert_eq!(code(server.create("alice", "Message", &body)), 155);
    assert_eq!(code(server.create("bob", "Message", "{}")), 0);
}

#[test]
fn stock() {
    let server = example("stock");
    let product = server.create("", "Product", r#"{"stock":3}"#).unwrap();
    let order = format!(r#"{{"product":{{"__type":"Pointer","className":"Product","objectId":"{product}"}}}}"#);
    for _ in 0..3 {
        server.create("", "Order", &order).unwrap();
    }
    assert_eq!(server.get_field("Product", &product, "stock"), "0");
    server.create("", "Order", &order).unwrap();
    assert_eq!(server.get_field("Product", &product, "stock"), "0");
    assert!(server.log.lock().unwrap()[0].contains("Out of stock."));
}

#[test]
fn audit() {
    let server = example("audit");
    server.create("alice", "Account", r#"{"balance":5}"#).unwrap();
    assert_eq!(server.get_field("AuditEntry", "AuditEntry1", "who"), "\"alice\"");
    assert_eq!(server.get_field("AuditEntry", "AuditEntry1", "changed"), r#"["balance"]"#);
    assert_eq!(server.acl("AuditEntry", "AuditEntry1"), "{}");
    assert!(server.log.lock().unwrap()[0].starts_with("Info examples/audit.rhai:"));
}

#[test]
fn defaults() {
    let server = example("defaults");
    let id = server.create("alice", "Task", "{}").unwrap();
    let field = |name: &str| server.get_field("Task", &id, name);
    assert_eq!(field("title"), "\"Untitled\"");
    assert_eq!(field("tags"), r#"["new","inbox"]"#);
    assert_eq!(field("owner"), user("alice"));
    assert!(field("due").contains("__type"));
    server.save("alice", "Task", Some(&id), r#"{"done":true}"#).unwrap();
    assert_eq!((field("due").as_str(), field("finished").as_str()), ("-", "1"));
}

#[test]
fn the_benchmark_s_script_loads() {
    let folder = cloud_code().join("../bench/cloud");
    let server = Server::new(CloudCode::load(&folder).unwrap());
    assert_eq!(code(server.create("", "Message", r#"{"text":" "}"#)), 142);
    let id = server.create("", "Message", r#"{"text":"a <b>b</b> & <script>c</script>d"}"#).unwrap();
    assert_eq!(server.get_field("Message", &id, "text"), r#""a b &amp; d""#);
}

/// Runs `script` in a `before_save`; what it returns is stored in `out`.
fn check(script: &str, expected: &str) {
    let text =
        format!("before_save(\"A\", |request| {{ let object = request.object; object.out = {{ {script} }}; }});");
    let server = Server::script(&text);
    server.create("master", "B", r#"{"n":1,"text":"one"}"#).unwrap();
    server.create("master", "B", r#"{"n":2,"text":"two"}"#).unwrap();
    let body = r#"{"n":5,"f":2.5,"list":[1,2],"map":{"a":{"b":1}},"who":{"__type":"Pointer","className":"_User","objectId":"u1"}}"#;
    let id = server.create("u1", "A", body).unwrap_or_else(|error| {
        panic!("{script}: {error} {:?}", server.log.lock().unwrap());
    });
    assert_eq!(server.get_field("A", &id, "out"), expected, "{script}");
}

#[test]
fn the_words_of_the_interface() {
    for (script, expected) in [
        ("object.n", "5"),
        ("object[\"n\"] + 1", "6"),
        ("object.f", "2.5"),
        ("object.nope == ()", "true"),
        ("object.get(\"map\").a.b", "1"),
        ("object.map.a.b = 7; object.map", r#"{"a":{"b":7}}"#),
        ("object.set(\"map.a.c\", 2); object.map.a.c", "2"),
        ("object.list.push(3); object.list", "[1,2,3]"),
        ("object.n += 2; object.n", "7"),
        ("object.increment(\"n\"); object.increment(\"n\", 2.5); object.n", "8.5"),
        (
            "object.add(\"list\", 2); object.add_unique(\"list\", [2, 3]); object.remove(\"list\", 1); object.list",
            "[2,2,3]",
        ),
        ("object.unset(\"n\"); object.has(\"n\")", "false"),
        ("object.is_new() && !object.existed() && object.dirty(\"n\") && !object.dirty(\"x\")", "true"),
        ("object.x = 1; object.dirty(\"x\") && object.dirty(\"n\")", "true"),
        ("object.x = 1; object.dirty_keys()", r#"["f","list","map","n","who","x"]"#),
        (
            "object.who == request.user && request.user == object.who && object.who == pointer(\"_User\", \"u1\")",
            "true",
        ),
        ("object.who != request.user || object.who != object.who", "false"),
        ("object.who == 5 || request.user == () || object.who == ()", "false"),
        ("[object.who].contains(request.user)", "true"),
        ("object.contains(\"list\", 2) && !object.contains(\"list\", 9)", "true"),
        ("request.user", r#"{"__type":"Pointer","className":"_User","objectId":"u1"}"#),
        (
            "[object.who.id, object.who.class_name, object.class_name, request.trigger_name]",
            r#"["u1","_User","A","before_save"]"#,
        ),
        (
            "[type_of(object), type_of(object.who), type_of(now()), type_of(acl()), type_of(query(\"B\"))]",
            r#"["Object","Pointer","Date","Acl","Query"]"#,
        ),
        (
            "[request.master, request.original == (), request.ip == (), request.installation_id == ()]",
            "[false,true,true,true]",
        ),
        ("request.context.a = 1; request.context.a", "1"),
        ("date(\"2026-01-01T00:00:00Z\") + 1.5", r#"{"__type":"Date","iso":"2026-01-01T00:00:01.500Z"}"#),
        ("date(\"2026-01-02\") - date(\"2026-01-01\")", "86400"),
        ("now() < now() && (now() - 60) < now() && now().millis > 0", "true"),
        ("`${date(\"2026-01-01\")}`", r#""2026-01-01T00:00:00.000Z""#),
        (
            "let rights = acl(); rights.set_read_access(request.user, true); rights.set_write_access(\"role:x\", true); rights.set_public_read_access(true); object.set_acl(rights); object.acl.readers",
            r#"["u1","*"]"#,
        ),
        (
            "let rights = acl(); rights.set_write_access(\"a\", true); rights.set_write_access(\"a\", false); `${rights}`",
            "\"{}\"",
        ),
        (
            "let rights = acl(); rights.set_write_access(\"a\", true); rights.set_read_access(\"a\", true); `${rights.read_only()}`",
            r#""{\"a\":{\"read\":true}}""#,
        ),
        ("object.acl = acl(); object.acl.set_public_read_access(true); object.acl.get_read_access(\"x\")", "true"),
        ("query(\"B\").equal_to(\"text\", \"two\").first().n", "2"),
        ("query(\"B\").greater_than(\"n\", 1).count()", "1"),
        ("query(\"B\").descending(\"createdAt\").limit(1).find()[0].n", "2"),
        ("any_of(query(\"B\").equal_to(\"n\", 1), query(\"B\").equal_to(\"n\", 2)).count()", "2"),
        ("query(\"B\").starts_with(\"text\", \"o\").first().text", "\"one\""),
        (
            "query(\"B\").contained_in(\"n\", [2, 3]).exists(\"text\").does_not_exist(\"x\").with_master_key().count()",
            "1",
        ),
        ("query(\"B\").equal_to(\"n\", 9).first() == ()", "true"),
        ("query(\"B\").get(\"B0\").n", "1"),
        ("pointer(\"B\", \"B1\").fetch().text", "\"two\""),
        ("object(\"B\", \"B1\").fetch_with_master_key().n", "2"),
        ("let b = object(\"B\", \"B0\"); b.increment(\"n\", 10); b.save(); b.n", "11"),
        (
            "let b = object(\"B\", \"B0\"); b.n = 3; b.expect(\"n\", 4); [b.save(), query(\"B\").get(\"B0\").n]",
            "[false,1]",
        ),
        (
            "let b = object(\"B\", \"B0\"); b.n = 3; b.only_if(query(\"B\").less_than(\"n\", 2)); [b.save(), b.n, b.text]",
            "[true,3,\"one\"]",
        ),
        ("let b = new_object(\"B\"); b.x = [now()]; b.save_with_master_key(); type_of(b.id)", "\"string\""),
        ("object(\"B\", \"B0\").destroy(); query(\"B\").count()", "1"),
        ("let names = object.keys(); names.filter(|name| object.dirty(name)).len()", "5"),
        ("strip_tags(\"<i>x</i> <3\")", "\"x <3\""),
        ("escape_html(\"a & <b> 'c'\")", "\"a &amp; &lt;b&gt; &#39;c&#39;\""),
        ("is_blank(\" \\t\") && is_blank(()) && !is_blank(\"x\")", "true"),
        ("[rate_limit(\"a\", 1, 60), rate_limit(\"a\", 1, 60), rate_limit(\"b\", 1, 0.5)]", "[true,false,true]"),
        (
            "log.info(\"x\"); request.log.warn(#{ a: 1 }); print(\"y\"); [1].for_each(|| log.info(`${this}`)); true",
            "true",
        ),
    ] {
        check(script, expected);
    }
}
