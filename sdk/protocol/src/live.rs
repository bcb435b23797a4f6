//! The frames of the LiveQuery socket, in both directions.

use crate::error::{Code, Error, Result};
use crate::names::{ClassName, invalid_field_name, is_field_path, is_too_long_path};
use crate::query::Predicate;
use crate::value::{Map, Value, write_json_string};
use compact_str::CompactString;

/// What a client says.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientFrame {
    Connect(Connect),
    Subscribe {
        request_id: i64,
        subscribe: Subscribe,
    },
    /// Replaces the subscription of this request id.
    Update {
        request_id: i64,
        subscribe: Subscribe,
    },
    Unsubscribe {
        request_id: i64,
    },
    /// Asks for the current results of a subscription.
    Query {
        request_id: i64,
    },
}

/// Empty texts count as absent: old mobile SDKs send them.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Connect {
    pub application_id: CompactString,
    pub javascript_key: Option<CompactString>,
    pub master_key: Option<CompactString>,
    pub client_key: Option<CompactString>,
    pub rest_key: Option<CompactString>,
    pub session_token: Option<CompactString>,
    pub installation_id: Option<CompactString>,
    /// Asks for a `checkpoint` now and then: a cursor also where nothing happens.
    pub checkpoints: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Subscribe {
    pub class: ClassName,
    pub predicate: Predicate,
    /// The fields to show; `None` shows all.
    pub keys: Option<Vec<CompactString>>,
    /// `update` and `create` are sent only if one of these fields changed; `None` sends them always.
    pub watch: Option<Vec<CompactString>>,
    pub session_token: Option<CompactString>,
    /// The cursor behind which the client wants to hear everything.
    pub resume_from: Option<CompactString>,
}

/// Why a frame was refused, and how the client should take it.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameError {
    pub error: Error,
    /// The request that failed, where the frame named one.
    pub request_id: Option<i64>,
    /// Whether the client should open a new connection.
    pub reconnect: bool,
}

/// The SDK compares this text and reconnects without an installation id.
pub const ADDITIONAL_PROPERTIES: &str = "Additional properties not allowed";

impl ClientFrame {
    /// Reads one text frame.
    ///
    /// # Errors
    /// Code 1 for a frame that breaks the protocol; Parse's code for a query that cannot be.
    pub fn parse(text: &[u8]) -> Result<Self, FrameError> {
        let map = match Value::from_json(text) {
            Ok(Value::Object(map)) => map,
            Ok(_) => return Err(broken("A frame must be a JSON object", None)),
            Err(error) => return Err(FrameError { error, request_id: request_id_of(text), reconnect: false }),
        };
        let request_id = map.get("requestId").and_then(whole);
        let refuse = |message: &'static str| broken(message, request_id);
        let Some(op) = map.get("op").and_then(Value::as_str) else { return Err(refuse("A frame needs an op")) };
        let allowed: &[&str] = match op {
            "connect" => &[
                "applicationId",
                "javascriptKey",
                "masterKey",
                "clientKey",
                "windowsKey",
                "restAPIKey",
                "sessionToken",
                "installationId",
                "additionalProperties",
                "checkpoints",
            ],
            "subscribe" => &["requestId", "query", "sessionToken", "resumeFrom"],
            "update" => &["requestId", "query", "sessionToken"],
            "unsubscribe" | "query" => &["requestId"],
            _ => return Err(refuse("Unknown op")),
        };
        if map.iter().any(|(name, _)| name != "op" && !allowed.contains(&name.as_str())) {
            return Err(refuse(ADDITIONAL_PROPERTIES));
        }
        let text = |name: &str| match map.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok((!text.is_empty()).then(|| text.clone())),
            Some(_) => Err(refuse("Keys, tokens and ids must be strings")),
        };
        if op == "connect" {
            return Ok(Self::Connect(Connect {
                application_id: text("applicationId")?.ok_or_else(|| refuse("connect needs an applicationId"))?,
                javascript_key: text("javascriptKey")?,
                master_key: text("masterKey")?,
                client_key: text("clientKey")?,
                rest_key: text("restAPIKey")?,
                session_token: text("sessionToken")?,
                installation_id: text("installationId")?,
                checkpoints: match map.get("checkpoints") {
                    None | Some(Value::Null) => false,
                    Some(Value::Bool(checkpoints)) => *checkpoints,
                    Some(_) => return Err(refuse("checkpoints must be true or false")),
                },
            }));
        }
        let request_id = request_id.ok_or_else(|| refuse("requestId must be a whole number"))?;
        match op {
            "unsubscribe" => return Ok(Self::Unsubscribe { request_id }),
            "query" => return Ok(Self::Query { request_id }),
            _ => {}
        }
        let Some(query) = map.get("query").and_then(Value::as_object) else {
            return Err(refuse("query must be an object"));
        };
        let subscribe = Subscribe {
            session_token: text("sessionToken")?,
            resume_from: read_cursor(map.get("resumeFrom"), request_id)?,
            ..read_subscribe(query, request_id)?
        };
        Ok(if op == "subscribe" {
            Self::Subscribe { request_id, subscribe }
        } else {
            Self::Update { request_id, subscribe }
        })
    }
}

