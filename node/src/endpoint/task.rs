//! What a connection needs beside its transport task: streams to their handlers, identify, ping,
//! and its end.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use barewire_base::Fault;
use barewire_transport::{
    CloseReason, Connection, HeldAnswer, InboundStream, InboundStreams, LocalReason,
    NegotiateError, OpenStreamError, Role, Stream, StreamError,
};
use tokio::{task::JoinSet, time::Instant};
use tracing::Instrument as _;

use super::{Shared, table::LinkControl};
use crate::{
    codes,
    events::Event,
    incidents::Incident,
    manager::Visit,
    protocols::{
        hold,
        identify::{self, PeerInfo},
        ping::{self, PingError, Responder},
    },
    router::{BoxFuture, Registry, Service},
};

/// Streams taken in a row before timers and signals are looked at.
const BURST: usize = 64;
/// The side that did not dial a superseded connection closes it only after this many graces: it is
/// there in case the dialler does not.
const ACCEPTOR_PATIENCE: u32 = 5;
/// Looks at a superseded connection per grace.
const RETIRE_CHECKS: u32 = 4;
/// Between looks at a connection that would be idle if it had nothing left to send.
const DRAIN_CHECK: Duration = Duration::from_secs(1);

/// Work that has ended.
enum Done {
    Stream(Served),
    Identify,
    /// What changed has been told, or asked for.
    Update,
    Ping(Result<Duration, PingError>),
}

/// How a stream ended.
enum Served {
    Done,
    /// The handler of this protocol panicked.
    Panicked(Arc<str>),
    /// The peer has changed again too soon after its last push, which was taken then.
    PushRefused(Instant),
}

/// The task of one connection.
pub(super) struct ConnectionTask {
    shared: Arc<Shared>,
    connection: Connection,
    inbound: InboundStreams,
    id: u64,
    control: Arc<LinkControl>,
    /// Counts against the limits of the remote's network.
    _visit: Option<Visit>,
    upkeep: Upkeep,
    work: JoinSet<Done>,
    /// Streams among `work`.
    serving: usize,
    /// Inbound streams without a protocol.
    negotiating: Arc<AtomicUsize>,
}

impl ConnectionTask {
    pub(super) fn new(
        shared: Arc<Shared>,
        connection: Connection,
        inbound: InboundStreams,
        (id, control): (u64, Arc<LinkControl>),
        visit: Option<Visit>,
        identify_now: bool,
    ) -> Self {
        let upkeep = Upkeep::new(&shared, Instant::now(), identify_now);
        connection.set_idle_timeout(shared.config.idle_timeout);
        Self {
            _visit: visit,
            shared,
            connection,
            inbound,
            id,
            control,
            upkeep,
            work: JoinSet::new(),
            serving: 0,
            negotiating: Arc::default(),
        }
    }

    pub(super) async fn run(mut self) {
        let closed = self.serve().await;
        self.end(closed).await;
    }

    /// Serves until the connection ends (`true`) or the endpoint stops and its streams are done.
    async fn serve(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut local = shared.local.subscribe();
        let mut registry = Arc::clone(&local.borrow_and_update().registry);
        let mut stop = pin!(shared.stop.cancelled());
        let mut kill = pin!(shared.kill.cancelled());
        let mut draining = false;
        let mut burst = 0;
        while !(draining && self.serving == 0) {
            let next = self.upkeep.next();
            tokio::select! {
                biased;
                stream = self.inbound.accept(), if burst < BURST => {
                    let Some(stream) = stream else { return true };
                    burst += 1;
                    if draining {
                        stream.reset(codes::STREAM_SHUTDOWN);
                        continue;
                    }
                    if local.has_changed().unwrap_or(false) {
                        registry = self.local_changed(&mut local);
                    }
                    self.take(stream, &registry).await;
                }
                () = &mut kill => return false,
                () = &mut stop, if !draining => draining = true,
                Some(done) = self.work.join_next(), if !self.work.is_empty() => {
                    // An aborted task is one that this task aborted.
                    if let Ok(done) = done {
                        self.done(done);
                    }
                }
                () = self.control.changed() => {
                    self.upkeep.superseded(self.control.is_superseded(), Instant::now());
                }
                Ok(()) = local.changed() => registry = self.local_changed(&mut local),
                () = sleep_until(next) => self.timers(),
                () = std::future::ready(()), if burst >= BURST => {
                    burst = 0;
                    tokio::task::yield_now().await;
                }
            }
        }
        false
    }

