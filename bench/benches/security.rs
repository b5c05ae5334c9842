//! The record layer and the handshake, beside what else they could be made of.
//!
//! Records carry what one muxer frame carries: a 12-byte header and a payload, from two places in
//! memory. `snow` is its own transport state, which wants one slice and writes to another; `ring`
//! and `aws-lc-rs` seal in place on the raw split, as `barewire` does with the latter. Handshakes
//! run both sides on one thread, with the identity payload of libp2p; every side verifies one
//! signature unless it has met the peer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a benchmark"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use barewire_base::{Keypair, PublicKey};
use barewire_security::noise::{Config, Handshake};
use barewire_security::{MAX_PLAINTEXT, Opened, Opener, Sealer};
use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use snow::resolvers::{CryptoResolver, DefaultResolver, FallbackResolver, RingResolver};
use snow::{Builder, HandshakeState, TransportState};

const NOISE: &str = "Noise_XX_25519_ChaChaPoly_SHA256";
const HEADER: [u8; 12] = [7; 12];
const PREFIX: usize = 2;
const TAG: usize = 16;
/// Records sealed before the clock runs and opened while it does.
const BATCH: usize = 32;

/// One direction of a connection.
trait Records {
    /// Appends the record of `HEADER` and `payload` to `out`.
    fn seal(&mut self, payload: &[u8], out: &mut BytesMut);
    /// Opens the one record that `record` is.
    fn open(&mut self, record: &mut [u8]);
}

struct Barewire(Sealer, Opener);

impl Records for Barewire {
    fn seal(&mut self, payload: &[u8], out: &mut BytesMut) {
        self.0
            .seal([&HEADER[..], payload].into_iter(), out)
            .unwrap();
    }
    fn open(&mut self, record: &mut [u8]) {
        assert!(matches!(
            self.1.open_in_place(record),
            Ok(Opened::Record { .. })
        ));
    }
}

/// snow's record layer with a scratch buffer for the gather list and one for what it opens.
struct Snow {
    sender: TransportState,
    receiver: TransportState,
    scratch: Vec<u8>,
}

impl Records for Snow {
    fn seal(&mut self, payload: &[u8], out: &mut BytesMut) {
        self.scratch.clear();
        self.scratch.extend_from_slice(&HEADER);
        self.scratch.extend_from_slice(payload);
        let (start, length) = (out.len(), self.scratch.len() + TAG);
        out.extend_from_slice(&(length as u16).to_be_bytes());
        out.resize(start + PREFIX + length, 0);
        self.sender
            .write_message(&self.scratch, &mut out[start + PREFIX..])
            .unwrap();
    }
    fn open(&mut self, record: &mut [u8]) {
        self.scratch.resize(record.len(), 0);
        self.receiver
            .read_message(&record[PREFIX..], &mut self.scratch)
            .unwrap();
    }
}

/// The two libraries have the same interface, in types of their own.
macro_rules! in_place {
    ($name:ident, $library:ident) => {
        struct $name {
            key: $library::aead::LessSafeKey,
            sealed: u64,
            opened: u64,
        }

        impl $name {
            fn new() -> Self {
                use $library::aead::{CHACHA20_POLY1305, LessSafeKey, UnboundKey};
                let key = UnboundKey::new(&CHACHA20_POLY1305, &[5; 32]).unwrap();
                Self {
                    key: LessSafeKey::new(key),
                    sealed: 0,
                    opened: 0,
                }
            }

            fn nonce(number: &mut u64) -> $library::aead::Nonce {
                let mut bytes = [0; 12];
                bytes[4..].copy_from_slice(&number.to_le_bytes());
                *number += 1;
                $library::aead::Nonce::assume_unique_for_key(bytes)
            }
        }

        impl Records for $name {
            fn seal(&mut self, payload: &[u8], out: &mut BytesMut) {
                let start = out.len() + PREFIX;
                let length = HEADER.len() + payload.len() + TAG;
                out.extend_from_slice(&(length as u16).to_be_bytes());
                out.extend_from_slice(&HEADER);
                out.extend_from_slice(payload);
                let (nonce, aad) = (Self::nonce(&mut self.sealed), $library::aead::Aad::empty());
                let tag = self
                    .key
                    .seal_in_place_separate_tag(nonce, aad, &mut out[start..])
                    .unwrap();
                out.extend_from_slice(tag.as_ref());
            }
            fn open(&mut self, record: &mut [u8]) {
                let (nonce, aad) = (Self::nonce(&mut self.opened), $library::aead::Aad::empty());
                self.key
                    .open_in_place(nonce, aad, &mut record[PREFIX..])
                    .unwrap();
            }
        }
    };
}

