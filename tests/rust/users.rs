//! Users and their sessions: sign-up, log-in, log-out, and what ends a session.

use crate::harness::{Client, Launch, Server, Value, fresh, id_of, json, members};

/// A server whose users are what Parse makes of them: the chat's hooks make profiles public.
fn plain_server() -> Server {
    Launch::plain().start()
}

async fn log_in(client: &Client, name: &str, password: &str) -> Client {
    let user = client.post("/login", json!({"username": name, "password": password})).await.ok();
    client.clone().session(&id_of(&user), user["sessionToken"].as_str().unwrap())
}

async fn is_logged_in(client: &Client) -> bool {
    let answer = client.get("/users/me").await;
    if answer.status != 200 {
        answer.refused(400, 209);
    }
    answer.status == 200
}

#[tokio::test]
async fn a_sign_up_gives_an_id_and_a_session() {
    let server = plain_server();
    let account = json!({"username": "alice", "password": "secret", "email": "alice@example.org", "nick": "Al"});
    let answer = server.nobody().post("/users", account).await;
    let location = answer.header("location").unwrap().to_owned();
    let signed_up = answer.created();
    assert_eq!(members(&signed_up), ["createdAt", "objectId", "sessionToken"]);
    assert!(location.ends_with(&format!("/parse/users/{}", id_of(&signed_up))), "{location}");
    let token = signed_up["sessionToken"].as_str().unwrap();
    assert!(token.starts_with("r:"), "{token}");

    let alice = server.nobody().session(&id_of(&signed_up), token);
    let me = alice.get("/users/me").await.ok();
    assert_eq!(
        (&me["username"], &me["email"], &me["nick"]),
        (&json!("alice"), &json!("alice@example.org"), &json!("Al"))
    );
    assert_eq!((&me["sessionToken"], &me["objectId"]), (&json!(token), &signed_up["objectId"]));
    let rights = json!({alice.id(): {"read": true, "write": true}});
    assert_eq!(me["ACL"], rights, "users are their own");
    let myself = alice.get(&format!("/users/{}", alice.id())).await.ok();
    assert_eq!(myself["sessionToken"], json!(token));
    for of in [&me, &myself] {
        let text = of.to_string();
        assert!(of.get("password").is_none() && !text.contains("_hashed") && !text.contains("secret"), "{of}");
    }
}

#[tokio::test]
async fn a_sign_up_by_the_master_gives_no_session() {
    let server = plain_server();
    let account = json!({"username": "alice", "password": "secret", "emailVerified": true});
    let signed_up = server.master().post("/classes/_User", account).await.created();
    assert_eq!(members(&signed_up), ["createdAt", "objectId"]);
    assert_eq!(server.master().get("/sessions").await.ok()["results"], json!([]));
    log_in(&server.nobody(), "alice", "secret").await;
}

#[tokio::test]
async fn users_are_private_and_their_address_is_hidden() {
    let server = plain_server();
    let (alice, bob) = (server.sign_up("alice").await, server.sign_up("bob").await);
    let place = format!("/users/{}", alice.id());
    for other in [&bob, &server.nobody()] {
        other.get(&place).await.refused(404, 101);
        assert_eq!(other.find("_User", json!({"objectId": alice.id()})).await, [Value::Null; 0]);
    }
    // What is said about rights is kept, and users keep their own.
    alice.put(&place, json!({"ACL": {"*": {"read": true}}})).await.ok();
    let seen = bob.get(&place).await.ok();
    assert_eq!(
        (&seen["username"], seen.get("email"), seen.get("sessionToken")),
        (&json!(alice.name), None, None),
        "{seen}"
    );
    assert_eq!(seen["ACL"], json!({"*": {"read": true}, alice.id(): {"read": true, "write": true}}));
    let found = bob.find("_User", json!({"objectId": alice.id()})).await;
    assert!(found[0].get("email").is_none() && found[0].get("authData").is_none(), "{found:?}");
    assert!(alice.get(&place).await.ok()["email"].is_string());
    assert!(alice.find("_User", json!({"objectId": alice.id()})).await[0]["email"].is_string());
    let address = server.master().get(&place).await.ok()["email"].clone();
    assert_eq!(server.master().find("_User", json!({"email": address})).await.len(), 1, "the master may ask");
}

