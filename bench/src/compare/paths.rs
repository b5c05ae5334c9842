//! Long paths: one stream through a delaying relay, and the round trips of connecting.

use std::time::Duration;

use barewire_tests::{
    netns,
    wan::{FAR, Link, Wan},
};

use super::{Bench, Over, drive, own, per_second};
use crate::{
    Failure,
    measure::{Listener, Run, client},
    stacks::{Program, Stack},
    table::{BARE_QUINN, FROM_GO, Metric, RAW_RELAYED, TO_GO},
};

/// Loss of each direction of the lossy path.
const LOSS: &str = "0.001";
/// Round trip of the link on which round trips are counted, and the dials whose median counts.
const ROUND_TRIP: Duration = Duration::from_millis(100);
const DIALS: &str = "5";

impl Bench {
    pub(super) async fn rtt60(&mut self, program: &Program) -> Result<(), Failure> {
        if self.over != Over::Quic {
            return self.rtt60_between(program.stack, program, program).await;
        }
        // Each takes some ten seconds: the same time, not the same bytes, so that nobody's start weighs more.
        let sizes = match program.stack {
            Stack::Barewire => ["2GiB", "2GiB"],
            Stack::Go | Stack::Rust | Stack::Litep2p => ["256MiB", "24MiB"],
        };
        for (metric, loss, size) in [
            (Metric::Rtt60, "0", sizes[0]),
            (Metric::Rtt60Loss, LOSS, sizes[1]),
        ] {
            let relay = ["--udp", "--loss", loss];
            let run = self.relayed(program, program, &relay, size).await?;
            let rate = run.rate("upload_bytes", "upload_s")?;
            self.samples.add(metric, program.stack, rate);
        }
        Ok(())
    }

    /// `sender` dials `receiver` through a relay and sends.
    async fn relayed(
        &self,
        sender: &Program,
        receiver: &Program,
        relay: &[&str],
        size: &str,
    ) -> Result<Run, Failure> {
        let listener = self.listen(receiver, &[], None).await?;
        let port = port_of(&listener.addr)?;
        let to = format!("127.0.0.1:{port}");
        let relay = Listener::start(own(&[&["relay", "--to", &to], relay].concat(), None)?).await?;
        let addr = listener.addr.replacen(
            &format!("/{port}/"),
            &format!("/{}/", port_of(&relay.addr)?),
            1,
        );
        let run = self
            .transfer_to(sender, &addr, &listener, &[], [size, "0"])
            .await?;
        // The goodbye is still on its way; without it the listener waits and then fails.
        listener.stop().await?;
        relay.stop().await?;
        Ok(run)
    }

    async fn rtt60_between(
        &mut self,
        who: impl ToString,
        sender: &Program,
        receiver: &Program,
    ) -> Result<(), Failure> {
        let run = self.relayed(sender, receiver, &[], "2GiB").await?;
        let rate = run.rate("upload_bytes", "upload_s")?;
        self.samples.add(Metric::Rtt60, who, rate);
        Ok(())
    }

    pub(super) async fn rtt60_mixed(&mut self) -> Result<(), Failure> {
        if let (Some(barewire), Some(go)) = (self.find(Stack::Barewire), self.find(Stack::Go)) {
            self.rtt60_between(TO_GO, &barewire, &go).await?;
            self.rtt60_between(FROM_GO, &go, &barewire).await?;
        }
        let run = relayed_limit("tcp", &[], 4 << 30).await?;
        self.samples
            .add(Metric::Rtt60, RAW_RELAYED, run.rate("bytes", "secs")?);
        Ok(())
    }

    /// What the UDP relay carries when it does not delay.
    pub(super) async fn relay_at_0_ms(&mut self) -> Result<(), Failure> {
        let relay = ["--udp", "--delay-ms", "0"];
        if let Some(barewire) = self.find(Stack::Barewire) {
            let run = self.relayed(&barewire, &barewire, &relay, "1GiB").await?;
            let rate = run.rate("upload_bytes", "upload_s")?;
            self.samples.add(Metric::Relay0, barewire.stack, rate);
        }
        let run = relayed_limit("quic", &relay, 1 << 30).await?;
        self.samples
            .add(Metric::Relay0, BARE_QUINN, run.rate("bytes", "secs")?);
        Ok(())
    }

    /// Only both ends ours have this target.
    pub(super) async fn first_byte(&mut self, program: &Program) -> Result<(), Failure> {
        if program.stack != Stack::Barewire {
            return Ok(());
        }
        if !netns::available() {
            return Err("a link with latency needs root and iproute2".into());
        }
        let link = Link {
            delay: ROUND_TRIP / 2,
            loss: 0.0,
            seed: 1,
        };
        let wan = Wan::new(link)?;
        let listen = self.over.listen().replace("127.0.0.1", FAR);
        let mut command = wan.far(program.path());
        command
            .args(["listen", "--json", "--listen", &listen])
            .args(self.over.security());
        let listener = Listener::start(command).await?;
        let mut command = wan.near(program.path());
        command
            .args(["bench", "handshakes", &listener.addr, "--json"])
            .args(["--count", DIALS])
            .args(self.over.security());
        let run = client(command, "handshakes", &listener).await?;
        per_second(&run, DIALS)?;
        let round_trips = run.number("p50_us")? / 1e6 / ROUND_TRIP.as_secs_f64();
        self.samples
            .add(Metric::FirstByte, program.stack, round_trips);
        listener.stop().await
    }

    pub(super) fn find(&self, stack: Stack) -> Option<Program> {
        let mut programs = self.programs.iter();
        programs.find(|program| program.stack == stack).cloned()
    }
}

async fn relayed_limit(limit: &str, relay: &[&str], bytes: u64) -> Result<Run, Failure> {
    let listener = Listener::start(own(&["serve", limit], None)?).await?;
    let args = [&["relay", "--to", &listener.addr], relay].concat();
    let relay = Listener::start(own(&args, None)?).await?;
    let run = drive(&[limit], &relay.addr, &listener, bytes).await?;
    relay.stop().await?;
    listener.stop().await?;
    Ok(run)
}

/// The port in a multiaddr or a socket address.
fn port_of(addr: &str) -> Result<u16, Failure> {
    let port = match addr
        .split_once("/tcp/")
        .or_else(|| addr.split_once("/udp/"))
    {
        Some((_, rest)) => rest.split('/').next(),
        None => addr.rsplit(':').next(),
    };
    port.and_then(|port| port.parse().ok())
        .ok_or_else(|| format!("no port in {addr}").into())
}
