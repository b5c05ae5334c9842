//! Receive windows follow the bandwidth-delay product, at any delay, and only as far as the budget allows.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::time::{Duration, Instant};

use barewire_base::Budget;
use barewire_mux::conformance::{Pair, read_all};
use barewire_mux::yamux::{Config, Session};
use barewire_mux::{Role, StreamId, StreamMuxer};
use bytes::Bytes;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

struct Transfer {
    pair: Pair<Session, Session>,
    id: StreamId,
    item: Bytes,
    received: u64,
    start: Instant,
}

impl Transfer {
    fn new(round_trip: Duration, bandwidth: Option<u64>, budget: Budget) -> Self {
        let start = Instant::now();
        let session =
            |role, budget: &Budget| Session::new(role, Config::default(), budget.clone(), start);
        let client = session(Role::Client, &Budget::unlimited());
        let server = session(Role::Server, &budget);
        let mut pair = Pair::new(client, server, start).with_path(round_trip, bandwidth);
        let id = pair.client.open_stream(start).unwrap();
        Self {
            pair,
            id,
            item: vec![7; 256 << 10].into(),
            received: 0,
            start,
        }
    }

    /// One thing happens; the sender always has something to send, the reader reads at once if `reads`.
    fn step(&mut self, until: Instant, reads: bool) -> bool {
        self.pair.flush();
        while self.pair.client.send_capacity(self.id).unwrap() > 0 {
            self.pair.client.write(self.id, self.item.clone()).unwrap();
            self.pair.flush();
        }
        let stepped = self.pair.step(until);
        if reads {
            self.received += read_all(&mut self.pair.server, self.pair.now, self.id)
                .0
                .len() as u64;
        }
        stepped
    }

    fn run(&mut self, time: Duration) {
        let until = self.pair.now + time;
        while self.step(until, true) {}
    }

    fn window(&self) -> u64 {
        self.pair
            .server
            .receive_window(self.id)
            .map_or(256 << 10, u64::from)
    }

