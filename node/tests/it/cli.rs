//! What users read and write: help texts, dumped configuration, the shipped example.

use std::collections::BTreeMap;
use std::path::Path;

use clap::{CommandFactory, Parser};
use conntracct_node::cli::Cli;
use conntracct_node::config::{Config, PROGRAM, RawConfig};
use conntracct_node::source::ebpf::layout::Layout;
use daemon::config::{Surroundings, dump, variables};

use crate::golden::golden;

fn surroundings() -> Surroundings {
    Surroundings {
        variables: BTreeMap::new(),
        home: None,
        state_home: None,
        system: "/nowhere".into(),
        hostname: "gw1".into(),
        root: true,
    }
}

fn load(file: Option<&Path>) -> (Config, RawConfig) {
    let cli = Cli::try_parse_from([PROGRAM]).unwrap();
    Config::load(file, &surroundings(), cli.flags(), false).unwrap()
}

/// The help of the program and of each command, as they are at a width of 100 columns.
fn helps() -> String {
    let mut program = Cli::command().term_width(100);
    program.build();
    let mut text = program.render_long_help().to_string();
    for command in program.get_subcommands() {
        let mut command = command.clone().term_width(100);
        text.push_str("\n---- ");
        text.push_str(command.get_name());
        text.push_str("\n\n");
        text.push_str(&command.render_long_help().to_string());
    }
    text
}

#[test]
fn help_is_as_reviewed() {
    golden("help.txt", &helps());
}

#[test]
fn help_names_only_variables_that_exist() {
    let known = variables::<RawConfig>().unwrap();
    let help = helps();
    let named: Vec<&str> = help
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("CONNTRACCT_") && *word != "CONNTRACCT_")
        .collect();
    assert!(named.len() > 4, "{named:?}");
    for name in named {
        assert!(known.iter().any(|known| known == name), "{name} is in the help, but no variable");
    }
}

#[test]
fn the_dump_is_as_reviewed_and_loads_to_itself() {
    let (config, raw) = load(None);
    let text = dump(&raw).unwrap();
    golden("config.toml", &text);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dumped.toml");
    std::fs::write(&file, &text).unwrap();
    let (again, _) = load(Some(&file));
    assert_eq!(again.file.as_ref(), Some(&file));
    assert_eq!(Config { file: None, ..again }, config);
}

#[test]
fn the_shipped_example_shows_the_defaults() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/node.toml");
    let (_, raw) = load(Some(&example));

    // Every commented line that sets a key is one of the defaults, or a key without one.
    let text = std::fs::read_to_string(&example).unwrap();
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => rest,
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.toml");
    std::fs::write(&file, uncommented).unwrap();
    let (_, all) = load(Some(&file));
    let optional = RawConfig {
        name: all.name.clone(),
        record: all.record.clone(),
        api: all.api.clone(),
        ..raw
    };
    assert_eq!(all, optional);
}

/// Runs the program; its status, and what it wrote to both outputs.
fn program(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_conntracct-node"));
    let output = command.env_clear().args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn ebpf_that_was_demanded_and_cannot_be_had_ends_the_program_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().display().to_string();
    let none = folder.path().join("layout.toml").display().to_string();
    let run = ["--http", "off", "--source", "ebpf", "--layout", &none, "--state-dir", &state];
    let file = folder.path().join("node.toml");
    std::fs::write(&file, "sysctl_manage = false\n").unwrap();
    let file = file.display().to_string();
    let (status, _, said) = program(&[&run[..], &["--config", &file]].concat());
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains(&format!("{none} cannot be read")), "{said}");
}

#[test]
fn the_layout_command_writes_what_the_source_reads() {
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return;
    }
    let (status, printed, said) = program(&["layout"]);
    assert_eq!(status, Some(0), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("layout.toml");
    std::fs::write(&file, &printed).unwrap();
    let layout = Layout::of_toml(&file).unwrap();
    assert_eq!(layout, Layout::of_kernel().unwrap());
    // A file that is none: the reason names it.
    let (status, _, said) = program(&["layout", "--btf", &file.display().to_string()]);
    assert_eq!(status, Some(1));
    assert!(said.contains("does not describe conntrack"), "{said}");
}
