//! The peer book: addresses of peers, how they have fared, and what the peers said about
//! themselves. In memory, and on disk if told where.
//!
//! The endpoint feeds it: from identify, from the outcome of dials, from what the user adds. It is
//! asked for the addresses of a peer when that is dialled by its id.
//!
//! | source | kept |
//! |---|---|
//! | any, while the peer is connected | as long as it is |
//! | user | for ever |
//! | connection: a dial of ours ended there | 7 days (own choice: a node that was off over a weekend finds its peers again) |
//! | identify, signed record, dns | 1 h (go-libp2p's `AddressTTL`, js-libp2p's greatest address age) |

mod book;
mod entry;
pub mod record;
mod store;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use barewire_base::{Multiaddr, PeerId};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use self::store::Store;
pub use self::{
    book::{Book, MAX_SERVED, MAX_STORED},
    entry::{AddressSource, KnownAddress, PeerEntry, UnixSeconds},
    store::PeerBookError,
};
use crate::protocols::identify::PeerInfo;

/// Time between two looks for addresses whose time is over (own choice: a fraction of the shortest
/// time to live).
const EXPIRE_EVERY: Duration = Duration::from_secs(15 * 60);

/// Settings of the peer book.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerBookConfig {
    /// File to keep the book in; `None` keeps it in memory only. Default `None`.
    pub path: Option<PathBuf>,
    /// Peers kept that are not connected; those worth least give way. Default 1,000 (own choice:
    /// with 16 KiB a peer at most, 16 MiB).
    pub max_unconnected: usize,
    /// How long an address a peer claims is kept. Default 1 h, as go-libp2p's `AddressTTL`.
    pub identified_ttl: Duration,
    /// How long an address is kept at which this node has reached the peer. Default 7 days (own
    /// choice).
    pub proven_ttl: Duration,
    /// Time between a change and its writing, in which further changes join it. A process that is
    /// killed loses what changed in this time. Default 1 s (own choice: at most one flush of the
    /// disk per second).
    pub write_delay: Duration,
}

impl Default for PeerBookConfig {
    fn default() -> Self {
        Self {
            path: None,
            max_unconnected: 1_000,
            identified_ttl: Duration::from_secs(60 * 60),
            proven_ttl: Duration::from_secs(7 * 24 * 60 * 60),
            write_delay: Duration::from_secs(1),
        }
    }
}

/// Addresses of peers and how they have fared. Cheap to clone.
///
/// An [`Endpoint`](crate::Endpoint) has one and feeds it. Calls never wait for the disk: a change is
/// written a moment later, together with others.
#[derive(Debug, Clone)]
pub struct PeerBook(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    book: Mutex<Book>,
    store: Option<Arc<Store>>,
    changed: Notify,
    /// Held while writing, so that an older change never overwrites a newer one.
    writing: tokio::sync::Mutex<()>,
    write_delay: Duration,
}

impl PeerBook {
    /// Opens the book the configuration names, or an empty one in memory.
    ///
    /// Reads and checks the file, which blocks the thread for some milliseconds.
    ///
    /// # Errors
    /// [`PeerBookError`] if the file cannot be opened, is something else, or is damaged.
    pub fn open(config: &PeerBookConfig) -> Result<Self, PeerBookError> {
        let mut book = Book::new(config.clone());
        let mut store = None;
        if let Some(path) = &config.path {
            let (opened, peers) = Store::open(path)?;
            book.load(unix_now(), peers);
            store = Some(Arc::new(opened));
        }
        Ok(Self(Arc::new(Inner {
            book: Mutex::new(book),
            store,
            changed: Notify::new(),
            writing: tokio::sync::Mutex::default(),
            write_delay: config.write_delay,
        })))
    }

    /// Adds an address by hand; a `/p2p` of this peer at its end is cut off. It never expires.
    /// Returns whether it was taken: not if it ends in another peer's id.
    pub fn add(&self, peer: &PeerId, addr: &Multiaddr) -> bool {
        self.add_from(peer, addr, AddressSource::User)
    }

