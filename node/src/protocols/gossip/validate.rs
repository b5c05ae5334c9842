//! Validators: what the application says about a message before it is delivered and forwarded.

use std::{
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use barewire_gossip::{Acceptance, Delivery};

use crate::router::BoxFuture;

type SyncFn = Arc<dyn Fn(&Delivery) -> Acceptance + Send + Sync>;
type AsyncFn = Arc<dyn Fn(Delivery) -> BoxFuture<'static, Acceptance> + Send + Sync>;

/// Judges the messages of a topic; see [`Gossip::validate`](super::Gossip::validate).
///
/// A validator that panics, or takes longer than its timeout, has ignored the message: nobody is punished for it.
#[derive(Clone)]
pub struct Validator {
    pub(super) kind: Kind,
    pub(super) concurrency: usize,
    pub(super) timeout: Duration,
}

#[derive(Clone)]
pub(super) enum Kind {
    Sync(SyncFn),
    Async(AsyncFn),
}

impl fmt::Debug for Validator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Validator")
            .field("sync", &matches!(self.kind, Kind::Sync(_)))
            .field("concurrency", &self.concurrency)
            .field("timeout", &self.timeout)
            .finish()
    }
}

impl Validator {
    /// A function that answers at once. It runs in the task of the router and has to be quick, some microseconds.
    #[must_use]
    pub fn sync(validate: impl Fn(&Delivery) -> Acceptance + Send + Sync + 'static) -> Self {
        Self::new(Kind::Sync(Arc::new(validate)))
    }

    /// A function that may wait. It runs in a task of its own for each message.
    #[must_use]
    pub fn asynchronous<F, Fut>(validate: F) -> Self
    where
        F: Fn(Delivery) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Acceptance> + Send + 'static,
    {
        Self::new(Kind::Async(Arc::new(move |message| {
            Box::pin(validate(message))
        })))
    }

    fn new(kind: Kind) -> Self {
        Self {
            kind,
            concurrency: 1_024,
            timeout: Duration::from_secs(10),
        }
    }

    /// How many messages an asynchronous validator looks at at once; more wait. 1,024, as go.
    #[must_use]
    pub const fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = if concurrency == 0 { 1 } else { concurrency };
        self
    }

    /// Time for one message. 10 s; the router itself gives a message up after
    /// [`validation_timeout`](barewire_gossip::Config::validation_timeout).
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// What came of asking a validator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Said(Acceptance),
    Panicked,
    TimedOut,
}

impl Verdict {
    pub(super) fn acceptance(self) -> Acceptance {
        match self {
            Self::Said(acceptance) => acceptance,
            Self::Panicked | Self::TimedOut => Acceptance::Ignore,
        }
    }
}

/// Asks a function that answers at once.
pub(super) fn ask(validate: &SyncFn, message: &Delivery) -> Verdict {
    // What it touched is its own; the message is only read.
    match catch_unwind(AssertUnwindSafe(|| validate(message))) {
        Ok(acceptance) => Verdict::Said(acceptance),
        Err(_) => Verdict::Panicked,
    }
}

/// Asks a function that may wait.
pub(super) async fn ask_later(validate: AsyncFn, message: Delivery, timeout: Duration) -> Verdict {
    let Ok(future) = catch_unwind(AssertUnwindSafe(|| validate(message))) else {
        return Verdict::Panicked;
    };
    match tokio::time::timeout(timeout, Caught(future)).await {
        Ok(Some(acceptance)) => Verdict::Said(acceptance),
        Ok(None) => Verdict::Panicked,
        Err(_) => Verdict::TimedOut,
    }
}

/// `None` if the future panicked.
struct Caught<T>(BoxFuture<'static, T>);

impl<T> Future for Caught<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        // It is dropped after a panic, never polled again.
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Some),
            Err(_) => Poll::Ready(None),
        }
    }
}
