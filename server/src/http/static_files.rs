//! The pages that are built into the binary.

use super::request::Raw;
use super::{ChatSettings, Settings};
use bytes::Bytes;
use rust_embed::Embed;
use std::borrow::Cow;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, LOCATION};
use warp::http::{Method, Response, StatusCode};

/// The chat example, as `build.rs` built it; without node there is only a page that says so.
#[derive(Embed)]
#[folder = "$OUT_DIR/chat"]
struct Chat;

/// The page at this path, if it is one.
pub(super) fn serve(settings: &Settings, raw: &Raw<'_>) -> Option<warp::reply::Response> {
    let chat = settings.chat.as_ref()?;
    if !matches!(raw.method, Method::GET | Method::HEAD) {
        return None;
    }
    let file = match raw.path.strip_prefix("/chat")? {
        // Relative links of the page need the slash.
        "" => return Some(redirect("/chat/")),
        "/" => "index.html",
        rest => rest.strip_prefix('/')?,
    };
    if file == "config.json" {
        return Some(page("application/json", config(settings, chat).into(), false));
    }
    let (file, content) = match Chat::get(file) {
        Some(content) => (file, content),
        None => return Some(not_found()),
    };
    // Bundlers put a hash into the names of everything below assets/.
    Some(page(content_type(file), content.data, file.starts_with("assets/")))
}

/// What the chat page needs to know of the server that serves it.
fn config(settings: &Settings, chat: &ChatSettings) -> Vec<u8> {
    let config = serde_json::json!({
        "applicationId": chat.application_id,
        "javascriptKey": chat.javascript_key,
        "mount": settings.mount,
    });
    config.to_string().into_bytes()
}

fn page(content_type: &'static str, data: Cow<'static, [u8]>, immutable: bool) -> warp::reply::Response {
    let body = match data {
        Cow::Borrowed(data) => Bytes::from_static(data),
        Cow::Owned(data) => Bytes::from(data),
    };
    let mut response = Response::new(body.into());
    let caching = if immutable { "public, max-age=31536000, immutable" } else { "no-cache" };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(caching));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert("x-frame-options", HeaderValue::from_static("DENY"));
    response
}

fn redirect(place: &'static str) -> warp::reply::Response {
    let mut response = Response::new(Bytes::new().into());
    *response.status_mut() = StatusCode::FOUND;
    response.headers_mut().insert(LOCATION, HeaderValue::from_static(place));
    response
}

fn not_found() -> warp::reply::Response {
    let mut response = page("text/plain; charset=utf-8", Cow::Borrowed(b"Not found.\n"), false);
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

fn content_type(file: &str) -> &'static str {
    match file.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "json" | "map" => "application/json",
        "woff2" => "font/woff2",
        _ => "application/octet-stream",
    }
}
