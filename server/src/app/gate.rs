//! Who may open a live connection and subscribe, as the use cases decide it.

use crate::auth::Auth;
use crate::changes::Cursor;
use crate::error::Failure;
use crate::live::{Answer, Audience, NewSubscription};
use crate::objects::Objects;
use crate::ws::{Gate, Guest};
use std::net::IpAddr;
use std::sync::Arc;
use tidings_protocol::live::{Connect, Subscribe, not_a_cursor};
use tidings_protocol::{Code, Error};

pub(super) struct ObjectsGate(pub(super) Objects);

struct Admitted {
    objects: Objects,
    auth: Auth,
}

/// What a client with a wrong key is told.
const INVALID_KEY: Code = Code::Custom(4);

impl Gate for ObjectsGate {
    fn connect(&self, connect: Connect, address: IpAddr) -> Answer<Result<Arc<dyn Guest>, Error>> {
        let objects = self.0.clone();
        Box::pin(async move {
            match objects.live_connect(&connect, address).await {
                Ok(auth) => Ok(Arc::new(Admitted { objects, auth }) as Arc<dyn Guest>),
                Err(Failure::Unauthorized) => Err(Error::new(INVALID_KEY, "Key in request is not valid")),
                Err(failure) => Err(told(&failure)),
            }
        })
    }
}

impl Guest for Admitted {
    fn subscribe(self: Arc<Self>, subscribe: Subscribe) -> Answer<Result<NewSubscription, Error>> {
        Box::pin(async move {
            let resume_from = match subscribe.resume_from.as_deref().map(Cursor::parse) {
                None => None,
                Some(cursor) => Some(cursor.ok_or_else(not_a_cursor)?),
            };
            let admission = self.objects.live_subscribe(&self.auth, &subscribe).await;
            let admission = admission.map_err(|failure| told(&failure))?;
            Ok(NewSubscription {
                class: subscribe.class,
                predicate: admission.predicate,
                keys: subscribe.keys,
                watch: subscribe.watch,
                audience: Audience {
                    principals: admission.auth.principals,
                    session: admission.auth.session.map(|session| session.id),
                },
                resume_from,
            })
        })
    }
}

fn told(failure: &Failure) -> Error {
    if let Failure::Internal(reason) = failure {
        tracing::error!(reason, "a live connection failed on our side");
    }
    failure.to_error()
}
