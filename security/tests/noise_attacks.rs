//! Hostile handshakes. Each test prints what it tried and how much of it got through.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use barewire_base::{Fault, Keypair, proto::ScanError};
use barewire_security::noise::{Handshake, HandshakeError, MAX_FRAME, PayloadError};
use bytes::BytesMut;
use common::{
    Foreign, LowOrder, Node, Slot, YAMUX, connect, extensions, field, framed, payload, rng, sent,
    signed, transcript,
};
use snow::resolvers::DefaultResolver;

/// Our side of a handshake in the role opposite to an initiating (or answering) foreigner.
fn opposite(node: &mut Node, foreign_initiates: bool) -> Handshake {
    if foreign_initiates {
        node.answer()
    } else {
        node.dial(None)
    }
}

/// Runs one hostile handshake and returns what our side made of it. Nothing may leave our side
/// afterwards.
fn refusal(node: &mut Node, mut foreign: Foreign) -> Option<HandshakeError> {
    let mut ours = opposite(node, foreign.noise.is_initiator());
    let error = foreign.run(&mut ours).err()?;
    assert!(!ours.is_finished());
    assert!(
        sent(&mut ours).is_empty(),
        "a failed handshake sends nothing more"
    );
    assert_eq!(
        ours.handle_input(&[0; 1000]),
        Err(error.clone()),
        "an error is final"
    );
    assert_eq!(ours.finish().unwrap_err(), error);
    Some(error)
}

#[test]
fn another_identity() {
    let mut node = Node::new(1);
    let mut honest = Node::new(2);
    let wanted = honest.identity.public().to_protobuf();
    // The node has met the honest peer, in both roles: what it remembers must not let anyone else
    // in.
    connect(&mut node, &mut honest);
    connect(&mut honest, &mut node);
    let mallory = Keypair::generate(&mut rng(3));
    let mallorys = mallory.public().to_protobuf();

    // What the honest peer shows to whoever talks to it: mallory may have recorded it.
    let mut recorder = Foreign::new(true, 900);
    let mut listener = honest.answer();
    let first = recorder.write(&[]);
    listener.handle_input(&first).unwrap();
    recorder.read(&sent(&mut listener)).unwrap();
    let recorded = recorder.received;

    let mut cases = 0;
    let mut accepted = 0;
    for initiates in [true, false] {
        let seed = 901;
        let foreign = || Foreign::new(initiates, seed);
        let statics = foreign().static_public;
        let other_static = Foreign::new(true, seed + 1).static_public;
        let by_mallory = mallory.sign(&signed(&statics));
        let mut broken = by_mallory;
        broken[40] ^= 1;
        let substitutions: [(&str, Vec<u8>, HandshakeError); 10] = [
            (
                "another's key, own signature",
                payload(&wanted, &by_mallory, &[]),
                HandshakeError::Signature,
            ),
            (
                "another's payload as it was recorded",
                recorded.clone(),
                HandshakeError::Signature,
            ),
            (
                "own signature over another static key",
                payload(&mallorys, &mallory.sign(&signed(&other_static)), &[]),
                HandshakeError::Signature,
            ),
            (
                "own signature without the prefix",
                payload(&mallorys, &mallory.sign(&statics), &[]),
                HandshakeError::Signature,
            ),
            (
                "own signature with a bit changed",
                payload(&mallorys, &broken, &[]),
                HandshakeError::Signature,
            ),
            (
                "own signature cut",
                payload(&mallorys, &by_mallory[..63], &[]),
                HandshakeError::Signature,
            ),
            (
                "a signature of zeros",
                payload(&wanted, &[0; 64], &[]),
                HandshakeError::Signature,
            ),
            (
                "no signature",
                payload(&wanted, &[], &[]),
                HandshakeError::Signature,
            ),
            (
                "no key",
                field(2, &by_mallory),
                PayloadError::IdentityKey.into(),
            ),
            ("nothing", Vec::new(), PayloadError::IdentityKey.into()),
        ];
        for (name, payload, expected) in substitutions {
            cases += 1;
            let error = refusal(&mut node, foreign().with_payload(payload));
            accepted += usize::from(error.is_none());
            assert_eq!(
                error,
                Some(expected),
                "{name}, foreign initiates: {initiates}"
            );
        }
    }

    // Whoever answers with a valid identity of its own is still not whom we dialled, and never
    // learns who we are.
    cases += 1;
    let mut dialer = node.dial(Some(honest.peer_id()));
    let mut answering = Foreign::new(false, 902).honest(&mallory, &[YAMUX]);
    let error = answering.run(&mut dialer).unwrap_err();
    let (expected, found) = (honest.peer_id(), mallory.peer_id());
    assert_eq!(error, HandshakeError::PeerIdMismatch { expected, found });
    assert_eq!(error.fault(), Fault::Peer);
    let sentence = error.to_string();
    assert!(
        sentence.contains(&expected.to_string()) && sentence.contains(&found.to_string()),
        "{sentence}"
    );
    assert!(
        sent(&mut dialer).is_empty(),
        "the third message would tell who dialled"
    );
    accepted += usize::from(dialer.finish().is_ok());

    // The id is looked at first, so that a signature costs nothing when it cannot matter.
    cases += 1;
    let mut dialer = node.dial(Some(honest.peer_id()));
    let unsigned = payload(&mallorys, &[0; 64], &[]);
    let error = Foreign::new(false, 903)
        .with_payload(unsigned)
        .run(&mut dialer)
        .unwrap_err();
    assert_eq!(error, HandshakeError::PeerIdMismatch { expected, found });

    println!("identity substitution: {accepted} of {cases} cases accepted");
    assert_eq!(accepted, 0);
}

