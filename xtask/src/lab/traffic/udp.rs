//! UDP: short flows with answers, and datagrams nobody answers.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Done, any};

const PATIENCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);

/// A flow of its own: one to four requests, sizes by `index`, each answered.
pub(super) fn flow(to: SocketAddr, index: u32, from: Option<u16>) -> Result<Done> {
    let socket = connected(to, from)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut done = Done { flows: 1, ..Done::default() };
    let mut buffer = [0; 2048];
    for request in 0..=index % 4 {
        let size = usize::try_from(8 + (index * 37 + request * 211) % 1000)?;
        let datagram = buffer.get(..size).context("a datagram that fits")?;
        done.sent += socket.send(datagram).context("could not send a datagram")? as u64;
        match socket.recv(&mut buffer) {
            Ok(size) => done.received += size as u64,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                done.unanswered += 1;
            }
            Err(error) => return Err(error).context("could not receive an answer"),
        }
    }
    Ok(done)
}

/// A flow of datagrams that wait for no answer.
pub(super) fn shout(to: SocketAddr, count: u32, from: Option<u16>) -> Result<Done> {
    let socket = connected(to, from)?;
    let mut done = Done { flows: 1, ..Done::default() };
    for _ in 0..count {
        done.sent += socket.send(&[0; 100]).context("could not send a datagram")? as u64;
    }
    Ok(done)
}

fn connected(to: SocketAddr, from: Option<u16>) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(any(to.ip(), from)).context("could not open a UDP socket")?;
    socket.connect(to).with_context(|| format!("no route to {to}"))?;
    Ok(socket)
}

/// Answers every datagram with twice its size (at most 1,200 bytes), until `stop`.
pub(super) fn echo(port: u16, stop: Arc<AtomicBool>) -> Result<JoinHandle<Result<()>>> {
    serve(port, stop, |socket, size, from| {
        // An answer that finds no way is for the asker to miss.
        let _ = socket.send_to(&[0xa5; 1_200][..(size * 2).min(1_200)], from);
    })
}

/// Takes every datagram and says nothing, until `stop`.
pub(super) fn swallow(port: u16, stop: Arc<AtomicBool>) -> Result<JoinHandle<Result<()>>> {
    serve(port, stop, |_, _, _| {})
}

fn serve(
    port: u16,
    stop: Arc<AtomicBool>,
    answer: impl Fn(&UdpSocket, usize, SocketAddr) + Send + 'static,
) -> Result<JoinHandle<Result<()>>> {
    let socket = UdpSocket::bind(SocketAddr::from(([0u16; 8], port)))
        .with_context(|| format!("could not listen on UDP port {port}"))?;
    socket.set_read_timeout(Some(LOOK))?;
    Ok(std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while !stop.load(Ordering::Acquire) {
            match socket.recv_from(&mut buffer) {
                Ok((size, from)) => answer(&socket, size, from),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("could not receive"),
            }
        }
        Ok(())
    }))
}
