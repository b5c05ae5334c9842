//! The command line.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use barewire_base::{Multiaddr, PeerId};
use barewire_node::{CongestionController, MuxerKind, SecurityKind};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::{
    discovery::{DiscoveryArgs, RendezvousArgs},
    gossip_sim::GossipSimArgs,
};

/// A peer-to-peer node that speaks libp2p's wire protocols.
#[derive(Debug, Parser)]
#[command(
    name = "barewire",
    version,
    about,
    after_help = "Examples:\n  \
        barewire listen --listen /ip4/0.0.0.0/tcp/4001 --key node.key\n  \
        barewire ping /ip4/127.0.0.1/tcp/4001 --count 10\n  \
        barewire perf /ip4/127.0.0.1/tcp/4001 --upload 512MiB --download 512MiB --json\n\n\
        Results go to stdout, logs and errors to stderr. RUST_LOG chooses the logs:\n  \
        RUST_LOG=info                  what happens to the node\n  \
        RUST_LOG=barewire_node=debug   each connection and dial, with peer, address and transport"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make or show an identity.
    #[command(
        after_help = "Examples:\n  barewire id                   a new identity, not kept\n  \
            barewire id --key node.key    the one in the file, made if there is none"
    )]
    Id(IdArgs),
    /// Run a node until stdin closes or SIGTERM arrives; then finish what runs and exit.
    #[command(
        after_help = "Serves identify, ping, /perf/1.0.0 and /barewire/echo/1.0.0.\n\
            In the background give it a stdin that stays open, for example:\n  \
            sleep infinity | barewire listen --listen /ip4/0.0.0.0/tcp/4001 --json &\n\n\
            Examples:\n  barewire listen\n  \
            barewire listen --listen /ip4/0.0.0.0/tcp/4001 --listen /ip4/0.0.0.0/udp/4001/quic-v1 --key node.key\n  \
            barewire listen --listen /ip4/0.0.0.0/tcp/80/ws\n  \
            barewire listen --listen /ip4/0.0.0.0/tcp/4001 --rendezvous-server --rendezvous-store registrations.redb\n  \
            barewire listen --listen /ip4/0.0.0.0/tcp/0 --rendezvous /dns/node.example/tcp/4001 --ns chat\n  \
            barewire listen --listen /ip4/0.0.0.0/tcp/0 --mdns --bootstrap /dnsaddr/node.example\n  \
            barewire listen --listen /ip4/0.0.0.0/tcp/443/tls/ws --ws-cert chain.pem --ws-key key.pem"
    )]
    Listen(Box<ListenArgs>),
    /// Ask a node what it says about itself.
    #[command(after_help = "Example:\n  barewire identify /ip4/127.0.0.1/tcp/4001")]
    Identify(IdentifyArgs),
    /// Measure round trips.
    #[command(after_help = "Example:\n  barewire ping /ip4/127.0.0.1/tcp/4001 --count 100 --json")]
    Ping(PingArgs),
    /// Measure throughput with /perf/1.0.0.
    #[command(
        after_help = "Example:\n  barewire perf /ip4/127.0.0.1/tcp/4001 --upload 512MiB --download 1GiB"
    )]
    Perf(PerfArgs),
    /// Send bytes and verify by SHA-256 that the same come back.
    #[command(
        after_help = "Example:\n  barewire echo /ip4/127.0.0.1/tcp/4001 --size 10MiB --protocol /my/echo/1.0.0"
    )]
    Echo(EchoArgs),
    /// Show what an address with a name in it stands for.
    #[command(
        after_help = "Examples:\n  barewire resolve /dnsaddr/bootstrap.libp2p.io\n  \
            barewire resolve /dns/node.example/tcp/4001 --dns-server 192.0.2.53 --json"
    )]
    Resolve(ResolveArgs),
    /// Connect to a peer at one of several addresses, and show how.
    #[command(
        after_help = "Examples:\n  barewire dial /ip4/192.0.2.1/udp/4001/quic-v1 /ip4/192.0.2.1/tcp/4001 --trace\n  \
            barewire dial /dns/node.example/tcp/4001 --trace --json"
    )]
    Dial(DialArgs),
    /// Find out how this machine can be reached, why a peer cannot, and what to do.
    #[command(
        after_help = "What the network does with this machine's ports is told from where peers see it: name two, in networks of their own,\n\
            with --server. Whether firewalls let strangers in only strangers can tell.\n\n\
            Examples:\n  barewire doctor\n  \
            barewire doctor --server /dnsaddr/one.example/p2p/12D3… --server /ip4/192.0.2.1/tcp/4001/p2p/12D3…\n  \
            barewire doctor /ip4/192.0.2.7/udp/4001/quic-v1 --json"
    )]
    Doctor(DoctorArgs),
    /// Show what a node on this machine allows, and where each limit comes from.
    #[command(
        after_help = "Examples:\n  barewire limits\n  barewire limits --memory-limit 256MiB --json"
    )]
    Limits(LimitsArgs),
    /// List the peers in a peer book.
    #[command(
        after_help = "The book is what a node with --peer-book FILE learns: addresses of peers, where they are from and how\n\
            they have fared, the best first. No node may have it open.\n\n\
            Example:\n  barewire peers --peer-book peers.redb"
    )]
    Peers(PeersArgs),
    /// Subscribe to topics of gossip, and print or count what comes.
    #[command(after_help = "Ends by --expect, when stdin closes, or by SIGTERM.\n\n\
            Examples:\n  barewire subscribe /ip4/127.0.0.1/tcp/4001 --topic news\n  \
            barewire subscribe /ip4/127.0.0.1/tcp/4001 --topic news --expect 100000 --json")]
    Subscribe(SubscribeArgs),
    /// Publish messages to a topic of gossip.
    #[command(
        after_help = "Publishes the file or stdin as one message, or --count messages of --size bytes that begin with their number.\n\n\
            Examples:\n  echo hello | barewire publish /ip4/127.0.0.1/tcp/4001 --topic news\n  \
            barewire publish /ip4/127.0.0.1/tcp/4001 --topic news --count 100000 --size 200 --json"
    )]
    Publish(PublishArgs),
    /// Simulate gossip among thousands of nodes, and what attackers do to it, in virtual time.
    #[command(after_help = crate::gossip_sim::after_help())]
    GossipSim(GossipSimArgs),
    /// Register with a rendezvous point, or ask one who is there.
    #[command(
        after_help = "A node that stays registered and connects to whom it finds is barewire listen --rendezvous ADDR --ns NS.\n\n\
            Examples:\n  barewire rendezvous discover /ip4/192.0.2.1/tcp/4001 --ns chat\n  \
            barewire rendezvous register /ip4/192.0.2.1/tcp/4001 --ns chat --address /ip4/192.0.2.7/tcp/4001 --key node.key"
    )]
    Rendezvous(RendezvousArgs),
    /// Load a node: handshakes, streams or held connections.
    #[command(
        after_help = "Examples:\n  barewire bench handshakes /ip4/127.0.0.1/tcp/4001 --count 1000 --concurrency 16\n  \
            barewire bench streams /ip4/127.0.0.1/tcp/4001 --count 50000 --concurrency 16 --size 100\n  \
            sleep 60 | barewire bench connections /ip4/127.0.0.1/tcp/4001 --count 1000"
    )]
    Bench(BenchArgs),
    /// Play the part an interop harness asks for in the environment.
    #[command(
        after_help = "Reads IS_DIALER, REDIS_ADDR, TEST_KEY, TRANSPORT (tcp, ws, quic-v1), SECURE_CHANNEL, MUXER and LISTENER_IP,\n\
            for a perf test also UPLOAD_BYTES, DOWNLOAD_BYTES and …_ITERATIONS; or the older lower-case names. The harness for\n\
            hole punching sets IS_RELAY, RELAY_IP, IS_DIALER, REDIS_ADDR, TEST_KEY and TRANSPORT. That of gossipsub gives a\n\
            script and each node a host name such as node7.\n\n\
            Examples:\n  IS_DIALER=false REDIS_ADDR=127.0.0.1:6379 TEST_KEY=a5b50d5e TRANSPORT=ws SECURE_CHANNEL=noise \\\n    \
            MUXER=yamux LISTENER_IP=0.0.0.0 barewire interop\n  \
            barewire interop gossip --params params.json"
    )]
    Interop(crate::interop::InteropArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct IdArgs {
    /// File with the key, made with mode 0600 if it does not exist.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// One JSON object per line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LimitsArgs {
    /// Derive them from this many bytes instead of what the machine has.
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub(crate) memory_limit: Option<u64>,
    /// One JSON object per line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What security to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Security {
    /// Noise XX.
    Noise,
    /// TLS 1.3. Its secrets go to the file that SSLKEYLOGFILE names, if it is set.
    Tls,
}

impl Security {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Noise => "noise",
            Self::Tls => "tls",
        }
    }
}

