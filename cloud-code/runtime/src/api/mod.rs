//! What a script may say: the types and functions of cloud code, in Parse's words and snake_case.

mod acl;
mod date;
mod object;
mod query;
mod request;

pub(crate) use acl::AclRef;
pub(crate) use date::DateRef;
pub(crate) use object::{ObjectRef, PointerRef};
pub(crate) use request::RequestRef;

use crate::convert::{Opaque, to_dynamic};
use crate::engine::{Raised, log_line, rate_limit};
use crate::host::Level;
use crate::strip_tags::{is_blank, strip_tags};
use rhai::{
    Dynamic, Engine, EvalAltResult, FLOAT, INT, ImmutableString, Map as ScriptMap, NativeCallContext, Position,
};
use std::time::Duration;
use tidings_protocol::{Code, Error, Value};

/// What `catch (error)` gives for a failure of the server or of this interface, and what `error(142, "text")` makes.
#[derive(Clone, Debug)]
pub(crate) struct ScriptError {
    code: INT,
    message: ImmutableString,
    /// A mistake in the script: the client is only told that it failed.
    misuse: bool,
}

/// An error of the server, for the script to catch or to pass on.
pub(crate) fn raise(error: Error) -> Box<EvalAltResult> {
    let error = ScriptError { code: error.code.number().into(), message: error.message.as_ref().into(), misuse: false };
    Box::new(EvalAltResult::ErrorRuntime(Dynamic::from(error), Position::NONE))
}

/// A mistake in the script.
pub(crate) fn misuse(message: impl Into<ImmutableString>) -> Box<EvalAltResult> {
    let error = ScriptError { code: Code::ScriptFailed.number().into(), message: message.into(), misuse: true };
    Box::new(EvalAltResult::ErrorRuntime(Dynamic::from(error), Position::NONE))
}

/// What a client is told of a value that a script threw; `None` if it was no refusal but a mistake.
pub(crate) fn thrown(value: &Dynamic) -> Option<Error> {
    if let Some(error) = value.read_lock::<ScriptError>() {
        return (!error.misuse).then(|| error_of(error.code, &error.message));
    }
    if let Some(map) = value.read_lock::<ScriptMap>() {
        let code = map.get("code").and_then(|code| code.as_int().ok()).unwrap_or(141);
        let message = map.get("message").or(map.get("error")).filter(|message| !message.is_unit());
        return Some(match message {
            Some(message) => error_of(code, &message.to_string()),
            None => unknown(code),
        });
    }
    Some(if value.is_unit() { unknown(141) } else { error_of(141, &value.to_string()) })
}

fn unknown(code: INT) -> Error {
    error_of(code, "Script failed. Unknown error.")
}

fn error_of(code: INT, message: &str) -> Error {
    let code = i32::try_from(code).map_or(Code::ScriptFailed, Code::from_number);
    Error::new(code, crate::engine::clipped(message, 2_000).to_owned())
}

/// A thrown value for a log.
pub(crate) fn thrown_text(value: &Dynamic) -> String {
    if let Some(error) = value.read_lock::<ScriptError>() {
        return error.message.to_string();
    }
    value.to_string()
}

/// `log.info("…")`
#[derive(Clone)]
pub(crate) struct LogRef;

pub(crate) fn register(engine: &mut Engine) {
    crate::loading::register(engine);
    acl::register(engine);
    date::register(engine);
    object::register(engine);
    query::register(engine);
    request::register(engine);
    register_errors(engine);
    register_helpers(engine);
}

fn register_errors(engine: &mut Engine) {
    engine
        .register_type_with_name::<ScriptError>("Error")
        .register_fn("error", |code: INT, message: ImmutableString| ScriptError { code, message, misuse: false })
        .register_get("code", |error: &mut ScriptError| error.code)
        .register_get("message", |error: &mut ScriptError| error.message.clone())
        .register_fn("to_string", |error: &mut ScriptError| error.message.clone())
        .register_fn("to_debug", |error: &mut ScriptError| format!("error({}, {:?})", error.code, error.message));
}

