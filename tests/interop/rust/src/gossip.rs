//! Gossipsub: its configuration, and a node that subscribes and publishes.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use barewire_peer_cli::{Failure, Gossip, GossipOptions, Message, StackOptions};
use futures::StreamExt;
use libp2p::{
    PeerId, Swarm,
    gossipsub::{
        self, ConfigBuilder, IdentTopic, MessageAuthenticity, MessageId, PublishError, TopicHash,
        ValidationMode, Version,
    },
    identity::Keypair,
    swarm::{SwarmEvent, behaviour::toggle::Toggle},
};
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use crate::{
    counted::Written,
    node::{Behaviour, BehaviourEvent, explain, new_swarm},
};

/// A queue that nothing in a test fills; the default of 5,000 drops what it does not take.
const ROOMY: usize = 1 << 20;

/// Nothing goes stale in a queue; by default a forwarded message does after a second.
const STALE: Duration = Duration::from_secs(3600);

/// Bytes that may be on their way when the next message is published: gossipsub itself has no backpressure.
const WINDOW: u64 = 8 << 20;

/// How often the counters are looked at while nothing else happens.
const TICK: Duration = Duration::from_millis(1);

/// Without a byte for so long, everything has been written that will be.
const SILENCE: Duration = Duration::from_millis(100);
const LONG_SILENCE: Duration = Duration::from_secs(5);

pub(crate) fn behaviour(
    key: &Keypair,
    options: &GossipOptions,
) -> Result<gossipsub::Behaviour, Failure> {
    let mut config = ConfigBuilder::default();
    config
        .connection_handler_queue_len(ROOMY)
        .publish_queue_duration(STALE)
        .forward_queue_duration(STALE);
    if let Some(size) = options.max_message_size {
        config.max_transmit_size(usize::try_from(size)?);
    }
    if let Some(heartbeat) = options.heartbeat {
        config.heartbeat_interval(heartbeat);
    }
    match options.version.as_str() {
        "1.3" => {}
        // Offers 1.0 too.
        "1.1" => {
            config.protocol_id_prefix("/meshsub");
        }
        "1.0" => {
            config.protocol_id("/meshsub/1.0.0", Version::V1_0);
        }
        // Not alone: it comes last, behind every gossipsub.
        "floodsub" => {
            config.support_floodsub();
        }
        other => {
            return Err(format!("rust-libp2p cannot leave out what is newer than {other}").into());
        }
    }
    let (authenticity, validation) = match options.sign.as_str() {
        "strict" => (
            MessageAuthenticity::Signed(key.clone()),
            ValidationMode::Strict,
        ),
        "none" => (
            MessageAuthenticity::Author(key.public().to_peer_id()),
            ValidationMode::Permissive,
        ),
        _ => (MessageAuthenticity::Anonymous, ValidationMode::Anonymous),
    };
    config.validation_mode(validation);
    // By default the messages without an author would all have one id.
    if options.message_id == "sha256" || options.sign == "anonymous" {
        config.message_id_fn(|message| MessageId::from(Sha256::digest(&message.data).to_vec()));
    }
    Ok(gossipsub::Behaviour::new(authenticity, config.build()?)?)
}

pub(crate) fn message(message: gossipsub::Message) -> Message {
    Message {
        from: message.source.map(|author| author.to_string()),
        topic: message.topic.into_string(),
        data: message.data,
    }
}

pub(crate) struct Node {
    swarm: Swarm<Behaviour>,
    subscribed: bool,
    written: Written,
    /// What ought to have been written of what was published.
    published: u64,
    overhead: Overhead,
    dropped: usize,
    messages: VecDeque<Message>,
}

