//! Samples, medians and the ratio table.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Display},
};

use serde_json::{Value, json};

use crate::{
    compare::Group,
    stacks::Stack,
    targets::{Row, View},
};

/// What a table is about: its figures, who is measured, and what must be reached. Displayed as the transport.
pub trait Subject: Copy + Debug + Display {
    /// Measurements that belong together.
    type Group: Copy + PartialEq + Debug;
    /// A figure.
    type Metric: Copy + Ord + Debug + 'static;

    /// What the table is called as an event.
    const EVENT: &'static str;
    /// All figures, in the order of the table.
    const METRICS: &'static [(Self::Metric, &'static str)];

    /// The group that measures a figure.
    fn group(metric: Self::Metric) -> Self::Group;

    /// The stacks barewire is compared with.
    fn peers(self) -> Vec<Stack>;

    /// What must be reached.
    fn targets(view: View<'_, Self>) -> Vec<Row<Self::Group>>;
}

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
    /// Median round trip in µs on a connection that downloads at full speed.
    BulkPing50,
    /// The round trip that one in a hundred exceeds.
    BulkPing99,
    /// MiB/s of the download meanwhile.
    BulkDown,
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
    pub(crate) const ALL: [(Self, &'static str); 23] = [
        (Self::PerfUp, "perf up, MiB/s"),
        (Self::PerfDown, "perf down, MiB/s"),
        (Self::CpuPerGib, "CPU s per GiB, both ends"),
        (Self::Ping, "ping p50, µs, pinned"),
        (Self::BulkPing50, "ping p50 beside a download, µs"),
        (Self::BulkPing99, "ping p99 beside a download, µs"),
        (Self::BulkDown, "that download, MiB/s"),
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

    /// The group that measures it.
    pub(crate) const fn group(self) -> Group {
        match self {
            Self::PerfUp
            | Self::PerfDown
            | Self::CpuPerGib
            | Self::PerfPaired
            | Self::PairRatio => Group::Perf,
            Self::Ping => Group::Ping,
            Self::BulkPing50 | Self::BulkPing99 | Self::BulkDown => Group::Bulk,
            Self::HandshakesSerial | Self::Handshakes16 => Group::Handshakes,
            Self::Streams16 => Group::Streams,
            Self::HeldKib => Group::Connections,
            Self::PeakMib => Group::Memory,
            Self::Rtt60 | Self::Rtt60Loss | Self::Relay0 => Group::Rtt60,
            Self::FirstByte => Group::FirstByte,
            Self::IdlePercent => Group::Idle,
            Self::ManyMib | Self::OneMoreTold => Group::Many,
            Self::Muxer | Self::Cipher => Group::Limits,
        }
    }
}

/// A figure and the round it is of.
type Sample = (usize, f64);

/// All samples of one table, by metric and by who gave them.
#[derive(Debug)]
pub struct Samples<S: Subject> {
    /// What the table is about.
    pub subject: S,
    /// What is measured.
    groups: Vec<S::Group>,
    values: BTreeMap<(S::Metric, String), Vec<Sample>>,
    /// Rounds begun.
    rounds: usize,
    /// Why something is missing.
    gaps: Vec<String>,
}

impl<S: Subject> Samples<S> {
    /// None yet, and what there will be.
    #[must_use]
    pub(crate) fn new(subject: S, groups: Vec<S::Group>) -> Self {
        Self {
            subject,
            groups,
            values: BTreeMap::new(),
            rounds: 0,
            gaps: Vec::new(),
        }
    }

    /// What is added from now on is of another round.
    pub(crate) fn next_round(&mut self) {
        self.rounds += 1;
    }

    /// Adds one.
    pub fn add(&mut self, metric: S::Metric, who: impl ToString, value: f64) {
        self.values
            .entry((metric, who.to_string()))
            .or_default()
            .push((self.rounds, value));
    }

    /// Notes why something is missing.
    pub(crate) fn gap(&mut self, why: String) {
        eprintln!("{why}");
        self.gaps.push(why);
    }

    /// The median of all rounds or of one, if there is any sample.
    pub(crate) fn median(
        &self,
        round: Option<usize>,
        metric: S::Metric,
        who: impl ToString,
    ) -> Option<f64> {
        let values = self.values.get(&(metric, who.to_string()))?;
        let of_round = values
            .iter()
            .filter(|(of, _)| round.is_none_or(|round| round == *of));
        median(&of_round.map(|(_, value)| *value).collect::<Vec<_>>())
    }

    /// Rounds begun; the first is 1.
    pub(crate) const fn rounds(&self) -> usize {
        self.rounds
    }

    pub(crate) fn measures(&self, group: S::Group) -> bool {
        self.groups.contains(&group)
    }

    /// Medians with their range, then the targets with theirs, then what is missing, as text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = format!(
            "Over {}: medians (lowest – highest of all rounds)\n",
            self.subject
        );
        for (metric, name) in S::METRICS {
            let all = self.values.iter().filter(|((of, _), _)| of == metric);
            for ((_, who), values) in all {
                let values: Vec<_> = values.iter().map(|(_, value)| *value).collect();
                let (Some(middle), Some(range)) = (median(&values), range(&values)) else {
                    continue;
                };
                text += &format!(
                    "  {name:<40} {who:<22} {:>10}  {}, n = {}\n",
                    figure(middle),
                    spread(Some(range)),
                    values.len()
                );
            }
        }
        text += &format!(
            "\n{:<52} {:>9} {:>9}  {:<20}\n",
            "Target", "wanted", "reached", "(lowest – highest)"
        );
        for row in self.rows() {
            let (value, verdict) = match row.value {
                None => ("–".to_owned(), format!("NO {}", row.missing.join(", NO "))),
                Some(value) if row.met() => (figure(value), "reached".to_owned()),
                Some(value) => (figure(value), "MISSED".to_owned()),
            };
            text += &format!(
                "{:<52} {:>9} {value:>9}  {:<20} {verdict}\n",
                row.what,
                row.bound.to_string(),
                spread(row.range),
            );
        }
        if !self.gaps.is_empty() {
            text += "\nNot measured:\n";
            for gap in &self.gaps {
                text += &format!("  {gap}\n");
            }
        }
        text
    }

    /// The same as one object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let samples: Vec<_> = S::METRICS
            .iter()
            .flat_map(|(metric, name)| {
                let of_metric = self.values.iter().filter(move |((of, _), _)| of == metric);
                of_metric.map(move |((_, who), values)| {
                    let values: Vec<_> = values.iter().map(|(_, value)| *value).collect();
                    json!({ "metric": name, "who": who, "median": median(&values), "samples": values })
                })
            })
            .collect();
        let rows: Vec<_> = self
            .rows()
            .iter()
            .map(|row| {
                json!({
                    "target": row.what,
                    "wanted": row.bound.to_string(),
                    "reached": row.value,
                    "range": row.range,
                    "met": row.met(),
                    "missing": row.missing,
                })
            })
            .collect();
        json!({
            "event": S::EVENT,
            "over": self.subject.to_string(),
            "samples": samples,
            "targets": rows,
            "gaps": self.gaps,
        })
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

/// The lowest and the highest.
pub(crate) fn range(values: &[f64]) -> Option<[f64; 2]> {
    let values = || values.iter().copied();
    Some([values().reduce(f64::min)?, values().reduce(f64::max)?])
}

fn spread(range: Option<[f64; 2]>) -> String {
    range.map_or_else(String::new, |[low, high]| {
        format!("({} – {})", figure(low), figure(high))
    })
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