/// The encodings of points of low order, of the curve and its twist, at
/// <https://cr.yp.to/ecdh.html>. The last five only are such to an implementation that does not
/// mask the highest bit, as RFC 7748 (section 5) says to.
fn known_points() -> [[u8; 32]; 12] {
    // p = 2^255 - 19 and 2p = 2^256 - 38, in little endian.
    let mut p = [0xff; 32];
    p[0] = 0xed;
    p[31] = 0x7f;
    let mut two_p = [0xff; 32];
    two_p[0] = 0xda;
    let shifted = |mut value: [u8; 32], by: i8| {
        value[0] = value[0].wrapping_add_signed(by);
        value
    };
    let plus_p = |value: [u8; 32]| {
        let mut carry = 0u16;
        let mut sum = [0; 32];
        for ((out, a), b) in sum.iter_mut().zip(value).zip(p) {
            let digit = u16::from(a) + u16::from(b) + carry;
            *out = digit as u8;
            carry = digit >> 8;
        }
        sum
    };
    let one = shifted([0; 32], 1);
    // The two of order eight.
    let eighth = hex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800");
    let other_eighth = hex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157");
    [
        [0; 32],
        one,
        eighth,
        other_eighth,
        shifted(p, -1),
        p,
        shifted(p, 1),
        plus_p(eighth),
        plus_p(other_eighth),
        shifted(two_p, -1),
        two_p,
        shifted(two_p, 1),
    ]
}

fn hex(text: &str) -> [u8; 32] {
    std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
}

/// Whether snow with its own primitives completes the handshake with such a peer: the control of
/// the test below.
fn snow_accepts(victim_initiates: bool, slot: Slot, point: [u8; 32]) -> bool {
    let mut attacker =
        Foreign::with_resolver(!victim_initiates, 7, Box::new(LowOrder { slot, point }));
    let mut victim = Foreign::with_resolver(victim_initiates, 8, Box::new(DefaultResolver));
    let sides = if victim_initiates {
        [&mut victim, &mut attacker]
    } else {
        [&mut attacker, &mut victim]
    };
    let [initiator, responder] = sides;
    let first = initiator.write(&[]);
    let Ok(()) = responder.read(&first) else {
        return false;
    };
    let second = responder.write(b"payload");
    let Ok(()) = initiator.read(&second) else {
        return false;
    };
    let third = initiator.write(b"payload");
    responder.read(&third).is_ok()
}

