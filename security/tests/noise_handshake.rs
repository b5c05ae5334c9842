//! Honest handshakes: between our two roles, with snow's own primitives, in any fragmentation.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::sync::Arc;

use barewire_base::{Fault, Keypair};
use barewire_security::noise::{Config, ConfigError, Handshake, HandshakeError, MAX_MUXERS};
use barewire_security::{Opened, Session};
use bytes::BytesMut;
use common::{Foreign, Node, YAMUX, connect, names, rng, sent, transcript};
use proptest::prelude::*;

/// Sends a line each way and expects it to arrive.
fn talk(a: Session, b: Session) {
    let ((mut seal_a, mut open_a), (mut seal_b, mut open_b)) = (a.split(), b.split());
    for (sealer, opener) in [(&mut seal_a, &mut open_b), (&mut seal_b, &mut open_a)] {
        let mut wire = BytesMut::new();
        sealer
            .seal([&b"hello, "[..], b"peer"].into_iter(), &mut wire)
            .unwrap();
        let Opened::Record {
            plaintext,
            consumed,
        } = opener.open_in_place(&mut wire).unwrap()
        else {
            panic!("a whole record needs no more")
        };
        assert_eq!(
            (&wire[plaintext], consumed),
            (&b"hello, peer"[..], wire.len())
        );
    }
}

#[test]
fn both_roles_agree() {
    let (mut alice, mut bob) = (Node::new(1), Node::new(2));
    let (dialed, answered) = connect(&mut alice, &mut bob);
    assert_eq!(dialed.peer_id, bob.peer_id());
    assert_eq!(&dialed.public_key, bob.identity.public());
    assert_eq!(answered.peer_id, alice.peer_id());
    assert_eq!(dialed.muxer.as_deref(), Some(YAMUX));
    assert_eq!(answered.muxer.as_deref(), Some(YAMUX));
    talk(dialed.session, answered.session);
}

/// A dialer that knows no id takes whoever answers.
#[test]
fn anyone_will_do() {
    let (mut alice, mut bob) = (Node::new(3), Node::new(4));
    let (mut dialer, mut listener) = (alice.dial(None), bob.answer());
    transcript(&mut dialer, &mut listener);
    assert_eq!(dialer.finish().unwrap().peer_id, bob.peer_id());
}

#[test]
fn interoperates_with_snows_primitives() {
    let foreign_identity = Keypair::generate(&mut rng(50));
    for (seed, initiator) in [(10, true), (11, false)] {
        let mut node = Node::new(seed);
        let mut ours = if initiator {
            node.answer()
        } else {
            node.dial(Some(foreign_identity.peer_id()))
        };
        let mut foreign = Foreign::new(initiator, seed).honest(&foreign_identity, &[YAMUX]);
        foreign.run(&mut ours).unwrap();
        assert!(ours.is_finished());
        let secured = ours.finish().unwrap();
        assert_eq!(secured.peer_id, foreign_identity.peer_id());
        assert_eq!(secured.muxer.as_deref(), Some(YAMUX));

        // Records, through snow's own transport state.
        let mut transport = foreign.noise.into_transport_mode().unwrap();
        let (mut sealer, mut opener) = secured.session.split();
        for round in 0..3u8 {
            let mut wire = BytesMut::new();
            sealer
                .seal([&[round; 1000][..]].into_iter(), &mut wire)
                .unwrap();
            let mut buffer = vec![0; 65_535];
            let length = transport.read_message(&wire[2..], &mut buffer).unwrap();
            assert_eq!(buffer[..length], [round; 1000]);
            let length = transport.write_message(&[round; 77], &mut buffer).unwrap();
            let mut record = common::framed(&buffer[..length]);
            let Opened::Record { plaintext, .. } = opener.open_in_place(&mut record).unwrap()
            else {
                panic!("a whole record needs no more")
            };
            assert_eq!(record[plaintext], [round; 77]);
        }
    }
}

