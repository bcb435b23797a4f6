//! One typed set of settings, from defaults < file < environment < flags.
//!
//! Every setting has one name everywhere: `max-limit` is the flag `--max-limit`, the variable `TIDINGS_MAX_LIMIT` and
//! the key `max-limit` of `tidings.toml`; a dot becomes two underscores in a variable. Names are Parse Server's, in
//! kebab-case, wherever Parse has the setting.

mod keys_file;
mod settings;
mod sources;

pub use keys_file::{KeysFile, Origin};
pub use settings::{LATER, SETTINGS, Setting};
pub use sources::{LOG_FILTER, Sources, Values};

use regex::RegexSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// What the operator decided.
#[derive(Clone, Debug)]
pub struct Config {
    pub mode: Mode,
    pub address: SocketAddr,
    /// `/parse`; empty for the root.
    pub mount: String,
    /// Where clients find the API, if not where it listens; without a slash at the end.
    pub public_server_url: Option<String>,
    pub data_dir: PathBuf,
    /// `None` is the embedded store.
    pub database_url: Option<String>,
    pub app_id: Option<String>,
    pub master_key: Option<String>,
    pub javascript_key: Option<String>,
    pub rest_key: Option<String>,
    pub client_key: Option<String>,
    pub master_key_ips: Vec<IpAddr>,
    /// The folder of the scripts, if there is one.
    pub cloud_code: Option<PathBuf>,
    pub hook_timeout: Duration,
    pub log_format: LogFormat,
    pub allow_client_class_creation: bool,
    pub session_length: Duration,
    pub default_limit: u64,
    pub max_limit: u64,
    pub max_upload_size: usize,
    pub batch_request_limit: usize,
    pub max_object_size: usize,
    pub object_cache_size: usize,
    pub change_retention: Duration,
    pub change_retention_size: u64,
    pub max_connections: usize,
    pub max_connections_per_address: usize,
    pub head_timeout: Duration,
    pub body_timeout: Duration,
    pub idle_timeout: Duration,
    pub drain_timeout: Duration,
    /// `None` is every class.
    pub live_classes: Option<RegexSet>,
    pub max_subscriptions: usize,
    pub websocket_timeout: Duration,
    pub max_frame_size: usize,
    pub outbox_coalesce: usize,
    pub outbox_resync: usize,
    pub outbox_close: usize,
    pub max_lag_size: usize,
    pub max_lag: Duration,
    pub checkpoint_interval: Duration,
    pub resume_changes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Behaves as a tutorial expects, on loopback only.
    Development,
    /// Refuses what is not decided.
    Production,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// A setting that cannot be, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads every setting and checks that they go together.
    ///
    /// # Errors
    /// The first setting that is malformed, not built yet, or missing in production; it is named.
    pub fn from_values(values: &Values) -> Result<Self, ConfigError> {
        let mode = match values.text("mode") {
            "development" => Mode::Development,
            "production" => Mode::Production,
            _ => return Err(values.wrong("mode", "must be development or production")),
        };
        let log_format = match values.text("log-format") {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => return Err(values.wrong("log-format", "must be text or json")),
        };
        let host: IpAddr = match values.text("host") {
            "localhost" => IpAddr::from([127, 0, 0, 1]),
            _ => values.parse("host", "must be an IP address")?,
        };
        let config = Self {
            mode,
            address: SocketAddr::new(host, values.parse("port", "must be a number from 0 to 65535")?),
            mount: mount(values)?,
            public_server_url: public_server_url(values)?,
            data_dir: values.text("data-dir").into(),
            database_url: database_url(values)?,
            app_id: values.optional("app-id")?,
            master_key: values.optional("master-key")?,
            javascript_key: values.optional("javascript-key")?,
            rest_key: values.optional("rest-key")?,
            client_key: values.optional("client-key")?,
            master_key_ips: values
                .list("master-key-ips", "must be IP addresses, separated by commas")?
                .unwrap_or_default(),
            cloud_code: cloud_code(values)?,
            hook_timeout: values.seconds("hook-timeout")?,
            log_format,
            allow_client_class_creation: match values.get("allow-client-class-creation") {
                None => mode == Mode::Development,
                Some(_) => values.parse("allow-client-class-creation", "must be true or false")?,
            },
            session_length: values.seconds("session-length")?,
            default_limit: values.positive("default-limit")?,
            max_limit: values.positive("max-limit")?,
            max_upload_size: values.size("max-upload-size")?,
            batch_request_limit: values.positive("batch-request-limit")?,
            max_object_size: values.size("max-object-size")?,
            object_cache_size: values.size("object-cache-size")?,
            change_retention: values.seconds("change-retention")?,
            change_retention_size: values.size("change-retention-size")? as u64,
            max_connections: values.positive("max-connections")?,
            max_connections_per_address: values.positive("max-connections-per-address")?,
            head_timeout: values.seconds("head-timeout")?,
            body_timeout: values.seconds("body-timeout")?,
            idle_timeout: values.seconds("idle-timeout")?,
            drain_timeout: values.seconds("drain-timeout")?,
            live_classes: live_classes(values)?,
            max_subscriptions: values.positive("live-query.max-subscriptions")?,
            websocket_timeout: Duration::from_millis(values.positive("websocket-timeout")?),
            max_frame_size: values.size("live-query.max-frame-size")?,
            outbox_coalesce: values.size("live-query.outbox-coalesce")?,
            outbox_resync: values.size("live-query.outbox-resync")?,
            outbox_close: values.size("live-query.outbox-close")?,
            max_lag_size: values.size("live-query.max-lag-size")?,
            max_lag: values.seconds("live-query.max-lag")?,
            checkpoint_interval: values.seconds("live-query.checkpoint-interval")?,
            resume_changes: values.positive("live-query.resume-changes")?,
        };
        config.check(values)?;
        Ok(config)
    }

