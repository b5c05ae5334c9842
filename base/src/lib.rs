//! Foundations of barewire, free of I/O, clocks and ambient randomness: identities, multiaddrs,
//! signed envelopes, varints and length-prefixed framing, the multistream-select state machines,
//! memory budgets, and the gather list in which a layer hands bytes to the next one down.
//!
//! Every function here is a pure function of its arguments. Everything that parses bytes of a
//! remote peer is bounded before it allocates and answers bad input with a typed error.

pub mod budget;
pub mod envelope;
mod fault;
pub mod framing;
pub mod identity;
pub mod multiaddr;
pub mod multibase;
pub mod multistream;
pub mod peer_record;
pub mod proto;
pub mod random;
pub mod transmit;
pub mod varint;

pub use budget::{Budget, BudgetExceeded, Reservation};
pub use fault::Fault;
pub use identity::{KeyType, Keypair, PeerId, PublicKey};
pub use multiaddr::{Multiaddr, Protocol};
pub use transmit::TransmitBuf;
