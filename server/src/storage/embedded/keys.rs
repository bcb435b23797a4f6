//! The keys of every keyspace, and only those: who comes before whom on disk.
//!
//! | keyspace | key | value |
//! | --- | --- | --- |
//! | `meta` | a tag and what it names | see [`super::catalog`] |
//! | `rows` | class, sequence | a row ([`super::rows`]) |
//! | `ids` | class, object id | sequence |
//! | `indexes` | index, components, object id | sequence, length of the id, flags |
//! | `changes` | position | a change record ([`super::log`]) |
//!
//! Numbers are big-endian, so that the order of bytes is theirs. A row's sequence is the position of the change that
//! created it: the natural order of a class is the order in which its objects were made, and new rows are appended.

use crate::changes::Position;
pub(super) use crate::storage::limits::MAX_ID;

pub(super) type ClassId = u32;
pub(super) type IndexId = u32;
/// The position at which an object was created.
pub(super) type Sequence = u64;

pub(super) fn row(class: ClassId, sequence: Sequence) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&class.to_be_bytes());
    key[4..].copy_from_slice(&sequence.to_be_bytes());
    key
}

/// What the keys of all rows and ids of a class begin with.
pub(super) fn class(class: ClassId) -> [u8; 4] {
    class.to_be_bytes()
}

pub(super) fn sequence_of_row(key: &[u8]) -> Option<Sequence> {
    key.get(4..12)?.try_into().ok().map(Sequence::from_be_bytes)
}

pub(super) fn id(class: ClassId, id: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(4 + id.len());
    key.extend_from_slice(&class.to_be_bytes());
    key.extend_from_slice(id.as_bytes());
    key
}

/// What all keys of an index begin with. Short for the indexes of the first classes, because keys of up to 20 bytes are
/// kept and compared without a pointer to follow: those of a timestamp and a usual id are just that long.
pub(super) fn index(index: IndexId) -> Vec<u8> {
    const LONG: u8 = 0xf0;
    match u8::try_from(index) {
        Ok(short) if short < LONG => vec![short],
        _ => [&[LONG], index.to_be_bytes().as_slice()].concat(),
    }
}

pub(super) fn change(position: Position) -> [u8; 8] {
    position.to_be_bytes()
}

pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

/// The lowest key that begins with none of the keys that `prefix` begins: the end of its range. `None` after all `ff`.
pub(super) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// What an index entry says, next to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryValue {
    pub(super) sequence: Sequence,
    /// How many bytes at the end of the key are the object's id.
    pub(super) id_length: u8,
    /// Whether a component was cut, so that the key does not give the exact order.
    pub(super) cut: bool,
}

impl EntryValue {
    pub(super) fn to_bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[8] = self.id_length;
        bytes[9] = u8::from(self.cut);
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 10] = bytes.try_into().ok()?;
        Some(Self { sequence: number(&bytes[..8])?, id_length: bytes[8], cut: bytes[9] != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_lies_behind_everything_that_begins_with_it() {
        assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_prefix(&[1, 0xff, 0xff]), Some(vec![2]));
        assert_eq!(after_prefix(&[0xff]), None);
    }

    #[test]
    fn no_index_begins_like_another() {
        let numbers = [1, 0xef, 0xf0, 0xff, 0x100, 0xf0_0000, u32::MAX];
        for pair in numbers.windows(2) {
            assert!(index(pair[0]) < index(pair[1]) && !index(pair[1]).starts_with(&index(pair[0])));
        }
    }

    #[test]
    fn an_entry_value_reads_back() {
        let value = EntryValue { sequence: 1 << 40, id_length: 10, cut: true };
        assert_eq!(EntryValue::from_bytes(&value.to_bytes()), Some(value));
        assert_eq!(EntryValue::from_bytes(&[0; 9]), None);
    }
}
