//! The partial messages of the public harness for gossipsub: a message is eight parts of 1 KiB, metadata is a byte with a bit for
//! each part that there is.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use barewire_node::{
    PeerId,
    protocols::gossip::{Gossip, PartialEvent, Partials},
};
use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use serde_json::json;

use crate::{failure::Failure, gossip_script::log};

const PARTS: usize = 8;
const PART: usize = 1024;
/// All of them.
const WHOLE: u8 = u8::MAX;

/// A topic and the id of a group.
type Key = (String, u64);

/// What there is of each message, and who has what.
pub(crate) struct Parts {
    gossip: Gossip,
    messages: Mutex<HashMap<Key, Parted>>,
}

/// One message.
#[derive(Default)]
struct Parted {
    parts: [Option<Bytes>; PARTS],
    peers: HashMap<PeerId, Known>,
}

/// What is known of a peer.
#[derive(Default, Clone, Copy)]
struct Known {
    /// The parts it has, once it has said so.
    has: Option<u8>,
    /// The parts it knows us to have, once it was told.
    told: Option<u8>,
}

impl Parted {
    fn has(&self) -> u8 {
        let parts = self.parts.iter().enumerate();
        parts.fold(0, |all, (at, part)| all | (u8::from(part.is_some()) << at))
    }

    /// Makes parts: counters that go on from the group's id.
    fn fill(&mut self, group: u64, parts: u8) {
        for (at, part) in self.parts.iter_mut().enumerate() {
            if parts & (1 << at) != 0 {
                let mut bytes = BytesMut::with_capacity(PART);
                let first = group.wrapping_add((at * PART / 8) as u64);
                (0..PART as u64 / 8).for_each(|n| bytes.put_u64(first.wrapping_add(n)));
                *part = Some(bytes.freeze());
            }
        }
    }

    /// The parts in `which`, as they are sent.
    fn encode(&self, group: u64, which: u8) -> Bytes {
        let mut out = BytesMut::from(&[which][..]);
        for (at, part) in self.parts.iter().enumerate() {
            if let Some(part) = part.as_ref().filter(|_| which & (1 << at) != 0) {
                out.extend_from_slice(part);
            }
        }
        out.put_u64(group);
        out.freeze()
    }

    /// Takes the parts that somebody sent; which these are, or `None` if it is no such message.
    fn extend(&mut self, group: u64, message: &[u8]) -> Option<u8> {
        let (&which, rest) = message.split_first()?;
        let (parts, id) = rest.split_last_chunk()?;
        let count = usize::try_from(which.count_ones()).ok()?;
        if u64::from_be_bytes(*id) != group || parts.len() != count * PART {
            return None;
        }
        let mut sent = parts.chunks_exact(PART);
        for (at, own) in self.parts.iter_mut().enumerate() {
            if which & (1 << at) != 0
                && let Some(part) = sent.next()
            {
                own.get_or_insert_with(|| Bytes::copy_from_slice(part));
            }
        }
        Some(which)
    }

    /// What a peer is to be sent now: the parts it lacks, once it has said what it has, and what we have, if it does not know.
    fn owed(&mut self, group: u64, peer: PeerId) -> (Option<Bytes>, Option<Bytes>) {
        let own = self.has();
        let mut known = self.peers.get(&peer).copied().unwrap_or_default();
        let lacks = known.has.map_or(0, |has| own & !has);
        let message = (lacks != 0).then(|| self.encode(group, lacks));
        if lacks != 0 {
            known.has = known.has.map(|has| has | lacks);
            known.told = Some(known.told.unwrap_or(0) | lacks);
        }
        let metadata = known.told.is_none_or(|told| own & !told != 0);
        if metadata {
            known.told = Some(own);
        }
        self.peers.insert(peer, known);
        (message, metadata.then(|| Bytes::copy_from_slice(&[own])))
    }
}

impl Parts {
    pub(crate) fn new(gossip: Gossip) -> Arc<Self> {
        Arc::new(Self {
            gossip,
            messages: Mutex::default(),
        })
    }

    /// Has parts from now on, and tells nobody yet.
    pub(crate) fn add(&self, topic: &str, group: u64, parts: u8) {
        let mut messages = self.messages.lock();
        let message = messages.entry((topic.to_owned(), group)).or_default();
        let before = message.has();
        message.fill(group, parts);
        // Others may have been earlier with theirs.
        tell_whole(group, before, message);
    }

    /// Tells the given peers, or the mesh and all who know of the group, what there is, and sends what they lack.
    pub(crate) async fn publish(
        &self,
        topic: &str,
        group: u64,
        to: HashSet<PeerId>,
    ) -> Result<(), Failure> {
        let id = Bytes::copy_from_slice(&group.to_be_bytes());
        let mesh = self
            .gossip
            .publish_partial(topic, id)
            .await
            .map_err(|cause| format!("group {group} of {topic} is not published: {cause}"))?;
        let to = match to.is_empty() {
            true => mesh.into_iter().chain(self.knowing(topic, group)).collect(),
            false => to,
        };
        self.send(topic, group, to).await;
        Ok(())
    }

