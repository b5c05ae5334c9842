//! Attacks on connecting: silence, slowness, garbage in negotiation, announced lengths.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use barewire_base::Keypair;
use barewire_security::noise;
use bytes::BytesMut;

use crate::{
    attacker::{Attacker, SYN, connect, data, propose, until_closed},
    full,
    victim::{Bystander, Victim, honest_endpoint},
};

/// Row 1: connections that send nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_hold_few_slots() {
    let (count, spread) = if full() {
        (5_000, Duration::from_secs(30))
    } else {
        (1_500, Duration::from_secs(6))
    };
    let victim = Victim::start("silent");
    let bystander = Bystander::start(&victim).await;
    let base = victim.descriptors();
    let addr = victim.socket;
    let flood = std::thread::spawn(move || {
        let mut held = Vec::with_capacity(count);
        for _ in 0..count {
            // The victim drops the oldest; our end stays open until the test ends.
            held.extend(std::net::TcpStream::connect(addr));
            std::thread::sleep(spread / count as u32);
        }
        held
    });
    let (mut peak, mut dialled, mut failed) = (0, 0, 0);
    while !flood.is_finished() {
        peak = peak.max(victim.descriptors() - base);
        let honest = honest_endpoint().await;
        match honest.connect(victim.addr.clone()).await {
            Ok(_) => dialled += 1,
            Err(_) => failed += 1,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let held = flood.join().unwrap();
    let ended = Instant::now();
    let mut after = victim.descriptors();
    while after > base + 4 && ended.elapsed() < Duration::from_secs(12) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        after = victim.descriptors();
    }
    let back = ended.elapsed();
    let (messages, p99) = bystander.finish().await;
    println!(
        "row 1: {} silent connections: at most {peak} descriptors more, back after {back:.1?}; \
         honest dials {dialled} of {}; bystander {messages} messages, 0 lost, p99 {p99:.1?}",
        held.len(),
        dialled + failed
    );
    // 64 pending, the honest connection that is just up, and its predecessor that is closing.
    assert!(peak <= 64 + 8, "{peak} descriptors");
    assert!(after <= base + 4, "{after} descriptors, {base} before");
    assert!(
        failed * 100 <= dialled,
        "{failed} of {dialled} dials failed"
    );
    drop(held);
    victim.stop();
}

/// Row 2: a byte each two seconds, in each stage that a remote can stretch.
#[test]
fn slow_peers_are_cut_off_in_every_stage() {
    let per_stage = if full() { 100 } else { 8 };
    let victim = Victim::start("slow");
    let stages: [(&str, Vec<u8>, Vec<u8>); 5] = [
        ("multistream header", Vec::new(), propose("/noise")),
        (
            "protocol line",
            b"\x13/multistream/1.0.0\n".to_vec(),
            b"\x07/noise\n".to_vec(),
        ),
        ("noise message 1", propose("/noise"), noise_message_1()),
        // The frame of message 3 announces 200 bytes.
        (
            "noise message 3",
            [propose("/noise"), noise_message_1()].concat(),
            [vec![0, 200], vec![9; 200]].concat(),
        ),
        (
            "oversized noise frame",
            propose("/noise"),
            [vec![0xff, 0xff], vec![9; 60]].concat(),
        ),
    ];
    let mut threads = Vec::new();
    for (name, quick, slow) in stages {
        for _ in 0..per_stage {
            let (quick, slow, addr) = (quick.clone(), slow.clone(), victim.socket);
            threads.push((
                name,
                std::thread::spawn(move || {
                    let begun = Instant::now();
                    let mut socket = connect(addr);
                    socket.write_all(&quick).unwrap();
                    drip(socket, &slow, begun)
                }),
            ));
        }
    }
    // The muxer stage begins only after a handshake that leaves the muxer open.
    for _ in 0..per_stage {
        let addr = victim.socket;
        threads.push((
            "muxer line",
            std::thread::spawn(move || {
                let begun = Instant::now();
                let mut attacker = Attacker::secure_with(addr, Vec::new());
                let sealed = attacker.seal(&propose("/yamux/1.0.0"));
                drip(attacker.socket, &sealed, begun)
            }),
        ));
    }
    let mut worst: std::collections::BTreeMap<&str, Duration> = std::collections::BTreeMap::new();
    for (name, thread) in threads {
        let took = thread.join().unwrap().expect("not closed within a minute");
        let entry = worst.entry(name).or_default();
        *entry = took.max(*entry);
    }
    for (name, took) in &worst {
        println!("row 2: {name}: {per_stage} connections, all closed after {took:.2?} at most");
        assert!(*took < Duration::from_millis(10_900), "{name}: {took:?}");
    }
    victim.stop();
}

