//! What a node counts, as OpenMetrics text.
//!
//! Labels come from fixed sets, or, for protocols, from what this node registers or dials itself:
//! no remote can make a new one.

use std::{collections::BTreeMap, fmt, time::Duration};

use barewire_base::{Multiaddr, Protocol};
use barewire_transport::{Connection, ProtocolTraffic, Role, TransportError};
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};

use crate::error::DialError;

/// Upper bounds of handshakes, in seconds: from a loopback to a satellite, up to the deadline.
const HANDSHAKE_BUCKETS: [f64; 12] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];
/// Upper bounds of round trips, in seconds: from a loopback to a satellite.
const RTT_BUCKETS: [f64; 14] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.25, 1.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Path {
    transport: &'static str,
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Carrier {
    transport: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    transport: &'static str,
    outcome: &'static str,
}

impl Path {
    fn of(connection: &Connection) -> Self {
        Self {
            transport: connection.info().transport,
            direction: direction(connection.role()),
        }
    }
}

fn direction(role: Role) -> &'static str {
    match role {
        Role::Client => "outbound",
        Role::Server => "inbound",
    }
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Counters of events; what can be asked for is not counted but asked when it is rendered.
#[derive(Debug)]
pub(crate) struct Metrics {
    opened: Family<Path, Counter>,
    handshakes: Histograms<Path>,
    round_trips: Histograms<Carrier>,
    dials: Family<Attempt, Counter>,
    /// Bytes of connections that have ended, by transport: sent, received.
    ended: Mutex<BTreeMap<&'static str, (u64, u64)>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            opened: Family::default(),
            handshakes: Family::new_with_constructor(|| Histogram::new(HANDSHAKE_BUCKETS)),
            round_trips: Family::new_with_constructor(|| Histogram::new(RTT_BUCKETS)),
            dials: Family::default(),
            ended: Mutex::default(),
        }
    }
}

impl Metrics {
    /// A connection is ready; its handshake took `took`, a dial's with the connecting.
    pub(crate) fn handshake(&self, connection: &Connection, took: Duration) {
        let path = Path::of(connection);
        self.handshakes
            .get_or_create(&path)
            .observe(took.as_secs_f64());
    }

    /// A connection has entered the table.
    pub(crate) fn opened(&self, connection: &Connection) {
        self.opened.get_or_create(&Path::of(connection)).inc();
    }

    /// A connection has left the table. Called with the table locked, so that its bytes are neither
    /// missed nor counted twice.
    pub(crate) fn ended(&self, connection: &Connection) {
        let stats = connection.stats();
        let mut ended = self.ended.lock();
        let (sent, received) = ended.entry(connection.info().transport).or_default();
        *sent += stats.bytes_sent;
        *received += stats.bytes_received;
        drop(ended);
        // Short connections end before a ping is due.
        if let Some(rtt) = stats.rtt {
            self.round_trip(connection, rtt);
        }
    }

    /// A round trip was measured.
    pub(crate) fn round_trip(&self, connection: &Connection, rtt: Duration) {
        let transport = connection.info().transport;
        self.round_trips
            .get_or_create(&Carrier { transport })
            .observe(rtt.as_secs_f64());
    }

    /// What came of an address that was to be dialled: `connected`, `cancelled`, or
    /// [what kept it](outcome_of).
    pub(crate) fn dialled(&self, addr: &Multiaddr, outcome: &'static str) {
        let attempt = Attempt {
            transport: transport_of(addr),
            outcome,
        };
        self.dials.get_or_create(&attempt).inc();
    }

    /// OpenMetrics text of what was counted and what is `live`.
    pub(crate) fn render(&self, live: Live) -> String {
        let mut registry = Registry::with_prefix("barewire");
        registry.register(
            "connections_opened",
            "Connections that were established",
            self.opened.clone(),
        );
        registry.register_with_unit(
            "handshake",
            "Time from accepting, or from beginning to dial, to a ready connection",
            Unit::Seconds,
            self.handshakes.clone(),
        );
        registry.register_with_unit(
            "rtt",
            "Round trips measured by ping, and the last of each connection that ended",
            Unit::Seconds,
            self.round_trips.clone(),
        );
        registry.register(
            "dials",
            "Addresses that were to be dialled, by what came of it",
            self.dials.clone(),
        );
        registry.register_collector(Box::new(live));
        let mut text = String::new();
        // Writing into a string does not fail.
        match encode(&mut text, &registry) {
            Ok(()) => text,
            Err(fmt::Error) => String::new(),
        }
    }

