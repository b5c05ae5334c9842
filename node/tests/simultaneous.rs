//! Two nodes that dial each other at once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::time::{Duration, Instant};

use barewire_node::{
    CloseReason, Connection, Endpoint, HoldKind, LocalReason, Multiaddr, Role, Router,
    manager::KeptState,
    protocols::{echo, hold},
};
use bytes::Bytes;
use common::*;

/// Two nodes, the one with the smaller id first, with their addresses.
async fn two() -> [(Router, Multiaddr); 2] {
    let mut nodes = [node().await, node().await];
    nodes.sort_by_key(|(router, _)| router.endpoint().peer_id());
    nodes
}

fn only_role(endpoint: &Endpoint) -> Option<Role> {
    match &endpoint.connections()[..] {
        [one] => Some(one.role()),
        _ => None,
    }
}

/// Connects both ways at once. Without ids in the addresses, because a dial by id that comes a
/// moment late returns the connection the other side has just made.
async fn dial_each_other(
    one: (&Endpoint, Multiaddr),
    two: (&Endpoint, Multiaddr),
) -> (Connection, Connection) {
    let (a, b) = tokio::join!(
        one.0.connect(two.1.without_peer()),
        two.0.connect(one.1.without_peer())
    );
    (a.unwrap(), b.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_is_left_each_time() {
    const RUNS: usize = 60;
    for run in 0..RUNS {
        let [(small, small_addr), (large, large_addr)] = two().await;
        let (small, large) = (small.endpoint(), large.endpoint());
        let (to_large, to_small) = dial_each_other((small, small_addr), (large, large_addr)).await;
        // Whatever handle the caller got works while it is used.
        for connection in [&to_large, &to_small] {
            echo::round_trip(connection, echo::PROTOCOL, Bytes::from_static(b"at once"))
                .await
                .unwrap_or_else(|error| panic!("run {run}: {error}"));
        }
        // The smaller id's dial is kept, on both sides.
        eventually("one connection each", || {
            only_role(small) == Some(Role::Client) && only_role(large) == Some(Role::Server)
        })
        .await;
        assert!(to_large.close_reason().is_none());
        assert_eq!(
            to_small.close_reason(),
            Some(CloseReason::Local(LocalReason::Superseded))
        );
        let left = large.connection(&small.peer_id()).unwrap();
        echo::round_trip(&left, echo::PROTOCOL, Bytes::from_static(b"after"))
            .await
            .unwrap();
    }
    println!("{RUNS} of {RUNS} simultaneous dials left one connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dials_by_id_leave_one_connection_too() {
    let mut both = 0;
    for _ in 0..20 {
        let [(small, small_addr), (large, large_addr)] = two().await;
        let (small, large) = (small.endpoint(), large.endpoint());
        let (to_large, to_small) =
            tokio::join!(small.connect(large_addr), large.connect(small_addr));
        both += usize::from(
            to_large.unwrap().role() == Role::Client && to_small.unwrap().role() == Role::Client,
        );
        eventually("one connection each", || {
            (small.connections().len(), large.connections().len()) == (1, 1)
        })
        .await;
    }
    println!("{both} of 20 pairs of dials by id overlapped");
    assert!(both > 0);
}

#[tokio::test]
async fn streams_on_the_superseded_connection_run_to_their_end() {
    let [(small, small_addr), (large, large_addr)] = two().await;
    let (small, large) = (small.endpoint(), large.endpoint());
    let (kept, superseded) = dial_each_other((small, small_addr), (large, large_addr)).await;
    let mut stream = superseded.open_stream(echo::PROTOCOL).await.unwrap();
    let began = Instant::now();
    // Much longer than the grace.
    while began.elapsed() < Duration::from_millis(1_000) {
        let data = Bytes::from_static(b"still here");
        stream.write_chunk(data.clone()).await.unwrap();
        let mut back = 0;
        while back < data.len() {
            back += stream.read_chunk(usize::MAX).await.unwrap().unwrap().len();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(superseded.close_reason().is_none());
    // New streams go to the other one already.
    let current = large.connection(&small.peer_id()).unwrap();
    assert_eq!(current.role(), Role::Server);
    stream.finish().unwrap();
    assert_eq!(stream.read_chunk(1).await.unwrap(), None);
    drop(stream);
    eventually("the close", || superseded.close_reason().is_some()).await;
    eventually("one connection", || {
        small.connections().len() == 1 && large.connections().len() == 1
    })
    .await;
    assert!(kept.close_reason().is_none());
}

#[tokio::test]
async fn nodes_that_keep_each_other_end_with_one_held_connection() {
    let mut overlapped = 0;
    for _ in 0..10 {
        let [(small, small_addr), (large, large_addr)] = two().await;
        let (small, large) = (small.endpoint(), large.endpoint());
        let kept = [
            small.keep_connected([large_addr.without_peer()]),
            large.keep_connected([small_addr.without_peer()]),
        ];
        for kept in &kept {
            eventually("connected", || {
                matches!(kept.state(), KeptState::Connected { .. })
            })
            .await;
        }
        overlapped += usize::from(small.connections().len() > 1);
        eventually("one connection each", || {
            (small.connections().len(), large.connections().len()) == (1, 1)
        })
        .await;
        for (node, peer) in [(small, large), (large, small)] {
            let left = node.connection(&peer.peer_id()).unwrap();
            eventually("both keep it", || {
                let holds = left.why_open().holds;
                let of = |kind, name| holds.iter().any(|h| h.kind == kind && &*h.name == name);
                of(HoldKind::Lease, "kept") && of(HoldKind::Stream, hold::PROTOCOL)
            })
            .await;
        }
        for kept in &kept {
            assert!(matches!(kept.state(), KeptState::Connected { .. }));
        }
    }
    println!("{overlapped} of 10 pairs that keep each other had two connections at first");
    assert!(overlapped > 0);
}

#[tokio::test]
async fn two_connections_between_foreign_nodes_stay() {
    let mut config = quick();
    config.identify.agent_version = "other/1.0".into();
    let (one, one_addr) = node_with(config.clone()).await;
    let (two, two_addr) = node_with(config).await;
    dial_each_other((one.endpoint(), one_addr), (two.endpoint(), two_addr)).await;
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    assert_eq!(one.endpoint().connections().len(), 2);
    assert_eq!(two.endpoint().connections().len(), 2);
}
