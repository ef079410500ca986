//! The filter on flows of the real kernel: what it lets through and what it counts are together
//! what was sent.

use std::collections::BTreeSet;
use std::time::Duration;

use conntracct_node::filter::metrics::FilterMetrics;
use conntracct_node::filter::{Filter, Networks};
use conntracct_node::source::filtered::Filtered;
use conntracct_node::source::netlink::NetlinkConfig;
use conntracct_node::source::{Event, Source};
use prometheus_client::registry::Registry;

use crate::lab::{Lab, PAYLOAD, destination, wait};
use crate::netlink::open;

const FLOWS: u32 = 1_000;
const DATAGRAM: u64 = 20 + 8 + PAYLOAD as u64;

#[test]
fn what_passes_and_what_is_counted_are_all_that_was_sent() {
    let Some(lab) = Lab::new("filter") else { return };
    // 127.1.0.0 to 127.1.0.255 of 127.1.0.0 to 127.1.3.231.
    let filter = Filter {
        exclude: Networks::parse(&["127.1.0.0/24".to_owned()]).unwrap(),
        ..Filter::default()
    };
    let expected: BTreeSet<_> =
        (256..FLOWS).map(|number| std::net::IpAddr::from(destination(number))).collect();
    let metrics = FilterMetrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let counted = |name: &str| -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let start = format!("conntracct_filter_{name}{{cause=\"address\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
    };
    let source = open(&lab, NetlinkConfig::default());
    let mut source = Filtered::new(Box::new(source), filter, metrics);
    lab.udp().send_all(0..FLOWS);

    let mut live = BTreeSet::new();
    let report = source
        .sweep(&mut |chunk| live.extend(chunk.readings.iter().map(|reading| reading.orig.dst)))
        .unwrap();
    assert_eq!(report.complete.len(), 1, "a sweep without some entries is complete all the same");
    assert_eq!(live, expected);
    assert_eq!((counted("live_flows"), counted("live_bytes")), (256, 256 * DATAGRAM));

    lab.flush();
    let (mut ended, mut events) = (BTreeSet::new(), Vec::new());
    wait("all ends", Duration::from_secs(20), || {
        source.events(&mut events).unwrap();
        ended.extend(events.drain(..).filter_map(|timed| match timed.event {
            Event::End(reading) => Some(reading.orig.dst),
            Event::New(_) => None,
        }));
        ended.len() as u64 + counted("ended_flows_total") >= u64::from(FLOWS)
    });
    assert_eq!(ended, expected);
    assert_eq!(counted("ended_flows_total"), 256);
    assert_eq!(counted("ended_packets_total"), 256);
    assert_eq!(counted("ended_bytes_total"), 256 * DATAGRAM);
    source.sweep(&mut |_| ()).unwrap();
    assert_eq!(counted("live_flows"), 0);
}
