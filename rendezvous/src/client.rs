//! The client: registered at every point, and asking each who else is there.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use barewire_base::{Multiaddr, PeerId, peer_record::PeerRecord};
use bytes::Bytes;

use crate::{Answer, Form, MAX_NAMESPACE, Registration, Request, Status};

/// Longest cookie kept; go's are the longest with 40 bytes, ours have up to 263.
const MAX_COOKIE: usize = 1_024;
/// First pause after a request that failed; doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause after requests that failed.
const MAX_PAUSE: Duration = Duration::from_secs(120);
/// The time to live that every point gives: rust-libp2p's least, canvas' greatest.
const COMMON_TTL: u64 = 7_200;
/// Shortest time a registration is taken to last.
const MIN_TTL: Duration = Duration::from_secs(1);

/// Settings of a [`Client`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientConfig {
    /// Namespaces to register in and to ask for.
    pub namespaces: Vec<String>,
    /// Whether to register. Default yes.
    pub register: bool,
    /// Whether to ask who is there. Default yes.
    pub discover: bool,
    /// Time to live to ask for. Default 2 h, the specification's; a point that does not give another is asked
    /// for 2 h.
    pub ttl: Duration,
    /// Time between two looks at who is there, give or take a fifth. Default 2 min, as go's client.
    pub poll_interval: Duration,
    /// Registrations asked for at once. Default 200, as go's client.
    pub limit: u64,
    /// Pages of that size taken at one look. Default 50 (own choice: ten thousand peers).
    pub max_pages: u32,
    /// Peers remembered so that they are told once. Default 1,000, as many as the peer book holds.
    pub max_known: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            namespaces: Vec::new(),
            register: true,
            discover: true,
            ttl: Duration::from_secs(COMMON_TTL),
            poll_interval: Duration::from_secs(120),
            limit: 200,
            max_pages: 50,
            max_known: 1_000,
        }
    }
}

/// Why there can be no client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// A namespace is empty or longer than 255 bytes.
    #[error("`{0}` is not a namespace: it must have 1 to 255 bytes")]
    Namespace(String),
    /// There is nothing to be in.
    #[error("no namespace is given")]
    NoNamespace,
}

/// A point, by its place in the order given to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointId(pub usize);

/// A request to send on a stream of its own; [`Client::answered`] or [`Client::failed`] has to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// To whom.
    pub point: PointId,
    /// What.
    pub request: Request,
}

/// Why a request got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// The stream was ended or reset instead: rust-libp2p does so when it cannot read a record.
    Ended,
    /// Anything else: no stream, no time, an answer that is none.
    Other,
}

/// A peer that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Discovered {
    /// Who told.
    pub point: PointId,
    /// In which namespace.
    pub ns: String,
    /// The peer.
    pub peer: PeerId,
    /// Its addresses, signed by it.
    pub addrs: Vec<Multiaddr>,
    /// How long it is registered, as far as the point says.
    pub ttl: Duration,
}

/// What a client wants or tells.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// To be sent.
    Send(Outgoing),
    /// Registered, or registered anew.
    Registered {
        /// With whom.
        point: PointId,
        /// Where.
        ns: String,
        /// For how long.
        ttl: Duration,
    },
    /// Not told before, or with a newer record.
    Discovered(Discovered),
    /// A point refused; it will be asked again.
    Refused {
        /// Who.
        point: PointId,
        /// Where.
        ns: String,
        /// Why.
        status: Status,
        /// Why, in words of the point.
        text: String,
    },
}

/// What is to be done at one point for one namespace.
#[derive(Debug, Clone)]
struct Desk {
    register_at: Option<Instant>,
    poll_at: Option<Instant>,
    cookie: Bytes,
    pages: u32,
    failures: u32,
    /// The standard form is registered, and the legacy one is next.
    second: bool,
}

#[derive(Debug)]
struct Point {
    connected: bool,
    takes_both: bool,
    form: Form,
    /// The form was changed since the last success.
    tried_both: bool,
    common_ttl: bool,
    desks: Vec<Desk>,
    /// The namespace of the request that runs, and whether it is REGISTER.
    waits_for: Option<(usize, bool)>,
}

/// Keeps a node registered and finds others. Reads no clock and sends nothing by itself: drain
/// [`poll_output`](Self::poll_output) after each call and at [`poll_timeout`](Self::poll_timeout).
///
/// One request runs at each point. A registration is renewed after three quarters of its time, give or take a
/// tenth, and at once when the point is connected anew or the record has changed.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    own: PeerId,
    points: Vec<Point>,
    /// As go- and js-libp2p read it, and as rust-libp2p does; `None` while there is no address.
    records: Option<[Bytes; 2]>,
    known: HashMap<(PeerId, usize), Known>,
    known_order: VecDeque<(PeerId, usize)>,
    told: VecDeque<Output>,
    random: u64,
}

