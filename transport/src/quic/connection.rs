//! The state of a QUIC connection that its handles, streams and tasks share.

use std::{
    future::Future,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use barewire_base::Reservation;
use barewire_mux::LimitsHit;
use parking_lot::Mutex;
use quinn::{ConnectionError, VarInt};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::{
    config::FIRST_STREAMS,
    stream::{QuicStream, Watched},
};
use crate::{
    close::{CloseReason, LocalReason},
    connection::{ConnectionInfo, ConnectionStats},
    lease::Leases,
};

/// Reset code for a stream nobody accepts any more: go-libp2p's "shutdown".
const RESET_NOT_ACCEPTED: u32 = 0x1007;
/// Longest wait for the goodbye to leave.
const GOODBYE: Duration = Duration::from_secs(1);
/// Finished streams kept track of before those that have arrived are forgotten. The remote may open as many fewer
/// while they are kept, so this is well below [`FIRST_STREAMS`].
const SWEEP_EVERY: usize = 8;

pub(crate) struct Shared {
    connection: quinn::Connection,
    pub(crate) info: ConnectionInfo,
    pub(crate) leases: Leases,
    /// Why this side closed the connection.
    closed: OnceLock<CloseReason>,
    /// Datagrams sent when it did.
    sent_before_goodbye: AtomicU64,
    /// Tasks of streams; each ends with its stream or with the connection.
    tasks: TaskTracker,
    inbound: AtomicUsize,
    /// How many of those the remote may have open, and the most that may become.
    allowed: AtomicU32,
    most_allowed: u32,
    outbound: AtomicUsize,
    /// Bytes written that quinn has not taken.
    pub(super) queued: AtomicUsize,
    /// Streams with such bytes.
    flushing: AtomicUsize,
    flushed: Notify,
    finished: Mutex<Finished>,
    /// Memory the receive window may take.
    _window: Option<Reservation>,
}

/// Streams that were finished and whose end the remote has not acknowledged, for all we know.
struct Finished {
    streams: Vec<Watched>,
    sweep_at: usize,
}

impl Finished {
    fn sweep(&mut self) {
        self.streams.retain(Watched::is_unacknowledged);
        self.sweep_at = self.streams.len() + SWEEP_EVERY;
    }
}

/// Closes the connection when the last handle and stream are gone.
pub(crate) struct Handle(pub(crate) Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close(LocalReason::Dropped);
    }
}

impl Handle {
    pub(super) fn new(
        connection: quinn::Connection,
        info: ConnectionInfo,
        window: Option<Reservation>,
        max_incoming_streams: u32,
    ) -> Self {
        Self(Arc::new(Shared {
            connection,
            leases: Leases::new(info.established),
            info,
            closed: OnceLock::new(),
            sent_before_goodbye: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            inbound: AtomicUsize::new(0),
            allowed: AtomicU32::new(FIRST_STREAMS.min(max_incoming_streams)),
            most_allowed: max_incoming_streams,
            outbound: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            flushing: AtomicUsize::new(0),
            flushed: Notify::new(),
            finished: Mutex::new(Finished {
                streams: Vec::new(),
                sweep_at: SWEEP_EVERY,
            }),
            _window: window,
        }))
    }

    /// A stream nobody hears of before something is written to it.
    pub(crate) async fn open(self: &Arc<Self>) -> Result<QuicStream, CloseReason> {
        match self.0.connection.open_bi().await {
            Ok(halves) => Ok(QuicStream::new(Arc::clone(self), halves, true)),
            Err(error) => Err(self.0.reason(&error)),
        }
    }

    /// The next stream of the remote, `None` when the connection has ended.
    pub(crate) async fn accept(self: &Arc<Self>) -> Option<QuicStream> {
        let halves = self.0.connection.accept_bi().await.ok()?;
        let stream = QuicStream::new(Arc::clone(self), halves, false);
        self.0.allow_more();
        Some(stream)
    }
}

impl Shared {
    pub(super) fn count(&self, outbound: bool) -> &AtomicUsize {
        if outbound {
            &self.outbound
        } else {
            &self.inbound
        }
    }

    /// Doubles the streams that the remote may have open once it has half of them, so that it need not wait for more.
    fn allow_more(&self) {
        let allowed = self.allowed.load(Ordering::Relaxed);
        if allowed < self.most_allowed
            && self.inbound.load(Ordering::Relaxed) >= allowed as usize / 2
        {
            let more = allowed.saturating_mul(2).min(self.most_allowed);
            self.allowed.store(more, Ordering::Relaxed);
            self.connection.set_max_concurrent_bi_streams(more.into());
        }
    }

