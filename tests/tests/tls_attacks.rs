//! Hostile TLS peers against a running `barewire listen`, beside honest ones. Each test prints what it measured.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use barewire_base::{Keypair, multistream};
use barewire_security::{
    Sealer,
    tls::{self, Handshake},
};
use barewire_tests::{
    attack::rig::{Rig, Target, connect, until_closed},
    full, within,
};
use bytes::{Buf, BytesMut};

const PROTOCOL: &str = "/tls/1.0.0";
/// Content types of records.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// A close_notify of level warning.
const CLOSE_NOTIFY: [u8; 2] = [1, 0];
/// Changes of keys that a connection may ask for in a second.
const KEY_UPDATES: u32 = 32;

/// A record as it is on the wire.
fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[kind, 3, 3], &length[..], content].concat()
}

/// A connection in the midst of a handshake.
struct Peer {
    socket: TcpStream,
    handshake: Handshake,
    /// The other side where a sink takes what we say: the keys come from a handshake with ourselves.
    ourselves: Option<Handshake>,
    input: BytesMut,
}

impl Peer {
    /// Proposes TLS; the hello is yet to be sent.
    fn begin(target: Target) -> (Self, BytesMut) {
        let mut socket = connect(target);
        socket
            .write_all(&multistream::optimistic_proposal(PROTOCOL))
            .unwrap();
        let mut rng = rand::rng();
        let keypair = Keypair::generate(&mut rng);
        let config = tls::Config::new(&keypair, vec!["/yamux/1.0.0".into()], &mut rng).unwrap();
        let mut handshake = Handshake::client(&config, None).unwrap();
        let mut hello = BytesMut::new();
        handshake.poll_transmit(&mut hello);
        let mut input = BytesMut::new();
        if !target.sink {
            // Its header and its agreement.
            let mut agreed = vec![0; multistream::optimistic_proposal(PROTOCOL).len()];
            socket.read_exact(&mut agreed).unwrap();
            assert_eq!(agreed, &multistream::optimistic_proposal(PROTOCOL)[..]);
        }
        input.reserve(4096);
        let ourselves = target.sink.then(|| Handshake::server(&config).unwrap());
        let peer = Self {
            socket,
            handshake,
            ourselves,
            input,
        };
        (peer, hello)
    }

    /// Says an honest hello and reads the answer; returns our last flight, which is yet to be sent.
    fn greet(target: Target) -> (Self, BytesMut) {
        let (mut peer, mut hello) = Self::begin(target);
        peer.say(&hello);
        if let Some(ourselves) = &mut peer.ourselves {
            ourselves.handle_input(&mut hello).unwrap();
            ourselves.poll_transmit(&mut peer.input);
        }
        let mut flight = BytesMut::new();
        loop {
            let taken = peer.handshake.handle_input(&mut peer.input).unwrap();
            peer.input.advance(taken);
            if peer.handshake.poll_transmit(&mut flight) && peer.handshake.is_finished() {
                return (peer, flight);
            }
            let mut chunk = [0; 4096];
            let length = peer.socket.read(&mut chunk).unwrap();
            assert!(length > 0, "the victim ended the handshake");
            peer.input.extend_from_slice(&chunk[..length]);
        }
    }

    /// Completes the handshake.
    fn secure(target: Target) -> (TcpStream, Sealer) {
        let (mut peer, flight) = Self::greet(target);
        peer.say(&flight);
        let session = peer.handshake.finish().unwrap().session;
        (peer.socket, session.split().0)
    }

    fn say(&mut self, bytes: &[u8]) {
        // The victim may have ended it.
        self.socket.write_all(bytes).ok();
    }
}

/// An attack on the handshake, up to what the victim has to end.
type Attack = fn(Target) -> TcpStream;

/// The hello in records of one byte, of which the last is missing: the victim waits for it as long as for a slow one.
fn one_byte_records(target: Target) -> TcpStream {
    let (mut peer, hello) = Peer::begin(target);
    // Behind the header of its own record.
    let message = &hello[5..hello.len() - 1];
    let records: Vec<u8> = message
        .iter()
        .flat_map(|byte| record(HANDSHAKE, &[*byte]))
        .collect();
    peer.say(&records);
    // An end in its midst.
    peer.say(&record(ALERT, &CLOSE_NOTIFY));
    peer.socket
}

