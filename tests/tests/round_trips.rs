//! How many round trips it takes to connect and get the first byte back, over a link of 100 ms.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::time::Duration;

use barewire_tests::{
    netns, peers,
    process::Process,
    wan::{FAR, Link, Wan},
};

const ROUND_TRIP: Duration = Duration::from_millis(100);
/// Dials whose median counts.
const DIALS: &str = "5";
/// What processors may add to the time on the wire, in round trips.
const SLACK: f64 = 0.6;

/// What the dialler and the listener are told, and the round trips of connecting and one ping.
const CASES: &[(&str, &str, &[&str], u32)] = &[
    ("tcp + noise", "tcp/0", &["--security", "noise"], 3),
    ("tcp + tls", "tcp/0", &["--security", "tls"], 3),
    ("quic", "udp/0/quic-v1", &[], 2),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_byte_comes_after_as_few_round_trips_as_the_protocols_allow() {
    if !netns::available() {
        barewire_tests::skip("needs root and iproute2 to lay a link with latency");
        return;
    }
    let barewire = peers::barewire().expect("barewire builds");
    let link = Link {
        delay: ROUND_TRIP / 2,
        loss: 0.0,
        seed: 1,
    };
    let wan = Wan::new(link).expect("a link");
    for (name, listen, options, expected) in CASES {
        let mut command = wan.far(&barewire);
        command.args(["listen", "--json", "--security", "noise,tls", "--listen"]);
        command.arg(format!("/ip4/{FAR}/{listen}"));
        let mut listener = Process::spawn(command).unwrap();
        let addr = listener.listening(Duration::from_secs(10)).await.unwrap();
        let mut command = wan.near(&barewire);
        command.args(["bench", "handshakes", &addr, "--count", DIALS, "--json"]);
        command.args(*options);
        let mut dialler = Process::spawn(command).unwrap();
        let event = dialler
            .expect("handshakes", Duration::from_secs(30))
            .await
            .unwrap();
        let micros = event["p50_us"].as_f64().unwrap();
        let round_trips = micros / 1e6 / ROUND_TRIP.as_secs_f64();
        println!("{name}: {micros:.0} µs = {round_trips:.2} round trips");
        assert!(
            (f64::from(*expected)..f64::from(*expected) + SLACK).contains(&round_trips),
            "{name}: {round_trips:.2} round trips instead of {expected}"
        );
        listener.stop(Duration::from_secs(10)).await.unwrap();
    }
}
