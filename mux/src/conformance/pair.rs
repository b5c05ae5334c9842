//! Two sessions and the wires between them, under a clock that only this file moves.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use barewire_base::TransmitBuf;
use bytes::{Bytes, BytesMut};

use crate::{Event, MuxError, StreamMuxer};

/// One direction of a connection.
#[derive(Debug)]
pub struct Wire {
    /// One-way delay.
    pub latency: Duration,
    /// Bytes per second, `None` for as many as are offered.
    pub bandwidth: Option<u64>,
    /// Bytes that wait to be put on the wire (a socket's buffer) before the sender is not asked for more.
    pub backlog: u64,
    /// Input is cut into pieces of at most this many bytes.
    pub fragment: usize,
    /// Nothing gets through: bytes are swallowed.
    pub cut: bool,
    /// The sender is not asked for anything.
    pub stalled: bool,
    /// Bytes that were sent.
    pub bytes: u64,
    free_at: Instant,
    on_the_way: VecDeque<(Instant, Bytes)>,
}

impl Wire {
    fn new(now: Instant) -> Self {
        Self {
            latency: Duration::ZERO,
            bandwidth: None,
            backlog: 128 << 10,
            fragment: usize::MAX,
            cut: false,
            stalled: false,
            bytes: 0,
            free_at: now,
            on_the_way: VecDeque::new(),
        }
    }

    fn time_of(&self, bytes: u64) -> Duration {
        self.bandwidth.map_or(Duration::ZERO, |rate| {
            Duration::from_nanos(
                (u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1))) as u64,
            )
        })
    }

    /// When the sender may be asked again.
    fn ready_at(&self) -> Instant {
        self.free_at
            .checked_sub(self.time_of(self.backlog))
            .unwrap_or(self.free_at)
    }

    fn send(&mut self, now: Instant, bytes: Bytes) {
        self.bytes += bytes.len() as u64;
        if self.cut {
            return;
        }
        self.free_at = self.free_at.max(now) + self.time_of(bytes.len() as u64);
        self.on_the_way
            .push_back((self.free_at + self.latency, bytes));
    }
}

/// A client and a server session.
pub struct Pair<A, B> {
    /// The session with [`Role::Client`](crate::Role::Client).
    pub client: A,
    /// The session with [`Role::Server`](crate::Role::Server).
    pub server: B,
    /// From client to server.
    pub up: Wire,
    /// From server to client.
    pub down: Wire,
    /// How the client ended, if by an error.
    pub client_error: Option<MuxError>,
    /// How the server ended, if by an error.
    pub server_error: Option<MuxError>,
    /// The time.
    pub now: Instant,
    out: TransmitBuf,
}

/// Largest plaintext of a Noise record.
pub const RECORD: usize = 65_519;

impl<A: StreamMuxer, B: StreamMuxer> Pair<A, B> {
    /// A pair without delay, at a time from which the clock then moves.
    pub fn new(client: A, server: B, now: Instant) -> Self {
        Self {
            client,
            server,
            up: Wire::new(now),
            down: Wire::new(now),
            client_error: None,
            server_error: None,
            now,
            out: TransmitBuf::new(RECORD),
        }
    }

    /// Sets both directions' delay (half of `round_trip`) and bandwidth.
    pub fn with_path(mut self, round_trip: Duration, bandwidth: Option<u64>) -> Self {
        for wire in [&mut self.up, &mut self.down] {
            wire.latency = round_trip / 2;
            wire.bandwidth = bandwidth;
        }
        self
    }

    /// Cuts all input into pieces of at most `bytes`.
    pub fn with_fragments(mut self, bytes: usize) -> Self {
        self.up.fragment = bytes;
        self.down.fragment = bytes;
        self
    }

    /// Asks both for what they have to send.
    pub fn flush(&mut self) {
        pump(&mut self.client, &mut self.up, &mut self.out, self.now);
        pump(&mut self.server, &mut self.down, &mut self.out, self.now);
    }

    /// Sends what there is, then moves the clock to the next thing that happens and lets it happen. False if nothing
    /// will happen any more, or not before `until`, where the clock then stands.
    pub fn step(&mut self, until: Instant) -> bool {
        self.flush();
        let mut next: Option<Instant> = None;
        let mut consider = |at: Option<Instant>| {
            if let Some(at) = at {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        };
        for wire in [&self.up, &self.down] {
            consider(wire.on_the_way.front().map(|front| front.0));
            if wire.ready_at() > self.now && !wire.stalled {
                consider(Some(wire.ready_at()));
            }
        }
        consider(self.client.poll_timeout());
        consider(self.server.poll_timeout());
        let next = match next {
            Some(next) if next <= until => next,
            _ => {
                self.now = self.now.max(until);
                return false;
            }
        };
        self.now = self.now.max(next);
        deliver(
            &mut self.server,
            &mut self.up,
            self.now,
            &mut self.server_error,
        );
        deliver(
            &mut self.client,
            &mut self.down,
            self.now,
            &mut self.client_error,
        );
        if self.client.poll_timeout().is_some_and(|at| at <= self.now)
            && let Err(error) = self.client.handle_timeout(self.now)
        {
            self.client_error.get_or_insert(error);
        }
        if self.server.poll_timeout().is_some_and(|at| at <= self.now)
            && let Err(error) = self.server.handle_timeout(self.now)
        {
            self.server_error.get_or_insert(error);
        }
        true
    }

    /// Steps until nothing is on the way, but no further than `limit` from now.
    pub fn settle(&mut self, limit: Duration) {
        let until = self.now + limit;
        loop {
            self.flush();
            let quiet = self.up.on_the_way.is_empty() && self.down.on_the_way.is_empty();
            let blocked = [&self.up, &self.down]
                .iter()
                .any(|w| w.ready_at() > self.now && !w.stalled);
            if (quiet && !blocked) || !self.step(until) {
                return;
            }
        }
    }

    /// Moves the clock by `time` and does what falls due on the way.
    pub fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
    }

    /// All events of the client.
    pub fn client_events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.client.poll_event()).collect()
    }

    /// All events of the server.
    pub fn server_events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.server.poll_event()).collect()
    }
}

/// One record from `muxer`, or `None` if it has nothing to send.
pub fn transmit(
    muxer: &mut impl StreamMuxer,
    now: Instant,
    out: &mut TransmitBuf,
) -> Option<Bytes> {
    out.clear();
    if !muxer.poll_transmit(now, out) {
        return None;
    }
    assert!(out.len() <= out.limit(), "a record of {} bytes", out.len());
    let mut record = BytesMut::with_capacity(out.len());
    for part in out.parts() {
        record.extend_from_slice(part);
    }
    Some(record.freeze())
}

fn pump(muxer: &mut impl StreamMuxer, wire: &mut Wire, out: &mut TransmitBuf, now: Instant) {
    while !wire.stalled && wire.ready_at() <= now {
        let Some(record) = transmit(muxer, now, out) else {
            return;
        };
        wire.send(now, record);
    }
}

fn deliver(
    muxer: &mut impl StreamMuxer,
    wire: &mut Wire,
    now: Instant,
    error: &mut Option<MuxError>,
) {
    while wire.on_the_way.front().is_some_and(|front| front.0 <= now) {
        let Some((_, mut bytes)) = wire.on_the_way.pop_front() else {
            return;
        };
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(wire.fragment));
            if let Err(e) = muxer.handle_input(now, piece) {
                error.get_or_insert(e);
                return;
            }
        }
    }
}
