//! The owner's calls.

use std::time::{Duration, Instant};

use barewire_base::TransmitBuf;
use bytes::Bytes;

use super::input::MANY_RESETS;
use super::memory::Memory;
use super::session::{Ended, Session, get};
use super::stream::Stream;
use crate::error::{MuxError, OpenError, WriteError};
use crate::muxer::{Compact, Event, LimitsHit, ReadOutcome, StreamCounts, StreamId, StreamMuxer};

impl StreamMuxer for Session {
    fn handle_input(&mut self, now: Instant, input: Bytes) -> Result<(), MuxError> {
        self.input(now, input)
    }

    fn open_stream(&mut self, _now: Instant) -> Result<StreamId, OpenError> {
        if self.ended.is_some() {
            return Err(OpenError::Closed);
        }
        let id = u32::try_from(self.next_id).map_err(|_| OpenError::IdsExhausted)?;
        if !self.can_open() {
            self.want_open = true;
            return Err(OpenError::TooMany);
        }
        self.next_id += 2;
        self.insert(Stream::new(id, false));
        // Ours are counted, but not refused for want of memory: the owner asked for it.
        self.memory.open();
        self.counts.outbound += 1;
        self.unacked += 1;
        Ok(StreamId(id))
    }

    fn flush_open(&mut self, id: StreamId) {
        let Some(key) = self.seek(id.0) else { return };
        let Some(stream) = get(&mut self.slots, key) else {
            return;
        };
        stream.flush_open = true;
        self.schedule.wake(key.slot, stream);
    }

    fn accepted(&mut self, id: StreamId) {
        let Some(key) = self.seek(id.0) else { return };
        let Some(stream) = get(&mut self.slots, key) else {
            return;
        };
        if stream.inbound && !stream.accepted {
            stream.accepted = true;
            self.pending -= usize::from(stream.live);
        }
    }

    fn poll_event(&mut self) -> Option<Event> {
        if let Some(code) = self.go_away_event.take() {
            return Some(Event::GoAway(code));
        }
        if let Some(rtt) = self.pong_event.take() {
            return Some(Event::Pong(rtt));
        }
        if std::mem::take(&mut self.can_open_event) {
            return Some(Event::CanOpen);
        }
        while let Some(key) = self.events.front().copied() {
            if let Some(stream) = get(&mut self.slots, key) {
                let id = StreamId(key.id);
                if !stream.handed_out {
                    stream.handed_out = true;
                    return Some(Event::Incoming(id));
                }
                if std::mem::take(&mut stream.tell_readable) {
                    return Some(Event::Readable(id));
                }
                if std::mem::take(&mut stream.tell_writable) {
                    return Some(Event::Writable(id));
                }
                stream.in_events = false;
            }
            self.events.pop_front();
        }
        None
    }

    fn read(&mut self, now: Instant, id: StreamId, max: usize) -> ReadOutcome {
        let Some(key) = self.seek(id.0) else {
            return ReadOutcome::Reset(0);
        };
        let Some(stream) = get(&mut self.slots, key) else {
            return ReadOutcome::Reset(0);
        };
        if let Some(code) = stream.reset.or(stream.stopped) {
            return ReadOutcome::Reset(code);
        }
        if max == 0 {
            return ReadOutcome::Pending;
        }
        let Some(chunk) = stream.recv.pop(max) else {
            if stream.fin_received {
                return ReadOutcome::Finished;
            }
            if self.ended.is_some() {
                return ReadOutcome::Reset(0);
            }
            stream.read_armed = true;
            return ReadOutcome::Pending;
        };
        self.memory.release(chunk.len());
        if !stream.fin_received && self.ended.is_none() {
            if let Some(wanted) = stream.measure(now, chunk.len(), self.timers.min_round_trip()) {
                let more = wanted
                    .min(self.config.max_stream_window)
                    .saturating_sub(stream.max_window);
                if more > 0 {
                    grow(stream, &mut self.memory, more);
                }
            }
            if stream.grantable() > 0 {
                Self::queue_control(&mut self.control, key.slot, stream);
            }
        }
        ReadOutcome::Chunk(chunk)
    }

    fn write(&mut self, id: StreamId, data: Bytes) -> Result<(), WriteError> {
        self.enqueue(id, |stream, _| stream.send.push(data))
    }

