//! Configuration: defaults < file < environment < flags, merged by the `config` crate and read
//! into one raw struct; the programs then parse that into a `Config` whose fields are legal.
//!
//! A key that no layer may carry, a file that is named but missing, a value of the wrong form:
//! each is an error that names the place (file, variable or flag), the key and what is allowed.
//! The process environment is read in [`Surroundings::of_process`] and nowhere else.
//!
//! The raw struct's `Default` is the only place where defaults are written. Serialized, it is
//! also the list of all keys: an optional key is an `Option` that is `None`.

mod error;
mod layer;
mod list;
mod quantity;
mod surroundings;

use std::path::{Path, PathBuf};

use ::config::{Config as Merged, FileFormat, Format, Map, Value, ValueKind};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use error::{ConfigError, chain};
pub use list::Strings;
pub use quantity::{QuantityError, Size, Span};
pub use surroundings::Surroundings;

use layer::Layer;

/// What the command line says, by configuration key.
#[derive(Debug, Default)]
pub struct Flags(Layer);

impl Flags {
    /// Takes the value of `flag` (as typed, with its dashes) for `key`; nothing where the flag
    /// was not given.
    pub fn set<V: Into<ValueKind>>(&mut self, key: &str, flag: &str, value: Option<V>) {
        if let Some(value) = value {
            self.0.set(key, Value::new(Some(&flag.to_owned()), value));
        }
    }
}

/// Merged configuration as it was written, and where each key came from.
#[derive(Debug)]
pub struct Loaded<R> {
    /// The merged values, not yet checked against each other.
    pub raw: R,
    /// Where they came from.
    pub origins: Origins,
}

/// Where each key's value came from.
#[derive(Debug)]
pub struct Origins {
    merged: Value,
    file: Option<PathBuf>,
}

impl Origins {
    /// The configuration file that was read, if there was one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// A complaint about the value of `key` (dots between levels): `problem` says what is wrong
    /// and what is allowed, as the rest of a sentence that begins with the key.
    #[must_use]
    pub fn bad(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        let origin = self.origin(key).unwrap_or(DEFAULTS).to_owned();
        ConfigError::Value { origin, key: key.to_owned(), problem: problem.into() }
    }

    /// The file, variable or flag that gave `key` its value; `None` for a default.
    #[must_use]
    pub fn origin(&self, key: &str) -> Option<&str> {
        let mut value = &self.merged;
        let mut origin = None;
        for part in key.split('.') {
            let ValueKind::Table(table) = &value.kind else { break };
            let Some(next) = table.get(part) else { break };
            value = next;
            origin = value.origin().filter(|origin| *origin != DEFAULTS).or(origin);
        }
        // A list has the origin of its elements in no other place than itself.
        origin
    }
}

/// Merges the layers of the program whose files are called `stem` (`node`, `aggregator`).
///
/// `file` is the one named on the command line; without it the search paths are tried, and no
/// file at all is fine.
///
/// # Errors
/// See [`ConfigError`]; nothing may start after one.
pub fn load<R>(
    stem: &str,
    file: Option<&Path>,
    surroundings: &Surroundings,
    flags: Flags,
) -> Result<Loaded<R>, ConfigError>
where
    R: Default + Serialize + DeserializeOwned,
{
    let schema = schema::<R>()?;
    let file = match file {
        Some(named) => Some(named.to_owned()),
        None => surroundings.find_file(stem)?,
    };
    let mut builder = Merged::builder().add_source(Layer::from_schema(&schema));
    if let Some(file) = &file {
        let layer = read_file(file)?;
        layer.check(&schema)?;
        builder = builder.add_source(layer);
    }
    let environment = Layer::from_variables(&schema, &surroundings.variables)?;
    environment.check(&schema)?;
    flags.0.check(&schema)?;
    let merged = builder
        .add_source(environment)
        .add_source(flags.0)
        .build()
        .map_err(|error| ConfigError::Merge { error: Box::new(error) })?;

    let origins = Origins { merged: merged.cache.clone(), file };
    match merged.try_deserialize() {
        Ok(raw) => Ok(Loaded { raw, origins }),
        Err(error) => Err(error::explain(error, &origins)),
    }
}

/// Says that a configuration is right, and where it came from: the answer of `check-config`.
///
/// # Errors
/// When `out` cannot be written to.
pub fn tell_right(file: Option<&Path>, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    match file {
        Some(file) => {
            writeln!(out, "the configuration is right; it was read from {}", file.display())
        }
        None => writeln!(out, "the configuration is right; no file was read"),
    }
}

/// The merged configuration as a TOML file that loads to the same configuration.
///
/// No key holds a secret: private keys and tokens are named by their files.
///
/// # Errors
/// When a value has no TOML form, which would be a mistake in the raw struct.
pub fn dump<R: Serialize>(raw: &R) -> Result<String, ConfigError> {
    toml::to_string(raw).map_err(|error| ConfigError::Dump { error })
}

/// The keys (dots between levels) in which two configurations differ, in the order of the keys.
///
/// # Errors
/// When one has no serialized form, which would be a mistake in the raw struct.
pub fn differences<R: Serialize>(one: &R, other: &R) -> Result<Vec<String>, ConfigError> {
    let serialized = |raw: &R| serde_json::to_value(raw);
    let one = serialized(one).map_err(|error| ConfigError::Schema { error })?;
    let other = serialized(other).map_err(|error| ConfigError::Schema { error })?;
    let mut keys = Vec::new();
    layer::leaves(&one, &mut |key| {
        let pointer = format!("/{}", key.replace('.', "/"));
        if one.pointer(&pointer) != other.pointer(&pointer) {
            keys.push(key.to_owned());
        }
    });
    Ok(keys)
}

/// The names of the environment variables that `R` understands, in the order of its keys.
///
/// # Errors
/// When the defaults have no serialized form, which would be a mistake in the raw struct.
pub fn variables<R: Default + Serialize>() -> Result<Vec<String>, ConfigError> {
    let mut names = Vec::new();
    layer::leaves(&schema::<R>()?, &mut |path| names.push(layer::variable(path)));
    Ok(names)
}

/// Largest configuration file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Origin of values that nobody set.
const DEFAULTS: &str = "defaults";

fn schema<R: Default + Serialize>() -> Result<serde_json::Value, ConfigError> {
    serde_json::to_value(R::default()).map_err(|error| ConfigError::Schema { error })
}

fn read_file(file: &Path) -> Result<Layer, ConfigError> {
    let format = match file.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => FileFormat::Toml,
        Some("yaml" | "yml") => FileFormat::Yaml,
        Some("json") => FileFormat::Json,
        _ => return Err(ConfigError::Format { file: file.to_owned() }),
    };
    let text = read_text(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ConfigError::Missing { file: file.to_owned() },
        _ => ConfigError::Read { file: file.to_owned(), error },
    })?;
    let origin = file.display().to_string();
    let map = if text.trim().is_empty() {
        Map::new()
    } else {
        format.parse(Some(&origin), &text).map_err(|problem| ConfigError::Syntax {
            file: file.to_owned(),
            problem: problem.to_string().trim_end().to_owned(),
        })?
    };
    Ok(Layer::new(origin, map))
}

fn read_text(file: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let length = std::fs::File::open(file)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if length as u64 > MAX_FILE {
        let what = format!("it is longer than {MAX_FILE} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, what));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
