//! A server that stops, dies, is set back or has no room: the committer waits and goes on, and
//! nothing is lost or counted twice.

use std::path::Path;
use std::process::Command;

use aggregator::pipeline::commit::{Done, Fatal, Stop, Work};
use aggregator::store::postgres::PostgresStore;
use aggregator::store::{CommitError, Store};
use flow::{Epoch, Record, RecordFlags, Seq};
use testdb::{DATABASE, Server, Setup};

use super::{ONE, address, committer, finish, grown, open, total};
use crate::frames::{batch, counters, node, record};
use crate::rows::{EPOCH, TOKEN, first_set, name, next_set};

const TWO: Epoch = Epoch([2; 16]);

#[tokio::test]
async fn a_server_that_stops_and_comes_back_is_waited_for() {
    let mut server = Server::start().unwrap();
    let store = PostgresStore::open(&address(&server.url())).await.unwrap();
    let mut committer = committer(&store, 1).await;
    finish(&mut committer, vec![grown(ONE, 1, 0, 10)]).await.1.unwrap();
    let stop: [fn(&mut Server) -> std::io::Result<()>; 2] = [Server::shut_down, Server::kill];
    for (at, stop) in (2..).zip(stop) {
        stop(&mut server).unwrap();
        let mut work = Work { todo: vec![grown(ONE, at, at * 5, at * 5 + 5)], ..Work::default() };
        for _ in 0..3 {
            let away = committer.run(&mut work).await;
            let Err(Stop::Away(why)) = away else { panic!("{away:?}") };
            assert!(why.contains("the connection to the database failed"), "{why}");
            assert!(!why.contains('\n'), "{why}");
        }
        server.start_again().unwrap();
        finish(&mut committer, std::mem::take(&mut work.todo)).await.1.unwrap();
    }
    assert_eq!(total(&server), counters(20));
    assert_eq!(server.sql(DATABASE, "SELECT count(*) FROM flow").unwrap(), "3");
}

#[tokio::test]
async fn a_server_that_was_set_back_stops_the_process_that_knew_more() {
    let mut server = Server::start().unwrap();
    let store = PostgresStore::open(&address(&server.url())).await.unwrap();
    let mut running = committer(&store, 1).await;
    finish(&mut running, vec![grown(ONE, 1, 0, 10)]).await.1.unwrap();
    server.back_up().unwrap();
    finish(&mut running, vec![grown(ONE, 2, 10, 14)]).await.1.unwrap();
    finish(&mut running, vec![grown(ONE, 3, 14, 15)]).await.1.unwrap();
    server.restore().unwrap();
    server.start_again().unwrap();
    // The same process's token is in the backup; even a new epoch must not go on from memory.
    for frame in [grown(TWO, 1, 0, 20), grown(ONE, 4, 15, 20)] {
        let stopped = finish(&mut running, vec![frame]).await.1;
        assert_eq!(stopped, Err(Stop::Fatal(Fatal::SetBack)));
    }
    assert_eq!(total(&server), counters(10), "nothing was written");

    // Restarted it reads what is there. The node finds its acknowledged number ahead of the
    // store's, begins a new epoch and tells everything again.
    let mut restarted = committer(&store, 2).await;
    assert_eq!(restarted.counter().progress(&node(), ONE).unwrap().committed, Seq(1));
    let all = Record { flags: RecordFlags::REBASE, ..record(1, 105, 150, 0, 20) };
    finish(&mut restarted, vec![batch(TWO, 1, 150, vec![all])]).await.1.unwrap();
    assert_eq!(total(&server), counters(20));
}

#[tokio::test]
async fn a_frame_that_the_database_refuses_is_found_and_the_others_go_in() {
    let server = Server::start().unwrap();
    let store = PostgresStore::open(&address(&server.url())).await.unwrap();
    let mut committer = committer(&store, 1).await;
    server.sql(DATABASE, "ALTER TABLE flow ADD CONSTRAINT unlucky CHECK (mark <> 13)").unwrap();
    let frames: Vec<_> = (1..=9_u16)
        .map(|n| {
            let mut frame = record(n, 105, 110, 0, 10);
            frame.mark = if n == 6 { 13 } else { 0 };
            let mut frame = batch(Epoch([n.try_into().unwrap(); 16]), 1, 110, vec![frame]);
            frame.node = flow::NodeName::new(&format!("gw-{n}")).unwrap();
            frame
        })
        .collect();
    let done = finish(&mut committer, frames).await.1.unwrap();
    let rejected: Vec<_> =
        done.iter().filter(|done| matches!(done, Done::Rejected { .. })).collect();
    let [Done::Rejected { node, seq: Seq(1), reason, .. }] = rejected.as_slice() else {
        panic!("{done:?}");
    };
    assert_eq!(node.as_str(), "gw-6");
    assert!(reason.contains("unlucky"), "{reason}");
    assert_eq!(done.len(), 9);
    let nodes = "SELECT count(DISTINCT node), sum(packets_orig) FROM flow";
    assert_eq!(server.sql(DATABASE, nodes).unwrap(), "8|80");
}

/// A file system of its own, unmounted at the end.
struct Disk(tempfile::TempDir);

impl Disk {
    /// `None` where this machine does not let us.
    fn of(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=0755"), "tmpfs"])
            .arg(folder.path())
            .output();
        mount.is_ok_and(|said| said.status.success()).then_some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_heals() {
    let Some(disk) = Disk::of("110m") else {
        assert!(!rustix::process::geteuid().is_root(), "root must be able to mount a tmpfs");
        println!("not run: a disk of its own needs root");
        return;
    };
    let setup = Setup { within: Some(disk.path().to_owned()), ..Setup::default() };
    let small = setup.set("max_wal_size", "32MB").set("min_wal_size", "32MB");
    let server = Server::with(small).unwrap();
    let store = open(&server.url()).await;
    store.commit(TOKEN, &first_set(1..=10)).await.unwrap();
    let entries: Vec<i64> = (1..=10).collect::<Vec<_>>().repeat(1_000);
    // All but a little is taken by somebody else.
    let ballast = disk.path().join("ballast");
    let filled = Command::new("fallocate").args(["-l", "24M"]).arg(&ballast).status().unwrap();
    let mut seq = 1;
    let full = loop {
        seq += 1;
        assert!(seq < 1_000, "the disk is never full");
        if let Err(error) = store.commit(TOKEN, &next_set(seq, &entries, counters(1))).await {
            break error;
        }
    };
    let CommitError::Unavailable(text) = &full else { panic!("{full:?}") };
    assert!(text.starts_with("the disk of the database server is full"), "{text} {filled}");
    std::fs::remove_file(&ballast).unwrap();
    let set = next_set(seq, &entries, counters(1));
    store.commit(TOKEN, &set).await.unwrap();
    assert_eq!(store.progress(&name(), EPOCH).await.unwrap().unwrap().committed, Seq(seq));
    let rows = format!("SELECT count(*) = {} FROM flow", 10 + (seq - 1) * 10_000);
    assert_eq!(server.sql(DATABASE, &rows).unwrap(), "t");
}