    fn local_changed(
        &mut self,
        local: &mut tokio::sync::watch::Receiver<Arc<identify::Local>>,
    ) -> Arc<Registry> {
        let registry = Arc::clone(&local.borrow_and_update().registry);
        self.upkeep.push_wanted = true;
        self.plan_push();
        registry
    }

    /// Serves one stream: in this task if the handler ends without waiting, else in its own.
    async fn take(&mut self, stream: InboundStream, registry: &Arc<Registry>) {
        if self.negotiating.load(Ordering::Relaxed) >= self.shared.config.max_negotiating_streams {
            stream.reset(codes::STREAM_RESOURCE_LIMIT);
            let cause = "too many streams have not agreed on a protocol";
            self.shared.incidents.record(
                Incident::StreamRefused,
                1,
                Fault::Limit,
                &self.connection.peer_id(),
                &cause,
            );
            return;
        }
        let mut serving = Box::pin(serve(
            Arc::clone(&self.shared),
            self.connection.clone(),
            Arc::clone(&self.control),
            Arc::clone(registry),
            stream,
            Negotiating::new(&self.negotiating),
        ));
        match std::future::poll_fn(|cx| Poll::Ready(serving.as_mut().poll(cx))).await {
            Poll::Ready(served) => self.stream_done(served),
            Poll::Pending => {
                self.serving += 1;
                let span = tracing::Span::current();
                let serving = async { Done::Stream(serving.await) };
                self.work.spawn(serving.instrument(span));
            }
        }
    }

