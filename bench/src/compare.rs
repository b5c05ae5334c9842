//! The interleaved rounds.

mod bulk;
mod held;
mod paths;
mod quic;

use std::{fmt, fs, io, path::Path};

use clap::ValueEnum;
use tokio::process::Command;

use crate::{
    Failure, ends,
    measure::{Listener, MIB, Run, client},
    stacks::{Program, Stack, pinned},
    table::{
        BARE_QUINN, FRAMES, Metric, OWN_YAMUX, RAW_TCP, RECORDS, Samples, Subject, TOKIO_RUSTLS,
        YAMUX_CRATE,
    },
};

/// Where the dialler and the listener of a ping run.
const DIALLER_CPU: usize = 0;
const LISTENER_CPU: usize = 1;
/// Load average up to which a machine counts as quiet.
const QUIET: f64 = 0.5;

/// What `compare` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Interleaved rounds; figures are their medians.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only these groups.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Group>,
    /// What carries the connections, one table for each.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "tcp")]
    over: Vec<Over>,
    /// Print one JSON object for each transport instead of the tables.
    #[arg(long)]
    json: bool,
}

/// A transport under comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Over {
    /// TCP with Noise.
    #[default]
    Tcp,
    /// TCP with TLS, the only security proposed.
    Tls,
    /// WebSocket over TCP with Noise.
    Ws,
    /// QUIC.
    Quic,
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Quic => "quic",
        })
    }
}

impl Over {
    fn listen(self) -> &'static str {
        match self {
            Self::Tcp | Self::Tls => "/ip4/127.0.0.1/tcp/0",
            Self::Ws => "/ip4/127.0.0.1/tcp/0/ws",
            Self::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
        }
    }

    /// What both ends are told.
    fn security(self) -> &'static [&'static str] {
        match self {
            Self::Tls => &["--security", "tls"],
            Self::Tcp | Self::Ws | Self::Quic => &[],
        }
    }

    /// litep2p has no TLS over TCP.
    pub(crate) fn spoken_by(self, stack: Stack) -> bool {
        self != Self::Tls || stack != Stack::Litep2p
    }

    /// Whether something of the group has a target here.
    fn has(self, group: Group) -> bool {
        match group {
            Group::Memory | Group::Limits | Group::Many | Group::Bulk => self == Self::Tcp,
            Group::Rtt60 => matches!(self, Self::Tcp | Self::Quic),
            Group::FirstByte => self != Self::Ws,
            _ => true,
        }
    }

    /// Limits of throughput that are processes like the stacks.
    fn throughput_limits(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Tcp => &[("tcp", RAW_TCP), ("records", RECORDS)],
            Self::Tls => &[("tcp", RAW_TCP), ("tls", TOKIO_RUSTLS)],
            Self::Ws => &[("tcp", RAW_TCP), ("frames", FRAMES)],
            Self::Quic => &[],
        }
    }
}

/// Measurements that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// Throughput and processor time of one stream, beside what carries it.
    Perf,
    /// Round trips.
    Ping,
    /// Round trips on a connection that downloads at full speed.
    Bulk,
    /// Fresh connections.
    Handshakes,
    /// Short echo streams.
    Streams,
    /// Memory per held connection.
    Connections,
    /// Peak memory of a long transfer.
    Memory,
    /// One stream through the delaying relay, over QUIC with loss too.
    Rtt60,
    /// Round trips until the first byte, on a link of 100 ms.
    FirstByte,
    /// Processor time of a node with a hundred idle connections.
    Idle,
    /// Ten thousand connections, and one more.
    Many,
    /// The muxers over plain TCP, and the cipher.
    Limits,
}

