#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
use barewire_base::{Keypair, Multiaddr};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;

fn keypair(seed: u64) -> Keypair {
    Keypair::generate(&mut StdRng::seed_from_u64(seed))
}

fn record_at(keypair: &Keypair, seq: u64, addr: &str) -> PeerRecord {
    PeerRecord {
        peer_id: keypair.peer_id(),
        seq,
        addrs: vec![addr.parse::<Multiaddr>().unwrap()],
    }
}

fn signed(keypair: &Keypair, seq: u64) -> Bytes {
    let record = record_at(keypair, seq, "/ip4/192.0.2.1/tcp/4001");
    record.sign(keypair).unwrap().into()
}

fn register(ns: &str, record: &Bytes, ttl: u64) -> Request {
    Request::Register {
        ns: Bytes::copy_from_slice(ns.as_bytes()),
        record: record.clone(),
        ttl,
    }
}

fn discover(ns: &str, limit: u64, cookie: &Bytes) -> Request {
    Request::Discover {
        ns: Bytes::copy_from_slice(ns.as_bytes()),
        limit,
        cookie: cookie.clone(),
    }
}

struct Bench {
    registry: Registry,
    now: Instant,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        let now = Instant::now();
        Self {
            registry: Registry::new(limits, [7; 32], now),
            now,
        }
    }

    fn ask(&mut self, keypair: &Keypair, request: &Request) -> Answer {
        self.ask_from(keypair, None, request)
    }

    fn ask_from(&mut self, keypair: &Keypair, ip: Option<IpAddr>, request: &Request) -> Answer {
        let peer = keypair.peer_id();
        self.registry
            .handle(self.now, &peer, ip, None, request)
            .unwrap()
    }

    fn status(&mut self, keypair: &Keypair, request: &Request) -> (Status, u64) {
        match self.ask(keypair, request) {
            Answer::Register { status, ttl, .. } => (status, ttl),
            Answer::Discover {
                status,
                registrations,
                ..
            } => (status, registrations.len() as u64),
        }
    }

    fn found(&mut self, request: &Request) -> (Vec<PeerId>, Bytes) {
        let Answer::Discover {
            status,
            registrations,
            cookie,
            ..
        } = self.ask(&keypair(0), request)
        else {
            panic!("not an answer to DISCOVER")
        };
        assert_eq!(status, Status::Ok);
        let peer = |one: &Registration| PeerRecord::from_envelope(&one.record).unwrap().peer_id;
        (registrations.iter().map(peer).collect(), cookie)
    }

    /// Lets time pass, with the timers going off when they are due.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.registry.poll_timeout().filter(|at| *at <= end) {
            self.registry.handle_timeout(at);
        }
        self.now = end;
    }
}

#[test]
fn each_refusal_has_its_status() {
    let (us, other) = (keypair(1), keypair(2));
    let good = signed(&us, 1);
    let long = "n".repeat(256);
    let mut flipped = good.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let empty = PeerRecord {
        peer_id: us.peer_id(),
        seq: 1,
        addrs: Vec::new(),
    };
    let empty = Bytes::from(empty.sign(&us).unwrap());
    let name = "a".repeat(60);
    let wide = PeerRecord {
        addrs: (0..40)
            .map(|n| format!("/dns4/{name}{n}.example/tcp/1").parse().unwrap())
            .collect(),
        ..record_at(&us, 1, "/ip4/192.0.2.1/tcp/1")
    };
    let wide = Bytes::from(wide.sign(&us).unwrap());
    let legacy = Bytes::from(
        record_at(&us, 1, "/ip4/192.0.2.1/tcp/1")
            .sign_legacy(&us)
            .unwrap(),
    );
    let raw = |ns: &[u8]| Request::Register {
        ns: Bytes::copy_from_slice(ns),
        record: good.clone(),
        ttl: 0,
    };
    let none = Bytes::new();
    let h = 3600;
    let table = [
        (register("a", &good, 0), Status::Ok, 2 * h),
        (register("a", &legacy, 0), Status::Ok, 2 * h),
        (register(&long[..255], &good, 0), Status::Ok, 2 * h),
        (register(&long, &good, 0), Status::InvalidNamespace, 0),
        (register("", &good, 0), Status::InvalidNamespace, 0),
        (raw(&[b'n'; 65_536]), Status::InvalidNamespace, 0),
        (raw(b"\xff\xfe"), Status::InvalidNamespace, 0),
        (register("a", &good, 1), Status::InvalidTtl, 0),
        (register("a", &good, 2 * h - 1), Status::InvalidTtl, 0),
        (register("a", &good, 2 * h), Status::Ok, 2 * h),
        (register("a", &good, 72 * h), Status::Ok, 72 * h),
        (register("a", &good, 72 * h + 1), Status::InvalidTtl, 0),
        (register("a", &good, u64::MAX), Status::InvalidTtl, 0),
        (register("a", &none, 0), Status::InvalidSignedPeerRecord, 0),
        (
            register("a", &Bytes::from_static(b"junk"), 0),
            Status::InvalidSignedPeerRecord,
            0,
        ),
        (
            register("a", &flipped.into(), 0),
            Status::InvalidSignedPeerRecord,
            0,
        ),
        (register("a", &empty, 0), Status::InvalidSignedPeerRecord, 0),
        (register("a", &wide, 0), Status::InvalidSignedPeerRecord, 0),
        (
            register("a", &vec![0; 5_000].into(), 0),
            Status::InvalidSignedPeerRecord,
            0,
        ),
        (
            register("a", &signed(&other, 1), 0),
            Status::NotAuthorized,
            0,
        ),
        (discover("a", 0, &none), Status::Ok, 1),
        (discover("", u64::MAX, &none), Status::Ok, 2),
        (discover("nobody", 1, &none), Status::Ok, 0),
        (discover(&long, 1, &none), Status::InvalidNamespace, 0),
        (
            discover("a", 1, &Bytes::from_static(b"x")),
            Status::InvalidCookie,
            0,
        ),
        (
            discover("a", 1, &Bytes::from_static(b"12345678a")),
            Status::InvalidCookie,
            0,
        ),
        (
            discover("a", 1, &vec![0xff; 65_536].into()),
            Status::InvalidCookie,
            0,
        ),
    ];
    let mut bench = Bench::new(Limits::default());
    for (index, (request, status, number)) in table.iter().enumerate() {
        assert_eq!(
            bench.status(&us, request),
            (*status, *number),
            "row {index}"
        );
    }
}

