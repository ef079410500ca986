//! The `[merge]` section: in which networks the nodes see flows.

use std::collections::BTreeMap;
use std::sync::Arc;

use daemon::config::{ConfigError, Origins};
use flow::NodeName;
use serde::{Deserialize, Serialize};

use crate::count::domains::{DomainRule, Domains, Pattern};

/// The `[merge]` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawMerge {
    /// Whether a flow that several nodes see is counted once.
    pub enabled: bool,
    /// Domains by their names.
    pub domains: BTreeMap<String, RawDomain>,
}

/// A `[merge.domains.NAME]` section: a set of networks in which an address means one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawDomain {
    /// Nodes all of whose networks are in it; `*` stands for any characters.
    pub nodes: Vec<String>,
    /// Translating nodes that have it before their translation.
    pub inside: Vec<String>,
    /// Translating nodes that have it behind their translation.
    pub outside: Vec<String>,
    /// Networks in it whose addresses mean something else on every host.
    pub private: Vec<String>,
}

impl Default for RawMerge {
    fn default() -> Self {
        Self { enabled: true, domains: BTreeMap::new() }
    }
}

impl RawMerge {
    /// The domains; `None` where every node counts in full.
    pub(super) fn parse(&self, origins: &Origins) -> Result<Option<Arc<Domains>>, ConfigError> {
        let rules: Vec<DomainRule> = self
            .domains
            .iter()
            .map(|(name, raw)| raw.parse(name, origins))
            .collect::<Result<_, _>>()?;
        let domains = Domains::new(rules);
        for (name, raw) in &self.domains {
            let lists = [("nodes", &raw.nodes), ("inside", &raw.inside), ("outside", &raw.outside)];
            for (list, texts) in lists {
                for node in texts.iter().filter_map(|text| NodeName::new(text).ok()) {
                    domains.checked(&node).map_err(|ambiguous| {
                        let key = format!("merge.domains.{name}.{list}");
                        origins.bad(&key, format!("cannot be: {ambiguous}; name it in one only"))
                    })?;
                }
            }
        }
        Ok(self.enabled.then(|| Arc::new(domains)))
    }
}

impl RawDomain {
    fn parse(&self, name: &str, origins: &Origins) -> Result<DomainRule, ConfigError> {
        let key = |list: &str| format!("merge.domains.{name}.{list}");
        let patterns = |list: &str, texts: &[String]| -> Result<Vec<Pattern>, ConfigError> {
            let parse = |text: &String| {
                text.parse::<Pattern>()
                    .map_err(|error| origins.bad(&key(list), format!("has {error}")))
            };
            texts.iter().map(parse).collect()
        };
        let private = self.private.iter().map(|text| {
            let net = text
                .parse()
                .or_else(|_no_prefix| text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from));
            net.map_err(|_no_address| {
                let problem =
                    format!("has {text:?}, but must hold networks like \"172.17.0.0/16\"");
                origins.bad(&key("private"), problem)
            })
        });
        Ok(DomainRule {
            name: name.to_owned(),
            nodes: patterns("nodes", &self.nodes)?,
            inside: patterns("inside", &self.inside)?,
            outside: patterns("outside", &self.outside)?,
            private: private.collect::<Result<_, _>>()?,
        })
    }
}
