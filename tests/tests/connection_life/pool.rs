//! One connection per peer, closed when nothing needs it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use barewire_node::{
    CloseReason, Config, Endpoint, Event, EventItem, Incident, LocalReason, Router,
    protocols::{echo, ping},
};
use barewire_tests::process::{number, text};
use bytes::Bytes;
use socket2::{Domain, Socket, Type};

use crate::{Node, SOON, client, client_with};

const IDLE: Duration = Duration::from_secs(2);

async fn echo_once(endpoint: &Endpoint, node: &Node, payload: &Bytes) {
    let opened = endpoint
        .open_stream(node.addr.clone(), echo::PROTOCOL)
        .await;
    let mut stream = opened.unwrap();
    stream.write_last(payload.clone()).await.unwrap();
    let mut left = payload.len();
    while let Some(chunk) = stream.read_chunk(left.max(1)).await.unwrap() {
        left -= chunk.len();
    }
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sends_share_one_connection_that_ends_at_its_time() {
    let mut node = Node::start(&["--idle-timeout", "2s", "--events"]).await;
    // Only the node closes.
    let mut patient = Config::default();
    patient.idle_timeout = None;
    let (sender, active) = (
        client_with(patient.clone()).await,
        client_with(patient).await,
    );
    let connection = active.connect(node.addr.clone()).await.unwrap();
    let mut stream = connection.open_stream(echo::PROTOCOL).await.unwrap();
    // The node knows of the stream from its first byte on.
    stream.write_chunk(Bytes::from_static(b"x")).await.unwrap();
    stream.read_chunk(1).await.unwrap().unwrap();
    node.process.expect("connected", SOON).await.unwrap();
    let payload = Bytes::from(vec![7; 1024]);
    for _ in 0..200 {
        echo_once(&sender, &node, &payload).await;
    }
    let idle_since = Instant::now();
    let used = sender.connections();
    assert_eq!(used.len(), 1);
    let expected = sender.peer_id().to_string();
    let connected = node.process.expect("connected", SOON).await.unwrap();
    assert_eq!(text(&connected, "peer").unwrap(), expected);
    let reason = tokio::time::timeout(SOON, used[0].closed()).await.unwrap();
    let took = idle_since.elapsed();
    assert_eq!(reason, CloseReason::Remote(0x1005));
    let told = node.process.expect("disconnected", SOON).await.unwrap();
    println!(
        "scenario 17: 200 sends over 1 connection; idle timeout {IDLE:?}, closed after {took:.2?}; the node says {} {}, \
         the peer reads: {reason}",
        text(&told, "who").unwrap(),
        text(&told, "why").unwrap(),
    );
    assert_eq!(text(&told, "peer").unwrap(), expected);
    assert_eq!((&told["who"], &told["why"]), (&"us".into(), &"idle".into()));
    assert!(took > IDLE - Duration::from_millis(200) && took < IDLE + Duration::from_secs(2));
    // A stream that is open, used or not, holds its connection.
    tokio::time::sleep(IDLE).await;
    stream.write_chunk(payload.clone()).await.unwrap();
    stream.read_chunk(1).await.unwrap().unwrap();
    tokio::time::sleep(2 * IDLE).await;
    assert_eq!(connection.close_reason(), None);
    println!("scenario 17: held: {}", connection.why_open());
    drop(stream);
    let reason = tokio::time::timeout(SOON, connection.closed())
        .await
        .unwrap();
    assert_eq!(reason, CloseReason::Remote(0x1005));
    node.stop().await;
}

#[tokio::test]
async fn a_peer_that_ignores_pings_is_dropped() {
    let mut config = Config::default();
    config.identify.delay = None;
    config.ping.interval = Some(Duration::from_millis(200));
    config.ping.timeout = Duration::from_millis(300);
    config.ping.max_failures = Some(3);
    let node = client_with(config).await;
    let addr = node
        .listen("/ip4/127.0.0.1/tcp/0".parse().unwrap())
        .await
        .unwrap();
    let (socket, _) = addr.to_tcp().unwrap();
    let mut events = node.events();
    let began = Instant::now();
    // Its muxer is in the best of health, and lets nobody answer.
    let (connection, _streams) = dial_raw(socket, "127.0.0.1").await.unwrap();
    let mut failures = 0;
    let reason = loop {
        match tokio::time::timeout(SOON, events.next()).await.unwrap() {
            Some(EventItem::Event(Event::PingFailed { .. })) => failures += 1,
            Some(EventItem::Event(Event::Disconnected { reason, .. })) => break reason,
            Some(_) => {}
            None => panic!("no end"),
        }
    };
    println!(
        "scenario 17: a peer that ignores pings: {reason}, after {failures} failures in {:.2?}",
        began.elapsed()
    );
    assert_eq!(failures, 3);
    assert_eq!(reason, CloseReason::Local(LocalReason::PingFailed));
    assert_eq!(connection.closed().await, CloseReason::Remote(0x1005));
    assert_eq!(node.incidents(Incident::PingFailed), 1);
}

type RawConnection = (
    barewire_transport::Connection,
    barewire_transport::InboundStreams,
);

/// Connects from one of the loopback addresses as a new identity.
async fn dial_raw(to: SocketAddr, from: &str) -> Result<RawConnection, String> {
    let from: SocketAddr = format!("{from}:0").parse().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&from.into()).unwrap();
    socket
        .connect(&to.into())
        .map_err(|error| error.to_string())?;
    socket.set_nonblocking(true).unwrap();
    let stream = tokio::net::TcpStream::from_std(socket.into()).unwrap();
    let keypair = barewire_node::Keypair::generate(&mut rand::rng());
    let muxers = vec!["/yamux/1.0.0".into()];
    let noise = barewire_security::noise::Config::new(&keypair, muxers, &mut rand::rng()).unwrap();
    let budget = barewire_base::Budget::unlimited();
    let security = vec![barewire_transport::Security::Noise(noise.into())];
    let config = barewire_transport::UpgradeConfig::new(security, budget);
    let upgraded = barewire_transport::upgrade_outbound(stream, &config, None).await;
    upgraded.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_from_one_address_gets_the_share_of_one_address() {
    const CAP: usize = 8;
    let mut config = Config::default();
    config.limits.limit_loopback = true;
    config.limits.set_per_ip(CAP);
    let node = client_with(config).await;
    let router = Router::builder(node.clone()).accept(echo::PROTOCOL, echo::Echo);
    let _router = router.spawn().unwrap();
    let addr = node
        .listen("/ip4/127.0.0.1/tcp/0".parse().unwrap())
        .await
        .unwrap();
    let (socket, _) = addr.to_tcp().unwrap();
    let (mut held, mut refused) = (Vec::new(), 0);
    let began = Instant::now();
    for n in 0..100 {
        match dial_raw(socket, "127.0.0.2").await {
            Ok(connection) => held.push(connection),
            Err(_) => refused += 1,
        }
        // Neighbours are let in as before.
        if n % 25 == 0 {
            let neighbour = format!("127.0.1.{n}");
            let (connection, _streams) = dial_raw(socket, &neighbour).await.unwrap();
            ping::ping(&connection, SOON).await.unwrap();
        }
    }
    println!(
        "scenario 17: flood from one address: {} held, {refused} refused in {:.2?}, 4 of 4 neighbours let in",
        held.len(),
        began.elapsed()
    );
    assert!(held.len() <= CAP, "{}", held.len());
    assert_eq!(held.len() + refused, 100);
    assert_eq!(node.incidents(Incident::NetworkLimit), refused as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_peer_is_found_again_after_it_was_killed() {
    let key = std::env::temp_dir().join(format!("barewire-kept-{}.key", std::process::id()));
    let key = key.to_str().unwrap();
    let mut server = Node::start(&["--key", key]).await;
    let place = server.addr.clone().without_peer().to_string();
    let mut keeper = Node::start(&["--keep", &place, "--idle-timeout", "1s"]).await;
    let state = async |node: &mut Node, wanted: &str| loop {
        let event = node.process.expect("kept", SOON).await.unwrap();
        if event["state"] == wanted {
            return event;
        }
    };
    let connected = state(&mut keeper, "connected").await;
    let peer = server.addr.peer_id().unwrap().to_string();
    assert_eq!(text(&connected, "peer").unwrap(), peer);
    for _ in 0..2 {
        server.process.kill().await.unwrap();
        let backoff = state(&mut keeper, "backoff").await;
        assert!(number(&backoff, "wait_s").unwrap() <= 2.0);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let back = Instant::now();
        server = Node::start(&["--key", key, "--listen", &place]).await;
        state(&mut keeper, "connected").await;
        println!(
            "kept peer killed ({}): connected again {:.2?} after its start",
            text(&backoff, "error").unwrap(),
            back.elapsed()
        );
    }
    let other = client().await;
    other.connect(server.addr.clone()).await.unwrap();
    keeper.stop().await;
    server.stop().await;
    std::fs::remove_file(key).unwrap();
}
