//! Class-level permissions: which operations a class allows to whom, and which of its fields are hidden.

use super::Principals;
use std::collections::BTreeMap;
use tidings_protocol::names::{is_field_name, shortened};
use tidings_protocol::value::{Map, Value};
use tidings_protocol::{Code, Error};

/// What can be done with a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    Find,
    Count,
    Get,
    Create,
    Update,
    Delete,
    AddField,
}

impl Operation {
    const ALL: [Self; 7] =
        [Self::Find, Self::Count, Self::Get, Self::Create, Self::Update, Self::Delete, Self::AddField];

    pub fn name(self) -> &'static str {
        match self {
            Self::Find => "find",
            Self::Count => "count",
            Self::Get => "get",
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::AddField => "addField",
        }
    }
}

/// Who may do one thing. The default is nobody but the master key.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Allowed {
    everybody: bool,
    authenticated: bool,
    users: Vec<String>,
}

/// The permissions of one class, as `classLevelPermissions` of its schema.
///
/// An operation that stored permissions do not mention is for the master key only; a class for which nothing was ever
/// stored allows everything ([`ClassLevelPermissions::public`]).
#[derive(Clone, Debug, PartialEq)]
pub struct ClassLevelPermissions {
    operations: BTreeMap<Operation, Allowed>,
    /// Hidden fields by group (`*`, `authenticated`, a user id).
    protected_fields: BTreeMap<String, Vec<String>>,
    /// Whether the default ACL of new objects is listed. Parse lists it where nothing was ever set, or where it was sent.
    lists_acl: bool,
}

/// Why an operation is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Nobody like this may.
    Forbidden,
    /// A logged-in user might.
    NeedsUser,
}

impl From<Denied> for Error {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Forbidden => Self::new(Code::OperationForbidden, "Permission denied"),
            Denied::NeedsUser => Self::new(Code::ObjectNotFound, "Permission denied, user needs to be authenticated."),
        }
    }
}

impl ClassLevelPermissions {
    /// Everything is allowed to everybody.
    pub fn public() -> Self {
        let everybody = Allowed { everybody: true, ..Allowed::default() };
        Self {
            operations: Operation::ALL.into_iter().map(|operation| (operation, everybody.clone())).collect(),
            protected_fields: BTreeMap::from([("*".to_owned(), Vec::new())]),
            lists_acl: true,
        }
    }

    /// Nothing is allowed to anybody but the master key.
    pub fn closed() -> Self {
        Self { operations: BTreeMap::new(), protected_fields: BTreeMap::new(), lists_acl: false }
    }

    /// Hides fields of a group in addition to those hidden already.
    #[must_use]
    pub fn protecting(mut self, group: &str, field: &str) -> Self {
        let fields = self.protected_fields.entry(group.to_owned()).or_default();
        if !fields.iter().any(|known| known == field) {
            fields.push(field.to_owned());
        }
        self
    }

    /// # Errors
    /// Why these principals may not do this.
    pub fn check(&self, operation: Operation, who: &Principals) -> Result<(), Denied> {
        if who.master {
            return Ok(());
        }
        let allowed = self.operations.get(&operation).ok_or(Denied::Forbidden)?;
        match &who.user {
            _ if allowed.everybody => Ok(()),
            Some(_) if allowed.authenticated => Ok(()),
            Some(user) if allowed.users.iter().any(|allowed| allowed == user.as_str()) => Ok(()),
            None if allowed.authenticated => Err(Denied::NeedsUser),
            _ => Err(Denied::Forbidden),
        }
    }

    /// The fields hidden from these principals: those that every group they belong to hides.
    pub fn hidden_from(&self, who: &Principals) -> Vec<&str> {
        if who.master {
            return Vec::new();
        }
        let belongs = |group: &str| group == "*" || who.user.is_some() && group == "authenticated" || who.is(group);
        let mut groups = self.protected_fields.iter().filter(|(group, _)| belongs(group)).map(|(_, fields)| fields);
        let Some(first) = groups.next() else { return Vec::new() };
        let mut hidden: Vec<&str> = first.iter().map(String::as_str).collect();
        for fields in groups {
            hidden.retain(|field| fields.iter().any(|other| other == field));
        }
        hidden
    }

