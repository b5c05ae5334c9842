//! The network: nodes, links, and the loop that lets time pass.

mod check;
mod links;
mod nodes;

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use barewire_base::{PeerId, varint};
use barewire_gossip::{
    Acceptance, Author, Config, Delivery, Event, MessageHandle, MessageIdFn, Misbehaviour, Output,
    Payload, PeerKey, PruneReason, PublishOptions, Router, SignaturePolicy, SubscribeOptions,
};
use bytes::Bytes;

use crate::{
    Attack, Sample, Scenario, ScenarioError,
    link::Place,
    message::{self, Header},
    queue::Queue,
    report::{Log, Totals},
    rng::Rng,
    sybil::{Out, Sybil},
};

/// The topic of all.
const TOPIC: &str = "simulation";
/// Microseconds of bytes that a busy uplink takes ahead, as a socket's buffer would; what waits longer waits in the queue of the
/// router, where it can give way.
const AHEAD: u64 = 20_000;
/// Microseconds between the deeds of an active attacker.
const DEEDS: u64 = 100_000;
/// Mean seconds that a node which left is gone.
const GONE: f64 = 30.0;

const fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}

/// A network in virtual time. The same scenario gives the same numbers.
#[derive(Debug)]
pub struct Simulation {
    scenario: Scenario,
    config: Config,
    base: Instant,
    now: u64,
    queue: Queue<Happening>,
    rng: Rng,
    nodes: Vec<Node>,
    epochs: u32,
    log: Log,
    violations: Vec<String>,
}

#[derive(Debug)]
enum Happening {
    /// A node starts, or returns.
    Start(u32),
    Leave(u32),
    /// The first bit of a frame arrives.
    Arrives(Arrival),
    /// The last bit of a frame has arrived.
    Arrived(Arrival),
    Timer(u32),
    /// The uplink of a node takes more.
    Uplink(u32),
    Checked(u32, MessageHandle, Acceptance),
    Publish(u32),
    Deed(u32),
    Regraft {
        node: u32,
        link: u32,
        epoch: u32,
    },
}

#[derive(Debug)]
struct Arrival {
    to: u32,
    link: u32,
    epoch: u32,
    body: Payload,
}

#[derive(Debug)]
struct Node {
    id: PeerId,
    address: IpAddr,
    place: Place,
    mind: Mind,
    online: bool,
    /// By the index of the router's key.
    links: Vec<Option<Link>>,
    dials: Vec<u32>,
    dialled_by: Vec<u32>,
    timer: u64,
    uplink_free: u64,
    downlink_free: u64,
    processor_free: u64,
    /// Links that wait for the uplink.
    waiting: VecDeque<u32>,
    awaits_uplink: bool,
    /// Until when a peer must not be grafted, for the checks.
    backoffs: HashMap<u32, u64>,
    /// Seconds at which the mesh was too small, in a row.
    thin: u32,
}

#[derive(Debug)]
enum Mind {
    /// Not started.
    None,
    Router(Box<Router>),
    Sybil(Box<Sybil>),
}

#[derive(Debug)]
struct Link {
    peer: u32,
    /// Index of the link at the peer.
    back: u32,
    /// Of the connection: frames of an earlier one are lost.
    epoch: u32,
    key: Option<PeerKey>,
    outbound: bool,
    since: u64,
    way: u64,
    last_arrival: u64,
}

impl Simulation {
    /// A network whose nodes have yet to start.
    ///
    /// # Errors
    /// [`ScenarioError`].
    pub fn new(scenario: Scenario) -> Result<Self, ScenarioError> {
        scenario.validate()?;
        let mut config = scenario.router.clone();
        config.signature_policy = SignaturePolicy::StrictNoSign;
        config.topic_defaults.message_id = MessageIdFn::DataPrefix(message::ID);
        let invalid = scenario.sybils.is_some_and(|s| s.attack == Attack::Invalid);
        config.topic_defaults.validate = invalid || !scenario.verification.is_zero();
        config.topics.clear();
        config.validate()?;
        let mut rng = Rng::new(scenario.seed);
        let nodes = nodes::make(&scenario, &mut rng);
        let mut queue = Queue::new();
        for at in 0..nodes.len() {
            let (start, spread) = match scenario.sybils.filter(|_| at >= scenario.nodes) {
                Some(sybils) => (sybils.start, 5_000_000),
                None => (scenario.start, 1_000_000),
            };
            queue.push(
                micros(start) + rng.below(spread) as u64,
                Happening::Start(at as u32),
            );
        }
        queue.push(micros(scenario.warmup), Happening::Publish(0));
        Ok(Self {
            log: Log::new(scenario.nodes),
            base: Instant::now(),
            now: 0,
            epochs: 0,
            violations: Vec::new(),
            scenario,
            config,
            queue,
            rng,
            nodes,
        })
    }

