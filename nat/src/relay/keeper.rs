//! Which relays a client asks for a reservation, and when.
//!
//! It holds a few at once, so that when one relay goes another is reserved already. A reservation is renewed long before it ends. When
//! a relay is lost its address stays for as long as asking it anew may help: a relay that restarts takes its clients back within
//! seconds, and who knows the address finds the client there again.

use std::time::{Duration, Instant};

/// Settings of a [`Keeper`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct KeeperConfig {
    /// Relays to have reservations at, the first of which that answer. Default 2, as go-libp2p: one and a warm second.
    pub wanted: usize,
    /// What part of a reservation's time passes before it is renewed. Default ¾, as rust-libp2p.
    pub renew_after: f64,
    /// Attempts at a relay that was lost before its address is given up. Default 4 (own choice: with the pauses between them about
    /// 7 s, in which a restarted process is back).
    pub attempts: u32,
    /// First pause after a failure; doubles from there. Default 1 s (own choice).
    pub min_pause: Duration,
    /// Longest pause after a failure, and the one after a refusal. Default 5 minutes (own choice; go-libp2p waits an hour).
    pub max_pause: Duration,
}

impl Default for KeeperConfig {
    fn default() -> Self {
        Self {
            wanted: 2,
            renew_after: 0.75,
            attempts: 4,
            min_pause: Duration::from_secs(1),
            max_pause: Duration::from_secs(300),
        }
    }
}

/// Why a relay gave no reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It said no.
    Refused,
    /// It was not reached, or made no sense.
    Unreachable,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask this relay for a reservation, or for another in place of the one there is.
    Reserve(usize),
    /// Let go of this relay: its address is given up.
    Drop(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not used before then.
    Idle(Instant),
    /// Asked. With `kept`, its address is announced meanwhile.
    Asking { kept: bool },
    /// Reserved, and asked again then.
    Held { renew: Instant },
    /// Lost, or not renewed: asked again then, its address stays.
    Lost(Instant),
}

#[derive(Debug)]
struct Relay {
    state: State,
    failures: u32,
    /// When the last reservation ends.
    end: Option<Instant>,
}

/// The decisions, for relays numbered from 0, the best first.
#[derive(Debug)]
pub struct Keeper {
    config: KeeperConfig,
    relays: Vec<Relay>,
    /// Addresses given up that nobody was told of.
    dropped: Vec<usize>,
}

impl Keeper {
    /// None of `relays` relays is reserved yet.
    #[must_use]
    pub fn new(config: KeeperConfig, relays: usize, now: Instant) -> Self {
        let fresh = || Relay {
            state: State::Idle(now),
            failures: 0,
            end: None,
        };
        Self {
            config,
            relays: (0..relays).map(|_| fresh()).collect(),
            dropped: Vec::new(),
        }
    }

