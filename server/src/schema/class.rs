//! One class: its fields, permissions and indexes.

use super::fields::FieldType;
use super::options::FieldOptions;
use crate::permissions::ClassLevelPermissions;
use compact_str::CompactString;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidings_protocol::names::{ClassName, invalid_field_name, is_field_name};
use tidings_protocol::value::{Map, Value};
use tidings_protocol::{Code, Error};

/// A class with more fields is a mistake: every query pays for them.
const MAX_FIELDS: usize = 1_000;
/// How many indexes a class may declare.
const MAX_INDEXES: usize = 32;

/// The fields of a relation's class, by Parse's names: whose relation it is, and who is a member of it.
pub const OWNING_ID: &str = "owningId";
pub const RELATED_ID: &str = "relatedId";

/// All classes of one moment. Cheap to clone and read; replaced as a whole.
pub type Schemas = Arc<BTreeMap<ClassName, Arc<ClassSchema>>>;

#[derive(Clone, Debug, PartialEq)]
pub struct ClassSchema {
    pub class: ClassName,
    /// The class's own fields, without the four that every class has.
    pub fields: BTreeMap<CompactString, FieldType>,
    /// What is asked of some of them beyond their type.
    pub options: BTreeMap<CompactString, FieldOptions>,
    /// The permissions in force; everything is public until somebody sets them.
    pub permissions: ClassLevelPermissions,
    /// Declared indexes by name; the automatic ones are not listed.
    pub indexes: BTreeMap<CompactString, Index>,
}

/// A declared index: fields in order of significance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    pub fields: Vec<IndexField>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexField {
    pub name: CompactString,
    pub descending: bool,
}

/// A change to a schema that somebody asks for through the schemas API.
#[derive(Clone, Debug, PartialEq)]
pub enum SchemaEdit {
    /// Fails with 103 if the class exists.
    Create(ClassSchema),
    /// Fails with 103 if the class does not exist.
    Update(ClassName, SchemaChanges),
    /// Fails with 255 if the class has objects. Removing a class that does not exist succeeds.
    Delete(ClassName),
}

/// What shall become of a class; each part may be empty.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct SchemaChanges {
    /// With their options, which take the place of those that the field had. A field that exists must have the type.
    pub add_fields: Vec<(CompactString, FieldType, FieldOptions)>,
    pub remove_fields: Vec<CompactString>,
    pub permissions: Option<ClassLevelPermissions>,
    pub add_indexes: Vec<(CompactString, Index)>,
    pub remove_indexes: Vec<CompactString>,
}

impl ClassSchema {
    /// A class that nobody has shaped yet; system classes come with their own fields.
    pub fn new(class: ClassName) -> Self {
        let fields = default_fields(&class).into_iter().collect();
        let permissions = in_force(&class, ClassLevelPermissions::public());
        Self { class, fields, options: BTreeMap::new(), permissions, indexes: BTreeMap::new() }
    }

    /// The classes that hold the members of those of these fields that are relations.
    pub fn relations<'a>(&'a self, fields: &'a [CompactString]) -> impl Iterator<Item = ClassName> + 'a {
        let is_relation = |name: &&CompactString| matches!(self.fields.get(*name), Some(FieldType::Relation(_)));
        fields.iter().filter(is_relation).map(|name| ClassName::of_relation(name, &self.class))
    }

    /// The fields that are relations, each with the class of its members.
    pub fn relation_fields(&self) -> impl Iterator<Item = (&CompactString, &ClassName)> {
        self.fields.iter().filter_map(|(name, field_type)| match field_type {
            FieldType::Relation(target) => Some((name, target)),
            _ => None,
        })
    }

    /// The fields that a later state of this class has no more, or not of that type.
    pub fn fields_gone_from(&self, later: Option<&Self>) -> Vec<CompactString> {
        let stays =
            |(name, kind): &(&CompactString, &FieldType)| later.is_some_and(|it| it.fields.get(*name) == Some(kind));
        self.fields.iter().filter(|field| !stays(field)).map(|(name, _)| name.clone()).collect()
    }

    /// The type of a field, the four that every class has included.
    pub fn field_type(&self, name: &str) -> Option<FieldType> {
        match name {
            "objectId" => Some(FieldType::String),
            "createdAt" | "updatedAt" => Some(FieldType::Date),
            "ACL" => Some(FieldType::Acl),
            _ => self.fields.get(name).cloned(),
        }
    }