/// Runs all rounds and prints the result; progress goes to stderr.
///
/// # Errors
/// A target could not be judged because a side of it was not measured. One that is missed is no error.
pub fn run(options: &Options) -> Result<(), Failure> {
    let runtime = runtime()?;
    let (programs, left_out) = Program::build(&Stack::ALL);
    let load = load_before();
    let groups: Vec<_> = Group::value_variants()
        .iter()
        .copied()
        .filter(|group| options.only.is_empty() || options.only.contains(group))
        .collect();
    let mut unjudged = 0;
    for over in &options.over {
        let groups: Vec<_> = groups
            .iter()
            .copied()
            .filter(|group| over.has(*group))
            .collect();
        let programs = programs.iter();
        let mut bench = Bench {
            programs: programs
                .filter(|program| over.spoken_by(program.stack))
                .cloned()
                .collect(),
            samples: Samples::new(*over, groups.clone()),
            over: *over,
            round: 0,
            rounds: options.rounds,
        };
        for (stack, cause) in &left_out {
            if over.spoken_by(*stack) {
                bench.samples.gap(format!("{stack} is left out: {cause}"));
            }
        }
        for round in 0..options.rounds {
            bench.round = round;
            bench.samples.next_round();
            for group in &groups {
                eprintln!(
                    "{over}, round {} of {}: {group:?}",
                    round + 1,
                    options.rounds
                );
                runtime.block_on(bench.group(*group));
            }
            // What one stack leaves in the caches meets another one next time.
            bench.programs.rotate_left(1);
        }
        unjudged += show(&bench.samples, options.json, load);
    }
    judged(unjudged)
}

/// What the rounds run in; the work is done by other processes.
pub(crate) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
}

/// Prints a table, and returns how many of its targets lack a side.
pub(crate) fn show<S: Subject>(samples: &Samples<S>, json: bool, load: f64) -> usize {
    if json {
        println!("{}", samples.to_json());
    } else {
        println!("{}, load {load} before\n{}", machine(), samples.render());
    }
    let rows = samples.rows();
    rows.iter().filter(|row| row.value.is_none()).count()
}

/// Whether all targets could be judged.
pub(crate) fn judged(unjudged: usize) -> Result<(), Failure> {
    if unjudged > 0 {
        return Err(format!("{unjudged} targets lack a side that was not measured").into());
    }
    Ok(())
}

struct Bench {
    programs: Vec<Program>,
    samples: Samples<Over>,
    over: Over,
    round: usize,
    rounds: usize,
}

impl Bench {
    async fn group(&mut self, group: Group) {
        for program in self.programs.clone() {
            let measured = match group {
                Group::Perf => self.perf(&program).await,
                Group::Ping => self.ping(&program).await,
                Group::Bulk => self.bulk(&program).await,
                Group::Handshakes => self.handshakes(&program).await,
                Group::Streams => self.streams(&program).await,
                Group::Connections => self.connections(&program).await,
                Group::Memory => self.memory(&program).await,
                Group::Rtt60 => self.rtt60(&program).await,
                Group::FirstByte => self.first_byte(&program).await,
                Group::Idle => self.idle(&program).await,
                Group::Many => self.many(&program).await,
                Group::Limits => Ok(()),
            };
            self.report(&format!("{group:?} of {}", program.stack), measured);
        }
        let beside = match group {
            Group::Perf if self.over == Over::Quic => self.perf_beside_quinn().await,
            Group::Perf => self.perf_limits().await,
            Group::Ping => self.ping_limit().await,
            Group::Connections if self.over == Over::Quic => self.connections_of_quinn().await,
            Group::Rtt60 if self.over == Over::Quic => self.relay_at_0_ms().await,
            Group::Rtt60 => self.rtt60_mixed().await,
            Group::Limits => self.limits().await,
            _ => Ok(()),
        };
        self.report(&format!("{group:?} of the limits"), beside);
    }

    /// A failed measurement leaves a gap in the table, not an end to the run.
    fn report(&mut self, what: &str, outcome: Result<(), Failure>) {
        if let Err(cause) = outcome {
            let round = self.round + 1;
            self.samples.gap(format!("{what}, round {round}: {cause}"));
        }
    }

    /// What every dialling command of a program is told.
    fn command(&self, program: &Program, args: &[&str], processor: Option<usize>) -> Command {
        program.command(&[args, self.over.security()].concat(), processor)
    }

