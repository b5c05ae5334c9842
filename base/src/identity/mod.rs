//! Who a peer is: its key, and the id derived from it.

mod keypair;
mod peer_id;
mod public_key;
mod spki;

pub use keypair::{KeyError, Keypair};
pub(crate) use peer_id::split_multihash;
pub use peer_id::{PeerId, PeerIdError};
pub use public_key::{KeyType, PublicKey, PublicKeyError, SignatureError};

#[cfg(test)]
mod tests;
