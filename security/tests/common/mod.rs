//! Both sides of handshakes over in-memory wires, and a foreign side made of snow's own primitives.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests; each test binary uses a part of this module"
)]

use std::sync::Arc;

use barewire_base::{Keypair, PeerId};
use barewire_security::noise::{Config, Handshake, HandshakeError};
use barewire_security::{Secured, Session};
use bytes::BytesMut;
use rand::SeedableRng;
use rand::rngs::StdRng;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};

pub const YAMUX: &str = "/yamux/1.0.0";
pub const NOISE: &str = "Noise_XX_25519_ChaChaPoly_SHA256";

pub fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

pub fn names(names: &[&str]) -> Vec<Arc<str>> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

/// A node with an identity and a configuration, both made from `seed`.
pub struct Node {
    pub identity: Keypair,
    pub config: Arc<Config>,
    pub rng: StdRng,
}

impl Node {
    pub fn new(seed: u64) -> Self {
        Self::with_muxers(seed, &[YAMUX])
    }

    pub fn with_muxers(seed: u64, muxers: &[&str]) -> Self {
        let mut rng = rng(seed);
        let identity = Keypair::generate(&mut rng);
        let config = Arc::new(Config::new(&identity, names(muxers), &mut rng).unwrap());
        Self {
            identity,
            config,
            rng,
        }
    }

    pub fn peer_id(&self) -> PeerId {
        self.identity.peer_id()
    }

    pub fn dial(&mut self, expected: Option<PeerId>) -> Handshake {
        Handshake::initiator(&self.config, expected, &mut self.rng).unwrap()
    }

    pub fn answer(&mut self) -> Handshake {
        Handshake::responder(&self.config, &mut self.rng).unwrap()
    }
}

/// What `side` wants to send now; empty when nothing.
pub fn sent(side: &mut Handshake) -> BytesMut {
    let mut out = BytesMut::new();
    let any = side.poll_transmit(&mut out);
    assert_eq!(any, !out.is_empty());
    out
}

/// The three messages of one handshake between two of our sides, which both finish.
pub fn transcript(dialer: &mut Handshake, listener: &mut Handshake) -> [BytesMut; 3] {
    let first = sent(dialer);
    assert_eq!(listener.handle_input(&first), Ok(first.len()));
    let second = sent(listener);
    assert_eq!(dialer.handle_input(&second), Ok(second.len()));
    let third = sent(dialer);
    assert_eq!(listener.handle_input(&third), Ok(third.len()));
    assert!(dialer.is_finished() && listener.is_finished());
    [first, second, third]
}

/// Runs a handshake between two nodes to its end.
pub fn connect(dialer: &mut Node, listener: &mut Node) -> (Secured, Secured) {
    let (mut a, mut b) = (dialer.dial(Some(listener.peer_id())), listener.answer());
    transcript(&mut a, &mut b);
    (a.finish().unwrap(), b.finish().unwrap())
}

pub fn sessions(seed: u64) -> (Session, Session) {
    let (a, b) = connect(&mut Node::new(seed), &mut Node::new(seed + 1));
    (a.session, b.session)
}

/// A length in front of a Noise message.
pub fn framed(message: &[u8]) -> Vec<u8> {
    [
        &u16::try_from(message.len()).unwrap().to_be_bytes(),
        message,
    ]
    .concat()
}

/// A peer that runs snow with its default primitives and says whatever the test wants.
pub struct Foreign {
    pub noise: HandshakeState,
    pub static_public: [u8; 32],
    /// Sent with the second or third message.
    pub payload: Vec<u8>,
    /// What our side sent as payload.
    pub received: Vec<u8>,
}

impl Foreign {
    pub fn new(initiator: bool, seed: u64) -> Self {
        Self::with_resolver(initiator, seed, Box::new(DefaultResolver))
    }

    pub fn with_resolver(
        initiator: bool,
        seed: u64,
        resolver: Box<dyn CryptoResolver + Send>,
    ) -> Self {
        let secret = static_secret(seed);
        let mut dh = DefaultResolver.resolve_dh(&DHChoice::Curve25519).unwrap();
        dh.set(&secret);
        let static_public = dh.pubkey().try_into().unwrap();
        let builder = Builder::with_resolver(NOISE.parse().unwrap(), resolver)
            .local_private_key(&secret)
            .unwrap();
        let noise = if initiator {
            builder.build_initiator().unwrap()
        } else {
            builder.build_responder().unwrap()
        };
        Self {
            noise,
            static_public,
            payload: Vec::new(),
            received: Vec::new(),
        }
    }