#[tokio::test]
async fn a_log_in_shows_users_themselves() {
    let server = plain_server();
    let alice = server.sign_up("alice").await;
    let nobody = server.nobody();
    let by_name = json!({"username": alice.name, "password": "secret"});
    let address = format!("{}@example.org", alice.name);
    for body in [
        by_name.clone(),
        json!({"email": address, "password": "secret"}),
        json!({"username": address, "password": "secret"}),
    ] {
        let user = nobody.post("/login", body.clone()).await.ok();
        assert_eq!((&user["username"], &user["email"]), (&json!(alice.name), &json!(address)), "{body}");
        assert!(user["sessionToken"].as_str().unwrap().starts_with("r:") && user.get("password").is_none(), "{user}");
        assert_ne!(user["sessionToken"], json!(alice.token()), "a session of its own");
    }
    let by_get = nobody.get(&format!("/login?username={}&password=secret", alice.name)).await.ok();
    assert_eq!(by_get["objectId"], json!(alice.id()));
    let checked = nobody.post("/verifyPassword", by_name).await.ok();
    assert_eq!((&checked["objectId"], checked.get("sessionToken")), (&json!(alice.id()), None));
    nobody.post("/verifyPassword", json!({"username": alice.name, "password": "wrong"})).await.refused(404, 101);
    assert!(is_logged_in(&alice).await, "another log-in ends nothing");
}

#[tokio::test]
async fn a_log_out_ends_this_session_only() {
    let server = plain_server();
    let alice = server.sign_up("alice").await;
    let again = log_in(&server.nobody(), &alice.name, "secret").await;
    assert_eq!(alice.post("/logout", json!({})).await.ok(), json!({}));
    assert!(!is_logged_in(&alice).await && is_logged_in(&again).await);
    alice.post("/logout", json!({})).await.refused(400, 209);
    assert_eq!(server.nobody().post("/logout", json!({})).await.ok(), json!({}), "nobody can log out");
}

#[tokio::test]
async fn one_device_has_one_session_of_a_user() {
    let server = plain_server();
    let alice = server.sign_up("alice").await;
    let phone = server.nobody().header("X-Parse-Installation-Id", "phone");
    let tablet = server.nobody().header("X-Parse-Installation-Id", "tablet");
    let first = log_in(&phone, &alice.name, "secret").await;
    let other = log_in(&tablet, &alice.name, "secret").await;
    let second = log_in(&phone, &alice.name, "secret").await;
    assert!(!is_logged_in(&first).await, "the new one takes its place");
    assert!(is_logged_in(&second).await && is_logged_in(&other).await && is_logged_in(&alice).await);
    assert_eq!(second.get("/sessions/me").await.ok()["installationId"], "phone");
}

#[tokio::test]
async fn no_log_in_with_the_old_password_survives_its_change() {
    let server = plain_server();
    for round in 0..5 {
        let alice = server.sign_up(&fresh("alice")).await;
        let log_ins: Vec<_> = (0..12)
            .map(|_| {
                let (nobody, name) = (server.nobody(), alice.name.clone());
                tokio::spawn(async move {
                    let answer = nobody.post("/login", json!({"username": name, "password": "secret"})).await;
                    (answer.status == 200).then(|| answer.ok()["sessionToken"].as_str().unwrap().to_owned())
                })
            })
            .collect();
        let place = format!("/users/{}", alice.id());
        let changed = alice.put(&place, json!({"password": "better"})).await.ok();
        let kept = alice.clone().session(alice.id(), changed["sessionToken"].as_str().unwrap());
        for log_in in log_ins {
            if let Some(token) = log_in.await.unwrap() {
                let old = server.nobody().session(alice.id(), &token);
                assert!(!is_logged_in(&old).await, "round {round}");
            }
        }
        assert!(is_logged_in(&kept).await);
    }
}

