/// Who caused a failure, so that an owner can decide whether to blame, retry or report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The caller asked for something impossible or misused the interface.
    Local,
    /// The remote peer broke the protocol or sent something it must not send.
    Peer,
    /// The path between both ended or stalled; neither side is to blame.
    Network,
    /// A configured bound was reached; the same request may succeed later.
    Limit,
}