    /// Reads `classLevelPermissions`. Operations that are not mentioned are closed.
    ///
    /// # Errors
    /// 107 for anything that is not understood; 102 for what Parse knows and Tidings does not yet.
    pub fn from_map(map: &Map) -> Result<Self, Error> {
        let mut permissions = Self { lists_acl: map.contains("ACL"), ..Self::closed() };
        for (key, value) in map.iter() {
            if matches!(key.as_str(), "readUserFields" | "writeUserFields") {
                return Err(not_supported(key));
            }
            let Some(map) = value.as_object() else { return Err(invalid(key)) };
            match key.as_str() {
                "protectedFields" => {
                    for (group, fields) in map.iter() {
                        check_group(group)?;
                        let names = fields.as_array().ok_or_else(|| invalid(key))?.iter().map(|field| {
                            let name = field.as_str().filter(|name| is_field_name(name)).ok_or_else(|| invalid(key))?;
                            if ["objectId", "createdAt", "updatedAt", "ACL"].contains(&name) {
                                return Err(Error::invalid_json(format!(
                                    "Default field '{name}' can not be protected"
                                )));
                            }
                            Ok(name.to_owned())
                        });
                        permissions.protected_fields.insert(group.to_string(), names.collect::<Result<_, _>>()?);
                    }
                }
                // Parse lists the default ACL here; only the public one is supported yet.
                "ACL" if *value == default_acl() => {}
                "ACL" => return Err(not_supported(key)),
                _ => {
                    let known = Operation::ALL.into_iter().find(|operation| operation.name() == key);
                    let operation = known.ok_or_else(|| invalid(key))?;
                    let allowed = Allowed::from_map(map)?;
                    // Nobody is what goes without saying: permissions that are alike are equal.
                    if allowed != Allowed::default() {
                        permissions.operations.insert(operation, allowed);
                    }
                }
            }
        }
        Ok(permissions)
    }

    pub fn to_map(&self) -> Map {
        let operations = Operation::ALL.into_iter().map(|operation| {
            let allowed = self.operations.get(&operation).map(Allowed::to_map).unwrap_or_default();
            (operation.name().into(), Value::Object(allowed))
        });
        let mut map: Map = operations.collect();
        if self.lists_acl {
            map.insert("ACL", default_acl());
        }
        let groups = self.protected_fields.iter().map(|(group, fields)| {
            (group.as_str().into(), Value::Array(fields.iter().map(|field| Value::from(field.as_str())).collect()))
        });
        map.insert("protectedFields", Value::Object(groups.collect()));
        map
    }

    pub fn protected_fields(&self) -> impl Iterator<Item = &str> {
        self.protected_fields.values().flatten().map(String::as_str)
    }
}

fn default_acl() -> Value {
    tidings_protocol::Acl::default().with("*", true, true).to_value()
}

fn not_supported(key: &str) -> Error {
    Error::invalid_query(format!("class-level {key} is not supported yet"))
}

fn invalid(key: &str) -> Error {
    Error::invalid_json(format!("'{}' is not a valid key for class level permissions", shortened(key)))
}

/// `*`, `authenticated` and user ids; roles come with roles.
fn check_group(group: &str) -> Result<(), Error> {
    if group.starts_with("role:") || group.starts_with("userField:") {
        return Err(Error::invalid_query(format!(
            "'{}' in class level permissions is not supported yet",
            shortened(group)
        )));
    }
    let is_id = !group.is_empty() && group.len() <= 64 && group.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_id || group == "*" { Ok(()) } else { Err(invalid(group)) }
}

impl Allowed {
    fn from_map(map: &Map) -> Result<Self, Error> {
        let mut allowed = Self::default();
        for (who, granted) in map.iter() {
            if who == "pointerFields" {
                return Err(Error::invalid_query("class-level pointerFields are not supported yet"));
            }
            if *granted != Value::Bool(true) {
                return Err(Error::invalid_json(format!(
                    "'{}' must be true in class level permissions",
                    shortened(who)
                )));
            }
            match who.as_str() {
                "*" => allowed.everybody = true,
                "requiresAuthentication" => allowed.authenticated = true,
                user => {
                    check_group(user)?;
                    allowed.users.push(user.to_owned());
                }
            }
        }
        Ok(allowed)
    }

