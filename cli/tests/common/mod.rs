//! Runs the built command.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::{
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// The command, with nothing on stdin.
pub fn barewire(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_barewire"));
    command
        .args(args)
        .env_remove("RUST_LOG")
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null());
    command
}

pub fn run(args: &[&str]) -> Output {
    barewire(args).output().unwrap()
}

/// Runs to a success and returns the one JSON line on stdout.
pub fn json(args: &[&str]) -> Value {
    let args = [args, &["--json"]].concat();
    let output = run(&args);
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{args:?}: {stderr}");
    assert_eq!(stderr, "", "{args:?}");
    assert_eq!(stdout.lines().count(), 1, "{args:?}: {stdout}");
    serde_json::from_str(&stdout).unwrap()
}

/// Runs to a failure and returns its sentence.
pub fn failure(args: &[&str]) -> String {
    let output = run(args);
    let (stdout, stderr) = texts(&output);
    assert!(!output.status.success(), "{args:?} succeeded: {stdout}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    assert!(stderr.starts_with("barewire: "), "{stderr}");
    println!("{stderr}");
    stderr
}

pub fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

/// A running `barewire listen`.
pub struct Listener {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    pub addrs: Vec<String>,
    pub peer: String,
}

impl Listener {
    /// On one loopback port.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With more arguments; as many addresses as `--listen` occurs, or one.
    pub fn with(args: &[&str]) -> Self {
        let args = [&["listen", "--json"], args].concat();
        let mut command = barewire(&args);
        let listens = args.iter().filter(|arg| **arg == "--listen").count();
        Self::of(&mut command, listens.max(1))
    }

    pub fn of(command: &mut Command, listens: usize) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut addrs = Vec::new();
        let mut peer = String::new();
        for _ in 0..listens {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            let event: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(event["event"], "listening");
            peer = event["peer"].as_str().unwrap().to_owned();
            addrs.push(event["addr"].as_str().unwrap().to_owned());
        }
        Self {
            stdin: child.stdin.take(),
            child,
            stdout,
            addrs,
            peer,
        }
    }

    /// The next event on stdout.
    pub fn next_event(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    pub fn addr(&self) -> &str {
        &self.addrs[0]
    }

    /// The first address without `/p2p`.
    pub fn transport_addr(&self) -> &str {
        self.addr().split("/p2p/").next().unwrap()
    }

    /// `host:port` of the first address.
    pub fn socket(&self) -> String {
        let parts: Vec<_> = self.addr().split('/').collect();
        format!("{}:{}", parts[2], parts[4])
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.pid().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits for the end; returns its status, how long it took and what was said on stderr.
    pub fn wait(mut self) -> (ExitStatus, Duration, String) {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut stderr = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            pipe.read_to_string(&mut stderr).unwrap();
        }
        (status, began.elapsed(), stderr)
    }

    /// Closes stdin and expects a clean end.
    pub fn stop(mut self) {
        self.close_stdin();
        let (status, _, stderr) = self.wait();
        assert!(status.success(), "{status}: {stderr}");
        assert_eq!(stderr, "");
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A test that failed leaves it running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder that goes away with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        let name = format!(
            "barewire-cli-{}-{}",
            std::process::id(),
            rand::random::<u64>()
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
