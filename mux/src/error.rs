//! What can go wrong, one enum per operation.

use barewire_base::Fault;

/// How a peer broke the protocol; each ends the session with GoAway code 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A header whose version is not 0.
    #[error("unknown version {0}")]
    Version(u8),
    /// A frame type above 3.
    #[error("unknown frame type {0}")]
    FrameType(u8),
    /// Flag bits that are not defined, or a combination that has no meaning for the frame type.
    #[error("flags {0:#06x} have no meaning here")]
    Flags(u16),
    /// A data frame longer than the largest window we ever grant.
    #[error("a frame of {0} bytes is longer than any window we give")]
    FrameTooLong(u32),
    /// Stream id 0 on a stream's frame, another id on a session's frame, or an id of the wrong parity or already used.
    #[error("stream id {0} is not valid here")]
    StreamId(u32),
    /// More payload than the credit we gave.
    #[error("stream {0} was sent more than its window allows")]
    WindowExceeded(u32),
    /// Credit that takes our send window past 2^32 - 1.
    #[error("the window of stream {0} was raised past its maximum")]
    WindowOverflow(u32),
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MuxError {
    /// The peer broke the protocol.
    #[error("yamux: {0}")]
    Protocol(Violation),
    /// The peer opens streams and resets them faster than is allowed.
    #[error("the peer aborts streams faster than is allowed")]
    AbortFlood,
    /// The peer causes more replies than it reads.
    #[error("the peer causes more replies than it reads")]
    ReplyFlood,
    /// The peer began a frame header and did not end it in time.
    #[error("the peer did not complete a frame header in time")]
    SlowHeader,
    /// Nothing was received for the keepalive's time although we asked.
    #[error("the peer has not answered a ping in time")]
    KeepaliveTimeout,
    /// The backend ended the session for a reason it does not tell apart.
    #[error("the muxer ended the session")]
    Backend,
}

impl MuxError {
    /// Who is to blame.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Protocol(_) | Self::AbortFlood | Self::ReplyFlood | Self::SlowHeader => {
                Fault::Peer
            }
            Self::KeepaliveTimeout => Fault::Network,
            Self::Backend => Fault::Peer,
        }
    }
}

/// Why a stream was not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// As many streams are open, or wait for the peer's acknowledgement, as is allowed;
    /// [`Event::CanOpen`](crate::Event::CanOpen) tells when to try again.
    #[error("too many streams are open or not acknowledged by the peer")]
    TooMany,
    /// All 2^31 stream ids of our side have been used.
    #[error("the connection has used all its stream ids")]
    IdsExhausted,
    /// The session is closed or closing.
    #[error("the session is closed")]
    Closed,
}

impl OpenError {
    /// Who is to blame.
    pub fn fault(&self) -> Fault {
        match self {
            Self::TooMany | Self::IdsExhausted => Fault::Limit,
            Self::Closed => Fault::Network,
        }
    }
}

/// Why bytes were not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The send buffer is full; [`Event::Writable`](crate::Event::Writable) tells when to try again.
    #[error("the stream's send buffer is full")]
    Full,
    /// `finish` was called before.
    #[error("the stream's send side is finished")]
    Finished,
    /// The stream was reset, by the peer with this code or by us.
    #[error("the stream was reset with code {0}")]
    Reset(u32),
    /// The stream is not known (any more).
    #[error("no such stream")]
    Unknown,
    /// The session is closed.
    #[error("the session is closed")]
    Closed,
}

impl WriteError {
    /// Who is to blame.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Full => Fault::Limit,
            Self::Finished | Self::Unknown => Fault::Local,
            Self::Reset(_) => Fault::Peer,
            Self::Closed => Fault::Network,
        }
    }
}
