//! Echo requests of both families over raw sockets, with an id of our choice: the id is the
//! flow.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, sockopt};

use super::Done;

const PATIENCE: Duration = Duration::from_secs(1);
/// Payload of a request in bytes.
const PAYLOAD: usize = 56;

/// Sends `count` echo requests as one flow and takes the answers. `sender` keeps the ids of
/// different hosts apart, as they meet behind NAT.
pub(super) fn echo(to: IpAddr, sender: u16, count: u16) -> Result<Done> {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let id = sender << 12 | NEXT.fetch_add(1, Ordering::Relaxed) & 0x0fff;
    let (family, protocol, request, answer) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8, 0),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128, 129),
    };
    let socket = net::socket(family, SocketType::RAW, Some(protocol))
        .context("could not open a raw socket")?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    net::connect(&socket, &SocketAddr::new(to, 0)).with_context(|| format!("no route to {to}"))?;
    let mut done = Done { flows: 1, ..Done::default() };
    for sequence in 0..count {
        let packet = packet(request, id, sequence);
        done.sent += net::send(&socket, &packet, SendFlags::empty())
            .context("could not send an echo request")? as u64;
        loop {
            let mut buffer = [0; 512];
            let received =
                retry_on_intr(|| net::recv(&socket, &mut buffer[..], RecvFlags::empty()));
            let length = match received {
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => {
                    done.unanswered += 1;
                    break;
                }
                Err(error) => return Err(error).context("could not receive an echo reply"),
            };
            // IPv4 raw sockets give the IP header too.
            let skipped = if to.is_ipv4() { usize::from(buffer[0] & 0x0f) * 4 } else { 0 };
            let packet = buffer.get(skipped..length).unwrap_or_default();
            let [i, j] = id.to_be_bytes();
            let [s, t] = sequence.to_be_bytes();
            if packet.first() == Some(&answer) && packet.get(4..8) == Some(&[i, j, s, t]) {
                done.received += packet.len() as u64;
                break;
            }
        }
    }
    Ok(done)
}

/// An echo request. The kernel fills in ICMPv6's checksum, and overwrites ours there.
fn packet(kind: u8, id: u16, sequence: u16) -> Vec<u8> {
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend(id.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.resize(8 + PAYLOAD, 0x42);
    let sum = checksum(&packet).to_be_bytes();
    packet[2..4].copy_from_slice(&sum);
    packet
}

/// RFC 1071; the length is even.
fn checksum(packet: &[u8]) -> u16 {
    let words = packet.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).map_or(0, |sum| !sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_sums_to_nothing() {
        let packet = packet(8, 0x1234, 7);
        assert_eq!(packet.len(), 64);
        assert_eq!(checksum(&packet), 0);
    }
}
