//! Every foreign stack against `barewire`, over every combination of transport and security, in both directions, as
//! real processes.
//!
//! `cargo test -p barewire-tests --test interop [-- WORD...] [--json] [--foreign]`: prints one line per cell, and at the
//! end a table of stack and combination by direction. A cell's name is `STACK COMBINATION DIRECTION WHAT`, for example
//! `go tcp+noise we-dial ping`; only cells whose name contains all the words run. A stack whose toolchain is absent is
//! skipped with the reason, unless CI=true, where that fails. What a foreign stack cannot do is listed in `beyond`, and
//! checked each time against that stack itself. `--foreign` puts the foreign stacks against each other instead, which
//! tells whose fault it is when one of them and barewire disagree.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod between;
mod beyond;
mod combination;
mod honest;
mod own;
mod private;
mod report;
mod they_dial;
mod we_dial;
mod what;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use barewire_tests::{
    peers::{self, Foreign, Unavailable},
    process::Failure,
};
use futures::StreamExt;
use tokio::time::{Duration, timeout};

use combination::{COMBINATIONS, Combination, Files};
use report::{Outcome, Place, Report};
use what::What;

/// Every step of every cell ends within this, also on a machine that builds something else meanwhile.
const DEADLINE: Duration = Duration::from_secs(60);

/// The foreign stacks of the matrix.
const STACKS: [Foreign; 5] = [
    Foreign::Go,
    Foreign::Rust,
    Foreign::Js,
    Foreign::Chromium,
    Foreign::Py,
];

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

/// Everything that cells share.
struct Matrix {
    report: Report,
    files: Files,
    barewire: PathBuf,
    foreign: BTreeMap<Foreign, PathBuf>,
}

/// Cells that share a stack, a combination, a direction and a listener. They run one after another.
struct Group<'a> {
    matrix: &'a Matrix,
    stack: Foreign,
    combination: &'static Combination,
    place: Place,
}

/// Who dials.
const WE_DIAL: &str = "we-dial";
const THEY_DIAL: &str = "they-dial";

fn main() -> ExitCode {
    let (flags, filter): (Vec<String>, Vec<String>) = std::env::args()
        .skip(1)
        .partition(|arg| arg.starts_with("--"));
    let has = |name: &str| flags.iter().any(|flag| flag == name);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let report = Report::new(filter, has("--json"));
    match runtime.block_on(run(report, has("--foreign"))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(cause) => {
            eprintln!("interop: {cause}");
            ExitCode::FAILURE
        }
    }
}

async fn run(report: Report, foreign_only: bool) -> Result<bool, Failure> {
    let mut matrix = Matrix {
        report,
        files: Files::make()?,
        barewire: peers::barewire()?,
        foreign: BTreeMap::new(),
    };
    let mut groups = Vec::new();
    for stack in STACKS {
        match stack.build() {
            Ok(program) => {
                matrix.foreign.insert(stack, program);
                groups.extend(COMBINATIONS.iter().map(|combination| (stack, combination)));
            }
            Err(cause) => {
                let outcome = match cause {
                    Unavailable::NoToolchain(reason) => Outcome::Skipped(reason),
                    cause => Outcome::Failed(cause.to_string()),
                };
                let place = Place {
                    stack: stack.to_string(),
                    combination: "-",
                    direction: "-",
                };
                matrix.report.add(&place, "build", outcome, 0.0);
            }
        }
    }
    let start = Instant::now();
    // What takes longest first, so that none is left alone at the end.
    groups.reverse();
    let parallel = std::thread::available_parallelism()?.get().clamp(2, 8);
    if foreign_only {
        between::all(&matrix, parallel).await;
    } else {
        let groups = groups
            .into_iter()
            .flat_map(|(stack, combination)| {
                [WE_DIAL, THEY_DIAL]
                    .map(|direction| Group::new(&matrix, stack, combination, direction))
            })
            .map(Group::run);
        futures::stream::iter(groups)
            .buffer_unordered(parallel)
            .collect::<()>()
            .await;
    }
    Ok(matrix
        .report
        .finish(peers::required(), start.elapsed().as_secs_f64()))
}

impl<'a> Group<'a> {
    fn new(
        matrix: &'a Matrix,
        stack: Foreign,
        combination: &'static Combination,
        direction: &'static str,
    ) -> Self {
        let place = Place {
            stack: stack.to_string(),
            combination: combination.name,
            direction,
        };
        Self {
            matrix,
            stack,
            combination,
            place,
        }
    }

    async fn run(self) {
        let direction = self.place.direction;
        if let Some(reason) = beyond::all(self.stack, self.combination, direction) {
            return self.beyond("everything", What::Echo, reason).await;
        }
        let mut wanted = Vec::new();
        for what in What::of(self.stack, self.combination, direction) {
            if !self.matrix.report.wants(&self.place, what.name()) {
                continue;
            }
            match beyond::one(self.stack, self.combination, direction, what) {
                Some(reason) => self.beyond(what.name(), what, reason).await,
                None => wanted.push(what),
            }
        }
        if wanted.is_empty() {
            return;
        }
        let ran = if direction == WE_DIAL {
            we_dial::cells(&self, &wanted).await
        } else {
            they_dial::cells(&self, &wanted).await
        };
        if let Err(cause) = ran {
            let outcome = Outcome::Failed(cause.to_string());
            self.matrix
                .report
                .add(&self.place, "listener", outcome, 0.0);
        }
    }

    /// Lists something as beyond the foreign stack, if that is still so.
    async fn beyond(&self, name: &str, what: What, entry: &beyond::Beyond) {
        if !self.matrix.report.wants(&self.place, name) {
            return;
        }
        let start = Instant::now();
        let outcome = entry.check(self, what).await;
        self.matrix
            .report
            .add(&self.place, name, outcome, start.elapsed().as_secs_f64());
    }

    /// Runs one cell.
    async fn cell(&self, what: What, run: impl Future<Output = CellResult>) {
        let start = Instant::now();
        let outcome = match timeout(2 * DEADLINE, run).await {
            Ok(Ok(said)) => Outcome::Ok(said),
            Ok(Err(cause)) => Outcome::Failed(cause.to_string()),
            Err(_) => Outcome::Failed("not done in time".to_owned()),
        };
        self.matrix.report.add(
            &self.place,
            what.name(),
            outcome,
            start.elapsed().as_secs_f64(),
        );
    }

    /// The other stack's program.
    fn foreign(&self) -> &Path {
        &self.matrix.foreign[&self.stack]
    }

    fn barewire(&self) -> &Path {
        &self.matrix.barewire
    }

    /// A command line of either side that listens.
    fn listen_line(&self) -> Vec<String> {
        let mut line = vec!["listen".to_owned()];
        line.extend(self.combination.listen_args(&self.matrix.files));
        line
    }

    /// A command line of either side that dials `addr`.
    fn dial_line(&self, command: &[&str], addr: &str) -> Vec<String> {
        self.combination
            .dial_line(&self.matrix.files, command, addr)
    }
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
