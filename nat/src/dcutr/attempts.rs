//! How often a peer may make this node dial what it names.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use barewire_base::PeerId;

/// Limits on attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttemptsConfig {
    /// Attempts of one peer in [`window`](Self::window). Default 3, as many as go-libp2p makes.
    pub per_peer: usize,
    /// Default 10 minutes (own choice: a path that was not found three times is found no sooner).
    pub window: Duration,
    /// Peers that are remembered; no other is served until one is forgotten. Default 1,024 (own choice: 128 KiB).
    pub peers: usize,
}

impl Default for AttemptsConfig {
    fn default() -> Self {
        Self {
            per_peer: 3,
            window: Duration::from_secs(600),
            peers: 1024,
        }
    }
}

/// The attempts of late.
#[derive(Debug)]
pub struct Attempts {
    config: AttemptsConfig,
    made: HashMap<PeerId, Vec<Instant>>,
}

impl Attempts {
    /// None yet.
    #[must_use]
    pub fn new(config: AttemptsConfig) -> Self {
        Self {
            config,
            made: HashMap::new(),
        }
    }

    /// Counts an attempt of a peer; `false` if it has had its share.
    pub fn take(&mut self, now: Instant, peer: PeerId) -> bool {
        let window = self.config.window;
        let old = |at: &Instant| now.saturating_duration_since(*at) >= window;
        if self.made.len() >= self.config.peers && !self.made.contains_key(&peer) {
            self.made.retain(|_, made| !made.iter().all(old));
            if self.made.len() >= self.config.peers {
                return false;
            }
        }
        let made = self.made.entry(peer).or_default();
        made.retain(|at| !old(at));
        let free = made.len() < self.config.per_peer;
        if free {
            made.push(now);
        }
        free
    }

    /// Gives a peer its share anew, after an attempt that led to a connection.
    pub fn forget(&mut self, peer: &PeerId) {
        self.made.remove(peer);
    }
}

#[cfg(test)]
mod tests {
    use barewire_base::Keypair;

    use super::*;

    #[test]
    fn three_in_ten_minutes() {
        let mut attempts = Attempts::new(AttemptsConfig {
            peers: 2,
            ..AttemptsConfig::default()
        });
        let [one, two, three] = [1, 2, 3].map(|n| Keypair::from_seed(&[n; 32]).peer_id());
        let now = Instant::now();
        let taken = (0..100).filter(|_| attempts.take(now, one)).count();
        assert_eq!(taken, 3);
        assert!(attempts.take(now, two));
        assert!(!attempts.take(now, three), "as many as are remembered");
        let later = now + Duration::from_secs(600);
        assert!(attempts.take(later, three) && attempts.take(later, one));
        attempts.forget(&one);
        assert_eq!((0..9).filter(|_| attempts.take(later, one)).count(), 3);
    }
}
