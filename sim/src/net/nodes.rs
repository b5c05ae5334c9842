//! The nodes of a scenario, before they start.

use std::{
    collections::{HashMap, VecDeque},
    net::Ipv4Addr,
};

use barewire_base::Keypair;

use super::{Mind, Node};
use crate::{Scenario, Target, link::Place, rng::Rng};

pub(super) fn make(scenario: &Scenario, rng: &mut Rng) -> Vec<Node> {
    let honest = scenario.nodes;
    let mut dials = scenario.topology.dials(honest, scenario.degree, rng);
    let sybils = scenario.sybils.filter(|s| s.count > 0);
    if let Some(sybils) = sybils {
        if sybils.poison > 0.0 {
            for to in dials.iter_mut().flatten() {
                if rng.chance(sybils.poison) {
                    *to = (honest + rng.below(sybils.count)) as u32;
                }
            }
        }
        let targets = match (sybils.target, scenario.publishers) {
            (Target::First, _) => 1,
            (Target::All, _) | (Target::Publishers, 0) => honest,
            (Target::Publishers, count) => count,
        };
        for _ in 0..sybils.count {
            let chosen = rng.choose(targets, sybils.degree);
            dials.push(chosen.into_iter().map(|to| to as u32).collect());
        }
    }
    let mut dialled_by = vec![Vec::new(); dials.len()];
    for (from, to) in dials.iter().enumerate() {
        to.iter()
            .for_each(|to| dialled_by[*to as usize].push(from as u32));
    }
    let first = Place::random(rng);
    let lists = dials.into_iter().zip(dialled_by);
    lists
        .enumerate()
        .map(|(at, (dials, dialled_by))| {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&(at as u64 + 1).to_le_bytes());
            let beside = at >= honest && sybils.is_some_and(|s| s.near);
            let place = match at {
                0 => first,
                _ if beside => Place::beside(first),
                _ => Place::random(rng),
            };
            let address = match sybils.filter(|_| at >= honest) {
                Some(sybils) => 0x0b00_0000 + ((at - honest) / sybils.per_address) as u32,
                None => 0x0a00_0000 + at as u32,
            };
            Node {
                id: Keypair::from_seed(&seed).peer_id(),
                address: Ipv4Addr::from(address).into(),
                place,
                mind: Mind::None,
                online: false,
                links: Vec::new(),
                dials,
                dialled_by,
                timer: 0,
                uplink_free: 0,
                downlink_free: 0,
                processor_free: 0,
                waiting: VecDeque::new(),
                awaits_uplink: false,
                backoffs: HashMap::new(),
                thin: 0,
            }
        })
        .collect()
}
