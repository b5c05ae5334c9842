//! Keeping a connection to a peer: connecting → connected → backoff → connecting → …

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use barewire_base::{Multiaddr, PeerId};
use barewire_transport::{CloseReason, Connection, Stream};
use tokio::{sync::watch, task::AbortHandle};

use super::now;
use crate::{
    endpoint::{Endpoint, WeakEndpoint},
    error::DialError,
    protocols::hold,
};

/// First delay; it doubles.
const FIRST: Duration = Duration::from_millis(250);
/// Longest delay while the outage is young.
const YOUNG_CAP: Duration = Duration::from_secs(2);
/// An outage is young for this long: whoever restarts is found at once.
const YOUNG: Duration = Duration::from_secs(180);
/// Longest delay at all.
const CAP: Duration = Duration::from_secs(60);
/// A connection that lived this long ends an outage. Shorter ones count as failures, so that a peer
/// that closes at once is not dialled in a loop.
const STABLE: Duration = Duration::from_secs(10);

/// Between looks at which connection is to be used.
const MOMENT: Duration = Duration::from_millis(20);

/// How long to wait before the next attempt. Reads no clock and draws no random number.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    attempt: u32,
    exponent: u32,
    since: Option<Instant>,
}

impl Backoff {
    /// Attempts that failed in a row.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// An attempt has failed. Returns the delay: exponential from 250 ms, at most 2 s in the first
    /// three minutes of an outage and 60 s later, less up to a half by `random` (0 to 1), so that
    /// many nodes that lost the same peer do not come back at once.
    pub fn failed(&mut self, now: Instant, random: f64) -> Duration {
        self.attempt = self.attempt.saturating_add(1);
        let since = *self.since.get_or_insert(now);
        let young = now.saturating_duration_since(since) < YOUNG;
        let cap = if young { YOUNG_CAP } else { CAP };
        let exact = FIRST * (1 << self.exponent);
        if exact < cap {
            self.exponent += 1;
        }
        exact.min(cap).mul_f64(1.0 - share(random) / 2.0)
    }

    /// A connection has ended that lived this long. Returns the delay before the next attempt. If it
    /// lived for 10 s the outage before it is over, and the delay is up to 250 ms by `random` (0 to
    /// 1): many nodes may have lost the same peer at the same moment. Else it counts as
    /// [`failed`](Self::failed).
    pub fn ended(&mut self, now: Instant, lived: Duration, random: f64) -> Duration {
        if lived < STABLE {
            return self.failed(now, random);
        }
        self.reset();
        FIRST.mul_f64(share(random))
    }

    /// The outage is over.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// From 0 to 1, whatever it was.
fn share(random: f64) -> f64 {
    if random.is_nan() {
        0.0
    } else {
        random.clamp(0.0, 1.0)
    }
}

/// State of a [`KeptPeer`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeptState {
    /// An attempt is running.
    Connecting {
        /// 1 for the first since the peer was connected or asked for.
        attempt: u32,
    },
    /// There is a connection.
    Connected {
        /// To whom.
        peer: PeerId,
    },
    /// Waiting for the next attempt.
    Backoff {
        /// When it comes.
        until: Instant,
        /// Attempts that failed in a row.
        attempt: u32,
        /// Why the last one failed, or the connection ended.
        error: KeptError,
    },
    /// The endpoint is gone or shuts down; nothing more happens.
    Stopped,
}

/// Why a kept peer is not connected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeptError {
    /// It could not be dialled.
    #[error(transparent)]
    Dial(Arc<DialError>),
    /// The connection ended soon after it was made.
    #[error("the connection did not last: {0}")]
    ShortLived(CloseReason),
    /// The connection ended.
    #[error("the connection ended: {0}")]
    Ended(CloseReason),
}

/// A peer that is reconnected to whenever the connection is lost, until this is dropped; made by
/// [`Endpoint::keep_connected`].
#[derive(Debug)]
pub struct KeptPeer {
    state: watch::Receiver<KeptState>,
    task: AbortHandle,
}

impl Drop for KeptPeer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl KeptPeer {
    /// The state now.
    #[must_use]
    pub fn state(&self) -> KeptState {
        self.state.borrow().clone()
    }

    /// The state and word of each change. Intermediate states may be skipped.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<KeptState> {
        self.state.clone()
    }
}

/// Starts to keep a peer. Each attempt is one dial of `addrs`.
pub(crate) fn keep(endpoint: &Endpoint, addrs: Vec<Multiaddr>) -> KeptPeer {
    let (sender, state) = watch::channel(KeptState::Connecting { attempt: 1 });
    let sender = StateSender(sender);
    let owner = endpoint.downgrade();
    let task = endpoint.spawn_until_stop(async move { run(owner, addrs, &sender.0).await });
    KeptPeer { state, task }
}