    /// Bytes of ended connections, by transport: sent, received.
    pub(crate) fn ended_bytes(&self) -> BTreeMap<&'static str, (u64, u64)> {
        self.ended.lock().clone()
    }
}

/// The name [`ConnectionInfo::transport`](barewire_transport::ConnectionInfo::transport) will have.
fn transport_of(addr: &Multiaddr) -> &'static str {
    let mut name = "other";
    let mut secure = false;
    for part in addr.iter() {
        name = match part {
            Protocol::Tcp(_) => "tcp",
            Protocol::Tls => {
                secure = true;
                continue;
            }
            Protocol::Wss => "wss",
            Protocol::Ws if secure => "wss",
            Protocol::Ws => "ws",
            Protocol::QuicV1 => "quic-v1",
            Protocol::Memory(_) => "memory",
            Protocol::P2pCircuit => "relay",
            _ => continue,
        };
    }
    name
}

/// The kind of an error in few words.
pub(crate) fn outcome_of(error: &DialError) -> &'static str {
    match error {
        DialError::Transport(TransportError::Timeout(_)) => "timeout",
        DialError::Transport(TransportError::Unsupported(_)) => "unsupported",
        DialError::Transport(_) => "unreachable",
        DialError::Upgrade { .. } => "handshake_failed",
        DialError::WrongPeer { .. } => "wrong_peer",
        DialError::Limit { .. } => "limit",
        DialError::Gated { .. } => "gated",
        DialError::Skipped { .. } => "skipped",
        DialError::Name { .. } => "name",
        DialError::PrivateName { .. } => "private_name",
        DialError::OwnAddress(_) => "own_address",
        DialError::Relay { .. } => "relay",
        _ => "other",
    }
}

/// A part of the node that has values of its own.
pub(crate) trait MetricsSource: Send + Sync {
    fn collect(&self, live: &mut Live);
}

/// Values of a moment.
#[derive(Debug, Default)]
pub(crate) struct Live(Vec<LiveFamily>);

#[derive(Debug)]
struct LiveFamily {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    values: Vec<(Labels, u64)>,
}

type Labels = Vec<(&'static str, String)>;

impl Live {
    /// Adds values that go up and down.
    pub(crate) fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        self.add(name, help, MetricType::Gauge, values);
    }

    /// Adds values that only grow.
    pub(crate) fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        self.add(name, help, MetricType::Counter, values);
    }

    fn add(
        &mut self,
        name: &'static str,
        help: &'static str,
        kind: MetricType,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        let values = values.into_iter().collect();
        self.0.push(LiveFamily {
            name,
            help,
            kind,
            values,
        });
    }

    /// Adds what each protocol has moved.
    pub(crate) fn protocols(&mut self, traffic: &[(std::sync::Arc<str>, ProtocolTraffic)]) {
        let each = |directions: [&'static str; 2], of: fn(&ProtocolTraffic) -> [u64; 2]| {
            let values = traffic.iter().flat_map(move |(protocol, traffic)| {
                let named = directions.into_iter().zip(of(traffic));
                named.map(move |(direction, value)| {
                    let protocol = ("protocol", protocol.to_string());
                    (vec![protocol, ("direction", direction.to_owned())], value)
                })
            });
            values.collect::<Vec<_>>()
        };
        let opened = each(["inbound", "outbound"], |t| {
            [t.streams_inbound, t.streams_outbound]
        });
        self.counter(
            "streams_opened",
            "Streams that agreed on a protocol",
            opened,
        );
        let bytes = each(["sent", "received"], |t| [t.bytes_sent, t.bytes_received]);
        self.counter(
            "stream_bytes",
            "Bytes that went over streams, without framing",
            bytes,
        );
    }
}

impl Collector for Live {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in &self.0 {
            let mut metric =
                encoder.encode_descriptor(family.name, family.help, None, family.kind)?;
            for (labels, value) in &family.values {
                let metric = metric.encode_family(labels)?;
                match family.kind {
                    MetricType::Counter => ConstCounter::new(*value).encode(metric)?,
                    // Larger ones do not occur: they are bytes and counts of this machine.
                    _ => {
                        ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX)).encode(metric)?
                    }
                }
            }
        }
        Ok(())
    }
}
