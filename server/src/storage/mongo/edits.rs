//! Changes to classes that somebody asks for: create, change, delete.

use super::commit::{knowing_session, written_at};
use super::errors::{Refusal, refusal, unavailable};
use super::transactions::{Failure, Tries, finish, reached, start, still};
use super::{Shared, indexes, schemas};
use crate::changes::Change;
use crate::schema::{ClassSchema, FieldType, SchemaEdit};
use crate::storage::WriteError;
use compact_str::CompactString;
use mongodb::ClientSession;
use mongodb::bson::{Document, doc};
use std::sync::Arc;
use tidings_protocol::{ClassName, Code, Error};

/// What an edit did to a class.
struct Edited {
    before: Option<ClassSchema>,
    after: Option<Arc<ClassSchema>>,
    removed: Vec<CompactString>,
}

pub(super) async fn edit(shared: Arc<Shared>, edit: SchemaEdit) -> Result<Option<Arc<ClassSchema>>, WriteError> {
    let class = match &edit {
        SchemaEdit::Create(schema) => {
            let columns: Vec<(CompactString, FieldType)> = schema.fields.clone().into_iter().collect();
            shared.collections.make(&shared.db, &schema.class, &columns).await.map_err(unavailable)?;
            schema.class.clone()
        }
        SchemaEdit::Update(class, _) | SchemaEdit::Delete(class) => class.clone(),
    };
    let mut session = knowing_session(&shared).await.map_err(unavailable)?;
    let mut tries = Tries::begin();
    let edited = loop {
        start(&shared, &mut session).await.map_err(unavailable)?;
        let outcome = attempt(&shared, &mut session, &edit).await;
        match finish(&shared, &mut session, outcome).await {
            Ok(edited) => break edited,
            Err(failure) => tries.rest(failure).await?,
        }
    };
    let before = shared.catalog.get(&class);
    let is_change = before != edited.after;
    let at = written_at(&shared, &session).position;
    shared.catalog.put(&class, edited.after.clone(), at);
    let followed = match &edit {
        // Also where there is no row any more: what a deletion did not get to is done by the next one.
        SchemaEdit::Delete(class) => remove(&shared, class).await,
        SchemaEdit::Create(_) | SchemaEdit::Update(..) => follow(&shared, &edited).await,
    };
    if is_change {
        // Values of removed fields are gone by now, without changes of their own.
        shared.tell([Change::Schema { class, before, schema: edited.after.clone() }]);
    }
    followed.map_err(unavailable)?;
    Ok(edited.after)
}

async fn attempt(shared: &Shared, session: &mut ClientSession, edit: &SchemaEdit) -> Result<Edited, Failure> {
    let rows = shared.db.collection::<Document>(schemas::COLLECTION);
    // Where nothing of a class that stays is to follow.
    let done = |schema: Option<Arc<ClassSchema>>| Edited { before: None, after: schema, removed: Vec::new() };
    match edit {
        SchemaEdit::Create(schema) => {
            let inserted = rows.insert_one(schemas::encode(schema)).session(session).await;
            inserted.map_err(|error| match refusal(&error) {
                Refusal::DuplicateKey => invalid_class(format!("Class {} already exists.", schema.class)),
                Refusal::Misfit | Refusal::Other => Failure::Database(error),
            })?;
            Ok(done(Some(Arc::new(schema.clone()))))
        }
        SchemaEdit::Update(class, changes) => {
            let row = rows.find_one(doc! { "_id": class.as_str() }).session(&mut *session).await?;
            let Some((row, before)) = row.and_then(|row| schemas::decode(&row).map(|schema| (row, schema))) else {
                return Err(invalid_class(format!("Class {class} does not exist.")));
            };
            let after = before.edited(changes)?;
            if after == before && changes.remove_fields.is_empty() {
                return Ok(done(Some(Arc::new(after))));
            }
            let change = change(&row, &before, &after);
            let mut filter = doc! { "_id": class.as_str() };
            filter.extend(still(&row));
            reached(rows.update_one(filter, change).session(session).await?.matched_count)?;
            Ok(Edited { before: Some(before), after: Some(Arc::new(after)), removed: changes.remove_fields.clone() })
        }
        SchemaEdit::Delete(class) => {
            let objects = shared.objects::<Document>(class);
            let count = objects.count_documents(doc! {}).session(&mut *session).await?;
            if count > 0 {
                let message = format!("Class {class} is not empty, contains {count} objects, cannot drop schema.");
                return Err(Error::new(Code::InvalidSchemaOperation, message).into());
            }
            rows.delete_one(doc! { "_id": class.as_str() }).session(session).await?;
            Ok(done(None))
        }
    }
}

