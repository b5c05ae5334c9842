//! What waits to be sent to one peer: bounded, in classes, cut into frames the peer accepts.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use barewire_base::varint;
use bytes::{Bytes, BytesMut};

use crate::{
    DropReason, PeerLimits, QueueLimits,
    random::IdKey,
    rpc::{Extensions, TEST_EXTENSION, WireMessage, encode},
};

/// Charged for an entry besides its bytes.
const ENTRY: usize = 64;

/// Ids of IDONTWANT that wait; older ones are of no use.
const MAX_IDONTWANT: usize = 1024;

/// Messages below this are copied into the frame, so that a frame of many short messages is few chunks.
const COPY_BELOW: usize = 2048;

/// A frame for the stream of a peer, length prefix included: write the chunks one after the other.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct OutFrame {
    /// The bytes. Payloads of other than short messages are shared with every other peer's frames.
    pub chunks: Vec<Bytes>,
    /// Length of all chunks together.
    pub len: usize,
    /// Messages in it.
    pub messages: usize,
}

/// Whose messages: those of others give way to our own, and gossip to both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Own,
    Forward,
}

#[derive(Clone, Debug)]
pub(crate) struct QueuedMessage {
    pub(crate) message: Arc<WireMessage>,
    pub(crate) key: IdKey,
}

impl QueuedMessage {
    fn cost(&self) -> usize {
        self.message.encoded.len() + ENTRY
    }
}

/// Where the next message of a class comes from.
type Source = fn(&mut SendQueue) -> Option<QueuedMessage>;

#[derive(Clone, Debug)]
pub(crate) enum Gossip {
    /// Offers: encoded entries of field 2 of an IHAVE.
    IHave { topic: Arc<str>, ids: Bytes },
    /// Requests: encoded entries of field 1 of an IWANT.
    IWant { ids: Bytes },
    /// A message the peer asked for.
    Served(QueuedMessage),
    /// A part of a message: an encoded field 10 of the RPC.
    Partial(Bytes),
}

impl Gossip {
    fn cost(&self) -> usize {
        ENTRY
            + match self {
                Self::IHave { ids, .. } | Self::IWant { ids } => ids.len(),
                Self::Served(message) => message.message.encoded.len(),
                Self::Partial(field) => field.len(),
            }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum MeshChange {
    Graft,
    /// Seconds of backoff, unless the peer's version has none, and encoded peers.
    Prune {
        backoff: Option<u64>,
        peers: Bytes,
    },
}

#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    hello: Option<Extensions>,
    test: bool,
    subscriptions: Vec<(Arc<str>, bool, (bool, bool))>,
    mesh: Vec<(Arc<str>, MeshChange)>,
    idontwant: VecDeque<Bytes>,
    own: VecDeque<QueuedMessage>,
    forward: VecDeque<QueuedMessage>,
    gossip: VecDeque<Gossip>,
    bytes: usize,
    items: usize,
    /// Whether the owner knows that something waits.
    pub(crate) announced: bool,
    /// Something was dropped since the queue was last half empty.
    pub(crate) lossy: bool,
    /// Messages dropped.
    pub(crate) dropped: u64,
    /// Until when the last frame may take because it is long.
    pub(crate) patience: Option<Instant>,
}

impl SendQueue {
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) const fn items(&self) -> usize {
        self.items
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items == 0
            && self.hello.is_none()
            && !self.test
            && self.subscriptions.is_empty()
            && self.mesh.is_empty()
            && self.idontwant.is_empty()
    }

    /// Forgets everything: the stream begins anew. Returns the messages that were lost.
    pub(crate) fn clear(&mut self) -> Vec<QueuedMessage> {
        let old = std::mem::take(self);
        (self.announced, self.dropped) = (old.announced, old.dropped);
        old.own.into_iter().chain(old.forward).collect()
    }

    pub(crate) const fn push_hello(&mut self, extensions: Extensions) {
        self.hello = Some(extensions);
    }

    pub(crate) const fn push_test(&mut self) {
        self.test = true;
    }

