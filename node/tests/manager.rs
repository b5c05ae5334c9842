//! The connection manager: what keeps a connection open, who is let in, who has to go, and peers
//! that are kept.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use barewire_node::{
    CloseReason, Config, Connection, ConnectionInfo, DialError, Endpoint, Event, EventItem,
    Incident, LocalReason, Multiaddr, Party, PeerId, Role, Router,
    manager::{ConnectionGater, Gated, KeptState, Refusal},
    protocols::{echo, identify, ping},
};
use bytes::Bytes;
use common::*;

const IDLE: Duration = Duration::from_millis(300);

fn impatient() -> Config {
    let mut config = quick();
    config.idle_timeout = Some(IDLE);
    config
}

/// A server with this configuration and a client that never closes by itself.
async fn pair(config: Config) -> (Router, Endpoint, Connection) {
    let (router, addr) = node_with(config).await;
    let mut patient = quick();
    patient.idle_timeout = None;
    let client = endpoint(patient).await;
    let connection = client.connect(addr).await.unwrap();
    // The server has it too now.
    ping::ping(&connection, SOON).await.unwrap();
    (router, client, connection)
}

fn server_side(router: &Router) -> Connection {
    router.endpoint().connections().remove(0)
}

/// Waits for the end and returns how long after `since` it came.
async fn ended(connection: &Connection, since: Instant) -> (CloseReason, Duration) {
    let reason = soon("the end", connection.closed()).await;
    (reason, since.elapsed())
}

fn closes(endpoint: &Endpoint, who: Party, why: &str) -> u64 {
    let counts = endpoint.closes();
    let found = counts.iter().find(|c| c.who == who && c.why == why);
    found.map_or(0, |count| count.count)
}

