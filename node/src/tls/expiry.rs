//! When certificates end: shown as a metric, and told while there is time to renew them.
//!
//! [`Expiry`] is pure, `now` is an argument. [`Certificates`] is what the node shares: the uplink
//! notes the aggregator's certificate with every connection, a reload notes our own, and a watcher
//! looks once a minute. A connection that stands outlives its certificates; the next one is
//! refused. That is what the words are for.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Whose certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder {
    /// This node's.
    Node,
    /// The authority's, which this node knows the aggregator by.
    Authority,
    /// The one the aggregator showed last.
    Aggregator,
}

/// How near the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// At most [`MONTH`].
    Month,
    /// At most [`WEEK`].
    Week,
    /// It has come.
    Over,
}

/// Something to tell a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whose certificate.
    pub holder: Holder,
    /// How near the end is.
    pub stage: Stage,
    /// The end.
    pub ends: Timestamp,
    /// Whole days until then, 0 on the last one and after it.
    pub days: i64,
}

/// Certificates, and what was told of them.
#[derive(Clone, Debug, Default)]
pub struct Expiry {
    ends: BTreeMap<Holder, Timestamp>,
    told: BTreeMap<Holder, (Stage, Timestamp)>,
}

impl Expiry {
    /// A certificate and when it ends. Another one than before is told of anew.
    pub fn set(&mut self, holder: Holder, ends: Timestamp) {
        if self.ends.insert(holder, ends) != Some(ends) {
            self.told.remove(&holder);
        }
    }

    /// What is to be told now: whatever has come nearer its end by a stage, and once a day what
    /// is near it.
    pub fn look(&mut self, now: Timestamp) -> Vec<Notice> {
        let mut notices = Vec::new();
        for (&holder, &ends) in &self.ends {
            let Some(notice) = Notice::of(holder, ends, now) else { continue };
            let again = self.told.get(&holder).is_none_or(|(stage, at)| {
                // A clock that was put back must not silence it.
                notice.stage > *stage || now.duration_since(*at).abs() >= DAY
            });
            if again {
                self.told.insert(holder, (notice.stage, now));
                notices.push(notice);
            }
        }
        notices
    }

    /// What has expired, whether told or not.
    pub fn over(&self, now: Timestamp) -> impl Iterator<Item = Notice> {
        let near = move |(holder, ends): (&Holder, &Timestamp)| Notice::of(*holder, *ends, now);
        self.ends.iter().filter_map(near).filter(|notice| notice.stage == Stage::Over)
    }
}

impl Notice {
    /// What is to be told of a certificate now; nothing where its end is far.
    #[must_use]
    pub fn of(holder: Holder, ends: Timestamp, now: Timestamp) -> Option<Self> {
        let left = ends.duration_since(now);
        let stage = match left {
            left if !left.is_positive() => Stage::Over,
            left if left <= WEEK => Stage::Week,
            left if left <= MONTH => Stage::Month,
            _ => return None,
        };
        let days = (left.as_secs() / DAY.as_secs()).max(0);
        Some(Self { holder, stage, ends, days })
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { holder, stage, ends, days } = self;
        f.write_str(match holder {
            Holder::Node => "this node's certificate",
            Holder::Authority => "the authority's certificate in this node's ca.pem",
            Holder::Aggregator => "the aggregator's certificate",
        })?;
        match stage {
            Stage::Over => write!(
                f,
                " has expired ({ends}): a connection that stands goes on, the next one is refused"
            )?,
            Stage::Month | Stage::Week => write!(f, " ends in {days} days ({ends})")?,
        }
        f.write_str(match holder {
            Holder::Node => {
                "; issue a new one (`conntracct-aggregator pki issue NAME --renew`), run \
                 `conntracct-node join NAME.bundle` here and send SIGHUP to this process"
            }
            Holder::Authority => {
                "; a new authority means new certificates for the aggregator and every node: \
                 `conntracct-aggregator pki init` in a new folder, then issue and join again"
            }
            Holder::Aggregator => "; run `conntracct-aggregator pki renew-server` there",
        })
    }
}

/// The first warning comes so long before the end,
const MONTH: SignedDuration = SignedDuration::from_hours(30 * 24);

/// and the second one so long.
const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Between two tellings of the same.
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Label: whose certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HolderLabel {
    certificate: Holder,
}

impl EncodeLabelValue for Holder {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let text = match self {
            Self::Node => "node",
            Self::Authority => "authority",
            Self::Aggregator => "aggregator",
        };
        fmt::Write::write_str(encoder, text)
    }
}

/// The certificates that matter to this node; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    expiry: Arc<Mutex<Expiry>>,
    ends: Family<HolderLabel, Gauge>,
}

impl Certificates {
    /// Makes the metric visible.
    pub fn register(&self, registry: &mut Registry) {
        let help = "When the certificate ends, Unix time; one not seen yet is not there";
        let uplink = registry.sub_registry_with_prefix("conntracct_uplink");
        uplink.register_with_unit("certificate_expiry", help, Unit::Seconds, self.ends.clone());
    }

