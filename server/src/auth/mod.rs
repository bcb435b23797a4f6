//! Who is asking: keys, sessions, passwords. What they may do is decided in [`crate::permissions`].

mod keys;
mod password;
pub mod session;

pub use keys::{KeyCheck, Keys};
pub use password::{Hashing, Passwords};
pub use session::{Session, Sessions};

use crate::permissions::Principals;
use compact_str::CompactString;
use std::net::IpAddr;
use std::sync::Arc;
use tidings_protocol::{Map, Object, ObjectId};

/// What a request presents of itself, before anything is checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Credentials {
    pub application_id: Option<CompactString>,
    pub master_key: Option<CompactString>,
    pub javascript_key: Option<CompactString>,
    pub rest_key: Option<CompactString>,
    pub client_key: Option<CompactString>,
    pub session_token: Option<CompactString>,
    pub installation_id: Option<CompactString>,
    pub address: IpAddr,
}

/// Who a request turned out to be, and what of it cloud code may see.
#[derive(Clone, Debug)]
pub struct Auth {
    pub principals: Principals,
    /// The logged-in user as stored, internal fields included.
    pub user: Option<Arc<Object>>,
    pub session: Option<Session>,
    pub installation_id: Option<CompactString>,
    pub address: IpAddr,
    /// The request's headers by lower-case name, for cloud code; without keys and tokens.
    pub headers: Arc<Map>,
    /// What the client sent along for cloud code.
    pub context: Map,
    /// How many hooks called each other to get here.
    pub depth: usize,
}

impl Auth {
    pub fn anonymous(address: IpAddr) -> Self {
        Self {
            principals: Principals::ANONYMOUS,
            user: None,
            session: None,
            installation_id: None,
            address,
            headers: Arc::default(),
            context: Map::new(),
            depth: 0,
        }
    }

    pub fn is_master(&self) -> bool {
        self.principals.master
    }

    pub fn user_id(&self) -> Option<&ObjectId> {
        self.principals.user.as_ref()
    }

    /// Becomes the user of a session, or nobody.
    pub fn identify(&mut self, known: Option<(Session, Arc<Object>)>) {
        let (session, user) = known.unzip();
        self.principals.user = user.as_ref().map(|user| user.id.clone());
        self.user = user;
        self.session = session;
    }

    /// The same request with the master key's rights: for the server's own steps.
    #[must_use]
    pub fn as_master(&self) -> Self {
        Self { principals: Principals::MASTER, ..self.clone() }
    }
}
