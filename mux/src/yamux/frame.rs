//! The 12-byte frame header, big-endian: version, type, flags, stream id, length.

use crate::error::Violation;

/// Bytes of a header.
pub(crate) const HEADER_LEN: usize = 12;

/// Announces a stream, or asks for a pong.
pub(crate) const SYN: u16 = 1;
/// Acknowledges a stream, or is a pong.
pub(crate) const ACK: u16 = 2;
/// The sender's side of the stream ends here.
pub(crate) const FIN: u16 = 4;
/// Both sides of the stream end at once.
pub(crate) const RST: u16 = 8;
const KNOWN: u16 = SYN | ACK | FIN | RST;

/// Type of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    WindowUpdate,
    Ping,
    GoAway,
}

/// A decoded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) flags: u16,
    pub(crate) id: u32,
    /// Payload bytes of data; credit of a window update, or its reset's code; a ping's value; a GoAway's code.
    pub(crate) len: u32,
}

impl Header {
    #[inline]
    pub(crate) fn new(kind: Kind, flags: u16, id: u32, len: u32) -> Self {
        Self {
            kind,
            flags,
            id,
            len,
        }
    }

    #[inline]
    pub(crate) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    #[inline]
    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let [f0, f1] = self.flags.to_be_bytes();
        let [i0, i1, i2, i3] = self.id.to_be_bytes();
        let [l0, l1, l2, l3] = self.len.to_be_bytes();
        [0, self.kind as u8, f0, f1, i0, i1, i2, i3, l0, l1, l2, l3]
    }

    /// Decodes, and refuses what no implementation sends: other versions and types, undefined flags, a session's
    /// frame with a stream's id or the reverse, a ping that is not exactly a request or a reply.
    #[inline]
    pub(crate) fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, Violation> {
        let [version, kind, f0, f1, i0, i1, i2, i3, l0, l1, l2, l3] = *bytes;
        if version != 0 {
            return Err(Violation::Version(version));
        }
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::WindowUpdate,
            2 => Kind::Ping,
            3 => Kind::GoAway,
            other => return Err(Violation::FrameType(other)),
        };
        let header = Self {
            kind,
            flags: u16::from_be_bytes([f0, f1]),
            id: u32::from_be_bytes([i0, i1, i2, i3]),
            len: u32::from_be_bytes([l0, l1, l2, l3]),
        };
        let meant = match kind {
            Kind::Data | Kind::WindowUpdate => header.flags & !KNOWN == 0,
            Kind::Ping => header.flags == SYN || header.flags == ACK,
            Kind::GoAway => header.flags == 0,
        };
        if !meant {
            return Err(Violation::Flags(header.flags));
        }
        let of_session = matches!(kind, Kind::Ping | Kind::GoAway);
        if of_session != (header.id == 0) {
            return Err(Violation::StreamId(header.id));
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_wire() {
        for kind in [Kind::Data, Kind::WindowUpdate] {
            for flags in 0..16 {
                let header = Header::new(kind, flags, 0x0102_0304, 0x000f_0e0d);
                assert_eq!(Header::decode(&header.encode()), Ok(header));
            }
        }
        let ping = Header::new(Kind::Ping, SYN, 0, 0xdead_beef);
        assert_eq!(
            ping.encode(),
            [0, 2, 0, 1, 0, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef]
        );
        assert_eq!(Header::decode(&ping.encode()), Ok(ping));
    }

    #[test]
    fn refuses_what_has_no_meaning() {
        let ok = Header::new(Kind::Data, SYN, 1, 5).encode();
        let with = |at: usize, value: u8| {
            let mut bytes = ok;
            bytes[at] = value;
            Header::decode(&bytes)
        };
        assert_eq!(with(0, 1), Err(Violation::Version(1)));
        assert_eq!(with(1, 4), Err(Violation::FrameType(4)));
        assert_eq!(with(2, 1), Err(Violation::Flags(0x0101)));
        assert_eq!(with(3, 16), Err(Violation::Flags(16)));
        assert_eq!(with(7, 0), Err(Violation::StreamId(0)));
        for flags in [0, SYN | ACK, FIN, RST] {
            let bytes = Header::new(Kind::Ping, flags, 0, 0).encode();
            assert_eq!(Header::decode(&bytes), Err(Violation::Flags(flags)));
        }
        let bytes = Header::new(Kind::Ping, SYN, 3, 0).encode();
        assert_eq!(Header::decode(&bytes), Err(Violation::StreamId(3)));
        let bytes = Header::new(Kind::GoAway, 0, 3, 0).encode();
        assert_eq!(Header::decode(&bytes), Err(Violation::StreamId(3)));
    }
}
