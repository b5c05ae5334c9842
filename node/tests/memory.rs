//! A node whose memory is short, told so by a source that the test sets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use barewire_node::{
    CloseReason, Connection, Endpoint, Incident, Multiaddr, Router,
    manager::{MemorySource, MemoryUse},
    protocols::ping,
};
use common::*;

/// What the source answers when it cannot be read.
const FAILS: u64 = u64::MAX;
/// A limit of which an idle connection takes some percent, by what it is reckoned to cost.
const SMALL: u64 = 500_000;
/// One of which it takes next to nothing.
const LARGE: u64 = 1 << 30;

#[derive(Debug)]
struct Memory {
    /// Percent of the limit, or [`FAILS`].
    used: AtomicU64,
    limit: u64,
}

impl Memory {
    fn set(&self, percent: u64) {
        self.used.store(percent, Ordering::Relaxed);
    }
}

impl MemorySource for Memory {
    fn read(&self) -> io::Result<Option<MemoryUse>> {
        match self.used.load(Ordering::Relaxed) {
            FAILS => Err(io::Error::other("no descriptor is left")),
            percent => Ok(Some(MemoryUse {
                used: self.limit / 100 * percent,
                limit: self.limit,
            })),
        }
    }
}

async fn start(limit: u64) -> (Arc<Memory>, Router, Multiaddr) {
    let used = AtomicU64::new(0);
    let memory = Arc::new(Memory { used, limit });
    let mut config = quick();
    config.memory = Some(Arc::clone(&memory) as _);
    let (router, addr) = node_with(config).await;
    (memory, router, addr)
}

/// Connections that are known at both ends.
async fn connect(addr: &Multiaddr, count: usize) -> Vec<(Endpoint, Connection)> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let (client, connection) = client_of(addr).await;
        ping::ping(&connection, SOON).await.unwrap();
        clients.push((client, connection));
    }
    clients
}

/// Dials until it is served; how long that took.
async fn served(addr: &Multiaddr) -> Duration {
    let began = Instant::now();
    let dials = async {
        loop {
            let client = endpoint(quick()).await;
            if let Ok(connection) = client.connect(addr.clone()).await
                && ping::ping(&connection, SOON).await.is_ok()
            {
                return began.elapsed();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("a dial", dials).await
}

#[tokio::test]
async fn a_failed_read_does_not_end_the_watch() {
    let (memory, router, addr) = start(SMALL).await;
    memory.set(FAILS);
    let clients = connect(&addr, 2).await;
    // It has been tried at least once by now.
    memory.set(97);
    for (_, connection) in &clients {
        let reason = soon("the end", connection.closed()).await;
        assert_eq!(reason, CloseReason::Remote(0x1001));
    }
    assert_eq!(router.endpoint().incidents(Incident::MemoryShort), 2);
}

#[tokio::test]
async fn the_node_serves_again_at_once_when_the_shortage_is_over() {
    let (memory, router, addr) = start(SMALL).await;
    let clients = connect(&addr, 4).await;
    memory.set(97);
    for (_, connection) in &clients {
        let reason = soon("the end", connection.closed()).await;
        assert_eq!(reason, CloseReason::Remote(0x1001));
    }
    eventually("an empty node", || {
        router.endpoint().connections().is_empty()
    })
    .await;
    memory.set(50);
    let took = served(&addr).await;
    println!("all shed at 97 %: served again {took:.2?} after it is 50 %");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn memory_that_others_hold_keeps_nobody_out() {
    let (memory, router, addr) = start(LARGE).await;
    memory.set(97);
    let clients = connect(&addr, 3).await;
    // Longer than the watch is patient.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (_newcomer, connection) = connect(&addr, 1).await.remove(0);
    for connection in clients.iter().map(|(_, c)| c).chain([&connection]) {
        assert_eq!(connection.close_reason(), None);
    }
    assert_eq!(router.endpoint().incidents(Incident::MemoryShort), 0);
}

#[tokio::test]
async fn what_protected_peers_hold_keeps_nobody_out() {
    let (memory, router, addr) = start(2 * SMALL).await;
    let clients = connect(&addr, 3).await;
    for (client, _) in &clients {
        router.endpoint().protect(client.peer_id(), "friend");
    }
    memory.set(97);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let newcomer = connect(&addr, 1).await;
    for (_, connection) in clients.iter().chain(&newcomer) {
        assert_eq!(connection.close_reason(), None);
    }
}