    /// A certificate and when it ends.
    pub fn note(&self, holder: Holder, ends: Timestamp) {
        self.ends.get_or_create(&HolderLabel { certificate: holder }).set(ends.as_second());
        self.expiry().set(holder, ends);
    }

    /// Logs what is to be told now. What has expired, in one sentence each.
    pub fn look(&self, now: Timestamp) -> Option<String> {
        let notices = self.expiry().look(now);
        for notice in notices {
            let ends = notice.ends;
            match notice.stage {
                Stage::Month => tracing::warn!(%ends, "{notice}"),
                Stage::Week | Stage::Over => tracing::error!(%ends, "{notice}"),
            }
        }
        let over: Vec<_> = self.expiry().over(now).map(|notice| notice.to_string()).collect();
        (!over.is_empty()).then(|| over.join("; "))
    }

    fn expiry(&self) -> std::sync::MutexGuard<'_, Expiry> {
        self.expiry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: i64 = 1_800_000_000;

    fn before(days: i64, seconds: i64) -> Timestamp {
        Timestamp::from_second(ENDS - days * 86_400 - seconds).unwrap()
    }

    fn ends() -> Timestamp {
        before(0, 0)
    }

    fn stages(expiry: &mut Expiry, now: Timestamp) -> Vec<Stage> {
        expiry.look(now).iter().map(|notice| notice.stage).collect()
    }

    #[test]
    fn it_is_told_at_a_month_a_week_and_the_end_and_daily_between() {
        let mut expiry = Expiry::default();
        assert_eq!(expiry.look(ends()), []);
        expiry.set(Holder::Node, ends());
        assert_eq!(stages(&mut expiry, before(30, 1)), []);
        assert_eq!(stages(&mut expiry, before(30, 0)), [Stage::Month]);
        assert_eq!(stages(&mut expiry, before(29, 1)), [], "told less than a day ago");
        assert_eq!(stages(&mut expiry, before(29, 0)), [Stage::Month], "once a day");
        assert_eq!(stages(&mut expiry, before(7, 1)), [Stage::Month]);
        assert_eq!(stages(&mut expiry, before(7, 0)), [Stage::Week], "a stage is told at once");
        assert_eq!(expiry.over(before(0, 1)).count(), 0);
        assert_eq!(stages(&mut expiry, before(0, 1)), [Stage::Week]);
        assert_eq!(stages(&mut expiry, ends()), [Stage::Over]);
        assert_eq!(stages(&mut expiry, before(0, -60)), []);
        assert_eq!(stages(&mut expiry, before(-1, 0)), [Stage::Over]);
        assert_eq!(expiry.over(ends()).count(), 1);
    }

    #[test]
    fn a_renewed_certificate_is_told_of_anew_and_the_same_one_is_not() {
        let mut expiry = Expiry::default();
        expiry.set(Holder::Aggregator, ends());
        assert_eq!(stages(&mut expiry, before(1, 0)), [Stage::Week]);
        expiry.set(Holder::Aggregator, ends());
        assert_eq!(stages(&mut expiry, before(1, 0)), [], "shown again with each connection");
        expiry.set(Holder::Aggregator, before(-20, 0));
        assert_eq!(stages(&mut expiry, before(1, 0)), [Stage::Month]);
        expiry.set(Holder::Aggregator, before(-90, 0));
        assert_eq!(stages(&mut expiry, before(1, 0)), []);
    }

    #[test]
    fn the_words_name_the_certificate_the_time_and_the_cure() {
        let say = |holder, now| Notice::of(holder, ends(), now).unwrap().to_string();
        let text = say(Holder::Node, before(12, 0));
        assert!(text.starts_with("this node's certificate ends in 12 days (2027-01-"), "{text}");
        assert!(text.contains("join NAME.bundle") && text.contains("SIGHUP"), "{text}");
        let text = say(Holder::Aggregator, before(0, 0));
        assert!(text.starts_with("the aggregator's certificate has expired"), "{text}");
        assert!(text.contains("a connection that stands goes on"), "{text}");
        assert!(text.contains("pki renew-server"), "{text}");
        assert!(say(Holder::Authority, before(1, 0)).contains("ca.pem"));
    }

    #[test]
    fn the_metric_holds_the_end_of_each() {
        let certificates = Certificates::default();
        let mut registry = Registry::default();
        certificates.register(&mut registry);
        certificates.note(Holder::Node, ends());
        assert_eq!(certificates.look(before(100, 0)), None);
        let over = certificates.look(ends()).unwrap();
        assert!(over.contains("this node's certificate has expired"), "{over}");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = "conntracct_uplink_certificate_expiry_seconds{certificate=\"node\"} 1800000000";
        assert!(text.lines().any(|found| found == line), "{text}");
        assert!(!text.contains("aggregator\""), "not seen yet: {text}");
    }
}
