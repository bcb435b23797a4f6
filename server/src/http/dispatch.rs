//! From route to use case to answer: one arm each.

use super::answer::Answer;
use super::request::{Raw, Request, public_headers};
use super::routes::{Route, below_mount, route};
use super::{Api, batch, info};
use crate::auth::Auth;
use crate::error::{Failure, Result};
use crate::objects::{Created, Found, LoggedIn, Page, Updated};
use compact_str::CompactString;
use std::sync::Arc;
use tidings_protocol::value::write_json_string;
use tidings_protocol::{ClassName, Code, Error, Map, Query, Value};
use warp::http::Method;

impl Api {
    pub(super) async fn run(&self, raw: Raw<'_>) -> Result<Answer> {
        let Some(path) = below_mount(&self.0.settings.mount, raw.path) else {
            // Metrics are also where scrapers look first.
            return match raw.path {
                "/metrics" if raw.method == Method::GET => self.metrics_for(&Request::decode(&raw)?).await,
                _ => Err(Failure::NoRoute),
            };
        };
        if path.trim_end_matches('/').eq_ignore_ascii_case("/health") {
            return Ok(info::health(self));
        }
        let request = Request::decode(&raw)?;
        let route = route(&request.method, path);
        if route == Ok(Route::Metrics) {
            return self.metrics_for(&request).await;
        }
        let mut credentials = request.credentials.clone();
        if route == Ok(Route::LogIn) {
            // Logging in is how one gets rid of a dead token.
            credentials.session_token = None;
        }
        let mut auth = self.0.objects.authenticate(&credentials).await?;
        let is_read = matches!(route, Ok(Route::Find(_) | Route::Get(..) | Route::Distinct(_)));
        if !is_read {
            // Only hooks of writes see them.
            auth.headers = Arc::new(public_headers(raw.headers));
        }
        auth.context = request.context.clone();
        let body = if is_read && raw.method == Method::GET { request.query_parameters() } else { request.body };
        self.dispatch(&auth, route?, body).await
    }