    /// The newest change of a topic replaces an older one that waits, so that there are never more than topics.
    pub(crate) fn push_subscription(
        &mut self,
        topic: &Arc<str>,
        subscribe: bool,
        partial: (bool, bool),
    ) {
        self.subscriptions.retain(|(t, ..)| t != topic);
        self.subscriptions.push((topic.clone(), subscribe, partial));
    }

    /// As [`push_subscription`](Self::push_subscription).
    pub(crate) fn push_mesh(&mut self, topic: &Arc<str>, change: MeshChange) {
        self.mesh.retain(|(t, _)| t != topic);
        self.mesh.push((topic.clone(), change));
    }

    /// `id` is an encoded entry of field 1 of an IDONTWANT.
    pub(crate) fn push_idontwant(&mut self, id: Bytes) {
        if self.idontwant.len() >= MAX_IDONTWANT {
            self.idontwant.pop_front();
        }
        self.idontwant.push_back(id);
    }

    /// Queues a message. `displaced` gets the messages that had to give way.
    pub(crate) fn push_message(
        &mut self,
        class: Class,
        message: QueuedMessage,
        limits: &QueueLimits,
        mut displaced: impl FnMut(Option<IdKey>),
    ) -> Result<(), DropReason> {
        let cost = message.cost();
        while !self.fits(cost, limits) {
            if let Some(entry) = self.gossip.pop_front() {
                self.uncount(entry.cost());
                displaced(None);
            } else if let Some(old) = self.forward.pop_front() {
                self.uncount(old.cost());
                self.dropped += 1;
                displaced(Some(old.key));
            } else {
                break;
            }
        }
        if !self.fits(cost, limits) {
            self.dropped += 1;
            self.lossy = true;
            return Err(DropReason::QueueFull);
        }
        self.bytes += cost;
        self.items += 1;
        match class {
            Class::Own => self.own.push_back(message),
            Class::Forward => self.forward.push_back(message),
        }
        Ok(())
    }

    /// Queues gossip if there is room; nothing gives way to it.
    pub(crate) fn push_gossip(
        &mut self,
        gossip: Gossip,
        limits: &QueueLimits,
    ) -> Result<(), DropReason> {
        let cost = gossip.cost();
        if !self.fits(cost, limits) {
            self.lossy = true;
            return Err(DropReason::QueueFull);
        }
        self.bytes += cost;
        self.items += 1;
        self.gossip.push_back(gossip);
        Ok(())
    }

    const fn fits(&self, cost: usize, limits: &QueueLimits) -> bool {
        self.items == 0 || (self.items < limits.max_items && self.bytes + cost <= limits.max_bytes)
    }

    const fn uncount(&mut self, cost: usize) {
        self.bytes -= cost;
        self.items -= 1;
        self.lossy = true;
    }

    /// The next frame, or `None` if nothing waits. `unwanted` says of a message that the peer does not want it any more;
    /// `skipped` counts those.
    pub(crate) fn next_frame(
        &mut self,
        limits: &PeerLimits,
        max_idontwant: usize,
        unwanted: impl Fn(IdKey) -> bool,
        skipped: &mut u64,
    ) -> Option<OutFrame> {
        let mut frame = Builder::new(limits);
        self.take_control(&mut frame, max_idontwant);
        let own: Source = |queue| queue.own.pop_front();
        let forward: Source = |queue| queue.forward.pop_front();
        for (source, put_back) in [(own, Class::Own), (forward, Class::Forward)] {
            while let Some(message) = source(self) {
                if unwanted(message.key) {
                    *skipped += 1;
                    self.take_off(message.cost());
                    continue;
                }
                let cost = message.cost();
                match frame.push_message(message.message) {
                    Ok(()) => self.take_off(cost),
                    Err(back) => {
                        let message = QueuedMessage {
                            message: back,
                            key: message.key,
                        };
                        match put_back {
                            Class::Own => self.own.push_front(message),
                            Class::Forward => self.forward.push_front(message),
                        }
                        return Some(frame.finish());
                    }
                }
            }
        }
        while let Some(entry) = self.gossip.pop_front() {
            let cost = entry.cost();
            let rest = match entry {
                Gossip::IHave { topic, mut ids } => {
                    frame.push_ihave(&topic, &mut ids);
                    (!ids.is_empty()).then_some(Gossip::IHave { topic, ids })
                }
                Gossip::IWant { mut ids } => {
                    frame.push_iwant(&mut ids);
                    (!ids.is_empty()).then_some(Gossip::IWant { ids })
                }
                Gossip::Served(message) if unwanted(message.key) => {
                    *skipped += 1;
                    None
                }
                Gossip::Served(message) => match frame.push_message(message.message) {
                    Ok(()) => None,
                    Err(back) => Some(Gossip::Served(QueuedMessage {
                        message: back,
                        key: message.key,
                    })),
                },
                Gossip::Partial(field) => frame.push_other(field).err().map(Gossip::Partial),
            };
            let Some(rest) = rest else {
                self.take_off(cost);
                continue;
            };
            if rest.cost() == cost && frame.is_empty() {
                // It fits no frame at all.
                self.take_off(cost);
                continue;
            }
            self.bytes -= cost - rest.cost();
            self.gossip.push_front(rest);
            return Some(frame.finish());
        }
        self.shrink();
        (!frame.is_empty()).then(|| frame.finish())
    }