    fn stream_done(&mut self, served: Served) {
        let protocol = match served {
            Served::Done => return,
            Served::Panicked(protocol) => protocol,
            Served::PushRefused(last) => {
                let config = &self.shared.config.identify;
                // A query has ended when the next one may begin: there is one at most.
                let after = config.push_interval.max(config.timeout);
                self.upkeep.reread_at.get_or_insert(last + after);
                return;
            }
        };
        let peer = self.connection.peer_id();
        tracing::error!(%peer, %protocol, "a protocol handler panicked; its stream is reset");
        self.shared
            .events
            .emit(|| Event::HandlerPanicked { peer, protocol });
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Stream(served) => {
                self.serving -= 1;
                self.stream_done(served);
            }
            Done::Identify => self.plan_push(),
            Done::Update => {}
            Done::Ping(result) => self.ping_done(result),
        }
    }

    fn ping_done(&mut self, result: Result<Duration, PingError>) {
        let peer = self.connection.peer_id();
        let config = &self.shared.config.ping;
        match result {
            Ok(rtt) => {
                self.upkeep.failures = 0;
                self.control.set_rtt(rtt);
                self.shared.metrics.round_trip(&self.connection, rtt);
                self.shared.events.emit(|| Event::Ping { peer, rtt });
            }
            // Such a peer may be in the best of health.
            Err(error) if error.is_unsupported() => return,
            Err(PingError::Open(OpenStreamError::Closed(_)))
            | Err(PingError::Stream(StreamError::Closed(_))) => return,
            Err(error) => {
                self.upkeep.failures += 1;
                let failures = self.upkeep.failures;
                tracing::debug!(%peer, %error, failures, "ping failed");
                self.shared
                    .events
                    .emit(|| Event::PingFailed { peer, failures });
                if config.max_failures.is_some_and(|max| failures >= max) {
                    self.connection.close(LocalReason::PingFailed);
                    return;
                }
            }
        }
        self.upkeep.ping_at = config.interval.map(|interval| Instant::now() + interval);
    }

    /// Sets the time of the next push, if one is wanted and the peer takes pushes.
    fn plan_push(&mut self) {
        if !self.upkeep.push_wanted {
            return;
        }
        let info = self.shared.table.lock().info(&self.connection.peer_id());
        // Unknown: decided when the peer has been identified.
        if info.is_some_and(|info| info.speaks(identify::PUSH_PROTOCOL)) {
            let now = Instant::now();
            let interval = self.shared.config.identify.push_interval;
            let earliest = self.upkeep.last_push.map_or(now, |last| last + interval);
            self.upkeep.push_at = Some(earliest.max(now));
        }
    }

    fn timers(&mut self) {
        let now = Instant::now();
        let due = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        if due(&mut self.upkeep.identify_at) {
            let (shared, connection) = (Arc::clone(&self.shared), self.connection.clone());
            self.work.spawn(async move {
                if let Err(error) = shared.identify(&connection).await {
                    tracing::debug!(peer = %connection.peer_id(), %error, "identify failed");
                }
                Done::Identify
            });
        }
        if due(&mut self.upkeep.ping_at) {
            let timeout = self.shared.config.ping.timeout;
            let connection = self.connection.clone();
            self.work
                .spawn(async move { Done::Ping(ping::ping(&connection, timeout).await) });
        }
        if due(&mut self.upkeep.push_at) {
            self.push(now);
        }
        if due(&mut self.upkeep.reread_at) {
            self.reread(now);
        }
        if due(&mut self.upkeep.idle_check_at) {
            self.check_idle(now);
        }
        if due(&mut self.upkeep.retire_check_at) {
            self.retire(now);
        }
    }

    fn push(&mut self, now: Instant) {
        self.upkeep.push_wanted = false;
        self.upkeep.last_push = Some(now);
        let message = self.shared.identify_message(&self.connection);
        let timeout = self.shared.config.identify.timeout;
        let connection = self.connection.clone();
        self.work.spawn(async move {
            if let Err(error) = identify::push(&connection, message, timeout).await {
                tracing::debug!(peer = %connection.peer_id(), %error, "push failed");
            }
            Done::Update
        });
    }

    /// Asks a peer whose last pushes came too soon to be taken who it is now.
    fn reread(&mut self, now: Instant) {
        let interval = self.shared.config.identify.push_interval;
        if self.control.take_push(now, interval).is_err() {
            // A later push has been taken, and says what the refused ones said.
            return;
        }
        let (shared, connection) = (Arc::clone(&self.shared), self.connection.clone());
        self.work.spawn(async move {
            match identify::query(&connection, shared.config.identify.timeout).await {
                Ok(info) => shared.learn(&connection, &Arc::new(info)),
                Err(error) => {
                    tracing::debug!(peer = %connection.peer_id(), %error, "identify failed");
                }
            }
            Done::Update
        });
    }

    /// Closes a connection that nothing has held for the idle timeout; else says when to look again.
    ///
    /// While something holds it, one look per timeout is enough: when that ends, the next look comes
    /// before the timeout is over.
    fn check_idle(&mut self, now: Instant) {
        let Some(timeout) = self.shared.config.idle_timeout else {
            return;
        };
        let next = match self.connection.idle_since() {
            None => now + timeout,
            Some(since) => {
                let due = Instant::from_std(since) + timeout;
                if due > now {
                    due
                } else if self.connection.stats().bytes_queued > 0 {
                    // What was written on streams that are gone still leaves.
                    now + DRAIN_CHECK
                } else {
                    self.connection.close(LocalReason::Idle);
                    return;
                }
            }
        };
        self.upkeep.idle_check_at = Some(next);
    }

    /// Closes a superseded connection that has had no stream for long enough.
    fn retire(&mut self, now: Instant) {
        let stats = self.connection.stats();
        let grace = self.shared.config.supplant_grace;
        let patience = match self.connection.role() {
            Role::Client => grace,
            Role::Server => grace * ACCEPTOR_PATIENCE,
        };
        if stats.streams_inbound + stats.streams_outbound > 0 {
            self.upkeep.quiet_since = None;
        } else if now.duration_since(*self.upkeep.quiet_since.get_or_insert(now)) >= patience {
            self.connection.close(LocalReason::Superseded);
            return;
        }
        self.upkeep.retire_check_at = Some(now + grace / RETIRE_CHECKS);
    }

    /// Closes the connection if it is open still, takes it out of the table and sees its handlers
    /// to their end.
    async fn end(mut self, closed: bool) {
        let shared = Arc::clone(&self.shared);
        let peer = self.connection.peer_id();
        let mut kill = pin!(shared.kill.cancelled());
        let mut unsent = 0;
        if !closed {
            tokio::select! {
                () = self.connection.drained() => {}
                () = &mut kill => unsent = self.connection.stats().bytes_queued,
            }
            self.connection.close(LocalReason::Shutdown);
        }
        let reason = self.connection.closed().await;
        let (last, counts) = {
            let mut table = shared.table.lock();
            let last = table.remove(&peer, self.id);
            shared.metrics.ended(&self.connection);
            if last {
                shared.peer_book.disconnected(&peer);
            }
            (last, (table.len(), table.peer_count()))
        };
        shared.manager.ended(self.id, &reason);
        shared.publish_counts(counts);
        if let Some(kind) = Incident::of_close(&reason) {
            let incidents = &shared.incidents;
            incidents.record(kind, 1, reason.fault(), &peer, &reason);
        }
        let hit = self.connection.stats().limits_hit;
        shared.incidents.record_limits(hit, &peer);
        let (who, why) = (reason.who(), reason.why());
        tracing::debug!(%peer, %who, why, "disconnected: {reason}");
        let by_shutdown = matches!(reason, CloseReason::Local(LocalReason::Shutdown))
            && shared.stop.is_cancelled();
        shared
            .events
            .emit(|| Event::Disconnected { peer, reason, last });
        let mut cut = 0;
        while self.serving > 0 {
            tokio::select! {
                biased;
                Some(done) = self.work.join_next() => {
                    if let Ok(Done::Stream(served)) = done {
                        self.serving -= 1;
                        self.stream_done(served);
                    }
                }
                () = &mut kill => {
                    cut = self.serving;
                    break;
                }
            }
        }
        if by_shutdown {
            shared.tally.connection(cut, unsent);
        } else {
            shared.tally.handlers(cut);
        }
        self.work.abort_all();
        let connection = self.connection.clone();
        drop(self);
        connection.terminated().await;
    }
}

