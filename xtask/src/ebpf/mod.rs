//! `cargo xtask ebpf`: rebuilds the committed eBPF object, setting up what that needs: the nightly
//! compiler's sources of `core`, and a linker for the kernel's virtual machine.
//!
//! One object serves every architecture: it is built for two, and what runs of it must be the same.
//!
//! Nobody who builds the node needs any of it. Beside the object lie the hashes of the sources it
//! was built from and of itself; `cargo xtask tidy` compares them.

mod sections;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::workspace;

/// Rebuilds the object.
///
/// # Errors
/// A tool cannot be had, or the build fails.
pub(crate) fn run() -> Result<()> {
    let linker = Linker::find()?;
    let [object, other] = ARCHITECTURES.map(|arch| build(&linker, arch));
    let (object, other) = (object?, other?);
    let differs = differing(&object, &other)?;
    if !differs.is_empty() {
        bail!("{differs:?} differ: one object cannot serve {ARCHITECTURES:?}");
    }
    let folder = workspace::root().join(FOLDER);
    let hashes = Hashes { sources: sources(workspace::root())?, object: hash(&object) };
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(OBJECT), &object).context("could not write the object")?;
    fs::write(folder.join(HASHES), hashes.to_text()).context("could not write its hashes")?;
    eprintln!("{FOLDER}/{OBJECT}: {} bytes, sources {}", object.len(), hashes.sources);
    Ok(())
}

/// Which of the parts that run are not the same in both objects; what debuggers read may differ.
fn differing(object: &[u8], other: &[u8]) -> Result<Vec<&'static str>> {
    let (ours, theirs) = (sections::sections(object)?, sections::sections(other)?);
    Ok(RUN.into_iter().filter(|name| ours.get(*name) != theirs.get(*name)).collect())
}

/// What is wrong with the committed object, if anything.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn check(root: &Path) -> Result<Option<String>> {
    let folder = root.join(FOLDER);
    let text = fs::read_to_string(folder.join(HASHES));
    let text = text.with_context(|| format!("could not read {FOLDER}/{HASHES}"))?;
    let object = fs::read(folder.join(OBJECT));
    let object = object.with_context(|| format!("could not read {FOLDER}/{OBJECT}"))?;
    let found = Hashes { sources: sources(root)?, object: hash(&object) };
    Ok(found.difference(&text))
}

/// What an object was built from, and it.
#[derive(Debug, PartialEq, Eq)]
struct Hashes {
    sources: String,
    object: String,
}

impl Hashes {
    fn to_text(&self) -> String {
        format!("sources {}\nobject {}\n", self.sources, self.object)
    }

    /// How what was found differs from what is written down.
    fn difference(&self, written: &str) -> Option<String> {
        let written_is =
            |name: &str, hash: &str| written.lines().any(|l| l == format!("{name} {hash}"));
        if !written_is("sources", &self.sources) {
            return Some("was built from other sources: run `cargo xtask ebpf`".to_owned());
        }
        let same = written_is("object", &self.object);
        (!same).then(|| "is not the object that was built: run `cargo xtask ebpf`".to_owned())
    }
}

/// One hash over all files that the object is made of: path, length and bytes of each.
fn sources(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for folder in ["ebpf/abi", "ebpf/probe"] {
        for file in ["Cargo.toml", "Cargo.lock"] {
            if root.join(folder).join(file).is_file() {
                files.push(format!("{folder}/{file}"));
            }
        }
        let list = fs::read_dir(root.join(folder).join("src"));
        for file in list.with_context(|| format!("could not list {folder}/src"))? {
            files.push(format!("{folder}/src/{}", file?.file_name().to_string_lossy()));
        }
    }
    files.sort_unstable();
    let mut digest = Sha256::new();
    for file in files {
        let bytes = fs::read(root.join(&file)).with_context(|| format!("could not read {file}"))?;
        digest.update(format!("{file}\0{}\0", bytes.len()));
        digest.update(&bytes);
    }
    Ok(hex(&digest.finalize()))
}

fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The object, built to be loaded on an architecture.
fn build(linker: &Linker, arch: &str) -> Result<Vec<u8>> {
    let target = workspace::target_dir().join("ebpf");
    let mut command = Command::new("cargo");
    command
        .args(["+nightly", "build", "--locked", "--release", "-Z", "build-std=core"])
        .args(["--target", TARGET])
        .current_dir(workspace::root().join("ebpf/probe"))
        .env("CARGO_TARGET_DIR", &target)
        .env("AYA_BPF_TARGET_ARCH", arch)
        // Paths of this machine would be in the object's line tables.
        .env("RUSTFLAGS", format!("-C debuginfo=2 -C link-arg=--btf {}", remapped()?));
    linker.serve(&mut command)?;
    workspace::run(&mut command)?;
    let built = target.join(TARGET).join("release/probe");
    fs::read(&built).with_context(|| format!("could not read {}", built.display()))
}

