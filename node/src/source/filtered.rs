//! A source without the flows that the filter leaves out. They are counted here, and nobody
//! behind it sees them.
//!
//! It stands behind the [`Recorder`](super::record::Recorder): a recording holds everything, and
//! can be replayed with another filter.

use std::time::Duration;

use super::{Event, Source, SourceError, SourceHealth, SweepChunk, SweepReport, Timed};
use crate::filter::metrics::{FilterMetrics, LeftOut};
use crate::filter::{Cause, Filter};

/// Filters a source.
pub struct Filtered {
    source: Box<dyn Source>,
    filter: Filter,
    metrics: FilterMetrics,
}

impl Filtered {
    /// `source` without what `filter` leaves out.
    #[must_use]
    pub fn new(source: Box<dyn Source>, filter: Filter, metrics: FilterMetrics) -> Self {
        Self { source, filter, metrics }
    }
}

impl Source for Filtered {
    fn name(&self) -> &'static str {
        self.source.name()
    }

    fn events(&mut self, out: &mut Vec<Timed>) -> Result<(), SourceError> {
        let mut read = Vec::new();
        let done = self.source.events(&mut read);
        let mut left_out = [LeftOut::default(); Cause::ALL.len()];
        out.extend(read.into_iter().filter(|timed| {
            let (Event::New(reading) | Event::End(reading)) = &timed.event;
            let Some(cause) = self.filter.refuses(&reading.orig) else { return true };
            if let (Event::End(_), Some(left_out)) = (&timed.event, of(&mut left_out, cause)) {
                left_out.add(reading.counters);
            }
            false
        }));
        for (cause, left_out) in Cause::ALL.into_iter().zip(left_out) {
            self.metrics.add_ended(cause, left_out);
        }
        done
    }

    fn sweep(&mut self, take: &mut dyn FnMut(SweepChunk)) -> Result<SweepReport, SourceError> {
        let filter = &self.filter;
        let mut left_out = [LeftOut::default(); Cause::ALL.len()];
        let report = self.source.sweep(&mut |mut chunk| {
            chunk.readings.retain(|reading| {
                let Some(cause) = filter.refuses(&reading.orig) else { return true };
                if let Some(left_out) = of(&mut left_out, cause) {
                    left_out.add(reading.counters);
                }
                false
            });
            take(chunk);
        });
        if report.is_ok() {
            for (cause, left_out) in Cause::ALL.into_iter().zip(left_out) {
                self.metrics.set_live(cause, left_out);
            }
        }
        report
    }

    fn health(&self) -> SourceHealth {
        self.source.health()
    }

    fn remaining(&self) -> Option<Duration> {
        self.source.remaining()
    }
}

fn of(left_out: &mut [LeftOut; Cause::ALL.len()], cause: Cause) -> Option<&mut LeftOut> {
    Cause::ALL.iter().zip(left_out).find_map(|(of, left_out)| (*of == cause).then_some(left_out))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use flow::{BootNanos, Counters, NetnsInode, Proto, Reading, Status, TcpState, Tuple};
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::filter::Networks;

    /// Gives the same events once, and the same readings with every sweep.
    struct Given(Vec<Timed>, Vec<Reading>);

    impl Source for Given {
        fn name(&self) -> &'static str {
            "given"
        }

        fn events(&mut self, out: &mut Vec<Timed>) -> Result<(), SourceError> {
            out.append(&mut self.0);
            Ok(())
        }

        fn sweep(&mut self, take: &mut dyn FnMut(SweepChunk)) -> Result<SweepReport, SourceError> {
            for readings in self.1.chunks(2) {
                take(SweepChunk { at: BootNanos(2), readings: readings.to_vec() });
            }
            Ok(SweepReport::nothing(BootNanos(3)))
        }

        fn health(&self) -> SourceHealth {
            SourceHealth::default()
        }
    }

    fn reading(proto: Proto, src: [u8; 4], counters: Option<Counters>) -> Reading {
        let at = |host: [u8; 4]| SocketAddr::new(IpAddr::from(host), 53);
        let orig = Tuple::ports(proto, at(src), at([10, 0, 0, 2]));
        Reading {
            netns: NetnsInode(1),
            zone: flow::entry::Zone(0),
            orig,
            reply: orig.inverse(),
            start: 1,
            stop: 0,
            kernel_id: 1,
            mark: 0,
            status: Status(0),
            tcp: TcpState(0),
            fresh: false,
            counters,
        }
    }

    #[test]
    fn what_is_left_out_is_counted_and_seen_by_nobody() {
        let counters = Some(Counters::new(1, 10, 2, 20));
        let kept = reading(Proto::TCP, [10, 0, 0, 1], counters);
        let loopback = reading(Proto::TCP, [127, 0, 0, 1], counters);
        let excluded = reading(Proto::TCP, [192, 0, 2, 9], counters);
        let uncounted = reading(Proto::UDP, [10, 0, 0, 1], None);
        let all = [kept, loopback, excluded, uncounted];
        let timed = |event| Timed { at: BootNanos(1), event };
        let events = all.iter().flat_map(|r| [timed(Event::New(*r)), timed(Event::End(*r))]);
        let given = Given(events.collect(), [all, all].concat());

        let filter = Filter {
            exclude_loopback: true,
            exclude: Networks::parse(&["192.0.2.0/24".to_owned()]).unwrap(),
            exclude_protocols: [Proto::UDP].into_iter().collect(),
            ..Filter::default()
        };
        let metrics = FilterMetrics::default();
        let mut source = Filtered::new(Box::new(given), filter, metrics.clone());
        let mut events = vec![timed(Event::New(kept))];
        source.events(&mut events).unwrap();
        let expected = [Event::New(kept), Event::New(kept), Event::End(kept)];
        assert_eq!(events.iter().map(|timed| timed.event).collect::<Vec<_>>(), expected);
        for _ in 0..2 {
            let mut swept = Vec::new();
            source.sweep(&mut |chunk| swept.extend(chunk.readings)).unwrap();
            assert_eq!(swept, [kept, kept]);
        }

        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "conntracct_filter_live_flows{cause=\"loopback\"} 2",
            "conntracct_filter_live_packets{cause=\"address\"} 6",
            "conntracct_filter_live_bytes{cause=\"address\"} 60",
            "conntracct_filter_live_bytes{cause=\"protocol\"} 0",
            "conntracct_filter_ended_flows_total{cause=\"protocol\"} 1",
            "conntracct_filter_ended_flows_total{cause=\"loopback\"} 1",
            "conntracct_filter_ended_bytes_total{cause=\"loopback\"} 30",
            "conntracct_filter_ended_packets_total{cause=\"address\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} not in:\n{text}");
        }
    }
}
