//! The gateways' nftables rules: NAT, our own questions to the node and its link to the aggregator
//! kept out of conntrack (they would go on after the last count), and counters that are the third opinion beside conntrack and the product.
//!
//! The counters sit behind conntrack (priority -150 after -200) where packets enter a gateway or
//! are made by it, so each packet is counted once, by the direction conntrack gave it. Packets
//! conntrack looked at without adding them to a flow have counters of their own.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::netns::Netns;
use super::tally::{Amount, Both};
use crate::workspace;

/// The gateways' device towards the aggregator.
pub(crate) const MANAGEMENT: &str = "mgmt";
/// The gateways' device towards the server.
pub(crate) const WAN: &str = "wan";
/// The gateways' device towards each other, for conntrackd.
pub(crate) const SYNC: &str = "sync";

/// What the counters say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Packets that belong to flows, by `ct direction`.
    pub(crate) tracked: Both,
    /// Packets conntrack adds to no flow, by why: `related` (ICMP errors), `invalid`,
    /// `untracked`, `other`.
    pub(crate) untracked: BTreeMap<String, Amount>,
}

/// Loads the rules into a gateway; IPv4 leaving by [`WAN`] gets the source address `snat`.
pub(crate) fn load(gateway: &Netns, snat: Option<&str>) -> Result<()> {
    apply(gateway, &text(snat))
}

/// Has nft apply a ruleset in a namespace.
pub(crate) fn apply(netns: &Netns, rules: &str) -> Result<()> {
    let mut command = netns.command("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("could not start nft")?;
    let mut input = child.stdin.take().context("nft has no standard input")?;
    input.write_all(rules.as_bytes()).context("nft did not take its rules")?;
    drop(input);
    let output = child.wait_with_output().context("could not wait for nft")?;
    if !output.status.success() {
        bail!("nft refused the rules: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Reads a gateway's counters.
pub(crate) fn read(gateway: &Netns) -> Result<Counted> {
    let mut counters = counters(gateway, "lab")?;
    if counters.len() != 6 {
        bail!("nft listed {} counters, expected 6", counters.len());
    }
    let mut take = |name| counters.remove(name).with_context(|| format!("no counter {name}"));
    let tracked = Both { original: take("original")?, reply: take("reply")? };
    Ok(Counted { tracked, untracked: counters })
}

/// The named counters of a table.
pub(crate) fn counters(netns: &Netns, table: &str) -> Result<BTreeMap<String, Amount>> {
    let list = ["-j", "list", "counters", "table", "inet", table];
    parse(&workspace::output(netns.command("nft").args(list))?)
}

fn text(snat: Option<&str>) -> String {
    let nat = snat.map_or_else(String::new, |address| {
        format!("oifname {WAN} meta nfproto ipv4 snat ip to {address}")
    });
    format!(
        "table inet lab {{
            counter original {{}}
            counter reply {{}}
            counter related {{}}
            counter invalid {{}}
            counter untracked {{}}
            counter other {{}}
            chain raw_in {{
                type filter hook prerouting priority raw
                iifname {{ lo, {MANAGEMENT}, {SYNC} }} notrack
            }}
            chain raw_out {{
                type filter hook output priority raw
                oifname {{ lo, {MANAGEMENT}, {SYNC} }} notrack
            }}
            chain tally {{
                ct state untracked counter name untracked return
                ct state invalid counter name invalid return
                ct state related counter name related return
                ct direction original counter name original return
                ct direction reply counter name reply return
                counter name other
            }}
            chain tally_in {{
                type filter hook prerouting priority mangle
                iifname {{ lo, {MANAGEMENT}, {SYNC} }} return
                jump tally
            }}
            chain tally_out {{
                type filter hook output priority mangle
                oifname {{ lo, {MANAGEMENT}, {SYNC} }} return
                jump tally
            }}
            chain nat {{
                type nat hook postrouting priority srcnat
                {nat}
            }}
        }}\n"
    )
}

fn parse(json: &[u8]) -> Result<BTreeMap<String, Amount>> {
    let value: Value = serde_json::from_slice(json).context("nft -j did not print JSON")?;
    let items = value.get("nftables").and_then(Value::as_array).context("no `nftables` list")?;
    let mut counters = BTreeMap::new();
    for counter in items.iter().filter_map(|item| item.get("counter")) {
        let name = counter.get("name").and_then(Value::as_str).context("a counter has no name")?;
        let number = |key| counter.get(key).and_then(Value::as_u64);
        let (Some(packets), Some(bytes)) = (number("packets"), number("bytes")) else {
            bail!("the counter {name} has no numbers");
        };
        counters.insert(name.to_owned(), Amount { packets, bytes });
    }
    Ok(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_name() {
        let counter = |name, n| {
            format!(r#"{{"counter":{{"name":"{name}","packets":{n},"bytes":{}}}}}"#, n * 100)
        };
        let list: Vec<String> = ["reply", "related"].map(|name| counter(name, name.len())).into();
        let json = format!(r#"{{"nftables":[{{"metainfo":{{}}}},{}]}}"#, list.join(","));
        let counters = parse(json.as_bytes()).unwrap();
        assert_eq!(counters["reply"], Amount { packets: 5, bytes: 500 });
        assert_eq!(counters["related"], Amount { packets: 7, bytes: 700 });
        assert!(parse(br#"{"nftables":[{"counter":{"name":"x","packets":1}}]}"#).is_err());
    }
}
