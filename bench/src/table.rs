//! Samples, medians and the ratio table.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{compare::Over, stacks::Stack};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// MiB/s from dialler to listener, one stream, 1 GiB.
    PerfUp,
    /// MiB/s the other way.
    PerfDown,
    /// Processor seconds of both ends for one GiB.
    CpuPerGib,
    /// Median round trip in µs, each end pinned to a processor.
    Ping,
    /// Fresh connections per second, one after another.
    HandshakesSerial,
    /// Fresh connections per second, 16 at a time.
    Handshakes16,
    /// Echo streams of 100 bytes per second, 16 at a time.
    Streams16,
    /// KiB of resident memory per held connection at the listener.
    HeldKib,
    /// MiB of peak resident memory of the larger end in a transfer of 4 GiB.
    PeakMib,
    /// MiB/s of one stream through a relay of 60 ms round trip, 2 GiB.
    Rtt60,
    /// MiB/s of one yamux stream over plain TCP.
    Muxer,
    /// MiB/s of the cipher on one core.
    Cipher,
}

impl Metric {
    const ALL: [(Self, &'static str); 12] = [
        (Self::PerfUp, "perf up, MiB/s"),
        (Self::PerfDown, "perf down, MiB/s"),
        (Self::CpuPerGib, "CPU s per GiB, both ends"),
        (Self::Ping, "ping p50, µs, pinned"),
        (Self::HandshakesSerial, "handshakes per s, serial"),
        (Self::Handshakes16, "handshakes per s, 16 at a time"),
        (Self::Streams16, "100 B echo streams per s, 16 at a time"),
        (Self::HeldKib, "KiB per held connection"),
        (Self::PeakMib, "peak MiB of either end, 4 GiB"),
        (Self::Rtt60, "one stream at 60 ms, MiB/s"),
        (Self::Muxer, "yamux over plain TCP, MiB/s"),
        (Self::Cipher, "ChaCha20-Poly1305, one core, MiB/s"),
    ];
}

/// All samples, by metric and by who gave them.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<(Metric, String), Vec<f64>>, Over);

impl Samples {
    /// None yet, of connections over the named transport.
    #[must_use]
    pub fn over(over: Over) -> Self {
        Self(BTreeMap::new(), over)
    }

    /// Adds one.
    pub fn add(&mut self, metric: Metric, who: impl ToString, value: f64) {
        self.0
            .entry((metric, who.to_string()))
            .or_default()
            .push(value);
    }

    /// The median, if there is any sample.
    #[must_use]
    pub fn median(&self, metric: Metric, who: impl ToString) -> Option<f64> {
        self.0
            .get(&(metric, who.to_string()))
            .and_then(|values| median(values))
    }

    fn peers(&self, metric: Metric) -> impl Iterator<Item = f64> {
        Stack::PEERS
            .into_iter()
            .filter_map(move |peer| self.median(metric, peer))
    }

