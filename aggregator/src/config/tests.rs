use std::collections::BTreeMap;

use clap::Parser;
use daemon::config::chain;

use super::*;
use crate::cli::Cli;

fn surroundings(variables: &[(&str, &str)]) -> Surroundings {
    Surroundings {
        variables: variables
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect::<BTreeMap<String, String>>(),
        home: None,
        state_home: None,
        system: "/nowhere".into(),
        hostname: "centre".into(),
        root: true,
    }
}

/// What a command line and an environment make.
fn load(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Config, String> {
    let cli = Cli::try_parse_from([&["conntracct-aggregator"], arguments].concat()).unwrap();
    Config::load(None, &surroundings(variables), cli.flags(), cli.general.debug)
        .map(|(config, _raw)| config)
        .map_err(|error| chain(&error))
}

#[test]
fn defaults_are_those_of_the_limits_table() {
    let config = load(&[], &[]).unwrap();
    assert_eq!(config.listen, "[::]:4433".parse().unwrap());
    let state = Path::new("/var/lib/conntracct-aggregator");
    assert_eq!(config.state_dir, state);
    assert_eq!(config.store, StoreChoice::Sqlite(state.join("flows.db")));
    assert_eq!(config.pki, state.join("pki"));
    assert_eq!(config.spool_age_max, Duration::from_secs(7 * 86_400));
    let limits = Limits {
        nodes: 10_000,
        decode_budget: 256 << 20,
        transaction_rows: 10_000,
        transaction_time: Duration::from_millis(250),
    };
    assert_eq!(config.limits, limits);
    let http = config.http.unwrap();
    assert_eq!(http.addresses, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(http.token, Some(state.join("http-token")), "a token even on loopback");
}

#[test]
fn every_flag_arrives() {
    let config = load(
        &[
            "--listen",
            "127.0.0.1:1",
            "--store",
            "sqlite:///data/x.db",
            "--pki",
            "/pki",
            "--state-dir",
            "/state",
            "--http",
            "[::1]:9",
            "-d",
        ],
        &[("CONNTRACCT_LISTEN", "127.0.0.1:2"), ("CONNTRACCT_LIMITS__NODES", "5")],
    )
    .unwrap();
    assert_eq!(config.listen, "127.0.0.1:1".parse().unwrap(), "the flag beats the environment");
    assert_eq!(config.store, StoreChoice::Sqlite("/data/x.db".into()));
    assert_eq!(config.pki, Path::new("/pki"));
    assert_eq!(config.state_dir, Path::new("/state"));
    assert_eq!(config.http.unwrap().addresses, ["[::1]:9".parse().unwrap()]);
    assert_eq!(config.limits.nodes, 5, "the environment beats the default");
    assert_eq!(load(&["--http", "off"], &[]).unwrap().http, None);
    let moved = load(&["--state-dir", "/state"], &[]).unwrap();
    assert_eq!(moved.store, StoreChoice::Sqlite("/state/flows.db".into()));
}

#[test]
fn what_is_not_legal_is_named_with_what_is() {
    for (arguments, complaint) in [
        (&["--listen", "4433"][..], "--listen: `listen` is \"4433\", but must be ADDRESS:PORT"),
        (&["--store", "flows.db"], "--store: `store` must be sqlite:PATH"),
        (&["--store", "sqlite:"], "--store: `store` must be sqlite:PATH"),
        (&["--http", "0.0.0.0:8080"], "--http: `api_endpoint` is \"0.0.0.0:8080\", which others"),
    ] {
        let error = load(arguments, &[]).unwrap_err();
        assert!(error.starts_with(complaint), "{error}");
    }
    for (name, value, complaint) in [
        ("CONNTRACCT_SPOOL_AGE_MAX", "1m", "`spool_age_max` is 1m, but must be from 1h to"),
        ("CONNTRACCT_LIMITS__NODES", "0", "`limits.nodes` is 0, but must be from 1 to 1000000"),
        ("CONNTRACCT_LIMITS__DECODE_BUDGET", "1MiB", "`limits.decode_budget` is 1MiB, but must be"),
        ("CONNTRACCT_LIMITS__TRANSACTION_TIME", "1m", "`limits.transaction_time` is 1m, but must"),
    ] {
        let error = load(&[], &[(name, value)]).unwrap_err();
        assert!(error.starts_with(&format!("environment variable {name}: {complaint}")), "{error}");
    }
}

#[test]
fn a_password_in_a_refused_address_is_not_repeated() {
    let error = load(&["--store", "postgres://me:hunter2@db/flows"], &[]).unwrap_err();
    assert!(error.starts_with("--store: `store` holds a password, which everybody"), "{error}");
    assert!(error.contains("--store-password-file") && !error.contains("hunter2"), "{error}");
    for url in
        ["mysql://me:hunter2@db/flows", "postgres:me:hunter2@db", "postgres://me:hunter2%@db"]
    {
        let error = load(&["--store", url], &[]).unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_password_comes_from_a_file_or_the_environment_and_is_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "hunter2\n").unwrap();
    let named = file.display().to_string();
    let url = "postgres://me@db/flows?sslmode=verify-full";
    let from_file = load(&["--store", url, "--store-password-file", &named], &[]).unwrap();
    let with = "postgres://me:hunter2@db/flows?sslmode=verify-full";
    let from_environment = load(&[], &[("CONNTRACCT_STORE", with)]).unwrap();
    assert_eq!(from_file.store, from_environment.store);
    assert_eq!(from_file.store.url(), url);
    assert!(!format!("{from_file:?} {}", from_file.store).contains("hunter2"));
    let cli = Cli::try_parse_from(["conntracct-aggregator"]).unwrap();
    let surroundings = surroundings(&[("CONNTRACCT_STORE", with)]);
    let (_, raw) = Config::load(None, &surroundings, cli.flags(), false).unwrap();
    let dumped = daemon::config::dump(&raw).unwrap();
    assert!(dumped.contains(url) && !dumped.contains("hunter2"), "{dumped}");

    let both = load(&["--store-password-file", &named], &[("CONNTRACCT_STORE", with)]);
    assert!(both.unwrap_err().contains("leave one of them out"));
    let missing = load(&["--store", url, "--store-password-file", "/nowhere"], &[]).unwrap_err();
    assert!(missing.contains("names /nowhere, which cannot be read"), "{missing}");
    std::fs::write(&file, "two\nlines\n").unwrap();
    let two = load(&["--store", url, "--store-password-file", &named], &[]).unwrap_err();
    assert!(two.contains("must hold one line"), "{two}");
}

#[test]
fn domains_are_read_and_checked() {
    let with = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("aggregator.toml");
        std::fs::write(&file, text).unwrap();
        let flags = Cli::try_parse_from(["conntracct-aggregator"]).unwrap().flags();
        Config::load(Some(&file), &surroundings(&[]), flags, false)
            .map(|(config, _raw)| config)
            .map_err(|error| chain(&error))
    };
    assert_eq!(load(&[], &[]).unwrap().merge, Some(Arc::default()), "one domain");
    assert_eq!(with("[merge]\nenabled = false\n").unwrap().merge, None);
    let site = "[merge.domains.site]\nnodes = [\"router-*\"]\ninside = [\"gw\"]\n\
                private = [\"172.17.0.0/16\", \"192.0.2.1\"]\n";
    let domains = with(site).unwrap().merge.unwrap();
    let sides = domains.of(&"gw".parse().unwrap());
    assert!(sides.inside != sides.outside);
    assert_eq!(domains.of(&"router-1".parse().unwrap()).outside, sides.inside);
    for (text, wrong) in [
        ("nodes = [\"GW\"]", "`merge.domains.site.nodes` has \"GW\", which matches no node"),
        (
            "private = [\"10/8\"]",
            "`merge.domains.site.private` has \"10/8\", but must hold networks",
        ),
        ("node = [\"gw\"]", "unknown field"),
    ] {
        let error = with(&format!("[merge.domains.site]\n{text}\n")).unwrap_err();
        assert!(error.contains(wrong), "{error}");
    }
    let twice = with("[merge.domains.a]\nnodes = [\"gw\"]\n[merge.domains.b]\ninside = [\"gw\"]\n");
    let twice = twice.unwrap_err();
    assert!(twice.contains("node gw has its inside view in the domains a and b"), "{twice}");
}
