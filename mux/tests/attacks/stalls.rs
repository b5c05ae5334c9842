//! Peers that do too little, and frames in pieces or too late.

use super::*;

/// Row 33: one reader grants nothing; others are as fast as alone, and after 60 s that stream alone is reset.
#[test]
fn row_33_zero_window() {
    let received = |stuck: bool| {
        let now = Instant::now();
        let session = |role| Session::new(role, Config::default(), Budget::unlimited(), now);
        let mut pair = Pair::new(session(Role::Client), session(Role::Server), now)
            .with_path(Duration::from_millis(5), Some(50_000_000));
        let item = Bytes::from(vec![1; 100_000]);
        let parked = pair.client.open_stream(now).unwrap();
        let flowing = pair.client.open_stream(now).unwrap();
        let (mut got, mut queued) = (0, 0);
        let until = now + Duration::from_secs(10);
        loop {
            for (id, wanted) in [(parked, stuck), (flowing, true)] {
                while wanted && pair.client.send_capacity(id).unwrap() > 0 {
                    pair.client.write(id, item.clone()).unwrap();
                    queued += if id == parked { item.len() } else { 0 };
                }
            }
            if !pair.step(until) {
                break;
            }
            pair.server_events();
            got += read_all(&mut pair.server, pair.now, flowing).0.len();
        }
        assert!(queued <= (256 << 10) + (1 << 20) + item.len());
        // The deadline passes.
        if stuck {
            pair.client_events();
            pair.wait(Duration::from_secs(49));
            assert!(pair.client.send_capacity(parked).is_ok());
            pair.wait(Duration::from_secs(2));
            assert_eq!(
                pair.client.send_capacity(parked),
                Err(WriteError::Reset(0x1006))
            );
            assert!(pair.client_events().contains(&Event::Writable(parked)));
            assert!(matches!(
                read_all(&mut pair.server, pair.now, parked).1,
                ReadOutcome::Reset(0x1006)
            ));
            assert!(pair.client.send_capacity(flowing).is_ok());
            assert_eq!((&pair.client_error, &pair.server_error), (&None, &None));
        }
        got
    };
    let (alone, beside) = (received(false), received(true));
    println!(
        "row 33: {} MB beside a stuck stream, {} MB alone",
        beside / 1_000_000,
        alone / 1_000_000
    );
    assert!(beside as f64 >= 0.9 * alone as f64);
}

/// Row 33: credit of a byte now and then is none; little, but all that is needed, is enough.
#[test]
fn row_33_a_byte_of_credit() {
    for (credit, queued, survives) in [(1, 100_000, false), (300, 100_000, true), (1, 1, true)] {
        let start = Instant::now();
        let mut session = server(start);
        session
            .handle_input(start, Bytes::copy_from_slice(&header(DATA, SYN, 1, 0)))
            .unwrap();
        let id = incoming(&mut session)[0];
        // Its first window is used up.
        session.write(id, vec![1; WINDOW as usize].into()).unwrap();
        sent(&mut session, start);
        session.write(id, vec![1; queued].into()).unwrap();
        sent(&mut session, start);
        let mut second = 0;
        while second < 300 && session.send_capacity(id).is_ok() {
            second += 1;
            let now = start + Duration::from_secs(second);
            // Keeps the session alive, and the credit comes each second.
            let update = header(WINDOW_UPDATE, 0, 1, credit);
            session
                .handle_input(now, Bytes::copy_from_slice(&update))
                .unwrap();
            session.handle_timeout(now).unwrap();
            sent(&mut session, now);
        }
        println!(
            "row 33: {credit} bytes of credit a second for {queued} hold a stream for {second} s"
        );
        assert_eq!(second, if survives { 300 } else { 60 });
    }
}

/// Row 2: a header of which a byte comes each two seconds; and one whose bytes come in time, over and over.
#[test]
fn row_02_a_slow_header() {
    let start = Instant::now();
    let mut session = server(start);
    let bytes = header(DATA, SYN, 1, 0);
    let mut now = start;
    let error = loop {
        let next = start + Duration::from_secs(2 * (now - start).as_secs().div_ceil(2));
        let sent = ((next - start).as_secs() / 2) as usize;
        session
            .handle_input(next, Bytes::copy_from_slice(&bytes[sent..=sent]))
            .unwrap();
        let due = session.poll_timeout().unwrap();
        now = due.min(next + Duration::from_secs(2));
        if let Err(error) = session.handle_timeout(now) {
            break error;
        }
        assert!(now < start + Duration::from_secs(12), "never due");
    };
    println!(
        "row 2: a slow yamux header ends the session after {:?}",
        now - start
    );
    assert_eq!(
        (error, now - start),
        (MuxError::SlowHeader, Duration::from_secs(10))
    );
    assert_eq!(sent(&mut session, now), [go_away(1)]);

    let mut session = server(start);
    for second in 0..60 {
        // Each input ends one header and begins the next.
        let now = start + Duration::from_secs(second);
        let bytes = header(PING, ACK, 0, 9);
        let cut = if second == 0 { 0 } else { 5 };
        session
            .handle_input(
                now,
                Bytes::copy_from_slice(&[&bytes[cut..], &bytes[..5]].concat()),
            )
            .unwrap();
        session.handle_timeout(now).unwrap();
    }
}

