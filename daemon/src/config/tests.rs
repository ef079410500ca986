use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    name: Option<String>,
    peers: Strings,
    interval: Span,
    on: bool,
    limits: Limits,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    rows: usize,
    budget: Size,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            name: None,
            peers: Strings::default(),
            interval: Span::secs(10),
            on: true,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { rows: 10, budget: Size::mib(1) }
    }
}

fn empty(folder: &Path) -> Surroundings {
    Surroundings {
        variables: BTreeMap::new(),
        home: Some(folder.join("home")),
        state_home: None,
        system: folder.join("etc"),
        hostname: "gw".into(),
        root: false,
    }
}

/// Loads `text` from a file called `name` with these variables.
fn try_load(
    name: &str,
    text: &str,
    variables: &[(&str, &str)],
    flags: Flags,
) -> Result<Loaded<Raw>, String> {
    let folder = tempfile::tempdir().unwrap();
    let mut surroundings = empty(folder.path());
    for (name, value) in variables {
        surroundings.variables.insert((*name).into(), (*value).into());
    }
    let file = folder.path().join(name);
    std::fs::write(&file, text).unwrap();
    load("node", Some(&file), &surroundings, flags)
        .map_err(|error| chain(&error).replace(&folder.path().display().to_string(), "DIR"))
}

fn complaint(name: &str, text: &str) -> String {
    try_load(name, text, &[], Flags::default()).unwrap_err()
}

#[test]
fn each_layer_beats_the_one_below() {
    let text = "name = 'file'\ninterval = '20s'\npeers = 'a'\n[limits]\nrows = 3\n";
    let variables =
        [("CONNTRACCT_INTERVAL", "30s"), ("CONNTRACCT_PEERS", "b, c"), ("CONNTRACCT_ON", "false")];
    let mut flags = Flags::default();
    flags.set("interval", "--interval", Some("40s"));
    flags.set("limits.budget", "--budget", Some("2MiB"));
    flags.set("name", "--name", None::<String>);
    let loaded = try_load("a.toml", text, &variables, flags).unwrap();
    assert_eq!(
        loaded.raw,
        Raw {
            name: Some("file".into()),
            peers: Strings(vec!["b".into(), "c".into()]),
            interval: Span::secs(40),
            on: false,
            limits: Limits { rows: 3, budget: Size::mib(2) },
        }
    );
    let origin = |key| loaded.origins.origin(key).map(|origin| origin.rsplit('/').next().unwrap());
    assert_eq!(origin("interval"), Some("--interval"));
    assert_eq!(origin("on"), Some("environment variable CONNTRACCT_ON"));
    assert_eq!(origin("limits.rows"), Some("a.toml"));
    assert_eq!(origin("limits.budget"), Some("--budget"));
    assert_eq!(origin("nothing"), None);
}

#[test]
fn the_three_formats_say_the_same() {
    let toml = "peers = ['a', 'b']\ninterval = '1m'\n[limits]\nbudget = '3MiB'\n";
    let yaml = "peers: [a, b]\ninterval: 1m\nlimits:\n  budget: 3MiB\n";
    let json = r#"{"peers": ["a", "b"], "interval": "1m", "limits": {"budget": "3MiB"}}"#;
    let load = |name, text| try_load(name, text, &[], Flags::default()).unwrap().raw;
    let expected = load("a.toml", toml);
    assert_eq!(expected.limits.budget, Size::mib(3));
    assert_eq!(load("a.yaml", yaml), expected);
    assert_eq!(load("a.yml", yaml), expected);
    assert_eq!(load("a.json", json), expected);
    assert_eq!(load("empty.toml", ""), Raw::default());
    assert_eq!(load("empty.yaml", "\n"), Raw::default());
}

