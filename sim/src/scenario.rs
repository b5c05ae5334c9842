//! What is simulated.

use std::time::Duration;

use barewire_base::Fault;
use barewire_gossip::{Config, ConfigError};

use crate::{Latency, Topology};

/// A network, what is published in it, and what is done to it. Change fields of the default.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Scenario {
    /// Everything random follows from it.
    pub seed: u64,
    /// Honest nodes. 100; at most 1,000,000 with the sybils.
    pub nodes: usize,
    /// Who dials whom. Random.
    pub topology: Topology,
    /// Honest nodes that each is connected to. 20, as in the evaluation report of gossipsub 1.1.
    pub degree: usize,
    /// Time of the way between nodes. [`Latency::Geographic`].
    pub latency: Latency,
    /// Bits a second that each node sends, and receives, at most; `None` for no bound, in which case only latency counts.
    pub bandwidth: Option<u64>,
    /// Share of packets that are lost and sent again, from 0 to 0.5.
    pub loss: f64,
    /// Parameters of all routers. Signatures and message ids are the simulator's.
    pub router: Config,
    /// Nodes that publish, in turns; they are the first. All, if 0.
    pub publishers: usize,
    /// Messages a second of all publishers together. 1.
    pub rate: f64,
    /// Bytes of a payload, at least 16. 200.
    pub size: usize,
    /// Time that a node's processor takes to check a message, one after the other.
    pub verification: Duration,
    /// When the honest nodes start, within a second. 0.
    pub start: Duration,
    /// When publishing begins. 10 s.
    pub warmup: Duration,
    /// Time of publishing. 60 s.
    pub publishing: Duration,
    /// Time that goes on afterwards, so that the last messages arrive. 10 s.
    pub tail: Duration,
    /// Share of the honest nodes that leaves in a minute; each is gone for half a minute on average.
    pub churn: f64,
    /// Attackers.
    pub sybils: Option<Sybils>,
    /// Whether [`Simulation::violations`](crate::Simulation::violations) are looked for at each virtual second.
    pub checked: bool,
}

/// Nodes that an attacker runs. They follow a script, which is cheaper for the attacker than a router: they graft whoever
/// subscribes, and again a minute after a PRUNE and up to 15 s, forward to all of them, and attack.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Sybils {
    /// How many.
    pub count: usize,
    /// What they do.
    pub attack: Attack,
    /// Whom they connect to.
    pub target: Target,
    /// Targets that each connects to. 20.
    pub degree: usize,
    /// When they appear, within five seconds. 0.
    pub start: Duration,
    /// When the attack begins; they behave before. 0.
    pub attack_at: Duration,
    /// Sybils at each IP address. 1.
    pub per_address: usize,
    /// Whether they are next to the first node, instead of anywhere.
    pub near: bool,
    /// Share of the honest nodes' own dials that lead to sybils, as with a poisoned discovery.
    pub poison: f64,
}

/// What attackers do.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Attack {
    /// Forward nothing.
    Silent,
    /// Forward a message with the probability that is left.
    Degrade(f64),
    /// Forward nothing that the first node published.
    Censor,
    /// Offer each peer 1,000 ids a second that nobody has.
    IHave,
    /// Ask for the newest hundred messages ten times a second.
    IWant,
    /// Refuse 1,000 ids a second.
    IDontWant,
    /// GRAFT ten times a second, during every backoff.
    Graft,
    /// Send each peer ten invalid messages a second.
    Invalid,
    /// Send each message to every peer twenty times.
    Repeat,
}

/// Whom attackers connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// Nodes at random.
    All,
    /// Nodes that publish.
    Publishers,
    /// The first node.
    First,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            seed: 1,
            nodes: 100,
            topology: Topology::Random,
            degree: 20,
            latency: Latency::Geographic,
            bandwidth: None,
            loss: 0.0,
            router: Config::default(),
            publishers: 0,
            rate: 1.0,
            size: 200,
            verification: Duration::ZERO,
            start: Duration::ZERO,
            warmup: Duration::from_secs(10),
            publishing: Duration::from_secs(60),
            tail: Duration::from_secs(10),
            churn: 0.0,
            sybils: None,
            checked: false,
        }
    }
}

impl Sybils {
    /// So many that do this to nodes at random from the beginning, each at an address of its own.
    #[must_use]
    pub const fn new(count: usize, attack: Attack) -> Self {
        Self {
            count,
            attack,
            target: Target::All,
            degree: 20,
            start: Duration::ZERO,
            attack_at: Duration::ZERO,
            per_address: 1,
            near: false,
            poison: 0.0,
        }
    }
}

