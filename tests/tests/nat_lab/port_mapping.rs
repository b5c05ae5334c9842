//! A real router daemon, miniupnpd, maps ports by UPnP, NAT-PMP and PCP; a peer outside comes through, also after the lease has ended once,
//! and nothing is left when the node has gone.

use std::{fs, path::PathBuf, process::Stdio, time::Duration};

use barewire_tests::{
    debian,
    nat::{self, Home, Nat, World},
    peers,
    process::{Failure, Process, run, text},
};
use futures::future::join_all;
use tokio::process::Child;

const DEADLINE: Duration = Duration::from_secs(60);
/// Of the mappings: renewed at half of it, and gone after it.
const LEASE: &str = "4";
const LEASES: Duration = Duration::from_secs(6);
/// Where miniupnpd puts its rules.
const CHAINS: &str = "
    table inet filter {
        chain miniupnpd { }
        chain prerouting_miniupnpd { }
        chain postrouting_miniupnpd { }
        chain forwarded { type filter hook forward priority 10; jump miniupnpd; }
        chain before { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
        chain after { type nat hook postrouting priority 90; jump postrouting_miniupnpd; }
    }";

/// The daemon of a home's innermost router, killed when dropped.
struct Daemon {
    config: PathBuf,
    _child: Child,
}

impl Daemon {
    fn start(home: &Home) -> Result<Self, Failure> {
        let router = &home.routers()[0];
        router.nft(CHAINS)?;
        let config = std::env::temp_dir().join(format!("{}-miniupnpd.conf", router.name()));
        fs::write(
            &config,
            "ext_ifname=wan\nlistening_ip=lan\nport=5000\nenable_natpmp=yes\nenable_upnp=yes\n\
             min_lifetime=1\nsecure_mode=yes\n",
        )?;
        let mut command = router.command("miniupnpd");
        command.arg("-f").arg(&config).arg("-P");
        command.arg(config.with_extension("pid")).arg("-d");
        let log = fs::File::create(config.with_extension("log"))?;
        command.stdout(Stdio::null()).stderr(log);
        Ok(Self {
            config,
            _child: command.stdin(Stdio::null()).spawn()?,
        })
    }

    fn log(&self) -> String {
        fs::read_to_string(self.config.with_extension("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for extension in ["conf", "pid", "log"] {
            fs::remove_file(self.config.with_extension(extension)).ok();
        }
    }
}

/// What the router sends on, as its kernel sees it.
async fn rules(home: &Home) -> String {
    let mut nft = home.routers()[0].command("nft");
    nft.args(["list", "chain", "inet", "filter", "prerouting_miniupnpd"]);
    let listed = nft.output().await.unwrap();
    String::from_utf8(listed.stdout).unwrap()
}

fn node(home: &Home, by: &str) -> Process {
    let mut command = home.command(peers::barewire().expect("barewire builds"));
    command.args([
        "listen",
        "--json",
        "--port-mapping",
        "--port-mapping-by",
        by,
    ]);
    command.args(["--port-mapping-lease", LEASE]);
    for listen in ["/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1"] {
        command.args(["--listen", listen]);
    }
    Process::spawn(command).unwrap()
}

/// A peer in the world gets through.
async fn reach(world: &World, addr: &str) -> Result<(), Failure> {
    let namespace = world.namespace().name();
    let ours = peers::barewire()?;
    let ours = ours.to_string_lossy();
    let ping = [
        "netns",
        "exec",
        namespace,
        &ours,
        "ping",
        addr,
        "--count",
        "1",
        "--json",
        "--timeout",
        "10",
    ];
    run("ip".as_ref(), ping, "ping", DEADLINE).await.map(drop)
}

async fn mapped_renewed_and_released(world: &World, number: u8, by: &str) -> Result<(), Failure> {
    let home = world.home(number, Nat::PortRestricted)?;
    let daemon = Daemon::start(&home)?;
    // It may take a moment until it answers, and a node that came first would ask again a minute later.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut node = node(&home, by);
    let mut addrs = Vec::new();
    for _ in 0..2 {
        let mapped = node.expect("mapped_address", DEADLINE).await;
        let mapped = mapped.map_err(|cause| format!("{by}: {cause}; {}", daemon.log()))?;
        addrs.push(text(&mapped, "addr")?.to_owned());
    }
    let outside = format!("/ip4/{}/", home.outside());
    assert!(
        addrs.iter().all(|addr| addr.starts_with(&outside)),
        "{addrs:?}"
    );
    for addr in &addrs {
        reach(world, addr)
            .await
            .map_err(|cause| format!("{by}: {cause}"))?;
    }
    tokio::time::sleep(LEASES).await;
    let before = rules(&home).await;
    assert_eq!(before.matches("dnat").count(), 2, "{by}: {before}");
    for addr in &addrs {
        reach(world, addr)
            .await
            .map_err(|cause| format!("{by}, renewed: {cause}"))?;
    }
    node.stop(DEADLINE).await?;
    let after = rules(&home).await;
    assert_eq!(after.matches("dnat").count(), 0, "{by}: {after}");
    println!(
        "{by}: {addrs:?} led to the node, still after {LEASES:?} with leases of {LEASE} s, and were given back"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routers_map_ports_by_each_protocol() {
    if let Err(reason) = nat::available() {
        barewire_tests::skip(&reason);
        return;
    }
    if let Err(reason) = debian::install("miniupnpd", "miniupnpd-nftables") {
        barewire_tests::skip(&reason);
        return;
    }
    let world = World::new(Duration::ZERO).unwrap();
    let world = &world;
    let by = ["upnp", "nat-pmp", "pcp"].iter().zip(1..);
    let all = join_all(by.map(|(by, number)| mapped_renewed_and_released(world, number, by)));
    for result in all.await {
        result.unwrap();
    }
}
