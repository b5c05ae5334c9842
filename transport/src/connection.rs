//! A secured, multiplexed connection and the state it shares with its task and its streams.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use barewire_base::{Multiaddr, PeerId, PublicKey, multistream};
use barewire_mux::{
    Event, LimitsHit, OpenError, Role, StreamId, StreamIdMap, StreamMuxer, WriteError,
};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    close::{CloseReason, LocalReason},
    error::{OpenStreamError, StreamError},
    lease::{HoldKind, Lease, Leases, WhyOpen},
    muxed::MuxedStream,
    quic,
    stream::{InlineHandler, Raw, Stream},
    traffic::Traffic as ByProtocol,
    ws::Copied,
};

/// Time now, from tokio's clock so that tests may pause it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What is known of a connection from its upgrade on.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Identity the remote proved.
    pub peer_id: PeerId,
    /// Key behind [`peer_id`](Self::peer_id).
    pub public_key: PublicKey,
    /// Client when this side dialled.
    pub role: Role,
    /// Address of this side.
    pub local_addr: Multiaddr,
    /// Address of the remote, without its peer id.
    pub remote_addr: Multiaddr,
    /// What carries it: `tcp`, `ws`, `wss`, `quic-v1`, `memory` or `relay`.
    pub transport: &'static str,
    /// Negotiated security protocol, for example `/noise`.
    pub security: &'static str,
    /// Negotiated muxer, for example `/yamux/1.0.0`; `quic` where the transport has streams itself.
    pub muxer: &'static str,
    /// Whether the muxer was agreed inside the secure handshake, which saves a round trip.
    pub early_muxer: bool,
    /// When the upgrade ended.
    pub established: Instant,
    /// What the relay lets through, if it carries this connection and limits it.
    pub limit: Option<CircuitLimit>,
    /// Counters of the node it belongs to.
    pub(crate) traffic: Arc<ByProtocol>,
}

impl ConnectionInfo {
    /// Whether a relay carries it.
    #[must_use]
    pub fn is_relayed(&self) -> bool {
        self.transport == CIRCUIT
    }
}

/// [`ConnectionInfo::transport`] of what goes through a relay.
pub const CIRCUIT: &str = "relay";

/// What a relay lets through before it ends a connection. Handshakes and frames count too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitLimit {
    /// How long it lasts; `None` for ever.
    pub duration: Option<Duration>,
    /// Bytes, in each direction (go-libp2p's relays) or in both together (rust-libp2p's); `None` any number.
    pub data: Option<u64>,
}

/// Counters of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// Bytes written to the socket since the upgrade.
    pub bytes_sent: u64,
    /// Bytes read from the socket since the upgrade.
    pub bytes_received: u64,
    /// Open streams the remote opened.
    pub streams_inbound: usize,
    /// Open streams this side opened.
    pub streams_outbound: usize,
    /// Bytes written to streams, or sealed, that the socket has not taken. 0 means that
    /// [`Connection::close`] cuts nothing off. Over QUIC it counts what quinn has not taken, and one
    /// for each finished stream whose end the remote has not acknowledged.
    pub bytes_queued: usize,
    /// What the muxer's limits have cost the remote so far. Over QUIC quinn enforces them and counts
    /// nothing.
    pub limits_hit: LimitsHit,
    /// Last round trip measured by the muxer, or by QUIC.
    pub rtt: Option<Duration>,
    /// Received bytes that were copied on their way to [`Stream::read_chunk`](crate::Stream::read_chunk):
    /// the start of a burst that outgrew a small slab, small pieces that were not read soon, and what
    /// the headers of short WebSocket frames have moved.
    /// Decryption is in place and not counted.
    pub bytes_copied_in: u64,
    /// Plaintext bytes copied on their way to the socket: once each, when they are sealed, frame
    /// headers included; plus sealed bytes moved when a write buffer had to grow, masked by the client
    /// of a WebSocket, or encrypted again for a private network. Over QUIC both counts stay 0: quinn
    /// counts none.
    pub bytes_copied_out: u64,
}