impl Node {
    pub(crate) async fn dial(
        stack: &StackOptions,
        options: &GossipOptions,
        addrs: &[String],
        subscribed: bool,
    ) -> Result<Self, Failure> {
        let written = Written::default();
        let mut swarm = new_swarm(stack, addrs, true, None, Some((options, written.clone())))?;
        if subscribed {
            subscribe(&mut swarm, &options.topic)?;
        }
        let mut waiting = HashMap::new();
        for addr in addrs {
            let opts = crate::node::dial_opts(addr.parse()?);
            waiting.insert(opts.connection_id(), addr);
            swarm.dial(opts)?;
        }
        let mut node = Self {
            overhead: Overhead::of(*swarm.local_peer_id(), &options.sign),
            swarm,
            subscribed,
            written,
            published: 0,
            dropped: 0,
            messages: VecDeque::new(),
        };
        while !waiting.is_empty() {
            match node.swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { connection_id, .. } => {
                    waiting.remove(&connection_id);
                }
                SwarmEvent::OutgoingConnectionError {
                    connection_id,
                    error,
                    ..
                } if waiting.contains_key(&connection_id) => return Err(explain(error).into()),
                event => node.handle(event),
            }
        }
        Ok(node)
    }

    fn gossipsub(&mut self) -> Result<&mut gossipsub::Behaviour, Failure> {
        let gossip: &mut Toggle<_> = &mut self.swarm.behaviour_mut().gossip;
        gossip
            .as_mut()
            .ok_or_else(|| "this node does not gossip".into())
    }

    /// Peers that a message published now would go to.
    fn recipients(&mut self, topic: &TopicHash) -> Result<usize, Failure> {
        let gossipsub = self.gossipsub()?;
        Ok(gossipsub
            .all_peers()
            .filter(|(_, topics)| topics.contains(&topic))
            .count())
    }

    /// Drives the node until something has happened or the counters are due.
    async fn drive(&mut self) {
        tokio::select! {
            event = self.swarm.select_next_some() => self.handle(event),
            () = sleep(TICK) => {}
        }
    }

    fn handle(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Message {
                message: received,
                ..
            })) if self.subscribed => self.messages.push_back(message(received)),
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::SlowPeer {
                failed_messages,
                ..
            })) => self.dropped += failed_messages.priority + failed_messages.non_priority,
            _ => {}
        }
    }
}

pub(crate) fn subscribe(swarm: &mut Swarm<Behaviour>, topics: &[String]) -> Result<(), Failure> {
    if let Some(gossip) = swarm.behaviour_mut().gossip.as_mut() {
        for topic in topics {
            gossip.subscribe(&IdentTopic::new(topic))?;
        }
    }
    Ok(())
}

impl Gossip for Node {
    async fn reached(&mut self, topic: &str) -> Result<(), Failure> {
        let topic = TopicHash::from_raw(topic);
        loop {
            let subscribed = self.subscribed;
            let gossipsub = self.gossipsub()?;
            let floods = gossipsub
                .peer_protocol()
                .any(|(_, kind)| kind.as_static_ref() == "Floodsub");
            let meshed = gossipsub.mesh_peers(&topic).next().is_some();
            if (meshed || !subscribed || floods) && self.recipients(&topic)? > 0 {
                return Ok(());
            }
            self.drive().await;
        }
    }

    async fn connected(&mut self) -> Result<(), Failure> {
        while self.gossipsub()?.peer_protocol().next().is_none() {
            self.drive().await;
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Message, Failure> {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Ok(message);
            }
            let event = self.swarm.select_next_some().await;
            self.handle(event);
        }
    }

    async fn publish(&mut self, topic: &str, data: Vec<u8>) -> Result<(), Failure> {
        while self.published > self.written.bytes() + WINDOW {
            self.drive().await;
        }
        let size = self.overhead.frame(topic, data.len());
        let topic = TopicHash::from_raw(topic);
        let recipients = self.recipients(&topic)?;
        match self.gossipsub()?.publish(topic, data) {
            Ok(_) => self.published += size * recipients as u64,
            Err(PublishError::AllQueuesFull(_)) => self.dropped += 1,
            Err(cause) => return Err(cause.into()),
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(Instant, usize), Failure> {
        let (mut last, mut since) = (self.written.bytes(), Instant::now());
        loop {
            let written = self.written.bytes();
            if written != last {
                (last, since) = (written, Instant::now());
            }
            let silence = since.elapsed();
            // The counter has other bytes too, so that reaching the sum is not enough.
            if silence > SILENCE && written >= self.published || silence > LONG_SILENCE {
                return Ok((since, self.dropped));
            }
            self.drive().await;
        }
    }

    async fn stay(&mut self, time: Duration) -> Result<(), Failure> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.drive().await;
        }
        Ok(())
    }

    fn unsubscribe(&mut self, topic: &str) -> Result<(), Failure> {
        self.gossipsub()?.unsubscribe(&IdentTopic::new(topic));
        Ok(())
    }
}

/// What a message is wrapped in on the wire.
struct Overhead {
    fixed: u64,
}

impl Overhead {
    fn of(author: PeerId, sign: &str) -> Self {
        let author = field(author.to_bytes().len()) + field(8);
        Self {
            fixed: match sign {
                "strict" => author + field(64),
                "none" => author,
                _ => 0,
            },
        }
    }

    fn frame(&self, topic: &str, len: usize) -> u64 {
        let message = self.fixed + field(topic.len()) + field(len);
        let rpc = 1 + varint(message) + message;
        varint(rpc) + rpc
    }
}

fn field(len: usize) -> u64 {
    1 + varint(len as u64) + len as u64
}

fn varint(n: u64) -> u64 {
    u64::from((64 - n.leading_zeros()).max(1).div_ceil(7))
}
