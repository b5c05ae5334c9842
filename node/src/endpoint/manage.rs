//! The endpoint's side of the connection manager: connections enter the table here, and what the
//! manager decides is done.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
};

use barewire_base::{Budget, Fault, Multiaddr, PeerId};
use barewire_transport::{CloseReason, Connection, InboundStreams, LocalReason, Role, Stream};
use tokio::{task::AbortHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    Endpoint, Shared, WeakEndpoint,
    table::{Link, LinkControl},
    task::ConnectionTask,
};
use crate::{
    error::OpenError,
    events::Event,
    incidents::Incident,
    manager::{
        self, CloseCount, Entry, Gated, KeptPeer, Machine, MemorySource, MemoryUse, MemoryWatch,
        Refusal, Step, SystemMemory, Visit, now, takes_descriptor,
    },
};

/// A peer that buffers less than this is not worth closing for what it buffers.
const WORTH_CLOSING: usize = 256 * 1024;
/// What closing a connection frees at least, buffers apart.
const CONNECTION_COST: u64 = 25 * 1024;

/// Why a ready connection was closed instead.
#[derive(Debug)]
pub(crate) enum NotEstablished {
    Gated(Gated),
    Limit(Refusal),
    /// There is this one to use.
    Known(Connection),
}

impl Endpoint {
    /// Opens a stream to the peer at `addr` on the connection that is there, or on a new one. All
    /// users of a peer share one connection.
    ///
    /// If the connection turns out to be gone, as one that the peer has just closed for being idle,
    /// it is replaced once. Cancel-safe.
    pub async fn open_stream(&self, addr: Multiaddr, protocol: &str) -> Result<Stream, OpenError> {
        let connection = self.connect(addr.clone()).await?;
        match connection.open_stream(protocol).await {
            Err(_) if connection.close_reason().is_some() => {
                let connection = self.connect(addr).await?;
                Ok(connection.open_stream(protocol).await?)
            }
            opened => Ok(opened?),
        }
    }

    /// Connects to a peer, and again whenever the connection is lost, until the answer is dropped.
    /// Each attempt dials all the addresses, names in them resolved anew; once the peer is
    /// known nobody else is accepted there. The connection is leased at this end, and at the other
    /// too if the peer is a barewire node, so that no idle timeout ends it.
    ///
    /// Delays between attempts grow from 250 ms to 2 s, and after three minutes without success to
    /// 60 s; see [`Backoff`](manager::Backoff). Holds no reference to the endpoint.
    #[must_use = "the peer is let go when the answer is dropped"]
    pub fn keep_connected(&self, addrs: impl Into<Vec<Multiaddr>>) -> KeptPeer {
        manager::keep(self, addrs.into())
    }

    /// Gives a peer a value under a name, instead of the one it had under that name. When there are
    /// too many connections, those of the peers with the smallest sums go first; without tags a peer
    /// is worth 0. A tag also holds the connections of the peer against the idle timeout, those to
    /// come too, until it is [taken back](Self::untag).
    pub fn tag(&self, peer: PeerId, name: &str, value: i64) {
        let name: Arc<str> = name.into();
        let shared = self.shared();
        let mut ledger = shared.manager.ledger.lock();
        ledger.tag(peer, Arc::clone(&name), value);
        shared.hold(&peer, &name);
    }

    /// Takes a tag back; `false` if the peer had none of that name.
    pub fn untag(&self, peer: &PeerId, name: &str) -> bool {
        let shared = self.shared();
        let mut ledger = shared.manager.ledger.lock();
        let had = ledger.untag(peer, name);
        shared.let_go(&ledger.holds(peer), peer, name);
        had
    }

    /// Protects a peer under a name: its connections are neither trimmed nor closed for being idle
    /// or for want of memory, and may take the reserved slots, until each name is
    /// [unprotected](Self::unprotect).
    pub fn protect(&self, peer: PeerId, name: &str) {
        let name: Arc<str> = name.into();
        let shared = self.shared();
        let mut ledger = shared.manager.ledger.lock();
        ledger.protect(peer, Arc::clone(&name));
        shared.hold(&peer, &name);
    }

