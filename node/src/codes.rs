//! Codes this node puts on the wire when it ends streams and connections: those go-libp2p uses, so
//! that its logs name the cause. The two tables differ by one.

/// Stream reset: no room for it.
pub(crate) const STREAM_RESOURCE_LIMIT: u32 = 0x1002;
/// Stream reset: too often.
pub(crate) const STREAM_RATE_LIMITED: u32 = 0x1003;
/// Stream reset: the remote broke the protocol.
pub(crate) const STREAM_PROTOCOL_VIOLATION: u32 = 0x1004;
/// Stream reset: this node shuts down.
pub(crate) const STREAM_SHUTDOWN: u32 = 0x1007;

/// Connection close: an ordinary end.
pub(crate) const CONNECTION_NORMAL: u32 = 0;
