//! Transports, the connection upgrade and the connection task.
//!
//! This crate turns a byte stream (TCP, memory, or any `AsyncRead + AsyncWrite`) into a
//! [`Connection`]: authenticated by Noise or TLS, multiplexed by Yamux, and driven by one task that owns
//! the read half of the socket, the record layer and the multiplexer.
//!
//! ```text
//! socket ─ read ─▶ slab ─ open in place ─▶ mux ─ Bytes slices ─▶ Stream::read_chunk
//! socket ◀ write ─ buffer ◀ seal (the one copy) ─ mux ◀ Bytes ─ Stream::write_chunk
//! ```
//!
//! QUIC has its own security, streams and tasks, all by quinn ([`quic`]); a [`Connection`] and its
//! [`Stream`]s promise the same over it.
//!
//! A write queues a reference and wakes the connection task, which runs behind the tasks that are
//! ready now: what several streams queue is sealed and written together.

mod close;
mod config;
mod connection;
pub mod dns;
mod driver;
mod error;
mod inbound;
mod lease;
pub mod memory;
mod muxed;
pub mod pnet;
pub mod quic;
mod secure;
mod slab;
mod stream;
pub mod tcp;
mod traffic;
mod transmit;
mod transports;
mod upgrade;
pub mod ws;

pub use close::{CloseReason, LocalReason, Party};
pub use config::{Admission, MuxerKind, UpgradeConfig};
pub use connection::{CIRCUIT, CircuitLimit, Connection, ConnectionInfo, ConnectionStats};
pub use error::{NegotiateError, OpenStreamError, StreamError, UpgradeError};
pub use inbound::{InboundStream, InboundStreams};
pub use lease::{Hold, HoldKind, Lease, WhyOpen};
pub use secure::Security;
pub use stream::{HeldAnswer, InlineHandler, ReadHalf, Stream, WriteHalf};
pub use traffic::{ProtocolTraffic, Traffic};
pub use transports::{
    AcceptError, ConnectError, Incoming, Listener, LocalPort, RawConnection, TransportConfig,
    TransportError, Transports,
};
pub use upgrade::{upgrade_halves, upgrade_inbound, upgrade_outbound};

pub use barewire_base::{Fault, Multiaddr, PeerId};
pub use barewire_mux::{LimitsHit, Role};
