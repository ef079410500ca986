//! Sessions: what reaches the pipeline, what the node is told, and what ends them.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use aggregator::ingest::gate::GateLimits;
use aggregator::ingest::reorder::ReorderLimits;
use aggregator::ingest::{CloseReason, FrameFate, IngestConfig};
use aggregator::pipeline::{Answer, Arrived, PipelineError};
use flow::{BootId, BootNanos, Counters, Epoch, Seq, UnixNanos};
use wire::control::{Message, Ping, RefuseReason, Verdict};
use wire::frame::{Frame, HEADER_LEN, Kind, MAX_FRAME};
use wire::gap::{Gap, GapReason};

use super::fleet::{Client, Fleet, STORE, Server, batch, config_of, dial, hello};

async fn arrivals(server: &mut Server, count: usize) -> Vec<Arrived> {
    let mut arrived = Vec::new();
    while arrived.len() < count {
        arrived.push(server.arrived.recv().await.unwrap());
    }
    arrived
}

fn numbers(arrived: &[Arrived]) -> Vec<u64> {
    arrived.iter().map(|frame| frame.first.get()).collect()
}

async fn received(client: &mut Client, count: usize) -> Vec<u64> {
    let mut seqs = Vec::new();
    for _ in 0..count {
        match client.hear().await {
            Message::Received(received) => seqs.push(received.seq.get()),
            other => panic!("{other:?}"),
        }
    }
    seqs.sort_unstable();
    seqs
}

#[tokio::test]
async fn frames_of_many_streams_reach_the_pipeline_once_in_order_and_are_acknowledged() {
    let fleet = Fleet::new();
    let mut server = Server::start(&fleet);
    let paths = fleet.join("gw1");
    let (mut client, answer) = Client::hello(&server, &paths, "gw1", 1).await;
    let Message::Welcome(welcome) = answer else { panic!("{answer:?}") };
    assert_eq!((welcome.store, welcome.committed), (STORE, Seq::NONE));
    assert_eq!((welcome.max_unreceived, welcome.max_frame as usize), (16, MAX_FRAME));

    for seq in [4, 2, 5, 2, 3, 1, 4] {
        client.data(&batch(seq).bytes).await;
    }
    assert_eq!(received(&mut client, 7).await, [1, 2, 2, 3, 4, 4, 5]);
    let arrived = arrivals(&mut server, 5).await;
    assert_eq!(numbers(&arrived), [1, 2, 3, 4, 5]);
    for frame in &arrived {
        assert_eq!(frame.node.as_str(), "gw1");
        assert_eq!(frame.epoch, Epoch([1; 16]));
        let sent = batch(frame.first.get());
        assert_eq!((&frame.frame, frame.digest), (&sent.bytes, sent.header.digest));
    }
    arrived[0].answer.send(Answer::Ack(Seq(5), None)).await.unwrap();
    assert!(matches!(client.hear().await, Message::Ack(ack) if ack.seq == Seq(5)));
    // What is committed is acknowledged again and goes no further.
    client.data(&batch(3).bytes).await;
    assert_eq!(received(&mut client, 1).await, [3]);
    assert!(matches!(client.hear().await, Message::Ack(ack) if ack.seq == Seq(5)));
    assert!(server.arrived.try_recv().is_err());
    assert_eq!(server.metrics.frames(FrameFate::Taken), 5);
    assert_eq!(server.metrics.frames(FrameFate::Duplicate), 2);
    assert_eq!(server.metrics.frames(FrameFate::Committed), 1);
    server.until(|metrics| metrics.buffered_bytes.get() == 0).await;
}

