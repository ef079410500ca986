//! `cargo +nightly fuzz run control`: see `wire.rs` beside this folder.
#![no_main]

#[path = "../wire.rs"]
#[expect(dead_code, reason = "each target uses one function of it")]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::control(data));
