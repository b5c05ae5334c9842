//! Floods of streams, resets and pings; peers that do not read; peers that vanish.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use crate::{
    attacker::{Attacker, FIN, PING, RST, SYN, WINDOW, data, header, propose},
    full,
    victim::{Bystander, Victim, honest_endpoint},
};

/// Row 29: streams opened and reset at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_reset_is_stopped() {
    let pairs = 200_000u32;
    let victim = Victim::start("reset");
    let bystander = Bystander::start(&victim).await;
    let addr = victim.socket;
    let cpu = victim.cpu();
    let (sent, took) = tokio::task::spawn_blocking(move || {
        let mut attacker = Attacker::secure(addr);
        let begun = Instant::now();
        let mut sent = 0;
        for batch in 0..pairs / 2_000 {
            let mut frames = Vec::with_capacity(48_000);
            for pair in 0..2_000 {
                let id = 1 + 2 * (batch * 2_000 + pair);
                frames.extend_from_slice(&header(0, WINDOW, SYN, id, 0));
                frames.extend_from_slice(&header(0, WINDOW, RST, id, 0));
            }
            if attacker.send(&frames).is_err() {
                break;
            }
            sent += 2_000;
        }
        let (_, _) = attacker.drain();
        (sent, begun.elapsed())
    })
    .await
    .unwrap();
    let cpu = victim.cpu() - cpu;
    let (messages, p99) = bystander.finish().await;
    println!(
        "row 29: closed after {sent} of {pairs} pairs and {took:.2?}, {cpu:.2?} of processor time; \
         bystander {messages} messages, 0 lost, p99 {p99:.1?}"
    );
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(cpu < Duration::from_millis(300), "{cpu:?}");
    victim.stop();
}

/// Row 30: opens that are held. Streams that carry on beside them on the same connection lose nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_opens_are_refused_one_by_one() {
    let opens = if full() { 100_000 } else { 20_000 };
    let victim = Victim::start("opens");
    let bystander = Bystander::start(&victim).await;
    let before = victim.rss_kib();
    let addr = victim.socket;
    let refused = tokio::task::spawn_blocking(move || {
        let mut attacker = Attacker::secure(addr);
        let mut writer = attacker.socket.try_clone().unwrap();
        // An honest echo stream on the same connection.
        let echo = [propose("/barewire/echo/1.0.0"), b"before".to_vec()].concat();
        attacker.send(&data(SYN, 1, &echo)).unwrap();
        let mut frames = Vec::new();
        for open in 1..=opens {
            frames.extend_from_slice(&header(0, WINDOW, SYN, 1 + 2 * open, 0));
        }
        frames.extend_from_slice(&data(0, 1, b"after"));
        frames.extend_from_slice(&header(0, PING, SYN, 0, 0x77));
        let sealed = attacker.seal(&frames);
        let sending = std::thread::spawn(move || writer.write_all(&sealed));
        let pong = header(0, PING, 2, 0, 0x77);
        let mut answer = Vec::new();
        let mut seen = 0;
        // Pongs go first, so the last echo and the last resets may come behind it.
        while !(answer[seen..].windows(12).any(|frame| frame == pong)
            && contains(&answer, b"beforeafter", b"before", b"after"))
        {
            let record = attacker.receive().expect("the connection lives");
            seen = answer.len().saturating_sub(11).min(seen);
            answer.extend_from_slice(&record);
        }
        sending.join().unwrap().unwrap();
        answer
            .windows(12)
            .filter(|frame| frame[..4] == [0, WINDOW, 0, RST as u8])
            .count()
    })
    .await
    .unwrap();
    let grown = victim.rss_kib() - before;
    let (messages, p99) = bystander.finish().await;
    println!(
        "row 30: {opens} held opens: {refused} refused so far, {grown} KiB more, the echo beside them intact; \
         bystander {messages} messages, 0 lost, p99 {p99:.1?}"
    );
    assert!(grown < 16 * 1024, "{grown} KiB");
    victim.stop();
}

/// Whether the echo of both messages is in the answer, in one piece or two.
fn contains(answer: &[u8], whole: &[u8], first: &[u8], second: &[u8]) -> bool {
    let has = |part: &[u8]| answer.windows(part.len()).any(|window| window == part);
    has(whole) || (has(first) && has(second))
}

/// Row 31: a flood of pings, answered as long as they are few.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_flood_is_cut_off() {
    let pings = 1_000_000u32;
    let victim = Victim::start("pings");
    let bystander = Bystander::start(&victim).await;
    let before = victim.rss_kib();
    let addr = victim.socket;
    let (sent, took) = tokio::task::spawn_blocking(move || {
        let mut attacker = Attacker::secure(addr);
        let begun = Instant::now();
        let mut sent = 0u32;
        while sent < pings {
            let mut frames = Vec::with_capacity(60_000);
            for _ in 0..5_000 {
                frames.extend_from_slice(&header(0, PING, SYN, 0, sent));
                sent += 1;
            }
            if attacker.send(&frames).is_err() {
                break;
            }
        }
        attacker.drain();
        (sent, begun.elapsed())
    })
    .await
    .unwrap();
    let grown = victim.rss_kib() - before;
    let (messages, p99) = bystander.finish().await;
    println!(
        "row 31: closed after {sent} of {pings} pings and {took:.2?}: {grown} KiB more; \
         bystander {messages} messages, 0 lost, p99 {p99:.1?}"
    );
    assert!(grown < 1024, "{grown} KiB");
    assert!(took < Duration::from_secs(2), "{took:?}");
    victim.stop();
}

