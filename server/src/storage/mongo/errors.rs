//! What the driver reports, in the words of the trait.

use crate::storage::{Unavailable, WriteError};
use mongodb::error::{Error, ErrorKind, IndexedWriteError, TRANSIENT_TRANSACTION_ERROR, WriteFailure};

/// A document that no Parse object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// Why a write was not made, as far as the server's code tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    DuplicateKey,
    /// An operation does not fit the value that it met, or two operations do not go together.
    Misfit,
    Other,
}

const DUPLICATE_KEY: i32 = 11_000;
/// `BadValue`, `TypeMismatch`, `PathNotViable`, `ConflictingUpdateOperators`.
const MISFITS: [i32; 4] = [2, 14, 28, 40];
const NAMESPACE_EXISTS: i32 = 48;
const NAMESPACE_NOT_FOUND: i32 = 26;
const INDEX_NOT_FOUND: i32 = 27;
const UNAUTHORIZED: i32 = 13;
/// The server no longer has the state, or cannot give it while collections or indexes are being made.
const SNAPSHOT_UNAVAILABLE: [i32; 2] = [246, 239];
/// `distinct too big, 16mb cap`, `BSONObjectTooLarge`, `QueryExceededMemoryLimitNoDiskUseAllowed`.
const TOO_LARGE: [i32; 3] = [17_217, 10_334, 292];

/// `Can't extract geo keys`: the index of a polygon's column refuses it.
const NO_GEOMETRY: i32 = 16_755;
/// `CannotIndexParallelArrays`: of the fields of an index only one may be a list.
const PARALLEL_LISTS: i32 = 171;

/// A server that is not the primary any more, shuts down, or cannot be reached: what the
/// [specification of retryable reads](https://github.com/mongodb/specifications/blob/master/source/retryable-reads/retryable-reads.md)
/// lists.
const GONE_AWAY: [i32; 13] = [6, 7, 89, 91, 134, 189, 262, 9_001, 10_107, 11_600, 11_602, 13_435, 13_436];

/// What happened, in words. The driver also tells the whole answer of the server, in hexadecimal, which may hold what
/// users have written.
pub(super) fn in_words(error: &Error) -> String {
    match &*error.kind {
        // It lists every document.
        ErrorKind::InsertMany(failed) => match &failed.write_concern_error {
            Some(why) => format!("{} ({}): {}", why.code_name, why.code, why.message),
            None => "documents were refused".to_owned(),
        },
        other => other.to_string(),
    }
}

pub(super) fn unavailable(error: Error) -> Unavailable {
    Unavailable(format!("MongoDB: {}", in_words(&error)))
}

impl From<Malformed> for Unavailable {
    fn from(malformed: Malformed) -> Self {
        Self(format!("MongoDB holds what is no object: {}", malformed.0))
    }
}

impl From<Malformed> for WriteError {
    fn from(malformed: Malformed) -> Self {
        Self::Unavailable(malformed.into())
    }
}

pub(super) fn write_error(error: Error) -> WriteError {
    code(&error).and_then(not_indexed).unwrap_or_else(|| unavailable(error).into())
}

/// What an index cannot hold, nobody may write.
fn not_indexed(code: i32) -> Option<WriteError> {
    let message = match code {
        NO_GEOMETRY => "A polygon here has edges that do not cross, and no corner twice.",
        PARALLEL_LISTS => "Only one of the fields that an index holds together may be a list.",
        _ => return None,
    };
    Some(tidings_protocol::Error::incorrect_type(message).into())
}

/// Why an object could not be inserted.
pub(super) fn insertion_error(error: &Error) -> WriteError {
    match (refusal(error), message(error)) {
        (Refusal::DuplicateKey, Some(message)) => duplicate(message),
        _ => write_error(error.clone()),
    }
}

/// As [`insertion_error`], for one of several.
pub(super) fn not_inserted(error: &IndexedWriteError) -> WriteError {
    match error.code {
        DUPLICATE_KEY => duplicate(&error.message),
        code => not_indexed(code).unwrap_or_else(|| Unavailable(format!("MongoDB: {code}, {}", error.message)).into()),
    }
}

fn duplicate(message: &str) -> WriteError {
    match field_of(message) {
        Some(field) => WriteError::Duplicate { field: field.into() },
        None => WriteError::Exists,
    }
}

pub(super) fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(error) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(error)) => Some(error.code),
        _ => None,
    }
}

pub(super) fn refusal(error: &Error) -> Refusal {
    match code(error) {
        Some(DUPLICATE_KEY) => Refusal::DuplicateKey,
        Some(code) if MISFITS.contains(&code) => Refusal::Misfit,
        _ => Refusal::Other,
    }
}

/// The field of the unique index that a write ran into; `None` for the id.
pub(super) fn duplicate_field(error: &Error) -> Option<String> {
    message(error).and_then(field_of)
}

fn message(error: &Error) -> Option<&str> {
    match &*error.kind {
        ErrorKind::Command(error) => Some(&error.message),
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(&error.message),
        _ => None,
    }
}

fn field_of(message: &str) -> Option<String> {
    // `… dup key: { username: "x" }`; the server gives no other form in a findAndModify.
    let (_, key) = message.split_once("dup key: {")?;
    let (field, _) = key.trim_start().split_once(':')?;
    (field != "_id").then(|| super::documents::parse_name(field).to_owned())
}

pub(super) fn is_transient(error: &Error) -> bool {
    error.contains_label(TRANSIENT_TRANSACTION_ERROR)
}

/// Whether an answer does not fit one document, or the memory that the server has for it.
pub(super) fn is_too_large(error: &Error) -> bool {
    code(error).is_some_and(|code| TOO_LARGE.contains(&code))
}

pub(super) fn is_snapshot_unavailable(error: &Error) -> bool {
    code(error).is_some_and(|code| SNAPSHOT_UNAVAILABLE.contains(&code))
}

/// Whether it was waited for a server as long as one may, in vain.
pub(super) fn has_no_server(error: &Error) -> bool {
    matches!(&*error.kind, ErrorKind::ServerSelection { .. })
}

/// Whether a user lacks a right.
pub(super) fn is_forbidden(error: &Error) -> bool {
    code(error) == Some(UNAUTHORIZED)
}

/// Whether a read may well succeed when it is tried again, at another server.
pub(super) fn has_gone_away(error: &Error) -> bool {
    let is_lost = matches!(&*error.kind, ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. });
    is_lost || code(error).is_some_and(|code| GONE_AWAY.contains(&code))
}

pub(super) fn already_exists(error: &Error) -> bool {
    code(error) == Some(NAMESPACE_EXISTS)
}

pub(super) fn is_missing(error: &Error) -> bool {
    matches!(code(error), Some(NAMESPACE_NOT_FOUND | INDEX_NOT_FOUND))
}
