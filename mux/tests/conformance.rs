//! Both backends pass one suite, with themselves and with each other.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use barewire_base::Budget;
use barewire_mux::conformance::{Backend, Pair, read_all};
use barewire_mux::yamux::{Config, Session};
use barewire_mux::yamux_crate::CrateSession;
use barewire_mux::{Event, Role, StreamId, StreamMuxer};
use bytes::Bytes;

fn session(role: Role, now: Instant) -> Session {
    Session::new(role, Config::default(), Budget::unlimited(), now)
}

struct Ours;

impl Backend for Ours {
    type Client = Session;
    type Server = Session;
    const CODES: bool = true;
    fn client(now: Instant) -> Session {
        session(Role::Client, now)
    }
    fn server(now: Instant) -> Session {
        session(Role::Server, now)
    }
}

struct Crates;

impl Backend for Crates {
    type Client = CrateSession;
    type Server = CrateSession;
    const CODES: bool = false;
    fn client(_: Instant) -> CrateSession {
        CrateSession::new(Role::Client)
    }
    fn server(_: Instant) -> CrateSession {
        CrateSession::new(Role::Server)
    }
}

struct OursToCrate;

impl Backend for OursToCrate {
    type Client = Session;
    type Server = CrateSession;
    const CODES: bool = false;
    fn client(now: Instant) -> Session {
        session(Role::Client, now)
    }
    fn server(_: Instant) -> CrateSession {
        CrateSession::new(Role::Server)
    }
}

struct CrateToOurs;

impl Backend for CrateToOurs {
    type Client = CrateSession;
    type Server = Session;
    const CODES: bool = false;
    fn client(_: Instant) -> CrateSession {
        CrateSession::new(Role::Client)
    }
    fn server(now: Instant) -> Session {
        session(Role::Server, now)
    }
}

mod ours {
    barewire_mux::conformance_tests!(super::Ours);
}

mod yamux_crate {
    barewire_mux::conformance_tests!(super::Crates);
}

/// What waits to be sent is bounded over all streams, and nobody who waits is forgotten.
#[test]
fn a_peer_that_reads_nothing_makes_the_crate_hold_little() {
    const STREAMS: usize = 256;
    const ITEM: usize = 32 << 10;
    /// Of each stream, 256 KiB of which leave unasked.
    const TOTAL: usize = 1 << 20;
    let now = Instant::now();
    let server = CrateSession::new(Role::Server);
    let mut pair = Pair::new(session(Role::Client, now), server, now);
    let mut writers = Vec::new();
    for _ in 0..STREAMS {
        let id = pair.client.open_stream(now).unwrap();
        pair.client.flush_open(id);
        pair.settle(Duration::from_secs(1));
        for event in pair.server_events() {
            if let Event::Incoming(id) = event {
                pair.server.accepted(id);
                writers.push((id, TOTAL));
            }
        }
    }
    assert_eq!(writers.len(), STREAMS);
    let item = Bytes::from(vec![1; ITEM]);
    let mut write = |pair: &mut Pair<Session, CrateSession>, only: &[StreamId]| {
        for (id, left) in &mut writers {
            while *left > 0 && only.contains(id) && pair.server.send_capacity(*id).unwrap() > 0 {
                pair.server.write(*id, item.clone()).unwrap();
                *left -= ITEM;
                pair.settle(Duration::from_secs(1));
            }
        }
        writers.iter().map(|(_, left)| left).sum::<usize>()
    };
    let ids: Vec<_> = (0..STREAMS)
        .map(|n| StreamId::try_from(2 * n as u32 + 1).unwrap())
        .collect();
    let left = write(&mut pair, &ids);
    let queued = pair.server.queued();
    println!("256 streams of a mebibyte to a peer that reads none: {queued} bytes queued");
    assert!(left > 0);
    assert!(
        queued <= (4 << 20) + STREAMS * (64 << 10) + ITEM,
        "{queued}"
    );
    // It reads after all.
    let mut got = 0;
    while got < STREAMS * TOTAL {
        let before = got;
        for id in &ids {
            got += read_all(&mut pair.client, pair.now, *id).0.len();
        }
        pair.settle(Duration::from_secs(1));
        let told = pair.server_events();
        let writable = |event: &Event| match event {
            Event::Writable(id) => Some(*id),
            _ => None,
        };
        let writable: Vec<_> = told.iter().filter_map(writable).collect();
        write(&mut pair, &writable);
        assert!(got > before, "stuck with {got} bytes");
    }
    assert_eq!(pair.server.queued(), 0);
}

mod ours_to_crate {
    barewire_mux::conformance_tests!(super::OursToCrate);
}

mod crate_to_ours {
    barewire_mux::conformance_tests!(super::CrateToOurs);
}
