//! When memory is short, and what to do about it: refuse newcomers, then close who holds most.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Memory is short from this share of the limit on, in percent.
const SHORT: u64 = 80;
/// And enough again below this.
const ENOUGH: u64 = 75;
/// From this share on it is looked at more often.
const CLOSE: u64 = 60;
/// How long refusing newcomers may take to help before connections are closed.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long an allocator may take to give back what was freed.
const RELIEF: Duration = Duration::from_secs(10);
/// Time between looks.
const CALM: Duration = Duration::from_millis(500);
const ALERT: Duration = Duration::from_millis(100);

/// Follows the use of memory; looks at nothing by itself.
#[derive(Debug, Default)]
pub struct MemoryWatch {
    short_since: Option<Instant>,
    /// Bytes that were freed and have not been given back for all we know, and when they were.
    freed: VecDeque<(Instant, u64)>,
    /// In use at the last look.
    used: u64,
    /// The least in use since something was freed.
    least: u64,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Nobody new may come in.
    pub short: bool,
    /// So many bytes should be freed by closing connections.
    pub free: u64,
    /// When to look again.
    pub next: Duration,
}

impl MemoryWatch {
    /// `used` bytes of `limit` are in use.
    pub fn observe(&mut self, now: Instant, used: u64, limit: u64) -> Step {
        let share = |percent: u64| limit / 100 * percent;
        while self
            .freed
            .front()
            .is_some_and(|(at, _)| *at + RELIEF <= now)
        {
            self.freed.pop_front();
        }
        if used >= share(SHORT) {
            self.short_since.get_or_insert(now);
        } else if used < share(ENOUGH) {
            self.short_since = None;
        }
        self.used = used;
        let mut back = self.least.saturating_sub(used);
        self.least = self.least.min(used);
        for (_, bytes) in &mut self.freed {
            let of_this = back.min(*bytes);
            *bytes -= of_this;
            back -= of_this;
        }
        let freed = self
            .freed
            .iter()
            .fold(0, |sum: u64, (_, bytes)| sum.saturating_add(*bytes));
        let patient = self.short_since.is_none_or(|since| now < since + PATIENCE);
        let held = used.saturating_sub(freed);
        Step {
            short: self.short_since.is_some(),
            free: if patient || held < share(SHORT) {
                0
            } else {
                held - share(ENOUGH)
            },
            next: if used >= share(CLOSE) { ALERT } else { CALM },
        }
    }

    /// The use of memory could not be read: nothing changes until the next look.
    pub fn unread(&self) -> Step {
        Step {
            short: self.short_since.is_some(),
            free: 0,
            next: CALM,
        }
    }

    /// Connections that held this much were closed after the last look. The allocator needs a while
    /// to give it back; what it still keeps is taken for free for 10 s.
    pub fn freed(&mut self, now: Instant, bytes: u64) {
        self.least = self.used;
        self.freed.push_back((now, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_first_and_closes_what_is_needed_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut watch = MemoryWatch::default();
        let calm = watch.observe(at(0), 500, 1_000);
        assert_eq!((calm.short, calm.free, calm.next), (false, 0, CALM));
        let near = watch.observe(at(1), 799, 1_000);
        assert_eq!((near.short, near.free, near.next), (false, 0, ALERT));
        let short = watch.observe(at(2), 800, 1_000);
        assert_eq!((short.short, short.free), (true, 0));
        // Refusing did not help.
        let short = watch.observe(at(502), 820, 1_000);
        assert_eq!((short.short, short.free), (true, 70));
        watch.freed(at(502), 70);
        // The allocator still holds it.
        assert_eq!(watch.observe(at(602), 820, 1_000).free, 0);
        // More has come meanwhile.
        assert_eq!(watch.observe(at(702), 900, 1_000).free, 80);
        // It never was given back.
        assert_eq!(watch.observe(at(10_502), 820, 1_000).free, 70);
        let between = watch.observe(at(10_600), 760, 1_000);
        assert_eq!((between.short, between.free), (true, 0));
        assert!(!watch.observe(at(10_700), 740, 1_000).short);
    }

    #[test]
    fn what_was_given_back_is_no_relief_any_more() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut watch = MemoryWatch::default();
        watch.observe(at(0), 900, 1_000);
        assert_eq!(watch.observe(at(500), 900, 1_000).free, 150);
        watch.freed(at(500), 100);
        watch.freed(at(500), 50);
        // Some of it has come back.
        assert_eq!(watch.observe(at(600), 830, 1_000).free, 0);
        // All has, and then somebody takes as much again.
        assert_eq!(watch.observe(at(700), 750, 1_000).free, 0);
        assert_eq!(watch.observe(at(800), 850, 1_000).free, 100);
    }

    #[test]
    fn no_number_is_too_large() {
        let mut watch = MemoryWatch::default();
        let now = Instant::now();
        watch.freed(now, u64::MAX);
        watch.freed(now, u64::MAX);
        assert_eq!(watch.observe(now, u64::MAX, u64::MAX).free, 0);
        assert!(watch.observe(now, 0, 0).short);
    }
}
