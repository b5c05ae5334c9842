//! Records of TLS 1.3 (RFC 8446, section 5), with the keys that rustls agreed on in the handshake.
//!
//! rustls' own record layer copies and allocates per record; here, records are sealed and opened in
//! the owner's buffers. What else may travel in records is dealt with as rustls does: padding,
//! alerts, changes of keys, tickets.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use bytes::{BufMut, BytesMut};
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ExtractedSecrets, SupportedCipherSuite,
    client::ClientConnectionData, kernel::KernelConnection, server::ServerConnectionData,
};

use super::{
    Alert, OpenError, Opened, SealError,
    post_handshake::{KEY_UPDATE_MESSAGE, PostHandshake},
};

/// Type, version and length in front of each record.
pub(super) const HEADER: usize = 5;
const TAG: usize = 16;
/// The content type behind the plaintext, inside the encryption.
const TYPE: usize = 1;
/// Most plaintext of a record.
pub(super) const MAX_FRAGMENT: usize = 1 << 14;
/// Most bytes of a record behind its header.
const MAX_CIPHERTEXT: usize = MAX_FRAGMENT + 256;
/// Bytes that a record adds to its plaintext.
pub(super) const OVERHEAD: usize = HEADER + TYPE + TAG;
/// Bytes of the record that announces a change of keys.
pub(super) const KEY_UPDATE: usize = KEY_UPDATE_MESSAGE.len() + OVERHEAD;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// The version that every record of TLS 1.3 claims to be of.
const LEGACY_VERSION: [u8; 2] = [3, 3];
/// The number that no record may have, so that numbers never wrap.
const SEQUENCE_END: u64 = u64::MAX;

const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// The key schedule that rustls keeps for a connection.
pub(crate) enum Kernel {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Kernel {
    fn suite(&self) -> SupportedCipherSuite {
        match self {
            Self::Client(kernel) => kernel.negotiated_cipher_suite(),
            Self::Server(kernel) => kernel.negotiated_cipher_suite(),
        }
    }
}

/// What both directions share: rarely used, and never while bytes are sealed or opened.
struct Shared {
    kernel: Mutex<Kernel>,
    /// The peer wants us to change our keys.
    update_wanted: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

enum Direction {
    Sealing,
    Opening,
}

impl Shared {
    fn next_keys(&self, direction: Direction) -> Option<Keys> {
        let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let (sequence, secrets) = match (&mut *kernel, direction) {
            (Kernel::Client(kernel), Direction::Sealing) => kernel.update_tx_secret(),
            (Kernel::Client(kernel), Direction::Opening) => kernel.update_rx_secret(),
            (Kernel::Server(kernel), Direction::Sealing) => kernel.update_tx_secret(),
            (Kernel::Server(kernel), Direction::Opening) => kernel.update_rx_secret(),
        }
        .ok()?;
        Keys::new(sequence, &secrets)
    }
}

/// The key of one direction and the number of its next record.
#[derive(Debug)]
struct Keys {
    /// Kept set up for the cipher. The library wipes it.
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl Keys {
    fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Option<Self> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return None,
        };
        Some(Self {
            key: LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).ok()?),
            iv: iv.as_ref().try_into().ok()?,
            sequence,
        })
    }

    /// The nonce of the next record: its number, in network order, over the end of the vector.
    fn next_nonce(&mut self) -> Option<Nonce> {
        if self.sequence == SEQUENCE_END {
            return None;
        }
        let mut nonce = self.iv;
        let number = self.sequence.to_be_bytes();
        for (byte, number) in nonce[NONCE_LEN - number.len()..].iter_mut().zip(number) {
            *byte ^= number;
        }
        self.sequence += 1;
        Some(Nonce::assume_unique_for_key(nonce))
    }
}