    fn write_copy(&mut self, id: StreamId, data: &[u8]) -> Result<usize, WriteError> {
        self.enqueue(id, |stream, room| {
            let taken = data.get(..room).unwrap_or(data);
            stream.send.push_copy(taken);
            taken.len()
        })
    }

    fn send_capacity(&mut self, id: StreamId) -> Result<usize, WriteError> {
        let (key, _) = self.writable(id)?;
        let limit = self.send_limit();
        let Some(stream) = get(&mut self.slots, key) else {
            return Err(WriteError::Unknown);
        };
        let room = limit.saturating_sub(stream.send.len());
        stream.was_full |= room == 0;
        Ok(room)
    }

    fn finish(&mut self, id: StreamId) -> Result<(), WriteError> {
        let (key, _) = self.writable(id)?;
        if let Some(stream) = get(&mut self.slots, key) {
            stream.fin_queued = true;
            self.schedule.wake(key.slot, stream);
        }
        Ok(())
    }

    fn reset(&mut self, id: StreamId, code: u32) {
        if let Some(key) = self.seek(id.0) {
            self.reset_and_tell(key, code);
        }
    }

    fn stop(&mut self, id: StreamId, code: u32) {
        if let Some(key) = self.seek(id.0) {
            self.stop_reading(key, code);
        }
    }

    fn release(&mut self, id: StreamId) {
        let Some(key) = self.seek(id.0) else { return };
        let Some(stream) = get(&mut self.slots, key) else {
            return;
        };
        stream.released = true;
        if self.ended.is_some() {
            self.remove(key);
            return;
        }
        if !stream.fin_queued {
            self.reset_and_tell(key, 0);
        }
        self.stop_reading(key, 0);
        self.settle_end(key);
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut TransmitBuf) -> bool {
        self.output(now, out)
    }

    fn wants_input(&self) -> bool {
        self.resets.len() < MANY_RESETS
    }

    fn wants_transmit(&self) -> bool {
        if self.ended.is_some() {
            return self.go_away.is_some();
        }
        !self.schedule.is_empty()
            || !self.control.is_empty()
            || !self.pongs.is_empty()
            || !self.resets.is_empty()
            || self.timers.has_ping()
    }

    fn compact(&mut self, which: Compact) {
        if self.memory.buffered == 0 && self.memory.queued == 0 {
            return;
        }
        for stream in self.slots.iter_mut().flatten() {
            let copied = stream.recv.compact(which) + stream.send.compact(which);
            self.copied += copied as u64;
        }
    }

    fn held(&self) -> usize {
        self.memory.buffered + self.memory.queued
    }

    fn bytes_copied(&self) -> u64 {
        self.copied
    }

    fn ping(&mut self, now: Instant) {
        if self.ended.is_none() {
            self.timers.ask_for(now);
        }
    }

    fn close(&mut self, code: u32) {
        self.end(Ended::Us, Some(code));
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.next_timeout()
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), MuxError> {
        self.timeout(now)
    }

    fn rtt(&self) -> Option<Duration> {
        self.timers.round_trip()
    }

    fn stream_counts(&self) -> StreamCounts {
        self.counts
    }

    fn limits_hit(&self) -> LimitsHit {
        self.limits_hit
    }

    fn buffered(&self) -> usize {
        self.memory.buffered
    }

    fn queued(&self) -> usize {
        let streams = self.slots.iter().flatten();
        streams
            .filter(|stream| stream.reset.is_none())
            .map(|stream| stream.send.len() + usize::from(stream.fin_queued && !stream.fin_sent))
            .sum()
    }

    fn is_closed(&self) -> bool {
        self.ended.is_some()
    }

    fn fattest_stream(&self) -> Option<(StreamId, usize)> {
        let streams = self.slots.iter().flatten();
        // The first of equals, so that the choice does not depend on anything but the slots.
        let fattest = streams.rev().max_by_key(|stream| stream.held())?;
        (fattest.held() > 0).then(|| (StreamId(fattest.id), fattest.held()))
    }
}

/// Raises a stream's window by `more`, or by what the budget has left for it.
fn grow(stream: &mut Stream, memory: &mut Memory, more: u32) {
    let more = more as usize;
    if memory.grow(more) {
        stream.max_window += more as u32;
        return;
    }
    let left = memory.available().min(more);
    // Less than an eighth more is not worth the charge.
    if left >= stream.max_window as usize / 8 && memory.grow(left) {
        stream.max_window += left as u32;
    }
}