/// What the transport keeps for one stream beside the muxer's own state.
#[derive(Default)]
pub(crate) struct StreamState {
    pub(crate) read_waker: Option<Waker>,
    pub(crate) write_waker: Option<Waker>,
    /// Negotiation bytes that ride with the first write, or go out when a read has to wait.
    pub(crate) prefix: Option<Bytes>,
    pub(crate) inline: Option<Box<dyn InlineHandler>>,
    /// This side has finished or reset its direction.
    pub(crate) write_closed: bool,
    /// The remote has sent something. On a stream of ours that is its answer to the proposal. Also set when nobody
    /// would see an answer any more.
    pub(crate) answered: bool,
    /// This side has finished; the remote is told when it has answered.
    pub(crate) end_held: bool,
    /// Halves alive.
    pub(crate) halves: u8,
}

pub(crate) struct State {
    pub(crate) mux: Box<dyn StreamMuxer>,
    /// Ends of streams wait for the remote's answer, see [`Connection::end_streams_early`].
    pub(crate) hold_ends: bool,
    /// How many wait.
    pub(crate) ends_held: usize,
    pub(crate) streams: StreamIdMap<StreamState>,
    pub(crate) accept: VecDeque<StreamId>,
    pub(crate) accept_waker: Option<Waker>,
    pub(crate) accept_closed: bool,
    /// Told when streams can be opened again, and when the connection closes.
    pub(crate) can_open: Arc<Notify>,
    /// The connection task.
    pub(crate) driver: Waker,
    pub(crate) closed: Option<CloseReason>,
    /// The task is gone, and with it the socket.
    pub(crate) terminated: bool,
    /// Sealed bytes the socket has not taken.
    pub(crate) unsent: usize,
    /// Those who wait until nothing is queued.
    pub(crate) drain_wakers: Vec<Waker>,
    pub(crate) stats: Traffic,
    /// What the layers below the record layer have copied.
    pub(crate) copied: Arc<Copied>,
}

/// What the task counts.
#[derive(Default)]
pub(crate) struct Traffic {
    pub(crate) received: u64,
    pub(crate) written: u64,
    pub(crate) copied_in: u64,
    pub(crate) copied_out: u64,
}

impl State {
    pub(crate) fn new(mux: Box<dyn StreamMuxer>, copied: Arc<Copied>) -> Self {
        Self {
            mux,
            copied,
            hold_ends: true,
            ends_held: 0,
            streams: StreamIdMap::default(),
            accept: VecDeque::new(),
            accept_waker: None,
            accept_closed: false,
            can_open: Arc::default(),
            driver: Waker::noop().clone(),
            closed: None,
            terminated: false,
            unsent: 0,
            drain_wakers: Vec::new(),
            stats: Traffic::default(),
        }
    }

    /// Asks the task to send what a stream has queued. It runs after the tasks that are ready now,
    /// so that what they queue goes out together.
    pub(crate) fn wake_driver(&self) {
        if self.mux.wants_transmit() {
            self.driver.wake_by_ref();
        }
    }

