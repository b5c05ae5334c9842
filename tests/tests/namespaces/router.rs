//! A node behind a router that translates addresses, which learns from others where it can be reached.

use std::{
    fs::File,
    os::fd::AsFd,
    process::Command,
    time::{Duration, Instant},
};

use barewire_base::{Keypair, Multiaddr, PeerId};
use barewire_node::{Endpoint, Router, protocols::echo};
use barewire_tests::{
    debian, peers,
    process::{Process, text},
    wan,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

const SOON: Duration = Duration::from_secs(60);
/// The node, and the router on both sides.
const INSIDE: &str = "10.77.0.2";
const GATEWAY: &str = "10.77.0.1";
const OUTSIDE: &str = "203.0.113.1";
/// Observers, each in a network of its own: as many as have to agree.
const OBSERVERS: [&str; 4] = [
    "198.51.100.1",
    "198.51.101.1",
    "198.51.102.1",
    "198.51.103.1",
];

fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args}: {said}");
}

/// Namespaces `home`, `router` and `world`, deleted when dropped.
struct Net(u32);

impl Net {
    fn new() -> Self {
        let net = Self(std::process::id());
        let [home, router, world] = ["h", "r", "w"].map(|side| net.name(side));
        for side in [&home, &router, &world] {
            ip(&format!("netns add {side}"));
            ip(&format!("-n {side} link set lo up"));
        }
        for (side, port) in [(&home, "lan"), (&world, "wan")] {
            let pair = format!("type veth peer name eth0 netns {side}");
            ip(&format!("-n {router} link add {port} {pair}"));
            ip(&format!("-n {router} link set {port} up"));
            ip(&format!("-n {side} link set eth0 up"));
        }
        ip(&format!("-n {home} addr add {INSIDE}/24 dev eth0"));
        ip(&format!("-n {router} addr add {GATEWAY}/24 dev lan"));
        ip(&format!("-n {router} addr add {OUTSIDE}/24 dev wan"));
        ip(&format!("-n {home} route add default via {GATEWAY}"));
        ip(&format!("-n {world} addr add 203.0.113.2/24 dev eth0"));
        for observer in OBSERVERS {
            ip(&format!("-n {world} addr add {observer}/24 dev eth0"));
        }
        ip(&format!("-n {router} route add default via 203.0.113.2"));
        net.in_router("echo 1 > /proc/sys/net/ipv4/ip_forward");
        net.in_router(
            "nft add table ip nat && \
             nft add chain ip nat post '{ type nat hook postrouting priority 100; }' && \
             nft add rule ip nat post oifname wan masquerade",
        );
        net
    }

    fn name(&self, side: &str) -> String {
        format!("bwn{}{side}", self.0)
    }

    fn in_router(&self, line: &str) {
        let mut shell = Command::new("ip");
        shell.args(["netns", "exec", &self.name("r"), "sh", "-c", line]);
        let output = shell.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}");
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for side in ["h", "r", "w"] {
            let args = ["netns", "del", &self.name(side)];
            drop(Command::new("ip").args(args).output());
        }
    }
}

fn keypair_of(ip: &str) -> Keypair {
    let mut seed = [0; 32];
    seed[..ip.len()].copy_from_slice(ip.as_bytes());
    Keypair::from_seed(&seed)
}

fn addr_of(ip: &str) -> Multiaddr {
    format!("/ip4/{ip}/udp/4001/quic-v1").parse().unwrap()
}

async fn observer(ip: &str) -> Router {
    let endpoint = Endpoint::builder(keypair_of(ip)).bind().await.unwrap();
    let router = Router::builder(endpoint).accept(echo::PROTOCOL, echo::Echo);
    let router = router.spawn().unwrap();
    router.endpoint().listen(addr_of(ip)).await.unwrap();
    router
}

/// The observers' side: all but the last are there at once, the last one when `come` says so. Then it waits until each
/// was told of the node's address; how long that took.
async fn observe(
    ready: oneshot::Sender<()>,
    come: oneshot::Receiver<()>,
    expected: oneshot::Receiver<(PeerId, Multiaddr)>,
) -> Duration {
    let mut observers = Vec::new();
    for ip in &OBSERVERS[..3] {
        observers.push(observer(ip).await);
    }
    ready.send(()).unwrap();
    come.await.unwrap();
    observers.push(observer(OBSERVERS[3]).await);
    let (peer, addr) = expected.await.unwrap();
    let begun = Instant::now();
    let told = |observer: &Router| {
        let info = observer.endpoint().peer_info(&peer);
        info.is_some_and(|info| info.listen_addrs.contains(&addr))
    };
    while !observers.iter().all(told) {
        assert!(begun.elapsed() < SOON, "not all observers were told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    begun.elapsed()
}

/// Runs `work` on a runtime of a thread in the namespace.
async fn within<T: Send + 'static>(
    namespace: String,
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    let (done, result) = oneshot::channel();
    std::thread::spawn(move || {
        let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        // Nobody waits for it when the test has failed.
        drop(done.send(runtime.block_on(work)));
    });
    result.await.expect("the observers' side failed")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_others_see_is_announced() {
    if !wan::available() {
        barewire_tests::skip("needs root and iproute2 for network namespaces");
        return;
    }
    if let Err(reason) = debian::install("nft", "nftables") {
        barewire_tests::skip(&reason);
        return;
    }
    let barewire = peers::barewire().expect("barewire builds");
    let net = Net::new();
    let (ready, is_ready) = oneshot::channel();
    let (come, coming) = oneshot::channel();
    let (expect, expected) = oneshot::channel();
    let observers = tokio::spawn(within(net.name("w"), observe(ready, coming, expected)));
    is_ready.await.expect("the observers listen");

    let mut command = tokio::process::Command::new("ip");
    command
        .args(["netns", "exec", &net.name("h")])
        .arg(barewire);
    let listen = format!("/ip4/{INSIDE}/udp/4001/quic-v1");
    command.args(["listen", "--json", "--listen", &listen]);
    for ip in OBSERVERS {
        let addr = addr_of(ip).with_peer(keypair_of(ip).peer_id()).unwrap();
        command.args(["--keep", &addr.to_string()]);
    }
    let mut node = Process::spawn(command).unwrap();
    let inside: Multiaddr = node.listening(SOON).await.unwrap().parse().unwrap();
    let peer = inside.peer_id().unwrap();
    // Three networks agree at once, and that is not enough.
    let early = node
        .expect("external_address", Duration::from_secs(5))
        .await;
    assert!(early.is_err(), "{early:?}");
    come.send(()).unwrap();
    let event = node.expect("external_address", SOON).await.unwrap();
    let seen: Multiaddr = text(&event, "addr").unwrap().parse().unwrap();
    // Where the router puts its packets, at the port it listens on.
    let outside = inside.clone().with_ip(OUTSIDE.parse().unwrap()).unwrap();
    assert_eq!(seen, outside);
    expect.send((peer, outside.without_peer())).unwrap();
    let took = observers.await.unwrap();
    println!(
        "behind a router: three observers confirm nothing, the fourth confirms {seen}; {took:.1?} later a push had told \
         all four"
    );
    // The observers have left without a word, so there is nobody to say goodbye to.
    node.kill().await.unwrap();
}
