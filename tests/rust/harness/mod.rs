//! What the stories are told with: a [`Server`], the [`Client`]s who talk to it, and their subscriptions ([`Live`]).
//!
//! Nothing sleeps: [`live::Subscription::expect`] waits with a generous deadline and wants the *next* event to be the one it
//! names, so silence is proved by a later write that must arrive next.

mod client;
mod database;
mod launch;
mod live;
#[path = "../../mongod/process.rs"]
pub(crate) mod process;
mod raw;
mod server;
#[path = "../../mongod/set.rs"]
pub(crate) mod set;
mod turn;

pub(crate) use client::{Answer, Client, query_string};
pub(crate) use database::{Database, mongod, on_mongodb};
pub(crate) use launch::{Launch, refused};
pub(crate) use live::{Live, cursor_of, position_of};
pub(crate) use raw::{Raw, status_of};
pub(crate) use serde_json::{Value, json};
pub(crate) use server::Server;
pub(crate) use turn::alone;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Far longer than anything here takes, so that a busy machine is no failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// `Note7`: a name that no other test of this run has.
pub(crate) fn fresh(stem: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    format!("{stem}{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn pointer(class: &str, id: &str) -> Value {
    json!({"__type": "Pointer", "className": class, "objectId": id})
}

pub(crate) fn date(iso: &str) -> Value {
    json!({"__type": "Date", "iso": iso})
}

/// The names of an object's members, sorted.
pub(crate) fn members(object: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// An object's id.
pub(crate) fn id_of(object: &Value) -> String {
    object["objectId"].as_str().unwrap_or_else(|| panic!("no objectId in {object}")).to_owned()
}
