//! Listening sockets that the system takes away, as a phone does when it changes networks. Needs root, `ss` and a kernel
//! that can (`CONFIG_INET_DIAG_DESTROY`).
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{process::Command, time::Duration};

use barewire_node::{Endpoint, Event, EventItem, Events, Keypair, Multiaddr};
use barewire_tests::{peers, usage::Usage, within};
use tokio::time::{Instant, sleep, timeout};

const SOON: Duration = Duration::from_secs(10);

async fn endpoint() -> Endpoint {
    Endpoint::builder(Keypair::generate(&mut rand::rng()))
        .bind()
        .await
        .unwrap()
}

/// Destroys the sockets at a port. `false` where that cannot be done.
fn destroy(kind: &str, port: u16) -> bool {
    let port = format!(":{port}");
    let args = [kind, "-a", "-n", "-H", "-K", "sport", "=", &port];
    let said = Command::new("ss").args(args).output();
    // It names what it has destroyed.
    said.is_ok_and(|said| said.status.success() && !said.stdout.is_empty())
}

/// A port that is free. The kernel keeps a destroyed socket's port only if it was asked for.
fn free_port() -> u16 {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    probe.local_addr().unwrap().port()
}

async fn failed(events: &mut Events) {
    let failure = async {
        loop {
            if let Some(EventItem::Event(Event::AcceptFailed { .. })) = events.next().await {
                return;
            }
        }
    };
    timeout(SOON, failure).await.unwrap();
}

async fn connects(addr: &Multiaddr) -> Duration {
    let begun = Instant::now();
    loop {
        let client = endpoint().await;
        if client.connect(addr.clone()).await.is_ok() {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < SOON, "nobody listens");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_listener_outlives_its_socket() {
    for (name, kind, listen) in [
        ("QUIC", "-u", "udp/PORT/quic-v1"),
        ("TCP", "-t", "tcp/PORT"),
        ("WebSocket", "-t", "tcp/PORT/ws"),
    ] {
        let port = free_port();
        let at = |port: u16| {
            let listen = listen.replace("PORT", &port.to_string());
            format!("/ip4/127.0.0.1/{listen}")
                .parse::<Multiaddr>()
                .unwrap()
        };
        let node = endpoint().await;
        let mut events = node.events();
        let bound = node.listen(at(port)).await.unwrap();
        let addr = bound.clone().with_peer(node.peer_id()).unwrap();
        let client = endpoint().await;
        client.connect(addr.clone()).await.unwrap();
        if !destroy(kind, port) {
            assert!(!peers::required(), "CI destroys sockets: root and ss");
            println!("skipped: cannot destroy sockets");
            return;
        }
        if name == "QUIC" {
            // A UDP socket tells of it once, with the next packet, and goes on.
            let packet = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            packet.send_to(b"?", ("127.0.0.1", port)).unwrap();
        } else {
            failed(&mut events).await;
        }
        let took = connects(&addr).await;
        assert_eq!(node.listen_addrs(), [bound]);
        // It dials from its listening socket over QUIC; over TCP the port is free again.
        let (other, this) = (endpoint().await, Usage(std::process::id()));
        let other_addr = other.listen(at(0)).await.unwrap();
        node.connect(other_addr).await.unwrap();
        let before = this.cpu();
        sleep(Duration::from_secs(1)).await;
        let used = this.cpu() - before;
        println!(
            "{name}: connected {took:.1?} after the socket was destroyed; {used:?} of the next second used"
        );
        within(name, used, Duration::from_millis(250));
    }
}