/// What a cursor says is the server's; here it only has to be a text.
fn read_cursor(value: Option<&Value>, request_id: i64) -> Result<Option<CompactString>, FrameError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(cursor)) => Ok(Some(cursor.clone())),
        Some(_) => Err(FrameError::new(not_a_cursor(), Some(request_id))),
    }
}

/// The answer to a `resumeFrom` that no server has given out. The connection goes on.
pub fn not_a_cursor() -> Error {
    Error::new(Code::InvalidJson, "resumeFrom must be a cursor that a frame has named")
}

fn read_subscribe(query: &Map, request_id: i64) -> Result<Subscribe, FrameError> {
    let refuse = |message: &'static str| broken(message, Some(request_id));
    let invalid = |error: Error| FrameError { error, request_id: Some(request_id), reconnect: false };
    if query.iter().any(|(name, _)| !["className", "where", "keys", "fields", "watch"].contains(&name.as_str())) {
        return Err(refuse(ADDITIONAL_PROPERTIES));
    }
    let class = query.get("className").and_then(Value::as_str).ok_or_else(|| refuse("query needs a className"))?;
    let predicate = query.get("where").and_then(Value::as_object).ok_or_else(|| refuse("query needs a where"))?;
    let names = |name: &str| match query.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) if (1..=MAX_NAMES).contains(&items.len()) => {
            let names: Option<Vec<CompactString>> = items.iter().map(|item| Some(item.as_str()?.into())).collect();
            let unique = |names: &Vec<CompactString>| (1..names.len()).all(|at| !names[..at].contains(&names[at]));
            let names = names.filter(unique);
            names.map(Some).ok_or_else(|| refuse("keys and watch must list field names, each once"))
        }
        Some(_) => Err(refuse("keys and watch must list field names, each once")),
    };
    let keys = match names("keys")? {
        // The old name of `keys`, which Flutter's SDK still sends.
        None => names("fields")?,
        keys => keys,
    };
    Ok(Subscribe {
        class: ClassName::parse(class).map_err(invalid)?,
        predicate: Predicate::from_map(predicate).map_err(invalid)?,
        keys: match keys.iter().flatten().find(|path| is_too_long_path(path)) {
            Some(path) => return Err(invalid(invalid_field_name(path))),
            None => keys,
        },
        watch: match names("watch")? {
            // What a watch notices, its client learns.
            Some(paths) => match paths.iter().find(|path| !is_field_path(path)) {
                Some(path) => return Err(invalid(invalid_field_name(path))),
                None => Some(paths),
            },
            None => None,
        },
        session_token: None,
        resume_from: None,
    })
}

/// How many fields `keys` and `watch` may list.
const MAX_NAMES: usize = 1_000;

fn broken(message: &'static str, request_id: Option<i64>) -> FrameError {
    FrameError { error: Error::new(Code::InternalServerError, message), request_id, reconnect: true }
}

fn whole(value: &Value) -> Option<i64> {
    value.as_number().filter(|number| number.fract() == 0.0 && number.abs() < 9e15).map(|number| number as i64)
}