/// The end in place of a hello. By itself it is not believed, because anybody on the way may have said it.
fn close_notify_first(target: Target) -> TcpStream {
    let (mut peer, _) = Peer::begin(target);
    peer.say(&record(ALERT, &CLOSE_NOTIFY));
    peer.socket
}

fn close_notify_and_the_end(target: Target) -> TcpStream {
    let socket = close_notify_first(target);
    socket.shutdown(Shutdown::Write).ok();
    socket
}

fn close_notify_after_the_hello(target: Target) -> TcpStream {
    let (mut peer, _) = Peer::greet(target);
    peer.say(&record(ALERT, &CLOSE_NOTIFY));
    peer.socket
}

/// A certificate, as it would be if nobody had agreed on keys.
fn handshake_in_the_clear(target: Target) -> TcpStream {
    let (mut peer, _) = Peer::greet(target);
    peer.say(&record(HANDSHAKE, &[11, 0, 0, 4, 0, 0, 0, 0]));
    peer.socket
}

/// A finished message in the same record as the hello, before there are keys.
fn two_levels_in_a_record(target: Target) -> TcpStream {
    let (mut peer, hello) = Peer::begin(target);
    let finished = [&[20, 0, 0, 32][..], &[0; 32]].concat();
    peer.say(&record(HANDSHAKE, &[&hello[5..], &finished].concat()));
    peer.socket
}

/// A record under the keys of the application in place of one under those of the handshake.
fn application_keys_too_early(target: Target) -> TcpStream {
    let (peer, _) = Peer::greet(target);
    let mut socket = peer.socket;
    let session = peer.handshake.finish().unwrap().session;
    let mut sealed = BytesMut::new();
    let mut sealer = session.split().0;
    sealer
        .seal([&b"early"[..]].into_iter(), &mut sealed)
        .unwrap();
    socket.write_all(&sealed).ok();
    socket
}

fn application_data_first(target: Target) -> TcpStream {
    let (mut peer, _) = Peer::begin(target);
    peer.say(&record(APPLICATION_DATA, &[7; 100]));
    peer.socket
}

fn empty_records(target: Target) -> TcpStream {
    let (mut peer, _) = Peer::begin(target);
    peer.say(&record(HANDSHAKE, &[]).repeat(1_000));
    peer.socket
}

fn two_hellos(target: Target) -> TcpStream {
    let (mut peer, hello) = Peer::begin(target);
    peer.say(&[&hello[..], &hello[..]].concat());
    peer.socket
}

const ATTACKS: [(&str, Attack); 9] = [
    (
        "a hello in records of one byte, and close_notify",
        one_byte_records,
    ),
    (
        "close_notify and the end in place of a hello",
        close_notify_and_the_end,
    ),
    (
        "close_notify behind the hello",
        close_notify_after_the_hello,
    ),
    ("a handshake message in the clear", handshake_in_the_clear),
    ("two key levels in a record", two_levels_in_a_record),
    (
        "keys of the application in the handshake",
        application_keys_too_early,
    ),
    (
        "application data in place of a hello",
        application_data_first,
    ),
    ("1,000 empty records", empty_records),
    ("two hellos", two_hellos),
];

/// Row 15: handshakes that break the rules are ended at once, and cost little.
#[test]
fn broken_handshakes_end_at_once() {
    const EACH: u32 = 100;
    let rig = Rig::start("row 15", "tls");
    for (name, attack) in ATTACKS {
        let cpu = rig.victim.cpu();
        let mut took = rig.strike(|target| {
            let one = |_| {
                let mut socket = attack(target);
                until_closed(&mut socket, Instant::now(), target).expect("not closed")
            };
            (0..EACH).map(one).collect::<Vec<_>>()
        });
        took.sort_unstable();
        let cpu = (rig.victim.cpu() - cpu).as_secs_f64();
        let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
        println!(
            "row 15: {name}: {EACH} connections, ended after {median:.1?} (median), {worst:.1?} at most; they cost \
             {:.2} ms each (bystanders included), in ten seconds {:.1} % of a processor",
            1e3 * cpu / f64::from(EACH),
            10.0 * cpu
        );
        within(name, worst, Duration::from_secs(1));
        // A hundred such connections in the ten seconds that they could be held.
        within(
            name,
            Duration::from_secs_f64(cpu),
            Duration::from_millis(500),
        );
    }
    rig.standard(|target| {
        for (_, attack) in ATTACKS {
            let mut socket = attack(target);
            if !target.sink {
                until_closed(&mut socket, Instant::now(), target);
            }
        }
    });
    rig.finish(Some("upgrade_failed"));
}