/// What our side makes of a point in one of the attacker's key slots; `None` when it accepts.
fn with_point(
    node: &mut Node,
    initiates: bool,
    slot: Slot,
    point: [u8; 32],
) -> Option<HandshakeError> {
    let mut attacker = Foreign::with_resolver(initiates, 12, Box::new(LowOrder { slot, point }));
    if slot == Slot::Static {
        // All else is right: the identity vouches for the point.
        attacker.static_public = point;
    }
    let identity = Keypair::generate(&mut rng(11));
    let mut attacker = attacker.honest(&identity, &[YAMUX]);
    let mut ours = opposite(node, initiates);
    let error = attacker.run(&mut ours).err();
    assert_eq!(ours.is_finished(), error.is_none());
    error
}

#[test]
fn low_order_points_are_refused() {
    let mut node = Node::new(10);
    let points = known_points();
    let slots = [Slot::Ephemeral, Slot::Static];
    let (mut cases, mut refused) = (0, 0);
    for point in points {
        assert_eq!(points.iter().filter(|other| **other == point).count(), 1);
        for (slot, initiates) in slots
            .into_iter()
            .flat_map(|slot| [(slot, true), (slot, false)])
        {
            cases += 1;
            refused += usize::from(with_point(&mut node, initiates, slot, point).is_some());
        }
    }
    println!("the 12 known points in either slot and role: {refused}/{cases} refused");
    assert_eq!((refused, cases), (48, 48));

    // All that lead to zeros when the highest bit is masked, each by its own reason and not by what
    // would follow.
    let (mut cases, mut refused, mut snow_accepted) = (0, 0, 0);
    for (point, top) in points[..7]
        .iter()
        .flat_map(|point| [(point, 0), (point, 0x80)])
    {
        let mut point = *point;
        point[31] |= top;
        for (slot, initiates) in slots
            .into_iter()
            .flat_map(|slot| [(slot, true), (slot, false)])
        {
            cases += 1;
            let message = match (initiates, slot) {
                (false, _) => 2,
                (true, Slot::Ephemeral) => 1,
                (true, Slot::Static) => 3,
            };
            let error = with_point(&mut node, initiates, slot, point);
            assert_eq!(
                error,
                Some(HandshakeError::WeakKey { message }),
                "{slot:?} {point:02x?}"
            );
            refused += 1;
            snow_accepted += usize::from(snow_accepts(!initiates, slot, point));
        }
    }
    println!(
        "secrets of zeros: {refused}/{cases} refused as such; snow's own resolver accepts {snow_accepted}"
    );
    assert_eq!((refused, cases), (56, 56));
    assert_eq!(snow_accepted, cases, "the control attack has to be one");
}

/// Two nodes of which one dials the other again and again.
struct Pair(Node, Node);

impl Pair {
    fn new() -> Self {
        Self(Node::new(20), Node::new(21))
    }

    /// Both sides as they stand before message `number`, and that message.
    fn before(&mut self, number: usize) -> ([Handshake; 2], BytesMut) {
        let mut sides = [self.0.dial(Some(self.1.peer_id())), self.1.answer()];
        let mut message = sent(&mut sides[0]);
        for turn in 1..number {
            let to = receiver(&mut sides, turn);
            to.handle_input(&message).unwrap();
            message = sent(to);
        }
        (sides, message)
    }
}

/// Who gets message `number`.
fn receiver(sides: &mut [Handshake; 2], number: usize) -> &mut Handshake {
    &mut sides[number % 2]
}

