//! What a person sees when a development server starts.

use crate::config::{Config, KeysFile, Mode, Origin};
use std::io::{IsTerminal, Write};

/// Prints URLs and keys: on a terminal at each start, elsewhere only when the keys are new. In production never.
pub(super) fn print(config: &Config, keys: &KeysFile) {
    let mut stdout = std::io::stdout().lock();
    let given = config.app_id.is_some() && config.master_key.is_some();
    let new = keys.origin == Origin::Made && !given;
    if config.mode == Mode::Production || !(new || stdout.is_terminal()) {
        return;
    }
    let (address, mount) = (config.address, &config.mount);
    let data = config.data_dir.display();
    let text = format!(
        "Tidings {version}, in development mode\n\
         \n  API          http://{address}{mount}\
         \n  Live queries ws://{address}{mount}\
         \n  Chat         http://{address}/chat\
         \n  App id       {app_id}\
         \n  Master key   {master_key}   (counts from this machine only)\
         \n  Data         {data}\n\n",
        version = env!("CARGO_PKG_VERSION"),
        app_id = keys.app_id,
        master_key = keys.master_key,
    );
    let _ = stdout.write_all(text.as_bytes());
}
