//! Why a connection ended: who ended it, and for what.

use std::{fmt, io};

use barewire_base::Fault;
use barewire_mux::MuxError;
use barewire_security::{Alert, OpenError, SealError};

use crate::ws::FrameError;

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Party {
    /// This side.
    Us,
    /// The remote.
    Remote,
    /// Neither: what lies between them.
    Network,
}

impl Party {
    /// One word: `us`, `remote` or `network`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Us => "us",
            Self::Remote => "remote",
            Self::Network => "network",
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why this side closed a connection although nothing was wrong with it.
///
/// A plain code is one too: `connection.close(0)`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocalReason {
    /// [`Connection::close`](crate::Connection::close) was called with this code.
    #[error("with code {0:#x}")]
    Code(u32),
    /// The last handle, stream and acceptor of the connection were dropped.
    #[error("because nobody holds it any more")]
    Dropped,
    /// No lease was held for the idle timeout.
    #[error("because it was idle")]
    Idle,
    /// There were too many connections and this one was worth the least.
    #[error("to make room for others")]
    Trimmed,
    /// The named limit is reached.
    #[error("because a limit is reached: {0}")]
    Limit(&'static str),
    /// The gater refused the peer.
    #[error("because the gater refused it: {0}")]
    Gated(&'static str),
    /// Another connection to the same peer is kept.
    #[error("in favour of another connection to the peer")]
    Superseded,
    /// This node shuts down.
    #[error("because this node shuts down")]
    Shutdown,
    /// The peer left too many pings in a row unanswered.
    #[error("because the peer answered no ping")]
    PingFailed,
}

impl LocalReason {
    /// The code the remote is told, as a yamux go-away or a QUIC application close: those of
    /// go-libp2p. Idle and trimmed connections, and those that answer no ping, are "garbage
    /// collected".
    #[must_use]
    pub fn code(&self) -> u32 {
        match self {
            Self::Code(code) => *code,
            Self::Dropped => 0,
            Self::Limit(_) => 0x1001,
            Self::Superseded => 0x1004,
            Self::Idle | Self::Trimmed | Self::PingFailed => 0x1005,
            Self::Shutdown => 0x1006,
            Self::Gated(_) => 0x1007,
        }
    }

    /// A short name from a fixed set, for counters.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Code(_) => "closed",
            Self::Dropped => "dropped",
            Self::Idle => "idle",
            Self::Trimmed => "trimmed",
            Self::Limit(limit) => limit,
            Self::Gated(_) => "gated",
            Self::Superseded => "superseded",
            Self::Shutdown => "shutdown",
            Self::PingFailed => "ping failed",
        }
    }
}

impl From<u32> for LocalReason {
    fn from(code: u32) -> Self {
        Self::Code(code)
    }
}

/// Name of a connection close code in go-libp2p's table.
fn code_name(code: u32) -> Option<&'static str> {
    Some(match code {
        0 => "normal",
        1 => "protocol error",
        2 => "internal error",
        0x1000 => "protocol negotiation failed",
        0x1001 => "resource limit",
        0x1002 => "rate limited",
        0x1003 => "protocol violation",
        0x1004 => "supplanted",
        0x1005 => "garbage collected",
        0x1006 => "shutdown",
        0x1007 => "gated",
        0x1008 => "code out of range",
        _ => return None,
    })
}

/// A code with its name.
fn named(code: u32) -> String {
    match code_name(code) {
        Some(name) => format!("{code:#x} ({name})"),
        None => format!("{code:#x}"),
    }
}

