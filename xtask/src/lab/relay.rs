//! A UDP relay between nodes and the aggregator, which is as bad a network as it is told to be:
//! datagrams are lost, repeated and overtaken, and its link can be cut: then everything that
//! arrives, from either side, is dropped.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::netns::Netns;

/// Clients at once; a node that moves to another port is a new one, and the one that was silent
/// for longest goes.
const MAX_CLIENTS: usize = 16;
/// How often a thread looks whether it should end; a datagram that waits to be overtaken goes on
/// by then.
const LOOK: Duration = Duration::from_millis(50);
/// Largest datagram.
const DATAGRAM: usize = 65_536;

/// How bad the network is: of a thousand datagrams, each way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    pub(crate) lost: u16,
    pub(crate) repeated: u16,
    pub(crate) overtaken: u16,
    /// Of its decisions.
    pub(crate) seed: u64,
}

/// What became of the datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) passed: u64,
    /// While the link was cut.
    pub(crate) dropped: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) overtaken: u64,
}

/// A running relay; it ends with its value.
pub(crate) struct Relay {
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    weather: Weather,
    stop: AtomicBool,
    cut: AtomicBool,
    passed: AtomicU64,
    dropped: AtomicU64,
    lost: AtomicU64,
    repeated: AtomicU64,
    overtaken: AtomicU64,
}

impl Relay {
    /// Begins to forward, in `netns`, from the port `listen` to `to`.
    pub(crate) fn start(
        netns: &Netns,
        listen: u16,
        to: SocketAddr,
        weather: Weather,
    ) -> Result<Self> {
        netns.enter(|| Self::here(listen, to, weather).map(|(relay, _)| relay))
    }

    /// The same, where this thread is. Gives the address it listens on.
    fn here(listen: u16, to: SocketAddr, weather: Weather) -> Result<(Self, SocketAddr)> {
        let front = UdpSocket::bind(SocketAddr::from(([0, 0, 0, 0], listen)))
            .with_context(|| format!("the relay could not listen on UDP port {listen}"))?;
        let address = front.local_addr()?;
        front.set_read_timeout(Some(LOOK))?;
        let state = Arc::new(State { weather, ..State::default() });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            if let Err(error) = forward(&Arc::new(front), to, &shared) {
                eprintln!("the relay failed: {error:#}");
            }
        });
        Ok((Self { state }, address))
    }

    /// Cuts the link, or mends it.
    pub(crate) fn cut(&self, cut: bool) {
        self.state.cut.store(cut, Ordering::Release);
    }

    /// What became of the datagrams so far.
    pub(crate) fn counts(&self) -> Passed {
        let State { passed, dropped, lost, repeated, overtaken, .. } = &*self.state;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Passed {
            passed: read(passed),
            dropped: read(dropped),
            lost: read(lost),
            repeated: read(repeated),
            overtaken: read(overtaken),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Release);
    }
}

/// A client of the relay, with its socket towards the aggregator.
struct Client {
    back: Arc<UdpSocket>,
    way: Way,
    heard: Instant,
    gone: Arc<AtomicBool>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Release);
    }
}

/// Client to aggregator, here; the way back on a thread for each client.
fn forward(front: &Arc<UdpSocket>, to: SocketAddr, state: &Arc<State>) -> Result<()> {
    let mut clients: HashMap<SocketAddr, Client> = HashMap::new();
    let mut ways = 0;
    let gone = AtomicBool::new(false);
    receive(front, state, &gone, |arrived| {
        let Some((datagram, from)) = arrived else {
            for client in clients.values_mut() {
                client.way.idle(|datagram| drop(client.back.send(datagram)));
            }
            return Ok(());
        };
        if !clients.contains_key(&from) {
            if clients.len() == MAX_CLIENTS {
                let silent = clients.iter().min_by_key(|(_, client)| client.heard);
                let silent = silent.map(|(address, _)| *address);
                silent.and_then(|address| clients.remove(&address));
            }
            let client = connect(front, to, from, state, ways)?;
            clients.insert(from, client);
            ways += 2;
        }
        if let Some(client) = clients.get_mut(&from) {
            client.heard = Instant::now();
            // While the aggregator is down its port refuses; the sender will try again.
            client.way.send(state, datagram, |datagram| drop(client.back.send(datagram)));
        }
        Ok(())
    })
}

/// A new client, whose answers a thread of its own takes back.
fn connect(
    front: &Arc<UdpSocket>,
    to: SocketAddr,
    from: SocketAddr,
    state: &Arc<State>,
    ways: u64,
) -> Result<Client> {
    let back = Arc::new(UdpSocket::bind(("0.0.0.0", 0))?);
    back.connect(to)?;
    back.set_read_timeout(Some(LOOK))?;
    let gone = Arc::new(AtomicBool::new(false));
    let (socket, front, shared) = (Arc::clone(&back), Arc::clone(front), Arc::clone(state));
    let ended = Arc::clone(&gone);
    let mut way = Way::new(state.weather, ways + 1);
    std::thread::spawn(move || {
        // An unreachable client is as good as a lost datagram.
        let mut give = |datagram: &[u8]| drop(front.send_to(datagram, from));
        receive(&socket, &shared, &ended, |arrived| {
            match arrived {
                Some((datagram, _)) => way.send(&shared, datagram, &mut give),
                None => way.idle(&mut give),
            }
            Ok(())
        })
    });
    Ok(Client { back, way: Way::new(state.weather, ways), heard: Instant::now(), gone })
}