    const fn take_off(&mut self, cost: usize) {
        self.bytes -= cost;
        self.items -= 1;
    }

    fn take_control(&mut self, frame: &mut Builder<'_>, max_idontwant: usize) {
        if let Some(extensions) = self.hello.take()
            && extensions != Extensions::default()
        {
            encode::put_extensions(&extensions, &mut frame.control);
        }
        if std::mem::take(&mut self.test) {
            encode::put_head(TEST_EXTENSION, 0, &mut frame.head);
        }
        let fitting = |len: usize, frame: &Builder<'_>| frame.control_room() >= len;
        let mut sent = 0;
        for (topic, subscribe, partial) in &self.subscriptions {
            if !fitting(encode::subscription_len(topic), frame) {
                break;
            }
            encode::put_subscription(topic, *subscribe, *partial, &mut frame.head);
            sent += 1;
        }
        self.subscriptions.drain(..sent);
        if !self.subscriptions.is_empty() {
            // A GRAFT must not overtake the subscription it belongs to.
            return;
        }
        sent = 0;
        for (topic, change) in &self.mesh {
            let peers = match change {
                MeshChange::Graft => 0,
                MeshChange::Prune { peers, .. } => peers.len(),
            };
            let mut len = topic.len() + peers + 32;
            if len > frame.control_limit() {
                // The peers offered do not fit any frame of this peer; the PRUNE itself does.
                len -= peers;
            }
            if !fitting(len, frame) {
                break;
            }
            match change {
                MeshChange::Graft => encode::put_graft(topic, &mut frame.control),
                MeshChange::Prune { backoff, peers } => {
                    let all = topic.len() + peers.len() + 32 == len;
                    let peers: &[u8] = if all { peers } else { &[] };
                    encode::put_prune(topic, peers, *backoff, &mut frame.control);
                }
            }
            sent += 1;
        }
        self.mesh.drain(..sent);
        let mut ids = BytesMut::new();
        let room = frame.control_room().saturating_sub(16);
        for _ in 0..max_idontwant {
            if self
                .idontwant
                .front()
                .is_none_or(|id| ids.len() + id.len() > room)
            {
                break;
            }
            if let Some(id) = self.idontwant.pop_front() {
                ids.extend_from_slice(&id);
            }
        }
        if !ids.is_empty() {
            encode::put_bytes(5, &ids, &mut frame.control);
        }
    }

    /// Gives memory back that a burst took.
    fn shrink(&mut self) {
        if self.is_empty() {
            let old = std::mem::take(self);
            (self.announced, self.lossy, self.dropped) = (old.announced, old.lossy, old.dropped);
            // Queues of a busy peer keep their room.
            if old.forward.capacity() <= 64 {
                self.forward = old.forward;
            }
            if old.gossip.capacity() <= 16 {
                self.gossip = old.gossip;
            }
        }
    }
}

/// Assembles one frame.
struct Builder<'a> {
    limits: &'a PeerLimits,
    /// Short fields of the RPC itself.
    head: BytesMut,
    control: BytesMut,
    messages: Vec<Arc<WireMessage>>,
    message_bytes: usize,
    other: Option<Bytes>,
}

