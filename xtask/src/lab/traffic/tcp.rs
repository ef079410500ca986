//! TCP: a server that takes as much as it is told and gives as much as it is asked for.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::net::{self, AddressFamily, SocketType, sockopt};

use super::{Done, any};

/// A transfer that makes no progress for this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often the server looks whether it should end.
const LOOK: Duration = Duration::from_millis(20);

/// A connection to the server, used for any number of exchanges.
pub(super) struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// Connects, from this port or one that the kernel chooses.
    pub(super) fn open(to: SocketAddr, from: Option<u16>) -> Result<Self> {
        let failed = || format!("could not connect to {to}");
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = net::socket(family, SocketType::STREAM, None).with_context(failed)?;
        // Limits how long connecting may take, too.
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
        if from.is_some() {
            net::bind(&socket, &any(to.ip(), from)).context("could not take a source port")?;
        }
        net::connect(&socket, &to).with_context(failed)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream })
    }

    /// Sends `up` bytes and receives `down`.
    pub(super) fn exchange(&mut self, up: u32, down: u32) -> Result<Done> {
        let mut request = up.to_be_bytes().to_vec();
        request.extend(down.to_be_bytes());
        self.stream.write_all(&request).context("could not send a request")?;
        give(&mut self.stream, up).context("could not send")?;
        take(&mut self.stream, down).context("could not receive")?;
        let sent = request.len() as u64 + u64::from(up);
        Ok(Done { sent, received: down.into(), ..Done::default() })
    }

    /// Closes both directions and sees the other side do the same.
    pub(super) fn close(mut self) -> Result<()> {
        self.stream.shutdown(Shutdown::Write).context("could not close a connection")?;
        if self.stream.read(&mut [0]).context("the server did not close")? != 0 {
            bail!("the server sent more than it was asked for");
        }
        Ok(())
    }
}

/// Listens on a port of both families until `stop`.
pub(super) fn listen(port: u16, stop: Arc<AtomicBool>) -> Result<JoinHandle<Result<()>>> {
    let listener = TcpListener::bind(SocketAddr::from(([0u16; 8], port)))
        .with_context(|| format!("could not listen on TCP port {port}"))?;
    listener.set_nonblocking(true)?;
    Ok(std::thread::spawn(move || {
        let mut open: Vec<JoinHandle<Result<()>>> = Vec::new();
        while !stop.load(Ordering::Acquire) {
            match listener.accept() {
                Ok((stream, _)) => open.push(std::thread::spawn(|| serve(stream))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(LOOK),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("could not accept"),
            }
            open.retain(|connection| !connection.is_finished());
        }
        Ok(())
    }))
}

fn serve(mut stream: TcpStream) -> Result<()> {
    stream.set_nonblocking(false)?;
    let mut request = [0; 8];
    while stream.read_exact(&mut request).is_ok() {
        let [a, b, c, d, e, f, g, h] = request;
        take(&mut stream, u32::from_be_bytes([a, b, c, d]))?;
        give(&mut stream, u32::from_be_bytes([e, f, g, h]))?;
    }
    Ok(())
}

fn give(stream: &mut TcpStream, count: u32) -> Result<()> {
    std::io::copy(&mut std::io::repeat(0x5a).take(count.into()), stream)?;
    Ok(())
}

fn take(stream: &mut TcpStream, count: u32) -> Result<()> {
    let got = std::io::copy(&mut stream.take(count.into()), &mut std::io::sink())?;
    if got != u64::from(count) {
        bail!("the connection ended after {got} of {count} bytes");
    }
    Ok(())
}