/// Waits until `at`, or for ever.
pub(crate) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// When a connection is due for what.
#[derive(Debug)]
struct Upkeep {
    identify_at: Option<Instant>,
    ping_at: Option<Instant>,
    /// Ping failures in a row.
    failures: u32,
    /// This node has changed since the peer heard of it.
    push_wanted: bool,
    push_at: Option<Instant>,
    last_push: Option<Instant>,
    /// The peer has pushed too often and is asked then.
    reread_at: Option<Instant>,
    idle_check_at: Option<Instant>,
    retire_check_at: Option<Instant>,
    quiet_since: Option<Instant>,
}

impl Upkeep {
    fn new(shared: &Shared, now: Instant, identify_now: bool) -> Self {
        let config = &shared.config;
        Self {
            identify_at: if identify_now {
                Some(now)
            } else {
                config.identify.delay.map(|delay| now + delay)
            },
            ping_at: config.ping.interval.map(|interval| now + interval),
            failures: 0,
            push_wanted: false,
            push_at: None,
            last_push: None,
            reread_at: None,
            idle_check_at: config.idle_timeout.map(|timeout| now + timeout),
            retire_check_at: None,
            quiet_since: None,
        }
    }

    fn next(&self) -> Option<Instant> {
        let all = [
            self.identify_at,
            self.ping_at,
            self.push_at,
            self.reread_at,
            self.idle_check_at,
            self.retire_check_at,
        ];
        all.into_iter().flatten().min()
    }

    fn superseded(&mut self, superseded: bool, now: Instant) {
        self.quiet_since = None;
        self.retire_check_at = superseded.then_some(now);
    }
}

/// Counts a stream without a protocol for as long as it lives.
struct Negotiating(Arc<AtomicUsize>);