/// Row 34: both directions die without a word.
#[test]
fn row_34_half_open() {
    for at in [0, 3, 14] {
        let now = Instant::now();
        let session = |role| Session::new(role, Config::default(), Budget::unlimited(), now);
        let mut pair = Pair::new(session(Role::Client), session(Role::Server), now)
            .with_path(Duration::from_millis(20), None);
        // Keepalive keeps it: three minutes of silence otherwise.
        pair.wait(Duration::from_secs(180 + at));
        assert_eq!((&pair.client_error, &pair.server_error), (&None, &None));
        assert!(
            pair.up.bytes <= 24 * 13,
            "{} bytes in 3 minutes",
            pair.up.bytes
        );
        pair.up.cut = true;
        pair.down.cut = true;
        pair.wait(Duration::from_secs(14));
        assert_eq!((&pair.client_error, &pair.server_error), (&None, &None));
        let cut = pair.now;
        while pair.client_error.is_none() || pair.server_error.is_none() {
            assert!(pair.step(cut + Duration::from_secs(60)), "never dead");
        }
        let dead = pair.now - cut + Duration::from_secs(14);
        println!("row 34: dead {dead:?} after the cut");
        assert!(dead <= Duration::from_secs(31));
        assert_eq!(pair.client_error, Some(MuxError::KeepaliveTimeout));
    }
}

/// A process that was not run for long gives its peer the time to answer.
#[test]
fn a_late_timer_does_not_kill() {
    let start = Instant::now();
    let mut session = server(start);
    let late = start + Duration::from_secs(300);
    session.handle_timeout(late).unwrap();
    assert_eq!(sent(&mut session, late).len(), 1);
    session
        .handle_timeout(late + Duration::from_secs(14))
        .unwrap();
    assert_eq!(
        session.handle_timeout(late + Duration::from_secs(15)),
        Err(MuxError::KeepaliveTimeout)
    );
}

/// Row 35: a byte a frame causes no more answers than whole frames do.
#[test]
fn row_35_a_byte_a_frame() {
    let now = Instant::now();
    let mut session = server(now);
    session
        .handle_input(now, Bytes::copy_from_slice(&header(DATA, SYN, 1, 0)))
        .unwrap();
    let id = incoming(&mut session)[0];
    let record: Bytes = data(0, 1, b"x").repeat(4_000).into();
    let (mut payload, mut frames) = (0usize, 0usize);
    for n in 0..500 {
        let now = now + Duration::from_millis(n);
        session.handle_input(now, record.clone()).unwrap();
        payload += read_all(&mut session, now, id).0.len();
        frames += sent(&mut session, now)
            .iter()
            .filter(|frame| frame.kind == WINDOW_UPDATE)
            .count();
    }
    println!(
        "row 35: {payload} bytes, one a frame, caused {frames} frames: one for {} bytes",
        payload / frames
    );
    assert!(payload / frames >= 32 << 10);
    // Unread, it costs what it holds: no list of single bytes, no slab.
    let mut session = server(now);
    session
        .handle_input(now, Bytes::copy_from_slice(&header(DATA, SYN, 1, 0)))
        .unwrap();
    let id = incoming(&mut session)[0];
    for n in 0..65u8 {
        let slab: Bytes = data(0, 1, &[n]).repeat(4_000).into();
        // The reader has had its turn when input comes at a later time.
        let now = now + Duration::from_millis(n.into());
        session.handle_input(now, slab.clone()).unwrap();
        let later = now + Duration::from_micros(500);
        session.handle_input(later, Bytes::new()).unwrap();
        assert!(slab.is_unique(), "the slab is pinned");
    }
    let mut chunks = 0;
    while let ReadOutcome::Chunk(_) = session.read(now, id, usize::MAX) {
        chunks += 1;
    }
    println!("row 35: 260,000 bytes, one a frame, unread, are {chunks} chunks");
    assert!(chunks <= 17);
}

/// Row 35: data after the end, credit after the end, a reset that crosses ours.
#[test]
fn row_35_frames_after_the_end() {
    let now = Instant::now();
    let mut session = server(now);
    let input = |session: &mut Session, bytes: &[u8]| {
        session.handle_input(now, Bytes::copy_from_slice(bytes))
    };
    input(&mut session, &data(SYN | FIN, 1, b"all")).unwrap();
    let id = incoming(&mut session)[0];
    input(&mut session, &data(0, 1, b"more")).unwrap();
    input(&mut session, &header(WINDOW_UPDATE, 0, 1, 100)).unwrap();
    input(&mut session, &header(DATA, FIN, 1, 0)).unwrap();
    assert_eq!(
        read_all(&mut session, now, id),
        (b"all".to_vec(), ReadOutcome::Finished)
    );
    assert_eq!(session.buffered(), 0);
    // Our own end, then credit, then both at once.
    session.write(id, Bytes::from_static(b"answer")).unwrap();
    session.finish(id).unwrap();
    assert_eq!(sent(&mut session, now).len(), 2);
    input(
        &mut session,
        &header(WINDOW_UPDATE, 0, 1, u32::MAX - WINDOW - 100),
    )
    .unwrap();
    input(&mut session, &header(WINDOW_UPDATE, RST, 1, 5)).unwrap();
    assert_eq!(session.read(now, id, 1), ReadOutcome::Finished);
    session.release(id);
    input(&mut session, &header(WINDOW_UPDATE, RST, 1, 5)).unwrap();
    // A reset of ours and frames that were on their way.
    input(&mut session, &data(SYN, 3, b"x")).unwrap();
    let id = incoming(&mut session)[0];
    let half = data(0, 3, b"on its way");
    input(&mut session, &half[..15]).unwrap();
    session.reset(id, 9);
    session.release(id);
    assert_eq!(sent(&mut session, now).len(), 1);
    input(&mut session, &half[15..]).unwrap();
    input(&mut session, &data(FIN, 3, b"and the end")).unwrap();
    input(&mut session, &header(DATA, RST, 3, 0)).unwrap();
    assert_eq!(sent(&mut session, now), []);
    assert_eq!(
        (session.stream_counts().inbound, session.buffered()),
        (0, 0)
    );
}
