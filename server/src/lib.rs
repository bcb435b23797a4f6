//! Tidings: a Parse-compatible, live-query backend in one binary.
//!
//! This page is the map of the house. Each room has one sentence, one handle, and uses only rooms below it:
//!
//! - [`cli`]: commands and flags, no logic;
//! - [`config`]: one typed set of settings from defaults < file < environment < flags;
//! - [`app`]: builds the rooms and wires them; the only place that knows all of them;
//! - [`net`]: the accept loop: who may connect, how long they may take, and how it ends;
//! - [`http`]: decode a request, call one use case, encode the answer;
//! - [`ws`]: one task per live connection: read frames, write its outbox, stop;
//! - [`objects`]: the use cases; every write passes there, whoever asks;
//! - [`host`]: what a script may do to the server;
//! - [`hooks`]: when cloud code runs, where, its deadline, how its outcome becomes data or an error;
//! - [`live`]: the live-query engine: subscriptions, predicate index, matching, outboxes;
//! - [`auth`]: who is asking: keys, sessions, passwords;
//! - [`storage`]: objects on disk, behind one trait; [`storage::embedded`] is the store of one machine,
//!   [`storage::mongo`] that of many, in Parse Server's format;
//! - [`changes`]: what was committed, in order: the seam between storage and live queries;
//! - [`schema`] and [`permissions`]: pure: what a class is, and who may do what;
//! - [`error`]: every failure that a client can see; [`telemetry`]: logs and metrics.
//!
//! # Invariants
//!
//! - Every write passes [`objects`]; nobody else calls [`storage::Storage::commit`].
//! - [`storage`] and [`live`] never import each other: changes flow through [`changes`], wired in [`app`].
//! - [`live`] is synchronous: no sockets, no storage, no clock while matching.
//! - Only [`http`] and [`ws`] know JSON envelopes and status codes; the notation of values lives in
//!   [`tidings_protocol`].
//! - Only [`storage::embedded`] imports the key-value store, only [`storage::mongo`] the MongoDB driver, only `tidings-cloud-code` imports rhai.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod app;
pub mod auth;
pub mod changes;
pub mod cli;
pub mod config;
pub mod error;
pub mod hooks;
pub mod host;
pub mod http;
pub mod live;
pub mod net;
pub mod objects;
pub mod permissions;
pub mod schema;
pub mod storage;
pub mod telemetry;
pub mod ws;
