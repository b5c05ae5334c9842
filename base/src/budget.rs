//! A tree of memory budgets: node ≥ peer ≥ connection ≥ stream.
//!
//! A reservation is charged to its budget and to every budget above it, all or none, before the
//! memory is allocated, and is given back when it is dropped.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::Fault;

/// One node of the tree; clones share it. Lock-free.
///
/// Two threads racing for the last bytes may both be refused, because each holds its share below
/// while it asks above. No limit is ever exceeded.
#[derive(Clone)]
pub struct Budget {
    node: Arc<Node>,
}

struct Node {
    limit: usize,
    used: AtomicUsize,
    parent: Option<Budget>,
}

/// A budget of the path to the root had no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{requested} bytes do not fit the memory budget: {used} of {limit} are in use")]
#[non_exhaustive]
pub struct BudgetExceeded {
    /// Bytes asked for.
    pub requested: usize,
    /// Bytes in use in the budget that refused.
    pub used: usize,
    /// Limit in bytes of the budget that refused.
    pub limit: usize,
}

impl BudgetExceeded {
    /// Always [`Fault::Limit`].
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Limit
    }
}

impl Budget {
    /// A tree's root that grants up to `limit` bytes in all.
    #[must_use]
    pub fn root(limit: usize) -> Self {
        Self::node(limit, None)
    }

    /// A root that refuses nothing but still counts.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::root(usize::MAX)
    }

    /// A budget below this one: what it grants is charged here and above as well. Its limit may
    /// exceed this one's, which then decides.
    #[must_use]
    pub fn child(&self, limit: usize) -> Self {
        Self::node(limit, Some(self.clone()))
    }

    fn node(limit: usize, parent: Option<Self>) -> Self {
        Self {
            node: Arc::new(Node {
                limit,
                used: AtomicUsize::new(0),
                parent,
            }),
        }
    }

    /// Charges `bytes` here and to every ancestor, or to none. Zero bytes always succeed; the
    /// reservation may [`grow`](Reservation::grow) later.
    ///
    /// # Errors
    /// [`BudgetExceeded`] of the first budget, going up, without room.
    pub fn try_reserve(&self, bytes: usize) -> Result<Reservation, BudgetExceeded> {
        self.charge(bytes)?;
        Ok(Reservation {
            budget: self.clone(),
            bytes,
        })
    }

    /// Bytes charged to this budget, by itself and by those below it.
    #[must_use]
    pub fn used(&self) -> usize {
        self.node.used.load(Ordering::Relaxed)
    }

    /// Limit of this budget in bytes.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.node.limit
    }

    /// Whether anybody else holds this budget: a clone, a budget below it, or a reservation.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.node) > 1
    }

    /// Bytes that could be reserved now: the least of what is left here and in every ancestor.
    #[must_use]
    pub fn available(&self) -> usize {
        let mut least = usize::MAX;
        let mut next = Some(self);
        while let Some(budget) = next {
            least = least.min(budget.limit() - budget.used());
            next = budget.node.parent.as_ref();
        }
        least
    }

    fn charge(&self, bytes: usize) -> Result<(), BudgetExceeded> {
        let mut next = Some(self);
        while let Some(budget) = next {
            if let Err(refusal) = budget.node.add(bytes) {
                self.refund_below(bytes, Some(budget));
                return Err(refusal);
            }
            next = budget.node.parent.as_ref();
        }
        Ok(())
    }

    fn refund(&self, bytes: usize) {
        self.refund_below(bytes, None);
    }

    /// Takes `bytes` back from this budget and its ancestors up to, not including, `end`.
    fn refund_below(&self, bytes: usize, end: Option<&Self>) {
        let mut next = Some(self);
        while let Some(budget) = next {
            if end.is_some_and(|end| Arc::ptr_eq(&end.node, &budget.node)) {
                return;
            }
            // Relaxed: the counter orders no other memory.
            budget.node.used.fetch_sub(bytes, Ordering::Relaxed);
            next = budget.node.parent.as_ref();
        }
    }
}

impl Node {
    fn add(&self, bytes: usize) -> Result<(), BudgetExceeded> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|total| *total <= self.limit)
            })
            .map(drop)
            .map_err(|used| BudgetExceeded {
                requested: bytes,
                used,
                limit: self.limit,
            })
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("used", &self.used())
            .field("limit", &self.limit())
            .finish()
    }
}

/// Bytes taken from a [`Budget`]; dropping it gives them back.
#[derive(Debug)]
#[must_use = "the bytes are given back when the reservation is dropped"]
pub struct Reservation {
    budget: Budget,
    bytes: usize,
}

impl Reservation {
    /// Bytes held.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes `bytes` more, or nothing.
    ///
    /// # Errors
    /// [`BudgetExceeded`]; what was held before stays held.
    pub fn grow(&mut self, bytes: usize) -> Result<(), BudgetExceeded> {
        self.budget.charge(bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Gives `bytes` back, at most all that are held.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.refund(bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.refund(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn charges_every_ancestor_or_none() {
        let root = Budget::root(100);
        let peer = root.child(80);
        let stream = peer.child(1000);
        let held = stream.try_reserve(50).unwrap();
        assert_eq!((root.used(), peer.used(), stream.used()), (50, 50, 50));
        assert_eq!(stream.available(), 30);
        let refusal = stream.try_reserve(31).unwrap_err();
        assert_eq!(
            (refusal.limit, refusal.used, refusal.requested),
            (80, 50, 31)
        );
        assert_eq!((root.used(), peer.used(), stream.used()), (50, 50, 50));
        let sibling = root.try_reserve(45).unwrap();
        assert_eq!(stream.try_reserve(6).unwrap_err().limit, 100);
        assert_eq!((root.used(), peer.used(), stream.used()), (95, 50, 50));
        drop(sibling);
        drop(held);
        assert_eq!((root.used(), peer.used(), stream.used()), (0, 0, 0));
    }

    #[test]
    fn whoever_can_still_charge_a_budget_shares_it() {
        let budget = Budget::root(10);
        assert!(!budget.is_shared());
        let held = budget.child(1).try_reserve(0).unwrap();
        assert!(budget.is_shared());
        drop(held);
        let clone = budget.clone();
        assert!(budget.is_shared());
        drop(clone);
        assert!(!budget.is_shared());
    }

    #[test]
    fn grow_and_shrink() {
        let root = Budget::root(10);
        let mut held = root.try_reserve(0).unwrap();
        held.grow(10).unwrap();
        assert!(held.grow(1).is_err());
        assert_eq!(held.bytes(), 10);
        held.shrink(4);
        assert_eq!(root.used(), 6);
        held.shrink(usize::MAX);
        assert_eq!((root.used(), held.bytes()), (0, 0));
        drop(held);
        assert_eq!(root.used(), 0);
    }

    #[test]
    fn no_request_overflows() {
        let root = Budget::unlimited();
        let _held = root.try_reserve(usize::MAX).unwrap();
        assert!(root.try_reserve(1).is_err());
        assert_eq!(root.available(), 0);
    }

    #[test]
    fn threads_never_exceed_the_limit_and_leak_nothing() {
        let root = Budget::root(1000);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let child = root.child(700);
                scope.spawn(move || {
                    for round in 0..20_000usize {
                        let bytes = (round * 7 + thread * 13) % 400;
                        if let Ok(mut held) = child.try_reserve(bytes) {
                            let _ = held.grow(round % 50);
                            held.shrink(round % 30);
                        }
                    }
                    assert_eq!(child.used(), 0);
                });
            }
        });
        assert_eq!(root.used(), 0);
    }
}
