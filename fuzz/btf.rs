//! What the fuzz target of the node's BTF reader does with its input. The same function replays the
//! committed corpus as a test of the crate `conntracct-node`.
//!
//! It asserts more than "no panic": what was found lies where the reader's own smaller questions say.

use super::btf::{Btf, BtfError};

/// The input is the length of a base (two bytes, little-endian), the base, and, where anything is
/// left, a module's part that stands on it.
pub(crate) fn btf(data: &[u8]) {
    let Some((length, rest)) = data.split_first_chunk() else { return };
    let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (base, split) = rest.split_at(length);
    let split = Some(split).filter(|split| !split.is_empty());
    let Ok(whole) = Btf::parse(base, split) else { return };
    assert!(Btf::parse(base, None).is_ok(), "a base stands by itself");
    for (name, path) in QUESTIONS {
        match whole.member(name, path) {
            Ok(place) => {
                let begin = whole.structure(name);
                assert!(begin.is_ok(), "a member of a structure that is not there");
                // Whatever it is, asking for its size and elements ends.
                let _unsound = whole.size(place.kind);
                let _unsound = whole.array(place.kind);
                nested(&whole, name, path, place.at);
            }
            Err(BtfError::Header | BtfError::Kind { .. }) => {
                unreachable!("what was parsed is whole")
            }
            Err(_not_there) => {}
        }
        let _not_there = whole.structure(name).and_then(|id| whole.size(id));
    }
    let _not_there = whole.enumerator("nf_ct_ext_id", "NF_CT_EXT_ACCT");
}

/// A place within a member lies behind the member's begin.
fn nested(whole: &Btf<'_>, name: &str, path: &str, at: u32) {
    if let Some((outer, _)) = path.rsplit_once('.')
        && let Ok(outer) = whole.member(name, outer)
    {
        assert!(at >= outer.at, "{path} lies before what it is in");
    }
}

/// What the layout asks for, and an array of arrays.
const QUESTIONS: [(&str, &str); 7] = [
    ("nf_conn", "status"),
    ("nf_conn", "tuplehash[1].tuple"),
    ("nf_conn", "proto.tcp.seen[1].flags"),
    ("nf_conntrack_tuple", "dst.u3"),
    ("nf_ct_ext", "offset"),
    ("net", "ns.inum"),
    ("sk_buff", "_nfct"),
];
