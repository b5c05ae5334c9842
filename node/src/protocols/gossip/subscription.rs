//! Messages on their way to a subscriber: a queue bounded in count and bytes, which tells what it had to drop.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use barewire_gossip::Delivery;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Bounds of a [`Subscription`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriptionOptions {
    /// Messages that wait to be taken. 4,096.
    pub max_messages: usize,
    /// Their payload bytes; a single longer message is taken if nothing else waits. 32 MiB.
    pub max_bytes: usize,
}

impl SubscriptionOptions {
    /// Sets both bounds.
    #[must_use]
    pub const fn bounded(mut self, max_messages: usize, max_bytes: usize) -> Self {
        (self.max_messages, self.max_bytes) = (max_messages, max_bytes);
        self
    }
}

impl Default for SubscriptionOptions {
    fn default() -> Self {
        Self {
            max_messages: 4_096,
            max_bytes: 32 << 20,
        }
    }
}

/// What waits in a [`Queue`].
pub(super) trait Weight {
    /// Payload bytes.
    fn bytes(&self) -> usize;
}

impl Weight for Delivery {
    fn bytes(&self) -> usize {
        self.message.data.as_ref().map_or(0, |data| data.len())
    }
}

/// Between the driver and a subscriber.
pub(super) struct Queue<T = Delivery> {
    options: SubscriptionOptions,
    state: Mutex<State<T>>,
    arrived: Notify,
    dropped: AtomicU64,
}

struct State<T> {
    messages: VecDeque<T>,
    bytes: usize,
    /// One of the ends is gone.
    closed: bool,
}

impl<T: Weight + Clone> Queue<T> {
    pub(super) fn new(options: SubscriptionOptions) -> Arc<Self> {
        Arc::new(Self {
            options,
            state: Mutex::new(State {
                messages: VecDeque::new(),
                bytes: 0,
                closed: false,
            }),
            arrived: Notify::new(),
            dropped: AtomicU64::new(0),
        })
    }

    /// Hands a message over. A full queue drops it, and nobody waits. `false` if the subscriber is gone.
    pub(super) fn push(&self, message: &T) -> bool {
        let len = message.bytes();
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        let fits = state.messages.is_empty()
            || (state.messages.len() < self.options.max_messages
                && state.bytes + len <= self.options.max_bytes);
        if !fits {
            drop(state);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        state.bytes += len;
        state.messages.push_back(message.clone());
        drop(state);
        self.arrived.notify_one();
        true
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.arrived.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The next one; without one, whether there will be none any more.
    pub(super) fn pop(&self) -> Result<T, bool> {
        let mut state = self.state.lock();
        match state.messages.pop_front() {
            Some(message) => {
                state.bytes -= message.bytes();
                // A burst leaves nothing behind.
                if state.messages.is_empty() && state.messages.capacity() > 1024 {
                    state.messages = VecDeque::new();
                }
                Ok(message)
            }
            None => Err(state.closed),
        }
    }

    pub(super) async fn next(&self) -> Option<T> {
        loop {
            match self.pop() {
                Ok(message) => return Some(message),
                Err(true) => return None,
                Err(false) => self.arrived.notified().await,
            }
        }
    }
}

/// Messages of one topic, own ones excluded. Dropping the last one of a topic leaves the topic.
///
/// What a subscriber does not take in time is dropped and [counted](Self::dropped); other subscribers and the network do not wait
/// for it.
pub struct Subscription {
    topic: Arc<str>,
    queue: Arc<Queue>,
    /// Told when this is gone.
    left: Arc<Notify>,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("topic", &self.topic)
            .field("waiting", &self.waiting())
            .field("dropped", &self.dropped())
            .finish()
    }
}

impl Subscription {
    pub(super) fn new(topic: Arc<str>, queue: Arc<Queue>, left: Arc<Notify>) -> Self {
        Self { topic, queue, left }
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The next message; `None` once the endpoint has ended and everything was taken. Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.queue.next().await
    }

    /// The next message, if one waits.
    pub fn try_next(&mut self) -> Option<Delivery> {
        self.queue.pop().ok()
    }

    /// Messages that wait to be taken.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.state.lock().messages.len()
    }

    /// Messages dropped because they were not taken in time.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.queue.dropped()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.queue.close();
        self.left.notify_one();
    }
}
