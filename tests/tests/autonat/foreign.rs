//! With go-libp2p, at public addresses of namespaces: their servers for our node, our servers for theirs, in both versions, with and
//! without a firewall. Needs root, `ip` and `nft`.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};

use barewire_tests::{
    debian,
    netns::{self, Netns},
    peers::{self, Foreign},
    process::{Failure, Process, text},
    within,
};
use futures::future::try_join_all;
use serde_json::Value;

use crate::DEADLINE;

/// Where servers are: each in a network of its own, all on one link.
const SERVERS: [&str; 3] = ["5.5.1.1", "5.5.2.1", "5.5.3.1"];
/// The node that is tested: the address that it is seen at, and another.
const HERE: &str = "5.5.9.2";
const ALSO_HERE: &str = "5.5.9.3";
/// Where it is if a router has these addresses, and that router.
const INSIDE: &str = "10.62.1.2";
const GATEWAY: &str = "10.62.1.1";

/// What is between the node and the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    /// A firewall lets no connections in.
    Firewall,
    /// A router translates addresses, and lets none in.
    Router,
    /// One that hands what comes to the port on to the node.
    Forwarding,
}

/// Turned away aloud, or each dial would take its whole time.
const REJECT: &str = "table ip filter {
    chain in {
        type filter hook input priority 0;
        iifname eth0 meta l4proto tcp ct state new reject with tcp reset
        iifname eth0 ct state new reject
    }
}";

/// The world, one node in it, and its router.
struct Net {
    world: Netns,
    _router: Netns,
    home: Netns,
}

impl Net {
    fn new(way: Way) -> Result<Self, Failure> {
        let (world, router, home) = (Netns::new("w")?, Netns::new("r")?, Netns::new("h")?);
        let translated = matches!(way, Way::Router | Way::Forwarding);
        let outermost = if translated { &router } else { &home };
        netns::cable((&world, "out"), (outermost, "eth0"))?;
        for addr in SERVERS {
            world.ip(&format!("addr add {addr}/16 dev out"))?;
        }
        for addr in [HERE, ALSO_HERE] {
            outermost.ip(&format!("addr add {addr}/16 dev eth0"))?;
        }
        if translated {
            netns::cable((&router, "lan"), (&home, "eth0"))?;
            router.ip(&format!("addr add {GATEWAY}/24 dev lan"))?;
            home.ip(&format!("addr add {INSIDE}/24 dev eth0"))?;
            home.ip(&format!("route add default via {GATEWAY}"))?;
            router.sysctl("net.ipv4.ip_forward=1")?;
            router.nft(
                "table ip nat {
                    chain post { type nat hook postrouting priority 100; oifname eth0 masquerade; }
                    chain pre { type nat hook prerouting priority -100; }
                }",
            )?;
        }
        match way {
            Way::Open => {}
            Way::Firewall => home.nft(REJECT)?,
            Way::Router => router.nft(REJECT)?,
            Way::Forwarding => router.nft(&format!(
                "add rule ip nat pre iifname eth0 tcp dport 4001 dnat to {INSIDE}"
            ))?,
        }
        Ok(Self {
            world,
            _router: router,
            home,
        })
    }

    /// A listener in the world.
    async fn listen(
        &self,
        program: &Path,
        at: &str,
        more: &[&str],
    ) -> Result<(Process, String), Failure> {
        let args = [&["listen", "--json", "--listen", at][..], more].concat();
        let mut process = start(&self.world, program, &args)?;
        let addr = process.listening(DEADLINE).await?;
        Ok((process, addr))
    }

    async fn servers(&self, program: &Path, more: &[&str]) -> Vec<(Process, String)> {
        let more = [&["--autonat-server"][..], more].concat();
        let servers = SERVERS.map(|ip| {
            let (more, at) = (more.clone(), tcp(ip));
            async move { self.listen(program, &at, &more).await }
        });
        try_join_all(servers).await.unwrap()
    }

    /// Our node at home, with connections to these.
    fn node(
        &self,
        ours: &Path,
        listen: &[String],
        servers: &[(Process, String)],
        more: &[&str],
    ) -> Process {
        let mut args = vec!["listen", "--json"];
        for addr in listen {
            args.extend(["--listen", addr]);
        }
        for (_, addr) in servers {
            args.extend(["--keep", addr]);
        }
        args.extend(more);
        start(&self.home, ours, &args).unwrap()
    }
}

