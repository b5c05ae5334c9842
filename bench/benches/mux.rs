//! Our yamux session beside the `yamux` crate: bytes of one stream from side to side.
//!
//! `streams`: a stream of 100 bytes each way, with ours alone. `memory`: both sides on one thread, bytes handed over in records of up to 65,519 bytes (ours:
//! gathered by one copy, which is where sealing would be; the crate: over a pipe, its reader's own
//! buffer). `tcp`: a side per thread, loopback, nothing between the muxer and the socket. Writes of
//! 32 bytes and 1 KiB are copied into the send buffer by both, longer ones are handed over as
//! `Bytes` to ours.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a benchmark"
)]

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use barewire_base::{Budget, TransmitBuf};
use barewire_mux::yamux::{Config, Session};
use barewire_mux::{Event, ReadOutcome, Role, StreamId, StreamMuxer};
use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::executor::LocalPool;
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use futures::task::LocalSpawnExt;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::compat::TokioAsyncReadCompatExt;

const RECORD: usize = 65_519;
const SIZES: [(&str, usize); 4] = [
    ("32B", 32),
    ("1KiB", 1 << 10),
    ("64KiB", 64 << 10),
    ("1MiB", 1 << 20),
];

fn session(role: Role) -> Session {
    Session::new(role, Config::default(), Budget::unlimited(), Instant::now())
}

/// Queues as much of `left` as there is room for, in items of the size of `item`.
fn write(session: &mut Session, id: StreamId, item: &Bytes, left: &mut usize) {
    while *left > 0 {
        let len = item.len().min(*left);
        let done = if len <= 4 << 10 {
            session.write_copy(id, &item[..len]).unwrap_or(0)
        } else {
            session.write(id, item.slice(..len)).map_or(0, |()| len)
        };
        if done == 0 {
            return;
        }
        *left -= done;
    }
}

/// Reads all there is.
fn read(session: &mut Session, now: Instant, id: StreamId, got: &mut usize) {
    while let ReadOutcome::Chunk(chunk) = session.read(now, id, usize::MAX) {
        *got += chunk.len();
    }
}

/// Two sessions and what lies between them.
struct Ours {
    client: Session,
    server: Session,
    id: StreamId,
    out: TransmitBuf,
    slab: BytesMut,
}

impl Ours {
    fn new() -> Self {
        let (mut client, server) = (session(Role::Client), session(Role::Server));
        let id = client.open_stream(Instant::now()).unwrap();
        Self {
            client,
            server,
            id,
            out: TransmitBuf::new(RECORD),
            slab: BytesMut::new(),
        }
    }

    fn transfer(&mut self, item: &Bytes, total: usize) {
        let (mut left, mut got) = (total, 0);
        while got < total {
            write(&mut self.client, self.id, item, &mut left);
            let now = Instant::now();
            self.out.clear();
            if self.client.poll_transmit(now, &mut self.out) {
                self.slab.reserve(RECORD);
                for part in self.out.parts() {
                    self.slab.extend_from_slice(part);
                }
                self.server
                    .handle_input(now, self.slab.split().freeze())
                    .unwrap();
                while self.server.poll_event().is_some() {}
                read(&mut self.server, now, self.id, &mut got);
            }
            self.out.clear();
            if self.server.poll_transmit(now, &mut self.out) {
                let back: Bytes = self.out.parts().flatten().copied().collect();
                self.client.handle_input(now, back).unwrap();
                while self.client.poll_event().is_some() {}
            }
        }
    }
}