#[tokio::test]
async fn an_idle_connection_is_closed_at_its_time_and_both_sides_know_why() {
    let mut config = impatient();
    config.ping.interval = Some(Duration::from_millis(40));
    let (router, client, connection) = pair(config).await;
    let since = Instant::now();
    let server = server_side(&router);
    let mut events = router.endpoint().events();
    let why = server.why_open();
    assert!(why.holds.is_empty() && why.closes_in.unwrap() <= IDLE);
    assert!(why.to_string().starts_with("idle, closes in "), "{why}");
    // Neither side's pings keep it.
    while connection.close_reason().is_none() && since.elapsed() < SOON {
        let _ = ping::ping(&connection, SOON).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (reason, took) = ended(&server, since).await;
    println!("idle for {IDLE:?}: closed after {took:?}");
    assert!(took >= IDLE - Duration::from_millis(100) && took < IDLE + Duration::from_secs(2));
    assert_eq!(reason, CloseReason::Local(LocalReason::Idle));
    let (reason, _) = ended(&connection, since).await;
    assert_eq!(reason, CloseReason::Remote(0x1005));
    loop {
        let event = soon("the event", events.next()).await.unwrap();
        if let EventItem::Event(Event::Disconnected { reason, .. }) = event {
            assert_eq!((reason.who(), reason.why()), (Party::Us, "idle"));
            break;
        }
    }
    assert_eq!(closes(router.endpoint(), Party::Us, "idle"), 1);
    eventually("the count of the client", || {
        closes(&client, Party::Remote, "garbage collected") == 1
    })
    .await;
}

#[tokio::test]
async fn an_open_stream_holds_its_connection_at_both_ends() {
    let (router, addr) = node_with(impatient()).await;
    let client = endpoint(impatient()).await;
    let connection = client.connect(addr).await.unwrap();
    let mut stream = connection.open_stream(echo::PROTOCOL).await.unwrap();
    stream.write_chunk(Bytes::from_static(b"x")).await.unwrap();
    stream.read_chunk(1).await.unwrap();
    tokio::time::sleep(4 * IDLE).await;
    let server = server_side(&router);
    for end in [&connection, &server] {
        assert_eq!(end.close_reason(), None);
        let why = end.why_open();
        assert_eq!((why.holds.len(), &*why.holds[0].name), (1, echo::PROTOCOL));
        assert!(why.to_string().contains("stream /barewire/echo"), "{why}");
    }
    let metrics = router.endpoint().metrics();
    let held = format!(
        "barewire_connections_held{{by=\"stream\",name=\"{}\"}} 1",
        echo::PROTOCOL
    );
    assert!(metrics.contains(&held), "{metrics}");
    assert!(
        metrics.contains("barewire_connections_idle{} 0"),
        "{metrics}"
    );
    stream.finish().unwrap();
    assert_eq!(stream.read_chunk(1).await.unwrap(), None);
    let since = Instant::now();
    drop(stream);
    let (_, took) = ended(&connection, since).await;
    println!("stream dropped: closed after {took:?} at a timeout of {IDLE:?}");
    assert!(took >= IDLE - Duration::from_millis(100) && took < IDLE + Duration::from_secs(2));
}

#[tokio::test]
async fn leases_tags_and_protection_hold_until_the_last_ends() {
    let (router, _client, connection) = pair(impatient()).await;
    let server = server_side(&router);
    let (node, peer) = (router.endpoint(), server.peer_id());
    let lease = server.lease("a transfer");
    node.tag(peer, "useful", 5);
    node.protect(peer, "useful");
    tokio::time::sleep(2 * IDLE).await;
    let why = server.why_open().to_string();
    assert!(
        why.contains("lease a transfer") && why.contains("lease useful"),
        "{why}"
    );
    drop(lease);
    assert!(node.untag(&peer, "useful"));
    assert!(!node.untag(&peer, "useful"));
    tokio::time::sleep(2 * IDLE).await;
    assert_eq!(connection.close_reason(), None, "still protected");
    let since = Instant::now();
    assert!(node.unprotect(&peer, "useful"));
    let (reason, took) = ended(&server, since).await;
    assert_eq!(reason, CloseReason::Local(LocalReason::Idle));
    assert!(took >= IDLE - Duration::from_millis(100) && took < IDLE + Duration::from_secs(2));
}

#[tokio::test]
async fn a_tag_holds_connections_that_come_later() {
    let (router, addr) = node_with(impatient()).await;
    let mut patient = quick();
    patient.idle_timeout = None;
    let client = endpoint(patient).await;
    router.endpoint().tag(client.peer_id(), "friend", 1);
    let connection = client.connect(addr).await.unwrap();
    tokio::time::sleep(3 * IDLE).await;
    assert_eq!(connection.close_reason(), None);
    router.endpoint().untag(&client.peer_id(), "friend");
    ended(&connection, Instant::now()).await;
}

#[tokio::test]
async fn a_protocol_may_say_that_it_holds_nothing() {
    struct Light;
    impl barewire_node::ProtocolHandler for Light {
        fn handle(
            &self,
            mut stream: barewire_node::Stream,
            _: Connection,
        ) -> barewire_node::BoxFuture<'static, ()> {
            Box::pin(async move { while let Ok(Some(_)) = stream.read_chunk(64).await {} })
        }
        fn holds_connection(&self) -> bool {
            false
        }
    }
    let router = Router::builder(endpoint(impatient()).await)
        .accept("/light/1", Light)
        .spawn()
        .unwrap();
    let addr = listen(router.endpoint(), "/ip4/127.0.0.1/tcp/0").await;
    let (_client, connection) = client_of(&addr).await;
    let stream = connection.open_stream_negotiated(&["/light/1"]).await;
    let since = Instant::now();
    let (reason, _) = ended(&connection, since).await;
    assert_eq!(reason, CloseReason::Remote(0x1005));
    drop(stream);
}

#[tokio::test]
async fn all_users_of_a_peer_share_one_connection() {
    let (router, addr) = node().await;
    let client = endpoint(quick()).await;
    for n in 0..200u32 {
        let mut stream = client
            .open_stream(addr.clone(), echo::PROTOCOL)
            .await
            .unwrap();
        let sent = Bytes::copy_from_slice(&n.to_be_bytes());
        stream.write_last(sent.clone()).await.unwrap();
        assert_eq!(stream.read_chunk(4).await.unwrap(), Some(sent));
    }
    assert_eq!(router.endpoint().connections().len(), 1);
    assert_eq!(client.connections().len(), 1);
    // A connection that has gone meanwhile is replaced.
    client.connections()[0].close(0);
    client.open_stream(addr, echo::PROTOCOL).await.unwrap();
}

