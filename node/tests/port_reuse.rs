//! Which port TCP dials leave from.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::time::{Duration, Instant};

use barewire_node::{Connection, DialError, Endpoint, ListenError, Multiaddr};
use barewire_transport::TransportError;
use common::{SOON, endpoint, eventually, listen, quick};

const ANY: &str = "/ip4/127.0.0.1/tcp/0";

/// What the server sees of the client.
async fn seen(server: &Endpoint, client: &Endpoint) -> Multiaddr {
    eventually("accepted", || {
        server.connection(&client.peer_id()).is_some()
    })
    .await;
    let connection = server.connection(&client.peer_id()).unwrap();
    connection.info().remote_addr.clone()
}

async fn close(server: &Endpoint, connection: &Connection) {
    connection.close(0);
    eventually("closed", || server.connections().is_empty()).await;
}

/// Whether `node` is seen at its listening address when it dials `target`, a listener of `other`.
async fn reuses(node: &Endpoint, other: &Endpoint, target: Multiaddr) -> bool {
    let (own, _) = node.listen_addrs()[0].to_tcp().unwrap();
    let own = Multiaddr::tcp(([127, 0, 0, 1], own.port()).into());
    let connection = node.dial(target).await.unwrap();
    let seen = seen(other, node).await;
    assert_eq!(connection.info().local_addr, seen);
    close(other, &connection).await;
    seen == own
}

#[tokio::test]
async fn dials_leave_from_the_listening_port() {
    for listening in [ANY, "/ip4/0.0.0.0/tcp/0"] {
        let (one, other) = (endpoint(quick()).await, endpoint(quick()).await);
        one.listen(listening.parse().unwrap()).await.unwrap();
        other.listen(ANY.parse().unwrap()).await.unwrap();
        let (port, _) = one.listen_addrs()[0].to_tcp().unwrap();
        let one_addr = Multiaddr::tcp(([127, 0, 0, 1], port.port()).into());
        let other_addr = other.listen_addrs()[0].clone();
        // The other could dial at the same time, so without its id nothing says which of the two may.
        assert!(!reuses(&one, &other, other_addr.clone()).await);
        assert!(!reuses(&other, &one, one_addr.clone()).await);
        // With it one of them does.
        let to_other = other_addr.with_peer(other.peer_id()).unwrap();
        let to_one = one_addr.with_peer(one.peer_id()).unwrap();
        let there = reuses(&one, &other, to_other).await;
        let back = reuses(&other, &one, to_one).await;
        assert_ne!(there, back);
    }
}

#[tokio::test]
async fn nothing_is_lost_where_the_port_cannot_be_used_again() {
    // Half of all pairs do.
    let (server, client, addr) = loop {
        let (server, client) = (endpoint(quick()).await, endpoint(quick()).await);
        let addr = listen(&server, ANY).await.without_peer();
        let addr = addr.with_peer(server.peer_id()).unwrap();
        listen(&client, ANY).await;
        if reuses(&client, &server, addr.clone()).await {
            break (server, client, addr);
        }
    };
    // A second connection beside the first.
    let first = client.dial(addr.clone()).await.unwrap();
    let second = client.dial(addr.clone()).await.unwrap();
    assert_ne!(first.info().local_addr, second.info().local_addr);
    // The same again and again, closed by either end: the kernel still knows the last one.
    let begun = Instant::now();
    let (mut worst, mut slow) = (Duration::ZERO, 0);
    for round in 0..60 {
        let dialled = Instant::now();
        let connection = client.dial(addr.clone()).await.unwrap();
        let took = dialled.elapsed();
        worst = worst.max(took);
        slow += u32::from(took > Duration::from_millis(900));
        if round % 2 == 0 {
            connection.close(0);
        } else {
            eventually("accepted", || server.connections().len() == 3).await;
            server.connections()[2].close(0);
        }
        eventually("closed", || client.connections().len() == 2).await;
        eventually("closed", || server.connections().len() == 2).await;
    }
    println!(
        "60 dials of one listener by a node that listens: {:.1?}, the slowest {worst:.1?}",
        begun.elapsed()
    );
    // A lost SYN is sent again after a second; were they lost, it would be every other one.
    assert!(slow <= 5, "{slow}, the slowest {worst:?}");
    assert!(begun.elapsed() < SOON);
}

#[tokio::test]
async fn it_can_be_turned_off() {
    let mut config = quick();
    config.tcp.reuse_port = false;
    let (server, client) = (endpoint(quick()).await, endpoint(config).await);
    let addr = listen(&server, ANY).await.without_peer();
    let own = listen(&client, ANY).await.without_peer();
    let _connection = client.dial(addr).await.unwrap();
    assert_ne!(seen(&server, &client).await, own);
}

#[tokio::test]
async fn a_port_is_not_shared_with_another_node() {
    let (one, other) = (endpoint(quick()).await, endpoint(quick()).await);
    let addr = listen(&one, ANY).await.without_peer();
    let remote = listen(&other, ANY).await.without_peer();
    // With a dial from it, which has its own way into the port.
    let _connection = one.dial(remote).await.unwrap();
    let error = other.listen(addr.clone()).await.unwrap_err();
    let in_use = matches!(
        &error,
        ListenError::Transport(TransportError::Io {
            kind: std::io::ErrorKind::AddrInUse,
            ..
        })
    );
    assert!(in_use, "{error}");
    let own = one.dial(addr).await;
    assert!(matches!(own, Err(DialError::OwnAddress(_))), "{own:?}");
}
