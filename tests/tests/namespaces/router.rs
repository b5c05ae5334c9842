//! A node behind a router that translates addresses, which learns from others where it can be reached.

use std::time::{Duration, Instant};

use barewire_base::{Keypair, Multiaddr, PeerId};
use barewire_node::{Endpoint, Router, protocols::echo};
use barewire_tests::{
    nat::{self, Nat, PUBLIC, World},
    netns, peers,
    process::{Process, text},
};
use tokio::sync::oneshot;

const SOON: Duration = Duration::from_secs(60);
/// Observers, each in a network of its own: as many as have to agree.
const OBSERVERS: [&str; 4] = PUBLIC;

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
    namespace: std::fs::File,
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    let (done, result) = oneshot::channel();
    std::thread::spawn(move || {
        netns::enter(&namespace).unwrap();
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
    if let Err(reason) = nat::available() {
        barewire_tests::skip(&reason);
        return;
    }
    let barewire = peers::barewire().expect("barewire builds");
    let world = World::new(Duration::ZERO).unwrap();
    let home = world.home(1, Nat::PortRestricted).unwrap();
    let (ready, is_ready) = oneshot::channel();
    let (come, coming) = oneshot::channel();
    let (expect, expected) = oneshot::channel();
    let observers = tokio::spawn(within(
        world.namespace().open().unwrap(),
        observe(ready, coming, expected),
    ));
    is_ready.await.expect("the observers listen");

    let mut command = home.command(barewire);
    let listen = format!("/ip4/{}/udp/4001/quic-v1", home.inside());
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
    let outside = inside
        .clone()
        .with_ip(home.outside().parse().unwrap())
        .unwrap();
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
