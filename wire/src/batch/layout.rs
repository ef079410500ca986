//! The columns of version 1, and the shape bits of a class.
//!
//! Tags are frozen. A new field takes a new tag, which older readers skip.

use flow::Interval;

use super::column::Tag;

/// Namespaces of the batch: inode, and the boot's halves (big endian).
pub(super) const NETNS_INODE: Tag = Tag(1);
pub(super) const NETNS_BOOT: [Tag; 2] = [Tag(2), Tag(3)];

/// Classes of the batch: index of the namespace, then the fields that a class fixes.
pub(super) const CLASS_NETNS: Tag = Tag(4);
pub(super) const CLASS_ZONE: Tag = Tag(5);
pub(super) const CLASS_PROTO: Tag = Tag(6);
pub(super) const CLASS_TCP: Tag = Tag(7);
pub(super) const CLASS_STATUS: Tag = Tag(8);
pub(super) const CLASS_FLAGS: Tag = Tag(9);
pub(super) const CLASS_SHAPE: Tag = Tag(10);

/// Addresses of the batch in order of first use: IPv4 as a number, IPv6 in halves (big endian).
pub(super) const V4: Tag = Tag(11);
pub(super) const V6: [Tag; 2] = [Tag(12), Tag(13)];

/// One value a record: index of its class.
pub(super) const CLASS: Tag = Tag(16);
/// One value a record: flow number.
pub(super) const FLOW: Tag = Tag(17);
/// One value a record: addresses of the original tuple; 0 = the next one of its family's
/// dictionary that was not used yet, else index + 1.
pub(super) const SRC: Tag = Tag(18);
pub(super) const DST: Tag = Tag(19);
/// The reply tuple's addresses where the shape says so, coded as above. Within a record the
/// order of first use is source, destination, reply source, reply destination.
pub(super) const REPLY_SRC: Tag = Tag(20);
pub(super) const REPLY_DST: Tag = Tag(21);
/// One value a record: the original tuple's 16-bit parts.
pub(super) const SPORT: Tag = Tag(22);
pub(super) const DPORT: Tag = Tag(23);
/// The reply tuple's 16-bit parts where the shape says so.
pub(super) const REPLY_SPORT: Tag = Tag(24);
pub(super) const REPLY_DPORT: Tag = Tag(25);
/// Raw starts of the records whose shape does not say [`SHAPE_ID`].
pub(super) const START: Tag = Tag(26);
/// Kernel ids of the records whose shape says [`SHAPE_ID`].
pub(super) const KERNEL_ID: Tag = Tag(27);
/// One value a record.
pub(super) const MARK: Tag = Tag(28);
/// One bit a record: whether `since` is told by its distance to the record's own start.
pub(super) const SINCE_OWN: Tag = Tag(29);
/// One value a record, zigzag: where [`SINCE_OWN`], `since` less (start less the header's wall
/// clock plus its boottime); else `since` less the last one told this way, at first less the
/// header's begin of the sweep.
pub(super) const SINCE: Tag = Tag(30);
/// One value a record.
pub(super) const UNTIL: Tag = Tag(31);
/// One value a record each: packets and bytes of the original, then of the reply direction.
pub(super) const DELTA: [Tag; 4] = [Tag(32), Tag(33), Tag(34), Tag(35)];
/// `cum` less `delta`, wrapping.
pub(super) const BASE: [Tag; 4] = [Tag(36), Tag(37), Tag(38), Tag(39)];
/// Counter offsets where the shape says so.
pub(super) const OFFSET: [Tag; 4] = [Tag(40), Tag(41), Tag(42), Tag(43)];
/// Raw stops where the shape says so, zigzag: less (`until` plus the header's wall clock less
/// its boottime).
pub(super) const STOP: Tag = Tag(44);

/// All addresses are IPv6.
pub(super) const SHAPE_V6: u8 = 1 << 0;
/// Born with a kernel id instead of a start.
pub(super) const SHAPE_ID: u8 = 1 << 1;
/// The reply tuple's source is not the original destination; then likewise.
pub(super) const SHAPE_REPLY_SRC: u8 = 1 << 2;
pub(super) const SHAPE_REPLY_DST: u8 = 1 << 3;
pub(super) const SHAPE_REPLY_SPORT: u8 = 1 << 4;
pub(super) const SHAPE_REPLY_DPORT: u8 = 1 << 5;
/// Its counter offset is not zero.
pub(super) const SHAPE_OFFSET: u8 = 1 << 6;
/// Its stop is not zero.
pub(super) const SHAPE_STOP: u8 = 1 << 7;

/// Bytes that all decoded columns of a record take at most, before they become records: 12
/// counters, flow, start, since, its mode, until, stop, 4 addresses with their dictionaries, 4
/// ports, mark, id, class and its 7 fields, a namespace, and the planes being put together.
pub(super) const DECODED_BYTES_PER_RECORD: usize =
    12 * 8 + 6 * 8 + 4 * (4 + 4 + 16) + 4 * 2 + 4 + 4 + 4 + 24 + 24 + 4 * 8;

/// The header's wall clock less its boottime, as a wrapping number of nanoseconds: where times
/// of one clock are expected by the other.
pub(super) const fn wall_less_boot(interval: &Interval) -> u64 {
    interval.clock.wall.0.cast_unsigned().wrapping_sub(interval.clock.boot.0)
}
