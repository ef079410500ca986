//! The parts of an ELF object of 64 bits, little end first (`elf(5)`): pure.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// Every section by its name.
pub(super) fn sections(object: &[u8]) -> Result<BTreeMap<String, &[u8]>> {
    if object.get(..6) != Some(b"\x7fELF\x02\x01") {
        bail!("the object is no ELF file of 64 bits, little end first");
    }
    // e_shoff, e_shnum, e_shstrndx
    let (table, count, names) =
        (number(object, 40, 8)?, number(object, 60, 2)?, number(object, 62, 2)?);
    let header = |index: usize| table + 64 * index;
    let names = bytes(object, header(names))?;
    let mut found = BTreeMap::new();
    for index in 0..count {
        let name =
            names.get(number(object, header(index), 4)?..).context("a name beyond its section")?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        found.insert(String::from_utf8_lossy(name).into_owned(), bytes(object, header(index))?);
    }
    Ok(found)
}

/// What a section header leads to.
fn bytes(object: &[u8], header: usize) -> Result<&[u8]> {
    // sh_offset, sh_size
    let (from, size) = (number(object, header + 24, 8)?, number(object, header + 32, 8)?);
    let to = from.checked_add(size).context("a section without an end")?;
    object.get(from..to).context("a section beyond the object")
}

fn number(object: &[u8], at: usize, size: usize) -> Result<usize> {
    let field = object.get(at..at + size).context("a header beyond the object")?;
    let number = field.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    usize::try_from(number).context("a number beyond this machine's")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_object_has_what_runs() {
        let file = crate::workspace::root().join("ebpf/prebuilt/probe.bpfel.o");
        let object = std::fs::read(file).unwrap();
        let found = sections(&object).unwrap();
        for name in super::super::RUN {
            assert!(found.get(name).is_some_and(|section| !section.is_empty()), "{name}");
        }
        assert!(sections(&object[..object.len() / 2]).is_err(), "the headers are behind it");
        assert!(sections(b"\x7fELF\x01\x01").is_err());
    }
}
