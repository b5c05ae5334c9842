//! One stream: its two queues, its two windows, and where it stands.

use std::time::{Duration, Instant};

use super::frame::{ACK, FIN, SYN};
use super::queue::{RecvQueue, SendQueue};

/// Credit both sides have at the start, by the protocol.
pub(crate) const INITIAL_WINDOW: u32 = 256 << 10;

/// Credit that a stream has to get within [`Config::write_deadline`](super::Config::write_deadline). Go, rust and js
/// give 128 KiB or more at once.
const ENOUGH_CREDIT: u32 = 16 << 10;

/// In which list of the scheduler a stream waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    None,
    /// It has just become ready with a short message and goes before those that send in bulk.
    New,
    /// It takes part in the round of those that send in bulk.
    Old,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: u32,
    pub(crate) inbound: bool,

    /// Ours, and its SYN has not gone out.
    pub(crate) syn_pending: bool,
    /// The owner wants the SYN out without data.
    pub(crate) flush_open: bool,
    /// The peer's, and its ACK has not gone out.
    pub(crate) ack_pending: bool,
    /// Ours, and the peer has acknowledged it.
    pub(crate) acked: bool,
    /// The peer's, and the owner has settled its protocol.
    pub(crate) accepted: bool,
    /// The owner knows the stream, so its id stays until `release`.
    pub(crate) handed_out: bool,
    pub(crate) released: bool,

    pub(crate) fin_queued: bool,
    pub(crate) fin_sent: bool,
    pub(crate) fin_received: bool,
    /// What we would reset with once our side has ended; incoming bytes are dropped.
    pub(crate) stopped: Option<u32>,
    /// Reset by either side, with this code.
    pub(crate) reset: Option<u32>,
    /// Still counts for the limits: neither reset nor finished both ways.
    pub(crate) live: bool,

    pub(crate) tell_readable: bool,
    pub(crate) tell_writable: bool,
    /// The stream has an entry in the session's event queue.
    pub(crate) in_events: bool,
    /// The next thing to read is to be told.
    pub(crate) read_armed: bool,
    /// The send buffer was full; falling to half is to be told.
    pub(crate) was_full: bool,

    pub(crate) turn: Turn,
    pub(crate) in_control: bool,

    pub(crate) send: SendQueue,
    /// Credit the peer has given us.
    pub(crate) send_window: u32,
    /// Since when bytes wait for credit that [lets them go on](Self::unblock).
    pub(crate) blocked_since: Option<Instant>,
    /// Credit that came since then.
    pub(crate) blocked_credit: u32,
    /// Since when only the peer's end is missing and nobody reads.
    pub(crate) linger_since: Option<Instant>,

    pub(crate) recv: RecvQueue,
    /// Credit the peer has left.
    pub(crate) recv_window: u32,
    /// What may be unread at once: credit left plus bytes buffered never exceed it.
    pub(crate) max_window: u32,
    /// Start of the running measurement of the rate at which the owner reads.
    pub(crate) epoch: Option<Instant>,
    /// Bytes read since then.
    pub(crate) epoch_bytes: u64,
}

impl Stream {
    pub(crate) fn new(id: u32, inbound: bool) -> Self {
        Self {
            id,
            inbound,
            syn_pending: !inbound,
            flush_open: false,
            ack_pending: inbound,
            acked: false,
            accepted: false,
            handed_out: !inbound,
            released: false,
            fin_queued: false,
            fin_sent: false,
            fin_received: false,
            stopped: None,
            reset: None,
            live: true,
            tell_readable: false,
            tell_writable: false,
            in_events: false,
            read_armed: true,
            was_full: false,
            turn: Turn::None,
            in_control: false,
            send: SendQueue::default(),
            send_window: INITIAL_WINDOW,
            blocked_since: None,
            blocked_credit: 0,
            linger_since: None,
            recv: RecvQueue::default(),
            recv_window: INITIAL_WINDOW,
            max_window: INITIAL_WINDOW,
            epoch: None,
            epoch_bytes: 0,
        }
    }

    /// Bytes that were not read, and not sent.
    pub(crate) fn held(&self) -> usize {
        self.recv.len() + self.send.len()
    }

    /// Whether a frame of data, or one that opens or ends our side, could go out now.
    #[inline]
    pub(crate) fn has_turn(&self) -> bool {
        if self.reset.is_some() || self.fin_sent {
            return false;
        }
        if self.send.is_empty() {
            self.fin_queued || (self.syn_pending && self.flush_open)
        } else {
            self.send_window > 0
        }
    }

    /// Whether the scheduler should look at the stream: it has a turn, or has just begun to wait for credit, which is
    /// noted where the time is known.
    #[inline]
    pub(crate) fn wants_turn(&self) -> bool {
        self.has_turn()
            || (!self.send.is_empty() && self.reset.is_none() && self.blocked_since.is_none())
    }

