//! Two nodes over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::time::Duration;

use barewire_node::{
    CloseReason, Config, DialError, Endpoint, Event, EventItem, Fault, Keypair, ListenError,
    Multiaddr, OpenStreamError, Role, Router, Stream, StreamError, TransportError,
    manager::Refusal,
    protocols::{
        echo::{self, EchoError},
        identify, perf, ping,
    },
};
use barewire_transport::upgrade_inbound;
use bytes::Bytes;
use common::*;

#[tokio::test]
async fn nodes_identify_each_other_with_signed_records() {
    let (router, addr) = node().await;
    let server = router.endpoint();
    let (client, connection) = client_of(&addr).await;
    let info = soon("identify", client.identify(&connection))
        .await
        .unwrap();
    assert_eq!(info.peer_id, server.peer_id());
    assert_eq!(info.listen_addrs, server.listen_addrs());
    assert!(
        info.record_seq.is_some(),
        "a valid signed record came along"
    );
    assert!(info.is_barewire());
    assert_eq!(
        info.observed_addr.as_ref(),
        Some(&connection.info().local_addr)
    );
    for protocol in [
        identify::PROTOCOL,
        identify::PUSH_PROTOCOL,
        ping::PROTOCOL,
        perf::PROTOCOL,
        echo::PROTOCOL,
    ] {
        assert!(info.speaks(protocol), "{protocol}");
    }
    // Nobody asked on the other side: it happens by itself a moment after the connection is made.
    let peer = client.peer_id();
    eventually("identify by itself", || server.peer_info(&peer).is_some()).await;
    assert!(!server.peer_info(&peer).unwrap().speaks(echo::PROTOCOL));
    // The answer is stored, not asked for again.
    let again = client.identify(&connection).await.unwrap();
    assert!(std::sync::Arc::ptr_eq(&info, &again));
}

#[tokio::test]
async fn concurrent_identify_calls_share_one_answer() {
    let (_router, addr) = node().await;
    let (client, connection) = client_of(&addr).await;
    let (a, b) = tokio::join!(client.identify(&connection), client.identify(&connection));
    assert!(std::sync::Arc::ptr_eq(&a.unwrap(), &b.unwrap()));
}

#[tokio::test]
async fn pings_on_demand_and_by_the_clock() {
    let (_router, addr) = node().await;
    let mut config = quick();
    config.ping.interval = Some(Duration::from_millis(20));
    let client = endpoint(config).await;
    let connection = client.connect(addr).await.unwrap();
    let mut pinger = ping::Pinger::new(&connection, SOON);
    for _ in 0..100 {
        assert!(pinger.ping().await.unwrap() < SOON);
    }
    pinger.finish();
    eventually("a periodic ping", || client.rtt(&connection).is_some()).await;
    // Each periodic ping ends its stream.
    eventually("no stream left", || {
        let stats = connection.stats();
        stats.streams_inbound + stats.streams_outbound == 0
    })
    .await;
}

#[tokio::test]
async fn a_connection_whose_pings_fail_is_closed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = Multiaddr::tcp(listener.local_addr().unwrap());
    let mut config = quick();
    config.ping.interval = Some(Duration::from_millis(10));
    config.ping.timeout = Duration::from_millis(20);
    let client = endpoint(config).await;
    let mut events = client.events();
    // A peer that accepts streams and answers none.
    let silent = async {
        let (socket, _) = listener.accept().await.unwrap();
        upgrade_inbound(socket, &upgrade_config()).await.unwrap()
    };
    let (connection, _silent) = tokio::join!(client.connect(addr), silent);
    let connection = connection.unwrap();
    soon("the close", connection.closed()).await;
    let mut failures = 0;
    while failures < 3 {
        if let Some(EventItem::Event(Event::PingFailed { failures: n, .. })) =
            soon("an event", events.next()).await
        {
            failures += 1;
            assert_eq!(n, failures);
        }
    }
}