    /// Lets all the time pass. `each_second` is called at each virtual second, to show progress; return `false` to stop.
    pub fn run_with(&mut self, mut each_second: impl FnMut(&Self) -> bool) {
        let end = micros(self.scenario.end());
        let warm = micros(self.scenario.warmup);
        let mut second = self.now;
        while self.now < end {
            second = (second + 1_000_000).min(end);
            while let Some((at, happening)) = self.queue.pop(second) {
                if self.now < warm && at >= warm {
                    self.log.warm = self.totals();
                }
                // What was late for its slot happens now.
                self.now = self.now.max(at);
                self.happen(happening);
            }
            self.now = second;
            let sample = self.sample();
            self.log.samples.push(sample);
            if self.scenario.checked {
                self.check();
            }
            if !each_second(self) {
                break;
            }
        }
        self.log.end = self.totals();
        self.log.events = self.queue.added();
    }

    /// Lets all the time pass.
    pub fn run(&mut self) {
        self.run_with(|_| true);
    }

    /// The virtual time.
    #[must_use]
    pub const fn now(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    /// Events so far.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.queue.added()
    }

    /// What is simulated.
    #[must_use]
    pub const fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// What happened.
    #[must_use]
    pub const fn log(&self) -> &Log {
        &self.log
    }

    /// What routers did that they must not, if [`Scenario::checked`]; the first hundred.
    #[must_use]
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Sybils in the mesh of an honest node, and members in all.
    #[must_use]
    pub fn mesh_of(&self, node: usize) -> (usize, usize) {
        let Some(Mind::Router(router)) = self.nodes.get(node).map(|n| &n.mind) else {
            return (0, 0);
        };
        let mesh = router.mesh_peers(TOPIC);
        let sybils = mesh
            .iter()
            .filter(|key| self.is_sybil(self.peer_at(node, **key)));
        (sybils.count(), mesh.len())
    }

    fn instant(&self) -> Instant {
        self.base + Duration::from_micros(self.now)
    }

    const fn is_sybil(&self, node: u32) -> bool {
        node as usize >= self.scenario.nodes
    }

