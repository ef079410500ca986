//! In which networks a host's views of a flow lie: the configuration of merging.
//!
//! An address means one host within a *domain*. Views of one domain are compared, views of two are
//! not. What an address of loopback, a link, a group of hosts or a `private` network means is known
//! to one observer alone.

use std::net::IpAddr;

use flow::merge::{Domain, Observer, Scope, View, Views};
use flow::{NodeName, Tuple};
use ipnet::IpNet;
use thiserror::Error;

/// Names of nodes: one, or several by `*`, which stands for any characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Whether `name` is one of them.
    #[must_use]
    pub fn matches(&self, name: &NodeName) -> bool {
        let mut rest = name.as_str();
        let Some((first, others)) = self.0.split_once('*') else { return rest == self.0 };
        let Some(after) = rest.strip_prefix(first) else { return false };
        rest = after;
        let mut parts: Vec<&str> = others.split('*').collect();
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = rest.get(at + part.len()..).unwrap_or_default();
        }
        rest.ends_with(last)
    }
}

/// Why a text is no [`Pattern`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?}, which matches no node: a name is made of a-z 0-9 . - _, and * stands for any of them"
)]
pub struct PatternError(String);

impl std::str::FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_*".contains(c);
        let long = text.len() > NodeName::MAX_LEN;
        if text.is_empty() || long || !text.chars().all(fits) {
            return Err(PatternError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

/// One domain as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainRule {
    /// Its name; [`Domains::DEFAULT`] is where nodes are that no domain names.
    pub name: String,
    /// Nodes both of whose views are in it.
    pub nodes: Vec<Pattern>,
    /// Nodes whose view before their translation is in it.
    pub inside: Vec<Pattern>,
    /// Nodes whose view after it is.
    pub outside: Vec<Pattern>,
    /// Networks whose addresses mean something else on every host.
    pub private: Vec<IpNet>,
}

/// Where both views of a node's flows lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sides {
    /// The original tuple.
    pub inside: Domain,
    /// The inverse of the reply tuple.
    pub outside: Domain,
}

/// All domains. Without any everything is in one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domains {
    rules: Vec<DomainRule>,
}

/// Two domains name one node for the same view.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("node {node} has its {side} view in the domains {first} and {second}")]
pub struct Ambiguous {
    /// The node.
    pub node: NodeName,
    /// `inside` or `outside`.
    pub side: &'static str,
    /// One domain.
    pub first: String,
    /// The other one.
    pub second: String,
}

impl Domains {
    /// The name of the domain of nodes that are in no other one.
    pub const DEFAULT: &str = "default";

    /// These domains.
    #[must_use]
    pub const fn new(rules: Vec<DomainRule>) -> Self {
        Self { rules }
    }

    /// The domains of a node.
    ///
    /// # Errors
    /// When several domains name it.
    pub fn checked(&self, node: &NodeName) -> Result<Sides, Ambiguous> {
        let inside = self.side(node, "inside", |rule| &rule.inside)?;
        let outside = self.side(node, "outside", |rule| &rule.outside)?;
        Ok(Sides { inside, outside })
    }

    /// The domains of a node. Where several name it the first one counts: who reads the
    /// configuration asks [`Domains::checked`] of every name in it.
    #[must_use]
    pub fn of(&self, node: &NodeName) -> Sides {
        let side = |of: fn(&DomainRule) -> &Vec<Pattern>| {
            self.naming(node, of).next().map_or_else(Domain::default, |(domain, _)| domain)
        };
        Sides { inside: side(|rule| &rule.inside), outside: side(|rule| &rule.outside) }
    }

    fn side(
        &self,
        node: &NodeName,
        side: &'static str,
        of: fn(&DomainRule) -> &Vec<Pattern>,
    ) -> Result<Domain, Ambiguous> {
        let mut naming = self.naming(node, of);
        let first = naming.next();
        match (first, naming.next()) {
            (Some((_, one)), Some((_, other))) => Err(Ambiguous {
                node: node.clone(),
                side,
                first: one.name.clone(),
                second: other.name.clone(),
            }),
            (first, _) => Ok(first.map_or_else(Domain::default, |(domain, _)| domain)),
        }
    }

