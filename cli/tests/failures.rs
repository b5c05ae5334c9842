//! What the command says and how it ends when something is wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use common::*;

fn multiaddr(listener: &TcpListener) -> String {
    let port = listener.local_addr().unwrap().port();
    format!("/ip4/127.0.0.1/tcp/{port}")
}

fn contains(sentence: &str, parts: &[&str]) {
    for part in parts {
        assert!(
            sentence.contains(part),
            "`{part}` is missing in: {sentence}"
        );
    }
}

#[test]
fn the_wrong_peer_is_named_with_the_expected_one() {
    let listener = Listener::start();
    let other = json(&["id"])["peer"].as_str().unwrap().to_owned();
    let addr = format!("{}/p2p/{other}", listener.transport_addr());
    for command in ["identify", "ping", "perf", "echo"] {
        contains(&failure(&[command, &addr]), &[&other, &listener.peer]);
    }
    contains(
        &failure(&["bench", "handshakes", &addr]),
        &[&other, &listener.peer],
    );
    listener.stop();
}

#[test]
fn nobody_there_says_what_to_check() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = multiaddr(&closed);
    drop(closed);
    contains(&failure(&["ping", &addr]), &[&addr, "refused", "listening"]);
    contains(&failure(&["bench", "connections", &addr]), &["refused"]);
}

#[test]
fn a_silent_server_is_given_up_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let began = Instant::now();
    let sentence = failure(&["ping", &multiaddr(&silent), "--timeout", "1"]);
    contains(&sentence, &["1s", "--timeout"]);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_server_of_another_kind_is_recognised() {
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = multiaddr(&web);
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = web.accept() {
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            let _ = socket.read(&mut [0; 1024]);
        }
    });
    contains(&failure(&["ping", &addr]), &[&addr, "does a libp2p node"]);
}

#[test]
fn a_protocol_the_node_does_not_speak_is_named() {
    let listener = Listener::start();
    let unknown = "/no/such/echo/1";
    for command in [&["echo"][..], &["bench", "streams"]] {
        let args = [command, &[listener.addr(), "--protocol", unknown]].concat();
        contains(&failure(&args), &[unknown, "does not speak", "identify"]);
    }
    let args = ["echo", listener.addr(), "--protocol", "no-slash"];
    contains(&failure(&args), &["no-slash", "/"]);
    listener.stop();
}

#[test]
fn bad_arguments_are_one_sentence() {
    contains(&failure(&["ping", "127.0.0.1:4001"]), &["127.0.0.1:4001"]);
    contains(&failure(&["ping"]), &["ADDR", "--help"]);
    contains(
        &failure(&["perf", "/ip4/127.0.0.1/tcp/1", "--upload", "5parsecs"]),
        &["parsecs"],
    );
    contains(&failure(&["dance"]), &["dance", "--help"]);
    contains(
        &failure(&["ping", "/ip4/127.0.0.1/udp/1/quic"]),
        &["udp/1/quic", "tcp"],
    );
    contains(
        &failure(&["listen", "--listen", "/ip4/203.0.113.7/tcp/0"]),
        &["no such address"],
    );
}

#[test]
fn a_damaged_key_is_refused_and_left_alone() {
    let folder = Folder::new();
    let file = folder.file("node.key");
    std::fs::write(&file, b"garbage").unwrap();
    for args in [
        &["id", "--key", &file][..],
        &["listen", "--key", &file],
        &["ping", "/ip4/127.0.0.1/tcp/1", "--key", &file],
    ] {
        contains(&failure(args), &[&file, "Ed25519"]);
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"garbage");
    contains(
        &failure(&["id", "--key", "/no/such/folder/node.key"]),
        &["/no/such/folder"],
    );
}

#[test]
fn a_port_in_use_is_named() {
    let listener = Listener::start();
    let sentence = failure(&["listen", "--listen", listener.transport_addr()]);
    contains(&sentence, &[listener.transport_addr(), "in use"]);
    listener.stop();
}

