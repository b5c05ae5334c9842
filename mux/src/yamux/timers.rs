//! Round trips, keepalive and the deadlines of streams.

use std::time::{Duration, Instant};

use super::ids::Key;
use super::session::{Ended, Session};
use super::{GO_AWAY_PROTOCOL, RESET_GARBAGE_COLLECTED};
use crate::error::MuxError;

/// While data comes, the round trip is measured this often (as rust-yamux does).
const MEASURE_EVERY: Duration = Duration::from_secs(10);

/// The round trip is first measured when this much data came: before, no window is worth growing.
const MEASURE_AFTER: usize = 16 << 10;

/// The least round trip of the last one to two of these counts, so that queues of our own making do not.
const MINIMUM_OVER: Duration = Duration::from_secs(30);

/// Credit that was withheld for want of memory is tried again after this time.
pub(crate) const RETRY_WITHHELD: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ping {
    Idle,
    /// Asked for, not sent.
    Queued(Instant),
    /// Asked for at the first time, sent at the second.
    Sent(Instant, Instant),
}

#[derive(Debug)]
pub(crate) struct Timers {
    last_input: Instant,
    ping: Ping,
    /// Value of the ping that was asked for last.
    value: u32,
    /// The owner waits for the pong.
    wanted: bool,
    last_round_trip: Option<Duration>,
    least: [Option<Duration>; 2],
    least_since: Instant,
    measured: Option<Instant>,
    data_since: usize,
    pub(crate) scan_writes: Option<Instant>,
    pub(crate) scan_lingering: Option<Instant>,
    pub(crate) retry_withheld: Option<Instant>,
    /// When the peer began the header that is not complete.
    pub(crate) header_since: Option<Instant>,
    /// When the peer's allowance of aborted streams is whole again.
    aborts_until: Instant,
}

impl Timers {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            last_input: now,
            ping: Ping::Idle,
            value: 0,
            wanted: false,
            last_round_trip: None,
            least: [None; 2],
            least_since: now,
            measured: None,
            data_since: 0,
            scan_writes: None,
            scan_lingering: None,
            retry_withheld: None,
            header_since: None,
            aborts_until: now,
        }
    }

    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.last_round_trip
    }

    #[inline]
    pub(crate) fn min_round_trip(&self) -> Option<Duration> {
        match self.least {
            [Some(a), Some(b)] => Some(a.min(b)),
            [a, b] => a.or(b),
        }
    }

    /// Sends a ping unless one is on its way.
    fn ask(&mut self, now: Instant) {
        if self.ping == Ping::Idle {
            self.value = self.value.wrapping_add(1);
            self.ping = Ping::Queued(now);
        }
    }

    /// Sends a ping, or waits for one that is on its way, and tells its time.
    pub(crate) fn ask_for(&mut self, now: Instant) {
        self.wanted = true;
        self.ask(now);
    }

    pub(crate) fn has_ping(&self) -> bool {
        matches!(self.ping, Ping::Queued(_))
    }

    /// The value of a ping that is to be sent now.
    pub(crate) fn take_ping(&mut self, now: Instant) -> Option<u32> {
        let Ping::Queued(asked) = self.ping else {
            return None;
        };
        self.ping = Ping::Sent(asked, now);
        Some(self.value)
    }

    /// Takes a reply; one that nobody waits for is ignored. Returns the time to tell the owner.
    pub(crate) fn pong(&mut self, now: Instant, value: u32) -> Option<Duration> {
        let Ping::Sent(_, sent) = self.ping else {
            return None;
        };
        if value != self.value {
            return None;
        }
        self.ping = Ping::Idle;
        let sample = now.saturating_duration_since(sent);
        self.last_round_trip = Some(sample);
        self.measured = Some(now);
        self.data_since = 0;
        let [current, previous] = &mut self.least;
        if now.saturating_duration_since(self.least_since) >= MINIMUM_OVER {
            *previous = *current;
            *current = Some(sample);
            self.least_since = now;
        } else {
            *current = Some(current.map_or(sample, |least| least.min(sample)));
        }
        std::mem::take(&mut self.wanted).then_some(sample)
    }

    /// Notes that something came. True if the time has moved since the last.
    #[inline]
    pub(crate) fn input(&mut self, now: Instant) -> bool {
        std::mem::replace(&mut self.last_input, now) != now
    }

    /// Counts payload, which is what makes the round trip worth knowing.
    #[inline]
    pub(crate) fn data(&mut self, now: Instant, bytes: usize, patience: Duration) {
        self.data_since += bytes;
        if self.data_since < MEASURE_AFTER {
            return;
        }
        self.data_since = 0;
        match self.ping {
            Ping::Idle => {
                if self
                    .measured
                    .is_none_or(|at| now.saturating_duration_since(at) >= MEASURE_EVERY)
                {
                    self.ask(now);
                }
            }
            // A peer that sends data but no pong is alive; a later ping may fare better.
            Ping::Sent(asked, _) if now.saturating_duration_since(asked) >= patience => {
                self.ping = Ping::Idle;
                self.ask(now);
            }
            Ping::Queued(_) | Ping::Sent(..) => {}
        }
    }

    /// Counts a stream that was aborted. False if there are more than allowed.
    pub(crate) fn abort(&mut self, now: Instant, per_second: u32, burst: u32) -> bool {
        let one = Duration::from_secs(1) / per_second.max(1);
        self.aborts_until = self.aborts_until.max(now) + one;
        self.aborts_until.saturating_duration_since(now) <= one * burst
    }

    fn keepalive_at(&self, interval: Duration, timeout: Duration) -> Instant {
        match self.ping {
            Ping::Idle => self.last_input + interval,
            // The peer always has had the rest of the time to answer, even if we were not run for long.
            Ping::Queued(asked) | Ping::Sent(asked, _) => {
                (self.last_input + timeout).max(asked + timeout.saturating_sub(interval))
            }
        }
    }
}

