//! What the ends of a lab really sent and received, counted by nftables where it leaves and where
//! it arrives. Nothing here knows of conntrack: this is what the product's one count is held
//! against.
//!
//! Counted is what conntrack makes flows of: TCP, UDP and echo of both families. Errors of ICMP
//! and the neighbours' questions belong to no flow.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::netns::Netns;
use super::network::Network;
use super::rules;
use super::tally::{Both, Difference};

/// The ends of all talks, each counting.
pub(crate) struct Ends<'n> {
    clients: Vec<&'n Netns>,
    servers: Vec<&'n Netns>,
}

/// What passed in all; `original` is from clients to servers, whoever opened the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Truth {
    pub(crate) sent: Both,
    pub(crate) received: Both,
}

const RULES: &str = "table inet truth {
    counter sent {}
    counter received {}
    chain out {
        type filter hook output priority 300
        oifname lo return
        meta l4proto { tcp, udp } counter name sent return
        icmp type { echo-request, echo-reply } counter name sent return
        icmpv6 type { echo-request, echo-reply } counter name sent return
    }
    chain in {
        type filter hook input priority -300
        iifname lo return
        meta l4proto { tcp, udp } counter name received return
        icmp type { echo-request, echo-reply } counter name received return
        icmpv6 type { echo-request, echo-reply } counter name received return
    }
}
";

impl<'n> Ends<'n> {
    /// Begins to count at every end.
    pub(crate) fn count(network: &'n Network) -> Result<Self> {
        let all = |names: Vec<&'static str>| -> Result<Vec<&'n Netns>> {
            let mut names = names;
            names.sort_unstable();
            names.dedup();
            names.into_iter().map(|name| network.host(name)).collect()
        };
        let talks = network.topology.talks.iter();
        let clients = all(talks.clone().map(|talk| talk.client).collect())?;
        let servers = all(talks.map(|talk| talk.server).collect())?;
        for end in clients.iter().chain(&servers) {
            rules::apply(end, RULES)?;
        }
        Ok(Self { clients, servers })
    }

    /// What they have counted.
    pub(crate) fn read(&self) -> Result<Truth> {
        let mut truth = Truth::default();
        for client in &self.clients {
            let (sent, received) = end(client)?;
            truth.sent += Both { original: sent, ..Both::default() };
            truth.received += Both { reply: received, ..Both::default() };
        }
        for server in &self.servers {
            let (sent, received) = end(server)?;
            truth.sent += Both { reply: sent, ..Both::default() };
            truth.received += Both { original: received, ..Both::default() };
        }
        Ok(truth)
    }
}

fn end(netns: &Netns) -> Result<(super::tally::Amount, super::tally::Amount)> {
    let mut counters = rules::counters(netns, "truth")?;
    let mut take = |name| counters.remove(name).with_context(|| format!("no counter {name}"));
    Ok((take("sent")?, take("received")?))
}

/// What had been sent, looked at again and again while it flowed.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<(Instant, Both)>);

impl Samples {
    /// Adds a look.
    pub(crate) fn add(&mut self, at: Instant, sent: Both) {
        self.0.push((at, sent));
    }

    /// The most that was sent in any `window` of time, rounded up to the next look.
    pub(crate) fn busiest(&self, window: Duration) -> Difference {
        let mut most = [0; 4];
        for (n, (begin, before)) in self.0.iter().enumerate() {
            let later = self.0.iter().skip(n);
            let mut after = later.skip_while(|(at, _)| at.duration_since(*begin) < window);
            let Some((_, after)) = after.next().or_else(|| self.0.last()) else { break };
            let grown = *after - *before;
            most.iter_mut().zip(grown).for_each(|(most, grown)| *most = grown.max(*most));
        }
        most
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::tally::Amount;

    #[test]
    fn the_busiest_window_is_found() {
        let begin = Instant::now();
        let mut samples = Samples::default();
        for (second, packets) in [(0, 0), (1, 10), (2, 40), (3, 50), (4, 50)] {
            let amount = Amount { packets, bytes: packets * 2 };
            let both = Both { original: amount, ..Both::default() };
            samples.add(begin + Duration::from_secs(second), both);
        }
        assert_eq!(samples.busiest(Duration::from_secs(1)), [30, 60, 0, 0]);
        assert_eq!(samples.busiest(Duration::from_secs(2)), [40, 80, 0, 0]);
        assert_eq!(samples.busiest(Duration::from_secs(60)), [50, 100, 0, 0]);
        assert_eq!(Samples::default().busiest(Duration::ZERO), [0; 4]);
    }
}
