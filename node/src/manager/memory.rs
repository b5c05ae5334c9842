//! When memory is short, and what to do about it: refuse newcomers, then close who holds most.
//!
//! That helps only if connections hold the memory. If others do, as other programs in the same
//! control group, sending peers away would change nothing, and they are served.

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
/// Closing connections helps if those that may be closed hold this share of the limit.
const WORTHWHILE: u64 = 5;
/// From this share on connections are closed without waiting.
const CRITICAL: u64 = 90;
/// How long refusing newcomers may take to help before connections are closed.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long an allocator may take to give back what was freed.
const RELIEF: Duration = Duration::from_secs(10);
/// Time between requests to give freed memory back.
const RECLAIM: Duration = Duration::from_millis(200);
/// Time between looks.
const CALM: Duration = Duration::from_millis(500);
const ALERT: Duration = Duration::from_millis(100);

/// Follows the use of memory; looks at nothing by itself.
#[derive(Debug, Default)]
pub struct MemoryWatch {
    short_since: Option<Instant>,
    /// Closing connections would not have helped since then.
    helpless: bool,
    last_reclaim: Option<Instant>,
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
    /// Memory is short since the last look, and not because of connections: nobody is refused.
    pub helpless: bool,
    /// What was freed should be given back to the system.
    pub reclaim: bool,
    /// When to look again.
    pub next: Duration,
}

impl MemoryWatch {
    /// `used` bytes of `limit` are in use. `closable` says how many of them the connections hold that
    /// may be closed; it is asked only while memory is short.
    pub fn observe(
        &mut self,
        now: Instant,
        used: u64,
        limit: u64,
        closable: impl FnOnce() -> u64,
    ) -> Step {
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
        let full = self.short_since.is_some();
        let helps = full && closable() >= share(WORTHWHILE);
        let was_helpless = self.helpless;
        self.helpless = full && (was_helpless || !helps);
        let reclaim = full && self.last_reclaim.is_none_or(|last| now >= last + RECLAIM);
        if reclaim {
            self.last_reclaim = Some(now);
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
        let patient =
            used < share(CRITICAL) && self.short_since.is_none_or(|since| now < since + PATIENCE);
        let held = used.saturating_sub(freed);
        Step {
            short: helps,
            free: if !helps || patient || held < share(SHORT) {
                0
            } else {
                held - share(ENOUGH)
            },
            helpless: self.helpless && !was_helpless,
            reclaim,
            next: if used >= share(CLOSE) { ALERT } else { CALM },
        }
    }

    /// The use of memory could not be read: it stays `short` or not until the next look.
    pub fn unread(&self, short: bool) -> Step {
        Step {
            short,
            free: 0,
            helpless: false,
            reclaim: false,
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

    /// Connections hold all that is used.
    fn observe(watch: &mut MemoryWatch, now: Instant, used: u64, limit: u64) -> Step {
        watch.observe(now, used, limit, || used)
    }

    #[test]
    fn refuses_first_and_closes_what_is_needed_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut watch = MemoryWatch::default();
        let calm = observe(&mut watch, at(0), 500, 1_000);
        assert_eq!((calm.short, calm.free, calm.next), (false, 0, CALM));
        let near = observe(&mut watch, at(1), 799, 1_000);
        assert_eq!((near.short, near.free, near.next), (false, 0, ALERT));
        let short = observe(&mut watch, at(2), 800, 1_000);
        assert_eq!((short.short, short.free), (true, 0));
        // Refusing did not help.
        let short = observe(&mut watch, at(502), 820, 1_000);
        assert_eq!((short.short, short.free), (true, 70));
        watch.freed(at(502), 70);
        // The allocator still holds it.
        assert_eq!(observe(&mut watch, at(602), 820, 1_000).free, 0);
        // More has come meanwhile.
        assert_eq!(observe(&mut watch, at(702), 900, 1_000).free, 80);
        // It never was given back.
        assert_eq!(observe(&mut watch, at(10_502), 820, 1_000).free, 70);
        let between = observe(&mut watch, at(10_600), 760, 1_000);
        assert_eq!((between.short, between.free), (true, 0));
        assert!(!observe(&mut watch, at(10_700), 740, 1_000).short);
    }

    #[test]
    fn what_was_given_back_is_no_relief_any_more() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut watch = MemoryWatch::default();
        assert_eq!(observe(&mut watch, at(0), 890, 1_000).free, 0);
        assert_eq!(observe(&mut watch, at(500), 900, 1_000).free, 150);
        watch.freed(at(500), 100);
        watch.freed(at(500), 50);
        // Some of it has come back.
        assert_eq!(observe(&mut watch, at(600), 830, 1_000).free, 0);
        // All has, and then somebody takes as much again.
        assert_eq!(observe(&mut watch, at(700), 750, 1_000).free, 0);
        assert_eq!(observe(&mut watch, at(800), 850, 1_000).free, 100);
    }

    #[test]
    fn what_connections_do_not_hold_is_no_reason_to_refuse_them() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut watch = MemoryWatch::default();
        let others = watch.observe(at(0), 900, 1_000, || 49);
        assert_eq!((others.short, others.free), (false, 0));
        assert!(others.helpless && others.reclaim);
        let still = watch.observe(at(100), 900, 1_000, || 49);
        assert!(!still.helpless && !still.reclaim, "it is told once");
        assert!(watch.observe(at(200), 900, 1_000, || 49).reclaim);
        // Now they do hold some.
        let ours = watch.observe(at(1_100), 900, 1_000, || 50);
        assert_eq!((ours.short, ours.free), (true, 150));
        assert!(!watch.observe(at(1_200), 700, 1_000, || 0).helpless);
        assert!(watch.observe(at(1_300), 900, 1_000, || 0).helpless);
    }

    #[test]
    fn no_number_is_too_large() {
        let mut watch = MemoryWatch::default();
        let now = Instant::now();
        watch.freed(now, u64::MAX);
        watch.freed(now, u64::MAX);
        assert_eq!(observe(&mut watch, now, u64::MAX, u64::MAX).free, 0);
        assert!(observe(&mut watch, now, 0, 0).short);
    }
}
