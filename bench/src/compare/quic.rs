//! QUIC beside bare quinn.

use super::{Bench, moved};
use crate::{
    Failure,
    stacks::{Program, Stack},
    table::{BARE_QUINN, BARE_QUINN_RAISED, Metric, RAISED},
};

/// Interleaved pairs of barewire and bare quinn in a run of any number of rounds.
const PAIRS: usize = 15;
/// Bytes of one half of a pair.
const MOVED: u64 = 1 << 30;
/// Datagrams where the path carries more than Ethernet. quinn sends ten in a call, of which the kernel takes 64 KiB:
/// larger ones would need the socket that barewire has and bare quinn does not.
const RAISED_MTU: &str = "6500";

impl Bench {
    /// Pairs with the MTU held, then both with path MTU discovery raised.
    pub(super) async fn perf_beside_quinn(&mut self) -> Result<(), Failure> {
        let barewire = self.find(Stack::Barewire).ok_or("barewire is missing")?;
        for pair in 0..PAIRS.div_ceil(self.rounds) {
            let mut rates = [0.0; 2];
            for half in [pair % 2, 1 - pair % 2] {
                rates[half] = if half == 0 {
                    self.up(&barewire, &[]).await?
                } else {
                    moved(&["quic"], MOVED).await?.0
                };
            }
            let [ours, quinn] = rates;
            self.samples.add(Metric::PerfPaired, barewire.stack, ours);
            self.samples.add(Metric::PerfPaired, BARE_QUINN, quinn);
            self.samples
                .add(Metric::PairRatio, barewire.stack, ours / quinn);
        }
        let raised = ["--quic-mtu", RAISED_MTU];
        let up = self.up(&barewire, &raised).await?;
        self.samples.add(Metric::PerfUp, RAISED, up);
        let (rate, _) = moved(&["quic", "--mtu", RAISED_MTU], 2 * MOVED).await?;
        self.samples.add(Metric::PerfUp, BARE_QUINN_RAISED, rate);
        let listener = self.listen(&barewire, &raised, None).await?;
        let down = self
            .transfer(&barewire, &listener, &raised, ["0", "2GiB"])
            .await?;
        listener.stop().await?;
        let rate = down.rate("download_bytes", "download_s")?;
        self.samples.add(Metric::PerfDown, RAISED, rate);
        Ok(())
    }

    async fn up(&self, program: &Program, more: &[&str]) -> Result<f64, Failure> {
        let listener = self.listen(program, more, None).await?;
        let run = self
            .transfer(program, &listener, more, ["1GiB", "0"])
            .await?;
        listener.stop().await?;
        run.rate("upload_bytes", "upload_s")
    }
}
