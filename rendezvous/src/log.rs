//! Registrations in the order in which they came, so that a cookie is a number in that order.

use std::collections::VecDeque;

/// What is gone.
const DEAD: u32 = u32::MAX;
/// So few dead entries are not worth moving the others.
const FEW: usize = 32;

/// Numbers of registrations in ascending order. Adding and removing takes constant time, on average over the
/// calls; an entry is found by the place that [`push`](Self::push) returned.
#[derive(Debug, Default)]
pub(crate) struct Log {
    entries: VecDeque<(u64, u32)>,
    /// Place of the first entry.
    first: u64,
    dead: usize,
}

impl Log {
    /// Adds a registration whose number is greater than all before. Returns its place.
    pub(crate) fn push(&mut self, number: u64, slot: u32) -> u64 {
        self.entries.push_back((number, slot));
        self.first + self.entries.len() as u64 - 1
    }

    /// Removes what is at a place. Returns whether the others should be [moved](Self::compact) together.
    pub(crate) fn remove(&mut self, place: u64) -> bool {
        let entry = usize::try_from(place.wrapping_sub(self.first))
            .ok()
            .and_then(|index| self.entries.get_mut(index));
        if let Some(entry) = entry.filter(|entry| entry.1 != DEAD) {
            entry.1 = DEAD;
            self.dead += 1;
        }
        while self.entries.front().is_some_and(|entry| entry.1 == DEAD) {
            self.entries.pop_front();
            self.first += 1;
            self.dead -= 1;
        }
        self.dead > self.entries.len() / 2 + FEW
    }

    /// Drops the dead and tells each other entry's new place.
    pub(crate) fn compact(&mut self, mut moved: impl FnMut(u32, u64)) {
        self.entries.retain(|entry| entry.1 != DEAD);
        self.entries.shrink_to(self.entries.len() * 2);
        self.dead = 0;
        for (index, (_, slot)) in self.entries.iter().enumerate() {
            moved(*slot, self.first + index as u64);
        }
    }

    /// Registrations with a number greater than this, in order.
    pub(crate) fn after(&self, number: u64) -> impl Iterator<Item = (u64, u32)> {
        let begin = self.entries.partition_point(|entry| entry.0 <= number);
        let rest = self.entries.range(begin..).copied();
        rest.filter(|entry| entry.1 != DEAD)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.dead
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.len() == self.dead
    }
}
