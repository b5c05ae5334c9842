//! Gossipsub: the router of [`barewire_gossip`] on the connections of an [`Endpoint`].
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use barewire_node::{Endpoint, Keypair, Router, protocols::gossip::{Gossip, GossipConfig}};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let endpoint = Endpoint::builder(Keypair::generate(&mut rand::rng())).bind().await?;
//! let gossip = Gossip::spawn(&endpoint, GossipConfig::default())?;
//! let router = gossip.register(Router::builder(endpoint)).spawn()?;
//! router.endpoint().connect("/ip4/192.0.2.1/tcp/4001".parse::<barewire_node::Multiaddr>()?).await?;
//!
//! let mut news = gossip.subscribe("news").await?;
//! gossip.wait_for_peers("news", 1, Duration::from_secs(10)).await?;
//! let receipt = gossip.publish("news", "hello").await?;
//! println!("sent to {} peers", receipt.accepted());
//! while let Some(message) = news.next().await {
//!     println!("{} bytes from {:?}", message.data().len(), message.author());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! One task owns the router. It opens one stream to each peer, as soon as identify lists one of the ids or the peer has opened
//! its own, and is the only one to write; streams of peers are only read. It asks the router for a frame when the stream can take
//! it, so that what waits can still give way. Signatures are checked on other threads, validators run in tasks of their own, and
//! subscribers have bounded queues: none of them holds up the router or each other.

mod config;
mod driver;
mod metrics;
mod partial;
mod peer;
mod publish;
mod starts;
mod stream;
mod subscription;
mod trace;
mod validate;
mod verify;

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use barewire_base::{Budget, Fault, PeerId};
use barewire_gossip::{
    Author, Event, PeerStatus, Router as Core, SignaturePolicy, score::Breakdown,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, broadcast, mpsc, oneshot};

pub use self::{
    config::GossipConfig,
    partial::{PartialError, PartialEvent, Partials},
    publish::Receipt,
    subscription::{Subscription, SubscriptionOptions},
    trace::{Replay, ReplayError, TraceWriter},
    validate::Validator,
};
use self::{
    driver::{Driver, Input},
    metrics::Snapshot,
    publish::{Publish, Waiter},
    stream::Handler,
};
use crate::{Endpoint, RouterBuilder, manager::now};

pub use barewire_gossip::{
    self as core, Acceptance, Config, ConfigError, Delivery as Message, DropReason, MessageId,
    MessageIdFn, Payload, PublishOptions, SeqnoPolicy, SubscribeOptions, TopicConfig, Version,
};

/// Inputs that the driver has not looked at.
const INPUTS: usize = 1024;
/// Publications that it has not answered.
const PUBLISHING: usize = 1024;
/// Events that a reader may be behind.
const EVENTS: usize = 1024;
/// Payloads above this are signed on another thread.
const SIGN_ELSEWHERE: usize = 256 << 10;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum GossipEvent {
    /// Our stream to a peer is open.
    Connected {
        /// The peer.
        peer: PeerId,
        /// Version of the protocol.
        version: Version,
    },
    /// A peer is gone.
    Disconnected {
        /// The peer.
        peer: PeerId,
    },
    /// The router reports of a peer.
    Router {
        /// The peer.
        peer: PeerId,
        /// What.
        event: Event,
    },
    /// A validator panicked or took too long.
    ValidatorFailed {
        /// Its topic.
        topic: Arc<str>,
        /// Whether it panicked.
        panicked: bool,
    },
    /// Our stream to a peer was cut because it took nothing for too long.
    StreamCut {
        /// The peer.
        peer: PeerId,
    },
}

/// The endpoint has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the endpoint has ended, and gossip with it")]
pub struct Stopped;

impl Stopped {
    /// Always [`Fault::Local`].
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Local
    }
}

/// Why a topic cannot be subscribed to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The router refuses.
    #[error(transparent)]
    Refused(#[from] core::SubscribeError),
    /// The endpoint has ended.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl SubscribeError {
    /// Who is at fault.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Refused(error) => error.fault(),
            Self::Stopped(error) => error.fault(),
        }
    }
}

