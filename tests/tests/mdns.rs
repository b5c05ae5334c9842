//! mDNS in a network namespace, with real go, rust and js peers and among ourselves over IPv6 alone. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use barewire_tests::{
    netns::{self, Netns},
    peers::{self, Foreign},
    process::{Process, text},
    skip,
};

const SOON: Duration = Duration::from_secs(60);

/// A namespace with two interfaces that are each other's cable.
struct Network(Netns);

impl Network {
    /// `None` where no namespace can be made.
    fn new(addrs: &[&str]) -> Option<Self> {
        if !netns::available() {
            skip("network namespaces need root");
            return None;
        }
        let this = Netns::new("mdns").unwrap();
        // Addresses are usable at once.
        for which in ["all", "default"] {
            let setting = format!("net.ipv6.conf.{which}.accept_dad=0");
            this.sysctl(&setting).unwrap();
        }
        netns::cable((&this, "one"), (&this, "two")).unwrap();
        for (dev, addr) in ["one", "two"].iter().zip(addrs) {
            this.ip(&format!("addr add {addr} dev {dev}")).unwrap();
        }
        // js-libp2p leaves the interface to the routes.
        this.ip("route add 224.0.0.0/4 dev one").unwrap();
        Some(Self(this))
    }

    fn listen(&self, program: &Path, listen: &str) -> Process {
        let mut command = self.0.command(program);
        command.args(["listen", "--json", "--mdns", "--listen", listen]);
        Process::spawn(command).unwrap()
    }
}

/// The id in what a listener announces.
async fn id(process: &mut Process) -> String {
    let addr = process.listening(SOON).await.unwrap();
    addr.rsplit('/').next().unwrap().to_owned()
}

/// Waits until a process has found a peer; returns where.
async fn finds(process: &mut Process, peer: &str) -> String {
    loop {
        let found = process.expect("mdns", SOON).await.unwrap();
        if text(&found, "peer").unwrap() == peer {
            return text(&found, "addr").unwrap().to_owned();
        }
    }
}

async fn each_other(stack: Foreign, mutual: bool) {
    let Some(theirs) = stack.build_or_skip() else {
        return;
    };
    let Some(network) = Network::new(&["10.77.0.1/24", "10.78.0.1/24"]) else {
        return;
    };
    let ours = peers::barewire().expect("barewire builds");
    let everywhere = "/ip4/0.0.0.0/tcp/0";
    let mut ours = network.listen(&ours, everywhere);
    let our_id = id(&mut ours).await;
    let mut theirs = network.listen(&theirs, everywhere);
    let their_id = id(&mut theirs).await;
    let begun = Instant::now();
    let at = finds(&mut ours, &their_id).await;
    println!("ok   {stack}: found at {at} after {:?}", begun.elapsed());
    if !mutual {
        return;
    }
    let at = finds(&mut theirs, &our_id).await;
    println!("ok   {stack}: finds us at {at} after {:?}", begun.elapsed());
}

#[tokio::test]
async fn go() {
    each_other(Foreign::Go, true).await;
}

#[tokio::test]
async fn js() {
    // Of what it makes of our answers nothing is known: in these networks it reports no peer.
    each_other(Foreign::Js, false).await;
}

#[tokio::test]
async fn ourselves_over_ipv6_alone_and_connect() {
    let Some(network) = Network::new(&[]) else {
        return;
    };
    let ours = peers::barewire().expect("barewire builds");
    let mut first = network.listen(&ours, "/ip6/::/tcp/0");
    let first_id = id(&mut first).await;
    let mut second = network.listen(&ours, "/ip6/::/tcp/0");
    let second_id = id(&mut second).await;
    finds(&mut first, &second_id).await;
    finds(&mut second, &first_id).await;
}
