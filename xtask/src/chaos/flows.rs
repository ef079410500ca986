//! Which flows of a chain were not counted once, for whoever has to find out why.

use std::collections::BTreeMap;

use crate::lab::summary::GatewayCounts;
use crate::lab::tally::{Difference, Key};
use crate::lab::topology::Topology;

/// A flow wherever it is seen: family, protocol, the client's and the server's port. NAT of a
/// single client keeps ports.
type Name = (bool, u8, u16, u16);

/// What one gateway reported of a flow, and what was counted of it.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    raw: Difference,
    counted: Difference,
}

/// So many are told of.
const TOLD: usize = 10;

/// The flows whose count is not what the gateway that saw most of them reported, a line each.
pub(super) fn differing(topology: &Topology, gateways: &[GatewayCounts]) -> Vec<String> {
    let mut flows: BTreeMap<Name, Vec<Share>> = BTreeMap::new();
    for (nth, gateway) in gateways.iter().enumerate() {
        for (key, raw) in &gateway.stored.raw {
            let back = topology.is_from_server(key.src);
            let shares = flows.entry(name(key, back)).or_default();
            shares.resize(gateways.len(), Share::default());
            let Some(share) = shares.get_mut(nth) else { continue };
            let counted = gateway.stored.counted.get(key).copied().unwrap_or_default();
            add(&mut share.raw, raw.numbers().map(i128::from), back);
            add(&mut share.counted, counted, back);
        }
    }
    let wrong = |(name, shares): (&Name, &Vec<Share>)| {
        let mut seen = [0; 4];
        let mut counted = [0; 4];
        for share in shares {
            seen.iter_mut().zip(share.raw).for_each(|(most, raw)| *most = raw.max(*most));
            add(&mut counted, share.counted, false);
        }
        (seen != counted)
            .then(|| format!("{name:?}: seen {seen:?}, counted {counted:?}: {shares:?}"))
    };
    let mut told: Vec<String> = flows.iter().filter_map(wrong).collect();
    let more = told.len().saturating_sub(TOLD);
    told.truncate(TOLD);
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    told
}

fn name(key: &Key, back: bool) -> Name {
    let v6 = key.src.is_ipv6();
    if back { (v6, key.proto, key.dport, key.sport) } else { (v6, key.proto, key.sport, key.dport) }
}

fn add(sum: &mut Difference, [a, b, c, d]: Difference, back: bool) {
    let more = if back { [c, d, a, b] } else { [a, b, c, d] };
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::rules::Counted;
    use crate::lab::summary::NodeSaid;
    use crate::lab::tally::{Amount, Both, Flows};
    use crate::lab::topology::CHAIN;
    use crate::up::stored::Stored;
    use std::net::IpAddr;

    fn gateway(raw: u64, counted: i128) -> GatewayCounts {
        let (src, dst) = (IpAddr::from([10, 84, 1, 2]), IpAddr::from([10, 84, 4, 2]));
        let key = Key { proto: 17, src, dst, sport: 5, dport: 7001, zone: 0, start: 3 };
        let both = Both { original: Amount { packets: raw, bytes: raw }, ..Both::default() };
        let stored = Stored {
            raw: Flows::from([(key, both)]),
            counted: [(key, [counted, counted, 0, 0])].into(),
            ..Stored::default()
        };
        let (counted, said) = (Counted::default(), NodeSaid::default());
        GatewayCounts {
            name: "gw",
            witness: None,
            counted,
            said,
            stored,
            sees_all: true,
            torn: false,
        }
    }

    #[test]
    fn a_flow_counted_in_parts_is_fine_and_one_counted_twice_is_told() {
        assert!(differing(&CHAIN, &[gateway(5, 3), gateway(5, 2)]).is_empty());
        let told = differing(&CHAIN, &[gateway(5, 5), gateway(5, 1)]);
        assert!(told.len() == 1 && told[0].contains("counted [6, 6, 0, 0]"), "{told:?}");
        assert_eq!(differing(&CHAIN, &[gateway(5, 4), gateway(4, 0)]).len(), 1, "too little");
    }
}
