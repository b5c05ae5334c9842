use std::fmt;

use ed25519_dalek::{Signer, SigningKey};
use rand::CryptoRng;
use zeroize::Zeroizing;

use super::{KeyType, PeerId, PublicKey};
use crate::{
    Fault,
    proto::{self, Fields, ScanError, Value},
};

/// Seed and public key, as key files hold them.
const ENCODED_LEN: usize = 64;
/// An old form that repeats the public key.
const LEGACY_ENCODED_LEN: usize = 96;

/// An Ed25519 key pair, the identity of a node. Its secret is wiped from memory when it is dropped
/// and never printed.
#[derive(Clone)]
pub struct Keypair {
    key: SigningKey,
    public: PublicKey,
}

/// Why bytes are not a key pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not the protobuf message of a private key.
    #[error("the private key is not a valid protobuf message: {0}")]
    Protobuf(#[from] ScanError),
    /// The message lacks the key's type or data.
    #[error("the private key's type or data is missing")]
    Incomplete,
    /// A key of another type than Ed25519; only those sign here.
    #[error("private keys of type {0} are not supported, only Ed25519 ones are")]
    Unsupported(u64),
    /// The key's data has another length than 64 (or, in the old form, 96) bytes.
    #[error("an Ed25519 private key takes 64 bytes, not {0}")]
    Length(usize),
    /// The public half does not belong to the secret half.
    #[error("the public half of the key pair does not belong to its secret half")]
    Mismatch,
}

impl KeyError {
    /// Always [`Fault::Local`]: private keys come from this machine.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Local
    }
}

impl Keypair {
    /// Makes a new identity from 32 bytes of `rng`.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        Self::from_seed(&seed)
    }

    /// The identity of the 32-byte secret `seed` (RFC 8032's private key).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let public = PublicKey::from_own_ed25519(key.verifying_key());
        Self { key, public }
    }

    /// Reads libp2p's `PrivateKey` message: an Ed25519 seed and public key.
    ///
    /// # Errors
    /// [`KeyError`]; a public half that does not belong to the seed is refused, because signing
    /// with it would give the seed away.
    pub fn from_protobuf(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut fields = Fields::new(bytes);
        let (mut key_type, mut data) = (None, None);
        while let Some(field) = fields.next_field()? {
            match (field.number, field.value) {
                (1, Value::Varint(value)) => key_type = Some(value),
                (2, Value::Bytes(value)) => data = Some(value),
                _ => {}
            }
        }
        let (Some(key_type), Some(data)) = (key_type, data) else {
            return Err(KeyError::Incomplete);
        };
        if key_type != KeyType::Ed25519.code() {
            return Err(KeyError::Unsupported(key_type));
        }
        if data.len() != ENCODED_LEN && data.len() != LEGACY_ENCODED_LEN {
            return Err(KeyError::Length(data.len()));
        }
        let Some((seed, publics)) = data.split_first_chunk::<32>() else {
            return Err(KeyError::Length(data.len()));
        };
        let pair = Self::from_seed(seed);
        let public = pair.key.verifying_key();
        if publics.chunks(32).any(|copy| copy != public.as_bytes()) {
            return Err(KeyError::Mismatch);
        }
        Ok(pair)
    }

    /// Writes libp2p's `PrivateKey` message, which other libp2p implementations read too. It holds
    /// the secret: keep it in a file nobody else may read.
    #[must_use]
    pub fn to_protobuf(&self) -> Zeroizing<Vec<u8>> {
        // Exact capacity, so that no grown-out-of copy of the secret stays behind.
        let mut out = Zeroizing::new(Vec::with_capacity(4 + ENCODED_LEN));
        let data = Zeroizing::new(self.key.to_keypair_bytes());
        proto::put_varint_field(1, KeyType::Ed25519.code(), &mut *out);
        proto::put_bytes_field(2, &*data, &mut *out);
        out
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The id others know this identity by.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.public.peer_id()
    }

    /// Signs `message` as RFC 8032 says, without a prefix or hash of its own.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }
}

impl fmt::Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keypair")
            .field("peer_id", &self.peer_id())
            .finish_non_exhaustive()
    }
}