#[tokio::test]
async fn perf_moves_bytes_both_ways() {
    let (_router, addr) = node().await;
    let (_client, connection) = client_of(&addr).await;
    for (upload, download) in [(0, 0), (1, 0), (0, 1), (3_000_000, 5_000_001)] {
        let (mut sent, mut received) = (0, 0);
        let report = perf::measure(&connection, upload, download, |progress| match progress {
            perf::Progress::Sent(n) => sent += n,
            perf::Progress::Received(n) => received += n,
        })
        .await
        .unwrap();
        assert_eq!(
            (report.upload_bytes, report.download_bytes),
            (upload, download)
        );
        assert_eq!((sent, received), (upload, download));
    }
}

#[tokio::test]
async fn the_perf_server_is_silent_until_the_upload_ends() {
    let (_router, addr) = node().await;
    let (_client, connection) = client_of(&addr).await;
    let mut stream = connection.open_stream(perf::PROTOCOL).await.unwrap();
    let request = Bytes::copy_from_slice(&100u64.to_be_bytes());
    stream.write_chunk(request).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(200), stream.read_chunk(1)).await;
    assert!(early.is_err(), "answered before the end: {early:?}");
    stream.finish().unwrap();
    let mut received = 0;
    while let Some(chunk) = stream.read_chunk(usize::MAX).await.unwrap() {
        received += chunk.len();
    }
    assert_eq!(received, 100);
}