/// Names of attacks, and what they are. The second half are those of the evaluation report of gossipsub 1.1, with its numbers of
/// connections and its times.
pub const ATTACKS: [(&str, &str); 17] = [
    ("silent", "forward nothing"),
    ("degrade", "forward half of the messages"),
    ("ihave", "offer 1,000 ids a second that nobody has"),
    (
        "iwant",
        "ask for the newest hundred messages ten times a second",
    ),
    ("idontwant", "refuse 1,000 ids a second"),
    ("graft", "graft ten times a second, during every backoff"),
    ("invalid", "send ten invalid messages a second"),
    ("repeat", "send each message twenty times"),
    (
        "eclipse",
        "all connect to the first node, and forward nothing",
    ),
    (
        "eclipse-network",
        "each connects to 100 nodes, and forwards nothing",
    ),
    ("eclipse-publishers", "the same to nodes that publish"),
    (
        "censor",
        "each connects to 100 nodes, and forwards nothing of the first",
    ),
    (
        "degradation",
        "each connects to 100 nodes, and forwards half",
    ),
    (
        "cold-boot",
        "come with the first nodes, and forward nothing",
    ),
    (
        "flash",
        "come before them, behave for half of the time, then forward nothing",
    ),
    ("dawn", "come before them, and forward nothing"),
    ("colocation", "the same, 160 at each address"),
];

/// Time that attackers who come first are there before the honest nodes.
const BEFORE: Duration = Duration::from_secs(10);

impl Scenario {
    /// Adds so many sybils that attack under one of the names of [`ATTACKS`].
    ///
    /// # Errors
    /// [`ScenarioError::Attack`].
    pub fn attacked(mut self, name: &str, count: usize) -> Result<Self, ScenarioError> {
        let attack = match name {
            "degrade" | "degradation" => Attack::Degrade(0.5),
            "ihave" => Attack::IHave,
            "iwant" => Attack::IWant,
            "idontwant" => Attack::IDontWant,
            "graft" => Attack::Graft,
            "invalid" => Attack::Invalid,
            "repeat" => Attack::Repeat,
            "censor" => Attack::Censor,
            _ if ATTACKS.iter().any(|(known, _)| *known == name) => Attack::Silent,
            _ => return Err(ScenarioError::Attack(name.to_owned())),
        };
        let mut sybils = Sybils::new(count, attack);
        match name {
            "eclipse" => (sybils.target, sybils.degree) = (Target::First, 1),
            "eclipse-publishers" => (sybils.target, sybils.degree) = (Target::Publishers, 100),
            "eclipse-network" | "censor" | "degradation" => sybils.degree = 100,
            "flash" => sybils.attack_at = self.warmup + BEFORE + self.publishing / 2,
            "colocation" => sybils.per_address = 160,
            _ => {}
        }
        match name {
            "eclipse" | "eclipse-network" | "eclipse-publishers" | "censor" | "degradation" => {
                sybils.start = self.warmup;
            }
            "flash" | "dawn" | "colocation" => {
                self.start += BEFORE;
                self.warmup += BEFORE;
            }
            _ => {}
        }
        self.sybils = Some(sybils);
        Ok(self)
    }

    /// Virtual time at which the simulation ends.
    #[must_use]
    pub fn end(&self) -> Duration {
        self.warmup + self.publishing + self.tail
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// [`ScenarioError`] naming the first value that cannot work.
    pub fn validate(&self) -> Result<(), ScenarioError> {
        let sybils = self.sybils.map_or(0, |s| s.count);
        let hour = Duration::from_secs(86_400);
        let (attack_degree, per_address, poison) = self
            .sybils
            .map_or((1, 1, 0.0), |s| (s.degree, s.per_address, s.poison));
        for (name, fits) in [
            (
                "nodes",
                (2..=1_000_000).contains(&self.nodes.saturating_add(sybils)) && self.nodes >= 2,
            ),
            ("degree", (1..=10_000).contains(&self.degree)),
            ("loss", (0.0..=0.5).contains(&self.loss)),
            ("churn", (0.0..=60.0).contains(&self.churn)),
            ("rate", self.rate > 0.0 && self.rate <= 1e6),
            ("size", (16..=1 << 20).contains(&self.size)),
            ("bandwidth", self.bandwidth.is_none_or(|b| b >= 1_000)),
            ("publishers", self.publishers <= self.nodes),
            ("seconds", self.end() <= hour && self.start <= self.warmup),
            ("sybils' degree", attack_degree >= 1),
            ("sybils at an address", per_address >= 1),
            ("poison", (0.0..=1.0).contains(&poison)),
        ] {
            if !fits {
                return Err(ScenarioError::Range(name));
            }
        }
        Ok(())
    }
}

fn names() -> String {
    ATTACKS.map(|(name, _)| name).join(", ")
}

/// Why something cannot be simulated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// A value is out of range.
    #[error("{0} is out of range")]
    Range(&'static str),
    /// Not a latency.
    #[error("`{0}` is not a latency; write geo, 50ms or 10..100ms")]
    Latency(String),
    /// Not a topology.
    #[error("`{0}` is not a topology; there are random, ring, small-world, clusters and full")]
    Topology(String),
    /// Not an attack.
    #[error("`{0}` is not an attack; there are {names}", names = names())]
    Attack(String),
    /// The routers' parameters cannot work.
    #[error(transparent)]
    Router(#[from] ConfigError),
}

impl ScenarioError {
    /// Always [`Fault::Local`].
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Local
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attack_has_its_scenario() {
        for (name, _) in ATTACKS {
            let scenario = Scenario::default().attacked(name, 5).unwrap();
            scenario.validate().unwrap();
            assert_eq!(scenario.sybils.map(|s| s.count), Some(5), "{name}");
        }
        let error = Scenario::default().attacked("none", 5).unwrap_err();
        assert!(error.to_string().contains("silent, degrade"), "{error}");
    }
}
