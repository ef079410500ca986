//! Copying one entry.

use abi::{COUNTED, Entry, HELD, READ, SPAN_MAX, STAMPED};
use aya_ebpf::Global;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

use crate::layout::{CT_EXT, CT_SPAN, CT_USE, EXT_ACCT, EXT_TSTAMP};

/// Copies the entry at `ct`. `flags` say how far it came.
///
/// The counters are read before the start stamp, and the reference count last: who finds the
/// stamp he expects and a held entry knows that the counters are that entry's, although the
/// memory is given to another entry as soon as one is destroyed.
///
/// # Safety
/// `to` points to memory of this program that is writable for an [`Entry`].
#[inline(always)]
pub unsafe fn copy(ct: u64, to: *mut Entry) {
    // SAFETY: the caller's; every place below is a field of `*to` or lies within `block`, and the
    // kernel's reading helper checks the source.
    unsafe {
        (*to).ct = ct;
        (*to).flags = 0;
        let span = CT_SPAN.load();
        if span > SPAN_MAX as u32 {
            return;
        }
        if bpf_probe_read_kernel((&raw mut (*to).block).cast(), span, ct as *const _) != 0 {
            return;
        }
        (*to).flags = READ;
        let ext = word(to, &CT_EXT);
        if ext == 0 {
            return;
        }
        let head = (&raw mut (*to).ext).cast();
        if bpf_probe_read_kernel(head, 16, ext as *const _) != 0 {
            return;
        }
        let mut flags = READ;
        let acct = extension(to, &EXT_ACCT);
        let place = (&raw mut (*to).counters).cast();
        if acct != 0 && bpf_probe_read_kernel(place, 32, (ext + acct) as *const _) == 0 {
            flags |= COUNTED;
        }
        let tstamp = extension(to, &EXT_TSTAMP);
        let place = (&raw mut (*to).start).cast();
        if tstamp != 0 && bpf_probe_read_kernel(place, 16, (ext + tstamp) as *const _) == 0 {
            flags |= STAMPED;
        }
        (*to).flags = flags;
    }
}

/// After [`copy`]: whether the entry is still referenced and has the extensions it had.
///
/// # Safety
/// As [`copy`].
#[inline(always)]
pub unsafe fn is_held(to: *const Entry) -> u32 {
    let (mut references, mut ext) = (0u32, 0u64);
    // SAFETY: both places are on this program's stack; `to` is the caller's.
    unsafe {
        let ct = (*to).ct;
        let at = ct + u64::from(CT_EXT.load());
        if bpf_probe_read_kernel((&raw mut ext).cast(), 8, at as *const _) != 0 {
            return 0;
        }
        let at = ct + u64::from(CT_USE.load());
        if bpf_probe_read_kernel((&raw mut references).cast(), 4, at as *const _) != 0 {
            return 0;
        }
        if references != 0 && ext == word(to, &CT_EXT) { HELD } else { 0 }
    }
}

/// The 8 bytes of the block at an offset; 0 where they do not lie within.
///
/// # Safety
/// As [`copy`].
#[inline(always)]
pub unsafe fn word(from: *const Entry, at: &Global<u32>) -> u64 {
    let at = at.load() as usize;
    if at > SPAN_MAX - 8 {
        return 0;
    }
    // SAFETY: the 8 bytes lie within the block.
    unsafe { (&raw const (*from).block).cast::<u8>().add(at).cast::<u64>().read_unaligned() }
}

/// The byte of the block at an offset; 0 where it does not lie within.
///
/// # Safety
/// As [`copy`].
#[inline(always)]
pub unsafe fn byte(from: *const Entry, at: &Global<u32>) -> u8 {
    let at = at.load() as usize;
    if at > SPAN_MAX - 1 {
        return 0;
    }
    // SAFETY: the byte lies within the block.
    unsafe { (&raw const (*from).block).cast::<u8>().add(at).read() }
}

/// How far into its extensions an entry has the one with this index; 0 where it has it not.
#[inline(always)]
unsafe fn extension(from: *const Entry, index: &Global<u32>) -> u64 {
    let index = index.load() as usize;
    if index > 15 {
        return 0;
    }
    // SAFETY: the byte lies within `ext`.
    u64::from(unsafe { (&raw const (*from).ext).cast::<u8>().add(index).read() })
}
