//! WebSocket frames: however the input is cut the outcome is the same, and where this decoder and
//! tungstenite both take a stream of frames they agree on its bytes.
#![no_main]

use std::{io, time::Instant};

use barewire_transport::{
    Role,
    ws::frame::{Decoder, FrameError, Limits},
};
use libfuzzer_sys::fuzz_target;
use tungstenite::protocol::{self, Message, WebSocket, WebSocketConfig};

const LIMITS: Limits = Limits {
    max_frame: 1 << 20,
    max_idle_frames_per_second: 64,
};

/// What a stream of bytes leads to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    payload: Vec<u8>,
    closed: Option<u16>,
    error: Option<FrameError>,
}

fn decode(role: Role, bytes: &[u8], cut: usize) -> Outcome {
    let now = Instant::now();
    let mut decoder = Decoder::new(role, LIMITS);
    let mut outcome = Outcome {
        payload: Vec::new(),
        closed: None,
        error: None,
    };
    for piece in bytes.chunks(cut.max(1)) {
        let mut piece = piece.to_vec();
        match decoder.decode(now, &mut piece) {
            Ok(kept) => {
                assert!(kept <= piece.len());
                outcome.payload.extend_from_slice(&piece[..kept]);
            }
            Err(error) => {
                outcome.error = Some(error);
                break;
            }
        }
        if let Some(pong) = decoder.take_pong() {
            assert!(pong.as_slice().len() <= 125);
        }
    }
    outcome.closed = decoder.closed();
    outcome
}

/// The input for tungstenite, which also wants to write.
struct Pipe<'a>(&'a [u8]);

impl io::Read for Pipe<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl io::Write for Pipe<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The binary payload, if tungstenite takes all of it as whole messages.
fn oracle(role: Role, bytes: &[u8]) -> Option<Vec<u8>> {
    let role = match role {
        Role::Client => protocol::Role::Client,
        Role::Server => protocol::Role::Server,
    };
    let config = WebSocketConfig::default()
        .max_frame_size(Some(1 << 20))
        .max_message_size(Some(1 << 24));
    let mut socket = WebSocket::from_raw_socket(Pipe(bytes), role, Some(config));
    let mut payload = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Binary(data)) => payload.extend_from_slice(&data),
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            Ok(_) => return None,
            // The end of the input.
            Err(tungstenite::Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )) => return Some(payload),
            Err(_) => return None,
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let [kind, cut, bytes @ ..] = input else {
        return;
    };
    let role = if kind & 1 == 0 {
        Role::Server
    } else {
        Role::Client
    };
    let whole = decode(role, bytes, usize::MAX);
    assert!(whole.payload.len() <= bytes.len());
    let pieces = decode(role, bytes, usize::from(*cut));
    assert_eq!(pieces.closed, whole.closed);
    assert_eq!(pieces.error, whole.error);
    // What was decoded of the piece with the error is lost, so only the front has to agree.
    assert!(
        pieces.payload.starts_with(&whole.payload) || whole.payload.starts_with(&pieces.payload)
    );
    if whole.error.is_none() && whole.closed.is_none() {
        assert_eq!(pieces.payload, whole.payload);
        if let Some(expected) = oracle(role, bytes) {
            // A message that is not whole yet is streamed here and held back there.
            assert!(whole.payload.starts_with(&expected));
        }
    }
});
