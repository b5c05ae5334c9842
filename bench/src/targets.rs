//! What barewire must reach beside its peers and the limits of the same run.

use barewire_transport::quic::QuicConfig;

use crate::{
    compare::Over,
    stacks::Stack,
    table::{
        BARE_QUINN, FROM_GO, Metric as M, OWN_YAMUX, RAISED, RAW_TCP, RECORDS, Samples, TO_GO,
        TOKIO_RUSTLS, YAMUX_CRATE,
    },
};

/// What a value must be.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "≥ {bound}"),
            Self::AtMost(bound) => write!(f, "≤ {bound}"),
        }
    }
}

/// One target.
#[derive(Debug)]
pub struct Row {
    /// What is compared, of which transport.
    pub what: String,
    /// What it must be.
    pub bound: Bound,
    /// What it is.
    pub value: f64,
}

impl Row {
    fn value(what: &str, bound: Bound, value: Option<f64>) -> Option<Self> {
        value.map(|value| Self {
            what: what.to_owned(),
            bound,
            value,
        })
    }

    fn ratio(what: &str, bound: Bound, own: Option<f64>, other: Option<f64>) -> Option<Self> {
        Self::value(what, bound, own.zip(other).map(|(own, other)| own / other))
    }

    /// Whether the target is reached.
    #[must_use]
    pub fn met(&self) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => self.value >= bound,
            Bound::AtMost(bound) => self.value <= bound,
        }
    }
}

