//! What is measured of gossip, and what barewire must reach.

use std::fmt;

use super::Group;
use crate::{
    stacks::Stack,
    table::Subject,
    targets::{Bound, Row, View},
};

/// What hashing alone allows, with all processors.
pub(super) const HASHED: &str = "SHA-512 four times";

/// The table of gossip over TCP with Noise.
#[derive(Debug, Clone, Copy)]
pub(super) struct OverTcp;

impl fmt::Display for OverTcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tcp")
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Metric {
    /// Signed messages of 200 bytes per second.
    ShortSigned,
    /// The same without signatures.
    ShortUnsigned,
    /// MiB/s in signed messages of 64 KiB.
    LongSigned,
    /// The same without signatures.
    LongUnsigned,
    /// Peak resident MiB of the relay meanwhile.
    LongPeak,
    /// Seconds from publishing 500 MiB in one signed message until it is received.
    HugeSigned,
    /// The same without a signature.
    HugeUnsigned,
    /// Peak resident MiB of the relay meanwhile.
    HugeRelayPeak,
    /// And of the subscriber.
    HugeSubscriberPeak,
    /// Processor milliseconds of a publisher for one message of 1 MiB to fifty.
    FanOut,
    /// Median time through ten nodes, in ms.
    Latency50,
    /// The time that one in a hundred exceeds.
    Latency99,
}
use Metric as M;

impl Subject for OverTcp {
    type Group = Group;
    type Metric = Metric;

    const EVENT: &'static str = "gossip";
    const METRICS: &'static [(Metric, &'static str)] = &[
        (M::ShortSigned, "200 B signed, messages per s"),
        (M::ShortUnsigned, "200 B unsigned, messages per s"),
        (M::LongSigned, "64 KiB signed, MiB/s"),
        (M::LongUnsigned, "64 KiB unsigned, MiB/s"),
        (M::LongPeak, "64 KiB, peak MiB of the relay"),
        (M::HugeSigned, "500 MiB in one, signed, s"),
        (M::HugeUnsigned, "500 MiB in one, unsigned, s"),
        (M::HugeRelayPeak, "500 MiB in one, peak MiB of the relay"),
        (M::HugeSubscriberPeak, "and of the subscriber"),
        (M::FanOut, "1 MiB to 50, CPU ms of the publisher"),
        (M::Latency50, "10 nodes, 1,000 × 1 KiB per s, p50, ms"),
        (M::Latency99, "p99, ms"),
    ];

    fn group(metric: Metric) -> Group {
        match metric {
            M::ShortSigned | M::ShortUnsigned => Group::Short,
            M::LongSigned | M::LongUnsigned | M::LongPeak => Group::Long,
            M::HugeSigned | M::HugeUnsigned | M::HugeRelayPeak | M::HugeSubscriberPeak => {
                Group::Huge
            }
            M::FanOut => Group::FanOut,
            M::Latency50 | M::Latency99 => Group::Latency,
        }
    }

    /// litep2p has no gossipsub.
    fn peers(self) -> Vec<Stack> {
        vec![Stack::Go, Stack::Rust]
    }

    fn targets(view: View<'_, Self>) -> Vec<Row<Group>> {
        let at_most =
            |what, bound, metric| Row::value(what, Bound::AtMost(bound), view.own(metric));
        vec![
            // Signatures are always checked in batches on threads, and each by itself: one figure is held against both targets.
            view.over_best(
                "200 B signed, each checked / best peer",
                1.6,
                M::ShortSigned,
            ),
            view.over_best("200 B signed, in batches / best peer", 2.5, M::ShortSigned),
            view.over_best("200 B unsigned / best peer", 4.0, M::ShortUnsigned),
            view.over_best("64 KiB signed / best peer", 2.0, M::LongSigned),
            view.over_best("64 KiB unsigned / best peer", 5.0, M::LongUnsigned),
            at_most("64 KiB, peak MiB of the relay", 48.0, M::LongPeak),
            at_most("500 MiB in one, signed, s", 6.0, M::HugeSigned),
            at_most("500 MiB in one, unsigned, s", 2.0, M::HugeUnsigned),
            at_most("500 MiB in one, peak MiB of relay", 596.0, M::HugeRelayPeak),
            at_most(
                "500 MiB in one, of subscriber",
                596.0,
                M::HugeSubscriberPeak,
            ),
            view.under_best("1 MiB to 50, CPU / best peer", 0.33, M::FanOut),
            view.under_best("through 10 nodes, p50 / best peer", 0.7, M::Latency50),
            view.under_best("through 10 nodes, p99 / best peer", 0.7, M::Latency99),
        ]
    }
}