impl Negotiating {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Negotiating {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Agrees on a protocol and serves the stream.
async fn serve(
    shared: Arc<Shared>,
    connection: Connection,
    control: Arc<LinkControl>,
    registry: Arc<Registry>,
    stream: InboundStream,
    negotiating: Negotiating,
) -> Served {
    let negotiation = stream.negotiate(|name| registry.find(name));
    let timeout = shared.config.negotiation_timeout;
    let negotiated = tokio::time::timeout(timeout, negotiation).await;
    drop(negotiating);
    let mut stream = match negotiated {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let peer = connection.peer_id();
            tracing::debug!(%peer, %error, "inbound stream failed");
            if let NegotiateError::Negotiation(error) = error {
                let kind = Incident::StreamNegotiation;
                shared
                    .incidents
                    .record(kind, 1, error.fault(), &peer, &error);
            }
            return Served::Done;
        }
        // Dropping the negotiation has reset the stream.
        Err(_) => {
            let peer = connection.peer_id();
            let cause = "a stream did not agree on a protocol in time";
            let kind = Incident::StreamNegotiation;
            shared.incidents.record(kind, 1, Fault::Peer, &peer, &cause);
            return Served::Done;
        }
    };
    let Some(service) = registry.service(stream.protocol()) else {
        return Served::Done;
    };
    match service {
        Service::Identify => {
            stream.hold_nothing();
            let message = shared.identify_message(&connection);
            // The peer has gone; it asked, so it knows.
            let _ = identify::send(&mut stream, message).await;
        }
        Service::IdentifyPush => {
            stream.hold_nothing();
            return receive_push(&shared, &connection, &control, stream).await;
        }
        Service::Ping => {
            stream.hold_nothing();
            stream.serve_inline(Box::new(Responder::default()));
        }
        Service::Hold => hold::serve(stream).await,
        Service::Handler(handler) => {
            if !handler.holds_connection() {
                stream.hold_nothing();
            }
            let protocol = Arc::clone(stream.protocol());
            let answer = stream.held_answer();
            let handling = || handler.handle(stream, connection);
            let handled = match catch(handling) {
                Some(handling) => {
                    let answer = Some(answer);
                    Handling { handling, answer }.await
                }
                None => None,
            };
            if handled.is_none() {
                return Served::Panicked(protocol);
            }
        }
    }
    Served::Done
}

async fn receive_push(
    shared: &Shared,
    connection: &Connection,
    control: &LinkControl,
    mut stream: Stream,
) -> Served {
    let config = &shared.config.identify;
    if let Err(last) = control.take_push(Instant::now(), config.push_interval) {
        stream.reset(codes::STREAM_RATE_LIMITED);
        return Served::PushRefused(last);
    }
    // Nothing to say on this stream.
    let _ = stream.finish();
    let read = tokio::time::timeout(config.timeout, identify::read_to_end(&mut stream)).await;
    let peer = connection.peer_id();
    let Ok(Ok(reader)) = read else {
        stream.reset(codes::STREAM_PROTOCOL_VIOLATION);
        return Served::Done;
    };
    let known = shared.table.lock().info(&peer);
    let key = connection.public_key();
    let info: Result<PeerInfo, _> = match &known {
        Some(known) => reader.finish_push(key, known),
        None => reader.finish(key),
    };
    match info {
        Ok(info) => shared.learn(connection, &Arc::new(info)),
        Err(error) => tracing::debug!(%peer, %error, "refused an identify push"),
    }
    Served::Done
}

impl Shared {
    fn identify_message(&self, connection: &Connection) -> bytes::Bytes {
        let local = Arc::clone(&self.local.borrow());
        local.message(&self.keypair, &self.config.identify, connection.info())
    }
}

/// A handler at work. Its panic ends with it: `None` then.
struct Handling {
    handling: BoxFuture<'static, ()>,
    /// Goes out when the handler first waits: for all we know it waits for something else than its stream.
    answer: Option<HeldAnswer>,
}

impl Future for Handling {
    type Output = Option<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<()>> {
        match catch(|| self.handling.as_mut().poll(cx)) {
            Some(Poll::Pending) => {
                if let Some(answer) = self.answer.take() {
                    answer.send();
                }
                Poll::Pending
            }
            Some(Poll::Ready(())) => Poll::Ready(Some(())),
            None => Poll::Ready(None),
        }
    }
}

/// The result of `work`, `None` if it panicked. What it touched is dropped, never used again, so a
/// broken invariant cannot be observed.
fn catch<T>(work: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok()
}