/// The update of a class's row. Of its metadata only what changed is touched: Parse Server knows more of it than we do.
fn change(row: &Document, before: &ClassSchema, after: &ClassSchema) -> Document {
    let (mut set, mut unset) = (Document::new(), Document::new());
    for (name, field_type) in after.fields.iter().filter(|(name, known)| before.fields.get(*name) != Some(known)) {
        set.insert(name.as_str(), schemas::type_text(field_type));
    }
    for name in before.fields.keys().filter(|name| !after.fields.contains_key(*name)) {
        unset.insert(name.as_str(), "");
    }
    if before.permissions != after.permissions {
        set.insert("_metadata.class_permissions", schemas::permissions(&after.permissions));
    }
    // Those that say nothing go with their field, too.
    let stored = row.get_document("_metadata").and_then(|metadata| metadata.get_document(schemas::OPTIONS));
    let stored = stored.into_iter().flat_map(|options| options.keys().map(String::as_str));
    let is_over = |name: &&str| before.options.contains_key(*name) || !after.fields.contains_key(*name);
    for name in stored.filter(is_over).filter(|name| !after.options.contains_key(*name)) {
        unset.insert(format!("_metadata.{}.{name}", schemas::OPTIONS), "");
    }
    for (name, options) in after.options.iter().filter(|(name, known)| before.options.get(*name) != Some(known)) {
        set.insert(format!("_metadata.{}.{name}", schemas::OPTIONS), schemas::members(options));
    }
    if before.indexes != after.indexes {
        // As a whole, because the name of an index may be no path.
        let stored = row.get_document("_metadata").and_then(|metadata| metadata.get_document("indexes"));
        let mut indexes = stored.cloned().unwrap_or_default();
        before.indexes.keys().filter(|name| !after.indexes.contains_key(*name)).for_each(|name| {
            indexes.remove(name.as_str());
        });
        for (name, index) in &after.indexes {
            indexes.insert(name.as_str(), schemas::index_keys(index, after));
        }
        set.insert("_metadata.indexes", indexes);
    }
    let parts = [("$set", set), ("$unset", unset)].into_iter().filter(|(_, part)| !part.is_empty());
    parts.map(|(operator, part)| (operator.to_owned(), part.into())).collect()
}

/// What follows from an edit beside the class's row: values of removed fields go, indexes come and go.
async fn follow(shared: &Shared, edited: &Edited) -> Result<(), mongodb::error::Error> {
    let (Some(before), Some(after)) = (&edited.before, &edited.after) else { return Ok(()) };
    let class: &ClassName = &before.class;
    // Members go with their column.
    for relation in before.relations(&edited.removed) {
        shared.objects::<Document>(&relation).drop().await?;
        shared.collections.forget(&relation);
    }
    let gone: Document = edited.removed.iter().map(|name| (schemas::column_name(name, before), "".into())).collect();
    if !gone.is_empty() {
        let holds = gone.keys().map(|name| doc! { name: { "$exists": true } }).collect::<Vec<_>>();
        shared.objects::<Document>(class).update_many(doc! { "$or": holds }, doc! { "$unset": gone }).await?;
    }
    for (name, index) in before.indexes.iter().filter(|(name, _)| !after.indexes.contains_key(*name)) {
        indexes::withdraw(&shared.db, class, name, schemas::index_keys(index, before)).await?;
    }
    // The index that came with a column goes with it, unless the field is the same again.
    for name in edited.removed.iter().filter(|name| before.fields.get(*name) != after.fields.get(*name)) {
        let index = before.fields.get(name).and_then(|field_type| indexes::name_of(name, field_type));
        if let Some(index) = index {
            indexes::drop_one(&shared.db, class, &index).await?;
        }
    }
    for (name, index) in after.indexes.iter().filter(|(name, index)| before.indexes.get(*name) != Some(index)) {
        indexes::declare(&shared.db, class, name, schemas::index_keys(index, after)).await?;
    }
    let new = after.fields.iter().filter(|(name, field_type)| before.fields.get(*name) != Some(field_type));
    indexes::add(&shared.db, class, indexes::count(&before.fields), new).await;
    Ok(())
}

/// What goes with a class.
async fn remove(shared: &Shared, class: &ClassName) -> Result<(), mongodb::error::Error> {
    let rows = shared.db.collection::<Document>(schemas::COLLECTION);
    // Then what is there is not what was to go.
    let is_made_anew = async || rows.find_one(doc! { "_id": class.as_str() }).await.map(|row| row.is_some());
    let end = format!(":{class}");
    let is_of_class = |name: &str| ClassName::from_trusted(name).is_relation() && name.ends_with(&end);
    for name in shared.db.list_collection_names().await?.iter().filter(|name| is_of_class(name)) {
        if is_made_anew().await? {
            return Ok(());
        }
        shared.objects::<Document>(name).drop().await?;
        shared.collections.forget(name);
    }
    if is_made_anew().await? {
        return Ok(());
    }
    shared.collections.remove(&shared.db, class).await
}

fn invalid_class(message: String) -> Failure {
    Error::new(Code::InvalidClassName, message).into()
}
