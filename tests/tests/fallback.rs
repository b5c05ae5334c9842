//! Many addresses of one peer: some blocked, some dead, some of a victim.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::{
    net::IpAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use barewire_node::{
    DialError, Endpoint, Keypair, Multiaddr, Role, Router,
    dial::{DialTarget, Skip},
    protocols::echo,
};
use barewire_tests::{
    netns, peers,
    process::{Process, text},
    wan::{FAR, Link, Wan},
    within,
};
use bytes::Bytes;
use tokio::{net::TcpListener, task::JoinSet};

const SOON: Duration = Duration::from_secs(10);

async fn endpoint() -> Endpoint {
    Endpoint::builder(Keypair::generate(&mut rand::rng()))
        .bind()
        .await
        .unwrap()
}

async fn in_far(wan: &Wan, args: &[&str]) {
    let status = wan.far(Path::new("ip")).args(args).status().await.unwrap();
    assert!(status.success(), "ip {args:?}");
}

/// Scenario 2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_blocked_is_gone_around() {
    if !netns::available() {
        barewire_tests::skip("needs root and iproute2 to lay a link");
        return;
    }
    let barewire = peers::barewire().expect("barewire builds");
    let link = Link {
        delay: Duration::from_millis(10),
        loss: 0.0,
        seed: 2,
    };
    let wan = Wan::new(link).expect("a link");
    let mut command = wan.far(&barewire);
    command.args(["listen", "--json"]);
    for listen in ["udp/0/quic-v1", "tcp/0", "tcp/0/ws"] {
        command.arg("--listen").arg(format!("/ip4/{FAR}/{listen}"));
    }
    let mut listener = Process::spawn(command).unwrap();
    let mut addrs = Vec::new();
    for _ in 0..3 {
        addrs.push(listener.listening(SOON).await.unwrap());
    }
    let tcp: Multiaddr = addrs[1].parse().unwrap();
    let tcp = tcp.to_tcp().unwrap().0.port().to_string();
    // The rule that delivers to this machine comes first by itself; it has to come after ours.
    in_far(&wan, &["rule", "add", "pref", "100", "lookup", "local"]).await;
    in_far(&wan, &["rule", "del", "pref", "0"]).await;
    let udp_blocked = ["rule", "add", "pref", "10", "ipproto", "udp", "blackhole"];
    let tcp_blocked = [
        "rule",
        "add",
        "pref",
        "11",
        "ipproto",
        "tcp",
        "dport",
        &tcp,
        "blackhole",
    ];
    let cases: [(&str, &[&str], &str, u64); 3] = [
        ("nothing blocked", &[], "quic-v1", 0),
        ("UDP blocked", &udp_blocked, "tcp", 1),
        ("UDP and TCP blocked", &tcp_blocked, "ws", 2),
    ];
    for (name, rule, expected, losers) in cases {
        if !rule.is_empty() {
            in_far(&wan, rule).await;
        }
        let mut command = wan.near(&barewire);
        command.arg("dial").args(&addrs).args(["--trace", "--json"]);
        let began = Instant::now();
        let mut dialler = Process::spawn(command).unwrap();
        let connected = dialler.expect("connected", SOON).await.unwrap();
        let took = began.elapsed();
        assert_eq!(text(&connected, "transport").unwrap(), expected, "{name}");
        within(name, took, Duration::from_secs(3));
        let stats = connected["stats"]["transports"].as_array().unwrap().clone();
        let stopped: u64 = stats
            .iter()
            .map(|of| of["cancelled"].as_u64().unwrap())
            .sum();
        println!(
            "scenario 2: {name}: connected over {expected} {took:.2?} after the start, {stopped} of {} attempts cancelled",
            stats
                .iter()
                .map(|of| of["attempts"].as_u64().unwrap())
                .sum::<u64>()
        );
        // Where the link is slow the next one has begun before the winner is ready.
        assert!(stopped >= losers, "{name}: {stats:?}");
        drop(dialler);
    }
    listener.kill().await.unwrap();
}

