//! What a `Welcome` means for the spool: where to go on, or why this epoch cannot.

use flow::{Seq, StoreId};
use wire::control::Welcome;
use wire::frame::Digest;

use super::core::Ended;
use super::orders::Order;
use crate::spool::{EpochView, NewEpochReason, SpoolView};

/// How a session goes on after its `Welcome`.
#[derive(Debug)]
pub(super) struct Greeted {
    /// To be done to the spool, in order.
    pub(super) orders: Vec<Order>,
    /// Sending goes on after this number; `None` where the session ends because the epoch did.
    pub(super) after: Option<Seq>,
}

/// Judges a `Welcome` against the spool as it is now.
pub(super) fn judge(
    welcome: &Welcome,
    view: &SpoolView,
    accept_new_store: bool,
) -> Result<Greeted, Ended> {
    let found = welcome.store;
    match view.store {
        Some(known) if known != found => other_store(known, found, accept_new_store),
        Some(_) => Ok(progress(welcome, &view.sending)),
        None => {
            let mut greeted = progress(welcome, &view.sending);
            greeted.orders.insert(0, Order::Remember(found));
            Ok(greeted)
        }
    }
}

fn other_store(known: StoreId, found: StoreId, accept: bool) -> Result<Greeted, Ended> {
    if !accept {
        return Err(Ended::OtherStore { known, found });
    }
    // The epoch first: a crash between the two finds the other store once more.
    let orders = vec![Order::NewEpoch(NewEpochReason::OtherStore), Order::Remember(found)];
    Ok(Greeted { orders, after: None })
}

fn progress(welcome: &Welcome, sending: &EpochView) -> Greeted {
    let committed = welcome.committed;
    let digest: Option<Digest> = welcome.committed_digest();
    let EpochView { epoch, acked, next, current, disputed } = *sending;
    if disputed {
        let reason = NewEpochReason::OtherBytes { seq: acked.next() };
        return Greeted { orders: vec![Order::Overtaken { epoch, reason }], after: None };
    }
    if committed >= next {
        // What waits was written after the rollback, perhaps under numbers that were taken then.
        let reason = NewEpochReason::RolledBack { committed, next };
        return Greeted { orders: vec![Order::Overtaken { epoch, reason }], after: None };
    }
    if committed >= acked {
        let news = (committed > acked).then_some(Order::Ack { epoch, seq: committed, digest });
        return Greeted { orders: news.into_iter().collect(), after: Some(committed) };
    }
    let forgotten = Order::Forgotten { epoch, committed };
    if current {
        let begin = Order::NewEpoch(NewEpochReason::StoreRestored { committed, acked });
        Greeted { orders: vec![begin, forgotten], after: None }
    } else {
        Greeted { orders: vec![forgotten], after: Some(committed) }
    }
}
