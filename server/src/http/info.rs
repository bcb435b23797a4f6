//! What the server says of itself: health, features, metrics.

use super::Api;
use super::answer::Answer;
use std::sync::atomic::Ordering;

pub(super) fn health(api: &Api) -> Answer {
    match api.0.draining.load(Ordering::Relaxed) {
        false => Answer::json(200, br#"{"status":"ok"}"#.to_vec()),
        true => Answer::json(503, br#"{"status":"stopping"}"#.to_vec()),
    }
}

/// What dashboards ask for first. Only what works is switched on.
pub(super) fn server_info() -> Answer {
    let features = r#"{"features":{
        "globalConfig":{"create":false,"read":false,"update":false,"delete":false},
        "hooks":{"create":false,"read":false,"update":false,"delete":false},
        "cloudCode":{"jobs":false},
        "logs":{"level":false,"size":false,"order":false,"until":false,"from":false},
        "push":{"immediatePush":false,"scheduledPush":false,"storedPushData":false,"pushAudiences":false,"localization":false},
        "schemas":{"addField":true,"removeField":true,"addClass":true,"removeClass":true,"clearAllDataFromClass":false,
            "exportClass":false,"editClassLevelPermissions":true,"editPointerPermissions":false},
        "settings":{"securityCheck":false}},
        "parseServerVersion":"9.10.0","tidingsVersion":""#;
    let compact: String = features.split_whitespace().collect();
    Answer::json(200, format!("{compact}{}\"}}", env!("CARGO_PKG_VERSION")).into_bytes())
}

pub(super) fn metrics(api: &Api) -> Answer {
    let body = api.0.metrics.render().into_bytes();
    Answer { content_type: "text/plain; version=0.0.4; charset=utf-8", ..Answer::json(200, body) }
}
