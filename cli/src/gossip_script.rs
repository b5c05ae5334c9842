//! `barewire interop gossip`: the contract of the public harness for gossipsub. Every node of a simulated network gets the same
//! script, does what it says for its number, and tells on stdout of each message that comes, duplicates too.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use barewire_base::{Keypair, Multiaddr, PeerId};
use barewire_node::{
    Endpoint, Router,
    protocols::gossip::{
        Acceptance, Config, Gossip, GossipConfig, GossipEvent, MessageIdFn, SubscribeOptions,
        SubscriptionOptions, Validator,
        core::{Event, PartialLimits, SignaturePolicy},
    },
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{sync::broadcast::error::RecvError, task::JoinSet};

use crate::{
    args::IdleTimeout, failure::Failure, gossip_parts::Parts, interop::node_args,
    listen::endpoint_of, output,
};

/// Where every node of the harness listens.
const PORT: u16 = 9000;
/// Longest RPC of the harness.
const MAX_MESSAGE: usize = 10 << 20;
/// All nodes start at the same time, and some dial before others listen.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);
/// Longest delay that the router waits for a validator.
const MAX_DELAY: Duration = Duration::from_secs(50);

/// The file of `--params`.
#[derive(Debug, Deserialize)]
struct Params {
    script: Vec<Instruction>,
}

/// What a node is told to do.
#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
enum Instruction {
    #[serde(rename = "initGossipSub")]
    InitGossipSub {
        #[serde(rename = "gossipSubParams")]
        params: Box<GossipSubParams>,
    },
    #[serde(rename = "ifNodeIDEquals")]
    IfNodeIdEquals {
        #[serde(rename = "nodeID")]
        node: u32,
        instruction: Box<Self>,
    },
    #[serde(rename = "connect")]
    Connect {
        #[serde(rename = "connectTo")]
        nodes: Vec<u32>,
    },
    #[serde(rename = "waitUntil")]
    WaitUntil {
        #[serde(rename = "elapsedSeconds")]
        elapsed: f64,
    },
    #[serde(rename = "subscribeToTopic")]
    SubscribeToTopic {
        #[serde(rename = "topicID")]
        topic: String,
        #[serde(default)]
        partial: bool,
    },
    #[serde(rename = "setTopicValidationDelay")]
    SetTopicValidationDelay {
        #[serde(rename = "topicID")]
        topic: String,
        #[serde(rename = "delaySeconds")]
        delay: f64,
    },
    #[serde(rename = "publish")]
    Publish {
        #[serde(rename = "messageID")]
        id: u64,
        #[serde(rename = "messageSizeBytes")]
        size: usize,
        #[serde(rename = "topicID")]
        topic: String,
    },
    #[serde(rename = "addPartialMessage")]
    AddPartialMessage {
        parts: u8,
        #[serde(rename = "topicID")]
        topic: String,
        #[serde(rename = "groupID")]
        group: u64,
    },
    #[serde(rename = "publishPartial")]
    PublishPartial {
        #[serde(rename = "topicID")]
        topic: String,
        #[serde(rename = "groupID")]
        group: u64,
        #[serde(rename = "publishToNodeIDs", default)]
        nodes: Vec<u32>,
    },
}

/// go-libp2p-pubsub's parameters by its names; what is missing keeps go's default, which is ours. Times are nanoseconds.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
struct GossipSubParams {
    d: Option<usize>,
    dlo: Option<usize>,
    dhi: Option<usize>,
    dscore: Option<usize>,
    dout: Option<usize>,
    history_length: Option<usize>,
    history_gossip: Option<usize>,
    dlazy: Option<usize>,
    gossip_factor: Option<f64>,
    gossip_retransmission: Option<u8>,
    heartbeat_initial_delay: Option<f64>,
    heartbeat_interval: Option<f64>,
    /// It only logs.
    #[serde(rename = "SlowHeartbeatWarning")]
    _slow_heartbeat_warning: Option<f64>,
    #[serde(rename = "FanoutTTL")]
    fanout_ttl: Option<f64>,
    prune_peers: Option<usize>,
    prune_backoff: Option<f64>,
    unsubscribe_backoff: Option<f64>,
    connectors: Option<usize>,
    max_pending_connections: Option<usize>,
    connection_timeout: Option<f64>,
    direct_connect_ticks: Option<u64>,
    direct_connect_initial_delay: Option<f64>,
    opportunistic_graft_ticks: Option<u64>,
    opportunistic_graft_peers: Option<usize>,
    graft_flood_threshold: Option<f64>,
    #[serde(rename = "MaxIHaveLength")]
    max_ihave_length: Option<usize>,
    #[serde(rename = "MaxIHaveMessages")]
    max_ihave_messages: Option<u32>,
    #[serde(rename = "MaxIDontWantLength")]
    max_idontwant_length: Option<usize>,
    #[serde(rename = "MaxIDontWantMessages")]
    max_idontwant_messages: Option<u32>,
    #[serde(rename = "IWantFollowupTime")]
    iwant_followup: Option<f64>,
    #[serde(rename = "IDontWantMessageThreshold")]
    idontwant_threshold: Option<usize>,
    /// Heartbeats, as in go.
    #[serde(rename = "IDontWantMessageTTL")]
    idontwant_ttl: Option<u32>,
}

impl GossipSubParams {
    /// What the harness demands of everybody, with these parameters.
    fn config(&self) -> Result<GossipConfig, Failure> {
        let mut router = Config::default();
        router.signature_policy = SignaturePolicy::Anonymous;
        router.topic_defaults.message_id = MessageIdFn::DataPrefix(8);
        router.topic_defaults.max_message_size = MAX_MESSAGE;
        router.partial_messages = Some(PartialLimits::default());
        router.report_receipts = true;
        set(&mut router.d, self.d);
        set(&mut router.d_low, self.dlo);
        set(&mut router.d_high, self.dhi);
        set(&mut router.d_score, self.dscore);
        set(&mut router.d_out, self.dout);
        set(&mut router.history_length, self.history_length);
        set(&mut router.history_gossip, self.history_gossip);
        set(&mut router.d_lazy, self.dlazy);
        set(&mut router.gossip_factor, self.gossip_factor);
        set(
            &mut router.gossip_retransmission,
            self.gossip_retransmission,
        );
        set(&mut router.prune_peers, self.prune_peers);
        set(&mut router.direct_connect_ticks, self.direct_connect_ticks);
        set(
            &mut router.opportunistic_graft_ticks,
            self.opportunistic_graft_ticks,
        );
        set(
            &mut router.opportunistic_graft_peers,
            self.opportunistic_graft_peers,
        );
        set(&mut router.max_ihave_length, self.max_ihave_length);
        set(&mut router.max_ihave_messages, self.max_ihave_messages);
        set(&mut router.max_idontwant_length, self.max_idontwant_length);
        set(
            &mut router.max_idontwant_messages,
            self.max_idontwant_messages,
        );
        set(&mut router.idontwant_threshold, self.idontwant_threshold);
        set(&mut router.idontwant_ttl, self.idontwant_ttl);
        for (field, nanos) in [
            (
                &mut router.heartbeat_initial_delay,
                self.heartbeat_initial_delay,
            ),
            (&mut router.heartbeat_interval, self.heartbeat_interval),
            (&mut router.fanout_ttl, self.fanout_ttl),
            (&mut router.prune_backoff, self.prune_backoff),
            (&mut router.unsubscribe_backoff, self.unsubscribe_backoff),
            (
                &mut router.direct_connect_initial_delay,
                self.direct_connect_initial_delay,
            ),
            (
                &mut router.graft_flood_threshold,
                self.graft_flood_threshold,
            ),
            (&mut router.iwant_followup, self.iwant_followup),
        ] {
            set(field, nanos.map(|nanos| time(nanos / 1e9)).transpose()?);
        }
        let mut config = GossipConfig::new(router);
        config.peer_max_rpc = Some(MAX_MESSAGE);
        set(&mut config.exchange_dials, self.connectors);
        set(&mut config.exchange_waiting, self.max_pending_connections);
        let timeout = self.connection_timeout.map(|nanos| time(nanos / 1e9));
        set(&mut config.exchange_timeout, timeout.transpose()?);
        Ok(config)
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

fn time(seconds: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|cause| format!("{seconds} s in the script is no time: {cause}").into())
}

impl Params {
    fn read(file: &Path) -> Result<Self, Failure> {
        let text = std::fs::read(file)?;
        serde_json::from_slice(&text)
            .map_err(|cause| format!("{} is no script: {cause}", file.display()).into())
    }

    /// What gossip of this node is made with: it has to be there before anybody connects.
    fn init(&self, node: u32) -> Option<&GossipSubParams> {
        fn of(instruction: &Instruction, node: u32) -> Option<&GossipSubParams> {
            match instruction {
                Instruction::InitGossipSub { params } => Some(params),
                Instruction::IfNodeIdEquals {
                    node: wanted,
                    instruction,
                } if *wanted == node => of(instruction, node),
                _ => None,
            }
        }
        self.script
            .iter()
            .find_map(|instruction| of(instruction, node))
    }
}

/// The number in a host name such as `node7`.
fn node_number(host: &str) -> Result<u32, Failure> {
    let number = host
        .trim()
        .strip_prefix("node")
        .and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| {
        format!(
            "the host name is `{}`; the harness gives each node one like node7",
            host.trim()
        )
        .into()
    })
}

/// Everybody knows everybody's key: it is the number, little endian.
fn keypair(node: u32) -> Keypair {
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&node.to_le_bytes());
    Keypair::from_seed(&seed)
}

