//! Every failure that a client can see: Parse's errors, and the few that Parse answers without a code.

use crate::storage::{Refused, Unavailable, WriteError};
use tidings_protocol::{Code, Error};

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// A Parse error, told to the client as it is.
    Parse(Error),
    /// Unknown application, wrong key, or a key from an address where it does not count. Told without a code.
    Unauthorized,
    /// Only the master key may do this. Told without a code.
    MasterKeyRequired,
    /// No such route.
    NoRoute,
    /// The server itself failed. The client learns nothing but that; the text is for the log.
    Internal(String),
}

pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub fn parse(code: Code, message: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self::Parse(Error::new(code, message))
    }

    /// 101: absent, or hidden; Parse does not tell which.
    pub fn object_not_found() -> Self {
        Self::parse(Code::ObjectNotFound, "Object not found.")
    }

    /// 119, in Parse's sober words.
    pub fn forbidden() -> Self {
        Self::parse(Code::OperationForbidden, "Permission denied")
    }

    /// 119: what a write was decided on is no longer so.
    pub fn unexpected() -> Self {
        Self::parse(Code::OperationForbidden, "The object changed in the meantime. Please try again.")
    }

    pub fn invalid_session() -> Self {
        Self::parse(Code::InvalidSessionToken, "Invalid session token")
    }

    /// The HTTP status. Only a fault of ours is a 5xx: clients repeat those.
    pub fn status(&self) -> u16 {
        match self {
            Self::Parse(error) => status_of(error.code),
            Self::Unauthorized | Self::MasterKeyRequired => 403,
            Self::NoRoute => 404,
            Self::Internal(_) => 500,
        }
    }

    /// The error as batches, hooks and live frames carry it: always with a code.
    pub fn to_error(&self) -> Error {
        match self {
            Self::Parse(error) => error.clone(),
            Self::Unauthorized => Error::new(Code::OperationForbidden, "unauthorized"),
            Self::MasterKeyRequired => Error::new(Code::OperationForbidden, "Permission denied"),
            Self::NoRoute => Error::invalid_json("cannot route"),
            Self::Internal(_) => Error::new(Code::InternalServerError, "Internal server error."),
        }
    }
}

/// The HTTP status of a Parse error.
pub fn status_of(code: Code) -> u16 {
    match code {
        Code::InternalServerError => 500,
        Code::ObjectNotFound => 404,
        Code::ConnectionFailed => 429,
        _ => 400,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Parse(error)
    }
}

impl From<crate::permissions::Denied> for Failure {
    fn from(denied: crate::permissions::Denied) -> Self {
        Self::Parse(denied.into())
    }
}

impl From<Unavailable> for Failure {
    fn from(Unavailable(reason): Unavailable) -> Self {
        Self::Internal(reason)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        refused.error.into()
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::NotFound => Self::object_not_found(),
            WriteError::Exists => Self::parse(Code::DuplicateValue, "An object with this id exists already."),
            WriteError::Duplicate { field } => {
                let message = format!("A duplicate value for a field with unique values was provided: {field}");
                Self::parse(Code::DuplicateValue, message)
            }
            WriteError::Unexpected => Self::unexpected(),
            WriteError::Rejected(error) => Self::Parse(error),
            WriteError::Unavailable(Unavailable(reason)) => Self::Internal(reason),
        }
    }
}
