//! The keys that the server makes for itself on its first start.

use super::{Config, ConfigError};
use rand::Rng;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

/// The keys in force: those of the configuration, else those of the file.
#[derive(Clone, Debug)]
pub struct KeysFile {
    pub app_id: String,
    pub master_key: String,
    /// Signs session tokens. Never leaves the server.
    pub session_secret: Vec<u8>,
    pub origin: Origin,
}

/// Whether the keys are new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Made,
    Read,
}

const FILE: &str = "keys.toml";

impl KeysFile {
    /// Reads the keys from the data folder; on the first start makes them, readable by the owner only.
    ///
    /// # Errors
    /// A folder or file that cannot be read or written, or is damaged.
    pub fn open(config: &Config) -> Result<Self, ConfigError> {
        let path = config.data_dir.join(FILE);
        let failed = |error: &dyn std::fmt::Display| ConfigError(format!("{}: {error}", path.display()));
        fs::create_dir_all(&config.data_dir)
            .map_err(|error| ConfigError(format!("--data-dir {}: {error}", config.data_dir.display())))?;
        let (table, origin) = match fs::read_to_string(&path) {
            Ok(text) => (text.parse().map_err(|error: toml::de::Error| failed(&error))?, Origin::Read),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let table = make();
                write(&path, &table).map_err(|error| failed(&error))?;
                (table, Origin::Made)
            }
            Err(error) => return Err(failed(&error)),
        };
        let text = |name: &str| {
            let value = table.get(name).and_then(toml::Value::as_str).filter(|text| !text.is_empty());
            value.map(ToOwned::to_owned).ok_or_else(|| failed(&format!("{name} is missing")))
        };
        Ok(Self {
            app_id: config.app_id.clone().map_or_else(|| text("app-id"), Ok)?,
            master_key: config.master_key.clone().map_or_else(|| text("master-key"), Ok)?,
            session_secret: text("session-secret")?.into_bytes(),
            origin,
        })
    }
}

fn make() -> toml::Table {
    let mut table = toml::Table::new();
    for (name, length) in [("app-id", 16), ("master-key", 40), ("session-secret", 64)] {
        table.insert(name.into(), toml::Value::String(random(length)));
    }
    table
}

fn random(length: usize) -> String {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    (0..length).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
}

/// Written whole beside its place and moved there, so that a crash leaves no half file.
fn write(path: &Path, table: &toml::Table) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    writeln!(file, "# Made by tidings on its first start. Keep it secret; flags and variables win over it.\n{table}")?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn keys_are_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("data").display().to_string();
        let open = |flags: &[(&str, &str)]| {
            let mut all = vec![("data-dir".to_owned(), data_dir.clone())];
            all.extend(flags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
            let values = Sources { flags: all, ..Sources::default() }.resolve().unwrap();
            KeysFile::open(&Config::from_values(&values).unwrap()).unwrap()
        };
        let first = open(&[]);
        assert_eq!(first.origin, Origin::Made);
        let again = open(&[]);
        assert_eq!((again.origin, &again.master_key), (Origin::Read, &first.master_key));
        assert_eq!(again.session_secret, first.session_secret);
        assert_eq!(open(&[("app-id", "mine")]).app_id, "mine");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(folder.path().join("data/keys.toml")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}
