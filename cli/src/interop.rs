//! `barewire interop`: the contract of the public libp2p interop harnesses. Everything comes in the
//! environment, both ends meet through Redis, results go to stdout as YAML.
//!
//! Three dialects are spoken: the transport test and the perf test of the unified-testing
//! repository, and the older one with lower-case names, whose result is JSON.

use std::{
    env, fmt,
    net::{IpAddr, ToSocketAddrs, UdpSocket},
    path::PathBuf,
    time::{Duration, Instant},
};

use barewire_base::Multiaddr;
use barewire_node::{
    Router,
    protocols::{perf, ping},
};
use clap::Parser;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::{Args, Command, NodeArgs},
    failure::Failure,
    gossip_script, hole_punch,
    listen::endpoint,
    remote::Watch,
};

/// What the harnesses give a test.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(180);
/// Time between two looks at Redis.
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// Options of the command; the rest is in the environment.
#[derive(Debug, clap::Args)]
pub(crate) struct InteropArgs {
    /// Which harness asks.
    #[arg(value_enum, default_value = "transport")]
    harness: Harness,
    /// Script of the harness for gossipsub.
    #[arg(long, value_name = "FILE", required_if_eq("harness", "gossip"))]
    params: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Harness {
    /// That of transports, also for its perf test.
    Transport,
    /// That of hole punching.
    HolePunch,
    /// That of gossipsub: follows the script of --params as the node that the host name says, such as node7.
    Gossip,
}

/// What the environment asks for.
struct Plan {
    dialer: bool,
    /// The older dialect.
    legacy: bool,
    transport: String,
    /// Options of the node, by the names of the command line.
    node: NodeArgs,
    ip: IpAddr,
    redis: String,
    /// The Redis key with the listener's address.
    key: String,
    timeout: Duration,
    perf: Option<Perf>,
}

/// What the perf test asks for.
struct Perf {
    upload_bytes: u64,
    download_bytes: u64,
    uploads: Rounds,
    downloads: Rounds,
    latencies: Rounds,
}

/// How often something is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rounds {
    Times(u64),
    /// As often as fits, and once at least.
    For(Duration),
}

/// Most rounds of [`Rounds::For`].
const MAX_ROUNDS: u64 = 10_000;

impl Rounds {
    /// `DURATION` counts where the number is not given.
    fn read(name: &str, default: u64, duration: Option<Duration>) -> Result<Self, Failure> {
        Ok(match (var(name), duration) {
            (None, Some(duration)) => Self::For(duration),
            _ => Self::Times(number(name, default)?),
        })
    }

    /// Whether there is another one after `done`, of which the first began at `begun`.
    fn more(self, done: usize, begun: Instant) -> bool {
        let done = done as u64;
        match self {
            Self::Times(times) => done < times,
            Self::For(duration) => done == 0 || (done < MAX_ROUNDS && begun.elapsed() < duration),
        }
    }
}

/// A variable, if it is set to something; the harness writes `null` for nothing.
pub(crate) fn var(name: &str) -> Option<String> {
    env::var(name)
        .ok()
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty() && value != "null")
}

pub(crate) fn required(name: &str) -> Result<String, Failure> {
    var(name).ok_or_else(|| {
        format!(
            "{name} is not set; barewire interop is started by an interop harness, which sets it"
        )
        .into()
    })
}

fn number(name: &str, default: u64) -> Result<u64, Failure> {
    match var(name) {
        None => Ok(default),
        Some(value) => value
            .parse()
            .map_err(|_| format!("{name} is `{value}`, which is not a number").into()),
    }
}

pub(crate) fn boolean(name: &str, value: &str) -> Result<bool, Failure> {
    value
        .parse()
        .map_err(|_| format!("{name} is `{value}`; use true or false").into())
}

