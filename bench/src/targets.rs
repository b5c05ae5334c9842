//! What barewire must reach beside its peers and the limits of the same run.

use barewire_transport::quic::QuicConfig;

use crate::{
    compare::{Group, Over},
    stacks::Stack,
    table::{
        BARE_QUINN, FROM_GO, Metric as M, OWN_YAMUX, RAISED, RAW_RELAYED, RAW_TCP, RECORDS,
        Samples, Subject, TO_GO, TOKIO_RUSTLS, YAMUX_CRATE, range,
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
pub struct Row<G> {
    /// What is compared, of which transport.
    pub what: String,
    /// What it must be.
    pub bound: Bound,
    /// What it is, of the medians; `None` if a side is missing.
    pub value: Option<f64>,
    /// What it was in the round where it was lowest, and in that where it was highest.
    pub range: Option<[f64; 2]>,
    /// The sides that gave no figure.
    pub missing: Vec<String>,
    groups: Vec<G>,
}

impl<G> Row<G> {
    pub(crate) fn value(what: &str, bound: Bound, side: Side<G>) -> Self {
        Self {
            what: what.to_owned(),
            bound,
            value: side.value,
            range: None,
            missing: side.missing,
            groups: side.groups,
        }
    }

    pub(crate) fn ratio(what: &str, bound: Bound, own: Side<G>, other: Side<G>) -> Self {
        Self::value(what, bound, own.with(other, |own, other| own / other))
    }

    /// Whether the target is reached.
    #[must_use]
    pub fn met(&self) -> bool {
        self.value.is_some_and(|value| match self.bound {
            Bound::AtLeast(bound) => value >= bound,
            Bound::AtMost(bound) => value <= bound,
        })
    }
}

/// A figure that a row needs.
#[derive(Debug)]
pub(crate) struct Side<G> {
    value: Option<f64>,
    missing: Vec<String>,
    groups: Vec<G>,
}

impl<G> Side<G> {
    /// Both are needed.
    fn with(mut self, other: Self, join: fn(f64, f64) -> f64) -> Self {
        self.value = self.value.zip(other.value).map(|(a, b)| join(a, b));
        self.missing.extend(other.missing);
        self.groups.extend(other.groups);
        self
    }
}

impl<S: Subject> Samples<S> {
    /// Every target of what was measured, also those of which a side is missing.
    #[must_use]
    pub fn rows(&self) -> Vec<Row<S::Group>> {
        let mut rows = self.view(None).rows();
        let rounds: Vec<_> = (1..=self.rounds())
            .map(|round| self.view(Some(round)).rows())
            .collect();
        for (at, row) in rows.iter_mut().enumerate() {
            let of_rounds = rounds.iter().filter_map(|rows| rows.get(at)?.value);
            row.range = range(&of_rounds.collect::<Vec<_>>());
        }
        rows.retain(|row| row.groups.iter().all(|group| self.measures(*group)));
        rows
    }

    const fn view(&self, round: Option<usize>) -> View<'_, S> {
        View {
            samples: self,
            round,
        }
    }
}

/// The samples of all rounds, or of one.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, S: Subject> {
    samples: &'a Samples<S>,
    round: Option<usize>,
}

impl<S: Subject> View<'_, S> {
    fn rows(self) -> Vec<Row<S::Group>> {
        let subject = self.samples.subject;
        let mut rows = S::targets(self);
        for row in &mut rows {
            row.what = format!("{subject} {}", row.what);
        }
        rows
    }

    pub(crate) fn of(&self, metric: S::Metric, who: impl ToString) -> Side<S::Group> {
        let who = who.to_string();
        let value = self.samples.median(self.round, metric, &who);
        Side {
            value,
            missing: if value.is_none() {
                vec![who]
            } else {
                Vec::new()
            },
            groups: vec![S::group(metric)],
        }
    }

    pub(crate) fn own(&self, metric: S::Metric) -> Side<S::Group> {
        self.of(metric, Stack::Barewire)
    }

    /// What the best peer does. One that is missing might be the best.
    fn best(&self, metric: S::Metric, better: fn(f64, f64) -> f64) -> Side<S::Group> {
        let peers = self.samples.subject.peers().into_iter();
        peers
            .map(|peer| self.of(metric, peer))
            .reduce(|best, peer| best.with(peer, better))
            .unwrap_or_else(|| self.of(metric, "peer"))
    }

    fn highest(&self, metric: S::Metric) -> Side<S::Group> {
        self.best(metric, f64::max)
    }

    /// At least so many times what the best peer does.
    pub(crate) fn over_best(&self, what: &str, target: f64, metric: S::Metric) -> Row<S::Group> {
        let bound = Bound::AtLeast(target);
        Row::ratio(what, bound, self.own(metric), self.highest(metric))
    }

    /// At most this part of what the best peer takes.
    pub(crate) fn under_best(&self, what: &str, target: f64, metric: S::Metric) -> Row<S::Group> {
        let bound = Bound::AtMost(target);
        let lowest = self.best(metric, f64::min);
        Row::ratio(what, bound, self.own(metric), lowest)
    }
}

