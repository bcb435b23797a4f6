//! Values that only one object of a class may hold, whatever their case.
//!
//! MongoDB's own unique indexes hold for every write, also for those that do not ask, and its comparison takes more
//! letters for alike than ours. So a write that asks looks itself, in its transaction; and because two that look at the
//! same time see neither the other, both write to one lock first, which only one of them can. Where there are no
//! transactions, they wait for each other in this process.

use super::Shared;
use super::collections::OWN;
use super::documents::GUEST;
use super::filters::Filter;
use super::indexes::LANGUAGE;
use super::transactions::Failure;
use crate::storage::{Action, Unique, Write, WriteError};
use futures_util::TryStreamExt;
use mongodb::ClientSession;
use mongodb::bson::{Document, RawDocumentBuf, doc, rawdoc};
use mongodb::error::Error;
use mongodb::options::{Collation, CollationStrength};
use std::hash::{Hash, Hasher};
use tidings_protocol::{Predicate, Value};

/// Locks per field: values that share one wait for each other now and then.
const LOCKS: u64 = 4_096;

/// # Errors
/// [`WriteError::Duplicate`] when another object holds the value.
pub(super) async fn check(shared: &Shared, session: &mut ClientSession, write: &Write) -> Result<(), Failure> {
    if !matches!(write.action, Action::Create(_) | Action::Update { .. }) {
        return Ok(());
    }
    for unique in write.guard.unique.iter().filter(|unique| !unique.value.is_null()) {
        if shared.standalone.is_none() {
            let lock = doc! { "_id": lock(write, unique) };
            let locks = shared.db.collection::<Document>(OWN);
            locks.update_one(lock, doc! { "$inc": { "uses": 1 } }).upsert(true).session(&mut *session).await?;
        }
        if is_held(shared, session, write, unique).await? {
            return Err(WriteError::Duplicate { field: unique.field.clone() }.into());
        }
    }
    Ok(())
}

fn lock(write: &Write, unique: &Unique) -> String {
    // Every process must come to the same number: no seed.
    let mut hasher = rustc_hash::FxHasher::default();
    folded(&unique.value).hash(&mut hasher);
    format!("unique/{}/{}/{}", write.class, unique.field, hasher.finish() % LOCKS)
}

async fn is_held(
    shared: &Shared,
    session: &mut ClientSession,
    write: &Write,
    unique: &Unique,
) -> Result<bool, Failure> {
    let schema = shared.catalog.get_or_empty(&write.class);
    let held = Filter::of(&Predicate::equal(unique.field.clone(), unique.value.clone()), &schema);
    let filter = held.and(rawdoc! { "_id": { "$ne": write.id.as_str() } }).document;
    let objects = shared.objects::<RawDocumentBuf>(&write.class);
    let mut find = objects.find(Document::try_from(filter).map_err(Error::from)?);
    if is_folded(&unique.field) {
        find = find.collation(Collation::builder().locale(LANGUAGE).strength(CollationStrength::Secondary).build());
    }
    let mut found = find.session(&mut *session).await?;
    let mut stream = found.stream(session);
    while let Some(document) = stream.try_next().await? {
        let object = shared.decode(&document, &schema)?;
        if object.field(&unique.field).is_some_and(|held| folded(&held) == folded(&unique.value)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether values of a field that differ in case only are the same. Those of guests are what their devices made up, and
/// Parse Server's own unique index finds them as they are.
pub(super) fn is_folded(field: &str) -> bool {
    field != GUEST
}

/// Equal for values that are the same up to the case of letters.
fn folded(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => tidings_protocol::order::key(&Value::from(text.to_lowercase().as_str())),
        other => tidings_protocol::order::key(other),
    }
}
