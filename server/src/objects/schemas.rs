//! The schemas API: classes as the operator shapes them. Master key only.

use super::{Objects, refuse_unsupported, require_master};
use crate::auth::Auth;
use crate::error::{Failure, Result};
use crate::permissions::ClassLevelPermissions;
use crate::schema::{ClassSchema, FieldOptions, FieldType, Index, SchemaChanges, SchemaEdit};
use std::sync::Arc;
use tidings_protocol::{ClassName, Code, Error, Map, Value};

impl Objects {
    /// Every class, by name.
    ///
    /// # Errors
    /// [`Failure::MasterKeyRequired`].
    pub fn schemas(&self, auth: &Auth) -> Result<Vec<Arc<ClassSchema>>> {
        require_master(auth)?;
        Ok(self.0.storage.schemas().values().filter(|schema| !schema.class.is_relation()).cloned().collect())
    }

    /// One class.
    ///
    /// # Errors
    /// 103 if it does not exist.
    pub fn schema(&self, auth: &Auth, class: &ClassName) -> Result<Arc<ClassSchema>> {
        require_master(auth)?;
        self.0.storage.schemas().get(class).cloned().ok_or_else(|| no_class(class))
    }

    /// Makes a class.
    ///
    /// # Errors
    /// 103 if it exists, 111/105/135 for bad fields, 107 for bad permissions, 102 for bad indexes.
    pub async fn create_schema(&self, auth: &Auth, class: &ClassName, body: &Map) -> Result<Arc<ClassSchema>> {
        require_master(auth)?;
        refuse_unsupported(class)?;
        let changes = read_changes(body)?;
        if !changes.remove_fields.is_empty() || !changes.remove_indexes.is_empty() {
            return Err(Failure::parse(Code::InvalidSchemaOperation, "A new class has nothing to delete."));
        }
        let new = ClassSchema::new(class.clone()).edited(&changes)?;
        self.edit(class, SchemaEdit::Create(new)).await
    }

    /// Changes a class.
    ///
    /// # Errors
    /// 103 if it does not exist, 255 for fields that have another type or do not exist, 136 for default fields, and as for creation.
    pub async fn update_schema(&self, auth: &Auth, class: &ClassName, body: &Map) -> Result<Arc<ClassSchema>> {
        require_master(auth)?;
        if !self.0.storage.schemas().contains_key(class) {
            return Err(no_class(class));
        }
        self.edit(class, SchemaEdit::Update(class.clone(), read_changes(body)?)).await
    }

    /// Removes a class that has no objects. One that does not exist is removed already.
    ///
    /// # Errors
    /// 255 if it has objects.
    pub async fn delete_schema(&self, auth: &Auth, class: &ClassName) -> Result<()> {
        require_master(auth)?;
        if class.is_system() {
            return Err(Failure::parse(Code::OperationForbidden, format!("The class {class} cannot be deleted.")));
        }
        self.0.storage.edit_schema(SchemaEdit::Delete(class.clone())).await?;
        Ok(())
    }

    async fn edit(&self, class: &ClassName, edit: SchemaEdit) -> Result<Arc<ClassSchema>> {
        self.0.storage.edit_schema(edit).await?.ok_or_else(|| no_class(class))
    }
}

/// What the body of a schema request asks for.
fn read_changes(body: &Map) -> Result<SchemaChanges> {
    let known = ["className", "fields", "classLevelPermissions", "indexes"];
    if let Some((name, _)) = body.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        return Err(Error::invalid_json(format!("{name} is not a part of a schema.")).into());
    }
    let part = |name: &str| match body.get(name) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map.clone()),
        Some(_) => Err(Failure::from(Error::invalid_json(format!("{name} must be an object.")))),
    };
    let mut changes = SchemaChanges::default();
    for (name, value) in part("fields")? {
        let map = value.as_object().ok_or_else(|| Error::invalid_json(format!("{name}: a field is an object.")))?;
        let is_default = ["objectId", "createdAt", "updatedAt", "ACL"].contains(&name.as_str());
        if is_deletion(map) {
            changes.remove_fields.push(name);
        } else if is_default {
            // Dashboards send back what they were shown.
        } else {
            changes.add_fields.push((name, FieldType::from_map(map)?, FieldOptions::from_map(map)?));
        }
    }
    if let Some(Value::Object(permissions)) = body.get("classLevelPermissions") {
        changes.permissions = Some(ClassLevelPermissions::from_map(permissions)?);
    } else if body.get("classLevelPermissions").is_some_and(|value| !value.is_null()) {
        return Err(Error::invalid_json("classLevelPermissions must be an object.").into());
    }
    for (name, value) in part("indexes")? {
        let map = value.as_object().ok_or_else(|| Error::invalid_query(format!("{name}: an index is an object.")))?;
        if is_deletion(map) {
            changes.remove_indexes.push(name);
        } else if name != "_id_" {
            changes.add_indexes.push((name, Index::from_map(map)?));
        }
    }
    Ok(changes)
}

fn is_deletion(map: &Map) -> bool {
    map.get("__op").and_then(Value::as_str) == Some("Delete")
}

fn no_class(class: &ClassName) -> Failure {
    Failure::parse(Code::InvalidClassName, format!("Class {class} does not exist."))
}
