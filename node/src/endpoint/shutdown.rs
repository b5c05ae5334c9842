//! The end of an endpoint: gentle until the deadline, and a report of what was not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::Shared;

/// What is left after the deadline gets this long to see that it is over.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// What [`Endpoint::shutdown`](crate::Endpoint::shutdown) did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Connections that were closed with all their handlers done and everything they wrote sent.
    pub connections_closed: usize,
    /// Connections that were cut at the deadline, with handlers running or bytes unsent.
    pub connections_cut: usize,
    /// Handlers that were dropped at the deadline.
    pub handlers_cut: usize,
    /// Bytes written to streams that had not left at the deadline.
    pub bytes_cut: u64,
}

impl ShutdownReport {
    /// Whether everything ended by itself.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.connections_cut == 0 && self.handlers_cut == 0 && self.bytes_cut == 0
    }
}

/// Counters the connection tasks add to when they end during a shutdown.
#[derive(Debug, Default)]
pub(super) struct Tally {
    closed: AtomicUsize,
    cut: AtomicUsize,
    handlers: AtomicUsize,
    bytes: AtomicUsize,
}

impl Tally {
    /// A connection ended during the shutdown.
    pub(super) fn connection(&self, handlers_cut: usize, bytes_cut: usize) {
        let counter = if handlers_cut == 0 && bytes_cut == 0 {
            &self.closed
        } else {
            &self.cut
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes_cut, Ordering::Relaxed);
        self.handlers(handlers_cut);
    }

    /// Handlers were dropped.
    pub(super) fn handlers(&self, cut: usize) {
        self.handlers.fetch_add(cut, Ordering::Relaxed);
    }

    fn report(&self) -> ShutdownReport {
        ShutdownReport {
            connections_closed: self.closed.load(Ordering::Relaxed),
            connections_cut: self.cut.load(Ordering::Relaxed),
            handlers_cut: self.handlers.load(Ordering::Relaxed),
            bytes_cut: self.bytes.load(Ordering::Relaxed) as u64,
        }
    }
}

pub(super) async fn run(shared: &Arc<Shared>, deadline: Duration) -> ShutdownReport {
    shared.stop.cancel();
    shared.state.send_modify(|state| state.shutting_down = true);
    shared.tasks.close();
    let gentle = tokio::time::timeout(deadline, shared.tasks.wait()).await;
    if gentle.is_err() {
        tracing::warn!("cutting off what has not ended within {deadline:?}");
        shared.kill.cancel();
        // Only a handler that blocks its thread can be left after this.
        let _ = tokio::time::timeout(LAST_MOMENT, shared.tasks.wait()).await;
    }
    if let Err(error) = shared.peer_book.flush().await {
        tracing::warn!(%error, "the last changes to the peer book are lost");
    }
    shared.tally.report()
}
