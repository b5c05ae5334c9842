//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::protocol;

#[derive(Parser)]
#[command(about = "A foreign peer with barewire's command line")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

pub(crate) fn parse() -> Command {
    Cli::parse().command
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Serve until stdin closes or SIGTERM.
    Listen(ListenOptions),
    /// Show who answers.
    Identify(DialOptions),
    /// Measure round trips on one stream.
    Ping(DialOptions),
    /// Move --upload and --download bytes over one stream.
    Perf(DialOptions),
    /// Send --size random bytes and compare what comes back.
    Echo(DialOptions),
    /// End the own direction first, then read everything back.
    HalfClose(DialOptions),
    /// See a reset, or make one; the connection must live on.
    Reset(DialOptions),
    /// Keep a stream busy until one of the processes dies.
    Hold(DialOptions),
    /// Print or count the messages of the topics.
    Subscribe(SubscribeOptions),
    /// Publish messages to a topic.
    Publish(PublishOptions),
    /// Ask a rendezvous point.
    #[command(subcommand)]
    Rendezvous(RendezvousCommand),
    /// Rates and memory.
    #[command(subcommand)]
    Bench(BenchCommand),
}

#[derive(Subcommand)]
pub enum RendezvousCommand {
    /// Register the addresses this node listens on, for --ttl seconds.
    Register(RendezvousOptions),
    /// Show who is registered, in pages of --limit.
    Discover(RendezvousOptions),
    Unregister(RendezvousOptions),
}

impl RendezvousCommand {
    pub fn options(&self) -> &RendezvousOptions {
        match self {
            Self::Register(options) | Self::Discover(options) | Self::Unregister(options) => {
                options
            }
        }
    }
}

#[derive(Args)]
pub struct RendezvousOptions {
    /// The point: a multiaddr with the peer id at its end.
    pub addr: String,
    #[command(flatten)]
    pub stack: StackOptions,
    #[arg(long)]
    pub ns: String,
    #[arg(long)]
    pub ttl: Option<u64>,
    #[arg(long)]
    pub limit: Option<u64>,
    /// Deadline of the whole command, in seconds.
    #[arg(long, default_value = "60", value_parser = parse_seconds)]
    pub timeout: Duration,
}

#[derive(Subcommand)]
pub(crate) enum BenchCommand {
    /// Fresh connection each: dial, one ping, close.
    Handshakes(DialOptions),
    /// Short echo streams on one connection.
    Streams(DialOptions),
    /// Hold --count connections of as many identities until stdin closes.
    Connections(DialOptions),
}

/// What shapes the stack itself.
#[derive(Args, Clone)]
pub struct StackOptions {
    /// Identity file in libp2p's protobuf form; a fresh identity without it.
    #[arg(long)]
    pub key: Option<PathBuf>,
    #[arg(long, default_value = "noise", value_parser = ["noise", "tls"])]
    pub security: String,
    /// Only yamux.
    #[arg(long, default_value = "yamux", value_parser = ["yamux"])]
    pub muxer: String,
    /// Accepted for symmetry: these stacks negotiate the muxer by multistream only.
    #[arg(long)]
    pub no_early_muxer: bool,
    /// Certificate to listen with on wss, PEM.
    #[arg(long, requires = "ws_key")]
    pub ws_cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, requires = "ws_cert")]
    pub ws_key: Option<PathBuf>,
    /// Certificate to trust when dialling wss, PEM.
    #[arg(long)]
    pub ws_ca: Option<PathBuf>,
    /// Accepted for symmetry: the output is always JSON lines.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct ListenOptions {
    #[command(flatten)]
    pub stack: StackOptions,
    /// Multiaddr to listen on; may be repeated.
    #[arg(long, default_value = "/ip4/127.0.0.1/tcp/0")]
    pub listen: Vec<String>,
    /// Further protocol id to echo on; may be repeated.
    #[arg(long)]
    pub echo_protocol: Vec<String>,
    /// Neither ask who dials nor say who answers, so that a measured connection carries nothing else.
    #[arg(long)]
    pub no_identify: bool,
    /// Relay to have a reservation at; may be repeated.
    #[arg(long)]
    pub relay: Vec<String>,
    /// Carry circuits for others.
    #[arg(long)]
    pub relay_server: bool,
    /// How long a circuit may last, in seconds.
    #[arg(long, value_parser = parse_seconds)]
    pub relay_duration: Option<Duration>,
    /// Bytes a circuit may carry, both directions together.
    #[arg(long, value_parser = parse_bytes)]
    pub relay_data: Option<u64>,
    /// Peer that a gossiping listener dials; may be repeated.
    #[arg(long)]
    pub connect: Vec<String>,
    /// Be a rendezvous point.
    #[arg(long)]
    pub rendezvous_server: bool,
    /// Find peers by mDNS, and tell of each.
    #[arg(long)]
    pub mdns: bool,
    #[command(flatten)]
    pub gossip: GossipOptions,
}