#[test]
fn complaints_name_place_key_and_what_is_allowed() {
    assert_eq!(
        complaint("a.toml", "intervall = '5s'"),
        "DIR/a.toml: unknown key `intervall`, did you mean `interval`?; \
         allowed here: interval, limits, name, on, peers"
    );
    assert_eq!(
        complaint("a.toml", "[limits]\nbuget = '5MiB'"),
        "DIR/a.toml: unknown key `limits.buget`, did you mean `limits.budget`?; \
         allowed here: budget, rows"
    );
    assert_eq!(
        complaint("a.toml", "budget = '5MiB'"),
        "DIR/a.toml: unknown key `budget`, did you mean `limits.budget`?; \
         allowed here: interval, limits, name, on, peers"
    );
    assert_eq!(
        complaint("a.yaml", "interval: 5"),
        "DIR/a.yaml: `interval` is \"5\", but must be a duration with its unit, like \"5s\", \
         \"250ms\" or \"1h30m\""
    );
    assert_eq!(
        complaint("a.json", r#"{"limits": {"budget": 64}}"#),
        "DIR/a.json: `limits.budget` is \"64\", but must be a size with its unit, like \"64MiB\" \
         or \"1GB\""
    );
    assert_eq!(
        complaint("a.toml", "[interval]\na = 1"),
        "DIR/a.toml: `interval` is a table, but must be a single value"
    );
    assert_eq!(
        complaint("a.toml", "limits = 3"),
        "DIR/a.toml: `limits` must be a table with the keys budget, rows"
    );
    let text = complaint("a.toml", "on = 'perhaps'");
    assert!(
        text.starts_with("DIR/a.toml: `on` is string \"perhaps\", but must be a bool"),
        "{text}"
    );
    let text = complaint("a.toml", "[limits]\nrows = -1");
    assert!(text.starts_with("DIR/a.toml: `limits.rows` is "), "{text}");
    let text = complaint("a.toml", "name = 'x'\ninterval = ");
    assert!(text.starts_with("DIR/a.toml is not well-formed: "), "{text}");
    assert!(text.contains("line 2"), "{text}");
    assert_eq!(
        complaint("a.ini", ""),
        "DIR/a.ini: the name must end in .toml, .yaml, .yml or .json"
    );
}

#[test]
fn variables_and_flags_are_complained_about_by_their_names() {
    let load = |variables: &[(&str, &str)]| {
        try_load("a.toml", "", variables, Flags::default()).unwrap_err()
    };
    assert_eq!(
        load(&[("CONNTRACCT_LIMITS__ROW", "1")]),
        "environment variable CONNTRACCT_LIMITS__ROW: unknown key `limits.row`, did you mean \
         `limits.rows`?; allowed here: budget, rows"
    );
    assert_eq!(
        load(&[("CONNTRACCT_LIMITS_ROWS", "1")]),
        "environment variable CONNTRACCT_LIMITS_ROWS: unknown key `limits_rows`, did you mean \
         `limits.rows`?; allowed here: interval, limits, name, on, peers"
    );
    assert_eq!(
        load(&[("CONNTRACCT_INTERVAL", "7")]),
        "environment variable CONNTRACCT_INTERVAL: `interval` is \"7\", but must be a duration \
         with its unit, like \"5s\", \"250ms\" or \"1h30m\""
    );
    let mut flags = Flags::default();
    flags.set("interval", "--interval", Some("soon"));
    let text = try_load("a.toml", "interval = '5s'", &[], flags).unwrap_err();
    assert!(text.starts_with("--interval: `interval` is \"soon\""), "{text}");
    assert_eq!(
        variables::<Raw>().unwrap(),
        [
            "CONNTRACCT_INTERVAL",
            "CONNTRACCT_LIMITS__BUDGET",
            "CONNTRACCT_LIMITS__ROWS",
            "CONNTRACCT_NAME",
            "CONNTRACCT_ON",
            "CONNTRACCT_PEERS"
        ]
    );
}

#[test]
fn files_are_searched_in_order_and_one_folder_may_hold_one() {
    let folder = tempfile::tempdir().unwrap();
    let surroundings = empty(folder.path());
    let load = || load::<Raw>("node", None, &surroundings, Flags::default());
    assert_eq!(load().unwrap().origins.file(), None);

    let own = folder.path().join("home/.config/conntracct");
    std::fs::create_dir_all(&surroundings.system).unwrap();
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(surroundings.system.join("node.yaml"), "name: machine").unwrap();
    std::fs::write(surroundings.system.join("aggregator.yaml"), "name: other").unwrap();
    assert_eq!(load().unwrap().raw.name.as_deref(), Some("machine"));

    std::fs::write(own.join("node.json"), r#"{"name": "mine"}"#).unwrap();
    let loaded = load().unwrap();
    assert_eq!(loaded.raw.name.as_deref(), Some("mine"));
    assert_eq!(loaded.origins.file(), Some(own.join("node.json").as_path()));

    std::fs::write(own.join("node.toml"), "").unwrap();
    let text = load().unwrap_err().to_string();
    assert!(text.contains("node.toml") && text.contains("node.json"), "{text}");

    // A link to nowhere is a file that was meant to be there.
    std::fs::remove_file(own.join("node.json")).unwrap();
    std::fs::remove_file(own.join("node.toml")).unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", own.join("node.toml")).unwrap();
    assert!(matches!(load(), Err(ConfigError::Missing { .. })));
}

#[test]
fn named_files_must_be_there_and_readable_and_small() {
    let folder = tempfile::tempdir().unwrap();
    let surroundings = empty(folder.path());
    let load =
        |file: &Path| load::<Raw>("node", Some(file), &surroundings, Flags::default()).unwrap_err();
    let missing = folder.path().join("missing.toml");
    assert!(load(&missing).to_string().ends_with("does not exist; create it, or leave out -c"));
    let directory = folder.path().join("folder.toml");
    std::fs::create_dir(&directory).unwrap();
    assert!(matches!(load(&directory), ConfigError::Read { .. }));
    let huge = folder.path().join("huge.toml");
    std::fs::write(&huge, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(chain(&load(&huge)).contains("longer than"));
}

#[test]
fn a_dump_loads_to_itself() {
    let text = "name = 'x'\npeers = ['a', 'b']\ninterval = '90s'\n[limits]\nbudget = '1536KiB'\n";
    let first = try_load("a.toml", text, &[], Flags::default()).unwrap().raw;
    let dumped = dump(&first).unwrap();
    assert_eq!(try_load("b.toml", &dumped, &[], Flags::default()).unwrap().raw, first, "{dumped}");
}

#[test]
fn differing_keys_are_named_in_full() {
    let one = Raw::default();
    let mut other = Raw { name: Some("gw2".into()), ..Raw::default() };
    other.peers.0.push("a:1".into());
    other.limits.budget = Size::mib(2);
    assert_eq!(differences(&one, &one).unwrap(), Vec::<String>::new());
    assert_eq!(differences(&one, &other).unwrap(), ["limits.budget", "name", "peers"]);
}
