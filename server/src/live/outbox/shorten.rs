//! How the queue of a slow reader becomes shorter: events on one object become one, or all go and a fresh result comes.

use super::entry::{Entry, Waiting};
use crate::live::event::{Merged, merge};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use tidings_protocol::ObjectId;

/// Merges the events of each subscription on each object. Returns how many events less there are.
pub(super) fn coalesce(entries: &mut VecDeque<Waiting>) -> u64 {
    let before = entries.len();
    let mut last: FxHashMap<(i64, ObjectId), usize> = FxHashMap::default();
    let mut kept: Vec<Option<Waiting>> = Vec::with_capacity(before);
    let mut moves = Vec::new();
    for Waiting { since, entry } in entries.drain(..) {
        let Entry::Event { request_id, body } = entry else {
            // Frames are fences: what was said before `subscribed` or a result is not mixed with what follows.
            match &entry {
                Entry::Result { request_id, .. } => last.retain(|(known, _), _| known != request_id),
                Entry::Checkpoint(_) | Entry::Frame(_) => last.clear(),
                Entry::Event { .. } | Entry::Ping(_) => {}
            }
            kept.push(Some(Waiting { since, entry }));
            continue;
        };
        let key = (request_id, body.id.clone());
        let earlier = last.get(&key).and_then(|at| match &kept[*at] {
            Some(Waiting { entry: Entry::Event { body, .. }, .. }) => Some((*at, body.clone())),
            _ => None,
        });
        let merged = earlier.map(|(at, earlier)| (at, merge(&earlier, &body)));
        if let Some((from, Merged::One(_) | Merged::Nothing)) = merged {
            moves.push(Move { request_id, from, to: kept.len() });
        }
        let body = match merged {
            None | Some((_, Merged::Both)) => body,
            Some((at, Merged::One(merged))) => {
                kept[at] = None;
                merged
            }
            Some((at, Merged::Nothing)) => {
                kept[at] = None;
                last.remove(&key);
                continue;
            }
        };
        last.insert(key, kept.len());
        kept.push(Some(Waiting { since, entry: Entry::Event { request_id, body } }));
    }
    mark_gaps(&mut kept, moves);
    entries.extend(kept.into_iter().flatten());
    (before - entries.len()) as u64
}

/// An event has gone from one place to a later one of its subscription.
struct Move {
    request_id: i64,
    from: usize,
    to: usize,
}

/// Takes their cursors from the events between: their reader would not get again what has moved behind them.
fn mark_gaps(kept: &mut [Option<Waiting>], mut moves: Vec<Move>) {
    // Where the first move began, of each subscription, that goes beyond the place at hand.
    let mut begun: FxHashMap<i64, usize> = FxHashMap::default();
    for (at, waiting) in kept.iter_mut().enumerate().rev() {
        while let Some(Move { request_id, from, .. }) = moves.pop_if(|it| it.to > at) {
            let first = begun.entry(request_id).or_insert(from);
            *first = from.min(*first);
        }
        if let Some(Waiting { entry: Entry::Event { request_id, body }, .. }) = waiting
            && begun.get(request_id).is_some_and(|from| *from < at)
        {
            *body = body.with_a_gap();
        }
    }
}

/// Drops events and results, and notes whose they were.
pub(super) fn drop_events(entries: &mut VecDeque<Waiting>, resync: &mut Vec<i64>) {
    entries.retain(|waiting| match &waiting.entry {
        Entry::Event { request_id, .. } | Entry::Result { request_id, .. } => {
            resync.push(*request_id);
            false
        }
        Entry::Checkpoint(_) => false,
        Entry::Frame(_) | Entry::Ping(_) => true,
    });
}
