//! The cryptography that the Noise handshake runs on: aws-lc-rs behind snow's traits.
//!
//! Beyond speed there is one difference to snow's own resolvers that matters: a Diffie-Hellman
//! result of all zeros, which a peer forces by sending a point of low order, is refused (RFC 7748,
//! section 6.1).

use std::sync::Arc;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::digest::{SHA256, digest};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::{Zeroize, Zeroizing};

/// Bytes of an X25519 key, public or private, and of the shared secret.
pub(super) const KEY: usize = 32;
const HASH: usize = 32;
const HASH_BLOCK: usize = 64;
const TAG: usize = 16;

/// An X25519 key pair, held parsed: importing a private key costs a multiplication.
pub(super) struct X25519Pair {
    private: PrivateKey,
    public: [u8; KEY],
}

impl X25519Pair {
    /// Imports 32 private bytes; `None` when the library refuses them.
    pub(super) fn from_private(bytes: &[u8]) -> Option<Self> {
        let private = PrivateKey::from_private_key(&X25519, bytes).ok()?;
        let public = private.compute_public_key().ok()?;
        let public = *public.as_ref().first_chunk()?;
        Some(Self { private, public })
    }

    pub(super) fn public(&self) -> &[u8; KEY] {
        &self.public
    }

    /// The shared secret with `peer`, written to `out`. False when the library fails or the result
    /// is all zeros.
    fn agree(&self, peer: &[u8; KEY], out: &mut [u8]) -> bool {
        let Some(out) = out.first_chunk_mut::<KEY>() else {
            return false;
        };
        agree(
            &self.private,
            UnparsedPublicKey::new(&X25519, peer.as_slice()),
            (),
            |secret| {
                // The library refuses a zero result as well; that it does is not part of its
                // documented contract.
                let any = secret.iter().fold(0, |any, byte| any | byte);
                match <&[u8; KEY]>::try_from(secret) {
                    Ok(secret) if any != 0 => {
                        *out = *secret;
                        Ok(())
                    }
                    _ => Err(()),
                }
            },
        )
        .is_ok()
    }
}

/// What one handshake's cryptography is made from.
pub(super) struct Resolver {
    /// The static key of the node. snow names it by its bytes, see [`KeySlot::set`].
    pub(super) static_key: Arc<StaticKey>,
    /// The 32 random bytes that become the ephemeral key: a handshake draws no others.
    pub(super) ephemeral: Zeroizing<[u8; KEY]>,
}

/// The static key as snow wants it (bytes) and as it is used (parsed).
pub(super) struct StaticKey {
    pub(super) bytes: Zeroizing<[u8; KEY]>,
    pub(super) pair: X25519Pair,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once(Some(self.ephemeral.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| {
            Box::new(KeySlot {
                static_key: Arc::clone(&self.static_key),
                held: Held::Nothing,
            }) as _
        })
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::SHA256).then(|| Box::new(Sha256::default()) as _)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::ChaChaPoly).then(|| Box::new(ChaChaPoly::default()) as _)
    }
}

/// Gives its bytes once, so that no handshake can take the same ephemeral key twice.
struct Once(Option<Zeroizing<[u8; KEY]>>);

impl Random for Once {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        let bytes = self.0.take().ok_or(snow::Error::Rng)?;
        if dest.len() != bytes.len() {
            return Err(snow::Error::Rng);
        }
        dest.copy_from_slice(bytes.as_slice());
        Ok(())
    }
}

/// One of snow's two key slots, static or ephemeral.
struct KeySlot {
    static_key: Arc<StaticKey>,
    held: Held,
}

enum Held {
    Nothing,
    Static,
    Ephemeral(X25519Pair),
}

impl KeySlot {
    fn pair(&self) -> Option<&X25519Pair> {
        match &self.held {
            Held::Nothing => None,
            Held::Static => Some(&self.static_key.pair),
            Held::Ephemeral(pair) => Some(pair),
        }
    }
}

impl Dh for KeySlot {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY
    }

    fn priv_len(&self) -> usize {
        KEY
    }

    /// Called by snow's builder with the static key only, which is here parsed already.
    fn set(&mut self, privkey: &[u8]) {
        self.held = if privkey == self.static_key.bytes.as_slice() {
            Held::Static
        } else {
            X25519Pair::from_private(privkey).map_or(Held::Nothing, Held::Ephemeral)
        };
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        let mut bytes = Zeroizing::new([0; KEY]);
        rng.try_fill_bytes(bytes.as_mut_slice())?;
        self.held =
            Held::Ephemeral(X25519Pair::from_private(bytes.as_slice()).ok_or(snow::Error::Dh)?);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        self.pair().map_or(&[0; KEY], |pair| pair.public())
    }

    /// Nothing: a handshake never asks for it, and a parsed key does not show its bytes.
    fn privkey(&self) -> &[u8] {
        &[]
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let peer = pubkey.first_chunk().ok_or(snow::Error::Dh)?;
        let pair = self.pair().ok_or(snow::Error::Dh)?;
        if pair.agree(peer, out) {
            Ok(())
        } else {
            Err(snow::Error::Dh)
        }
    }
}

/// SHA-256 over gathered input: one call into the library per digest, without the context it would
/// allocate.
#[derive(Default)]
struct Sha256 {
    input: Zeroizing<Vec<u8>>,
}

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        HASH_BLOCK
    }

    fn hash_len(&self) -> usize {
        HASH
    }

    fn reset(&mut self) {
        self.input.clear();
    }

    fn input(&mut self, data: &[u8]) {
        self.input.extend_from_slice(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..HASH].copy_from_slice(digest(&SHA256, &self.input).as_ref());
    }
}

/// ChaCha20-Poly1305 of the handshake messages. Records are sealed elsewhere, so that the key is
/// set up only when used.
#[derive(Default)]
struct ChaChaPoly {
    key: Zeroizing<[u8; KEY]>,
}

impl ChaChaPoly {
    fn key(&self) -> Option<LessSafeKey> {
        UnboundKey::new(&CHACHA20_POLY1305, self.key.as_slice())
            .ok()
            .map(LessSafeKey::new)
    }
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - size_of::<u64>()..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; KEY]) {
        self.key.copy_from_slice(key);
    }

    fn encrypt(&self, number: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let length = plaintext.len() + TAG;
        let (body, tag) = out[..length].split_at_mut(plaintext.len());
        body.copy_from_slice(plaintext);
        let sealed = self.key().and_then(|key| {
            key.seal_in_place_scatter(nonce(number), Aad::from(authtext), body, &[], tag)
                .ok()
        });
        if sealed.is_none() {
            // snow gives no way to fail here. What leaves must not be the plaintext; the peer will
            // refuse zeros.
            out[..length].zeroize();
        }
        length
    }

    fn decrypt(
        &self,
        number: u64,
        authtext: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, snow::Error> {
        let (body, tag) = ciphertext
            .split_last_chunk::<TAG>()
            .ok_or(snow::Error::Decrypt)?;
        let out = out.get_mut(..body.len()).ok_or(snow::Error::Decrypt)?;
        let key = self.key().ok_or(snow::Error::Decrypt)?;
        key.open_separate_gather(nonce(number), Aad::from(authtext), body, tag, out)
            .map_err(|_| snow::Error::Decrypt)?;
        Ok(body.len())
    }
}