impl Plan {
    fn read() -> Result<Self, Failure> {
        let legacy = var("IS_DIALER").is_none() && var("is_dialer").is_some();
        let name = |new: &'static str, old: &'static str| if legacy { old } else { new };
        let is_dialer = name("IS_DIALER", "is_dialer");
        let transport = required(name("TRANSPORT", "transport"))?;
        let security = var(name("SECURE_CHANNEL", "security"));
        let muxer = var(name("MUXER", "muxer"));
        // QUIC brings both with it.
        let standalone = transport == "quic-v1";
        if let Some(muxer) = muxer.filter(|muxer| muxer != "yamux" && !standalone) {
            return Err(format!("the muxer {muxer} is not spoken; yamux is").into());
        }
        let ip = var(name("LISTENER_IP", "ip")).unwrap_or_else(|| "0.0.0.0".into());
        Ok(Self {
            dialer: boolean(is_dialer, &required(is_dialer)?)?,
            legacy,
            node: node_args(security.filter(|_| !standalone).as_deref())?,
            transport,
            ip: ip
                .parse()
                .map_err(|_| format!("the address to listen on, `{ip}`, is no IP address"))?,
            redis: match legacy {
                true => var("redis_addr").unwrap_or_else(|| "redis:6379".into()),
                false => required("REDIS_ADDR")?,
            },
            key: match legacy {
                true => "listenerAddr".into(),
                false => format!("{}_listener_multiaddr", required("TEST_KEY")?),
            },
            timeout: match legacy {
                true => Duration::from_secs(number("test_timeout_seconds", TIMEOUT.as_secs())?),
                false => TIMEOUT,
            },
            perf: Perf::read()?,
        })
    }
}

/// Where to listen, at a port that the system chooses.
pub(crate) fn listen_addr(ip: IpAddr, transport: &str) -> Result<Multiaddr, Failure> {
    let family = if ip.is_ipv4() { "ip4" } else { "ip6" };
    let rest = match transport {
        "tcp" => "tcp/0",
        "ws" => "tcp/0/ws",
        "quic-v1" => "udp/0/quic-v1",
        other => {
            return Err(
                format!("the transport {other} is not spoken; tcp, ws and quic-v1 are").into(),
            );
        }
    };
    Ok(format!("/{family}/{ip}/{rest}").parse()?)
}

impl Perf {
    /// `None` when this is no perf test.
    fn read() -> Result<Option<Self>, Failure> {
        let names = [
            "UPLOAD_BYTES",
            "DOWNLOAD_BYTES",
            "UPLOAD_ITERATIONS",
            "DOWNLOAD_ITERATIONS",
            "LATENCY_ITERATIONS",
            "DURATION",
        ];
        // Also when they are set to `null`.
        if names.iter().all(|name| env::var_os(name).is_none()) {
            return Ok(None);
        }
        let [upload, download, uploads, downloads, latencies, duration] = names;
        let duration = match var(duration) {
            Some(_) => Some(Duration::from_secs(number(duration, 0)?)),
            None => None,
        };
        Ok(Some(Self {
            upload_bytes: number(upload, 1 << 30)?,
            download_bytes: number(download, 1 << 30)?,
            uploads: Rounds::read(uploads, 10, duration)?,
            downloads: Rounds::read(downloads, 10, duration)?,
            latencies: Rounds::read(latencies, 100, duration)?,
        }))
    }
}

/// The options of a node as the command line would have them.
pub(crate) fn node_args(security: Option<&str>) -> Result<NodeArgs, Failure> {
    let mut line = vec!["barewire", "listen"];
    if let Some(security) = security {
        line.extend(["--security", security]);
    }
    match Args::try_parse_from(line) {
        Ok(Args {
            command: Command::Listen(args),
        }) => Ok(args.node),
        _ => Err(format!(
            "the secure channel {} is not spoken",
            security.unwrap_or_default()
        )
        .into()),
    }
}

/// Plays the part the environment names.
pub(crate) async fn run(args: &InteropArgs) -> Result<(), Failure> {
    match (args.harness, &args.params) {
        (Harness::HolePunch, _) => return hole_punch::run().await,
        (Harness::Gossip, Some(script)) => return gossip_script::run(script).await,
        // The command line has asked for the file.
        (Harness::Gossip, None) | (Harness::Transport, _) => {}
    }
    let plan = Plan::read()?;
    if plan.dialer {
        dial(&plan).await
    } else {
        serve(&plan).await
    }
}