    /// Checks that a field may have this type. `Ok(true)` if the field is new.
    ///
    /// # Errors
    /// 111 when the field has another type, or the class already has its one GeoPoint; 105 when it is full.
    pub fn check_field(&self, name: &str, wanted: &FieldType) -> Result<bool, Error> {
        match self.field_type(name) {
            Some(known) if known == *wanted => Ok(false),
            Some(known) => Err(Error::incorrect_type(format!(
                "schema mismatch for {}.{name}; expected {} but got {}",
                self.class,
                known.describe(),
                wanted.describe()
            ))),
            None if *wanted == FieldType::GeoPoint && self.fields.values().any(|known| known == wanted) => {
                Err(Error::incorrect_type("there can only be one geopoint field in a class"))
            }
            None if self.fields.len() >= MAX_FIELDS => {
                Err(Error::invalid_key_name(format!("A class has at most {MAX_FIELDS} fields.")))
            }
            None => Ok(true),
        }
    }

    /// # Errors
    /// 255, 136, 102, 105, 111: what is wrong with the changes.
    pub fn edited(&self, changes: &SchemaChanges) -> Result<Self, Error> {
        let SchemaChanges { add_fields, remove_fields, permissions, add_indexes, remove_indexes } = changes;
        let mut edited = self.clone();
        for name in remove_fields {
            if is_default_field(&self.class, name) {
                return Err(Error::new(Code::ImmutableField, format!("field {name} cannot be changed")));
            }
            if edited.fields.remove(name).is_none() {
                let message = format!("Field {name} does not exist, cannot delete.");
                return Err(Error::new(Code::InvalidSchemaOperation, message));
            }
            edited.options.remove(name);
        }
        for (name, field_type, options) in add_fields {
            let known = edited.field_type(name);
            if known.is_some_and(|known| known.name() != field_type.name()) {
                let message = format!("Field {name} exists, cannot update.");
                return Err(Error::new(Code::InvalidSchemaOperation, message));
            }
            if !is_field_name(name) {
                return Err(invalid_field_name(name));
            }
            edited.check_field(name, field_type)?;
            options.check(&self.class, name, field_type)?;
            edited.fields.insert(name.clone(), field_type.clone());
            match options.is_empty() {
                true => edited.options.remove(name),
                false => edited.options.insert(name.clone(), options.clone()),
            };
        }
        for name in remove_indexes {
            if edited.indexes.remove(name).is_none() {
                return Err(Error::invalid_query(format!("Index {name} does not exist, cannot delete.")));
            }
        }
        for (name, index) in add_indexes {
            if edited.indexes.contains_key(name) {
                return Err(Error::invalid_query(format!("Index {name} exists, cannot update.")));
            }
            for field in &index.fields {
                if edited.field_type(&field.name).is_none() {
                    return Err(Error::invalid_query(format!(
                        "Field {} does not exist, cannot add index.",
                        field.name
                    )));
                }
            }
            if let Some((known, _)) = edited.indexes.iter().find(|(_, known)| *known == index) {
                return Err(Error::invalid_query(format!("Index {name} would be the same as index {known}.")));
            }
            edited.indexes.insert(name.clone(), index.clone());
        }
        if edited.indexes.len() > MAX_INDEXES {
            return Err(Error::invalid_query(format!("A class declares at most {MAX_INDEXES} indexes.")));
        }
        // A field takes its indexes with it.
        let is_removed = |name: &CompactString| remove_fields.contains(name) && edited.field_type(name).is_none();
        let orphans: Vec<CompactString> = edited
            .indexes
            .iter()
            .filter(|(_, index)| index.fields.iter().any(|field| is_removed(&field.name)))
            .map(|(name, _)| name.clone())
            .collect();
        orphans.iter().for_each(|name| drop(edited.indexes.remove(name)));
        if let Some(permissions) = permissions {
            let unknown = permissions.protected_fields().find(|field| edited.field_type(field).is_none());
            if let Some(field) = unknown {
                return Err(Error::invalid_json(format!("Field '{field}' in protectedFields does not exist")));
            }
            edited.permissions = in_force(&self.class, permissions.clone());
        }
        Ok(edited)
    }

    /// The schema as the schemas API shows it.
    pub fn to_map(&self) -> Map {
        let mut fields = Map::new();
        for (name, field_type) in [
            ("objectId", FieldType::String),
            ("createdAt", FieldType::Date),
            ("updatedAt", FieldType::Date),
            ("ACL", FieldType::Acl),
        ] {
            fields.insert(name, Value::Object(field_type.to_map()));
        }
        self.own_fields().for_each(|(name, field)| drop(fields.insert(name, field)));
        let mut map = Map::new();
        map.insert("className", self.class.as_str().into());
        map.insert("fields", Value::Object(fields));
        map.insert("classLevelPermissions", Value::Object(self.permissions.to_map()));
        let mut indexes = Map::new();
        indexes.insert("_id_", Value::Object(tidings_protocol::map! { "_id" => 1.0 }));
        for (name, index) in &self.indexes {
            indexes.insert(name.as_str(), Value::Object(index.to_map()));
        }
        map.insert("indexes", Value::Object(indexes));
        map
    }

