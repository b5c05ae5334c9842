//! What a simulation tells.

use std::{ops::Range, time::Duration};

use barewire_gossip::Metrics;

use crate::Simulation;

/// Time within which a message counts as delivered in time.
const IN_TIME: u64 = 3_000_000;
/// Time for which a node has to stay after a message was published to be expected to get it.
const STAYS: u64 = 10_000_000;
/// Time for which its publisher has to stay, so that the message has left it for sure.
const SENDS: u64 = 1_000_000;

/// What happened in a simulation.
#[derive(Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Log {
    /// The network at each virtual second.
    pub samples: Vec<Sample>,
    /// Frames sent.
    pub frames: u64,
    /// Events of the simulation.
    pub events: u64,
    /// Bytes that sybils sent.
    pub from_sybils: u64,
    /// Bytes that honest nodes sent to sybils.
    pub to_sybils: u64,
    /// Misbehaviour of sybils that honest nodes counted.
    pub sybil_penalties: u64,
    /// The same of honest nodes.
    pub honest_penalties: u64,
    /// Times that a node graylisted an honest one.
    pub honest_graylisted: u64,
    /// Messages and gossip that queues dropped.
    pub dropped: u64,
    /// Invalid messages that were delivered.
    pub invalid_delivered: u64,
    /// RPCs that were refused as malformed or too large.
    pub malformed: u64,
    /// When a node first graylisted a sybil, in microseconds, and how many times it happened.
    graylisted: Vec<(u32, u64)>,
    pub(crate) warm: Totals,
    pub(crate) end: Totals,
    messages: Vec<Published>,
    deliveries: Vec<Arrived>,
    /// By honest node: from when to when it was there.
    presence: Vec<Vec<Range<u64>>>,
}

/// Sums over the routers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    delivered: u64,
    duplicates: u64,
    bytes: u64,
    iwant_served: u64,
}

/// The network at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sample {
    /// When.
    pub at: Duration,
    /// Honest nodes that are there.
    pub nodes: usize,
    /// The smallest mesh.
    pub mesh_min: usize,
    /// The largest mesh.
    pub mesh_max: usize,
    /// Members of all meshes together.
    pub members: usize,
    /// Those of them that are sybils.
    pub sybils: usize,
}

impl Sample {
    /// Mean size of a mesh.
    #[must_use]
    pub fn mesh_mean(&self) -> f64 {
        self.members as f64 / self.nodes.max(1) as f64
    }

    /// Share of the meshes that sybils hold.
    #[must_use]
    pub fn sybil_share(&self) -> f64 {
        self.sybils as f64 / self.members.max(1) as f64
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Published {
    at: u64,
    by: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Arrived {
    message: u32,
    node: u32,
    /// Microseconds after it was published.
    after: u32,
}

/// How messages arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Outcome {
    /// Messages published.
    pub messages: usize,
    /// Deliveries expected: of each message to each other node that was there.
    pub expected: usize,
    /// Share of them that came, from 0 to 1.
    pub delivered: f64,
    /// Share of them that came within three seconds.
    pub in_time: f64,
    /// Latency of half of those that came.
    pub p50: Duration,
    /// Latency of 99 of 100.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

/// A simulation in figures.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// How all messages arrived.
    pub outcome: Outcome,
    /// Copies beyond the first that a node received, per delivery.
    pub duplicates: f64,
    /// Bytes that a node sent in all, per message published; control and gossip included.
    pub bytes_per_message: f64,
    /// Copies that were sent because somebody asked for them, per delivery.
    pub by_gossip: f64,
    /// Smallest and largest mesh of any node at any second of publishing.
    pub mesh: (usize, usize),
    /// Mean size of the meshes at the end.
    pub mesh_mean: f64,
    /// Share of the meshes that sybils hold at the end.
    pub sybil_share: f64,
    /// Sybils that were graylisted by somebody.
    pub sybils_graylisted: usize,
    /// Latencies of all deliveries in microseconds, sorted.
    pub latencies: Vec<u32>,
}

impl Totals {
    pub(crate) const fn add(&mut self, metrics: &Metrics) {
        self.delivered += metrics.delivered;
        self.duplicates += metrics.duplicates;
        self.bytes += metrics.bytes_out;
        self.iwant_served += metrics.iwant_served;
    }
}

impl Log {
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            presence: vec![Vec::new(); nodes],
            ..Self::default()
        }
    }

