//! Ids that were seen: a map and a wheel of buckets, each the ids of a sixtieth of the time for which they are remembered.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::{
    SeenStrategy,
    random::{Hashed, IdKey},
};

const BUCKETS: u32 = 60;

/// Bucket of an id that waits for its signature: it is known, but not seen yet.
const PENDING: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Seen {
    map: HashMap<IdKey, Entry, Hashed>,
    /// The newest last; its number is `newest`.
    wheel: VecDeque<Vec<IdKey>>,
    newest: u64,
    /// When the newest bucket is closed.
    closes: Instant,
    width: Duration,
    max: usize,
    strategy: SeenStrategy,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    bucket: u64,
    /// The record of the message, if it is still the record of this id.
    record: u32,
}

impl Seen {
    pub(crate) fn new(now: Instant, ttl: Duration, max: usize, strategy: SeenStrategy) -> Self {
        let width = ttl / BUCKETS;
        Self {
            map: HashMap::with_hasher(Hashed),
            wheel: VecDeque::from([Vec::new()]),
            newest: 0,
            closes: now + width,
            width,
            max,
            strategy,
        }
    }

    /// Ids remembered, those that wait for their signature included.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// The record of a known id, and whether it was seen or only waits.
    #[inline]
    pub(crate) fn find(&self, key: IdKey) -> Option<u32> {
        self.map.get(&key).map(|entry| entry.record)
    }

    pub(crate) fn insert_pending(&mut self, key: IdKey, record: u32) {
        self.map.insert(
            key,
            Entry {
                bucket: PENDING,
                record,
            },
        );
    }

    /// Marks an id as seen.
    pub(crate) fn insert(&mut self, key: IdKey, record: u32) {
        let bucket = self.newest;
        let old = self.map.insert(key, Entry { bucket, record });
        if old.is_none_or(|old| old.bucket != bucket)
            && let Some(newest) = self.wheel.back_mut()
        {
            newest.push(key);
        }
        while self.map.len() > self.max && self.drop_oldest() {}
    }

    /// Counts a further receipt.
    #[inline]
    pub(crate) fn touch(&mut self, key: IdKey) {
        if self.strategy == SeenStrategy::FirstSeen {
            return;
        }
        if let Some(entry) = self.map.get_mut(&key)
            && entry.bucket != PENDING
            && entry.bucket != self.newest
        {
            entry.bucket = self.newest;
            if let Some(newest) = self.wheel.back_mut() {
                newest.push(key);
            }
        }
    }

    /// Forgets an id.
    pub(crate) fn remove(&mut self, key: IdKey) {
        self.map.remove(&key);
    }

    /// Forgets the first id of the oldest bucket. Returns whether there was any bucket left to look in.
    fn drop_oldest(&mut self) -> bool {
        let oldest = self.newest - (self.wheel.len() as u64 - 1);
        let Some(bucket) = self.wheel.front_mut() else {
            return false;
        };
        if let Some(key) = bucket.pop() {
            if self
                .map
                .get(&key)
                .is_some_and(|entry| entry.bucket == oldest)
            {
                self.map.remove(&key);
            }
            return true;
        }
        if self.wheel.len() > 1 {
            self.wheel.pop_front();
            return true;
        }
        false
    }

    /// Forgets what is too old.
    pub(crate) fn advance(&mut self, now: Instant) {
        let mut turned = 0;
        while self.closes <= now {
            self.closes += self.width;
            self.newest += 1;
            self.wheel.push_back(Vec::new());
            turned += 1;
            while self.wheel.len() > BUCKETS as usize + 1 {
                let oldest = self.newest - (self.wheel.len() as u64 - 1);
                for key in self.wheel.pop_front().unwrap_or_default() {
                    if self
                        .map
                        .get(&key)
                        .is_some_and(|entry| entry.bucket == oldest)
                    {
                        self.map.remove(&key);
                    }
                }
            }
            if turned > BUCKETS {
                // A long sleep: everything is too old already.
                let behind = now.saturating_duration_since(self.closes).as_nanos()
                    / self.width.as_nanos().max(1);
                let behind = u32::try_from(behind).unwrap_or(u32::MAX);
                self.closes += self.width.saturating_mul(behind);
                turned = 0;
            }
        }
        if self.map.capacity() > 1024 && self.map.len() < self.map.capacity() / 8 {
            self.map.shrink_to(self.map.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(120);

    #[test]
    fn ids_are_remembered_for_the_time_and_not_much_longer() {
        let start = Instant::now();
        for strategy in [SeenStrategy::FirstSeen, SeenStrategy::LastSeen] {
            let mut seen = Seen::new(start, TTL, 1000, strategy);
            seen.insert(1, 7);
            assert_eq!(seen.find(1), Some(7));
            seen.advance(start + Duration::from_secs(60));
            seen.touch(1);
            seen.advance(start + TTL);
            assert!(seen.find(1).is_some());
            seen.advance(start + TTL + Duration::from_secs(4));
            assert_eq!(seen.find(1).is_some(), strategy == SeenStrategy::LastSeen);
            seen.advance(start + 2 * TTL);
            assert_eq!(seen.len(), 0);
            // After a long sleep the wheel still turns.
            seen.insert(2, 0);
            seen.advance(start + 1_000_000 * TTL);
            assert_eq!(seen.len(), 0);
        }
    }

    #[test]
    fn the_oldest_give_way() {
        let start = Instant::now();
        let mut seen = Seen::new(start, TTL, 100, SeenStrategy::FirstSeen);
        for key in 0..1000u128 {
            seen.advance(start + Duration::from_millis(100 * key as u64));
            seen.insert(key, 0);
            assert!(seen.len() <= 100);
        }
        assert!(seen.find(999).is_some() && seen.find(0).is_none());
        assert!((950..1000).all(|key| seen.find(key).is_some()));
    }

    #[test]
    fn what_waits_is_not_aged() {
        let start = Instant::now();
        let mut seen = Seen::new(start, TTL, 100, SeenStrategy::FirstSeen);
        seen.insert_pending(5, 1);
        seen.advance(start + 10 * TTL);
        assert_eq!(seen.find(5), Some(1));
        seen.insert(5, 1);
        seen.advance(start + 12 * TTL);
        assert_eq!(seen.find(5), None);
    }
}
