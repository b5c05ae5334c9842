//! Peers that read nothing, grant nothing, or vanish.

use std::time::{Duration, Instant};

use crate::{
    attacker::{Attacker, FIN, PING, SYN, WINDOW, data, header, propose},
    full,
    net::{Side, at, isolated, plug_attacker},
    rig::{Rig, Target, honest_endpoint, run},
};

/// Asks for much, grants credit for all of it and reads nothing; how long until the victim ends it.
fn unread_download(target: Target) -> Duration {
    let mut attacker = Attacker::secure(target);
    // A download of 4 GiB, all of it allowed to be on its way.
    let wanted: u64 = 4 << 30;
    let request = [propose("/perf/1.0.0"), wanted.to_be_bytes().to_vec()].concat();
    let mut frames = data(SYN, 1, &request);
    frames.extend_from_slice(&header(0, WINDOW, 0, 1, 0xf000_0000));
    frames.extend_from_slice(&header(0, WINDOW, FIN, 1, 0));
    let begun = Instant::now();
    attacker.send(&frames).unwrap();
    let patience = target.hold.unwrap_or(Duration::from_secs(50));
    while begun.elapsed() < patience {
        std::thread::sleep(Duration::from_millis(200));
        // Fails once the victim's socket is gone.
        if attacker.send(&header(0, PING, SYN, 0, 1)).is_err() {
            break;
        }
    }
    begun.elapsed()
}

/// Row 31: a peer that grants much credit and reads nothing, until no more fits on the way.
#[test]
fn a_peer_that_reads_nothing_is_cut_off() {
    let rig = Rig::start("row 31", "stalled");
    rig.victim.reset_peak();
    let took = rig.strike(unread_download);
    let peak = rig.victim.peak_kib() - rig.before().rss_kib;
    println!(
        "row 31: a download that is not read: at most {peak} KiB more, closed after {took:.1?}"
    );
    assert!(peak < 8 * 1024, "{peak} KiB");
    // 30 s without progress, what the way holds before, and our own look at it each 200 ms.
    assert!(took <= Duration::from_secs(33), "{took:?}");
    rig.standard(unread_download);
    rig.finish(Some("write_stalled"));
}

/// Streams of one connection in row 32, and bytes sent on each: the credit that the protocol gives.
const STREAMS: u32 = 256;
const WINDOW_BYTES: usize = 256 << 10;

/// Fills the first window of every stream of an echo that nobody reads back. Stays connected.
fn fill_windows(target: Target) -> (Attacker, usize) {
    let mut attacker = Attacker::secure(target);
    let proposal = propose("/barewire/echo/1.0.0");
    let filler = vec![0x55; 16 << 10];
    // Once nothing is taken any more, the rest is for nobody.
    attacker
        .socket
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut sent = 0;
    'streams: for stream in 0..STREAMS {
        let id = 1 + 2 * stream;
        let mut frames = data(SYN, id, &proposal);
        let mut left = WINDOW_BYTES - proposal.len();
        while left > 0 {
            let part = left.min(filler.len());
            frames.extend_from_slice(&data(0, id, &filler[..part]));
            left -= part;
        }
        if attacker.send(&frames).is_err() {
            break 'streams;
        }
        sent += WINDOW_BYTES;
    }
    (attacker, sent)
}

/// Row 32: full windows that nobody reads, of every stream of every connection, in a small cgroup.
#[test]
fn unread_windows_are_bounded() {
    const CONNECTIONS: usize = 50;
    const CGROUP: u64 = 256 << 20;
    let rig = {
        let mut rig = Rig::limited("row 32", "windows", Some(CGROUP));
        // Half of the cgroup, in place of the standard 64 MiB.
        rig.growth_kib = 128 << 10;
        rig
    };
    let attack = |target: Target| {
        let held: Vec<_> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..CONNECTIONS)
                .map(|_| scope.spawn(move || fill_windows(target)))
                .collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        held.iter().map(|(_, sent)| *sent).sum::<usize>()
    };
    rig.victim.reset_peak();
    let sent = rig.strike(attack);
    let peak = rig.victim.peak_kib() - rig.before().rss_kib;
    println!(
        "row 32: {CONNECTIONS} connections x {STREAMS} streams x 256 KiB unread: {} MiB taken, at most {} MiB more",
        sent >> 20,
        peak >> 10
    );
    assert!(sent >= CONNECTIONS * (4 << 20), "the attack has to be one");
    assert!(peak <= rig.growth_kib, "{peak} KiB");
    rig.standard(attack);
    if let Some(cgroup) = &rig.victim.cgroup {
        let (peak, kills) = (cgroup.peak_kib(), cgroup.oom_kills());
        println!(
            "row 32: the cgroup of 256 MiB peaked at {} MiB, {kills} OOM kills",
            peak >> 10
        );
        assert_eq!(kills, 0);
    }
    rig.finish(Some("stream_shed"));
}

