//! What a class asks of a field beyond its type: that there is a value, and which one where nobody gives it.

use super::class::ClassSchema;
use super::fields::FieldType;
use compact_str::CompactString;
use tidings_protocol::names::ClassName;
use tidings_protocol::update::{Operation, Update};
use tidings_protocol::value::{Map, Value};
use tidings_protocol::{Code, Error};

/// Parse's options of a field.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct FieldOptions {
    /// An object has a value here, and no empty text.
    pub required: bool,
    /// What a new object gets that comes without a value.
    pub default: Option<Value>,
}

/// Sign-up takes them out of the object, and has rules of its own for them.
const NOT_IN_OBJECTS: [&str; 2] = ["password", "authData"];

impl FieldOptions {
    /// Reads `{"type": "Number", "required": true, "defaultValue": 1}`.
    ///
    /// # Errors
    /// 111 for a `required` that is not true or false.
    pub fn from_map(field: &Map) -> Result<Self, Error> {
        match field.get("required") {
            None | Some(Value::Null | Value::Bool(_)) => Ok(Self::from_stored(field)),
            Some(_) => Err(Error::incorrect_type("required must be true or false")),
        }
    }

    /// The same for what others may have stored: as in Parse Server, nothing but true requires a value.
    pub fn from_stored(field: &Map) -> Self {
        let required = field.get("required") == Some(&Value::Bool(true));
        Self { required, default: field.get("defaultValue").filter(|value| !value.is_null()).cloned() }
    }

    /// The members that say it.
    pub fn to_map(&self) -> Map {
        let required = self.required.then(|| ("required".into(), Value::Bool(true)));
        let default = self.default.clone().map(|value| ("defaultValue".into(), value));
        required.into_iter().chain(default).collect()
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks that a field of this type can have the options.
    ///
    /// # Errors
    /// 111 for options of a relation, and for a default of another type; 121 for keys in it that no value may have.
    pub fn check(&self, class: &ClassName, name: &str, field_type: &FieldType) -> Result<(), Error> {
        let (expected, refuse) = (field_type.describe(), |message: String| Err(Error::incorrect_type(message)));
        if matches!(field_type, FieldType::Relation(_)) && !self.is_empty() {
            let option = if self.default.is_some() { "default value" } else { "required" };
            return refuse(format!("The '{option}' option is not applicable for {expected}"));
        }
        let Some(default) = &self.default else { return Ok(()) };
        if let Some(given) = FieldType::of(default).filter(|given| given != field_type) {
            let given = given.describe();
            return refuse(format!(
                "schema mismatch for {class}.{name} default value; expected {expected} but got {given}"
            ));
        }
        // As what a client would send.
        match Operation::from_value(default.clone())? {
            Operation::Set(_) => Ok(()),
            _ => refuse(format!("the default value of {class}.{name} is an operation")),
        }
    }
}

impl ClassSchema {
    /// Gives a new object the values that it came without. Says which.
    ///
    /// # Errors
    /// 142 for a field that must have a value and has none.
    pub fn complete(&self, fields: &mut Map) -> Result<Vec<CompactString>, Error> {
        let mut given = Vec::new();
        for (name, options) in self.options.iter().filter(|(name, _)| !NOT_IN_OBJECTS.contains(&name.as_str())) {
            match (fields.get(name), &options.default) {
                (None, Some(default)) => {
                    fields.insert(name.clone(), default.clone());
                    given.push(name.clone());
                }
                (value, _) if options.required && value.is_none_or(is_empty) => return Err(required(name)),
                _ => {}
            }
        }
        Ok(given)
    }

    /// # Errors
    /// 142 for an update that takes away a value that must be there.
    pub fn check_required(&self, update: &Update) -> Result<(), Error> {
        let is_required = |name: &str| self.options.get(name).is_some_and(|options| options.required);
        let empties = |operation: &Operation| match operation {
            Operation::Set(value) => is_empty(value),
            operation => matches!(operation, Operation::Delete),
        };
        let emptied = update.operations.iter().find(|(path, operation)| is_required(path) && empties(operation));
        emptied.map_or(Ok(()), |(path, _)| Err(required(path)))
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("")
}

fn required(name: &str) -> Error {
    Error::new(Code::ValidationError, format!("{name} is required"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(json: &str) -> Map {
        Map::from_json(json.as_bytes()).unwrap()
    }

    fn schema(options: &str) -> ClassSchema {
        let mut schema = ClassSchema::new(ClassName::from_trusted("Note"));
        for (name, field) in map(options) {
            schema.options.insert(name, FieldOptions::from_map(field.as_object().unwrap()).unwrap());
        }
        schema
    }

    #[test]
    fn a_new_object_gets_what_it_came_without() {
        let schema =
            schema(r#"{"n":{"defaultValue":1},"s":{"required":true,"defaultValue":"x"},"t":{"required":true}}"#);
        let complete = |json: &str| {
            let mut fields = map(json);
            schema.complete(&mut fields).map(|given| (given.join(" "), fields.to_json()))
        };
        assert_eq!(complete(r#"{"t":1}"#), Ok(("n s".into(), r#"{"t":1,"n":1,"s":"x"}"#.into())));
        // An explicit null is no missing value.
        assert_eq!(complete(r#"{"t":1,"n":null,"s":"y"}"#), Ok((String::new(), r#"{"t":1,"n":null,"s":"y"}"#.into())));
        for (json, name) in [(r#"{}"#, "t"), (r#"{"t":null}"#, "t"), (r#"{"t":""}"#, "t"), (r#"{"t":1,"s":""}"#, "s")] {
            assert_eq!(complete(json), Err(required(name)), "{json}");
        }
    }

    #[test]
    fn a_required_value_is_not_taken_away() {
        let schema = schema(r#"{"t":{"required":true}}"#);
        let check = |json: &str| schema.check_required(&Update::from_map(map(json)).unwrap()).is_ok();
        assert!(check(r#"{"t":1,"n":null}"#) && check("{}") && check(r#"{"t.x":{"__op":"Delete"}}"#));
        assert!(check(r#"{"t":{"__op":"Increment","amount":1}}"#));
        for json in [r#"{"t":null}"#, r#"{"t":""}"#, r#"{"t":{"__op":"Delete"}}"#] {
            assert!(!check(json), "{json}");
        }
    }
}
