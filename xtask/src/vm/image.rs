//! The emulated machine's only disk: an initramfs with the tests, the programs they call and the
//! kernel's modules.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufWriter, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::cpio;
use super::kernel::{Arch, Fetched, Kernel};
use crate::workspace::{self, CI_PROFILE, cargo};

/// What is tested.
pub(super) struct Programs {
    tests: PathBuf,
    node: PathBuf,
}

/// A line of cargo's messages.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

impl Programs {
    /// Builds the node and its integration tests, or finds them built.
    pub(super) fn build(arch: Arch) -> Result<Self> {
        let mut command = cargo(["test", "--no-run", "--locked", "-p", "conntracct-node"]);
        if arch == Arch::Arm64 {
            cross(&mut command);
        }
        let mut found = built(command.args(["--test", "it"]))?;
        let tests = take(&mut found, "it")?;
        Ok(Self { tests, node: take(&mut found, "conntracct-node")? })
    }
}

/// Lets a cargo command build static programs for arm64, beside ours: nothing of theirs is built
/// again with every change of architecture.
fn cross(command: &mut Command) {
    let config = |key: &str, value: &str| format!("target.{ARM64}.{key}={value}");
    command.args(["--target", ARM64]);
    command.args(["--config", &config("linker", "\"aarch64-linux-gnu-gcc\"")]);
    let flags = "[\"-C\", \"target-feature=+crt-static\"]";
    command.args(["--config", &config("rustflags", flags)]);
    command.arg("--target-dir").arg(workspace::target_dir().join("cross"));
}

/// Why nothing can be built for arm64.
pub(super) fn lacks_target() -> Option<String> {
    let list = Command::new("rustc").args(["--print", "sysroot"]).output().ok()?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&list.stdout).trim());
    let there = sysroot.join("lib/rustlib").join(ARM64).is_dir();
    (!there).then(|| format!("no standard library: rustup target add {ARM64}"))
}

/// The target of the static node for arm64.
const ARM64: &str = "aarch64-unknown-linux-gnu";

/// The programs that a cargo command has built in the profile of the tests, by name.
fn built(command: &mut Command) -> Result<BTreeMap<String, PathBuf>> {
    command.args(["--profile", CI_PROFILE, "--message-format=json"]);
    let said = workspace::output(command)?;
    let mut found = BTreeMap::new();
    for line in String::from_utf8_lossy(&said).lines() {
        let message: Message = serde_json::from_str(line).context("cargo's messages")?;
        if let Message { executable: Some(file), target: Some(target) } = message {
            found.insert(target.name, file);
        }
    }
    Ok(found)
}

fn take(found: &mut BTreeMap<String, PathBuf>, name: &str) -> Result<PathBuf> {
    found.remove(name).with_context(|| format!("cargo built no program {name}"))
}

/// Builds the initramfs that runs `command` in `kernel`.
pub(super) fn build(
    kernel: Kernel,
    fetched: &Fetched,
    programs: &Programs,
    command: &str,
) -> Result<PathBuf> {
    let folder = workspace::target_dir().join("vm");
    let root = folder.join("initramfs");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::create_dir_all(&root)?;
    let foreign = kernel.arch() != Arch::Amd64;
    if foreign {
        let tools = kernel.fetch_tools(PACKAGES)?;
        workspace::run(Command::new("cp").arg("-a").arg(tools.join(".")).arg(&root))?;
        merge_usr(&root)?;
    }
    for sub in ["proc", "sys", "dev", "run", "tmp", "bin", "etc"] {
        fs::create_dir_all(root.join(sub))?;
    }
    let files = [
        (&programs.tests, Path::new("/kernel-tests").to_owned()),
        // The tests call the node where it was built.
        (&programs.node, programs.node.clone()),
    ];
    for (from, to) in files {
        install_program(&root, from, &to)?;
        strip(&inside(&root, &to), kernel.arch())?;
    }
    if !foreign {
        for name in TOOLS {
            let path = which(name).with_context(|| format!("{name} is not installed"))?;
            install_program(&root, &path, &Path::new("/bin").join(name))?;
        }
        let busybox = which("busybox").context("busybox is not installed")?;
        install(&root, &busybox, Path::new("/bin/busybox"))?;
    }
    for applet in APPLETS {
        let place = root.join("bin").join(applet);
        // There are real ones of some among the tools.
        if !place.exists() {
            symlink("busybox", place)?;
        }
    }
    install_modules(&root, fetched)?;
    let init = root.join("init");
    fs::write(&init, INIT.replace("@COMMAND@", command))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let file = folder.join("initramfs.cpio");
    let mut out = BufWriter::new(fs::File::create(&file)?);
    cpio::write(&root, &mut out)?;
    out.flush()?;
    Ok(file)
}

/// Copies a program and the libraries it is linked with, to the same places.
fn install_program(root: &Path, from: &Path, to: &Path) -> Result<()> {
    install(root, from, to)?;
    let said = Command::new("ldd").arg(from).output().context("could not start ldd")?;
    for word in String::from_utf8_lossy(&said.stdout).split_ascii_whitespace() {
        let library = Path::new(word);
        if library.is_absolute() && library.is_file() && !inside(root, library).exists() {
            install(root, library, library)?;
        }
    }
    Ok(())
}

