//! The distinct values of a field, gathered object by object: what [`super::Snapshot::distinct`] means, in every store.

use compact_str::CompactString;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use tidings_protocol::order::key;
use tidings_protocol::query::visit_path;
use tidings_protocol::{Object, Value};

/// How many values are gathered.
pub(super) const MOST_VALUES: usize = 100_000;
/// Memory that they may take.
const MOST_BYTES: usize = 64 << 20;

/// Values by their key, so that equal ones are there once, and all in order.
pub(super) struct Distinct {
    field: CompactString,
    values: BTreeMap<Vec<u8>, Value>,
    bytes: usize,
}

impl Distinct {
    pub(super) fn of(field: &str) -> Self {
        Self { field: field.into(), values: BTreeMap::new(), bytes: 0 }
    }

    /// Adds what the field holds in an object, of an array its elements. False once it is too much.
    pub(super) fn add(&mut self, object: &Object) -> bool {
        let field = self.field.clone();
        !visit_path(object, &field, &mut |found| match found.value {
            None => false,
            Some(Value::Array(items)) => !items.iter().all(|item| self.add_value(item)),
            Some(value) => !self.add_value(value),
        })
    }

    /// Adds a value as it is; false once it is too much. Null is nobody's, as in Parse; and that there is a relation is said
    /// by the class.
    pub(super) fn add_value(&mut self, value: &Value) -> bool {
        if matches!(value, Value::Null | Value::Relation(_)) || self.is_too_much() {
            return !self.is_too_much();
        }
        if let Entry::Vacant(place) = self.values.entry(key(value)) {
            self.bytes += place.key().len() + value.weight();
            place.insert(value.clone());
        }
        !self.is_too_much()
    }

    /// The values in order; `None` where they were too much.
    pub(super) fn finish(self) -> Option<Vec<Value>> {
        (!self.is_too_much()).then(|| self.values.into_values().collect())
    }

    fn is_too_much(&self) -> bool {
        self.values.len() > MOST_VALUES || self.bytes > MOST_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gathered_has_bounds() {
        let mut distinct = Distinct::of("x");
        let text = "x".repeat(1 << 20);
        for at in 0..100 {
            distinct.add_value(&Value::string(format!("{}{text}", at % 10)));
        }
        assert_eq!((distinct.values.len(), distinct.is_too_much()), (10, false));
        for at in 0..100 {
            distinct.add_value(&Value::string(format!("{at}{text}")));
        }
        assert!(distinct.values.len() < 40, "what is too much does not grow");
        assert_eq!(distinct.finish(), None);
    }
}