    fn listen_args<'a>(&self, more: &[&'a str]) -> Vec<&'a str> {
        let always = ["listen", "--listen", self.over.listen(), "--json"];
        [&always, self.over.security(), more].concat()
    }

    async fn listen(
        &self,
        program: &Program,
        more: &[&str],
        processor: Option<usize>,
    ) -> Result<Listener, Failure> {
        Listener::start(program.command(&self.listen_args(more), processor)).await
    }

    /// Moves so many bytes up and down.
    async fn transfer(
        &self,
        program: &Program,
        listener: &Listener,
        more: &[&str],
        [up, down]: [&str; 2],
    ) -> Result<Run, Failure> {
        self.transfer_to(program, &listener.addr, listener, more, [up, down])
            .await
    }

    /// As [`transfer`](Self::transfer), to another address that leads to the listener.
    async fn transfer_to(
        &self,
        program: &Program,
        addr: &str,
        listener: &Listener,
        more: &[&str],
        [up, down]: [&str; 2],
    ) -> Result<Run, Failure> {
        let args = ["perf", addr, "--upload", up, "--download", down];
        let args = [&args[..], &["--timeout", "150", "--json"], more].concat();
        client(self.command(program, &args, None), "perf", listener).await
    }

    async fn perf(&mut self, program: &Program) -> Result<(), Failure> {
        let listener = self.listen(program, &[], None).await?;
        let up = self
            .transfer(program, &listener, &[], ["1GiB", "0"])
            .await?;
        let down = self
            .transfer(program, &listener, &[], ["0", "1GiB"])
            .await?;
        listener.stop().await?;
        let cpu = [&up, &down].map(|run| run.cpu_client + run.cpu_listener);
        self.samples.add(
            Metric::PerfUp,
            program.stack,
            up.rate("upload_bytes", "upload_s")?,
        );
        self.samples.add(
            Metric::PerfDown,
            program.stack,
            down.rate("download_bytes", "download_s")?,
        );
        self.samples.add(
            Metric::CpuPerGib,
            program.stack,
            f64::midpoint(cpu[0], cpu[1]),
        );
        Ok(())
    }

    async fn perf_limits(&mut self) -> Result<(), Failure> {
        for (limit, who) in self.over.throughput_limits() {
            let (rate, cpu) = moved(&[limit], 2 << 30).await?;
            self.samples.add(Metric::PerfUp, who, rate);
            self.samples.add(Metric::CpuPerGib, who, cpu);
        }
        Ok(())
    }

    async fn ping(&mut self, program: &Program) -> Result<(), Failure> {
        let listener = self.listen(program, &[], Some(LISTENER_CPU)).await?;
        let args = ["ping", &listener.addr, "--count", "10000", "--json"];
        let run = client(
            self.command(program, &args, Some(DIALLER_CPU)),
            "ping",
            &listener,
        )
        .await?;
        listener.stop().await?;
        self.samples
            .add(Metric::Ping, program.stack, run.number("p50_us")?);
        Ok(())
    }

    async fn ping_limit(&mut self) -> Result<(), Failure> {
        let (limit, who) = match self.over {
            Over::Quic => ("quic-ping", BARE_QUINN),
            Over::Tcp | Over::Tls | Over::Ws => ("ping-pong", RAW_TCP),
        };
        let listener = Listener::start(own(&["serve", limit], Some(LISTENER_CPU))?).await?;
        let args = ["drive", limit, &listener.addr, "--count", "10000"];
        let run = client(own(&args, Some(DIALLER_CPU))?, "ping", &listener).await?;
        self.samples.add(Metric::Ping, who, run.number("p50_us")?);
        listener.stop().await
    }

    /// barewire identifies a peer only after 50 ms; the peers that can be told so do not identify here either.
    async fn handshakes(&mut self, program: &Program) -> Result<(), Failure> {
        let lean: &[&str] = match program.stack {
            Stack::Rust | Stack::Litep2p => &["--no-identify"],
            Stack::Barewire | Stack::Go => &[],
        };
        for (metric, count, concurrency) in [
            (Metric::HandshakesSerial, "600", "1"),
            (Metric::Handshakes16, "3000", "16"),
        ] {
            let listener = self.listen(program, lean, None).await?;
            let args = [
                "bench",
                "handshakes",
                &listener.addr,
                "--count",
                count,
                "--concurrency",
                concurrency,
                "--json",
            ];
            let run = client(self.command(program, &args, None), "handshakes", &listener).await?;
            self.samples
                .add(metric, program.stack, per_second(&run, count)?);
            listener.stop().await?;
        }
        Ok(())
    }

    async fn streams(&mut self, program: &Program) -> Result<(), Failure> {
        let listener = self.listen(program, &[], None).await?;
        let args = [
            "bench",
            "streams",
            &listener.addr,
            "--count",
            "40000",
            "--concurrency",
            "16",
            "--size",
            "100",
            "--json",
        ];
        let run = client(self.command(program, &args, None), "streams", &listener).await?;
        self.samples
            .add(Metric::Streams16, program.stack, per_second(&run, "40000")?);
        listener.stop().await
    }

    async fn memory(&mut self, program: &Program) -> Result<(), Failure> {
        // The peers' peaks hold no target, so once is enough.
        if program.stack != Stack::Barewire && self.round > 0 {
            return Ok(());
        }
        let listener = self.listen(program, &[], None).await?;
        let up = self
            .transfer(program, &listener, &[], ["4GiB", "0"])
            .await?;
        let down = self
            .transfer(program, &listener, &[], ["0", "4GiB"])
            .await?;
        listener.stop().await?;
        let peak = [up.peak_client, down.peak_client, down.peak_listener]
            .into_iter()
            .max()
            .unwrap_or(0);
        self.samples
            .add(Metric::PeakMib, program.stack, peak as f64 / MIB);
        Ok(())
    }

    async fn limits(&mut self) -> Result<(), Failure> {
        for (limit, who) in [("yamux", OWN_YAMUX), ("yamux-crate", YAMUX_CRATE)] {
            let (rate, _) = moved(&[limit], 2 << 30).await?;
            self.samples.add(Metric::Muxer, who, rate);
        }
        let rates = ends::cipher_rates()?;
        self.samples.add(Metric::Cipher, "seal", rates.seal / MIB);
        self.samples.add(Metric::Cipher, "open", rates.open / MIB);
        Ok(())
    }
}