impl From<Security> for SecurityKind {
    fn from(security: Security) -> Self {
        match security {
            Security::Noise => Self::Noise,
            Security::Tls => Self::Tls,
        }
    }
}

/// Which implementation of yamux to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Muxer {
    /// barewire's own session.
    Yamux,
    /// The `yamux` crate, for comparisons and not for strangers: no part in the memory budget (up to
    /// 256 MiB a connection), no keepalive, no write deadlines, no limit on aborted streams, no codes.
    YamuxCrate,
}

/// What paces a QUIC sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Congestion {
    /// A model of the path; random loss does not slow it down.
    Bbr,
    /// RFC 9438; gives way at each loss.
    Cubic,
}

impl From<Congestion> for CongestionController {
    fn from(congestion: Congestion) -> Self {
        match congestion {
            Congestion::Bbr => Self::Bbr,
            Congestion::Cubic => Self::Cubic,
        }
    }
}

impl From<Muxer> for MuxerKind {
    fn from(muxer: Muxer) -> Self {
        match muxer {
            Muxer::Yamux => Self::Yamux,
            Muxer::YamuxCrate => Self::YamuxCrate,
        }
    }
}

/// Options of every command that runs a node.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct NodeArgs {
    /// File with the key, made if it does not exist. Without it the identity is new.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Secure channels, best first, separated by commas. Without it, listening takes noise and tls, and
    /// dialling proposes noise alone, since with a single one a dial takes a round trip less.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    pub(crate) security: Vec<Security>,
    /// Muxer implementation.
    #[arg(long, value_enum, default_value = "yamux")]
    pub(crate) muxer: Muxer,
    /// Largest UDP payload that QUIC's path MTU discovery tries. More than 1452 pays where the path
    /// carries jumbo frames, as loopback does; both sides have to allow it.
    #[arg(long, value_name = "BYTES", default_value = "1452",
          value_parser = clap::value_parser!(u16).range(1200..=65507))]
    pub(crate) quic_mtu: u16,
    /// What paces a QUIC sender.
    #[arg(long, value_enum, default_value = "bbr")]
    pub(crate) quic_congestion: Congestion,
    /// Folder for a qlog file of each QUIC connection. QLOGDIR does the same.
    #[arg(long, value_name = "DIR")]
    pub(crate) qlog: Option<PathBuf>,
    /// Close a connection after this time without streams (ping and identify do not count), such as
    /// 60s or 500ms; off for never.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = idle_timeout)]
    pub(crate) idle_timeout: IdleTimeout,
    /// Memory the process should stay below; all limits follow from it. See barewire limits.
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub(crate) memory_limit: Option<u64>,
    /// Key file of the private network to live in (swarm.key, as go-libp2p reads it).
    #[arg(long, value_name = "FILE")]
    pub(crate) psk: Option<PathBuf>,
    /// PEM file with the authorities that may certify /tls/ws servers, instead of the system's.
    #[arg(long, value_name = "FILE")]
    pub(crate) ws_ca: Option<PathBuf>,
    /// File to keep addresses of peers in, made if it does not exist. Without it they are forgotten.
    #[arg(long, value_name = "FILE")]
    pub(crate) peer_book: Option<PathBuf>,
    /// Name server to ask instead of the system's; may be repeated. Port 53 if none is given.
    #[arg(long, value_name = "IP[:PORT]", value_parser = dns_server)]
    pub(crate) dns_server: Vec<SocketAddr>,
    /// Dial addresses in private networks, on this machine and on its links even if a public name
    /// leads there.
    #[arg(long)]
    pub(crate) private_names: bool,
    /// One JSON object per line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PeersArgs {
    /// The book.
    #[arg(long, value_name = "FILE")]
    pub(crate) peer_book: PathBuf,
    /// One JSON object per line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A peer, or an address of one.