#[tokio::test]
async fn too_many_are_trimmed_the_least_worthy_first() {
    let mut config = quick();
    config.limits.high_water = 4;
    config.limits.low_water = 2;
    config.limits.grace = Duration::from_millis(200);
    config.limits.silence = Duration::from_millis(50);
    let (router, addr) = node_with(config).await;
    let node = router.endpoint();
    let mut clients = Vec::new();
    for _ in 0..5 {
        let (client, connection) = client_of(&addr).await;
        ping::ping(&connection, SOON).await.unwrap();
        clients.push((client, connection));
    }
    node.tag(clients[1].0.peer_id(), "useful", 7);
    node.protect(clients[3].0.peer_id(), "admin");
    eventually("the trim", || node.connections().len() == 2).await;
    let left: Vec<PeerId> = node.connections().iter().map(Connection::peer_id).collect();
    assert_eq!(left, [clients[1].0.peer_id(), clients[3].0.peer_id()]);
    for index in [0, 2, 4] {
        let (reason, _) = ended(&clients[index].1, Instant::now()).await;
        assert_eq!(reason, CloseReason::Remote(0x1005));
    }
    assert_eq!(closes(node, Party::Us, "trimmed"), 3);
    assert_eq!(node.incidents(Incident::Trimmed), 3);
}

#[tokio::test]
async fn reserved_slots_are_for_those_they_are_reserved_for() {
    let (admin, guest) = (endpoint(quick()).await, endpoint(quick()).await);
    let mut config = quick();
    config.limits.max_connections = 2;
    config.limits.reserved_slots = 1;
    config.limits.reserved_peers.insert(admin.peer_id());
    let (router, addr) = node_with(config).await;
    let (_first, _connection) = client_of(&addr).await;
    let refused = guest.connect(addr.clone()).await.unwrap();
    let (reason, _) = ended(&refused, Instant::now()).await;
    assert_eq!(reason, CloseReason::Remote(0x1001));
    let let_in = admin.connect(addr).await.unwrap();
    ping::ping(&let_in, SOON).await.unwrap();
    assert_eq!(router.endpoint().connections().len(), 2);
    assert_eq!(router.endpoint().incidents(Incident::TooManyConnections), 1);
}

#[tokio::test]
async fn one_peer_has_a_share_of_its_own() {
    let mut config = quick();
    config.limits.max_per_peer = 2;
    let (router, addr) = node_with(config).await;
    let client = endpoint(quick()).await;
    let _one = client.dial(addr.clone()).await.unwrap();
    let _two = client.dial(addr.clone()).await.unwrap();
    let three = client.dial(addr).await.unwrap();
    let (reason, _) = ended(&three, Instant::now()).await;
    assert_eq!(reason, CloseReason::Remote(0x1001));
    assert_eq!(router.endpoint().incidents(Incident::PeerLimit), 1);
    let name = Refusal::PerPeer.name();
    assert_eq!(closes(router.endpoint(), Party::Us, name), 1);
    assert_eq!(router.endpoint().connections().len(), 2);
}

#[tokio::test]
async fn one_address_has_a_share_of_its_own() {
    let mut config = quick();
    config.limits.limit_loopback = true;
    config.limits.max_per_ip = 3;
    let (router, addr) = node_with(config).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let (client, connection) = client_of(&addr).await;
        ping::ping(&connection, SOON).await.unwrap();
        held.push((client, connection));
    }
    let mut events = router.endpoint().events();
    let fourth = endpoint(quick()).await;
    let error = fourth.connect(addr.clone()).await.unwrap_err();
    println!("the fourth from one address: {error}");
    let event = soon("the event", events.next()).await.unwrap();
    let EventItem::Event(Event::Refused { reason, .. }) = event else {
        panic!("{event:?}");
    };
    assert_eq!(reason, LocalReason::Limit(Refusal::PerIp.name()));
    assert_eq!(router.endpoint().incidents(Incident::NetworkLimit), 1);
    // A place is free when somebody has left.
    held.pop().unwrap().1.close(0);
    eventually("a place", || router.endpoint().connections().len() == 2).await;
    fourth.connect(addr).await.unwrap();
}

