//! The collections of classes and their indexes: made before anything needs them, as nobody waits for them then.

use super::documents::{GUEST_ID, is_pointer_name, pointer_name};
use super::errors::{already_exists, in_words, is_missing};
use super::schemas::COLLECTION;
use crate::schema::FieldType;
use crate::storage::Membership;
use compact_str::CompactString;
use futures_util::TryStreamExt;
use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::{Error, Result};
use mongodb::results::CollectionSpecification;
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tidings_protocol::ClassName;

/// Where this store keeps what Parse Server does not know of: one document per lock (see `unique`).
pub(super) const OWN: &str = "_Tidings";

/// What the collections of classes that are being deleted are called, before the name of the class.
const ASIDE: &str = "_Tidings:";

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
        if *class == ClassName::USER {
            indexes.extend(["username", "email"].map(|field| unique_index(&format!("{field}_1"), field)));
            indexes.push(unique_index("_auth_data_anonymous_id", GUEST_ID));
            indexes.extend(["_email_verify_token", "_perishable_token"].map(|field| sparse_index(field, field)));
        }
        if *class == ClassName::SESSION {
            indexes.extend(session_indexes());
        }
        create_indexes(db, class, indexes).await?;
        add_column_indexes(db, class, 0, columns.iter().map(|(name, field_type)| (name, field_type))).await;
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

    /// Takes away the collection of a class that is no more, and what it has beside documents. It is put aside first: who
    /// makes the class again meanwhile, and writes to it, must not lose that.
    pub(super) async fn remove(&self, db: &Database, class: &ClassName) -> Result<()> {
        let aside = format!("{ASIDE}{class}");
        let [from, to] = [class.as_str(), &aside].map(|name| format!("{}.{name}", db.name()));
        let rename = doc! { "renameCollection": &from, "to": &to };
        let admin = db.client().database("admin");
        let mut renamed = admin.run_command(rename.clone()).await;
        // Somebody has put it aside before, and has not come to the end of it.
        if renamed.as_ref().is_err_and(already_exists) {
            Self::put_back(db, &aside).await?;
            renamed = admin.run_command(rename).await;
        }
        match renamed {
            Err(error) if is_missing(&error) => return Ok(()),
            other => other?,
        };
        self.forget(class);
        Self::put_back(db, &aside).await
    }

    /// Ends what [`Collections::remove`] began, if this collection is one that was put aside: what somebody has written to
    /// the class since goes back.
    pub(super) async fn put_back(db: &Database, name: &str) -> Result<()> {
        let Some(class) = name.strip_prefix(ASIDE) else { return Ok(()) };
        let aside = db.collection::<Document>(name);
        if aside.find_one(doc! {}).await?.is_some() {
            aside.aggregate([doc! { "$merge": class }]).await?;
        }
        aside.drop().await
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

/// How many columns of a class get an index unasked: MongoDB has room for 64 on a collection, and those that somebody
/// declares must find some.
const MOST_COLUMN_INDEXES: usize = 30;

/// Makes the indexes that come with columns, where so many columns had some `before`. The class does without those that
/// cannot be made.
pub(super) async fn add_column_indexes<'a>(
    db: &Database,
    class: &ClassName,
    before: usize,
    columns: impl IntoIterator<Item = (&'a CompactString, &'a FieldType)>,
) {
    let indexes = columns.into_iter().filter_map(|(name, field_type)| column_index(name, field_type));
    let indexes = indexes.take(MOST_COLUMN_INDEXES.saturating_sub(before)).collect();
    if let Err(error) = create_indexes(db, class, indexes).await {
        tracing::warn!(%class, error = in_words(&error), "indexes of columns could not be made: finding by them is slow");
    }
}

/// What makes the newest objects of a pointer quick to find; and the index that Parse Server gives to polygons.
fn column_index(name: &str, field_type: &FieldType) -> Option<Document> {
    let key = match field_type {
        FieldType::Pointer(_) => doc! { pointer_name(name): 1, "_created_at": 1 },
        FieldType::Polygon => doc! { name: "2dsphere" },
        _ => return None,
    };
    Some(index(&column_index_name(name, field_type)?, key))
}

/// How many of these columns may have one.
pub(super) fn count_indexed<'a>(columns: impl IntoIterator<Item = (&'a CompactString, &'a FieldType)>) -> usize {
    columns.into_iter().filter(|(name, field_type)| column_index_name(name, field_type).is_some()).count()
}

/// What the index that came with a column is called.
pub(super) fn column_index_name(name: &str, field_type: &FieldType) -> Option<String> {
    match field_type {
        FieldType::Pointer(_) => Some(pointer_index_name(&pointer_name(name))),
        FieldType::Polygon => Some(format!("{name}_2dsphere")),
        _ => None,
    }
}

/// The same, for a pointer of this name in documents.
fn pointer_index_name(stored: &str) -> String {
    format!("{stored}_1__created_at_1")
}

/// What an index with these keys is called if nobody declares it.
fn automatic_name(keys: &Document) -> Option<String> {
    let fields: Vec<&str> = keys.keys().map(String::as_str).collect();
    let ascends = |direction: &Bson| direction.as_i32() == Some(1) || direction.as_f64() == Some(1.0);
    if !keys.values().all(ascends) {
        return None;
    }
    match fields.as_slice() {
        ["_created_at"] => Some(BY_CREATION.to_owned()),
        [pointer, "_created_at"] if is_pointer_name(pointer) => Some(pointer_index_name(pointer)),
        _ => None,
    }
}

/// Whether an index is one that nobody declared: Parse Server lists all that it finds.
pub(super) fn is_automatic(name: &str, keys: &Document) -> bool {
    name == BY_EXPIRY && keys.keys().eq(["expiresAt", "_id"])
        || automatic_name(keys).is_some_and(|automatic| automatic == name)
}

/// Makes an index that somebody declares. One that came unasked gives way: a collection has only one of these keys.
pub(super) async fn declare_index(db: &Database, class: &str, name: &str, keys: Document) -> Result<()> {
    let automatic = automatic_name(&keys).filter(|automatic| automatic != name);
    if let Some(automatic) = &automatic {
        drop_index(db, class, automatic).await?;
    }
    let made = create_indexes(db, class, vec![index(name, keys.clone())]).await;
    if let (Err(_), Some(automatic)) = (&made, automatic) {
        create_indexes(db, class, vec![index(&automatic, keys)]).await?;
    }
    made
}

/// Takes a declared index away. One that it stood for comes back.
pub(super) async fn withdraw_index(db: &Database, class: &str, name: &str, keys: Document) -> Result<()> {
    drop_index(db, class, name).await?;
    let automatic = automatic_name(&keys).map(|automatic| index(&automatic, keys));
    create_indexes(db, class, automatic.into_iter().collect()).await
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

fn index(name: &str, key: Document) -> Document {
    doc! { "key": key, "name": name }
}

async fn create_indexes(db: &Database, class: &str, indexes: Vec<Document>) -> Result<()> {
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