#[tokio::test]
async fn who_changes_the_own_password_goes_on_with_a_new_session() {
    let server = plain_server();
    let alice = server.sign_up("alice").await;
    let elsewhere = log_in(&server.nobody(), &alice.name, "secret").await;
    let place = format!("/users/{}", alice.id());
    let changed = alice.put(&place, json!({"password": "better"})).await.ok();
    assert_eq!(members(&changed), ["sessionToken", "updatedAt"]);
    assert!(!is_logged_in(&alice).await && !is_logged_in(&elsewhere).await, "all sessions end");
    let alice = alice.clone().session(alice.id(), changed["sessionToken"].as_str().unwrap());
    assert!(is_logged_in(&alice).await);
    server.nobody().post("/login", json!({"username": alice.name, "password": "secret"})).await.refused(404, 101);
    let again = log_in(&server.nobody(), &alice.name, "better").await;

    let by_master = server.master().put(&place, json!({"password": "best"})).await.ok();
    assert_eq!(members(&by_master), ["updatedAt"], "the master gets no session of the user");
    assert!(!is_logged_in(&alice).await && !is_logged_in(&again).await);
    log_in(&server.nobody(), &alice.name, "best").await;
}

#[tokio::test]
async fn a_deleted_user_is_logged_in_nowhere() {
    let server = plain_server();
    let (alice, bob) = (server.sign_up("alice").await, server.sign_up("bob").await);
    assert_eq!(alice.delete(&format!("/users/{}", alice.id())).await.ok(), json!({}));
    assert!(!is_logged_in(&alice).await);
    server.nobody().post("/login", json!({"username": alice.name, "password": "secret"})).await.refused(404, 101);
    assert_eq!(server.master().delete(&format!("/classes/_User/{}", bob.id())).await.ok(), json!({}));
    assert!(!is_logged_in(&bob).await);
    assert_eq!(server.master().get("/sessions").await.ok()["results"], json!([]), "their sessions went with them");
    // The name is free again.
    let account = json!({"username": alice.name, "password": "secret"});
    server.nobody().post("/users", account).await.created();
}

#[tokio::test]
async fn users_change_themselves_and_nobody_else() {
    let server = plain_server();
    let (alice, bob) = (server.sign_up("alice").await, server.sign_up("bob").await);
    let changed =
        alice.put(&format!("/classes/_User/{}", alice.id()), json!({"nick": "Al", "username": alice.name})).await.ok();
    assert_eq!(members(&changed), ["updatedAt"], "the own name is not taken");
    alice.put(&format!("/users/{}", bob.id()), json!({"nick": "B"})).await.refused(400, 206);
    // Not even where the ACL would let them: Parse's rule for users goes first.
    bob.put(&format!("/users/{}", bob.id()), json!({"ACL": {"*": {"read": true, "write": true}}})).await.ok();
    alice.put(&format!("/users/{}", bob.id()), json!({"nick": "B"})).await.refused(400, 206);
    server.master().put(&format!("/users/{}", bob.id()), json!({"nick": "B", "emailVerified": true})).await.ok();
    let bob_now = bob.get("/users/me").await.ok();
    assert_eq!((&bob_now["nick"], &bob_now["emailVerified"]), (&json!("B"), &json!(true)));
    // A session token in a body is nothing that could be set.
    alice.put(&format!("/users/{}", alice.id()), json!({"sessionToken": "r:mine"})).await.ok();
    assert_eq!(alice.get("/users/me").await.ok()["sessionToken"], json!(alice.token()));
}

#[tokio::test]
async fn names_and_addresses_are_taken_whatever_their_case() {
    let server = plain_server();
    let nobody = server.nobody();
    let account = |name: &str, email: Option<&str>| {
        let mut account = json!({"username": name, "password": "secret"});
        if let Some(email) = email {
            account["email"] = email.into();
        }
        account
    };
    nobody.post("/users", account("Zoë", Some("zoe@example.org"))).await.created();
    nobody.post("/users", account("zoë", None)).await.refused(400, 202);
    nobody.post("/users", account(" Zoë", Some("Zoe@Example.ORG"))).await.refused(400, 203);
    nobody.post("/users", account(" Zoë", None)).await.created();
    nobody.post("/users", account("two", None)).await.created();
    nobody.post("/users", account("three", None)).await.created();

    // Of many who want one name at once, one gets it.
    let name = fresh("wanted");
    let attempts = (0..16).map(|n| {
        let (nobody, name) = (nobody.clone(), if n % 2 == 0 { name.clone() } else { name.to_uppercase() });
        tokio::spawn(async move { nobody.post("/users", json!({"username": name, "password": "secret"})).await.status })
    });
    let mut got = 0;
    for attempt in attempts.collect::<Vec<_>>() {
        match attempt.await.unwrap() {
            201 => got += 1,
            other => assert_eq!(other, 400),
        }
    }
    assert_eq!(got, 1);
}

