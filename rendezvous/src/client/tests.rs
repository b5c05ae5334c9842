#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
use barewire_base::Keypair;
use rand::{SeedableRng as _, rngs::StdRng};

use super::*;

const POINT: PointId = PointId(0);

fn keypair(seed: u64) -> Keypair {
    Keypair::generate(&mut StdRng::seed_from_u64(seed))
}

fn record(keypair: &Keypair, seq: u64) -> Bytes {
    let record = PeerRecord {
        peer_id: keypair.peer_id(),
        seq,
        addrs: vec!["/ip4/192.0.2.1/tcp/1".parse().unwrap()],
    };
    record.sign(keypair).unwrap().into()
}

fn client(change: impl FnOnce(&mut ClientConfig)) -> (Client, Instant) {
    let mut config = ClientConfig {
        namespaces: vec!["room".into()],
        ..ClientConfig::default()
    };
    change(&mut config);
    let now = Instant::now();
    let mut client = Client::new(config, keypair(1).peer_id(), 1, 3).unwrap();
    let records = [
        Bytes::from_static(b"standard"),
        Bytes::from_static(b"legacy"),
    ];
    client.set_records(now, Some(records));
    (client, now)
}

fn sent(client: &mut Client, now: Instant) -> Request {
    match client.poll_output(now) {
        Some(Output::Send(Outgoing { request, .. })) => request,
        other => panic!("{other:?} instead of a request"),
    }
}

fn registered(ttl: u64) -> Answer {
    refused(Status::Ok, ttl)
}

fn refused(status: Status, ttl: u64) -> Answer {
    let text = String::new();
    Answer::Register { status, text, ttl }
}

fn found(records: &[Bytes], cookie: &'static [u8]) -> Answer {
    let one = |record: &Bytes| Registration {
        ns: Bytes::from_static(b"room"),
        record: record.clone(),
        ttl: 7200,
    };
    Answer::Discover {
        status: Status::Ok,
        text: String::new(),
        registrations: records.iter().map(one).collect(),
        cookie: Bytes::from_static(cookie),
    }
}

fn told(client: &mut Client, now: Instant) -> Vec<PeerId> {
    let mut peers = Vec::new();
    while let Some(Output::Discovered(found)) = client.told.pop_front() {
        peers.push(found.peer);
    }
    assert!(client.poll_timeout().is_none_or(|at| at >= now));
    peers
}

#[test]
fn registers_first_asks_then_and_renews_in_time() {
    let (mut client, now) = client(|_| {});
    assert_eq!(client.poll_output(now), None);
    client.connected(now, POINT, false);
    let Request::Register { record, ttl, .. } = sent(&mut client, now) else {
        panic!("registers first")
    };
    assert_eq!((&record[..], ttl), (&b"standard"[..], 7_200));
    // One request at a time.
    assert_eq!(client.poll_output(now), None);
    client.answered(now, POINT, registered(1_000));
    assert!(matches!(
        client.poll_output(now),
        Some(Output::Registered { .. })
    ));
    assert!(matches!(sent(&mut client, now), Request::Discover { .. }));
    client.answered(now, POINT, found(&[], b"cookie"));
    assert_eq!(client.poll_output(now), None);
    let poll = client.poll_timeout().unwrap() - now;
    assert!((96..=144).contains(&poll.as_secs()), "{poll:?}");
    // The polls go on, and the registration is renewed before it expires.
    let mut renewed = None;
    let mut at = now;
    while renewed.is_none() {
        at = client.poll_timeout().unwrap();
        match sent(&mut client, at) {
            Request::Register { .. } => renewed = Some(at - now),
            _ => client.answered(at, POINT, found(&[], b"cookie")),
        }
    }
    let renewed = renewed.unwrap().as_secs();
    assert!((675..=825).contains(&renewed), "{renewed} s of 1,000");
    client.failed(at, POINT, Failed::Other);
    client.disconnected(POINT);
    assert_eq!(
        (client.poll_timeout(), client.poll_output(at)),
        (None, None)
    );
    client.connected(at, POINT, false);
    assert!(matches!(sent(&mut client, at), Request::Register { .. }));
}

#[test]
fn a_point_that_reads_only_the_other_form_gets_it() {
    for refusal in [None, Some(refused(Status::InvalidSignedPeerRecord, 0))] {
        let (mut client, now) = client(|_| {});
        client.connected(now, POINT, false);
        sent(&mut client, now);
        match refusal {
            None => client.failed(now, POINT, Failed::Ended),
            Some(answer) => client.answered(now, POINT, answer),
        }
        let Request::Register { record, .. } = sent(&mut client, now) else {
            panic!("registers again")
        };
        assert_eq!(&record[..], b"legacy");
        // Both were tried: not again at once.
        client.failed(now, POINT, Failed::Ended);
        assert!(matches!(
            client.poll_output(now),
            Some(Output::Send(Outgoing {
                request: Request::Discover { .. },
                ..
            }))
        ));
    }
}

