//! Among ourselves: times, restarts, what a node costs, and what a point refuses.

use std::time::Instant;

use barewire_base::{Keypair, Multiaddr, peer_record::PeerRecord};
use barewire_node::{
    Connection, Endpoint, Router,
    discovery::{Discovery, DiscoveryConfig},
    protocols::rendezvous::{
        Answer, AskError, Client, ClientConfig, ClientEvent, Limits, MemoryStore, Point, Request,
        Status, ask,
    },
};
use barewire_tests::within;
use bytes::Bytes;
use tokio::{sync::broadcast::Receiver, time::timeout};

use super::*;

async fn endpoint() -> Endpoint {
    let keypair = Keypair::generate(&mut rand::rng());
    Endpoint::builder(keypair).bind().await.unwrap()
}

/// A node that serves a point, and its address.
async fn point(limits: Limits) -> (Router, Point, Multiaddr) {
    let endpoint = endpoint().await;
    let store = std::sync::Arc::new(MemoryStore);
    let point = Point::spawn(&endpoint, limits, store).await.unwrap();
    let router = point.register(Router::builder(endpoint)).spawn().unwrap();
    let addr = router
        .endpoint()
        .listen(TCP.parse().unwrap())
        .await
        .unwrap();
    let addr = addr.with_peer(router.endpoint().peer_id()).unwrap();
    (router, point, addr)
}

fn config() -> ClientConfig {
    let mut config = ClientConfig::default();
    config.namespaces = vec![NS.into()];
    config
}

async fn registered(events: &mut Receiver<ClientEvent>) {
    let waiting =
        async { while !matches!(events.recv().await.unwrap(), ClientEvent::Registered { .. }) {} };
    timeout(SOON, waiting).await.unwrap();
}