    pub(crate) fn came(&mut self, node: u32, at: u64) {
        if let Some(presence) = self.presence.get_mut(node as usize) {
            presence.push(at..u64::MAX);
        }
    }

    pub(crate) fn left(&mut self, node: u32, at: u64) {
        if let Some(last) = self
            .presence
            .get_mut(node as usize)
            .and_then(|p| p.last_mut())
        {
            last.end = at;
        }
    }

    pub(crate) fn published(&mut self, number: u32, by: u32, at: u64) {
        debug_assert_eq!(number as usize, self.messages.len());
        self.messages.push(Published { at, by });
    }

    pub(crate) fn delivered(&mut self, message: u32, node: u32, at: u64) {
        let Some(published) = self.messages.get(message as usize) else {
            return;
        };
        let after = u32::try_from(at - published.at).unwrap_or(u32::MAX);
        self.deliveries.push(Arrived {
            message,
            node,
            after,
        });
    }

    pub(crate) fn sybils_graylisted(&mut self, sybil: u32, at: u64) {
        self.graylisted.push((sybil, at));
    }

    /// Messages published within `age` before `now`.
    pub(crate) fn published_since(&self, now: u64, age: Duration) -> usize {
        let from = now.saturating_sub(age.as_micros() as u64);
        self.messages.len() - self.messages.partition_point(|m| m.at < from)
    }

    /// How the messages arrived that were published in a time, at all nodes or at one. A node is expected to get a message if
    /// it is there when it is published and for ten seconds more, and did not publish it; messages of nodes that leave within a
    /// second do not count.
    #[must_use]
    pub fn outcome(&self, published: Range<Duration>, node: Option<usize>) -> Outcome {
        let (outcome, _) = self.latencies(published, node);
        outcome
    }

    fn latencies(&self, published: Range<Duration>, only: Option<usize>) -> (Outcome, Vec<u32>) {
        let within = published.start.as_micros() as u64..published.end.as_micros() as u64;
        let stays = |node: u32, from: u64, time: u64| {
            let presence = self.presence.get(node as usize);
            presence.is_some_and(|p| p.iter().any(|p| p.start <= from && from + time <= p.end))
        };
        let wanted = |message: &Published| {
            within.contains(&message.at) && stays(message.by, message.at, SENDS)
        };
        let is_expected = |message: &Published, node: u32| {
            node != message.by
                && only.is_none_or(|only| only == node as usize)
                && stays(node, message.at, STAYS)
        };
        let mut outcome = Outcome::default();
        for message in self.messages.iter().filter(|m| wanted(m)) {
            outcome.messages += 1;
            let nodes = 0..self.presence.len() as u32;
            outcome.expected += nodes.filter(|node| is_expected(message, *node)).count();
        }
        let mut latencies: Vec<u32> = self
            .deliveries
            .iter()
            .filter(|arrived| {
                self.messages
                    .get(arrived.message as usize)
                    .is_some_and(|m| wanted(m) && is_expected(m, arrived.node))
            })
            .map(|arrived| arrived.after)
            .collect();
        latencies.sort_unstable();
        let expected = outcome.expected.max(1) as f64;
        outcome.delivered = latencies.len() as f64 / expected;
        outcome.in_time = latencies.partition_point(|l| u64::from(*l) <= IN_TIME) as f64 / expected;
        (outcome.p50, outcome.p99) = (quantile(&latencies, 0.5), quantile(&latencies, 0.99));
        outcome.max = quantile(&latencies, 1.0);
        (outcome, latencies)
    }

