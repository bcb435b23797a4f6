//! The Parse data model and wire format, shared by the server and the Rust SDK.
//!
//! In reading order:
//!
//! - [`value`]: one [`Value`] of Parse, and its JSON;
//! - [`object`]: an [`Object`]: id, timestamps, ACL and fields;
//! - [`acl`]: who may read and write one object;
//! - [`update`]: field operations (`__op`), how they merge and how they apply;
//! - [`query`]: predicate, order, keys and include, read from and written to JSON;
//! - [`mod@matches`]: the one evaluator of what a predicate means;
//! - [`order`]: how values compare, and the order-preserving encoding that indexes and filter identities share;
//! - [`bson`]: stored bytes of objects and values;
//! - [`live`]: the frames of the LiveQuery socket, both directions;
//! - [`error`]: Parse's error codes.
//!
//! **Invariant:** this crate does no IO, has no `async fn` and knows nothing of the server.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod acl;
#[cfg(feature = "bson")]
pub mod bson;
pub mod date;
pub mod error;
pub mod live;
#[cfg(feature = "eval")]
pub mod matches;
pub mod names;
pub mod object;
pub mod order;
#[cfg(feature = "eval")]
mod pcre;
pub mod query;
pub mod update;
pub mod value;

pub use acl::{Access, Acl};
pub use date::Date;
pub use error::{Code, Error, Result};
pub use names::{ClassName, ObjectId};
pub use object::Object;
pub use query::{Predicate, Query};
pub use update::{Operation, Update};
pub use value::{Map, Value};
