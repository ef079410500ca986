//! One layer of configuration: a table of values, each with its origin.

use std::collections::BTreeMap;

use ::config::{ConfigError as Inner, Map, Source, Value, ValueKind};
use serde_json::Value as Json;

use super::{ConfigError, DEFAULTS};

/// Prefix of our environment variables.
pub(super) const PREFIX: &str = "CONNTRACCT_";

/// One layer, already parsed.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    origin: String,
    map: Map<String, Value>,
}

impl Layer {
    pub(super) fn new(origin: String, map: Map<String, Value>) -> Self {
        Self { origin, map }
    }

    /// The defaults: every key of the schema that has a value.
    pub(super) fn from_schema(schema: &Json) -> Self {
        let origin = DEFAULTS.to_owned();
        let map = match value(&origin, schema).map(|value| value.kind) {
            Some(ValueKind::Table(map)) => map,
            _ => Map::new(),
        };
        Self { origin, map }
    }

    /// `CONNTRACCT_A__B=x` becomes `a.b = x`; where the schema has a list, commas separate.
    pub(super) fn from_variables(
        schema: &Json,
        variables: &BTreeMap<String, String>,
    ) -> Result<Self, ConfigError> {
        let mut layer = Self::default();
        for (name, text) in variables {
            let Some(key) = name.strip_prefix(PREFIX) else { continue };
            let key = key.to_lowercase().replace("__", ".");
            let origin = format!("environment variable {name}");
            let is_list = at(schema, &key).is_some_and(Json::is_array);
            let value = if is_list {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Value::new(Some(&origin), items.map(str::to_owned).collect::<Vec<_>>())
            } else {
                Value::new(Some(&origin), text.clone())
            };
            if at(schema, &key).is_none() {
                return Err(unknown(schema, &key, origin));
            }
            layer.set(&key, value);
        }
        Ok(layer)
    }

    /// Puts a value at a key with dots between levels.
    pub(super) fn set(&mut self, key: &str, value: Value) {
        let mut map = &mut self.map;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                map.insert(part.to_owned(), value);
                return;
            }
            let entry = map
                .entry(part.to_owned())
                .or_insert_with(|| Value::new(None, ValueKind::Table(Map::new())));
            if !matches!(entry.kind, ValueKind::Table(_)) {
                entry.kind = ValueKind::Table(Map::new());
            }
            let ValueKind::Table(next) = &mut entry.kind else { return };
            map = next;
        }
    }

    /// Refuses keys that the schema does not have, and tables where it has none. Runs before the
    /// layers are merged, so that no key of a stranger is ever taken for a path expression.
    pub(super) fn check(&self, schema: &Json) -> Result<(), ConfigError> {
        self.check_table(schema, schema, "", &self.map)
    }

    fn check_table(
        &self,
        root: &Json,
        schema: &Json,
        prefix: &str,
        table: &Map<String, Value>,
    ) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            let origin = || value.origin().unwrap_or(&self.origin).to_owned();
            let Some(known) = schema.get(name) else { return Err(unknown(root, &key, origin())) };
            match (&value.kind, known) {
                // A table whose keys are names of the user's; what is in them is checked where it
                // is read.
                (ValueKind::Table(_), Json::Object(names)) if names.is_empty() => {}
                (ValueKind::Table(inner), Json::Object(_)) => {
                    self.check_table(root, known, &key, inner)?;
                }
                (ValueKind::Table(_), _) => {
                    let problem = "is a table, but must be a single value".to_owned();
                    return Err(ConfigError::Value { origin: origin(), key, problem });
                }
                (_, Json::Object(keys)) => {
                    let problem = format!("must be a table with the keys {}", names(keys.keys()));
                    return Err(ConfigError::Value { origin: origin(), key, problem });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, Inner> {
        Ok(self.map.clone())
    }
}

/// Calls `leaf` with the path of every key that is no table.
pub(super) fn leaves(schema: &Json, leaf: &mut impl FnMut(&str)) {
    fn walk(schema: &Json, prefix: &str, leaf: &mut impl FnMut(&str)) {
        match schema {
            Json::Object(table) => {
                for (name, inner) in table {
                    let dot = if prefix.is_empty() { "" } else { "." };
                    walk(inner, &format!("{prefix}{dot}{name}"), leaf);
                }
            }
            _ => leaf(prefix),
        }
    }
    walk(schema, "", leaf);
}

/// The environment variable of a key.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

fn at<'a>(schema: &'a Json, key: &str) -> Option<&'a Json> {
    key.split('.').try_fold(schema, |table, part| table.get(part))
}

fn value(origin: &String, json: &Json) -> Option<Value> {
    let kind = match json {
        Json::Null => return None,
        Json::Bool(flag) => ValueKind::Boolean(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => ValueKind::I64(whole),
            (None, Some(float)) => ValueKind::Float(float),
            (None, None) => return None,
        },
        Json::String(text) => ValueKind::String(text.clone()),
        Json::Array(items) => {
            ValueKind::Array(items.iter().filter_map(|item| value(origin, item)).collect())
        }
        Json::Object(table) => ValueKind::Table(
            table
                .iter()
                .filter_map(|(name, inner)| Some((name.clone(), value(origin, inner)?)))
                .collect(),
        ),
    };
    Some(Value::new(Some(origin), kind))
}

/// The complaint about a key that is not in the schema, with what is near and what is allowed.
fn unknown(schema: &Json, key: &str, origin: String) -> ConfigError {
    let mut level = schema;
    let mut prefix = String::new();
    let mut stray = key;
    for part in key.split('.') {
        stray = part;
        match level.get(part) {
            Some(next) if next.is_object() => {
                level = next;
                prefix.push_str(part);
                prefix.push('.');
            }
            _ => break,
        }
    }
    let allowed: Vec<&String> =
        level.as_object().map(|table| table.keys().collect()).unwrap_or_default();
    let mut everywhere = Vec::new();
    leaves(schema, &mut |path| everywhere.push(path.to_owned()));
    let here = nearest(stray, allowed.iter().map(|name| name.as_str()))
        .map(|name| format!("{prefix}{name}"));
    // Perhaps the right name at the wrong level.
    let elsewhere = || {
        everywhere
            .iter()
            .find(|path| path.rsplit('.').next() == Some(stray))
            .or_else(|| everywhere.iter().find(|path| path.replace('.', "_") == stray))
            .cloned()
    };
    let hint =
        elsewhere().or(here).map(|name| format!(", did you mean `{name}`?")).unwrap_or_default();
    ConfigError::UnknownKey { origin, key: key.to_owned(), hint, allowed: names(allowed) }
}

/// The candidate that is most like `word`, if one is like it at all.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.84)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

fn names<'a>(keys: impl IntoIterator<Item = &'a String>) -> String {
    keys.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