#[tokio::test]
async fn a_known_epoch_goes_on_after_its_last_commit() {
    let fleet = Fleet::new();
    let mut server = Server::start(&fleet);
    *server.store.lock().unwrap() = Ok(HashMap::from([(Epoch([1; 16]), Seq(41))]));
    let (mut client, answer) = Client::hello(&server, &fleet.join("gw1"), "gw1", 1).await;
    assert!(matches!(answer, Message::Welcome(welcome) if welcome.committed == Seq(41)));
    let gap = Gap {
        first: Seq(42),
        last: Seq(44),
        reason: GapReason::Unreadable,
        boot: BootId([3; 16]),
        at: UnixNanos(1),
        flows: 0,
        lost: Counters::default(),
        note: String::new(),
        extensions: vec![],
    };
    client.data(&batch(45).bytes).await;
    client.data(&gap.encode().unwrap().bytes).await;
    assert_eq!(received(&mut client, 2).await, [44, 45]);
    let arrived = arrivals(&mut server, 2).await;
    let ranges: Vec<_> = arrived.iter().map(|f| (f.first.get(), f.last.get())).collect();
    assert_eq!(ranges, [(42, 44), (45, 45)]);
}

#[tokio::test]
async fn what_the_pipeline_does_not_take_comes_again_or_is_replaced() {
    let fleet = Fleet::new();
    let mut server = Server::start(&fleet);
    let mut client = Client::welcome(&server, &fleet.join("gw1"), "gw1").await;
    for seq in [1, 2] {
        client.data(&batch(seq).bytes).await;
    }
    received(&mut client, 2).await;
    let arrived = arrivals(&mut server, 2).await;
    let later = Answer::Later { seq: Seq(1), retry_after_ms: 250 };
    arrived[0].answer.send(later).await.unwrap();
    let nack = client.hear().await;
    assert!(
        matches!(&nack, Message::Nack(n) if n.seq == Seq(1) && n.verdict == Verdict::RetryAfter(250)),
        "{nack:?}"
    );
    client.data(&batch(1).bytes).await;
    received(&mut client, 1).await;
    assert_eq!(numbers(&arrivals(&mut server, 1).await), [1]);

    let reason = "row out of range".to_owned();
    let rejected = Answer::Rejected { seq: Seq(2), reason: reason.clone() };
    arrived[1].answer.send(rejected).await.unwrap();
    let nack = client.hear().await;
    assert!(
        matches!(&nack, Message::Nack(n) if n.seq == Seq(2) && n.verdict == Verdict::Reject(reason)),
        "{nack:?}"
    );
    client.data(&batch(2).bytes).await;
    received(&mut client, 1).await;
    assert_eq!(numbers(&arrivals(&mut server, 1).await), [2]);
}

#[tokio::test]
async fn early_frames_beyond_the_bound_are_sent_back() {
    let fleet = Fleet::new();
    let reorder = ReorderLimits { frames: 2, ..ReorderLimits::default() };
    let mut server = Server::start_with(&fleet, IngestConfig { reorder, ..Default::default() });
    let mut client = Client::welcome(&server, &fleet.join("gw1"), "gw1").await;
    for seq in [2, 3] {
        client.data(&batch(seq).bytes).await;
        assert_eq!(received(&mut client, 1).await, [seq]);
    }
    client.data(&batch(4).bytes).await;
    assert_eq!(received(&mut client, 1).await, [4]);
    let nack = client.hear().await;
    assert!(matches!(&nack, Message::Nack(n) if n.seq == Seq(4)), "{nack:?}");
    for seq in [1, 4] {
        client.data(&batch(seq).bytes).await;
        received(&mut client, 1).await;
    }
    assert_eq!(numbers(&arrivals(&mut server, 4).await), [1, 2, 3, 4]);
    assert_eq!(server.metrics.frames(FrameFate::Early), 1);
}

