//! What a session charges to its budget.
//!
//! Four things take memory: bytes that came and were not read, bytes that were written and not sent, the streams
//! themselves, and credit that was granted beyond the 256 KiB a stream has by protocol, because it cannot be taken back. Charged is the larger of
//! the credit and the rest: those that arrive on grown credit are then paid for already, and those that an echo moves
//! from one queue to the other are charged once. The first 128 KiB of a connection are free, so that a
//! connection whose two ends read promptly neither touches the counters that all connections share nor is hurt when
//! others have used the budget up.

use barewire_base::{Budget, Reservation};

/// What a connection holds without being charged: what two turns of reading bring.
pub(crate) const FREE: usize = 128 << 10;

/// What a stream holds beside its bytes: its state here, that of its owner, and a task to serve it (an
/// estimate, rounded up).
const STREAM: usize = 2 << 10;

/// Charges are rounded up to this, so that the shared counters are touched rarely.
const STEP: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct Memory {
    budget: Budget,
    reservation: Option<Reservation>,
    /// Bytes received and not read.
    pub(crate) buffered: usize,
    /// Bytes written and not sent.
    pub(crate) queued: usize,
    streams: usize,
    /// Sum over the streams of what their windows exceed the protocol's by.
    grown: usize,
    /// A charge was refused and the pressure has not been seen to end.
    exhausted: bool,
}

impl Memory {
    pub(crate) fn new(budget: Budget) -> Self {
        Self {
            budget,
            reservation: None,
            buffered: 0,
            queued: 0,
            streams: 0,
            grown: 0,
            exhausted: false,
        }
    }

    #[inline]
    fn held(&self) -> usize {
        self.buffered + self.queued + self.streams * STREAM
    }

    #[inline]
    fn needed(&self) -> usize {
        self.grown.max(self.held().saturating_sub(FREE))
    }

    #[inline]
    fn charged(&self) -> usize {
        self.reservation.as_ref().map_or(0, Reservation::bytes)
    }

    fn charge(&mut self, more: usize) -> bool {
        match &mut self.reservation {
            Some(held) => held.grow(more).is_ok(),
            None => match self.budget.try_reserve(more) {
                Ok(held) => {
                    self.reservation = Some(held);
                    true
                }
                Err(_) => false,
            },
        }
    }

    /// Charges what has arrived or was written. False if the budget has no room for it; the caller then drops
    /// something, or takes less from now on.
    #[inline]
    pub(crate) fn settle(&mut self) -> bool {
        let (needed, charged) = (self.needed(), self.charged());
        if needed <= charged {
            return true;
        }
        let exact = needed - charged;
        if self.charge(exact.next_multiple_of(STEP)) || self.charge(exact) {
            return true;
        }
        self.exhausted = true;
        false
    }

    /// Counts a stream more. False if the budget has no room for it.
    pub(crate) fn open(&mut self) -> bool {
        self.streams += 1;
        self.settle()
    }

    /// Counts a stream less.
    pub(crate) fn forget(&mut self) {
        self.streams -= self.streams.min(1);
        self.give_back();
    }

    /// Counts bytes that are buffered no more.
    #[inline]
    pub(crate) fn release(&mut self, bytes: usize) {
        self.buffered -= bytes.min(self.buffered);
        self.give_back();
    }

    /// Counts bytes that wait to be sent no more.
    #[inline]
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.queued -= bytes.min(self.queued);
        self.give_back();
    }

    #[inline]
    fn give_back(&mut self) {
        if self.reservation.is_none() {
            return;
        }
        let needed = self.needed();
        let spare = self.charged().saturating_sub(needed);
        if needed == 0 {
            self.reservation = None;
        } else if spare >= 4 * STEP
            && let Some(held) = &mut self.reservation
        {
            held.shrink(spare);
        }
    }

    /// Charges a window's growth. False leaves everything as it was.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        self.grown += bytes;
        let (needed, charged) = (self.needed(), self.charged());
        if needed <= charged || self.charge(needed - charged) {
            return true;
        }
        self.grown -= bytes;
        false
    }

    /// Gives a window's growth back.
    pub(crate) fn ungrow(&mut self, bytes: usize) {
        self.grown -= bytes.min(self.grown);
        self.give_back();
    }

    /// Whether a charge was refused and there is no room still.
    #[inline]
    pub(crate) fn is_exhausted(&mut self) -> bool {
        if self.exhausted && self.budget.available() >= FREE {
            self.exhausted = false;
        }
        self.exhausted
    }

    /// Whether credit is to be withheld: the budget is used up, and we hold more than our free part of it.
    #[inline]
    pub(crate) fn withholds(&mut self) -> bool {
        self.is_exhausted() && self.held() > FREE
    }

    /// What growth the budget can pay for.
    pub(crate) fn available(&self) -> usize {
        self.budget.available()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_the_larger_of_buffered_and_grown() {
        let budget = Budget::root(4 << 20);
        let mut memory = Memory::new(budget.clone());
        memory.buffered = FREE;
        assert!(memory.settle());
        assert_eq!(budget.used(), 0);
        memory.buffered += 1;
        assert!(memory.settle());
        assert_eq!(budget.used(), STEP);
        assert!(memory.grow(1 << 20));
        assert_eq!(budget.used(), 1 << 20);
        memory.buffered = FREE + (1 << 20);
        assert!(memory.settle());
        assert_eq!(budget.used(), 1 << 20);
        assert!(!memory.grow(4 << 20));
        assert_eq!(budget.used(), 1 << 20);
        let others = budget.try_reserve(3 << 20).unwrap();
        memory.buffered = 8 << 20;
        assert!(!memory.settle() && memory.withholds());
        memory.release((8 << 20) - FREE);
        assert!(!memory.withholds());
        drop(others);
        memory.ungrow(1 << 20);
        assert_eq!(budget.used(), 0);
        memory.release(usize::MAX);
        assert_eq!(memory.buffered, 0);
    }

    #[test]
    fn bytes_in_either_queue_are_charged_once() {
        let budget = Budget::root(1 << 20);
        let mut memory = Memory::new(budget.clone());
        memory.buffered = FREE + STEP;
        assert!(memory.settle());
        assert_eq!(budget.used(), STEP);
        // An echo takes a chunk out of one queue and puts it into the other.
        memory.release(STEP);
        memory.queued = STEP;
        assert!(memory.settle());
        assert_eq!(budget.used(), STEP);
        let others = budget.try_reserve(budget.available()).unwrap();
        memory.queued = STEP + 1;
        assert!(!memory.settle() && memory.is_exhausted());
        memory.sent(usize::MAX);
        drop(others);
        assert!(!memory.is_exhausted());
        memory.release(usize::MAX);
        assert_eq!(budget.used(), 0);
    }
}
