//! Reservations that are kept, and connections that move on.

use std::time::{Duration, Instant};

use barewire_node::protocols::{echo, relay::RelayServerConfig};
use bytes::Bytes;

use crate::{DEADLINE, Node, through, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circuit_is_a_connection_like_others_until_there_is_a_direct_one() {
    let relay = Node::relay(RelayServerConfig::default()).await;
    let listener = Node::behind(2, &[&relay]).await;
    let dialler = Node::start(
        3,
        "/ip4/127.0.0.1/tcp/0",
        Vec::new(),
        RelayServerConfig::default(),
    )
    .await;
    let connection = dialler
        .endpoint()
        .connect(through(&relay.addr, listener.peer()))
        .await
        .unwrap();
    let info = connection.info();
    assert!(info.is_relayed());
    let limit = info.limit.unwrap();
    assert_eq!(
        (limit.data, limit.duration),
        (Some(128 << 10), Some(Duration::from_secs(120)))
    );
    assert_eq!(relay.server.stats().circuits, 1);
    // What identify says of it: the way through the relay.
    let told = dialler.endpoint().identify(&connection).await.unwrap();
    let way = through(&relay.addr, listener.peer()).without_peer();
    assert!(told.listen_addrs.contains(&way), "{:?}", told.listen_addrs);
    let mut running = connection.open_stream(echo::PROTOCOL).await.unwrap();
    running
        .write_chunk(Bytes::from_static(b"one"))
        .await
        .unwrap();
    assert_eq!(running.read_chunk(9).await.unwrap().unwrap(), "one");

    let direct = dialler
        .endpoint()
        .dial(listener.addr.clone())
        .await
        .unwrap();
    assert!(!direct.info().is_relayed());
    let preferred = dialler.endpoint().connection(&listener.peer()).unwrap();
    assert!(
        preferred.is_same(&direct),
        "new streams go over the direct connection"
    );
    // What runs goes on, and when it has ended the circuit goes too.
    tokio::time::sleep(Duration::from_secs(2)).await;
    running
        .write_last(Bytes::from_static(b"two"))
        .await
        .unwrap();
    assert_eq!(running.read_chunk(9).await.unwrap().unwrap(), "two");
    assert_eq!(running.read_chunk(9).await.unwrap(), None);
    drop(running);
    let begun = Instant::now();
    until("the circuit drains", || connection.close_reason().is_some()).await;
    until("the relay forgets it", || {
        relay.server.stats().circuits == 0
    })
    .await;
    println!(
        "a stream went on over its circuit beside a direct connection; the circuit ended {:.1?} after it, having carried {} bytes",
        begun.elapsed(),
        relay.server.stats().carried
    );
    assert!(direct.close_reason().is_none());
    for node in [dialler, listener, relay] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_restarts_takes_its_clients_back_and_a_second_is_warm() {
    let first = Node::relay(RelayServerConfig::default()).await;
    let second = Node::start(
        4,
        "/ip4/127.0.0.1/tcp/0",
        Vec::new(),
        RelayServerConfig::default(),
    )
    .await;
    let listener = Node::behind(2, &[&first, &second]).await;
    let dialler = Node::start(
        3,
        "/ip4/127.0.0.1/tcp/0",
        Vec::new(),
        RelayServerConfig::default(),
    )
    .await;
    let addr = first.addr.clone();
    let announced = listener.endpoint().state().borrow().relay_addrs.clone();
    let ways = [&first, &second].map(|relay| through(&relay.addr, listener.peer()).without_peer());
    assert!(
        ways.iter().all(|way| announced.contains(way)),
        "{announced:?}"
    );
    first.stop().await;
    // Through the second it is reached all the while.
    let way = through(&second.addr, listener.peer());
    let connection = dialler.endpoint().connect(way).await.unwrap();
    echo::round_trip(&connection, echo::PROTOCOL, Bytes::from(vec![7; 1000]))
        .await
        .unwrap();
    connection.close(0);

    let bare = addr.clone().without_peer().to_string();
    let begun = Instant::now();
    let again = Node::start(1, &bare, Vec::new(), RelayServerConfig::default()).await;
    until("the client is back", || {
        again.server.stats().reservations == 1
    })
    .await;
    let took = begun.elapsed();
    assert!(
        listener
            .endpoint()
            .state()
            .borrow()
            .relay_addrs
            .contains(&ways[0]),
        "it kept its address"
    );
    let dialled = dialler
        .endpoint()
        .dial(through(&addr, listener.peer()))
        .await
        .unwrap();
    echo::round_trip(&dialled, echo::PROTOCOL, Bytes::from(vec![7; 1000]))
        .await
        .unwrap();
    println!(
        "a restarted relay had its client back after {took:.1?}; meanwhile a second led to it"
    );
    assert!(took < DEADLINE);
    for node in [dialler, listener, second, again] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reservations_are_renewed_early() {
    let mut config = RelayServerConfig::default();
    config.ledger.reservation = Duration::from_secs(4);
    let relay = Node::relay(config).await;
    let listener = Node::behind(2, &[&relay]).await;
    let mut state = listener.client.state();
    let until = state.borrow_and_update().reserved[0].until;
    let mut least = Duration::MAX;
    for _ in 0..2 {
        tokio::time::timeout(DEADLINE, state.changed())
            .await
            .unwrap()
            .unwrap();
        let now = Instant::now();
        least = least.min(until.max(now) - now);
        assert_eq!(state.borrow_and_update().reserved.len(), 1);
    }
    assert_eq!(relay.server.stats().reservations, 1);
    println!("reservations of 4 s were renewed twice, each before its end");
    for node in [listener, relay] {
        node.stop().await;
    }
}