/// Both directions, or `None` when the cipher refuses a key.
pub(super) fn session(secrets: ExtractedSecrets, kernel: Kernel) -> Option<(Sealer, Opener)> {
    let limit = match kernel.suite() {
        SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
        #[allow(
            unreachable_patterns,
            reason = "TLS 1.2 may be compiled in by another crate"
        )]
        _ => return None,
    };
    let is_client = matches!(kernel, Kernel::Client(_));
    let shared = Arc::new(Shared {
        kernel: Mutex::new(kernel),
        update_wanted: AtomicBool::new(false),
    });
    let sealer = Sealer {
        keys: Keys::new(secrets.tx.0, &secrets.tx.1)?,
        limit,
        shared: Arc::clone(&shared),
    };
    let opener = Opener {
        keys: Keys::new(secrets.rx.0, &secrets.rx.1)?,
        post_handshake: PostHandshake::new(is_client),
        state: Ok(State::Open),
        shared,
    };
    Some((sealer, opener))
}

/// The sending direction.
#[derive(Debug)]
pub(super) struct Sealer {
    keys: Keys,
    /// Records that one key may seal and stay safe (2^24 for AES-GCM).
    limit: u64,
    shared: Arc<Shared>,
}

impl Sealer {
    /// Appends `parts`, which have `plaintext` bytes in all, in full records and a rest.
    pub(super) fn seal<'a>(
        &mut self,
        parts: impl Iterator<Item = &'a [u8]>,
        plaintext: usize,
        out: &mut BytesMut,
    ) -> Result<(), SealError> {
        if self.shared.update_wanted.load(Ordering::Relaxed) {
            self.shared.update_wanted.store(false, Ordering::Relaxed);
            self.update(&KEY_UPDATE_MESSAGE, out)?;
        }
        let mut left = plaintext;
        let mut room = left.min(MAX_FRAGMENT);
        let mut start = self.begin(room, out)?;
        for mut part in parts {
            while part.len() > room {
                let (now, later) = part.split_at(room);
                out.extend_from_slice(now);
                self.finish(APPLICATION_DATA, start, out)?;
                left -= out.len() - start - OVERHEAD;
                room = left.min(MAX_FRAGMENT);
                start = self.begin(room, out)?;
                part = later;
            }
            out.extend_from_slice(part);
            room -= part.len();
        }
        self.finish(APPLICATION_DATA, start, out)
    }

    /// Appends the header of a record of so much plaintext, and returns where it begins.
    fn begin(&mut self, plaintext: usize, out: &mut BytesMut) -> Result<usize, SealError> {
        if self.keys.sequence >= self.limit {
            self.update(&KEY_UPDATE_MESSAGE, out)?;
        }
        let start = out.len();
        put_header(plaintext, out)?;
        Ok(start)
    }

    /// Seals the record that begins at `start`.
    fn finish(&mut self, kind: u8, start: usize, out: &mut BytesMut) -> Result<(), SealError> {
        out.put_u8(kind);
        let nonce = self.keys.next_nonce().ok_or(SealError::NonceExhausted)?;
        let (header, body) = out[start..].split_at_mut(HEADER);
        let tag = self
            .keys
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(&*header), body)
            .map_err(|_| SealError::Cipher)?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    fn record(&mut self, kind: u8, content: &[u8], out: &mut BytesMut) -> Result<(), SealError> {
        let start = out.len();
        put_header(content.len(), out)?;
        out.extend_from_slice(content);
        self.finish(kind, start, out)
    }

    /// Appends `message`, which announces new keys, and takes them.
    fn update(&mut self, message: &[u8], out: &mut BytesMut) -> Result<(), SealError> {
        self.record(HANDSHAKE, message, out)?;
        let keys = self.shared.next_keys(Direction::Sealing);
        self.keys = keys.ok_or(SealError::Cipher)?;
        Ok(())
    }

    pub(super) fn update_and_ask(&mut self, out: &mut BytesMut) -> Result<(), SealError> {
        let mut message = KEY_UPDATE_MESSAGE;
        message[KEY_UPDATE_MESSAGE.len() - 1] = 1;
        self.update(&message, out)
    }

    pub(super) fn alert(
        &mut self,
        alert: AlertDescription,
        out: &mut BytesMut,
    ) -> Result<(), SealError> {
        let level = match alert {
            AlertDescription::CloseNotify => WARNING,
            _ => FATAL,
        };
        self.record(ALERT, &[level, alert.into()], out)
    }

    pub(super) fn advance(&mut self, sequence: u64) {
        self.keys.sequence = self.keys.sequence.max(sequence);
    }
}

