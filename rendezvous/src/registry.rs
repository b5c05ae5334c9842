//! The registry of a point.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use barewire_base::{PeerId, envelope::SignedEnvelope, peer_record::PeerRecord};
use bytes::Bytes;

use crate::{
    Answer, Limits, MAX_NAMESPACE, Registration, Request, Status,
    cookie::{Cookies, MAX_COUNTER},
    log::Log,
    peers::{Network, Networks},
};

/// Registrations that expire in one call.
const EXPIRE_AT_ONCE: usize = 4_096;
/// Room in an answer for all but the registrations.
const ANSWER_HEAD: usize = 1_024;

/// What a record is signed as. Implementations read one or the other: rust-libp2p alone the legacy form, and
/// one record in an answer that it cannot read is the end of that answer for it, and for js too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// As go- and js-libp2p sign it.
    Standard,
    /// As rust-libp2p does.
    Legacy,
}

impl Form {
    /// Of the envelope of a record.
    fn of(record: &[u8]) -> Self {
        let envelope = SignedEnvelope::decode(record);
        // The two bytes are the standard's payload type.
        if envelope.is_ok_and(|envelope| envelope.payload_type() != [3, 1]) {
            Self::Legacy
        } else {
            Self::Standard
        }
    }
}

/// A signed record, verified, in one form or both.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Records {
    /// Its sequence number.
    pub seq: u64,
    /// In the standard form; empty if it is not known.
    pub standard: Bytes,
    /// In the legacy form; empty if it is not known.
    pub legacy: Bytes,
}

impl Records {
    /// Bytes of both forms.
    pub(crate) fn len(&self) -> usize {
        self.standard.len() + self.legacy.len()
    }

    fn has(&self, record: &Bytes) -> bool {
        self.standard == *record || self.legacy == *record
    }

    /// For whom reads `reads`, or both.
    fn readable(&self, reads: Option<Form>) -> &Bytes {
        match reads {
            Some(Form::Legacy) => &self.legacy,
            None if self.standard.is_empty() => &self.legacy,
            _ => &self.standard,
        }
    }

    /// Takes a record. Of another with the same number the other form stays: it is the same record.
    fn put(&mut self, seq: u64, form: Form, record: Bytes) {
        if self.seq != seq {
            *self = Self {
                seq,
                ..Self::default()
            };
        }
        match form {
            Form::Standard => self.standard = record,
            Form::Legacy => self.legacy = record,
        }
    }
}

/// What a [`RegistrationStore`](crate::RegistrationStore) keeps of a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Who is registered.
    pub peer: PeerId,
    /// Where; UTF-8.
    pub ns: Bytes,
    /// The signed record.
    pub records: Records,
    /// How long it still counts.
    pub ttl: Duration,
}

/// A difference between the registry and what is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// New, or instead of the one of the same peer and namespace.
    Put(Stored),
    /// Gone.
    Remove {
        /// Whose.
        peer: PeerId,
        /// Where.
        ns: Bytes,
    },
}

struct Slot {
    peer: PeerId,
    ns: Bytes,
    records: Records,
    network: Option<Network>,
    /// Where it is in the log of its namespace and in that of all.
    place: u64,
    place_in_all: u64,
    /// Microseconds since the beginning.
    expires: u64,
    /// When its one timer goes off: then or earlier.
    timer: u64,
}

