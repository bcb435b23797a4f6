//! The rules of `main.rhai`, as a client meets them.

#![allow(clippy::unwrap_used)]

mod server;

use server::{Server, code, user};
use std::sync::Arc;

fn conversation(server: &Server, who: &[&str]) -> String {
    let participants: Vec<String> = who.iter().map(|id| user(id)).collect();
    server.create(who[0], "Conversation", &format!(r#"{{"participants":[{}]}}"#, participants.join(","))).unwrap()
}

fn in_room(room: &str, more: &str) -> String {
    let at = format!(r#""conversation":{{"__type":"Pointer","className":"Conversation","objectId":"{room}"}}"#);
    if more.is_empty() { format!("{{{at}}}") } else { format!("{{{at},{more}}}") }
}

fn chat() -> (Arc<Server>, String) {
    let server = Server::chat();
    let room = conversation(&server, &["alice", "bob"]);
    (server, room)
}

#[test]
fn a_message_gets_its_sender_and_acl() {
    let (server, room) = chat();
    let id = server.create("alice", "Message", &in_room(&room, r#""text":" <b>hi</b> <3 & 👍 ""#)).unwrap();
    assert_eq!(server.get_field("Message", &id, "text"), r#""hi <3 & 👍""#);
    assert_eq!(server.get_field("Message", &id, "sender"), user("alice"));
    assert_eq!(server.acl("Message", &id), r#"{"alice":{"read":true,"write":true},"bob":{"read":true}}"#);
    assert_eq!(server.get_field("Conversation", &room, "lastMessage"), r#""hi <3 & 👍""#);
    assert_eq!(server.get_field("Conversation", &room, "lastMessageAt"), server.get_field("Message", &id, "createdAt"));
}

#[test]
fn forged_senders_outsiders_and_nobody_are_refused() {
    let (server, room) = chat();
    let forged = in_room(&room, &format!(r#""text":"x","sender":{}"#, user("bob")));
    assert_eq!(code(server.create("alice", "Message", &forged)), 119);
    let honest = in_room(&room, &format!(r#""text":"x","sender":{}"#, user("alice")));
    assert_eq!(code(server.create("alice", "Message", &honest)), 0);
    for who in ["eve", ""] {
        assert_eq!(code(server.create(who, "Message", &in_room(&room, r#""text":"x""#))), 119, "{who}");
        assert_eq!(code(server.create(who, "TypingStatus", &in_room(&room, r#""isTyping":true"#))), 119, "{who}");
    }
    for body in
        [in_room("nowhere", r#""text":"x""#), r#"{"text":"x"}"#.into(), r#"{"text":"x","conversation":5}"#.into()]
    {
        assert_eq!(code(server.create("alice", "Message", &body)), 119, "{body}");
    }
    let foreign = in_room(&room, &format!(r#""isTyping":true,"user":{}"#, user("bob")));
    assert_eq!(code(server.create("alice", "TypingStatus", &foreign)), 119);
    assert!(server.log.lock().unwrap().is_empty(), "{:?}", server.log.lock().unwrap());
}

#[test]
fn the_master_key_may_name_any_sender_and_is_not_limited() {
    let (server, room) = chat();
    for _ in 0..20 {
        let body = in_room(&room, &format!(r#""text":"x","sender":{}"#, user("bob")));
        let id = server.create("master", "Message", &body).unwrap();
        assert_eq!(server.get_field("Message", &id, "sender"), user("bob"));
        assert_eq!(server.acl("Message", &id), r#"{"alice":{"read":true},"bob":{"read":true,"write":true}}"#);
    }
    assert_eq!(code(server.create("bob", "Message", &in_room(&room, r#""text":"x""#))), 0);
    assert_eq!(code(server.create("master", "Message", r#"{"text":"loose"}"#)), 0);
}

#[test]
fn blank_text_needs_an_attachment() {
    let (server, room) = chat();
    for text in ["", "  \\n\\t ", "<b> </b>", "\\u200b", "<script>alert(1)</script>"] {
        let body = in_room(&room, &format!(r#""text":"{text}""#));
        assert_eq!(code(server.create("alice", "Message", &body)), 142, "{text}");
    }
    assert_eq!(code(server.create("alice", "Message", &in_room(&room, ""))), 142);
    assert_eq!(code(server.create("alice", "Message", &in_room(&room, r#""text":null"#))), 142);
    assert_eq!(code(server.create("alice", "Message", &in_room(&room, r#""text":5"#))), 142);
    let file = r#""attachment":{"__type":"File","name":"cat.png"}"#;
    let id = server.create("alice", "Message", &in_room(&room, &format!(r#""text":" ",{file}"#))).unwrap();
    assert_eq!(server.get_field("Conversation", &room, "lastMessage"), r#""cat.png""#);
    assert_eq!(code(server.save("alice", "Message", Some(&id), r#"{"attachment":{"__op":"Delete"}}"#)), 142);
}

#[test]
fn the_eleventh_message_in_a_minute_is_refused() {
    let (server, room) = chat();
    let send = |who: &str, text: &str| server.create(who, "Message", &in_room(&room, &format!(r#""text":"{text}""#)));
    // What is refused for another reason takes no place.
    for _ in 0..20 {
        assert_eq!(code(send("alice", " ")), 142);
    }
    let ids: Vec<_> = (0..10).map(|_| send("alice", "x").unwrap()).collect();
    assert_eq!(code(send("alice", "x")), 155);
    assert_eq!(code(send("bob", "x")), 0);
    assert_eq!(code(server.save("alice", "Message", Some(&ids[0]), r#"{"text":"edited"}"#)), 0);
}

#[test]
fn concurrent_senders_share_the_limit() {
    let (server, room) = chat();
    let sent: usize = std::thread::scope(|scope| {
        let body = in_room(&room, r#""text":"x""#);
        let server = &server;
        let threads: Vec<_> = (0..50)
            .map(|_| {
                let body = body.clone();
                scope.spawn(move || usize::from(server.create("alice", "Message", &body).is_ok()))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(sent, 10);
}

#[test]
fn a_message_stays_what_it_is() {
    let (server, room) = chat();
    let other = conversation(&server, &["alice", "bob"]);
    let id = server.create("alice", "Message", &in_room(&room, r#""text":"x""#)).unwrap();
    let change = |body: &str| code(server.save("alice", "Message", Some(&id), body));
    assert_eq!(change(&format!(r#"{{"sender":{}}}"#, user("bob"))), 119);
    assert_eq!(change(r#"{"sender":{"__op":"Delete"}}"#), 119);
    assert_eq!(change(&in_room(&other, "")), 119);
    assert_eq!(change(&in_room(&room, r#""text":"<i>y</i>""#)), 0);
    assert_eq!(server.get_field("Message", &id, "text"), r#""y""#);
    // An ACL that the author sets later is honoured, and kept by edits.
    assert_eq!(change(r#"{"ACL":{"alice":{"read":true,"write":true}}}"#), 0);
    assert_eq!(change(r#"{"text":"z"}"#), 0);
    assert_eq!(server.acl("Message", &id), r#"{"alice":{"read":true,"write":true}}"#);
}

#[test]
fn the_last_message_is_the_newest_one() {
    let (server, room) = chat();
    let last = || server.get_field("Conversation", &room, "lastMessage");
    let first = server.create("alice", "Message", &in_room(&room, r#""text":"first""#)).unwrap();
    let second = server.create("bob", "Message", &in_room(&room, r#""text":"second""#)).unwrap();
    assert_eq!(last(), r#""second""#);
    server.save("alice", "Message", Some(&first), r#"{"text":"first, edited"}"#).unwrap();
    assert_eq!(last(), r#""second""#);
    server.save("bob", "Message", Some(&second), r#"{"text":"second, edited"}"#).unwrap();
    assert_eq!(last(), r#""second, edited""#);
    assert!(server.log.lock().unwrap().is_empty(), "{:?}", server.log.lock().unwrap());
}

#[test]
fn a_late_after_save_does_not_overwrite_a_newer_message() {
    let (server, room) = chat();
    std::thread::scope(|scope| {
        for sender in 0..8 {
            let (server, room) = (&server, &room);
            scope.spawn(move || {
                for n in 0..20 {
                    let body = in_room(room, &format!(r#""text":"{sender} {n}""#));
                    server.create("master", "Message", &body).unwrap();
                }
            });
        }
    });
    let rows = server.rows.lock().unwrap();
    let newest = rows.iter().filter(|((class, _), _)| class == "Message").max_by_key(|(_, row)| row.created_at);
    let newest = newest.unwrap().1.clone();
    drop(rows);
    assert_eq!(server.get_field("Conversation", &room, "lastMessage"), newest.fields.get("text").unwrap().to_json());
}

#[test]
fn edits_at_the_same_time_leave_the_stored_text() {
    let (server, room) = chat();
    let id = server.create("alice", "Message", &in_room(&room, r#""text":"x""#)).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..6 {
            let (server, id) = (&server, &id);
            scope.spawn(move || {
                for n in 0..20 {
                    server.save("alice", "Message", Some(id), &format!(r#"{{"text":"{writer} {n}"}}"#)).unwrap();
                }
            });
        }
    });
    assert_eq!(server.get_field("Conversation", &room, "lastMessage"), server.get_field("Message", &id, "text"));
}

#[test]
fn a_conversation_is_for_its_participants() {
    let server = Server::chat();
    assert_eq!(code(server.create("", "Conversation", r#"{"participants":[]}"#)), 119);
    for bad in [r#"{"participants":5}"#, r#"{"participants":["alice"]}"#] {
        assert_eq!(code(server.create("alice", "Conversation", bad)), 142, "{bad}");
    }
    let both = r#"{"alice":{"read":true,"write":true},"bob":{"read":true,"write":true}}"#;
    let room = conversation(&server, &["alice", "bob"]);
    assert_eq!(server.acl("Conversation", &room), both);

    // Whoever starts it takes part, and its ACL is not the client's at first.
    let body = format!(r#"{{"participants":[{}],"ACL":{{"*":{{"read":true}}}}}}"#, user("bob"));
    let room = server.create("alice", "Conversation", &body).unwrap();
    assert_eq!(
        server.acl("Conversation", &room),
        r#"{"bob":{"read":true,"write":true},"alice":{"read":true,"write":true}}"#
    );
    let add = format!(r#"{{"participants":{{"__op":"AddUnique","objects":[{}]}}}}"#, user("carol"));
    server.save("alice", "Conversation", Some(&room), &add).unwrap();
    assert!(server.acl("Conversation", &room).contains(r#""carol":{"read":true,"write":true}"#));
    let remove = format!(r#"{{"participants":{{"__op":"Remove","objects":[{}]}}}}"#, user("bob"));
    server.save("alice", "Conversation", Some(&room), &remove).unwrap();
    assert!(!server.acl("Conversation", &room).contains("bob"));
    // Other changes leave it alone, and one that is set is honoured.
    server.save("alice", "Conversation", Some(&room), r#"{"ACL":{"alice":{"read":true,"write":true}}}"#).unwrap();
    server.save("alice", "Conversation", Some(&room), r#"{"title":"us"}"#).unwrap();
    assert_eq!(server.acl("Conversation", &room), r#"{"alice":{"read":true,"write":true}}"#);
    assert!(server.log.lock().unwrap().is_empty(), "{:?}", server.log.lock().unwrap());
}

#[test]
fn participants_added_at_the_same_time_all_get_in() {
    let server = Server::chat();
    let room = conversation(&server, &["alice", "bob"]);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (server, room) = (&server, &room);
            scope.spawn(move || {
                let add =
                    format!(r#"{{"participants":{{"__op":"AddUnique","objects":[{}]}}}}"#, user(&format!("u{n}")));
                // The server of these tests gives up after three conflicts, as the real one does.
                while server.save("alice", "Conversation", Some(room), &add).is_err() {}
            });
        }
    });
    for n in 0..4 {
        assert!(server.acl("Conversation", &room).contains(&format!("\"u{n}\"")));
    }
}

#[test]
fn a_fast_clock_does_not_freeze_a_conversation() {
    let server = Server::chat();
    let body = r#"{"lastMessage":"","lastMessageAt":{"__type":"Date","iso":"2099-01-01T00:00:00Z"}}"#;
    let room = server.create("alice", "Conversation", body).unwrap();
    server.create("alice", "Message", &in_room(&room, r#""text":"hi""#)).unwrap();
    assert_eq!(server.get_field("Conversation", &room, "lastMessage"), r#""hi""#);
}

#[test]
fn typing_is_seen_by_participants_and_written_by_its_user() {
    let (server, room) = chat();
    let id = server.create("bob", "TypingStatus", &in_room(&room, r#""isTyping":true"#)).unwrap();
    assert_eq!(server.acl("TypingStatus", &id), r#"{"alice":{"read":true},"bob":{"read":true,"write":true}}"#);
    assert_eq!(server.get_field("TypingStatus", &id, "user"), user("bob"));
    assert_eq!(code(server.save("bob", "TypingStatus", Some(&id), r#"{"isTyping":false}"#)), 0);
}

#[test]
fn profiles_are_readable_by_everybody() {
    let server = Server::chat();
    let id = server.create("", "_User", r#"{"username":"alice"}"#).unwrap();
    assert_eq!(server.acl("_User", &id), r#"{"*":{"read":true}}"#);
    server.save(&id, "_User", Some(&id), r#"{"ACL":{"x":{"read":true}}}"#).unwrap();
    assert_eq!(server.acl("_User", &id), r#"{"x":{"read":true}}"#);
}
