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
    /// MiB/s of one stream through a relay of 60 ms round trip that loses datagrams.
    Rtt60Loss,
    /// MiB/s of one stream through the UDP relay when it does not delay.
    Relay0,
    /// MiB/s from dialler to listener in an interleaved pair.
    PerfPaired,
    /// One half of such a pair by the other.
    PairRatio,
    /// Round trips until the first byte of a ping is back.
    FirstByte,
    /// Processor time of a listener with a hundred idle connections, in percent of a core.
    IdlePercent,
    /// MiB of resident memory of a listener with ten thousand connections.
    ManyMib,
    /// 1 if one connection more is told that the listener is full.
    OneMoreTold,
    /// MiB/s of one yamux stream over plain TCP.
    Muxer,
    /// MiB/s of the cipher on one core.
    Cipher,
}

impl Metric {
    const ALL: [(Self, &'static str); 20] = [
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
        (Self::Rtt60Loss, "the same with 0.1 % loss, MiB/s"),
        (Self::Relay0, "the UDP relay at 0 ms, MiB/s"),
        (Self::PerfPaired, "perf up in pairs, MTU held, MiB/s"),
        (Self::PairRatio, "barewire / bare quinn, pair by pair"),
        (Self::FirstByte, "connect + first byte, round trips"),
        (Self::IdlePercent, "100 idle connections, % of a core"),
        (Self::ManyMib, "10,000 connections, MiB"),
        (Self::OneMoreTold, "one more is told why not (1 = yes)"),
        (Self::Muxer, "yamux over plain TCP, MiB/s"),
        (Self::Cipher, "ChaCha20-Poly1305, one core, MiB/s"),
    ];
}

/// All samples, by metric and by who gave them.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<(Metric, String), Vec<f64>>, pub(crate) Over);

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

    /// Medians of the stacks barewire is compared with.
    pub(crate) fn peers(&self, metric: Metric) -> impl Iterator<Item = f64> {
        Stack::PEERS
            .into_iter()
            .filter_map(move |peer| self.median(metric, peer))
    }

    /// Medians with their range, then the targets, as text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = format!(
            "Over {}: medians (lowest – highest of all rounds)\n",
            self.1
        );
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
            "\n{:<52} {:>9} {:>9}  {}\n",
            "Target", "wanted", "reached", ""
        );
        for row in self.rows() {
            let verdict = if row.met() { "reached" } else { "MISSED" };
            text += &format!(
                "{:<52} {:>9} {:>9}  {verdict}\n",
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
        json!({ "event": "compare", "over": self.1.to_string(), "samples": samples, "targets": rows })
    }
}

/// tokio-rustls over TCP, no muxer.
pub const TOKIO_RUSTLS: &str = "tokio-rustls alone";
/// barewire's WebSocket frames over TCP, no Noise, no muxer.
pub const FRAMES: &str = "ws frames alone";
/// quinn with barewire's settings.
pub const BARE_QUINN: &str = "bare quinn";
/// The same with path MTU discovery raised.
pub const BARE_QUINN_RAISED: &str = "bare quinn, MTU raised";
/// barewire with path MTU discovery raised.
pub const RAISED: &str = "barewire, MTU raised";
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
}
