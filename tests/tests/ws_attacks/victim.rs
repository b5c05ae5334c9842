//! The node under attack.

use std::time::Duration;

use barewire_tests::{
    peers,
    process::{Process, run},
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

    /// A line of `/proc/PID/status`, in KiB.
    fn memory(&self, line: &str) -> i64 {
        let status = self.proc("status");
        let line = status.lines().find(|text| text.starts_with(line)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn rss_kib(&self) -> i64 {
        self.memory("VmRSS:")
    }

    pub(crate) fn peak_kib(&self) -> i64 {
        self.memory("VmHWM:")
    }

    fn proc(&self, file: &str) -> String {
        let pid = self.process.id().unwrap();
        std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap()
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
