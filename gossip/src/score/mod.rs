//! Scoring of peers: counters P1 to P7 of gossipsub v1.1, and what slow readers cost.

mod params;

use std::{
    cell::Cell,
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use barewire_base::PeerId;

pub use params::{ScoreParams, ScoreParamsError, Thresholds, TopicScoreParams, decay_in};

use crate::{
    peers::Peer,
    random::KeyedState,
    topics::{TopicIndex, Topics},
};

/// Counters stop here, so that no sum of squares leaves the finite numbers.
const COUNTER_MAX: f64 = 1e9;

/// A score taken apart. The parts are weighted; they add up to the total, unless the topics' cap cut it.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Breakdown {
    /// The score.
    pub total: f64,
    /// Each topic's part.
    pub topics: Vec<TopicBreakdown>,
    /// P5: given by the application.
    pub app: f64,
    /// P6: peers at the same IP address.
    pub ip_colocation: f64,
    /// P7: misbehaviour.
    pub behaviour: f64,
    /// Messages dropped because the peer reads slowly.
    pub slow_peer: f64,
}

/// A topic's part of a score. The parts are weighted, except by the topic's own weight.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TopicBreakdown {
    /// The topic.
    pub topic: Arc<str>,
    /// Weighted sum of the parts times the topic's weight.
    pub total: f64,
    /// P1: time in the mesh.
    pub time_in_mesh: f64,
    /// P2: first deliveries.
    pub first_deliveries: f64,
    /// P3: deficit of deliveries in the mesh.
    pub mesh_deliveries: f64,
    /// P3b: deficits when it was pruned.
    pub mesh_failure: f64,
    /// P4: invalid messages.
    pub invalid: f64,
}

/// Counters of a peer in a topic.
#[derive(Clone, Copy, Debug)]
struct TopicStats {
    topic: TopicIndex,
    /// Since when it is in the mesh.
    grafted: Option<Instant>,
    mesh_time: Duration,
    first: f64,
    mesh: f64,
    active: bool,
    failure: f64,
    invalid: f64,
}

impl TopicStats {
    const fn new(topic: TopicIndex) -> Self {
        Self {
            topic,
            grafted: None,
            mesh_time: Duration::ZERO,
            first: 0.0,
            mesh: 0.0,
            active: false,
            failure: 0.0,
            invalid: 0.0,
        }
    }

    fn is_blank(&self) -> bool {
        self.grafted.is_none()
            && self.first == 0.0
            && self.mesh == 0.0
            && self.failure == 0.0
            && self.invalid == 0.0
    }

    fn deficit(&self, threshold: f64) -> f64 {
        let missing = (threshold - self.mesh).max(0.0);
        if self.active { missing * missing } else { 0.0 }
    }

    fn leave_mesh(&mut self, threshold: f64) {
        self.failure = (self.failure + self.deficit(threshold)).min(COUNTER_MAX);
        self.grafted = None;
        self.active = false;
    }
}

/// Counters of a peer.
#[derive(Debug)]
pub(crate) struct PeerScore {
    topics: Vec<TopicStats>,
    app: f64,
    behaviour: f64,
    slow: f64,
    /// Whether its owner was told that it is graylisted.
    pub(crate) graylisted: bool,
    /// The score and the epoch of address counts it belongs to; no number if a counter changed since.
    cache: Cell<(f64, u64)>,
}

impl PeerScore {
    const fn new() -> Self {
        Self {
            topics: Vec::new(),
            app: 0.0,
            behaviour: 0.0,
            slow: 0.0,
            graylisted: false,
            cache: Cell::new((f64::NAN, 0)),
        }
    }

    fn touch(&self) {
        self.cache.set((f64::NAN, 0));
    }

