//! Each command against a listening one, as two processes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use common::*;
use serde_json::Value;

#[test]
fn an_identity_is_kept_in_a_private_file() {
    let folder = Folder::new();
    let file = folder.file("node.key");
    let made = json(&["id", "--key", &file]);
    assert_eq!(made["created"], true);
    let peer = made["peer"].as_str().unwrap();
    assert!(peer.starts_with("12D3KooW"));
    let shown = json(&["id", "--key", &file]);
    assert_eq!(
        (&shown["peer"], &shown["created"]),
        (&made["peer"], &Value::Bool(false))
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    assert_ne!(json(&["id"])["peer"], json(&["id"])["peer"]);
    // A node with this file is this node.
    let listener = Listener::with(&["--key", &file]);
    assert_eq!(listener.peer, peer);
    assert!(listener.addr().ends_with(&format!("/p2p/{peer}")));
    listener.stop();
}

#[test]
fn identify_shows_what_the_node_serves() {
    let listener = Listener::with(&["--echo-protocol", "/my/echo/1"]);
    for addr in [listener.addr(), listener.transport_addr()] {
        let event = json(&["identify", addr]);
        assert_eq!(event["event"], "identify");
        assert_eq!(event["peer"], *listener.peer);
        assert!(event["agent"].as_str().unwrap().starts_with("barewire/"));
        assert_eq!(event["signed_record"], true);
        assert_eq!(event["security"], "/noise");
        assert_eq!(event["early_muxer"], true);
        assert_eq!(event["listen_addrs"][0], listener.transport_addr());
        let protocols = event["protocols"].to_string();
        for id in [
            "/ipfs/id/1.0.0",
            "/ipfs/id/push/1.0.0",
            "/ipfs/ping/1.0.0",
            "/perf/1.0.0",
            "/barewire/echo/1.0.0",
            "/my/echo/1",
        ] {
            assert!(protocols.contains(id), "{id} in {protocols}");
        }
    }
    let (table, _) = texts(&run(&["identify", listener.transport_addr()]));
    assert!(
        table.contains(&listener.peer) && table.contains("/my/echo/1"),
        "{table}"
    );
    listener.stop();
}

#[test]
fn ping_measures_round_trips_and_shows_who_answered() {
    let listener = Listener::start();
    let event = json(&["ping", listener.transport_addr(), "--count", "20"]);
    assert_eq!(event["event"], "ping");
    assert_eq!(event["count"], 20);
    assert_eq!(event["peer"], *listener.peer);
    let us = |name: &str| event[name].as_f64().unwrap();
    assert!(0.0 < us("min_us") && us("min_us") <= us("p50_us") && us("p50_us") <= us("p99_us"));
    let output = run(&["ping", listener.transport_addr()]);
    let (text, _) = texts(&output);
    assert!(
        text.contains(&listener.peer) && text.contains("round trips"),
        "{text}"
    );
    listener.stop();
}

#[test]
fn perf_moves_what_was_asked_for() {
    let listener = Listener::start();
    let event = json(&[
        "perf",
        listener.addr(),
        "--upload",
        "8MiB",
        "--download",
        "3MB",
    ]);
    assert_eq!(event["event"], "perf");
    assert_eq!(event["upload_bytes"], 8 << 20);
    assert_eq!(event["download_bytes"], 3_000_000);
    assert!(event["upload_s"].as_f64().unwrap() > 0.0);
    assert!(event["download_s"].as_f64().unwrap() > 0.0);
    listener.stop();
}

#[test]
fn echo_verifies_a_digest_under_any_protocol_id_and_muxer() {
    let listener = Listener::with(&["--echo-protocol", "/my/echo/1"]);
    let crate_listener = Listener::with(&["--muxer", "yamux-crate"]);
    for size in ["0", "1", "100KiB", "5MiB"] {
        let event = json(&["echo", listener.addr(), "--size", size]);
        assert_eq!(event["event"], "echo");
        assert_eq!(event["sha256"].as_str().unwrap().len(), 64);
    }
    json(&["echo", listener.addr(), "--protocol", "/my/echo/1"]);
    for muxer in ["yamux", "yamux-crate"] {
        for addr in [listener.addr(), crate_listener.addr()] {
            json(&["echo", addr, "--muxer", muxer, "--security", "noise"]);
        }
    }
    listener.stop();
    crate_listener.stop();
}

#[test]
fn benches_report_rates() {
    let listener = Listener::start();
    let handshakes = ["bench", "handshakes", listener.addr(), "--count", "20"];
    let event = json(&[&handshakes[..], &["--concurrency", "4"]].concat());
    assert_eq!(
        (&event["event"], &event["count"]),
        (&"handshakes".into(), &20.into())
    );
    assert_eq!(event["peer"], *listener.peer);
    for figure in ["secs", "per_s", "p50_us"] {
        assert!(event[figure].as_f64().unwrap() > 0.0, "{figure}");
    }
    let streams = [
        "bench",
        "streams",
        listener.transport_addr(),
        "--count",
        "200",
    ];
    let event = json(&[&streams[..], &["--concurrency", "16", "--size", "100"]].concat());
    assert_eq!(
        (&event["event"], &event["count"]),
        (&"streams".into(), &200.into())
    );
    assert!(event["per_s"].as_f64().unwrap() > 0.0);
    listener.stop();
}

#[test]
fn connections_are_held_until_stdin_closes() {
    let listener = Listener::start();
    let mut holder = barewire(&["bench", "connections", listener.addr(), "--count", "30"])
        .args(["--concurrency", "4", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(holder.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let event: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(event, serde_json::json!({"event": "held", "count": 30}));
    assert!(holder.try_wait().unwrap().is_none());
    // The node serves others meanwhile.
    json(&["ping", listener.addr(), "--count", "1"]);
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    listener.stop();
}

#[test]
fn help_has_examples() {
    for args in [
        &["--help"][..],
        &["id", "--help"],
        &["listen", "--help"],
        &["identify", "--help"],
        &["ping", "--help"],
        &["perf", "--help"],
        &["echo", "--help"],
        &["bench", "--help"],
    ] {
        let output = run(args);
        let (text, _) = texts(&output);
        assert!(output.status.success());
        assert!(text.contains("Example"), "{args:?}: {text}");
    }
}

#[test]
fn a_reader_that_stops_reading_is_no_failure() {
    let listener = Listener::start();
    let mut child = barewire(&["identify", listener.addr()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(texts(&output).1, "");
    listener.stop();
}
