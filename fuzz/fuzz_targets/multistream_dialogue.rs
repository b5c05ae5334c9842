//! multistream-select: a dialer and a listener with each other over a pipe that cuts as it likes,
//! and each of them against arbitrary bytes.
#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use barewire_base::{
    multistream::{Dialer, HEADER, Listener, MAX_PROPOSALS, NegotiationError, check_protocol},
    varint,
};
use bytes::{Buf, BytesMut};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    proposals: Vec<Id>,
    supported: Vec<Id>,
    trailer: Vec<u8>,
    cuts: Vec<u8>,
    raw: Vec<Raw>,
}

/// A protocol id: one of a few, so that both sides often share one, or any text.
#[derive(Arbitrary, Debug)]
enum Id {
    Known(u8),
    Any(String),
}

impl Id {
    fn text(&self) -> String {
        match self {
            Self::Known(number) => format!("/protocol/{}", number % 8),
            Self::Any(text) => text.clone(),
        }
    }
}

/// A piece of what a peer sends.
#[derive(Arbitrary, Debug)]
enum Raw {
    Header,
    NotAvailable,
    Line(Id),
    Bytes(Vec<u8>),
}

fuzz_target!(|input: Input| {
    let proposals: Vec<String> = input.proposals.iter().map(Id::text).collect();
    let supported: Vec<String> = input.supported.iter().map(Id::text).collect();
    dialogue(&input, &proposals, &supported);
    against_bytes(&raw_bytes(&input.raw), &proposals, &supported, &input.cuts);
});

fn raw_bytes(pieces: &[Raw]) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in pieces {
        match piece {
            Raw::Header => out.extend_from_slice(HEADER),
            Raw::NotAvailable => out.extend_from_slice(b"\x03na\n"),
            Raw::Line(id) => {
                let line = format!("{}\n", id.text());
                varint::encode(line.len() as u64, &mut out);
                out.extend_from_slice(line.as_bytes());
            }
            Raw::Bytes(bytes) => out.extend_from_slice(bytes),
        }
    }
    out
}

fn lookup(supported: &[String]) -> impl FnMut(&str) -> Option<Arc<str>> + '_ {
    |proposed| {
        supported
            .iter()
            .find(|id| *id == proposed)
            .map(|id| Arc::from(id.as_str()))
    }
}

/// Moves up to `cut` bytes from `wire` into `handle`; the rest stays on the wire.
fn feed(
    wire: &mut BytesMut,
    cut: usize,
    mut handle: impl FnMut(&[u8]) -> Result<usize, NegotiationError>,
) -> Result<(), NegotiationError> {
    let piece = &wire[..wire.len().min(cut)];
    let used = handle(piece)?;
    assert!(used <= piece.len());
    wire.advance(used);
    Ok(())
}

