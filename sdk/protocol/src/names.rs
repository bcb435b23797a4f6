//! The names of things: classes, objects and fields, and which names are allowed.

use crate::error::{Code, Error, Result};
use crate::value::MAX_DEPTH;
use compact_str::{CompactString, format_compact};
use std::fmt;
use std::ops::Deref;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(CompactString);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }

            pub fn into_inner(self) -> CompactString {
                self.0
            }
        }

        impl Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// The name of a class. A parsed one is valid: a letter, then letters, digits and `_`; or a system class (`_User`).
    ClassName
}

name! {
    /// The id of an object within its class: any non-empty string on reading, ten letters and digits when we make it.
    ObjectId
}

/// Classes that exist without being created. Every other name that begins with `_` is refused.
const SYSTEM_CLASSES: [&str; 13] = [
    "_User",
    "_Session",
    "_Role",
    "_Installation",
    "_Product",
    "_PushStatus",
    "_JobStatus",
    "_JobSchedule",
    "_Hooks",
    "_GlobalConfig",
    "_GraphQLConfig",
    "_Audience",
    "_Idempotency",
];

/// What the classes of relations begin with.
const RELATION: &str = "_Join:";

/// Longer names serve nobody, and names are part of every index key.
const MAX_NAME: usize = 128;

impl ClassName {
    pub const USER: Self = Self(CompactString::const_new("_User"));
    pub const SESSION: Self = Self(CompactString::const_new("_Session"));

    /// # Errors
    /// 103 if the name is not one that a class may have.
    pub fn parse(name: &str) -> Result<Self> {
        if SYSTEM_CLASSES.contains(&name) || (is_identifier(name) && !DENIED_WORDS.contains(&name)) {
            Ok(Self(name.into()))
        } else {
            Err(Error::new(
                Code::InvalidClassName,
                format!(
                    "Invalid classname: {}, classnames can only have alphanumeric characters and _, \
                     and must start with an alpha character ",
                    shortened(name)
                ),
            ))
        }
    }

    /// Trusts that the name was checked before, as in stored bytes.
    pub fn from_trusted(name: impl Into<CompactString>) -> Self {
        Self(name.into())
    }

    pub fn is_system(&self) -> bool {
        self.0.starts_with('_')
    }

    /// The class of a relation's members: an object of it for each pair of an owner and a member. Clients never name it.
    ///
    /// ```
    /// # use tidings_protocol::ClassName;
    /// let likes = ClassName::of_relation("likes", &ClassName::USER);
    /// assert!(likes.as_str() == "_Join:likes:_User" && likes.is_relation() && ClassName::parse(&likes).is_err());
    /// ```
    pub fn of_relation(key: &str, owner: &Self) -> Self {
        Self(format_compact!("{RELATION}{key}:{owner}"))
    }

    pub fn is_relation(&self) -> bool {
        self.0.starts_with(RELATION)
    }
}

impl ObjectId {
    pub fn new(id: impl Into<CompactString>) -> Self {
        Self(id.into())
    }
}

/// Words that Parse denies as keys anywhere in a payload (`requestKeywordDenylist`).
pub const DENIED_WORDS: [&str; 2] = ["constructor", "__proto__"];

/// Whether a client may name a field so: a letter, then letters, digits and `_`.
///
/// ```
/// use tidings_protocol::names::is_field_name;
/// assert!(is_field_name("lastMessageAt"));
/// assert!(!is_field_name("_hashed_password") && !is_field_name("a.b") && !is_field_name("length"));
/// ```
pub fn is_field_name(name: &str) -> bool {
    is_identifier(name) && name != "length" && name != "className" && !DENIED_WORDS.contains(&name)
}

/// How many parts a path may have: no value is stored so deep inside others. MongoDB fails on a path of 200.
const MAX_PATH: usize = MAX_DEPTH + 1;

pub fn is_too_long_path(path: &str) -> bool {
    path.bytes().filter(|byte| *byte == b'.').count() >= MAX_PATH
}

/// Whether `a.b.0.c` addresses a field, or something inside an object or array field.
pub fn is_field_path(path: &str) -> bool {
    let mut segments = path.split('.');
    !is_too_long_path(path) && segments.next().is_some_and(is_field_name) && segments.all(is_nested_key)
}

/// Whether something inside an object or array may be addressed so. What would make an object into something else when
/// it is read again (`__type`, `__op`) cannot.
fn is_nested_key(segment: &str) -> bool {
    !segment.is_empty()
        && segment.len() <= MAX_NAME
        && !segment.contains(['$', '\0'])
        && !["__type", "__op"].contains(&segment)
        && !DENIED_WORDS.contains(&segment)
}

/// Fields that begin with `_` are the server's own: clients neither name nor see them.
pub fn is_internal_field(name: &str) -> bool {
    name.starts_with('_')
}

pub fn invalid_field_name(name: &str) -> Error {
    if is_too_long_path(name) {
        return Error::invalid_key_name(format!("A path has at most {MAX_PATH} parts: {}", shortened(name)));
    }
    Error::invalid_key_name(format!("Invalid field name: {}.", shortened(name)))
}

/// A client's text as quoted back in an error: never long.
pub fn shortened(text: &str) -> CompactString {
    match text.char_indices().nth(80) {
        Some((end, _)) => compact_str::format_compact!("{}…", &text[..end]),
        None => text.into(),
    }
}

fn is_identifier(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.as_bytes().first().is_some_and(u8::is_ascii_alphabetic)
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_names() {
        for good in ["Message", "a1_b", "_User", "_Session"] {
            assert!(ClassName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "1a", "_Nope", "a-b", "a b", "ä", "constructor", "__proto__", "a.b", "a/b", "a?limit=1"] {
            assert_eq!(ClassName::parse(bad).unwrap_err().code, Code::InvalidClassName, "{bad}");
        }
        assert!(ClassName::parse(&"a".repeat(129)).is_err());
    }

    #[test]
    fn field_paths() {
        for good in ["a", "a.b", "a.0.b", "o.b-c"] {
            assert!(is_field_path(good), "{good}");
        }
        for bad in
            ["", ".", "a.", ".a", "a..b", "_a", "a.$b", "$a", "1a", "a.__type", "a.b.__op", "a.__proto__", "a.b\0"]
        {
            assert!(!is_field_path(bad), "{bad}");
        }
    }

    #[test]
    fn a_path_is_not_longer_than_values_are_deep() {
        let path = |parts: usize| vec!["a"; parts].join(".");
        assert!(is_field_path(&path(MAX_PATH)) && !is_field_path(&path(MAX_PATH + 1)));
        let error = invalid_field_name(&path(MAX_PATH + 1));
        assert!(error.code == Code::InvalidKeyName && error.message.starts_with("A path has at most 65 parts: a.a"));
    }
}
