//! Records of messages: while they are verified and validated, while they can be asked for, while deliveries are credited.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use barewire_base::PeerId;

use crate::{
    MessageHandle, MessageId, PeerKey, random::IdKey, rpc::WireMessage, slab::Slab,
    topics::TopicIndex,
};

/// Messages of one id with other bytes that are verified beside the first: an id says nothing about who is right.
pub(crate) const MAX_RIVALS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The signature is being checked.
    Verifying,
    /// The validator was asked.
    Validating,
    /// Accepted, at this time.
    Valid(Instant),
    Invalid,
    Ignored,
}

impl State {
    pub(crate) const fn is_pending(self) -> bool {
        matches!(self, Self::Verifying | Self::Validating)
    }
}

#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) key: IdKey,
    pub(crate) id: MessageId,
    pub(crate) topic: TopicIndex,
    pub(crate) state: State,
    /// `None` when it cannot be asked for any more.
    pub(crate) message: Option<Arc<WireMessage>>,
    /// Bytes of it that count as history; 0 when it is no part of it.
    cached: usize,
    pub(crate) author: Option<PeerId>,
    /// Who sent it first; `None` if we did.
    pub(crate) first: Option<PeerKey>,
    pub(crate) first_id: Option<PeerId>,
    /// Who else sent it.
    pub(crate) others: Vec<PeerKey>,
    /// Records of other messages with the same id, while signatures are checked.
    pub(crate) rivals: Vec<u32>,
    /// How often it was sent to peers that asked.
    pub(crate) served: Vec<(PeerKey, u8)>,
    pub(crate) since: Instant,
}

impl Record {
    pub(crate) fn was_sent_by(&self, peer: PeerKey) -> bool {
        self.first == Some(peer) || self.others.contains(&peer)
    }

    /// Counts that the peer asked for it; `false` above `max`.
    pub(crate) fn may_serve(&mut self, peer: PeerKey, max: u8) -> bool {
        match self.served.iter_mut().find(|(p, _)| *p == peer) {
            Some((_, times)) => {
                *times = times.saturating_add(1);
                *times <= max
            }
            None => {
                self.served.push((peer, 1));
                max > 0
            }
        }
    }
}

/// A slab of records with a ring of buckets, one a heartbeat.
#[derive(Debug)]
pub(crate) struct Records {
    slab: Slab<Record>,
    /// Records by the heartbeat in which they came, the newest last.
    ring: VecDeque<Vec<(u32, u32)>>,
    /// Messages in history, the oldest first.
    history: VecDeque<(u32, u32)>,
    history_bytes: usize,
    max: usize,
    /// Capacity of lists of records that are gone, for new ones.
    spare: Vec<Vec<PeerKey>>,
}