/// Who is registered where. Answers requests; reads no clock, and never grows past its [`Limits`].
///
/// A refresh replaces what is there. It takes constant time whatever is registered: it moves in the
/// order of registrations, and its timer is only set anew when it goes off.
pub struct Registry {
    limits: Limits,
    cookies: Cookies,
    begun: Instant,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    peers: HashMap<PeerId, Vec<u32>>,
    namespaces: HashMap<Bytes, Log>,
    all: Log,
    networks: Networks,
    timers: BTreeSet<(u64, u32)>,
    /// Of the last registration or refresh.
    counter: u64,
    bytes: usize,
    changes: Vec<Change>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("registrations", &self.len())
            .field("namespaces", &self.namespaces.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// A refusal: the status and why.
type Refused = (Status, &'static str);

impl Registry {
    /// An empty registry. `key` has to be secret and new: cookies are made with it.
    #[must_use]
    pub fn new(limits: Limits, key: [u8; 32], now: Instant) -> Self {
        Self {
            networks: Networks::new(&limits),
            limits,
            cookies: Cookies::new(key),
            begun: now,
            slots: Vec::new(),
            free: Vec::new(),
            peers: HashMap::new(),
            namespaces: HashMap::new(),
            all: Log::default(),
            timers: BTreeSet::new(),
            counter: 0,
            bytes: 0,
            changes: Vec::new(),
        }
    }

    /// Takes what was stored, as far as there is room, without looking at signatures again. Until they
    /// are refreshed these count for no address.
    pub fn load(&mut self, now: Instant, stored: impl IntoIterator<Item = Stored>) {
        let now = self.micros(now);
        for Stored {
            peer,
            ns,
            records,
            ttl,
        } in stored
        {
            let room = self.len() < self.limits.max_total
                && records.len() <= self.limits.max_bytes - self.bytes;
            if room && self.find(&peer, &ns).is_none() {
                self.put(now, peer, ns, records, None, ttl);
            }
        }
        self.changes.clear();
    }

    /// Registrations, those that have just expired included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether nobody is registered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Namespaces with a registration.
    #[must_use]
    pub fn namespaces(&self) -> usize {
        self.namespaces.len()
    }

    /// Timers that run: at most one for each registration.
    #[must_use]
    pub fn timers(&self) -> usize {
        self.timers.len()
    }

    /// Peers with a registration.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    /// Answers a request of a peer whose identity is proven; `None` where there is no answer. `ip` is
    /// where the peer is, if that is known. `reads` is the form of records it is told of, `None` for both; whoever is
    /// registered with a legacy record alone is told of legacy ones in any case.
    pub fn handle(
        &mut self,
        now: Instant,
        peer: &PeerId,
        ip: Option<IpAddr>,
        reads: Option<Form>,
        request: &Request,
    ) -> Option<Answer> {
        let now = self.micros(now);
        match request {
            Request::Register { ns, record, ttl } => {
                let answer = self.register(now, peer, ip, ns, record, *ttl);
                let (status, text, ttl) = match answer {
                    Ok(ttl) => (Status::Ok, "", ttl),
                    Err((status, text)) => (status, text, 0),
                };
                let text = text.to_owned();
                Some(Answer::Register { status, text, ttl })
            }
            Request::Unregister { ns } => {
                self.unregister(peer, ns);
                None
            }
            Request::Discover { ns, limit, cookie } => Some(
                self.discover(
                    now,
                    reads.map(|form| self.form_of(peer).unwrap_or(form)),
                    ns,
                    *limit,
                    cookie,
                )
                .unwrap_or_else(|(status, text)| Answer::Discover {
                    status,
                    text: text.to_owned(),
                    registrations: Vec::new(),
                    cookie: Bytes::new(),
                }),
            ),
        }
    }

    /// What has changed since the last call, in order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (at, _) = self.timers.first()?;
        self.begun.checked_add(Duration::from_micros(*at))
    }

    /// Drops what has expired, some thousands at a time.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.micros(now);
        for _ in 0..EXPIRE_AT_ONCE {
            let Some((at, slot)) = self.timers.first().copied().filter(|(at, _)| *at <= now) else {
                return;
            };
            let later = match self.slot_mut(slot) {
                Some(registration) if registration.expires > now => {
                    registration.timer = registration.expires;
                    Some(registration.expires)
                }
                _ => None,
            };
            match later {
                Some(expires) => {
                    self.timers.remove(&(at, slot));
                    self.timers.insert((expires, slot));
                }
                None => self.remove(slot),
            }
        }
    }

    fn register(
        &mut self,
        now: u64,
        peer: &PeerId,
        ip: Option<IpAddr>,
        ns: &Bytes,
        record: &Bytes,
        ttl: u64,
    ) -> Result<u64, Refused> {
        let network = Network::of(ip);
        if !self.networks.ask(network, now) {
            return Err((Status::Unavailable, "too many requests from this address"));
        }
        check_namespace(ns)?;
        if ns.is_empty() {
            return Err((Status::InvalidNamespace, "a namespace is needed"));
        }
        let ttl = self.ttl(ttl)?;
        let old = self.find(peer, ns);
        let had = old.map_or(0, |slot| self.records_of(slot).map_or(0, Records::len));
        let (seq, form) = self.check_record(peer, record)?;
        let unavailable = |text| Err((Status::Unavailable, text));
        if record.len() > had
            && record.len() - had > self.limits.max_bytes.saturating_sub(self.bytes)
        {
            return unavailable("this point is full");
        }
        let ns = match old {
            Some(slot) => return self.refresh(now, slot, (seq, form, record), network, ttl),
            None => Bytes::copy_from_slice(ns),
        };
        if self.len() >= self.limits.max_total || self.counter >= MAX_COUNTER {
            return unavailable("this point is full");
        }
        if self.peers.get(peer).map_or(0, Vec::len) >= self.limits.max_per_peer {
            return unavailable("too many registrations of this peer");
        }
        if !self.networks.has_room(network) {
            return unavailable("too many registrations from this address");
        }
        let mut records = Records::default();
        records.put(seq, form, Bytes::copy_from_slice(record));
        self.put(now, *peer, ns, records, network, ttl);
        Ok(ttl.as_secs())
    }

    fn ttl(&self, asked: u64) -> Result<Duration, Refused> {
        if asked == 0 {
            return Ok(self.limits.default_ttl);
        }
        let ttl = Duration::from_secs(asked);
        if (self.limits.min_ttl..=self.limits.max_ttl).contains(&ttl) {
            Ok(ttl)
        } else {
            Err((
                Status::InvalidTtl,
                "the time to live is too short or too long here",
            ))
        }
    }

    /// The number and the form of a record that is good. One that is here already was good when it came.
    fn check_record(&self, peer: &PeerId, record: &Bytes) -> Result<(u64, Form), Refused> {
        let invalid = |text| Err((Status::InvalidSignedPeerRecord, text));
        if record.is_empty() {
            return invalid("a signed peer record is needed");
        }
        if record.len() > self.limits.max_record {
            return invalid("the signed peer record is too long");
        }
        let own = self.peers.get(peer).into_iter().flatten();
        let mut own = own.filter_map(|slot| self.records_of(*slot));
        if let Some(known) = own.find(|known| known.has(record)) {
            let form = if known.standard == *record {
                Form::Standard
            } else {
                Form::Legacy
            };
            return Ok((known.seq, form));
        }
        let Ok(opened) = PeerRecord::from_envelope(record) else {
            return invalid("the signed peer record is not valid");
        };
        if opened.peer_id != *peer {
            return Err((
                Status::NotAuthorized,
                "the signed peer record is another peer's",
            ));
        }
        let bytes: usize = opened.addrs.iter().map(|addr| addr.as_bytes().len()).sum();
        if opened.addrs.is_empty() {
            return invalid("the signed peer record has no address");
        }
        if bytes > self.limits.max_address_bytes {
            return invalid("the addresses in the signed peer record are too long");
        }
        Ok((opened.seq, Form::of(record)))
    }

    fn refresh(
        &mut self,
        now: u64,
        at: u32,
        (seq, form, record): (u64, Form, &Bytes),
        network: Option<Network>,
        ttl: Duration,
    ) -> Result<u64, Refused> {
        if self.counter >= MAX_COUNTER {
            return Err((Status::Unavailable, "this point has to be restarted"));
        }
        let moves = self.networks.has_room(network);
        self.leave_logs(at);
        let (place, place_in_all) = self.join_logs(at);
        let expires = now.saturating_add(micros(ttl));
        let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_mut) else {
            return Err((Status::InternalError, "the registration is lost"));
        };
        (slot.place, slot.place_in_all) = (place, place_in_all);
        slot.expires = expires;
        if slot.expires < slot.timer {
            self.timers.remove(&(slot.timer, at));
            self.timers.insert((expires, at));
            slot.timer = expires;
        }
        if slot.records.seq != seq || !slot.records.has(record) {
            let before = slot.records.len();
            slot.records.put(seq, form, Bytes::copy_from_slice(record));
            self.bytes = self.bytes - before + slot.records.len();
        }
        // Whoever comes from an address that holds enough already still counts where it was.
        if slot.network != network && moves {
            self.networks.release(slot.network);
            self.networks.hold(network);
            slot.network = network;
        }
        self.changes.push(Change::Put(Stored {
            peer: slot.peer,
            ns: slot.ns.clone(),
            records: slot.records.clone(),
            ttl,
        }));
        Ok(ttl.as_secs())
    }