    /// The counters of a scored topic, made if need be.
    fn stats(
        &mut self,
        topics: &mut Topics,
        topic: TopicIndex,
    ) -> Option<(&mut TopicStats, TopicScoreParams, f64)> {
        let entry = topics.get_mut(topic)?;
        let params = entry.score?;
        let threshold = entry.delivery_threshold;
        self.touch();
        let at = match self
            .topics
            .binary_search_by_key(&topic, |stats| stats.topic)
        {
            Ok(at) => at,
            Err(at) => {
                entry.refs += 1;
                if self.topics.is_empty() {
                    self.topics.reserve_exact(5);
                }
                self.topics.insert(at, TopicStats::new(topic));
                at
            }
        };
        Some((self.topics.get_mut(at)?, params, threshold))
    }
}

/// Counters of a peer that left, to be found again when it returns.
#[derive(Debug)]
struct Retained {
    score: PeerScore,
    address: Option<IpAddr>,
    until: Instant,
}

/// The parts of scoring that belong to no single peer.
#[derive(Debug)]
pub(crate) struct Scorer {
    params: Option<ScoreParams>,
    /// Peers at each address, or in each IPv6 network of 64 bits.
    addresses: HashMap<IpAddr, u32, KeyedState>,
    /// Grows whenever the counts of addresses change.
    epoch: u64,
    retained: HashMap<PeerId, Retained, KeyedState>,
    next_decay: Instant,
}

/// An IPv6 address counts as itself and as its network, since a host owns a whole one. Loopback counts as nothing.
fn places(address: Option<IpAddr>) -> impl Iterator<Item = IpAddr> {
    let address = address
        .map(|a| a.to_canonical())
        .filter(|a| !a.is_loopback());
    let network = match address {
        Some(IpAddr::V6(v6)) => {
            let [a, b, c, d, ..] = v6.segments();
            Some(IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)))
        }
        _ => None,
    };
    address
        .into_iter()
        .chain(network.filter(|n| Some(*n) != address))
}

impl Scorer {
    pub(crate) fn new(params: Option<ScoreParams>, keys: KeyedState, now: Instant) -> Self {
        let next_decay = now
            + params
                .as_ref()
                .map_or(Duration::from_secs(1), |p| p.decay_interval);
        Self {
            params,
            addresses: HashMap::with_hasher(keys.clone()),
            epoch: 1,
            retained: HashMap::with_hasher(keys),
            next_decay,
        }
    }

    pub(crate) const fn is_on(&self) -> bool {
        self.params.is_some()
    }

    /// Thresholds; without scoring every score is 0 and passes them all.
    pub(crate) fn thresholds(&self) -> Thresholds {
        match &self.params {
            Some(params) => params.thresholds,
            None => Thresholds {
                opportunistic_graft: 0.0,
                accept_px: 0.0,
                ..Thresholds::default()
            },
        }
    }

    pub(crate) fn next_decay(&self) -> Option<Instant> {
        self.params.as_ref().map(|_| self.next_decay)
    }

    pub(crate) fn retained(&self) -> usize {
        self.retained.len()
    }

    /// The counters of a peer that connects: those it left with, if they are kept.
    pub(crate) fn connect(&mut self, id: &PeerId, address: Option<IpAddr>) -> PeerScore {
        let score = match self.retained.remove(id) {
            Some(retained) => {
                self.count(retained.address, false);
                retained.score.touch();
                retained.score
            }
            None => PeerScore::new(),
        };
        self.count(address, true);
        score
    }