/// Why a message is not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The router refuses.
    #[error(transparent)]
    Refused(#[from] core::PublishError),
    /// The endpoint has ended.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl PublishError {
    /// Who is at fault.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Refused(error) => error.fault(),
            Self::Stopped(error) => error.fault(),
        }
    }
}

/// Why waiting came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// It took too long.
    #[error("it did not come to that within {0:?}")]
    Deadline(Duration),
    /// The endpoint has ended.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl WaitError {
    /// Who is at fault.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Deadline(_) => Fault::Network,
            Self::Stopped(error) => error.fault(),
        }
    }
}

/// What handles, streams and the driver share.
pub(crate) struct Common {
    events: broadcast::Sender<GossipEvent>,
    /// A subscription was dropped.
    left: Arc<Notify>,
    snapshot: Mutex<Snapshot>,
    max_len: Arc<AtomicUsize>,
    /// For frames larger than the buffers of a connection allow.
    large: Mutex<Budget>,
    /// Streams cut because they took nothing.
    cut: AtomicU64,
}

impl Common {
    fn emit(&self, event: impl FnOnce() -> GossipEvent) {
        if self.events.receiver_count() > 0 {
            // Fails only when the last reader has just gone.
            let _ = self.events.send(event());
        }
    }

    fn set_max_len(&self, len: usize) {
        self.max_len.store(len, Ordering::Relaxed);
    }
}

/// A node's gossip. Cheap to clone.
#[derive(Clone)]
pub struct Gossip(Arc<Handle>);

struct Handle {
    inputs: mpsc::Sender<Input>,
    common: Arc<Common>,
    author: Arc<Author>,
    versions: Vec<Version>,
    publishing: Arc<Semaphore>,
}

impl fmt::Debug for Gossip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.0.versions.iter().map(|version| version.protocol_id());
        f.debug_list().entries(ids).finish()
    }
}

