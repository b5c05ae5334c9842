//! The IP addresses of this machine, followed as they change.

use std::{collections::BTreeSet, future::poll_fn, io, net::IpAddr, time::Duration};

use if_watch::{IfEvent, tokio::IfWatcher};
use tokio::time::{Instant, sleep_until, timeout};

/// Changes come in bursts (an interface brings several addresses); the burst is over when nothing
/// has come for this long.
const QUIET: Duration = Duration::from_millis(20);
/// A burst without an end is reported after this long all the same.
const MAX_BURST: Duration = Duration::from_secs(1);

/// Watches the interfaces. Sleeps on a socket of the kernel between changes.
#[derive(Debug)]
pub(crate) struct Interfaces {
    watcher: IfWatcher,
    ips: BTreeSet<IpAddr>,
}

impl Interfaces {
    /// Opens the watcher and waits for the addresses there are.
    pub(crate) async fn open() -> io::Result<Self> {
        let mut this = Self {
            watcher: IfWatcher::new()?,
            ips: BTreeSet::new(),
        };
        // The kernel answers at once; a machine without any address has nothing to answer.
        if let Ok(first) = timeout(MAX_BURST, this.changed()).await {
            first?;
        }
        Ok(this)
    }

    /// The addresses now, in a fixed order.
    pub(crate) fn ips(&self) -> Vec<IpAddr> {
        self.ips.iter().copied().collect()
    }

    /// Waits for a change, and for the end of the burst it comes in. After an error the watcher has
    /// to be opened anew. What a cancelled call has seen is in [`ips`](Self::ips), but no later call
    /// tells of it.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        let event = poll_fn(|cx| self.watcher.poll_if_event(cx)).await?;
        self.apply(event);
        let end = Instant::now() + MAX_BURST;
        loop {
            let until = end.min(Instant::now() + QUIET);
            tokio::select! {
                biased;
                () = sleep_until(until) => return Ok(()),
                event = poll_fn(|cx| self.watcher.poll_if_event(cx)) => self.apply(event?),
            }
        }
    }

    fn apply(&mut self, event: IfEvent) {
        match event {
            IfEvent::Up(net) => self.ips.insert(net.addr()),
            IfEvent::Down(net) => self.ips.remove(&net.addr()),
        };
    }
}