    /// Time from `since` until sybils that at least `share` of all, `count`, are graylisted by somebody.
    #[must_use]
    pub fn graylisted_within(&self, since: Duration, count: usize, share: f64) -> Option<Duration> {
        let mut first: Vec<(u32, u64)> = self.graylisted.clone();
        first.sort_unstable();
        first.dedup_by_key(|(sybil, _)| *sybil);
        let mut times: Vec<u64> = first.into_iter().map(|(_, at)| at).collect();
        times.sort_unstable();
        let needed = (count as f64 * share).ceil() as usize;
        let at = times.get(needed.checked_sub(1)?)?;
        Some(Duration::from_micros(*at).saturating_sub(since))
    }
}

/// Quantile of sorted latencies.
fn quantile(sorted: &[u32], q: f64) -> Duration {
    let at = ((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1));
    Duration::from_micros(sorted.get(at).copied().unwrap_or_default().into())
}

impl Simulation {
    /// The figures so far; complete after [`run`](Self::run).
    #[must_use]
    pub fn report(&self) -> Report {
        let (log, scenario) = (self.log(), self.scenario());
        let (outcome, latencies) = log.latencies(Duration::ZERO..Duration::MAX, None);
        let publishing = scenario.warmup..scenario.warmup + scenario.publishing;
        let during = || log.samples.iter().filter(|s| publishing.contains(&s.at));
        let last = log.samples.last().copied().unwrap_or_default();
        let (warm, end) = (&log.warm, &log.end);
        let delivered = (end.delivered - warm.delivered).max(1) as f64;
        let sent = (outcome.messages * scenario.nodes).max(1) as f64;
        let mut graylisted: Vec<u32> = log.graylisted.iter().map(|(sybil, _)| *sybil).collect();
        graylisted.sort_unstable();
        graylisted.dedup();
        Report {
            outcome,
            duplicates: (end.duplicates - warm.duplicates) as f64 / delivered,
            bytes_per_message: (end.bytes - warm.bytes) as f64 / sent,
            by_gossip: (end.iwant_served - warm.iwant_served) as f64 / delivered,
            mesh: (
                during().map(|s| s.mesh_min).min().unwrap_or_default(),
                during().map(|s| s.mesh_max).max().unwrap_or_default(),
            ),
            mesh_mean: last.mesh_mean(),
            sybil_share: last.sybil_share(),
            sybils_graylisted: graylisted.len(),
            latencies,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_away_is_not_expected() {
        let second = |s: u64| s * 1_000_000;
        let mut log = Log::new(4);
        for node in 0..4 {
            log.came(node, 0);
        }
        log.left(3, second(15));
        log.came(3, second(20));
        for (number, at) in [(0, 1), (1, 10), (2, 30)] {
            log.published(number, 0, second(at));
        }
        // The second message reaches 3 before it leaves, which does not count; the third does not reach 2.
        for (message, node, at) in [
            (0, 1, 1),
            (0, 2, 2),
            (0, 3, 6),
            (1, 1, 11),
            (1, 2, 11),
            (1, 3, 11),
            (2, 1, 31),
            (2, 3, 31),
        ] {
            log.delivered(message, node, second(at));
        }
        let all = log.outcome(Duration::ZERO..Duration::MAX, None);
        assert_eq!((all.messages, all.expected), (3, 3 + 2 + 3));
        assert_eq!(all.delivered, 7.0 / 8.0);
        assert_eq!(all.in_time, 6.0 / 8.0);
        assert_eq!(
            (all.p50, all.max),
            (Duration::from_secs(1), Duration::from_secs(5))
        );
        let last = log.outcome(Duration::from_secs(20)..Duration::MAX, Some(2));
        assert_eq!((last.messages, last.expected, last.delivered), (1, 1, 0.0));
    }

    #[test]
    fn graylisting_is_timed() {
        let mut log = Log::new(1);
        for (sybil, at) in [(5, 9), (6, 4), (5, 3)] {
            log.sybils_graylisted(sybil, at * 1_000_000);
        }
        let since = Duration::from_secs(1);
        assert_eq!(
            log.graylisted_within(since, 2, 0.5),
            Some(Duration::from_secs(2))
        );
        assert_eq!(
            log.graylisted_within(since, 2, 1.0),
            Some(Duration::from_secs(3))
        );
        assert_eq!(log.graylisted_within(since, 3, 1.0), None);
    }
}