#[tokio::test]
async fn short_memory_takes_from_frames_that_wait_for_others() {
    let fleet = Fleet::new();
    let size = batch(1).bytes.len().max(batch(2).bytes.len());
    let config = IngestConfig { total_bytes: size, ..Default::default() };
    let mut server = Server::start_with(&fleet, config);
    let mut client = Client::welcome(&server, &fleet.join("gw1"), "gw1").await;
    client.data(&batch(2).bytes).await;
    assert_eq!(received(&mut client, 1).await, [2]);
    client.data(&batch(1).bytes).await;
    let nack = client.hear().await;
    assert!(matches!(&nack, Message::Nack(n) if n.seq == Seq(2)), "{nack:?}");
    assert_eq!(received(&mut client, 1).await, [1]);
    client.data(&batch(2).bytes).await;
    assert_eq!(received(&mut client, 1).await, [2]);
    assert_eq!(numbers(&arrivals(&mut server, 2).await), [1, 2]);
    assert_eq!(server.metrics.memory_waits.get(), 1);
}

#[tokio::test]
async fn sixteen_frames_may_be_on_their_way_and_no_more() {
    let fleet = Fleet::new();
    let server = Server::start(&fleet);
    let mut client = Client::welcome(&server, &fleet.join("gw1"), "gw1").await;
    let mut streams = Vec::new();
    for seq in 1..=16 {
        let mut stream = client.connection.open_uni().await.unwrap();
        stream.write_all(&batch(seq).bytes[..HEADER_LEN]).await.unwrap();
        streams.push(stream);
    }
    let connection = client.connection.clone();
    let mut next = pin!(connection.open_uni());
    let open = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await;
    assert!(open.is_pending());
    // QUIC gives new streams out a few at a time.
    for (stream, seq) in streams.iter_mut().zip(1..=4) {
        stream.write_all(&batch(seq).bytes[HEADER_LEN..]).await.unwrap();
        stream.finish().unwrap();
        assert_eq!(received(&mut client, 1).await, [seq]);
    }
    next.await.unwrap();
}

#[tokio::test]
async fn pings_are_answered_and_a_fitting_offset_travels_with_the_frames() {
    let fleet = Fleet::new();
    let mut server = Server::start(&fleet);
    let mut client = Client::welcome(&server, &fleet.join("gw1"), "gw1").await;
    let sent = BootNanos(5_000_000_000);
    let ping = |offset| Message::Ping(Ping { sent, offset, extensions: vec![] });
    client.say(&ping(None)).await;
    let Message::Pong(pong) = client.hear().await else { panic!("no pong") };
    assert_eq!(pong.sent, sent);
    assert!(pong.received <= pong.answered);
    let boot_at = pong.received.get() - i64::try_from(sent.get()).unwrap();

    // An hour off contradicts the ping itself.
    client.say(&ping(Some(boot_at + 3_600_000_000_000))).await;
    client.hear().await;
    client.data(&batch(1).bytes).await;
    received(&mut client, 1).await;
    assert_eq!(arrivals(&mut server, 1).await[0].clock, None);
    assert_eq!(server.metrics.clock_misfits.get(), 1);

    client.say(&ping(Some(boot_at))).await;
    client.hear().await;
    client.data(&batch(2).bytes).await;
    received(&mut client, 1).await;
    let clock = arrivals(&mut server, 1).await[0].clock.unwrap();
    assert_eq!((clock.offset.0, clock.at, clock.boot), (boot_at, sent, BootId([3; 16])));
}

#[tokio::test]
async fn a_name_that_is_not_the_certificates() {
    let fleet = Fleet::new();
    let server = Server::start(&fleet);
    let paths = fleet.join("gw1");
    for (name, told) in [("gw2", "its certificate says gw1"), ("GW1", "a-z 0-9")] {
        let (client, answer) = Client::hello(&server, &paths, name, 1).await;
        let Message::Refused(refused) = answer else { panic!("{answer:?}") };
        assert_eq!(refused.reason, RefuseReason::WrongName);
        assert!(refused.message.contains(told), "{}", refused.message);
        assert_eq!(client.closed().await, (1, refused.message));
    }
    server.until(|metrics| metrics.closed(CloseReason::Refused) == 2).await;
    assert_eq!(server.metrics.refused(RefuseReason::WrongName), 2);
    assert!(server.log().contains("its certificate says gw1"), "{}", server.log());
}

