//! Where the eBPF source cannot be had: `auto` says why in one line and goes on with netlink,
//! `ebpf` ends with the same reason. The reasons are real ones, made on this kernel.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::lab::{Lab, wait};
use crate::program::Program;

/// A node of a lab, in it.
pub(crate) struct Site {
    lab: Lab,
    folder: tempfile::TempDir,
}

impl Site {
    pub(crate) fn new(lab: Lab) -> Self {
        let site = Self { lab, folder: tempfile::tempdir().unwrap() };
        std::fs::write(site.file("node.toml"), "sysctl_manage = false\n").unwrap();
        // Emulated kernels are slow: no entry expires under a test.
        site.lab.set("udp_timeout", "3600");
        // Something to prove a layout on.
        site.lab.udp().send_all(0..50);
        site
    }

    pub(crate) fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// The command that runs a node with these flags in the lab, without the capabilities listed
    /// (as setpriv writes them).
    fn command(&self, without: &[&str], flags: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.lab.name()]);
        if !without.is_empty() {
            let dropped: Vec<String> = without.iter().map(|name| format!("-{name}")).collect();
            let dropped = format!("--bounding-set={}", dropped.join(","));
            command.args(["setpriv", "--inh-caps=-all", &dropped]);
        }
        command.arg(env!("CARGO_BIN_EXE_conntracct-node"));
        let (config, state) = (self.file("node.toml"), self.file("state"));
        command.arg("-c").arg(config).arg("--state-dir").arg(state);
        command.args(["--http", "127.0.0.1:0"]).args(flags);
        command
    }

    /// A node with `auto` goes on with netlink, and a node with `ebpf` ends; both say why, in one
    /// line with these words.
    pub(crate) fn falls_back(&self, without: &[&str], flags: &[&str], words: &str) {
        let auto = [&["--source", "auto"][..], flags].concat();
        let program = Program::spawn(self.command(without, &auto), None);
        program.wait_for("source=\"netlink\"");
        let said = program.said();
        let reasons: Vec<&str> =
            said.lines().filter(|line| line.contains("eBPF cannot be used")).collect();
        assert_eq!(reasons.len(), 1, "{said}");
        assert!(reasons[0].contains("source: netlink"), "{said}");
        assert!(said.lines().all(|line| line.starts_with("20")), "a line without a time: {said}");
        assert!(reasons[0].contains(words), "{words:?} not in {said}");
        assert_eq!(said.matches(words).count(), 1, "said once: {said}");
        // It works: every entry is read, and those of the questions.
        let live = || {
            let metrics = self.ask("/metrics", &program);
            let live = metrics.lines().find_map(|line| line.strip_prefix("conntracct_table_live "));
            live.and_then(|live| live.parse::<u64>().ok()).is_some_and(|live| live >= 50)
        };
        wait("the first sweep", Duration::from_secs(60), live);
        let (status, said) = program.terminate();
        assert!(status.success(), "{said}");

        let demanded = [&["--source", "ebpf"][..], flags].concat();
        let output = self.command(without, &demanded).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{said}");
        assert!(errors[0].contains(words), "{words:?} not in {said}");
        assert!(said.ends_with(&format!("{}\n", errors[0])), "the last line: {said}");
    }

    fn ask(&self, target: &str, program: &Program) -> String {
        let asked = self.lab.netns().enter(|| Ok(program.text(target)));
        asked.unwrap()
    }
}

fn site(test: &str) -> Option<Site> {
    Lab::new(test).map(Site::new)
}

/// The kernel of the machine that the tests are written on has no kprobes; those of `cargo xtask
/// vm` have, and run `kernel::`.
fn has_kprobes() -> bool {
    Path::new("/sys/bus/event_source/devices/kprobe").exists()
}

#[test]
fn a_kernel_without_kprobes() {
    let Some(site) = site("no kprobes") else { return };
    if has_kprobes() || !Path::new("/sys/kernel/btf/vmlinux").exists() {
        println!("skipped, eBPF can be had here, or fails for another reason before");
        return;
    }
    site.falls_back(&[], &[], "cannot be hooked (kprobes are off or refuse it)");
}

#[test]
fn type_information_that_is_missing_or_none() {
    let Some(site) = site("no btf") else { return };
    let none = site.file("none").display().to_string();
    site.falls_back(&[], &["--btf", &none], "none cannot be read");
    let foreign = site.file("node.toml").display().to_string();
    site.falls_back(&[], &["--btf", &foreign], "node.toml does not describe conntrack");
}

#[test]
fn a_layout_that_cannot_be_one() {
    use conntracct_node::source::ebpf::layout::Layout;
    let Some(site) = site("no layout") else { return };
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        println!("skipped, this kernel has no type information");
        return;
    }
    let mut layout = Layout::of_kernel().unwrap();
    layout.nf_conn.reply += layout.nf_conn.size;
    let file = site.file("layout.toml");
    std::fs::write(&file, layout.to_toml().unwrap()).unwrap();
    let flag = file.display().to_string();
    site.falls_back(&[], &["--layout", &flag], "beyond what can be read");
    std::fs::write(&file, "nf_conn = 7\n").unwrap();
    site.falls_back(&[], &["--layout", &flag], "layout.toml is no layout");
}

#[test]
fn a_process_without_the_capabilities() {
    let Some(site) = site("no capability") else { return };
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        println!("skipped, this kernel has no type information");
        return;
    }
    let without = ["bpf", "perfmon", "sys_admin"];
    site.falls_back(&without, &[], "eBPF needs CAP_BPF and CAP_PERFMON;");
}
