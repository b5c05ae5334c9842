//! A connection whose other end sends what it likes, and whose byte stream fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use barewire_base::{Keypair, multistream};
use barewire_mux::MuxError;
use barewire_security::{Opened, Opener, Sealer, noise};
use barewire_transport::{CloseReason, StreamError, upgrade_inbound};
use bytes::{Buf, Bytes, BytesMut};
use common::{ECHO, End, Over, config, pair, serve_echo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    time::{Instant, timeout},
};

/// An end of a proper Noise channel without a muxer.
struct RawPeer {
    io: DuplexStream,
    sealer: Sealer,
    opener: Opener,
    input: BytesMut,
}

impl RawPeer {
    /// The handshake of a dialler that names `muxers`.
    async fn dial(mut io: DuplexStream, muxers: &[&str]) -> Self {
        let keypair = Keypair::from_seed(&[1; 32]);
        let muxers = muxers.iter().map(|muxer| Arc::from(*muxer)).collect();
        let config = Arc::new(noise::Config::new(&keypair, muxers, &mut rand::rng()).unwrap());
        let mut handshake = noise::Handshake::initiator(&config, None, &mut rand::rng()).unwrap();
        let mut dialer = multistream::Dialer::optimistic("/noise".into());
        let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
        dialer.poll_transmit(&mut output);
        loop {
            handshake.poll_transmit(&mut output);
            io.write_all_buf(&mut output).await.unwrap();
            if handshake.is_finished() {
                break;
            }
            io.read_buf(&mut input).await.unwrap();
            if dialer.outcome().is_none() {
                let consumed = dialer.handle_input(&input).unwrap();
                input.advance(consumed);
            }
            let consumed = handshake.handle_input(&input).unwrap();
            input.advance(consumed);
        }
        let (sealer, opener) = handshake.finish().unwrap().session.split();
        Self {
            io,
            sealer,
            opener,
            input,
        }
    }

    async fn send(&mut self, plaintext: &[u8]) -> io::Result<()> {
        let mut out = BytesMut::new();
        for part in plaintext.chunks(barewire_security::MAX_PLAINTEXT) {
            self.sealer.seal(std::iter::once(part), &mut out).unwrap();
        }
        self.io.write_all_buf(&mut out).await
    }

    /// All that still comes until the end.
    async fn read_to_end(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.opener.open_in_place(&mut self.input).unwrap() {
                Opened::Record {
                    plaintext,
                    consumed,
                } => {
                    all.extend_from_slice(&self.input[plaintext]);
                    self.input.advance(consumed);
                }
                _ => {
                    if self.io.read_buf(&mut self.input).await.unwrap() == 0 {
                        return all;
                    }
                }
            }
        }
    }
}

/// A yamux header.
fn header(kind: u8, flags: u8, id: u32, length: u32) -> Vec<u8> {
    let mut bytes = vec![0, kind, 0, flags];
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}

const YAMUX: &[&str] = &["/yamux/1.0.0"];

/// Row 28: a violation that comes in the record of the muxer's proposal, and then nothing more.
#[tokio::test(start_paused = true)]
async fn a_violation_beside_the_proposal_of_the_muxer_ends_the_connection() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (server, _) = config(2);
    let accepting = tokio::spawn(async move { upgrade_inbound(far, &server).await });
    let mut peer = RawPeer::dial(near, &[]).await;
    let bad = [
        multistream::optimistic_proposal(YAMUX[0]).to_vec(),
        header(4, 1, 1, 0),
    ]
    .concat();
    peer.send(&bad).await.unwrap();
    let (connection, _streams): End = accepting.await.unwrap().unwrap();
    let begun = Instant::now();
    let answer = timeout(Duration::from_secs(60), peer.read_to_end())
        .await
        .expect("nobody ends the connection");
    assert!(answer.ends_with(&header(3, 0, 0, 1)), "{answer:?}");
    let reason = connection.closed().await;
    assert!(
        matches!(reason, CloseReason::Muxer(MuxError::Protocol(_))),
        "{reason:?}"
    );
    connection.terminated().await;
    let took = begun.elapsed();
    println!("row 28: a violation beside the proposal: closed after {took:.1?}");
    assert!(took <= Duration::from_secs(2), "{took:?}");
}

