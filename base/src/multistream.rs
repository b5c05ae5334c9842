//! multistream-select 1.0: both roles as state machines that are fed bytes and hand out bytes.
//!
//! Reading is exact. A machine takes partial lines in, and stops right after the line that decides:
//! the bytes behind it belong to the protocol that was agreed on.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    Fault,
    varint::{self, VarintError},
};

/// Longest line in bytes, newline included, accepted and sent (go-libp2p's limit).
pub const MAX_LINE: usize = 1024;

/// Proposals a [`Listener`] answers before it gives up; js- and go-libp2p set none and rely on
/// their timers.
pub const MAX_PROPOSALS: usize = 100;

/// What both sides send first: the protocol's own id as a line.
pub const HEADER: &[u8] = b"\x13/multistream/1.0.0\n";

const NOT_AVAILABLE: &[u8] = b"\x03na\n";
const NOT_AVAILABLE_LINE: &[u8] = b"na";

/// Why a negotiation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NegotiationError {
    /// A protocol id that cannot be proposed: it must begin with `/`, hold no newline, and fit
    /// [`MAX_LINE`].
    #[error(
        "the protocol id must begin with '/', hold no newline and be shorter than {MAX_LINE} bytes"
    )]
    InvalidProtocol,
    /// The peer refused every protocol proposed.
    #[error("the peer speaks none of the proposed protocols")]
    NoneAccepted,
    /// The peer's first bytes are not the multistream-select 1.0 header.
    #[error("the peer does not speak multistream-select 1.0")]
    NotMultistream,
    /// The peer answered a proposal with neither its echo nor `na`.
    #[error("the peer answered a protocol proposal with something else")]
    UnexpectedAnswer,
    /// A line's length prefix is not a varint.
    #[error("a line's length is not a valid varint: {0}")]
    Prefix(#[from] VarintError),
    /// A line is longer than [`MAX_LINE`].
    #[error("a line of more than {MAX_LINE} bytes was announced")]
    LineTooLong,
    /// A line is empty or does not end in a newline.
    #[error("a line does not end in a newline")]
    NoNewline,
    /// A proposal is not UTF-8.
    #[error("a proposed protocol id is not UTF-8")]
    NotUtf8,
    /// The peer made more than [`MAX_PROPOSALS`] proposals.
    #[error("the peer proposed more than {MAX_PROPOSALS} protocols")]
    TooManyProposals,
}

impl NegotiationError {
    /// Who is to blame. That no protocol is shared ([`NoneAccepted`](Self::NoneAccepted)) counts
    /// as local: the peer may refuse whatever it likes.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::InvalidProtocol | Self::NoneAccepted => Fault::Local,
            Self::TooManyProposals => Fault::Limit,
            _ => Fault::Peer,
        }
    }
}

/// Whether `protocol` may be proposed or registered: it begins with `/` (rust-libp2p refuses
/// others), holds no newline, and its line fits [`MAX_LINE`].
///
/// # Errors
/// [`NegotiationError::InvalidProtocol`].
pub fn check_protocol(protocol: &str) -> Result<(), NegotiationError> {
    if protocol.starts_with('/') && protocol.len() < MAX_LINE && !protocol.contains('\n') {
        Ok(())
    } else {
        Err(NegotiationError::InvalidProtocol)
    }
}

/// Bytes an initiator may send at once when it proposes exactly one protocol: header and proposal.
/// The id must pass [`check_protocol`].
#[must_use]
pub fn optimistic_proposal(protocol: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER.len() + protocol.len() + 3);
    out.put_slice(HEADER);
    put_line(protocol, &mut out);
    out.freeze()
}

fn put_line(protocol: &str, out: &mut BytesMut) {
    let len = protocol.len() + 1;
    out.reserve(varint::encoded_len(len as u64) + len);
    varint::encode(len as u64, out);
    out.put_slice(protocol.as_bytes());
    out.put_u8(b'\n');
}

/// The initiator: proposes its protocols one after another until the peer echoes one.
#[derive(Debug)]
pub struct Dialer {
    protocols: Vec<Arc<str>>,
    /// The protocol whose answer is awaited.
    current: usize,
    header_sent: bool,
    proposal_due: bool,
    incoming: Incoming,
}

/// How far either role has come.
#[derive(Debug)]
enum State {
    Running,
    Agreed(Arc<str>),
    Failed(NegotiationError),
}

/// What either role reads: the header, then line after line until one decides.
#[derive(Debug)]
struct Incoming {
    header_read: usize,
    lines: LineReader,
    state: State,
}

impl Incoming {
    fn new(state: State) -> Self {
        Self {
            header_read: 0,
            lines: LineReader::default(),
            state,
        }
    }

