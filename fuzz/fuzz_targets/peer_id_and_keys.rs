//! Peer ids in all forms, public keys and private keys: ours against `libp2p-identity`.
//!
//! Known and wanted differences:
//! * a SHA-256 id of other than 32 bytes is refused here, as go's `/p2p` component does;
//! * Ed25519 keys of small order or non-canonical form are refused here;
//! * secp256k1 points in the hybrid form are accepted here only, as go does; points in a "compact"
//!   form that SEC1 does not have (first byte 5) are accepted there only;
//! * DER is read strictly here; theirs tolerates an outer length past the end;
//! * ECDSA keys on P-384 and P-521 are accepted here only;
//! * an RSA key's size and numbers are checked here when it is read, there when it verifies;
//! * groups, and messages over 4 KiB, are refused here.
#![no_main]

use barewire_base::{KeyType, Keypair, PeerId, PublicKey, identity::PublicKeyError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check_peer_id(bytes);
    check_public_key(bytes);
    check_private_key(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        check_text(text);
    }
});

fn check_peer_id(bytes: &[u8]) {
    let theirs = libp2p_identity::PeerId::from_bytes(bytes);
    match PeerId::from_bytes(bytes) {
        Ok(ours) => {
            assert_eq!(ours.as_bytes(), bytes);
            assert_eq!(ours.to_string().parse(), Ok(ours));
            assert_eq!(ours.to_cid_string().parse(), Ok(ours));
            assert_eq!(
                theirs.expect("we are never more lenient").to_string(),
                ours.to_string()
            );
            if let Some(key) = ours.public_key() {
                assert_eq!(key.peer_id(), ours);
            }
        }
        Err(_) => assert!(theirs.is_err() || bytes.first() == Some(&0x12), "{bytes:?}"),
    }
}

fn check_public_key(bytes: &[u8]) {
    let theirs = libp2p_identity::PublicKey::try_decode_protobuf(bytes);
    match PublicKey::from_protobuf(bytes) {
        Ok(key) => {
            let canonical = key.to_protobuf();
            assert_eq!(PublicKey::from_protobuf(&canonical).as_ref(), Ok(&key));
            assert!(key.verify(b"message", bytes).is_err());
            match theirs {
                Ok(theirs) => {
                    assert_eq!(theirs.encode_protobuf(), canonical);
                    assert_eq!(theirs.to_peer_id().to_bytes(), key.peer_id().as_bytes());
                }
                Err(error) => {
                    let hybrid = key.key_type() == KeyType::Secp256k1
                        && !bytes.windows(33).any(|data| data == &canonical[4..]);
                    let known = hybrid || key.key_type() == KeyType::Ecdsa;
                    assert!(known, "only they refuse: {error}");
                }
            }
        }
        Err(error) => {
            let wanted = matches!(
                error,
                PublicKeyError::TooLong(_)
                    | PublicKeyError::WeakKey
                    | PublicKeyError::RsaSize(_)
                    | PublicKeyError::RsaNumbers
                    | PublicKeyError::MissingType
                    | PublicKeyError::MissingData
                    | PublicKeyError::Protobuf(_)
                    | PublicKeyError::Der(_)
            );
            let compact = error == PublicKeyError::NotOnCurve(KeyType::Secp256k1)
                && bytes.windows(2).any(|pair| pair == [33, 5]);
            assert!(
                theirs.is_err() || wanted || compact,
                "only we refuse: {error}"
            );
        }
    }
}

fn check_private_key(bytes: &[u8]) {
    if let Ok(pair) = Keypair::from_protobuf(bytes) {
        let encoded = pair.to_protobuf();
        let again = Keypair::from_protobuf(&encoded).expect("our own encoding");
        assert_eq!(again.peer_id(), pair.peer_id());
        let signature = pair.sign(bytes);
        assert_eq!(pair.public().verify(bytes, &signature), Ok(()));
    }
}

fn check_text(text: &str) {
    let theirs = text.parse::<libp2p_identity::PeerId>();
    match text.parse::<PeerId>() {
        Ok(ours) => {
            assert_eq!(ours.to_string().parse(), Ok(ours));
            // Theirs reads no CIDs.
            if let Ok(theirs) = theirs {
                assert_eq!(theirs.to_bytes(), ours.as_bytes());
            }
        }
        Err(_) => {
            if let Ok(theirs) = theirs {
                assert_eq!(
                    theirs.to_bytes().first(),
                    Some(&0x12),
                    "only we refuse {text}"
                );
            }
        }
    }
}
