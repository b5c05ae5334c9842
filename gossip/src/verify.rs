//! Signatures of messages, made and checked without copying the payload.

use std::collections::HashMap;

use barewire_base::{KeyType, Keypair, PeerId, PublicKey, varint};
use bytes::{Bytes, BytesMut};
use ed25519_dalek::{
    Signature, SigningKey, VerifyingKey,
    hazmat::{ExpandedSecretKey, raw_sign_byupdate},
};
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

use crate::rpc::WireMessage;

/// What is signed before the message.
const PREFIX: &[u8] = b"libp2p-pubsub:";

/// An Ed25519 key in libp2p's `PublicKey` message is this and 32 bytes.
const ED25519_HEAD: &[u8] = &[0x08, 0x01, 0x12, 0x20];

/// Most keys a [`Verifier`] keeps.
const MAX_KEYS: usize = 1024;

/// Gives `update` the signed bytes in pieces: the prefix and the message's fields 1 to 4 in ascending order, absent ones left
/// out and empty ones kept, then unknown fields as they were.
fn signed_bytes(message: &WireMessage, mut update: impl FnMut(&[u8])) {
    update(PREFIX);
    let mut head = [0u8; 12];
    let mut put_head = |number: u8, len: usize, update: &mut dyn FnMut(&[u8])| {
        head[0] = number << 3 | 2;
        let mut out = &mut head[1..];
        varint::encode(len as u64, &mut out);
        let unused = out.len();
        update(&head[..12 - unused]);
    };
    if let Some(from) = &message.from {
        put_head(1, from.len(), &mut update);
        update(from);
    }
    if let Some(data) = &message.data {
        put_head(2, data.len(), &mut update);
        data.chunks().iter().for_each(|chunk| update(chunk));
    }
    for (number, field) in [(3, &message.seqno), (4, &message.topic)] {
        if let Some(value) = field {
            put_head(number, value.len(), &mut update);
            update(value);
        }
    }
    if let Some(unknown) = &message.unknown {
        update(unknown);
    }
}

/// Signs with an Ed25519 key, over bytes in pieces.
pub(crate) struct Signer {
    seed: Zeroizing<[u8; 32]>,
    public: VerifyingKey,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    pub(crate) fn new(keypair: &Keypair) -> Self {
        let encoded = keypair.to_protobuf();
        // The message is four bytes of head, then seed and public key: `Keypair` holds Ed25519 keys only.
        let mut seed = Zeroizing::new([0; 32]);
        if let Some(bytes) = encoded.get(4..36) {
            seed.copy_from_slice(bytes);
        }
        let public = SigningKey::from_bytes(&seed).verifying_key();
        Self { seed, public }
    }

    pub(crate) fn sign(&self, message: &WireMessage) -> Bytes {
        let secret = ExpandedSecretKey::from(&*self.seed);
        let signature = raw_sign_byupdate::<Sha512, _>(
            &secret,
            |hash| {
                signed_bytes(message, |piece| hash.update(piece));
                Ok(())
            },
            &self.public,
        );
        // It fails only if the closure does.
        signature.map_or_else(|_| Bytes::new(), |s| Bytes::copy_from_slice(&s.to_bytes()))
    }
}

/// Verifies signatures and remembers the parsed keys of recent authors. One per thread; it shares nothing with the router.
#[derive(Debug, Default)]
pub struct Verifier {
    keys: HashMap<PeerId, Key>,
}

#[derive(Clone, Debug)]
enum Key {
    Ed25519(Box<VerifyingKey>),
    Other(Box<PublicKey>),
}

impl Verifier {
    /// A verifier that knows no keys.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the signature of `message` is its author's. A key in the message must be the author's; without one the author's
    /// id must embed it.
    ///
    /// An Ed25519 signature is checked without gluing the pieces of the payload together, and accepts exactly what
    /// [`PublicKey::verify`] accepts; other keys need the bytes in one buffer and copy them.
    #[must_use]
    pub fn verify(&mut self, message: &WireMessage) -> bool {
        let (Some(from), Some(signature)) = (&message.from, &message.signature) else {
            return false;
        };
        let Ok(author) = PeerId::from_bytes(from) else {
            return false;
        };
        let Some(key) = self.key(author, message.key.as_deref()) else {
            return false;
        };
        match key {
            Key::Ed25519(key) => {
                let Ok(signature) = Signature::from_slice(signature) else {
                    return false;
                };
                let Ok(mut stream) = key.verify_stream(&signature) else {
                    return false;
                };
                signed_bytes(message, |piece| stream.update(piece));
                stream.finalize_and_verify().is_ok()
            }
            Key::Other(key) => {
                let mut all = BytesMut::new();
                signed_bytes(message, |piece| all.extend_from_slice(piece));
                key.verify(&all, signature).is_ok()
            }
        }
    }

    /// The author's key. A key that came with the message has to be the author's.
    fn key(&mut self, author: PeerId, sent: Option<&[u8]>) -> Option<Key> {
        let known = self.keys.get(&author).cloned();
        if let (Some(known), None) = (&known, sent) {
            return Some(known.clone());
        }
        let public = match sent {
            // Present and empty is as absent: go leaves it so.
            Some(encoded) if !encoded.is_empty() => PublicKey::from_protobuf(encoded).ok()?,
            _ => author.public_key()?,
        };
        if public.peer_id() != author {
            return None;
        }
        if known.is_some() {
            return known;
        }
        let key = match ed25519(&public) {
            Some(key) => Key::Ed25519(Box::new(key)),
            None => Key::Other(Box::new(public)),
        };
        if self.keys.len() >= MAX_KEYS {
            self.keys.clear();
        }
        self.keys.insert(author, key.clone());
        Some(key)
    }
}

