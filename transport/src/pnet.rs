//! Private networks: a key that all members share, applied below everything else.
//!
//! Each direction begins with 24 random bytes, the nonce of an XSalsa20 stream with which all that
//! follows is encrypted. There is no handshake and no authentication: with another key the
//! negotiation of the security protocol reads garbage. Noise or TLS inside does the rest.

use std::{
    fmt, io,
    path::Path,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use barewire_base::{Fault, multibase};
use salsa20::{
    XSalsa20,
    cipher::{KeyIvInit, StreamCipher},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroizing;

use crate::{transports::RawConnection, ws::Copied};

/// Bytes of the key.
const KEY: usize = 32;
/// Bytes of a nonce.
const NONCE: usize = 24;
/// Bytes encrypted at a time, so that the socket reads them from the cache.
const PIECE: usize = 64 * 1024;
/// An idle connection keeps no more than this.
const KEPT: usize = 1024;
/// Longest key file that is read: its longest form has some 110 bytes.
const MAX_FILE: u64 = 4096;

const HEADER: &str = "/key/swarm/psk/1.0.0/";

/// Why something is not a pre-shared key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PskError {
    /// The file could not be read.
    #[error("{file}: {kind}")]
    Io {
        /// Its name.
        file: String,
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// The first line is another one.
    #[error("a pre-shared key begins with the line {HEADER}")]
    NoHeader,
    /// The second line names no known encoding.
    #[error("the encoding of a pre-shared key is /base16/, /base64/ or /bin/")]
    UnknownEncoding,
    /// The rest is not in the encoding, or holds fewer than 32 bytes.
    #[error("a pre-shared key has {KEY} bytes in the encoding it names")]
    BadKey,
}

impl PskError {
    /// Always [`Fault::Local`].
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Local
    }
}

/// The key of a private network. Cheap to clone; wiped when the last clone goes.
#[derive(Clone)]
pub struct Psk(Arc<Zeroizing<[u8; KEY]>>);

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk")
    }
}

impl Psk {
    /// A key from its bytes.
    #[must_use]
    pub fn from_bytes(key: [u8; KEY]) -> Self {
        Self(Arc::new(Zeroizing::new(key)))
    }

