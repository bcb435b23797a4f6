//! End to end: the real binary on a real socket, each test a story told through the public surface.
//!
//! Start reading at [`harness`]. `TIDINGS_BIN` names the binary; else it is the one of `target/release`, else of
//! `target/debug`. The chat's own flow through the npm SDK is in `tests/js`; here it is about the wire.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod config;
#[path = "../faults/faults.rs"]
mod faults;
mod harness;
mod hooks;
mod live;
mod malformed;
mod nodes;
mod permissions;
mod queries;
mod relations;
mod rest;
mod resume;
mod secured;
mod standalone;
#[path = "../faults/three/mod.rs"]
mod three;
mod transactions;
mod transport;
mod users;