/// Reads frames and says where on the wire each ends.
struct Meter {
    peer: RawPeer,
    frames: BytesMut,
    /// Bytes on the wire, records' own included, up to the end of `frames`.
    arrived: usize,
}

/// A frame with data: its stream, its length with the header, and where it ends.
struct Metered {
    id: u32,
    len: usize,
    end: usize,
}

impl Meter {
    /// The next frame with data.
    async fn next(&mut self) -> Metered {
        loop {
            if let Some(header) = self.frames.first_chunk::<12>().copied() {
                let word = |at: usize| header[at..].first_chunk().copied().map(u32::from_be_bytes);
                let (id, length) = (word(4).unwrap(), word(8).unwrap() as usize);
                let len = 12 + if header[1] == 0 { length } else { 0 };
                if self.frames.len() >= len {
                    self.frames.advance(len);
                    if len > 12 {
                        let end = self.arrived - self.frames.len();
                        return Metered { id, len, end };
                    }
                    continue;
                }
            }
            match self
                .peer
                .opener
                .open_in_place(&mut self.peer.input)
                .unwrap()
            {
                Opened::Record {
                    plaintext,
                    consumed,
                } => {
                    self.frames.extend_from_slice(&self.peer.input[plaintext]);
                    self.peer.input.advance(consumed);
                    self.arrived += consumed;
                }
                _ => {
                    let read = self.peer.io.read_buf(&mut self.peer.input).await.unwrap();
                    assert_ne!(read, 0, "the connection ended");
                }
            }
        }
    }
}

/// Bytes of the pipe, and of the largest frame with its header.
const PIPE: usize = 1 << 16;
const FRAME: usize = 1 << 16;
/// What a record adds.
const RECORD: usize = 18;

/// A peer that has opened streams 1 and 3 with all the credit there is, and their server ends.
async fn two_streams() -> (Meter, [barewire_transport::Stream; 2], End) {
    let (near, far) = tokio::io::duplex(PIPE);
    let (server, _) = config(2);
    let accepting = tokio::spawn(async move { upgrade_inbound(far, &server).await });
    let mut peer = RawPeer::dial(near, YAMUX).await;
    let (connection, mut inbound) = accepting.await.unwrap().unwrap();
    let proposal = multistream::optimistic_proposal(ECHO);
    let mut streams = Vec::new();
    for id in [1, 3] {
        let mut frames = header(0, 1, id, proposal.len() as u32);
        frames.extend_from_slice(&proposal);
        frames.extend(header(1, 0, id, 1 << 30));
        peer.send(&frames).await.unwrap();
        let stream = inbound.accept().await.unwrap();
        streams.push(stream.negotiate(|_| Some(ECHO.into())).await.unwrap());
    }
    let meter = Meter {
        peer,
        frames: BytesMut::new(),
        arrived: 0,
    };
    let streams = streams.try_into().map_err(drop).unwrap();
    (meter, streams, (connection, inbound))
}

/// However much a stream has to send, another one that has something waits for one frame of it.
#[tokio::test]
async fn streams_take_turns_on_the_wire() {
    let (mut meter, streams, _end) = two_streams().await;
    for (mut stream, item) in streams.into_iter().zip([1 << 20, 100]) {
        tokio::spawn(async move {
            let item = Bytes::from(vec![7; item]);
            while stream.write_chunk(item.clone()).await.is_ok() {}
        });
    }
    // Both are at it.
    let mut seen = [false; 2];
    while seen != [true; 2] {
        seen[usize::from(meter.next().await.id == 3)] = true;
    }
    // Longest run of one stream between two frames of the other, by who waited.
    let (mut worst, mut last, mut frames) = ([0; 2], [None; 2], [0; 2]);
    while frames[0] < 200 {
        let frame = meter.next().await;
        let of = usize::from(frame.id == 3);
        frames[of] += 1;
        if let Some(last) = last[of].replace(frame.end) {
            worst[of] = worst[of].max(frame.end - frame.len - last);
        }
    }
    println!(
        "between two frames of a stream: at most {} and {} bytes on the wire in {frames:?} frames",
        worst[0], worst[1]
    );
    assert!(
        worst.into_iter().max() <= Some(FRAME + 2 * RECORD),
        "{worst:?}"
    );
}

