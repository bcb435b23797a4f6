//! Application id and keys: may this request come in at all, and does it come as master?

use super::Credentials;
use compact_str::CompactString;
use std::net::IpAddr;
use subtle::ConstantTimeEq;

/// The keys of this server, and from where the master key counts.
#[derive(Clone, Debug)]
pub struct Keys {
    pub application_id: CompactString,
    pub master: CompactString,
    pub javascript: Option<CompactString>,
    pub rest: Option<CompactString>,
    pub client: Option<CompactString>,
    /// Addresses that may use the master key; empty means loopback only.
    pub master_addresses: Vec<IpAddr>,
}

/// What the keys of a request allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyCheck {
    Master,
    Client,
    Refused,
}

impl Keys {
    /// A wrong master key makes an ordinary client, as in Parse; the right one from elsewhere is refused. If any
    /// client key is configured, an ordinary client must present one that matches.
    pub fn check(&self, credentials: &Credentials) -> KeyCheck {
        if !credentials.application_id.as_ref().is_some_and(|id| same(id, &self.application_id)) {
            return KeyCheck::Refused;
        }
        if credentials.master_key.as_ref().is_some_and(|key| same(key, &self.master)) {
            return if self.trusts(credentials.address) { KeyCheck::Master } else { KeyCheck::Refused };
        }
        let pairs = [
            (&self.javascript, &credentials.javascript_key),
            (&self.rest, &credentials.rest_key),
            (&self.client, &credentials.client_key),
        ];
        let needed = pairs.iter().any(|(configured, _)| configured.is_some());
        let fits = pairs.iter().any(|pair| matches!(pair, (Some(ours), Some(theirs)) if same(ours, theirs)));
        if fits || !needed { KeyCheck::Client } else { KeyCheck::Refused }
    }

    /// Whether the master key counts from this address.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if self.master_addresses.is_empty() { address.is_loopback() } else { self.master_addresses.contains(&address) }
    }
}

/// Takes the same time wherever two texts of one length differ.
fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(app: &str, master: Option<&str>, javascript: Option<&str>, address: &str) -> Credentials {
        Credentials {
            application_id: Some(app.into()),
            master_key: master.map(Into::into),
            javascript_key: javascript.map(Into::into),
            rest_key: None,
            client_key: None,
            session_token: None,
            installation_id: None,
            address: address.parse().unwrap(),
        }
    }

    #[test]
    fn keys_decide_who_comes_in() {
        let mut keys = Keys {
            application_id: "app".into(),
            master: "master".into(),
            javascript: None,
            rest: None,
            client: None,
            master_addresses: Vec::new(),
        };
        let here = "127.0.0.1";
        assert_eq!(keys.check(&credentials("app", None, None, here)), KeyCheck::Client);
        assert_eq!(keys.check(&credentials("other", Some("master"), None, here)), KeyCheck::Refused);
        assert_eq!(keys.check(&credentials("app", Some("master"), None, here)), KeyCheck::Master);
        assert_eq!(keys.check(&credentials("app", Some("master"), None, "::ffff:127.0.0.1")), KeyCheck::Master);
        assert_eq!(keys.check(&credentials("app", Some("master"), None, "10.0.0.1")), KeyCheck::Refused);
        assert_eq!(keys.check(&credentials("app", Some("wrong"), None, here)), KeyCheck::Client);
        keys.javascript = Some("js".into());
        assert_eq!(keys.check(&credentials("app", None, None, here)), KeyCheck::Refused);
        assert_eq!(keys.check(&credentials("app", None, Some("js"), here)), KeyCheck::Client);
        assert_eq!(keys.check(&credentials("app", Some("wrong"), Some("no"), here)), KeyCheck::Refused);
    }
}
