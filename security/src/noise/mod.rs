//! Noise XX as libp2p binds it (`/noise`): `Noise_XX_25519_ChaChaPoly_SHA256` with an empty
//! prologue.
//!
//! Each side proves its identity by signing its static Diffie-Hellman key; the signature travels in
//! the encrypted payload of the second and third message. There too each side may name the muxers
//! it speaks, which saves the round trip of negotiating one afterwards.
//!
//! ```
//! use std::sync::Arc;
//! use barewire_base::Keypair;
//! use barewire_security::noise::{Config, Handshake};
//! use bytes::BytesMut;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let mut rng = rand::rng();
//! let (alice, bob) = (Keypair::generate(&mut rng), Keypair::generate(&mut rng));
//! let muxers = vec![Arc::from("/yamux/1.0.0")];
//! let alice_config = Arc::new(Config::new(&alice, muxers.clone(), &mut rng)?);
//! let bob_config = Arc::new(Config::new(&bob, muxers, &mut rng)?);
//!
//! let mut dialer = Handshake::initiator(&alice_config, Some(bob.peer_id()), &mut rng)?;
//! let mut listener = Handshake::responder(&bob_config, &mut rng)?;
//! let mut wire = BytesMut::new();
//! while !(dialer.is_finished() && listener.is_finished()) {
//!     for (from, to) in [(0, 1), (1, 0)] {
//!         let mut sides = [&mut dialer, &mut listener];
//!         wire.clear();
//!         sides[from].poll_transmit(&mut wire);
//!         sides[to].handle_input(&wire)?;
//!     }
//! }
//! assert_eq!(dialer.finish()?.peer_id, bob.peer_id());
//! assert_eq!(listener.finish()?.muxer.as_deref(), Some("/yamux/1.0.0"));
//! # Ok(())
//! # }
//! ```

mod config;
mod error;
mod handshake;
mod payload;
mod resolver;

#[cfg(test)]
mod tests;

pub use config::Config;
pub use error::{ConfigError, HandshakeError, PayloadError};
pub use handshake::Handshake;

/// The id under which multistream-select offers this channel.
pub const PROTOCOL: &str = "/noise";

/// Most bytes of one handshake frame with its two-byte length, all of which the owner has to buffer
/// before the frame can be read. Honest ones stay under 1 KiB for Ed25519 and under 4 KiB for the
/// largest RSA identities.
pub const MAX_FRAME: usize = 65_537;

/// Most muxers that count in one list; a longer list counts as none, as in go-libp2p
/// (`maxProtoNum`).
pub const MAX_MUXERS: usize = 100;
