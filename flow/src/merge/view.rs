//! View keys: by what the entries of different hosts are known to belong to one flow.
//!
//! An entry has two views of its flow, [`view::inside`](crate::view::inside) and
//! [`view::outside`](crate::view::outside); they differ where the host translates. Two entries
//! that share a view, in one address domain, may be one flow. A view does not say in which
//! direction the entry was opened: a host that picks a connection up in the middle may have it
//! the wrong way round.

use std::net::IpAddr;

use crate::tuple::{Proto, Tuple};

/// One host's network namespace, by a number of the caller's. Nothing of one observer is ever
/// hidden by another entry of it with the same views.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Observer(pub u32);

/// A set of networks in which an address means one host: the aggregator's configuration, never on
/// the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(pub u32);

/// Who shares a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All observers of a domain.
    Domain(Domain),
    /// One observer alone: its addresses mean something else elsewhere.
    Observer(Observer),
}

/// A flow as it looks in one place, whichever way it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ViewKey {
    scope: Scope,
    proto: Proto,
    low: End,
    high: End,
    /// ICMP: the smaller of a type and its answer's, and the code.
    kind: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct End {
    address: IpAddr,
    port: u16,
}

/// A view key, and which way the entry's tuple runs along it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The key.
    pub key: ViewKey,
    /// The tuple runs from the larger end to the smaller one.
    pub backward: bool,
}

impl View {
    /// The view `tuple` gives of its flow among those who share `scope`.
    #[must_use]
    pub fn of(scope: Scope, tuple: &Tuple) -> Self {
        let Tuple { src, dst, sport, dport, proto } = *tuple;
        let (from, to, kind, answers) = if proto.is_icmp() {
            // The id belongs to neither end; a type and its answer are one flow.
            let inverse = tuple.inverse();
            let (from, to) = (End { address: src, port: sport }, End { address: dst, port: sport });
            (from, to, dport.min(inverse.dport), dport > inverse.dport)
        } else {
            let (from, to) = (End { address: src, port: sport }, End { address: dst, port: dport });
            (from, to, 0, false)
        };
        let (low, high) = (from.min(to), from.max(to));
        // Between equal ends only the ICMP type tells the directions apart.
        let backward = if from == to { answers } else { from > to };
        Self { key: ViewKey { scope, proto, low, high, kind }, backward }
    }
}

/// Both views of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Views {
    /// On the opener's side of the host.
    pub inside: View,
    /// On the other side.
    pub outside: View,
}

impl Views {
    /// Whether the host translates the flow, or is where two domains meet.
    #[must_use]
    pub fn differ(&self) -> bool {
        self.inside.key != self.outside.key
    }

    /// The view with this key, if the entry has it.
    #[must_use]
    pub fn with(&self, key: &ViewKey) -> Option<View> {
        [self.inside, self.outside].into_iter().find(|view| view.key == *key)
    }

    /// One view, or both where they differ.
    pub fn iter(&self) -> impl Iterator<Item = View> + use<> {
        let second = self.differ().then_some(self.outside);
        std::iter::once(self.inside).chain(second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Scope = Scope::Domain(Domain(0));

    fn tcp(src: &str, dst: &str) -> Tuple {
        Tuple::ports(Proto::TCP, src.parse().unwrap(), dst.parse().unwrap())
    }

    #[test]
    fn both_directions_are_one_key() {
        let there = tcp("10.0.0.1:4000", "192.0.2.1:443");
        let (a, b) = (View::of(HERE, &there), View::of(HERE, &there.inverse()));
        assert_eq!(a.key, b.key);
        assert_ne!(a.backward, b.backward);
        let elsewhere = View::of(Scope::Observer(Observer(7)), &there);
        assert_ne!(a.key, elsewhere.key);
        let udp = View::of(HERE, &Tuple { proto: Proto::UDP, ..there });
        assert_ne!(a.key, udp.key);
    }

    #[test]
    fn a_ping_and_its_answer_are_one_key_and_other_questions_are_not() {
        let (a, b) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let ping = Tuple::icmp(Proto::ICMP, a, b, 7, 8, 0);
        let (there, back) = (View::of(HERE, &ping), View::of(HERE, &ping.inverse()));
        assert_eq!(there.key, back.key);
        assert_ne!(there.backward, back.backward);
        let stamp = Tuple::icmp(Proto::ICMP, a, b, 7, 13, 0);
        assert_ne!(View::of(HERE, &stamp).key, there.key);
        let to_itself = Tuple::icmp(Proto::ICMP, a, a, 7, 8, 0);
        let (there, back) = (View::of(HERE, &to_itself), View::of(HERE, &to_itself.inverse()));
        assert_eq!(there.key, back.key);
        assert_ne!(there.backward, back.backward);
    }

    #[test]
    fn two_views_are_listed_where_they_differ() {
        let view = |source: &str| View::of(HERE, &tcp(source, "192.0.2.1:443"));
        let (inside, outside) = (view("10.0.0.1:4000"), view("198.51.100.1:4000"));
        assert_eq!(Views { inside, outside }.iter().count(), 2);
        assert_eq!(Views { inside, outside: inside }.iter().count(), 1);
    }
}
