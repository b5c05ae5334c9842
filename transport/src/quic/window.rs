//! The receive window of a QUIC connection: what the remote may send before it is read.
//!
//! It begins small and doubles while the application reads a quarter of it within a round trip, out of
//! the budget of the peer; when little is read for a while it is small again. While no stream is
//! open nothing can be unread, and the least window is not charged.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use barewire_base::{Budget, Reservation};
use parking_lot::Mutex;

/// The window a connection begins with: that of a stream over yamux.
pub(super) const LEAST: u32 = 256 * 1024;
/// The part of the window after which its size is looked at.
const PART: u32 = 4;
/// What waiting for a processor adds to a round trip.
const SLACK: Duration = Duration::from_millis(1);
/// Growing takes at most this part of the memory that is left.
const SHARE_OF_BUDGET: usize = 4;
/// A connection that reads less than a part of its window in this time has its window shrunk.
pub(super) const QUIET: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Window {
    least: u32,
    largest: u32,
    budget: Budget,
    /// Bytes read so far.
    read: AtomicU64,
    /// At so many the size is looked at.
    look_at: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    size: u32,
    /// The growth, and the least window if `charged`.
    held: Option<Reservation>,
    charged: bool,
    streams: usize,
    looked: Instant,
}

impl State {
    /// Charges so much more, if the budget has room for it.
    fn charge(&mut self, budget: &Budget, bytes: usize) -> bool {
        match &mut self.held {
            Some(held) => held.grow(bytes).is_ok(),
            none => {
                *none = budget.try_reserve(bytes).ok();
                none.is_some()
            }
        }
    }

    fn refund(&mut self, bytes: usize) {
        if let Some(held) = &mut self.held {
            held.shrink(bytes);
        }
    }
}

/// The window has another size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resized {
    pub(super) size: u32,
    /// It had its least size before.
    pub(super) first: bool,
}

impl Window {
    pub(super) fn new(budget: &Budget, largest: u32, now: Instant) -> Self {
        let least = LEAST.min(largest);
        Self {
            least,
            largest,
            read: AtomicU64::new(0),
            look_at: AtomicU64::new((least / PART).into()),
            state: Mutex::new(State {
                size: least,
                held: None,
                charged: false,
                streams: 0,
                looked: now,
            }),
            budget: budget.clone(),
        }
    }

    /// A stream has been opened.
    pub(super) fn stream_opened(&self) {
        let state = &mut *self.state.lock();
        state.streams += 1;
        if !state.charged {
            // Where the budget has no room the connection goes on with a window nobody counts.
            state.charged = state.charge(&self.budget, self.least as usize);
        }
    }

    /// A stream has ended.
    pub(super) fn stream_ended(&self) {
        let state = &mut *self.state.lock();
        state.streams = state.streams.saturating_sub(1);
        if state.streams == 0 && std::mem::take(&mut state.charged) {
            state.refund(self.least as usize);
        }
    }

    /// The application has read some bytes. Returns the size if the window has grown.
    pub(super) fn read(
        &self,
        bytes: usize,
        now: impl FnOnce() -> Instant,
        rtt: impl FnOnce() -> Duration,
    ) -> Option<Resized> {
        let bytes = bytes as u64;
        let total = self.read.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if total < self.look_at.load(Ordering::Relaxed) {
            return None;
        }
        let state = &mut *self.state.lock();
        let now = now();
        let took = now.saturating_duration_since(state.looked);
        state.looked = now;
        let before = state.size;
        let size = before.saturating_mul(2).min(self.largest);
        let more = (size - before) as usize;
        let grows = more > 0
            && took <= rtt() + SLACK
            && more <= self.budget.available() / SHARE_OF_BUDGET
            && state.charge(&self.budget, more);
        if grows {
            state.size = size;
        }
        self.look_again(total, state.size);
        grows.then_some(Resized {
            size,
            first: before == self.least,
        })
    }

    /// Bytes read so far.
    pub(super) fn total(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// [`QUIET`] ago `before` bytes had been read. Returns the size if the window has shrunk.
    pub(super) fn shrink_if_quiet(&self, before: u64) -> Option<u32> {
        let state = &mut *self.state.lock();
        let total = self.total();
        if total.saturating_sub(before) >= (state.size / PART).into() {
            return None;
        }
        state.refund((state.size - self.least) as usize);
        state.size = self.least;
        self.look_again(total, self.least);
        Some(self.least)
    }

    fn look_again(&self, total: u64, size: u32) {
        let next = total + u64::from(size / PART).max(1);
        self.look_at.store(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const RTT: Duration = Duration::from_millis(60);
    const LARGEST: u32 = 16 << 20;

    struct Reader {
        window: Window,
        now: Instant,
    }

    impl Reader {
        fn new(budget: &Budget) -> Self {
            let now = Instant::now();
            let window = Window::new(budget, LARGEST, now);
            Self { window, now }
        }

        /// Reads so many bytes per round trip for a number of them; the largest window then.
        fn reads(&mut self, bytes: usize, rounds: u32) -> Option<u32> {
            let mut size = None;
            for _ in 0..rounds * 60 {
                self.now += RTT / 60;
                let resized = self.window.read(bytes / 60, || self.now, || RTT);
                size = resized.map(|resized| resized.size).or(size);
            }
            size
        }
    }

    #[test]
    fn a_window_follows_what_is_read() {
        let budget = Budget::root(256 << 20);
        let mut reader = Reader::new(&budget);
        reader.window.stream_opened();
        assert_eq!(budget.used(), LEAST as usize);
        assert_eq!(reader.reads(30_000, 50), None, "half a MiB/s needs no more");
        // 200 MiB/s over 60 ms. The sender doubles its rate each round trip.
        let mut sent = 16 << 10;
        for _ in 0..10 {
            reader.reads(sent, 1);
            sent *= 2;
            let window = budget.used();
            assert!(
                window >= sent.min(LARGEST as usize) || sent < LEAST as usize,
                "{sent}"
            );
        }
        assert_eq!(budget.used(), LARGEST as usize);
        let before = reader.window.total();
        reader.reads(LARGEST as usize, 1);
        assert_eq!(reader.window.shrink_if_quiet(before), None);
        let before = reader.window.total();
        assert_eq!(reader.window.shrink_if_quiet(before), Some(LEAST));
        assert_eq!(budget.used(), LEAST as usize);
        reader.window.stream_ended();
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn no_window_is_larger_than_the_budget_of_its_peer() {
        let budget = Budget::root(8 << 20);
        let mut readers: Vec<_> = (0..8).map(|_| Reader::new(&budget)).collect();
        for reader in &mut readers {
            reader.window.stream_opened();
            reader.reads(8 << 20, 20);
            assert!(budget.used() <= 8 << 20);
        }
        assert!(budget.available() < 3 << 20, "they took what there was");
        // Even without any.
        let _rest = budget.try_reserve(budget.available()).unwrap();
        let mut late = Reader::new(&budget);
        late.window.stream_opened();
        assert_eq!(late.reads(8 << 20, 20), None);
        late.window.stream_ended();
        drop(readers);
        drop(late);
        assert_eq!(budget.used(), budget.limit() - budget.available());
    }

    #[test]
    fn idle_connections_take_nothing() {
        let budget = Budget::root(1 << 20);
        let held: Vec<_> = (0..1_000).map(|_| Reader::new(&budget)).collect();
        for reader in &held {
            reader.window.stream_opened();
            reader.window.stream_ended();
        }
        assert_eq!(budget.used(), 0);
    }
}