fn peer_of(node: u32) -> PeerId {
    keypair(node).peer_id()
}

/// Prints an event as the harness reads it.
pub(crate) fn log(msg: &str, mut fields: Value) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    fields["time"] = rfc3339(now).into();
    fields["level"] = "INFO".into();
    fields["msg"] = msg.into();
    output::say(&fields.to_string());
}

/// A time since 1970, in UTC, as RFC 3339 writes it.
fn rfc3339(since: Duration) -> String {
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Years that begin in March, so that the leap day comes last; 719,468 days lie between March of year 0 and 1970.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let (month, day) = ((march + 2) % 12 + 1, day - (153 * march + 2) / 5 + 1);
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let micros = since.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Follows the script.
pub(crate) async fn run(file: &Path) -> Result<(), Failure> {
    let begun = Instant::now();
    let params = Params::read(file)?;
    let node = node_number(&std::fs::read_to_string("/proc/sys/kernel/hostname")?)?;
    let Some(init) = params.init(node) else {
        return Err(format!("the script has no initGossipSub for node {node}").into());
    };
    let mut args = node_args(Some("noise"))?;
    args.idle_timeout = IdleTimeout(None);
    let endpoint = endpoint_of(keypair(node), &args).await?;
    let gossip = Gossip::spawn(&endpoint, init.config()?)?;
    let router = gossip.register(Router::builder(endpoint.clone())).spawn()?;
    let mut work = JoinSet::new();
    work.spawn(receipts(gossip.clone()));
    endpoint
        .listen(format!("/ip4/0.0.0.0/tcp/{PORT}").parse()?)
        .await?;
    log(
        "PeerID",
        json!({"id": endpoint.peer_id().to_string(), "node_id": node}),
    );
    let mut scripted = Scripted {
        node,
        begun,
        endpoint,
        parts: Parts::new(gossip.clone()),
        gossip,
        work,
    };
    for instruction in &params.script {
        scripted.follow(instruction).await?;
    }
    router.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

/// Tells of every message that comes.
async fn receipts(gossip: Gossip) -> Result<(), Failure> {
    let mut events = gossip.events();
    loop {
        match events.recv().await {
            Ok(GossipEvent::Router {
                peer,
                event: Event::Received { topic, id, .. },
            }) => {
                // Shorter ones come from nobody who follows the script.
                if let Ok(id) = <[u8; 8]>::try_from(id.as_bytes()) {
                    let fields = json!({
                        "service": "gossipsub", "id": u64::from_be_bytes(id).to_string(), "topic": &*topic,
                        "from": peer.to_string(),
                    });
                    log("Received Message", fields);
                }
            }
            Ok(_) => {}
            Err(RecvError::Lagged(missed)) => {
                return Err(format!("{missed} events were too fast for stdout").into());
            }
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

/// A node that follows its script.
struct Scripted {
    node: u32,
    begun: Instant,
    endpoint: Endpoint,
    gossip: Gossip,
    parts: Arc<Parts>,
    /// What goes on meanwhile; none of it ends before the script unless it fails.
    work: JoinSet<Result<(), Failure>>,
}

impl Scripted {
    async fn follow(&mut self, instruction: &Instruction) -> Result<(), Failure> {
        match instruction {
            // Done before anything else.
            Instruction::InitGossipSub { .. } => Ok(()),
            Instruction::IfNodeIdEquals { node, instruction } => match *node == self.node {
                true => Box::pin(self.follow(instruction)).await,
                false => Ok(()),
            },
            Instruction::Connect { nodes } => {
                for node in nodes {
                    self.connect(*node).await?;
                }
                Ok(())
            }
            Instruction::WaitUntil { elapsed } => {
                let until = tokio::time::Instant::from_std(self.begun + time(*elapsed)?);
                tokio::select! {
                    () = tokio::time::sleep_until(until) => Ok(()),
                    Some(ended) = self.work.join_next() => ended?,
                }
            }
            Instruction::SubscribeToTopic { topic, partial } => {
                self.subscribe(topic, *partial).await
            }
            Instruction::SetTopicValidationDelay { topic, delay } => {
                let delay = time(*delay)?;
                if delay > MAX_DELAY {
                    return Err(format!("no validator may take more than {MAX_DELAY:?}").into());
                }
                let validator = Validator::asynchronous(move |_| async move {
                    tokio::time::sleep(delay).await;
                    Acceptance::Accept
                });
                let validator = validator.timeout(delay + Duration::from_secs(5));
                Ok(self.gossip.validate(topic, validator).await?)
            }
            Instruction::Publish { id, size, topic } => {
                let mut data = vec![0; *size];
                let Some(head) = data.first_chunk_mut() else {
                    return Err(format!("message {id} has {size} bytes; its id takes 8").into());
                };
                *head = id.to_be_bytes();
                let receipt = self.gossip.publish(topic, data).await?;
                eprintln!("published {id} to {} peers", receipt.accepted());
                Ok(())
            }
            Instruction::AddPartialMessage {
                parts,
                topic,
                group,
            } => {
                self.parts.add(topic, *group, *parts);
                Ok(())
            }
            Instruction::PublishPartial {
                topic,
                group,
                nodes,
            } => {
                let to = nodes.iter().map(|node| peer_of(*node)).collect();
                self.parts.publish(topic, *group, to).await
            }
        }
    }

    async fn connect(&self, node: u32) -> Result<(), Failure> {
        let name = format!("node{node}");
        let begun = Instant::now();
        loop {
            let connected = async {
                let found: Vec<_> = tokio::net::lookup_host((name.as_str(), PORT))
                    .await?
                    .collect();
                let ip = found
                    .iter()
                    .find(|addr| addr.is_ipv4())
                    .ok_or_else(|| format!("{name} has no IPv4 address"))?
                    .ip();
                let addr: Multiaddr = format!("/ip4/{ip}/tcp/{PORT}").parse()?;
                let addr = addr.with_peer(peer_of(node))?;
                drop(self.endpoint.connect(addr).await?);
                Ok::<_, Failure>(())
            };
            match connected.await {
                Ok(()) => return Ok(()),
                Err(_) if begun.elapsed() < PATIENCE => tokio::time::sleep(POLL).await,
                Err(Failure(cause)) => return Err(format!("{name}: {cause}").into()),
            }
        }
    }

    async fn subscribe(&mut self, topic: &str, partial: bool) -> Result<(), Failure> {
        let options = SubscribeOptions::partial(partial, partial);
        let bounds = SubscriptionOptions::default();
        if partial {
            let parts = self.gossip.partials(topic, bounds).await?;
            self.work
                .spawn(Arc::clone(&self.parts).follow(topic.to_owned(), parts));
        }
        // What comes is told by the events.
        let nobody = bounds.bounded(0, 0);
        let subscription = self.gossip.subscribe_with(topic, nobody, options).await?;
        self.work.spawn(async move {
            let mut subscription = subscription;
            while subscription.next().await.is_some() {}
            Ok(())
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest;

    use super::*;

    #[test]
    fn times_read_as_rfc3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (951_868_799, "2000-02-29T23:59:59.000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(rfc3339(Duration::from_secs(seconds)), text);
        }
        let micros = Duration::from_nanos(1_000_042_999);
        assert_eq!(rfc3339(micros), "1970-01-01T00:00:01.000042Z");
    }

    #[test]
    fn nodes_have_their_numbers_from_their_hosts() {
        assert_eq!(node_number("node12\n").unwrap(), 12);
        for wrong in ["", "node", "node-1", "host1", "node1.lan"] {
            assert!(node_number(wrong).is_err(), "{wrong}");
        }
        // As the tests of the implementations in the harness have it.
        let mut all = digest::Context::new(&digest::SHA256);
        for node in 0..10_000 {
            all.update(format!(">{node}:{}\n", peer_of(node)).as_bytes());
        }
        assert_eq!(
            all.finish().as_ref()[..8],
            [0x11, 0x39, 0x5e, 0xa8, 0x96, 0xd0, 0x0c, 0xa2]
        );
    }

    #[test]
    fn parameters_have_gos_names() {
        let params: GossipSubParams = serde_json::from_str(
            r#"{"D": 8, "Dlo": 6, "Dhi": 13, "Dlazy": 0, "GossipFactor": 0.0, "HeartbeatInitialDelay": 100100000.0,
                "HeartbeatInterval": 700000000.0, "IDontWantMessageThreshold": 2048, "IDontWantMessageTTL": 5,
                "MaxIHaveLength": 77, "IWantFollowupTime": 2500000000, "Connectors": 3, "ConnectionTimeout": 1e9}"#,
        )
        .unwrap();
        let config = params.config().unwrap();
        let router = &config.router;
        assert_eq!((router.d, router.d_low, router.d_high), (8, 6, 13));
        assert_eq!((router.d_lazy, router.gossip_factor), (0, 0.0));
        assert_eq!(
            (router.heartbeat_initial_delay, router.heartbeat_interval),
            (Duration::from_micros(100_100), Duration::from_millis(700))
        );
        assert_eq!(
            (router.idontwant_threshold, router.idontwant_ttl),
            (2_048, 5)
        );
        assert_eq!(
            (router.max_ihave_length, router.iwant_followup),
            (77, Duration::from_millis(2_500))
        );
        assert_eq!(
            (config.exchange_dials, config.exchange_timeout),
            (3, Duration::from_secs(1))
        );
        // go's default.
        assert_eq!(router.prune_backoff, Duration::from_secs(60));
        assert!(serde_json::from_str::<GossipSubParams>(r#"{"Dnew": 1}"#).is_err());
        let never = GossipSubParams {
            heartbeat_interval: Some(-1.0),
            ..GossipSubParams::default()
        };
        assert!(never.config().is_err());
    }

    #[test]
    fn scripts_of_all_public_scenarios_are_understood() {
        for (scenario, text, nodes) in [
            (
                "subnet-blob-msg",
                include_str!("../tests/scripts/subnet-blob-msg.json"),
                3,
            ),
            (
                "simple-fanout",
                include_str!("../tests/scripts/simple-fanout.json"),
                3,
            ),
            (
                "partial-messages",
                include_str!("../tests/scripts/partial-messages.json"),
                3,
            ),
            (
                "partial-messages-chain",
                include_str!("../tests/scripts/partial-messages-chain.json"),
                3,
            ),
            (
                "partial-messages-fanout",
                include_str!("../tests/scripts/partial-messages-fanout.json"),
                3,
            ),
        ] {
            let params: Params = serde_json::from_str(text).unwrap();
            assert!(params.script.len() > 5, "{scenario}");
            for node in 0..nodes {
                let init = params.init(node).unwrap();
                let config = init.config().unwrap();
                assert!(config.router.validate().is_ok(), "{scenario}");
                let delay = config.router.heartbeat_initial_delay;
                assert!(delay > Duration::from_millis(100), "{scenario}: {delay:?}");
            }
            assert!(params.init(nodes).is_none());
        }
        assert!(serde_json::from_str::<Params>(r#"{"script":[{"type":"dance"}]}"#).is_err());
    }
}