impl Records {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            slab: Slab::new(),
            ring: VecDeque::from([Vec::new()]),
            history: VecDeque::new(),
            history_bytes: 0,
            max,
            spare: Vec::new(),
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) const fn history_bytes(&self) -> usize {
        self.history_bytes
    }

    pub(crate) fn get(&self, index: u32) -> Option<&Record> {
        self.slab.get(index)
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut Record> {
        self.slab.get_mut(index)
    }

    /// The record of this id, if the slot still holds it.
    #[inline]
    pub(crate) fn of(&mut self, index: u32, key: IdKey) -> Option<&mut Record> {
        self.get_mut(index).filter(|record| record.key == key)
    }

    pub(crate) fn check(&self, handle: MessageHandle) -> Option<u32> {
        self.slab.get_of(handle.index, handle.generation)?;
        Some(handle.index)
    }

    pub(crate) fn handle(&self, index: u32) -> MessageHandle {
        let generation = self.slab.generation(index);
        MessageHandle { index, generation }
    }

    /// Whether a record can be made.
    pub(crate) const fn has_room(&self) -> bool {
        self.slab.len() < self.max
    }

    /// Makes a record. The caller has checked that there is room, or freed the oldest.
    #[allow(clippy::too_many_arguments, reason = "the fields of a record")]
    pub(crate) fn insert(
        &mut self,
        now: Instant,
        key: IdKey,
        id: MessageId,
        topic: TopicIndex,
        state: State,
        message: Arc<WireMessage>,
        author: Option<PeerId>,
        first: Option<(PeerKey, PeerId)>,
    ) -> u32 {
        let (index, generation) = self.slab.insert(Record {
            key,
            id,
            topic,
            state,
            message: Some(message),
            cached: 0,
            author,
            first: first.map(|(key, _)| key),
            first_id: first.map(|(_, id)| id),
            others: self.spare.pop().unwrap_or_default(),
            rivals: Vec::new(),
            served: Vec::new(),
            since: now,
        });
        if let Some(newest) = self.ring.back_mut() {
            newest.push((index, generation));
        }
        index
    }

    /// Lets the message be asked for. The oldest messages give way to it beyond `max_bytes`; one that is longer alone is not
    /// kept at all.
    pub(crate) fn remember(&mut self, index: u32, max_bytes: usize) {
        let Some(record) = self.get_mut(index) else {
            return;
        };
        let bytes = record.message.as_ref().map_or(0, |m| m.encoded.len()) + size_of::<Record>();
        if bytes > max_bytes {
            record.message = None;
            return;
        }
        record.cached = bytes;
        let generation = self.slab.generation(index);
        self.history_bytes += bytes;
        self.history.push_back((index, generation));
        while self.history_bytes > max_bytes {
            let Some((oldest, generation)) = self.history.pop_front() else {
                break;
            };
            if self.slab.get_of(oldest, generation).is_some() {
                self.forget(oldest);
            }
        }
    }

    /// The message cannot be asked for any more.
    pub(crate) fn forget(&mut self, index: u32) {
        if let Some(record) = self.get_mut(index)
            && !record.state.is_pending()
        {
            let bytes = std::mem::take(&mut record.cached);
            record.message = None;
            record.served = Vec::new();
            self.history_bytes -= bytes;
        }
    }

    /// Removes a record that its ring does not need to name any more.
    pub(crate) fn remove(&mut self, index: u32) -> Option<Record> {
        self.forget(index);
        let mut record = self.slab.remove(index)?;
        // A record that is removed while its message waits was never part of the history.
        self.history_bytes -= std::mem::take(&mut record.cached);
        let mut others = std::mem::take(&mut record.others);
        others.clear();
        if self.spare.len() < 64 && (1..=64).contains(&others.capacity()) {
            self.spare.push(others);
        }
        Some(record)
    }

    /// Index of the oldest record that is not pending, taken off the ring; for when there is no room.
    pub(crate) fn take_oldest(&mut self) -> Option<u32> {
        // Pending ones are looked at once and moved to the newest bucket.
        let mut pending = Vec::new();
        let mut found = None;
        'ring: for bucket in &mut self.ring {
            while let Some((index, generation)) = bucket.pop() {
                match self.slab.get_of(index, generation) {
                    Some(record) if record.state.is_pending() => pending.push((index, generation)),
                    Some(_) => {
                        found = Some(index);
                        break 'ring;
                    }
                    None => {}
                }
            }
        }
        if let Some(newest) = self.ring.back_mut() {
            newest.extend(pending);
        }
        found
    }

    /// Records in history that came within the last `windows` heartbeats and are valid, by topic.
    pub(crate) fn gossip(&self, windows: usize, out: &mut Vec<(TopicIndex, u32)>) {
        out.clear();
        for bucket in self.ring.iter().rev().take(windows) {
            for &(index, generation) in bucket {
                if let Some(record) = self.slab.get_of(index, generation)
                    && record.cached > 0
                {
                    out.push((record.topic, index));
                }
            }
        }
        out.sort_unstable();
    }

    /// Begins a heartbeat's bucket. Messages older than `history` heartbeats cannot be asked for any more. Returns the records
    /// older than `keep`, which the caller removes, or keeps because they wait.
    pub(crate) fn shift(&mut self, history: usize, keep: usize) -> Vec<u32> {
        let mut expired = Vec::new();
        self.ring.push_back(Vec::new());
        if self.ring.len() > history {
            let at = self.ring.len() - 1 - history;
            for (index, generation) in self.ring[at].clone() {
                if self.slab.get_of(index, generation).is_some() {
                    self.forget(index);
                }
            }
        }
        while self.ring.len() > keep.max(history) + 1 {
            for (index, generation) in self.ring.pop_front().unwrap_or_default() {
                if self.slab.get_of(index, generation).is_some() {
                    expired.push(index);
                }
            }
        }
        while let Some(&(index, generation)) = self.history.front() {
            let cached = self
                .slab
                .get_of(index, generation)
                .is_some_and(|record| record.cached > 0);
            if cached {
                break;
            }
            self.history.pop_front();
        }
        expired
    }

    /// Puts a record that still waits into the newest bucket.
    pub(crate) fn keep(&mut self, index: u32) {
        let generation = self.handle(index).generation;
        if let Some(newest) = self.ring.back_mut() {
            newest.push((index, generation));
        }
    }
}