impl<'a> Builder<'a> {
    fn new(limits: &'a PeerLimits) -> Self {
        Self {
            limits,
            head: BytesMut::new(),
            control: BytesMut::new(),
            messages: Vec::new(),
            message_bytes: 0,
            other: None,
        }
    }

    fn is_empty(&self) -> bool {
        self.head.is_empty()
            && self.control.is_empty()
            && self.messages.is_empty()
            && self.other.is_none()
    }

    /// Bytes so far, with the head of the control field.
    fn len(&self) -> usize {
        let control = if self.control.is_empty() {
            0
        } else {
            encode::field_len(3, self.control.len())
        };
        self.head.len() + control + self.message_bytes
    }

    /// Bytes of control entries and subscriptions that a frame may have.
    fn control_limit(&self) -> usize {
        self.limits
            .max_control
            .min(self.limits.max_rpc)
            .saturating_sub(16)
    }

    fn control_room(&self) -> usize {
        let used = self.head.len() + self.control.len();
        let frame = self.limits.max_rpc.saturating_sub(self.len() + 16);
        self.control_limit().saturating_sub(used).min(frame)
    }

    fn push_message(&mut self, message: Arc<WireMessage>) -> Result<(), Arc<WireMessage>> {
        let len = encode::field_len(2, message.encoded.len());
        let total = self.len() + len;
        let first = self.messages.is_empty();
        let fits = total <= self.limits.pack || (first && total <= self.limits.max_rpc);
        if !fits && !(self.is_empty()) || self.messages.len() >= self.limits.max_messages {
            return Err(message);
        }
        self.message_bytes += len;
        self.messages.push(message);
        Ok(())
    }

    /// One to a frame: the field is no list, so that a second would be merged into the first.
    fn push_other(&mut self, field: Bytes) -> Result<(), Bytes> {
        if self.other.is_some() || self.len() + field.len() > self.limits.max_rpc {
            return Err(field);
        }
        self.message_bytes += field.len();
        self.other = Some(field);
        Ok(())
    }

    /// Adds as many ids as fit and leaves the rest.
    fn push_ihave(&mut self, topic: &str, ids: &mut Bytes) {
        let room = self.control_room().saturating_sub(topic.len() + 16);
        let taken = split_elements(ids, room);
        if !taken.is_empty() {
            encode::put_ihave(topic, &taken, &mut self.control);
        }
    }

    fn push_iwant(&mut self, ids: &mut Bytes) {
        let room = self.control_room().saturating_sub(16);
        let taken = split_elements(ids, room);
        if !taken.is_empty() {
            encode::put_bytes(2, &taken, &mut self.control);
        }
    }

    fn finish(self) -> OutFrame {
        let len = self.len();
        let copied: usize = self
            .messages
            .iter()
            .map(|m| m.encoded.len())
            .filter(|len| *len < COPY_BELOW)
            .sum();
        let heads = 16 * self.messages.len();
        let mut buf =
            BytesMut::with_capacity(16 + self.head.len() + self.control.len() + copied + heads);
        let mut chunks = Vec::new();
        varint::encode(len as u64, &mut buf);
        buf.extend_from_slice(&self.head);
        if !self.control.is_empty() {
            encode::put_bytes(3, &self.control, &mut buf);
        }
        for message in &self.messages {
            encode::put_head(2, message.encoded.len(), &mut buf);
            for chunk in message.encoded.chunks() {
                if chunk.len() < COPY_BELOW {
                    buf.extend_from_slice(chunk);
                } else {
                    chunks.push(buf.split().freeze());
                    chunks.push(chunk.clone());
                }
            }
        }
        if let Some(field) = self.other {
            if !buf.is_empty() {
                chunks.push(buf.split().freeze());
            }
            chunks.push(field);
        }
        if !buf.is_empty() {
            chunks.push(buf.freeze());
        }
        OutFrame {
            len: chunks.iter().map(Bytes::len).sum(),
            chunks,
            messages: self.messages.len(),
        }
    }
}