impl Subject for Over {
    type Group = Group;
    type Metric = M;

    const EVENT: &'static str = "compare";
    const METRICS: &'static [(M, &'static str)] = &M::ALL;

    fn group(metric: M) -> Group {
        metric.group()
    }

    fn peers(self) -> Vec<Stack> {
        let all = Stack::PEERS.into_iter();
        all.filter(|peer| self.spoken_by(*peer)).collect()
    }

    fn targets(view: View<'_, Self>) -> Vec<Row<Group>> {
        let mut rows = match view.samples.subject {
            Self::Tcp => view.tcp(),
            Self::Tls => view.tls(),
            Self::Ws => view.ws(),
            Self::Quic => view.quic(),
        };
        rows.push(Row::value(
            "100 idle connections, % of a core",
            Bound::AtMost(0.2),
            view.own(M::IdlePercent),
        ));
        rows
    }
}

impl View<'_, Over> {
    /// What TLS, WebSocket and QUIC have in common.
    fn common(&self) -> [Row<Group>; 4] {
        [
            self.under_best("ping p50 / best peer", 1.0, M::Ping),
            self.over_best("handshakes, serial / best peer", 2.0, M::HandshakesSerial),
            self.over_best("echo streams / best peer", 1.5, M::Streams16),
            self.under_best("memory per held connection / best peer", 0.6, M::HeldKib),
        ]
    }

    /// So many round trips, and half of one for the processors.
    fn first_byte(&self, round_trips: f64) -> Row<Group> {
        Row::value(
            "connect + first byte at 100 ms, round trips",
            Bound::AtMost(round_trips + 0.5),
            self.own(M::FirstByte),
        )
    }

    fn tls(&self) -> Vec<Row<Group>> {
        let alone = |what, metric| {
            let limit = self.of(M::PerfUp, TOKIO_RUSTLS);
            Row::ratio(what, Bound::AtLeast(0.9), self.own(metric), limit)
        };
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

    fn ws(&self) -> Vec<Row<Group>> {
        let mut rows = vec![
            self.over_best("perf up / best peer", 1.4, M::PerfUp),
            self.over_best("perf down / best peer", 1.4, M::PerfDown),
        ];
        rows.extend(self.common());
        rows
    }

    fn quic(&self) -> Vec<Row<Group>> {
        let congestion = QuicConfig::default().congestion;
        let quinn_relayed = self.of(M::Relay0, BARE_QUINN);
        let relay = self.own(M::Relay0).with(quinn_relayed, f64::max);
        let raised = |what, metric| {
            let (own, best) = (self.of(metric, RAISED), self.highest(metric));
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
                relay,
            ),
            self.first_byte(2.0),
            Row::ratio(
                "ping p50 / bare quinn",
                Bound::AtMost(1.15),
                self.own(M::Ping),
                self.of(M::Ping, BARE_QUINN),
            ),
        ];
        rows.extend(self.common());
        let quinn = self.of(M::HeldKib, BARE_QUINN);
        rows.push(Row::value(
            "KiB per held connection over bare quinn",
            Bound::AtMost(10.0),
            self.own(M::HeldKib).with(quinn, |own, quinn| own - quinn),
        ));
        rows
    }

    fn tcp(&self) -> Vec<Row<Group>> {
        let records = || self.of(M::PerfUp, RECORDS);
        let go = || self.of(M::Rtt60, Stack::Go);
        vec![
            self.over_best("perf up / best peer", 1.5, M::PerfUp),
            self.over_best("perf down / best peer", 1.5, M::PerfDown),
            Row::ratio(
                "perf up / records without a muxer",
                Bound::AtLeast(0.9),
                self.own(M::PerfUp),
                records(),
            ),
            Row::ratio(
                "perf down / records without a muxer",
                Bound::AtLeast(0.9),
                self.own(M::PerfDown),
                records(),
            ),
            self.under_best("CPU per GiB / best peer", 0.7, M::CpuPerGib),
            Row::ratio(
                "yamux session / yamux crate",
                Bound::AtLeast(2.0),
                self.of(M::Muxer, OWN_YAMUX),
                self.of(M::Muxer, YAMUX_CRATE),
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
                self.of(M::Rtt60, TO_GO),
                go(),
            ),
            Row::ratio(
                "at 60 ms, from go / go to go",
                Bound::AtLeast(1.0),
                self.of(M::Rtt60, FROM_GO),
                go(),
            ),
            Row::value(
                "the relay carries, raw TCP, MiB/s",
                Bound::AtLeast(1024.0),
                self.of(M::Rtt60, RAW_RELAYED),
            ),
            self.first_byte(3.0),
            self.under_best("ping p50 / best peer", 1.0, M::Ping),
            self.under_best("ping p50 beside a download / best peer", 1.0, M::BulkPing50),
            self.under_best("ping p99 beside a download / best peer", 1.0, M::BulkPing99),
            Row::ratio(
                "ping p50 / raw TCP ping-pong",
                Bound::AtMost(1.15),
                self.own(M::Ping),
                self.of(M::Ping, RAW_TCP),
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

    fn samples(groups: &[Group]) -> Samples<Over> {
        let mut samples = Samples::new(Over::Tcp, groups.to_vec());
        for [own, best] in [[1500.0, 1000.0], [1600.0, 1250.0], [1900.0, 1000.0]] {
            samples.next_round();
            samples.add(M::PerfDown, Stack::Barewire, own);
            for (peer, part) in [(Stack::Go, 1.0), (Stack::Rust, 0.5), (Stack::Litep2p, 0.2)] {
                samples.add(M::PerfDown, peer, best * part);
            }
            samples.add(M::Ping, Stack::Barewire, 60.0);
            samples.add(M::Ping, RAW_TCP, 50.0);
            samples.add(M::Ping, Stack::Go, 50.0);
        }
        samples
    }

    fn row<'a>(rows: &'a [Row<Group>], what: &str) -> &'a Row<Group> {
        let found = rows.iter().find(|row| row.what == format!("tcp {what}"));
        found.unwrap_or_else(|| panic!("no row {what}"))
    }

    #[test]
    fn targets_compare_with_the_best_peer_of_the_same_run() {
        let samples = samples(&[Group::Perf, Group::Ping]);
        let rows = samples.rows();
        let down = row(&rows, "perf down / best peer");
        assert_eq!((down.value, down.met()), (Some(1.6), true));
        assert_eq!(down.range, Some([1.28, 1.9]));
        let ping = row(&rows, "ping p50 / raw TCP ping-pong");
        assert_eq!((ping.value, ping.met()), (Some(1.2), false));
    }

    #[test]
    fn a_missing_side_is_named() {
        let mut samples = samples(&[Group::Ping]);
        samples.gap("rust is left out: no compiler".into());
        let rows = samples.rows();
        // Only what was asked for.
        assert_eq!(rows.len(), 2, "{rows:?}");
        let ping = row(&rows, "ping p50 / best peer");
        assert_eq!((ping.value, ping.met()), (None, false));
        assert_eq!(ping.missing, ["rust", "litep2p"]);
        let text = samples.render();
        let line = text
            .lines()
            .find(|line| line.starts_with("tcp ping p50 / best"));
        assert!(
            line.is_some_and(|line| line.contains("–  ") && line.ends_with("NO rust, NO litep2p"))
        );
        assert!(text.contains("rust is left out: no compiler"));
    }
}
