//! What an endpoint can be asked for at any moment, for its metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Weak,
};

use super::{Endpoint, Shared};
use crate::{dial::BlackHoleState, incidents::Incident, metrics::Live};

impl Endpoint {
    /// What this node has counted and holds now, as OpenMetrics text
    /// (`application/openmetrics-text; version=1.0.0; charset=utf-8`). Costs a look at each
    /// connection.
    #[must_use]
    pub fn metrics(&self) -> String {
        let shared = self.shared();
        shared.metrics.render(shared.live())
    }
}

fn label(name: &'static str, value: impl ToString) -> (&'static str, String) {
    (name, value.to_string())
}

impl Shared {
    fn live(&self) -> Live {
        let mut live = Live::default();
        let mut connections = BTreeMap::<_, u64>::new();
        let mut holds = BTreeMap::<_, u64>::new();
        let mut idle = 0;
        let mut streams = [0u64; 2];
        let (bytes, peers) = {
            let table = self.table.lock();
            let mut bytes = self.metrics.ended_bytes();
            for connection in table.all() {
                let stats = connection.stats();
                let transport = connection.info().transport;
                let direction = match connection.role() {
                    barewire_transport::Role::Client => "outbound",
                    barewire_transport::Role::Server => "inbound",
                };
                *connections.entry((transport, direction)).or_default() += 1;
                let why = connection.why_open();
                idle += u64::from(why.holds.is_empty());
                // A connection counts once for each name.
                let names: BTreeSet<_> = why.holds.into_iter().map(|h| (h.kind, h.name)).collect();
                for name in names {
                    *holds.entry(name).or_default() += 1;
                }
                streams[0] += stats.streams_inbound as u64;
                streams[1] += stats.streams_outbound as u64;
                let (sent, received) = bytes.entry(transport).or_default();
                *sent += stats.bytes_sent;
                *received += stats.bytes_received;
            }
            (bytes, table.peer_count() as u64)
        };
        let bytes = bytes.into_iter();
        live.gauge(
            "connections",
            "Established connections",
            connections.into_iter().map(|((transport, direction), n)| {
                let labels = vec![label("transport", transport), label("direction", direction)];
                (labels, n)
            }),
        );
        live.gauge(
            "connections_held",
            "Connections that streams of a protocol or leases of a name keep open",
            holds.into_iter().map(|((kind, name), n)| {
                (vec![label("by", kind.as_str()), label("name", name)], n)
            }),
        );
        live.gauge(
            "connections_idle",
            "Connections that nothing keeps open",
            [(Vec::new(), idle)],
        );
        live.gauge("peers", "Connected peers", [(Vec::new(), peers)]);
        let directions = ["inbound", "outbound"].into_iter().zip(streams);
        live.gauge(
            "streams",
            "Open streams",
            directions.map(|(direction, n)| (vec![label("direction", direction)], n)),
        );
        live.counter(
            "transport_bytes",
            "Bytes written to and read from sockets",
            bytes.flat_map(|(transport, (sent, received))| {
                [("sent", sent), ("received", received)].map(|(direction, n)| {
                    let labels = vec![label("transport", transport), label("direction", direction)];
                    (labels, n)
                })
            }),
        );
        live.protocols(&self.transports.traffic().by_protocol());
        live.counter(
            "connections_closed",
            "Connections that ended or were turned away when they were ready, by who ended them and why",
            self.manager.closes().into_iter().map(|close| {
                let labels = vec![label("by", close.who), label("reason", close.why)];
                (labels, close.count)
            }),
        );
        live.counter(
            "drops",
            "What remotes were kept from, by the reason",
            Incident::ALL.into_iter().map(|kind| {
                let labels = vec![label("reason", kind)];
                (labels, self.incidents.count(kind))
            }),
        );
        let pending = self.pending.lock().len() as u64;
        live.gauge(
            "pending_inbound",
            "Inbound connections in their upgrade",
            [(Vec::new(), pending)],
        );
        let budget = self.manager.buffers();
        let budget = [("used", budget.used()), ("limit", budget.limit())];
        live.gauge(
            "buffer_bytes",
            "Memory budget of all connections",
            budget.map(|(kind, n)| (vec![label("kind", kind)], n as u64)),
        );
        let (listening, external, candidates) = {
            let addresses = self.addresses.lock();
            let observed = &addresses.observed;
            let external = observed.confirmed().len();
            (addresses.listening().len(), external, observed.candidates())
        };
        let kinds = [
            ("listening", listening),
            ("external", external),
            ("observed", candidates),
        ];
        live.gauge(
            "addresses",
            "Addresses this node listens on, is confirmed at, is seen at",
            kinds.map(|(kind, n)| (vec![label("kind", kind)], n as u64)),
        );
        let dials = self.dialer.stats();
        let blocked = [("udp", dials.udp), ("ipv6", dials.ipv6)];
        live.gauge(
            "dials_blocked",
            "1 where so few dials of a kind succeed that its packets seem not to get through",
            blocked.map(|(kind, state)| {
                let is = u64::from(state == BlackHoleState::Blocked);
                (vec![label("kind", kind)], is)
            }),
        );
        live.gauge(
            "peer_book_peers",
            "Peers in the peer book",
            [(Vec::new(), self.peer_book.len() as u64)],
        );
        for source in self.metrics_sources.lock().iter().filter_map(Weak::upgrade) {
            source.collect(&mut live);
        }
        live
    }
}
