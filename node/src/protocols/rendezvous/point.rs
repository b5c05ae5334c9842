//! The point: the registry behind a protocol handler.

use std::{sync::Arc, time::Duration};

use barewire_base::framing::{LengthPrefixedDecoder, encode_prefixed};
use barewire_rendezvous::{
    Answer, CANVAS_PROTOCOL, Change, Form, Limits, PROTOCOL, RegistrationStore, Registry, Request,
    Status, StoreError, decode_request,
};
use barewire_transport::{Connection, Stream, StreamError};
use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    codes::{STREAM_PROTOCOL_VIOLATION, STREAM_RESOURCE_LIMIT},
    endpoint::{Endpoint, WeakEndpoint},
    router::{BoxFuture, ProtocolHandler, RouterBuilder},
};

/// Longest request read: far more than a record and a namespace have, so that a namespace that is too long gets
/// its status.
const MAX_REQUEST: usize = 128 << 10;
/// A stream on which nothing is asked for so long ends (own choice: three times what rust-libp2p gives a request).
const IDLE: Duration = Duration::from_secs(30);
/// What rust-libp2p calls itself unless it is told otherwise.
const RUST: &str = "rust-libp2p";
/// Pause between two looks for what has expired: that is hidden at once, and dropped within a second.
const EXPIRE_EVERY: Duration = Duration::from_millis(500);
/// Writes that wait for the disk; as many requests wait then.
const MAX_WRITES: usize = 1_024;

/// A rendezvous point. Cheap to clone; it serves as long as a router that has it.
#[derive(Debug, Clone)]
pub struct Point(Arc<Inner>);

struct Inner {
    registry: Mutex<Registry>,
    /// A registration expires earlier than all before.
    earlier: Notify,
    /// To the task that writes; `None` if nothing is to be kept.
    writes: Option<mpsc::Sender<Write>>,
    owner: WeakEndpoint,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.registry.fmt(f)
    }
}

#[derive(Debug)]
struct Write {
    changes: Vec<Change>,
    /// Whoever waits for the disk.
    done: Option<oneshot::Sender<bool>>,
}

impl Point {
    /// Starts a point with what `store` has kept. A registration is confirmed when the store has it.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub async fn spawn(
        endpoint: &Endpoint,
        limits: Limits,
        store: Arc<dyn RegistrationStore>,
    ) -> Result<Self, StoreError> {
        let now = || Instant::now().into_std();
        let mut registry = Registry::new(limits, rand::random(), now());
        let mut writes = None;
        if !store.is_volatile() {
            let reading = Arc::clone(&store);
            let loaded = tokio::task::spawn_blocking(move || reading.load()).await;
            // It fails only while the runtime goes down.
            registry.load(now(), loaded.unwrap_or_else(|_| Ok(Vec::new()))?);
            let (sender, receiver) = mpsc::channel(MAX_WRITES);
            endpoint.spawn_to_the_end(|(stop, _)| write(store, receiver, stop));
            writes = Some(sender);
        }
        let point = Self(Arc::new(Inner {
            registry: Mutex::new(registry),
            earlier: Notify::new(),
            writes,
            owner: endpoint.downgrade(),
        }));
        endpoint.spawn_until_stop(expire(Arc::clone(&point.0)));
        Ok(point)
    }

    /// Serves both protocol ids by a router.
    #[must_use]
    pub fn register(&self, builder: RouterBuilder) -> RouterBuilder {
        builder
            .accept(PROTOCOL, Handler(self.clone()))
            .accept(CANVAS_PROTOCOL, Handler(self.clone()))
    }

    /// Registrations it holds.
    #[must_use]
    pub fn registrations(&self) -> usize {
        self.0.registry.lock().len()
    }
}

impl Inner {
    /// Answers one request, once what it changes is stored.
    async fn answer(&self, connection: &Connection, request: &Request) -> Option<Answer> {
        let ip = connection.info().remote_addr.ip();
        let reads = self.reads(connection, request).await;
        let (answer, changes) = {
            let mut registry = self.registry.lock();
            let before = registry.poll_timeout();
            let now = Instant::now().into_std();
            let answer = registry.handle(now, &connection.peer_id(), ip, reads, request);
            let first = registry.poll_timeout();
            if first.is_some_and(|at| before.is_none_or(|before| at < before)) {
                self.earlier.notify_one();
            }
            (answer, registry.take_changes())
        };
        if self.store(changes).await {
            return answer;
        }
        answer.map(|_| Answer::Register {
            status: Status::InternalError,
            text: "the registration could not be stored".into(),
            ttl: 0,
        })
    }

