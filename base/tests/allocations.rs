//! What the hot paths allocate in the steady state (nothing), and what hostile input makes anyone
//! allocate. One test in a binary of its own, because it counts every allocation of the process.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::{
    alloc::System,
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
};

use barewire_base::{
    Budget, Keypair, Multiaddr, PeerId, TransmitBuf,
    envelope::SignedEnvelope,
    framing::LengthPrefixedDecoder,
    multistream::{Dialer, Listener, optimistic_proposal},
    peer_record::PeerRecord,
    proto::{self, ScanLimits},
    varint,
};
use bytes::{Bytes, BytesMut};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations made, and bytes allocated and still held, while `run` runs.
fn count<T>(run: impl FnOnce() -> T) -> (usize, usize) {
    let region = Region::new(ALLOCATOR);
    // What `run` returns counts as held.
    let kept = run();
    let change = region.change();
    drop(kept);
    let held = change
        .bytes_allocated
        .saturating_sub(change.bytes_deallocated);
    (change.allocations + change.reallocations, held)
}

#[test]
fn allocations() {
    hot_paths();
    hostile_input();
}

fn hot_paths() {
    let protocol: Arc<str> = Arc::from("/ipfs/ping/1.0.0");
    let proposal = optimistic_proposal(&protocol);
    let mut out = BytesMut::with_capacity(4096);
    let pair = Keypair::from_seed(&[7; 32]);
    let id = pair.peer_id();
    let id_bytes = id.as_bytes().to_vec();
    let text = id.to_string();
    let map = HashMap::from([(id, 1)]);
    let hasher = RandomState::new();
    let mut transmit = TransmitBuf::new(65_519);
    let payload = Bytes::from(vec![1; 65_507]).slice(1..);
    let budget = Budget::root(1 << 20).child(1 << 19).child(1 << 18);
    transmit.push_inline(&[0; 12]);
    transmit.push(payload.clone());
    let key = pair.public().to_protobuf();
    let signature = pair.sign(b"message");

    for (name, allocations) in [
        (
            "varint",
            count(|| {
                out.clear();
                for shift in 0..63 {
                    varint::encode(1 << shift, &mut out);
                }
                let mut rest = &out[..];
                while let Some((_, used)) = varint::decode(rest).unwrap() {
                    rest = &rest[used..];
                }
            }),
        ),
        (
            "peer id",
            count(|| {
                let parsed = PeerId::from_bytes(&id_bytes).unwrap();
                assert!(parsed == id && parsed <= id && map.contains_key(&parsed));
                assert_eq!(text.parse(), Ok(id));
                hasher.hash_one(parsed)
            }),
        ),
        (
            "transmit list",
            count(|| {
                for _ in 0..100 {
                    transmit.clear();
                    transmit.push_inline(&[0; 12]);
                    transmit.push(payload.clone());
                    assert_eq!(transmit.parts().map(<[u8]>::len).sum::<usize>(), 65_518);
                }
            }),
        ),
        (
            "multistream listener",
            count(|| {
                out.clear();
                let mut listener = Listener::new();
                listener
                    .handle_input(&proposal, &mut |_| Some(protocol.clone()))
                    .unwrap();
                assert!(listener.poll_transmit(&mut out) && listener.outcome().is_some());
            }),
        ),
        (
            "budget",
            count(|| {
                let mut held = budget.try_reserve(1000).unwrap();
                held.grow(1000).unwrap();
                held.shrink(500);
            }),
        ),
        (
            "signature check",
            count(|| pair.public().verify(b"message", &signature).unwrap()),
        ),
    ] {
        println!("{name}: {} allocations", allocations.0);
        assert_eq!(allocations.0, 0, "{name}");
    }
    for (name, most, allocations) in [
        // Its list of one protocol, which the caller makes.
        (
            "multistream dialer",
            1,
            count(|| {
                out.clear();
                let mut dialer = Dialer::optimistic(protocol.clone());
                dialer.poll_transmit(&mut out);
                dialer.handle_input(&proposal).unwrap();
                assert!(dialer.outcome().is_some());
            }),
        ),
        (
            "reading an Ed25519 key",
            1,
            count(|| {
                barewire_base::PublicKey::from_protobuf(&key)
                    .unwrap()
                    .peer_id()
            }),
        ),
        (
            "reading an address",
            1,
            count(|| {
                let address = Multiaddr::from_bytes(b"\x04\x7f\0\0\x01\x06\x0f\xa1").unwrap();
                assert_eq!(address.iter().count(), 2);
                (address.clone(), address.to_tcp())
            }),
        ),
    ] {
        println!("{name}: {} allocations", allocations.0);
        assert!(allocations.0 <= most, "{name}: {}", allocations.0);
    }
}

