//! Writes a folder as a cpio archive of the kind the kernel unpacks ("newc",
//! `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result};

/// Appends everything in `folder` and the end mark.
pub(super) fn write(folder: &Path, out: &mut impl Write) -> Result<()> {
    let mut number = 1;
    walk(folder, "", &mut number, out)?;
    entry(out, 0, 0, "TRAILER!!!", &[])?;
    out.flush().context("could not write the archive")
}

fn walk(folder: &Path, path: &str, number: &mut u32, out: &mut impl Write) -> Result<()> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .with_context(|| format!("could not list {}", folder.display()))?
        .collect::<Result<Vec<_>, _>>()?;
    names.sort_unstable_by_key(fs::DirEntry::file_name);
    for found in names {
        let name = found.file_name().to_string_lossy().into_owned();
        let path = if path.is_empty() { name } else { format!("{path}/{name}") };
        let meta = fs::symlink_metadata(found.path())?;
        let bytes = if meta.is_symlink() {
            fs::read_link(found.path())?.to_string_lossy().into_owned().into_bytes()
        } else if meta.is_file() {
            fs::read(found.path()).with_context(|| format!("could not read {path}"))?
        } else {
            Vec::new()
        };
        *number += 1;
        // Permissions of a link mean nothing; the kind is in the upper bits.
        let mode = if meta.is_symlink() { meta.mode() } else { kind(&meta) | permissions(&meta) };
        entry(out, *number, mode, &path, &bytes)?;
        if meta.is_dir() {
            walk(&found.path(), &path, number, out)?;
        }
    }
    Ok(())
}

fn kind(meta: &fs::Metadata) -> u32 {
    meta.mode() & 0o170_000
}

fn permissions(meta: &fs::Metadata) -> u32 {
    meta.permissions().mode() & 0o7777
}

fn entry(out: &mut impl Write, number: u32, mode: u32, name: &str, bytes: &[u8]) -> Result<()> {
    let size = u32::try_from(bytes.len()).context("a file of more than 4 GiB")?;
    let length = u32::try_from(name.len() + 1).context("a name of more than 4 GiB")?;
    // inode, mode, uid, gid, links, mtime, size, device, special device, name's length, check
    let fields = [number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0];
    let mut head = String::from("070701");
    fields.iter().for_each(|field| head.push_str(&format!("{field:08X}")));
    out.write_all(head.as_bytes())?;
    out.write_all(name.as_bytes())?;
    out.write_all(&[0])?;
    pad(out, head.len() + name.len() + 1)?;
    out.write_all(bytes)?;
    pad(out, bytes.len())
}

fn pad(out: &mut impl Write, length: usize) -> Result<()> {
    out.write_all(&[0; 3][..(4 - length % 4) % 4]).context("could not write the archive")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_padded_to_fours() {
        let mut out = Vec::new();
        entry(&mut out, 2, 0o100_644, "abc", b"hello").unwrap();
        assert_eq!(out.len(), 110 + 6 + 8);
        assert_eq!(&out[..14], b"07070100000002");
        assert_eq!(&out[110..116], b"abc\0\0\0");
        assert_eq!(&out[116..], b"hello\0\0\0");
    }
}
