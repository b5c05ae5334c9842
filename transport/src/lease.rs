//! What keeps a connection open: its streams, and leases taken by name.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::connection::{Connection, now};

/// What kind of thing keeps a connection open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum HoldKind {
    /// An open stream; its name is the protocol.
    Stream,
    /// A [`Lease`].
    Lease,
}

impl HoldKind {
    /// `stream` or `lease`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Lease => "lease",
        }
    }
}

/// One thing that keeps a connection open.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hold {
    /// What it is.
    pub kind: HoldKind,
    /// Protocol of the stream, or name of the lease.
    pub name: Arc<str>,
    /// For how long it has done so.
    pub age: Duration,
}

/// Answer of [`Connection::why_open`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WhyOpen {
    /// What keeps the connection open. While there is something the idle timeout does not run.
    pub holds: Vec<Hold>,
    /// For how long nothing has, when [`holds`](Self::holds) is empty.
    pub idle_for: Option<Duration>,
    /// When an idle connection will be closed; `None` while it is held or without idle timeout.
    pub closes_in: Option<Duration>,
}

impl fmt::Display for WhyOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, hold) in self.holds.iter().enumerate() {
            let kind = hold.kind.as_str();
            let comma = if index == 0 { "" } else { ", " };
            let seconds = hold.age.as_secs_f64();
            write!(f, "{comma}{kind} {} for {seconds:.1} s", hold.name)?;
        }
        if self.holds.is_empty() {
            match self.closes_in {
                Some(left) => write!(f, "idle, closes in {:.1} s", left.as_secs_f64())?,
                None => f.write_str("idle, stays open")?,
            }
        }
        Ok(())
    }
}

/// Number of an entry; [`NONE`] for no entry.
pub(crate) type Key = u32;
/// The key of what holds nothing.
pub(crate) const NONE: Key = Key::MAX;

/// Everything that keeps one connection open.
#[derive(Debug)]
pub(crate) struct Leases(Mutex<Book>);

#[derive(Debug)]
struct Book {
    entries: Vec<Option<Entry>>,
    free: Vec<Key>,
    held: usize,
    /// When the last entry that counted was released; in the beginning, when the connection was
    /// established.
    last_release: Instant,
    idle_timeout: Option<Duration>,
}

#[derive(Debug)]
struct Entry {
    kind: HoldKind,
    name: Arc<str>,
    since: Instant,
    /// A stream is released once by each of its halves.
    uses: u8,
}

impl Leases {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(Book {
            entries: Vec::new(),
            free: Vec::new(),
            held: 0,
            last_release: now,
            idle_timeout: None,
        }))
    }

    /// Holds the connection until the key has been released `uses` times.
    pub(crate) fn acquire(&self, kind: HoldKind, name: Arc<str>, uses: u8) -> Key {
        let entry = Entry {
            kind,
            name,
            since: now(),
            uses,
        };
        let mut book = self.0.lock();
        book.held += 1;
        match book.free.pop() {
            Some(key) => {
                book.entries[key as usize] = Some(entry);
                key
            }
            None => {
                book.entries.push(Some(entry));
                // A connection holds some hundred streams at most.
                (book.entries.len() - 1) as Key
            }
        }
    }

    pub(crate) fn release(&self, key: Key) {
        if key == NONE {
            return;
        }
        let mut book = self.0.lock();
        let Some(entry) = book.entries.get_mut(key as usize).and_then(Option::as_mut) else {
            return;
        };
        entry.uses -= 1;
        if entry.uses == 0 {
            book.remove(key);
            book.last_release = now();
        }
    }

    /// Takes an entry back as if it had never been: the idle time goes on.
    pub(crate) fn forget(&self, key: Key) {
        if key != NONE {
            self.0.lock().remove(key);
        }
    }

    /// Since when nothing has held the connection; `None` while something does.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let book = self.0.lock();
        (book.held == 0).then_some(book.last_release)
    }

    pub(crate) fn set_idle_timeout(&self, timeout: Option<Duration>) {
        self.0.lock().idle_timeout = timeout;
    }

    pub(crate) fn why_open(&self, now: Instant) -> WhyOpen {
        let book = self.0.lock();
        let mut entries: Vec<&Entry> = book.entries.iter().flatten().collect();
        entries.sort_by_key(|entry| entry.since);
        let holds: Vec<Hold> = entries
            .into_iter()
            .map(|entry| Hold {
                kind: entry.kind,
                name: Arc::clone(&entry.name),
                age: now.saturating_duration_since(entry.since),
            })
            .collect();
        let idle_for = holds
            .is_empty()
            .then(|| now.saturating_duration_since(book.last_release));
        WhyOpen {
            closes_in: idle_for
                .zip(book.idle_timeout)
                .map(|(idle, timeout)| timeout.saturating_sub(idle)),
            idle_for,
            holds,
        }
    }
}

impl Book {
    fn remove(&mut self, key: Key) {
        let entry = self.entries.get_mut(key as usize);
        if entry.is_some_and(|entry| entry.take().is_some()) {
            self.held -= 1;
            if self.held == 0 {
                // An idle connection holds no memory for what it was.
                self.entries = Vec::new();
                self.free = Vec::new();
            } else {
                self.free.push(key);
            }
        }
    }
}

/// Keeps a connection open against the idle timeout until it is dropped; made by
/// [`Connection::lease`]. It does not protect against a remote that closes.
#[derive(Debug)]
#[must_use = "the lease ends when it is dropped"]
pub struct Lease {
    pub(crate) connection: Connection,
    pub(crate) key: Key,
}

impl Lease {
    /// The connection that is kept open.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.connection.leases().release(self.key);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn idle_time_counts_from_the_last_release() {
        let start = now();
        let leases = Leases::new(start);
        leases.set_idle_timeout(Some(Duration::from_secs(60)));
        assert_eq!(leases.idle_since(), Some(start));
        let stream = leases.acquire(HoldKind::Stream, "/a".into(), 2);
        let lease = leases.acquire(HoldKind::Lease, "b".into(), 1);
        assert_eq!(leases.idle_since(), None);
        assert_eq!(leases.why_open(now()).holds.len(), 2);
        leases.release(stream);
        assert_eq!(leases.why_open(now()).holds.len(), 2, "one half is left");
        leases.release(stream);
        leases.release(stream);
        let why = leases.why_open(now());
        assert_eq!(&*why.holds[0].name, "b");
        assert!(why.to_string().starts_with("lease b for "));
        leases.release(lease);
        assert!(leases.idle_since().unwrap() >= start);
        assert!(leases.why_open(now()).closes_in.is_some());
    }

    #[test]
    fn what_is_forgotten_does_not_restart_the_idle_time() {
        let start = now();
        let leases = Leases::new(start);
        let ping = leases.acquire(HoldKind::Stream, "/ping".into(), 2);
        leases.forget(ping);
        assert_eq!(leases.idle_since(), Some(start));
        // Numbers are used again.
        for _ in 0..100 {
            let keys = [(); 3].map(|()| leases.acquire(HoldKind::Lease, "x".into(), 1));
            assert!(keys.iter().all(|key| *key < 3));
            keys.into_iter().for_each(|key| leases.release(key));
        }
        leases.release(NONE);
        leases.forget(NONE);
        assert_eq!(leases.why_open(start).to_string(), "idle, stays open");
    }
}
