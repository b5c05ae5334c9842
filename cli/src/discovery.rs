//! What `barewire listen` does to be found and to find others, and `barewire rendezvous`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use barewire_base::Multiaddr;
use barewire_node::{
    Endpoint,
    discovery::{Discovery, DiscoveryConfig},
    mdns::{Mdns, MdnsConfig, MdnsFound},
    protocols::rendezvous::{
        self, Client, ClientConfig, ClientEvent, Limits, MemoryStore, Point, RedbStore,
        RegistrationStore, Request,
    },
};
use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::json;
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    task::JoinSet,
};

use crate::{
    args::{RemoteArgs, seconds},
    failure::Failure,
    listen::endpoint,
    output::{self, printable},
    remote::connect,
};

/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// Pages that one command takes.
const MAX_PAGES: u32 = 1_000;

/// Options of `barewire listen` that are about finding each other.
#[derive(Debug, Args)]
pub(crate) struct DiscoveryArgs {
    /// Be a rendezvous point.
    #[arg(long)]
    rendezvous_server: bool,
    /// File to keep the registrations of the point in, made if it does not exist. Without it a restart forgets them.
    #[arg(long, value_name = "FILE", requires = "rendezvous_server")]
    rendezvous_store: Option<PathBuf>,
    /// Shortest registration the point gives, 7200 by default.
    #[arg(long, value_name = "SECONDS", requires = "rendezvous_server")]
    rendezvous_min_ttl: Option<u64>,
    /// Longest registration the point gives, 259200 by default.
    #[arg(long, value_name = "SECONDS", requires = "rendezvous_server")]
    rendezvous_max_ttl: Option<u64>,
    /// Registrations of one peer at the point, 32 by default.
    #[arg(long, value_name = "N", requires = "rendezvous_server")]
    rendezvous_per_peer: Option<usize>,
    /// Registrations from one IPv4 address or IPv6 /56 at the point, 1000 by default (loopback is exempt).
    #[arg(long, value_name = "N", requires = "rendezvous_server")]
    rendezvous_per_address: Option<usize>,
    /// Registrations at the point in all, 100000 by default.
    #[arg(long, value_name = "N", requires = "rendezvous_server",
          value_parser = clap::value_parser!(u32).range(1..))]
    rendezvous_total: Option<u32>,
    /// Rendezvous point to register with and to ask who else is there; may be repeated.
    #[arg(long, value_name = "ADDR", requires = "ns")]
    rendezvous: Vec<Multiaddr>,
    /// Namespace to be in at the rendezvous points; may be repeated.
    #[arg(long, value_name = "NS", requires = "rendezvous")]
    ns: Vec<String>,
    /// Seconds to be registered for; the registration is renewed before.
    #[arg(long, value_name = "SECONDS", default_value_t = 7_200)]
    rendezvous_ttl: u64,
    /// Seconds between two looks at who is there.
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    rendezvous_poll: Duration,
    /// Address to join the network by, /dnsaddr too; may be repeated.
    #[arg(long, value_name = "ADDR")]
    bootstrap: Vec<Multiaddr>,
    /// Find peers on the local network by mDNS.
    #[arg(long)]
    mdns: bool,
    /// Peers to be connected to, out of those that are found.
    #[arg(long, value_name = "N", default_value = "12")]
    target_peers: usize,
}

impl DiscoveryArgs {
    /// The point, if this node is to be one.
    pub(crate) async fn point(&self, endpoint: &Endpoint) -> Result<Option<Point>, Failure> {
        if !self.rendezvous_server {
            return Ok(None);
        }
        let mut limits = Limits::default();
        if let Some(least) = self.rendezvous_min_ttl {
            limits.min_ttl = Duration::from_secs(least);
        }
        if let Some(most) = self.rendezvous_max_ttl {
            limits.max_ttl = Duration::from_secs(most);
        }
        if limits.min_ttl > limits.max_ttl {
            return Err("--rendezvous-min-ttl is longer than --rendezvous-max-ttl".into());
        }
        limits.default_ttl = limits.default_ttl.clamp(limits.min_ttl, limits.max_ttl);
        limits.max_per_peer = self.rendezvous_per_peer.unwrap_or(limits.max_per_peer);
        limits.max_per_address = self
            .rendezvous_per_address
            .unwrap_or(limits.max_per_address);
        if let Some(total) = self.rendezvous_total {
            limits.max_total = usize::try_from(total)?;
        }
        let store: Arc<dyn RegistrationStore> = match &self.rendezvous_store {
            Some(path) => Arc::new(RedbStore::open(path)?),
            None => Arc::new(MemoryStore),
        };
        Ok(Some(Point::spawn(endpoint, limits, store).await?))
    }

