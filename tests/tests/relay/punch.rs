//! Two nodes behind routers of their own that translate addresses, with a relay in the open between them: they come to a direct
//! connection, with go-libp2p at either end and as the relay too. Needs root, `ip` and `nft`.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use barewire_tests::{
    debian, full,
    peers::{self, Foreign},
    process::{Failure, Process, text},
    wan,
};

use crate::DEADLINE;

/// The relay, and the routers on the outside. Public addresses, because go-libp2p punches holes for no others.
const RELAY: &str = "5.5.5.1";
const ROUTERS: [&str; 2] = ["5.5.5.10", "5.5.5.20"];
const INSIDE: [&str; 2] = ["10.61.1.2", "10.61.2.2"];
const GATEWAYS: [&str; 2] = ["10.61.1.1", "10.61.2.1"];
const SIDES: [&str; 2] = ["a", "b"];

fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args}: {said}");
}

/// How a router gives ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nat {
    /// The same outside as inside; only who was written to may answer.
    Cone,
    /// Another for each that is written to.
    Symmetric,
}

/// Namespaces of the world, two routers and two homes, deleted when dropped.
struct Net(String);

impl Net {
    fn new(name: &str, nat: Nat) -> Self {
        let net = Self(format!("bwp{}{name}", std::process::id()));
        let world = net.name("w");
        ip(&format!("netns add {world}"));
        ip(&format!("-n {world} link set lo up"));
        ip(&format!("-n {world} link add br0 type bridge"));
        ip(&format!("-n {world} addr add {RELAY}/24 dev br0"));
        ip(&format!("-n {world} link set br0 up"));
        for (at, side) in SIDES.into_iter().enumerate() {
            let [home, router] = [net.name(side), net.name(&format!("r{side}"))];
            for namespace in [&home, &router] {
                ip(&format!("netns add {namespace}"));
                ip(&format!("-n {namespace} link set lo up"));
            }
            ip(&format!(
                "-n {world} link add name v{side} type veth peer name wan netns {router}"
            ));
            ip(&format!("-n {world} link set v{side} master br0 up"));
            ip(&format!(
                "-n {router} link add lan type veth peer name eth0 netns {home}"
            ));
            ip(&format!("-n {router} addr add {}/24 dev wan", ROUTERS[at]));
            ip(&format!("-n {router} addr add {}/24 dev lan", GATEWAYS[at]));
            ip(&format!("-n {home} addr add {}/24 dev eth0", INSIDE[at]));
            for (namespace, link) in [(&router, "wan"), (&router, "lan"), (&home, "eth0")] {
                ip(&format!("-n {namespace} link set {link} up"));
            }
            ip(&format!("-n {home} route add default via {}", GATEWAYS[at]));
            let masquerade = match nat {
                Nat::Cone => "masquerade",
                Nat::Symmetric => "masquerade fully-random",
            };
            let rules = format!(
                "echo 1 > /proc/sys/net/ipv4/ip_forward && \
                 nft add table ip nat && \
                 nft add chain ip nat post '{{ type nat hook postrouting priority 100; }}' && \
                 nft add rule ip nat post oifname wan {masquerade} && \
                 nft add table ip filter && \
                 nft add chain ip filter in '{{ type filter hook input priority 0; }}' && \
                 nft add rule ip filter in iifname wan ct state new drop && \
                 nft add chain ip filter forward '{{ type filter hook forward priority 0; }}' && \
                 nft add rule ip filter forward iifname wan ct state new drop"
            );
            let mut shell = Command::new("ip");
            shell.args(["netns", "exec", &router, "sh", "-c", &rules]);
            let output = shell.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{rules}: {said}");
        }
        net
    }

    fn name(&self, side: &str) -> String {
        format!("{}{side}", self.0)
    }

    fn start(&self, side: &str, program: &PathBuf, args: &[&str]) -> Result<Process, Failure> {
        let mut command = tokio::process::Command::new("ip");
        command
            .args(["netns", "exec", &self.name(side)])
            .arg(program)
            .args(["listen", "--json"])
            .args(args);
        Process::spawn(command)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for side in ["a", "b", "ra", "rb", "w"] {
            let args = ["netns", "del", &self.name(side)];
            drop(Command::new("ip").args(args).output());
        }
    }
}

/// Of a node in the home at `at`: where it listens, and where its router shows it.
fn address(transport: &str, ip: &str) -> String {
    match transport {
        "tcp" => format!("/ip4/{ip}/tcp/4001"),
        _ => format!("/ip4/{ip}/udp/4001/quic-v1"),
    }
}

struct Stacks {
    ours: PathBuf,
    go: PathBuf,
}

impl Stacks {
    fn of(&self, name: &str) -> &PathBuf {
        if name == "go" { &self.go } else { &self.ours }
    }