    /// The payload an honest node with this identity would send.
    pub fn honest(mut self, identity: &Keypair, muxers: &[&str]) -> Self {
        let signature = identity.sign(&signed(&self.static_public));
        self.payload = payload(
            &identity.public().to_protobuf(),
            &signature,
            &extensions(muxers),
        );
        self
    }

    pub fn with_payload(mut self, payload: Vec<u8>) -> Self {
        self.payload = payload;
        self
    }

    pub fn write(&mut self, payload: &[u8]) -> Vec<u8> {
        // snow wants room for a tag even where a message has none.
        let mut buffer = vec![0; 65_535 + 16];
        let length = self.noise.write_message(payload, &mut buffer).unwrap();
        framed(&buffer[..length])
    }

    pub fn read(&mut self, frame: &[u8]) -> Result<(), snow::Error> {
        let mut buffer = vec![0; 65_535];
        let length = self.noise.read_message(&frame[2..], &mut buffer)?;
        self.received = buffer[..length].to_vec();
        Ok(())
    }

    /// Runs a whole handshake against our side, which has the other role. When it is the foreign
    /// side that cannot go on, ours is simply not finished.
    pub fn run(&mut self, ours: &mut Handshake) -> Result<(), HandshakeError> {
        let payload = self.payload.clone();
        if self.noise.is_initiator() {
            let first = self.write(&[]);
            assert_eq!(ours.handle_input(&first)?, first.len());
            self.read(&sent(ours))
                .map_err(|_| HandshakeError::NotFinished)?;
            let third = self.write(&payload);
            assert_eq!(ours.handle_input(&third)?, third.len());
        } else {
            self.read(&sent(ours))
                .map_err(|_| HandshakeError::NotFinished)?;
            let second = self.write(&payload);
            assert_eq!(ours.handle_input(&second)?, second.len());
            self.read(&sent(ours))
                .map_err(|_| HandshakeError::NotFinished)?;
        }
        Ok(())
    }
}

pub fn static_secret(seed: u64) -> [u8; 32] {
    use rand::Rng;
    let mut secret = [0; 32];
    rng(seed ^ 0x5ec4e7).fill_bytes(&mut secret);
    secret
}

/// What an identity signs.
pub fn signed(static_public: &[u8]) -> Vec<u8> {
    [b"noise-libp2p-static-key:", static_public].concat()
}

/// A length-delimited protobuf field, by hand, so that the codec under test does not test itself.
pub fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = value.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(value);
    out
}

pub fn extensions(muxers: &[&str]) -> Vec<u8> {
    muxers
        .iter()
        .flat_map(|muxer| field(2, muxer.as_bytes()))
        .collect()
}

pub fn payload(key: &[u8], signature: &[u8], extensions: &[u8]) -> Vec<u8> {
    let extensions = if extensions.is_empty() {
        Vec::new()
    } else {
        field(4, extensions)
    };
    [field(1, key), field(2, signature), extensions].concat()
}

/// Which of its keys a [`LowOrder`] peer replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Ephemeral,
    Static,
}

/// snow's default primitives, but one public key is a point of low order and secrets with it are
/// zeros, as the honest side computes them too.
pub struct LowOrder {
    pub slot: Slot,
    pub point: [u8; 32],
}

impl CryptoResolver for LowOrder {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        DefaultResolver.resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let inner = DefaultResolver.resolve_dh(choice)?;
        Some(Box::new(LowOrderDh {
            slot: self.slot,
            point: self.point,
            inner,
            is_static: false,
        }))
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct LowOrderDh {
    slot: Slot,
    point: [u8; 32],
    inner: Box<dyn Dh>,
    /// snow sets the static key and generates the ephemeral one.
    is_static: bool,
}

impl LowOrderDh {
    fn replaced(&self) -> bool {
        self.is_static == (self.slot == Slot::Static)
    }
}

impl Dh for LowOrderDh {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn pub_len(&self) -> usize {
        self.inner.pub_len()
    }
    fn priv_len(&self) -> usize {
        self.inner.priv_len()
    }
    fn set(&mut self, privkey: &[u8]) {
        self.is_static = true;
        self.inner.set(privkey);
    }
    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        self.inner.generate(rng)
    }
    fn pubkey(&self) -> &[u8] {
        if self.replaced() {
            &self.point
        } else {
            self.inner.pubkey()
        }
    }
    fn privkey(&self) -> &[u8] {
        self.inner.privkey()
    }
    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        if self.replaced() {
            out[..32].fill(0);
            return Ok(());
        }
        self.inner.dh(pubkey, out)
    }
}