/// Carries a handshake on from a changed message; true when both sides finish.
fn completes(number: usize, mut sides: [Handshake; 2], message: &[u8]) -> bool {
    let mut message = BytesMut::from(message);
    for turn in number..=3 {
        let to = receiver(&mut sides, turn);
        match to.handle_input(&message) {
            Ok(taken) if taken == message.len() && taken > 0 => message = sent(to),
            // An error, or a length that waits for bytes that never come.
            _ => break,
        }
    }
    sides.iter().all(Handshake::is_finished)
}

#[test]
fn every_bit_counts() {
    let mut pair = Pair::new();
    let lengths = [1, 2, 3].map(|number| pair.before(number).1.len());
    let (mut flips, mut completed) = (0, 0);
    for (number, length) in (1..).zip(lengths) {
        for (byte, bit) in (0..length).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            let (sides, mut message) = pair.before(number);
            message[byte] ^= 1 << bit;
            flips += 1;
            completed += usize::from(completes(number, sides, &message));
        }
    }
    println!(
        "bit flips: {completed} of {flips} handshakes complete (messages of {lengths:?} bytes)"
    );
    assert_eq!(completed, 0);
    let (sides, message) = pair.before(1);
    assert!(
        completes(1, sides, &message),
        "without a change they do complete"
    );
}

#[test]
fn truncated_and_trailing() {
    let mut pair = Pair::new();
    let (mut tried, mut completed) = (0, 0);
    for number in 1..=3 {
        let whole = pair.before(number).1;
        for length in (0..whole.len() - 2).step_by(3) {
            // With a length that fits what is left, and with the old one.
            let (sides, _) = pair.before(number);
            completed += usize::from(completes(number, sides, &framed(&whole[2..2 + length])));
            let (mut sides, _) = pair.before(number);
            let to = receiver(&mut sides, number);
            assert_eq!(to.handle_input(&whole[..2 + length]), Ok(0));
            completed += usize::from(to.is_finished());
            tried += 2;
        }
        for extra in [1, 16, 1000, 65_535 - (whole.len() - 2)] {
            let longer = framed(&[&whole[2..], &vec![0; extra]].concat());
            let (sides, _) = pair.before(number);
            completed += usize::from(completes(number, sides, &longer));
            tried += 1;
        }
    }
    println!("truncated or prolonged: {completed} of {tried} handshakes complete");
    assert_eq!(completed, 0);
}

#[test]
fn short_frames_fail_at_their_length() {
    let mut pair = Pair::new();
    for (number, shortest) in [(1, 32), (2, 96), (3, 64)] {
        for length in [0, 1, shortest - 1] {
            let (mut sides, _) = pair.before(number);
            // Two bytes are enough to know.
            let prefix = u16::try_from(length).unwrap().to_be_bytes();
            let error = receiver(&mut sides, number)
                .handle_input(&prefix)
                .unwrap_err();
            assert_eq!(
                error,
                HandshakeError::TooShort {
                    message: number as u8,
                    length
                }
            );
        }
    }
}

/// Old messages are worth nothing to a side with a new ephemeral key.
#[test]
fn replays_fail() {
    let (mut alice, mut bob) = (Node::new(30), Node::new(31));
    let [first, second, third] = transcript(&mut alice.dial(None), &mut bob.answer());

    let mut listener = bob.answer();
    listener.handle_input(&first).unwrap();
    assert_ne!(
        sent(&mut listener),
        second,
        "a replayed first message gets a fresh answer"
    );
    let error = listener.handle_input(&third).unwrap_err();
    assert_eq!(error, HandshakeError::Authentication { message: 3 });

    let mut dialer = alice.dial(None);
    sent(&mut dialer);
    let error = dialer.handle_input(&second).unwrap_err();
    assert_eq!(error, HandshakeError::Authentication { message: 2 });

    // Our own messages sent back to us.
    let mut dialer = alice.dial(None);
    let own = sent(&mut dialer);
    assert_eq!(
        dialer.handle_input(&own).unwrap_err(),
        HandshakeError::TooShort {
            message: 2,
            length: 32
        }
    );
}