    /// Ends a protection; `false` if the peer had none of that name.
    pub fn unprotect(&self, peer: &PeerId, name: &str) -> bool {
        let shared = self.shared();
        let mut ledger = shared.manager.ledger.lock();
        let had = ledger.unprotect(peer, name);
        shared.let_go(&ledger.holds(peer), peer, name);
        had
    }

    /// How many connections have ended, by who ended them and why. Those that were turned away as
    /// soon as they were ready count too.
    #[must_use]
    pub fn closes(&self) -> Vec<CloseCount> {
        self.shared().manager.closes()
    }

    /// Bytes that connections buffer now, as they are charged to
    /// [`Limits::buffers`](manager::Limits::buffers).
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.shared().manager.buffers().used()
    }

    /// Waits until another connection to its peer is to be used instead; for ever if this one is not
    /// in the table any more. Does not hold the endpoint.
    pub(crate) fn replaced(
        &self,
        connection: &Connection,
    ) -> impl Future<Output = ()> + Send + use<> {
        let control = self.shared().control(connection);
        async move {
            match control {
                Some(control) => control.replaced().await,
                None => std::future::pending().await,
            }
        }
    }

    pub(crate) fn downgrade(&self) -> WeakEndpoint {
        WeakEndpoint(Arc::downgrade(&self.0))
    }

    /// What bytes buffered for a peer are charged to.
    pub(crate) fn budget_of(&self, peer: PeerId) -> Budget {
        self.shared().manager.budget_of(peer)
    }

    /// Runs what the endpoint's end waits for. It is given the signals to come to an end, and to end at once.
    pub(crate) fn spawn_to_the_end<W: Future<Output = ()> + Send + 'static>(
        &self,
        work: impl FnOnce((CancellationToken, CancellationToken)) -> W,
    ) {
        let shared = self.shared();
        let signals = (shared.stop.clone(), shared.kill.clone());
        shared.tasks.spawn(work(signals));
    }

    /// Runs `work` until it ends or the endpoint stops.
    pub(crate) fn spawn_until_stop(
        &self,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        let stop = self.shared().stop.clone();
        let task = async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
        };
        self.shared().tasks.spawn(task).abort_handle()
    }
}

impl Shared {
    /// Puts a ready connection into the table and starts its task. A connection that is not wanted
    /// is closed, and told why. With `pooled`, so is one to a peer that has been dialled already.
    pub(crate) fn establish(
        self: &Arc<Self>,
        connection: &Connection,
        inbound: InboundStreams,
        visit: Option<Visit>,
        pooled: bool,
    ) -> Result<(), NotEstablished> {
        if let Err(Gated(why)) = self.manager.after_mux(connection) {
            let reason = LocalReason::Gated(why);
            self.turn_away(connection, Incident::Gated, reason);
            return Err(NotEstablished::Gated(Gated(why)));
        }
        let peer = connection.peer_id();
        let remote = &connection.info().remote_addr;
        let entry = Entry {
            peer,
            inbound: connection.role() == Role::Server,
            descriptor: takes_descriptor(remote),
        };
        let id = self.next_link.fetch_add(1, Ordering::Relaxed);
        let control = Arc::new(LinkControl::default());
        self.trim(1);
        let entered = {
            // What is in the table changes only under this lock.
            let mut ledger = self.manager.ledger.lock();
            if pooled && let Some(open) = self.dialled_before(&peer) {
                drop(ledger);
                self.close_unentered(connection, LocalReason::Superseded);
                return Err(NotEstablished::Known(open));
            }
            let entered = ledger.enter(now(), id, entry);
            // Under the lock, so that no tag is given or taken back in between.
            entered.map(|()| {
                for name in ledger.holds(&peer) {
                    control.hold(connection, &name);
                }
                let link = Link {
                    id,
                    outbound: connection.role() == Role::Client,
                    relayed: connection.info().is_relayed(),
                    connection: connection.clone(),
                    control: Arc::clone(&control),
                };
                let mut table = self.table.lock();
                let inserted = table.insert(peer, link);
                self.peer_book.connected(&peer);
                self.metrics.opened(connection);
                let wake = ledger.len() == 1 || ledger.poll_timeout(now()).is_some();
                (inserted, (table.len(), table.peer_count()), wake)
            })
        };
        let (inserted, counts, wake) = match entered {
            Ok(entered) => entered,
            Err(refusal) => {
                let reason = LocalReason::Limit(refusal.name());
                self.turn_away(connection, Incident::of_refusal(refusal), reason);
                return Err(NotEstablished::Limit(refusal));
            }
        };
        if wake {
            self.manager.wake.notify_one();
        }
        if connection.role() == Role::Client {
            self.peer_book.succeeded(&peer, remote);
        }
        self.publish_counts(counts);
        self.events.emit(|| Event::Connected {
            peer,
            remote: remote.clone(),
            role: connection.role(),
        });
        tracing::debug!(%peer, %remote, "connected");
        let task = ConnectionTask::new(
            Arc::clone(self),
            connection.clone(),
            inbound,
            (id, control),
            visit,
            inserted.both_directions,
        );
        let info = connection.info();
        let span = tracing::debug_span!(
            "connection", %peer, %remote, transport = info.transport, role = ?info.role
        );
        self.tasks.spawn(task.run().instrument(span));
        Ok(())
    }