in_place!(Ring, ring);
in_place!(AwsLc, aws_lc_rs);

type NewResolver = fn() -> Box<dyn CryptoResolver + Send>;

fn default_resolver() -> Box<dyn CryptoResolver + Send> {
    Box::new(DefaultResolver)
}

fn ring_resolver() -> Box<dyn CryptoResolver + Send> {
    Box::new(FallbackResolver::new(
        Box::new(RingResolver),
        Box::new(DefaultResolver),
    ))
}

/// A side that runs snow with one of its resolvers and shows an identity payload made once.
struct SnowNode {
    resolver: NewResolver,
    secret: [u8; 32],
    key: PublicKey,
    signed: Vec<u8>,
    signature: [u8; 64],
    payload: Vec<u8>,
}

impl SnowNode {
    fn new(seed: u64, resolver: NewResolver) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let identity = Keypair::generate(&mut rng);
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        let mut dh = DefaultResolver
            .resolve_dh(&snow::params::DHChoice::Curve25519)
            .unwrap();
        dh.set(&secret);
        let signed = [b"noise-libp2p-static-key:", dh.pubkey()].concat();
        let signature = identity.sign(&signed);
        let key = identity.public().to_protobuf();
        let muxers = [&[0x22, 14, 0x12, 12][..], b"/yamux/1.0.0"].concat();
        let payload = [
            &[0x0a, key.len() as u8][..],
            &key,
            &[0x12, 64],
            &signature,
            &muxers,
        ]
        .concat();
        Self {
            resolver,
            secret,
            key: identity.public().clone(),
            signed,
            signature,
            payload,
        }
    }

    fn start(&self, initiator: bool) -> HandshakeState {
        let builder = Builder::with_resolver(NOISE.parse().unwrap(), (self.resolver)())
            .local_private_key(&self.secret)
            .unwrap();
        if initiator {
            builder.build_initiator().unwrap()
        } else {
            builder.build_responder().unwrap()
        }
    }

    /// What the other side does to know who this is.
    fn verify(&self) {
        let key = PublicKey::from_protobuf(&self.key.to_protobuf()).unwrap();
        key.verify(black_box(&self.signed), &self.signature)
            .unwrap();
        black_box(key.peer_id());
    }
}

fn snow_handshake(dialer: &SnowNode, listener: &SnowNode) -> [HandshakeState; 2] {
    let (mut wire, mut payload) = ([0; 1024], [0; 1024]);
    let (mut initiator, mut responder) = (dialer.start(true), listener.start(false));
    let length = initiator.write_message(&[], &mut wire).unwrap();
    responder
        .read_message(&wire[..length], &mut payload)
        .unwrap();
    let length = responder
        .write_message(&listener.payload, &mut wire)
        .unwrap();
    initiator
        .read_message(&wire[..length], &mut payload)
        .unwrap();
    listener.verify();
    let length = initiator.write_message(&dialer.payload, &mut wire).unwrap();
    responder
        .read_message(&wire[..length], &mut payload)
        .unwrap();
    dialer.verify();
    [initiator, responder]
}

fn snow_records(resolver: NewResolver) -> Snow {
    let [sender, receiver] =
        snow_handshake(&SnowNode::new(1, resolver), &SnowNode::new(2, resolver))
            .map(|side| side.into_transport_mode().unwrap());
    Snow {
        sender,
        receiver,
        scratch: Vec::new(),
    }
}

fn config(rng: &mut StdRng) -> Arc<Config> {
    let identity = Keypair::generate(rng);
    Arc::new(Config::new(&identity, vec![Arc::from("/yamux/1.0.0")], rng).unwrap())
}