#[derive(Debug, Clone)]
pub(crate) enum Whom {
    /// By its id.
    Peer(PeerId),
    /// By its address.
    Addr(Multiaddr),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ResolveArgs {
    /// The address.
    #[arg(value_name = "ADDR")]
    pub(crate) addr: Multiaddr,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DialArgs {
    /// Addresses of one peer, its id, or both.
    #[arg(value_name = "PEER-OR-ADDR", required = true, value_parser = whom)]
    pub(crate) whom: Vec<Whom>,
    /// Show every attempt: when it began, how far it came, when and how it ended.
    #[arg(long)]
    pub(crate) trace: bool,
    /// Seconds to wait for a connection.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DoctorArgs {
    /// Addresses of a peer that cannot be reached, its id, or both.
    #[arg(value_name = "PEER-OR-ADDR", value_parser = whom)]
    pub(crate) whom: Vec<Whom>,
    /// Peer that says where it sees this machine; may be repeated: two in different networks tell more than twice as much.
    #[arg(long, value_name = "ADDR")]
    pub(crate) server: Vec<Multiaddr>,
    /// Relay to try a reservation at; may be repeated.
    #[arg(long, value_name = "ADDR")]
    pub(crate) relay: Vec<Multiaddr>,
    /// Address to listen on meanwhile; may be repeated. Best those of the node in question, while it does not run.
    #[arg(
        long,
        value_name = "MULTIADDR",
        default_values = ["/ip4/0.0.0.0/udp/0/quic-v1", "/ip4/0.0.0.0/tcp/0"]
    )]
    pub(crate) listen: Vec<Multiaddr>,
    /// Seconds that each step may take.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ListenArgs {
    /// Address to listen on; may be repeated. Port 0 lets the system choose, 0.0.0.0 and :: stand for
    /// all addresses of this machine.
    #[arg(long, value_name = "MULTIADDR", default_value = "/ip4/127.0.0.1/tcp/0")]
    pub(crate) listen: Vec<Multiaddr>,
    /// Connect to this address and again whenever the connection is lost; may be repeated.
    #[arg(long, value_name = "ADDR")]
    pub(crate) keep: Vec<Multiaddr>,
    /// Inbound connections to hold at most, instead of what the machine allows.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_connections: Option<u32>,
    /// Inbound connections from one IPv4 address or IPv6 /56 at most (loopback is exempt), and twice
    /// as many at once.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_per_ip: Option<u32>,
    /// Serve metrics as OpenMetrics text at http://ADDR/metrics, and what keeps each connection open at
    /// http://ADDR/connections; a port alone means this machine only.
    #[arg(long, value_name = "ADDR", value_parser = metrics_addr)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Tell of each connection made, refused and ended, and why.
    #[arg(long)]
    pub(crate) events: bool,
    /// Further protocol id to serve the echo under; may be repeated.
    #[arg(long, value_name = "ID")]
    pub(crate) echo_protocol: Vec<String>,
    /// Topic of gossip to relay and print; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub(crate) topic: Vec<String>,
    #[command(flatten)]
    pub(crate) gossip: GossipArgs,
    #[command(flatten)]
    pub(crate) relay: crate::relay::RelayArgs,
    #[command(flatten)]
    pub(crate) autonat: crate::autonat::AutonatArgs,
    #[command(flatten)]
    pub(crate) mapping: crate::port_mapping::PortMappingArgs,
    #[command(flatten)]
    pub(crate) discovery: DiscoveryArgs,
    /// PEM file with the certificate chain for /tls/ws addresses.
    #[arg(long, value_name = "FILE", requires = "ws_key")]
    pub(crate) ws_cert: Option<PathBuf>,
    /// PEM file with its private key.
    #[arg(long, value_name = "FILE", requires = "ws_cert")]
    pub(crate) ws_key: Option<PathBuf>,
    /// Origin whose web pages may open a WebSocket; may be repeated. Without it all may.
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) ws_origin: Vec<String>,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Newest version of gossipsub to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GossipVersion {
    /// Only /floodsub/1.0.0.
    Floodsub,
    /// /meshsub/1.0.0.
    #[value(name = "1.0")]
    V1_0,
    /// /meshsub/1.1.0.
    #[value(name = "1.1")]
    V1_1,
    /// /meshsub/1.2.0.
    #[value(name = "1.2")]
    V1_2,
    /// /meshsub/1.3.0.
    #[value(name = "1.3")]
    V1_3,
}

