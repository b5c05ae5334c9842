//! Frames that come in.

use std::time::Instant;

use bytes::{Buf, Bytes};

use super::RESET_RESOURCE_LIMIT;
use super::frame::{ACK, FIN, HEADER_LEN, Header, Kind, RST, SYN};
use super::ids::Key;
use super::session::{Ended, Session, get};
use super::stream::{INITIAL_WINDOW, Stream};
use crate::error::{MuxError, Violation};
use crate::muxer::Role;

/// GoAway code for a peer that floods (go-libp2p `ConnRateLimited`).
const GO_AWAY_RATE_LIMITED: u32 = 0x1002;

/// Pongs that wait to be sent; more pings than that are not answered, as in go-yamux.
const MAX_PONGS: usize = 32;

/// Pings that found the pongs' queue full before the peer counts as flooding. Implementations send one each 10 to 30 s.
const MAX_UNANSWERED_PINGS: u32 = 1_000;

/// Resets that wait to be sent, after which nothing more should be read until some are.
pub(crate) const MANY_RESETS: usize = 1 << 10;

/// Those after which a peer that still opens streams counts as flooding, because nobody minds the former. One read of
/// 256 KiB has up to 21,845 frames.
const MAX_RESETS: usize = 32 << 10;

/// The payload that is being received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Body {
    /// The stream it belongs to, id 0 if it is dropped.
    key: Key,
    /// Bytes to come.
    left: u32,
    /// The frame ends the peer's side.
    fin: bool,
}

impl Body {
    pub(crate) const NONE: Self = Self {
        key: Key { slot: 0, id: 0 },
        left: 0,
        fin: false,
    };
}

impl Session {
    pub(super) fn input(&mut self, now: Instant, mut input: Bytes) -> Result<(), MuxError> {
        match &self.ended {
            Some(Ended::Error(error)) => return Err(error.clone()),
            Some(_) => return Ok(()),
            None => {}
        }
        // Inputs of one time come in one batch: the readers have not had their turn in between.
        if self.timers.input(now) {
            self.settle_slices();
        }
        let before = self.memory.buffered;
        while self.ended.is_none() {
            if self.body.left > 0 {
                let count = input.len().min(self.body.left as usize);
                if count == 0 {
                    break;
                }
                let chunk = if count == input.len() {
                    std::mem::take(&mut input)
                } else {
                    input.split_to(count)
                };
                self.payload(now, chunk);
            } else {
                let Some(header) = self.next_header(&mut input) else {
                    break;
                };
                let header = header.map_err(|violation| self.violation(violation))?;
                self.frame(now, header)?;
            }
        }
        if self.head_len > 0 {
            self.timers.header_since.get_or_insert(now);
        }
        if self.memory.buffered > before {
            self.make_room();
        }
        Ok(())
    }

    /// Copies small slices of earlier inputs that nobody has read.
    fn settle_slices(&mut self) {
        if self.unsettled.is_empty() {
            return;
        }
        for key in self.unsettled.drain(..) {
            if let Some(stream) = get(&mut self.slots, key) {
                self.copied += stream.recv.settle() as u64;
            }
        }
    }

    /// Takes the next header off `input`, `None` if it is not complete.
    #[inline]
    fn next_header(&mut self, input: &mut Bytes) -> Option<Result<Header, Violation>> {
        if self.head_len == 0
            && let Some(whole) = input.first_chunk::<HEADER_LEN>()
        {
            let header = Header::decode(whole);
            input.advance(HEADER_LEN);
            return Some(header);
        }
        let have = usize::from(self.head_len);
        let count = input.len().min(HEADER_LEN - have);
        if let (Some(to), Some(from)) = (self.head.get_mut(have..have + count), input.get(..count))
        {
            to.copy_from_slice(from);
        }
        input.advance(count);
        self.head_len += count as u8;
        if usize::from(self.head_len) < HEADER_LEN {
            return None;
        }
        self.head_len = 0;
        self.timers.header_since = None;
        Some(Header::decode(&self.head))
    }