    /// Runs what a stream still has to do. Without a runtime there is nobody left to do it for.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.tasks.spawn_on(work, &runtime);
        }
    }

    pub(super) fn flush_begins(&self, bytes: usize) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
        self.flushing.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn flush_ends(&self) {
        if self.flushing.fetch_sub(1, Ordering::Release) == 1 {
            self.flushed.notify_waiters();
        }
    }

    /// Remembers a finished stream until its end has arrived.
    pub(super) fn watch_finished(&self, stream: Watched) {
        let mut finished = self.finished.lock();
        finished.streams.push(stream);
        if finished.streams.len() >= finished.sweep_at {
            finished.sweep();
        }
    }

    pub(crate) fn close(&self, reason: LocalReason) {
        if self.connection.close_reason().is_none() {
            let code = reason.code();
            let sent = self.connection.stats().udp_tx.datagrams;
            self.sent_before_goodbye.store(sent, Ordering::Relaxed);
            self.closed.get_or_init(|| CloseReason::Local(reason));
            self.connection.close(code.into(), b"");
        }
        // What was finished and is not acknowledged by now is given up.
        self.finished.lock().streams.clear();
    }

    /// Refuses the streams the remote opens from now on.
    pub(crate) fn refuse_streams(&self) {
        self.connection
            .set_max_concurrent_bi_streams(VarInt::from_u32(0));
        let connection = self.connection.clone();
        self.spawn(async move {
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                // Streams that have ended meanwhile need no refusal.
                drop(send.reset(RESET_NOT_ACCEPTED.into()));
                drop(recv.stop(RESET_NOT_ACCEPTED.into()));
            }
        });
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        let error = self.connection.close_reason()?;
        Some(self.reason(&error))
    }

    pub(crate) async fn closed(&self) -> CloseReason {
        let error = self.connection.closed().await;
        self.reason(&error)
    }

    /// Waits until the goodbye has been handed to the socket, if there is one to say.
    pub(crate) async fn terminated(&self) {
        self.connection.closed().await;
        if self.closed.get().is_none() {
            return;
        }
        let before = self.sent_before_goodbye.load(Ordering::Relaxed);
        let said = async {
            // A closed connection sends nothing else. quinn tells nobody; its task is about to run.
            while self.connection.stats().udp_tx.datagrams == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        // A socket that takes nothing takes no goodbye either.
        drop(tokio::time::timeout(GOODBYE, said).await);
    }

    /// Waits until quinn has taken all that was written and the remote has acknowledged what was
    /// finished, or the connection is closed.
    pub(crate) async fn drained(&self) {
        loop {
            let flushed = self.flushed.notified();
            if self.connection.close_reason().is_some() {
                return;
            }
            if self.flushing.load(Ordering::Acquire) > 0 {
                flushed.await;
                continue;
            }
            let next = {
                let mut finished = self.finished.lock();
                finished.sweep();
                finished.streams.last().map(Watched::arrival)
            };
            let Some(arrived) = next else { return };
            match arrived {
                // A remote that stopped reading it has had enough of it.
                Some(arrived) => drop(arrived.await),
                // It was in use just now.
                None => tokio::task::yield_now().await,
            }
        }
    }

    pub(crate) fn stats(&self) -> ConnectionStats {
        let stats = self.connection.stats();
        let unacknowledged = {
            let mut finished = self.finished.lock();
            finished.sweep();
            finished.streams.len()
        };
        ConnectionStats {
            bytes_sent: stats.udp_tx.bytes,
            bytes_received: stats.udp_rx.bytes,
            streams_inbound: self.inbound.load(Ordering::Relaxed),
            streams_outbound: self.outbound.load(Ordering::Relaxed),
            bytes_queued: self.queued.load(Ordering::Relaxed) + unacknowledged,
            limits_hit: LimitsHit::default(),
            rtt: Some(stats.path.rtt),
            bytes_copied_in: 0,
            bytes_copied_out: 0,
        }
    }

    /// What quinn says of the end, in our words.
    pub(super) fn reason(&self, error: &ConnectionError) -> CloseReason {
        if let Some(reason) = self.closed.get() {
            return reason.clone();
        }
        match error {
            ConnectionError::ApplicationClosed(close) => {
                let code = close.error_code.into_inner();
                CloseReason::Remote(u32::try_from(code).unwrap_or(u32::MAX))
            }
            ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == 0 => {
                CloseReason::RemoteEnded
            }
            ConnectionError::ConnectionClosed(close) => {
                CloseReason::QuicRemote(close.error_code.into())
            }
            ConnectionError::TransportError(error) => CloseReason::Quic(error.code.into()),
            ConnectionError::TimedOut => CloseReason::KeepaliveTimeout,
            // A stateless reset: the remote has forgotten the connection.
            ConnectionError::Reset | ConnectionError::VersionMismatch => CloseReason::RemoteReset,
            ConnectionError::LocallyClosed | ConnectionError::CidsExhausted => {
                CloseReason::Local(LocalReason::Dropped)
            }
        }
    }
}