impl Session {
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        if self.ended.is_some() {
            return None;
        }
        let timers = &self.timers;
        let keepalive = timers.keepalive_at(
            self.config.keepalive_interval,
            self.config.keepalive_timeout,
        );
        let others = [
            timers.scan_writes,
            timers.scan_lingering,
            timers.retry_withheld,
            self.header_due(),
        ];
        Some(others.into_iter().flatten().fold(keepalive, Instant::min))
    }

    fn header_due(&self) -> Option<Instant> {
        let since = self.timers.header_since?;
        Some(since + self.config.header_timeout)
    }

    pub(super) fn timeout(&mut self, now: Instant) -> Result<(), MuxError> {
        if let Some(Ended::Error(error)) = &self.ended {
            return Err(error.clone());
        }
        if self.ended.is_some() {
            return Ok(());
        }
        let (interval, limit) = (
            self.config.keepalive_interval,
            self.config.keepalive_timeout,
        );
        if now >= self.timers.keepalive_at(interval, limit) {
            if self.timers.ping != Ping::Idle {
                return Err(self.fail(MuxError::KeepaliveTimeout, None));
            }
            self.timers.ask(now);
        }
        if self.header_due().is_some_and(|at| now >= at) {
            return Err(self.fail(MuxError::SlowHeader, Some(GO_AWAY_PROTOCOL)));
        }
        if self.timers.scan_writes.is_some_and(|at| now >= at) {
            self.scan_writes(now);
        }
        if self.timers.scan_lingering.is_some_and(|at| now >= at) {
            self.scan_lingering(now);
        }
        if self.timers.retry_withheld.is_some_and(|at| now >= at) {
            self.timers.retry_withheld = None;
            for (slot, stream) in self.slots.iter_mut().enumerate() {
                if let Some(stream) = stream
                    .as_deref_mut()
                    .filter(|stream| stream.grantable() > 0)
                {
                    Self::queue_control(&mut self.control, slot as u32, stream);
                }
            }
        }
        Ok(())
    }

    /// Resets streams whose bytes have waited too long for credit, or for enough of it. All wait equally long, so one timer for the
    /// earliest is enough; it is looked up again only when it has run out.
    fn scan_writes(&mut self, now: Instant) {
        let deadline = self.config.write_deadline;
        self.timers.scan_writes = self.scan(now, RESET_GARBAGE_COLLECTED, |session, slot| {
            let stream = session.slots.get(slot)?.as_deref()?;
            stream.blocked_since.map(|since| since + deadline)
        });
    }

    /// Resets streams that only the peer keeps open although nobody reads them.
    fn scan_lingering(&mut self, now: Instant) {
        let linger = self.config.linger;
        self.timers.scan_lingering = self.scan(now, 0, |session, slot| {
            session
                .slots
                .get(slot)?
                .as_deref()?
                .linger_since
                .map(|since| since + linger)
        });
    }

    /// Resets each stream whose time has come and returns the earliest time of the others.
    fn scan(
        &mut self,
        now: Instant,
        code: u32,
        time_of: impl Fn(&Self, usize) -> Option<Instant>,
    ) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for slot in 0..self.slots.len() {
            let Some(at) = time_of(self, slot) else {
                continue;
            };
            if now < at {
                next = Some(next.map_or(at, |next| next.min(at)));
                continue;
            }
            let Some(stream) = self.slots.get(slot).and_then(Option::as_deref) else {
                continue;
            };
            let key = Key {
                slot: slot as u32,
                id: stream.id,
            };
            let code = stream
                .stopped
                .filter(|_| stream.linger_since.is_some())
                .unwrap_or(code);
            self.reset_and_tell(key, code);
        }
        next
    }

    /// Ends the session for an error; poll_transmit yields the GoAway.
    pub(super) fn fail(&mut self, error: MuxError, go_away: Option<u32>) -> MuxError {
        self.end(Ended::Error(error.clone()), go_away);
        error
    }

    pub(super) fn violation(&mut self, violation: crate::Violation) -> MuxError {
        self.fail(MuxError::Protocol(violation), Some(GO_AWAY_PROTOCOL))
    }
}
