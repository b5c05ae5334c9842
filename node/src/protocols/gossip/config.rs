//! What a gossiping node can choose beside the router's own parameters.

use std::{thread, time::Duration};

use barewire_gossip::{Config, PeerLimits, Version};

use super::trace::TraceWriter;

/// Settings of [`Gossip::spawn`](super::Gossip::spawn). Build one from [`Default`] or [`new`](Self::new) and change fields.
#[derive(Debug)]
#[non_exhaustive]
pub struct GossipConfig {
    /// Parameters of the router.
    pub router: Config,
    /// Newest version that is offered and spoken; all older ones are too. [`Version::V1_3`].
    pub newest: Version,
    /// Longest RPC that peers accept, in bytes, where it is known by hand; `None` to go by what they announce and by the agent
    /// version of identify.
    pub peer_max_rpc: Option<usize>,
    /// A stream that takes nothing for this long is reset. 30 s, as go.
    pub write_timeout: Duration,
    /// Memory for frames that have not arrived whole, of all peers, if single ones may be larger than what the buffers of one
    /// connection allow; else those of the connections are charged. Twice the longest RPC and 64 MiB more if `None`.
    pub inbound_bytes: Option<usize>,
    /// Threads that check signatures at the same time. As many as the machine has processors, at most 8.
    pub verifiers: usize,
    /// Validators that run at the same time, of all topics; messages beyond wait. 8,192, as go.
    pub max_validations: usize,
    /// Peers offered by others that are dialled at the same time. 8, as go.
    pub exchange_dials: usize,
    /// Those that wait for it; more are forgotten. 128, as go.
    pub exchange_waiting: usize,
    /// Time for each. 30 s, as go.
    pub exchange_timeout: Duration,
    /// Where to write what happens.
    pub trace: Option<TraceWriter>,
    /// Seed of the router's choices, for tests that repeat a run. Random if `None`, as it has to be where peers are not trusted.
    pub seed: Option<u64>,
}

impl GossipConfig {
    /// The given parameters of the router, and defaults for the rest.
    #[must_use]
    pub fn new(router: Config) -> Self {
        Self {
            router,
            newest: Version::V1_3,
            peer_max_rpc: None,
            write_timeout: Duration::from_secs(30),
            inbound_bytes: None,
            verifiers: thread::available_parallelism().map_or(1, |n| n.get().min(8)),
            max_validations: 8_192,
            exchange_dials: 8,
            exchange_waiting: 128,
            exchange_timeout: Duration::from_secs(30),
            trace: None,
            seed: None,
        }
    }

    /// Ids to offer, the best first.
    pub(super) fn versions(&self) -> Vec<Version> {
        let all = Version::ALL.into_iter();
        all.filter(|version| *version <= self.newest).collect()
    }

    /// What a peer of this agent version accepts in one RPC.
    pub(super) fn limits(&self, agent: &str) -> PeerLimits {
        let mut limits = limits_of(agent);
        if let Some(max) = self.peer_max_rpc {
            limits.max_rpc = max;
        }
        limits
    }
}

impl Default for GossipConfig {
    fn default() -> Self {
        Self::new(Config::default())
    }
}

/// go and js name the application, so that the name of the stack is not always there.
fn limits_of(agent: &str) -> PeerLimits {
    let starts = |names: &[&str]| names.iter().any(|name| agent.starts_with(name));
    if starts(&["barewire/"]) {
        // A payload of 1 MiB and what goes with it, before it announces more.
        PeerLimits::uniform((1 << 20) + barewire_gossip::RPC_OVERHEAD)
    } else if starts(&["go-libp2p", "kubo/", "go-ipfs", "lotus", "Prysm"]) {
        PeerLimits::GO
    } else if starts(&["rust-libp2p/", "Lighthouse"]) {
        PeerLimits::RUST
    } else if starts(&["js-libp2p/", "libp2p/", "lodestar"]) {
        PeerLimits::JS
    } else {
        PeerLimits::UNKNOWN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_versions_are_offered_too() {
        let mut config = GossipConfig::default();
        assert_eq!(config.versions(), Version::ALL);
        config.newest = Version::V1_1;
        let expected = [Version::V1_1, Version::V1_0, Version::Floodsub];
        assert_eq!(config.versions(), expected);
    }

    #[test]
    fn limits_follow_the_agent_and_the_hand() {
        let mut config = GossipConfig::default();
        assert_eq!(config.limits("rust-libp2p/0.50.0"), PeerLimits::RUST);
        assert_eq!(config.limits("kubo/0.40.0/"), PeerLimits::GO);
        assert_eq!(config.limits("somebody"), PeerLimits::UNKNOWN);
        config.peer_max_rpc = Some(2 << 20);
        let by_hand = config.limits("rust-libp2p/0.50.0");
        assert_eq!((by_hand.max_rpc, by_hand.max_control), (2 << 20, 16 << 10));
    }
}
