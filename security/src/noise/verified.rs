//! A bounded memory of identities that have proven a static key.
//!
//! Verifying a signature is a third of a handshake's cost, and a peer that keeps its static key
//! shows the same signature each time. Whether it fits depends on nothing but the bytes, so it
//! needs checking once.

use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use barewire_base::PublicKey;

/// Peers remembered; a newer one takes the place of an older one with the same slot. About 32 KiB
/// for Ed25519 peers.
const SLOTS: usize = 128;

type Digest = [u8; 32];

/// Remembers which identity keys have signed which static keys.
#[derive(Default)]
pub(super) struct VerifiedBindings {
    /// Empty until the first peer is remembered, then [`SLOTS`] long.
    slots: Mutex<Vec<Option<(Digest, PublicKey)>>>,
}

impl VerifiedBindings {
    /// The parsed identity key, if exactly these bytes have been verified and are still remembered.
    pub(super) fn get(&self, binding: &Binding) -> Option<PublicKey> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let (digest, key) = slots.get(binding.slot())?.as_ref()?;
        (*digest == binding.0).then(|| key.clone())
    }

    /// Remembers a binding whose signature has been verified.
    pub(super) fn insert(&self, binding: &Binding, key: PublicKey) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.is_empty() {
            slots.resize(SLOTS, None);
        }
        if let Some(slot) = slots.get_mut(binding.slot()) {
            *slot = Some((binding.0, key));
        }
    }
}

/// The digest of an identity key, a static key and the signature of one over the other.
pub(super) struct Binding(Digest);

impl Binding {
    /// The variable parts are preceded by their lengths, so that no two triples share their bytes.
    pub(super) fn new(identity_key: &[u8], static_key: &[u8; 32], signature: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(48 + identity_key.len() + signature.len());
        for part in [identity_key, static_key, signature] {
            bytes.extend_from_slice(&part.len().to_le_bytes());
            bytes.extend_from_slice(part);
        }
        let mut out = [0; 32];
        out.copy_from_slice(digest(&SHA256, &bytes).as_ref());
        Self(out)
    }

    fn slot(&self) -> usize {
        usize::from(self.0[0]) % SLOTS
    }
}