#[test]
fn a_point_that_gives_another_time_is_asked_for_the_common_one() {
    let (mut client, now) = client(|config| config.ttl = Duration::from_secs(60));
    client.connected(now, POINT, false);
    assert!(matches!(
        sent(&mut client, now),
        Request::Register { ttl: 60, .. }
    ));
    client.answered(now, POINT, refused(Status::InvalidTtl, 0));
    assert!(matches!(
        sent(&mut client, now),
        Request::Register { ttl: 7_200, .. }
    ));
    client.answered(now, POINT, refused(Status::InvalidTtl, 0));
    assert!(matches!(
        client.poll_output(now),
        Some(Output::Refused { .. })
    ));
}

#[test]
fn pages_are_taken_at_once_and_peers_told_once() {
    let (mut client, now) = client(|config| config.limit = 2);
    client.connected(now, POINT, false);
    sent(&mut client, now);
    client.answered(now, POINT, registered(7_200));
    client.poll_output(now);
    sent(&mut client, now);
    let others: Vec<_> = (1..5).map(keypair).collect();
    let records: Vec<_> = others.iter().map(|peer| record(peer, 1)).collect();
    // The first is this node itself, and what nobody signed is dropped.
    client.answered(now, POINT, found(&records[..2], b"one"));
    assert_eq!(told(&mut client, now), [others[1].peer_id()]);
    let Request::Discover { cookie, .. } = sent(&mut client, now) else {
        panic!("asks for the next page")
    };
    assert_eq!(&cookie[..], b"one");
    let junk = Bytes::from_static(b"junk");
    client.answered(now, POINT, found(&[records[2].clone(), junk], b"two"));
    assert_eq!(told(&mut client, now), [others[2].peer_id()]);
    sent(&mut client, now);
    // A point that repeats itself tells nothing new, and is not asked in a loop.
    client.answered(now, POINT, found(&records[1..3], b"two"));
    assert_eq!(told(&mut client, now), []);
    assert_eq!(client.poll_output(now), None);
    // A newer record is new.
    let at = client.poll_timeout().unwrap();
    sent(&mut client, at);
    client.answered(at, POINT, found(&[record(&others[1], 2)], b"two"));
    assert_eq!(told(&mut client, at), [others[1].peer_id()]);
}

#[test]
fn a_cookie_that_is_refused_is_forgotten() {
    let (mut client, now) = client(|config| config.register = false);
    client.connected(now, POINT, false);
    sent(&mut client, now);
    client.answered(now, POINT, found(&[], b"cookie"));
    let at = client.poll_timeout().unwrap();
    for (expected, status) in [(6, Status::InvalidCookie), (0, Status::InvalidCookie)] {
        let Request::Discover { cookie, .. } = sent(&mut client, at) else {
            panic!("asks")
        };
        assert_eq!(cookie.len(), expected);
        let Answer::Discover {
            registrations,
            text,
            cookie,
            ..
        } = found(&[], b"")
        else {
            panic!("an answer to DISCOVER")
        };
        client.answered(
            at,
            POINT,
            Answer::Discover {
                status,
                text,
                registrations,
                cookie,
            },
        );
    }
    assert!(matches!(
        client.poll_output(at),
        Some(Output::Refused { .. })
    ));
    assert!(client.poll_timeout().unwrap() > at);
}

#[test]
fn pauses_grow_while_a_point_fails() {
    let (mut client, mut now) = client(|config| config.discover = false);
    client.connected(now, POINT, false);
    let mut pauses = Vec::new();
    for _ in 0..10 {
        sent(&mut client, now);
        client.failed(now, POINT, Failed::Other);
        let next = client.poll_timeout().unwrap();
        pauses.push((next - now).as_secs_f64());
        now = next;
    }
    assert!((0.8..=1.2).contains(&pauses[0]), "{pauses:?}");
    assert!((96.0..=144.0).contains(&pauses[9]), "{pauses:?}");
}

#[test]
fn a_point_that_takes_both_forms_gets_both_again_and_again() {
    let (mut client, now) = client(|config| config.discover = false);
    client.connected(now, POINT, true);
    for at in [now, now + Duration::from_secs(6_000)] {
        for form in [&b"standard"[..], b"legacy"] {
            let Request::Register { record, .. } = sent(&mut client, at) else {
                panic!("registers")
            };
            assert_eq!(&record[..], form);
            client.answered(at, POINT, registered(7_200));
        }
        assert!(matches!(
            client.poll_output(at),
            Some(Output::Registered { .. })
        ));
        assert_eq!(client.poll_output(at), None);
    }
}
