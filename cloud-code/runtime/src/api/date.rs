//! `now()`, `date("2026-01-02T03:04:05Z")`, and reckoning in seconds.

use super::{never_unit, raise};
use crate::engine::{Raised, ask_host};
use rhai::{Engine, FLOAT, INT, ImmutableString};
use tidings_protocol::{Date, Error};

#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(crate) struct DateRef(pub(crate) Date);

pub(crate) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<DateRef>("Date")
        .register_fn("now", || ask_host(|host| DateRef(host.now())))
        .register_fn("date", |text: &str| -> Raised<DateRef> {
            let date = Date::parse(text).ok_or_else(|| raise(Error::incorrect_type("This is not a date.")))?;
            Ok(DateRef(date))
        })
        .register_get("millis", |date: &mut DateRef| date.0.millis())
        .register_get("iso", |date: &mut DateRef| iso(*date))
        .register_fn("to_string", |date: &mut DateRef| iso(*date))
        .register_fn("to_debug", |date: &mut DateRef| iso(*date))
        .register_fn("+", |date: DateRef, seconds: INT| shifted(date, seconds as FLOAT))
        .register_fn("+", shifted)
        .register_fn("-", |date: DateRef, seconds: INT| shifted(date, -(seconds as FLOAT)))
        .register_fn("-", |date: DateRef, seconds: FLOAT| shifted(date, -seconds))
        .register_fn("-", |a: DateRef, b: DateRef| (a.0.millis() - b.0.millis()) as FLOAT / 1000.0)
        .register_fn("==", |a: DateRef, b: DateRef| a == b)
        .register_fn("!=", |a: DateRef, b: DateRef| a != b)
        .register_fn("<", |a: DateRef, b: DateRef| a < b)
        .register_fn("<=", |a: DateRef, b: DateRef| a <= b)
        .register_fn(">", |a: DateRef, b: DateRef| a > b)
        .register_fn(">=", |a: DateRef, b: DateRef| a >= b);
    never_unit::<DateRef>(engine);
}

fn iso(date: DateRef) -> ImmutableString {
    date.0.to_string().into()
}

fn shifted(date: DateRef, seconds: FLOAT) -> Raised<DateRef> {
    // A cast saturates, and what saturates is out of range.
    let millis = date.0.millis().saturating_add((seconds * 1000.0) as i64);
    Date::from_millis(millis).map(DateRef).ok_or_else(|| raise(Error::incorrect_type("The date is out of range.")))
}
