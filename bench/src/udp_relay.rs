//! A UDP relay that delays and drops: each datagram leaves the given time after it came, unless it is lost.
//!
//! Two blocking threads per direction, as in the TCP [`relay`](crate::relay): one receives and stamps, one waits and
//! sends. Datagrams that a sender handed over in one call (GSO) arrive, wait and leave in one call too (GRO), so the
//! relay costs a fraction of what either end of a QUIC connection does.

use std::{
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use socket2::{Domain, Protocol, Socket, Type};

/// Room for everything one call can receive.
const BATCH: usize = 64 * 1024;
/// Bytes asked for each socket buffer; the system may give less.
const SOCKET_BUFFER: usize = 64 * 1024 * 1024;
/// Batches on their way in one direction; more are dropped, as by a full router.
const QUEUE: usize = 64 * 1024;
/// So that two runs lose the same share in the same pattern.
const SEED: u64 = 0x6c6f_7373;

/// A socket that takes and gives several datagrams in one call, and blocks.
struct Batched {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Batched {
    fn bind() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        // What the system refuses shows as loss.
        drop(socket.set_recv_buffer_size(SOCKET_BUFFER));
        drop(socket.set_send_buffer_size(SOCKET_BUFFER));
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        let socket = UdpSocket::from(socket);
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        socket.set_nonblocking(false)?;
        Ok(Self { socket, state })
    }
}

/// Datagrams that came in one call: all of `stride` bytes, the last one maybe shorter.
struct Batch {
    due: Instant,
    data: Vec<u8>,
    stride: usize,
    ecn: Option<EcnCodepoint>,
}

/// Relays one client to `to` until the process ends, and returns where it listens.
pub fn start(to: SocketAddr, delay: Duration, loss: f64) -> io::Result<SocketAddr> {
    let near = Arc::new(Batched::bind()?);
    let far = Arc::new(Batched::bind()?);
    let addr = near.socket.local_addr()?;
    let client = Arc::new(OnceLock::new());
    let server = Arc::new(OnceLock::from(to));
    for (seed, from, sender, into, receiver) in [
        (SEED, &near, &client, &far, &server),
        (SEED + 1, &far, &server, &near, &client),
    ] {
        let (queue, queued) = sync_channel(QUEUE);
        let (from, sender) = (Arc::clone(from), Arc::clone(sender));
        let (into, receiver) = (Arc::clone(into), Arc::clone(receiver));
        thread::spawn(move || {
            let rng = SmallRng::seed_from_u64(seed);
            end(receive(&from, &sender, delay, loss, rng, &queue));
        });
        thread::spawn(move || end(deliver(&into, &receiver, &queued)));
    }
    Ok(addr)
}

fn end(outcome: io::Result<()>) {
    if let Err(cause) = outcome {
        eprintln!("barewire-bench: the relay has failed: {cause}");
    }
}

/// Takes from `from` what `sender` sends, who is whoever comes first if nobody is known.
fn receive(
    from: &Batched,
    sender: &OnceLock<SocketAddr>,
    delay: Duration,
    loss: f64,
    mut rng: SmallRng,
    queue: &SyncSender<Batch>,
) -> io::Result<()> {
    let mut buffer = vec![0; BATCH];
    let mut meta = [RecvMeta::default()];
    loop {
        let received = from.state.recv(
            UdpSockRef::from(&from.socket),
            &mut [IoSliceMut::new(&mut buffer)],
            &mut meta,
        );
        match received {
            Ok(_) => {}
            // The other side was gone when something was sent to it.
            Err(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(cause),
        }
        let [
            RecvMeta {
                addr,
                len,
                stride,
                ecn,
                ..
            },
        ] = meta;
        if len == 0 || *sender.get_or_init(|| addr) != addr {
            continue;
        }
        let mut data = Vec::with_capacity(len);
        if loss > 0.0 {
            let kept = buffer[..len]
                .chunks(stride)
                .filter(|_| !rng.random_bool(loss));
            kept.for_each(|datagram| data.extend_from_slice(datagram));
        } else {
            data.extend_from_slice(&buffer[..len]);
        }
        if data.is_empty() {
            continue;
        }
        let due = Instant::now() + delay;
        let batch = Batch {
            due,
            data,
            stride,
            ecn,
        };
        if let Err(TrySendError::Disconnected(_)) = queue.try_send(batch) {
            return Ok(());
        }
    }
}

fn deliver(
    into: &Batched,
    receiver: &OnceLock<SocketAddr>,
    queued: &Receiver<Batch>,
) -> io::Result<()> {
    // All have the same delay, so they are due in the order they came.
    while let Ok(batch) = queued.recv() {
        thread::sleep(batch.due.saturating_duration_since(Instant::now()));
        let Some(&destination) = receiver.get() else {
            continue;
        };
        for contents in batch
            .data
            .chunks(batch.stride * into.state.max_gso_segments())
        {
            let transmit = Transmit {
                destination,
                ecn: batch.ecn,
                contents,
                segment_size: (contents.len() > batch.stride).then_some(batch.stride),
                src_ip: None,
            };
            match into
                .state
                .try_send(UdpSockRef::from(&into.socket), &transmit)
            {
                Err(cause) if cause.kind() != io::ErrorKind::ConnectionRefused => {
                    return Err(cause);
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Duration = Duration::from_secs(5);

    fn pair(delay: Duration, loss: f64) -> (UdpSocket, UdpSocket) {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let relay = start(server.local_addr().expect("bound"), delay, loss).expect("a relay");
        let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        client.connect(relay).expect("connected");
        for socket in [&client, &server] {
            socket.set_read_timeout(Some(ROOM)).expect("a timeout");
        }
        (client, server)
    }

    #[test]
    fn datagrams_arrive_whole_in_order_and_late_both_ways() {
        const DELAY: Duration = Duration::from_millis(20);
        let (client, server) = pair(DELAY, 0.0);
        let mut buffer = [0; 100];
        let sent = Instant::now();
        for text in ["one", "two two", "three"] {
            client.send(text.as_bytes()).expect("sent");
        }
        let mut from = None;
        for text in ["one", "two two", "three"] {
            let (n, addr) = server.recv_from(&mut buffer).expect("received");
            assert_eq!(&buffer[..n], text.as_bytes());
            from = Some(addr);
        }
        assert!(sent.elapsed() >= DELAY);
        server
            .send_to(b"back", from.expect("it came from somewhere"))
            .expect("sent");
        let n = client.recv(&mut buffer).expect("received");
        assert_eq!(&buffer[..n], b"back");
        assert!(sent.elapsed() >= 2 * DELAY);
    }

    #[test]
    fn the_given_share_is_lost() {
        let (client, server) = pair(Duration::ZERO, 1.0);
        client.send(b"gone").expect("sent");
        server
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("a timeout");
        assert!(server.recv(&mut [0; 10]).is_err());
    }
}
