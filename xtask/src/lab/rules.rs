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
    let mut command = gateway.command("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("could not start nft")?;
    let mut input = child.stdin.take().context("nft has no standard input")?;
    input.write_all(text(snat).as_bytes()).context("nft did not take its rules")?;
    drop(input);
    let output = child.wait_with_output().context("could not wait for nft")?;
    if !output.status.success() {
        bail!("nft refused the rules: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Reads a gateway's counters.
pub(crate) fn read(gateway: &Netns) -> Result<Counted> {
    let list = ["-j", "list", "counters", "table", "inet", "lab"];
    parse(&workspace::output(gateway.command("nft").args(list))?)
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
                iifname {{ lo, {MANAGEMENT} }} notrack
            }}
            chain raw_out {{
                type filter hook output priority raw
                oifname {{ lo, {MANAGEMENT} }} notrack
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
                iifname {{ lo, {MANAGEMENT} }} return
                jump tally
            }}
            chain tally_out {{
                type filter hook output priority mangle
                oifname {{ lo, {MANAGEMENT} }} return
                jump tally
            }}
            chain nat {{
                type nat hook postrouting priority srcnat
                {nat}
            }}
        }}\n"
    )
}

fn parse(json: &[u8]) -> Result<Counted> {
    let value: Value = serde_json::from_slice(json).context("nft -j did not print JSON")?;
    let items = value.get("nftables").and_then(Value::as_array).context("no `nftables` list")?;
    let mut counted = Counted::default();
    let mut seen = 0;
    for counter in items.iter().filter_map(|item| item.get("counter")) {
        let name = counter.get("name").and_then(Value::as_str).context("a counter has no name")?;
        let number = |key| counter.get(key).and_then(Value::as_u64);
        let (Some(packets), Some(bytes)) = (number("packets"), number("bytes")) else {
            bail!("the counter {name} has no numbers");
        };
        let amount = Amount { packets, bytes };
        match name {
            "original" => counted.tracked.original = amount,
            "reply" => counted.tracked.reply = amount,
            _ => drop(counted.untracked.insert(name.to_owned(), amount)),
        }
        seen += 1;
    }
    if seen != 6 {
        bail!("nft listed {seen} counters, expected 6");
    }
    Ok(counted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_name_and_none_may_be_missing() {
        let counter = |name, n| {
            format!(r#"{{"counter":{{"name":"{name}","packets":{n},"bytes":{}}}}}"#, n * 100)
        };
        let names = ["original", "reply", "related", "invalid", "untracked", "other"];
        let list: Vec<String> = names.iter().zip(1..).map(|(name, n)| counter(name, n)).collect();
        let json = format!(r#"{{"nftables":[{{"metainfo":{{}}}},{}]}}"#, list.join(","));
        let counted = parse(json.as_bytes()).unwrap();
        assert_eq!(counted.tracked.reply, Amount { packets: 2, bytes: 200 });
        assert_eq!(counted.untracked["related"], Amount { packets: 3, bytes: 300 });
        assert!(parse(format!(r#"{{"nftables":[{}]}}"#, list[0]).as_bytes()).is_err());
    }
}
