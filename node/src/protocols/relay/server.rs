//! The relay's side: reservations and circuits for others.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use barewire_base::{Multiaddr, PeerId, Protocol};
use barewire_nat::relay::{
    CircuitId, HopMessage, Ledger, LedgerConfig, Limit, MAX_ADDRS, Origin, Reservation, Reserved,
    STOP_PROTOCOL, Status, StopMessage, Voucher,
};
use barewire_transport::{Connection, Stream};
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::{RelayError, dial::is_circuit, pipe, wire};
use crate::{
    Endpoint,
    endpoint::WeakEndpoint,
    manager::{ip_of, now},
    metrics::{Live, MetricsSource},
    router::{BoxFuture, ProtocolHandler},
};

/// Settings of a [`RelayServer`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RelayServerConfig {
    /// How much of what is given to whom.
    pub ledger: LedgerConfig,
    /// Peers whose circuits have no limit of time and bytes, in either direction. Default: none.
    pub unlimited: HashSet<PeerId>,
    /// How long a client may take to say what it wants. Default 1 minute, as go-libp2p.
    pub request_timeout: Duration,
    /// How long opening a stream to the target may take. Default 30 s, as go-libp2p.
    pub open_timeout: Duration,
    /// How long the target may take to answer. Default 1 minute, as go-libp2p.
    pub answer_timeout: Duration,
}

impl Default for RelayServerConfig {
    fn default() -> Self {
        Self {
            ledger: LedgerConfig::default(),
            unlimited: HashSet::new(),
            request_timeout: Duration::from_secs(60),
            open_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(60),
        }
    }
}

/// What a [`RelayServer`] does and has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RelayStats {
    /// Reservations there are.
    pub reservations: usize,
    /// Circuits there are.
    pub circuits: usize,
    /// Requests that were granted.
    pub granted: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Bytes carried, both directions together.
    pub carried: u64,
}

/// Carries circuits for others. Serves [`HOP_PROTOCOL`](super::HOP_PROTOCOL). Cheap to clone. Holds no reference to its endpoint.
#[derive(Clone)]
pub struct RelayServer(Arc<Server>);

impl std::fmt::Debug for RelayServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayServer")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

struct Server {
    endpoint: WeakEndpoint,
    config: RelayServerConfig,
    stop: CancellationToken,
    ledger: Mutex<Ledger>,
    /// What ends a reservation with its connection. As many as there are reservations.
    watches: Mutex<HashMap<PeerId, (u64, AbortHandle)>>,
    granted: AtomicU64,
    refused: AtomicU64,
    carried: AtomicU64,
}

/// A refusal to write back, and why.
struct No(Status, String);

impl RelayServer {
    /// A relay on an endpoint. It serves once it is [registered](crate::RouterBuilder::accept).
    #[must_use]
    pub fn new(endpoint: &Endpoint, config: RelayServerConfig) -> Self {
        let server = Arc::new(Server {
            endpoint: endpoint.downgrade(),
            stop: endpoint.shared().stop.clone(),
            ledger: Mutex::new(Ledger::new(config.ledger.clone())),
            watches: Mutex::default(),
            granted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            carried: AtomicU64::new(0),
            config,
        });
        endpoint.add_metrics(Arc::downgrade(&server) as _);
        Self(server)
    }

    /// What it does and has done.
    #[must_use]
    pub fn stats(&self) -> RelayStats {
        self.0.stats()
    }
}

impl ProtocolHandler for RelayServer {
    fn handle(&self, stream: Stream, connection: Connection) -> BoxFuture<'static, ()> {
        let server = Arc::clone(&self.0);
        Box::pin(async move {
            let stop = server.stop.clone();
            // Circuits would keep the node from its end for as long as they last.
            stop.run_until_cancelled(server.serve(stream, connection))
                .await;
        })
    }
}

/// Ends a circuit in the account, however it ends.
struct Counted<'a>(&'a Server, CircuitId);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.ledger.lock().end_circuit(self.1);
    }
}

