//! How many peers may be on their way in at once. A pure core.
//!
//! QUIC's Initial packets can carry forged addresses; a Retry makes a peer prove that it owns its
//! address before we spend a handshake on it (RFC 9000 section 8.1.2). It costs a round trip, so
//! it is asked for under load only.

use std::collections::HashMap;
use std::net::IpAddr;

/// Bounds of a [`Gate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateLimits {
    /// Peers on their way in; more are refused and come back with their backoff.
    pub pending: usize,
    /// From here on a peer must prove its address.
    pub retry_above: usize,
    /// Peers of one address on their way in. Nodes behind one NAT share an address.
    pub per_address: usize,
    /// From here on peers of that address must prove it.
    pub retry_per_address: usize,
}

impl Default for GateLimits {
    fn default() -> Self {
        Self { pending: 1_024, retry_above: 128, per_address: 256, retry_per_address: 16 }
    }
}

/// What to do with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let it try; [`Gate::left`] when it is through or away.
    Enter,
    /// Make it prove its address.
    Retry,
    /// Turn it away.
    Refuse,
}

/// Counts those who are on their way in.
#[derive(Debug)]
pub struct Gate {
    limits: GateLimits,
    pending: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Gate {
    /// Nobody is there yet.
    #[must_use]
    pub fn new(limits: GateLimits) -> Self {
        Self { limits, pending: 0, by_address: HashMap::new() }
    }

    /// Decides on a peer that claims `address`, `proven` or not.
    pub fn arrived(&mut self, address: IpAddr, proven: bool) -> Verdict {
        let address = address.to_canonical();
        let of_address = self.by_address.get(&address).copied().unwrap_or(0);
        let limits = &self.limits;
        if self.pending >= limits.pending || of_address >= limits.per_address {
            return Verdict::Refuse;
        }
        let loaded = self.pending >= limits.retry_above || of_address >= limits.retry_per_address;
        if loaded && !proven {
            return Verdict::Retry;
        }
        self.pending += 1;
        *self.by_address.entry(address).or_default() += 1;
        Verdict::Enter
    }

    /// One that entered is through or away.
    pub fn left(&mut self, address: IpAddr) {
        let address = address.to_canonical();
        self.pending = self.pending.saturating_sub(1);
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }

    /// Peers on their way in.
    #[must_use]
    pub const fn pending(&self) -> usize {
        self.pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_asks_for_proof_and_the_bounds_turn_away() {
        let limits =
            GateLimits { pending: 5, retry_above: 4, per_address: 3, retry_per_address: 2 };
        let mut gate = Gate::new(limits);
        let (a, b): (IpAddr, IpAddr) =
            ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        assert_eq!(gate.arrived(a, false), Verdict::Enter);
        assert_eq!(gate.arrived("::ffff:192.0.2.1".parse().unwrap(), false), Verdict::Enter);
        assert_eq!(gate.arrived(a, false), Verdict::Retry);
        assert_eq!(gate.arrived(a, true), Verdict::Enter);
        assert_eq!(gate.arrived(a, true), Verdict::Refuse);
        assert_eq!(gate.arrived(b, false), Verdict::Enter);
        assert_eq!(gate.arrived(b, false), Verdict::Retry);
        assert_eq!(gate.arrived(b, true), Verdict::Enter);
        assert_eq!(gate.arrived(b, true), Verdict::Refuse);
        for address in [a, a, a, b, b] {
            gate.left(address);
        }
        assert_eq!((gate.pending(), gate.by_address.len()), (0, 0));
        assert_eq!(gate.arrived(a, false), Verdict::Enter);
    }
}
