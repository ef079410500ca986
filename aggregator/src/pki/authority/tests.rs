//! The authority on a real folder.

use std::os::unix::fs::PermissionsExt;

use clap::Parser;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::super::command::PkiCommand;
use super::*;

fn now() -> Timestamp {
    "2026-11-22T06:00:00.5Z".parse().unwrap()
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn fresh() -> (tempfile::TempDir, Authority) {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::at(&dir.path().join("pki"));
    authority.init(&["gw.example.net".to_owned(), "192.0.2.1".to_owned()], now()).unwrap();
    (dir, authority)
}

fn uris(cert: &X509Certificate<'_>) -> Vec<String> {
    let san = cert.subject_alternative_name().unwrap().unwrap();
    let uri = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    };
    san.value.general_names.iter().filter_map(uri).collect()
}

#[test]
fn init_makes_an_authority_with_private_keys_and_never_twice() {
    let (_keep, authority) = fresh();
    for key in [CA_KEY, SERVER_KEY] {
        let mode = fs::metadata(authority.dir().join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    assert_eq!(authority.list().unwrap(), []);
    let before = fs::read(authority.dir().join(CA_CERT)).unwrap();
    assert!(matches!(authority.init(&[], now()), Err(PkiError::Exists { .. })));
    assert_eq!(fs::read(authority.dir().join(CA_CERT)).unwrap(), before);
}

#[test]
fn the_servers_certificate_is_for_servers_only_and_carries_its_names() {
    let (_keep, authority) = fresh();
    let pem = fs::read(authority.dir().join(SERVER_CERT)).unwrap();
    let der = CertificateDer::from_pem_slice(&pem).unwrap();
    let (_, cert) = X509Certificate::from_der(&der).unwrap();
    let usage = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth && !usage.any);
    assert_eq!(uris(&cert), [SERVER_URI]);
    let names = &cert.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert!(names.contains(&GeneralName::DNSName("gw.example.net")));
    assert!(names.contains(&GeneralName::IPAddress(&[192, 0, 2, 1])));
    assert!(matches!(
        authority.renew_server(&["not a name".to_owned()], now()),
        Err(PkiError::BadSan { .. })
    ));
    authority.renew_server(&[], now()).unwrap();
    assert_ne!(fs::read(authority.dir().join(SERVER_CERT)).unwrap(), pem);
}

#[test]
fn a_bundle_holds_a_node_certificate_of_the_listed_serial_and_its_key() {
    let (keep, authority) = fresh();
    let out = keep.path().join("gw1.bundle");
    let issued = authority.issue(&name("gw1"), &out, false, now()).unwrap();
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(authority.list().unwrap(), std::slice::from_ref(&issued.certificate));

    let text = fs::read(&out).unwrap();
    assert!(text.starts_with(b"# conntracct node bundle, format 1\n# node: gw1\n"));
    let certs: Vec<_> = CertificateDer::pem_slice_iter(&text).map(Result::unwrap).collect();
    assert_eq!(certs.len(), 2);
    PrivateKeyDer::from_pem_slice(&text).unwrap();
    let (_, cert) = X509Certificate::from_der(&certs[1]).unwrap();
    let usage = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    assert_eq!(uris(&cert), ["conntracct:node:gw1"]);
    assert_eq!(Serial::from_der(cert.raw_serial()), Some(issued.certificate.serial));
    assert_eq!(cert.validity().not_after.timestamp(), issued.certificate.not_after.as_second());
    assert_eq!(cert.validity().not_before.timestamp(), now().as_second() - 3_600);
}

#[test]
fn a_second_certificate_needs_renew_or_the_end_of_the_first() {
    let (keep, authority) = fresh();
    let out = |n: u32| keep.path().join(format!("{n}.bundle"));
    authority.issue(&name("gw1"), &out(1), false, now()).unwrap();
    let refused = authority.issue(&name("gw1"), &out(2), false, now()).unwrap_err();
    assert!(matches!(refused, PkiError::AlreadyIssued { .. }), "{refused}");
    assert!(!out(2).exists());
    authority.issue(&name("gw1"), &out(2), true, now()).unwrap();
    let later = saturating_add(now(), NODE_VALIDITY * 2);
    authority.issue(&name("gw1"), &out(3), false, later).unwrap();
    assert_eq!(authority.list().unwrap().len(), 3);
    // A bundle that is there is not overwritten, and nothing is listed for it.
    assert!(matches!(
        authority.issue(&name("gw2"), &out(3), false, now()),
        Err(PkiError::Exists { .. })
    ));
    assert_eq!(authority.list().unwrap().len(), 3);
}

#[test]
fn revoking_names_what_is_wrong() {
    let (keep, authority) = fresh();
    let gw1 = name("gw1");
    let first = authority.issue(&gw1, &keep.path().join("1"), false, now()).unwrap().certificate;
    let second = authority.issue(&gw1, &keep.path().join("2"), true, now()).unwrap().certificate;
    let unknown = authority.revoke(&name("gw2"), None, now());
    assert!(matches!(unknown, Err(PkiError::UnknownName { .. })));
    let strange = Serial::random(&mut rand::rng());
    let unknown = authority.revoke(&gw1, Some(strange), now());
    assert!(matches!(unknown, Err(PkiError::UnknownSerial { .. })));
    let one = authority.revoke(&gw1, Some(first.serial), now()).unwrap();
    assert_eq!(one.iter().map(|c| c.serial).collect::<Vec<_>>(), [first.serial]);
    let rest = authority.revoke(&gw1, None, now()).unwrap();
    assert_eq!(rest.iter().map(|c| c.serial).collect::<Vec<_>>(), [second.serial]);
    let again = authority.revoke(&gw1, None, now());
    assert!(matches!(again, Err(PkiError::AlreadyRevoked { .. })));
    assert!(authority.list().unwrap().iter().all(|c| c.standing(now()) == Standing::Revoked));
}

#[test]
fn missing_authorities_and_keys_are_named_with_the_cure() {
    let dir = tempfile::tempdir().unwrap();
    let none = Authority::at(dir.path()).list().unwrap_err().to_string();
    assert!(none.contains("pki init"), "{none}");

    let (keep, authority) = fresh();
    let elsewhere = keep.path().join("safe.key");
    fs::rename(authority.dir().join(CA_KEY), &elsewhere).unwrap();
    let bundle = keep.path().join("gw1.bundle");
    let refused = authority.issue(&name("gw1"), &bundle, false, now()).unwrap_err();
    assert!(matches!(refused, PkiError::KeyElsewhere { .. }), "{refused}");
    let authority = authority.with_key(&elsewhere);
    authority.issue(&name("gw1"), &bundle, false, now()).unwrap();

    let (_other, foreign) = fresh();
    let mixed = authority.with_key(&foreign.dir().join(CA_KEY));
    let refused = mixed.issue(&name("gw2"), &keep.path().join("gw2"), false, now()).unwrap_err();
    assert!(matches!(refused, PkiError::WrongKey { .. }), "{refused}");
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    pki: PkiCommand,
}

fn run(dir: &Path, args: &[&str]) -> anyhow::Result<String> {
    let args = ["pki"].iter().chain(args);
    let mut out = Vec::new();
    Cli::try_parse_from(args)?.pki.run_to(dir, now(), &mut out)?;
    Ok(String::from_utf8(out)?)
}

#[test]
fn the_command_line_tells_what_happened() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("pki");
    assert!(run(&dir, &["list"]).unwrap_err().to_string().contains("pki init"));
    run(&dir, &["init", "--san", "gw.example.net"]).unwrap();
    assert!(run(&dir, &["list"]).unwrap().contains("pki issue NAME"));
    let bundle = keep.path().join("b");
    let bundle = bundle.to_str().unwrap();
    let told = run(&dir, &["issue", "gw1", "-o", bundle]).unwrap();
    assert!(told.contains(&format!("conntracct-node join {bundle}")), "{told}");
    assert!(run(&dir, &["issue", "GW1"]).unwrap_err().to_string().contains("a-z 0-9"));
    run(&dir, &["revoke", "gw1"]).unwrap();
    let table = run(&dir, &["list"]).unwrap();
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[1].starts_with("gw1   revoked  2028-11-2"), "{table}");
    let json: serde_json::Value =
        serde_json::from_str(&run(&dir, &["list", "--json"]).unwrap()).unwrap();
    assert_eq!(json[0]["state"], "revoked");
    assert_eq!(json[0]["serial"].as_str().unwrap().len(), 32);
}
