//! A UDP relay between a node and the aggregator, whose link can be cut: then everything that
//! arrives, from either side, is dropped.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::netns::Netns;

/// Clients at once; a node that moves to another port is a new one.
const MAX_CLIENTS: usize = 16;
/// How often a thread looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);
/// Largest datagram.
const DATAGRAM: usize = 65_536;

/// A running relay; it ends with its value.
pub(crate) struct Relay {
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    cut: AtomicBool,
    passed: AtomicU64,
    dropped: AtomicU64,
}

impl State {
    /// Whether a datagram may pass; counts it.
    fn pass(&self) -> bool {
        let cut = self.cut.load(Ordering::Acquire);
        let count = if cut { &self.dropped } else { &self.passed };
        count.fetch_add(1, Ordering::Relaxed);
        !cut
    }
}

impl Relay {
    /// Begins to forward, in `netns`, from the port `listen` to `to`.
    pub(crate) fn start(netns: &Netns, listen: u16, to: SocketAddr) -> Result<Self> {
        netns.enter(|| Self::here(listen, to).map(|(relay, _)| relay))
    }

    /// The same, where this thread is. Gives the address it listens on.
    fn here(listen: u16, to: SocketAddr) -> Result<(Self, SocketAddr)> {
        let front = UdpSocket::bind(SocketAddr::from(([0, 0, 0, 0], listen)))
            .with_context(|| format!("the relay could not listen on UDP port {listen}"))?;
        let address = front.local_addr()?;
        front.set_read_timeout(Some(LOOK))?;
        let state = Arc::new(State::default());
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

    /// Datagrams that have passed, and that were dropped.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let State { passed, dropped, .. } = &*self.state;
        (passed.load(Ordering::Relaxed), dropped.load(Ordering::Relaxed))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Release);
    }
}

/// Client to aggregator, here; the way back on a thread for each client.
fn forward(front: &Arc<UdpSocket>, to: SocketAddr, state: &Arc<State>) -> Result<()> {
    let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    receive(front, state, |datagram, from| {
        if !clients.contains_key(&from) {
            if clients.len() == MAX_CLIENTS {
                bail!("more than {MAX_CLIENTS} clients");
            }
            let back = Arc::new(UdpSocket::bind(("0.0.0.0", 0))?);
            back.connect(to)?;
            back.set_read_timeout(Some(LOOK))?;
            clients.insert(from, Arc::clone(&back));
            let (front, state) = (Arc::clone(front), Arc::clone(state));
            std::thread::spawn(move || {
                // An unreachable client is as good as a lost datagram.
                receive(&back, &state, |datagram, _| {
                    let _ = front.send_to(datagram, from);
                    Ok(())
                })
            });
        }
        if let Some(back) = clients.get(&from) {
            // While the aggregator is down its port refuses; the sender will try again.
            let _ = back.send(datagram);
        }
        Ok(())
    })
}

/// Gives everything that arrives and may pass to `take`, until told to stop.
fn receive(
    socket: &UdpSocket,
    state: &State,
    mut take: impl FnMut(&[u8], SocketAddr) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; DATAGRAM];
    while !state.stop.load(Ordering::Acquire) {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                if state.pass() {
                    take(buffer.get(..length).unwrap_or_default(), from)?;
                }
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                ErrorKind::ConnectionRefused => {}
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
        let (relay, address) = Relay::here(0, server.local_addr().unwrap()).unwrap();
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
        until(|| relay.counts().1 == 2);
        relay.cut(false);
        client.send(b"again").unwrap();
        let (length, _) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"again");
    }
}
