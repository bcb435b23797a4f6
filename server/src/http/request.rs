//! What came in: credentials and parameters, wherever Parse's clients put them.
//!
//! SDKs send everything as POST with the method, the keys and the payload in one JSON body; curl sends headers and a
//! query string. Both end here as one [`Request`].

use super::Peer;
use crate::auth::Credentials;
use crate::error::{Failure, Result};
use compact_str::CompactString;
use percent_encoding::percent_decode_str;
use std::net::{IpAddr, Ipv4Addr};
use tidings_protocol::{Error, Map, Value};
use warp::http::{HeaderMap, Method};

/// A request as warp hands it over.
#[derive(Clone)]
pub(super) struct Raw<'a> {
    pub method: Method,
    pub path: &'a str,
    pub query: &'a str,
    pub headers: &'a HeaderMap,
    pub peer: Peer,
    pub body: &'a [u8],
}

/// A request as the use cases want it.
pub(super) struct Request {
    pub method: Method,
    pub credentials: Credentials,
    /// The payload, without anything that is about the request itself.
    pub body: Map,
    /// What the client sends along for cloud code.
    pub context: Map,
}

/// Keys in a body that are about the request, not of the payload.
const ABOUT_THE_REQUEST: [&str; 12] = [
    "_method",
    "_ApplicationId",
    "_JavaScriptKey",
    "_RESTAPIKey",
    "_ClientKey",
    "_MasterKey",
    "_SessionToken",
    "_InstallationId",
    "_ClientVersion",
    "_RevocableSession",
    "_noBody",
    "_ContentType",
];

impl Request {
    /// # Errors
    /// 107 for a body that is not a JSON object or a bad context; unauthorized for credentials that are not text.
    pub(super) fn decode(raw: &Raw<'_>) -> Result<Self> {
        let mut body = match raw.body.iter().all(u8::is_ascii_whitespace) {
            true => Map::new(),
            false => Map::from_json(raw.body)?,
        };
        let about = About::take(&mut body)?;
        let mut method = raw.method.clone();
        if method == Method::POST
            && let Some(wanted) = about.get("_method")
        {
            method = match wanted.to_ascii_uppercase().as_str() {
                "GET" => Method::GET,
                "POST" => Method::POST,
                "PUT" => Method::PUT,
                "DELETE" => Method::DELETE,
                _ => return Err(Failure::NoRoute),
            };
        }
        if method == Method::HEAD {
            method = Method::GET;
        }
        match raw.method {
            Method::GET | Method::HEAD => {
                query_pairs(raw.query).for_each(|(name, value)| drop(body.insert(name, Value::String(value))));
            }
            // A GET by its `_method` may have both; Parse lets the query string win.
            _ if method == Method::GET => {
                query_pairs(raw.query).for_each(|(name, value)| drop(body.insert(name, json_or_text(value))));
            }
            _ => {}
        }
        let header = |name: &str| raw.headers.get(name).and_then(|value| value.to_str().ok()).map(CompactString::from);
        let context = match body.remove("_context") {
            Some(context) => read_context(context)?,
            None => match header("x-parse-cloud-context") {
                Some(text) => read_context(Value::String(text))?,
                None => Map::new(),
            },
        };
        let basic = header("authorization").and_then(|value| BasicAuth::read(&value));
        let (basic_id, basic_master, basic_javascript) = match basic {
            Some(BasicAuth { user, password }) => match password.strip_prefix("javascript-key=") {
                Some(key) => (Some(user), None, Some(CompactString::from(key))),
                None => (Some(user), Some(password), None),
            },
            None => (None, None, None),
        };
        let either = |name: &str, key: &str| header(name).or_else(|| about.get(key).cloned());
        let credentials = Credentials {
            application_id: either("x-parse-application-id", "_ApplicationId").or(basic_id),
            master_key: either("x-parse-master-key", "_MasterKey").or(basic_master),
            javascript_key: either("x-parse-javascript-key", "_JavaScriptKey").or(basic_javascript),
            rest_key: either("x-parse-rest-api-key", "_RESTAPIKey"),
            client_key: either("x-parse-client-key", "_ClientKey"),
            session_token: either("x-parse-session-token", "_SessionToken").filter(|token| !token.is_empty()),
            installation_id: either("x-parse-installation-id", "_InstallationId").filter(|id| !id.is_empty()),
            address: address_of(raw),
        };
        Ok(Self { method, credentials, body, context })
    }

    /// The payload of a class query that came as a query string: each value is JSON if it can be read so.
    pub(super) fn query_parameters(mut self) -> Map {
        for value in self.body.values_mut() {
            if let Value::String(text) = std::mem::take(value) {
                *value = json_or_text(text);
            }
        }
        self.body
    }
}

/// A value of a query string: JSON if it can be read so.
pub(super) fn json_or_text(text: CompactString) -> Value {
    Value::from_json(text.as_bytes()).unwrap_or(Value::String(text))
}

