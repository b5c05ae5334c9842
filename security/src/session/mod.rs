//! The record layer of a secured connection, as Noise or as TLS 1.3 frames it.
//!
//! Nothing here does I/O: the owner of the socket hands over buffers. Sealing copies each byte once,
//! from the gather list into the write buffer, and encrypts it where it lies. Opening decrypts where
//! the record was read, so that a slice of the read buffer is the plaintext.

mod noise;
mod post_handshake;
mod tls;

use std::{fmt, ops::Range, sync::Arc};

use barewire_base::{Fault, PeerId, PublicKey};
use bytes::BytesMut;
use rustls::AlertDescription;

pub(crate) use noise::RecordKey;
pub(crate) use tls::Kernel;

/// Most plaintext bytes of one call to [`Sealer::seal`]: what fits one Noise message of 65,535 bytes,
/// of which 16 are the tag. TLS splits it into records of 16,384.
pub const MAX_PLAINTEXT: usize = 65_519;
/// Most bytes of one record on the wire, with its header: one of Noise. Those of TLS are shorter.
pub const MAX_RECORD: usize = 65_537;
/// Most bytes that one call to [`Sealer::seal`] appends: four records of TLS and a change of keys.
pub const MAX_SEALED: usize = MAX_PLAINTEXT + 4 * tls::OVERHEAD + tls::KEY_UPDATE;
/// Most bytes in front of a record that tell its length.
pub const MAX_HEADER: usize = tls::HEADER;

/// What a finished handshake gives.
#[derive(Debug)]
pub struct Secured {
    /// The record layer.
    pub session: Session,
    /// The peer, proven.
    pub peer_id: PeerId,
    /// The key that proved it.
    pub public_key: PublicKey,
    /// The muxer both sides agree on: the first that the dialling side names and the other has too.
    /// `None` when either named none or they share none; the muxer is then negotiated by
    /// multistream-select.
    pub muxer: Option<Arc<str>>,
}

/// Both directions of a secured connection, the result of a finished handshake.
///
/// [`split`](Self::split) lets each be used where its bytes are: their state is apart, but for the
/// changes of keys that TLS may ask the other direction for.
#[derive(Debug)]
pub struct Session {
    sealer: Sealer,
    opener: Opener,
}

impl Session {
    /// A session of Noise with one key per direction; `None` when the cipher refuses a key.
    pub(crate) fn noise(seal: &RecordKey, open: &RecordKey) -> Option<Self> {
        Some(Self {
            sealer: Sealer(SealerKind::Noise(noise::Sealer::new(seal)?)),
            opener: Opener(OpenerKind::Noise(noise::Opener::new(open)?)),
        })
    }

    /// A session of TLS 1.3 that goes on where the handshake ended; `None` when the cipher refuses a
    /// key.
    pub(crate) fn tls(secrets: rustls::ExtractedSecrets, kernel: Kernel) -> Option<Self> {
        let (sealer, opener) = tls::session(secrets, kernel)?;
        Some(Self {
            sealer: Sealer(SealerKind::Tls(sealer)),
            opener: Opener(OpenerKind::Tls(opener)),
        })
    }

    /// Separates the two directions.
    pub fn split(self) -> (Sealer, Opener) {
        (self.sealer, self.opener)
    }
}

/// The sending direction of a [`Session`].
#[derive(Debug)]
pub struct Sealer(SealerKind);

#[derive(Debug)]
enum SealerKind {
    Noise(noise::Sealer),
    Tls(tls::Sealer),
}

impl Sealer {
    /// Appends the concatenation of `parts` to `out`: in one record of Noise, or in as few of TLS as
    /// hold it.
    ///
    /// Each part is copied once, next to what `out` holds already, and encrypted in place. An empty
    /// gather list makes a legal record without plaintext. Memory is taken only when `out` lacks
    /// the room, see [`sealed_len`](Self::sealed_len).
    ///
    /// # Errors
    /// On any error `out` is as it was before. [`SealError::TooLong`] when the parts exceed
    /// [`MAX_PLAINTEXT`] bytes, which leaves the sealer usable; any other is final.
    pub fn seal<'a>(
        &mut self,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
        out: &mut BytesMut,
    ) -> Result<(), SealError> {
        let length = parts.clone().map(<[u8]>::len).sum();
        if length > MAX_PLAINTEXT {
            return Err(SealError::TooLong);
        }
        let start = out.len();
        let sealed = match &mut self.0 {
            SealerKind::Noise(sealer) => sealer.seal(parts, length, out),
            SealerKind::Tls(sealer) => sealer.seal(parts, length, out),
        };
        if sealed.is_err() {
            out.truncate(start);
        }
        sealed
    }

    /// Most bytes that sealing `plaintext` bytes appends now.
    #[must_use]
    pub fn sealed_len(&self, plaintext: usize) -> usize {
        match &self.0 {
            SealerKind::Noise(_) => plaintext + noise::OVERHEAD,
            SealerKind::Tls(_) => {
                let records = plaintext.div_ceil(tls::MAX_FRAGMENT).max(1);
                plaintext + records * tls::OVERHEAD + tls::KEY_UPDATE
            }
        }
    }

    /// Appends what the channel itself has to say before the connection ends: over TLS that nothing
    /// was cut off, or with `error` the alert that tells the peer why. Noise has no such message. The
    /// sealer is of no use afterwards.
    pub fn end(&mut self, error: Option<&OpenError>, out: &mut BytesMut) {
        if let SealerKind::Tls(sealer) = &mut self.0 {
            let alert = match error {
                None => AlertDescription::CloseNotify,
                Some(error) => match error.alert() {
                    Some(alert) => alert,
                    // The peer's own alert gets no answer.
                    None => return,
                },
            };
            let start = out.len();
            if sealer.alert(alert, out).is_err() {
                out.truncate(start);
            }
        }
    }

    /// Moves the record counter forward to `nonce`, so that tests reach its end. It never moves
    /// back: a nonce that was used stays used. The other side has to follow.
    #[doc(hidden)]
    pub fn advance_nonce_for_testing_only(&mut self, nonce: u64) {
        match &mut self.0 {
            SealerKind::Noise(sealer) => sealer.advance(nonce),
            SealerKind::Tls(sealer) => sealer.advance(nonce),
        }
    }

    /// Changes this side's keys over TLS, which appends a record, and asks the peer to change its
    /// own.
    #[doc(hidden)]
    pub fn update_keys_for_testing_only(&mut self, out: &mut BytesMut) -> Result<(), SealError> {
        match &mut self.0 {
            SealerKind::Noise(_) => Ok(()),
            SealerKind::Tls(sealer) => sealer.update_and_ask(out),
        }
    }
}

