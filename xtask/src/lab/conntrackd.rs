//! conntrackd on two gateways, each telling the other of its connections: what a pair of
//! firewalls runs so that one can go on where the other stopped. Every entry it is told of is put
//! into the kernel's table at once, without counters.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::netns::Netns;
use super::rules::SYNC;
use crate::interrupt::Interrupt;
use crate::up::process::Running;
use crate::workspace;

/// Both daemons; they end with this.
pub(crate) struct Synced {
    running: [Running; 2],
}

/// How long a daemon may take until it answers.
const START: Duration = Duration::from_secs(20);

impl Synced {
    /// Starts one in each of two gateways that are joined by [`SYNC`]; their files lie in
    /// `folder`.
    pub(crate) fn start(pair: [&Netns; 2], folder: &Path, interrupt: &Interrupt) -> Result<Self> {
        let addresses = pair.map(address);
        let [one, two] = addresses;
        let (one, two) = (one?, two?);
        let start = |netns, name, own: &str, peer: &str| {
            start(netns, &folder.join(name), own, peer, interrupt)
        };
        let running = [
            start(pair[0], "conntrackd-1", &one, &two)?,
            start(pair[1], "conntrackd-2", &two, &one)?,
        ];
        Ok(Self { running })
    }

    /// # Errors
    /// One has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.running.iter_mut().try_for_each(Running::check)
    }
}

/// The IPv4 address of a gateway's device towards the other.
fn address(netns: &Netns) -> Result<String> {
    let mut list = netns.command("ip");
    list.args(["-4", "-o", "addr", "show", "dev", SYNC]);
    let text = String::from_utf8(workspace::output(&mut list)?)?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "inet").skip(1);
    let address = words.next().and_then(|word| word.split('/').next());
    Ok(address.with_context(|| format!("{} has no address on {SYNC}", netns.name()))?.to_owned())
}

fn start(
    netns: &Netns,
    folder: &Path,
    own: &str,
    peer: &str,
    interrupt: &Interrupt,
) -> Result<Running> {
    fs::create_dir(folder)?;
    let file = configure(folder, own, peer)?;
    let mut command = netns.command("conntrackd");
    command.arg("-C").arg(&file);
    let mut running = Running::start("conntrackd", command, &folder.join("log"))?;
    interrupt.wait_for("conntrackd to answer", START, || {
        running.check()?;
        let mut ask = netns.command("conntrackd");
        Ok(ask.arg("-C").arg(&file).arg("-s").output()?.status.success().then_some(()))
    })?;
    Ok(running)
}

fn configure(folder: &Path, own: &str, peer: &str) -> Result<PathBuf> {
    let file = folder.join("conntrackd.conf");
    let at = folder.display();
    let text = format!(
        "Sync {{
            Mode NOTRACK {{ DisableExternalCache On }}
            UDP {{
                IPv4_address {own}
                IPv4_Destination_Address {peer}
                Port 3780
                Interface {SYNC}
                SndSocketBuffer 1249280
                RcvSocketBuffer 1249280
                Checksum on
            }}
        }}
        General {{
            HashSize 8192
            HashLimit 262144
            LogFile {at}/messages
            LockFile {at}/lock
            UNIX {{ Path {at}/control }}
            NetlinkBufferSize 2097152
            NetlinkBufferSizeMaxGrowth 8388608
            Filter From Userspace {{ Protocol Accept {{ TCP UDP ICMP IPv6-ICMP }} }}
        }}\n"
    );
    fs::write(&file, text).with_context(|| file.display().to_string())?;
    Ok(file)
}