/// The first message holds the ephemeral key and nothing else: rust-libp2p refuses any payload
/// there.
#[test]
fn the_first_message_is_bare() {
    let first = sent(&mut Node::new(5).dial(None));
    assert_eq!(first.len(), 2 + 32);
    assert_eq!(first[..2], [0, 32]);
}

/// Same configuration, same random bytes: same wire.
#[test]
fn deterministic() {
    let wires: Vec<_> = (0..2)
        .map(|_| {
            let (mut alice, mut bob) = (Node::new(20), Node::new(21));
            let (mut dialer, mut listener) = (alice.dial(None), bob.answer());
            transcript(&mut dialer, &mut listener)
        })
        .collect();
    assert_eq!(wires[0], wires[1]);
}

/// Every handshake has its own ephemeral key, though the static one stays.
#[test]
fn handshakes_differ() {
    let (mut alice, mut bob) = (Node::new(22), Node::new(23));
    let mut wires = [0, 1].map(|_| transcript(&mut alice.dial(None), &mut bob.answer()));
    assert_eq!(
        wires[0].each_ref().map(BytesMut::len),
        wires[1].each_ref().map(BytesMut::len)
    );
    for (one, other) in wires[0].clone().iter().zip(&mut wires[1]) {
        assert_ne!(one, other);
    }
}

/// What follows the last handshake frame stays with the owner: it is the first record.
#[test]
fn surplus_is_left() {
    let (mut alice, mut bob) = (Node::new(30), Node::new(31));
    let (mut dialer, mut listener) = (alice.dial(None), bob.answer());
    listener.handle_input(&sent(&mut dialer)).unwrap();
    dialer.handle_input(&sent(&mut listener)).unwrap();
    let mut wire = sent(&mut dialer);
    let third = wire.len();
    let (mut sealer, _) = dialer.finish().unwrap().session.split();
    sealer
        .seal([&b"early bird"[..]].into_iter(), &mut wire)
        .unwrap();

    assert_eq!(listener.handle_input(&wire), Ok(third));
    assert_eq!(listener.handle_input(&wire[third..]), Ok(0));
    let (_, mut opener) = listener.finish().unwrap().session.split();
    let Opened::Record { plaintext, .. } = opener.open_in_place(&mut wire[third..]).unwrap() else {
        panic!("a whole record needs no more")
    };
    assert_eq!(&wire[third..][plaintext], b"early bird");
}

#[test]
fn unfinished_gives_nothing() {
    let (mut alice, mut bob) = (Node::new(32), Node::new(33));
    assert_eq!(
        alice.dial(None).finish().unwrap_err(),
        HandshakeError::NotFinished
    );
    let (mut dialer, mut listener) = (alice.dial(None), bob.answer());
    listener.handle_input(&sent(&mut dialer)).unwrap();
    dialer.handle_input(&sent(&mut listener)).unwrap();
    // The dialer knows all it needs, but its third message was not taken yet.
    assert!(!dialer.is_finished());
    let error = dialer.finish().unwrap_err();
    assert_eq!(
        (error.clone(), error.fault()),
        (HandshakeError::NotFinished, Fault::Local)
    );
}

/// The first of the initiator's list that the responder has, whoever the responder prefers.
#[test]
fn early_muxer() {
    let cases: &[(&[&str], &[&str], Option<&str>)] = &[
        (&["/a", "/b"], &["/b", "/a"], Some("/a")),
        (&["/x", "/b"], &["/a", "/b"], Some("/b")),
        (&["/a"], &["/b"], None),
        (&[], &["/a"], None),
        (&["/a"], &[], None),
        (&[], &[], None),
    ];
    for (seed, (dialer, listener, agreed)) in (100..).step_by(2).zip(cases) {
        let (a, b) = connect(
            &mut Node::with_muxers(seed, dialer),
            &mut Node::with_muxers(seed + 1, listener),
        );
        assert_eq!((a.muxer.as_deref(), b.muxer.as_deref()), (*agreed, *agreed));
    }
}