/// Says that nothing more happens when the task is over, however it ended.
struct StateSender(watch::Sender<KeptState>);

impl Drop for StateSender {
    fn drop(&mut self) {
        self.0.send_replace(KeptState::Stopped);
    }
}

async fn run(owner: WeakEndpoint, mut addrs: Vec<Multiaddr>, state: &watch::Sender<KeptState>) {
    let mut backoff = Backoff::default();
    // The endpoint is not held while nothing is dialled, so that keeping a peer does not keep it.
    while let Some(endpoint) = owner.upgrade() {
        let attempt = backoff.attempt() + 1;
        state.send_replace(KeptState::Connecting { attempt });
        let (delay, error) = match endpoint.connect(addrs.clone()).await {
            Ok(connection) => {
                let peer = connection.peer_id();
                // From now on nobody else will do, whoever listens there.
                for addr in &mut addrs {
                    if let Ok(pinned) = addr.clone().without_peer().with_peer(peer) {
                        *addr = pinned;
                    }
                }
                drop(endpoint);
                state.send_replace(KeptState::Connected { peer });
                let began = now();
                let reason = stay(&owner, connection).await;
                let now = now();
                let lived = now.saturating_duration_since(began);
                let error = if lived < STABLE {
                    KeptError::ShortLived(reason)
                } else {
                    KeptError::Ended(reason)
                };
                (backoff.ended(now, lived, rand::random()), error)
            }
            Err(DialError::ShuttingDown) => return,
            Err(error) => {
                let delay = backoff.failed(now(), rand::random());
                (delay, KeptError::Dial(Arc::new(error)))
            }
        };
        state.send_replace(KeptState::Backoff {
            until: now() + delay,
            attempt: backoff.attempt(),
            error,
        });
        tokio::time::sleep(delay).await;
    }
}

/// Holds a connection at both ends until it ends. If another one to the peer takes its place it is
/// let go, so that it can end, and the other one is held.
async fn stay(owner: &WeakEndpoint, mut connection: Connection) -> CloseReason {
    loop {
        let replaced = owner
            .upgrade()
            .map(|endpoint| endpoint.replaced(&connection));
        let held = async {
            let _lease = connection.lease("kept");
            // A peer without the protocol closes when it sees fit; then it is dialled again.
            let _held: Option<Stream> = hold::open(&connection).await.ok();
            connection.closed().await
        };
        let Some(replaced) = replaced else {
            return held.await;
        };
        tokio::select! {
            reason = held => return reason,
            () = replaced => {}
        }
        let peer = connection.peer_id();
        let other = owner
            .upgrade()
            .and_then(|endpoint| endpoint.connection(&peer));
        match other {
            Some(other) if !other.is_same(&connection) => connection = other,
            // The other one has ended meanwhile, which the table learns in a moment.
            _ => tokio::time::sleep(MOMENT).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_two_seconds_and_after_three_minutes_to_sixty() {
        let start = Instant::now();
        let mut now = start;
        let mut backoff = Backoff::default();
        let mut delays = Vec::new();
        while now < start + Duration::from_secs(600) {
            let delay = backoff.failed(now, 0.0);
            if now < start + YOUNG {
                assert!(delay <= YOUNG_CAP, "{delay:?}");
            }
            delays.push(delay.as_millis());
            now += delay;
        }
        assert_eq!(delays[..5], [250, 500, 1_000, 2_000, 2_000]);
        let late = delays.len() - 6;
        assert_eq!(delays[late..][..3].to_vec().iter().max(), Some(&60_000));
        assert!(delays.contains(&4_000) && delays.contains(&32_000));
        backoff.reset();
        assert_eq!(backoff.failed(now, 0.0), FIRST);
    }

    #[test]
    fn those_who_lose_a_peer_together_do_not_come_back_together() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        backoff.failed(now, 0.0);
        for (random, delay) in [(0.0, 0), (0.5, 125), (1.0, 250), (7.0, 250)] {
            let after = backoff.ended(now, STABLE, random);
            assert_eq!((after.as_millis(), backoff.attempt()), (delay, 0));
        }
        // One that did not last is a failed attempt.
        let after = backoff.ended(now, STABLE - Duration::from_millis(1), 0.0);
        assert_eq!((after, backoff.attempt()), (FIRST, 1));
    }

    #[test]
    fn jitter_takes_up_to_a_half() {
        for random in [0.0, 0.3, 1.0, 7.0, -1.0, f64::NAN] {
            let mut backoff = Backoff::default();
            for attempt in 0..40 {
                let now = Instant::now() + Duration::from_secs(attempt * 100);
                let delay = backoff.failed(now, random);
                assert!(delay >= FIRST / 2 && delay <= CAP, "{random}: {delay:?}");
            }
        }
    }
}
