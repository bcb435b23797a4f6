//! Builds the rooms and wires them. The only place that knows all of them.

mod banner;
mod gate;
mod reads;
mod signals;

use crate::auth::{Hashing, Keys, Passwords, Sessions};
use crate::config::{Config, ConfigError, KeysFile, Mode};
use crate::hooks::{self, Hooks};
use crate::http::{self, Api, ChatSettings};
use crate::live::{self, Feed, LiveQueries};
use crate::net;
use crate::objects::{self, Objects};
use crate::schema::{ClassSchema, SchemaEdit};
use crate::storage::embedded::{Embedded, EmbeddedOptions};
use crate::storage::mongo::{Mongo, MongoOptions};
use crate::storage::{Storage, WriteError};
use crate::{host, telemetry, ws};
use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tidings_cloud_code::CloudCode;
use tidings_protocol::{ClassName, Code};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How often scripts are looked at for changes.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// How often expired sessions are looked for: their live subscriptions end within a second.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(500);

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4_096;

/// Runs a server until the process is told to stop.
///
/// # Errors
/// What keeps it from starting, in words for the operator.
pub fn run(mut config: Config) -> Outcome<()> {
    telemetry::start_logging(config.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let shutdown = signals::shutdown()?;
        let listener = bind(&config)?;
        config.address = listener.local_addr()?;
        let app = App::open(config).await?;
        app.serve(listener, shutdown).await;
        Ok(())
    })
}

fn bind(config: &Config) -> Outcome<TcpListener> {
    let bound = (|| {
        let socket = if config.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        // Accepted sockets inherit it.
        socket.set_send_buffer_size(ws::SEND_BUFFER_BYTES)?;
        socket.bind(config.address)?;
        socket.listen(BACKLOG)
    })();
    Ok(bound.map_err(|error: std::io::Error| ConfigError(format!("cannot listen on {}: {error}", config.address)))?)
}

/// A server that is built and does not serve yet.
pub struct App {
    config: Config,
    keys: KeysFile,
    storage: Arc<dyn Storage>,
    hooks: Hooks,
    objects: Objects,
    live: LiveQueries,
    api: Api,
}

impl App {
    /// Opens the store and builds everything on it, from below to above.
    ///
    /// # Errors
    /// Keys, scripts or a store that cannot be read.
    pub async fn open(config: Config) -> Outcome<Self> {
        signals::raise_file_limit();
        let metrics = telemetry::start_metrics();
        let keys = KeysFile::open(&config)?;
        let storage = open_store(&config, &keys).await?;
        make_system_classes(&*storage).await?;

        let scripts = config.cloud_code.as_deref().filter(|folder| folder.join("main.rhai").exists());
        let cloud_code = scripts.map_or_else(|| Ok(CloudCode::none()), CloudCode::load)?;
        let hooks = Hooks::new(cloud_code, hooks::Settings { deadline: config.hook_timeout, ..Default::default() });
        let sessions = Sessions::new(&keys.session_secret);
        let objects = Objects::new(
            storage.clone(),
            hooks.clone(),
            client_keys(&config, &keys),
            if config.database_url.is_some() { sessions.in_shared_store() } else { sessions },
            Passwords::new(if config.database_url.is_some() { Hashing::Bcrypt } else { Hashing::Argon2 }),
            objects_settings(&config),
        );
        hooks.plug(host::plug(objects.clone(), tokio::runtime::Handle::current()));
        let feed = Feed {
            tail: storage.tail(),
            source: storage.change_source(),
            timeline: storage.snapshot().await.map_err(|error| error.0)?.cursor().timeline,
        };
        let reads = reads::StorageReads { storage: storage.clone(), objects: objects.clone() };
        let live = LiveQueries::start(feed, Arc::new(reads), live_settings(&config))?;
        let api = Api::new(objects.clone(), http_settings(&config, &keys), metrics);
        Ok(Self { config, keys, storage, hooks, objects, live, api })
    }

    /// Serves until `shutdown` becomes true; then lets connections finish and closes the store. The listener is at the
    /// configuration's address.
    pub async fn serve(self, listener: TcpListener, shutdown: watch::Receiver<bool>) {
        banner::print(&self.config, &self.keys);
        {
            let mut stdout = std::io::stdout().lock();
            let _ = writeln!(stdout, "ready http://{}{}", self.config.address, self.config.mount);
            let _ = stdout.flush();
        }
        let watching = tokio::spawn({
            let hooks = self.hooks.clone();
            async move { hooks.watch(RELOAD_INTERVAL).await }
        });
        let expiring = tokio::spawn(end_expired_sessions(self.objects.clone()));
        let live = net::Live {
            live: self.live.clone(),
            gate: Arc::new(gate::ObjectsGate(self.objects.clone())),
            settings: Arc::new(ws_settings(&self.config)),
            max_frame: self.config.max_frame_size,
        };
        net::serve(listener, self.api.clone(), live, net_limits(&self.config), shutdown).await;
        watching.abort();
        expiring.abort();
        self.live.stop();
        let hooks = self.hooks.clone();
        let _ = tokio::task::spawn_blocking(move || hooks.close()).await;
        self.storage.close().await;
        tracing::info!("stopped");
    }
}

