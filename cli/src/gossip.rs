//! `barewire subscribe`, `barewire publish`, and the topics of `barewire listen`.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    fs::File,
    future::Future,
    time::{Duration, Instant},
};

use aws_lc_rs::digest;
use barewire_base::Multiaddr;
use barewire_node::{
    Endpoint, Router,
    protocols::gossip::{
        Gossip, GossipConfig, Message, MessageIdFn, Payload, PublishOptions, SubscribeOptions,
        Subscription, SubscriptionOptions, TraceWriter, Version, core::SignaturePolicy,
    },
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::json;
use tokio::{
    io::AsyncReadExt,
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use crate::{
    args::{GossipArgs, GossipVersion, MessageIds, NodeArgs, PublishArgs, Sign, SubscribeArgs},
    failure::Failure,
    listen::{endpoint, stdin_closed},
    output,
};

/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);
/// How long a subscriber waits for a mesh with nodes that may subscribe to nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// Publications on their way to the router.
const WINDOW: usize = 256;
/// Bytes of them, unless one is longer.
const WINDOW_BYTES: usize = 4 << 20;
/// Above this, messages are counted and not printed unless asked for.
const PRINTED: u64 = 1_000;

/// What the options describe.
fn config(args: &GossipArgs) -> Result<GossipConfig, Failure> {
    let mut router = args.preset.config();
    router.signature_policy = match args.sign {
        Sign::Strict => SignaturePolicy::StrictSign,
        Sign::None => SignaturePolicy::StrictNoSign,
        Sign::Anonymous => SignaturePolicy::Anonymous,
    };
    if args.message_id == MessageIds::Sha256 || args.sign != Sign::Strict {
        router.topic_defaults.message_id = MessageIdFn::Sha256;
    }
    if let Some(heartbeat) = args.heartbeat_ms {
        router.heartbeat_interval = Duration::from_millis(heartbeat);
    }
    let size = args.max_message_size.map(usize::try_from).transpose()?;
    if let Some(size) = size {
        router.topic_defaults.max_message_size = size;
    }
    let mut config = GossipConfig::new(router);
    config.peer_max_rpc = size;
    config.newest = match args.version {
        GossipVersion::Floodsub => Version::Floodsub,
        GossipVersion::V1_0 => Version::V1_0,
        GossipVersion::V1_1 => Version::V1_1,
        GossipVersion::V1_2 => Version::V1_2,
        GossipVersion::V1_3 => Version::V1_3,
    };
    if let Some(file) = &args.gossip_trace {
        config.trace = Some(TraceWriter::new(File::create(file)?));
    }
    Ok(config)
}

/// Starts to gossip.
pub(crate) fn spawn(endpoint: &Endpoint, args: &GossipArgs) -> Result<Gossip, Failure> {
    Ok(Gossip::spawn(endpoint, config(args)?)?)
}

/// Subscribes to a topic; the future takes what comes.
pub(crate) async fn relay(
    gossip: &Gossip,
    topic: &str,
    printed: bool,
    json: bool,
) -> Result<impl Future<Output = ()> + Send + use<>, Failure> {
    let mut subscription = gossip.subscribe(topic).await?;
    Ok(async move {
        while let Some(message) = subscription.next().await {
            if printed {
                print(&message, json);
            }
        }
    })
}

fn print(message: &Message, json: bool) {
    let mut hash = digest::Context::new(&digest::SHA256);
    let data = message.data();
    data.chunks().iter().for_each(|chunk| hash.update(chunk));
    let mut sha256 = String::with_capacity(64);
    for byte in hash.finish().as_ref() {
        // Writing to a string does not fail.
        let _ = write!(sha256, "{byte:02x}");
    }
    let from = message.author().map(|peer| peer.to_string());
    let value = json!({
        "event": "message", "from": from, "topic": &*message.topic, "len": data.len(), "sha256": sha256,
    });
    output::event(json, &value, || {
        let topic = output::printable(&message.topic);
        let from = from.as_deref().unwrap_or("nobody");
        format!("{topic}: {} bytes from {from}, sha256 {sha256}", data.len())
    });
}

/// A node that gossips and is connected to all of `addrs`.
async fn connected(
    addrs: &[Multiaddr],
    args: &GossipArgs,
    node: &NodeArgs,
    patience: Duration,
) -> Result<(Endpoint, Gossip), Failure> {
    let endpoint = endpoint(node).await?;
    let gossip = spawn(&endpoint, args)?;
    gossip.register(Router::builder(endpoint.clone())).spawn()?;
    for addr in addrs {
        match timeout(patience, endpoint.connect(addr.clone())).await {
            Ok(connected) => drop(connected?),
            Err(_) => {
                let sentence = format!(
                    "{addr}: no connection within {patience:?}; check the address or raise --timeout"
                );
                return Err(sentence.into());
            }
        }
    }
    Ok((endpoint, gossip))
}

/// What a subscriber has seen.
#[derive(Default)]
struct Seen {
    count: u64,
    bytes: u64,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Seen {
    fn secs(&self) -> f64 {
        match (self.first, self.last) {
            (Some(first), Some(last)) => last.duration_since(first).as_secs_f64(),
            _ => 0.0,
        }
    }
}

/// Counts or prints messages.
pub(crate) async fn subscribe(args: &SubscribeArgs) -> Result<(), Failure> {
    let json = args.node.json;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (endpoint, gossip) = connected(&args.addrs, &args.gossip, &args.node, args.timeout).await?;
    let room = SubscriptionOptions::default().bounded(1 << 20, 512 << 20);
    let mut subscriptions = Vec::new();
    for topic in &args.topic {
        let options = SubscribeOptions::default();
        subscriptions.push(gossip.subscribe_with(topic, room, options).await?);
    }
    let (sender, mut messages) = tokio::sync::mpsc::channel(WINDOW);
    let mut taking = tokio::task::JoinSet::new();
    for mut subscription in subscriptions {
        let sender = sender.clone();
        taking.spawn(async move {
            while let Some(message) = subscription.next().await {
                if sender.send(message).await.is_err() {
                    break;
                }
            }
            subscription
        });
    }
    drop(sender);
    let meshes = gossip.clone();
    let topics = args.topic.clone();
    let told = tokio::spawn(async move {
        for topic in &topics {
            // Without a mesh too: the nodes may subscribe to nothing.
            let _ = meshes.wait_for_mesh(topic, 1, PATIENCE).await;
        }
        let value = json!({"event": "subscribed", "topics": topics});
        output::event(json, &value, || {
            format!("subscribed to {}", topics.join(", "))
        });
    });
    let shown = !args.gossip.quiet
        && (args.gossip.verbose || args.expect.is_none_or(|expect| expect <= PRINTED));
    let mut seen = Seen::default();
    let receiving = async {
        while args.expect.is_none_or(|expect| seen.count < expect)
            && let Some(message) = messages.recv().await
        {
            let now = Instant::now();
            seen.first.get_or_insert(now);
            seen.last = Some(now);
            seen.count += 1;
            seen.bytes += message.data().len() as u64;
            if shown {
                print(&message, json);
            }
        }
    };
    let deadline = async {
        match args.expect {
            Some(_) => tokio::time::sleep(args.timeout).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = receiving => {}
        () = stdin_closed() => {}
        () = deadline => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // In order: what was waited for has been said before what came.
    let _ = told.await;
    let dropped: u64 = gossip.dropped().await?.values().sum();
    let value = json!({
        "event": "received", "count": seen.count, "bytes": seen.bytes, "secs": seen.secs(),
        "dropped": dropped,
    });
    output::event(json, &value, || {
        let rate = seen.count as f64 / seen.secs().max(1e-9);
        format!(
            "{} messages, {} bytes in {:.3} s, {rate:.0} per second",
            seen.count,
            seen.bytes,
            seen.secs()
        )
    });
    let missing = args.expect.filter(|expect| seen.count < *expect);
    if args.leave && missing.is_none() {
        taking.shutdown().await;
        drop(messages);
        let value = json!({"event": "unsubscribed", "topics": args.topic});
        output::event(json, &value, || format!("left {}", args.topic.join(", ")));
        tokio::select! {
            () = stdin_closed() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    endpoint.shutdown(GOODBYE).await;
    match missing {
        Some(expect) => Err(format!(
            "{} of {expect} messages came; raise --timeout if it is slow",
            seen.count
        )
        .into()),
        None => Ok(()),
    }
}

/// What to publish.
enum Source {
    One(bytes::Bytes),
    Many { count: u64, template: Vec<u8> },
}

impl Source {
    async fn of(args: &PublishArgs) -> Result<Self, Failure> {
        if let Some(file) = &args.file {
            return Ok(Self::One(tokio::fs::read(file).await?.into()));
        }
        if let Some(size) = args.size {
            let mut template = vec![0; usize::try_from(size)?];
            SmallRng::from_rng(&mut rand::rng()).fill_bytes(&mut template);
            return Ok(Self::Many {
                count: args.count.unwrap_or(1),
                template,
            });
        }
        let mut all = Vec::new();
        tokio::io::stdin().read_to_end(&mut all).await?;
        Ok(Self::One(all.into()))
    }

    fn count(&self) -> u64 {
        match self {
            Self::One(_) => 1,
            Self::Many { count, .. } => *count,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::One(data) => data.len(),
            Self::Many { template, .. } => template.len(),
        }
    }

    /// Each differs from the others, so that an id made of the content does.
    fn message(&self, number: u64) -> Payload {
        match self {
            Self::One(data) => data.clone().into(),
            Self::Many { template, .. } => {
                let mut data = template.clone();
                for (to, from) in data.iter_mut().zip(number.to_le_bytes()) {
                    *to = from;
                }
                data.into()
            }
        }
    }
}

/// Publishes messages.
pub(crate) async fn publish(args: &PublishArgs) -> Result<(), Failure> {
    let source = Source::of(args).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (endpoint, gossip) = connected(&args.addrs, &args.gossip, &args.node, args.timeout).await?;
    let topic = &args.topic;
    // In the mesh, as an application that reads would be, but with nobody who reads.
    let nobody: Option<Subscription> = if args.fanout {
        None
    } else {
        let bounds = SubscriptionOptions::default().bounded(0, 0);
        let options = SubscribeOptions::default();
        Some(gossip.subscribe_with(topic, bounds, options).await?)
    };
    gossip
        .wait_for_peers(topic, 1, args.timeout)
        .await
        .map_err(|error| Failure(format!("no node is subscribed to {topic}: {error}")))?;
    tokio::time::sleep(Duration::from_millis(args.settle_ms)).await;
    let options = PublishOptions::default().wait_for_space(args.timeout);
    let window = (WINDOW_BYTES / source.len().max(1)).clamp(1, WINDOW);
    let mut on_their_way = VecDeque::with_capacity(window);
    let mut reached = 0u64;
    let begun = Instant::now();
    for number in 0..source.count() {
        if on_their_way.len() >= window
            && let Some(first) = on_their_way.pop_front()
        {
            reached += u64::from(receipt(first).await? > 0);
        }
        on_their_way.push_back(
            gossip
                .publish_with(topic, source.message(number), options)
                .await?,
        );
    }
    for published in on_their_way {
        reached += u64::from(receipt(published).await? > 0);
    }
    gossip.flush(args.timeout).await?;
    let secs = begun.elapsed().as_secs_f64();
    let count = source.count();
    let bytes = count * source.len() as u64;
    let dropped = gossip.metrics().messages_dropped + (count - reached);
    let value = json!({
        "event": "published", "count": count, "bytes": bytes, "secs": secs, "dropped": dropped,
    });
    output::event(args.node.json, &value, || {
        format!(
            "{count} messages of {} bytes in {secs:.3} s, {dropped} dropped",
            source.len()
        )
    });
    tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(args.linger_ms)) => {}
        _ = terminate.recv() => {}
    }
    drop(nobody);
    endpoint.shutdown(GOODBYE).await;
    Ok(())
}

async fn receipt(published: barewire_node::protocols::gossip::Published) -> Result<usize, Failure> {
    Ok(published.await?.accepted())
}