    /// Counts credit against the wait of a stream that has none: what lets all go, or adds up to [`ENOUGH_CREDIT`], ends
    /// it. Less would let a peer hold what is queued for a byte a minute.
    #[inline]
    pub(crate) fn unblock(&mut self, credit: u32) {
        if self.blocked_since.is_some() {
            self.blocked_credit = self.blocked_credit.saturating_add(credit);
            if self.blocked_credit >= ENOUGH_CREDIT || self.send_window as usize >= self.send.len()
            {
                self.blocked_since = None;
            }
        }
    }

    /// Flags that a frame which opens or acknowledges the stream has to carry; they are owed no more afterwards.
    #[inline]
    pub(crate) fn take_open_flags(&mut self) -> u16 {
        let mut flags = 0;
        if self.syn_pending {
            self.syn_pending = false;
            flags |= SYN;
        }
        if self.ack_pending {
            self.ack_pending = false;
            flags |= ACK;
        }
        flags
    }

    /// FIN if nothing is left before it, which then counts as sent.
    #[inline]
    pub(crate) fn take_fin_flag(&mut self) -> u16 {
        if self.fin_queued && !self.fin_sent && self.send.is_empty() {
            self.fin_sent = true;
            return FIN;
        }
        0
    }

    /// Credit that could be given, if it is at least half the window; seven sixteenths of a grown one. At exactly half,
    /// the second update of a round misses by a frame once the bytes come in lumps, and half of the window lies idle
    /// for a round trip (335 instead of 508 MB/s over 100 ms).
    #[inline]
    pub(crate) fn grantable(&self) -> u32 {
        if self.fin_received || self.stopped.is_some() || self.reset.is_some() {
            return 0;
        }
        // Both fit: credit and buffered bytes never exceed the window, which is 32 bits wide.
        let held = self.recv_window.saturating_add(self.recv.len() as u32);
        let room = self.max_window.saturating_sub(held);
        let enough = if self.max_window == INITIAL_WINDOW {
            INITIAL_WINDOW / 2
        } else {
            self.max_window / 16 * 7
        };
        if room >= enough { room } else { 0 }
    }

    /// Lowers the window to `to`, at least the protocol's, and returns by how much.
    pub(crate) fn shrink_window(&mut self, to: u32) -> usize {
        let before = self.max_window;
        self.max_window = before.min(to.max(INITIAL_WINDOW));
        (before - self.max_window) as usize
    }

    /// Memory promised beyond the protocol's first window.
    pub(crate) fn grown(&self) -> usize {
        (self.max_window - INITIAL_WINDOW) as usize
    }

    /// Counts bytes the owner has read. Once they have been counted for about a round trip, returns the window that
    /// their rate wants, if that is more than the present one; twice that while the window is what limits the rate.
    #[inline]
    pub(crate) fn measure(
        &mut self,
        now: Instant,
        read: usize,
        round_trip: Option<Duration>,
    ) -> Option<u32> {
        let Some(start) = self.epoch else {
            // What arrived before the epoch does not belong to it, or a burst would count twice.
            self.epoch = Some(now);
            return None;
        };
        self.epoch_bytes += read as u64;
        let round_trip = round_trip?.max(MIN_ROUND_TRIP);
        let elapsed = now.saturating_duration_since(start);
        if elapsed < round_trip * 3 / 4 {
            return None;
        }
        // The answer to the last growth comes as a burst after one round trip. Looking only once would see no more than
        // its first frame, and the window would double every other round trip.
        let wanted = window_for(self.epoch_bytes, round_trip, elapsed);
        let double = self.max_window.saturating_mul(2);
        if wanted < double && elapsed < round_trip * 3 / 2 {
            return None;
        }
        self.epoch = Some(now);
        self.epoch_bytes = 0;
        if wanted >= double {
            // How much more the path carries is not known: doubling would take eight round trips to a window of 64 MiB.
            return Some(double.saturating_mul(2));
        }
        (wanted > self.max_window).then_some(wanted)
    }
}

/// What a window has to be for `bytes` in `elapsed`.
#[inline]
fn window_for(bytes: u64, round_trip: Duration, elapsed: Duration) -> u32 {
    // Microseconds are exact enough from 1.5 ms on, and 64 bits hold the product for 2^35 bytes in 9 minutes.
    let product = bytes
        .saturating_mul(HEADROOM)
        .saturating_mul(round_trip.as_micros() as u64);
    u32::try_from(product / (elapsed.as_micros() as u64).max(1)).unwrap_or(u32::MAX)
}

/// Round trips below this are taken for this long: below it, it is the scheduling of the two ends that a window has to
/// bridge, not the wire.
const MIN_ROUND_TRIP: Duration = Duration::from_millis(2);

/// Windows are this many times the bandwidth-delay product. An update goes out when about half the window can be
/// granted, so 2 would let the sender run dry just when the update arrives.
const HEADROOM: u64 = 3;
