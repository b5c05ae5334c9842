//! One publisher, connected to many subscribers of ours: what a message costs it.

use std::time::{Duration, Instant};

use barewire_tests::process::{Process, number};
use tokio::time::sleep;

use super::{Bench, TCP, TOPIC, chain::timed, targets::Metric};
use crate::{
    Failure,
    measure::{DEADLINE, cpu_secs},
    stacks::{Program, Stack},
};

const SUBSCRIBERS: usize = 50;
/// Processor time is told in steps of 10 ms, so that one message would be too short.
const COUNT: usize = 16;
/// All who are told to may have grafted by then: heartbeats come each second.
const SETTLE_MS: &str = "3000";
/// What has not arrived so long after everything was written is lost.
const ARRIVED: Duration = Duration::from_secs(20);
/// How often the processor time is looked at.
const STEP: Duration = Duration::from_millis(10);

impl Bench {
    /// Processor time of the publisher for each message, without what came before the first.
    pub(super) async fn fan_out(&mut self, program: &Program) -> Result<(), Failure> {
        let ours = self.ours.as_ref().ok_or("there are no subscribers")?;
        let size = ["--max-message-size", "2MiB"];
        let (mut subscribers, mut addrs) = (Vec::new(), Vec::new());
        for _ in 0..SUBSCRIBERS {
            let args = ["listen", "--listen", TCP, "--topic", TOPIC, "--json"];
            let args = [&args[..], &size].concat();
            let (subscriber, addr) = Process::listen(ours.path(), args, DEADLINE).await?;
            subscribers.push(subscriber);
            addrs.push(addr);
        }
        // So that every subscriber is sent every message: rust floods its own by default, go meshes with as many as it is told.
        let all: &[&str] = match program.stack {
            Stack::Barewire => &["--preset", "wan"],
            Stack::Go => &["--mesh-degree", "50"],
            Stack::Rust | Stack::Litep2p => &[],
        };
        let count = COUNT.to_string();
        let mut args = vec!["publish", "--topic", TOPIC, "--json", "--size", "1MiB"];
        args.extend(size);
        args.extend(["--count", &count, "--settle-ms", SETTLE_MS]);
        args.extend(["--linger-ms", "150000", "--timeout", "150"]);
        args.extend(all);
        args.extend(addrs.iter().map(String::as_str));
        let mut publisher = Process::spawn(program.command(&args, None))?;
        let pid = publisher.id().ok_or("the publisher is gone")?;
        let mut used = Vec::new();
        let (told, event) = {
            let published = timed(&mut publisher, "published");
            tokio::pin!(published);
            loop {
                tokio::select! {
                    told = &mut published => break told?,
                    () = sleep(STEP) => {
                        let (_, secs) = cpu_secs(pid).ok_or("the publisher is gone")?;
                        used.push((Instant::now(), secs));
                    }
                }
            }
        };
        let (_, after) = cpu_secs(pid).ok_or("the publisher is gone")?;
        let begun = told - Duration::from_secs_f64(number(&event, "secs")?);
        let before = used.iter().rev().find(|(when, _)| *when < begun);
        let (_, before) = before.ok_or("the publisher was too fast")?;
        let (mut got, by) = (0, Instant::now() + ARRIVED);
        for subscriber in &mut subscribers {
            for _ in 0..COUNT {
                let rest = by.saturating_duration_since(Instant::now());
                got += usize::from(subscriber.expect("message", rest).await.is_ok());
            }
        }
        publisher.kill().await?;
        for subscriber in subscribers {
            subscriber.stop(DEADLINE).await?;
        }
        if got < COUNT * SUBSCRIBERS {
            let lost = COUNT * SUBSCRIBERS - got;
            return Err(format!("lost {lost} of {}", COUNT * SUBSCRIBERS).into());
        }
        let each = (after - before) * 1000.0 / COUNT as f64;
        self.samples.add(Metric::FanOut, program.stack, each);
        Ok(())
    }
}