    /// Hands each line of `input` to `decide` until the state it returns, or an error, is the end. Returns
    /// how many bytes that used; an error stays.
    fn read(
        &mut self,
        input: &[u8],
        mut decide: impl FnMut(&[u8]) -> Result<State, NegotiationError>,
    ) -> Result<usize, NegotiationError> {
        let mut used = 0;
        if matches!(self.state, State::Running) {
            match read_header(&mut self.header_read, input) {
                Ok(taken) => used = taken,
                Err(error) => self.state = State::Failed(error),
            }
        }
        loop {
            match self.state {
                State::Running => {}
                State::Agreed(_) => return Ok(used),
                State::Failed(error) => return Err(error),
            }
            match self.lines.read(&input[used..], &mut decide) {
                Ok((taken, None)) => return Ok(used + taken),
                Ok((taken, Some(state))) => {
                    used += taken;
                    self.state = state;
                }
                Err(error) => self.state = State::Failed(error),
            }
        }
    }

    const fn outcome(&self) -> Option<&Arc<str>> {
        match &self.state {
            State::Agreed(protocol) => Some(protocol),
            _ => None,
        }
    }
}

impl Dialer {
    /// Proposes `protocols` in this order, best first. Ids that [`check_protocol`] refuses are
    /// left out; with none left, the first call to [`handle_input`](Self::handle_input) says so.
    #[must_use]
    pub fn new(mut protocols: Vec<Arc<str>>) -> Self {
        protocols.retain(|protocol| check_protocol(protocol).is_ok());
        let state = if protocols.is_empty() {
            State::Failed(NegotiationError::InvalidProtocol)
        } else {
            State::Running
        };
        Self {
            protocols,
            current: 0,
            header_sent: false,
            proposal_due: true,
            incoming: Incoming::new(state),
        }
    }

    /// Proposes one protocol; after [`poll_transmit`](Self::poll_transmit) the application's own
    /// bytes may follow at once. When the peer refuses, those bytes are lost and the stream with
    /// them.
    #[must_use]
    pub fn optimistic(protocol: Arc<str>) -> Self {
        Self::new(vec![protocol])
    }

    /// A dialer of one protocol whose header and proposal the caller has already sent, from
    /// [`optimistic_proposal`]; only the answer is still to be read.
    #[must_use]
    pub fn proposed(protocol: Arc<str>) -> Self {
        let mut dialer = Self::new(vec![protocol]);
        dialer.header_sent = true;
        dialer.proposal_due = false;
        dialer
    }

    /// Takes the peer's bytes. Returns how many it used: all of them until the negotiation is
    /// decided, none after.
    ///
    /// # Errors
    /// [`NegotiationError`]; the machine has failed then and repeats the error.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<usize, NegotiationError> {
        self.incoming.read(input, |line| {
            let Some(proposed) = self.protocols.get(self.current) else {
                return Err(NegotiationError::UnexpectedAnswer);
            };
            if self.proposal_due {
                // An answer to a proposal that was not made.
                return Err(NegotiationError::UnexpectedAnswer);
            }
            if line == proposed.as_bytes() {
                return Ok(State::Agreed(proposed.clone()));
            }
            if line != NOT_AVAILABLE_LINE {
                return Err(NegotiationError::UnexpectedAnswer);
            }
            self.current += 1;
            if self.current == self.protocols.len() {
                return Err(NegotiationError::NoneAccepted);
            }
            self.proposal_due = true;
            Ok(State::Running)
        })
    }

    /// Appends what is to be sent now and says whether it appended anything. The header goes out
    /// together with the first proposal, without waiting for the peer's.
    pub fn poll_transmit(&mut self, out: &mut BytesMut) -> bool {
        if !matches!(self.incoming.state, State::Running) || !self.proposal_due {
            return false;
        }
        let Some(protocol) = self.protocols.get(self.current) else {
            return false;
        };
        if !self.header_sent {
            self.header_sent = true;
            out.reserve(HEADER.len() + protocol.len() + 3);
            out.put_slice(HEADER);
        }
        put_line(protocol, out);
        self.proposal_due = false;
        true
    }

    /// The protocol both agreed on, once the peer has echoed it.
    #[must_use]
    pub const fn outcome(&self) -> Option<&Arc<str>> {
        self.incoming.outcome()
    }
}

/// The responder: answers proposals until it supports one.
#[derive(Debug)]
pub struct Listener {
    header_sent: bool,
    proposals: usize,
    refusals_due: usize,
    echo_due: bool,
    incoming: Incoming,
}

impl Default for Listener {
    fn default() -> Self {
        Self::new()
    }
}

