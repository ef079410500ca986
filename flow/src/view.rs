//! The two views of a flow: they differ where it is translated.

use crate::tuple::Tuple;

/// The flow as it looks on the opener's side of this host: the original tuple.
#[must_use]
pub const fn inside(orig: &Tuple) -> Tuple {
    *orig
}

/// The flow as it looks on the other side of this host: the inverse of the reply tuple.
#[must_use]
pub const fn outside(reply: &Tuple) -> Tuple {
    reply.inverse()
}

/// Whether the host translates this flow.
#[must_use]
pub fn is_translated(orig: &Tuple, reply: &Tuple) -> bool {
    outside(reply) != *orig
}
