//! The interleaved rounds.

use std::{fs, path::Path};

use clap::ValueEnum;
use tokio::process::Command;

use crate::{
    Failure, ends,
    measure::{Listener, MIB, Run, client, held},
    stacks::{Program, Stack, pinned},
    table::{
        FROM_GO, Metric, OWN_YAMUX, RAW_RELAYED, RAW_TCP, RECORDS, Samples, TO_GO, YAMUX_CRATE,
    },
};

/// Connections held for the memory figure.
const HELD: usize = 1000;
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
    /// What carries the connections; the limits stay those of TCP.
    #[arg(long, value_enum, default_value = "tcp")]
    over: Over,
    /// Print one JSON object instead of the tables.
    #[arg(long)]
    json: bool,
}

/// A transport under comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Over {
    /// Plain TCP.
    #[default]
    Tcp,
    /// WebSocket over TCP.
    Ws,
}

impl Over {
    fn listen(self) -> &'static str {
        match self {
            Self::Tcp => "/ip4/127.0.0.1/tcp/0",
            Self::Ws => "/ip4/127.0.0.1/tcp/0/ws",
        }
    }
}

/// Measurements that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Throughput and processor time of one stream, beside raw TCP and bare records.
    Perf,
    /// Round trips.
    Ping,
    /// Fresh connections.
    Handshakes,
    /// Short echo streams.
    Streams,
    /// Memory per held connection.
    Connections,
    /// Peak memory of a long transfer.
    Memory,
    /// One stream through the delaying relay.
    Rtt60,
    /// The muxers over plain TCP, and the cipher.
    Limits,
}

/// Runs all rounds and prints the result; progress goes to stderr.
pub fn run(options: &Options) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let programs = Program::build_all();
    let load = load();
    if load > QUIET {
        eprintln!(
            "the machine is busy (load {load}): who runs more threads gets more of it, so throughput ratios mislead"
        );
    }
    let groups: Vec<_> = Group::value_variants()
        .iter()
        .copied()
        .filter(|group| options.only.is_empty() || options.only.contains(group))
        .collect();
    let mut bench = Bench {
        programs,
        samples: Samples::over(options.over),
        over: options.over,
        round: 0,
    };
    for round in 0..options.rounds {
        bench.round = round;
        for group in &groups {
            eprintln!("round {} of {}: {group:?}", round + 1, options.rounds);
            runtime.block_on(bench.group(*group));
        }
        // What one stack leaves in the caches meets another one next time.
        bench.programs.rotate_left(1);
    }
    if options.json {
        println!("{}", bench.samples.to_json());
    } else {
        println!(
            "{}, load {load} before\n{}",
            machine(),
            bench.samples.render()
        );
    }
    Ok(())
}

struct Bench {
    programs: Vec<Program>,
    samples: Samples,
    over: Over,
    round: usize,
}

impl Bench {
    async fn group(&mut self, group: Group) {
        for program in self.programs.clone() {
            let measured = match group {
                Group::Perf => self.perf(&program).await,
                Group::Ping => self.ping(&program).await,
                Group::Handshakes => self.handshakes(&program).await,
                Group::Streams => self.streams(&program).await,
                Group::Connections => self.connections(&program).await,
                Group::Memory => self.memory(&program).await,
                Group::Rtt60 => self.rtt60(program.stack, &program, &program).await,
                Group::Limits => Ok(()),
            };
            report(&format!("{group:?} of {}", program.stack), measured);
        }
        let beside = match group {
            Group::Perf => self.perf_limits().await,
            Group::Ping => self.ping_limit().await,
            Group::Rtt60 => self.rtt60_mixed().await,
            Group::Limits => self.limits().await,
            _ => Ok(()),
        };
        report(&format!("{group:?} of the limits"), beside);
    }

    async fn perf(&mut self, program: &Program) -> Result<(), Failure> {
        let listener = listen(self.over, program, &[], None).await?;
        let up = perf(program, &listener, "1GiB", "0").await?;
        let down = perf(program, &listener, "0", "1GiB").await?;
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
        for (limit, who) in [("tcp", RAW_TCP), ("records", RECORDS)] {
            let (rate, cpu) = moved(limit, 2 << 30).await?;
            self.samples.add(Metric::PerfUp, who, rate);
            self.samples.add(Metric::CpuPerGib, who, cpu);
        }
        Ok(())
    }

