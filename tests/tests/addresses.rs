//! Addresses, the peer book and metrics of whole nodes. Parts that need network namespaces are
//! skipped with a printed reason where they cannot be made.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use barewire_base::{Keypair, Multiaddr, PeerId};
use barewire_node::{
    Config, Endpoint, Router,
    peer_book::{AddressSource, PeerBook, PeerBookConfig, PeerBookError},
    protocols::{perf, ping},
};
use barewire_tests::netns;
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(
        timeout(SOON, waiting).await.is_ok(),
        "{what} did not happen"
    );
}

async fn endpoint(config: Config) -> Endpoint {
    let keypair = Keypair::generate(&mut rand::rng());
    let builder = Endpoint::builder(keypair).config(config);
    builder.bind().await.unwrap()
}

async fn perf_node(listen: &str) -> (Router, Multiaddr) {
    let endpoint = endpoint(Config::default()).await;
    let router = Router::builder(endpoint).accept(perf::PROTOCOL, perf::Perf);
    let router = router.spawn().unwrap();
    let bound = router.endpoint().listen(listen.parse().unwrap()).await;
    let addr = bound.unwrap().with_peer(router.endpoint().peer_id());
    (router, addr.unwrap())
}

/// A strict reader of OpenMetrics text: every sample belongs to the family announced before it, is
/// named as its type demands, occurs once, and the text ends with `# EOF`.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let (mut family, mut kind) = (String::new(), String::new());
    let mut families = Vec::new();
    let body = text.strip_suffix("# EOF\n").expect("ends with # EOF");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (what, name) = (words.next().unwrap(), words.next().unwrap());
            let value = words.next().unwrap();
            match what {
                "HELP" => {
                    assert!(!families.contains(&name.to_owned()), "{name} twice");
                    families.push(name.to_owned());
                    family = name.to_owned();
                }
                "TYPE" => {
                    assert_eq!(name, family, "{line}");
                    kind = value.to_owned();
                }
                "UNIT" => assert!(name.ends_with(&format!("_{value}")), "{line}"),
                _ => panic!("unknown line {line}"),
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        let bare = name.split('{').next().unwrap();
        let suffix = bare.strip_prefix(&*family).expect("of its family");
        let allowed: &[&str] = match &*kind {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => panic!("unknown type {kind}"),
        };
        assert!(allowed.contains(&suffix), "{line} in a {kind}");
        if let Some((_, labels)) = name.split_once('{') {
            let labels = labels.strip_suffix('}').unwrap();
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (key, value) = label.split_once('=').unwrap();
                assert!(key.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
                assert!(value.starts_with('"') && value.ends_with('"'), "{line}");
            }
        }
        assert!(
            samples.insert(name.to_owned(), value).is_none(),
            "{line} twice"
        );
    }
    samples
}

fn near(what: &str, actual: f64, expected: u64, percent: f64) {
    let off = 100.0 * (actual / expected as f64 - 1.0);
    println!("{what}: {actual} counted, {expected} moved, {off:.2} % more");
    assert!(off >= 0.0 && off < percent, "{what}");
}

