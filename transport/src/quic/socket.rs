//! The UDP sockets of a node.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Once},
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
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
    Ok(Arc::new(UdpSocket {
        inner,
        segments,
        inbox: Mutex::default(),
    }))
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

/// quinn's socket, with batches that fit the kernel, and datagrams that come one by one.
///
/// quinn sends up to ten datagrams in one call whatever their size. The kernel takes at most 65,507
/// bytes at once and quinn-udp swallows the refusal, as it must for MTU probes: with datagrams above
/// 6,550 bytes each full batch would be lost, again and again.
///
/// What the kernel hands over as one burst, up to 64 datagrams, quinn keeps in one allocation as long as a single byte
/// of it is unread, and counts only that datagram. A peer that sends one datagram to keep in each burst would take forty
/// times its window of memory. So bursts are taken apart here, and each datagram gets an allocation of its own.
#[derive(Debug)]
struct UdpSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    segments: usize,
    inbox: Mutex<Inbox>,
}

/// Bursts taken from the kernel in one call.
const BURSTS: usize = 8;
/// Most bytes of a burst.
const BURST_BYTES: usize = 64 * 1024;

/// Bursts that the kernel has handed over, and how far quinn has taken them.
struct Inbox {
    /// Room for all bursts, made with the first of them.
    bytes: Vec<u8>,
    bursts: [RecvMeta; BURSTS],
    filled: usize,
    /// The burst that is being taken, and what of it is gone.
    burst: usize,
    taken: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            bursts: [RecvMeta::default(); BURSTS],
            filled: 0,
            burst: 0,
            taken: 0,
        }
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox")
            .field("filled", &self.filled)
            .field("burst", &self.burst)
            .finish_non_exhaustive()
    }
}

impl Inbox {
    fn poll_fill(
        &mut self,
        socket: &dyn AsyncUdpSocket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() {
            self.bytes = vec![0; BURSTS * BURST_BYTES];
        }
        let mut rooms = self.bytes.chunks_mut(BURST_BYTES).map(IoSliceMut::new);
        let mut rooms: [IoSliceMut<'_>; BURSTS] =
            std::array::from_fn(|_| rooms.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
        self.filled = ready!(socket.poll_recv(cx, &mut rooms, &mut self.bursts))?;
        (self.burst, self.taken) = (0, 0);
        Poll::Ready(Ok(()))
    }

    /// Copies one datagram into each of `rooms`; how many there were.
    fn take(&mut self, rooms: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
        let mut given = 0;
        while self.burst < self.filled
            && let (Some(room), Some(meta)) = (rooms.get_mut(given), metas.get_mut(given))
        {
            let burst = &self.bursts[self.burst];
            let start = self.burst * BURST_BYTES + self.taken;
            let length = burst.stride.min(burst.len - self.taken);
            // A datagram that does not fit is longer than this side allows.
            if length > 0
                && let Some(room) = room.get_mut(..length)
            {
                room.copy_from_slice(&self.bytes[start..start + length]);
                *meta = RecvMeta {
                    len: length,
                    stride: length,
                    ..*burst
                };
                given += 1;
            }
            self.taken += length;
            if length == 0 || self.taken >= burst.len {
                self.burst += 1;
                self.taken = 0;
            }
        }
        given
    }
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
        let inbox = &mut *self.inbox.lock();
        loop {
            let given = inbox.take(bufs, meta);
            if given > 0 {
                return Poll::Ready(Ok(given));
            }
            ready!(inbox.poll_fill(&*self.inner, cx))?;
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.segments
    }

    fn max_receive_segments(&self) -> usize {
        1
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::task::Waker;

    use super::*;

    /// Bursts of a peer reach quinn one datagram at a time.
    #[tokio::test]
    async fn bursts_are_taken_apart() {
        let config = QuicConfig::default();
        let any = "127.0.0.1:0".parse().unwrap();
        let (near, far) = (bind(any, &config).unwrap(), bind(any, &config).unwrap());
        let mut writable = Arc::clone(&near).create_io_poller();
        std::future::poll_fn(|cx| writable.as_mut().poll_writable(cx))
            .await
            .unwrap();
        // Nine of 1,000 bytes and a shorter one, an empty one, and one alone.
        let contents: Vec<u8> = (0..9_500_u32).map(|at| (at / 1_000) as u8).collect();
        let send = |contents: &[u8], segment_size| {
            let transmit = Transmit {
                destination: far.local_addr().unwrap(),
                ecn: None,
                contents,
                segment_size,
                src_ip: None,
            };
            near.try_send(&transmit).unwrap();
        };
        let segments = near.max_transmit_segments().min(10);
        for burst in contents.chunks(1_000 * segments) {
            send(burst, Some(1_000));
        }
        send(&[], None);
        send(&[10; 700], None);
        let mut rooms = vec![[0; 1_472]; 4];
        let mut metas = [RecvMeta::default(); 4];
        let mut got = Vec::new();
        while got.len() < 11 {
            let received = std::future::poll_fn(|cx| {
                let mut slices: Vec<_> =
                    rooms.iter_mut().map(|room| IoSliceMut::new(room)).collect();
                far.poll_recv(cx, &mut slices, &mut metas)
            });
            for at in 0..received.await.unwrap() {
                let meta = metas[at];
                assert_eq!(
                    (meta.stride, meta.addr),
                    (meta.len, near.local_addr().unwrap())
                );
                got.push((rooms[at][0], meta.len));
                assert!(
                    rooms[at][..meta.len]
                        .iter()
                        .all(|byte| *byte == rooms[at][0])
                );
            }
        }
        let lengths = [1_000; 9].into_iter().chain([500, 700]);
        let expected: Vec<_> = (0..11).zip(lengths).collect();
        assert_eq!(got, expected);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(far.poll_recv(&mut cx, &mut [], &mut metas).is_pending());
    }

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
