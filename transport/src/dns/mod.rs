//! Names in addresses: `/dns`, `/dns4`, `/dns6` and `/dnsaddr`.
//!
//! [`Walk`] decides what is asked and what an answer leads to; [`Resolver`] asks. Nothing is kept
//! between two calls, so that a name is looked up anew for each dial.

mod walk;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use barewire_base::{Multiaddr, PeerId};
use futures::{StreamExt, stream::FuturesUnordered};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RData, RecordType},
};

pub use self::walk::{
    Answer, DnsLimits, DropReason, Dropped, LookupError, Question, RecordKind, Walk, has_name,
    name_in,
};

/// Look-ups under way at once. One that nobody answers is sent eight times, four in each of two
/// tries, so that two at once stay within the limit on queries until the time is over.
const CONCURRENT: usize = 2;

/// Settings of the resolver.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DnsConfig {
    /// Name servers to ask; empty for those of the system. Default empty.
    pub servers: Vec<SocketAddr>,
    /// Limits of resolving one address.
    pub limits: DnsLimits,
    /// Deadline of resolving one address. Default 5 s.
    pub timeout: Duration,
    /// How long one server is waited for before it is asked again or the next one is. Default 2 s
    /// (own choice: two tries within the deadline).
    pub server_timeout: Duration,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            limits: DnsLimits::default(),
            timeout: Duration::from_secs(5),
            server_timeout: Duration::from_secs(2),
        }
    }
}

/// A look-up that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// The name.
    pub name: String,
    /// What was asked for.
    pub kind: RecordKind,
    /// How long it took.
    pub took: Duration,
    /// How many records came, or why none did.
    pub outcome: Result<usize, LookupError>,
}

/// What an address with a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Resolution {
    /// Addresses without names, in the order they were found.
    pub addresses: Vec<Multiaddr>,
    /// Look-ups that were finished.
    pub lookups: Vec<Lookup>,
    /// Entries that led nowhere, and why; at most 64.
    pub dropped: Vec<Dropped>,
    /// How many more were dropped.
    pub dropped_more: usize,
}

impl Resolution {
    /// Why there is no address; `None` if there is one.
    #[must_use]
    pub fn error(&self) -> Option<ResolveError> {
        if !self.addresses.is_empty() {
            return None;
        }
        let why = self.dropped.first().map(|dropped| dropped.why.clone());
        Some(match why {
            Some(DropReason::Lookup(error)) => ResolveError::Lookup(error),
            Some(why) => ResolveError::Dropped {
                count: self.dropped.len() + self.dropped_more,
                why,
            },
            None => ResolveError::Lookup(LookupError::NoRecords),
        })
    }
}

/// Why a name stands for no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// A look-up failed.
    #[error(transparent)]
    Lookup(LookupError),
    /// There were entries, but none that could be used.
    #[error("none of {count} entries can be used; the first {why}")]
    Dropped {
        /// How many.
        count: usize,
        /// Why the first was dropped.
        why: DropReason,
    },
}

/// Looks names up. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Resolver {
    config: DnsConfig,
}

impl Resolver {
    /// A resolver with these settings. Nothing is read or asked yet.
    #[must_use]
    pub fn new(config: DnsConfig) -> Self {
        Self { config }
    }

    /// What `addr` stands for: itself if there is no name in it. Results of another peer than
    /// `expected` or the one at the end of `addr` are dropped. `share` is the number of names that
    /// share the limits on look-ups and records, 1 for a name alone.
    ///
    /// Ends within [`DnsConfig::timeout`] with what was found until then. Cancel safe. Must be called
    /// within a tokio runtime.
    pub async fn resolve(
        &self,
        addr: &Multiaddr,
        expected: Option<PeerId>,
        share: usize,
    ) -> Resolution {
        let mut limits = self.config.limits.clone();
        limits.max_queries = (limits.max_queries / share.max(1)).max(4);
        limits.max_txt = (limits.max_txt / share.max(1)).max(1);
        let mut walk = Walk::new(addr, expected, limits);
        let mut lookups = Vec::new();
        if !walk.is_done() {
            let asking = self.ask(&mut walk, &mut lookups);
            if tokio::time::timeout(self.config.timeout, asking)
                .await
                .is_err()
            {
                walk.give_up();
            }
        }
        let (addresses, dropped, dropped_more) = walk.finish();
        Resolution {
            addresses,
            lookups,
            dropped,
            dropped_more,
        }
    }

