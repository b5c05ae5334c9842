//! Concurrent calls that want the same peer, or whoever is at the same addresses, share one dial.

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

/// What calls that share a dial have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Whom {
    Peer(PeerId),
    /// Whoever is at one of these addresses.
    At(Vec<Multiaddr>),
}

/// The dials that calls share now.
#[derive(Debug, Default)]
pub(super) struct Joins {
    dials: Mutex<HashMap<Whom, Weak<Joined>>>,
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

/// How a call comes to its connection.
#[derive(Debug)]
enum Way {
    /// There is one.
    Open(Connection),
    /// Another call's dial.
    Joined(Arc<Joined>),
    /// A new dial.
    Own(Arc<Joined>),
}

impl Shared {
    /// Connects to a peer by the connection there is, by the dial that is under way, or by a new
    /// one. Cancel-safe.
    pub(crate) async fn join_dial(
        self: &Arc<Self>,
        whom: &Whom,
        target: DialTarget,
    ) -> Result<Connection, DialError> {
        loop {
            let (joined, own) = match self.way(whom, &target) {
                Way::Open(connection) => return Ok(connection),
                Way::Joined(joined) => (joined, false),
                Way::Own(joined) => (joined, true),
            };
            let mut outcome = joined.outcome.clone();
            let result = match outcome.wait_for(Option::is_some).await {
                Ok(result) => result.clone(),
                Err(_) => None,
            };
            let new = |addr: &Multiaddr| !joined.addrs.contains(addr);
            // A dial that did not know all these addresses is not the last word.
            let again = !own && target.addrs.iter().any(new);
            self.leave(whom, joined.number);
            match result {
                Some(Err(_)) if again && !self.stop.is_cancelled() => {}
                Some(result) => return result,
                None if self.stop.is_cancelled() => return Err(DialError::ShuttingDown),
                None => return Err(DialError::Panicked),
            }
        }
    }

    /// Forgets a dial that has ended.
    fn leave(&self, whom: &Whom, number: u64) {
        let mut dials = self.dialer.joins.dials.lock();
        let ended = dials
            .get(whom)
            .is_some_and(|dial| dial.upgrade().is_none_or(|joined| joined.number == number));
        if ended {
            dials.remove(whom);
        }
    }

    fn way(self: &Arc<Self>, whom: &Whom, target: &DialTarget) -> Way {
        let joins = &self.dialer.joins;
        let mut dials = joins.dials.lock();
        if let Some(joined) = dials.get(whom).and_then(Weak::upgrade)
            && joined.outcome.borrow().is_none()
            && joined.outcome.has_changed().is_ok()
        {
            return Way::Joined(joined);
        }
        // A dial has an outcome only when its connection is in the table. So the place to look for that
        // is here: the caller may have looked before, and for the dial afterwards.
        if let Whom::Peer(peer) = whom
            && let Some(open) = self.pooled(peer)
        {
            return Way::Open(open);
        }
        // Calls that were dropped leave their entry behind.
        if dials.len() >= 64 && dials.len().is_power_of_two() {
            dials.retain(|_, dial| dial.strong_count() > 0);
        }
        let (sender, outcome) = watch::channel(None);
        let (shared, target) = (Arc::clone(self), target.clone());
        let addrs = target.addrs.clone();
        let task = self.tasks.spawn(async move {
            let result = shared.dial(&target, true).await;
            sender.send_replace(Some(result));
        });
        let joined = Arc::new(Joined {
            number: joins.next.fetch_add(1, Ordering::Relaxed),
            addrs,
            outcome,
            task: task.abort_handle(),
        });
        dials.insert(whom.clone(), Arc::downgrade(&joined));
        Way::Own(joined)
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
        let target = DialTarget::from((peer, vec![addr])).observed_by(|_| {
            // As a panic, but nothing to read about in the log of a test that passes.
            std::panic::resume_unwind(Box::new("an observer"))
        });
        let error = endpoint.connect(target).await;
        assert!(matches!(error, Err(DialError::Panicked)), "{error:?}");
        assert_eq!(endpoint.dial_stats().running, 0);
    }

    #[tokio::test]
    async fn a_connection_made_since_the_caller_looked_is_used() {
        let [one, other] = [(); 2].map(|()| Endpoint::builder(Keypair::generate(&mut rand::rng())));
        let (one, other) = (one.bind().await.unwrap(), other.bind().await.unwrap());
        let bound = other.listen("/memory/0".parse().unwrap()).await.unwrap();
        let addr = bound.with_peer(other.peer_id()).unwrap();
        let first = one.connect(addr.clone()).await.unwrap();
        // As a call that saw no connection a moment ago, and finds no dial any more.
        let whom = super::Whom::Peer(other.peer_id());
        let second = one.shared().join_dial(&whom, addr.into()).await.unwrap();
        assert!(second.is_same(&first));
        assert_eq!(one.connections().len(), 1);
    }
}