    fn check(&self, values: &Values) -> Result<(), ConfigError> {
        if !self.address.ip().is_loopback() {
            let advice = match self.mode {
                Mode::Development => "development serves loopback only; use --mode production for anything else",
                Mode::Production => {
                    "other addresses need TLS, which is not built yet; listen on 127.0.0.1 behind a proxy that has it"
                }
            };
            return Err(values.wrong("host", advice));
        }
        if !(self.outbox_coalesce <= self.outbox_resync && self.outbox_resync <= self.outbox_close) {
            return Err(values.wrong("live-query.outbox-coalesce", "must be at most -resync, and that at most -close"));
        }
        if self.mode == Mode::Production {
            let needed = [
                ("--app-id", self.app_id.is_none()),
                ("--master-key", self.master_key.is_none()),
                ("--live-query.class-names (the classes that may be subscribed to)", self.live_classes.is_none()),
            ];
            let missing = needed.into_iter().filter(|(_, is_missing)| *is_missing);
            let missing: Vec<&str> = missing.map(|(name, _)| name).collect();
            if !missing.is_empty() {
                return Err(ConfigError(format!("production needs {}", missing.join(", "))));
            }
        }
        Ok(())
    }
}

fn public_server_url(values: &Values) -> Result<Option<String>, ConfigError> {
    const NAME: &str = "public-server-url";
    let Some(url) = values.get(NAME) else { return Ok(None) };
    let parsed: Result<http::Uri, _> = url.parse();
    match parsed {
        Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) && uri.query().is_none() => {
            Ok(Some(url.trim_end_matches('/').to_owned()))
        }
        _ => Err(values.wrong(NAME, "must be a URL such as https://example.com/parse")),
    }
}

fn mount(values: &Values) -> Result<String, ConfigError> {
    let mount = values.text("mount").trim_end_matches('/');
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "/-_.~".contains(letter);
    if mount.eq_ignore_ascii_case("/chat") || mount.to_ascii_lowercase().starts_with("/chat/") {
        return Err(values.wrong("mount", "is where the chat page is; choose another path"));
    }
    if !mount.is_empty() && (!mount.starts_with('/') || mount.contains("//") || !mount.chars().all(fits)) {
        return Err(values.wrong("mount", "must be a path such as /parse, or / for the root"));
    }
    Ok(mount.to_owned())
}

/// Messages never quote it: it may hold a password.
fn database_url(values: &Values) -> Result<Option<String>, ConfigError> {
    let Some(url) = values.get("database-url") else { return Ok(None) };
    if !(url.starts_with("mongodb://") || url.starts_with("mongodb+srv://")) {
        return Err(ConfigError("--database-url must begin with mongodb:// or mongodb+srv://".to_owned()));
    }
    Ok(Some(url.to_owned()))
}

/// A folder that was named must exist; the default one may be missing.
fn cloud_code(values: &Values) -> Result<Option<PathBuf>, ConfigError> {
    let folder = PathBuf::from(values.text("cloud-code"));
    match folder.is_dir() {
        true => Ok(Some(folder)),
        false if values.is_default("cloud-code") => Ok(None),
        false => Err(values.wrong("cloud-code", "must be a folder that exists")),
    }
}

