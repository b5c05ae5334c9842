//! A bounded memory of identities that have proven a handshake key.
//!
//! Verifying signatures is a large part of a handshake's cost, and a peer that keeps its handshake
//! key shows the same ones each time. Whether they fit depends on nothing but the bytes, so they
//! need checking once.

use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use barewire_base::PublicKey;

/// Peers remembered; a newer one takes the place of an older one with the same slot. About 32 KiB
/// for Ed25519 peers.
const SLOTS: usize = 128;

/// Remembers which identities have proven what.
#[derive(Default)]
pub(crate) struct VerifiedSignatures {
    /// Empty until the first peer is remembered, then [`SLOTS`] long.
    slots: Mutex<Vec<Option<(Digest, PublicKey)>>>,
}

impl VerifiedSignatures {
    /// The parsed identity key, if exactly these bytes have been verified and are still remembered.
    pub(crate) fn get(&self, digest: &Digest) -> Option<PublicKey> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, key) = slots.get(digest.slot())?.as_ref()?;
        (known == digest).then(|| key.clone())
    }

    /// Remembers bytes whose signatures have been verified.
    pub(crate) fn insert(&self, digest: &Digest, key: PublicKey) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.is_empty() {
            slots.resize(SLOTS, None);
        }
        if let Some(slot) = slots.get_mut(digest.slot()) {
            *slot = Some((*digest, key));
        }
    }
}

impl std::fmt::Debug for VerifiedSignatures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifiedSignatures").finish_non_exhaustive()
    }
}

/// The SHA-256 digest of everything a verification depends on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    /// Each part is preceded by its length, so that no two lists share their bytes.
    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        let length = parts.iter().map(|part| part.len() + 8).sum();
        let mut bytes = Vec::with_capacity(length);
        for part in parts {
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