    /// The form of records to tell a peer of, `None` for both.
    async fn reads(&self, connection: &Connection, request: &Request) -> Option<Form> {
        let endpoint = self.owner.upgrade();
        let asking = matches!(request, Request::Discover { .. });
        let endpoint = endpoint.filter(|_| asking)?;
        match endpoint.identify(connection).await {
            Ok(info) if info.is_barewire() => None,
            Ok(info) if info.agent_version.starts_with(RUST) => Some(Form::Legacy),
            _ => Some(Form::Standard),
        }
    }

    /// Whether the changes are stored, if anything is.
    async fn store(&self, changes: Vec<Change>) -> bool {
        let Some(writes) = self.writes.as_ref().filter(|_| !changes.is_empty()) else {
            return true;
        };
        let (done, stored) = oneshot::channel();
        let done = Some(done);
        let sent = writes.send(Write { changes, done }).await;
        sent.is_ok() && stored.await.unwrap_or(false)
    }
}

/// Applies changes, those that have come meanwhile together. What has been sent before the end is written.
async fn write(
    store: Arc<dyn RegistrationStore>,
    mut writes: mpsc::Receiver<Write>,
    stop: CancellationToken,
) {
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            () = stop.cancelled(), if !writes.is_closed() => {
                writes.close();
                continue;
            }
            count = writes.recv_many(&mut batch, MAX_WRITES) => if count == 0 { return },
        }
        let mut changes = Vec::new();
        let mut waiting = Vec::new();
        for write in batch.drain(..) {
            changes.extend(write.changes);
            waiting.extend(write.done);
        }
        let store = Arc::clone(&store);
        let written = tokio::task::spawn_blocking(move || store.apply(&changes)).await;
        let stored = match written {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(%error, "registrations could not be stored");
                false
            }
            Err(_) => false,
        };
        for done in waiting {
            // Whoever asked may be gone.
            let _ = done.send(stored);
        }
    }
}

/// Drops what has expired, and sleeps until there is something.
async fn expire(point: Arc<Inner>) {
    let mut not_before = Instant::now();
    loop {
        let due = point.registry.lock().poll_timeout();
        let due = due.map(|at| Instant::from_std(at).max(not_before));
        let Some(at) = due else {
            point.earlier.notified().await;
            continue;
        };
        tokio::select! {
            () = point.earlier.notified() => continue,
            () = sleep_until(at) => {}
        }
        let changes = {
            let mut registry = point.registry.lock();
            registry.handle_timeout(Instant::now().into_std());
            registry.take_changes()
        };
        if let Some(writes) = point.writes.as_ref().filter(|_| !changes.is_empty()) {
            // It fails when the endpoint stops; what has expired is not loaded again anyway.
            let _ = writes
                .send(Write {
                    changes,
                    done: None,
                })
                .await;
        }
        not_before = Instant::now() + EXPIRE_EVERY;
    }
}

#[derive(Debug)]
struct Handler(Point);

impl ProtocolHandler for Handler {
    fn handle(&self, stream: Stream, connection: Connection) -> BoxFuture<'static, ()> {
        let point = self.0.clone();
        Box::pin(serve(point, stream, connection))
    }

    fn holds_connection(&self) -> bool {
        false
    }
}

/// Serves requests one after another, until the client ends the stream.
async fn serve(point: Point, mut stream: Stream, connection: Connection) {
    let mut decoder = LengthPrefixedDecoder::new(MAX_REQUEST);
    loop {
        let request = match decoder.next() {
            Ok(Some(message)) => decode_request(&message),
            Ok(None) => match timeout(IDLE, stream.read_chunk(MAX_REQUEST)).await {
                Ok(Ok(Some(chunk))) => {
                    decoder.push(chunk);
                    continue;
                }
                Ok(Ok(None)) => {
                    // It fails when the stream is over already.
                    let _ = stream.finish();
                    return;
                }
                Ok(Err(_)) => return,
                Err(_) => return stream.reset(STREAM_RESOURCE_LIMIT),
            },
            Err(_) => return stream.reset(STREAM_PROTOCOL_VIOLATION),
        };
        let Ok(request) = request else {
            return stream.reset(STREAM_PROTOCOL_VIOLATION);
        };
        let answer = point.0.answer(&connection, &request).await;
        if let Some(answer) = answer
            && send(&mut stream, &answer).await.is_err()
        {
            return;
        }
    }
}

async fn send(stream: &mut Stream, answer: &Answer) -> Result<(), StreamError> {
    let mut framed = BytesMut::new();
    encode_prefixed(&answer.encode(), &mut framed);
    stream.write_chunk(framed.freeze()).await
}