fn start(side: &Netns, program: &Path, args: &[&str]) -> Result<Process, Failure> {
    let mut command = side.command(program);
    command.args(args);
    Process::spawn(command)
}

fn tcp(ip: &str) -> String {
    format!("/ip4/{ip}/tcp/4001")
}

fn quic(ip: &str) -> String {
    format!("/ip4/{ip}/udp/4001/quic-v1")
}

struct Stacks {
    ours: PathBuf,
    go: PathBuf,
}

/// What the tests need; one of them builds it.
fn ready() -> Option<&'static Stacks> {
    static STACKS: OnceLock<Option<Stacks>> = OnceLock::new();
    STACKS.get_or_init(stacks).as_ref()
}

fn stacks() -> Option<Stacks> {
    if !netns::available() {
        barewire_tests::skip("needs root and iproute2 for network namespaces");
        return None;
    }
    if let Err(reason) = debian::install("nft", "nftables") {
        barewire_tests::skip(&reason);
        return None;
    }
    let go = Foreign::Go.build_or_skip()?;
    let ours = peers::barewire().expect("barewire builds");
    Some(Stacks { ours, go })
}

/// Waits for the word that all addresses of a node are of one kind.
async fn all(node: &mut Process, kind: &str, count: usize) -> Value {
    let waiting = async {
        loop {
            let event = node.expect("reachability", DEADLINE).await.unwrap();
            let addrs = event["addrs"].as_array().unwrap();
            if addrs.len() == count && addrs.iter().all(|of| of["reachability"] == kind) {
                return event;
            }
        }
    };
    let told = tokio::time::timeout(DEADLINE, waiting).await;
    told.unwrap_or_else(|_| panic!("not all are {kind}: {}", node.stderr()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gos_servers_find_our_node_reachable() {
    let Some(stacks) = ready() else { return };
    let net = Net::new(Way::Open).unwrap();
    let servers = net.servers(&stacks.go, &[]).await;
    let begun = Instant::now();
    let listen = [tcp(HERE), quic(HERE), tcp(ALSO_HERE)];
    let mut node = net.node(&stacks.ours, &listen, &servers, &[]);
    let event = all(&mut node, "public", 3).await;
    let took = begun.elapsed();
    println!(
        "three servers of go-libp2p, three addresses, for one of which data is due: {took:.1?}: {event}"
    );
    assert_eq!(event["reachability"], "public");
    within("three addresses known", took, Duration::from_secs(25));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gos_servers_find_our_node_unreachable() {
    let Some(stacks) = ready() else { return };
    let net = Net::new(Way::Firewall).unwrap();
    let servers = net.servers(&stacks.go, &[]).await;
    let mut node = net.node(&stacks.ours, &[tcp(HERE)], &servers, &[]);
    let event = all(&mut node, "private", 1).await;
    println!("three servers of go-libp2p, a firewall: {event}");
    assert_eq!(event["reachability"], "private");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gos_servers_of_version_1_will_do() {
    let Some(stacks) = ready() else { return };
    for way in [Way::Open, Way::Firewall] {
        // Theirs takes 15 s to say no.
        let firewall = way == Way::Firewall;
        if firewall && !barewire_tests::full() {
            continue;
        }
        let net = Net::new(way).unwrap();
        let servers = net.servers(&stacks.go, &["--v1"]).await;
        let mut node = net.node(&stacks.ours, &[tcp(HERE)], &servers, &[]);
        let event = node.expect("reachability", DEADLINE).await.unwrap();
        println!("three servers of go-libp2p that speak version 1 alone: {event}");
        let kind = if firewall { "private" } else { "public" };
        assert_eq!(event["reachability"], kind);
        assert_eq!(event["addrs"][0]["reachability"], "unknown");
    }
}

/// Asks one of our servers, as go-libp2p.
async fn go_asks(
    net: &Net,
    go: &Path,
    server: &str,
    listen: &str,
    more: &[&str],
) -> Result<Value, Failure> {
    let args = [&["autonat", server, "--listen", listen][..], more].concat();
    let mut process = start(&net.home, go, &args)?;
    let event = process.expect("autonat", DEADLINE).await?;
    Ok(event)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_server_dials_gos_clients() {
    let Some(stacks) = ready() else { return };
    let mut failures = Vec::new();
    for (way, kind) in [(Way::Open, "Public"), (Way::Firewall, "Private")] {
        let firewall = way == Way::Firewall;
        let net = Net::new(way).unwrap();
        let more = ["--autonat-server"];
        let server = net.listen(&stacks.ours, &tcp(SERVERS[0]), &more).await;
        let (_server, addr) = server.unwrap();
        let mut cases = vec![
            ("TCP", tcp(HERE), vec!["--test-addr".to_owned(), tcp(HERE)]),
            (
                "TCP, for data",
                tcp(ALSO_HERE),
                vec!["--test-addr".to_owned(), tcp(ALSO_HERE)],
            ),
        ];
        if !firewall {
            // Nobody hears that a packet of UDP was turned away.
            let quic = quic(HERE);
            cases.push(("QUIC", quic.clone(), vec!["--test-addr".to_owned(), quic]));
        }
        if !firewall || barewire_tests::full() {
            cases.push(("version 1", tcp(HERE), vec!["--v1".to_owned()]));
        }
        for (what, listen, more) in cases {
            let more: Vec<_> = more.iter().map(String::as_str).collect();
            let begun = Instant::now();
            match go_asks(&net, &stacks.go, &addr, &listen, &more).await {
                Ok(event) if event["reachability"] == kind => {
                    println!(
                        "go asks our server, {what}: {:.1?}: {event}",
                        begun.elapsed()
                    );
                }
                Ok(event) => failures.push(format!("{what}, not {kind}: {event}")),
                Err(cause) => failures.push(format!("{what}: {cause}")),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_are_for_those_who_need_them() {
    let Some(stacks) = ready() else { return };
    for (way, listen, kind) in [
        (Way::Firewall, HERE, "private"),
        (Way::Router, "0.0.0.0", "private"),
        (Way::Forwarding, "0.0.0.0", "public"),
    ] {
        let net = Net::new(way).unwrap();
        let servers = net.servers(&stacks.ours, &["--relay-server"]).await;
        let more = ["--relay", &servers[0].1, "--relay-auto"];
        let mut node = net.node(&stacks.ours, &[tcp(listen)], &servers, &more);
        let event = all(&mut node, kind, 1).await;
        // Behind a router it is the router's address that was tested.
        assert_eq!(event["addrs"][0]["addr"], tcp(HERE), "{way:?}");
        let at = if kind == "public" {
            let relayed = node.expect("relay_address", Duration::from_secs(2));
            assert!(relayed.await.is_err(), "it has a reservation");
            tcp(HERE)
        } else {
            let reserved = node.expect("relay_address", DEADLINE).await.unwrap();
            text(&reserved, "addr").unwrap().to_owned()
        };
        println!("{way:?}: {event}: reached at {at}");
        // What it tells others is where it can be reached, and not where it cannot.
        let identify = ["identify", &at, "--json"];
        let mut asked = start(&net.world, &stacks.ours, &identify).unwrap();
        let told = asked.expect("identify", DEADLINE).await.unwrap();
        let told = told["listen_addrs"].to_string();
        assert_eq!(told.contains("/p2p-circuit"), kind == "private", "{told}");
        assert_eq!(told.contains(&tcp(HERE)), kind == "public", "{told}");
    }
}