/// A peer with our own static key and identity is ourselves; the owner compares ids if it minds.
#[test]
fn ourselves() {
    let mut alice = Node::new(33);
    let (mut dialer, mut listener) = (alice.dial(None), alice.answer());
    transcript(&mut dialer, &mut listener);
    assert_eq!(dialer.finish().unwrap().peer_id, alice.peer_id());
}

#[test]
fn early_data_is_discarded() {
    let identity = Keypair::generate(&mut rng(40));
    let mut node = Node::new(41);
    // In the first message, up to the largest frame there is.
    for length in [1, 1000, 65_535 - 32] {
        let mut foreign = Foreign::new(true, 42).honest(&identity, &[YAMUX]);
        let mut ours = node.answer();
        let first = foreign.write(&vec![7; length]);
        assert!(first.len() <= MAX_FRAME);
        assert_eq!(ours.handle_input(&first), Ok(first.len()));
        foreign.read(&sent(&mut ours)).unwrap();
        let third = foreign.write(&foreign.payload.clone());
        ours.handle_input(&third).unwrap();
        assert_eq!(ours.finish().unwrap().muxer.as_deref(), Some(YAMUX));
    }
    // In the field that carried it once, in the payload of either role.
    for initiates in [true, false] {
        let foreign = Foreign::new(initiates, 43).honest(&identity, &[YAMUX]);
        let mut ours = opposite(&mut node, initiates);
        let payload = [foreign.payload.clone(), field(3, &[9; 500])].concat();
        foreign.with_payload(payload).run(&mut ours).unwrap();
        assert_eq!(ours.finish().unwrap().muxer.as_deref(), Some(YAMUX));
    }
}

