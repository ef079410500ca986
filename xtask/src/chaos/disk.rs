//! A small disk for a node's state folder, which can be filled to the last byte and freed again.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace;

/// A tmpfs; dropping it takes it away.
pub(super) struct SmallDisk {
    mounted: PathBuf,
}

/// Its size: far more than a spool needs here.
const SIZE: &str = "size=64m,mode=700";

impl SmallDisk {
    /// Makes the folder and puts the disk there.
    pub(super) fn mount(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", SIZE, "conntracct-chaos"]).arg(folder);
        workspace::output(&mut mount)?;
        Ok(Self { mounted: folder.to_owned() })
    }

    /// Takes all the room there is.
    pub(super) fn fill(&self) -> Result<()> {
        let path = self.filler();
        let mut file = File::create(&path).with_context(|| path.display().to_string())?;
        let mut written = 0;
        for chunk in [&[0x5a; 1 << 16][..], &[0x5a; 1]] {
            loop {
                match file.write(chunk) {
                    Ok(length) => written += length,
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("could not fill the disk"),
                }
            }
        }
        ensure!(written > 1 << 20, "the disk took only {written} bytes: it was full before");
        Ok(())
    }

    /// Gives it back.
    pub(super) fn free(&self) -> Result<()> {
        fs::remove_file(self.filler()).context("could not free the disk")
    }

    fn filler(&self) -> PathBuf {
        self.mounted.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a program that is being ended may still hold it.
        let gone = workspace::output(Command::new("umount").arg("-l").arg(&self.mounted));
        if let Err(error) = gone {
            eprintln!("leftover: {error:#}");
        }
    }
}
