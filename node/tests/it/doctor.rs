//! `conntracct-node doctor` on this machine: what is wrong on purpose is found, and nothing else.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SanType};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::Value;

use crate::lab::Lab;
use crate::program::{Fleet, Program, YEAR, recording};

/// A folder with a configuration.
struct Site {
    folder: tempfile::TempDir,
    fleet: Fleet,
}

impl Site {
    /// One whose node would read over netlink and has no aggregator.
    fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap(), fleet: Fleet::new() };
        site.configure("source = \"netlink\"\n");
        std::fs::create_dir(site.file("state")).unwrap();
        site
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Values first, then tables; nothing listens at the endpoint.
    fn configure(&self, more: &str) {
        let here = self.folder.path().display();
        let text = format!(
            "state_dir = \"{here}/state\"\napi_endpoint = \"127.0.0.1:1\"\n{more}\n\
             [tls]\nca = \"{here}/ca.pem\"\ncert = \"{here}/node.pem\"\nkey = \"{here}/node.key\"\n"
        );
        std::fs::write(self.file("node.toml"), text).unwrap();
    }

    /// A recording as the source, so that the kernel does not matter.
    fn replay(&self, more: &str) {
        recording(&self.file("a.record"), &[(6, "10.0.0.1", "192.0.2.1")], 0);
        let file = self.file("a.record");
        self.configure(&format!("source = \"replay:{}\"\n{more}", file.display()));
    }

    /// Looks, by way of a command that becomes the program (`ip netns exec blue`).
    fn look(&self, way: &[&str]) -> Look {
        let node = env!("CARGO_BIN_EXE_conntracct-node");
        let config = self.file("node.toml");
        let config = config.to_str().unwrap();
        let all = [way, &[node, "-c", config, "doctor", "--json"]].concat();
        let output = Command::new(all[0]).args(&all[1..]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let report: Value = serde_json::from_slice(&output.stdout).expect(&said);
        Look { status: output.status.code(), report, said }
    }
}

/// What was found.
struct Look {
    status: Option<i32>,
    report: Value,
    said: String,
}

impl Look {
    fn findings(&self) -> impl Iterator<Item = &Value> {
        self.report["findings"].as_array().unwrap().iter()
    }

    /// The findings of a check: severity and text.
    fn of(&self, check: &str) -> Vec<(&str, &str)> {
        let found = self.findings().filter(|finding| finding["check"] == check);
        found
            .map(|finding| {
                (finding["severity"].as_str().unwrap(), finding["text"].as_str().unwrap())
            })
            .collect()
    }

    /// The one finding of a check must be this bad and say this.
    #[track_caller]
    fn says(&self, check: &str, severity: &str, words: &str) {
        let found = self.of(check);
        assert_eq!(found.len(), 1, "{check}: {}", self.report);
        assert_eq!(found[0].0, severity, "{found:?}");
        assert!(found[0].1.contains(words), "{words:?} not in {found:?}");
    }

    /// Exactly these checks found a problem, and the status says so.
    #[track_caller]
    fn problems(&self, checks: &[&str]) {
        let bad = self.findings().filter(|finding| finding["severity"] == "problem");
        let bad: Vec<&str> = bad.map(|finding| finding["check"].as_str().unwrap()).collect();
        assert_eq!(bad, checks, "{}", self.report);
        assert_eq!(self.report["problems"], checks.len());
        assert_eq!(self.status, Some(i32::from(!checks.is_empty())), "{}", self.said);
        assert_eq!(self.said.is_empty(), checks.is_empty(), "{}", self.said);
    }
}

fn lab(test: &str) -> Option<(Lab, Site)> {
    Some((Lab::new(test)?, Site::new()))
}

#[test]
fn a_gateway_that_counts_has_no_problem() {
    let Some((lab, site)) = lab("healthy") else { return };
    lab.udp().send_all(0..20);
    let look = site.look(&["ip", "netns", "exec", lab.name()]);
    look.problems(&[]);
    look.says("conntrack.uncounted", "ok", "each of 20 entries");
    look.says("conntrack.fill", "ok", "20 of ");
    look.says("conntrack.held", "ok", "0 ended");
    look.says("node.running", "note", "no node runs here");
    assert_eq!(look.of("conntrack.tracking")[0].0, "ok");
    assert!(look.of("source.ebpf").is_empty(), "not asked for");
}