impl Samples {
    /// Every target of which both sides were measured.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let rows = match self.1 {
            Over::Tcp => self.tcp(),
            Over::Tls => self.tls(),
            Over::Ws => self.ws(),
            Over::Quic => self.quic(),
        };
        let idle = Row::value(
            "100 idle connections, % of a core",
            Bound::AtMost(0.2),
            self.own(M::IdlePercent),
        );
        let mut rows: Vec<_> = rows.into_iter().chain([idle]).flatten().collect();
        for row in &mut rows {
            row.what = format!("{} {}", self.1, row.what);
        }
        rows
    }

    fn own(&self, metric: M) -> Option<f64> {
        self.median(metric, Stack::Barewire)
    }

    fn highest(&self, metric: M) -> Option<f64> {
        self.peers(metric).reduce(f64::max)
    }

    fn lowest(&self, metric: M) -> Option<f64> {
        self.peers(metric).reduce(f64::min)
    }

    /// At least so many times what the best peer does.
    fn over_best(&self, what: &str, target: f64, metric: M) -> Option<Row> {
        let bound = Bound::AtLeast(target);
        Row::ratio(what, bound, self.own(metric), self.highest(metric))
    }

    /// At most this part of what the best peer takes.
    fn under_best(&self, what: &str, target: f64, metric: M) -> Option<Row> {
        let bound = Bound::AtMost(target);
        Row::ratio(what, bound, self.own(metric), self.lowest(metric))
    }

    /// What TLS, WebSocket and QUIC have in common.
    fn common(&self) -> [Option<Row>; 4] {
        [
            self.under_best("ping p50 / best peer", 1.0, M::Ping),
            self.over_best("handshakes, serial / best peer", 2.0, M::HandshakesSerial),
            self.over_best("echo streams / best peer", 1.5, M::Streams16),
            self.under_best("memory per held connection / best peer", 0.6, M::HeldKib),
        ]
    }

    /// So many round trips, and half of one for the processors.
    fn first_byte(&self, round_trips: f64) -> Option<Row> {
        Row::value(
            "connect + first byte at 100 ms, round trips",
            Bound::AtMost(round_trips + 0.5),
            self.own(M::FirstByte),
        )
    }

    fn tls(&self) -> Vec<Option<Row>> {
        let limit = self.median(M::PerfUp, TOKIO_RUSTLS);
        let alone = |what, metric| Row::ratio(what, Bound::AtLeast(0.9), self.own(metric), limit);
        let mut rows = vec![
            self.over_best("perf up / best peer", 2.5, M::PerfUp),
            self.over_best("perf down / best peer", 2.5, M::PerfDown),
            alone("perf up / tokio-rustls alone", M::PerfUp),
            alone("perf down / tokio-rustls alone", M::PerfDown),
            self.first_byte(3.0),
        ];
        rows.extend(self.common());
        rows
    }

    fn ws(&self) -> Vec<Option<Row>> {
        let mut rows = vec![
            self.over_best("perf up / best peer", 1.4, M::PerfUp),
            self.over_best("perf down / best peer", 1.4, M::PerfDown),
        ];
        rows.extend(self.common());
        rows
    }

    fn quic(&self) -> Vec<Option<Row>> {
        let congestion = QuicConfig::default().congestion;
        let relay = [self.own(M::Relay0), self.median(M::Relay0, BARE_QUINN)];
        let raised = |what, metric| {
            let (own, best) = (self.median(metric, RAISED), self.highest(metric));
            Row::ratio(what, Bound::AtLeast(3.0), own, best)
        };
        let mut rows = vec![
            Row::value(
                "perf up, MTU held / bare quinn, pairs",
                Bound::AtLeast(0.95),
                self.own(M::PairRatio),
            ),
            raised("perf up, MTU raised / best peer", M::PerfUp),
            raised("perf down, MTU raised / best peer", M::PerfDown),
            self.over_best(
                &format!("one stream at 60 ms, {congestion:?} / best peer"),
                2.5,
                M::Rtt60,
            ),
            self.over_best(
                &format!("the same, 0.1 % loss, {congestion:?} / best peer"),
                2.5,
                M::Rtt60Loss,
            ),
            Row::ratio(
                "one stream at 60 ms / the relay at 0 ms",
                Bound::AtLeast(0.7),
                self.own(M::Rtt60),
                relay.into_iter().flatten().reduce(f64::max),
            ),
            self.first_byte(2.0),
            Row::ratio(
                "ping p50 / bare quinn",
                Bound::AtMost(1.15),
                self.own(M::Ping),
                self.median(M::Ping, BARE_QUINN),
            ),
        ];
        rows.extend(self.common());
        let quinn = self.median(M::HeldKib, BARE_QUINN);
        rows.push(Row::value(
            "KiB per held connection over bare quinn",
            Bound::AtMost(10.0),
            self.own(M::HeldKib)
                .zip(quinn)
                .map(|(own, quinn)| own - quinn),
        ));
        rows
    }

    fn tcp(&self) -> Vec<Option<Row>> {
        let records = self.median(M::PerfUp, RECORDS);
        let go = self.median(M::Rtt60, Stack::Go);
        vec![
            self.over_best("perf up / best peer", 1.5, M::PerfUp),
            self.over_best("perf down / best peer", 1.5, M::PerfDown),
            Row::ratio(
                "perf up / records without a muxer",
                Bound::AtLeast(0.9),
                self.own(M::PerfUp),
                records,
            ),
            Row::ratio(
                "perf down / records without a muxer",
                Bound::AtLeast(0.9),
                self.own(M::PerfDown),
                records,
            ),
            self.under_best("CPU per GiB / best peer", 0.7, M::CpuPerGib),
            Row::ratio(
                "yamux session / yamux crate",
                Bound::AtLeast(2.0),
                self.median(M::Muxer, OWN_YAMUX),
                self.median(M::Muxer, YAMUX_CRATE),
            ),
            Row::value(
                "one stream at 60 ms, MiB/s",
                Bound::AtLeast(400.0),
                self.own(M::Rtt60),
            ),
            self.over_best("one stream at 60 ms / best peer", 1.7, M::Rtt60),
            Row::ratio(
                "at 60 ms, to go / go to go",
                Bound::AtLeast(1.0),
                self.median(M::Rtt60, TO_GO),
                go,
            ),
            Row::ratio(
                "at 60 ms, from go / go to go",
                Bound::AtLeast(1.0),
                self.median(M::Rtt60, FROM_GO),
                go,
            ),
            self.first_byte(3.0),
            self.under_best("ping p50 / best peer", 1.0, M::Ping),
            Row::ratio(
                "ping p50 / raw TCP ping-pong",
                Bound::AtMost(1.15),
                self.own(M::Ping),
                self.median(M::Ping, RAW_TCP),
            ),
            self.over_best("handshakes, serial / best peer", 2.0, M::HandshakesSerial),
            self.over_best("handshakes, 16 at a time / best peer", 2.0, M::Handshakes16),
            self.over_best("echo streams / best peer", 2.0, M::Streams16),
            self.under_best("memory per held connection / best peer", 0.5, M::HeldKib),
            Row::value(
                "peak MiB of either end, 4 GiB",
                Bound::AtMost(24.0),
                self.own(M::PeakMib),
            ),
            Row::value(
                "10,000 connections held, MiB resident",
                Bound::AtMost(250.0),
                self.own(M::ManyMib),
            ),
            Row::value(
                "the 10,001st is told why it is refused",
                Bound::AtLeast(1.0),
                self.own(M::OneMoreTold),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_compare_with_the_best_peer_of_the_same_run() {
        let mut samples = Samples::default();
        samples.add(M::PerfUp, Stack::Barewire, 1500.0);
        samples.add(M::PerfUp, Stack::Go, 1000.0);
        samples.add(M::PerfUp, Stack::Rust, 700.0);
        samples.add(M::Ping, Stack::Barewire, 60.0);
        samples.add(M::Ping, Stack::Go, 50.0);
        let rows = samples.rows();
        assert_eq!(rows.len(), 2);
        assert!(rows[0].met(), "{:?}", rows[0]);
        assert!(!rows[1].met(), "{:?}", rows[1]);
    }
}
