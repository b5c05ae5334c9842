//! Every foreign stack against `barewire`, in both directions, as real processes.
//!
//! `cargo test -p barewire-tests --test interop [-- FILTER]`: prints one line per cell and the count at the end. A cell's
//! name is `STACK DIRECTION WHAT`, for example `go we-dial ping`; FILTER is any part of it. A stack whose toolchain is
//! absent is skipped with the reason, unless CI=true, where that fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod carriers;
mod own;
mod they_dial;
mod we_dial;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use barewire_tests::{
    peers::{self, Foreign, Unavailable},
    process::Failure,
};
use tokio::time::{Duration, timeout};

/// Every step of every cell ends within this, also on a machine that builds something else meanwhile.
const DEADLINE: Duration = Duration::from_secs(60);

/// How often a cell repeats what fails only sometimes when it fails.
const REPEATED: usize = 40;

/// Protocols that exist for these tests only; the foreign peers serve them too.
mod protocol {
    /// The listener reads to the end, then sends everything back.
    pub(crate) const HALF_CLOSE: &str = "/barewire/test/half-close/1.0.0";
    /// The listener resets after the first byte.
    pub(crate) const RESET: &str = "/barewire/test/reset/1.0.0";
    /// The listener sends `h`, then reads until the other side goes.
    pub(crate) const HOLD: &str = "/barewire/test/hold/1.0.0";
}

/// What a cell found worth telling.
type CellResult = Result<String, Failure>;

/// The programs of one half of the matrix.
#[derive(Clone)]
struct Pair {
    stack: Foreign,
    foreign: PathBuf,
    barewire: PathBuf,
}

#[derive(Default)]
struct Tally {
    filter: Vec<String>,
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Tally {
    async fn cell(
        &mut self,
        pair: &Pair,
        direction: &str,
        what: &str,
        run: impl Future<Output = CellResult>,
    ) {
        let name = format!("{} {direction} {what}", pair.stack);
        if !self.filter.iter().all(|part| name.contains(part.as_str())) {
            return;
        }
        let start = Instant::now();
        let outcome = match timeout(2 * DEADLINE, run).await {
            Ok(outcome) => outcome,
            Err(_) => Err("not done in time".into()),
        };
        let secs = start.elapsed().as_secs_f64();
        match outcome {
            Ok(figures) => {
                println!("cell {name:<40} ok     {secs:6.2} s  {figures}");
                self.passed += 1;
            }
            Err(cause) => {
                println!("cell {name:<40} FAILED {secs:6.2} s  {cause}");
                self.failed.push(name);
            }
        }
    }
}

fn main() -> ExitCode {
    let filter: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let tally = runtime.block_on(run(Tally {
        filter,
        ..Tally::default()
    }));
    println!();
    for reason in &tally.skipped {
        println!("skipped: {reason}");
    }
    for name in &tally.failed {
        println!("failed: {name}");
    }
    println!(
        "interop: {} passed, {} failed, {} stacks skipped",
        tally.passed,
        tally.failed.len(),
        tally.skipped.len()
    );
    if tally.failed.is_empty() && (tally.skipped.is_empty() || !peers::required()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn run(mut tally: Tally) -> Tally {
    let barewire = match peers::barewire() {
        Ok(program) => program,
        Err(cause) => {
            tally.failed.push(format!("building barewire: {cause}"));
            return tally;
        }
    };
    for stack in [Foreign::Go, Foreign::Rust] {
        let foreign = match stack.build() {
            Ok(program) => program,
            Err(Unavailable::NoToolchain(reason)) => {
                tally.skipped.push(format!("{stack}: {reason}"));
                continue;
            }
            Err(cause) => {
                tally
                    .failed
                    .push(format!("building the {stack} peer: {cause}"));
                continue;
            }
        };
        let pair = Pair {
            stack,
            foreign,
            barewire: barewire.clone(),
        };
        if let Err(cause) = we_dial::cells(&mut tally, &pair).await {
            tally.failed.push(format!("{stack} we-dial: {cause}"));
        }
        if let Err(cause) = they_dial::cells(&mut tally, &pair).await {
            tally.failed.push(format!("{stack} they-dial: {cause}"));
        }
        if let Err(cause) = carriers::cells(&mut tally, &pair).await {
            tally.failed.push(format!("{stack} carriers: {cause}"));
        }
    }
    tally
}

/// A valid peer id that belongs to nobody here.
fn strange_peer() -> String {
    barewire_node::Keypair::generate(&mut rand::rng())
        .public()
        .peer_id()
        .to_string()
}

/// The peer id at the end of an address, and the address with another one.
fn with_strange_peer(addr: &str) -> Result<(String, String, String), Failure> {
    let (base, actual) = addr
        .rsplit_once("/p2p/")
        .ok_or("an address without a peer id")?;
    let strange = strange_peer();
    Ok((
        actual.to_owned(),
        strange.clone(),
        format!("{base}/p2p/{strange}"),
    ))
}

/// Fails unless `condition`, with a sentence.
fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if condition {
        Ok(())
    } else {
        Err(otherwise().into())
    }
}