#[tokio::test]
async fn two_nodes_of_one_name() {
    let fleet = Fleet::new();
    let mut server = Server::start(&fleet);
    let paths = fleet.join("gw1");
    let old = Client::welcome(&server, &paths, "gw1").await;
    // A clone of its disk has another epoch.
    let (clone, answer) = Client::hello(&server, &paths, "gw1", 2).await;
    let Message::Refused(refused) = answer else { panic!("{answer:?}") };
    assert_eq!(refused.reason, RefuseReason::NameInUse);
    assert!(refused.message.contains("another node with this name"), "{}", refused.message);
    assert_eq!(clone.closed().await.0, 1);
    // The node itself, which lost its connection without us knowing.
    old.data(&batch(1).bytes).await;
    arrivals(&mut server, 1).await;
    let mut new = Client::welcome(&server, &paths, "gw1").await;
    assert_eq!(old.closed().await.0, 2);
    new.data(&batch(1).bytes).await;
    assert_eq!(received(&mut new, 1).await, [1]);
    assert_eq!(numbers(&arrivals(&mut server, 1).await), [1]);
    server.until(|metrics| metrics.closed(CloseReason::Replaced) == 1).await;
    assert_eq!(server.metrics.sessions.get(), 1);
    assert_eq!(server.metrics.refused(RefuseReason::NameInUse), 1);
}

#[tokio::test]
async fn another_epoch_takes_over_once_the_first_is_silent() {
    let fleet = Fleet::new();
    let config = IngestConfig { silence: Duration::ZERO, ..Default::default() };
    let server = Server::start_with(&fleet, config);
    let paths = fleet.join("gw1");
    let old = Client::welcome(&server, &paths, "gw1").await;
    let (_new, answer) = Client::hello(&server, &paths, "gw1", 2).await;
    assert!(matches!(answer, Message::Welcome(_)), "{answer:?}");
    assert_eq!(old.closed().await.0, 2);
}

#[tokio::test]
async fn too_many_nodes_and_a_store_that_is_away() {
    let fleet = Fleet::new();
    let config = IngestConfig { max_nodes: 1, ..Default::default() };
    let server = Server::start_with(&fleet, config);
    let (first, second) = (fleet.join("gw1"), fleet.join("gw2"));
    server.issued.reload().unwrap();
    *server.store.lock().unwrap() = Err(PipelineError::StoreAway("disk full".to_owned()));
    let (client, answer) = Client::hello(&server, &first, "gw1", 1).await;
    assert!(
        matches!(&answer, Message::Refused(r) if r.reason == RefuseReason::Unavailable
            && r.message.contains("disk full")),
        "{answer:?}"
    );
    client.closed().await;
    *server.store.lock().unwrap() = Ok(HashMap::new());
    // Its place was given up with the refusal.
    let _first = Client::welcome(&server, &first, "gw1").await;
    let (_, answer) = Client::hello(&server, &second, "gw2", 1).await;
    assert!(
        matches!(&answer, Message::Refused(r) if r.reason == RefuseReason::TooManyNodes),
        "{answer:?}"
    );
}

/// Sends `bytes` on a data stream of a fresh session and expects it to end like this.
async fn ends(server: &Server, client: &Client, bytes: &[u8], reason: CloseReason, told: &str) {
    let before = server.metrics.closed(reason);
    client.data(bytes).await;
    let (code, text) = client.closed().await;
    assert_eq!(code, reason as u64, "{text}");
    assert!(text.contains(told), "{told:?} not in {text:?}");
    server.until(|metrics| metrics.closed(reason) == before + 1).await;
    assert!(server.log().contains(told), "{}", server.log());
}