/// What shapes the gossipsub router.
#[derive(Args, Clone)]
pub struct GossipOptions {
    /// Topic to gossip about; may be repeated.
    #[arg(long)]
    pub topic: Vec<String>,
    /// The newest version of gossipsub to offer.
    #[arg(long, default_value = "1.3", value_parser = ["1.0", "1.1", "1.2", "1.3", "floodsub"])]
    pub version: String,
    /// Whether messages carry signatures, and authors.
    #[arg(long, default_value = "strict", value_parser = ["strict", "none", "anonymous"])]
    pub sign: String,
    #[arg(long, default_value = "default", value_parser = ["default", "sha256"])]
    pub message_id: String,
    /// Largest RPC.
    #[arg(long, value_parser = parse_bytes)]
    pub max_message_size: Option<u64>,
    #[arg(long = "heartbeat-ms", value_parser = parse_millis)]
    pub heartbeat: Option<Duration>,
    /// An event per message.
    #[arg(long)]
    pub verbose: bool,
    /// No event per message.
    #[arg(long)]
    pub quiet: bool,
}

#[derive(Args, Clone)]
pub struct SubscribeOptions {
    /// Multiaddrs with the peer id at their end.
    #[arg(required = true)]
    pub addrs: Vec<String>,
    #[command(flatten)]
    pub stack: StackOptions,
    #[command(flatten)]
    pub gossip: GossipOptions,
    /// Deadline of the whole command, in seconds.
    #[arg(long, default_value = "60", value_parser = parse_seconds)]
    pub timeout: Duration,
    /// End after so many messages.
    #[arg(long)]
    pub expect: Option<usize>,
    /// Unsubscribe after the last message and stay connected.
    #[arg(long)]
    pub leave: bool,
}

#[derive(Args, Clone)]
pub struct PublishOptions {
    /// Multiaddrs with the peer id at their end.
    #[arg(required = true)]
    pub addrs: Vec<String>,
    #[command(flatten)]
    pub stack: StackOptions,
    #[command(flatten)]
    pub gossip: GossipOptions,
    /// Deadline of the whole command, in seconds.
    #[arg(long, default_value = "60", value_parser = parse_seconds)]
    pub timeout: Duration,
    #[arg(long)]
    pub count: Option<usize>,
    #[arg(long, value_parser = parse_bytes)]
    pub size: Option<u64>,
    /// What to publish as one message.
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// Publish without joining the mesh.
    #[arg(long)]
    pub fanout: bool,
    /// Wait between the first subscriber and the first message.
    #[arg(long = "settle-ms", default_value = "1000", value_parser = parse_millis)]
    pub settle: Duration,
    /// Stay so long after the last message.
    #[arg(long = "linger-ms", default_value = "5000", value_parser = parse_millis)]
    pub linger: Duration,
}

#[derive(Args, Clone)]
pub struct DialOptions {
    /// Multiaddr with the peer id at its end.
    pub addr: String,
    #[command(flatten)]
    pub stack: StackOptions,
    /// Deadline of the whole command, in seconds.
    #[arg(long, default_value = "60", value_parser = parse_seconds)]
    pub timeout: Duration,
    #[arg(long)]
    pub count: Option<usize>,
    #[arg(long, default_value_t = 1, value_parser = parse_positive)]
    pub concurrency: usize,
    #[arg(long, value_parser = parse_bytes)]
    pub size: Option<u64>,
    #[arg(long, default_value = "0", value_parser = parse_bytes)]
    pub upload: u64,
    #[arg(long, default_value = "0", value_parser = parse_bytes)]
    pub download: u64,
    #[arg(long, default_value = protocol::ECHO)]
    pub protocol: String,
    /// Who resets.
    #[arg(long, default_value = "remote", value_parser = ["local", "remote"])]
    pub by: String,
}

fn parse_positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("{text:?} is not a number from 1")),
        Ok(n) => Ok(n),
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    text.trim_end_matches('s')
        .parse()
        .ok()
        .and_then(|secs| Duration::try_from_secs_f64(secs).ok())
        .ok_or_else(|| format!("{text:?} is not a number of seconds"))
}

fn parse_millis(text: &str) -> Result<Duration, String> {
    text.parse()
        .map(Duration::from_millis)
        .map_err(|_| format!("{text:?} is not a number of milliseconds"))
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 7] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
    ];
    let (number, factor) = UNITS
        .iter()
        .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)))
        .unwrap_or((text, 1));
    number
        .trim()
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .ok_or_else(|| format!("{text:?} is not a byte count such as 100, 64KiB or 1GiB"))
}