/// What messages say about their author.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sign {
    /// Author, number and signature.
    Strict,
    /// Nothing.
    None,
    /// Nothing, as rust-libp2p understands it.
    Anonymous,
}

/// What identifies a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MessageIds {
    /// Author and number, as go-libp2p.
    Default,
    /// SHA-256 of the content.
    Sha256,
}

/// A set of parameters of the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preset {
    /// go-libp2p's.
    Default,
    /// Few trusted nodes near each other.
    Lan,
    /// Nodes across the internet that mean well.
    Wan,
    /// Nodes that anybody may join and some want to harm.
    Adversarial,
}

/// Options of every command that gossips.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct GossipArgs {
    /// Newest version of gossipsub to speak; all older ones are spoken too.
    #[arg(
        long = "version",
        value_enum,
        default_value = "1.3",
        id = "gossip_version"
    )]
    pub(crate) version: GossipVersion,
    /// What messages say about their author, and what is demanded of others' messages.
    #[arg(long, value_enum, default_value = "strict")]
    pub(crate) sign: Sign,
    /// What identifies a message; all nodes of a topic have to agree. Without an author it is sha256.
    #[arg(long, value_enum, default_value = "default")]
    pub(crate) message_id: MessageIds,
    /// Longest message that is accepted, 1MiB by default; also what other nodes are taken to accept.
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub(crate) max_message_size: Option<u64>,
    /// Time between heartbeats, in milliseconds.
    #[arg(long, value_name = "MS")]
    pub(crate) heartbeat_ms: Option<u64>,
    /// Parameters of the router.
    #[arg(long, value_enum, default_value = "default")]
    pub(crate) preset: Preset,
    /// File to write what happens to gossip to, as JSON lines.
    #[arg(long, value_name = "FILE")]
    pub(crate) gossip_trace: Option<PathBuf>,
    /// Print every message.
    #[arg(long)]
    pub(crate) verbose: bool,
    /// Print no messages.
    #[arg(long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SubscribeArgs {
    /// Addresses of nodes to connect to.
    #[arg(value_name = "ADDR", required = true, value_parser = addr_or_peer)]
    pub(crate) addrs: Vec<Multiaddr>,
    /// Topic; may be repeated.
    #[arg(long, value_name = "NAME", required = true)]
    pub(crate) topic: Vec<String>,
    /// End after so many messages. Above 1,000 they are only counted, unless --verbose.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) expect: Option<u64>,
    /// Leave the topics after the last message, and stay connected until stdin closes.
    #[arg(long)]
    pub(crate) leave: bool,
    /// Seconds to wait for connections, and for what --expect says.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) gossip: GossipArgs,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PublishArgs {
    /// Addresses of nodes to connect to.
    #[arg(value_name = "ADDR", required = true, value_parser = addr_or_peer)]
    pub(crate) addrs: Vec<Multiaddr>,
    /// Topic.
    #[arg(long, value_name = "NAME")]
    pub(crate) topic: String,
    /// File to publish as one message.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["count", "size"])]
    pub(crate) file: Option<PathBuf>,
    /// Messages to make.
    #[arg(long, value_name = "N", requires = "size", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Bytes of each.
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub(crate) size: Option<u64>,
    /// Publish without joining the mesh.
    #[arg(long)]
    pub(crate) fanout: bool,
    /// Milliseconds between the first subscriber and the first message.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    pub(crate) settle_ms: u64,
    /// Milliseconds to stay after the last message: what a relay has not read when the connection ends is lost.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    pub(crate) linger_ms: u64,
    /// Seconds to wait for connections, for a subscriber, and for room in a queue.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) gossip: GossipArgs,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Options of every command that dials.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct RemoteArgs {
    /// Address of the node, or several; with /p2p/… at its end nobody else is accepted. A peer id alone
    /// is looked up in the --peer-book.
    #[arg(value_name = "ADDR", required = true, value_parser = addr_or_peer)]
    pub(crate) addrs: Vec<Multiaddr>,
    /// Seconds to wait for a connection or an answer, or for a transfer to make progress.
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