    async fn ask(&self, walk: &mut Walk, lookups: &mut Vec<Lookup>) {
        let client = self.client();
        let client = &client;
        let mut running = FuturesUnordered::new();
        while !walk.is_done() {
            while running.len() < CONCURRENT
                && let Some(question) = walk.question()
            {
                running.push(async move {
                    let began = Instant::now();
                    let answer = match client {
                        Ok(client) => look_up(client, &question).await,
                        Err(error) => Err(error.clone()),
                    };
                    (question, answer, began.elapsed())
                });
            }
            let Some((question, answer, took)) = running.next().await else {
                return;
            };
            lookups.push(Lookup {
                name: question.name,
                kind: question.kind,
                took,
                outcome: match &answer {
                    Ok(Answer::V4(ips)) => Ok(ips.len()),
                    Ok(Answer::V6(ips)) => Ok(ips.len()),
                    Ok(Answer::Txt(records)) => Ok(records.len()),
                    Err(error) => Err(error.clone()),
                },
            });
            walk.answer(question.id, answer);
        }
    }

    /// Made for each call: the system's settings change when a machine changes networks.
    fn client(&self) -> Result<TokioResolver, LookupError> {
        let no_servers = |error: NetError| LookupError::NoServers(error.to_string());
        let mut builder = if self.config.servers.is_empty() {
            TokioResolver::builder_tokio().map_err(no_servers)?
        } else {
            let servers = self.config.servers.iter().map(name_server).collect();
            let config = ResolverConfig::from_name_servers(servers);
            let mut builder =
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.options_mut().use_hosts_file = ResolveHosts::Never;
            builder
        };
        let options = builder.options_mut();
        options.timeout = self.config.server_timeout;
        options.attempts = 1;
        options.cache_size = 0;
        // One server at a time: each copy of a query would be one more than the limit knows of.
        options.num_concurrent_reqs = 1;
        // Aliases are followed by the name server.
        options.preserve_intermediates = false;
        builder.build().map_err(no_servers)
    }
}

fn name_server(server: &SocketAddr) -> NameServerConfig {
    let connections = [ProtocolConfig::Udp, ProtocolConfig::Tcp].map(|protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = server.port();
        connection
    });
    NameServerConfig::new(server.ip(), true, connections.into())
}

async fn look_up(client: &TokioResolver, question: &Question) -> Result<Answer, LookupError> {
    let mut name = Name::from_utf8(&question.name).map_err(|_| LookupError::InvalidName)?;
    // A name with a dot is whole; one without may be completed by the system's search list.
    if name.num_labels() > 1 {
        name.set_fqdn(true);
    }
    let kind = match question.kind {
        RecordKind::A => RecordType::A,
        RecordKind::Aaaa => RecordType::AAAA,
        RecordKind::Txt => RecordType::TXT,
    };
    let found = client
        .lookup(name, kind)
        .await
        .map_err(|error| describe(&error))?;
    let data = found.answers().iter().map(|record| &record.data);
    let answer = match question.kind {
        RecordKind::A => Answer::V4(
            data.filter_map(|data| match data {
                RData::A(ip) => Some(ip.0),
                _ => None,
            })
            .collect(),
        ),
        RecordKind::Aaaa => Answer::V6(
            data.filter_map(|data| match data {
                RData::AAAA(ip) => Some(ip.0),
                _ => None,
            })
            .collect(),
        ),
        RecordKind::Txt => Answer::Txt(
            data.filter_map(|data| match data {
                RData::TXT(text) => Some(text.txt_data.concat()),
                _ => None,
            })
            .collect(),
        ),
    };
    match &answer {
        Answer::V4(ips) if ips.is_empty() => Err(LookupError::NoRecords),
        Answer::V6(ips) if ips.is_empty() => Err(LookupError::NoRecords),
        Answer::Txt(records) if records.is_empty() => Err(LookupError::NoRecords),
        _ => Ok(answer),
    }
}

fn describe(error: &NetError) -> LookupError {
    if error.is_nx_domain() {
        return LookupError::NoSuchName;
    }
    match error {
        NetError::Timeout => LookupError::Timeout,
        NetError::Dns(DnsError::NoRecordsFound(_)) => LookupError::NoRecords,
        NetError::NoConnections => LookupError::Failed("no connection to it".into()),
        other => LookupError::Failed(other.to_string()),
    }
}
