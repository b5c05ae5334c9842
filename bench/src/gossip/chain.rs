//! Three processes in a row: a publisher, a relay that is subscribed too, and a subscriber.

use std::time::{Duration, Instant};

use barewire_tests::process::{Process, number};
use serde_json::Value;

use super::{
    Bench, LONGEST, TCP, TOPIC,
    targets::{HASHED, Metric},
};
use crate::{
    Failure,
    ends::sha512_rate,
    measure::{DEADLINE, Listener, MIB, peak},
    stacks::{Program, Stack},
};

/// Messages of 200 bytes: some seconds of the slowest stack.
const SHORT: [usize; 2] = [40_000, 100_000];
/// Messages of 64 KiB: half a GiB.
const LONG: usize = 8_192;
const HUGE: &str = "500MiB";
/// rust has told that all is written when nothing was written for so long.
const SILENCE: Duration = Duration::from_millis(100);
/// The times a signed byte is hashed: twice to sign it, once each by relay and subscriber.
const HASHES: f64 = 4.0;

/// What every stack is told, whose messages are signed.
const SIGNED: &[&str] = &["--sign", "strict"];
/// And whose are not. All take the SHA-256 of a message for its id then.
const UNSIGNED: &[&str] = &["--sign", "anonymous", "--message-id", "sha256"];

/// What a row of three did.
struct Row {
    /// Messages after the first.
    further: f64,
    /// Seconds from the first message at the subscriber to the last.
    secs: f64,
    /// Seconds from the first call of publish until the last message has arrived.
    whole: f64,
    /// Peak resident memory in MiB.
    relay: f64,
    subscriber: f64,
}

impl Bench {
    pub(super) async fn short(&mut self, program: &Program) -> Result<(), Failure> {
        for (metric, sign, count) in [
            (Metric::ShortSigned, SIGNED, SHORT[0]),
            (Metric::ShortUnsigned, UNSIGNED, SHORT[1]),
        ] {
            let row = row(program, sign, count, "200").await?;
            self.samples
                .add(metric, program.stack, row.further / row.secs);
        }
        Ok(())
    }

    pub(super) async fn long(&mut self, program: &Program) -> Result<(), Failure> {
        let mut peak: f64 = 0.0;
        for (metric, sign) in [
            (Metric::LongSigned, SIGNED),
            (Metric::LongUnsigned, UNSIGNED),
        ] {
            // By default rust takes RPCs up to this size, and the message has a head.
            let options = [sign, &["--max-message-size", "1MiB"]].concat();
            let row = row(program, &options, LONG, "64KiB").await?;
            self.samples
                .add(metric, program.stack, row.further / 16.0 / row.secs);
            peak = peak.max(row.relay);
        }
        self.samples.add(Metric::LongPeak, program.stack, peak);
        Ok(())
    }

    /// What the hashes alone allow with all processors.
    pub(super) fn hashing(&mut self) {
        let rate = sha512_rate() / MIB / HASHES;
        self.samples.add(Metric::LongSigned, HASHED, rate);
    }

    pub(super) async fn huge(&mut self, program: &Program) -> Result<(), Failure> {
        // The peers' figures hold no target, so once is enough.
        if program.stack != Stack::Barewire && self.samples.rounds() > 1 {
            return Ok(());
        }
        let mut peaks = [0.0_f64; 2];
        for (metric, sign) in [
            (Metric::HugeSigned, SIGNED),
            (Metric::HugeUnsigned, UNSIGNED),
        ] {
            let options = [sign, &["--max-message-size", LONGEST]].concat();
            let row = row(program, &options, 1, HUGE).await?;
            self.samples.add(metric, program.stack, row.whole);
            peaks = [peaks[0].max(row.relay), peaks[1].max(row.subscriber)];
        }
        self.samples
            .add(Metric::HugeRelayPeak, program.stack, peaks[0]);
        self.samples
            .add(Metric::HugeSubscriberPeak, program.stack, peaks[1]);
        Ok(())
    }
}

/// Sends `count` messages of a size through a relay. Losing one is a failure.
async fn row(
    program: &Program,
    options: &[&str],
    count: usize,
    size: &str,
) -> Result<Row, Failure> {
    let start = |command: &[&str]| {
        let common = ["--topic", TOPIC, "--json"];
        program.command(&[command, &common, options].concat(), None)
    };
    let listen = ["listen", "--listen", TCP, "--quiet"];
    let relay = Listener::start(start(&listen)).await?;
    let (addr, count) = (relay.addr.as_str(), count.to_string());
    // It stays until its memory has been read.
    let subscribe = ["subscribe", addr, "--expect", &count, "--timeout", "150"];
    let subscribe = [&subscribe[..], &["--quiet", "--leave"]].concat();
    let mut subscriber = Process::spawn(start(&subscribe))?;
    subscriber.expect("subscribed", DEADLINE).await?;
    let publish = ["publish", addr, "--count", &count, "--size", size];
    // It stays until everything has arrived.
    let times = ["--settle-ms", "500", "--linger-ms", "150000"];
    let publish = [&publish[..], &times, &["--timeout", "150"]].concat();
    let mut publisher = Process::spawn(start(&publish))?;
    let (received, published) = tokio::try_join!(
        timed(&mut subscriber, "received"),
        timed(&mut publisher, "published")
    )?;
    let got = number(&received.1, "count")?;
    if got.to_string() != count {
        return Err(format!("lost {} of {count}", count.parse::<f64>()? - got).into());
    }
    let memory = |pid| Ok::<_, Failure>(peak(pid).ok_or("it is gone")? as f64 / MIB);
    let peaks = [
        memory(relay.pid)?,
        memory(subscriber.id().ok_or("the subscriber is gone")?)?,
    ];
    publisher.kill().await?;
    subscriber.stop(DEADLINE).await?;
    relay.stop().await?;
    let late = if program.stack == Stack::Rust {
        SILENCE
    } else {
        Duration::ZERO
    };
    let begun = published.0 - Duration::from_secs_f64(number(&published.1, "secs")?) - late;
    Ok(Row {
        further: got - 1.0,
        secs: number(&received.1, "secs")?,
        whole: (received.0 - begun).as_secs_f64(),
        relay: peaks[0],
        subscriber: peaks[1],
    })
}

/// The next event of this name, and when it came.
pub(super) async fn timed(process: &mut Process, name: &str) -> Result<(Instant, Value), Failure> {
    loop {
        let (when, event) = process.timed_event(DEADLINE).await?;
        if event["event"] == name {
            return Ok((when, event));
        }
    }
}
