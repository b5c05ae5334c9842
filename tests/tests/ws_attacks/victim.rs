//! The node under attack.

use std::time::Duration;

use barewire_tests::{
    peers,
    process::{Process, run},
    usage::Usage,
};

const DEADLINE: Duration = Duration::from_secs(60);

/// A `barewire listen` process on a WebSocket.
pub(crate) struct Victim {
    process: Process,
    pub(crate) addr: String,
    pub(crate) port: u16,
}

impl Victim {
    pub(crate) async fn start(more: &[&str]) -> Self {
        let program = peers::barewire().unwrap();
        let mut args = vec!["listen", "--listen", "/ip4/127.0.0.1/tcp/0/ws", "--json"];
        args.extend(more);
        let (process, addr) = Process::listen(&program, args, DEADLINE).await.unwrap();
        let port = addr
            .split('/')
            .nth(4)
            .and_then(|port| port.parse().ok())
            .unwrap();
        Self {
            process,
            addr,
            port,
        }
    }

    fn usage(&self) -> Usage {
        Usage(self.process.id().unwrap())
    }

    pub(crate) fn rss_kib(&self) -> i64 {
        self.usage().rss_kib() as i64
    }

    pub(crate) fn peak_kib(&self) -> i64 {
        self.usage().peak_kib() as i64
    }

    /// Processor time used so far.
    pub(crate) fn cpu(&self) -> Duration {
        self.usage().cpu()
    }

    /// An honest node can still ping; then the end is orderly and without a panic.
    pub(crate) async fn stop(self) {
        let program = peers::barewire().unwrap();
        let event = run(
            &program,
            ["ping", "--json", "--count", "3", &self.addr],
            "ping",
            DEADLINE,
        )
        .await
        .unwrap();
        println!("afterwards a ping takes {} us", event["p50_us"]);
        let log = self.process.stderr();
        assert!(!log.contains("panicked"), "{log}");
        self.process.stop(DEADLINE).await.unwrap();
    }
}