/// Row 15: who says close_notify in place of a hello and stays is as silent as anybody, and ended when they are.
#[test]
fn a_goodbye_that_nobody_vouches_for_is_silence() {
    let rig = Rig::start("row 15", "goodbye");
    let cpu = rig.victim.cpu();
    let took = rig.strike(|target| {
        let mut sockets: Vec<_> = (0..20).map(|_| close_notify_first(target)).collect();
        let begun = Instant::now();
        let ended = |socket: &mut TcpStream| until_closed(socket, begun, target);
        let took: Vec<_> = sockets.iter_mut().map(ended).collect();
        took.into_iter().max().flatten()
    });
    let cpu = rig.victim.cpu() - cpu;
    let took = took.expect("not closed");
    println!(
        "row 15: 20 times close_notify in place of a hello: all ended after {took:.1?}, for {cpu:.0?} of processor time"
    );
    // The stage's ten seconds, and what a busy machine adds.
    within("the deadline", took, Duration::from_millis(10_500));
    rig.finish(Some("upgrade_timeout"));
}

/// Changes keys at `per_second` for so long; how many changes went before the victim ended it.
fn change_keys(
    (mut socket, mut sealer): (TcpStream, Sealer),
    target: Target,
    per_second: u32,
    lasting: Duration,
) -> (u32, bool) {
    let (begun, mut changes) = (Instant::now(), 0);
    while begun.elapsed() < lasting {
        let mut update = BytesMut::new();
        sealer.update_keys_for_testing_only(&mut update).unwrap();
        if socket.write_all(&update).is_err() {
            return (changes, true);
        }
        changes += 1;
        let due = begun + Duration::from_secs(1) * changes / per_second;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    if target.sink {
        return (changes, false);
    }
    let mut rest = target;
    rest.hold = Some(Duration::from_millis(500));
    let ended = until_closed(&mut socket, Instant::now(), rest).is_some();
    (changes, ended)
}

/// Row 15: changes of keys, as many as are allowed on a hundred connections, and more than that on one.
#[test]
fn changes_of_keys_are_few() {
    const CONNECTIONS: usize = 100;
    const ALLOWED: u32 = KEY_UPDATES - 2;
    let lasting = Duration::from_secs(if full() { 20 } else { 4 });
    let rig = Rig::start("row 15", "keys");
    let begun = Instant::now();
    let (changes, ended) =
        rig.strike(|target| change_keys(Peer::secure(target), target, 10_000, 3 * lasting));
    let took = begun.elapsed();
    println!("row 15: changes of keys as fast as they go: ended after {took:.1?}");
    assert!(ended, "it goes on after {changes} changes");
    assert!(changes > KEY_UPDATES, "the flood has to be one");
    within("the end of a flood", took, Duration::from_secs(2));
    // All together, as many as are allowed, once all are connected.
    let all_at_once = |target: Target, lasting| {
        let peers: Vec<_> = (0..CONNECTIONS).map(|_| Peer::secure(target)).collect();
        let (cpu, begun) = (rig.victim.cpu(), Instant::now());
        let (changes, ended) = std::thread::scope(|scope| {
            let start = |peer| scope.spawn(move || change_keys(peer, target, ALLOWED, lasting));
            let all: Vec<_> = peers.into_iter().map(start).collect();
            let all = all.into_iter().map(|one| one.join().unwrap());
            all.fold((0, 0), |(sum, ended), (changes, was)| {
                (sum + changes, ended + usize::from(was))
            })
        });
        let share = (rig.victim.cpu() - cpu).as_secs_f64() / begun.elapsed().as_secs_f64();
        (share, changes, ended)
    };
    let (share, changes, ended) = rig.strike(|target| all_at_once(target, lasting));
    println!(
        "row 15: {CONNECTIONS} connections with {ALLOWED} changes of keys a second for {lasting:?}: {changes} in all, \
         {ended} ended, {:.1} % of a processor (5 % are allowed; bystanders included)",
        100.0 * share
    );
    assert_eq!(ended, 0, "what is allowed ends nothing");
    within(
        "a second of changes",
        Duration::from_secs_f64(share),
        Duration::from_millis(50),
    );
    rig.standard(|target| all_at_once(target, Duration::from_secs(1)));
    rig.finish(Some("record"));
}