/// The server looks for them twice a second, however many there are.
#[tokio::test]
async fn sessions_that_expire_are_found_without_looking_at_the_others() {
    let server = plain_server();
    for name in ["alice", "bob", "carol"] {
        server.sign_up(name).await;
    }
    let filter = json!({"expiresAt": {"$lte": {"__type": "Date", "iso": "2020-01-01T00:00:00.000Z"}}}).to_string();
    let parameters = [("where", filter.as_str()), ("order", "expiresAt"), ("limit", "500"), ("explain", "true")];
    let plan = server.master().query("_Session", &parameters).await.ok()["results"].clone();
    let (index, sorted, examined) = (&plan["index"][0], &plan["orderedByIndex"], &plan["examined"]);
    assert_eq!((index, sorted, examined), (&json!("expiresAt"), &json!(true), &json!(0)), "{plan}");
}

#[tokio::test]
async fn sessions_are_objects_of_their_user() {
    let server = plain_server();
    let (alice, bob) = (server.sign_up("alice").await, server.sign_up("bob").await);
    let mine = alice.get("/sessions/me").await.ok();
    assert_eq!(mine["user"], alice.pointer());
    assert_eq!((&mine["sessionToken"], mine.get("ACL")), (&json!(alice.token()), None), "{mine}");
    assert_eq!(
        (&mine["createdWith"]["action"], &mine["createdWith"]["authProvider"]),
        (&json!("signup"), &json!("password"))
    );
    assert_eq!(mine["expiresAt"]["__type"], "Date", "{mine}");

    let all = alice.get("/sessions").await.ok();
    assert_eq!(all["results"].as_array().unwrap().len(), 1, "only the own ones: {all}");
    let narrowed = alice.find("_Session", json!({"user": bob.pointer()})).await;
    assert_eq!(narrowed, [Value::Null; 0]);
    assert_eq!(server.master().get("/sessions").await.ok()["results"].as_array().unwrap().len(), 2);

    let theirs = format!("/sessions/{}", id_of(&bob.get("/sessions/me").await.ok()));
    alice.get(&theirs).await.refused(404, 101);
    alice.put(&theirs, json!({"note": "x"})).await.refused(404, 101);
    alice.delete(&theirs).await.refused(404, 101);

    let own = format!("/sessions/{}", id_of(&mine));
    alice.put(&own, json!({"note": "x"})).await.ok();
    assert_eq!(alice.get(&own).await.ok()["note"], "x");
    assert_eq!(alice.delete(&own).await.ok(), json!({}));
    assert!(!is_logged_in(&alice).await && is_logged_in(&bob).await);
}

#[tokio::test]
async fn a_user_whose_rights_the_master_took_cannot_log_in() {
    let server = plain_server();
    let alice = server.sign_up("alice").await;
    let place = format!("/users/{}", alice.id());
    server.master().put(&place, json!({"ACL": {}})).await.ok();
    assert_eq!(server.master().get(&place).await.ok()["ACL"], json!({}));
    server.nobody().post("/login", json!({"username": alice.name, "password": "secret"})).await.refused(404, 101);
}

#[tokio::test]
async fn a_guest_becomes_a_user() {
    let server = plain_server();
    let nobody = server.nobody();
    let guest = json!({"authData": {"anonymous": {"id": "device-1"}}});
    let signed_up = nobody.post("/users", guest.clone()).await.created();
    assert_eq!(members(&signed_up), ["createdAt", "objectId", "sessionToken", "username"]);
    let again = nobody.post("/users", guest.clone()).await.ok();
    assert_eq!(again["objectId"], signed_up["objectId"], "the known guest is logged in");
    let me = nobody.clone().session(&id_of(&again), again["sessionToken"].as_str().unwrap());
    assert!(is_logged_in(&me).await);
    let place = format!("/users/{}", me.id());
    me.put(&place, json!({"username": "named", "password": "secret", "authData": {"anonymous": null}})).await.ok();
    let named = log_in(&nobody, "named", "secret").await;
    assert_eq!(named.id(), me.id());
    let other = nobody.post("/users", guest).await.created();
    assert_ne!(other["objectId"], signed_up["objectId"], "the device's guest is somebody new now");
}

