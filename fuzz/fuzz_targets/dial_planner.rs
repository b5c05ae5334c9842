//! The dial planner: any operations in any order on several dials that share it.
#![no_main]

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use arbitrary::Arbitrary;
use barewire_base::{Keypair, Multiaddr};
use barewire_node::dial::{DialLimits, Outcome, Plan, Planner, Step};
use libfuzzer_sys::fuzz_target;

const DIALS: usize = 5;

#[derive(Arbitrary, Debug)]
enum Op {
    /// A new dial in this place; the old one is given up.
    New {
        dial: u8,
        peer: Option<u8>,
        by_user: bool,
    },
    Add {
        dial: u8,
        addrs: Vec<(u8, u8, u8)>,
    },
    Next {
        dial: u8,
    },
    Fail {
        dial: u8,
        attempt: u8,
        random: f64,
        outcome: u8,
    },
    Succeed {
        dial: u8,
        attempt: u8,
    },
    Abandon {
        dial: u8,
    },
    Pass {
        millis: u16,
    },
}

struct Dial {
    plan: Plan,
    by_user: bool,
    running: Vec<Running>,
    started: HashSet<Multiaddr>,
}

struct Running {
    id: usize,
    /// The host it counts for, and since when.
    counted: Option<(IpAddr, Instant)>,
}

/// When each host was dialled; what did not burden it is taken out again.
#[derive(Default)]
struct Hosts(HashMap<IpAddr, VecDeque<Instant>>);

impl Hosts {
    /// How many dials of the last ten seconds count for a host, this one included.
    fn count(&mut self, now: Instant, ip: IpAddr) -> usize {
        let times = self.0.entry(ip).or_default();
        times.push_back(now);
        times.retain(|at| *at + Duration::from_secs(10) > now);
        times.len()
    }

    fn uncount(&mut self, attempt: &Running) {
        let Some((ip, since)) = attempt.counted else {
            return;
        };
        let times = self.0.entry(ip).or_default();
        if let Some(at) = times.iter().position(|at| *at == since) {
            times.remove(at);
        }
    }
}

impl Dial {
    fn new(peer: Option<u8>, by_user: bool) -> Self {
        let peer = peer.map(|n| Keypair::from_seed(&[n; 32]).peer_id());
        Self {
            plan: Plan::new(peer, by_user),
            by_user,
            running: Vec::new(),
            started: HashSet::new(),
        }
    }
}

fn addr((shape, host, port): (u8, u8, u8)) -> Multiaddr {
    let ip = match shape & 3 {
        0 => format!("/ip4/8.8.8.{}", host & 3),
        1 => format!("/ip4/10.0.0.{}", host & 3),
        2 => format!("/ip6/2001:db8::{:x}", host & 3),
        _ => format!("/ip4/127.0.0.{}", host & 3),
    };
    let rest = match shape >> 2 & 3 {
        0 => format!("udp/{port}/quic-v1"),
        1 => format!("tcp/{port}"),
        2 => format!("tcp/{port}/ws"),
        _ => format!("tcp/{port}/p2p-circuit"),
    };
    format!("{ip}/{rest}").parse().expect("an address")
}