#[test]
fn people_read_findings_with_their_cures() {
    let Some((lab, site)) = lab("words") else { return };
    lab.set("acct", "0");
    site.configure("source = \"netlink\"\nsysctl_manage = false\n");
    let node = env!("CARGO_BIN_EXE_conntracct-node");
    let config = site.file("node.toml");
    let arguments = [lab.name(), node, "-c", config.to_str().unwrap(), "doctor"];
    let output = Command::new("ip").args(["netns", "exec"]).args(arguments).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    let mut lines = printed.lines().rev();
    assert_eq!(lines.next(), Some("1 problem: figures are or will be wrong or missing"));
    let cure = lines.next().unwrap();
    assert!(cure.trim_start().starts_with("-> sysctl -w net.netfilter.nf_conntrack_acct=1"));
    assert!(lines.next().unwrap().starts_with("PROBLEM  conntrack.acct"), "{printed}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said, "error: 1 of the checks found a problem\n");
}

#[test]
fn flows_that_are_not_counted_and_ends_that_are_not_told_are_found() {
    let Some((lab, site)) = lab("uncounted") else { return };
    lab.set("acct", "0");
    lab.udp().send_all(0..7);
    lab.set("acct", "1");
    let udp = lab.udp();
    udp.send_all(7..10);
    let way = ["ip", "netns", "exec", lab.name()];
    let look = site.look(&way);
    look.problems(&["conntrack.uncounted"]);
    look.says("conntrack.uncounted", "problem", "7 of 10");

    lab.flush();
    lab.set("events", "0");
    lab.set("timestamp", "0");
    site.look(&way).says("conntrack.events", "note", "the node sets it");
    site.configure("source = \"netlink\"\nsysctl_manage = false\n");
    let look = site.look(&way);
    look.problems(&["conntrack.events"]);
    assert_eq!(look.of("conntrack.timestamp")[0].0, "note");
}

#[test]
fn a_namespace_that_tracks_nothing_is_found() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped, it needs root for network namespaces");
        return;
    }
    let site = Site::new();
    let look = site.look(&["unshare", "-n"]);
    // The sysctls of a new namespace are the kernel's defaults, which the node sets.
    look.problems(&["conntrack.tracking"]);
    let cure = look.findings().find(|finding| finding["check"] == "conntrack.tracking").unwrap();
    assert!(cure["cure"].as_str().unwrap().contains("ct state new accept"));
}

#[test]
fn what_this_process_may_not_is_found_and_nothing_breaks() {
    let Some((lab, site)) = lab("unprivileged") else { return };
    lab.udp().send_all(0..5);
    site.configure("source = \"auto\"\n");
    let way = ["ip", "netns", "exec", lab.name(), "setpriv", "--inh-caps=-all"];
    let without = [&way[..], &["--bounding-set=-all"]].concat();
    let look = site.look(&without);
    assert!(look.of("privileges.netlink")[0].1.contains("may not read conntrack"));
    look.says("privileges.ebpf", "note", "may not load");
    assert_eq!(look.status, Some(1));
    assert_eq!(look.of("conntrack.uncounted")[0].0, "unknown", "{}", look.report);
    assert_eq!(look.of("conntrack.flowtables")[0].0, "unknown", "{}", look.report);
    assert!(look.of("source.ebpf").is_empty(), "not tried: {}", look.report);
    // Namespaces that may not be entered, or are not there.
    site.configure("source = \"netlink\"\nnetns = [\"no-such-namespace\"]\n");
    let look = site.look(&without);
    look.says("privileges.netns", "problem", "may not enter");
    look.says("netns.open", "problem", "cannot be opened");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let site = Site::new();
    let aggregator = "aggregator = \"127.0.0.1:9\"\n";
    site.replay(aggregator);
    let look = site.look(&["env"]);
    look.problems(&["keys.files"]);
    look.says("keys.files", "problem", "ca.pem is missing");
    look.says("aggregator.handshake", "unknown", "no usable keys");

    site.fleet.issue("gw1", YEAR, site.folder.path());
    std::fs::remove_file(site.file("node.key")).unwrap();
    std::fs::create_dir(site.file("node.key")).unwrap();
    let look = site.look(&["env"]);
    look.says("keys.files", "problem", "cannot read");
    std::fs::remove_dir(site.file("node.key")).unwrap();
    std::fs::write(site.file("node.key"), "no key").unwrap();
    site.look(&["env"]).says("keys.files", "problem", "holds no private key");

    std::fs::remove_dir(site.file("state")).unwrap();
    std::fs::write(site.file("state"), "").unwrap();
    site.replay("");
    let look = site.look(&["env"]);
    look.problems(&["state.folder"]);
    look.says("state.folder", "problem", "not a folder");
}

#[test]
fn an_aggregator_that_is_away_and_a_certificate_that_has_ended_are_found() {
    let site = Site::new();
    // A socket that hears and never answers.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    site.replay(&format!("aggregator = [\"{address}\", \"127.0.0.1:9\"]\n"));
    site.fleet.issue("gw1", YEAR, site.folder.path());
    let look = site.look(&["env"]);
    look.problems(&["aggregator.handshake", "aggregator.handshake"]);
    let found = look.of("aggregator.handshake");
    assert!(found[0].1.contains("no answer within 5 s"), "{found:?}");
    assert_eq!(found[1].0, "problem", "{found:?}");
    look.says("keys.node", "ok", "good until");

    site.fleet.issue("gw1", Duration::from_secs(30), site.folder.path());
    site.replay("aggregator = \"127.0.0.1:9\"\n");
    site.look(&["env"]).says("keys.node", "note", "ends in 0 days");
    // Over since its begin.
    site.fleet.issue("gw1", Duration::ZERO, site.folder.path());
    site.look(&["env"]).says("keys.node", "problem", "has expired");
}