    fn elapsed(&self) -> Duration {
        self.pair.now - self.start
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// A path without a limit: the window is what limits, and it quadruples per round trip until it is at its largest.
    #[test]
    fn quadruples_per_round_trip(round_trip_us in 2_000u64..300_000) {
        let round_trip = Duration::from_micros(round_trip_us);
        let mut transfer = Transfer::new(round_trip, None, Budget::unlimited());
        let until = transfer.start + round_trip * 40;
        while transfer.window() < 64 * MIB {
            prop_assert!(transfer.step(until, true), "window {} after {:?}", transfer.window(), transfer.elapsed());
        }
        let trips = transfer.elapsed().as_secs_f64() / round_trip.as_secs_f64();
        // One and a half until the first answer to a ping, four steps.
        prop_assert!(trips <= 6.0, "{trips} round trips of {round_trip:?}");
    }

    /// A path with a limit: it is filled, and the window stays in proportion to what that takes.
    #[test]
    fn fills_the_path(round_trip_us in 1_000u64..300_000, megabytes in 2u64..200) {
        let round_trip = Duration::from_micros(round_trip_us);
        let bandwidth = megabytes * 1_000_000;
        let product = bandwidth * round_trip_us / 1_000_000;
        // Ten round trips at most to get going, and what the path carries in a window's worth of time.
        let mut transfer = Transfer::new(round_trip, Some(bandwidth), Budget::unlimited());
        transfer.run(round_trip * 15 + Duration::from_millis(100));
        let before = transfer.received;
        let measured = round_trip * 10;
        transfer.run(measured);
        let rate = (transfer.received - before) as f64 / measured.as_secs_f64();
        // A window of 64 MiB carries at least half of itself per round trip.
        let reachable = (bandwidth as f64).min(32.0 * MIB as f64 / round_trip.as_secs_f64());
        prop_assert!(rate >= 0.9 * reachable, "{:.1} of {:.1} MB/s, window {}", rate / 1e6, reachable / 1e6, transfer.window());
        // The round trip a ping sees includes what waits before it, here up to a socket's buffer of 128 KiB and the
        // first window; short ones count as 2 ms.
        let queue = 512 << 10;
        let bound = 3 * (product.max(bandwidth / 500) + queue) * 2;
        prop_assert!(transfer.window() <= bound.max(256 << 10), "window {} for {product}", transfer.window());
    }
}

#[test]
fn table_of_delays() {
    println!("round trip | to 64 MiB | then, over 1 GB/s");
    for millis in [1u64, 2, 5, 10, 30, 60, 100, 200, 300] {
        let round_trip = Duration::from_millis(millis);
        let mut transfer = Transfer::new(round_trip, None, Budget::unlimited());
        let until = transfer.start + round_trip * 40;
        while transfer.window() < 64 * MIB && transfer.step(until, true) {}
        let trips = transfer.elapsed().as_secs_f64() / round_trip.as_secs_f64();
        let mut limited = Transfer::new(round_trip, Some(1_000_000_000), Budget::unlimited());
        limited.run((round_trip * 15).max(Duration::from_secs(2)));
        let before = limited.received;
        limited.run(Duration::from_millis(500));
        println!(
            "{millis:>7} ms | {trips:>5.1} RTT | {:>5.0} MB/s, window {:>5.1} MiB",
            (limited.received - before) as f64 / 0.5 / 1e6,
            limited.window() as f64 / MIB as f64
        );
    }
}

#[test]
fn sixty_milliseconds_carry_four_hundred_mebibytes() {
    let mut transfer = Transfer::new(
        Duration::from_millis(60),
        Some(1350 * MIB),
        Budget::unlimited(),
    );
    let total = 2 * 1024 * MIB;
    let until = transfer.start + Duration::from_secs(60);
    while transfer.received < total {
        assert!(transfer.step(until, true));
    }
    let rate = transfer.received as f64 / MIB as f64 / transfer.elapsed().as_secs_f64();
    println!(
        "2 GiB over 60 ms and 1,350 MiB/s: {rate:.0} MiB/s, window {} MiB",
        transfer.window() / MIB
    );
    assert!(rate >= 400.0, "{rate}");
}

#[test]
fn a_slow_reader_gets_no_more_window() {
    let mut transfer = Transfer::new(Duration::from_millis(50), None, Budget::unlimited());
    // 1 MB/s at 50 ms are 50 kB.
    for _ in 0..500 {
        let until = transfer.pair.now + Duration::from_millis(10);
        while transfer.step(until, false) {}
        for _ in 0..10 {
            transfer
                .pair
                .server
                .read(transfer.pair.now, transfer.id, 1_000);
        }
        assert!(transfer.pair.server.buffered() <= 256 << 10);
    }
    assert_eq!(transfer.window(), 256 << 10);
}

#[test]
fn growth_stops_at_the_budget_and_is_given_back() {
    let budget = Budget::root(8 << 20);
    let mut transfer = Transfer::new(Duration::from_millis(20), None, budget.clone());
    transfer.run(Duration::from_secs(1));
    let window = transfer.window();
    println!("budget of 8 MiB: window {window}, used {}", budget.used());
    assert!(
        window > 6 * MIB && window <= 8 * MIB + (256 << 10),
        "{window}"
    );
    assert!(budget.used() <= 8 << 20);
    transfer.pair.client.reset(transfer.id, 0);
    transfer.pair.settle(Duration::from_secs(1));
    transfer.pair.server.release(transfer.id);
    assert_eq!(budget.used(), 0);
}

#[test]
fn at_most_one_update_per_half_window() {
    let mut transfer = Transfer::new(
        Duration::from_millis(1),
        Some(20_000_000),
        Budget::unlimited(),
    );
    transfer.run(Duration::from_secs(2));
    let updates = transfer.pair.down.bytes / 12;
    // All that goes back: an acknowledgement, pings and pongs (at 10 s or more), updates.
    let bound = transfer.received / (128 << 10) + 3;
    println!(
        "{} bytes came, {updates} frames went back, {bound} allowed",
        transfer.received
    );
    assert!(updates <= bound);
}
