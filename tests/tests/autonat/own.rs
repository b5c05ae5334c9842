//! Servers and clients of our own.

use std::time::{Duration, Instant};

use barewire_base::framing;
use barewire_nat::autonat::{DialResponse, DialStatus, Message, ResponseStatus};
use barewire_node::{
    Connection, Event, EventItem, Router, Stream,
    protocols::autonat::{AutonatServerConfig, DIAL_REQUEST_PROTOCOL, Reachability},
};
use barewire_tests::within;
use bytes::BytesMut;

use crate::{Client, DEADLINE, Server, endpoint};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_find_a_node_reachable_and_it_says_so() {
    let begun = Instant::now();
    let listen = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.9/udp/0/quic-v1"];
    let client = Client::start(&listen).await;
    let mut events = client.endpoint().events();
    let mut servers = Vec::new();
    for n in 1..=3 {
        let ip = format!("127.0.{n}.1");
        servers.push(Server::start(&ip, AutonatServerConfig::default()).await);
    }
    for server in &servers[..2] {
        client.connect(&server.addr).await;
    }
    let two = client.until(|state| {
        let mut addrs = state.addrs.iter();
        addrs.any(|tested| tested.reached == 2)
    });
    assert_eq!(two.await.reachability, Reachability::Unknown);
    client.connect(&servers[2].addr).await;
    let all_public = |tested: &[barewire_node::protocols::autonat::TestedAddr]| {
        let mut all = tested.iter();
        tested.len() == 2 && all.all(|of| of.reachability == Reachability::Public)
    };
    let state = client.until(|state| all_public(&state.addrs)).await;
    assert_eq!(state.reachability, Reachability::Public);
    let took = begun.elapsed();
    let node = client.endpoint().state().borrow().clone();
    assert_eq!(node.reachability, Reachability::Public);
    assert_eq!(node.tested_addrs, state.addrs);
    let told = async {
        while let Some(event) = events.next().await {
            if let EventItem::Event(Event::Reachability { addrs, .. }) = event
                && all_public(&addrs)
            {
                return;
            }
        }
    };
    let told = tokio::time::timeout(DEADLINE, told).await;
    assert!(told.is_ok(), "no event tells it");
    // The second address is another than that where the servers see the client, so it has paid for each of those dials.
    let stats: Vec<_> = servers.iter().map(|server| server.server.stats()).collect();
    let paid: u64 = stats.iter().map(|stats| stats.data).sum();
    let reached: u64 = stats.iter().map(|stats| stats.reached).sum();
    println!(
        "two addresses were found to be reachable by three servers after {took:.1?}: {reached} dials, {paid} bytes of data"
    );
    assert!(reached >= 6 && (3 * 30_000..=400_000).contains(&paid));
    // A second, and twice the least time between requests to one server.
    within("both addresses known", took, Duration::from_secs(14));
    client.stop().await;
    for server in servers {
        assert_eq!(server.server.stats().running, 0);
        server.stop().await;
    }
}

/// Says that it has reached whatever it was asked about, and dials nobody.
async fn claim(mut stream: Stream, _: Connection) {
    let response = Message::DialResponse(DialResponse {
        status: ResponseStatus::Ok,
        index: 0,
        dial: DialStatus::Ok,
    });
    let mut framed = BytesMut::new();
    framing::encode_prefixed(&response.encode(), &mut framed);
    // The request is not even read.
    drop(stream.write_last(framed.freeze()).await);
}

/// Says that nothing can be reached.
async fn deny(mut stream: Stream, _: Connection) {
    let response = Message::DialResponse(DialResponse {
        status: ResponseStatus::Ok,
        index: 0,
        dial: DialStatus::DialError,
    });
    let mut framed = BytesMut::new();
    framing::encode_prefixed(&response.encode(), &mut framed);
    drop(stream.write_last(framed.freeze()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_lie_are_found_out_or_outvoted() {
    let client = Client::start(&["/ip4/127.0.0.1/tcp/0"]).await;
    let mut liars = Vec::new();
    for n in 0..3 {
        let endpoint = endpoint().await;
        let router = Router::builder(endpoint.clone());
        let router = match n {
            0 => router.accept(DIAL_REQUEST_PROTOCOL, deny),
            _ => router.accept(DIAL_REQUEST_PROTOCOL, claim),
        };
        let router = router.spawn().unwrap();
        let listen = format!("/ip4/127.0.{}.1/tcp/0", 10 + n).parse().unwrap();
        let bound = endpoint.listen(listen).await.unwrap();
        client
            .connect(&bound.with_peer(endpoint.peer_id()).unwrap())
            .await;
        liars.push(router);
    }
    let begun = Instant::now();
    let waiting = async {
        while client.client.lies() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(DEADLINE, waiting).await;
    assert!(found.is_ok(), "{} lies found", client.client.lies());
    let state = client.until(|state| state.addrs[0].failed == 1).await;
    assert_eq!(state.reachability, Reachability::Unknown);
    println!(
        "two servers that claim success are found out after {:.1?}, one that denies it decides nothing",
        begun.elapsed()
    );
    let mut servers = Vec::new();
    for n in 1..=3 {
        let ip = format!("127.0.{n}.1");
        let server = Server::start(&ip, AutonatServerConfig::default()).await;
        client.connect(&server.addr).await;
        servers.push(server);
    }
    let state = client
        .until(|state| state.reachability == Reachability::Public)
        .await;
    assert_eq!((state.addrs[0].reached, state.addrs[0].failed), (3, 1));
    println!("with three honest ones beside them the node knows that it is reachable");
    client.stop().await;
    for server in servers {
        server.stop().await;
    }
    for liar in liars {
        liar.shutdown(Duration::from_secs(1)).await;
    }
}
