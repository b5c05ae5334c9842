//! Who dials whom.

use std::str::FromStr;

use crate::{ScenarioError, rng::Rng};

/// How nodes are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Each dials others at random.
    Random,
    /// Each dials those after it: the longest ways there are.
    Ring,
    /// A ring, of whose links a tenth lead anywhere.
    SmallWorld,
    /// Eight clusters, in which each dials at random, with one link of each eighth node to anywhere.
    Clusters,
    /// Everybody is connected to everybody.
    Full,
}

impl FromStr for Topology {
    type Err = ScenarioError;

    fn from_str(text: &str) -> Result<Self, ScenarioError> {
        Ok(match text {
            "random" => Self::Random,
            "ring" => Self::Ring,
            "small-world" => Self::SmallWorld,
            "clusters" => Self::Clusters,
            "full" => Self::Full,
            _ => return Err(ScenarioError::Topology(text.to_owned())),
        })
    }
}

impl Topology {
    /// Whom each of `nodes` dials, so that it is connected to about `degree` others.
    pub(crate) fn dials(self, nodes: usize, degree: usize, rng: &mut Rng) -> Vec<Vec<u32>> {
        let half = degree.div_ceil(2).max(1);
        let mut dials: Vec<Vec<u32>> = vec![Vec::new(); nodes];
        for from in 0..nodes {
            let mut dial = |to: usize, rng: &mut Rng| {
                // One connection of each pair, whoever dialled.
                let known = |dials: &[Vec<u32>], a: usize, b: usize| dials[a].contains(&(b as u32));
                let mut to = to % nodes;
                for _ in 0..8 {
                    if to != from && !known(&dials, from, to) && !known(&dials, to, from) {
                        dials[from].push(to as u32);
                        return;
                    }
                    if self == Self::Full || self == Self::Ring {
                        return;
                    }
                    to = rng.below(nodes);
                }
            };
            match self {
                Self::Full => (from + 1..nodes).for_each(|to| dial(to, rng)),
                Self::Random => (0..half).for_each(|_| {
                    let to = rng.below(nodes);
                    dial(to, rng);
                }),
                Self::Ring => (1..=half).for_each(|step| dial(from + step, rng)),
                Self::SmallWorld => (1..=half).for_each(|step| {
                    let to = if rng.chance(0.1) {
                        rng.below(nodes)
                    } else {
                        from + step
                    };
                    dial(to, rng);
                }),
                Self::Clusters => (0..half).for_each(|link| {
                    let size = nodes.div_ceil(8).max(1);
                    let first = from / size * size;
                    let bridge = link == 0 && from % 8 == 0;
                    let to = if bridge {
                        rng.below(nodes)
                    } else {
                        first + rng.below(size.min(nodes - first))
                    };
                    dial(to, rng);
                }),
            }
        }
        dials
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_connected_and_no_pair_twice() {
        for topology in ["random", "ring", "small-world", "clusters", "full"] {
            let topology: Topology = topology.parse().unwrap();
            let dials = topology.dials(200, 20, &mut Rng::new(7));
            let mut reached = [false; 200];
            let mut front = vec![0];
            while let Some(node) = front.pop() {
                if std::mem::replace(&mut reached[node], true) {
                    continue;
                }
                front.extend(dials[node].iter().map(|to| *to as usize));
                let into = (0..200).filter(|from| dials[*from].contains(&(node as u32)));
                front.extend(into);
            }
            assert!(reached.iter().all(|r| *r), "{topology:?}");
            let mut pairs: Vec<(u32, u32)> = dials
                .iter()
                .enumerate()
                .flat_map(|(a, to)| {
                    to.iter()
                        .map(move |b| (*b.min(&(a as u32)), *b.max(&(a as u32))))
                })
                .collect();
            let count = pairs.len();
            assert!(pairs.iter().all(|(a, b)| a != b));
            pairs.sort_unstable();
            pairs.dedup();
            assert_eq!(pairs.len(), count, "{topology:?}");
            let mean = 2.0 * count as f64 / 200.0;
            assert!(
                topology == Topology::Full || (18.0..=20.0).contains(&mean),
                "{topology:?}: {mean}"
            );
        }
        assert!("star".parse::<Topology>().is_err());
    }
}
