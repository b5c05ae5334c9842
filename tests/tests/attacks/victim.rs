//! The node under attack and the honest peer that watches it.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use barewire_base::{Keypair, Multiaddr};
use barewire_node::{Config, Endpoint};
use bytes::Bytes;

/// A `barewire listen` process.
pub(crate) struct Victim {
    process: Child,
    stdin: Option<ChildStdin>,
    pub(crate) addr: Multiaddr,
    pub(crate) socket: SocketAddr,
    stderr: std::path::PathBuf,
}

impl Victim {
    /// Starts a node on a port of its own.
    pub(crate) fn start(name: &str) -> Self {
        let stderr =
            std::env::temp_dir().join(format!("barewire-attack-{name}-{}.log", std::process::id()));
        let log = std::fs::File::create(&stderr).unwrap();
        let mut process = Command::new(barewire_tests::peers::barewire().unwrap())
            .args(["listen", "--listen", "/ip4/127.0.0.1/tcp/0", "--json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        let addr: Multiaddr = event["addr"].as_str().unwrap().parse().unwrap();
        let (socket, _) = addr.to_tcp().unwrap();
        Self {
            stdin: process.stdin.take(),
            process,
            addr,
            socket,
            stderr,
        }
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.process.id())).unwrap()
    }

    /// Resident memory in KiB.
    pub(crate) fn rss_kib(&self) -> i64 {
        let status = self.proc("status");
        let line = status.lines().find(|line| line.starts_with("VmRSS"));
        line.and_then(|line| line.split_whitespace().nth(1))
            .and_then(|value| value.parse().ok())
            .unwrap()
    }

    /// Open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id()))
            .unwrap()
            .count()
    }

    /// Processor time used so far.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = self.proc("stat");
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // USER_HZ is 100 on every Linux.
        Duration::from_millis(ticks * 10)
    }

    /// Ends the node in an orderly way, and fails if it panicked or does not end.
    pub(crate) fn stop(mut self) {
        assert!(
            self.process.try_wait().unwrap().is_none(),
            "the victim died"
        );
        drop(self.stdin.take());
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < Duration::from_secs(15), "no orderly end");
            std::thread::sleep(Duration::from_millis(20));
        };
        let log = std::fs::read_to_string(&self.stderr).unwrap();
        assert!(!log.contains("panicked"), "the victim panicked:\n{log}");
        assert!(status.success(), "{status}\n{log}");
        std::fs::remove_file(&self.stderr).ok();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// An honest peer that exchanges 1 KiB with the victim each 10 ms.
pub(crate) struct Bystander {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<Duration>>,
}

impl Bystander {
    pub(crate) async fn start(victim: &Victim) -> Self {
        let endpoint = honest_endpoint().await;
        let connection = endpoint.connect(victim.addr.clone()).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut stream = connection
                .open_stream("/barewire/echo/1.0.0")
                .await
                .unwrap();
            let message = Bytes::from(vec![0x42; 1024]);
            let mut trips = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let sent = Instant::now();
                stream.write_chunk(message.clone()).await.unwrap();
                let mut got = 0;
                while got < message.len() {
                    let chunk = stream.read_chunk(usize::MAX).await.unwrap();
                    got += chunk.expect("the echo goes on").len();
                }
                trips.push(sent.elapsed());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            drop(endpoint);
            trips
        });
        Self { stop, task }
    }

    /// Ends the exchange; every message must have come back. Returns how many, and their p99.
    pub(crate) async fn finish(self) -> (usize, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let mut trips = self.task.await.expect("the bystander lost a message");
        trips.sort_unstable();
        (trips.len(), trips[trips.len() * 99 / 100])
    }
}

/// A node of our own with a fresh identity that listens nowhere.
pub(crate) async fn honest_endpoint() -> Endpoint {
    Endpoint::builder(Keypair::generate(&mut rand::rng()))
        .config(Config::default())
        .bind()
        .await
        .unwrap()
}
