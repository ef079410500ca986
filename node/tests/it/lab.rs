//! Network namespaces with connection tracking, made by a test and removed with it.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use conntracct_node::netns::Netns;

/// A namespace of its own, with loopback up, connection tracking on and all three sysctls set.
pub(crate) struct Lab {
    name: String,
    netns: Netns,
}

impl Lab {
    /// Makes one; `None`, with a printed reason, where the test does not run as root.
    #[expect(clippy::print_stdout, reason = "a test says why it is skipped")]
    pub(crate) fn new(test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("{test}: skipped, it needs root for network namespaces");
            return None;
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ctt-{}-{number}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let netns = Netns::named(&name).unwrap();
        let lab = Self { name, netns };
        lab.exec("ip", &["link", "set", "lo", "up"]);
        lab.nft(
            "table inet t {
                chain out { type filter hook output priority 0; ct state new accept; }
                chain pre { type filter hook prerouting priority 0; ct state new accept; }
            }",
        );
        for key in ["acct", "timestamp", "events"] {
            lab.set(key, "1");
        }
        Some(lab)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Runs a command inside; it must succeed.
    pub(crate) fn exec(&self, command: &str, args: &[&str]) -> String {
        let mut all = vec!["netns", "exec", &self.name, command];
        all.extend(args);
        run("ip", &all)
    }

    pub(crate) fn nft(&self, rules: &str) {
        self.exec("nft", &[rules]);
    }

    /// Sets `net.netfilter.nf_conntrack_<key>` inside.
    pub(crate) fn set(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/net/netfilter/nf_conntrack_{key}");
        self.netns.enter(|| std::fs::write(&path, value)).unwrap();
    }

    /// Reads `net.netfilter.nf_conntrack_<key>` inside.
    pub(crate) fn get(&self, key: &str) -> u64 {
        let path = format!("/proc/sys/net/netfilter/nf_conntrack_{key}");
        let text = self.netns.enter(|| std::fs::read_to_string(&path)).unwrap();
        text.trim().parse().unwrap()
    }

    /// Deletes all entries, as `conntrack -F`.
    pub(crate) fn flush(&self) {
        self.exec("conntrack", &["-F"]);
    }

    /// Deletes all entries with a mark, as one request.
    pub(crate) fn flush_mark(&self, mark: u32) {
        // CT_DELETE without a tuple, filtered by CTA_MARK (8) and CTA_MARK_MASK (21); ACK asked.
        let mut message = Vec::new();
        message.extend(36u32.to_ne_bytes());
        message.extend(0x102u16.to_ne_bytes());
        message.extend(5u16.to_ne_bytes());
        message.extend([0; 12]);
        for (kind, value) in [(8u16, mark), (21, u32::MAX)] {
            message.extend(8u16.to_ne_bytes());
            message.extend(kind.to_ne_bytes());
            message.extend(value.to_be_bytes());
        }
        let ask = || {
            let kind = rustix::net::SocketType::RAW;
            let family = rustix::net::AddressFamily::NETLINK;
            let protocol = Some(rustix::net::netlink::NETFILTER);
            let socket = rustix::net::socket(family, kind, protocol)?;
            rustix::net::send(&socket, &message, rustix::net::SendFlags::empty())?;
            let mut answer = [0; 128];
            let (_, length) =
                rustix::net::recv(&socket, &mut answer[..], rustix::net::RecvFlags::empty())?;
            Ok((answer, length))
        };
        let (answer, length) = self.netns.enter(ask).unwrap();
        assert!(length >= 20 && answer[4..6] == 2u16.to_ne_bytes(), "no acknowledgement");
        assert_eq!(answer[16..20], [0; 4], "the kernel refused to flush");
    }

    /// A sender of UDP datagrams and somebody who hears them.
    pub(crate) fn udp(&self) -> Udp {
        let pair = || {
            let sink = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, SINK))?;
            Ok(Udp { sender: UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?, _sink: sink })
        };
        self.netns.enter(pair).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["netns", "del", &self.name]).status());
    }
}

/// Sends one datagram a flow: all flows differ in their destination, 127.0.0.0/8.
pub(crate) struct Udp {
    sender: UdpSocket,
    _sink: UdpSocket,
}

impl Udp {
    /// Sends one datagram of [`PAYLOAD`] bytes to the destination with this number.
    pub(crate) fn send(&self, number: u32) -> std::io::Result<()> {
        let to = SocketAddrV4::new(destination(number), SINK);
        self.sender.send_to(&[0; PAYLOAD], to).map(drop)
    }

    /// Sends one datagram to each of a range of destinations.
    pub(crate) fn send_all(&self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            self.send(number).unwrap();
        }
    }
}

/// The destination with a number: 127.1.0.0 and up.
pub(crate) fn destination(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x7f01_0000 + number)
}

/// Waits until `done`, or fails saying `what` did not come about in `most`.
pub(crate) fn wait(what: &str, most: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < most, "{what}: not within {most:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a command; it must succeed.
pub(crate) fn run(command: &str, args: &[&str]) -> String {
    let output = Command::new(command).args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command} {args:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Where the datagrams go.
pub(crate) const SINK: u16 = 9_999;

/// Bytes of a datagram's payload.
pub(crate) const PAYLOAD: usize = 20;