/// A frame may be JSON and still hold a value that cannot be; its request then still gets the answer.
fn request_id_of(text: &[u8]) -> Option<i64> {
    let json: serde_json::Value = serde_json::from_slice(text).ok()?;
    json.get("requestId")?.as_i64()
}

/// What happened to an object, as one subscription sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    Create,
    Enter,
    Update,
    Leave,
    Delete,
}

impl Event {
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Enter => "enter",
            Self::Update => "update",
            Self::Leave => "leave",
            Self::Delete => "delete",
        }
    }
}

/// Who a frame is for: the ids that every frame of one connection repeats.
#[derive(Clone, Debug, PartialEq)]
pub struct Addressee {
    pub client_id: CompactString,
    pub installation_id: Option<CompactString>,
}

impl Addressee {
    /// The beginning of a frame, without its closing brace.
    ///
    /// ```
    /// use tidings_protocol::live::Addressee;
    /// let addressee = Addressee { client_id: "c".into(), installation_id: None };
    /// assert_eq!(addressee.head("subscribed", Some(1)), br#"{"op":"subscribed","clientId":"c","requestId":1"#);
    /// ```
    pub fn head(&self, op: &str, request_id: Option<i64>) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(b"{\"op\":");
        write_json_string(op, &mut out);
        out.extend_from_slice(b",\"clientId\":");
        write_json_string(&self.client_id, &mut out);
        if let Some(installation_id) = &self.installation_id {
            out.extend_from_slice(b",\"installationId\":");
            write_json_string(installation_id, &mut out);
        }
        if let Some(request_id) = request_id {
            out.extend_from_slice(b",\"requestId\":");
            out.extend_from_slice(itoa::Buffer::new().format(request_id).as_bytes());
        }
        out
    }

    /// A whole frame that carries nothing but its op: `connected`, `subscribed`, `unsubscribed`.
    pub fn plain(&self, op: &str, request_id: Option<i64>) -> Vec<u8> {
        let mut out = self.head(op, request_id);
        out.push(b'}');
        out
    }
}

