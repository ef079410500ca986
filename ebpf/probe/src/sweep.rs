//! Reading many entries at once.

use abi::{CHUNK, Sweep};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::RawTracePointContext;

use crate::entry;

/// User space maps it: `BPF_F_MMAPABLE`.
#[map]
static SWEEP: Array<Sweep> = Array::with_max_entries(1, 1 << 10);

/// Reads the entries at the first `n` pointers, `n` being the argument.
#[raw_tracepoint]
pub fn sweep(ctx: RawTracePointContext) -> i32 {
    // SAFETY: a raw tracepoint's context is its arguments, 8 bytes each; the caller of the test
    // run gives at least one.
    let count = unsafe { *ctx.as_ptr().cast::<u64>() };
    let Some(buffer) = SWEEP.get_ptr_mut(0) else { return 0 };
    for at in 0..CHUNK {
        if at as u64 >= count {
            break;
        }
        // SAFETY: `at` is below the length of both arrays, which nobody else writes to: the node
        // waits while this runs.
        unsafe {
            let ct = (&raw const (*buffer).pointers).cast::<u64>().add(at).read();
            let to = (&raw mut (*buffer).entries).cast::<abi::Entry>().add(at);
            entry::copy(ct, to);
            (*to).flags |= entry::is_held(to);
        }
    }
    0
}
