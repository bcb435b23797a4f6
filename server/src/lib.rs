//! The server.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod changes;
pub mod permissions;
pub mod schema;
pub mod storage;
