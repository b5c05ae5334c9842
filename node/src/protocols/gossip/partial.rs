//! Partial messages: parts of messages, and who has which of them.
//!
//! What a part is and how its metadata reads is the application's affair. The router routes and bounds: groups per topic and peer,
//! their life, ids and metadata ([`PartialLimits`](barewire_gossip::PartialLimits)).

use std::{fmt, sync::Arc};

use barewire_base::{Fault, PeerId};
use barewire_gossip::{self as core, PartialReceived, Payload};
use bytes::Bytes;

use super::{
    Gossip, Stopped,
    driver::Driver,
    subscription::{Queue, SubscriptionOptions, Weight},
};

/// Something about the partial messages of a topic.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PartialEvent {
    /// A peer sent parts of a message, or said which it has, or both.
    Received {
        /// The peer.
        peer: PeerId,
        /// What the parts belong to.
        group: Bytes,
        /// Parts.
        message: Option<Payload>,
        /// Which parts the peer has.
        metadata: Option<Bytes>,
    },
    /// Peers outside the mesh, or that joined it since, do not know of a group of ours yet: tell them by [`Gossip::send_partial`]
    /// which parts there are.
    Tell {
        /// The group.
        group: Bytes,
        /// The peers.
        peers: Vec<PeerId>,
    },
}

impl Weight for PartialEvent {
    fn bytes(&self) -> usize {
        match self {
            Self::Received {
                group,
                message,
                metadata,
                ..
            } => {
                let parts = message.as_ref().map_or(0, Payload::len);
                group.len() + parts + metadata.as_ref().map_or(0, Bytes::len)
            }
            Self::Tell { group, peers } => group.len() + peers.len() * size_of::<PeerId>(),
        }
    }
}

/// Why nothing of a partial message is sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PartialError {
    /// The router refuses.
    #[error(transparent)]
    Refused(#[from] core::PartialError),
    /// The endpoint has ended.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl PartialError {
    /// Who is at fault.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Refused(error) => error.fault(),
            Self::Stopped(error) => error.fault(),
        }
    }
}

/// What happens to the partial messages of one topic. What is not taken in time is dropped and [counted](Self::dropped).
pub struct Partials(Arc<Queue<PartialEvent>>);

impl fmt::Debug for Partials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partials")
            .field("dropped", &self.dropped())
            .finish()
    }
}

impl Partials {
    /// The next event; `None` once the endpoint has ended and everything was taken. Cancel-safe.
    pub async fn next(&mut self) -> Option<PartialEvent> {
        self.0.next().await
    }

    /// Events dropped because they were not taken in time.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped()
    }
}

impl Drop for Partials {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Gossip {
    /// Follows the partial messages of a topic from now on. They come while it is subscribed to with
    /// [`SubscribeOptions::partial`](core::SubscribeOptions::partial) and [`Config::partial_messages`](core::Config::partial_messages)
    /// is set. Several followers each get everything.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn partials(
        &self,
        topic: &str,
        options: SubscriptionOptions,
    ) -> Result<Partials, Stopped> {
        let topic: Arc<str> = topic.into();
        self.call(move |driver| {
            let queue = Queue::new(options);
            let followed = driver.topics.entry(topic).or_default();
            // Those who are gone are not kept until something happens.
            followed.partials.retain(|queue| !queue.is_closed());
            followed.partials.push(Arc::clone(&queue));
            Partials(queue)
        })
        .await
    }

    /// Begins a group of our own, or extends its life of a few heartbeats. Returns the peers of the mesh that take partial messages,
    /// to send parts or metadata to; others are named later by [`PartialEvent::Tell`].
    ///
    /// # Errors
    /// [`PartialError`].
    pub async fn publish_partial(
        &self,
        topic: &str,
        group: impl Into<Bytes>,
    ) -> Result<Vec<PeerId>, PartialError> {
        let (topic, group) = (topic.to_owned(), group.into());
        let published = self.call(move |driver| {
            let peers = driver.router.publish_partial(&topic, &group)?;
            Ok(peers
                .into_iter()
                .filter_map(|key| driver.name(key))
                .collect())
        });
        published.await?
    }

    /// Sends parts of a message, or which parts we have, or both, to a peer. A peer that does not request partial messages gets the
    /// metadata alone.
    ///
    /// # Errors
    /// [`PartialError`]; nothing was sent then.
    pub async fn send_partial(
        &self,
        peer: PeerId,
        topic: &str,
        group: impl Into<Bytes>,
        message: Option<Bytes>,
        metadata: Option<Bytes>,
    ) -> Result<(), PartialError> {
        let (topic, group) = (topic.to_owned(), group.into());
        let sent = self.call(move |driver| {
            let router = &mut driver.router;
            let key = router.peer(&peer).ok_or(core::PartialError::Unsupported)?;
            router.send_partial(key, &topic, &group, message.as_deref(), metadata.as_deref())
        });
        Ok(sent.await??)
    }
}

impl Driver {
    pub(super) fn partial_received(&mut self, part: PartialReceived) {
        let Some(peer) = self.name(part.peer) else {
            return;
        };
        let event = PartialEvent::Received {
            peer,
            group: part.group,
            message: part.message,
            metadata: part.metadata,
        };
        self.follow(&part.topic, &event);
    }

    pub(super) fn partial_gossip(&mut self, topic: &str, group: Bytes, peers: &[core::PeerKey]) {
        let peers = peers.iter().filter_map(|key| self.name(*key)).collect();
        self.follow(topic, &PartialEvent::Tell { group, peers });
    }

    fn follow(&mut self, topic: &str, event: &PartialEvent) {
        if let Some(topic) = self.topics.get_mut(topic) {
            topic.partials.retain(|queue| queue.push(event));
        }
    }
}
