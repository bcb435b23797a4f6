//! What a find asks of a store, and how the store says it went about it.

use crate::permissions::Principals;
use compact_str::CompactString;
use tidings_protocol::query::Order;
use tidings_protocol::{ClassName, Predicate};

/// Which objects of a class, in which order, and which page of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    pub class: ClassName,
    pub predicate: Predicate,
    /// Only objects that these may read; [`Principals::MASTER`] reads all.
    pub reader: Principals,
    pub order: Vec<Order>,
    pub skip: u64,
    pub limit: u64,
    /// The top-level fields that the caller will look at, besides id, timestamps and ACL; `None` is all. Others may be there.
    pub columns: Option<Vec<CompactString>>,
}

impl Selection {
    /// Every object of a class.
    pub fn all(class: ClassName, reader: Principals) -> Self {
        let (predicate, order) = (Predicate::everything(), Vec::new());
        Self { class, predicate, reader, order, skip: 0, limit: u64::MAX, columns: None }
    }
}

/// How a find was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The fields of the index that was read; empty for a scan of the class.
    pub index: Vec<CompactString>,
    /// Whether the index gave the order, so that only the page was read.
    pub ordered_by_index: bool,
    /// How many objects were looked at.
    pub examined: u64,
    /// How many were returned.
    pub returned: u64,
}
