//! The limits of a node, derived from the machine by one number: the memory it may take.

use std::{collections::HashSet, time::Duration};

use barewire_base::PeerId;

use super::machine::Machine;

/// Descriptors that connections never take: for files, listeners and whatever else the program
/// opens. (Own choice.)
pub const RESERVED_DESCRIPTORS: u64 = 16;
/// Descriptors a process needs by itself: standard streams, the runtime, some listeners.
const OWN_DESCRIPTORS: u64 = 16;
/// What an idle connection costs at most, kernel and allocator slack included. 7 KiB are measured
/// over TCP with Noise; the rest is for what buffers hold without being charged to a budget.
const CONNECTION_COST: u64 = 25 * 1024;
/// Upper end of the derived number of connections.
const MAX_CONNECTIONS: u64 = 16_384;
/// Memory that is assumed where the machine does not tell.
const UNKNOWN_MEMORY: u64 = 1 << 30;
/// Least memory that limits are derived from.
const LEAST_MEMORY: u64 = 16 << 20;
/// Most a peer may buffer: two streams at their largest window.
const MAX_PEER_MEMORY: u64 = 256 << 20;

/// Limits on connections. Plain numbers, derived from the machine by default; see
/// [`Limits::derive`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// Memory the other limits are derived from, in bytes. Default: the limit of the control group,
    /// else a quarter of the machine's memory, because other programs live there too.
    pub memory: u64,
    /// Resident bytes the process should stay below. At 80 % of it, and at 80 % of the limit of the
    /// control group, new connections are refused; if that does not help, those that hold most are
    /// closed. Default: none; [`derive`](Self::derive) with a given memory sets it to that.
    pub max_resident: Option<u64>,
    /// Bytes all connections together may buffer. Default: a quarter of [`memory`](Self::memory), because what is
    /// buffered takes up to twice its length: it lies in pieces, and the allocator keeps for a while what was freed.
    /// So full buffers alone are no reason to refuse anybody.
    pub buffers: usize,
    /// Bytes all connections of one peer may buffer. Default: a quarter of
    /// [`buffers`](Self::buffers), at most 256 MiB.
    pub buffers_per_peer: usize,
    /// Established connections. One over the limit is closed with code `0x1001` once it is known
    /// whose it is; a dial fails. Default: as many as a quarter of the memory pays for at 25 KiB
    /// each, at most 16,384.
    pub max_connections: usize,
    /// Established inbound connections. Default: seven eighths of
    /// [`max_connections`](Self::max_connections), so that a flood leaves room to dial.
    pub max_inbound: usize,
    /// Established connections, dials and inbound handshakes that each take a descriptor (not QUIC).
    /// Default: the limit of open files less 32.
    pub max_descriptors: usize,
    /// Inbound connections that may be in their upgrade at once; at the limit the oldest is
    /// dropped. Default 64, go-libp2p's transient scope, or a quarter of the descriptors.
    pub max_pending_inbound: usize,
    /// The same limit for one network. Default 8, go-libp2p's limit per address.
    pub max_pending_per_ip: usize,
    /// Connections of one peer. Default 8, as go-libp2p.
    pub max_per_peer: usize,
    /// Inbound connections from one network: an IPv4 address or an IPv6 /56. Default: 1/64 of
    /// [`max_connections`](Self::max_connections), at least go-libp2p's 8.
    pub max_per_ip: usize,
    /// New inbound connections per second from one network, on the average. Default 5, as js-libp2p.
    pub rate_per_ip: u32,
    /// New inbound connections from one network that may come at once. Default: twice
    /// [`max_per_ip`](Self::max_per_ip), as go-libp2p.
    pub burst_per_ip: u32,
    /// Whether the limits per network count loopback addresses too. Default no.
    pub limit_loopback: bool,
    /// More connections than this are trimmed to [`low_water`](Self::low_water), those of least
    /// value first. Default: the smaller of [`max_connections`](Self::max_connections) without the
    /// reserved slots and [`max_inbound`](Self::max_inbound): nobody is sent away before somebody
    /// else needs the room.
    pub high_water: usize,
    /// What trimming leaves. Default: five sixths of [`high_water`](Self::high_water), go-libp2p's
    /// ratio.
    pub low_water: usize,
    /// Connections younger than this are not trimmed. Default 1 min, as go-libp2p.
    pub grace: Duration,
    /// Time between two trims. Default 10 s, as go-libp2p.
    pub silence: Duration,
    /// Connections out of [`max_connections`](Self::max_connections) that only protected and
    /// reserved peers may have. Default 1/64, at least 1.
    pub reserved_slots: usize,
    /// Peers that may use the reserved slots and are never trimmed. Default none.
    pub reserved_peers: HashSet<PeerId>,
}

impl Default for Limits {
    fn default() -> Self {
        Self::derive(Machine::get(), None)
    }
}

/// One derived limit with the reason for its value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// Name of the field of [`Limits`].
    pub name: &'static str,
    /// Its value.
    pub value: u64,
    /// What it counts.
    pub unit: &'static str,
    /// Where the value comes from.
    pub source: String,
}

