//! Many requests in one: in order, each with its own result.
//!
//! Consecutive writes are under way together, so that they share the disk's syncs; their commits still take their
//! places in the order of the batch, and a part that may depend on an earlier one waits for it.

use super::answer::Answer;
use super::dispatch::{created, updated};
use super::request::query_pairs;
use super::routes::{Route, below_mount, route};
use super::{Api, request, transaction};
use crate::auth::Auth;
use crate::error::{Failure, Result};
use std::pin::Pin;
use tidings_protocol::{ClassName, Error, Map, ObjectId, Value};
use warp::http::Method;

/// A part of a batch that has its place in the order.
enum Part {
    Done(Result<Answer>),
    UnderWay { object: Option<(ClassName, ObjectId)>, answer: Pin<Box<dyn Future<Output = Result<Answer>> + Send>> },
}

/// # Errors
/// 107 for a batch that is malformed, too long, nested, or has a path that leads nowhere; of a transaction that of the
/// part for which nothing is done.
pub(super) async fn run(api: &Api, auth: &Auth, mut body: Map) -> Result<Answer> {
    let is_transaction = match body.remove("transaction") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(is_transaction)) => is_transaction,
        // Parse takes anything else for false; who sends it surely wants all or nothing.
        Some(_) => return Err(Error::invalid_json("transaction must be true or false").into()),
    };
    let requests = read(api, auth, body)?;
    if is_transaction {
        return transaction::run(api, auth, requests).await;
    }
    let mut parts: Vec<Part> = Vec::with_capacity(requests.len());
    for (route, body) in requests {
        if depends(&route, &parts) {
            settle(&mut parts).await;
        }
        parts.push(begin(api, auth, route, body).await);
    }
    let mut results = Vec::with_capacity(parts.len());
    for part in parts {
        results.push(match part {
            Part::Done(result) => result,
            Part::UnderWay { answer, .. } => answer.await,
        });
    }
    Ok(answer(results))
}

/// The results of all parts, in the order of the requests.
pub(super) fn answer(results: impl IntoIterator<Item = Result<Answer>>) -> Answer {
    let mut out = vec![b'['];
    for (at, result) in results.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        match result {
            Ok(answer) => {
                out.extend_from_slice(b"{\"success\":");
                out.extend_from_slice(&answer.body);
            }
            Err(failure) => {
                if let Failure::Internal(reason) = &failure {
                    tracing::error!(reason, "a part of a batch failed on our side");
                }
                out.extend_from_slice(b"{\"error\":");
                failure.to_error().write_json(&mut out);
            }
        }
        out.push(b'}');
    }
    out.push(b']');
    Answer::json(200, out)
}

/// Whether a part must wait for all before it: everything but writes of objects that no part under way touches.
fn depends(route: &Route, parts: &[Part]) -> bool {
    match route {
        Route::Create(_) => false,
        Route::Update(class, id) | Route::Delete(class, id) => parts.iter().any(|part| {
            matches!(part, Part::UnderWay { object: Some((touched, touched_id)), .. }
                if **touched == **class && touched_id == id)
        }),
        _ => true,
    }
}

async fn begin(api: &Api, auth: &Auth, route: Route, body: Map) -> Part {
    let started = match route {
        Route::Create(class) => begin_create(api, auth, &class, body).await,
        Route::Update(class, id) => begin_update(api, auth, &class, id, body).await,
        Route::Delete(class, id) => begin_delete(api, auth, &class, id).await,
        other => return Part::Done(Box::pin(api.dispatch(auth, other, body)).await),
    };
    started.unwrap_or_else(|failure| Part::Done(Err(failure)))
}

async fn begin_create(api: &Api, auth: &Auth, class: &str, body: Map) -> Result<Part> {
    let class = api.new_class(auth, class)?;
    let pending = api.0.objects.begin_create(auth, &class, body).await?;
    let api = api.clone();
    Ok(Part::UnderWay { object: None, answer: Box::pin(async move { Ok(created(&api, &class, &pending.await?)) }) })
}

async fn begin_update(api: &Api, auth: &Auth, class: &str, id: ObjectId, body: Map) -> Result<Part> {
    let class = api.class(auth, class)?;
    let pending = api.0.objects.begin_update(auth, &class, &id, body).await?;
    Ok(Part::UnderWay { object: Some((class, id)), answer: Box::pin(async move { Ok(updated(&pending.await?)) }) })
}

async fn begin_delete(api: &Api, auth: &Auth, class: &str, id: ObjectId) -> Result<Part> {
    let class = api.class(auth, class)?;
    let pending = api.0.objects.begin_delete(auth, &class, &id).await?;
    Ok(Part::UnderWay {
        object: Some((class, id)),
        answer: Box::pin(async move { pending.await.map(|()| Answer::empty_object()) }),
    })
}

async fn settle(parts: &mut [Part]) {
    for part in parts {
        if let Part::UnderWay { answer, .. } = part {
            let done = answer.await;
            *part = Part::Done(done);
        }
    }
}

fn read(api: &Api, auth: &Auth, mut body: Map) -> Result<Vec<(Route, Map)>> {
    let invalid = |message: String| Failure::from(Error::invalid_json(message));
    let Some(Value::Array(requests)) = body.remove("requests") else {
        return Err(invalid("requests must be an array".into()));
    };
    let limit = api.0.settings.max_batch;
    if requests.len() > limit && !auth.is_master() {
        return Err(invalid(format!("A batch holds at most {limit} requests.")));
    }
    requests
        .into_iter()
        .map(|request| {
            let Value::Object(mut request) = request else { return Err(invalid("a request must be an object".into())) };
            let method = request.get("method").and_then(Value::as_str).and_then(|name| name.parse::<Method>().ok());
            let Some(Value::String(path)) = request.remove("path") else {
                return Err(invalid("a request needs a path".into()));
            };
            let unroutable = || invalid(format!("cannot route batch path {path}"));
            let method = method.ok_or_else(unroutable)?;
            let mut body = match request.remove("body") {
                None | Some(Value::Null) => Map::new(),
                Some(Value::Object(body)) => body,
                Some(_) => return Err(invalid("a request's body must be an object".into())),
            };
            let (place, query) = path.split_once('?').unwrap_or((path.as_str(), ""));
            let place = below_mount(&api.0.settings.mount, place).ok_or_else(unroutable)?;
            for (name, value) in query_pairs(query) {
                body.insert(name, request::json_or_text(value));
            }
            match route(&method, place).map_err(|failure| match failure {
                Failure::NoRoute => unroutable(),
                other => other,
            })? {
                Route::Batch => Err(invalid("nested batch requests are not allowed".into())),
                route => Ok((route, body)),
            }
        })
        .collect()
}