/// What a stream sends that had nothing to send waits for what is sealed already, and one frame.
#[tokio::test]
async fn a_message_is_not_delayed_by_what_waits_behind_it() {
    let (mut meter, [mut bulk, mut quick], _end) = two_streams().await;
    tokio::spawn(async move {
        let item = Bytes::from(vec![7; 1 << 20]);
        while bulk.write_chunk(item.clone()).await.is_ok() {}
    });
    // With it goes the answer to the proposal.
    quick
        .write_chunk(Bytes::from_static(b"first"))
        .await
        .unwrap();
    let mut worst = 0;
    for _ in 0..30 {
        // Nothing is read: the pipe is full and so is the send buffer behind it.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let on_the_way = meter.arrived + meter.peer.input.len() + PIPE;
        quick.write_chunk(Bytes::from_static(b"now")).await.unwrap();
        loop {
            let frame = meter.next().await;
            if frame.id == 3 && frame.len == 12 + 3 {
                worst = worst.max((frame.end - frame.len).saturating_sub(on_the_way));
                break;
            }
        }
    }
    println!("before a message beside bulk: at most {worst} bytes that were not on the wire");
    // Four records are sealed at once.
    assert!(worst <= 5 * (FRAME + RECORD), "{worst}");
    assert!(worst > 0, "the pipe was not full");
}

/// A pipe whose writes fail once the flag is set. What has been written to it can still be read.
struct BrokenWrites {
    io: DuplexStream,
    broken: Arc<AtomicBool>,
}

