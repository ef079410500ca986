//! Where things lie in the running kernel's structures: read-only numbers that the loader sets
//! before it loads. Offsets in bytes; the defaults are those of no kernel.

use aya_ebpf::Global;

/// How much of a `struct nf_conn` is copied.
#[unsafe(no_mangle)]
pub static CT_SPAN: Global<u32> = Global::new(0);

/// `nf_conn.ct_general.use`.
#[unsafe(no_mangle)]
pub static CT_USE: Global<u32> = Global::new(0);

/// `nf_conn.status`.
#[unsafe(no_mangle)]
pub static CT_STATUS: Global<u32> = Global::new(0);

/// `nf_conn.ct_net.net`.
#[unsafe(no_mangle)]
pub static CT_NET: Global<u32> = Global::new(0);

/// `nf_conn.ext`.
#[unsafe(no_mangle)]
pub static CT_EXT: Global<u32> = Global::new(0);

/// `dst.dir` of the original tuple, in `struct nf_conn`.
#[unsafe(no_mangle)]
pub static ORIG_DIR: Global<u32> = Global::new(0);

/// `dst.dir` of the reply tuple, in `struct nf_conn`.
#[unsafe(no_mangle)]
pub static REPLY_DIR: Global<u32> = Global::new(0);

/// `nf_ct_ext.offset[NF_CT_EXT_ACCT]`.
#[unsafe(no_mangle)]
pub static EXT_ACCT: Global<u32> = Global::new(0);

/// `nf_ct_ext.offset[NF_CT_EXT_TSTAMP]`.
#[unsafe(no_mangle)]
pub static EXT_TSTAMP: Global<u32> = Global::new(0);

/// `net.ns.inum`.
#[unsafe(no_mangle)]
pub static NET_INUM: Global<u32> = Global::new(0);

/// `sk_buff._nfct`, for `collect`.
#[unsafe(no_mangle)]
pub static SKB_NFCT: Global<u32> = Global::new(0);

/// Where the machine keeps the arguments of a hooked function, in `struct pt_regs`: a byte for
/// each, the first one lowest. So the programs are the same on every machine.
#[unsafe(no_mangle)]
pub static ARGUMENTS: Global<u64> = Global::new(0);

/// Only entries of the namespace with this inode are told of; of all where 0.
#[unsafe(no_mangle)]
pub static ONLY_NETNS: Global<u32> = Global::new(0);

/// The reader is woken once this many bytes wait in the ring buffer; until then it comes by
/// itself.
#[unsafe(no_mangle)]
pub static WAKE_BYTES: Global<u64> = Global::new(0);