    /// `dialler → relay → listener`: how the first that tells it came to a direct connection, and after how long.
    async fn punch(
        &self,
        net: &Net,
        transport: &str,
        [dialler, relay, listener]: [&str; 3],
    ) -> Result<(String, Duration), Failure> {
        let at = address(transport, RELAY);
        let mut relaying = net.start("w", self.of(relay), &["--relay-server", "--listen", &at])?;
        let relay_addr = relaying.listening(DEADLINE).await?;
        let options = |at: usize, who: &str| {
            let listen = address(transport, "0.0.0.0");
            let mut options = vec!["--listen".to_owned(), listen];
            match who {
                "go" => options.extend(["--punch-addr".into(), address(transport, ROUTERS[at])]),
                _ => options.push("--events".into()),
            }
            options
        };
        let mut args = options(1, listener);
        args.extend(["--relay".into(), relay_addr]);
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let mut listening = net.start("b", self.of(listener), &args)?;
        let event = listening.expect("relay_address", DEADLINE).await?;
        let addr = text(&event, "addr")?.to_owned();
        let mut args = options(0, dialler);
        let how = if dialler == "go" {
            "--connect"
        } else {
            "--keep"
        };
        args.extend([how.into(), addr]);
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let begun = Instant::now();
        let mut dialling = net.start("a", self.of(dialler), &args)?;
        let ours = if listener == "ours" {
            &mut listening
        } else {
            &mut dialling
        };
        loop {
            let event = ours.expect("hole_punch", DEADLINE).await?;
            let step = text(&event, "step")?;
            if matches!(step, "direct" | "failed") {
                return Ok((event.to_string(), begun.elapsed()));
            }
        }
    }
}

fn ready() -> Option<Stacks> {
    if !wan::available() {
        barewire_tests::skip("needs root and iproute2 for network namespaces");
        return None;
    }
    if let Err(reason) = debian::install("nft", "nftables") {
        barewire_tests::skip(&reason);
        return None;
    }
    let go = match Foreign::Go.build() {
        Ok(go) => go,
        Err(reason) => {
            barewire_tests::skip(&reason.to_string());
            return None;
        }
    };
    let ours = peers::barewire().expect("barewire builds");
    Some(Stacks { ours, go })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_behind_routers_come_to_a_direct_connection() {
    let Some(stacks) = ready() else { return };
    let mut failures = Vec::new();
    for transport in ["quic", "tcp"] {
        for mix in [
            ["ours", "ours", "ours"],
            ["ours", "ours", "go"],
            ["go", "ours", "ours"],
            ["ours", "go", "ours"],
        ] {
            // Each in a net of its own: routers remember.
            let net = Net::new("c", Nat::Cone);
            let what = format!("{transport}: {} → {} → {}", mix[0], mix[1], mix[2]);
            match stacks.punch(&net, transport, mix).await {
                Ok((event, took)) if event.contains("\"direct\"") => {
                    println!("{what}: direct after {took:.1?}: {event}");
                }
                Ok((event, _)) => failures.push(format!("{what}: {event}")),
                Err(cause) => failures.push(format!("{what}: {cause}")),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_behind_symmetric_routers_stay_relayed() {
    if !full() {
        // Three attempts of 5 s.
        println!("left out: BAREWIRE_FULL=1 runs it");
        return;
    }
    let Some(stacks) = ready() else { return };
    let net = Net::new("s", Nat::Symmetric);
    let (event, took) = stacks.punch(&net, "quic", ["ours"; 3]).await.unwrap();
    assert!(event.contains("\"failed\""), "{event}");
    println!("symmetric routers: given up after {took:.1?}: {event}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_public_harness_gets_its_answer() {
    let Some(stacks) = ready() else { return };
    if let Err(reason) = debian::install("redis-server", "redis-server") {
        barewire_tests::skip(&reason);
        return;
    }
    let net = Net::new("h", Nat::Cone);
    let within = |side: &str, program: &std::path::Path| {
        let mut command = tokio::process::Command::new("ip");
        command
            .args(["netns", "exec", &net.name(side)])
            .arg(program)
            .kill_on_drop(true)
            .stdin(std::process::Stdio::null());
        command
    };
    let mut redis = within("w", "redis-server".as_ref());
    redis
        .args(["--bind", RELAY, "--protected-mode", "no"])
        .args(["--save", "", "--appendonly", "no"])
        .current_dir(std::env::temp_dir())
        .stdout(std::process::Stdio::null());
    let _redis = redis.spawn().unwrap();
    let part = |side: &str, more: &[(&str, &str)]| {
        let mut command = within(side, &stacks.ours);
        command
            .args(["interop", "hole-punch"])
            .env("REDIS_ADDR", format!("{RELAY}:6379"))
            .env("TEST_KEY", "a5b50d5e")
            .env("TRANSPORT", "quic-v1")
            .envs(more.iter().copied());
        command
    };
    let _relay = part("w", &[("IS_RELAY", "true"), ("RELAY_IP", RELAY)])
        .spawn()
        .unwrap();
    let _listener = part("b", &[]).spawn().unwrap();
    let mut dialler = part("a", &[("IS_DIALER", "true")]);
    let said = tokio::time::timeout(DEADLINE, dialler.output()).await;
    let said = said.expect("the dialler ends").unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
    assert_eq!(lines.get(1), Some(&"unit: ms"), "{text}");
    let time = lines[0].strip_prefix("handshakeTime: ").unwrap();
    println!("the harness reads {time} ms to a direct connection");
    assert!(time.parse::<f64>().unwrap() > 0.0);
}