    /// Keeps the counters of a peer that leaves, unless it gains by being forgotten.
    pub(crate) fn disconnect(&mut self, now: Instant, peer: Peer, topics: &mut Topics) {
        let kept = self
            .params
            .as_ref()
            .filter(|p| !p.retain_score.is_zero() && p.max_retained > 0);
        let until = kept.map(|p| (now + p.retain_score, p.max_retained));
        let total = self.score(&peer, topics);
        let (id, address, mut score) = (peer.id, peer.address, peer.score);
        let Some((until, max)) = until.filter(|_| total <= 0.0) else {
            self.count(address, false);
            release(&mut score, topics);
            return;
        };
        for stats in &mut score.topics {
            stats.first = 0.0;
            let threshold = topics
                .get(stats.topic)
                .map_or(0.0, |t| t.delivery_threshold);
            if stats.grafted.is_some() {
                stats.leave_mesh(threshold);
            }
        }
        let blank = score.behaviour == 0.0 && score.app == 0.0 && score.slow == 0.0;
        if blank && score.topics.iter().all(TopicStats::is_blank) {
            // Nothing worth remembering.
            self.count(address, false);
            release(&mut score, topics);
            return;
        }
        score.touch();
        if self.retained.len() >= max
            && let Some(first) = self
                .retained
                .iter()
                .min_by_key(|(id, r)| (r.until, **id))
                .map(|(id, _)| *id)
        {
            self.forget(&first, topics);
        }
        self.retained.insert(
            id,
            Retained {
                score,
                address,
                until,
            },
        );
    }

    fn forget(&mut self, id: &PeerId, topics: &mut Topics) {
        if let Some(mut retained) = self.retained.remove(id) {
            self.count(retained.address, false);
            release(&mut retained.score, topics);
        }
    }

