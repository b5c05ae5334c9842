//! Messages that peers offered and were asked for: whoever does not deliver is punished.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use crate::{
    PeerKey,
    random::{Hashed, IdKey},
};

#[derive(Debug, Default)]
pub(crate) struct Promises {
    by_id: HashMap<IdKey, Vec<PeerKey>, Hashed>,
    /// In the order in which they end, since all take the same time.
    order: VecDeque<(Instant, IdKey, PeerKey)>,
}

impl Promises {
    /// Promises remembered, kept ones included until their time.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn add(&mut self, key: IdKey, peer: PeerKey, until: Instant, max: usize) {
        if self.order.len() >= max {
            return;
        }
        let peers = self.by_id.entry(key).or_default();
        if !peers.contains(&peer) {
            peers.push(peer);
            self.order.push_back((until, key, peer));
        }
    }

    /// Somebody delivered the message, so nobody else can any more.
    #[inline]
    pub(crate) fn keep(&mut self, key: IdKey) {
        if !self.by_id.is_empty() {
            self.by_id.remove(&key);
        }
    }

    /// Calls `broken` for each promise whose time is over.
    pub(crate) fn expire(&mut self, now: Instant, mut broken: impl FnMut(PeerKey)) {
        while let Some(&(until, key, peer)) = self.order.front() {
            if until >= now {
                break;
            }
            self.order.pop_front();
            let Some(peers) = self.by_id.get_mut(&key) else {
                continue;
            };
            if let Some(at) = peers.iter().position(|p| *p == peer) {
                peers.swap_remove(at);
                broken(peer);
            }
            if peers.is_empty() {
                self.by_id.remove(&key);
            }
        }
    }
}
