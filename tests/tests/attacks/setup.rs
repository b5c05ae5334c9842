//! Attacks on connecting: silence, garbage in negotiation, announced lengths.

use std::{
    io::Write,
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use crate::{
    attacker::{Attacker, RST, SYN, connect, data, propose, until_closed},
    full,
    rig::{Rig, Target, window},
    within,
};

/// Opens connections and sends nothing. The victim drops the oldest; our ends stay open.
fn silent(target: Target, count: u32, spread: Duration) -> Vec<TcpStream> {
    let begun = Instant::now();
    let mut held = Vec::new();
    for number in 0..count {
        held.extend(crate::net::connect(target.socket, Duration::from_secs(10)));
        let due = begun + spread * number / count;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    held
}

/// Row 1: connections that send nothing.
#[test]
fn silent_connections_hold_few_slots() {
    let (count, spread) = if full() {
        (5_000, Duration::from_secs(30))
    } else {
        (1_500, Duration::from_secs(6))
    };
    let rig = Rig::start("row 1", "silent");
    let base = rig.before().descriptors;
    let over = AtomicBool::new(false);
    let (held, peak, (dialled, failed)) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| rig.strike(|target| silent(target, count, spread)));
        let honest = scope.spawn(|| rig.honest_dials(&over));
        let mut peak = 0;
        while !flood.is_finished() {
            peak = peak.max(rig.victim.descriptors().saturating_sub(base));
            std::thread::sleep(Duration::from_millis(20));
        }
        over.store(true, Ordering::Relaxed);
        (flood.join().unwrap(), peak, honest.join().unwrap())
    });
    let ended = Instant::now();
    let mut after = rig.victim.descriptors();
    while after > base + 1 && ended.elapsed() < Duration::from_secs(12) {
        std::thread::sleep(Duration::from_millis(100));
        after = rig.victim.descriptors();
    }
    println!(
        "row 1: {} silent connections: at most {peak} descriptors more, back after {:.1?}; honest dials {dialled} of {}",
        held.len(),
        ended.elapsed(),
        dialled + failed
    );
    // 64 pending, the honest connection that is just up, and its predecessor that is closing.
    assert!(peak <= 64 + 8, "{peak} descriptors");
    assert!(after <= base + 1, "{after} descriptors, {base} before");
    assert!(
        failed * 100 <= dialled,
        "{failed} of {dialled} dials failed"
    );
    drop(held);
    let few = u32::try_from(u128::from(count) * window().as_millis() / spread.as_millis()).unwrap();
    rig.standard(|target| silent(target, few, window()));
    rig.finish(Some("pending_dropped"));
}

