//! The two `SubjectPublicKeyInfo` forms that libp2p keys come in, read as strict DER.
//!
//! Strict DER gives a key one encoding, so what was read is already canonical.

use spki::{
    ObjectIdentifier, SubjectPublicKeyInfoRef,
    der::{Decode, Reader, SliceReader, asn1::UintRef},
};

use super::{KeyType, PublicKeyError};

const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");

const MIN_RSA_BITS: usize = 2048;
const MAX_RSA_BITS: usize = 8192;

/// The NIST curves an ECDSA key may be on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    /// Bytes of one coordinate.
    const fn coordinate_len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

/// Checks an RSA key's bounds and returns its PKCS#1 `RSAPublicKey` part.
pub(super) fn rsa_key(der: &[u8]) -> Result<&[u8], PublicKeyError> {
    const ERROR: PublicKeyError = PublicKeyError::Der(KeyType::Rsa);
    let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| ERROR)?;
    // RFC 3279: the parameters are an explicit NULL; go-libp2p refuses keys without it.
    if info.algorithm.oid != RSA_ENCRYPTION
        || !info
            .algorithm
            .parameters
            .is_some_and(|parameters| parameters.is_null())
    {
        return Err(ERROR);
    }
    let key = info.subject_public_key.as_bytes().ok_or(ERROR)?;
    let (modulus, exponent) = rsa_numbers(key).map_err(|_| ERROR)?;
    let bits = bits(modulus);
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
        return Err(PublicKeyError::RsaSize(bits));
    }
    let is_odd = |number: &[u8]| number.last().is_some_and(|end| end & 1 == 1);
    // go-libp2p's bounds of the exponent; a large one would only cost the verifier time.
    if !is_odd(modulus) || !is_odd(exponent) || !(2..=31).contains(&self::bits(exponent)) {
        return Err(PublicKeyError::RsaNumbers);
    }
    Ok(key)
}

fn rsa_numbers(key: &[u8]) -> spki::der::Result<(&[u8], &[u8])> {
    let mut reader = SliceReader::new(key)?;
    let (modulus, exponent) = reader.sequence(|reader| {
        let modulus: UintRef<'_> = reader.decode()?;
        let exponent: UintRef<'_> = reader.decode()?;
        Ok::<_, spki::der::Error>((modulus, exponent))
    })?;
    reader.finish()?;
    Ok((modulus.as_bytes(), exponent.as_bytes()))
}

/// Significant bits of a big-endian number.
fn bits(number: &[u8]) -> usize {
    let Some(first) = number.iter().position(|byte| *byte != 0) else {
        return 0;
    };
    (number.len() - first) * 8 - number[first].leading_zeros() as usize
}

/// Returns the curve and the uncompressed point of an ECDSA key.
pub(super) fn ecdsa_point(der: &[u8]) -> Result<(Curve, &[u8]), PublicKeyError> {
    const ERROR: PublicKeyError = PublicKeyError::Der(KeyType::Ecdsa);
    let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| ERROR)?;
    if info.algorithm.oid != EC_PUBLIC_KEY {
        return Err(ERROR);
    }
    let curve = match info.algorithm.parameters_oid().map_err(|_| ERROR)? {
        P256 => Curve::P256,
        P384 => Curve::P384,
        P521 => Curve::P521,
        _ => return Err(PublicKeyError::Curve),
    };
    let point = info.subject_public_key.as_bytes().ok_or(ERROR)?;
    // go- and rust-libp2p read and write the uncompressed form only; another one would be a
    // second encoding of the same key.
    if point.len() != 1 + 2 * curve.coordinate_len() {
        return Err(PublicKeyError::Length {
            key_type: KeyType::Ecdsa,
            len: point.len(),
        });
    }
    if point[0] != 4 {
        return Err(ERROR);
    }
    Ok((curve, point))
}