fn install(root: &Path, from: &Path, to: &Path) -> Result<()> {
    let place = inside(root, to);
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, &place).with_context(|| format!("could not copy {}", from.display()))?;
    Ok(())
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Debian's folders below /usr, where /bin, /sbin and /lib are links since Debian 12: programs and
/// libraries of packages that still have them elsewhere join them.
fn merge_usr(root: &Path) -> Result<()> {
    for name in ["bin", "sbin", "lib"] {
        let (old, new) = (root.join(name), root.join("usr").join(name));
        fs::create_dir_all(&new)?;
        if old.is_dir() && !old.is_symlink() {
            workspace::run(Command::new("cp").arg("-a").arg(old.join(".")).arg(&new))?;
            fs::remove_dir_all(&old)?;
        }
        if !old.exists() {
            symlink(Path::new("usr").join(name), &old)?;
        }
    }
    Ok(())
}

/// Without the line tables the machine needs half the memory.
fn strip(program: &Path, arch: Arch) -> Result<()> {
    let strip = match arch {
        Arch::Amd64 => "strip",
        Arch::Arm64 => "aarch64-linux-gnu-strip",
    };
    workspace::run(Command::new(strip).arg("--strip-debug").arg(program))
}

fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Copies the modules in [`MODULES`] and those they need, decompressed, and lists them anew.
fn install_modules(root: &Path, kernel: &Fetched) -> Result<()> {
    let here = kernel.modules.parent().context("modules without a folder")?;
    let base = here.parent().and_then(Path::parent).context("modules without a root")?;
    // Needs and built-in modules of the whole kernel; some packages come without the list.
    if !kernel.modules.join("modules.dep").is_file() {
        workspace::run(Command::new("depmod").arg("-b").arg(base).arg(&kernel.release))?;
    }
    let needs = fs::read_to_string(kernel.modules.join("modules.dep"))?;
    let needs: Vec<(&str, Vec<&str>)> = needs
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (file, needs.split_ascii_whitespace().collect()))
        .collect();
    let mut files = BTreeSet::new();
    for module in MODULES {
        let found = needs.iter().find(|(file, _)| module_name(file) == *module);
        // Not there: built in, or of another version.
        let Some((file, needs)) = found else { continue };
        files.insert(*file);
        files.extend(needs);
    }
    let to = Path::new("/lib/modules").join(&kernel.release);
    for file in files {
        let from = kernel.modules.join(file);
        let plain = file.strip_suffix(".xz").or_else(|| file.strip_suffix(".zst")).unwrap_or(file);
        install(root, &from, &to.join(plain))?;
        if plain != file {
            let tool = if file.ends_with(".xz") { "xz" } else { "zstd" };
            let bytes = workspace::output(Command::new(tool).arg("-dc").arg(&from))?;
            fs::write(inside(root, &to.join(plain)), bytes)?;
        }
    }
    for list in ["modules.builtin", "modules.order", "modules.builtin.modinfo"] {
        let from = kernel.modules.join(list);
        if from.is_file() {
            install(root, &from, &to.join(list))?;
        }
    }
    let mut depmod = Command::new("depmod");
    workspace::run(depmod.arg("-b").arg(root).arg(&kernel.release))?;
    if fs::read_dir(inside(root, &to))?.next().is_none() {
        bail!("the kernel {} has none of the modules", kernel.release);
    }
    Ok(())
}

/// `kernel/net/netfilter/nf_conntrack.ko.xz` is `nf_conntrack`.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

/// Programs that the tests call.
const TOOLS: &[&str] = &["ip", "nft", "conntrack", "ping", "setpriv", "setcap"];

/// Debian's packages with these, for another architecture than ours.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "iproute2",
    "nftables",
    "conntrack",
    "iputils-ping",
    "util-linux",
    "libcap2-bin",
];

/// What the start needs besides. Not `ip`: busybox has one, too.
const APPLETS: &[&str] = &[
    "sh", "mount", "umount", "mkdir", "modprobe", "poweroff", "cat", "ls", "echo", "sleep", "grep",
    "dmesg",
];

const MODULES: &[&str] = &[
    "veth",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_tables",
    "nft_ct",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "nft_counter",
    "nft_flow_offload",
    "nf_flow_table",
    "nf_flow_table_inet",
    "nf_nat",
];

/// The last line says how it went; the host looks for it.
const INIT: &str = "\
#!/bin/sh
export PATH=/bin:/sbin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mkdir -p /run/netns
for module in veth nf_conntrack nf_conntrack_netlink nf_tables nft_ct nft_chain_nat nft_nat \\
    nft_masq nft_counter nft_flow_offload nf_flow_table_inet; do
    modprobe -q $module
done
ip link set lo up
cd /tmp
@COMMAND@
echo \"conntracct-vm: exit $?\"
poweroff -f
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_named_as_the_kernel_names_them() {
        assert_eq!(module_name("kernel/net/netfilter/nf_conntrack.ko.xz"), "nf_conntrack");
        assert_eq!(module_name("kernel/net/netfilter/nft-ct.ko"), "nft_ct");
    }
}
