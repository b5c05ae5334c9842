//! Randomness and keyed hashing, both out of one seed, so that the same inputs give the same outputs.

use std::{
    hash::{BuildHasher, DefaultHasher, Hasher},
    ops::Range,
};

use barewire_base::random::Xoshiro;

/// Picks peers; nothing secret comes from it.
#[derive(Clone, Debug)]
pub(crate) struct Rng(Xoshiro);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Xoshiro::new(seed))
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0.draw()
    }

    /// A number of `range`, or its start if it is empty.
    pub(crate) fn pick(&mut self, range: Range<usize>) -> usize {
        range.start + self.0.below(range.end.saturating_sub(range.start))
    }

    /// Puts a random choice of `count` items first, in random order.
    pub(crate) fn partial_shuffle<T>(&mut self, items: &mut [T], count: usize) {
        let len = items.len();
        for at in 0..count.min(len.saturating_sub(1)) {
            let other = self.pick(at..len);
            items.swap(at, other);
        }
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        self.partial_shuffle(items, items.len());
    }
}

/// SipHash behind a secret prefix, so that a peer cannot choose keys that collide.
#[derive(Clone, Debug)]
pub(crate) struct HashKeys([u64; 4]);

/// What stands for a message id in every table of the router: two keyed hashes of it, a constant 16 bytes however long the
/// id. That two ids collide has a probability of 2⁻¹²⁸ times the number of pairs, and no peer can aim for it.
pub(crate) type IdKey = u128;

impl HashKeys {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        Self(std::array::from_fn(|_| rng.next()))
    }

    pub(crate) fn id_key(&self, id: &[u8]) -> IdKey {
        let half = |key: u64| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u64(key);
            hasher.write(id);
            hasher.finish()
        };
        u128::from(half(self.0[0])) << 64 | u128::from(half(self.0[1]))
    }

    pub(crate) const fn map(&self) -> KeyedState {
        KeyedState(self.0[2])
    }
}

/// For maps whose keys a peer chooses.
#[derive(Clone, Debug)]
pub(crate) struct KeyedState(u64);

impl BuildHasher for KeyedState {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

/// For maps keyed by [`IdKey`]: the key is a keyed hash already.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hashed;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HashedHasher(u64);

impl BuildHasher for Hashed {
    type Hasher = HashedHasher;

    fn build_hasher(&self) -> HashedHasher {
        HashedHasher(0)
    }
}

impl Hasher for HashedHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_ne_bytes(word);
        }
    }

    fn write_u128(&mut self, key: u128) {
        self.0 ^= (key >> 64) as u64 ^ key as u64;
    }

    fn write_u64(&mut self, key: u64) {
        self.0 ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_keeps_every_item_and_reaches_every_place() {
        let mut rng = Rng::new(3);
        let mut seen = [[0u32; 8]; 8];
        for _ in 0..8000 {
            let mut items: Vec<usize> = (0..8).collect();
            rng.shuffle(&mut items);
            let mut sorted = items.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..8).collect::<Vec<_>>());
            for (place, item) in items.into_iter().enumerate() {
                seen[place][item] += 1;
            }
        }
        assert!(
            seen.iter().flatten().all(|n| (800..1200).contains(n)),
            "{seen:?}"
        );
        assert_eq!(rng.pick(5..5), 5);
    }

    #[test]
    fn ids_are_hashed_with_a_secret() {
        let (a, b) = (
            HashKeys::new(&mut Rng::new(1)),
            HashKeys::new(&mut Rng::new(2)),
        );
        assert_eq!(a.id_key(b"id"), a.id_key(b"id"));
        assert_ne!(a.id_key(b"id"), a.id_key(b"ie"));
        assert_ne!(a.id_key(b"id"), b.id_key(b"id"));
    }
}
