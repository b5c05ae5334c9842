use std::{fmt, sync::Arc};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256K1_SHA256_ASN1, ECDSA_P384_SHA256_ASN1,
    ECDSA_P521_SHA256_ASN1, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
};
use bytes::BufMut;
use ed25519_dalek::{Signature, VerifyingKey};

use super::{PeerId, spki};
use crate::{
    Fault,
    proto::{self, Fields, ScanError, Value},
};

/// Longest `PublicKey` message looked at in bytes: an RSA key of 8192 bits takes about 1,060.
const MAX_ENCODED_LEN: usize = 4096;

/// Longest signature looked at in bytes: that of an RSA key of 8192 bits.
const MAX_SIGNATURE_LEN: usize = 1024;

/// The kinds of keys peers identify themselves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyType {
    /// RSA of 2048 to 8192 bits, signing by PKCS#1 v1.5 over SHA-256.
    Rsa,
    /// Ed25519, the kind every implementation speaks and the only one made here.
    Ed25519,
    /// ECDSA over secp256k1 and SHA-256.
    Secp256k1,
    /// ECDSA over P-256, P-384 or P-521, always over SHA-256.
    Ecdsa,
}

impl KeyType {
    /// The number of this type in libp2p's `PublicKey` and `PrivateKey` messages.
    #[must_use]
    pub const fn code(self) -> u64 {
        match self {
            Self::Rsa => 0,
            Self::Ed25519 => 1,
            Self::Secp256k1 => 2,
            Self::Ecdsa => 3,
        }
    }

    const fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            0 => Self::Rsa,
            1 => Self::Ed25519,
            2 => Self::Secp256k1,
            3 => Self::Ecdsa,
            _ => return None,
        })
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa => "RSA",
            Self::Ed25519 => "Ed25519",
            Self::Secp256k1 => "secp256k1",
            Self::Ecdsa => "ECDSA",
        })
    }
}

/// Why bytes are not a public key that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublicKeyError {
    /// Longer than any key accepted.
    #[error("{0} bytes are too many for a public key")]
    TooLong(usize),
    /// Not a protobuf message.
    #[error("the public key is not a valid protobuf message: {0}")]
    Protobuf(#[from] ScanError),
    /// The message lacks the key's type.
    #[error("the public key's type is missing")]
    MissingType,
    /// The message lacks the key's data.
    #[error("the public key's data is missing")]
    MissingData,
    /// A type number that stands for no key type known here.
    #[error("the public key type {0} is unknown")]
    UnknownType(u64),
    /// The data has the wrong length for a key of this type.
    #[error("{len} bytes cannot be the data of a {key_type} key")]
    Length {
        /// The key's type.
        key_type: KeyType,
        /// Bytes of data.
        len: usize,
    },
    /// The data is no point of the key type's curve.
    #[error("the data is not a point on the curve of a {0} key")]
    NotOnCurve(KeyType),
    /// An Ed25519 key of small order or in non-canonical form: anybody could sign for it.
    #[error("the Ed25519 key is of small order or not in canonical form")]
    WeakKey,
    /// The data is not the strict DER form of a `SubjectPublicKeyInfo` for this key type.
    #[error("the data of the {0} key is not a strict DER SubjectPublicKeyInfo of its kind")]
    Der(KeyType),
    /// An RSA modulus shorter than 2048 or longer than 8192 bits.
    #[error("an RSA key of {0} bits is outside 2048 to 8192")]
    RsaSize(usize),
    /// An RSA modulus that is even, or a public exponent that is even, 1, or above 2³¹ − 1.
    #[error("the RSA key's modulus or public exponent is unusable")]
    RsaNumbers,
    /// An ECDSA key on another curve than P-256, P-384 or P-521.
    #[error("the ECDSA key's curve is not supported")]
    Curve,
}

impl PublicKeyError {
    /// Always [`Fault::Peer`].
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Peer
    }
}

/// A signature is not the key's over that message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not belong to the key and the message")]
#[non_exhaustive]
pub struct SignatureError;

impl SignatureError {
    /// Always [`Fault::Peer`].
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Peer
    }
}

/// A peer's public key, checked to be usable when it was read. Clones are cheap.
#[derive(Clone)]
pub struct PublicKey {
    inner: Inner,
}

