//! What a cell tries.

use barewire_tests::peers::Foreign;

use crate::{WE_DIAL, combination::Combination};

/// One try. Those down to [`What::ResetByListener`] make up the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Identify,
    Ping,
    Echo,
    Streams,
    HalfClose,
    ResetByDialler,
    ResetByListener,
    /// A ping that ends its direction before the answer comes, as js-libp2p's own does.
    OwnPing,
    PerfUp,
    PerfDown,
    /// The muxer is agreed on in the security handshake where both can.
    EarlyMuxer,
    /// go can be told not to.
    LateMuxer,
    /// A short answer and its end leave together; go-yamux, told of the end in the header of the last data, may forget the data.
    EndBehindData,
    /// Both live in a private network.
    Private,
    /// An honest peer's load trips none of our limits.
    Honest,
    WrongPeer,
    /// The side that listens dies with a stream open.
    ListenerKilled,
    /// The side that dials does.
    DiallerKilled,
}

impl What {
    /// The cells that every stack, combination and direction is asked for.
    pub(crate) const MATRIX: [Self; 7] = [
        Self::Identify,
        Self::Ping,
        Self::Echo,
        Self::Streams,
        Self::HalfClose,
        Self::ResetByDialler,
        Self::ResetByListener,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Identify => "identify",
            Self::Ping => "ping",
            Self::Echo => "echo 10 MiB",
            Self::Streams => "64 parallel streams",
            Self::HalfClose => "half close",
            Self::ResetByDialler => "reset by dialler",
            Self::ResetByListener => "reset by listener",
            Self::OwnPing => "own ping",
            Self::PerfUp => "perf up 256 MiB",
            Self::PerfDown => "perf down 256 MiB",
            Self::EarlyMuxer => "early muxer",
            Self::LateMuxer => "multistream muxer",
            Self::EndBehindData => "end behind data",
            Self::Private => "private network",
            Self::Honest => "honest load",
            Self::WrongPeer => "wrong peer id",
            Self::ListenerKilled => "listener killed",
            Self::DiallerKilled => "dialler killed",
        }
    }

    /// Everything to try at a place, in this order.
    pub(crate) fn of(
        stack: Foreign,
        combination: &Combination,
        direction: &str,
    ) -> impl Iterator<Item = Self> {
        let more = [
            Self::OwnPing,
            Self::PerfUp,
            Self::PerfDown,
            Self::EarlyMuxer,
            Self::LateMuxer,
            Self::EndBehindData,
            Self::Private,
            Self::Honest,
            Self::WrongPeer,
            Self::ListenerKilled,
            Self::DiallerKilled,
        ];
        let measured = matches!(stack, Foreign::Go | Foreign::Rust);
        let first = combination.name == "tcp+noise";
        let (quic, noise) = (combination.is_quic(), combination.security == "noise");
        let we_dial = direction == WE_DIAL;
        Self::MATRIX
            .into_iter()
            .chain(more.into_iter().filter(move |what| match what {
                Self::OwnPing => !we_dial && stack == Foreign::Js,
                Self::PerfUp | Self::PerfDown => measured,
                Self::EarlyMuxer => !quic && (we_dial || stack == Foreign::Go),
                Self::LateMuxer => !quic && noise && stack == Foreign::Go,
                Self::EndBehindData => !we_dial && first && measured,
                // Only this peer can be given a key.
                Self::Private => stack == Foreign::Go && !quic && !combination.is_wss(),
                Self::Honest => !we_dial,
                // The same check, whatever carries the handshake.
                Self::WrongPeer => measured || first,
                // Over QUIC a killed process is noticed only when the idle timeout ends.
                Self::ListenerKilled => first,
                Self::DiallerKilled => first && !we_dial,
                _ => true,
            }))
    }

    /// Command and event of the foreign peers' command line. `identify`, `ping`, `echo` and `bench` are barewire's too.
    pub(crate) fn command(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Ping => (&["ping", "--count", "100"], "ping"),
            Self::Echo => (&["echo", "--size", "10MiB"], "echo"),
            Self::Streams => (
                &[
                    "bench",
                    "streams",
                    "--count",
                    "64",
                    "--concurrency",
                    "64",
                    "--size",
                    "64KiB",
                ],
                "streams",
            ),
            Self::HalfClose => (&["half-close", "--size", "1MiB"], "half_close"),
            Self::ResetByDialler => (&["reset", "--by", "local"], "reset"),
            Self::ResetByListener => (&["reset", "--by", "remote"], "reset"),
            Self::OwnPing => (&["own-ping", "--count", "10"], "own_ping"),
            Self::PerfUp => (&["perf", "--upload", "256MiB", "--download", "0"], "perf"),
            Self::PerfDown => (&["perf", "--upload", "0", "--download", "256MiB"], "perf"),
            Self::LateMuxer => (&["identify", "--no-early-muxer"], "identify"),
            _ => (&["identify"], "identify"),
        }
    }
}
