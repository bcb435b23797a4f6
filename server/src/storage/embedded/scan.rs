//! Reading along a keyspace: rows of a class, entries of an index, and entries of several ranges in one order.

use super::catalog::ClassState;
use super::keys::{self, EntryValue, Sequence};
use super::planner::{Direction, IndexAccess, Range};
use super::rows::{self, Corrupt};
use super::view::{Row, View, unavailable};
use crate::storage::Unavailable;
use fjall::{Readable, Slice};
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

/// All rows of a class, as they were created. They do not pass through the cache: a scan would flush it.
pub(super) struct Rows {
    class: Arc<ClassState>,
    iter: fjall::Iter,
}

impl Rows {
    pub(super) fn new(view: &View, class: &Arc<ClassState>, from: Sequence) -> Self {
        let start = keys::row(class.id, from);
        let end = keys::row(class.id, Sequence::MAX);
        let iter = view.published.disk.range(&view.files.keyspaces.rows, start..=end);
        Self { class: class.clone(), iter }
    }

    pub(super) fn next(&mut self) -> Result<Option<Row>, Unavailable> {
        let Some((sequence, bytes)) = self.next_bytes()? else { return Ok(None) };
        Ok(Some((sequence, Arc::new(rows::decode(&bytes, &self.class.removals)?))))
    }

    pub(super) fn next_bytes(&mut self) -> Result<Option<(Sequence, Slice)>, Unavailable> {
        let Some(item) = self.iter.next() else { return Ok(None) };
        let (key, bytes) = item.into_inner().map_err(unavailable)?;
        Ok(Some((keys::sequence_of_row(&key).ok_or(Corrupt("a row has no sequence"))?, bytes)))
    }
}

/// One entry of an index.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    key: Slice,
    value: EntryValue,
}

impl Entry {
    fn read(item: fjall::Guard) -> Result<Self, Unavailable> {
        let (key, value) = item.into_inner().map_err(unavailable)?;
        let value = EntryValue::from_bytes(&value).ok_or(Corrupt("an index entry has no sequence"))?;
        if key.len() < usize::from(value.id_length) {
            return Err(Corrupt("an index entry has no id").into());
        }
        Ok(Self { key, value })
    }

    pub(super) fn sequence(&self) -> Sequence {
        self.value.sequence
    }

    /// Whether the key may not say how objects compare.
    pub(super) fn is_cut(&self) -> bool {
        self.value.cut
    }

    pub(super) fn id(&self) -> Result<&str, Corrupt> {
        std::str::from_utf8(self.id_bytes()).map_err(|_| Corrupt("an index entry has no id"))
    }

    fn id_bytes(&self) -> &[u8] {
        &self.key[self.key.len() - usize::from(self.value.id_length)..]
    }

    /// Index number and components: all but the id.
    fn components(&self) -> &[u8] {
        &self.key[..self.key.len() - usize::from(self.value.id_length)]
    }
}

/// The entries of one range. Entries that are equal in all components come by object id, in either direction.
pub(super) struct Entries {
    iter: fjall::Iter,
    direction: Direction,
    /// Read backwards, entries of equal components come with descending ids: a whole run of them is turned around.
    run: VecDeque<Entry>,
    /// The first entry behind the run.
    ahead: Option<Entry>,
    /// Up to here all keys of the range are the same.
    fixed: usize,
}

impl Entries {
    pub(super) fn new(view: &View, range: &Range, direction: Direction) -> Self {
        let iter = view.published.disk.range(&view.files.keyspaces.indexes, range.from.as_slice()..range.to.as_slice());
        Self { iter, direction, run: VecDeque::new(), ahead: None, fixed: range.fixed }
    }

    fn read(&mut self) -> Result<Option<Entry>, Unavailable> {
        if self.direction == Direction::Forward {
            return self.iter.next().map(Entry::read).transpose();
        }
        if self.run.is_empty() {
            self.fill_run()?;
        }
        Ok(self.run.pop_front())
    }

    fn fill_run(&mut self) -> Result<(), Unavailable> {
        let first = match self.ahead.take() {
            Some(entry) => Some(entry),
            None => self.iter.next_back().map(Entry::read).transpose()?,
        };
        let Some(first) = first else { return Ok(()) };
        self.run.push_front(first);
        while let Some(entry) = self.iter.next_back().map(Entry::read).transpose()? {
            if self.run.front().is_some_and(|other| other.components() != entry.components()) {
                self.ahead = Some(entry);
                break;
            }
            self.run.push_front(entry);
        }
        Ok(())
    }
}

impl Iterator for Entries {
    type Item = Result<Entry, Unavailable>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// The entries of all ranges of a path in the order of the path.
pub(super) struct Merged {
    streams: Vec<(Entries, Entry)>,
    direction: Direction,
}

impl Merged {
    pub(super) fn new(view: &View, access: &IndexAccess, direction: Direction) -> Result<Self, Unavailable> {
        let mut streams = Vec::with_capacity(access.ranges.len());
        for range in &access.ranges {
            let mut entries = Entries::new(view, range, direction);
            if let Some(first) = entries.next().transpose()? {
                streams.push((entries, first));
            }
        }
        Ok(Self { streams, direction })
    }

    pub(super) fn next(&mut self) -> Result<Option<Entry>, Unavailable> {
        let by_order = |(a, one): &(Entries, Entry), (b, other): &(Entries, Entry)| -> Ordering {
            // What a range fixes differs between ranges and is no part of the order.
            let order = one.components()[a.fixed..].cmp(&other.components()[b.fixed..]);
            let order = if self.direction == Direction::Backward { order.reverse() } else { order };
            order.then_with(|| one.id_bytes().cmp(other.id_bytes()))
        };
        let first = match self.streams.len() {
            0 => return Ok(None),
            1 => 0,
            _ => (1..self.streams.len()).fold(0, |best, at| {
                if by_order(&self.streams[at], &self.streams[best]) == Ordering::Less { at } else { best }
            }),
        };
        let (entries, current) = &mut self.streams[first];
        Ok(Some(match entries.next().transpose()? {
            Some(next) => std::mem::replace(current, next),
            None => self.streams.swap_remove(first).1,
        }))
    }
}