#[test]
fn cookies_lead_on_and_only_where_they_are_from() {
    let mut bench = Bench::new(Limits::default());
    let peers: Vec<_> = (1..=5).map(keypair).collect();
    for peer in &peers[..3] {
        let request = register("a", &signed(peer, 1), 0);
        bench.ask(peer, &request);
    }
    let ids: Vec<_> = peers.iter().map(Keypair::peer_id).collect();
    let (first, cookie) = bench.found(&discover("a", 2, &Bytes::new()));
    assert_eq!(first, ids[..2]);
    let (second, cookie) = bench.found(&discover("a", 2, &cookie));
    assert_eq!(second, ids[2..3]);
    let (none, cookie) = bench.found(&discover("a", 2, &cookie));
    assert!(none.is_empty());
    // What comes later, and what is refreshed, is new.
    for peer in [&peers[3], &peers[0]] {
        let request = register("a", &signed(peer, 2), 0);
        bench.ask(peer, &request);
    }
    let (later, last) = bench.found(&discover("a", 0, &cookie));
    assert_eq!(later, [ids[3], ids[0]]);
    // In the form rust-libp2p reads.
    assert_eq!(&last[8..], b"a");
    let mut forged = last.to_vec();
    forged[4] ^= 1;
    for (ns, cookie) in [
        ("b", last.clone()),
        ("", last.clone()),
        ("a", forged.into()),
    ] {
        assert_eq!(
            bench.status(&peers[0], &discover(ns, 0, &cookie)).0,
            Status::InvalidCookie
        );
    }
    let mut elsewhere = Registry::new(Limits::default(), [8; 32], bench.now);
    let request = discover("a", 0, &last);
    let answer = elsewhere.handle(bench.now, &ids[0], None, None, &request);
    assert!(matches!(
        answer,
        Some(Answer::Discover {
            status: Status::InvalidCookie,
            ..
        })
    ));
}

#[test]
fn time_ends_a_registration_within_a_second_and_a_refresh_carries_it_on() {
    let mut bench = Bench::new(Limits::default());
    let (a, b) = (keypair(1), keypair(2));
    let (of_a, of_b) = (signed(&a, 1), signed(&b, 1));
    bench.ask(&a, &register("ns", &of_a, 7_200));
    bench.ask(&b, &register("ns", &of_b, 7_200));
    bench.pass(Duration::from_secs(7_000));
    bench.ask(&a, &register("ns", &of_a, 7_200));
    assert_eq!(bench.registry.timers(), 2);
    bench.pass(Duration::from_secs(199));
    assert_eq!(bench.registry.len(), 2);
    bench.pass(Duration::from_secs(1));
    assert_eq!(
        bench.found(&discover("ns", 0, &Bytes::new())).0,
        [a.peer_id()]
    );
    assert_eq!(bench.registry.len(), 1);
    bench.pass(Duration::from_secs(7_000));
    assert!(bench.registry.is_empty());
    assert_eq!(
        (bench.registry.namespaces(), bench.registry.timers()),
        (0, 0)
    );
    // A shorter time replaces a longer one.
    bench.ask(&a, &register("ns", &of_a, 70_000));
    bench.ask(&a, &register("ns", &of_a, 7_200));
    bench.pass(Duration::from_secs(7_200));
    assert!(bench.registry.is_empty());
}

