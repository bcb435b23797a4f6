//! The collections of classes and their indexes: made before anything needs them, as nobody waits for them then.

use super::documents::{GUEST_ID, pointer_name};
use super::errors::{already_exists, in_words, is_missing};
use super::schemas::COLLECTION;
use crate::schema::FieldType;
use crate::storage::Membership;
use compact_str::CompactString;
use futures_util::TryStreamExt;
use mongodb::Database;
use mongodb::bson::{Document, doc};
use mongodb::error::{Error, Result};
use mongodb::results::CollectionSpecification;
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tidings_protocol::ClassName;

/// Where this store keeps what Parse Server does not know of: one document per lock (see `unique`).
pub(super) const OWN: &str = "_Tidings";

/// The language of the comparison by which upper and lower case are alike. It is to the letter that of Parse Server's
/// indexes: a question in another would not use them, and Parse Server does not start where an index of the name that it
/// gives is of another.
pub(super) const LANGUAGE: &str = "en_US";

/// Said where images cannot be switched on.
const WITHOUT_IMAGES: &str = "its changes come without images, so its live queries get fresh results instead of \
    events; that ends when a user with the right to collMod (role dbAdmin) has started a server once";

/// The same, of the classes themselves.
const CLASSES_WITHOUT_IMAGES: &str = "its changes come without images, so classes are read again when one changes, and \
    who resumes across that gets a fresh result";

pub(super) struct Collections {
    /// Whether changes carry images: where there are no changes to hear, nothing keeps them.
    have_images: bool,
    /// What is known to be there: collections, and indexes as `Class/field`.
    ready: Mutex<HashSet<CompactString>>,
}

impl Collections {
    pub(super) fn new(have_images: bool) -> Self {
        Self { have_images, ready: Mutex::default() }
    }

    pub(super) fn is_ready(&self, name: &str) -> bool {
        self.lock().contains(name)
    }

    pub(super) fn set_ready(&self, name: &str) {
        self.lock().insert(name.into());
    }

    /// What was there is gone.
    pub(super) fn forget(&self, name: &str) {
        self.lock().retain(|known| known.split('/').next() != Some(name));
    }

