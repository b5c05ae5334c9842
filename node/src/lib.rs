//! The node of barewire: an [`Endpoint`] that listens and dials, a [`Router`] that gives inbound
//! streams to handlers, and the protocols every node speaks.
//!
//! ```no_run
//! use barewire_node::{Endpoint, Keypair, Router, protocols::echo};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let endpoint = Endpoint::builder(Keypair::generate(&mut rand::rng())).bind().await?;
//! let router = Router::builder(endpoint).accept(echo::PROTOCOL, echo::Echo).spawn()?;
//! let addr = router.endpoint().listen("/ip4/127.0.0.1/tcp/0".parse()?).await?;
//! println!("{addr}/p2p/{}", router.endpoint().peer_id());
//! # Ok(())
//! # }
//! ```

pub mod addresses;
mod codes;
mod config;
pub mod dial;
pub mod discovery;
mod endpoint;
mod error;
mod events;
mod incidents;
pub mod keyfile;
pub mod manager;
pub mod mdns;
mod metrics;
pub mod peer_book;
pub mod port_mapping;
pub mod protocols;
mod router;

pub use barewire_base::{Fault, Keypair, Multiaddr, PeerId, PublicKey};
pub use barewire_transport::quic::{CongestionController, QuicConfig};
pub use barewire_transport::{
    CircuitLimit, CloseReason, Connection, ConnectionInfo, ConnectionStats, Hold, HoldKind, Lease,
    LocalReason, MuxerKind, OpenStreamError, Party, Role, Stream, StreamError, TransportError,
    UpgradeError, WhyOpen, pnet, ws,
};
pub use config::{Config, IdentifyConfig, PingConfig, SecurityKind};
pub use endpoint::{Endpoint, EndpointBuilder, ShutdownReport, State};
pub use error::{BindError, DialError, ListenError, OpenError};
pub use events::{Event, EventItem, Events};
pub use incidents::Incident;
pub use router::{BoxFuture, ProtocolHandler, Router, RouterBuilder, RouterError};

/// The example of the README, compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
