//! The task that owns the router.

use std::{
    collections::{BTreeSet, HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use barewire_base::PeerId;
use barewire_gossip::{
    Acceptance, Delivery, Event, MessageHandle, Metrics, Output, PeerKey, Router, SeqnoPolicy,
    TopicConfig, Version,
};
use barewire_transport::Connection;
use serde_json::json;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    Common, GossipConfig, GossipEvent,
    metrics::Snapshot,
    partial::PartialEvent,
    peer::{Outbound, Peer},
    publish::{Publish, Waiter},
    stream::{Frames, Grant, OpenFailure, Opened, WriteFailure},
    subscription::{Queue, SubscriptionOptions},
    trace,
    validate::{self, Kind, Validator, Verdict},
    verify::{Next, Pool, Verified},
};
use crate::{
    endpoint::WeakEndpoint,
    events::{self, EventItem, Events},
    manager::now,
};

/// Inputs taken in a row.
const BURST: usize = 256;
/// How long what is queued may take to leave when the endpoint ends.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Between looks at what is only shown in metrics.
const GAUGES: Duration = Duration::from_secs(1);

/// What the handles and the streams tell the driver.
pub(super) enum Input {
    /// A peer has opened its stream.
    InboundOpened {
        peer: PeerId,
        connection: Connection,
        /// Dropped to refuse it.
        reply: oneshot::Sender<Grant>,
    },
    /// Frames came on it.
    Frames {
        peer: PeerId,
        stream: u64,
        frames: Frames,
    },
    /// It is over.
    InboundEnded { peer: PeerId, stream: u64 },
    /// A message to publish.
    Publish(Publish),
    /// Anything else a handle wants.
    Call(Box<dyn FnOnce(&mut Driver) + Send>),
}

/// Work that has ended.
pub(super) enum Done {
    Opened(PeerId, u64, Result<Opened, OpenFailure>),
    /// Our stream to the peer was refused.
    Refused(PeerId, u64),
    Written(
        PeerId,
        u64,
        barewire_transport::WriteHalf,
        Result<(), WriteFailure>,
    ),
    Verified(Verified),
    Validated(Arc<str>, MessageHandle, Verdict),
    Dialled,
}

/// What is known of a topic.
#[derive(Default)]
pub(super) struct Topic {
    pub(super) queues: Vec<Arc<Queue>>,
    /// Who follows the partial messages.
    pub(super) partials: Vec<Arc<Queue<PartialEvent>>>,
    /// Messages dropped by queues that are gone.
    pub(super) dropped: u64,
    validator: Option<Validator>,
    validating: usize,
    to_validate: VecDeque<Delivery>,
}

/// Owns the router; everything it does not do itself is in [`JoinSet`] tasks.
pub(super) struct Driver {
    pub(super) router: Router,
    pub(super) common: Arc<Common>,
    pub(super) config: GossipConfig,
    pub(super) endpoint: WeakEndpoint,
    pub(super) versions: Vec<Version>,
    pub(super) peers: HashMap<PeerId, Peer>,
    /// Who a [`PeerKey`] stands for.
    pub(super) names: Vec<Option<PeerId>>,
    pub(super) topics: HashMap<Arc<str>, Topic>,
    pub(super) work: JoinSet<Done>,
    pub(super) ready: VecDeque<PeerKey>,
    /// Peers whose frames wait for room in the router.
    pub(super) waiting: BTreeSet<PeerId>,
    /// When to open a stream again.
    pub(super) restarts: Vec<(Instant, PeerId)>,
    pub(super) next_stream: u64,
    pub(super) publishes: HashMap<Arc<str>, VecDeque<Publish>>,
    pub(super) waiters: Vec<Waiter>,
    pub(super) flushes: Vec<oneshot::Sender<()>>,
    pub(super) exchange: VecDeque<barewire_gossip::ConnectRequest>,
    pub(super) dialling: usize,
    verify: Pool,
    validations: usize,
    gauges_at: Instant,
    stopping: Option<Instant>,
}

impl Driver {
    pub(super) fn new(
        router: Router,
        common: Arc<Common>,
        config: GossipConfig,
        endpoint: WeakEndpoint,
    ) -> Self {
        // Numbers of an author must not overtake one another.
        let in_order = router.config().seqno_policy == SeqnoPolicy::Increasing;
        let verifiers = if in_order { 1 } else { config.verifiers };
        Self {
            versions: config.versions(),
            router,
            common,
            config,
            endpoint,
            peers: HashMap::new(),
            names: Vec::new(),
            topics: HashMap::new(),
            work: JoinSet::new(),
            ready: VecDeque::new(),
            waiting: BTreeSet::new(),
            restarts: Vec::new(),
            next_stream: 0,
            publishes: HashMap::new(),
            waiters: Vec::new(),
            flushes: Vec::new(),
            exchange: VecDeque::new(),
            dialling: 0,
            verify: Pool::new(verifiers),
            validations: 0,
            gauges_at: now(),
            stopping: None,
        }
    }

    /// Drives until the endpoint ends.
    pub(super) async fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        mut events: Events,
        (stop, kill): (CancellationToken, CancellationToken),
    ) {
        let common = Arc::clone(&self.common);
        let mut batch = Vec::with_capacity(BURST);
        let mut sleep = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        self.find_peers();
        loop {
            let at = now();
            self.timers(at);
            self.turn(at);
            self.tell(at);
            if self
                .stopping
                .is_some_and(|until| until <= at || self.is_quiet())
            {
                break;
            }
            let next = tokio::time::Instant::from_std(self.next_timer(at));
            if sleep.deadline() != next {
                sleep.as_mut().reset(next);
            }
            tokio::select! {
                biased;
                () = kill.cancelled() => break,
                () = stop.cancelled(), if self.stopping.is_none() => {
                    self.stopping = Some(now() + LAST_WORDS);
                }
                Some(done) = self.work.join_next(), if !self.work.is_empty() => {
                    let mut left = BURST;
                    let mut next = Some(done);
                    while let Some(done) = next {
                        // Tasks do not panic, and only those of streams that are gone are aborted.
                        if let Ok(done) = done {
                            self.done(now(), done);
                        }
                        left -= 1;
                        next = if left > 0 { self.work.try_join_next() } else { None };
                    }
                }
                item = events.next() => match item {
                    Some(EventItem::Event(event)) => {
                        if matches!(event, events::Event::Disconnected { .. }) {
                            // What came before the end counts.
                            while let Ok(input) = inputs.try_recv() {
                                self.input(now(), input);
                            }
                        }
                        self.node_event(now(), event);
                    }
                    Some(EventItem::Missed(_)) => self.find_peers(),
                    None => break,
                },
                () = &mut sleep => {}
                () = common.left.notified() => self.sweep(now()),
                count = inputs.recv_many(&mut batch, BURST) => {
                    if count == 0 {
                        break;
                    }
                    let at = now();
                    for input in batch.drain(..) {
                        self.input(at, input);
                    }
                }
            }
        }
        self.end();
    }

    fn timers(&mut self, at: Instant) {
        if self.router.poll_timeout().is_some_and(|due| due <= at) {
            self.router.handle_timeout(at);
        }
        if !self.restarts.is_empty() {
            let (due, later) = self.restarts.iter().partition(|(time, _)| *time <= at);
            self.restarts = later;
            let due: Vec<(Instant, PeerId)> = due;
            for (_, peer) in due {
                self.open(peer);
            }
        }
    }

    fn next_timer(&self, at: Instant) -> Instant {
        // An hour stands for never.
        let mut next = at + Duration::from_secs(3600);
        let due = [self.router.poll_timeout(), self.stopping]
            .into_iter()
            .flatten();
        for time in due.chain(self.restarts.iter().map(|(time, _)| *time)) {
            next = next.min(time);
        }
        for queue in self.publishes.values() {
            next = queue
                .iter()
                .filter_map(|p| p.wait_until)
                .fold(next, Instant::min);
        }
        if self.router.poll_timeout().is_some() {
            next = next.min(self.gauges_at.max(at));
        }
        next
    }

    /// Does all that can be done without waiting.
    fn turn(&mut self, at: Instant) {
        loop {
            self.take_waiting(at);
            self.outputs(at);
            let verified = self.start_verifying(at);
            self.pump_ready(at);
            let published = self.retry_publishes(at);
            if !verified && !published && self.ready.is_empty() {
                break;
            }
        }
        self.look_after_waiters();
    }

    pub(super) fn input(&mut self, at: Instant, input: Input) {
        match input {
            Input::InboundOpened {
                peer,
                connection,
                reply,
            } => {
                self.inbound_opened(at, peer, &connection, reply);
            }
            Input::Frames {
                peer,
                stream,
                frames,
            } => self.frames(at, peer, stream, frames),
            Input::InboundEnded { peer, stream } => self.inbound_ended(at, peer, stream),
            Input::Publish(publish) => self.publish(at, publish),
            Input::Call(call) => call(self),
        }
    }

    fn done(&mut self, at: Instant, done: Done) {
        match done {
            Done::Opened(peer, stream, result) => self.opened(at, peer, stream, result),
            Done::Refused(peer, stream) => {
                self.outbound_lost(at, peer, stream, "the peer ended it")
            }
            Done::Written(peer, stream, write, result) => {
                self.written(at, peer, stream, write, result);
            }
            Done::Verified(verified) => {
                for (handle, valid) in self.verify.done(verified) {
                    self.router.verified(at, handle, valid);
                }
            }
            Done::Validated(topic, handle, verdict) => {
                self.validations -= 1;
                if let Some(topic) = self.topics.get_mut(&topic) {
                    topic.validating -= 1;
                }
                self.verdict(at, &topic, handle, verdict);
                self.start_validating(at, &topic);
                if self.validations + 1 == self.config.max_validations {
                    let topics: Vec<_> = self.topics.keys().cloned().collect();
                    for topic in topics {
                        self.start_validating(at, &topic);
                    }
                }
            }
            Done::Dialled => {
                self.dialling -= 1;
                self.dial_next();
            }
        }
    }

    /// Does what the router asks for.
    pub(super) fn outputs(&mut self, at: Instant) {
        while let Some(output) = self.router.poll_output() {
            match output {
                Output::Ready(peer) => self.ready.push_back(peer),
                Output::Verify(request) => self.verify.push(request),
                Output::Validate(message) => self.validate(at, message),
                Output::Deliver(message) => self.deliver(&message),
                Output::Connect(request) => {
                    self.exchange.push_back(request);
                    self.exchange.truncate(self.config.exchange_waiting);
                    self.dial_next();
                }
                Output::Partial(part) => self.partial_received(part),
                Output::PartialGossip {
                    topic,
                    group,
                    peers,
                } => self.partial_gossip(&topic, group, &peers),
                Output::Event(event) => self.event(event),
                _ => {}
            }
        }
    }

    /// Whether messages were judged at once, so that the router has more to say.
    fn start_verifying(&mut self, at: Instant) -> bool {
        let mut judged = false;
        loop {
            match self.verify.next() {
                Next::Nothing => return judged,
                Next::Now(handle, valid) => {
                    self.router.verified(at, handle, valid);
                    judged = true;
                }
                Next::Later(job) => {
                    self.work.spawn_blocking(move || Done::Verified(job.run()));
                }
            }
        }
    }

    fn validate(&mut self, at: Instant, message: Delivery) {
        let name = Arc::clone(&message.topic);
        let topic = self.topics.get_mut(&name);
        let validator = topic.as_ref().and_then(|topic| topic.validator.as_ref());
        match (validator.map(|validator| validator.kind.clone()), topic) {
            (Some(Kind::Sync(function)), _) => {
                let verdict = validate::ask(&function, &message);
                self.verdict(at, &name, message.handle, verdict);
            }
            // The router bounds how many there are.
            (Some(Kind::Async(_)), Some(topic)) => {
                topic.to_validate.push_back(message);
                self.start_validating(at, &name);
            }
            // The validator has just been taken away.
            _ => self
                .router
                .validated(at, message.handle, Acceptance::Accept),
        }
    }

    fn start_validating(&mut self, at: Instant, name: &Arc<str>) {
        let Some(topic) = self.topics.get_mut(name) else {
            return;
        };
        let Some(Validator {
            kind: Kind::Async(function),
            concurrency,
            timeout,
        }) = &topic.validator
        else {
            for message in std::mem::take(&mut topic.to_validate) {
                self.router
                    .validated(at, message.handle, Acceptance::Accept);
            }
            return;
        };
        while topic.validating < *concurrency
            && self.validations < self.config.max_validations
            && let Some(message) = topic.to_validate.pop_front()
        {
            topic.validating += 1;
            self.validations += 1;
            let (name, handle) = (Arc::clone(name), message.handle);
            let asking = validate::ask_later(Arc::clone(function), message, *timeout);
            self.work
                .spawn(async move { Done::Validated(name, handle, asking.await) });
        }
    }

    fn verdict(&mut self, at: Instant, topic: &Arc<str>, handle: MessageHandle, verdict: Verdict) {
        if verdict != Verdict::Said(verdict.acceptance()) {
            let panicked = verdict == Verdict::Panicked;
            tracing::warn!(%topic, panicked, "a validator of gossip failed; the message is ignored");
            let topic = Arc::clone(topic);
            self.common
                .emit(|| GossipEvent::ValidatorFailed { topic, panicked });
        }
        self.router.validated(at, handle, verdict.acceptance());
    }

    fn deliver(&mut self, message: &Delivery) {
        if let Some(trace) = &self.config.trace {
            let author = message.author().map(|peer| peer.to_string());
            let fields = json!({
                "id": trace::hex(&message.id), "topic": &*message.topic, "author": author,
                "from": message.received_from.to_string(), "len": message.data().len(),
            });
            trace.write("delivered", fields);
        }
        if let Some(topic) = self.topics.get(&message.topic) {
            for queue in &topic.queues {
                // One that is gone is swept in a moment.
                queue.push(message);
            }
        }
    }

    fn event(&mut self, event: Event) {
        let Some(peer) = key_of(&event).and_then(|key| self.name(key)) else {
            return;
        };
        match &event {
            Event::Grafted { .. } => self.in_mesh(&peer, 1),
            Event::Pruned { .. } => self.in_mesh(&peer, -1),
            _ => {}
        }
        if let Some(trace) = &self.config.trace {
            trace.event(&peer.to_string(), &event);
        }
        self.common.emit(|| GossipEvent::Router { peer, event });
    }

    pub(super) fn name(&self, key: PeerKey) -> Option<PeerId> {
        *self.names.get(key.index())?
    }

    /// Leaves topics without subscribers.
    pub(super) fn sweep(&mut self, at: Instant) {
        for (name, topic) in &mut self.topics {
            let before = topic.queues.len();
            let dropped = &mut topic.dropped;
            topic.queues.retain(|queue| {
                if queue.is_closed() {
                    *dropped += queue.dropped();
                }
                !queue.is_closed()
            });
            if before > 0 && topic.queues.is_empty() {
                self.router.unsubscribe(at, name);
            }
        }
    }

    /// Adds a subscriber.
    pub(super) fn subscribe(
        &mut self,
        name: &str,
        options: SubscriptionOptions,
        core: barewire_gossip::SubscribeOptions,
    ) -> Result<(Arc<str>, Arc<Queue>), barewire_gossip::SubscribeError> {
        // One that has just been dropped counts no more.
        self.sweep(now());
        let name: Arc<str> = name.into();
        if self
            .topics
            .get(&name)
            .is_none_or(|topic| topic.queues.is_empty())
        {
            self.router.subscribe(now(), &name, core)?;
        }
        let queue = Queue::new(options);
        let topic = self.topics.entry(Arc::clone(&name)).or_default();
        topic.queues.push(Arc::clone(&queue));
        self.common.set_max_len(self.router.max_rpc_len());
        Ok((name, queue))
    }

    /// Sets what holds for a topic.
    pub(super) fn configure(
        &mut self,
        name: &str,
        mut config: TopicConfig,
    ) -> Result<(), barewire_gossip::ConfigError> {
        config.validate |= self
            .topics
            .get(name)
            .is_some_and(|topic| topic.validator.is_some());
        self.router.configure_topic(name, config)?;
        self.common.set_max_len(self.router.max_rpc_len());
        Ok(())
    }

    /// Sets or takes away the validator of a topic.
    pub(super) fn set_validator(&mut self, name: &str, validator: Option<Validator>) {
        let mut config = self.router.config().topic(name).clone();
        config.validate = validator.is_some();
        // What held before holds still.
        if self.router.configure_topic(name, config).is_ok() {
            let name: Arc<str> = name.into();
            self.topics.entry(Arc::clone(&name)).or_default().validator = validator;
            self.start_validating(now(), &name);
        }
    }

    /// Dials peers that others have offered.
    pub(super) fn dial_next(&mut self) {
        while self.dialling < self.config.exchange_dials
            && let Some(request) = self.exchange.pop_front()
        {
            let Some(endpoint) = self.endpoint.upgrade() else {
                return;
            };
            if endpoint.connection(&request.peer_id).is_some() {
                continue;
            }
            let addrs: Vec<_> = request
                .record
                .iter()
                .flat_map(|record| &record.addrs)
                .filter_map(|addr| addr.clone().without_peer().with_peer(request.peer_id).ok())
                .collect();
            let timeout = self.config.exchange_timeout;
            self.dialling += 1;
            self.work.spawn(async move {
                let peer = request.peer_id;
                let dialling = async {
                    if addrs.is_empty() {
                        endpoint.connect(peer).await
                    } else {
                        endpoint.connect(addrs).await
                    }
                };
                match tokio::time::timeout(timeout, dialling).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => {
                        tracing::debug!(%peer, %error, "an offered peer is not reached")
                    }
                    Err(_) => tracing::debug!(%peer, "an offered peer is not reached in time"),
                }
                Done::Dialled
            });
        }
    }

    /// Shows what was counted.
    fn tell(&mut self, at: Instant) {
        let metrics: Metrics = *self.router.metrics();
        if self.gauges_at <= at {
            self.gauges_at = at + GAUGES;
            self.touch();
            *self.common.snapshot.lock() = Snapshot::of(self, metrics);
        } else {
            self.common.snapshot.lock().counted = metrics;
        }
    }

    fn is_quiet(&mut self) -> bool {
        let writing = |peer: &Peer| matches!(peer.outbound, Outbound::Writing { .. });
        self.ready.is_empty()
            && self.router.sizes().queued_bytes == 0
            && !self.peers.values().any(writing)
    }

    /// Tells those who wait for everything to be written, when it is.
    pub(super) fn look_after_flushes(&mut self) {
        if !self.flushes.is_empty() && self.is_quiet() {
            for flush in self.flushes.drain(..) {
                // Who waited may have gone.
                let _ = flush.send(());
            }
        }
    }

    fn end(&mut self) {
        for peer in self.peers.values_mut() {
            peer.end();
        }
        for topic in self.topics.values() {
            topic.queues.iter().for_each(|queue| queue.close());
            topic.partials.iter().for_each(|queue| queue.close());
        }
    }

    /// Looks at all connections, because word of some may have been missed.
    fn find_peers(&mut self) {
        let Some(endpoint) = self.endpoint.upgrade() else {
            return;
        };
        let connected: BTreeSet<PeerId> = endpoint
            .connections()
            .iter()
            .map(Connection::peer_id)
            .collect();
        let gone: Vec<_> = self
            .peers
            .keys()
            .filter(|peer| !connected.contains(*peer))
            .copied()
            .collect();
        for peer in gone {
            self.disconnected(now(), peer);
        }
        for peer in connected {
            self.connected(peer);
        }
    }

    fn node_event(&mut self, at: Instant, event: events::Event) {
        use events::Event as E;
        match event {
            E::Connected { peer, .. } => self.connected(peer),
            E::Identified { info } => {
                let speaks = |version: &Version| info.speaks(version.protocol_id());
                if self.versions.iter().any(speaks) {
                    self.connected(info.peer_id);
                }
            }
            E::Disconnected {
                peer, last: true, ..
            } => self.disconnected(at, peer),
            E::Ping { peer, rtt } => {
                if let Some(key) = self.peers.get(&peer).and_then(|peer| peer.key) {
                    self.router.set_rtt(key, rtt);
                }
            }
            _ => {}
        }
    }

    /// The peer, known from now on.
    pub(super) fn entry(&mut self, peer: PeerId) -> &mut Peer {
        match self.peers.entry(peer) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Peer::default()),
        }
    }
}

/// The peer that an event is about.
fn key_of(event: &Event) -> Option<PeerKey> {
    match event {
        Event::Subscribed { peer, .. }
        | Event::Unsubscribed { peer, .. }
        | Event::Grafted { peer, .. }
        | Event::Pruned { peer, .. }
        | Event::Received { peer, .. }
        | Event::Rejected { peer, .. }
        | Event::Dropped { peer, .. }
        | Event::Penalty { peer, .. }
        | Event::Graylisted { peer, .. }
        | Event::Drained { peer }
        | Event::TestExtension { peer } => Some(*peer),
        _ => None,
    }
}