async fn serve(plan: &Plan) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let endpoint = endpoint(&plan.node).await?;
    let router = Router::builder(endpoint.clone())
        .accept(perf::PROTOCOL, perf::Perf)
        .spawn()?;
    let bound = endpoint
        .listen(listen_addr(plan.ip, &plan.transport)?)
        .await?;
    // The dialer comes over the network on which this side reaches Redis.
    let reached = match plan.ip.is_unspecified() {
        true => bound.with_ip(own_ip(&plan.redis)?).unwrap_or(bound),
        false => bound,
    };
    let addr = reached.with_peer(endpoint.peer_id())?.to_string();
    let command = if plan.legacy { "RPUSH" } else { "SET" };
    let (key, value) = (plan.key.clone(), addr.clone());
    with_redis(&plan.redis, plan.timeout, move |redis| {
        redis::cmd(command).arg(&key).arg(&value).exec(redis)
    })
    .await?;
    eprintln!("listening on {addr}");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    router.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

async fn dial(plan: &Plan) -> Result<(), Failure> {
    let addr = listener_addr(plan).await?;
    eprintln!("dialling {addr}");
    let endpoint = endpoint(&plan.node).await?;
    let begun = Instant::now();
    let connected = async {
        let connection = endpoint.dial(addr.parse::<Multiaddr>()?).await?;
        ping::ping(&connection, plan.timeout).await?;
        Ok::<_, Failure>((connection, begun.elapsed()))
    };
    let too_long = |_| Failure::from("the test took too long");
    let connected = tokio::time::timeout(plan.timeout, connected);
    let (connection, handshake_and_ping) = connected.await.map_err(too_long)??;
    let measured = async {
        let ping = ping::ping(&connection, plan.timeout).await?;
        let (handshake, ping) = (millis(handshake_and_ping), millis(ping));
        Ok::<_, Failure>(if plan.legacy {
            json!({"handshakePlusOneRTTMillis": handshake, "pingRTTMilllis": ping}).to_string()
        } else {
            format!(
                "latency:\n  handshake_plus_one_rtt: {handshake:.3}\n  ping_rtt: {ping:.3}\n  unit: ms"
            )
        })
    };
    let result = match &plan.perf {
        // Its length is up to whoever set it up: a transfer may take long, but not stand still.
        Some(perf) => measure(perf, &connection, plan.timeout).await?,
        None => {
            let measured = tokio::time::timeout(plan.timeout, measured);
            measured.await.map_err(too_long)??
        }
    };
    println!("{result}");
    endpoint.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

async fn measure(
    perf: &Perf,
    connection: &barewire_node::Connection,
    timeout: Duration,
) -> Result<String, Failure> {
    let gbps = |bytes: u64, time: Duration| bytes as f64 * 8.0 / 1e9 / time.as_secs_f64();
    let transfer = async |upload, download| {
        let watch = Watch::new("perf", upload + download, true);
        let moved = |progress| match progress {
            perf::Progress::Sent(bytes) | perf::Progress::Received(bytes) => watch.add(bytes),
        };
        let transfer = perf::measure(connection, upload, download, moved);
        watch.guard(timeout, transfer).await
    };
    let (mut uploads, begun) = (Vec::new(), Instant::now());
    while perf.uploads.more(uploads.len(), begun) {
        let report = transfer(perf.upload_bytes, 0).await?;
        uploads.push(gbps(report.upload_bytes, report.upload));
    }
    let (mut downloads, begun) = (Vec::new(), Instant::now());
    while perf.downloads.more(downloads.len(), begun) {
        let report = transfer(0, perf.download_bytes).await?;
        downloads.push(gbps(report.download_bytes, report.download));
    }
    let (mut latencies, begun) = (Vec::new(), Instant::now());
    while perf.latencies.more(latencies.len(), begun) {
        latencies.push(millis(ping::ping(connection, timeout).await?));
    }
    Ok(format!(
        "{}{}{}",
        Summary::new("upload", "Gbps", uploads),
        Summary::new("download", "Gbps", downloads),
        Summary::new("latency", "ms", latencies)
    ))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The listener's address, once it is there.
async fn listener_addr(plan: &Plan) -> Result<String, Failure> {
    let begun = Instant::now();
    loop {
        let (key, legacy) = (plan.key.clone(), plan.legacy);
        let found: Option<String> =
            with_redis(&plan.redis, plan.timeout, move |redis| match legacy {
                // Others may wait for it too, so it stays in the list.
                true => redis::cmd("LINDEX").arg(&key).arg(0).query(redis),
                false => redis::cmd("GET").arg(&key).query(redis),
            })
            .await?;
        match found {
            Some(addr) => return Ok(addr),
            None if begun.elapsed() > plan.timeout => {
                return Err("the listener did not announce itself in Redis in time".into());
            }
            None => tokio::time::sleep(POLL).await,
        }
    }
}

/// Runs one command, waiting for a Redis that is still starting.
pub(crate) async fn with_redis<T: Send + 'static>(
    redis: &str,
    patience: Duration,
    command: impl Fn(&mut redis::Connection) -> redis::RedisResult<T> + Send + 'static,
) -> Result<T, Failure> {
    let (url, addr) = (format!("redis://{redis}/"), redis.to_owned());
    let run = move || {
        let begun = Instant::now();
        loop {
            let result = redis::Client::open(url.as_str())
                .and_then(|client| client.get_connection_with_timeout(Duration::from_secs(5)))
                .and_then(|mut connection| command(&mut connection));
            match result {
                Ok(value) => return Ok(value),
                Err(error) if error.is_io_error() && begun.elapsed() < patience => {
                    std::thread::sleep(POLL);
                }
                Err(error) => return Err(format!("Redis at {addr}: {error}")),
            }
        }
    };
    Ok(tokio::task::spawn_blocking(run).await??)
}

/// The address this machine has on the way to `to`.
fn own_ip(to: &str) -> Result<IpAddr, Failure> {
    let to = to
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| format!("{to} has no address"))?;
    let any: IpAddr = match to.is_ipv4() {
        true => [0; 4].into(),
        false => [0; 16].into(),
    };
    // Connecting a UDP socket sends nothing; it only looks the route up.
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

/// Samples as the harness wants them: quartiles, and outliers beyond 1.5 times their distance.
struct Summary {
    name: &'static str,
    unit: &'static str,
    samples: Vec<f64>,
}

impl Summary {
    fn new(name: &'static str, unit: &'static str, samples: Vec<f64>) -> Self {
        Self {
            name,
            unit,
            samples,
        }
    }
}

/// The value below which the share `q` of sorted values lies, interpolated.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * sorted.len().saturating_sub(1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    match (sorted.get(low), sorted.get(high)) {
        (Some(a), Some(b)) => a + (b - a) * at.fract(),
        _ => 0.0,
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let [q1, median, q3] = [0.25, 0.5, 0.75].map(|q| quantile(&sorted, q));
        let reach = 1.5 * (q3 - q1);
        let inside = q1 - reach..=q3 + reach;
        let (kept, outliers): (Vec<f64>, Vec<f64>) =
            sorted.iter().partition(|value| inside.contains(value));
        let list = |values: &[f64]| {
            let texts: Vec<_> = values.iter().map(|value| format!("{value:.3}")).collect();
            format!("[{}]", texts.join(", "))
        };
        writeln!(f, "{}:", self.name)?;
        writeln!(f, "  iterations: {}", sorted.len())?;
        for (name, value) in [
            ("min", kept.first().copied().unwrap_or(0.0)),
            ("q1", q1),
            ("median", median),
            ("q3", q3),
            ("max", kept.last().copied().unwrap_or(0.0)),
        ] {
            writeln!(f, "  {name}: {value:.3}")?;
        }
        writeln!(f, "  outliers: {}", list(&outliers))?;
        writeln!(f, "  samples: {}", list(&self.samples))?;
        writeln!(f, "  unit: {}", self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_name_their_outliers() {
        let text = Summary::new("latency", "ms", vec![3.0, 1.0, 2.0, 4.0, 100.0]).to_string();
        assert_eq!(
            text,
            "latency:\n  iterations: 5\n  min: 1.000\n  q1: 2.000\n  median: 3.000\n  q3: 4.000\n  max: 4.000\n  \
             outliers: [100.000]\n  samples: [3.000, 1.000, 2.000, 4.000, 100.000]\n  unit: ms\n"
        );
        assert!(
            Summary::new("upload", "Gbps", Vec::new())
                .to_string()
                .contains("iterations: 0")
        );
    }

    #[test]
    fn secure_channels_are_those_of_the_command_line() {
        assert!(node_args(Some("noise")).is_ok());
        assert!(node_args(None).is_ok());
        assert!(node_args(Some("plaintext")).is_err());
    }
}