    /// Takes over a class that another program has made. Indexes are not made unasked there.
    pub(super) async fn adopt(&self, db: &Database, class: &str) {
        match self.create(db, class).await {
            Ok(()) => self.set_ready(class),
            Err(error) => tracing::warn!(class, error = in_words(&error), "its collection cannot be made yet"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<CompactString>> {
        // No code that runs under the lock can leave the set half-changed.
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The collection of a class that begins with these columns.
    pub(super) async fn make(
        &self,
        db: &Database,
        class: &ClassName,
        columns: &[(CompactString, FieldType)],
    ) -> Result<()> {
        if self.is_ready(class) {
            return Ok(());
        }
        self.create(db, class).await?;
        let mut indexes = match class.is_relation() {
            true => {
                [Membership::OWNER, Membership::RELATED].map(|end| index(&format!("{end}_1"), doc! { end: 1 })).into()
            }
            false => vec![index(BY_CREATION, doc! { "_created_at": 1 })],
        };
        indexes.extend(columns.iter().filter_map(|(name, field_type)| pointer_index(name, field_type)));
        if *class == ClassName::USER {
            indexes.extend(["username", "email"].map(|field| unique_index(&format!("{field}_1"), field)));
            indexes.push(unique_index("_auth_data_anonymous_id", GUEST_ID));
            indexes.extend(["_email_verify_token", "_perishable_token"].map(|field| sparse_index(field, field)));
        }
        if *class == ClassName::SESSION {
            indexes.extend(session_indexes());
        }
        create_indexes(db, class, indexes).await?;
        self.set_ready(class);
        if *class == ClassName::USER {
            for field in ["username", "email"] {
                self.make_folded(db, class, field).await?;
            }
        }
        Ok(())
    }

    /// The indexes that sessions must have also where others have made their collection: without them each request with a
    /// session of theirs would read all sessions, and so would each look for those that have expired.
    pub(super) async fn make_session_indexes(db: &Database) -> Result<()> {
        create_indexes(db, &ClassName::SESSION, session_indexes()).await
    }

    /// A collection whose changes carry both images. One that exists gets them, if that is allowed.
    pub(super) async fn create(&self, db: &Database, name: &str) -> Result<()> {
        // Nobody hears of the members of relations.
        if !self.have_images || ClassName::from_trusted(name).is_relation() {
            return match db.run_command(doc! { "create": name }).await {
                Err(error) if already_exists(&error) => Ok(()),
                other => other.map(drop),
            };
        }
        let images = doc! { "enabled": true };
        let create = doc! { "create": name, "changeStreamPreAndPostImages": &images };
        match db.run_command(create).await {
            Err(error) if already_exists(&error) => {
                // To switch them on takes a right that few users have: only where it must be.
                let found = db.list_collections().filter(doc! { "name": name }).await?.try_next().await?;
                if found.is_none_or(|found| has_images(&found)) {
                    return Ok(());
                }
                let change = doc! { "collMod": name, "changeStreamPreAndPostImages": images };
                if let Err(error) = db.run_command(change).await {
                    let what = if name == COLLECTION { CLASSES_WITHOUT_IMAGES } else { WITHOUT_IMAGES };
                    tracing::warn!(collection = name, error = in_words(&error), "{what}");
                }
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// The index by which holders of a value are found, whatever its case.
    pub(super) async fn make_folded(&self, db: &Database, class: &ClassName, field: &str) -> Result<()> {
        let key = format!("{class}/{field}");
        if self.is_ready(&key) {
            return Ok(());
        }
        let mut folded = sparse_index(&format!("case_insensitive_{field}"), field);
        folded.insert("collation", doc! { "locale": LANGUAGE, "strength": 2 });
        folded.insert("background", true);
        create_indexes(db, class, vec![folded]).await?;
        self.set_ready(&key);
        Ok(())
    }
}

/// Whether a collection's changes carry both images.
pub(super) fn has_images(collection: &CollectionSpecification) -> bool {
    collection.options.change_stream_pre_and_post_images.as_ref().is_some_and(|images| images.enabled)
}

/// The index of each class that gives its objects in the order of their creation.
const BY_CREATION: &str = "_created_at_1";
/// The index that gives sessions in the order of their end.
const BY_EXPIRY: &str = "_Session_expiresAt_1__id_1";

/// What makes the newest objects of a pointer quick to find.
pub(super) fn pointer_index(name: &str, field_type: &FieldType) -> Option<Document> {
    let FieldType::Pointer(_) = field_type else { return None };
    let stored = pointer_name(name);
    Some(index(&pointer_index_name(&stored), doc! { stored: 1, "_created_at": 1 }))
}

/// What that index is called, for a pointer of this name in documents.
pub(super) fn pointer_index_name(stored: &str) -> String {
    format!("{stored}_1__created_at_1")
}

/// Whether an index is one that nobody declared: Parse Server lists all that it finds.
pub(super) fn is_automatic(name: &str, keys: &Document) -> bool {
    let fields: Vec<&str> = keys.keys().map(String::as_str).collect();
    match fields.as_slice() {
        ["_created_at"] => name == BY_CREATION,
        ["expiresAt", "_id"] => name == BY_EXPIRY,
        [pointer, "_created_at"] => name == pointer_index_name(pointer),
        _ => false,
    }
}

/// As Parse Server makes it for what few users have.
fn sparse_index(name: &str, field: &str) -> Document {
    let mut index = index(name, doc! { field: 1 });
    index.insert("sparse", true);
    index
}

/// As Parse Server makes it for what only one user may have.
fn unique_index(name: &str, field: &str) -> Document {
    let mut index = sparse_index(name, field);
    index.insert("unique", true);
    index
}

/// What finds the session of a token that Parse Server, or another node, has given, and sessions that have expired. Parse
/// Server makes neither.
fn session_indexes() -> Vec<Document> {
    vec![index("_session_token_1", doc! { "_session_token": 1 }), index(BY_EXPIRY, doc! { "expiresAt": 1, "_id": 1 })]
}

pub(super) fn index(name: &str, key: Document) -> Document {
    doc! { "key": key, "name": name }
}

pub(super) async fn create_indexes(db: &Database, class: &str, indexes: Vec<Document>) -> Result<()> {
    if indexes.is_empty() {
        return Ok(());
    }
    let command = doc! { "createIndexes": class, "indexes": &indexes, "writeConcern": { "w": "majority" } };
    match db.run_command(command).await {
        // The same key under another name, or with other options, will do; but the command has made none of the others.
        Err(error) if is_alike(&error) && indexes.len() > 1 => {
            for index in indexes {
                Box::pin(create_indexes(db, class, vec![index])).await?;
            }
            Ok(())
        }
        Err(error) if is_alike(&error) => Ok(()),
        other => other.map(drop),
    }
}

pub(super) async fn drop_index(db: &Database, class: &str, name: &str) -> Result<()> {
    match db.run_command(doc! { "dropIndexes": class, "index": name }).await {
        Err(error) if is_missing(&error) => Ok(()),
        other => other.map(drop),
    }
}

/// `IndexOptionsConflict`, `IndexKeySpecsConflict`.
fn is_alike(error: &Error) -> bool {
    matches!(super::errors::code(error), Some(85 | 86))
}
