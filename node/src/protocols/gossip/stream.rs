//! The two streams between this node and a peer: ours, on which only we write, and theirs, which is only read.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
    vec,
};

use barewire_base::{Budget, PeerId};
use barewire_gossip::{FrameReader, OutFrame, Version};
use barewire_transport::{Connection, ReadHalf, Stream, StreamError, WriteHalf};
use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::driver::Input;
use crate::{
    codes,
    endpoint::WeakEndpoint,
    protocols::identify::PeerInfo,
    router::{BoxFuture, ProtocolHandler},
};

/// Bytes given to a stream at once: a longer chunk would sit in its send buffer as a whole.
const PIECE: usize = 64 << 10;
/// Bytes taken from a stream at once.
const CHUNK: usize = 64 << 10;
/// Chunks read from a peer that the router has not looked at.
pub(super) const CHUNKS_AHEAD: usize = 4;
/// Time to identify a peer and to agree on a version.
const OPENING: Duration = Duration::from_secs(10);
/// Bytes that are ignored on a stream on which the peer has nothing to say.
const IGNORED: usize = 1024;

/// Asks a reader to end its stream.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop(Arc<(CancellationToken, AtomicU32)>);

impl Stop {
    /// The stream is reset with the code.
    pub(super) fn now(&self, code: u32) {
        self.0.1.store(code, Ordering::Relaxed);
        self.0.0.cancel();
    }

    async fn asked(&self) -> u32 {
        self.0.0.cancelled().await;
        self.0.1.load(Ordering::Relaxed)
    }
}

/// What a reader gets to know from the driver.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) stream: u64,
    pub(super) budget: Budget,
    pub(super) stop: Stop,
}

/// Takes the streams that peers open.
#[derive(Debug, Clone)]
pub(super) struct Handler {
    pub(super) inputs: mpsc::Sender<Input>,
    /// Longest RPC.
    pub(super) max_len: Arc<AtomicUsize>,
}

impl ProtocolHandler for Handler {
    fn handle(&self, stream: Stream, connection: Connection) -> BoxFuture<'static, ()> {
        let handler = self.clone();
        Box::pin(async move { handler.serve(stream, connection).await })
    }

    fn holds_connection(&self) -> bool {
        // A lease does, while the peer is in a mesh.
        false
    }
}

impl Handler {
    async fn serve(self, mut stream: Stream, connection: Connection) {
        let peer = connection.peer_id();
        let (reply, grant) = oneshot::channel();
        let opened = Input::InboundOpened {
            peer,
            connection,
            reply,
        };
        if self.inputs.send(opened).await.is_err() {
            stream.reset(codes::STREAM_SHUTDOWN);
            return;
        }
        let Ok(grant) = grant.await else {
            stream.reset(codes::STREAM_RATE_LIMITED);
            return;
        };
        let id = grant.stream;
        let reset = self.read(&mut stream, peer, grant).await;
        match reset {
            Some(code) => stream.reset(code),
            // The peer has ended its direction, and with it the stream. Nobody is left to tell of a failure.
            None => drop(stream.finish()),
        }
        let _ = self
            .inputs
            .send(Input::InboundEnded { peer, stream: id })
            .await;
    }

    /// Reads to the end. Returns the code to reset the stream with, if it did not end by itself. Nothing is ever written: go takes
    /// it for the death of the peer.
    async fn read(&self, stream: &mut Stream, peer: PeerId, grant: Grant) -> Option<u32> {
        let mut stop = pin!(grant.stop.asked());
        let room = Arc::new(Semaphore::new(CHUNKS_AHEAD));
        let mut reader = FrameReader::new(self.max_len.load(Ordering::Relaxed), grant.budget);
        loop {
            let next = async {
                // While the router has no room the peer is not read, and its window closes.
                let permit = Arc::clone(&room).acquire_owned().await.ok()?;
                Some((permit, stream.read_chunk(CHUNK).await))
            };
            let (permit, chunk) = tokio::select! {
                biased;
                code = &mut stop => return Some(code),
                next = next => next?,
            };
            let Ok(chunk) = chunk else {
                return Some(codes::CONNECTION_NORMAL);
            };
            let chunk = chunk?;
            let mut frames = Vec::new();
            reader.set_max_len(self.max_len.load(Ordering::Relaxed));
            let framed = reader.push(chunk, |frame| frames.push(frame));
            if !frames.is_empty() {
                let frames = Frames {
                    frames,
                    _permit: permit,
                };
                let input = Input::Frames {
                    peer,
                    stream: grant.stream,
                    frames,
                };
                if self.inputs.send(input).await.is_err() {
                    return Some(codes::STREAM_SHUTDOWN);
                }
            }
            if let Err(error) = framed {
                tracing::debug!(%peer, %error, "a stream of gossip cannot be read on");
                return Some(codes::STREAM_PROTOCOL_VIOLATION);
            }
        }
    }
}

/// Frames that came together. Reading goes on when they are gone.
#[derive(Debug)]
pub(super) struct Frames {
    pub(super) frames: Vec<barewire_gossip::Frame>,
    _permit: OwnedSemaphorePermit,
}