    fn turn_away(&self, connection: &Connection, kind: Incident, reason: LocalReason) {
        self.close_unentered(connection, reason.clone());
        let remote = &connection.info().remote_addr;
        self.refused(remote, Some(connection.peer_id()), kind, reason);
    }

    /// Closes a connection that is ready and does not enter the table.
    pub(crate) fn close_unentered(&self, connection: &Connection, reason: impl Into<LocalReason>) {
        let reason = reason.into();
        connection.close(reason.clone());
        self.manager.closed(&CloseReason::Local(reason));
    }

    /// Counts, logs and tells a refusal.
    pub(crate) fn refused(
        &self,
        remote: &Multiaddr,
        peer: Option<PeerId>,
        kind: Incident,
        reason: LocalReason,
    ) {
        self.incidents.record(
            kind,
            1,
            Fault::Limit,
            remote,
            &format_args!("refused {reason}"),
        );
        self.events.emit(|| Event::Refused {
            remote: remote.clone(),
            peer,
            reason,
        });
    }

    /// Leases the connections of a peer in the name of a tag. Called with the ledger locked.
    fn hold(&self, peer: &PeerId, name: &Arc<str>) {
        for link in self.table.lock().links(peer) {
            link.control.hold(&link.connection, name);
        }
    }

    /// Ends the leases of a name, unless the peer still has a tag or protection of that name. Called
    /// with the ledger locked.
    fn let_go(&self, left: &[Arc<str>], peer: &PeerId, name: &str) {
        if left.iter().any(|held| &**held == name) {
            return;
        }
        for link in self.table.lock().links(peer) {
            link.control.let_go(name);
        }
    }

    /// Closes what is to be trimmed so that `coming` more connections fit.
    fn trim(&self, coming: usize) {
        let mut ledger = self.manager.ledger.lock();
        let ids = ledger.trim(now(), coming, |peer, id| self.is_busy(peer, id));
        let closing = self.take(&ledger, &ids);
        drop(ledger);
        for connection in closing {
            connection.close(LocalReason::Trimmed);
        }
    }

    fn is_busy(&self, peer: &PeerId, id: u64) -> bool {
        let table = self.table.lock();
        let link = table.link(peer, id);
        link.is_some_and(|link| link.connection.idle_since().is_none())
    }

