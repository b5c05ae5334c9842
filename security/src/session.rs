//! The record layer of a secured connection.
//!
//! A record is a two-byte big-endian length and a ChaCha20-Poly1305 ciphertext with its tag, as the
//! Noise transport phase of libp2p frames it. Nothing here does I/O: the owner of the socket hands
//! over buffers.
//!
//! Sealing copies each byte once, from the gather list into the write buffer, and encrypts it where
//! it lies. Opening decrypts where the record was read, so that a slice of the read buffer is the
//! plaintext.

use std::ops::Range;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use barewire_base::Fault;
use bytes::BytesMut;
use zeroize::Zeroizing;

/// Bytes of the length in front of each record.
const LENGTH_PREFIX: usize = 2;
/// Bytes of the Poly1305 tag at the end of each record.
const TAG: usize = 16;
/// The nonce that no record may use; it is reserved by the Noise specification (section 5.1).
const NONCE_END: u64 = u64::MAX;

/// Most plaintext bytes of one record: a Noise message is at most 65,535 bytes, of which 16 are the
/// tag.
pub const MAX_PLAINTEXT: usize = 65_519;
/// Most bytes of one record on the wire, with its length prefix.
pub const MAX_RECORD: usize = 65_537;
/// Bytes that a record adds to its plaintext: 2 of length and 16 of tag.
pub const OVERHEAD: usize = LENGTH_PREFIX + TAG;

/// A 32-byte record key that is wiped when dropped.
pub(crate) type RecordKey = Zeroizing<[u8; 32]>;

/// Both directions of a secured connection, the result of a finished handshake.
///
/// The two directions share nothing, so that [`split`](Self::split) lets each be used where its
/// bytes are.
#[derive(Debug)]
pub struct Session {
    sealer: Sealer,
    opener: Opener,
}

impl Session {
    /// Makes a session of one key per direction; `None` when the cipher refuses a key.
    pub(crate) fn from_keys(seal: &RecordKey, open: &RecordKey) -> Option<Self> {
        Some(Self {
            sealer: Sealer {
                key: record_key(seal)?,
                nonce: 0,
            },
            opener: Opener {
                key: record_key(open)?,
                nonce: Ok(0),
            },
        })
    }

    /// Separates the two directions.
    pub fn split(self) -> (Sealer, Opener) {
        (self.sealer, self.opener)
    }
}

fn record_key(key: &RecordKey) -> Option<LessSafeKey> {
    UnboundKey::new(&CHACHA20_POLY1305, key.as_slice())
        .ok()
        .map(LessSafeKey::new)
}

/// The sending direction of a [`Session`].
#[derive(Debug)]
pub struct Sealer {
    /// Kept set up for the cipher, which saves an allocation per record. The library wipes it.
    key: LessSafeKey,
    /// The nonce of the next record. It only grows, and a record that failed to seal has used its
    /// own up.
    nonce: u64,
}

impl Sealer {
    /// Appends one record that carries the concatenation of `parts` to `out`.
    ///
    /// Each part is copied once, next to what `out` holds already, and encrypted in place. An empty
    /// gather list makes a legal record without plaintext. Memory is taken only when `out` lacks
    /// the room.
    ///
    /// # Errors
    /// On any error `out` is as it was before. [`SealError::TooLong`] when the parts exceed
    /// [`MAX_PLAINTEXT`] bytes, which leaves the sealer usable; [`SealError::NonceExhausted`] after
    /// 2^64 - 1 records, for good.
    pub fn seal<'a>(
        &mut self,
        parts: impl Iterator<Item = &'a [u8]>,
        out: &mut BytesMut,
    ) -> Result<(), SealError> {
        if self.nonce == NONCE_END {
            return Err(SealError::NonceExhausted);
        }
        let start = out.len();
        let sealed = self.append_record(parts, start, out);
        if sealed.is_err() {
            out.truncate(start);
        }
        sealed
    }

    fn append_record<'a>(
        &mut self,
        parts: impl Iterator<Item = &'a [u8]>,
        start: usize,
        out: &mut BytesMut,
    ) -> Result<(), SealError> {
        out.extend_from_slice(&[0; LENGTH_PREFIX]);
        let mut plaintext = 0;
        for part in parts {
            // The sum cannot wrap: both terms are lengths of memory that exists.
            plaintext += part.len();
            if plaintext > MAX_PLAINTEXT {
                return Err(SealError::TooLong);
            }
            out.extend_from_slice(part);
        }
        let length = u16::try_from(plaintext + TAG).map_err(|_| SealError::TooLong)?;
        let (prefix, body) = out[start..].split_at_mut(LENGTH_PREFIX);
        prefix.copy_from_slice(&length.to_be_bytes());
        let nonce = record_nonce(self.nonce);
        self.nonce += 1;
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::empty(), body)
            .map_err(|_| SealError::Cipher)?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Moves the record counter forward to `nonce`, so that tests reach its end. It never moves
    /// back: a nonce that was used stays used. The other side has to follow.
    #[doc(hidden)]
    pub fn advance_nonce_for_testing_only(&mut self, nonce: u64) {
        self.nonce = self.nonce.max(nonce);
    }
}

