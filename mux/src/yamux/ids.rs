//! Which stream lives in which slot, and which of the peer's ids were used before.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::muxer::StreamIdHasher;

/// Names a stream in the session's queues: a slot may have been given to another stream meanwhile, an id never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) slot: u32,
    pub(crate) id: u32,
}

/// Live streams by id.
pub(crate) type IdMap = HashMap<u32, u32, BuildHasherDefault<StreamIdHasher>>;

/// Most ranges of skipped ids that are remembered. rust-yamux announces streams lazily and thus out of order, but
/// never has more than 256 that are not acknowledged.
const MAX_GAPS: usize = 512;

/// The ids the peer has used, as the ranges it has not used yet.
#[derive(Debug)]
pub(crate) struct UsedIds {
    /// Lowest id above all used ones; 64 bits wide, because it passes the last id by 2.
    next: u64,
    /// Ranges (first and last) below `next` that were skipped, ascending.
    gaps: Vec<(u32, u32)>,
}

impl UsedIds {
    pub(crate) fn new(first: u32) -> Self {
        Self {
            next: u64::from(first),
            gaps: Vec::new(),
        }
    }

    /// Marks an id of the peer's parity as used. False if it was used before, or was skipped too long ago.
    pub(crate) fn insert(&mut self, id: u32) -> bool {
        let wide = u64::from(id);
        if wide >= self.next {
            if wide > self.next {
                if self.gaps.len() == MAX_GAPS {
                    self.gaps.remove(0);
                }
                // `next` is at most `id` here, so it fits.
                self.gaps.push((self.next as u32, id - 2));
            }
            self.next = wide + 2;
            return true;
        }
        let at = self.gaps.partition_point(|gap| gap.1 < id);
        let Some(gap) = self.gaps.get_mut(at) else {
            return false;
        };
        let (first, last) = *gap;
        if id < first {
            return false;
        }
        match (id == first, id == last) {
            (true, true) => drop(self.gaps.remove(at)),
            (true, false) => gap.0 = id + 2,
            (false, true) => gap.1 = id - 2,
            (false, false) => {
                gap.1 = id - 2;
                if self.gaps.len() == MAX_GAPS {
                    self.gaps.remove(0);
                    self.gaps.insert(at, (id + 2, last));
                } else {
                    self.gaps.insert(at + 1, (id + 2, last));
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_id_is_taken_once(ids in proptest::collection::vec(0u32..400, 1..400)) {
            let mut used = UsedIds::new(1);
            let mut model = std::collections::HashSet::new();
            for id in ids {
                let id = 2 * id + 1;
                prop_assert_eq!(used.insert(id), model.insert(id));
            }
        }
    }

    #[test]
    fn the_last_id_and_many_gaps() {
        let mut used = UsedIds::new(2);
        assert!(used.insert(u32::MAX - 1));
        assert!(!used.insert(u32::MAX - 1));
        assert!(used.insert(2));
        assert!(!used.insert(2));
        let mut used = UsedIds::new(1);
        for n in 1..5_000u32 {
            assert!(used.insert(4 * n + 1));
        }
        assert_eq!(used.gaps.len(), MAX_GAPS);
        assert!(used.insert(4 * 4_999 - 1));
        assert!(!used.insert(3), "forgotten gaps count as used");
        let mut used = UsedIds::new(1);
        assert!(used.insert(1_000_001));
        for n in 1..1_000u32 {
            used.insert(4 * n + 1);
            assert!(used.gaps.len() <= MAX_GAPS);
        }
    }
}