impl RemoteArgs {
    /// The addresses, for people.
    pub(crate) fn name(&self) -> String {
        let addrs: Vec<_> = self.addrs.iter().map(ToString::to_string).collect();
        addrs.join(", ")
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct IdentifyArgs {
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PingArgs {
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    /// Round trips to measure.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PerfArgs {
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    /// Bytes to send; KiB, MiB, GiB, kB, MB and GB are understood.
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = size)]
    pub(crate) upload: u64,
    /// Bytes to receive.
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = size)]
    pub(crate) download: u64,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct EchoArgs {
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    /// Bytes to send.
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = size)]
    pub(crate) size: u64,
    /// Protocol id of the echo.
    #[arg(long, value_name = "ID", default_value = barewire_node::protocols::echo::PROTOCOL)]
    pub(crate) protocol: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) what: Bench,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Fresh connections: dial, one ping, close.
    Handshakes(LoadArgs),
    /// Fresh streams on one connection: send, read the echo, verify.
    Streams(StreamsArgs),
    /// Connections of as many identities, held until stdin closes. For longer than the idle timeout
    /// of the node, run that with --idle-timeout off.
    Connections(LoadArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    /// How many in all.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,
    /// How many at a time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub(crate) concurrency: u64,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StreamsArgs {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Bytes per stream.
    #[arg(long, value_name = "BYTES", default_value = "100", value_parser = size)]
    pub(crate) size: u64,
    /// Protocol id of the echo.
    #[arg(long, value_name = "ID", default_value = barewire_node::protocols::echo::PROTOCOL)]
    pub(crate) protocol: String,
}