    fn unregister(&mut self, peer: &PeerId, ns: &Bytes) {
        if ns.is_empty() {
            while let Some(slot) = self.peers.get(peer).and_then(|own| own.last().copied()) {
                self.remove(slot);
            }
        } else if let Some(slot) = self.find(peer, ns) {
            self.remove(slot);
        }
    }

    fn discover(
        &self,
        now: u64,
        reads: Option<Form>,
        ns: &Bytes,
        limit: u64,
        cookie: &Bytes,
    ) -> Result<Answer, Refused> {
        let name = check_namespace(ns)?;
        let seen = if cookie.is_empty() {
            0
        } else {
            let opened = self.cookies.open(cookie, name);
            // A counter beyond the last one was never handed out.
            opened.filter(|seen| *seen <= self.counter).ok_or((
                Status::InvalidCookie,
                "the cookie is not of this point, or for another namespace",
            ))?
        };
        let most = match usize::try_from(limit) {
            Ok(limit @ 1..) => limit.min(self.limits.max_discover),
            _ => self.limits.max_discover,
        };
        let log = if ns.is_empty() {
            Some(&self.all)
        } else {
            self.namespaces.get(ns)
        };
        let mut room = self.limits.max_answer.saturating_sub(ANSWER_HEAD);
        let mut registrations = Vec::new();
        // All that is there has a number up to this one.
        let mut seen_now = self.counter;
        let mut last = seen;
        for (number, slot) in log.into_iter().flat_map(|log| log.after(seen)) {
            let Some(slot) = self.slot(slot).filter(|slot| slot.expires > now) else {
                continue;
            };
            let record = slot.records.readable(reads);
            if record.is_empty() {
                continue;
            }
            let takes = Registration::room(slot.ns.len(), record.len());
            if registrations.len() == most || takes > room {
                seen_now = last;
                break;
            }
            room -= takes;
            last = number;
            registrations.push(Registration {
                ns: slot.ns.clone(),
                record: record.clone(),
                ttl: (slot.expires - now).div_ceil(1_000_000),
            });
        }
        Ok(Answer::Discover {
            status: Status::Ok,
            text: String::new(),
            registrations,
            cookie: self.cookies.seal(seen_now, name).into(),
        })
    }

