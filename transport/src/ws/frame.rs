//! WebSocket frames (RFC 6455 section 5) as a carrier of bytes: no I/O, no clock, no randomness.
//!
//! libp2p gives message boundaries no meaning, so nothing is ever collected: [`Decoder::decode`]
//! unmasks payload where it was read and closes the gaps that headers leave. The WebSocket
//! libraries hand out whole messages or whole frames, for which they reserve the announced length
//! (`bench/benches/websocket.rs` measures it); a peer may send frames of many MiB, so that is not an
//! option here.

use std::{
    str,
    time::{Duration, Instant},
};

use barewire_base::Fault;
use barewire_mux::Role;

/// Longest header: two bytes, a length of eight, a mask of four.
pub const MAX_HEADER: usize = 14;
/// Longest payload of a control frame.
pub const MAX_CONTROL: usize = 125;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const RESERVED: u8 = 0x70;
/// Bytes copied and masked at a time, so that the second step finds them in the first-level cache.
const PIECE: usize = 8 * 1024;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// More of the message that was begun.
    Continuation = 0,
    /// A message of text, which libp2p does not use.
    Text = 1,
    /// A message of bytes.
    Binary = 2,
    /// The last frame of its sender.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

impl Opcode {
    fn of(byte: u8) -> Result<Self, FrameError> {
        Ok(match byte & 0x0f {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            other => return Err(FrameError::UnknownOpcode(other)),
        })
    }

    fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// How a peer broke the framing, or that it closed with an error. Each ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A reserved bit is set; compression, which would use the first, is never agreed on.
    #[error("a WebSocket frame has reserved bits set")]
    ReservedBits,
    /// An opcode the specification does not define.
    #[error("a WebSocket frame has the unknown opcode {0}")]
    UnknownOpcode(u8),
    /// A text message; libp2p sends binary ones only.
    #[error("a WebSocket text message was sent where only binary ones are taken")]
    Text,
    /// A client has to mask.
    #[error("a WebSocket client sent an unmasked frame")]
    Unmasked,
    /// A server must not mask.
    #[error("a WebSocket server sent a masked frame")]
    Masked,
    /// A control frame without FIN.
    #[error("a WebSocket control frame is fragmented")]
    FragmentedControl,
    /// A control frame with more than [`MAX_CONTROL`] bytes.
    #[error("a WebSocket control frame is longer than {MAX_CONTROL} bytes")]
    LongControl,
    /// A continuation where no message was begun.
    #[error("a WebSocket continuation frame continues nothing")]
    NothingToContinue,
    /// A new message inside another.
    #[error("a WebSocket message begins inside another")]
    Interleaved,
    /// A length in a longer form than needed, or with its highest bit set.
    #[error("the length of a WebSocket frame is not in its shortest form")]
    BadLength,
    /// A frame longer than the limit.
    #[error("a WebSocket frame of {0} bytes is longer than the limit")]
    TooLong(u64),
    /// A close frame with one byte, or a code that must not be sent.
    #[error("a WebSocket close frame is malformed")]
    BadClose,
    /// A close reason that is not UTF-8.
    #[error("the reason in a WebSocket close frame is not UTF-8")]
    BadReason,
    /// More empty and control frames in a second than the limit.
    #[error("the remote floods with empty or control WebSocket frames")]
    Flood,
    /// The remote closed with this code, which is none of an orderly end.
    #[error("the remote closed the WebSocket with code {0}")]
    ClosedWith(u16),
}

impl FrameError {
    /// Close code to answer with (RFC 6455 section 7.4.1).
    #[must_use]
    pub fn close_code(&self) -> u16 {
        match self {
            Self::Text => 1003,
            Self::BadReason => 1007,
            Self::Flood => 1008,
            Self::TooLong(_) => 1009,
            Self::ClosedWith(code) => *code,
            _ => 1002,
        }
    }

    /// Always [`Fault::Peer`].
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Peer
    }
}

/// What a [`Decoder`] tolerates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest payload of one frame, in bytes.
    pub max_frame: u64,
    /// Frames that carry no data (empty or control frames) in a second.
    pub max_idle_frames_per_second: u32,
}

/// The payload of a control frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Control {
    bytes: [u8; MAX_CONTROL],
    len: u8,
}

impl Control {
    const EMPTY: Self = Self {
        bytes: [0; MAX_CONTROL],
        len: 0,
    };

    /// The payload of a close frame with `code` and no reason.
    #[must_use]
    pub fn close(code: u16) -> Self {
        let mut control = Self::EMPTY;
        control.push(&code.to_be_bytes());
        control
    }

    /// The payload.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn push(&mut self, bytes: &[u8]) {
        let start = usize::from(self.len);
        if let Some(room) = self.bytes.get_mut(start..start + bytes.len()) {
            room.copy_from_slice(bytes);
            self.len += bytes.len() as u8;
        }
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Control").field(&self.as_slice()).finish()
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    Header,
    Data { left: u64 },
    Control { opcode: Opcode, left: usize },
}

