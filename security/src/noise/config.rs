//! What all handshakes of a node share.

use std::fmt;
use std::sync::Arc;

use barewire_base::Keypair;
use rand::CryptoRng;
use snow::params::NoiseParams;
use zeroize::Zeroizing;

use super::resolver::{KEY, StaticKey, X25519Pair};
use super::{ConfigError, MAX_FRAME, MAX_MUXERS, payload};
use crate::verified::VerifiedSignatures;

const PARAMS: &str = "Noise_XX_25519_ChaChaPoly_SHA256";

/// Bytes that keys, tags and the frame's length take in the longest message beside the payload: 2 +
/// 32 + 48 + 16.
const MESSAGE_OVERHEAD: usize = 98;

/// The identity, the static key and the muxers of a node, shared by all its handshakes.
///
/// The static key is drawn here and signed here, once: a handshake then costs no signature. It is
/// never the identity key, and lives no longer than this value. Peers that have proven themselves
/// are remembered, up to 128 of them, so that their next handshake with the same static key costs
/// no verification of the same signature.
pub struct Config {
    pub(super) params: NoiseParams,
    pub(super) static_key: Arc<StaticKey>,
    pub(super) payload: Vec<u8>,
    pub(super) muxers: Vec<Arc<str>>,
    pub(super) verified: VerifiedSignatures,
}

impl Config {
    /// Draws a static key and has the identity sign it.
    ///
    /// `muxers` are named to the peer in order of preference; the first of the *initiator's* list
    /// that the responder has too is taken. With an empty list every connection negotiates its
    /// muxer by multistream-select.
    ///
    /// # Errors
    /// [`ConfigError`] when the muxers do not fit into a handshake, or the cryptographic library
    /// fails.
    pub fn new(
        identity: &Keypair,
        muxers: Vec<Arc<str>>,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, ConfigError> {
        if muxers.len() > MAX_MUXERS {
            return Err(ConfigError::TooManyMuxers(muxers.len()));
        }
        let params = PARAMS.parse().map_err(|_| ConfigError::Crypto)?;
        let mut bytes = Zeroizing::new([0; KEY]);
        rng.fill_bytes(bytes.as_mut_slice());
        let pair = X25519Pair::from_private(bytes.as_slice()).ok_or(ConfigError::Crypto)?;
        let signature = identity.sign(&payload::signed_bytes(pair.public()));
        let payload = payload::encode(identity.public().to_protobuf(), signature.to_vec(), &muxers);
        if payload.len() + MESSAGE_OVERHEAD > MAX_FRAME {
            return Err(ConfigError::PayloadTooLong(payload.len()));
        }
        let static_key = Arc::new(StaticKey { bytes, pair });
        Ok(Self {
            params,
            static_key,
            payload,
            muxers,
            verified: VerifiedSignatures::default(),
        })
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("muxers", &self.muxers)
            .finish_non_exhaustive()
    }
}
