//! What can be wrong with a configuration, in sentences for the person who wrote it.

use std::path::PathBuf;

use ::config::ConfigError as Inner;

use super::Origins;

/// Why there is no configuration. Nothing may start.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The named file is not there.
    #[error("configuration file {} does not exist; create it, or leave out -c", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
    },
    /// The file is there but cannot be read.
    #[error("configuration file {} cannot be read", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// The file's name does not say how it is written.
    #[error("{}: the name must end in .toml, .yaml, .yml or .json", file.display())]
    Format {
        /// The file.
        file: PathBuf,
    },
    /// One folder holds several candidates.
    #[error(
        "both {} and {} exist; keep one of them, or choose with -c",
        first.display(), second.display()
    )]
    Ambiguous {
        /// One of them.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The file does not parse.
    #[error("{} is not well-formed: {problem}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// What the parser said, with line and column where it knows them.
        problem: String,
    },
    /// A key that means nothing.
    #[error("{origin}: unknown key `{key}`{hint}; allowed here: {allowed}")]
    UnknownKey {
        /// The file, variable or flag.
        origin: String,
        /// The whole key, dots between levels.
        key: String,
        /// `, did you mean ...` or nothing.
        hint: String,
        /// The keys of that level.
        allowed: String,
    },
    /// A value that is not allowed.
    #[error("{origin}: `{key}` {problem}")]
    Value {
        /// The file, variable or flag.
        origin: String,
        /// The whole key, dots between levels.
        key: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// An environment variable that is no text.
    #[error("environment variable {name} is not UTF-8")]
    Variable {
        /// Its name.
        name: String,
    },
    /// The layers do not merge.
    #[error("the configuration cannot be merged")]
    Merge {
        /// Why.
        #[source]
        error: Box<Inner>,
    },
    /// The defaults cannot be listed.
    #[error("the defaults cannot be listed")]
    Schema {
        /// Why.
        #[source]
        error: serde_json::Error,
    },
    /// The configuration cannot be written.
    #[error("the configuration cannot be written as TOML")]
    Dump {
        /// Why.
        #[source]
        error: toml::ser::Error,
    },
}

/// The whole chain of an error in one line, outermost first.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

/// Says what the merging crate found in our words.
pub(super) fn explain(error: Inner, origins: &Origins) -> ConfigError {
    match unwrap(error) {
        (Some(key), problem) => origins.bad(&key, problem),
        (None, problem) => ConfigError::Syntax {
            file: origins.file().map(PathBuf::from).unwrap_or_default(),
            problem,
        },
    }
}

/// The key and the rest of the sentence.
fn unwrap(error: Inner) -> (Option<String>, String) {
    match error {
        Inner::At { error, key, .. } => {
            let (inner, problem) = unwrap(*error);
            (key.or(inner), problem)
        }
        Inner::Type { unexpected, expected, key, .. } => {
            (key, format!("is {unexpected}, but must be {expected}"))
        }
        other => (None, other.to_string()),
    }
}
