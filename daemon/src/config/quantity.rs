//! Durations and sizes as people write them: always with a unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

/// A duration: `"5s"`, `"250ms"`, `"1h30m"`, `"8d"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A number of bytes: `"512B"`, `"64MiB"`, `"1.5GB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Why a text is no [`Span`] or no [`Size`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a duration.
    #[error(
        "is {text:?}, but must be a duration with its unit, like \"5s\", \"250ms\" or \"1h30m\""
    )]
    Span {
        /// What was written.
        text: String,
    },
    /// Not a size.
    #[error("is {text:?}, but must be a size with its unit, like \"64MiB\" or \"1GB\"")]
    Size {
        /// What was written.
        text: String,
    },
}

impl Span {
    /// `seconds` seconds.
    #[must_use]
    pub const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// `millis` milliseconds.
    #[must_use]
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

impl Size {
    /// `mebibytes` MiB.
    #[must_use]
    pub const fn mib(mebibytes: u64) -> Self {
        Self(mebibytes << 20)
    }
}

impl FromStr for Span {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        humantime::parse_duration(text)
            .ok()
            // It takes a lone 0, which says nothing about what is meant.
            .filter(|_| text.trim_end().ends_with(|last: char| last.is_ascii_alphabetic()))
            .map(Self)
            .ok_or_else(|| QuantityError::Span { text: text.to_owned() })
    }
}

impl FromStr for Size {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        ByteSize::from_str(text)
            .ok()
            .filter(|_| text.trim_end().ends_with(|last: char| last.is_ascii_alphabetic()))
            .map(|size| Self(size.as_u64()))
            .ok_or_else(|| QuantityError::Size { text: text.to_owned() })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&humantime::format_duration(self.0).to_string().replace(' ', ""))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

macro_rules! in_config {
    ($quantity:ty, $error:ident) => {
        impl Serialize for $quantity {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $quantity {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl Visitor<'_> for Text {
                    type Value = $quantity;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a text with a number and its unit")
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
                        Err(E::custom(QuantityError::$error { text: number.to_string() }))
                    }

                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
                        Err(E::custom(QuantityError::$error { text: number.to_string() }))
                    }

                    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Self::Value, E> {
                        Err(E::custom(QuantityError::$error { text: number.to_string() }))
                    }
                }

                deserializer.deserialize_any(Text)
            }
        }
    };
}

in_config!(Span, Span);
in_config!(Size, Size);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_need_units_and_survive_a_round_trip() {
        for (text, secs) in [("5s", 5), ("1h30m", 5400), ("1h 30m", 5400), ("8d", 691_200)] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span, Span::secs(secs), "{text}");
            assert_eq!(span.to_string().parse::<Span>().unwrap(), span, "{span}");
        }
        assert_eq!("250ms".parse::<Span>().unwrap(), Span::millis(250));
        for text in ["5", "0", "", "s", "5 parsecs", "-5s", "1e3s", "99999999999999999999s"] {
            assert!(text.parse::<Span>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn sizes_need_units_and_survive_a_round_trip() {
        for (text, bytes) in [("64MiB", 64 << 20), ("1 GiB", 1 << 30), ("3kB", 3000), ("7B", 7)] {
            let size: Size = text.parse().unwrap();
            assert_eq!(size.0, bytes, "{text}");
            assert_eq!(size.to_string().parse::<Size>().unwrap(), size, "{size}");
        }
        for text in ["64", "0", "", "MiB", "12 bananas", "-1MiB"] {
            assert!(text.parse::<Size>().is_err(), "{text:?} was taken");
        }
    }
}
