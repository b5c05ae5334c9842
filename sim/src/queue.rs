//! What will happen, in the order of time.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BinaryHeap},
};

/// Microseconds of a slot, as a power of two: about a millisecond.
const SHIFT: u32 = 10;
/// Slots of the wheel: four seconds, so that frames and heartbeats stay on it.
const SLOTS: usize = 4096;

/// A wheel of slots. Only what happens within the present slot is sorted; the rest is appended to the slot of its time, so that
/// an event costs two moves however many wait. Events of the same time happen in the order in which they were added.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    current: BinaryHeap<Entry<T>>,
    slot: u64,
    wheel: Vec<Vec<Entry<T>>>,
    /// Beyond the wheel, by slot.
    far: BTreeMap<u64, Vec<Entry<T>>>,
    added: u64,
    len: usize,
}

#[derive(Debug)]
struct Entry<T> {
    at: u64,
    order: u64,
    item: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    /// The earliest is the greatest, since a heap gives that first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self {
            current: BinaryHeap::new(),
            slot: 0,
            wheel: (0..SLOTS).map(|_| Vec::new()).collect(),
            far: BTreeMap::new(),
            added: 0,
            len: 0,
        }
    }

    /// Adds what happens at `at`, in microseconds; at once if that is past.
    pub(crate) fn push(&mut self, at: u64, item: T) {
        let entry = Entry {
            at,
            order: self.added,
            item,
        };
        self.added += 1;
        self.len += 1;
        let slot = at >> SHIFT;
        if slot <= self.slot {
            self.current.push(entry);
        } else if slot < self.slot + SLOTS as u64 {
            self.wheel[slot as usize % SLOTS].push(entry);
        } else {
            self.far.entry(slot).or_default().push(entry);
        }
    }

    /// What happens next, and when, if that is not after `until`.
    pub(crate) fn pop(&mut self, until: u64) -> Option<(u64, T)> {
        while self.len > 0 {
            if let Some(first) = self.current.peek() {
                if first.at > until {
                    return None;
                }
                self.len -= 1;
                return self.current.pop().map(|entry| (entry.at, entry.item));
            }
            if self.slot >= until >> SHIFT {
                return None;
            }
            self.slot += 1;
            let mut next = std::mem::take(&mut self.current).into_vec();
            std::mem::swap(&mut next, &mut self.wheel[self.slot as usize % SLOTS]);
            if self
                .far
                .first_key_value()
                .is_some_and(|(slot, _)| *slot == self.slot)
                && let Some((_, far)) = self.far.pop_first()
            {
                next.extend(far);
            }
            self.current = next.into();
        }
        None
    }

    /// Events added so far.
    pub(crate) const fn added(&self) -> u64 {
        self.added
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rng::Rng;

    #[test]
    fn it_gives_what_a_sorted_list_would() {
        let mut rng = Rng::new(1);
        let (mut queue, mut list) = (Queue::new(), BTreeSet::new());
        let mut now = 0;
        for number in 0..20_000u64 {
            // Within the slot, on the wheel and beyond it; and now and then in the past.
            let spread = [100, 5_000, 1_000_000, 30_000_000][number as usize % 4];
            let at = (now + rng.below(spread) as u64).saturating_sub(50);
            queue.push(at, number);
            list.insert((at, number));
            if rng.chance(0.9) {
                let until = now + rng.below(3_000) as u64;
                let expected = list.first().copied().filter(|(at, _)| *at <= until);
                assert_eq!(queue.pop(until), expected);
                if expected.is_some() {
                    list.pop_first();
                }
                now = expected.map_or(until, |(at, _)| now.max(at));
            }
        }
        for expected in list {
            assert_eq!(queue.pop(u64::MAX), Some(expected));
        }
        assert_eq!(queue.pop(u64::MAX), None);
    }
}
