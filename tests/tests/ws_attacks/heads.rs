//! Requests that are too long, too slow, or no requests.

use std::time::{Duration, Instant};

use barewire_tests::within;
use tokio::time::sleep;

use crate::{
    client::{Client, request},
    victim::Victim,
};

/// Connections of each kind.
const EACH: u32 = 20;

#[tokio::test]
async fn bad_requests_are_refused_cheaply() {
    let victim = Victim::start(&[]).await;
    let long_line = request(&format!("X: {}\r\n", "a".repeat(1 << 20)));
    let lines = request(&"X: y\r\n".repeat(100_000));
    let pipelined = request("") + &request("");
    let cases = [
        ("1 MiB header", long_line, "400"),
        ("100,000 header lines", lines, "400"),
        (
            "65 short header lines",
            request(&"X: y\r\n".repeat(60)),
            "400",
        ),
        (
            "no end within 8 KiB",
            "GET / HTTP/1.1\r\nX: ".to_owned() + &"a".repeat(9000),
            "400",
        ),
        (
            "no upgrade",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            "404",
        ),
        (
            "a POST",
            "POST / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            "404",
        ),
        (
            "short key",
            request("").replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhl"),
            "400",
        ),
        (
            "key in no base64",
            request("").replace("dGhlIHNhbXBsZSBub25jZQ==", "$$$$IHNhbXBsZSBub25jZQ=="),
            "400",
        ),
        (
            "version 8",
            request("").replace("Version: 13", "Version: 8"),
            "400",
        ),
        ("pipelined requests", pipelined, "400"),
        (
            "no HTTP",
            "\x13/multistream/1.0.0\n\r\n\r\n".to_owned(),
            "400",
        ),
    ];
    for (name, bytes, status) in cases {
        let (cpu, rss) = (victim.cpu(), victim.rss_kib());
        let mut answered = 0;
        for _ in 0..EACH {
            let mut client = Client::connect(victim.port).await;
            client.send(bytes.as_bytes()).await;
            let head = client.read_head().await;
            // A victim that closes with input unread may reset the answer away.
            if head.starts_with(&format!("HTTP/1.1 {status} ")) {
                answered += 1;
            } else {
                assert!(head.is_empty(), "{name}: {head}");
            }
        }
        let cpu = (victim.cpu() - cpu) / EACH;
        println!(
            "row 16: {name}: {answered} of {EACH} answered {status}, {cpu:?} each, RSS {:+} KiB",
            victim.rss_kib() - rss
        );
        within(name, cpu, Duration::from_millis(50));
        assert!(
            answered == EACH || bytes.len() > 9_100,
            "{name}: {answered}"
        );
    }
    victim.stop().await;
}

#[tokio::test]
async fn a_dripping_request_ends_after_ten_seconds() {
    let victim = Victim::start(&[]).await;
    let cpu = victim.cpu();
    let mut drips = tokio::task::JoinSet::new();
    for _ in 0..EACH {
        let port = victim.port;
        drips.spawn(async move {
            let mut client = Client::connect(port).await;
            let begun = Instant::now();
            client.send(b"GET / HTTP/1.1\r\nX: ").await;
            loop {
                let mut byte = [0];
                if let Ok(0) | Err(_) = client.socket.try_read(&mut byte)
                    && !client.send(b"a").await
                {
                    return begun.elapsed();
                }
                sleep(Duration::from_millis(100)).await;
            }
        });
    }
    let took = drips.join_all().await;
    let (first, last) = (took.iter().min().unwrap(), took.iter().max().unwrap());
    println!(
        "row 16: {EACH} requests of a byte each 100 ms end after {first:?} to {last:?}, {:?} of processor time each",
        (victim.cpu() - cpu) / EACH
    );
    assert!(*first >= Duration::from_millis(9_900), "{first:?}");
    assert!(*last <= Duration::from_secs(14), "{last:?}");
    victim.stop().await;
}

#[tokio::test]
async fn compression_is_never_agreed_on() {
    let victim = Victim::start(&[]).await;
    let offers = [
        "Sec-WebSocket-Extensions: permessage-deflate\r\n",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n",
        "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover, x-webkit-deflate-frame\r\n",
    ];
    let mut declined = 0;
    for offer in offers.iter().cycle().take(30) {
        let mut client = Client::connect(victim.port).await;
        client.send(request(offer).as_bytes()).await;
        let head = client.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        if !head.to_lowercase().contains("sec-websocket-extensions") {
            declined += 1;
        }
    }
    println!("row 19: {declined} of 30 offers of compression declined");
    assert_eq!(declined, 30);
    victim.stop().await;
}

#[tokio::test]
async fn foreign_origins_are_refused() {
    let victim = Victim::start(&["--ws-origin", "https://app.example"]).await;
    for (origin, status) in [
        ("", "101"),
        ("Origin: https://app.example\r\n", "101"),
        ("Origin: https://evil.example\r\n", "403"),
        ("Origin: http://app.example\r\n", "403"),
        ("Origin: null\r\n", "403"),
        (
            "Origin: https://app.example\r\nOrigin: https://evil.example\r\n",
            "403",
        ),
    ] {
        let mut client = Client::connect(victim.port).await;
        client.send(request(origin).as_bytes()).await;
        let head = client.read_head().await;
        println!(
            "row 20: `{}`: {}",
            origin.trim(),
            head.lines().next().unwrap_or_default()
        );
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
    // A name that was rebound to this address looks like any other; nothing is served to a request
    // that is no WebSocket, and inside one the peer id has to be proved.
    victim.stop().await;
}
