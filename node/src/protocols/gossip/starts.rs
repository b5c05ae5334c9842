//! How often a stream may begin anew on a connection.
//!
//! go forgets a peer for ten minutes whose streams ended four times in a row, rust disables pubsub on a connection for good after
//! the fifth stream of a direction. So four restarts are all that make sense.

use std::time::{Duration, Instant};

/// Streams after the first, on one connection.
const MAX_RESTARTS: u32 = 4;
/// After the first restart, which comes at once; doubled each time.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// Longest delay.
const MAX_DELAY: Duration = Duration::from_secs(10);
/// Inbound streams after the first that a peer may open on a connection in [`INBOUND_WINDOW`].
const MAX_INBOUND: u32 = 8;
const INBOUND_WINDOW: Duration = Duration::from_secs(600);

/// Restarts of the outgoing stream to one peer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Restarts(u32);

impl Restarts {
    /// The stream ended, or could not be opened: how long to wait, `None` to give the connection up. `random` is of 0 to 1.
    pub(super) fn next(&mut self, random: f64) -> Option<Duration> {
        self.0 += 1;
        match self.0 {
            1 => Some(Duration::ZERO),
            n if n <= MAX_RESTARTS => {
                let delay = FIRST_DELAY.saturating_mul(1 << (n - 2)).min(MAX_DELAY);
                Some(delay + delay.mul_f64(random / 2.0))
            }
            _ => None,
        }
    }

    /// There is another connection.
    pub(super) fn reset(&mut self) {
        self.0 = 0;
    }
}

/// Inbound streams of one peer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Arrivals {
    since: Option<Instant>,
    count: u32,
}

impl Arrivals {
    /// Whether one more stream is taken.
    pub(super) fn allow(&mut self, now: Instant) -> bool {
        if self
            .since
            .is_none_or(|since| now.duration_since(since) > INBOUND_WINDOW)
        {
            (self.since, self.count) = (Some(now), 0);
        }
        self.count += 1;
        self.count <= MAX_INBOUND + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_restarts_with_growing_delays() {
        let mut restarts = Restarts::default();
        let delays: Vec<_> = (0..6).map(|_| restarts.next(0.0)).collect();
        let ms = |n| Some(Duration::from_millis(n));
        assert_eq!(delays, [ms(0), ms(100), ms(200), ms(400), None, None]);
        restarts.reset();
        assert_eq!(restarts.next(1.0), ms(0));
        assert_eq!(restarts.next(1.0), ms(150));
    }

    #[test]
    fn a_peer_cannot_open_streams_for_ever() {
        let mut arrivals = Arrivals::default();
        let start = Instant::now();
        assert!((0..9).all(|_| arrivals.allow(start)));
        assert!(!arrivals.allow(start));
        assert!(arrivals.allow(start + INBOUND_WINDOW + Duration::from_secs(1)));
    }
}
