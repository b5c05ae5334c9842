//! The yamux session of barewire and the `yamux` crate, each alone over plain TCP: one stream, one direction.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    net::SocketAddr,
    time::{Duration, Instant},
};

use barewire_base::{budget::Budget, transmit::TransmitBuf};
use barewire_mux::{
    Event, ReadOutcome, Role, StreamId, StreamMuxer,
    yamux::{Config, Session},
};
use bytes::{Bytes, BytesMut};
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::arrived;

/// Bytes the sender writes at a time, and of one read.
const BLOCK: usize = 256 * 1024;
/// Bytes gathered for one write to the socket.
const GATHER: usize = 256 * 1024;
/// Slices one vectored write takes (`IOV_MAX` on Linux).
const SLICES: usize = 1024;

/// A session and its socket in one loop: the least a connection task has to do.
struct Loop {
    socket: TcpStream,
    session: Session,
    slab: BytesMut,
    out: TransmitBuf,
    /// Bytes of `out` the socket has taken.
    sent: usize,
}

impl Loop {
    fn new(socket: TcpStream, role: Role) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let session = Session::new(role, Config::default(), Budget::unlimited(), Instant::now());
        let slab = BytesMut::with_capacity(BLOCK);
        Ok(Self {
            socket,
            session,
            slab,
            out: TransmitBuf::new(GATHER),
            sent: 0,
        })
    }

    /// Waits until the socket has brought or taken something. `false` at its end.
    async fn turn(&mut self) -> io::Result<bool> {
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
            self.session.poll_transmit(Instant::now(), &mut self.out);
        }
        self.slab.reserve(BLOCK / 4);
        let (mut reader, mut writer) = self.socket.split();
        let mut slices = [IoSlice::new(&[]); SLICES];
        let filled = gather(&self.out, self.sent, &mut slices);
        tokio::select! {
            biased;
            got = reader.read_buf(&mut self.slab) => {
                if got? == 0 {
                    return Ok(false);
                }
                let input = self.slab.split().freeze();
                self.session.handle_input(Instant::now(), input).map_err(io::Error::other)?;
            }
            took = writer.write_vectored(&slices[..filled]), if filled > 0 => self.sent += took?,
        }
        Ok(true)
    }
}

fn gather<'a>(out: &'a TransmitBuf, sent: usize, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
    let (mut skip, mut filled) = (sent, 0);
    for part in out.parts() {
        if skip >= part.len() {
            skip -= part.len();
        } else if filled < SLICES {
            slices[filled] = IoSlice::new(&part[skip..]);
            (skip, filled) = (0, filled + 1);
        }
    }
    filled
}

/// Receives one stream per connection until its end, then answers on it with the count.
pub(super) async fn sink_own(listener: TcpListener) -> io::Result<()> {
    loop {
        let (socket, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut io = Loop::new(socket, Role::Server)?;
            let mut total = 0_u64;
            while io.turn().await? {
                while let Some(event) = io.session.poll_event() {
                    match event {
                        Event::Incoming(id) => io.session.accepted(id),
                        Event::Readable(id) if read_all(&mut io.session, id, &mut total)? => {
                            let count = Bytes::copy_from_slice(&total.to_be_bytes());
                            io.session.write(id, count).map_err(io::Error::other)?;
                            io.session.finish(id).map_err(io::Error::other)?;
                        }
                        _ => {}
                    }
                }
            }
            Ok::<_, io::Error>(())
        });
    }
}

/// Takes what is there; `true` at the end of the stream.
fn read_all(session: &mut Session, id: StreamId, total: &mut u64) -> io::Result<bool> {
    loop {
        match session.read(Instant::now(), id, usize::MAX) {
            ReadOutcome::Chunk(chunk) => *total += chunk.len() as u64,
            ReadOutcome::Finished => return Ok(true),
            ReadOutcome::Reset(code) => return Err(io::Error::other(format!("reset with {code}"))),
            _ => return Ok(false),
        }
    }
}

pub(super) async fn send_own(to: SocketAddr, bytes: u64) -> io::Result<Duration> {
    let mut io = Loop::new(TcpStream::connect(to).await?, Role::Client)?;
    let block = Bytes::from(vec![0; BLOCK]);
    let start = Instant::now();
    let id = io.session.open_stream(start).map_err(io::Error::other)?;
    let mut left = bytes;
    let mut answer = BytesMut::new();
    let mut finished = false;
    loop {
        while left > 0 && io.session.send_capacity(id).map_err(io::Error::other)? > 0 {
            let n = left.min(BLOCK as u64);
            io.session
                .write(id, block.slice(..n as usize))
                .map_err(io::Error::other)?;
            left -= n;
        }
        if left == 0 && !finished {
            io.session.finish(id).map_err(io::Error::other)?;
            finished = true;
        }
        if !io.turn().await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Some(event) = io.session.poll_event() {
            if event == Event::Readable(id) {
                while let ReadOutcome::Chunk(chunk) =
                    io.session.read(Instant::now(), id, usize::MAX)
                {
                    answer.extend_from_slice(&chunk);
                }
            }
        }
        if let Ok(count) = <[u8; 8]>::try_from(&answer[..]) {
            return arrived(bytes, u64::from_be_bytes(count), start);
        }
    }
}

/// Receives one stream per connection until its end, then answers on it with the count.
pub(super) async fn sink_crate(listener: TcpListener) -> io::Result<()> {
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut connection = yamux::Connection::new(
                socket.compat(),
                yamux::Config::default(),
                yamux::Mode::Server,
            );
            while let Some(stream) = poll_fn(|cx| connection.poll_next_inbound(cx)).await {
                tokio::spawn(count_crate(stream.map_err(io::Error::other)?));
            }
            Ok::<_, io::Error>(())
        });
    }
}

async fn count_crate(mut stream: yamux::Stream) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    let mut total = 0_u64;
    loop {
        match stream.read(&mut block).await? {
            0 => break,
            n => total += n as u64,
        }
    }
    stream.write_all(&total.to_be_bytes()).await?;
    stream.close().await
}

pub(super) async fn send_crate(to: SocketAddr, bytes: u64) -> io::Result<Duration> {
    let socket = TcpStream::connect(to).await?;
    socket.set_nodelay(true)?;
    let mut connection = yamux::Connection::new(
        socket.compat(),
        yamux::Config::default(),
        yamux::Mode::Client,
    );
    let block = vec![0; BLOCK];
    let start = Instant::now();
    let mut stream = poll_fn(|cx| connection.poll_new_outbound(cx))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move {
        while poll_fn(|cx| connection.poll_next_inbound(cx))
            .await
            .is_some()
        {}
    });
    let mut left = bytes;
    while left > 0 {
        let n = left.min(BLOCK as u64);
        stream.write_all(&block[..n as usize]).await?;
        left -= n;
    }
    stream.close().await?;
    let mut count = [0; 8];
    stream.read_exact(&mut count).await?;
    arrived(bytes, u64::from_be_bytes(count), start)
}
