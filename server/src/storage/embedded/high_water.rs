//! The high-water mark: how far the store had come when it last said so, in a small file of its own.
//!
//! A journal that was damaged in its middle reads as one that ends there (fjall issue 311): commits behind the damage
//! would be gone without a word. A store that ends before its mark has lost acknowledged commits, and is not opened.

use crate::changes::Position;
use compact_str::CompactString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Two slots are written in turn, so that a torn write leaves the older mark readable.
const SLOT: usize = 512;
const MAGIC: &[u8; 8] = b"tidingsW";
const TIMELINE: usize = 32;

#[derive(Debug)]
pub(super) struct HighWater {
    file: File,
    timeline: CompactString,
    /// How often the mark was written: the higher slot is the newer one.
    turn: u64,
    /// What the newest slot says.
    position: Position,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mark {
    pub(super) timeline: CompactString,
    pub(super) position: Position,
    turn: u64,
}

impl HighWater {
    /// The mark in this file. `None` if there is no file.
    ///
    /// # Errors
    /// `InvalidData` if there is a file in which neither slot can be read.
    pub(super) fn read(path: &Path) -> io::Result<Option<Mark>> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(file) => file.take(2 * SLOT as u64).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // A crash between making the file and its first mark leaves this.
        if bytes.is_empty() {
            return Ok(None);
        }
        let newest = bytes.chunks(SLOT).filter_map(Mark::decode).max_by_key(|mark| mark.turn);
        newest.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the mark cannot be read"))
    }

    /// Takes the file over, or makes it, and writes a first mark.
    pub(super) fn open(path: &Path, timeline: &str, position: Position) -> io::Result<Self> {
        let turn = Self::read(path)?.map_or(0, |mark| mark.turn);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        let mut high_water = Self { file, timeline: timeline.into(), turn, position };
        high_water.write(position)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(high_water)
    }

    /// Brings the mark to this position, if it is not there.
    pub(super) fn follow(&mut self, position: Position) -> io::Result<()> {
        if position == self.position { Ok(()) } else { self.write(position) }
    }

    /// Writes the mark and waits until it is on disk.
    fn write(&mut self, position: Position) -> io::Result<()> {
        let turn = self.turn + 1;
        let mark = Mark { timeline: self.timeline.clone(), position, turn };
        self.file.seek(SeekFrom::Start(turn % 2 * SLOT as u64))?;
        self.file.write_all(&mark.encode())?;
        self.file.sync_data()?;
        // Only now: what failed half-way is written again, and the other slot stays whole.
        self.turn = turn;
        self.position = position;
        Ok(())
    }
}

impl Mark {
    fn encode(&self) -> [u8; SLOT] {
        let mut slot = [0; SLOT];
        slot[..8].copy_from_slice(MAGIC);
        slot[8..16].copy_from_slice(&self.turn.to_be_bytes());
        slot[16..24].copy_from_slice(&self.position.to_be_bytes());
        let timeline = &self.timeline.as_bytes()[..self.timeline.len().min(TIMELINE)];
        slot[24..24 + timeline.len()].copy_from_slice(timeline);
        let end = 24 + TIMELINE;
        let checksum = checksum(&slot[..end]);
        slot[end..end + 8].copy_from_slice(&checksum.to_be_bytes());
        slot
    }

    fn decode(slot: &[u8]) -> Option<Self> {
        let end = 24 + TIMELINE;
        let number = |at: usize| slot.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
        if slot.get(..8)? != MAGIC || number(end)? != checksum(&slot[..end]) {
            return None;
        }
        let timeline = slot[24..end].split(|byte| *byte == 0).next()?;
        Some(Self { timeline: std::str::from_utf8(timeline).ok()?.into(), position: number(16)?, turn: number(8)? })
    }
}

/// FNV-1a: enough to tell a torn slot from a whole one.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_write_leaves_the_mark_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("high-water");
        assert_eq!(HighWater::read(&path).unwrap(), None);
        let mut high_water = HighWater::open(&path, "abc", 5).unwrap();
        high_water.follow(6).unwrap();
        high_water.follow(7).unwrap();
        let mark = HighWater::read(&path).unwrap().unwrap();
        assert_eq!((mark.timeline.as_str(), mark.position), ("abc", 7));
        let mut bytes = std::fs::read(&path).unwrap();
        let newest = (high_water.turn % 2) as usize * SLOT;
        bytes[newest + 20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(HighWater::read(&path).unwrap().unwrap().position, 6);
        std::fs::write(&path, b"rubbish").unwrap();
        assert!(HighWater::read(&path).is_err());
    }
}
