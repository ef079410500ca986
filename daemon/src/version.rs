//! Which build this is.

use std::fmt;

/// A build: shown by `version`, sent in `Hello`.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// The version, as in Cargo.toml.
    pub version: &'static str,
    /// The commit; empty in builds for development.
    pub commit: &'static str,
    /// The compiler.
    pub rustc: &'static str,
    seconds: &'static str,
}

/// This build.
pub const BUILD: Build = Build {
    version: env!("CARGO_PKG_VERSION"),
    commit: env!("BUILD_COMMIT"),
    rustc: env!("BUILD_RUSTC"),
    seconds: env!("BUILD_SECONDS"),
};

impl Build {
    /// When it was built, RFC 3339; `None` in builds for development.
    #[must_use]
    pub fn date(&self) -> Option<String> {
        let seconds = self.seconds.parse().ok()?;
        jiff::Timestamp::from_second(seconds).ok().map(|time| time.to_string())
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commit = if self.commit.is_empty() { "development build" } else { self.commit };
        writeln!(f, "version {}", self.version)?;
        writeln!(f, "commit  {commit}")?;
        if let Some(date) = self.date() {
            writeln!(f, "built   {date}")?;
        }
        write!(f, "rustc   {}", self.rustc.trim_start_matches("rustc "))
    }
}