    async fn ping(&mut self, program: &Program) -> Result<(), Failure> {
        let listener = listen(self.over, program, &[], Some(LISTENER_CPU)).await?;
        let args = ["ping", &listener.addr, "--count", "10000", "--json"];
        let run = client(program.command(&args, Some(DIALLER_CPU)), "ping", &listener).await?;
        listener.stop().await?;
        self.samples
            .add(Metric::Ping, program.stack, run.number("p50_us")?);
        Ok(())
    }

    async fn ping_limit(&mut self) -> Result<(), Failure> {
        let listener = Listener::start(own(&["serve", "ping-pong"], Some(LISTENER_CPU))?).await?;
        let args = ["drive", "ping-pong", &listener.addr, "--count", "10000"];
        let run = client(own(&args, Some(DIALLER_CPU))?, "ping", &listener).await?;
        self.samples
            .add(Metric::Ping, RAW_TCP, run.number("p50_us")?);
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
            let listener = listen(self.over, program, lean, None).await?;
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
            let run = client(program.command(&args, None), "handshakes", &listener).await?;
            self.samples
                .add(metric, program.stack, per_second(&run, count)?);
            listener.stop().await?;
        }
        Ok(())
    }

    async fn streams(&mut self, program: &Program) -> Result<(), Failure> {
        let listener = listen(self.over, program, &[], None).await?;
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
        let run = client(program.command(&args, None), "streams", &listener).await?;
        self.samples
            .add(Metric::Streams16, program.stack, per_second(&run, "40000")?);
        listener.stop().await
    }

    async fn connections(&mut self, program: &Program) -> Result<(), Failure> {
        let listener =
            Listener::start(program.command_with_descriptors(&listen_args(self.over))).await?;
        let count = HELD.to_string();
        let args = [
            "bench",
            "connections",
            &listener.addr,
            "--count",
            &count,
            "--concurrency",
            "16",
            "--json",
        ];
        let bytes = held(program.command_with_descriptors(&args), &listener, HELD).await?;
        self.samples
            .add(Metric::HeldKib, program.stack, bytes / 1024.0);
        listener.stop().await
    }

    async fn memory(&mut self, program: &Program) -> Result<(), Failure> {
        // The peers' peaks hold no target, so once is enough.
        if program.stack != Stack::Barewire && self.round > 0 {
            return Ok(());
        }
        let listener = listen(self.over, program, &[], None).await?;
        let up = perf(program, &listener, "4GiB", "0").await?;
        let down = perf(program, &listener, "0", "4GiB").await?;
        listener.stop().await?;
        let peak = [up.peak_client, down.peak_client, down.peak_listener]
            .into_iter()
            .max()
            .unwrap_or(0);
        self.samples
            .add(Metric::PeakMib, program.stack, peak as f64 / MIB);
        Ok(())
    }

    /// `sender` dials `receiver` through the relay.
    async fn rtt60(
        &mut self,
        who: impl ToString,
        sender: &Program,
        receiver: &Program,
    ) -> Result<(), Failure> {
        let listener = listen(self.over, receiver, &[], None).await?;
        let port = port_of(&listener.addr)?;
        let relay =
            Listener::start(own(&["relay", "--to", &format!("127.0.0.1:{port}")], None)?).await?;
        let relayed = listener.addr.replace(
            &format!("/tcp/{port}/"),
            &format!("/tcp/{}/", port_of(&relay.addr)?),
        );
        let args = [
            "perf",
            &relayed,
            "--upload",
            "2GiB",
            "--download",
            "0",
            "--timeout",
            "120",
            "--json",
        ];
        let run = client(sender.command(&args, None), "perf", &listener).await?;
        self.samples
            .add(Metric::Rtt60, who, run.rate("upload_bytes", "upload_s")?);
        relay.stop().await?;
        listener.stop().await
    }

    async fn rtt60_mixed(&mut self) -> Result<(), Failure> {
        let find = |stack| {
            self.programs
                .iter()
                .find(|program| program.stack == stack)
                .cloned()
        };
        if let (Some(barewire), Some(go)) = (find(Stack::Barewire), find(Stack::Go)) {
            self.rtt60(TO_GO, &barewire, &go).await?;
            self.rtt60(FROM_GO, &go, &barewire).await?;
        }
        let listener = Listener::start(own(&["serve", "tcp"], None)?).await?;
        let relay = Listener::start(own(&["relay", "--to", &listener.addr], None)?).await?;
        let args = ["drive", "tcp", &relay.addr, "--bytes", "4294967296"];
        let run = client(own(&args, None)?, "moved", &listener).await?;
        self.samples
            .add(Metric::Rtt60, RAW_RELAYED, run.rate("bytes", "secs")?);
        relay.stop().await?;
        listener.stop().await
    }

    async fn limits(&mut self) -> Result<(), Failure> {
        for (limit, who) in [("yamux", OWN_YAMUX), ("yamux-crate", YAMUX_CRATE)] {
            let (rate, _) = moved(limit, 2 << 30).await?;
            self.samples.add(Metric::Muxer, who, rate);
        }
        let rates = ends::cipher_rates()?;
        self.samples.add(Metric::Cipher, "seal", rates.seal / MIB);
        self.samples.add(Metric::Cipher, "open", rates.open / MIB);
        Ok(())
    }
}