/// Sends one byte each two seconds until the victim closes.
fn drip(mut socket: std::net::TcpStream, bytes: &[u8], begun: Instant) -> Option<Duration> {
    let mut reader = socket.try_clone().unwrap();
    let closed = std::thread::spawn(move || until_closed(&mut reader, begun));
    for byte in bytes {
        if closed.is_finished() || socket.write_all(&[*byte]).is_err() {
            break;
        }
        for _ in 0..40 {
            if closed.is_finished() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    closed.join().unwrap()
}

fn noise_message_1() -> Vec<u8> {
    let mut rng = rand::rng();
    let keypair = Keypair::generate(&mut rng);
    let config = noise::Config::new(&keypair, Vec::new(), &mut rng).unwrap();
    let mut handshake =
        noise::Handshake::initiator(&std::sync::Arc::new(config), None, &mut rng).unwrap();
    let mut message = BytesMut::new();
    handshake.poll_transmit(&mut message);
    message.to_vec()
}

/// Row 3: garbage in multistream-select.
#[test]
fn negotiation_garbage_is_refused_at_once() {
    let repeat = if full() { 100 } else { 10 };
    let victim = Victim::start("garbage");
    let header = b"\x13/multistream/1.0.0\n".to_vec();
    let mut proposals = header.clone();
    for _ in 0..1_000 {
        proposals.extend_from_slice(b"\x06/none\n");
    }
    let mut listing = header.clone();
    for _ in 0..1_000 {
        listing.extend_from_slice(b"\x03ls\n");
    }
    let mut simultaneous = header.clone();
    for _ in 0..200 {
        simultaneous.extend_from_slice(b"\x1e/libp2p/simultaneous-connect\n\x0a");
    }
    let cases: [(&str, Vec<u8>); 8] = [
        (
            "a line of 64 KiB",
            [header.clone(), vec![0x80, 0x80, 0x04]].concat(),
        ),
        ("an empty line", [header.clone(), vec![0]].concat()),
        (
            "no newline",
            [header.clone(), b"\x07/noise!".to_vec()].concat(),
        ),
        ("not multistream", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("an endless varint", vec![0xff; 12]),
        ("1,000 proposals", proposals),
        ("1,000 listings", listing),
        ("simultaneous open over and over", simultaneous),
    ];
    for (name, bytes) in cases {
        let mut worst = Duration::ZERO;
        for _ in 0..repeat {
            let mut socket = connect(victim.socket);
            let begun = Instant::now();
            // The victim may close before it has taken everything.
            socket.write_all(&bytes).ok();
            worst = worst.max(until_closed(&mut socket, begun).expect("not closed"));
        }
        println!("row 3: {name}: {repeat} connections, all closed after {worst:.1?} at most");
        assert!(worst < Duration::from_secs(1), "{name}: {worst:?}");
    }
    victim.stop();
}

/// Row 5: length prefixes of 512 MiB and nothing behind them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announced_lengths_allocate_nothing() {
    let victim = Victim::start("lengths");
    let bystander = Bystander::start(&victim).await;
    let before = victim.rss_kib();
    let mut attackers = Vec::new();
    for _ in 0..4 {
        let mut attacker = Attacker::secure(victim.socket);
        let mut frames = Vec::new();
        for stream in 0..50 {
            let mut payload = propose("/ipfs/id/push/1.0.0");
            // 512 MiB - 1 as a varint.
            payload.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x01]);
            frames.extend_from_slice(&data(SYN, 1 + 2 * stream, &payload));
        }
        attacker.send(&frames).unwrap();
        attackers.push(attacker);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let grown = victim.rss_kib() - before;
    let (messages, p99) = bystander.finish().await;
    println!(
        "row 5: 200 streams that announce 512 MiB: {grown} KiB more; \
         bystander {messages} messages, 0 lost, p99 {p99:.1?}"
    );
    assert!(grown < 16 * 1024, "{grown} KiB");
    drop(attackers);
    victim.stop();
}

/// Random bytes never complete anything and never end the node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_get_nowhere() {
    use rand::Rng;
    let count = if full() { 2_000 } else { 200 };
    let victim = Victim::start("random");
    let bystander = Bystander::start(&victim).await;
    let addr = victim.socket;
    let flood = tokio::task::spawn_blocking(move || {
        let mut rng = rand::rng();
        let mut worst = Duration::ZERO;
        for round in 0..count {
            let mut socket = connect(addr);
            let mut bytes = vec![0; 1 + round * 7 % 4096];
            rng.fill_bytes(&mut bytes);
            let begun = Instant::now();
            // Every other one gets through the negotiation, to the Noise handshake.
            if round % 2 == 0 {
                socket.write_all(&propose("/noise")).ok();
            }
            socket.write_all(&bytes).ok();
            socket.shutdown(std::net::Shutdown::Write).ok();
            worst = worst.max(until_closed(&mut socket, begun).expect("not closed"));
        }
        worst
    });
    let worst = flood.await.unwrap();
    let (messages, p99) = bystander.finish().await;
    println!(
        "random bytes: {count} connections, closed after {worst:.1?} at most; \
         bystander {messages} messages, 0 lost, p99 {p99:.1?}"
    );
    victim.stop();
}
