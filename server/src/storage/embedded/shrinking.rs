//! Gives the disk space of deleted files back little by little.
//!
//! The file system frees a file of tens of megabytes in one go when it is deleted, and where it tells the disk so
//! (`discard`), what is synced meanwhile, as each commit is, waits for that. So the upkeep thread keeps files open that
//! are to go, and cuts pieces off once their names are gone. A process that ends frees the rest at once.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};

/// How many bytes are cut off at once, at the least.
const PIECE: u64 = 4 << 20;

pub(super) struct Shrinking {
    journals: PathBuf,
    /// Files that still have a name, by it.
    named: Vec<(OsString, File)>,
    /// Deleted files, and what is left of each.
    deleted: VecDeque<(File, u64)>,
}

impl Shrinking {
    /// `journals`: the folder of fjall's journals.
    pub(super) fn new(journals: PathBuf) -> Self {
        Self { journals, named: Vec::new(), deleted: VecDeque::new() }
    }

    /// Keeps this file open, as it may be deleted.
    pub(super) fn watch(&mut self, path: &Path) {
        if self.named.iter().all(|(known, _)| known != path.as_os_str())
            && let Ok(file) = File::options().write(true).open(path)
        {
            self.named.push((path.into(), file));
        }
    }

    /// Watches all journals.
    pub(super) fn watch_journals(&mut self) {
        let Ok(files) = std::fs::read_dir(&self.journals) else { return };
        for path in files.filter_map(|file| Some(file.ok()?.path())) {
            if path.extension().is_some_and(|extension| extension == "jnl") {
                self.watch(&path);
            }
        }
    }

    /// Cuts a piece off.
    pub(super) fn shrink(&mut self) {
        for (_, file) in self.named.extract_if(.., |(_, file)| !file.metadata().is_ok_and(|known| has_name(&known))) {
            let bytes = file.metadata().map_or(0, |known| known.len());
            self.deleted.push_back((file, bytes));
        }
        let left: u64 = self.deleted.iter().map(|(_, left)| left).sum();
        let piece = PIECE.max(left / 32);
        if let Some((file, left)) = self.deleted.front_mut() {
            *left = left.saturating_sub(piece);
            if *left == 0 || file.set_len(*left).is_err() {
                self.deleted.pop_front();
            }
        }
    }
}

#[cfg(unix)]
fn has_name(file: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(file) > 0
}

/// Elsewhere a file that is open cannot be deleted, or nobody can tell.
#[cfg(not(unix))]
fn has_name(_: &Metadata) -> bool {
    false
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_deleted_file_goes_piece_by_piece_and_a_named_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, vec![1; PIECE as usize * 5 / 2]).unwrap();
            path
        };
        let (stays, goes) = (file("1.jnl"), file("2.jnl"));
        let seen = File::open(&goes).unwrap();
        let mut shrinking = Shrinking::new(folder.path().to_owned());
        shrinking.watch_journals();
        shrinking.shrink();
        assert_eq!(seen.metadata().unwrap().len(), PIECE * 5 / 2, "it still has a name");
        std::fs::remove_file(&goes).unwrap();
        for left in [PIECE * 3 / 2, PIECE / 2] {
            shrinking.shrink();
            assert_eq!(seen.metadata().unwrap().len(), left);
        }
        shrinking.shrink();
        assert!(shrinking.deleted.is_empty(), "the last piece goes with the file itself");
        assert_eq!(std::fs::metadata(stays).unwrap().len(), PIECE * 5 / 2);
    }
}
