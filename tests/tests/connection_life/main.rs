//! The life of connections against running nodes: pooled, idle, held, kept, flooded, and short of descriptors and
//! memory.
//!
//! Each test prints what it measured. Sizes are chosen for CI; `BAREWIRE_FULL=1` runs them at full size.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod exhaustion;
mod held;
mod pool;

use std::{path::PathBuf, time::Duration};

use barewire_node::{Config, Endpoint, Keypair, Multiaddr};
use barewire_tests::{full, peers, process::Process, usage::Usage, within};
use tokio::process::Command;

/// What a busy machine may take for anything that should be done at once.
const SOON: Duration = Duration::from_secs(20);

fn barewire() -> PathBuf {
    peers::barewire().expect("barewire builds")
}

/// A node of our own with a fresh identity that listens nowhere.
async fn client() -> Endpoint {
    client_with(Config::default()).await
}

async fn client_with(config: Config) -> Endpoint {
    let builder = Endpoint::builder(Keypair::generate(&mut rand::rng()));
    builder.config(config).bind().await.unwrap()
}

/// A running `barewire listen`.
struct Node {
    process: Process,
    addr: Multiaddr,
    usage: Usage,
}

impl Node {
    async fn start(args: &[&str]) -> Self {
        Self::run(Command::new(barewire()), args).await
    }

    /// Behind another program, such as `prlimit`, that becomes the node.
    async fn behind(program: &str, before: &[&str], args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(before).arg(barewire());
        Self::run(command, args).await
    }

    async fn run(mut command: Command, args: &[&str]) -> Self {
        command.args(["listen", "--json"]).args(args);
        let mut process = Process::spawn(command).unwrap();
        let addr = process.listening(SOON).await.unwrap();
        Self {
            usage: Usage(process.id().unwrap()),
            addr: addr.parse().unwrap(),
            process,
        }
    }

    async fn stop(self) {
        assert!(!self.process.stderr().contains("panicked"));
        self.process.stop(SOON).await.unwrap();
    }
}