/// Row 31: a peer that grants much credit and reads nothing, until no more fits on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_reads_nothing_is_cut_off() {
    let victim = Victim::start("stalled");
    let bystander = Bystander::start(&victim).await;
    let before = victim.rss_kib();
    let addr = victim.socket;
    let stalled = tokio::task::spawn_blocking(move || {
        let mut attacker = Attacker::secure(addr);
        // A download of 4 GiB, all of it allowed to be on its way.
        let wanted: u64 = 4 << 30;
        let request = [propose("/perf/1.0.0"), wanted.to_be_bytes().to_vec()].concat();
        let mut frames = data(SYN, 1, &request);
        frames.extend_from_slice(&header(0, WINDOW, 0, 1, 0xf000_0000));
        frames.extend_from_slice(&header(0, WINDOW, FIN, 1, 0));
        let begun = Instant::now();
        attacker.send(&frames).unwrap();
        while begun.elapsed() < Duration::from_secs(50) {
            std::thread::sleep(Duration::from_millis(200));
            // Fails once the victim's socket is gone.
            if attacker.send(&header(0, PING, SYN, 0, 1)).is_err() {
                break;
            }
        }
        begun.elapsed()
    });
    let mut peak = 0;
    while !stalled.is_finished() {
        peak = peak.max(victim.rss_kib() - before);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = stalled.await.unwrap();
    let (messages, p99) = bystander.finish().await;
    println!(
        "row 31: a download that is not read: at most {peak} KiB more, closed after {took:.1?}; \
         bystander {messages} messages, 0 lost, p99 {p99:.1?}"
    );
    assert!(peak < 8 * 1024, "{peak} KiB");
    // 30 s without progress, what the way holds before, and our own look at it each 200 ms.
    assert!(took <= Duration::from_secs(33), "{took:?}");
    victim.stop();
}

/// Rows 32 and 33: full windows that nobody reads, and answers that nobody reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_windows_are_bounded() {
    let connections = if full() { 50 } else { 4 };
    let victim = Victim::start("windows");
    let bystander = Bystander::start(&victim).await;
    let before = victim.rss_kib();
    let addr = victim.socket;
    let mut attackers = Vec::new();
    for _ in 0..connections {
        attackers.push(tokio::task::spawn_blocking(move || {
            let mut attacker = Attacker::secure(addr);
            let proposal = propose("/barewire/echo/1.0.0");
            let filler = vec![0x55; 65_000];
            // The echo cannot be sent back, so the victim stops reading these streams one by one.
            attacker
                .socket
                .set_write_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            for stream in 0..100 {
                let id = 1 + 2 * stream;
                let mut frames = data(SYN, id, &proposal);
                for _ in 0..4 {
                    frames.extend_from_slice(&data(0, id, &filler));
                }
                if attacker.send(&frames).is_err() {
                    break;
                }
            }
            attacker
        }));
    }
    let mut held = Vec::new();
    for attacker in attackers {
        held.push(attacker.await.unwrap());
    }
    let peak = victim.rss_kib() - before;
    let per_connection = peak / i64::from(connections);
    let (messages, p99) = bystander.finish().await;
    println!(
        "row 32: {connections} connections with 100 unread streams: {peak} KiB more, {per_connection} KiB each; \
         bystander {messages} messages, 0 lost, p99 {p99:.1?}"
    );
    assert!(per_connection < 80 * 1024, "{per_connection} KiB");
    drop(held);
    let ended = Instant::now();
    while victim.rss_kib() - before > 32 * 1024 && ended.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!(
        "row 32: {} KiB more {:.1?} after they left",
        victim.rss_kib() - before,
        ended.elapsed()
    );
    assert!(victim.rss_kib() - before <= 32 * 1024);
    victim.stop();
}

/// Row 33: one stream whose reader grants no credit does not slow another on the same connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_credit_leaves_the_others_alone() {
    let victim = Victim::start("credit");
    let endpoint = honest_endpoint().await;
    let connection = endpoint.connect(victim.addr.clone()).await.unwrap();
    let payload = bytes::Bytes::from(vec![0x33; 1 << 20]);
    let download = |connection: barewire_transport::Connection, mib: u64| async move {
        let mut stream = connection.open_stream("/perf/1.0.0").await.unwrap();
        let wanted = mib << 20;
        stream
            .write_last(bytes::Bytes::copy_from_slice(&wanted.to_be_bytes()))
            .await
            .unwrap();
        let begun = Instant::now();
        let mut got = 0;
        while let Some(chunk) = stream.read_chunk(usize::MAX).await.unwrap() {
            got += chunk.len() as u64;
        }
        assert_eq!(got, wanted);
        mib as f64 / begun.elapsed().as_secs_f64()
    };
    download(connection.clone(), 256).await;
    let mut ratios = Vec::new();
    let mut parked = Vec::new();
    for _ in 0..5 {
        let solo = download(connection.clone(), 256).await;
        // An echo that is written to and never read: both its windows are used up.
        let mut stream = connection
            .open_stream("/barewire/echo/1.0.0")
            .await
            .unwrap();
        for _ in 0..2 {
            let write = stream.write_chunk(payload.clone());
            if tokio::time::timeout(Duration::from_millis(200), write)
                .await
                .is_err()
            {
                break;
            }
        }
        parked.push(stream);
        ratios.push(download(connection.clone(), 256).await / solo);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "row 33: beside streams without credit a download runs at {:.2} of its speed alone (median of 5)",
        ratios[2]
    );
    // A ratio on a shared machine is printed; only a stall is a failure.
    assert!(ratios[2] > 0.5, "{ratios:?}");
    drop((parked, connection));
    endpoint.shutdown(Duration::from_secs(2)).await;
    victim.stop();
}
