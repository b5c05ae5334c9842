//! Subscribing and publishing over gossipsub.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use crate::{Failure, PublishOptions, Stack, SubscribeOptions, emit_line, serve::wait_for_end};

/// How long a subscriber waits for a mesh with peers that may subscribe to nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// A message as a subscriber sees it.
pub struct Message {
    /// The peer id of the author, if the message names one.
    pub from: Option<String>,
    pub topic: String,
    pub data: Vec<u8>,
}

impl Message {
    /// Prints it as one line.
    pub fn tell(&self) {
        tell("message", self.from.as_deref(), &self.topic, &self.data);
    }
}

fn tell(event: &str, from: Option<&str>, topic: &str, data: &[u8]) {
    let sha256: String = Sha256::digest(data)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    emit_line(
        &json!({ "event": event, "from": from, "topic": topic, "len": data.len(), "sha256": sha256 }),
    );
}

/// A node that gossips. It makes progress while one of these runs.
pub trait Gossip: Send {
    /// Returns when a peer is subscribed to the topic and would be sent a message; for a subscriber, when the node is in the mesh.
    fn reached(&mut self, topic: &str) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Returns when a peer that gossips is connected.
    fn connected(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The next message of any topic. Nothing is lost when this is dropped.
    fn next(&mut self) -> impl Future<Output = Result<Message, Failure>> + Send;

    /// Publishes, waiting while too much is on its way.
    fn publish(
        &mut self,
        topic: &str,
        data: Vec<u8>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Returns when everything has been written, with the time when it had, and how many messages were not.
    fn flush(&mut self) -> impl Future<Output = Result<(Instant, usize), Failure>> + Send;

    /// Keeps the node going for so long.
    fn stay(&mut self, time: Duration) -> impl Future<Output = Result<(), Failure>> + Send;

    fn unsubscribe(&mut self, topic: &str) -> Result<(), Failure>;
}

/// The node of a stack without gossipsub.
pub enum NoGossip {}

impl Gossip for NoGossip {
    async fn reached(&mut self, _: &str) -> Result<(), Failure> {
        match *self {}
    }

    async fn connected(&mut self) -> Result<(), Failure> {
        match *self {}
    }

    async fn next(&mut self) -> Result<Message, Failure> {
        match *self {}
    }

    async fn publish(&mut self, _: &str, _: Vec<u8>) -> Result<(), Failure> {
        match *self {}
    }

    async fn flush(&mut self) -> Result<(Instant, usize), Failure> {
        match *self {}
    }

    async fn stay(&mut self, _: Duration) -> Result<(), Failure> {
        match *self {}
    }

    fn unsubscribe(&mut self, _: &str) -> Result<(), Failure> {
        match *self {}
    }
}

#[derive(Default)]
struct Received {
    count: usize,
    bytes: usize,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Received {
    fn add(&mut self, message: &Message) {
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.count += 1;
        self.bytes += message.data.len();
    }

    fn tell(&self) {
        let secs = match (self.first, self.last) {
            (Some(first), Some(last)) => (last - first).as_secs_f64(),
            _ => 0.0,
        };
        emit_line(
            &json!({ "event": "received", "count": self.count, "bytes": self.bytes, "secs": secs }),
        );
    }
}

pub(crate) async fn subscribe<S: Stack>(options: &SubscribeOptions) -> Result<(), Failure> {
    let mut received = Received::default();
    let work = async {
        let mut node = S::gossip(&options.stack, &options.gossip, &options.addrs, true).await?;
        let ended = wait_for_end();
        tokio::pin!(ended);
        for topic in &options.gossip.topic {
            let reached = async {
                if let Ok(reached) = timeout(PATIENCE, node.reached(topic)).await {
                    return reached;
                }
                node.connected().await
            };
            tokio::select! {
                reached = reached => reached?,
                ended = &mut ended => return ended,
            }
        }
        emit_line(&json!({ "event": "subscribed", "topics": options.gossip.topic }));
        let show = !options.gossip.quiet
            && (options.gossip.verbose || options.expect.is_none_or(|expect| expect <= 1000));
        while options.expect.is_none_or(|expect| received.count < expect) {
            tokio::select! {
                message = node.next() => {
                    let message = message?;
                    received.add(&message);
                    if show {
                        message.tell();
                    }
                }
                ended = &mut ended => {
                    received.tell();
                    return ended;
                }
            }
        }
        received.tell();
        if options.leave {
            for topic in &options.gossip.topic {
                node.unsubscribe(topic)?;
            }
            emit_line(&json!({ "event": "unsubscribed", "topics": options.gossip.topic }));
            tokio::select! {
                stayed = node.stay(options.timeout) => stayed?,
                ended = &mut ended => ended?,
            }
        }
        Ok(())
    };
    match timeout(options.timeout, work).await {
        Ok(done) => done,
        Err(_) => {
            received.tell();
            match options.expect {
                Some(expect) if received.count < expect => Err(format!(
                    "got {} of {expect} messages within {:?}",
                    received.count, options.timeout
                )
                .into()),
                _ => Ok(()),
            }
        }
    }
}

pub(crate) async fn publish<S: Stack>(options: &PublishOptions) -> Result<(), Failure> {
    let [topic] = options.gossip.topic.as_slice() else {
        return Err("exactly one --topic is needed".into());
    };
    let mut node = S::gossip(
        &options.stack,
        &options.gossip,
        &options.addrs,
        !options.fanout,
    )
    .await?;
    let payload = match (&options.file, options.size) {
        (Some(file), _) => std::fs::read(file)?,
        (None, Some(size)) => {
            let mut payload = vec![0; usize::try_from(size)?];
            getrandom::fill(&mut payload)?;
            payload
        }
        (None, None) => return Err("publish needs --file, or --count and --size".into()),
    };
    node.reached(topic).await?;
    node.stay(options.settle).await?;
    let count = options.count.unwrap_or(1);
    let start = Instant::now();
    for number in 0..count {
        let mut data = payload.clone();
        if options.file.is_none() {
            // Differs from message to message, so that a message id made of the content does.
            for (byte, digit) in data.iter_mut().zip(number.to_le_bytes()) {
                *byte = digit;
            }
        }
        if options.gossip.verbose {
            tell("sent", None, topic, &data);
        }
        node.publish(topic, data).await?;
    }
    let (done, dropped) = node.flush().await?;
    emit_line(&json!({
        "event": "published", "count": count, "bytes": count * payload.len(),
        "secs": (done - start).as_secs_f64(), "dropped": dropped,
    }));
    // What is written is not yet read at the other end, and the end of a connection may overtake it.
    node.stay(options.linger).await
}