impl Gossip {
    /// Starts to gossip on the connections of `endpoint`. Peers learn of it when [`register`](Self::register)ed.
    ///
    /// Keeps no reference to the endpoint and ends with it; what is queued then gets a second to leave.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn spawn(endpoint: &Endpoint, config: GossipConfig) -> Result<Self, ConfigError> {
        let seed = config.seed.unwrap_or_else(rand::random);
        let router = Core::new(config.router.clone(), endpoint.peer_id(), seed, now())?;
        let author = match config.router.signature_policy {
            SignaturePolicy::StrictSign => {
                // As go: greater than any number of an earlier life.
                let since = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
                Author::signed(endpoint.keypair(), nanos)
            }
            _ => Author::anonymous(),
        };
        let common = Arc::new(Common {
            events: broadcast::channel(EVENTS).0,
            left: Arc::default(),
            snapshot: Mutex::default(),
            max_len: Arc::new(AtomicUsize::new(router.max_rpc_len())),
            large: Mutex::new(Budget::root(0)),
            cut: AtomicU64::new(0),
        });
        endpoint.add_metrics(Arc::downgrade(&common) as _);
        let (inputs, receiver) = mpsc::channel(INPUTS);
        let handle = Handle {
            inputs,
            common: Arc::clone(&common),
            author: Arc::new(author),
            versions: config.versions(),
            publishing: Arc::new(Semaphore::new(PUBLISHING)),
        };
        let events = endpoint.events();
        let driver = Driver::new(router, common, config, endpoint.downgrade());
        endpoint.spawn_to_the_end(|signals| driver.run(receiver, events, signals));
        Ok(Self(Arc::new(handle)))
    }

    /// Serves the protocols of all versions by a router.
    #[must_use]
    pub fn register(&self, mut builder: RouterBuilder) -> RouterBuilder {
        for version in &self.0.versions {
            let handler = Handler {
                inputs: self.0.inputs.clone(),
                max_len: Arc::clone(&self.0.common.max_len),
            };
            builder = builder.accept(version.protocol_id(), handler);
        }
        builder
    }

    /// Subscribes to a topic. Several subscribers of a topic each get every message.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub async fn subscribe(&self, topic: &str) -> Result<Subscription, SubscribeError> {
        let core = SubscribeOptions::default();
        self.subscribe_with(topic, SubscriptionOptions::default(), core)
            .await
    }

    /// Subscribes with other bounds. What `core` says counts for the first subscriber of the topic.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub async fn subscribe_with(
        &self,
        topic: &str,
        options: SubscriptionOptions,
        core: SubscribeOptions,
    ) -> Result<Subscription, SubscribeError> {
        let name = topic.to_owned();
        let left = Arc::clone(&self.0.common.left);
        // Made by the driver, so that it is not left behind if nobody waits for the answer.
        let subscribed = self.call(move |driver| {
            let (topic, queue) = driver.subscribe(&name, options, core)?;
            Ok(Subscription::new(topic, queue, left))
        });
        subscribed.await?
    }

    /// Signs a message and publishes it to the peers of a topic, whether it is subscribed to or not. Own subscribers do not get
    /// it.
    ///
    /// # Errors
    /// [`PublishError`]. That there are no peers is none: the receipt says so.
    pub async fn publish(
        &self,
        topic: &str,
        data: impl Into<bytes::Bytes>,
    ) -> Result<Receipt, PublishError> {
        let options = PublishOptions::default();
        self.publish_with(topic, data.into().into(), options)
            .await?
            .await
    }

    /// Hands a message to the router and does not wait for the receipt, so that several can be on their way. Waits while a
    /// thousand are.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish_with(
        &self,
        topic: &str,
        data: Payload,
        options: PublishOptions,
    ) -> Result<Published, PublishError> {
        let permit = Arc::clone(&self.0.publishing)
            .acquire_owned()
            .await
            .map_err(|_| Stopped)?;
        let len = data.len();
        let topic: Arc<str> = topic.into();
        let message = if len > SIGN_ELSEWHERE {
            let (author, topic) = (Arc::clone(&self.0.author), Arc::clone(&topic));
            let signing = tokio::task::spawn_blocking(move || author.message(&topic, data));
            signing.await.map_err(|_| Stopped)?
        } else {
            self.0.author.message(&topic, data)
        };
        let (reply, receipt) = oneshot::channel();
        let publish = Publish {
            message,
            topic,
            len,
            options,
            wait_until: options.wait_for_space.map(|time| now() + time),
            reply,
            _permit: permit,
        };
        self.0
            .inputs
            .send(Input::Publish(publish))
            .await
            .map_err(|_| Stopped)?;
        Ok(Published(receipt))
    }

    /// Waits until a message published to the topic would be sent to `count` peers.
    ///
    /// # Errors
    /// [`WaitError`].
    pub async fn wait_for_peers(
        &self,
        topic: &str,
        count: usize,
        deadline: Duration,
    ) -> Result<(), WaitError> {
        self.wait(topic, count, false, deadline).await
    }

    /// Waits until our mesh of the topic has `count` peers.
    ///
    /// # Errors
    /// [`WaitError`].
    pub async fn wait_for_mesh(
        &self,
        topic: &str,
        count: usize,
        deadline: Duration,
    ) -> Result<(), WaitError> {
        self.wait(topic, count, true, deadline).await
    }

    async fn wait(
        &self,
        topic: &str,
        count: usize,
        mesh: bool,
        deadline: Duration,
    ) -> Result<(), WaitError> {
        let topic = topic.into();
        let (reply, reached) = oneshot::channel();
        let waiter = Waiter {
            topic,
            count,
            mesh,
            reply,
        };
        self.call(move |driver| driver.waiters.push(waiter)).await?;
        match tokio::time::timeout(deadline, reached).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Stopped.into()),
            Err(_) => Err(WaitError::Deadline(deadline)),
        }
    }

    /// Waits until everything queued for peers has been given to their connections.
    ///
    /// # Errors
    /// [`WaitError`].
    pub async fn flush(&self, deadline: Duration) -> Result<(), WaitError> {
        let (reply, flushed) = oneshot::channel();
        self.call(move |driver| driver.flushes.push(reply)).await?;
        match tokio::time::timeout(deadline, flushed).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Stopped.into()),
            Err(_) => Err(WaitError::Deadline(deadline)),
        }
    }

    /// Asks a validator about each message of a topic before it is delivered and forwarded; `None` to ask no more. It replaces
    /// an earlier one.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn validate(
        &self,
        topic: &str,
        validator: impl Into<Option<Validator>>,
    ) -> Result<(), Stopped> {
        let (topic, validator) = (topic.to_owned(), validator.into());
        self.call(move |driver| driver.set_validator(&topic, validator))
            .await
    }

    /// Sets what holds for a topic from now on.
    ///
    /// # Errors
    /// [`Stopped`], or inside [`ConfigError`].
    pub async fn configure_topic(
        &self,
        topic: &str,
        config: TopicConfig,
    ) -> Result<Result<(), ConfigError>, Stopped> {
        let topic = topic.to_owned();
        self.call(move |driver| driver.configure(&topic, config))
            .await
    }

    /// Makes a peer a direct one, or no longer: messages always go to it and it is in no mesh. Both sides have to do so.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn set_direct(&self, peer: PeerId, direct: bool) -> Result<(), Stopped> {
        self.call(move |driver| driver.router.set_direct(now(), peer, direct))
            .await
    }

    /// Sets the application's part of the score of a peer.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn set_app_score(&self, peer: PeerId, score: f64) -> Result<(), Stopped> {
        self.call(move |driver| {
            if let Some(key) = driver.router.peer(&peer) {
                driver.router.set_app_score(key, score);
            }
        })
        .await
    }

    /// All peers as the router sees them.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn peers(&self) -> Result<Vec<PeerStatus>, Stopped> {
        self.call(|driver| {
            let router = &driver.router;
            router
                .peers()
                .filter_map(|key| router.status(key))
                .collect()
        })
        .await
    }

    /// The score of a peer taken apart; `None` if it is not here.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn score(&self, peer: PeerId) -> Result<Option<Breakdown>, Stopped> {
        self.call(move |driver| driver.router.score(driver.router.peer(&peer)?))
            .await
    }

    /// Peers in our mesh of a topic.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn mesh(&self, topic: &str) -> Result<Vec<PeerId>, Stopped> {
        let topic = topic.to_owned();
        self.call(move |driver| {
            let keys = driver.router.mesh_peers(&topic);
            keys.into_iter()
                .filter_map(|key| driver.name(key))
                .collect()
        })
        .await
    }

    /// Messages that subscribers of each topic did not take in time.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn dropped(&self) -> Result<HashMap<Arc<str>, u64>, Stopped> {
        self.call(|driver| {
            let topics = driver.topics.iter();
            topics
                .map(|(name, topic)| (Arc::clone(name), topic.dropped()))
                .collect()
        })
        .await
    }

    /// What happens from now on. A reader that falls behind misses events and is told how many by the channel.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<GossipEvent> {
        self.0.common.events.subscribe()
    }

    /// Counters of the router.
    #[must_use]
    pub fn metrics(&self) -> core::Metrics {
        self.0.common.snapshot.lock().counted
    }

    /// Runs in the driver's task.
    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Driver) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        let call = Box::new(move |driver: &mut Driver| {
            // Who asked may have gone.
            let _ = reply.send(call(driver));
        });
        self.0
            .inputs
            .send(Input::Call(call))
            .await
            .map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}

/// A message that was handed to the router; resolves to its receipt. It may be dropped, the message goes out anyway.
#[derive(Debug)]
#[must_use = "the receipt says whether the message went anywhere"]
pub struct Published(oneshot::Receiver<Result<Receipt, core::PublishError>>);

impl Future for Published {
    type Output = Result<Receipt, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| match answer {
            Ok(result) => Ok(result?),
            Err(_) => Err(Stopped.into()),
        })
    }
}
