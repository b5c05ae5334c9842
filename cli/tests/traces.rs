//! What is there for other tools to read: TLS secrets, qlog and metrics.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
};

use common::*;
use serde_json::Value;

/// Lines of a key log that name this secret.
fn secrets(file: &str, label: &str) -> usize {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .filter(|line| {
            // Label, the client's random, the secret.
            let fields: Vec<_> = line.split(' ').collect();
            fields.len() == 3
                && fields[0] == label
                && fields[1].len() == 64
                && fields[2].len() >= 64
                && fields[1..]
                    .iter()
                    .all(|hex| hex.bytes().all(|c| c.is_ascii_hexdigit()))
        })
        .count()
}

/// Each side writes its own, over each transport that has TLS in it.
#[test]
fn secrets_of_tls_go_to_the_file_that_is_named() {
    let folder = Folder::new();
    let (chain, key) = (folder.file("chain.pem"), folder.file("key.pem"));
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(&chain, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    for (name, listen, security, each) in [
        ("tcp+tls", "/ip4/127.0.0.1/tcp/0", "tls", 1),
        ("quic-v1", "/ip4/127.0.0.1/udp/0/quic-v1", "noise", 1),
        ("wss+noise", "/ip4/127.0.0.1/tcp/0/tls/ws", "noise", 1),
        // The TLS of the WebSocket, and libp2p's within.
        ("wss+tls", "/ip4/127.0.0.1/tcp/0/tls/ws", "tls", 2),
    ] {
        let (theirs, ours) = (
            folder.file(&format!("{name}-l.log")),
            folder.file(&format!("{name}-d.log")),
        );
        let mut args = vec!["listen", "--json", "--listen", listen];
        args.extend(["--ws-cert", &chain, "--ws-key", &key]);
        let listener = Listener::of(barewire(&args).env("SSLKEYLOGFILE", &theirs), 1);
        let addr = listener.addr();
        let line = ["ping", addr, "--security", security, "--ws-ca", &chain];
        let dialled = barewire(&line)
            .env("SSLKEYLOGFILE", &ours)
            .output()
            .unwrap();
        assert!(dialled.status.success(), "{name}: {}", texts(&dialled).1);
        listener.stop();
        let label = "CLIENT_TRAFFIC_SECRET_0";
        let found = [secrets(&theirs, label), secrets(&ours, label)];
        println!("{name}: {found:?} lines of {label} from listener and dialler");
        assert_eq!(found, [each, each], "{name}");
        let read = |file: &str| {
            let mut lines: Vec<_> = fs::read_to_string(file)
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect();
            lines.retain(|line| line.starts_with(label));
            lines.sort();
            lines
        };
        assert_eq!(
            read(&theirs),
            read(&ours),
            "both sides have the same secrets"
        );
    }
}

/// The records of a trace: JSON-SEQ, RFC 7464.
fn records(file: &Path) -> Vec<Value> {
    let bytes = fs::read(file).unwrap();
    let parts = bytes
        .split(|byte| *byte == 0x1e)
        .filter(|part| !part.is_empty());
    parts
        .map(|part| serde_json::from_slice(part).unwrap())
        .collect()
}

/// One file per connection and side, by option and by environment.
#[test]
fn quic_connections_leave_a_qlog() {
    let folder = Folder::new();
    let (theirs, ours) = (folder.file("listener"), folder.file("dialler"));
    let quic = "/ip4/127.0.0.1/udp/0/quic-v1";
    let listener = Listener::with(&["--listen", quic, "--qlog", &theirs]);
    for _ in 0..2 {
        let line = ["echo", listener.addr(), "--size", "256KiB"];
        let echoed = barewire(&line).env("QLOGDIR", &ours).output().unwrap();
        assert!(echoed.status.success(), "{}", texts(&echoed).1);
    }
    listener.stop();
    for (side, dir) in [("server", &theirs), ("client", &ours)] {
        let files: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(files.len(), 2, "{files:?}");
        for file in files {
            let name = file.file_name().unwrap().to_str().unwrap();
            assert!(name.ends_with(&format!("-{side}.sqlog")), "{name}");
            let records = records(&file);
            assert!(records[0].to_string().contains("qlog"), "{}", records[0]);
            let named = |what: &str| {
                let names = records.iter().filter_map(|record| record["name"].as_str());
                names.filter(|name| name.ends_with(what)).count()
            };
            let (sent, received) = (named("packet_sent"), named("packet_received"));
            println!(
                "{name}: {} records, {sent} packets sent, {received} received",
                records.len()
            );
            // A quarter of a MiB each way, a window of acknowledgements at least.
            assert!(sent > 20 && received > 20, "{sent} and {received}");
            assert!(records[1..].iter().all(|record| record["name"].is_string()));
        }
    }
}

fn http(url: &str, method: &str) -> (String, String) {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut socket = TcpStream::connect(host).unwrap();
    write!(socket, "{method} /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// As a scraper gets them.
#[test]
fn metrics_are_served_over_http() {
    let mut listener = Listener::with(&["--metrics", "0"]);
    let event = listener.next_event();
    assert_eq!(event["event"], "metrics");
    let url = event["url"].as_str().unwrap().to_owned();
    json(&["echo", listener.addr(), "--size", "1MiB"]);
    let (head, body) = http(&url, "GET");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(
        head.to_lowercase()
            .contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{head}"
    );
    assert!(body.ends_with("# EOF\n"), "{body}");
    let value = |name: &str| -> f64 {
        let line = body.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {body}"))
            .trim()
            .parse()
            .unwrap()
    };
    let opened = value(r#"barewire_connections_opened_total{transport="tcp",direction="inbound"}"#);
    let echoed =
        value(r#"barewire_stream_bytes_total{protocol="/barewire/echo/1.0.0",direction="sent"}"#);
    println!(
        "{url}: {} lines, {opened} connection, {echoed} bytes echoed",
        body.lines().count()
    );
    assert_eq!((opened, echoed), (1.0, 1_048_576.0));
    assert_eq!(value(r#"barewire_dials_blocked{kind="udp"}"#), 0.0);
    assert!(http(&url, "POST").0.starts_with("HTTP/1.1 405 "));
    assert!(
        http(&url.replace("/metrics", "/"), "GET")
            .0
            .starts_with("HTTP/1.1 404 ")
    );
    listener.stop();
}
