//! Records of Noise: a two-byte big-endian length and a ChaCha20-Poly1305 ciphertext with its tag, as
//! the Noise transport phase of libp2p frames it.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::BytesMut;
use zeroize::Zeroizing;

use super::{OpenError, Opened, SealError};

/// Bytes of the length in front of each record.
const LENGTH_PREFIX: usize = 2;
/// Bytes of the Poly1305 tag at the end of each record.
const TAG: usize = 16;
/// The nonce that no record may use; it is reserved by the Noise specification (section 5.1).
const NONCE_END: u64 = u64::MAX;

/// Bytes that a record adds to its plaintext: 2 of length and 16 of tag.
pub(super) const OVERHEAD: usize = LENGTH_PREFIX + TAG;

/// A 32-byte record key that is wiped when dropped.
pub(crate) type RecordKey = Zeroizing<[u8; 32]>;

fn record_key(key: &RecordKey) -> Option<LessSafeKey> {
    UnboundKey::new(&CHACHA20_POLY1305, key.as_slice())
        .ok()
        .map(LessSafeKey::new)
}

/// The sending direction.
#[derive(Debug)]
pub(super) struct Sealer {
    /// Kept set up for the cipher, which saves an allocation per record. The library wipes it.
    key: LessSafeKey,
    /// The nonce of the next record. It only grows, and a record that failed to seal has used its
    /// own up.
    nonce: u64,
}

impl Sealer {
    pub(super) fn new(key: &RecordKey) -> Option<Self> {
        let key = record_key(key)?;
        Some(Self { key, nonce: 0 })
    }

    /// Appends one record of `parts`, which have `plaintext` bytes in all.
    pub(super) fn seal<'a>(
        &mut self,
        parts: impl Iterator<Item = &'a [u8]>,
        plaintext: usize,
        out: &mut BytesMut,
    ) -> Result<(), SealError> {
        if self.nonce == NONCE_END {
            return Err(SealError::NonceExhausted);
        }
        let length = u16::try_from(plaintext + TAG).map_err(|_| SealError::TooLong)?;
        out.extend_from_slice(&length.to_be_bytes());
        let start = out.len();
        for part in parts {
            out.extend_from_slice(part);
        }
        let nonce = record_nonce(self.nonce);
        self.nonce += 1;
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::empty(), &mut out[start..])
            .map_err(|_| SealError::Cipher)?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    pub(super) fn advance(&mut self, nonce: u64) {
        self.nonce = self.nonce.max(nonce);
    }
}

/// The receiving direction.
#[derive(Debug)]
pub(super) struct Opener {
    key: LessSafeKey,
    /// The nonce of the next record, or why none can be opened any more.
    nonce: Result<u64, OpenError>,
}

impl Opener {
    pub(super) fn new(key: &RecordKey) -> Option<Self> {
        let key = record_key(key)?;
        Some(Self { key, nonce: Ok(0) })
    }

    pub(super) fn open_in_place(&mut self, buf: &mut [u8]) -> Result<Opened, OpenError> {
        let nonce = self.nonce.clone()?;
        let Some((prefix, rest)) = buf.split_first_chunk_mut::<LENGTH_PREFIX>() else {
            return Ok(Opened::NeedMore { total: None });
        };
        let length = usize::from(u16::from_be_bytes(*prefix));
        if length < TAG {
            return Err(self.fail(OpenError::TooShort));
        }
        // Before the rest of the record is waited for: it could not be opened anyway.
        if nonce == NONCE_END {
            return Err(self.fail(OpenError::NonceExhausted));
        }
        let consumed = LENGTH_PREFIX + length;
        let Some(record) = rest.get_mut(..length) else {
            return Ok(Opened::NeedMore {
                total: Some(consumed),
            });
        };
        if self
            .key
            .open_in_place(record_nonce(nonce), Aad::empty(), record)
            .is_err()
        {
            return Err(self.fail(OpenError::Tampered));
        }
        self.nonce = Ok(nonce + 1);
        Ok(Opened::Record {
            plaintext: LENGTH_PREFIX..consumed - TAG,
            consumed,
        })
    }

    fn fail(&mut self, error: OpenError) -> OpenError {
        self.nonce = Err(error.clone());
        error
    }

    pub(super) fn advance(&mut self, nonce: u64) {
        self.nonce = self.nonce.clone().map(|current| current.max(nonce));
    }
}

/// The 12-byte nonce of a record: four zero bytes, then its number in little-endian order (Noise,
/// section 12.3).
fn record_nonce(number: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - size_of::<u64>()..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}
