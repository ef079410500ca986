//! Records what this kernel says, message by message, for the parser's tests
//! (`tests/fixtures/ctnetlink.txt`, one line a message: what it is, and its bytes).

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use conntracct_node::source::netlink::attr::{MESSAGE_HEADER, Messages};
use conntracct_node::source::netlink::dump::{DumpSocket, Part};
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketType, bind, recv, socket, sockopt};

use crate::lab::Lab;
use crate::netlink::insert_one_of_each;

#[test]
#[ignore = "writes tests/fixtures/ctnetlink.txt anew from this kernel"]
fn write() {
    let Some(lab) = Lab::new("fixtures") else { return };
    let listen = || {
        let events = socket(AddressFamily::NETLINK, SocketType::RAW, Some(NETFILTER))?;
        // NFNLGRP_CONNTRACK_NEW and _DESTROY, as bits.
        bind(&events, &SocketAddrNetlink::new(0, 0b101))?;
        let time = Some(Duration::from_millis(500));
        sockopt::set_socket_timeout(&events, sockopt::Timeout::Recv, time)?;
        Ok(events)
    };
    let events = lab.netns().enter(listen).unwrap();
    let mut text = String::new();

    let connect = || {
        let listener = TcpListener::bind("127.0.0.1:4000")?;
        let client = TcpStream::connect("127.0.0.1:4000")?;
        Ok((client, listener.accept()?.0))
    };
    let (mut client, mut server) = lab.netns().enter(connect).unwrap();
    client.write_all(b"question").unwrap();
    server.read_exact(&mut [0; 8]).unwrap();
    dump(&lab, "tcp established", &mut text);
    lab.flush();
    client.write_all(b"more").unwrap();
    server.read_exact(&mut [0; 4]).unwrap();
    dump(&lab, "tcp picked up", &mut text);
    lab.flush();
    insert_one_of_each(&lab);
    dump(&lab, "inserted", &mut text);
    lab.flush();

    let mut buffer = vec![0; 8192];
    while let Ok((_, length)) = recv(&events, &mut buffer[..], RecvFlags::empty()) {
        for message in Messages::new(&buffer[..length]).map(Result::unwrap) {
            let what = if message.kind == 0x102 { "destroy" } else { "new" };
            line(&mut text, what, message.body);
        }
    }
    let release = conntracct_node::clock::kernel_release().unwrap();
    let text = format!("# bodies of ctnetlink messages, recorded on Linux {release}\n{text}");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/ctnetlink.txt");
    std::fs::write(path, text).unwrap();
}

fn dump(lab: &Lab, what: &str, text: &mut String) {
    let mut socket = lab.netns().enter(DumpSocket::open).unwrap();
    let done = socket.entries(|part| {
        if let Part::Entry(message) = part {
            assert!(message.body.len() > MESSAGE_HEADER);
            line(text, what, message.body);
        }
    });
    done.unwrap();
}

fn line(text: &mut String, what: &str, bytes: &[u8]) {
    write!(text, "{what}: ").unwrap();
    bytes.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
    text.push('\n');
}