impl Listener {
    /// A responder that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            header_sent: false,
            proposals: 0,
            refusals_due: 0,
            echo_due: false,
            incoming: Incoming::new(State::Running),
        }
    }

    /// Takes the peer's bytes and asks `supported` for each id it proposes. Returns how many bytes
    /// it used: all of them until a proposal was accepted, none after, and exactly up to the end
    /// of the accepted one in between.
    ///
    /// `ls` and ids nobody supports are answered `na`.
    ///
    /// # Errors
    /// [`NegotiationError`]; the machine has failed then and repeats the error.
    pub fn handle_input(
        &mut self,
        input: &[u8],
        supported: &mut dyn FnMut(&str) -> Option<Arc<str>>,
    ) -> Result<usize, NegotiationError> {
        self.incoming.read(input, |line| {
            self.proposals += 1;
            if self.proposals > MAX_PROPOSALS {
                return Err(NegotiationError::TooManyProposals);
            }
            let proposal = std::str::from_utf8(line).map_err(|_| NegotiationError::NotUtf8)?;
            // Only ids with a leading slash are protocols; `ls` and other words are not.
            let accepted = if proposal.starts_with('/') {
                supported(proposal)
            } else {
                None
            };
            match accepted {
                Some(protocol) => {
                    self.echo_due = true;
                    Ok(State::Agreed(protocol))
                }
                None => {
                    self.refusals_due += 1;
                    Ok(State::Running)
                }
            }
        })
    }

    /// Appends what is to be sent now and says whether it appended anything. The header is due
    /// from the start; called after the first input, it goes out together with the answer.
    ///
    /// A failed machine still has the refusals it owes: a peer that sent its own bytes right behind
    /// a proposal learns from them that the proposal was refused, not just that something failed.
    pub fn poll_transmit(&mut self, out: &mut BytesMut) -> bool {
        if matches!(self.incoming.state, State::Failed(_)) && self.refusals_due == 0 {
            return false;
        }
        let before = out.len();
        if !self.header_sent {
            self.header_sent = true;
            out.put_slice(HEADER);
        }
        for _ in 0..std::mem::take(&mut self.refusals_due) {
            out.put_slice(NOT_AVAILABLE);
        }
        if let State::Agreed(protocol) = &self.incoming.state
            && std::mem::take(&mut self.echo_due)
        {
            put_line(protocol, out);
        }
        out.len() > before
    }

    /// The protocol accepted. Its echo may still have to be fetched by
    /// [`poll_transmit`](Self::poll_transmit).
    #[must_use]
    pub const fn outcome(&self) -> Option<&Arc<str>> {
        self.incoming.outcome()
    }
}

/// Compares the front of `input` with what is left of the header and returns the bytes it took. The
/// first wrong byte ends the negotiation, so that a TLS or HTTP client is told apart at once.
fn read_header(read: &mut usize, input: &[u8]) -> Result<usize, NegotiationError> {
    let expected = HEADER.get(*read..).unwrap_or_default();
    let len = expected.len().min(input.len());
    if input[..len] != expected[..len] {
        return Err(NegotiationError::NotMultistream);
    }
    *read += len;
    Ok(len)
}

/// Cuts lines out of the input; allocates only when a line arrives in pieces.
#[derive(Debug, Default)]
struct LineReader {
    partial: Vec<u8>,
}

impl LineReader {
    /// Reads at most one line off the front of `input` and hands it, without newline, to `handle`.
    /// Returns the bytes used, and what `handle` returned if there was a whole line.
    fn read<T>(
        &mut self,
        input: &[u8],
        handle: impl FnOnce(&[u8]) -> Result<T, NegotiationError>,
    ) -> Result<(usize, Option<T>), NegotiationError> {
        if self.partial.is_empty() {
            return match whole_line(input)? {
                Some((line, used)) => Ok((used, Some(handle(line)?))),
                None => {
                    self.partial.extend_from_slice(input);
                    Ok((input.len(), None))
                }
            };
        }
        let had = self.partial.len();
        // Complete the length first, then the line: never take a byte of what follows it.
        let mut used = 0;
        let total = loop {
            match line_len(&self.partial)? {
                Some(total) => break total,
                None => match input.get(used) {
                    Some(&byte) => {
                        self.partial.push(byte);
                        used += 1;
                    }
                    None => return Ok((used, None)),
                },
            }
        };
        let missing = total.saturating_sub(had + used);
        let available = &input[used..];
        let take = missing.min(available.len());
        self.partial.extend_from_slice(&available[..take]);
        used += take;
        match whole_line(&self.partial)? {
            Some((line, _)) => {
                let outcome = handle(line)?;
                self.partial.clear();
                Ok((used, Some(outcome)))
            }
            None => Ok((used, None)),
        }
    }
}

/// Bytes of the line at the front of `input`, prefix included, once the prefix is complete.
fn line_len(input: &[u8]) -> Result<Option<usize>, NegotiationError> {
    // MAX_LINE fits two bytes: a third cannot make a line that is accepted.
    let (len, prefix) = match varint::decode(&input[..input.len().min(2)])? {
        Some(prefix) => prefix,
        None if input.len() >= 2 => return Err(NegotiationError::LineTooLong),
        None => return Ok(None),
    };
    match usize::try_from(len) {
        Ok(0) => Err(NegotiationError::NoNewline),
        Ok(len) if len <= MAX_LINE => Ok(Some(prefix + len)),
        _ => Err(NegotiationError::LineTooLong),
    }
}

/// The line at the front of `input` without its newline, and the bytes it takes in all.
fn whole_line(input: &[u8]) -> Result<Option<(&[u8], usize)>, NegotiationError> {
    let Some(total) = line_len(input)? else {
        return Ok(None);
    };
    let Some(line) = input.get(..total) else {
        return Ok(None);
    };
    let prefix = if line[0] & 0x80 == 0 { 1 } else { 2 };
    match line[prefix..].split_last() {
        Some((b'\n', text)) => Ok(Some((text, total))),
        _ => Err(NegotiationError::NoNewline),
    }
}

#[cfg(test)]
mod tests;