/// One direction of a pipe that holds one record's worth of bytes.
#[derive(Default)]
struct Half {
    bytes: VecDeque<u8>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct PipeEnd {
    incoming: Arc<Mutex<Half>>,
    outgoing: Arc<Mutex<Half>>,
}

fn pipe() -> (PipeEnd, PipeEnd) {
    let (a, b) = (Arc::<Mutex<Half>>::default(), Arc::<Mutex<Half>>::default());
    (
        PipeEnd {
            incoming: a.clone(),
            outgoing: b.clone(),
        },
        PipeEnd {
            incoming: b,
            outgoing: a,
        },
    )
}

impl AsyncRead for PipeEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut half = self.incoming.lock().unwrap();
        if half.bytes.is_empty() {
            half.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = io::Read::read(&mut half.bytes, buf)?;
        if let Some(waker) = half.writer.take() {
            waker.wake();
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for PipeEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut half = self.outgoing.lock().unwrap();
        let room = RECORD.saturating_sub(half.bytes.len());
        if room == 0 {
            half.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = room.min(buf.len());
        half.bytes.extend(&buf[..count]);
        if let Some(waker) = half.reader.take() {
            waker.wake();
        }
        Poll::Ready(Ok(count))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

async fn drive<T: AsyncRead + AsyncWrite + Unpin>(mut connection: yamux::Connection<T>) {
    while let Some(Ok(_)) = futures::future::poll_fn(|cx| connection.poll_next_inbound(cx)).await {}
}

/// The crate's two connections, driven by one thread's executor.
struct Theirs {
    pool: LocalPool,
    writer: yamux::Stream,
    reader: yamux::Stream,
    buffer: Vec<u8>,
}

impl Theirs {
    fn new() -> Self {
        let (a, b) = pipe();
        let mut client = yamux::Connection::new(a, yamux::Config::default(), yamux::Mode::Client);
        let mut server = yamux::Connection::new(b, yamux::Config::default(), yamux::Mode::Server);
        let mut pool = LocalPool::new();
        let spawner = pool.spawner();
        let (writer, reader) = pool.run_until(async move {
            let mut writer = futures::future::poll_fn(|cx| client.poll_new_outbound(cx))
                .await
                .unwrap();
            writer.write_all(b"x").await.unwrap();
            spawner.spawn_local(drive(client)).unwrap();
            let accepted = futures::future::poll_fn(|cx| server.poll_next_inbound(cx)).await;
            let mut reader = accepted.unwrap().unwrap();
            spawner.spawn_local(drive(server)).unwrap();
            reader.read_exact(&mut [0]).await.unwrap();
            (writer, reader)
        });
        Self {
            pool,
            writer,
            reader,
            buffer: vec![0; 64 << 10],
        }
    }

    fn transfer(&mut self, item: &Bytes, total: usize) {
        let (writer, reader, buffer) = (&mut self.writer, &mut self.reader, &mut self.buffer);
        self.pool.run_until(async {
            let write = async {
                let mut left = total;
                while left > 0 {
                    let len = item.len().min(left);
                    writer.write_all(&item[..len]).await.unwrap();
                    left -= len;
                }
                writer.flush().await.unwrap();
            };
            let read = async {
                let mut got = 0;
                while got < total {
                    got += reader.read(buffer).await.unwrap();
                }
            };
            futures::join!(write, read);
        });
    }
}

fn memory(c: &mut Criterion) {
    let mut group = c.benchmark_group("memory");
    for (name, size) in SIZES {
        let total: usize = if size < 1 << 10 { 1 << 20 } else { 16 << 20 };
        let item = Bytes::from(vec![7; size]);
        group.throughput(Throughput::Bytes(total as u64));
        let mut ours = Ours::new();
        group.bench_with_input(BenchmarkId::new("barewire", name), &item, |b, item| {
            b.iter(|| ours.transfer(item, total));
        });
        let mut theirs = Theirs::new();
        group.bench_with_input(BenchmarkId::new("yamux-crate", name), &item, |b, item| {
            b.iter(|| theirs.transfer(item, total));
        });
    }
    group.finish();
}

/// One stream of 100 bytes each way, from its beginning to its end on both sides.
fn echo(ours: &mut Ours, message: &Bytes) {
    let now = Instant::now();
    let id = ours.client.open_stream(now).unwrap();
    ours.client.write(id, message.clone()).unwrap();
    ours.client.finish(id).unwrap();
    let mut hand_over = |from: &mut Session, to: &mut Session| {
        ours.out.clear();
        from.poll_transmit(now, &mut ours.out);
        for part in ours.out.parts() {
            ours.slab.extend_from_slice(part);
        }
        to.handle_input(now, ours.slab.split().freeze()).unwrap();
    };
    hand_over(&mut ours.client, &mut ours.server);
    while let Some(event) = ours.server.poll_event() {
        if let Event::Incoming(id) = event {
            ours.server.accepted(id);
            while let ReadOutcome::Chunk(chunk) = ours.server.read(now, id, usize::MAX) {
                ours.server.write(id, chunk).unwrap();
            }
            ours.server.finish(id).unwrap();
            ours.server.release(id);
        }
    }
    hand_over(&mut ours.server, &mut ours.client);
    while ours.client.poll_event().is_some() {}
    let mut got = 0;
    read(&mut ours.client, now, id, &mut got);
    assert_eq!(got, message.len());
    ours.client.release(id);
}

fn streams(c: &mut Criterion) {
    let message = Bytes::from(vec![7; 100]);
    let mut ours = Ours::new();
    c.bench_function("streams/barewire/100B echo", |b| {
        b.iter(|| echo(&mut ours, &message))
    });
}

/// Our session on a socket, as bare as can be: vectored writes of its parts, reads into a slab.
async fn ours_on(io: TcpStream, role: Role, item: Bytes, total: usize) {
    let mut session = session(role);
    let mut out = TransmitBuf::new(512 << 10);
    let (mut sent, mut slab) = (0, BytesMut::new());
    let (mut left, mut got) = (if role == Role::Client { total } else { 0 }, 0);
    let mut id = (role == Role::Client).then(|| session.open_stream(Instant::now()).unwrap());
    loop {
        let now = Instant::now();
        if let (Some(id), true) = (id, left > 0) {
            write(&mut session, id, &item, &mut left);
            if left == 0 {
                session.finish(id).unwrap();
            }
        }
        if sent == out.len() {
            out.clear();
            sent = 0;
            session.poll_transmit(now, &mut out);
        }
        let mut idle = true;
        if sent < out.len() {
            let mut skip = sent;
            let mut slices = [IoSlice::new(&[]); 64];
            let mut count = 0;
            for part in out.parts() {
                if skip >= part.len() {
                    skip -= part.len();
                } else if count < slices.len() {
                    slices[count] = IoSlice::new(&part[skip..]);
                    (count, skip) = (count + 1, 0);
                }
            }
            match io.try_write_vectored(&slices[..count]) {
                Ok(count) => {
                    sent += count;
                    idle = false;
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        slab.reserve(256 << 10);
        match io.try_read_buf(&mut slab) {
            Ok(0) => return,
            Ok(_) => {
                session.handle_input(now, slab.split().freeze()).unwrap();
                idle = false;
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        while let Some(event) = session.poll_event() {
            match event {
                Event::Incoming(incoming) => id = Some(incoming),
                Event::Readable(id) if role == Role::Server => {
                    read(&mut session, now, id, &mut got);
                }
                // The other side has all.
                Event::Readable(_) => return,
                _ => {}
            }
        }
        if let (Role::Server, Some(id)) = (role, id) {
            read(&mut session, now, id, &mut got);
            if got == total {
                let _ = session.finish(id);
            }
        }
        if idle {
            let writes = if sent < out.len() {
                Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            io.ready(Interest::READABLE | writes).await.unwrap();
        }
    }
}

async fn theirs_on(io: TcpStream, mode: yamux::Mode, item: Bytes, total: usize) {
    let mut connection = yamux::Connection::new(io.compat(), yamux::Config::default(), mode);
    if mode == yamux::Mode::Client {
        let mut stream = futures::future::poll_fn(|cx| connection.poll_new_outbound(cx))
            .await
            .unwrap();
        let driver = tokio::spawn(drive(connection));
        let mut left = total;
        while left > 0 {
            let len = item.len().min(left);
            stream.write_all(&item[..len]).await.unwrap();
            left -= len;
        }
        stream.close().await.unwrap();
        let _ = stream.read(&mut [0]).await;
        driver.abort();
    } else {
        let accepted = futures::future::poll_fn(|cx| connection.poll_next_inbound(cx)).await;
        let mut stream = accepted.unwrap().unwrap();
        let driver = tokio::spawn(drive(connection));
        let (mut got, mut buffer) = (0, vec![0; 64 << 10]);
        while got < total {
            got += stream.read(&mut buffer).await.unwrap();
        }
        stream.close().await.unwrap();
        let _ = driver.await;
    }
}

/// Runs both sides, each with a thread of its own, and measures from the connection to the last
/// byte's acknowledgement.
fn over_tcp(ours: bool, item: &Bytes, total: usize) -> Duration {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let server_item = item.clone();
    let server = std::thread::spawn(move || {
        runtime().block_on(async move {
            let (io, _) = TcpListener::from_std(listener)
                .unwrap()
                .accept()
                .await
                .unwrap();
            io.set_nodelay(true).unwrap();
            if ours {
                ours_on(io, Role::Server, server_item, total).await;
            } else {
                theirs_on(io, yamux::Mode::Server, server_item, total).await;
            }
        });
    });
    let elapsed = runtime().block_on(async {
        let io = TcpStream::connect(addr).await.unwrap();
        io.set_nodelay(true).unwrap();
        let start = Instant::now();
        if ours {
            ours_on(io, Role::Client, item.clone(), total).await;
        } else {
            theirs_on(io, yamux::Mode::Client, item.clone(), total).await;
        }
        start.elapsed()
    });
    server.join().unwrap();
    elapsed
}

fn tcp(c: &mut Criterion) {
    let mut group = c.benchmark_group("tcp");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(6));
    for (name, size) in SIZES {
        let total: usize = if size < 1 << 10 { 16 << 20 } else { 256 << 20 };
        let item = Bytes::from(vec![7; size]);
        group.throughput(Throughput::Bytes(total as u64));
        for (backend, ours) in [("barewire", true), ("yamux-crate", false)] {
            group.bench_with_input(BenchmarkId::new(backend, name), &item, |b, item| {
                b.iter_custom(|rounds| (0..rounds).map(|_| over_tcp(ours, item, total)).sum());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, memory, streams, tcp);
criterion_main!(benches);