/// Listens as an aggregator with a certificate of `shows` does, for nodes of `trusts`; ends with
/// the runtime.
fn aggregator(shows: &Fleet, trusts: &Fleet) -> SocketAddr {
    let mut params = CertificateParams::default();
    let uri = "conntracct:aggregator".try_into().unwrap();
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = time::OffsetDateTime::now_utc() - Duration::from_secs(60);
    params.not_after = time::OffsetDateTime::now_utc() + YEAR;
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &shows.issuer).unwrap().der().clone();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusts.ca.as_bytes()).unwrap()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        roots.into(),
        Arc::clone(&provider),
    );
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![certificate], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    tls.alpn_protocols = vec![b"conntracct/1".to_vec()];
    let tls = QuicServerConfig::try_from(tls).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = endpoint.local_addr().unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let Ok(connection) = incoming.await else { continue };
            tokio::spawn(async move {
                if connection.accept_bi().await.is_ok() {
                    SPOKEN_TO.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    address
}

/// Streams that were opened: a session would begin with one.
static SPOKEN_TO: AtomicUsize = AtomicUsize::new(0);

#[test]
fn the_aggregator_is_reached_by_a_real_handshake() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _inside = runtime.enter();
    let (site, other) = (Site::new(), Fleet::new());
    site.fleet.issue("gw1", YEAR, site.folder.path());
    let good = aggregator(&site.fleet, &site.fleet);
    site.replay(&format!("aggregator = \"{good}\"\n"));
    let look = site.look(&["env"]);
    look.problems(&[]);
    look.says("aggregator.handshake", "ok", "takes this node's certificate");
    look.says("keys.aggregator", "ok", "good until");

    // It does not know our authority: with TLS 1.3 that shows only after our side is done.
    let strict = aggregator(&site.fleet, &other);
    site.replay(&format!("aggregator = \"{strict}\"\n"));
    let look = site.look(&["env"]);
    look.problems(&["aggregator.handshake"]);
    look.says("aggregator.handshake", "problem", "does not know the authority");

    // One address of two is enough.
    site.replay(&format!("aggregator = [\"{strict}\", \"{good}\"]\n"));
    site.look(&["env"]).problems(&[]);

    let foreign = aggregator(&other, &site.fleet);
    site.replay(&format!("aggregator = \"{foreign}\"\n"));
    let look = site.look(&["env"]);
    look.says("aggregator.handshake", "problem", "not of the authority in this node's ca.pem");
    assert_eq!(SPOKEN_TO.load(Ordering::Relaxed), 0, "nothing is said after the handshake");
}

#[test]
fn a_running_node_is_asked() {
    let site = Site::new();
    site.replay("");
    // What its source says of itself, before the silence.
    let health = "{\"health\":{\"reliable_ends\":true,\"dropped_ends\":0,\"dropped\":[0,0,0,0],\
                  \"lost_ends\":3,\"lost_births\":2,\"missed_births\":5,\"overruns\":0,\
                  \"guard_trips\":0,\"births\":0,\"deaths\":0,\"malformed\":0,\
                  \"ended_waiting\":0,\"fill_permille\":0}}\n";
    let played = std::fs::read_to_string(site.file("a.record")).unwrap();
    let (before, silence) = played.trim_end().rsplit_once('\n').unwrap();
    let all = format!("{before}\n{health}{silence}\n");
    std::fs::write(site.file("a.record"), all).unwrap();
    let config = site.file("node.toml");
    let flags = ["-c", config.to_str().unwrap(), "--http", "127.0.0.1:0"];
    let program = Program::start(&flags, None);
    let address = program.listener.addresses[0].to_string();
    crate::lab::wait("it to be ready", Duration::from_secs(60), || {
        program.status("/readyz") == 200
    });
    let node = env!("CARGO_BIN_EXE_conntracct-node");
    let config = config.to_str().unwrap();
    let arguments = ["-c", config, "--http", &address, "doctor", "--json"];
    let output = Command::new(node).args(arguments).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let look = Look {
        status: output.status.code(),
        report,
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    look.problems(&["node.ends"]);
    look.says("node.running", "ok", "a node runs here");
    look.says("node.ready", "ok", "ready");
    look.says("node.ends", "problem", "3 ends were lost");
    look.says("node.births", "note", "2 births were lost, 5 living entries were found");
    assert!(program.text("/metrics").contains("\nconntracct_source_missed_births_total 5\n"));
    assert!(program.terminate().0.success());
}
