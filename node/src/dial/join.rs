//! Concurrent calls that want the same peer share one dial.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use barewire_base::{Multiaddr, PeerId};
use barewire_transport::Connection;
use parking_lot::Mutex;
use tokio::{sync::watch, task::AbortHandle};

use super::DialTarget;
use crate::{endpoint::Shared, error::DialError};

type Outcome = Option<Result<Connection, DialError>>;

/// The dials that calls share now.
#[derive(Debug, Default)]
pub(super) struct Joins {
    dials: Mutex<HashMap<PeerId, Weak<Joined>>>,
    next: AtomicU64,
}

/// A dial that calls wait for; stopped when the last one goes.
#[derive(Debug)]
struct Joined {
    number: u64,
    addrs: Vec<Multiaddr>,
    outcome: watch::Receiver<Outcome>,
    task: AbortHandle,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    /// Connects to a peer by the dial that is under way, or by a new one. Cancel-safe.
    pub(crate) async fn join_dial(
        self: &Arc<Self>,
        peer: PeerId,
        target: DialTarget,
    ) -> Result<Connection, DialError> {
        loop {
            let (joined, own) = self.joined(peer, &target);
            let mut outcome = joined.outcome.clone();
            let result = match outcome.wait_for(Option::is_some).await {
                Ok(result) => result.clone(),
                Err(_) => None,
            };
            let new = |addr: &Multiaddr| !joined.addrs.contains(addr);
            // A dial that did not know all these addresses is not the last word.
            let again = !own && target.addrs.iter().any(new);
            self.leave(peer, joined.number);
            match result {
                Some(Err(_)) if again && !self.stop.is_cancelled() => {}
                Some(result) => return result,
                None if self.stop.is_cancelled() => return Err(DialError::ShuttingDown),
                None => return Err(DialError::Panicked),
            }
        }
    }

    /// Forgets a dial that has ended.
    fn leave(&self, peer: PeerId, number: u64) {
        let mut dials = self.dialer.joins.dials.lock();
        let ended = dials
            .get(&peer)
            .is_some_and(|dial| dial.upgrade().is_none_or(|joined| joined.number == number));
        if ended {
            dials.remove(&peer);
        }
    }

    fn joined(self: &Arc<Self>, peer: PeerId, target: &DialTarget) -> (Arc<Joined>, bool) {
        let joins = &self.dialer.joins;
        let mut dials = joins.dials.lock();
        if let Some(joined) = dials.get(&peer).and_then(Weak::upgrade)
            && joined.outcome.borrow().is_none()
            && joined.outcome.has_changed().is_ok()
        {
            return (joined, false);
        }
        // Calls that were dropped leave their entry behind.
        if dials.len() >= 64 && dials.len().is_power_of_two() {
            dials.retain(|_, dial| dial.strong_count() > 0);
        }
        let (sender, outcome) = watch::channel(None);
        let (shared, target) = (Arc::clone(self), target.clone());
        let addrs = target.addrs.clone();
        let task = self.tasks.spawn(async move {
            let result = shared.dial(&target).await;
            sender.send_replace(Some(result));
        });
        let joined = Arc::new(Joined {
            number: joins.next.fetch_add(1, Ordering::Relaxed),
            addrs,
            outcome,
            task: task.abort_handle(),
        });
        dials.insert(peer, Arc::downgrade(&joined));
        (joined, true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use barewire_base::Keypair;

    use super::*;
    use crate::endpoint::Endpoint;

    #[tokio::test]
    async fn a_dial_that_panics_is_not_the_end_of_the_node() {
        let endpoint = Endpoint::builder(Keypair::generate(&mut rand::rng()));
        let endpoint = endpoint.bind().await.unwrap();
        let peer = Keypair::generate(&mut rand::rng()).peer_id();
        let addr: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        let target = DialTarget::from((peer, vec![addr])).observed_by(|_| panic!("an observer"));
        let error = endpoint.connect(target).await;
        assert!(matches!(error, Err(DialError::Panicked)), "{error:?}");
        assert_eq!(endpoint.dial_stats().running, 0);
    }
}