/// Our stream to a peer.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) version: Version,
    pub(super) connection: Connection,
    pub(super) info: Option<Arc<PeerInfo>>,
    pub(super) read: ReadHalf,
    pub(super) write: WriteHalf,
}

/// Why there is no stream to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OpenFailure {
    /// It is not connected.
    NoConnection,
    /// It does not gossip.
    NotSpoken,
    /// Something else.
    Failed(String),
}

/// Opens our stream to a peer, for the best version that its identify lists; any, if it does not list one but `insist` says that
/// it gossips.
pub(super) async fn open(
    endpoint: WeakEndpoint,
    peer: PeerId,
    versions: Vec<Version>,
    insist: bool,
) -> Result<Opened, OpenFailure> {
    let failed = |error: &dyn std::fmt::Display| OpenFailure::Failed(error.to_string());
    let opening = async {
        let connected = endpoint.upgrade().and_then(|endpoint| {
            let connection = endpoint.connection(&peer)?;
            Some((endpoint, connection))
        });
        let (endpoint, connection) = connected.ok_or(OpenFailure::NoConnection)?;
        let info = match endpoint.peer_info(&peer) {
            Some(info) => Some(info),
            None => endpoint.identify(&connection).await.ok(),
        };
        drop(endpoint);
        let lists = |version: &&Version| {
            let info = info.as_ref();
            info.is_some_and(|info| info.speaks(version.protocol_id()))
        };
        let best = versions.iter().find(lists);
        let stream = match best {
            Some(best) => {
                let stream = connection.open_stream(best.protocol_id()).await;
                let mut stream = stream.map_err(|error| failed(&error))?;
                stream.negotiate().await.map_err(|error| failed(&error))?;
                stream
            }
            None if insist => {
                let ids: Vec<_> = versions
                    .iter()
                    .map(|version| version.protocol_id())
                    .collect();
                let stream = connection.open_stream_negotiated(&ids).await;
                stream.map_err(|error| failed(&error))?
            }
            None => return Err(OpenFailure::NotSpoken),
        };
        let version = Version::from_protocol_id(stream.protocol());
        let version = version.ok_or(OpenFailure::NotSpoken)?;
        let mut stream = stream;
        stream.hold_nothing();
        let (read, write) = stream.split();
        Ok(Opened {
            version,
            connection,
            info,
            read,
            write,
        })
    };
    match timeout(OPENING, opening).await {
        Ok(opened) => opened,
        Err(_) => Err(OpenFailure::Failed("it takes too long".into())),
    }
}

/// Returns when the peer has ended or reset our stream, or says something on it.
pub(super) async fn until_refused(mut read: ReadHalf) {
    let mut ignored = 0;
    while ignored <= IGNORED {
        match read.read_chunk(IGNORED).await {
            Ok(Some(chunk)) => ignored += chunk.len(),
            Ok(None) | Err(_) => return,
        }
    }
}

/// What of a frame is not written yet.
#[derive(Debug, Default)]
pub(super) struct Rest {
    piece: Bytes,
    chunks: vec::IntoIter<Bytes>,
}

impl Rest {
    pub(super) fn new(frame: OutFrame) -> Self {
        Self {
            piece: Bytes::new(),
            chunks: frame.chunks.into_iter(),
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        while self.piece.is_empty() {
            self.piece = self.chunks.next()?;
        }
        let len = self.piece.len().min(PIECE);
        Some(self.piece.split_to(len))
    }
}

/// Writes what the stream takes at once. Returns what is left, if something is.
pub(super) fn write_now(
    write: &mut WriteHalf,
    mut rest: Rest,
) -> Result<Option<Rest>, StreamError> {
    loop {
        match at_once(write.writable()) {
            Some(writable) => writable?,
            None => return Ok(Some(rest)),
        }
        let Some(piece) = rest.next() else {
            return Ok(None);
        };
        // It is writable and nobody else writes.
        if let Some(written) = at_once(write.write_chunk(piece.clone())) {
            written?;
        } else {
            rest.chunks = [&[piece, rest.piece], rest.chunks.as_slice()]
                .concat()
                .into_iter();
            rest.piece = Bytes::new();
            return Ok(Some(rest));
        }
    }
}

/// Why a stream that was waited for is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WriteFailure {
    /// It took nothing for too long.
    Blocked,
    /// It is over.
    Stream(StreamError),
}

/// Writes the rest, and waits until there is room for more.
pub(super) async fn write_later(
    write: &mut WriteHalf,
    mut rest: Rest,
    patience: Duration,
) -> Result<(), WriteFailure> {
    loop {
        let piece = rest.next();
        let last = piece.is_none();
        let step = async {
            match piece {
                Some(piece) => write.write_chunk(piece).await,
                None => write.writable().await,
            }
        };
        match timeout(patience, step).await {
            Ok(Ok(())) if last => return Ok(()),
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(WriteFailure::Stream(error)),
            Err(_) => return Err(WriteFailure::Blocked),
        }
    }
}

/// The result of a future that does not have to wait.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    let mut cx = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut cx) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