#[tokio::test]
async fn a_name_that_is_an_address_of_another_is_a_name() {
    let server = plain_server();
    let (nobody, log_in) = (server.nobody(), async |body: Value| server.nobody().post("/login", body).await);
    let sign_up = async |name: &str, email: &str| {
        let body = json!({"username": name, "password": name, "email": email});
        nobody.post("/users", body).await.created()["objectId"].clone()
    };
    let bob = sign_up("bob", "shared@x.test").await;
    let carol = sign_up("shared@x.test", "carol@x.test").await;
    for (body, expected) in [
        (json!({"username": "shared@x.test", "password": "shared@x.test"}), Some(&carol)),
        (json!({"username": "shared@x.test", "password": "bob"}), None),
        (json!({"email": "shared@x.test", "password": "bob"}), Some(&bob)),
        (json!({"username": "", "email": "shared@x.test", "password": "bob"}), Some(&bob)),
        (json!({"username": "bob", "email": "shared@x.test", "password": "bob"}), Some(&bob)),
        (json!({"username": "bob", "email": "carol@x.test", "password": "bob"}), None),
        (json!({"username": 5, "password": "bob"}), None),
    ] {
        let answer = log_in(body.clone()).await;
        match expected {
            Some(id) => assert_eq!(&answer.ok()["objectId"], id, "{body}"),
            None => answer.refused(404, 101),
        }
    }
    log_in(json!({"password": "bob"})).await.refused(400, 200);
    log_in(json!({"username": "bob", "password": ""})).await.refused(400, 201);
}

#[tokio::test]
async fn a_second_factor_that_nobody_checks_is_no_log_in() {
    let server = plain_server();
    let alice = server.sign_up("alice").await;
    let both = json!({"username": alice.name, "password": "secret", "authData": {"mfa": {"token": "123"}}});
    server.nobody().post("/login", both).await.refused(400, 252);
    alice.post("/sessions", json!({})).await.refused(400, 108);
}

#[tokio::test]
async fn a_user_may_link_a_guest_id() {
    let server = plain_server();
    let (alice, nobody) = (server.sign_up("alice").await, server.nobody());
    let place = format!("/users/{}", alice.id());
    let guest = |id: &str| json!({"authData": {"anonymous": {"id": id}}});
    alice.put(&place, guest("device-1")).await.ok();
    assert_eq!(nobody.post("/users", guest("device-1")).await.ok()["objectId"], alice.id());
    alice.put(&place, guest("device-2")).await.ok();
    assert_eq!(nobody.post("/users", guest("device-2")).await.ok()["objectId"], alice.id());
    let other = nobody.post("/users", guest("device-1")).await.created();
    assert_ne!(other["objectId"], alice.id());
    alice.put(&place, guest("device-1")).await.refused(400, 208);
}

#[tokio::test]
async fn an_sdk_with_the_master_key_signs_up_whoever_uses_it() {
    let server = plain_server();
    let account = json!({"username": "alice", "password": "secret", "_InstallationId": "here"});
    let signed_up = server.master().post("/users", account).await.created();
    let alice = server.nobody().session(&id_of(&signed_up), signed_up["sessionToken"].as_str().unwrap());
    assert!(is_logged_in(&alice).await);
}

#[tokio::test]
async fn sessions_and_users_outlive_a_restart() {
    let mut server = plain_server();
    let alice = server.sign_up("alice").await;
    let gone = log_in(&server.nobody(), &alice.name, "secret").await;
    gone.post("/logout", json!({})).await.ok();
    server.kill();
    server.start_again();
    let (alice, gone) = (alice.reconnected(), gone.reconnected());
    assert!(is_logged_in(&alice).await && !is_logged_in(&gone).await);
    log_in(&server.nobody(), &alice.name, "secret").await;
    server
        .nobody()
        .post("/users", json!({"username": alice.name.to_uppercase(), "password": "x"}))
        .await
        .refused(400, 202);
}