    fn peer_at(&self, node: usize, key: PeerKey) -> u32 {
        let link = self.nodes[node].links.get(key.index());
        link.and_then(Option::as_ref)
            .map_or(u32::MAX, |link| link.peer)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Start(node) => self.start(node),
            Happening::Leave(node) => self.leave(node),
            Happening::Arrives(arrival) => self.arrives(arrival),
            Happening::Arrived(arrival) => self.arrived(&arrival),
            Happening::Timer(node) => self.timer(node),
            Happening::Uplink(node) => self.uplink(node),
            Happening::Checked(node, handle, acceptance) => {
                let now = self.instant();
                if let Mind::Router(router) = &mut self.nodes[node as usize].mind {
                    router.validated(now, handle, acceptance);
                    self.flush(node);
                }
            }
            Happening::Publish(number) => self.publish(number),
            Happening::Deed(node) => self.deed(node),
            Happening::Regraft { node, link, epoch } => self.regraft(node, link, epoch),
        }
    }

    fn start(&mut self, node: u32) {
        let now = self.instant();
        let at = node as usize;
        if matches!(self.nodes[at].mind, Mind::None) {
            self.nodes[at].mind = match self.scenario.sybils.filter(|_| self.is_sybil(node)) {
                Some(sybils) => Mind::Sybil(Box::new(Sybil::new(&sybils, TOPIC, u64::from(node)))),
                None => {
                    let seed = self.rng.next();
                    let Ok(mut router) =
                        Router::new(self.config.clone(), self.nodes[at].id, seed, now)
                    else {
                        // Checked when the simulation was made.
                        return;
                    };
                    // A topic of a new router.
                    let _ = router.subscribe(now, TOPIC, SubscribeOptions::default());
                    Mind::Router(Box::new(router))
                }
            };
            if let Mind::Sybil(sybil) = &self.nodes[at].mind
                && sybil.acts()
            {
                let phase = self.rng.below(DEEDS as usize) as u64;
                self.queue.push(self.now + phase, Happening::Deed(node));
            }
        }
        self.nodes[at].online = true;
        self.log.came(node, self.now);
        if self.scenario.churn > 0.0 && !self.is_sybil(node) {
            let stay = self.rng.exponential(60.0 / self.scenario.churn);
            self.queue
                .push(self.now + (stay * 1e6) as u64, Happening::Leave(node));
        }
        for to in self.nodes[at].dials.clone() {
            self.connect(node, to);
        }
        for from in self.nodes[at].dialled_by.clone() {
            self.connect(from, node);
        }
        self.set_timer(node);
    }

    fn leave(&mut self, node: u32) {
        self.nodes[node as usize].online = false;
        self.log.left(node, self.now);
        for link in 0..self.nodes[node as usize].links.len() as u32 {
            self.disconnect(node, link);
        }
        let gone = 1.0 + self.rng.exponential(GONE - 1.0);
        self.queue
            .push(self.now + (gone * 1e6) as u64, Happening::Start(node));
    }

    fn set_timer(&mut self, node: u32) {
        let at = node as usize;
        let Mind::Router(router) = &self.nodes[at].mind else {
            return;
        };
        let Some(due) = router.poll_timeout() else {
            return;
        };
        let due = micros(due.saturating_duration_since(self.base)).max(self.now);
        let set = self.nodes[at].timer;
        if set <= self.now || due < set {
            self.nodes[at].timer = due.max(self.now + 1);
            self.queue
                .push(self.nodes[at].timer, Happening::Timer(node));
        }
    }

    fn timer(&mut self, node: u32) {
        let now = self.instant();
        let at = node as usize;
        if self.nodes[at].timer != self.now {
            return;
        }
        if let Mind::Router(router) = &mut self.nodes[at].mind {
            router.handle_timeout(now);
            self.flush(node);
            self.set_timer(node);
        }
    }

    /// Does what a router asks for.
    fn flush(&mut self, node: u32) {
        loop {
            let Mind::Router(router) = &mut self.nodes[node as usize].mind else {
                return;
            };
            match router.poll_output() {
                None => return,
                Some(Output::Ready(key)) => self.send(node, key.index() as u32),
                Some(Output::Validate(delivery)) => self.validate(node, &delivery),
                Some(Output::Deliver(delivery)) => match Header::read(&delivery.data()) {
                    Some(header) if header.number < message::INVALID => {
                        self.log.delivered(header.number as u32, node, self.now);
                    }
                    _ => self.log.invalid_delivered += 1,
                },
                Some(Output::Event(event)) => self.observe(node, &event),
                Some(_) => {}
            }
        }
    }

    fn validate(&mut self, node: u32, delivery: &Delivery) {
        let valid = Header::read(&delivery.data()).is_some_and(|h| h.number < message::INVALID);
        let acceptance = if valid {
            Acceptance::Accept
        } else {
            Acceptance::Reject
        };
        let free = &mut self.nodes[node as usize].processor_free;
        *free = (*free).max(self.now) + micros(self.scenario.verification);
        self.queue
            .push(*free, Happening::Checked(node, delivery.handle, acceptance));
    }

    fn observe(&mut self, node: u32, event: &Event) {
        let at = node as usize;
        match event {
            Event::Penalty { peer, kind } => {
                if self.is_sybil(self.peer_at(at, *peer)) {
                    self.log.sybil_penalties += 1;
                } else {
                    self.log.honest_penalties += 1;
                    if self.scenario.sybils.is_none() && *kind == Misbehaviour::GraftInBackoff {
                        self.violated(format!("{node} was grafted during a backoff"));
                    }
                }
            }
            Event::Graylisted { peer, .. } => {
                let peer = self.peer_at(at, *peer);
                if self.is_sybil(peer) {
                    self.log.sybils_graylisted(peer, self.now);
                } else {
                    self.log.honest_graylisted += 1;
                }
            }
            Event::Dropped { .. } => self.log.dropped += 1,
            Event::Pruned { peer, reason, .. } if self.scenario.checked => {
                let backoff = match reason {
                    PruneReason::Unsubscribed | PruneReason::Disconnected => return,
                    PruneReason::Left => self.config.unsubscribe_backoff,
                    _ => self.config.prune_backoff,
                };
                let peer = self.peer_at(at, *peer);
                let until = self.now + micros(backoff);
                self.nodes[at].backoffs.insert(peer, until);
            }
            Event::Grafted {
                peer,
                by_peer: false,
                ..
            } if self.scenario.checked => {
                let peer = self.peer_at(at, *peer);
                let until = self.nodes[at]
                    .backoffs
                    .get(&peer)
                    .copied()
                    .unwrap_or_default();
                if self.now < until {
                    self.violated(format!(
                        "{node} grafted {peer} {} µs early",
                        until - self.now
                    ));
                }
            }
            _ => {}
        }
    }

    /// Sends what a sybil says.
    fn say(&mut self, node: u32, out: Vec<(u32, Bytes)>) {
        for (link, body) in out {
            let len = body.len() + varint::encoded_len(body.len() as u64);
            self.transmit(node, link, body.into(), len);
        }
    }

    fn deed(&mut self, node: u32) {
        let entry = &mut self.nodes[node as usize];
        let links: Vec<u32> = (0..entry.links.len() as u32)
            .filter(|l| entry.links[*l as usize].is_some())
            .collect();
        if let Mind::Sybil(sybil) = &mut entry.mind {
            let mut out = Out::new();
            sybil.act(self.now, &links, &mut out);
            self.say(node, out);
            self.queue.push(self.now + DEEDS, Happening::Deed(node));
        }
    }

    fn regraft(&mut self, node: u32, link: u32, epoch: u32) {
        let entry = &mut self.nodes[node as usize];
        let same = entry
            .links
            .get(link as usize)
            .and_then(Option::as_ref)
            .is_some_and(|l| l.epoch == epoch);
        if let Mind::Sybil(sybil) = &mut entry.mind
            && same
        {
            let graft = sybil.regraft(link);
            self.say(node, vec![(link, graft)]);
        }
    }

    fn publish(&mut self, number: u32) {
        let next = micros(self.scenario.warmup)
            + (f64::from(number + 1) * 1e6 / self.scenario.rate) as u64;
        if next < micros(self.scenario.warmup + self.scenario.publishing) {
            self.queue.push(next, Happening::Publish(number + 1));
        }
        let publishers = match self.scenario.publishers {
            0 => self.scenario.nodes,
            count => count,
        };
        // Who is away, or knows no peer of the topic yet, is passed over: the node's `publish` would wait.
        let first = number as usize % publishers;
        let publisher = (0..publishers)
            .map(|step| (first + step) % publishers)
            .find(|at| {
                let node = &self.nodes[*at];
                let reachable = |router: &Router| router.reachable(TOPIC) > 0;
                node.online && matches!(&node.mind, Mind::Router(router) if reachable(router))
            });
        self.log
            .published(number, publisher.map_or(u32::MAX, |p| p as u32), self.now);
        let Some(publisher) = publisher else {
            return;
        };
        let header = Header {
            number: u64::from(number),
            publisher: publisher as u32,
        };
        let payload = header.payload(self.scenario.size);
        let message = Author::anonymous().message(TOPIC, payload.into());
        let now = self.instant();
        if let Mind::Router(router) = &mut self.nodes[publisher].mind {
            // The number is new and the payload within the limits.
            let _ = router.publish(now, &message, PublishOptions::default());
            self.flush(publisher as u32);
        }
    }

    fn routers(&self) -> impl Iterator<Item = (usize, &Node, &Router)> {
        self.nodes
            .iter()
            .enumerate()
            .filter_map(|(at, node)| match &node.mind {
                Mind::Router(router) if node.online => Some((at, node, &**router)),
                _ => None,
            })
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for node in &self.nodes {
            if let Mind::Router(router) = &node.mind {
                totals.add(router.metrics());
            }
        }
        totals
    }

    fn sample(&self) -> Sample {
        let mut sample = Sample {
            at: self.now(),
            mesh_min: usize::MAX,
            ..Sample::default()
        };
        let (mut nodes, mut members) = (0, 0);
        for (at, _, router) in self.routers() {
            let mesh = router.mesh_peers(TOPIC);
            nodes += 1;
            members += mesh.len();
            sample.mesh_min = sample.mesh_min.min(mesh.len());
            sample.mesh_max = sample.mesh_max.max(mesh.len());
            if self.scenario.sybils.is_some() {
                sample.sybils += mesh
                    .iter()
                    .filter(|key| self.is_sybil(self.peer_at(at, **key)))
                    .count();
            }
        }
        sample.members = members;
        sample.nodes = nodes;
        if nodes == 0 {
            sample.mesh_min = 0;
        }
        sample
    }

    fn violated(&mut self, what: String) {
        if self.violations.len() < 100 {
            self.violations.push(format!("{:?}: {what}", self.now()));
        }
    }
}

impl Mind {
    const fn is_router(&self) -> bool {
        matches!(self, Self::Router(_))
    }
}
