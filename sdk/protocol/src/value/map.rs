//! Fields by name.

use super::{Value, heap};
use compact_str::CompactString;

/// Fields in the order in which they were set. Few enough that a scan beats hashing.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Map(Vec<(CompactString, Value)>);

impl Map {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes pairs as they came; of equal names the last one counts.
    pub fn from_pairs(mut pairs: Vec<(CompactString, Value)>) -> Self {
        remove_shadowed(&mut pairs);
        Self(pairs)
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        self.0.iter_mut().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Sets a field and returns its former value.
    pub fn insert(&mut self, name: impl Into<CompactString> + AsRef<str>, value: Value) -> Option<Value> {
        match self.get_mut(name.as_ref()) {
            Some(slot) => Some(std::mem::replace(slot, value)),
            None => {
                self.0.push((name.into(), value));
                None
            }
        }
    }

    pub fn remove(&mut self, name: &str) -> Option<Value> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(at).1)
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&str, &Value) -> bool) {
        self.0.retain(|(name, value)| keep(name, value));
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&CompactString, &Value)> + Clone {
        self.0.iter().map(|(name, value)| (name, value))
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Value> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn weight(&self) -> usize {
        self.0.iter().map(|(name, value)| size_of::<CompactString>() + heap(name) + value.weight()).sum()
    }
}

impl IntoIterator for Map {
    type Item = (CompactString, Value);
    type IntoIter = std::vec::IntoIter<Self::Item>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(CompactString, Value)> for Map {
    fn from_iter<I: IntoIterator<Item = (CompactString, Value)>>(pairs: I) -> Self {
        Self::from_pairs(pairs.into_iter().collect())
    }
}

/// Builds a [`Map`]: `map! { "text" => "hi", "count" => 2.0 }`.
#[macro_export]
macro_rules! map {
    ($($name:expr => $value:expr),* $(,)?) => {
        $crate::value::Map::from_pairs(vec![$(($name.into(), $crate::value::Value::from($value))),*])
    };
}

/// Keeps the last of each name. A scan for a few fields, sorting for many: a hostile body must not cost its square.
fn remove_shadowed(pairs: &mut Vec<(CompactString, Value)>) {
    let count = pairs.len();
    let mut shadowed = vec![false; if count > 16 { count } else { 0 }];
    if count > 16 {
        let mut by_name: Vec<usize> = (0..count).collect();
        by_name.sort_by(|a, b| pairs[*a].0.cmp(&pairs[*b].0).then(a.cmp(b)));
        for pair in by_name.windows(2) {
            shadowed[pair[0]] = pairs[pair[0]].0 == pairs[pair[1]].0;
        }
        if shadowed.contains(&true) {
            let mut flags = shadowed.into_iter();
            pairs.retain(|_| !flags.next().unwrap_or(false));
        }
        return;
    }
    let mut at = 0;
    while at < pairs.len() {
        if pairs[at + 1..].iter().any(|(name, _)| *name == pairs[at].0) {
            pairs.remove(at);
        } else {
            at += 1;
        }
    }
}
