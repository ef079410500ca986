//! What a whole node with 100,000 live flows keeps in memory.

use std::path::Path;
use std::process::Command;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};

use crate::replay::{self, Plan};

/// The keys of a node that has never met its aggregator.
fn keys(folder: &Path) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = authority.self_signed(&key).unwrap().pem();
    let issuer = Issuer::from_ca_cert_pem(&ca, key).unwrap();
    let mut node = CertificateParams::default();
    node.subject_alt_names = vec![SanType::URI("conntracct:node:gw1".try_into().unwrap())];
    node.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let cert = node.signed_by(&key, &issuer).unwrap().pem();
    for (name, text) in [("ca.pem", ca), ("node.pem", cert), ("node.key", key.serialize_pem())] {
        std::fs::write(folder.join(name), text).unwrap();
    }
}

/// Its peak stays within what docs/performance.md promises, the spool on and nobody there to take
/// the frames: everything is kept.
#[test]
fn a_node_with_100_000_live_flows_stays_within_64_mib() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    keys(folder.path());
    let plan = Plan { flows: 100_000, sweeps: 5 };
    replay::record(&plan, &at("recording")).unwrap();
    let mut node = Command::new(env!("CARGO_BIN_EXE_conntracct-node"));
    // A port that nothing answers on.
    node.env_clear().args(["--aggregator", "127.0.0.1:9"]).arg("--state-dir").arg(at("state"));
    for (flag, file) in [("--ca", "ca.pem"), ("--cert", "node.pem"), ("--key", "node.key")] {
        node.arg(flag).arg(at(file));
    }
    let (peak, records) = replay::peak_memory(&mut node, &at("recording")).unwrap();
    // Sweeps that a busy machine missed come together: at least one was spooled whole.
    assert!(records >= u64::from(plan.flows), "{records} records were spooled");
    assert!(peak <= 64 << 20, "{peak} bytes were resident");
    // The table of so many flows alone takes a third of that: less was not read right.
    assert!(peak >= 20 << 20, "{peak} bytes were resident");
}