impl Limits {
    /// The limits that suit a machine. `memory` replaces the number of bytes that would be derived.
    #[must_use]
    pub fn derive(machine: &Machine, memory: Option<u64>) -> Self {
        let max_resident = memory;
        let memory = memory
            .unwrap_or_else(|| default_memory(machine))
            .max(LEAST_MEMORY);
        let buffers = memory / 4;
        let usable = usable_descriptors(machine);
        let pending = usable.map_or(64, |usable| 64.min(usable / 4)).max(1);
        let paid = (memory / 4 / CONNECTION_COST).clamp(8, MAX_CONNECTIONS);
        let max_connections = match usable {
            // QUIC needs no descriptor for a connection, but most peers come by TCP.
            Some(usable) => paid.min(usable.saturating_sub(pending)).max(1),
            None => paid,
        };
        let reserved = (max_connections / 64).max(1).min(max_connections - 1);
        let max_inbound = (max_connections - max_connections / 8).max(1);
        let max_per_ip = (max_connections / 64).max(8);
        let mut limits = Self {
            memory,
            max_resident,
            buffers: size(buffers),
            buffers_per_peer: size((buffers / 4).min(MAX_PEER_MEMORY)),
            max_connections: size(max_connections),
            max_inbound: size(max_inbound),
            max_descriptors: usable.map_or(usize::MAX, size),
            max_pending_inbound: size(pending),
            max_pending_per_ip: 8.min(size(pending)),
            max_per_peer: 8,
            max_per_ip: size(max_per_ip),
            rate_per_ip: 5,
            burst_per_ip: u32::try_from(max_per_ip * 2).unwrap_or(u32::MAX),
            limit_loopback: false,
            high_water: 0,
            low_water: 0,
            grace: Duration::from_secs(60),
            silence: Duration::from_secs(10),
            reserved_slots: size(reserved),
            reserved_peers: HashSet::new(),
        };
        limits.set_water();
        limits
    }

    /// Room for `inbound` connections, and an eighth more for those this node dials and those that
    /// have reserved slots. Water marks and limits per network follow; memory and descriptors do
    /// not.
    pub fn set_connections(&mut self, inbound: usize) {
        let inbound = inbound.max(1);
        self.max_inbound = inbound;
        self.reserved_slots = (inbound / 64).max(1);
        self.max_connections = inbound
            .saturating_add((inbound / 8).max(1))
            .saturating_add(self.reserved_slots);
        self.max_per_ip = (self.max_connections / 64).max(8);
        self.burst_per_ip = u32::try_from(self.max_per_ip * 2).unwrap_or(u32::MAX);
        self.set_water();
    }

    /// Up to `held` connections from one network, an eighth as many new ones per second, and twice as
    /// many at once.
    pub fn set_per_ip(&mut self, held: usize) {
        let as_u32 = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        self.max_per_ip = held.max(1);
        self.max_pending_per_ip = self
            .max_pending_per_ip
            .max(held.min(self.max_pending_inbound) / 8);
        self.rate_per_ip = as_u32(held / 8).max(5);
        self.burst_per_ip = as_u32(held.saturating_mul(2)).max(2);
    }

    fn set_water(&mut self) {
        let ordinary = self.max_connections.saturating_sub(self.reserved_slots);
        self.high_water = ordinary.min(self.max_inbound);
        self.low_water = self.high_water - self.high_water / 6;
    }