/// The receiving direction of a [`Session`].
#[derive(Debug)]
pub struct Opener {
    key: LessSafeKey,
    /// The nonce of the next record, or why none can be opened any more.
    nonce: Result<u64, OpenError>,
}

impl Opener {
    /// Opens the record at the front of `buf` where it lies, if it is whole.
    ///
    /// `buf` may hold less than a record, or several: only the first is looked at. After
    /// [`Opened::Record`] the owner skips `consumed` bytes and asks again. Nothing is kept between
    /// calls.
    ///
    /// # Errors
    /// Any error is final, as the peer's stream of records has lost its meaning: every later call
    /// returns it again and the connection has to be closed. The bytes of a record that failed are
    /// undefined.
    pub fn open_in_place(&mut self, buf: &mut [u8]) -> Result<Opened, OpenError> {
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

    /// Moves the record counter forward to `nonce`, so that tests reach its end. It never moves
    /// back.
    #[doc(hidden)]
    pub fn advance_nonce_for_testing_only(&mut self, nonce: u64) {
        self.nonce = self.nonce.clone().map(|current| current.max(nonce));
    }
}

/// What [`Opener::open_in_place`] found at the front of the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The record is not whole yet.
    NeedMore {
        /// The record's bytes on the wire with its prefix, at most [`MAX_RECORD`]; `None` until the
        /// prefix is there.
        total: Option<usize>,
    },
    /// A record was opened.
    Record {
        /// Where in the buffer its plaintext now lies; empty for a legal record without any.
        plaintext: Range<usize>,
        /// Bytes of the buffer that the record took, from the front.
        consumed: usize,
    },
}

/// Why a record could not be sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The parts hold more than [`MAX_PLAINTEXT`] bytes.
    #[error("a record holds at most {MAX_PLAINTEXT} bytes of plaintext")]
    TooLong,
    /// 2^64 - 1 records were sealed; the connection has to be closed.
    #[error("the connection has sealed the last record its key allows")]
    NonceExhausted,
    /// The cipher failed; the connection has to be closed.
    #[error("the cipher failed to seal a record")]
    Cipher,
}

impl SealError {
    /// Who is at fault: we are, or the limit of the key.
    pub fn fault(&self) -> Fault {
        match self {
            Self::TooLong | Self::Cipher => Fault::Local,
            Self::NonceExhausted => Fault::Limit,
        }
    }
}

/// Why a record could not be opened. Each ends the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The record's length leaves no room for its tag.
    #[error("a record is shorter than its authentication tag")]
    TooShort,
    /// The tag does not fit: the record was changed, replayed, reordered or made with another key.
    #[error("a record failed authentication")]
    Tampered,
    /// 2^64 - 1 records were opened.
    #[error("the connection has opened the last record its key allows")]
    NonceExhausted,
}

impl OpenError {
    /// Who is at fault: the peer (or someone between), or the limit of the key.
    pub fn fault(&self) -> Fault {
        match self {
            Self::TooShort | Self::Tampered => Fault::Peer,
            Self::NonceExhausted => Fault::Limit,
        }
    }
}

/// The 12-byte nonce of a record: four zero bytes, then its number in little-endian order (Noise,
/// section 12.3).
fn record_nonce(number: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - size_of::<u64>()..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}
