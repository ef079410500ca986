//! A layout that is wrong for this kernel: told in one line, and netlink is the source.

use conntracct_node::source::ebpf::layout::Layout;

use super::lab;
use crate::fallback::Site;

#[test]
fn a_layout_shifted_by_eight_bytes() {
    let Some(lab) = lab("shifted") else { return };
    let site = Site::new(lab);
    let mut layout = Layout::of_kernel().unwrap();
    (layout.nf_conn.orig, layout.nf_conn.reply) =
        (layout.nf_conn.orig + 8, layout.nf_conn.reply + 8);
    let file = site.file("layout.toml");
    std::fs::write(&file, layout.to_toml().unwrap()).unwrap();
    let flag = file.display().to_string();
    site.falls_back(&[], &["--layout", &flag], "the layout is wrong for this kernel");
}

#[test]
fn type_information_in_two_files_is_as_good_as_the_kernels() {
    let Some(lab) = lab("two files") else { return };
    let site = Site::new(lab);
    let copy = |name: &str| {
        let from = std::path::Path::new("/sys/kernel/btf").join(name);
        let to = site.file(name);
        // sysfs gives no length, so it is read and written.
        std::fs::read(from).and_then(|bytes| std::fs::write(&to, bytes)).ok()?;
        Some(to.display().to_string())
    };
    let (Some(base), Some(module)) = (copy("vmlinux"), copy("nf_conntrack")) else {
        println!("skipped, conntrack is no module here or says nothing of itself");
        return;
    };
    let layout = |flags: &[&str]| crate::selftest::program(&[&["layout"][..], flags].concat());
    let (status, own, said) = layout(&[]);
    assert_eq!(status, Some(0), "{said}");
    let (status, of_files, said) = layout(&["--btf", &base, "--btf-module", &module]);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(of_files, own);
}