fn handshake(dialer: &Arc<Config>, listener: &Arc<Config>, rng: &mut StdRng) -> Barewire {
    let mut wire = BytesMut::with_capacity(512);
    let mut initiator = Handshake::initiator(dialer, None, rng).unwrap();
    let mut responder = Handshake::responder(listener, rng).unwrap();
    initiator.poll_transmit(&mut wire);
    responder.handle_input(&wire).unwrap();
    wire.clear();
    responder.poll_transmit(&mut wire);
    initiator.handle_input(&wire).unwrap();
    wire.clear();
    initiator.poll_transmit(&mut wire);
    responder.handle_input(&wire).unwrap();
    let sealer = initiator.finish().unwrap().session.split().0;
    Barewire(sealer, responder.finish().unwrap().session.split().1)
}

fn barewire_records() -> Barewire {
    let mut rng = StdRng::seed_from_u64(1);
    let (dialer, listener) = (config(&mut rng), config(&mut rng));
    handshake(&dialer, &listener, &mut rng)
}

/// Opens `iterations` records and counts that time only.
fn time_opening(records: &mut dyn Records, payload: &[u8], iterations: u64) -> Duration {
    let mut time = Duration::ZERO;
    let mut left = usize::try_from(iterations).unwrap();
    let mut sealed: Vec<BytesMut> = (0..BATCH)
        .map(|_| BytesMut::with_capacity(1 << 17))
        .collect();
    while left > 0 {
        let batch = &mut sealed[..left.min(BATCH)];
        for record in batch.iter_mut() {
            record.clear();
            records.seal(payload, record);
        }
        let start = Instant::now();
        for record in batch.iter_mut() {
            records.open(record);
        }
        time += start.elapsed();
        left -= batch.len();
    }
    time
}

fn records(criterion: &mut Criterion) {
    for size in [32, 1024, MAX_PLAINTEXT] {
        let payload = vec![9; size - HEADER.len()];
        let mut contenders: Vec<(&str, Box<dyn Records>)> = vec![
            ("snow default", Box::new(snow_records(default_resolver))),
            ("snow ring", Box::new(snow_records(ring_resolver))),
            ("ring in place", Box::new(Ring::new())),
            ("aws-lc-rs in place", Box::new(AwsLc::new())),
            ("barewire", Box::new(barewire_records())),
        ];
        let mut group = criterion.benchmark_group("seal");
        group.throughput(Throughput::Bytes(size as u64));
        for (name, records) in &mut contenders {
            let mut out = BytesMut::with_capacity(1 << 17);
            group.bench_function(BenchmarkId::new(*name, size), |bencher| {
                bencher.iter(|| {
                    out.clear();
                    records.seal(black_box(&payload), &mut out);
                });
            });
        }
        group.finish();

        // Afresh, as sealing above has used up numbers that were never opened.
        contenders[0].1 = Box::new(snow_records(default_resolver));
        contenders[1].1 = Box::new(snow_records(ring_resolver));
        contenders[2].1 = Box::new(Ring::new());
        contenders[3].1 = Box::new(AwsLc::new());
        contenders[4].1 = Box::new(barewire_records());
        let mut group = criterion.benchmark_group("open");
        group.throughput(Throughput::Bytes(size as u64));
        for (name, records) in &mut contenders {
            group.bench_function(BenchmarkId::new(*name, size), |bencher| {
                bencher
                    .iter_custom(|iterations| time_opening(&mut **records, &payload, iterations));
            });
        }
        group.finish();
    }
}

fn handshakes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handshake");
    group.throughput(Throughput::Elements(1));
    for (name, resolver) in [
        ("snow default", default_resolver as NewResolver),
        ("snow ring", ring_resolver),
    ] {
        let (dialer, listener) = (SnowNode::new(1, resolver), SnowNode::new(2, resolver));
        group.bench_function(name, |bencher| {
            bencher.iter(|| snow_handshake(&dialer, &listener))
        });
    }
    let mut rng = StdRng::seed_from_u64(3);
    group.bench_function("barewire, strangers", |bencher| {
        bencher.iter_custom(|iterations| {
            (0..iterations)
                .map(|_| {
                    let (dialer, listener) = (config(&mut rng), config(&mut rng));
                    let start = Instant::now();
                    black_box(handshake(&dialer, &listener, &mut rng));
                    start.elapsed()
                })
                .sum()
        });
    });
    let (dialer, listener) = (config(&mut rng), config(&mut rng));
    group.bench_function("barewire, who met before", |bencher| {
        bencher.iter(|| handshake(&dialer, &listener, &mut rng));
    });
    group.finish();
}

criterion_group!(benches, records, handshakes);
criterion_main!(benches);