fn put_header(plaintext: usize, out: &mut BytesMut) -> Result<(), SealError> {
    let length = u16::try_from(plaintext + TYPE + TAG).map_err(|_| SealError::TooLong)?;
    out.put_u8(APPLICATION_DATA);
    out.extend_from_slice(&LEGACY_VERSION);
    out.put_u16(length);
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum State {
    Open,
    Closed,
}

/// The receiving direction.
#[derive(Debug)]
pub(super) struct Opener {
    keys: Keys,
    post_handshake: PostHandshake,
    /// Whether more may come, or why none can be opened any more.
    state: Result<State, OpenError>,
    shared: Arc<Shared>,
}

impl Opener {
    pub(super) fn open_in_place(&mut self, buf: &mut [u8]) -> Result<Opened, OpenError> {
        match self.state.clone()? {
            State::Open => {}
            State::Closed => return Ok(Opened::Closed),
        }
        let opened = self.open(buf);
        match &opened {
            Ok(Opened::Closed) => self.state = Ok(State::Closed),
            Ok(_) => {}
            Err(error) => self.state = Err(error.clone()),
        }
        opened
    }

    fn open(&mut self, buf: &mut [u8]) -> Result<Opened, OpenError> {
        if buf.first().is_some_and(|kind| *kind != APPLICATION_DATA) {
            return Err(OpenError::Unexpected("something that is not encrypted"));
        }
        let Some((header, rest)) = buf.split_first_chunk_mut::<HEADER>() else {
            return Ok(Opened::NeedMore { total: None });
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length > MAX_CIPHERTEXT {
            return Err(OpenError::TooLong(length));
        }
        if length < TYPE + TAG {
            return Err(OpenError::TooShort);
        }
        let consumed = HEADER + length;
        let Some(record) = rest.get_mut(..length) else {
            return Ok(Opened::NeedMore {
                total: Some(consumed),
            });
        };
        let nonce = self.keys.next_nonce().ok_or(OpenError::NonceExhausted)?;
        let plaintext = self
            .keys
            .key
            .open_in_place(nonce, Aad::from(&*header), record)
            .map_err(|_| OpenError::Tampered)?;
        // Zeros behind the type are padding.
        let end = plaintext
            .iter()
            .rposition(|byte| *byte != 0)
            .ok_or(OpenError::Unexpected("nothing but padding"))?;
        if end > MAX_FRAGMENT {
            return Err(OpenError::TooLong(end));
        }
        let (kind, content) = (plaintext[end], &plaintext[..end]);
        if kind != HANDSHAKE && self.post_handshake.is_unfinished() {
            return Err(OpenError::Unexpected("other data inside a message"));
        }
        let plaintext = match kind {
            APPLICATION_DATA => HEADER..HEADER + end,
            HANDSHAKE => match self.post_handshake.read(content)? {
                None => HEADER..HEADER,
                Some(update) => {
                    let keys = self.shared.next_keys(Direction::Opening);
                    self.keys = keys.ok_or(OpenError::Cipher)?;
                    if update.wants_ours {
                        self.shared.update_wanted.store(true, Ordering::Relaxed);
                    }
                    return Ok(Opened::KeyUpdate { consumed });
                }
            },
            ALERT => match content {
                [_, alert] => match AlertDescription::from(*alert) {
                    AlertDescription::CloseNotify => return Ok(Opened::Closed),
                    // Always followed by the above.
                    AlertDescription::UserCanceled => HEADER..HEADER,
                    alert => return Err(OpenError::Alert(Alert(alert))),
                },
                _ => return Err(OpenError::Unexpected("an alert that is not two bytes")),
            },
            _ => return Err(OpenError::Unexpected("an unknown kind of content")),
        };
        Ok(Opened::Record {
            plaintext,
            consumed,
        })
    }

    pub(super) fn advance(&mut self, sequence: u64) {
        self.keys.sequence = self.keys.sequence.max(sequence);
    }
}
