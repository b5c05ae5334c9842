//! Connections, and how frames travel over them.

use std::time::Duration;

use barewire_base::varint;
use barewire_gossip::{NewPeer, Payload, PeerKey, PeerLimits, Version};

use super::{AHEAD, Arrival, Happening, Link, Mind, Node, Simulation};
use crate::sybil::Out;

impl Simulation {
    /// `from` dials `to`, if both are there.
    pub(super) fn connect(&mut self, from: u32, to: u32) {
        let (a, b) = (from as usize, to as usize);
        let connected = self.nodes[a]
            .links
            .iter()
            .flatten()
            .any(|link| link.peer == to);
        if connected || !self.nodes[a].online || !self.nodes[b].online {
            return;
        }
        let (near, far) = (self.nodes[a].place, self.nodes[b].place);
        let way = self.scenario.latency.between(near, far, &mut self.rng);
        let (Some(here), Some(there)) =
            (self.accept(a, b, true, way), self.accept(b, a, false, way))
        else {
            return;
        };
        self.epochs += 1;
        for (node, peer, (link, key), back, outbound) in [
            (a, to, here, there.0, true),
            (b, from, there, here.0, false),
        ] {
            let links = &mut self.nodes[node].links;
            if links.len() <= link as usize {
                links.resize_with(link as usize + 1, || None);
            }
            links[link as usize] = Some(Link {
                peer,
                back,
                epoch: self.epochs,
                key,
                outbound,
                since: self.now,
                way,
                last_arrival: 0,
            });
        }
        for node in [from, to] {
            self.flush(node);
            self.set_timer(node);
        }
    }

    /// Tells a node of a connection. Returns the index of its link, and a router's key.
    fn accept(
        &mut self,
        node: usize,
        peer: usize,
        outbound: bool,
        way: u64,
    ) -> Option<(u32, Option<PeerKey>)> {
        let now = self.instant();
        let version = if self.nodes[peer].mind.is_router() && self.nodes[node].mind.is_router() {
            Version::V1_3
        } else {
            Version::V1_2
        };
        let new = NewPeer::new(self.nodes[peer].id, version)
            .outbound(outbound)
            .address(Some(self.nodes[peer].address))
            .limits(PeerLimits::uniform(1 << 20));
        let Node { mind, links, .. } = &mut self.nodes[node];
        match mind {
            Mind::Router(router) => {
                let key = router.connect(now, new).ok()?;
                router.set_rtt(key, Duration::from_micros(2 * way));
                Some((key.index() as u32, Some(key)))
            }
            Mind::Sybil(_) => {
                let free = links
                    .iter()
                    .position(Option::is_none)
                    .unwrap_or(links.len());
                Some((free as u32, None))
            }
            Mind::None => None,
        }
    }

    pub(super) fn disconnect(&mut self, node: u32, link: u32) {
        let now = self.instant();
        let slot = self.nodes[node as usize].links.get_mut(link as usize);
        let Some(here) = slot.and_then(Option::take) else {
            return;
        };
        let there = self.nodes[here.peer as usize]
            .links
            .get_mut(here.back as usize);
        let there = there.and_then(Option::take);
        for (node, link, key) in [
            (node, link, here.key),
            (here.peer, here.back, there.and_then(|l| l.key)),
        ] {
            match (&mut self.nodes[node as usize].mind, key) {
                (Mind::Router(router), Some(key)) => router.disconnect(now, key),
                (Mind::Sybil(sybil), _) => sybil.link_closed(link),
                _ => {}
            }
            self.flush(node);
        }
    }

    /// Writes what a router has for a link, as far as the uplink goes.
    pub(super) fn send(&mut self, node: u32, link: u32) {
        let now = self.instant();
        loop {
            let entry = &mut self.nodes[node as usize];
            let Some(key) = entry.links.get(link as usize).and_then(|l| l.as_ref()?.key) else {
                return;
            };
            if entry.uplink_free > self.now + AHEAD {
                entry.waiting.push_back(link);
                self.await_uplink(node);
                return;
            }
            let Mind::Router(router) = &mut entry.mind else {
                return;
            };
            let Some(mut frame) = router.next_frame(now, key) else {
                return;
            };
            // Links carry whole frames, without their length.
            if let Some(first) = frame.chunks.first_mut()
                && let Ok(Some((_, prefix))) = varint::decode(first)
            {
                *first = first.slice(prefix..);
            }
            self.transmit(node, link, Payload::from_chunks(frame.chunks), frame.len);
        }
    }

