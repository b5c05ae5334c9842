//! go's peer gater: while messages come faster than they can be verified and validated, whoever mostly sends what is of no use is
//! read less. Messages of an RPC are left out by chance then, the more the worse its source has done; everything else in it counts.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use barewire_base::PeerId;

use crate::{ConfigError, config::share, peers::Peer, random::KeyedState, score::decay_in};

/// Time between two decays.
const DECAY_INTERVAL: Duration = Duration::from_secs(1);
/// Counters below this are zero.
const DECAY_TO_ZERO: f64 = 0.01;
/// Sources without a connection that are remembered.
const MAX_RETAINED: usize = 8_192;

/// Parameters of the gater. Defaults are go-libp2p-pubsub's.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct GaterParams {
    /// Share of throttled messages among those validated from which on sources are gated. 0.33.
    pub threshold: f64,
    /// Time without throttling after which nobody is gated any more. 1 min.
    pub quiet: Duration,
    /// Time in which the counters of all messages fall to a hundredth. 2 min.
    pub global_decay: Duration,
    /// The same for the counters of a source. 1 h.
    pub source_decay: Duration,
    /// Time for which a source without a connection is remembered. 6 h.
    pub retain: Duration,
    /// What a duplicate weighs, where a delivery weighs 1. 0.125.
    pub duplicate_weight: f64,
    /// What an ignored message weighs. 1.
    pub ignore_weight: f64,
    /// What a rejected message weighs. 16.
    pub reject_weight: f64,
}

impl Default for GaterParams {
    fn default() -> Self {
        Self {
            threshold: 0.33,
            quiet: Duration::from_secs(60),
            global_decay: Duration::from_secs(120),
            source_decay: Duration::from_secs(3600),
            retain: Duration::from_secs(6 * 3600),
            duplicate_weight: 0.125,
            ignore_weight: 1.0,
            reject_weight: 16.0,
        }
    }
}

impl GaterParams {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        share("gater.threshold", self.threshold)?;
        share("gater.duplicate_weight", self.duplicate_weight)?;
        for (name, value) in [
            ("gater.ignore_weight", self.ignore_weight),
            ("gater.reject_weight", self.reject_weight),
        ] {
            if !value.is_finite() || value < 1.0 {
                return Err(ConfigError::Weight { name, value });
            }
        }
        Ok(())
    }
}

/// What became of a message of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Delivered,
    Duplicate,
    Ignored,
    Rejected,
}

/// Who answers for messages: an address, so that another id is no new start; a peer without one, such as behind a relay, itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    Address(IpAddr),
    Peer(PeerId),
}

impl Source {
    fn of(id: PeerId, address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            // A host owns a whole network of 64 bits.
            Some(IpAddr::V6(v6)) => {
                let [a, b, c, d, ..] = v6.segments();
                Self::Address(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
            }
            Some(v4) => Self::Address(v4),
            None => Self::Peer(id),
        }
    }
}

#[derive(Debug, Default)]
struct Stats {
    connected: u32,
    /// When it is forgotten, if nobody is connected from there.
    until: Option<Instant>,
    delivered: f64,
    duplicate: f64,
    ignored: f64,
    rejected: f64,
}

#[derive(Debug)]
pub(crate) struct Gater {
    params: GaterParams,
    sources: HashMap<Source, Stats, KeyedState>,
    validated: f64,
    throttled: f64,
    last_throttle: Option<Instant>,
    next_decay: Instant,
}

impl Gater {
    pub(crate) fn new(params: GaterParams, keys: KeyedState, now: Instant) -> Self {
        Self {
            params,
            sources: HashMap::with_hasher(keys),
            validated: 0.0,
            throttled: 0.0,
            last_throttle: None,
            next_decay: now + DECAY_INTERVAL,
        }
    }

    pub(crate) fn connect(&mut self, id: PeerId, address: Option<IpAddr>) {
        let stats = self.sources.entry(Source::of(id, address)).or_default();
        stats.connected += 1;
        stats.until = None;
    }

    pub(crate) fn disconnect(&mut self, id: PeerId, address: Option<IpAddr>) {
        let source = Source::of(id, address);
        let retained = self.sources.len() < MAX_RETAINED;
        let Some(stats) = self.sources.get_mut(&source) else {
            return;
        };
        stats.connected = stats.connected.saturating_sub(1);
        if stats.connected == 0 {
            if retained {
                // Not more than a heartbeat from now.
                stats.until = self.next_decay.checked_add(self.params.retain);
            } else {
                self.sources.remove(&source);
            }
        }
    }

    /// A message is verified or validated.
    pub(crate) fn validating(&mut self) {
        self.validated += 1.0;
    }

    /// A message was thrown away because too many waited.
    pub(crate) fn throttled(&mut self, now: Instant) {
        self.throttled += 1.0;
        self.last_throttle = Some(now);
    }

    pub(crate) fn count(&mut self, peer: &Peer, outcome: Outcome) {
        let source = Source::of(peer.id, peer.address);
        if let Some(stats) = self.sources.get_mut(&source) {
            let counter = match outcome {
                Outcome::Delivered => &mut stats.delivered,
                Outcome::Duplicate => &mut stats.duplicate,
                Outcome::Ignored => &mut stats.ignored,
                Outcome::Rejected => &mut stats.rejected,
            };
            *counter += 1.0;
        }
    }

    /// Whether anybody is gated now.
    pub(crate) fn is_on(&self, now: Instant) -> bool {
        let quiet = self
            .last_throttle
            .is_none_or(|at| now.saturating_duration_since(at) > self.params.quiet);
        !quiet && self.throttled > 0.0 && self.throttled >= self.params.threshold * self.validated
    }

    /// While it is on, whether the messages of an RPC of the peer are looked at. `draw` is a random number below 1.
    pub(crate) fn admits(&self, peer: &Peer, draw: f64) -> bool {
        let Some(stats) = self.sources.get(&Source::of(peer.id, peer.address)) else {
            return true;
        };
        let total = stats.delivered
            + self.params.duplicate_weight * stats.duplicate
            + self.params.ignore_weight * stats.ignored
            + self.params.reject_weight * stats.rejected;
        total == 0.0 || draw < (1.0 + stats.delivered) / (1.0 + total)
    }

    pub(crate) fn decay(&mut self, now: Instant) {
        if now < self.next_decay {
            return;
        }
        let elapsed = now.saturating_duration_since(self.next_decay).as_secs();
        // After a long sleep everything is zero anyway.
        let steps = i32::try_from(elapsed + 1).unwrap_or(i32::MAX);
        self.next_decay = now + DECAY_INTERVAL;
        let fall = |counter: &mut f64, time: Duration| {
            *counter *= decay_in(time).powi(steps);
            if *counter < DECAY_TO_ZERO {
                *counter = 0.0;
            }
        };
        fall(&mut self.validated, self.params.global_decay);
        fall(&mut self.throttled, self.params.global_decay);
        let time = self.params.source_decay;
        self.sources.retain(|_, stats| {
            for counter in [
                &mut stats.delivered,
                &mut stats.duplicate,
                &mut stats.ignored,
                &mut stats.rejected,
            ] {
                fall(counter, time);
            }
            stats.connected > 0 || stats.until.is_some_and(|until| now < until)
        });
    }
}