/// The rate of a run that must have done all it was asked to do.
fn per_second(run: &Run, count: &str) -> Result<f64, Failure> {
    if run.number("count")?.to_string() != count {
        return Err(format!("not {count} were done: {}", run.event).into());
    }
    run.number("per_s")
}

/// MiB/s of a limit, which may have arguments, and processor seconds of both ends per GiB.
async fn moved(limit: &[&str], bytes: u64) -> Result<(f64, f64), Failure> {
    let listener = Listener::start(own(&[&["serve"], limit].concat(), None)?).await?;
    let run = drive(limit, &listener.addr, &listener, bytes).await?;
    listener.stop().await?;
    let gib = bytes as f64 / 1024.0 / MIB;
    Ok((
        run.rate("bytes", "secs")?,
        (run.cpu_client + run.cpu_listener) / gib,
    ))
}

/// Drives a limit at an address that leads to the listener.
async fn drive(
    limit: &[&str],
    addr: &str,
    listener: &Listener,
    bytes: u64,
) -> Result<Run, Failure> {
    let bytes = bytes.to_string();
    let args = [&["drive"], limit, &[addr, "--bytes", &bytes]].concat();
    client(own(&args, None)?, "moved", listener).await
}

/// This program with other arguments.
fn own(args: &[&str], processor: Option<usize>) -> Result<Command, Failure> {
    let mut command = pinned(Path::new(&std::env::current_exe()?), processor);
    command.args(args);
    Ok(command)
}

/// Load average of the last minute, with a warning if the machine is busy.
pub(crate) fn load_before() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = text
        .split(' ')
        .next()
        .and_then(|load| load.parse().ok())
        .unwrap_or(0.0);
    if load > QUIET {
        eprintln!(
            "the machine is busy (load {load}): who runs more threads gets more of it, so throughput ratios mislead"
        );
    }
    load
}

/// What the figures were taken on.
fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{}, {cores} cores shared by both ends, Linux {}",
        model.trim_start_matches([' ', '\t', ':']),
        kernel.trim()
    )
}