fuzz_target!(|ops: Vec<Op>| {
    let mut limits = DialLimits::default();
    limits.max_total = 20;
    let mut planner = Planner::new(limits.clone());
    let mut dials: Vec<_> = (0..DIALS).map(|_| Dial::new(None, false)).collect();
    let mut now = Instant::now();
    let mut hosts = Hosts::default();
    for op in ops.into_iter().take(500) {
        match op {
            Op::New {
                dial,
                peer,
                by_user,
            } => {
                let dial = &mut dials[usize::from(dial) % DIALS];
                planner.abandon(&mut dial.plan);
                *dial = Dial::new(peer, by_user);
            }
            Op::Add { dial, addrs } => {
                let dial = &mut dials[usize::from(dial) % DIALS];
                dial.plan.add(now, &limits, addrs.into_iter().map(addr));
            }
            Op::Next { dial } => {
                let dial = &mut dials[usize::from(dial) % DIALS];
                match planner.next(now, &mut dial.plan) {
                    Step::Start(id, addr) => {
                        assert!(dial.started.insert(addr.clone()), "dialled twice");
                        let ip = addr.ip().filter(|ip| !dial.by_user && !ip.is_loopback());
                        if let Some(ip) = ip {
                            assert!(
                                hosts.count(now, ip) <= limits.max_per_ip,
                                "too many of {ip}"
                            );
                        }
                        let counted = ip.map(|ip| (ip, now));
                        dial.running.push(Running { id, counted });
                    }
                    Step::Skip(addr, _) => assert!(dial.started.insert(addr)),
                    Step::Wait(until) => assert!(until > now),
                    Step::Full => assert_eq!(planner.running(), limits.max_total),
                    Step::Running => assert!(!dial.running.is_empty()),
                    Step::Done => assert!(dial.running.is_empty()),
                    _ => {}
                }
                assert!(dial.started.len() <= limits.max_addresses);
            }
            Op::Fail {
                dial,
                attempt,
                random,
                outcome,
            } => {
                let dial = &mut dials[usize::from(dial) % DIALS];
                if !dial.running.is_empty() {
                    let at = usize::from(attempt) % dial.running.len();
                    let attempt = dial.running.swap_remove(at);
                    let outcome = match outcome % 3 {
                        0 => Outcome::Unreachable,
                        1 => Outcome::Reached,
                        _ => {
                            hosts.uncount(&attempt);
                            Outcome::Local
                        }
                    };
                    planner.failed(now, random, &mut dial.plan, attempt.id, outcome);
                }
            }
            Op::Succeed { dial, attempt } => {
                let dial = &mut dials[usize::from(dial) % DIALS];
                if !dial.running.is_empty() {
                    let at = usize::from(attempt) % dial.running.len();
                    let won = dial.running.swap_remove(at);
                    let (ran, _) = planner.succeeded(&mut dial.plan, won.id);
                    assert_eq!(ran.len(), dial.running.len());
                    // Nor do those count that the success has cancelled.
                    hosts.uncount(&won);
                    dial.running
                        .drain(..)
                        .for_each(|attempt| hosts.uncount(&attempt));
                    assert_eq!(planner.next(now, &mut dial.plan), Step::Done);
                }
            }
            Op::Abandon { dial } => {
                let dial = &mut dials[usize::from(dial) % DIALS];
                let (ran, _) = planner.abandon(&mut dial.plan);
                assert_eq!(ran.len(), dial.running.len());
                dial.running.clear();
            }
            Op::Pass { millis } => now += Duration::from_millis(millis.into()),
        }
        for dial in &dials {
            assert_eq!(dial.plan.running(), dial.running.len());
            assert!(dial.running.len() <= limits.max_parallel);
        }
        let running: usize = dials.iter().map(|dial| dial.running.len()).sum();
        assert_eq!(planner.running(), running);
        assert!(running <= limits.max_total);
    }
    // Whatever happened, each dial ends when its attempts do.
    for dial in &mut dials {
        for _ in 0..200 {
            match planner.next(now, &mut dial.plan) {
                Step::Start(id, _) => {
                    planner.failed(now, 0.0, &mut dial.plan, id, Outcome::Unreachable)
                }
                Step::Wait(until) => now = until,
                Step::Running => {
                    let id = dial.running.pop().expect("one runs").id;
                    planner.failed(now, 0.0, &mut dial.plan, id, Outcome::Unreachable);
                }
                Step::Full => {
                    if let Some(attempt) = dial.running.pop() {
                        planner.failed(now, 0.0, &mut dial.plan, attempt.id, Outcome::Unreachable);
                    } else {
                        break;
                    }
                }
                Step::Done => break,
                _ => {}
            }
        }
        planner.abandon(&mut dial.plan);
    }
    assert!(dials.iter().all(|dial| dial.plan.running() == 0));
});