    /// Starts to find others. What comes back has to be kept.
    pub(crate) fn start(
        self,
        endpoint: &Endpoint,
        json: bool,
        told: &mut JoinSet<()>,
    ) -> Result<Finding, Failure> {
        let mut finding = Finding::default();
        if self.rendezvous.is_empty() && self.bootstrap.is_empty() && !self.mdns {
            return Ok(finding);
        }
        let mut config = DiscoveryConfig::default();
        config.target = self.target_peers;
        config.bootstrap = self.bootstrap;
        let discovery = Discovery::spawn(endpoint, config);
        if !self.rendezvous.is_empty() {
            let mut config = ClientConfig::default();
            config.namespaces = self.ns;
            config.ttl = Duration::from_secs(self.rendezvous_ttl);
            config.poll_interval = self.rendezvous_poll;
            let discovery = Some(discovery.clone());
            let client = Client::spawn(endpoint, self.rendezvous, config, discovery)?;
            told.spawn(tell(client.events(), move |event| tell_one(&event, json)));
            finding.client = Some(client);
        }
        if self.mdns {
            let mdns = Mdns::spawn(endpoint, MdnsConfig::default(), Some(discovery.clone()));
            told.spawn(tell(mdns.found(), move |found| tell_found(&found, json)));
            finding.mdns = Some(mdns);
        }
        finding.discovery = Some(discovery);
        Ok(finding)
    }
}

/// What finds others, for as long as it is kept.
#[derive(Debug, Default)]
pub(crate) struct Finding {
    client: Option<Client>,
    mdns: Option<Mdns>,
    discovery: Option<Discovery>,
}

async fn tell<T: Clone>(mut events: Receiver<T>, mut one: impl FnMut(T)) {
    loop {
        match events.recv().await {
            Ok(event) => one(event),
            Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "events were missed"),
            Err(RecvError::Closed) => return,
        }
    }
}

fn tell_found(MdnsFound { peer, addr, .. }: &MdnsFound, json: bool) {
    let value = json!({ "event": "mdns", "peer": peer.to_string(), "addr": addr.to_string() });
    output::event(json, &value, || {
        format!(
            "{peer} is on this network at {}",
            printable(&addr.to_string())
        )
    });
}

fn tell_one(event: &ClientEvent, json: bool) {
    match event {
        ClientEvent::Registered { point, ns, ttl } => {
            registered(Some(point), ns, ttl.as_secs(), json);
        }
        ClientEvent::Discovered {
            point,
            ns,
            peer,
            addrs,
        } => {
            let addrs: Vec<_> = addrs.iter().map(ToString::to_string).collect();
            let value = json!({
                "event": "registration", "point": point.to_string(), "ns": ns,
                "peer": peer.to_string(), "addrs": addrs,
            });
            output::event(json, &value, || {
                let addrs = printable(&addrs.join(", "));
                format!("{} has {peer} at {addrs}", printable(ns))
            });
        }
        ClientEvent::Refused {
            point,
            ns,
            status,
            text,
        } => {
            let value = json!({
                "event": "registration_refused", "point": point.to_string(), "ns": ns,
                "status": status.code(), "name": status.name(), "text": text,
            });
            output::event(json, &value, || {
                let (name, text) = (status.name(), printable(text));
                format!("{point} refuses {}: {name} {text}", printable(ns))
            });
        }
        _ => {}
    }
}

fn registered(point: Option<&Multiaddr>, ns: &str, ttl: u64, json: bool) {
    let point = point.map(ToString::to_string);
    let value = json!({ "event": "registered", "point": point, "ns": ns, "ttl": ttl });
    output::event(json, &value, || {
        format!("registered in {} for {ttl} s", printable(ns))
    });
}

