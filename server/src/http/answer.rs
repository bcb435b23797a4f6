//! What goes back: status, JSON, and Parse's headers on every answer, errors included.

use crate::error::Failure;
use bytes::Bytes;
use tidings_protocol::{Code, Error};
use warp::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, CONTENT_TYPE, HeaderValue, LOCATION,
};
use warp::http::{Response, StatusCode};

#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    pub content_type: &'static str,
    /// Where a created object can be found.
    pub location: Option<String>,
}

/// Parse's list, and the headers that Parse forgot although its SDKs send them from browsers.
const ALLOWED_HEADERS: &str = "X-Parse-Master-Key, X-Parse-REST-API-Key, X-Parse-Javascript-Key, \
    X-Parse-Application-Id, X-Parse-Client-Version, X-Parse-Session-Token, X-Requested-With, \
    X-Parse-Revocable-Session, X-Parse-Request-Id, Content-Type, Pragma, Cache-Control, X-Parse-Client-Key, \
    X-Parse-Installation-Id, X-Parse-Cloud-Context, X-Parse-Upload-Mode, X-Parse-Maintenance-Key, Authorization";

impl Answer {
    pub(super) fn json(status: u16, body: Vec<u8>) -> Self {
        Self { status, body, content_type: "application/json; charset=utf-8", location: None }
    }

    pub(super) fn empty_object() -> Self {
        Self::json(200, b"{}".to_vec())
    }

    pub(super) fn failure(failure: &Failure) -> Self {
        let mut body = Vec::with_capacity(64);
        match failure {
            Failure::Unauthorized => body.extend_from_slice(br#"{"error":"unauthorized"}"#),
            Failure::MasterKeyRequired => body.extend_from_slice(br#"{"error":"Permission denied"}"#),
            Failure::NoRoute => {
                body.extend_from_slice(br#"{"error":"There is nothing at this path for this method."}"#)
            }
            Failure::Parse(error) => error.write_json(&mut body),
            Failure::Internal(reason) => {
                tracing::error!(reason, "a request failed on our side");
                failure.to_error().write_json(&mut body);
            }
        }
        Self::json(failure.status(), body)
    }

    pub(super) fn body_too_large() -> Self {
        let mut body = Vec::new();
        Error::invalid_json("The request body could not be read, or is too large.").write_json(&mut body);
        Self::json(413, body)
    }

    pub(super) fn too_busy() -> Self {
        let mut body = Vec::new();
        let message = "Too many large requests at a time, try again later.";
        Error::new(Code::RequestLimitExceeded, message).write_json(&mut body);
        Self::json(503, body)
    }

    pub(super) fn into_response(self) -> warp::reply::Response {
        let mut response = Response::new(Bytes::from(self.body).into());
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET,PUT,POST,DELETE,OPTIONS"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED_HEADERS));
        headers.insert(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("X-Parse-Job-Status-Id, X-Parse-Push-Status-Id"),
        );
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
        if let Some(location) = self.location.and_then(|location| HeaderValue::from_str(&location).ok()) {
            headers.insert(LOCATION, location);
        }
        response
    }
}