/// Arguments that leave this machine's folders out of the object.
fn remapped() -> Result<String> {
    let root = workspace::root().canonicalize().context("the workspace has no path")?;
    let home = std::env::var("CARGO_HOME")
        .or_else(|_unset| std::env::var("HOME").map(|home| format!("{home}/.cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    let sysroot = nightly_sysroot()?;
    Ok(format!(
        "--remap-path-prefix={}=. --remap-path-prefix={home}=cargo --remap-path-prefix={}=rust",
        root.display(),
        sysroot.display()
    ))
}

/// The linker, and the folder of the library it needs where it is one of our own.
struct Linker {
    folder: Option<PathBuf>,
}

impl Linker {
    /// The one on the path, or our own, which is built the first time (2 minutes).
    fn find() -> Result<Self> {
        let sysroot = nightly_sysroot()?;
        if !sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
            workspace::run(Command::new("rustup").args([
                "component",
                "add",
                "rust-src",
                "--toolchain",
                "nightly",
            ]))?;
        }
        if workspace::has_program("bpf-linker") {
            return Ok(Self { folder: None });
        }
        let folder = workspace::target_dir().join("ebpf-linker");
        if !folder.join("bin/bpf-linker").is_file() {
            Self::install(&sysroot, &folder)?;
        }
        Ok(Self { folder: Some(folder) })
    }

    /// Builds the linker against the LLVM library that the nightly compiler brings: it must be
    /// the one that wrote the bitcode.
    fn install(sysroot: &Path, folder: &Path) -> Result<()> {
        let library = fs::read_dir(sysroot.join("lib"))
            .context("the nightly compiler has no lib folder")?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| name(path).starts_with("libLLVM.so."))
            .context("the nightly compiler brings no libLLVM.so.*")?;
        let major =
            name(&library)["libLLVM.so.".len()..].split('.').next().unwrap_or("").to_owned();
        let lib = folder.join("lib");
        fs::create_dir_all(&lib)?;
        for link in ["libLLVM.so".to_owned(), name(&library)] {
            let place = lib.join(link);
            if !place.exists() {
                std::os::unix::fs::symlink(&library, place)?;
            }
        }
        let mut command = Command::new("cargo");
        command
            .args(["install", "bpf-linker", "--locked", "--version", LINKER])
            .args(["--no-default-features", "--features", &format!("llvm-{major}"), "--root"])
            .arg(folder)
            .env("LLVM_PREFIX", folder)
            .env("LD_LIBRARY_PATH", &lib)
            .env("CARGO_TARGET_DIR", folder.join("target"));
        workspace::run(&mut command)
    }

    /// Lets a command find the linker.
    fn serve(&self, command: &mut Command) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let all = [folder.join("bin")].into_iter().chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(all)?).env("LD_LIBRARY_PATH", folder.join("lib"));
        Ok(())
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn nightly_sysroot() -> Result<PathBuf> {
    let output = Command::new("rustc").args(["+nightly", "--print", "sysroot"]).output();
    let output = output.context("could not start rustc")?;
    if !output.status.success() {
        bail!("there is no nightly compiler: rustup toolchain install nightly");
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

const FOLDER: &str = "ebpf/prebuilt";
const OBJECT: &str = "probe.bpfel.o";
const HASHES: &str = "probe.bpfel.sha256";
/// Where the object must be the same: the node tells the programs where arguments are.
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];
/// Sections of the object that make up the programs: code, what the loader puts into it, maps,
/// numbers.
const RUN: [&str; 8] =
    [".text", "kprobe", ".relkprobe", "raw_tp", ".relraw_tp", "maps", ".rodata", ".symtab"];
const TARGET: &str = "bpfel-unknown-none";
/// Links what nightly compilers from 1.97 on write.
const LINKER: &str = "^0.13";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_object_is_that_of_the_sources() {
        assert_eq!(check(workspace::root()).unwrap(), None);
    }

    #[test]
    fn other_sources_and_another_object_are_noticed() {
        let hashes =
            |sources: &str, object: &str| Hashes { sources: sources.into(), object: object.into() };
        let written = hashes("a", "b").to_text();
        assert_eq!(hashes("a", "b").difference(&written), None);
        assert!(hashes("x", "b").difference(&written).unwrap().contains("other sources"));
        assert!(hashes("a", "x").difference(&written).unwrap().contains("not the object"));
    }
}
