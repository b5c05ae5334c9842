//! Noise handshakes: arbitrary bytes to both roles at each stage, arbitrary payloads from a peer
//! whose cryptography is right, good handshakes in arbitrary pieces and with one byte changed.
#![no_main]

use std::sync::{Arc, LazyLock};

use arbitrary::Arbitrary;
use barewire_base::Keypair;
use barewire_security::noise::{Config, Handshake, HandshakeError, MAX_FRAME};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand::rngs::StdRng;

const NOISE: &str = "Noise_XX_25519_ChaChaPoly_SHA256";

static CONFIG: LazyLock<Arc<Config>> = LazyLock::new(|| {
    let identity = Keypair::from_seed(&[7; 32]);
    let muxers = vec![Arc::from("/yamux/1.0.0"), Arc::from("/a")];
    Arc::new(Config::new(&identity, muxers, &mut StdRng::seed_from_u64(1)).expect("a config"))
});

/// The static secret of the foreign peer, and the payload it shows when it is honest.
static FOREIGN: LazyLock<([u8; 32], Vec<u8>)> = LazyLock::new(|| {
    let secret = [9; 32];
    let mut dh = snow::resolvers::CryptoResolver::resolve_dh(
        &snow::resolvers::DefaultResolver,
        &snow::params::DHChoice::Curve25519,
    )
    .expect("the default resolver knows the curve");
    dh.set(&secret);
    let identity = Keypair::from_seed(&[8; 32]);
    let signature = identity.sign(&[b"noise-libp2p-static-key:", dh.pubkey()].concat());
    let key = identity.public().to_protobuf();
    (
        secret,
        [&[0x0a, key.len() as u8][..], &key, &[0x12, 64], &signature].concat(),
    )
});

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// These bytes in place of one message.
    Raw { message: Message, bytes: &'a [u8] },
    /// A frame of these bytes in place of one message, so that its length is right.
    Framed { message: Message, bytes: &'a [u8] },
    /// A payload that arrives authenticated, behind an honest one or alone.
    Payload {
        initiates: bool,
        after_honest: bool,
        bytes: &'a [u8],
    },
    /// A good handshake in pieces of these lengths, with bytes behind its end.
    Pieces { lengths: Vec<u8>, surplus: &'a [u8] },
    /// A good handshake with one byte of one message changed.
    Changed { message: Message, at: u16, xor: u8 },
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Message {
    First,
    Second,
    Third,
}

const MESSAGES: [Message; 3] = [Message::First, Message::Second, Message::Third];

/// The initiator and the responder.
struct Sides([Handshake; 2]);

impl Sides {
    fn new() -> Self {
        let (mut dial, mut answer) = (StdRng::seed_from_u64(2), StdRng::seed_from_u64(3));
        Self([
            Handshake::initiator(&CONFIG, None, &mut dial).expect("an initiator"),
            Handshake::responder(&CONFIG, &mut answer).expect("a responder"),
        ])
    }

    fn receiver(&mut self, message: Message) -> &mut Handshake {
        &mut self.0[usize::from(message != Message::Second)]
    }

    fn sender(&mut self, message: Message) -> &mut Handshake {
        &mut self.0[usize::from(message == Message::Second)]
    }

    /// Runs up to `message`, which is returned and not delivered.
    fn until(&mut self, message: Message) -> BytesMut {
        for earlier in MESSAGES.into_iter().filter(|earlier| *earlier < message) {
            let bytes = sent(self.sender(earlier));
            let taken = self.receiver(earlier).handle_input(&bytes);
            assert_eq!(taken, Ok(bytes.len()), "an honest handshake goes on");
        }
        sent(self.sender(message))
    }
}

fn sent(side: &mut Handshake) -> BytesMut {
    let mut out = BytesMut::new();
    assert_eq!(side.poll_transmit(&mut out), !out.is_empty());
    assert!(out.len() <= MAX_FRAME);
    out
}

/// What holds after any input: an error is final and silent, and a result comes once finished.
fn settle(mut side: Handshake, result: Result<usize, HandshakeError>, given: usize) {
    match result {
        Ok(taken) => {
            assert!(taken <= given);
            let _ = sent(&mut side);
            let finished = side.is_finished();
            assert_eq!(side.finish().is_ok(), finished);
        }
        Err(error) => {
            let _ = (error.fault(), error.to_string());
            assert!(sent(&mut side).is_empty());
            assert_eq!(side.handle_input(&[0; 200]), Err(error.clone()));
            assert_eq!(side.finish().err(), Some(error));
        }
    }
}

fn deliver(message: Message, bytes: &[u8]) {
    let mut sides = Sides::new();
    sides.until(message);
    let result = sides.receiver(message).handle_input(bytes);
    let [initiator, responder] = sides.0;
    let side = if message == Message::Second {
        initiator
    } else {
        responder
    };
    assert!(
        message == Message::First || !side.is_finished(),
        "nobody guesses a handshake"
    );
    settle(side, result, bytes.len());
}

fn payload(initiates: bool, payload: &[u8]) {
    let (secret, _) = &*FOREIGN;
    let builder = snow::Builder::new(NOISE.parse().expect("a known name"))
        .local_private_key(secret)
        .expect("set once")
        .fixed_ephemeral_key_for_testing_only(&[5; 32]);
    let mut buffer = vec![0; MAX_FRAME];
    let mut frame = |noise: &mut snow::HandshakeState, payload: &[u8]| {
        let length = noise.write_message(payload, &mut buffer).ok()?;
        Some([&(length as u16).to_be_bytes()[..], &buffer[..length]].concat())
    };
    let Sides([mut dialer, mut listener]) = Sides::new();
    let (mut side, message) = if initiates {
        let mut noise = builder.build_initiator().expect("an initiator");
        let first = frame(&mut noise, &[]).expect("an empty payload fits");
        assert_eq!(listener.handle_input(&first), Ok(first.len()));
        noise
            .read_message(&sent(&mut listener)[2..], &mut [0; 1024])
            .expect("an honest message");
        (listener, frame(&mut noise, payload))
    } else {
        let mut noise = builder.build_responder().expect("a responder");
        noise
            .read_message(&sent(&mut dialer)[2..], &mut [0; 1024])
            .expect("an honest message");
        (dialer, frame(&mut noise, payload))
    };
    if let Some(message) = message {
        let result = side.handle_input(&message);
        settle(side, result, message.len());
    }
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Raw { message, bytes } => deliver(message, bytes),
    Input::Framed { message, bytes } => {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        deliver(
            message,
            &[&length.to_be_bytes(), &bytes[..usize::from(length)]].concat(),
        );
    }
    Input::Payload {
        initiates,
        after_honest,
        bytes,
    } => {
        let honest = if after_honest { &FOREIGN.1[..] } else { &[] };
        payload(initiates, &[honest, bytes].concat());
    }
    Input::Pieces { lengths, surplus } => {
        let mut lengths = lengths.into_iter().chain([1, 255]).cycle();
        let mut sides = Sides::new();
        for message in MESSAGES {
            let mut wire = sent(sides.sender(message));
            let length = wire.len();
            if message == Message::Third {
                wire.extend_from_slice(surplus);
            }
            let (mut arrived, mut taken) = (0, 0);
            while arrived < wire.len() {
                let piece = usize::from(lengths.next().unwrap_or(1));
                arrived = wire.len().min(arrived + piece);
                let input = &wire[taken..arrived];
                taken += sides
                    .receiver(message)
                    .handle_input(input)
                    .expect("an honest message");
            }
            assert_eq!(taken, length, "exactly the frame, whatever follows");
        }
        let [initiator, responder] = sides.0.map(|side| side.finish().expect("finished"));
        assert_eq!(initiator.peer_id, responder.peer_id);
        assert_eq!(initiator.muxer.as_deref(), Some("/yamux/1.0.0"));
    }
    Input::Changed { message, at, xor } => {
        let mut sides = Sides::new();
        let mut wire = sides.until(message);
        let at = usize::from(at) % wire.len();
        wire[at] ^= xor;
        for message in MESSAGES.into_iter().filter(|later| *later >= message) {
            match sides.receiver(message).handle_input(&wire) {
                Ok(taken) if taken == wire.len() && taken > 0 => {}
                _ => break,
            }
            if message != Message::Third {
                wire = sent(sides.receiver(message));
            }
        }
        assert_eq!(sides.0.iter().all(Handshake::is_finished), xor == 0);
    }
});