/// rust-libp2p names no muxers; both roles then leave it to multistream-select.
#[test]
fn a_peer_without_muxers() {
    let identity = Keypair::generate(&mut rng(51));
    for initiator in [true, false] {
        let mut node = Node::new(40);
        let mut ours = if initiator {
            node.answer()
        } else {
            node.dial(None)
        };
        Foreign::new(initiator, 41)
            .honest(&identity, &[])
            .run(&mut ours)
            .unwrap();
        assert_eq!(ours.finish().unwrap().muxer, None);
    }
}

#[test]
fn config_limits() {
    let identity = Keypair::generate(&mut rng(60));
    let many: Vec<Arc<str>> = (0..=MAX_MUXERS).map(|n| format!("/m/{n}").into()).collect();
    let config = Config::new(&identity, many.clone(), &mut rng(61));
    assert_eq!(config.unwrap_err(), ConfigError::TooManyMuxers(101));
    Config::new(&identity, many[1..].to_vec(), &mut rng(61)).unwrap();
    let long = names(&["x".repeat(65_500).as_str()]);
    assert!(matches!(
        Config::new(&identity, long, &mut rng(61)),
        Err(ConfigError::PayloadTooLong(_))
    ));

    // The longest that is taken does fit into a message.
    let mut longest = None;
    for length in (65_200..65_500).rev() {
        let muxer = "x".repeat(length);
        if let Ok(config) = Config::new(&identity, names(&[&muxer]), &mut rng(61)) {
            longest = Some(Arc::new(config));
            break;
        }
    }
    let config = longest.unwrap();
    let mut dialer = Handshake::initiator(&config, None, &mut rng(62)).unwrap();
    let mut listener = Handshake::responder(&config, &mut rng(63)).unwrap();
    let [_, second, _] = transcript(&mut dialer, &mut listener);
    assert_eq!(second.len(), barewire_security::noise::MAX_FRAME);
}

/// A peer that comes back is recognised without another verification, and still only with its own
/// bytes.
#[test]
fn the_same_peer_again() {
    let (mut alice, mut bob) = (Node::new(70), Node::new(71));
    for _ in 0..3 {
        let (a, b) = connect(&mut alice, &mut bob);
        assert_eq!((a.peer_id, b.peer_id), (bob.peer_id(), alice.peer_id()));
        talk(a.session, b.session);
    }
    // More peers than are remembered.
    for seed in 1000..1300 {
        let (a, _) = connect(&mut alice, &mut Node::new(seed));
        assert_ne!(a.peer_id, bob.peer_id());
    }
    let (a, _) = connect(&mut alice, &mut bob);
    assert_eq!(a.peer_id, bob.peer_id());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// However the wire cuts the bytes, the handshake ends the same and takes exactly its own.
    #[test]
    fn any_fragmentation(cuts in proptest::collection::vec(1usize..40, 1..60), surplus in 0usize..100) {
        let (mut alice, mut bob) = (Node::new(80), Node::new(81));
        let mut sides = [alice.dial(Some(bob.peer_id())), bob.answer()];
        let mut cuts = cuts.into_iter().cycle();
        for turn in 0..3 {
            let [dialer, listener] = &mut sides;
            let (from, to) = if turn % 2 == 0 { (dialer, listener) } else { (listener, dialer) };
            let mut wire = sent(from);
            let length = wire.len();
            if turn == 2 {
                wire.extend_from_slice(&vec![0xa5; surplus]);
            }
            let (mut arrived, mut taken) = (0, 0);
            while arrived < wire.len() {
                arrived = (arrived + cuts.next().unwrap()).min(wire.len());
                taken += to.handle_input(&wire[taken..arrived]).unwrap();
            }
            prop_assert_eq!(taken, length);
        }
        prop_assert!(sides.iter().all(Handshake::is_finished));
    }
}