#[test]
fn a_node_that_dies_ends_the_transfer() {
    let listener = Listener::start();
    let perf = barewire(&["perf", listener.addr(), "--upload", "100GiB", "--json"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    listener.signal("KILL");
    let began = Instant::now();
    let output = perf.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(began.elapsed() < Duration::from_secs(5));
    let sentence = texts(&output).1;
    assert_eq!(sentence.lines().count(), 1);
    contains(&sentence, &["still running"]);
}

#[test]
fn listen_ends_cleanly_however_it_is_told_to() {
    Listener::start().stop();
    for signal in ["TERM", "INT"] {
        let listener = Listener::start();
        listener.signal(signal);
        let (status, took, stderr) = listener.wait();
        assert!(status.success(), "{signal}: {status}");
        assert!(took < Duration::from_secs(2), "{signal}: {took:?}");
        assert_eq!(stderr, "");
    }
    // With nothing on stdin it ends at once.
    let output = run(&["listen", "--json"]);
    assert!(output.status.success());
    assert_eq!(texts(&output).0.lines().count(), 1);
}

#[test]
fn a_transfer_under_way_is_finished_before_the_end() {
    let mut listener = Listener::start();
    let perf = barewire(&["perf", listener.addr(), "--upload", "0"])
        .args(["--download", "96MiB", "--json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(150));
    listener.signal("TERM");
    listener.close_stdin();
    let output = perf.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", texts(&output).1);
    let (status, _, stderr) = listener.wait();
    assert!(status.success(), "{status}: {stderr}");
}

/// A transfer that no drain can wait for.
fn endless(listener: &Listener) -> std::process::Child {
    barewire(&[
        "perf",
        listener.addr(),
        "--upload",
        "0",
        "--download",
        "1000GiB",
    ])
    .stdout(std::process::Stdio::null())
    .stderr(std::process::Stdio::null())
    .spawn()
    .unwrap()
}

#[test]
fn what_does_not_end_is_cut_off_after_ten_seconds_and_said() {
    let listener = Listener::start();
    let mut perf = endless(&listener);
    std::thread::sleep(Duration::from_millis(300));
    listener.signal("TERM");
    let (status, took, sentence) = listener.wait();
    println!("ended {took:?} after SIGTERM: {sentence}");
    assert!(!status.success());
    assert!(
        took >= Duration::from_secs(9) && took < Duration::from_secs(12),
        "{took:?}"
    );
    contains(&sentence, &["1 connection", "cut off"]);
    assert!(!perf.wait().unwrap().success());
}

#[test]
fn a_second_signal_ends_the_wait() {
    let listener = Listener::start();
    let mut perf = endless(&listener);
    std::thread::sleep(Duration::from_millis(300));
    listener.signal("TERM");
    std::thread::sleep(Duration::from_millis(300));
    listener.signal("TERM");
    let (status, took, sentence) = listener.wait();
    assert!(!status.success());
    assert!(took < Duration::from_secs(2), "{took:?}");
    contains(&sentence, &["second signal"]);
    assert!(!perf.wait().unwrap().success());
}

#[test]
fn listening_on_both_families_works() {
    let listener = Listener::with(&[
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
        "--listen",
        "/ip6/::1/tcp/0",
    ]);
    for addr in &listener.addrs {
        json(&["ping", addr, "--count", "2"]);
    }
    listener.stop();
}

/// CPU time of a process so far.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[test]
#[cfg(target_os = "linux")]
fn a_node_without_descriptors_waits_and_recovers() {
    let mut limited = std::process::Command::new("sh");
    limited
        .args(["-c", "ulimit -n 40; exec \"$0\" listen --json"])
        .arg(env!("CARGO_BIN_EXE_barewire"));
    let listener = Listener::of(&mut limited, 1);
    let sockets: Vec<_> = (0..80)
        .map(|_| TcpStream::connect(listener.socket()).unwrap())
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    let (before, began) = (cpu(listener.pid()), Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let used = cpu(listener.pid()) - before;
    let share = used.as_secs_f64() / began.elapsed().as_secs_f64();
    println!("without descriptors: {:.1} % of a core", share * 100.0);
    assert!(share <= 0.05, "{used:?} in 2 s");
    drop(sockets);
    let began = Instant::now();
    json(&["ping", listener.addr(), "--count", "1"]);
    println!(
        "an honest ping succeeded {:?} after descriptors were free",
        began.elapsed()
    );
    assert!(began.elapsed() < Duration::from_secs(2));
}
