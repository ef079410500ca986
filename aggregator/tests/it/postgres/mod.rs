//! What only a PostgreSQL server does: roles and privileges, partitions, TLS, going away and
//! coming back, connections cut at the worst moment.

mod columns;
mod opening;
mod outcome;
mod proxy;
mod server_gone;

use aggregator::count::{CounterConfig, Frame};
use aggregator::pipeline::commit::{Committer, Done, Stop, Work};
use aggregator::store::Store;
use aggregator::store::postgres::{PostgresAddress, PostgresStore};
use aggregator::store::row::WriterToken;
use flow::{Counters, Epoch};
use testdb::{DATABASE, Server};

use crate::frames::{batch, record, unix};
use crate::rows::{TOKEN, at};

const ONE: Epoch = Epoch([1; 16]);

fn address(url: &str) -> PostgresAddress {
    PostgresAddress::parse(url).unwrap()
}

/// Opens the store and takes it over.
async fn open(url: &str) -> PostgresStore {
    let store = PostgresStore::open(&address(url)).await.unwrap();
    store.take_writer(TOKEN, at(0)).await.unwrap();
    store
}

async fn committer(store: &PostgresStore, token: u8) -> Committer<PostgresStore> {
    let token = WriterToken([token; 16]);
    Committer::start(store.clone(), token, CounterConfig::default(), unix(0)).await.unwrap()
}

/// Frame `seq` of `epoch` with one record of a flow that grew from `base` to `cum`.
fn grown(epoch: Epoch, seq: u64, base: u64, cum: u64) -> Frame {
    let end = 100 + 10 * seq;
    batch(epoch, seq, end, vec![record(1, 105, end, base, cum)])
}

/// Runs the work until the store is no longer away; what it said meanwhile, and what was done.
async fn finish(
    committer: &mut Committer<PostgresStore>,
    frames: Vec<Frame>,
) -> (Vec<String>, Result<Vec<Done>, Stop>) {
    let mut work = Work { todo: frames, ..Work::default() };
    let mut said = Vec::new();
    loop {
        match committer.run(&mut work).await {
            Ok(()) => return (said, Ok(work.done)),
            Err(Stop::Away(why)) => said.push(why),
            Err(fatal) => return (said, Err(fatal)),
        }
        assert!(said.len() < 10_000, "the store does not come back: {:?}", said.last());
        tokio::task::yield_now().await;
    }
}

/// What all rows count, as the server itself adds them up.
fn total(server: &Server) -> Counters {
    let sums = "SELECT coalesce(sum(packets_orig), 0), coalesce(sum(bytes_orig), 0), \
                coalesce(sum(packets_reply), 0), coalesce(sum(bytes_reply), 0) FROM flow_all";
    let said = server.sql(DATABASE, sums).unwrap();
    let numbers: Vec<u64> = said.split('|').map(|number| number.parse().unwrap()).collect();
    Counters::from_components(numbers.try_into().unwrap())
}