/// Why a connection ended. The first cause wins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// This side closed it.
    #[error("closed by this side {0}")]
    Local(LocalReason),
    /// The remote said goodbye with this code: a yamux go-away or a QUIC application close.
    #[error("closed by the remote with code {}", named(*.0))]
    Remote(u32),
    /// The remote ended the byte stream without a goodbye.
    #[error("the remote ended the connection")]
    RemoteEnded,
    /// The connection was reset. go-libp2p closes its sockets this way, so it may be an ordinary
    /// end.
    #[error("the remote reset the connection")]
    RemoteReset,
    /// The remote did not answer keepalive pings.
    #[error("the remote did not answer in time")]
    KeepaliveTimeout,
    /// The socket accepted no byte for the write-stall limit.
    #[error("the remote read nothing for too long")]
    WriteStalled,
    /// The remote broke the muxer protocol.
    #[error("the remote broke the muxer protocol: {0}")]
    Muxer(MuxError),
    /// A record failed to open.
    #[error("a record from the remote is damaged: {0}")]
    Record(OpenError),
    /// The remote ended the secure channel with this alert of TLS. On the side that dialled it may be
    /// the refusal of its certificate: over TLS it has its connection before the remote has verified
    /// that.
    #[error("{0}")]
    Alert(Alert),
    /// The remote changed its keys more often than 32 times in a second.
    #[error("the remote floods with changes of keys")]
    KeyUpdateFlood,
    /// The remote sent more empty records per second than allowed.
    #[error("the remote floods with empty records")]
    EmptyRecordFlood,
    /// A record could not be sealed: the channel has used up its nonces.
    #[error("this channel can send no more: {0}")]
    Seal(SealError),
    /// The remote broke the WebSocket framing, or closed it with an error.
    #[error("{0}")]
    Frame(FrameError),
    /// The remote ended the QUIC connection with this transport error (RFC 9000, 20.1).
    #[error("the remote ended the connection with QUIC error {0:#x}")]
    QuicRemote(u64),
    /// The remote broke QUIC; the connection was ended with this transport error.
    #[error("the remote broke QUIC (error {0:#x})")]
    Quic(u64),
    /// The socket failed.
    #[error("the socket failed: {0}")]
    Io(io::ErrorKind),
}

impl CloseReason {
    /// Who is at fault.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Local(LocalReason::Limit(_)) => Fault::Limit,
            Self::Local(LocalReason::PingFailed) => Fault::Network,
            Self::Local(_) | Self::Seal(_) => Fault::Local,
            Self::Io(_) | Self::KeepaliveTimeout => Fault::Network,
            _ => Fault::Peer,
        }
    }

    /// Who ended the connection. A remote that breaks the protocol is at [`fault`](Self::fault),
    /// but it is this side that ends the connection.
    #[must_use]
    pub fn who(&self) -> Party {
        match self {
            Self::Frame(FrameError::ClosedWith(_))
            | Self::Remote(_)
            | Self::RemoteEnded
            | Self::RemoteReset
            | Self::QuicRemote(_)
            | Self::Alert(_) => Party::Remote,
            Self::KeepaliveTimeout | Self::Io(_) => Party::Network,
            _ => Party::Us,
        }
    }

    /// A short name from a fixed set, for counters. The whole story is the text of the reason.
    #[must_use]
    pub fn why(&self) -> &'static str {
        match self {
            Self::Local(reason) => reason.name(),
            Self::Remote(code) => code_name(*code).unwrap_or("other code"),
            Self::RemoteEnded => "ended",
            Self::Alert(_) => "alert",
            Self::KeyUpdateFlood => "key update flood",
            Self::RemoteReset => "reset",
            Self::KeepaliveTimeout => "timeout",
            Self::WriteStalled => "write stall",
            Self::Frame(FrameError::ClosedWith(_)) => "websocket closed",
            Self::Muxer(_) | Self::Record(_) | Self::Quic(_) | Self::Frame(_) => {
                "protocol violation"
            }
            Self::QuicRemote(_) => "QUIC error",
            Self::EmptyRecordFlood => "empty record flood",
            Self::Seal(_) => "nonces used up",
            Self::Io(_) => "socket failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_says_who_and_why() {
        let idle = CloseReason::Local(LocalReason::Idle);
        assert_eq!((idle.who(), idle.why()), (Party::Us, "idle"));
        assert_eq!(idle.to_string(), "closed by this side because it was idle");
        let remote = CloseReason::Remote(0x1005);
        assert_eq!(
            (remote.who(), remote.why()),
            (Party::Remote, "garbage collected")
        );
        assert_eq!(
            remote.to_string(),
            "closed by the remote with code 0x1005 (garbage collected)"
        );
        assert_eq!(CloseReason::Remote(77).why(), "other code");
        assert_eq!(
            CloseReason::Local(LocalReason::Limit("x")).fault(),
            Fault::Limit
        );
        assert_eq!(LocalReason::from(7).code(), 7);
        let limit = CloseReason::Local(LocalReason::Limit("open files"));
        assert_eq!((limit.who(), limit.why()), (Party::Us, "open files"));
    }
}
