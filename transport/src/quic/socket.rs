//! The UDP sockets of a node.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Once},
    task::{Context, Poll},
};

use quinn::{
    AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::config::{MAX_UDP_PAYLOAD, QuicConfig};

/// Below this a socket drops datagrams in bursts that a fast path makes.
const WANTED_BUFFER: usize = 2 * 1024 * 1024;

/// Opens a UDP socket. An IPv6 socket takes IPv6 only, so that both families can share a port.
pub(super) fn bind(addr: SocketAddr, config: &QuicConfig) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    size_buffers(&socket, config);
    socket.bind(&addr.into())?;
    let inner = TokioRuntime.wrap_udp_socket(socket.into())?;
    let largest = usize::from(config.max_mtu.max(1_200));
    let segments = (MAX_UDP_PAYLOAD / largest).clamp(1, inner.max_transmit_segments());
    Ok(Arc::new(UdpSocket { inner, segments }))
}

/// Asks for large buffers; what the system gives is enough to work with, but not to be fast.
fn size_buffers(socket: &Socket, config: &QuicConfig) {
    static WARNED: Once = Once::new();
    // Refusals show in the sizes read back.
    drop(socket.set_recv_buffer_size(config.socket_buffer));
    drop(socket.set_send_buffer_size(config.socket_buffer));
    // Linux reports twice what can be used.
    let usable =
        |size: io::Result<usize>| size.unwrap_or(0) / if cfg!(target_os = "linux") { 2 } else { 1 };
    let (receive, send) = (
        usable(socket.recv_buffer_size()),
        usable(socket.send_buffer_size()),
    );
    if let Some(warning) = clamped(receive, send, config.socket_buffer) {
        WARNED.call_once(|| tracing::warn!("{warning}"));
    }
}

/// What a person should know when `asked` bytes of buffers were wanted and these are had.
fn clamped(receive: usize, send: usize, asked: usize) -> Option<String> {
    (receive.min(send) < WANTED_BUFFER.min(asked)).then(|| {
        format!(
            "the system clamps UDP buffers to {receive} bytes (receive) and {send} (send), which \
             slows QUIC down; on Linux raise net.core.rmem_max and net.core.wmem_max to {asked}"
        )
    })
}

/// quinn's socket, with batches that fit the kernel.
///
/// quinn sends up to ten datagrams in one call whatever their size. The kernel takes at most 65,507
/// bytes at once and quinn-udp swallows the refusal, as it must for MTU probes: with datagrams above
/// 6,550 bytes each full batch would be lost, again and again.
#[derive(Debug)]
struct UdpSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    segments: usize,
}

impl AsyncUdpSocket for UdpSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.segments
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn clamped_buffers_are_told() {
        let asked = QuicConfig::default().socket_buffer;
        // Linux' default limit.
        let warning = clamped(212_992, asked, asked).unwrap();
        assert!(warning.contains("212992 bytes (receive)"), "{warning}");
        assert!(warning.contains(&format!("to {asked}")), "{warning}");
        assert!(clamped(asked, 212_992, asked).is_some());
        assert_eq!(clamped(asked, asked, asked), None);
        assert_eq!(clamped(WANTED_BUFFER, WANTED_BUFFER, usize::MAX), None);
        // Who asked for little has got it.
        assert_eq!(clamped(65_536, 65_536, 65_536), None);
    }
}