    /// What to do now; call it again until it is nothing.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        if let Some(relay) = self.dropped.pop() {
            return Some(Action::Drop(relay));
        }
        let due = |relay: &Relay| match relay.state {
            State::Held { renew } => renew <= now,
            State::Lost(at) => at <= now,
            _ => false,
        };
        if let Some(number) = self.relays.iter().position(due) {
            return Some(self.ask(number, true));
        }
        if self.in_use() >= self.config.wanted {
            return None;
        }
        let free = |relay: &Relay| matches!(relay.state, State::Idle(at) if at <= now);
        let number = self.relays.iter().position(free)?;
        Some(self.ask(number, false))
    }

    /// Relays that are reserved or asked. One that is lost may not come back: its stand-in is warmed up meanwhile.
    fn in_use(&self) -> usize {
        let used =
            |relay: &&Relay| matches!(relay.state, State::Held { .. } | State::Asking { .. });
        self.relays.iter().filter(used).count()
    }

    fn ask(&mut self, number: usize, kept: bool) -> Action {
        if let Some(relay) = self.relays.get_mut(number) {
            relay.state = State::Asking { kept };
        }
        Action::Reserve(number)
    }

    /// When to [`poll`](Self::poll) again if nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let short = self.in_use() < self.config.wanted;
        let at = self.relays.iter().filter_map(|relay| match relay.state {
            State::Idle(at) => short.then_some(at),
            State::Asking { .. } => None,
            State::Held { renew } => Some(renew),
            State::Lost(at) => Some(at),
        });
        at.min()
    }

    /// A relay that was asked gave a reservation for `ttl`.
    pub fn reserved(&mut self, now: Instant, number: usize, ttl: Duration) {
        let Some(relay) = self.relays.get_mut(number) else {
            return;
        };
        let part = self.config.renew_after.clamp(0.0, 1.0);
        relay.state = State::Held {
            // Whatever the relay says, it is not asked all the time.
            renew: now + ttl.mul_f64(part).max(self.config.min_pause),
        };
        (relay.failures, relay.end) = (0, Some(now + ttl));
        // One too many, after a stand-in came while this one was lost: the last in the order goes.
        let held = |relay: &Relay| matches!(relay.state, State::Held { .. });
        let count = self.relays.iter().filter(|relay| held(relay)).count();
        if count > self.config.wanted
            && let Some(last) = self.relays.iter().rposition(held)
        {
            self.give_up(now, last, Duration::ZERO);
        }
    }

    /// A relay that was asked gave none. `random` from 0 to 1 spreads the pauses of many clients.
    pub fn failed(&mut self, now: Instant, number: usize, failure: Failure, random: f64) {
        let Some(relay) = self.relays.get_mut(number) else {
            return;
        };
        relay.failures = relay.failures.saturating_add(1);
        let doublings = (relay.failures - 1).min(16);
        let pause = match failure {
            Failure::Refused => self.config.max_pause,
            Failure::Unreachable => self.config.min_pause.saturating_mul(1 << doublings),
        };
        let random = if random.is_nan() {
            0.0
        } else {
            random.clamp(0.0, 1.0)
        };
        let pause = pause.min(self.config.max_pause).mul_f64(1.0 - random / 4.0);
        let kept = matches!(relay.state, State::Asking { kept: true });
        let over = relay.end.is_none_or(|end| end <= now);
        let again = relay.failures < self.config.attempts && self.config.wanted > 0;
        if kept && failure == Failure::Unreachable && again && !over {
            relay.state = State::Lost(now + pause);
        } else if kept {
            self.give_up(now, number, pause);
        } else {
            relay.state = State::Idle(now + pause);
        }
    }

    /// The connection to a relay has ended, and its reservation with it: it is asked again at once.
    pub fn lost(&mut self, now: Instant, number: usize) {
        if let Some(relay) = self.relays.get_mut(number)
            && matches!(relay.state, State::Held { .. })
        {
            relay.state = State::Lost(now);
        }
    }

    /// Whether a relay's address is one of this node's.
    #[must_use]
    pub fn announces(&self, number: usize) -> bool {
        self.relays.get(number).is_some_and(|relay| {
            matches!(
                relay.state,
                State::Held { .. } | State::Lost(_) | State::Asking { kept: true }
            )
        })
    }

    /// From now on this many reservations are wanted, in place of [`KeeperConfig::wanted`]. Those beyond are given up, the last in the
    /// order first.
    pub fn set_wanted(&mut self, now: Instant, wanted: usize) {
        self.config.wanted = wanted;
        while self.held() > wanted
            && let Some(last) = self
                .relays
                .iter()
                .rposition(|relay| matches!(relay.state, State::Held { .. }))
        {
            self.give_up(now, last, Duration::ZERO);
        }
        if wanted == 0 {
            for number in 0..self.relays.len() {
                if matches!(self.relays[number].state, State::Lost(_)) {
                    self.give_up(now, number, Duration::ZERO);
                }
            }
        }
    }

    /// How many relays are reserved now.
    #[must_use]
    pub fn held(&self) -> usize {
        let held = self
            .relays
            .iter()
            .filter(|relay| matches!(relay.state, State::Held { .. }));
        held.count()
    }

    fn give_up(&mut self, now: Instant, number: usize, pause: Duration) {
        if let Some(relay) = self.relays.get_mut(number) {
            relay.state = State::Idle(now + pause);
            relay.end = None;
            self.dropped.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn drain(keeper: &mut Keeper, now: Instant) -> Vec<Action> {
        std::iter::from_fn(|| keeper.poll(now)).collect()
    }

    #[test]
    fn two_are_held_and_renewed_early() {
        let now = Instant::now();
        let mut keeper = Keeper::new(KeeperConfig::default(), 3, now);
        assert_eq!(
            drain(&mut keeper, now),
            [Action::Reserve(0), Action::Reserve(1)]
        );
        keeper.reserved(now, 0, HOUR);
        keeper.failed(now, 1, Failure::Refused, 0.0);
        // The one that refused is left alone, the third stands in.
        assert_eq!(drain(&mut keeper, now), [Action::Reserve(2)]);
        keeper.reserved(now, 2, HOUR / 2);
        assert_eq!((keeper.held(), keeper.announces(1)), (2, false));
        let renew = now + HOUR / 2 * 3 / 4;
        assert_eq!(keeper.poll_timeout(), Some(renew));
        assert_eq!(drain(&mut keeper, renew), [Action::Reserve(2)]);
        assert!(keeper.announces(2), "while it is renewed");
    }

    #[test]
    fn a_relay_that_restarts_keeps_its_address() {
        let now = Instant::now();
        let mut keeper = Keeper::new(KeeperConfig::default(), 1, now);
        drain(&mut keeper, now);
        keeper.reserved(now, 0, HOUR);
        keeper.lost(now, 0);
        let mut at = now;
        for _ in 0..3 {
            assert_eq!(drain(&mut keeper, at), [Action::Reserve(0)]);
            keeper.failed(at, 0, Failure::Unreachable, 0.5);
            assert!(keeper.announces(0));
            at = keeper.poll_timeout().unwrap_or(at);
        }
        assert_eq!(drain(&mut keeper, at), [Action::Reserve(0)]);
        keeper.reserved(at, 0, HOUR);
        assert_eq!((keeper.held(), drain(&mut keeper, at)), (1, vec![]));
    }

    #[test]
    fn none_are_kept_while_none_are_wanted() {
        let now = Instant::now();
        let mut keeper = Keeper::new(KeeperConfig::default(), 3, now);
        drain(&mut keeper, now);
        keeper.reserved(now, 0, HOUR);
        keeper.reserved(now, 1, HOUR);
        keeper.lost(now, 1);
        assert_eq!(drain(&mut keeper, now), [Action::Reserve(1)]);
        keeper.set_wanted(now, 0);
        assert_eq!(drain(&mut keeper, now), [Action::Drop(0)]);
        // What was asked for meanwhile is let go when it comes.
        keeper.reserved(now, 1, HOUR);
        assert_eq!(drain(&mut keeper, now), [Action::Drop(1)]);
        assert_eq!((keeper.held(), keeper.poll_timeout()), (0, None));
        keeper.set_wanted(now, 2);
        assert_eq!(
            drain(&mut keeper, now),
            [Action::Reserve(0), Action::Reserve(1)]
        );
    }

    #[test]
    fn an_address_goes_when_its_relay_does_not_come_back() {
        let now = Instant::now();
        let mut keeper = Keeper::new(KeeperConfig::default(), 2, now);
        drain(&mut keeper, now);
        for relay in [0, 1] {
            keeper.reserved(now, relay, HOUR);
        }
        keeper.lost(now, 0);
        let mut at = now;
        for _ in 0..4 {
            assert_eq!(drain(&mut keeper, at), [Action::Reserve(0)]);
            keeper.failed(at, 0, Failure::Unreachable, 0.0);
            at += Duration::from_secs(10);
        }
        assert!(!keeper.announces(0) && keeper.announces(1));
        let actions = drain(&mut keeper, at);
        assert_eq!(actions, [Action::Drop(0), Action::Reserve(0)]);
        keeper.failed(at, 0, Failure::Unreachable, 0.0);
        // A relay that has nothing of ours is asked ever more rarely.
        let pause = keeper.poll_timeout().map(|next| next - at);
        assert_eq!(pause, Some(Duration::from_secs(16)));
    }
}