/// One direction of one client: what happens to each datagram is decided by a seed.
struct Way {
    weather: Weather,
    rng: SmallRng,
    /// Waits to be overtaken by the next one.
    waiting: Option<Vec<u8>>,
}

impl Way {
    fn new(weather: Weather, number: u64) -> Self {
        let rng = SmallRng::seed_from_u64(weather.seed ^ number.rotate_left(32));
        Self { weather, rng, waiting: None }
    }

    fn send(&mut self, state: &State, datagram: &[u8], mut give: impl FnMut(&[u8])) {
        let count = |count: &AtomicU64| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let Weather { lost, repeated, overtaken, .. } = self.weather;
        let fate = self.rng.random_range(0..1_000u16);
        if fate < lost {
            count(&state.lost);
        } else if fate < lost + overtaken && self.waiting.is_none() {
            count(&state.overtaken);
            self.waiting = Some(datagram.to_owned());
            return;
        } else {
            count(&state.passed);
            give(datagram);
            if fate >= 1_000 - repeated {
                count(&state.repeated);
                give(datagram);
            }
        }
        self.idle(give);
    }

    /// Nothing came that could overtake what waits.
    fn idle(&mut self, mut give: impl FnMut(&[u8])) {
        if let Some(late) = self.waiting.take() {
            give(&late);
        }
    }
}

/// Gives everything that arrives and may pass to `take`, and nothing after a while of silence,
/// until told to stop.
fn receive(
    socket: &UdpSocket,
    state: &State,
    gone: &AtomicBool,
    mut take: impl FnMut(Option<(&[u8], SocketAddr)>) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; DATAGRAM];
    while !state.stop.load(Ordering::Acquire) && !gone.load(Ordering::Acquire) {
        match socket.recv_from(&mut buffer) {
            Ok(_) if state.cut.load(Ordering::Acquire) => {
                state.dropped.fetch_add(1, Ordering::Relaxed);
            }
            Ok((length, from)) => take(Some((buffer.get(..length).unwrap_or_default(), from)))?,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => take(None)?,
                ErrorKind::Interrupted | ErrorKind::ConnectionRefused => {}
                _ => return Err(error).context("could not receive"),
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits for the relay's threads, not for time.
    fn until(condition: impl Fn() -> bool) {
        while !condition() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn datagrams_pass_both_ways_until_the_link_is_cut() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let (relay, address) = Relay::here(0, to, Weather::default()).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(("127.0.0.1", address.port())).unwrap();
        let mut buffer = [0; 16];

        client.send(b"there").unwrap();
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"there");
        server.send_to(b"back", from).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 4);

        relay.cut(true);
        client.send(b"lost").unwrap();
        server.send_to(b"lost", from).unwrap();
        until(|| relay.counts().dropped == 2);
        relay.cut(false);
        client.send(b"again").unwrap();
        let (length, _) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"again");
    }

    #[test]
    fn a_client_too_many_takes_the_place_of_the_most_silent() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let (_relay, address) = Relay::here(0, to, Weather::default()).unwrap();
        let mut buffer = [0; 16];
        for number in 0..=MAX_CLIENTS {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(&[number.to_le_bytes()[0]], ("127.0.0.1", address.port())).unwrap();
            let (length, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], [number.to_le_bytes()[0]]);
            server.send_to(b"back", from).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), 4);
        }
    }

    /// What comes out where 2,000 numbers go in.
    fn weathered(weather: Weather) -> (Vec<u16>, Passed) {
        let state = State::default();
        let mut way = Way::new(weather, 0);
        let mut out = Vec::new();
        let mut give = |datagram: &[u8]| out.push(u16::from_le_bytes([datagram[0], datagram[1]]));
        for number in 0..2_000u16 {
            way.send(&state, &number.to_le_bytes(), &mut give);
        }
        way.idle(&mut give);
        (out, Relay { state: Arc::new(state) }.counts())
    }

    #[test]
    fn weather_is_as_bad_as_told_and_the_same_by_seed() {
        let bad = Weather { lost: 50, repeated: 20, overtaken: 20, seed: 7 };
        let (out, counts) = weathered(bad);
        assert!((60..140).contains(&counts.lost), "{counts:?}");
        assert!((20..60).contains(&counts.repeated), "{counts:?}");
        assert!((20..60).contains(&counts.overtaken), "{counts:?}");
        assert_eq!(out.len() as u64, 2_000 - counts.lost + counts.repeated);
        assert!(!out.is_sorted(), "nothing was overtaken");
        assert_eq!(weathered(bad), (out.clone(), counts));
        assert_ne!(weathered(Weather { seed: 8, ..bad }).0, out);
        let (fine, counts) = weathered(Weather::default());
        assert_eq!(fine, (0..2_000).collect::<Vec<_>>());
        assert_eq!(counts, Passed { passed: 2_000, ..Passed::default() });
    }
}
