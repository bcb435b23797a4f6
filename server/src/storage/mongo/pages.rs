//! Pages, where the database alone does not give them in our order.

use std::sync::Arc;
use tidings_protocol::Object;
use tidings_protocol::order::{write_sort_key, write_text};
use tidings_protocol::query::Order;

/// The page out of the first objects of an order, one more than it needs; `None` if those that are equal to the last one
/// may not all be among them.
pub(super) fn settled(found: Vec<Arc<Object>>, order: &[Order], skip: u64, limit: u64) -> Option<Vec<Arc<Object>>> {
    let need = usize::try_from(skip + limit).ok()?;
    let is_whole = match (need.checked_sub(1).and_then(|last| found.get(last)), found.get(need)) {
        (Some(last), Some(next)) => rank(last, order) != rank(next, order),
        _ => true,
    };
    is_whole.then(|| cut(settle(found, order), skip, limit))
}

/// Brings equal objects into their order; hardly ever there are any.
fn settle(found: Vec<Arc<Object>>, order: &[Order]) -> Vec<Arc<Object>> {
    let (mut last, mut key) = (Vec::new(), Vec::new());
    let is_sorted = found.iter().all(|object| {
        key.clear();
        write_sort_key(object, order, &mut key);
        std::mem::swap(&mut last, &mut key);
        key <= last
    });
    if is_sorted { found } else { sorted(found, order) }
}

/// Where an object stands, without the tie-break.
fn rank(object: &Object, order: &[Order]) -> Vec<u8> {
    let (mut key, mut id) = (Vec::new(), Vec::new());
    write_sort_key(object, order, &mut key);
    write_text(&object.id, &mut id);
    key.truncate(key.len() - id.len());
    key
}

pub(super) fn sorted(mut objects: Vec<Arc<Object>>, order: &[Order]) -> Vec<Arc<Object>> {
    objects.sort_by_cached_key(|object| {
        let mut key = Vec::new();
        write_sort_key(object, order, &mut key);
        key
    });
    objects
}

pub(super) fn cut(objects: Vec<Arc<Object>>, skip: u64, limit: u64) -> Vec<Arc<Object>> {
    let bound = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    objects.into_iter().skip(bound(skip)).take(bound(limit)).collect()
}
