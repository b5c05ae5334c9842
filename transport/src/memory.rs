//! A transport inside the process, for tests and for nodes that share one.

use std::{
    collections::HashMap,
    io,
    sync::LazyLock,
    sync::atomic::{AtomicU64, Ordering},
};

use barewire_base::{Multiaddr, Protocol};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::transports::RawConnection;

/// Bytes a memory connection holds in each direction before its writer waits.
const PIPE: usize = 256 * 1024;
/// Connections that wait to be accepted before a dialler waits.
const BACKLOG: usize = 16;

static LISTENERS: LazyLock<Mutex<HashMap<u64, mpsc::Sender<RawConnection>>>> =
    LazyLock::new(Mutex::default);
/// Ports the system chooses, and numbers for the dialling side, start high to leave room below.
static NEXT: AtomicU64 = AtomicU64::new(1 << 32);

/// The address of a memory port.
pub(crate) fn address(port: u64) -> Multiaddr {
    // One component of nine bytes is within every limit of an address.
    Multiaddr::empty()
        .with(Protocol::Memory(port))
        .unwrap_or_else(|_| Multiaddr::empty())
}

/// A listening memory port; it is free again when this is dropped.
#[derive(Debug)]
pub struct MemoryListener {
    port: u64,
    local_addr: Multiaddr,
    incoming: mpsc::Receiver<RawConnection>,
}

impl MemoryListener {
    /// Listens on `/memory/port`; 0 lets the system choose. Fails when the port is in use.
    pub fn bind(port: u64) -> io::Result<Self> {
        let port = if port == 0 {
            NEXT.fetch_add(1, Ordering::Relaxed)
        } else {
            port
        };
        let (sender, incoming) = mpsc::channel(BACKLOG);
        let mut listeners = LISTENERS.lock();
        if listeners.contains_key(&port) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        listeners.insert(port, sender);
        Ok(Self {
            port,
            local_addr: address(port),
            incoming,
        })
    }

    /// Address it listens on.
    #[must_use]
    pub fn local_addr(&self) -> &Multiaddr {
        &self.local_addr
    }

    /// The next connection. Cancel safe.
    pub async fn accept(&mut self) -> io::Result<RawConnection> {
        // The sender lives in the table until this listener is dropped.
        self.incoming
            .recv()
            .await
            .ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        LISTENERS.lock().remove(&self.port);
    }
}

/// Connects to `/memory/port`. Cancel safe.
pub async fn connect(port: u64) -> io::Result<RawConnection> {
    let sender = LISTENERS
        .lock()
        .get(&port)
        .cloned()
        .ok_or(io::ErrorKind::ConnectionRefused)?;
    let (near, far) = tokio::io::duplex(PIPE);
    let near_addr = address(NEXT.fetch_add(1, Ordering::Relaxed));
    let far = RawConnection::new(far, "memory", address(port), near_addr.clone());
    sender
        .send(far)
        .await
        .map_err(|_| io::ErrorKind::ConnectionRefused)?;
    Ok(RawConnection::new(near, "memory", near_addr, address(port)))
}
