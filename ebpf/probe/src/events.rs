//! Births, deaths and what was there before: records of the ring buffer.

use abi::{ADOPTED_BYTES, Event, Kind, LOSS_KINDS, READ, RING_BYTES, VERSION};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_probe_read_kernel};
use aya_ebpf::macros::{kprobe, map, raw_tracepoint};
use aya_ebpf::maps::{PerCpuArray, RingBuf};
use aya_ebpf::programs::{ProbeContext, RawTracePointContext};

use crate::entry;
use crate::layout::{
    ARGUMENTS, CT_NET, CT_STATUS, NET_INUM, ONLY_NETNS, ORIG_DIR, REPLY_DIR, SKB_NFCT, WAKE_BYTES,
};

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// What is listed has a buffer of its own: it comes in bursts of a datagram's entries, and takes
/// no room from births and deaths.
#[map]
static ADOPTED: RingBuf = RingBuf::with_byte_size(ADOPTED_BYTES, 0);

/// Records that did not fit, by kind.
#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(LOSS_KINDS, 0);

/// On `__nf_conntrack_hash_insert(struct nf_conn *, ...)`.
#[kprobe]
pub fn birth(ctx: ProbeContext) -> u32 {
    if let Some(ct) = argument(&ctx, 0) {
        tell(Kind::New, ct);
    }
    0
}

/// On `nf_ct_destroy(struct nf_conntrack *)`, the first member of `struct nf_conn`.
#[kprobe]
pub fn death(ctx: ProbeContext) -> u32 {
    if let Some(ct) = argument(&ctx, 0) {
        tell(Kind::End, ct);
    }
    0
}

/// On `ctnetlink_fill_info(skb, portid, seq, type, struct nf_conn *, ...)`. Where the compiler
/// has made a variant of the function, parameters before the entry may be gone.
#[kprobe]
pub fn adopt(ctx: ProbeContext) -> u32 {
    let told = argument(&ctx, 4).is_some_and(|ct| tell(Kind::Adopt, ct))
        || argument(&ctx, 3).is_some_and(|ct| tell(Kind::Adopt, ct));
    if !told && let Some(ct) = argument(&ctx, 2) {
        tell(Kind::Adopt, ct);
    }
    0
}

/// On `net_dev_start_xmit(struct sk_buff *, ...)`.
#[raw_tracepoint]
pub fn collect(ctx: RawTracePointContext) -> i32 {
    let skb: u64 = ctx.arg(0);
    let mut nfct = 0u64;
    let at = skb + u64::from(SKB_NFCT.load());
    // SAFETY: the place is on this program's stack; the helper checks the source.
    let failed = unsafe { bpf_probe_read_kernel((&raw mut nfct).cast(), 8, at as *const _) };
    if failed == 0 && nfct & !INFO_MASK != 0 {
        tell(Kind::Seen, nfct & !INFO_MASK);
    }
    0
}

/// An argument of the hooked function, the first one being 0.
#[inline(always)]
fn argument(ctx: &ProbeContext, number: u32) -> Option<u64> {
    let mut value = 0u64;
    let at = ctx.as_ptr() as u64 + ((ARGUMENTS.load() >> (8 * number)) & 0xff);
    // SAFETY: the place is on this program's stack; the helper checks the source, a register of
    // the machine as it was when the function was called.
    let failed = unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 8, at as *const _) };
    (failed == 0).then_some(value)
}

/// Puts a record into the ring buffer. Says whether `ct` was worth one.
#[inline(always)]
fn tell(kind: Kind, ct: u64) -> bool {
    let listed = kind as u16 == Kind::Adopt as u16;
    let ring = if listed { ADOPTED.reserve::<Event>(0) } else { EVENTS.reserve::<Event>(0) };
    let Some(mut record) = ring else {
        lose(kind);
        return true;
    };
    let event = record.as_mut_ptr();
    // SAFETY: the record is ours and large enough; every field is written or was reserved for
    // bytes that the reader takes only where `flags` says so.
    let wanted = unsafe {
        (*event).version = VERSION;
        (*event).kind = kind as u16;
        (*event).time = bpf_ktime_get_ns();
        entry::copy(ct, &raw mut (*event).entry);
        is_wanted(kind, event)
    };
    if wanted {
        // Who lists comes for what was listed without being woken.
        let wake = !listed && EVENTS.query(AVAILABLE) >= WAKE_BYTES.load();
        record.submit(if wake { FORCE_WAKEUP } else { NO_WAKEUP });
    } else {
        record.discard(NO_WAKEUP);
    }
    wanted
}

/// Whether a record is of an entry that somebody asked for; fills in its namespace.
///
/// # Safety
/// `event` is a record of ours, with a copied entry.
#[inline(always)]
unsafe fn is_wanted(kind: Kind, event: *mut Event) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let entry = &raw const (*event).entry;
        if (*entry).flags & READ == 0 {
            return false;
        }
        let status = entry::word(entry, &CT_STATUS);
        // What was never confirmed was a dropped packet. An entry is confirmed before it is
        // inserted by a packet, after it where somebody inserts it over netlink.
        let confirmed = status & CONFIRMED != 0 || kind as u16 == Kind::New as u16;
        if !confirmed || status & TEMPLATE != 0 {
            return false;
        }
        if kind as u16 == Kind::Adopt as u16
            && (entry::byte(entry, &ORIG_DIR) != 0 || entry::byte(entry, &REPLY_DIR) != 1)
        {
            return false;
        }
        let net = entry::word(entry, &CT_NET) + u64::from(NET_INUM.load());
        (*event).netns = 0;
        let place = (&raw mut (*event).netns).cast();
        let _unreadable_is_0 = bpf_probe_read_kernel(place, 4, net as *const _);
        let only = ONLY_NETNS.load();
        only == 0 || (*event).netns == only
    }
}

/// Counts a record that did not fit.
#[inline(always)]
fn lose(kind: Kind) {
    if let Some(count) = LOSSES.get_ptr_mut(kind as u32) {
        // SAFETY: an element of this CPU; a program that interrupts this one on it does not run.
        unsafe { *count += 1 };
    }
}

/// `IPS_CONFIRMED`, `IPS_TEMPLATE`.
const CONFIRMED: u64 = 1 << 3;
const TEMPLATE: u64 = 1 << 11;

/// `NFCT_INFOMASK`: what an skb's pointer to its entry carries besides.
const INFO_MASK: u64 = 7;

/// `BPF_RB_AVAIL_DATA`, `BPF_RB_NO_WAKEUP`, `BPF_RB_FORCE_WAKEUP`.
const AVAILABLE: u64 = 0;
const NO_WAKEUP: u64 = 1;
const FORCE_WAKEUP: u64 = 2;