    /// The connections of these numbers.
    fn take(&self, ledger: &manager::Ledger, ids: &[u64]) -> Vec<Connection> {
        let table = self.table.lock();
        let links = ids
            .iter()
            .filter_map(|id| table.link(&ledger.peer_of(*id)?, *id));
        links.map(|link| link.connection.clone()).collect()
    }

    /// Bytes that could be freed by closing connections.
    fn closable(&self) -> u64 {
        let ledger = self.manager.ledger.lock();
        let fattest = self.manager.fattest().into_iter();
        let buffered = fattest.filter(|(peer, _)| !ledger.is_privileged(peer));
        let buffered: usize = buffered.map(|(_, held)| held).sum();
        buffered as u64 + ledger.closable() as u64 * CONNECTION_COST
    }

    /// Looks at the memory of the process, and refuses or closes connections if it is short. `None`
    /// if nothing limits it.
    fn mind_memory(&self, memory: &dyn MemorySource, watch: &mut MemoryWatch) -> Option<Step> {
        let now = now();
        let step = match memory.read() {
            Ok(Some(MemoryUse { used, limit })) => {
                let step = watch.observe(now, used, limit, || self.closable());
                if step.helpless {
                    tracing::warn!(
                        used,
                        limit,
                        "memory is short, but not because of connections: nobody is refused"
                    );
                }
                step
            }
            Ok(None) => {
                self.manager.ledger.lock().set_memory_short(false);
                return None;
            }
            Err(error) => {
                tracing::debug!(%error, "the use of memory cannot be read");
                let short = self.manager.ledger.lock().is_memory_short();
                return Some(watch.unread(short));
            }
        };
        if step.reclaim {
            self.transports.drop_spare_buffers();
            if let Some(reclaim) = self.config.reclaim {
                reclaim();
            }
        }
        let mut ledger = self.manager.ledger.lock();
        ledger.set_memory_short(step.short);
        if step.free == 0 {
            return Some(step);
        }
        let mut freed = 0;
        let mut ids = Vec::new();
        for (peer, held) in self.manager.fattest() {
            if freed >= step.free || held < WORTH_CLOSING {
                break;
            }
            let closed = ledger.shed_peer(&peer);
            if !closed.is_empty() {
                freed += held as u64;
                ids.extend(closed);
            }
        }
        if freed < step.free {
            // An eighth at a time: it is looked at again in a moment.
            let needed = (step.free - freed).div_ceil(CONNECTION_COST);
            let most = ledger.len().div_ceil(8);
            let count = usize::try_from(needed).map_or(most, |needed| needed.min(most));
            let more = ledger.shed(count, |peer, id| self.is_busy(peer, id));
            freed += more.len() as u64 * CONNECTION_COST;
            ids.extend(more);
        }
        let closing = self.take(&ledger, &ids);
        drop(ledger);
        watch.freed(now, freed);
        for connection in closing {
            connection.close(LocalReason::Limit(Refusal::Memory.name()));
        }
        Some(step)
    }
}

/// The manager's task: trims when it is time and watches the memory while there are connections.
pub(super) async fn run(shared: Arc<Shared>) {
    let system = || Arc::new(SystemMemory::new(Machine::get(), &shared.config.limits)) as _;
    let memory = shared.config.memory.clone().unwrap_or_else(system);
    let mut watch = MemoryWatch::default();
    let mut look_at = None;
    loop {
        let trim_at = shared.manager.ledger.lock().poll_timeout(now());
        let next = [trim_at, look_at].into_iter().flatten().min();
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = shared.manager.wake.notified() => {}
            () = super::task::sleep_until(next.map(Instant::from_std)) => {}
        }
        if trim_at.is_some_and(|at| at <= now()) {
            shared.trim(0);
        }
        if look_at.is_none_or(|at| at <= now()) {
            let step = shared.mind_memory(&*memory, &mut watch);
            let idle = shared.manager.ledger.lock().is_empty();
            // While memory is short somebody has to see the end of it, whoever is connected.
            let watched = step.filter(|step| step.short || !idle);
            look_at = watched.map(|step| now() + step.next);
        }
    }
}