    /// As [`add`](Self::add), for an address of another source, whose time to live it has.
    pub fn add_from(&self, peer: &PeerId, addr: &Multiaddr, source: AddressSource) -> bool {
        self.with(|book, now| book.add(now, peer, addr, source))
    }

    /// The addresses to dial a peer at, without `/p2p`, the best first, at most [`MAX_SERVED`].
    #[must_use]
    pub fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.0.book.lock().addresses(unix_now(), peer)
    }

    /// What is known of one peer.
    #[must_use]
    pub fn entry(&self, peer: &PeerId) -> Option<PeerEntry> {
        self.0.book.lock().entry(peer).cloned()
    }

    /// All peers with an address or a connection, by id.
    #[must_use]
    pub fn entries(&self) -> Vec<PeerEntry> {
        self.0.book.lock().entries()
    }

    /// Peers in the book.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.book.lock().len()
    }

    /// Whether there is no peer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the addresses of a peer.
    pub fn forget(&self, peer: &PeerId) {
        self.with(|book, _| book.forget(peer));
    }

    /// Waits until what has changed so far is on disk. Does nothing for a book in memory.
    ///
    /// A cancelled call may or may not have written.
    ///
    /// # Errors
    /// [`PeerBookError::Write`].
    pub async fn flush(&self) -> Result<(), PeerBookError> {
        let Some(store) = &self.0.store else {
            return Ok(());
        };
        let _writing = self.0.writing.lock().await;
        let changes = self.0.book.lock().take_changed();
        if changes.is_empty() {
            return Ok(());
        }
        let peers: Vec<_> = changes.iter().map(|(peer, _)| *peer).collect();
        let store = Arc::clone(store);
        let written = tokio::task::spawn_blocking(move || store.write(&changes)).await;
        // It fails only while the runtime goes down.
        let result = written.unwrap_or(Ok(()));
        if result.is_err() {
            self.0.book.lock().put_back(peers);
        }
        result
    }

    pub(crate) fn learn(&self, info: &PeerInfo, remote: &Multiaddr) {
        self.with(|book, now| book.learn(now, info, remote));
    }

    /// A dial of this node ended in a connection there.
    pub(crate) fn succeeded(&self, peer: &PeerId, addr: &Multiaddr) {
        self.with(|book, now| book.succeeded(now, peer, addr));
    }

    /// A dial of this node failed there.
    pub(crate) fn failed(&self, peer: &PeerId, addr: &Multiaddr) {
        self.with(|book, now| book.failed(now, peer, addr));
    }

    pub(crate) fn connected(&self, peer: &PeerId) {
        self.with(|book, now| book.connected(now, peer));
    }

    pub(crate) fn disconnected(&self, peer: &PeerId) {
        self.with(|book, now| book.disconnected(now, peer));
    }

    fn with<R>(&self, work: impl FnOnce(&mut Book, UnixSeconds) -> R) -> R {
        let mut book = self.0.book.lock();
        let result = work(&mut book, unix_now());
        if self.0.store.is_none() {
            book.forget_changes();
        } else if book.has_changed() {
            self.0.changed.notify_one();
        }
        result
    }

    /// Writes changes a moment after they happen and expires addresses, until `stop`. Sleeps while
    /// nothing changes.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut expiry = Box::pin(sleep(EXPIRE_EVERY));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = &mut expiry => {
                    self.with(Book::expire);
                    expiry.set(sleep(EXPIRE_EVERY));
                }
                () = self.0.changed.notified() => {
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = sleep(self.0.write_delay) => {}
                    }
                    if let Err(error) = self.flush().await {
                        tracing::warn!(%error, "the peer book is not up to date on disk");
                    }
                }
            }
        }
        if let Err(error) = self.flush().await {
            tracing::warn!(%error, "the peer book is not up to date on disk");
        }
    }
}

fn unix_now() -> UnixSeconds {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}
