//! What clients of a relay must not get, and what it costs the relay that they try.

use std::time::Duration;

use barewire_base::framing;
use barewire_node::{
    Connection, DialError, Endpoint, Event, EventItem, Keypair, Multiaddr, PeerId, Router,
    protocols::{
        dcutr::{self, HolePunchConfig, HolePuncher, PunchError, PunchStep},
        relay::{HOP_PROTOCOL, RelayError, RelayServerConfig, Status},
    },
};
use barewire_tests::full;
use bytes::{Bytes, BytesMut};

use crate::{DEADLINE, Node, through, until};

async fn client() -> Endpoint {
    let keypair = Keypair::generate(&mut rand::rng());
    Endpoint::builder(keypair).bind().await.unwrap()
}

/// Says something on a hop stream and returns the status in the answer, if there is one.
async fn ask(connection: &Connection, message: &[u8]) -> Option<u64> {
    let mut framed = BytesMut::new();
    framing::encode_prefixed(message, &mut framed);
    let mut stream = connection.open_stream(HOP_PROTOCOL).await.unwrap();
    stream.write_chunk(framed.freeze()).await.unwrap();
    let mut answer = BytesMut::new();
    while let Ok(Some(chunk)) = tokio::time::timeout(DEADLINE, stream.read_chunk(4096))
        .await
        .unwrap()
    {
        answer.extend_from_slice(&chunk);
    }
    // The status is the last field: 28, and a varint of two bytes.
    let at = answer.len().checked_sub(3)?;
    (answer[at] == 0x28).then(|| u64::from(answer[at + 1] & 0x7f) | u64::from(answer[at + 2]) << 7)
}

