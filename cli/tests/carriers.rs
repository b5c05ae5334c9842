//! WebSocket and private networks on the command line.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::fs;

use common::*;

fn contains(sentence: &str, parts: &[&str]) {
    for part in parts {
        assert!(
            sentence.contains(part),
            "`{part}` is missing in: {sentence}"
        );
    }
}

/// Ends a listener that has warned of those it refused, and of nothing else.
fn refused_and_serving(mut listener: Listener) {
    listener.close_stdin();
    let (status, _, said) = listener.wait();
    assert!(status.success(), "{status}: {said}");
    for line in said.lines() {
        contains(line, &["WARN", "upgrade_failed"]);
    }
}

#[test]
fn websockets_are_listened_on_and_dialled() {
    for listen in ["/ip4/127.0.0.1/tcp/0/ws", "/ip6/::1/tcp/0/ws"] {
        let listener = Listener::with(&["--listen", listen]);
        contains(listener.addr(), &["/ws/p2p/"]);
        let event = json(&["echo", "--size", "3MiB", listener.addr()]);
        assert_eq!(event["bytes"], 3 << 20);
        let event = json(&["identify", listener.addr()]);
        contains(event["observed_addr"].as_str().unwrap(), &["/ws"]);
        listener.stop();
    }
}

#[test]
fn secure_websockets_need_a_certificate_that_is_trusted() {
    let folder = Folder::new();
    let (chain, key) = (folder.file("chain.pem"), folder.file("key.pem"));
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    fs::write(&chain, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let listen = ["--listen", "/ip4/127.0.0.1/tcp/0/tls/ws"];
    contains(
        &failure(&["listen", listen[0], listen[1]]),
        &["certificate", "/tls/ws"],
    );
    contains(
        &failure(&["listen", "--ws-cert", &key, "--ws-key", &key]),
        &["key.pem", "certificate"],
    );
    let more = ["--ws-cert", &chain, "--ws-key", &key];
    let listener = Listener::with(&[&listen[..], &more].concat());
    let by_name = listener.addr().replace("/tls/ws", "/tls/sni/localhost/ws");
    for addr in [listener.addr(), &by_name] {
        let event = json(&["ping", "--ws-ca", &chain, addr]);
        assert_eq!(event["count"], 5);
    }
    contains(&failure(&["ping", listener.addr()]), &["certificate"]);
    let elsewhere = by_name.replace("localhost", "elsewhere.example");
    contains(
        &failure(&["ping", "--ws-ca", &chain, &elsewhere]),
        &["certificate", "elsewhere.example"],
    );
    refused_and_serving(listener);
}

#[test]
fn private_networks_keep_others_out() {
    let folder = Folder::new();
    let (key, other) = (folder.file("swarm.key"), folder.file("other.key"));
    let head = "/key/swarm/psk/1.0.0/\n/base16/\n";
    fs::write(&key, format!("{head}{}\n", "0a".repeat(32))).unwrap();
    fs::write(&other, format!("{head}{}\n", "0b".repeat(32))).unwrap();
    for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"] {
        let listener = Listener::with(&["--listen", listen, "--psk", &key]);
        let event = json(&["echo", "--size", "1MiB", "--psk", &key, listener.addr()]);
        assert_eq!(event["bytes"], 1 << 20);
        contains(
            &failure(&["ping", "--psk", &other, listener.addr()]),
            &["private network"],
        );
        failure(&["ping", listener.addr()]);
        refused_and_serving(listener);
    }
    let quic = "/ip4/127.0.0.1/udp/0/quic-v1";
    contains(
        &failure(&["listen", "--psk", &key, "--listen", quic]),
        &["private network", "TCP and WebSocket"],
    );
    fs::write(&other, "no key").unwrap();
    contains(
        &failure(&["listen", "--psk", &other]),
        &["/key/swarm/psk/1.0.0/"],
    );
    let forced = |args: &[&str]| {
        let output = barewire(args)
            .env("LIBP2P_FORCE_PNET", "1")
            .output()
            .unwrap();
        (output.status.success(), texts(&output).1)
    };
    let (ended_well, said) = forced(&["listen"]);
    assert!(!ended_well);
    contains(&said, &["LIBP2P_FORCE_PNET", "pre-shared key"]);
    let (ended_well, said) = forced(&["listen", "--psk", &key]);
    assert!(ended_well, "{said}");
}
