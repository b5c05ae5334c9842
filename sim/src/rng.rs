//! Randomness out of a seed, the same on every machine and with every version of every library.

use barewire_base::random::Xoshiro;

/// What a simulation draws.
#[derive(Clone, Debug)]
pub(crate) struct Rng(Xoshiro);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Xoshiro::new(seed))
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0.draw()
    }

    /// A number below `bound`; 0 if that is 0.
    pub(crate) const fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound)
    }

    /// A number in `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Whether something of this probability happens. Draws nothing where nothing is to be decided.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.unit() < probability
    }

    /// Time until the next of events that happen at random, `mean` apart.
    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// `count` different numbers below `bound`, fewer if there are not as many.
    pub(crate) fn choose(&mut self, bound: usize, count: usize) -> Vec<usize> {
        let count = count.min(bound);
        if count * 4 < bound {
            let mut chosen = Vec::with_capacity(count);
            while chosen.len() < count {
                let next = self.below(bound);
                if !chosen.contains(&next) {
                    chosen.push(next);
                }
            }
            return chosen;
        }
        let mut all: Vec<usize> = (0..bound).collect();
        for at in 0..count {
            let other = at + self.below(bound - at);
            all.swap(at, other);
        }
        all.truncate(count);
        all
    }
}
