use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Parser;
use daemon::config::{Size, chain};

use super::*;
use crate::cli::Cli;

fn surroundings(variables: &[(&str, &str)]) -> Surroundings {
    Surroundings {
        variables: variables
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect::<BTreeMap<String, String>>(),
        home: Some("/home/user".into()),
        state_home: None,
        system: "/nowhere".into(),
        hostname: "GW-1".into(),
        root: true,
    }
}

/// What a command line and an environment make.
fn load(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Config, String> {
    let cli = Cli::try_parse_from([&["conntracct-node"], arguments].concat()).unwrap();
    Config::load(None, &surroundings(variables), cli.flags(), cli.general.debug)
        .map(|(config, _raw)| config)
        .map_err(|error| chain(&error))
}

#[test]
fn defaults_are_those_of_the_limits_table() {
    let config = load(&[], &[]).unwrap();
    assert_eq!(config.name.to_string(), "gw-1");
    assert_eq!(config.aggregators, []);
    assert_eq!(config.interval.length().as_secs(), 10);
    assert_eq!(config.netns, NetnsChoice::Own);
    assert!(config.filter.is_open());
    assert_eq!(config.state_dir, Path::new("/var/lib/conntracct-node"));
    let limits = Limits {
        live_flows: 1_048_576,
        ended_flows: 100_000,
        spool_bytes: 1 << 30,
        unreceived_frames: 16,
    };
    assert_eq!(config.limits, limits);
    let http = config.http.unwrap();
    assert!(http.is_loopback());
    assert_eq!((http.token, http.tls), (None, None));
    assert_eq!(http.addresses, ["127.0.0.1:8000".parse().unwrap(), "[::1]:8000".parse().unwrap()]);
}

#[test]
fn every_flag_arrives() {
    let config = load(
        &[
            "--aggregator",
            "a:1",
            "--aggregator",
            "[::1]:2",
            "--ca",
            "/ca",
            "--cert",
            "/cert",
            "--key",
            "/key",
            "--accept-new-store",
            "--source",
            "netlink",
            "--record",
            "/rec",
            "--interval",
            "5s",
            "--netns",
            "/run/netns/a,/run/netns/b",
            "--exclude-loopback",
            "--include",
            "10.0.0.0/8,2001:db8::/32",
            "--exclude",
            "10.0.0.1",
            "--protocols",
            "tcp,17",
            "--exclude-protocols",
            "ICMP",
            "--name",
            "x",
            "--state-dir",
            "/state",
            "--http",
            "127.0.0.1:9",
            "-d",
        ],
        &[("CONNTRACCT_INTERVAL", "7s"), ("CONNTRACCT_SYSCTL_MANAGE", "false")],
    )
    .unwrap();
    assert_eq!(
        config.aggregators.iter().map(Peer::to_string).collect::<Vec<_>>(),
        ["a:1", "[::1]:2"]
    );
    let keys = IdentityPaths { ca: "/ca".into(), cert: "/cert".into(), key: "/key".into() };
    assert_eq!(config.keys, keys);
    assert!(config.accept_new_store);
    assert_eq!(config.source, SourceChoice::Netlink);
    assert_eq!(config.record.as_deref(), Some(Path::new("/rec")));
    assert_eq!(config.interval.length().as_secs(), 5, "the flag beats the environment");
    assert_eq!(
        config.netns,
        NetnsChoice::Listed(vec!["/run/netns/a".into(), "/run/netns/b".into()])
    );
    let filter = "exclude_loopback\ninclude 10.0.0.0/8\ninclude 2001:db8::/32\nexclude 10.0.0.1/32\n\
                  protocol 6\nprotocol 17\nexclude_protocol 1\n";
    assert_eq!(config.filter.to_string(), filter);
    assert_eq!(config.name.to_string(), "x");
    assert_eq!(config.state_dir, Path::new("/state"));
    assert_eq!(config.http.unwrap().addresses, ["127.0.0.1:9".parse().unwrap()]);
    assert!(!config.sysctl.manage, "the environment beats the default");
    assert_eq!(load(&["--http", "off"], &[]).unwrap().http, None);
}

#[test]
fn without_root_state_lives_at_home() {
    let mut surroundings = surroundings(&[]);
    surroundings.root = false;
    let load = |surroundings: &Surroundings| {
        Config::load(None, surroundings, Flags::default(), false).unwrap().0.state_dir
    };
    assert_eq!(load(&surroundings), Path::new("/home/user/.local/state/conntracct-node"));
    surroundings.state_home = Some("/state".into());
    assert_eq!(load(&surroundings), Path::new("/state/conntracct-node"));
}

#[test]
fn what_is_not_legal_is_named_with_what_is() {
    for (arguments, complaint) in [
        (
            &["--interval", "500ms"][..],
            "--interval: `interval` is 500ms, but must be from 1s to 1h",
        ),
        (
            &["--interval", "10"],
            "--interval: `interval` is \"10\", but must be a duration with its",
        ),
        (
            &["--source", "bpf"],
            "--source: `source` is \"bpf\", but must be auto, ebpf, netlink or replay",
        ),
        (
            &["--netns", "own,x"],
            "--netns: `netns` is [\"own\", \"x\"], but must be own, all, or namespa",
        ),
        (
            &["--aggregator", "host"],
            "--aggregator: `aggregator` is \"host\", but must be HOST:PORT",
        ),
        (&["--name", "Gw"], "--name: `name` is \"Gw\": a node name is made of"),
        (
            &["--http", "0.0.0.0:8000"],
            "--http: `api_endpoint` is \"0.0.0.0:8000\", which others can",
        ),
        (&["--http", ":8000"], "--http: `api_endpoint` is \":8000\", but must be ADDRESS:PORT"),
        (
            &["--exclude", "10.0.0.1/8"],
            "--exclude: `filter.exclude` holds \"10.0.0.1/8\", which has bits beyond its length; \
             the network is 10.0.0.0/8",
        ),
        (
            &["--include", "10.0.0.0/8,lan"],
            "--include: `filter.include` holds \"lan\", which is neither an address nor a network",
        ),
        (
            &["--protocols", "tcp,upd"],
            "--protocols: `filter.protocols` is wrong: \"upd\" is no protocol; give a number",
        ),
        (&["--source", "replay:x", "--record", "y"], "--record: `record` records what the kernel"),
    ] {
        let error = load(arguments, &[]).unwrap_err();
        assert!(error.starts_with(complaint), "{error}");
    }
    for (name, value, complaint) in [
        (
            "CONNTRACCT_LIMITS__SPOOL",
            "1MiB",
            "`limits.spool` is 1MiB, but must be from 16MiB to 1TiB",
        ),
        (
            "CONNTRACCT_LIMITS__LIVE_FLOWS",
            "1",
            "`limits.live_flows` is 1, but must be from 1000 to",
        ),
        (
            "CONNTRACCT_LIMITS__UNRECEIVED_FRAMES",
            "17",
            "`limits.unreceived_frames` is 17, but must",
        ),
        (
            "CONNTRACCT_LOG__FORMAT",
            "xml",
            "`log.format` is \"xml\", but must be auto, pretty, plain",
        ),
        ("CONNTRACCT_LOG__LEVEL", "loud", "`log.level` is \"loud\", but must be error, warn, info"),
        (
            "CONNTRACCT_FILTER__EXCLUDE",
            "10.0.0.0/40",
            "`filter.exclude` holds \"10.0.0.0/40\", which",
        ),
        ("CONNTRACCT_FILTER__EXCLUDE_LOOPBACK", "perhaps", "`filter.exclude_loopback` is"),
        (
            "CONNTRACCT_FILTER__EXCLUDE_PROTOCOLS",
            "256",
            "`filter.exclude_protocols` is wrong: \"256\"",
        ),
        ("CONNTRACCT_API__CERT", "/x", "`api.cert` needs `api.key` beside it"),
        ("CONNTRACCT_EBPF__BTF_MODULE", "/x", "`ebpf.btf_module` stands on the kernel's own"),
    ] {
        let error = load(&[], &[(name, value)]).unwrap_err();
        assert!(error.starts_with(&format!("environment variable {name}: {complaint}")), "{error}");
    }
}

#[test]
fn type_information_is_one_file_or_two() {
    use crate::source::ebpf::LayoutChoice;
    let choice = |words: &[&str]| load(words, &[]).unwrap().ebpf.layout;
    let (base, module) = (PathBuf::from("k"), Some(PathBuf::from("m")));
    assert_eq!(choice(&[]), LayoutChoice::Kernel);
    let alone = LayoutChoice::Btf { base: base.clone(), module: None };
    assert_eq!(choice(&["--btf", "k"]), alone);
    let both = LayoutChoice::Btf { base, module };
    assert_eq!(choice(&["--btf", "k", "--btf-module", "m"]), both);
    // As a command's own, or before it.
    assert_eq!(choice(&["layout", "--btf", "k", "--btf-module", "m"]), both);
    assert_eq!(choice(&["test", "--btf", "k", "--btf-module", "m"]), both);
    assert_eq!(choice(&["--btf", "k", "--btf-module", "m", "test"]), both);
    assert_eq!(choice(&["--btf", "k", "test", "--layout", "l"]), LayoutChoice::File("l".into()));
}

#[test]
fn off_loopback_there_is_tls_and_a_token() {
    let variables = [("CONNTRACCT_API__CERT", "/c"), ("CONNTRACCT_API__KEY", "/k")];
    let http = load(&["--http", "[::]:8000"], &variables).unwrap().http.unwrap();
    assert_eq!(http.token.as_deref(), Some(Path::new("/var/lib/conntracct-node/http-token")));
    assert!(http.tls.is_some());
}

#[test]
fn written_sizes_are_what_they_say() {
    assert_eq!(RawLimits::default().spool, Size::mib(1024));
    let config = load(&[], &[("CONNTRACCT_LIMITS__SPOOL", "2GiB")]).unwrap();
    assert_eq!(config.limits.spool_bytes, 2 << 30);
}