/// Sessions end when their time is over, and not only when somebody presents them.
async fn end_expired_sessions(objects: Objects) {
    let mut ticks = tokio::time::interval(EXPIRY_INTERVAL);
    loop {
        ticks.tick().await;
        if let Err(error) = objects.end_expired_sessions().await {
            tracing::warn!(?error, "expired sessions could not be ended");
        }
    }
}

async fn open_store(config: &Config, keys: &KeysFile) -> Outcome<Arc<dyn Storage>> {
    Ok(match &config.database_url {
        Some(url) => {
            let here = || format!("http://{}{}", config.address, config.mount);
            let server = config.public_server_url.clone().unwrap_or_else(here);
            let options = MongoOptions {
                object_bytes: config.max_object_size,
                files_url: Some(format!("{server}/files/{}/", keys.app_id)),
                ..MongoOptions::default()
            };
            Mongo::open(url, options).await?
        }
        None => Embedded::open(&config.data_dir.join("store"), embedded_options(config))?,
    })
}

/// `_User` and `_Session` exist before anybody signs up.
async fn make_system_classes(storage: &dyn Storage) -> Outcome<()> {
    let known = storage.schemas();
    let missing = [ClassName::USER, ClassName::SESSION].into_iter().filter(|class| !known.contains_key(class));
    // Both are under way before either is waited for, so that a first start waits for one sync.
    let edits: Vec<_> = missing.map(|class| storage.edit_schema(SchemaEdit::Create(ClassSchema::new(class)))).collect();
    for edit in edits {
        match edit.await {
            Ok(_) => {}
            // Another node was first.
            Err(WriteError::Rejected(error)) if error.code == Code::InvalidClassName => {}
            Err(WriteError::Rejected(error)) => return Err(error.into()),
            Err(error) => return Err(format!("the system classes cannot be made: {error:?}").into()),
        }
    }
    Ok(())
}

fn client_keys(config: &Config, keys: &KeysFile) -> Keys {
    let key = |key: &Option<String>| key.as_deref().map(Into::into);
    Keys {
        application_id: keys.app_id.as_str().into(),
        master: keys.master_key.as_str().into(),
        javascript: key(&config.javascript_key),
        rest: key(&config.rest_key),
        client: key(&config.client_key),
        master_addresses: config.master_key_ips.clone(),
    }
}

fn embedded_options(config: &Config) -> EmbeddedOptions {
    EmbeddedOptions {
        cache_bytes: config.object_cache_size as u64,
        object_bytes: config.max_object_size,
        retention_age: config.change_retention,
        retention_bytes: config.change_retention_size,
        ..EmbeddedOptions::default()
    }
}

fn objects_settings(config: &Config) -> objects::Settings {
    objects::Settings {
        allow_client_class_creation: config.allow_client_class_creation,
        session_length: config.session_length,
        default_limit: config.default_limit,
        max_limit: config.max_limit,
        live_classes: config.live_classes.clone(),
        max_lag_bytes: config.max_lag_size,
        max_lag: config.max_lag,
    }
}

fn live_settings(config: &Config) -> live::Settings {
    live::Settings {
        coalesce_mark: config.outbox_coalesce,
        resync_mark: config.outbox_resync,
        close_mark: config.outbox_close,
        global_mark: config.max_lag_size,
        max_subscriptions: config.max_subscriptions,
        checkpoint: config.checkpoint_interval,
        replay_changes: config.resume_changes,
        ..live::Settings::default()
    }
}

fn ws_settings(config: &Config) -> ws::Settings {
    ws::Settings {
        ping: config.websocket_timeout,
        // A connection that missed three pings is gone.
        alive: config.websocket_timeout * 3,
        drain: config.drain_timeout / 2,
        ..ws::Settings::default()
    }
}

fn http_settings(config: &Config, keys: &KeysFile) -> http::Settings {
    http::Settings {
        mount: config.mount.clone(),
        max_batch: config.batch_request_limit,
        chat: (config.mode == Mode::Development).then(|| ChatSettings {
            application_id: keys.app_id.clone(),
            javascript_key: config.javascript_key.clone(),
        }),
    }
}

fn net_limits(config: &Config) -> net::Limits {
    net::Limits {
        max_connections: config.max_connections,
        max_connections_per_address: config.max_connections_per_address,
        head_timeout: config.head_timeout,
        progress_timeout: config.body_timeout,
        idle_timeout: config.idle_timeout,
        max_body: config.max_upload_size,
        drain_timeout: config.drain_timeout,
    }
}
