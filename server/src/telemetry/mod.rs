//! What operators see: logs on stderr, metrics for Prometheus.

use crate::config::{LOG_FILTER, LogFormat};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Our own doings; of the store's files only what is wrong with them.
const DEFAULT_FILTER: &str = "info,fjall=warn,lsm_tree=warn";

/// Starts logging. `TIDINGS_LOG` filters, in the notation of `tracing-subscriber`; the default is `info`, and `warn` for the files of the store.
pub fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_env(LOG_FILTER).unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let colours = std::io::stderr().is_terminal();
    let logger = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    // A logger that is there already (in tests) stays.
    let _ = match format {
        LogFormat::Text => logger.with_target(false).try_init(),
        LogFormat::Json => logger.json().try_init(),
    };
}

/// Starts collecting metrics. In one process only the first call counts; the others get a handle that stays empty.
pub fn start_metrics() -> PrometheusHandle {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _ = metrics::set_global_recorder(recorder);
    handle
}
