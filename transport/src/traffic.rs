//! Bytes and streams by protocol, for metrics.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::stream::InlineHandler;

/// Protocols counted by name; what comes later counts as [`OTHER`]. Names are never a remote's: it
/// can only choose among those registered here (own choice: nodes speak a dozen or two).
const MAX_NAMES: usize = 64;
/// Name of the protocols beyond that.
const OTHER: &str = "other";

/// What went over the streams of one protocol, without negotiation and framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ProtocolTraffic {
    /// Streams the remote opened, counted when the protocol was agreed.
    pub streams_inbound: u64,
    /// Streams this side opened.
    pub streams_outbound: u64,
    /// Bytes queued by writers.
    pub bytes_sent: u64,
    /// Bytes taken by readers.
    pub bytes_received: u64,
}

/// Live counters of one protocol. An addition per chunk, which is far less than what a chunk costs.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    streams_inbound: AtomicU64,
    streams_outbound: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Counters {
    pub(crate) fn opened(&self, inbound: bool) {
        let counter = if inbound {
            &self.streams_inbound
        } else {
            &self.streams_outbound
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Counters of all protocols of a node; share one between its connections.
#[derive(Debug, Default)]
pub struct Traffic(Mutex<HashMap<Arc<str>, Arc<Counters>>>);

impl Traffic {
    pub(crate) fn of(&self, protocol: &Arc<str>) -> Arc<Counters> {
        let mut by_name = self.0.lock();
        if let Some(counters) = by_name.get(protocol) {
            return Arc::clone(counters);
        }
        let name = if by_name.len() < MAX_NAMES {
            Arc::clone(protocol)
        } else {
            OTHER.into()
        };
        Arc::clone(by_name.entry(name).or_default())
    }

    /// What each protocol has moved so far, by name; open streams included.
    #[must_use]
    pub fn by_protocol(&self) -> Vec<(Arc<str>, ProtocolTraffic)> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut all: Vec<_> = self
            .0
            .lock()
            .iter()
            .map(|(name, counters)| {
                let traffic = ProtocolTraffic {
                    streams_inbound: read(&counters.streams_inbound),
                    streams_outbound: read(&counters.streams_outbound),
                    bytes_sent: read(&counters.sent),
                    bytes_received: read(&counters.received),
                };
                (Arc::clone(name), traffic)
            })
            .collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }
}

/// An inline handler whose bytes are counted.
pub(crate) struct Counted {
    pub(crate) handler: Box<dyn InlineHandler>,
    pub(crate) counters: Arc<Counters>,
}

impl InlineHandler for Counted {
    fn on_data(&mut self, chunk: Bytes) -> Result<Option<Bytes>, u32> {
        self.counters.received(chunk.len());
        let answer = self.handler.on_data(chunk)?;
        self.counters.sent(answer.as_ref().map_or(0, Bytes::len));
        Ok(answer)
    }

    fn on_finish(&mut self) -> Result<(), u32> {
        self.handler.on_finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded() {
        let traffic = Traffic::default();
        for n in 0..1_000 {
            traffic.of(&format!("/p/{n}").into()).sent(1);
        }
        let all = traffic.by_protocol();
        assert_eq!(all.len(), MAX_NAMES + 1);
        let sent: u64 = all.iter().map(|(_, traffic)| traffic.bytes_sent).sum();
        assert_eq!(sent, 1_000);
        let other = all.iter().find(|(name, _)| &**name == OTHER);
        assert_eq!(other.map(|(_, t)| t.bytes_sent), Some(1_000 - 64));
    }
}