/// 64 MiB each way: bytes by protocol and by transport are right, at both ends.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_moved() {
    // Packets of QUIC have headers and acknowledgements, and lost ones are sent again.
    for (transport, listen, overhead) in [
        ("tcp", "/ip4/127.0.0.1/tcp/0", 5.0),
        ("quic-v1", "/ip4/127.0.0.1/udp/0/quic-v1", 40.0),
    ] {
        let (server, addr) = perf_node(listen).await;
        let client = endpoint(Config::default()).await;
        let connection = client.connect(addr).await.unwrap();
        ping::ping(&connection, SOON).await.unwrap();
        perf::measure(&connection, 64 * MIB, 64 * MIB, |_| {})
            .await
            .unwrap();
        let label = |direction: &str| {
            let protocol = perf::PROTOCOL;
            format!(
                "barewire_stream_bytes_total{{protocol=\"{protocol}\",direction=\"{direction}\"}}"
            )
        };
        let socket = |direction: &str| {
            format!(
                "barewire_transport_bytes_total{{transport=\"{transport}\",direction=\"{direction}\"}}"
            )
        };
        for (end, node) in [("client", &client), ("server", server.endpoint())] {
            let samples = parse(&node.metrics());
            for direction in ["sent", "received"] {
                let what = format!("{transport} {end} {direction}");
                let stream = samples[&label(direction)];
                near(&format!("{what} /perf"), stream, 64 * MIB, 5.0);
                near(&what, samples[&socket(direction)], 64 * MIB, overhead);
            }
            let role = if end == "client" {
                "outbound"
            } else {
                "inbound"
            };
            let path = format!("{{transport=\"{transport}\",direction=\"{role}\"}}");
            assert_eq!(samples[&format!("barewire_connections{path}")], 1.0);
            assert_eq!(
                samples[&format!("barewire_connections_opened_total{path}")],
                1.0
            );
            assert_eq!(
                samples[&format!("barewire_handshake_seconds_count{path}")],
                1.0
            );
            let seconds = samples[&format!("barewire_handshake_seconds_sum{path}")];
            assert!(seconds > 0.0 && seconds < 5.0, "{seconds}");
        }
        let dials =
            format!("barewire_dials_total{{transport=\"{transport}\",outcome=\"connected\"}}");
        assert_eq!(parse(&client.metrics())[&dials], 1.0);
        // What was counted stays when the connection has gone.
        connection.close(0);
        drop(connection);
        eventually("the end", || client.connections().is_empty()).await;
        let samples = parse(&client.metrics());
        near(
            "after the end",
            samples[&socket("sent")],
            64 * MIB,
            overhead,
        );
        let closed = || {
            let samples = parse(&client.metrics()).into_iter();
            let closed =
                samples.filter(|(name, _)| name.starts_with("barewire_connections_closed"));
            closed.map(|(_, count)| count).sum::<f64>()
        };
        eventually("the count of the end", || closed() > 0.5).await;
        if let Some(count) = samples.get(&format!(
            "barewire_rtt_seconds_count{{transport=\"{transport}\"}}"
        )) {
            let sum = samples[&format!("barewire_rtt_seconds_sum{{transport=\"{transport}\"}}")];
            println!(
                "{transport}: mean of {count} round trips {:.6} s",
                sum / count
            );
            assert!(sum / count < 1.0 && sum > 0.0);
        }
    }
}

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("barewire-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir(&path).unwrap();
    path
}

fn book_at(path: &Path) -> PeerBookConfig {
    let mut config = PeerBookConfig::default();
    config.path = Some(path.to_owned());
    config.write_delay = Duration::from_millis(50);
    config
}

/// A node learns a peer; another run of it reaches that peer by nothing but its id.
#[tokio::test]
async fn a_peer_is_found_again_after_a_restart() {
    let dir = scratch("restart");
    let path = dir.join("peers.redb");
    let (server, addr) = perf_node("/ip4/127.0.0.1/tcp/0").await;
    let id = Multiaddr::empty()
        .with_peer(server.endpoint().peer_id())
        .unwrap();
    let mut config = Config::default();
    config.peer_book = book_at(&path);
    let client = endpoint(config.clone()).await;
    assert!(client.connect(id.clone()).await.is_err());
    let connection = client.connect(addr.clone()).await.unwrap();
    client.identify(&connection).await.unwrap();
    client.shutdown(SOON).await;
    drop((client, connection));
    let client = endpoint(config).await;
    let entry = client
        .peer_book()
        .entry(&server.endpoint().peer_id())
        .unwrap();
    assert_eq!(entry.addrs[0].source, AddressSource::Connection);
    assert_eq!(entry.addrs[0].addr, addr.without_peer());
    assert!(entry.signed_record.is_some());
    let connection = client.connect(id).await.unwrap();
    assert_eq!(connection.peer_id(), server.endpoint().peer_id());
    drop((client, connection));
    std::fs::remove_dir_all(&dir).unwrap();
}

fn peer(n: u8) -> PeerId {
    Keypair::from_seed(&[n; 32]).peer_id()
}

