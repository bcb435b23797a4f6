//! Opening a store: lock, high-water mark, files, and what a store must say of itself before it is served.

use super::EmbeddedOptions;
use super::cache::Cache;
use super::catalog::{self, Catalog, ClassState, Dropped, Numbers};
use super::high_water::HighWater;
use super::keys::{self, ClassId};
use super::rows::Corrupt;
use super::view::{Files, Keyspaces, Published};
use super::yielding::{Folder, Yielding};
use super::{log, merging};
use compact_str::CompactString;
use fjall::config::{BlockSizePolicy, FilterPolicy, PinningPolicy};
use fjall::{Database, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable, Slice};
use rand::Rng;
use rustc_hash::FxHashMap;
use std::fmt;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidings_protocol::ClassName;
use tokio::sync::Semaphore;

/// What is written into a new store, and asked of one that is opened.
const FORMAT: u8 = 1;

/// The journal is what has to be read again after a crash. fjall begins a new one after 64 MB, and deletes it once all
/// that it holds was written out, for which `upkeep` cares; at this limit it would write out everything at once.
const JOURNAL_BYTES: u64 = 256 << 20;

/// Why a store was not opened. The text is for whoever runs the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Another process, or this one, has the store open.
    InUse(PathBuf),
    /// The store ends before a commit that was acknowledged.
    Lost { folder: PathBuf, found: u64, acknowledged: u64 },
    /// The files do not belong together, or were written by a newer program.
    Foreign { folder: PathBuf, why: String },
    /// The files cannot be read.
    Damaged { folder: PathBuf, why: String },
    /// The operating system refused.
    Io { path: PathBuf, why: String },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(folder) => {
                write!(f, "the store in {} is in use by another process; stop that one first", folder.display())
            }
            Self::Lost { folder, found, acknowledged } => write!(
                f,
                "the store in {} ends at change {found}, but change {acknowledged} was acknowledged: commits are lost \
                 (a damaged disk or journal, or an older copy of the files). It is not opened, so that nothing goes on \
                 without them. Restore the folder from a backup, as a whole",
                folder.display()
            ),
            Self::Foreign { folder, why } => {
                write!(f, "the store in {} cannot be opened: {why}", folder.display())
            }
            Self::Damaged { folder, why } => write!(
                f,
                "the store in {} is damaged: {why}. Restore the folder from a backup, as a whole",
                folder.display()
            ),
            Self::Io { path, why } => write!(f, "{}: {why}", path.display()),
        }
    }
}

impl std::error::Error for OpenError {}

/// An open store, before its threads are started.
pub(super) struct Opened {
    pub(super) lock: File,
    pub(super) db: Database,
    pub(super) files: Files,
    pub(super) published: Published,
    pub(super) numbers: Numbers,
    pub(super) dropped: Vec<Dropped>,
    pub(super) log_bytes: u64,
    pub(super) high_water: HighWater,
}

