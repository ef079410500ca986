//! How full a namespace's table is: two files of `/proc/sys`, kept open.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::guard::Fill;

/// The files of one namespace. They stay bound to it, whoever reads them.
pub(in crate::source) struct FillFiles {
    count: Option<File>,
    max: Option<File>,
}

impl FillFiles {
    /// Opens them in the calling thread's namespace, where they can be.
    pub(in crate::source) fn open() -> Self {
        let open = |key| File::open(format!("/proc/sys/net/netfilter/nf_conntrack_{key}")).ok();
        Self { count: open("count"), max: open("max") }
    }

    /// Entries in the namespace and the kernel's limit.
    pub(in crate::source) fn read(&self) -> Option<Fill> {
        let number = |file: &Option<File>| {
            let mut text = [0; 24];
            let length = file.as_ref()?.read_at(&mut text, 0).ok()?;
            std::str::from_utf8(text.get(..length)?).ok()?.trim().parse().ok()
        };
        Some(Fill { count: number(&self.count)?, max: number(&self.max)? })
    }
}
