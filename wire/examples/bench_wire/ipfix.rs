//! The size of an IPFIX data record (RFC 7011 section 3.4.3) with the fields of a [`Record`].
//!
//! Fixed-length fields, each with the length of its abstract data type (RFC 7011 section 6.1),
//! no reduced-size encoding. Elements by their number in IANA's registry of IPFIX elements
//! (<https://www.iana.org/assignments/ipfix>): unsigned64 and dateTimeNanoseconds take 8 bytes,
//! ipv4Address 4, ipv6Address 16, unsigned16 2, unsigned8 1. The reverse counters are those of
//! RFC 5103: the same elements under its enterprise number 29305, which a template carries and a
//! record does not. What has no element there is enterprise-specific, with the length of the
//! kernel's own field.
//!
//! In favour of IPFIX: message, set and template headers are not counted, nor the boot id (one
//! options record can tell it), nor `biflowDirection` (239); ends have a template of their own, so
//! other records carry no stop; counter offsets are not carried at all (this traffic has none).

use flow::{Family, Record};

/// A field: name, element (`None` = enterprise-specific), bytes.
type Field = (&'static str, Option<u16>, usize);

/// What each record has, beside its addresses.
const COMMON: &[Field] = &[
    ("flowId", Some(148), 8),
    ("network namespace inode", None, 4),
    ("conntrack zone", None, 2),
    ("sourceTransportPort", Some(7), 2),
    ("destinationTransportPort", Some(11), 2),
    ("protocolIdentifier", Some(4), 1),
    ("postNAPTSourceTransportPort", Some(227), 2),
    ("postNAPTDestinationTransportPort", Some(228), 2),
    ("conntrack mark", None, 4),
    ("conntrack status", None, 2),
    ("TCP state", None, 1),
    ("record flags", None, 2),
    ("raw kernel start", None, 8),
    ("flowStartNanoseconds", Some(156), 8),
    ("flowEndNanoseconds", Some(157), 8),
    ("octetDeltaCount", Some(1), 8),
    ("packetDeltaCount", Some(2), 8),
    ("reverse octetDeltaCount", Some(1), 8),
    ("reverse packetDeltaCount", Some(2), 8),
    ("octetTotalCount", Some(85), 8),
    ("packetTotalCount", Some(86), 8),
    ("reverse octetTotalCount", Some(85), 8),
    ("reverse packetTotalCount", Some(86), 8),
];

const ADDRESSES_V4: &[Field] = &[
    ("sourceIPv4Address", Some(8), 4),
    ("destinationIPv4Address", Some(12), 4),
    ("postNATSourceIPv4Address", Some(225), 4),
    ("postNATDestinationIPv4Address", Some(226), 4),
];

const ADDRESSES_V6: &[Field] = &[
    ("sourceIPv6Address", Some(27), 16),
    ("destinationIPv6Address", Some(28), 16),
    ("postNATSourceIPv6Address", Some(281), 16),
    ("postNATDestinationIPv6Address", Some(282), 16),
];

/// What the template of ends has besides.
const STOP: &[Field] = &[("raw kernel stop", None, 8)];

/// Bytes of an IPFIX data record that says what `record` says.
pub(crate) fn record_len(record: &Record) -> usize {
    let addresses = match record.orig.family() {
        Family::V4 => ADDRESSES_V4,
        Family::V6 => ADDRESSES_V6,
    };
    let stop = if record.stop == 0 { &[] } else { STOP };
    [COMMON, addresses, stop].into_iter().flatten().map(|(_, _, bytes)| bytes).sum()
}