#[derive(Clone)]
enum Inner {
    Ed25519(Arc<VerifyingKey>),
    /// Verified by aws-lc; `data` is the canonical form that goes on the wire.
    Other(Arc<OtherKey>),
}

struct OtherKey {
    key_type: KeyType,
    data: Vec<u8>,
    parsed: ParsedPublicKey,
}

impl PublicKey {
    /// Reads libp2p's `PublicKey` message. Unknown fields and any order of fields are accepted;
    /// the key is kept in its canonical form, so that one key has one peer id.
    ///
    /// # Errors
    /// [`PublicKeyError`] for keys outside the bounds of [`KeyType`].
    pub fn from_protobuf(bytes: &[u8]) -> Result<Self, PublicKeyError> {
        if bytes.len() > MAX_ENCODED_LEN {
            return Err(PublicKeyError::TooLong(bytes.len()));
        }
        let mut fields = Fields::new(bytes);
        let (mut key_type, mut data) = (None, None);
        while let Some(field) = fields.next_field()? {
            // As every protobuf reader does, the last of several values counts.
            match (field.number, field.value) {
                (1, Value::Varint(value)) => key_type = Some(value),
                (2, Value::Bytes(value)) => data = Some(value),
                (1 | 2, _) => return Err(ScanError::WireType.into()),
                (_, Value::StartGroup | Value::EndGroup) => return Err(ScanError::Group.into()),
                _ => {}
            }
        }
        let code = key_type.ok_or(PublicKeyError::MissingType)?;
        let key_type = KeyType::from_code(code).ok_or(PublicKeyError::UnknownType(code))?;
        Self::from_data(key_type, data.ok_or(PublicKeyError::MissingData)?)
    }

