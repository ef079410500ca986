//! `cargo +nightly fuzz run btf`: see `btf.rs` beside this folder.
#![no_main]

// The reader alone: the node around it would take the whole of its dependencies along.
#[path = "../../node/src/source/ebpf/btf.rs"]
mod btf;
#[path = "../btf.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::btf(data));
