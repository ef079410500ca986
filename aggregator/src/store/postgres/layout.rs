//! How flows are laid out on disk: native partitions a day, or TimescaleDB's chunks. Decided by
//! the first migration, for the store's life.

use std::fmt;

/// What takes the rows of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A native partition, made by the writer.
    Native,
    /// A chunk of a TimescaleDB hypertable, made by it.
    Hypertable,
}

impl Layout {
    /// The word for it in `store_meta`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Hypertable => "hypertable",
        }
    }

    /// The inverse of [`Layout::word`].
    pub(super) fn of_word(word: &str) -> Option<Self> {
        [Self::Native, Self::Hypertable].into_iter().find(|layout| layout.word() == word)
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native day partitions",
            Self::Hypertable => "a TimescaleDB hypertable",
        })
    }
}

/// What the server says about TimescaleDB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Timescale {
    /// The version created in this database.
    pub(super) created: Option<String>,
    /// The version the server could create.
    pub(super) offered: Option<String>,
}

/// A layout, and why, for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) layout: Layout,
    pub(super) why: String,
}

/// Decides the layout of a store that is about to be made. The extension is used where somebody
/// has created it in this database; it is never created here, as that needs a superuser and a
/// library the server must have been started with.
pub(super) fn decide(found: &Timescale) -> Decision {
    let (layout, why) = match (&found.created, &found.offered) {
        (Some(version), _) if major(version) >= OLDEST => {
            (Layout::Hypertable, format!("the database has TimescaleDB {version}"))
        }
        (Some(version), _) => (
            Layout::Native,
            format!("TimescaleDB {version} is too old, {OLDEST} or newer would be used"),
        ),
        (None, Some(version)) => (
            Layout::Native,
            format!(
                "the server offers TimescaleDB {version}, but nobody has created the extension \
                 in this database"
            ),
        ),
        (None, None) => (Layout::Native, "the server has no TimescaleDB".to_owned()),
    };
    Decision { layout, why }
}

/// The oldest major version whose `create_hypertable` is called as the migration does.
const OLDEST: u32 = 2;

fn major(version: &str) -> u32 {
    version.split('.').next().and_then(|digits| digits.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(created: Option<&str>, offered: Option<&str>) -> Layout {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        decide(&Timescale { created: owned(created), offered: owned(offered) }).layout
    }

    #[test]
    fn hypertables_need_an_extension_that_somebody_created() {
        assert_eq!(layout(None, None), Layout::Native);
        assert_eq!(layout(None, Some("2.17.2")), Layout::Native);
        assert_eq!(layout(Some("2.17.2"), Some("2.18.0")), Layout::Hypertable);
        assert_eq!(layout(Some("3.0.0-dev"), None), Layout::Hypertable);
        assert_eq!(layout(Some("1.7.5"), Some("2.17.2")), Layout::Native);
        assert_eq!(layout(Some("nonsense"), None), Layout::Native);
        let why = decide(&Timescale { created: None, offered: Some("2.17.2".into()) }).why;
        assert!(why.contains("nobody has created the extension"), "{why}");
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for layout in [Layout::Native, Layout::Hypertable] {
            assert_eq!(Layout::of_word(layout.word()), Some(layout));
        }
        assert_eq!(Layout::of_word("heap"), None);
    }
}
