//! What must be refused: a layout that is not this kernel's, and an empty table.

use std::path::PathBuf;

use conntracct_node::source::ebpf::layout::Layout;
use conntracct_node::source::ebpf::{EbpfConfig, EbpfError, EbpfSource, LayoutChoice};

use super::{config, lab};
use crate::lab::Lab;

type Change = fn(&mut Layout);

/// Opens the source with a changed layout, on a table with entries.
fn with_layout(lab: &Lab, change: Change) -> Result<EbpfSource, EbpfError> {
    let mut layout = Layout::of_kernel().unwrap();
    change(&mut layout);
    let folder = tempfile::tempdir().unwrap();
    let file: PathBuf = folder.path().join("layout.toml");
    std::fs::write(&file, layout.to_toml().unwrap()).unwrap();
    EbpfSource::open(EbpfConfig { layout: LayoutChoice::File(file), ..config(&[lab]) })
}

#[test]
fn a_wrong_layout_is_disproved_before_it_is_used() {
    let Some(lab) = lab("wrong") else { return };
    lab.udp().send_all(0..100);
    assert!(with_layout(&lab, |_| {}).is_ok(), "the layout of a file is as good as the kernel's");
    let changes: [(&str, Change); 9] = [
        ("tuples", |l| {
            (l.nf_conn.orig, l.nf_conn.reply) = (l.nf_conn.orig + 8, l.nf_conn.reply + 8)
        }),
        ("tuples back", |l| {
            (l.nf_conn.orig, l.nf_conn.reply) = (l.nf_conn.orig - 8, l.nf_conn.reply - 8)
        }),
        ("ext", |l| l.nf_conn.ext += 8),
        ("ext back", |l| l.nf_conn.ext -= 8),
        ("status", |l| l.nf_conn.status += 8),
        ("net", |l| l.nf_conn.net += 8),
        ("acct", |l| l.nf_ct_ext.acct += 1),
        ("tstamp", |l| l.nf_ct_ext.tstamp = l.nf_ct_ext.acct),
        ("dport", |l| l.tuple.dport -= 2),
    ];
    for (what, change) in changes {
        let Err(error) = with_layout(&lab, change) else { panic!("{what}: it was believed") };
        let refused = matches!(
            error,
            EbpfError::Disproved(_) | EbpfError::Unrecognised { .. } | EbpfError::Unproved
        );
        assert!(refused, "{what}: {error}");
        assert!(!error.to_string().contains('\n'), "{what}: {error}");
    }
}

#[test]
fn an_empty_table_proves_nothing() {
    let Some(lab) = lab("empty") else { return };
    let error = EbpfSource::open(config(&[&lab])).err().unwrap();
    assert!(matches!(error, EbpfError::Unproved), "{error}");
}
