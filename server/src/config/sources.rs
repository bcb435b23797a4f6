//! Where settings come from, and which source wins.

use super::settings::{LATER, SETTINGS, Setting};
use super::{ByteSize, ConfigError};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// The three places where an operator can say something.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub flags: Vec<(String, String)>,
    /// Pairs of variable and value; see [`unknown_variables`](Self::unknown_variables).
    pub environment: Vec<(String, String)>,
    /// `--config FILE`. Without it `./tidings.toml` is read if it exists.
    pub file: Option<PathBuf>,
}

/// Each setting's value, and who said it.
#[derive(Clone, Debug)]
pub struct Values(HashMap<&'static str, Value>);

#[derive(Clone, Debug)]
struct Value {
    text: String,
    /// As messages name it: `--port`, `TIDINGS_PORT`, `tidings.toml`.
    said_in: String,
}

/// The variable that filters logs; it is read where logging starts.
pub const LOG_FILTER: &str = "TIDINGS_LOG";

const DEFAULT_FILE: &str = "tidings.toml";

impl Sources {
    /// # Errors
    /// A file that cannot be read, a name that is no setting, a setting that is not built yet.
    pub fn resolve(&self) -> Result<Values, ConfigError> {
        let mut values = Values(HashMap::new());
        for Setting { name, default, .. } in SETTINGS.iter().filter(|setting| !setting.default.is_empty()) {
            values.0.insert(name, Value { text: (*default).into(), said_in: String::new() });
        }
        for (name, text, said_in) in self.said_in_file()? {
            values.say(&name, text, said_in)?;
        }
        let variables: HashMap<&str, &str> =
            self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        for name in SETTINGS.iter().map(|setting| setting.name).chain(LATER.iter().copied()) {
            let variable = variable(name);
            if let Some(text) = variables.get(variable.as_str()) {
                values.say(name, (*text).to_owned(), variable)?;
            }
        }
        for (name, text) in &self.flags {
            values.say(name, text.clone(), format!("--{name}"))?;
        }
        Ok(values)
    }

    /// Variables that look like settings and are none: spelling mistakes, or meant for scripts around the server.
    pub fn unknown_variables(&self) -> impl Iterator<Item = &str> {
        let known: HashSet<String> =
            SETTINGS.iter().map(|setting| setting.name).chain(LATER.iter().copied()).map(variable).collect();
        let names = self.environment.iter().map(|(name, _)| name.as_str());
        names.filter(move |name| name.starts_with("TIDINGS_") && *name != LOG_FILTER && !known.contains(*name))
    }

    fn said_in_file(&self) -> Result<Vec<(String, String, String)>, ConfigError> {
        let path = self.file.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if self.file.is_none() && error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(ConfigError(format!("{}: {error}", path.display()))),
        };
        let table: toml::Table = text.parse().map_err(|error| ConfigError(format!("{}: {error}", path.display())))?;
        let mut found = Vec::new();
        flatten("", &table, &path, &mut found)?;
        Ok(found)
    }
}

/// `[live-query] class-names = ["A"]` is `live-query.class-names = A`.
fn flatten(
    prefix: &str,
    table: &toml::Table,
    path: &Path,
    found: &mut Vec<(String, String, String)>,
) -> Result<(), ConfigError> {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        let text = match value {
            toml::Value::Table(inner) => {
                flatten(&name, inner, path, found)?;
                continue;
            }
            toml::Value::Array(items) => {
                let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
                items.map(|items| items.join(","))
            }
            toml::Value::String(text) => Some(text.clone()),
            toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => Some(value.to_string()),
            toml::Value::Datetime(_) => None,
        };
        let text =
            text.ok_or_else(|| ConfigError(format!("{}: {name} has a value of the wrong kind", path.display())))?;
        found.push((name, text, path.display().to_string()));
    }
    Ok(())
}

/// The environment variable of a setting.
fn variable(name: &str) -> String {
    format!("TIDINGS_{}", name.replace('.', "__").replace('-', "_").to_ascii_uppercase())
}

