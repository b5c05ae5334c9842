//! Whether packets of one kind get through at all. No I/O.

use std::collections::VecDeque;

/// Attempts that are looked at, and how rarely a refused kind is tried. As go-libp2p.
const WINDOW: usize = 100;
/// Successes among them that show that packets get through. As go-libp2p.
const ENOUGH: usize = 5;

/// What is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum BlackHoleState {
    /// Too few attempts so far.
    #[default]
    Unknown,
    /// Packets get through.
    Open,
    /// They do not: all but each hundredth attempt are refused.
    Blocked,
}

/// Counts the attempts of one kind. As go-libp2p: fewer than 5 successes in the last 100 close it,
/// one success while it is closed opens it.
#[derive(Debug, Default)]
pub struct BlackHole {
    results: VecDeque<bool>,
    refused: usize,
    state: BlackHoleState,
}

impl BlackHole {
    /// What is known.
    #[must_use]
    pub fn state(&self) -> BlackHoleState {
        self.state
    }

    /// Whether to make an attempt.
    pub fn allows(&mut self) -> bool {
        if self.state != BlackHoleState::Blocked {
            return true;
        }
        self.refused += 1;
        self.refused.is_multiple_of(WINDOW)
    }

    /// An attempt was made.
    pub fn observe(&mut self, success: bool) {
        if success && self.state == BlackHoleState::Blocked {
            *self = Self::default();
        }
        self.results.push_back(success);
        if self.results.len() > WINDOW {
            self.results.pop_front();
        }
        if self.results.len() == WINDOW {
            let successes = self.results.iter().filter(|success| **success).count();
            self.state = if successes < ENOUGH {
                BlackHoleState::Blocked
            } else {
                BlackHoleState::Open
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_failures_close_it_and_one_success_opens_it() {
        let mut hole = BlackHole::default();
        for _ in 0..99 {
            hole.observe(false);
            assert!(hole.allows());
        }
        hole.observe(false);
        assert_eq!(hole.state(), BlackHoleState::Blocked);
        let allowed = (0..1_000).filter(|_| hole.allows()).count();
        assert_eq!(allowed, 10);
        hole.observe(true);
        assert_eq!(hole.state(), BlackHoleState::Unknown);
        assert!(hole.allows());
    }

    #[test]
    fn five_in_a_hundred_are_enough() {
        let mut hole = BlackHole::default();
        for n in 0..500 {
            hole.observe(n % 20 == 0);
        }
        assert_eq!(hole.state(), BlackHoleState::Open);
    }
}