/// Accepts and says nothing; counts connections now and at most.
async fn silent() -> (u16, Arc<[AtomicUsize; 3]>, JoinSet<()>) {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let counts: Arc<[AtomicUsize; 3]> = Arc::default();
    let mut tasks = JoinSet::new();
    let all = Arc::clone(&counts);
    tasks.spawn(async move {
        let mut held = JoinSet::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            let counts = Arc::clone(&all);
            held.spawn(async move {
                counts[0].fetch_add(1, Ordering::SeqCst);
                let now = counts[1].fetch_add(1, Ordering::SeqCst) + 1;
                counts[2].fetch_max(now, Ordering::SeqCst);
                let mut sink = tokio::io::sink();
                let _ = tokio::io::copy(&mut socket, &mut sink).await;
                counts[1].fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (port, counts, tasks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_dead_addresses_are_a_bounded_effort() {
    let (port, counts, _tasks) = silent().await;
    let addrs: Vec<Multiaddr> = (0..1_000u32)
        .map(|n| {
            let ip = IpAddr::from((0x7f01_0001 + n).to_be_bytes());
            Multiaddr::tcp((ip, port).into())
        })
        .collect();
    let endpoint = endpoint().await;
    let began = Instant::now();
    let error = endpoint.connect(addrs).await.unwrap_err();
    let took = began.elapsed();
    let DialError::All(errors) = &error else {
        panic!("{error}");
    };
    let over = errors
        .iter()
        .filter(|error| {
            matches!(
                error,
                DialError::Skipped {
                    why: Skip::TooMany,
                    ..
                }
            )
        })
        .count();
    let [dialled, _, most] = counts.each_ref().map(|count| count.load(Ordering::SeqCst));
    println!(
        "scenario 2: 1,000 dead addresses: {dialled} dialled, at most {most} at once, {} causes, {over} of them over the limit, {took:.1?}\n{error}",
        errors.len()
    );
    assert_eq!((errors.len(), dialled, over), (1_000, 16, 984));
    assert!(most <= 8, "{most}");
    assert_eq!(endpoint.dial_stats().running, 0);
}

/// An address of this machine that is not loopback, which limits per host do not count. Where there is none a victim
/// that nobody reaches has to do.
fn victim() -> IpAddr {
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Sends nothing.
    let routed = probe.connect("203.0.113.77:9").is_ok();
    let local = probe.local_addr().unwrap().ip();
    if routed && !local.is_loopback() && !local.is_unspecified() {
        local
    } else {
        "203.0.113.77".parse().unwrap()
    }
}

/// Row 27.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_of_others_make_nobody_a_victim() {
    let victim = victim();
    let seen = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let mut ports = Vec::new();
    for _ in 0..40 {
        let Ok(listener) = TcpListener::bind((victim, 0)).await else {
            ports.push(9);
            continue;
        };
        ports.push(listener.local_addr().unwrap().port());
        let seen = Arc::clone(&seen);
        tasks.spawn(async move {
            while listener.accept().await.is_ok() {
                seen.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let endpoint = endpoint().await;
    let began = Instant::now();
    let mut dials = JoinSet::new();
    for chunk in ports.chunks(10) {
        let peer = Keypair::generate(&mut rand::rng()).peer_id();
        let mut addrs: Vec<_> = chunk
            .iter()
            .map(|port| Multiaddr::tcp((victim, *port).into()))
            .collect();
        // 10,000 addresses in the record of each peer.
        addrs
            .extend((0..9_990u32).map(|n| Multiaddr::tcp((victim, (n % 1_000) as u16 + 1).into())));
        let endpoint = endpoint.clone();
        dials.spawn(async move { endpoint.connect((peer, addrs)).await.map(drop) });
    }
    tokio::time::sleep(Duration::from_secs(9).saturating_sub(began.elapsed())).await;
    let (syns, attempts) = (seen.load(Ordering::SeqCst), endpoint.dial_stats());
    let attempts: u64 = attempts.transports.iter().map(|of| of.attempts).sum();
    println!(
        "row 27: 4 records of 10,000 addresses at {victim}: {syns} connections, {attempts} dials in 9 s"
    );
    assert!(attempts <= 8 && attempts > 0, "{attempts}");
    dials.shutdown().await;
    let error = endpoint
        .connect((
            endpoint.peer_id(),
            vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()],
        ))
        .await;
    assert!(matches!(error, Err(DialError::OwnAddress(_))), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_calls_share_one_dial() {
    let router = Router::builder(endpoint().await)
        .accept(echo::PROTOCOL, echo::Echo)
        .spawn()
        .unwrap();
    let server = router.endpoint();
    let mut addrs = Vec::new();
    for listen in [
        "/ip4/127.0.0.1/tcp/0",
        "/ip4/127.0.0.1/udp/0/quic-v1",
        "/ip4/127.0.0.1/tcp/0/ws",
    ] {
        addrs.push(server.listen(listen.parse().unwrap()).await.unwrap());
    }
    let client = endpoint().await;
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let (client, target) = (
            client.clone(),
            DialTarget::from((server.peer_id(), addrs.clone())),
        );
        calls.spawn(async move { client.connect(target).await.unwrap() });
    }
    let connections = calls.join_all().await;
    assert_eq!(client.connections().len(), 1);
    for connection in &connections {
        echo::round_trip(connection, echo::PROTOCOL, Bytes::from_static(b"shared"))
            .await
            .unwrap();
    }
    let stats = client.dial_stats();
    let succeeded: u64 = stats.transports.iter().map(|of| of.succeeded).sum();
    println!(
        "100 concurrent calls: {succeeded} dial, {:?}",
        connections[0].info().transport
    );
    assert_eq!(succeeded, 1);
}

/// Both dial each other over everything at once, again and again: one connection is left and no stream
/// is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simultaneous_dials_over_several_transports_leave_one_connection() {
    const ROUNDS: usize = 15;
    let mut overlapped = 0;
    for _ in 0..ROUNDS {
        let mut nodes = Vec::new();
        for _ in 0..2 {
            let router = Router::builder(endpoint().await)
                .accept(echo::PROTOCOL, echo::Echo)
                .spawn()
                .unwrap();
            let mut addrs = Vec::new();
            for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
                addrs.push(
                    router
                        .endpoint()
                        .listen(listen.parse().unwrap())
                        .await
                        .unwrap(),
                );
            }
            nodes.push((router, addrs));
        }
        let [(one, one_addrs), (two, two_addrs)] = &nodes[..] else {
            unreachable!();
        };
        let (one, two) = (one.endpoint(), two.endpoint());
        let (to_two, to_one) = tokio::join!(
            one.connect(two_addrs.clone()),
            two.connect(one_addrs.clone())
        );
        let dialled = [to_two.unwrap(), to_one.unwrap()];
        let both = dialled.iter().all(|dialled| dialled.role() == Role::Client);
        overlapped += usize::from(both);
        for connection in dialled {
            echo::round_trip(&connection, echo::PROTOCOL, Bytes::from_static(b"kept"))
                .await
                .unwrap();
        }
        let began = Instant::now();
        while (one.connections().len(), two.connections().len()) != (1, 1) {
            assert!(began.elapsed() < SOON, "{:?}", one.connections());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    println!(
        "{ROUNDS} of {ROUNDS} simultaneous dials over TCP and QUIC left one connection, no stream lost; {overlapped} \
         overlapped"
    );
    assert!(overlapped > 0);
}