impl FrameError {
    pub fn new(error: Error, request_id: Option<i64>) -> Self {
        Self { error, request_id, reconnect: false }
    }

    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(b"{\"op\":\"error\",\"error\":");
        write_json_string(&self.error.message, &mut out);
        out.extend_from_slice(b",\"code\":");
        out.extend_from_slice(itoa::Buffer::new().format(self.error.code.number()).as_bytes());
        out.extend_from_slice(if self.reconnect { b",\"reconnect\":true" } else { b",\"reconnect\":false" });
        out.extend_from_slice(b",\"requestId\":");
        match self.request_id {
            Some(request_id) => out.extend_from_slice(itoa::Buffer::new().format(request_id).as_bytes()),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b'}');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_the_sdk() {
        let connect =
            br#"{"op":"connect","applicationId":"app","javascriptKey":"k","sessionToken":"","installationId":"i"}"#;
        let Ok(ClientFrame::Connect(connect)) = ClientFrame::parse(connect) else { panic!() };
        assert_eq!((connect.application_id.as_str(), connect.session_token), ("app", None));
        let subscribe = br#"{"op":"subscribe","requestId":1,"query":{"className":"Note","where":{"n":{"$gt":1}},"keys":["n"],"watch":["n"]},"sessionToken":"r:x"}"#;
        let Ok(ClientFrame::Subscribe { request_id: 1, subscribe }) = ClientFrame::parse(subscribe) else { panic!() };
        assert_eq!((subscribe.keys, subscribe.resume_from), (Some(vec!["n".into()]), None));
        let resume = br#"{"op":"subscribe","requestId":1,"query":{"className":"A","where":{}},"resumeFrom":"t.1"}"#;
        let Ok(ClientFrame::Subscribe { subscribe, .. }) = ClientFrame::parse(resume) else { panic!() };
        assert_eq!(subscribe.resume_from.as_deref(), Some("t.1"));
        let connect = br#"{"op":"connect","applicationId":"app","checkpoints":true}"#;
        let Ok(ClientFrame::Connect(connect)) = ClientFrame::parse(connect) else { panic!() };
        assert!(connect.checkpoints);
        assert_eq!(
            ClientFrame::parse(br#"{"op":"unsubscribe","requestId":3}"#),
            Ok(ClientFrame::Unsubscribe { request_id: 3 })
        );
        assert_eq!(ClientFrame::parse(br#"{"op":"query","requestId":3}"#), Ok(ClientFrame::Query { request_id: 3 }));
    }

    #[test]
    fn malformed_frames_name_their_fault() {
        for (frame, code, request_id) in [
            ("[]", 1, None),
            ("{}", 1, None),
            (r#"{"op":"nope","requestId":4}"#, 1, Some(4)),
            (r#"{"op":"connect"}"#, 1, None),
            (r#"{"op":"connect","applicationId":5}"#, 1, None),
            (r#"{"op":"subscribe","query":{"className":"A","where":{}}}"#, 1, None),
            (r#"{"op":"subscribe","requestId":"1","query":{"className":"A","where":{}}}"#, 1, None),
            (r#"{"op":"subscribe","requestId":1}"#, 1, Some(1)),
            (r#"{"op":"subscribe","requestId":1,"query":{"className":"A"}}"#, 1, Some(1)),
            (r#"{"op":"subscribe","requestId":1,"query":{"className":"A","where":{},"keys":[]}}"#, 1, Some(1)),
            (r#"{"op":"subscribe","requestId":1,"query":{"className":"A","where":{},"keys":[1]}}"#, 1, Some(1)),
            (r#"{"op":"subscribe","requestId":1,"query":{"className":"A","where":{},"keys":["a","a"]}}"#, 1, Some(1)),
            (r#"{"op":"subscribe","requestId":1,"query":{"className":"1","where":{}}}"#, 103, Some(1)),
            (r#"{"op":"subscribe","requestId":1,"query":{"className":"A","where":{"a":{"$foo":1}}}}"#, 107, Some(1)),
            (
                r#"{"op":"subscribe","requestId":1,"query":{"className":"A","where":{"a":{"__type":"Wat"}}}}"#,
                111,
                Some(1),
            ),
            (r#"{"op":"subscribe","requestId":1,"query":{"className":"A","where":{}},"resumeFrom":7}"#, 107, Some(1)),
            (r#"{"op":"update","requestId":1,"query":{"className":"A","where":{}},"resumeFrom":"t.1"}"#, 1, Some(1)),
            (r#"{"op":"connect","applicationId":"a","checkpoints":1}"#, 1, None),
            (r#"{"op":"subscribe""#, 107, None),
        ] {
            let error = ClientFrame::parse(frame.as_bytes()).unwrap_err();
            assert_eq!((error.error.code.number(), error.request_id), (code, request_id), "{frame}");
        }
        let long = vec!["a"; 181].join(".");
        for query in [
            format!(r#"{{"className":"A","where":{{"{long}":1}}}}"#),
            format!(r#"{{"className":"A","where":{{}},"keys":["a","{long}"]}}"#),
            format!(r#"{{"className":"A","where":{{}},"fields":["{long}"]}}"#),
            format!(r#"{{"className":"A","where":{{}},"watch":["{long}"]}}"#),
        ] {
            let frame = format!(r#"{{"op":"subscribe","requestId":1,"query":{query}}}"#);
            let error = ClientFrame::parse(frame.as_bytes()).unwrap_err();
            assert_eq!((error.error.code.number(), error.request_id), (105, Some(1)), "{frame}");
        }
        let extra = ClientFrame::parse(br#"{"op":"unsubscribe","requestId":1,"x":1}"#).unwrap_err();
        assert_eq!(extra.error.message, ADDITIONAL_PROPERTIES);
        assert!(extra.reconnect);
    }

    #[test]
    fn an_error_frame() {
        let frame = FrameError::new(Error::new(Code::OperationForbidden, "Permission denied"), Some(2)).to_json();
        assert_eq!(
            String::from_utf8(frame).unwrap(),
            r#"{"op":"error","error":"Permission denied","code":119,"reconnect":false,"requestId":2}"#
        );
    }
}