#[test]
fn quotas_hold_by_peer_address_and_in_all_and_refreshes_pass() {
    let mut limits = Limits::default();
    (
        limits.max_per_peer,
        limits.max_per_address,
        limits.max_total,
    ) = (2, 3, 5);
    let mut bench = Bench::new(limits);
    let ip: IpAddr = "192.0.2.7".parse().unwrap();
    let full = |answer: Answer| {
        matches!(
            answer,
            Answer::Register {
                status: Status::Unavailable,
                ..
            }
        )
    };
    let peers: Vec<_> = (1..9).map(keypair).collect();
    let records: Vec<_> = peers.iter().map(|peer| signed(peer, 1)).collect();
    for (who, ns, refused) in [
        (0, "a", false),
        (0, "b", false),
        (0, "c", true),
        (1, "a", false),
        (1, "b", true),
        (2, "a", true),
        (0, "a", false),
    ] {
        let answer = bench.ask_from(&peers[who], Some(ip), &register(ns, &records[who], 0));
        assert_eq!(full(answer), refused, "{who} {ns}");
    }
    // Loopback has no quota of its own.
    let here: IpAddr = "127.0.0.1".parse().unwrap();
    for (who, refused) in [(3, false), (4, false), (5, true), (3, false)] {
        let answer = bench.ask_from(&peers[who], Some(here), &register("a", &records[who], 0));
        assert_eq!(full(answer), refused, "{who}");
    }
    assert_eq!(bench.registry.len(), 5);
    let unregister = Request::Unregister { ns: Bytes::new() };
    assert_eq!(
        bench
            .registry
            .handle(bench.now, &peers[0].peer_id(), None, None, &unregister),
        None
    );
    assert_eq!(bench.registry.len(), 3);
    let answer = bench.ask_from(&peers[2], Some(ip), &register("a", &records[2], 0));
    assert!(!full(answer));
}

#[test]
fn the_rate_of_an_address_is_bounded() {
    let mut limits = Limits::default();
    (limits.registers_per_second, limits.register_burst) = (1, 3);
    let mut bench = Bench::new(limits);
    let (us, ip) = (keypair(1), "2001:db8::1".parse().unwrap());
    let record = signed(&us, 1);
    let passed = |bench: &mut Bench, times: usize| {
        let request = register("a", &record, 0);
        (0..times)
            .filter(|_| {
                let answer = bench.ask_from(&us, Some(ip), &request);
                matches!(
                    answer,
                    Answer::Register {
                        status: Status::Ok,
                        ..
                    }
                )
            })
            .count()
    };
    assert_eq!(passed(&mut bench, 10), 3);
    bench.pass(Duration::from_secs(2));
    assert_eq!(passed(&mut bench, 10), 2);
}

#[test]
fn an_answer_fits_a_message() {
    let mut limits = Limits::unlimited();
    limits.max_answer = 10_000;
    let mut bench = Bench::new(limits);
    for seed in 1..200 {
        let peer = keypair(seed);
        bench.ask(&peer, &register("a", &signed(&peer, 1), 0));
    }
    let (mut cookie, mut all) = (Bytes::new(), 0);
    loop {
        let answer = bench.ask(&keypair(0), &discover("a", 0, &cookie));
        assert!(answer.encode().len() <= 10_000);
        let Answer::Discover {
            registrations,
            cookie: next,
            ..
        } = answer
        else {
            panic!("not an answer to DISCOVER")
        };
        if registrations.is_empty() {
            break;
        }
        all += registrations.len();
        cookie = next;
    }
    assert_eq!(all, 199);
}

#[test]
fn what_is_stored_comes_back() {
    let mut bench = Bench::new(Limits::default());
    let peers: Vec<_> = (1..=3).map(keypair).collect();
    for peer in &peers {
        bench.ask(peer, &register("a", &signed(peer, 1), 0));
    }
    let unregister = Request::Unregister {
        ns: Bytes::from_static(b"a"),
    };
    bench
        .registry
        .handle(bench.now, &peers[1].peer_id(), None, None, &unregister);
    let mut stored = Vec::new();
    for change in bench.registry.take_changes() {
        match change {
            Change::Put(one) => stored.push(one),
            Change::Remove { peer, .. } => stored.retain(|one| one.peer != peer),
        }
    }
    let mut again = Bench::new(Limits::default());
    again.registry.load(again.now, stored);
    let (found, _) = again.found(&discover("a", 0, &Bytes::new()));
    assert_eq!(found, [peers[0].peer_id(), peers[2].peer_id()]);
    assert!(again.registry.take_changes().is_empty());
}

