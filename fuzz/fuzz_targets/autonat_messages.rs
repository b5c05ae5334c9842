//! AutoNAT as a server meets it: messages of both versions are read within bounds and written the same; whatever is asked for, it
//! dials one address that is allowed, for at least the least price unless the client is there itself, and for nobody too often.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use barewire_base::{Keypair, Multiaddr, PeerId, Protocol};
use barewire_nat::autonat::{
    DialBack, MAX_ADDRS, MAX_DATA, MAX_MESSAGE, MAX_REQUEST, MAX_V1_DIALS, MIN_DATA, Message,
    Refusal, Server, ServerConfig, V1_MAX_MESSAGE, V1Message,
};
use libfuzzer_sys::fuzz_target;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
static PEERS: LazyLock<Vec<PeerId>> = LazyLock::new(|| {
    (0..8u8)
        .map(|n| Keypair::from_seed(&[n; 32]).peer_id())
        .collect()
});

#[derive(Arbitrary, Debug)]
struct Request<'a> {
    wait: u16,
    peer: u8,
    from: Option<u8>,
    v1: bool,
    message: &'a [u8],
    data: [u16; 3],
    random: u64,
}

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Message(&'a [u8]),
    V1(&'a [u8]),
    DialBack(&'a [u8]),
    Server(Vec<Request<'a>>),
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Message(bytes) => {
        let Ok(message) = Message::decode(bytes) else {
            return;
        };
        assert!(bytes.len() <= MAX_MESSAGE);
        let again = Message::decode(&message.encode()).expect("it is one of ours");
        match (message, again) {
            (
                Message::DialRequest { addrs, nonce },
                Message::DialRequest {
                    addrs: addrs_2,
                    nonce: nonce_2,
                },
            ) => {
                assert!(addrs.len() <= MAX_ADDRS && addrs.starts_with(&addrs_2));
                assert_eq!(nonce, nonce_2);
                let request = Message::DialRequest { addrs, nonce };
                assert!(request.encode().len() <= MAX_REQUEST);
            }
            (message, again) => assert_eq!(message, again),
        }
    }
    Input::V1(bytes) => {
        let Ok(message) = V1Message::decode(bytes) else {
            return;
        };
        let again = message.encode();
        // The text of an answer is ours.
        assert!(again.len() <= V1_MAX_MESSAGE + 64);
        if again.len() <= V1_MAX_MESSAGE {
            assert_eq!(V1Message::decode(&again), Ok(message));
        }
    }
    Input::DialBack(bytes) => {
        if let Ok(back) = DialBack::decode(bytes) {
            assert_eq!(DialBack::decode(&back.encode()), Ok(back));
        }
    }
    Input::Server(requests) => server(&requests),
});

fn server(requests: &[Request<'_>]) {
    let config = ServerConfig::default();
    let mut server = Server::new(config.clone());
    let mut now = *START;
    let (mut dials, mut paid, mut v1) = (Vec::new(), Vec::new(), Vec::new());
    let mut open = Vec::new();
    let allowed = |addr: &Multiaddr| addr.as_bytes().len() % 2 == 0;
    for request in requests.iter().take(128) {
        now += Duration::from_millis(request.wait.into());
        let peer = PEERS[usize::from(request.peer % 8)];
        let from = request
            .from
            .map(|n| IpAddr::from(Ipv4Addr::new(192, 0, 2, n % 4)));
        if request.v1 {
            let Ok(V1Message::Dial {
                peer: claimed,
                addrs,
            }) = V1Message::decode(request.message)
            else {
                continue;
            };
            let begun = server.begin_v1(now, peer, from, claimed, &addrs, allowed);
            if let Ok((ticket, addrs)) = begun {
                assert!(claimed.is_none_or(|claimed| claimed == peer));
                assert!((1..=MAX_V1_DIALS).contains(&addrs.len()));
                assert!(addrs.iter().all(|addr| addr.ip() == from && allowed(addr)));
                v1.push((now, peer));
                server.end_v1(&ticket);
            }
        } else {
            let Ok(ticket) = server.begin(now, peer, from) else {
                continue;
            };
            dials.push((now, peer));
            if let Ok(Message::DialRequest { addrs, .. }) = Message::decode(request.message) {
                match server.choose(now, &ticket, &addrs, allowed, request.random) {
                    Ok(dial) => {
                        let at = usize::try_from(dial.index).expect("an index");
                        let named = addrs[at].clone().expect("it can be read");
                        assert_eq!(named.without_peer(), dial.addr);
                        assert!(allowed(&dial.addr));
                        let mut parts = dial.addr.iter();
                        assert!(!parts.any(|part| part == Protocol::P2pCircuit));
                        let own = from.is_some() && dial.addr.ip() == from;
                        assert!(own || dial.payment.is_some());
                        if let Some(mut payment) = dial.payment {
                            assert!((MIN_DATA..=MAX_DATA).contains(&payment.bytes()));
                            paid.push((now, peer));
                            let mut sum = 0;
                            for len in request.data {
                                sum += u64::from(len);
                                let done = payment.pay(len.into());
                                assert_eq!(done == Ok(true), sum >= payment.bytes());
                                if done.is_err() {
                                    break;
                                }
                            }
                        }
                    }
                    Err(refusal) => assert!(refusal != Refusal::TooMany),
                }
            }
            // Some take their time.
            if request.random % 4 == 0 {
                open.push((ticket, peer));
            } else {
                server.end(&ticket);
            }
            if open.len() > 3 {
                server.end(&open.remove(0).0);
            }
        }
        let recent = |at: &Instant| now - *at < Duration::from_secs(60);
        for (log, rates) in [
            (&dials, &config.requests),
            (&paid, &config.paid),
            (&v1, &config.v1),
        ] {
            let all = log.iter().filter(|(at, _)| recent(at));
            assert!(all.clone().count() <= rates.all);
            assert!(all.filter(|(_, by)| *by == peer).count() <= rates.per_peer);
        }
        assert_eq!(server.running(), open.len());
        assert!(open.iter().filter(|(_, by)| *by == peer).count() <= config.requests.at_once);
    }
}
