//! The REST API: decode a request, call one use case, encode the answer. Nothing is decided here.
//!
//! warp gives headers, bodies and replies. Routing is ours ([`routes`]): Parse's method may sit in the body, paths
//! match in any case, and a batch runs through the same table.

mod answer;
mod batch;
mod bodies;
mod dispatch;
mod info;
mod request;
mod routes;
mod static_files;
mod transaction;

use crate::objects::Objects;
use answer::Answer;
use bodies::{Bodies, Body, Unread};
use metrics_exporter_prometheus::PrometheusHandle;
use request::Raw;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use warp::http::{HeaderMap, Method};
use warp::path::FullPath;
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

/// Everything the API needs, shared by all requests.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    objects: Objects,
    settings: Settings,
    metrics: PrometheusHandle,
    bodies: Bodies,
    /// Set once the server begins to stop: health then says so.
    draining: AtomicBool,
}

#[derive(Clone, Debug)]
pub struct Settings {
    /// The path of the API: `/parse`, or empty for the root.
    pub mount: String,
    /// Requests in one batch, without the master key.
    pub max_batch: usize,
    /// What the chat page is told; `None` does not serve it.
    pub chat: Option<ChatSettings>,
}

#[derive(Clone, Debug)]
pub struct ChatSettings {
    pub application_id: String,
    pub javascript_key: Option<String>,
}

/// The address of whoever sent a request, put into its extensions by the accept loop.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

impl Api {
    pub fn new(objects: Objects, settings: Settings, metrics: PrometheusHandle) -> Self {
        let bodies = Bodies::new();
        Self(Arc::new(Inner { objects, settings, metrics, bodies, draining: AtomicBool::new(false) }))
    }

    /// From now on `/health` says that the server is stopping.
    pub fn begin_draining(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// The one warp filter that serves everything.
    pub fn filter(self) -> impl Filter<Extract = (impl Reply,), Error = Infallible> + Clone {
        let query = warp::query::raw().or(warp::any().map(String::new)).unify();
        let bodies = self.0.bodies.clone();
        let body = warp::body::stream().and_then(move |body| {
            let bodies = bodies.clone();
            async move { bodies.read(body).await.map_err(warp::reject::custom) }
        });
        warp::method()
            .and(warp::path::full())
            .and(query)
            .and(warp::header::headers_cloned())
            .and(warp::ext::get::<Peer>())
            .and(body)
            .then(move |method: Method, path: FullPath, query: String, headers: HeaderMap, peer: Peer, body: Body| {
                let api = self.clone();
                async move {
                    let body = &body.bytes;
                    let raw = Raw { method, path: path.as_str(), query: &query, headers: &headers, peer, body };
                    api.respond(raw).await
                }
            })
            // Nothing else is left to refuse than a body.
            .recover(|rejection: Rejection| async move {
                let answer = match rejection.find::<Unread>() {
                    Some(Unread::NoRoom) => Answer::too_busy(),
                    Some(Unread::Broken) | None => Answer::body_too_large(),
                };
                Ok::<_, Infallible>(answer.into_response())
            })
    }

    async fn respond(&self, raw: Raw<'_>) -> Response {
        if raw.method == Method::OPTIONS {
            return Answer::json(200, b"{}".to_vec()).into_response();
        }
        if let Some(page) = static_files::serve(&self.0.settings, &raw) {
            return page;
        }
        let answer = match self.run(raw).await {
            Ok(answer) => answer,
            Err(failure) => Answer::failure(&failure),
        };
        answer.into_response()
    }
}