    /// The schema as it is stored: only what was decided.
    pub fn to_stored(&self) -> Map {
        let indexes = self.indexes.iter().map(|(name, index)| (name.clone(), Value::Object(index.to_map())));
        let mut map = Map::new();
        map.insert("fields", Value::Object(self.own_fields().collect()));
        map.insert("indexes", Value::Object(indexes.collect()));
        map.insert("permissions", Value::Object(self.permissions.to_map()));
        map
    }

    /// Each field with its type and options.
    fn own_fields(&self) -> impl Iterator<Item = (CompactString, Value)> {
        self.fields.iter().map(|(name, field_type)| {
            let options = self.options.get(name).map(FieldOptions::to_map).unwrap_or_default();
            (name.clone(), Value::Object(field_type.to_map().into_iter().chain(options).collect()))
        })
    }

    /// # Errors
    /// A stored schema that cannot be read: the store is damaged or newer than this program.
    pub fn from_stored(class: ClassName, map: &Map) -> Result<Self, Error> {
        let part = |name: &str| map.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
        let mut schema = Self::new(class);
        for (name, value) in part("fields") {
            let field = value.as_object().cloned().unwrap_or_default();
            let options = FieldOptions::from_stored(&field);
            if !options.is_empty() {
                schema.options.insert(name.clone(), options);
            }
            schema.fields.insert(name, FieldType::from_map(&field)?);
        }
        for (name, value) in part("indexes") {
            schema.indexes.insert(name, Index::from_map(value.as_object().unwrap_or(&Map::new()))?);
        }
        if let Some(Value::Object(permissions)) = map.get("permissions") {
            schema.permissions = ClassLevelPermissions::from_map(permissions)?;
        }
        Ok(schema)
    }
}

impl Index {
    /// Reads `{"conversation": 1, "createdAt": -1}`.
    ///
    /// # Errors
    /// 102 for anything but 1 and −1, for more than four fields, and for none.
    pub fn from_map(map: &Map) -> Result<Self, Error> {
        let fields = map.iter().map(|(name, direction)| match direction.as_number() {
            Some(1.0) => Ok(IndexField { name: name.clone(), descending: false }),
            Some(-1.0) => Ok(IndexField { name: name.clone(), descending: true }),
            _ => Err(Error::invalid_query(format!("Index on {name}: only 1 and -1 are supported yet."))),
        });
        let fields = fields.collect::<Result<Vec<_>, _>>()?;
        if fields.is_empty() || fields.len() > 4 {
            return Err(Error::invalid_query("An index has one to four fields."));
        }
        Ok(Self { fields })
    }

    pub fn to_map(&self) -> Map {
        let direction = |field: &IndexField| if field.descending { -1.0 } else { 1.0 };
        self.fields.iter().map(|field| (field.name.clone(), Value::Number(direction(field)))).collect()
    }
}

/// A user's e-mail is hidden from others whatever else is said.
fn in_force(class: &ClassName, permissions: ClassLevelPermissions) -> ClassLevelPermissions {
    if *class == ClassName::USER { permissions.protecting("*", "email") } else { permissions }
}

/// Whether a field comes with its class and cannot be removed.
fn is_default_field(class: &ClassName, name: &str) -> bool {
    ["objectId", "createdAt", "updatedAt", "ACL"].contains(&name)
        || default_fields(class).iter().any(|(default, _)| default == name)
}