fn listen_args(over: Over) -> [&'static str; 4] {
    ["listen", "--listen", over.listen(), "--json"]
}

async fn listen(
    over: Over,
    program: &Program,
    more: &[&str],
    processor: Option<usize>,
) -> Result<Listener, Failure> {
    Listener::start(program.command(&[&listen_args(over), more].concat(), processor)).await
}

async fn perf(
    program: &Program,
    listener: &Listener,
    upload: &str,
    download: &str,
) -> Result<Run, Failure> {
    let args = [
        "perf",
        &listener.addr,
        "--upload",
        upload,
        "--download",
        download,
        "--timeout",
        "120",
        "--json",
    ];
    client(program.command(&args, None), "perf", listener).await
}

/// The rate of a run that must have done all it was asked to do.
fn per_second(run: &Run, count: &str) -> Result<f64, Failure> {
    if run.number("count")?.to_string() != count {
        return Err(format!("not {count} were done: {}", run.event).into());
    }
    run.number("per_s")
}

/// MiB/s of a limit, and processor seconds of both ends per GiB.
async fn moved(limit: &str, bytes: u64) -> Result<(f64, f64), Failure> {
    let listener = Listener::start(own(&["serve", limit], None)?).await?;
    let args = [
        "drive",
        limit,
        &listener.addr,
        "--bytes",
        &bytes.to_string(),
    ];
    let run = client(own(&args, None)?, "moved", &listener).await?;
    listener.stop().await?;
    let gib = bytes as f64 / 1024.0 / MIB;
    Ok((
        run.rate("bytes", "secs")?,
        (run.cpu_client + run.cpu_listener) / gib,
    ))
}

/// This program with other arguments.
fn own(args: &[&str], processor: Option<usize>) -> Result<Command, Failure> {
    let mut command = pinned(Path::new(&std::env::current_exe()?), processor);
    command.args(args);
    Ok(command)
}

/// The port in a multiaddr or a socket address.
fn port_of(addr: &str) -> Result<u16, Failure> {
    let port = match addr.split_once("/tcp/") {
        Some((_, rest)) => rest.split('/').next(),
        None => addr.rsplit(':').next(),
    };
    port.and_then(|port| port.parse().ok())
        .ok_or_else(|| format!("no port in {addr}").into())
}

/// A failed measurement leaves a gap in the table, not an end to the run.
fn report(what: &str, outcome: Result<(), Failure>) {
    if let Err(cause) = outcome {
        eprintln!("{what} failed: {cause}");
    }
}

/// Load average of the last minute.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|load| load.parse().ok())
        .unwrap_or(0.0)
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
