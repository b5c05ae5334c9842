//! The driver's side of one peer: its streams, and what holds its connection.

use std::{collections::VecDeque, sync::atomic::Ordering, time::Instant};

use barewire_base::{Budget, PeerId};
use barewire_gossip::{ConnectError, Frame, NewPeer, PeerKey};
use barewire_transport::{Connection, Lease, Role, WriteHalf};
use serde_json::json;
use tokio::{sync::oneshot, task::AbortHandle};

use super::{
    GossipEvent,
    driver::{Done, Driver},
    starts::{Arrivals, Restarts},
    stream::{self, Frames, Grant, OpenFailure, Opened, Rest, Stop, WriteFailure},
};
use crate::{codes, manager};

/// Name of the lease on connections to peers in a mesh.
const LEASE: &str = "gossip";
/// Room for frames of unusual size beside the two largest.
const BESIDE: usize = 64 << 20;

/// A peer, connected or about to be.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Set while the router knows it: from the first time that our stream is open.
    pub(super) key: Option<PeerKey>,
    pub(super) outbound: Outbound,
    inbound: Option<Inbound>,
    /// Frames that the router has no room for, or came before our stream was open.
    early: VecDeque<std::vec::IntoIter<Frame>>,
    /// Their permits, released one by one.
    permits: VecDeque<Frames>,
    restarts: Restarts,
    arrivals: Arrivals,
    /// The one our stream is on.
    connection: Option<Connection>,
    /// Topics whose mesh it is in.
    mesh: usize,
    lease: Option<Lease>,
    /// Something was sent or received since it was last looked at.
    active: bool,
    /// Its last connection has ended; what it sent is still being read.
    gone: bool,
}

/// Our stream.
#[derive(Debug, Default)]
pub(super) enum Outbound {
    #[default]
    None,
    Opening {
        stream: u64,
    },
    /// Nothing is being written.
    Idle {
        stream: u64,
        write: WriteHalf,
        watch: AbortHandle,
    },
    /// A task waits for it to take more.
    Writing {
        stream: u64,
        watch: AbortHandle,
    },
    /// It will be opened again.
    Waiting,
    /// It failed too often on this connection.
    GivenUp,
}

#[derive(Debug)]
struct Inbound {
    stream: u64,
    stop: Stop,
    ended: bool,
}

impl Peer {
    fn is_stream(&self, id: u64) -> bool {
        match &self.outbound {
            Outbound::Opening { stream }
            | Outbound::Idle { stream, .. }
            | Outbound::Writing { stream, .. } => *stream == id,
            _ => false,
        }
    }

    /// Drops our stream; what it is replaced by.
    fn cut(&mut self, next: Outbound) {
        match std::mem::replace(&mut self.outbound, next) {
            Outbound::Idle { watch, .. } | Outbound::Writing { watch, .. } => watch.abort(),
            _ => {}
        }
    }

    /// The endpoint ends: what was written leaves, and what is read ends.
    pub(super) fn end(&mut self) {
        if let Outbound::Idle { write, .. } = &mut self.outbound {
            // It fails only when the stream is over.
            let _ = write.finish();
        }
        self.cut(Outbound::GivenUp);
        if let Some(inbound) = &self.inbound {
            inbound.stop.now(codes::STREAM_SHUTDOWN);
        }
        self.forget_early();
    }

    fn forget_early(&mut self) {
        self.early.clear();
        self.permits.clear();
    }

    fn is_unused(&self) -> bool {
        self.key.is_none() && self.inbound.is_none() && matches!(self.outbound, Outbound::None)
    }
}

impl Driver {
    /// There is a connection, or news of what the peer speaks.
    pub(super) fn connected(&mut self, id: PeerId) {
        let current = self
            .endpoint
            .upgrade()
            .and_then(|endpoint| endpoint.connection(&id));
        let Some(current) = current else {
            return;
        };
        let peer = self.entry(id);
        peer.gone = false;
        match peer.outbound {
            Outbound::None => self.open(id),
            Outbound::GivenUp
                if peer
                    .connection
                    .as_ref()
                    .is_none_or(|known| !known.is_same(&current)) =>
            {
                peer.restarts.reset();
                self.open(id);
            }
            _ => {}
        }
    }