/// The receiving direction of a [`Session`].
#[derive(Debug)]
pub struct Opener(OpenerKind);

#[derive(Debug)]
enum OpenerKind {
    Noise(noise::Opener),
    Tls(tls::Opener),
}

impl Opener {
    /// Opens the record at the front of `buf` where it lies, if it is whole.
    ///
    /// `buf` may hold less than a record, or several: only the first is looked at. After
    /// [`Opened::Record`] and [`Opened::KeyUpdate`] the owner skips `consumed` bytes and asks again.
    /// No byte of `buf` is kept between calls.
    ///
    /// # Errors
    /// Any error is final, as the peer's stream of records has lost its meaning: every later call
    /// returns it again and the connection has to be closed. The bytes of a record that failed are
    /// undefined.
    pub fn open_in_place(&mut self, buf: &mut [u8]) -> Result<Opened, OpenError> {
        match &mut self.0 {
            OpenerKind::Noise(opener) => opener.open_in_place(buf),
            OpenerKind::Tls(opener) => opener.open_in_place(buf),
        }
    }

    /// Moves the record counter forward to `nonce`, so that tests reach its end. It never moves
    /// back.
    #[doc(hidden)]
    pub fn advance_nonce_for_testing_only(&mut self, nonce: u64) {
        match &mut self.0 {
            OpenerKind::Noise(opener) => opener.advance(nonce),
            OpenerKind::Tls(opener) => opener.advance(nonce),
        }
    }
}

/// What [`Opener::open_in_place`] found at the front of the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The record is not whole yet.
    NeedMore {
        /// The record's bytes on the wire with its header, at most [`MAX_RECORD`]; `None` until the
        /// header, at most [`MAX_HEADER`] bytes, is there.
        total: Option<usize>,
    },
    /// A record was opened.
    Record {
        /// Where in the buffer its plaintext now lies; empty for a legal record without any, or one
        /// that only concerns the channel and was dealt with.
        plaintext: Range<usize>,
        /// Bytes of the buffer that the record took, from the front.
        consumed: usize,
    },
    /// The peer has changed its keys, which costs us two derivations. Only TLS does; an honest peer
    /// once in a very long while.
    KeyUpdate {
        /// Bytes of the buffer that the record took, from the front.
        consumed: usize,
    },
    /// The peer has said that nothing follows (`close_notify` of TLS); said again by every later
    /// call.
    Closed,
}

/// What a peer over TLS says before it ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert(pub AlertDescription);

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use AlertDescription as A;
        let what = match self.0 {
            A::NoCertificate
            | A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::CertificateRequired => "refused our certificate",
            _ => "ended the secure channel",
        };
        write!(f, "the remote {what}: alert {:?}", self.0)
    }
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
    /// The record is longer than the protocol allows; holds its bytes.
    #[error("a record or message has {0} bytes, more than TLS allows")]
    TooLong(usize),
    /// The tag does not fit: the record was changed, replayed, reordered or made with another key.
    #[error("a record failed authentication")]
    Tampered,
    /// 2^64 - 1 records were opened.
    #[error("the connection has opened the last record its key allows")]
    NonceExhausted,
    /// Something that TLS does not allow after the handshake.
    #[error("a record holds {0}, which TLS does not allow here")]
    Unexpected(&'static str),
    /// The remote has ended the connection with this alert. The first one a dialling side sees may
    /// be about its certificate: over TLS 1.3 it has finished before the other has verified it.
    #[error("{0}")]
    Alert(Alert),
    /// The cipher library refused the next key.
    #[error("the cipher failed to change its key")]
    Cipher,
}

impl OpenError {
    /// Who is at fault: the peer (or someone between), the limit of the key, or we.
    pub fn fault(&self) -> Fault {
        match self {
            Self::NonceExhausted => Fault::Limit,
            Self::Cipher => Fault::Local,
            _ => Fault::Peer,
        }
    }

    /// What a peer over TLS is told; nothing in return for its own alert.
    fn alert(&self) -> Option<AlertDescription> {
        match self {
            Self::TooShort | Self::Tampered => Some(AlertDescription::BadRecordMac),
            Self::TooLong(_) => Some(AlertDescription::RecordOverflow),
            Self::Unexpected(_) => Some(AlertDescription::UnexpectedMessage),
            Self::NonceExhausted | Self::Cipher => Some(AlertDescription::InternalError),
            Self::Alert(_) => None,
        }
    }
}