    /// The domains that name a node for one of its views.
    fn naming<'d>(
        &'d self,
        node: &'d NodeName,
        of: fn(&DomainRule) -> &Vec<Pattern>,
    ) -> impl Iterator<Item = (Domain, &'d DomainRule)> {
        (1..).map(Domain).zip(&self.rules).filter_map(move |(domain, rule)| {
            let named = rule.nodes.iter().chain(of(rule)).any(|pattern| pattern.matches(node));
            let domain = if rule.name == Self::DEFAULT { Domain::default() } else { domain };
            named.then_some((domain, rule))
        })
    }

    /// Both views of an entry with these tuples, that before its host's translation first.
    #[must_use]
    pub fn views(
        &self,
        sides: Sides,
        observer: Observer,
        inside: &Tuple,
        outside: &Tuple,
    ) -> Views {
        let view = |domain, tuple: &Tuple| {
            let own = self.is_private(domain, tuple.src) || self.is_private(domain, tuple.dst);
            let scope = if own { Scope::Observer(observer) } else { Scope::Domain(domain) };
            View::of(scope, tuple)
        };
        Views { inside: view(sides.inside, inside), outside: view(sides.outside, outside) }
    }

    /// Whether an address means something on one host only.
    fn is_private(&self, domain: Domain, address: IpAddr) -> bool {
        let local = match address {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let rules = (1..).map(Domain).zip(&self.rules);
        let mut private = rules
            .filter(|(number, rule)| {
                if domain == Domain::default() {
                    rule.name == Self::DEFAULT
                } else {
                    *number == domain
                }
            })
            .flat_map(|(_, rule)| &rule.private);
        local
            || address.is_loopback()
            || address.is_unspecified()
            || address.is_multicast()
            || private.any(|net| net.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use flow::Proto;

    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn site() -> Domains {
        let site = DomainRule {
            name: "site".into(),
            nodes: patterns(&["router-*"]),
            inside: patterns(&["gw"]),
            private: vec!["172.17.0.0/16".parse().unwrap()],
            ..DomainRule::default()
        };
        let private = vec!["10.99.0.0/16".parse().unwrap()];
        let rest = DomainRule { name: "default".into(), private, ..DomainRule::default() };
        Domains::new(vec![site, rest])
    }

    #[test]
    fn patterns_match_whole_names() {
        let matches =
            |pattern: &str, text: &str| pattern.parse::<Pattern>().unwrap().matches(&name(text));
        assert!(matches("gw", "gw") && !matches("gw", "gw-1") && !matches("gw", "a-gw"));
        assert!(matches("gw-*", "gw-1") && matches("gw-*", "gw-") && !matches("gw-*", "gw"));
        assert!(matches("*-a-*.x", "gw-a-7.x") && !matches("*-a-*.x", "gw-a-7.y"));
        assert!(matches("*", "anything") && !matches("a*a", "a"));
        assert!("Gw".parse::<Pattern>().is_err() && "".parse::<Pattern>().is_err());
    }

    #[test]
    fn a_gateway_stands_between_two_domains() {
        let domains = site();
        let (site, rest) = (Domain(1), Domain(0));
        assert_eq!(domains.of(&name("router-1")), Sides { inside: site, outside: site });
        assert_eq!(domains.of(&name("gw")), Sides { inside: site, outside: rest });
        assert_eq!(domains.of(&name("else")), Sides::default());
        let mut twice = domains;
        let other =
            DomainRule { name: "other".into(), inside: patterns(&["g*"]), ..DomainRule::default() };
        twice.rules.push(other);
        let error = twice.checked(&name("gw")).unwrap_err().to_string();
        assert_eq!(error, "node gw has its inside view in the domains site and other");
        assert!(twice.checked(&name("router-1")).is_ok());
    }

    #[test]
    fn what_means_something_on_one_host_only_is_shared_with_nobody() {
        let domains = site();
        let views = |node: &str, observer, src: &str, dst: &str| {
            let tuple = Tuple::ports(Proto::UDP, src.parse().unwrap(), dst.parse().unwrap());
            domains.views(domains.of(&name(node)), Observer(observer), &tuple, &tuple).inside.key
        };
        let shared =
            |node: &str, src: &str, dst: &str| views(node, 1, src, dst) == views(node, 2, src, dst);
        assert!(shared("gw", "10.0.0.1:1", "192.0.2.1:53"));
        assert!(!shared("gw", "172.17.0.2:1", "192.0.2.1:53"));
        assert!(shared("else", "172.17.0.2:1", "192.0.2.1:53"), "another domain's list");
        assert!(!shared("else", "10.99.0.2:1", "192.0.2.1:53"));
        for own in ["127.0.0.1", "169.254.1.1", "0.0.0.0", "255.255.255.255", "224.0.0.251"] {
            assert!(!shared("gw", "10.0.0.1:1", &format!("{own}:53")), "{own}");
        }
        for own in ["::1", "fe80::1", "::", "ff02::fb"] {
            assert!(!shared("gw", "[2001:db8::1]:1", &format!("[{own}]:53")), "{own}");
        }
        assert_ne!(
            views("gw", 1, "10.0.0.1:1", "192.0.2.1:53"),
            views("else", 1, "10.0.0.1:1", "192.0.2.1:53"),
        );
    }
}
