//! The indexes of collections: those that come unasked, and those that somebody declares.

use super::documents::{GUEST_ID, is_pointer_name, pointer_name};
use super::errors::{code, has_gone_away, in_words, is_missing};
use crate::schema::FieldType;
use crate::storage::Membership;
use compact_str::CompactString;
use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::{Error, Result};
use tidings_protocol::ClassName;

/// The language of the comparison by which upper and lower case are alike. It is to the letter that of Parse Server's
/// indexes: a question in another would not use them, and Parse Server does not start where an index of the name that it
/// gives is of another.
pub(super) const LANGUAGE: &str = "en_US";

/// The index of each class that gives its objects in the order of their creation.
const BY_CREATION: &str = "_created_at_1";
/// The index that gives sessions in the order of their end.
const BY_EXPIRY: &str = "_Session_expiresAt_1__id_1";

/// How many columns of a class get an index unasked: MongoDB has room for 64 on a collection, and those that somebody
/// declares must find some.
const MOST_COLUMN_INDEXES: usize = 30;

/// What a new class has, or a relation's members, whatever its columns.
pub(super) fn of_class(class: &ClassName) -> Vec<Document> {
    if class.is_relation() {
        return [Membership::OWNER, Membership::RELATED].map(|end| index(&format!("{end}_1"), doc! { end: 1 })).into();
    }
    let mut indexes = vec![index(BY_CREATION, doc! { "_created_at": 1 })];
    if *class == ClassName::USER {
        indexes.extend(["username", "email"].map(|field| unique(&format!("{field}_1"), field)));
        indexes.push(unique("_auth_data_anonymous_id", GUEST_ID));
        indexes.extend(["_email_verify_token", "_perishable_token"].map(|field| sparse(field, field)));
    }
    if *class == ClassName::SESSION {
        indexes.extend(of_sessions());
    }
    indexes
}

/// What finds the session of a token that Parse Server, or another node, has given, and sessions that have expired. Parse
/// Server makes neither, so they are made also where others have made the collection: else each request with a session
/// would read all of them, and so would each look for those that have expired.
pub(super) fn of_sessions() -> Vec<Document> {
    vec![index("_session_token_1", doc! { "_session_token": 1 }), index(BY_EXPIRY, doc! { "expiresAt": 1, "_id": 1 })]
}

/// What finds the holders of a value, whatever its case.
pub(super) fn folded(field: &str) -> Document {
    let mut folded = sparse(&format!("case_insensitive_{field}"), field);
    folded.insert("collation", doc! { "locale": LANGUAGE, "strength": 2 });
    folded.insert("background", true);
    folded
}

/// Makes the indexes that come with columns, where so many columns had some `before`. The class does without those that
/// cannot be made.
pub(super) async fn add<'a>(
    db: &Database,
    class: &ClassName,
    before: usize,
    columns: impl IntoIterator<Item = (&'a CompactString, &'a FieldType)>,
) {
    let indexes = columns.into_iter().filter_map(|(name, field_type)| of_column(name, field_type));
    let indexes = indexes.take(MOST_COLUMN_INDEXES.saturating_sub(before)).collect();
    if let Err(error) = make(db, class, indexes).await {
        tracing::warn!(%class, error = in_words(&error), "indexes of columns could not be made: finding by them is slow");
    }
}

/// What makes the newest objects of a pointer quick to find; and the index that Parse Server gives to polygons.
fn of_column(name: &str, field_type: &FieldType) -> Option<Document> {
    let key = match field_type {
        FieldType::Pointer(_) => doc! { pointer_name(name): 1, "_created_at": 1 },
        FieldType::Polygon => doc! { name: "2dsphere" },
        _ => return None,
    };
    Some(index(&name_of(name, field_type)?, key))
}

/// How many of these columns may have one.
pub(super) fn count<'a>(columns: impl IntoIterator<Item = (&'a CompactString, &'a FieldType)>) -> usize {
    columns.into_iter().filter(|(name, field_type)| name_of(name, field_type).is_some()).count()
}

/// What the index that came with a column is called.
pub(super) fn name_of(name: &str, field_type: &FieldType) -> Option<String> {
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
pub(super) async fn declare(db: &Database, class: &str, name: &str, keys: Document) -> Result<()> {
    let automatic = automatic_name(&keys).filter(|automatic| automatic != name);
    if let Some(automatic) = &automatic {
        drop_one(db, class, automatic).await?;
    }
    let made = make(db, class, vec![index(name, keys.clone())]).await;
    if let (Err(_), Some(automatic)) = (&made, automatic) {
        make(db, class, vec![index(&automatic, keys)]).await?;
    }
    made
}

/// Takes a declared index away. One that it stood for comes back.
pub(super) async fn withdraw(db: &Database, class: &str, name: &str, keys: Document) -> Result<()> {
    drop_one(db, class, name).await?;
    let automatic = automatic_name(&keys).map(|automatic| index(&automatic, keys));
    make(db, class, automatic.into_iter().collect()).await
}

/// As Parse Server makes it for what few users have.
fn sparse(name: &str, field: &str) -> Document {
    let mut index = index(name, doc! { field: 1 });
    index.insert("sparse", true);
    index
}

/// As Parse Server makes it for what only one user may have.
fn unique(name: &str, field: &str) -> Document {
    let mut index = sparse(name, field);
    index.insert("unique", true);
    index
}

fn index(name: &str, key: Document) -> Document {
    doc! { "key": key, "name": name }
}

/// Makes indexes, each whatever becomes of the others.
///
/// # Errors
/// The first of those that could not be made.
pub(super) async fn make(db: &Database, class: &str, indexes: Vec<Document>) -> Result<()> {
    if indexes.is_empty() {
        return Ok(());
    }
    let command = doc! { "createIndexes": class, "indexes": &indexes, "writeConcern": { "w": "majority" } };
    match db.run_command(command).await {
        // The command has made none of the others.
        Err(error) if indexes.len() > 1 && !has_gone_away(&error) => {
            let mut outcome = Ok(());
            for index in indexes {
                outcome = outcome.and(Box::pin(make(db, class, vec![index])).await);
            }
            outcome
        }
        // The same key under another name, or with other options, will do.
        Err(error) if is_alike(&error) => Ok(()),
        other => other.map(drop),
    }
}

pub(super) async fn drop_one(db: &Database, class: &str, name: &str) -> Result<()> {
    match db.run_command(doc! { "dropIndexes": class, "index": name }).await {
        Err(error) if is_missing(&error) => Ok(()),
        other => other.map(drop),
    }
}

/// `IndexOptionsConflict`, `IndexKeySpecsConflict`.
fn is_alike(error: &Error) -> bool {
    matches!(code(error), Some(85 | 86))
}