    /// Opens our stream.
    pub(super) fn open(&mut self, id: PeerId) {
        let stream = self.new_stream();
        let (endpoint, versions) = (self.endpoint.clone(), self.versions.clone());
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| !peer.gone) else {
            return;
        };
        if !matches!(
            peer.outbound,
            Outbound::None | Outbound::Waiting | Outbound::GivenUp
        ) {
            return;
        }
        // One that gossips with us does so whether identify says it or not.
        let insist = peer.inbound.is_some();
        peer.outbound = Outbound::Opening { stream };
        self.work.spawn(async move {
            Done::Opened(
                id,
                stream,
                stream::open(endpoint, id, versions, insist).await,
            )
        });
    }

    fn new_stream(&mut self) -> u64 {
        self.next_stream += 1;
        self.next_stream
    }

    pub(super) fn opened(
        &mut self,
        at: Instant,
        id: PeerId,
        stream: u64,
        result: Result<Opened, OpenFailure>,
    ) {
        let Some(peer) = self
            .peers
            .get_mut(&id)
            .filter(|peer| peer.is_stream(stream))
        else {
            return;
        };
        let opened = match result {
            Ok(opened) => opened,
            Err(OpenFailure::Failed(why)) => {
                self.outbound_lost(at, id, stream, &why);
                return;
            }
            Err(OpenFailure::NoConnection | OpenFailure::NotSpoken) => {
                peer.outbound = Outbound::None;
                if peer.is_unused() {
                    self.peers.remove(&id);
                }
                return;
            }
        };
        let Opened {
            version,
            connection,
            info,
            read,
            write,
        } = opened;
        if peer
            .connection
            .as_ref()
            .is_some_and(|known| !known.is_same(&connection))
        {
            peer.restarts.reset();
            // The lease was on the old one.
            peer.lease = (peer.mesh > 0).then(|| connection.lease(LEASE));
        }
        peer.connection = Some(connection.clone());
        let key = match peer.key {
            Some(key) => {
                self.router.restart_outbound(key, version);
                key
            }
            None => {
                let agent = info.as_ref().map_or("", |info| &*info.agent_version);
                let new = NewPeer::new(id, version)
                    .outbound(connection.role() == Role::Client)
                    .address(manager::ip_of(&connection.info().remote_addr))
                    .limits(self.config.limits(agent));
                match self.router.connect(at, new) {
                    Ok(key) => key,
                    Err(error) => {
                        if !matches!(error, ConnectError::Connected(_)) {
                            tracing::debug!(peer = %id, %error, "no gossip with a peer");
                        }
                        peer.outbound = Outbound::GivenUp;
                        return;
                    }
                }
            }
        };
        let first = peer.key.replace(key).is_none();
        let watch = self.work.spawn(async move {
            stream::until_refused(read).await;
            Done::Refused(id, stream)
        });
        peer.outbound = Outbound::Idle {
            stream,
            write,
            watch,
        };
        if self.names.len() <= key.index() {
            self.names.resize(key.index() + 1, None);
        }
        self.names[key.index()] = Some(id);
        if let Some(rtt) = connection.stats().rtt {
            self.router.set_rtt(key, rtt);
        }
        if let Some(record) = info.and_then(|info| info.signed_record.clone()) {
            self.router.set_peer_record(key, record);
        }
        if first {
            tracing::debug!(peer = %id, version = version.protocol_id(), "gossip with a peer");
            if let Some(trace) = &self.config.trace {
                let fields = json!({"peer": id.to_string(), "version": version.protocol_id()});
                trace.write("connected", fields);
            }
            self.common
                .emit(|| GossipEvent::Connected { peer: id, version });
        }
        self.waiting.insert(id);
        self.ready.push_back(key);
    }

    /// Our stream is over: it is opened again a little later, unless that has happened too often.
    pub(super) fn outbound_lost(&mut self, at: Instant, id: PeerId, stream: u64, why: &str) {
        let Some(peer) = self
            .peers
            .get_mut(&id)
            .filter(|peer| peer.is_stream(stream))
        else {
            return;
        };
        let connected = self.endpoint.upgrade().and_then(|e| e.connection(&id));
        let moved = match (&connected, &peer.connection) {
            (Some(now), Some(before)) => !now.is_same(before),
            _ => false,
        };
        if moved {
            peer.restarts.reset();
        }
        tracing::debug!(peer = %id, why, "our stream of gossip is lost");
        match peer.restarts.next(rand::random()) {
            Some(delay) => {
                peer.cut(Outbound::Waiting);
                self.restarts.push((at + delay, id));
            }
            None => {
                peer.cut(Outbound::GivenUp);
                peer.forget_early();
                self.forget(at, id);
            }
        }
    }

    /// The router need not know the peer any more.
    fn forget(&mut self, at: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(key) = peer.key.take() else {
            return;
        };
        (peer.mesh, peer.lease) = (0, None);
        self.router.disconnect(at, key);
        // Its events still need the name.
        self.outputs(at);
        if let Some(name) = self.names.get_mut(key.index()) {
            *name = None;
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            (peer.mesh, peer.lease) = (0, None);
        }
        if let Some(trace) = &self.config.trace {
            trace.write("disconnected", json!({"peer": id.to_string()}));
        }
        self.common.emit(|| GossipEvent::Disconnected { peer: id });
    }

    /// The last connection to a peer has ended.
    pub(super) fn disconnected(&mut self, at: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.cut(Outbound::None);
        peer.restarts.reset();
        (peer.gone, peer.connection, peer.lease) = (true, None, None);
        // What it sent before counts: its stream is read to the end first.
        if peer.inbound.as_ref().is_none_or(|inbound| inbound.ended) {
            self.finish(at, id);
        }
    }

    fn finish(&mut self, at: Instant, id: PeerId) {
        self.take(at, id, true);
        self.forget(at, id);
        self.waiting.remove(&id);
        if let Some(peer) = self.peers.get(&id)
            && peer.gone
        {
            self.peers.remove(&id);
        }
    }

    pub(super) fn inbound_opened(
        &mut self,
        at: Instant,
        id: PeerId,
        connection: &Connection,
        reply: oneshot::Sender<Grant>,
    ) {
        let stream = self.new_stream();
        let budget = self.budget(id);
        let peer = self.entry(id);
        if !peer.arrivals.allow(at) {
            tracing::debug!(peer = %id, "a peer opens too many streams of gossip");
            return;
        }
        peer.gone = false;
        let stop = Stop::default();
        let inbound = Inbound {
            stream,
            stop: stop.clone(),
            ended: false,
        };
        if let Some(old) = peer.inbound.replace(inbound) {
            // One at a time, as go does.
            old.stop.now(codes::CONNECTION_NORMAL);
            peer.forget_early();
            if let Some(key) = peer.key {
                self.router.inbound_closed(key);
            }
        }
        // Its reader may be gone.
        let _ = reply.send(Grant {
            stream,
            budget,
            stop,
        });
        let peer = self.entry(id);
        let moved = peer
            .connection
            .as_ref()
            .is_none_or(|known| !known.is_same(connection));
        if matches!(peer.outbound, Outbound::GivenUp) && moved {
            peer.restarts.reset();
            peer.outbound = Outbound::None;
        }
        if matches!(peer.outbound, Outbound::None) {
            self.open(id);
        }
    }

    /// What the bytes of incomplete frames are charged to: what else the peer makes us buffer, unless a frame may be too large for
    /// that.
    fn budget(&mut self, id: PeerId) -> Budget {
        let max = self.router.max_rpc_len();
        let peer = self
            .endpoint
            .upgrade()
            .map(|endpoint| endpoint.budget_of(id));
        if let Some(peer) = peer.filter(|peer| max <= peer.limit() / 4) {
            return peer;
        }
        let limit = self.config.inbound_bytes.unwrap_or(2 * max + BESIDE);
        let mut large = self.common.large.lock();
        if large.limit() != limit {
            *large = Budget::root(limit);
        }
        large.clone()
    }

    pub(super) fn frames(&mut self, at: Instant, id: PeerId, stream: u64, mut frames: Frames) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if peer
            .inbound
            .as_ref()
            .is_none_or(|inbound| inbound.stream != stream)
        {
            return;
        }
        peer.active = true;
        peer.early
            .push_back(std::mem::take(&mut frames.frames).into_iter());
        peer.permits.push_back(frames);
        self.take(at, id, false);
    }

    pub(super) fn inbound_ended(&mut self, at: Instant, id: PeerId, stream: u64) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(inbound) = peer.inbound.as_mut().filter(|i| i.stream == stream) else {
            return;
        };
        inbound.ended = true;
        if peer.gone {
            self.finish(at, id);
        } else {
            self.take(at, id, false);
        }
    }

    /// Gives frames that wait to the router.
    pub(super) fn take_waiting(&mut self, at: Instant) {
        if self.waiting.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.waiting) {
            self.take(at, id, false);
        }
    }

    /// Gives frames to the router for as long as it has room, or all.
    fn take(&mut self, at: Instant, id: PeerId, all: bool) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(key) = peer.key else {
            // They wait for our stream, if that is to come.
            if matches!(peer.outbound, Outbound::None | Outbound::GivenUp) {
                peer.forget_early();
            }
            return;
        };
        while let Some(frames) = peer.early.front_mut() {
            let Some(frame) = frames.as_slice().first() else {
                peer.early.pop_front();
                peer.permits.pop_front();
                continue;
            };
            if !all && !self.router.has_room(key) {
                self.waiting.insert(id);
                return;
            }
            let received = self.router.receive(at, key, &frame.body);
            frames.next();
            if let Err(error) = received {
                tracing::debug!(peer = %id, %error, "a peer sent an RPC that cannot be read");
                peer.forget_early();
                if let Some(inbound) = &peer.inbound {
                    inbound.stop.now(codes::STREAM_PROTOCOL_VIOLATION);
                }
                break;
            }
        }
        if peer.inbound.as_ref().is_some_and(|inbound| inbound.ended) {
            peer.inbound = None;
            self.router.inbound_closed(key);
        }
    }

    /// Writes what waits for peers whose streams take it.
    pub(super) fn pump_ready(&mut self, at: Instant) {
        while let Some(key) = self.ready.pop_front() {
            if let Some(id) = self.name(key) {
                self.pump(at, id, key);
            }
        }
    }

    fn pump(&mut self, at: Instant, id: PeerId, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.key == Some(key)) else {
            return;
        };
        if !matches!(peer.outbound, Outbound::Idle { .. }) {
            return;
        }
        let Outbound::Idle {
            stream,
            mut write,
            watch,
        } = std::mem::take(&mut peer.outbound)
        else {
            return;
        };
        let mut rest = Rest::default();
        loop {
            let lost = match stream::write_now(&mut write, rest) {
                Ok(None) => match self.router.next_frame(at, key) {
                    Some(frame) => {
                        peer.active = true;
                        rest = Rest::new(frame);
                        continue;
                    }
                    None => {
                        peer.outbound = Outbound::Idle {
                            stream,
                            write,
                            watch,
                        };
                        return;
                    }
                },
                Ok(Some(left)) => {
                    peer.outbound = Outbound::Writing { stream, watch };
                    let patience = self.config.write_timeout;
                    self.work.spawn(async move {
                        let result = stream::write_later(&mut write, left, patience).await;
                        Done::Written(id, stream, write, result)
                    });
                    return;
                }
                Err(error) => error,
            };
            peer.outbound = Outbound::Writing { stream, watch };
            drop(write);
            self.outbound_lost(at, id, stream, &lost.to_string());
            return;
        }
    }

    pub(super) fn written(
        &mut self,
        at: Instant,
        id: PeerId,
        stream: u64,
        write: WriteHalf,
        result: Result<(), WriteFailure>,
    ) {
        // Dropping a stream that nobody knows resets it.
        let Some(peer) = self
            .peers
            .get_mut(&id)
            .filter(|peer| peer.is_stream(stream))
        else {
            return;
        };
        match result {
            Ok(()) => {
                if let Outbound::Writing { watch, .. } = &peer.outbound {
                    let watch = watch.clone();
                    peer.outbound = Outbound::Idle {
                        stream,
                        write,
                        watch,
                    };
                    self.ready.extend(peer.key);
                }
            }
            Err(WriteFailure::Blocked) => {
                write.reset(codes::STREAM_RATE_LIMITED);
                self.common.cut.fetch_add(1, Ordering::Relaxed);
                self.common.emit(|| GossipEvent::StreamCut { peer: id });
                self.outbound_lost(at, id, stream, "it takes nothing");
            }
            Err(WriteFailure::Stream(error)) => {
                self.outbound_lost(at, id, stream, &error.to_string());
            }
        }
    }

    /// The peer has entered a mesh, or left one.
    pub(super) fn in_mesh(&mut self, id: &PeerId, change: isize) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        peer.mesh = peer.mesh.saturating_add_signed(change);
        if peer.mesh == 0 {
            peer.lease = None;
        } else if peer.lease.is_none() {
            peer.lease = peer
                .connection
                .as_ref()
                .map(|connection| connection.lease(LEASE));
        }
    }

    /// Connections over which gossip went since the last call are not idle, whether their peers are in a mesh or not.
    pub(super) fn touch(&mut self) {
        for peer in self.peers.values_mut() {
            if std::mem::take(&mut peer.active)
                && peer.lease.is_none()
                && let Some(connection) = &peer.connection
            {
                drop(connection.lease(LEASE));
            }
        }
    }
}