/// Refuses at one moment.
#[derive(Debug)]
struct Refuser(&'static str);

impl Refuser {
    fn at(&self, moment: &str) -> Result<(), Gated> {
        if self.0 == moment {
            Err(Gated("not today"))
        } else {
            Ok(())
        }
    }
}

impl ConnectionGater for Refuser {
    fn before_dial(&self, _: Option<&PeerId>, _: &Multiaddr) -> Result<(), Gated> {
        self.at("dial")
    }
    fn on_accept(&self, _: &Multiaddr) -> Result<(), Gated> {
        self.at("accept")
    }
    fn after_security(&self, _: &PeerId, _: Role, _: &Multiaddr) -> Result<(), Gated> {
        self.at("security")
    }
    fn after_mux(&self, connection: &Connection) -> Result<(), Gated> {
        let _: &ConnectionInfo = connection.info();
        self.at("mux")
    }
}

fn gated(moment: &'static str) -> Config {
    let mut config = quick();
    config.gater = Some(Arc::new(Refuser(moment)));
    config
}

#[tokio::test]
async fn who_is_refused_at_accept_over_quic_hears_nothing() {
    let server = endpoint(gated("accept")).await;
    let addr = listen(&server, "/ip4/127.0.0.1/udp/0/quic-v1").await;
    let client = endpoint(quick()).await;
    let mut dial = Box::pin(client.connect(addr));
    let answer = tokio::time::timeout(Duration::from_millis(700), &mut dial).await;
    assert!(answer.is_err(), "{answer:?}");
    assert!(server.incidents(Incident::Gated) > 0);
}

#[tokio::test]
async fn the_gater_of_the_dialling_side_refuses_with_its_reason() {
    let (_router, addr) = node().await;
    for moment in ["dial", "security", "mux"] {
        let client = endpoint(gated(moment)).await;
        let error = client.connect(addr.clone()).await.unwrap_err();
        let DialError::Gated { why, .. } = error else {
            panic!("{moment}: {error}");
        };
        assert_eq!(why, "not today", "{moment}");
        assert!(client.connections().is_empty());
    }
}

#[tokio::test]
async fn the_gater_of_the_listening_side_tells_where_it_can() {
    for moment in ["security", "mux"] {
        let (router, addr) = node_with(gated(moment)).await;
        let (_client, connection) = client_of(&addr).await;
        let (reason, _) = ended(&connection, Instant::now()).await;
        assert_eq!(reason, CloseReason::Remote(0x1007), "{moment}");
        eventually("the count", || {
            router.endpoint().incidents(Incident::Gated) == 1
        })
        .await;
        assert!(router.endpoint().connections().is_empty());
    }
    let (router, addr) = node_with(gated("accept")).await;
    let client = endpoint(quick()).await;
    client.connect(addr).await.unwrap_err();
    assert_eq!(router.endpoint().incidents(Incident::Gated), 1);
    assert_eq!(router.endpoint().pending_inbound(), 0);
}

#[tokio::test]
async fn a_kept_peer_is_held_open_and_found_again() {
    let keys = keypair();
    let start = async |addr: &str| {
        let server = Endpoint::builder(keys.clone())
            .config(impatient())
            .bind()
            .await
            .unwrap();
        let addr = listen(&server, addr).await;
        (server, addr)
    };
    let (server, addr) = start("/ip4/127.0.0.1/tcp/0").await;
    let client = endpoint(impatient()).await;
    // Without the id: it is learnt and then insisted on.
    let kept = client.keep_connected([addr.clone().without_peer()]);
    let mut states = kept.watch();
    let connected = |state: &KeptState| matches!(state, KeptState::Connected { .. });
    soon("the connection", states.wait_for(connected))
        .await
        .unwrap();
    // Both sides would have closed it by now.
    tokio::time::sleep(4 * IDLE).await;
    assert!(connected(&kept.state()));
    let why = client.connections()[0].why_open().to_string();
    assert!(
        why.contains("lease kept") && why.contains("/barewire/hold/1.0.0"),
        "{why}"
    );
    server.shutdown(Duration::from_secs(1)).await;
    drop(server);
    let waiting = |state: &KeptState| matches!(state, KeptState::Backoff { .. });
    let state = soon("a failure", states.wait_for(waiting))
        .await
        .unwrap()
        .clone();
    println!("after the server went: {state:?}");
    // Somebody else on the same port will not do.
    let place = addr.clone().without_peer().to_string();
    let impostor = endpoint(quick()).await;
    listen(&impostor, &place).await;
    let refused = |state: &KeptState| format!("{state:?}").contains("PeerId");
    let wrong = |state: &KeptState| waiting(state) && refused(state);
    let wrong = soon("the impostor", states.wait_for(wrong))
        .await
        .unwrap()
        .clone();
    println!("with an impostor in its place: {wrong:?}");
    impostor.shutdown(Duration::from_secs(1)).await;
    drop(impostor);
    let since = Instant::now();
    let (_server, _) = start(&place).await;
    soon("the reconnection", states.wait_for(connected))
        .await
        .unwrap();
    println!("reconnected {:?} after it was back", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(4));
    drop(kept);
    eventually("the end of the lease", || {
        client
            .connections()
            .iter()
            .all(|c| c.why_open().holds.is_empty())
    })
    .await;
    assert!(matches!(*states.borrow(), KeptState::Stopped));
}

#[tokio::test]
async fn keeping_a_peer_does_not_keep_the_endpoint() {
    let (_router, addr) = node().await;
    let client = endpoint(quick()).await;
    let kept = client.keep_connected([addr]);
    let mut states = kept.watch();
    let connected = |state: &KeptState| matches!(state, KeptState::Connected { .. });
    soon("the connection", states.wait_for(connected))
        .await
        .unwrap();
    drop(client);
    let stopped = |state: &KeptState| *state == KeptState::Stopped;
    soon("the end", states.wait_for(stopped)).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_says_so() {
    let (router, _client, connection) = pair(quick()).await;
    let server = server_side(&router);
    router.shutdown(Duration::from_secs(5)).await;
    assert_eq!(
        server.closed().await,
        CloseReason::Local(LocalReason::Shutdown)
    );
    assert_eq!(connection.closed().await, CloseReason::Remote(0x1006));
}

#[tokio::test]
async fn a_peer_that_identifies_often_is_idle_all_the_same() {
    let (_router, _client, connection) = pair(impatient()).await;
    let since = Instant::now();
    while connection.close_reason().is_none() {
        assert!(since.elapsed() < IDLE + Duration::from_secs(2));
        if let Ok(mut stream) = connection.open_stream(identify::PROTOCOL).await {
            let _ = stream.read_chunk(4096).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn dials_take_their_part_of_the_descriptors() {
    // They connect, and nobody answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent: Multiaddr = format!("/ip4/127.0.0.1/tcp/{}", silent.local_addr().unwrap().port())
        .parse()
        .unwrap();
    let (_router, addr) = node().await;
    let mut config = quick();
    config.limits.max_descriptors = config.limits.max_pending_inbound + 2;
    let client = endpoint(config).await;
    let dials = [(); 2].map(|()| {
        let (client, silent) = (client.clone(), silent.clone());
        tokio::spawn(async move { client.dial(silent).await.map(drop) })
    });
    eventually("two dials", || client.dial_stats().running == 2).await;
    let error = client.connect(addr.clone()).await.unwrap_err();
    println!("a third dial with two descriptors: {error}");
    let DialError::Limit { limit, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(limit, Refusal::Descriptors);
    for dial in &dials {
        dial.abort();
    }
    let connected = async {
        while client.connect(addr.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("a connection", connected).await;
}
