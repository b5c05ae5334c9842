//! Crowded peers: those that are sent messages faster than they take them. One that takes them fast enough holds up who sends
//! them, and gets them all; one that does not misses some, and holds up nobody.

use std::time::{Duration, Instant};

use super::Router;
use crate::{OutFrame, PeerKey, queue::SendQueue};

/// Between looks at what a crowded peer has taken.
const WINDOW: Duration = Duration::from_millis(250);
/// What it must take in that time to be waited for: 8 MiB or 4,000 messages a second, a link of 70 Mbit/s. Whoever wants to slow
/// down this node's traffic by reading slowly can slow it down to that.
const FAST_BYTES: usize = 2 << 20;
const FAST_MESSAGES: usize = 1_000;
/// A frame that is longer than that may take longer: as long as at that speed, up to this.
const LONG_FRAME: Duration = Duration::from_secs(2);

/// A peer whose queue is a quarter full, until it is an eighth.
#[derive(Debug)]
pub(super) struct Crowded {
    peer: u32,
    /// When to look next at what it has taken.
    look: Instant,
    bytes: usize,
    messages: usize,
    /// It took too little.
    slow: bool,
}

impl Router {
    /// Whether the peer's next RPC would be looked at in full, and what it says could be sent on. While it is not, leave the
    /// peer's stream unread: its messages would be thrown away because too many wait for verification or validation, or for
    /// another peer that takes them more slowly than they come, but fast enough to be waited for.
    #[must_use]
    pub fn has_room(&self, peer: PeerKey) -> bool {
        let index = self.peers.check(peer);
        let own = index.and_then(|index| self.peers.get(index));
        let (pending, pending_bytes) = own.map_or((0, 0), |p| (p.pending, p.pending_bytes));
        pending < self.config.max_pending_per_peer / 2
            // What waits for a verdict goes to the queues next.
            && pending_bytes < self.config.queue.max_bytes / 2
            && self.pending < self.config.max_pending / 2
            && self.pending_bytes < self.config.max_pending_bytes / 2
            // A peer does not wait for itself: two that wait for one another go on.
            && self.crowded.iter().all(|crowded| crowded.slow || Some(crowded.peer) == index)
    }

    /// Something was queued for a peer.
    pub(super) fn queue_grew(&mut self, now: Instant, index: u32) {
        let Some(queue) = self.peers.get(index).map(|peer| &peer.queue) else {
            return;
        };
        if self.is_filled(queue, 4) && self.crowded.iter().all(|c| c.peer != index) {
            let look = now + WINDOW;
            self.crowded.push(Crowded {
                peer: index,
                look: queue.patience.map_or(look, |until| until.max(look)),
                bytes: 0,
                messages: 0,
                slow: false,
            });
        }
    }

    /// A peer took a frame.
    pub(super) fn queue_shrank(&mut self, now: Instant, index: u32, frame: &OutFrame) {
        let time = WINDOW.mul_f64(frame.len as f64 / FAST_BYTES as f64);
        let patience = (frame.len > FAST_BYTES).then(|| now + time.min(LONG_FRAME));
        if let Some(peer) = self.peers.get_mut(index) {
            peer.queue.patience = patience;
        }
        let Some(at) = self.crowded.iter().position(|c| c.peer == index) else {
            return;
        };
        let fill = self.peers.get(index).map(|peer| &peer.queue);
        if !fill.is_some_and(|queue| self.is_filled(queue, 8)) {
            self.crowded.swap_remove(at);
        } else if let Some(crowded) = self.crowded.get_mut(at) {
            crowded.bytes = crowded.bytes.saturating_add(frame.len);
            crowded.messages += frame.messages;
            crowded.look = patience.map_or(crowded.look, |until| until.max(crowded.look));
        }
    }

    /// What waited for a peer is void.
    pub(super) fn queue_cleared(&mut self, index: u32) {
        self.crowded.retain(|crowded| crowded.peer != index);
    }

    fn is_filled(&self, queue: &SendQueue, divisor: usize) -> bool {
        let limits = &self.config.queue;
        queue.bytes() >= limits.max_bytes / divisor || queue.items() >= limits.max_items / divisor
    }

    /// When to look at what crowded peers have taken.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let waited_for = self.crowded.iter().filter(|crowded| !crowded.slow);
        waited_for.map(|crowded| crowded.look).min()
    }

    /// Looks at what crowded peers have taken.
    pub(super) fn look_at_crowded(&mut self, now: Instant) {
        for crowded in &mut self.crowded {
            if crowded.look > now || crowded.slow {
                continue;
            }
            crowded.slow = crowded.bytes < FAST_BYTES && crowded.messages < FAST_MESSAGES;
            crowded.look = now + WINDOW;
            (crowded.bytes, crowded.messages) = (0, 0);
        }
    }
}
