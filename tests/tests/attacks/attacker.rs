//! A peer that sends what it likes: raw bytes, or raw yamux frames inside a proper Noise channel.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use barewire_base::{Keypair, multistream};
use barewire_security::{Opened, Opener, Sealer, noise};
use bytes::{Buf, BytesMut};

use crate::rig::{Target, closed};
pub(crate) use crate::rig::{connect, until_closed};

/// A secured connection without a muxer.
pub(crate) struct Attacker {
    pub(crate) socket: TcpStream,
    sink: bool,
    sealer: Sealer,
    opener: Opener,
    input: BytesMut,
}

impl Attacker {
    /// Completes an honest handshake with early muxer selection.
    pub(crate) fn secure(target: Target) -> Self {
        Self::secure_with(target, vec!["/yamux/1.0.0".into()])
    }

    /// Completes an honest handshake that names `muxers`. A sink gets the same bytes, and the keys come from a
    /// handshake with ourselves.
    pub(crate) fn secure_with(target: Target, muxers: Vec<Arc<str>>) -> Self {
        let mut socket = connect(target);
        let mut rng = rand::rng();
        let keypair = Keypair::generate(&mut rng);
        let config = Arc::new(noise::Config::new(&keypair, muxers, &mut rng).unwrap());
        let mut handshake = noise::Handshake::initiator(&config, None, &mut rng).unwrap();
        let mut ourselves = target
            .sink
            .then(|| noise::Handshake::responder(&config, &mut rng).unwrap());
        let mut dialer = multistream::Dialer::optimistic("/noise".into());
        let mut output = BytesMut::new();
        dialer.poll_transmit(&mut output);
        socket.write_all(&output).unwrap();
        let mut input = BytesMut::new();
        loop {
            output.clear();
            handshake.poll_transmit(&mut output);
            socket.write_all(&output).unwrap();
            if handshake.is_finished() {
                break;
            }
            if let Some(ourselves) = &mut ourselves {
                ourselves.handle_input(&output).unwrap();
                ourselves.poll_transmit(&mut input);
            } else {
                let mut chunk = [0; 4096];
                let n = socket.read(&mut chunk).unwrap();
                assert!(n > 0, "the victim ended the handshake");
                input.extend_from_slice(&chunk[..n]);
                if dialer.outcome().is_none() {
                    let consumed = dialer.handle_input(&input).unwrap();
                    input.advance(consumed);
                }
            }
            if dialer.outcome().is_some() || target.sink {
                let consumed = handshake.handle_input(&input).unwrap();
                input.advance(consumed);
            }
        }
        let (sealer, opener) = handshake.finish().unwrap().session.split();
        Self {
            socket,
            sink: target.sink,
            sealer,
            opener,
            input,
        }
    }

    /// Seals `plaintext` into as many full records as it takes.
    pub(crate) fn seal(&mut self, plaintext: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        for part in plaintext.chunks(barewire_security::MAX_PLAINTEXT) {
            self.sealer.seal(std::iter::once(part), &mut out).unwrap();
        }
        out
    }

    /// Sends plaintext; an error means that the victim has closed.
    pub(crate) fn send(&mut self, plaintext: &[u8]) -> std::io::Result<()> {
        let sealed = self.seal(plaintext);
        self.socket.write_all(&sealed)
    }

    /// Seals one empty record.
    pub(crate) fn seal_empty(&mut self, out: &mut BytesMut) {
        self.sealer.seal(std::iter::empty(), out).unwrap();
    }

    /// The plaintext of the next record, or `None` when the victim has closed or is silent for as long as the target is
    /// held. A sink says nothing.
    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        if self.sink {
            return None;
        }
        loop {
            match self.opener.open_in_place(&mut self.input).unwrap() {
                Opened::Record {
                    plaintext,
                    consumed,
                } => {
                    let record = self.input[plaintext].to_vec();
                    self.input.advance(consumed);
                    return Some(record);
                }
                other @ (Opened::KeyUpdate { .. } | Opened::Closed) => panic!("{other:?}"),
                Opened::NeedMore { .. } => {
                    let mut chunk = [0; 16 * 1024];
                    match self.socket.read(&mut chunk) {
                        Ok(0) => return None,
                        Ok(n) => self.input.extend_from_slice(&chunk[..n]),
                        Err(error) if closed(&error) || timed_out(&error) => return None,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
    }

    /// Reads until the victim closes; returns the frames it sent and how long that took.
    pub(crate) fn drain(mut self) -> (Vec<u8>, Duration) {
        let begun = Instant::now();
        let mut frames = Vec::new();
        while let Some(record) = self.receive() {
            frames.extend_from_slice(&record);
        }
        (frames, begun.elapsed())
    }
}

fn timed_out(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// yamux frame types.
pub(crate) const DATA: u8 = 0;
pub(crate) const WINDOW: u8 = 1;
pub(crate) const PING: u8 = 2;
pub(crate) const GO_AWAY: u8 = 3;
/// yamux flags.
pub(crate) const SYN: u16 = 1;
pub(crate) const ACK: u16 = 2;
pub(crate) const FIN: u16 = 4;
pub(crate) const RST: u16 = 8;

/// A yamux header, of any version.
pub(crate) fn header(version: u8, kind: u8, flags: u16, id: u32, length: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0] = version;
    bytes[1] = kind;
    bytes[2..4].copy_from_slice(&flags.to_be_bytes());
    bytes[4..8].copy_from_slice(&id.to_be_bytes());
    bytes[8..].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// A data frame.
pub(crate) fn data(flags: u16, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let mut frame = header(0, DATA, flags, id, length).to_vec();
    frame.extend_from_slice(payload);
    frame
}

/// Header and proposal of one protocol, as an opener sends them.
pub(crate) fn propose(protocol: &str) -> Vec<u8> {
    multistream::optimistic_proposal(protocol).to_vec()
}
