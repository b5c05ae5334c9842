//! The greatest sequence number of each author.

use std::collections::{HashMap, VecDeque};

use barewire_base::PeerId;

use crate::random::KeyedState;

#[derive(Debug)]
pub(crate) struct Seqnos {
    greatest: HashMap<PeerId, u64, KeyedState>,
    /// Authors in the order in which they became known.
    order: VecDeque<PeerId>,
    max: usize,
}

impl Seqnos {
    pub(crate) fn new(keys: KeyedState, max: usize) -> Self {
        Self {
            greatest: HashMap::with_hasher(keys),
            order: VecDeque::new(),
            max,
        }
    }

    /// Whether `seqno` is greater than every number of the author so far; it is remembered then. Of too many authors the one
    /// known for longest is forgotten.
    pub(crate) fn advance(&mut self, author: PeerId, seqno: u64) -> bool {
        if let Some(greatest) = self.greatest.get_mut(&author) {
            let greater = seqno > *greatest;
            *greatest = seqno.max(*greatest);
            return greater;
        }
        if self.order.len() >= self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.greatest.remove(&oldest);
        }
        self.order.push_back(author);
        self.greatest.insert(author, seqno);
        true
    }
}