/// Row 33: streams whose reader grants no credit do not slow another on the same connection.
#[test]
fn a_stream_without_credit_leaves_the_others_alone() {
    const MIB: u64 = 256;
    let rig = Rig::start("row 33", "credit");
    let addr = rig.victim.addr.clone();
    let ratios = at(Side::Honest, || {
        run(async {
            let endpoint = honest_endpoint().await;
            let connection = endpoint.connect(addr).await.unwrap();
            let payload = bytes::Bytes::from(vec![0x33; 1 << 20]);
            let download = async || {
                let mut stream = connection.open_stream("/perf/1.0.0").await.unwrap();
                let wanted = MIB << 20;
                let request = bytes::Bytes::copy_from_slice(&wanted.to_be_bytes());
                stream.write_last(request).await.unwrap();
                let begun = Instant::now();
                let mut got = 0;
                while let Some(chunk) = stream.read_chunk(usize::MAX).await.unwrap() {
                    got += chunk.len() as u64;
                }
                assert_eq!(got, wanted);
                begun.elapsed().as_secs_f64()
            };
            download().await;
            let mut ratios = Vec::new();
            // The two sides of a ratio are neighbours in time, and swap places, so that a machine that is busy for a
            // while changes neither.
            for round in 0..if full() { 15 } else { 7 } {
                let mut times = [0.0; 2];
                for side in [round % 2, 1 - round % 2] {
                    let mut parked = Vec::new();
                    if side == 1 {
                        for _ in 0..4 {
                            // An echo that is written to and never read: both its windows are used up.
                            let opened = connection.open_stream("/barewire/echo/1.0.0");
                            let mut stream = opened.await.unwrap();
                            let fill = async {
                                while stream.write_chunk(payload.clone()).await.is_ok() {}
                            };
                            let wait = Duration::from_millis(150);
                            assert!(
                                tokio::time::timeout(wait, fill).await.is_err(),
                                "it is parked"
                            );
                            parked.push(stream);
                        }
                    }
                    times[side] = download().await;
                }
                ratios.push(times[0] / times[1]);
            }
            drop(connection);
            endpoint.shutdown(Duration::from_secs(2)).await;
            ratios
        })
    });
    let mut sorted = ratios;
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    println!(
        "row 33: beside four streams without credit a download runs at {:.0} % of its speed alone \
         (target 90 %; median of {} pairs, {:.0} to {:.0} %)",
        100.0 * median,
        sorted.len(),
        100.0 * sorted[0],
        100.0 * sorted[sorted.len() - 1]
    );
    // Below half it is no noise: such a stream would hold the connection up.
    assert!(median > 0.5, "{sorted:?}");
    rig.finish(None);
}

/// Connects, and exchanges a message, so that there is something to be freed.
fn live_peer(target: Target) -> Attacker {
    let mut peer = Attacker::secure(target);
    let message = [propose("/barewire/echo/1.0.0"), vec![7; 1024]].concat();
    peer.send(&data(SYN, 1, &message)).unwrap();
    while let Some(record) = peer.receive() {
        if record.ends_with(&[7; 100]) {
            break;
        }
    }
    peer
}

/// Row 34: peers that were alive and vanish without a word.
#[test]
fn peers_that_vanish_are_given_up() {
    let count = if full() { 500 } else { 100 };
    if !isolated() {
        barewire_tests::skip("row 34: a cable can be pulled only between network namespaces");
        return;
    }
    let rig = Rig::start("row 34", "vanished");
    let connect = |target| (0..count).map(|_| live_peer(target)).collect::<Vec<_>>();
    let peers = rig.strike(connect);
    let connected = rig.victim.descriptors() - rig.before().descriptors;
    assert_eq!(connected, count, "all are connected");
    plug_attacker("down");
    let cut = Instant::now();
    while rig.victim.descriptors() > rig.before().descriptors
        && cut.elapsed() < Duration::from_secs(60)
    {
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = cut.elapsed();
    let left = rig.victim.descriptors() - rig.before().descriptors;
    let grown = rig.victim.rss_kib() - rig.before().rss_kib;
    println!(
        "row 34: {count} peers behind a pulled cable: {left} descriptors left after {took:.1?}, {grown} KiB more"
    );
    drop(peers);
    plug_attacker("up");
    assert_eq!(left, 0);
    assert!(took <= Duration::from_secs(35), "{took:?}");
    rig.standard(|target| (0..10).map(|_| live_peer(target)).collect::<Vec<_>>());
    rig.finish(Some("keepalive_timeout"));
}