/// A number of bytes: `1048576`, `256kb`, `20mb`, `1gb`.
#[derive(Clone, Copy)]
struct ByteSize(usize);

impl FromStr for ByteSize {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.trim().to_ascii_lowercase();
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let unit = match text[digits.len()..].trim() {
            "" | "b" => 1,
            "k" | "kb" => 1 << 10,
            "m" | "mb" => 1 << 20,
            "g" | "gb" => 1 << 30,
            _ => return Err(()),
        };
        let number: usize = digits.trim().parse().map_err(drop)?;
        number.checked_mul(unit).filter(|bytes| *bytes > 0).map(Self).ok_or(())
    }
}

/// As in Parse, each entry is a regular expression for whole names: `.*` means all.
fn live_classes(values: &Values) -> Result<Option<RegexSet>, ConfigError> {
    const NAME: &str = "live-query.class-names";
    const ADVICE: &str = "must be class names, or expressions for them, separated by commas";
    let Some(names) = values.list::<String>(NAME, ADVICE)? else { return Ok(None) };
    let whole = names.iter().map(|name| format!("^(?:{name})$"));
    RegexSet::new(whole).map(Some).map_err(|_| values.wrong(NAME, ADVICE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let flags = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let sources = Sources { flags, environment: Vec::new(), file: None };
        Config::from_values(&sources.resolve()?)
    }

    #[test]
    fn the_defaults_are_a_development_server() {
        let config = read(&[]).unwrap();
        assert_eq!(config.address, "127.0.0.1:1337".parse().unwrap());
        assert_eq!((config.mount.as_str(), config.mode), ("/parse", Mode::Development));
        assert!(config.allow_client_class_creation && config.live_classes.is_none());
        assert_eq!(config.session_length, Duration::from_secs(31_536_000));
        assert_eq!(config.max_upload_size, 20 << 20);
        assert_eq!(read(&[("mount", "/")]).unwrap().mount, "");
        assert_eq!(read(&[("mount", "/a/b/")]).unwrap().mount, "/a/b");
    }

    #[test]
    fn clients_may_find_the_server_elsewhere() {
        let url = |text: &str| read(&[("public-server-url", text)]).map(|config| config.public_server_url);
        assert_eq!(url("https://example.com/parse/").unwrap().as_deref(), Some("https://example.com/parse"));
        for wrong in ["example.com", "ftp://example.com", "https://example.com/?a=b", "https://"] {
            assert!(url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn production_refuses_what_is_not_decided() {
        let error = read(&[("mode", "production")]).unwrap_err();
        assert!(error.0.contains("--app-id"), "{error}");
        let decided =
            [("mode", "production"), ("app-id", "a"), ("master-key", "m"), ("live-query.class-names", "A, B")];
        let config = read(&decided).unwrap();
        assert!(!config.allow_client_class_creation);
        let live = config.live_classes.unwrap();
        assert!(live.is_match("A") && live.is_match("B") && !live.is_match("AB"));
    }

    #[test]
    fn a_wrong_setting_is_named() {
        for (name, value) in [
            ("port", "x"),
            ("port", "70000"),
            ("host", "example"),
            ("host", "0.0.0.0"),
            ("mode", "test"),
            ("mount", "parse"),
            ("mount", "/a b"),
            ("log-format", "xml"),
            ("session-length", "-1"),
            ("max-upload-size", "many"),
            ("cloud-code", "/no/such/folder"),
            ("master-key", ""),
            ("allow-client-class-creation", "maybe"),
            ("master-key-ips", "here"),
            ("max-limit", "0"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.0.contains(&format!("--{name}")), "{name}={value}: {error}");
        }
    }

    #[test]
    fn a_database_is_mongodb_and_its_password_is_not_told() {
        let url = "mongodb+srv://me:secret@example.org/app";
        assert_eq!(read(&[("database-url", url)]).unwrap().database_url.as_deref(), Some(url));
        assert_eq!(read(&[]).unwrap().database_url, None);
        let error = read(&[("database-url", "postgres://me:secret@example.org")]).unwrap_err();
        assert!(error.0.contains("--database-url") && !error.0.contains("secret"), "{error}");
    }

    #[test]
    fn a_setting_of_a_later_version_is_refused() {
        let error = read(&[("database-options", "x")]).unwrap_err();
        assert!(error.0.contains("--database-options") && error.0.contains("not"), "{error}");
    }
}
