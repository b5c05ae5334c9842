//! Row 2: peers that send a byte each two seconds, in every stage that a remote can stretch.

use std::{
    collections::BTreeMap,
    io::Write,
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use barewire_base::Keypair;
use barewire_security::noise;
use bytes::BytesMut;

use crate::{
    attacker::{Attacker, PING, RST, SYN, connect, header, propose, until_closed},
    full,
    net::{Side, at},
    rig::{Rig, Target, honest_endpoint, run},
};

/// What a stage may take at most: its deadline and a tolerance.
const STAGE: Duration = Duration::from_millis(10_500);

/// Time between two bytes.
const PACE: Duration = Duration::from_secs(2);

/// Sends one byte each two seconds until the victim closes. How long that took, counted from `begun`.
fn drip(mut socket: TcpStream, bytes: &[u8], begun: Instant, target: Target) -> Option<Duration> {
    let mut reader = socket.try_clone().unwrap();
    std::thread::scope(|scope| {
        let closed = scope.spawn(move || until_closed(&mut reader, begun, target));
        for byte in bytes {
            if closed.is_finished() || socket.write_all(&[*byte]).is_err() {
                break;
            }
            let next = Instant::now() + PACE;
            while !closed.is_finished() && Instant::now() < next {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        closed.join().unwrap()
    })
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

/// Stages before there is a secure channel: what is sent at once, and what then comes slowly.
fn raw_stages() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    vec![
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
        // The head of a record with a ClientHello of 300 bytes.
        (
            "TLS ClientHello",
            propose("/tls/1.0.0"),
            [vec![22, 3, 1, 1, 44, 1, 0, 1, 40, 3, 3], vec![9; 60]].concat(),
        ),
    ]
}

fn raw_stage(target: Target, quick: &[u8], slow: &[u8]) -> Option<Duration> {
    let begun = Instant::now();
    let mut socket = connect(target);
    socket.write_all(quick).unwrap();
    drip(socket, slow, begun, target)
}

/// The muxer stage begins only after a handshake that leaves the muxer open.
fn muxer_line(target: Target) -> Option<Duration> {
    let begun = Instant::now();
    let mut attacker = Attacker::secure_with(target, Vec::new());
    let sealed = attacker.seal(&propose("/yamux/1.0.0"));
    drip(attacker.socket, &sealed, begun, target)
}

/// A frame header, each byte in a record of its own.
fn yamux_header(target: Target) -> Option<Duration> {
    let mut attacker = Attacker::secure(target);
    let begun = Instant::now();
    let mut reader = attacker.socket.try_clone().unwrap();
    std::thread::scope(|scope| {
        let closed = scope.spawn(move || until_closed(&mut reader, begun, target));
        for byte in header(0, PING, SYN, 0, 1) {
            if closed.is_finished() || attacker.send(&[byte]).is_err() {
                break;
            }
            let next = Instant::now() + PACE;
            while !closed.is_finished() && Instant::now() < next {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        closed.join().unwrap()
    })
}

/// An identify push on a stream: how long until the victim resets the stream. The connection may live.
fn identify(target: Target) -> Option<Duration> {
    let mut attacker = Attacker::secure(target);
    let begun = Instant::now();
    let open = crate::attacker::data(SYN, 1, &propose("/ipfs/id/push/1.0.0"));
    attacker.send(&open).unwrap();
    // A message of 100 bytes.
    let message = [vec![100], vec![0; 100]].concat();
    let patience = target.hold.unwrap_or(Duration::from_secs(20));
    let tick = Some(Duration::from_millis(100));
    attacker.socket.set_read_timeout(tick).unwrap();
    let mut sent = 0;
    while begun.elapsed() < patience {
        let due = (begun.elapsed().as_secs() / PACE.as_secs()) as usize + 1;
        if due > sent {
            sent = due;
            let byte = crate::attacker::data(0, 1, &message[sent..=sent]);
            attacker.send(&byte).ok()?;
        }
        if target.sink {
            std::thread::sleep(Duration::from_millis(100));
        } else if let Some(record) = attacker.receive()
            && record
                .windows(8)
                .any(|frame| frame[2..8] == [0, RST as u8, 0, 0, 0, 1])
        {
            return Some(begun.elapsed());
        }
    }
    None
}

/// Every stage with `count` peers each, all at once; the slowest end of each, `None` if one did not end.
fn all_stages(target: Target, count: usize) -> BTreeMap<&'static str, Option<Duration>> {
    let raw = raw_stages();
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for _ in 0..count {
            for (name, quick, slow) in &raw {
                threads.push((*name, scope.spawn(|| raw_stage(target, quick, slow))));
            }
            threads.push(("muxer line", scope.spawn(|| muxer_line(target))));
            threads.push(("yamux header", scope.spawn(|| yamux_header(target))));
            threads.push(("identify", scope.spawn(|| identify(target))));
        }
        let mut slowest: BTreeMap<&str, Option<Duration>> = BTreeMap::new();
        for (name, thread) in threads {
            let took = thread.join().unwrap();
            let entry = slowest.entry(name).or_insert(Some(Duration::ZERO));
            *entry = entry.zip(took).map(|(most, took)| most.max(took));
        }
        slowest
    })
}

#[test]
fn slow_peers_are_cut_off_in_every_stage() {
    // 45 at once: beyond 64 the oldest would be dropped for newer ones before their time.
    let (waves, count) = (if full() { 20 } else { 1 }, 5);
    let rig = Rig::start("row 2", "slow");
    let mut slowest: BTreeMap<&str, Duration> = BTreeMap::new();
    for _ in 0..waves {
        for (name, took) in rig.strike(|target| all_stages(target, count)) {
            let took = took.unwrap_or_else(|| panic!("{name}: not ended"));
            let most = slowest.entry(name).or_default();
            *most = took.max(*most);
        }
    }
    for (name, took) in &slowest {
        let peers = waves * count;
        println!("row 2: {name}: {peers} peers, all ended after {took:.2?} at most");
        assert!(*took <= STAGE, "{name}: {took:?}");
    }
    rig.standard(|target| all_stages(target, count));
    rig.finish(Some("upgrade_timeout"));
}

/// Noise message 2 comes from a listener: then it is the dialling node that must not wait.
#[test]
fn slow_listeners_are_given_up() {
    let count = if full() { 100 } else { 8 };
    let rig = Rig::start("row 2", "slow-listener");
    let ip = if crate::net::isolated() {
        "10.231.1.1"
    } else {
        "127.0.0.1"
    };
    let listener = at(Side::Attacker, || TcpListener::bind((ip, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let addr: barewire_base::Multiaddr = format!("/ip4/{ip}/tcp/{port}").parse().unwrap();
    let worst = std::thread::scope(|scope| {
        scope.spawn(move || {
            for socket in listener.incoming().take(count) {
                let mut socket = socket.unwrap();
                // The answer at once, then the length of message 2 and its bytes.
                socket.write_all(&propose("/noise")).unwrap();
                std::thread::spawn(move || {
                    for byte in [vec![0, 200], vec![9; 200]].concat() {
                        if socket.write_all(&[byte]).is_err() {
                            return;
                        }
                        std::thread::sleep(PACE);
                    }
                });
            }
        });
        at(Side::Honest, || {
            run(async {
                let endpoint = honest_endpoint().await;
                let mut dials = tokio::task::JoinSet::new();
                for _ in 0..count {
                    let (endpoint, addr) = (endpoint.clone(), addr.clone());
                    dials.spawn(async move {
                        let begun = Instant::now();
                        let error = endpoint.dial(addr).await.unwrap_err();
                        assert!(error.to_string().contains("in time"), "{error}");
                        begun.elapsed()
                    });
                }
                dials.join_all().await.into_iter().max().unwrap()
            })
        })
    });
    println!("row 2: noise message 2: {count} dials, all given up after {worst:.2?} at most");
    assert!(worst <= STAGE, "{worst:?}");
    rig.finish(None);
}