fn register_helpers(engine: &mut Engine) {
    // rhai's own would hold the thread, deaf to the deadline.
    let awake = || Err::<(), _>(misuse("a hook cannot sleep: its client, and other hooks, would wait"));
    engine.register_fn("sleep", move |_: INT| awake()).register_fn("sleep", move |_: FLOAT| awake());
    engine
        .register_fn("strip_tags", |text: &str| -> ImmutableString { strip_tags(text).into() })
        .register_fn("escape_html", |text: &str| -> ImmutableString { escape_html(text).into() })
        .register_fn("is_blank", |text: &str| is_blank(text))
        .register_fn("is_blank", |(): ()| true)
        .register_fn("rate_limit", |key: &str, limit: INT, seconds: INT| take_slot(key, limit, seconds as FLOAT))
        .register_fn("rate_limit", |key: &str, limit: INT, seconds: FLOAT| take_slot(key, limit, seconds));

    engine.register_type_with_name::<LogRef>("Log");
    for (name, level) in [("info", Level::Info), ("warn", Level::Warn), ("error", Level::Error)] {
        engine.register_fn(name, move |context: NativeCallContext, _: &mut LogRef, text: Dynamic| {
            log_line(level, context.call_position(), context.call_source(), &text.to_string());
        });
    }
    // `log` is known everywhere, also in functions, which do not see the variables of their script.
    #[allow(deprecated, reason = "rhai marks on_var as volatile, not as deprecated")]
    engine.on_var(|name, index, _| Ok((index == 0 && name == "log").then(|| Dynamic::from(LogRef))));

    engine
        .register_type_with_name::<Opaque>("Value")
        .register_fn("is_file", |value: Dynamic| {
            value.try_cast::<Opaque>().is_some_and(|opaque| matches!(opaque.0, Value::File(_)))
        })
        .register_fn("==", |a: Opaque, b: Opaque| a == b)
        .register_fn("!=", |a: Opaque, b: Opaque| a != b)
        .register_fn("to_string", |value: &mut Opaque| value.0.to_json())
        .register_fn("to_debug", |value: &mut Opaque| value.0.to_json())
        .register_indexer_get(opaque_part);
}

/// Text as it may stand in HTML, also within an attribute.
fn escape_html(text: &str) -> String {
    let mut html = String::with_capacity(text.len() + text.len() / 8);
    for letter in text.chars() {
        match letter {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            other => html.push(other),
        }
    }
    html
}

fn take_slot(key: &str, limit: INT, seconds: FLOAT) -> Raised<bool> {
    const LONGEST: FLOAT = 30.0 * 86_400.0;
    let limit = usize::try_from(limit).ok().filter(|limit| *limit <= crate::RateLimiter::MAX_LIMIT);
    let limit = limit.ok_or_else(|| misuse("rate_limit: the limit must be 0 to 10,000"))?;
    if !(seconds > 0.0 && seconds <= LONGEST) {
        return Err(misuse("rate_limit: the window must be more than 0 seconds, and at most 30 days"));
    }
    if key.len() > 512 {
        return Err(misuse("rate_limit: the key has more than 512 bytes"));
    }
    rate_limit(key, limit, Duration::from_secs_f64(seconds))
}

/// `file.name`, `file.url`, `point.latitude`, `point.longitude`, `relation.class_name`
fn opaque_part(value: &mut Opaque, name: &str) -> Raised<Dynamic> {
    Ok(match (&value.0, name) {
        (Value::File(file), "name") => file.name.as_str().into(),
        (Value::File(file), "url") => file.url.as_ref().map_or(Dynamic::UNIT, |url| url.as_str().into()),
        (Value::GeoPoint(point), "latitude") => point.latitude.into(),
        (Value::GeoPoint(point), "longitude") => point.longitude.into(),
        (Value::Relation(class), "class_name") => class.as_str().into(),
        (other, _) => {
            let kind = other.type_name().unwrap_or("Null");
            return Err(misuse(format!("a {kind} has no property {}", to_dynamic(&Value::from(name)))));
        }
    })
}

/// Only for the unit: rhai compares values of different types as different, but does not know ours.
pub(crate) fn never_unit<T: Clone + Send + Sync + 'static>(engine: &mut Engine) {
    engine
        .register_fn("==", |_: T, (): ()| false)
        .register_fn("==", |(): (), _: T| false)
        .register_fn("!=", |_: T, (): ()| true)
        .register_fn("!=", |(): (), _: T| true);
}