/// Takes as many whole length-delimited fields off the front as fit `room` bytes.
fn split_elements(fields: &mut Bytes, room: usize) -> Bytes {
    if fields.len() <= room {
        return std::mem::take(fields);
    }
    let mut end = 0;
    // Each is a tag of one byte, a length and the bytes: written here, so well formed.
    while let Some(rest) = fields.get(end + 1..)
        && let Ok(Some((len, used))) = varint::decode(rest)
    {
        let next = end + 1 + used + len as usize;
        if next > room {
            break;
        }
        end = next;
    }
    fields.split_to(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Author, Payload, RpcLimits, rpc::Rpc};

    fn message(size: usize, key: IdKey) -> QueuedMessage {
        let made = Author::anonymous().message("t", vec![key as u8; size].into());
        QueuedMessage {
            message: made.message,
            key,
        }
    }

    fn drain(queue: &mut SendQueue, limits: &PeerLimits) -> Vec<(usize, Rpc)> {
        let mut out = Vec::new();
        let mut skipped = 0;
        while let Some(frame) = queue.next_frame(limits, 10, |key| key == 99, &mut skipped) {
            let all = Payload::from_chunks(frame.chunks);
            assert_eq!(all.len(), frame.len);
            let bytes = all.to_bytes();
            let (len, used) = varint::decode(&bytes).unwrap().unwrap();
            assert_eq!(len as usize, bytes.len() - used);
            assert!(len as usize <= limits.max_rpc, "{len}");
            let rpc = Rpc::decode(&bytes.slice(used..).into(), &RpcLimits::default()).unwrap();
            assert_eq!(rpc.publish.len(), frame.messages);
            out.push((len as usize, rpc));
        }
        assert!(queue.is_empty());
        assert_eq!((queue.bytes(), queue.items()), (0, 0));
        out
    }

    #[test]
    fn classes_give_way_in_order() {
        let limits = QueueLimits {
            max_bytes: 5 * 1200,
            max_items: 100,
        };
        let mut queue = SendQueue::default();
        let mut gone = Vec::new();
        for key in 0..2 {
            queue
                .push_gossip(Gossip::Served(message(1000, key)), &limits)
                .unwrap();
        }
        for key in 10..20 {
            queue
                .push_message(Class::Forward, message(1000, key), &limits, |k| {
                    gone.push(k)
                })
                .unwrap();
        }
        assert_eq!(gone[..2], [None, None]);
        assert_eq!(
            gone[2..],
            [10, 11, 12, 13, 14].map(Some),
            "the oldest forward first"
        );
        assert!(
            queue
                .push_gossip(Gossip::Served(message(1000, 3)), &limits)
                .is_err()
        );
        gone.clear();
        for key in 20..25 {
            queue
                .push_message(Class::Own, message(1000, key), &limits, |k| gone.push(k))
                .unwrap();
        }
        assert_eq!(gone, [15, 16, 17, 18, 19].map(Some));
        let refused = queue.push_message(Class::Own, message(1000, 30), &limits, |_| panic!("own"));
        assert_eq!(refused, Err(DropReason::QueueFull));
        let refused = queue.push_message(Class::Forward, message(1000, 31), &limits, |_| {
            panic!("own")
        });
        assert_eq!(refused, Err(DropReason::QueueFull));
        assert!(queue.lossy && queue.dropped == 12);
        let sent: Vec<u8> = drain(&mut queue, &PeerLimits::GO)
            .iter()
            .flat_map(|(_, rpc)| &rpc.publish)
            .map(|m| m.data.as_ref().unwrap().to_bytes()[0])
            .collect();
        assert_eq!(sent, [20, 21, 22, 23, 24]);
    }

    #[test]
    fn a_message_longer_than_the_queue_goes_alone() {
        let limits = QueueLimits {
            max_bytes: 100,
            max_items: 10,
        };
        let mut queue = SendQueue::default();
        queue
            .push_message(Class::Own, message(5000, 1), &limits, |_| {})
            .unwrap();
        assert!(
            queue
                .push_message(Class::Own, message(1, 2), &limits, |_| {})
                .is_err()
        );
        assert_eq!(drain(&mut queue, &PeerLimits::GO).len(), 1);
    }

    #[test]
    fn rusts_limits_are_kept() {
        let limits = QueueLimits::default();
        let mut queue = SendQueue::default();
        for topic in 0..200 {
            let topic: Arc<str> = format!("{topic:0>200}").into();
            queue.push_subscription(&topic, true, (false, false));
            queue.push_mesh(&topic, MeshChange::Graft);
        }
        let mut ids = BytesMut::new();
        for id in 0..5000u64 {
            encode::put_bytes(2, &[&[1; 38][..], &id.to_be_bytes()].concat(), &mut ids);
        }
        queue
            .push_gossip(
                Gossip::IHave {
                    topic: "t".into(),
                    ids: ids.freeze(),
                },
                &limits,
            )
            .unwrap();
        for key in 0..40 {
            queue
                .push_message(Class::Forward, message(3000, key), &limits, |_| {})
                .unwrap();
        }
        queue
            .push_message(Class::Own, message(57_000, 50), &limits, |_| {})
            .unwrap();
        for key in 0..2000 {
            queue
                .push_message(Class::Forward, message(1, key % 90), &limits, |_| {})
                .unwrap();
        }
        let frames = drain(&mut queue, &PeerLimits::RUST);
        let (mut subs, mut grafts, mut ids, mut messages) = (0, 0, 0, 0);
        for (_, rpc) in &frames {
            let control: usize = rpc
                .subscriptions
                .iter()
                .map(|s| s.topic.len() + 12)
                .sum::<usize>()
                + rpc.control.graft.iter().map(|g| g.len() + 6).sum::<usize>()
                + rpc
                    .control
                    .ihave
                    .iter()
                    .flat_map(|i| &i.ids)
                    .map(|id| id.len() + 2)
                    .sum::<usize>();
            assert!(control <= 16 << 10, "{control}");
            assert!(rpc.publish.len() <= 500);
            subs += rpc.subscriptions.len();
            grafts += rpc.control.graft.len();
            ids += rpc.control.ihave.iter().map(|i| i.ids.len()).sum::<usize>();
            messages += rpc.publish.len();
        }
        assert_eq!((subs, grafts, ids, messages), (200, 200, 5000, 2041));
        let first_graft = frames
            .iter()
            .position(|(_, rpc)| !rpc.control.graft.is_empty())
            .unwrap();
        assert!(
            frames[first_graft + 1..]
                .iter()
                .all(|(_, rpc)| rpc.subscriptions.is_empty())
        );
    }

    #[test]
    fn the_newest_change_of_a_topic_counts() {
        let mut queue = SendQueue::default();
        let topic: Arc<str> = "t".into();
        let none = MeshChange::Prune {
            backoff: Some(60),
            peers: Bytes::new(),
        };
        for _ in 0..1000 {
            queue.push_mesh(&topic, MeshChange::Graft);
            queue.push_mesh(&topic, none.clone());
            queue.push_subscription(&topic, true, (false, false));
            queue.push_subscription(&topic, false, (false, false));
        }
        let frames = drain(&mut queue, &PeerLimits::GO);
        let [(_, rpc)] = &frames[..] else {
            panic!("one frame")
        };
        assert_eq!(
            (rpc.control.prune.len(), rpc.control.prune[0].backoff),
            (1, 60)
        );
        assert!(rpc.control.graft.is_empty());
        assert!(!rpc.subscriptions[0].subscribe && rpc.subscriptions.len() == 1);
    }

    #[test]
    fn idontwant_goes_ten_at_a_time_and_first() {
        let mut queue = SendQueue::default();
        for id in 0..25u8 {
            let mut field = BytesMut::new();
            encode::put_bytes(1, &[id; 40], &mut field);
            queue.push_idontwant(field.freeze());
        }
        queue
            .push_message(
                Class::Forward,
                message(10, 99),
                &QueueLimits::default(),
                |_| {},
            )
            .unwrap();
        let frames = drain(&mut queue, &PeerLimits::GO);
        let counts: Vec<usize> = frames
            .iter()
            .map(|(_, rpc)| rpc.control.idontwant.len())
            .collect();
        assert_eq!(counts, [10, 10, 5]);
        assert!(
            frames.iter().all(|(_, rpc)| rpc.publish.is_empty()),
            "99 is not wanted"
        );
    }
}
