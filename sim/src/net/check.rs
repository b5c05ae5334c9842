//! What must hold at every moment, checked at each virtual second.

use super::{Mind, Simulation, TOPIC, micros};

/// Microseconds after which a connected peer has surely said what it is subscribed to.
const SETTLED: u64 = 3_000_000;
/// Seconds for which a mesh may be too small though there are peers to graft: the heartbeat that fills it, and GRAFTs that are
/// refused because the other mesh is full.
const PATIENCE: u32 = 5;

impl Simulation {
    /// Looks at each router: meshes within their bounds, caches within theirs, and only what is young remembered.
    pub(super) fn check(&mut self) {
        let mut found = Vec::new();
        let mut thin = Vec::new();
        for (at, node, router) in self.routers() {
            let config = router.config();
            let mesh = router.mesh_peers(TOPIC);
            let outbound = mesh
                .iter()
                .filter(|key| {
                    node.links
                        .get(key.index())
                        .is_some_and(|l| l.as_ref().is_some_and(|l| l.outbound))
                })
                .count();
            // From `d_high` on only GRAFTs of peers that we dialled are accepted; the heartbeat may add a few better ones.
            if mesh.len() - outbound > config.d_high + config.opportunistic_graft_peers {
                found.push(format!(
                    "{at} has {} in its mesh, {outbound} of them dialled",
                    mesh.len()
                ));
            }
            let free = |link: &super::Link| {
                let other = &self.nodes[link.peer as usize];
                let backed_off = |backoffs: &std::collections::HashMap<u32, u64>, peer: u32| {
                    let slack = micros(config.heartbeat_interval * (config.backoff_slack + 1));
                    backoffs
                        .get(&peer)
                        .is_some_and(|until| until + slack > self.now)
                };
                let full = match &other.mind {
                    Mind::Router(router) => router.mesh_peers(TOPIC).len() >= config.d_high,
                    _ => true,
                };
                link.since + SETTLED < self.now
                    && !full
                    && !backed_off(&node.backoffs, link.peer)
                    && !backed_off(&other.backoffs, at as u32)
                    && link.key.is_some_and(|key| {
                        !mesh.contains(&key) && router.status(key).is_some_and(|s| s.score >= 0.0)
                    })
            };
            let lacks = mesh.len() < config.d_low && node.links.iter().flatten().any(free);
            let seconds = if lacks { node.thin + 1 } else { 0 };
            thin.push((at, seconds));
            if seconds > PATIENCE {
                found.push(format!(
                    "{at} has only {} in its mesh and does not graft",
                    mesh.len()
                ));
            }
            let sizes = router.sizes();
            let young = self.log.published_since(
                self.now,
                config.seen_ttl + config.seen_ttl / 30 + config.heartbeat_interval,
            );
            for (what, size, bound) in [
                ("peers", sizes.peers, config.max_peers),
                ("topics", sizes.topics, config.max_topics),
                ("ids", sizes.seen, config.seen_max_entries),
                ("records", sizes.records, config.max_records),
                (
                    "bytes of history",
                    sizes.history_bytes,
                    config.history_bytes,
                ),
                ("promises", sizes.promises, config.max_promises),
                ("messages pending", sizes.pending, config.max_pending),
                (
                    "backoffs",
                    sizes.backoffs,
                    config.max_backoffs.min(self.nodes.len()),
                ),
                (
                    "unwanted ids",
                    sizes.unwanted,
                    config.max_idontwant_ids * sizes.peers,
                ),
                (
                    "bytes queued",
                    sizes.queued_bytes,
                    config.queue.max_bytes * sizes.peers,
                ),
                ("outputs", sizes.outputs, 0),
            ] {
                if size > bound {
                    found.push(format!(
                        "{at} holds {size} {what}, at most {bound} are allowed"
                    ));
                }
            }
            if self.scenario.sybils.is_none() && sizes.seen > young {
                found.push(format!(
                    "{at} remembers {} ids, of which {young} are young",
                    sizes.seen
                ));
            }
        }
        for (at, seconds) in thin {
            self.nodes[at].thin = seconds;
        }
        for what in found {
            self.violated(what);
        }
    }
}