    /// The limits of `machine` with their reasons, in the order of the fields.
    #[must_use]
    pub fn explain(machine: &Machine, memory: Option<u64>) -> Vec<Explanation> {
        let limits = Self::derive(machine, memory);
        let given = "given".to_owned();
        let memory_source = match (memory, &machine.group, machine.ram) {
            (Some(_), _, _) => given,
            (None, Some(group), _) => format!(
                "limit of the control group (v{}), {} bytes",
                group.version, group.limit
            ),
            (None, None, Some(ram)) => format!("a quarter of the machine's {ram} bytes"),
            (None, None, None) => "the machine does not tell its memory".into(),
        };
        let descriptor_source = match machine.descriptors {
            Some(limit) => format!(
                "limit of open files {limit}, less {RESERVED_DESCRIPTORS} reserved and \
                 {OWN_DESCRIPTORS} of its own"
            ),
            None => "no limit of open files is known".into(),
        };
        let paid = limits.memory / 4 / CONNECTION_COST;
        let connection_source = if limits.max_connections as u64 == MAX_CONNECTIONS {
            "upper end of what is derived".to_owned()
        } else if limits.max_connections as u64 >= paid.max(8) {
            format!("a quarter of the memory at {CONNECTION_COST} bytes each")
        } else {
            "descriptors less pending handshakes".to_owned()
        };
        let mut all = Vec::new();
        let mut add = |name, value: u64, unit, source: &str| {
            all.push(Explanation {
                name,
                value,
                unit,
                source: source.to_owned(),
            });
        };
        add("memory", limits.memory, "bytes", &memory_source);
        add(
            "buffers",
            limits.buffers as u64,
            "bytes",
            "a quarter of the memory",
        );
        add(
            "buffers_per_peer",
            limits.buffers_per_peer as u64,
            "bytes",
            "a quarter of the buffers, at most 256 MiB",
        );
        add(
            "max_connections",
            limits.max_connections as u64,
            "connections",
            &connection_source,
        );
        add(
            "max_inbound",
            limits.max_inbound as u64,
            "connections",
            "seven eighths of max_connections",
        );
        add(
            "max_descriptors",
            limits.max_descriptors as u64,
            "descriptors",
            &descriptor_source,
        );
        add(
            "max_pending_inbound",
            limits.max_pending_inbound as u64,
            "handshakes",
            "64, at most a quarter of the descriptors",
        );
        add(
            "max_pending_per_ip",
            limits.max_pending_per_ip as u64,
            "handshakes",
            "8, as go-libp2p",
        );
        add(
            "max_per_peer",
            limits.max_per_peer as u64,
            "connections",
            "8, as go-libp2p",
        );
        add(
            "max_per_ip",
            limits.max_per_ip as u64,
            "connections",
            "1/64 of max_connections, at least 8",
        );
        add(
            "rate_per_ip",
            u64::from(limits.rate_per_ip),
            "connections/s",
            "5, as js-libp2p",
        );
        add(
            "burst_per_ip",
            u64::from(limits.burst_per_ip),
            "connections",
            "twice max_per_ip",
        );
        add(
            "high_water",
            limits.high_water as u64,
            "connections",
            "what inbound and total leave; more are trimmed",
        );
        add(
            "low_water",
            limits.low_water as u64,
            "connections",
            "five sixths of high_water, as go-libp2p",
        );
        add("grace", limits.grace.as_secs(), "s", "1 min, as go-libp2p");
        add(
            "silence",
            limits.silence.as_secs(),
            "s",
            "10 s, as go-libp2p",
        );
        add(
            "reserved_slots",
            limits.reserved_slots as u64,
            "connections",
            "1/64 of max_connections, for protected peers",
        );
        all
    }
}

fn default_memory(machine: &Machine) -> u64 {
    match (&machine.group, machine.ram) {
        (Some(group), _) => group.limit,
        // Other programs live here too.
        (None, Some(ram)) => ram / 4,
        (None, None) => UNKNOWN_MEMORY,
    }
}

/// Descriptors that connections may take; at least a few, so that a tiny limit is no zero.
fn usable_descriptors(machine: &Machine) -> Option<u64> {
    let limit = machine.descriptors?;
    Some(
        limit
            .saturating_sub(RESERVED_DESCRIPTORS + OWN_DESCRIPTORS)
            .max(4),
    )
}

/// Dials of all peers that may be under way at once: an eighth of the descriptors, at most 100, as
/// js-libp2p.
pub(crate) fn max_dials(machine: &Machine) -> usize {
    usable_descriptors(machine).map_or(100, |usable| size((usable / 8).clamp(1, 100)))
}

fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(ram: u64, descriptors: u64) -> Machine {
        Machine {
            ram: Some(ram),
            descriptors: Some(descriptors),
            ..Machine::default()
        }
    }

    #[test]
    fn memory_and_descriptors_both_bound_connections() {
        let rich = Limits::derive(&machine(32 << 30, 1 << 20), None);
        assert_eq!((rich.memory, rich.max_connections), (8 << 30, 16_384));
        assert_eq!(max_dials(&machine(32 << 30, 1 << 20)), 100);
        assert_eq!(max_dials(&machine(32 << 30, 64)), 4);
        assert_eq!((rich.max_inbound, rich.max_per_ip), (14_336, 256));
        let few = Limits::derive(&machine(32 << 30, 64), None);
        assert_eq!(
            (
                few.max_descriptors,
                few.max_pending_inbound,
                few.max_connections
            ),
            (32, 8, 24)
        );
        let small = Limits::derive(&machine(32 << 30, 1 << 20), Some(128 << 20));
        assert_eq!((small.buffers, small.max_connections), (32 << 20, 1_310));
        assert_eq!(small.buffers_per_peer, 8 << 20);
    }

    #[test]
    fn no_machine_is_too_small_or_unknown() {
        for machine in [
            machine(0, 0),
            machine(u64::MAX, u64::MAX),
            Machine::default(),
        ] {
            for memory in [None, Some(0), Some(u64::MAX)] {
                let limits = Limits::derive(&machine, memory);
                assert!(limits.max_connections >= 1 && limits.max_inbound >= 1);
                assert!(limits.low_water <= limits.high_water);
                assert!(limits.high_water <= limits.max_connections);
                assert!(limits.reserved_slots < limits.max_connections);
                assert!(limits.max_pending_inbound >= 1 && limits.buffers > 0);
                assert_eq!(Limits::explain(&machine, memory).len(), 17);
            }
        }
    }

    #[test]
    fn a_given_number_is_the_number_of_inbound_connections() {
        let mut limits = Limits::default();
        limits.set_connections(10_000);
        assert_eq!((limits.max_inbound, limits.high_water), (10_000, 10_000));
        assert!(limits.max_connections - limits.reserved_slots > 10_000);
    }
}