impl AsyncRead for BrokenWrites {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for BrokenWrites {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.broken.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A peer that writes 1 MiB, ends its streams and closes: our answers fail, but all it has sent is there.
#[tokio::test]
async fn what_came_before_a_write_failed_is_read() {
    const STREAM: usize = 200 << 10;
    let (near, far) = tokio::io::duplex(4 << 20);
    let (server, _) = config(2);
    let broken = Arc::new(AtomicBool::new(false));
    let io = BrokenWrites {
        io: far,
        broken: Arc::clone(&broken),
    };
    let accepting = tokio::spawn(async move { upgrade_inbound(io, &server).await });
    let mut peer = RawPeer::dial(near, YAMUX).await;
    let (connection, mut streams) = accepting.await.unwrap().unwrap();
    let proposal = multistream::optimistic_proposal(ECHO);
    let mut frames = Vec::new();
    for id in [1, 3, 5, 7, 9] {
        let payload = [proposal.to_vec(), vec![id as u8; STREAM]].concat();
        frames.extend(header(0, 1, id, payload.len() as u32));
        frames.extend(payload);
        frames.extend(header(1, 4, id, 0));
    }
    broken.store(true, Ordering::Relaxed);
    // Fits the pipe whole, so the connection's task has no turn in between.
    peer.send(&frames).await.unwrap();
    drop(peer);
    assert_eq!(connection.closed().await, CloseReason::RemoteReset);
    for id in [1u8, 3, 5, 7, 9] {
        let inbound = streams.accept().await.expect("all streams have come");
        let mut stream = inbound.negotiate(|_| Some(ECHO.into())).await.unwrap();
        let mut got = 0;
        while let Some(chunk) = stream.read_chunk(usize::MAX).await.unwrap() {
            assert!(chunk.iter().all(|byte| *byte == id));
            got += chunk.len();
        }
        assert_eq!(got, STREAM, "stream {id}");
    }
}

/// The end of a stream whose answer nobody will read waits for no answer.
#[tokio::test]
async fn an_end_is_not_held_once_reading_has_stopped() {
    for stop_first in [true, false] {
        let ((client, _keep), (_server, mut streams)) = pair(Over::Yamux, 65_536).await;
        let mut stream = client.open_stream(ECHO).await.unwrap();
        stream.write_chunk(Bytes::from_static(b"x")).await.unwrap();
        if stop_first {
            stream.stop(0);
            stream.finish().unwrap();
        } else {
            stream.finish().unwrap();
            stream.stop(0);
        }
        assert_eq!(stream.finish(), Err(StreamError::LocallyClosed));
        let inbound = streams.accept().await.unwrap();
        let mut accepted = inbound.negotiate(|_| Some(ECHO.into())).await.unwrap();
        let end = async { while accepted.read_chunk(10).await.unwrap().is_some() {} };
        timeout(Duration::from_secs(5), end)
            .await
            .expect("the end has left");
    }
}

/// What dropping the streams nobody has accepted says leaves at once.
#[tokio::test(start_paused = true)]
async fn refusals_do_not_wait_for_other_traffic() {
    let ((client, _keep), (_server, streams)) = pair(Over::Yamux, 65_536).await;
    let mut stream = client.open_stream(ECHO).await.unwrap();
    stream.write_chunk(Bytes::from_static(b"x")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    drop(streams);
    let begun = Instant::now();
    stream.read_chunk(10).await.unwrap_err();
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
}

/// A close does not cut off what the remote is still reading: as long as it speaks it is listened to.
#[tokio::test(start_paused = true)]
async fn a_remote_that_still_reads_is_not_reset() {
    for (speaks, least, most) in [(true, 4, 5), (false, 1, 2)] {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (server, _) = config(2);
        let accepting = tokio::spawn(async move { upgrade_inbound(far, &server).await });
        let mut peer = RawPeer::dial(near, YAMUX).await;
        let (connection, _streams) = accepting.await.unwrap().unwrap();
        connection.close(0);
        let begun = Instant::now();
        let waiting = tokio::spawn(async move { connection.terminated().await });
        if speaks {
            // Credit for what it reads, over a slow link.
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                peer.send(&header(1, 0, 1, 1 << 17))
                    .await
                    .expect("it is cut off");
            }
            peer.io.shutdown().await.unwrap();
        }
        waiting.await.unwrap();
        let took = begun.elapsed().as_secs();
        assert!((least..=most).contains(&took), "{took} s");
    }
    // A flood does not hold it.
    let (near, far) = tokio::io::duplex(1 << 16);
    let (server, _) = config(2);
    let accepting = tokio::spawn(async move { upgrade_inbound(far, &server).await });
    let mut peer = RawPeer::dial(near, YAMUX).await;
    let (connection, _streams) = accepting.await.unwrap().unwrap();
    connection.close(0);
    let begun = Instant::now();
    while peer.send(&header(1, 0, 1, 1)).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        begun.elapsed() <= Duration::from_secs(11),
        "{:?}",
        begun.elapsed()
    );
}

#[derive(Default)]
struct Counted(AtomicUsize);

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// However often a future that waits is polled, it is kept and woken once.
#[tokio::test]
async fn waiters_are_kept_once() {
    let ((client, _keep), (_server, streams)) = pair(Over::Yamux, 65_536).await;
    let mut open = Vec::new();
    for _ in 0..256 {
        open.push(client.open_stream(ECHO).await.unwrap());
    }
    let counted = Arc::new(Counted::default());
    let waker = Waker::from(Arc::clone(&counted));
    let mut cx = Context::from_waker(&waker);
    let mut opening = Box::pin(client.open_stream(ECHO));
    open[0]
        .write_chunk(Bytes::from(vec![0; 1000]))
        .await
        .unwrap();
    let mut draining = Box::pin(client.drained());
    for _ in 0..1_000 {
        assert!(opening.as_mut().poll(&mut cx).is_pending());
        assert!(draining.as_mut().poll(&mut cx).is_pending());
    }
    drop(open);
    drop(streams);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let wakes = counted.0.load(Ordering::Relaxed);
    println!("1,000 polls each of two waiting futures caused {wakes} wakes");
    assert!((1..=3).contains(&wakes), "{wakes}");
}

/// What one end counts as sent the other counts as received: bytes on the socket, record layer included.
#[tokio::test]
async fn both_ends_count_the_same_bytes() {
    let ((client, _keep), (server, streams)) = pair(Over::Yamux, 65_536).await;
    serve_echo(streams);
    let mut totals = Vec::new();
    for _ in 0..2 {
        let mut stream = client.open_stream(ECHO).await.unwrap();
        let payload = Bytes::from(vec![7; 300_000]);
        stream.write_last(payload).await.unwrap();
        while stream.read_chunk(usize::MAX).await.unwrap().is_some() {}
        drop(stream);
        tokio::time::sleep(Duration::from_millis(50)).await;
        totals.push((client.stats().bytes_sent, server.stats().bytes_received));
    }
    let (sent, received) = (totals[1].0 - totals[0].0, totals[1].1 - totals[0].1);
    assert!(sent > 300_000);
    assert_eq!(sent, received);
}
