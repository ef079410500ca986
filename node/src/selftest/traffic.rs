//! The self-test's packets. Sockets are opened inside a namespace and used from outside; every wait
//! is bounded.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use flow::{Counters, Proto, Tuple};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, sockopt};

use super::world::Room;

/// A conversation over UDP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Talk {
    /// Whom the client speaks to.
    pub(super) to: SocketAddr,
    /// Who really hears it: another one, where the gateway translates.
    pub(super) heard_at: SocketAddr,
    /// Datagrams there.
    pub(super) there: u16,
    /// Datagrams back.
    pub(super) back: u16,
}

/// Speaks over UDP from the client to the server; gives the client's address, and what went over
/// the wire.
pub(super) fn udp(client: &Room, server: &Room, talk: Talk) -> io::Result<(SocketAddr, Counters)> {
    let from = wildcard(talk.to.ip());
    let ear = server.enter(|| UdpSocket::bind(talk.heard_at))?;
    let mouth = client.enter(|| {
        let socket = UdpSocket::bind(from)?;
        socket.connect(talk.to)?;
        Ok(socket)
    })?;
    ear.set_read_timeout(Some(PATIENCE))?;
    mouth.set_read_timeout(Some(PATIENCE))?;
    let mut seen_from = None;
    for _ in 0..talk.there {
        mouth.send(&[TEXT; DATAGRAM])?;
        seen_from = Some(ear.recv_from(&mut [0; 2 * DATAGRAM])?.1);
    }
    for _ in 0..talk.back {
        let asker = seen_from.ok_or(io::ErrorKind::InvalidInput)?;
        ear.send_to(&[TEXT; DATAGRAM], asker)?;
        mouth.recv(&mut [0; 2 * DATAGRAM])?;
    }
    let size = header(talk.to.ip()) + UDP_HEADER + DATAGRAM as u64;
    let (there, back) = (u64::from(talk.there), u64::from(talk.back));
    Ok((mouth.local_addr()?, Counters::new(there, there * size, back, back * size)))
}

/// Many flows of one datagram each to the same ear, gone as soon as they are sent; their tuples,
/// and what each carried.
pub(super) fn many(
    client: &Room,
    server: &Room,
    to: SocketAddr,
    flows: usize,
) -> io::Result<(Vec<Tuple>, Counters)> {
    let ear = server.enter(|| UdpSocket::bind(to))?;
    ear.set_read_timeout(Some(PATIENCE))?;
    let from = wildcard(to.ip());
    let open = || {
        let socket = UdpSocket::bind(from)?;
        socket.connect(to)?;
        Ok(socket)
    };
    let mouths = client.enter(|| (0..flows).map(|_| open()).collect::<io::Result<Vec<_>>>())?;
    let mut tuples = Vec::with_capacity(flows);
    for mouth in mouths {
        mouth.send(&[TEXT; DATAGRAM])?;
        ear.recv(&mut [0; 2 * DATAGRAM])?;
        tuples.push(Tuple::ports(Proto::UDP, mouth.local_addr()?, to));
    }
    let size = header(to.ip()) + UDP_HEADER + DATAGRAM as u64;
    Ok((tuples, Counters::new(1, size, 0, 0)))
}

/// A connection: some bytes there, some back, closed by both. Gives the client's address; what went
/// over the wire is for others to count, as the stack cuts it as it likes.
pub(super) fn tcp(client: &Room, server: &Room, to: SocketAddr) -> io::Result<SocketAddr> {
    let listener = server.enter(|| TcpListener::bind(to))?;
    listener.set_nonblocking(true)?;
    let mut asks = client.enter(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    let mut answers = accept(&listener)?;
    for stream in [&asks, &answers] {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
    }
    let from = asks.local_addr()?;
    asks.write_all(&[TEXT; STREAM])?;
    answers.read_exact(&mut [0; STREAM])?;
    answers.write_all(&[TEXT; STREAM / 2])?;
    asks.read_exact(&mut [0; STREAM / 2])?;
    drop(asks);
    // The client's end is read, so that closing is no reset.
    answers.read_to_end(&mut Vec::new())?;
    Ok(from)
}

/// The connection is made; the last packet of its making may be on its way.
fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let begun = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error),
            Err(_not_yet) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Echo requests and their answers; gives the id, and what went over the wire.
pub(super) fn echo(client: &Room, to: IpAddr, count: u16) -> io::Result<(u16, Counters)> {
    let (family, protocol, request, answer) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8, 0),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128, 129),
    };
    let socket = client.enter(|| {
        let socket = rustix::net::socket(family, SocketType::RAW, Some(protocol))?;
        rustix::net::connect(&socket, &SocketAddr::new(to, 0))?;
        Ok(socket)
    })?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    let id = ECHO_ID;
    for sequence in 0..count {
        let packet = echo_request(request, id, sequence);
        rustix::net::send(&socket, &packet, SendFlags::empty())?;
        loop {
            let mut buffer = [0; 512];
            let received = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty())
            });
            let (_, length) = received?;
            // IPv4 raw sockets give the IP header too.
            let skipped = if to.is_ipv4() { usize::from(buffer[0] & 0x0f) * 4 } else { 0 };
            let found = buffer.get(skipped..length).unwrap_or_default();
            if found.first() == Some(&answer) && found.get(4..8) == packet.get(4..8) {
                break;
            }
        }
    }
    let size = header(to) + ECHO_HEADER + DATAGRAM as u64;
    let count = u64::from(count);
    Ok((id, Counters::new(count, count * size, count, count * size)))
}

/// The kernel fills in ICMPv6's checksum, and overwrites ours there.
fn echo_request(kind: u8, id: u16, sequence: u16) -> Vec<u8> {
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend(id.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend([TEXT; DATAGRAM]);
    // RFC 1071; the length is even.
    let words = packet.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = u16::try_from(sum).map_or(0, |sum| !sum).to_be_bytes();
    packet.splice(2..4, sum);
    packet
}

const fn wildcard(like: IpAddr) -> SocketAddr {
    let any = match like {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(any, 0)
}

/// Bytes of the IP header: conntrack counts from there on.
const fn header(ip: IpAddr) -> u64 {
    if ip.is_ipv4() { 20 } else { 40 }
}

const UDP_HEADER: u64 = 8;
const ECHO_HEADER: u64 = 8;
const TEXT: u8 = 0x42;
const DATAGRAM: usize = 100;
const STREAM: usize = 20_000;

/// One conversation, so one id will do.
const ECHO_ID: u16 = 0x7e57;

/// Much longer than a packet takes through an emulated machine.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_request_sums_to_nothing() {
        let packet = echo_request(8, 0x1234, 7);
        assert_eq!(packet.len(), 8 + DATAGRAM);
        let words = packet.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair));
        let sum: u32 = words.map(u32::from).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
