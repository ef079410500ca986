//! How long an entry may say nothing before it is taken for dead.
//!
//! A node that died for good, or whose state was wiped, never tells the end of its entries. The
//! kernel forgets an entry without packets after its protocol's timeout, so after the longest one
//! of the protocol it cannot live any more, and is closed. The timeouts are those that the kernel
//! starts with; where somebody has raised them an entry is closed early, and opened again by its
//! next growth, which counts exactly all the same.

use std::time::Duration;

use flow::Proto;

/// Longest timeouts by protocol, and what is added to all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SilenceLimits {
    /// TCP, and SCTP: established.
    pub established: Duration,
    /// DCCP: open.
    pub dccp: Duration,
    /// UDP, UDP-Lite, GRE: answered.
    pub answered: Duration,
    /// ICMP, ICMPv6.
    pub icmp: Duration,
    /// Any other protocol.
    pub other: Duration,
    /// Added to each: readings arrive late when a node was cut off, and closing entries only to
    /// open them again is work for nothing.
    pub grace: Duration,
}

impl Default for SilenceLimits {
    /// The largest that any kernel from 4.9 on starts with: `tcp_timeouts`, `sctp_timeouts` (5
    /// days until 6.2), `dccp_timeout`, `udp_timeouts` (180 s until 4.19), `gre_timeouts`,
    /// `nf_ct_icmp_timeout`, `nf_ct_generic_timeout` in net/netfilter/nf_conntrack_proto*.c.
    fn default() -> Self {
        Self {
            established: Duration::from_secs(5 * 86_400),
            dccp: Duration::from_secs(12 * 3_600),
            answered: Duration::from_secs(180),
            icmp: Duration::from_secs(30),
            other: Duration::from_secs(600),
            grace: Duration::from_secs(3_600),
        }
    }
}

impl SilenceLimits {
    /// The same for all protocols.
    #[must_use]
    pub const fn uniform(limit: Duration) -> Self {
        let grace = Duration::ZERO;
        Self { established: limit, dccp: limit, answered: limit, icmp: limit, other: limit, grace }
    }

    /// How long an entry of `proto` may be silent.
    #[must_use]
    pub fn of(&self, proto: Proto) -> Duration {
        let timeout = match proto {
            Proto::TCP | Proto::SCTP => self.established,
            Proto::DCCP => self.dccp,
            Proto::UDP | Proto::UDPLITE | Proto::GRE => self.answered,
            Proto::ICMP | Proto::ICMPV6 => self.icmp,
            _ => self.other,
        };
        timeout.saturating_add(self.grace)
    }
}