#[test]
fn odd_payloads() {
    let identity = Keypair::generate(&mut rng(44));
    let key = identity.public().to_protobuf();
    let mut node = Node::new(45);
    let many = |count: usize| -> Vec<u8> {
        (0..count)
            .flat_map(|n| field(2, format!("/m/{n}").as_bytes()))
            .collect()
    };
    let hashes = |count: usize| -> Vec<u8> { field(1, &[]).repeat(count) };
    let ours = extensions(&[YAMUX]);
    let with = |extra: Vec<u8>| [extra, ours.clone()].concat();
    let taken = Ok(Some(YAMUX));
    let none = Ok(None);
    let scan = |error| Err(PayloadError::Scan(error));
    // Extensions, and the muxer they lead to or why they are refused.
    type Expected = Result<Option<&'static str>, PayloadError>;
    let cases: Vec<(&str, Vec<u8>, Expected)> = vec![
        ("ours alone", ours.clone(), taken.clone()),
        (
            "ours after others",
            with(extensions(&["/mplex/6.7.0", "/quic"])),
            taken.clone(),
        ),
        ("none of ours", extensions(&["/mplex/6.7.0"]), none.clone()),
        ("an empty name", extensions(&[""]), none.clone()),
        (
            "a name that ours begins with",
            extensions(&["/yamux/1.0"]),
            none.clone(),
        ),
        ("100 muxers", with(many(99)), taken.clone()),
        ("101 muxers count as none", with(many(100)), none.clone()),
        ("64 certificate hashes", with(hashes(64)), taken.clone()),
        ("65 certificate hashes", with(hashes(65)), taken.clone()),
        (
            "32,000 certificate hashes, all that fit",
            with(hashes(32_000)),
            taken.clone(),
        ),
        (
            "certificate hashes of another type",
            with(vec![0x08, 1]),
            taken.clone(),
        ),
        ("13,000 muxers", field(2, b"/aa").repeat(13_000), none),
        (
            "unknown fields",
            with([field(9, b"new"), vec![0x50, 1]].concat()),
            taken.clone(),
        ),
        (
            "257 unknown fields",
            with(field(9, b"new").repeat(257)),
            taken.clone(),
        ),
        (
            "32,000 unknown fields, all that fit",
            with([0x50, 1].repeat(32_000)),
            taken.clone(),
        ),
        (
            "an unknown group",
            with(vec![0x4b, 0x4c]),
            scan(ScanError::TooDeep(0)),
        ),
        (
            "a muxer that is not text",
            field(2, &[0xff, 0xfe]),
            Err(PayloadError::Field),
        ),
        (
            "muxers of another type",
            vec![0x10, 1],
            Err(PayloadError::Field),
        ),
        (
            "a cut field",
            vec![0x12, 5, b'/'],
            scan(ScanError::Truncated),
        ),
    ];
    for (name, extensions, expected) in &cases {
        for initiates in [true, false] {
            let foreign = Foreign::new(initiates, 46);
            let signature = identity.sign(&signed(&foreign.static_public));
            let mut ours = opposite(&mut node, initiates);
            let run = foreign
                .with_payload(payload(&key, &signature, extensions))
                .run(&mut ours);
            match expected {
                Ok(muxer) => {
                    assert_eq!(run, Ok(()), "{name}");
                    assert_eq!(ours.finish().unwrap().muxer.as_deref(), *muxer, "{name}");
                }
                Err(error) => assert_eq!(run, Err(error.clone().into()), "{name}"),
            }
        }
    }
    println!(
        "{} payload extensions, in both roles, as expected",
        cases.len()
    );

    // Around the extensions.
    for initiates in [true, false] {
        let foreign = || Foreign::new(initiates, 47);
        let signature = identity.sign(&signed(&foreign().static_public));
        let good = payload(&key, &signature, &[]);
        let cases: [(&str, Vec<u8>, Option<PayloadError>); 5] = [
            (
                "unknown fields",
                [good.clone(), field(15, b"?"), vec![0x38, 1]].concat(),
                None,
            ),
            (
                "unknown fields without end",
                [good.clone(), [0x38, 1].repeat(1000)].concat(),
                scan(ScanError::TooManyFields(16)).err(),
            ),
            (
                "a key in wrapping",
                payload(&field(1, &key), &signature, &[]),
                Some(PayloadError::IdentityKey),
            ),
            (
                "a key of zeros",
                payload(&[0; 36], &signature, &[]),
                Some(PayloadError::IdentityKey),
            ),
            (
                "a key of another type",
                [vec![0x08, 1], field(2, &signature)].concat(),
                Some(PayloadError::Field),
            ),
        ];
        for (name, payload, expected) in cases {
            let mut ours = opposite(&mut node, initiates);
            let run = foreign().with_payload(payload).run(&mut ours);
            assert_eq!(
                run,
                expected.map_or(Ok(()), |error| Err(error.into())),
                "{name}"
            );
        }
        let mut ours = opposite(&mut node, initiates);
        let error = foreign()
            .with_payload(vec![0xff; 300])
            .run(&mut ours)
            .unwrap_err();
        assert!(
            matches!(error, HandshakeError::Payload(PayloadError::Scan(_))),
            "{error}"
        );
        assert_eq!(error.fault(), Fault::Peer);
    }
}

/// The identity's id is that of the key's canonical form, whatever form the payload has it in.
#[test]
fn a_key_in_another_encoding() {
    let identity = Keypair::generate(&mut rng(48));
    let mut node = Node::new(49);
    let mut foreign = Foreign::new(false, 50);
    let signature = identity.sign(&signed(&foreign.static_public));
    // Field order reversed, and a field nobody knows.
    let canonical = identity.public().to_protobuf();
    let odd = [&canonical[2..], &canonical[..2], &field(7, b"?")].concat();
    foreign.payload = payload(&odd, &signature, &[]);
    let mut ours = node.dial(Some(identity.peer_id()));
    foreign.run(&mut ours).unwrap();
    assert_eq!(ours.finish().unwrap().peer_id, identity.peer_id());
}