/// The receiving side of one WebSocket.
#[derive(Debug)]
pub struct Decoder {
    /// Role of this side; a server demands masks, a client refuses them.
    role: Role,
    limits: Limits,
    state: State,
    header: [u8; MAX_HEADER],
    header_len: usize,
    /// Mask of the current frame, turned so that its first byte is the next to use.
    mask: [u8; 4],
    /// A message has begun whose last frame has not.
    in_message: bool,
    control: Control,
    pong: Option<Control>,
    closed: Option<u16>,
    second: Option<Instant>,
    idle_frames: u32,
    /// Payload length of the frame before or at the present position.
    last_frame: u64,
    moved: u64,
}

/// A close frame without a code.
pub const NO_CODE: u16 = 1005;

impl Decoder {
    /// `role` is that of this side.
    #[must_use]
    pub fn new(role: Role, limits: Limits) -> Self {
        Self {
            role,
            limits,
            state: State::Header,
            header: [0; MAX_HEADER],
            header_len: 0,
            mask: [0; 4],
            in_message: false,
            control: Control::EMPTY,
            pong: None,
            closed: None,
            second: None,
            idle_frames: 0,
            last_frame: 0,
            moved: 0,
        }
    }

    /// Takes all of `buf`, and returns how many payload bytes now lie at its front.
    ///
    /// After a close frame the rest is ignored; [`closed`](Self::closed) tells of it.
    ///
    /// # Errors
    /// Any error is final. What it has decoded of `buf` until then is lost.
    pub fn decode(&mut self, now: Instant, buf: &mut [u8]) -> Result<usize, FrameError> {
        let (mut at, mut kept) = (0, 0);
        while at < buf.len() && self.closed.is_none() {
            let available = buf.len() - at;
            match self.state {
                State::Header => at += self.read_header(now, &buf[at..])?,
                State::Data { left } => {
                    let n = usize::try_from(left).map_or(available, |left| left.min(available));
                    if at != kept {
                        buf.copy_within(at..at + n, kept);
                        self.moved += n as u64;
                    }
                    self.unmask(&mut buf[kept..kept + n]);
                    at += n;
                    kept += n;
                    let left = left - n as u64;
                    self.state = match left {
                        0 => State::Header,
                        left => State::Data { left },
                    };
                }
                State::Control { opcode, left } => {
                    let n = left.min(available);
                    let payload = &mut buf[at..at + n];
                    self.unmask(payload);
                    self.control.push(payload);
                    at += n;
                    self.state = State::Control {
                        opcode,
                        left: left - n,
                    };
                    if left == n {
                        self.end_control(opcode)?;
                    }
                }
            }
        }
        Ok(kept)
    }

    /// The ping that is to be answered: the last one, however many came.
    pub fn take_pong(&mut self) -> Option<Control> {
        self.pong.take()
    }

    /// The code of the remote's close frame, [`NO_CODE`] when it has none.
    #[must_use]
    pub fn closed(&self) -> Option<u16> {
        self.closed
    }

    /// Payload bytes that were moved within a buffer to close the gaps of headers.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// How many bytes to read at most so that a long frame's payload begins and ends a read and
    /// needs not be moved. Short frames are read together: there a move costs less than a read.
    #[must_use]
    pub fn read_limit(&self, long: u64) -> u64 {
        match self.state {
            _ if self.last_frame < long => u64::MAX,
            State::Data { left } => left,
            State::Header | State::Control { .. } => MAX_HEADER as u64,
        }
    }

    fn unmask(&mut self, payload: &mut [u8]) {
        if self.role == Role::Server {
            apply_mask(payload, self.mask);
            self.mask.rotate_left(payload.len() % 4);
        }
    }

    /// Takes header bytes from `input`, and begins the frame when the header is whole.
    fn read_header(&mut self, now: Instant, input: &[u8]) -> Result<usize, FrameError> {
        let mut taken = 0;
        loop {
            let needed = match self.header_len {
                0 | 1 => 2,
                _ => header_len(self.header[1]),
            };
            if self.header_len == needed {
                self.header_len = 0;
                self.begin_frame(now)?;
                return Ok(taken);
            }
            let n = (needed - self.header_len).min(input.len() - taken);
            self.header[self.header_len..self.header_len + n]
                .copy_from_slice(&input[taken..taken + n]);
            self.header_len += n;
            taken += n;
            if self.header_len < needed {
                return Ok(taken);
            }
            if needed == 2 {
                self.check_start()?;
            }
        }
    }

    /// Refuses by the first two bytes what no further byte can mend.
    fn check_start(&self) -> Result<(), FrameError> {
        let [first, second, ..] = self.header;
        if first & RESERVED != 0 {
            return Err(FrameError::ReservedBits);
        }
        let opcode = Opcode::of(first)?;
        match (self.role, second & MASKED != 0) {
            (Role::Server, false) => return Err(FrameError::Unmasked),
            (Role::Client, true) => return Err(FrameError::Masked),
            _ => {}
        }
        match opcode {
            Opcode::Text => Err(FrameError::Text),
            Opcode::Continuation if !self.in_message => Err(FrameError::NothingToContinue),
            Opcode::Binary if self.in_message => Err(FrameError::Interleaved),
            opcode if opcode.is_control() && first & FIN == 0 => Err(FrameError::FragmentedControl),
            opcode if opcode.is_control() && usize::from(second & !MASKED) > MAX_CONTROL => {
                Err(FrameError::LongControl)
            }
            _ => Ok(()),
        }
    }

