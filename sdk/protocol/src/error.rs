//! Parse's error codes: every failure that a client can see carries one of them.

use std::borrow::Cow;
use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure as a client sees it: Parse's code and a sentence for a person.
///
/// ```
/// use tidings_protocol::{Code, Error};
/// let error = Error::new(Code::ObjectNotFound, "Object not found.");
/// assert_eq!(error.code.number(), 101);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    pub code: Code,
    pub message: Cow<'static, str>,
}

impl Error {
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }

    /// 107, the code for input that is JSON but not what the protocol says.
    pub fn invalid_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidJson, message)
    }

    /// 102, the code for a query that cannot be understood.
    pub fn invalid_query(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidQuery, message)
    }

    /// 111, the code for a value of the wrong type.
    pub fn incorrect_type(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::IncorrectType, message)
    }

    /// 105, the code for a field name that cannot be.
    pub fn invalid_key_name(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidKeyName, message)
    }

    /// `{"code":…,"error":…}`, the body of every Parse error.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"code\":");
        out.extend_from_slice(itoa::Buffer::new().format(self.code.number()).as_bytes());
        out.extend_from_slice(b",\"error\":");
        crate::value::write_json_string(&self.message, out);
        out.push(b'}');
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.message, self.code.number())
    }
}

impl std::error::Error for Error {}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// The error codes of the Parse protocol that this implementation raises or passes on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
            /// Any other number, as cloud code may choose it.
            Custom(i32),
        }

        impl Code {
            pub fn number(self) -> i32 {
                match self {
                    $(Self::$name => $number,)*
                    Self::Custom(number) => number,
                }
            }

            pub fn from_number(number: i32) -> Self {
                match number {
                    $($number => Self::$name,)*
                    other => Self::Custom(other),
                }
            }
        }
    };
}

codes! {
    OtherCause = -1,
    InternalServerError = 1,
    /// Also the code of a request refused by a rate limit (with HTTP 429).
    ConnectionFailed = 100,
    /// Absent, or hidden by its ACL: Parse does not tell which. Also a failed log-in.
    ObjectNotFound = 101,
    InvalidQuery = 102,
    InvalidClassName = 103,
    MissingObjectId = 104,
    InvalidKeyName = 105,
    InvalidPointer = 106,
    InvalidJson = 107,
    CommandUnavailable = 108,
    IncorrectType = 111,
    ObjectTooLarge = 116,
    OperationForbidden = 119,
    InvalidNestedKey = 121,
    InvalidFileName = 122,
    InvalidAcl = 123,
    Timeout = 124,
    InvalidEmailAddress = 125,
    FileSaveError = 130,
    /// A required field is missing (schema class name, target class of a pointer).
    MissingField = 135,
    /// A default field cannot be changed.
    ImmutableField = 136,
    DuplicateValue = 137,
    ScriptFailed = 141,
    ValidationError = 142,
    RequestLimitExceeded = 155,
    DuplicateRequest = 159,
    InvalidValue = 162,
    UsernameMissing = 200,
    PasswordMissing = 201,
    UsernameTaken = 202,
    EmailTaken = 203,
    EmailMissing = 204,
    EmailNotFound = 205,
    SessionMissing = 206,
    AccountAlreadyLinked = 208,
    InvalidSessionToken = 209,
    UnsupportedService = 252,
    InvalidSchemaOperation = 255,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_and_its_number_agree() {
        for number in -1..=260 {
            assert_eq!(Code::from_number(number).number(), number);
        }
        assert_eq!(Code::from_number(101), Code::ObjectNotFound);
        assert_eq!(Code::from_number(4242), Code::Custom(4242));
    }
}