    fn from_data(key_type: KeyType, data: &[u8]) -> Result<Self, PublicKeyError> {
        match key_type {
            KeyType::Ed25519 => Self::from_ed25519(data),
            KeyType::Secp256k1 => Self::from_secp256k1(data),
            KeyType::Rsa => {
                let key = spki::rsa_key(data)?;
                let parsed = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key)
                    .map_err(|_| PublicKeyError::RsaNumbers)?;
                Ok(Self::other(key_type, data.to_vec(), parsed))
            }
            KeyType::Ecdsa => {
                let (curve, point) = spki::ecdsa_point(data)?;
                let algorithm = match curve {
                    spki::Curve::P256 => &ECDSA_P256_SHA256_ASN1,
                    spki::Curve::P384 => &ECDSA_P384_SHA256_ASN1,
                    spki::Curve::P521 => &ECDSA_P521_SHA256_ASN1,
                };
                let parsed = ParsedPublicKey::new(algorithm, point)
                    .map_err(|_| PublicKeyError::NotOnCurve(key_type))?;
                Ok(Self::other(key_type, data.to_vec(), parsed))
            }
        }
    }

    fn other(key_type: KeyType, data: Vec<u8>, parsed: ParsedPublicKey) -> Self {
        Self {
            inner: Inner::Other(Arc::new(OtherKey {
                key_type,
                data,
                parsed,
            })),
        }
    }

    fn from_ed25519(data: &[u8]) -> Result<Self, PublicKeyError> {
        const KEY_TYPE: KeyType = KeyType::Ed25519;
        let bytes: &[u8; 32] = data.try_into().map_err(|_| PublicKeyError::Length {
            key_type: KEY_TYPE,
            len: data.len(),
        })?;
        let key =
            VerifyingKey::from_bytes(bytes).map_err(|_| PublicKeyError::NotOnCurve(KEY_TYPE))?;
        // Small-order keys verify signatures nobody made, and a y of 2²⁵⁵ − 19 or more is a second
        // name for a key. No generated key is either, so other implementations need not agree.
        let canonical = bytes[31] & 0x7f != 0x7f
            || bytes[1..31].iter().any(|byte| *byte != 0xff)
            || bytes[0] < 0xed;
        if !canonical || key.is_weak() {
            return Err(PublicKeyError::WeakKey);
        }
        Ok(Self {
            inner: Inner::Ed25519(Arc::new(key)),
        })
    }

    fn from_secp256k1(data: &[u8]) -> Result<Self, PublicKeyError> {
        const KEY_TYPE: KeyType = KeyType::Secp256k1;
        // The SEC1 forms: compressed, uncompressed, and hybrid, whose first byte tells the parity
        // of y as well.
        let parity = |y_end: u8| 2 | (y_end & 1);
        let compressed: [u8; 33] = match *data {
            [2 | 3, ..] if data.len() == 33 => data
                .try_into()
                .map_err(|_| PublicKeyError::NotOnCurve(KEY_TYPE))?,
            [form @ (4 | 6 | 7), ref x_y @ .., y_end] if data.len() == 65 => {
                if form != 4 && form != 4 | parity(y_end) {
                    return Err(PublicKeyError::NotOnCurve(KEY_TYPE));
                }
                let mut compressed = [parity(y_end); 33];
                compressed[1..].copy_from_slice(&x_y[..32]);
                compressed
            }
            [2..=4 | 6 | 7, ..] | [] => {
                return Err(PublicKeyError::Length {
                    key_type: KEY_TYPE,
                    len: data.len(),
                });
            }
            _ => return Err(PublicKeyError::NotOnCurve(KEY_TYPE)),
        };
        let not_on_curve = |_| PublicKeyError::NotOnCurve(KEY_TYPE);
        let parsed = if data.len() == 65 {
            // The y given must be the point's own, not only of the right parity.
            let mut point = [4; 65];
            point[1..].copy_from_slice(&data[1..]);
            ParsedPublicKey::new(&ECDSA_P256K1_SHA256_ASN1, point)
        } else {
            ParsedPublicKey::new(&ECDSA_P256K1_SHA256_ASN1, compressed)
        };
        Ok(Self::other(
            KEY_TYPE,
            compressed.to_vec(),
            parsed.map_err(not_on_curve)?,
        ))
    }

    /// A key made here, which needs no check.
    pub(super) fn from_own_ed25519(key: VerifyingKey) -> Self {
        Self {
            inner: Inner::Ed25519(Arc::new(key)),
        }
    }

    /// The canonical `PublicKey` message: type, then data, both always present.
    #[must_use]
    pub fn to_protobuf(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.data().len() + 6);
        self.encode(&mut out);
        out
    }

    fn encode(&self, out: &mut impl BufMut) {
        // Written by hand: RSA's type is 0, which a proto3 encoder would leave out.
        proto::put_varint_field(1, self.key_type().code(), out);
        proto::put_bytes_field(2, self.data(), out);
    }

    fn data(&self) -> &[u8] {
        match &self.inner {
            Inner::Ed25519(key) => key.as_bytes(),
            Inner::Other(key) => &key.data,
        }
    }

    /// The key's type.
    #[must_use]
    pub fn key_type(&self) -> KeyType {
        match &self.inner {
            Inner::Ed25519(_) => KeyType::Ed25519,
            Inner::Other(key) => key.key_type,
        }
    }

    /// The id of the peer that holds this key.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        if let Inner::Ed25519(key) = &self.inner {
            let mut encoded = [0; 36];
            let mut out = &mut encoded[..];
            proto::put_varint_field(1, KeyType::Ed25519.code(), &mut out);
            proto::put_bytes_field(2, key.as_bytes(), &mut out);
            return PeerId::of_encoded_key(&encoded);
        }
        PeerId::of_encoded_key(&self.to_protobuf())
    }

    /// Checks `signature` over `message`; each key type brings its own hash and signature form
    /// (see [`KeyType`]). ECDSA signatures may have a high `s`, as go-libp2p accepts them.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        if signature.len() > MAX_SIGNATURE_LEN {
            return Err(SignatureError);
        }
        match &self.inner {
            Inner::Ed25519(key) => {
                let signature = Signature::from_slice(signature).map_err(|_| SignatureError)?;
                ed25519_dalek::Verifier::verify(&**key, message, &signature)
                    .map_err(|_| SignatureError)
            }
            Inner::Other(key) => key
                .parsed
                .verify_sig(message, signature)
                .map_err(|_| SignatureError),
        }
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.key_type() == other.key_type() && self.data() == other.data()
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicKey")
            .field("key_type", &self.key_type())
            .field("peer_id", &self.peer_id())
            .finish_non_exhaustive()
    }
}