    /// Takes the muxer's events and wakes whom they concern.
    pub(crate) fn drain_events(&mut self, now: Instant) {
        while let Some(event) = self.mux.poll_event() {
            match event {
                Event::Incoming(id) => {
                    if self.accept_closed {
                        self.mux.reset(id, RESET_NOT_ACCEPTED);
                        self.mux.release(id);
                        continue;
                    }
                    let stream = StreamState {
                        answered: true,
                        ..StreamState::default()
                    };
                    self.streams.insert(id, stream);
                    self.accept.push_back(id);
                    wake(&mut self.accept_waker);
                }
                Event::Readable(id) => {
                    let Some(stream) = self.streams.get_mut(&id) else {
                        continue;
                    };
                    stream.answered = true;
                    if std::mem::take(&mut stream.end_held) {
                        self.ends_held -= 1;
                        // Fails if the remote has reset the stream, which its reader finds out.
                        drop(self.mux.finish(id));
                    }
                    if stream.inline.is_some() {
                        self.run_inline(id, now);
                    } else {
                        wake(&mut stream.read_waker);
                    }
                }
                Event::Writable(id) => {
                    let Some(stream) = self.streams.get_mut(&id) else {
                        continue;
                    };
                    if stream.inline.is_some() {
                        self.run_inline(id, now);
                    } else {
                        wake(&mut stream.write_waker);
                    }
                }
                Event::CanOpen => {
                    self.can_open.notify_waiters();
                }
                Event::GoAway(code) => {
                    self.closed.get_or_insert(CloseReason::Remote(code));
                }
                _ => {}
            }
        }
    }

