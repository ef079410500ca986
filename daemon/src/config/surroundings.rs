//! What a configuration depends on besides its file and flags. Taken once, then an argument.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::ConfigError;
use super::layer::PREFIX;

/// The process's surroundings: environment, home, host name, privileges.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The `CONNTRACCT_` variables.
    pub variables: BTreeMap<String, String>,
    /// The user's home, from `HOME`.
    pub home: Option<PathBuf>,
    /// `XDG_STATE_HOME`.
    pub state_home: Option<PathBuf>,
    /// The folder of the machine's configuration, `/etc/conntracct`.
    pub system: PathBuf,
    /// The host's name as the kernel has it.
    pub hostname: String,
    /// Whether this process has root's user id.
    pub root: bool,
}

impl Surroundings {
    /// Those of this process.
    ///
    /// # Errors
    /// A `CONNTRACCT_` variable that is not UTF-8.
    pub fn of_process() -> Result<Self, ConfigError> {
        let path = |name: &str| {
            std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
        };
        Ok(Self {
            variables: variables(std::env::vars_os())?,
            home: path("HOME"),
            state_home: path("XDG_STATE_HOME"),
            system: PathBuf::from("/etc/conntracct"),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            root: rustix::process::geteuid().is_root(),
        })
    }

    /// Where a program keeps its state: `/var/lib/PROGRAM` for root, else
    /// `$XDG_STATE_HOME/PROGRAM`, else `$HOME/.local/state/PROGRAM`.
    #[must_use]
    pub fn state_dir(&self, program: &str) -> PathBuf {
        let own = || {
            let home = self.home.as_ref().map(|home| home.join(".local/state"));
            self.state_home.clone().or(home)
        };
        let base = if self.root { None } else { own() };
        base.unwrap_or_else(|| PathBuf::from("/var/lib")).join(program)
    }

    /// The first configuration file of `stem` in the search paths.
    ///
    /// # Errors
    /// Two candidates in one folder.
    pub(super) fn find_file(&self, stem: &str) -> Result<Option<PathBuf>, ConfigError> {
        let own = self.home.as_ref().map(|home| home.join(".config/conntracct"));
        for folder in own.iter().chain([&self.system]) {
            let mut found = candidates(folder, stem);
            if let Some(first) = found.next() {
                return match found.next() {
                    Some(second) => Err(ConfigError::Ambiguous { first, second }),
                    None => Ok(Some(first)),
                };
            }
        }
        Ok(None)
    }
}

fn candidates(folder: &Path, stem: &str) -> impl Iterator<Item = PathBuf> {
    ["toml", "yaml", "yml", "json"]
        .map(|extension| folder.join(stem).with_extension(extension))
        .into_iter()
        // Present but unreadable must be found, so that it is complained about.
        .filter(|file| file.symlink_metadata().is_ok())
}

fn variables(
    all: impl Iterator<Item = (OsString, OsString)>,
) -> Result<BTreeMap<String, String>, ConfigError> {
    all.filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(|name| name.starts_with(PREFIX))?;
        Some(match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_bytes) => Err(ConfigError::Variable { name }),
        })
    })
    .collect()
}