    fn count(&mut self, address: Option<IpAddr>, arrives: bool) {
        for place in places(address) {
            self.epoch += 1;
            let count = self.addresses.entry(place).or_default();
            if arrives {
                *count += 1;
            } else {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.addresses.remove(&place);
                }
            }
        }
    }

    pub(crate) fn set_address(&mut self, peer: &mut Peer, address: Option<IpAddr>) {
        self.count(peer.address, false);
        self.count(address, true);
        peer.address = address;
    }

    /// The peer's score.
    #[inline]
    pub(crate) fn score(&self, peer: &Peer, topics: &Topics) -> f64 {
        let Some(params) = &self.params else {
            return 0.0;
        };
        let (cached, epoch) = peer.score.cache.get();
        if epoch == self.epoch && !cached.is_nan() {
            return cached;
        }
        let total = self.compute(params, peer, topics, None);
        peer.score.cache.set((total, self.epoch));
        total
    }

    /// The peer's score taken apart.
    pub(crate) fn breakdown(&self, peer: &Peer, topics: &Topics) -> Breakdown {
        let mut out = Breakdown::default();
        if let Some(params) = &self.params {
            out.total = self.compute(params, peer, topics, Some(&mut out));
        }
        out
    }

    fn compute(
        &self,
        params: &ScoreParams,
        peer: &Peer,
        topics: &Topics,
        mut out: Option<&mut Breakdown>,
    ) -> f64 {
        let mut score = 0.0;
        for stats in &peer.score.topics {
            let Some(topic) = topics.get(stats.topic) else {
                continue;
            };
            let Some(p) = &topic.score else {
                continue;
            };
            let time_in_mesh = if stats.grafted.is_some() {
                let quanta =
                    (stats.mesh_time.as_nanos() / p.time_in_mesh_quantum.as_nanos().max(1)) as f64;
                quanta.min(p.time_in_mesh_cap) * p.time_in_mesh_weight
            } else {
                0.0
            };
            let first_deliveries = stats.first * p.first_deliveries_weight;
            let mesh_deliveries =
                stats.deficit(topic.delivery_threshold) * p.mesh_deliveries_weight;
            let mesh_failure = stats.failure * p.mesh_failure_weight;
            let invalid = stats.invalid * stats.invalid * p.invalid_weight;
            let total =
                (time_in_mesh + first_deliveries + mesh_deliveries + mesh_failure + invalid)
                    * p.topic_weight;
            score += total;
            if let Some(out) = &mut out {
                out.topics.push(TopicBreakdown {
                    topic: topic.name.clone(),
                    total,
                    time_in_mesh,
                    first_deliveries,
                    mesh_deliveries,
                    mesh_failure,
                    invalid,
                });
            }
        }
        if params.topic_score_cap > 0.0 {
            score = score.min(params.topic_score_cap);
        }
        let app = peer.score.app * params.app_weight;
        let surplus: f64 = places(peer.address)
            .map(|place| {
                let count = self.addresses.get(&place).copied().unwrap_or_default();
                let surplus = f64::from(count.saturating_sub(params.ip_colocation_threshold));
                surplus * surplus
            })
            .sum();
        let ip_colocation = surplus * params.ip_colocation_weight;
        let excess = (peer.score.behaviour - params.behaviour_threshold).max(0.0);
        let behaviour = excess * excess * params.behaviour_weight;
        let slow_peer =
            (peer.score.slow - params.slow_peer_threshold).max(0.0) * params.slow_peer_weight;
        score += app + ip_colocation + behaviour + slow_peer;
        if let Some(out) = out {
            (out.app, out.ip_colocation, out.behaviour, out.slow_peer) =
                (app, ip_colocation, behaviour, slow_peer);
        }
        // Weights near the end of the range may overflow; the order of scores survives the clamp.
        if score.is_nan() {
            f64::MIN
        } else {
            score.clamp(f64::MIN, f64::MAX)
        }
    }

    /// P5. What is no number counts as 0.
    pub(crate) fn set_app(&self, peer: &mut Peer, value: f64) {
        peer.score.app = if value.is_finite() {
            value.clamp(-COUNTER_MAX, COUNTER_MAX)
        } else {
            0.0
        };
        peer.score.touch();
    }

    /// P7.
    pub(crate) fn penalize(&self, peer: &mut Peer, count: f64) {
        if self.is_on() {
            peer.score.behaviour = (peer.score.behaviour + count).min(COUNTER_MAX);
            peer.score.touch();
        }
    }

    pub(crate) fn dropped(&self, peer: &mut Peer) {
        if self.is_on() {
            peer.score.slow = (peer.score.slow + 1.0).min(COUNTER_MAX);
            peer.score.touch();
        }
    }

    pub(crate) fn graft(
        &self,
        now: Instant,
        peer: &mut Peer,
        topics: &mut Topics,
        topic: TopicIndex,
    ) {
        if self.is_on()
            && let Some((stats, _, _)) = peer.score.stats(topics, topic)
        {
            stats.grafted = Some(now);
            stats.mesh_time = Duration::ZERO;
            stats.active = false;
        }
    }

    pub(crate) fn prune(&self, peer: &mut Peer, topics: &mut Topics, topic: TopicIndex) {
        if self.is_on()
            && let Some((stats, _, threshold)) = peer.score.stats(topics, topic)
        {
            stats.leave_mesh(threshold);
        }
    }

    /// P2 and P3 of a message that it delivered first. `quotas` says whether it counts for P3.
    pub(crate) fn first_delivery(
        &self,
        peer: &mut Peer,
        topics: &mut Topics,
        topic: TopicIndex,
        quotas: bool,
    ) {
        if self.is_on()
            && let Some((stats, params, _)) = peer.score.stats(topics, topic)
        {
            stats.first = (stats.first + 1.0).min(params.first_deliveries_cap);
            if stats.grafted.is_some() && quotas {
                stats.mesh = (stats.mesh + 1.0).min(params.mesh_deliveries_cap);
            }
        }
    }

    /// P3 of a message that others delivered before, validated `after` ago; `None` while it was being validated.
    pub(crate) fn near_first_delivery(
        &self,
        peer: &mut Peer,
        topics: &mut Topics,
        topic: TopicIndex,
        after: Option<Duration>,
    ) {
        // Only a peer of the mesh has counters that change.
        if self.is_on()
            && peer
                .score
                .topics
                .iter()
                .any(|stats| stats.topic == topic && stats.grafted.is_some())
            && let Some((stats, params, _)) = peer.score.stats(topics, topic)
            && after.is_none_or(|after| after <= params.mesh_deliveries_window)
        {
            stats.mesh = (stats.mesh + 1.0).min(params.mesh_deliveries_cap);
        }
    }

    /// P4.
    pub(crate) fn invalid(&self, peer: &mut Peer, topics: &mut Topics, topic: TopicIndex) {
        if self.is_on()
            && let Some((stats, _, _)) = peer.score.stats(topics, topic)
        {
            stats.invalid = (stats.invalid + 1.0).min(COUNTER_MAX.sqrt());
        }
    }

    /// Lets counters decay if it is time, however many intervals have passed.
    pub(crate) fn decay<'a>(
        &mut self,
        now: Instant,
        peers: impl Iterator<Item = &'a mut Peer>,
        topics: &mut Topics,
    ) {
        let Some(params) = &self.params else {
            return;
        };
        if now < self.next_decay {
            return;
        }
        let late = now.saturating_duration_since(self.next_decay).as_nanos()
            / params.decay_interval.as_nanos().max(1);
        let times = i32::try_from(late).unwrap_or(i32::MAX - 1) + 1;
        self.next_decay += params.decay_interval.saturating_mul(times as u32);
        let zero = params.decay_to_zero;
        let factor = |decay: f64| if times == 1 { decay } else { decay.powi(times) };
        let fade = |value: &mut f64, by: f64| {
            *value *= by;
            if *value < zero {
                *value = 0.0;
            }
        };
        let (behaviour, slow) = (
            factor(params.behaviour_decay),
            factor(params.slow_peer_decay),
        );
        // The best of each mesh, for quotas relative to it.
        let mut best: Vec<f64> = Vec::new();
        let mut blank: Vec<TopicIndex> = Vec::new();
        for peer in peers {
            peer.score.topics.retain_mut(|stats| {
                let Some(p) = topics.get(stats.topic).and_then(|t| t.score.as_ref()) else {
                    blank.push(stats.topic);
                    return false;
                };
                fade(&mut stats.first, factor(p.first_deliveries_decay));
                fade(&mut stats.mesh, factor(p.mesh_deliveries_decay));
                fade(&mut stats.failure, factor(p.mesh_failure_decay));
                fade(&mut stats.invalid, factor(p.invalid_decay));
                if let Some(since) = stats.grafted {
                    stats.mesh_time = now.saturating_duration_since(since);
                    stats.active |= stats.mesh_time > p.mesh_deliveries_activation;
                    if p.mesh_deliveries_relative.is_some() {
                        let at = stats.topic as usize;
                        if best.len() <= at {
                            best.resize(at + 1, 0.0);
                        }
                        best[at] = best[at].max(stats.mesh);
                    }
                }
                if stats.is_blank() {
                    blank.push(stats.topic);
                    return false;
                }
                true
            });
            if peer.score.topics.is_empty() {
                peer.score.topics = Vec::new();
            }
            fade(&mut peer.score.behaviour, behaviour);
            fade(&mut peer.score.slow, slow);
            peer.score.touch();
        }
        for topic in blank {
            topics.release(topic);
        }
        for (index, topic) in topics.iter_mut() {
            if let Some(p) = &topic.score
                && let Some(share) = p.mesh_deliveries_relative
            {
                let best = best.get(index as usize).copied().unwrap_or_default();
                topic.delivery_threshold = p.mesh_deliveries_threshold.min(share * best);
            }
        }
        // In the order of ids, so that what is freed is freed in the same order everywhere.
        let mut over: Vec<PeerId> = self
            .retained
            .iter()
            .filter(|(_, r)| r.until < now)
            .map(|(id, _)| *id)
            .collect();
        over.sort_unstable();
        for id in over {
            self.forget(&id, topics);
        }
    }
}

fn release(score: &mut PeerScore, topics: &mut Topics) {
    for stats in score.topics.drain(..) {
        topics.release(stats.topic);
    }
}