    fn await_uplink(&mut self, node: u32) {
        let entry = &mut self.nodes[node as usize];
        if !std::mem::replace(&mut entry.awaits_uplink, true) {
            let at = entry.uplink_free.saturating_sub(AHEAD);
            self.queue.push(at, Happening::Uplink(node));
        }
    }

    /// Lets the links that wait write in turns.
    pub(super) fn uplink(&mut self, node: u32) {
        self.nodes[node as usize].awaits_uplink = false;
        for _ in 0..self.nodes[node as usize].waiting.len() {
            let entry = &mut self.nodes[node as usize];
            if entry.uplink_free > self.now + AHEAD {
                break;
            }
            if let Some(link) = entry.waiting.pop_front() {
                self.send(node, link);
            }
        }
        if !self.nodes[node as usize].waiting.is_empty() {
            self.await_uplink(node);
        }
    }

    /// Microseconds that `len` bytes take on an uplink or downlink.
    fn time_on_line(&self, len: usize) -> u64 {
        let bits = len as u64 * 8;
        self.scenario
            .bandwidth
            .map_or(0, |rate| (bits * 1_000_000).div_ceil(rate))
    }

    pub(super) fn transmit(&mut self, node: u32, link: u32, body: Payload, len: usize) {
        let on_line = self.time_on_line(len);
        let entry = &mut self.nodes[node as usize];
        let Some(Some(line)) = entry.links.get_mut(link as usize) else {
            return;
        };
        entry.uplink_free = entry.uplink_free.max(self.now) + on_line;
        let left = if on_line == 0 {
            self.now
        } else {
            entry.uplink_free
        };
        let latency = self.scenario.latency;
        let time = latency.of_frame(line.way, len, self.scenario.loss, &mut self.rng);
        // A stream keeps the order: what follows a lost packet waits for it.
        line.last_arrival = line.last_arrival.max(left + time);
        let (at, arrival) = (
            line.last_arrival,
            Arrival {
                to: line.peer,
                link: line.back,
                epoch: line.epoch,
                body,
            },
        );
        self.log.frames += 1;
        match (self.is_sybil(node), self.is_sybil(arrival.to)) {
            (true, _) => self.log.from_sybils += len as u64,
            (_, true) => self.log.to_sybils += len as u64,
            _ => {}
        }
        let limited = self.scenario.bandwidth.is_some();
        self.queue.push(
            at,
            if limited {
                Happening::Arrives(arrival)
            } else {
                Happening::Arrived(arrival)
            },
        );
    }

    pub(super) fn arrives(&mut self, arrival: Arrival) {
        let on_line = self.time_on_line(arrival.body.len());
        let free = &mut self.nodes[arrival.to as usize].downlink_free;
        *free = (*free).max(self.now) + on_line;
        self.queue.push(*free, Happening::Arrived(arrival));
    }

    pub(super) fn arrived(&mut self, arrival: &Arrival) {
        let now = self.instant();
        let Arrival {
            to,
            link,
            epoch,
            ref body,
        } = *arrival;
        let Node { mind, links, .. } = &mut self.nodes[to as usize];
        let Some(line) = links
            .get(link as usize)
            .and_then(Option::as_ref)
            .filter(|l| l.epoch == epoch)
        else {
            return;
        };
        match (mind, line.key) {
            (Mind::Router(router), Some(key)) => {
                if router.receive(now, key, body).is_err() {
                    self.log.malformed += 1;
                }
                self.flush(to);
            }
            (Mind::Sybil(sybil), _) => {
                let mut out = Out::new();
                let again = sybil.hear(self.now, link, body, &mut self.rng, &mut out);
                if let Some(at) = again {
                    self.queue.push(
                        at,
                        Happening::Regraft {
                            node: to,
                            link,
                            epoch,
                        },
                    );
                }
                self.say(to, out);
            }
            _ => {}
        }
    }
}
