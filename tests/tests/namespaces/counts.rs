//! Bytes by transport, as the node counts them and as the kernel does.

use std::{fs, path::PathBuf, sync::mpsc, time::Duration};

use barewire_base::{Keypair, Multiaddr};
use barewire_node::{
    Config, Endpoint, Router,
    protocols::perf,
    ws::{Certificate, Roots},
};
use barewire_tests::attack::net::{Side, at, bytes_on, isolated, victim_ip};
use data_encoding::BASE64;

const MIB: u64 = 1 << 20;
/// Bytes moved each way.
const MOVED: u64 = 32 * MIB;
/// How much more the kernel may have counted: its headers.
const ALLOWED: f64 = 1.05;

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

/// A certificate for the address of the listening side, in files that go with this value.
struct Files(PathBuf);

impl Files {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("barewire-counts-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut authority = rcgen::CertificateParams::new([]).unwrap();
        let name = "barewire's tests";
        authority
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let authority = rcgen::CertifiedIssuer::self_signed(authority, key).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new([victim_ip().to_string()]).unwrap();
        let leaf = leaf.signed_by(&key, &authority).unwrap();
        let pem = |file: &str, label: &str, der: &[u8]| {
            let lines = BASE64.encode(der);
            let lines: Vec<_> = lines
                .as_bytes()
                .chunks(64)
                .map(String::from_utf8_lossy)
                .collect();
            let text = lines.join("\n");
            let text = format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n");
            fs::write(folder.join(file), text).unwrap();
        };
        pem("ca.pem", "CERTIFICATE", authority.der());
        pem("cert.pem", "CERTIFICATE", leaf.der());
        pem("key.pem", "PRIVATE KEY", &key.serialize_der());
        Self(folder)
    }

    fn config(&self) -> Config {
        let file = |name: &str| self.0.join(name);
        let mut config = Config::default();
        let certificate = Certificate::from_pem_files(&file("cert.pem"), &file("key.pem"));
        config.ws.certificate = Some(certificate.unwrap());
        config.ws.roots = Roots::from_pem_file(&file("ca.pem")).unwrap();
        config
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

async fn endpoint(config: Config) -> Endpoint {
    let keypair = Keypair::generate(&mut rand::rng());
    let builder = Endpoint::builder(keypair).config(config);
    builder.bind().await.unwrap()
}

/// What a node says it has moved in all, sent and received.
fn counted(metrics: &str) -> [f64; 2] {
    ["sent", "received"].map(|direction| {
        let of = |line: &&str| {
            line.starts_with("barewire_transport_bytes_total{")
                && line.contains(&format!("direction=\"{direction}\""))
        };
        let lines = metrics.lines().filter(of);
        lines
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
            .sum()
    })
}

#[test]
fn bytes_are_those_on_the_wire() {
    if !isolated() {
        barewire_tests::skip("what the kernel counts is measured between network namespaces");
        return;
    }
    let files = Files::new();
    for (name, listen) in [
        ("tcp", "tcp/0"),
        ("ws", "tcp/0/ws"),
        ("wss", "tcp/0/tls/ws"),
        ("quic", "udp/0/quic-v1"),
    ] {
        let (tell, told) = mpsc::sync_channel::<Multiaddr>(1);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let listen = format!("/ip4/{}/{listen}", victim_ip());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                at(Side::Victim, || {
                    run(async {
                        let endpoint = endpoint(files.config()).await;
                        let router = Router::builder(endpoint).accept(perf::PROTOCOL, perf::Perf);
                        let router = router.spawn().unwrap();
                        let node = router.endpoint();
                        let bound = node.listen(listen.parse().unwrap()).await.unwrap();
                        tell.send(bound.with_peer(node.peer_id()).unwrap()).unwrap();
                        // The other side has what it came for, or has failed.
                        drop(stopped.await);
                    });
                });
            });
            let addr = told.recv().unwrap();
            let (ours, kernel) = at(Side::Honest, || {
                run(async {
                    let before = bytes_on("eth0").unwrap();
                    let client = endpoint(files.config()).await;
                    let connection = client.connect(addr).await.unwrap();
                    perf::measure(&connection, MOVED, MOVED, |_| {})
                        .await
                        .unwrap();
                    // The last acknowledgements.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    let ours = counted(&client.metrics());
                    let after = bytes_on("eth0").unwrap();
                    (ours, [after.1 - before.1, after.0 - before.0])
                })
            });
            drop(stop);
            for (at, direction) in ["sent", "received"].into_iter().enumerate() {
                let ratio = kernel[at] as f64 / ours[at];
                println!(
                    "{name}: {direction}: {} bytes counted, {} by the kernel, {:.2} % more (5 % are allowed)",
                    ours[at],
                    kernel[at],
                    100.0 * (ratio - 1.0)
                );
                assert!(ours[at] >= MOVED as f64, "{name} {direction}");
                assert!(
                    (1.0..=ALLOWED).contains(&ratio),
                    "{name} {direction}: {ratio}"
                );
            }
        });
    }
}
