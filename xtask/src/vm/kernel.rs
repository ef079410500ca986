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
    pub(super) const ALL: [Self; 4] = [Self::V5_10, Self::V6_1, Self::V6_12, Self::Sid];

    const fn suite(self) -> &'static str {
        match self {
            Self::V5_10 => "bullseye",
            Self::V6_1 => "bookworm",
            Self::V6_12 => "trixie",
            Self::Sid => "sid",
        }
    }

    fn folder(self) -> PathBuf {
        workspace::target_dir().join("vm").join(self.suite())
    }

    /// Fetches the kernel where it is not here yet. It is fetched again when its folder is
    /// removed.
    pub(super) fn fetch(self) -> Result<Fetched> {
        let root = self.folder().join("root");
        if let Ok(fetched) = find(&root) {
            return Ok(fetched);
        }
        let folder = self.folder();
        let apt = Apt::new(&folder.join("apt"), self.suite())?;
        apt.update()?;
        // From 7.x on the image is in linux-binary-*, its modules in linux-modules-*.
        let names = apt.dependencies("linux-image-cloud-amd64")?;
        let image =
            names.iter().find(|name| name.starts_with("linux-image-")).with_context(|| {
                format!("linux-image-cloud-amd64 of {} leads to no kernel: {names:?}", self.suite())
            })?;
        let mut wanted = vec![image.clone()];
        let more = apt.dependencies(image)?.into_iter();
        wanted.extend(more.filter(|name| {
            name.starts_with("linux-modules-") || name.starts_with("linux-binary-")
        }));
        for package in wanted {
            let deb = apt.download(&package)?;
            let mut unpack = Command::new("dpkg-deb");
            workspace::run(unpack.arg("-x").arg(&deb).arg(&root))?;
            fs::remove_file(deb)?;
        }
        find(&root)
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
    fn new(folder: &Path, suite: &str) -> Result<Self> {
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
            "APT::Architecture=amd64".to_owned(),
            "APT::Architectures=amd64".to_owned(),
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