impl Values {
    fn say(&mut self, name: &str, text: String, said_in: String) -> Result<(), ConfigError> {
        if LATER.iter().any(|later| name == *later || name.starts_with(&format!("{later}."))) {
            return Err(ConfigError(format!("--{name} ({said_in}) is not supported by this version of Tidings yet")));
        }
        let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) else {
            return Err(ConfigError(format!(
                "{said_in}: there is no setting {name}; `tidings serve --help` lists them"
            )));
        };
        self.0.insert(setting.name, Value { text, said_in });
        Ok(())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.text.trim())
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    pub(super) fn is_default(&self, name: &str) -> bool {
        self.0.get(name).is_none_or(|value| value.said_in.is_empty())
    }

    pub(super) fn wrong(&self, name: &str, advice: &str) -> ConfigError {
        match self.0.get(name) {
            Some(Value { text, said_in }) if said_in.starts_with("TIDINGS_") || said_in.ends_with("toml") => {
                ConfigError(format!("--{name} ({said_in}) is {text:?}: {advice}"))
            }
            Some(Value { text, .. }) => ConfigError(format!("--{name} is {text:?}: {advice}")),
            None => ConfigError(format!("--{name} {advice}")),
        }
    }

    pub(super) fn parse<T: FromStr>(&self, name: &str, advice: &str) -> Result<T, ConfigError> {
        self.text(name).parse().map_err(|_| self.wrong(name, advice))
    }

    /// A text that may be missing, but not empty.
    pub(super) fn optional(&self, name: &str) -> Result<Option<String>, ConfigError> {
        match self.get(name) {
            Some("") => Err(self.wrong(name, "must not be empty")),
            text => Ok(text.map(ToOwned::to_owned)),
        }
    }

    pub(super) fn positive<T: FromStr + PartialOrd + From<u8>>(&self, name: &str) -> Result<T, ConfigError> {
        let advice = "must be a whole number greater than 0";
        let number: T = self.parse(name, advice)?;
        if number >= T::from(1) { Ok(number) } else { Err(self.wrong(name, advice)) }
    }

    pub(super) fn seconds(&self, name: &str) -> Result<Duration, ConfigError> {
        let seconds: u64 = self.positive(name)?;
        // A century: sums of times must not overflow.
        if seconds > 3_155_760_000 {
            return Err(self.wrong(name, "is too long"));
        }
        Ok(Duration::from_secs(seconds))
    }

    pub(super) fn size(&self, name: &str) -> Result<usize, ConfigError> {
        self.parse(name, "must be a size such as 20mb").map(|ByteSize(bytes)| bytes)
    }

    pub(super) fn list<T: FromStr>(&self, name: &str, advice: &str) -> Result<Option<Vec<T>>, ConfigError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let items: Vec<T> =
            items.map(|item| item.parse().map_err(|_| self.wrong(name, advice))).collect::<Result<_, _>>()?;
        if items.is_empty() { Err(self.wrong(name, advice)) } else { Ok(Some(items)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("some.toml");
        std::fs::write(
            &file,
            "port = 1\nhost = \"127.0.0.2\"\nmax-limit = 7\n[live-query]\nclass-names = [\"A\", \"B\"]\n",
        )
        .unwrap();
        let sources = Sources {
            flags: vec![("port".into(), "3".into())],
            environment: vec![
                ("TIDINGS_PORT".into(), "2".into()),
                ("TIDINGS_HOST".into(), "127.0.0.3".into()),
                ("TIDINGS_LIVE_QUERY__MAX_LAG".into(), "9".into()),
                ("TIDINGS_BIN".into(), "ignored".into()),
            ],
            file: Some(file),
        };
        let values = sources.resolve().unwrap();
        assert_eq!(values.text("port"), "3");
        assert_eq!(values.text("host"), "127.0.0.3");
        assert_eq!(values.text("max-limit"), "7");
        assert_eq!(values.text("live-query.class-names"), "A,B");
        assert_eq!(values.text("live-query.max-lag"), "9");
        assert_eq!(values.text("mount"), "/parse");
        assert!(values.wrong("host", "no").0.contains("TIDINGS_HOST"));
        assert_eq!(sources.unknown_variables().collect::<Vec<_>>(), ["TIDINGS_BIN"]);
    }

    #[test]
    fn an_unknown_name_in_a_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("some.toml");
        for (text, part) in
            [("prot = 1", "prot"), ("[idempotency-options]\npaths = []", "idempotency"), ("port = ", "some.toml")]
        {
            std::fs::write(&file, text).unwrap();
            let error = Sources { file: Some(file.clone()), ..Sources::default() }.resolve().unwrap_err();
            assert!(error.0.contains(part), "{error}");
        }
        let missing = Sources { file: Some(folder.path().join("none.toml")), ..Sources::default() };
        assert!(missing.resolve().is_err());
    }
}
