use std::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

use sha2::{Digest, Sha256};

use super::PublicKey;
use crate::{Fault, multibase, varint};

/// Multihash code of a digest that is the data itself.
const IDENTITY: u64 = 0x00;
/// Multihash code of SHA-256.
const SHA2_256: u64 = 0x12;
const SHA2_256_LEN: usize = 32;

/// Keys whose encoding is at most this long are their own id; longer ones are hashed (the peer-ids
/// specification's threshold).
const MAX_INLINE_KEY_LEN: usize = 42;

/// Longest id in bytes: code, length and an inlined key.
const MAX_LEN: usize = MAX_INLINE_KEY_LEN + 2;

/// Longest text that can be an id, in any form: 44 bytes and the CID's two as base2, with prefix.
const MAX_TEXT_LEN: usize = 8 * (MAX_LEN + 2) + 1;

/// Multicodec of a CID that wraps a libp2p public key's hash.
const LIBP2P_KEY: u64 = 0x72;

/// A peer's id: the multihash of its public key in canonical encoding. Short keys (Ed25519,
/// secp256k1) are embedded, others are hashed.
///
/// Copies are cheap and allocate nothing. The order is that of the binary form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerId {
    /// The multihash, then zeros: so the derived comparisons order as the multihashes do.
    bytes: [u8; MAX_LEN],
    len: u8,
}

/// Why something is not a peer id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerIdError {
    /// Not `code, length, digest` with nothing behind it.
    #[error("the peer id is not one well-formed multihash")]
    Malformed,
    /// Neither SHA-256 nor the identity.
    #[error("a peer id cannot use the multihash code {0:#x}")]
    HashCode(u64),
    /// A SHA-256 of other than 32 bytes or an inlined key of more than 42.
    #[error("a digest of {0} bytes cannot be a peer id's")]
    DigestLength(usize),
    /// The text is neither base58btc nor a multibase known here.
    #[error("the peer id's text is not valid base58 or multibase")]
    Text,
    /// A CID of another version than 1 or with another codec than libp2p-key.
    #[error("the CID is not version 1 with the libp2p-key codec")]
    Cid,
}

impl PeerIdError {
    /// Always [`Fault::Peer`]: whoever gave the id.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Peer
    }
}

impl PeerId {
    /// The id of the key with this canonical encoding.
    pub(super) fn of_encoded_key(encoded: &[u8]) -> Self {
        if encoded.len() <= MAX_INLINE_KEY_LEN {
            Self::assemble(IDENTITY, encoded)
        } else {
            Self::assemble(SHA2_256, &Sha256::digest(encoded))
        }
    }

    /// `digest` is at most [`MAX_INLINE_KEY_LEN`] bytes long and `code` below 128.
    fn assemble(code: u64, digest: &[u8]) -> Self {
        let mut bytes = [0; MAX_LEN];
        bytes[0] = code as u8;
        bytes[1] = digest.len() as u8;
        bytes[2..2 + digest.len()].copy_from_slice(digest);
        Self {
            bytes,
            len: digest.len() as u8 + 2,
        }
    }

    /// Reads the binary form, a multihash with nothing behind it. An inlined key is not looked at;
    /// [`public_key`](Self::public_key) does.
    ///
    /// # Errors
    /// [`PeerIdError`] unless it is an identity digest of at most 42 bytes or a SHA-256.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PeerIdError> {
        let (code, digest) = split_multihash(bytes).ok_or(PeerIdError::Malformed)?;
        match (code, digest.len()) {
            (SHA2_256, SHA2_256_LEN) | (IDENTITY, 0..=MAX_INLINE_KEY_LEN) => {
                Ok(Self::assemble(code, digest))
            }
            (SHA2_256 | IDENTITY, len) => Err(PeerIdError::DigestLength(len)),
            _ => Err(PeerIdError::HashCode(code)),
        }
    }

    /// The binary form, 2 to 44 bytes.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.len))
            .unwrap_or(&self.bytes)
    }

    /// The key embedded in the id, or `None` if the id is a hash, or if what it embeds is not a
    /// key whose own id this is.
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        let (IDENTITY, encoded) = split_multihash(self.as_bytes())? else {
            return None;
        };
        let key = PublicKey::from_protobuf(encoded).ok()?;
        (key.peer_id() == *self).then_some(key)
    }

    /// The form as a CIDv1 in base32, as used in DNS names and by IPFS tools. Other peers may only
    /// understand base58, which [`Display`](fmt::Display) prints.
    #[must_use]
    pub fn to_cid_string(&self) -> String {
        let mut cid = Vec::with_capacity(MAX_LEN + 2);
        cid.extend([1, LIBP2P_KEY as u8]);
        cid.extend_from_slice(self.as_bytes());
        multibase::encode_base32(&cid)
    }

    fn from_cid(cid: &[u8]) -> Result<Self, PeerIdError> {
        let (version, rest) = split_varint(cid).ok_or(PeerIdError::Cid)?;
        let (codec, multihash) = split_varint(rest).ok_or(PeerIdError::Cid)?;
        if (version, codec) != (1, LIBP2P_KEY) {
            return Err(PeerIdError::Cid);
        }
        Self::from_bytes(multihash)
    }
}

fn split_varint(input: &[u8]) -> Option<(u64, &[u8])> {
    let (value, used) = varint::decode(input).ok().flatten()?;
    Some((value, input.get(used..)?))
}

/// Code and digest of the multihash that `input` is, if it is one and nothing else.
pub(crate) fn split_multihash(input: &[u8]) -> Option<(u64, &[u8])> {
    let (code, rest) = split_varint(input)?;
    let (len, digest) = split_varint(rest)?;
    (len == digest.len() as u64).then_some((code, digest))
}

impl FromStr for PeerId {
    type Err = PeerIdError;

    /// Reads base58btc (`12D3Koo…`, `16Uiu2…`, `Qm…`) or a CIDv1 in any multibase.
    fn from_str(text: &str) -> Result<Self, PeerIdError> {
        if text.len() > MAX_TEXT_LEN {
            return Err(PeerIdError::Text);
        }
        if !text.starts_with('1') && !text.starts_with("Qm") {
            return Self::from_cid(&multibase::decode(text).ok_or(PeerIdError::Text)?);
        }
        let mut bytes = [0; MAX_LEN];
        match bs58::decode(text).onto(&mut bytes[..]) {
            Ok(len) => Self::from_bytes(&bytes[..len]),
            // More than fits: no digest that long is an id's.
            Err(bs58::decode::Error::BufferTooSmall) => Err(PeerIdError::Malformed),
            Err(_) => Err(PeerIdError::Text),
        }
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 44 bytes make at most 61 base58 digits.
        let mut text = [0u8; 64];
        let len = bs58::encode(self.as_bytes())
            .onto(&mut text[..])
            .map_err(|_| fmt::Error)?;
        f.pad(std::str::from_utf8(&text[..len]).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({self})")
    }
}

impl Hash for PeerId {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The length is inside the multihash, so no prefix is needed.
        state.write(self.as_bytes());
    }
}

impl From<&PublicKey> for PeerId {
    fn from(key: &PublicKey) -> Self {
        key.peer_id()
    }
}
