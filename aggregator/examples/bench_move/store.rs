//! The store that is moved: flows of one gateway, each of ten rows, half of them translated.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use aggregator::store::Store;
use aggregator::store::row::{
    ChangeSet, EntryNo, EpochAdvance, EpochRow, FlowRow, NetnsNo, NetnsRow, NodeNo, NodeRow,
    ObserverRow, PathNo, WriterToken,
};
use aggregator::store::sqlite::{SqliteConfig, SqliteStore};
use flow::entry::Zone;
use flow::{
    Birth, BootId, Counters, Epoch, NetnsId, NetnsInode, NodeName, Proto, Seq, TcpState, Tuple,
    UnixNanos,
};
use wire::frame::Digest;

use super::Failed;

/// Rows of a flow.
const EACH: usize = 10;

/// Rows of a transaction.
const SET: usize = 10_000;

const TOKEN: WriterToken = WriterToken([1; 16]);
const EPOCH: Epoch = Epoch([7; 16]);
const NODE: NodeNo = NodeNo(1);
const NETNS: NetnsNo = NetnsNo(1);

/// 2026-11-01, and how long the rows take.
const BEGIN: i64 = 1_793_491_200_000_000_000;
const SPAN: i64 = 3 * 86_400 * 1_000_000_000;

/// All `count` rows, in the order of their times.
pub(crate) fn rows(count: usize) -> impl Iterator<Item = FlowRow> {
    let flows = count.div_ceil(EACH).max(1);
    let step = SPAN / i64::try_from(count.max(1)).unwrap_or(SPAN);
    (0..count).map(move |at| {
        // Flows take turns, so that the rows of one lie far apart.
        let flow = at % flows;
        let moment = BEGIN + step * i64::try_from(at).unwrap_or_default();
        let (inside, outside) = views(flow);
        let number = i64::try_from(flow).unwrap_or_default() + 1;
        // No two rows are alike, and sums are not round.
        let packets = 1 + at as u64 % 97;
        let counters = Counters::new(packets, packets * 113, packets / 2, packets * 701);
        FlowRow {
            time: UnixNanos(moment / 1_000 * 1_000),
            since: Some(UnixNanos((moment - 10_000_000_000) / 1_000 * 1_000)),
            slack: Some(Duration::from_millis(250)),
            entry_start: Some(start(flow)),
            path: PathNo(number),
            entry: EntryNo(number),
            counted: counters,
            raw: counters,
            seq: Seq(1 + (at / SET) as u64),
            mark: 0,
            node: NODE,
            netns: NETNS,
            zone: Zone(0),
            inside,
            outside,
            flags: 0x18e,
            tcp: TcpState(3),
            stray: None,
            frame: 0,
        }
    })
}

/// Makes the store of all rows.
pub(crate) async fn make(path: &Path, count: usize) -> Result<(), Failed> {
    let store = SqliteStore::open(&SqliteConfig::new(path)).await?;
    store.take_writer(TOKEN, UnixNanos(BEGIN)).await?;
    let flows = count.div_ceil(EACH).max(1);
    let mut rows = rows(count);
    let mut seen = 0;
    for seq in 1.. {
        let flow_rows: Vec<FlowRow> = rows.by_ref().take(SET).collect();
        if flow_rows.is_empty() {
            break;
        }
        let mut set = ChangeSet { flows: flow_rows, ..ChangeSet::default() };
        if seq == 1 {
            let (name, epoch_since) = (NodeName::new("gw-1")?, UnixNanos(BEGIN));
            set.new_nodes.push(NodeRow { node: NODE, name, epoch: EPOCH, epoch_since });
            let id = NetnsId { inode: NetnsInode(4_026_531_840), boot: BootId([9; 16]) };
            set.netns.push(NetnsRow { netns: NETNS, node: NODE, id });
        }
        let new = seen..flows.min(seen + SET);
        seen = new.end;
        set.observers.extend(new.map(entry));
        let row = EpochRow {
            node: NODE,
            epoch: EPOCH,
            committed: Seq(seq),
            digest: Digest([0; 32]),
            begun: UnixNanos(BEGIN),
            last_gap: None,
            sweep: None,
        };
        set.advances.push(EpochAdvance { first: Seq(seq), row });
        store.commit(TOKEN, &set).await?;
    }
    store.close().await;
    Ok(())
}

fn entry(flow: usize) -> ObserverRow {
    let (inside, outside) = views(flow);
    let number = i64::try_from(flow).unwrap_or_default() + 1;
    ObserverRow {
        entry: EntryNo(number),
        path: PathNo(number),
        node: NODE,
        netns: NETNS,
        zone: Zone(0),
        inside,
        outside,
        birth: Birth::Start(start(flow).0.unsigned_abs()),
        start: Some(start(flow)),
        fresh: true,
        seen: UnixNanos(BEGIN),
        ended: None,
        base: Counters::ZERO,
        frame: 0,
    }
}

/// Each a little later than the one before.
fn start(flow: usize) -> UnixNanos {
    UnixNanos(BEGIN - 1_000_000_000_000 + i64::try_from(flow).unwrap_or_default() * 1_000)
}

fn views(flow: usize) -> (Tuple, Tuple) {
    let [_, high, middle, low] = u32::try_from(flow).unwrap_or(u32::MAX).to_be_bytes();
    let client = IpAddr::V4(Ipv4Addr::new(10, high, middle, low));
    let server = IpAddr::V4(Ipv4Addr::new(192, 0, 2, low));
    let sport = 1_024 + u16::from(middle) * 8;
    let inside = Tuple { src: client, dst: server, sport, dport: 443, proto: Proto::TCP };
    let translated = Tuple { src: IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), ..inside };
    (inside, if flow.is_multiple_of(2) { inside } else { translated })
}