fn connect_to(peer: &[u8]) -> Vec<u8> {
    let mut message = vec![8, 1, 0x12, peer.len() as u8 + 2, 10, peer.len() as u8];
    message.extend_from_slice(peer);
    message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_by_name() {
    let relay = Node::relay(RelayServerConfig::default()).await;
    let listener = Node::behind(2, &[&relay]).await;
    let asker = client().await;
    let connection = asker.connect(relay.addr.clone()).await.unwrap();
    let stranger = Keypair::generate(&mut rand::rng()).peer_id();
    let (own, itself) = (asker.peer_id(), relay.peer());
    let id = |peer: PeerId| connect_to(peer.as_bytes());
    let cases: [(&str, Vec<u8>, Option<u64>); 9] = [
        ("to a peer without reservation", id(stranger), Some(204)),
        ("to itself", id(own), Some(202)),
        ("to the relay", id(itself), Some(204)),
        ("to no peer", vec![8, 1], Some(400)),
        (
            "to a peer id that is none",
            connect_to(&[1, 2, 3]),
            Some(400),
        ),
        (
            "an answer without a question",
            vec![8, 2, 0x28, 100],
            Some(401),
        ),
        ("an unknown type", vec![8, 9], Some(401)),
        ("garbage", vec![0xff; 64], Some(400)),
        ("5,000 bytes", vec![8; 5000], Some(400)),
    ];
    for (what, message, status) in cases {
        assert_eq!(ask(&connection, &message).await, status, "{what}");
    }
    // Through a relay nobody gets a reservation, nor another circuit.
    let circuit = asker
        .connect(through(&relay.addr, listener.peer()))
        .await
        .unwrap();
    assert!(circuit.info().is_relayed());
    assert_eq!(ask(&circuit, &[8, 0]).await, Some(202));
    assert_eq!(ask(&circuit, &id(stranger)).await, Some(202));
    // Nor does one of our own nodes try.
    let nested = through(&through(&relay.addr, listener.peer()), stranger);
    let error = asker.connect(nested).await.unwrap_err();
    let address = DialError::Relay {
        addr: error_addr(&error),
        error: RelayError::Address,
    };
    assert_eq!(error, address);
    let error = asker
        .connect(through(&relay.addr, stranger))
        .await
        .unwrap_err();
    let refused = RelayError::Refused(Status::NoReservation);
    assert!(
        matches!(&error, DialError::Relay { error, .. } if *error == refused),
        "{error}"
    );
    println!(
        "circuits: 13 requests that make no sense, each refused with its status; {:?}",
        relay.server.stats()
    );
    until("nothing is left of them", || {
        relay.server.stats().circuits == 1
    })
    .await;
    asker.shutdown(Duration::from_secs(1)).await;
    until("nor of the last", || relay.server.stats().circuits == 0).await;
    listener.stop().await;
    until("nor of the reservation", || {
        relay.server.stats().reservations == 0
    })
    .await;
    relay.stop().await;
}

fn error_addr(error: &DialError) -> Multiaddr {
    match error {
        DialError::Relay { addr, .. } => addr.clone(),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_or_greedy_circuit_costs_little_and_ends() {
    let mut config = RelayServerConfig::default();
    config.ledger.limit.duration = Some(Duration::from_secs(if full() { 120 } else { 8 }));
    let relay = Node::relay(config).await;
    let listener = Node::behind(2, &[&relay]).await;
    let asker = client().await;
    let circuit = asker
        .connect(through(&relay.addr, listener.peer()))
        .await
        .unwrap();
    // Nobody reads at the other end of this.
    let mut greedy = circuit.open_stream("/barewire/echo/1.0.0").await.unwrap();
    let mut sent = 0u64;
    let writing = async {
        loop {
            let chunk = Bytes::from(vec![1; 16 << 10]);
            if greedy.write_chunk(chunk).await.is_err() {
                return;
            }
            sent += 16 << 10;
        }
    };
    let ended = tokio::time::timeout(2 * DEADLINE, writing).await;
    assert!(ended.is_ok(), "a circuit outlives its limits");
    let carried = relay.server.stats().carried;
    // Each direction its limit.
    let most = 2 * (128 << 10);
    assert!(carried <= most, "{carried} bytes");
    println!(
        "a greedy circuit: {sent} bytes were offered, {carried} of at most {most} carried, then it ended"
    );
    until("nothing is left of it", || {
        relay.server.stats().circuits == 0
    })
    .await;
    asker.shutdown(Duration::from_secs(1)).await;
    for node in [listener, relay] {
        node.stop().await;
    }
}

/// Says these messages on a stream of DCUtR; whether the other side answered anything.
async fn punch(connection: &Connection, messages: &[&[u8]]) -> bool {
    let mut stream = connection.open_stream(dcutr::PROTOCOL).await.unwrap();
    let mut framed = BytesMut::new();
    for message in messages {
        framing::encode_prefixed(message, &mut framed);
    }
    // A reset may come before all is written.
    if stream.write_chunk(framed.freeze()).await.is_err() {
        return false;
    }
    let answer = tokio::time::timeout(DEADLINE, stream.read_chunk(4096)).await;
    matches!(answer.unwrap(), Ok(Some(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_punch_hits_few_addresses_few_times() {
    let relay = Node::relay(RelayServerConfig::default()).await;
    let attacker = Node::behind(2, &[&relay]).await;
    let victim = client().await;
    // The machine of a test has private addresses only.
    let mut config = HolePunchConfig::default();
    config.private = true;
    let puncher = HolePuncher::new(&victim, config);
    let router = puncher.register(Router::builder(victim.clone()));
    let router = router.spawn().unwrap();
    // It has to know an address of its own, or it takes part in nothing.
    victim
        .listen("/ip4/0.0.0.0/udp/0/quic-v1".parse().unwrap())
        .await
        .unwrap();
    let mut events = victim.events();
    let way = through(&relay.addr, attacker.peer());
    let connection = victim.connect(way).await.unwrap();
    let of_victim = || {
        let all = attacker.endpoint().connections();
        all.into_iter()
            .find(|one| one.peer_id() == victim.peer_id())
    };
    until("the relayed connection is there", || of_victim().is_some()).await;
    let relayed = of_victim().unwrap();
    let mut connect = vec![8, 100];
    for n in 0..100 {
        let addr: Multiaddr = format!("/ip4/10.255.255.{n}/udp/9/quic-v1")
            .parse()
            .unwrap();
        connect.extend([0x12, addr.as_bytes().len() as u8]);
        connect.extend_from_slice(addr.as_bytes());
    }
    let sync = [8, 0xac, 2];
    for _ in 0..20 {
        punch(&relayed, &[&connect, &sync, &sync, &connect]).await;
    }
    // Out of order, of no known type, and on connections that have no business with it.
    assert!(!punch(&relayed, &[&sync]).await);
    assert!(!punch(&relayed, &[&[8, 1]]).await);
    assert!(
        !punch(&connection, &[&connect, &sync]).await,
        "the wrong way round"
    );
    let direct = victim.connect(relay.addr.clone()).await.unwrap();
    let back = relay.endpoint().connection(&victim.peer_id()).unwrap();
    assert!(!punch(&back, &[&connect, &sync]).await, "without a relay");
    assert!(direct.close_reason().is_none());
    let (mut punches, mut dialled) = (0, 0);
    let told = async {
        while let Some(event) = events.next().await {
            let EventItem::Event(Event::HolePunch { step, .. }) = event else {
                continue;
            };
            match step {
                PunchStep::Punching { addrs, .. } => {
                    punches += 1;
                    dialled += addrs.len();
                }
                PunchStep::Failed(PunchError::TooMany) => return,
                _ => {}
            }
        }
    };
    let told = tokio::time::timeout(DEADLINE, told).await;
    assert!(told.is_ok(), "the peer never had its share");
    println!(
        "DCUtR: 20 exchanges with 100 addresses each made {punches} attempts, {dialled} dials (at most 3 and 24)"
    );
    assert!(
        punches <= 3 && dialled <= 3 * 8,
        "{punches} attempts, {dialled} dials"
    );
    router.shutdown(Duration::from_secs(1)).await;
    for node in [attacker, relay] {
        node.stop().await;
    }
}
