//! Logs: one subscriber on standard error, and a limit on complaints that repeat.

use std::io::IsTerminal;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{ConfigError, Origins};

/// The `[log]` section as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    /// A level, or directives of the kind `info,quinn=debug`.
    pub level: String,
    /// `auto`, `pretty`, `plain` or `json`.
    pub format: String,
}

impl Default for RawLog {
    fn default() -> Self {
        Self { level: "info".into(), format: "auto".into() }
    }
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    level: String,
    format: LogFormat,
}

/// How a line of log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Coloured on a terminal, plain elsewhere.
    Auto,
    /// Coloured.
    Pretty,
    /// One line of text.
    Plain,
    /// One JSON object a line.
    Json,
}

impl RawLog {
    /// Parses the section. `debug` is the flag `-d`, which beats the configured level.
    ///
    /// # Errors
    /// Directives that mean nothing, a format that does not exist.
    pub fn parse(&self, debug: bool, origins: &Origins) -> Result<Settings, ConfigError> {
        let format = match self.format.as_str() {
            "auto" => LogFormat::Auto,
            "pretty" => LogFormat::Pretty,
            "plain" => LogFormat::Plain,
            "json" => LogFormat::Json,
            other => {
                let problem = format!("is {other:?}, but must be auto, pretty, plain or json");
                return Err(origins.bad("log.format", problem));
            }
        };
        // The filter takes any word for the name of a module: a misspelt level would silence all.
        let misspelt = self.level.split(',').any(|directive| {
            !directive.contains(['=', ':']) && !LEVELS.contains(&directive.trim())
        });
        if misspelt || EnvFilter::try_new(&self.level).is_err() {
            let problem = format!(
                "is {:?}, but must be error, warn, info, debug, trace or off, perhaps followed by \
                 levels of modules, like \"info,quinn=debug\"",
                self.level
            );
            return Err(origins.bad("log.level", problem));
        }
        let level = if debug { DEBUG.to_owned() } else { self.level.clone() };
        Ok(Settings { level, format })
    }
}

/// Changes how much an installed subscriber logs.
#[derive(Clone, Debug)]
pub struct Control(reload::Handle<EnvFilter, Registry>);

impl Control {
    /// Logs as `settings` say from now on. Their format is not looked at: it stays.
    ///
    /// # Errors
    /// When the level does not parse, or logging has ended.
    pub fn set(&self, settings: &Settings) -> Result<(), LogError> {
        self.0.reload(settings.filter()?).map_err(|error| LogError::Gone { error })
    }
}

impl Settings {
    fn filter(&self) -> Result<EnvFilter, LogError> {
        EnvFilter::try_new(&self.level)
            .map_err(|error| LogError::Level { level: self.level.clone(), error })
    }
}

/// Installs the subscriber of this process.
///
/// # Errors
/// When there is one already.
pub fn init(settings: &Settings) -> Result<Control, LogError> {
    let (filter, handle) = reload::Layer::new(settings.filter()?);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let format = match settings.format {
        LogFormat::Auto if std::io::stderr().is_terminal() => LogFormat::Pretty,
        LogFormat::Auto => LogFormat::Plain,
        chosen => chosen,
    };
    let done = match format {
        LogFormat::Json => registry
            .with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr))
            .try_init(),
        LogFormat::Pretty => registry.with(lines.with_ansi(true)).try_init(),
        LogFormat::Plain | LogFormat::Auto => registry.with(lines.with_ansi(false)).try_init(),
    };
    done.map_err(|error| LogError::Twice { error })?;
    Ok(Control(handle))
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level does not parse.
    #[error("log level {level:?} means nothing")]
    Level {
        /// What was asked for.
        level: String,
        /// Why not.
        #[source]
        error: tracing_subscriber::filter::ParseError,
    },
    /// There is nothing left to change.
    #[error("logging has ended")]
    Gone {
        /// What the library says.
        #[source]
        error: reload::Error,
    },
    /// Somebody installed one before.
    #[error("logging is set up already")]
    Twice {
        /// What the library says.
        #[source]
        error: tracing_subscriber::util::TryInitError,
    },
}

/// Lets through one complaint in [`Occasional::PAUSE`] and counts those between. One for each
/// place that complains: see [`occasionally!`](crate::occasionally).
#[derive(Debug)]
pub struct Occasional {
    /// Milliseconds since the process's first complaint when the next may pass.
    next: AtomicU64,
    suppressed: AtomicU64,
}

impl Occasional {
    /// The shortest time between two complaints.
    pub const PAUSE: Duration = Duration::from_secs(10);

    /// One that lets the first complaint through.
    #[must_use]
    pub const fn new() -> Self {
        Self { next: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// Whether a complaint at `now` (any clock that never goes back) may pass; then how many were
    /// held back since the last one that passed.
    pub fn admit(&self, now: Duration) -> Option<u64> {
        let now = millis(now);
        let next = self.next.load(Ordering::Relaxed);
        let after = now.saturating_add(millis(Self::PAUSE));
        // Of several threads that find the time come, one wins.
        let passes = now >= next
            && self
                .next
                .compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if passes {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

impl Default for Occasional {
    fn default() -> Self {
        Self::new()
    }
}

/// Time since the first complaint of this process: the clock of
/// [`occasionally!`](crate::occasionally).
#[must_use]
pub fn uptime() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

/// Logs at most once in ten seconds from this place, with the number of times it was held back:
/// `occasionally!(warn, error = %chain, "frame refused")`.
#[macro_export]
macro_rules! occasionally {
    ($level:ident, $($event:tt)+) => {{
        static SITE: $crate::log::Occasional = $crate::log::Occasional::new();
        if let Some(suppressed) = SITE.admit($crate::log::uptime()) {
            $crate::tracing::$level!(suppressed, $($event)+);
        }
    }};
}

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// What `-d` asks for: our own debugging, and of the libraries what they say at `info`.
const DEBUG: &str = "debug,hyper=info,quinn=info,quinn_proto=info,rustls=info,sqlx=info";

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_pass_once_a_pause_and_say_how_many_were_held_back() {
        let site = Occasional::new();
        let at = Duration::from_millis;
        assert_eq!(site.admit(at(0)), Some(0), "the first passes");
        assert_eq!(site.admit(at(1)), None);
        assert_eq!(site.admit(at(9_999)), None);
        assert_eq!(site.admit(at(10_000)), Some(2));
        assert_eq!(site.admit(at(19_999)), None);
        assert_eq!(site.admit(at(500_000)), Some(1));
        assert_eq!(site.admit(at(510_000)), Some(0), "nothing was held back between");
    }

    #[test]
    fn of_many_threads_one_passes() {
        let site = Occasional::new();
        let passed = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| site.admit(Duration::from_secs(60)))).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).count()
        });
        assert_eq!(passed, 1);
        assert_eq!(site.admit(Duration::from_secs(70)), Some(7));
    }
}
