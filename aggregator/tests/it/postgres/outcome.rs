//! A connection that is lost exactly at COMMIT, and two processes on one store.

use aggregator::pipeline::commit::{Done, Fatal, Stop};
use aggregator::store::postgres::PostgresStore;
use aggregator::store::{CommitError, Store, StoreError};
use flow::Seq;
use testdb::{DATABASE, Server};

use super::proxy::{At, Proxy};
use super::{ONE, address, committer, finish, grown, open, total};
use crate::frames::{counters, node};
use crate::rows::{EPOCH, TOKEN, at, first_set, name, next_set};

/// Three frames, the second of them committed over a connection that is cut at its COMMIT.
async fn cut(when: At) -> Vec<String> {
    let server = Server::start().unwrap();
    let proxy = Proxy::before(&server);
    let store = PostgresStore::open(&address(&proxy.url())).await.unwrap();
    let mut committer = committer(&store, 1).await;
    // Partitions are made by transactions too: they are there after this one.
    finish(&mut committer, vec![grown(ONE, 1, 0, 10)]).await.1.unwrap();
    proxy.arm(when);
    let (said, done) = finish(&mut committer, vec![grown(ONE, 2, 10, 14)]).await;
    assert!(proxy.has_fired());
    assert_eq!(done, Ok(vec![Done::Committed { node: node(), epoch: ONE, last: Seq(2) }]));
    finish(&mut committer, vec![grown(ONE, 3, 14, 15)]).await.1.unwrap();
    assert_eq!(total(&server), counters(15));
    assert_eq!(server.sql(DATABASE, "SELECT count(*) FROM flow").unwrap(), "3");
    said
}

#[tokio::test]
async fn a_commit_that_never_arrived_is_run_again() {
    let said = cut(At::Before).await;
    assert!(said.iter().any(|why| why.contains("it is run again")), "{said:?}");
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_not_run_again() {
    cut(At::After).await;
}

#[tokio::test]
async fn nothing_is_answered_while_a_lost_commit_may_still_happen() {
    let server = Server::start().unwrap();
    let proxy = Proxy::before(&server);
    let store = open(&proxy.url()).await;
    store.commit(TOKEN, &first_set(1..=1)).await.unwrap();
    proxy.arm(At::Late);
    let set = next_set(2, &[1], counters(3));
    let unknown = store.commit(TOKEN, &set).await;
    assert!(matches!(unknown, Err(CommitError::Unknown(_))), "{unknown:?}");
    // The server still has the transaction open; no answer may be given that it could overtake.
    let asked = store.progress(&name(), EPOCH).await;
    let Err(StoreError::Unavailable(text)) = asked else { panic!("{asked:?}") };
    assert!(text.contains("has not finished a transaction"), "{text}");
    // It was ended for good: a COMMIT that arrives now comes too late.
    let committed = loop {
        match store.progress(&name(), EPOCH).await {
            Ok(progress) => break progress.unwrap().committed,
            Err(StoreError::Unavailable(_)) => tokio::task::yield_now().await,
            Err(corrupt) => panic!("{corrupt}"),
        }
    };
    proxy.let_go();
    assert_eq!(committed, Seq(1));
    store.commit(TOKEN, &set).await.unwrap();
    assert_eq!(total(&server), counters(10).plus(counters(3)));
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_nothing_half_done() {
    let server = Server::start().unwrap();
    let store = open(&server.url()).await;
    store.commit(TOKEN, &first_set(1..=1)).await.unwrap();
    let mut sum = counters(10);
    let (mut given_up, mut seq) = (0, 2);
    // Given up after ever more steps, until one gets through.
    for steps in 1.. {
        let set = next_set(seq, &[1], counters(1));
        let mut commit = std::pin::pin!(store.commit(TOKEN, &set));
        let mut polls = 0;
        let done = std::future::poll_fn(|context| {
            polls += 1;
            match commit.as_mut().poll(context) {
                std::task::Poll::Ready(done) => std::task::Poll::Ready(Some(done)),
                std::task::Poll::Pending if polls >= steps => std::task::Poll::Ready(None),
                std::task::Poll::Pending => std::task::Poll::Pending,
            }
        })
        .await;
        match done {
            Some(Ok(())) => {
                (sum, seq) = (sum.plus(counters(1)), seq + 1);
                break;
            }
            // An earlier one had got as far as COMMIT.
            Some(Err(CommitError::Conflict { committed, .. })) => {
                assert_eq!(committed.unwrap().committed, Seq(seq));
                (sum, seq) = (sum.plus(counters(1)), seq + 1);
            }
            Some(Err(CommitError::Unavailable(_))) => {}
            Some(Err(other)) => panic!("{other:?} after {steps} steps"),
            None => given_up += 1,
        }
    }
    // How many there are depends on how fast the server answers.
    assert!(given_up >= 3, "a commit takes more than {given_up} steps");
    assert_eq!(store.progress(&name(), EPOCH).await.unwrap().unwrap().committed, Seq(seq - 1));
    assert_eq!(total(&server), sum);
}

#[tokio::test]
async fn the_second_of_two_processes_takes_over() {
    let server = Server::start().unwrap();
    let first = PostgresStore::open(&address(&server.url())).await.unwrap();
    let mut one = committer(&first, 1).await;
    finish(&mut one, vec![grown(ONE, 1, 0, 10)]).await.1.unwrap();
    let second = PostgresStore::open(&address(&server.url())).await.unwrap();
    let mut two = committer(&second, 2).await;
    // The same frames reach both.
    let stopped = finish(&mut one, vec![grown(ONE, 2, 10, 14)]).await.1;
    assert_eq!(stopped, Err(Stop::Fatal(Fatal::OtherWriter)));
    finish(&mut two, vec![grown(ONE, 2, 10, 14)]).await.1.unwrap();
    let stopped = finish(&mut one, vec![grown(ONE, 2, 10, 14)]).await.1;
    assert_eq!(stopped, Err(Stop::Fatal(Fatal::OtherWriter)), "and never starts again");
    assert_eq!(total(&server), counters(14));
}

#[tokio::test]
async fn who_takes_over_waits_for_the_transaction_under_way() {
    let server = Server::start().unwrap();
    let proxy = Proxy::before(&server);
    let first = open(&proxy.url()).await;
    first.commit(TOKEN, &first_set(1..=1)).await.unwrap();
    proxy.arm(At::Late);
    let set = next_set(2, &[1], counters(3));
    assert!(first.commit(TOKEN, &set).await.is_err());
    // The first is gone, its COMMIT is on its way.
    let second = PostgresStore::open(&address(&server.url())).await.unwrap();
    let taking = second.take_writer(aggregator::store::row::WriterToken([2; 16]), at(0));
    let mut taking = std::pin::pin!(taking);
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    loop {
        tokio::select! {
            biased;
            taken = &mut taking => panic!("taken over too early: {taken:?}"),
            () = tokio::task::yield_now() => {}
        }
        if server.sql(DATABASE, waiting).unwrap() == "1" {
            break;
        }
    }
    proxy.let_go();
    taking.await.unwrap();
    let loaded = second.load(at(0)).await.unwrap();
    assert_eq!(loaded.epochs[0].committed, Seq(2), "what was committed last is seen");
    assert_eq!(total(&server), counters(10).plus(counters(3)));
}