    /// Every target of which both sides were measured.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        use Metric as M;
        let own = |metric| self.median(metric, Stack::Barewire);
        let highest = |metric| self.peers(metric).reduce(f64::max);
        let lowest = |metric| self.peers(metric).reduce(f64::min);
        let limit = |metric, who: &str| self.median(metric, who);
        let to_best = |what, target, metric| {
            Row::ratio(what, Bound::AtLeast(target), own(metric), highest(metric))
        };
        let go = self.median(M::Rtt60, Stack::Go);
        if self.1 == Over::Ws {
            return [
                to_best("ws perf up / best peer", 1.4, M::PerfUp),
                to_best("ws perf down / best peer", 1.4, M::PerfDown),
                Row::ratio(
                    "ws ping p50 / best peer",
                    Bound::AtMost(1.0),
                    own(M::Ping),
                    lowest(M::Ping),
                ),
                to_best(
                    "ws handshakes, serial / best peer",
                    2.0,
                    M::HandshakesSerial,
                ),
                to_best("ws echo streams / best peer", 1.5, M::Streams16),
                Row::ratio(
                    "ws memory per held connection / best peer",
                    Bound::AtMost(0.6),
                    own(M::HeldKib),
                    lowest(M::HeldKib),
                ),
            ]
            .into_iter()
            .flatten()
            .collect();
        }
        [
            to_best("perf up / best peer", 1.5, M::PerfUp),
            to_best("perf down / best peer", 1.5, M::PerfDown),
            Row::ratio(
                "perf up / records without a muxer",
                Bound::AtLeast(0.9),
                own(M::PerfUp),
                limit(M::PerfUp, RECORDS),
            ),
            Row::ratio(
                "perf down / records without a muxer",
                Bound::AtLeast(0.9),
                own(M::PerfDown),
                limit(M::PerfUp, RECORDS),
            ),
            Row::ratio(
                "CPU per GiB / best peer",
                Bound::AtMost(0.7),
                own(M::CpuPerGib),
                lowest(M::CpuPerGib),
            ),
            Row::ratio(
                "yamux session / yamux crate",
                Bound::AtLeast(2.0),
                limit(M::Muxer, OWN_YAMUX),
                limit(M::Muxer, YAMUX_CRATE),
            ),
            Row::value(
                "one stream at 60 ms, MiB/s",
                Bound::AtLeast(400.0),
                own(M::Rtt60),
            ),
            to_best("one stream at 60 ms / best peer", 1.7, M::Rtt60),
            Row::ratio(
                "at 60 ms, to go / go to go",
                Bound::AtLeast(1.0),
                limit(M::Rtt60, TO_GO),
                go,
            ),
            Row::ratio(
                "at 60 ms, from go / go to go",
                Bound::AtLeast(1.0),
                limit(M::Rtt60, FROM_GO),
                go,
            ),
            Row::ratio(
                "ping p50 / best peer",
                Bound::AtMost(1.0),
                own(M::Ping),
                lowest(M::Ping),
            ),
            Row::ratio(
                "ping p50 / raw TCP ping-pong",
                Bound::AtMost(1.15),
                own(M::Ping),
                limit(M::Ping, RAW_TCP),
            ),
            to_best("handshakes, serial / best peer", 2.0, M::HandshakesSerial),
            to_best("handshakes, 16 at a time / best peer", 2.0, M::Handshakes16),
            to_best("echo streams / best peer", 2.0, M::Streams16),
            Row::ratio(
                "memory per held connection / best peer",
                Bound::AtMost(0.5),
                own(M::HeldKib),
                lowest(M::HeldKib),
            ),
            Row::value(
                "peak MiB of either end, 4 GiB",
                Bound::AtMost(24.0),
                own(M::PeakMib),
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Medians with their range, then the targets, as text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::from("Medians (lowest – highest of all rounds)\n");
        for (metric, name) in Metric::ALL {
            let all = self.0.iter().filter(|((of, _), _)| *of == metric);
            for ((_, who), values) in all {
                let (Some(middle), Some(low), Some(high)) = (
                    median(values),
                    values.iter().copied().reduce(f64::min),
                    values.iter().copied().reduce(f64::max),
                ) else {
                    continue;
                };
                let range = format!("({} – {})", figure(low), figure(high));
                text += &format!(
                    "  {name:<40} {who:<22} {:>10}  {range}, n = {}\n",
                    figure(middle),
                    values.len()
                );
            }
        }
        text += &format!(
            "\n{:<42} {:>9} {:>9}  {}\n",
            "Target", "wanted", "reached", ""
        );
        for row in self.rows() {
            let verdict = if row.met() { "met" } else { "MISSED" };
            text += &format!(
                "{:<42} {:>9} {:>9}  {verdict}\n",
                row.what,
                row.bound.to_string(),
                figure(row.value)
            );
        }
        text
    }

    /// The same as one object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let samples: Vec<_> = Metric::ALL
            .iter()
            .flat_map(|(metric, name)| {
                self.0.iter().filter(move |((of, _), _)| of == metric).map(move |((_, who), values)| {
                    json!({ "metric": name, "who": who, "median": median(values), "samples": values })
                })
            })
            .collect();
        let rows: Vec<_> = self
            .rows()
            .iter()
            .map(|row| json!({ "target": row.what, "wanted": row.bound.to_string(), "reached": row.value, "met": row.met() }))
            .collect();
        json!({ "event": "compare", "samples": samples, "targets": rows })
    }
}

/// tokio TCP with nothing on it.
pub const RAW_TCP: &str = "raw TCP";
/// tokio TCP through the delaying relay.
pub const RAW_RELAYED: &str = "raw TCP, relayed";
/// Noise records without a muxer.
pub const RECORDS: &str = "records, no muxer";
/// barewire's yamux session.
pub const OWN_YAMUX: &str = "barewire session";
/// The `yamux` crate.
pub const YAMUX_CRATE: &str = "yamux crate";
/// barewire sends to go.
pub const TO_GO: &str = "barewire to go";
/// go sends to barewire.
pub const FROM_GO: &str = "go to barewire";

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
    what: &'static str,
    bound: Bound,
    value: f64,
}

impl Row {
    fn value(what: &'static str, bound: Bound, value: Option<f64>) -> Option<Self> {
        value.map(|value| Self { what, bound, value })
    }

    fn ratio(
        what: &'static str,
        bound: Bound,
        own: Option<f64>,
        other: Option<f64>,
    ) -> Option<Self> {
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

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        Some(sorted[middle])
    } else {
        sorted
            .get(middle)
            .zip(sorted.get(middle.wrapping_sub(1)))
            .map(|(a, b)| f64::midpoint(*a, *b))
    }
}

/// Three significant digits are more than the noise allows.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn targets_compare_with_the_best_peer_of_the_same_run() {
        let mut samples = Samples::default();
        samples.add(Metric::PerfUp, Stack::Barewire, 1500.0);
        samples.add(Metric::PerfUp, Stack::Go, 1000.0);
        samples.add(Metric::PerfUp, Stack::Rust, 700.0);
        samples.add(Metric::Ping, Stack::Barewire, 60.0);
        samples.add(Metric::Ping, Stack::Go, 50.0);
        let rows = samples.rows();
        assert_eq!(rows.len(), 2);
        assert!(rows[0].met(), "{:?}", rows[0]);
        assert!(!rows[1].met(), "{:?}", rows[1]);
    }
}