pub(super) fn open(folder: &Path, options: &EmbeddedOptions) -> Result<Opened, OpenError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| OpenError::Io { path, why: error.to_string() }
    };
    std::fs::create_dir_all(folder).map_err(io(folder))?;
    let lock = lock(folder)?;
    let mark_path = folder.join("high-water");
    let mark = HighWater::read(&mark_path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => {
            OpenError::Damaged { folder: folder.to_owned(), why: format!("{} cannot be read", mark_path.display()) }
        }
        _ => io(&mark_path)(error),
    })?;
    // The library trusts its own files; a panic in it must not look like a bug of the server's.
    let opened = std::thread::scope(|scope| scope.spawn(|| open_files(folder, options)).join());
    let opened = opened.unwrap_or_else(|_| Err(damaged(folder, "its files make no sense")));
    let (db, keyspaces) = opened?;
    let mut stored = read(&db, &keyspaces, folder)?;
    if let Some(mark) = &mark {
        if stored.position < mark.position {
            let (found, acknowledged) = (stored.position, mark.position);
            return Err(OpenError::Lost { folder: folder.to_owned(), found, acknowledged });
        }
        if stored.timeline.as_ref().is_some_and(|timeline| *timeline != mark.timeline) {
            let why = "its high-water mark belongs to another store".to_owned();
            return Err(OpenError::Foreign { folder: folder.to_owned(), why });
        }
    }
    let timeline = match stored.timeline.take() {
        Some(timeline) if mark.is_some() || stored.position == 0 => timeline,
        known => {
            if known.is_some() {
                tracing::warn!(
                    "the store in {} has no high-water mark, so nobody knows whether it is whole: live queries start \
                     over instead of resuming",
                    folder.display()
                );
            }
            let timeline = new_timeline();
            let mut batch = OwnedWriteBatch::with_capacity(db.clone(), 2).durability(Some(PersistMode::SyncAll));
            batch.insert(&keyspaces.meta, catalog::FORMAT, [FORMAT]);
            batch.insert(&keyspaces.meta, catalog::TIMELINE, timeline.as_bytes());
            batch.commit().map_err(|error| damaged(folder, &error.to_string()))?;
            timeline
        }
    };
    let high_water = HighWater::open(&mark_path, &timeline, stored.position).map_err(io(&mark_path))?;
    Ok(Opened {
        lock,
        published: Published {
            disk: db.snapshot(),
            position: stored.position,
            floor: stored.floor,
            schemas: catalog::schemas(&stored.catalog),
            catalog: stored.catalog,
            counts: Arc::new(stored.counts),
        },
        db,
        files: Files {
            keyspaces,
            cache: Cache::new(options.cache_bytes),
            timeline,
            long_reads: Semaphore::new(options.long_reads),
        },
        numbers: stored.numbers,
        dropped: stored.dropped,
        log_bytes: stored.log_bytes,
        high_water,
    })
}

