//! The table of the API, on one screen: method and path to use case. A batch goes through it too.

use crate::error::{Failure, Result};
use compact_str::CompactString;
use percent_encoding::percent_decode_str;
use tidings_protocol::ObjectId;
use warp::http::Method;

/// What a request asks for. Class names are checked later, because a bad one means different things to each.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Route {
    Find(CompactString),
    Distinct(CompactString),
    Get(CompactString, ObjectId),
    Create(CompactString),
    Update(CompactString, ObjectId),
    Delete(CompactString, ObjectId),
    Batch,
    SignUp,
    LogIn,
    VerifyPassword,
    LogOut,
    Me,
    OwnSession,
    Schemas,
    Schema(CompactString),
    CreateSchema(Option<CompactString>),
    UpdateSchema(CompactString),
    DeleteSchema(CompactString),
    ServerInfo,
    Metrics,
}

/// Finds the use case for a method and a path below the mount.
///
/// # Errors
/// [`Failure::NoRoute`], or a Parse error for what Parse has and Tidings does not yet.
pub(super) fn route(method: &Method, path: &str) -> Result<Route> {
    let segments: Vec<CompactString> = path.split('/').filter(|segment| !segment.is_empty()).map(decoded).collect();
    let words: Vec<CompactString> = segments.iter().map(|segment| segment.to_ascii_lowercase()).collect();
    let words: Vec<&str> = words.iter().map(CompactString::as_str).collect();
    let name = |at: usize| segments[at].clone();
    let id = |at: usize| ObjectId::new(segments[at].clone());
    let class_of = |word: &str| CompactString::from(if word == "users" { "_User" } else { "_Session" });
    Ok(match (method.as_str(), words.as_slice()) {
        ("GET", ["classes", _]) => Route::Find(name(1)),
        ("POST", ["classes", "_user"]) => Route::SignUp,
        ("POST", ["classes", _]) => Route::Create(name(1)),
        ("GET", ["classes", _, _]) => Route::Get(name(1), id(2)),
        ("PUT", ["classes", _, _]) => Route::Update(name(1), id(2)),
        ("DELETE", ["classes", _, _]) => Route::Delete(name(1), id(2)),
        // All of it that there is yet.
        ("GET", ["aggregate", _]) => Route::Distinct(name(1)),
        ("POST", ["batch"]) => Route::Batch,
        ("POST", ["users"]) => Route::SignUp,
        ("GET", ["users", "me"]) => Route::Me,
        ("GET" | "POST", ["login"]) => Route::LogIn,
        ("GET" | "POST", ["verifypassword"]) => Route::VerifyPassword,
        ("POST", ["logout"]) => Route::LogOut,
        ("GET", ["sessions", "me"]) => Route::OwnSession,
        ("GET", [word @ ("users" | "sessions")]) => Route::Find(class_of(word)),
        ("GET", [word @ ("users" | "sessions"), _]) => Route::Get(class_of(word), id(1)),
        ("PUT", [word @ ("users" | "sessions"), _]) => Route::Update(class_of(word), id(1)),
        ("DELETE", [word @ ("users" | "sessions"), _]) => Route::Delete(class_of(word), id(1)),
        ("GET", ["schemas"]) => Route::Schemas,
        ("GET", ["schemas", _]) => Route::Schema(name(1)),
        ("POST", ["schemas"]) => Route::CreateSchema(None),
        ("POST", ["schemas", _]) => Route::CreateSchema(Some(name(1))),
        ("PUT", ["schemas", _]) => Route::UpdateSchema(name(1)),
        ("DELETE", ["schemas", _]) => Route::DeleteSchema(name(1)),
        ("GET", ["serverinfo"]) => Route::ServerInfo,
        ("GET", ["metrics"]) => Route::Metrics,
        (
            _,
            [
                "aggregate"
                | "purge"
                | "roles"
                | "installations"
                | "functions"
                | "jobs"
                | "hooks"
                | "files"
                | "config"
                | "push"
                | "loginas"
                | "requestpasswordreset"
                | "verificationemailrequest"
                | "challenge"
                | "upgradetorevocablesession"
                | "push_audiences"
                | "cloud_code"
                | "scriptlog"
                | "events"
                | "security",
                ..,
            ],
        )
        | ("POST", ["sessions"]) => {
            let message = format!("/{} is not supported yet.", segments[0]);
            return Err(Failure::parse(tidings_protocol::Code::CommandUnavailable, message));
        }
        _ => return Err(Failure::NoRoute),
    })
}

/// The path below the mount, or `None` if it is elsewhere. The mount matches in any case, as in Parse.
pub(super) fn below_mount<'a>(mount: &str, path: &'a str) -> Option<&'a str> {
    let path = if path.starts_with("//") { &path[1..] } else { path };
    let (head, rest) = path.split_at_checked(mount.len())?;
    (head.eq_ignore_ascii_case(mount) && (rest.is_empty() || rest.starts_with('/'))).then_some(rest)
}

fn decoded(segment: &str) -> CompactString {
    percent_decode_str(segment).decode_utf8_lossy().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_use_cases() {
        let class = || CompactString::from("Note");
        for (method, path, expected) in [
            (Method::GET, "/classes/Note", Route::Find(class())),
            (Method::GET, "/Classes/Note/", Route::Find(class())),
            (Method::PUT, "/classes/Note/x1", Route::Update(class(), ObjectId::new("x1"))),
            (Method::POST, "/users", Route::SignUp),
            (Method::POST, "/classes/_User", Route::SignUp),
            (Method::GET, "/users/me", Route::Me),
            (Method::GET, "/users/abc", Route::Get("_User".into(), ObjectId::new("abc"))),
            (Method::GET, "/schemas/", Route::Schemas),
            (Method::GET, "/aggregate/Note", Route::Distinct(class())),
            (Method::GET, "/classes/a%20b", Route::Find("a b".into())),
        ] {
            assert_eq!(route(&method, path), Ok(expected), "{method} {path}");
        }
        assert_eq!(route(&Method::GET, "/nowhere"), Err(Failure::NoRoute));
        assert_eq!(route(&Method::DELETE, "/classes/Note"), Err(Failure::NoRoute));
        assert_eq!(route(&Method::POST, "/functions/hello").unwrap_err().status(), 400);
        assert_eq!(route(&Method::POST, "/aggregate/Note").unwrap_err().status(), 400);
    }

    #[test]
    fn the_mount_is_taken_off() {
        assert_eq!(below_mount("/parse", "/parse/classes/X"), Some("/classes/X"));
        assert_eq!(below_mount("/parse", "/PARSE"), Some(""));
        assert_eq!(below_mount("/parse", "/parser/x"), None);
        assert_eq!(below_mount("/parse", "/pa"), None);
        assert_eq!(below_mount("", "/classes/X"), Some("/classes/X"));
        assert_eq!(below_mount("/a/b", "//a/b/c"), Some("/c"));
    }
}