#[derive(Debug, Args)]
pub(crate) struct RendezvousArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Register addresses in a namespace, until the time is over.
    #[command(after_help = "The identity that is registered is that of --key.\n\n\
            Example:\n  barewire rendezvous register /ip4/192.0.2.1/tcp/4001 --ns chat --address /ip4/192.0.2.7/tcp/4001 --key node.key")]
    Register(RegisterArgs),
    /// Show who is registered.
    #[command(
        after_help = "Examples:\n  barewire rendezvous discover /ip4/192.0.2.1/tcp/4001 --ns chat\n  \
            barewire rendezvous discover /ip4/192.0.2.1/tcp/4001 --limit 100 --json    everybody, in pages of 100"
    )]
    Discover(DiscoverArgs),
    /// Take a registration back.
    #[command(
        after_help = "Example:\n  barewire rendezvous unregister /ip4/192.0.2.1/tcp/4001 --ns chat --key node.key"
    )]
    Unregister(UnregisterArgs),
}

#[derive(Debug, Args)]
struct RegisterArgs {
    /// The namespace.
    #[arg(long, value_name = "NS")]
    ns: String,
    /// Address to be found at; may be repeated.
    #[arg(long, value_name = "MULTIADDR", required = true)]
    address: Vec<Multiaddr>,
    /// Seconds to be registered for; 0 for what the point gives.
    #[arg(long, value_name = "SECONDS", default_value = "7200")]
    ttl: u64,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
struct DiscoverArgs {
    /// The namespace; without it all of them.
    #[arg(long, value_name = "NS", default_value = "")]
    ns: String,
    /// Registrations in a page; all pages are shown. Without it one page as long as the point likes.
    #[arg(long, value_name = "N", default_value = "0")]
    limit: u64,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
struct UnregisterArgs {
    /// The namespace.
    #[arg(long, value_name = "NS")]
    ns: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Asks a point.
pub(crate) async fn rendezvous(args: RendezvousArgs) -> Result<(), Failure> {
    match args.what {
        What::Register(args) => {
            let endpoint = endpoint(&args.remote.node).await?;
            let connection = connect(&endpoint, &args.remote).await?;
            let asked = Duration::from_secs(args.ttl);
            let ttl =
                rendezvous::register(&endpoint, &connection, &args.ns, asked, args.address).await?;
            registered(None, &args.ns, ttl.as_secs(), args.remote.node.json);
            endpoint.shutdown(GOODBYE).await;
        }
        What::Discover(args) => discover(args).await?,
        What::Unregister(args) => {
            let endpoint = endpoint(&args.remote.node).await?;
            let connection = connect(&endpoint, &args.remote).await?;
            let ns = Bytes::copy_from_slice(args.ns.as_bytes());
            rendezvous::ask(&connection, &Request::Unregister { ns }).await?;
            let value = json!({ "event": "unregistered", "ns": args.ns });
            output::event(args.remote.node.json, &value, || {
                format!("not registered in {} any more", printable(&args.ns))
            });
            endpoint.shutdown(GOODBYE).await;
        }
    }
    Ok(())
}

async fn discover(args: DiscoverArgs) -> Result<(), Failure> {
    let json = args.remote.node.json;
    let endpoint = endpoint(&args.remote.node).await?;
    let connection = connect(&endpoint, &args.remote).await?;
    let (mut cookie, mut count, mut pages) = (Bytes::new(), 0, 0);
    loop {
        let (found, next) =
            rendezvous::discover(&connection, &args.ns, args.limit, cookie.clone()).await?;
        pages += 1;
        count += found.len();
        for one in &found {
            let addrs: Vec<_> = one.addrs.iter().map(ToString::to_string).collect();
            let value = json!({
                "event": "registration", "peer": one.peer.to_string(), "ns": one.ns,
                "ttl": one.ttl.as_secs(), "addrs": addrs,
            });
            output::event(json, &value, || {
                let addrs = printable(&addrs.join(", "));
                format!(
                    "{} in {} at {addrs}, {} s",
                    one.peer,
                    printable(&one.ns),
                    one.ttl.as_secs()
                )
            });
        }
        // A cookie that stays where it was leads to no other page.
        if found.is_empty() || args.limit == 0 || next == cookie || pages == MAX_PAGES {
            break;
        }
        cookie = next;
    }
    let value = json!({ "event": "discovered", "count": count, "pages": pages });
    output::event(json, &value, || format!("{count} registration(s)"));
    endpoint.shutdown(GOODBYE).await;
    Ok(())
}
