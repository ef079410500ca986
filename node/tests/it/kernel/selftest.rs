//! `conntracct-node test` with the eBPF source.

use super::lab;

#[test]
fn the_shipped_self_test_passes_with_ebpf_and_chooses_it() {
    // For its reasons to be skipped.
    if lab("selftest").is_none() {
        return;
    }
    for source in ["ebpf", "auto"] {
        let arguments = ["test", "--source", source, "--json"];
        let (status, printed, said) = crate::selftest::program(&arguments);
        println!("{printed}{said}");
        assert_eq!(status, Some(0));
        let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
        assert_eq!((&report["source"], &report["failed"]), (&"ebpf".into(), &0.into()));
        assert_eq!(report["passed"], 17, "Debian's kernels have all that the checks need");
    }
}
