//! The kernel side of the eBPF source. Four programs, none of which runs for a packet of a known
//! flow:
//!
//! - `birth`: kprobe on the function that inserts an entry, once a flow;
//! - `death`: kprobe on the function that destroys one, once a flow;
//! - `adopt`: kprobe on the function that lists one over netlink, attached while the node lists
//!   what was there before it;
//! - `sweep`: attached to nothing; the node runs it with `BPF_PROG_TEST_RUN` to read many entries.
//!
//! `collect` finds entries to benchmark the sweep with where kprobes are missing; the node never
//! loads it.
//!
//! Everything is copied, nothing understood: see the crate `abi`. The loader sets the globals
//! from the running kernel's type information.

#![no_std]
#![no_main]

mod entry;
mod events;
mod layout;
mod sweep;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the verifier accepts no program in which this can be reached.
    unsafe { core::hint::unreachable_unchecked() }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