    fn frame(&mut self, now: Instant, header: Header) -> Result<(), MuxError> {
        match header.kind {
            Kind::Data => self.on_data(now, header),
            Kind::WindowUpdate => self.on_window_update(now, header),
            Kind::Ping => self.on_ping(now, header),
            Kind::GoAway => {
                self.end(Ended::Peer, None);
                self.go_away_event = Some(header.len);
                Ok(())
            }
        }
    }

    fn on_ping(&mut self, now: Instant, header: Header) -> Result<(), MuxError> {
        if header.has(SYN) {
            if self.pongs.len() < MAX_PONGS {
                self.pongs.push_back(header.len);
            } else {
                self.unanswered_pings += 1;
                if self.unanswered_pings > MAX_UNANSWERED_PINGS {
                    return Err(self.fail(MuxError::ReplyFlood, Some(GO_AWAY_RATE_LIMITED)));
                }
            }
        } else if let Some(rtt) = self.timers.pong(now, header.len) {
            self.pong_event = Some(rtt);
        }
        Ok(())
    }

    fn on_data(&mut self, now: Instant, header: Header) -> Result<(), MuxError> {
        // js-libp2p sends as much in one frame as its window allows. Payload passes through as it arrives, so the
        // window is the only bound it needs; for streams that are gone this one stands in.
        if header.len > self.config.max_stream_window {
            return Err(self.violation(Violation::FrameTooLong(header.len)));
        }
        if header.has(RST) {
            self.on_reset(now, header.id, 0)?;
            self.body = Body {
                left: header.len,
                ..Body::NONE
            };
            return Ok(());
        }
        let key = if header.has(SYN) {
            if header.len > INITIAL_WINDOW {
                return Err(self.violation(Violation::WindowExceeded(header.id)));
            }
            self.on_open(header.id, INITIAL_WINDOW)?
        } else {
            self.seek(header.id)
        };
        let Some(key) = key else {
            self.body = Body {
                left: header.len,
                ..Body::NONE
            };
            return Ok(());
        };
        if header.has(ACK) {
            self.on_ack(key);
        }
        let Some(stream) = get(&mut self.slots, key) else {
            return Ok(());
        };
        if stream.reset.is_some() {
            // It counts no more; the peer has not seen our reset, or has sent its own.
            self.body = Body {
                left: header.len,
                ..Body::NONE
            };
            return Ok(());
        }
        if header.len > stream.recv_window {
            return Err(self.violation(Violation::WindowExceeded(header.id)));
        }
        self.body = Body {
            key,
            left: header.len,
            fin: header.has(FIN),
        };
        if header.len == 0 && header.has(FIN) {
            self.on_fin(key);
        }
        Ok(())
    }

    /// A piece of the present body.
    #[inline]
    fn payload(&mut self, now: Instant, chunk: Bytes) {
        let count = chunk.len();
        // Not more than what was left, which is 32 bits wide.
        self.body.left -= count as u32;
        let Body { key, left, fin } = self.body;
        let Some(stream) = get(&mut self.slots, key) else {
            return;
        };
        stream.recv_window -= count as u32;
        if stream.reset.is_some() || stream.fin_received {
            // Data after the end, or after a reset of ours in the midst of the frame.
        } else if let Some(code) = stream.stopped {
            if stream.fin_sent && stream.recv_window == 0 {
                // The peer would wait for ever: we are done with the stream and will give no credit.
                self.reset_and_tell(key, code);
                return;
            }
        } else {
            self.memory.buffered += count;
            if stream.recv.push(chunk) && self.unsettled.last() != Some(&key) {
                self.unsettled.push(key);
            }
            Self::tell_readable(&mut self.events, key.slot, stream);
            self.timers.data(now, count, self.config.keepalive_timeout);
        }
        if left == 0 && fin {
            self.on_fin(key);
        }
    }

    fn on_fin(&mut self, key: Key) {
        let Some(stream) = get(&mut self.slots, key) else {
            return;
        };
        if stream.fin_received || stream.reset.is_some() {
            return;
        }
        stream.fin_received = true;
        stream.linger_since = None;
        if !stream.released {
            Self::tell_readable(&mut self.events, key.slot, stream);
        }
        self.give_up_window(key);
        self.settle_end(key);
    }