    /// Runs one use case. A batch calls this for each of its parts.
    pub(super) async fn dispatch(&self, auth: &Auth, route: Route, body: Map) -> Result<Answer> {
        let objects = &self.0.objects;
        Ok(match route {
            Route::Find(class) => match ClassName::parse(&class) {
                Ok(class) => page(&objects.find(auth, &Query::from_parameters(class, &body)?).await?),
                Err(_) if objects.hides_unknown_classes(auth) => return Err(Failure::forbidden()),
                Err(_) => Answer::json(200, br#"{"results":[]}"#.to_vec()),
            },
            Route::Distinct(_) if !auth.is_master() => return Err(Failure::MasterKeyRequired),
            Route::Distinct(class) => {
                let (query, field) = distinct_query(ClassName::parse(&class)?, body)?;
                let values = objects.distinct(auth, &query, &field).await?;
                Answer::json(200, tidings_protocol::map! { "results" => Value::Array(values) }.to_json().into())
            }
            Route::Get(class, id) => {
                let query = get_query(self.class(auth, &class)?, &body)?;
                found(&objects.get(auth, &query, &id).await?, auth)
            }
            Route::Create(class) => {
                let class = self.new_class(auth, &class)?;
                created(self, &class, &objects.create(auth, &class, body).await?)
            }
            Route::Update(class, id) => {
                let class = self.class(auth, &class)?;
                updated(&objects.update(auth, &class, &id, body).await?)
            }
            Route::Delete(class, id) => {
                objects.delete(auth, &self.class(auth, &class)?, &id).await?;
                Answer::empty_object()
            }
            Route::Batch => batch::run(self, auth, body).await?,
            Route::SignUp => match objects.known_guest(auth, &body).await? {
                Some(guest) => logged_in(self, auth, &guest),
                None => created(self, &ClassName::USER, &objects.create(auth, &ClassName::USER, body).await?),
            },
            Route::LogIn => logged_in(self, auth, &objects.log_in(auth, &body).await?),
            Route::VerifyPassword => owned(self, auth, &*objects.check_password(&body).await?, None),
            Route::LogOut => {
                objects.log_out(auth).await?;
                Answer::empty_object()
            }
            Route::Me => match (&auth.user, &auth.session) {
                (Some(me), Some(session)) => user(self, auth, me, Some(&session.token)),
                _ => return Err(Failure::invalid_session()),
            },
            Route::OwnSession => {
                let session = objects.own_session(auth).await?;
                let mut out = Vec::new();
                objects.plain_view(auth, ClassName::SESSION).write_json(&session, &mut out);
                Answer::json(200, out)
            }
            Route::Schemas => {
                let schemas = objects.schemas(auth)?;
                let list = schemas.iter().map(|schema| Value::Object(schema.to_map())).collect();
                Answer::json(200, tidings_protocol::map! { "results" => Value::Array(list) }.to_json().into())
            }
            Route::Schema(class) => schema(&*objects.schema(auth, &ClassName::parse(&class)?)?),
            Route::CreateSchema(class) => {
                let class = schema_class(class.as_deref(), &body)?;
                schema(&*objects.create_schema(auth, &class, &body).await?)
            }
            Route::UpdateSchema(class) => {
                let class = schema_class(Some(&class), &body)?;
                schema(&*objects.update_schema(auth, &class, &body).await?)
            }
            Route::DeleteSchema(class) => {
                objects.delete_schema(auth, &ClassName::parse(&class)?).await?;
                Answer::empty_object()
            }
            Route::ServerInfo if auth.is_master() => info::server_info(),
            Route::ServerInfo => return Err(Failure::MasterKeyRequired),
            Route::Metrics => return Err(Failure::NoRoute),
        })
    }

    /// A class that is asked about by object: with a bad name there is no such object.
    pub(super) fn class(&self, auth: &Auth, name: &str) -> Result<ClassName> {
        ClassName::parse(name).map_err(|_| match self.0.objects.hides_unknown_classes(auth) {
            true => Failure::forbidden(),
            false => Failure::object_not_found(),
        })
    }

    /// # Errors
    /// 107, Parse's code for a create in a class that cannot be; 119 where clients may not make classes anyway.
    pub(super) fn new_class(&self, auth: &Auth, name: &str) -> Result<ClassName> {
        ClassName::parse(name).map_err(|error| match self.0.objects.hides_unknown_classes(auth) {
            true => Failure::forbidden(),
            false => Error::invalid_json(error.message).into(),
        })
    }

    async fn metrics_for(&self, request: &Request) -> Result<Answer> {
        let is_local = request.credentials.address.to_canonical().is_loopback();
        if !is_local && !self.0.objects.authenticate(&request.credentials).await?.is_master() {
            return Err(Failure::MasterKeyRequired);
        }
        Ok(info::metrics(self))
    }
}

/// The objects and the field whose values are asked for.
///
/// # Errors
/// 108 for all that Parse aggregates in other ways; those of a find for a bad filter; 102 where no field is named.
fn distinct_query(class: ClassName, mut body: Map) -> Result<(Query, CompactString)> {
    let field = body.remove("distinct").filter(|field| !field.is_null());
    let taken = ["where", "hint", "comment", "readPreference"];
    let other = body.iter().find(|(name, value)| !taken.contains(&name.as_str()) && !value.is_null());
    match (field, other) {
        (Some(Value::String(field)), None) => {
            body.retain(|name, _| taken.contains(&name));
            Ok((Query::from_parameters(class, &body)?, field))
        }
        (Some(_), None) => Err(Error::invalid_query("distinct must be the name of a field.").into()),
        (_, _) => {
            let message = "/aggregate is not supported yet, except with the parameters distinct and where.";
            Err(Failure::parse(Code::CommandUnavailable, message))
        }
    }
}

/// # Errors
/// 102 for parameters that a get does not take.
fn get_query(class: ClassName, body: &Map) -> Result<Query> {
    let taken = ["keys", "include", "excludeKeys", "readPreference", "includeReadPreference", "subqueryReadPreference"];
    if body.iter().any(|(name, _)| !taken.contains(&name.as_str())) {
        return Err(Error::invalid_query("Improper encode of parameter").into());
    }
    Ok(Query::from_parameters(class, body)?)
}

/// # Errors
/// 135 without any class name, 103 when body and path disagree.
fn schema_class(path: Option<&str>, body: &Map) -> Result<ClassName> {
    let named = body.get("className").and_then(Value::as_str);
    match (path, named) {
        (Some(path), Some(named)) if path != named => {
            let message = format!("Class name mismatch between {named} and {path}.");
            Err(Failure::parse(Code::InvalidClassName, message))
        }
        (Some(name), _) | (None, Some(name)) => Ok(ClassName::parse(name)?),
        (None, None) => Err(Failure::parse(Code::MissingField, "A schema needs a class name.")),
    }
}

fn schema(schema: &crate::schema::ClassSchema) -> Answer {
    Answer::json(200, schema.to_map().to_json().into())
}

fn page(page: &Page) -> Answer {
    let mut out = Vec::with_capacity(64 + page.objects.len() * 512);
    out.extend_from_slice(b"{\"results\":");
    match &page.explanation {
        Some(explanation) => {
            let index = explanation.index.iter().map(|field| Value::String(field.clone())).collect();
            tidings_protocol::map! {
                "index" => Value::Array(index),
                "orderedByIndex" => explanation.ordered_by_index,
                "examined" => explanation.examined as f64,
                "returned" => explanation.returned as f64,
            }
            .write_json(&mut out);
        }
        None => {
            out.push(b'[');
            for (at, object) in page.objects.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                page.view.write_json(object, &mut out);
            }
            out.push(b']');
        }
    }
    if let Some(class) = &page.redirected {
        out.extend_from_slice(b",\"className\":");
        write_json_string(class, &mut out);
    }
    if let Some(count) = page.count {
        out.extend_from_slice(format!(",\"count\":{count}").as_bytes());
    }
    out.push(b'}');
    Answer::json(200, out)
}