/// Any byte of the file may be wrong: the book opens with what is sound, or says what to do, and
/// nothing is wiped.
#[tokio::test]
async fn a_damaged_book_is_put_aside_and_never_wiped() {
    let dir = scratch("damage");
    let path = dir.join("peers.redb");
    let book = PeerBook::open(&book_at(&path)).unwrap();
    for n in 0..20 {
        let addr = format!("/ip4/198.51.100.{n}/tcp/4001").parse().unwrap();
        assert!(book.add(&peer(n), &addr));
    }
    book.flush().await.unwrap();
    assert!(matches!(
        PeerBook::open(&book_at(&path)),
        Err(PeerBookError::InUse { .. })
    ));
    drop(book);
    let sound = std::fs::read(&path).unwrap();
    let (mut opened, mut refused) = (0, 0);
    for at in (0..sound.len()).step_by(sound.len() / 97) {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x41;
        std::fs::write(&path, &bytes).unwrap();
        match PeerBook::open(&book_at(&path)) {
            Ok(book) => {
                opened += 1;
                for entry in book.entries() {
                    let n = (0..20).find(|n| peer(*n) == entry.peer_id).unwrap();
                    let addr = format!("/ip4/198.51.100.{n}/tcp/4001").parse().unwrap();
                    assert_eq!(book.addresses(&entry.peer_id), [addr]);
                }
            }
            Err(PeerBookError::Damaged { moved, .. }) => {
                refused += 1;
                assert_eq!(std::fs::read(&moved).unwrap().len(), sound.len());
                std::fs::remove_file(moved).unwrap();
                assert!(!path.exists());
            }
            Err(PeerBookError::NotAPeerBook { .. }) => {
                refused += 1;
                assert_eq!(std::fs::read(&path).unwrap(), bytes);
            }
            Err(other) => panic!("{other}"),
        }
    }
    println!("{opened} damaged files opened with what was sound, {refused} were refused");
    let other = dir.join("node.key");
    std::fs::write(&other, b"something else").unwrap();
    assert!(matches!(
        PeerBook::open(&book_at(&other)),
        Err(PeerBookError::NotAPeerBook { .. })
    ));
    assert_eq!(std::fs::read(&other).unwrap(), b"something else");
    std::fs::remove_dir_all(&dir).unwrap();
}

/// An address that comes to an interface is announced, listened on and told to connected peers; one
/// that goes is taken back.
#[tokio::test]
async fn a_wildcard_follows_the_interfaces() {
    let name = format!("bw{}", std::process::id() % 100_000);
    if netns::ip(&format!(
        "link add name {name}a type veth peer name {name}b"
    ))
    .is_err()
    {
        barewire_tests::skip("no interface can be made here (this needs root and ip)");
        return;
    }
    let ip = |line: String| netns::ip(&line).unwrap();
    ip(format!("link set {name}a up"));
    let (server, addr) = perf_node("/ip4/0.0.0.0/tcp/0").await;
    let node = server.endpoint();
    let bound = addr.clone().without_peer();
    assert_eq!(node.listen_addrs(), std::slice::from_ref(&bound));
    assert!(!node.addresses().contains(&bound));
    let local = bound.with_ip([127, 0, 0, 1].into()).unwrap();
    assert!(node.addresses().contains(&local), "{:?}", node.addresses());
    let mut config = Config::default();
    config.identify.push_interval = Duration::from_millis(100);
    let client = endpoint(config).await;
    let connection = client.connect(local.clone()).await.unwrap();
    client.identify(&connection).await.unwrap();
    let id = node.peer_id();
    let new = bound.with_ip([10, 213, 77, 1].into()).unwrap();
    let told = |addr: &Multiaddr| {
        let info = client.peer_info(&id);
        info.is_some_and(|info| info.listen_addrs.contains(addr))
    };
    assert!(!told(&new));
    ip(format!("addr add 10.213.77.1/24 dev {name}a"));
    eventually("listening on it", || node.addresses().contains(&new)).await;
    eventually("the push", || told(&new)).await;
    let socket: SocketAddr = new.to_tcp().unwrap().0;
    tokio::net::TcpStream::connect(socket).await.unwrap();
    ip(format!("addr del 10.213.77.1/24 dev {name}a"));
    eventually("not listening any more", || {
        !node.addresses().contains(&new)
    })
    .await;
    assert!(node.addresses().contains(&local));
    ip(format!("link del {name}a"));
    println!("followed an address of an interface as it came and went, and told a peer");
}