/// Against a list: the same peers in the same order, whatever happens.
#[test]
fn agrees_with_a_plain_list() {
    let peers: Vec<_> = (1..=8).map(keypair).collect();
    let records: Vec<_> = peers.iter().map(|peer| signed(peer, 1)).collect();
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bench = Bench::new(Limits::unlimited());
        let mut list: Vec<(usize, &str, Instant)> = Vec::new();
        for _ in 0..400 {
            let who = random.random_range(0..peers.len());
            let ns = ["a", "b", "c"][random.random_range(0..3)];
            match random.random_range(0..10) {
                0..6 => {
                    let ttl = random.random_range(1..50);
                    bench.ask(&peers[who], &register(ns, &records[who], ttl));
                    list.retain(|one| (one.0, one.1) != (who, ns));
                    list.push((who, ns, bench.now + Duration::from_secs(ttl)));
                }
                6 => {
                    let ns_bytes = Bytes::from_static(ns.as_bytes());
                    let request = Request::Unregister { ns: ns_bytes };
                    let peer = peers[who].peer_id();
                    bench
                        .registry
                        .handle(bench.now, &peer, None, None, &request);
                    list.retain(|one| (one.0, one.1) != (who, ns));
                }
                7 => bench.pass(Duration::from_secs(random.random_range(0..20))),
                _ => {
                    let all = random.random_range(0..2) == 0;
                    let asked = if all { "" } else { ns };
                    let limit = random.random_range(1..6);
                    let mut cookie = Bytes::new();
                    let mut found = Vec::new();
                    loop {
                        let (page, next) = bench.found(&discover(asked, limit, &cookie));
                        if page.is_empty() {
                            break;
                        }
                        found.extend(page);
                        cookie = next;
                    }
                    let now = bench.now;
                    let expected = list
                        .iter()
                        .filter(|one| (all || one.1 == ns) && one.2 > now);
                    let expected: Vec<_> = expected.map(|one| peers[one.0].peer_id()).collect();
                    assert_eq!(found, expected, "seed {seed}");
                }
            }
            let now = bench.now;
            list.retain(|one| one.2 > now);
            assert_eq!(bench.registry.len(), list.len());
            assert!(bench.registry.timers() <= list.len());
            assert_eq!(bench.registry.all.len(), list.len());
        }
    }
}

#[test]
fn everybody_is_told_of_what_it_can_read() {
    let mut bench = Bench::new(Limits::default());
    let (go, rust, ours) = (keypair(1), keypair(2), keypair(3));
    let legacy = |keypair: &Keypair, seq| {
        let record = record_at(keypair, seq, "/ip4/192.0.2.1/tcp/4001");
        Bytes::from(record.sign_legacy(keypair).unwrap())
    };
    bench.ask(&go, &register("a", &signed(&go, 1), 0));
    bench.ask(&rust, &register("a", &legacy(&rust, 1), 0));
    bench.ask(&ours, &register("a", &signed(&ours, 1), 0));
    bench.ask(&ours, &register("a", &legacy(&ours, 1), 0));
    let found = |bench: &mut Bench, who: &Keypair, reads| {
        let request = discover("a", 0, &Bytes::new());
        let answer = bench
            .registry
            .handle(bench.now, &who.peer_id(), None, reads, &request);
        let Some(Answer::Discover { registrations, .. }) = answer else {
            panic!("not an answer to DISCOVER")
        };
        let forms: Vec<_> = registrations
            .iter()
            .map(|one| Form::of(&one.record))
            .collect();
        let peers: Vec<_> = registrations
            .iter()
            .map(|one| PeerRecord::from_envelope(&one.record).unwrap().peer_id)
            .collect();
        (peers, forms)
    };
    let (standard, legacy_form) = (Some(Form::Standard), Some(Form::Legacy));
    let [g, r, o] = [&go, &rust, &ours].map(Keypair::peer_id);
    assert_eq!(
        found(&mut bench, &go, standard),
        (vec![g, o], vec![Form::Standard; 2])
    );
    // Its own registration says what it reads.
    for reads in [standard, legacy_form] {
        assert_eq!(
            found(&mut bench, &rust, reads),
            (vec![r, o], vec![Form::Legacy; 2])
        );
    }
    assert_eq!(found(&mut bench, &ours, None).0, [g, r, o]);
    // A newer record in one form takes the place of both.
    bench.ask(&ours, &register("a", &signed(&ours, 2), 0));
    assert_eq!(found(&mut bench, &rust, legacy_form).0, [r]);
}