#[tokio::test]
async fn echo_returns_what_was_sent() {
    let (_router, addr) = node().await;
    let (_client, connection) = client_of(&addr).await;
    for size in [0, 1, 100, 65_507, 65_508, 3_000_000] {
        let payload: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        echo::round_trip(&connection, echo::PROTOCOL, payload.into())
            .await
            .unwrap();
    }
    let many = (0..64u8).map(|n| {
        let connection = connection.clone();
        tokio::spawn(async move {
            let payload = Bytes::from(vec![n; 10_000]);
            echo::round_trip(&connection, echo::PROTOCOL, payload).await
        })
    });
    for one in many.collect::<Vec<_>>() {
        one.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn another_identity_than_the_dialled_one_is_refused() {
    let (router, addr) = node().await;
    let wrong = keypair().peer_id();
    let client = endpoint(quick()).await;
    let error = client
        .connect(addr.without_peer().with_peer(wrong).unwrap())
        .await
        .unwrap_err();
    let DialError::WrongPeer {
        expected, actual, ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!((*expected, *actual), (wrong, router.endpoint().peer_id()));
    let text = error.to_string();
    assert!(text.contains(&wrong.to_string()) && text.contains(&actual.to_string()));
    assert_eq!(error.fault(), Fault::Peer);
    assert!(client.connections().is_empty());
    assert!(client.peer_info(actual).is_none());
}

#[tokio::test]
async fn an_address_without_an_id_tells_who_answered() {
    let (router, addr) = node().await;
    let client = endpoint(quick()).await;
    let connection = client.connect(addr.clone().without_peer()).await.unwrap();
    assert_eq!(connection.peer_id(), router.endpoint().peer_id());
    assert_eq!(connection.role(), Role::Client);
    // A second connect to the same peer by id uses the open connection.
    let again = client.connect(addr).await.unwrap();
    assert!(connection.is_same(&again));
}

#[tokio::test]
async fn an_unknown_protocol_is_refused_with_its_name() {
    let (_router, addr) = node().await;
    let (_client, connection) = client_of(&addr).await;
    let unknown = "/no/such/protocol/1";
    let error = echo::round_trip(&connection, unknown, Bytes::from_static(b"x"))
        .await
        .unwrap_err();
    assert_eq!(
        error,
        EchoError::Stream(StreamError::ProtocolNotSupported(unknown.into()))
    );
    assert!(error.to_string().contains(unknown));
    let error = connection
        .open_stream_negotiated(&[unknown, "/nor/this/1"])
        .await
        .unwrap_err();
    assert!(matches!(error, OpenStreamError::ProtocolNotSupported(_)));
    // The connection goes on.
    ping::ping(&connection, SOON).await.unwrap();
}

#[tokio::test]
async fn one_node_listens_on_several_addresses() {
    let (router, tcp4) = node().await;
    let server = router.endpoint();
    let tcp6 = listen(server, "/ip6/::1/tcp/0").await;
    let memory = listen(server, "/memory/0").await;
    assert_eq!(server.listen_addrs().len(), 3);
    assert_eq!(server.state().borrow().listen_addrs.len(), 3);
    for addr in [tcp4, tcp6, memory] {
        let (_client, connection) = client_of(&addr).await;
        echo::round_trip(&connection, echo::PROTOCOL, Bytes::from_static(b"hello"))
            .await
            .unwrap_or_else(|error| panic!("{addr}: {error}"));
        assert_eq!(connection.info().remote_addr, addr.without_peer());
    }
}

#[tokio::test]
async fn local_mistakes_are_named() {
    let (router, addr) = node().await;
    let server = router.endpoint();
    assert!(matches!(
        server.connect(addr.clone()).await,
        Err(DialError::OwnAddress(_))
    ));
    assert!(matches!(
        server.connect(addr.clone().without_peer()).await,
        Err(DialError::OwnAddress(_))
    ));
    let taken = server.listen(addr.without_peer()).await.unwrap_err();
    assert!(
        matches!(
            taken,
            ListenError::Transport(TransportError::Io {
                kind: std::io::ErrorKind::AddrInUse,
                ..
            })
        ),
        "{taken}"
    );
    let other: Multiaddr = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
    assert!(matches!(
        server
            .listen(other.with_peer(keypair().peer_id()).unwrap())
            .await,
        Err(ListenError::OtherPeer(_))
    ));
    let udp: Multiaddr = "/ip4/127.0.0.1/udp/1/quic".parse().unwrap();
    assert!(matches!(
        server.connect(udp).await,
        Err(DialError::Transport(TransportError::Unsupported(_)))
    ));
}

#[tokio::test]
async fn nobody_at_home_is_a_network_fault() {
    let (router, addr) = node().await;
    router.shutdown(SOON).await;
    drop(router);
    let client = endpoint(quick()).await;
    let error = client.connect(addr).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Network);
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn events_and_state_follow_the_connections() {
    let (router, addr) = node().await;
    let server = router.endpoint();
    let mut events = server.events();
    let mut state = server.state();
    let (client, connection) = client_of(&addr).await;
    let up = state.wait_for(|state| state.connections == 1 && state.peers == 1);
    soon("the connection", up).await.unwrap();
    assert!(matches!(
        soon("an event", events.next()).await,
        Some(EventItem::Event(Event::Connected { peer, role: Role::Server, .. }))
            if peer == client.peer_id()
    ));
    connection.close(0);
    let down = state.wait_for(|state| state.connections == 0 && state.peers == 0);
    soon("the end", down).await.unwrap();
    loop {
        if let Some(EventItem::Event(Event::Disconnected { peer, last, .. })) =
            soon("an event", events.next()).await
        {
            assert_eq!(peer, client.peer_id());
            assert!(last);
            break;
        }
    }
    assert!(server.connection(&client.peer_id()).is_none());
}

#[tokio::test]
async fn a_reader_that_is_behind_learns_how_much_it_missed() {
    let (_router, addr) = node().await;
    let mut config = quick();
    config.identify.delay = None;
    config.ping.interval = Some(Duration::from_micros(100));
    let client = endpoint(config).await;
    let mut events = client.events();
    let connection = client.connect(addr).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    connection.close(0);
    let first = events.next().await;
    assert!(
        matches!(first, Some(EventItem::Missed(n)) if n > 0),
        "{first:?}"
    );
    assert!(matches!(events.next().await, Some(EventItem::Event(_))));
}

#[tokio::test]
async fn new_handlers_are_pushed_to_peers() {
    let (router, addr) = node().await;
    let (client, connection) = client_of(&addr).await;
    client.identify(&connection).await.unwrap();
    let peer = client.peer_id();
    eventually("identify", || router.endpoint().peer_info(&peer).is_some()).await;
    let _serving = Router::builder(client.clone())
        .accept("/test/late/1", |_: Stream, _| async {})
        .spawn()
        .unwrap();
    eventually("the push", || {
        router
            .endpoint()
            .peer_info(&peer)
            .is_some_and(|info| info.speaks("/test/late/1"))
    })
    .await;
}

#[tokio::test]
async fn identify_is_not_asked_when_it_is_off() {
    let (router, addr) = node().await;
    let mut config = Config::default();
    config.identify.delay = None;
    let client = endpoint(config).await;
    let connection = client.connect(addr).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let server = router.endpoint().peer_id();
    assert!(client.peer_info(&server).is_none());
    client.identify(&connection).await.unwrap();
    assert!(client.peer_info(&server).is_some());
}

/// A full push of a node that changes its agent version.
fn push_of(keypair: &Keypair, agent_version: &str) -> Bytes {
    let outgoing = identify::Outgoing {
        public_key: keypair.public(),
        listen_addrs: &[],
        protocols: &["/pushed/1".into()],
        protocol_version: "test/1",
        agent_version,
        signed_record: None,
        legacy_record: None,
    };
    identify::encode(&outgoing, None)
}

#[tokio::test]
async fn a_push_flood_is_refused_after_the_first() {
    let (router, addr) = node().await;
    let keypair = keypair();
    let mut config = quick();
    config.identify.delay = None;
    let client = Endpoint::builder(keypair.clone())
        .config(config)
        .bind()
        .await
        .unwrap();
    let connection = client.connect(addr).await.unwrap();
    let (mut taken, mut refused) = (0, 0);
    for n in 0..100 {
        let mut stream = connection
            .open_stream(identify::PUSH_PROTOCOL)
            .await
            .unwrap();
        stream
            .write_last(push_of(&keypair, &format!("flood/{n}")))
            .await
            .unwrap();
        match soon("an answer", stream.read_chunk(1)).await {
            Ok(None) => taken += 1,
            Err(StreamError::Reset(0x1003)) => refused += 1,
            other => panic!("push {n}: {other:?}"),
        }
    }
    println!("of 100 pushes at once {taken} taken, {refused} refused as too many");
    assert_eq!((taken, refused), (1, 99));
    let info = router.endpoint().peer_info(&client.peer_id()).unwrap();
    assert_eq!(info.agent_version, "flood/0");
}

#[tokio::test]
async fn a_peer_that_pushed_too_often_is_asked_once_the_time_is_over() {
    let mut config = quick();
    config.identify.delay = None;
    config.identify.timeout = Duration::from_secs(2);
    config.identify.push_interval = Duration::from_secs(2);
    let (router, addr) = node_with(config).await;
    let mut events = router.endpoint().events();
    let keypair = keypair();
    let mut config = quick();
    config.identify.delay = None;
    config.identify.agent_version = "in truth/1".into();
    let client = Endpoint::builder(keypair.clone()).config(config);
    let client = client.bind().await.unwrap();
    let _serving = Router::builder(client.clone()).spawn().unwrap();
    let connection = client.connect(addr).await.unwrap();
    for n in 0..10 {
        let mut stream = connection
            .open_stream(identify::PUSH_PROTOCOL)
            .await
            .unwrap();
        let message = push_of(&keypair, &format!("pushed/{n}"));
        stream.write_last(message).await.unwrap();
        let _ = soon("an answer", stream.read_chunk(1)).await;
    }
    // The push that was taken, then what it says when asked; one query for nine refusals.
    let mut heard = Vec::new();
    let until = tokio::time::Instant::now() + Duration::from_secs(5);
    while let Ok(Some(event)) = tokio::time::timeout_at(until, events.next()).await {
        if let EventItem::Event(Event::Identified { info }) = event {
            heard.push(info.agent_version.clone());
        }
    }
    assert_eq!(heard, ["pushed/0", "in truth/1"]);
}

#[tokio::test]
async fn a_push_with_another_key_changes_nothing() {
    let (router, addr) = node().await;
    let (client, connection) = client_of(&addr).await;
    let peer = client.peer_id();
    eventually("identify", || router.endpoint().peer_info(&peer).is_some()).await;
    let before = router.endpoint().peer_info(&peer);
    let mut stream = connection
        .open_stream(identify::PUSH_PROTOCOL)
        .await
        .unwrap();
    stream
        .write_last(push_of(&keypair(), "impostor/1"))
        .await
        .unwrap();
    let _ = soon("the end", stream.read_chunk(1)).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(router.endpoint().peer_info(&peer), before);
}

#[tokio::test]
async fn silent_connections_lose_their_place_to_newer_ones() {
    let mut config = quick();
    config.limits.max_pending_inbound = 4;
    let (router, addr) = node_with(config).await;
    let server = router.endpoint();
    let mut events = server.events();
    let (socket, _) = addr.to_tcp().unwrap();
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(tokio::net::TcpStream::connect(socket).await.unwrap());
    }
    eventually("four slots taken", || server.pending_inbound() == 4).await;
    let (_client, connection) = client_of(&addr).await;
    ping::ping(&connection, SOON).await.unwrap();
    assert!(server.pending_inbound() <= 4);
    let mut dropped = 0;
    while dropped < 6 {
        if let Some(EventItem::Event(Event::InboundFailed { error: None, .. })) =
            soon("an event", events.next()).await
        {
            dropped += 1;
        }
    }
    // Whoever lost its place reads an end.
    let mut end = [0; 64];
    let read = tokio::io::AsyncReadExt::read(&mut silent[0], &mut end);
    assert!(matches!(soon("the end", read).await, Ok(0) | Err(_)));
}

#[tokio::test]
async fn a_full_table_takes_no_more_connections() {
    let mut config = quick();
    config.limits.max_connections = 2;
    config.limits.reserved_slots = 0;
    let (router, addr) = node_with(config.clone()).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let (client, connection) = client_of(&addr).await;
        ping::ping(&connection, SOON).await.unwrap();
        held.push((client, connection));
    }
    let (_third, connection) = client_of(&addr).await;
    let reason = soon("the refusal", connection.closed()).await;
    assert_eq!(reason, CloseReason::Remote(0x1001));
    assert_eq!(router.endpoint().connections().len(), 2);
    // On the dialling side it is an error of the call.
    let client = endpoint(config).await;
    let (_a, a) = node().await;
    let (_b, b) = node().await;
    client.connect(a.clone()).await.unwrap();
    client.connect(b).await.unwrap();
    let error = client.dial(a.clone()).await.unwrap_err();
    let limit = Refusal::Connections;
    assert_eq!(error, DialError::Limit { addr: a, limit });
    assert_eq!(error.fault(), Fault::Limit);
}

#[tokio::test]
async fn calls_without_an_id_share_one_connection_too() {
    let (router, addr) = node().await;
    let other_addr = listen(router.endpoint(), "/ip4/127.0.0.1/tcp/0").await;
    let (addr, other_addr) = (addr.without_peer(), other_addr.without_peer());
    let client = endpoint(quick()).await;
    // At once: the same address shares a dial, another one of the same node turns out to be it.
    let (one, two, three) = tokio::join!(
        client.connect(addr.clone()),
        client.connect(addr.clone()),
        client.connect(other_addr)
    );
    let (one, two, three) = (one.unwrap(), two.unwrap(), three.unwrap());
    assert!(one.is_same(&two) && one.is_same(&three));
    let dials = client.dial_stats().transports;
    let attempts: u64 = dials.iter().map(|transport| transport.attempts).sum();
    assert_eq!(attempts, 2);
    // One after another.
    let again = client.connect(addr.clone()).await.unwrap();
    assert!(again.is_same(&one));
    assert_eq!(client.connections().len(), 1);
    eventually("one connection", || {
        router.endpoint().connections().len() == 1
    })
    .await;
    ping::ping(&one, SOON).await.unwrap();
    // Who asks for a new one gets it.
    assert!(!client.dial(addr).await.unwrap().is_same(&one));
}
