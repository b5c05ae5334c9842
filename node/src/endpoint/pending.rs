//! Inbound connections that are still in their upgrade: how many there may be, and who goes first.
//!
//! A remote that connects and sends nothing holds a slot until its stage deadline. When slots run
//! out the oldest goes: an honest handshake takes milliseconds, so the oldest is the least likely
//! to be one.

use std::{collections::VecDeque, net::IpAddr};

use crate::manager::Network;

/// Names one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SlotId(u64);

/// The slots; `T` is what it takes to drop the work behind one.
#[derive(Debug)]
pub(super) struct Pending<T> {
    /// In the order of arrival. At most `limit` entries, so that a scan is cheap.
    slots: VecDeque<Slot<T>>,
    limit: usize,
    per_ip: usize,
    next: u64,
}

#[derive(Debug)]
struct Slot<T> {
    id: SlotId,
    /// `None` for addresses that the limit per network does not count: loopback and memory.
    network: Option<Network>,
    work: Option<T>,
}

impl<T> Pending<T> {
    pub(super) fn new(limit: usize, per_ip: usize) -> Self {
        Self {
            slots: VecDeque::new(),
            limit: limit.max(1),
            per_ip: per_ip.max(1),
            next: 0,
        }
    }

    /// Takes a slot for a connection from `ip`. The returned work, if any, lost its slot and must
    /// be dropped by the caller.
    pub(super) fn admit(&mut self, ip: Option<IpAddr>) -> (SlotId, Option<T>) {
        let network = counted(ip);
        let mut dropped = None;
        if network.is_some() && self.of(network) >= self.per_ip {
            if let Some(oldest) = self.slots.iter().position(|slot| slot.network == network) {
                dropped = self.slots.remove(oldest);
            }
        } else if self.slots.len() >= self.limit {
            dropped = self.slots.pop_front();
        }
        let id = SlotId(self.next);
        self.next += 1;
        self.slots.push_back(Slot {
            id,
            network,
            work: None,
        });
        (id, dropped.and_then(|slot| slot.work))
    }

    /// Attaches the work to its slot. Gives it back when the slot is gone already.
    pub(super) fn attach(&mut self, id: SlotId, work: T) -> Option<T> {
        match self.slots.iter_mut().find(|slot| slot.id == id) {
            Some(slot) => {
                slot.work = Some(work);
                None
            }
            None => Some(work),
        }
    }

    /// Frees a slot. `false` when it had been taken away before: the work must not go on.
    pub(super) fn finish(&mut self, id: SlotId) -> bool {
        match self.slots.iter().position(|slot| slot.id == id) {
            Some(index) => {
                self.slots.remove(index);
                true
            }
            None => false,
        }
    }

    /// Slots taken from a network.
    fn of(&self, network: Option<Network>) -> usize {
        self.slots
            .iter()
            .filter(|slot| slot.network == network)
            .count()
    }

    /// Whether more than half of the slots are taken, or half of those of this network, so that a
    /// newcomer has to prove its address where the transport can ask for that. What comes from invented
    /// addresses then leaves the other half to those who live there.
    pub(super) fn is_crowded(&self, ip: Option<IpAddr>) -> bool {
        let network = counted(ip);
        self.slots.len() * 2 > self.limit
            || network.is_some() && self.of(network) * 2 >= self.per_ip
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}

/// The network that the limit per network counts, if it does.
fn counted(ip: Option<IpAddr>) -> Option<Network> {
    ip.map(Network::of).filter(|network| !network.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }

    fn admit(pending: &mut Pending<u32>, from: Option<IpAddr>, work: u32) -> Option<u32> {
        let (id, dropped) = pending.admit(from);
        assert_eq!(pending.attach(id, work), None);
        dropped
    }

    #[test]
    fn the_oldest_goes_when_all_slots_are_taken() {
        let mut pending = Pending::new(64, 8);
        for n in 0..64 {
            assert_eq!(admit(&mut pending, ip(&format!("10.0.0.{n}")), n), None);
        }
        for n in 64..5_000 {
            let from = ip(&format!("10.1.{}.{}", n / 250, n % 250));
            assert_eq!(admit(&mut pending, from, n), Some(n - 64));
            assert_eq!(pending.len(), 64);
        }
    }

    #[test]
    fn one_address_gets_eight_and_loses_its_own_oldest() {
        let mut pending = Pending::new(64, 8);
        assert_eq!(admit(&mut pending, ip("192.0.2.7"), 1_000), None);
        for n in 0..8 {
            assert_eq!(admit(&mut pending, ip("192.0.2.9"), n), None);
        }
        assert_eq!(admit(&mut pending, ip("192.0.2.9"), 8), Some(0));
        // The same host behind a v4-mapped address.
        assert_eq!(admit(&mut pending, ip("::ffff:192.0.2.9"), 9), Some(1));
        assert_eq!(pending.len(), 9);
    }

    #[test]
    fn the_addresses_of_one_ipv6_customer_are_limited_together() {
        let mut pending = Pending::new(64, 8);
        assert_eq!(admit(&mut pending, ip("2001:db8:0:100::1"), 1_000), None);
        for n in 0..40 {
            let from = ip(&format!("2001:db8:0:{n:x}::{n:x}"));
            let dropped = (n >= 8).then(|| n - 8);
            assert_eq!(admit(&mut pending, from, n), dropped, "{from:?}");
        }
        assert_eq!(pending.len(), 9);
    }

    #[test]
    fn loopback_counts_in_total_only() {
        let mut pending = Pending::new(64, 8);
        for n in 0..40 {
            let from = if n % 2 == 0 { ip("127.0.0.1") } else { None };
            assert_eq!(admit(&mut pending, from, n), None);
        }
        assert_eq!(pending.len(), 40);
    }

    #[test]
    fn more_than_half_is_a_crowd() {
        let mut pending = Pending::new(64, 8);
        for n in 0..33 {
            assert!(!pending.is_crowded(None), "{n}");
            admit(&mut pending, None, n);
        }
        assert!(pending.is_crowded(None));
    }

    #[test]
    fn half_of_one_address_is_a_crowd_for_that_address() {
        let mut pending = Pending::new(64, 8);
        for n in 0..4 {
            assert!(!pending.is_crowded(ip("192.0.2.9")), "{n}");
            admit(&mut pending, ip("192.0.2.9"), n);
        }
        assert!(pending.is_crowded(ip("192.0.2.9")));
        assert!(!pending.is_crowded(ip("192.0.2.8")));
    }

    #[test]
    fn a_slot_is_freed_once() {
        let mut pending = Pending::new(1, 1);
        let (first, _) = pending.admit(None);
        let (second, _) = pending.admit(None);
        assert!(!pending.finish(first), "dropped for the second");
        assert_eq!(pending.attach(first, 1), Some(1));
        assert!(pending.finish(second));
        assert!(!pending.finish(second));
        assert_eq!(pending.len(), 0);
    }
}