#[tokio::test]
async fn bytes_that_are_no_frame_of_ours_end_the_connection_with_a_reason() {
    let fleet = Fleet::new();
    let mut server = Server::start(&fleet);
    let paths = fleet.join("gw1");
    let good = batch(1).bytes;
    let changed = |at: usize, to: &[u8]| {
        let mut bytes = good.to_vec();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    let flipped = changed(good.len() - 1, &[!good[good.len() - 1]]);
    let too_large = changed(8, &u32::try_from(MAX_FRAME).unwrap().to_le_bytes());
    let unreadable = Frame::new(Kind::BATCH, b"x").unwrap().bytes;
    let ping = Ping { sent: BootNanos(1), offset: None, extensions: vec![] };
    let control = Message::Ping(ping).encode().unwrap().bytes;
    let twice = [&good[..], &good[..]].concat();
    let malformed = CloseReason::Malformed;
    let cases: [(&[u8], CloseReason, &str); 9] = [
        (b"GET / HTTP/1.1\r\nHost: example.net\r\n\r\n-----------", malformed, "not a conntracct"),
        (&changed(4, &[2, 0]), CloseReason::Version, "protocol version 2 is not spoken here"),
        (&too_large, malformed, "exceeds the limit"),
        (&flipped, malformed, "digest mismatch"),
        (&good[..good.len() - 1], malformed, "ended inside a frame"),
        (&good[..7], malformed, "ended inside a frame"),
        (&twice, malformed, "more than its one frame"),
        (&control, malformed, "control frame (kind 4)"),
        (&unreadable, malformed, "batch"),
    ];
    for (bytes, reason, told) in cases {
        let client = Client::welcome(&server, &paths, "gw1").await;
        ends(&server, &client, bytes, reason, told).await;
    }
    assert!(server.arrived.try_recv().is_err());
    server.until(|metrics| metrics.buffered_bytes.get() == 0).await;
}

#[tokio::test]
async fn numbers_that_overlap_end_the_connection() {
    let fleet = Fleet::new();
    let server = Server::start(&fleet);
    *server.store.lock().unwrap() = Ok(HashMap::from([(Epoch([1; 16]), Seq(7))]));
    let client = Client::welcome(&server, &fleet.join("gw1"), "gw1").await;
    let gap = Gap {
        first: Seq(6),
        last: Seq(9),
        reason: GapReason::Forgotten,
        boot: BootId::default(),
        at: UnixNanos(1),
        flows: 0,
        lost: Counters::default(),
        note: String::new(),
        extensions: vec![],
    };
    let bytes = gap.encode().unwrap().bytes;
    ends(&server, &client, &bytes, CloseReason::Malformed, "frame 6..=9 overlaps").await;
}

#[tokio::test]
async fn kinds_that_are_not_known_are_skipped() {
    let fleet = Fleet::new();
    let server = Server::start(&fleet);
    let mut client = Client::welcome(&server, &fleet.join("gw1"), "gw1").await;
    client.data(&Frame::new(Kind(99), b"of a later version").unwrap().bytes).await;
    let later = Frame::new(Kind(15), b"of a later version").unwrap();
    client.send.write_all(&later.bytes).await.unwrap();
    client.data(&batch(1).bytes).await;
    assert_eq!(received(&mut client, 1).await, [1]);
    server.until(|metrics| metrics.frames(FrameFate::Unknown) == 1).await;
}

#[tokio::test]
async fn a_control_stream_that_is_none() {
    let fleet = Fleet::new();
    let server = Server::start(&fleet);
    let paths = fleet.join("gw1");
    let mut version_2 = Message::Hello(hello("gw1", 1)).encode().unwrap().bytes.to_vec();
    version_2[4] = 2;
    let ping = Message::Ping(Ping { sent: BootNanos(1), offset: None, extensions: vec![] });
    let ping = ping.encode().unwrap().bytes.to_vec();
    let cases = [
        (version_2, CloseReason::Version, "protocol version 2 is not spoken here"),
        (ping, CloseReason::Malformed, "first message must be Hello"),
        (batch(1).bytes.to_vec(), CloseReason::Malformed, "control stream carried a data frame"),
    ];
    for (bytes, reason, told) in cases {
        let mut client = Client::connect(&server, &paths).await;
        client.send.write_all(&bytes).await.unwrap();
        let answer = client.hear().await;
        let Message::Refused(refused) = answer else { panic!("{answer:?}") };
        assert_eq!(refused.reason, RefuseReason::Malformed);
        assert!(refused.message.contains(told), "{}", refused.message);
        assert_eq!(client.closed().await, (reason as u64, refused.message));
    }
    let mut client = Client::welcome(&server, &paths, "gw1").await;
    client.say(&Message::Hello(hello("gw1", 1))).await;
    assert_eq!(client.closed().await.0, CloseReason::Malformed as u64);
}

#[tokio::test]
async fn a_peer_that_never_says_hello() {
    let fleet = Fleet::new();
    let config = IngestConfig { hello_timeout: Duration::from_millis(100), ..Default::default() };
    let server = Server::start_with(&fleet, config);
    let client = Client::connect(&server, &fleet.join("gw1")).await;
    let (code, told) = client.closed().await;
    assert_eq!(code, CloseReason::Stalled as u64);
    assert!(told.contains("no Hello"), "{told}");
    server.until(|metrics| metrics.pending.get() == 0).await;
}

#[tokio::test]
async fn a_frame_that_stops_in_the_middle() {
    let fleet = Fleet::new();
    let config = IngestConfig { stall: Duration::from_millis(100), ..Default::default() };
    let server = Server::start_with(&fleet, config);
    let client = Client::welcome(&server, &fleet.join("gw1"), "gw1").await;
    let mut stream = client.connection.open_uni().await.unwrap();
    stream.write_all(&batch(1).bytes[..HEADER_LEN + 1]).await.unwrap();
    let (code, told) = client.closed().await;
    assert_eq!(code, CloseReason::Stalled as u64, "{told}");
    server.until(|metrics| metrics.buffered_bytes.get() == 0).await;
}

#[tokio::test]
async fn stopping_waits_for_what_is_in_flight_and_tells_it() {
    let fleet = Fleet::new();
    let mut server = Server::start(&fleet);
    let mut client = Client::welcome(&server, &fleet.join("gw1"), "gw1").await;
    client.data(&batch(1).bytes).await;
    received(&mut client, 1).await;
    let arrived = arrivals(&mut server, 1).await;
    server.stop();
    arrived[0].answer.send(Answer::Ack(Seq(1), None)).await.unwrap();
    assert!(matches!(client.hear().await, Message::Ack(ack) if ack.seq == Seq(1)));
    assert_eq!(client.closed().await.0, CloseReason::Shutdown as u64);
    server.stopped().await;
}

#[tokio::test]
async fn under_load_a_peer_proves_its_address_first() {
    let fleet = Fleet::new();
    let gate = GateLimits { retry_above: 0, ..GateLimits::default() };
    let server = Server::start_with(&fleet, IngestConfig { gate, ..Default::default() });
    Client::welcome(&server, &fleet.join("gw1"), "gw1").await;
    assert_eq!(server.metrics.retries.get(), 1);
}

#[tokio::test]
async fn a_full_gate_turns_peers_away() {
    let fleet = Fleet::new();
    let gate = GateLimits { per_address: 1, ..GateLimits::default() };
    let server = Server::start_with(&fleet, IngestConfig { gate, ..Default::default() });
    let paths = fleet.join("gw1");
    let on_its_way = Client::connect(&server, &paths).await;
    let refused = dial(server.address, config_of(&paths)).await.err().unwrap();
    assert!(refused.to_string().contains("refused"), "{refused}");
    assert_eq!(server.metrics.turned_away.get(), 1);
    on_its_way.connection.close(0u32.into(), b"");
    server.until(|metrics| metrics.pending.get() == 0).await;
    Client::welcome(&server, &paths, "gw1").await;
}

#[tokio::test]
async fn a_slow_pipeline_slows_the_node_and_loses_nothing() {
    let fleet = Fleet::new();
    let reorder = ReorderLimits { frames: 2, in_flight: 2, ..ReorderLimits::default() };
    let mut server = Server::start_with(&fleet, IngestConfig { reorder, ..Default::default() });
    let mut client = Client::welcome(&server, &fleet.join("gw1"), "gw1").await;
    let sender = client.connection.clone();
    let sending = tokio::spawn(async move {
        for seq in 1..=40 {
            let mut stream = sender.open_uni().await.unwrap();
            stream.write_all(&batch(seq).bytes).await.unwrap();
            stream.finish().unwrap();
        }
    });
    let mut next = 1;
    while next <= 40 {
        let frames = arrivals(&mut server, 2).await;
        assert_eq!(numbers(&frames), [next, next + 1]);
        // Nothing more comes before these are answered.
        assert!(server.arrived.try_recv().is_err());
        next += 2;
        frames[0].answer.send(Answer::Ack(Seq(next - 1), None)).await.unwrap();
    }
    sending.await.unwrap();
    let mut acked = Seq::NONE;
    while acked < Seq(40) {
        match client.hear().await {
            Message::Received(_) => {}
            Message::Ack(ack) => acked = ack.seq,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(server.metrics.frames(FrameFate::Early), 0);
}

#[tokio::test]
async fn a_node_whose_frames_wait_still_gets_its_pongs() {
    let fleet = Fleet::new();
    let reorder = ReorderLimits { frames: 1, in_flight: 1, ..ReorderLimits::default() };
    let mut server = Server::start_with(&fleet, IngestConfig { reorder, ..Default::default() });
    let mut client = Client::welcome(&server, &fleet.join("gw1"), "gw1").await;
    client.data(&batch(1).bytes).await;
    let first = arrivals(&mut server, 1).await;
    client.data(&batch(2).bytes).await;
    assert_eq!(received(&mut client, 2).await, [1, 2]);
    for seq in 3..=12 {
        client.data(&batch(seq).bytes).await;
    }
    let sent = BootNanos(1);
    client.say(&Message::Ping(Ping { sent, offset: None, extensions: vec![] })).await;
    let pong = client.hear().await;
    assert!(matches!(&pong, Message::Pong(pong) if pong.sent == sent), "{pong:?}");
    first[0].answer.send(Answer::Ack(Seq(1), None)).await.unwrap();
    assert_eq!(numbers(&arrivals(&mut server, 1).await), [2]);
}

#[tokio::test]
async fn a_node_that_does_not_read_its_control_stream() {
    let fleet = Fleet::new();
    let server = Server::start(&fleet);
    let mut config = config_of(&fleet.join("gw1"));
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(quinn::VarInt::from_u32(1_024));
    config.transport_config(std::sync::Arc::new(transport));
    let (connection, _endpoint) = dial(server.address, config).await.unwrap();
    let (mut send, _unread) = connection.open_bi().await.unwrap();
    let greeting = Message::Hello(hello("gw1", 1)).encode().unwrap().bytes;
    send.write_all(&greeting).await.unwrap();
    let ping = Message::Ping(Ping { sent: BootNanos(1), offset: None, extensions: vec![] });
    let ping = ping.encode().unwrap().bytes;
    while send.write_all(&ping).await.is_ok() {}
    let closed = connection.closed().await.to_string();
    assert!(closed.contains("does not read its control stream"), "{closed}");
    server.until(|metrics| metrics.closed(CloseReason::NotReading) == 1).await;
}

#[tokio::test]
async fn a_node_that_says_goodbye() {
    let fleet = Fleet::new();
    let server = Server::start(&fleet);
    let mut client = Client::welcome(&server, &fleet.join("gw1"), "gw1").await;
    client.send.finish().unwrap();
    assert_eq!(client.closed().await.0, CloseReason::Done as u64);
    server.until(|metrics| metrics.closed(CloseReason::Done) == 1).await;
    assert_eq!(server.metrics.sessions.get(), 0);
}
