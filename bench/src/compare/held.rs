//! Connections that are held: what they cost in memory and in processor time, and how many there may be.

use std::time::Duration;

use barewire_node::{CloseReason, Endpoint, Keypair, Multiaddr};
use tokio::{
    process::Command,
    time::{sleep, timeout},
};

use super::Bench;
use crate::{
    Failure,
    measure::{DEADLINE, Holder, Listener, MIB},
    stacks::{Program, Stack},
    table::{BARE_QUINN, Metric},
};

/// Connections held for the memory figure.
const HELD: usize = 1000;
/// Connections of an idle node, how long it is left alone first, and how long it is watched.
const IDLE: usize = 100;
const SETTLE: Duration = Duration::from_secs(3);
const WATCHED: Duration = Duration::from_secs(30);
/// Connections one listener is to hold.
const MANY: usize = 10_000;
/// What a node says that has no room for another connection.
const FULL: CloseReason = CloseReason::Remote(0x1001);

impl Bench {
    pub(super) async fn connections(&mut self, program: &Program) -> Result<(), Failure> {
        let args = self.listen_args(&[]);
        let listener = Listener::start(program.command_with_descriptors(&args)).await?;
        let holder = self.holder(program, &listener, HELD);
        self.memory_of_held(program.stack, holder, listener).await
    }

    pub(super) async fn connections_of_quinn(&mut self) -> Result<(), Failure> {
        let program = Program::of(Stack::Barewire, std::env::current_exe()?);
        let serve = program.command_with_descriptors(&["serve", "quic-held"]);
        let listener = Listener::start(serve).await?;
        let count = HELD.to_string();
        let args = ["drive", "quic-held", &listener.addr, "--count", &count];
        let holder = program.command_with_descriptors(&args);
        self.memory_of_held(BARE_QUINN, holder, listener).await
    }

    async fn memory_of_held(
        &mut self,
        who: impl ToString,
        holder: Command,
        listener: Listener,
    ) -> Result<(), Failure> {
        let before = listener.settled().await?;
        let holder = Holder::start(holder, HELD).await?;
        let after = listener.settled().await?;
        holder.kill().await?;
        let each = (after as f64 - before as f64) / HELD as f64;
        self.samples.add(Metric::HeldKib, who, each / 1024.0);
        listener.stop().await
    }

    /// Only our own nodes have these targets.
    pub(super) async fn idle(&mut self, program: &Program) -> Result<(), Failure> {
        if program.stack != Stack::Barewire {
            return Ok(());
        }
        let listener = self
            .listen(program, &["--idle-timeout", "off"], None)
            .await?;
        let holder = Holder::start(self.holder(program, &listener, IDLE), IDLE).await?;
        // Identify and its pushes are over by then.
        sleep(SETTLE).await;
        let before = listener.cpu_secs()?;
        sleep(WATCHED).await;
        let used = listener.cpu_secs()? - before;
        holder.kill().await?;
        self.samples.add(
            Metric::IdlePercent,
            program.stack,
            100.0 * used / WATCHED.as_secs_f64(),
        );
        listener.stop().await
    }

    pub(super) async fn many(&mut self, program: &Program) -> Result<(), Failure> {
        if program.stack != Stack::Barewire {
            return Ok(());
        }
        let most = MANY.to_string();
        let args = self.listen_args(&["--idle-timeout", "off", "--max-connections", &most]);
        let listener = Listener::start(program.command_with_descriptors(&args)).await?;
        let holder = Holder::start(self.holder(program, &listener, MANY), MANY).await?;
        let resident = listener.settled().await? as f64 / MIB;
        self.samples.add(Metric::ManyMib, program.stack, resident);
        let one_more = Endpoint::builder(Keypair::generate(&mut rand::rng()));
        let one_more = one_more.bind().await?;
        let connection = one_more
            .connect(listener.addr.parse::<Multiaddr>()?)
            .await?;
        let reason = timeout(DEADLINE, connection.closed()).await?;
        eprintln!("connection {}: {reason}", MANY + 1);
        let told = if reason == FULL { 1.0 } else { 0.0 };
        self.samples.add(Metric::OneMoreTold, program.stack, told);
        holder.kill().await?;
        listener.stop().await
    }

    fn holder(&self, program: &Program, listener: &Listener, count: usize) -> Command {
        let count = count.to_string();
        let args = ["bench", "connections", &listener.addr, "--count", &count];
        let more = ["--concurrency", "16", "--json"];
        program.command_with_descriptors(&[&args[..], &more, self.over.security()].concat())
    }
}
