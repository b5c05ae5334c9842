//! Publishing: receipts, and waiting for peers or for room.

use std::{sync::Arc, time::Instant};

use barewire_base::PeerId;
use barewire_gossip::{DropReason, MessageId, OutgoingMessage, PublishError, PublishOptions};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{driver::Driver, trace};

/// What became of a publication at each peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// Id of the message.
    pub id: Option<MessageId>,
    /// Peers for which it goes out with the next write.
    pub sent: Vec<PeerId>,
    /// Peers for which it waits behind other frames.
    pub queued: Vec<PeerId>,
    /// Peers that do not get it from us, and why. One of the first two lists may still follow, by an event.
    pub dropped: Vec<(PeerId, DropReason)>,
}

impl Receipt {
    /// Peers that will get it.
    #[must_use]
    pub const fn accepted(&self) -> usize {
        self.sent.len() + self.queued.len()
    }
}

/// A message on its way to the router.
#[derive(Debug)]
pub(super) struct Publish {
    pub(super) message: OutgoingMessage,
    pub(super) topic: Arc<str>,
    pub(super) len: usize,
    pub(super) options: PublishOptions,
    pub(super) wait_until: Option<Instant>,
    pub(super) reply: oneshot::Sender<Result<Receipt, PublishError>>,
    /// Bounds how many there are.
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Somebody waits for peers.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) topic: Arc<str>,
    pub(super) count: usize,
    /// In the mesh; else peers that a message would be sent to.
    pub(super) mesh: bool,
    pub(super) reply: oneshot::Sender<()>,
}

impl Driver {
    pub(super) fn publish(&mut self, at: Instant, publish: Publish) {
        let waits = publish.wait_until.is_some()
            && (self.publishes.contains_key(&publish.topic)
                || !self.router.has_queue_space(&publish.topic, publish.len));
        if waits {
            let topic = Arc::clone(&publish.topic);
            self.publishes.entry(topic).or_default().push_back(publish);
        } else {
            self.publish_now(at, publish);
        }
    }

    fn publish_now(&mut self, at: Instant, publish: Publish) {
        let result = self.router.publish(at, &publish.message, publish.options);
        let result = result.map(|receipt| {
            let names = |keys: &[barewire_gossip::PeerKey]| {
                keys.iter()
                    .filter_map(|key| self.name(*key))
                    .collect::<Vec<_>>()
            };
            let dropped = receipt.dropped.iter();
            Receipt {
                sent: names(&receipt.sent),
                queued: names(&receipt.queued),
                dropped: dropped
                    .filter_map(|(key, reason)| Some((self.name(*key)?, *reason)))
                    .collect(),
                id: receipt.id,
            }
        });
        if let (Some(trace), Ok(receipt)) = (&self.config.trace, &result) {
            let id = receipt.id.as_ref().map(trace::hex);
            let fields = json!({
                "id": id, "topic": &*publish.topic, "len": publish.len, "sent": receipt.sent.len(),
                "queued": receipt.queued.len(), "dropped": receipt.dropped.len(),
            });
            trace.write("published", fields);
        }
        // Who published may not want to know.
        let _ = publish.reply.send(result);
    }

    /// Publishes what waited for room. Whether there was something.
    pub(super) fn retry_publishes(&mut self, at: Instant) -> bool {
        if self.publishes.is_empty() {
            return false;
        }
        let mut published = false;
        let topics: Vec<_> = self.publishes.keys().cloned().collect();
        for topic in topics {
            while let Some(queue) = self.publishes.get_mut(&topic) {
                let Some(first) = queue.front() else {
                    self.publishes.remove(&topic);
                    break;
                };
                let late = first.wait_until.is_none_or(|until| until <= at);
                if !late && !self.router.has_queue_space(&topic, first.len) {
                    break;
                }
                if let Some(publish) = queue.pop_front() {
                    self.publish_now(at, publish);
                    published = true;
                }
            }
        }
        published
    }

    /// Tells those who wait for peers or for the end of writing.
    pub(super) fn look_after_waiters(&mut self) {
        if !self.waiters.is_empty() {
            let router = &self.router;
            let ready = |waiter: &mut Waiter| {
                let peers = if waiter.mesh {
                    router.mesh_peers(&waiter.topic).len()
                } else {
                    router.reachable(&waiter.topic)
                };
                peers >= waiter.count || waiter.reply.is_closed()
            };
            for waiter in self.waiters.extract_if(.., ready) {
                // Who waited may have gone.
                let _ = waiter.reply.send(());
            }
        }
        self.look_after_flushes();
    }
}