fn dialogue(input: &Input, proposals: &[String], supported: &[String]) {
    let valid: Vec<Arc<str>> = proposals
        .iter()
        .filter(|id| check_protocol(id).is_ok())
        .map(|id| Arc::from(id.as_str()))
        .collect();
    let expected = valid
        .iter()
        .position(|id| supported.iter().any(|own| **own == **id));
    let mut dialer = Dialer::new(proposals.iter().map(|id| Arc::from(id.as_str())).collect());
    let mut listener = Listener::new();
    let (mut to_listener, mut to_dialer) = (BytesMut::new(), BytesMut::new());
    let mut cuts = input.cuts.iter().map(|cut| usize::from(*cut).max(1));
    let mut next_cut = || cuts.next().unwrap_or(usize::MAX);
    let mut trailer_sent = false;
    let mut dialer_result = Ok(());
    let mut listener_result = Ok(());
    loop {
        let sent = dialer.poll_transmit(&mut to_listener);
        if dialer.outcome().is_some() && !trailer_sent {
            to_listener.extend_from_slice(&input.trailer);
            trailer_sent = true;
        }
        let before = (to_listener.len(), to_dialer.len());
        let mut lookup = lookup(supported);
        listener_result = listener_result.and_then(|()| {
            feed(&mut to_listener, next_cut(), |piece| {
                listener.handle_input(piece, &mut lookup)
            })
        });
        let answered = listener.poll_transmit(&mut to_dialer);
        dialer_result = dialer_result.and_then(|()| {
            feed(&mut to_dialer, next_cut(), |piece| {
                dialer.handle_input(piece)
            })
        });
        let moved = before != (to_listener.len(), to_dialer.len());
        if !sent && !answered && !moved {
            break;
        }
    }
    if valid.is_empty() {
        assert_eq!(dialer_result, Err(NegotiationError::InvalidProtocol));
        return;
    }
    match expected {
        Some(index) if index < MAX_PROPOSALS => {
            assert_eq!(dialer_result, Ok(()));
            assert_eq!(listener_result, Ok(()));
            assert_eq!(dialer.outcome(), valid.get(index));
            assert_eq!(listener.outcome(), valid.get(index));
            // Nothing behind the negotiation was swallowed.
            assert_eq!(to_listener, input.trailer);
            assert!(to_dialer.is_empty());
        }
        _ if valid.len() > MAX_PROPOSALS => {
            assert_eq!(listener_result, Err(NegotiationError::TooManyProposals));
            assert_eq!(dialer.outcome(), None);
        }
        _ => {
            assert_eq!(dialer_result, Err(NegotiationError::NoneAccepted));
            assert_eq!(listener.outcome(), None);
        }
    }
}

/// Whatever arrives, and however it is cut, the outcome is the same and consumption is exact.
fn against_bytes(raw: &[u8], proposals: &[String], supported: &[String], cuts: &[u8]) {
    assert_eq!(
        run_listener(raw, supported, &[]),
        run_listener(raw, supported, cuts)
    );
    assert_eq!(
        run_dialer(raw, proposals, &[]),
        run_dialer(raw, proposals, cuts)
    );
}

type Outcome = (Result<usize, NegotiationError>, Option<Arc<str>>);

fn run_listener(raw: &[u8], supported: &[String], cuts: &[u8]) -> Outcome {
    let mut listener = Listener::new();
    let mut lookup = lookup(supported);
    let mut out = BytesMut::new();
    let result = run(raw, cuts, |piece| {
        let used = listener.handle_input(piece, &mut lookup);
        listener.poll_transmit(&mut out);
        used
    });
    // A header, at most an answer of four bytes per proposal, and one echo.
    assert!(out.len() <= 20 + 4 * MAX_PROPOSALS + 1026);
    (result, listener.outcome().cloned())
}

fn run_dialer(raw: &[u8], proposals: &[String], cuts: &[u8]) -> Outcome {
    let mut dialer = Dialer::new(proposals.iter().map(|id| Arc::from(id.as_str())).collect());
    let mut out = BytesMut::new();
    dialer.poll_transmit(&mut out);
    // The dialer speaks only once the whole input is in, or fragmentation would decide whether an
    // answer came before its question.
    let result = run(raw, cuts, |piece| dialer.handle_input(piece));
    (result, dialer.outcome().cloned())
}

fn run(
    raw: &[u8],
    cuts: &[u8],
    mut handle: impl FnMut(&[u8]) -> Result<usize, NegotiationError>,
) -> Result<usize, NegotiationError> {
    let mut used = 0;
    let mut cuts = cuts.iter();
    while used < raw.len() {
        let cut = cuts
            .next()
            .map_or(usize::MAX, |cut| usize::from(*cut).max(1));
        let end = raw.len().min(used.saturating_add(cut));
        let taken = handle(&raw[used..end])?;
        assert!(taken <= end - used);
        used += taken;
        if used < end {
            // Decided: the rest is not its business.
            break;
        }
    }
    Ok(used)
}
