//! Labels of metrics: closed sets of words, every one of them visible from the start.
//!
//! A series that appears with its first event looks like one that began to be counted then, and
//! its first increase is lost to `rate()`. So a family is made with all its labels
//! ([`present`]), which also lets the documentation list them.

use std::hash::Hash;

use prometheus_client::metrics::family::Family;

#[doc(hidden)]
pub use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

/// A family in which each of `labels` is present.
pub fn present<L, M>(labels: impl IntoIterator<Item = L>) -> Family<L, M>
where
    L: Clone + Hash + Eq,
    M: Default,
{
    let family = Family::default();
    for label in labels {
        drop(family.get_or_create(&label));
    }
    family
}

/// Declares an enum whose values are labels of a metric: `ALL`, `as_str` and the encoding come
/// with it.
#[macro_export]
macro_rules! closed_label {
    ($(#[$meta:meta])* $vis:vis enum $name:ident {
        $($(#[$doc:meta])* $variant:ident = $label:literal,)+
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $vis enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// Every value.
            $vis const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The label.
            #[must_use]
            $vis const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }
        }

        impl $crate::label::EncodeLabelValue for $name {
            fn encode(
                &self,
                encoder: &mut $crate::label::LabelValueEncoder<'_>,
            ) -> ::std::fmt::Result {
                ::std::fmt::Write::write_str(encoder, self.as_str())
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::EncodeLabelSet;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::registry::Registry;

    use super::*;

    closed_label! {
        /// Two ways to end.
        enum End {
            /// Well.
            AllWell = "all_well",
            /// Not well.
            Badly = "badly",
        }
    }

    #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
    struct EndLabel {
        end: End,
    }

    #[test]
    fn every_label_is_there_before_anything_happens() {
        let family: Family<EndLabel, Counter> =
            present(End::ALL.iter().map(|&end| EndLabel { end }));
        let mut registry = Registry::default();
        registry.register("ends", "Ends", family.clone());
        family.get_or_create(&EndLabel { end: End::Badly }).inc();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in ["ends_total{end=\"all_well\"} 0", "ends_total{end=\"badly\"} 1"] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
