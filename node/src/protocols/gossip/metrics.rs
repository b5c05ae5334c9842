//! What a node's gossip counts and holds, for its metrics.

use std::{collections::BTreeMap, sync::Arc, sync::atomic::Ordering};

use barewire_gossip::{Metrics, Sizes};

use super::{
    Common,
    driver::{Driver, Topic},
};
use crate::metrics::{Live, MetricsSource};

/// The latest figures. Counters are those of the last turn of the driver, the rest is at most a second old.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    pub(super) counted: Metrics,
    sizes: Sizes,
    /// By our topics: peers in the mesh, peers subscribed, messages dropped by subscribers.
    topics: BTreeMap<Arc<str>, [u64; 3]>,
    versions: BTreeMap<&'static str, u64>,
}

impl Snapshot {
    pub(super) fn of(driver: &Driver, counted: Metrics) -> Self {
        let router = &driver.router;
        let topics = driver.topics.iter().map(|(name, topic)| {
            let mesh = router.mesh_peers(name).len() as u64;
            let subscribed = router.topic_peers(name).len() as u64;
            (Arc::clone(name), [mesh, subscribed, topic.dropped()])
        });
        let mut versions = BTreeMap::new();
        for status in router.peers().filter_map(|key| router.status(key)) {
            *versions.entry(status.version.protocol_id()).or_default() += 1;
        }
        Self {
            counted,
            sizes: router.sizes(),
            topics: topics.collect(),
            versions,
        }
    }
}

impl Topic {
    /// Messages that its subscribers did not take in time.
    pub(super) fn dropped(&self) -> u64 {
        let queues = self.queues.iter();
        self.dropped + queues.map(|queue| queue.dropped()).sum::<u64>()
    }
}

impl MetricsSource for Common {
    fn collect(&self, live: &mut Live) {
        let snapshot = self.snapshot.lock().clone();
        let m = &snapshot.counted;
        let kinds = |values: &[(&'static str, u64)]| {
            let label = |(kind, n): &(&'static str, u64)| (vec![("kind", (*kind).to_owned())], *n);
            values.iter().map(label).collect::<Vec<_>>()
        };
        live.counter(
            "gossip_messages",
            "Messages of gossip, by what became of them",
            kinds(&[
                ("received", m.messages_in),
                ("duplicate", m.duplicates),
                ("delivered", m.delivered),
                ("rejected", m.rejected),
                ("ignored", m.ignored),
                ("throttled", m.throttled),
                ("gated", m.gated),
                ("unsubscribed", m.unsubscribed),
                ("published", m.published),
                ("queued", m.messages_queued),
                ("dropped", m.messages_dropped),
                ("served", m.iwant_served),
                ("refused", m.iwant_refused),
                ("unwanted", m.idontwant_saved),
            ]),
        );
        live.counter(
            "gossip_rpcs",
            "RPCs of gossip",
            kinds(&[
                ("received", m.rpcs_in),
                ("malformed", m.rpcs_malformed),
                ("graylisted", m.rpcs_graylisted),
                ("sent", m.frames_out),
            ]),
        );
        let control = [
            ("graft_received", m.grafts_in),
            ("graft_sent", m.grafts_out),
            ("prune_received", m.prunes_in),
            ("prune_sent", m.prunes_out),
            ("ihave_id_received", m.ihave_ids_in),
            ("ihave_ignored", m.ihave_ignored),
            ("iwant_id_sent", m.iwant_asked),
            ("idontwant_id_received", m.idontwant_ids_in),
            ("idontwant_id_sent", m.idontwant_sent),
            ("dropped", m.gossip_dropped),
            ("exchange_dial", m.px_connects),
        ];
        live.counter(
            "gossip_control",
            "Control entries of gossip",
            kinds(&control),
        );
        let single = |n: u64| [(Vec::new(), n)];
        live.counter(
            "gossip_sent_bytes",
            "Bytes of RPCs sent",
            single(m.bytes_out),
        );
        live.counter(
            "gossip_copied_bytes",
            "Payload bytes copied to be kept",
            single(m.bytes_copied),
        );
        live.counter(
            "gossip_verifications",
            "Signatures checked",
            single(m.verifications),
        );
        live.counter(
            "gossip_penalties",
            "Misbehaviour of peers",
            single(m.penalties),
        );
        live.counter(
            "gossip_broken_promises",
            "Messages offered and not sent",
            single(m.broken_promises),
        );
        live.counter("gossip_heartbeats", "Heartbeats", single(m.heartbeats));
        live.counter(
            "gossip_events_dropped",
            "Events that were not polled",
            single(m.events_dropped),
        );
        let cut = self.cut.load(Ordering::Relaxed);
        live.counter(
            "gossip_streams_cut",
            "Streams that took nothing for too long",
            single(cut),
        );
        let s = &snapshot.sizes;
        let held = [
            ("seen", s.seen),
            ("records", s.records),
            ("pending", s.pending),
            ("promises", s.promises),
            ("backoffs", s.backoffs),
            ("retained_scores", s.retained),
            ("unwanted", s.unwanted),
        ];
        let held: Vec<_> = held.into_iter().map(|(kind, n)| (kind, n as u64)).collect();
        live.gauge(
            "gossip_entries",
            "Entries in tables of the router",
            kinds(&held),
        );
        let bytes = [
            ("history", s.history_bytes as u64),
            ("pending", s.pending_bytes as u64),
            ("queued", s.queued_bytes as u64),
            ("incomplete_large_frames", self.large.lock().used() as u64),
        ];
        live.gauge(
            "gossip_bytes",
            "Bytes of messages the router holds",
            kinds(&bytes),
        );
        let versions = snapshot.versions.iter();
        live.gauge(
            "gossip_peers",
            "Peers that gossip",
            versions.map(|(version, n)| (vec![("version", (*version).to_owned())], *n)),
        );
        // Topics that the application uses; peers make none.
        let by_topic = |index: usize| {
            let topics = snapshot.topics.iter();
            let label = |name: &Arc<str>| vec![("topic", name.to_string())];
            topics
                .map(|(name, n)| (label(name), n[index]))
                .collect::<Vec<_>>()
        };
        live.gauge(
            "gossip_mesh_peers",
            "Peers in the mesh of a topic",
            by_topic(0),
        );
        live.gauge(
            "gossip_topic_peers",
            "Peers subscribed to a topic",
            by_topic(1),
        );
        live.counter(
            "gossip_subscriber_dropped",
            "Messages that subscribers did not take in time",
            by_topic(2),
        );
    }
}