fn lock(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join("lock");
    let failed = |error: std::io::Error| OpenError::Io { path: path.clone(), why: error.to_string() };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(folder.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn open_files(folder: &Path, options: &EmbeddedOptions) -> Result<(Database, Keyspaces), OpenError> {
    let failed = |error: fjall::Error| match error {
        fjall::Error::Locked => OpenError::InUse(folder.to_owned()),
        fjall::Error::Io(error) => OpenError::Io { path: folder.join("store"), why: error.to_string() },
        error => damaged(folder, &error.to_string()),
    };
    let folders = ["meta", "rows", "ids", "indexes", "changes"].map(|name| (name, Folder::default()));
    let folder_of = |folders: &[(&str, Folder)], name: &str| {
        folders.iter().find(|(known, _)| *known == name).map(|(_, folder)| folder.clone())
    };
    let known = folders.clone();
    let db = Database::builder(folder.join("store"))
        .with_compaction_filter_factories(Arc::new(move |name| Some(Arc::new(Yielding(folder_of(&known, name)?)))))
        .max_journaling_size(JOURNAL_BYTES)
        .cache_size(options.block_cache_bytes)
        // Of several, all but one would spin as long as one of them merges files.
        .worker_threads(1)
        .open()
        .map_err(failed)?;
    let keyspace = |name: &str, shape: fn(KeyspaceCreateOptions) -> KeyspaceCreateOptions| {
        // The index of every file stays in memory, about one byte in a hundred of what it indexes: without it each read
        // of a cold row begins with a block of half a megabyte.
        let create = || {
            let create = KeyspaceCreateOptions::default()
                // When a memtable is full is for `upkeep` to say.
                .max_memtable_size(u64::MAX)
                .compaction_strategy(merging::strategy())
                .index_block_pinning_policy(PinningPolicy::all(true));
            shape(create)
        };
        let keyspace = db.keyspace(name, create).map_err(failed)?;
        // Set once, as each name is opened once.
        let _ = folder_of(&folders, name).map(|folder| folder.set(keyspace.path().join("tables")));
        Ok(keyspace)
    };
    let keyspaces = Keyspaces {
        meta: keyspace("meta", |create| create)?,
        // Whoever asks for a row knows that it is there.
        rows: keyspace("rows", |create| {
            create.expect_point_read_hits(true).filter_block_pinning_policy(PinningPolicy::all(true))
        })?,
        // Every create asks whether its id is taken: the answer is in the filters, and those stay in memory.
        ids: keyspace("ids", |create| create.filter_block_pinning_policy(PinningPolicy::all(true)))?,
        // Only read in ranges, for which filters say nothing.
        indexes: keyspace("indexes", |create| create.filter_policy(FilterPolicy::disabled()))?,
        changes: keyspace("changes", |create| {
            create.filter_policy(FilterPolicy::disabled()).data_block_size_policy(BlockSizePolicy::all(16 << 10))
        })?,
    };
    Ok((db, keyspaces))
}

/// What a store says of itself.
struct Stored {
    timeline: Option<CompactString>,
    catalog: Catalog,
    counts: FxHashMap<ClassId, u64>,
    numbers: Numbers,
    dropped: Vec<Dropped>,
    floor: u64,
    position: u64,
    log_bytes: u64,
}

fn read(db: &Database, keyspaces: &Keyspaces, folder: &Path) -> Result<Stored, OpenError> {
    let disk = db.snapshot();
    let failed = |error: fjall::Error| damaged(folder, &error.to_string());
    let corrupt = |Corrupt(why): Corrupt| damaged(folder, why);
    let get = |key: &[u8]| disk.get(&keyspaces.meta, key).map_err(failed);
    let listed = |tag: &[u8]| -> Result<Vec<(Slice, Slice)>, OpenError> {
        disk.prefix(&keyspaces.meta, tag).map(|item| item.into_inner().map_err(failed)).collect()
    };
    if let Some(format) = get(catalog::FORMAT)?.filter(|format| **format != [FORMAT]) {
        let why = format!("its format is {format:?}, and this program knows format {FORMAT}; use the newer program");
        return Err(OpenError::Foreign { folder: folder.to_owned(), why });
    }
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(CompactString::from).ok();
    let timeline = get(catalog::TIMELINE)?.and_then(|bytes| text(&bytes));
    let mut classes = FxHashMap::default();
    for (key, bytes) in listed(catalog::CLASSES)? {
        let name = text(&key[catalog::CLASSES.len()..]).ok_or(damaged(folder, "a class has no name"))?;
        let name = ClassName::from_trusted(name);
        classes.insert(name.clone(), Arc::new(ClassState::from_bytes(name, &bytes).map_err(corrupt)?));
    }
    let number = |key: &[u8]| key.try_into().ok().map(u32::from_be_bytes);
    let counts = listed(catalog::COUNTS)?;
    let counts = counts.iter().filter_map(|(key, count)| Some((number(&key[1..])?, keys::number(count)?))).collect();
    let dropped = [listed(catalog::DROPPED_INDEXES)?, listed(catalog::DROPPED_CLASSES)?].concat();
    let dropped = dropped.iter().filter_map(|(key, _)| Dropped::from_key(key)).collect();
    let numbers = match get(catalog::NUMBERS)? {
        Some(bytes) => Numbers::from_bytes(&bytes).ok_or(damaged(folder, "its numbers cannot be read"))?,
        None => Numbers::FIRST,
    };
    let floor = get(catalog::FLOOR)?.and_then(|bytes| keys::number(&bytes)).unwrap_or_default();
    let (position, log_bytes) = match disk.last_key_value(&keyspaces.changes) {
        Some(newest) => {
            let (key, record) = newest.into_inner().map_err(failed)?;
            let header = log::header(&record).map_err(corrupt)?;
            let position = keys::number(&key).ok_or(damaged(folder, "a change has no position"))?;
            (position, header.bytes_before + record.len() as u64)
        }
        None => (floor, 0),
    };
    Ok(Stored { timeline, catalog: Arc::new(classes), counts, numbers, dropped, floor, position, log_bytes })
}

fn damaged(folder: &Path, why: &str) -> OpenError {
    OpenError::Damaged { folder: folder.to_owned(), why: why.to_owned() }
}

fn new_timeline() -> CompactString {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    (0..12).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}
