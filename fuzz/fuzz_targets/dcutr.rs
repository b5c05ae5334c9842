//! Hole punching: messages are read within bounds and written the same; both sides of an exchange, whatever comes, dial few addresses,
//! none of a relay, none that was not allowed; and a peer gets its share of attempts and no more.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use barewire_base::{Keypair, Multiaddr, Protocol};
use barewire_nat::dcutr::{
    Attempts, AttemptsConfig, Exchange, MAX_ADDRS, MAX_MESSAGE, PunchMessage, Step,
};
use libfuzzer_sys::fuzz_target;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Message(&'a [u8]),
    Exchange {
        initiates: bool,
        own: Vec<&'a [u8]>,
        messages: Vec<(u16, &'a [u8])>,
    },
    Attempts {
        peers: u8,
        takes: Vec<(u8, u16)>,
    },
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Message(bytes) => {
        let Ok(message) = PunchMessage::decode(bytes) else {
            return;
        };
        let again = message.encode();
        assert!(again.len() <= MAX_MESSAGE);
        assert_eq!(PunchMessage::decode(&again), Ok(message));
    }
    Input::Exchange {
        initiates,
        own,
        messages,
    } => exchange(initiates, &own, &messages),
    Input::Attempts { peers, takes } => attempts(peers, &takes),
});

fn exchange(initiates: bool, own: &[&[u8]], messages: &[(u16, &[u8])]) {
    let own: Vec<_> = own
        .iter()
        .filter_map(|bytes| Multiaddr::from_bytes(bytes).ok())
        .collect();
    let mut now = *START;
    let mut exchange = if initiates {
        match Exchange::initiate(now, own) {
            Ok((exchange, first)) => {
                assert!(matches!(first, PunchMessage::Connect(addrs) if !addrs.is_empty()));
                exchange
            }
            Err(_) => return,
        }
    } else {
        Exchange::respond(own)
    };
    let mut over = false;
    for (ms, bytes) in messages.iter().take(8) {
        now += Duration::from_millis((*ms).into());
        let Ok(message) = PunchMessage::decode(bytes) else {
            continue;
        };
        let allowed = |addr: &Multiaddr| addr.as_bytes().len() % 2 == 0;
        match exchange.handle(now, message, allowed) {
            Ok(Step::Send(_)) => assert!(!over && !initiates),
            Ok(Step::Punch(sync, punch)) => {
                assert!(!over);
                over = true;
                assert_eq!(sync.is_some(), initiates);
                assert!((1..=MAX_ADDRS).contains(&punch.addrs.len()));
                assert!(punch.at >= now && punch.at <= now + Duration::from_secs(5));
                for addr in &punch.addrs {
                    assert!(allowed(addr) && addr.ip().is_some());
                    assert!(!addr.iter().any(|part| part == Protocol::P2pCircuit));
                }
            }
            Err(_) => over = true,
        }
    }
}

fn attempts(peers: u8, takes: &[(u8, u16)]) {
    let mut config = AttemptsConfig::default();
    config.peers = usize::from(peers % 4) + 1;
    let mut attempts = Attempts::new(config.clone());
    let mut now = *START;
    let mut taken: Vec<(u8, Instant)> = Vec::new();
    for (peer, seconds) in takes.iter().take(64) {
        now += Duration::from_secs((*seconds).into());
        let peer = peer % 6;
        let id = Keypair::from_seed(&[peer; 32]).peer_id();
        if attempts.take(now, id) {
            taken.push((peer, now));
        }
        let recent = |(by, at): &&(u8, Instant)| *by == peer && now - *at < config.window;
        assert!(taken.iter().filter(recent).count() <= config.per_peer);
    }
}