#[tokio::test]
async fn two_nodes_that_know_a_point_are_connected_at_once() {
    let (_router, _point, addr) = point(Limits::default()).await;
    let nodes = [endpoint().await, endpoint().await];
    let begun = Instant::now();
    let mut running = Vec::new();
    for node in &nodes {
        node.listen(TCP.parse().unwrap()).await.unwrap();
        let discovery = Discovery::spawn(node, DiscoveryConfig::default());
        let points = vec![addr.clone()];
        running.push(Client::spawn(node, points, config(), Some(discovery)).unwrap());
    }
    let connected = async {
        while nodes[0].connection(&nodes[1].peer_id()).is_none() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(SOON, connected).await.unwrap();
    println!("from cold start to connected: {:?}", begun.elapsed());
    within(
        "cold start to connected",
        begun.elapsed(),
        Duration::from_secs(1),
    );
}

#[tokio::test]
async fn a_registration_is_renewed_in_time_and_gone_with_its_node() {
    let serve = [
        "listen",
        "--json",
        "--listen",
        TCP,
        "--rendezvous-server",
        "--rendezvous-min-ttl",
        "1",
    ];
    let (_point, addr) = Process::listen(&barewire(), serve, SOON).await.unwrap();
    let args = [
        "listen",
        "--json",
        "--listen",
        TCP,
        "--rendezvous",
        &addr,
        "--ns",
        NS,
        "--rendezvous-ttl",
        "2",
    ];
    let mut node = Process::start(&barewire(), args).unwrap();
    let mut last = None;
    for _ in 0..3 {
        let renewed = node.expect("registered", SOON).await.unwrap();
        assert_eq!(number(&renewed, "ttl").unwrap() as u64, 2);
        let now = Instant::now();
        if let Some(last) = last.replace(now) {
            // Before its time is over; the clock of this test stands beside the node's.
            within("time to the renewal", now - last, Duration::from_secs(2));
        }
        assert_eq!(
            discover(&barewire(), &addr, &[]).await.unwrap().peers.len(),
            1
        );
    }
    node.kill().await.unwrap();
    let gone = async {
        while !discover(&barewire(), &addr, &[])
            .await
            .unwrap()
            .peers
            .is_empty()
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(SOON, gone).await.unwrap();
}

#[tokio::test]
async fn a_killed_point_comes_back_with_what_it_had_and_everybody_registers_again() {
    const CLIENTS: usize = 50;
    let folder = Folder::new("killed");
    let (_, key) = folder.key("point").await;
    let (lonely, lonely_key) = folder.key("lonely").await;
    let store = folder.0.join("registrations.redb").display().to_string();
    let serve = |listen| {
        [
            "listen",
            "--json",
            "--key",
            &key,
            "--listen",
            listen,
            "--rendezvous-server",
            "--rendezvous-store",
            &store,
        ]
        .map(str::to_owned)
    };
    let (mut point, addr) = Process::listen(&barewire(), serve(TCP), SOON)
        .await
        .unwrap();
    // One that does not come back to register.
    let args = [
        "rendezvous",
        "register",
        &addr,
        "--json",
        "--ns",
        NS,
        "--key",
        &lonely_key,
        "--address",
        "/ip4/127.0.0.1/tcp/4001",
    ];
    run(&barewire(), args, "registered", SOON).await.unwrap();
    let parsed: Multiaddr = addr.parse().unwrap();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let node = endpoint().await;
        node.listen(TCP.parse().unwrap()).await.unwrap();
        let mut config = config();
        config.discover = false;
        let client = Client::spawn(&node, vec![parsed.clone()], config, None).unwrap();
        // Before it can have registered: nothing has run in between.
        let events = client.events();
        clients.push((node, client, events));
    }
    for (_, _, events) in &mut clients {
        registered(events).await;
    }
    point.kill().await.unwrap();
    let begun = Instant::now();
    let listen = parsed.without_peer().to_string();
    let (_point, addr) = Process::listen(&barewire(), serve(&listen), SOON)
        .await
        .unwrap();
    println!("the point is back after {:?}", begun.elapsed());
    let found = discover(&barewire(), &addr, &[]).await.unwrap();
    assert!(found.peers.contains(&lonely), "what was confirmed is kept");
    for (_, _, events) in &mut clients {
        registered(events).await;
    }
    println!(
        "{CLIENTS} clients registered again after {:?}",
        begun.elapsed()
    );
    within(
        "everybody registered again",
        begun.elapsed(),
        Duration::from_secs(5),
    );
    let found = discover(&barewire(), &addr, &[]).await.unwrap();
    assert_eq!(found.peers.len(), CLIENTS + 1);
}

/// What a status says, over a connection.
async fn status(connection: &Connection, request: Request) -> Status {
    match ask(connection, &request).await.unwrap() {
        Some(Answer::Register { status, .. } | Answer::Discover { status, .. }) => status,
        other => panic!("{other:?}"),
    }
}

fn record(keypair: &Keypair) -> Bytes {
    let record = PeerRecord {
        peer_id: keypair.peer_id(),
        seq: 1,
        addrs: vec!["/ip4/192.0.2.1/tcp/1".parse().unwrap()],
    };
    record.sign(keypair).unwrap().into()
}

#[tokio::test]
async fn a_point_gives_the_right_status_and_serves_on() {
    let (_router, point, addr) = point(Limits::default()).await;
    let keypair = Keypair::generate(&mut rand::rng());
    let node = Endpoint::builder(keypair.clone()).bind().await.unwrap();
    let connection = node.connect(addr.clone()).await.unwrap();
    let good = record(&keypair);
    let other = record(&Keypair::generate(&mut rand::rng()));
    let register = |ns: Vec<u8>, record: &Bytes, ttl| Request::Register {
        ns: ns.into(),
        record: record.clone(),
        ttl,
    };
    let discover = |cookie: &'static [u8]| Request::Discover {
        ns: Bytes::from_static(b"room"),
        limit: u64::MAX,
        cookie: Bytes::from_static(cookie),
    };
    for (request, expected) in [
        (register(b"room".to_vec(), &good, 0), Status::Ok),
        (register(b"room".to_vec(), &other, 0), Status::NotAuthorized),
        (
            register(b"room".to_vec(), &good.slice(1..), 0),
            Status::InvalidSignedPeerRecord,
        ),
        (
            register(vec![b'n'; 256], &good, 0),
            Status::InvalidNamespace,
        ),
        (
            register(vec![b'n'; 64 << 10], &good, 0),
            Status::InvalidNamespace,
        ),
        (register(vec![0xff], &good, 0), Status::InvalidNamespace),
        (register(b"room".to_vec(), &good, 1), Status::InvalidTtl),
        (discover(b""), Status::Ok),
        (discover(b"12345678room"), Status::InvalidCookie),
    ] {
        assert_eq!(status(&connection, request).await, expected);
    }
    // A flood of namespaces ends at the quota, and what is no message ends its stream alone.
    let mut refused = 0;
    for number in 0..100 {
        let request = register(format!("room {number}").into_bytes(), &good, 0);
        refused += usize::from(status(&connection, request).await == Status::Unavailable);
    }
    assert_eq!((refused, point.registrations()), (100 - 31, 32));
    let mut stream = connection.open_stream("/rendezvous/1.0.0").await.unwrap();
    stream
        .write_chunk(Bytes::from_static(b"\x03\xff\xff\xff"))
        .await
        .unwrap();
    assert!(stream.read_chunk(1).await.is_err());
    assert_eq!(status(&connection, discover(b"")).await, Status::Ok);
    // A request that is too long ends its stream too.
    let long = Request::Discover {
        ns: vec![b'n'; 200 << 10].into(),
        limit: 0,
        cookie: Bytes::new(),
    };
    let error = ask(&connection, &long).await;
    assert!(matches!(error, Err(AskError::Stream(_) | AskError::Ended)));
}

#[tokio::test]
async fn a_node_that_was_there_before_its_entry_point_joins_it() {
    let folder = Folder::new("bootstrap");
    let (_, key) = folder.key("entry").await;
    let serve = |listen: &str| {
        [
            "listen",
            "--json",
            "--key",
            &key,
            "--listen",
            listen,
            "--rendezvous-server",
        ]
        .map(str::to_owned)
    };
    // Once, to learn a port that is free.
    let (entry, addr) = Process::listen(&barewire(), serve(TCP), SOON)
        .await
        .unwrap();
    entry.stop(SOON).await.unwrap();
    let args = [
        "listen",
        "--json",
        "--listen",
        TCP,
        "--bootstrap",
        &addr,
        "--events",
    ];
    let mut early = Process::start(&barewire(), args).unwrap();
    early.listening(SOON).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    let listen = addr
        .parse::<Multiaddr>()
        .unwrap()
        .without_peer()
        .to_string();
    let (_entry, addr) = Process::listen(&barewire(), serve(&listen), SOON)
        .await
        .unwrap();
    let connected = early.expect("connected", SOON).await.unwrap();
    assert!(addr.ends_with(text(&connected, "peer").unwrap()));
    within(
        "joining an entry point that appears",
        begun.elapsed(),
        Duration::from_secs(5),
    );
}
