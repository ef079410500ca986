//! Debian's kernels: finding the package of a suite, fetching it, taking it apart. Cached beside
//! the build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// A kernel, by what Debian calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 11
    #[value(name = "5.10")]
    V5_10,
    /// Debian 12
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13
    #[value(name = "6.12")]
    V6_12,
    /// The newest of Debian's unstable suite
    Sid,
    /// Debian 13 on arm64
    Arm64,
}

/// What a kernel runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arch {
    /// What we run on, too.
    Amd64,
    /// Emulated from its instructions on; programs are built for it.
    Arm64,
}

impl Arch {
    /// As Debian calls it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// A kernel that is here.
pub(super) struct Fetched {
    /// As `uname -r` says.
    pub(super) release: String,
    /// What boots.
    pub(super) image: PathBuf,
    /// The folder `lib/modules/RELEASE`.
    pub(super) modules: PathBuf,
}

impl Kernel {
    /// Those that run what is built for this machine.
    pub(super) const ALL: [Self; 4] = [Self::V5_10, Self::V6_1, Self::V6_12, Self::Sid];

    const fn suite(self) -> &'static str {
        match self {
            Self::V5_10 => "bullseye",
            Self::V6_1 => "bookworm",
            Self::V6_12 | Self::Arm64 => "trixie",
            Self::Sid => "sid",
        }
    }

    pub(super) const fn arch(self) -> Arch {
        match self {
            Self::Arm64 => Arch::Arm64,
            _ => Arch::Amd64,
        }
    }

    fn folder(self) -> PathBuf {
        let folder = workspace::target_dir().join("vm");
        match self.arch() {
            Arch::Amd64 => folder.join(self.suite()),
            Arch::Arm64 => folder.join(format!("{}-arm64", self.suite())),
        }
    }

    /// Fetches the kernel where it is not here yet. It is fetched again when its folder is
    /// removed.
    pub(super) fn fetch(self) -> Result<Fetched> {
        let root = self.folder().join("root");
        if let Ok(fetched) = find(&root) {
            return Ok(fetched);
        }
        let folder = self.folder();
        let apt = Apt::new(&folder.join("apt"), self.suite(), self.arch())?;
        apt.update()?;
        // From 7.x on the image is in linux-binary-*, its modules in linux-modules-*.
        let newest = format!("linux-image-cloud-{}", self.arch().name());
        let names = apt.dependencies(&newest)?;
        let image =
            names.iter().find(|name| name.starts_with("linux-image-")).with_context(|| {
                format!("{newest} of {} leads to no kernel: {names:?}", self.suite())
            })?;
        let mut wanted = vec![image.clone()];
        let more = apt.dependencies(image)?.into_iter();
        wanted.extend(more.filter(|name| {
            name.starts_with("linux-modules-") || name.starts_with("linux-binary-")
        }));
        wanted.iter().try_for_each(|package| apt.unpack(package, &root))?;
        find(&root)
    }

    /// Fetches the programs that the tests call, with their libraries, for another architecture
    /// than ours: a folder to begin the machine's disk with.
    pub(super) fn fetch_tools(self, packages: &[&str]) -> Result<PathBuf> {
        let folder = self.folder().join("tools");
        let done = folder.join(".done");
        if done.is_file() {
            return Ok(folder);
        }
        let apt = Apt::new(&self.folder().join("apt"), self.suite(), self.arch())?;
        apt.update()?;
        let unpack = |name: &String| apt.unpack(name, &folder);
        apt.with_libraries(packages)?.iter().try_for_each(unpack)?;
        fs::write(&done, "")?;
        Ok(folder)
    }
}

/// Looks for an image and its modules in an unpacked package.
fn find(root: &Path) -> Result<Fetched> {
    let modules = ["lib/modules", "usr/lib/modules"].map(|folder| root.join(folder));
    let modules = modules.iter().find(|folder| folder.is_dir()).context("no modules")?;
    let found = fs::read_dir(modules)?.next().context("no modules")??;
    let release = found.file_name().to_string_lossy().into_owned();
    let images = [root.join(format!("boot/vmlinuz-{release}")), found.path().join("vmlinuz")];
    let image = images.into_iter().find(|image| image.is_file()).context("no image")?;
    Ok(Fetched { image, modules: found.path(), release })
}

/// apt with a configuration of its own: another suite than the host's, and no root.
struct Apt {
    folder: PathBuf,
    options: Vec<String>,
}

impl Apt {
    fn new(folder: &Path, suite: &str, arch: Arch) -> Result<Self> {
        let folder = &folder.to_owned();
        for sub in ["lists/partial", "cache/archives/partial", "down"] {
            fs::create_dir_all(folder.join(sub))?;
        }
        let list = folder.join("sources.list");
        let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let signed =
            if Path::new(keys).exists() { format!("[signed-by={keys}] ") } else { String::new() };
        fs::write(&list, format!("deb {signed}http://deb.debian.org/debian {suite} main\n"))?;
        let set = |key: &str, value: &Path| format!("{key}={}", value.display());
        let options = vec![
            set("Dir::Etc::sourcelist", &list),
            set("Dir::Etc::sourceparts", Path::new("/dev/null")),
            set("Dir::State::lists", &folder.join("lists")),
            set("Dir::Cache", &folder.join("cache")),
            format!("APT::Architecture={}", arch.name()),
            format!("APT::Architectures={}", arch.name()),
            "APT::Sandbox::User=".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ];
        Ok(Self { folder: folder.clone(), options })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command.current_dir(self.folder.join("down"));
        command
    }

    fn update(&self) -> Result<()> {
        workspace::run(self.command("apt-get").args(["update", "-q"]))
    }

    fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let said = workspace::output(self.command("apt-cache").args(["depends", package]))?;
        let text = String::from_utf8_lossy(&said).into_owned();
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(lines.map(str::to_owned).collect())
    }

    /// Packages and the libraries they need, and those need.
    fn with_libraries(&self, packages: &[&str]) -> Result<Vec<String>> {
        let mut command = self.command("apt-cache");
        command.args(["depends", "--recurse", "--no-recommends", "--no-suggests"]);
        command.args(["--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances"]);
        let said = workspace::output(command.args(packages))?;
        let text = String::from_utf8_lossy(&said).into_owned();
        let wanted = |name: &&str| packages.contains(name) || name.starts_with("lib");
        // What others depend on is indented; what is provided by others stands in <>.
        let names = text.lines().filter(|line| !line.starts_with([' ', '<'])).filter(wanted);
        Ok(names.map(str::to_owned).collect())
    }

    fn unpack(&self, package: &str, root: &Path) -> Result<()> {
        let deb = self.download(package)?;
        fs::create_dir_all(root)?;
        let mut unpack = Command::new("dpkg-deb");
        workspace::run(unpack.arg("-x").arg(&deb).arg(root))?;
        fs::remove_file(deb).context("could not remove a package")
    }

    fn download(&self, package: &str) -> Result<PathBuf> {
        workspace::run(self.command("apt-get").args(["download", "-q", package]))?;
        let folder = self.folder.join("down");
        let files = fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path()));
        let deb = files.into_iter().find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with(&format!("{package}_"))
        });
        match deb {
            Some(deb) => Ok(deb),
            None => bail!("apt-get downloaded no {package}"),
        }
    }
}
