//! Whose turn it is to send.
//!
//! A stream that becomes ready with a short message goes into the list of new ones, which is served first, so that it
//! does not wait behind bulk; one with more joins the round of the old ones at its end. After its turn a new one joins
//! the round too, and stays in it for one more visit even if it has nothing left, or it could come back as new again
//! and again and starve the others: between two turns of one stream, no other has more than one.

use std::collections::VecDeque;

use super::ids::Key;
use super::stream::{Stream, Turn};

/// What is no longer than this goes ahead of bulk: a quarter of a frame.
const SHORT: usize = 16 << 10;

#[derive(Debug, Default)]
pub(crate) struct Schedule {
    new: VecDeque<Key>,
    old: VecDeque<Key>,
}

impl Schedule {
    /// Puts a stream that can send into the lists, unless it is there.
    #[inline]
    pub(crate) fn wake(&mut self, slot: u32, stream: &mut Stream) {
        if stream.turn != Turn::None || !stream.wants_turn() {
            return;
        }
        let key = Key {
            slot,
            id: stream.id,
        };
        if stream.send.len() > SHORT {
            stream.turn = Turn::Old;
            self.old.push_back(key);
        } else {
            stream.turn = Turn::New;
            self.new.push_back(key);
        }
    }

    #[inline]
    pub(crate) fn next(&mut self) -> Option<(Key, Turn)> {
        if let Some(key) = self.new.pop_front() {
            return Some((key, Turn::New));
        }
        self.old.pop_front().map(|key| (key, Turn::Old))
    }

    /// Takes back a turn that was not used.
    pub(crate) fn put_back(&mut self, key: Key, turn: Turn) {
        match turn {
            Turn::New => self.new.push_front(key),
            _ => self.old.push_front(key),
        }
    }

    /// After a turn in which the stream sent something.
    #[inline]
    pub(crate) fn served(&mut self, key: Key, stream: &mut Stream) {
        if stream.has_turn() || !self.old.is_empty() {
            stream.turn = Turn::Old;
            self.old.push_back(key);
        } else {
            stream.turn = Turn::None;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.new.is_empty() && self.old.is_empty()
    }

    /// Gives the lists' memory back if they are empty.
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }
}
