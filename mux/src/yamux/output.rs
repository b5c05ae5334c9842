//! Frames that go out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use barewire_base::TransmitBuf;

use super::frame::{ACK, FIN, HEADER_LEN, Header, Kind, RST, SYN};
use super::session::{Session, get};
use super::stream::{Stream, Turn};
use super::timers::RETRY_WITHHELD;

/// Longest payload of a frame: with its header it fills the largest Noise record (65,519 bytes of plaintext), and
/// peers that take no more than 64 KiB at once are content.
const MAX_PAYLOAD: usize = 65_507;

/// A frame that is cut for want of room in the record has at least this much payload.
const MIN_CUT: usize = 1 << 10;

impl Session {
    pub(super) fn output(&mut self, now: Instant, out: &mut TransmitBuf) -> bool {
        let before = out.len();
        if self.ended.is_some() {
            if out.remaining() >= HEADER_LEN
                && let Some(code) = self.go_away.take()
            {
                out.push_inline(&Header::new(Kind::GoAway, 0, 0, code).encode());
            }
            return out.len() > before;
        }
        self.put_session_frames(now, out);
        self.put_control(now, out);
        self.put_data(now, out);
        out.len() > before
    }

    fn put_session_frames(&mut self, now: Instant, out: &mut TransmitBuf) {
        while out.remaining() >= HEADER_LEN
            && let Some(value) = self.pongs.pop_front()
        {
            out.push_inline(&Header::new(Kind::Ping, ACK, 0, value).encode());
            // The peer takes its answers.
            self.unanswered_pings = 0;
        }
        if out.remaining() >= HEADER_LEN
            && let Some(value) = self.timers.take_ping(now)
        {
            out.push_inline(&Header::new(Kind::Ping, SYN, 0, value).encode());
        }
        while out.remaining() >= HEADER_LEN
            && let Some((id, code)) = self.resets.pop_front()
        {
            out.push_inline(&Header::new(Kind::WindowUpdate, RST, id, code).encode());
        }
        // A flood has made it long once.
        if self.resets.is_empty() && self.resets.capacity() > 1024 {
            self.resets = VecDeque::new();
        }
    }

    /// Acknowledgements that no data carries, and credit.
    fn put_control(&mut self, now: Instant, out: &mut TransmitBuf) {
        while out.remaining() >= HEADER_LEN
            && let Some(key) = self.control.pop_front()
        {
            let Some(stream) = get(&mut self.slots, key) else {
                continue;
            };
            stream.in_control = false;
            if stream.reset.is_some() {
                continue;
            }
            start_linger(
                stream,
                now,
                self.config.linger,
                &mut self.timers.scan_lingering,
            );
            let mut credit = stream.grantable();
            if credit > 0 && self.memory.withholds() {
                credit = 0;
                self.timers.retry_withheld = Some(now + RETRY_WITHHELD);
                // What the peer has used up of a grown window is not promised again.
                let kept = stream.recv_window.saturating_add(stream.recv.len() as u32);
                self.memory.ungrow(stream.shrink_window(kept));
            }
            if credit == 0 && (!stream.ack_pending || stream.has_turn()) {
                continue;
            }
            stream.recv_window += credit;
            let flags = stream.take_open_flags() | stream.take_fin_flag();
            out.push_inline(&Header::new(Kind::WindowUpdate, flags, key.id, credit).encode());
            if stream.fin_sent {
                start_linger(
                    stream,
                    now,
                    self.config.linger,
                    &mut self.timers.scan_lingering,
                );
                self.settle_end(key);
            }
        }
    }

    fn put_data(&mut self, now: Instant, out: &mut TransmitBuf) {
        while out.remaining() > HEADER_LEN
            && let Some((key, turn)) = self.schedule.next()
        {
            let limit = self.send_limit();
            let Some(stream) = get(&mut self.slots, key) else {
                continue;
            };
            if stream.turn != turn {
                continue;
            }
            if !stream.has_turn() {
                stream.turn = Turn::None;
                if !stream.send.is_empty() && stream.reset.is_none() {
                    block(
                        stream,
                        now,
                        self.config.write_deadline,
                        &mut self.timers.scan_writes,
                    );
                }
                continue;
            }
            let may = stream
                .send
                .len()
                .min(stream.send_window as usize)
                .min(MAX_PAYLOAD);
            let room = out.remaining() - HEADER_LEN;
            if room < may && room < MIN_CUT && !out.is_empty() {
                self.schedule.put_back(key, turn);
                return;
            }
            let count = may.min(room);
            let mut flags = stream.take_open_flags();
            // The end has a frame of its own, behind the data: go-yamux reads the flags of a frame before its payload,
            // and a reader that looks in between sees the end and never the data.
            let end = stream.fin_queued
                && stream.send.len() == count
                && (count == 0 || room - count >= HEADER_LEN);
            stream.fin_sent = end;
            if count > 0 {
                out.push_inline(&Header::new(Kind::Data, flags, key.id, count as u32).encode());
                stream.send.take(count, |part| out.push(part));
                flags = 0;
            }
            if end {
                flags |= FIN;
            }
            if count == 0 || end {
                out.push_inline(&Header::new(Kind::WindowUpdate, flags, key.id, 0).encode());
            }
            stream.send_window -= count as u32;
            self.memory.sent(count);
            if stream.was_full && stream.send.len() <= limit / 2 {
                Self::tell_writable(&mut self.events, key.slot, stream);
            }
            if stream.send.is_empty() {
                stream.send.shrink();
            } else if stream.send_window == 0 {
                block(
                    stream,
                    now,
                    self.config.write_deadline,
                    &mut self.timers.scan_writes,
                );
            }
            self.schedule.served(key, stream);
            if end {
                start_linger(
                    stream,
                    now,
                    self.config.linger,
                    &mut self.timers.scan_lingering,
                );
                self.settle_end(key);
            }
        }
    }
}

/// Notes that bytes wait for credit.
fn block(stream: &mut Stream, now: Instant, deadline: Duration, scan: &mut Option<Instant>) {
    if stream.blocked_since.is_none() {
        stream.blocked_since = Some(now);
        stream.blocked_credit = 0;
        scan.get_or_insert(now + deadline);
    }
}

/// Notes that only the peer keeps the stream open and nobody reads it.
fn start_linger(stream: &mut Stream, now: Instant, linger: Duration, scan: &mut Option<Instant>) {
    let lingers = stream.stopped.is_some()
        && stream.fin_sent
        && !stream.fin_received
        && stream.reset.is_none();
    if lingers && stream.linger_since.is_none() {
        stream.linger_since = Some(now);
        scan.get_or_insert(now + linger);
    }
}