/// Whoever comes through a proxy is not on this machine, although the proxy may be.
fn address_of(raw: &Raw<'_>) -> IpAddr {
    let forwarded = ["forwarded", "x-forwarded-for", "x-real-ip"].iter().any(|name| raw.headers.contains_key(*name));
    if forwarded { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { raw.peer.0 }
}

/// The parts of a body that are about the request.
struct About(Vec<(CompactString, CompactString)>);

impl About {
    fn take(body: &mut Map) -> Result<Self> {
        // Almost every body either starts with these or has none; a body without any is not searched twelve times.
        if !body.iter().any(|(name, _)| name.starts_with('_')) {
            return Ok(Self(Vec::new()));
        }
        let mut about = Vec::new();
        for name in ABOUT_THE_REQUEST {
            match body.remove(name) {
                None => {}
                Some(Value::String(text)) => about.push((name.into(), text)),
                Some(Value::Bool(_) | Value::Null) => {}
                Some(_) => return Err(Failure::Unauthorized),
            }
        }
        // The SDK also sends this one, for a key that does not exist here yet.
        body.remove("_MaintenanceKey");
        Ok(Self(about))
    }

    fn get(&self, name: &str) -> Option<&CompactString> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

fn read_context(context: Value) -> Result<Map> {
    let invalid = || Failure::from(Error::invalid_json("Invalid object for context."));
    match context {
        Value::Object(map) => Ok(map),
        Value::String(text) => Map::from_json(text.as_bytes()).map_err(|_| invalid()),
        _ => Err(invalid()),
    }
}

struct BasicAuth {
    user: CompactString,
    password: CompactString,
}

impl BasicAuth {
    fn read(header: &str) -> Option<Self> {
        use base64::Engine;
        let encoded = header.strip_prefix("Basic ").or_else(|| header.strip_prefix("basic "))?;
        let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (user, password) = decoded.split_once(':')?;
        Some(Self { user: user.into(), password: password.into() })
    }
}

/// `a=1&b=%7B%7D` as pairs; a name without a value has an empty one.
pub(super) fn query_pairs(query: &str) -> impl Iterator<Item = (CompactString, CompactString)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

fn decode(text: &str) -> CompactString {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8_lossy().into()
}

/// Headers as cloud code sees them: lower-case names, without secrets.
pub(super) fn public_headers(headers: &HeaderMap) -> Map {
    const SECRET: [&str; 7] = [
        "authorization",
        "cookie",
        "x-parse-master-key",
        "x-parse-session-token",
        "x-parse-javascript-key",
        "x-parse-rest-api-key",
        "x-parse-client-key",
    ];
    let public = headers.iter().filter(|(name, _)| !SECRET.contains(&name.as_str()));
    public.filter_map(|(name, value)| Some((name.as_str().into(), value.to_str().ok()?.into()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(method: Method, query: &str, headers: &[(&'static str, &str)], body: &str) -> Result<Request> {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| drop(map.insert(*name, value.parse().unwrap())));
        let peer = Peer("127.0.0.1".parse().unwrap());
        Request::decode(&Raw { method, path: "/", query, headers: &map, peer, body: body.as_bytes() })
    }

    #[test]
    fn the_sdk_puts_everything_into_the_body() {
        let body = r#"{"where":{"a":1},"_method":"get","_ApplicationId":"app","_SessionToken":"r:x","_ClientVersion":"js8","_context":{"k":1}}"#;
        let request = decode(Method::POST, "", &[], body).unwrap();
        assert_eq!(request.method, Method::GET);
        assert_eq!(request.body.to_json(), r#"{"where":{"a":1}}"#);
        assert_eq!(request.credentials.application_id.as_deref(), Some("app"));
        assert_eq!(request.credentials.session_token.as_deref(), Some("r:x"));
        assert_eq!(request.context.to_json(), r#"{"k":1}"#);
    }

    #[test]
    fn curl_uses_headers_and_the_query_string() {
        let headers = [("x-parse-application-id", "app"), ("x-parse-master-key", "m")];
        let request = decode(Method::GET, "where=%7B%22a%22%3A1%7D&limit=5&order=-a", &headers, "").unwrap();
        assert_eq!(request.credentials.master_key.as_deref(), Some("m"));
        let sent = headers.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap()));
        let sent: HeaderMap = sent.map(|(name, value): (warp::http::HeaderName, _)| (name, value)).collect();
        assert!(
            !public_headers(&sent).contains("x-parse-master-key")
                && public_headers(&sent).contains("x-parse-application-id")
        );
        assert_eq!(request.query_parameters().to_json(), r#"{"where":{"a":1},"limit":5,"order":"-a"}"#);
        let mixed = decode(Method::POST, "limit=5", &[], r#"{"_method":"GET","order":"-a"}"#).unwrap();
        assert_eq!(mixed.body.to_json(), r#"{"order":"-a","limit":5}"#);
        let basic = [("authorization", "Basic YXBwOmphdmFzY3JpcHQta2V5PWpz")];
        let request = decode(Method::GET, "", &basic, "").unwrap();
        assert_eq!(request.credentials.javascript_key.as_deref(), Some("js"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let status = |body: &str| decode(Method::POST, "", &[], body).err().map(|failure| failure.status());
        assert_eq!(status("{"), Some(400));
        assert_eq!(status("null"), Some(400));
        assert_eq!(status("[1]"), Some(400));
        assert_eq!(status(r#"{"_MasterKey":5}"#), Some(403));
        assert_eq!(status(r#"{"_context":5}"#), Some(400));
        assert_eq!(status(r#"{"_method":"PATCH"}"#), Some(404));
        assert_eq!(status("  "), None);
    }
}