    /// Reads the text of a key file as go-libp2p writes it: a header line, a line with the encoding
    /// and the key. What follows the 32 bytes is ignored, as there.
    ///
    /// # Errors
    /// [`PskError`] for anything else.
    pub fn parse(file: &[u8]) -> Result<Self, PskError> {
        let (header, rest) = line(file);
        if header != HEADER.as_bytes() {
            return Err(PskError::NoHeader);
        }
        let (encoding, rest) = line(rest);
        let key = match encoding {
            b"/base16/" => decode(rest, 'f', 2 * KEY)?,
            // 44 characters, the last of which is padding.
            b"/base64/" => decode(rest, 'M', KEY.div_ceil(3) * 4)?,
            b"/bin/" => Zeroizing::new(rest.get(..KEY).ok_or(PskError::BadKey)?.to_vec()),
            _ => return Err(PskError::UnknownEncoding),
        };
        let key = <[u8; KEY]>::try_from(key.as_slice()).map_err(|_| PskError::BadKey)?;
        Ok(Self::from_bytes(key))
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// [`PskError`] when it cannot be read or is none.
    pub fn from_file(file: &Path) -> Result<Self, PskError> {
        let read = || {
            let mut bytes = Zeroizing::new(Vec::new());
            let open = std::fs::File::open(file)?;
            io::Read::read_to_end(&mut io::Read::take(open, MAX_FILE), &mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|error: io::Error| PskError::Io {
            file: file.display().to_string(),
            kind: error.kind(),
        })?;
        Self::parse(&bytes)
    }

    fn cipher(&self, nonce: &[u8; NONCE]) -> XSalsa20 {
        let key: &[u8; KEY] = &self.0;
        XSalsa20::new(key.into(), nonce.into())
    }
}

/// The first line without its end, and what comes after it.
fn line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(bytes.len());
    let (line, rest) = bytes.split_at(end);
    (line.trim_ascii_end(), rest.get(1..).unwrap_or_default())
}

/// The first `len` characters in a multibase encoding.
fn decode(text: &[u8], base: char, len: usize) -> Result<Zeroizing<Vec<u8>>, PskError> {
    let text = text
        .get(..len)
        .and_then(|text| std::str::from_utf8(text).ok())
        .ok_or(PskError::BadKey)?;
    let text = Zeroizing::new(format!("{base}{text}"));
    multibase::decode(&text)
        .map(Zeroizing::new)
        .ok_or(PskError::BadKey)
}

/// Whether the environment demands a key for every connection, as go-libp2p has it.
#[must_use]
pub fn is_forced() -> bool {
    std::env::var_os("LIBP2P_FORCE_PNET").is_some_and(|value| value == "1")
}

/// Puts the key below a byte stream. `nonce` must be fresh and random.
pub(crate) fn protect(raw: RawConnection, psk: &Psk, nonce: [u8; NONCE]) -> RawConnection {
    let reader = Reader {
        inner: raw.reader,
        opening: Opening::Nonce(Nonce::new(psk.clone())),
    };
    let writer = Writer {
        inner: raw.writer,
        sealing: Sealing::new(psk, nonce),
        copied: Arc::clone(&raw.copied),
    };
    RawConnection {
        reader: Box::new(reader),
        writer: Box::new(writer),
        ..raw
    }
}

/// The remote's nonce as far as it is here.
struct Nonce {
    psk: Psk,
    bytes: [u8; NONCE],
    len: usize,
}

impl Nonce {
    fn new(psk: Psk) -> Self {
        Self {
            psk,
            bytes: [0; NONCE],
            len: 0,
        }
    }
}

/// The receiving direction, without I/O.
enum Opening {
    Nonce(Nonce),
    Stream(Box<XSalsa20>),
}

impl Opening {
    /// Decrypts `buf`, and returns how many bytes of plaintext lie at its front.
    fn open(&mut self, buf: &mut [u8]) -> usize {
        let mut skip = 0;
        if let Self::Nonce(nonce) = self {
            skip = (NONCE - nonce.len).min(buf.len());
            nonce.bytes[nonce.len..nonce.len + skip].copy_from_slice(&buf[..skip]);
            nonce.len += skip;
            if nonce.len < NONCE {
                return 0;
            }
            *self = Self::Stream(Box::new(nonce.psk.cipher(&nonce.bytes)));
        }
        if let Self::Stream(cipher) = self {
            buf.copy_within(skip.., 0);
            let plain = buf.len() - skip;
            cipher.apply_keystream(&mut buf[..plain]);
            return plain;
        }
        0
    }
}

/// The sending direction, without I/O.
struct Sealing {
    cipher: Box<XSalsa20>,
    /// Sealed bytes; `sent` of them are out. The first `head` are no payload.
    out: Vec<u8>,
    sent: usize,
    head: usize,
}

impl Sealing {
    fn new(psk: &Psk, nonce: [u8; NONCE]) -> Self {
        Self {
            cipher: Box::new(psk.cipher(&nonce)),
            out: nonce.to_vec(),
            sent: 0,
            head: NONCE,
        }
    }

    /// Payload bytes that are sealed but not sent.
    fn left(&self) -> usize {
        self.out.len() - self.sent.max(self.head)
    }

    /// Seals the front of `buf` unless sealed bytes wait. The nonce leaves with the first.
    fn seal(&mut self, buf: &[u8]) -> usize {
        if self.left() > 0 {
            return 0;
        }
        if self.sent > 0 {
            self.out.clear();
            self.sent = 0;
            self.head = 0;
        }
        let start = self.out.len();
        let piece = &buf[..buf.len().min(PIECE)];
        self.out.extend_from_slice(piece);
        self.cipher.apply_keystream(&mut self.out[start..]);
        piece.len()
    }