fn hostile_input() {
    // Row 5, as far as it is the parser's: 200 streams announce 512 MiB − 1 and fall silent.
    let mut prefix = Vec::new();
    varint::encode((512 << 20) - 1, &mut prefix);
    let prefix = Bytes::from(prefix);
    let (_, bytes) = count(|| {
        let mut decoders = Vec::with_capacity(200);
        for _ in 0..200 {
            let mut decoder = LengthPrefixedDecoder::new(512 << 20);
            decoder.push(prefix.clone());
            assert_eq!(decoder.next(), Ok(None));
            decoders.push(decoder);
        }
        decoders
    });
    println!("attack row 5: 200 prefixes of 512 MiB: {bytes} bytes held");
    assert!(bytes < 200 * 1024);

    // And one that does send: what is held stays within twice what came.
    let piece = Bytes::from(vec![0; 1400]);
    let mut decoder = LengthPrefixedDecoder::new(512 << 20);
    decoder.push(prefix);
    let mut worst = 0.0f64;
    let mut held = 0;
    for received in 1..=4000usize {
        let (_, bytes) = count(|| {
            decoder.push(piece.clone());
            assert_eq!(decoder.next(), Ok(None));
        });
        held += bytes;
        worst = worst.max(held as f64 / (received * piece.len()) as f64);
    }
    println!("attack row 5: a silent sender's body: at most {worst:.2} bytes held per byte sent");
    assert!(worst <= 2.1);

    // Row 6: a mebibyte of things that make decoders allocate.
    let limits = ScanLimits {
        max_fields: 1000,
        max_depth: 32,
    };
    // Sixteen fields of 64 KiB, and a thousand of a kibibyte: all that the limits allow is looked through.
    let fields = |count: usize, len: usize| {
        let mut message = Vec::new();
        for _ in 0..count {
            message.push(0x12);
            varint::encode(len as u64, &mut message);
            message.resize(message.len() + len, 7);
        }
        message
    };
    for (name, message, refused) in [
        ("empty repeated fields", [0x12, 0].repeat(1 << 19), true),
        ("nested groups", vec![0x1b; 1 << 20], true),
        (
            "wrong wire types",
            [0x10, 1, 0x12, 0, 0x15, 0, 0, 0, 0].repeat((1 << 20) / 9),
            true,
        ),
        ("large fields", fields(16, 65_532), false),
        ("a thousand fields", fields(1_000, 1_045), false),
    ] {
        let mut times = [0; 5].map(|_: u8| {
            let begun = std::time::Instant::now();
            assert_eq!(proto::scan(&message, &limits).is_err(), refused, "{name}");
            begun.elapsed()
        });
        times.sort_unstable();
        let region = Region::new(ALLOCATOR);
        proto::scan(&message, &limits).err();
        let bytes = region.change().bytes_allocated;
        println!(
            "attack row 6: {} bytes of {name}: scanned in {:.1?} (median of 5), {bytes} bytes allocated",
            message.len(),
            times[2]
        );
        assert!(bytes <= 1024, "{name}: {bytes}");
        assert!(
            times[2] <= std::time::Duration::from_millis(10),
            "{name}: {:?}",
            times[2]
        );
    }
    records();
}

/// Row 6: what envelopes and records decode to, temporaries included, beside what came.
fn records() {
    let pair = Keypair::from_seed(&[7; 32]);
    let address: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
    let honest = PeerRecord {
        peer_id: pair.peer_id(),
        seq: 1,
        addrs: vec![address; 200],
    };
    let seal = |payload: Vec<u8>| {
        let sealed = SignedEnvelope::seal(&pair, "libp2p-peer-record", &[3, 1], payload);
        sealed.unwrap().encode()
    };
    let id = [&[0x0a, 38], pair.peer_id().as_bytes(), &[0x10, 1]].concat();
    let with = |entry: &[u8], count| [&id[..], &entry.repeat(count)].concat();
    // /ws, the shortest address; and one of 996 bytes.
    let long = [b"\x1a\xe7\x07\x0a\xe4\x07\x35\xe1\x07", &[b'a'; 993][..]].concat();
    let long = &long[..1002];
    for (name, envelope) in [
        ("200 addresses", honest.sign(&pair).unwrap()),
        (
            "254 addresses of two bytes",
            seal(with(b"\x1a\x04\x0a\x02\xdd\x03", 254)),
        ),
        ("254 empty entries", seal(with(b"\x1a\x00", 254))),
        ("60 long addresses", seal(with(long, 60))),
        ("254 unknown fields", seal(with(b"\x50\x01", 254))),
        ("no address", seal(id.clone())),
    ] {
        within_four_times(name, envelope.len(), || {
            PeerRecord::from_envelope(&envelope).unwrap()
        });
    }
    // One field over and over: the last counts.
    let key = pair.public().to_protobuf();
    let key = [&[0x0a, key.len() as u8], &key[..]].concat();
    for (name, field) in [("types", 0x12), ("payloads", 0x1a), ("signatures", 0x2a)] {
        let mut again = vec![field, 0xd0, 0x1f];
        again.resize(3 + 4_048, 7);
        let envelope = [&key[..], &again.repeat(15)].concat();
        within_four_times(&format!("15 {name}"), envelope.len(), || {
            SignedEnvelope::decode(&envelope).unwrap()
        });
    }
}

/// What little bytes may decode to: all the addresses of a record at their shortest.
const LITTLE: usize = 16 * 1024;

fn within_four_times<T>(name: &str, wire: usize, decode: impl Fn() -> T) {
    // Whatever is made once is there.
    drop(decode());
    let region = Region::new(ALLOCATOR);
    let decoded = decode();
    let bytes = region.change().bytes_allocated;
    drop(decoded);
    println!("attack row 6: {name}, {wire} bytes: {bytes} allocated");
    assert!(bytes <= 4 * wire + LITTLE, "{name}: {bytes}");
}
