//! What other implementations accept in one RPC.

/// What a peer accepts in one RPC. Implementations differ; the driver knows them by the agent version of identify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerLimits {
    /// Bytes of an RPC, at most; a message that does not fit cannot be sent. A peer of version 1.3 may announce more.
    pub max_rpc: usize,
    /// Bytes up to which several messages are packed into an RPC.
    pub pack: usize,
    /// Bytes of subscriptions and control entries in an RPC.
    pub max_control: usize,
    /// Messages in an RPC.
    pub max_messages: usize,
}

impl PeerLimits {
    /// A peer of which nothing is known: as careful as the strictest needs, except that messages up to go's 1 MiB are tried.
    pub const UNKNOWN: Self = Self {
        max_rpc: 1 << 20,
        pack: 56 << 10,
        max_control: 16 << 10,
        max_messages: 500,
    };
    /// go: 1 MiB the frame, whatever is in it. Packed up to 128 KiB, so that control does not wait behind a long frame.
    pub const GO: Self = Self {
        max_rpc: 1 << 20,
        pack: 128 << 10,
        max_control: 1 << 20,
        max_messages: 5_000,
    };
    /// rust with its defaults: 65,536 bytes of its read buffer, of which up to 8 KiB belong to the next frame; 16 KiB of control
    /// and subscriptions; 500 messages.
    pub const RUST: Self = Self {
        max_rpc: 56 << 10,
        pack: 56 << 10,
        max_control: 16 << 10,
        max_messages: 500,
    };
    /// js: 4 MiB the frame, counts of 5,000, of which ids are the ones to exceed: 5,000 of the shortest take 15 KB.
    pub const JS: Self = Self {
        max_rpc: 4 << 20,
        pack: 128 << 10,
        max_control: 64 << 10,
        max_messages: 5_000,
    };

    /// Limits of a peer that accepts RPCs of `max_rpc` bytes with anything in them, as barewire does.
    #[must_use]
    pub const fn uniform(max_rpc: usize) -> Self {
        Self {
            max_rpc,
            pack: 128 << 10,
            max_control: 1 << 20,
            max_messages: 5_000,
        }
    }
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self::UNKNOWN
    }
}