fn ed25519(key: &PublicKey) -> Option<VerifyingKey> {
    if key.key_type() != KeyType::Ed25519 {
        return None;
    }
    let encoded = key.to_protobuf();
    let bytes = encoded.strip_prefix(ED25519_HEAD)?;
    VerifyingKey::try_from(bytes).ok()
}

/// Verifies a batch, each message on its own: one answer a message, in order.
///
/// The batch shares parsed keys. It does not fold the signatures into one equation: that would accept some signatures with
/// components of small order which a check of one refuses, so that peers would disagree about a message and punish each other
/// for forwarding it. Split a batch among threads instead, each with a [`Verifier`].
#[must_use]
pub fn verify_batch<'a>(messages: impl IntoIterator<Item = &'a WireMessage>) -> Vec<bool> {
    let mut verifier = Verifier::new();
    messages
        .into_iter()
        .map(|message| verifier.verify(message))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Author, Payload};

    fn signed(data: Payload) -> WireMessage {
        let author = Author::signed(&Keypair::from_seed(&[3; 32]), 77);
        author.message("topic", data).message().clone()
    }

    #[test]
    fn signs_the_documented_bytes() {
        let keypair = Keypair::from_seed(&[3; 32]);
        let message = signed(b"hello".as_slice().into());
        let mut expected = b"libp2p-pubsub:".to_vec();
        expected.extend([0x0a, 38]);
        expected.extend_from_slice(keypair.peer_id().as_bytes());
        expected.extend_from_slice(b"\x12\x05hello\x1a\x08\0\0\0\0\0\0\0\x4d\x22\x05topic");
        assert_eq!(
            message.signature.as_deref(),
            Some(&keypair.sign(&expected)[..])
        );
    }

    #[test]
    fn absent_and_empty_payloads_are_signed_differently() {
        let empty = signed(Payload::default());
        assert!(Verifier::new().verify(&empty));
        let absent = WireMessage {
            data: None,
            ..empty
        };
        assert!(!Verifier::new().verify(&absent));
    }

    #[test]
    fn every_field_is_covered_and_pieces_do_not_matter() {
        let data = vec![5u8; 10_000];
        let message = signed(data.clone().into());
        let mut verifier = Verifier::new();
        assert!(verifier.verify(&message));
        let pieces = WireMessage {
            data: Some(Payload::from_chunks(
                data.chunks(333).map(Bytes::copy_from_slice),
            )),
            ..message.clone()
        };
        assert!(verifier.verify(&pieces));
        let other = Bytes::from(Keypair::from_seed(&[4; 32]).peer_id().as_bytes().to_vec());
        let changes: [fn(&mut WireMessage, Bytes); 7] = [
            |m, other| m.from = Some(other),
            |m, _| m.data = Some(vec![5; 9_999].into()),
            |m, _| m.seqno = None,
            |m, _| m.topic = Some(Bytes::from_static(b"topik")),
            |m, _| m.unknown = Some(Bytes::from_static(&[0x38, 1])),
            |m, other| m.key = Some(other),
            |m, _| m.signature = Some(Bytes::from_static(&[0; 64])),
        ];
        for (index, change) in changes.iter().enumerate() {
            let mut changed = message.clone();
            change(&mut changed, other.clone());
            assert!(!verifier.verify(&changed), "change {index}");
        }
    }

    #[test]
    fn a_key_must_be_the_authors() {
        let mut message = signed(Payload::default());
        let mut verifier = Verifier::new();
        message.key = Some(Keypair::from_seed(&[3; 32]).public().to_protobuf().into());
        assert!(verifier.verify(&message));
        message.key = Some(Keypair::from_seed(&[4; 32]).public().to_protobuf().into());
        assert!(!verifier.verify(&message));
        message.key = Some(Bytes::new());
        assert!(verifier.verify(&message));
        // A hashed id embeds no key.
        let mut hashed = vec![0x12, 32];
        hashed.extend([9; 32]);
        message.from = Some(hashed.into());
        message.key = None;
        assert!(!verifier.verify(&message));
    }

    #[test]
    fn one_bad_signature_of_a_batch_is_found() {
        let mut messages: Vec<WireMessage> = (0..8u8).map(|n| signed(vec![n; 50].into())).collect();
        messages[5].signature = messages[4].signature.clone();
        let answers = verify_batch(&messages);
        assert_eq!(answers, [true, true, true, true, true, false, true, true]);
    }

    #[test]
    fn streams_accept_what_one_buffer_accepts() {
        // Same verdict as the base crate's check, for good and damaged signatures.
        let message = signed(vec![1; 100].into());
        let key = Keypair::from_seed(&[3; 32]).public().clone();
        let mut bytes = Vec::new();
        signed_bytes(&message, |piece| bytes.extend_from_slice(piece));
        let good = message.signature.clone().unwrap();
        for bit in 0..512 {
            let mut damaged = good.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let expected = key.verify(&bytes, &damaged).is_ok();
            let mut message = message.clone();
            message.signature = Some(damaged.into());
            assert_eq!(Verifier::new().verify(&message), expected, "bit {bit}");
        }
    }
}