    /// Notes that `n` bytes are out, and returns how many of them are payload.
    fn advance(&mut self, n: usize) -> usize {
        let before = self.left();
        self.sent += n;
        before - self.left()
    }
}

struct Reader<R> {
    inner: R,
    opening: Opening,
}

impl<R: AsyncRead + Unpin> AsyncRead for Reader<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        loop {
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            let read = &mut buf.filled_mut()[before..];
            if read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let plain = this.opening.open(read);
            buf.set_filled(before + plain);
            if plain > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

struct Writer<W> {
    inner: W,
    sealing: Sealing,
    copied: Arc<Copied>,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Writer<W> {
    /// Bytes count as accepted when the socket below has them, so the caller comes back with those
    /// that are sealed already.
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let sealed = this.sealing.seal(buf) as u64;
        this.copied.outbound.fetch_add(sealed, Ordering::Relaxed);
        loop {
            let rest = &this.sealing.out[this.sealing.sent..];
            let n = ready!(Pin::new(&mut this.inner).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let accepted = this.sealing.advance(n);
            if accepted > 0 {
                return Poll::Ready(Ok(accepted));
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sealing = &mut self.sealing;
        if sealing.sent == sealing.out.len() && sealing.out.capacity() > KEPT {
            sealing.out = Vec::new();
            sealing.sent = 0;
            sealing.head = 0;
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// The two directions for fuzzing: what `pieces` make of a plaintext, sealed (nonce included), and opened again.
#[doc(hidden)]
#[must_use]
pub fn round_trip_for_testing_only(
    psk: &Psk,
    nonce: [u8; NONCE],
    plain: &[u8],
    pieces: &[usize],
) -> (Vec<u8>, Vec<u8>) {
    let mut sealing = Sealing::new(psk, nonce);
    let mut opening = Opening::Nonce(Nonce::new(psk.clone()));
    let mut rest = plain;
    let (mut sealed, mut back) = (Vec::new(), Vec::new());
    for piece in pieces.iter().map(|piece| (*piece).max(1)).cycle() {
        if rest.is_empty() {
            break;
        }
        sealing.seal(rest);
        let n = piece.min(sealing.out.len() - sealing.sent);
        let mut wire = sealing.out[sealing.sent..sealing.sent + n].to_vec();
        rest = &rest[sealing.advance(n)..];
        sealed.extend_from_slice(&wire);
        let kept = opening.open(&mut wire);
        back.extend_from_slice(&wire[..kept]);
        if pieces.is_empty() {
            break;
        }
    }
    (sealed, back)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";

    #[test]
    fn key_files() {
        let expected: [u8; KEY] = std::array::from_fn(|i| i as u8);
        let bin = [HEADER.as_bytes(), b"\n/bin/\n", &expected, b"\n"].concat();
        for file in [
            format!("{HEADER}\n/base16/\n{HEX}").into_bytes(),
            format!("{HEADER}\r\n/base16/\r\n{HEX}\r\n").into_bytes(),
            format!("{HEADER}\n/base64/\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n")
                .into_bytes(),
            bin,
        ] {
            assert_eq!(**Psk::parse(&file).unwrap().0, expected);
        }
        for (file, error) in [
            (String::new(), PskError::NoHeader),
            (format!("x{HEADER}\n/base16/\n{HEX}"), PskError::NoHeader),
            (
                format!("{HEADER}\n/base32/\n{HEX}"),
                PskError::UnknownEncoding,
            ),
            (HEADER.to_owned(), PskError::UnknownEncoding),
            (
                format!("{HEADER}\n/base16/\n{}", &HEX[1..]),
                PskError::BadKey,
            ),
            (
                format!("{HEADER}\n/base16/\n{}", HEX.replace('0', "g")),
                PskError::BadKey,
            ),
            (format!("{HEADER}\n/base64/\n{HEX}"), PskError::BadKey),
            (format!("{HEADER}\n/bin/\nshort"), PskError::BadKey),
        ] {
            assert_eq!(Psk::parse(file.as_bytes()).unwrap_err(), error, "{file}");
        }
        assert_eq!(format!("{:?}", Psk::from_bytes(expected)), "Psk");
    }

    /// The first bytes of Go's golang.org/x/crypto/salsa20 test for XSalsa20.
    #[test]
    fn the_stream_is_xsalsa20() {
        let psk = Psk::from_bytes(*b"this is 32-byte key for xsalsa20");
        let mut bytes = *b"Hello world!";
        psk.cipher(b"24-byte nonce for xsalsa")
            .apply_keystream(&mut bytes);
        assert_eq!(
            bytes,
            [
                0x00, 0x2d, 0x45, 0x13, 0x84, 0x3f, 0xc2, 0x40, 0xc4, 0x01, 0xe5, 0x41
            ]
        );
    }

    #[test]
    fn any_pieces_make_the_same_stream() {
        let psk = Psk::from_bytes([7; KEY]);
        let plain: Vec<u8> = (0..200_000u32).map(|i| (i * 7) as u8).collect();
        for pieces in [&[1, 23, 24, 25][..], &[100_000], &[7]] {
            let (_, back) = round_trip_for_testing_only(&psk, [3; NONCE], &plain, pieces);
            assert_eq!(back, plain);
        }
    }
}
