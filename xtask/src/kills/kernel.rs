//! Conntrack tables that outlive everything that is killed: what each flow has counted is a
//! function of time alone, so a node that starts again finds its kernel where it must be. Each
//! life of a node plays its kernel's rest from a recording (`--source replay:FILE`).

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

/// Flows of each table that live from the beginning to the end.
const LONG: u16 = 30;
/// Flows of each table that are born later, one after the other, and live to the end.
const LATER: u16 = 30;
/// Sweeps are this far apart.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// Every namespace has one; this is the one of a host that has made no other.
const NETNS: u32 = 4_026_531_840;
/// In a period of so many milliseconds a flow is silent for the last part.
const PERIOD_MS: u64 = 8_000;
const BUSY_MS: u64 = 5_000;

/// A flow as the store names it: both addresses and ports.
pub(super) type Name = (Ipv4Addr, u16, Ipv4Addr, u16);

/// Packets and bytes of the original, then of the reply direction.
pub(super) type Counters = [u64; 4];

/// One node's conntrack table, from 0 to `end`; nothing changes after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    host: u8,
    /// Wall-clock nanoseconds at 0.
    began: u64,
    end: Duration,
}

impl Kernel {
    pub(super) const fn new(host: u8, began: u64, end: Duration) -> Self {
        Self { host, began, end }
    }

    /// When each flow is born.
    fn births(&self) -> impl Iterator<Item = (u16, Duration)> + '_ {
        let step = self.end / u32::from(LATER + 2);
        (0..LONG + LATER).map(move |flow| {
            let later = flow.saturating_sub(LONG - 1);
            (flow, step * u32::from(later))
        })
    }

    fn name(&self, flow: u16) -> Name {
        let client = Ipv4Addr::new(10, self.host, 0, 1 + flow.to_le_bytes()[0] % 5);
        (client, 20_000 + flow, Ipv4Addr::new(192, 0, 2, 1), 443)
    }

    /// What a flow that was born at `born` has counted at `now`.
    fn counters(&self, flow: u16, born: Duration, now: Duration) -> Counters {
        let lived = now.min(self.end).saturating_sub(born);
        let lived = u64::try_from(lived.as_millis()).unwrap_or(u64::MAX);
        let busy = lived / PERIOD_MS * BUSY_MS + (lived % PERIOD_MS).min(BUSY_MS);
        let (flow, host) = (u64::from(flow), u64::from(self.host));
        // The first packet made the entry.
        let there = 1 + busy * (1 + flow % 7) / 100;
        let back = busy * (1 + host % 3) / 50;
        [there, there * (60 + flow), back, back * 1_400]
    }

    /// What everything has counted in the end.
    pub(super) fn truth(&self) -> impl Iterator<Item = (Name, Counters)> + '_ {
        self.births().map(|(flow, born)| (self.name(flow), self.counters(flow, born, self.end)))
    }

    /// Writes what a node that starts at `from` will see of it: sweeps, births, and in the end
    /// the end of every flow, if it is to live through that.
    pub(super) fn record(&self, from: Duration, file: &Path) -> Result<()> {
        let mut out = std::io::BufWriter::new(std::fs::File::create(file)?);
        let header =
            json!({"conntracct_recording": 1, "source": "kills", "boot": "", "kernel": ""});
        writeln!(out, "{header}")?;
        writeln!(out, "{}", json!({"health": {"reliable_ends": true}}))?;
        let mut births: Vec<(u16, Duration)> =
            self.births().filter(|(_, born)| *born > from).collect();
        births.reverse();
        let mut now = from;
        while now < self.end {
            self.write_sweep(&mut out, now)?;
            now += INTERVAL;
            while births.last().is_some_and(|(_, born)| *born <= now) {
                let Some((flow, born)) = births.pop() else { break };
                let new = self.entry(flow, born, born);
                writeln!(out, "{}", json!({"at": nanos(born), "new": new}))?;
            }
        }
        let last = self.end.max(now);
        for (flow, born) in self.births() {
            let end = self.entry(flow, born, self.end);
            writeln!(out, "{}", json!({"at": nanos(last), "end": end}))?;
        }
        // A node ends with its recording; this one is to go on until it is told to end.
        let later = nanos(last + Duration::from_secs(86_400));
        let sweep = json!({"begin": later, "end": later, "complete": [], "failed": [], "gone": []});
        writeln!(out, "{}", json!({"sweep": sweep}))?;
        Ok(out.flush()?)
    }

    fn write_sweep(&self, out: &mut impl Write, now: Duration) -> Result<()> {
        let born = self.births().filter(|(_, born)| *born <= now);
        let live: Vec<Value> = born.map(|(flow, born)| self.entry(flow, born, now)).collect();
        let at = nanos(now);
        writeln!(out, "{}", json!({"at": at, "live": live}))?;
        let sweep =
            json!({"begin": at, "end": at + 1, "complete": [NETNS], "failed": [], "gone": []});
        Ok(writeln!(out, "{}", json!({"sweep": sweep}))?)
    }

    fn entry(&self, flow: u16, born: Duration, now: Duration) -> Value {
        const TCP: u8 = 6;
        let (client, sport, server, dport) = self.name(flow);
        json!({
            "netns": NETNS,
            "orig": [TCP, client, server, sport, dport],
            "reply": [TCP, server, client, dport, sport],
            "start": self.began + nanos(born),
            "id": flow + 1,
            "status": 0x0e,
            "tcp": 3,
            "fresh": true,
            "counters": self.counters(flow, born, now),
        })
    }
}

/// Recorded times begin with 1: 0 is unknown.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_grow_to_the_truth_and_no_further() {
        let kernel = Kernel::new(3, 1, Duration::from_secs(60));
        for (flow, born) in kernel.births() {
            let mut last = [0; 4];
            for seconds in 0..70 {
                let now = Duration::from_secs(seconds);
                if now < born {
                    continue;
                }
                let counters = kernel.counters(flow, born, now);
                assert!(counters.iter().zip(last).all(|(now, before)| *now >= before));
                last = counters;
            }
            assert!(kernel.truth().any(|(_, truth)| truth == last));
        }
        assert_eq!(kernel.truth().count(), 60);
    }
}