    fn knowing(&self, topic: &str, group: u64) -> Vec<PeerId> {
        let messages = self.messages.lock();
        let message = messages.get(&(topic.to_owned(), group));
        message.map_or_else(Vec::new, |message| message.peers.keys().copied().collect())
    }

    async fn send(&self, topic: &str, group: u64, to: HashSet<PeerId>) {
        for peer in to {
            let (message, metadata) = {
                let mut messages = self.messages.lock();
                let key = (topic.to_owned(), group);
                messages.entry(key).or_default().owed(group, peer)
            };
            if message.is_none() && metadata.is_none() {
                continue;
            }
            let id = Bytes::copy_from_slice(&group.to_be_bytes());
            let sent = self.gossip.send_partial(peer, topic, id, message, metadata);
            if let Err(cause) = sent.await {
                // It left, or takes no parts; then it is owed nothing.
                eprintln!("nothing of group {group} of {topic} to {peer}: {cause}");
            }
        }
    }

    /// Answers what peers send in a topic.
    pub(crate) async fn follow(
        self: Arc<Self>,
        topic: String,
        mut events: Partials,
    ) -> Result<(), Failure> {
        while let Some(event) = events.next().await {
            let (group, to) = match event {
                PartialEvent::Tell { group, peers } => (group, peers.into_iter().collect()),
                PartialEvent::Received {
                    peer,
                    group,
                    message,
                    metadata,
                } => {
                    let message = message.map(|message| message.to_bytes());
                    self.received(&topic, &group, peer, message, metadata);
                    let to = number(&group).map(|group| self.knowing(&topic, group));
                    (group, to.unwrap_or_default().into_iter().collect())
                }
                _ => continue,
            };
            if let Some(group) = number(&group) {
                self.send(&topic, group, to).await;
            }
        }
        Ok(())
    }

    fn received(
        &self,
        topic: &str,
        group: &[u8],
        peer: PeerId,
        message: Option<Bytes>,
        metadata: Option<Bytes>,
    ) {
        let Some(group) = number(group) else {
            eprintln!("{peer} names a group whose id is not 8 bytes");
            return;
        };
        let mut messages = self.messages.lock();
        let parted = messages.entry((topic.to_owned(), group)).or_default();
        let before = parted.has();
        let mut sent = 0;
        if let Some(message) = message.filter(|message| !message.is_empty()) {
            match parted.extend(group, &message) {
                Some(which) => sent = which,
                None => eprintln!("{peer} sent no parts of group {group}"),
            }
        }
        let known = parted.peers.entry(peer).or_default();
        if let Some([has]) = metadata.as_deref() {
            known.has = Some(known.has.unwrap_or(0) | has);
        }
        if sent != 0 {
            // It has what it sent, and knows that we have it now.
            known.has = Some(known.has.unwrap_or(0) | sent);
            known.told = known.told.map(|told| told | sent);
        }
        tell_whole(group, before, parted);
    }
}

/// Says once that there are all parts.
fn tell_whole(group: u64, before: u8, message: &Parted) {
    if before != WHOLE && message.has() == WHOLE {
        log("All parts received", json!({"group id": group}));
    }
}

fn number(group: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(group.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use barewire_base::Keypair;

    use super::*;

    #[test]
    fn two_with_halves_come_to_the_whole() {
        let [a, b] = [1, 2].map(|seed| Keypair::from_seed(&[seed; 32]).peer_id());
        let (mut at_a, mut at_b) = (Parted::default(), Parted::default());
        at_a.fill(7, 0b1010_0001);
        at_b.fill(7, !0b1010_0001);
        // Nothing but metadata goes out before the other has said what it has.
        let (message, metadata) = at_a.owed(7, b);
        assert_eq!(
            (message, metadata.as_deref()),
            (None, Some(&[0b1010_0001][..]))
        );
        at_b.peers.entry(a).or_default().has = Some(0b1010_0001);
        let (message, metadata) = at_b.owed(7, a);
        let message = message.unwrap();
        assert_eq!(message.len(), 1 + 5 * PART + 8);
        assert_eq!(metadata, None, "the parts say it");
        assert_eq!(at_a.extend(7, &message), Some(!0b1010_0001));
        assert_eq!(at_a.has(), WHOLE);
        assert_eq!(
            at_a.parts[1].as_ref().unwrap()[..8],
            (7 + 128u64).to_be_bytes()
        );
        // Nothing twice.
        assert_eq!(at_b.owed(7, a), (None, None));
        for wrong in [&[][..], &[1], &message[..message.len() - 1], &[0; 9]] {
            assert_eq!(at_b.extend(7, wrong), None);
        }
    }
}