    /// Ends this side's direction of a stream that is open for writing.
    pub(crate) fn finish(&mut self, id: StreamId) -> Result<(), WriteError> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return self.mux.finish(id);
        };
        if self.hold_ends && !stream.answered {
            stream.end_held = true;
            self.ends_held += 1;
        } else {
            self.mux.finish(id)?;
        }
        stream.write_closed = true;
        Ok(())
    }

    /// Nobody reads the stream any more, so no answer will be seen: its end does not wait for one.
    pub(crate) fn stop_reading(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.answered = true;
        if std::mem::take(&mut stream.end_held) {
            self.ends_held -= 1;
            // Fails if the remote has reset the stream, and then there is nothing to end.
            drop(self.mux.finish(id));
        }
    }

    /// Lets the ends that wait for an answer go: whoever drains a connection does not wait for a
    /// remote that may never give one.
    fn release_ends(&mut self) {
        if self.ends_held == 0 {
            return;
        }
        for (id, stream) in &mut self.streams {
            if std::mem::take(&mut stream.end_held) {
                // Fails if the remote has reset the stream, which its reader finds out.
                drop(self.mux.finish(*id));
            }
        }
        self.ends_held = 0;
        self.wake_driver();
    }

    /// Lets the inline handler of a stream answer what has arrived.
    pub(crate) fn run_inline(&mut self, id: StreamId, now: Instant) {
        use barewire_mux::ReadOutcome;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let Some(mut handler) = stream.inline.take() else {
            return;
        };
        let keep = loop {
            // Not reading while the answers do not drain grants the remote no more credit.
            match self.mux.send_capacity(id) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(_) => break false,
            }
            match self.mux.read(now, id, usize::MAX) {
                ReadOutcome::Chunk(chunk) => match handler.on_data(chunk) {
                    Ok(Some(answer)) => {
                        if self.mux.write(id, answer).is_err() {
                            break false;
                        }
                    }
                    Ok(None) => {}
                    Err(code) => {
                        self.mux.reset(id, code);
                        break false;
                    }
                },
                ReadOutcome::Pending => break true,
                ReadOutcome::Finished => {
                    match handler.on_finish() {
                        // The stream may be gone already; then there is nothing to end.
                        Ok(()) => drop(self.mux.finish(id)),
                        Err(code) => self.mux.reset(id, code),
                    }
                    break false;
                }
                _ => break false,
            }
        };
        if keep {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.inline = Some(handler);
            }
        } else {
            self.streams.remove(&id);
            self.mux.release(id);
        }
    }

    /// Queues the negotiation bytes held back for a stream.
    pub(crate) fn send_prefix(&mut self, id: StreamId) {
        let stream = self.streams.get_mut(&id);
        if let Some(prefix) = stream.and_then(|stream| stream.prefix.take()) {
            // A failure shows in the read or write that follows.
            drop(self.mux.write(id, prefix));
        }
    }

    /// Wakes everyone who waits on this connection, after it closed.
    pub(crate) fn wake_all(&mut self) {
        for stream in self.streams.values_mut() {
            wake(&mut stream.read_waker);
            wake(&mut stream.write_waker);
            stream.inline = None;
        }
        wake(&mut self.accept_waker);
        self.can_open.notify_waiters();
        for waker in self.drain_wakers.drain(..) {
            waker.wake();
        }
    }

    /// Bytes that a close would cut off.
    pub(crate) fn queued(&self) -> usize {
        self.mux.queued() + self.unsent + self.ends_held
    }

    fn connection_stats(&self) -> ConnectionStats {
        let streams = self.mux.stream_counts();
        ConnectionStats {
            bytes_sent: self.stats.written,
            bytes_received: self.stats.received,
            streams_inbound: streams.inbound,
            streams_outbound: streams.outbound,
            bytes_queued: self.queued(),
            limits_hit: self.mux.limits_hit(),
            rtt: self.mux.rtt(),
            bytes_copied_in: self.stats.copied_in
                + self.mux.bytes_copied()
                + self.copied.inbound.load(Ordering::Relaxed),
            bytes_copied_out: self.stats.copied_out + self.copied.outbound.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn closed_error(&self) -> Option<StreamError> {
        self.closed.clone().map(StreamError::Closed)
    }
}

/// Reset code for a stream nobody accepts any more: go-libp2p's "shutdown".
const RESET_NOT_ACCEPTED: u32 = 0x1007;

fn wake(slot: &mut Option<Waker>) {
    if let Some(waker) = slot.take() {
        waker.wake();
    }
}

/// Stores `cx`'s waker, without cloning it when it is the same.
pub(crate) fn store_waker(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    pub(crate) info: ConnectionInfo,
    pub(crate) leases: Leases,
    /// That of the state, so that it can be waited for without its lock.
    pub(crate) can_open: Arc<Notify>,
    /// Told when the connection closes, and again when its task has ended.
    pub(crate) ended: Notify,
}

impl Shared {
    /// Says goodbye and ends the connection. The first reason stays.
    pub(crate) fn close(&self, reason: LocalReason) {
        let mut state = self.state.lock();
        if state.closed.is_none() {
            state.mux.close(reason.code());
            state.closed = Some(CloseReason::Local(reason));
            state.wake_all();
        }
        state.driver.wake_by_ref();
    }

    async fn open_stream(&self) -> Result<StreamId, OpenStreamError> {
        loop {
            let can_open = self.can_open.notified();
            {
                let mut state = self.state.lock();
                if let Some(reason) = &state.closed {
                    return Err(OpenStreamError::Closed(reason.clone()));
                }
                match state.mux.open_stream(now()) {
                    Ok(id) => {
                        state.streams.insert(id, StreamState::default());
                        return Ok(id);
                    }
                    Err(OpenError::TooMany) => {}
                    // Only a muxer that has ended refuses for good; the task is about to say why.
                    Err(_) => return Err(OpenStreamError::Closed(CloseReason::RemoteEnded)),
                }
            }
            can_open.await;
        }
    }

    async fn drained(&self) {
        std::future::poll_fn(|cx| {
            let mut state = self.state.lock();
            state.release_ends();
            if state.closed.is_some() || state.queued() == 0 {
                return Poll::Ready(());
            }
            let mut waiting = state.drain_wakers.iter();
            if !waiting.any(|waker| waker.will_wake(cx.waker())) {
                state.drain_wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    async fn closed(&self) -> CloseReason {
        loop {
            let notified = self.ended.notified();
            if let Some(reason) = self.state.lock().closed.clone() {
                return reason;
            }
            notified.await;
        }
    }

    async fn terminated(&self) {
        loop {
            let notified = self.ended.notified();
            if self.state.lock().terminated {
                return;
            }
            notified.await;
        }
    }
}

/// Closes the connection when the last handle and stream are gone.
pub(crate) struct Handle(pub(crate) Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close(LocalReason::Dropped);
    }
}

/// A secured, multiplexed connection. Cheap to clone.
///
/// It closes when [`close`](Self::close) is called, when the remote ends it, or when the last clone,
/// its [`InboundStreams`](crate::InboundStreams) and its last stream are dropped.
#[derive(Clone)]
pub struct Connection(pub(crate) Link);

/// What a connection consists of.
#[derive(Clone)]
pub(crate) enum Link {
    /// A byte stream, a record layer and a muxer, driven by a task of ours.
    Muxed(Arc<Handle>),
    /// A QUIC connection, driven by quinn.
    Quic(Arc<quic::Handle>),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("peer_id", &self.info().peer_id)
            .field("remote_addr", &self.info().remote_addr)
            .field("role", &self.info().role)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Identity the remote proved.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.info().peer_id
    }

    /// Key of the remote.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.info().public_key
    }

    /// Client when this side dialled.
    #[must_use]
    pub fn role(&self) -> Role {
        self.info().role
    }

    /// What the upgrade negotiated.
    #[must_use]
    pub fn info(&self) -> &ConnectionInfo {
        match &self.0 {
            Link::Muxed(handle) => &handle.0.info,
            Link::Quic(handle) => &handle.0.info,
        }
    }

    /// Whether both handles mean the same connection.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Link::Muxed(one), Link::Muxed(other)) => Arc::ptr_eq(one, other),
            (Link::Quic(one), Link::Quic(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Opens a stream for one protocol without waiting for the remote: the proposal travels with
    /// the first write, or when the first read has to wait. If the remote refuses, the first read
    /// returns [`StreamError::ProtocolNotSupported`].
    ///
    /// Waits while the limit of open streams is reached. Cancel safe.
    pub async fn open_stream(&self, protocol: &str) -> Result<Stream, OpenStreamError> {
        check_protocol(protocol)?;
        let raw = self.open_raw().await?;
        let mut dialer = multistream::Dialer::optimistic(protocol.into());
        let mut proposal = bytes::BytesMut::new();
        dialer.poll_transmit(&mut proposal);
        let mut stream = Stream::outbound(raw, protocol.into(), proposal.freeze(), dialer);
        stream.count(false);
        Ok(stream)
    }

    /// Opens a stream for the first of `protocols` the remote speaks, and waits for its answer.
    ///
    /// Not cancel safe in the sense that a cancelled call resets the stream.
    pub async fn open_stream_negotiated(
        &self,
        protocols: &[&str],
    ) -> Result<Stream, OpenStreamError> {
        for protocol in protocols {
            check_protocol(protocol)?;
        }
        let raw = self.open_raw().await?;
        let list = protocols.iter().map(|p| Arc::from(*p)).collect();
        let mut dialer = multistream::Dialer::new(list);
        let mut first = bytes::BytesMut::new();
        dialer.poll_transmit(&mut first);
        let proposals = protocols.join(", ").into();
        let mut stream = Stream::outbound(raw, proposals, first.freeze(), dialer);
        stream.negotiate().await.map_err(|error| match error {
            StreamError::ProtocolNotSupported(proposals) => {
                OpenStreamError::ProtocolNotSupported(proposals)
            }
            StreamError::Closed(reason) => OpenStreamError::Closed(reason),
            other => OpenStreamError::Stream(other),
        })?;
        Ok(stream)
    }

    async fn open_raw(&self) -> Result<Raw, OpenStreamError> {
        match &self.0 {
            Link::Muxed(handle) => {
                let id = handle.0.open_stream().await?;
                let handle = Arc::clone(handle);
                Ok(Raw::Muxed(MuxedStream { handle, id }))
            }
            Link::Quic(handle) => Ok(Raw::Quic(handle.open().await?)),
        }
    }

    /// Says goodbye and closes. A plain code may be given (0 is normal), or a reason, whose code
    /// the remote is told. What streams have queued but not sent is lost: finish streams and wait
    /// for the remote's end first where that matters. The first reason stays.
    pub fn close(&self, reason: impl Into<LocalReason>) {
        match &self.0 {
            Link::Muxed(handle) => handle.0.close(reason.into()),
            Link::Quic(handle) => handle.0.close(reason.into()),
        }
    }

    pub(crate) fn leases(&self) -> &Leases {
        match &self.0 {
            Link::Muxed(handle) => &handle.0.leases,
            Link::Quic(handle) => &handle.0.leases,
        }
    }

    /// Keeps the connection open against the idle timeout until the lease is dropped. `name` is for
    /// [`why_open`](Self::why_open).
    pub fn lease(&self, name: &str) -> Lease {
        Lease {
            key: self.leases().acquire(HoldKind::Lease, name.into(), 1),
            connection: self.clone(),
        }
    }

    /// What keeps this connection open, or how long it will stay without: open streams (except
    /// those that [hold nothing](Stream::hold_nothing), such as ping and identify) and leases.
    #[must_use]
    pub fn why_open(&self) -> WhyOpen {
        self.leases().why_open(now())
    }

    /// Since when neither a stream nor a lease has kept this connection open; `None` while one does.
    #[must_use]
    pub fn idle_since(&self) -> Option<Instant> {
        self.leases().idle_since()
    }

    /// The remote copes with an end of stream that arrives together with the negotiation. js-libp2p, as of 3.3, loses it,
    /// and its handler then waits for ever; so until this is called, this side's end of a stream that it opened leaves
    /// only when the remote has answered something, as rust-libp2p does it. Over QUIC nothing is held.
    pub fn end_streams_early(&self) {
        if let Link::Muxed(handle) = &self.0 {
            handle.0.state.lock().hold_ends = false;
        }
    }

    /// Tells [`why_open`](Self::why_open) when an idle connection will be closed. Closing it is up to
    /// the caller.
    pub fn set_idle_timeout(&self, timeout: Option<Duration>) {
        self.leases().set_idle_timeout(timeout);
    }

    /// Waits until all that was written has been handed to the socket, or the connection is closed.
    /// Only then does [`close`](Self::close) cut nothing off. A remote that grants no credit delays
    /// this without limit: set a deadline. Over QUIC it waits until the remote has acknowledged the
    /// streams that were finished; what unfinished ones have sent is not waited for. Cancel safe.
    pub async fn drained(&self) {
        match &self.0 {
            Link::Muxed(handle) => handle.0.drained().await,
            Link::Quic(handle) => handle.0.drained().await,
        }
    }

    /// Waits until the connection is closed. Cancel safe.
    pub async fn closed(&self) -> CloseReason {
        match &self.0 {
            Link::Muxed(handle) => handle.0.closed().await,
            Link::Quic(handle) => handle.0.closed().await,
        }
    }

    /// Waits until the connection is closed and its socket too, with the goodbye sent or given up;
    /// over QUIC the socket stays open for other connections. A process that ends earlier may cut
    /// the goodbye off. Takes at most two seconds after the close, or ten while the remote still
    /// sends something, as one that reads the last bytes over a slow link does. Cancel safe.
    pub async fn terminated(&self) {
        match &self.0 {
            Link::Muxed(handle) => handle.0.terminated().await,
            Link::Quic(handle) => handle.0.terminated().await,
        }
    }

    /// Why the connection ended, if it has.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        match &self.0 {
            Link::Muxed(handle) => handle.0.state.lock().closed.clone(),
            Link::Quic(handle) => handle.0.close_reason(),
        }
    }

    /// Counters now.
    #[must_use]
    pub fn stats(&self) -> ConnectionStats {
        match &self.0 {
            Link::Muxed(handle) => handle.0.state.lock().connection_stats(),
            Link::Quic(handle) => handle.0.stats(),
        }
    }
}

fn check_protocol(protocol: &str) -> Result<(), OpenStreamError> {
    multistream::check_protocol(protocol)
        .map_err(|_| OpenStreamError::InvalidProtocol(protocol.into()))
}