/// Garbage in multistream-select, by name.
fn garbage() -> [(&'static str, Vec<u8>); 8] {
    let header = b"\x13/multistream/1.0.0\n".to_vec();
    let after_header = |bytes: &[u8]| [&header[..], bytes].concat();
    [
        ("a line of 64 KiB", after_header(&[0x80, 0x80, 0x04])),
        ("an empty line", after_header(&[0])),
        ("no newline", after_header(b"\x07/noise!")),
        ("not multistream", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("an endless varint", vec![0xff; 12]),
        (
            "1,000 proposals",
            after_header(&b"\x06/none\n".repeat(1_000)),
        ),
        ("1,000 listings", after_header(&b"\x03ls\n".repeat(1_000))),
        (
            "simultaneous open over and over",
            after_header(&b"\x1e/libp2p/simultaneous-connect\n\x0a".repeat(200)),
        ),
    ]
}

fn send_garbage(target: Target, bytes: &[u8]) -> Option<Duration> {
    let mut socket = connect(target);
    let begun = Instant::now();
    // The victim may close before it has taken everything.
    socket.write_all(bytes).ok();
    if target.sink {
        return None;
    }
    until_closed(&mut socket, begun, target)
}

/// Row 3: garbage in multistream-select.
#[test]
fn negotiation_garbage_is_refused_at_once() {
    let repeat = if full() { 125 } else { 10 };
    let rig = Rig::start("row 3", "garbage");
    let cases = garbage();
    for (name, bytes) in &cases {
        let mut took = rig.strike(|target| {
            (0..repeat)
                .map(|_| send_garbage(target, bytes).expect("not closed"))
                .collect::<Vec<_>>()
        });
        took.sort_unstable();
        let (median, worst) = (took[repeat / 2], took[repeat - 1]);
        println!(
            "row 3: {name}: {repeat} connections, closed after {median:.1?} (median), {worst:.1?} at most"
        );
        within(name, worst, Duration::from_secs(1));
    }
    rig.standard(|target| {
        for (_, bytes) in &cases {
            send_garbage(target, bytes);
        }
    });
    rig.finish(Some("upgrade_failed"));
}

/// One connection with a push that announces 512 MiB, one that announces little, and half a protocol line.
fn announce(target: Target) -> Attacker {
    let mut attacker = Attacker::secure(target);
    let push = propose("/ipfs/id/push/1.0.0");
    // 512 MiB - 1 as a varint.
    let huge = [0xff, 0xff, 0xff, 0xff, 0x01];
    let frames = [
        data(SYN, 1, &[&push[..], &huge].concat()),
        data(SYN, 3, b"\x13/multistream/1.0.0\n\xff"),
    ];
    attacker.send(&frames.concat()).unwrap();
    attacker
}

/// Reads until the victim has reset `streams`; how long that took.
fn until_reset(attacker: &mut Attacker, streams: &[u8], since: Instant) -> Option<Duration> {
    let mut frames = Vec::new();
    let reset = |frames: &[u8], id: u8| {
        let is_it = |frame: &[u8]| frame[2..8] == [0, RST as u8, 0, 0, 0, id];
        frames.windows(8).any(is_it)
    };
    while !streams.iter().all(|id| reset(&frames, *id)) {
        frames.extend_from_slice(&attacker.receive()?);
    }
    Some(since.elapsed())
}

/// Row 5: length prefixes of 512 MiB and nothing behind them.
#[test]
fn announced_lengths_allocate_nothing() {
    let count = 200;
    let rig = Rig::start("row 5", "lengths");
    rig.victim.reset_peak();
    let (worst, connected) = rig.strike(|target| {
        let begun = Instant::now();
        let mut attackers: Vec<_> = (0..count).map(|_| announce(target)).collect();
        let connected = Instant::now();
        let reset = |attacker| until_reset(attacker, &[1, 3], connected).expect("no reset");
        let worst = attackers.iter_mut().map(reset).max().unwrap();
        (worst, connected - begun)
    });
    let grown = rig.victim.peak_kib() - rig.before().rss_kib;
    println!(
        "row 5: {count} connections, opened in {connected:.1?}, each with a message of 512 MiB and half a line announced: \
         at most {grown} KiB more, all reset after {worst:.1?} at most"
    );
    assert!(grown < 16 * 1024, "{grown} KiB");
    assert!(worst <= Duration::from_secs(30), "{worst:?}");
    rig.standard(|target| (0..20).map(|_| announce(target)).collect::<Vec<_>>());
    rig.finish(Some("stream_negotiation"));
}

/// Random bytes on connections that are then ended; how long until the victim ended its side.
fn random_bytes(target: Target, count: usize) -> Duration {
    use rand::Rng;
    let mut rng = rand::rng();
    let mut worst = Duration::ZERO;
    for round in 0..count {
        let mut socket = connect(target);
        let mut bytes = vec![0; 1 + round * 7 % 4096];
        rng.fill_bytes(&mut bytes);
        let begun = Instant::now();
        // Every other one gets through the negotiation, to the Noise handshake.
        if round % 2 == 0 {
            socket.write_all(&propose("/noise")).ok();
        }
        socket.write_all(&bytes).ok();
        socket.shutdown(std::net::Shutdown::Write).ok();
        let closed = until_closed(&mut socket, begun, target).expect("not closed");
        worst = worst.max(closed);
    }
    worst
}

/// Random bytes never complete anything and never end the node.
#[test]
fn random_bytes_get_nowhere() {
    let count = if full() { 2_000 } else { 200 };
    let rig = Rig::start("random bytes", "random");
    let worst = rig.strike(|target| random_bytes(target, count));
    println!("random bytes: {count} connections, closed after {worst:.1?} at most");
    rig.standard(|target| random_bytes(target, count));
    rig.finish(Some("upgrade_failed"));
}
