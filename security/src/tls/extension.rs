//! libp2p's certificate extension: the identity key and its signature over the certificate's key.

use x509_parser::asn1_rs::{FromDer, OctetString, Sequence};

use super::CertificateError;

/// 1.3.6.1.4.1.53594.1.1, allocated to libp2p.
pub(super) const OID: &[u64] = &[1, 3, 6, 1, 4, 1, 53594, 1, 1];

/// What is signed: this and the certificate key's `SubjectPublicKeyInfo` in DER.
const SIGNATURE_PREFIX: &[u8] = b"libp2p-tls-handshake:";

const SEQUENCE: u8 = 0x30;
const OCTET_STRING: u8 = 0x04;

/// `SignedKey ::= SEQUENCE { publicKey OCTET STRING, signature OCTET STRING }`, borrowed from the
/// certificate. Nothing in it is proven yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SignedKey<'a> {
    /// The identity key in protobuf form.
    pub(super) public_key: &'a [u8],
    pub(super) signature: &'a [u8],
}

impl<'a> SignedKey<'a> {
    pub(super) fn from_der(der: &'a [u8]) -> Result<Self, CertificateError> {
        const ERROR: CertificateError = CertificateError::MalformedExtension;
        let (rest, sequence) = Sequence::from_der(der).map_err(|_| ERROR)?;
        if !rest.is_empty() {
            return Err(ERROR);
        }
        // The content borrows from the certificate, not from `sequence`.
        let std::borrow::Cow::Borrowed(content) = sequence.content else {
            return Err(ERROR);
        };
        let (rest, public_key) = octets(content).ok_or(ERROR)?;
        let (rest, signature) = octets(rest).ok_or(ERROR)?;
        if !rest.is_empty() {
            return Err(ERROR);
        }
        Ok(Self {
            public_key,
            signature,
        })
    }

    pub(super) fn to_der(&self) -> Vec<u8> {
        let mut content = der(OCTET_STRING, self.public_key);
        content.extend(der(OCTET_STRING, self.signature));
        der(SEQUENCE, &content)
    }
}

/// The octet string at the front of `input`, and what follows it.
fn octets(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (rest, string) = OctetString::from_der(input).ok()?;
    match string.into_cow() {
        std::borrow::Cow::Borrowed(bytes) => Some((rest, bytes)),
        std::borrow::Cow::Owned(_) => None,
    }
}

/// One DER element: tag, shortest form of the length, content.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let skip = length.iter().take_while(|byte| **byte == 0).count();
    let mut out = vec![tag];
    match content.len() {
        short @ 0..=0x7f => out.push(short as u8),
        _ => {
            out.push(0x80 | (length.len() - skip) as u8);
            out.extend_from_slice(&length[skip..]);
        }
    }
    out.extend_from_slice(content);
    out
}

/// The bytes an identity key signs to vouch for a certificate key.
pub(super) fn signed_bytes(spki: &[u8]) -> Vec<u8> {
    [SIGNATURE_PREFIX, spki].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_at_every_form_of_length() {
        for length in [0, 1, 127, 128, 255, 256, 70_000] {
            let key = vec![7; length];
            let written = SignedKey {
                public_key: &key,
                signature: b"signature",
            };
            assert_eq!(SignedKey::from_der(&written.to_der()), Ok(written));
        }
    }

    #[test]
    fn refuses_anything_else() {
        let whole = SignedKey {
            public_key: b"key",
            signature: b"signature",
        }
        .to_der();
        let trailing = [&whole[..], &[0]].concat();
        let mut third = der(OCTET_STRING, b"key");
        third.extend(der(OCTET_STRING, b"signature"));
        third.extend(der(OCTET_STRING, b"more"));
        let other_type = der(SEQUENCE, &der(0x02, b"key"));
        let mut indefinite = whole.clone();
        indefinite[1] = 0x80;
        for bad in [
            &[][..],
            &whole[..whole.len() - 1],
            &trailing,
            &der(SEQUENCE, &third),
            &other_type,
            &indefinite,
        ] {
            assert_eq!(
                SignedKey::from_der(bad),
                Err(CertificateError::MalformedExtension),
                "{bad:02x?}"
            );
        }
    }
}