    fn to_map(&self) -> Map {
        let mut map = Map::new();
        if self.everybody {
            map.insert("*", Value::Bool(true));
        }
        if self.authenticated {
            map.insert("requiresAuthentication", Value::Bool(true));
        }
        for user in &self.users {
            map.insert(user.as_str(), Value::Bool(true));
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidings_protocol::ObjectId;

    fn read(json: &str) -> Result<ClassLevelPermissions, Error> {
        ClassLevelPermissions::from_map(&Map::from_json(json.as_bytes()).unwrap())
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        let named =
            read(r#"{"find":{"*":true},"get":{},"create":{"alice":true},"protectedFields":{"*":["a"]}}"#).unwrap();
        for permissions in [named, ClassLevelPermissions::closed(), ClassLevelPermissions::public()] {
            assert_eq!(ClassLevelPermissions::from_map(&permissions.to_map()), Ok(permissions));
        }
    }

    #[test]
    fn operations_by_everybody_user_and_authenticated() {
        let permissions =
            read(r#"{"find":{"*":true},"get":{"requiresAuthentication":true},"create":{"alice":true}}"#).unwrap();
        let alice = Principals::user(ObjectId::new("alice"));
        let bob = Principals::user(ObjectId::new("bob"));
        let nobody = Principals::ANONYMOUS;
        for (operation, who, expected) in [
            (Operation::Find, &nobody, Ok(())),
            (Operation::Get, &nobody, Err(Denied::NeedsUser)),
            (Operation::Get, &bob, Ok(())),
            (Operation::Create, &alice, Ok(())),
            (Operation::Create, &bob, Err(Denied::Forbidden)),
            (Operation::Delete, &alice, Err(Denied::Forbidden)),
            (Operation::Delete, &Principals::MASTER, Ok(())),
        ] {
            assert_eq!(permissions.check(operation, who), expected, "{operation:?} {who:?}");
        }
        assert_eq!(read("{}").unwrap().check(Operation::Find, &alice), Err(Denied::Forbidden));
    }

    #[test]
    fn fields_are_hidden_that_every_group_hides() {
        let permissions =
            read(r#"{"protectedFields":{"*":["email","phone"],"authenticated":["email"],"alice":[]}}"#).unwrap();
        assert_eq!(permissions.hidden_from(&Principals::ANONYMOUS), ["email", "phone"]);
        assert_eq!(permissions.hidden_from(&Principals::user(ObjectId::new("bob"))), ["email"]);
        assert!(permissions.hidden_from(&Principals::user(ObjectId::new("alice"))).is_empty());
        assert!(permissions.hidden_from(&Principals::MASTER).is_empty());
    }

    #[test]
    fn json_reads_back() {
        for permissions in
            [ClassLevelPermissions::public(), read(r#"{"get":{"u1":true},"protectedFields":{"*":["a"]}}"#).unwrap()]
        {
            let again = ClassLevelPermissions::from_map(&permissions.to_map()).unwrap();
            assert_eq!(again.to_map(), permissions.to_map());
        }
        assert!(ClassLevelPermissions::public().to_map().contains("ACL"));
        assert!(!read(r#"{"find":{}}"#).unwrap().to_map().contains("ACL"), "nobody sent one");
    }

    #[test]
    fn malformed_permissions_are_refused() {
        for json in [
            r#"{"fly":{}}"#,
            r#"{"find":true}"#,
            r#"{"find":{"*":false}}"#,
            r#"{"find":{"a b":true}}"#,
            r#"{"protectedFields":{"*":["objectId"]}}"#,
        ] {
            assert_eq!(read(json).unwrap_err().code, Code::InvalidJson, "{json}");
        }
        assert_eq!(read(r#"{"find":{"role:x":true}}"#).unwrap_err().code, Code::InvalidQuery);
    }
}