fn found(found: &Found, auth: &Auth) -> Answer {
    let mut out = Vec::with_capacity(512);
    out.push(b'{');
    found.view.write_members(&found.object, &mut out);
    // Users who get themselves get their token along, as in Parse.
    if let Some(session) = &auth.session
        && found.view.is_of(&ClassName::USER)
        && auth.user_id() == Some(&found.object.id)
    {
        out.extend_from_slice(b",\"sessionToken\":");
        write_json_string(&session.token, &mut out);
    }
    out.push(b'}');
    Answer::json(200, out)
}

pub(super) fn created(api: &Api, class: &ClassName, created: &Created) -> Answer {
    let mut body = tidings_protocol::map! { "objectId" => created.id.as_str() };
    body.insert("createdAt", Value::string(created.created_at.to_string()));
    body = [body, created.changed.clone()].into_iter().flatten().collect();
    if let Some(token) = &created.session_token {
        body.insert("sessionToken", Value::String(token.clone()));
    }
    let place = if *class == ClassName::USER { "users".to_owned() } else { format!("classes/{class}") };
    let location = format!("{}/{place}/{}", api.0.settings.mount, created.id);
    Answer { location: Some(location), ..Answer::json(201, body.to_json().into()) }
}

pub(super) fn updated(updated: &Updated) -> Answer {
    let mut body = updated.changed.clone();
    body.insert("updatedAt", Value::string(updated.updated_at.to_string()));
    if let Some(token) = &updated.session_token {
        body.insert("sessionToken", Value::String(token.clone()));
    }
    Answer::json(200, body.to_json().into())
}

fn logged_in(api: &Api, auth: &Auth, logged_in: &LoggedIn) -> Answer {
    owned(api, auth, &logged_in.user, Some(&logged_in.session_token))
}

/// Whoever knows the password sees the account as its owner.
fn owned(api: &Api, auth: &Auth, account: &tidings_protocol::Object, token: Option<&str>) -> Answer {
    let mut owner = auth.clone();
    owner.principals = crate::permissions::Principals::user(account.id.clone());
    user(api, &owner, account, token)
}

fn user(api: &Api, auth: &Auth, user: &tidings_protocol::Object, token: Option<&str>) -> Answer {
    let mut out = Vec::with_capacity(512);
    out.push(b'{');
    api.0.objects.plain_view(auth, ClassName::USER).write_members(user, &mut out);
    if let Some(token) = token {
        out.extend_from_slice(b",\"sessionToken\":");
        write_json_string(token, &mut out);
    }
    out.push(b'}');
    Answer::json(200, out)
}
