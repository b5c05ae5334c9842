//! Our yamux session and the `yamux` crate get the same frames: both deliver the same bytes to the
//! same streams, grant the same credit, and end in the same way.
//!
//! Accepted differences, each checked to be one of these:
//! - we are stricter: undefined flags, pings and GoAways with a stream's id or with other flags than
//!   one of SYN and ACK, and stream frames with id 0 end our session; the crate ignores them;
//! - a stream id that was used before ends our session; the crate accepts it again;
//! - a pong that nobody asked for is ignored by us, and ends the crate's connection;
//! - data after a FIN is dropped by us, and delivered by the crate;
//! - a reset after our own end is a reset to us, and looks like an end through the crate.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Instant;

use arbitrary::Arbitrary;
use barewire_base::Budget;
use barewire_mux::conformance::{
    ACK, DATA, FIN, GO_AWAY, PING, RST, SYN, WINDOW_UPDATE, header, read_all, sent,
};
use barewire_mux::yamux::{Config, Session};
use barewire_mux::yamux_crate::CrateSession;
use barewire_mux::{Event, MuxError, ReadOutcome, Role, StreamId, StreamMuxer, Violation};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Sent {
    kind: u8,
    flags: u8,
    id: u8,
    len: Len,
    /// The owner ends its side of this stream afterwards.
    finish: bool,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Len {
    Short(u8),
    Middle(u16),
    /// So many bytes around the first window.
    NearWindow(i8),
    Any(u32),
}

impl Len {
    fn get(self) -> u32 {
        match self {
            Self::Short(len) => len.into(),
            Self::Middle(len) => len.into(),
            Self::NearWindow(by) => {
                (256 << 10) + u32::try_from(by.max(0)).unwrap_or(0)
                    - u32::from(by.min(0).unsigned_abs())
            }
            Self::Any(len) => len,
        }
    }
}

/// What one backend has told about a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    bytes: Vec<u8>,
    finished: bool,
    reset: bool,
    /// Credit it has granted.
    credit: u64,
    acked: bool,
    /// Our own side was finished.
    done: bool,
}

struct Backend<M> {
    muxer: M,
    told: BTreeMap<u32, Told>,
    error: Option<MuxError>,
    gone_away: bool,
}

impl<M: StreamMuxer> Backend<M> {
    fn new(muxer: M) -> Self {
        Self {
            muxer,
            told: BTreeMap::new(),
            error: None,
            gone_away: false,
        }
    }

    /// Feeds one frame and reads all there is.
    fn feed(&mut self, bytes: &Bytes) {
        let now = *START;
        if let Err(error) = self.muxer.handle_input(now, bytes.clone()) {
            self.error.get_or_insert(error);
        }
        while let Some(event) = self.muxer.poll_event() {
            match event {
                Event::Incoming(id) => {
                    self.muxer.accepted(id);
                    self.told.insert(id.get(), Told::default());
                }
                Event::GoAway(_) => self.gone_away = true,
                _ => {}
            }
        }
        for (id, told) in &mut self.told {
            let Ok(id) = StreamId::try_from(*id) else {
                continue;
            };
            let (bytes, end) = read_all(&mut self.muxer, now, id);
            if !told.finished {
                told.bytes.extend(bytes);
            }
            told.finished |= end == ReadOutcome::Finished;
            told.reset |= matches!(end, ReadOutcome::Reset(_)) && !told.finished;
        }
        for frame in sent(&mut self.muxer, now) {
            if let Some(told) = self.told.get_mut(&frame.id)
                && frame.kind == WINDOW_UPDATE
                && frame.flags & RST == 0
            {
                told.credit += u64::from(frame.len);
                told.acked |= frame.flags & ACK != 0;
            }
        }
    }

    fn finish(&mut self, id: u32) {
        if let Ok(stream) = StreamId::try_from(id)
            && let Some(told) = self.told.get_mut(&id)
        {
            let _ = self.muxer.finish(stream);
            told.done = true;
        }
    }

    fn over(&self) -> bool {
        self.muxer.is_closed()
    }
}

fuzz_target!(|input: Vec<Sent>| {
    let session = Session::new(Role::Server, Config::default(), Budget::unlimited(), *START);
    let mut ours = Backend::new(session);
    let mut theirs = Backend::new(CrateSession::new(Role::Server));
    let mut used: Vec<u32> = Vec::new();
    for frame in input.into_iter().take(60) {
        let kind = frame.kind % 5;
        let flags = u16::from(frame.flags) % 32;
        // Few ids: 0, ours, theirs.
        let id = if kind >= PING && frame.id < 200 {
            0
        } else {
            u32::from(frame.id % 12)
        };
        let len = frame.len.get();
        if kind == PING && flags & ACK != 0 {
            // An unsolicited pong, see above.
            continue;
        }
        if ours
            .told
            .get(&id)
            .is_some_and(|told| told.done && told.reset)
        {
            // The crate does not count it as reset, see above.
            continue;
        }
        let mut bytes = header(kind, flags, id, len).to_vec();
        if kind == DATA && len <= 300_000 {
            let at = bytes.len() as u32;
            bytes.extend((0..len).map(|n| (n + at + id) as u8));
        }
        if kind == DATA && len > 300_000 && len <= Config::default().max_stream_window {
            // Too long to be whole here; ours would refuse it at the header, the crate at its end. And for a
            // stream that is gone ours takes more than the crate's 1 MiB in a frame, as js-libp2p sends it.
            continue;
        }
        let bytes = Bytes::from(bytes);
        ours.feed(&bytes);
        theirs.feed(&bytes);

        let stricter = match &ours.error {
            Some(MuxError::Protocol(Violation::Flags(_))) => true,
            Some(MuxError::Protocol(Violation::StreamId(bad))) => {
                kind >= PING || *bad == 0 || (flags & SYN != 0 && used.contains(bad))
            }
            _ => false,
        };
        if stricter {
            return;
        }
        assert_eq!(
            ours.error.is_some(),
            theirs.error.is_some(),
            "ours {:?}, theirs {:?} at {frame:?}",
            ours.error,
            theirs.error
        );
        assert_eq!(ours.over(), theirs.over(), "at {frame:?}");
        if ours.over() {
            assert_eq!(ours.gone_away, theirs.gone_away);
            assert_eq!(ours.gone_away, kind == GO_AWAY);
            break;
        }
        if flags & SYN != 0 && flags & RST == 0 && kind <= WINDOW_UPDATE {
            used.push(id);
        }
        if frame.finish {
            ours.finish(id);
            theirs.finish(id);
            let nothing = Bytes::new();
            ours.feed(&nothing);
            theirs.feed(&nothing);
        }
        let ended = |told: &Told| told.finished || told.reset;
        for (id, told) in &mut ours.told {
            let Some(other) = theirs.told.get_mut(id) else {
                panic!("the crate has no stream {id}")
            };
            if ended(told) || ended(other) {
                // After the end the crate goes on to deliver and to grant.
                other.credit = told.credit;
            }
            if told.done && ended(told) && ended(other) {
                (other.finished, other.reset) = (told.finished, told.reset);
            }
            // When the acknowledgement goes is up to each.
            other.acked = told.acked;
        }
        assert_eq!(ours.told, theirs.told, "after {frame:?}, {}", flags & FIN);
    }
});