impl MetricsSource for Server {
    fn collect(&self, live: &mut Live) {
        let stats = self.stats();
        let held = [
            ("reservations", stats.reservations),
            ("circuits", stats.circuits),
        ];
        let held = held.map(|(what, count)| (vec![("what", what.to_owned())], count as u64));
        live.gauge(
            "relay_held",
            "Reservations and circuits of this relay",
            held,
        );
        let asked = [("granted", stats.granted), ("refused", stats.refused)];
        let asked = asked.map(|(answer, count)| (vec![("answer", answer.to_owned())], count));
        live.counter("relay_requests", "Requests to this relay", asked);
        let carried = [(Vec::new(), stats.carried)];
        live.counter("relay_bytes", "Bytes that this relay has carried", carried);
    }
}

impl Server {
    fn stats(&self) -> RelayStats {
        let ledger = self.ledger.lock();
        RelayStats {
            reservations: ledger.reservations(),
            circuits: ledger.circuits(),
            granted: self.granted.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            carried: self.carried.load(Ordering::Relaxed),
        }
    }

    async fn serve(self: Arc<Self>, mut stream: Stream, connection: Connection) {
        let request = wire::read(&mut stream);
        let request = tokio::time::timeout(self.config.request_timeout, request).await;
        let peer = connection.peer_id();
        let refusal = match request {
            Err(_) | Ok(Err(RelayError::Stream(_) | RelayError::Ended)) => return,
            Ok(Err(RelayError::Message(error))) => No(error.status(), error.to_string()),
            Ok(Err(_)) => return,
            Ok(Ok(_)) if connection.info().is_relayed() => {
                No(Status::PermissionDenied, "asked through a relay".into())
            }
            Ok(Ok(HopMessage::Status { .. })) => No(
                Status::UnexpectedMessage,
                "an answer without a question".into(),
            ),
            Ok(Ok(HopMessage::Reserve)) => match self.reserve(&connection) {
                Ok(answer) => {
                    self.granted.fetch_add(1, Ordering::Relaxed);
                    // A client that has gone has no use for it.
                    let _ = stream.write_last(wire::framed(&answer)).await;
                    return;
                }
                Err(refusal) => refusal,
            },
            Ok(Ok(HopMessage::Connect { peer: target })) => {
                match self.connect(&connection, target).await {
                    Ok((counted, to_target, limit)) => {
                        self.granted.fetch_add(1, Ordering::Relaxed);
                        let answer = HopMessage::Status {
                            status: Status::Ok,
                            reservation: None,
                            limit,
                        };
                        if stream.write_chunk(wire::framed(&answer)).await.is_ok() {
                            tracing::debug!(%peer, %target, "carrying a circuit");
                            pipe::run(stream, to_target, limit, &self.carried).await;
                        }
                        drop(counted);
                        return;
                    }
                    Err(refusal) => refusal,
                }
            }
        };
        let No(status, why) = refusal;
        self.refused.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%peer, why, "refused a request to relay");
        let answer = wire::framed(&HopMessage::status(status));
        let _ = stream.write_last(answer).await;
    }

    fn reserve(self: &Arc<Self>, connection: &Connection) -> Result<HopMessage, No> {
        let gone = || No(Status::ConnectionFailed, "the node is ending".into());
        let endpoint = self.endpoint.upgrade().ok_or_else(gone)?;
        let (peer, info) = (connection.peer_id(), connection.info());
        let origin = ip_of(&info.remote_addr).and_then(Origin::of);
        let reserved = self.ledger.lock().reserve(now(), peer, origin);
        let reserved = reserved.map_err(|why| No(why.status(), why.to_string()))?;
        let watch = endpoint.spawn_until_stop(self.watch(reserved, connection.clone()));
        let replaced = self.watches.lock().insert(peer, (reserved.number, watch));
        if let Some((_, replaced)) = replaced {
            replaced.abort();
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let expire = (since.unwrap_or_default() + self.config.ledger.reservation).as_secs();
        let voucher = Voucher {
            relay: endpoint.peer_id(),
            peer,
            expiration: expire,
        };
        let reservation = Reservation {
            expire,
            addrs: addresses(&endpoint, connection),
            voucher: voucher.sign(endpoint.keypair()).ok().map(Into::into),
        };
        Ok(HopMessage::Status {
            status: Status::Ok,
            reservation: Some(reservation),
            limit: self.limit(&peer, None),
        })
    }

    /// Keeps the connection of a reservation, and ends the reservation with the last direct connection to its client.
    fn watch(
        self: &Arc<Self>,
        reserved: Reserved,
        mut connection: Connection,
    ) -> impl Future<Output = ()> + use<> {
        let server = Arc::clone(self);
        async move {
            let peer = connection.peer_id();
            let end = tokio::time::sleep_until(reserved.until.into());
            tokio::pin!(end);
            loop {
                let _lease = connection.lease("relay reservation");
                tokio::select! {
                    () = &mut end => break,
                    _ = connection.closed() => {}
                }
                let endpoint = server.endpoint.upgrade();
                match endpoint.and_then(|endpoint| endpoint.shared().direct(&peer)) {
                    Some(other) => connection = other,
                    None => break,
                }
            }
            server.ledger.lock().release(&peer, reserved.number);
            let mut watches = server.watches.lock();
            if watches
                .get(&peer)
                .is_some_and(|(number, _)| *number == reserved.number)
            {
                watches.remove(&peer);
            }
        }
    }

    async fn connect(
        &self,
        connection: &Connection,
        target: PeerId,
    ) -> Result<(Counted<'_>, Stream, Limit), No> {
        let source = connection.peer_id();
        let begun = self.ledger.lock().begin_circuit(now(), source, target);
        let id = begun.map_err(|why| No(why.status(), why.to_string()))?;
        let counted = Counted(self, id);
        let failed = |why: &str| No(Status::ConnectionFailed, format!("{target}: {why}"));
        let endpoint = self.endpoint.upgrade();
        let to = endpoint.and_then(|endpoint| endpoint.shared().direct(&target));
        let to = to.ok_or_else(|| failed("not connected"))?;
        let limit = self.limit(&source, Some(&target));
        let opening = to.open_stream_negotiated(&[STOP_PROTOCOL]);
        let opened = tokio::time::timeout(self.config.open_timeout, opening).await;
        let opened = opened.map_err(|_| failed("takes no stream"))?;
        let mut stream = opened.map_err(|error| failed(&error.to_string()))?;
        let ask = async {
            let request = StopMessage::Connect {
                peer: source,
                limit,
            };
            let written = stream.write_chunk(wire::framed(&request)).await;
            written.map_err(RelayError::Stream)?;
            wire::read(&mut stream).await
        };
        let answer = tokio::time::timeout(self.config.answer_timeout, ask).await;
        match answer.unwrap_or(Err(RelayError::Timeout)) {
            Ok(StopMessage::Status(Status::Ok)) => Ok((counted, stream, limit)),
            Ok(StopMessage::Status(status)) => Err(failed(&status.to_string())),
            Ok(StopMessage::Connect { .. }) => Err(failed("an unexpected message")),
            Err(error) => Err(failed(&error.to_string())),
        }
    }

    /// What circuits between two peers may carry.
    fn limit(&self, one: &PeerId, other: Option<&PeerId>) -> Limit {
        let unlimited = &self.config.unlimited;
        if unlimited.contains(one) || other.is_some_and(|other| unlimited.contains(other)) {
            return Limit::NONE;
        }
        self.config.ledger.limit
    }
}

/// Where the client of a connection may say that this relay is. Never nothing: rust-libp2p refuses a reservation without addresses.
fn addresses(endpoint: &Endpoint, connection: &Connection) -> Vec<Multiaddr> {
    let info = connection.info();
    let local = endpoint.shared().local();
    let mut addrs = local.addresses_for(&info.local_addr, &info.remote_addr);
    addrs.retain(|addr| !is_circuit(addr));
    if addrs.is_empty() {
        addrs.push(info.local_addr.clone());
    }
    addrs.truncate(MAX_ADDRS);
    let peer = endpoint.peer_id();
    let whole = addrs.into_iter().map(|addr| addr.with(Protocol::P2p(peer)));
    whole.filter_map(Result::ok).collect()
}