#[derive(Debug)]
struct Known {
    seq: u64,
    until: Instant,
}

impl Client {
    /// A client of so many points, none of which is connected. `seed` is any random number.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn new(
        config: ClientConfig,
        own: PeerId,
        points: usize,
        seed: u64,
    ) -> Result<Self, ClientError> {
        if config.namespaces.is_empty() {
            return Err(ClientError::NoNamespace);
        }
        let wrong = |ns: &&String| ns.is_empty() || ns.len() > MAX_NAMESPACE;
        if let Some(ns) = config.namespaces.iter().find(wrong) {
            return Err(ClientError::Namespace(ns.clone()));
        }
        let desk = Desk {
            register_at: None,
            poll_at: None,
            cookie: Bytes::new(),
            pages: 0,
            failures: 0,
            second: false,
        };
        let point = || Point {
            connected: false,
            takes_both: false,
            form: Form::Standard,
            tried_both: false,
            common_ttl: false,
            desks: vec![desk.clone(); config.namespaces.len()],
            waits_for: None,
        };
        Ok(Self {
            points: (0..points).map(|_| point()).collect(),
            config,
            own,
            records: None,
            known: HashMap::new(),
            known_order: VecDeque::new(),
            told: VecDeque::new(),
            random: seed,
        })
    }

    /// What to register from now on, signed as go- and js-libp2p read it and as rust-libp2p does; `None`
    /// for nothing. A point that does not take the one is given the other.
    pub fn set_records(&mut self, now: Instant, records: Option<[Bytes; 2]>) {
        self.records = records;
        for desk in self.points.iter_mut().flat_map(|point| &mut point.desks) {
            (desk.register_at, desk.second) = (Some(now), false);
        }
    }

    /// A point can be asked now. One that `takes_both` forms of a record beside each other, as barewire's, is given both,
    /// so that everybody there can read one.
    pub fn connected(&mut self, now: Instant, point: PointId, takes_both: bool) {
        let Some(point) = self.points.get_mut(point.0) else {
            return;
        };
        point.connected = true;
        point.takes_both = takes_both;
        point.waits_for = None;
        for desk in &mut point.desks {
            (desk.register_at, desk.poll_at) = (Some(now), Some(now));
            (desk.failures, desk.pages, desk.second) = (0, 0, false);
        }
    }

    /// A point is gone, and with it what was asked.
    pub fn disconnected(&mut self, point: PointId) {
        if let Some(point) = self.points.get_mut(point.0) {
            point.connected = false;
            point.waits_for = None;
        }
    }

    /// What is wanted or told now; `None` until something happens or the time of
    /// [`poll_timeout`](Self::poll_timeout) has come.
    pub fn poll_output(&mut self, now: Instant) -> Option<Output> {
        if let Some(told) = self.told.pop_front() {
            return Some(told);
        }
        (0..self.points.len()).find_map(|index| self.next_request(now, index).map(Output::Send))
    }

    /// When something is to be sent, if no answer comes before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let idle = |point: &&Point| point.connected && point.waits_for.is_none();
        let desks = self
            .points
            .iter()
            .filter(idle)
            .flat_map(|point| &point.desks);
        desks
            .filter_map(|desk| match (self.registering(desk), self.polling(desk)) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            })
            .min()
    }

    /// The point has answered what was sent last.
    pub fn answered(&mut self, now: Instant, point: PointId, answer: Answer) {
        let Some(waited) = self.take_wait(point) else {
            return;
        };
        match (waited, answer) {
            ((desk, true), Answer::Register { status, text, ttl }) => {
                self.registered(now, point, desk, (status, text), ttl);
            }
            (
                (desk, false),
                Answer::Discover {
                    status,
                    text,
                    registrations,
                    cookie,
                },
            ) => {
                if status == Status::Ok {
                    self.discovered(now, point, desk, registrations, cookie);
                } else {
                    self.discover_refused(now, point, desk, status, text);
                }
            }
            ((desk, registering), _) => self.retry(now, point, desk, registering),
        }
    }

    /// What was sent last got no answer.
    pub fn failed(&mut self, now: Instant, point: PointId, why: Failed) {
        let Some((desk, registering)) = self.take_wait(point) else {
            return;
        };
        if registering && why == Failed::Ended && self.change_form(point) {
            return self.again(now, point, desk, true);
        }
        self.retry(now, point, desk, registering);
    }

    /// Whether a point has this node's registration in every namespace, as far as is known.
    #[must_use]
    pub fn is_registered(&self, point: PointId, now: Instant) -> bool {
        self.points.get(point.0).is_some_and(|point| {
            let due = |desk: &Desk| desk.register_at.is_none_or(|at| at <= now);
            point.connected && !point.desks.iter().any(due)
        })
    }

    fn registering(&self, desk: &Desk) -> Option<Instant> {
        let wanted = self.config.register && self.records.is_some();
        desk.register_at.filter(|_| wanted)
    }

    fn polling(&self, desk: &Desk) -> Option<Instant> {
        desk.poll_at.filter(|_| self.config.discover)
    }

    /// Registering comes first: whoever comes later then finds this node.
    fn next_request(&mut self, now: Instant, index: usize) -> Option<Outgoing> {
        let point = self.points.get(index)?;
        if !point.connected || point.waits_for.is_some() {
            return None;
        }
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let desks = || point.desks.iter().enumerate();
        let register = desks().find(|(_, desk)| due(self.registering(desk)));
        let poll = || desks().find(|(_, desk)| due(self.polling(desk)));
        let (at, registering) = match register {
            Some((at, _)) => (at, true),
            None => (poll()?.0, false),
        };
        let ns = Bytes::copy_from_slice(self.config.namespaces.get(at)?.as_bytes());
        let request = if registering {
            let [standard, legacy] = self.records.as_ref()?;
            let second = point.desks.get(at).is_some_and(|desk| desk.second);
            let record = match point.form {
                Form::Standard if !second => standard,
                _ => legacy,
            };
            let ttl = if point.common_ttl {
                COMMON_TTL
            } else {
                self.config.ttl.as_secs()
            };
            let record = record.clone();
            Request::Register { ns, record, ttl }
        } else {
            Request::Discover {
                ns,
                limit: self.config.limit,
                cookie: point.desks.get(at)?.cookie.clone(),
            }
        };
        self.points.get_mut(index)?.waits_for = Some((at, registering));
        let point = PointId(index);
        Some(Outgoing { point, request })
    }

    fn take_wait(&mut self, point: PointId) -> Option<(usize, bool)> {
        self.points.get_mut(point.0)?.waits_for.take()
    }

    fn registered(
        &mut self,
        now: Instant,
        point: PointId,
        at: usize,
        (status, text): (Status, String),
        ttl: u64,
    ) {
        match status {
            Status::Ok => {
                let ttl = Duration::from_secs(ttl.min(u32::MAX.into())).max(MIN_TTL);
                let renew = now + ttl.mul_f64(0.75 * self.jitter(0.1));
                let mut both = false;
                if let Some(point) = self.points.get_mut(point.0) {
                    point.tried_both = false;
                    both = point.takes_both && matches!(point.form, Form::Standard);
                }
                if let Some(desk) = self.desk(point, at) {
                    desk.failures = 0;
                    desk.second = both && !desk.second;
                    if desk.second {
                        return self.again(now, point, at, true);
                    }
                    desk.register_at = Some(renew);
                }
                let ns = self.namespace(at);
                self.told.push_back(Output::Registered { point, ns, ttl });
            }
            Status::InvalidSignedPeerRecord if self.change_form(point) => {
                self.again(now, point, at, true);
            }
            Status::InvalidTtl if self.change_ttl(point) => self.again(now, point, at, true),
            status => {
                self.tell_refused(point, at, status, text);
                self.retry(now, point, at, true);
            }
        }
    }

    fn discover_refused(
        &mut self,
        now: Instant,
        point: PointId,
        at: usize,
        status: Status,
        text: String,
    ) {
        let cookie = self
            .desk(point, at)
            .map(|desk| std::mem::take(&mut desk.cookie));
        // The point was restarted, most likely.
        if status == Status::InvalidCookie && cookie.is_some_and(|cookie| !cookie.is_empty()) {
            return self.again(now, point, at, false);
        }
        self.tell_refused(point, at, status, text);
        self.retry(now, point, at, false);
    }

    fn discovered(
        &mut self,
        now: Instant,
        point: PointId,
        at: usize,
        registrations: Vec<Registration>,
        cookie: Bytes,
    ) {
        let limit = usize::try_from(self.config.limit)
            .unwrap_or(usize::MAX)
            .max(1);
        let full = registrations.len() >= limit;
        let ns = self.namespace(at);
        for registration in registrations.into_iter().take(limit) {
            self.found(now, point, at, &ns, &registration);
        }
        let pause = self.config.poll_interval.mul_f64(self.jitter(0.2));
        let max_pages = self.config.max_pages;
        let Some(desk) = self.desk(point, at) else {
            return;
        };
        desk.failures = 0;
        desk.pages += 1;
        let moved = desk.cookie != cookie && !cookie.is_empty() && cookie.len() <= MAX_COOKIE;
        if moved {
            desk.cookie = Bytes::copy_from_slice(&cookie);
        }
        // A point whose cookie does not move on has no second page.
        let more = full && moved && desk.pages < max_pages;
        if !more {
            desk.pages = 0;
        }
        desk.poll_at = Some(if more { now } else { now + pause });
    }

    /// Takes what a point says of a peer, if the peer has signed it.
    fn found(
        &mut self,
        now: Instant,
        point: PointId,
        at: usize,
        ns: &str,
        registration: &Registration,
    ) {
        // waku's go point leaves out the namespace that was asked for.
        if !registration.ns.is_empty() && registration.ns != ns.as_bytes() {
            return;
        }
        let Ok(PeerRecord {
            peer_id: peer,
            seq,
            addrs,
        }) = PeerRecord::from_envelope(&registration.record)
        else {
            return;
        };
        if peer == self.own || addrs.is_empty() {
            return;
        }
        let ttl = Duration::from_secs(registration.ttl.min(u32::MAX.into()));
        let until = now + ttl;
        let key = (peer, at);
        match self.known.get_mut(&key) {
            Some(known) if known.until > now && known.seq >= seq => {
                known.until = known.until.max(until);
                return;
            }
            Some(known) => *known = Known { seq, until },
            None => {
                self.known.insert(key, Known { seq, until });
                self.known_order.push_back(key);
                if self.known_order.len() > self.config.max_known.max(1)
                    && let Some(oldest) = self.known_order.pop_front()
                {
                    self.known.remove(&oldest);
                }
            }
        }
        self.told.push_back(Output::Discovered(Discovered {
            point,
            ns: ns.to_owned(),
            peer,
            addrs,
            ttl,
        }));
    }

    /// Whether another form of the record is worth a try.
    fn change_form(&mut self, point: PointId) -> bool {
        let Some(point) = self.points.get_mut(point.0) else {
            return false;
        };
        point.form = match point.form {
            Form::Standard => Form::Legacy,
            Form::Legacy => Form::Standard,
        };
        !std::mem::replace(&mut point.tried_both, true)
    }

    /// Whether another time to live is worth a try.
    fn change_ttl(&mut self, point: PointId) -> bool {
        let asked = self.config.ttl.as_secs();
        self.points.get_mut(point.0).is_some_and(|point| {
            asked != COMMON_TTL && !std::mem::replace(&mut point.common_ttl, true)
        })
    }

    fn again(&mut self, now: Instant, point: PointId, at: usize, registering: bool) {
        if let Some(desk) = self.desk(point, at) {
            let due = if registering {
                &mut desk.register_at
            } else {
                &mut desk.poll_at
            };
            *due = Some(now);
        }
    }

    fn retry(&mut self, now: Instant, point: PointId, at: usize, registering: bool) {
        let jitter = self.jitter(0.2);
        let Some(desk) = self.desk(point, at) else {
            return;
        };
        desk.failures = desk.failures.saturating_add(1);
        (desk.pages, desk.second) = (0, false);
        let exact = FIRST_PAUSE * (1 << (desk.failures - 1).min(7));
        let after = now + exact.min(MAX_PAUSE).mul_f64(jitter);
        self.again(after, point, at, registering);
    }

    fn tell_refused(&mut self, point: PointId, at: usize, status: Status, text: String) {
        let ns = self.namespace(at);
        self.told.push_back(Output::Refused {
            point,
            ns,
            status,
            text,
        });
    }

    fn namespace(&self, at: usize) -> String {
        self.config.namespaces.get(at).cloned().unwrap_or_default()
    }

    fn desk(&mut self, point: PointId, at: usize) -> Option<&mut Desk> {
        self.points.get_mut(point.0)?.desks.get_mut(at)
    }

    /// From `1 - by` to `1 + by`.
    fn jitter(&mut self, by: f64) -> f64 {
        // SplitMix64: the spread is all that counts here.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let unit = ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
        1.0 - by + 2.0 * by * unit
    }
}

#[cfg(test)]
mod tests;
