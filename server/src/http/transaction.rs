//! A batch that is done whole or not at all.

use super::answer::Answer;
use super::dispatch::{created, updated};
use super::routes::Route;
use super::{Api, batch};
use crate::auth::Auth;
use crate::error::Result;
use crate::objects::{Done, Part};
use tidings_protocol::{ClassName, Error, Map};

/// # Errors
/// 107 where a part is no write of an object, and nothing has begun then; else see
/// [`crate::objects::Objects::transaction`].
pub(super) async fn run(api: &Api, auth: &Auth, requests: Vec<(Route, Map)>) -> Result<Answer> {
    let parts = requests.into_iter().map(|(route, body)| part(api, auth, route, body));
    let parts: Vec<Part> = parts.collect::<Result<_>>()?;
    let done = api.0.objects.transaction(auth, &parts).await?;
    let answers = parts.iter().zip(&done).map(|(part, done)| match done {
        Done::Created(object) => created(api, part.class(), object),
        Done::Updated(object) => updated(object),
        Done::Deleted => Answer::empty_object(),
    });
    Ok(batch::answer(answers.map(Ok)))
}

fn part(api: &Api, auth: &Auth, route: Route, body: Map) -> Result<Part> {
    Ok(match route {
        Route::Create(class) => Part::Create { class: api.new_class(auth, &class)?, body },
        // A known guest is no new user: in a transaction nobody logs in.
        Route::SignUp => Part::Create { class: ClassName::USER, body },
        Route::Update(class, id) => Part::Update { class: api.class(auth, &class)?, id, body },
        Route::Delete(class, id) => Part::Delete { class: api.class(auth, &class)?, id },
        _ => {
            let message = "A transactional batch holds only creates, updates and deletes of objects.";
            return Err(Error::invalid_json(message).into());
        }
    })
}