    fn begin_frame(&mut self, now: Instant) -> Result<(), FrameError> {
        let [first, second, rest @ ..] = self.header;
        let (len, mask_at) = match second & !MASKED {
            126 => (u64::from(u16::from_be_bytes([rest[0], rest[1]])), 2),
            127 => {
                let mut len = [0; 8];
                len.copy_from_slice(&rest[..8]);
                (u64::from_be_bytes(len), 8)
            }
            short => (u64::from(short), 0),
        };
        let shortest = match len {
            0..126 => 0,
            126..65_536 => 2,
            _ => 8,
        };
        if mask_at != shortest || len >> 63 != 0 {
            return Err(FrameError::BadLength);
        }
        if len > self.limits.max_frame {
            return Err(FrameError::TooLong(len));
        }
        self.mask.copy_from_slice(&rest[mask_at..mask_at + 4]);
        let opcode = Opcode::of(first)?;
        if len == 0 || opcode.is_control() {
            self.count_idle(now)?;
        }
        if opcode.is_control() {
            self.control = Control::EMPTY;
            let left = len as usize;
            self.state = State::Control { opcode, left };
            return match left {
                0 => self.end_control(opcode),
                _ => Ok(()),
            };
        }
        self.last_frame = len;
        self.in_message = first & FIN == 0;
        if len > 0 {
            self.state = State::Data { left: len };
        }
        Ok(())
    }

    fn count_idle(&mut self, now: Instant) -> Result<(), FrameError> {
        match self.second {
            Some(start) if now.saturating_duration_since(start) < Duration::from_secs(1) => {
                self.idle_frames += 1;
            }
            _ => {
                self.second = Some(now);
                self.idle_frames = 1;
            }
        }
        if self.idle_frames > self.limits.max_idle_frames_per_second {
            return Err(FrameError::Flood);
        }
        Ok(())
    }

    fn end_control(&mut self, opcode: Opcode) -> Result<(), FrameError> {
        self.state = State::Header;
        match opcode {
            Opcode::Ping => self.pong = Some(self.control),
            Opcode::Close => self.closed = Some(close_code(self.control.as_slice())?),
            // A pong needs no pong, whether it was asked for or not.
            _ => {}
        }
        Ok(())
    }
}

fn close_code(payload: &[u8]) -> Result<u16, FrameError> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok(NO_CODE),
            _ => Err(FrameError::BadClose),
        };
    };
    let code = u16::from_be_bytes(*code);
    // RFC 6455 section 7.4, and the codes registered since.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(FrameError::BadClose);
    }
    str::from_utf8(reason).map_err(|_| FrameError::BadReason)?;
    Ok(code)
}

/// Bytes of a header by its second byte.
fn header_len(second: u8) -> usize {
    let length = match second & !MASKED {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + length + if second & MASKED == 0 { 0 } else { 4 }
}

/// The header of a frame to send.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    bytes: [u8; MAX_HEADER],
    len: u8,
}

impl Header {
    /// The header of an unfragmented frame. A client gives a fresh random `mask`, a server none.
    #[must_use]
    pub fn new(opcode: Opcode, len: usize, mask: Option<[u8; 4]>) -> Self {
        let mut bytes = [0; MAX_HEADER];
        bytes[0] = FIN | opcode as u8;
        let at = match len {
            0..126 => {
                bytes[1] = len as u8;
                2
            }
            126..65_536 => {
                bytes[1] = 126;
                bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                4
            }
            _ => {
                bytes[1] = 127;
                bytes[2..10].copy_from_slice(&(len as u64).to_be_bytes());
                10
            }
        };
        let Some(mask) = mask else {
            return Self {
                bytes,
                len: at as u8,
            };
        };
        bytes[1] |= MASKED;
        bytes[at..at + 4].copy_from_slice(&mask);
        Self {
            bytes,
            len: at as u8 + 4,
        }
    }

    /// The bytes to send in front of the payload.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// Masks or unmasks `bytes`, which begin at a multiple of four bytes of the payload.
pub fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    let wide: [u8; 32] = std::array::from_fn(|i| mask[i % 4]);
    let mut chunks = bytes.chunks_exact_mut(32);
    for chunk in &mut chunks {
        for (byte, mask) in chunk.iter_mut().zip(wide) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(wide) {
        *byte ^= mask;
    }
}

/// Appends a masked copy of `bytes`.
pub fn push_masked(bytes: &[u8], mask: [u8; 4], to: &mut Vec<u8>) {
    to.reserve(bytes.len());
    for piece in bytes.chunks(PIECE) {
        let start = to.len();
        to.extend_from_slice(piece);
        apply_mask(&mut to[start..], mask);
    }
}

#[cfg(test)]
mod tests;