    fn on_ack(&mut self, key: Key) {
        let Some(stream) = get(&mut self.slots, key) else {
            return;
        };
        if !stream.inbound && !stream.acked && !stream.syn_pending {
            stream.acked = true;
            if stream.live {
                self.unacked -= 1;
                self.offer_open();
            }
        }
    }

    fn on_window_update(&mut self, now: Instant, header: Header) -> Result<(), MuxError> {
        if header.has(RST) {
            return self.on_reset(now, header.id, header.len);
        }
        let key = if header.has(SYN) {
            let Some(window) = INITIAL_WINDOW.checked_add(header.len) else {
                return Err(self.violation(Violation::WindowOverflow(header.id)));
            };
            self.on_open(header.id, window)?
        } else {
            self.seek(header.id)
        };
        let Some(key) = key else { return Ok(()) };
        if header.has(ACK) {
            self.on_ack(key);
        }
        if !header.has(SYN)
            && let Some(stream) = get(&mut self.slots, key)
            && stream.reset.is_none()
        {
            let Some(window) = stream.send_window.checked_add(header.len) else {
                return Err(self.violation(Violation::WindowOverflow(header.id)));
            };
            stream.send_window = window;
            if window > 0 {
                stream.unblock(header.len);
                self.schedule.wake(key.slot, stream);
            }
        }
        if header.has(FIN) {
            self.on_fin(key);
        }
        Ok(())
    }

    /// A stream the peer opens. `None` if it was refused.
    fn on_open(&mut self, id: u32, send_window: u32) -> Result<Option<Key>, MuxError> {
        let ours = match self.role {
            Role::Client => id % 2 == 1,
            Role::Server => id.is_multiple_of(2),
        };
        if ours || !self.used.insert(id) {
            return Err(self.violation(Violation::StreamId(id)));
        }
        // Whoever resets a stream, the peer opened it: with this, as many more can follow as are open.
        if self.resets.len() >= MAX_RESETS {
            return Err(self.fail(MuxError::ReplyFlood, Some(GO_AWAY_RATE_LIMITED)));
        }
        if self.pending >= self.config.max_pending_inbound
            || self.counts.inbound >= self.config.max_inbound
        {
            self.resets.push_back((id, RESET_RESOURCE_LIMIT));
            self.limits_hit.refused += 1;
            return Ok(None);
        }
        let mut stream = Stream::new(id, true);
        stream.send_window = send_window;
        let key = self.insert(stream);
        self.counts.inbound += 1;
        self.pending += 1;
        if let Some(stream) = get(&mut self.slots, key) {
            Self::queue_event(&mut self.events, key.slot, stream);
            Self::queue_control(&mut self.control, key.slot, stream);
        }
        if !self.memory.open() {
            self.reset_and_tell(key, RESET_RESOURCE_LIMIT);
            self.limits_hit.refused += 1;
            return Ok(None);
        }
        Ok(Some(key))
    }

    fn on_reset(&mut self, now: Instant, id: u32, code: u32) -> Result<(), MuxError> {
        let Some(key) = self.seek(id) else {
            return Ok(());
        };
        let Some(stream) = get(&mut self.slots, key) else {
            return Ok(());
        };
        if !stream.live {
            // Over already: what both have ended is not undone.
            return Ok(());
        }
        let aborted = stream.inbound && !stream.fin_queued && !stream.released;
        self.mark_reset(key, code);
        let (rate, burst) = (self.config.aborts_per_second, self.config.abort_burst);
        if aborted && !self.timers.abort(now, rate, burst) {
            return Err(self.fail(MuxError::AbortFlood, Some(GO_AWAY_RATE_LIMITED)));
        }
        Ok(())
    }

    /// Charges what has arrived; what the budget has no room for costs the fattest streams.
    fn make_room(&mut self) {
        while !self.memory.settle() {
            if self.reset_fattest(RESET_RESOURCE_LIMIT).is_none() {
                return;
            }
            self.limits_hit.shed += 1;
        }
    }
}