    fn put(
        &mut self,
        now: u64,
        peer: PeerId,
        ns: Bytes,
        records: Records,
        network: Option<Network>,
        ttl: Duration,
    ) {
        let expires = now.saturating_add(micros(ttl));
        self.bytes += records.len();
        self.networks.hold(network);
        self.changes.push(Change::Put(Stored {
            peer,
            ns: ns.clone(),
            records: records.clone(),
            ttl,
        }));
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        if let Some(slot) = self.slots.get_mut(at as usize) {
            *slot = Some(Slot {
                peer,
                ns,
                records,
                network,
                place: 0,
                place_in_all: 0,
                expires,
                timer: expires,
            });
        }
        let (place, place_in_all) = self.join_logs(at);
        if let Some(slot) = self.slot_mut(at) {
            (slot.place, slot.place_in_all) = (place, place_in_all);
        }
        self.peers.entry(peer).or_default().push(at);
        self.timers.insert((expires, at));
    }

    fn remove(&mut self, at: u32) {
        self.leave_logs(at);
        let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::take) else {
            return;
        };
        self.free.push(at);
        self.bytes -= slot.records.len();
        self.networks.release(slot.network);
        self.timers.remove(&(slot.timer, at));
        if let Some(own) = self.peers.get_mut(&slot.peer) {
            own.retain(|other| *other != at);
            if own.is_empty() {
                self.peers.remove(&slot.peer);
            }
        }
        if self.namespaces.get(&slot.ns).is_some_and(Log::is_empty) {
            self.namespaces.remove(&slot.ns);
        }
        let Slot { peer, ns, .. } = slot;
        self.changes.push(Change::Remove { peer, ns });
    }

    /// Gives a registration the next number.
    fn join_logs(&mut self, at: u32) -> (u64, u64) {
        self.counter += 1;
        let Some(ns) = self.slot(at).map(|slot| slot.ns.clone()) else {
            return (0, 0);
        };
        let place = self
            .namespaces
            .entry(ns)
            .or_default()
            .push(self.counter, at);
        (place, self.all.push(self.counter, at))
    }

    fn leave_logs(&mut self, at: u32) {
        let slots = &mut self.slots;
        let Some(slot) = slots.get(at as usize).and_then(Option::as_ref) else {
            return;
        };
        let all = self.all.remove(slot.place_in_all);
        let log = self.namespaces.get_mut(&slot.ns);
        if let Some(log) = log
            && log.remove(slot.place)
        {
            log.compact(|at, place| {
                if let Some(slot) = slots.get_mut(at as usize).and_then(Option::as_mut) {
                    slot.place = place;
                }
            });
        }
        if all {
            self.all.compact(|at, place| {
                if let Some(slot) = slots.get_mut(at as usize).and_then(Option::as_mut) {
                    slot.place_in_all = place;
                }
            });
        }
    }

    fn find(&self, peer: &PeerId, ns: &[u8]) -> Option<u32> {
        let own = self.peers.get(peer)?;
        let here = |at: &&u32| self.slot(**at).is_some_and(|slot| slot.ns == ns);
        own.iter().find(here).copied()
    }

    fn records_of(&self, at: u32) -> Option<&Records> {
        self.slot(at).map(|slot| &slot.records)
    }

    /// Legacy, if the peer is registered and only so.
    fn form_of(&self, peer: &PeerId) -> Option<Form> {
        let newest = *self.peers.get(peer)?.last()?;
        let legacy = self.records_of(newest)?.standard.is_empty();
        legacy.then_some(Form::Legacy)
    }

    fn slot(&self, at: u32) -> Option<&Slot> {
        self.slots.get(at as usize)?.as_ref()
    }

    fn slot_mut(&mut self, at: u32) -> Option<&mut Slot> {
        self.slots.get_mut(at as usize)?.as_mut()
    }

    fn micros(&self, now: Instant) -> u64 {
        micros(now.saturating_duration_since(self.begun))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A namespace that may be asked for; an empty one is all.
fn check_namespace(ns: &[u8]) -> Result<&str, Refused> {
    if ns.len() > MAX_NAMESPACE {
        return Err((
            Status::InvalidNamespace,
            "the namespace is longer than 255 bytes",
        ));
    }
    std::str::from_utf8(ns).map_err(|_| (Status::InvalidNamespace, "the namespace is not UTF-8"))
}

#[cfg(test)]
mod tests;