fn default_fields(class: &ClassName) -> Vec<(CompactString, FieldType)> {
    let fields: &[(&str, FieldType)] = match class.as_str() {
        _ if class.is_relation() => &[(OWNING_ID, FieldType::String), (RELATED_ID, FieldType::String)],
        "_User" => &[
            ("username", FieldType::String),
            ("password", FieldType::String),
            ("email", FieldType::String),
            ("emailVerified", FieldType::Boolean),
            ("authData", FieldType::Object),
        ],
        "_Session" => &[
            ("user", FieldType::Pointer(ClassName::USER)),
            ("installationId", FieldType::String),
            ("sessionToken", FieldType::String),
            ("expiresAt", FieldType::Date),
            ("createdWith", FieldType::Object),
        ],
        _ => &[],
    };
    fields.iter().map(|(name, field_type)| (CompactString::from(*name), field_type.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> ClassSchema {
        let mut schema = ClassSchema::new(ClassName::from_trusted("Message"));
        schema.fields.insert("text".into(), FieldType::String);
        schema.fields.insert("sender".into(), FieldType::Pointer(ClassName::USER));
        schema
    }

    #[test]
    fn the_first_type_of_a_field_stays() {
        assert_eq!(schema().check_field("text", &FieldType::String), Ok(false));
        assert_eq!(schema().check_field("new", &FieldType::Number), Ok(true));
        let error = schema().check_field("sender", &FieldType::Pointer(ClassName::SESSION)).unwrap_err();
        assert_eq!(
            error.message,
            "schema mismatch for Message.sender; expected Pointer<_User> but got Pointer<_Session>"
        );
    }

    #[test]
    fn stored_form_reads_back() {
        let mut schema = schema();
        let index = Index::from_map(&tidings_protocol::map! { "sender" => 1.0, "createdAt" => -1.0 }).unwrap();
        schema.indexes.insert("by_sender".into(), index);
        let options = FieldOptions { required: true, default: Some("?".into()) };
        schema.options.insert("text".into(), options);
        assert_eq!(ClassSchema::from_stored(schema.class.clone(), &schema.to_stored()), Ok(schema));
    }

    #[test]
    fn edits_are_checked() {
        let edit = |add: &[(&str, FieldType)], remove: &[&str]| {
            let add = add.iter().map(|(name, field)| ((*name).into(), field.clone(), FieldOptions::default()));
            let remove_fields = remove.iter().map(|name| CompactString::from(*name)).collect();
            schema().edited(&SchemaChanges { add_fields: add.collect(), remove_fields, ..SchemaChanges::default() })
        };
        assert!(edit(&[("new", FieldType::Date)], &["text"]).is_ok());
        assert_eq!(edit(&[("text", FieldType::String)], &[]), Ok(schema()));
        assert_eq!(edit(&[("text", FieldType::Date)], &[]).unwrap_err().code.number(), 255);
        let sessions = FieldType::Pointer(ClassName::SESSION);
        assert_eq!(edit(&[("sender", sessions)], &[]).unwrap_err().code.number(), 111);
        assert_eq!(edit(&[], &["nope"]).unwrap_err().code.number(), 255);
        assert_eq!(edit(&[], &["createdAt"]).unwrap_err().code.number(), 136);
        assert_eq!(edit(&[("_x", FieldType::Date)], &[]).unwrap_err().code.number(), 105);
        assert!(edit(&[("text", FieldType::Number)], &["text"]).is_ok(), "remove and add changes the type");
    }

    #[test]
    fn options_come_and_go_with_their_field() {
        let edit = |schema: &ClassSchema, name: &str, field_type: FieldType, options: FieldOptions| {
            let add_fields = vec![(name.into(), field_type, options)];
            schema.edited(&SchemaChanges { add_fields, ..SchemaChanges::default() })
        };
        let options = |required, default: Option<Value>| FieldOptions { required, default };
        let with = edit(&schema(), "text", FieldType::String, options(true, Some("?".into()))).unwrap();
        assert_eq!(with.options.get("text"), Some(&options(true, Some("?".into()))));
        assert_eq!(edit(&with, "text", FieldType::String, FieldOptions::default()), Ok(schema()));
        let remove_fields = vec!["text".into()];
        let without = with.edited(&SchemaChanges { remove_fields, ..SchemaChanges::default() }).unwrap();
        assert!(without.options.is_empty());
        let message = |outcome: Result<ClassSchema, Error>| outcome.unwrap_err().message.into_owned();
        assert_eq!(
            message(edit(&schema(), "n", FieldType::Number, options(false, Some("1".into())))),
            "schema mismatch for Message.n default value; expected Number but got String"
        );
        assert_eq!(
            message(edit(&schema(), "r", FieldType::Relation(ClassName::USER), options(true, None))),
            "The 'required' option is not applicable for Relation<_User>"
        );
    }

    #[test]
    fn an_index_goes_with_its_fields() {
        let mut schema = schema();
        for field in ["text", "_email_verify_token"] {
            schema.indexes.insert(field.into(), Index::from_map(&tidings_protocol::map! { field => 1.0 }).unwrap());
        }
        let remove = |fields: &[&str], indexes: &[&str]| {
            let names = |names: &[&str]| names.iter().map(|name| CompactString::from(*name)).collect();
            let (remove_fields, remove_indexes) = (names(fields), names(indexes));
            let edited =
                schema.edited(&SchemaChanges { remove_fields, remove_indexes, ..SchemaChanges::default() }).unwrap();
            edited.indexes.into_keys().collect::<Vec<_>>().join(" ")
        };
        // The other index never had a field.
        assert_eq!(remove(&["text"], &[]), "_email_verify_token");
        assert_eq!(remove(&["text"], &["text"]), "_email_verify_token");
        assert_eq!(remove(&["sender"], &[]), "_email_verify_token text");
        let again = vec![("again".into(), schema.indexes["text"].clone())];
        let refused = schema.edited(&SchemaChanges { add_indexes: again, ..SchemaChanges::default() });
        assert_eq!(refused.unwrap_err().message, "Index again would be the same as index text.");
    }
}