#[tokio::test]
async fn no_secret_is_in_the_log_or_in_an_error() {
    let server = plain_server();
    let account = json!({"username": "alice", "password": "hunter2-secret", "email": "hidden@example.org"});
    let user = server.nobody().post("/users", account).await.created();
    let token = user["sessionToken"].as_str().unwrap();
    let alice = server.nobody().session(&id_of(&user), token);
    let errors = [
        server.nobody().post("/login", json!({"username": "alice", "password": "hunter2-wrong"})).await.text,
        alice.put(&format!("/users/{}", alice.id()), json!({"password": "hunter2-secret", "a-b": 1})).await.text,
        server.master().post("/classes/1a", json!({})).await.text,
        alice.send("POST", "/classes/Note", format!("{{\"_SessionToken\":\"{token}\",")).await.text,
    ];
    for text in errors.iter().map(String::as_str).chain([server.stderr().as_str(), server.stdout().as_str()]) {
        for secret in ["hunter2", token, "hidden@example.org", "argon2"] {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }
}

#[tokio::test]
async fn sessions_and_internal_fields_leak_in_no_way() {
    let server = plain_server();
    let (alice, bob) = (server.sign_up("alice").await, server.sign_up("bob").await);
    let session = id_of(&bob.get("/sessions/me").await.ok());
    // By including what one points to.
    let note = json!({"s": {"__type": "Pointer", "className": "_Session", "objectId": session}, "u": bob.pointer()});
    let id = alice.create("Note", note).await;
    let included = alice.get(&format!("/classes/Note/{id}?include=s,u,s.user")).await.ok();
    assert_eq!((included.get("s"), included.get("u")), (None, None), "{included}");
    let own = bob.get(&format!("/classes/Note/{id}?include=s,u")).await.ok();
    assert_eq!(own["u"]["username"], json!(bob.name), "{own}");

    // By asking for it.
    let by_token = json!({"sessionToken": bob.token()});
    assert_eq!(alice.find("_Session", by_token.clone()).await, [Value::Null; 0]);
    assert_eq!(bob.find("_Session", by_token).await.len(), 1, "one's own may be asked for");
    for field in ["_hashed_password", "_session_token", "_auth_data_anonymous", "_rperm"] {
        for (class, caller) in [("_User", &alice), ("_Session", &alice), ("_User", &server.master())] {
            let filter = json!({field: {"$exists": true}}).to_string();
            caller.query(class, &[("where", &filter)]).await.refused(400, 105);
            caller.query(class, &[("order", field)]).await.refused(400, 105);
            caller.put(&format!("/classes/{class}/x"), json!({field: "x"})).await.refused(400, 105);
        }
    }
    // Not even by the master.
    for path in ["/users", "/sessions", "/classes/_User", "/schemas"] {
        let text = server.master().get(path).await.ok().to_string();
        for secret in ["_hashed_password", "argon2", "_session_token", "_auth_data"] {
            assert!(!text.contains(secret), "{secret} at {path}: {text}");
        }
    }
    let keyed = server.master().query("_User", &[("keys", "_hashed_password,password")]).await.ok();
    assert!(!keyed.to_string().contains("argon2"), "{keyed}");
}

#[tokio::test]
async fn operations_on_what_a_user_is_are_refused() {
    let server = plain_server();
    let alice = server.sign_up("alice").await;
    let place = format!("/users/{}", alice.id());
    for change in [
        json!({"username": {"__op": "Add", "objects": ["x"]}}),
        json!({"username": {"__op": "Increment", "amount": 1}}),
        json!({"username.x": "y"}),
        json!({"email": {"__op": "AddUnique", "objects": ["x@y"]}}),
        json!({"email": ["x@y"]}),
        json!({"password": {"__op": "Add", "objects": ["x"]}}),
        json!({"password.x": "y"}),
        json!({"authData.anonymous": {"id": "x"}}),
    ] {
        let answer = alice.put(&place, change.clone()).await;
        assert_eq!(answer.status, 400, "{change}: {}", answer.text);
    }
    let me = alice.get("/users/me").await.ok();
    assert_eq!((&me["username"], me.get("password"), me.get("authData")), (&json!(alice.name), None, None), "{me}");
    log_in(&server.nobody(), &alice.name, "secret").await;
}