/// `None` for never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdleTimeout(pub(crate) Option<Duration>);

fn idle_timeout(text: &str) -> Result<IdleTimeout, String> {
    if text == "off" {
        return Ok(IdleTimeout(None));
    }
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => match text.strip_suffix('m') {
            Some(number) => (number, 60.0),
            None => (text.strip_suffix('s').unwrap_or(text), 1.0),
        },
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a duration; write for example 60s, 500ms or off"))?;
    seconds(&(number * unit).to_string()).map(|duration| IdleTimeout(Some(duration)))
}

/// `host:port`, or a port on the loopback address.
fn metrics_addr(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<u16>() {
        Ok(port) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        Err(_) => text
            .parse()
            .map_err(|_| format!("`{text}` is not a port and not an address like 127.0.0.1:9090")),
    }
}

/// An address, or `/p2p/…` for a peer id.
fn addr_or_peer(text: &str) -> Result<Multiaddr, String> {
    let parsed = match text.parse::<PeerId>() {
        Ok(peer) => Multiaddr::empty().with_peer(peer),
        Err(_) => text.parse(),
    };
    parsed.map_err(|error| error.to_string())
}

/// An id, or an address: addresses begin with a slash.
fn whom(text: &str) -> Result<Whom, String> {
    if text.starts_with('/') {
        let addr = text.parse().map(Whom::Addr);
        addr.map_err(|error: barewire_base::multiaddr::MultiaddrError| error.to_string())
    } else {
        text.parse()
            .map(Whom::Peer)
            .map_err(|_| "neither an address (they begin with '/') nor a peer id".into())
    }
}

fn dns_server(text: &str) -> Result<SocketAddr, String> {
    text.parse::<SocketAddr>()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)))
        .map_err(|_| format!("`{text}` is not IP or IP:PORT"))
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("`{text}` is not a number of seconds"))?;
    if seconds > 0.0 && seconds <= 86_400.0 {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("use more than 0 and at most 86400 seconds".into())
    }
}

/// Bytes, with an optional unit.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a size; write for example 512MiB"))?;
    let unit = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        other => {
            return Err(format!(
                "`{other}` is not a unit; use KiB, MiB, GiB, kB, MB or GB"
            ));
        }
    };
    number
        .checked_mul(unit)
        .ok_or_else(|| format!("`{text}` is more than 2^64 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn idle_timeouts_have_units() {
        let after = |ms| Ok(IdleTimeout(Some(Duration::from_millis(ms))));
        assert_eq!(idle_timeout("60s"), after(60_000));
        assert_eq!(idle_timeout("2"), after(2_000));
        assert_eq!(idle_timeout("250ms"), after(250));
        assert_eq!(idle_timeout("2m"), after(120_000));
        assert_eq!(idle_timeout("off"), Ok(IdleTimeout(None)));
        for wrong in ["", "0", "-1s", "s", "NaN", "inf", "1h"] {
            assert!(idle_timeout(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("512MiB"), Ok(512 << 20));
        assert_eq!(size("7"), Ok(7));
        assert_eq!(size("3 kB"), Ok(3_000));
        assert!(size("").is_err());
        assert!(size("-1").is_err());
        assert!(size("5MiBs").is_err());
        assert!(size("99999999999GiB").is_err());
    }
}
