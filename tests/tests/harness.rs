//! The contract of the public interop harnesses, run with a real Redis: `barewire interop` on both ends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::{
    io::Read,
    net::TcpListener,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use barewire_tests::{debian, peers};

/// Longest run of a dialler.
const DEADLINE: Duration = Duration::from_secs(120);

/// Gone with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A Redis of this test's own, or `None` with the reason printed.
fn redis() -> Option<(Killed, String)> {
    if let Err(cause) = debian::install("redis-server", "redis-server") {
        barewire_tests::skip(&cause);
        return None;
    }
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let child = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--port", &port.to_string()])
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Some((Killed(child), format!("127.0.0.1:{port}")))
}

/// Runs a listener and a dialler with the given environment, and returns what the dialler printed.
fn harness(common: &[(&str, &str)], is_dialer: &str) -> Output {
    let program = peers::barewire().unwrap();
    let command = |dialer: &str| {
        let mut command = Command::new(&program);
        command
            .arg("interop")
            .env_remove("RUST_LOG")
            .env(is_dialer, dialer)
            .envs(common.iter().copied())
            .stdin(Stdio::null());
        command
    };
    // The dialler first: it has to wait for the listener.
    let mut dialer = Killed(
        command("true")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    std::thread::sleep(Duration::from_millis(100));
    let _listener = Killed(
        command("false")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let begun = Instant::now();
    while dialer.0.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < DEADLINE, "the dialler does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    // What it prints fits the pipes many times over, so it could end before anybody read.
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let child = &mut dialer.0;
    child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut stdout)
        .unwrap();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_end(&mut stderr)
        .unwrap();
    Output {
        status: child.wait().unwrap(),
        stdout,
        stderr,
    }
}

fn text(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The number behind `name:` in YAML.
fn field(text: &str, name: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {name} in {text}"));
    line.trim().parse().unwrap()
}

#[test]
fn the_transport_test_on_each_transport() {
    let Some((_redis, addr)) = redis() else {
        return;
    };
    for (at, (transport, security)) in [
        ("tcp", Some("noise")),
        ("tcp", Some("tls")),
        ("ws", Some("noise")),
        ("ws", Some("tls")),
        ("quic-v1", None),
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("a5b50d{at:02}");
        let mut common = vec![
            ("REDIS_ADDR", addr.as_str()),
            ("TEST_KEY", &key),
            ("TRANSPORT", transport),
            ("LISTENER_IP", "0.0.0.0"),
            ("DEBUG", "false"),
        ];
        if let Some(security) = security {
            common.extend([("SECURE_CHANNEL", security), ("MUXER", "yamux")]);
        }
        let yaml = text(&harness(&common, "IS_DIALER"));
        let (handshake, ping) = (
            field(&yaml, "handshake_plus_one_rtt"),
            field(&yaml, "ping_rtt"),
        );
        println!("{transport} {security:?}: handshake and ping {handshake} ms, ping {ping} ms");
        assert!(yaml.starts_with("latency:\n"), "{yaml}");
        assert!(yaml.contains("unit: ms"), "{yaml}");
        assert!(handshake > 0.0 && ping > 0.0, "{yaml}");
    }
}

/// The transports of the other tests, with their secure channels.
const CARRIERS: [(&str, Option<&str>); 3] = [
    ("tcp", Some("tls")),
    ("ws", Some("noise")),
    ("quic-v1", None),
];

#[test]
fn the_perf_test() {
    let Some((_redis, addr)) = redis() else {
        return;
    };
    for (at, (transport, security)) in CARRIERS.into_iter().enumerate() {
        let key = format!("0badcaf{at}");
        let mut common = vec![
            ("REDIS_ADDR", addr.as_str()),
            ("TEST_KEY", &key),
            ("TRANSPORT", transport),
            ("LISTENER_IP", "0.0.0.0"),
            ("UPLOAD_BYTES", "8388608"),
            ("DOWNLOAD_BYTES", "4194304"),
            ("UPLOAD_ITERATIONS", "5"),
            ("DOWNLOAD_ITERATIONS", "3"),
            ("LATENCY_ITERATIONS", "null"),
        ];
        if let Some(security) = security {
            common.extend([("SECURE_CHANNEL", security), ("MUXER", "yamux")]);
        }
        let yaml = text(&harness(&common, "IS_DIALER"));
        println!("{transport}\n{yaml}");
        check_perf(&yaml, [Some(5.0), Some(3.0), Some(100.0)]);
    }
}

/// Without a number of iterations, as many as fit into the time given.
#[test]
fn the_perf_test_by_time() {
    let Some((_redis, addr)) = redis() else {
        return;
    };
    let common = [
        ("REDIS_ADDR", addr.as_str()),
        ("TEST_KEY", "0badcaff"),
        ("TRANSPORT", "quic-v1"),
        ("LISTENER_IP", "0.0.0.0"),
        ("UPLOAD_BYTES", "8388608"),
        ("DOWNLOAD_BYTES", "8388608"),
        ("UPLOAD_ITERATIONS", "null"),
        ("DOWNLOAD_ITERATIONS", "null"),
        ("LATENCY_ITERATIONS", "7"),
        ("DURATION", "2"),
    ];
    let begun = Instant::now();
    let yaml = text(&harness(&common, "IS_DIALER"));
    println!("{yaml}");
    check_perf(&yaml, [None, None, Some(7.0)]);
    assert!(
        begun.elapsed() > Duration::from_secs(4),
        "two seconds for each direction"
    );
    assert!(field(&yaml, "iterations") > 3.0);
}

/// Three tables with as many iterations, where that is known beforehand.
fn check_perf(yaml: &str, iterations: [Option<f64>; 3]) {
    let parts: Vec<_> = ["upload:\n", "download:\n", "latency:\n"]
        .iter()
        .map(|name| yaml.find(name).unwrap())
        .collect();
    assert!(parts.is_sorted(), "{yaml}");
    for (from, unit) in ["Gbps", "Gbps", "ms"].into_iter().enumerate() {
        let part = &yaml[parts[from]..parts.get(from + 1).copied().unwrap_or(yaml.len())];
        let counted = field(part, "iterations");
        assert!(
            iterations[from].is_none_or(|known| known == counted),
            "{part}"
        );
        let ordered: Vec<_> = ["min", "q1", "median", "q3", "max"]
            .map(|name| field(part, name))
            .into();
        assert!(
            ordered[1..4].is_sorted() && ordered[0] <= ordered[4],
            "{part}"
        );
        assert!(ordered[0] > 0.0, "{part}");
        assert!(part.contains(&format!("unit: {unit}")), "{part}");
        assert!(
            part.contains("outliers: [") && part.contains("samples: ["),
            "{part}"
        );
    }
}

#[test]
fn the_older_dialect() {
    for (transport, security) in CARRIERS {
        // Its key in Redis has one name, so each run has a Redis of its own.
        let Some((_redis, addr)) = redis() else {
            return;
        };
        let mut common = vec![
            ("redis_addr", addr.as_str()),
            ("transport", transport),
            ("ip", "0.0.0.0"),
            ("test_timeout_seconds", "60"),
        ];
        if let Some(security) = security {
            common.extend([("security", security), ("muxer", "yamux")]);
        }
        let out = text(&harness(&common, "is_dialer"));
        let result: serde_json::Value = serde_json::from_str(&out).unwrap();
        println!("{transport}: {result}");
        for name in ["handshakePlusOneRTTMillis", "pingRTTMilllis"] {
            assert!(result[name].as_f64().unwrap() > 0.0, "{result}");
        }
    }
}

#[test]
fn what_is_not_spoken_is_an_error() {
    for (transport, security, muxer, word) in [
        ("webrtc", "noise", "yamux", "webrtc"),
        ("tcp", "plaintext", "yamux", "plaintext"),
        ("tcp", "noise", "mplex", "mplex"),
    ] {
        let output = Command::new(peers::barewire().unwrap())
            .arg("interop")
            .envs([
                ("IS_DIALER", "false"),
                ("REDIS_ADDR", "127.0.0.1:1"),
                ("TEST_KEY", "00000000"),
                ("TRANSPORT", transport),
                ("SECURE_CHANNEL", security),
                ("MUXER", muxer),
            ])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(said.contains(word), "{said}");
    }
}
